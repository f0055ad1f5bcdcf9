//! What expires, and why everything else stays. Pure: a function of what the catalog and the log's
//! names say, and of a time.
//!
//! Each range of history that is kept has a base: the newest snapshot at or before its first commit
//! from which the log leads through the range, or the empty beginning. Needed are the bases, the
//! log from each base to the end of its range, and the layers in between. Log from before a base is
//! also needed if logical records from there are not in the base's pages. A commit from which
//! another timeline was forked, of this node or of one that was branched from it, is kept as long
//! as that timeline depends on it. All else expires. If a snapshot at the very beginning of a range
//! would free enough, the plan asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::policy::{Promise, promises};
use super::retained::{Reason, Want, snapshot_due, wanted};
use crate::catalog::{CatalogState, NodeRecord, NodeView};
use crate::format::event::{LayerRecord, Origin};
use crate::format::retention::{Deletion, HoldScope, Span, TimelineExpiry, runs_of, segments_of};
use crate::lineage::{Fork, Line};
use crate::types::{FileId, NodeId, Position, TimelineId, Timestamp};

/// The most layers that one plan lets expire: an entry of the catalog must hold their names. The
/// others follow in the next plan.
const MAX_LAYERS: usize = 12_000;

/// A segment, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    pub sequence: u64,
    /// The position it starts from.
    pub from: Position,
    pub bytes: u64,
}

/// The log of a timeline.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimelineLog {
    /// All segments that are there, in order.
    pub segments: Vec<SegmentInfo>,
    /// The last commit.
    pub end: Position,
    /// Ranges of which every commit is kept; the last one, without an end, is that of the policy in
    /// force.
    pub windows: Vec<(Position, Option<Position>)>,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpiryInput<'a> {
    pub state: &'a CatalogState,
    pub node: NodeId,
    /// The state's record of the node.
    pub record: &'a NodeRecord,
    /// The clock, found plausible.
    pub now: Timestamp,
    /// The time up to which the node is archived, but not later than the clock. Age is measured
    /// from it, so a node that nothing is archived of does not age.
    pub archived: Timestamp,
    /// The logs of the node's timelines.
    pub logs: &'a BTreeMap<TimelineId, TimelineLog>,
    /// The times up to which nodes that were branched from it are archived: the age of their
    /// restore points is measured from these.
    pub branches: &'a BTreeMap<NodeId, Timestamp>,
    /// Snapshots that are usable only with log from before them, and where that log begins: logical
    /// records are replayed from the engine's redo point on.
    pub redo: &'a BTreeMap<FileId, Position>,
    /// The same for snapshots that might be built, by position.
    pub redo_at: &'a BTreeMap<Position, Position>,
    /// A snapshot is built for expiry if it frees at least this share of its own size, in percent.
    pub rebuild_percent: u64,
}

impl ExpiryInput<'_> {
    /// The layers and snapshots of a timeline.
    pub fn layers(&self, timeline: TimelineId) -> impl Iterator<Item = &LayerRecord> {
        self.record.layers.iter().filter(move |l| l.timeline == timeline)
    }

    /// The timeline that was written after this one, and where it begins.
    pub fn successor_of(&self, timeline: TimelineId) -> Option<(TimelineId, Position)> {
        let next = self.record.parents.iter().find(|(next, _)| **next > timeline);
        next.map(|(next, (_, fork))| (*next, *fork))
    }

    pub fn view(&self) -> NodeView<'_> {
        NodeView { id: self.node, record: self.record, ancestors: &self.state.nodes }
    }
}

