//! The log's lock and the leader's seat: one of the waiting threads writes and syncs for all, while
//! the next group gathers.
//!
//! Owns who leads, who waits, and what ends a writer. Never decides what a commit is: the queue
//! does. Invariants: only who sits in the seat has the tail; nothing is durable before it was
//! synced in its place; after a failed write or sync nothing is accepted any more. A crash loses
//! commits that were not acknowledged as synced, from the newest backwards.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::pace::{Gathered, Pace};
use super::place::Place;
use super::queue::{Group, Queue};
use super::tail::{LargeCommit, Tail};
use super::tenure::{Tenure, ends_tenure};
use crate::error::{Error, Result};
use crate::format::state::NodeState;
use crate::storage::check_place;
use crate::sync::{self, Condvar, Instant, Mutex, MutexGuard};
use crate::types::Position;

/// How often a writer looks at least whether the node is still its own, while it takes commits in
/// that it does not write yet.
const LOOK: Duration = Duration::from_millis(100);

/// A group of fewer bytes than these is small enough to be prepared for.
const SMALL_GROUP: usize = 64 << 10;

/// The log of one writer.
#[derive(Debug)]
pub(super) struct Log {
    place: Arc<Place>,
    tenure: Arc<Tenure>,
    segment_bytes: u64,
    state: Mutex<LogState>,
    wake: Condvar,
}

/// The log's lock.
pub(super) type Held<'a> = MutexGuard<'a, LogState>;

/// What the log's lock guards.
#[derive(Debug)]
pub(super) struct LogState {
    pub queue: Queue,
    /// `None` while a leader works with it.
    tail: Option<Tail>,
    durable: Position,
    failed: Option<Error>,
    closed: bool,
    /// When it was last looked whether the node is still this writer's.
    looked: Instant,
    pace: Pace,
}

impl LogState {
    /// The newest durable commit.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// The end of the log, unless a leader works with it.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// Takes nothing in any more; tells whether it did before.
    pub fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closed, true)
    }

    /// Refuses what a writer that has failed is asked for.
    fn alive(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(cause) if ends_tenure(cause) => Err(cause.clone()),
            Some(cause) => Err(Error::Poisoned { cause: Box::new(cause.clone()) }),
        }
    }

    /// Refuses what a writer that has failed or was closed is asked for.
    pub fn accepting(&self) -> Result<()> {
        self.alive()?;
        if self.closed {
            return Err(Error::Closed);
        }
        Ok(())
    }
}

/// What a leader does beside writing what is pending.
#[derive(Debug, Default)]
pub(super) struct Lead<'a> {
    /// Whether it syncs.
    pub sync: bool,
    /// Whether it ends the segment.
    pub seal: bool,
    /// A commit of several pieces, after what is pending.
    pub large: Option<LargeCommit<'a>>,
}

impl Log {
    pub fn new(
        place: Arc<Place>,
        tenure: Arc<Tenure>,
        segment_bytes: u64,
        queue: Queue,
        tail: Tail,
    ) -> Log {
        let state = LogState {
            durable: queue.state().position,
            queue,
            tail: Some(tail),
            failed: None,
            closed: false,
            looked: Instant::now(),
            pace: Pace::default(),
        };
        Log { place, tenure, segment_bytes, state: Mutex::new(state), wake: Condvar::new() }
    }

