//! Leases: what a restore, a view or a base snapshot reads stays until it has ended.
//!
//! A lease is an empty file with an advisory lock. Its name says which state of the catalog its
//! holder works with. The lock ends with the holder's process, so a crashed process does not keep
//! files for ever. Files that an entry gives up are not removed while a lease from before that
//! entry is held.

use std::sync::Arc;

use super::Catalog;
use crate::env::{Owner, random};
use crate::error::Result;
use crate::names::{self, LEASES};
use crate::storage::{Calls, LockGuard, ReadCalls, Storage, create_dir_durable};
use crate::types::{FileId, NodeId};

/// A lease on a node and on every node that it was branched from, held until dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    _nodes: Vec<NodeLease>,
}

/// The lease file of one node.
#[derive(Debug)]
struct NodeLease {
    owner: Owner,
    storage: Arc<dyn Storage>,
    path: String,
    _guard: Box<dyn LockGuard>,
}

impl Drop for NodeLease {
    fn drop(&mut self) {
        // If this fails, the next sweep removes the file.
        if self.owner.is_here() {
            let _ = self.storage.delete(&self.path);
        }
    }
}

impl Catalog {
    /// Takes a lease on what the catalog says now or later of a node, and of the nodes that it was
    /// branched from.
    pub fn lease(&self, node: NodeId) -> Result<Lease> {
        // Before anything else: a forked child must not wait for a lock whose holder does not exist
        // in it.
        self.owner.check("the archive")?;
        create_dir_durable(self.storage.as_ref(), LEASES)?;
        // What a node was branched from never changes after its creation.
        let (sequence, ancestors) = {
            let state = self.current()?;
            (state.entries, state.ancestors(node).into_keys())
        };
        let nodes = ancestors.chain([node]).map(|node| self.lease_node(node, sequence));
        Ok(Lease { _nodes: nodes.collect::<Result<_>>()? })
    }

    /// Takes a lease on what the catalog says of one node as of an entry, or later.
    fn lease_node(&self, node: NodeId, sequence: u64) -> Result<NodeLease> {
        loop {
            let id = FileId::from_bytes(random(self.keys().rng().as_ref())?);
            let path = names::lease_path(node, sequence, id);
            let guard = self.storage.locked(&path)?;
            // A sweeper may have removed the file before it was locked, taking it for one that a
            // crash left.
            let Some(guard) = guard else { continue };
            if self.storage.opened_if_there(&path)?.is_some() {
                let storage = Arc::clone(&self.storage);
                return Ok(NodeLease { owner: Owner::here(), storage, path, _guard: guard });
            }
        }
    }

    /// The earliest entry that the holder of a lease on a node may still rely on; `None` if nobody
    /// holds one. Removes what crashes left.
    pub fn oldest_lease(&self, node: NodeId) -> Result<Option<u64>> {
        Ok(self.held_leases(Some(node))?.into_iter().min())
    }

    /// Removes the leases that crashes left, of every node.
    pub(super) fn remove_stale_leases(&self) -> Result<()> {
        self.held_leases(None).map(drop)
    }

    /// The entries that holders of leases on a node, or on any node, may still rely on. Removes
    /// leases that nobody holds.
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
