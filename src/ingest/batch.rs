//! One commit in the making.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::commit::{Assembled, Shared, Tenancy, WRITER};
use super::pages::Version;
use crate::delta::Encoder;
use crate::error::{Error, Result};
use crate::format::record::{Blob, MAX_RECORD, MAX_TEXT, Op};
use crate::format::state::{
    ConfigValue, Effect, MAX_CONFIG_BYTES, MAX_MARK, MAX_SPACE_LENGTH, MAX_SPACES, NodeState, check_mark, check_redo,
    exclusion_key, page_end,
};
use crate::options::WriterOptions;
use crate::sealed::{SpillReader, SpillWriter, Spilled, spill, temporary_name};
use crate::storage::{AppendFile, read_range};
use crate::types::{Commit, Durability, MAX_NAME, PageId, PageSize, Position, SpaceId, Timestamp, check_name};

/// Ops are gathered in pieces of about as many frames, and of no more bytes than these: a piece with its last op fits in one frame.
const PIECE_FRAMES: usize = 16;
const MAX_PIECE: usize = 1 << 20;

/// Whether a configuration value belongs to the data or to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigScope {
    /// Restored with the node.
    Data,
    /// Bound to the environment, such as a network address: a restore reports it and does not apply it.
    Environment,
}

/// What a page is within the batch.
#[derive(Debug)]
enum Local {
    /// Written here.
    Known { crc: u32, chain: u16, image: Option<Box<[u8]>> },
    /// Changed here to something that the writer does not know.
    Unknown,
}

/// A set of changes that commits as one or not at all. Dropping it discards it.
///
/// What cannot be committed is refused by the call that asks for it, as far as that is known then, and leaves the batch as it was; what another commit makes
/// impossible afterwards is refused by the commit.
///
/// Writers of the same page must be serialised by the host, as an engine's page latches do; different pages may be written
/// by any number of batches at a time. Made by [`Writer::batch`](super::Writer::batch).
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    shared: Arc<Shared>,
    token: Arc<Tenancy>,
    /// The newest commit when the batch began.
    began: Position,
    ops: Ops,
    effects: Vec<Effect>,
    pages: BTreeMap<PageId, Local>,
    /// Versions outside the batch that patches in it stand on, each watched in the table.
    bases: HashMap<PageId, u32>,
    /// From which page on a space was cut in this batch.
    cuts: HashMap<SpaceId, u64>,
    created: HashMap<SpaceId, (PageSize, String)>,
    /// Names of those that were created and not dropped again.
    names: HashSet<String>,
    dropped: HashSet<SpaceId>,
    restore_points: BTreeSet<String>,
    encoder: Option<Encoder>,
    scratch: Vec<u8>,
    /// Bytes of images kept in `pages`, those replaced meanwhile included.
    images: usize,
    config: ConfigDraft,
    /// The newest mark and redo point in the batch.
    mark: Option<Vec<u8>>,
    redo: Option<Position>,
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
    /// Takes a change of a key into account; refuses it where too much would be held in the end.
    fn change(&mut self, state: &NodeState, key: &str, value: Option<usize>) -> Result<()> {
        let values = self.values.saturating_add(value.unwrap_or(0));
        limit("configuration values in a batch", MAX_CONFIG_BYTES, values)?;
        let (known, after) = (self.keys.get(key).copied(), value.map_or(0, |len| key.len() + len));
        let held = self.held - known.unwrap_or(0) + after;
        let freed = self.freed + if known.is_none() { state.config.bytes_of(key) } else { 0 };
        if value.is_some() {
            limit("bytes of configuration", MAX_CONFIG_BYTES, (state.config.bytes() + held).saturating_sub(freed))?;
        }
        self.keys.insert(key.to_owned(), after);
        (self.held, self.freed, self.values) = (held, freed, values);
        Ok(())
    }
}

impl Batch {
    pub(super) fn new(shared: Arc<Shared>) -> Batch {
        // In a forked child every call is refused; the locks may be held by threads that do not exist there.
        let (token, began) = if shared.owner.is_here() {
            (shared.tenancy(), shared.newest())
        } else {
            (Arc::new(Tenancy { patches: false }), Position::ORIGIN)
        };
        Batch {
            ops: Ops::new(&shared.options),
            shared,
            token,
            began,
            effects: Vec::new(),
            pages: BTreeMap::new(),
            bases: HashMap::new(),
            cuts: HashMap::new(),
            created: HashMap::new(),
            names: HashSet::new(),
            dropped: HashSet::new(),
            restore_points: BTreeSet::new(),
            encoder: None,
            scratch: Vec::new(),
            images: 0,
            config: ConfigDraft::default(),
            mark: None,
            redo: None,
        }
    }

