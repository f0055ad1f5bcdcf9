//! An open state of the past.

use std::sync::Arc;

use super::NodeContext;
use super::context::damaged_layer;
use crate::catalog::Lease;
use crate::error::{Damage, Error, Result};
use crate::format::event::LayerRecord;
use crate::format::state::{NodeState, exclusion_key};
use crate::options::ReplayOptions;
use crate::replay::{Page, PageSet, Plan, Rebuilder, Sources};
use crate::types::Position;
use crate::wal::Log;

/// One state of a node, open for rebuilding any of its pages, by any number of threads. It owns
/// all that it needs, so it may live as long as anybody looks at it.
#[derive(Debug)]
pub(crate) struct PastState {
    context: NodeContext,
    plan: Plan,
    sources: Sources,
    options: ReplayOptions,
    /// Names of the spaces that are left out; `None`: the state has all of its spaces.
    excluded: Option<Vec<String>>,
    /// Damage met in layers, which it does without.
    damaged: Vec<Damage>,
    /// Keeps what is read from being removed. Other states may share it.
    _lease: Option<Arc<Lease>>,
}

const _: () = {
    const fn owned<T: Send + Sync + 'static>() {}
    owned::<PastState>();
};

/// Pages that were rebuilt, in ascending order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rebuilt<'r> {
    /// Their images, one after the other.
    pub images: &'r [u8],
    /// What is known of each.
    pub pages: &'r [Page],
    /// How many were proven, by CRC-32, to be what the engine handed in.
    pub proven: u64,
    /// How many were written but have no CRC-32: last changed by a byte range or a cut.
    pub unproven: u64,
}

impl PastState {
    /// Opens the state at a position: plans it, opens what the plan names, and reads its part of
    /// the log. Without a lease, whoever opens it sees to it that nothing of that is removed
    /// meanwhile.
    pub fn open(
        context: NodeContext,
        to: Position,
        lease: Option<Arc<Lease>>,
        options: &ReplayOptions,
    ) -> Result<PastState> {
        let mut context = context;
        let mut damaged = Vec::new();
        let plan = context.plan(to)?;
        let (plan, sources) = open(&mut context, plan, &mut damaged, options)?;
        let options = options.clone();
        Ok(PastState { context, plan, sources, options, excluded: None, damaged, _lease: lease })
    }

    /// Leaves out the spaces that are excluded from restores.
    pub fn without_excluded(mut self) -> PastState {
        self.leave_out();
        self
    }

    fn leave_out(&mut self) {
        let state = &mut self.sources.tail.state;
        let mut excluded = Vec::new();
        state.spaces.retain(|id, space| {
            let keep = !state.config.contains_key(&exclusion_key(id));
            if !keep {
                excluded.push(space.name.clone());
            }
            keep
        });
        self.excluded = Some(excluded);
    }

    /// Opens it once more without the layer that the damage is in. The damage is the error if it is
    /// in no layer, or if there is no other way to this state.
    pub fn without(&mut self, damage: Damage) -> Result<()> {
        let plan = do_without(
            &mut self.context,
            &self.plan,
            Some(&self.sources),
            damage,
            &mut self.damaged,
        )?;
        (self.plan, self.sources) =
            open(&mut self.context, plan, &mut self.damaged, &self.options)?;
        if self.excluded.is_some() {
            self.leave_out();
        }
        Ok(())
    }

    /// Rebuilds any pages of a space of it, and compares each with the CRC-32 that the engine's own
    /// image had.
    pub fn rebuild<'r>(&self, rebuilder: &'r mut Rebuilder, set: &PageSet) -> Result<Rebuilt<'r>> {
        self.lay(rebuilder, set)?;
        let (proven, unproven) = rebuilder.verify(self.context.node)?;
        let (images, pages) = rebuilder.result();
        Ok(Rebuilt { images, pages, proven, unproven })
    }

    /// Rebuilds pages as the ground for what comes after this state; they are compared then.
    pub fn lay(&self, rebuilder: &mut Rebuilder, set: &PageSet) -> Result<()> {
        rebuilder.begin(set);
        rebuilder.apply(&self.sources)
    }

    pub fn log(&self) -> &Log {
        &self.context.log
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    pub fn options(&self) -> &ReplayOptions {
        &self.options
    }

    /// All of it but its pages.
    pub fn state(&self) -> &NodeState {
        &self.sources.tail.state
    }

    /// Names of the spaces that are left out.
    pub fn excluded(&self) -> &[String] {
        self.excluded.as_deref().unwrap_or_default()
    }

    /// Damage met in layers, which it does without.
    pub fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// The layers of the node but for those found damaged.
    pub fn layers(&self) -> &[LayerRecord] {
        &self.context.record.layers
    }
}

/// Opens what a plan names, or what another plan does that works without a damaged layer.
fn open(
    context: &mut NodeContext,
    mut plan: Plan,
    damaged: &mut Vec<Damage>,
    options: &ReplayOptions,
) -> Result<(Plan, Sources)> {
    loop {
        match context.sources(&plan, options) {
            Err(Error::Damaged(damage)) => {
                plan = do_without(context, &plan, None, *damage, damaged)?;
            }
            opened => return opened.map(|sources| (plan, sources)),
        }
    }
}

/// A plan for the same position without the layer that the damage is in. The damage is the error if
/// it is in none, or if there is no other way.
fn do_without(
    context: &mut NodeContext,
    plan: &Plan,
    sources: Option<&Sources>,
    damage: Damage,
    damaged: &mut Vec<Damage>,
) -> Result<Plan> {
    let Some(file) = damaged_layer(plan, sources, &damage) else {
        return Err(Error::Damaged(Box::new(damage)));
    };
    tracing::warn!(%damage, "a damaged layer is done without");
    context.forget_layer(file);
    damaged.push(damage.clone());
    context.plan(plan.target).map_err(|_| Error::Damaged(Box::new(damage)))
}
