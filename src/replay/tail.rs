//! The log part of a replay: ops sorted by page, in bounded memory, on more than one core.
//!
//! Ops are gathered as they stand in the log. When they take more than the bound, they are
//! sorted and written to a temporary file under a key that is never stored; each such run covers a
//! stretch of the log, so runs are applied one after the other.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::delta::Decoder;
use crate::error::{Error, Result};
use crate::format::codec::{Reader, put_varint};
use crate::format::record::Op;
use crate::format::state::NodeState;
use crate::options::ReplayOptions;
use crate::sealed::{SpillReader, Spilled};
use crate::sync::{self, mpsc};
use crate::types::{PageId, Position, SpaceId, Timestamp};
use crate::wal::{Log, Visit, fold_op};

/// Bytes of ops in a piece of memory, and about as many in a frame of a run on disk.
const CHUNK: usize = 1 << 20;
const RUN_FRAME: usize = 128 << 10;
/// Bytes of ops that the reading thread hands over at a time, and how many of such batches may
/// wait.
const BATCH: usize = 256 << 10;
const AHEAD: usize = 2;
/// Most pieces in such a batch: a commit may have no ops, and there may be millions of those.
const PIECES: usize = BATCH / size_of::<Piece>();
/// Fewer refs than that are sorted sooner than a thread is started.
const SORTED_AT_ONCE: usize = 16 << 10;

/// What the log between two positions does.
#[derive(Debug)]
pub(crate) struct Tail {
    runs: Vec<Run>,
    /// When each space became shorter: op number and length, in order.
    cuts: BTreeMap<SpaceId, Vec<(u64, u64)>>,
    /// The lowest length of each space that shrank or came to be.
    pub lowest: BTreeMap<SpaceId, u64>,
    /// The state where the stretch ends.
    pub state: NodeState,
    /// Commits in it.
    pub commits: u64,
    /// Bytes of log read.
    pub bytes_read: u64,
}

/// One op on one page.
#[derive(Clone, Copy, Debug)]
struct OpRef {
    page: PageId,
    /// Its number in the stretch.
    number: u64,
    chunk: u32,
    offset: u32,
    len: u32,
    /// Whether it sets the whole page: what came before it does not matter then.
    full: bool,
}

#[derive(Debug, Default)]
struct Ops {
    chunks: Vec<Vec<u8>>,
    refs: Vec<OpRef>,
    bytes: usize,
}

#[derive(Debug)]
enum Run {
    Memory(Ops),
    Disk(DiskRun),
}

#[derive(Debug)]
struct DiskRun {
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
    fn push(&mut self, page: PageId, number: u64, full: bool, op: &[u8]) {
        if self.chunks.last().is_none_or(|c| c.len() + op.len() > c.capacity()) {
            self.chunks.push(Vec::with_capacity(CHUNK.max(op.len())));
            self.bytes += CHUNK.max(op.len());
        }
        let chunk = self.chunks.len() - 1;
        let last = self.chunks.last_mut().expect("a chunk was begun where there was none");
        let small = |n: usize| u32::try_from(n).expect("a chunk holds a megabyte, or one op of at most 32");
        let (chunk, offset, len) = (small(chunk), small(last.len()), small(op.len()));
        last.extend_from_slice(op);
        self.refs.push(OpRef { page, number, chunk, offset, len, full });
    }

    /// Memory taken; the list of refs may have twice its length reserved, and merging takes half of
    /// its length more.
    fn memory(&self) -> usize {
        self.bytes + self.refs.len() * 5 / 2 * size_of::<OpRef>()
    }

    fn op(&self, r: &OpRef) -> &[u8] {
        let start = r.offset as usize;
        let op = self.chunks.get(r.chunk as usize).and_then(|c| c.get(start..start + r.len as usize));
        op.expect("an op lies where it was put")
    }

    /// Sorts by page, each page's in order, and drops what a later full image of the page makes superfluous. So a page
    /// takes no more patches than the writer's bound on their chain, however often it was written.
    fn sort(&mut self, threads: usize) {
        // Backwards, so that the last full image of a page is met before what it supersedes.
        let key = |r: &OpRef| Reverse((r.page, r.number));
        let share = self.refs.len().div_ceil(threads.max(1)).max(SORTED_AT_ONCE);
        let mut shares = self.refs.chunks_mut(share);
        if let Some(own) = shares.next() {
            sync::scope(|scope| {
                shares.for_each(|other| drop(scope.spawn(move || other.sort_unstable_by_key(key))));
                own.sort_unstable_by_key(key);
            });
        }
        // The stable sort finds the shares in order and merges them.
        self.refs.sort_by_key(key);
        let mut superseded = None;
        self.refs.retain(|r| {
            let keep = superseded != Some(r.page);
            if r.full {
                superseded = Some(r.page);
            }
            keep
        });
        self.refs.reverse();
    }
}

