//! What a target means: the one commit that it names.

use crate::catalog::NodeView;
use crate::error::{Error, Result, describe};
use crate::format::codec::Reader;
use crate::format::event::{LayerRecord, Origin};
use crate::format::record::Op;
use crate::format::retention::Span;
use crate::format::state::NodeState;
use crate::types::{Commit, Lsn, Position, Target, TimelineId, Timestamp};
use crate::wal::{Log, SegmentRef, Visit};

/// The state that a target names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The timeline that it was found on the way to. The commit itself may be of one that this was
    /// forked from.
    pub timeline: TimelineId,
    /// The last commit of the state.
    pub lsn: Lsn,
    /// Its time.
    pub timestamp: Timestamp,
    /// Time of the next commit; `None` where there is none yet, or where it is damaged.
    pub next: Option<Timestamp>,
}

/// The earliest and latest state that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// The earliest commit.
    pub earliest: Commit,
    /// The latest commit.
    pub latest: Commit,
    /// Until when it is known that no further commit happened: the latest time that can be asked
    /// for.
    pub known_until: Timestamp,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub position: Position,
    pub timestamp: Timestamp,
    pub known_until: Timestamp,
    /// Whether the commits before it were read, or a seal was believed.
    read: bool,
}

/// Finds the end of the log. What it finds is durable when it returns, even if another process has
/// only just written it.
///
/// The catalog may speak of a later position than the log holds: then the newest segments are lost
/// or put back to an older state.
pub(crate) fn log_end(log: &Log, view: &NodeView<'_>) -> Result<LogEnd> {
    let end = newest_commit(log, view)?;
    log.check_end(end.position, view.durable_end(&log.lineage))?;
    Ok(end)
}

/// Where the log can be read to, and what is wrong with it beyond that.
pub(crate) fn readable_end(log: &Log, view: &NodeView<'_>) -> Result<(LogEnd, Option<Error>)> {
    match newest_commit(log, view) {
        Ok(end) => Ok((end, log.check_end(end.position, view.durable_end(&log.lineage)).err())),
        Err(damage) if damage.is_damage() => {
            // The beginning of the damaged segment says where the ones before it end.
            let mut segment = log.newest()?;
            while let Some(s) = segment {
                if let Ok(reader) = log.open(&s) {
                    return Ok((LogEnd::of(&reader.preface().state), Some(damage)));
                }
                // By number as well: one that holds no commit begins where the next one does.
                segment = log
                    .last_where(|other| Ok((other.from, other.sequence) < (s.from, s.sequence)))?;
            }
            Err(damage)
        }
        Err(e) => Err(e),
    }
}

impl LogEnd {
    fn of(state: &NodeState) -> LogEnd {
        LogEnd {
            position: state.position,
            timestamp: state.timestamp,
            known_until: state.known_until,
            read: false,
        }
    }
}

/// Where a log ends that nothing else is known of.
pub(crate) fn newest_commit(log: &Log, view: &NodeView<'_>) -> Result<LogEnd> {
    let newest = log.newest()?.filter(|s| s.line == log.lineage.tip());
    let Some(newest) = newest else {
        // Nothing was written to its own timeline yet: the fork is the end.
        let Some(fork) = log.lineage.last().after.lsn() else {
            return Ok(LogEnd::of(&NodeState::default()));
        };
        let timestamp = commit_time(log, view, fork)?;
        return Ok(LogEnd { position: fork.into(), timestamp, known_until: timestamp, read: true });
    };
    log.read_durable(&newest, |reader| {
        if let Some(seal) = reader.seal() {
            return Ok(LogEnd::of(&seal.state));
        }
        let end = reader.scan(newest.from, None, &mut |_| Ok(true))?;
        Ok(LogEnd {
            position: end.position,
            timestamp: end.timestamp,
            known_until: end.known_until,
            read: true,
        })
    })
}

