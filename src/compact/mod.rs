//! Builds layers and snapshots from the archive itself, so that replay stays cheap.
//!
//! Owns when and what is built. Costs the engine nothing: it reads what is
//! archived. Whatever it makes can be deleted and made again. A crash leaves parts that
//! nothing refers to; what the catalog names was read back before.

mod build;
mod maintain;

pub(crate) use build::{copy_parts, read_back};
pub use maintain::MaintainReport;
pub(crate) use maintain::{build_snapshot, maintain};

use std::sync::Arc;

use crate::catalog::{Catalog, NodeRecord};
use crate::env::Clock;
use crate::error::{Error, Result};
use crate::format::event::{Actor, Origin};
use crate::layer::LayerReader;
use crate::options::ReplayOptions;
use crate::replay::{Parts, Plan, PlanInput, Sources, collect, plan};
use crate::sealed::ArchiveKeys;
use crate::storage::Storage;
use crate::types::{NodeId, Position, TimelineId};
use crate::wal::Log;

/// What rebuilding states of one node needs.
#[derive(Debug)]
pub(crate) struct NodeContext {
    pub storage: Arc<dyn Storage>,
    pub keys: Arc<ArchiveKeys>,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<dyn Clock>,
    pub actor: Actor,
    pub node: NodeId,
    pub record: NodeRecord,
    pub log: Log,
}

impl NodeContext {
    pub fn timeline(&self) -> TimelineId {
        self.log.timeline
    }

    pub fn parts(&self) -> Parts {
        Parts::new(Arc::clone(&self.storage), Arc::clone(&self.keys), self.node)
    }

    /// The plan for a position.
    pub fn plan(&self, to: Position) -> Result<Plan> {
        let complete = self.record.origin == Origin::Empty;
        let empty_origin = complete && (to == Position::ORIGIN || self.has_beginning()?);
        let input = PlanInput { timeline: self.timeline(), empty_origin, layers: &self.record.layers };
        plan(&input, to)
            .ok_or_else(|| Error::Unsupported(format!("nothing is left to begin a replay to LSN {to} from")))
    }

    /// Whether the first commit can be replayed: from its segment, or from a layer that begins before it.
    fn has_beginning(&self) -> Result<bool> {
        let from_origin = |l: &crate::format::event::LayerRecord| l.from == Some(Position::ORIGIN);
        Ok(self.record.layers.iter().any(from_origin) || self.log.oldest()?.is_none_or(|s| s.from == Position::ORIGIN))
    }

    /// Opens what a plan names, and reads its part of the log.
    pub fn sources(&self, plan: &Plan, options: &ReplayOptions) -> Result<Sources> {
        let open = |record| LayerReader::open(self.storage.as_ref(), &self.keys, record);
        let base = plan.base.as_ref().map(open).transpose()?;
        let deltas = plan.deltas.iter().map(open).collect::<Result<Vec<_>>>()?;
        let state = deltas.last().or(base.as_ref()).map(|l| l.state.clone()).unwrap_or_default();
        let tail = collect(&self.log, state, plan.target, options)?;
        Ok(Sources { base, deltas, tail })
    }
}
