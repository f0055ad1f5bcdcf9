//! What of a log has not expired.

use crate::catalog::NodeRecord;
use crate::error::Result;
use crate::format::retention::segments_of;
use crate::wal::{Log, SegmentRef};

/// Runs of segments with the lengths of their files, in order. What lies between two of them has expired; what is missing within one is lost.
pub(crate) type Stretches = Vec<Vec<(SegmentRef, u64)>>;

/// The segments of a log that have not expired. Files of others may be there for a while yet.
pub(crate) fn stretches(log: &Log, record: &NodeRecord) -> Result<Stretches> {
    let all = log.all()?;
    let Some(kept) = record.retention.kept(log.timeline) else { return Ok(vec![all]) };
    let ranges = segments_of(kept, &all, |(s, _)| s.from);
    Ok(ranges.into_iter().map(|range| all.get(range).unwrap_or_default().to_vec()).collect())
}