    /// Adds a page file. Its name must be new to the node and fit for a file name:
    /// 1 to 200 bytes, no control characters, no slash, no dot in front. Its length is zero.
    pub fn create_space(&mut self, name: &str, page_size: PageSize) -> Result<SpaceId> {
        check_name("space", name)?;
        self.usable()?;
        let (taken, count) = self.shared.at_standstill(|state| {
            let known = state.space_named(name).is_some_and(|id| !self.dropped.contains(&id));
            (known, (state.spaces.len() + self.created.len()).saturating_sub(self.dropped.len()))
        });
        if taken || self.names.contains(name) {
            return Err(Error::SpaceExists { space: name.to_owned() });
        }
        limit("spaces", MAX_SPACES, count + 1)?;
        let space = self.shared.reserve_space()?;
        self.op(&Op::CreateSpace { space, page_size, name })?;
        self.effects.push(Effect::Create(space, page_size, name.to_owned()));
        self.created.insert(space, (page_size, name.to_owned()));
        self.names.insert(name.to_owned());
        Ok(space)
    }

    /// Removes a page file with all its pages. Its number is never used again.
    pub fn drop_space(&mut self, space: SpaceId) -> Result<()> {
        self.page_size(space)?;
        self.op(&Op::DropSpace(space))?;
        self.effects.push(Effect::Drop(space));
        self.cut(space, 0);
        if let Some((_, name)) = self.created.get(&space) {
            self.names.remove(name);
        }
        self.dropped.insert(space);
        Ok(())
    }

    /// Sets the exact length of a page file in bytes (at most 2^62). Pages beyond it are gone, the rest of a page
    /// that it cuts becomes zero, and should the file grow again, all that is zero.
    pub fn set_length(&mut self, space: SpaceId, length: u64) -> Result<()> {
        let page_size = self.page_size(space)?;
        if length > MAX_SPACE_LENGTH {
            return Err(Error::LimitExceeded { what: "length of a space", limit: MAX_SPACE_LENGTH, found: length });
        }
        self.op(&Op::SetLength(space, length))?;
        self.effects.push(Effect::SetLength(space, length));
        self.cut(space, length / u64::from(page_size.get()));
        Ok(())
    }

    /// Writes a whole page; its space grows to hold it.
    ///
    /// `previous` is the image that this one replaces, where the host has it: with it the log holds a small patch, without it
    /// one as well while the writer has the image in its cache, else the page itself, compressed.
    /// [`Error::PreviousImageMismatch`] where it is not the version that the log holds: the archive and the engine have parted.
    pub fn write_page(&mut self, page: PageId, image: &[u8], previous: Option<&[u8]>) -> Result<()> {
        let size = self.page_size(page.space)?;
        for bytes in [Some(image), previous].into_iter().flatten() {
            if bytes.len() != size.bytes() {
                return Err(Error::PageSizeMismatch { page, expected: size.bytes(), found: bytes.len() });
            }
        }
        check_page(size, page)?;
        let known = self.known(page);
        if let (Some((version, _)), Some(previous)) = (&known, previous) {
            let found = crc32fast::hash(previous);
            if found != version.crc {
                return Err(Error::PreviousImageMismatch { page, expected: version.crc, found });
            }
        }
        let may_patch = self.token.patches;
        let base = known.filter(|(v, _)| may_patch && v.chain < self.shared.options.chain_bound);
        let cached = match (&base, previous) {
            (Some((version, local)), None) => self.cached(page, version, *local),
            _ => None,
        };
        let base_image = previous.or(cached.as_deref());
        let crc = crc32fast::hash(image);
        let chain = match (base, base_image) {
            (Some(base), Some(old)) if self.put_patch(page, crc, image, old, base)? => base.0.chain + 1,
            _ => {
                self.put_full(page, crc, image)?;
                0
            }
        };
        // A host that gives previous images needs no cache of them.
        let keep = previous.is_none() && self.images + image.len() <= self.shared.options.image_cache;
        self.images += if keep { image.len() } else { 0 };
        let image = keep.then(|| image.into());
        self.pages.insert(page, Local::Known { crc, chain, image });
        self.extend(page);
        Ok(())
    }

