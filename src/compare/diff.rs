//! Which pages differ between two states.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::Lease;
use crate::error::{Error, Result};
use crate::format::codec::Reader;
use crate::format::record::Op;
use crate::format::state::SpaceState;
use crate::lineage::Line;
use crate::options::ReplayOptions;
use crate::past::{NodeContext, PastState, pages_per_unit, run_units};
use crate::replay::{PageSet, Resolved};
use crate::sync::Mutex;
use crate::types::{PageSize, Position, SpaceId};
use crate::wal::Visit;

/// What differs between two states of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diff {
    /// The one state.
    pub from: Resolved,
    /// The other one.
    pub to: Resolved,
    /// The spaces that differ in pages or length, or that only one of them has.
    pub spaces: BTreeMap<SpaceId, SpaceDiff>,
}

/// What differs in one space.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceDiff {
    /// Its name.
    pub name: String,
    /// The size of its pages.
    pub page_size: PageSize,
    /// Its length in bytes in the one state; `None` where it is not there.
    pub length_from: Option<u64>,
    /// Its length in bytes in the other one.
    pub length_to: Option<u64>,
    /// The pages whose bytes differ or that only one of the states has: first and last of each
    /// range, ascending and apart.
    pub pages: Vec<(u64, u64)>,
}

impl SpaceDiff {
    /// How many pages differ.
    pub fn count(&self) -> u64 {
        self.pages.iter().map(|(first, last)| last - first + 1).sum()
    }
}

/// A space in both states.
struct Pair<'a> {
    from: Option<&'a SpaceState>,
    to: Option<&'a SpaceState>,
}

impl Pair<'_> {
    fn any(&self) -> Option<&SpaceState> {
        self.from.or(self.to)
    }

    fn pages(&self) -> (u64, u64) {
        (self.from.map_or(0, SpaceState::pages), self.to.map_or(0, SpaceState::pages))
    }
}

/// Compares two states: rebuilds, on both sides, the units of pages that anything between them
/// touched.
pub(crate) fn diff(
    context: &NodeContext,
    (from, to): (Resolved, Resolved),
    lease: Option<Lease>,
    options: &ReplayOptions,
) -> Result<Diff> {
    let lease = lease.map(Arc::new);
    let open = |at: &Resolved| {
        PastState::open(context.on(at.timeline), at.lsn.into(), lease.clone(), options)
    };
    let (a, b) = (open(&from)?, open(&to)?);
    let (states_a, states_b) = (&a.state().spaces, &b.state().spaces);
    let ids: BTreeSet<SpaceId> = states_a.keys().chain(states_b.keys()).copied().collect();
    let pairs: BTreeMap<SpaceId, Pair<'_>> = ids
        .into_iter()
        .map(|id| (id, Pair { from: states_a.get(&id), to: states_b.get(&id) }))
        .collect();
    let (low, high) = if from.lsn <= to.lsn { (&from, &to) } else { (&to, &from) };
    let touched = touched(&context.on(high.timeline), low, high.lsn.into(), &pairs, options)?;
    let differing = compare(&pairs, &touched, (&a, &b), options)?;
    let mut spaces = BTreeMap::new();
    for (id, pair) in &pairs {
        let Some(any) = pair.any() else { continue };
        let (pages_a, pages_b) = pair.pages();
        let mut pages = Vec::new();
        let mut add = |first: u64, last: u64| match pages.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => pages.push((first, last)),
        };
        differing
            .get(id)
            .into_iter()
            .flatten()
            .for_each(|(_, ranges)| ranges.iter().for_each(|(f, l)| add(*f, *l)));
        if pages_a != pages_b {
            add(pages_a.min(pages_b), pages_a.max(pages_b) - 1);
        }
        let (length_from, length_to) = (pair.from.map(|s| s.length), pair.to.map(|s| s.length));
        if !pages.is_empty() || length_from != length_to {
            let (name, page_size) = (any.name.clone(), any.page_size);
            spaces.insert(*id, SpaceDiff { name, page_size, length_from, length_to, pages });
        }
    }
    Ok(Diff { from, to, spaces })
}

