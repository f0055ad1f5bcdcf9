//! What happened: the commits of a node one by one, and its activity over time.
//!
//! Owns the ways to look at a log without rebuilding anything. Reads the log, never pages or
//! layers, and of the catalog only where the log must end. Writes nothing.
//!
//! Invariants: a commit is listed exactly once, in the order of the log. What cannot be read is an
//! error in the listing, never an omission; what has expired is neither. Memory is bounded,
//! whatever the length of the log.

mod activity;
mod commits;
mod runs;

pub use activity::{Activity, ActivityOptions, Annotation, Bucket, Gap};
pub(crate) use activity::{activity, gaps};
pub use commits::{CommitInfo, Commits};
pub(crate) use runs::{SegmentRuns, runs_among, segment_runs};
