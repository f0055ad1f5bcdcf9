//! Builds layers and snapshots from the archive itself, so that replay stays cheap.
//!
//! Owns when and what is built. Costs the engine nothing: it reads what is
//! archived. Whatever it makes can be deleted and made again. A crash leaves parts that
//! nothing refers to; what the catalog names was read back before.

mod build;
mod maintain;
mod reuse;

pub(crate) use build::{copy_parts, read_back};
pub use maintain::MaintainReport;
pub(crate) use maintain::{build_snapshot, lock_builder, maintain, snapshot};

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::env::Clock;
use crate::format::event::Actor;
use crate::past::NodeContext;

/// Builds layers and snapshots of one node, in somebody's name.
#[derive(Debug)]
pub(crate) struct Builder {
    pub context: NodeContext,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<dyn Clock>,
    pub actor: Actor,
}
