//! The symbolic links on the way to a place, and whose they are.
//!
//! Owns the one walk along a path that looks at each link instead of following it blindly. Whoever
//! lays a link on the way chooses what is written to at its end. It opens directories only, and
//! changes nothing, so a crash leaves nothing.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Dir, Identity, Kind, identity, is_root};

/// As many symbolic links as the system follows.
const LINKS: usize = 40;
/// Opens a directory to go on from there: where the system can, without the right to list it.
#[cfg(target_os = "linux")]
const WALK: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const WALK: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a [`walk`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walk {
    /// At the place that the path stands for. The links need not be those that another call
    /// follows: compare the identity with that of what was opened.
    Reached(Identity),
    /// At a link that somebody else has laid, or at one link too many.
    Foreign {
        /// The link.
        link: PathBuf,
        /// The user whom it belongs to.
        uid: u32,
    },
}

/// Goes along a path, through links of the users `trusted` alone. The path's last component may be
/// anything, and is followed if it is a link.
pub fn walk(path: &Path, trusted: &[u32]) -> io::Result<Walk> {
    let names = |path: &Path| -> Vec<OsString> {
        let parts = path
            .components()
            .rev()
            .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
        parts.map(|c| c.as_os_str().to_owned()).collect()
    };
    let root = || Dir::open(Path::new("/"));
    let mut rest = names(&std::path::absolute(path)?);
    let (mut at, mut here, mut links) = (root()?, PathBuf::from("/"), 0);
    while let Some(name) = rest.pop() {
        if name == ".." {
            at = Dir { file: rustix::fs::openat(&at.file, c"..", WALK, Mode::empty())?.into() };
            here.pop();
            continue;
        }
        let there = at.stat(&name)?;
        if there.kind != Kind::Symlink {
            if rest.is_empty() {
                return Ok(Walk::Reached(there.identity));
            }
            at = Dir { file: rustix::fs::openat(&at.file, &name, WALK, Mode::empty())?.into() };
            here.push(name);
            continue;
        }
        links += 1;
        if links > LINKS || !trusted.contains(&there.uid) {
            return Ok(Walk::Foreign { link: here.join(name), uid: there.uid });
        }
        let to =
            OsString::from_vec(rustix::fs::readlinkat(&at.file, &name, Vec::new())?.into_bytes());
        if Path::new(&to).is_absolute() {
            (at, here) = (root()?, PathBuf::from("/"));
        }
        rest.extend(names(to.as_ref()));
    }
    Ok(Walk::Reached(identity(&at.metadata()?)))
}

/// As root: refuses a directory that was reached through a symbolic link of somebody who is neither
/// root nor the directory's owner. Who has a say in a part of a path would choose where root
/// writes.
pub fn refuse_links_of_others(path: &Path, opened: &Dir) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let refused = |what: String| {
        let text = format!("{what} on the way to {}: give a path without it", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    let reached = opened.metadata()?;
    match walk(path, &[0, reached.uid()])? {
        Walk::Foreign { link, uid } => {
            refused(format!("{} is a symbolic link of user {uid}", link.display()))
        }
        // The links that were looked at need not be those that were followed.
        Walk::Reached(there) if there != identity(&reached) => {
            refused("something was replaced".into())
        }
        Walk::Reached(_) => Ok(()),
    }
}
