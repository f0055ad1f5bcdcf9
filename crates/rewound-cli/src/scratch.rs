//! A directory for decrypted databases that a command only looks at.
//!
//! It lies in the system's directory for temporary files (`TMPDIR`), is its owner's alone, and is
//! removed at the end, also by a signal that ends the process at once. What a killed process
//! leaves, the next start of any command of the same user removes: a lock on the directory tells
//! that nobody works in it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::failure::{Failure, Result};

const PREFIX: &str = "rewound-plain-";

/// The one that is in use: removed by whoever ends the process at once.
static IN_USE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The directory, until it is dropped.
pub struct Scratch {
    dir: TempDir,
    /// Held for as long as the directory is in use.
    _lock: File,
}

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let place = std::env::temp_dir();
        create(&place).map_err(|e| {
            Failure::Other(format!(
                "creating a temporary directory in {}: {e}; TMPDIR chooses another place",
                place.display()
            ))
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Removed here and not by its field: until it is gone, who ends the process at once has to
        // see to it.
        let _ = fs::remove_dir_all(self.dir.path());
        *IN_USE.lock() = None;
    }
}

fn create(place: &Path) -> io::Result<Scratch> {
    loop {
        let mode = Permissions::from_mode(0o700);
        let dir =
            tempfile::Builder::new().prefix(PREFIX).permissions(mode.clone()).tempdir_in(place)?;
        *IN_USE.lock() = Some(dir.path().to_owned());
        // Whatever the umask takes away.
        let lock = match fs::set_permissions(dir.path(), mode).and_then(|()| open(dir.path())) {
            // Somebody who sweeps was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        // Where there are no locks, nobody sweeps.
        let _ = lock.lock();
        // Removed before it was locked?
        if is_at(&lock, dir.path()) {
            return Ok(Scratch { dir, _lock: lock });
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn is_at(dir: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (dir.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Removes what killed processes of the same user have left. What cannot be removed stays for the
/// next time.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    let me = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(dir) = open(&path) else { continue };
        let mine = dir.metadata().is_ok_and(|found| found.uid() == me);
        if mine && dir.try_lock().is_ok() && is_at(&dir, &path) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Removes the directory that is in use, for a process that ends without another word.
pub fn discard() {
    let Some(path) = IN_USE.lock().clone() else { return };
    // Whoever works in it may be creating files still.
    for _ in 0..100 {
        if fs::remove_dir_all(&path).is_ok() || !path.exists() {
            return;
        }
    }
}
