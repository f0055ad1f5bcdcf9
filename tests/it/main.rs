//! All integration tests, as one binary.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "what is wrong in a test shows as a panic; clippy.toml reaches only into functions marked as tests"
)]

mod architecture;
mod basic;
mod catalog;
#[cfg(feature = "aws-lc")]
mod ciphers;
mod crash;
mod damage;
mod errors;
mod faulty;
#[cfg(target_os = "linux")]
mod fork;
#[cfg(target_os = "linux")]
mod forking;
mod golden;
mod history;
mod hostile;
mod ledger;
mod logical;
mod mapped;
mod misplaced;
mod model;
mod place;
mod reads;
mod restore_targets;
mod retention;
mod snapshots;
mod spaces;
#[cfg(feature = "test-util")]
mod stores;
mod support;
mod tenure;
mod users;
mod verify;
