//! Preface and seal of a segment (`docs/format.md` §5).

use minicbor::{Decode, Encode};

use super::state::NodeState;
use crate::types::{Position, TimelineId, Timestamp};

/// What a segment's writer knew of the segment before it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PreviousSegment {
    /// Its timeline.
    #[n(0)]
    pub timeline: TimelineId,
    /// Its sequence number.
    #[n(1)]
    pub sequence: u64,
    /// How many of its frames are valid, the seal not counted.
    #[n(2)]
    pub frames: u32,
    /// How many of its bytes they and the header take.
    #[n(3)]
    pub length: u64,
    /// Tag of the last of them.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub tag: [u8; 16],
}

/// Frame 0 of a segment: the state that the log continues from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SegmentPreface {
    /// The state before its first commit.
    #[n(0)]
    pub state: NodeState,
    /// The segment before it; none for the first of a node.
    #[n(1)]
    pub previous: Option<PreviousSegment>,
}

/// Where some commit of a segment is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IndexEntry {
    /// Index of a commits frame that continues nothing.
    #[n(0)]
    pub frame: u32,
    /// Its offset in the file.
    #[n(1)]
    pub offset: u64,
    /// The position before its first commit.
    #[n(2)]
    pub before: Position,
    /// The time of the commit before its first one.
    #[n(3)]
    pub timestamp: Timestamp,
}

/// The end of a complete segment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SegmentSeal {
    /// The state that it leaves: what the next segment continues from.
    #[n(0)]
    pub state: NodeState,
    /// Frames before the seal.
    #[n(1)]
    pub frames: u32,
    /// About one frame in 64 KiB.
    #[n(2)]
    pub index: Vec<IndexEntry>,
}
