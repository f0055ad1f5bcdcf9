//! Rebuilds a range of pages: decode the base, apply layers, apply the log.

use std::collections::HashMap;
use std::sync::Arc;

use super::Tail;
use crate::delta::Decoder;
use crate::error::{DamageKind, Error, Result};
use crate::format::part::{LayerBody, PartRef};
use crate::format::record::{Blob, Op};
use crate::layer::{BlockBuffers, PageEntry, PartReader};
use crate::sealed::ArchiveKeys;
use crate::storage::Storage;
use crate::sync::Mutex;
use crate::types::{FileId, NodeId, PageId, PageSize, SpaceId, as_index};

/// Parts kept open: some megabytes of block indexes.
const OPEN_PARTS: usize = 128;

/// What states are rebuilt from: a snapshot, layers on it, log on those. Each may be empty.
#[derive(Debug)]
pub(crate) struct Sources {
    pub base: Option<LayerBody>,
    pub deltas: Vec<LayerBody>,
    pub tail: Tail,
}

/// A range of pages that is rebuilt at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub space: SpaceId,
    pub page_size: PageSize,
    pub first: u64,
    pub count: u64,
}

impl Unit {
    fn last(&self) -> u64 {
        self.first + self.count.saturating_sub(1)
    }

    fn bytes(&self) -> usize {
        // The count was chosen so that this fits the memory of a unit.
        as_index(self.count).saturating_mul(self.page_size.bytes())
    }
}

/// What is known of a rebuilt page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// CRC-32 that it has to have.
    pub crc: Option<u32>,
    /// Whether anything ever wrote it.
    pub written: bool,
    /// Whether it was written or cut since [`Rebuilder::forget_touched`].
    pub touched: bool,
}

/// Opens the parts that the states of one node are rebuilt from, be they its own or an ancestor's.
#[derive(Debug)]
pub(crate) struct Parts {
    storage: Arc<dyn Storage>,
    keys: Arc<ArchiveKeys>,
    node: NodeId,
    open: Mutex<HashMap<FileId, Arc<PartReader>>>,
}

impl Parts {
    pub fn new(storage: Arc<dyn Storage>, keys: Arc<ArchiveKeys>, node: NodeId) -> Parts {
        Parts { storage, keys, node, open: Mutex::default() }
    }

    /// A part of a layer that is of this node.
    pub fn get(&self, node: NodeId, part: &PartRef) -> Result<Arc<PartReader>> {
        if let Some(reader) = self.open.lock().get(&part.file) {
            return Ok(Arc::clone(reader));
        }
        let reader = Arc::new(PartReader::open(self.storage.as_ref(), &self.keys, node, part)?);
        let mut open = self.open.lock();
        if open.len() >= OPEN_PARTS {
            open.clear();
        }
        open.insert(part.file, Arc::clone(&reader));
        Ok(reader)
    }
}

/// One thread's buffers: the pages of one unit at a time.
#[derive(Debug)]
pub(crate) struct Rebuilder<'a> {
    parts: &'a Parts,
    decoder: Decoder,
    /// A second one, for patches within a block that the first is decoding.
    patcher: Decoder,
    buffers: BlockBuffers,
    spare: Vec<u8>,
    images: Vec<u8>,
    pages: Vec<Page>,
    unit: Unit,
    pub bytes_read: u64,
}

