//! Forks of forks, within nodes and across them, swept node by node in any order.
//!
//! The oracle knows which commits of each timeline are wanted, and asks the planner of restores
//! whether each can be rebuilt from the files that are left along its lineage, of whichever node.

use proptest::sample::Index;

use super::*;
use crate::catalog::NodeView;
use crate::lineage::Lineage;

/// The commits of a timeline, including those that it shares with others.
const END: u64 = 30;

/// An archive of several nodes.
#[derive(Clone, Debug)]
struct Estate {
    state: CatalogState,
    logs: BTreeMap<Line, TimelineLog>,
    made: usize,
}

/// The parent of a timeline, the commit after which it forks off, and whether it is a node of its
/// own.
type Forked = (Index, u64, bool);

impl Estate {
    fn new(origin: Origin, forks: &[Forked], cuts: &[u64]) -> Estate {
        let mut state = CatalogState::default();
        state.nodes.insert(NODE, record(origin));
        let policy = Policy::continuous(SECOND).restore_points_for(SECOND * 1_000_000);
        state.retention.policies.push(PolicyChange { entry: 1, covers: Timestamp::ZERO, policy });
        let mut estate = Estate { state, logs: BTreeMap::new(), made: 0 };
        let mut lines = vec![Line::new(NODE, FIRST)];
        for (parent, fork, own_node) in forks {
            let parent = *parent.get(&lines);
            let at = at(*fork);
            let line = if *own_node {
                let node = NodeId::new(u32::try_from(estate.state.nodes.len()).unwrap() + 1);
                let branched = Some(Fork { line: parent, at });
                let name = format!("n{node}");
                estate
                    .state
                    .nodes
                    .insert(node, NodeRecord { name, branched, ..record(Origin::Existing) });
                Line::new(node, FIRST)
            } else {
                let record = estate.state.nodes.get_mut(&parent.node).unwrap();
                record.timeline = TimelineId::new(record.timeline.get() + 1);
                record.parents.insert(record.timeline, (parent.timeline, at));
                Line::new(parent.node, record.timeline)
            };
            lines.push(line);
        }
        for line in lines {
            let start = estate.lineage(line).last().after.get();
            let own = cuts.iter().copied().filter(|c| (start + 1..END).contains(c));
            let starts = std::iter::once(start).chain(own);
            let segments = starts.zip(1..).map(|(from, sequence)| SegmentInfo {
                sequence,
                from: at(from),
                bytes: 10,
            });
            let windows = vec![(Position::ORIGIN, None)];
            estate
                .logs
                .insert(line, TimelineLog { segments: segments.collect(), end: at(END), windows });
        }
        estate
    }

