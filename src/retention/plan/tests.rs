//! Arbitrary histories, swept repeatedly: what is wanted stays restorable, and what nothing needs
//! expires.
//!
//! The oracle knows positions one by one: which were restorable before, and which are wanted now.

mod forks;

use std::time::Duration;

use proptest::prelude::*;

use super::super::policy;
use super::super::retained::{Times, commits_of};
use super::*;
use crate::catalog::{Hold, NodeView, PolicyChange, RestorePointRecord};
use crate::error::{Error, Result};
use crate::format::retention::Policy;
use crate::replay::{PlanInput, plan as replay_plan};
use crate::types::Epoch;

const NODE: NodeId = NodeId::new(1);
const FIRST: TimelineId = TimelineId::new(1);
const SECOND: Duration = Duration::from_secs(1);

fn at(position: u64) -> Position {
    Position::new(position)
}

/// The time of a commit: one second for each commit.
fn time(position: u64) -> Timestamp {
    Timestamp::from_nanos(position * 1_000_000_000)
}

fn layer(
    number: usize,
    timeline: TimelineId,
    from: Option<u64>,
    to: u64,
    consistent: u64,
) -> LayerRecord {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number as u64).to_le_bytes());
    LayerRecord {
        node: NODE,
        timeline,
        file: FileId::from_bytes(id),
        from: from.map(at),
        to: at(to),
        consistent_from: at(consistent),
        timestamp: time(to),
        level: 0,
        bytes: 5,
        length: 1,
        commitment: [0; 32],
        entries: 1,
    }
}

fn record(origin: Origin) -> NodeRecord {
    NodeRecord {
        name: "n".into(),
        origin,
        created: Timestamp::ZERO,
        epoch: Epoch::new(1),
        timeline: FIRST,
        parents: BTreeMap::new(),
        layers: Vec::new(),
        restore_points: BTreeMap::new(),
        durable: BTreeMap::new(),
        retention: crate::catalog::NodeRetention::default(),
        branched: None,
    }
}

/// A node with its log, as a sweeper finds them.
#[derive(Clone, Debug)]
struct World {
    state: CatalogState,
    logs: BTreeMap<TimelineId, TimelineLog>,
    redo: BTreeMap<FileId, Position>,
    /// From `records_begin` on, commits hold a logical record. Every eighth commit says that the
    /// records up to this many commits before it are in the pages.
    lag: Option<u64>,
    records_begin: u64,
    /// If the node's time is not the commits' numbers: the time of each commit, and how far the
    /// node is archived.
    times: Vec<Timestamp>,
    now: Option<Timestamp>,
    made: usize,
}

impl World {
    fn new(origin: Origin, cuts: &[u64], end: u64) -> World {
        let mut state = CatalogState::default();
        state.nodes.insert(NODE, record(origin));
        let policy = Policy::continuous(SECOND);
        state.retention.policies.push(PolicyChange { entry: 1, covers: Timestamp::ZERO, policy });
        let mut world = World {
            state,
            logs: BTreeMap::new(),
            redo: BTreeMap::new(),
            lag: None,
            records_begin: 0,
            times: Vec::new(),
            now: None,
            made: 0,
        };
        world.log(FIRST, 0, cuts, end);
        world
    }

    fn log(&mut self, timeline: TimelineId, start: u64, cuts: &[u64], end: u64) {
        let starts = std::iter::once(start)
            .chain(cuts.iter().copied().filter(|c| (start + 1..end).contains(c)));
        let segments = starts
            .zip(1..)
            .map(|(from, sequence)| SegmentInfo { sequence, from: at(from), bytes: 10 })
            .collect();
        let windows = vec![(Position::ORIGIN, None)];
        self.logs.insert(timeline, TimelineLog { segments, end: at(end), windows });
    }

    fn node(&mut self) -> &mut NodeRecord {
        self.state.nodes.get_mut(&NODE).unwrap()
    }

