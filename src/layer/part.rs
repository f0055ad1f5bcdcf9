//! Writing parts and layers.

use std::collections::BTreeMap;

use super::reader::CopiedBlock;
use crate::delta::Encoder;
use crate::error::{Error, Result};
use crate::format::event::LayerRecord;
use crate::format::frame::FrameKind;
use crate::format::header::FileKind;
use crate::format::part::{BlockBuilder, BlockIndex, LayerBody, PartRef, PartSeal};
use crate::format::state::NodeState;
use crate::names::{Scope, layer_path, layers_dir, part_dir, part_path};
use crate::sealed::{
    ArchiveKeys, FileInfo, FrameSpec, SealedSummary, SealedWriter, encode_cbor, write_body,
};
use crate::storage::{Storage, create_dir_durable};
use crate::types::{Epoch, NodeId, PageSize, Position, SpaceId, TimelineId, Timestamp};

/// Page data of a block, before compression: AES-GCM and zstd run at full speed, and one page costs
/// little more to read.
const BLOCK: usize = 64 << 10;

/// What the parts of one layer have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerWriter<'a> {
    pub storage: &'a dyn Storage,
    pub keys: &'a ArchiveKeys,
    /// Prefix of temporary files.
    pub scope: Scope,
    pub node: NodeId,
    pub timeline: TimelineId,
    /// None: a snapshot.
    pub from: Option<Position>,
    pub to: Position,
    pub created: Timestamp,
}

impl<'a> LayerWriter<'a> {
    fn info(&self, kind: FileKind) -> FileInfo {
        FileInfo {
            kind,
            node: self.node,
            timeline: self.timeline,
            epoch: Epoch::default(),
            sequence: 0,
            from: self.from.map_or(0, Position::get),
            to: self.to.get(),
            created: self.created,
            link: [0; 32],
        }
    }

    /// Begins a part.
    pub fn part(&self, space: SpaceId, page_size: PageSize) -> Result<PartWriter<'a>> {
        Ok(PartWriter {
            writer: SealedWriter::create(
                self.storage,
                self.keys,
                self.scope,
                self.info(FileKind::Part),
            )?,
            storage: self.storage,
            node: self.node,
            encoder: Encoder::new()?,
            block: BlockBuilder::default(),
            compressed: Vec::new(),
            plaintext: Vec::new(),
            data: 0,
            seal: PartSeal {
                space,
                page_size,
                from: self.from,
                to: self.to,
                entries: 0,
                blocks: Vec::new(),
            },
            copied: Copied::new(),
        })
    }

    /// Writes the layer's own file; gives what the catalog is to say of it. Not visible until the
    /// catalog says so.
    pub fn finish(
        &self,
        state: NodeState,
        consistent_from: Position,
        level: u32,
        lowest: BTreeMap<SpaceId, u64>,
        parts: Vec<PartRef>,
    ) -> Result<LayerRecord> {
        let timestamp = state.timestamp;
        let bytes = parts.iter().map(|p| p.length).sum();
        let entries = parts.iter().map(|p| p.entries).sum();
        let body = LayerBody {
            node: self.node,
            timeline: self.timeline,
            from: self.from,
            state,
            consistent_from,
            level,
            lowest,
            parts,
            created: self.created,
        };
        create_dir_durable(self.storage, &layers_dir(self.node))?;
        let path = |file| layer_path(self.node, file);
        let written = write_body(
            self.storage,
            self.keys,
            self.scope,
            self.info(FileKind::Layer),
            &body,
            path,
        )?;
        let summary = published(written, "the layer's file")?;
        Ok(LayerRecord {
            node: self.node,
            timeline: self.timeline,
            file: summary.id,
            from: self.from,
            to: self.to,
            consistent_from,
            timestamp,
            level,
            bytes,
            length: summary.length,
            commitment: summary.commitment,
            entries,
        })
    }
}

