//! Where sealed files live. Owns directory entries and bytes; knows nothing of
//! formats, keys or what a file is for.
//!
//! Stores differ in what they can do: files are read from a [`ReadStore`], a [`BlobStore`] also
//! takes finished ones, and files grow in a [`Storage`]. Code that only reads takes a
//! [`ReadStore`].
//!
//! Storage is create-only: no call overwrites a byte that was written or replaces a name that
//! exists. A file is born under a temporary name or its own, grows at its end while its creator
//! holds it, and is immutable from then on. Retention removes history; besides it only temporary
//! files, leases and superseded checkpoints are removed.
//!
//! Media assumptions (what an implementation must give, and what the crash
//! tests take away): bytes written and a directory entry made are durable only
//! after `sync` of the file and `sync_dir` of its directory; until then a crash
//! may keep any subset of them. `publish` is atomic.
//!
//! Paths are relative to the archive, with `/` between components, each made of
//! `[0-9a-z._-]`.

mod calls;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod fs;
mod map;
mod memory;
mod path;
mod put;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
pub(crate) use calls::{AppendFileCalls, Calls, ReadCalls, ReadFileCalls};
pub use fs::FsStorage;
#[cfg(test)]
pub(crate) use map::is_mapped;
pub use memory::{CrashPlan, MemStorage, Operation, Unsynced};
pub use put::put_by_publishing;

use crate::error::{Error, Result};
use crate::names;
use crate::types::as_index;

/// A place that files are read from: all that the code which looks, plans and rebuilds needs of it.
/// Errors are the system's own; callers add path and meaning.
pub trait ReadStore: Debug + Send + Sync {
    /// Opens a file for reading. The file may still be growing. Never waits, and never opens what
    /// is no file.
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>>;

    /// Names and lengths in a directory, in no order; empty where there is none. A store without
    /// directories makes them of the names: what lies between `dir/` and the next `/`.
    fn list(&self, dir: &str) -> io::Result<Vec<Entry>>;

    /// Whether this still is the place that it was when it was first used. `NotFound`, with words,
    /// if it was removed, moved away, or replaced by another: what is open goes on working then,
    /// and what is written to it is lost.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// Where this is, for messages.
    fn location(&self) -> String;
}

/// A place that takes finished files whole, as an object store does.
pub trait BlobStore: ReadStore {
    /// Stores a file under a name that is not taken, with any directories it needs. It is there
    /// whole or not at all, whatever happens meanwhile, and durable on return. Fails with
    /// `AlreadyExists` where the name is taken, and leaves what has it as it is.
    ///
    /// The source is read from its beginning to the length that it has at first, in pieces: memory
    /// is bounded, however long it is. It may be read again, after a failure on the way. An
    /// implementation over the calls of [`Storage`] is [`put_by_publishing`].
    fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()>;

    /// Removes a file. `NotFound` where there is none. Called by retention, and for temporary
    /// files, leases and superseded checkpoints.
    fn delete(&self, path: &str) -> io::Result<()>;
}

/// A place that a log is written to: files grow in it, and writers keep each other out.
pub trait Storage: BlobStore {
    /// Creates a file that is not there yet, for appending. Fails with
    /// `AlreadyExists` where the name is taken.
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>>;

    /// Gives a file its final name: atomic, and fails with `AlreadyExists`
    /// where that name is taken, leaving both as they were. Durable after
    /// `sync_dir` of the new parent.
    fn publish(&self, from: &str, to: &str) -> io::Result<()>;

    /// Called once a file is complete under its final name: the place to make it immutable by
    /// whatever means there are. What is immutable must give way to [`delete`](BlobStore::delete).
    /// Fails at no cost but that protection.
    fn protect(&self, path: &str) -> io::Result<()> {
        let _ = path;
        Ok(())
    }

    /// Makes bytes durable that an earlier process wrote to this file.
    fn sync_file(&self, path: &str) -> io::Result<()>;

