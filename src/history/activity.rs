//! Commits and bytes over time, gaps and annotations, for a chart of a node's history.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{CommitInfo, segment_runs};
use crate::catalog::NodeView;
use crate::error::{Error, Result};
use crate::format::retention::Span;
use crate::options::Cancel;
use crate::types::{Commit, Position, Timestamp};
use crate::wal::{Log, SegmentRef, Visit};

/// How closely to look at the activity of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub struct ActivityOptions {
    /// The number of intervals of equal length that the time is divided into. 1 to 10,000, default
    /// 120.
    pub buckets: usize,
    /// This many bytes at the end of the log are read commit by commit. Before them, only the
    /// beginnings of segments are read. Default 64 MiB: a few tens of milliseconds.
    pub scan_bytes: u64,
    /// The most beginnings of segments to read, evenly spread. Default 1,024: under a tenth of a
    /// second.
    pub samples: usize,
    /// Ends the call early.
    pub cancel: Cancel,
}

impl Default for ActivityOptions {
    fn default() -> ActivityOptions {
        ActivityOptions {
            buckets: 120,
            scan_bytes: 64 << 20,
            samples: 1_024,
            cancel: Cancel::new(),
        }
    }
}

/// What happened to a node over time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Activity {
    /// The beginning of the first bucket: where what is left of the log begins.
    pub from: Timestamp,
    /// The end of the last bucket: the time until which no further commit is known to have
    /// happened.
    pub to: Timestamp,
    /// Intervals of equal length, oldest first.
    pub buckets: Vec<Bucket>,
    /// After this position every commit was read. Before it, commits and bytes are spread evenly
    /// between the beginnings of segments, and annotations are not found.
    pub exact_from: Position,
    /// The annotations of commits after `exact_from`, such as resynchronisations.
    pub annotations: Vec<Annotation>,
    /// Places where segments are missing that have not expired.
    pub gaps: Vec<Gap>,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// An interval of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Bucket {
    /// Commits in it; a fraction if they were not read one by one.
    pub commits: f64,
    /// Bytes of log in it.
    pub bytes: f64,
}

/// A remark that a commit carries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Annotation {
    /// The commit.
    pub commit: Commit,
    /// What it is about, such as `resync`.
    pub key: String,
    /// What it says.
    pub text: String,
}

/// A place where segments are missing: nothing after `after` up to `until` can be restored from the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The commit before the last segment that is present before the gap. Where that segment really
    /// ends is recorded only in its lost successor.
    pub after: Position,
    /// The log continues after this position.
    pub until: Position,
    /// The time of the commit at `after`; zero if it cannot be read.
    pub from: Timestamp,
    /// The time of the commit at `until`; zero if it cannot be read.
    pub to: Timestamp,
}

/// Neighbouring segments between which others are missing, by their names.
pub(crate) fn gaps(
    segments: &[(SegmentRef, u64)],
) -> impl Iterator<Item = (&SegmentRef, &SegmentRef)> {
    let pairs = segments.iter().zip(segments.iter().skip(1));
    pairs.map(|((a, _), (b, _))| (a, b)).filter(|(a, b)| !a.is_continued_by(b))
}

/// The time of the commit that a segment begins after; zero if it cannot be read.
fn begins(log: &Log, segment: &SegmentRef) -> Timestamp {
    log.open(segment).map_or(Timestamp::ZERO, |reader| reader.preface().state.timestamp)
}

impl Gap {
    fn between(log: &Log, before: &SegmentRef, behind: &SegmentRef) -> Gap {
        Gap {
            after: before.from,
            until: behind.from,
            from: begins(log, before),
            to: begins(log, behind),
        }
    }

    /// The gap if the beginning of the log is missing.
    fn before(log: &Log, after: Position, first: &SegmentRef) -> Gap {
        Gap { after, until: first.from, from: Timestamp::ZERO, to: begins(log, first) }
    }
}

/// Commits and bytes between two moments.
#[derive(Clone, Copy, Debug)]
struct Count {
    from: Timestamp,
    to: Timestamp,
    commits: f64,
    bytes: f64,
}

/// Reads a log. Damage is left out of the chart: [`verify`](crate::Node::verify) reports it.
pub(crate) fn activity(
    log: &Log,
    view: &NodeView<'_>,
    end: (Position, Timestamp),
    options: &ActivityOptions,
) -> Result<Activity> {
    let runs = segment_runs(log, view)?;
    let kept = view.kept(&log.lineage);
    let segments = runs.concat();
    let bytes = segments.iter().map(|(_, len)| len).sum();
    let mut left = options.scan_bytes;
    let mut scanned = segments.len();
    while let Some((_, len)) = scanned.checked_sub(1).and_then(|i| segments.get(i)) {
        // The newest segment is always read: nothing else records its times.
        if *len > left && scanned < segments.len() {
            break;
        }
        left = left.saturating_sub(*len);
        scanned -= 1;
    }
    let (older, newer) = segments.split_at(scanned);
    let mut found = sampled(log, older, newer, options)?;
    let mut annotations = Vec::new();
    for (segment, len) in newer {
        options.cancel.check()?;
        scan(log, kept.as_deref(), segment, *len, &mut found, &mut annotations)?;
    }
    let from = found.iter().map(|s| s.from).filter(|t| *t > Timestamp::ZERO).min().unwrap_or(end.1);
    let to = found.iter().map(|s| s.to).fold(end.1, Timestamp::max).max(from);
    let mut buckets = vec![Bucket::default(); options.buckets.clamp(1, 10_000)];
    for s in &found {
        spread(s, from, to, &mut buckets);
    }
    let exact_from = newer.first().map_or(end.0, |(s, _)| s.from);
    let lost =
        segments.first().filter(|(first, _)| kept.is_none() && first.from > Position::ORIGIN);
    let lost = lost.map(|(first, _)| Gap::before(log, Position::ORIGIN, first));
    let between = runs
        .iter()
        .flat_map(|run| gaps(run))
        .map(|(before, behind)| Gap::between(log, before, behind));
    let gaps = lost.into_iter().chain(between).collect();
    Ok(Activity {
        from,
        to,
        buckets,
        exact_from,
        annotations,
        gaps,
        segments: segments.len() as u64,
        bytes,
    })
}

