//! What can be checked of a file without its keys: header, frames and trailer, by their CRC-32.

use std::io::ErrorKind;

use super::{Meter, VerifyProgress, VerifyReport, VerifyStage};
use crate::error::{DamageKind, Error, Result};
use crate::format::frame::{
    FrameHeader, FrameKind, HEADER_LEN, MAX_PLAINTEXT, TRAILER_LEN, Trailer,
};
use crate::names::{self, Kind};
use crate::options::Cancel;
use crate::sealed::read_header;
use crate::storage::{ReadCalls, ReadFile, ReadFileCalls, ReadStore, read_range};
use crate::types::as_index;
use crate::wal::{Search, durable_frame_beyond, find_frame, is_zero};

/// The unit that a disk writes completely or not at all.
const SECTOR: u64 = 512;

/// Reads every file of an archive and compares it with the CRC-32s in it. This finds rot on a
/// machine that has no key.
///
/// It cannot find files that are missing or belong elsewhere, edits by somebody who corrects the
/// checksums, and the loss of a segment's trailer. (A power failure causes that loss, too, and
/// nothing depends on the trailer.) For the others, use
/// [`Archive::verify`](crate::Archive::verify).
///
/// ```
/// use rewound::storage::FsStorage;
/// use rewound::{options::Cancel, verify_checksums};
///
/// # let dir = tempfile::tempdir()?;
/// # let key = rewound::KeyFile::generate(dir.path().join("app.key"))?;
/// # rewound::Archive::create(dir.path().join("app.archive"), key)?;
/// let storage = FsStorage::new(dir.path().join("app.archive"));
/// let report = verify_checksums(&storage, &Cancel::new(), &mut |_| {})?;
/// assert!(report.is_intact(), "{:?}", report.findings);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::NoArchive`], [`Error::Cancelled`]. Damage, and what cannot be read, is in the report.
pub fn verify_checksums(
    storage: &dyn ReadStore,
    cancel: &Cancel,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<VerifyReport> {
    let (mut files, mut report) = (Vec::new(), VerifyReport::default());
    for dir in [names::CATALOG, names::NODES] {
        walk(storage, dir, &mut files, &mut report)?;
    }
    if report.is_intact() && !files.iter().any(|(path, _)| names::is_of_catalog(path)) {
        return Err(Error::NoArchive { path: storage.location().into() });
    }
    files.sort();
    let total = files.iter().map(|(_, len)| len).sum();
    let mut meter = Meter::new(progress, VerifyStage::Files, total, cancel);
    for (path, _) in &files {
        match names::kind(path) {
            Some(Kind::Segment) => report.segments += 1,
            Some(Kind::Layer) => report.layers += 1,
            Some(Kind::Part) => report.parts += 1,
            Some(Kind::Entry) => report.catalog_entries += 1,
            Some(Kind::Checkpoint) => {}
            // Locks, and files of later releases: only checked to be files.
            None => {
                if let Err(e) = storage.opened(path)
                    && e.is_damage()
                {
                    report.note(e);
                }
                continue;
            }
        }
        let checked = check_file(storage, path, &mut report, &mut |bytes| meter.add(bytes));
        report.found(checked.or_else(gone))?;
    }
    Ok(report)
}

/// A file that is gone since it was listed has expired. This cannot be told from a loss here.
fn gone(e: Error) -> Result<()> {
    match &e {
        Error::Storage { source, .. } if source.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    }
}

/// Lists every file below a directory. A directory that cannot be listed is a finding.
fn walk(
    storage: &dyn ReadStore,
    dir: &str,
    files: &mut Vec<(String, u64)>,
    report: &mut VerifyReport,
) -> Result<()> {
    let entries = match storage.listed(dir) {
        Ok(entries) => entries,
        Err(e) => return report.found(Err(e)),
    };
    for entry in entries {
        let path = names::join(dir, &entry.name);
        // A directory with the name of a file is checked as that file.
        if entry.is_dir && !names::has_ending(&entry.name) {
            walk(storage, &path, files, report)?;
        } else {
            files.push((path, entry.len));
        }
    }
    Ok(())
}

/// Checks one file; every damaged frame of it is a finding. `read` is called with the number of
/// bytes as they are read.
pub(super) fn check_file(
    storage: &dyn ReadStore,
    path: &str,
    report: &mut VerifyReport,
    read: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let file = storage.opened(path)?;
    let file = file.as_ref();
    let len = file.length(path)?;
    report.files += 1;
    report.bytes += len;
    let segment = names::kind(path) == Some(Kind::Segment);
    let header_len = match read_header(file, path) {
        Ok((_, header_len)) => header_len,
        Err(e) => {
            read(len)?;
            return Err(e);
        }
    };
    read(header_len)?;
    let sealed = if segment { sealed_at(file, path, len)? } else { None };
    let mut at = header_len;
    let mut index = 0;
    while at < len {
        let mut found = frame(file, path, at, index);
        if segment && found.as_ref().is_err_and(Error::is_damage) {
            // The end of a segment that was never sealed, or is not sealed yet.
            if is_torn(file, path, (at, len), index, sealed)? {
                report.torn_tails += u64::from(!is_zero(file, path, at, len)?);
                read(len - at)?;
                return Ok(());
            }
            if sealed.is_none() {
                // What is behind it was written after it: if a writer has added both since the
                // frame was read, it is there by now.
                found = frame(file, path, at, index);
            }
        }
        let (next, frame_index, kind) = match found {
            Ok(found) => found,
            Err(e) if e.is_damage() => {
                report.note(e);
                // Continue behind it, if there is a frame that can be read.
                match next_frame(file, path, at + 1, len)? {
                    Some((next, found)) => {
                        read(next - at)?;
                        (at, index) = (next, found);
                        continue;
                    }
                    None => return read(len - at),
                }
            }
            Err(e) => return Err(e),
        };
        read(next - at)?;
        if kind == FrameKind::Seal {
            let trailer = Trailer { seal_offset: at, frames: frame_index.saturating_add(1) };
            read(len.saturating_sub(next))?;
            return check_trailer(file, path, next, len, &trailer, segment);
        }
        (at, index) = (next, frame_index + 1);
    }
    if segment {
        return Ok(());
    }
    Err(Error::damage(
        DamageKind::Truncated,
        path,
        len,
        "seal",
        "the seal and trailer of a complete file",
        "the end",
    ))
}

/// The offset of the seal, as the trailer at the end of a segment says.
fn sealed_at(file: &dyn ReadFile, path: &str, len: u64) -> Result<Option<u64>> {
    let Some(at) = len.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
    Ok(Trailer::decode(&read_range(file, path, at, TRAILER_LEN)?)
        .map(|trailer| trailer.seal_offset))
}

/// Whether an unreadable frame of a segment is what a crash leaves, and not rot.
fn is_torn(
    file: &dyn ReadFile,
    path: &str,
    (at, len): (u64, u64),
    index: u32,
    sealed: Option<u64>,
) -> Result<bool> {
    match sealed {
        None => Ok(!durable_frame_beyond(file, path, len, at, index)?),
        // All frames before the seal were durable when it was written.
        Some(seal) if at < seal => Ok(false),
        // A crash can keep the trailer and lose the seal, by whole sectors, which then read as
        // zeros. Rot does not do that.
        Some(seal) => {
            let size = as_index(len.saturating_sub(seal)).min(MAX_PLAINTEXT);
            let bytes = read_range(file, path, seal, size)?;
            let skip = as_index(seal.next_multiple_of(SECTOR) - seal);
            let (first, rest) = bytes.split_at_checked(skip).unwrap_or((&bytes, &[]));
            let lost = |sector: &[u8]| !sector.is_empty() && sector.iter().all(|b| *b == 0);
            Ok(lost(first) || rest.chunks(as_index(SECTOR)).any(lost))
        }
    }
}

/// Reads the frame at an offset; returns where it ends, its index and its kind.
fn frame(file: &dyn ReadFile, path: &str, at: u64, index: u32) -> Result<(u64, u32, FrameKind)> {
    let header = FrameHeader::decode(&read_range(file, path, at, HEADER_LEN)?)
        .map_err(|e| e.at(path, at))?;
    if header.index != index {
        let expected = format_args!("frame {index}");
        let found = format_args!("frame {}", header.index);
        return Err(Error::damage(DamageKind::Chain, path, at, "frame index", expected, found));
    }
    let body = read_range(file, path, at + HEADER_LEN as u64, header.len as usize)?;
    if body.len() < header.len as usize {
        let expected = format_args!("{} bytes", header.len);
        let found = format_args!("{} bytes", body.len());
        return Err(Error::damage(DamageKind::Truncated, path, at, "frame", expected, found));
    }
    header.check_crc(&body).map_err(|e| e.at(path, at))?;
    Ok((at + header.frame_len() as u64, header.index, header.kind))
}

/// The next frame at or after an offset whose CRC-32 matches, and its index.
fn next_frame(file: &dyn ReadFile, path: &str, from: u64, len: u64) -> Result<Option<(u64, u32)>> {
    let found = find_frame(file, path, from, len, &mut |start, header| {
        Ok(frame(file, path, start, header.index).is_ok().then_some((start, header.index)))
    })?;
    Ok(if let Search::Found(found) = found { Some(found) } else { None })
}

/// Checks what comes after a seal: the trailer, and nothing else. In a segment, a crash may have
/// come before the trailer was durable, or before the zeros reserved behind it were cut off. Then
/// the segment ends at its seal, and nothing is lost.
fn check_trailer(
    file: &dyn ReadFile,
    path: &str,
    at: u64,
    len: u64,
    trailer: &Trailer,
    segment: bool,
) -> Result<()> {
    let expected = trailer.encode();
    let found = read_range(file, path, at, TRAILER_LEN)?;
    let end = at + found.len() as u64;
    let is_end = if segment { is_zero(file, path, end, len)? } else { end == len };
    if is_end
        && (found == expected || (segment && (end < len || is_interrupted(&found, &expected))))
    {
        return Ok(());
    }
    let found = format_args!("{} other bytes", len - at);
    Err(Error::damage(
        DamageKind::Checksum,
        path,
        at,
        "trailer",
        "the trailer that belongs to the seal",
        found,
    ))
}

/// Whether a trailer is what a crash leaves if it was not durable: cut short, zeros, or garbage.
/// Rot alters a byte.
fn is_interrupted(found: &[u8], expected: &[u8]) -> bool {
    let altered: Vec<u8> =
        found.iter().zip(expected).filter(|(f, e)| f != e).map(|(f, _)| *f).collect();
    altered.len() > 1 || altered.iter().all(|byte| *byte == 0)
}
