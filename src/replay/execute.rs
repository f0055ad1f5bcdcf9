//! Runs a plan: units of pages, by one worker per core, into a sink.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::rebuild::{Parts, Rebuilder, Sources, Unit};
use super::sink::{PageSink, Progress};
use crate::error::{Error, Result};
use crate::format::state::SpaceState;
use crate::options::ReplayOptions;
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

/// A restore about to run.
pub(crate) struct RestoreRun<'a> {
    pub parts: &'a Parts,
    pub sources: &'a Sources,
    pub options: &'a ReplayOptions,
    pub sink: &'a dyn PageSink,
    pub progress: Option<&'a mut (dyn FnMut(Progress) + Send)>,
}

/// Pages that a unit of about so many bytes has.
pub(crate) fn pages_per_unit(space: &SpaceState, unit_bytes: usize) -> u64 {
    (unit_bytes as u64 / u64::from(space.page_size.get())).max(1)
}

/// Which units of a space hold anything: ranges of unit numbers, ascending and apart.
pub(crate) fn content_units(
    parts: &Parts,
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
            let reader = parts.get(layer.node, part)?;
            for block in reader.blocks(part.first, part.last) {
                let (first, end) = (block.first.max(part.first), block.last.min(part.last));
                add(first / per_unit, end / per_unit);
            }
        }
        // A page that a cut of an earlier stretch left in part is an entry of the layer, and so in a block.
    }
    sources.tail.touched_units(id, u64::from(space.page_size.get()), per_unit, &mut add);
    Ok(found.into_iter().collect())
}

/// Runs `work` over units with one worker per core, each with its own rebuilder. Stops at the first error, and when cancelled.
pub(crate) fn run_units<T: Send>(
    parts: &Parts,
    options: &ReplayOptions,
    items: impl Iterator<Item = T> + Send,
    work: &(dyn Fn(&mut Rebuilder<'_>, T) -> Result<()> + Sync),
) -> Result<()> {
    let items = Mutex::new(items);
    let failed = AtomicBool::new(false);
    let worker = || -> Result<()> {
        let mut rebuilder = Rebuilder::new(parts)?;
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

/// A space and its units that hold anything.
type SpaceUnits<'s> = (SpaceId, &'s SpaceState, Vec<(u64, u64)>);

/// Bytes of a range of units, first and last.
fn range_bytes((first, last): (u64, u64), unit_bytes: u64, length: u64) -> u64 {
    ((last + 1) * unit_bytes).min(length) - first * unit_bytes
}

impl RestoreRun<'_> {
    /// Bytes of pages that have to be rebuilt, and the units.
    fn layout(&self) -> Result<(u64, Vec<SpaceUnits<'_>>)> {
        let mut total = 0;
        let mut all = Vec::new();
        for (id, space) in &self.sources.tail.state.spaces {
            let per_unit = pages_per_unit(space, self.options.unit_bytes);
            let ranges = content_units(self.parts, self.sources, *id, space, per_unit)?;
            let unit_bytes = per_unit * u64::from(space.page_size.get());
            total += ranges.iter().map(|range| range_bytes(*range, unit_bytes, space.length)).sum::<u64>();
            all.push((*id, space, ranges));
        }
        Ok((total, all))
    }

    /// Bytes of pages that hold anything, by space.
    pub fn bytes_needed(&self) -> Result<BTreeMap<SpaceId, u64>> {
        let (_, layout) = self.layout()?;
        let bytes = |(id, space, ranges): SpaceUnits<'_>| {
            let unit_bytes = pages_per_unit(space, self.options.unit_bytes) * u64::from(space.page_size.get());
            (id, ranges.iter().map(|range| range_bytes(*range, unit_bytes, space.length)).sum())
        };
        Ok(layout.into_iter().map(bytes).collect())
    }

    /// Rebuilds everything into the sink.
    pub fn run(&mut self) -> Result<RunStats> {
        let progress = Mutex::new(self.progress.take());
        let (total, layout) = self.layout()?;
        self.sink.begin(&self.sources.tail.state.spaces)?;
        let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
        let (proven, unproven) = (AtomicU64::new(0), AtomicU64::new(0));
        for (id, space, ranges) in &layout {
            let unit_bytes = pages_per_unit(space, self.options.unit_bytes) * u64::from(space.page_size.get());
            let mut at = 0;
            for (first, last) in ranges {
                if first * unit_bytes > at {
                    self.sink.zero(*id, at, first * unit_bytes - at)?;
                }
                at = ((last + 1) * unit_bytes).min(space.length);
            }
            if space.length > at {
                self.sink.zero(*id, at, space.length - at)?;
            }
        }
        let units = layout.iter().flat_map(|(id, space, ranges)| {
            let per_unit = pages_per_unit(space, self.options.unit_bytes);
            let pages = space.pages();
            ranges.iter().flat_map(|(first, last)| *first..=*last).map(move |unit| {
                let first = unit * per_unit;
                let count = per_unit.min(pages - first);
                (*space, Unit { space: *id, page_size: space.page_size, first, count })
            })
        });
        let (sources, sink) = (self.sources, self.sink);
        run_units(self.parts, self.options, units, &|rebuilder, (space, unit)| {
            rebuilder.begin(unit);
            rebuilder.apply(sources)?;
            let (p, u) = rebuilder.verify()?;
            let (images, _) = rebuilder.result();
            let offset = unit.first * u64::from(unit.page_size.get());
            // The last page may reach beyond the end of the space.
            let len = as_index(space.length - offset).min(images.len());
            sink.write(unit.space, offset, images.get(..len).unwrap_or_default())?;
            proven.fetch_add(p, Ordering::Relaxed);
            unproven.fetch_add(u, Ordering::Relaxed);
            read.fetch_add(std::mem::take(&mut rebuilder.bytes_read), Ordering::Relaxed);
            // Counted under the lock: what is reported never goes back.
            let mut progress = progress.lock();
            let done = written.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
            if let Some(progress) = progress.as_mut() {
                progress(Progress { bytes_done: done, bytes_total: total });
            }
            Ok(())
        })?;
        self.sink.finish()?;
        Ok(RunStats {
            bytes_read: read.into_inner() + self.sources.tail.bytes_read,
            bytes_written: written.into_inner(),
            pages_proven: proven.into_inner(),
            pages_unproven: unproven.into_inner(),
        })
    }
}
