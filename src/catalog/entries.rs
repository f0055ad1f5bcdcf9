//! The entries of the catalog as files: found, read, and folded into a state.
//!
//! Owns what an entry's file must be and how one entry follows another. Never writes: it works on a
//! read-only store.

use std::sync::Arc;

use super::{Catalog, CatalogState, checkpoint};
use crate::crypto::kdf::sha256;
use crate::crypto::{Backend, Keyring};
use crate::env::Rng;
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{CatalogEntry, MAX_EVENT, NEWEST_EVENT};
use crate::format::frame::FrameKind;
use crate::format::header::FileKind;
use crate::names::{self, entry_path};
use crate::sealed::{ArchiveKeys, SingleFrame, decode_cbor, read_bytes, read_header, read_single};
use crate::storage::{ReadCalls, ReadStore, check_place};

/// The entries of an archive's catalog.
#[derive(Debug)]
pub(crate) struct Entries {
    storage: Arc<dyn ReadStore>,
    keys: Arc<ArchiveKeys>,
}

/// The number of the newest entry; `None` if there is no catalog.
pub(crate) fn newest(storage: &dyn ReadStore) -> Result<Option<u64>> {
    let listed = storage.listed(names::CATALOG)?;
    let mut groups: Vec<u64> = listed.iter().filter_map(|e| names::group(&e.name)).collect();
    groups.sort_unstable();
    for group in groups.into_iter().rev() {
        let listed = storage.listed(&names::entry_group_dir(group))?;
        let numbers = listed.iter().filter_map(|e| names::entry(&e.name));
        let numbers = numbers.filter(|n| names::group_of(*n) == group);
        if let Some(newest) = numbers.max() {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

/// SHA-256 of an entry's file, as the next entry holds it.
pub(crate) fn entry_digest(storage: &dyn ReadStore, sequence: u64) -> Result<[u8; 32]> {
    Ok(sha256(&[&read_bytes(storage, &entry_path(sequence), MAX_EVENT)?]))
}

/// Reads an entry's file, in a single read.
pub(crate) fn read_sealed(
    storage: &dyn ReadStore,
    keys: &ArchiveKeys,
    sequence: u64,
) -> Result<SingleFrame> {
    let path = entry_path(sequence);
    let file = read_single(storage, keys, &path, FileKind::Catalog, MAX_EVENT)?;
    if file.header.sequence != sequence {
        let (what, found) = ("number of a catalog entry", file.header.sequence);
        return Err(Error::damage(DamageKind::Chain, path, 96, what, sequence, found));
    }
    Ok(file)
}

impl Entries {
    pub fn new(storage: Arc<dyn ReadStore>, keys: Arc<ArchiveKeys>) -> Entries {
        Entries { storage, keys }
    }

    /// The existing entries, and the state that they fold to.
    pub fn open(
        storage: Arc<dyn ReadStore>,
        keyring: &Keyring,
        backend: Backend,
        rng: Arc<dyn Rng>,
    ) -> Result<(Entries, CatalogState)> {
        let Some(newest) = newest(storage.as_ref())? else {
            return Err(Error::NoArchive { path: storage.location().into() });
        };
        // The newest entry names all current recipients.
        let path = entry_path(newest);
        let file = storage.opened(&path)?;
        let (header, _) = read_header(file.as_ref(), &path)?;
        let keys = Arc::new(ArchiveKeys::unlock(&path, &header, keyring, backend, rng)?);
        let entries = Entries::new(storage, keys);
        let mut state = checkpoint::newest(entries.storage.as_ref(), &entries.keys)?;
        entries.fold_new(&mut state)?;
        // The stanzas are not authenticated, so that some can be added. The list of allowed
        // recipients is.
        let (listed, found) = (&state.recipients, entries.keys.recipients());
        if state.key != Some(entries.keys.generation()) || *listed != found {
            let (expected, found) = (format_args!("{listed:?}"), format_args!("{found:?}"));
            return Err(Error::damage(
                DamageKind::Authentication,
                &path,
                272,
                "recipients",
                expected,
                found,
            ));
        }
        Ok((entries, state))
    }

    pub fn keys(&self) -> &Arc<ArchiveKeys> {
        &self.keys
    }

    /// Whether there is an entry of this number. Needs no lock.
    pub fn has(&self, sequence: u64) -> Result<bool> {
        let path = entry_path(sequence);
        Ok(self.storage.opened_if_there(&path)?.is_some())
    }

    /// Reads and folds all newer entries.
    pub fn fold_new(&self, state: &mut CatalogState) -> Result<()> {
        while self.fold_next(state)? {}
        // If the archive was deleted, nothing is found either. If it was moved away, nobody else
        // would look for the next entry there.
        check_place(self.storage.as_ref())
    }

    /// Reads and folds the next entry; returns `false` if there is none.
    pub fn fold_next(&self, state: &mut CatalogState) -> Result<bool> {
        let sequence = state.entries + 1;
        let path = entry_path(sequence);
        let there = || self.has(sequence);
        if !there()? {
            // Only at the end of the catalog may an entry be missing. Another process may have
            // written it between the two looks.
            match newest(self.storage.as_ref())? {
                Some(newest) if newest >= sequence && !there()? => {
                    let expected = format_args!("entry {sequence}, as there is entry {newest}");
                    let what = "catalog entry";
                    return Err(Error::damage(
                        DamageKind::Missing,
                        &path,
                        0,
                        what,
                        expected,
                        "no such file",
                    ));
                }
                Some(newest) if newest >= sequence => {}
                _ => return Ok(false),
            }
        }
        let (entry, link, head) = self.read(sequence)?;
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

    /// Reads an entry; returns it with its link to the one before and its own digest.
    pub fn read(&self, sequence: u64) -> Result<(CatalogEntry, [u8; 32], [u8; 32])> {
        let path = &entry_path(sequence);
        let file = read_sealed(self.storage.as_ref(), &self.keys, sequence)?;
        let body = file.plaintext.as_slice();
        if minicbor::decode::<CatalogEntry>(body).is_err_and(|e| e.is_unknown_variant()) {
            let (path, what) = (path.to_owned(), "an event of the catalog");
            return Err(Error::FormatTooNew {
                path,
                what,
                found: NEWEST_EVENT + 1,
                supported: NEWEST_EVENT,
            });
        }
        let entry: CatalogEntry = decode_cbor(path, file.offset, "catalog entry", body)?;
        if file.kind != FrameKind::Body || entry.sequence != sequence {
            let found = format_args!("{:?} of entry {}", file.kind, entry.sequence);
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                file.offset,
                "catalog entry",
                sequence,
                found,
            ));
        }
        Ok((entry, file.header.link, file.digest))
    }
}

impl Catalog {
    /// An entry, with its link to the one before and its own digest.
    pub fn entry(&self, sequence: u64) -> Result<(CatalogEntry, [u8; 32], [u8; 32])> {
        self.entries.read(sequence)
    }

    /// Whether there is an entry of this number. Needs no lock.
    pub fn has_entry(&self, sequence: u64) -> Result<bool> {
        self.entries.has(sequence)
    }

    /// Number and digest of the newest entry.
    pub fn head(&self) -> Result<(u64, [u8; 32])> {
        let state = self.current()?;
        Ok((state.entries, state.head))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").expect("writing to a string does not fail");
        text
    })
}
