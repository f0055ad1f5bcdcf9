//! What a new snapshot takes over from the last one: whole parts that nothing touched, by
//! reference, and blocks, as they are.
//!
//! A block is taken over without being decompressed: its bytes were authenticated when they were
//! read, and the new part is read back like any other.

use std::sync::Arc;

use crate::delta::Decoder;
use crate::error::Result;
use crate::format::part::{BlockIndex, PartRef};
use crate::format::state::SpaceState;
use crate::layer::{BlockBuffers, PartReader};
use crate::replay::Sources;
use crate::types::{SpaceId, as_index};

/// A block of the last snapshot.
#[derive(Debug)]
pub(super) struct OldBlock {
    pub part: Arc<PartReader>,
    pub block: BlockIndex,
}

/// What came after the last snapshot.
pub(super) struct Since<'a> {
    pub sources: &'a Sources,
}

impl Since<'_> {
    /// The lowest length of a space in each layer and the log, where it was cut there.
    fn lowest(&self, id: SpaceId) -> impl Iterator<Item = u64> {
        let layers = self.sources.deltas.iter().filter_map(move |d| d.lowest.get(&id));
        layers.chain(self.sources.tail.lowest.get(&id)).copied()
    }

    /// Whether nothing after the last snapshot changed a page of this part.
    pub fn untouched(&self, id: SpaceId, state: &SpaceState, part: &PartRef) -> Result<bool> {
        let size = u64::from(state.page_size.get());
        let end = part.last.saturating_add(1).saturating_mul(size);
        if self.lowest(id).any(|l| l < end) {
            return Ok(false);
        }
        for (node, other) in
            self.sources.deltas.iter().flat_map(|d| d.parts.iter().map(|part| (d.node, part)))
        {
            if other.space == id
                && other.first <= part.last
                && other.last >= part.first
                && !self.sources.parts.get(node, other)?.blocks(part.first, part.last).is_empty()
            {
                return Ok(false);
            }
        }
        let mut touched = false;
        self.sources.tail.visit(id, &[(part.first, part.last)], &mut |_, _| {
            touched = true;
            Ok(())
        })?;
        Ok(!touched)
    }

    /// The blocks of the last snapshot within a range of pages that nothing touched, in order.
    pub fn clean_blocks(
        &self,
        id: SpaceId,
        state: &SpaceState,
        (first, last): (u64, u64),
    ) -> Result<Vec<OldBlock>> {
        let size = u64::from(state.page_size.get());
        // From the lowest cut on nothing is as it was.
        let end =
            self.lowest(id).map(|l| l / size).chain([state.pages(), last.saturating_add(1)]).min();
        let end = end.expect("the end of the space is among them");
        let Some(last) = end.checked_sub(1).filter(|last| *last >= first) else {
            return Ok(Vec::new());
        };
        // At most as many as a part has pages.
        let mut touched = vec![false; as_index(last - first + 1)];
        let index = |page: u64| as_index(page.saturating_sub(first));
        let mut mark = |from: u64, to: u64| {
            if from <= last && to >= first {
                let pages = touched.get_mut(index(from)..=index(to.min(last)));
                pages.expect("the pages lie within the range").fill(true);
            }
        };
        self.sources.tail.touched(id, (first, last), &mut mark);
        let (mut buffers, mut decoder) = (BlockBuffers::default(), Decoder::new()?);
        for (node, part) in
            self.sources.deltas.iter().flat_map(|d| d.parts.iter().map(|part| (d.node, part)))
        {
            if part.space == id && part.first <= last && part.last >= first {
                let reader = self.sources.parts.get(node, part)?;
                for block in reader.blocks(first, last) {
                    reader.visit(
                        block,
                        (first, last),
                        &mut buffers,
                        &mut decoder,
                        &mut |page, _, _| {
                            mark(page, page);
                            Ok(())
                        },
                    )?;
                }
            }
        }
        let mut clean = Vec::new();
        let old = self.sources.base.iter().flat_map(|b| b.parts.iter().map(|part| (b.node, part)));
        for (node, part) in old.filter(|(_, p)| p.space == id) {
            // Blocks that reach beyond the rectangle that the part stands for are taken apart.
            let (first_of, last_of) = (part.first.max(first), part.last.min(last));
            if first_of > last_of {
                continue;
            }
            let reader = self.sources.parts.get(node, part)?;
            if reader.seal().page_size != state.page_size {
                continue;
            }
            for block in reader
                .blocks(first_of, last_of)
                .iter()
                .filter(|b| b.first >= first_of && b.last <= last_of)
            {
                let pages = touched.get(index(block.first)..=index(block.last));
                if !pages.expect("the block lies within the range").contains(&true) {
                    clean.push(OldBlock { part: Arc::clone(&reader), block: *block });
                }
            }
        }
        clean.sort_by_key(|c| c.block.first);
        Ok(clean)
    }
}
