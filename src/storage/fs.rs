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
//!   from fsync Failures?", USENIX ATC 2020).
//!
//! A crash leaves what was synced, any part of what was not, and possibly zeros
//! behind the end of a file that had space reserved. Where the file system cannot
//! rename without replacing, a crash inside `publish` can leave both names of one
//! file: the temporary one is then swept like any other.
//!
//! Files are readable by their owner only. Names that are not made of the
//! characters of our paths (`lost+found`, say) are not ours, and are not listed.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::path::{check, check_dir, is_name};
use super::{AppendFile, Entry, LockGuard, ReadFile, Storage};
use crate::env::Owner;
use crate::error::Error;

#[cfg(test)]
mod tests;

/// Whole pages of any system: advice about a part of one is ignored.
#[cfg(target_os = "linux")]
const PAGES: u64 = 64 << 10;

/// How far ahead of the end space is zeroed for small appends: large enough that
/// few syncs in a thousand pay for it, small next to a segment.
const ZERO_STEP: u64 = 1 << 20;

/// No zeros are written ahead while more than this was appended since the last sync: a sync that has so much to write is not made shorter by them, and they
/// would double what is written.
const SMALL: u64 = 256 << 10;

/// Zeros to write from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Storage in a local directory, one file per file.
#[derive(Clone, Debug)]
pub struct FsStorage {
    root: PathBuf,
    /// Directories whose entries this process has made durable: the same few are asked for again and again, and syncing one
    /// waits for the disk even where there is nothing to write.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
    /// Whether complete files get the file system's immutable flag.
    immutable: bool,
}

impl FsStorage {
    /// Storage below `root`. Touches nothing: the directory may be missing, and
    /// [`create_dir("")`](Storage::create_dir) creates it. A relative `root` is
    /// resolved now, so that a later change of the working directory has no effect.
    pub fn new(root: impl Into<PathBuf>) -> FsStorage {
        let root = root.into();
        // Fails only for an empty path or a lost working directory; each later call then says so.
        let root = std::path::absolute(&root).unwrap_or(root);
        FsStorage { root, durable: Arc::default(), immutable: false }
    }

    /// Gives complete files the file system's immutable flag (`chattr +i`): not even root writes, renames or deletes them before taking the flag away, as
    /// retention does when a file's time has come. [`Error::ImmutableUnavailable`] where this process may not do so, or the platform or file system has no such flag.
    ///
    /// A segment that a crash left without its seal does not get the flag, and is read-only by its mode at most.
    pub fn immutable(mut self) -> Result<FsStorage, Error> {
        let try_it = || {
            create_root(&self.root)?;
            // It has no name, so nothing can be left of it.
            let file = tempfile::tempfile_in(&self.root)?;
            set_immutable(&file, true)?;
            set_immutable(&file, false)
        };
        try_it().map_err(|e| Error::ImmutableUnavailable { path: self.root.clone(), source: Arc::new(e) })?;
        self.immutable = true;
        Ok(self)
    }

    /// The directory, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn file(&self, path: &str) -> io::Result<PathBuf> {
        check(path)?;
        Ok(self.root.join(path))
    }

    fn dir(&self, path: &str) -> io::Result<PathBuf> {
        check_dir(path)?;
        // Joining "" would append a separator, and messages would show it.
        Ok(if path.is_empty() { self.root.clone() } else { self.root.join(path) })
    }
}

impl Storage for FsStorage {
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.file(path)?)?;
        Ok(Box::new(FsAppendFile {
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

    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        let file = File::open(self.file(path)?)?;
        // Opening a directory succeeds; without this the first read would be what fails.
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Arc::new(FsReadFile { file }))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.file(from)?, self.file(to)?);
        match rename_without_replacing(&from, &to) {
            Err(e) if is_unsupported(&e) => publish_by_link(&from, &to),
            result => result,
        }
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        File::open(self.file(path)?)?.sync_all()
    }

    fn evict(&self, path: &str, from: u64) -> io::Result<()> {
        let file = File::open(self.file(path)?)?;
        // Advice: pages that are clean go, and after `sync_file` all are, those that a failed sync had given up included.
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, from / PAGES * PAGES, None, rustix::fs::Advice::DontNeed)?;
        let _ = (file, from);
        Ok(())
    }

    /// `""` creates the root and its missing parents, each durable in its own
    /// parent: those lie outside of the storage, where no `sync_dir` reaches them.
    fn create_dir(&self, path: &str) -> io::Result<()> {
        let dir = self.dir(path)?;
        if path.is_empty() { create_root(&dir) } else { create_one_dir(&dir).map(drop) }
    }

    fn create_dir_durable(&self, path: &str) -> io::Result<()> {
        let dir = self.dir(path)?;
        // Held to the end: who finds a directory that another thread has just created must not go on before it is durable.
        let mut durable = self.durable.lock();
        let created = create_one_dir(&dir)?;
        // One that had to be created, though it was noted, has been removed by somebody in between.
        if created || !durable.contains(&dir) {
            self.sync_dir(path.rsplit_once('/').map_or("", |(parent, _)| parent))?;
            durable.insert(dir);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.dir(path)?)?.sync_all()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let entries = match std::fs::read_dir(self.dir(dir)?) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !is_name(&name) {
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed, or published, since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let is_dir = metadata.is_dir();
            found.push(Entry { name, len: if is_dir { 0 } else { metadata.len() }, is_dir });
        }
        Ok(found)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.file(path)?;
        if self.immutable {
            set_immutable(&File::open(&path)?, false)?;
        }
        std::fs::remove_file(path)
    }

    fn protect(&self, path: &str) -> io::Result<()> {
        if self.immutable { set_immutable(&File::open(self.file(path)?)?, true) } else { Ok(()) }
    }

    /// The lock is advisory (`flock`), and is on the file at `path`, which is created and never removed.
    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.file(path)?)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(FsLock { file, owner: Owner::here() }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// What an unprivileged process can still write, in bytes.
    fn free_space(&self) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn location(&self) -> String {
        self.root.display().to_string()
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

    /// Writes zeros from the end up to the next step. Real writes: syncing over blocks
    /// that were only preallocated still has to commit metadata (164 µs against 116 µs).
    fn reserve(&mut self) -> io::Result<()> {
        let target = (self.len / ZERO_STEP + 1) * ZERO_STEP;
        let mut at = self.len;
        while at < target {
            let want = usize::try_from(target - at).unwrap_or(usize::MAX);
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
            Ok(())
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
            this.file.set_permissions(PermissionsExt::from_mode(0o400))?;
            this.file.sync_all()
        })
    }
}

#[derive(Debug)]
struct FsReadFile {
    file: File,
}

impl ReadFile for FsReadFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
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

impl LockGuard for FsLock {}

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

/// Tells whether it had to be created.
fn create_one_dir(dir: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        result => result.map(|()| true),
    }
}

/// Creates a directory and its missing parents, and makes each durable in its parent.
fn create_root(root: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = root.ancestors().take_while(|dir| !dir.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        create_one_dir(dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_without_replacing(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(rustix::io::Errno::NOSYS.into())
}

/// Whether kernel or file system lack the operation.
fn is_unsupported(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(e);
    // Not a pattern: on some systems the last two are one number.
    errno.is_some_and(|e| [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP].contains(&e))
}

/// Publishes where renaming without replacing is not supported: a link never
/// replaces. The one window: a crash before the unlink leaves both names.
fn publish_by_link(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from).inspect_err(|_| {
        // Leave both as they were. If this fails too, the error returned is the one to act on.
        let _ = std::fs::remove_file(to);
    })
}
