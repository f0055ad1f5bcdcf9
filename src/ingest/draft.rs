//! What a batch makes of the engine's pages, spaces and settings, and what it stands on.
//!
//! Owns the way of a commit's content up to its place in the log, one type a step: a [`Draft`] is
//! open; a [`Checked`] one stands on versions that are still the newest; an [`Applied`] one has
//! changed the node's state, can no longer be refused, and is published. The last three happen
//! under one hold of the log's lock. Never touches the log. In memory only, so a crash leaves
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::known::Known;
use super::pages::Version;
use crate::error::{Error, Result};
use crate::format::state::{
    Effect, MAX_CONFIG_BYTES, MAX_SPACES, NodeState, StateError, check_mark, check_redo,
};
use crate::types::{PageId, PageSize, Position, SpaceId};

/// What a page is within the batch.
#[derive(Debug)]
enum Local {
    /// Written here.
    Written { crc: u32, chain: u16, image: Option<Box<[u8]>> },
    /// Changed here to something that the writer does not know.
    Unknown,
}

/// The version that a page written next would be a patch against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub version: Version,
    /// Whether it is the batch's own.
    local: bool,
}

/// A batch that is open: everything of it but the bytes of its ops.
#[derive(Debug)]
pub(super) struct Draft {
    /// The newest commit when the batch began.
    began: Position,
    effects: Vec<Effect>,
    restore_points: BTreeSet<String>,
    pages: BTreeMap<PageId, Local>,
    bases: Bases,
    /// From which page on a space was cut in this batch.
    cuts: HashMap<SpaceId, u64>,
    created: HashMap<SpaceId, (PageSize, String)>,
    /// Names of those that were created and not dropped again.
    names: HashSet<String>,
    dropped: HashSet<SpaceId>,
    /// Bytes of images kept in `pages`, those replaced meanwhile included.
    images: usize,
    config: ConfigDraft,
    /// The newest mark in the batch.
    mark: Option<Vec<u8>>,
    /// The newest redo point in the batch; the origin if there is none.
    redo: Position,
}

impl Draft {
    pub fn new(known: Arc<Known>, began: Position) -> Draft {
        Draft {
            bases: Bases { known, pages: HashMap::new() },
            began,
            effects: Vec::new(),
            restore_points: BTreeSet::new(),
            pages: BTreeMap::new(),
            cuts: HashMap::new(),
            created: HashMap::new(),
            names: HashSet::new(),
            dropped: HashSet::new(),
            images: 0,
            config: ConfigDraft::default(),
            mark: None,
            redo: Position::ORIGIN,
        }
    }

    fn known(&self) -> &Known {
        &self.bases.known
    }

    /// Adds what the commit does to the node's state.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Refuses a space of a name that is taken, and one too many.
    pub fn check_new_space(&self, state: &NodeState, name: &str) -> Result<()> {
        let known = state.space_named(name).is_some_and(|id| !self.dropped.contains(&id));
        if known || self.names.contains(name) {
            return Err(Error::SpaceExists { space: name.to_owned() });
        }
        // Saturating: another commit may have dropped what this batch drops as well.
        let count = (state.spaces.len() + self.created.len()).saturating_sub(self.dropped.len());
        limit("spaces", MAX_SPACES, count + 1)
    }

    pub fn create_space(&mut self, space: SpaceId, page_size: PageSize, name: &str) {
        self.effect(Effect::Create(space, page_size, name.to_owned()));
        self.created.insert(space, (page_size, name.to_owned()));
        self.names.insert(name.to_owned());
    }

    pub fn drop_space(&mut self, space: SpaceId) {
        self.effect(Effect::Drop(space));
        self.cut(space, 0);
        if let Some((_, name)) = self.created.get(&space) {
            self.names.remove(name);
        }
        self.dropped.insert(space);
    }

    pub fn set_length(&mut self, space: SpaceId, length: u64, page_size: PageSize) {
        self.effect(Effect::SetLength(space, length));
        self.cut(space, length / u64::from(page_size.get()));
    }

    fn cut(&mut self, space: SpaceId, first: u64) {
        let cut = self.cuts.entry(space).or_insert(first);
        *cut = first.min(*cut);
        let gone = self.pages.range(PageId::new(space, first)..=PageId::new(space, u64::MAX));
        for page in gone.map(|(page, _)| *page).collect::<Vec<_>>() {
            self.pages.remove(&page);
        }
    }