    fn view(&self, node: NodeId) -> NodeView<'_> {
        self.state.view(node).unwrap()
    }

    fn lineage(&self, line: Line) -> Lineage {
        self.view(line.node).lineage(line.timeline)
    }

    fn lines(&self) -> Vec<Line> {
        let timelines = |node: &NodeId| self.view(*node).timelines();
        self.state
            .nodes
            .keys()
            .flat_map(|node| timelines(node).into_iter().map(|t| Line::new(*node, t)))
            .collect()
    }

    fn add(&mut self, line: Line, from: Option<u64>, to: u64) {
        self.made += 1;
        let layer =
            LayerRecord { node: line.node, ..layer(self.made, line.timeline, from, to, to) };
        self.state.nodes.get_mut(&line.node).unwrap().layers.push(layer);
    }

    /// Whether a commit on the way to the end of a timeline can be restored.
    fn visible(&self, line: Line, position: u64) -> bool {
        let (view, lineage, to) = (self.view(line.node), self.lineage(line), at(position));
        let kept = view.kept(&lineage);
        if kept.as_ref().is_some_and(|kept| !kept.iter().any(|s| s.contains(to))) {
            return false;
        }
        let Some(replay_floor) = view.replay_floor(&lineage, to) else { return false };
        let root = &self.logs[&lineage.at(Position::ORIGIN).line];
        let begins = root.segments.first().is_some_and(|s| s.from == Position::ORIGIN);
        let empty_origin = view.origin(&lineage) == Origin::Empty
            && replay_floor == Position::ORIGIN
            && (kept.is_some() || begins);
        let input = PlanInput {
            lineage: &lineage,
            empty_origin,
            replay_floor,
            layers: &view.layers(&lineage),
        };
        let Some(plan) = replay_plan(&input, to) else { return false };
        lineage.over(plan.log_from, to).all(|(stretch, from, to)| {
            let log = &self.logs[&stretch.line];
            leads(&log.segments, from, Some(to), log.end)
        })
    }

    fn plan(&self, node: NodeId) -> ExpiryPlan {
        let record = &self.state.nodes[&node];
        let own = self.logs.iter().filter(|(line, _)| line.node == node);
        let logs = own.map(|(line, log)| (line.timeline, log.clone())).collect();
        let redo =
            record.layers.iter().filter(|l| l.from.is_none()).map(|l| (l.file, l.to)).collect();
        plan_expiry(&ExpiryInput {
            state: &self.state,
            node,
            record,
            now: time(END),
            archived: time(END),
            logs: &logs,
            branches: &BTreeMap::new(),
            redo: &redo,
            redo_at: &BTreeMap::new(),
            rebuild_percent: u64::MAX,
        })
    }

    fn sweep(&mut self, node: NodeId, remove: bool) -> ExpiryPlan {
        let plan = self.plan(node);
        assert_eq!(plan.blocked, None, "{self:?}");
        let record = self.state.nodes.get_mut(&node).unwrap();
        record.layers.retain(|l| !plan.layers.contains(&l.file));
        for timeline in &plan.timelines {
            record.retention.kept.insert(timeline.timeline, timeline.kept.clone());
            if remove {
                let log = self.logs.get_mut(&Line::new(node, timeline.timeline)).unwrap();
                log.segments.retain(|s| {
                    !timeline.segments.iter().any(|(a, b)| (*a..=*b).contains(&s.sequence))
                });
            }
        }
        plan
    }
}

/// One round: windows move on, layers are built, commits named, and every node is swept.
#[derive(Clone, Debug)]
struct Round {
    windows: Vec<u64>,
    layers: Vec<(Index, u64, u64)>,
    point: Option<(Index, u64)>,
    hold: Option<(Index, u64, u64)>,
    backwards: bool,
    remove: bool,
}

