//! Whether everything is still there, intact, and rebuilds: with the key and without.
//!
//! Owns reading whole archives to find what is wrong with them. Never repairs, moves or writes
//! anything, except for the lease that keeps what it reads from being removed. [`verify_checksums`]
//! needs no key and finds rot. [`Node::verify`](crate::Node::verify) also decrypts, follows every
//! chain, and rebuilds states.
//!
//! Invariants: damage is a finding in the report, and reading continues behind it. Only what
//! prevents reading at all (a cancelled run, a full disk for temporary files) is an error. Memory
//! is bounded by the largest frame and by `ReplayOptions`.

mod catalog;
mod checksums;
mod layers;
mod log;
mod states;

use std::fmt;

pub(crate) use catalog::verify_catalog;
pub use checksums::verify_checksums;

use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::history::{SegmentRuns, runs_among};
use crate::lineage::Lineage;
use crate::options::{Cancel, ReplayOptions};
use crate::past::NodeContext;
use crate::storage::ReadStore;

/// What is verified, besides reading, decrypting and chaining every file.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub struct VerifyOptions {
    /// Whether states are rebuilt as well: the latest, and each snapshot from what comes before it.
    /// Default: yes. It costs as much as that many restores; nothing is written.
    pub rebuild: bool,
    /// How states are rebuilt, and what ends the run early.
    pub replay: ReplayOptions,
}

impl Default for VerifyOptions {
    fn default() -> VerifyOptions {
        VerifyOptions { rebuild: true, replay: ReplayOptions::default() }
    }
}

/// The progress of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// What is being done.
    pub stage: VerifyStage,
    /// The bytes of files, or of rebuilt pages, done in this stage.
    pub bytes_done: u64,
    /// All bytes of this stage.
    pub bytes_total: u64,
}

/// What a verification is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyStage {
    /// Reading files.
    Files,
    /// Rebuilding states.
    States,
}

/// What a verification read and what it found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Entries of the catalog; 0 if the catalog was not verified.
    pub catalog_entries: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Commits in them; 0 without a key.
    pub commits: u64,
    /// Layers, snapshots included.
    pub layers: u64,
    /// Parts of layers.
    pub parts: u64,
    /// Pages in the layers' parts that were compared with their CRC-32; 0 without a key.
    pub layer_pages: u64,
    /// States rebuilt.
    pub states: u64,
    /// Pages of rebuilt states that are proven, by their CRC-32, to be what the engine handed in.
    pub pages_proven: u64,
    /// Pages of rebuilt states that have no CRC-32: last changed by a byte range or a truncation.
    pub pages_unproven: u64,
    /// Segments that end in a torn tail, as a crash leaves it. This is no damage.
    pub torn_tails: u64,
    /// What is wrong, in the order found. If it is empty, everything that was read is intact.
    pub findings: Vec<Error>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }

    /// Adds another report's figures and findings.
    pub fn merge(&mut self, other: VerifyReport) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.catalog_entries += other.catalog_entries;
        self.segments += other.segments;
        self.commits += other.commits;
        self.layers += other.layers;
        self.parts += other.parts;
        self.layer_pages += other.layer_pages;
        self.states += other.states;
        self.pages_proven += other.pages_proven;
        self.pages_unproven += other.pages_unproven;
        self.torn_tails += other.torn_tails;
        other.findings.into_iter().for_each(|e| self.note(e));
    }

    /// Adds a finding, once for each place.
    fn note(&mut self, found: Error) {
        let known = self.findings.iter().any(|e| match (e, &found) {
            (Error::Damaged(a), Error::Damaged(b)) => (&a.path, a.offset) == (&b.path, b.offset),
            (a, b) => a.to_string() == b.to_string(),
        });
        if !known {
            self.findings.push(found);
        }
    }

    /// Adds another report, or notes why there is none: an error in one node must not keep the
    /// others from being verified. Returns the error that ends the run.
    pub(crate) fn take(&mut self, other: Result<VerifyReport>) -> Result<()> {
        let result = match other {
            Ok(other) => {
                self.merge(other);
                Ok(())
            }
            Err(e) => Err(e),
        };
        self.found(result)
    }

    /// Notes damage; returns an error that is not a finding but ends the run.
    fn found(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(e) if is_finding(&e) => {
                self.note(e);
                Ok(())
            }
            other => other,
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} files, {} bytes, {} commits, {} pages proven in {} states: {}",
            self.files,
            self.bytes,
            self.commits,
            self.pages_proven,
            self.states,
            if self.is_intact() {
                "intact".to_owned()
            } else {
                format!("{} findings", self.findings.len())
            }
        )
    }
}

