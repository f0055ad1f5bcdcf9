//! Reads the log for a replay, on all cores and in bounded memory.
//!
//! The calling thread reads and authenticates; one thread per core parses what was read; one puts
//! the parts in order again and folds them. Data goes one way, in batches. A log of less than a
//! batch is read, parsed and folded by the calling thread alone.
//!
//! Beyond the bound, what was gathered is sorted and spilled as a run of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::run::{Found, Ops, Run};
use super::tail::Tail;
use crate::delta::Decoder;
use crate::error::{Error, Result};
use crate::format::codec::Reader;
use crate::format::record::Op;
use crate::format::state::{Effect, NodeState};
use crate::options::ReplayOptions;
use crate::sync::{self, Mutex, mpsc};
use crate::types::{PageId, Position, Timestamp};
use crate::wal::{Log, Visit, apply_effect, fold_op};

/// Bytes of ops in a batch: enough that handing it over costs nothing beside reading it.
const BATCH: usize = 256 << 10;
/// Most pieces in a batch: a commit may have no ops, and there may be millions of those.
const PIECES: usize = BATCH / size_of::<Piece>();
/// Batches that may wait to be parsed, and so many beyond one per core to be folded.
const AHEAD: usize = 2;

/// What one frame adds to one commit.
#[derive(Debug)]
struct Piece {
    /// The segment.
    path: Arc<str>,
    /// Where the frame is in it.
    offset: u64,
    /// Bytes of its ops.
    len: usize,
    /// The commit's time, if it ends here.
    ends: Option<Timestamp>,
}

/// Pieces in the order of the log, authenticated.
#[derive(Debug)]
struct Batch {
    ops: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Batch {
    fn with_capacity(bytes: usize) -> Batch {
        Batch { ops: Vec::with_capacity(bytes), pieces: Vec::new() }
    }
}

/// What a batch does to the state beside the pages.
#[derive(Debug)]
enum Step {
    /// Pages up to this one of its space were written.
    Extend(PageId),
    /// Another op: its number in the batch, and where it is there.
    Op { number: u64, start: usize, end: usize },
    /// A commit ends.
    Commit(Timestamp),
}

/// A batch whose ops were found.
#[derive(Debug)]
struct Parsed {
    batch: Batch,
    /// How many ops.
    ops: u64,
    /// Those on pages.
    found: Vec<Found>,
    /// In order, each with the piece that it is from.
    steps: Vec<(usize, Step)>,
    /// Why it was not parsed to its end.
    error: Option<Error>,
}

/// Reads the log after `state.position` up to `to`.
pub(crate) fn collect(
    log: &Log,
    state: NodeState,
    to: Position,
    options: &ReplayOptions,
) -> Result<Tail> {
    let from = state.position;
    let tail = Tail {
        runs: Vec::new(),
        cuts: BTreeMap::new(),
        lowest: BTreeMap::new(),
        state,
        commits: 0,
        bytes_read: 0,
    };
    let gathering =
        Gathering { log, options, tail, ops: Ops::default(), decoder: Decoder::new()?, number: 0 };
    if from >= to {
        return Ok(gathering.finish());
    }
    sync::scope(|scope| {
        let (mut alone, mut line) = (Some(gathering), None);
        let (last, read) = read(log, from, to, options, &mut |batch| {
            if options.threads < 2 {
                return alone.as_mut().expect("no line is started").take(Parsed::of(batch));
            }
            let start =
                || Line::start(scope, options.threads, alone.take().expect("one line is started"));
            line.get_or_insert_with(start).send(batch)
        });
        let gathering = if let Some(line) = line {
            // What comes first in the log is the error: one of the line is, before the reader's.
            line.finish(last)?
        } else {
            let mut alone = alone.expect("no line was started");
            last.map_or(Ok(()), |last| alone.take(Parsed::of(last)))?;
            alone
        };
        read?;
        Ok(gathering.finish())
    })
}

/// Reads and authenticates the log. Hands over every batch but the last, which it returns: also
/// before an error, since what is wrong with the batch comes before that.
fn read(
    log: &Log,
    from: Position,
    to: Position,
    options: &ReplayOptions,
    hand_over: &mut dyn FnMut(Batch) -> Result<()>,
) -> (Option<Batch>, Result<()>) {
    // A bound of less than some batches makes them smaller, as all in memory counts.
    let bytes = (options.log_memory / 8).min(BATCH);
    let mut batch: Option<Batch> = None;
    let mut segment: Option<Arc<str>> = None;
    let visited = log.visit(from, to, &mut |path, visit| {
        options.cancel.check()?;
        let (ops, offset, ends) = match visit {
            Visit::Partial { ops, offset, .. } => (ops, offset, None),
            Visit::Commit { ops, offset, timestamp, .. } => (ops, offset, Some(timestamp)),
            Visit::Tick => return Ok(()),
        };
        if let Some(full) =
            batch.take_if(|b| b.ops.len() + ops.len() > bytes || b.pieces.len() >= PIECES)
        {
            hand_over(full)?;
        }
        let path = match &segment {
            Some(segment) if **segment == *path => Arc::clone(segment),
            _ => Arc::clone(segment.insert(path.into())),
        };
        let batch = batch.get_or_insert_with(|| Batch::with_capacity(bytes.max(ops.len())));
        batch.ops.extend_from_slice(ops);
        batch.pieces.push(Piece { path, offset, len: ops.len(), ends });
        Ok(())
    });
    (batch, visited)
}

impl Parsed {
    /// Finds the ops of a batch.
    fn of(batch: Batch) -> Parsed {
        let mut parsed =
            Parsed { batch, ops: 0, found: Vec::new(), steps: Vec::new(), error: None };
        parsed.error = parsed.parse().err();
        parsed
    }