/// The earliest position from which on everything can be restored; `None` where nothing can.
fn earliest(log: &Log, view: &NodeView<'_>) -> Result<Option<Position>> {
    if let Some(kept) = view.kept(&log.lineage) {
        return Ok(kept.iter().find(|s| s.to.is_none()).map(|s| s.from));
    }
    let layers = view.layers(&log.lineage).into_iter();
    let snapshots = layers.filter(|l| l.from.is_none()).map(|l| l.consistent_from).min();
    let complete = view.origin(&log.lineage) == Origin::Empty
        && log.oldest()?.is_some_and(|s| s.from == Position::ORIGIN);
    // A snapshot of nothing serves from the first commit on.
    Ok(if complete { Some(Lsn::FIRST.into()) } else { snapshots.map(|s| s.max(Lsn::FIRST.into())) })
}

/// What of the beginning of a log, or of one of its timelines, is lost: nothing of that has
/// expired, and its first segment is not there.
pub(crate) fn lost_beginning(log: &Log, view: &NodeView<'_>) -> Result<Option<Error>> {
    for (stretch, first) in log.beginnings()? {
        if let Some(first) = first.filter(|first| first.from > stretch.after)
            && view.kept_of(stretch.line).is_none()
        {
            let (node, expected) = (view.record.name.clone(), stretch.after.next_lsn());
            return Ok(Some(Error::Gap { node, expected, found: first.from }));
        }
    }
    Ok(None)
}

/// The restorable window; an error that says why where there is none.
pub(crate) fn window(log: &Log, view: &NodeView<'_>, target: &Target) -> Result<Window> {
    window_up_to(log, view, target, log_end(log, view)?, false)
}

fn window_up_to(
    log: &Log,
    view: &NodeView<'_>,
    target: &Target,
    end: LogEnd,
    lenient: bool,
) -> Result<Window> {
    let before = |earliest: String| Error::BeforeWindow { target: target.clone(), earliest };
    let Some(latest) = end.position.lsn() else {
        return Err(Error::AfterDurableEnd {
            target: target.clone(),
            latest: "before the first commit: the log is empty".into(),
        });
    };
    let Some(earliest) = earliest(log, view)? else {
        if view.origin(&log.lineage) == Origin::Empty
            && let Some(lost) = lost_beginning(log, view)?
        {
            return Err(lost);
        }
        return Err(before("the first base snapshot, which was not taken yet".into()));
    };
    let Some(lsn) = earliest.lsn().filter(|lsn| *lsn <= latest) else {
        return Err(before(format!("LSN {earliest}, which is not durable yet")));
    };
    let timestamp = match locate(log, lsn) {
        _ if lsn == latest => end.timestamp,
        Ok((timestamp, _)) => timestamp,
        // The beginning of the window is damaged: what lies after may be sound all the same.
        Err(e) if lenient && e.is_damage() => Timestamp::ZERO,
        Err(e) => return Err(e),
    };
    Ok(Window {
        earliest: Commit { lsn, timestamp },
        latest: Commit { lsn: latest, timestamp: end.timestamp },
        known_until: end.known_until,
    })
}

/// Finds the commit that a target names: on the timeline of this log, unless the target names
/// another or a time when another was written.
pub(crate) fn resolve(log: &Log, view: &NodeView<'_>, target: &Target) -> Result<Resolved> {
    let unknown =
        || Error::TargetNotFound { target: target.clone(), node: view.record.name.clone() };
    let timeline = match target {
        Target::Latest | Target::Lsn(_) | Target::Mark(_) => log.timeline(),
        Target::OnTimeline(timeline, _) => *timeline,
        Target::RestorePoint(name) => {
            view.record.restore_points.get(name).ok_or_else(unknown)?.timeline
        }
        Target::Time(time) => written_at(log, view, *time)?,
        Target::BeforeTime(time) => written_at(log, view, before(*time))?,
    };
    if timeline == log.timeline() {
        return resolve_on(log, view, target);
    }
    if !view.timelines().contains(&timeline) {
        return Err(unknown());
    }
    resolve_on(&log.along(view.lineage(timeline)), view, target)
}

/// The newest time before another.
fn before(time: Timestamp) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos().saturating_sub(1))
}

/// When a timeline began to be written.
struct Began {
    /// It was written after this time; `None`: nothing was before it.
    after: Option<Timestamp>,
    /// Whether it was from then on: otherwise its beginning has expired.
    at_once: bool,
}