/// The units of pages that the commits from one state to another one touch; all there are where
/// that part of the log is gone, or where the one state does not lead to the other.
fn touched(
    context: &NodeContext,
    low: &Resolved,
    high: Position,
    pairs: &BTreeMap<SpaceId, Pair<'_>>,
    options: &ReplayOptions,
) -> Result<BTreeMap<SpaceId, BTreeSet<u64>>> {
    let mut units: BTreeMap<SpaceId, BTreeSet<u64>> = BTreeMap::new();
    // Where each space was shortest: what lies behind may have been cut and grown again.
    let mut lowest: BTreeMap<SpaceId, u64> = BTreeMap::new();
    // Of what has expired there may be files yet, and damage in them would be of no concern.
    let lineage = &context.log.lineage;
    let leads = lineage.holds(Line::new(context.node, low.timeline), low.lsn.into());
    let low = low.lsn.into();
    let expired = !leads
        || context.view().replay_floor(lineage, high).is_none_or(|replay_floor| low < replay_floor);
    let mut visit = |path: &str, visit: Visit<'_>| {
        options.cancel.check()?;
        let (Visit::Partial { ops, offset, .. } | Visit::Commit { ops, offset, .. }) = visit else {
            return Ok(());
        };
        let mut r = Reader::new(ops);
        while !r.is_empty() {
            match Op::read(&mut r).map_err(|e| e.at(path, offset))? {
                Op::PageFull { page, .. } | Op::PagePatch { page, .. } | Op::Range { page, .. } => {
                    if let Some(space) = pairs.get(&page.space).and_then(Pair::any) {
                        units
                            .entry(page.space)
                            .or_default()
                            .insert(page.page / pages_per_unit(space, options.unit_bytes));
                    }
                }
                Op::SetLength(space, length) => {
                    let shortest = lowest.entry(space).or_insert(length);
                    *shortest = length.min(*shortest);
                }
                _ => {}
            }
        }
        Ok(())
    };
    let everything = match if expired { Ok(()) } else { context.log.visit(low, high, &mut visit) } {
        Ok(()) => expired,
        Err(Error::Gap { .. }) => true,
        Err(e) => return Err(e),
    };
    for (id, pair) in pairs {
        let Some(space) = pair.any() else { continue };
        let (pages_a, pages_b) = pair.pages();
        let Some(last) = pages_a.min(pages_b).checked_sub(1) else { continue };
        let cut = lowest.get(id).map(|length| length / u64::from(space.page_size.get()));
        if let Some(first) = if everything { Some(0) } else { cut } {
            let unit = pages_per_unit(space, options.unit_bytes);
            units.entry(*id).or_default().extend(first / unit..=last / unit);
        }
    }
    Ok(units)
}

/// Ranges of differing pages, by unit and space.
type Differing = BTreeMap<SpaceId, BTreeMap<u64, Vec<(u64, u64)>>>;

/// Rebuilds units on both sides and compares page by page.
fn compare(
    pairs: &BTreeMap<SpaceId, Pair<'_>>,
    touched: &BTreeMap<SpaceId, BTreeSet<u64>>,
    (a, b): (&PastState, &PastState),
    options: &ReplayOptions,
) -> Result<Differing> {
    let found: Mutex<Differing> = Mutex::default();
    let units = touched.iter().filter_map(|(id, units)| {
        let pair = pairs.get(id)?;
        let space = pair.any()?;
        let (pages_a, pages_b) = pair.pages();
        let (unit, pages) = (pages_per_unit(space, options.unit_bytes), pages_a.min(pages_b));
        let page_size = space.page_size;
        Some(units.iter().filter(move |n| **n * unit < pages).map(move |n| {
            PageSet::new(*id, page_size, n * unit..(n + 1).saturating_mul(unit).min(pages))
        }))
    });
    run_units(options, units.flatten(), &|rebuilder, set| {
        let images_a = a.rebuild(rebuilder, &set)?.images.to_vec();
        let images_b = b.rebuild(rebuilder, &set)?.images;
        let size = set.page_size.bytes();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for ((x, y), page) in images_a.chunks(size).zip(images_b.chunks(size)).zip(set.numbers()) {
            match ranges.last_mut() {
                _ if x == y => {}
                Some((_, last)) if *last + 1 == page => *last = page,
                _ => ranges.push((page, page)),
            }
        }
        if let Some((first, _)) = set.bounds().filter(|_| !ranges.is_empty()) {
            found.lock().entry(set.space).or_default().insert(first, ranges);
        }
        Ok(())
    })?;
    Ok(found.into_inner())
}