/// Reads the log after `state.position` up to `to`. One thread reads and authenticates, another
/// parses and gathers; both sort.
pub(crate) fn collect(log: &Log, state: NodeState, to: Position, options: &ReplayOptions) -> Result<Tail> {
    let from = state.position;
    let tail =
        Tail { runs: Vec::new(), cuts: BTreeMap::new(), lowest: BTreeMap::new(), state, commits: 0, bytes_read: 0 };
    let mut gathering = Gathering { log, options, tail, ops: Ops::default(), decoder: Decoder::new()?, number: 0 };
    if options.threads < 2 || from >= to {
        log.visit(from, to, &mut |path, visit| {
            options.cancel.check()?;
            let Some((ops, piece)) = Piece::of(&visit) else { return Ok(()) };
            gathering.take(path, ops, &piece)
        })?;
        return Ok(gathering.finish());
    }
    let (ahead, batches) = mpsc::sync_channel(AHEAD);
    sync::scope(|scope| {
        let reader = scope.spawn(move || read_ahead(log, from, to, options, &ahead));
        // What comes first in the log is the error, so the reader's comes last. An error here ends
        // the channel, which ends the reader.
        for batch in batches {
            gathering.take_batch(&batch)?;
        }
        reader.join().unwrap_or_else(|_| Err(Error::host("a thread that reads the log panicked")))?;
        Ok(gathering.finish())
    })
}

/// What a frame adds to a commit.
#[derive(Debug)]
struct Piece {
    /// Bytes of its ops.
    len: usize,
    /// Where its frame is in the segment.
    offset: u64,
    /// The commit's time, if it ends here.
    ends: Option<Timestamp>,
}

impl Piece {
    fn of<'v>(visit: &Visit<'v>) -> Option<(&'v [u8], Piece)> {
        match *visit {
            Visit::Partial { ops, offset, .. } => Some((ops, Piece { len: ops.len(), offset, ends: None })),
            Visit::Commit { ops, offset, timestamp, .. } => {
                Some((ops, Piece { len: ops.len(), offset, ends: Some(timestamp) }))
            }
            Visit::Tick => None,
        }
    }
}

/// Pieces of one segment, in order, on their way from the thread that reads to the one that
/// gathers.
#[derive(Debug)]
struct Batch {
    path: Arc<str>,
    ops: Vec<u8>,
    pieces: Vec<Piece>,
}

/// Reads and authenticates the log, ahead of whoever receives it.
fn read_ahead(
    log: &Log,
    from: Position,
    to: Position,
    options: &ReplayOptions,
    ahead: &mpsc::SyncSender<Batch>,
) -> Result<()> {
    // Nobody receives any more where an error came before this in the log.
    let send = |batch: Batch| ahead.send(batch).map_err(|_| Error::host("the log is not gathered any more"));
    let mut batch: Option<Batch> = None;
    let visited = log.visit(from, to, &mut |path, visit| {
        options.cancel.check()?;
        let Some((ops, piece)) = Piece::of(&visit) else { return Ok(()) };
        let full = |b: &Batch| *b.path != *path || b.ops.len() + ops.len() > BATCH || b.pieces.len() >= PIECES;
        if let Some(full) = batch.take_if(|b| full(b)) {
            send(full)?;
        }
        let batch = batch.get_or_insert_with(|| Batch {
            path: path.into(),
            ops: Vec::with_capacity(BATCH.max(ops.len())),
            pieces: Vec::new(),
        });
        batch.ops.extend_from_slice(ops);
        batch.pieces.push(piece);
        Ok(())
    });
    // Also before an error: what is wrong with these comes first.
    batch.map_or(Ok(()), send).and(visited)
}

/// A tail in the making.
struct Gathering<'a> {
    log: &'a Log,
    options: &'a ReplayOptions,
    tail: Tail,
    /// What is not spilled yet.
    ops: Ops,
    decoder: Decoder,
    /// Number of the next op.
    number: u64,
}