/// Why nothing of a node expires.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocked {
    /// No policy was set.
    NoPolicy,
    /// This hold keeps everything.
    Held(String),
    /// The node is deleted, and can be undeleted until this time.
    Deleted(Timestamp),
    /// The node is deleted, but this lock keeps it.
    Locked(String),
    /// The node is deleted, but this node, which was branched from it, depends on its files.
    Branched(String),
    /// Files of this timeline are missing that are needed to restore what must be kept. Nothing is
    /// removed.
    Incomplete(TimelineId),
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::NoPolicy => f.write_str("no policy was set: everything is kept"),
            Blocked::Held(name) => write!(f, "hold {name:?} keeps everything"),
            Blocked::Deleted(until) => {
                write!(f, "it is deleted, which can be undone until {until}")
            }
            Blocked::Locked(name) => write!(f, "it is deleted, and lock {name:?} keeps it"),
            Blocked::Branched(name) => write!(f, "it is deleted, and node {name:?} stands on it"),
            Blocked::Incomplete(timeline) => {
                write!(f, "timeline {timeline} misses files that are needed")
            }
        }
    }
}

/// A snapshot that must be built before more can expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequiredSnapshot {
    /// The position of the snapshot.
    pub position: Position,
    /// The bytes that can expire once it exists; `None`: it is due by the interval of periodic
    /// protection.
    pub frees: Option<u64>,
}

/// A range of history that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptSpan {
    /// Its timeline.
    pub timeline: TimelineId,
    /// The commits that can be restored, and what their replay begins with.
    pub span: Span,
    /// Why it stays.
    pub reasons: Vec<Reason>,
    /// The snapshot that it is based on.
    pub snapshot: Option<FileId>,
    /// The first and last number of the segments that stay for it.
    pub segments: Option<(u64, u64)>,
}

/// What expires of a node, and why the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiryPlan {
    /// Why nothing expires; `None` if something may.
    pub blocked: Option<Blocked>,
    /// What stays, and why.
    pub kept: Vec<KeptSpan>,
    /// Snapshots to build first, so that more can expire.
    pub build: Vec<RequiredSnapshot>,
    /// Segments that expire, and what stays of each timeline.
    pub timelines: Vec<TimelineExpiry>,
    /// Layers and snapshots that expire; their parts expire unless another layer shares them.
    pub layers: Vec<FileId>,
    /// The bytes of the segments that expire.
    pub log_bytes: u64,
    /// Whether this is the end of a deleted node.
    pub last: bool,
}

impl ExpiryPlan {
    /// Whether anything expires.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.timelines.iter().all(|t| t.segments.is_empty()) && !self.last
    }
}

/// Whether the log leads from one position to another without a gap.
fn leads(segments: &[SegmentInfo], from: Position, to: Option<Position>, end: Position) -> bool {
    let to = to.unwrap_or(end);
    if from >= to {
        return from == to;
    }
    let first = segments.partition_point(|s| s.from <= from).checked_sub(1);
    let Some(first) = first else { return false };
    let needed = || segments.iter().skip(first).take_while(|s| s.from < to);
    needed().zip(needed().skip(1)).all(|(a, b)| b.sequence == a.sequence + 1) && end >= to
}

/// One timeline while it is being planned.
struct Timeline<'a> {
    input: &'a ExpiryInput<'a>,
    id: TimelineId,
    /// Segments that did not expire before.
    segments: Vec<SegmentInfo>,
    end: Position,
    /// Where it forks off from another timeline.
    fork: Option<Position>,
    /// Where the log begins with a state that needs no snapshot: the empty state, or the fork.
    beginning: Option<Position>,
    /// Whether the log has lost its beginning: it begins later than at its start, though nothing of
    /// it has expired.
    cut: bool,
}

