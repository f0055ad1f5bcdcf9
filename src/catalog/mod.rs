//! The catalog: an append-only, hash-chained, authenticated log of events. The archive's state is
//! its fold; what the catalog does not name is not visible.
//!
//! Owns which nodes, timelines, layers and restore points there are. Each entry is a file of its
//! own that holds the SHA-256 of the entry before it. It is created under the next number and never
//! replaces a file: of two writers of the same number one wins, and the other decides again. A
//! crash leaves an entry complete or not at all, and its temporary file, which is removed once its
//! number is taken ([`leftovers`]). Checkpoints of the fold keep opening an archive cheap. They are
//! derived, and not used if they are damaged.

pub(crate) mod checkpoint;
mod entries;
mod fold;
mod lease;
mod leftovers;
mod retention;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use entries::{Entries, newest, read_sealed};
pub(crate) use lease::Lease;
pub(crate) use retention::CLOCK_BOUND;
pub use retention::{ClockMark, Expiring, Hold, NodeRetention, PolicyChange};
pub(crate) use state::CatalogState;
pub use state::{NodeRecord, RestorePointRecord};
pub(crate) use view::NodeView;

use crate::crypto::{Backend, Keyring};
use crate::env::{self, Clock, Owner, Rng};
use crate::error::{Error, Result};
use crate::format::event::{Actor, CatalogEntry, Event, MAX_EVENT};
use crate::format::frame::FrameKind;
use crate::format::header::FileKind;
use crate::lineage::Fork;
use crate::names::{self, Scope, entry_dir, entry_path};
use crate::sealed::{ArchiveKeys, FileInfo, FrameSpec, SealedWriter, encode_cbor};
use crate::storage::{Calls, Storage, check_place, create_dir_durable, displaced};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{ArchiveId, Epoch, NodeId, TimelineId, Timestamp};

/// The catalog of an open archive.
#[derive(Debug)]
pub(crate) struct Catalog {
    owner: Owner,
    storage: Arc<dyn Storage>,
    entries: Entries,
    clock: Arc<dyn Clock>,
    state: Mutex<CatalogState>,
    /// The newest entry that this process knows to be durable: an entry that it has only read may
    /// still be in a cache.
    durable: AtomicU64,
}

impl Catalog {
    /// Begins the catalog of a new archive.
    pub fn create(
        storage: Arc<dyn Storage>,
        keys: ArchiveKeys,
        clock: Arc<dyn Clock>,
        actor: &Actor,
    ) -> Result<Catalog> {
        let catalog = Catalog {
            owner: Owner::here(),
            entries: Entries::new(storage.clone(), Arc::new(keys)),
            storage,
            clock,
            state: Mutex::default(),
            durable: AtomicU64::new(0),
        };
        let mut state = catalog.state.lock();
        let keys = catalog.keys();
        let created =
            Event::ArchiveCreated { key: keys.generation(), recipients: keys.recipients() };
        if newest(catalog.storage.as_ref())?.is_some()
            || !catalog.try_append(&mut state, actor, created)?
        {
            return Err(Error::ArchiveExists { path: catalog.storage.location().into() });
        }
        drop(state);
        Ok(catalog)
    }

    /// Opens the existing catalog and folds it.
    pub fn open(
        storage: Arc<dyn Storage>,
        keyring: &Keyring,
        backend: Backend,
        rng: Arc<dyn Rng>,
        clock: Arc<dyn Clock>,
    ) -> Result<Catalog> {
        let (entries, state) = Entries::open(storage.clone(), keyring, backend, rng)?;
        let (state, durable) = (Mutex::new(state), AtomicU64::new(0));
        Ok(Catalog { owner: Owner::here(), storage, entries, clock, state, durable })
    }

    pub fn keys(&self) -> &Arc<ArchiveKeys> {
        self.entries.keys()
    }

    pub fn archive(&self) -> ArchiveId {
        self.keys().archive()
    }

