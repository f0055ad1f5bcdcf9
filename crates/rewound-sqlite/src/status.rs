//! What a watcher tells about itself, and the handle by which other threads reach it.

use std::time::Duration;

use rewound::{Position, Timestamp};
use rewound_follow::State;

use super::format::{DatabaseHeader, has_wal_reset_bug};

/// What a watcher knows about itself. All counts are since it was opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// The newest commit in the archive; durable.
    pub archived: Position,
    /// When that commit was seen.
    pub archived_at: Option<Timestamp>,
    /// Transactions archived.
    pub commits: u64,
    /// Pages in them.
    pub pages: u64,
    /// For how long the archive has been behind the database; zero where it is not.
    pub lag: Duration,
    /// Bytes of the database's log that are not archived yet.
    pub pending_bytes: u64,
    /// Bytes of the database's log that are in use.
    pub wal_bytes: u64,
    /// Times that the log was made to start over.
    pub wal_resets: u64,
    /// Times that it had to compare pages because continuity was not proven.
    pub resyncs: u64,
    /// Why it last did so.
    pub last_resync: Option<String>,
    /// Failures that it has tried again after.
    pub failures: u64,
    /// The last of them, while it lasts.
    pub failure: Option<String>,
    /// Version of SQLite that last wrote the database's first page, such as 3,045,001 for 3.45.1;
    /// zero where not known.
    pub sqlite_version: u32,
    /// Whether that version has SQLite's own WAL-reset bug (3.7.0 to 3.51.2), which can damage a
    /// database: update the application's SQLite.
    pub wal_reset_bug: bool,
}

/// What the status says of SQLite alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Details {
    pub wal_bytes: u64,
    pub wal_resets: u64,
    pub sqlite_version: u32,
    pub wal_reset_bug: bool,
}

impl Details {
    /// Looks at who writes the database.
    pub fn note(&mut self, header: &DatabaseHeader) {
        self.sqlite_version = header.version;
        self.wal_reset_bug |= has_wal_reset_bug(header.version);
    }
}

impl From<rewound_follow::Status<Details>> for Status {
    fn from(of: rewound_follow::Status<Details>) -> Status {
        Status {
            state: of.state,
            archived: of.archived,
            archived_at: of.archived_at,
            commits: of.commits,
            pages: of.pages,
            lag: of.lag,
            pending_bytes: of.pending_bytes,
            wal_bytes: of.details.wal_bytes,
            wal_resets: of.details.wal_resets,
            resyncs: of.resyncs,
            last_resync: of.last_resync,
            failures: of.failures,
            failure: of.failure,
            sqlite_version: of.details.sqlite_version,
            wal_reset_bug: of.details.wal_reset_bug,
        }
    }
}

/// Reaches a watcher from other threads, signal handlers' threads included. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    follower: rewound_follow::Handle<Details>,
}

impl Handle {
    pub(super) fn new(follower: rewound_follow::Handle<Details>) -> Handle {
        Handle { follower }
    }

    /// Waits until every transaction that was committed before this call is in the archive,
    /// durably; gives the archive's newest commit then. `None` where that takes longer than
    /// `timeout`, as while the archive's disk is full, or where the watcher has been closed.
    ///
    /// Needs the watcher to be running on another thread ([`Watcher::run`](super::Watcher::run), or
    /// calls of [`Watcher::poll_once`](super::Watcher::poll_once)).
    pub fn catch_up(&self, timeout: Duration) -> Option<Position> {
        self.follower.catch_up(timeout)
    }

    /// Asks [`Watcher::run`](super::Watcher::run) to archive what there is and return.
    pub fn stop(&self) {
        self.follower.stop();
    }

    /// Whether it was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.follower.is_stopping()
    }

    /// Makes the watcher look at once, without waiting for the kernel's notification. Costs next to
    /// nothing while it is at work anyway.
    pub fn wake(&self) {
        self.follower.wake();
    }

    /// What the watcher knows about itself.
    pub fn status(&self) -> Status {
        self.follower.status().into()
    }

    /// Wakes the watcher at each commit of a connection of this process. Replaces the connection's
    /// `wal_hook`, and with it SQLite's automatic checkpoints on this connection: the watcher does
    /// them.
    pub fn hook(&self, connection: &mut rusqlite::Connection) -> rusqlite::Result<()> {
        let handle = self.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, _| {
            handle.wake();
            Ok(())
        }))
    }
}
