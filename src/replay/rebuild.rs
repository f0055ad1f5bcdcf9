//! Rebuilds pages: decode the base, apply layers, apply the log.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Tail;
use crate::delta::Decoder;
use crate::error::{DamageKind, Error, Result};
use crate::format::part::{LayerBody, PartRef};
use crate::format::record::{Blob, Op};
use crate::layer::{BlockBuffers, PageEntry, PartReader};
use crate::sealed::ArchiveKeys;
use crate::storage::ReadStore;
use crate::sync::Mutex;
use crate::types::{FileId, NodeId, PageId, PageSize, SpaceId, as_index};

/// Parts kept open: some megabytes of block indexes.
const OPEN_PARTS: usize = 128;

/// What states are rebuilt from: a snapshot, layers on it, log on those. Each may be empty.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Opens the parts of the snapshot and the layers.
    pub parts: Arc<Parts>,
    pub base: Option<LayerBody>,
    pub deltas: Vec<LayerBody>,
    pub tail: Tail,
}

/// Pages of one space that are rebuilt at once: any of them, with or without holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageSet {
    pub space: SpaceId,
    pub page_size: PageSize,
    /// First and last of each range, ascending and apart.
    ranges: Vec<(u64, u64)>,
    /// How many pages lie in the ranges before each.
    before: Vec<usize>,
}

impl PageSet {
    /// The pages may come in any order; a page that comes twice counts once.
    pub fn new(
        space: SpaceId,
        page_size: PageSize,
        pages: impl IntoIterator<Item = u64>,
    ) -> PageSet {
        let mut given: Vec<(u64, u64)> = Vec::new();
        for page in pages {
            match given.last_mut() {
                Some((first, last)) if (*first..=*last).contains(&page) => {}
                Some((_, last)) if last.checked_add(1) == Some(page) => *last = page,
                _ => given.push((page, page)),
            }
        }
        given.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(given.len());
        for (first, last) in given {
            match ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        let mut before = Vec::with_capacity(ranges.len());
        let mut count = 0;
        for (first, last) in &ranges {
            before.push(count);
            count += as_index(last - first + 1);
        }
        PageSet { space, page_size, ranges, before }
    }

    /// The pages in ascending order, which is the order of their images.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// First and last page; `None` if there is none.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.ranges.first()?.0, self.ranges.last()?.1))
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        let last = self.ranges.last().zip(self.before.last());
        last.map_or(0, |((first, last), before)| before + as_index(last - first + 1))
    }

    /// Which of the images is that of this page.
    fn slot(&self, page: u64) -> Option<usize> {
        let at = self.ranges.partition_point(|(_, last)| *last < page);
        let (first, _) = self.ranges.get(at).filter(|(first, _)| *first <= page)?;
        Some(self.before.get(at)? + as_index(page - first))
    }

    /// Whether any of its pages lies between these two.
    fn meets(&self, (first, last): (u64, u64)) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end < first);
        self.ranges.get(at).is_some_and(|(begin, _)| *begin <= last)
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

/// Opens the parts of an archive.
#[derive(Debug)]
pub(crate) struct Parts {
    storage: Arc<dyn ReadStore>,
    keys: Arc<ArchiveKeys>,
    open: Mutex<HashMap<FileId, Arc<PartReader>>>,
}