    fn parse(&mut self) -> Result<()> {
        let small = |n: usize| {
            u32::try_from(n).expect("a batch is at most one frame longer than its bound")
        };
        let mut begins = 0;
        for (index, piece) in self.batch.pieces.iter().enumerate() {
            let ends = begins + piece.len;
            let ops =
                self.batch.ops.get(begins..ends).expect("a batch holds the ops of its pieces");
            let mut r = Reader::new(ops);
            while !r.is_empty() {
                let start = begins + r.offset();
                let op = Op::read(&mut r).map_err(|e| e.at(&piece.path, piece.offset))?;
                let end = begins + r.offset();
                match op {
                    Op::PageFull { page, .. }
                    | Op::PagePatch { page, .. }
                    | Op::Range { page, .. } => {
                        let full = matches!(op, Op::PageFull { .. });
                        let (offset, len) = (small(start), small(end - start));
                        self.found.push(Found { page, number: self.ops, offset, len, full });
                        match self.steps.last_mut() {
                            // One step for a row of pages; within a piece, so that an error names
                            // its place.
                            Some((at, Step::Extend(last)))
                                if *at == index && last.space == page.space =>
                            {
                                *last = page.max(*last);
                            }
                            _ => self.steps.push((index, Step::Extend(page))),
                        }
                    }
                    _ => self.steps.push((index, Step::Op { number: self.ops, start, end })),
                }
                self.ops += 1;
            }
            if let Some(timestamp) = piece.ends {
                self.steps.push((index, Step::Commit(timestamp)));
            }
            begins = ends;
        }
        Ok(())
    }
}

/// A batch on its way, and where it goes when it is parsed.
type Work = (Batch, mpsc::SyncSender<Parsed>);

/// The threads that parse and fold what the calling one reads.
#[derive(Debug)]
struct Line<'scope, 'a> {
    work: mpsc::SyncSender<Work>,
    /// Where the parsed batches arrive, in the order of the log.
    order: mpsc::SyncSender<mpsc::Receiver<Parsed>>,
    gathering: sync::ScopedJoinHandle<'scope, Result<Gathering<'a>>>,
}

impl<'scope, 'a: 'scope> Line<'scope, 'a> {
    fn start(
        scope: &'scope sync::Scope<'scope, '_>,
        threads: usize,
        mut gathering: Gathering<'a>,
    ) -> Line<'scope, 'a> {
        let (work, waiting) = mpsc::sync_channel::<Work>(AHEAD);
        // Theirs alone: when the last of them is gone, the reader gets an error and does not wait.
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 1..threads {
            let waiting = Arc::clone(&waiting);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().recv();
                    let Ok((batch, parsed)) = next else { break };
                    // Nobody receives it if an error came before this in the log.
                    let _ = parsed.send(Parsed::of(batch));
                }
            });
        }
        let (order, parsed) = mpsc::sync_channel::<mpsc::Receiver<Parsed>>(AHEAD + threads);
        let gathering = scope.spawn(move || {
            for parsed in parsed {
                let parsed = parsed
                    .recv()
                    .map_err(|_| Error::host("a thread that parses the log panicked"))?;
                gathering.take(parsed)?;
            }
            Ok(gathering)
        });
        Line { work, order, gathering }
    }

    fn send(&self, batch: Batch) -> Result<()> {
        let (to, parsed) = mpsc::sync_channel(1);
        // Nobody receives any more if an error came before this in the log: it is told at the end.
        let ended = || Error::host("the log is not gathered any more");
        self.order.send(parsed).map_err(|_| ended())?;
        self.work.send((batch, to)).map_err(|_| ended())
    }

    /// Waits until all is gathered.
    fn finish(self, last: Option<Batch>) -> Result<Gathering<'a>> {
        let sent = last.map_or(Ok(()), |last| self.send(last));
        let Line { work, order, gathering } = self;
        drop((work, order));
        let gathering = gathering
            .join()
            .unwrap_or_else(|_| Err(Error::host("a thread that gathers the log panicked")))?;
        sent.and(Ok(gathering))
    }
}

