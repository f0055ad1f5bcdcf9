//! Blocks and seal of a part, and the body of a layer (`docs/format.md` §6, §7).

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::FormatError;
use super::codec::{Reader, put_varint};
use super::state::{MAX_SPACE_LENGTH, NodeState};
use crate::types::{FileId, NodeId, PageSize, Position, SpaceId, TimelineId, Timestamp};

type Result<T> = std::result::Result<T, FormatError>;

/// Most entries in a block: one page of 512 B each of 1 MiB.
pub const MAX_BLOCK_ENTRIES: usize = 1 << 20;
/// Most page data in a block, before compression.
pub const MAX_BLOCK_IMAGES: usize = 16 << 20;

/// What a page is at the end of a part's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// All zero.
    Zero,
    /// The n-th of the block's full images.
    Full(usize),
    /// A patch against its state at the beginning of the range.
    Patch(&'a [u8]),
}

/// One page of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry<'a> {
    /// Its number.
    pub page: u64,
    /// CRC-32 of the resulting page.
    pub crc: u32,
    /// Its state.
    pub kind: EntryKind<'a>,
}

/// The plaintext of a block, taken apart.
#[derive(Debug)]
pub struct Block<'a> {
    /// Its pages, in order.
    pub entries: Vec<BlockEntry<'a>>,
    /// All full images, compressed as one.
    pub images: &'a [u8],
    /// How many full images there are.
    pub full: usize,
}

/// Builds the plaintext of a block.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    entries: Vec<u8>,
    count: usize,
    first: u64,
    last: u64,
    patches: Vec<u8>,
    images: Vec<u8>,
}

impl BlockBuilder {
    /// Adds a zero page.
    pub fn zero(&mut self, page: u64, crc: u32) {
        self.entry(page, 1, crc);
    }

    /// Adds a full image.
    pub fn full(&mut self, page: u64, crc: u32, image: &[u8]) {
        self.entry(page, 2, crc);
        self.images.extend_from_slice(image);
    }

    /// Adds a patch.
    pub fn patch(&mut self, page: u64, crc: u32, patch: &[u8]) {
        self.entry(page, 3, crc);
        put_varint(&mut self.entries, patch.len() as u64);
        self.patches.extend_from_slice(patch);
    }

    fn entry(&mut self, page: u64, kind: u8, crc: u32) {
        if self.count == 0 {
            self.first = page;
            self.last = page;
        }
        debug_assert!(page > self.last || self.count == 0);
        put_varint(&mut self.entries, page.saturating_sub(self.last));
        self.entries.push(kind);
        self.entries.extend_from_slice(&crc.to_le_bytes());
        self.last = page;
        self.count += 1;
    }

    /// Pages so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// First and last page.
    pub fn range(&self) -> (u64, u64) {
        (self.first, self.last)
    }

    /// Bytes of images and patches so far.
    pub fn data_len(&self) -> usize {
        self.images.len() + self.patches.len()
    }

    /// The full images so far, to be compressed as one.
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// Appends the plaintext and starts anew.
    pub fn finish(&mut self, compressed_images: &[u8], out: &mut Vec<u8>) {
        put_varint(out, self.count as u64);
        out.extend_from_slice(&self.entries);
        put_varint(out, compressed_images.len() as u64);
        out.extend_from_slice(compressed_images);
        out.extend_from_slice(&self.patches);
        self.entries.clear();
        self.patches.clear();
        self.images.clear();
        self.count = 0;
    }
}