/// When a timeline began to be written; `None` where nothing was written to it yet.
fn began(log: &Log, view: &NodeView<'_>, timeline: TimelineId) -> Result<Option<Began>> {
    if timeline == TimelineId::FIRST {
        return Ok(Some(Began { after: None, at_once: true }));
    }
    let log = log.along(view.lineage(timeline));
    let Some(first) = log.own_beginning()? else { return Ok(None) };
    let reader = log.open(&first)?;
    let state = &reader.preface().state;
    // When it was forked, all times known of its node were earlier than its own, and its first
    // preface names the newest of them.
    let at_once = first.from == log.lineage.last().after;
    let after = if at_once { state.known_until } else { state.timestamp };
    Ok(Some(Began { after: Some(after), at_once }))
}

/// The timeline that was written at a time. Of what lies between the last that is known of one and
/// the beginning of the next nothing is known: the older one is asked, and says so.
fn written_at(log: &Log, view: &NodeView<'_>, time: Timestamp) -> Result<TimelineId> {
    // A younger one that may have been: its beginning has expired, or is damaged.
    let mut perhaps = None;
    for timeline in view.timelines().into_iter().rev() {
        let began = match began(log, view, timeline) {
            Err(e) if e.is_damage() => {
                perhaps = Some(Err(e));
                continue;
            }
            began => began?,
        };
        match began {
            None => {}
            Some(Began { after: Some(after), at_once }) if time <= after => {
                perhaps = (!at_once).then_some(Ok(timeline));
            }
            Some(_) => {
                let known = || {
                    Ok::<_, Error>(
                        newest_commit(&log.along(view.lineage(timeline)), view)?.known_until,
                    )
                };
                return match perhaps {
                    Some(younger) if time > known()? => younger,
                    _ => Ok(timeline),
                };
            }
        }
    }
    unreachable!("the first timeline was written before any other")
}

fn resolve_on(log: &Log, view: &NodeView<'_>, target: &Target) -> Result<Resolved> {
    // Damage at the end of the log does not keep from what lies before it.
    let (end, damage) = readable_end(log, view)?;
    let or_damage = |e: Error| damage.clone().unwrap_or(e);
    let window = window_up_to(log, view, target, end, true).map_err(or_damage)?;
    let after = || {
        or_damage(Error::AfterDurableEnd {
            target: target.clone(),
            latest: describe(window.latest.lsn.into(), window.known_until),
        })
    };
    let unknown =
        || Error::TargetNotFound { target: target.clone(), node: view.record.name.clone() };
    let lsn = match target {
        Target::Latest => match damage.clone() {
            Some(damage) => return Err(damage),
            None => window.latest.lsn,
        },
        Target::Lsn(lsn) | Target::OnTimeline(_, lsn) => *lsn,
        Target::Time(time) => {
            if *time > window.known_until {
                return Err(after());
            }
            at_time(log, view, *time, &window, target)?
        }
        Target::BeforeTime(time) => {
            let time = before(*time);
            if time > window.known_until {
                return Err(after());
            }
            at_time(log, view, time, &window, target)?
        }
        Target::RestorePoint(name) => {
            let point = view.record.restore_points.get(name).ok_or_else(unknown)?;
            point.position.lsn().ok_or_else(unknown)?
        }
        Target::Mark(mark) => match at_mark(log, mark, window.latest.lsn.into()) {
            // It leads to where log has expired.
            Err(Error::Gap { .. }) if view.kept(&log.lineage).is_some() => {
                return Err(before_window(log, view, target, &window));
            }
            found => match found? {
                Some(lsn) => lsn,
                // It may have been in what is lost.
                None => return Err(lost_beginning(log, view)?.unwrap_or_else(unknown)),
            },
        },
    };
    if lsn > window.latest.lsn {
        return Err(after());
    }
    if lsn < window.earliest.lsn {
        // Single commits and stretches from before the window may be kept.
        if view.kept(&log.lineage).is_none_or(|kept| !kept.iter().any(|s| s.contains(lsn.into()))) {
            return Err(before_window(log, view, target, &window));
        }
        if let Some(timestamp) = snapshot_time(log, view, lsn) {
            return Ok(Resolved { timeline: log.timeline(), lsn, timestamp, next: None });
        }
    }
    if lsn == window.latest.lsn && damage.is_none() && end.read {
        return Ok(Resolved {
            timeline: log.timeline(),
            lsn,
            timestamp: end.timestamp,
            next: None,
        });
    }
    let (timestamp, next) = locate(log, lsn)?;
    Ok(Resolved { timeline: log.timeline(), lsn, timestamp, next })
}

