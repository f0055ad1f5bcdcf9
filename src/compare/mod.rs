//! Two moments side by side: which pages differ, and which commit made a difference.
//!
//! Owns comparing states of one node with each other. Reads; writes nothing.

mod bisect;
mod diff;

pub(crate) use bisect::bisect;
pub use bisect::{Bisection, Probe};
pub(crate) use diff::diff;
pub use diff::{Diff, SpaceDiff};