/// Whether an error concerns the archive rather than this run. A file that cannot be read is as bad
/// as a damaged one.
fn is_finding(e: &Error) -> bool {
    !matches!(
        e.kind(),
        ErrorKind::Cancelled
            | ErrorKind::StorageFull
            | ErrorKind::KeyProvider
            | ErrorKind::Internal
    )
}

/// The progress of a run.
struct Meter<'a> {
    report: &'a mut (dyn FnMut(VerifyProgress) + Send),
    stage: VerifyStage,
    done: u64,
    total: u64,
    cancel: Cancel,
}

impl<'a> Meter<'a> {
    /// Begins a stage. `total`: the bytes that it will read, as far as they are known.
    fn new(
        report: &'a mut (dyn FnMut(VerifyProgress) + Send),
        stage: VerifyStage,
        total: u64,
        cancel: &Cancel,
    ) -> Meter<'a> {
        Meter { report, stage, done: 0, total, cancel: cancel.clone() }
    }

    /// Adds bytes to the progress; returns an error if the run was cancelled.
    fn add(&mut self, bytes: u64) -> Result<()> {
        self.cancel.check()?;
        self.done += bytes;
        // A file may grow while it is read.
        self.total = self.total.max(self.done);
        (self.report)(VerifyProgress {
            stage: self.stage,
            bytes_done: self.done,
            bytes_total: self.total,
        });
        Ok(())
    }
}

/// Verifies one node.
pub(crate) fn verify_node(
    catalog: &Catalog,
    context: &NodeContext,
    options: &VerifyOptions,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    // What it is about to read is not removed meanwhile, if the archive can be written to.
    let _lease = catalog.lease(context.node).ok();
    let mut context = context.clone();
    context.refresh(&*catalog.current()?)?;
    let timelines: Vec<NodeContext> =
        context.view().timelines().into_iter().map(|t| context.on(t)).collect();
    let mut logs = Vec::new();
    for on in &timelines {
        let own = on.log.lineage.tip();
        let segments = match on.log.all_and_doubles() {
            Ok(mut all) => {
                all.segments.retain(|(s, _)| s.line == own);
                all.doubles.into_iter().try_for_each(|double| report.found(Err(double)))?;
                runs_among(all.segments, &on.view(), &Lineage::alone(own))
            }
            Err(e) => {
                report.found(Err(e))?;
                SegmentRuns::new()
            }
        };
        logs.push((on, segments));
    }
    let log_bytes: u64 =
        logs.iter().flat_map(|(_, segments)| segments.iter().flatten()).map(|(_, len)| len).sum();
    let layer_bytes = layers::bytes(&context, &mut report)?;
    let cancel = &options.replay.cancel;
    let total = log_bytes + layer_bytes;
    let mut meter = Meter::new(progress, VerifyStage::Files, total, cancel);
    for (on, segments) in &logs {
        log::verify_log(on, segments, &mut report, &mut meter)?;
    }
    layers::verify_layers(&context, &mut report, &mut meter)?;
    if options.rebuild {
        let mut meter = Meter::new(progress, VerifyStage::States, 0, cancel);
        for on in &timelines {
            states::verify_states(on, options, &mut report, &mut meter)?;
        }
    }
    Ok(report)
}

/// Checks the checksums of a file that is about to be read with its keys. This finds every damaged
/// place, while the chain of frames ends at the first.
fn checksums_of(
    storage: &dyn ReadStore,
    path: &str,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let checked = checksums::check_file(storage, path, report, &mut |bytes| meter.add(bytes));
    report.found(checked)
}
