//! The end of the log: the segment that commits are appended to, from its opening to its seal.
//!
//! Owns the segment's life: open, append, sync, seal, and what links it to the next one. Never
//! takes the log's lock: only the leader has the tail. Invariant: a segment continues from the
//! state, and is linked to the facts, that the one before it ended with. A crash leaves a segment
//! without a seal; the next writer finds its end.

use std::sync::Arc;
use std::time::Duration;

use super::ops::Ops;
use super::place::Place;
use super::tenure::Tenure;
use crate::env::{self, Clock};
use crate::error::{Error, Result};
use crate::format::frame::FrameKind;
use crate::format::record::put_commit;
use crate::format::segment::{PreviousSegment, SegmentPreface};
use crate::format::state::NodeState;
use crate::types::{Position, Timestamp};
use crate::wal::{ActiveSegment, SegmentStart};

/// Where a writer takes up the log.
#[derive(Debug)]
pub(super) struct Continuation {
    pub state: NodeState,
    pub next_sequence: u64,
    pub previous: Option<(PreviousSegment, [u8; 32])>,
}

/// One or more small commits, or a tick, as they are written.
#[derive(Debug)]
pub(super) struct Frame {
    pub kind: FrameKind,
    pub first: Position,
    pub last: Position,
    pub before: Timestamp,
    pub text: Vec<u8>,
}

/// A commit of several pieces.
#[derive(Debug)]
pub(super) struct LargeCommit<'a> {
    pub ops: &'a Ops,
    pub position: Position,
    pub before: Timestamp,
    pub timestamp: Timestamp,
}

/// The end of the log; only the leader touches it.
#[derive(Debug)]
pub(super) struct Tail {
    place: Arc<Place>,
    tenure: Arc<Tenure>,
    clock: Arc<dyn Clock>,
    segment: Option<ActiveSegment>,
    /// The state that the next segment continues from; current if there is no segment.
    base: NodeState,
    next_sequence: u64,
    /// The segment before the next one, and its link.
    previous: Option<(PreviousSegment, [u8; 32])>,
    /// Whether the current segment holds a commit.
    used: bool,
}

impl Tail {
    /// Takes up the log where it ends. The first frame begins a segment.
    pub fn new(
        place: Arc<Place>,
        tenure: Arc<Tenure>,
        clock: Arc<dyn Clock>,
        at: Continuation,
    ) -> Tail {
        let Continuation { state, next_sequence, previous } = at;
        Tail {
            place,
            tenure,
            clock,
            segment: None,
            base: state,
            next_sequence,
            previous,
            used: false,
        }
    }

    /// Bytes of the segment that is open; none if none is.
    pub fn len(&self) -> u64 {
        self.segment.as_ref().map_or(0, ActiveSegment::len)
    }

    /// Whether the segment that is open holds a commit and was begun longer than that ago.
    pub fn is_older_than(&self, age: Duration, now: Timestamp) -> bool {
        let segment = self.segment.as_ref().filter(|_| self.used);
        segment.is_some_and(|s| now > s.created().saturating_add(age))
    }

    /// Proves that the segment that is open is still under its name.
    pub fn check_place(&self) -> Result<()> {
        let storage = self.place.storage.as_ref();
        self.segment.as_ref().map_or(Ok(()), |segment| segment.check(storage))
    }

    /// Writes frames. `small` says that a sync follows, and that it is worth preparing for.
    pub fn append(&mut self, frames: &[Frame], small: bool) -> Result<()> {
        let segment = self.open()?;
        if small {
            segment.expect_small_appends();
        }
        for frame in frames {
            segment.push(
                frame.kind,
                false,
                frame.first,
                frame.last,
                frame.before,
                &[&frame.text],
            )?;
        }
        segment.write()?;
        self.used |= frames.iter().any(|f| f.kind == FrameKind::Commits);
        Ok(())
    }

    /// Writes a commit of several pieces: partial frames, then the frame that ends it.
    pub fn append_large(&mut self, commit: &LargeCommit<'_>) -> Result<()> {
        let LargeCommit { ops, position, before, timestamp } = *commit;
        let segment = self.open()?;
        let mut first = true;
        ops.each(&mut |piece, last| {
            if last {
                let mut text = Vec::with_capacity(piece.len() + 20);
                put_commit(&mut text, before, timestamp, piece);
                segment.push(FrameKind::Commits, !first, position, position, before, &[&text])?;
            } else {
                segment.push(FrameKind::Partial, !first, position, position, before, &[piece])?;
            }
            first = false;
            segment.write()
        })?;
        self.used = true;
        Ok(())
    }

    /// Makes everything written so far durable.
    pub fn sync(&mut self) -> Result<()> {
        self.segment.as_mut().map_or(Ok(()), ActiveSegment::sync)
    }

    /// Ends the segment, if one is open, at the state after its last commit.
    pub fn seal(&mut self, state: NodeState) -> Result<()> {
        let Some(segment) = self.segment.take() else { return Ok(()) };
        self.previous = Some(segment.facts(state.position));
        self.base = state.clone();
        segment.seal(self.place.storage.as_ref(), state)
    }

    /// The segment to write to; begins one if there is none.
    fn open(&mut self) -> Result<&mut ActiveSegment> {
        let none = match &mut self.segment {
            Some(segment) => return Ok(segment),
            none => none,
        };
        let (previous, link) =
            self.previous.take().map_or((None, [0; 32]), |(p, link)| (Some(p), link));
        let start = SegmentStart {
            node: self.tenure.node,
            timeline: self.tenure.timeline,
            epoch: self.tenure.epoch,
            sequence: self.next_sequence,
            // The commits in it have their times: a clock that is not believed at this moment is no
            // reason to stop.
            created: env::now(self.clock.as_ref()).unwrap_or(self.base.known_until),
            link,
            preface: SegmentPreface { state: self.base.clone(), previous },
        };
        let Place { storage, keys, scope, .. } = self.place.as_ref();
        let created = ActiveSegment::create(storage.as_ref(), keys, *scope, &start);
        let segment = created.map_err(|e| match e {
            Error::Fenced { .. } => Error::Fenced { node: self.tenure.name.clone() },
            other => other,
        })?;
        self.next_sequence += 1;
        self.used = false;
        Ok(none.insert(segment))
    }
}
