//! Which files a state is made of. Pure: a function of what the catalog and the log's names say.

use crate::format::event::LayerRecord;
use crate::types::{Position, TimelineId};

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanInput<'a> {
    pub timeline: TimelineId,
    /// Whether the state before the first commit is known to be empty and the log begins there.
    pub empty_origin: bool,
    /// Snapshots from before are of no use: the log that would lead on from them has expired.
    pub ground: Position,
    pub layers: &'a [LayerRecord],
}

/// The files that a state is rebuilt from: a snapshot, then layers, then log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The snapshot to begin with; `None`: the empty state before the first commit.
    pub base: Option<LayerRecord>,
    /// Layers to apply to it, in order.
    pub deltas: Vec<LayerRecord>,
    /// The log is replayed from here on.
    pub log_from: Position,
    /// The position to reach.
    pub target: Position,
}

/// Plans the way to a position; `None` where nothing that could begin it is left.
pub(crate) fn plan(input: &PlanInput<'_>, target: Position) -> Option<Plan> {
    let layers = || input.layers.iter().filter(|l| l.timeline == input.timeline);
    let fits = |l: &&LayerRecord| l.from.is_none() && l.consistent_from <= target && l.to >= input.ground;
    let base = layers().filter(fits).max_by_key(|l| l.to);
    if base.is_none() && !input.empty_origin {
        return None;
    }
    let mut at = base.map_or(Position::ORIGIN, |b| b.to);
    // What a fuzzy copy holds is exact only once the log up to `consistent_from` is replayed over it: no layer fits on it.
    let exact = base.is_none_or(|b| b.consistent_from == b.to);
    let deltas = if exact { chain(input, at, target) } else { Vec::new() };
    at = deltas.last().map_or(at, |d| d.to);
    Some(Plan { base: base.cloned(), deltas, log_from: at, target })
}

/// The longest layers that lead from one position towards a later one.
pub(crate) fn chain(input: &PlanInput<'_>, from: Position, to: Position) -> Vec<LayerRecord> {
    let mut chain: Vec<LayerRecord> = Vec::new();
    loop {
        let at = chain.last().map_or(from, |l| l.to);
        let fits = |l: &&LayerRecord| l.timeline == input.timeline && l.from == Some(at) && l.to <= to && l.to > at;
        let Some(next) = input.layers.iter().filter(fits).max_by_key(|l| l.to) else { return chain };
        chain.push(next.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FileId, NodeId, Timestamp};

    fn layer(from: Option<u64>, to: u64) -> LayerRecord {
        LayerRecord {
            node: NodeId::new(1),
            timeline: TimelineId::new(1),
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
        let input = PlanInput { timeline: TimelineId::new(1), empty_origin, ground: Position::ORIGIN, layers };
        let plan = plan(&input, Position::new(target))?;
        let to = |l: &LayerRecord| l.to.get();
        Some(plan.base.iter().map(to).chain(plan.deltas.iter().map(to)).chain([plan.log_from.get()]).collect())
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
        let input = |ground| PlanInput {
            timeline: TimelineId::new(1),
            empty_origin: false,
            ground: Position::new(ground),
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
}