    /// Writes some bytes of a page. Becomes a patch where the writer has the page's image; else the bytes are logged as they are, and
    /// the page has no CRC-32 of its own until it is next written whole.
    pub fn write_range(&mut self, page: PageId, offset: usize, bytes: &[u8]) -> Result<()> {
        let size = self.page_size(page.space)?;
        let end = offset.saturating_add(bytes.len());
        if end > size.bytes() {
            return Err(Error::PageSizeMismatch { page, expected: size.bytes(), found: end });
        }
        check_page(size, page)?;
        // In whatever form it is logged, what is made of that version stands on it.
        if let Some((version, local)) = self.known(page)
            && let Some(mut image) = self.cached(page, &version, local)
            && (local || self.stand_on(page, version.crc))
        {
            if let Some(range) = image.get_mut(offset..end) {
                range.copy_from_slice(bytes);
            }
            return self.write_page(page, &image, None);
        }
        // At most 64 KiB.
        self.op(&Op::Range { page, offset: u32::try_from(offset).unwrap_or(u32::MAX), bytes: Blob::plain(bytes) })?;
        self.pages.insert(page, Local::Unknown);
        self.extend(page);
        Ok(())
    }

    /// Adds a record that the host itself replays, through a [`Redo`](crate::Redo): at most 16 MiB. Records of a batch are replayed in their order.
    pub fn log_record(&mut self, record: &[u8]) -> Result<()> {
        limit("logical record", MAX_RECORD, record.len())?;
        self.usable()?;
        let mut compressed = std::mem::take(&mut self.scratch);
        compressed.clear();
        let worth = record.len() >= 128 && self.encoder()?.compress(record, &mut compressed)?.is_some();
        let blob =
            if worth { Blob { stored: &compressed, plain_len: Some(record.len()) } } else { Blob::plain(record) };
        let done = self.op(&Op::Logical(blob));
        self.scratch = compressed;
        done?;
        self.effects.push(Effect::Logical);
        Ok(())
    }

    /// Says that the pages contain the effects of all logical records up to a position, so that a replay may begin there: at most the position that
    /// the batch would get now, and never one before an earlier redo point.
    pub fn redo_point(&mut self, position: Position) -> Result<()> {
        self.usable()?;
        let (redo, newest) = self.shared.at_standstill(|state| (state.redo, state.position));
        check_redo(redo.max(self.redo.unwrap_or_default()), newest, position).map_err(|e| self.shared.refused(&e))?;
        self.op(&Op::RedoPoint(position))?;
        self.effects.push(Effect::Redo(position));
        self.redo = Some(position);
        Ok(())
    }

    /// Sets a configuration value of the node. All keys and values together take at most 1 MiB.
    pub fn set_config(&mut self, key: &str, value: &[u8], scope: ConfigScope) -> Result<()> {
        limit("configuration key", MAX_NAME, key.len())?;
        self.configure(key, Some(value.len()))?;
        let environment_bound = scope == ConfigScope::Environment;
        self.op(&Op::SetConfig { key, value: Blob::plain(value), environment_bound })?;
        self.effects.push(Effect::SetConfig(key.to_owned(), ConfigValue { value: value.to_vec(), environment_bound }));
        Ok(())
    }

    /// Removes a configuration value; no error where there is none.
    pub fn remove_config(&mut self, key: &str) -> Result<()> {
        limit("configuration key", MAX_NAME, key.len())?;
        self.configure(key, None)?;
        self.op(&Op::RemoveConfig(key))?;
        self.effects.push(Effect::RemoveConfig(key.to_owned()));
        Ok(())
    }

    /// Excludes a space from restores, or includes it again: from this commit on restores leave the space out and list it in their report. For what an engine
    /// makes anew by itself: temporary tables, caches. Its pages need not be logged then, but may be.
    ///
    /// It is noted as a configuration value under a key that begins with `rewound.exclude/`.
    pub fn exclude_space(&mut self, space: SpaceId, excluded: bool) -> Result<()> {
        let key = exclusion_key(space);
        if excluded { self.set_config(&key, b"", ConfigScope::Data) } else { self.remove_config(&key) }
    }

    /// Gives the commit a name to restore by. The name must be new to the node; the commit is synced whatever durability it asks for.
    pub fn restore_point(&mut self, name: &str) -> Result<()> {
        check_name("restore point", name)?;
        self.usable()?;
        if self.restore_points.contains(name) || self.shared.is_named(name)? {
            return Err(Error::RestorePointExists { name: name.to_owned() });
        }
        self.op(&Op::RestorePoint(name))?;
        self.restore_points.insert(name.to_owned());
        Ok(())
    }

