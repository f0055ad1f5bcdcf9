//! Files and directories in the making, and what a killed process leaves of them.
//!
//! A file has no name until it is complete, so that nothing is left of it whatever happens. If the
//! file system cannot do that, and for directories, the name is hidden: `.NAME.rewound-ID`, with an
//! id of 32 hex digits. What has such a name is locked by whoever makes it, so a lock that is free
//! tells that it was left behind.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{
    Access, BY_NAME, Dir, Kind, WrongKind, component, identity, is_root, refuse_links_of_others,
    refuse_others,
};

#[cfg(test)]
mod tests;

/// Comes after the name of what is made, and before the id of whoever makes it.
const MARK: &str = ".rewound-";
/// Length of an id, in hex digits.
const ID: usize = 32;
/// A directory that is left behind is removed to so many levels.
const DEPTH: usize = 16;

/// A file in the making. Dropping it does not remove a hidden name: see [`discard`](Self::discard).
#[derive(Debug)]
pub struct Staged {
    /// The process that made it. A forked child removes nothing of its parent's.
    maker: u32,
    /// The file, open for reading and writing.
    pub file: Arc<File>,
    hidden: Option<OsString>,
}

impl Staged {
    /// Gives the file its name. `AlreadyExists` if that is taken.
    pub fn publish(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        match &self.hidden {
            Some(hidden) => dir.rename_new(hidden, dir, name),
            None => link(&self.file, dir, component(name)?),
        }
    }

    /// Removes the hidden name, if there is one.
    pub fn discard(&self, dir: &Dir) {
        if let Some(hidden) = self.hidden.as_ref().filter(|_| self.maker == std::process::id()) {
            let _ = dir.remove(hidden);
        }
    }
}

fn hidden(name: &OsStr, id: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(MARK);
    hidden.push(id);
    hidden
}

/// An id that no other file in the making has, as far as chance allows. Where it is taken all the
/// same, nothing is overwritten: whoever creates it is refused.
fn unlikely_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(target_os = "linux")]
fn path_of(file: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A new file without a name; `None` if it could not be given one later.
#[cfg(target_os = "linux")]
fn unnamed(dir: &Dir) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    // What is wrong with the directory is said by the call that makes a hidden name instead.
    let file =
        File::from(rustix::fs::openat(&dir.file, c".", flags, Mode::from_raw_mode(0o600)).ok()?);
    let at = super::identity_at(path_of(&file).as_ref()).ok()?;
    (at == identity(&file.metadata().ok()?)).then_some(file)
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Dir) -> Option<File> {
    None
}

