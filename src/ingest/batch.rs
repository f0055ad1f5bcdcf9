//! One commit in the making.

use std::sync::Arc;

use super::commit::{Rules, Shared, Terms};
use super::draft::{Base, Draft, limit};
use super::ops::Ops;
use crate::delta::Encoder;
use crate::error::{Error, Result};
use crate::format::record::{Blob, MAX_RECORD, MAX_TEXT, Op};
use crate::format::state::{
    ConfigValue, Effect, MAX_MARK, MAX_SPACE_LENGTH, exclusion_key, page_end,
};
use crate::types::{
    Commit, Durability, MAX_NAME, PageId, PageSize, Position, SpaceId, Timestamp, check_name,
};

/// Whether a configuration value belongs to the data or to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigScope {
    /// Restored with the node.
    Data,
    /// Bound to the environment, such as a network address: a restore reports it and does not apply
    /// it.
    Environment,
}

/// A set of changes that commits as one or not at all. Dropping it discards it.
///
/// What cannot be committed is refused by the call that asks for it, as far as that is known then,
/// and leaves the batch as it was; what another commit makes impossible afterwards is refused by
/// the commit.
///
/// Writers of the same page must be serialised by the host, as an engine's page latches do;
/// different pages may be written by any number of batches at a time. Made by
/// [`Writer::batch`](super::Writer::batch).
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    shared: Arc<Shared>,
    rules: Arc<Rules>,
    draft: Draft,
    ops: Ops,
    coder: Coder,
    scratch: Vec<u8>,
}

impl Batch {
    pub(super) fn new(shared: Arc<Shared>) -> Batch {
        // In a forked child every call is refused; the locks may be held by threads that do not
        // exist there.
        let (rules, began) = if shared.place.owner.is_here() {
            (shared.rules(), shared.newest())
        } else {
            (Arc::new(Rules { patches: false }), Position::ORIGIN)
        };
        Batch {
            rules,
            draft: Draft::new(Arc::clone(&shared.known), began),
            ops: Ops::new(&shared.options),
            coder: Coder { shared: Arc::clone(&shared), encoder: None },
            shared,
            scratch: Vec::new(),
        }
    }

    /// Adds a page file. Its name must be new to the node and fit for a file name:
    /// 1 to 200 bytes, no control characters, no slash, no dot in front. Its length is zero.
    pub fn create_space(&mut self, name: &str, page_size: PageSize) -> Result<SpaceId> {
        check_name("space", name)?;
        self.usable()?;
        self.shared.with_state(|state| self.draft.check_new_space(state, name))?;
        let space = self.shared.known.reserve_space()?;
        self.op(&Op::CreateSpace { space, page_size, name })?;
        self.draft.create_space(space, page_size, name);
        Ok(space)
    }

    /// Removes a page file with all its pages. Its number is never used again.
    pub fn drop_space(&mut self, space: SpaceId) -> Result<()> {
        self.page_size(space)?;
        self.op(&Op::DropSpace(space))?;
        self.draft.drop_space(space);
        Ok(())
    }

    /// Sets the exact length of a page file in bytes (at most 2^62). Pages beyond it are gone, the
    /// rest of a page that it cuts becomes zero, and should the file grow again, all that is zero.
    pub fn set_length(&mut self, space: SpaceId, length: u64) -> Result<()> {
        let page_size = self.page_size(space)?;
        if length > MAX_SPACE_LENGTH {
            return Err(Error::LimitExceeded {
                what: "length of a space",
                limit: MAX_SPACE_LENGTH,
                found: length,
            });
        }
        self.op(&Op::SetLength(space, length))?;
        self.draft.set_length(space, length, page_size);
        Ok(())
    }