/// Why a target from before the window cannot be restored: it has expired, or was never archived,
/// or it is lost.
fn before_window(log: &Log, view: &NodeView<'_>, target: &Target, window: &Window) -> Error {
    // What came before the first base snapshot of a node with content could not be restored at any
    // time.
    if view.origin(&log.lineage) == Origin::Empty
        && let Some(lost) = lost_beginning(log, view).unwrap_or_else(Some)
    {
        return lost;
    }
    let earliest = describe(window.earliest.lsn.into(), window.earliest.timestamp);
    Error::BeforeWindow { target: target.clone(), earliest }
}

/// Time of a commit that a snapshot is of.
fn snapshot_time(log: &Log, view: &NodeView<'_>, lsn: Lsn) -> Option<Timestamp> {
    let at = Position::from(lsn);
    let fits = |l: &&&LayerRecord| l.from.is_none() && (l.to, l.consistent_from) == (at, at);
    view.layers(&log.lineage).iter().find(fits).map(|l| l.timestamp)
}

/// Time of a commit that did not expire: a snapshot of it may be all that is left.
pub(crate) fn commit_time(log: &Log, view: &NodeView<'_>, lsn: Lsn) -> Result<Timestamp> {
    match snapshot_time(log, view, lsn) {
        Some(time) => Ok(time),
        None => Ok(locate(log, lsn)?.0),
    }
}

/// The last commit at or before a time.
fn at_time(
    log: &Log,
    view: &NodeView<'_>,
    time: Timestamp,
    window: &Window,
    target: &Target,
) -> Result<Lsn> {
    if time >= window.latest.timestamp {
        return Ok(window.latest.lsn);
    }
    let before = || before_window(log, view, target, window);
    if time < window.earliest.timestamp
        && let Some(kept) = view.kept(&log.lineage)
    {
        return at_kept_time(log, view, &kept, time)?.ok_or_else(before);
    }
    last_by(log, time)?.ok_or_else(before)
}

/// The last commit at or before a time, where what is left from before the window tells which one
/// that is.
fn at_kept_time(
    log: &Log,
    view: &NodeView<'_>,
    kept: &[Span],
    time: Timestamp,
) -> Result<Option<Lsn>> {
    for span in kept.iter().filter(|s| s.to.is_some()) {
        let (Some(first), Some(last)) = (span.from.lsn(), span.to.and_then(Position::lsn)) else {
            continue;
        };
        // A snapshot alone tells no more than its own commit's time.
        if let Some(timestamp) = snapshot_time(log, view, last)
            && (timestamp == time || span.is_point())
        {
            if timestamp == time {
                return Ok(Some(last));
            }
            continue;
        }
        let (begins, ends) = (locate(log, first)?.0, locate(log, last)?.0);
        if time == ends {
            return Ok(Some(last));
        }
        if begins <= time && time < ends {
            return last_by(log, time);
        }
    }
    Ok(None)
}

/// The position of the last commit at or before a time; `None` where the log holds no commit up to
/// then.
pub(crate) fn position_by(log: &Log, time: Timestamp, end: LogEnd) -> Result<Option<Position>> {
    if end.position > Position::ORIGIN && time >= end.timestamp {
        return Ok(Some(end.position));
    }
    Ok(last_by(log, time)?.map(Position::from))
}

fn last_by(log: &Log, time: Timestamp) -> Result<Option<Lsn>> {
    Ok(match log.last_where(|s| Ok(log.open(s)?.preface().state.timestamp <= time))? {
        Some(segment) => {
            // In this order: a segment that has a successor is complete, and stays as it is.
            let successor = log.successor_says(&segment)?;
            let reader = log.open(&segment)?;
            let indexed = reader.position_by(time);
            let mut last = log.up_to(&segment).map_or(indexed, |up_to| indexed.min(up_to));
            log.scan(&reader, last, successor.as_ref(), &mut |visit| {
                if let Visit::Commit { lsn, timestamp, .. } = visit {
                    if timestamp > time {
                        return Ok(false);
                    }
                    last = lsn.into();
                }
                Ok(true)
            })?;
            last.lsn()
        }
        None => None,
    })
}

