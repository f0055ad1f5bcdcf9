//! Listing commits, oldest or newest first.

use std::collections::{BTreeSet, VecDeque};
use std::ops::{Bound, RangeBounds};

use crate::catalog::NodeView;
use crate::error::{Error, Result};
use crate::format::codec::Reader;
use crate::format::record::Op;
use crate::replay::readable_end;
use crate::types::{Lsn, Position, SpaceId, Timestamp};
use crate::wal::{Log, Visit};

/// Commits read at a time: few at first, because a caller who lists the newest twenty should not
/// wait for thousands.
const FIRST_STEP: u64 = 64;
/// The most commits read at a time: about 2 MB.
const LAST_STEP: u64 = 8_192;

/// One commit, as the log records it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitInfo {
    /// Its number.
    pub lsn: Lsn,
    /// Its time.
    pub timestamp: Timestamp,
    /// Page versions in it: full images, patches and byte ranges. A page that the commit changes by
    /// several byte ranges counts once for each.
    pub versions: u64,
    /// The bytes that its changes take in the log, before encryption and without the share of its
    /// frame.
    pub bytes: u64,
    /// Logical records in it.
    pub records: u64,
    /// The spaces that it writes, creates, drops or changes the length of.
    pub spaces: BTreeSet<SpaceId>,
    /// The restore points that it was committed with; those added
    /// [later](crate::Node::add_restore_point) are in
    /// [`Node::restore_points`](crate::Node::restore_points).
    pub restore_points: Vec<String>,
    /// The host's own position.
    pub mark: Option<Vec<u8>>,
    /// The global transaction that it belongs to.
    pub global_transaction: Option<Vec<u8>>,
    /// Remarks, key and text, such as why an adapter had to resynchronise.
    pub annotations: Vec<(String, String)>,
}

impl CommitInfo {
    pub(super) fn new() -> CommitInfo {
        CommitInfo {
            lsn: Lsn::FIRST,
            timestamp: Timestamp::ZERO,
            versions: 0,
            bytes: 0,
            records: 0,
            spaces: BTreeSet::new(),
            restore_points: Vec::new(),
            mark: None,
            global_transaction: None,
            annotations: Vec::new(),
        }
    }

    /// Adds some of its ops.
    pub(super) fn add(&mut self, ops: &[u8], path: &str, offset: u64) -> Result<()> {
        self.bytes += ops.len() as u64;
        let mut r = Reader::new(ops);
        while !r.is_empty() {
            match Op::read(&mut r).map_err(|e| e.at(path, offset))? {
                Op::PageFull { page, .. } | Op::PagePatch { page, .. } | Op::Range { page, .. } => {
                    self.versions += 1;
                    self.spaces.insert(page.space);
                }
                Op::SetLength(space, _) | Op::CreateSpace { space, .. } | Op::DropSpace(space) => {
                    self.spaces.insert(space);
                }
                Op::Logical(_) => self.records += 1,
                Op::RestorePoint(name) => self.restore_points.push(name.to_owned()),
                Op::Mark(mark) => self.mark = Some(mark.to_vec()),
                Op::GlobalTransaction(id) => self.global_transaction = Some(id.to_vec()),
                Op::Annotation { key, text } => {
                    self.annotations.push((key.to_owned(), text.to_owned()));
                }
                Op::SetConfig { .. } | Op::RemoveConfig(_) | Op::RedoPoint(_) => {}
            }
        }
        Ok(())
    }
}

/// The commits of a range, from either end. Returned by [`Node::commits`](crate::Node::commits).
///
/// Reads the log as it is iterated, at most 8,192 commits ahead. An error ends it. What had expired
/// when the listing began is not listed. What expires during the listing may cause an error once
/// the policy's grace period is over.
#[derive(Debug)]
#[must_use = "commits are read as they are iterated"]
pub struct Commits {
    log: Log,
    /// What is not read yet, in order: of each range, the commits after the first position up to
    /// the second.
    ranges: VecDeque<(Position, Position)>,
    front: VecDeque<CommitInfo>,
    back: VecDeque<CommitInfo>,
    step: u64,
    /// The damage of the log beyond its last range, if the requested range extends beyond it.
    beyond: Option<Error>,
}

