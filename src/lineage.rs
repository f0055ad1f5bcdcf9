//! The path of timelines that a history runs over.
//!
//! A state lies on its own timeline or on an ancestor's, of its own node or of one that it was
//! branched from. A lineage names that path as a value: code that reads the log, plans a restore or
//! decides what expires takes one, and asks nothing else about forks. Pure: never reads the catalog
//! or a file.
//!
//! Invariants: there is at least one section; the oldest comes first; each ends where the next one
//! forks off, at a later position than it began, and the last one has no end.

use crate::types::{NodeId, Position, TimelineId};

/// A timeline of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Line {
    pub node: NodeId,
    pub timeline: TimelineId,
}

impl Line {
    pub fn new(node: NodeId, timeline: TimelineId) -> Line {
        Line { node, timeline }
    }
}

/// A place on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fork {
    pub line: Line,
    pub at: Position,
}

/// The part of one timeline that belongs to a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub line: Line,
    /// The position that its first commit comes after: that of the fork, or the origin.
    pub after: Position,
    /// The last position that belongs to it: that of the next fork.
    pub up_to: Option<Position>,
}

impl Section {
    /// Whether a position does not lie beyond it.
    pub fn reaches(&self, position: Position) -> bool {
        self.up_to.is_none_or(|up_to| position <= up_to)
    }
}

/// The timelines that lead to a state, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lineage {
    sections: Vec<Section>,
}

impl Lineage {
    /// One timeline, from its very beginning on and without what it was forked from.
    pub fn alone(line: Line) -> Lineage {
        Lineage { sections: vec![Section { line, after: Position::ORIGIN, up_to: None }] }
    }

    /// The lineage of a timeline that leaves this one after the commit at a position.
    ///
    /// Where that lies on an ancestor, what came between has no part in it.
    pub fn fork(&self, line: Line, at: Position) -> Lineage {
        let mut sections = self.sections.clone();
        sections.retain(|s| s.after < at);
        if let Some(last) = sections.last_mut() {
            last.up_to = Some(at);
        }
        sections.push(Section { line, after: at, up_to: None });
        Lineage { sections }
    }

    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The newest timeline: the one that the lineage is of.
    pub fn tip(&self) -> Line {
        self.last().line
    }

    /// The section that has no end.
    pub fn last(&self) -> &Section {
        self.sections.last().expect("a lineage is made with one section and never loses its last")
    }

    /// The section that the commit at a position lies on; of the origin: the oldest.
    pub fn at(&self, position: Position) -> &Section {
        self.sections.iter().find(|s| s.reaches(position)).expect("the last section has no end")
    }

    /// The section of a timeline, if that has a part in it.
    pub fn of(&self, line: Line) -> Option<&Section> {
        self.sections.iter().find(|s| s.line == line)
    }

    /// The commit that its own timeline forks off from, and whose commit that is; `None` where it
    /// was not forked.
    pub fn root(&self) -> Option<Fork> {
        let parent = self.sections.iter().rev().nth(1)?;
        Some(Fork { line: parent.line, at: self.last().after })
    }

    /// The section that continues that of a timeline.
    pub fn next(&self, line: Line) -> Option<&Section> {
        self.sections.iter().skip_while(|s| s.line != line).nth(1)
    }

    /// Whether the state at a position of a timeline is one that this lineage runs through.
    pub fn holds(&self, line: Line, position: Position) -> bool {
        self.of(line).is_some_and(|s| s.reaches(position))
    }

    /// The nodes that it runs over, oldest first; one may come more than once.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.sections.iter().map(|s| s.line.node)
    }

    /// What of each section lies after `from` and up to `to`, where anything does.
    pub fn over(
        &self,
        from: Position,
        to: Position,
    ) -> impl Iterator<Item = (&Section, Position, Position)> {
        self.sections.iter().filter_map(move |section| {
            let first = from.max(section.after);
            let last = section.up_to.map_or(to, |up_to| to.min(up_to));
            (first < last).then_some((section, first, last))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::as_index;

    fn line(node: u32, timeline: u32) -> Line {
        Line::new(NodeId::new(node), TimelineId::new(timeline))
    }

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    #[test]
    fn a_fork_below_a_fork_leaves_out_what_came_between() {
        let first = Lineage::alone(line(1, 1));
        let second = first.fork(line(1, 2), at(20));
        let third = second.fork(line(2, 1), at(10));
        let lines =
            |l: &Lineage| l.sections().iter().map(|s| (s.line, s.up_to)).collect::<Vec<_>>();
        assert_eq!(lines(&second), [(line(1, 1), Some(at(20))), (line(1, 2), None)]);
        assert_eq!(lines(&third), [(line(1, 1), Some(at(10))), (line(2, 1), None)]);
        // At the fork itself the state is still the ancestor's.
        assert_eq!(second.at(at(20)).line, line(1, 1));
        assert_eq!(second.at(at(21)).line, line(1, 2));
        let same = second.fork(line(1, 3), at(20));
        assert_eq!(lines(&same), [(line(1, 1), Some(at(20))), (line(1, 3), None)]);
        // Before the first commit nothing is shared.
        assert_eq!(lines(&first.fork(line(1, 2), at(0))), [(line(1, 2), None)]);
    }

    proptest! {
        /// Against histories written out commit by commit.
        #[test]
        fn a_lineage_is_the_history_that_its_forks_make(
            forks in prop::collection::vec((any::<prop::sample::Index>(), 0..40u64), 0..8),
            (from, len) in (0..40u64, 0..40u64),
        ) {
            // The history of a timeline: whose commit each of its positions is.
            let mut all = vec![(Lineage::alone(line(1, 1)), vec![line(1, 1); 40])];
            for (number, (parent, fork)) in (2..).zip(&forks) {
                let new = line(number / 2 + 1, number);
                let (lineage, history) = parent.get(&all);
                let mut own = history[..as_index(*fork)].to_vec();
                own.resize(40, new);
                all.push((lineage.fork(new, at(*fork)), own));
            }
            for (lineage, history) in &all {
                for (position, owner) in (1..).map(at).zip(history) {
                    prop_assert_eq!(lineage.at(position).line, *owner);
                }
                let to = (from + len).min(40);
                let over = lineage.over(at(from), at(to));
                let read: Vec<Line> =
                    over.flat_map(|(s, a, b)| (a.get()..b.get()).map(|_| s.line)).collect();
                prop_assert_eq!(&read[..], history.get(as_index(from)..as_index(to)).unwrap_or_default());
                for (other, theirs) in &all {
                    for position in 0..=40usize {
                        let shared = theirs[..position] == history[..position];
                        let holds = lineage.holds(other.tip(), at(position as u64));
                        prop_assert!(!holds || shared, "{lineage:?} holds {position} of {other:?}");
                    }
                }
                let (tip, own) = (lineage.tip(), lineage.last().after);
                prop_assert!(lineage.holds(tip, at(40)) && lineage.sections().iter().all(|s| s.after <= own));
            }
        }
    }
}