impl Gathering<'_> {
    fn take_batch(&mut self, batch: &Batch) -> Result<()> {
        let mut rest = batch.ops.as_slice();
        for piece in &batch.pieces {
            self.options.cancel.check()?;
            let (ops, after) = rest.split_at_checked(piece.len).expect("a batch holds the ops of its pieces");
            rest = after;
            self.take(&batch.path, ops, piece)?;
        }
        Ok(())
    }

    fn take(&mut self, path: &str, ops: &[u8], piece: &Piece) -> Result<()> {
        self.tail.bytes_read += ops.len() as u64;
        self.add(ops, path, piece.offset)?;
        if let Some(timestamp) = piece.ends {
            self.tail.state.advance(timestamp);
            self.tail.commits += 1;
        }
        // Also in the midst of a commit, which may be larger than any memory.
        if self.ops.memory() > self.options.log_memory {
            self.tail.runs.push(Run::Disk(spill(self.log, &mut self.ops, self.options)?));
        }
        Ok(())
    }

    fn finish(mut self) -> Tail {
        self.ops.sort(self.options.threads);
        self.tail.runs.push(Run::Memory(self.ops));
        self.tail
    }

    fn add(&mut self, commit_ops: &[u8], path: &str, offset: u64) -> Result<()> {
        let tail = &mut self.tail;
        let mut at = 0;
        let mut r = Reader::new(commit_ops);
        while !r.is_empty() {
            let op = Op::read(&mut r).map_err(|e| e.at(path, offset))?;
            let bytes = commit_ops.get(at..r.offset()).expect("the reader is within what it reads");
            at = r.offset();
            match op {
                Op::PageFull { page, .. } => self.ops.push(page, self.number, true, bytes),
                Op::PagePatch { page, .. } | Op::Range { page, .. } => self.ops.push(page, self.number, false, bytes),
                Op::SetLength(space, length) => {
                    let now = tail.state.spaces.get(&space).map_or(0, |s| s.length);
                    if length < now {
                        tail.cuts.entry(space).or_default().push((self.number, length));
                        let lowest = tail.lowest.entry(space).or_insert(length);
                        *lowest = length.min(*lowest);
                    }
                }
                Op::CreateSpace { space, .. } => {
                    tail.lowest.insert(space, 0);
                }
                _ => {}
            }
            fold_op(&mut tail.state, &op, &mut self.decoder, path, offset)?;
            self.number += 1;
        }
        Ok(())
    }
}

impl Tail {
    /// Ranges of the pages `first` to `last` of a space that ops of this stretch touch: exact where the ops are in memory, and at most too wide where they were
    /// spilled. Pages that a cut leaves in part are not among them: see [`lowest`](Self::lowest).
    pub fn touched(&self, space: SpaceId, (first, last): (u64, u64), add: &mut dyn FnMut(u64, u64)) {
        let (low, high) = (PageId::new(space, first), PageId::new(space, last));
        for run in &self.runs {
            match run {
                Run::Memory(ops) => {
                    let mut before = None;
                    for r in from(ops, low).iter().take_while(|r| r.page <= high) {
                        if before.replace(r.page.page) != Some(r.page.page) {
                            add(r.page.page, r.page.page);
                        }
                    }
                }
                Run::Disk(run) => {
                    for f in run.frames.iter().filter(|f| f.first <= high && f.last >= low) {
                        // A frame that spans spaces is taken to span all of this one that it may.
                        let first = if f.first.space == space { f.first.page.max(first) } else { first };
                        let last = if f.last.space == space { f.last.page.min(last) } else { last };
                        add(first, last);
                    }
                }
            }
        }
    }

    /// Units of so many pages that ops of this stretch touch, or that a cut leaves in part, of a space.
    pub fn touched_units(&self, space: SpaceId, page_size: u64, pages_per_unit: u64, add: &mut dyn FnMut(u64, u64)) {
        let unit = |page: u64| page / pages_per_unit.max(1);
        let mut before = None;
        self.touched(space, (0, u64::MAX), &mut |first, last| {
            let units = (unit(first), unit(last));
            if before.replace(units) != Some(units) {
                add(units.0, units.1);
            }
        });
        for (_, length) in self.cuts.get(&space).into_iter().flatten() {
            if !length.is_multiple_of(page_size) {
                let u = unit(length / page_size);
                add(u, u);
            }
        }
    }

