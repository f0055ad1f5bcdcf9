//! Arbitrary histories, swept again and again: what is wanted stays restorable, and what nothing needs goes.
//!
//! The oracle knows positions one by one: which were restorable before, and which are wanted now.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::catalog::{Hold, PolicyChange, RestorePointRecord};
use crate::format::retention::Policy;
use crate::replay::{PlanInput, plan as replay_plan};
use crate::types::Epoch;

const NODE: NodeId = NodeId::new(1);
const FIRST: TimelineId = TimelineId::new(1);
const SECOND: Duration = Duration::from_secs(1);

fn at(position: u64) -> Position {
    Position::new(position)
}

/// The time of a commit: a second each.
fn time(position: u64) -> Timestamp {
    Timestamp::from_nanos(position * 1_000_000_000)
}

fn layer(number: usize, timeline: TimelineId, from: Option<u64>, to: u64, consistent: u64) -> LayerRecord {
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
    }
}

/// A node with its log, as a sweeper finds them.
#[derive(Clone, Debug)]
struct World {
    state: CatalogState,
    logs: BTreeMap<TimelineId, TimelineLog>,
    redo: BTreeMap<FileId, Position>,
    /// Every commit holds a logical record, and every eighth says that those up to so many before it are in the pages.
    lag: Option<u64>,
    made: usize,
}

impl World {
    fn new(origin: Origin, cuts: &[u64], end: u64) -> World {
        let mut state = CatalogState::default();
        state.nodes.insert(NODE, record(origin));
        let policy = Policy::continuous(SECOND);
        state.retention.policies.push(PolicyChange { entry: 1, covers: Timestamp::ZERO, policy });
        let mut world = World { state, logs: BTreeMap::new(), redo: BTreeMap::new(), lag: None, made: 0 };
        world.log(FIRST, 0, cuts, end);
        world
    }

    fn log(&mut self, timeline: TimelineId, start: u64, cuts: &[u64], end: u64) {
        let starts = std::iter::once(start).chain(cuts.iter().copied().filter(|c| (start + 1..end).contains(c)));
        let segments =
            starts.zip(1..).map(|(from, sequence)| SegmentInfo { sequence, from: at(from), bytes: 10 }).collect();
        let windows = vec![(Position::ORIGIN, None)];
        self.logs.insert(timeline, TimelineLog { segments, end: at(end), windows });
    }

    fn node(&mut self) -> &mut NodeRecord {
        self.state.nodes.get_mut(&NODE).unwrap()
    }

    fn add(&mut self, timeline: TimelineId, from: Option<u64>, to: u64, consistent: u64) {
        self.made += 1;
        let layer = layer(self.made, timeline, from, to, consistent);
        if from.is_none() {
            self.redo.insert(layer.file, at(self.redo_of(to)));
        }
        self.node().layers.push(layer);
    }

    /// From where on records are replayed for a commit.
    fn redo_of(&self, position: u64) -> u64 {
        self.lag.map_or(position, |lag| (position / 8 * 8).saturating_sub(lag))
    }

    fn point(&mut self, name: String, position: u64) {
        let point = RestorePointRecord { timeline: FIRST, position: at(position), timestamp: time(position) };
        self.node().restore_points.insert(name, point);
    }

    fn hold(&mut self, name: &str, from: u64, to: Option<u64>) {
        let scope = HoldScope::Commits { node: NODE, timeline: FIRST, from: at(from), to: to.map(at) };
        let hold = Hold { scope, until: None, reason: String::new() };
        self.state.retention.holds.insert(name.into(), hold);
    }

    fn window(&mut self, timeline: TimelineId, from: u64) {
        self.logs.get_mut(&timeline).unwrap().windows = vec![(at(from), None)];
    }

    fn plan(&self, percent: u64) -> ExpiryPlan {
        let redo_at = (0..=70).map(|p| (at(p), at(self.redo_of(p)))).collect();
        let end = self.logs[&FIRST].end.get();
        plan_expiry(&ExpiryInput {
            state: &self.state,
            node: NODE,
            record: &self.state.nodes[&NODE],
            now: time(end),
            archived: time(end),
            logs: &self.logs,
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
            log.segments.retain(|s| !timeline.segments.iter().any(|(a, b)| (*a..=*b).contains(&s.sequence)));
        }
    }

    /// Whether a commit can be rebuilt from the files that are there, by the planner of restores.
    fn rebuilds(&self, timeline: TimelineId, position: u64) -> bool {
        let record = &self.state.nodes[&NODE];
        let log = &self.logs[&timeline];
        let kept = record.retention.kept(timeline);
        let starts = match record.parents.get(&timeline) {
            Some((_, fork)) => *fork,
            None => Position::ORIGIN,
        };
        let beginning = (record.origin == Origin::Empty || timeline != FIRST)
            && match kept {
                Some(spans) => spans.iter().any(|s| s.base == starts && s.to.is_none_or(|to| at(position) <= to)),
                None => log.segments.first().is_none_or(|s| s.from == starts),
            };
        let ground = record.retention.ground(timeline, at(position)).unwrap_or_default();
        let input = PlanInput { timeline, empty_origin: beginning, ground, layers: &record.layers };
        let Some(plan) = replay_plan(&input, at(position)) else { return false };
        let from = if plan.base.is_none() && plan.deltas.is_empty() { starts } else { plan.log_from };
        leads(&log.segments, from.min(at(self.redo_of(position))), Some(at(position)), log.end)
    }

    /// Whether readers take a commit for restorable.
    fn visible(&self, timeline: TimelineId, position: u64) -> bool {
        self.state.nodes[&NODE].retention.keeps(timeline, at(position)) && self.rebuilds(timeline, position)
    }

    /// Whether the time of a commit can be told.
    fn has_time(&self, position: u64) -> bool {
        let segments = &self.logs[&FIRST].segments;
        let holds = segments.iter().enumerate().any(|(i, s)| {
            let end = segments.get(i + 1).map_or(self.logs[&FIRST].end.get(), |n| n.from.get());
            let whole = segments.get(i + 1).is_none_or(|n| n.sequence == s.sequence + 1);
            s.from.get() < position && position <= end && whole
        });
        let snapshot = |l: &LayerRecord| l.from.is_none() && (l.to, l.consistent_from) == (at(position), at(position));
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

/// `PROPTEST_CASES` where it says more.
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
        base in (0..20u64, 0..6u64),
        lag in prop::option::of(0..12u64),
        steps in prop::collection::vec(step(), 1..6),
    ) {
        let end = 60;
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let origin = if empty { Origin::Empty } else { Origin::Existing };
        let mut world = World::new(origin, &cuts, end);
        world.lag = lag;
        world.state.retention.policies[0].policy.restore_points_for = SECOND * points_for;
        if !empty {
            world.add(FIRST, None, base.0, base.0 + base.1);
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
            // Nothing is left that nothing needs.
            let again = world.plan(step.percent);
            prop_assert!(again.is_empty(), "not all at once: {again:?}");
            if step.percent == 0 {
                let timeline = |w: &World| {
                    let input = ExpiryInput {
                        state: &w.state, node: NODE, record: &w.state.nodes[&NODE], now: time(end), archived: time(end),
                        logs: &w.logs, redo: &w.redo, redo_at: &BTreeMap::new(), rebuild_percent: 0,
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
    // It begins within the branch, which has no snapshot of its own: the fork is pinned, and the rest of the parent is not.
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
    // With a snapshot of its own it stands on that, and the parent goes.
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
