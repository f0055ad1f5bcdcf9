//! What of a log has not expired.

use crate::catalog::NodeRecord;
use crate::error::Result;
use crate::format::retention::runs_of;
use crate::types::TimelineId;
use crate::wal::{Log, SegmentRef};

/// Runs of segments with the lengths of their files, in order. What lies between two of them has expired; what is missing within one is lost.
pub(crate) type Stretches = Vec<Vec<(SegmentRef, u64)>>;

/// The segments of a log that have not expired. Files of others may be there for a while yet.
pub(crate) fn stretches(log: &Log, record: &NodeRecord) -> Result<Stretches> {
    Ok(stretches_of(log.all()?, record, log.timeline))
}

/// Those of all these segments that have not expired.
pub(crate) fn stretches_of(all: Vec<(SegmentRef, u64)>, record: &NodeRecord, timeline: TimelineId) -> Stretches {
    let Some(kept) = record.retention.kept(timeline) else { return vec![all] };
    runs_of(kept, &all, |(s, _)| s.from).map(<[_]>::to_vec).collect()
}
