//! Whole files over the calls of a storage in which files grow: written under a temporary name,
//! then published.
//!
//! Knows nothing of what a file holds. Invariant: the temporary file is locked for as long as it is
//! written, so that one which nobody has locked is nobody's. A crash leaves the file whole under
//! its name, or such a temporary file, which the next sweep removes.

use std::io::{self, ErrorKind};

use super::{LockGuard, ReadFile, Storage};
use crate::env::{SystemRng, random};
use crate::names::{Scope, TMP, parent, way_to};
use crate::types::{FileId, as_index};

/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

/// How often a sweeper may take the temporary file, not locked yet, for one that a crash left.
const TRIES: u32 = 3;

/// [`BlobStore::put`](super::BlobStore::put) for a storage that has no better way: under `tmp/`
/// first, then published.
pub fn put_by_publishing(
    storage: &dyn Storage,
    path: &str,
    source: &dyn ReadFile,
) -> io::Result<()> {
    // It is refused as it would be in the end, before anything is copied.
    match storage.open(path) {
        Ok(_) => return Err(ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    storage.create_dir("")?;
    let dirs = [TMP, parent(path)];
    dirs.into_iter().flat_map(way_to).try_for_each(|dir| storage.create_dir_durable(dir))?;
    let mut tries = 0;
    loop {
        let id = random(&SystemRng).map_err(io::Error::other)?;
        let temporary = Scope::Put.path(FileId::from_bytes(id));
        tries += 1;
        let Err(e) = attempt(storage, &temporary, path, source) else { break };
        // Best effort: what stays is removed by the next sweep.
        let _ = storage.delete(&temporary);
        if e.kind() != ErrorKind::NotFound || tries >= TRIES {
            return Err(e);
        }
    }
    storage.sync_dir(parent(path))?;
    super::protect(storage, path);
    Ok(())
}

fn attempt(
    storage: &dyn Storage,
    temporary: &str,
    path: &str,
    source: &dyn ReadFile,
) -> io::Result<()> {
    let mut file = storage.create(temporary)?;
    let lock: Option<Box<dyn LockGuard>> = storage.try_lock(temporary)?;
    let swept = || io::Error::new(ErrorKind::NotFound, "a sweeper has taken it for a leftover");
    if lock.is_none() {
        return Err(swept());
    }
    let len = source.len()?;
    let mut piece = vec![0; as_index(len.min(PIECE))];
    let mut at = 0;
    while at < len {
        let want = as_index((len - at).min(PIECE));
        let piece = piece.get_mut(..want).expect("the buffer takes the longest piece there is");
        super::fill_exactly(source, at, piece)?;
        file.append(piece)?;
        at += want as u64;
    }
    file.finish()?;
    // Where a sweeper was done with it before it was locked, to lock it created another one, which
    // is empty; not every storage tells of a file being written that it has lost its name.
    if storage.open(temporary)?.len()? != len {
        return Err(swept());
    }
    storage.publish(temporary, path)
}
