//! Plans for one timeline step by step, and for forks of forks against histories written out.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::lineage::Line;
use crate::types::{FileId, NodeId, TimelineId, Timestamp};

const ONLY: Line = Line { node: NodeId::new(1), timeline: TimelineId::FIRST };

fn layer(from: Option<u64>, to: u64) -> LayerRecord {
    LayerRecord {
        node: ONLY.node,
        timeline: ONLY.timeline,
        file: FileId::default(),
        from: from.map(Position::new),
        to: Position::new(to),
        consistent_from: Position::new(to),
        timestamp: Timestamp::ZERO,
        level: 0,
        bytes: 0,
        length: 0,
        commitment: [0; 32],
        entries: 0,
    }
}

fn steps(layers: &[LayerRecord], empty_origin: bool, target: u64) -> Option<Vec<u64>> {
    let (lineage, layers) = (Lineage::alone(ONLY), layers.iter().collect::<Vec<_>>());
    let input = PlanInput {
        lineage: &lineage,
        empty_origin,
        replay_floor: Position::ORIGIN,
        layers: &layers,
    };
    let plan = plan(&input, Position::new(target))?;
    let to = |l: &LayerRecord| l.to.get();
    Some(
        plan.base
            .iter()
            .map(to)
            .chain(plan.deltas.iter().map(to))
            .chain([plan.log_from.get()])
            .collect(),
    )
}

#[test]
fn the_longest_layers_on_the_newest_snapshot() {
    let layers = [
        layer(None, 10),
        layer(Some(10), 20),
        layer(Some(20), 30),
        layer(Some(10), 30),
        layer(None, 40),
        layer(Some(30), 40),
    ];
    assert_eq!(steps(&layers, false, 9), None);
    assert_eq!(steps(&layers, true, 9), Some(vec![0]));
    assert_eq!(steps(&layers, true, 19), Some(vec![10, 10]));
    assert_eq!(steps(&layers, true, 29), Some(vec![10, 20, 20]));
    assert_eq!(steps(&layers, true, 39), Some(vec![10, 30, 30]));
    assert_eq!(steps(&layers, true, 99), Some(vec![40, 40]));
}

#[test]
fn nothing_from_below_the_ground_is_used() {
    let layers = [layer(None, 10), layer(None, 40)];
    let (lineage, layers) = (Lineage::alone(ONLY), layers.iter().collect::<Vec<_>>());
    let input = |replay_floor| PlanInput {
        lineage: &lineage,
        empty_origin: false,
        replay_floor: Position::new(replay_floor),
        layers: &layers,
    };
    assert!(plan(&input(10), Position::new(15)).is_some());
    assert!(plan(&input(11), Position::new(15)).is_none());
    assert!(plan(&input(40), Position::new(45)).is_some());
}

#[test]
fn a_fuzzy_snapshot_serves_from_its_end_on_and_carries_no_layers() {
    let fuzzy = LayerRecord { consistent_from: Position::new(15), ..layer(None, 10) };
    let layers = [fuzzy, layer(Some(10), 20)];
    assert_eq!(steps(&layers, false, 14), None);
    assert_eq!(steps(&layers, false, 15), Some(vec![10, 10]));
    assert_eq!(steps(&layers, false, 25), Some(vec![10, 10]));
}

/// A timeline and its history: whose commit each of its positions is.
#[derive(Debug)]
struct Told {
    lineage: Lineage,
    commits: Vec<Line>,
}

const END: usize = 30;

impl Told {
    /// What leads to a position.
    fn up_to(&self, position: Position) -> &[Line] {
        &self.commits[..usize::try_from(position.get()).unwrap()]
    }
}

fn tree(forks: &[(Index, usize)]) -> Vec<Told> {
    let mut all = vec![Told { lineage: Lineage::alone(ONLY), commits: vec![ONLY; END] }];
    for (number, (parent, fork)) in (2..).zip(forks) {
        // About every other one is of a node of its own.
        let line = Line::new(NodeId::new(number / 2 + 1), TimelineId::new(number));
        let parent = parent.get(&all);
        let mut commits = parent.commits[..*fork].to_vec();
        commits.resize(END, line);
        all.push(Told { lineage: parent.lineage.fork(line, Position::new(*fork as u64)), commits });
    }
    all
}

/// A layer as drawn: of which timeline, to where, from how far before (0: a snapshot), and how long
/// a snapshot took.
type Drawn = (Index, u64, u64, u64);

fn build(all: &[Told], drawn: &[Drawn]) -> Vec<LayerRecord> {
    let layers = drawn.iter().map(|(told, to, len, took)| {
        let line = told.get(all).lineage.tip();
        let from = (*len > 0).then(|| to.saturating_sub(*len));
        let consistent_from = if *len == 0 { (to + took).min(END as u64) } else { *to };
        let consistent_from = Position::new(consistent_from);
        LayerRecord {
            node: line.node,
            timeline: line.timeline,
            consistent_from,
            ..layer(from, *to)
        }
    });
    layers.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    /// Forks of forks, within a node and across nodes: a plan uses nothing that another history
    /// made, and the best of what its own did.
    #[test]
    fn a_plan_follows_its_lineage(
        forks in prop::collection::vec((any::<Index>(), 0..END), 0..7),
        drawn in prop::collection::vec((any::<Index>(), 1..END as u64, 0..8u64, prop_oneof![3 => Just(0), 1 => 1..6u64]), 0..25),
        replay_floor in prop_oneof![Just(0), 0..END as u64],
        empty_origin in any::<bool>(),
        target in 1..END as u64,
    ) {
        let all = tree(&forks);
        let layers = build(&all, &drawn);
        let refs: Vec<&LayerRecord> = layers.iter().collect();
        let (replay_floor, target) = (Position::new(replay_floor), Position::new(target));
        for told in &all {
            let input = PlanInput { lineage: &told.lineage, empty_origin, replay_floor, layers: &refs };
            // Whether what a layer holds was made by commits that this history has too.
            let own = |l: &LayerRecord| {
                let maker = all.iter().find(|t| t.lineage.tip() == l.line()).unwrap();
                let last = l.to.max(l.consistent_from);
                maker.up_to(last) == told.up_to(last) && told.lineage.of(l.line()).is_some()
            };
            let bases = layers.iter().filter(|l| {
                l.from.is_none() && own(l) && l.consistent_from <= target && l.to >= replay_floor
            });
            let best = bases.map(|l| l.to).max();
            let Some(plan) = plan(&input, target) else {
                prop_assert!(best.is_none() && !empty_origin);
                continue;
            };
            prop_assert_eq!(plan.base.as_ref().map(|l| l.to), best);
            prop_assert!(plan.base.iter().chain(&plan.deltas).all(own), "{plan:?} of {told:?}");
            // Layers follow on each other, and the log goes on where they end.
            let mut at = best.unwrap_or_default();
            for delta in &plan.deltas {
                prop_assert_eq!(delta.from, Some(at));
                at = delta.to;
            }
            prop_assert_eq!((plan.log_from, plan.target), (at, target));
            prop_assert!(at <= target);
            // No layer is left out that would have led further, but on a copy that is not exact.
            let exact = plan.base.as_ref().is_none_or(|b| b.consistent_from == b.to);
            let more = layers.iter().any(|l| l.from == Some(at) && l.to > at && l.to <= target && own(l));
            prop_assert!(!more || !exact && plan.deltas.is_empty(), "{plan:?}");
        }
    }
}