    fn view(&self) -> NodeView<'_> {
        self.state.view(NODE).unwrap()
    }

    fn add(&mut self, timeline: TimelineId, from: Option<u64>, to: u64, consistent: u64) {
        self.made += 1;
        let layer = LayerRecord {
            timestamp: self.time(to),
            ..layer(self.made, timeline, from, to, consistent)
        };
        if from.is_none() {
            self.redo.insert(layer.file, at(self.redo_of(to)));
        }
        self.node().layers.push(layer);
    }

    /// From where on records are replayed for a commit: from just before the first record that its
    /// pages do not contain.
    fn redo_of(&self, position: u64) -> u64 {
        let Some(lag) = self.lag else { return position };
        let redo = (position / 8 * 8).saturating_sub(lag);
        let first = self.records_begin.max(redo + 1);
        if first <= position { first - 1 } else { position }
    }

    fn time(&self, position: u64) -> Timestamp {
        usize::try_from(position)
            .ok()
            .and_then(|p| self.times.get(p).copied())
            .unwrap_or_else(|| time(position))
    }

    fn end(&self) -> u64 {
        self.logs[&FIRST].end.get()
    }

    fn point(&mut self, name: String, position: u64) {
        let point = RestorePointRecord {
            timeline: FIRST,
            position: at(position),
            timestamp: self.time(position),
        };
        self.node().restore_points.insert(name, point);
    }

    fn hold(&mut self, name: &str, from: u64, to: Option<u64>) {
        let scope =
            HoldScope::Commits { node: NODE, timeline: FIRST, from: at(from), to: to.map(at) };
        let hold = Hold { scope, until: None, reason: String::new() };
        self.state.retention.holds.insert(name.into(), hold);
    }

    fn window(&mut self, timeline: TimelineId, from: u64) {
        self.logs.get_mut(&timeline).unwrap().windows = vec![(at(from), None)];
    }

    fn plan(&self, percent: u64) -> ExpiryPlan {
        let redo_at = (0..=70).map(|p| (at(p), at(self.redo_of(p)))).collect();
        let now = self.now.unwrap_or_else(|| self.time(self.end()));
        plan_expiry(&ExpiryInput {
            state: &self.state,
            node: NODE,
            record: &self.state.nodes[&NODE],
            now,
            archived: now,
            logs: &self.logs,
            branches: &BTreeMap::new(),
            redo: &self.redo,
            redo_at: &redo_at,
            rebuild_percent: percent,
        })
    }

    /// What the entry of the catalog does.
    fn expire(&mut self, plan: &ExpiryPlan) {
        let node = self.node();
        node.layers.retain(|l| !plan.layers.contains(&l.file));
        for timeline in &plan.timelines {
            node.retention.kept.insert(timeline.timeline, timeline.kept.clone());
        }
    }

    /// What the sweeper does after the grace period.
    fn remove(&mut self, plan: &ExpiryPlan) {
        for timeline in &plan.timelines {
            let log = self.logs.get_mut(&timeline.timeline).unwrap();
            log.segments.retain(|s| {
                !timeline.segments.iter().any(|(a, b)| (*a..=*b).contains(&s.sequence))
            });
        }
    }

    /// Whether a commit can be rebuilt from the files that are there, by the planner of restores.
    fn rebuilds(&self, timeline: TimelineId, position: u64) -> bool {
        let (view, to) = (self.view(), at(position));
        let lineage = view.lineage(timeline);
        let Some(replay_floor) = view.replay_floor(&lineage, to) else { return false };
        let root = &self.logs[&lineage.at(Position::ORIGIN).line.timeline];
        let begins = root.segments.first().is_none_or(|s| s.from == Position::ORIGIN);
        let empty_origin = view.origin(&lineage) == Origin::Empty
            && replay_floor == Position::ORIGIN
            && (view.kept(&lineage).is_some() || begins);
        let input = PlanInput {
            lineage: &lineage,
            empty_origin,
            replay_floor,
            layers: &view.layers(&lineage),
        };
        let Some(plan) = replay_plan(&input, to) else { return false };
        let from = plan.log_from.min(at(self.redo_of(position)));
        lineage.over(from, to).all(|(stretch, from, to)| {
            let log = &self.logs[&stretch.line.timeline];
            leads(&log.segments, from, Some(to), log.end)
        })
    }

    /// Whether readers take a commit for restorable.
    fn visible(&self, timeline: TimelineId, position: u64) -> bool {
        let view = self.view();
        let kept = view.kept(&view.lineage(timeline));
        kept.is_none_or(|kept| kept.iter().any(|s| s.contains(at(position))))
            && self.rebuilds(timeline, position)
    }

    /// Whether the time of a commit can be determined.
    fn has_time(&self, position: u64) -> bool {
        let segments = &self.logs[&FIRST].segments;
        let holds = segments.iter().enumerate().any(|(i, s)| {
            let end = segments.get(i + 1).map_or(self.logs[&FIRST].end.get(), |n| n.from.get());
            let whole = segments.get(i + 1).is_none_or(|n| n.sequence == s.sequence + 1);
            s.from.get() < position && position <= end && whole
        });
        let snapshot = |l: &LayerRecord| {
            l.from.is_none() && (l.to, l.consistent_from) == (at(position), at(position))
        };
        holds || self.state.nodes[&NODE].layers.iter().any(snapshot)
    }
}