#[cfg(target_os = "linux")]
fn link(file: &File, dir: &Dir, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::linkat(
        rustix::fs::CWD,
        path_of(file),
        &dir.file,
        name,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Dir, _: &OsStr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Locks what was just created under a hidden name; `false` if somebody who swept was faster.
fn claim(dir: &Dir, hidden: &OsStr, made: &File) -> bool {
    match made.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return false,
        // A file system without locks: nobody can sweep there either.
        Err(TryLockError::Error(_)) => return true,
    }
    dir.stat(hidden)
        .is_ok_and(|there| made.metadata().is_ok_and(|made| identity(&made) == there.identity))
}

/// Writes a file that others are to read, such as a picture: whole or not at all, in place of the
/// file of that name. It keeps that file's owner and permissions; a new one belongs to the owner of
/// its directory, with the permissions that the umask leaves. What is no regular file is not
/// replaced.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = component(path.file_name().ok_or(io::ErrorKind::InvalidInput)?)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Dir::open(parent)?;
    let owner = dir.metadata()?;
    refuse_others(&owner, &owner, parent)?;
    refuse_links_of_others(parent, &dir)?;
    dir.sweep_staged(name);
    let there = match dir.stat(name) {
        Ok(there) if there.kind == Kind::File => {
            Some(Access::of(&dir.open_file(name)?.metadata()?))
        }
        Ok(there) => return Err(WrongKind::error(Kind::File, there.kind)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let hidden = hidden(name, &unlikely_id());
    let flags = BY_NAME | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let mode = Mode::from_raw_mode(0o666);
    let mut file = File::from(
        rustix::fs::openat(&dir.file, &hidden, flags, mode).map_err(|e| dir.refused(e))?,
    );
    let mut write = || {
        // So that nobody sweeps it.
        let _ = file.try_lock();
        let made = Access { mode: file.metadata()?.mode() & 0o7777, ..Access::of(&owner) };
        there.unwrap_or(made).give(&file)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&dir.file, &hidden, &dir.file, name)?;
        dir.sync()
    };
    write().inspect_err(|_| drop(dir.remove(&hidden)))
}

impl Dir {
    /// Begins a file that is to have a name here.
    pub fn stage(&self, name: &OsStr, id: &str, access: Access) -> io::Result<Staged> {
        if let Some(file) = unnamed(self) {
            access.give(&file)?;
            return Ok(Staged { maker: std::process::id(), file: Arc::new(file), hidden: None });
        }
        self.stage_hidden(name, id, access)
    }

    fn stage_hidden(&self, name: &OsStr, id: &str, access: Access) -> io::Result<Staged> {
        let hidden = hidden(name, id);
        loop {
            let file = self.create(&hidden, access)?;
            if claim(self, &hidden, &file) {
                return Ok(Staged {
                    maker: std::process::id(),
                    file: Arc::new(file),
                    hidden: Some(hidden),
                });
            }
        }
    }

    /// Begins a directory that is to have a name here; returns its hidden name, and the directory.
    pub fn stage_dir(&self, name: &OsStr, id: &str, access: Access) -> io::Result<(OsString, Dir)> {
        let hidden = hidden(name, id);
        loop {
            if !self.make_dir(&hidden, access)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let dir = match self.subdir(&hidden) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                dir => dir?,
            };
            if claim(self, &hidden, &dir.file) {
                return Ok((hidden, dir));
            }
        }
    }

    /// Removes what killed processes have left of a file or directory of this name. What cannot be
    /// removed stays for the next time.
    pub fn sweep_staged(&self, name: &OsStr) {
        let start = hidden(name, "");
        for found in self.names().unwrap_or_default() {
            let id = found.as_bytes().strip_prefix(start.as_bytes());
            if id.is_some_and(|id| id.len() == ID && id.iter().all(u8::is_ascii_hexdigit)) {
                let _ = self.remove_if_left(&found);
            }
        }
    }

    fn remove_if_left(&self, name: &OsStr) -> io::Result<()> {
        let there = self.stat(name)?;
        // What a restore as root leaves was given to the directory's owner. Another's thing of that
        // name was put there for root to remove.
        if is_root() && there.uid != self.metadata()?.uid() {
            return Ok(());
        }
        let file = match there.kind {
            Kind::Directory => self.subdir(name)?.file,
            _ => self.open_file_to_write(name)?,
        };
        file.try_lock().map_err(io::Error::from)?;
        if identity(&file.metadata()?) != self.stat(name)?.identity {
            return Ok(());
        }
        self.remove_all(name, DEPTH)
    }

    /// Gives a directory in the making its name, at once: a directory takes the place of an empty
    /// one, and of nothing else.
    pub fn publish_dir(&self, hidden: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.file, component(hidden)?, &self.file, component(name)?)?)
    }

    /// Removes a directory in the making.
    pub fn remove_staged(&self, hidden: &OsStr) {
        let _ = self.remove_all(hidden, DEPTH);
    }

    /// The directory itself, as the system sees it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes a file, or a directory with what is in it, and follows no link.
    fn remove_all(&self, name: &OsStr, depth: usize) -> io::Result<()> {
        let name = component(name)?;
        if self.stat(name)?.kind != Kind::Directory {
            return self.remove(name);
        }
        let dir = self.subdir(name)?;
        let depth = depth.checked_sub(1).ok_or(io::ErrorKind::DirectoryNotEmpty)?;
        for inner in dir.names()? {
            dir.remove_all(&inner, depth)?;
        }
        self.remove_dir(name)
    }

    /// Removes an empty directory.
    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.file, component(name)?, AtFlags::REMOVEDIR)?)
    }
}
