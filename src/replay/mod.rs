//! From the archive back to the exact state of a node.
//!
//! Owns what a target means ([`resolve`]), which files it takes ([`plan`], pure), and how pages
//! are rebuilt from them in bounded memory ([`rebuild`]). Never writes
//! the log or the catalog.
//!
//! Invariants: a target gives exactly its commit or an error; each page is
//! compared with the CRC-32 that the engine's own image had.

mod files;
mod gather;
mod plan;
mod rebuild;
mod redo;
mod resolve;
mod run;
mod sink;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use files::{DeltaDir, NewDir, NewFiles, check_space};
pub(crate) use gather::collect;
pub use plan::Plan;
pub(crate) use plan::{PlanInput, chain, plan};
pub(crate) use rebuild::{Page, PageSet, Parts, Rebuilder, Sources};
pub use redo::{Redo, RedoRecord};
pub(crate) use redo::{records_from, replay_records};
pub(crate) use resolve::{
    LogEnd, commit_time, log_end, lost_beginning, newest_commit, position_by, readable_end,
    resolve, window,
};
pub use resolve::{Resolved, Window};
pub(crate) use sink::Memory;
pub use sink::{PageSink, Progress, RestoreReport};
pub(crate) use tail::Tail;
