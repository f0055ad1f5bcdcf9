//! Pages into parts.

use std::collections::BTreeMap;

use super::Builder;
use super::reuse::{OldBlock, Since};
use crate::delta::{Decoder, Encoder};
use crate::error::{DamageKind, Error, Result};
use crate::format::event::LayerRecord;
use crate::format::part::PartRef;
use crate::format::state::SpaceState;
use crate::layer::{
    BlockBuffers, Copied, CopiedBlock, LayerReader, LayerWriter, PageEntry, PartReader, PartWriter,
};
use crate::names::Scope;
use crate::options::CompactOptions;
use crate::past::{PastState, content_units, pages_per_unit, run_units};
use crate::replay::{PageSet, Rebuilder, Sources};
use crate::sealed::ArchiveKeys;
use crate::storage::ReadStore;
use crate::sync::Mutex;
use crate::types::{NodeId, PageSize, Position, SpaceId, TimelineId, as_index};

/// Regions are not made smaller than this for the sake of more workers: each ends in a file of its
/// own, and in syncs.
const MIN_REGION: u64 = 16 << 20;

/// Bytes that a copy reads at a time.
const COPY: usize = 1 << 20;

/// Gathers pages of one space into parts of bounded size. The parts' rectangles lie side by side.
struct PartSplitter<'a, 'b> {
    layer: &'b LayerWriter<'a>,
    space: SpaceId,
    page_size: PageSize,
    bound: u64,
    /// Where the rectangle of the part being written begins.
    first: u64,
    part: Option<PartWriter<'a>>,
    done: Vec<(PartRef, Copied)>,
}

impl<'a, 'b> PartSplitter<'a, 'b> {
    fn new(
        layer: &'b LayerWriter<'a>,
        space: SpaceId,
        page_size: PageSize,
        first: u64,
        bound: u64,
    ) -> PartSplitter<'a, 'b> {
        PartSplitter { layer, space, page_size, bound, first, part: None, done: Vec::new() }
    }

    /// The part to write `page` to.
    fn part(&mut self, page: u64) -> Result<&mut PartWriter<'a>> {
        if self.part.as_ref().is_some_and(|p| p.data() >= self.bound)
            && let Some(full) = self.part.take()
            && let Some(last) = page.checked_sub(1)
        {
            self.done.push(full.finish(self.first, last)?);
            self.first = page;
        }
        match self.part.take() {
            Some(part) => Ok(self.part.insert(part)),
            None => Ok(self.part.insert(self.layer.part(self.space, self.page_size)?)),
        }
    }

    fn finish(mut self, last: u64) -> Result<Vec<(PartRef, Copied)>> {
        if let Some(part) = self.part.take() {
            self.done.push(part.finish(self.first, last)?);
        }
        Ok(self.done)
    }
}

fn is_zero(image: &[u8]) -> bool {
    image.iter().all(|&b| b == 0)
}