    /// The size of a space's pages, if the batch has such a space.
    pub fn page_size(&self, space: SpaceId) -> Option<PageSize> {
        if self.dropped.contains(&space) {
            return None;
        }
        self.created.get(&space).map(|(size, _)| *size).or_else(|| self.known().page_size(space))
    }

    /// The version of a page that the batch would patch.
    pub fn base(&self, page: PageId) -> Option<Base> {
        match self.pages.get(&page) {
            Some(Local::Written { crc, chain, .. }) => {
                let version = Version { crc: *crc, chain: *chain, at: Position::ORIGIN };
                Some(Base { version, local: true })
            }
            Some(Local::Unknown) => None,
            None if self.cuts.get(&page.space).is_some_and(|first| page.page >= *first) => None,
            None => self.known().table.version(page).map(|version| Base { version, local: false }),
        }
    }

    /// The image of that version, if it is kept.
    pub fn image(&self, page: PageId, base: &Base) -> Option<Box<[u8]>> {
        if !base.local {
            return self.known().table.image(page, base.version.at);
        }
        let Some(Local::Written { image, .. }) = self.pages.get(&page) else {
            unreachable!("a version of the batch's own was written in it");
        };
        image.clone()
    }

    /// Notes that what is logged of a page stands on this version; `false` if it may have been
    /// changed.
    pub fn stand_on(&mut self, page: PageId, base: &Base) -> bool {
        base.local || self.bases.stand_on(page, base.version.crc)
    }

    /// Notes a page that was written whole. `bound` says how many bytes of images may be kept.
    pub fn wrote(&mut self, page: PageId, (crc, chain): (u32, u16), image: &[u8], bound: usize) {
        let keep = self.images + image.len() <= bound;
        self.images += if keep { image.len() } else { 0 };
        let image = keep.then(|| image.into());
        self.pages.insert(page, Local::Written { crc, chain, image });
        self.extend(page);
    }

    /// Notes a page that was changed to something that the writer does not know.
    pub fn changed(&mut self, page: PageId) {
        self.pages.insert(page, Local::Unknown);
        self.extend(page);
    }

    /// Notes that a page makes its space grow; consecutive notes of one space become one.
    fn extend(&mut self, page: PageId) {
        match self.effects.last_mut() {
            Some(Effect::Extend(last)) if last.space == page.space => {
                last.page = last.page.max(page.page);
            }
            _ => self.effects.push(Effect::Extend(page)),
        }
    }

    /// Takes a change of a configuration value into account; refuses one that would be too much.
    pub fn configure(&mut self, state: &NodeState, key: &str, value: Option<usize>) -> Result<()> {
        self.config.change(state, key, value)
    }

    /// Refuses a mark that goes back.
    pub fn check_mark(&self, state: &NodeState, mark: &[u8]) -> Result<(), StateError> {
        check_mark(self.mark.as_deref(), mark)?;
        check_mark(state.mark.as_ref().map(|m| m.mark.as_slice()), mark)
    }

    pub fn mark(&mut self, mark: &[u8]) {
        self.mark = Some(mark.to_vec());
        self.effect(Effect::Mark(mark.to_vec()));
    }

    /// Refuses a redo point that goes back, or lies ahead.
    pub fn check_redo(&self, state: &NodeState, position: Position) -> Result<(), StateError> {
        check_redo(state.redo.max(self.redo), state.position, position)
    }

    pub fn redo_point(&mut self, position: Position) {
        self.effect(Effect::Redo(position));
        self.redo = position;
    }

    /// Whether the commit gets this name.
    pub fn is_named(&self, name: &str) -> bool {
        self.restore_points.contains(name)
    }

    pub fn name(&mut self, name: &str) {
        self.restore_points.insert(name.to_owned());
    }

    /// Checks, under the log's lock, that what the batch stands on is still so.
    pub fn check(self, newest: Position) -> Result<Checked> {
        if newest != self.began
            && let Some(page) = self.bases.changed()
        {
            return Err(Error::Conflict { page });
        }
        Ok(Checked(self))
    }
}

/// A draft whose bases were found unchanged, until the log's lock is let go.
#[derive(Debug)]
pub(super) struct Checked(Draft);

