//! Spill: what an operation keeps on disk because its memory is bounded.
//!
//! Owns how pieces are sealed and opened again, for batches beyond `WriterOptions::batch_bytes`
//! and for the sorted runs of a replay. Never creates, names or removes a file: whoever spills
//! decides where, and hands the bytes on.
//!
//! Invariants: every spill has a fresh key that is never stored; a piece opens only at its place
//! in the order in which pieces were sealed. A crash leaves a file that is noise.

use std::sync::Arc;

use super::{ArchiveKeys, FrameOpener, FrameSealer, FrameSpec, frame_error};
use crate::crypto::SecretKey;
use crate::crypto::aead::FrameCipher;
use crate::error::Result;
use crate::format::frame::{FrameHeader, FrameKind, HEADER_LEN, TAG_LEN};

/// Bytes of the buffer that are kept from piece to piece: enough for those of usual size.
const KEPT: usize = 2 << 20;

/// Where a piece is in the file, and what opens it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spilled {
    /// Bytes before it.
    pub offset: u64,
    /// Bytes it takes.
    pub len: usize,
    chain: [u8; TAG_LEN],
}

/// Seals pieces, one after the other.
#[derive(Debug)]
pub(crate) struct SpillWriter {
    sealer: FrameSealer,
    sealed: Vec<u8>,
    end: u64,
}

/// Opens the pieces of one [`SpillWriter`], in any order.
#[derive(Debug)]
pub(crate) struct SpillReader {
    opener: FrameOpener,
}

/// Begins a spill, under a key of its own.
pub(crate) fn spill(keys: &ArchiveKeys) -> Result<(SpillWriter, SpillReader)> {
    let key = SecretKey::random(keys.rng().as_ref())?;
    let cipher = || FrameCipher::new(keys.backend(), &key);
    let sealer = FrameSealer::new(cipher(), [0; TAG_LEN], Arc::clone(keys.rng()));
    let opener = FrameOpener::new(cipher(), [0; TAG_LEN]);
    Ok((SpillWriter { sealer, sealed: Vec::new(), end: 0 }, SpillReader { opener }))
}

impl SpillWriter {
    /// Seals a piece and hands it to `append`, which adds it to the end of the file.
    pub fn put(
        &mut self,
        plaintext: &[u8],
        append: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<Spilled> {
        let chain = self.sealer.chain();
        self.sealed.clear();
        self.sealer.seal(
            FrameSpec::plain(FrameKind::Body, 0, 0),
            &[plaintext],
            &mut self.sealed,
        )?;
        let piece = Spilled { offset: self.end, len: self.sealed.len(), chain };
        append(&self.sealed)?;
        self.end += piece.len as u64;
        // A piece with an op of many megabytes in it must not hold that memory until the end.
        self.sealed.clear();
        self.sealed.shrink_to(KEPT);
        Ok(piece)
    }
}

impl SpillReader {
    /// Opens a piece that was read into `frame`; `path` is for the error.
    pub fn open<'f>(&self, piece: &Spilled, path: &str, frame: &'f mut [u8]) -> Result<&'f [u8]> {
        let header = FrameHeader::decode(frame).map_err(|e| e.at(path, piece.offset))?;
        let opened = self.opener.open_in_place(&header, &piece.chain, frame);
        let (plaintext, _) = opened.map_err(|_| frame_error(path, piece.offset, &header, false))?;
        debug_assert_eq!(plaintext.len() + HEADER_LEN + TAG_LEN, piece.len);
        Ok(plaintext)
    }
}
