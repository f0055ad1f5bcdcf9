//! The audit trail: the catalog read as a log of who did what.
//!
//! Owns how entries are formatted and how their chain is proven. Writes nothing: every event is in
//! the catalog already, hash-chained and authenticated. An [`Attestation`] kept elsewhere proves
//! later that nothing was taken back.

mod attestation;
mod tell;

use std::fmt;
use std::io::Write;
use std::sync::Arc;

pub use attestation::Attestation;

use crate::catalog::Catalog;
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{Actor, Event};
use crate::types::Timestamp;

/// One entry of the audit trail.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its number, starting with 1.
    pub sequence: u64,
    /// When it was written, by the writer's clock.
    pub time: Timestamp,
    /// Who caused it, and why.
    pub actor: Actor,
    /// SHA-256 of its file, which the next entry holds.
    pub digest: [u8; 32],
    event: Event,
}

impl AuditEntry {
    /// What happened, as one word: `restore-started`, `retention-changed`.
    pub fn kind(&self) -> &'static str {
        tell::tell(&self.event).0
    }

    /// Its details, by name.
    pub fn details(&self) -> Vec<(&'static str, String)> {
        tell::tell(&self.event)
            .1
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect()
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let (kind, details) = tell::tell(&self.event);
        tell::json(self, kind, &details)
    }
}

impl fmt::Display for AuditEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, details) = tell::tell(&self.event);
        write!(f, "{:>6} {} {kind}", self.sequence, self.time)?;
        details.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        match (self.actor.name.as_str(), self.actor.reason.as_str()) {
            ("", "") => Ok(()),
            (name, "") => write!(f, " by {name:?}"),
            (name, reason) => write!(f, " by {name:?}: {reason:?}"),
        }
    }
}

/// The entries in order, each proven to follow the one before. Ends at the entry that was the
/// newest when the iteration began, or at the first that cannot be read.
#[derive(Debug)]
pub struct Audit {
    catalog: Arc<Catalog>,
    next: u64,
    last: u64,
    /// The digest of the entry before, if known.
    before: Option<[u8; 32]>,
}

impl Audit {
    pub(crate) fn new(catalog: &Arc<Catalog>, from: u64) -> Result<Audit> {
        let last = catalog.head()?.0;
        let before = (from <= 1).then_some([0; 32]);
        Ok(Audit { catalog: Arc::clone(catalog), next: from.max(1), last, before })
    }

    /// Writes the entries as lines of JSON; returns how many. For another archive, or for a
    /// monitoring system.
    pub fn write_json(self, out: &mut dyn Write) -> Result<u64> {
        let mut count = 0;
        for entry in self {
            writeln!(out, "{}", entry?.to_json())
                .map_err(|e| Error::io("write", "the audit trail", e))?;
            count += 1;
        }
        Ok(count)
    }

    /// The number of the newest entry when the iteration began, which is also the number of entries
    /// then.
    pub fn newest(&self) -> u64 {
        self.last
    }

    fn read(&self, sequence: u64) -> Result<AuditEntry> {
        let (entry, link, digest) = self.catalog.entry(sequence)?;
        if let Some(before) = self.before.filter(|b| *b != link) {
            let path = format!("catalog entry {sequence}");
            let hex = |bytes: &[u8; 32]| attestation::hex(bytes);
            let what = "link to the entry before";
            return Err(Error::damage(
                DamageKind::Chain,
                path,
                128,
                what,
                hex(&before),
                hex(&link),
            ));
        }
        Ok(AuditEntry {
            sequence,
            time: entry.time,
            actor: entry.actor,
            digest,
            event: entry.event,
        })
    }
}

impl Iterator for Audit {
    type Item = Result<AuditEntry>;

    fn next(&mut self) -> Option<Result<AuditEntry>> {
        if self.next > self.last {
            return None;
        }
        let entry = self.read(self.next);
        match &entry {
            Ok(read) => {
                self.before = Some(read.digest);
                self.next += 1;
            }
            Err(_) => self.next = u64::MAX,
        }
        Some(entry)
    }
}

/// Reads every entry from a number on, and proves that each follows the one before, up to the
/// newest, whose digest must be the one that the open archive has.
pub(crate) fn verify(catalog: &Arc<Catalog>, from: u64) -> Result<(u64, [u8; 32])> {
    let mut last = (0, [0; 32]);
    for entry in Audit::new(catalog, from)? {
        let entry = entry?;
        last = (entry.sequence, entry.digest);
    }
    let (head, digest) = catalog.head()?;
    // If entries were added meanwhile, the head is later than the last entry read, and the chain
    // alone is checked.
    if head == last.0 && digest != last.1 {
        let path = format!("catalog entry {head}");
        let (expected, found) = (attestation::hex(&digest), attestation::hex(&last.1));
        return Err(Error::damage(DamageKind::Chain, path, 0, "newest entry", expected, found));
    }
    Ok(last)
}
