//! What a writer does for its batches and threads: commits, flushes, ticks, and what is due from
//! time to time.
//!
//! Owns the order of a commit's steps: room, check, stamp, admission, queue, sync. Never writes a
//! byte: the leader does. What can be refused is refused before a commit has its place in the log.

use std::sync::Arc;

use super::draft::Draft;
use super::known::Known;
use super::lead::{Held, Lead, Log};
use super::ops::Ops;
use super::place::Place;
use super::queue::Queue;
use super::tail::{Continuation, LargeCommit, Tail};
use super::tenure::Tenure;
use crate::delta::Encoder;
use crate::env::{self, Clock};
use crate::error::{Error, Result};
use crate::format::state::NodeState;
use crate::options::WriterOptions;
use crate::storage::check_place;
use crate::sync::Mutex;
use crate::types::{Commit, Durability, Position, Timestamp};

/// Encoders kept for the next batch.
const MAX_ENCODERS: usize = 16;

/// What batches and threads of one writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub place: Arc<Place>,
    pub clock: Arc<dyn Clock>,
    pub tenure: Arc<Tenure>,
    pub options: WriterOptions,
    pub known: Arc<Known>,
    log: Log,
    rules: Mutex<Arc<Rules>>,
    encoders: Mutex<Vec<Encoder>>,
    /// One base copy at a time.
    pub base_copy: Mutex<()>,
}

/// Under which rules a batch was begun; counted while batches hold it.
#[derive(Debug)]
pub(super) struct Rules {
    /// Whether it may log patches: not while a base snapshot is about to begin.
    pub patches: bool,
}

/// When a commit happens, and how it is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The host's time for it, if it gives one.
    pub timestamp: Option<Timestamp>,
    pub durability: Durability,
}

/// What a writer is made of.
#[derive(Debug)]
pub(super) struct SharedParts {
    pub place: Place,
    pub clock: Arc<dyn Clock>,
    pub tenure: Tenure,
    pub options: WriterOptions,
}

impl Shared {
    pub fn new(parts: SharedParts, at: Continuation) -> Shared {
        let SharedParts { place, clock, tenure, options } = parts;
        let (place, tenure) = (Arc::new(place), Arc::new(tenure));
        let known = Known::new(place.owner, &options, &at.state);
        let queue = Queue::new(at.state.clone(), options.frame_bytes);
        let tail = Tail::new(Arc::clone(&place), Arc::clone(&tenure), Arc::clone(&clock), at);
        let log =
            Log::new(Arc::clone(&place), Arc::clone(&tenure), options.segment_bytes, queue, tail);
        Shared {
            place,
            clock,
            tenure,
            options,
            known: Arc::new(known),
            log,
            rules: Mutex::new(Arc::new(Rules { patches: true })),
            encoders: Mutex::default(),
            base_copy: Mutex::default(),
        }
    }

    pub fn take_encoder(&self) -> Result<Encoder> {
        let kept = self.encoders.lock().pop();
        kept.map_or_else(|| Encoder::new().map_err(Error::from), Ok)
    }

    pub fn return_encoder(&self, encoder: Encoder) {
        let mut kept = self.encoders.lock();
        if kept.len() < MAX_ENCODERS {
            kept.push(encoder);
        }
    }

