//! The roles: who may change what is kept, and who may only restore.
//!
//! Roles are types within a process, not cryptography: each of them works with the archive's key,
//! which reads and writes everything. They keep the parts of a program from what they have no
//! business with, and put a name to what is done.

use std::time::Duration;

use super::{Archive, Restore};
use crate::catalog::{Hold, NodeRecord};
use crate::compact::Builder;
use crate::env;
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{Actor, Event};
use crate::format::retention::{Deletion, HoldScope, Policy};
use crate::lineage::Line;
use crate::names;
use crate::replay::{Resolved, Window, resolve};
use crate::retention::{
    Blocked, ExpiryPlan, SweepOptions, SweepReport, check_clock, check_policy, in_force,
    newest_archived, plan_node, promises, sweep_node,
};
use crate::types::{NodeId, Position, Target, Timestamp, check_name};

/// Shortest time in which a deletion can be undone.
pub const DELETION_GRACE: Duration = Duration::from_secs(7 * 86_400);

/// What an administrator's call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The whole archive. A policy of the archive is that of every node without one of its own.
    Archive,
    /// One node.
    Node(&'a str),
}

/// What a hold is to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldTarget<'a> {
    /// Everything.
    Archive,
    /// Everything of a node.
    Node(&'a str),
    /// The commits of a node from one target to another; with none: and all that come.
    Commits {
        /// The node.
        node: &'a str,
        /// The first commit.
        from: Target,
        /// The last one.
        to: Option<Target>,
    },
}

/// Who may change how long history is kept, place and release locks and holds, delete and let
/// expire. Made by [`Archive::administrator`].
///
/// Needs the archive's key, as every role does, and write access to the storage.
#[derive(Clone, Debug)]
pub struct Administrator {
    archive: Archive,
    actor: Actor,
}

/// Who may read and restore, and nothing else. Made by [`Archive::restorer`].
///
/// Needs the archive's key, and write access to the catalog and to `leases/`, as restores are
/// recorded and keep what they read; with read access alone, only [`Restore::unaudited`] is left.
#[derive(Clone, Debug)]
pub struct Restorer {
    archive: Archive,
    actor: Actor,
}

impl Archive {
    /// Acts as an administrator. What is done is recorded with this name and reason.
    pub fn administrator(&self, actor: Actor) -> Administrator {
        Administrator { archive: self.clone(), actor }
    }

    /// Acts as a restorer. What is restored is recorded with this name and reason.
    pub fn restorer(&self, actor: Actor) -> Restorer {
        Restorer { archive: self.clone(), actor }
    }
}

impl Restorer {
    /// Names of the nodes.
    pub fn nodes(&self) -> Result<Vec<String>> {
        self.archive.nodes()
    }

    /// Refuses an archive with another number of nodes than the place that all of them are to be
    /// restored to.
    pub fn expect_nodes(&self, count: usize) -> Result<()> {
        let found = self.nodes()?.len();
        if found == count {
            return Ok(());
        }
        let what = "number of nodes".to_owned();
        Err(Error::TargetMismatch { what, expected: count.to_string(), found: found.to_string() })
    }

    /// The earliest and latest state of a node that can be restored now.
    pub fn window(&self, node: &str) -> Result<Window> {
        self.archive.node(node)?.window()
    }

    /// The commit that a target names.
    pub fn resolve(&self, node: &str, target: &Target) -> Result<Resolved> {
        self.archive.node(node)?.resolve(target)
    }

    /// Begins a restore.
    pub fn restore<'a>(&self, node: &str, target: Target) -> Result<Restore<'a>> {
        Ok(Restore::new(&self.archive.node(node)?, target).actor(self.actor.clone()))
    }
}

impl Administrator {
    fn node_of(&self, scope: Scope<'_>) -> Result<Option<NodeId>> {
        match scope {
            Scope::Archive => Ok(None),
            Scope::Node(name) => {
                Ok(Some(self.archive.inner.catalog.current()?.node_named(name)?.0))
            }
        }
    }

    fn append<T>(
        &self,
        decide: impl FnMut(&crate::catalog::CatalogState) -> Result<(Event, T)>,
    ) -> Result<T> {
        self.archive.inner.catalog.append(&self.actor, decide)
    }

    fn now(&self) -> Result<Timestamp> {
        env::now(self.archive.inner.options.clock.as_ref())
    }

