//! What a stretch of log does to pages and to the state beside them: the log part of a replay.

use std::collections::BTreeMap;

use super::run::Run;
use crate::error::Result;
use crate::format::record::Op;
use crate::format::state::NodeState;
use crate::types::SpaceId;

/// What the log between two positions does.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Each covers a stretch of the log and ends where the next begins.
    pub(super) runs: Vec<Run>,
    /// When each space became shorter: op number and length, in order.
    pub(super) cuts: BTreeMap<SpaceId, Vec<(u64, u64)>>,
    /// The lowest length of each space that shrank or came to be.
    pub lowest: BTreeMap<SpaceId, u64>,
    /// The state where the stretch ends.
    pub state: NodeState,
    /// Commits in it.
    pub commits: u64,
    /// Bytes of log read.
    pub bytes_read: u64,
}

impl Tail {
    /// Ranges of the pages `first` to `last` of a space that ops of this stretch touch: exact for
    /// ops in memory, and at most too wide for those on disk. Pages that a cut leaves in part are
    /// not among them: see [`lowest`](Self::lowest).
    pub fn touched(&self, space: SpaceId, pages: (u64, u64), add: &mut dyn FnMut(u64, u64)) {
        self.runs.iter().for_each(|run| run.touched(space, pages, add));
    }

    /// Pages from `first` to `last` of a space that ops of this stretch set as a whole, whatever
    /// they were before. Some may be missing, or come more than once.
    pub fn set_whole(&self, space: SpaceId, pages: (u64, u64)) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(move |run| run.set_whole(space, pages))
    }

    /// Units of so many pages that ops of this stretch touch, or that a cut leaves in part, of a
    /// space.
    pub fn touched_units(
        &self,
        space: SpaceId,
        page_size: u64,
        pages_per_unit: u64,
        add: &mut dyn FnMut(u64, u64),
    ) {
        let unit = |page: u64| page / pages_per_unit.max(1);
        let mut before = None;
        self.touched(space, (0, u64::MAX), &mut |first, last| {
            let units = (unit(first), unit(last));
            if before.replace(units) != Some(units) {
                add(units.0, units.1);
            }
        });
        for (_, length) in self.cuts.get(&space).into_iter().flatten() {
            if !length.is_multiple_of(page_size) {
                let u = unit(length / page_size);
                add(u, u);
            }
        }
    }

    /// Visits the ops on these pages of a space, page by page and each page's in order. The ranges
    /// of pages ascend and are apart. Ops of one run come before those of the next; `visit` gets
    /// the op's number, to be merged with the cuts of the space.
    pub fn visit(
        &self,
        space: SpaceId,
        ranges: &[(u64, u64)],
        visit: &mut dyn FnMut(u64, Op<'_>) -> Result<()>,
    ) -> Result<()> {
        self.runs.iter().try_for_each(|run| run.visit(space, ranges, visit))
    }

    /// When a space became shorter: op number and length, in order.
    pub fn cuts(&self, space: SpaceId) -> &[(u64, u64)] {
        self.cuts.get(&space).map_or(&[], Vec::as_slice)
    }
}
