//! The segments there are, and finding the one that holds a position or a time.

use std::sync::Arc;

use super::{SegmentReader, Visit};
use crate::error::{DamageKind, Error, Result};
use crate::format::segment::PreviousSegment;
use crate::names::{self, group_of};
use crate::sealed::ArchiveKeys;
use crate::storage::{ReadStore, Storage};
use crate::types::{NodeId, Position, TimelineId};

/// A segment, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentRef {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its number on the timeline, from 1.
    pub sequence: u64,
    /// The position it starts from.
    pub from: Position,
    /// Where it is.
    pub path: String,
}

/// The log of one node, for reading.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Where it is read.
    pub storage: Arc<dyn ReadStore>,
    /// The same place, if it can be written to: what another process wrote and did not sync can be
    /// made durable there. `None`: what is there to be read is durable.
    pub medium: Option<Arc<dyn Storage>>,
    pub keys: Arc<ArchiveKeys>,
    pub node: NodeId,
    pub timeline: TimelineId,
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

impl Log {
    /// Numbers of the groups there are, in order.
    fn groups(&self) -> Result<Vec<u64>> {
        let dir = names::timeline_dir(self.node, self.timeline);
        let entries = self.storage.list(&dir).map_err(|e| Error::io("list", &dir, e))?;
        let mut groups: Vec<u64> = entries.iter().filter_map(|e| names::group(&e.name)).collect();
        groups.sort_unstable();
        Ok(groups)
    }

    /// Every segment, in order, with the length of its file.
    pub fn all(&self) -> Result<Vec<(SegmentRef, u64)>> {
        let mut all = Vec::new();
        for group in self.groups()? {
            all.extend(self.group_with_lengths(group)?);
        }
        Ok(all)
    }

    /// The segments of one group, in order.
    fn group(&self, group: u64) -> Result<Vec<SegmentRef>> {
        Ok(self.group_with_lengths(group)?.into_iter().map(|(segment, _)| segment).collect())
    }

    fn group_with_lengths(&self, group: u64) -> Result<Vec<(SegmentRef, u64)>> {
        let Unique { segments, ambiguous, .. } = self.unique(&self.listed(group)?)?;
        ambiguous.map_or(Ok(segments), Err)
    }

    /// Every segment, as [`all`](Self::all), but also where no telling is which of two it is; and what is wrong with those left out.
    pub fn all_and_doubles(&self) -> Result<Unique> {
        let mut all = Unique::default();
        for group in self.groups()? {
            let Unique { segments, doubles, ambiguous } = self.unique(&self.listed(group)?)?;
            all.segments.extend(segments);
            all.doubles.extend(doubles);
            all.ambiguous = all.ambiguous.or(ambiguous);
        }
        Ok(all)
    }