    /// Visits the ops on these pages of a space, page by page and each page's in order. The ranges
    /// of pages ascend and are apart. Ops of one run come before those of the next; `visit` gets
    /// the op's number, to be merged with the cuts of the space.
    pub fn visit(
        &self,
        space: SpaceId,
        ranges: &[(u64, u64)],
        visit: &mut dyn FnMut(u64, Op<'_>) -> Result<()>,
    ) -> Result<()> {
        for run in &self.runs {
            match run {
                Run::Memory(ops) => {
                    for (first, last) in ranges {
                        let (low, high) = (PageId::new(space, *first), PageId::new(space, *last));
                        for r in from(ops, low).iter().take_while(|r| r.page <= high) {
                            visit(r.number, read_op(ops.op(r))?)?;
                        }
                    }
                }
                Run::Disk(run) => run.visit(space, ranges, visit)?,
            }
        }
        Ok(())
    }

    /// When a space became shorter: op number and length, in order.
    pub fn cuts(&self, space: SpaceId) -> &[(u64, u64)] {
        self.cuts.get(&space).map_or(&[], Vec::as_slice)
    }
}

/// The refs from a page on.
fn from(ops: &Ops, page: PageId) -> &[OpRef] {
    let first = ops.refs.partition_point(|r| r.page < page);
    ops.refs.get(first..).expect("a partition point is within the list")
}

/// Reads an op that was read before.
fn read_op(bytes: &[u8]) -> Result<Op<'_>> {
    Op::read(&mut Reader::new(bytes)).map_err(|e| e.at("replay", 0))
}

/// Sorts the ops and writes them to a temporary file that has no name.
fn spill(log: &Log, ops: &mut Ops, options: &ReplayOptions) -> Result<DiskRun> {
    ops.sort(options.threads);
    let dir = &options.temporary_dir;
    let path = dir.display().to_string();
    let mut file = tempfile::tempfile_in(dir).map_err(|e| Error::io("create temporary file in", &path, e))?;
    let (mut writer, reader) = crate::sealed::spill(&log.keys)?;
    let (mut frames, mut plaintext) = (Vec::new(), Vec::new());
    let mut first = None;
    let mut refs = ops.refs.iter().peekable();
    while let Some(r) = refs.next() {
        first.get_or_insert(r.page);
        put_varint(&mut plaintext, r.number);
        put_varint(&mut plaintext, u64::from(r.len));
        plaintext.extend_from_slice(ops.op(r));
        if plaintext.len() >= RUN_FRAME || refs.peek().is_none() {
            let at = writer.put(&plaintext, |sealed| {
                file.write_all(sealed).map_err(|e| Error::io("write temporary file in", &path, e))
            })?;
            let first = first.take().unwrap_or(r.page);
            frames.push(RunFrame { first, last: r.page, at });
            plaintext.clear();
        }
    }
    *ops = Ops::default();
    Ok(DiskRun { file, reader, frames })
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
        let (Some((first, _)), Some((_, last))) = (ranges.first(), ranges.last()) else { return Ok(()) };
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
            self.file.read_exact_at(&mut frame, f.at.offset).map_err(|e| Error::io("read", what, e))?;
            let plaintext = self.reader.open(&f.at, what, &mut frame)?;
            let mut r = Reader::new(plaintext);
            while !r.is_empty() {
                let bad = |e: crate::format::FormatError| e.at(what, f.at.offset);
                let number = r.varint("op number").map_err(bad)?;
                let left = r.remaining();
                let len = r.length("op length", left).map_err(bad)?;
                let op = read_op(r.bytes("op", len).map_err(bad)?)?;
                if let Op::PageFull { page: at, .. } | Op::PagePatch { page: at, .. } | Op::Range { page: at, .. } = op
                    && next(at).is_some_and(|(first, _)| page(*first) <= at)
                {
                    visit(number, op)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemStorage;
    use crate::{Archive, ArchiveOptions, Durability, KeyFile, Origin, Target};

    #[test]
    fn commits_without_ops_are_handed_over_in_bounded_batches() {
        let (storage, key) = (Arc::new(MemStorage::without_recording()), KeyFile::from_bytes([1; 32]));
        let archive = Archive::create_in(storage, key, ArchiveOptions::new()).unwrap();
        let node = archive.create_node("n", Origin::Empty).unwrap();
        let writer = node.open_writer().unwrap();
        let count = 2 * PIECES;
        for _ in 0..count {
            writer.batch().commit(Durability::Buffered).unwrap();
        }
        writer.close().unwrap();
        let (from, to) = (Position::ORIGIN, node.resolve(&Target::Latest).unwrap().lsn.into());
        let (ahead, batches) = mpsc::sync_channel(count);
        let log = node.context().unwrap().log;
        read_ahead(&log, from, to, &ReplayOptions::default(), &ahead).unwrap();
        drop(ahead);
        let pieces: Vec<usize> = batches.iter().map(|batch| batch.pieces.len()).collect();
        assert_eq!(pieces.iter().sum::<usize>(), count);
        assert!(pieces.iter().all(|n| n * size_of::<Piece>() <= BATCH), "{pieces:?}");
    }
}
