//! A node with the nodes that it was branched from: what the catalog says along its lineages.
//!
//! Owns how lineages follow from forks, and what is left of a lineage. Pure: it only reads a state.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::state::{CatalogState, NodeRecord};
use crate::error::Result;
use crate::format::event::{LayerRecord, Origin};
use crate::format::retention::{Deletion, Span};
use crate::lineage::{Fork, Line, Lineage, Section};
use crate::types::{NodeId, Position, TimelineId};

/// A node, as the catalog knows it, and the nodes that it was branched from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeView<'a> {
    pub id: NodeId,
    pub record: &'a NodeRecord,
    /// All nodes that a lineage of this node runs over; others may be among them.
    pub ancestors: &'a BTreeMap<NodeId, NodeRecord>,
}

impl CatalogState {
    pub fn view(&self, id: NodeId) -> Result<NodeView<'_>> {
        Ok(NodeView { id, record: self.node(id)?, ancestors: &self.nodes })
    }

    /// The lineages that run over the log of a node: those of its own timelines, and of the nodes
    /// that were branched from it.
    pub fn lineages_over(&self, id: NodeId) -> Vec<Lineage> {
        let mut found = Vec::new();
        // A node whose files were given up depends on nothing any more.
        let live = |record: &NodeRecord| record.retention.deletion != Deletion::Final;
        for (node, record) in self
            .nodes
            .iter()
            .filter(|(node, record)| **node == id || record.branched.is_some() && live(record))
        {
            let view = NodeView { id: *node, record, ancestors: &self.nodes };
            let lineages = view.timelines().into_iter().map(|timeline| view.lineage(timeline));
            found.extend(lineages.filter(|lineage| lineage.nodes().any(|node| node == id)));
        }
        found
    }

    /// The nodes that this one was branched from.
    pub fn ancestors(&self, id: NodeId) -> BTreeMap<NodeId, NodeRecord> {
        let branched =
            |id| self.nodes.get(&id).and_then(|record| record.branched).map(|fork| fork.line.node);
        let line = std::iter::successors(branched(id), |id| branched(*id));
        line.filter_map(|id| Some((id, self.nodes.get(&id)?.clone()))).collect()
    }
}

