//! A writer's tenure of its node, as the catalog and the node's lock tell it.
//!
//! Owns the lock, the epoch, and every entry of the catalog that a writer makes: its opening, the
//! names of commits, base copies. Never touches the log or waits for it. Invariant: an entry is
//! appended only if the catalog, as the entry follows it, still names this writer as the newest. A
//! crash leaves the lock to whoever comes next; the name of a commit that is durable but has no
//! entry yet is published when the node's next writer opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::catalog::{Catalog, CatalogState, Lease};
use crate::error::{Error, Result};
use crate::format::event::{Actor, Event};
use crate::format::state::StateError;
use crate::names::writer_lock;
use crate::storage::{LockGuard, Storage, check_name};
use crate::sync::Mutex;
use crate::types::{Epoch, NodeId, Position, SpaceId, TimelineId, Timestamp};

/// One writer's tenure.
#[derive(Debug)]
pub(super) struct Tenure {
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    pub timeline: TimelineId,
    pub epoch: Epoch,
    catalog: Arc<Catalog>,
    actor: Actor,
    /// The newest entry of the catalog by which the node was this writer's; zero before the first
    /// look.
    seen: AtomicU64,
    /// Held until the writer is closed.
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

/// Who opens a writer, of what.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub catalog: &'a Arc<Catalog>,
    pub actor: &'a Actor,
    pub node: NodeId,
    pub name: String,
    pub timeline: TimelineId,
    /// The node's lock.
    pub lock: Box<dyn LockGuard>,
}

impl Tenure {
    /// Begins a tenure: announces in the catalog that a writer of a new epoch takes up the log at a
    /// position.
    pub fn begin(claim: Claim<'_>, position: Position) -> Result<Tenure> {
        let Claim { catalog, actor, node, name, timeline, lock } = claim;
        let epoch = catalog.append(actor, |state| {
            state.check_live(node)?;
            let now = state.node(node)?;
            if now.timeline != timeline {
                // It was forked since this one looked: what was recovered is no longer what goes
                // on.
                return Err(Error::Fenced { node: now.name.clone() });
            }
            let epoch = Epoch::new(now.epoch.get() + 1);
            Ok((Event::WriterOpened { node, timeline, epoch, position }, epoch))
        })?;
        tracing::info!(node = %name, %epoch, %position, "writer opened");
        Ok(Tenure {
            node,
            name,
            timeline,
            epoch,
            catalog: Arc::clone(catalog),
            actor: actor.clone(),
            seen: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Refuses to go on with a node that was deleted or has a newer writer: where the lock did not
    /// keep that one out, the catalog tells who came last. As long as the catalog has not grown
    /// this costs an attempt to open the entry that would come next.
    pub fn check(&self) -> Result<()> {
        let seen = self.seen.load(Ordering::Relaxed);
        if seen > 0 && !self.catalog.has_entry(seen + 1)? {
            return Ok(());
        }
        let state = self.catalog.current()?;
        self.check_in(&state)?;
        self.seen.store(state.entries, Ordering::Relaxed);
        Ok(())
    }

    fn check_in(&self, state: &CatalogState) -> Result<()> {
        if state.node(self.node)?.epoch != self.epoch {
            return Err(Error::Fenced { node: self.name.clone() });
        }
        state.check_live(self.node)
    }

    /// Proves that the newest entry known and the lock are still where they were opened.
    pub fn check_place(&self, storage: &dyn Storage) -> Result<()> {
        self.catalog.check_newest()?;
        match self.lock.lock().as_ref() {
            Some(lock) => check_name(storage, &writer_lock(self.node), lock.identity()),
            None => Ok(()),
        }
    }

    /// Appends an entry, as long as the tenure lasts.
    pub fn append(&self, mut decide: impl FnMut(&CatalogState) -> Result<Event>) -> Result<()> {
        self.catalog.append(&self.actor, |state| {
            self.check_in(state)?;
            Ok((decide(state)?, ()))
        })
    }

    /// Makes a named commit known to the catalog. The commit is durable already.
    pub fn publish_restore_point(
        &self,
        name: &str,
        position: Position,
        timestamp: Timestamp,
    ) -> Result<()> {
        self.append(|state| {
            if state.node(self.node)?.restore_points.contains_key(name) {
                return Err(Error::RestorePointExists { name: name.to_owned() });
            }
            let (node, timeline, name) = (self.node, self.timeline, name.to_owned());
            Ok(Event::RestorePoint { node, timeline, name, position, timestamp })
        })
    }

    /// Whether a restore point of the node has this name.
    pub fn is_named(&self, name: &str) -> Result<bool> {
        Ok(self.catalog.current()?.node(self.node)?.restore_points.contains_key(name))
    }

    /// Keeps what there is from going while the lease is held.
    pub fn lease(&self) -> Result<Lease> {
        self.catalog.lease(self.node)
    }

    /// Why a batch cannot be committed.
    pub fn refused(&self, e: &StateError) -> Error {
        match e {
            StateError::Limit(what, limit, found) => {
                Error::LimitExceeded { what, limit: *limit, found: *found }
            }
            StateError::SpaceTaken(_, name) => Error::SpaceExists { space: name.clone() },
            StateError::NoSpace(space) => self.no_such_space(*space),
            StateError::Name(space) => Error::InvalidName {
                what: "space",
                name: space.to_string(),
                reason: "its name is not one that a file can have",
            },
            StateError::Backwards(what, newest, given) => {
                Error::NotMonotonic { what, newest: newest.clone(), given: given.clone() }
            }
        }
    }

    pub fn no_such_space(&self, space: SpaceId) -> Error {
        Error::NoSuchSpace { space: space.to_string(), node: self.name.clone() }
    }

    /// Lets the node's lock go.
    pub fn release(&self) {
        drop(self.lock.lock().take());
    }

    /// Lets go of a forked child's copy of the lock, so that it ends with the parent. Whoever holds
    /// the mutex may not exist here.
    pub fn release_copy(&self) {
        drop(self.lock.try_lock().and_then(|mut lock| lock.take()));
    }
}

/// Whether the node is no longer this writer's.
pub(super) fn ends_tenure(e: &Error) -> bool {
    matches!(e, Error::Fenced { .. } | Error::Deleted { .. } | Error::NoSuchNode { .. })
}
