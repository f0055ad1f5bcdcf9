//! The catalog: an append-only, hash-chained, authenticated log of events. The
//! archive's state is its fold; what it does not say is not visible.
//!
//! Owns which nodes, timelines, layers and restore points there are. Each entry is a file
//! of its own that holds the SHA-256 of the entry before it and is
//! created under the next number, never replacing: of two writers with the same
//! idea one wins and the other looks again. A crash leaves an entry whole or not
//! at all, and its temporary file, which is removed once its number is taken ([`leftovers`]). Checkpoints of the fold keep opening cheap; they are derived, and done without where they are damaged.

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

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use lease::Lease;
pub(crate) use retention::CLOCK_BOUND;
pub use retention::{ClockMark, Expiring, Hold, NodeRetention, PolicyChange};
pub(crate) use state::CatalogState;
pub use state::{NodeRecord, RestorePointRecord};
pub(crate) use view::NodeView;

use crate::crypto::kdf::sha256;
use crate::crypto::{Backend, Keyring};
use crate::env::{self, Clock, Owner, Rng};
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{Actor, CatalogEntry, Event, MAX_EVENT, NEWEST_EVENT};
use crate::format::frame::FrameKind;
use crate::format::header::FileKind;
use crate::lineage::Fork;
use crate::sealed::{
    ArchiveKeys, FileInfo, FrameSpec, SealedWriter, SingleFrame, decode_cbor, encode_cbor, read_bytes, read_header,
    read_single,
};
use crate::storage::{Storage, check_place, create_dir_durable, displaced};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{ArchiveId, Epoch, NodeId, TimelineId, Timestamp};

/// Entries per directory.
const GROUP: u64 = 1_024;
/// Where the catalog is.
const DIR: &str = "catalog";

/// The catalog of an open archive.
#[derive(Debug)]
pub(crate) struct Catalog {
    owner: Owner,
    storage: Arc<dyn Storage>,
    keys: Arc<ArchiveKeys>,
    clock: Arc<dyn Clock>,
    state: Mutex<CatalogState>,
    /// The newest entry that this process knows to be durable: one that it has merely read may be all in a cache yet.
    durable: AtomicU64,
}

fn group_dir(sequence: u64) -> String {
    format!("{DIR}/{:08x}", sequence / GROUP)
}

pub(crate) fn entry_path(sequence: u64) -> String {
    format!("{}/{sequence:016x}.entry", group_dir(sequence))
}

/// The number in a name of the very form that is given here: whatever else lies about is none of ours.
fn number(name: &str, digits: usize) -> Option<u64> {
    u64::from_str_radix(name, 16).ok().filter(|n| format!("{n:0digits$x}") == name)
}

