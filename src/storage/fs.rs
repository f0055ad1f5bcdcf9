//! Storage in a local directory. Owns the system calls and nothing else: no cache,
//! no retry, no knowledge of what a file is for.
//!
//! Invariants:
//! - no call replaces a name or rewrites a byte that was appended: creation is
//!   exclusive, publishing does not replace, and the only bytes ever written over
//!   are zeros that this process reserved;
//! - after a failed write or sync the file accepts nothing more. A kernel drops
//!   dirty pages that it could not write, and a second `fsync` would then report
//!   success for bytes that are gone (Rebello et al., "Can Applications Recover
//!   from fsync Failures?", USENIX ATC 2020);
//! - the root is opened once; everything else is found from it, name by name, and never
//!   through a link (`dir` has the rules). So a storage stays with the directory that it
//!   opened: where that was moved to, or nowhere if it was deleted.
//!
//! A crash leaves what was synced, any part of what was not, and possibly zeros
//! behind the end of a file that had space reserved. Where the file system cannot
//! rename without replacing, a crash inside `publish` can leave both names of one
//! file: the temporary one is then swept like any other.
//!
//! What is created belongs to the owner and group of the root directory, whoever creates it.
//! If the root is closed to others, its group may use a file as far as it may use the root; others
//! never may. Names that are not made of the characters of our paths (`lost+found`, say) are not
//! ours, and are not listed.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rewound_dir::{
    Access, Dir, Identity, Kind, WrongKind, identity, identity_at, is_root, refuse_others,
};

use super::map;
use super::path::{check, check_dir, is_name};
use super::{AppendFile, BlobStore, Entry, FileIdentity, LockGuard, ReadFile, ReadStore, Storage};
use crate::env::Owner;
use crate::error::{Error, Misplaced};
use crate::names::{self, parent};
use crate::sync::{Mutex, RwLock};
use crate::types::as_index;

#[cfg(test)]
mod tests;

/// Whole pages of any system: advice about a part of one is ignored.
#[cfg(target_os = "linux")]
const PAGES: u64 = 64 << 10;

/// How far ahead of the end space is zeroed for small appends: large enough that
/// few syncs in a thousand pay for it, small next to a segment.
const ZERO_STEP: u64 = 1 << 20;

/// No zeros are written ahead while more than this was appended since the last sync: a sync that
/// has so much to write is not made shorter by them, and they would double what is written.
const SMALL: u64 = 256 << 10;

/// Zeros to write from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Storage in a local directory, one file per file.
#[derive(Clone, Debug)]
pub struct FsStorage {
    root: PathBuf,
    /// The root directory, from its first use on.
    opened: Arc<RwLock<Option<Arc<Dir>>>>,
    /// Directories whose entries this process has made durable: the same few are asked for again
    /// and again, and syncing one waits for the disk even where there is nothing to write.
    durable: Arc<Mutex<HashSet<String>>>,
    /// Whether complete files get the file system's immutable flag.
    immutable: bool,
    /// Whether finished files are read through a map.
    mapped: bool,
}

/// Tells what is misplaced in the archive from every other failure, for [`Error::io`].
fn misplaced(path: &str, e: io::Error) -> io::Error {
    match WrongKind::of(&e) {
        Some(wrong) => io::Error::new(e.kind(), Misplaced { path: path.to_owned(), wrong }),
        None => e,
    }
}

/// Where a path of the archive leads.
struct Place<'a> {
    dir: Arc<Dir>,
    name: &'a str,
}

impl FsStorage {
    /// Storage below `root`. Touches nothing: the directory may be missing, and
    /// [`create_dir("")`](Storage::create_dir) creates it. A relative `root` is
    /// resolved now, so that a later change of the working directory has no effect.
    ///
    /// `root` may lead through symbolic links; below it none is followed. The directory is held
    /// open from its first use on, by all clones together.
    pub fn new(root: impl Into<PathBuf>) -> FsStorage {
        let root = root.into();
        // Fails only for an empty path or a lost working directory; each later call then says so.
        let root = std::path::absolute(&root).unwrap_or(root);
        FsStorage {
            root,
            opened: Arc::default(),
            durable: Arc::default(),
            immutable: false,
            mapped: false,
        }
    }

