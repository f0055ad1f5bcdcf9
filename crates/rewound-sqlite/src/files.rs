//! The files of a database, and how they are held open.
//!
//! SQLite guards a database with POSIX locks, and POSIX gives up all locks that a process has on a
//! file as soon as the process closes *any* descriptor of it. So a descriptor of the database file
//! or of its index, once opened here, is kept for the rest of the process's life, one for each
//! file: whoever else in the process uses SQLite on it, now or later, keeps its locks. The log
//! (`-wal`) carries no locks and is not concerned. Who holds which lock is asked in
//! [`locks`](super::locks).

use std::collections::HashMap;
use std::fs::{File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use rewound_dir::{Access, Dir, WrongKind, open_path};
use rustix::process::FlockType;

use super::error::{Error, Result};
use super::format::{DATABASE_HEADER, DatabaseHeader, INDEX_HEADER, IndexHeader, first_of};
use super::locks::{Holder, OwnLock, ask, lock_of_another, own_locks};

/// Device and number of a file.
type FileKey = (u64, u64);

/// The bytes of a database file of which every connection in WAL mode keeps a lock: first, and how
/// many.
const CONNECTED: (u64, u64) = (0x4000_0002, 510);
/// How long a connection may take from the one to the other.
const CONNECTING: Duration = Duration::from_millis(50);
/// The byte of an index of which every process keeps a lock that uses it.
const IN_USE: (u64, u64) = (128, 1);

static KEPT: Mutex<Option<HashMap<FileKey, Arc<File>>>> = Mutex::new(None);

/// Opens a file that SQLite locks, for reading, for the rest of the process's life.
fn open_kept(path: &Path) -> Result<Arc<File>> {
    let mut guard = KEPT.lock();
    let kept = guard.get_or_insert_default();
    // Looked up by name first: opening what is open already would mean closing it again.
    let there = std::fs::metadata(path).map_err(|e| Error::io("look at", path, e))?;
    if let Some(file) = kept.get(&(there.dev(), there.ino())) {
        return Ok(Arc::clone(file));
    }
    let file = Arc::new(open_path(path).map_err(|e| match WrongKind::of(&e) {
        Some(wrong) => Error::NotADatabase { path: path.to_owned(), reason: wrong.to_string() },
        None => Error::io("open", path, e),
    })?);
    let opened = file.metadata().map_err(|e| Error::io("look at", path, e))?;
    let key = (opened.dev(), opened.ino());
    if let Some(file) = kept.get(&key) {
        // Renamed in between. It must not be closed, so it is never freed.
        std::mem::forget(Arc::clone(file));
    }
    kept.insert(key, Arc::clone(&file));
    Ok(file)
}

/// Whether a name still stands for an open file.
pub(super) fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Another process that is connected through a file whose name stands for something else by now, or
/// for nothing.
fn left_behind(file: &File, path: &Path, bytes: (u64, u64)) -> Result<Option<Holder>> {
    if is_same(file, path) {
        return Ok(None);
    }
    Ok(lock_of_another(file, path, bytes)?.map(|lock| Holder::of(&lock)))
}

/// The file beside a database whose name ends so.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where the files of a database are.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// As it was given, made absolute: links in it may come to stand for something else.
    given: PathBuf,
    /// With all links followed.
    pub database: PathBuf,
    pub wal: PathBuf,
    pub index: PathBuf,
    pub lock: PathBuf,
}

impl Paths {
    /// Of the database at `path`; follows links, as SQLite does.
    pub fn of(path: &Path) -> Result<Paths> {
        let database = std::fs::canonicalize(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::NoDatabase { path: path.to_owned() },
            _ => Error::io("resolve", path, e),
        })?;
        let with = |suffix| beside(&database, suffix);
        let given = std::path::absolute(path).map_err(|e| Error::io("resolve", path, e))?;
        Ok(Paths {
            wal: with("-wal"),
            index: with("-shm"),
            lock: with("-rewound"),
            given,
            database,
        })
    }

    /// What the name that was given stands for now.
    pub fn again(&self) -> Result<Paths> {
        Paths::of(&self.given)
    }

    /// An error where the name that was given does not stand for this place any more.
    pub fn check_name(&self) -> Result<()> {
        match std::fs::canonicalize(&self.given) {
            Ok(now) if now == self.database => Ok(()),
            Ok(now) => Err(Error::Inconsistent {
                reason: format!(
                    "{} stands for {} now, no longer for {}",
                    self.given.display(),
                    now.display(),
                    self.database.display()
                ),
            }),
            Err(e) => Err(Error::Inconsistent {
                reason: format!(
                    "{} does not lead to {} any more: {e}",
                    self.given.display(),
                    self.database.display()
                ),
            }),
        }
    }

    /// Keeps a second watcher out for as long as the file lives. The lock is on a file of its own,
    /// as SQLite has locks on the others. Whoever can write to the database can lock it.
    pub fn lock(&self) -> Result<File> {
        let file = self.open_lock().map_err(|e| Error::io("open", &self.lock, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(Error::AlreadyWatched { path: self.database.clone() })
            }
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &self.lock, e)),
        }
    }
}

