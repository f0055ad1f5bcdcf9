//! A directory held open, and the files in it by name.
//!
//! Owns the rules for working in a directory in which other users may have a say:
//! - a name is one component, looked up in the open directory, and never followed if it is a
//!   symbolic link. Nobody who can write on the way turns an operation to another place;
//! - opening never waits: a FIFO or a device in place of a file is an error, [`WrongKind`];
//! - what is created is new (`O_EXCL`), and gets owner, group and mode of what it belongs to
//!   ([`Access`]). Nothing that was there before is given away: it may be a hard link to
//!   a file of somebody else.
//!
//! Only a path that an operator typed follows links: what [`Dir::open`], [`Dir::create_all`] and
//! [`open_path`] take. Whose links those are is told by [`walk`].
//!
//! A file appears whole or not at all: [`Staged`], [`write_file`].
//!
//! It never reads or writes what a file holds, but for [`write_file`], and reports every failure as
//! the system's [`io::Error`]. Where a name stands for something else than what belongs there, that
//! error holds a [`WrongKind`].
//!
//! A crash between creating and giving leaves something empty that belongs to the process's user.
//!
//! ```
//! use rewound_dir::{Access, Dir, WrongKind};
//!
//! # fn main() -> std::io::Result<()> {
//! # let temp = tempfile::tempdir()?;
//! # let path = temp.path();
//! let dir = Dir::open(path)?;
//! dir.create("state", Access::file_in(&dir.metadata()?))?;
//! std::os::unix::fs::symlink("/etc/passwd", path.join("link"))?;
//! let refused = dir.open_file_to_write("link").unwrap_err();
//! assert_eq!(WrongKind::of(&refused).map(|wrong| wrong.found), Some("a symbolic link"));
//! # Ok(())
//! # }
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, fcntl_lock};
use rustix::io::Errno;

mod links;
mod staged;
#[cfg(test)]
mod tests;

pub use links::{Walk, refuse_links_of_others, walk};
pub use staged::{Staged, write_file};

/// Flags of every call that opens something by name.
const BY_NAME: OFlags =
    OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Bytes that an unprivileged process can still write to the file system of a path, whose links
/// are followed.
pub fn free_space(path: &Path) -> io::Result<u64> {
    Ok(available(&rustix::fs::statvfs(path)?))
}

fn available(stat: &rustix::fs::StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

/// A directory, open.
#[derive(Debug)]
pub struct Dir {
    file: File,
}

/// Whom a new file or directory belongs to, and its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permission bits, and those for set-user-id, set-group-id and sticky.
    pub mode: u32,
}

/// What a name stands for. The name itself is looked at, not what a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whether it is a file, a directory, or what else.
    pub kind: Kind,
    /// Its length in bytes.
    pub len: u64,
    /// The user whom it belongs to.
    pub uid: u32,
    /// Its type and permission bits, as `stat` returns them.
    pub mode: u32,
    /// Tells it from what may take its name.
    pub identity: Identity,
}

/// Tells files and directories apart while they are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// What a name can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// What this library does not know.
    Unknown,
}

impl From<FileType> for Kind {
    fn from(found: FileType) -> Kind {
        match found {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Unknown => Kind::Unknown,
        }
    }
}

/// A name stands for something else than what belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKind {
    /// What belongs there, with its article: "a regular file".
    pub expected: &'static str,
    /// What is there: "a symbolic link".
    pub found: &'static str,
}

impl fmt::Display for WrongKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}: move it away", self.expected, self.found)
    }
}

impl std::error::Error for WrongKind {}

impl WrongKind {
    /// Whether this is why a call failed.
    pub fn of(e: &io::Error) -> Option<WrongKind> {
        e.get_ref()?.downcast_ref().copied()
    }

    fn error(wanted: Kind, found: Kind) -> io::Error {
        let kind = match (wanted, found) {
            (Kind::Directory, _) => io::ErrorKind::NotADirectory,
            (_, Kind::Directory) => io::ErrorKind::IsADirectory,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, WrongKind { expected: describe(wanted), found: describe(found) })
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a regular file",
        Kind::Directory => "a directory",
        Kind::Symlink => "a symbolic link",
        Kind::Fifo => "a FIFO",
        Kind::Socket => "a socket",
        Kind::CharacterDevice => "a character device",
        Kind::BlockDevice => "a block device",
        Kind::Unknown => "something unknown",
    }
}

impl Access {
    /// Of something that exists, to the bit.
    pub fn of(metadata: &Metadata) -> Access {
        Access { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o7777 }
    }

    /// For files in this directory: its owner reads and writes them; its group too, as far as it
    /// may use the directory, if others may not. A mode such as 0755 is what the umask left of a
    /// directory, and says of nobody that they are meant to read.
    pub fn file_in(dir: &Metadata) -> Access {
        Access { mode: 0o600 | shared(dir) & 0o060, ..Access::of(dir) }
    }