/// The number of the newest entry; `None` where there is no catalog.
pub(crate) fn newest(storage: &dyn Storage) -> Result<Option<u64>> {
    let list = |dir: &str| storage.list(dir).map_err(|e| Error::io("list", dir, e));
    let mut groups: Vec<u64> = list(DIR)?.iter().filter_map(|e| number(&e.name, 8)).collect();
    groups.sort_unstable();
    for group in groups.into_iter().rev() {
        let names = list(&group_dir(group * GROUP))?;
        let numbers = names.iter().filter_map(|e| number(e.name.strip_suffix(".entry")?, 16));
        let numbers = numbers.filter(|n| n / GROUP == group);
        if let Some(newest) = numbers.max() {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

/// SHA-256 of an entry's file, as the next entry holds it.
pub(crate) fn entry_digest(storage: &dyn Storage, sequence: u64) -> Result<[u8; 32]> {
    Ok(sha256(&[&read_bytes(storage, &entry_path(sequence), MAX_EVENT)?]))
}

/// Reads an entry's file, once.
pub(crate) fn read_sealed(storage: &dyn Storage, keys: &ArchiveKeys, sequence: u64) -> Result<SingleFrame> {
    let path = entry_path(sequence);
    let file = read_single(storage, keys, &path, FileKind::Catalog, MAX_EVENT)?;
    if file.header.sequence != sequence {
        let (what, found) = ("number of a catalog entry", file.header.sequence);
        return Err(Error::damage(DamageKind::Chain, path, 96, what, sequence, found));
    }
    Ok(file)
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
            storage,
            keys: Arc::new(keys),
            clock,
            state: Mutex::default(),
            durable: AtomicU64::new(0),
        };
        let mut state = catalog.state.lock();
        let keys = &catalog.keys;
        let created = Event::ArchiveCreated { key: keys.generation(), recipients: keys.recipients() };
        if newest(catalog.storage.as_ref())?.is_some() || !catalog.try_append(&mut state, actor, created)? {
            return Err(Error::ArchiveExists { path: catalog.storage.location().into() });
        }
        drop(state);
        Ok(catalog)
    }

    /// Opens the catalog that is there and folds it.
    pub fn open(
        storage: Arc<dyn Storage>,
        keyring: &Keyring,
        backend: Backend,
        rng: Arc<dyn Rng>,
        clock: Arc<dyn Clock>,
    ) -> Result<Catalog> {
        let Some(newest) = newest(storage.as_ref())? else {
            return Err(Error::NoArchive { path: storage.location().into() });
        };
        // The newest entry names all recipients there are now.
        let path = entry_path(newest);
        let file = storage.open(&path).map_err(|e| Error::io("open", &path, e))?;
        let (header, _) = read_header(file.as_ref(), &path)?;
        let keys = Arc::new(ArchiveKeys::unlock(&path, &header, keyring, backend, rng)?);
        let catalog =
            Catalog { owner: Owner::here(), storage, keys, clock, state: Mutex::default(), durable: AtomicU64::new(0) };
        let mut state = catalog.state.lock();
        *state = checkpoint::newest(catalog.storage.as_ref(), &catalog.keys)?;
        catalog.refresh(&mut state)?;
        // The stanzas stand outside of what is authenticated, so that some can be added; who may be among them is.
        let (listed, found) = (&state.recipients, catalog.keys.recipients());
        if state.key != Some(catalog.keys.generation()) || *listed != found {
            let (expected, found) = (format_args!("{listed:?}"), format_args!("{found:?}"));
            return Err(Error::damage(DamageKind::Authentication, &path, 272, "recipients", expected, found));
        }
        drop(state);
        Ok(catalog)
    }

    pub fn keys(&self) -> &Arc<ArchiveKeys> {
        &self.keys
    }

    pub fn archive(&self) -> ArchiveId {
        self.keys.archive()
    }

    /// The state as of now, entries of other processes included.
    pub fn current(&self) -> Result<MutexGuard<'_, CatalogState>> {
        let mut state = self.lock()?;
        self.refresh(&mut state)?;
        Ok(state)
    }

    /// The state as it was last looked at; refused in a process that was forked from the one that opened the archive.
    fn lock(&self) -> Result<MutexGuard<'_, CatalogState>> {
        self.owner.check("the archive")?;
        Ok(self.state.lock())
    }

    /// Notes what a node was branched from, for as long as this archive is open: no event tells of it yet.
    pub fn branch_in_memory(&self, node: NodeId, fork: Fork) -> Result<()> {
        let mut state = self.current()?;
        let record = state.nodes.get_mut(&node).ok_or_else(|| Error::NoSuchNode { node: node.to_string() })?;
        record.branched = Some(fork);
        Ok(())
    }

    /// Whether there is an entry of this number: a look that needs no lock.
    pub fn has_entry(&self, sequence: u64) -> Result<bool> {
        let path = entry_path(sequence);
        match self.storage.open(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("open", &path, e)),
        }
    }

    /// The state as of now, proven durable: what nothing may take back that is built, or removed, on its word.
    pub fn settled(&self) -> Result<MutexGuard<'_, CatalogState>> {
        let state = self.current()?;
        self.settle(&state)?;
        Ok(state)
    }

    /// Makes the newest entry durable, where it is another's. Those before it are: whoever published it had seen to that.
    fn settle(&self, state: &CatalogState) -> Result<()> {
        if state.entries > self.durable.load(Ordering::Relaxed) {
            let dir = group_dir(state.entries);
            create_dir_durable(self.storage.as_ref(), &dir)?;
            self.storage.sync_dir(&dir).map_err(|e| Error::io("sync directory", &dir, e))?;
            self.durable.store(state.entries, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Appends the event that `decide` makes of the current state. `decide` is
    /// asked again where another writer was faster.
    pub fn append<T>(&self, actor: &Actor, mut decide: impl FnMut(&CatalogState) -> Result<(Event, T)>) -> Result<T> {
        let mut state = self.lock()?;
        loop {
            self.refresh(&mut state)?;
            let (event, value) = decide(&state)?;
            if self.try_append(&mut state, actor, event)? {
                return Ok(value);
            }
        }
    }

    /// Appends an event unless `decide` finds that the state has made it pointless; tells whether it did.
    pub fn append_if(
        &self,
        actor: &Actor,
        mut decide: impl FnMut(&CatalogState) -> Result<Option<Event>>,
    ) -> Result<bool> {
        let mut state = self.lock()?;
        loop {
            self.refresh(&mut state)?;
            let Some(event) = decide(&state)? else { return Ok(false) };
            if self.try_append(&mut state, actor, event)? {
                return Ok(true);
            }
        }
    }

    /// Writes the next entry; `false` where its number is taken.
    fn try_append(&self, state: &mut CatalogState, actor: &Actor, event: Event) -> Result<bool> {
        let sequence = state.entries + 1;
        // One that is out of range is not taken along: it would be the last.
        let before = if state.time > Timestamp::LATEST { Timestamp::ZERO } else { state.time };
        let now = match (env::now(self.clock.as_ref()), &event) {
            // The commit is durable and has its name: it is made known by whatever clock, with the newest time that was believed.
            (Err(_), Event::RestorePoint { .. }) => before,
            (now, _) => now?,
        };
        let time = now.max(before);
        let entry = CatalogEntry { sequence, time, actor: actor.clone(), event };
        let body = encode_cbor(&entry)?;
        if body.len() > MAX_EVENT {
            return Err(Error::LimitExceeded {
                what: "catalog event",
                limit: MAX_EVENT as u64,
                found: body.len() as u64,
            });
        }
        self.settle(state)?;
        create_dir_durable(self.storage.as_ref(), "tmp")?;
        create_dir_durable(self.storage.as_ref(), &group_dir(sequence))?;
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
        let scope = leftovers::entry_scope(sequence);
        let mut writer = SealedWriter::create(self.storage.as_ref(), &self.keys, &scope, info)?;
        writer.frame(FrameSpec::plain(FrameKind::Body, 0, 0), &body)?;
        let path = entry_path(sequence);
        if writer.publish(&path, &[])?.is_none() {
            return Ok(false);
        }
        self.durable.store(sequence, Ordering::Relaxed);
        // Read back: what is published has been proven readable, and the digest is of what is there.
        self.read_next(state)?;
        if state.entries.is_multiple_of(checkpoint::STEP)
            && let Err(error) = checkpoint::write(self.storage.as_ref(), &self.keys, state)
        {
            // The entry stands; whoever opens the archive folds a few more.
            tracing::warn!(%error, "no checkpoint of the catalog could be written");
        }
        Ok(true)
    }

    /// Reads and folds the entries that came since.
    fn refresh(&self, state: &mut CatalogState) -> Result<()> {
        while self.read_next(state)? {}
        // Where the archive was deleted nothing is found either; where it was moved away nobody would look for the next entry.
        check_place(self.storage.as_ref())
    }

    /// Goes on with the archive that is at its place now, where that is not what was opened. It has to be this one, as far as it is known here, or further.
    pub fn reopen_if_displaced(&self) -> Result<()> {
        let Err(displaced) = check_place(self.storage.as_ref()) else { return Ok(()) };
        let (sequence, head) = {
            let state = self.lock()?;
            (state.entries, state.head)
        };
        self.storage.reopen(&|storage| {
            let (storage, keys, clock) = (Arc::clone(storage), Arc::clone(&self.keys), Arc::clone(&self.clock));
            let (state, durable) = (Mutex::default(), AtomicU64::new(0));
            let there = Catalog { owner: self.owner, storage, keys, clock, state, durable };
            match there.read_entry(sequence, &entry_path(sequence)) {
                Ok((_, _, found)) if found == head => Ok(()),
                Ok(_) | Err(Error::Damaged(_)) => Err(Error::Displaced {
                    path: self.storage.location(),
                    found: "another archive, or an older state of this one".into(),
                }),
                Err(_) => Err(displaced.clone()),
            }
        })
    }

    /// Proves that the newest entry known here is still under its name.
    pub fn check_newest(&self) -> Result<()> {
        let path = entry_path(self.lock()?.entries);
        self.storage.open(&path).map(drop).map_err(|e| displaced("open", &path, e))
    }

    /// Reads and folds the next entry; `false` where there is none.
    fn read_next(&self, state: &mut CatalogState) -> Result<bool> {
        let sequence = state.entries + 1;
        let path = entry_path(sequence);
        let there = || self.has_entry(sequence);
        if !there()? {
            // Only the end of the catalog may look like this; an entry may have come between two looks.
            match newest(self.storage.as_ref())? {
                Some(newest) if newest >= sequence && !there()? => {
                    let expected = format_args!("entry {sequence}, as there is entry {newest}");
                    let what = "catalog entry";
                    return Err(Error::damage(DamageKind::Missing, &path, 0, what, expected, "no such file"));
                }
                Some(newest) if newest >= sequence => {}
                _ => return Ok(false),
            }
        }
        let (entry, link, head) = self.read_entry(sequence, &path)?;
        if link != state.head {
            return Err(Error::damage(
                DamageKind::Chain,
                &path,
                128,
                "catalog entry",
                format_args!("entry {sequence}, after {}", hex(&state.head)),
                format_args!("entry {sequence}, after {}", hex(&link)),
            ));
        }
        state.fold(&entry, &path)?;
        state.head = head;
        Ok(true)
    }

    /// Reads an entry; gives it with its link to the one before and its own digest.
    fn read_entry(&self, sequence: u64, path: &str) -> Result<(CatalogEntry, [u8; 32], [u8; 32])> {
        let file = read_sealed(self.storage.as_ref(), &self.keys, sequence)?;
        let body = file.plaintext.as_slice();
        if minicbor::decode::<CatalogEntry>(body).is_err_and(|e| e.is_unknown_variant()) {
            let (path, what) = (path.to_owned(), "an event of the catalog");
            return Err(Error::FormatTooNew { path, what, found: NEWEST_EVENT + 1, supported: NEWEST_EVENT });
        }
        let entry: CatalogEntry = decode_cbor(path, file.offset, "catalog entry", body)?;
        if file.kind != FrameKind::Body || entry.sequence != sequence {
            let found = format_args!("{:?} of entry {}", file.kind, entry.sequence);
            return Err(Error::damage(DamageKind::Structure, path, file.offset, "catalog entry", sequence, found));
        }
        Ok((entry, file.header.link, file.digest))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
