//! Events of the catalog (`docs/format.md` §8).

use minicbor::{Decode, Encode};

use super::retention::{Deletion, ExpiredFiles, HoldScope, Policy, TimelineExpiry};
use crate::lineage::Line;
use crate::types::{Epoch, FileId, KeyId, NodeId, Position, RecipientId, TimelineId, Timestamp};

/// Most bytes of one event.
pub const MAX_EVENT: usize = 1 << 20;
/// The newest kind of event that this build knows.
pub const NEWEST_EVENT: u64 = 16;

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
    /// The node had content before its first commit: nothing can be restored before its first base
    /// snapshot.
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
        /// For whom that key is wrapped: the stanzas in headers are not authenticated, this list
        /// is.
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
    /// How long history is kept has changed: of one node, or of all that have no policy of their
    /// own.
    #[n(6)]
    RetentionChanged {
        /// The node; none: the archive.
        #[n(0)]
        node: Option<NodeId>,
        /// What holds from now on.
        #[n(1)]
        policy: Policy,
        /// What was archived up to this time keeps what it was promised before.
        #[n(2)]
        covers: Timestamp,
    },
    /// Nothing may delete the node, or the archive, or shorten what is kept of it.
    #[n(7)]
    LockPlaced {
        /// The node; none: the archive.
        #[n(0)]
        node: Option<NodeId>,
        /// Its name.
        #[n(1)]
        name: String,
    },
    /// A lock is taken away.
    #[n(8)]
    LockReleased {
        /// The node; none: the archive.
        #[n(0)]
        node: Option<NodeId>,
        /// Its name.
        #[n(1)]
        name: String,
    },
    /// A legal hold: what it names does not expire.
    #[n(9)]
    HoldPlaced {
        /// Its name.
        #[n(0)]
        name: String,
        /// What it keeps.
        #[n(1)]
        scope: HoldScope,
        /// When it ends by itself.
        #[n(2)]
        until: Option<Timestamp>,
    },
    /// A hold ends.
    #[n(10)]
    HoldReleased {
        /// Its name.
        #[n(0)]
        name: String,
    },
    /// Files are needed by nothing any more: they are invisible from now on, and go after the grace
    /// period.
    #[n(11)]
    FilesExpired {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// The time that the sweeper worked with.
        #[n(1)]
        clock: Timestamp,
        /// What stays and goes of the log.
        #[n(2)]
        timelines: Vec<TimelineExpiry>,
        /// Other files that go.
        #[n(3)]
        files: ExpiredFiles,
        /// How long the files stay yet.
        #[n(4)]
        grace: u64,
        /// Whether this is the end of a deleted node.
        #[n(5)]
        last: bool,
    },
    /// The files of an expiry are gone.
    #[n(12)]
    FilesRemoved {
        /// The node.
        #[n(0)]
        node: NodeId,
        /// The entry that gave them up.
        #[n(1)]
        entry: u64,
        /// How many files it was.
        #[n(2)]
        files: u64,
        /// Their bytes.
        #[n(3)]
        bytes: u64,
    },
    /// A node or the archive was deleted, or that was undone.
    #[n(13)]
    DeletionChanged {
        /// The node; none: the archive.
        #[n(0)]
        node: Option<NodeId>,
        /// What has become of it.
        #[n(1)]
        deletion: Deletion,
    },
    /// The sweeper's clock was found to be plausible, or an operator said that it is right.
    #[n(14)]
    ClockObserved {
        /// What it said.
        #[n(0)]
        clock: Timestamp,
        /// The newest time in any log.
        #[n(1)]
        archived: Timestamp,
        /// Whether an operator vouched for it.
        #[n(2)]
        confirmed: bool,
    },
    /// A restore begins.
    #[n(15)]
    RestoreStarted {
        /// Its identity.
        #[n(0)]
        restore: FileId,
        /// The node.
        #[n(1)]
        node: NodeId,
        /// The commit.
        #[n(2)]
        position: Position,
        /// What was asked for.
        #[n(3)]
        target: String,
        /// Where it goes.
        #[n(4)]
        destination: String,
    },
    /// A restore has ended.
    #[n(16)]
    RestoreFinished {
        /// Its identity.
        #[n(0)]
        restore: FileId,
        /// Bytes written.
        #[n(1)]
        bytes: u64,
        /// What went wrong, if anything.
        #[n(2)]
        error: Option<String>,
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

impl LayerRecord {
    /// The timeline that it is of.
    pub(crate) fn line(&self) -> Line {
        Line::new(self.node, self.timeline)
    }
}