    /// For directories in this directory, by the same rule. A set-group-id bit is passed on, as the
    /// system does.
    pub fn dir_in(dir: &Metadata) -> Access {
        Access { mode: 0o700 | dir.mode() & 0o2000 | shared(dir), ..Access::of(dir) }
    }

    /// The same owner and group, for the owner's eyes only.
    #[must_use]
    pub fn private(self) -> Access {
        Access { mode: self.mode & 0o700, ..self }
    }

    /// Gives owner, group and mode to what this process has just created.
    fn give(&self, new: &File) -> io::Result<()> {
        let before = new.metadata()?;
        let mut mode = self.mode;
        let mut given = false;
        if is_root() && before.uid() != self.uid {
            fchown(new, Some(self.uid), Some(self.gid)).map_err(|e| {
                let text = format!(
                    "it belongs to user {}, and could not be given to them ({e}): run this as them",
                    self.uid
                );
                io::Error::new(io::ErrorKind::PermissionDenied, text)
            })?;
            given = true;
        } else if before.gid() != self.gid {
            given = fchown(new, None, Some(self.gid)).is_ok();
            if !given {
                // Not one of this user's groups: bits for the group would be for another one.
                mode &= !0o2070;
            }
        }
        if given || before.mode() & 0o7777 != mode {
            match new.set_permissions(Permissions::from_mode(mode)) {
                // Some services may not set that bit. It only saves the system's passing the group
                // on, which is done here.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied && mode & 0o2000 != 0 => {
                    new.set_permissions(Permissions::from_mode(mode & !0o2000))?;
                }
                set => set?,
            }
        }
        Ok(())
    }
}

