//! Which files a state is made of. Pure: a function of what the catalog and the log's names say.

use crate::format::event::LayerRecord;
use crate::lineage::Lineage;
use crate::types::Position;

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanInput<'a> {
    /// The timelines that lead to the state.
    pub lineage: &'a Lineage,
    /// Whether the state before the first commit is known to be empty and the log begins there.
    pub empty_origin: bool,
    /// Snapshots from before are of no use: the log that would lead on from them has expired.
    pub replay_floor: Position,
    /// Layers of each node that the lineage runs over. Those of states that it does not run through
    /// are passed by.
    pub layers: &'a [&'a LayerRecord],
}

impl<'a> PlanInput<'a> {
    /// The layers that hold nothing but what the lineage runs through. A fuzzy copy also holds what
    /// was committed until it was consistent.
    fn usable(&self) -> impl Iterator<Item = &'a LayerRecord> {
        let lineage = self.lineage;
        self.layers
            .iter()
            .copied()
            .filter(move |l| lineage.holds(l.line(), l.to.max(l.consistent_from)))
    }
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
    let fits = |l: &&LayerRecord| {
        l.from.is_none() && l.consistent_from <= target && l.to >= input.replay_floor
    };
    let base = input.usable().filter(fits).max_by_key(|l| l.to);
    if base.is_none() && !input.empty_origin {
        return None;
    }
    let mut at = base.map_or(Position::ORIGIN, |b| b.to);
    // What a fuzzy copy holds is exact only once the log up to `consistent_from` is replayed over
    // it: no layer fits on it.
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
        let fits = |l: &&LayerRecord| l.from == Some(at) && l.to <= to && l.to > at;
        let Some(next) = input.usable().filter(fits).max_by_key(|l| l.to) else { return chain };
        chain.push(next.clone());
    }
}

#[cfg(test)]
mod tests;
