//! Layers: page-sorted, immutable files that make replay cheap.
//!
//! Owns how pages are put into parts and parts into layers, and how they are read again.
//! Knows nothing of how a page comes to be what it is. A layer is visible only
//! through its entry in the catalog; a crash before that leaves parts that nothing
//! refers to.

mod part;
mod reader;

pub(crate) use part::{LayerWriter, PartWriter};
pub(crate) use reader::{BlockBuffers, CopiedBlock, LayerReader, PageEntry, PartReader};

use crate::types::{FileId, NodeId};

/// Where a part is.
pub(crate) fn part_path(node: NodeId, file: FileId) -> String {
    let name = file.to_string();
    format!("{}/{name}.part", part_dir(node, file))
}

fn part_dir(node: NodeId, file: FileId) -> String {
    let group = file.as_bytes().first().copied().unwrap_or_default();
    format!("nodes/{:08x}/parts/{group:02x}", node.get())
}

fn layer_dir(node: NodeId) -> String {
    format!("nodes/{:08x}/layers", node.get())
}

/// Where a layer is.
pub(crate) fn layer_path(node: NodeId, file: FileId) -> String {
    format!("{}/{file}.layer", layer_dir(node))
}