fn round() -> impl Strategy<Value = Round> {
    (
        prop::collection::vec(0..=END, 8),
        prop::collection::vec((any::<Index>(), 1..=END, 0..10u64), 0..4),
        prop::option::weighted(0.3, (any::<Index>(), 1..=END)),
        prop::option::weighted(0.3, (any::<Index>(), 1..=END, 0..8u64)),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(windows, layers, point, hold, backwards, remove)| Round {
            windows,
            layers,
            point,
            hold,
            backwards,
            remove,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2_000), ..ProptestConfig::default() })]

    #[test]
    fn what_a_branch_stands_on_stays(
        empty in any::<bool>(),
        forks in prop::collection::vec((any::<Index>(), 1..END, any::<bool>()), 1..6),
        cuts in prop::collection::btree_set(1..END, 0..8),
        base in 1..10u64,
        rounds in prop::collection::vec(round(), 1..5),
    ) {
        let origin = if empty { Origin::Empty } else { Origin::Existing };
        let mut estate = Estate::new(origin, &forks, &cuts.into_iter().collect::<Vec<_>>());
        let first = Line::new(NODE, FIRST);
        if !empty {
            estate.add(first, None, base);
        }
        let lines = estate.lines();
        let mut points: Vec<(Line, u64)> = Vec::new();
        let mut windows: BTreeMap<Line, u64> = lines.iter().map(|line| (*line, 0)).collect();
        for (number, round) in rounds.iter().enumerate() {
            for (line, to, len) in &round.layers {
                let line = *line.get(&lines);
                let from = to.saturating_sub(*len);
                // In the line that it belongs to: a state that is an ancestor's within the node is
                // built as the ancestor's.
                let owner = estate.lineage(line).at(at(*to)).line;
                let owner = if owner.node == line.node { owner } else { line };
                if estate.visible(line, *to) {
                    match len {
                        0..5 => estate.add(owner, None, *to),
                        _ if from == 0 || estate.visible(line, from) => estate.add(owner, Some(from), *to),
                        _ => {}
                    }
                }
            }
            if let Some((line, position)) = &round.point {
                let line = *line.get(&lines);
                if estate.visible(line, *position) {
                    let position = at(*position);
                    let point = RestorePointRecord { timeline: line.timeline, position, timestamp: time(END) };
                    let record = estate.state.nodes.get_mut(&line.node).unwrap();
                    record.restore_points.insert(format!("p{number}"), point);
                    points.push((line, position.get()));
                }
            }
            estate.state.retention.holds.clear();
            let mut held = None;
            if let Some((line, from, len)) = &round.hold {
                let line = *line.get(&lines);
                let (first, last) = (*from, (from + len).min(END));
                let (node, timeline) = (line.node, line.timeline);
                let scope = HoldScope::Commits { node, timeline, from: at(first), to: Some(at(last)) };
                let hold = Hold { scope, until: None, reason: String::new() };
                estate.state.retention.holds.insert("h".into(), hold);
                held = Some((line, first, last));
            }
            for (line, from) in lines.iter().zip(&round.windows) {
                let window = windows.get_mut(line).unwrap();
                *window = (*window).max(*from);
                estate.logs.get_mut(line).unwrap().windows = vec![(at(*window), None)];
            }
            // The window of a timeline counts as long as the window of the next timeline of its
            // node reaches back to where that begins.
            let mut counts: BTreeMap<Line, bool> = BTreeMap::new();
            for line in lines.iter().rev() {
                let next = lines.iter().find(|next| next.node == line.node && next.timeline > line.timeline);
                let left = next.is_some_and(|next| {
                    let fork = estate.view(next.node).record.fork(next.node, next.timeline).unwrap();
                    !counts[next] || windows[next] > fork.at.get()
                });
                counts.insert(*line, !left);
            }
            let mut wanted: Vec<(Line, u64)> = points.clone();
            wanted.extend(held.into_iter().flat_map(|(line, a, b)| (a..=b).map(move |p| (line, p))));
            for line in lines.iter().filter(|line| counts[line]) {
                let fork = estate.lineage(*line).last().after.get();
                wanted.extend((windows[line].max(fork + 1)..=END).map(|p| (*line, p)));
            }
            wanted.retain(|(line, p)| estate.visible(*line, *p));

            let mut nodes: Vec<NodeId> = estate.state.nodes.keys().copied().collect();
            if round.backwards {
                nodes.reverse();
            }
            for node in &nodes {
                let plan = estate.sweep(*node, round.remove);
                for (line, p) in &wanted {
                    prop_assert!(estate.visible(*line, *p), "{p} of {line:?} is wanted and gone: {plan:?} {estate:?}");
                }
                let again = estate.plan(*node);
                prop_assert!(again.is_empty(), "not all at once: {again:?}");
            }
        }
    }
}

/// A deleted node does not expire while another node depends on one of its commits.
#[test]
fn a_node_that_a_branch_stands_on_does_not_go() {
    let second = NodeId::new(2);
    let mut estate = Estate::new(Origin::Empty, &[], &[10, 20]);
    let fork = Fork { line: Line::new(NODE, FIRST), at: at(15) };
    let branch = NodeRecord { name: "b".into(), branched: Some(fork), ..record(Origin::Existing) };
    estate.state.nodes.insert(second, branch);
    estate.state.nodes.get_mut(&NODE).unwrap().retention.deletion = Deletion::Until(time(1));
    assert_eq!(estate.plan(NODE).blocked, Some(Blocked::Branched("b".into())));
    // By now it is based on a snapshot of its own.
    let own = Span { from: at(20), to: None, base: at(20), log: None };
    estate.state.nodes.get_mut(&second).unwrap().retention.kept.insert(FIRST, vec![own]);
    assert!(estate.plan(NODE).last);
}
