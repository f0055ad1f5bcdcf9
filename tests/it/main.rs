//! All integration tests, as one binary.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at whatever it does not expect"
)]

mod basic;
mod logical;
mod model;
mod restore_targets;
mod support;
