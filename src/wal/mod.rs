//! The log of a node: an append-only chain of encrypted segments.
//!
//! Owns how segments are named, found, written, sealed, scanned and recovered.
//! Knows ops only as far as they change the state beside the pages; what pages
//! become is `replay`'s. Never appends to a file that another tenure opened.
//!
//! Invariants: LSNs are dense from file to file; a segment's preface holds the
//! state it continues from and how far the segment before it is valid; only the
//! newest segment may lack its seal without its end being known from the next one.
//! A crash leaves the newest segment with a torn tail, which a scan cuts.

mod active;
mod log;
mod scan;

pub(crate) use active::{ActiveSegment, SegmentStart};
pub(crate) use log::{Log, SegmentRef};
pub(crate) use scan::{
    Search, SegmentReader, Visit, apply_effect, durable_frame_beyond, find_frame, fold_op,
    fold_ops, is_zero, plain,
};
