//! Which version of each page the log holds, so that patches are made against nothing else.
//!
//! Bounded: what is forgotten is logged as a full image next time. Sixteen shards,
//! each two generations of a map: when the young one is full it becomes the old one
//! and the old one goes, so forgetting costs nothing and what is used stays.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::types::{PageId, Position, SpaceId};

const SHARDS: usize = 16;
/// Truncations of a space that are remembered one by one.
const MAX_CUTS: usize = 64;

/// A version of a page that the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// CRC-32 of the image.
    pub crc: u32,
    /// Patches since the last full image.
    pub chain: u16,
    /// The commit that wrote it.
    pub at: Position,
}

/// Two generations of a map, with a bound on their weight.
#[derive(Debug)]
struct Generations<V> {
    young: HashMap<PageId, V>,
    old: HashMap<PageId, V>,
    weight: usize,
    bound: usize,
}

impl<V> Generations<V> {
    fn new(bound: usize) -> Generations<V> {
        Generations { young: HashMap::new(), old: HashMap::new(), weight: 0, bound: bound / 2 }
    }

    fn get(&mut self, page: PageId, weight: usize, dropped: &mut dyn FnMut(&V)) -> Option<&V> {
        if !self.young.contains_key(&page) {
            let value = self.old.remove(&page)?;
            self.insert(page, value, weight, dropped);
        }
        self.young.get(&page)
    }

    fn insert(&mut self, page: PageId, value: V, weight: usize, dropped: &mut dyn FnMut(&V)) {
        if self.weight + weight > self.bound {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.weight = 0;
            old.values().for_each(dropped);
        }
        self.old.remove(&page);
        if weight <= self.bound && self.young.insert(page, value).is_none() {
            self.weight += weight;
        }
    }

    fn remove(&mut self, page: PageId, weight: usize) {
        self.old.remove(&page);
        if self.young.remove(&page).is_some() {
            self.weight = self.weight.saturating_sub(weight);
        }
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.weight = 0;
    }
}

#[derive(Debug)]
struct Shard {
    versions: Generations<Version>,
    images: Generations<(Position, Box<[u8]>)>,
    /// The newest version forgotten for want of room.
    forgotten: Position,
}

/// The table of page versions.
#[derive(Debug)]
pub(crate) struct PageTable {
    shards: Vec<Mutex<Shard>>,
    /// Per space: after which commit, pages from which number on no longer are what they were.
    cuts: Mutex<HashMap<SpaceId, Vec<(Position, u64)>>>,
}

/// What the table knows of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// This version is the newest.
    Known(Version),
    /// Nothing newer than this position was written; what was before is forgotten.
    UnknownSince(Position),
}

impl PageTable {
    pub fn new(entries: usize, image_bytes: usize) -> PageTable {
        let shard = || {
            Mutex::new(Shard {
                versions: Generations::new(entries / SHARDS),
                images: Generations::new(image_bytes / SHARDS),
                forgotten: Position::ORIGIN,
            })
        };
        PageTable { shards: (0..SHARDS).map(|_| shard()).collect(), cuts: Mutex::default() }
    }

    fn with<T>(&self, page: PageId, f: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        // Neighbouring pages share a shard, so that a scan does not touch all of them at once.
        let index = (page.page / 64 + u64::from(page.space.get())) % SHARDS as u64;
        let shard = self.shards.get(usize::try_from(index).unwrap_or(0))?;
        Some(f(&mut shard.lock()))
    }

    /// The newest version of a page, as far as it is known.
    pub fn version(&self, page: PageId) -> Lookup {
        self.with(page, |shard| {
            let forgotten = &mut shard.forgotten;
            let found = shard.versions.get(page, 1, &mut |v| *forgotten = (*forgotten).max(v.at)).copied();
            let cut = self.newest_cut(page);
            match found {
                Some(version) if cut <= version.at => Lookup::Known(version),
                _ => Lookup::UnknownSince((*forgotten).max(cut)),
            }
        })
        .unwrap_or(Lookup::UnknownSince(Position::ORIGIN))
    }

    /// The image of a version, where it is still at hand.
    pub fn image(&self, page: PageId, at: Position) -> Option<Box<[u8]>> {
        self.with(page, |shard| {
            let weight = shard.images.young.get(&page).or(shard.images.old.get(&page))?.1.len();
            let (position, image) = shard.images.get(page, weight, &mut |_| {})?;
            (*position == at).then(|| image.clone())
        })?
    }

