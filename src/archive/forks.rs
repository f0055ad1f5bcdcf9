//! Forks and branches, made through the internals: the calls that hosts make them by come later.
//!
//! Owns what has to hold when one is made. A fork is an entry of the catalog. A branch of another
//! node is known to this process alone, as no entry tells of it yet: it must be made again whenever
//! the archive is opened.

use super::Node;
use crate::error::Result;
use crate::format::event::Event;
use crate::lineage::{Fork, Line};
use crate::replay::resolve;
use crate::types::{Position, Target, TimelineId};

impl Node {
    /// Starts a new timeline with the commit that a target names: the next writer goes on from
    /// there, and one that is open is fenced off. What came after that commit can be restored on
    /// its own timeline as before.
    pub(crate) fn fork(&self, target: &Target) -> Result<TimelineId> {
        let context = self.context()?;
        let inner = &self.archive.inner;
        inner.catalog.append(&inner.options.actor, |state| {
            state.check_live(self.id)?;
            let view = state.view(self.id)?;
            // By the state that the entry follows on: it may expire at any time.
            let at = resolve(&context.log, &view, target)?;
            let timeline = TimelineId::new(view.record.timeline.get() + 1);
            let event = Event::TimelineCreated {
                node: self.id,
                timeline,
                parent: at.timeline,
                fork: at.lsn.into(),
            };
            Ok((event, timeline))
        })
    }

    /// Lets a node to which nothing was written go on from the commit of this one that a target
    /// names.
    pub(crate) fn branch(&self, target: &Target, into: &Node) -> Result<()> {
        let at = self.resolve(target)?;
        let fork = Fork { line: Line::new(self.id, at.timeline), at: Position::from(at.lsn) };
        assert!(into.id > self.id, "a node is branched from an older one");
        self.archive.inner.catalog.branch_in_memory(into.id, fork)
    }
}