impl Paths {
    /// The file of the lock; created where it is not there, with owner and group of the database,
    /// for all who can write to that.
    fn open_lock(&self) -> std::io::Result<File> {
        let (Some(parent), Some(name)) = (self.lock.parent(), self.lock.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let (dir, database) = (Dir::open(parent)?, std::fs::metadata(&self.database)?);
        loop {
            match dir.open_file_to_write(name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                found => return found,
            }
            let of = Access::of(&database);
            let writers = of.mode & 0o022;
            match dir.create(name, Access { mode: 0o600 | writers | writers << 1, ..of }) {
                // By somebody else, since.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
    }
}

/// When a file was last written to, and its length then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Stamp(#[n(0)] i64, #[n(1)] i64, #[n(2)] u64);

impl Stamp {
    #[cfg(test)]
    pub fn new(seconds: i64, nanos: i64, length: u64) -> Stamp {
        Stamp(seconds, nanos, length)
    }

    /// Since the Unix epoch.
    pub fn written(&self) -> Duration {
        // Before the epoch, or of a file that holds something else: long ago.
        Duration::new(self.0.try_into().unwrap_or(0), self.1.try_into().unwrap_or(0))
    }
}

/// The database file, read only.
#[derive(Clone, Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    file: Arc<File>,
}

impl DatabaseFile {
    pub fn open(paths: &Paths) -> Result<DatabaseFile> {
        Ok(DatabaseFile { path: paths.database.clone(), file: open_kept(&paths.database)? })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether both are one open file: it was never closed in between.
    pub fn is(&self, other: &DatabaseFile) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }

    /// Another process that has this file open as a database, although its name stands for another
    /// one.
    pub fn left_behind(&self) -> Result<Option<Holder>> {
        left_behind(&self.file, &self.path, CONNECTED)
    }

    /// Another process that is connected in WAL mode, while no other process uses the index of this
    /// name: its own has lost that name. One that is just connecting is waited for, a moment.
    pub fn connected_without_index(&self, paths: &Paths) -> Result<Option<Holder>> {
        let begun = Instant::now();
        loop {
            // One that has the file for itself (locking_mode=EXCLUSIVE) needs no index.
            let connected = lock_of_another(&self.file, &self.path, CONNECTED)?;
            let connected = connected.filter(|lock| lock.typ == FlockType::ReadLock);
            let Some(lock) = connected else { return Ok(None) };
            let index = match open_kept(&paths.index) {
                Err(_) if !paths.index.exists() => None,
                index => Some(index?),
            };
            if let Some(index) = index
                && lock_of_another(&index, &paths.index, IN_USE)?.is_some()
            {
                return Ok(None);
            }
            if begun.elapsed() >= CONNECTING {
                return Ok(Some(Holder::of(&lock)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn len(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    /// Changes whenever somebody writes to the file.
    pub fn stamp(&self) -> Result<Stamp> {
        let of = self.metadata()?;
        Ok(Stamp(of.mtime(), of.mtime_nsec(), of.len()))
    }

    fn metadata(&self) -> Result<Metadata> {
        self.file.metadata().map_err(|e| Error::io("look at", &self.path, e))
    }

    /// Its header, as it is in the file, where it is that of a database.
    pub fn header(&self) -> Result<DatabaseHeader> {
        let mut bytes = [0; DATABASE_HEADER];
        let len = self.read(0, &mut bytes)? as u64;
        let refused = |reason: &str| Error::NotADatabase {
            path: self.path.clone(),
            reason: reason.to_owned(),
        };
        if len == 0 {
            return Err(refused(
                "it is empty; create the database first, and switch it to WAL mode",
            ));
        }
        let header = DatabaseHeader::decode(first_of(&bytes, len));
        header.filter(|h| rewound::PageSize::new(h.page_size).is_some()).ok_or_else(|| {
            refused("it does not begin as one does (an encrypted database cannot be watched)")
        })
    }

    /// Reads at an offset; what lies beyond the end of the file is zero. Gives the number of bytes
    /// that were there.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        buf.get_mut(done..).expect("no more is read than fits").fill(0);
        Ok(done)
    }
}

/// The byte of the index that SQLite locks.
#[derive(Clone, Copy, Debug)]
pub(super) enum IndexLock {
    /// By whoever writes, and by a checkpoint that waits.
    Writer = 120,
    /// By whoever is at a checkpoint.
    Checkpoint = 121,
    /// By a checkpoint while it copies, and by readers that need nothing of the log.
    Slot0 = 123,
}

/// The log's index (`-shm`), read only.
#[derive(Clone, Debug)]
pub(super) struct IndexFile {
    path: PathBuf,
    file: Arc<File>,
    delay: Duration,
}

impl IndexFile {
    /// It is there once a connection has begun to read. Each look at it begins after `delay`.
    pub fn open(paths: &Paths, delay: Duration) -> Result<IndexFile> {
        Ok(IndexFile { path: paths.index.clone(), file: open_kept(&paths.index)?, delay })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether another process has one of SQLite's locks for itself. What this process has is not
    /// seen.
    pub fn is_locked_elsewhere(&self, lock: IndexLock) -> Result<bool> {
        self.is_refused(lock, FlockType::ReadLock)
    }

    /// Whether another process has begun to read what needs nothing of the log. What this process
    /// reads is not seen.
    pub fn is_read_elsewhere(&self) -> Result<bool> {
        self.is_refused(IndexLock::Slot0, FlockType::WriteLock)
    }

    /// Whether another process keeps a lock from being had. It is asked for and not taken.
    fn is_refused(&self, lock: IndexLock, how: FlockType) -> Result<bool> {
        Ok(ask(&self.file, &self.path, how, (lock as u64, 1))?.is_some())
    }

    /// Another process that uses this file as an index, although its name stands for another one:
    /// what that process commits is not in that one.
    pub fn left_behind(&self) -> Result<Option<Holder>> {
        left_behind(&self.file, &self.path, IN_USE)
    }

    /// Whether somebody is at a checkpoint that waits: it has the write lock as well.
    pub fn is_waiting_checkpoint(&self) -> Result<bool> {
        let elsewhere = self.is_locked_elsewhere(IndexLock::Checkpoint)?
            && self.is_locked_elsewhere(IndexLock::Writer)?;
        Ok(elsewhere || self.are_locked_here(IndexLock::Writer, IndexLock::Checkpoint)?)
    }

    /// Whether this process has these locks, and all between them, for itself: the application that
    /// the watcher is a part of.
    fn are_locked_here(&self, first: IndexLock, last: IndexLock) -> Result<bool> {
        let there = self.file.metadata().map_err(|e| Error::io("look at", &self.path, e))?;
        let all = |lock: &OwnLock| {
            lock.for_itself && lock.first <= first as u64 && last as u64 <= lock.last
        };
        // Where the kernel's list is not to be had, such a checkpoint waits until the next pin.
        Ok(own_locks(&there).is_ok_and(|locks| locks.iter().any(all)))
    }

    /// The header as of one moment; `None` while it is being changed.
    ///
    /// SQLite changes it through a memory map, the second copy first. Reads of the file see the
    /// same memory: so the first copy is read before the second, and once more after all the rest.
    /// What was equal before and after held in between.
    pub fn read(&self) -> Result<Option<IndexHeader>> {
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
        let mut bytes = [0; INDEX_HEADER];
        let mut again = [0; 48];
        let (first, rest) = bytes.split_at_mut(48);
        let read = self
            .file
            .read_exact_at(first, 0)
            .and_then(|()| self.file.read_exact_at(rest, 48))
            .and_then(|()| self.file.read_exact_at(&mut again, 0));
        match read {
            Ok(()) if *first == again => Ok(IndexHeader::decode(&bytes)),
            Ok(()) => Ok(None),
            // Not yet grown to its size.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}