    /// What is needed to work on each node, in this actor's name.
    fn builders(&self) -> Result<Vec<Builder>> {
        let nodes = self.archive.inner.catalog.current()?.nodes.keys().copied().collect::<Vec<_>>();
        let builder = |id| Ok(self.archive.builder(self.archive.context(id)?, self.actor.clone()));
        nodes.into_iter().map(builder).collect()
    }

    /// The policy in force; none: everything is kept.
    pub fn policy(&self, scope: Scope<'_>) -> Result<Option<Policy>> {
        let node = self.node_of(scope)?;
        let state = self.archive.inner.catalog.current()?;
        Ok(match node {
            None => state.retention.policies.last().map(|c| c.policy.clone()),
            Some(node) => in_force(&promises(&state, node)).cloned(),
        })
    }

    /// Sets how long history is kept.
    ///
    /// A longer time counts at once, as far as history is still there. A shorter one counts for
    /// what is archived from now on: what was promised before keeps its date; what was archived
    /// before there was any policy counts as promised for 35 days. A shorter one is refused while a
    /// lock is on the node or archive. Periodic protection can become continuous, without a gap;
    /// the way back is refused.
    pub fn set_retention(&self, scope: Scope<'_>, policy: &Policy) -> Result<()> {
        let node = self.node_of(scope)?;
        // What was archived up to now, by whatever clock.
        let mut covers = self.now()?;
        for Builder { context, .. } in self.builders()? {
            if node.is_none_or(|n| n == context.node)
                && context.record.retention.deletion != Deletion::Final
            {
                covers = covers.max(newest_archived(&context)?);
            }
        }
        self.append(|state| {
            let promised = match node {
                None => state.retention.policies.last().map(|c| c.policy.clone()),
                Some(node) => in_force(&promises(state, node)).cloned(),
            };
            let unset = Policy::continuous(Policy::UNSET);
            let shorter = check_policy(promised.as_ref(), policy)?;
            let shorter =
                shorter || promised.is_none() && check_policy(Some(&unset), policy).unwrap_or(true);
            if let Some(lock) = shorter.then(|| state.locks(node).next()).flatten() {
                return Err(Error::Locked {
                    operation: "shortening what is kept",
                    lock: lock.clone(),
                });
            }
            Ok((Event::RetentionChanged { node, policy: policy.clone(), covers }, ()))
        })
    }

    /// Places a management lock: until it is released, nothing may delete the node or archive, or
    /// shorten what is kept of it.
    pub fn lock(&self, scope: Scope<'_>, name: &str) -> Result<()> {
        check_name("lock", name)?;
        let node = self.node_of(scope)?;
        self.append(|state| {
            if own_locks(state, node).contains(name) {
                return Err(Error::LockExists { name: name.to_owned() });
            }
            Ok((Event::LockPlaced { node, name: name.to_owned() }, ()))
        })
    }

    /// Releases a lock.
    pub fn release_lock(&self, scope: Scope<'_>, name: &str) -> Result<()> {
        let node = self.node_of(scope)?;
        self.append(|state| {
            if !own_locks(state, node).contains(name) {
                return Err(Error::NoSuchLock { name: name.to_owned() });
            }
            Ok((Event::LockReleased { node, name: name.to_owned() }, ()))
        })
    }

    /// Locks on a node or archive, by name; those of the archive are on its nodes too.
    pub fn locks(&self, scope: Scope<'_>) -> Result<Vec<String>> {
        let node = self.node_of(scope)?;
        let state = self.archive.inner.catalog.current()?;
        Ok(state.locks(node).cloned().collect())
    }

