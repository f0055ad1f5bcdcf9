//! The retained history: which commits of each timeline must be restorable, and why.
//!
//! Pure. It is a set of ranges and points, never one maximum: the window, the restore points and
//! snapshots that are kept, holds, and the commits that branches began from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::plan::ExpiryInput;
use super::policy::{Promise, promises};
use crate::error::Result;
use crate::format::event::LayerRecord;
use crate::format::retention::{HoldScope, Mode, Span};
use crate::lineage::{Line, Section};
use crate::types::{FileId, Position, TimelineId, Timestamp};

/// Why something is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// It is in the window.
    Window,
    /// It is one of the snapshots that periodic protection keeps.
    Snapshot(FileId),
    /// It carries a restore point that is kept.
    RestorePoint(String),
    /// A legal hold covers it.
    Hold(String),
    /// A timeline was forked from it.
    Branch(TimelineId),
    /// This node was branched from it.
    BranchedNode(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Window => f.write_str("the window"),
            Reason::Snapshot(file) => write!(f, "periodic snapshot {file}"),
            Reason::RestorePoint(name) => write!(f, "restore point {name:?}"),
            Reason::Hold(name) => write!(f, "hold {name:?}"),
            Reason::Branch(timeline) => write!(f, "the branch on timeline {timeline}"),
            Reason::BranchedNode(name) => write!(f, "node {name:?}, branched from it"),
        }
    }
}

/// A range that must be restorable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub from: Position,
    pub to: Option<Position>,
    pub reasons: Vec<Reason>,
}

impl Want {
    pub fn point(at: Position, reason: Reason) -> Want {
        Want { from: at, to: Some(at), reasons: vec![reason] }
    }
}

/// Snapshots that are usable without log, in order of publication.
fn snapshots<'a>(
    input: &'a ExpiryInput<'_>,
    timeline: TimelineId,
) -> impl Iterator<Item = &'a LayerRecord> {
    input.layers(timeline).filter(|l| l.from.is_none() && l.consistent_from == l.to)
}

/// The snapshots that count as the periodic ones, oldest first: in each interval, the one that was
/// published first. So a snapshot that counts continues to count, whatever snapshot is built near
/// it later, and whichever expires before it.
fn spaced<'a>(
    input: &'a ExpiryInput<'_>,
    timeline: TimelineId,
    every: Duration,
) -> Vec<&'a LayerRecord> {
    // Sweeps do not run on the second: a tenth early is in time.
    let section = (every / 10 * 9).as_nanos().max(1);
    let mut first: BTreeMap<u128, &LayerRecord> = BTreeMap::new();
    for layer in snapshots(input, timeline) {
        first.entry(u128::from(layer.timestamp.as_nanos()) / section).or_insert(layer);
    }
    let mut spaced: Vec<&LayerRecord> = first.into_values().collect();
    spaced.sort_by_key(|l| l.to);
    spaced
}

/// When the next periodic snapshot is due; `None` in continuous mode.
pub(crate) fn snapshot_due(input: &ExpiryInput<'_>, promises: &[Promise]) -> Option<Timestamp> {
    let Mode::Periodic { every, .. } = promises.last()?.policy.mode else { return None };
    let newest = snapshots(input, input.record.timeline).map(|l| l.timestamp).max();
    Some(newest.map_or(Timestamp::ZERO, |t| t.saturating_add(every)))
}