impl<'a> Timeline<'a> {
    fn new(input: &'a ExpiryInput<'a>, id: TimelineId, log: &TimelineLog) -> Timeline<'a> {
        let record = input.record;
        let kept = record.retention.kept(id);
        let segments = match kept {
            None => log.segments.clone(),
            Some(spans) => runs_of(spans, &log.segments, |s| s.from).flatten().copied().collect(),
        };
        let fork = record.fork(input.node, id).map(|fork| fork.at);
        let start = fork.or((record.origin == Origin::Empty).then_some(Position::ORIGIN));
        let there = |start: Position| segments.first().is_none_or(|s| s.from == start);
        let cut = kept.is_none() && start.is_some_and(|start| !there(start));
        let beginning = start.filter(|start| {
            there(*start)
                && kept.is_none_or(|spans| spans.iter().any(|s| s.base == *start && !s.is_point()))
        });
        Timeline { input, id, segments, end: log.end, fork, beginning, cut }
    }

    fn snapshots(&self) -> impl Iterator<Item = &LayerRecord> {
        self.input.layers(self.id).filter(|l| l.from.is_none())
    }

    /// What can be restored now.
    fn available(&self) -> Vec<Span> {
        if let Some(kept) = self.input.record.retention.kept(self.id) {
            return kept.to_vec();
        }
        let first = self.snapshots().map(|l| l.consistent_from).min();
        let from = match self.beginning {
            Some(start) => Some(Position::from(start.next_lsn())),
            None => first.map(|f| f.max(Position::new(1))),
        };
        from.map(|from| Span { from, to: None, base: Position::ORIGIN, log: None })
            .into_iter()
            .collect()
    }

    /// The span that keeps what is wanted, and the snapshot that it is based on; `None` if there is
    /// none.
    fn stand(&self, want: &Want) -> Option<(Span, Option<&LayerRecord>)> {
        let span = |base, log| Span { from: want.from, to: want.to, base, log };
        let on = |l: &LayerRecord| {
            span(l.to, self.input.redo.get(&l.file).copied().filter(|log| *log < l.to))
        };
        let leads = |s: &Span| s.is_point() || leads(&self.segments, s.log_from(), s.to, self.end);
        let fits = |l: &&LayerRecord| l.consistent_from <= want.from && leads(&on(l));
        let snapshot = self.snapshots().filter(fits).max_by_key(|l| l.to).map(|l| (on(l), Some(l)));
        let beginning =
            || self.beginning.map(|b| span(b, None)).filter(leads).map(|span| (span, None));
        snapshot.or_else(beginning)
    }

    /// The bytes of the segments that the spans need.
    fn bytes(&self, spans: &[Span]) -> u64 {
        runs_of(spans, &self.segments, |s| s.from).flatten().map(|s| s.bytes).sum()
    }

    /// Whether a layer is used by what is kept.
    fn uses(&self, span: &Span, layer: &LayerRecord) -> bool {
        let within = span.base <= layer.to && span.to.is_none_or(|to| layer.to <= to);
        // What is based on the fork is based on what comes before it: a layer may lead over it.
        let over_fork =
            |from: Position| self.fork.is_some_and(|fork| span.base == fork && from < fork);
        match layer.from {
            None => within && (!span.is_point() || layer.to == layer.consistent_from),
            Some(from) => within && (span.base <= from || over_fork(from)),
        }
    }

    /// Plans, and returns whether the timeline depends on its fork; `None` if something cannot be
    /// kept that must be kept.
    fn plan(
        &self,
        promises: &[Promise],
        forks: &[(Reason, Position)],
        plan: &mut ExpiryPlan,
    ) -> Option<bool> {
        if self.cut {
            return None;
        }
        let available = self.available();
        if available.is_empty() && self.input.record.retention.kept(self.id).is_none() {
            // Nothing can be restored before the first base snapshot, which is corrected with this
            // log.
            return Some(false);
        }
        let wants = wanted(self.input, promises, self.id, forks, &available);
        let mut spans = Vec::new();
        let mut on_fork = false;
        for want in &wants {
            let (span, snapshot) = self.stand(want)?;
            on_fork |= snapshot.is_none();
            spans.push((span, snapshot));
        }
        self.builds(&spans, plan);
        let kept: Vec<Span> = spans.iter().map(|(span, _)| *span).collect();
        let stays = segments_of(&kept, &self.segments, |s| s.from);
        let goes = |i: &usize| !stays.iter().any(|r| r.contains(i));
        let gone = ranges(
            self.segments.iter().enumerate().filter(|(i, _)| goes(i)).map(|(_, s)| s),
            &mut plan.log_bytes,
        );
        let layers: Vec<FileId> = self
            .input
            .layers(self.id)
            .filter(|l| !kept.iter().any(|span| self.uses(span, l)))
            .map(|l| l.file)
            .collect();
        // If it stops depending on its fork, its readers must learn of that together with the
        // parent's.
        let kept_before = self.input.record.retention.kept(self.id);
        let stood = |fork| kept_before.is_none_or(|spans| spans.iter().any(|s| s.base == fork));
        let leaves_fork = !on_fork && self.fork.is_some_and(stood);
        if !gone.is_empty() || !layers.is_empty() || leaves_fork {
            plan.timelines.push(TimelineExpiry {
                timeline: self.id,
                kept: kept.clone(),
                segments: gone,
            });
        }
        plan.layers.extend(layers);
        for ((span, snapshot), want) in spans.iter().zip(wants) {
            let segments: Vec<_> =
                runs_of(&[*span], &self.segments, |s| s.from).flatten().collect();
            plan.kept.push(KeptSpan {
                timeline: self.id,
                span: *span,
                reasons: want.reasons,
                snapshot: snapshot.map(|l| l.file),
                segments: segments
                    .first()
                    .zip(segments.last())
                    .map(|(a, b)| (a.sequence, b.sequence)),
            });
        }
        Some(on_fork)
    }

    /// Asks for snapshots that free log.
    fn builds(&self, spans: &[(Span, Option<&LayerRecord>)], plan: &mut ExpiryPlan) {
        if self.id != self.input.record.timeline {
            return;
        }
        let mut now: Vec<Span> = spans.iter().map(|(span, _)| *span).collect();
        let newest = self.snapshots().max_by_key(|l| l.to);
        for (i, (span, snapshot)) in spans.iter().enumerate() {
            let at = span.from;
            if now.get(i).is_none_or(|s| s.base == at) {
                continue;
            }
            // Everything later can be based on it, too.
            let mut then = now.clone();
            let log = self.input.redo_at.get(&at).copied().filter(|log| *log < at);
            then.iter_mut()
                .skip(i)
                .filter(|s| s.base < at)
                .for_each(|s| (s.base, s.log) = (at, log));
            let frees = self.bytes(&now).saturating_sub(self.bytes(&then));
            let costs = snapshot.or(newest).map_or(0, |l| l.bytes);
            if frees > 0
                && frees.saturating_mul(100) >= costs.saturating_mul(self.input.rebuild_percent)
            {
                plan.build.push(RequiredSnapshot { position: at, frees: Some(frees) });
                now = then;
            }
        }
    }
}

