//! What a watcher tells about itself, and the handle by which other threads reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rewound::{Lsn, Position, Timestamp};

use super::error::Result;
use super::wake::Bell;

/// What a watcher is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Opened, nothing archived by it yet.
    #[default]
    Starting,
    /// Copies the database for the first time, while the application goes on.
    Copying,
    /// Compares the database with the archive, as it cannot prove that it saw every transaction.
    Resyncing,
    /// Follows transactions.
    Following,
    /// The archive or the database refuses; tries again after a while. The database's log keeps what is to be archived.
    Retrying,
    /// Stopped.
    Stopped,
}

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
    /// Version of SQLite that last wrote the database's first page, such as 3,045,001 for 3.45.1; zero where not known.
    pub sqlite_version: u32,
    /// Whether that version has SQLite's own WAL-reset bug (3.7.0 to 3.51.2), which can damage a database: update the application's SQLite.
    pub wal_reset_bug: bool,
}

/// Something that a watcher did or met, for logs and displays. Also goes to `tracing`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The first copy of the database begins.
    CopyStarted {
        /// Bytes of the database.
        bytes: u64,
    },
    /// The first copy is complete: everything from this commit on can be restored.
    CopyFinished {
        /// The commit.
        lsn: Lsn,
        /// How long it took.
        elapsed: Duration,
    },
    /// The archive continues exactly where it ended.
    Continued {
        /// The newest commit of before.
        position: Position,
    },
    /// Continuity is not proven: transactions may have been missed. The database is compared with the archive.
    ResyncStarted {
        /// Why.
        reason: String,
    },
    /// The comparison is complete: one commit, annotated `resync`, holds all differences.
    ResyncFinished {
        /// The commit.
        lsn: Lsn,
        /// Pages that differed.
        pages: u64,
        /// How long it took.
        elapsed: Duration,
    },
    /// Transactions were archived, durably.
    Archived {
        /// The newest of them.
        lsn: Lsn,
        /// When it was seen.
        timestamp: Timestamp,
        /// How many.
        commits: u64,
    },
    /// Something failed and is tried again.
    Retrying {
        /// What.
        failure: String,
        /// After how long.
        after: Duration,
    },
    /// It works again.
    Recovered,
    /// Something that the operator should know.
    Warning(String),
}

/// Reaches a watcher from other threads, signal handlers' threads included. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    bell: Bell,
    status: Mutex<(Status, Option<Instant>)>,
    requests: Mutex<Requests>,
    answered: Condvar,
}

/// Who waits for the archive to have everything.
#[derive(Debug, Default)]
struct Requests {
    asked: u64,
    /// The newest one that a round began after, ...
    answered: u64,
    /// ... and what the archive had after it.
    archived: Position,
    closed: bool,
}

impl Handle {
    pub(super) fn new() -> Result<Handle> {
        let shared = Shared {
            stop: AtomicBool::new(false),
            bell: Bell::new()?,
            status: Mutex::default(),
            requests: Mutex::default(),
            answered: Condvar::new(),
        };
        Ok(Handle { shared: Arc::new(shared) })
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.shared.bell
    }

    /// `behind_since`: from when on the archive has been behind the database.
    pub(super) fn publish(&self, status: &Status, behind_since: Option<Instant>) {
        *self.shared.status.lock() = (status.clone(), behind_since);
    }

    /// The newest request of [`catch_up`](Handle::catch_up): whoever asks from now on is answered by the next round.
    pub(super) fn asked(&self) -> u64 {
        self.shared.requests.lock().asked
    }

    /// A round that began after `asked` is complete.
    pub(super) fn answer(&self, asked: u64, archived: Position) {
        let mut requests = self.shared.requests.lock();
        (requests.answered, requests.archived) = (asked, archived);
        drop(requests);
        self.shared.answered.notify_all();
    }

    pub(super) fn closed(&self) {
        self.shared.requests.lock().closed = true;
        self.shared.answered.notify_all();
    }

    /// Waits until every transaction that was committed before this call is in the archive, durably; gives the archive's newest commit then.
    /// `None` where that takes longer than `timeout`, as while the archive's disk is full, or where the watcher has been closed.
    ///
    /// Needs the watcher to be running on another thread ([`Watcher::run`](super::Watcher::run), or calls of
    /// [`Watcher::poll_once`](super::Watcher::poll_once)).
    pub fn catch_up(&self, timeout: Duration) -> Option<Position> {
        let until = Instant::now() + timeout;
        let mut requests = self.shared.requests.lock();
        requests.asked += 1;
        let mine = requests.asked;
        self.shared.bell.force();
        while requests.answered < mine {
            if requests.closed || self.shared.answered.wait_until(&mut requests, until).timed_out() {
                return None;
            }
        }
        Some(requests.archived)
    }

    /// Asks [`Watcher::run`](super::Watcher::run) to archive what there is and return.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.bell.force();
    }

    /// Whether it was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Makes the watcher look at once, without waiting for the kernel's notification. Costs next to nothing while it is at work anyway.
    pub fn wake(&self) {
        self.shared.bell.ring();
    }

    /// What the watcher knows about itself.
    pub fn status(&self) -> Status {
        let (mut status, behind_since) = self.shared.status.lock().clone();
        status.lag = behind_since.map_or(Duration::ZERO, |since| since.elapsed());
        status
    }

    /// Wakes the watcher at each commit of a connection of this process. Replaces the connection's
    /// `wal_hook`, and with it SQLite's automatic checkpoints on this connection: the watcher does them.
    pub fn hook(&self, connection: &mut rusqlite::Connection) -> rusqlite::Result<()> {
        let handle = self.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, _| {
            handle.wake();
            Ok(())
        }))
    }
}
