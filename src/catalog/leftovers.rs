//! What crashes leave under `tmp/` and `leases/`, and who removes it.
//!
//! A temporary file's name begins with its scope, which determines when its owner is certainly
//! gone:
//!
//! | scope | of | has no owner once |
//! |---|---|---|
//! | `catalog-<seq>` | an entry about to be published | there is an entry of this number: the file can no longer be published |
//! | `checkpoint-<seq>` | a checkpoint of the catalog | there is a later entry. Its writer may be alive, and then continues without it: a checkpoint is derived |
//! | `w<node>` | a writer: new segments, large batches, base snapshots | the node's `writer.lock` is free |
//! | `c<node>` | a builder or sweeper of a node | the node's `maintain.lock` is free |
//! | `put` | a file that is stored whole | nobody holds a lock on the file itself |
//!
//! Whoever takes one of the locks removes what is left of its scope. Opening a writer also removes
//! what is left of the first two scopes, and a sweep removes everything that is left. Of a node
//! that is not deleted, a sweep leaves the writer's scope to the next writer: holding the lock even
//! for a moment would keep that writer from opening.

use std::io::ErrorKind;

use super::{Catalog, CatalogState};
use crate::error::{Error, Result};
use crate::format::retention::Deletion;
use crate::names::{self, Scope, TMP};
use crate::sealed::remove_leftovers;
use crate::storage::{Calls, ReadCalls};
use crate::types::NodeId;

impl Catalog {
    /// Removes temporary files of entries and checkpoints that crashes left.
    pub fn remove_own_leftovers(&self) -> Result<()> {
        let entries = self.current()?.entries;
        for name in self.temporary_names()? {
            let dead = match Scope::of(&name) {
                Some(Scope::Entry(sequence)) => sequence <= entries,
                Some(Scope::Checkpoint(sequence)) => sequence < entries,
                Some(Scope::Writer(_) | Scope::Builder(_) | Scope::Put) | None => false,
            };
            if dead {
                self.remove_leftover(&names::join(TMP, &name))?;
            }
        }
        Ok(())
    }

    /// Removes everything that crashes left and that nobody else is going to remove.
    pub fn remove_all_leftovers(&self) -> Result<()> {
        self.remove_own_leftovers()?;
        self.remove_stale_leases()?;
        let state = self.current()?.clone();
        for name in self.temporary_names()? {
            let Some(scope) = Scope::of(&name) else { continue };
            let (node, lock) = match scope {
                Scope::Writer(node) => (node, names::writer_lock(node)),
                Scope::Builder(node) => (node, names::builder_lock(node)),
                Scope::Put => {
                    self.remove_unless_locked(&names::join(TMP, &name))?;
                    continue;
                }
                Scope::Entry(_) | Scope::Checkpoint(_) => continue,
            };
            if is_live(&state, node) {
                continue;
            }
            // `NotFound`: the node has no directory, so nobody can hold its lock or take it.
            let guard = match self.storage.try_lock(&lock) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("lock", &lock, e));
                }
                Ok(None) => continue,
                guard => guard.ok(),
            };
            remove_leftovers(self.storage.as_ref(), scope)?;
            drop(guard);
        }
        Ok(())
    }

    fn temporary_names(&self) -> Result<Vec<String>> {
        let entries = self.storage.listed(TMP)?;
        Ok(entries.into_iter().map(|e| e.name).collect())
    }

    /// Removes a file whose owner would hold a lock on it; returns whether there was no owner.
    pub(super) fn remove_unless_locked(&self, path: &str) -> Result<bool> {
        match self.storage.open(path) {
            // Locking it would create it.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            _ => {}
        }
        let guard = self.storage.locked(path)?;
        if guard.is_some() {
            self.remove_leftover(path)?;
        }
        Ok(guard.is_some())
    }

    pub(super) fn remove_leftover(&self, path: &str) -> Result<()> {
        // Other processes remove leftovers, too.
        self.storage.deleted_if_there(path).map(drop)
    }
}

fn is_live(state: &CatalogState, node: NodeId) -> bool {
    state.retention.deletion == Deletion::Live
        && state.nodes.get(&node).is_some_and(|n| n.retention.deletion == Deletion::Live)
}