/// Plans what expires of a node.
pub(crate) fn plan_expiry(input: &ExpiryInput<'_>) -> ExpiryPlan {
    let mut plan = ExpiryPlan::default();
    if let Some(blocked) = blocked(input) {
        plan.blocked = Some(blocked);
        return plan;
    }
    if input.state.deletion(input.node) != Deletion::Live {
        return everything(input);
    }
    let promises = promises(input.state, input.node);
    if promises.is_empty() {
        plan.blocked = Some(Blocked::NoPolicy);
        return plan;
    }
    let newest = input.record.timeline;
    if let (Some(due), Some(log)) = (snapshot_due(input, &promises), input.logs.get(&newest))
        && due <= input.archived
        && input.layers(newest).filter(|l| l.from.is_none()).all(|l| l.to < log.end)
        && log.end > Position::ORIGIN
        // Before the first base snapshot there is nothing to build it from.
        && !Timeline::new(input, newest, log).available().is_empty()
    {
        plan.build.push(RequiredSnapshot { position: log.end, frees: None });
    }
    let view = input.view();
    let mut forks: BTreeMap<Line, Vec<(Reason, Position)>> = BTreeMap::new();
    for (name, Fork { line, at }) in branches(input) {
        forks.entry(line).or_default().push((Reason::BranchedNode(name), at));
    }
    // Children before their parents, because they say whether they depend on the fork.
    for (id, log) in input.logs.iter().rev() {
        let timeline = Timeline::new(input, *id, log);
        let lineage = view.lineage(*id);
        let pinned = forks.remove(&lineage.tip()).unwrap_or_default();
        let Some(on_fork) = timeline.plan(&promises, &pinned, &mut plan) else {
            return ExpiryPlan { blocked: Some(Blocked::Incomplete(*id)), ..ExpiryPlan::default() };
        };
        // Another node keeps what its branches depend on by what the catalog says of them.
        if let Some(Fork { line, at }) =
            lineage.root().filter(|fork| on_fork && fork.line.node == input.node)
        {
            forks.entry(line).or_default().push((Reason::Branch(*id), at));
        }
    }
    plan.layers.truncate(MAX_LAYERS);
    plan
}

