//! The part of a log that can be seen: what has not expired. Pure.

use std::collections::BTreeSet;

use super::SegmentRef;
use crate::format::retention::Span;
use crate::types::Position;

/// The segments that the retained history stands on.
///
/// What has expired may be in the directory for a while yet, and is missing from it later; neither is of any concern to who looks at the log.
#[derive(Debug)]
pub(crate) struct Visible {
    /// In order, each with the length of its file.
    pub segments: Vec<(SegmentRef, u64)>,
    /// Numbers of those after which a stretch goes on.
    continued: BTreeSet<u64>,
}

impl Visible {
    /// Of all segments there are; `kept`: what is left, where something has expired.
    pub fn new(all: Vec<(SegmentRef, u64)>, kept: Option<&[Span]>) -> Visible {
        let mut seen = BTreeSet::new();
        let mut continued = BTreeSet::new();
        let whole = [Span { from: Position::ORIGIN, to: None, base: Position::ORIGIN }];
        for span in kept.unwrap_or(&whole).iter().filter(|s| !s.is_point()) {
            // The segment with the commit of the base is one of them, as is the one after the last, which vouches for the end of that.
            let first = all.partition_point(|(s, _)| s.from < span.base).saturating_sub(1);
            let end = span.to.map_or(all.len(), |to| all.partition_point(|(s, _)| s.from < to) + 1).min(all.len());
            let numbers = || all.iter().take(end).skip(first).map(|(s, _)| s.sequence);
            seen.extend(numbers());
            continued.extend(numbers().take(end.saturating_sub(first).saturating_sub(1)));
        }
        let segments = all.into_iter().filter(|(s, _)| seen.contains(&s.sequence)).collect();
        Visible { segments, continued }
    }

    /// Neighbours between which segments are missing that should be there.
    pub fn gaps(&self) -> impl Iterator<Item = (&SegmentRef, &SegmentRef)> {
        self.pairs().filter(|(a, b)| self.continued.contains(&a.sequence) && b.sequence != a.sequence + 1)
    }

    /// Numbers of the segments that do not follow on the one before them, as what was in between has expired.
    pub fn beginnings(&self) -> BTreeSet<u64> {
        let apart =
            |(a, b): &(&SegmentRef, &SegmentRef)| !self.continued.contains(&a.sequence) && b.sequence != a.sequence + 1;
        self.pairs().filter(apart).map(|(_, b)| b.sequence).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (&SegmentRef, &SegmentRef)> {
        self.segments.iter().zip(self.segments.iter().skip(1)).map(|((a, _), (b, _))| (a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TimelineId;

    fn segments(numbers: impl IntoIterator<Item = u64>) -> Vec<(SegmentRef, u64)> {
        let segment = |n| SegmentRef {
            timeline: TimelineId::new(1),
            sequence: n,
            from: Position::new(n * 10),
            path: n.to_string(),
        };
        numbers.into_iter().map(|n| (segment(n), 1)).collect()
    }

    fn span(base: u64, from: u64, to: Option<u64>) -> Span {
        Span { from: Position::new(from), to: to.map(Position::new), base: Position::new(base) }
    }

    fn numbers(visible: &Visible) -> Vec<u64> {
        visible.segments.iter().map(|(s, _)| s.sequence).collect()
    }

    #[test]
    fn what_has_expired_is_neither_seen_nor_missed() {
        let kept = [span(15, 15, Some(15)), span(20, 25, Some(38)), span(70, 75, None)];
        for there in [segments(0..9), segments([1, 2, 3, 4, 6, 7, 8])] {
            let visible = Visible::new(there, Some(&kept));
            assert_eq!(numbers(&visible), [1, 2, 3, 4, 6, 7, 8]);
            assert_eq!(visible.gaps().count(), 0);
            assert_eq!(visible.beginnings(), BTreeSet::from([6]));
        }
    }

    #[test]
    fn what_is_missing_of_a_stretch_is_a_gap() {
        let gaps = |v: &Visible| v.gaps().map(|(a, b)| (a.sequence, b.sequence)).collect::<Vec<_>>();
        let whole = Visible::new(segments([0, 1, 4, 5]), None);
        assert_eq!((gaps(&whole), whole.beginnings().len()), (vec![(1, 4)], 0));
        let kept = [span(0, 1, Some(38)), span(60, 60, None)];
        let part = Visible::new(segments([0, 1, 3, 4, 5, 6]), Some(&kept));
        assert_eq!((numbers(&part), gaps(&part)), (vec![0, 1, 3, 4, 5, 6], vec![(1, 3)]));
    }
}