    pub fn lock(&self) -> Held<'_> {
        self.state.lock()
    }

    /// Waits until a leader is done, or gives up waiting for others.
    pub fn wait(&self, log: &mut Held<'_>) {
        self.wake.wait(log);
    }

    /// Waits until the leader's seat is free.
    pub fn wait_for_leader(&self, log: &mut Held<'_>) -> Result<()> {
        while log.tail.is_none() {
            self.wait(log);
        }
        log.alive()
    }

    /// The writer accepts nothing more.
    pub fn stop(&self, log: &mut Held<'_>, cause: &Error) {
        log.failed = Some(cause.clone());
        self.wake.notify_all();
    }

    /// [`Tenure::check`] for what is not written at once. A node that is lost stops the writer;
    /// other failures refuse this call only.
    pub fn look(&self, log: &mut Held<'_>) -> Result<()> {
        let looked = self.tenure.check();
        match &looked {
            Ok(()) => log.looked = Instant::now(),
            Err(e) if ends_tenure(e) => self.stop(log, e),
            Err(_) => {}
        }
        looked
    }

    /// [`look`](Self::look), if the last one was a while ago.
    pub fn look_in_time(&self, log: &mut Held<'_>) -> Result<()> {
        if log.looked.elapsed() >= LOOK { self.look(log) } else { Ok(()) }
    }

    /// Writes what is pending, if the leader's seat is free; else waits for the leader to be done.
    pub fn lead_or_wait(&self, log: &mut Held<'_>, sync: bool) -> Result<()> {
        log.alive()?;
        if log.tail.is_none() || log.pace.is_gathering() {
            self.wait(log);
            return Ok(());
        }
        if sync && !self.gather(log) {
            return Ok(());
        }
        self.lead(log, Lead { sync, ..Lead::default() })
    }

    /// Gives the threads of the last group a moment to come back. Without it the first one back
    /// would sync alone, or two halves would take turns, and every commit would wait for two syncs.
    /// A single thread expects nobody and waits for nobody. `false` if another leader went ahead.
    fn gather(&self, log: &mut Held<'_>) -> bool {
        if log.pace.is_complete(log.queue.waiting()) {
            return true;
        }
        let group = log.pace.groups();
        let until = Instant::now() + log.pace.begin_gathering();
        let gathered = loop {
            sync::unlocked(log, sync::yield_now);
            let led = log.pace.groups() != group || log.tail.is_none();
            if led || log.failed.is_some() || log.closed {
                break Gathered::Overtaken;
            }
            if log.pace.is_complete(log.queue.waiting()) {
                break Gathered::All;
            }
            if Instant::now() >= until {
                break Gathered::NotAll;
            }
        };
        log.pace.end_gathering(gathered);
        let first = gathered != Gathered::Overtaken;
        if !first {
            // Who slept because of the gathering looks again.
            self.wake.notify_all();
        }
        first
    }

    /// Takes the leader's seat, which must be free, and writes what is pending, without the lock.
    pub fn lead(&self, log: &mut Held<'_>, mut lead: Lead<'_>) -> Result<()> {
        log.alive()?;
        let mut tail = log.tail.take().expect("a leader takes the seat only if it is free");
        let group = log.queue.take();
        let position = log.queue.state().position;
        lead.sync |= !group.restore_points.is_empty();
        // The state is needed only if a segment ends here.
        let size = tail.len() + group.bytes as u64;
        let ends = lead.seal || size >= self.segment_bytes;
        let after = ends.then(|| log.queue.state().clone());
        let begun = Instant::now();
        // A panic of the host's storage, clock or generator must not leave the seat empty and the
        // others waiting.
        let done = sync::unlocked(log, || {
            catch_unwind(AssertUnwindSafe(|| self.write_group(&mut tail, &group, lead, after)))
        });
        log.queue.forget_names(&group);
        log.tail = Some(tail);
        let failed = match &done {
            Ok(Ok(_)) => None,
            Ok(Err(e)) => Some(e.clone()),
            Err(_) => Some(Error::host("a panic while writing")),
        };
        if let Some(e) = failed {
            tracing::error!(node = %self.tenure.name, error = %e, "the writer stops");
            log.failed = Some(e);
        }
        if matches!(done, Ok(Ok(true))) {
            log.durable = log.durable.max(position);
        }
        let threads = group.waiting + log.queue.waiting();
        log.pace.wrote(threads, begun.elapsed());
        self.wake.notify_all();
        match done {
            Ok(result) => result.map(drop),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Writes a group; tells whether everything up to its end is durable.
    fn write_group(
        &self,
        tail: &mut Tail,
        group: &Group,
        lead: Lead<'_>,
        after: Option<NodeState>,
    ) -> Result<bool> {
        // Before anything is written, so that no commit that begins after the node was deleted, or
        // taken over, is acknowledged. Whatever else keeps the catalog from being read is told when
        // the next commit is taken in.
        if let Err(e) = self.tenure.check()
            && ends_tenure(&e)
        {
            return Err(e);
        }
        if !group.frames.is_empty() {
            tail.append(&group.frames, lead.sync && group.bytes < SMALL_GROUP)?;
        }
        if let Some(large) = lead.large {
            tail.append_large(&large)?;
        }
        let durable = lead.sync || after.is_some();
        if durable {
            tail.sync()?;
            // The segment of an archive that was moved away can be written and synced, but is not
            // where it will be looked for. Where that cannot be told for now, nothing is
            // acknowledged either; and as the commits have their place in the log, they can only be
            // found again by another writer, not refused.
            check_place(self.place.storage.as_ref())?;
        }
        // Before the seal: recovery looks for names without an entry in unsealed segments only.
        for named in &group.restore_points {
            self.tenure.publish_restore_point(&named.name, named.position, named.timestamp)?;
        }
        if let Some(state) = after {
            tail.seal(state)?;
        }
        Ok(durable)
    }
}
