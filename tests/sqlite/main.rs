//! The SQLite adapter under everything that is known to break tools of its kind.
//!
//! Every test prints its seed; `REWOUND_SEED` repeats it. `REWOUND_STORM` sets the rounds of the start/stop storm.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests stop at a surprise")]
#![allow(missing_docs, reason = "no API")]

mod follow;
mod odd;
mod oracle;
mod process;
mod shapes;
mod storm;
mod support;
mod workload;