    /// Places a legal hold: what it is on does not expire before it is released, or before `until`.
    /// The reason is that of the actor.
    ///
    /// # Errors
    ///
    /// [`Error::HoldExists`] if the name is taken, [`Error::InvalidName`]; those of
    /// [`Node::resolve`](crate::Node::resolve): what has expired cannot be held;
    /// [`Error::NotMonotonic`] where the last commit lies before the first.
    pub fn hold(&self, name: &str, on: &HoldTarget<'_>, until: Option<Timestamp>) -> Result<()> {
        check_name("hold", name)?;
        let taken = |state: &crate::catalog::CatalogState| {
            let there = state.retention.holds.contains_key(name);
            if there { Err(Error::HoldExists { name: name.to_owned() }) } else { Ok(()) }
        };
        let scope = match on {
            HoldTarget::Archive => HoldScope::Archive,
            HoldTarget::Node(node) => {
                let node = self.archive.inner.catalog.current()?.node_named(node)?.0;
                HoldScope::Node { node }
            }
            HoldTarget::Commits { node, from, to } => {
                let context = self.archive.node(node)?.context()?;
                return self.append(|state| {
                    taken(state)?;
                    // By the state that the entry follows on: what has expired by then cannot be
                    // held any more.
                    let view = state.view(context.node)?;
                    let find = |t: &Target| {
                        resolve(&context.log, &view, t).map(|r| (r.timeline, Position::from(r.lsn)))
                    };
                    let (from, to) = (find(from)?, to.as_ref().map(find).transpose()?);
                    let timeline = to.map_or(context.timeline(), |(timeline, _)| timeline);
                    let timeline = match view.lineage(timeline) {
                        on if on.holds(Line::new(context.node, from.0), from.1) => timeline,
                        _ if to.is_none() => from.0,
                        _ => return Err(Error::UnrelatedEnds { what: "hold" }),
                    };
                    let (from, to) = (from.1, to.map(|(_, to)| to));
                    if let Some(to) = to.filter(|to| *to < from) {
                        let (newest, given) = (format!("LSN {from}"), format!("LSN {to}"));
                        return Err(Error::NotMonotonic {
                            what: "the range of a hold",
                            newest,
                            given,
                        });
                    }
                    let scope = HoldScope::Commits { node: context.node, timeline, from, to };
                    Ok((Event::HoldPlaced { name: name.to_owned(), scope, until }, ()))
                });
            }
        };
        self.append(|state| {
            taken(state)?;
            Ok((Event::HoldPlaced { name: name.to_owned(), scope, until }, ()))
        })
    }

    /// Releases a hold.
    pub fn release_hold(&self, name: &str) -> Result<()> {
        self.append(|state| {
            if !state.retention.holds.contains_key(name) {
                return Err(Error::NoSuchHold { name: name.to_owned() });
            }
            Ok((Event::HoldReleased { name: name.to_owned() }, ()))
        })
    }

    /// The holds there are, by name.
    pub fn holds(&self) -> Result<Vec<(String, Hold)>> {
        let state = self.archive.inner.catalog.current()?;
        Ok(state.retention.holds.iter().map(|(name, hold)| (name.clone(), hold.clone())).collect())
    }

    /// Deletes a node or the archive, softly: writers are refused from now on, all files stay for
    /// `grace` (at least [`DELETION_GRACE`]), and until then it can be [undone](Self::undelete).
    /// Refused while a lock or a hold is on it.
    pub fn delete(&self, scope: Scope<'_>, grace: Duration) -> Result<Timestamp> {
        let node = self.node_of(scope)?;
        let now = self.now()?;
        self.append(|state| {
            if let Some(lock) = state.locks(node).next() {
                return Err(Error::Locked { operation: "deleting", lock: lock.clone() });
            }
            let nodes: Vec<NodeId> =
                node.map_or_else(|| state.nodes.keys().copied().collect(), |n| vec![n]);
            for node in &nodes {
                if let Some(lock) = node_locks(state, *node).next() {
                    return Err(Error::Locked { operation: "deleting", lock: lock.clone() });
                }
                if let Some((hold, _)) = state.holds(*node, now).next() {
                    return Err(Error::Held { operation: "deleting", hold: hold.clone() });
                }
            }
            match node {
                Some(node) => state.check_live(node)?,
                None if state.retention.deletion != Deletion::Live => {
                    let until = match state.retention.deletion {
                        Deletion::Until(until) => until,
                        _ => Timestamp::ZERO,
                    };
                    return Err(Error::Deleted { what: "the archive".into(), until });
                }
                None => {}
            }
            // A clock that was put back must not make this short: the catalog's time counts too.
            let until = now.max(state.time).saturating_add(grace.max(DELETION_GRACE));
            Ok((Event::DeletionChanged { node, deletion: Deletion::Until(until) }, until))
        })
    }

    /// Undoes a deletion, as long as its time has not run out and a sweep come after that.
    pub fn undelete(&self, scope: Scope<'_>) -> Result<()> {
        let node = self.node_of(scope)?;
        self.append(|state| {
            let deletion = node.map_or(state.retention.deletion, |n| {
                state.nodes.get(&n).map_or(Deletion::Live, |n| n.retention.deletion)
            });
            match deletion {
                Deletion::Until(_) => {
                    Ok((Event::DeletionChanged { node, deletion: Deletion::Live }, ()))
                }
                Deletion::Live => Err(Error::NotDeleted { found: "not deleted" }),
                Deletion::Final => Err(Error::NotDeleted {
                    found: "deleted for good, and its files were given up",
                }),
            }
        })
    }