#[derive(Clone, Debug)]
struct Step {
    window: u64,
    layers: Vec<(u64, u64, u8)>,
    hold: Option<(u64, u64)>,
    release: bool,
    remove: bool,
    percent: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let layers = prop::collection::vec((0..60u64, 0..12u64, 0..4u8), 0..3);
    (
        0..70u64,
        layers,
        prop::option::of((0..60u64, 0..20u64)),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0), 0..300u64],
    )
        .prop_map(|(window, layers, hold, release, remove, percent)| Step {
            window,
            layers,
            hold,
            release,
            remove,
            percent,
        })
}

/// `PROPTEST_CASES` if that is more.
fn cases(default: u32) -> u32 {
    ProptestConfig::default().cases.max(default)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(3_000), ..ProptestConfig::default() })]

    #[test]
    fn what_is_wanted_stays_and_what_nothing_needs_goes(
        cuts in prop::collection::btree_set(1..60u64, 0..12),
        empty in any::<bool>(),
        points in prop::collection::btree_set(1..60u64, 0..4),
        points_for in 0..80u32,
        base in prop::option::weighted(0.9, (0..20u64, 0..6u64)),
        lag in prop::option::of(0..12u64),
        records_begin in prop_oneof![Just(0), 0..60u64],
        steps in prop::collection::vec(step(), 1..6),
    ) {
        let end = 60;
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let origin = if empty { Origin::Empty } else { Origin::Existing };
        let mut world = World::new(origin, &cuts, end);
        (world.lag, world.records_begin) = (lag, records_begin);
        world.state.retention.policies[0].policy.restore_points_for = SECOND * points_for;
        // None: there is no base snapshot yet.
        if let Some((to, len)) = base.filter(|_| !empty) {
            world.add(FIRST, None, to, to + len);
        }
        for point in &points {
            world.point(format!("p{point}"), *point);
        }
        let mut available: BTreeSet<u64> = (1..=end).filter(|p| world.visible(FIRST, *p)).collect();
        let mut window = 0;
        for step in &steps {
            window = step.window.min(end).max(window);
            world.window(FIRST, window);
            for (to, len, kind) in &step.layers {
                // Only what can be rebuilt can become a layer.
                let from = to.saturating_sub(*len);
                if *to == 0 || !world.visible(FIRST, *to) {
                    continue;
                }
                match kind {
                    0 | 1 => world.add(FIRST, None, *to, *to),
                    2 if from < *to && world.visible(FIRST, from) => world.add(FIRST, Some(from), *to, *to),
                    _ if world.state.nodes[&NODE].retention.keeps_log_from(FIRST, at(from)) && from < *to => {
                        world.add(FIRST, None, from, *to);
                    }
                    _ => {}
                }
            }
            if step.release {
                world.state.retention.holds.clear();
            }
            if let Some((from, len)) = step.hold
                && available.contains(&from)
            {
                world.hold("h", from, (len < 15).then_some(from + len));
            }
            let held: Vec<(u64, u64)> = world.state.retention.holds.values().filter_map(|h| match h.scope {
                HoldScope::Commits { from, to, .. } => Some((from.get(), to.map_or(u64::MAX, Position::get))),
                _ => None,
            }).collect();
            let wanted = |p: u64| p >= window
                || points.contains(&p) && p + u64::from(points_for) > end
                || held.iter().any(|(a, b)| (*a..=*b).contains(&p));

            // As the sweeper does: build, plan anew, expire, and remove now or later.
            let mut plan = world.plan(step.percent);
            if available.is_empty() {
                prop_assert_eq!(plan, ExpiryPlan::default(), "nothing can be restored yet");
                continue;
            }
            for _ in 0..8 {
                prop_assert_eq!(&plan.blocked, &None);
                if plan.build.is_empty() {
                    break;
                }
                for build in &plan.build {
                    prop_assert!(world.visible(FIRST, build.position.get()), "{build:?} cannot be built");
                    world.add(FIRST, None, build.position.get(), build.position.get());
                }
                plan = world.plan(step.percent);
            }
            prop_assert!(plan.build.is_empty(), "builds without end: {:?}", plan.build);
            world.expire(&plan);
            if step.remove {
                world.remove(&plan);
            }
            for p in available.iter().filter(|p| wanted(**p)) {
                prop_assert!(world.visible(FIRST, *p), "{p} is wanted and gone: {plan:?}");
                prop_assert!(world.has_time(*p), "the time of {p} is gone");
            }
            available.retain(|p| world.visible(FIRST, *p));
            // Nothing is left that is not needed.
            let again = world.plan(step.percent);
            prop_assert!(again.is_empty(), "not all at once: {again:?}");
            if step.percent == 0 {
                let timeline = |w: &World| {
                    let input = ExpiryInput {
                        state: &w.state, node: NODE, record: &w.state.nodes[&NODE], now: time(end), archived: time(end),
                        logs: &w.logs, branches: &BTreeMap::new(), redo: &w.redo, redo_at: &BTreeMap::new(), rebuild_percent: 0,
                    };
                    Timeline::new(&input, FIRST, &w.logs[&FIRST]).segments
                };
                let left = timeline(&world);
                let useful = |i: usize| left.get(i).is_some_and(|s| {
                    let last = left.get(i + 1).map_or(end, |n| n.from.get());
                    let needs = |p: &u64| wanted(*p) && available.contains(p) && world.redo_of(*p).min(p - 1) < last;
                    (s.from.get() + 1..=end).any(|p| needs(&p))
                });
                for (i, segment) in left.iter().enumerate() {
                    let vouches = i > 0 && useful(i - 1);
                    prop_assert!(useful(i) || vouches || i + 1 == left.len(), "{segment:?} is of no use: {left:?} {plan:?}");
                }
            }
        }
    }
}

