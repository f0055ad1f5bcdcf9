//! Finished files, mapped into memory: the one place of the library with unsafe code.
//!
//! Owns when a file may be mapped, and the map itself. Never maps a file that may still grow. A map
//! stays inside of the directory's own reads, which copy out of it.
//!
//! A map is no copy. What others do to the file shows in it, and where they cut it, or where the
//! disk cannot read a page of it, touching that page ends the process with SIGBUS. Hence it is
//! asked for ([`FsStorage::mapped`](super::FsStorage::mapped)), and hence the copy: no byte of a
//! map is read once to be checked and once more to be used, and whoever reads a file need not know
//! whether it is mapped. It is never [lent](super::ReadFile::lend).
//!
//! Nothing here is on disk, so a crash leaves nothing.
#![expect(
    unsafe_code,
    reason = "a file cannot be mapped by safe code: another process may change it"
)]

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use memmap2::Mmap;

/// Shorter files cost less to read than to map: a call, a fault, and a flush of all cores' tables.
const SHORTEST: u64 = 64 << 10;

/// Whether a file is finished and long enough to be mapped. A finished file is read-only by its
/// mode, which it is given before it is complete under its name; a growing one is not.
pub(super) fn is_worth_it(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.mode() & 0o222 == 0 && metadata.len() >= SHORTEST
}

/// Maps a file, as long as it is now. `None` where that cannot be had, for want of address space or
/// on a file system without maps: the file can be read all the same.
pub(super) fn map(file: &File) -> Option<Bytes> {
    // SAFETY: `Mmap::map` asks that the file is neither changed nor cut for as long as the map is
    // there. This process does neither: storage has no call that overwrites or cuts a finished
    // file, deleting one takes its name and not its bytes, and the map is private and read-only.
    // Another process can, against the file's mode. It is then told apart:
    // - cut: the kernel raises SIGBUS, which ends the process and exposes no other memory;
    // - changed: the bytes are plain integers, of which every pattern is valid, and all that is
    //   done with them is to copy them: what is checked, and then used, is memory of our own. A
    //   cipher is never given the map, as it may read ciphertext once to check it and once more to
    //   decrypt it. The map is owned by the `Bytes`, and unmapped when the last clone of it is
    //   dropped.
    match unsafe { Mmap::map(file) } {
        Ok(map) => Some(Bytes::from_owner(map)),
        Err(error) => {
            tracing::debug!(%error, "a file could not be mapped, and is read");
            None
        }
    }
}

/// Whether this process has a map of a file, whoever made it.
#[cfg(test)]
pub(crate) fn is_mapped(path: &std::path::Path) -> bool {
    let path = path.canonicalize().expect("a file that is there");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the process's own maps");
    maps.lines().any(|map| map.ends_with(&format!(" {}", path.display())))
}
