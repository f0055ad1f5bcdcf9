//! Reading layers and parts.

use crate::delta::Decoder;
use crate::error::{DamageKind, Error, Result};
use crate::format::event::LayerRecord;
use crate::format::frame::FrameKind;
use crate::format::header::FileKind;
use crate::format::part::{
    Block, BlockEntry, BlockIndex, EntryKind, LayerBody, MAX_BLOCK_IMAGES, PartRef, PartSeal,
};
use crate::names::{layer_path, part_path};
use crate::sealed::{ArchiveKeys, SealedFile, decode_cbor, read_body};
use crate::storage::ReadStore;
use crate::types::NodeId;

/// Reads the body of a layer.
#[derive(Debug)]
pub(crate) struct LayerReader;

impl LayerReader {
    /// The body of the layer that the catalog names, checked against what the catalog says.
    pub fn open(
        storage: &dyn ReadStore,
        keys: &ArchiveKeys,
        record: &LayerRecord,
    ) -> Result<LayerBody> {
        let path = layer_path(record.node, record.file);
        let file = SealedFile::open(storage, keys, &path, FileKind::Layer)?;
        same_file(&path, file.commitment(), &record.commitment)?;
        let body: LayerBody = read_body(&file, "layer")?;
        body.state.check().map_err(|e| {
            Error::damage(DamageKind::Structure, &path, 0, "state of a layer", "a possible one", e)
        })?;
        let said = (record.node, record.timeline, record.from, record.to);
        let found = (body.node, body.timeline, body.from, body.state.position);
        if said != found {
            let (said, found) = (format_args!("{said:?}"), format_args!("{found:?}"));
            return Err(Error::damage(
                DamageKind::Chain,
                &path,
                0,
                "what the layer covers",
                said,
                found,
            ));
        }
        Ok(body)
    }
}

fn same_file(path: &str, found: &[u8; 32], expected: &[u8; 32]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::damage(
        DamageKind::Chain,
        path,
        240,
        "key commitment",
        "the one that was published",
        "another file's",
    ))
}

/// A part, open for reading by any number of threads.
#[derive(Debug)]
pub(crate) struct PartReader {
    file: SealedFile,
    seal: PartSeal,
    first: u64,
    last: u64,
}