    /// Forgets what is cached of a file from an offset on, so that it is next read from the medium.
    /// After a failed sync the system may hold bytes that look written and are not on the medium; a
    /// writer that builds on what an earlier one left must not be shown those.
    fn evict(&self, path: &str, from: u64) -> io::Result<()> {
        let _ = (path, from);
        Ok(())
    }

    /// Creates a directory; no error where it exists. Durable after `sync_dir` of its parent.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Makes the entries of a directory durable. `""` is the archive itself.
    fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Creates a directory where it is not there, and makes its entry in the parent durable, which
    /// must be there. An implementation that knows of an entry that it is durable need not sync it
    /// again.
    fn create_dir_durable(&self, path: &str) -> io::Result<()> {
        self.create_dir(path)?;
        self.sync_dir(names::parent(path))
    }

    /// Takes an exclusive lock that ends with the guard or the process; `None`
    /// where somebody else holds it.
    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>>;

    /// Goes on in what is at this place now, where that is no longer what was opened. Calls `prove`
    /// with it first, and leaves everything as it was if that fails.
    fn reopen(&self, prove: &dyn Fn(&Arc<dyn Storage>) -> Result<()>) -> Result<()> {
        let _ = prove;
        Ok(())
    }

    /// What tells the file of this name from any other that may take its name while the file is
    /// open; `None` if this storage cannot tell.
    fn identity(&self, path: &str) -> io::Result<Option<FileIdentity>> {
        let _ = path;
        Ok(None)
    }

    /// Bytes that can still be written; `None` where that is not known.
    fn free_space(&self) -> io::Result<Option<u64>>;
}

/// A file being written by the process that created it.
pub trait AppendFile: Debug + Send {
    /// Adds bytes at the end. On an error an unknown part of them may be there:
    /// the file must not be appended to again.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended durable. After an error nothing may be assumed
    /// of what was appended since the last success. `NotFound` if the file was removed meanwhile.
    fn sync(&mut self) -> io::Result<()>;

    /// Bytes appended so far.
    fn len(&self) -> u64;

    /// Whether nothing was appended yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its [identity](Storage::identity).
    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        Ok(None)
    }

    /// Hints that small synced appends will come, so that zeroed space ahead of
    /// the end pays off: readers may then see zeros past the end.
    fn expect_small_appends(&mut self) {}

    /// Cuts what was reserved past the end and makes the file durable and read-only.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A file being read.
#[expect(
    clippy::len_without_is_empty,
    reason = "its length is a question to the system, not a count"
)]
pub trait ReadFile: Debug + Send + Sync {
    /// Fills the buffer from `offset`; returns how much there was before the end of the file. If it
    /// returns less, it is asked again for the rest.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Its length now, with any zeroed space at its end.
    fn len(&self) -> io::Result<u64>;

    /// The whole file as it is now, where it lies in memory anyway and can be lent without a copy.
    /// What is lent never changes: a mapping of a file that somebody else can write does not
    /// qualify.
    fn lend(&self) -> Option<Bytes> {
        None
    }
}

/// A file that lies in memory.
impl ReadFile for Bytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.get(as_index(offset)..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(Bytes::len(self) as u64)
    }

    fn lend(&self) -> Option<Bytes> {
        Some(self.clone())
    }
}

/// An exclusive lock, held until dropped.
pub trait LockGuard: Debug + Send + Sync {
    /// The [identity](Storage::identity) of the file that is locked.
    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        Ok(None)
    }
}

/// Tells files apart while they are open: device and inode, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// What the file is on.
    pub device: u64,
    /// Which file it is there.
    pub inode: u64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, without the directory.
    pub name: String,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// After so many reads that return nothing before the end of a file, the storage is at fault.
const EMPTY_READS: u32 = 3;

/// What a file says whose earlier write or sync failed.
fn failed_before() -> io::Error {
    io::Error::other("an earlier write or sync of this file failed: go on in a new file")
}

