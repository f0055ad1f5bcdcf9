//! The catalog: every entry decrypted and chained to the one before.

use std::io::ErrorKind;

use super::{Meter, VerifyProgress, VerifyReport, VerifyStage};
use crate::catalog::{checkpoint, newest, read_sealed};
use crate::error::{DamageKind, Error, Result};
use crate::format::header::FileKind;
use crate::names::entry_path;
use crate::options::Cancel;
use crate::sealed::{ArchiveKeys, SealedFile};
use crate::storage::ReadStore;

/// Verifies the catalog, of which `known` entries were read before.
pub(crate) fn verify_catalog(
    storage: &dyn ReadStore,
    keys: &ArchiveKeys,
    known: u64,
    cancel: &Cancel,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let newest = newest(storage)?.unwrap_or_default();
    if newest < known {
        let expected =
            format_args!("entry {known}, which was there when the archive was opened or later");
        let found = format_args!("entry {newest}");
        let (kind, path) = (DamageKind::Missing, entry_path(known));
        report.note(Error::damage(kind, path, 0, "newest catalog entry", expected, found));
    }
    let mut meter = Meter::new(progress, VerifyStage::Files, 0, cancel);
    // Unknown after an entry that cannot be read at all.
    let mut link = Some([0; 32]);
    for sequence in 1..=newest {
        let path = entry_path(sequence);
        super::checksums_of(storage, &path, &mut report, &mut meter)?;
        let read = read_sealed(storage, keys, sequence);
        let before = std::mem::replace(&mut link, read.as_ref().ok().map(|entry| entry.digest));
        let checked = read.and_then(|entry| match before {
            Some(before) if before != entry.header.link => {
                let expected =
                    format_args!("entry {sequence}, after the entry before it as it is there");
                let found = format_args!("entry {sequence}, after another one");
                Err(Error::damage(DamageKind::Chain, &path, 128, "catalog entry", expected, found))
            }
            _ => Ok(()),
        });
        report.found(checked)?;
        report.catalog_entries += 1;
    }
    for path in checkpoint::paths(storage)? {
        // The writer of a newer one may have deleted this one since.
        if storage.open(&path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            continue;
        }
        super::checksums_of(storage, &path, &mut report, &mut meter)?;
        let opened = SealedFile::open(storage, keys, &path, FileKind::Checkpoint);
        report.found(opened.and_then(|file| file.complete().map(drop)))?;
    }
    Ok(report)
}
