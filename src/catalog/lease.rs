//! Leases: what a restore, a view or a base copy reads stays until it has ended.
//!
//! A lease is an empty file whose name says which state of the catalog its holder works with, and an advisory lock on it: the lock ends with the
//! holder's process, so nothing that crashed keeps files for ever. Files that an entry gives up are not removed while a lease from before that entry is held.

use std::sync::Arc;

use super::Catalog;
use crate::env::{Owner, random};
use crate::error::Result;
use crate::names::{self, LEASES};
use crate::storage::{Calls, LockGuard, ReadCalls, Storage, create_dir_durable};
use crate::types::{FileId, NodeId};

/// A lease on every node that states of one are rebuilt from, held until dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    _nodes: Vec<NodeLease>,
}

/// The file of one node.
#[derive(Debug)]
struct NodeLease {
    owner: Owner,
    storage: Arc<dyn Storage>,
    path: String,
    _guard: Box<dyn LockGuard>,
}

impl Drop for NodeLease {
    fn drop(&mut self) {
        // What stays is removed by the next sweep.
        if self.owner.is_here() {
            let _ = self.storage.delete(&self.path);
        }
    }
}

impl Catalog {
    /// Takes a lease on what the catalog says now or later of a node, and of those that it was
    /// branched from.
    pub fn lease(&self, node: NodeId) -> Result<Lease> {
        // Before anything is touched: a forked child must not wait for a lock whose holder it does not have.
        self.owner.check("the archive")?;
        create_dir_durable(self.storage.as_ref(), LEASES)?;
        // What a node was branched from was settled when it was made.
        let (sequence, ancestors) = {
            let state = self.current()?;
            (state.entries, state.ancestors(node).into_keys())
        };
        let nodes = ancestors.chain([node]).map(|node| self.lease_node(node, sequence));
        Ok(Lease { _nodes: nodes.collect::<Result<_>>()? })
    }

    /// Takes a lease on what the catalog says as of an entry, or later, of one node.
    fn lease_node(&self, node: NodeId, sequence: u64) -> Result<NodeLease> {
        loop {
            let id = FileId::from_bytes(random(self.keys().rng().as_ref())?);
            let path = names::lease_path(node, sequence, id);
            let guard = self.storage.locked(&path)?;
            // A sweeper may have taken it, still unlocked, for one that a crash left.
            let Some(guard) = guard else { continue };
            if self.storage.opened_if_there(&path)?.is_some() {
                let storage = Arc::clone(&self.storage);
                return Ok(NodeLease { owner: Owner::here(), storage, path, _guard: guard });
            }
        }
    }

    /// The earliest entry that a holder of a lease on a node may still go by; `None` where there is no holder. Removes what crashes left.
    pub fn oldest_lease(&self, node: NodeId) -> Result<Option<u64>> {
        Ok(self.held_leases(Some(node))?.into_iter().min())
    }

    /// Removes leases that crashes left, of whatever node.
    pub(super) fn remove_stale_leases(&self) -> Result<()> {
        self.held_leases(None).map(drop)
    }

    /// The entries that holders of leases on a node, or on any, may still go by. Removes leases
    /// that nobody holds.
    fn held_leases(&self, of: Option<NodeId>) -> Result<Vec<u64>> {
        let mut held = Vec::new();
        for entry in self.storage.listed(LEASES)? {
            let Some((node, sequence)) = names::lease(&entry.name) else { continue };
            if of.is_some_and(|of| of != node) {
                continue;
            }
            let path = names::join(LEASES, &entry.name);
            if !self.remove_unless_locked(&path)? {
                held.push(sequence);
            }
        }
        Ok(held)
    }
}
