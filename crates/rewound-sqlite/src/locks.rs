//! Who holds POSIX locks on the files of a database.
//!
//! Only asks, and takes none. A lock that this process holds is seen by no such question; the
//! kernel's list of all locks has it.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

use super::error::{Error, Result};

/// Where the kernel lists all locks there are.
const LOCKS: &str = "/proc/locks";

/// Another process that holds a lock. One that this process's namespace does not have, such as that
/// of another container, has no number here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder(Option<Pid>);

impl Holder {
    pub fn of(lock: &Flock) -> Holder {
        Holder(lock.pid)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process (of another container)"),
        }
    }
}

/// The lock of another process that keeps one of this kind from being had; it is not taken.
pub(super) fn ask(
    file: &File,
    path: &Path,
    how: FlockType,
    (start, length): (u64, u64),
) -> Result<Option<Flock>> {
    let lock = Flock { start, length, ..Flock::from(how) };
    fcntl_getlk(file, &lock).map_err(|e| Error::io("look at the locks on", path, e))
}

/// A lock of another process on these bytes, for itself or with others.
pub(super) fn lock_of_another(
    file: &File,
    path: &Path,
    bytes: (u64, u64),
) -> Result<Option<Flock>> {
    ask(file, path, FlockType::WriteLock, bytes)
}

/// A POSIX lock that this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnLock {
    pub for_itself: bool,
    pub first: u64,
    pub last: u64,
}

/// The POSIX locks that this process has on a file. The kernel lists all there are; no call asks
/// for one's own.
pub(super) fn own_locks(file: &Metadata) -> Result<Vec<OwnLock>> {
    let (number, process) = (file.ino().to_string(), std::process::id().to_string());
    let listed = std::fs::read_to_string(LOCKS).map_err(|e| Error::io("read", LOCKS, e))?;
    let own = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "POSIX", _, how, pid, file, first, last] = fields.as_slice() else { return None };
        let last = if *last == "EOF" { u64::MAX } else { last.parse().ok()? };
        let lock = OwnLock { for_itself: *how == "WRITE", first: first.parse().ok()?, last };
        // The number of the device that is listed is not the one that `stat` gives on every file
        // system.
        (*pid == process && file.rsplit(':').next() == Some(number.as_str())).then_some(lock)
    };
    Ok(listed.lines().filter_map(own).collect())
}

/// Whether this process has a POSIX lock on a file: to open it and close it again would give that
/// up.
pub(super) fn is_locked_here(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(file) => Ok(!own_locks(&file)?.is_empty()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}
