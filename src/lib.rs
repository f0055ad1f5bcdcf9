//! `rewound`: point-in-time recovery for database engines.

mod archive;
#[doc(hidden)]
pub mod bench_support;
mod catalog;
mod compact;
pub mod crypto;
#[doc(hidden)]
pub mod delta;
pub mod env;
pub mod error;
mod format;
mod ingest;
mod layer;
pub mod options;
mod replay;
mod sealed;
pub mod storage;
pub mod types;
mod wal;

pub use archive::{Archive, Node, Restore};
pub use catalog::{NodeRecord, RestorePointRecord};
pub use compact::MaintainReport;
pub use crypto::{KeyFile, KeyProvider, Keyring};
pub use error::{Damage, DamageKind, Error, Result};
pub use format::event::{Actor, LayerRecord, Origin};
pub use format::state::{ConfigValue, SpaceState};
pub use ingest::{BaseSpace, Batch, ConfigScope, PageSource, Writer};
pub use options::{ArchiveOptions, CompactOptions, ReplayOptions, WriterOptions};
pub use replay::{Memory, PageSink, Plan, Progress, Redo, RedoRecord, Resolved, RestoreReport, Window};
pub use types::{
    Commit, Durability, Epoch, Lsn, NodeId, PageId, PageSize, Position, SpaceId, Target, TimelineId, Timestamp,
};