impl Dir {
    /// Opens a directory by a path that an operator typed.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Dir { file: fd.into() })
    }

    /// Opens a directory by a path that an operator typed. Creates it and its missing parents, each
    /// durable in its parent, each with the owner and group of its parent and for nobody else.
    pub fn create_all(path: &Path) -> io::Result<Dir> {
        let mut missing = Vec::new();
        let mut at = path;
        let mut dir = loop {
            match Dir::open(if at.as_os_str().is_empty() { Path::new(".") } else { at }) {
                Ok(dir) => break dir,
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Err(e) => match (at.parent(), at.file_name()) {
                    (Some(parent), Some(name)) => {
                        missing.push(name);
                        at = parent;
                    }
                    _ => return Err(e),
                },
            }
        };
        for name in missing.into_iter().rev() {
            let parent = dir.metadata()?;
            refuse_others(&parent, &parent, at)?;
            dir.make_dir(name, Access::dir_in(&parent).private())?;
            dir.sync()?;
            dir = dir.subdir(name)?;
        }
        Ok(dir)
    }

    /// Opens a directory in this one.
    pub fn subdir(&self, name: impl AsRef<OsStr>) -> io::Result<Dir> {
        let name = component(name.as_ref())?;
        let flags = BY_NAME | OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = rustix::fs::openat(&self.file, name, flags, Mode::empty())
            .map_err(|e| self.explain(name, Kind::Directory, e))?;
        Ok(Dir { file: fd.into() })
    }

    /// Opens a regular file that is there, for reading.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        self.open_as(name.as_ref(), OFlags::RDONLY)
    }

    /// Opens a regular file that is there, for reading and writing.
    pub fn open_file_to_write(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        self.open_as(name.as_ref(), OFlags::RDWR)
    }

    fn open_as(&self, name: &OsStr, access: OFlags) -> io::Result<File> {
        let name = component(name)?;
        let fd = rustix::fs::openat(&self.file, name, BY_NAME | access, Mode::empty())
            .map_err(|e| self.explain(name, Kind::File, e))?;
        regular(fd.into())
    }

    /// Creates a file, open for reading and writing. `AlreadyExists` if the name is taken, by a
    /// link too.
    pub fn create(&self, name: impl AsRef<OsStr>, access: Access) -> io::Result<File> {
        let name = component(name.as_ref())?;
        let flags = BY_NAME | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = File::from(
            rustix::fs::openat(&self.file, name, flags, Mode::from_raw_mode(0o600))
                .map_err(|e| self.refused(e))?,
        );
        if let Err(e) = access.give(&file) {
            let _ = self.remove(name);
            return Err(e);
        }
        Ok(file)
    }

    /// Creates a directory; `false` if it is there. `AlreadyExists` if something else has the name.
    pub fn make_dir(&self, name: impl AsRef<OsStr>, access: Access) -> io::Result<bool> {
        let name = component(name.as_ref())?;
        match rustix::fs::mkdirat(&self.file, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return match self.stat(name)?.kind {
                    Kind::Directory => Ok(false),
                    found => {
                        let wrong = WrongKind {
                            expected: describe(Kind::Directory),
                            found: describe(found),
                        };
                        Err(io::Error::new(io::ErrorKind::AlreadyExists, wrong))
                    }
                };
            }
            Err(e) => return Err(self.refused(e)),
        }
        if let Err(e) = self.give_dir(name, access) {
            let _ = rustix::fs::unlinkat(&self.file, name, AtFlags::REMOVEDIR);
            return Err(e);
        }
        Ok(true)
    }

    fn give_dir(&self, name: &OsStr, access: Access) -> io::Result<()> {
        let dir = match self.subdir(name) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => self.unmask(name)?,
            other => other?,
        };
        // Who can write here may have put another directory of root's in its place. Nothing is lost
        // by giving an empty one away.
        if is_root() && dir.metadata()?.uid() != access.uid && !dir.names()?.is_empty() {
            let text = format!("{} was replaced while it was created", name.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        access.give(&dir.file)
    }

    /// Opens a directory that was just created, and that the process's umask keeps even its owner
    /// from.
    #[cfg(target_os = "linux")]
    fn unmask(&self, name: &OsStr) -> io::Result<Dir> {
        use std::os::fd::AsRawFd;
        let flags = BY_NAME | OFlags::PATH | OFlags::DIRECTORY;
        let fd = rustix::fs::openat(&self.file, name, flags, Mode::empty())?;
        // A descriptor that is only a path cannot be asked to change the mode, its name in /proc
        // can, and leads nowhere else.
        rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(0o700))?;
        self.subdir(name)
    }

    #[cfg(not(target_os = "linux"))]
    fn unmask(&self, name: &OsStr) -> io::Result<Dir> {
        self.subdir(name)
    }

    /// Gives a file of this directory a new name, maybe in another one: atomic. `AlreadyExists` if
    /// that name is taken.
    pub fn rename_new(
        &self,
        from: impl AsRef<OsStr>,
        to_dir: &Dir,
        to: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (from, to) = (component(from.as_ref())?, component(to.as_ref())?);
        match self.rename_without_replacing(from, to_dir, to) {
            Err(e) if is_unsupported(e) => self.rename_by_link(from, to_dir, to),
            result => result.map_err(|e| self.refused(e)),
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn rename_without_replacing(
        &self,
        from: &OsStr,
        to_dir: &Dir,
        to: &OsStr,
    ) -> rustix::io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with};
        renameat_with(&self.file, from, &to_dir.file, to, RenameFlags::NOREPLACE)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    fn rename_without_replacing(
        &self,
        _from: &OsStr,
        _to_dir: &Dir,
        _to: &OsStr,
    ) -> rustix::io::Result<()> {
        Err(Errno::NOSYS)
    }

    /// For where renaming without replacing is not supported: a link never replaces. The one
    /// window: a crash before the unlink leaves both names.
    fn rename_by_link(&self, from: &OsStr, to_dir: &Dir, to: &OsStr) -> io::Result<()> {
        rustix::fs::linkat(&self.file, from, &to_dir.file, to, AtFlags::empty())?;
        self.remove(from).inspect_err(|_| {
            // Leave both as they were. If this fails too, the error returned is the one to act on.
            let _ = to_dir.remove(to);
        })
    }

    /// Removes a name that is no directory's.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = component(name.as_ref())?;
        rustix::fs::unlinkat(&self.file, name, AtFlags::empty()).map_err(|e| match e {
            Errno::ACCESS => self.refused(e),
            e => self.explain(name, Kind::File, e),
        })
    }

    /// What a name stands for.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> io::Result<Stat> {
        Ok(Stat::new(&rustix::fs::statat(
            &self.file,
            component(name.as_ref())?,
            AtFlags::SYMLINK_NOFOLLOW,
        )?))
    }

    /// Every name in this directory, in no order.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.file)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Makes its entries durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Owner, mode and identity of the directory itself.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Bytes that an unprivileged process can still write.
    pub fn free_space(&self) -> io::Result<u64> {
        Ok(available(&rustix::fs::fstatvfs(&self.file)?))
    }

    /// Says why a name could not be opened.
    fn explain(&self, name: &OsStr, wanted: Kind, errno: Errno) -> io::Error {
        let Ok(found) = self.stat(name) else { return errno.into() };
        match errno {
            Errno::LOOP | Errno::NXIO | Errno::NOTDIR | Errno::ISDIR | Errno::MLINK
                if found.kind != wanted =>
            {
                WrongKind::error(wanted, found.kind)
            }
            Errno::ACCESS => denied("it", found.uid, found.mode),
            _ => errno.into(),
        }
    }

    /// Says why an entry could not be made, moved or removed.
    fn refused(&self, errno: Errno) -> io::Error {
        match (errno, self.metadata()) {
            (Errno::ACCESS, Ok(dir)) => denied("its directory", dir.uid(), dir.mode()),
            _ => errno.into(),
        }
    }
}

