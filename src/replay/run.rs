//! Runs: the ops of a stretch of log, sorted by page, in memory or in a temporary file.
//!
//! A run on disk is encrypted under a key that is never stored, in a file without a name: a crash
//! leaves nothing of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::format::FormatError;
use crate::format::codec::{Reader, put_varint};
use crate::format::record::Op;
use crate::options::ReplayOptions;
use crate::sealed::{ArchiveKeys, SpillReader, Spilled};
use crate::types::{PageId, SpaceId};

/// Bytes of ops in a frame of a run on disk.
const RUN_FRAME: usize = 128 << 10;

/// An op on a page, as it was found in a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub page: PageId,
    /// Its number among the ops of the chunk.
    pub number: u64,
    /// Where it is in the chunk.
    pub offset: u32,
    pub len: u32,
    /// Whether it sets the whole page: what came before it does not matter then.
    pub full: bool,
}

/// An op on a page.
#[derive(Clone, Copy, Debug)]
struct OpRef {
    /// Its number in the log that is replayed.
    number: u64,
    /// Which of the pages it is on, in the order in which they were met.
    page: u32,
    chunk: u32,
    offset: u32,
    len: u32,
}

/// A page that has ops.
#[derive(Clone, Copy, Debug)]
struct Page {
    id: PageId,
    /// The first op that matters: the last one that sets the whole page, if there is one. So a page
    /// takes no more patches than the writer's bound on their chain, however often it was written.
    first: usize,
    /// How many ops from there on.
    ops: usize,
    /// Whether the first one sets the whole page: what the page was before does not matter.
    whole: bool,
}

/// Ops in memory, as they stand in the log.
#[derive(Debug, Default)]
pub(super) struct Ops {
    chunks: Vec<Vec<u8>>,
    refs: Vec<OpRef>,
    pages: Vec<Page>,
    /// Where in the list each page is.
    places: HashMap<PageId, u32>,
    bytes: usize,
}

/// Ops in memory, by page.
#[derive(Debug)]
pub(super) struct Sorted {
    chunks: Vec<Vec<u8>>,
    refs: Vec<OpRef>,
    /// In order; `first` and `ops` tell which of the refs are theirs.
    pages: Vec<Page>,
}

/// Sorted ops.
#[derive(Debug)]
pub(super) enum Run {
    Memory(Sorted),
    Disk(DiskRun),
}

#[derive(Debug)]
pub(super) struct DiskRun {
    file: File,
    reader: SpillReader,
    frames: Vec<RunFrame>,
}

#[derive(Debug)]
struct RunFrame {
    first: PageId,
    last: PageId,
    at: Spilled,
}

impl Ops {
    /// Adds the ops of a chunk, which follow those there are. `first` is the number of the chunk's
    /// first op.
    pub fn push(&mut self, chunk: Vec<u8>, found: &[Found], first: u64) {
        if found.is_empty() {
            return;
        }
        let small = |n: usize| u32::try_from(n).expect("`is_full` is asked after each chunk");
        let number = small(self.chunks.len());
        self.bytes += chunk.capacity();
        self.chunks.push(chunk);
        for &Found { page: id, number: at, offset, len, full } in found {
            let this = self.refs.len();
            let place = *self.places.entry(id).or_insert_with(|| {
                self.pages.push(Page { id, first: this, ops: 0, whole: full });
                small(self.pages.len() - 1)
            });
            let page = self.pages.get_mut(place as usize).expect("a place is in the list");
            if full {
                *page = Page { id, first: this, ops: 0, whole: true };
            }
            page.ops += 1;
            self.refs.push(OpRef { number: first + at, page: place, chunk: number, offset, len });
        }
    }

    /// Whether they take more than so many bytes of memory, or are more than can be numbered with
    /// the next chunk's.
    pub fn is_full(&self, bytes: usize) -> bool {
        // A list may have twice its length reserved, and of the refs there are two in the end. A
        // map may have as much, and half of that once more while it grows.
        let refs = self.refs.len() * 3 * size_of::<OpRef>();
        let pages = self.pages.len() * (2 * size_of::<Page>() + 4 * size_of::<(PageId, u32)>());
        self.bytes + refs + pages > bytes || self.refs.len() > u32::MAX as usize / 2
    }

