//! The segments there are, and finding the one that holds a position or a time.
//!
//! A log runs along a lineage: of each ancestor's timeline it holds what lies before the fork, and
//! nothing that came after it. Whoever reads it sees one history and need not know where it forks.

use std::sync::Arc;

use super::scan::ScanEnd;
use super::{SegmentReader, Visit, fold_ops};
use crate::delta::Decoder;
use crate::error::{DamageKind, Error, Result};
use crate::format::segment::PreviousSegment;
use crate::format::state::NodeState;
use crate::lineage::{Line, Lineage, Section};
use crate::names::{self, group_of};
use crate::sealed::ArchiveKeys;
use crate::storage::{Calls, ReadCalls, ReadStore, Storage};
use crate::types::{Position, TimelineId, Timestamp};

/// Segments that follow on each other, each with the one after it on its own timeline.
type Pairs = Vec<(SegmentRef, Option<SegmentRef>)>;

/// A segment, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentRef {
    /// Its timeline.
    pub line: Line,
    /// Its number on the timeline, from 1.
    pub sequence: u64,
    /// The position it starts from.
    pub from: Position,
    /// Where it is.
    pub path: String,
}

impl SegmentRef {
    /// Whether `next` continues it: the next one of its timeline, or the first of one that forks
    /// off.
    pub fn is_continued_by(&self, next: &SegmentRef) -> bool {
        next.sequence == if next.line == self.line { self.sequence + 1 } else { 1 }
    }
}

/// The log that leads to the newest state of a lineage, for reading.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Where it is read.
    pub storage: Arc<dyn ReadStore>,
    /// The same place, if it can be written to: what another process wrote and did not sync can be
    /// made durable there. `None`: what is there to be read is durable.
    pub medium: Option<Arc<dyn Storage>>,
    pub keys: Arc<ArchiveKeys>,
    pub lineage: Lineage,
}

/// All segments of one timeline, those beyond a fork included.
#[derive(Clone, Copy, Debug)]
struct Segments<'a> {
    log: &'a Log,
    line: Line,
}

/// Segments of which no two have the same number.
#[derive(Debug, Default)]
pub(crate) struct Unique {
    /// In order, with the lengths of their files.
    pub segments: Vec<(SegmentRef, u64)>,
    /// What is wrong with those left out.
    pub doubles: Vec<Error>,
    /// Of one number there is not exactly one segment that opens: no telling which it is.
    ambiguous: Option<Error>,
}

impl Unique {
    /// The segments, with the lengths of their files, if there is no doubt which they are.
    fn unambiguous(self) -> Result<Vec<(SegmentRef, u64)>> {
        self.ambiguous.map_or(Ok(self.segments), Err)
    }
}