/// The snapshots of a timeline that the promises keep, beside the window.
fn kept_points(
    input: &ExpiryInput<'_>,
    promises: &[Promise],
    timeline: TimelineId,
    wants: &mut Vec<Want>,
) {
    for promise in promises {
        let Mode::Periodic { every, keep_for, keep_count, .. } = promise.policy.mode else {
            continue;
        };
        let spaced: Vec<_> = spaced(input, timeline, every)
            .into_iter()
            .filter(|l| promise.until.is_none_or(|until| l.timestamp <= until))
            .collect();
        let start = input.archived.saturating_sub(keep_for);
        // The state at the beginning of the period is that of the snapshot before it.
        let by_age = spaced.iter().rposition(|l| l.timestamp <= start).unwrap_or(0);
        let past = promise.until.is_some_and(|until| until < start);
        let by_count = spaced.len().saturating_sub(keep_count as usize);
        // A promise that is no longer in force keeps by age alone: by count, it would keep for
        // ever.
        let first = match (promise.until, past) {
            (None, _) => by_age.min(by_count),
            (Some(_), false) => by_age,
            (Some(_), true) => spaced.len(),
        };
        wants.extend(
            spaced.into_iter().skip(first).map(|l| Want::point(l.to, Reason::Snapshot(l.file))),
        );
    }
}

/// What names commits of a timeline: restore points and holds. Those of a later timeline, or of a
/// node that was branched off, may name commits that it shares with this one.
fn named(input: &ExpiryInput<'_>, timeline: TimelineId, wants: &mut Vec<Want>) {
    let line = Line::new(input.node, timeline);
    for lineage in
        input.state.lineages_over(input.node).iter().filter(|lineage| lineage.of(line).is_some())
    {
        let Line { node, timeline } = lineage.tip();
        let record = input.state.nodes.get(&node).expect("a lineage is of a node that there is");
        let archived =
            if node == input.node { Some(&input.archived) } else { input.branches.get(&node) };
        let promises = promises(input.state, node);
        for (name, point) in record.restore_points.iter().filter(|(_, p)| p.timeline == timeline) {
            // A branch that was created only now has no known archived time.
            let keeps = |now| promises.iter().any(|p| p.keeps_restore_point(point.timestamp, now));
            if lineage.at(point.position).line == line && archived.is_none_or(|now| keeps(*now)) {
                wants.push(Want::point(point.position, Reason::RestorePoint(name.clone())));
            }
        }
        for (name, hold) in input.state.holds(node, input.now) {
            if let HoldScope::Commits { timeline: held, from, to, .. } = hold.scope
                && held == timeline
            {
                let reasons = vec![Reason::Hold(name.clone())];
                let common = lineage.of(line).and_then(|section| part(section, from, to));
                wants.extend(common.map(|(from, to)| Want { from, to, reasons }));
            }
        }
    }
}

/// The part of a range of commits that is in a section.
fn part(
    section: &Section,
    from: Position,
    to: Option<Position>,
) -> Option<(Position, Option<Position>)> {
    let from = from.max(section.after.next_lsn().into());
    let to = match (to, section.up_to) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    to.is_none_or(|to| from <= to).then_some((from, to))
}

/// Where the times of commits can still be read from.
pub(crate) trait Times {
    /// The time of a commit that a range begins or ends with. A snapshot records it too: of a
    /// single commit nothing else may be left.
    fn of(&self, commit: Position) -> Result<Timestamp>;
    /// The last commit at or before a time, by the log; `None` if the log begins later. Called only
    /// for times within a range.
    fn by_log(&self, time: Timestamp) -> Result<Option<Position>>;
    /// Nothing after this position was archived by that time, whatever times the commits carry. A
    /// host may set commit times, and nothing may expire because those are in the past.
    fn archived_by(&self, time: Timestamp) -> Result<Position>;
}

/// The last commit at or before a time that did not expire; `None` if everything that is left is
/// later. `kept` is what is left, if anything has expired.
fn last_by(times: &dyn Times, kept: Option<&[Span]>, time: Timestamp) -> Result<Option<Position>> {
    let Some(spans) = kept else { return times.by_log(time) };
    let (mut low, mut high) = (0, spans.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let begins = spans.get(middle).map_or(Ok(Timestamp::ZERO), |s| times.of(s.from))?;
        if begins <= time { low = middle + 1 } else { high = middle }
    }
    let Some(span) = low.checked_sub(1).and_then(|i| spans.get(i)) else { return Ok(None) };
    match span.to {
        // Nothing beyond its end is left that the time could name.
        Some(to) if to == span.from || times.of(to)? <= time => Ok(Some(to)),
        _ => Ok(Some(times.by_log(time)?.unwrap_or_default().max(span.from))),
    }
}