/// Copies all pages of a space from `read`, which fills a buffer from a page on.
pub(crate) fn copy_parts(
    layer: &LayerWriter<'_>,
    id: SpaceId,
    space: &SpaceState,
    options: &CompactOptions,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Vec<PartRef>> {
    let size = space.page_size.bytes();
    let mut parts = PartSplitter::new(layer, id, space.page_size, 0, options.part_bytes);
    let mut buffer = Vec::new();
    let mut first = 0;
    while first < space.pages() {
        let count = as_index(space.pages() - first).min(COPY / size);
        buffer.clear();
        buffer.resize(count * size, 0);
        read(first, &mut buffer)?;
        for (page, image) in (first..).zip(buffer.chunks_exact_mut(size)) {
            // What lies beyond the end of the space is no part of its state.
            let start = page * size as u64;
            if let Some(beyond) =
                usize::try_from(space.length - start).ok().and_then(|kept| image.get_mut(kept..))
            {
                beyond.fill(0);
            }
            if !is_zero(image) {
                parts.part(page)?.full(page, crc32fast::hash(image), image)?;
            }
        }
        first += count as u64;
    }
    let done = parts.finish(space.pages().saturating_sub(1))?;
    Ok(done.into_iter().map(|(part, _)| part).collect())
}

/// A stretch of pages that becomes one or more parts, built by one worker.
#[derive(Clone, Debug)]
struct Region {
    space: SpaceId,
    state: SpaceState,
    first: u64,
    last: u64,
    /// Units in it that hold anything.
    units: Vec<(u64, u64)>,
}

/// Cuts the units that hold anything into regions: those given, which are in order and apart, and
/// in the gaps between and beyond them stretches of `stride` pages. Every page of every unit lies
/// in exactly one region.
fn regions(
    space: SpaceId,
    state: &SpaceState,
    units: &[(u64, u64)],
    per_unit: u64,
    stride_units: u64,
    given: &[(u64, u64)],
) -> Vec<Region> {
    let stride = stride_units.saturating_mul(per_unit).max(1);
    let mut regions: BTreeMap<u64, Region> = BTreeMap::new();
    for unit in units.iter().flat_map(|(first, last)| *first..=*last) {
        let mut page = unit * per_unit;
        let end = page + per_unit - 1;
        // Regions may begin within a unit: then the unit belongs to each that it reaches into.
        while page <= end {
            let next = given.partition_point(|(_, last)| *last < page);
            let (first, last) = match given.get(next) {
                Some(&(first, last)) if first <= page => (first, last),
                after => {
                    let before = next.checked_sub(1).and_then(|i| given.get(i));
                    let floor = before.map_or(0, |(_, last)| last.saturating_add(1));
                    let ceiling = after.map_or(u64::MAX, |(first, _)| first.saturating_sub(1));
                    let stretch = page / stride * stride;
                    (stretch.max(floor), stretch.saturating_add(stride - 1).min(ceiling))
                }
            };
            let region = regions.entry(first).or_insert_with(|| Region {
                space,
                state: state.clone(),
                first,
                last,
                units: Vec::new(),
            });
            match region.units.last_mut() {
                Some((_, l)) if *l + 1 == unit => *l = unit,
                _ => region.units.push((unit, unit)),
            }
            page = last.saturating_add(1);
        }
    }
    regions.into_values().collect()
}

/// Takes over the blocks that `clean` finds in each region and runs `emit` for all other pages of
/// its units, on all workers; gives the parts in order, each read back.
fn build_regions(
    layer: &LayerWriter<'_>,
    options: &CompactOptions,
    regions: Vec<Region>,
    clean: &(dyn Fn(&Region) -> Result<Vec<OldBlock>> + Sync),
    emit: &(
         dyn Fn(&mut Rebuilder, &Region, &PageSet, &mut PartSplitter<'_, '_>) -> Result<()> + Sync
     ),
) -> Result<Vec<PartRef>> {
    let built = Mutex::new(Vec::new());
    run_units(&options.replay, regions.into_iter(), &|rebuilder, region| {
        let per_unit = pages_per_unit(&region.state, options.replay.unit_bytes);
        let pages = region.state.pages();
        let (id, size) = (region.space, region.state.page_size);
        let mut parter = PartSplitter::new(layer, id, size, region.first, options.part_bytes);
        let mut clean = clean(&region)?.into_iter().peekable();
        let (mut buffers, mut copied) = (BlockBuffers::default(), CopiedBlock::default());
        // Where the pages begin that were not looked at yet: a block may reach beyond its unit.
        let mut next = region.first;
        for unit in region.units.iter().flat_map(|(first, last)| *first..=*last) {
            next = next.max(unit * per_unit);
            let end = ((unit + 1) * per_unit).min(pages).min(region.last.saturating_add(1));
            while next < end {
                while clean.next_if(|old| old.block.first < next).is_some() {}
                let block = clean.next_if(|old| old.block.first == next);
                if let Some(OldBlock { part, block }) = block {
                    part.copy(&block, &mut buffers, &mut copied)?;
                    parter.part(block.first)?.copy(&copied)?;
                    next = block.last + 1;
                } else {
                    let stop = clean.peek().map_or(end, |old| old.block.first.min(end));
                    emit(rebuilder, &region, &PageSet::new(id, size, next..stop), &mut parter)?;
                    next = stop;
                }
            }
        }
        let done = parter.finish(region.last)?;
        let mut reading = ReadBack::new()?;
        for (part, copied) in &done {
            reading.part(layer.storage, layer.keys, layer.node, part, copied)?;
        }
        built.lock().extend(done.into_iter().map(|(part, _)| part));
        Ok(())
    })?;
    let mut built = built.into_inner();
    built.sort_by_key(|p: &PartRef| (p.space, p.first));
    Ok(built)
}

/// Units of a region: as many as make a part, and in a small state so few that every worker has
/// one.
fn stride_units(state: &SpaceState, options: &CompactOptions) -> u64 {
    let unit = pages_per_unit(state, options.replay.unit_bytes) * u64::from(state.page_size.get());
    let share = state.length.div_ceil(options.replay.threads.max(1) as u64).max(MIN_REGION);
    options.part_bytes.min(share).div_ceil(unit).max(1)
}

/// The rectangle of a part in pieces of `stride` pages; the last one also holds all that lies
/// beyond the end of the space.
fn pieces(part: &PartRef, pages: u64, stride: u64) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    let mut first = part.first;
    while let Some(next) =
        first.checked_add(stride).filter(|next| *next < pages && *next <= part.last)
    {
        pieces.push((first, next - 1));
        first = next;
    }
    pieces.push((first, part.last));
    pieces
}

