//! What is left of a log.

use crate::catalog::NodeView;
use crate::error::Result;
use crate::format::retention::runs_of;
use crate::lineage::Lineage;
use crate::wal::{Log, SegmentRef};

/// Runs of segments with the lengths of their files, in order. What is between two runs has
/// expired; what is missing within one is lost.
pub(crate) type SegmentRuns = Vec<Vec<(SegmentRef, u64)>>;

/// The segments of a log that have not expired. Files of expired segments may still exist for a
/// while.
pub(crate) fn segment_runs(log: &Log, view: &NodeView<'_>) -> Result<SegmentRuns> {
    Ok(runs_among(log.all()?, view, &log.lineage))
}

/// Those of these segments that have not expired.
pub(crate) fn runs_among(
    all: Vec<(SegmentRef, u64)>,
    view: &NodeView<'_>,
    lineage: &Lineage,
) -> SegmentRuns {
    let Some(kept) = view.kept(lineage) else { return vec![all] };
    runs_of(&kept, &all, |(s, _)| s.from).map(<[_]>::to_vec).collect()
}