/// The commits that nodes branched from this one depend on, each with the name of that node.
///
/// Goes by the catalog, and not by what the next sweep of those nodes will find: they own what they
/// depend on until an entry says otherwise.
fn branches(input: &ExpiryInput<'_>) -> Vec<(String, Fork)> {
    let of_others =
        input.state.lineages_over(input.node).into_iter().filter(|l| l.tip().node != input.node);
    let standing = of_others.filter_map(|lineage| {
        let node = lineage.tip().node;
        let fork = lineage.root().filter(|fork| fork.line.node == input.node)?;
        let ancestors = &input.state.nodes;
        let record = ancestors.get(&node).expect("a lineage is of a node that there is");
        let view = NodeView { id: node, record, ancestors };
        view.stands_on_fork(&lineage).then(|| (record.name.clone(), fork))
    });
    standing.collect()
}

/// What keeps the whole node, if anything does.
fn blocked(input: &ExpiryInput<'_>) -> Option<Blocked> {
    let whole = |scope| matches!(scope, HoldScope::Archive | HoldScope::Node { .. });
    let deletion = input.state.deletion(input.node);
    let held = input.state.holds(input.node, input.now);
    // A deleted node expires as a whole, so a hold on a part of it keeps all of it.
    let mut held = held.filter(|(_, hold)| whole(hold.scope) || deletion != Deletion::Live);
    if let Some((name, _)) = held.next() {
        return Some(Blocked::Held(name.clone()));
    }
    match deletion {
        Deletion::Until(until) if input.now < until => Some(Blocked::Deleted(until)),
        Deletion::Until(_) => {
            let locked =
                input.state.locks(Some(input.node)).next().map(|l| Blocked::Locked(l.clone()));
            locked.or_else(|| {
                branches(input).into_iter().next().map(|(name, _)| Blocked::Branched(name))
            })
        }
        _ => None,
    }
}

/// The numbers of segments as ranges. Adds up their bytes.
fn ranges<'s>(segments: impl Iterator<Item = &'s SegmentInfo>, bytes: &mut u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for segment in segments {
        *bytes += segment.bytes;
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == segment.sequence => *last = segment.sequence,
            _ => ranges.push((segment.sequence, segment.sequence)),
        }
    }
    ranges
}

/// The plan that ends a deleted node.
fn everything(input: &ExpiryInput<'_>) -> ExpiryPlan {
    let mut plan = ExpiryPlan {
        last: input.record.retention.deletion != Deletion::Final,
        ..ExpiryPlan::default()
    };
    for (id, log) in input.logs {
        // What has expired before is no longer visible.
        let timeline = Timeline::new(input, *id, log);
        let gone = ranges(timeline.segments.iter(), &mut plan.log_bytes);
        plan.timelines.push(TimelineExpiry { timeline: *id, kept: Vec::new(), segments: gone });
    }
    let layers: BTreeSet<FileId> = input.record.layers.iter().map(|l| l.file).collect();
    plan.layers.extend(layers.into_iter().take(MAX_LAYERS));
    plan
}

#[cfg(test)]
mod tests;