/// The times of a world's commits, determined only from the files that are left.
struct Left<'w>(&'w World);

impl Times for Left<'_> {
    fn of(&self, commit: Position) -> Result<Timestamp> {
        let end = self.0.logs[&FIRST].end;
        assert!(
            commit > end || self.0.has_time(commit.get()),
            "nothing is left that tells the time of {commit}"
        );
        Ok(if commit > end { Timestamp::from_nanos(u64::MAX) } else { self.0.time(commit.get()) })
    }

    fn by_log(&self, time: Timestamp) -> Result<Option<Position>> {
        let log = &self.0.logs[&FIRST];
        let begins =
            |s: &SegmentInfo| s.from == Position::ORIGIN || self.0.time(s.from.get()) <= time;
        let Some(last) = log.segments.iter().rposition(begins) else { return Ok(None) };
        let next = log.segments.get(last + 1);
        if let Some(gap) = next.filter(|n| n.sequence != log.segments[last].sequence + 1) {
            return Err(Error::Gap {
                node: "n".into(),
                expected: gap.from.next_lsn(),
                found: gap.from,
            });
        }
        let ends = next.map_or(log.end, |n| n.from).get();
        let found = (log.segments[last].from.get()..=ends)
            .rev()
            .find(|p| *p == 0 || self.0.time(*p) <= time);
        Ok(found.filter(|p| *p > 0).map(at))
    }

    fn archived_by(&self, _: Timestamp) -> Result<Position> {
        Ok(at(u64::MAX))
    }
}

/// Half a day: what was archived before the first policy is promised for seventy of them.
const UNIT: Duration = Duration::from_secs(43_200);

/// What happens between two sweeps.
#[derive(Clone, Debug)]
struct Turn {
    /// Commits: how long each comes after the one before, and whether a segment is begun before it.
    commits: Vec<(u64, bool)>,
    /// A policy is set: the length of its window, and how long it keeps restore points.
    policy: Option<(u32, u32)>,
    /// A restore point, this many commits ago.
    point: Option<u64>,
    /// A snapshot, this many commits ago.
    snapshot: Option<u64>,
    /// A hold on this many commits, from this many commits ago; with 0 commits, the hold is
    /// released.
    hold: Option<(u64, u64)>,
    /// The time that passes after that.
    pause: u64,
    remove: bool,
    percent: u64,
}