    /// Notes the host's own log position, at most 64 bytes. Marks are compared byte by byte and must not go back.
    pub fn mark(&mut self, mark: &[u8]) -> Result<()> {
        limit("host mark", MAX_MARK, mark.len())?;
        self.usable()?;
        let check = |newest: Option<&[u8]>| check_mark(newest, mark).map_err(|e| self.shared.refused(&e));
        check(self.mark.as_deref())?;
        self.shared.at_standstill(|state| check(state.mark.as_ref().map(|m| m.mark.as_slice())))?;
        self.op(&Op::Mark(mark))?;
        self.mark = Some(mark.to_vec());
        self.effects.push(Effect::Mark(mark.to_vec()));
        Ok(())
    }

    /// Notes the global transaction that the commit is part of, at most 64 bytes.
    pub fn global_transaction(&mut self, id: &[u8]) -> Result<()> {
        limit("global transaction id", MAX_MARK, id.len())?;
        self.usable()?;
        self.op(&Op::GlobalTransaction(id))
    }

    /// Adds a remark for people and tools: a key of at most 200 bytes and a text of at most 4,096.
    pub fn annotate(&mut self, key: &str, text: &str) -> Result<()> {
        limit("annotation key", MAX_NAME, key.len())?;
        limit("annotation", MAX_TEXT, text.len())?;
        self.usable()?;
        self.op(&Op::Annotation { key, text })
    }

    /// Commits, at a time given by the writer: the clock's, or just after the commit before where that is later.
    pub fn commit(self, durability: Durability) -> Result<Commit> {
        self.finish(None, durability)
    }

    /// Commits at a time given by the host, which must be later than every commit and every tick before. A host that gives
    /// all times turns ticks off ([`WriterOptions::tick_interval`](crate::WriterOptions::tick_interval) at its maximum) and calls [`Writer::tick`](super::Writer::tick) where it knows that nothing earlier will come.
    pub fn commit_at(self, timestamp: Timestamp, durability: Durability) -> Result<Commit> {
        self.finish(Some(timestamp), durability)
    }

    fn finish(mut self, timestamp: Option<Timestamp>, durability: Durability) -> Result<Commit> {
        let shared = Arc::clone(&self.shared);
        self.usable()?;
        let mut ops = std::mem::replace(&mut self.ops, Ops::new(&shared.options));
        let assembled = Assembled {
            timestamp,
            durability,
            effects: std::mem::take(&mut self.effects),
            restore_points: std::mem::take(&mut self.restore_points),
        };
        let done = shared.commit(&mut ops, assembled, self);
        ops.discard(&shared);
        done
    }

    /// Checks, under the log's lock, that what the batch stands on is still so.
    pub(super) fn check(&self, newest: Position) -> Result<()> {
        if newest == self.began {
            return Ok(());
        }
        match self.bases.iter().find(|(page, crc)| !self.shared.table.still(**page, **crc)) {
            Some((&page, _)) => Err(Error::Conflict { page }),
            None => Ok(()),
        }
    }

    /// Notes, under the log's lock, what the batch has made of its pages.
    pub(super) fn publish(&mut self, at: Position, really_cut: impl Fn(SpaceId, u64) -> bool) {
        let table = &self.shared.table;
        for (space, first) in self.cuts.drain() {
            if really_cut(space, first) {
                table.cut(space, first, at);
            }
        }
        for (page, local) in std::mem::take(&mut self.pages) {
            match local {
                Local::Known { crc, chain, image } => table.record(page, Version { crc, chain, at }, image),
                Local::Unknown => table.forget(page),
            }
        }
        if !self.created.is_empty() || !self.dropped.is_empty() {
            let mut spaces = self.shared.spaces.write();
            spaces.extend(self.created.drain().map(|(space, (page_size, _))| (space, page_size)));
            for space in &self.dropped {
                spaces.remove(space);
                table.drop_space(*space);
            }
        }
    }

    fn op(&mut self, op: &Op<'_>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        self.ops.put(op, &shared)
    }

    /// Refuses to go on with a batch that is not what the host asked for, or another process's. Asked first by every call.
    fn usable(&self) -> Result<()> {
        self.shared.owner.check(WRITER)?;
        if self.ops.broken {
            return Err(Error::Unsupported(
                "an earlier change to this batch failed: drop it and build it again".into(),
            ));
        }
        Ok(())
    }

