//! The catalog: every entry decrypted and chained to the one before.

use super::{Meter, VerifyProgress, VerifyReport, VerifyStage};
use crate::catalog::{checkpoint, entry_digest, entry_path, newest};
use crate::error::{DamageKind, Error, Result};
use crate::format::header::FileKind;
use crate::options::Cancel;
use crate::sealed::{ArchiveKeys, SealedFile};
use crate::storage::Storage;

/// Verifies the catalog.
pub(crate) fn verify_catalog(
    storage: &dyn Storage,
    keys: &ArchiveKeys,
    cancel: &Cancel,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let newest = newest(storage)?.unwrap_or_default();
    let mut meter = Meter { report: progress, stage: VerifyStage::Files, done: 0, total: 0, cancel: cancel.clone() };
    // Unknown behind an entry that cannot be read at all.
    let mut link = Some([0; 32]);
    for sequence in 1..=newest {
        let path = entry_path(sequence);
        super::checksums_of(storage, &path, &mut report, &mut meter)?;
        let checked = entry(storage, keys, &path, sequence, link);
        report.found(checked)?;
        let digest = entry_digest(storage, sequence);
        link = digest.as_ref().ok().copied();
        report.found(digest.map(drop))?;
        report.catalog_entries += 1;
    }
    for path in checkpoint::paths(storage)? {
        super::checksums_of(storage, &path, &mut report, &mut meter)?;
        let opened = SealedFile::open(storage, keys, &path, FileKind::Checkpoint);
        report.found(opened.and_then(|file| file.complete().map(drop)))?;
    }
    Ok(report)
}

/// Decrypts one entry and compares what it says of the one before.
fn entry(storage: &dyn Storage, keys: &ArchiveKeys, path: &str, sequence: u64, link: Option<[u8; 32]>) -> Result<()> {
    let file = SealedFile::open(storage, keys, path, FileKind::Catalog)?;
    file.complete()?;
    file.frame(file.header_len(), None, &mut Vec::new())?;
    let header = file.header();
    if header.sequence != sequence || link.is_some_and(|link| link != header.link) {
        let expected = format_args!("entry {sequence}, after the entry before it as it is there");
        let found = format_args!("entry {}, after another one", header.sequence);
        return Err(Error::damage(DamageKind::Chain, path, 96, "catalog entry", expected, found));
    }
    Ok(())
}
