//! The run over all pages of a state: units of pages, by one worker per core, into a sink.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::PastState;
use crate::error::{Error, Result};
use crate::format::state::SpaceState;
use crate::options::ReplayOptions;
use crate::replay::{PageSet, PageSink, Progress, Rebuilder, Sources};
use crate::sync::{self, Mutex};
use crate::types::{SpaceId, as_index};

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunStats {
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub pages_proven: u64,
    pub pages_unproven: u64,
}

/// Pages that a unit of about so many bytes has.
pub(crate) fn pages_per_unit(space: &SpaceState, unit_bytes: usize) -> u64 {
    (unit_bytes as u64 / u64::from(space.page_size.get())).max(1)
}

/// Which units of a space hold anything: ranges of unit numbers, ascending and apart.
pub(crate) fn content_units(
    sources: &Sources,
    id: SpaceId,
    space: &SpaceState,
    per_unit: u64,
) -> Result<Vec<(u64, u64)>> {
    let Some(last) = space.pages().checked_sub(1) else { return Ok(Vec::new()) };
    let last = last / per_unit;
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let mut add = |first: u64, end: u64| {
        if first > last {
            return;
        }
        let (mut first, mut end) = (first, end.min(last));
        // Merge with what overlaps or touches; mostly that is the last range added.
        while let Some((&f, &e)) = found.range(..=end.saturating_add(1)).next_back() {
            if e.saturating_add(1) < first {
                break;
            }
            found.remove(&f);
            (first, end) = (first.min(f), end.max(e));
        }
        found.insert(first, end);
    };
    for layer in sources.base.iter().chain(&sources.deltas) {
        for part in layer.parts.iter().filter(|p| p.space == id) {
            let reader = sources.parts.get(layer.node, part)?;
            for block in reader.blocks(part.first, part.last) {
                let (first, end) = (block.first.max(part.first), block.last.min(part.last));
                add(first / per_unit, end / per_unit);
            }
        }
        // A page that a cut of an earlier stretch left in part is an entry of the layer, and so in
        // a block.
    }
    sources.tail.touched_units(id, u64::from(space.page_size.get()), per_unit, &mut add);
    Ok(found.into_iter().collect())
}

/// Runs `work` over units with one worker per core, each with its own rebuilder. Stops at the first
/// error, and when cancelled.
pub(crate) fn run_units<T: Send>(
    options: &ReplayOptions,
    items: impl Iterator<Item = T> + Send,
    work: &(dyn Fn(&mut Rebuilder, T) -> Result<()> + Sync),
) -> Result<()> {
    let items = Mutex::new(items);
    let failed = AtomicBool::new(false);
    let worker = || -> Result<()> {
        let mut rebuilder = Rebuilder::new()?;
        while !failed.load(Ordering::Relaxed) {
            options.cancel.check().inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            let next = items.lock().next();
            let Some(item) = next else { break };
            if let Err(e) = work(&mut rebuilder, item) {
                failed.store(true, Ordering::Relaxed);
                return Err(e);
            }
        }
        Ok(())
    };
    sync::scope(|scope| {
        let others: Vec<_> = (1..options.threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut result = worker();
        for other in others {
            let joined = other.join().unwrap_or_else(|_| Err(Error::host("a worker panicked")));
            result = result.and(joined);
        }
        result
    })
}

/// Bytes of a range of units, first and last.
fn range_bytes((first, last): (u64, u64), unit_bytes: u64, length: u64) -> u64 {
    ((last + 1) * unit_bytes).min(length) - first * unit_bytes
}

/// Which units of a state hold anything: what there is to rebuild.
#[derive(Debug)]
pub(crate) struct Layout(Vec<SpaceLayout>);

#[derive(Debug)]
struct SpaceLayout {
    id: SpaceId,
    state: SpaceState,
    pages_per_unit: u64,
    /// Ranges of units that hold anything, ascending and apart.
    units: Vec<(u64, u64)>,
}

impl SpaceLayout {
    fn unit_bytes(&self) -> u64 {
        self.pages_per_unit * u64::from(self.state.page_size.get())
    }

    /// Bytes of pages that hold anything.
    fn bytes(&self) -> u64 {
        self.units
            .iter()
            .map(|range| range_bytes(*range, self.unit_bytes(), self.state.length))
            .sum()
    }

    /// Offset and length of each stretch that nothing was ever written to.
    fn gaps(&self) -> impl Iterator<Item = (u64, u64)> {
        let (unit, length) = (self.unit_bytes(), self.state.length);
        let begins = self.units.iter().map(move |(first, _)| first * unit).chain([length]);
        let ends = self.units.iter().map(move |(_, last)| ((last + 1) * unit).min(length));
        let gaps = [0].into_iter().chain(ends).zip(begins);
        gaps.filter(|(from, to)| to > from).map(|(from, to)| (from, to - from))
    }

    fn sets(&self) -> impl Iterator<Item = PageSet> {
        let units = self.units.iter().flat_map(|(first, last)| *first..=*last);
        units.map(|unit| {
            let first = unit * self.pages_per_unit;
            let end = first.saturating_add(self.pages_per_unit).min(self.state.pages());
            PageSet::new(self.id, self.state.page_size, first..end)
        })
    }
}

impl Layout {
    /// Bytes of pages that hold anything, by name of the space.
    pub fn bytes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|space| (space.state.name.as_str(), space.bytes()))
    }
}