impl<'a> Rebuilder<'a> {
    pub fn new(parts: &'a Parts) -> Result<Rebuilder<'a>> {
        Ok(Rebuilder {
            parts,
            decoder: Decoder::new()?,
            patcher: Decoder::new()?,
            buffers: BlockBuffers::default(),
            spare: Vec::new(),
            images: Vec::new(),
            pages: Vec::new(),
            unit: Unit { space: SpaceId::default(), page_size: PageSize::MIN, first: 0, count: 0 },
            bytes_read: 0,
        })
    }

    /// Begins a unit, with all its pages zero.
    pub fn begin(&mut self, unit: Unit) {
        self.unit = unit;
        self.images.clear();
        self.images.resize(unit.bytes(), 0);
        self.pages.clear();
        self.pages.resize(usize::try_from(unit.count).unwrap_or(0), Page::default());
        self.spare.resize(unit.page_size.bytes(), 0);
    }

    /// Brings the unit forward over all that the sources say.
    pub fn apply(&mut self, sources: &Sources) -> Result<()> {
        for layer in sources.base.iter().chain(&sources.deltas) {
            self.apply_layer(layer)?;
        }
        self.apply_tail(&sources.tail)
    }

    /// Its images, one after the other, and what is known of each.
    pub fn result(&self) -> (&[u8], &[Page]) {
        (&self.images, &self.pages)
    }

    /// From here on, pages that are written or cut are noted.
    pub fn forget_touched(&mut self) {
        self.pages.iter_mut().for_each(|p| p.touched = false);
    }

    /// Compares every page with its CRC-32. Gives how many were proven so, and how many were written but have none
    /// (they were last changed by a byte range or a cut).
    pub fn verify(&self) -> Result<(u64, u64)> {
        let (mut proven, mut unproven) = (0, 0);
        let size = self.unit.page_size.bytes();
        for ((page, image), number) in self.pages.iter().zip(self.images.chunks_exact(size)).zip(self.unit.first..) {
            match page.crc {
                Some(expected) => {
                    let found = crc32fast::hash(image);
                    if found != expected {
                        return Err(Error::damage(
                            DamageKind::PageImage,
                            format!("node {}", self.parts.node),
                            number * size as u64,
                            "page image",
                            format_args!("CRC-32 {expected:08x} of {}", PageId::new(self.unit.space, number)),
                            format_args!("{found:08x}"),
                        ));
                    }
                    proven += 1;
                }
                None => unproven += u64::from(page.written),
            }
        }
        Ok((proven, unproven))
    }

    fn apply_layer(&mut self, layer: &LayerBody) -> Result<()> {
        let unit = self.unit;
        let range = (unit.first, unit.last());
        let mut seen = layer.lowest.get(&unit.space).map(|_| vec![false; self.pages.len()]);
        let in_range = |p: &&PartRef| p.space == unit.space && p.first <= range.1 && p.last >= range.0;
        for part in layer.parts.iter().filter(in_range) {
            let reader = self.parts.get(layer.node, part)?;
            if reader.seal().page_size != unit.page_size {
                let (expected, found) = (unit.page_size, reader.seal().page_size);
                return Err(Error::damage(DamageKind::Chain, reader.path(), 0, "page size", expected, found));
            }
            for block in reader.blocks(range.0, range.1) {
                let (images, pages, spare) = (&mut self.images, &mut self.pages, &mut self.spare);
                let patches = &mut self.patcher;
                self.bytes_read +=
                    reader.visit(block, range, &mut self.buffers, &mut self.decoder, &mut |number, crc, entry| {
                        let Some((image, page)) = slot(images, pages, &unit, number) else { return Ok(()) };
                        match entry {
                            PageEntry::Zero => image.fill(0),
                            PageEntry::Full(full) => image.copy_from_slice(full),
                            PageEntry::Patch(patch) => {
                                patches.apply(patch, image, spare).map_err(|e| {
                                    bad_patch(reader.path(), block.offset, PageId::new(unit.space, number), e)
                                })?;
                                image.copy_from_slice(spare);
                            }
                        }
                        *page = Page { crc: Some(crc), written: true, touched: true };
                        if let Some(seen) = seen.as_mut().and_then(|s| s.get_mut(index(&unit, number))) {
                            *seen = true;
                        }
                        Ok(())
                    })?;
            }
        }
        if let (Some(seen), Some(lowest)) = (seen, layer.lowest.get(&unit.space)) {
            let kept = lowest / u64::from(unit.page_size.get());
            for number in unit.first.max(kept)..=unit.last() {
                if seen.get(index(&unit, number)) == Some(&false)
                    && let Some((image, page)) = slot(&mut self.images, &mut self.pages, &unit, number)
                {
                    image.fill(0);
                    *page = Page { crc: None, written: false, touched: page.touched };
                }
            }
        }
        Ok(())
    }

    fn apply_tail(&mut self, tail: &Tail) -> Result<()> {
        let unit = self.unit;
        let size = u64::from(unit.page_size.get());
        let end = (unit.last() + 1).saturating_mul(size);
        // Each page takes the cuts that came before its next op; several between two ops do what the lowest of them does.
        let cuts = tail.cuts(unit.space);
        let reaches = cuts.iter().any(|(_, length)| *length < end);
        let mut done = vec![0usize; if reaches { self.pages.len() } else { 0 }];
        let (images, pages, spare, decoder) = (&mut self.images, &mut self.pages, &mut self.spare, &mut self.decoder);
        let mut catch_up = |images: &mut Vec<u8>, pages: &mut Vec<Page>, number: u64, until: u64| {
            let Some(done) = done.get_mut(index(&unit, number)) else { return };
            let waiting = cuts.get(*done..).unwrap_or_default();
            let passed = waiting.partition_point(|(at, _)| *at < until);
            let lowest = waiting.iter().take(passed).map(|(_, length)| *length).min();
            *done += passed;
            if let Some(length) = lowest {
                cut_page(images, pages, &unit, number, length);
            }
        };
        tail.visit(unit.space, (unit.first, unit.last()), &mut |at, op| {
            let (Op::PageFull { page: id, .. } | Op::PagePatch { page: id, .. } | Op::Range { page: id, .. }) = op
            else {
                return Ok(());
            };
            catch_up(images, pages, id.page, at);
            let Some((image, page)) = slot(images, pages, &unit, id.page) else { return Ok(()) };
            let bad = |e| bad_patch("log", 0, id, e);
            let crc = match op {
                Op::PageFull { crc, image: blob, .. } => {
                    put_full(decoder, &blob, image).map_err(bad)?;
                    Some(crc)
                }
                Op::PagePatch { crc, patch, .. } => {
                    decoder.apply(patch, image, spare).map_err(bad)?;
                    image.copy_from_slice(spare);
                    Some(crc)
                }
                Op::Range { offset, bytes, .. } => {
                    let start = offset as usize;
                    let len = bytes.plain_len.unwrap_or(bytes.stored.len());
                    let range = image.get_mut(start..start.saturating_add(len));
                    let range = range.ok_or_else(|| {
                        let expected = format_args!("within {}", unit.page_size);
                        Error::damage(DamageKind::Structure, "log", 0, "byte range of a page", expected, start)
                    })?;
                    put_full(decoder, &bytes, range).map_err(bad)?;
                    None
                }
                _ => None,
            };
            *page = Page { crc, written: true, touched: true };
            Ok(())
        })?;
        if reaches {
            for number in unit.first..=unit.last() {
                catch_up(images, pages, number, u64::MAX);
            }
        }
        Ok(())
    }
}

fn index(unit: &Unit, number: u64) -> usize {
    as_index(number.wrapping_sub(unit.first))
}

fn slot<'s>(
    images: &'s mut [u8],
    pages: &'s mut [Page],
    unit: &Unit,
    number: u64,
) -> Option<(&'s mut [u8], &'s mut Page)> {
    let i = index(unit, number);
    let page = pages.get_mut(i)?;
    let size = unit.page_size.bytes();
    let image = images.get_mut(i * size..(i + 1) * size)?;
    Some((image, page))
}

