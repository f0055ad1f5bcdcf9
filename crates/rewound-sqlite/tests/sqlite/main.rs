//! The SQLite adapter under everything that is known to break tools of its kind.
//!
//! Every test prints its seed; `REWOUND_SEED` repeats it. `REWOUND_STORM` sets the rounds of the
//! start/stop storm.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "what is wrong in a test shows as a panic; clippy.toml reaches only into functions marked as tests"
)]

mod away;
mod follow;
#[cfg(target_os = "linux")]
mod forked;
#[cfg(target_os = "linux")]
#[path = "../../../../tests/it/forking.rs"]
mod forking;
mod identity;
mod inside;
mod log;
mod odd;
mod oracle;
mod process;
mod replace;
mod shapes;
mod storm;
mod support;
mod workload;