    /// Writes a whole page; its space grows to hold it.
    ///
    /// `previous` is the image that this one replaces, where the host has it: with it the log holds
    /// a small patch, without it one as well while the writer has the image in its cache, else the
    /// page itself, compressed. [`Error::PreviousImageMismatch`] where it is not the version that
    /// the log holds: the archive and the engine have parted.
    pub fn write_page(
        &mut self,
        page: PageId,
        image: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<()> {
        let size = self.page_size(page.space)?;
        for bytes in [Some(image), previous].into_iter().flatten() {
            if bytes.len() != size.bytes() {
                return Err(Error::PageSizeMismatch {
                    page,
                    expected: size.bytes(),
                    found: bytes.len(),
                });
            }
        }
        check_page(size, page)?;
        let newest = self.draft.base(page);
        if let (Some(newest), Some(previous)) = (&newest, previous) {
            let (expected, found) = (newest.version.crc, crc32fast::hash(previous));
            if found != expected {
                return Err(Error::PreviousImageMismatch { page, expected, found });
            }
        }
        let (may_patch, bound) = (self.rules.patches, self.shared.options.chain_bound);
        let base = newest.filter(|b| may_patch && b.version.chain < bound);
        let cached = match (&base, previous) {
            (Some(base), None) => self.draft.image(page, base),
            _ => None,
        };
        let base_image = previous.or(cached.as_deref());
        let crc = crc32fast::hash(image);
        let chain = match (base, base_image) {
            (Some(base), Some(old)) if self.put_patch(page, crc, image, old, &base)? => {
                base.version.chain + 1
            }
            _ => {
                self.put_full(page, crc, image)?;
                0
            }
        };
        // A host that gives previous images needs no cache of them.
        let kept = if previous.is_none() { self.shared.options.image_cache } else { 0 };
        self.draft.wrote(page, (crc, chain), image, kept);
        Ok(())
    }

    /// Writes some bytes of a page. Becomes a patch where the writer has the page's image; else the
    /// bytes are logged as they are, and the page has no CRC-32 of its own until it is next written
    /// whole.
    pub fn write_range(&mut self, page: PageId, offset: usize, bytes: &[u8]) -> Result<()> {
        let size = self.page_size(page.space)?;
        let end = offset.saturating_add(bytes.len());
        if end > size.bytes() {
            return Err(Error::PageSizeMismatch { page, expected: size.bytes(), found: end });
        }
        check_page(size, page)?;
        // In whatever form it is logged, what is made of that version stands on it.
        if let Some(base) = self.draft.base(page)
            && let Some(mut image) = self.draft.image(page, &base)
            && self.draft.stand_on(page, &base)
        {
            overlay(&mut image, offset, bytes);
            return self.write_page(page, &image, None);
        }
        self.op(&Op::Range { page, offset: in_page(offset), bytes: Blob::plain(bytes) })?;
        self.draft.changed(page);
        Ok(())
    }

    /// Adds a record that the host itself replays, through a [`Redo`](crate::Redo): at most 16 MiB.
    /// Records of a batch are replayed in their order.
    pub fn log_record(&mut self, record: &[u8]) -> Result<()> {
        limit("logical record", MAX_RECORD, record.len())?;
        self.usable()?;
        let mut compressed = std::mem::take(&mut self.scratch);
        compressed.clear();
        let worth = record.len() >= 128
            && self.coder.encoder()?.compress(record, &mut compressed)?.is_some();
        let blob = if worth {
            Blob { stored: &compressed, plain_len: Some(record.len()) }
        } else {
            Blob::plain(record)
        };
        let done = self.op(&Op::Logical(blob));
        self.scratch = compressed;
        done?;
        self.draft.effect(Effect::Logical);
        Ok(())
    }

    /// Says that the pages contain the effects of all logical records up to a position, so that a
    /// replay may begin there: at most the position that the batch would get now, and never one
    /// before an earlier redo point.
    pub fn redo_point(&mut self, position: Position) -> Result<()> {
        self.usable()?;
        let checked = self.shared.with_state(|state| self.draft.check_redo(state, position));
        checked.map_err(|e| self.shared.tenure.refused(&e))?;
        self.op(&Op::RedoPoint(position))?;
        self.draft.redo_point(position);
        Ok(())
    }

    /// Sets a configuration value of the node. All keys and values together take at most 1 MiB.
    pub fn set_config(&mut self, key: &str, value: &[u8], scope: ConfigScope) -> Result<()> {
        limit("configuration key", MAX_NAME, key.len())?;
        self.configure(key, Some(value.len()))?;
        let environment_bound = scope == ConfigScope::Environment;
        self.op(&Op::SetConfig { key, value: Blob::plain(value), environment_bound })?;
        self.draft.effect(Effect::SetConfig(
            key.to_owned(),
            ConfigValue { value: value.to_vec(), environment_bound },
        ));
        Ok(())
    }

    /// Removes a configuration value; no error where there is none.
    pub fn remove_config(&mut self, key: &str) -> Result<()> {
        limit("configuration key", MAX_NAME, key.len())?;
        self.configure(key, None)?;
        self.op(&Op::RemoveConfig(key))?;
        self.draft.effect(Effect::RemoveConfig(key.to_owned()));
        Ok(())
    }

    /// Excludes a space from restores, or includes it again: from this commit on restores leave the
    /// space out and list it in their report. For what an engine makes anew by itself: temporary
    /// tables, caches. Its pages need not be logged then, but may be.
    ///
    /// It is noted as a configuration value under a key that begins with `rewound.exclude/`.
    pub fn exclude_space(&mut self, space: SpaceId, excluded: bool) -> Result<()> {
        let key = exclusion_key(space);
        if excluded {
            self.set_config(&key, b"", ConfigScope::Data)
        } else {
            self.remove_config(&key)
        }
    }

    /// Gives the commit a name to restore by. The name must be new to the node; the commit is
    /// synced whatever durability it asks for.
    pub fn restore_point(&mut self, name: &str) -> Result<()> {
        check_name("restore point", name)?;
        self.usable()?;
        if self.draft.is_named(name) || self.shared.is_named(name)? {
            return Err(Error::RestorePointExists { name: name.to_owned() });
        }
        self.op(&Op::RestorePoint(name))?;
        self.draft.name(name);
        Ok(())
    }

    /// Notes the host's own log position, at most 64 bytes. Marks are compared byte by byte and
    /// must not go back.
    pub fn mark(&mut self, mark: &[u8]) -> Result<()> {
        limit("host mark", MAX_MARK, mark.len())?;
        self.usable()?;
        let checked = self.shared.with_state(|state| self.draft.check_mark(state, mark));
        checked.map_err(|e| self.shared.tenure.refused(&e))?;
        self.op(&Op::Mark(mark))?;
        self.draft.mark(mark);
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

    /// Commits, at a time given by the writer: the clock's, or just after the commit before where
    /// that is later.
    pub fn commit(self, durability: Durability) -> Result<Commit> {
        self.finish(None, durability)
    }

    /// Commits at a time given by the host, which must be later than every commit and every tick
    /// before. A host that gives all times turns ticks off
    /// ([`WriterOptions::tick_interval`](crate::WriterOptions::tick_interval) at its maximum) and
    /// calls [`Writer::tick`](super::Writer::tick) where it knows that nothing earlier will come.
    pub fn commit_at(self, timestamp: Timestamp, durability: Durability) -> Result<Commit> {
        self.finish(Some(timestamp), durability)
    }

    fn finish(self, timestamp: Option<Timestamp>, durability: Durability) -> Result<Commit> {
        self.usable()?;
        // What is not taken out stays until the commit is acknowledged: a base copy waits for the
        // rules.
        let Batch { shared, draft, ops, .. } = self;
        shared.commit(draft, &ops, Terms { timestamp, durability })
    }

    fn op(&mut self, op: &Op<'_>) -> Result<()> {
        self.ops.put(op, &self.shared.place)
    }

    /// Refuses to go on with a batch that is not what the host asked for, or another process's.
    /// Asked first by every call.
    fn usable(&self) -> Result<()> {
        self.shared.place.check_process()?;
        if self.ops.is_broken() {
            return Err(Error::BatchBroken);
        }
        Ok(())
    }

    fn configure(&mut self, key: &str, value: Option<usize>) -> Result<()> {
        self.usable()?;
        self.shared.with_state(|state| self.draft.configure(state, key, value))
    }

    fn page_size(&self, space: SpaceId) -> Result<PageSize> {
        self.usable()?;
        self.draft.page_size(space).ok_or_else(|| self.shared.tenure.no_such_space(space))
    }

    /// Logs a patch; `false` where it would not be smaller than the page compressed, or the version
    /// it is made against may be gone.
    fn put_patch(
        &mut self,
        page: PageId,
        crc: u32,
        image: &[u8],
        old: &[u8],
        base: &Base,
    ) -> Result<bool> {
        let mut patch = std::mem::take(&mut self.scratch);
        patch.clear();
        self.coder.encoder()?.patch(image, old, &mut patch)?;
        // Beyond a quarter of the page the full image may well be as small, and it ends the chain.
        let small = patch.len() <= image.len() / 4 && self.draft.stand_on(page, base);
        let done =
            if small { self.op(&Op::PagePatch { page, crc, patch: &patch }) } else { Ok(()) };
        self.scratch = patch;
        done.map(|()| small)
    }

    fn put_full(&mut self, page: PageId, crc: u32, image: &[u8]) -> Result<()> {
        let mut compressed = std::mem::take(&mut self.scratch);
        compressed.clear();
        let blob = match self.coder.encoder()?.compress(image, &mut compressed)? {
            Some(_) => Blob { stored: &compressed, plain_len: Some(0) },
            None => Blob::plain(image),
        };
        let done = self.op(&Op::PageFull { page, crc, image: blob });
        self.scratch = compressed;
        done
    }
}

/// One of the writer's encoders, as soon as a batch needs one.
#[derive(Debug)]
struct Coder {
    shared: Arc<Shared>,
    encoder: Option<Encoder>,
}

impl Coder {
    fn encoder(&mut self) -> Result<&mut Encoder> {
        match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            none => Ok(none.insert(self.shared.take_encoder()?)),
        }
    }
}

impl Drop for Coder {
    fn drop(&mut self) {
        // In a forked child a thread that does not exist there may hold the lock for ever.
        if let Some(encoder) = self.encoder.take()
            && self.shared.place.owner.is_here()
        {
            self.shared.return_encoder(encoder);
        }
    }
}

/// Puts bytes into the image of a page.
fn overlay(image: &mut [u8], offset: usize, bytes: &[u8]) {
    let range = image.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
    range.expect("an image is a whole page, and the range lies within one").copy_from_slice(bytes);
}

/// An offset within a page, as it is logged.
fn in_page(offset: usize) -> u32 {
    u32::try_from(offset).expect("a page has at most 64 KiB")
}

fn check_page(size: PageSize, page: PageId) -> Result<()> {
    page_end(size, page.page).map(drop).map_err(|_| Error::LimitExceeded {
        what: "page number",
        limit: MAX_SPACE_LENGTH / u64::from(size.get()) - 1,
        found: page.page,
    })
}