    /// Gives complete files the file system's immutable flag (`chattr +i`): not even root writes,
    /// renames or deletes them before taking the flag away, as retention does when a file's time
    /// has come. [`Error::ImmutableUnavailable`] where this process may not do so, or the platform
    /// or file system has no such flag.
    ///
    /// A segment that a crash left without its seal does not get the flag, and is read-only by its
    /// mode at most.
    pub fn immutable(mut self) -> Result<FsStorage, Error> {
        let try_it = || {
            self.create_dir("")?;
            // It has no name, so nothing can be left of it.
            let file = tempfile::tempfile_in(&self.root)?;
            set_immutable(&file, true)?;
            set_immutable(&file, false)
        };
        try_it().map_err(|e| Error::ImmutableUnavailable {
            path: self.root.clone(),
            source: Arc::new(e),
        })?;
        self.immutable = true;
        Ok(self)
    }

    /// Reads finished files through memory maps: a read copies out of the map, without a call of
    /// the system. Nothing else of the library sees the map, so a file that changes meanwhile is
    /// what it is without maps: a wrong read.
    ///
    /// It must be asked for, because of what it costs in a process that others depend on: if
    /// somebody cuts a file of the archive while it is read, or if the disk fails to read a page of
    /// it, the process ends with SIGBUS, where a read would return an error. Damage that can be
    /// read is an error as ever. For archives on a sound local disk that only this machine writes
    /// to, and for programs that may be started again; not for network file systems.
    ///
    /// Files that still grow, and segments that a crash left without their seal, are read as
    /// without it.
    #[must_use]
    pub fn mapped(mut self) -> FsStorage {
        self.mapped = true;
        self
    }

    /// The directory, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root directory. `NotFound` until there is one.
    fn base(&self) -> io::Result<Arc<Dir>> {
        if let Some(dir) = self.opened() {
            return Ok(dir);
        }
        let dir = Dir::open(&self.root)?;
        Ok(self.keep(dir))
    }

    fn opened(&self) -> Option<Arc<Dir>> {
        self.opened.read().clone()
    }

    /// The root directory from now on, if another thread was not first.
    fn keep(&self, dir: Dir) -> Arc<Dir> {
        Arc::clone(self.opened.write().get_or_insert_with(|| Arc::new(dir)))
    }

    /// A directory, opened name by name. `change` says that something is about to be changed in it.
    fn dir(&self, path: &str, change: bool) -> io::Result<Arc<Dir>> {
        check_dir(path)?;
        let base = self.base()?;
        let owner = if change { Some(base.metadata()?) } else { None };
        let look = |dir: &Dir, path: &str| match &owner {
            Some(owner) => refuse_others(&dir.metadata()?, owner, &self.root.join(path)),
            None => Ok(()),
        };
        let mut dir = base;
        look(&dir, "")?;
        for upto in names::way_to(path) {
            dir = Arc::new(dir.subdir(names::file_name(upto)).map_err(|e| misplaced(upto, e))?);
            look(&dir, upto)?;
        }
        Ok(dir)
    }

    fn place<'a>(&self, path: &'a str, change: bool) -> io::Result<Place<'a>> {
        check(path)?;
        let name = names::file_name(path);
        Ok(Place { dir: self.dir(parent(path), change)?, name })
    }

    fn open_file(&self, path: &str) -> io::Result<File> {
        let Place { dir, name } = self.place(path, false)?;
        dir.open_file(name).map_err(|e| misplaced(path, e))
    }

    /// Creates one directory; tells whether it had to be created.
    fn create_one_dir(&self, path: &str) -> io::Result<bool> {
        let Place { dir, name } = self.place(path, true)?;
        dir.make_dir(name, Access::dir_in(&self.base()?.metadata()?))
            .map_err(|e| misplaced(path, e))
    }

    /// Sets or clears the immutable flag of a file. Root does not set it for a file of anybody
    /// else, which may have a name here as a hard link; what is immutable can get no further link.
    fn set_immutable(&self, path: &str, immutable: bool) -> io::Result<()> {
        let file = self.open_file(path)?;
        let (owner, root) = (file.metadata()?.uid(), self.base()?.metadata()?.uid());
        if immutable && is_root() && owner != root {
            let text = format!("it belongs to user {owner}, the archive to user {root}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        set_immutable(&file, immutable)
    }
}

impl ReadStore for FsStorage {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        let file = self.open_file(path)?;
        let map =
            if self.mapped && map::is_worth_it(&file.metadata()?) { map::map(&file) } else { None };
        Ok(Arc::new(FsReadFile { file, map }))
    }

    /// What is neither a file nor a directory is listed as a file of no length: opening it says
    /// what it is.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let dir = match self.dir(path, false) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for name in dir.names()? {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if !is_name(&name) {
                continue;
            }
            let stat = match dir.stat(&name) {
                Ok(stat) => stat,
                // Removed, or published, since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let len = if stat.kind == Kind::File { stat.len } else { 0 };
            found.push(Entry { name, len, is_dir: stat.kind == Kind::Directory });
        }
        Ok(found)
    }

    fn check(&self) -> io::Result<()> {
        let Some(opened) = self.opened() else { return Ok(()) };
        if identity_at(&self.root)? == identity(&opened.metadata()?) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "another directory"))
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

