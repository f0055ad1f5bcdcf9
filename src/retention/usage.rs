//! What an archive takes on disk, and what a window costs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Result;
use crate::history::segment_runs;
use crate::layer::{list_layers, list_parts};
use crate::names;
use crate::past::NodeContext;
use crate::replay::log_end;
use crate::storage::{ReadCalls, ReadStore};

const DAY: u128 = 86_400 * 1_000_000_000;

/// The bytes of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeUsage {
    /// The log.
    pub log: u64,
    /// Snapshots. A part that several of them share counts once; parts that expired and are not
    /// removed yet count, too.
    pub snapshots: u64,
    /// Layers between snapshots.
    pub layers: u64,
    /// The time that the newest range of the log covers: the window and the log before it that it
    /// is based on.
    pub covers: Duration,
    /// Growth of the log per day.
    pub log_bytes_per_day: u64,
    /// Growth of the layers per day.
    pub layers_a_day: u64,
    /// The newest snapshot alone.
    pub newest_snapshot: u64,
}

impl NodeUsage {
    /// The sum of all of these.
    pub fn total(&self) -> u64 {
        self.log + self.snapshots + self.layers
    }

    /// About the bytes that a continuous window of this length takes at the current growth: a base
    /// snapshot, what is added during the window, and up to another snapshot's size while the next
    /// one is not worth building.
    pub fn estimate(&self, window: Duration) -> u64 {
        let daily = u128::from(self.log_bytes_per_day + self.layers_a_day);
        let grown = daily.saturating_mul(window.as_nanos()) / DAY;
        u64::try_from(grown)
            .unwrap_or(u64::MAX)
            .saturating_add(self.newest_snapshot.saturating_mul(2))
    }
}

/// The bytes of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// By node.
    pub nodes: BTreeMap<String, NodeUsage>,
    /// The catalog, which is the audit trail too.
    pub catalog: u64,
}

impl Usage {
    /// About the bytes that a continuous window of this length takes in all nodes; see
    /// [`NodeUsage::estimate`]. Pass the current window to see its cost, or a longer one.
    pub fn estimate(&self, window: Duration) -> u64 {
        self.nodes
            .values()
            .map(|node| node.estimate(window))
            .fold(self.catalog, u64::saturating_add)
    }

    /// The sum of all of these.
    pub fn total(&self) -> u64 {
        self.nodes.values().map(NodeUsage::total).sum::<u64>() + self.catalog
    }
}

pub(crate) fn catalog_bytes(storage: &dyn ReadStore) -> Result<u64> {
    let mut bytes = 0;
    for group in storage.listed(names::CATALOG)?.iter().filter(|e| e.is_dir) {
        bytes += storage
            .listed(&names::join(names::CATALOG, &group.name))?
            .iter()
            .map(|e| e.len)
            .sum::<u64>();
    }
    Ok(bytes)
}

fn a_day(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes).saturating_mul(DAY) / nanos).unwrap_or(u64::MAX)
}

pub(crate) fn usage(context: &NodeContext) -> Result<NodeUsage> {
    let storage = context.storage.as_ref();
    let record = &context.record;
    let mut usage = NodeUsage::default();
    for timeline in record.timelines() {
        usage.log += context.log_of(timeline).all()?.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    let parts: u64 = list_parts(storage, context.node)?.iter().map(|(_, bytes)| bytes).sum();
    let files: u64 = list_layers(storage, context.node)?.iter().map(|(_, bytes)| bytes).sum();
    usage.layers =
        record.layers.iter().filter(|l| l.from.is_some()).map(|l| l.bytes + l.length).sum();
    usage.snapshots = (parts + files).saturating_sub(usage.layers);
    usage.newest_snapshot = record
        .layers
        .iter()
        .filter(|l| l.from.is_none())
        .max_by_key(|l| l.to)
        .map_or(0, |l| l.bytes + l.length);
    // What is kept from before the window does not show how fast the log grows.
    let window = segment_runs(&context.log, &context.view())?.pop().unwrap_or_default();
    if let Some((oldest, _)) = window.first() {
        let reader = context.log.open(oldest)?;
        let (begins, until) =
            (reader.created(), log_end(&context.log, &context.view())?.known_until);
        usage.covers = Duration::from_nanos(until.as_nanos().saturating_sub(begins.as_nanos()));
        // Less than an hour does not show the growth of a day.
        if usage.covers >= Duration::from_secs(3_600) {
            usage.log_bytes_per_day =
                a_day(window.iter().map(|(_, bytes)| bytes).sum(), usage.covers);
            let layers =
                record.layers.iter().filter(|l| l.from.is_some_and(|from| from >= oldest.from));
            usage.layers_a_day = a_day(layers.map(|l| l.bytes + l.length).sum(), usage.covers);
        }
    }
    Ok(usage)
}