impl<'a> Block<'a> {
    /// Takes a block apart; `first` and `last` are the pages that its frame header names.
    pub fn decode(plaintext: &'a [u8], first: u64, last: u64) -> Result<Block<'a>> {
        let mut r = Reader::new(plaintext);
        let count = r.length("entries of a block", MAX_BLOCK_ENTRIES.min(plaintext.len()))?;
        let mut entries = Vec::with_capacity(count);
        let mut lengths = Vec::new();
        let (mut page, mut full) = (first, 0);
        for i in 0..count {
            let at = r.offset();
            let step = r.varint_up_to("page step", MAX_SPACE_LENGTH)?;
            page = page.saturating_add(step);
            if page > last || (step == 0) != (i == 0) {
                return Err(FormatError::structure(
                    at,
                    "page of a block",
                    format_args!("in order, {first} to {last}"),
                    page,
                ));
            }
            let kind = match r.u8("entry kind")? {
                1 => EntryKind::Zero,
                2 => {
                    full += 1;
                    EntryKind::Full(full - 1)
                }
                3 => EntryKind::Patch(&[]),
                other => {
                    return Err(FormatError::structure(
                        r.offset() - 1,
                        "entry kind",
                        "1 to 3",
                        other,
                    ));
                }
            };
            let crc = r.u32("page CRC-32")?;
            if matches!(kind, EntryKind::Patch(_)) {
                lengths.push((i, r.length("patch length", PageSize::MAX.bytes())?));
            }
            entries.push(BlockEntry { page, crc, kind });
        }
        if count > 0 && page != last {
            return Err(FormatError::structure(0, "last page of a block", last, page));
        }
        let n = r.length("length of the images", r.remaining())?;
        let images = r.bytes("images", n)?;
        for (i, len) in lengths {
            let patch = r.bytes("patch", len)?;
            if let Some(entry) = entries.get_mut(i) {
                entry.kind = EntryKind::Patch(patch);
            }
        }
        if !r.is_empty() {
            return Err(FormatError::structure(
                r.offset(),
                "block",
                "its end",
                format_args!("{} bytes more", r.remaining()),
            ));
        }
        Ok(Block { entries, images, full })
    }
}

/// Where a block is and which pages it spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlockIndex {
    /// First page in it.
    #[n(0)]
    pub first: u64,
    /// Last page in it.
    #[n(1)]
    pub last: u64,
    /// Where its frame begins.
    #[n(2)]
    pub offset: u64,
    /// Length of its frame.
    #[n(3)]
    pub length: u32,
}

/// The end of a part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartSeal {
    /// The space its pages belong to.
    #[n(0)]
    pub space: SpaceId,
    /// The size of the pages.
    #[n(1)]
    pub page_size: PageSize,
    /// Where its range of commits begins; none: from nothing.
    #[n(2)]
    pub from: Option<Position>,
    /// Where it ends.
    #[n(3)]
    pub to: Position,
    /// How many pages it holds.
    #[n(4)]
    pub entries: u64,
    /// Its blocks, in order.
    #[n(5)]
    pub blocks: Vec<BlockIndex>,
}

/// A part, as a layer refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartRef {
    /// The file.
    #[n(0)]
    pub file: FileId,
    /// The space.
    #[n(1)]
    pub space: SpaceId,
    /// First page of its rectangle.
    #[n(2)]
    pub first: u64,
    /// Last page of its rectangle.
    #[n(3)]
    pub last: u64,
    /// Length of the file in bytes.
    #[n(4)]
    pub length: u64,
    /// How many pages it holds.
    #[n(5)]
    pub entries: u64,
    /// Key commitment in its header: ties this reference to this very file.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub commitment: [u8; 32],
}

/// What a layer covers and is made of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LayerBody {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// The timeline.
    #[n(1)]
    pub timeline: TimelineId,
    /// Where its range of commits begins; none: a snapshot.
    #[n(2)]
    pub from: Option<Position>,
    /// The state at its end; for a fuzzy snapshot, where replay has to begin.
    #[n(3)]
    pub state: NodeState,
    /// The earliest position it serves: after `state.position` where it was copied while commits
    /// went on.
    #[n(4)]
    pub consistent_from: Position,
    /// Its place in the hierarchy of layers; 0 for the smallest, and for snapshots.
    #[n(5)]
    pub level: u32,
    /// The lowest length in bytes that each space had in the range, where it shrank or was created
    /// in it.
    #[n(6)]
    pub lowest: BTreeMap<SpaceId, u64>,
    /// Its parts, by space and page.
    #[n(7)]
    pub parts: Vec<PartRef>,
    /// When it was made.
    #[n(8)]
    pub created: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_trip_and_cuts_are_errors() {
        let mut b = BlockBuilder::default();
        b.full(7, 1, &[1; 512]);
        b.patch(9, 2, b"patch");
        b.zero(1_000, 3);
        b.full(1_001, 4, &[2; 512]);
        assert_eq!((b.count(), b.range(), b.images().len()), (4, (7, 1_001), 1_024));
        let mut out = Vec::new();
        b.finish(b"compressed", &mut out);
        let block = Block::decode(&out, 7, 1_001).unwrap();
        let kinds: Vec<_> = block.entries.iter().map(|e| (e.page, e.crc, e.kind)).collect();
        assert_eq!(
            kinds,
            [
                (7, 1, EntryKind::Full(0)),
                (9, 2, EntryKind::Patch(b"patch")),
                (1_000, 3, EntryKind::Zero),
                (1_001, 4, EntryKind::Full(1)),
            ]
        );
        assert_eq!((block.images, block.full), (&b"compressed"[..], 2));
        for cut in 0..out.len() {
            assert!(Block::decode(&out[..cut], 7, 1_001).is_err());
        }
        assert!(Block::decode(&out, 8, 1_001).is_err());
        assert!(Block::decode(&out, 7, 1_000).is_err());
    }
}