    /// Sorts them by page, each page's in order, and drops those that a later full image of the
    /// page makes superfluous.
    pub fn sort(mut self) -> Sorted {
        drop(std::mem::take(&mut self.places));
        let mut order: Vec<usize> = (0..self.pages.len()).collect();
        let page = |place: &usize| self.pages.get(*place).expect("a place is in the list");
        order.sort_unstable_by_key(|place| page(place).id);
        // Where the next op of each page goes.
        let mut next = vec![0; self.pages.len()];
        let mut pages = Vec::with_capacity(self.pages.len());
        let mut count = 0;
        for place in &order {
            let page = page(place);
            *next.get_mut(*place).expect("each page has a place") = count;
            pages.push(Page { first: count, ..*page });
            count += page.ops;
        }
        let mut refs = vec![OpRef { number: 0, page: 0, chunk: 0, offset: 0, len: 0 }; count];
        for (at, op) in self.refs.iter().enumerate() {
            let place = op.page as usize;
            if at >= page(&place).first {
                let next = next.get_mut(place).expect("each page has a place");
                *refs.get_mut(*next).expect("the ops that matter were counted") = *op;
                *next += 1;
            }
        }
        Sorted { chunks: self.chunks, refs, pages }
    }
}

impl Sorted {
    /// The pages from this one on.
    fn from(&self, id: PageId) -> &[Page] {
        let first = self.pages.partition_point(|page| page.id < id);
        self.pages.get(first..).expect("a partition point is within the list")
    }

    /// The ops of a page in order: numbers and bytes.
    fn ops(&self, page: &Page) -> impl Iterator<Item = (u64, &[u8])> {
        let refs =
            self.refs.get(page.first..page.first + page.ops).expect("a page's ops are in the list");
        refs.iter().map(|op| {
            let start = op.offset as usize;
            let bytes = self
                .chunks
                .get(op.chunk as usize)
                .and_then(|c| c.get(start..start + op.len as usize));
            (op.number, bytes.expect("an op lies where it was put"))
        })
    }
}

impl Run {
    /// Sorts the ops and writes them to a temporary file.
    pub fn spill(ops: Ops, keys: &ArchiveKeys, options: &ReplayOptions) -> Result<Run> {
        let ops = ops.sort();
        let dir = &options.temporary_dir;
        let path = dir.display().to_string();
        let mut file = tempfile::tempfile_in(dir)
            .map_err(|e| Error::io("create temporary file in", &path, e))?;
        let (mut writer, reader) = crate::sealed::spill(keys)?;
        let mut frames = Vec::new();
        let (mut plaintext, mut begins) = (Vec::new(), None);
        let mut write = |plaintext: &mut Vec<u8>, first, last| {
            let at = writer.put(plaintext, |sealed| {
                file.write_all(sealed).map_err(|e| Error::io("write temporary file in", &path, e))
            })?;
            frames.push(RunFrame { first, last, at });
            plaintext.clear();
            Ok::<(), Error>(())
        };
        for page in &ops.pages {
            for (number, op) in ops.ops(page) {
                let first = *begins.get_or_insert(page.id);
                put_varint(&mut plaintext, number);
                put_varint(&mut plaintext, op.len() as u64);
                plaintext.extend_from_slice(op);
                // A page may have more ops than fit into a frame.
                if plaintext.len() >= RUN_FRAME {
                    write(&mut plaintext, first, page.id)?;
                    begins = None;
                }
            }
        }
        if let Some((first, last)) = begins.zip(ops.pages.last()) {
            write(&mut plaintext, first, last.id)?;
        }
        Ok(Run::Disk(DiskRun { file, reader, frames }))
    }

