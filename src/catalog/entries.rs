//! Entries one by one: for the audit trail, and for what the fold does not keep.

use super::Catalog;
use crate::error::Result;
use crate::format::event::CatalogEntry;
use crate::names::entry_path;

impl Catalog {
    /// An entry, with its link to the one before and its own digest.
    pub fn entry(&self, sequence: u64) -> Result<(CatalogEntry, [u8; 32], [u8; 32])> {
        self.read_entry(sequence, &entry_path(sequence))
    }

    /// Number and digest of the newest entry.
    pub fn head(&self) -> Result<(u64, [u8; 32])> {
        let state = self.current()?;
        Ok((state.entries, state.head))
    }
}