/// The newest commit that carries exactly this mark. Marks never go back, so the segment is found
/// by bisection.
fn at_mark(log: &Log, mark: &[u8], end: Position) -> Result<Option<Lsn>> {
    let not_beyond = |s: &SegmentRef| {
        Ok(log.open(s)?.preface().state.mark.as_ref().is_none_or(|m| m.mark.as_slice() <= mark))
    };
    let Some(segment) = log.last_where(not_beyond)? else { return Ok(None) };
    let successor = log.successor_says(&segment)?;
    let reader = log.open(&segment)?;
    let at_start = reader.preface().state.mark.as_ref().filter(|m| m.mark == mark);
    let mut found = at_start.map(|m| m.position);
    let mut in_commit = false;
    log.scan(&reader, segment.from, successor.as_ref(), &mut |visit| {
        let ops = match &visit {
            Visit::Partial { ops, .. } | Visit::Commit { ops, .. } => *ops,
            Visit::Tick => return Ok(true),
        };
        let mut r = Reader::new(ops);
        while !r.is_empty() {
            // A scan gives authenticated bytes: this fails only for a writer's fault.
            if let Op::Mark(m) = Op::read(&mut r).map_err(|e| e.at(reader.path(), 0))? {
                in_commit = m == mark;
            }
        }
        if let Visit::Commit { lsn, .. } = visit {
            if std::mem::take(&mut in_commit) {
                found = Some(lsn.into());
            }
            return Ok(Position::from(lsn) < end);
        }
        Ok(true)
    })?;
    Ok(found.and_then(Position::lsn))
}

/// Time of a commit that is in the log or just before it, and of the next one where there is one.
pub(crate) fn locate(log: &Log, lsn: Lsn) -> Result<(Timestamp, Option<Timestamp>)> {
    let position = Position::from(lsn);
    let before = Position::new(lsn.get() - 1);
    let mut time = None;
    let mut next = None;
    let mut segment = log.last_where(|s| Ok(s.from <= before))?;
    if segment.is_none() {
        // The commit itself may be gone with a segment that expired; the next segment knows its
        // time.
        segment = log.last_where(|s| Ok(s.from <= position))?;
    }
    while let Some(s) = segment {
        let step = look_in(log, &s, lsn, &mut time, &mut next);
        segment = match step {
            Ok(after) if next.is_none() => after,
            Ok(_) => None,
            // The commit itself was found: damage beyond it is no concern of who asks for it.
            Err(e) if time.is_some() && e.is_damage() => None,
            Err(e) => return Err(e),
        };
    }
    let missing =
        || Error::Gap { node: log.lineage.tip().node.to_string(), expected: lsn, found: position };
    Ok((time.ok_or_else(missing)?, next))
}

/// Looks for the time of a commit and of the one after it in a segment; gives the segment after it.
fn look_in(
    log: &Log,
    segment: &SegmentRef,
    lsn: Lsn,
    time: &mut Option<Timestamp>,
    next: &mut Option<Timestamp>,
) -> Result<Option<SegmentRef>> {
    let reader = log.open(segment)?;
    if segment.from == Position::from(lsn) {
        *time = Some(reader.preface().state.timestamp);
    }
    let after = log.after(segment)?;
    let successor = match &after {
        Some(next) if next.line == segment.line => log.open(next)?.preface().previous.clone(),
        None if log.up_to(segment).is_none() => None,
        // Beyond a fork its own timeline may go on, and tells where it ends.
        _ => log.successor_says(segment)?,
    };
    log.scan(
        &reader,
        Position::new(lsn.get() - 1).max(segment.from),
        successor.as_ref(),
        &mut |visit| {
            if let Visit::Commit { lsn: found, timestamp, .. } = visit {
                if found == lsn {
                    *time = Some(timestamp);
                } else if found > lsn {
                    *next = Some(timestamp);
                }
            }
            Ok(next.is_none())
        },
    )?;
    Ok(after)
}