    /// Ranges of the pages `first` to `last` of a space that its ops touch: exact if they are in
    /// memory, and at most too wide if not.
    pub fn touched(
        &self,
        space: SpaceId,
        (first, last): (u64, u64),
        add: &mut dyn FnMut(u64, u64),
    ) {
        let (low, high) = (PageId::new(space, first), PageId::new(space, last));
        match self {
            Run::Memory(ops) => {
                let pages = ops.from(low).iter().take_while(|page| page.id <= high);
                pages.for_each(|page| add(page.id.page, page.id.page));
            }
            Run::Disk(run) => {
                for f in run.frames.iter().filter(|f| f.first <= high && f.last >= low) {
                    // A frame that spans spaces is taken to span all of this one that it may.
                    let first =
                        if f.first.space == space { f.first.page.max(first) } else { first };
                    let last = if f.last.space == space { f.last.page.min(last) } else { last };
                    add(first, last);
                }
            }
        }
    }

    /// Pages from `first` to `last` of a space that its ops set as a whole, whatever they were
    /// before, in order: all of them if it is in memory, and none if not.
    pub fn set_whole(
        &self,
        space: SpaceId,
        (first, last): (u64, u64),
    ) -> impl Iterator<Item = u64> {
        let pages = match self {
            Run::Memory(ops) => ops.from(PageId::new(space, first)),
            Run::Disk(_) => &[],
        };
        let end = PageId::new(space, last);
        let pages = pages.iter().take_while(move |page| page.id <= end);
        pages.filter(|page| page.whole).map(|page| page.id.page)
    }

    /// Visits the ops on these pages of a space, page by page and each page's in order, with their
    /// numbers. The ranges of pages ascend and are apart.
    pub fn visit(
        &self,
        space: SpaceId,
        ranges: &[(u64, u64)],
        visit: &mut dyn FnMut(u64, Op<'_>) -> Result<()>,
    ) -> Result<()> {
        match self {
            Run::Memory(ops) => {
                for (first, last) in ranges {
                    let (low, high) = (PageId::new(space, *first), PageId::new(space, *last));
                    for page in ops.from(low).iter().take_while(|page| page.id <= high) {
                        for (number, op) in ops.ops(page) {
                            visit(number, read_op(op)?)?;
                        }
                    }
                }
                Ok(())
            }
            Run::Disk(run) => run.visit(space, ranges, visit),
        }
    }
}

impl DiskRun {
    fn visit(
        &self,
        space: SpaceId,
        ranges: &[(u64, u64)],
        visit: &mut dyn FnMut(u64, Op<'_>) -> Result<()>,
    ) -> Result<()> {
        let what = "temporary file";
        let page = |number| PageId::new(space, number);
        // The first range that does not end before a page.
        let next = |at: PageId| ranges.get(ranges.partition_point(|(_, last)| page(*last) < at));
        let (Some((first, _)), Some((_, last))) = (ranges.first(), ranges.last()) else {
            return Ok(());
        };
        let start = self.frames.partition_point(|f| f.last < page(*first));
        let frames = self
            .frames
            .get(start..)
            .expect("a partition point is within the list")
            .iter()
            .take_while(|f| f.first <= page(*last));
        let mut frame = Vec::new();
        for f in frames.filter(|f| next(f.first).is_some_and(|(first, _)| page(*first) <= f.last)) {
            frame.resize(f.at.len, 0);
            self.file
                .read_exact_at(&mut frame, f.at.offset)
                .map_err(|e| Error::io("read", what, e))?;
            let plaintext = self.reader.open(&f.at, what, &mut frame)?;
            let mut r = Reader::new(plaintext);
            while !r.is_empty() {
                let bad = |e: FormatError| e.at(what, f.at.offset);
                let number = r.varint("op number").map_err(bad)?;
                let left = r.remaining();
                let len = r.length("op length", left).map_err(bad)?;
                let op = read_op(r.bytes("op", len).map_err(bad)?)?;
                if let Op::PageFull { page: at, .. }
                | Op::PagePatch { page: at, .. }
                | Op::Range { page: at, .. } = op
                    && next(at).is_some_and(|(first, _)| page(*first) <= at)
                {
                    visit(number, op)?;
                }
            }
        }
        Ok(())
    }
}

/// Reads an op that was read before.
fn read_op(bytes: &[u8]) -> Result<Op<'_>> {
    Op::read(&mut Reader::new(bytes)).map_err(|e| e.at("replay", 0))
}
