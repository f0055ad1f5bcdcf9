//! What the catalog says of retention: policies, spans of history, holds (`docs/format.md` §8).

use std::ops::Range;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::types::{FileId, NodeId, Position, TimelineId, Timestamp};

/// How long history is kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
#[must_use]
pub struct Policy {
    /// What can be restored.
    #[n(0)]
    pub mode: Mode,
    /// Commits that carry a restore point are kept at least so long, also beyond the window.
    /// Default: no longer than all others.
    #[cbor(n(1), with = "nanos")]
    pub restore_points_for: Duration,
    /// Between the entry that says that files are no longer needed and their removal. At least a
    /// minute, default a day.
    #[cbor(n(2), with = "nanos")]
    pub grace: Duration,
}

/// What can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Mode {
    /// Every commit of the window.
    #[n(0)]
    Continuous {
        /// How far back.
        #[cbor(n(0), with = "nanos")]
        window: Duration,
    },
    /// Snapshots taken at an interval, and the log between them for as long as is said here.
    #[n(1)]
    Periodic {
        /// A snapshot is taken this often. At least a minute.
        #[cbor(n(0), with = "nanos")]
        every: Duration,
        /// Snapshots are kept so long.
        #[cbor(n(1), with = "nanos")]
        keep_for: Duration,
        /// And at least so many of them, whatever their age. At least one.
        #[n(2)]
        keep_count: u32,
        /// Every commit of so long a time can be restored too. Zero: only what the next snapshot
        /// needs.
        #[cbor(n(3), with = "nanos")]
        log_for: Duration,
    },
}

impl Policy {
    /// What was archived before there was any policy is promised for this long when one is set.
    pub const UNSET: Duration = Duration::from_secs(35 * 86_400);

    fn with(mode: Mode) -> Policy {
        Policy { mode, restore_points_for: Duration::ZERO, grace: Duration::from_secs(86_400) }
    }

    /// Every commit of the last so long.
    pub fn continuous(window: Duration) -> Policy {
        Policy::with(Mode::Continuous { window })
    }

    /// Every commit of so many days: 7, 30 and 35 are what managed databases offer.
    pub fn days(days: u32) -> Policy {
        Policy::continuous(Duration::from_secs(u64::from(days) * 86_400))
    }

    /// A snapshot every so often, kept by age and by count; of the log only what the next snapshot
    /// needs.
    pub fn periodic(every: Duration, keep_for: Duration, keep_count: u32) -> Policy {
        Policy::with(Mode::Periodic { every, keep_for, keep_count, log_for: Duration::ZERO })
    }

    /// In periodic mode: every commit of the last so long as well.
    pub fn log_for(mut self, time: Duration) -> Policy {
        if let Mode::Periodic { log_for, .. } = &mut self.mode {
            *log_for = time;
        }
        self
    }

    /// Keeps restore points for longer than everything else.
    pub fn restore_points_for(mut self, time: Duration) -> Policy {
        self.restore_points_for = time;
        self
    }

    /// How long files stay after the entry that gives them up.
    pub fn grace(mut self, grace: Duration) -> Policy {
        self.grace = grace;
        self
    }
}

/// A stretch of history that is kept: each commit from `from` to `to` can be restored, on ground of
/// what begins at `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Span {
    /// The first commit that can be restored.
    #[n(0)]
    pub from: Position,
    /// The last one; none: up to the end of the log.
    #[n(1)]
    pub to: Option<Position>,
    /// The snapshot that replay begins with; the origin: the empty state; of a fork: the fork.
    #[n(2)]
    pub base: Position,
    /// Where the log begins that belongs to it, where that is before the base: with the first
    /// logical record that the pages of the base do not contain.
    #[n(3)]
    pub log: Option<Position>,
}

impl Span {
    /// Whether a commit lies in it.
    pub fn contains(&self, position: Position) -> bool {
        self.from <= position && self.to.is_none_or(|to| position <= to)
    }

    /// Where the log begins that belongs to it.
    pub fn log_from(&self) -> Position {
        self.log.unwrap_or(self.base)
    }

    /// Whether the snapshot alone is what is kept: no log belongs to it.
    pub fn is_point(&self) -> bool {
        self.to == Some(self.log_from())
    }

    /// Which of a timeline's segments belong to it, by index. The segment with the commit of the
    /// base itself is one of them, as it tells that commit's time; so is the one after the last, as
    /// it vouches for the end of that.
    pub fn segments<S>(&self, segments: &[S], from: impl Fn(&S) -> Position) -> Range<usize> {
        if self.is_point() {
            return 0..0;
        }
        let first = match self.log {
            Some(log) => segments.partition_point(|s| from(s) <= log),
            None => segments.partition_point(|s| from(s) < self.base),
        };
        let first = first.saturating_sub(1);
        let end =
            self.to.map_or(segments.len(), |to| segments.partition_point(|s| from(s) < to) + 1);
        first..end.min(segments.len())
    }
}

/// The segments that belong to any of the spans, by index, in order and apart. Those that belong to
/// one span, or to several that share some, are one range: within it nothing may be missing.
pub(crate) fn segments_of<S>(
    spans: &[Span],
    segments: &[S],
    from: impl Fn(&S) -> Position,
) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> =
        spans.iter().map(|span| span.segments(segments, &from)).filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The runs of segments that belong to any of the spans ([`segments_of`]).
pub(crate) fn runs_of<'s, S>(
    spans: &[Span],
    segments: &'s [S],
    from: impl Fn(&S) -> Position,
) -> impl Iterator<Item = &'s [S]> {
    let ranges = segments_of(spans, segments, from).into_iter();
    ranges.map(|range| segments.get(range).expect("a range was cut to the segments it is of"))
}

/// What stays of one timeline, and the segments that go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TimelineExpiry {
    /// The timeline.
    #[n(0)]
    pub timeline: TimelineId,
    /// What can be restored from now on, in order and apart.
    #[n(1)]
    pub kept: Vec<Span>,
    /// First and last number of segments that go.
    #[n(2)]
    pub segments: Vec<(u64, u64)>,
}

/// What a hold keeps from expiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum HoldScope {
    /// Everything in the archive.
    #[n(0)]
    Archive,
    /// Everything of a node.
    #[n(1)]
    Node {
        /// The node.
        #[n(0)]
        node: NodeId,
    },
    /// A stretch of a node's history.
    #[n(2)]
    Commits {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// The timeline.
        #[n(1)]
        timeline: TimelineId,
        /// The first commit.
        #[n(2)]
        from: Position,
        /// The last commit; none: all that come.
        #[n(3)]
        to: Option<Position>,
    },
}

/// Files that nothing needs any more. Segments are named by number in [`TimelineExpiry`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ExpiredFiles {
    /// Layers and snapshots.
    #[n(0)]
    pub layers: Vec<FileId>,
    /// Parts that no layer refers to.
    #[n(1)]
    pub parts: Vec<FileId>,
}

/// What has become of a node or an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Deletion {
    /// It is in use.
    #[n(0)]
    #[default]
    Live,
    /// It is deleted, which can be undone until then.
    #[n(1)]
    Until(#[n(0)] Timestamp),
    /// Its files were given up.
    #[n(2)]
    Final,
}

/// Durations as nanoseconds.
mod nanos {
    use std::time::Duration;

    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    pub fn encode<C, W: Write>(
        time: &Duration,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u64(crate::types::nanos(*time))?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Duration, Error> {
        Ok(Duration::from_nanos(d.u64()?))
    }
}