/// What a space's becoming shorter does to one page.
fn cut_page(images: &mut [u8], pages: &mut [Page], unit: &Unit, number: u64, length: u64) {
    let start = number * u64::from(unit.page_size.get());
    let Some((image, page)) = slot(images, pages, unit, number) else { return };
    if start >= length {
        image.fill(0);
        // Nothing of it is left: it is as if it had never been written.
        *page = Page { crc: None, written: false, touched: page.touched };
    } else if start + u64::from(unit.page_size.get()) > length {
        let kept = usize::try_from(length - start).unwrap_or(0);
        if let Some(rest) = image.get_mut(kept..) {
            rest.fill(0);
        }
        *page = Page { crc: None, written: true, touched: true };
    }
}

fn put_full(
    decoder: &mut Decoder,
    blob: &Blob<'_>,
    image: &mut [u8],
) -> std::result::Result<(), crate::delta::DeltaError> {
    if blob.plain_len.is_some() {
        return decoder.decompress(blob.stored, image);
    }
    if blob.stored.len() != image.len() {
        return Err(crate::delta::DeltaError::Length { expected: image.len(), found: blob.stored.len() });
    }
    image.copy_from_slice(blob.stored);
    Ok(())
}

fn bad_patch(path: &str, offset: u64, page: PageId, e: crate::delta::DeltaError) -> Error {
    Error::damage(DamageKind::PageImage, path, offset, "image or patch", format_args!("{page} rebuilt"), e)
}