impl Segments<'_> {
    /// Numbers of the groups there are, in order.
    fn groups(&self) -> Result<Vec<u64>> {
        let dir = names::timeline_dir(self.line.node, self.line.timeline);
        let entries = self.log.storage.listed(&dir)?;
        let mut groups: Vec<u64> = entries.iter().filter_map(|e| names::group(&e.name)).collect();
        groups.sort_unstable();
        Ok(groups)
    }

    /// The segments of one group, in order.
    fn group(&self, group: u64) -> Result<Vec<SegmentRef>> {
        let segments = self.unique(&self.listed(group)?)?.unambiguous()?;
        Ok(segments.into_iter().map(|(segment, _)| segment).collect())
    }

    /// Leaves one segment of each number. A name is only a hint: where two claim a number, it is
    /// the one's whose header agrees and that opens.
    fn unique(&self, listed: &[(SegmentRef, u64)]) -> Result<Unique> {
        let mut unique = Unique::default();
        for same in listed.chunk_by(|(a, _), (b, _)| a.sequence == b.sequence) {
            let [one] = same else {
                self.choose(same, &mut unique)?;
                continue;
            };
            unique.segments.push(one.clone());
        }
        Ok(unique)
    }

    fn choose(&self, same: &[(SegmentRef, u64)], unique: &mut Unique) -> Result<()> {
        let mut real = Vec::new();
        for one in same {
            match self.log.open(&one.0) {
                Ok(_) => real.push(one),
                Err(e) if e.is_damage() || matches!(e, Error::FormatTooNew { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let chosen = real.first().copied().or(same.first());
        let error = |double: &SegmentRef| {
            let other = chosen.map_or("", |(chosen, _)| chosen.path.as_str());
            let (what, expected) = ("segment name", "one segment of a number");
            Error::damage(
                DamageKind::Chain,
                &double.path,
                0,
                what,
                expected,
                format_args!("another one, {other}"),
            )
        };
        let doubles = same.iter().filter(|(one, _)| chosen.is_none_or(|(chosen, _)| chosen != one));
        let doubles: Vec<Error> = doubles.map(|(double, _)| error(double)).collect();
        if real.len() != 1 {
            unique.ambiguous = unique.ambiguous.take().or(doubles.first().cloned());
        }
        unique.doubles.extend(doubles);
        unique.segments.extend(chosen.cloned());
        Ok(())
    }

    /// The segments of one group by their names, in order.
    fn listed(&self, group: u64) -> Result<Vec<(SegmentRef, u64)>> {
        let dir = names::segment_group_dir(self.line.node, self.line.timeline, group);
        let entries = self.log.storage.listed(&dir)?;
        let mut segments: Vec<(SegmentRef, u64)> = entries
            .iter()
            .filter_map(|entry| {
                let (sequence, from) = names::segment(&entry.name)?;
                let path = || names::join(&dir, &entry.name);
                let segment = || SegmentRef { line: self.line, sequence, from, path: path() };
                (names::group_of(sequence) == group).then(|| (segment(), entry.len))
            })
            .collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// The newest segment.
    fn newest(&self) -> Result<Option<SegmentRef>> {
        for group in self.groups()?.into_iter().rev() {
            if let Some(newest) = self.group(group)?.pop() {
                return Ok(Some(newest));
            }
        }
        Ok(None)
    }

    /// The oldest segment.
    fn oldest(&self) -> Result<Option<SegmentRef>> {
        for group in self.groups()? {
            if let Some(oldest) = self.group(group)?.into_iter().next() {
                return Ok(Some(oldest));
            }
        }
        Ok(None)
    }

    /// The last segment for which `holds` is true, where it is true up to some segment and false
    /// from there on. Looks at about log2 of all segments.
    fn last_where(
        &self,
        holds: &mut dyn FnMut(&SegmentRef) -> Result<bool>,
    ) -> Result<Option<SegmentRef>> {
        let groups = self.groups()?;
        // Invariant: everything before `low` holds at its first segment, nothing from `high` on
        // does.
        let (mut low, mut high) = (0, groups.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let group =
                groups.get(middle).expect("the middle of a range that is not empty lies within it");
            let holds = match self.group(*group)?.first() {
                Some(first) => holds(first)?,
                // An emptied group says nothing of its own: treat it like the older ones.
                None => true,
            };
            if holds { low = middle + 1 } else { high = middle }
        }
        for group in groups.iter().take(low).rev() {
            let segments = self.group(*group)?;
            let (mut low, mut high) = (0, segments.len());
            while low < high {
                let middle = usize::midpoint(low, high);
                let segment = segments
                    .get(middle)
                    .expect("the middle of a range that is not empty lies within it");
                if holds(segment)? { low = middle + 1 } else { high = middle }
            }
            if let Some(last) = low.checked_sub(1).and_then(|i| segments.get(i)) {
                return Ok(Some(last.clone()));
            }
        }
        Ok(None)
    }

    /// The segments that hold the commits after `from` up to `to`, in order, each with the one
    /// after it where there is one.
    fn between(&self, from: Position, to: Position) -> Result<Pairs> {
        if from >= to {
            return Ok(Vec::new());
        }
        let Some(first) = self.last_where(&mut |s| Ok(s.from <= from))? else {
            return Ok(Vec::new());
        };
        let mut found: Vec<SegmentRef> = Vec::new();
        'groups: for group in self.groups()?.into_iter().filter(|g| *g >= group_of(first.sequence))
        {
            for segment in self.group(group)?.into_iter().filter(|s| s.sequence >= first.sequence) {
                let done = segment.from >= to;
                found.push(segment);
                if done {
                    break 'groups;
                }
            }
        }
        let mut pairs: Vec<_> = found
            .iter()
            .zip(found.iter().skip(1).map(Some).chain([None]))
            .map(|(s, next)| (s.clone(), next.cloned()))
            .collect();
        pairs.retain(|(s, _)| s.from < to);
        for pair in &pairs {
            if let (segment, Some(next)) = pair
                && next.sequence != segment.sequence + 1
            {
                return Err(self.gap(segment.from, next.from));
            }
        }
        Ok(pairs)
    }

    /// The segment after this one. [`Error::Gap`] where it is not there and a later one is.
    fn after(&self, segment: &SegmentRef) -> Result<Option<SegmentRef>> {
        let wanted = segment.sequence + 1;
        let mut next = self.group(group_of(wanted))?.into_iter().find(|s| s.sequence >= wanted);
        if next.is_none() {
            next = self.newest()?.filter(|s| s.sequence >= wanted);
        }
        match next {
            Some(next) if next.sequence > wanted => Err(self.gap(segment.from, next.from)),
            next => Ok(next),
        }
    }

    fn gap(&self, reached: Position, found: Position) -> Error {
        Error::Gap { node: self.line.node.to_string(), expected: reached.next_lsn(), found }
    }

    /// Visits the commits after `reached` up to `to`; `time` is that of the newest commit visited.
    fn visit(
        &self,
        reached: &mut Position,
        to: Position,
        time: &mut Option<Timestamp>,
        visit: &mut dyn FnMut(&str, Visit<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut opened: Option<SegmentReader> = None;
        // Only a fork comes after commits that were visited: within a timeline links tell as much.
        let mut fork = *time;
        for (segment, next) in self.between(*reached, to)? {
            if segment.from > *reached {
                return Err(self.gap(*reached, segment.from));
            }
            let reader = match opened.take() {
                Some(reader) => reader,
                None => self.log.open(&segment)?,
            };
            let begins = reader.preface().state.timestamp;
            if let Some(before) = fork.take().filter(|before| *before != begins) {
                let what = "time of the commit that the timeline forks off from";
                return Err(Error::damage(
                    DamageKind::Chain,
                    reader.path(),
                    0,
                    what,
                    before,
                    begins,
                ));
            }
            opened = match next.as_ref().map(|next| (next.from < to, self.log.open(next))) {
                None => None,
                Some((_, Ok(next))) => Some(next),
                // Nothing of it is needed: its damage is no concern of this visit.
                Some((false, Err(e))) if e.is_damage() => None,
                Some((_, Err(e))) => return Err(e),
            };
            let successor = opened.as_ref().and_then(|next| next.preface().previous.as_ref());
            let end = reader.scan(*reached, successor, &mut |found| {
                let (lsn, committed) = match &found {
                    Visit::Partial { lsn, .. } => (*lsn, None),
                    Visit::Commit { lsn, timestamp, .. } => (*lsn, Some(*timestamp)),
                    Visit::Tick => return Ok(true),
                };
                if Position::from(lsn) > to {
                    return Ok(false);
                }
                visit(reader.path(), found)?;
                if committed.is_some() {
                    (*reached, *time) = (lsn.into(), committed);
                }
                Ok(*reached < to)
            })?;
            if let Some(next) = &opened
                && !end.stopped
                && (next.link_to_previous() != end.link
                    || next.preface().state.position != end.position)
            {
                return Err(Error::damage(
                    DamageKind::Chain,
                    next.path(),
                    128,
                    "link to the segment before",
                    format_args!("that of {} up to LSN {}", reader.path(), end.position),
                    "another one",
                ));
            }
        }
        if *reached < to {
            return Err(self.gap(*reached, to));
        }
        Ok(())
    }
}

impl Log {
    /// The same archive's log along another lineage.
    pub fn along(&self, lineage: Lineage) -> Log {
        Log { lineage, ..self.clone() }
    }

    /// The log of one timeline, with what lies beyond forks and without what it was forked from.
    pub fn alone(&self, line: Line) -> Log {
        self.along(Lineage::alone(line))
    }

    fn segments(&self, line: Line) -> Segments<'_> {
        Segments { log: self, line }
    }

    /// The timeline that it is of.
    pub fn timeline(&self) -> TimelineId {
        self.lineage.tip().timeline
    }

    /// The segments of that.
    fn tip(&self) -> Segments<'_> {
        self.segments(self.lineage.tip())
    }

    fn sections(&self) -> impl DoubleEndedIterator<Item = (&Section, Segments<'_>)> {
        self.lineage.sections().iter().map(|section| (section, self.segments(section.line)))
    }

    /// The section that a segment was found on.
    fn section(&self, segment: &SegmentRef) -> &Section {
        self.lineage.of(segment.line).expect("a log is asked about the segments that it has listed")
    }

    /// Every segment that holds commits of it, in order, with the length of its file.
    pub fn all(&self) -> Result<Vec<(SegmentRef, u64)>> {
        self.all_and_doubles()?.unambiguous()
    }

    /// Every segment, as [`all`](Self::all), but also where no telling is which of two it is; and
    /// what is wrong with those left out.
    pub fn all_and_doubles(&self) -> Result<Unique> {
        let mut all = Unique::default();
        for (section, timeline) in self.sections() {
            for group in timeline.groups()? {
                let Unique { segments, doubles, ambiguous } =
                    timeline.unique(&timeline.listed(group)?)?;
                all.segments.extend(segments.into_iter().filter(|(s, _)| section.holds(s)));
                all.doubles.extend(doubles);
                all.ambiguous = all.ambiguous.or(ambiguous);
            }
        }
        Ok(all)
    }

    /// The segments of its own timeline with these numbers that are there, and the directories that
    /// such segments are in.
    pub fn numbered(&self, first: u64, last: u64) -> Result<(Vec<SegmentRef>, Vec<String>)> {
        let (mut found, mut dirs) = (Vec::new(), Vec::new());
        let tip = self.tip();
        for group in
            tip.groups()?.into_iter().filter(|g| (group_of(first)..=group_of(last)).contains(g))
        {
            found.extend(
                tip.group(group)?.into_iter().filter(|s| (first..=last).contains(&s.sequence)),
            );
            dirs.push(names::segment_group_dir(tip.line.node, tip.line.timeline, group));
        }
        Ok((found, dirs))
    }

    /// The newest segment. Where its own timeline has none yet, that with the commit of the fork.
    pub fn newest(&self) -> Result<Option<SegmentRef>> {
        for (section, segments) in self.sections().rev() {
            let newest = match section.up_to {
                None => segments.newest()?,
                Some(_) => segments.last_where(&mut |s| Ok(section.holds(s)))?,
            };
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }

    /// The oldest segment.
    pub fn oldest(&self) -> Result<Option<SegmentRef>> {
        for (section, segments) in self.sections() {
            if let Some(oldest) = segments.oldest()?.filter(|s| section.holds(s)) {
                return Ok(Some(oldest));
            }
        }
        Ok(None)
    }

    /// The first segment there is of its own timeline.
    pub fn own_beginning(&self) -> Result<Option<SegmentRef>> {
        self.tip().oldest()
    }

    /// The first segment there is of each timeline, with the section that it belongs to.
    pub fn beginnings(&self) -> Result<Vec<(Section, Option<SegmentRef>)>> {
        self.sections().map(|(section, segments)| Ok((*section, segments.oldest()?))).collect()
    }

    /// Refuses a log that ends before a position which the catalog says was durable: its end is
    /// gone.
    pub fn check_end(&self, end: Position, durable: Position) -> Result<()> {
        if end >= durable {
            return Ok(());
        }
        let path = self.newest()?.map_or_else(
            || {
                let Line { node, timeline } = self.lineage.tip();
                names::timeline_dir(node, timeline)
            },
            |s| s.path,
        );
        let expected = format_args!("commits up to LSN {durable}, as the catalog says");
        let found = format_args!("none after LSN {end}");
        Err(Error::damage(DamageKind::Missing, path, 0, "end of the log", expected, found))
    }

    /// Makes a segment durable that another process may have written and not synced, or synced and
    /// not yet durably named.
    fn make_durable(medium: &dyn Storage, segment: &SegmentRef) -> Result<()> {
        let path = &segment.path;
        medium.file_synced(path)?;
        let dir = names::segment_dir(segment.line.node, segment.line.timeline, segment.sequence);
        medium.dir_synced(&dir)
    }

    /// Opens the newest segment, and lets it be read: what is read is durable before this returns.
    /// Where nothing can be written it only opens it.
    pub fn read_durable<T>(
        &self,
        newest: &SegmentRef,
        read: impl FnOnce(&SegmentReader) -> Result<T>,
    ) -> Result<T> {
        let Some(medium) = self.medium.as_deref() else { return read(&self.open(newest)?) };
        let found = read(&self.open_settled(medium, newest)?)?;
        // After the look, as a writer may be adding to it.
        Log::make_durable(medium, newest)?;
        Ok(found)
    }

    /// Makes the newest segment durable and opens it, so that what is read of it is what the medium
    /// holds: frames that a later one says were durable may come from the cache, what comes after
    /// may be what a failed sync has given up.
    pub fn open_settled(
        &self,
        medium: &dyn Storage,
        segment: &SegmentRef,
    ) -> Result<SegmentReader> {
        Log::make_durable(medium, segment)?;
        // What is mapped cannot be dropped from the cache: the reader goes first.
        let from = self.open(segment)?.unproven_from()?;
        medium.evicted(&segment.path, from)?;
        // Once more, as it may have been sealed, or cut short by what was forgotten.
        self.open(segment)
    }

    /// The last segment for which `holds` is true, where it is true up to some segment and false
    /// from there on. Looks at about log2 of all segments.
    pub fn last_where(
        &self,
        mut holds: impl FnMut(&SegmentRef) -> Result<bool>,
    ) -> Result<Option<SegmentRef>> {
        for (section, segments) in self.sections().rev() {
            let last = segments.last_where(&mut |s| Ok(section.holds(s) && holds(s)?))?;
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// The segments that hold the commits after `from` up to `to`, in order, each with the one
    /// after it where there is one.
    pub fn between(&self, from: Position, to: Position) -> Result<Pairs> {
        let mut pairs = Pairs::new();
        for (section, from, to) in self.lineage.over(from, to) {
            let found = self.segments(section.line).between(from, to)?;
            if let (Some((_, next)), Some((first, _))) = (pairs.last_mut(), found.first()) {
                *next = Some(first.clone());
            }
            pairs.extend(found);
        }
        Ok(pairs)
    }

    /// Visits the commits after `from` up to `to`, which both have to be in the log, and checks
    /// that each segment is continued by the next. The visitor also gets the segment's path.
    pub fn visit(
        &self,
        from: Position,
        to: Position,
        visit: &mut dyn FnMut(&str, Visit<'_>) -> Result<()>,
    ) -> Result<()> {
        let (mut reached, mut time) = (from, None);
        for (section, _, to) in self.lineage.over(from, to) {
            self.segments(section.line).visit(&mut reached, to, &mut time, visit)?;
        }
        Ok(())
    }

    /// Scans what of a segment belongs to this log, from a position on. `successor` as for
    /// [`SegmentReader::scan`].
    ///
    /// What comes after a fork is not visited; that the scan ends there counts as stopped.
    pub fn scan(
        &self,
        reader: &SegmentReader,
        from: Position,
        successor: Option<&PreviousSegment>,
        visit: &mut dyn FnMut(Visit<'_>) -> Result<bool>,
    ) -> Result<ScanEnd> {
        let Some(last) = self.section(reader.segment()).up_to else {
            return reader.scan(from, successor, visit);
        };
        let mut reached = from;
        reader.scan(from.min(last), successor, &mut |found| {
            match &found {
                _ if reached >= last => return Ok(false),
                Visit::Commit { lsn, .. } => reached = (*lsn).into(),
                Visit::Partial { .. } | Visit::Tick => {}
            }
            Ok(visit(found)? && reached < last)
        })
    }

    /// The last position of a segment's timeline that belongs to this log.
    pub fn up_to(&self, segment: &SegmentRef) -> Option<Position> {
        self.section(segment).up_to
    }

    /// The segment after this one, be it the first of a timeline that forks off. [`Error::Gap`]
    /// where it is not there and a later one is.
    pub fn after(&self, segment: &SegmentRef) -> Result<Option<SegmentRef>> {
        let section = self.section(segment);
        let next = self.segments(segment.line).after(segment);
        let beyond = match &next {
            Ok(next) => next.as_ref().is_none_or(|next| !section.holds(next)),
            Err(Error::Gap { found, .. }) => !section.begins(*found),
            Err(_) => false,
        };
        match self.lineage.next(segment.line) {
            Some(fork) if beyond => {
                let segments = self.segments(fork.line);
                match segments.oldest()? {
                    Some(late) if late.from > fork.after => {
                        Err(segments.gap(fork.after, late.from))
                    }
                    first => Ok(first),
                }
            }
            _ => next,
        }
    }

    /// What the segment after this one on its own timeline says of it; `None` where this is the
    /// newest. Without it damage at the end of a segment that was never sealed passes for a torn
    /// tail.
    pub fn successor_says(&self, segment: &SegmentRef) -> Result<Option<PreviousSegment>> {
        let next = self.segments(segment.line).after(segment);
        match next {
            // What is missing lies beyond the fork, and nothing of it is needed.
            Err(Error::Gap { found, .. }) if !self.section(segment).begins(found) => Ok(None),
            next => next?.map_or(Ok(None), |next| Ok(self.open(&next)?.preface().previous.clone())),
        }
    }

    /// Opens a segment.
    pub fn open(&self, segment: &SegmentRef) -> Result<SegmentReader> {
        SegmentReader::open(self.storage.as_ref(), &self.keys, segment)
    }

    /// The state at a position, but its pages, as the segment before it tells it; `None` where
    /// there is none.
    pub fn state_at(&self, at: Position) -> Result<Option<NodeState>> {
        let Some(segment) = self.last_where(|s| Ok(s.from <= at))? else { return Ok(None) };
        let reader = self.open(&segment)?;
        if let Some(seal) = reader.seal().filter(|seal| seal.state.position == at) {
            return Ok(Some(seal.state.clone()));
        }
        let mut state = reader.preface().state.clone();
        let mut decoder = Decoder::new()?;
        self.visit(segment.from, at, &mut |path, visit| {
            let (Visit::Partial { ops, offset, .. } | Visit::Commit { ops, offset, .. }) = &visit
            else {
                return Ok(());
            };
            fold_ops(&mut state, ops, &mut decoder, path, *offset, &mut |_| {})?;
            if let Visit::Commit { timestamp, .. } = visit {
                state.advance(timestamp);
            }
            Ok(())
        })?;
        Ok(Some(state))
    }
}

impl Section {
    /// Whether a segment that starts from a position can hold commits of it.
    fn begins(&self, from: Position) -> bool {
        self.up_to.is_none_or(|up_to| from < up_to)
    }

    fn holds(&self, segment: &SegmentRef) -> bool {
        self.begins(segment.from)
    }
}