/// The name of a file is its random id: it cannot be taken.
fn published(summary: Option<SealedSummary>, path: &str) -> Result<SealedSummary> {
    summary.ok_or_else(|| Error::IdTaken { path: path.to_owned() })
}

/// A part being written: pages in ascending order.
#[derive(Debug)]
pub(crate) struct PartWriter<'a> {
    writer: SealedWriter<'a>,
    storage: &'a dyn Storage,
    node: NodeId,
    encoder: Encoder,
    block: BlockBuilder,
    compressed: Vec<u8>,
    plaintext: Vec<u8>,
    data: u64,
    seal: PartSeal,
    copied: Copied,
}

/// The blocks of a part that were taken over from another one: CRC-32 of their plaintext, by
/// offset.
pub(crate) type Copied = BTreeMap<u64, u32>;

impl PartWriter<'_> {
    /// Adds a page that is all zero.
    pub fn zero(&mut self, page: u64, crc: u32) -> Result<()> {
        self.block.zero(page, crc);
        self.filled()
    }

    /// Adds a page's image.
    pub fn full(&mut self, page: u64, crc: u32, image: &[u8]) -> Result<()> {
        self.block.full(page, crc, image);
        self.filled()
    }

    /// Adds a page as a patch against its state where the part begins.
    pub fn patch(&mut self, page: u64, crc: u32, patch: &[u8]) -> Result<()> {
        self.block.patch(page, crc, patch);
        self.filled()
    }

    /// Adds a block of another part as it is: its pages are the same here. They must be full
    /// images, after every page so far.
    pub fn copy(&mut self, block: &CopiedBlock) -> Result<()> {
        self.end_block()?;
        let (first, last) = (block.first, block.last);
        self.data += block.entries * self.seal.page_size.bytes() as u64;
        self.seal.entries += block.entries;
        let spec = FrameSpec::plain(FrameKind::Block, first, last);
        let (offset, length) = self.writer.frame(spec, &block.plaintext)?;
        self.copied.insert(offset, block.crc);
        self.seal.blocks.push(BlockIndex { first, last, offset, length });
        Ok(())
    }

    /// Bytes of pages and patches so far.
    pub fn data(&self) -> u64 {
        self.data + self.block.data_len() as u64
    }

    fn filled(&mut self) -> Result<()> {
        if self.block.data_len() >= BLOCK || self.block.count() >= BLOCK / 16 {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        if self.block.count() == 0 {
            return Ok(());
        }
        let (first, last) = self.block.range();
        self.data += self.block.data_len() as u64;
        self.seal.entries += self.block.count() as u64;
        self.compressed.clear();
        let images = self.block.images();
        // An empty or incompressible set of images is stored as it is; the reader tells by its
        // length.
        if images.is_empty() || self.encoder.compress(images, &mut self.compressed)?.is_none() {
            self.compressed.extend_from_slice(images);
        }
        self.plaintext.clear();
        self.block.finish(&self.compressed, &mut self.plaintext);
        let (offset, length) =
            self.writer.frame(FrameSpec::plain(FrameKind::Block, first, last), &self.plaintext)?;
        self.seal.blocks.push(BlockIndex { first, last, offset, length });
        Ok(())
    }

    /// Ends the part; it stands for the pages `first` to `last`. Gives also which of its blocks
    /// were copied.
    pub fn finish(mut self, first: u64, last: u64) -> Result<(PartRef, Copied)> {
        self.end_block()?;
        let seal = encode_cbor(&self.seal);
        let id = self.writer.id();
        create_dir_durable(self.storage, &part_dir(self.node, id))?;
        let path = part_path(self.node, id);
        let summary = published(self.writer.publish(&path, &seal)?, &path)?;
        let part = PartRef {
            file: summary.id,
            space: self.seal.space,
            first,
            last,
            length: summary.length,
            entries: self.seal.entries,
            commitment: summary.commitment,
        };
        Ok((part, self.copied))
    }
}