fn denied(what: &str, uid: u32, mode: u32) -> io::Error {
    let (mode, me) = (mode & 0o7777, rustix::process::geteuid().as_raw());
    let text = format!(
        "permission denied: {what} belongs to user {uid} with mode {mode:04o}, this process runs as user {me}"
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

#[expect(
    clippy::unnecessary_cast,
    clippy::cast_sign_loss,
    reason = "the types differ from system to system"
)]
impl Stat {
    fn new(stat: &rustix::fs::Stat) -> Stat {
        Stat {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            len: stat.st_size as u64,
            uid: stat.st_uid,
            mode: stat.st_mode as u32,
            identity: Identity { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
        }
    }
}

/// What a directory's mode lets its group do, if it is shared with the group and with nobody else.
fn shared(dir: &Metadata) -> u32 {
    let (group, others) = (dir.mode() & 0o070, dir.mode() & 0o007);
    if others == 0 { group } else { 0 }
}

#[cfg_attr(
    not(target_os = "linux"),
    expect(clippy::cast_possible_truncation, reason = "a narrower type on some systems")
)]
fn kind(metadata: &Metadata) -> Kind {
    FileType::from_raw_mode(metadata.mode() as rustix::fs::RawMode).into()
}

/// The identity of an open file or directory.
pub fn identity(metadata: &Metadata) -> Identity {
    Identity { device: metadata.dev(), inode: metadata.ino() }
}

/// The identity of what a path that an operator typed leads to.
pub fn identity_at(path: &Path) -> io::Result<Identity> {
    Ok(identity(&std::fs::metadata(path)?))
}

/// Opens a regular file by a path that an operator typed, for reading. Links are followed.
pub fn open_path(path: &Path) -> io::Result<File> {
    let flags = BY_NAME.difference(OFlags::NOFOLLOW) | OFlags::RDONLY;
    open_regular(path, flags, |path| std::fs::metadata(path))
}

/// Opens a regular file by its path, for reading and writing. Its last component is not followed if
/// it is a link: what is there is to be written to, or locked.
pub fn open_path_to_write(path: &Path) -> io::Result<File> {
    open_regular(path, BY_NAME | OFlags::RDWR, |path| std::fs::symlink_metadata(path))
}

fn open_regular(
    path: &Path,
    flags: OFlags,
    look: fn(&Path) -> io::Result<Metadata>,
) -> io::Result<File> {
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let fd = opened.map_err(|e| match (e, look(path)) {
        (Errno::NXIO | Errno::LOOP | Errno::MLINK | Errno::ISDIR, Ok(found))
            if kind(&found) != Kind::File =>
        {
            WrongKind::error(Kind::File, kind(&found))
        }
        _ => e.into(),
    })?;
    regular(fd.into())
}

fn regular(file: File) -> io::Result<File> {
    match kind(&file.metadata()?) {
        Kind::File => Ok(file),
        found => Err(WrongKind::error(Kind::File, found)),
    }
}

/// Keeps every other process from using a file by the locks that SQLite and many engines take on it
/// (POSIX, `fcntl`); `false` if one of them uses it. Such locks belong to the process and end as
/// soon as it closes *any* descriptor of the file: open it once, and keep that.
pub fn lock_alone(file: &File) -> io::Result<bool> {
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        // A file system without locks has nobody who relies on them.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether this process may do what only root may, which others could turn to their ends.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// As root, and if what is created is given to another user: refuses a directory in which somebody
/// else than root and those who can write to `base`, the directory that all of it belongs to, could
/// put things in the way. `path` is the directory, for the message.
pub fn refuse_others(dir: &Metadata, base: &Metadata, path: &Path) -> io::Result<()> {
    if !is_root() || base.uid() == 0 {
        return Ok(());
    }
    let group = base.mode() & 0o020 != 0 && dir.gid() == base.gid();
    let foreign = dir.uid() != 0 && dir.uid() != base.uid() && !group;
    let open = dir.mode() & 0o1000 == 0
        && (dir.mode() & 0o002 != 0 || (dir.mode() & 0o020 != 0 && !group));
    if !foreign && !open {
        return Ok(());
    }
    let text = format!(
        "root does not work for user {} in {}, which belongs to user {} with mode {:04o}: others could interfere. Run this as user {}, or set owner and mode right",
        base.uid(),
        path.display(),
        dir.uid(),
        dir.mode() & 0o7777,
        base.uid(),
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// One component of a path, and no way to another directory.
fn component(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        let text = format!("{} is not the name of a file in a directory", name.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(name)
}

/// Whether kernel or file system lack the operation.
fn is_unsupported(errno: Errno) -> bool {
    // Not a pattern: on some systems the last two are one number.
    [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP].contains(&errno)
}