/// What a part says of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PageEntry<'a> {
    /// All zero.
    Zero,
    /// This image.
    Full(&'a [u8]),
    /// This patch against its state where the part begins.
    Patch(&'a [u8]),
}

/// A block as it is, for another part.
#[derive(Debug, Default)]
pub(crate) struct CopiedBlock {
    pub first: u64,
    pub last: u64,
    pub entries: u64,
    /// What was sealed, authenticated.
    pub plaintext: Vec<u8>,
    /// CRC-32 of that, taken when it was authenticated.
    pub crc: u32,
}

/// Buffers that reading blocks reuses.
#[derive(Debug, Default)]
pub(crate) struct BlockBuffers {
    frame: Vec<u8>,
    images: Vec<u8>,
}

impl PartReader {
    pub fn open(
        storage: &dyn ReadStore,
        keys: &ArchiveKeys,
        node: NodeId,
        part: &PartRef,
    ) -> Result<PartReader> {
        let path = part_path(node, part.file);
        let file = SealedFile::open(storage, keys, &path, FileKind::Part)?;
        same_file(&path, file.commitment(), &part.commitment)?;
        let bytes = file.complete()?.plaintext;
        let seal: PartSeal = decode_cbor(&path, file.header_len(), "part seal", &bytes)?;
        if seal.space != part.space {
            return Err(Error::damage(
                DamageKind::Chain,
                &path,
                0,
                "space of a part",
                part.space,
                seal.space,
            ));
        }
        // They are found by bisection, and what is counted of their pages goes by their ends.
        let mut free = 0;
        for BlockIndex { first, last, offset, .. } in &seal.blocks {
            if *first < free || last < first {
                let expected = format_args!("pages in order, from {free} on");
                let found = format_args!("{first} to {last}");
                return Err(Error::damage(
                    DamageKind::Structure,
                    &path,
                    *offset,
                    "block of a part",
                    expected,
                    found,
                ));
            }
            free = last.saturating_add(1);
        }
        Ok(PartReader { file, seal, first: part.first, last: part.last })
    }

    pub fn seal(&self) -> &PartSeal {
        &self.seal
    }

    pub fn path(&self) -> &str {
        self.file.path()
    }

    /// The blocks with pages from `first` to `last`.
    pub fn blocks(&self, first: u64, last: u64) -> &[BlockIndex] {
        let (first, last) = (first.max(self.first), last.min(self.last));
        let blocks = &self.seal.blocks;
        let start = blocks.partition_point(|b| b.last < first);
        let end = blocks.partition_point(|b| b.first <= last);
        blocks
            .get(start..end.max(start))
            .expect("a partition point lies in the list, or at its end")
    }

    /// Reads a block as it is.
    pub fn copy(
        &self,
        block: &BlockIndex,
        buffers: &mut BlockBuffers,
        out: &mut CopiedBlock,
    ) -> Result<u64> {
        let (plaintext, decoded) = self.block(block, &mut buffers.frame)?;
        (out.first, out.last, out.entries) =
            (block.first, block.last, decoded.entries.len() as u64);
        out.plaintext.clear();
        out.plaintext.extend_from_slice(plaintext);
        out.crc = crc32fast::hash(plaintext);
        Ok(u64::from(block.length))
    }

    /// Authenticates a block, which has to have this CRC-32, without decompressing it; gives the
    /// number of its pages.
    pub fn compare(&self, block: &BlockIndex, crc: u32, buffers: &mut BlockBuffers) -> Result<u64> {
        let (plaintext, decoded) = self.block(block, &mut buffers.frame)?;
        let found = crc32fast::hash(plaintext);
        if found != crc {
            let (expected, found) = (format_args!("CRC-32 {crc:08x}"), format_args!("{found:08x}"));
            return Err(Error::damage(
                DamageKind::Structure,
                self.path(),
                block.offset,
                "copied block",
                expected,
                found,
            ));
        }
        Ok(decoded.entries.len() as u64)
    }

    fn block<'b>(
        &self,
        block: &BlockIndex,
        frame: &'b mut Vec<u8>,
    ) -> Result<(&'b [u8], Block<'b>)> {
        let path = self.file.path();
        let (header, plaintext) =
            self.file.frame(block.offset, Some(block.length as usize), frame)?;
        if header.kind != FrameKind::Block
            || (header.first, header.last) != (block.first, block.last)
        {
            let expected = format_args!("the block of pages {} to {}", block.first, block.last);
            let found = format_args!("{:?} of {} to {}", header.kind, header.first, header.last);
            return Err(Error::damage(
                DamageKind::Chain,
                path,
                block.offset,
                "block",
                expected,
                found,
            ));
        }
        let decoded = Block::decode(plaintext, header.first, header.last)
            .map_err(|e| e.at(path, block.offset))?;
        Ok((plaintext, decoded))
    }

    /// Gives every page of a block that lies between `first` and `last` to `visit`, with its number
    /// and CRC-32. Gives the bytes read.
    pub fn visit(
        &self,
        block: &BlockIndex,
        (first, last): (u64, u64),
        buffers: &mut BlockBuffers,
        decoder: &mut Decoder,
        visit: &mut dyn FnMut(u64, u32, PageEntry<'_>) -> Result<()>,
    ) -> Result<u64> {
        let path = self.file.path();
        let (first, last) = (first.max(self.first), last.min(self.last));
        let (_, decoded) = self.block(block, &mut buffers.frame)?;
        let size = self.seal.page_size.bytes();
        let images_len = decoded.full.saturating_mul(size);
        if images_len > MAX_BLOCK_IMAGES {
            let found = images_len;
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                block.offset,
                "images",
                MAX_BLOCK_IMAGES,
                found,
            ));
        }
        let images: &[u8] = if decoded.images.len() == images_len {
            decoded.images
        } else {
            buffers.images.resize(images_len, 0);
            decoder.decompress(decoded.images, &mut buffers.images).map_err(|e| {
                Error::damage(
                    DamageKind::Structure,
                    path,
                    block.offset,
                    "images",
                    format_args!("{images_len} bytes"),
                    e,
                )
            })?;
            &buffers.images
        };
        for BlockEntry { page, crc, kind } in
            decoded.entries.iter().filter(|e| (first..=last).contains(&e.page))
        {
            let entry = match kind {
                EntryKind::Zero => PageEntry::Zero,
                EntryKind::Full(i) => {
                    let image = images.get(i * size..(i + 1) * size);
                    PageEntry::Full(
                        image.expect("a block has an image for each entry that was counted"),
                    )
                }
                EntryKind::Patch(patch) => PageEntry::Patch(patch),
            };
            visit(*page, *crc, entry)?;
        }
        Ok(u64::from(block.length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::{Backend, KeyFile};
    use crate::env::SystemRng;
    use crate::layer::LayerWriter;
    use crate::names::{Scope, TMP};
    use crate::storage::{MemStorage, create_dir_durable};
    use crate::types::{ArchiveId, PageSize, Position, SpaceId, TimelineId, Timestamp};

    /// Whoever wrote it had the key, and is not believed for that.
    #[test]
    fn blocks_that_are_not_in_order_are_damage() {
        let (storage, node) = (MemStorage::new(), NodeId::new(1));
        create_dir_durable(&storage, TMP).unwrap();
        let keyring = KeyFile::from_bytes([7; 32]).into();
        let archive = ArchiveId::from_bytes([1; 16]);
        let keys = ArchiveKeys::create(archive, &keyring, Backend::default(), Arc::new(SystemRng))
            .unwrap();
        let layer = LayerWriter {
            storage: &storage,
            keys: &keys,
            scope: Scope::Builder(node),
            node,
            timeline: TimelineId::FIRST,
            from: None,
            to: Position::new(1),
            created: Timestamp::ZERO,
        };
        let whole: &[_] = &[(0, u64::MAX)];
        for (blocks, sound) in [
            (&[(0, 0), (1, 3), (9, 9)][..], true),
            (whole, true),
            (&[(3, 2)], false),
            (&[(9, 4)], false),
            (&[(4, 6), (0, 2)], false),
            (&[(4, 6), (6, 7)], false),
        ] {
            let mut part = layer.part(SpaceId::new(1), PageSize::MIN).unwrap();
            for (first, last) in blocks {
                part.copy(&CopiedBlock { first: *first, last: *last, ..CopiedBlock::default() })
                    .unwrap();
            }
            let (part, _) = part.finish(0, 100).unwrap();
            match PartReader::open(&storage, &keys, node, &part) {
                Ok(_) => assert!(sound, "{blocks:?}"),
                Err(Error::Damaged(damage)) => {
                    assert!(!sound && damage.kind == DamageKind::Structure, "{blocks:?}: {damage}");
                }
                Err(e) => panic!("{blocks:?}: {e}"),
            }
        }
    }
}