    /// The current state, entries of other processes included.
    pub fn current(&self) -> Result<MutexGuard<'_, CatalogState>> {
        let mut state = self.lock()?;
        self.entries.fold_new(&mut state)?;
        Ok(state)
    }

    /// The state as of the last fold. Refused in a process that was forked from the one that opened
    /// the archive.
    fn lock(&self) -> Result<MutexGuard<'_, CatalogState>> {
        self.owner.check("the archive")?;
        Ok(self.state.lock())
    }

    /// Records what a node was branched from, as long as this archive is open: no event says so
    /// yet.
    pub fn branch_in_memory(&self, node: NodeId, fork: Fork) -> Result<()> {
        let mut state = self.current()?;
        let record = state
            .nodes
            .get_mut(&node)
            .ok_or_else(|| Error::NoSuchNode { node: node.to_string() })?;
        record.branched = Some(fork);
        Ok(())
    }

    /// The current state, proven durable. Use it before building or removing anything because of an
    /// entry: then a power failure cannot take that entry back.
    pub fn settled(&self) -> Result<MutexGuard<'_, CatalogState>> {
        let state = self.current()?;
        self.settle(&state)?;
        Ok(state)
    }

    /// Makes the newest entry durable if another process wrote it. The entries before it are
    /// durable: whoever published it ensured that.
    fn settle(&self, state: &CatalogState) -> Result<()> {
        if state.entries > self.durable.load(Ordering::Relaxed) {
            let dir = entry_dir(state.entries);
            create_dir_durable(self.storage.as_ref(), &dir)?;
            self.storage.dir_synced(&dir)?;
            self.durable.store(state.entries, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Appends the event that `decide` makes of the current state. `decide` is called again if
    /// another writer was faster.
    pub fn append<T>(
        &self,
        actor: &Actor,
        mut decide: impl FnMut(&CatalogState) -> Result<(Event, T)>,
    ) -> Result<T> {
        let mut state = self.lock()?;
        loop {
            self.entries.fold_new(&mut state)?;
            let (event, value) = decide(&state)?;
            if self.try_append(&mut state, actor, event)? {
                return Ok(value);
            }
        }
    }

    /// Appends an event unless `decide` finds that the state has made it pointless; returns whether
    /// it did.
    pub fn append_if(
        &self,
        actor: &Actor,
        mut decide: impl FnMut(&CatalogState) -> Result<Option<Event>>,
    ) -> Result<bool> {
        let mut state = self.lock()?;
        loop {
            self.entries.fold_new(&mut state)?;
            let Some(event) = decide(&state)? else { return Ok(false) };
            if self.try_append(&mut state, actor, event)? {
                return Ok(true);
            }
        }
    }

    /// Writes the next entry; returns `false` if its number is taken.
    fn try_append(&self, state: &mut CatalogState, actor: &Actor, event: Event) -> Result<bool> {
        let sequence = state.entries + 1;
        // A time that is out of range is not carried on: it would be the last one possible.
        let before = if state.time > Timestamp::LATEST { Timestamp::ZERO } else { state.time };
        let now = match (env::now(self.clock.as_ref()), &event) {
            // The commit is durable and has its name, so the entry is written whatever the clock
            // says, with the newest time that was believed.
            (Err(_), Event::RestorePoint { .. }) => before,
            (now, _) => now?,
        };
        let time = now.max(before);
        let entry = CatalogEntry { sequence, time, actor: actor.clone(), event };
        let body = encode_cbor(&entry);
        if body.len() > MAX_EVENT {
            return Err(Error::LimitExceeded {
                what: "catalog event",
                limit: MAX_EVENT as u64,
                found: body.len() as u64,
            });
        }
        self.settle(state)?;
        create_dir_durable(self.storage.as_ref(), names::TMP)?;
        create_dir_durable(self.storage.as_ref(), &entry_dir(sequence))?;
        let info = FileInfo {
            kind: FileKind::Catalog,
            node: NodeId::default(),
            timeline: TimelineId::default(),
            epoch: Epoch::default(),
            sequence,
            from: 0,
            to: 0,
            created: time,
            link: state.head,
        };
        let scope = Scope::Entry(sequence);
        let mut writer = SealedWriter::create(self.storage.as_ref(), self.keys(), scope, info)?;
        writer.frame(FrameSpec::plain(FrameKind::Body, 0, 0), &body)?;
        let path = entry_path(sequence);
        if writer.publish(&path, &[])?.is_none() {
            return Ok(false);
        }
        self.durable.store(sequence, Ordering::Relaxed);
        // Read back: this proves that the published entry is readable, and takes the digest of what
        // is stored.
        self.entries.fold_next(state)?;
        if state.entries.is_multiple_of(checkpoint::STEP)
            && let Err(error) = checkpoint::write(self.storage.as_ref(), self.keys(), state)
        {
            // The entry is valid; opening the archive folds a few entries more.
            tracing::warn!(%error, "no checkpoint of the catalog could be written");
        }
        Ok(true)
    }

    /// Continues with the archive that is at this place now, if that is not the one that was
    /// opened. It must be the same archive, at least as far as it is known here.
    pub fn reopen_if_displaced(&self) -> Result<()> {
        let Err(displaced) = check_place(self.storage.as_ref()) else { return Ok(()) };
        let (sequence, head) = {
            let state = self.lock()?;
            (state.entries, state.head)
        };
        self.storage.reopen(&|storage| {
            let there = Entries::new(storage.clone(), Arc::clone(self.keys()));
            match there.read(sequence) {
                Ok((_, _, found)) if found == head => Ok(()),
                Ok(_) | Err(Error::Damaged(_)) => Err(Error::Displaced {
                    path: self.storage.location(),
                    found: "another archive, or an older state of this one".into(),
                }),
                Err(_) => Err(displaced.clone()),
            }
        })
    }

    /// Proves that the newest entry known here still has its name.
    pub fn check_newest(&self) -> Result<()> {
        let path = entry_path(self.lock()?.entries);
        self.storage.open(&path).map(drop).map_err(|e| displaced("open", &path, e))
    }
}