fn turn() -> impl Strategy<Value = Turn> {
    let gap = prop_oneof![4 => 1..4u64, 1 => 5..30u64];
    (
        prop::collection::vec((gap, any::<bool>()), 0..6),
        (prop::option::weighted(0.3, (0..50u32, 0..60u32)), prop::option::weighted(0.3, 0..12u64)),
        prop::option::of(0..12u64),
        prop::option::weighted(0.3, (0..25u64, 0..4u64)),
        0..20u64,
        any::<bool>(),
        prop_oneof![Just(0), Just(100), Just(u64::MAX)],
    )
        .prop_map(|(commits, (policy, point), snapshot, hold, pause, remove, percent)| Turn {
            commits,
            policy,
            point,
            snapshot,
            hold,
            pause,
            remove,
            percent,
        })
}

impl World {
    fn go_on(&mut self, units: u64) {
        self.now = self.now.map(|now| now.saturating_add(UNIT * u32::try_from(units).unwrap()));
    }

    fn commit(&mut self, after: u64, cut: bool) {
        self.go_on(after);
        self.times.push(self.now.unwrap());
        let log = self.logs.get_mut(&FIRST).unwrap();
        let sequence = log.segments.last().unwrap().sequence + 1;
        if cut && log.end > log.segments.last().unwrap().from {
            log.segments.push(SegmentInfo { sequence, from: log.end, bytes: 10 });
        }
        log.end = log.end.next_lsn().into();
    }

    /// Sweeps as the sweeper does; returns the plan that was carried out.
    fn sweep(&mut self, percent: u64, remove: bool) -> ExpiryPlan {
        for _ in 0..12 {
            self.find_windows();
            let plan = self.plan(percent);
            assert_eq!(plan.blocked, None, "{self:?}");
            if plan.build.is_empty() {
                self.expire(&plan);
                if remove {
                    self.remove(&plan);
                }
                return plan;
            }
            for build in &plan.build {
                assert!(self.visible(FIRST, build.position.get()), "{build:?} cannot be built");
                self.add(FIRST, None, build.position.get(), build.position.get());
            }
        }
        panic!("builds without end");
    }

    fn find_windows(&mut self) {
        let promised = policy::windows(&promises(&self.state, NODE), self.now.unwrap());
        let windows =
            commits_of(&promised, self.state.nodes[&NODE].retention.kept(FIRST), &Left(self))
                .unwrap();
        self.logs.get_mut(&FIRST).unwrap().windows = windows;
    }

    /// Whether one of the policies promised a commit: it was archived under that policy, and is the
    /// state at a time that the window reaches back to.
    fn is_promised(&self, position: u64) -> bool {
        let now = self.now.unwrap();
        let next = if position < self.end() {
            self.time(position + 1)
        } else {
            Timestamp::from_nanos(u64::MAX)
        };
        let changes = &self.state.retention.policies;
        let ends = changes.iter().map(|c| Some(c.covers)).chain([None]);
        let windows =
            std::iter::once(Policy::UNSET).chain(changes.iter().map(|c| match c.policy.mode {
                crate::format::retention::Mode::Continuous { window } => window,
                crate::format::retention::Mode::Periodic { .. } => unreachable!("none is set here"),
            }));
        windows.zip(ends).any(|(window, until)| {
            let start = now.saturating_sub(window);
            let speaks = until.is_none_or(|until| self.time(position) <= until && start <= until);
            speaks && next > start
        })
    }

