//! The ops of a batch, in pieces; on disk, encrypted, beyond the writer's bound.
//!
//! Owns a batch's temporary file, which goes with it. Never knows what an op means, nor whether the
//! batch commits. Invariant: pieces end where an op does, and come back in the order in which they
//! were put. A crash leaves a file under a key that was never stored; the node's next writer
//! removes it.

use std::sync::Arc;

use super::place::Place;
use crate::error::Result;
use crate::format::record::Op;
use crate::options::WriterOptions;
use crate::sealed::{SpillReader, SpillWriter, Spilled, spill, temporary_name};
use crate::storage::{AppendFile, AppendFileCalls, Calls, ReadCalls, read_range};

/// Ops are gathered in pieces of about as many frames, and of no more bytes than these: a piece
/// with its last op fits in one frame.
const PIECE_FRAMES: usize = 16;
const MAX_PIECE: usize = 1 << 20;

/// The ops of a batch.
#[derive(Debug)]
pub(super) struct Ops {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
    piece: usize,
    bound: usize,
    spill: Option<Spill>,
    broken: bool,
}

impl Ops {
    pub fn new(options: &WriterOptions) -> Ops {
        let piece = options.frame_bytes.saturating_mul(PIECE_FRAMES).min(MAX_PIECE);
        Ops {
            pieces: Vec::new(),
            bytes: 0,
            piece,
            bound: options.batch_bytes,
            spill: None,
            broken: false,
        }
    }

    /// Adds an op.
    pub fn put(&mut self, op: &Op<'_>, place: &Arc<Place>) -> Result<()> {
        let done = self.try_put(op, place);
        self.broken |= done.is_err();
        done
    }

    fn try_put(&mut self, op: &Op<'_>, place: &Arc<Place>) -> Result<()> {
        if self.pieces.last().is_none_or(|p| p.len() >= self.piece) {
            if self.bytes > self.bound {
                self.spill(place)?;
            }
            self.pieces.push(Vec::new());
        }
        let piece = self.pieces.last_mut().expect("a piece was begun where there was none");
        let before = piece.len();
        op.put(piece);
        self.bytes += piece.len() - before;
        Ok(())
    }

    /// Moves all pieces to disk.
    fn spill(&mut self, place: &Arc<Place>) -> Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::create(place)?),
        };
        for piece in self.pieces.drain(..) {
            spill.put(&piece)?;
        }
        self.bytes = 0;
        Ok(())
    }

    /// Whether an op could not be taken in: what is here is not what the host asked for.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes of the ops if they are one piece in memory, or none.
    pub fn single(&self) -> Option<&[u8]> {
        match (&self.spill, self.pieces.as_slice()) {
            (None, []) => Some(&[]),
            (None, [only]) => Some(only),
            _ => None,
        }
    }

    /// Shows all pieces in order; the flag says which is the last.
    pub fn each(&self, visit: &mut dyn FnMut(&[u8], bool) -> Result<()>) -> Result<()> {
        let spilled = self.spill.as_ref().map_or(0, |s| s.pieces.len());
        let mut left = spilled + self.pieces.len();
        let mut visit = |piece: &[u8]| {
            left -= 1;
            visit(piece, left == 0)
        };
        if let Some(spill) = &self.spill {
            spill.each(&mut visit)?;
        }
        self.pieces.iter().try_for_each(|piece| visit(piece))
    }
}

/// Pieces on disk.
#[derive(Debug)]
struct Spill {
    // Closed before it is removed.
    file: Box<dyn AppendFile>,
    temporary: Temporary,
    writer: SpillWriter,
    reader: SpillReader,
    pieces: Vec<Spilled>,
}

/// A file that is removed with this.
#[derive(Debug)]
struct Temporary {
    place: Arc<Place>,
    path: String,
}

impl Spill {
    fn create(place: &Arc<Place>) -> Result<Spill> {
        let (writer, reader) = spill(&place.keys)?;
        let path = temporary_name(&place.keys, place.scope)?;
        let file = place.storage.created(&path)?;
        let temporary = Temporary { place: Arc::clone(place), path };
        Ok(Spill { file, temporary, writer, reader, pieces: Vec::new() })
    }

    fn put(&mut self, piece: &[u8]) -> Result<()> {
        let (file, path) = (&mut self.file, &self.temporary.path);
        let append = |sealed: &[u8]| file.appended(path, sealed);
        self.pieces.push(self.writer.put(piece, append)?);
        Ok(())
    }

    fn each(&self, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Temporary { place, path } = &self.temporary;
        let file = place.storage.opened(path)?;
        for piece in &self.pieces {
            let mut frame = read_range(file.as_ref(), path, piece.offset, piece.len)?;
            visit(self.reader.open(piece, path, &mut frame)?)?;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.place.owner.is_here() {
            // Best effort: the next writer of the node removes what stays.
            let _ = self.place.storage.delete(&self.path);
        }
    }
}