    fn configure(&mut self, key: &str, value: Option<usize>) -> Result<()> {
        self.usable()?;
        let (shared, draft) = (&self.shared, &mut self.config);
        shared.at_standstill(|state| draft.change(state, key, value))
    }

    /// Notes that what is logged of a page stands on this version from outside the batch; `false` where it may have been changed.
    fn stand_on(&mut self, page: PageId, crc: u32) -> bool {
        if let Some(base) = self.bases.get(&page) {
            return *base == crc;
        }
        let watched = self.shared.table.watch(page, crc);
        if watched {
            self.bases.insert(page, crc);
        }
        watched
    }

    fn page_size(&self, space: SpaceId) -> Result<PageSize> {
        self.usable()?;
        let found = if self.dropped.contains(&space) {
            None
        } else {
            self.created.get(&space).map(|(size, _)| *size).or_else(|| self.shared.spaces.read().get(&space).copied())
        };
        found.ok_or_else(|| Error::NoSuchSpace { space: space.to_string(), node: self.shared.name.clone() })
    }

    /// The version of a page that the batch would patch, and whether it is the batch's own.
    fn known(&self, page: PageId) -> Option<(Version, bool)> {
        match self.pages.get(&page) {
            Some(Local::Known { crc, chain, .. }) => {
                Some((Version { crc: *crc, chain: *chain, at: Position::ORIGIN }, true))
            }
            Some(Local::Unknown) => None,
            None if self.cuts.get(&page.space).is_some_and(|first| page.page >= *first) => None,
            None => self.shared.table.version(page).map(|version| (version, false)),
        }
    }

    fn cached(&self, page: PageId, version: &Version, local: bool) -> Option<Box<[u8]>> {
        if !local {
            return self.shared.table.image(page, version.at);
        }
        match self.pages.get(&page) {
            Some(Local::Known { image, .. }) => image.clone(),
            _ => None,
        }
    }

    fn encoder(&mut self) -> Result<&mut Encoder> {
        if self.encoder.is_none() {
            self.encoder = Some(self.shared.take_encoder()?);
        }
        self.encoder.as_mut().ok_or_else(|| Error::Unsupported("no encoder".into()))
    }

    /// Logs a patch; `false` where it would not be smaller than the page compressed, or the version it is made against may be gone.
    fn put_patch(
        &mut self,
        page: PageId,
        crc: u32,
        image: &[u8],
        old: &[u8],
        (version, local): (Version, bool),
    ) -> Result<bool> {
        let mut patch = std::mem::take(&mut self.scratch);
        patch.clear();
        self.encoder()?.patch(image, old, &mut patch)?;
        // Beyond a quarter of the page the full image may well be as small, and it ends the chain.
        let small = patch.len() <= image.len() / 4 && (local || self.stand_on(page, version.crc));
        let done = if small { self.op(&Op::PagePatch { page, crc, patch: &patch }) } else { Ok(()) };
        self.scratch = patch;
        done.map(|()| small)
    }

    fn put_full(&mut self, page: PageId, crc: u32, image: &[u8]) -> Result<()> {
        let mut compressed = std::mem::take(&mut self.scratch);
        compressed.clear();
        let blob = match self.encoder()?.compress(image, &mut compressed)? {
            Some(_) => Blob { stored: &compressed, plain_len: Some(0) },
            None => Blob::plain(image),
        };
        let done = self.op(&Op::PageFull { page, crc, image: blob });
        self.scratch = compressed;
        done
    }

    fn cut(&mut self, space: SpaceId, first: u64) {
        let cut = self.cuts.entry(space).or_insert(first);
        *cut = first.min(*cut);
        let gone = self.pages.range(PageId::new(space, first)..=PageId::new(space, u64::MAX));
        for page in gone.map(|(page, _)| *page).collect::<Vec<_>>() {
            self.pages.remove(&page);
        }
    }

