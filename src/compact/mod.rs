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

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{Catalog, NodeRecord, NodeView};
use crate::env::Clock;
use crate::error::{Damage, Error, Result};
use crate::format::event::{Actor, LayerRecord, Origin};
use crate::format::part::LayerBody;
use crate::layer::{LayerReader, layer_path, part_path};
use crate::options::ReplayOptions;
use crate::replay::{Parts, Plan, PlanInput, Sources, collect, lost_beginning, plan, resolve};
use crate::sealed::ArchiveKeys;
use crate::storage::Storage;
use crate::types::{Lsn, NodeId, Position, Target, TimelineId};
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
    /// The nodes that it was branched from.
    pub ancestors: BTreeMap<NodeId, NodeRecord>,
    /// Along the lineage of the timeline that is worked on: the newest, unless told otherwise.
    pub log: Log,
    /// Files of layers found damaged, which plans do without.
    pub damaged: Vec<Damage>,
}

impl NodeContext {
    pub fn timeline(&self) -> TimelineId {
        self.log.timeline()
    }

    pub fn view(&self) -> NodeView<'_> {
        NodeView { id: self.node, record: &self.record, ancestors: &self.ancestors }
    }

    /// Goes on with another timeline of the node.
    pub fn follow(&mut self, timeline: TimelineId) {
        if timeline != self.timeline() {
            self.log = self.log.along(self.view().lineage(timeline));
        }
    }

    /// The same node on another timeline.
    pub fn on(&self, timeline: TimelineId) -> NodeContext {
        let mut context = self.copy();
        context.follow(timeline);
        context
    }

    /// Finds the commit that a target names, and goes on with the timeline that it is found on.
    pub fn resolve(&mut self, target: &Target) -> Result<Position> {
        let found = resolve(&self.log, &self.view(), target)?;
        self.follow(found.timeline);
        Ok(found.lsn.into())
    }

    /// Goes by what the catalog says now.
    pub fn refresh(&mut self) -> Result<()> {
        let state = self.catalog.current()?;
        self.record = state.node(self.node)?.clone();
        self.ancestors = state.ancestors(self.node);
        Ok(())
    }

    /// The same node once more, for a plan of its own that may do without some layers.
    pub fn copy(&self) -> NodeContext {
        NodeContext {
            storage: Arc::clone(&self.storage),
            keys: Arc::clone(&self.keys),
            catalog: Arc::clone(&self.catalog),
            clock: Arc::clone(&self.clock),
            actor: self.actor.clone(),
            node: self.node,
            record: self.record.clone(),
            ancestors: self.ancestors.clone(),
            log: self.log.clone(),
            damaged: Vec::new(),
        }
    }

    pub fn parts(&self) -> Parts {
        Parts::new(Arc::clone(&self.storage), Arc::clone(&self.keys), self.node)
    }

    /// The plan for a position.
    pub fn plan(&self, to: Position) -> Result<Plan> {
        let (view, lineage) = (self.view(), &self.log.lineage);
        let complete = view.origin(lineage) == Origin::Empty;
        let Some(ground) = view.ground(lineage, to) else {
            // It expired after it was looked for.
            let target = Target::Lsn(to.lsn().unwrap_or(Lsn::FIRST));
            return Err(Error::BeforeWindow { target, earliest: "a later commit since a moment ago".into() });
        };
        let empty_origin =
            complete && ground == Position::ORIGIN && (to == Position::ORIGIN || self.has_beginning()?);
        let input = PlanInput { lineage, empty_origin, ground, layers: &view.layers(lineage) };
        if let Some(plan) = plan(&input, to) {
            return Ok(plan);
        }
        let nothing = || Error::Unsupported(format!("nothing is left to begin a replay to LSN {to} from"));
        Err(lost_beginning(&self.log, &view)?.unwrap_or_else(nothing))
    }

    /// Whether the first commit can be replayed: from its segment, or from a layer that begins before it.
    fn has_beginning(&self) -> Result<bool> {
        // What has expired may still be there for a while; what has not is there, or else missing.
        let (view, lineage) = (self.view(), &self.log.lineage);
        if view.kept(lineage).is_some() {
            return Ok(true);
        }
        let from_origin = |l: &&LayerRecord| l.from == Some(Position::ORIGIN);
        Ok(view.layers(lineage).iter().any(from_origin)
            || self.log.oldest()?.is_none_or(|s| s.from == Position::ORIGIN))
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

    /// The plan for a position and what it names. Layers are derived: one that is damaged is done without where the others and the log suffice.
    pub fn prepare(&mut self, to: Position, options: &ReplayOptions) -> Result<(Plan, Sources)> {
        let mut plan = self.plan(to)?;
        loop {
            match self.sources(&plan, options) {
                Err(Error::Damaged(damage)) => plan = self.plan_without(&plan, None, *damage)?,
                other => return other.map(|sources| (plan, sources)),
            }
        }
    }

    /// A plan for the same position that does without the layer that the damage is in; the damage as an error where it is in none, or where there is no other way.
    pub fn plan_without(&mut self, plan: &Plan, sources: Option<&Sources>, damage: Damage) -> Result<Plan> {
        let bodies: Vec<&LayerBody> = sources.iter().flat_map(|s| s.base.iter().chain(&s.deltas)).collect();
        let holds = |i: usize, record: &LayerRecord| {
            damage.path == layer_path(record.node, record.file)
                || bodies.get(i).is_some_and(|b| b.parts.iter().any(|p| damage.path == part_path(b.node, p.file)))
        };
        let mut named = plan.base.iter().chain(&plan.deltas).enumerate();
        let Some(file) = named.find(|(i, record)| holds(*i, record)).map(|(_, record)| record.file) else {
            return Err(Error::Damaged(Box::new(damage)));
        };
        tracing::warn!(%damage, "a damaged layer is done without");
        std::iter::once(&mut self.record)
            .chain(self.ancestors.values_mut())
            .for_each(|record| record.layers.retain(|l| l.file != file));
        self.damaged.push(damage.clone());
        self.plan(plan.target).map_err(|_| Error::Damaged(Box::new(damage)))
    }
}
