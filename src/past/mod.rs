//! The past as a value: one state of a node, opened.
//!
//! Owns what a node's states are planned and opened from ([`NodeContext`]), the opened state
//! ([`PastState`]), and the run that rebuilds all of its pages ([`PastState::fill`]). Never writes
//! to the archive, and leaves no word in the audit trail: whoever opens a state for somebody does
//! that.
//!
//! Invariants: an open state stays what it is, however the archive goes on; its pages are exact or
//! an error. Layers are derived: a damaged one is done without if the others and the log suffice.
//! A crash leaves nothing but the lease, which the next sweep removes.

mod context;
mod run;
mod state;

pub(crate) use context::NodeContext;
pub(crate) use run::{Layout, RunStats, content_units, pages_per_unit, run_units};
pub(crate) use state::PastState;

#[cfg(test)]
mod tests;
