//! Makes page images small: patches against an earlier image, and plain compression.
//!
//! Bytes in, bytes out. A patch is one zstd frame (RFC 8878) without magic number,
//! content size, checksum or dictionary id, whose raw-content prefix is the earlier
//! image; a compressed image is the same without a prefix. What page it is, how long it
//! should be and whether it is right (the CRC-32 beside it) is the caller's business.
//!
//! Most page writes of a database change a few bytes where they stand. Such a patch
//! is written directly (`frame`): comparing two images takes a small part of the
//! time in which zstd indexes one. Everything else goes through zstd's own compressor. Both
//! give the same kind of frame, and one decoder reads them all.
//!
//! Invariants:
//! - A decoder writes into the buffer given and nowhere else, and allocates nothing by
//!   what its input says: zstd's one-shot calls decode straight into that buffer, whatever
//!   window a frame claims.
//! - No reference outlives a call. zstd's `ref_prefix` borrows for the life of a context,
//!   so a context that lives longer than a call is never given a prefix that way.
//! - After an error a context is as good as new: each one-shot call starts its session afresh.

mod frame;
mod in_place;

#[cfg(test)]
mod tests;

use std::io::Cursor;

use zstd::zstd_safe::{
    self, CCtx, CParameter, DCtx, DParameter, ErrorCode, FrameFormat, ResetDirective,
};

use in_place::Edits;

/// Longest input of [`Encoder`] and output of [`Decoder`]: the largest frame of any archive file.
pub const MAX_PLAIN: usize = 32 << 20;

/// zstd's level, for patches and images alike. Levels below 1 leave literals uncoded, which costs a
/// quarter of the size on text for little time, and lose track of moved rows on 64 KiB pages. Level
/// 3 makes patches of 4 KiB pages 2 % smaller in a fifth more time.
const LEVEL: i32 = 1;

/// Changed bytes up to which an edit in place is written without asking zstd, which would need
/// ten times as long and rarely find a shorter patch.
const EDIT_LIMIT: u32 = 32;

/// Changed bytes up to which an edit in place is written and the shorter patch kept: zstd takes the
/// first match it meets, often not the one at the same place.
const TRY_LIMIT: u32 = 160;

/// What begins a trained zstd dictionary. The one-shot calls would take a page that begins
/// so for one, where a prefix is always raw content.
const DICTIONARY_MAGIC: [u8; 4] = 0xEC30_A437_u32.to_le_bytes();

/// What zstd returns where the output does not fit: minus `ZSTD_error_dstSize_tooSmall`. Its
/// header pins the numbers of such errors down for good.
const NO_ROOM: ErrorCode = 0usize.wrapping_sub(70);

