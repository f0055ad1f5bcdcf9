//! Finished files, mapped into memory: the one place of the library with unsafe code.
//!
//! Owns when a file may be mapped, and the map itself. Never maps a file that may still grow, and
//! hands a map out for reading only.
//!
//! A map is no copy. What others do to the file shows in it, and where they cut it, or where the
//! disk cannot read a page of it, touching that page ends the process with SIGBUS. Hence it is
//! asked for ([`FsStorage::mapped`](super::FsStorage::mapped)), and hence the rule of
//! [`ReadFile::map`](super::ReadFile::map): no byte is read once to be checked and once more to be
//! used.
//!
//! Nothing here is on disk, so a crash leaves nothing.
#![expect(unsafe_code, reason = "a file cannot be mapped by safe code: another process may change it")]

use std::fs::{File, Metadata};
use std::io;
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

/// Maps a file, as long as it is now.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: `Mmap::map` asks that the file is neither changed nor cut for as long as the map is
    // there. This process does neither: storage has no call that overwrites or cuts a finished
    // file, deleting one takes its name and not its bytes, and the map is private and read-only.
    // Another process can, against the file's mode. It is then told apart:
    // - cut: the kernel raises SIGBUS, which ends the process and exposes no other memory;
    // - changed: the bytes are plain integers, of which every pattern is valid, and all that is done
    //   with them is to copy them: what is checked, and then used, is memory of our own. A cipher is
    //   never given the map, as it may read ciphertext once to check it and once more to decrypt it.
    // The map is owned by the `Bytes`, and unmapped when the last clone of it is dropped.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}
