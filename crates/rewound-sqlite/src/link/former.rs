//! What was attached to before, and what it tells of the database that is there now.

use super::Link;
use crate::error::{Error, Result};
use crate::files::{DatabaseFile, IndexFile, Paths, Stamp};
use crate::format::{IndexHeader, Salts};
use crate::locks::Holder;
use crate::pin::Pin;

/// What is told of a file that was copied over.
pub(super) const FOREIGN: &str = "written to by something else than SQLite";

/// A database file with so much of the log in it, and no checkpoint under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quiet {
    pub salts: Salts,
    pub backfilled: u32,
    pub file: Stamp,
}

impl Quiet {
    /// Whether the file was written to since, and by no checkpoint as far as one can see: the log
    /// is the same, and no more of it is in the file.
    fn is_betrayed(&self, at: IndexHeader, file: Stamp) -> bool {
        self.salts == at.salts && at.backfilled <= self.backfilled && self.file != file
    }
}

/// What was attached to before.
#[derive(Debug)]
pub(crate) struct Former {
    pub(super) file: DatabaseFile,
    pub(super) index: IndexFile,
    pub(super) quiet: Option<Quiet>,
}

impl Former {
    /// Whether the same file is attached to again.
    pub fn is_of(&self, link: &Link) -> bool {
        self.file.is(&link.file)
    }

    /// An error where that file was written to since, and not by SQLite.
    pub fn check_content(&self, link: &Link) -> Result<()> {
        let Pin { at, file, .. } = link.pins.pin();
        let betrayed =
            self.is_of(link) && self.quiet.is_some_and(|quiet| quiet.is_betrayed(at, file));
        if betrayed { Err(link.inconsistent(FOREIGN)) } else { Ok(()) }
    }

    /// An error where another process still uses an index that is not that of the database any
    /// more: what it commits would not be seen.
    pub fn check(&self, paths: &Paths) -> Result<()> {
        not_to_be_used(self.index.left_behind()?, paths)
    }

    /// What to tell where another process still has the file open that was there before.
    pub fn warning(&self, paths: &Paths) -> Result<Option<String>> {
        let Some(process) = self.file.left_behind()? else { return Ok(None) };
        Ok(Some(format!(
            "{process} still has the file open that {} was before, and shares the log of the one that is there now: restart it, then check the database (PRAGMA integrity_check)",
            paths.database.display()
        )))
    }
}

/// An error where somebody uses an index that is not that of the database any more.
pub(crate) fn not_to_be_used(by: Option<Holder>, paths: &Paths) -> Result<()> {
    let Some(process) = by else { return Ok(()) };
    Err(Error::Inconsistent {
        reason: format!(
            "{} was removed or replaced while {process} uses it: end that process, as nobody sees what it commits",
            paths.index.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::INDEX_HEADER;

    fn at(salts: u8, backfilled: u32) -> IndexHeader {
        let mut bytes = [0; INDEX_HEADER];
        bytes[12] = 1;
        bytes[32..40].fill(salts);
        let sum =
            crate::format::Checksum::default().over(&bytes[..40], cfg!(target_endian = "big"));
        bytes[40..44].copy_from_slice(&sum.0.to_ne_bytes());
        bytes[44..48].copy_from_slice(&sum.1.to_ne_bytes());
        bytes.copy_within(..48, 48);
        bytes[96..100].copy_from_slice(&backfilled.to_ne_bytes());
        IndexHeader::decode(&bytes).unwrap()
    }

    #[test]
    fn a_file_that_was_written_to_without_a_checkpoint_is_betrayed() {
        let (before, after) = (Stamp::new(10, 5, 4096), Stamp::new(10, 6, 4096));
        let quiet = Quiet { salts: Salts([1; 8]), backfilled: 7, file: before };
        for (at, file, betrayed) in [
            (at(1, 7), before, false),
            (at(1, 7), after, true),
            // The index was made anew.
            (at(1, 0), after, true),
            (at(1, 0), before, false),
            (at(1, 8), after, false),
            (at(2, 7), after, false),
        ] {
            assert_eq!(quiet.is_betrayed(at, file), betrayed, "{at:?} {file:?}");
        }
    }
}
