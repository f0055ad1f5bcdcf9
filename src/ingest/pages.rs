//! Which version of each page the log holds, so that patches are made against nothing else.
//!
//! Bounded: what is forgotten is logged as a full image next time. Sixteen shards,
//! each two generations of a map: when the young one is full it becomes the old one
//! and the old one goes, so forgetting costs nothing and what is used stays.
//!
//! What an open batch has made a patch against is watched until it ends, beyond that bound: whether
//! it was changed meanwhile is then known for certain, whatever else was forgotten. That takes as
//! much as the batch itself notes of the page.

use std::collections::{BTreeMap, HashMap};

use crate::sync::Mutex;
use crate::types::{PageId, Position, SpaceId, as_index};

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

    fn get(&mut self, page: PageId, weight: usize) -> Option<&V> {
        if !self.young.contains_key(&page) {
            let value = self.old.remove(&page)?;
            self.insert(page, value, weight);
        }
        self.young.get(&page)
    }

    fn insert(&mut self, page: PageId, value: V, weight: usize) {
        if self.weight + weight > self.bound {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.old.remove(&page);
        if weight <= self.bound && self.young.insert(page, value).is_none() {
            self.weight += weight;
        }
    }

    fn remove(&mut self, page: PageId, weight: usize) {
        self.old.remove(&page);
        if self.young.remove(&page).is_some() {
            let left = self.weight.checked_sub(weight);
            self.weight = left
                .expect("what goes was counted when it came: the images of a page are of one size");
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
    /// What open batches stand on.
    watched: BTreeMap<PageId, Watch>,
}

/// A page that patches in open batches stand on.
#[derive(Debug)]
struct Watch {
    /// How many batches.
    batches: usize,
    /// CRC-32 of its newest version; `None` where that is not known.
    crc: Option<u32>,
}

/// The table of page versions.
#[derive(Debug)]
pub(crate) struct PageTable {
    shards: Vec<Mutex<Shard>>,
    /// Per space: after which commit, pages from which number on no longer are what they were.
    cuts: Mutex<HashMap<SpaceId, Vec<(Position, u64)>>>,
}

impl PageTable {
    pub fn new(entries: usize, image_bytes: usize) -> PageTable {
        let shard = || {
            Mutex::new(Shard {
                versions: Generations::new(entries / SHARDS),
                images: Generations::new(image_bytes / SHARDS),
                watched: BTreeMap::new(),
            })
        };
        PageTable { shards: (0..SHARDS).map(|_| shard()).collect(), cuts: Mutex::default() }
    }

    fn with<T>(&self, page: PageId, f: impl FnOnce(&mut Shard) -> T) -> T {
        // Neighbouring pages share a shard, so that a scan does not touch all of them at once.
        let index = as_index((page.page / 64 + u64::from(page.space.get())) % SHARDS as u64);
        let shard = self.shards.get(index).expect("a remainder by their number is that of a shard");
        f(&mut shard.lock())
    }

    /// The newest version of a page, as far as it is known.
    pub fn version(&self, page: PageId) -> Option<Version> {
        self.with(page, |shard| self.version_in(shard, page))
    }

    fn version_in(&self, shard: &mut Shard, page: PageId) -> Option<Version> {
        let found = shard.versions.get(page, 1).copied()?;
        (self.newest_cut(page) <= found.at).then_some(found)
    }

    /// Notes that an open batch stands on this version of a page; `false` where it is not known to
    /// be the newest.
    pub fn watch(&self, page: PageId, crc: u32) -> bool {
        self.with(page, |shard| {
            if let Some(watch) = shard.watched.get_mut(&page) {
                let same = watch.crc == Some(crc);
                watch.batches += usize::from(same);
                return same;
            }
            let known = self.version_in(shard, page).is_some_and(|v| v.crc == crc);
            if known {
                shard.watched.insert(page, Watch { batches: 1, crc: Some(crc) });
            }
            known
        })
    }

    /// Whether the newest version of a page that is watched is still this one.
    pub fn still(&self, page: PageId, crc: u32) -> bool {
        self.with(page, |shard| shard.watched.get(&page).is_some_and(|w| w.crc == Some(crc)))
    }

    /// Takes a [`watch`](Self::watch) back.
    pub fn unwatch(&self, page: PageId) {
        self.with(page, |shard| {
            let watch = shard.watched.get_mut(&page).expect("only who watches a page ends that");
            watch.batches -= 1;
            if watch.batches == 0 {
                shard.watched.remove(&page);
            }
        });
    }

    /// The image of a version, where it is still at hand.
    pub fn image(&self, page: PageId, at: Position) -> Option<Box<[u8]>> {
        self.with(page, |shard| {
            let weight = shard.images.young.get(&page).or(shard.images.old.get(&page))?.1.len();
            let (position, image) = shard.images.get(page, weight)?;
            (*position == at).then(|| image.clone())
        })
    }

    /// Notes a version, with its image where the host may not give it next time.
    pub fn record(&self, page: PageId, version: Version, image: Option<Box<[u8]>>) {
        self.with(page, |shard| {
            shard.versions.insert(page, version, 1);
            if let Some(watch) = shard.watched.get_mut(&page) {
                watch.crc = Some(version.crc);
            }
            if let Some(image) = image {
                let weight = image.len();
                shard.images.remove(page, weight);
                shard.images.insert(page, (version.at, image), weight);
            }
        });
    }

    /// Notes that a commit changed a page to something unknown.
    pub fn forget(&self, page: PageId) {
        self.with(page, |shard| {
            shard.versions.remove(page, 1);
            if let Some(watch) = shard.watched.get_mut(&page) {
                watch.crc = None;
            }
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
            let lowest = cuts.iter().map(|(_, page)| *page).fold(first, u64::min);
            *cuts = vec![(at, lowest)];
        }
        drop(all);
        self.lose(space, first);
    }

    /// Notes that a commit dropped a space. Its number does not come again, so nothing is to be
    /// remembered of it.
    pub fn drop_space(&self, space: SpaceId) {
        self.cuts.lock().remove(&space);
        self.lose(space, 0);
    }

    /// What is watched of a space from a page on is not what it was.
    fn lose(&self, space: SpaceId, first: u64) {
        for shard in &self.shards {
            let range = PageId::new(space, first)..=PageId::new(space, u64::MAX);
            shard.lock().watched.range_mut(range).for_each(|(_, watch)| watch.crc = None);
        }
    }

    /// Forgets everything: the next version of each page is logged as a full image.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.versions.clear();
            shard.images.clear();
        }
    }

    /// The newest commit that cut the page away; the origin where none did.
    fn newest_cut(&self, page: PageId) -> Position {
        let all = self.cuts.lock();
        let cuts = all.get(&page.space).into_iter().flatten();
        cuts.filter(|(_, first)| page.page >= *first)
            .map(|(at, _)| *at)
            .max()
            .unwrap_or(Position::ORIGIN)
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
    fn what_does_not_fit_is_forgotten() {
        let table = PageTable::new(SHARDS * 8, 0);
        for n in 0..10_000 {
            table.record(page(n), version(n + 1), None);
        }
        assert_eq!(table.version(page(9_999)), Some(version(10_000)));
        assert_eq!(table.version(page(0)), None);
        let known = (0..10_000).filter(|n| table.version(page(*n)).is_some()).count();
        assert!(known <= SHARDS * 8, "{known}");
    }

    #[test]
    fn a_cut_hides_older_versions_beyond_it_only() {
        let table = PageTable::new(1_000, 0);
        table.record(page(5), version(1), None);
        table.record(page(6), version(1), None);
        table.cut(SpaceId::new(0), 6, Position::new(2));
        assert_eq!(table.version(page(5)), Some(version(1)));
        assert_ne!(table.version(page(6)), Some(version(1)));
        table.record(page(6), version(2), None);
        assert_eq!(table.version(page(6)), Some(version(2)));
        for n in 0..200 {
            table.cut(SpaceId::new(0), 100 + n, Position::new(3 + n));
        }
        assert_ne!(table.version(page(150)), Some(version(1)));
    }

    #[test]
    fn what_is_watched_is_known_whatever_is_forgotten_or_cut_elsewhere() {
        let table = PageTable::new(SHARDS * 8, 0);
        table.record(page(7), version(5), None);
        assert!(!table.watch(page(7), 4), "it is not the newest");
        assert!(!table.watch(page(8), 5), "it is not known");
        assert!(table.watch(page(7), 5) && table.watch(page(7), 5));
        for n in 100..10_000 {
            table.record(page(n), version(n), None);
        }
        // Rising cuts, more than are remembered one by one.
        for n in 0..200 {
            table.cut(SpaceId::new(0), 8 + n, Position::new(10_000 + n));
        }
        assert_eq!(table.version(page(7)), None);
        assert!(table.still(page(7), 5));
        table.unwatch(page(7));
        assert!(table.still(page(7), 5), "by the other batch");
        table.unwatch(page(7));
        assert!(!table.still(page(7), 5));
    }

    #[test]
    fn each_way_that_a_watched_page_changes_is_seen() {
        let ways: [fn(&PageTable); 4] = [
            |table| table.record(page(7), version(6), None),
            |table| table.forget(page(7)),
            |table| table.cut(SpaceId::new(0), 7, Position::new(6)),
            |table| table.drop_space(SpaceId::new(0)),
        ];
        for change in ways {
            let table = PageTable::new(1_000, 0);
            table.record(page(7), version(5), None);
            assert!(table.watch(page(7), 5));
            table.cut(SpaceId::new(0), 8, Position::new(6));
            table.cut(SpaceId::new(1), 0, Position::new(6));
            assert!(table.still(page(7), 5));
            change(&table);
            assert!(!table.still(page(7), 5));
            assert!(!table.watch(page(7), 5));
        }
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