    /// Notes a version, with its image where the host may not give it next time.
    pub fn record(&self, page: PageId, version: Version, image: Option<Box<[u8]>>) {
        self.with(page, |shard| {
            let forgotten = &mut shard.forgotten;
            shard.versions.insert(page, version, 1, &mut |v| *forgotten = (*forgotten).max(v.at));
            if let Some(image) = image {
                let weight = image.len();
                shard.images.remove(page, weight);
                shard.images.insert(page, (version.at, image), weight, &mut |_| {});
            }
        });
    }

    /// Notes that a commit changed a page to something unknown.
    pub fn forget(&self, page: PageId, at: Position) {
        self.with(page, |shard| {
            shard.versions.remove(page, 1);
            shard.forgotten = shard.forgotten.max(at);
        });
    }

    /// Notes that a commit cut a space: pages from `first` on are gone.
    pub fn cut(&self, space: SpaceId, first: u64, at: Position) {
        let mut all = self.cuts.lock();
        let cuts = all.entry(space).or_default();
        // A cut makes every earlier one that reached no further down superfluous.
        cuts.retain(|(_, page)| *page < first);
        cuts.push((at, first));
        if cuts.len() > MAX_CUTS {
            let lowest = cuts.iter().map(|(_, page)| *page).min().unwrap_or(0);
            *cuts = vec![(at, lowest)];
        }
    }

    /// Forgets everything: the next version of each page is logged as a full image.
    pub fn clear(&self, at: Position) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.versions.clear();
            shard.images.clear();
            shard.forgotten = shard.forgotten.max(at);
        }
    }

    /// The newest commit that cut the page away; the origin where none did.
    fn newest_cut(&self, page: PageId) -> Position {
        let all = self.cuts.lock();
        let cuts = all.get(&page.space).into_iter().flatten();
        cuts.filter(|(_, first)| page.page >= *first).map(|(at, _)| *at).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u64) -> PageId {
        PageId::new(SpaceId::new(0), n)
    }

    fn version(at: u64) -> Version {
        Version { crc: u32::try_from(at).unwrap(), chain: 0, at: Position::new(at) }
    }

    #[test]
    fn what_does_not_fit_is_forgotten_and_said_so() {
        let table = PageTable::new(SHARDS * 8, 0);
        for n in 0..10_000 {
            table.record(page(n), version(n + 1), None);
        }
        assert_eq!(table.version(page(9_999)), Lookup::Known(version(10_000)));
        let Lookup::UnknownSince(at) = table.version(page(0)) else { panic!("page 0 should be forgotten") };
        assert!(at.get() >= 1);
        let known = (0..10_000).filter(|n| matches!(table.version(page(*n)), Lookup::Known(_))).count();
        assert!(known <= SHARDS * 8, "{known}");
    }

    #[test]
    fn a_cut_hides_older_versions_beyond_it_only() {
        let table = PageTable::new(1_000, 0);
        table.record(page(5), version(1), None);
        table.record(page(6), version(1), None);
        table.cut(SpaceId::new(0), 6, Position::new(2));
        assert_eq!(table.version(page(5)), Lookup::Known(version(1)));
        assert_ne!(table.version(page(6)), Lookup::Known(version(1)));
        table.record(page(6), version(2), None);
        assert_eq!(table.version(page(6)), Lookup::Known(version(2)));
        for n in 0..200 {
            table.cut(SpaceId::new(0), 100 + n, Position::new(3 + n));
        }
        assert_ne!(table.version(page(150)), Lookup::Known(version(1)));
    }

    #[test]
    fn a_cut_counts_as_a_change_to_who_began_before_it() {
        let table = PageTable::new(1_000, 0);
        table.record(page(7), version(5), None);
        table.cut(SpaceId::new(0), 3, Position::new(11));
        assert_eq!(table.version(page(7)), Lookup::UnknownSince(Position::new(11)));
        assert_eq!(table.version(page(2)), Lookup::UnknownSince(Position::ORIGIN));
    }

    #[test]
    fn images_are_kept_within_their_bound_and_only_for_their_version() {
        let table = PageTable::new(1 << 20, SHARDS * 16_384);
        for n in 0..1_000 {
            table.record(page(n), version(1), Some(vec![7; 4_096].into()));
        }
        assert!(table.image(page(999), Position::new(1)).is_some());
        assert!(table.image(page(999), Position::new(2)).is_none());
        let kept = (0..1_000).filter(|n| table.image(page(*n), Position::new(1)).is_some()).count();
        assert!(kept <= 64, "{kept}");
    }
}
