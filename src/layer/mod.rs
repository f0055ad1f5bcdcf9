//! Layers: page-sorted, immutable files that make replay cheap.
//!
//! Owns how pages are put into parts and parts into layers, and how they are read again.
//! Knows nothing of how a page comes to be what it is. A layer is visible only
//! through its entry in the catalog; a crash before that leaves parts that nothing
//! refers to.

mod part;
mod reader;

pub(crate) use part::{Copied, LayerWriter, PartWriter};
pub(crate) use reader::{BlockBuffers, CopiedBlock, LayerReader, PageEntry, PartReader};

use crate::error::Result;
use crate::names;
use crate::storage::{ReadCalls, ReadStore};
use crate::types::{FileId, NodeId};

/// All layers' files, whether anything refers to them or not.
pub(crate) fn list_layers(storage: &dyn ReadStore, node: NodeId) -> Result<Vec<(FileId, u64)>> {
    let dir = names::layers_dir(node);
    let entries = storage.listed(&dir)?;
    Ok(entries.iter().filter_map(|e| Some((names::layer(&e.name)?, e.len))).collect())
}

/// All parts, whether anything refers to them or not.
pub(crate) fn list_parts(storage: &dyn ReadStore, node: NodeId) -> Result<Vec<(FileId, u64)>> {
    let dir = names::parts_dir(node);
    let mut found = Vec::new();
    for group in storage.listed(&dir)? {
        let entries = storage.listed(&names::join(&dir, &group.name))?;
        found.extend(entries.iter().filter_map(|e| Some((names::part(&e.name)?, e.len))));
    }
    Ok(found)
}