    /// Notes that a page makes its space grow; consecutive notes of one space become one.
    fn extend(&mut self, page: PageId) {
        match self.effects.last_mut() {
            Some(Effect::Extend(last)) if last.space == page.space => last.page = last.page.max(page.page),
            _ => self.effects.push(Effect::Extend(page)),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.shared.owner.is_here() {
            return;
        }
        self.bases.keys().for_each(|page| self.shared.table.unwatch(*page));
        if let Some(encoder) = self.encoder.take() {
            self.shared.return_encoder(encoder);
        }
        self.ops.discard(&self.shared);
    }
}

fn limit(what: &'static str, limit: usize, found: usize) -> Result<()> {
    if found > limit {
        return Err(Error::LimitExceeded { what, limit: limit as u64, found: found as u64 });
    }
    Ok(())
}

fn check_page(size: PageSize, page: PageId) -> Result<()> {
    page_end(size, page.page).map(drop).map_err(|_| Error::LimitExceeded {
        what: "page number",
        limit: MAX_SPACE_LENGTH / u64::from(size.get()) - 1,
        found: page.page,
    })
}

/// The ops of a batch, in pieces that end where an op does; on disk, encrypted, when there are many.
#[derive(Debug)]
pub(super) struct Ops {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
    piece: usize,
    bound: usize,
    spill: Option<Spill>,
    /// A change could not be taken in: what is here is not what the host asked for.
    broken: bool,
}

#[derive(Debug)]
struct Spill {
    path: String,
    file: Box<dyn AppendFile>,
    writer: SpillWriter,
    reader: SpillReader,
    pieces: Vec<Spilled>,
}

impl Ops {
    fn new(options: &WriterOptions) -> Ops {
        let piece = options.frame_bytes.saturating_mul(PIECE_FRAMES).min(MAX_PIECE);
        Ops { pieces: Vec::new(), bytes: 0, piece, bound: options.batch_bytes, spill: None, broken: false }
    }

    fn put(&mut self, op: &Op<'_>, shared: &Shared) -> Result<()> {
        let done = self.try_put(op, shared);
        self.broken |= done.is_err();
        done
    }

    fn try_put(&mut self, op: &Op<'_>, shared: &Shared) -> Result<()> {
        if self.pieces.last().is_none_or(|p| p.len() >= self.piece) {
            if self.bytes > self.bound {
                self.spill(shared)?;
            }
            self.pieces.push(Vec::new());
        }
        if let Some(piece) = self.pieces.last_mut() {
            let before = piece.len();
            op.put(piece);
            self.bytes += piece.len() - before;
        }
        Ok(())
    }

    /// Moves all pieces to disk.
    fn spill(&mut self, shared: &Shared) -> Result<()> {
        if self.spill.is_none() {
            let (writer, reader) = spill(&shared.keys)?;
            let path = temporary_name(&shared.keys, shared.scope)?;
            let file = shared.storage.create(&path).map_err(|e| Error::io("create", &path, e))?;
            self.spill = Some(Spill { path, file, writer, reader, pieces: Vec::new() });
        }
        if let Some(Spill { path, file, writer, pieces, .. }) = &mut self.spill {
            for piece in self.pieces.drain(..) {
                let append = |sealed: &[u8]| file.append(sealed).map_err(|e| Error::io("write", &*path, e));
                pieces.push(writer.put(&piece, append)?);
            }
        }
        self.bytes = 0;
        Ok(())
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.pieces.len() + self.spill.as_ref().map_or(0, |s| s.pieces.len())
    }

    /// Bytes of the ops where they are one piece in memory, or none.
    pub fn single(&self) -> Option<&[u8]> {
        match (&self.spill, self.pieces.as_slice()) {
            (None, []) => Some(&[]),
            (None, [only]) => Some(only),
            _ => None,
        }
    }

    /// Gives all pieces in order; the flag says which is the last.
    pub fn each(&mut self, shared: &Shared, visit: &mut dyn FnMut(&[u8], bool) -> Result<()>) -> Result<()> {
        let count = self.pieces();
        let mut seen = 0;
        if let Some(spill) = &self.spill {
            let file = shared.storage.open(&spill.path).map_err(|e| Error::io("open", &spill.path, e))?;
            for piece in &spill.pieces {
                let mut frame = read_range(file.as_ref(), &spill.path, piece.offset, piece.len)?;
                seen += 1;
                visit(spill.reader.open(piece, &spill.path, &mut frame)?, seen == count)?;
            }
        }
        for piece in &self.pieces {
            seen += 1;
            visit(piece, seen == count)?;
        }
        Ok(())
    }

    pub fn discard(&mut self, shared: &Shared) {
        if let Some(spill) = self.spill.take().filter(|_| shared.owner.is_here()) {
            drop(spill.file);
            // Best effort: the next writer of the node removes what stays.
            let _ = shared.storage.delete(&spill.path);
        }
    }
}
