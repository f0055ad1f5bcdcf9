//! What rebuilding states of one node needs: where its files are, and which stand for a position.

use std::sync::Arc;

use crate::catalog::NodeRecord;
use crate::error::{Damage, Error, Result};
use crate::format::event::{LayerRecord, Origin};
use crate::format::part::LayerBody;
use crate::layer::LayerReader;
use crate::names::{layer_path, part_path};
use crate::options::ReplayOptions;
use crate::replay::{Parts, Plan, PlanInput, Sources, collect, lost_beginning, plan};
use crate::sealed::ArchiveKeys;
use crate::storage::Storage;
use crate::types::{FileId, Lsn, NodeId, Position, Target, TimelineId};
use crate::wal::Log;

/// What rebuilding states of one node needs.
#[derive(Debug)]
pub(crate) struct NodeContext {
    pub storage: Arc<dyn Storage>,
    pub keys: Arc<ArchiveKeys>,
    pub node: NodeId,
    pub record: NodeRecord,
    pub log: Log,
}

impl NodeContext {
    pub fn timeline(&self) -> TimelineId {
        self.log.timeline
    }

    /// The same node once more, for a plan of its own that may do without some layers.
    pub fn copy(&self) -> NodeContext {
        NodeContext {
            storage: Arc::clone(&self.storage),
            keys: Arc::clone(&self.keys),
            node: self.node,
            record: self.record.clone(),
            log: self.log.clone(),
        }
    }

    /// Opens parts of it.
    pub fn parts(&self) -> Arc<Parts> {
        Arc::new(Parts::new(self.storage.clone(), Arc::clone(&self.keys), self.node))
    }

    /// The plan for a position.
    pub fn plan(&self, to: Position) -> Result<Plan> {
        let complete = self.record.origin == Origin::Empty;
        let Some(ground) = self.record.retention.ground(self.timeline(), to) else {
            // It expired after it was looked for.
            let target = Target::Lsn(to.lsn().unwrap_or(Lsn::FIRST));
            return Err(Error::BeforeWindow { target, earliest: "a later commit since a moment ago".into() });
        };
        let empty_origin =
            complete && ground == Position::ORIGIN && (to == Position::ORIGIN || self.has_beginning()?);
        let input = PlanInput { timeline: self.timeline(), empty_origin, ground, layers: &self.record.layers };
        if let Some(plan) = plan(&input, to) {
            return Ok(plan);
        }
        let nothing = || Error::Unsupported(format!("nothing is left to begin a replay to LSN {to} from"));
        Err(lost_beginning(&self.log, &self.record)?.unwrap_or_else(nothing))
    }

    /// Whether the first commit can be replayed: from its segment, or from a layer that begins before it.
    fn has_beginning(&self) -> Result<bool> {
        // What has expired may still be there for a while; what has not is there, or else missing.
        if self.record.retention.kept(self.timeline()).is_some() {
            return Ok(true);
        }
        let from_origin = |l: &LayerRecord| l.from == Some(Position::ORIGIN);
        Ok(self.record.layers.iter().any(from_origin) || self.log.oldest()?.is_none_or(|s| s.from == Position::ORIGIN))
    }

    /// Opens what a plan names, and reads its part of the log.
    pub fn sources(&self, plan: &Plan, options: &ReplayOptions) -> Result<Sources> {
        let open = |record| LayerReader::open(self.storage.as_ref(), &self.keys, record);
        let base = plan.base.as_ref().map(open).transpose()?;
        let deltas = plan.deltas.iter().map(open).collect::<Result<Vec<_>>>()?;
        let state = deltas.last().or(base.as_ref()).map(|l| l.state.clone()).unwrap_or_default();
        let tail = collect(&self.log, state, plan.target, options)?;
        Ok(Sources { parts: self.parts(), base, deltas, tail })
    }

    /// Which layer of a plan the damage is in; `None`: in none.
    pub fn damaged_layer(&self, plan: &Plan, sources: Option<&Sources>, damage: &Damage) -> Option<FileId> {
        let bodies: Vec<&LayerBody> = sources.iter().flat_map(|s| s.base.iter().chain(&s.deltas)).collect();
        let holds = |i: usize, record: &LayerRecord| {
            damage.path == layer_path(self.node, record.file)
                || bodies.get(i).is_some_and(|b| b.parts.iter().any(|p| damage.path == part_path(self.node, p.file)))
        };
        let mut named = plan.base.iter().chain(&plan.deltas).enumerate();
        named.find(|(i, record)| holds(*i, record)).map(|(_, record)| record.file)
    }
}