/// Builds the parts of a snapshot of a state. Gives those that are new and those that the last
/// snapshot already had.
pub(super) fn snapshot_parts(
    layer: &LayerWriter<'_>,
    past: &PastState,
    options: &CompactOptions,
) -> Result<(Vec<PartRef>, Vec<PartRef>)> {
    let sources = past.sources();
    let (mut all, mut kept) = (Vec::new(), Vec::new());
    // What came after the last snapshot.
    let since = Since { sources };
    for (id, state) in &past.state().spaces {
        let per_unit = pages_per_unit(state, options.replay.unit_bytes);
        let mut units = content_units(sources, *id, state, per_unit)?;
        let base = sources.base.iter().filter(|b| b.node == layer.node);
        let old: Vec<&PartRef> = base.flat_map(|b| &b.parts).filter(|p| p.space == *id).collect();
        let mut given = Vec::new();
        for part in old {
            if since.untouched(*id, state, part)? {
                kept.push(part.clone());
                let (first, last) = (part.first / per_unit, part.last / per_unit);
                units = without(&units, first, last, part, per_unit);
            } else {
                given.extend(pieces(part, state.pages(), stride_units(state, options) * per_unit));
            }
        }
        let kept_ranges: Vec<(u64, u64)> =
            kept.iter().filter(|p| p.space == *id).map(|p| (p.first, p.last)).collect();
        given.extend(&kept_ranges);
        given.sort_unstable();
        let mut found = regions(*id, state, &units, per_unit, stride_units(state, options), &given);
        // A region that is a kept part was reached only by a unit that it shares with a neighbour.
        found.retain(|r| !kept_ranges.contains(&(r.first, r.last)));
        all.extend(found);
    }
    let clean = |region: &Region| {
        since.clean_blocks(region.space, &region.state, (region.first, region.last))
    };
    let new = build_regions(layer, options, all, &clean, &|rebuilder, _, set, parter| {
        let rebuilt = past.rebuild(rebuilder, set)?;
        let pages = rebuilt.images.chunks_exact(set.page_size.bytes()).zip(rebuilt.pages);
        for ((image, page), number) in pages.zip(set.numbers()) {
            if !is_zero(image) {
                let crc = page.crc.unwrap_or_else(|| crc32fast::hash(image));
                parter.part(number)?.full(number, crc, image)?;
            }
        }
        Ok(())
    })?;
    Ok((new, kept))
}

