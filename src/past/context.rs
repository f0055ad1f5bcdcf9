//! What rebuilding states of one node needs: where its files are, and which stand for a position.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{CatalogState, NodeRecord, NodeView};
use crate::error::{Damage, Error, Result};
use crate::format::event::{LayerRecord, Origin};
use crate::format::part::LayerBody;
use crate::layer::LayerReader;
use crate::lineage::Line;
use crate::names::{layer_path, part_path};
use crate::options::ReplayOptions;
use crate::replay::{Parts, Plan, PlanInput, Sources, collect, lost_beginning, plan, resolve};
use crate::sealed::ArchiveKeys;
use crate::storage::Storage;
use crate::types::{FileId, Lsn, NodeId, Position, Target, TimelineId};
use crate::wal::Log;

/// What rebuilding states of one node needs.
#[derive(Clone, Debug)]
pub(crate) struct NodeContext {
    pub storage: Arc<dyn Storage>,
    pub keys: Arc<ArchiveKeys>,
    pub node: NodeId,
    pub record: NodeRecord,
    /// The nodes that it was branched from.
    pub ancestors: BTreeMap<NodeId, NodeRecord>,
    /// Along the lineage of the timeline that is worked on: the newest, unless told otherwise.
    pub log: Log,
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

    /// The log of one of its timelines alone.
    pub fn log_of(&self, timeline: TimelineId) -> Log {
        self.log.alone(Line::new(self.node, timeline))
    }

    /// The same node on another timeline.
    pub fn on(&self, timeline: TimelineId) -> NodeContext {
        let mut context = self.clone();
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
    pub fn refresh(&mut self, state: &CatalogState) -> Result<()> {
        self.record = state.node(self.node)?.clone();
        self.ancestors = state.ancestors(self.node);
        Ok(())
    }

    /// Does without a layer, be it its own or an ancestor's.
    pub fn forget_layer(&mut self, file: FileId) {
        for record in std::iter::once(&mut self.record).chain(self.ancestors.values_mut()) {
            record.layers.retain(|l| l.file != file);
        }
    }

    /// Opens parts, of its own layers and of ancestors'.
    pub fn parts(&self) -> Arc<Parts> {
        Arc::new(Parts::new(self.storage.clone(), Arc::clone(&self.keys)))
    }

    /// The plan for a position.
    pub fn plan(&self, to: Position) -> Result<Plan> {
        let (view, lineage) = (self.view(), &self.log.lineage);
        let complete = view.origin(lineage) == Origin::Empty;
        let Some(replay_floor) = view.replay_floor(lineage, to) else {
            // It expired after it was looked for.
            let target = Target::Lsn(to.lsn().unwrap_or(Lsn::FIRST));
            return Err(Error::BeforeWindow {
                target,
                earliest: "a later commit since a moment ago".into(),
            });
        };
        let empty_origin = complete
            && replay_floor == Position::ORIGIN
            && (to == Position::ORIGIN || self.has_beginning()?);
        let input =
            PlanInput { lineage, empty_origin, replay_floor, layers: &view.layers(lineage) };
        if let Some(plan) = plan(&input, to) {
            return Ok(plan);
        }
        Err(lost_beginning(&self.log, &view)?.unwrap_or(Error::NoBase { position: to }))
    }

    /// Whether the first commit can be replayed: from its segment, or from a layer that begins
    /// before it.
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
        Ok(Sources { parts: self.parts(), base, deltas, tail })
    }
}

/// Which layer of a plan the damage is in; `None`: in none.
pub(super) fn damaged_layer(
    plan: &Plan,
    sources: Option<&Sources>,
    damage: &Damage,
) -> Option<FileId> {
    let bodies: Vec<&LayerBody> =
        sources.iter().flat_map(|s| s.base.iter().chain(&s.deltas)).collect();
    let holds = |i: usize, record: &LayerRecord| {
        damage.path == layer_path(record.node, record.file)
            || bodies
                .get(i)
                .is_some_and(|b| b.parts.iter().any(|p| damage.path == part_path(b.node, p.file)))
    };
    let mut named = plan.base.iter().chain(&plan.deltas).enumerate();
    named.find(|(i, record)| holds(*i, record)).map(|(_, record)| record.file)
}