/// The commits of the promised times ([`windows`](super::policy::windows)), as far as they did not
/// expire. The last ones are those of the policy in force.
///
/// A promise covers the commits that are left of its range, even a single one: each is kept until
/// its date, however little else is left to determine that date from.
pub(crate) fn commits_of(
    promised: &[(Timestamp, Option<Timestamp>)],
    kept: Option<&[Span]>,
    times: &dyn Times,
) -> Result<Vec<(Position, Option<Position>)>> {
    let mut commits = Vec::new();
    for (from, until) in promised {
        let first = last_by(times, kept, *from)?.unwrap_or_default().min(times.archived_by(*from)?);
        match until {
            None => commits.push((first, None)),
            // Nothing of what was archived by then may be left.
            Some(until) => {
                commits.extend(last_by(times, kept, *until)?.map(|last| (first, Some(last))));
            }
        }
    }
    Ok(commits)
}

/// The windows of a timeline: from where on all of it is kept. Empty if the timeline was left
/// before they began.
pub(crate) fn windows_of(
    input: &ExpiryInput<'_>,
    promises: &[Promise],
    timeline: TimelineId,
) -> Vec<(Position, Option<Position>)> {
    let Some(log) = input.logs.get(&timeline) else { return Vec::new() };
    let mut windows = log.windows.clone();
    if let Some((next, fork)) = input.successor_of(timeline)
        && windows_of(input, promises, next).iter().all(|(from, _)| *from > fork)
    {
        return Vec::new();
    }
    // In periodic mode, the log after the newest snapshot is what the next one is built from.
    if let Some(Mode::Periodic { every, .. }) = promises.last().map(|p| p.policy.mode)
        && let Some((from, None)) = windows.last_mut()
    {
        *from = spaced(input, timeline, every).last().map_or(Position::ORIGIN, |l| l.to).min(*from);
    }
    windows
}

/// Everything that is wanted of a timeline, in order and disjoint, as far as it is still available.
pub(crate) fn wanted(
    input: &ExpiryInput<'_>,
    promises: &[Promise],
    timeline: TimelineId,
    forks: &[(Reason, Position)],
    available: &[Span],
) -> Vec<Want> {
    let mut wants = Vec::new();
    for (from, to) in windows_of(input, promises, timeline) {
        wants.push(Want { from, to, reasons: vec![Reason::Window] });
    }
    kept_points(input, promises, timeline, &mut wants);
    named(input, timeline, &mut wants);
    wants.extend(forks.iter().map(|(reason, fork)| Want::point(*fork, reason.clone())));
    merge(
        wants
            .iter()
            .flat_map(|want| available.iter().filter_map(|span| common(want, span)))
            .collect(),
    )
}

/// The intersection of a want and a span.
fn common(want: &Want, span: &Span) -> Option<Want> {
    let from = want.from.max(span.from);
    let to = match (want.to, span.to) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    to.is_none_or(|to| from <= to).then(|| Want { from, to, reasons: want.reasons.clone() })
}

/// Merges ranges that overlap or are adjacent.
fn merge(mut wants: Vec<Want>) -> Vec<Want> {
    wants.sort_by_key(|w| (w.from, w.to.map_or(u64::MAX, Position::get)));
    let mut merged: Vec<Want> = Vec::new();
    for want in wants {
        match merged.last_mut() {
            Some(last)
                if last.to.is_none_or(|to| want.from.get() <= to.get().saturating_add(1)) =>
            {
                last.to = match (last.to, want.to) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    _ => None,
                };
                last.reasons.extend(want.reasons);
            }
            _ => merged.push(want),
        }
    }
    for want in &mut merged {
        want.reasons.sort();
        want.reasons.dedup();
    }
    merged
}
