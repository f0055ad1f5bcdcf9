//! Checkpoints of the fold, so that opening an archive does not read every entry since the first.
//!
//! A checkpoint is derived: it holds what the entries up to its number say, and the digest of the
//! last of them. Whoever writes an entry whose number is a multiple of [`STEP`] writes one. An
//! archive opens from the newest checkpoint that can be read, or from the first entry if none can.
//! The digest is compared with that of the entry that the checkpoint names, and the link of the
//! next entry with the digest. A crash leaves one checkpoint or none.

use std::io::ErrorKind;

use minicbor::{Decode, Encode};

use super::entries::{self, entry_digest, hex};
use super::state::CatalogState;
use crate::error::{DamageKind, Error, Result};
use crate::format::event::NEWEST_EVENT;
use crate::format::header::FileKind;
use crate::names::{self, CHECKPOINTS, Scope, checkpoint_path};
use crate::sealed::{ArchiveKeys, FileInfo, SealedFile, read_body, write_body};
use crate::storage::{Calls, ReadCalls, ReadStore, Storage, create_dir_durable};
use crate::types::{Epoch, NodeId, TimelineId};

/// Entries from one checkpoint to the next. At most this many are folded to open an archive, which
/// takes some 20 milliseconds.
pub(super) const STEP: u64 = 256;
/// Checkpoints that are kept: a damaged one costs folding another step, not all the entries.
const KEPT: usize = 2;

/// What a checkpoint holds.
#[derive(Debug, Encode, Decode)]
struct Checkpoint {
    /// The newest kind of event that its writer knew.
    #[n(0)]
    newest_event: u64,
    /// What the entries say.
    #[n(1)]
    state: CatalogState,
}

/// The paths of all checkpoints, in order.
pub(crate) fn paths(storage: &dyn ReadStore) -> Result<Vec<String>> {
    Ok(list(storage)?.into_iter().map(checkpoint_path).collect())
}

/// The numbers of the entries that have a checkpoint, in order.
fn list(storage: &dyn ReadStore) -> Result<Vec<u64>> {
    let entries = storage.listed(CHECKPOINTS)?;
    let mut numbers: Vec<u64> = entries.iter().filter_map(|e| names::checkpoint(&e.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writes a checkpoint of this state, and deletes those that it makes superfluous.
pub(super) fn write(storage: &dyn Storage, keys: &ArchiveKeys, state: &CatalogState) -> Result<()> {
    let sequence = state.entries;
    create_dir_durable(storage, CHECKPOINTS)?;
    let info = FileInfo {
        kind: FileKind::Checkpoint,
        node: NodeId::default(),
        timeline: TimelineId::default(),
        epoch: Epoch::default(),
        sequence,
        from: 0,
        to: 0,
        created: state.time,
        link: state.head,
    };
    let checkpoint = Checkpoint { newest_event: NEWEST_EVENT, state: state.clone() };
    // Another process that folded the same entries may have been faster.
    write_body(storage, keys, Scope::Checkpoint(sequence), info, &checkpoint, |_| {
        checkpoint_path(sequence)
    })?;
    // Read back before the older ones are deleted.
    if read(storage, keys, sequence)?.is_none_or(|read| read != *state) {
        let what = "checkpoint of the catalog";
        return Err(Error::damage(
            DamageKind::Structure,
            checkpoint_path(sequence),
            0,
            what,
            "the state written",
            "another",
        ));
    }
    let numbers = list(storage)?;
    let older = numbers.iter().filter(|n| **n < sequence).rev().skip(KEPT - 1);
    for number in older {
        storage.deleted_if_there(&checkpoint_path(*number))?;
    }
    Ok(())
}

/// The state as of the newest usable checkpoint; the empty state if there is none.
pub(super) fn newest(storage: &dyn ReadStore, keys: &ArchiveKeys) -> Result<CatalogState> {
    let checkpoints = list(storage)?;
    // After the checkpoints are listed, because other processes may be adding both.
    let newest_entry = entries::newest(storage)?.unwrap_or(0);
    for sequence in checkpoints.into_iter().rev() {
        let path = checkpoint_path(sequence);
        if sequence > newest_entry {
            let expected = format_args!("entry {sequence}, as there is a checkpoint of it");
            let found = format_args!("entry {newest_entry}");
            return Err(Error::damage(
                DamageKind::Missing,
                path,
                0,
                "newest catalog entry",
                expected,
                found,
            ));
        }
        match read(storage, keys, sequence) {
            Ok(Some(state)) => {
                let found = entry_digest(storage, sequence)?;
                if found == state.head {
                    return Ok(state);
                }
                let (expected, found) = (hex(&state.head), hex(&found));
                let what = "catalog entry of a checkpoint";
                return Err(Error::damage(
                    DamageKind::Chain,
                    names::entry_path(sequence),
                    0,
                    what,
                    expected,
                    found,
                ));
            }
            Ok(None) => {}
            Err(error) if error.is_damage() || matches!(error, Error::FormatTooNew { .. }) => {
                tracing::warn!(%error, "a checkpoint of the catalog is done without");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(CatalogState::default())
}

/// The state that a checkpoint holds; `None` if it was deleted meanwhile, or if a newer build wrote
/// it, whose events this build may not know.
fn read(
    storage: &dyn ReadStore,
    keys: &ArchiveKeys,
    sequence: u64,
) -> Result<Option<CatalogState>> {
    let path = checkpoint_path(sequence);
    match storage.open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let file = SealedFile::open(storage, keys, &path, FileKind::Checkpoint)?;
    let checkpoint: Checkpoint = read_body(&file, "checkpoint of the catalog")?;
    if checkpoint.newest_event > NEWEST_EVENT {
        return Ok(None);
    }
    let (state, header) = (checkpoint.state, file.header());
    if (state.entries, state.head) != (sequence, header.link) || header.sequence != sequence {
        let (expected, found) =
            (format_args!("entry {sequence}"), format_args!("entry {}", state.entries));
        return Err(Error::damage(
            DamageKind::Chain,
            path,
            96,
            "checkpoint of the catalog",
            expected,
            found,
        ));
    }
    // Entries are checked when they are folded. This check ensures that walking from a timeline to
    // its parent ends.
    if let Some((id, _)) = state.nodes.iter().find(|(_, record)| !record.is_rooted()) {
        let (expected, found) =
            ("each timeline forked from an older one", format_args!("another of node {id}"));
        return Err(Error::damage(
            DamageKind::Structure,
            path,
            file.header_len(),
            "timelines",
            expected,
            found,
        ));
    }
    Ok(Some(state))
}
