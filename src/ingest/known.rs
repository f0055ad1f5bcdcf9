//! What a writer knows of pages and spaces, as of the newest commit that has an LSN.
//!
//! Owns the numbers and page sizes of spaces; the versions of pages are in [`PageTable`]. Read by
//! any batch at any time; changed only by a commit, under the log's lock, in the order of the log.
//! In memory only, so a crash leaves nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::pages::PageTable;
use crate::env::Owner;
use crate::error::{Error, Result};
use crate::format::state::NodeState;
use crate::options::WriterOptions;
use crate::sync::RwLock;
use crate::types::{PageSize, SpaceId};

/// Pages and spaces as the log has them.
#[derive(Debug)]
pub(super) struct Known {
    pub owner: Owner,
    pub table: PageTable,
    spaces: RwLock<HashMap<SpaceId, PageSize>>,
    next_space: AtomicU32,
}

impl Known {
    pub fn new(owner: Owner, options: &WriterOptions, state: &NodeState) -> Known {
        Known {
            owner,
            table: PageTable::new(options.page_table, options.image_cache),
            spaces: RwLock::new(state.spaces.iter().map(|(id, s)| (*id, s.page_size)).collect()),
            next_space: AtomicU32::new(state.next_space),
        }
    }

    /// A number that no space has had.
    pub fn reserve_space(&self) -> Result<SpaceId> {
        let id = self.next_space.fetch_add(1, Ordering::Relaxed);
        if id == u32::MAX {
            let limit = u64::from(u32::MAX) - 1;
            return Err(Error::LimitExceeded {
                what: "spaces ever created",
                limit,
                found: u64::from(id),
            });
        }
        Ok(SpaceId::new(id))
    }

    /// The size of a space's pages, if there is such a space.
    pub fn page_size(&self, space: SpaceId) -> Option<PageSize> {
        self.spaces.read().get(&space).copied()
    }

    /// Notes which spaces a commit created and dropped.
    pub fn change_spaces<'a>(
        &self,
        created: impl Iterator<Item = (SpaceId, PageSize)>,
        dropped: impl Iterator<Item = &'a SpaceId>,
    ) {
        let mut spaces = self.spaces.write();
        spaces.extend(created);
        for space in dropped {
            spaces.remove(space);
            self.table.drop_space(*space);
        }
    }
}