impl PastState {
    /// What there is to rebuild of it.
    pub fn layout(&self) -> Result<Layout> {
        let layout = self.state().spaces.iter().map(|(id, space)| {
            let pages_per_unit = pages_per_unit(space, self.options().unit_bytes);
            let units = content_units(self.sources(), *id, space, pages_per_unit)?;
            Ok(SpaceLayout { id: *id, state: space.clone(), pages_per_unit, units })
        });
        Ok(Layout(layout.collect::<Result<_>>()?))
    }

    /// Rebuilds all of it into a sink.
    pub fn fill(
        &self,
        layout: &Layout,
        sink: &dyn PageSink,
        progress: Option<&mut (dyn FnMut(Progress) + Send)>,
    ) -> Result<RunStats> {
        let progress = Mutex::new(progress);
        let total = layout.0.iter().map(SpaceLayout::bytes).sum();
        let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
        let (proven, unproven) = (AtomicU64::new(0), AtomicU64::new(0));
        for space in &layout.0 {
            space.gaps().try_for_each(|(offset, length)| sink.zero(space.id, offset, length))?;
        }
        let units =
            layout.0.iter().flat_map(|space| space.sets().map(move |set| (&space.state, set)));
        run_units(self.options(), units, &|rebuilder, (space, set)| {
            let rebuilt = self.rebuild(rebuilder, &set)?;
            let (first, _) = set.bounds().expect("a unit that holds anything has pages");
            let offset = first * u64::from(set.page_size.get());
            // The last page may reach beyond the end of the space.
            let len = as_index(space.length - offset).min(rebuilt.images.len());
            sink.write(
                set.space,
                offset,
                rebuilt.images.get(..len).expect("the length is at most theirs"),
            )?;
            proven.fetch_add(rebuilt.proven, Ordering::Relaxed);
            unproven.fetch_add(rebuilt.unproven, Ordering::Relaxed);
            read.fetch_add(std::mem::take(&mut rebuilder.bytes_read), Ordering::Relaxed);
            // Counted under the lock: what is reported never goes back.
            let mut progress = progress.lock();
            let done = written.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
            if let Some(progress) = progress.as_mut() {
                progress(Progress { bytes_done: done, bytes_total: total });
            }
            Ok(())
        })?;
        Ok(RunStats {
            bytes_read: read.into_inner() + self.sources().tail.bytes_read,
            bytes_written: written.into_inner(),
            pages_proven: proven.into_inner(),
            pages_unproven: unproven.into_inner(),
        })
    }
}