/// Units but those that lie wholly within a part.
fn without(
    units: &[(u64, u64)],
    first: u64,
    last: u64,
    part: &PartRef,
    per_unit: u64,
) -> Vec<(u64, u64)> {
    // A unit at either edge may reach into a neighbouring part: it stays.
    let inner_first = if part.first.is_multiple_of(per_unit) { first } else { first + 1 };
    let whole_end = part.last.saturating_add(1).is_multiple_of(per_unit);
    let inner_end = if whole_end { last + 1 } else { last };
    units
        .iter()
        .flat_map(|&(f, l)| {
            let before = (f < inner_first).then(|| (f, l.min(inner_first.saturating_sub(1))));
            let after = (l >= inner_end).then(|| (f.max(inner_end), l));
            if inner_first >= inner_end { [Some((f, l)), None] } else { [before, after] }
        })
        .flatten()
        .collect()
}

/// Builds the parts of a layer: every page that `since` touched, as what it has become since the
/// state of `before`.
pub(super) fn delta_parts(
    layer: &LayerWriter<'_>,
    before: &PastState,
    since: &Sources,
    options: &CompactOptions,
) -> Result<Vec<PartRef>> {
    let mut all = Vec::new();
    for (id, state) in &since.tail.state.spaces {
        let per_unit = pages_per_unit(state, options.replay.unit_bytes);
        let units = content_units(since, *id, state, per_unit)?;
        all.extend(regions(*id, state, &units, per_unit, stride_units(state, options), &[]));
    }
    build_regions(layer, options, all, &|_| Ok(Vec::new()), &|rebuilder, _, set, parter| {
        before.lay(rebuilder, set)?;
        let (images, pages) = rebuilder.result();
        let (old, had): (Vec<u8>, Vec<bool>) =
            (images.to_vec(), pages.iter().map(|p| p.written).collect());
        rebuilder.forget_touched();
        rebuilder.apply(since)?;
        rebuilder.verify(layer.node)?;
        let (images, pages) = rebuilder.result();
        let size = set.page_size.bytes();
        let mut encoder = Encoder::new()?;
        let mut patch = Vec::new();
        let olds = old.chunks_exact(size).zip(had);
        for (((image, page), (old, had)), number) in
            images.chunks_exact(size).zip(pages).zip(olds).zip(set.numbers())
        {
            if !page.touched {
                continue;
            }
            let crc = page.crc.unwrap_or_else(|| crc32fast::hash(image));
            if is_zero(image) {
                parter.part(number)?.zero(number, crc)?;
                continue;
            }
            patch.clear();
            if had {
                encoder.patch(image, old, &mut patch)?;
            }
            // Beyond half a page a full image among others compresses about as well and needs no
            // other layer.
            if had && patch.len() <= size / 2 {
                parter.part(number)?.patch(number, crc, &patch)?;
            } else {
                parter.part(number)?.full(number, crc, image)?;
            }
        }
        Ok(())
    })
}

/// Reads a layer that was just written: everything decrypts, and every full image has its CRC-32.
pub(crate) fn read_back(
    storage: &dyn ReadStore,
    keys: &ArchiveKeys,
    record: &LayerRecord,
) -> Result<()> {
    let body = LayerReader::open(storage, keys, record)?;
    let mut reading = ReadBack::new()?;
    body.parts
        .iter()
        .try_for_each(|part| reading.part(storage, keys, record.node, part, &Copied::new()))
}

/// Reads parts that were just written; see [`read_back`].
struct ReadBack {
    decoder: Decoder,
    buffers: BlockBuffers,
}

impl ReadBack {
    fn new() -> Result<ReadBack> {
        Ok(ReadBack { decoder: Decoder::new()?, buffers: BlockBuffers::default() })
    }

