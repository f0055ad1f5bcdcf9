//! A database, or the place for one, that nobody else uses: what a restore in place needs.
//!
//! SQLite's connections in WAL mode hold a POSIX lock on the database file from their first read to
//! their end, and one on the index; in the other modes during transactions. A lock on all of the
//! file refuses, and is refused by, each of them. The watcher's lock is on a file of its own.
//!
//! Invariant: what refuses has written nothing. The locks belong to the process: they tell of other
//! processes, not of this one, whose own are looked for in the kernel's list of locks before any of
//! the files is opened.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rewound_dir::{WrongKind, lock_alone, open_path_to_write};
use rustix::fs::OFlags;

use super::error::{Error, Result};
use super::files::beside;
use super::locks::is_locked_here;

/// A link is not followed, and a pipe not waited for.
const CAREFUL: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// Keeps everybody else from using a database, for as long as it lives: connections of other
/// processes, whether they are there or come, and watchers.
///
/// A process that uses the database itself is refused as well, before a descriptor is opened: POSIX
/// gives up all locks that it has on a file when it closes one. It must not begin to use it while
/// this lives.
#[derive(Debug)]
#[must_use = "the database is free again as soon as this is dropped"]
pub struct Alone {
    _others: Others,
    /// Closed last: whoever gets it finds the others free.
    file: Option<File>,
}

impl Alone {
    /// Takes the locks of the database at `path`, which may be missing. A link is not followed.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] where anybody has it open; [`Error::AlreadyWatched`]; [`Error::Leftover`]
    /// where the log of a database lies there, which SQLite would play into what is put there.
    pub fn hold(path: impl AsRef<Path>) -> Result<Alone> {
        let path = path.as_ref();
        Others::hold(path)?.and_file(path)
    }

    /// The database file, where there is one, for reading and writing.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

/// The locks of a database that are not on the file itself.
#[derive(Debug)]
pub(super) struct Others {
    _index: Option<File>,
    _watched: Option<File>,
}

impl Others {
    pub fn hold(path: &Path) -> Result<Others> {
        // Where there is no such file nobody has ever watched, and who begins to meets the other
        // locks. It has no POSIX locks, so it comes first: what this process has on the other files
        // outlives a look at them only where they are not opened.
        let at = beside(path, "-rewound");
        let watched = open(&at)?;
        match watched.as_ref().map(File::try_lock) {
            None | Some(Ok(())) => {}
            Some(Err(TryLockError::WouldBlock)) => {
                return Err(Error::AlreadyWatched { path: path.to_owned() });
            }
            Some(Err(TryLockError::Error(e))) => return Err(Error::io("lock", at, e)),
        }
        // A process whose database was moved away or removed still has the index of this name.
        let at = beside(path, "-shm");
        if is_locked_here(path)? || is_locked_here(&at)? {
            return Err(Error::InUse { path: path.to_owned() });
        }
        let index = open(&at)?;
        if let Some(file) = &index {
            lock(file, &at).map_err(|e| match e {
                Error::InUse { .. } => Error::InUse { path: path.to_owned() },
                e => e,
            })?;
        }
        Ok(Others { _index: index, _watched: watched })
    }

    /// Locks the file as well, and looks for logs once nobody can begin one.
    pub fn and_file(self, path: &Path) -> Result<Alone> {
        let file = open(path)?;
        if let Some(file) = &file {
            lock(file, path)?;
        }
        match leftover(path) {
            Some(log) => Err(Error::Leftover { log }),
            None => Ok(Alone { file, _others: self }),
        }
    }
}

/// The log beside a database, if there is anything in it. A rollback journal whose first byte is
/// zero counts for nothing.
pub(super) fn leftover(database: &Path) -> Option<PathBuf> {
    let holds = |path: &PathBuf| path.symlink_metadata().is_ok_and(|m| m.len() > 0 || !m.is_file());
    let log = Some(beside(database, "-wal")).filter(holds);
    log.or_else(|| Some(beside(database, "-journal")).filter(|path| holds(path) && !is_over(path)))
}

/// Whether a rollback journal is one that SQLite keeps for the next transaction.
fn is_over(journal: &Path) -> bool {
    use std::io::Read;
    let mut first = [1];
    let file =
        OpenOptions::new().read(true).custom_flags(CAREFUL.bits().cast_signed()).open(journal);
    file.and_then(|mut f| f.read_exact(&mut first)).is_ok() && first == [0]
}

pub(super) fn refused(path: &Path, reason: &str) -> Error {
    Error::Refused { path: path.to_owned(), reason: reason.to_owned() }
}

fn open(path: &Path) -> Result<Option<File>> {
    let file = match open_path_to_write(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(match WrongKind::of(&e).map(|wrong| wrong.found) {
                Some("a symbolic link") => {
                    refused(path, "it is a symbolic link: name the file itself")
                }
                Some(_) => refused(path, "it is no regular file"),
                None => Error::io("open", path, e),
            });
        }
    };
    let found = file.metadata().map_err(|e| Error::io("look at", path, e))?;
    if found.nlink() > 1 {
        let reason = "it has a second name (a hard link), under which its log may lie: remove that name first";
        return Err(refused(path, reason));
    }
    Ok(Some(file))
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match lock_alone(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::InUse { path: path.to_owned() }),
        Err(e) => Err(Error::io("lock", path, e)),
    }
}