impl Checked {
    /// Names that the commit gets.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.restore_points.iter()
    }

    /// Changes the node's state, or is refused and changes nothing.
    pub fn apply(self, state: &mut NodeState) -> Result<Applied, StateError> {
        let Checked(mut draft) = self;
        // A cut at or beyond the end of what there was takes no page, and so no version. What there
        // was is known only before the effects.
        draft.cuts.retain(|id, first| {
            let before = state.spaces.get(id);
            before.is_some_and(|space| *first < space.page_size.pages_in(space.length))
        });
        state.apply_all(&draft.effects)?;
        Ok(Applied(draft))
    }
}

/// A draft that has its place in the log. Its cuts are those that took pages.
#[derive(Debug)]
#[must_use = "other batches make patches against what is published"]
pub(super) struct Applied(Draft);

impl Applied {
    /// Notes, under the log's lock, what the commit has made of pages and spaces. Returns its
    /// names, and what it stood on, which is watched until that goes.
    pub fn publish(self, at: Position) -> (BTreeSet<String>, Bases) {
        let Draft { pages, bases, cuts, created, dropped, restore_points, .. } = self.0;
        let known = bases.known.as_ref();
        for (space, first) in cuts {
            known.table.cut(space, first, at);
        }
        for (page, local) in pages {
            match local {
                Local::Written { crc, chain, image } => {
                    known.table.record(page, Version { crc, chain, at }, image);
                }
                Local::Unknown => known.table.forget(page),
            }
        }
        if !created.is_empty() || !dropped.is_empty() {
            let created = created.into_iter().map(|(space, (page_size, _))| (space, page_size));
            known.change_spaces(created, dropped.iter());
        }
        (restore_points, bases)
    }
}

/// Versions outside a batch that patches in it stand on. Each is watched in the table until this
/// goes.
#[derive(Debug)]
pub(super) struct Bases {
    known: Arc<Known>,
    pages: HashMap<PageId, u32>,
}

impl Bases {
    fn stand_on(&mut self, page: PageId, crc: u32) -> bool {
        if let Some(base) = self.pages.get(&page) {
            return *base == crc;
        }
        let watched = self.known.table.watch(page, crc);
        if watched {
            self.pages.insert(page, crc);
        }
        watched
    }

    /// A page that is no longer what it was.
    fn changed(&self) -> Option<PageId> {
        self.pages
            .iter()
            .find(|(page, crc)| !self.known.table.still(**page, **crc))
            .map(|(page, _)| *page)
    }
}

impl Drop for Bases {
    fn drop(&mut self) {
        // In a forked child a thread that does not exist there may hold a lock of the table for
        // ever.
        if !self.pages.is_empty() && self.known.owner.is_here() {
            self.pages.keys().for_each(|page| self.known.table.unwatch(*page));
        }
    }
}

/// What the batch does to the configuration, in bytes.
#[derive(Debug, Default)]
struct ConfigDraft {
    /// What each key that it touches takes afterwards.
    keys: HashMap<String, usize>,
    /// The sum of that.
    held: usize,
    /// What these keys took before.
    freed: usize,
    /// Bytes of all values set, those replaced included: they are in memory.
    values: usize,
}

impl ConfigDraft {
    /// Takes a change of a key into account; refuses it if too much would be held in the end.
    fn change(&mut self, state: &NodeState, key: &str, value: Option<usize>) -> Result<()> {
        let values = self.values.saturating_add(value.unwrap_or(0));
        limit("configuration values in a batch", MAX_CONFIG_BYTES, values)?;
        let (known, after) = (self.keys.get(key).copied(), value.map_or(0, |len| key.len() + len));
        let held = self.held - known.unwrap_or(0) + after;
        let freed = self.freed + if known.is_none() { state.config.bytes_of(key) } else { 0 };
        if value.is_some() {
            // Saturating: another commit may have removed meanwhile what is freed here.
            limit(
                "bytes of configuration",
                MAX_CONFIG_BYTES,
                (state.config.bytes() + held).saturating_sub(freed),
            )?;
        }
        self.keys.insert(key.to_owned(), after);
        (self.held, self.freed, self.values) = (held, freed, values);
        Ok(())
    }
}

/// Refuses what is more, or longer, than a limit.
pub(super) fn limit(what: &'static str, limit: usize, found: usize) -> Result<()> {
    if found > limit {
        return Err(Error::LimitExceeded { what, limit: limit as u64, found: found as u64 });
    }
    Ok(())
}
