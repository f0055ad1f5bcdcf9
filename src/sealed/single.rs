//! A small file of one frame, read once: what is authenticated, what is decoded and what is hashed
//! are the same bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::reader::open_file;
use super::{ArchiveKeys, SealedFile};
use crate::crypto::kdf::sha256;
use crate::error::{DamageKind, Error, Result};
use crate::format::frame::{FrameKind, HEADER_LEN, TAG_LEN, TRAILER_LEN};
use crate::format::header::{FileKind, Header, MAX_LEN};
use crate::storage::{ReadFileCalls, ReadStore, read_range};
use crate::types::as_index;

/// A file of one frame, of which every byte was checked.
#[derive(Debug)]
pub(crate) struct SingleFrame {
    pub header: Header,
    /// Where the frame is.
    pub offset: u64,
    pub kind: FrameKind,
    pub plaintext: Vec<u8>,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
}

/// Reads the bytes of a file of one frame and an empty seal, whose plaintext has at most `limit`
/// bytes.
pub(crate) fn read_bytes(storage: &dyn ReadStore, path: &str, limit: usize) -> Result<Bytes> {
    let limit = MAX_LEN + limit + 2 * (HEADER_LEN + TAG_LEN) + TRAILER_LEN;
    let file = open_file(storage, path)?;
    let len = file.length(path)?;
    if len > limit as u64 {
        let expected = format_args!("at most {limit} bytes");
        return Err(Error::damage(
            DamageKind::Structure,
            path,
            limit as u64,
            "length of the file",
            expected,
            len,
        ));
    }
    Ok(read_range(file.as_ref(), path, 0, as_index(len))?.into())
}

/// Reads a file of one frame, whose plaintext has at most `limit` bytes. Every byte of it is
/// covered by a tag or a CRC-32, so that one that was read wrongly does not get into the digest.
pub(crate) fn read_single(
    storage: &dyn ReadStore,
    keys: &ArchiveKeys,
    path: &str,
    kind: FileKind,
    limit: usize,
) -> Result<SingleFrame> {
    let bytes = read_bytes(storage, path, limit)?;
    let file = SealedFile::of(Arc::new(bytes.clone()), keys, path, kind)?;
    let offset = file.header_len();
    let seal = file.complete()?;
    let mut buffer = Vec::new();
    let (frame, plaintext) = file.frame(offset, None, &mut buffer)?;
    let end = offset + frame.frame_len() as u64;
    if (end, frame.index) != (seal.offset, 0) {
        let (expected, found) =
            (format_args!("one frame, up to {}", seal.offset), format_args!("one up to {end}"));
        return Err(Error::damage(
            DamageKind::Structure,
            path,
            offset,
            "frames of the file",
            expected,
            found,
        ));
    }
    file.check_crc(offset, &frame)?;
    file.check_crc(seal.offset, &seal.header)?;
    Ok(SingleFrame {
        header: file.header().clone(),
        offset,
        kind: frame.kind,
        plaintext: plaintext.to_vec(),
        digest: sha256(&[&bytes]),
    })
}
