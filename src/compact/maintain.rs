//! When to build what.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Builder;
use super::build::{delta_parts, snapshot_parts};
use crate::error::{Error, Result};
use crate::format::event::{Event, LayerRecord, Origin};
use crate::layer::LayerReader;
use crate::names::{self, Scope};
use crate::options::CompactOptions;
use crate::past::{NodeContext, PastState};
use crate::replay::{PlanInput, Sources, Tail, chain, collect, log_end};
use crate::sealed::remove_leftovers;
use crate::storage::{Calls, LockGuard, ReadCalls, ReadFileCalls, create_dir_durable};
use crate::types::{FileId, Position, SpaceId};

/// What maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintainReport {
    /// Layers built.
    pub layers: usize,
    /// Snapshots built.
    pub snapshots: usize,
    /// Bytes of new parts.
    pub bytes_written: u64,
}

/// One builder, or sweeper, at a time works on a node.
pub(crate) fn lock_builder(builder: &mut Builder) -> Result<Box<dyn LockGuard>> {
    let (storage, node) = (builder.context.storage.as_ref(), builder.context.node);
    create_dir_durable(storage, &names::node_dir(node))?;
    create_dir_durable(storage, names::TMP)?;
    let path = names::builder_lock(node);
    let lock = storage.locked(&path)?;
    let lock =
        lock.ok_or_else(|| Error::MaintenanceActive { node: builder.context.record.name.clone() })?;
    remove_leftovers(storage, Scope::Builder(node))?;
    // Another builder may have published since this one looked.
    builder.refresh()?;
    Ok(lock)
}

/// Makes a built layer visible. It may share parts with the snapshot `base`, which must not have
/// expired meanwhile: the lock keeps that from happening, and where locks do not hold, this does.
fn publish(builder: &mut Builder, record: LayerRecord, base: Option<FileId>) -> Result<()> {
    builder.catalog.append(&builder.actor, |state| {
        let node = state.node(builder.context.node)?;
        if base.is_some_and(|base| node.layers.iter().all(|l| l.file != base)) {
            return Err(Error::MaintenanceActive { node: node.name.clone() });
        }
        Ok((Event::LayerPublished(record.clone()), ()))
    })?;
    builder.context.record.layers.push(record);
    Ok(())
}

impl Builder {
    /// Goes by what the catalog says now.
    pub fn refresh(&mut self) -> Result<()> {
        let state = self.catalog.current()?;
        self.context.refresh(&state)
    }

    /// Opens the state at a position. A layer that turns out to be damaged is built upon no more.
    fn past(&mut self, to: Position, options: &CompactOptions) -> Result<PastState> {
        let past = PastState::open(self.context.clone(), to, None, &options.replay)?;
        if !past.damaged().is_empty() {
            self.context.record.layers = past.layers().to_vec();
        }
        Ok(past)
    }
}

/// Builds a snapshot of a position from the archive.
pub(crate) fn build_snapshot(
    builder: &mut Builder,
    to: Position,
    options: &CompactOptions,
) -> Result<MaintainReport> {
    let _lock = lock_builder(builder)?;
    snapshot(builder, to, options)
}

/// The same, by whoever holds the lock.
pub(crate) fn snapshot(
    builder: &mut Builder,
    to: Position,
    options: &CompactOptions,
) -> Result<MaintainReport> {
    let past = builder.past(to, options)?;
    let base = past.plan().base.clone();
    if base.as_ref().is_some_and(|b| b.to == to && b.consistent_from == to) {
        return Ok(MaintainReport::default());
    }
    let scope = Scope::Builder(builder.context.node);
    let (record, bytes) = {
        let layer = builder.layer(scope, None, to);
        let (new, kept) = snapshot_parts(&layer, &past, options)?;
        // The kept ones were read back when they were made; that they are whole and there is looked
        // at again.
        let parts = &past.sources().parts;
        kept.iter().try_for_each(|part| parts.get(layer.node, part).map(drop))?;
        let bytes = new.iter().map(|p| p.length).sum();
        let mut all: Vec<_> = new.into_iter().chain(kept).collect();
        all.sort_by_key(|p| (p.space, p.first));
        let record = layer.finish(past.state().clone(), to, 0, BTreeMap::new(), all)?;
        (record, bytes)
    };
    LayerReader::open(builder.context.storage.as_ref(), &builder.context.keys, &record)?;
    // Of another node's snapshot nothing is shared.
    let base = base.filter(|b| b.node == builder.context.node);
    publish(builder, record, base.map(|b| b.file))?;
    Ok(MaintainReport { layers: 0, snapshots: 1, bytes_written: bytes })
}

/// Builds the layer of a stretch; both ends must be reachable, and the beginning exact.
fn layer(
    builder: &mut Builder,
    from: Position,
    to: Position,
    level: u32,
    options: &CompactOptions,
) -> Result<MaintainReport> {
    let before = builder.past(from, options)?;
    let since = stretch(&builder.context, &before, to, options)?;
    let mut lowest: BTreeMap<SpaceId, u64> = BTreeMap::new();
    for (space, length) in since.deltas.iter().flat_map(|d| &d.lowest).chain(&since.tail.lowest) {
        let entry = lowest.entry(*space).or_insert(*length);
        *entry = (*entry).min(*length);
    }
    lowest.retain(|space, _| since.tail.state.spaces.contains_key(space));
    let scope = Scope::Builder(builder.context.node);
    let (record, bytes) = {
        let writer = builder.layer(scope, Some(from), to);
        let new = delta_parts(&writer, &before, &since, options)?;
        let bytes = new.iter().map(|p| p.length).sum();
        (writer.finish(since.tail.state.clone(), to, level, lowest, new)?, bytes)
    };
    LayerReader::open(builder.context.storage.as_ref(), &builder.context.keys, &record)?;
    publish(builder, record, None)?;
    Ok(MaintainReport { layers: 1, snapshots: 0, bytes_written: bytes })
}