    /// Whether a commit has a restore point, for the sake of which one of the policies promised to
    /// keep it.
    fn is_kept_point(&self, position: u64) -> bool {
        let (now, time) = (self.now.unwrap(), self.time(position));
        let changes = &self.state.retention.policies;
        let ends = changes.iter().skip(1).map(|c| Some(c.covers)).chain([None]);
        let is_point =
            self.state.nodes[&NODE].restore_points.values().any(|p| p.position == at(position));
        is_point
            && changes.iter().zip(ends).any(|(change, until)| {
                until.is_none_or(|until| time <= until)
                    && time.saturating_add(change.policy.restore_points_for) > now
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2_000), ..ProptestConfig::default() })]

    /// Policies follow one another, holds come and go, snapshots are built anywhere. A promised
    /// commit stays until its date, even if it is the last one left of its promise and only a
    /// snapshot of it is left. A second sweep at the same time leaves what the first one left.
    #[test]
    fn a_promise_is_kept_to_its_date(
        first in prop::collection::vec((1..6u64, any::<bool>()), 1..8),
        snapshot in prop::option::of(0..8u64),
        window in 0..50u32,
        turns in prop::collection::vec(turn(), 1..14),
    ) {
        let mut world = World::new(Origin::Empty, &[], 0);
        world.state.retention.policies.clear();
        world.times.push(Timestamp::ZERO);
        world.now = Some(Timestamp::from_nanos(1_000 * 86_400_000_000_000));
        for (after, cut) in first {
            world.commit(after, cut);
        }
        if let Some(back) = snapshot {
            let to = world.end().saturating_sub(back).max(1);
            world.add(FIRST, None, to, to);
        }
        let mut entry = 1;
        for (number, turn) in turns.iter().enumerate() {
            for (after, cut) in &turn.commits {
                world.commit(*after, *cut);
            }
            // There is one from the first sweep on.
            if let Some((window, points)) = turn.policy.or((number == 0).then_some((window, 0))) {
                entry += 1;
                let policy = Policy::continuous(UNIT * window).restore_points_for(UNIT * points);
                let covers = world.now.unwrap();
                world.state.retention.policies.push(PolicyChange { entry, covers, policy });
            }
            if let Some(to) = turn.snapshot.and_then(|back| world.end().checked_sub(back))
                && to > 0 && world.visible(FIRST, to)
            {
                world.add(FIRST, None, to, to);
            }
            if let Some(position) = turn.point.and_then(|back| world.end().checked_sub(back))
                && position > 0 && world.visible(FIRST, position)
            {
                world.point(format!("p{number}"), position);
            }
            if let Some((back, count)) = turn.hold {
                world.state.retention.holds.clear();
                if let Some(from) = world.end().checked_sub(back)
                    && count > 0 && from > 0 && world.visible(FIRST, from)
                {
                    world.hold("h", from, Some(from + count - 1));
                }
            }
            world.go_on(turn.pause);
            let held = |p: u64| world.state.retention.holds.values().any(|h| match h.scope {
                HoldScope::Commits { from, to, .. } => from <= at(p) && to.is_none_or(|to| at(p) <= to),
                _ => false,
            });
            let available: Vec<u64> = (1..=world.end()).filter(|p| world.visible(FIRST, *p)).collect();
            let wanted = |p: &u64| world.is_promised(*p) || world.is_kept_point(*p) || held(*p);
            let wanted: Vec<u64> = available.iter().copied().filter(wanted).collect();
            let plan = world.sweep(turn.percent, turn.remove);
            for p in &wanted {
                prop_assert!(world.visible(FIRST, *p), "turn {number}: {p} is promised and gone: {plan:?}");
                prop_assert!(world.has_time(*p), "turn {number}: the time of {p} is gone");
            }
            for again in 0..2 {
                let plan = world.sweep(turn.percent, again == 1);
                prop_assert!(plan.is_empty(), "turn {number}: a sweep at the same time takes more: {plan:?}");
            }
            world.find_windows();
        }
    }
}

/// Held snapshots off the interval must not shift those of the interval: when the oldest of them
/// expires, each of the others keeps its date.
#[test]
fn periodic_snapshots_keep_their_date_beside_others() {
    let mut world = World::new(Origin::Empty, &[10, 60, 110, 155, 210, 310, 410], 420);
    let policy = Policy::periodic(SECOND * 100, SECOND * 300, 1);
    world.state.retention.policies =
        vec![PolicyChange { entry: 1, covers: Timestamp::ZERO, policy }];
    for position in [10, 110, 210, 310, 410] {
        world.add(FIRST, None, position, position);
    }
    for position in [60, 155] {
        world.add(FIRST, None, position, position);
        world.hold(&format!("h{position}"), position, Some(position));
    }
    for now in 420..700 {
        world.now = Some(time(now));
        world.window(FIRST, 410);
        let plan = ExpiryPlan { build: Vec::new(), ..world.plan(u64::MAX) };
        assert_eq!(plan.blocked, None);
        world.expire(&plan);
        for snapshot in [110, 210, 310, 410] {
            let young = snapshot + 300 > now;
            assert!(
                !young || world.visible(FIRST, snapshot),
                "at {now}: the snapshot of {snapshot} is gone: {plan:?}"
            );
        }
        assert!(
            now < 510 || !world.visible(FIRST, 110),
            "at {now}: the snapshot of 110 is of no use any more"
        );
    }
}

