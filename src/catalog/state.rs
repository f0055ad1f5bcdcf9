//! What the catalog says, as a value, and queries of it. Only `fold` changes it.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::retention::{ArchiveRetention, Hold, NodeRetention};
use crate::error::{Error, Result};
use crate::format::event::{LayerRecord, Origin};
use crate::format::retention::{Deletion, HoldScope};
use crate::lineage::Fork;
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
    /// Whether its log holds everything from the first commit on.
    #[n(1)]
    pub origin: Origin,
    /// When it was created.
    #[n(2)]
    pub created: Timestamp,
    /// The newest epoch: each tenure of a writer has a higher one.
    #[n(3)]
    pub epoch: Epoch,
    /// The newest timeline.
    #[n(4)]
    pub timeline: TimelineId,
    /// The parent of each timeline but the first, and where it forks off.
    #[n(5)]
    pub parents: BTreeMap<TimelineId, (TimelineId, Position)>,
    /// Layers that can be used, snapshots included, in order of publication.
    #[n(6)]
    pub layers: Vec<LayerRecord>,
    /// Named commits.
    #[n(7)]
    pub restore_points: BTreeMap<String, RestorePointRecord>,
    /// How far the log of each timeline was durable as of the newest entry that names it. A log
    /// that ends earlier has lost its end.
    #[n(8)]
    pub durable: BTreeMap<TimelineId, Position>,
    /// How long its history is kept, and what has expired.
    #[cbor(n(9), default)]
    pub retention: NodeRetention,
    /// The commit of another node from which its first timeline continues. No event records it yet,
    /// so only the process that made the branch knows it.
    #[cbor(skip)]
    pub(crate) branched: Option<Fork>,
}

impl NodeRecord {
    pub(super) fn note_durable(&mut self, timeline: TimelineId, position: Position) {
        let durable = self.durable.entry(timeline).or_default();
        *durable = position.max(*durable);
    }
}

/// Everything that the catalog says. A new field gets the next number: checkpoints hold this struct
/// (`docs/format.md` §8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct CatalogState {
    /// Entries folded so far.
    #[n(0)]
    pub entries: u64,
    /// SHA-256 of the newest entry.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub head: [u8; 32],
    /// Time of the newest entry.
    #[n(2)]
    pub time: Timestamp,
    /// The generation of the archive's key.
    #[n(3)]
    pub key: Option<KeyId>,
    /// The recipients that the key is wrapped for.
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

    /// Whether a node is deleted, by itself or with the archive.
    pub fn deletion(&self, node: NodeId) -> Deletion {
        let own = self.nodes.get(&node).map_or(Deletion::Live, |n| n.retention.deletion);
        match (own, self.retention.deletion) {
            (Deletion::Live, archive) => archive,
            (Deletion::Until(a), Deletion::Until(b)) => Deletion::Until(a.min(b)),
            (own, _) => own,
        }
    }

    /// Refuses operations on a node that is deleted.
    pub fn check_live(&self, node: NodeId) -> Result<()> {
        let name = || self.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone());
        match self.deletion(node) {
            Deletion::Live => Ok(()),
            Deletion::Until(until) => Err(Error::Deleted { what: name(), until }),
            Deletion::Final => Err(Error::NoSuchNode { node: name() }),
        }
    }

    /// Locks on a node, those of the archive included.
    pub fn locks(&self, node: Option<NodeId>) -> impl Iterator<Item = &String> {
        let own =
            node.and_then(|n| self.nodes.get(&n)).into_iter().flat_map(|n| &n.retention.locks);
        self.retention.locks.iter().chain(own)
    }

    /// Holds that concern a node.
    pub fn holds(&self, node: NodeId, now: Timestamp) -> impl Iterator<Item = (&String, &Hold)> {
        self.retention.holds.iter().filter(move |(_, hold)| {
            let concerns = match hold.scope {
                HoldScope::Archive => true,
                HoldScope::Node { node: n } | HoldScope::Commits { node: n, .. } => n == node,
            };
            concerns && hold.is_active(now)
        })
    }
}