    /// Blocks that were copied are not decompressed: they are, as their CRC-32 says, what was read
    /// back when it was first written.
    fn part(
        &mut self,
        storage: &dyn ReadStore,
        keys: &ArchiveKeys,
        node: NodeId,
        part: &PartRef,
        copied: &Copied,
    ) -> Result<()> {
        let reader = PartReader::open(storage, keys, node, part)?;
        let mut entries = 0;
        for block in &reader.seal().blocks {
            if let Some(crc) = copied.get(&block.offset) {
                entries += reader.compare(block, *crc, &mut self.buffers)?;
                continue;
            }
            reader.visit(
                block,
                (0, u64::MAX),
                &mut self.buffers,
                &mut self.decoder,
                &mut |page, crc, entry| {
                    entries += 1;
                    match entry {
                        PageEntry::Full(image) if crc32fast::hash(image) != crc => {
                            let (expected, found) =
                                (format_args!("{crc:08x} of page {page}"), crc32fast::hash(image));
                            Err(Error::damage(
                                DamageKind::PageImage,
                                reader.path(),
                                block.offset,
                                "page",
                                expected,
                                found,
                            ))
                        }
                        _ => Ok(()),
                    }
                },
            )?;
        }
        if entries != part.entries {
            let (path, expected) = (reader.path(), part.entries);
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                0,
                "pages of a part",
                expected,
                entries,
            ));
        }
        Ok(())
    }
}

impl Builder {
    /// The timeline of the node that the state at a position is of.
    fn timeline_of(&self, position: Position) -> TimelineId {
        let context = &self.context;
        let line = context.log.lineage.at(position).line;
        // What is built belongs to its own node, also where the commit is another's.
        if line.node == context.node { line.timeline } else { context.timeline() }
    }

    /// What a new layer of this node has in common with its parts.
    pub(super) fn layer(
        &self,
        scope: Scope,
        from: Option<Position>,
        to: Position,
    ) -> LayerWriter<'_> {
        LayerWriter {
            storage: self.context.storage.as_ref(),
            keys: &self.context.keys,
            scope,
            node: self.context.node,
            timeline: self.timeline_of(to),
            from,
            to,
            created: self.clock.now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_lies_in_one_region() {
        let state = SpaceState { name: "s".into(), page_size: PageSize::MIN, length: 512 * 1_000 };
        let givens: [&[(u64, u64)]; 6] = [
            &[],
            &[(5, 5)],
            &[(3, 9), (10, 12), (40, 47)],
            &[(0, 2)],
            &[(7, 99)],
            &[(1, 1), (3, 3), (31, 33)],
        ];
        for given in givens {
            for (per_unit, stride_units) in [(1, 1), (1, 4), (4, 1), (4, 2), (8, 3)] {
                let units = [(0, 2), (5, 6), (9, 11)];
                let found = regions(SpaceId::new(0), &state, &units, per_unit, stride_units, given);
                for page in units.iter().flat_map(|(f, l)| f * per_unit..(l + 1) * per_unit) {
                    let holders: Vec<_> = found
                        .iter()
                        .filter(|r| (r.first..=r.last).contains(&page))
                        .filter(|r| {
                            r.units
                                .iter()
                                .any(|(f, l)| (f * per_unit..(l + 1) * per_unit).contains(&page))
                        })
                        .map(|r| (r.first, r.last))
                        .collect();
                    assert_eq!(
                        holders.len(),
                        1,
                        "page {page}, {given:?}, units of {per_unit}: {holders:?}"
                    );
                    for range in given.iter().filter(|(f, l)| (f..=l).contains(&&page)) {
                        assert_eq!(holders, [*range], "page {page}");
                    }
                }
                for pair in found.windows(2) {
                    assert!(pair[0].last < pair[1].first, "{given:?}: regions overlap");
                }
            }
        }
    }
}