/// What leads from one position to a later one: layers as far as they fit, then log.
fn stretch(
    context: &NodeContext,
    before: &PastState,
    to: Position,
    options: &CompactOptions,
) -> Result<Sources> {
    let from = before.state().position;
    let (view, lineage) = (context.view(), &context.log.lineage);
    let input = PlanInput {
        lineage,
        empty_origin: false,
        replay_floor: from,
        layers: &view.layers(lineage),
    };
    let open = |l| LayerReader::open(context.storage.as_ref(), &context.keys, l);
    let deltas = chain(&input, from, to).iter().map(open).collect::<Result<Vec<_>>>()?;
    let state = deltas.last().map_or_else(|| before.state().clone(), |d| d.state.clone());
    let tail: Tail = collect(&context.log, state, to, &options.replay)?;
    Ok(Sources { parts: Arc::clone(&before.sources().parts), base: None, deltas, tail })
}

/// Builds what is due: layers of the lowest level over the log that has none, larger ones over
/// enough of those, and a snapshot where the layers since the last one have grown to a share of it.
pub(crate) fn maintain(builder: &mut Builder, options: &CompactOptions) -> Result<MaintainReport> {
    let _lock = lock_builder(builder)?;
    let mut report = MaintainReport::default();
    let mut add = |r: MaintainReport| {
        report.layers += r.layers;
        report.snapshots += r.snapshots;
        report.bytes_written += r.bytes_written;
    };
    let end = log_end(&builder.context.log, &builder.context.view())?.position;
    if end == Position::ORIGIN {
        return Ok(report);
    }
    // A node with content from before its first commit has nothing to build on until its base
    // snapshot.
    let (view, lineage) = (builder.context.view(), &builder.context.log.lineage);
    if view.origin(lineage) == Origin::Existing
        && !view.layers(lineage).iter().any(|l| l.from.is_none())
    {
        return Ok(report);
    }
    let plan = builder.context.plan(end)?;
    if let Some(fuzzy) = plan.base.filter(|b| b.consistent_from != b.to) {
        add(snapshot(builder, fuzzy.consistent_from, options)?);
    }
    loop {
        let plan = builder.context.plan(end)?;
        let Some(next) = boundary(&builder.context, plan.log_from, end, options)? else { break };
        add(layer(builder, plan.log_from, next, 0, options)?);
        while let Some((from, to, level)) = promotion(&builder.context, options) {
            add(layer(builder, from, to, level, options)?);
        }
        let plan = builder.context.plan(next)?;
        let since: u64 = plan.deltas.iter().map(|d| d.bytes).sum();
        let base = plan.base.as_ref().map_or(0, |b| b.bytes);
        if since.saturating_mul(100) > base.saturating_mul(options.snapshot_percent) {
            add(snapshot(builder, next, options)?);
        }
    }
    Ok(report)
}

/// Where the next layer of the lowest level ends: at the first segment boundary with enough log
/// before it, or at the log's end.
fn boundary(
    context: &NodeContext,
    from: Position,
    end: Position,
    options: &CompactOptions,
) -> Result<Option<Position>> {
    let mut bytes = 0;
    for (segment, next) in context.log.between(from, end)? {
        let file = context.storage.opened(&segment.path)?;
        let whole = file.length(&segment.path)?;
        let at = next.map_or(end, |n| n.from).min(end);
        // Of a segment that begins earlier, the share of its commits that come after.
        let (all, after) = (at.get() - segment.from.get(), at.get() - from.max(segment.from).get());
        bytes += u128::from(whole) * u128::from(after) / u128::from(all.max(1));
        if bytes >= u128::from(options.layer_log_bytes) {
            return Ok((at > from).then_some(at));
        }
    }
    Ok(None)
}

/// The lowest layers that are enough to make a larger one: where it begins and ends, and its level.
fn promotion(context: &NodeContext, options: &CompactOptions) -> Option<(Position, Position, u32)> {
    let layers = || {
        context
            .record
            .layers
            .iter()
            .filter(|l| l.timeline == context.timeline())
            .filter_map(|l| Some((l.from?, l)))
    };
    let highest = layers().map(|(_, l)| l.level).max()?;
    (0..=highest).find_map(|level| {
        // Where the levels above end, the next larger layer begins.
        let covered =
            layers().filter(|(_, l)| l.level > level).map(|(_, l)| l.to).max().unwrap_or_default();
        let of_level = || layers().filter(|(from, l)| l.level == level && *from >= covered);
        // From the newest back, as far as they follow on each other: a snapshot of some other
        // position may have begun the run anew.
        let last = of_level().map(|(_, l)| l.to).max()?;
        let (mut first, mut count) = (last, 0);
        while let Some((from, _)) =
            of_level().filter(|(_, l)| l.to == first).min_by_key(|(from, _)| *from)
        {
            first = from;
            count += 1;
        }
        (count >= options.fan_out.max(2)).then_some((first, last, level + 1))
    })
}