impl BlobStore for FsStorage {
    fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()> {
        super::put_by_publishing(self, path, source)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let Place { dir, name } = self.place(path, true)?;
        if self.immutable {
            self.set_immutable(path, false)?;
        }
        dir.remove(name).map_err(|e| misplaced(path, e))
    }
}

impl Storage for FsStorage {
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>> {
        let Place { dir, name } = self.place(path, true)?;
        let file = dir.create(name, Access::file_in(&self.base()?.metadata()?))?;
        Ok(Box::new(FsAppendFile {
            names: file.metadata()?.nlink(),
            file,
            owner: Owner::here(),
            len: 0,
            zeroed_to: 0,
            unsynced: 0,
            zero_ahead: false,
            reserve_failed: false,
            failed: false,
        }))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.place(from, true)?, self.place(to, true)?);
        from.dir.rename_new(from.name, &to.dir, to.name)
    }

    fn protect(&self, path: &str) -> io::Result<()> {
        if self.immutable { self.set_immutable(path, true) } else { Ok(()) }
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        self.open_file(path)?.sync_all()
    }

    fn evict(&self, path: &str, from: u64) -> io::Result<()> {
        let file = self.open_file(path)?;
        // Advice: pages that are clean go, and after `sync_file` all are, those that a failed sync
        // had given up included.
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, from / PAGES * PAGES, None, rustix::fs::Advice::DontNeed)?;
        let _ = (file, from);
        Ok(())
    }

    /// `""` creates the root and its missing parents, each durable in its own parent: those lie
    /// outside of the storage, where no `sync_dir` reaches them. A root that this storage has
    /// opened is never created again.
    fn create_dir(&self, path: &str) -> io::Result<()> {
        check_dir(path)?;
        if !path.is_empty() {
            return self.create_one_dir(path).map(drop);
        }
        if self.opened().is_none() {
            self.keep(Dir::create_all(&self.root)?);
        }
        self.check()
    }

    fn create_dir_durable(&self, path: &str) -> io::Result<()> {
        // Held to the end: who finds a directory that another thread has just created must not go
        // on before it is durable.
        let mut durable = self.durable.lock();
        let created = self.create_one_dir(path)?;
        // One that had to be created, though it was noted, has been removed by somebody in between.
        if created || !durable.contains(path) {
            self.sync_dir(parent(path))?;
            durable.insert(path.to_owned());
        }
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.dir(path, false)?.sync()
    }

    /// The lock is advisory (`flock`), and is on the file at `path`, which is created and never
    /// removed.
    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>> {
        let Place { dir, name } = self.place(path, true)?;
        let file = loop {
            match dir.open_file_to_write(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // A lock needs no right to write, but on some network file systems.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    break dir.open_file(name).map_err(|_| e)?;
                }
                other => break other.map_err(|e| misplaced(path, e))?,
            }
            match dir.create(name, Access::file_in(&self.base()?.metadata()?)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => break other?,
            }
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(FsLock { file, owner: Owner::here() }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn reopen(&self, prove: &dyn Fn(&Arc<dyn Storage>) -> Result<(), Error>) -> Result<(), Error> {
        let anew = FsStorage { opened: Arc::default(), durable: Arc::default(), ..self.clone() };
        let there: Arc<dyn Storage> = Arc::new(anew.clone());
        prove(&there)?;
        *self.opened.write() = anew.opened();
        self.durable.lock().clear();
        Ok(())
    }

    fn identity(&self, path: &str) -> io::Result<Option<FileIdentity>> {
        let Place { dir, name } = self.place(path, false)?;
        Ok(Some(told_apart(dir.stat(name)?.identity)))
    }

    /// What an unprivileged process can still write, in bytes.
    fn free_space(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.base()?.free_space()?))
    }
}

