//! Commits on their way from the log's lock to the segment.
//!
//! Owns which LSN and time a commit gets, the fold of the node's state over every commit that has
//! one, and how commits are grouped into frames. Never writes: a leader takes the whole group, and
//! the next one gathers. Invariants: LSNs are dense and times strictly increase, in the order in
//! which commits are admitted; frames stand in that order. In memory only: a crash loses what
//! waits, and none of it was acknowledged as synced.

use std::collections::BTreeSet;

use super::draft::{Applied, Bases, Checked};
use super::tail::Frame;
use crate::env::{self, Clock};
use crate::error::{Error, Result};
use crate::format::frame::FrameKind;
use crate::format::record::put_commit;
use crate::format::state::{NodeState, StateError};
use crate::types::{Lsn, Position, Timestamp};

/// What is kept of a frame beside its ops, about.
const FRAME_OVERHEAD: usize = 16;

/// Commits that have an LSN and wait to be written, and the state after them.
#[derive(Debug)]
pub(super) struct Queue {
    /// The state after every commit that has an LSN.
    state: NodeState,
    group: Group,
    /// Names given by commits that are pending, so that none is given twice.
    naming: BTreeSet<String>,
    /// A frame of so many bytes takes no further commit.
    frame_bytes: usize,
}

/// What one leader writes.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub frames: Vec<Frame>,
    pub bytes: usize,
    /// Commits among them whose threads wait for the sync.
    pub waiting: usize,
    pub restore_points: Vec<NamedCommit>,
}

/// A commit that the catalog is to name.
#[derive(Debug)]
pub(super) struct NamedCommit {
    pub name: String,
    pub position: Position,
    pub timestamp: Timestamp,
}

/// Where a commit stands in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub lsn: Lsn,
    /// The time of the commit before it.
    pub before: Timestamp,
    pub timestamp: Timestamp,
    /// Whether the catalog is to name it.
    pub named: bool,
}

impl Queue {
    pub fn new(state: NodeState, frame_bytes: usize) -> Queue {
        Queue { state, group: Group::default(), naming: BTreeSet::new(), frame_bytes }
    }

    /// The state after every commit that has an LSN.
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// Bytes that wait to be written, about.
    pub fn bytes(&self) -> usize {
        self.group.bytes
    }

    /// Commits that wait to be written, and whose threads wait for the sync.
    pub fn waiting(&self) -> usize {
        self.group.waiting
    }

    /// Whether a commit that is pending gets this name.
    pub fn is_naming(&self, name: &str) -> bool {
        self.naming.contains(name)
    }

    /// The time of the next commit: the given one if it may follow, else the clock's, or just after
    /// the commit before if that is later.
    pub fn stamp(&self, clock: &dyn Clock, given: Option<Timestamp>) -> Result<Timestamp> {
        let newest = self.state.timestamp.max(self.state.known_until);
        let refused = |given: Timestamp| Error::NotMonotonic {
            what: "a commit's timestamp",
            newest: newest.to_string(),
            given: given.to_string(),
        };
        match given {
            None => {
                let now = env::now(clock)?;
                let next = newest.as_nanos().checked_add(1).map(Timestamp::from_nanos);
                Ok(now.max(next.ok_or_else(|| refused(now))?))
            }
            Some(given) if given > Timestamp::LATEST => {
                let (limit, found) = (Timestamp::LATEST.as_nanos(), given.as_nanos());
                Err(Error::LimitExceeded {
                    what: "a commit's timestamp, in nanoseconds",
                    limit,
                    found,
                })
            }
            Some(given) if given > newest => Ok(given),
            Some(given) => Err(refused(given)),
        }
    }

    /// Gives a commit its place in the log and publishes what it makes of pages, or refuses it and
    /// changes nothing. What it stood on is watched until the second result goes.
    pub fn admit(
        &mut self,
        checked: Checked,
        timestamp: Timestamp,
    ) -> Result<(Placed, Bases), StateError> {
        let before = self.state.timestamp;
        assert!(timestamp > before, "a commit is stamped after the one before it");
        let applied: Applied = checked.apply(&mut self.state)?;
        // Everything that can be refused has been: from here on the commit has its place in the
        // log.
        let lsn = self.state.position.next_lsn();
        self.state.advance(timestamp);
        let position = Position::from(lsn);
        let (names, bases) = applied.publish(position);
        let named = !names.is_empty();
        self.naming.extend(names.iter().cloned());
        let names = names.into_iter().map(|name| NamedCommit { name, position, timestamp });
        self.group.restore_points.extend(names);
        Ok((Placed { lsn, before, timestamp, named }, bases))
    }

