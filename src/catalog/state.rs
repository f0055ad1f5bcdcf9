//! The fold of the catalog.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::retention::{ArchiveRetention, NodeRetention};
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{CatalogEntry, Event, LayerRecord, Origin};
use crate::format::retention::Deletion;
use crate::types::{Epoch, KeyId, NodeId, Position, RecipientId, TimelineId, Timestamp};

/// A named commit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RestorePointRecord {
    /// Its timeline.
    #[n(0)]
    pub timeline: TimelineId,
    /// The commit.
    #[n(1)]
    pub position: Position,
    /// Its time.
    #[n(2)]
    pub timestamp: Timestamp,
}

/// A node, as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeRecord {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Whether its log tells everything.
    #[n(1)]
    pub origin: Origin,
    /// When it was created.
    #[n(2)]
    pub created: Timestamp,
    /// The newest tenure.
    #[n(3)]
    pub epoch: Epoch,
    /// The newest timeline.
    #[n(4)]
    pub timeline: TimelineId,
    /// Where each timeline but the first comes from.
    #[n(5)]
    pub parents: BTreeMap<TimelineId, (TimelineId, Position)>,
    /// Layers that can be used, snapshots included, in order of publication.
    #[n(6)]
    pub layers: Vec<LayerRecord>,
    /// Named commits.
    #[n(7)]
    pub restore_points: BTreeMap<String, RestorePointRecord>,
    /// How far the log of each timeline was durable when the catalog last spoke of it. A log that ends before that has lost its end.
    #[n(8)]
    pub durable: BTreeMap<TimelineId, Position>,
    /// How long its history is kept, and what has expired.
    #[cbor(n(9), default)]
    pub retention: NodeRetention,
}

impl NodeRecord {
    fn note_durable(&mut self, timeline: TimelineId, position: Position) {
        let durable = self.durable.entry(timeline).or_default();
        *durable = position.max(*durable);
    }

    /// Up to where the newest timeline's log has to reach.
    pub(crate) fn durable_end(&self) -> Position {
        self.durable.get(&self.timeline).copied().unwrap_or_default()
    }
}

/// Everything the catalog says. What is added here gets the next number: checkpoints hold it (`docs/format.md` §8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct CatalogState {
    /// Entries folded so far.
    #[n(0)]
    pub entries: u64,
    /// SHA-256 of the newest.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub head: [u8; 32],
    /// Time of the newest.
    #[n(2)]
    pub time: Timestamp,
    /// The generation of the archive's key.
    #[n(3)]
    pub key: Option<KeyId>,
    /// For whom it is wrapped.
    #[n(4)]
    pub recipients: Vec<RecipientId>,
    /// The nodes.
    #[n(5)]
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// How long history is kept.
    #[cbor(n(6), default)]
    pub retention: ArchiveRetention,
}

impl CatalogState {
    /// The node of this name.
    pub fn node_named(&self, name: &str) -> Result<(NodeId, &NodeRecord)> {
        self.nodes
            .iter()
            .find(|(_, n)| n.name == name && n.retention.deletion != Deletion::Final)
            .map(|(id, n)| (*id, n))
            .ok_or_else(|| Error::NoSuchNode { node: name.to_owned() })
    }

    /// The node of this number.
    pub fn node(&self, id: NodeId) -> Result<&NodeRecord> {
        self.nodes.get(&id).ok_or_else(|| Error::NoSuchNode { node: id.to_string() })
    }

    /// Takes one entry more into account.
    pub fn fold(&mut self, entry: &CatalogEntry, path: &str) -> Result<()> {
        let impossible = |found: &str| {
            Error::damage(
                DamageKind::Structure,
                path,
                0,
                "catalog event",
                "one that the entries before it allow",
                found,
            )
        };
        self.observe(entry.sequence, entry.time);
        match &entry.event {
            Event::ArchiveCreated { key, recipients } => {
                if entry.sequence != 1 {
                    return Err(impossible("a second beginning"));
                }
                self.key = Some(*key);
                self.recipients.clone_from(recipients);
            }
            Event::NodeCreated { node, name, origin } => {
                crate::types::check_name("node", name).map_err(|_| impossible("an unusable name"))?;
                let record = NodeRecord {
                    name: name.clone(),
                    origin: *origin,
                    created: entry.time,
                    epoch: Epoch::new(0),
                    timeline: TimelineId::new(1),
                    parents: BTreeMap::new(),
                    layers: Vec::new(),
                    restore_points: BTreeMap::new(),
                    durable: BTreeMap::new(),
                    retention: NodeRetention::default(),
                };
                if self.node_named(name).is_ok() || self.nodes.insert(*node, record).is_some() {
                    return Err(impossible("a node twice"));
                }
            }
            Event::WriterOpened { node, timeline, epoch, position } => {
                let record = self.nodes.get_mut(node).ok_or_else(|| impossible("an unknown node"))?;
                if *epoch <= record.epoch {
                    return Err(impossible("an epoch that does not rise"));
                }
                record.epoch = *epoch;
                record.note_durable(*timeline, *position);
            }
            Event::LayerPublished(layer) => {
                let record = self.nodes.get_mut(&layer.node).ok_or_else(|| impossible("an unknown node"))?;
                record.layers.push(layer.clone());
                record.note_durable(layer.timeline, layer.to.max(layer.consistent_from));
            }
            Event::RestorePoint { node, timeline, name, position, timestamp } => {
                let record = self.nodes.get_mut(node).ok_or_else(|| impossible("an unknown node"))?;
                let point = RestorePointRecord { timeline: *timeline, position: *position, timestamp: *timestamp };
                if record.restore_points.insert(name.clone(), point).is_some() {
                    return Err(impossible("a restore point twice"));
                }
                record.note_durable(*timeline, *position);
            }
            Event::TimelineCreated { node, timeline, parent, fork } => {
                let record = self.nodes.get_mut(node).ok_or_else(|| impossible("an unknown node"))?;
                if *timeline <= record.timeline {
                    return Err(impossible("a timeline that does not rise"));
                }
                record.parents.insert(*timeline, (*parent, *fork));
                record.timeline = *timeline;
            }
            _ => self.fold_retention(entry, &impossible)?,
        }
        self.entries = entry.sequence;
        self.time = entry.time;
        Ok(())
    }
}