/// A file that this process created and still appends to.
#[derive(Debug)]
struct FsAppendFile {
    file: File,
    owner: Owner,
    /// Where the next append goes.
    len: u64,
    /// Up to here the file holds zeros behind `len`; not meaningful below `len`.
    zeroed_to: u64,
    /// Bytes appended since the last sync.
    unsynced: u64,
    /// Whether to keep zeroed space ahead of the end.
    zero_ahead: bool,
    /// There was no room for a reserve: it is not tried again.
    reserve_failed: bool,
    /// A write or sync failed: what the file holds is no longer known.
    failed: bool,
    /// How many names it was created with: none where the file system does not count them, as few
    /// do.
    names: u64,
}

impl FsAppendFile {
    /// Runs one step; a failure, now or earlier, is for good.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.owner.check_io("a file being written")?;
        if self.failed {
            return Err(super::failed_before());
        }
        let result = step(self);
        self.failed = result.is_err();
        result
    }

    /// Writing to a file succeeds after its last name was removed: nobody will ever read it.
    fn check_named(&self) -> io::Result<()> {
        if self.names > 0 && self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "it was removed while it was written",
            ));
        }
        Ok(())
    }

    /// Writes zeros from the end up to the next step. Real writes: syncing over blocks
    /// that were only preallocated still has to commit metadata (164 µs against 116 µs).
    fn reserve(&mut self) -> io::Result<()> {
        let target = (self.len / ZERO_STEP + 1) * ZERO_STEP;
        let mut at = self.len;
        while at < target {
            let want = as_index(target - at);
            let zeros = ZEROS.get(..want).unwrap_or(&ZEROS);
            self.file.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        self.zeroed_to = target;
        Ok(())
    }
}

impl AppendFile for FsAppendFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.step(|this| {
            this.file.write_all_at(bytes, this.len)?;
            this.len += bytes.len() as u64;
            this.unsynced += bytes.len() as u64;
            let wanted = this.zero_ahead && this.len >= this.zeroed_to && this.unsynced <= SMALL;
            if wanted && this.reserve().is_err() {
                // Only the reserve failed, most likely for want of space, which is better
                // left to data. The bytes appended are not touched by this cut.
                this.zero_ahead = false;
                this.reserve_failed = true;
                this.file.set_len(this.len)?;
                this.zeroed_to = this.len;
            }
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step(|this| {
            this.file.sync_data()?;
            this.unsynced = 0;
            this.check_named()
        })
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn expect_small_appends(&mut self) {
        self.zero_ahead = !self.reserve_failed;
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.step(|this| {
            if this.zeroed_to > this.len {
                this.file.set_len(this.len)?;
            }
            // Before the sync, so that one journal commit carries size and mode.
            let mode = this.file.metadata()?.mode() & 0o440;
            this.file.set_permissions(PermissionsExt::from_mode(0o400 | mode))?;
            if let Err(e) = this.file.sync_all() {
                // No finished file, and to be mapped by nobody: what a map holds of it cannot be
                // dropped from the cache, and the next writer must not take that for the medium.
                let _ = this.file.set_permissions(PermissionsExt::from_mode(0o600 | mode));
                return Err(e);
            }
            this.check_named()
        })
    }

    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        Ok(Some(told_apart(identity(&self.file.metadata()?))))
    }
}

#[derive(Debug)]
struct FsReadFile {
    file: File,
    /// What is read of the file comes out of this, where there is one.
    map: Option<Bytes>,
}

impl ReadFile for FsReadFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(map) = &self.map {
            return map.read_at(offset, buf);
        }
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[derive(Debug)]
struct FsLock {
    file: File,
    owner: Owner,
}

impl LockGuard for FsLock {
    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        Ok(Some(told_apart(identity(&self.file.metadata()?))))
    }
}

impl Drop for FsLock {
    fn drop(&mut self) {
        // Closing would do, but for a child process that is between fork and exec at this
        // moment and holds a copy of the descriptor. If this fails, closing still follows.
        // Such a child itself closes its copy only: an unlock there would free the parent's lock.
        if self.owner.is_here() {
            let _ = self.file.unlock();
        }
    }
}

fn told_apart(Identity { device, inode }: Identity) -> FileIdentity {
    FileIdentity { device, inode }
}

/// Sets or clears the immutable flag.
#[cfg(target_os = "linux")]
fn set_immutable(file: &File, immutable: bool) -> io::Result<()> {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let before = ioctl_getflags(file)?;
    let mut flags = before;
    flags.set(IFlags::IMMUTABLE, immutable);
    if flags != before {
        ioctl_setflags(file, flags)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_immutable(_: &File, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