/// Why something could not be compressed or rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// No memory for a context.
    #[error("no memory for a compression context")]
    OutOfMemory,
    /// zstd refused to compress.
    #[error("compression failed: {0}")]
    Compress(&'static str),
    /// The input is no frame that zstd decodes into the room given.
    #[error("malformed compressed data: {0}")]
    Malformed(&'static str),
    /// The frame holds less than expected.
    #[error("compressed data of the wrong length: expected {expected} bytes, found {found}")]
    Length {
        /// Bytes that should come out.
        expected: usize,
        /// Bytes that came out.
        found: usize,
    },
    /// An input or output beyond [`MAX_PLAIN`].
    #[error("{found} bytes at once are beyond the limit of {MAX_PLAIN}")]
    TooLong {
        /// Its length.
        found: usize,
    },
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, DeltaError>;

fn compress_error(code: ErrorCode) -> DeltaError {
    DeltaError::Compress(zstd_safe::get_error_name(code))
}

fn malformed(code: ErrorCode) -> DeltaError {
    DeltaError::Malformed(zstd_safe::get_error_name(code))
}

fn bounded(bytes: usize) -> Result<()> {
    if bytes > MAX_PLAIN { Err(DeltaError::TooLong { found: bytes }) } else { Ok(()) }
}

/// A compression context: reuse one per thread, as creating it costs more than a page.
pub struct Encoder {
    context: CCtx<'static>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// Fails where there is no memory for it.
    pub fn new() -> Result<Encoder> {
        let mut context = CCtx::try_create().ok_or(DeltaError::OutOfMemory)?;
        // For `compress`; the one-shot call in `search` takes its level as an argument.
        set_up(&mut context)?;
        Ok(Encoder { context, scratch: Vec::new() })
    }

    /// Appends to `out` the patch that makes `new` out of `old`; returns its length, which may
    /// exceed that of `new` where the two have nothing in common. Appends nothing on error.
    pub fn patch(&mut self, new: &[u8], old: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        bounded(new.len().max(old.len()))?;
        let edits = Edits::between(new, old, TRY_LIMIT);
        if let Some(edits) = edits.as_ref().filter(|edits| edits.literals() <= EDIT_LIMIT)
            && let Some(written) = frame::write(new, edits, out)
        {
            return Ok(written);
        }
        let searched = self.search(new, old)?;
        let start = out.len();
        if let Some(written) = edits.and_then(|edits| frame::write(new, &edits, out))
            && written <= searched.len()
        {
            return Ok(written);
        }
        out.truncate(start);
        out.extend_from_slice(searched);
        Ok(searched.len())
    }

    /// A patch by zstd's own search for matches. `CCtx::ref_prefix` would keep `old` borrowed for
    /// as long as the context lives, so `old` goes in by the one-shot call instead, which is done
    /// with it on return. That call has a frame header of its own, which is exchanged for ours.
    fn search(&mut self, new: &[u8], old: &[u8]) -> Result<&[u8]> {
        self.scratch.clear();
        self.scratch.reserve(zstd_safe::compress_bound(new.len()));
        if !old.starts_with(&DICTIONARY_MAGIC) && new.len() <= frame::MAX_CONTENT {
            self.context
                .compress_using_dict(&mut self.scratch, new, old, LEVEL)
                .map_err(compress_error)?;
            if let Some(start) = frame::exchange_header(&mut self.scratch, new.len()) {
                let patch = self.scratch.get(start..);
                return Ok(patch.expect("the header was exchanged within the frame"));
            }
        }
        // Ten times slower, for what the one-shot call cannot express: a context of its own, for
        // whose life `old` may be a proper prefix.
        let mut context = CCtx::try_create().ok_or(DeltaError::OutOfMemory)?;
        set_up(&mut context)?;
        context.ref_prefix(old).map_err(compress_error)?;
        context.compress2(&mut self.scratch, new).map_err(compress_error)?;
        Ok(&self.scratch)
    }

    /// Appends `plain` compressed and returns the length of that; `None`, with nothing
    /// appended, where it would not be shorter than `plain`.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>> {
        bounded(plain.len())?;
        let start = out.len();
        out.reserve(plain.len());
        let mut cursor = Cursor::new(std::mem::take(out));
        cursor.set_position(start as u64);
        let written = self.context.compress2(&mut cursor, plain);
        *out = cursor.into_inner();
        match written {
            Ok(n) if n < plain.len() => Ok(Some(n)),
            Ok(_) => {
                out.truncate(start);
                Ok(None)
            }
            Err(code) => {
                self.context.reset(ResetDirective::SessionOnly).map_err(compress_error)?;
                if code == NO_ROOM { Ok(None) } else { Err(compress_error(code)) }
            }
        }
    }
}

/// Sets the parameters of `compress2`: the level, and a frame header with nothing to spare.
fn set_up(context: &mut CCtx<'_>) -> Result<()> {
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context.set_parameter(parameter).map_err(compress_error)?;
    }
    Ok(())
}

/// A decompression context: reuse one per thread, as creating it costs more than a page.
pub struct Decoder {
    context: DCtx<'static>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// Fails where there is no memory for it.
    pub fn new() -> Result<Decoder> {
        let mut context = DCtx::try_create().ok_or(DeltaError::OutOfMemory)?;
        context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(malformed)?;
        Ok(Decoder { context })
    }

    /// Fills `out` with what `patch` makes out of `old`. After an error `out` holds anything.
    /// So it does, without one, where `old` or `patch` is not what it was: check a sum.
    pub fn apply(&mut self, patch: &[u8], old: &[u8], out: &mut [u8]) -> Result<()> {
        let found = if old.starts_with(&DICTIONARY_MAGIC) {
            // As in `Encoder::search`.
            let mut decoder = DCtx::try_create().ok_or(DeltaError::OutOfMemory)?;
            decoder
                .set_parameter(DParameter::Format(FrameFormat::Magicless))
                .and_then(|_| decoder.ref_prefix(old))
                .and_then(|_| decoder.decompress(out, patch))
        } else {
            self.context.decompress_using_dict(out, patch, old)
        };
        exact(found, out.len())
    }

    /// Fills `out` with the plain form of `bytes`. After an error `out` holds anything.
    pub fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        exact(self.context.decompress(out, bytes), out.len())
    }
}

fn exact(found: std::result::Result<usize, ErrorCode>, expected: usize) -> Result<()> {
    match found {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(DeltaError::Length { expected, found }),
        Err(code) => Err(DeltaError::Malformed(zstd_safe::get_error_name(code))),
    }
}