    /// Leaves one segment of each number. A name is only a hint: where two claim a number, it is the one's whose header agrees and that opens.
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
            match self.open(&one.0) {
                Ok(_) => real.push(one),
                Err(e) if e.is_damage() || matches!(e, Error::FormatTooNew { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let chosen = real.first().copied().or(same.first());
        let error = |double: &SegmentRef| {
            let other = chosen.map_or("", |(chosen, _)| chosen.path.as_str());
            let (what, expected) = ("segment name", "one segment of a number");
            Error::damage(DamageKind::Chain, &double.path, 0, what, expected, format_args!("another one, {other}"))
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
        let dir = names::segment_group_dir(self.node, self.timeline, group);
        let entries = self.storage.list(&dir).map_err(|e| Error::io("list", &dir, e))?;
        let mut segments: Vec<(SegmentRef, u64)> = entries
            .iter()
            .filter_map(|entry| {
                let (sequence, from) = names::segment(&entry.name)?;
                let path = || names::join(&dir, &entry.name);
                let segment = || SegmentRef { timeline: self.timeline, sequence, from, path: path() };
                (names::group_of(sequence) == group).then(|| (segment(), entry.len))
            })
            .collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// The segments with these numbers that are there, and the directories that such segments are in.
    pub fn numbered(&self, first: u64, last: u64) -> Result<(Vec<SegmentRef>, Vec<String>)> {
        let (mut found, mut dirs) = (Vec::new(), Vec::new());
        for group in self.groups()?.into_iter().filter(|g| (group_of(first)..=group_of(last)).contains(g)) {
            found.extend(self.group(group)?.into_iter().filter(|s| (first..=last).contains(&s.sequence)));
            dirs.push(names::segment_group_dir(self.node, self.timeline, group));
        }
        Ok((found, dirs))
    }

    /// The newest segment.
    pub fn newest(&self) -> Result<Option<SegmentRef>> {
        for group in self.groups()?.into_iter().rev() {
            if let Some(newest) = self.group(group)?.pop() {
                return Ok(Some(newest));
            }
        }
        Ok(None)
    }

    /// Refuses a log that ends before a position which the catalog says was durable: its end is gone.
    pub fn check_end(&self, end: Position, durable: Position) -> Result<()> {
        if end >= durable {
            return Ok(());
        }
        let path = self.newest()?.map_or_else(|| names::timeline_dir(self.node, self.timeline), |s| s.path);
        let expected = format_args!("commits up to LSN {durable}, as the catalog says");
        let found = format_args!("none after LSN {end}");
        Err(Error::damage(DamageKind::Missing, path, 0, "end of the log", expected, found))
    }

    /// Makes a segment durable that another process may have written and not synced, or synced and not yet durably named.
    fn make_durable(&self, medium: &dyn Storage, segment: &SegmentRef) -> Result<()> {
        let path = &segment.path;
        medium.sync_file(path).map_err(|e| Error::io("sync", path, e))?;
        let dir = names::segment_dir(self.node, self.timeline, segment.sequence);
        medium.sync_dir(&dir).map_err(|e| Error::io("sync directory", &dir, e))
    }

    /// Opens the newest segment, and lets it be read: what is read is durable before this returns.
    /// Where nothing can be written it only opens it.
    pub fn read_durable<T>(&self, newest: &SegmentRef, read: impl FnOnce(&SegmentReader) -> Result<T>) -> Result<T> {
        let Some(medium) = self.medium.as_deref() else { return read(&self.open(newest)?) };
        let found = read(&self.open_settled(medium, newest)?)?;
        // After the look, as a writer may be adding to it.
        self.make_durable(medium, newest)?;
        Ok(found)
    }

    /// Makes the newest segment durable and opens it, so that what is read of it is what the medium holds: frames that a later one says were
    /// durable may come from the cache, what comes after may be what a failed sync has given up.
    pub fn open_settled(&self, medium: &dyn Storage, segment: &SegmentRef) -> Result<SegmentReader> {
        self.make_durable(medium, segment)?;
        let reader = self.open(segment)?;
        let from = reader.unproven_from()?;
        medium.evict(&segment.path, from).map_err(|e| Error::io("evict", &segment.path, e))?;
        // Once more, as it may have been sealed, or cut short by what was forgotten.
        self.open(segment)
    }

    /// The oldest segment.
    pub fn oldest(&self) -> Result<Option<SegmentRef>> {
        for group in self.groups()? {
            if let Some(oldest) = self.group(group)?.into_iter().next() {
                return Ok(Some(oldest));
            }
        }
        Ok(None)
    }

    /// The last segment for which `holds` is true, where it is true up to some segment and false from there on.
    /// Looks at about log2 of all segments.
    pub fn last_where(&self, mut holds: impl FnMut(&SegmentRef) -> Result<bool>) -> Result<Option<SegmentRef>> {
        let groups = self.groups()?;
        // Invariant: everything before `low` holds at its first segment, nothing from `high` on does.
        let (mut low, mut high) = (0, groups.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let group = groups.get(middle).copied().unwrap_or_default();
            let holds = match self.group(group)?.first() {
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
                let holds = segments.get(middle).map_or(Ok(false), &mut holds)?;
                if holds { low = middle + 1 } else { high = middle }
            }
            if let Some(last) = low.checked_sub(1).and_then(|i| segments.get(i)) {
                return Ok(Some(last.clone()));
            }
        }
        Ok(None)
    }

    /// The segments that hold the commits after `from` up to `to`, in order, each with the one after it where there is one.
    pub fn between(&self, from: Position, to: Position) -> Result<Vec<(SegmentRef, Option<SegmentRef>)>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let Some(first) = self.last_where(|s| Ok(s.from <= from))? else { return Ok(Vec::new()) };
        let mut found: Vec<SegmentRef> = Vec::new();
        'groups: for group in self.groups()?.into_iter().filter(|g| *g >= group_of(first.sequence)) {
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
                return Err(Error::Gap {
                    node: self.node.to_string(),
                    expected: segment.from.next_lsn(),
                    found: next.from,
                });
            }
        }
        Ok(pairs)
    }

    /// Visits the commits after `from` up to `to`, which both have to be in the log, and checks that each segment is continued by the next.
    /// The visitor also gets the segment's path.
    pub fn visit(
        &self,
        from: Position,
        to: Position,
        visit: &mut dyn FnMut(&str, Visit<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut reached = from;
        let gap =
            |reached: Position, found| Error::Gap { node: self.node.to_string(), expected: reached.next_lsn(), found };
        let mut opened: Option<SegmentReader> = None;
        for (segment, next) in self.between(from, to)? {
            if segment.from > reached {
                return Err(gap(reached, segment.from));
            }
            let reader = match opened.take() {
                Some(reader) => reader,
                None => self.open(&segment)?,
            };
            opened = match next.as_ref().map(|next| (next.from < to, self.open(next))) {
                None => None,
                Some((_, Ok(next))) => Some(next),
                // Nothing of it is needed: its damage is no concern of this visit.
                Some((false, Err(e))) if e.is_damage() => None,
                Some((_, Err(e))) => return Err(e),
            };
            let successor = opened.as_ref().and_then(|next| next.preface().previous.as_ref());
            let end = reader.scan(reached, successor, &mut |found| {
                let (lsn, whole) = match &found {
                    Visit::Partial { lsn, .. } => (*lsn, false),
                    Visit::Commit { lsn, .. } => (*lsn, true),
                    Visit::Tick => return Ok(true),
                };
                if Position::from(lsn) > to {
                    return Ok(false);
                }
                visit(reader.path(), found)?;
                if whole {
                    reached = lsn.into();
                }
                Ok(reached < to)
            })?;
            if let Some(next) = &opened
                && !end.stopped
                && (next.link_to_previous() != end.link || next.preface().state.position != end.position)
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
        if reached < to {
            return Err(gap(reached, to));
        }
        Ok(())
    }

    /// The segment after this one. [`Error::Gap`] where it is not there and a later one is.
    pub fn after(&self, segment: &SegmentRef) -> Result<Option<SegmentRef>> {
        let wanted = segment.sequence + 1;
        let mut next = self.group(group_of(wanted))?.into_iter().find(|s| s.sequence >= wanted);
        if next.is_none() {
            next = self.newest()?.filter(|s| s.sequence >= wanted);
        }
        match next {
            Some(next) if next.sequence > wanted => {
                Err(Error::Gap { node: self.node.to_string(), expected: segment.from.next_lsn(), found: next.from })
            }
            next => Ok(next),
        }
    }

    /// What the segment after this one says of it; `None` where this is the newest. Without it damage at the end
    /// of a segment that was never sealed passes for a torn tail.
    pub fn successor_says(&self, segment: &SegmentRef) -> Result<Option<PreviousSegment>> {
        let next = self.after(segment)?;
        next.map_or(Ok(None), |next| Ok(self.open(&next)?.preface().previous.clone()))
    }

    /// Opens a segment.
    pub fn open(&self, segment: &SegmentRef) -> Result<SegmentReader> {
        SegmentReader::open(self, segment)
    }
}
