//! A structure that may be larger than a frame: CBOR in frames of kind body, its length in the
//! seal.

use super::{
    ArchiveKeys, FileInfo, FrameSpec, FrameStream, SealedFile, SealedSummary, SealedWriter, Step,
};
use super::{decode_cbor, encode_cbor};
use crate::error::{DamageKind, Error, Result};
use crate::format::frame::{FrameKind, MAX_PLAINTEXT};
use crate::names::Scope;
use crate::storage::Storage;
use crate::types::FileId;

/// Longest structure: ten million entries of 100 bytes.
const MAX_BODY: u64 = 1 << 30;

/// Writes a file that holds one structure, under the name that `path` makes of its id; `None` where
/// that name is taken.
pub(crate) fn write_body<T: minicbor::Encode<()>>(
    storage: &dyn Storage,
    keys: &ArchiveKeys,
    scope: Scope,
    info: FileInfo,
    body: &T,
    path: impl FnOnce(FileId) -> String,
) -> Result<Option<SealedSummary>> {
    let body = encode_cbor(body);
    let mut writer = SealedWriter::create(storage, keys, scope, info)?;
    for piece in body.chunks(MAX_PLAINTEXT) {
        writer.frame(FrameSpec::plain(FrameKind::Body, 0, 0), piece)?;
    }
    let path = path(writer.id());
    writer.publish(&path, &encode_cbor(&(body.len() as u64)))
}

/// Reads the structure of a file.
pub(crate) fn read_body<T: for<'b> minicbor::Decode<'b, ()>>(
    file: &SealedFile,
    what: &'static str,
) -> Result<T> {
    let path = file.path();
    let structure =
        |offset, what, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Error::damage(DamageKind::Structure, path, offset, what, expected, found)
        };
    let expected: u64 = decode_cbor(
        path,
        file.header_len(),
        "length of the structure",
        &file.complete()?.plaintext,
    )?;
    if expected > MAX_BODY {
        return Err(structure(0, "length of the structure", &MAX_BODY, &expected));
    }
    let mut body = Vec::new();
    let mut stream = FrameStream::new(file, file.len()?);
    while body.len() as u64 <= expected {
        match stream.next()? {
            Step::Frame { header, plaintext, .. } if header.kind == FrameKind::Body => {
                body.extend_from_slice(plaintext);
            }
            Step::Frame { header, .. } if header.kind == FrameKind::Seal => break,
            Step::Frame { header, offset, .. } => {
                return Err(structure(
                    offset,
                    "frame kind",
                    &"body or seal",
                    &format_args!("{:?}", header.kind),
                ));
            }
            Step::Stop { error: Some(error), .. } => return Err(error),
            Step::Stop { offset, error: None } => {
                return Err(Error::damage(
                    DamageKind::Truncated,
                    path,
                    offset,
                    "frame",
                    "a seal",
                    "the end",
                ));
            }
        }
    }
    if body.len() as u64 != expected {
        return Err(structure(0, "length of the structure", &expected, &body.len()));
    }
    decode_cbor(path, file.header_len(), what, &body)
}