/// Proves that a storage still is the place that was opened.
pub(crate) fn check_place(storage: &dyn ReadStore) -> Result<()> {
    storage.check().map_err(|e| displaced("check", &storage.location(), e))
}

/// Proves that a file which is held open still has its name: what is written to one without a name
/// is lost.
pub(crate) fn check_name(
    storage: &dyn Storage,
    path: &str,
    held: io::Result<Option<FileIdentity>>,
) -> Result<()> {
    let Some(held) = held.map_err(|e| Error::io("stat", path, e))? else { return Ok(()) };
    match storage.identity(path).map_err(|e| displaced("stat", path, e))? {
        Some(found) if found != held => {
            Err(Error::Displaced { path: path.to_owned(), found: "another file".into() })
        }
        _ => Ok(()),
    }
}

/// The failure of a call on something that was open: not to be found, no longer known to a file
/// server, or behind what is no directory means that it is gone from its place.
pub(crate) fn displaced(operation: &'static str, path: &str, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::StaleNetworkFileHandle => {
            Error::Displaced { path: path.to_owned(), found: e.to_string() }
        }
        _ => Error::io(operation, path, e),
    }
}

/// Creates a directory and its missing parents, each durable in its parent.
pub(crate) fn create_dir_durable(storage: &dyn Storage, path: &str) -> Result<()> {
    for dir in names::way_to(path) {
        if let Err(e) = storage.create_dir_durable(dir) {
            // The parent is there: it was just created, or is the archive itself, unless that is
            // gone.
            check_place(storage)?;
            return Err(Error::io("create directory", dir, e));
        }
    }
    Ok(())
}

/// Gives a finished temporary file its final, durable name; `false` where that name is taken.
pub(crate) fn publish_durable(storage: &dyn Storage, from: &str, to: &str) -> Result<bool> {
    match storage.publish(from, to) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        // Whoever finds the name taken may remove a temporary file that was meant for it.
        Err(e) if e.kind() == io::ErrorKind::NotFound && storage.open(to).is_ok() => {
            return Ok(false);
        }
        Err(e) => return Err(Error::io("publish", to, e)),
    }
    let dir = names::parent(to);
    storage.dir_synced(dir)?;
    Ok(true)
}

/// Asks storage to protect a file that is complete. The file is whole and durable whether that
/// works or not.
pub(crate) fn protect(storage: &dyn Storage, path: &str) {
    if let Err(error) = storage.protect(path) {
        tracing::warn!(path, %error, "a complete file could not be made immutable");
    }
}

/// Fills `buf` from `offset` on, where the file must have that much.
fn fill_exactly(file: &dyn ReadFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset.saturating_add(filled as u64), rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => filled += got.min(rest.len()),
        }
    }
    Ok(())
}

/// Reads exactly `len` bytes at `offset`, or fewer at the end of the file.
pub(crate) fn read_range(
    file: &dyn ReadFile,
    path: &str,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let got = read_full(file, path, offset, &mut buf)?;
    buf.truncate(got);
    Ok(buf)
}

/// Fills `buf` from `offset`; returns how much there was before the end of the file. What a read
/// leaves out is asked for again: taken for the end of the file, it would pass for a torn tail, and
/// commits would be cut off.
pub(crate) fn read_full(
    file: &dyn ReadFile,
    path: &str,
    offset: u64,
    buf: &mut [u8],
) -> Result<usize> {
    let mut filled = 0;
    // Reads in a row that returned nothing though the file goes on. It may have grown or been cut
    // in between, but not again and again.
    let mut empty = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(filled as u64);
        match file.read_at(at, rest).map_err(|e| Error::io("read", path, e))? {
            0 if file.length(path)? <= at => break,
            0 if empty == EMPTY_READS => {
                return Err(Error::io("read", path, io::ErrorKind::UnexpectedEof.into()));
            }
            0 => empty += 1,
            got => (filled, empty) = (filled + got.min(rest.len()), 0),
        }
    }
    Ok(filled)
}
