//! Logical records: handed back to the host in the order of the log.

use std::path::Path;

use crate::delta::Decoder;
use crate::error::Result;
use crate::format::codec::Reader;
use crate::format::record::Op;
use crate::format::state::NodeState;
use crate::types::{Lsn, Position};
use crate::wal::{Log, SegmentRef, Visit, plain};

/// One logical record.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RedoRecord<'a> {
    /// The commit that it belongs to.
    pub lsn: Lsn,
    /// What the host logged.
    pub bytes: &'a [u8],
}

/// Replays logical records: the part of a restore that only the engine itself can do.
///
/// Called on one thread, after all pages are in place and before the output gets its name: what
/// `apply` makes of the records is published together with the pages, or not at all.
pub trait Redo {
    /// Called before the first record. `dir` is where the restored files are now; `None` where the
    /// restore goes into a sink of the host's own.
    fn begin(&mut self, dir: Option<&Path>) -> Result<()> {
        let _ = dir;
        Ok(())
    }

    /// Replays one record. Records come in the order in which they were logged, from after the redo
    /// point to the target.
    fn apply(&mut self, record: RedoRecord<'_>) -> Result<()>;

    /// Called after the last record: everything written to `dir` has to be in its files now, and
    /// synced.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Where the log begins that the records need which lead up to a state: what replay reads, and what
/// retention keeps. The state's own position where its pages contain all records.
///
/// Between the redo point and the first record after it there may be log that expired long ago, as
/// no state needed it. So this is the beginning of the segment with that record, whose preface says
/// that there is none before it; the redo point itself where no segment is left that says so.
pub(crate) fn records_from(log: &Log, state: &NodeState) -> Result<Position> {
    if state.last_logical <= state.redo {
        return Ok(state.position);
    }
    let without_record = |s: &SegmentRef| {
        if s.from <= state.redo || s.from > state.position {
            return Ok(s.from <= state.redo);
        }
        match log.open(s) {
            Ok(reader) => Ok(reader.preface().state.last_logical <= state.redo),
            // Whoever reads the log from before it comes upon the damage.
            Err(e) if e.is_damage() => Ok(false),
            Err(e) => Err(e),
        }
    };
    let segment = log.last_where(without_record)?;
    Ok(segment.map_or(state.redo, |s| s.from.max(state.redo)))
}

/// Gives the records that lead from the redo point of `state` to its position to `apply`; counts
/// them.
pub(crate) fn replay_records(
    log: &Log,
    state: &NodeState,
    apply: &mut dyn FnMut(RedoRecord<'_>) -> Result<()>,
) -> Result<u64> {
    let (from, to) = (records_from(log, state)?, state.position);
    let mut count = 0;
    let mut decoder = Decoder::new()?;
    log.visit(from, to, &mut |path, visit| {
        let (lsn, ops, offset) = match visit {
            Visit::Partial { lsn, ops, offset } | Visit::Commit { lsn, ops, offset, .. } => {
                (lsn, ops, offset)
            }
            Visit::Tick => return Ok(()),
        };
        let mut r = Reader::new(ops);
        while !r.is_empty() {
            if let Op::Logical(blob) = Op::read(&mut r).map_err(|e| e.at(path, offset))? {
                count += 1;
                let bytes = plain(&blob, &mut decoder, path, offset)?;
                apply(RedoRecord { lsn, bytes: &bytes })?;
            }
        }
        Ok(())
    })?;
    Ok(count)
}
