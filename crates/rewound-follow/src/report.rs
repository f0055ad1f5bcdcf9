//! What a follower tells about itself: its status, and what happens to it.
//!
//! Owns the status as the follower's thread has it; [`Report::publish`] makes it what others see.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rewound::{Commit, Lsn, Position, Timestamp};

use crate::clock::Clock;
use crate::handle::Handle;

/// What a follower is doing.
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
    /// The archive or the database refuses; tries again after a while. The database's log keeps
    /// what is to be archived.
    Retrying,
    /// Stopped.
    Stopped,
}

/// What a follower knows about itself. All counts are since it was opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status<D> {
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
    /// Times that it had to compare pages because continuity was not proven.
    pub resyncs: u64,
    /// Why it last did so.
    pub last_resync: Option<String>,
    /// Failures that it has tried again after.
    pub failures: u64,
    /// The last of them, while it lasts.
    pub failure: Option<String>,
    /// What only this kind of database has.
    pub details: D,
}

/// Something that a follower did or met, for logs and displays.
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
    /// Continuity is not proven: transactions may have been missed. The database is compared with
    /// the archive.
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

type OnEvent = Box<dyn FnMut(&Event) + Send>;

/// Where a [`Source`](crate::Source) says what it does: status and events go together here.
pub struct Report<D> {
    pub(crate) status: Status<D>,
    behind_since: Option<Instant>,
    on_event: Option<OnEvent>,
    handle: Handle<D>,
    clock: Arc<dyn Clock>,
}

impl<D: Clone> Report<D> {
    pub(crate) fn new(handle: Handle<D>, clock: Arc<dyn Clock>) -> Report<D>
    where
        D: Default,
    {
        let status = Status::default();
        Report { status, behind_since: None, on_event: None, handle, clock }
    }

    pub(crate) fn on_event(&mut self, callback: OnEvent) {
        self.on_event = Some(callback);
    }

    /// What only this kind of database has.
    pub fn details(&mut self) -> &mut D {
        &mut self.status.details
    }

    /// The archive is open, and durable up to there.
    pub fn opened(&mut self, durable: Position) {
        self.status.archived = durable;
    }

    /// The archive goes on where it ended.
    pub fn continued(&mut self, position: Position) {
        self.event(&Event::Continued { position });
    }

    /// Copies the database for the first time.
    pub fn copy<E>(&mut self, bytes: u64, copy: impl FnOnce() -> Result<Lsn, E>) -> Result<(), E> {
        let begun = self.clock.now();
        self.at_length(State::Copying, &Event::CopyStarted { bytes });
        let lsn = copy()?;
        self.status.archived = lsn.into();
        self.event(&Event::CopyFinished { lsn, elapsed: self.since(begun) });
        Ok(())
    }

    /// Compares the database with the archive: `resync` is given the reason, and returns the commit
    /// and how many pages differed.
    pub fn resync<E>(
        &mut self,
        reason: String,
        resync: impl FnOnce(&str) -> Result<(Commit, u64), E>,
    ) -> Result<(), E> {
        let begun = self.clock.now();
        self.at_length(State::Resyncing, &Event::ResyncStarted { reason: reason.clone() });
        let (commit, pages) = resync(&reason)?;
        self.status.resyncs += 1;
        self.status.last_resync = Some(reason);
        self.newest(commit);
        self.event(&Event::ResyncFinished { lsn: commit.lsn, pages, elapsed: self.since(begun) });
        Ok(())
    }

    /// So many transactions and pages were archived, durably; `newest` is the last of them.
    pub fn archived(&mut self, commits: u64, pages: u64, newest: Option<Commit>) {
        debug_assert_eq!(
            commits > 0,
            newest.is_some(),
            "there is a newest one of those that there are"
        );
        self.status.commits += commits;
        self.status.pages += pages;
        if let Some(newest) = newest {
            self.newest(newest);
            let Commit { lsn, timestamp } = newest;
            self.event(&Event::Archived { lsn, timestamp, commits });
        }
    }

    /// Something that the operator should know.
    pub fn warn(&mut self, text: String) {
        self.event(&Event::Warning(text));
    }

    /// So many bytes of the database's log are not archived yet.
    pub fn pending(&mut self, bytes: u64) {
        self.status.pending_bytes = bytes;
    }

    /// Whether the archive is known to lack something that the database has.
    pub fn is_behind(&self) -> bool {
        self.behind_since.is_some()
    }

    /// The archive lacks something that the database has, from now on if it did not before.
    pub fn fall_behind(&mut self) {
        self.behind_since.get_or_insert_with(|| self.clock.now());
    }

    /// The archive has everything.
    pub fn caught_up(&mut self) {
        self.behind_since = None;
    }

    /// Makes the status as it is known here what others see.
    pub fn publish(&self) {
        self.handle.publish(&self.status, self.behind_since);
    }

    pub(crate) fn event(&mut self, event: &Event) {
        if let Some(callback) = &mut self.on_event {
            callback(event);
        }
    }

    pub(crate) fn failed(&mut self, failure: String) {
        self.status.failures += 1;
        self.status.failure = Some(failure);
        self.status.state = State::Retrying;
    }

    /// Begins what takes long, and is to be seen meanwhile.
    fn at_length(&mut self, state: State, event: &Event) {
        self.status.state = state;
        self.event(event);
        // How far it is behind is not known before the end.
        self.handle.publish(&self.status, None);
    }

    fn newest(&mut self, commit: Commit) {
        self.status.archived = commit.lsn.into();
        self.status.archived_at = Some(commit.timestamp);
    }

    fn since(&self, begun: Instant) -> Duration {
        self.clock.now().saturating_duration_since(begun)
    }
}