    /// The rules for a batch that begins now.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.lock())
    }

    /// Changes the rules for batches that begin from now on; returns the old ones.
    pub fn change_rules(&self, patches: bool) -> Arc<Rules> {
        std::mem::replace(&mut self.rules.lock(), Arc::new(Rules { patches }))
    }

    /// Something of the state that a host can ask for without an error. In a forked child, whose
    /// copy of the lock may be held for ever, nothing is known.
    pub fn ask<T: Default>(&self, f: impl FnOnce(&NodeState) -> T) -> T {
        if self.place.owner.is_here() { self.with_state(f) } else { T::default() }
    }

    /// The newest commit that has an LSN.
    pub fn newest(&self) -> Position {
        self.ask(|state| state.position)
    }

    /// The newest durable commit.
    pub fn durable(&self) -> Position {
        if self.place.owner.is_here() { self.log.lock().durable() } else { Position::ORIGIN }
    }

    /// Runs with the log standing still at a position. What it does must be short and take no lock
    /// of the host's.
    pub fn with_state<T>(&self, f: impl FnOnce(&NodeState) -> T) -> T {
        f(self.log.lock().queue.state())
    }

    /// Whether a restore point has this name, or gets it from a commit that is pending.
    pub fn is_named(&self, name: &str) -> Result<bool> {
        // In this order: what is pending is in the catalog before it is none any more.
        Ok(self.log.lock().queue.is_naming(name) || self.tenure.is_named(name)?)
    }

    /// Whether the writer has neither failed nor been closed.
    pub fn is_accepting(&self) -> bool {
        self.log.lock().accepting().is_ok()
    }

    /// Commits a batch.
    pub fn commit(&self, draft: Draft, ops: &Ops, terms: Terms) -> Result<Commit> {
        self.place.check_process()?;
        // What the batch stands on is let go of without the log's lock: declared before it.
        let _bases;
        let mut log = self.log.lock();
        self.make_room(&mut log, ops)?;
        self.log.look_in_time(&mut log)?;
        let checked = draft.check(log.queue.state().position)?;
        let timestamp = log.queue.stamp(self.clock.as_ref(), terms.timestamp)?;
        for name in checked.names() {
            if log.queue.is_naming(name) || self.tenure.is_named(name)? {
                return Err(Error::RestorePointExists { name: name.clone() });
            }
        }
        let admitted = log.queue.admit(checked, timestamp);
        let (placed, bases) = admitted.map_err(|e| self.tenure.refused(&e))?;
        _bases = bases;
        let sync = placed.named || terms.durability == Durability::Synced;
        let position = Position::from(placed.lsn);
        let Some(bytes) = ops.single() else {
            let large = Some(LargeCommit { ops, position, before: placed.before, timestamp });
            self.log.lead(&mut log, Lead { sync, seal: false, large })?;
            return Ok(Commit { lsn: placed.lsn, timestamp });
        };
        log.queue.put(&placed, bytes);
        if sync {
            log.queue.wait();
            while log.durable() < position {
                self.log.lead_or_wait(&mut log, true)?;
            }
        } else if log.queue.bytes() >= self.options.frame_bytes && log.tail().is_some() {
            self.log.lead_or_wait(&mut log, false)?;
        }
        Ok(Commit { lsn: placed.lsn, timestamp })
    }

    /// Waits for room, so that memory stays bounded whatever the durability; and for a large commit
    /// for the leader's seat, as it writes its pieces itself.
    fn make_room(&self, log: &mut Held<'_>, ops: &Ops) -> Result<()> {
        loop {
            log.accepting()?;
            if log.queue.bytes() >= self.options.pending_bytes {
                self.log.lead_or_wait(log, false)?;
            } else if ops.single().is_none() && log.tail().is_none() {
                self.log.wait(log);
            } else {
                return Ok(());
            }
        }
    }

    /// Makes every commit so far durable.
    pub fn flush(&self) -> Result<Position> {
        self.place.check_process()?;
        let mut log = self.log.lock();
        let wanted = log.queue.state().position;
        while log.durable() < wanted {
            self.log.lead_or_wait(&mut log, true)?;
        }
        log.accepting()?;
        Ok(log.durable())
    }

    /// Logs that no commit happened until now; durable when it returns.
    pub fn tick(&self) -> Result<Timestamp> {
        self.place.check_process()?;
        let mut log = self.log.lock();
        log.accepting()?;
        let until = env::now(self.clock.as_ref())?.max(log.queue.state().known_until);
        log.queue.put_tick(until);
        self.log.wait_for_leader(&mut log)?;
        self.log.lead(&mut log, Lead { sync: true, ..Lead::default() })?;
        Ok(until)
    }

    /// Proves that the archive, its catalog, the lock and the segment being written are still what
    /// they were when they were opened. The writer stops if they are not.
    pub fn check(&self) -> Result<()> {
        self.place.check_process()?;
        let mut log = self.log.lock();
        log.accepting()?;
        self.log.wait_for_leader(&mut log)?;
        let storage = self.place.storage.as_ref();
        let found = check_place(storage)
            .and_then(|()| self.tenure.check_place(storage))
            .and_then(|()| log.tail().map_or(Ok(()), Tail::check_place));
        if let Err(e @ Error::Displaced { .. }) = &found {
            tracing::error!(node = %self.tenure.name, error = %e, "the writer stops");
            self.log.stop(&mut log, e);
        }
        found
    }

    /// What the writer's thread does from time to time.
    pub fn housekeeping(&self) -> Result<()> {
        // What has its time is written by whatever clock.
        self.flush()?;
        let mut log = self.log.lock();
        log.accepting()?;
        self.log.look(&mut log)?;
        drop(log);
        self.check()?;
        let now = env::now(self.clock.as_ref())?;
        let (idle, old) = {
            let log = self.log.lock();
            let due = log.queue.state().known_until.saturating_add(self.options.tick_interval);
            // A leader at work with it does not make it older: the next time is soon enough.
            let old = log.tail().is_some_and(|t| t.is_older_than(self.options.segment_age, now));
            (now >= due, old)
        };
        if idle {
            self.tick()?;
        }
        if old {
            self.rotate_segment()?;
        }
        Ok(())
    }

    /// Seals the current segment, so that it can be shipped; the next commit begins a new one.
    pub fn rotate_segment(&self) -> Result<()> {
        self.place.check_process()?;
        let mut log = self.log.lock();
        log.accepting()?;
        self.end_segment(&mut log)
    }

    fn end_segment(&self, log: &mut Held<'_>) -> Result<()> {
        self.log.wait_for_leader(log)?;
        self.log.lead(log, Lead { sync: true, seal: true, large: None })
    }

    /// Ends the tenure: nothing more is accepted, everything accepted is durable, the segment is
    /// sealed, the lock is free.
    pub fn close(&self) -> Result<()> {
        self.place.check_process()?;
        let mut log = self.log.lock();
        if !log.close() {
            return Ok(());
        }
        let done = self.end_segment(&mut log);
        drop(log);
        self.tenure.release();
        done
    }
}