impl Commits {
    pub(crate) fn new(
        log: Log,
        view: &NodeView<'_>,
        range: &impl RangeBounds<Lsn>,
    ) -> Result<Commits> {
        let (end, damage) = readable_end(&log, view)?;
        let from = match range.start_bound() {
            Bound::Included(lsn) => Position::new(lsn.get() - 1),
            Bound::Excluded(lsn) => (*lsn).into(),
            Bound::Unbounded => Position::ORIGIN,
        };
        let to = match range.end_bound() {
            Bound::Included(lsn) => Some(Position::from(*lsn)),
            Bound::Excluded(lsn) => Some(Position::new(lsn.get() - 1)),
            Bound::Unbounded => None,
        };
        let reaches_beyond = to.is_none_or(|to| to > end.position);
        let to = to.map_or(end.position, |to| to.min(end.position));
        let before = |first: Position| Position::new(first.get().saturating_sub(1));
        let there: Vec<(Position, Position)> = match view.kept(&log.lineage) {
            // The log does not record a commit that is kept only as a snapshot.
            Some(kept) => kept
                .iter()
                .filter(|s| !s.is_point())
                .map(|s| (before(s.from), s.to.unwrap_or(end.position)))
                .collect(),
            // If the log has lost its beginning, the listing reports that as damage.
            None => vec![(Position::ORIGIN, end.position)],
        };
        let common = there.into_iter().map(|(first, last)| (first.max(from), last.min(to)));
        let ranges = common.filter(|(from, to)| from < to).collect();
        let beyond = damage.filter(|_| reaches_beyond);
        Ok(Commits {
            log,
            ranges,
            front: VecDeque::new(),
            back: VecDeque::new(),
            step: FIRST_STEP,
            beyond,
        })
    }

    /// The number of commits that are left, not counting damage: LSNs are dense.
    pub fn remaining(&self) -> u64 {
        let unread: u64 = self.ranges.iter().map(|(from, to)| to.get() - from.get()).sum();
        unread + (self.front.len() + self.back.len()) as u64
    }

    /// Reads the commits after `from` up to `to`. If that fails, returns those before the damage,
    /// and the damage.
    fn read(&self, from: Position, to: Position) -> (VecDeque<CommitInfo>, Option<Error>) {
        let mut found = VecDeque::new();
        let mut commit = CommitInfo::new();
        let read = self.log.visit(from, to, &mut |path, visit| {
            match visit {
                Visit::Partial { ops, offset, .. } => commit.add(ops, path, offset)?,
                Visit::Commit { lsn, timestamp, ops, offset } => {
                    commit.add(ops, path, offset)?;
                    (commit.lsn, commit.timestamp) = (lsn, timestamp);
                    found.push_back(std::mem::replace(&mut commit, CommitInfo::new()));
                }
                Visit::Tick => {}
            }
            Ok(())
        });
        (found, read.err())
    }

    fn next_step(&mut self, (from, to): (Position, Position)) -> u64 {
        let step = self.step.min(to.get() - from.get());
        self.step = (self.step * 2).min(LAST_STEP);
        step
    }
}

impl Iterator for Commits {
    type Item = Result<CommitInfo>;

    fn next(&mut self) -> Option<Result<CommitInfo>> {
        if self.front.is_empty()
            && let Some((from, last)) = self.ranges.pop_front()
        {
            let to = Position::new(from.get() + self.next_step((from, last)));
            if to < last {
                self.ranges.push_front((to, last));
            }
            let (found, damage) = self.read(from, to);
            self.front = found;
            if damage.is_some() {
                self.ranges.clear();
                self.beyond = damage;
                self.back.clear();
            }
        }
        let next = self.front.pop_front().or_else(|| self.back.pop_front()).map(Ok);
        next.or_else(|| self.beyond.take().map(Err))
    }
}

impl DoubleEndedIterator for Commits {
    fn next_back(&mut self) -> Option<Result<CommitInfo>> {
        if let Some(damage) = self.beyond.take() {
            return Some(Err(damage));
        }
        if self.back.is_empty()
            && let Some((first, to)) = self.ranges.pop_back()
        {
            let from = Position::new(to.get() - self.next_step((first, to)));
            if first < from {
                self.ranges.push_back((first, from));
            }
            let (found, damage) = self.read(from, to);
            self.back = found;
            if let Some(damage) = damage {
                self.ranges.clear();
                self.back.clear();
                self.front.clear();
                return Some(Err(damage));
            }
        }
        self.back.pop_back().or_else(|| self.front.pop_back()).map(Ok)
    }
}
