//! Events of the catalog (`docs/format.md` §8).

use minicbor::{Decode, Encode};

use crate::types::{Epoch, FileId, KeyId, NodeId, Position, RecipientId, TimelineId, Timestamp};

/// Most bytes of one event.
pub const MAX_EVENT: usize = 1 << 20;
/// The newest kind of event that this build knows.
pub const NEWEST_EVENT: u64 = 5;

/// One entry of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CatalogEntry {
    /// Its number, from 1.
    #[n(0)]
    pub sequence: u64,
    /// When it was written, by its writer's clock.
    #[n(1)]
    pub time: Timestamp,
    /// Who caused it.
    #[n(2)]
    pub actor: Actor,
    /// What happened.
    #[n(3)]
    pub event: Event,
}

/// Who acts, for the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Actor {
    /// A person, a service.
    #[n(0)]
    pub name: String,
    /// Why, in their words.
    #[n(1)]
    pub reason: String,
}

/// Whether the log of a node tells everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Origin {
    /// The node was empty before its first commit: its log is complete from there.
    #[n(0)]
    Empty,
    /// The node had content before its first commit: nothing can be restored before its first base snapshot.
    #[n(1)]
    Existing,
}

/// What happened. A variant's number is never used again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Event {
    /// The archive begins.
    #[n(0)]
    ArchiveCreated {
        /// The generation of its key.
        #[n(0)]
        key: KeyId,
        /// For whom that key is wrapped: the stanzas in headers are not authenticated, this list is.
        #[n(1)]
        recipients: Vec<RecipientId>,
    },
    /// A node begins, on timeline 1.
    #[n(1)]
    NodeCreated {
        /// Its number.
        #[n(0)]
        node: NodeId,
        /// Its name.
        #[n(1)]
        name: String,
        /// Whether its log tells everything.
        #[n(2)]
        origin: Origin,
    },
    /// A writer begins its tenure.
    #[n(2)]
    WriterOpened {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// The timeline it writes.
        #[n(1)]
        timeline: TimelineId,
        /// Its tenure.
        #[n(2)]
        epoch: Epoch,
        /// The position it continues from.
        #[n(3)]
        position: Position,
    },
    /// A layer or snapshot can be used.
    #[n(3)]
    LayerPublished(#[n(0)] LayerRecord),
    /// A commit has a name.
    #[n(4)]
    RestorePoint {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// The timeline.
        #[n(1)]
        timeline: TimelineId,
        /// The name.
        #[n(2)]
        name: String,
        /// The commit.
        #[n(3)]
        position: Position,
        /// Its time.
        #[n(4)]
        timestamp: Timestamp,
    },
    /// A new timeline begins.
    #[n(5)]
    TimelineCreated {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// The new timeline.
        #[n(1)]
        timeline: TimelineId,
        /// The one it leaves.
        #[n(2)]
        parent: TimelineId,
        /// Where.
        #[n(3)]
        fork: Position,
    },
}

/// A published layer, as the catalog knows it: enough to plan with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LayerRecord {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// The timeline.
    #[n(1)]
    pub timeline: TimelineId,
    /// The layer's file.
    #[n(2)]
    pub file: FileId,
    /// Where its range begins; none: a snapshot.
    #[n(3)]
    pub from: Option<Position>,
    /// Where its range ends.
    #[n(4)]
    pub to: Position,
    /// The earliest position it serves.
    #[n(5)]
    pub consistent_from: Position,
    /// Time of the commit at `to`.
    #[n(6)]
    pub timestamp: Timestamp,
    /// Its place in the hierarchy.
    #[n(7)]
    pub level: u32,
    /// Bytes of all its parts, those it shares with others included.
    #[n(8)]
    pub bytes: u64,
    /// Length of its file.
    #[n(9)]
    pub length: u64,
    /// Key commitment in its header.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub commitment: [u8; 32],
    /// Pages in all its parts.
    #[n(11)]
    pub entries: u64,
}