/// A tail in the making.
#[derive(Debug)]
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
    fn take(&mut self, parsed: Parsed) -> Result<()> {
        self.options.cancel.check()?;
        let Parsed { batch, ops, found, steps, error } = parsed;
        for (piece, step) in &steps {
            self.fold(
                &batch,
                batch.pieces.get(*piece).expect("a step is of a piece of its batch"),
                step,
            )?;
        }
        error.map_or(Ok(()), Err)?;
        self.tail.bytes_read += batch.ops.len() as u64;
        self.ops.push(batch.ops, &found, self.number);
        self.number += ops;
        // Also in the midst of a commit, which may be larger than any memory.
        if self.ops.is_full(self.options.log_memory) {
            let run = Run::spill(std::mem::take(&mut self.ops), &self.log.keys, self.options)?;
            self.tail.runs.push(run);
        }
        Ok(())
    }

    fn fold(&mut self, batch: &Batch, piece: &Piece, step: &Step) -> Result<()> {
        let tail = &mut self.tail;
        let (number, op) = match *step {
            Step::Extend(page) => {
                return apply_effect(
                    &mut tail.state,
                    &Effect::Extend(page),
                    &piece.path,
                    piece.offset,
                );
            }
            Step::Commit(timestamp) => {
                tail.state.advance(timestamp);
                tail.commits += 1;
                return Ok(());
            }
            Step::Op { number, start, end } => {
                let bytes = batch.ops.get(start..end).expect("an op is within its batch");
                let op = Op::read(&mut Reader::new(bytes))
                    .map_err(|e| e.at(&piece.path, piece.offset))?;
                (self.number + number, op)
            }
        };
        match op {
            Op::SetLength(space, length) => {
                let now = tail.state.spaces.get(&space).map_or(0, |s| s.length);
                if length < now {
                    tail.cuts.entry(space).or_default().push((number, length));
                    let lowest = tail.lowest.entry(space).or_insert(length);
                    *lowest = length.min(*lowest);
                }
            }
            Op::CreateSpace { space, .. } => {
                tail.lowest.insert(space, 0);
            }
            _ => {}
        }
        fold_op(&mut tail.state, &op, &mut self.decoder, &piece.path, piece.offset)
    }

    fn finish(mut self) -> Tail {
        self.tail.runs.push(Run::Memory(self.ops.sort()));
        self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemStorage;
    use crate::{Archive, ArchiveOptions, Durability, KeyFile, Origin, Target};

    #[test]
    fn commits_without_ops_are_handed_over_in_bounded_batches() {
        let (storage, key) =
            (Arc::new(MemStorage::without_recording()), KeyFile::from_bytes([1; 32]));
        let archive = Archive::create_in(storage, key, ArchiveOptions::new()).unwrap();
        let node = archive.create_node("n", Origin::Empty).unwrap();
        let writer = node.open_writer().unwrap();
        let count = 2 * PIECES;
        for _ in 0..count {
            writer.batch().commit(Durability::Buffered).unwrap();
        }
        writer.close().unwrap();
        let (from, to) = (Position::ORIGIN, node.resolve(&Target::Latest).unwrap().lsn.into());
        let log = node.context().unwrap().log;
        let mut pieces = Vec::new();
        let (last, read) = read(&log, from, to, &ReplayOptions::default(), &mut |batch| {
            pieces.push(batch.pieces.len());
            Ok(())
        });
        read.unwrap();
        pieces.extend(last.map(|batch| batch.pieces.len()));
        assert_eq!(pieces.iter().sum::<usize>(), count);
        assert!(pieces.iter().all(|n| n * size_of::<Piece>() <= BATCH), "{pieces:?}");
    }
}
