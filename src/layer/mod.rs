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

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::types::{FileId, NodeId};

/// Where a part is.
pub(crate) fn part_path(node: NodeId, file: FileId) -> String {
    let name = file.to_string();
    format!("{}/{name}.part", part_dir(node, file))
}

fn part_dir(node: NodeId, file: FileId) -> String {
    let [group, ..] = file.as_bytes();
    format!("nodes/{:08x}/parts/{group:02x}", node.get())
}

fn layer_dir(node: NodeId) -> String {
    format!("nodes/{:08x}/layers", node.get())
}

/// Numbers and lengths of files of a kind, by their names.
fn named(storage: &dyn Storage, dir: &str, suffix: &str, found: &mut Vec<(FileId, u64)>) -> Result<()> {
    for entry in storage.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.name.strip_suffix(suffix).filter(|n| n.len() == 32);
        let Some(id) = name.and_then(|n| u128::from_str_radix(n, 16).ok()) else { continue };
        let id = FileId::from_bytes(id.to_be_bytes());
        if format!("{id}{suffix}") == entry.name {
            found.push((id, entry.len));
        }
    }
    Ok(())
}

/// All layers' files, whether anything refers to them or not.
pub(crate) fn list_layers(storage: &dyn Storage, node: NodeId) -> Result<Vec<(FileId, u64)>> {
    let mut found = Vec::new();
    named(storage, &layer_dir(node), ".layer", &mut found)?;
    Ok(found)
}

/// All parts, whether anything refers to them or not.
pub(crate) fn list_parts(storage: &dyn Storage, node: NodeId) -> Result<Vec<(FileId, u64)>> {
    let dir = format!("nodes/{:08x}/parts", node.get());
    let mut found = Vec::new();
    for group in storage.list(&dir).map_err(|e| Error::io("list", &dir, e))? {
        named(storage, &format!("{dir}/{}", group.name), ".part", &mut found)?;
    }
    Ok(found)
}

/// Where a layer is.
pub(crate) fn layer_path(node: NodeId, file: FileId) -> String {
    format!("{}/{file}.layer", layer_dir(node))
}
