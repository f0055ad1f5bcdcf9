//! From an engine's changes to durable commits.
//!
//! Owns batches, the page versions that patches are made against, group commit and the
//! writer's tenure. Never reads the log, but for recovery when a writer opens.
//!
//! Data goes one way, and so do the files here: `batch` fills a `draft` and its `ops`; `commit`
//! checks it against what is `known` and admits it to the `queue`; `lead`, at the pace of `pace`,
//! hands what is pending to the `tail`. None of them looks back.
//!
//! Invariants: a patch is logged only against a version that this writer itself logged and
//! whose CRC-32 the given previous image matches; LSN and timestamp are given in the order of the
//! log; nothing is acknowledged before it is as durable as was asked; after a failed
//! write or sync nothing is accepted any more. A crash loses commits that were not
//! acknowledged as synced, from the newest backwards.

mod base;
mod batch;
mod commit;
mod draft;
mod known;
mod lead;
mod ops;
mod pace;
mod pages;
mod place;
mod queue;
mod tail;
mod tenure;
mod writer;

pub use base::{BaseSpace, Consistency, PageSource};
pub use batch::{Batch, ConfigScope};
pub(crate) use writer::OpenWriter;
pub use writer::Writer;