    /// Says that the clock is right, and that whatever runs ahead of it in the logs is known. For
    /// when a sweep was refused with [`Error::ClockImplausible`]: look at the clock first, as what
    /// is due by it expires with the next sweep.
    pub fn confirm_clock(&self) -> Result<()> {
        let (clock, mut archived) = (self.now()?, Timestamp::ZERO);
        for Builder { context, .. } in self.builders()? {
            // What cannot be read does not expire anyway.
            archived = archived.max(newest_archived(&context).unwrap_or_default());
        }
        self.append(|_| Ok((Event::ClockObserved { clock, archived, confirmed: true }, ())))
    }

    /// What a sweep would let expire now, by node, and why the rest stays. Changes nothing.
    pub fn plan_expiry(&self, options: &SweepOptions) -> Result<Vec<(String, ExpiryPlan)>> {
        let now = self.now()?;
        let builders = self.builders()?.into_iter().filter(|b| !is_gone(&b.context.record));
        builders
            .map(|b| Ok((b.context.record.name.clone(), plan_node(&b, now, options)?)))
            .collect()
    }

    /// Lets expire what no policy, hold, restore point or branch keeps, and removes what expired
    /// before and whose grace period is over. To be called about once a day. Refused with
    /// [`Error::ClockImplausible`] where the clock has jumped; ended by the `cancel` of its options
    /// with [`Error::Cancelled`], at no harm.
    ///
    /// What keeps a single node from being swept is in the report, and the others are swept all the
    /// same.
    pub fn sweep(&self, options: &SweepOptions) -> Result<SweepReport> {
        let now = self.now()?;
        let mut report = SweepReport::default();
        let mut builders = Vec::new();
        let mut archived = Timestamp::ZERO;
        for builder in self.builders()? {
            if is_gone(&builder.context.record) {
                builders.push(builder);
                continue;
            }
            // A node whose log cannot be read is left alone; that is no reason for the others to
            // grow.
            match newest_archived(&builder.context) {
                Ok(newest) => {
                    archived = archived.max(newest);
                    builders.push(builder);
                }
                Err(e) => report.failed.push((builder.context.record.name.clone(), e)),
            }
        }
        if let Some(first) = builders.first() {
            check_clock(first, now, archived)?;
        }
        for mut builder in builders {
            match sweep_node(&mut builder, now, options) {
                // A node that is gone for good may have files to be removed yet; when it has none,
                // there is nothing to tell.
                Ok(done)
                    if is_gone(&builder.context.record)
                        && done.removed_files == 0
                        && done.pending_expiries == 0 => {}
                Ok(done) => {
                    // Nothing of it expires until what is missing is there again: whoever calls has
                    // to hear of it.
                    if let Some(blocked @ Blocked::Incomplete(timeline)) = &done.plan.blocked {
                        tracing::error!(node = %builder.context.record.name, %blocked, "nothing expires");
                        let path = names::timeline_dir(builder.context.node, *timeline);
                        let (what, expected) =
                            ("what is to be kept", "log and snapshots to restore it from");
                        let found = "not all of them: nothing of the node expires, see verify";
                        let error =
                            Error::damage(DamageKind::Missing, path, 0, what, expected, found);
                        report.failed.push((builder.context.record.name.clone(), error));
                    }
                    report.nodes.push(done);
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(e) => {
                    tracing::error!(node = %builder.context.record.name, error = %e, "nothing expires");
                    report.failed.push((builder.context.record.name.clone(), e));
                }
            }
        }
        if let Err(error) = self.archive.inner.catalog.remove_all_leftovers() {
            // They are in nobody's way.
            tracing::warn!(%error, "files that a crash left could not be removed");
        }
        Ok(report)
    }
}

fn is_gone(record: &NodeRecord) -> bool {
    record.retention.deletion == Deletion::Final
}

fn own_locks(
    state: &crate::catalog::CatalogState,
    node: Option<NodeId>,
) -> std::collections::BTreeSet<String> {
    match node {
        None => state.retention.locks.clone(),
        Some(node) => node_locks(state, node).cloned().collect(),
    }
}

/// Locks on a node itself.
fn node_locks(state: &crate::catalog::CatalogState, node: NodeId) -> impl Iterator<Item = &String> {
    state.nodes.get(&node).into_iter().flat_map(|n| &n.retention.locks)
}
