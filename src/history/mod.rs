//! What happened: the commits of a node one by one, and its activity over time.
//!
//! Owns the ways to look at a log without rebuilding anything. Reads the log, never pages, layers
//! or the catalog beyond what says where the log has to end; writes nothing.
//!
//! Invariants: a commit is listed exactly once, in the order of the log; what cannot be read is an
//! error in the listing, never an omission; what has expired is neither; memory is bounded, whatever the length of the log.

mod activity;
mod commits;
mod runs;

pub use activity::{Activity, ActivityOptions, Annotation, Bucket, Gap};
pub(crate) use activity::{activity, gaps};
pub use commits::{CommitInfo, Commits};
pub(crate) use runs::{SegmentRuns, runs_among, segment_runs};
