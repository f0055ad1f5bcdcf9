//! Continuous protection of a live SQLite database, exact to the commit.
//!
//! A [`Watcher`] follows the write-ahead log of a database that other processes write, and archives
//! each of their transactions as a commit of its own, with its own LSN and the time at which it was
//! seen. The application needs no change; the database has to be in WAL mode (`PRAGMA
//! journal_mode=WAL`, which SQLite remembers in the file).
//!
//! ```no_run
//! use rewound::{Archive, KeyFile, Origin};
//! use rewound_sqlite::{WatchOptions, Watcher};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let archive = Archive::create("app.archive", KeyFile::generate("app.key")?)?;
//! let node = archive.create_node("app", Origin::Existing)?;
//! let mut watcher = Watcher::open(&node, "app.db", WatchOptions::default())?;
//! let handle = watcher.handle(); // For another thread: status, stop.
//! watcher.run()?; // Until `handle.stop()`.
//! # drop(handle);
//! # Ok(())
//! # }
//! ```
//!
//! [`backup`] is the same for once: it brings the archive up to now and leaves. [`Attached`] is for
//! programs that make a node only for what can be watched. [`replace`] puts a restored state in the
//! place of the database.
//!
//! It never writes to the database's content but in [`replace`], with everybody else locked out,
//! and uses the public API of [`rewound`] alone. A crash leaves the archive as of the last commit
//! that was acknowledged; the next watcher goes on from there, and compares where the log does not
//! prove that it can.
//!
//! How it follows a log, what it promises and what each [`Event`] means is in `docs/sqlite.md` in
//! the repository.

mod alone;
mod archivist;
mod checkpointer;
mod compare;
mod error;
mod files;
mod format;
mod held;
mod identity;
mod link;
mod live;
mod locks;
mod log;
mod mark;
mod options;
mod parting;
mod pin;
mod replace;
mod source;
mod status;
mod wake;
mod watcher;

pub use alone::Alone;
pub use error::{Error, Result};
pub use identity::{database_of, name_of};
pub use options::WatchOptions;
pub use replace::{database_restored, replace};
pub use rewound_follow::{Event, State};
pub use status::{Handle, Status};
pub use watcher::{Attached, Watcher, backup};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
