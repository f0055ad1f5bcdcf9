//! Where a writer's files go, and which process may put them there.
//!
//! Owns nothing on disk; says where others put what they own. A crash leaves temporary files under
//! the scope, which the next writer of the node removes.

use std::sync::Arc;

use crate::env::Owner;
use crate::error::Result;
use crate::names::Scope;
use crate::sealed::ArchiveKeys;
use crate::storage::Storage;

/// What every part of a writer that makes files needs.
#[derive(Debug)]
pub(super) struct Place {
    /// The process that opened the writer.
    pub owner: Owner,
    pub storage: Arc<dyn Storage>,
    pub keys: Arc<ArchiveKeys>,
    /// Prefix of the writer's temporary files.
    pub scope: Scope,
}

impl Place {
    /// Refuses every other process than the writer's.
    pub fn check_process(&self) -> Result<()> {
        self.owner.check("the writer")
    }
}