impl Parts {
    pub fn new(storage: Arc<dyn ReadStore>, keys: Arc<ArchiveKeys>) -> Parts {
        Parts { storage, keys, open: Mutex::default() }
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

/// One thread's buffers, with the pages that are being rebuilt.
#[derive(Debug)]
pub(crate) struct Rebuilder {
    decoder: Decoder,
    /// A second one, for patches within a block that the first is decoding.
    patcher: Decoder,
    buffers: BlockBuffers,
    spare: Vec<u8>,
    images: Vec<u8>,
    pages: Vec<Page>,
    set: PageSet,
    pub bytes_read: u64,
}

impl Rebuilder {
    pub fn new() -> Result<Rebuilder> {
        Ok(Rebuilder {
            decoder: Decoder::new()?,
            patcher: Decoder::new()?,
            buffers: BlockBuffers::default(),
            spare: Vec::new(),
            images: Vec::new(),
            pages: Vec::new(),
            set: PageSet::new(SpaceId::default(), PageSize::MIN, []),
            bytes_read: 0,
        })
    }

    /// Begins with these pages, all zero. Their images have to fit into memory.
    pub fn begin(&mut self, set: &PageSet) {
        let (count, size) = (set.len(), set.page_size.bytes());
        self.set.clone_from(set);
        self.images.clear();
        self.images.resize(count.saturating_mul(size), 0);
        self.pages.clear();
        self.pages.resize(count, Page::default());
        self.spare.resize(size, 0);
    }

    /// Brings the pages forward over all that the sources say.
    pub fn apply(&mut self, sources: &Sources) -> Result<()> {
        // A block is decoded only if the log builds on one of its pages.
        let set = &self.set;
        let whole: BTreeSet<u64> = set
            .bounds()
            .map(|b| sources.tail.set_whole(set.space, b).collect())
            .unwrap_or_default();
        let needed = set.numbers().filter(|page| !whole.contains(page));
        let needed = PageSet::new(set.space, set.page_size, needed);
        for layer in sources.base.iter().chain(&sources.deltas) {
            self.apply_layer(&sources.parts, layer, &needed)?;
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

    /// Compares every page with its CRC-32. Gives how many were proven so, and how many were
    /// written but have none (they were last changed by a byte range or a cut).
    pub fn verify(&self, node: NodeId) -> Result<(u64, u64)> {
        let (mut proven, mut unproven) = (0, 0);
        let size = self.set.page_size.bytes();
        let pages = self.pages.iter().zip(self.images.chunks_exact(size));
        for ((page, image), number) in pages.zip(self.set.numbers()) {
            match page.crc {
                Some(expected) => {
                    let found = crc32fast::hash(image);
                    if found != expected {
                        return Err(Error::damage(
                            DamageKind::PageImage,
                            format!("node {node}"),
                            number * size as u64,
                            "page image",
                            format_args!(
                                "CRC-32 {expected:08x} of {}",
                                PageId::new(self.set.space, number)
                            ),
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

    /// Applies what a layer has of these pages, which are some of those that are rebuilt.
    fn apply_layer(&mut self, parts: &Parts, layer: &LayerBody, needed: &PageSet) -> Result<()> {
        let set = &self.set;
        let Some(range) = needed.bounds() else { return Ok(()) };
        let mut seen = layer.lowest.get(&set.space).map(|_| vec![false; self.pages.len()]);
        let in_range =
            |p: &&PartRef| p.space == set.space && p.first <= range.1 && p.last >= range.0;
        for part in layer.parts.iter().filter(in_range) {
            let reader = parts.get(layer.node, part)?;
            if reader.seal().page_size != set.page_size {
                let (expected, found) = (set.page_size, reader.seal().page_size);
                return Err(Error::damage(
                    DamageKind::Chain,
                    reader.path(),
                    0,
                    "page size",
                    expected,
                    found,
                ));
            }
            for block in
                reader.blocks(range.0, range.1).iter().filter(|b| needed.meets((b.first, b.last)))
            {
                let (images, pages, spare) = (&mut self.images, &mut self.pages, &mut self.spare);
                let patches = &mut self.patcher;
                self.bytes_read += reader.visit(
                    block,
                    range,
                    &mut self.buffers,
                    &mut self.decoder,
                    &mut |number, crc, entry| {
                        // What a patch of another page builds on may not have been read.
                        let wanted =
                            needed.slot(number).and_then(|_| slot(images, pages, set, number));
                        let Some((image, page)) = wanted else { return Ok(()) };
                        match entry {
                            PageEntry::Zero => image.fill(0),
                            PageEntry::Full(full) => image.copy_from_slice(full),
                            PageEntry::Patch(patch) => {
                                patches.apply(patch, image, spare).map_err(|e| {
                                    bad_patch(
                                        reader.path(),
                                        block.offset,
                                        PageId::new(set.space, number),
                                        e,
                                    )
                                })?;
                                image.copy_from_slice(spare);
                            }
                        }
                        *page = Page { crc: Some(crc), written: true, touched: true };
                        if let Some(seen) =
                            seen.as_mut().zip(set.slot(number)).and_then(|(s, i)| s.get_mut(i))
                        {
                            *seen = true;
                        }
                        Ok(())
                    },
                )?;
            }
        }
        if let (Some(seen), Some(lowest)) = (seen, layer.lowest.get(&set.space)) {
            let kept = lowest / u64::from(set.page_size.get());
            let images = self.images.chunks_exact_mut(set.page_size.bytes());
            for (((image, page), seen), number) in
                images.zip(&mut self.pages).zip(seen).zip(set.numbers())
            {
                if number >= kept && !seen {
                    image.fill(0);
                    *page = Page { crc: None, written: false, touched: page.touched };
                }
            }
        }
        Ok(())
    }

    fn apply_tail(&mut self, tail: &Tail) -> Result<()> {
        let set = &self.set;
        let Some((_, last)) = set.bounds() else { return Ok(()) };
        let size = u64::from(set.page_size.get());
        let end = last.saturating_add(1).saturating_mul(size);
        // Each page takes the cuts that came before its next op; several between two ops do what
        // the lowest of them does.
        let cuts = tail.cuts(set.space);
        let reaches = cuts.iter().any(|(_, length)| *length < end);
        let mut done = vec![0usize; if reaches { self.pages.len() } else { 0 }];
        let (images, pages, spare, decoder) =
            (&mut self.images, &mut self.pages, &mut self.spare, &mut self.decoder);
        let mut catch_up =
            |images: &mut Vec<u8>, pages: &mut Vec<Page>, number: u64, until: u64| {
                let Some(done) = set.slot(number).and_then(|i| done.get_mut(i)) else { return };
                let waiting = cuts.get(*done..).expect("no more cuts were passed than there are");
                let passed = waiting.partition_point(|(at, _)| *at < until);
                let lowest = waiting.iter().take(passed).map(|(_, length)| *length).min();
                *done += passed;
                if let Some(length) = lowest {
                    cut_page(images, pages, set, number, length);
                }
            };
        // The page whose newest image is in `spare`: patches of a page go back and forth between
        // the two, and the last of them is copied if it went the wrong way.
        let mut ahead: Option<u64> = None;
        let settle = |images: &mut [u8], pages: &mut [Page], spare: &[u8], number: u64| {
            let (image, _) =
                slot(images, pages, set, number).expect("only pages of the set are patched");
            image.copy_from_slice(spare);
        };
        tail.visit(set.space, set.ranges(), &mut |at, op| {
            let (Op::PageFull { page: id, .. }
            | Op::PagePatch { page: id, .. }
            | Op::Range { page: id, .. }) = op
            else {
                return Ok(());
            };
            let goes_on = !reaches && ahead == Some(id.page) && !matches!(op, Op::Range { .. });
            if let Some(number) = ahead.take_if(|_| !goes_on) {
                settle(images, pages, spare, number);
            }
            if reaches {
                catch_up(images, pages, id.page, at);
            }
            let Some((image, page)) = slot(images, pages, set, id.page) else { return Ok(()) };
            let bad = |e| bad_patch("log", 0, id, e);
            let crc = match op {
                Op::PageFull { crc, image: blob, .. } => {
                    ahead = None;
                    put_full(decoder, &blob, image).map_err(bad)?;
                    Some(crc)
                }
                Op::PagePatch { crc, patch, .. } => {
                    if ahead.take().is_some() {
                        decoder.apply(patch, spare, image).map_err(bad)?;
                    } else {
                        decoder.apply(patch, image, spare).map_err(bad)?;
                        ahead = Some(id.page);
                    }
                    Some(crc)
                }
                Op::Range { offset, bytes, .. } => {
                    let start = offset as usize;
                    let len = bytes.plain_len.unwrap_or(bytes.stored.len());
                    let range = image.get_mut(start..start.saturating_add(len));
                    let range = range.ok_or_else(|| {
                        let expected = format_args!("within {}", set.page_size);
                        Error::damage(
                            DamageKind::Structure,
                            "log",
                            0,
                            "byte range of a page",
                            expected,
                            start,
                        )
                    })?;
                    put_full(decoder, &bytes, range).map_err(bad)?;
                    None
                }
                _ => None,
            };
            *page = Page { crc, written: true, touched: true };
            Ok(())
        })?;
        if let Some(number) = ahead {
            settle(images, pages, spare, number);
        }
        if reaches {
            for number in set.numbers() {
                catch_up(images, pages, number, u64::MAX);
            }
        }
        Ok(())
    }
}

fn slot<'s>(
    images: &'s mut [u8],
    pages: &'s mut [Page],
    set: &PageSet,
    number: u64,
) -> Option<(&'s mut [u8], &'s mut Page)> {
    let i = set.slot(number)?;
    let page = pages.get_mut(i)?;
    let size = set.page_size.bytes();
    let image = images.get_mut(i * size..(i + 1) * size)?;
    Some((image, page))
}

/// What a space's becoming shorter does to one page.
fn cut_page(images: &mut [u8], pages: &mut [Page], set: &PageSet, number: u64, length: u64) {
    let start = number * u64::from(set.page_size.get());
    let Some((image, page)) = slot(images, pages, set, number) else { return };
    if start >= length {
        image.fill(0);
        // Nothing of it is left: it is as if it had never been written.
        *page = Page { crc: None, written: false, touched: page.touched };
    } else if start + u64::from(set.page_size.get()) > length {
        let kept = as_index(length - start);
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
        return Err(crate::delta::DeltaError::Length {
            expected: image.len(),
            found: blob.stored.len(),
        });
    }
    image.copy_from_slice(blob.stored);
    Ok(())
}

fn bad_patch(path: &str, offset: u64, page: PageId, e: crate::delta::DeltaError) -> Error {
    Error::damage(
        DamageKind::PageImage,
        path,
        offset,
        "image or patch",
        format_args!("{page} rebuilt"),
        e,
    )
}
