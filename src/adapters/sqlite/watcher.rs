//! The watcher: opens, follows, stops.

use std::path::Path;

use super::error::{Error, Result};
use super::options::WatchOptions;
use super::status::{Event, Handle, Status};
use crate::archive::Node;

/// Protects one SQLite database. Not for several threads: run it on one of its own, and reach it through its [`Handle`].
pub struct Watcher {
    handle: Handle,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Attaches to a database: checks that it is one, in WAL mode and not watched by another; takes the node's writer; pins the database's log.
    /// Copies and compares nothing yet.
    ///
    /// The node should be made for it, with [`Origin::Existing`](crate::Origin::Existing), and hold nothing else.
    pub fn open(node: &Node, database: impl AsRef<Path>, options: WatchOptions) -> Result<Watcher> {
        let (_, _, _) = (node, database.as_ref(), options);
        Err(Error::Archive(crate::Error::Unsupported("not built yet".into())))
    }

    /// For other threads: status, stop, wake.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gives events to `callback`, on the watcher's own thread: it must not block.
    pub fn on_event(&mut self, callback: impl FnMut(&Event) + Send + 'static) {
        drop(callback);
    }

    /// Follows the database until [`Handle::stop`] is called, then archives what there is and closes. Failures of the archive and of the
    /// database are tried again for as long as that can help; an error is what cannot be mended by waiting, such as a database that is no longer there.
    pub fn run(&mut self) -> Result<Status> {
        Ok(self.handle.status())
    }

    /// One round: archives every transaction committed by now, durably; gives their number. The first
    /// round copies the database, or proves continuity, or compares. A failure is returned, not tried again.
    pub fn poll_once(&mut self) -> Result<u64> {
        Ok(0)
    }

    /// Ends: everything archived is durable, the node's writer is free, the database is unpinned.
    pub fn close(self) -> Result<Status> {
        Ok(self.handle.status())
    }
}

/// Brings the archive up to now, once: attaches, copies or continues or compares, archives every transaction committed by now, leaves.
pub fn backup(
    node: &Node,
    database: impl AsRef<Path>,
    options: WatchOptions,
    callback: impl FnMut(&Event) + Send + 'static,
) -> Result<Status> {
    let mut watcher = Watcher::open(node, database, options)?;
    watcher.on_event(callback);
    watcher.poll_once()?;
    watcher.close()
}