#[test]
fn a_branch_pins_the_commit_that_it_began_from() {
    let second = TimelineId::new(2);
    let mut world = World::new(Origin::Empty, &[10, 20, 30, 40], 50);
    world.node().timeline = second;
    world.node().parents.insert(second, (FIRST, at(25)));
    world.log(second, 25, &[35, 45], 60);
    // The window reaches back beyond the fork: both are wanted.
    for timeline in [FIRST, second] {
        world.window(timeline, if timeline == FIRST { 15 } else { 25 });
    }
    let plan = world.plan(0);
    assert_eq!(plan.blocked, None);
    assert!(world.visible(FIRST, 20), "{plan:?}");
    // The window begins within the branch, which has no snapshot of its own: the fork is kept, and
    // the rest of the parent is not.
    world.window(FIRST, 40);
    world.window(second, 50);
    let plan = world.plan(1_000_000);
    let pinned: Vec<_> = plan.kept.iter().filter(|k| k.timeline == FIRST).collect();
    assert_eq!(pinned.len(), 1, "{plan:?}");
    assert_eq!((pinned[0].span.from, pinned[0].span.to), (at(25), Some(at(25))));
    assert_eq!(pinned[0].reasons, [Reason::Branch(second)]);
    world.expire(&plan);
    world.remove(&plan);
    assert!(world.visible(FIRST, 25), "the fork");
    assert!(!world.visible(FIRST, 40));
    assert!(world.rebuilds(second, 55), "the branch");
    // With a snapshot of its own the branch is based on that, and the parent expires.
    world.add(second, None, 48, 48);
    let plan = world.plan(0);
    world.expire(&plan);
    world.remove(&plan);
    assert!(world.logs[&FIRST].segments.is_empty(), "{plan:?}");
    assert!(world.visible(second, 50));
}

#[test]
fn gaps_keep_everything() {
    let mut world = World::new(Origin::Empty, &[10, 20, 30], 40);
    world.logs.get_mut(&FIRST).unwrap().segments.remove(1);
    world.window(FIRST, 25);
    let plan = world.plan(0);
    assert_eq!(plan.blocked, Some(Blocked::Incomplete(FIRST)));
    assert!(plan.is_empty());
}

/// The log from before the first base snapshot is needed to correct that snapshot, and no snapshot
/// can be built from it.
#[test]
fn before_the_first_base_copy_everything_stays() {
    for policy in [Policy::continuous(SECOND), Policy::periodic(SECOND * 100, SECOND * 300, 1)] {
        let mut world = World::new(Origin::Existing, &[10, 20, 30], 40);
        world.state.retention.policies =
            vec![PolicyChange { entry: 1, covers: Timestamp::ZERO, policy }];
        world.point("p".into(), 12);
        world.hold("h", 14, None);
        world.window(FIRST, 39);
        assert_eq!(world.plan(0), ExpiryPlan::default());
    }
}

/// A lost beginning is a gap like any other, with and without a snapshot behind it: the files may
/// be found again.
#[test]
fn a_lost_beginning_keeps_everything() {
    for snapshot in [None, Some(25)] {
        let mut world = World::new(Origin::Empty, &[10, 20, 30], 40);
        world.logs.get_mut(&FIRST).unwrap().segments.remove(0);
        if let Some(at) = snapshot {
            world.add(FIRST, None, at, at);
        }
        world.window(FIRST, 35);
        let plan = world.plan(0);
        assert_eq!(
            plan,
            ExpiryPlan { blocked: Some(Blocked::Incomplete(FIRST)), ..ExpiryPlan::default() }
        );
    }
}

#[test]
fn holds_and_locks_block_the_end_of_a_deleted_node() {
    let mut world = World::new(Origin::Empty, &[10], 20);
    world.node().retention.deletion = Deletion::Until(time(30));
    assert!(matches!(world.plan(0).blocked, Some(Blocked::Deleted(_))));
    world.node().retention.deletion = Deletion::Until(time(10));
    world.node().retention.locks.insert("l".into());
    assert!(matches!(world.plan(0).blocked, Some(Blocked::Locked(_))));
    world.hold("h", 3, Some(4));
    assert!(matches!(world.plan(0).blocked, Some(Blocked::Held(_))));
    world.state.retention.holds.clear();
    world.node().retention.locks.clear();
    let plan = world.plan(0);
    assert!(plan.last && plan.timelines[0].segments == [(1, 2)], "{plan:?}");
}
