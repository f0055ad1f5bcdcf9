//! `rewound` makes a database engine rewindable: every commit goes into an append-only,
//! encrypted log, and the exact state of the engine's pages comes back as of **any commit**
//! or time inside the retention window.
//!
//! ```text
//! engine ──► Batch ──► Writer ──► segments: every commit, encrypted, chained     ─┐
//!                                     │                                           ├──► Restore ──► directory,
//!                                 maintain ──► layers, snapshots: cheap replay   ─┘                file, sink
//! ```
//!
//! # Five minutes
//!
//! ```
//! use rewound::{Archive, Durability, KeyFile, Origin, PageId, PageSize, Target};
//!
//! # fn main() -> rewound::Result<()> {
//! # let dir = tempfile::tempdir().map_err(rewound::Error::host)?;
//! # let dir = dir.path();
//! let key = KeyFile::generate(dir.join("app.key"))?;
//! let archive = Archive::create(dir.join("app.archive"), key)?;
//! let node = archive.create_node("shard-0", Origin::Empty)?;
//! let writer = node.open_writer()?;
//!
//! // A commit: any changes, atomic, durable when it returns.
//! let mut batch = writer.batch();
//! let main = batch.create_space("main.db", PageSize::KIB_4)?;
//! let first = vec![1; 4096];
//! batch.write_page(PageId::new(main, 0), &first, None)?;
//! let before = batch.commit(Durability::Synced)?;
//!
//! // The next one gives the image it replaces: the log holds a patch of some bytes.
//! let mut batch = writer.batch();
//! let mut second = first.clone();
//! second[100] = 2;
//! batch.write_page(PageId::new(main, 0), &second, Some(&first))?;
//! let accident = batch.commit(Durability::Synced)?;
//!
//! // Back to just before it.
//! let report = node.restore(Target::BeforeTime(accident.timestamp)).into_dir(dir.join("restored"))?;
//! assert_eq!(report.lsn, before.lsn);
//! assert_eq!(std::fs::read(dir.join("restored/main.db")).map_err(rewound::Error::host)?, first);
//! # writer.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What to call
//!
//! | to | use |
//! |---|---|
//! | create or open an archive | [`Archive::create`], [`Archive::open`], with a [`KeyFile`] or a [`KeyProvider`] of your own |
//! | log commits | [`Node::open_writer`], [`Writer::batch`], [`Batch::commit`] |
//! | archive an engine that has content already | [`Origin::Existing`], [`Writer::base_snapshot`] |
//! | restore | [`Node::restore`] and a [`Target`], then [`Restore::into_dir`] and its siblings |
//! | keep restores fast | [`Node::maintain`], from time to time |
//! | know what can be restored | [`Node::window`], [`Node::resolve`] |
//! | see what happened | [`Node::commits`], [`Node::activity`], [`Node::diff`], [`Node::bisect`] |
//! | name a commit afterwards | [`Node::add_restore_point`] |
//! | prove that all is whole | [`Archive::verify`]; without a key [`verify_checksums`] |
//! | keep history for so long and no longer | [`Archive::administrator`], [`Policy`], [`Administrator::sweep`] once a day |
//! | protect it from deletion | [`Administrator::lock`], [`Administrator::hold`] |
//! | restore in somebody's name | [`Archive::restorer`] |
//! | see who did what, and prove it | [`Archive::audit`], [`Archive::verify_audit`], [`Archive::attestation`] |
//! | decide what to do about an error | [`Error::kind`] |
//! | log what only the engine can replay | [`Batch::log_record`], [`Redo`] |
//!
//! # Guarantees
//!
//! - A commit acknowledged as [`Durability::Synced`] survives a power failure, and so does every
//!   commit before it.
//! - A restore gives exactly the commit that its target names, or an error; never silently an
//!   earlier state.
//! - Every restored page is compared with the CRC-32 of the image that the engine handed in.
//! - Everything stored is encrypted and authenticated with AES-256-GCM; that cannot be turned off.
//! - No call overwrites or changes what was written, and nothing is removed but by a retention
//!   policy, after a grace period.
//! - What is restored, changed or removed is on record in a hash-chained, authenticated trail.
//!
//! Their limits are in the threat model (`docs/threat-model.md` in the repository); how it works in
//! `docs/architecture.md`.

mod archive;
mod audit;
#[doc(hidden)]
pub mod bench_support;
mod catalog;
mod compact;
mod compare;
pub mod crypto;
#[doc(hidden)]
pub mod delta;
pub mod env;
pub mod error;
mod format;
mod history;
mod ingest;
mod layer;
mod lineage;
mod names;
pub mod options;
mod past;
mod replay;
mod retention;
mod sealed;
pub mod storage;
mod sync;
pub mod types;
mod verify;
mod wal;

pub use archive::{
    Administrator, Archive, DELETION_GRACE, FileCount, HoldTarget, Node, NodeFiles,
    RestorableRange, Restore, Restorer, Scope,
};
pub use audit::{Attestation, Audit, AuditEntry};
pub use catalog::{
    ClockMark, Expiring, Hold, NodeRecord, NodeRetention, PolicyChange, RestorePointRecord,
};
pub use compact::MaintainReport;
pub use compare::{Bisection, Diff, Probe, SpaceDiff};
pub use crypto::{KeyFile, KeyProvider, Keyring};
pub use error::{Damage, DamageKind, Error, ErrorKind, Result};
pub use format::event::{Actor, LayerRecord, Origin};
pub use format::retention::{Deletion, HoldScope, Mode, Policy, Span, TimelineExpiry};
pub use format::state::{ConfigValue, SpaceState};
pub use history::{Activity, ActivityOptions, Annotation, Bucket, CommitInfo, Commits, Gap};
pub use ingest::{BaseSpace, Batch, ConfigScope, Consistency, PageSource, Writer};
pub use options::{ArchiveOptions, CompactOptions, ReplayOptions, WriterOptions};
pub use replay::{PageSink, Plan, Progress, Redo, RedoRecord, Resolved, RestoreReport, Window};
pub use retention::{
    Blocked, ExpiryPlan, KeptSpan, NodeSweep, NodeUsage, Reason, RequiredSnapshot, SweepOptions,
    SweepReport, Usage,
};
pub use types::{
    Commit, Durability, Epoch, Lsn, NodeId, PageId, PageSize, Position, SpaceId, Target,
    TimelineId, Timestamp,
};
pub use verify::{VerifyOptions, VerifyProgress, VerifyReport, VerifyStage, verify_checksums};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