impl<'a> NodeView<'a> {
    fn record_of(&self, node: NodeId) -> &'a NodeRecord {
        let record = if node == self.id { Some(self.record) } else { self.ancestors.get(&node) };
        record.expect("a branch is made of a node that there is, and no entry of the catalog goes")
    }

    /// Its timelines, oldest first.
    pub fn timelines(&self) -> Vec<TimelineId> {
        self.record.timelines()
    }

    /// The timelines that lead to the newest state of one of the node's own timelines.
    pub fn lineage(&self, timeline: TimelineId) -> Lineage {
        let mut line = Line::new(self.id, timeline);
        let mut forks = Vec::new();
        // A parent is an older timeline, or one of an older node, so this loop ends.
        while let Some(fork) = self.record_of(line.node).fork(line.node, line.timeline) {
            forks.push((line, fork.at));
            line = fork.line;
        }
        forks
            .iter()
            .rev()
            .fold(Lineage::alone(line), |lineage, (line, at)| lineage.fork(*line, *at))
    }

    /// Whether something that is left of a timeline depends on the commit that the timeline forks
    /// off from.
    pub fn stands_on_fork(&self, lineage: &Lineage) -> bool {
        let Section { line, after, .. } = *lineage.last();
        self.kept_of(line).is_none_or(|spans| spans.iter().any(|s| s.base == after))
    }

    /// Whether the log holds everything from the first commit of a lineage on.
    pub fn origin(&self, lineage: &Lineage) -> Origin {
        self.record_of(lineage.at(Position::ORIGIN).line.node).origin
    }

    /// Layers and snapshots of the states along a lineage, by node, in order of publication.
    pub fn layers(&self, lineage: &Lineage) -> Vec<&'a LayerRecord> {
        let mut nodes: Vec<NodeId> = lineage.nodes().collect();
        nodes.dedup();
        let all = nodes.into_iter().flat_map(|node| &self.record_of(node).layers);
        all.filter(|l| lineage.holds(l.line(), l.to.max(l.consistent_from))).collect()
    }

    /// The position that the log of a lineage must reach.
    pub fn durable_end(&self, lineage: &Lineage) -> Position {
        self.record
            .durable
            .get(&lineage.tip().timeline)
            .copied()
            .unwrap_or_default()
            .max(lineage.last().after)
    }

    /// What can be restored of a timeline; `None` if nothing of it has expired.
    pub fn kept_of(&self, line: Line) -> Option<&'a [Span]> {
        self.record_of(line.node).retention.kept(line.timeline)
    }

    /// What can be restored of a lineage, in order and disjoint; `None` if nothing of it has
    /// expired. If a span is based on a fork, its base is that of the ancestor's span that leads to
    /// the fork.
    pub fn kept(&self, lineage: &Lineage) -> Option<Cow<'a, [Span]>> {
        if let [only] = lineage.sections() {
            return self.kept_of(only.line).map(Cow::Borrowed);
        }
        if lineage.sections().iter().all(|s| self.kept_of(s.line).is_none()) {
            return None;
        }
        let mut kept: Vec<Span> = Vec::new();
        for section in lineage.sections() {
            let spans = match self.kept_of(section.line) {
                Some(spans) => Cow::Borrowed(spans),
                None => Cow::Owned(self.whole(lineage, section).into_iter().collect()),
            };
            let under = kept.last().filter(|s| s.to == Some(section.after)).copied();
            for span in spans.iter().filter(|s| section.reaches(s.from)) {
                let to = match (span.to, section.up_to) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                let under = under.filter(|_| span.base == section.after);
                match kept.last_mut() {
                    // The span continues over the fork.
                    Some(last)
                        if under.is_some()
                            && last
                                .to
                                .is_some_and(|end| span.from == Position::from(end.next_lsn())) =>
                    {
                        last.to = to;
                    }
                    _ => {
                        let (base, log) = under.map_or((span.base, span.log), |u| (u.base, u.log));
                        kept.push(Span { from: span.from, to, base, log });
                    }
                }
            }
        }
        Some(Cow::Owned(kept))
    }

    /// All of a section of which nothing has expired; `None` before its first base snapshot.
    fn whole(&self, lineage: &Lineage, section: &Section) -> Option<Span> {
        let root = section.line == lineage.at(Position::ORIGIN).line;
        let first = Position::from(section.after.next_lsn());
        let from = if root && self.origin(lineage) == Origin::Existing {
            let snapshots = self.layers(lineage).into_iter().filter(|l| l.from.is_none());
            snapshots.map(|l| l.consistent_from).min()?.max(first)
        } else {
            first
        };
        Some(Span { from, to: None, base: section.after, log: None })
    }

    /// How far back history reaches that leads to a position: nothing from before can be used for
    /// it. `None` if the position has expired.
    pub fn replay_floor(&self, lineage: &Lineage, to: Position) -> Option<Position> {
        let Some(kept) = self.kept(lineage) else { return Some(Position::ORIGIN) };
        let leads = |s: &&Span| s.base <= to && s.to.is_none_or(|end| to <= end);
        kept.iter().filter(leads).map(|s| s.base).min()
    }
}

impl NodeRecord {
    /// Its timelines, oldest first.
    pub(crate) fn timelines(&self) -> Vec<TimelineId> {
        std::iter::once(TimelineId::FIRST).chain(self.parents.keys().copied()).collect()
    }

    /// Whether each timeline but the first was forked from an older one that exists.
    pub(crate) fn is_rooted(&self) -> bool {
        let there_is =
            |timeline| timeline == TimelineId::FIRST || self.parents.contains_key(&timeline);
        let mut forks = self.parents.iter();
        forks.all(|(timeline, (parent, _))| parent < timeline && there_is(*parent))
            && there_is(self.timeline)
    }

    /// Where a timeline of this node, with number `id`, forks off; `None` if nothing comes before
    /// it.
    pub(crate) fn fork(&self, id: NodeId, timeline: TimelineId) -> Option<Fork> {
        let own = self.parents.get(&timeline);
        own.map(|(parent, at)| Fork { line: Line::new(id, *parent), at: *at }).or(self.branched)
    }
}