    /// Queues the ops of the commit that was admitted last. It joins the frame before it, unless
    /// that is full.
    pub fn put(&mut self, placed: &Placed, ops: &[u8]) {
        let position = Position::from(placed.lsn);
        debug_assert!(
            position == self.state.position,
            "commits are queued in the order of their LSNs"
        );
        let joins = |f: &Frame| f.kind == FrameKind::Commits && f.text.len() < self.frame_bytes;
        if !self.group.frames.last().is_some_and(joins) {
            let (kind, before, text) = (FrameKind::Commits, placed.before, Vec::new());
            self.group.frames.push(Frame { kind, first: position, last: position, before, text });
        }
        let frame = self.group.frames.last_mut().expect("a frame was begun where there was none");
        put_commit(&mut frame.text, placed.before, placed.timestamp, ops);
        frame.last = position;
        self.group.bytes += ops.len() + FRAME_OVERHEAD;
    }

    /// Notes that the thread of a queued commit waits for the sync.
    pub fn wait(&mut self) {
        self.group.waiting += 1;
    }

    /// Queues the statement that nothing was committed between the newest commit and `until`.
    pub fn put_tick(&mut self, until: Timestamp) {
        assert!(until >= self.state.known_until, "what is known of the past is not taken back");
        let (last, before) = (self.state.position, self.state.timestamp);
        let text = until.as_nanos().to_le_bytes().to_vec();
        self.group.frames.push(Frame { kind: FrameKind::Tick, first: last, last, before, text });
        self.group.bytes += FRAME_OVERHEAD;
        self.state.known_until = until;
    }

    /// Hands out what waits; the next group is empty.
    pub fn take(&mut self) -> Group {
        std::mem::take(&mut self.group)
    }

    /// Notes that the names of a group are in the catalog, or will not come to be there.
    pub fn forget_names(&mut self, group: &Group) {
        for named in &group.restore_points {
            self.naming.remove(&named.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::env::Owner;
    use crate::format::state::Effect;
    use crate::ingest::draft::Draft;
    use crate::ingest::known::Known;
    use crate::options::WriterOptions;
    use crate::types::SpaceId;

    fn draft() -> Draft {
        let known = Known::new(Owner::here(), &WriterOptions::default(), &NodeState::default());
        Draft::new(Arc::new(known), Position::ORIGIN)
    }

    fn commit(queue: &mut Queue, draft: Draft, at: u64, ops: &[u8]) -> Result<Placed, StateError> {
        let checked = draft.check(queue.state().position).unwrap();
        let (placed, _) = queue.admit(checked, Timestamp::from_nanos(at))?;
        queue.put(&placed, ops);
        Ok(placed)
    }

    /// What is written: kinds, and the first and last commit of each frame.
    fn frames(group: &Group) -> Vec<(FrameKind, u64, u64)> {
        group.frames.iter().map(|f| (f.kind, f.first.get(), f.last.get())).collect()
    }

    #[test]
    fn commits_join_a_frame_until_it_is_full_or_a_tick_comes() {
        let mut queue = Queue::new(NodeState::default(), 64);
        for at in 1..=4 {
            let placed = commit(&mut queue, draft(), at, &[7; 40]).unwrap();
            assert_eq!((placed.lsn.get(), placed.before.as_nanos()), (at, at - 1));
        }
        queue.put_tick(Timestamp::from_nanos(9));
        commit(&mut queue, draft(), 10, &[]).unwrap();
        let group = queue.take();
        let expected = [
            (FrameKind::Commits, 1, 2),
            (FrameKind::Commits, 3, 4),
            (FrameKind::Tick, 4, 4),
            (FrameKind::Commits, 5, 5),
        ];
        assert_eq!(frames(&group), expected);
        assert!(queue.bytes() == 0 && frames(&queue.take()).is_empty(), "it was taken");
        assert_eq!(queue.state().position, Position::new(5));
    }

    #[test]
    fn a_refused_commit_leaves_nothing_behind() {
        let mut queue = Queue::new(NodeState::default(), 64);
        let mut bad = draft();
        bad.name("here");
        bad.effect(Effect::Drop(SpaceId::new(3)));
        assert!(matches!(commit(&mut queue, bad, 1, b"x"), Err(StateError::NoSpace(_))));
        assert_eq!(*queue.state(), NodeState::default());
        assert!(!queue.is_naming("here") && queue.bytes() == 0);
    }

    #[test]
    fn a_name_is_pending_until_its_group_is_done() {
        let mut queue = Queue::new(NodeState::default(), 64);
        let mut named = draft();
        named.name("here");
        assert!(commit(&mut queue, named, 1, b"x").unwrap().named);
        let group = queue.take();
        assert!(queue.is_naming("here"));
        queue.forget_names(&group);
        assert!(!queue.is_naming("here"));
    }
}