/// What the beginnings of some segments say about the time between them.
fn sampled(
    log: &Log,
    older: &[(SegmentRef, u64)],
    newer: &[(SegmentRef, u64)],
    options: &ActivityOptions,
) -> Result<Vec<Count>> {
    let step = older.len().div_ceil(options.samples.max(1)).max(1);
    let mut counts = Vec::new();
    let mut last: Option<(Position, Timestamp)> = None;
    let mut bytes = 0;
    let mut before = None;
    for (i, (segment, len)) in older.iter().chain(newer.first()).enumerate() {
        // Nothing is spread over missing segments.
        let anew = before.is_some_and(|before: &SegmentRef| !before.is_continued_by(segment));
        before = Some(segment);
        if anew {
            (last, bytes) = (None, 0);
        }
        if anew || i % step == 0 || i == older.len() {
            options.cancel.check()?;
            match log.open(segment) {
                Ok(reader) => {
                    let state = &reader.preface().state;
                    if let Some((position, from)) = last {
                        let commits = state.position.get().saturating_sub(position.get());
                        counts.push(Count {
                            from,
                            to: state.timestamp,
                            commits: count(commits),
                            bytes: count(bytes),
                        });
                    }
                    (last, bytes) = (Some((state.position, state.timestamp)), 0);
                }
                Err(e) if e.is_damage() => {}
                Err(e) => return Err(e),
            }
        }
        bytes += len;
    }
    Ok(counts)
}

/// Reads a segment commit by commit.
fn scan(
    log: &Log,
    kept: Option<&[Span]>,
    segment: &SegmentRef,
    len: u64,
    counts: &mut Vec<Count>,
    annotations: &mut Vec<Annotation>,
) -> Result<()> {
    // Commits of the same millisecond are one interval: there may be millions.
    let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut commit = CommitInfo::new();
    let mut changes = 0;
    let mut read = |log: &Log| -> Result<u64> {
        let reader = log.open(segment)?;
        let end =
            log.scan(&reader, segment.from, log.successor_says(segment)?.as_ref(), &mut |visit| {
                match visit {
                    Visit::Partial { ops, offset, .. } => commit.add(ops, reader.path(), offset)?,
                    Visit::Commit { lsn, timestamp, ops, offset } => {
                        commit.add(ops, reader.path(), offset)?;
                        let commit = std::mem::replace(&mut commit, CommitInfo::new());
                        changes += commit.bytes;
                        // An expired commit is there only for those that follow it in the segment.
                        if kept.is_some_and(|spans| {
                            !spans.iter().any(|s| !s.is_point() && s.contains(lsn.into()))
                        }) {
                            return Ok(true);
                        }
                        let entry = found.entry(timestamp.as_nanos() / 1_000_000).or_default();
                        *entry = (entry.0 + 1, entry.1 + commit.bytes);
                        annotations.extend(commit.annotations.into_iter().map(|(key, text)| {
                            Annotation { commit: Commit { lsn, timestamp }, key, text }
                        }));
                    }
                    Visit::Tick => {}
                }
                Ok(true)
            })?;
        Ok(end.facts.length)
    };
    let length = match read(log) {
        Ok(length) => length,
        Err(e) if e.is_damage() || matches!(e, Error::Gap { .. }) => len,
        Err(e) => return Err(e),
    };
    // The overhead of frames is divided among the commits.
    let scale = if changes == 0 { 0.0 } else { count(length) / count(changes) };
    counts.extend(found.into_iter().map(|(milli, (commits, bytes))| {
        let at = Timestamp::from_nanos(milli.saturating_mul(1_000_000));
        Count { from: at, to: at, commits: count(commits), bytes: count(bytes) * scale }
    }));
    Ok(())
}

/// Adds an interval to the buckets that it overlaps, by its share of each.
fn spread(s: &Count, from: Timestamp, to: Timestamp, buckets: &mut [Bucket]) {
    let width = count(to.as_nanos() - from.as_nanos()) / count(buckets.len() as u64);
    let begin = |i: usize| count(i as u64) * width;
    let place = |t: Timestamp| count(t.as_nanos().saturating_sub(from.as_nanos()));
    let (a, b) = (place(s.from), place(s.to));
    let last = buckets.len() - 1;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and cut to the last bucket"
    )]
    let index = |x: f64| if width > 0.0 { ((x / width) as usize).min(last) } else { 0 };
    let (first, end) = (index(a), index(b));
    for (i, bucket) in buckets.iter_mut().enumerate().take(end + 1).skip(first) {
        let share = if b > a && width > 0.0 {
            (begin(i + 1).min(b) - begin(i).max(a)) / (b - a)
        } else {
            1.0
        };
        bucket.commits += s.commits * share.clamp(0.0, 1.0);
        bucket.bytes += s.bytes * share.clamp(0.0, 1.0);
    }
}

/// For a chart, 52 bits are enough.
#[expect(clippy::cast_precision_loss, reason = "shares and sums for a picture")]
fn count(n: u64) -> f64 {
    n as f64
}

impl Activity {
    /// The length of a bucket.
    pub fn bucket_length(&self) -> Duration {
        let nanos = self.to.as_nanos() - self.from.as_nanos();
        Duration::from_nanos(nanos / (self.buckets.len().max(1) as u64))
    }
}
