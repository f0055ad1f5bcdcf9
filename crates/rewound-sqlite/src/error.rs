//! What can go wrong between a SQLite database and its archive.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rewound_follow::{Failure, HANDING_OVER, Side, Stage};

/// The result of everything in this adapter that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a database cannot be watched.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no database at this place.
    #[error("no database at {path}: check the path (the watcher never creates one)")]
    NoDatabase {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is not a SQLite database.
    #[error("{path} is not a SQLite database: {reason}")]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database does not use a write-ahead log.
    #[error(
        "{path} is not in WAL mode: run `PRAGMA journal_mode=WAL` on it once (SQLite remembers it), or let the watcher do so (WatchOptions::enable_wal)"
    )]
    NotWal {
        /// The database.
        path: PathBuf,
    },
    /// Another watcher protects the database.
    #[error(
        "{path} is watched already: stop the other watcher first (only one per database at a time)"
    )]
    AlreadyWatched {
        /// The database.
        path: PathBuf,
    },
    /// Somebody has the database open, where a restore needs it alone.
    #[error(
        "{path} is in use: stop the application, the watcher and whatever else has it open, then restore again (nothing was written)"
    )]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The log of another database lies beside the place of a restore.
    #[error(
        "{log} lies where SQLite would play it into what is restored: close whatever uses it, move it away, and restore again"
    )]
    Leftover {
        /// The log.
        log: PathBuf,
    },
    /// A file cannot be written to in place.
    #[error("{path} cannot be replaced: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A replacement failed, and what the database was is not back yet.
    #[error(
        "{failure}; {path} is half replaced until SQLite opens it the next time: then {path}-journal brings back what it was (do not remove that file)"
    )]
    HalfReplaced {
        /// The database.
        path: PathBuf,
        /// What failed.
        failure: Box<Error>,
    },
    /// Somebody holds the database for themselves.
    #[error("{path} is locked: {reason}")]
    Locked {
        /// The database.
        path: PathBuf,
        /// By what, as far as that can be told, and what to do.
        reason: String,
    },
    /// The node of the archive belongs to something else.
    #[error("node {node:?} of the archive does not fit this database: {reason}")]
    WrongNode {
        /// The node.
        node: String,
        /// Why not, and what to do.
        reason: String,
        /// The database that it belongs to, where that is on record.
        database: Option<PathBuf>,
    },
    /// The database's files contradict each other, or what was known of them: they were replaced,
    /// or written by something else than SQLite. The watcher attaches again and compares.
    #[error("{reason}")]
    Inconsistent {
        /// What was found.
        reason: String,
    },
    /// SQLite reported an error.
    #[error("SQLite, {operation} {path}: {message}")]
    Sqlite {
        /// What was tried.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        message: String,
    },
    /// An operation on one of the database's files failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The archive refused or failed.
    #[error("archive: {0}")]
    Archive(#[from] rewound::Error),
}

/// How long a running watcher waits for a database that is not there, or is none, to come back: it
/// may be about to be replaced.
const MISSING: Duration = Duration::from_secs(30);

impl Error {
    /// Whether waiting can mend it, as with a full disk: what [`Watcher::run`](super::Watcher::run)
    /// tries again after for ever, also where it has never worked.
    pub fn may_pass(&self) -> bool {
        self.patience(Stage::Starting) == Duration::MAX
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Error {
        Error::Io { operation, path: path.into(), source: Arc::new(source.into()) }
    }
}

impl Failure for Error {
    fn patience(&self, stage: Stage) -> Duration {
        match self {
            Error::Archive(e) => e.patience(stage),
            Error::AlreadyWatched { .. } => HANDING_OVER,
            Error::NoDatabase { .. } | Error::NotADatabase { .. } | Error::NotWal { .. } => {
                stage.worked_before(MISSING)
            }
            Error::Sqlite { .. } | Error::Io { .. } => stage.worked_before(Duration::MAX),
            Error::Locked { .. } | Error::Inconsistent { .. } => Duration::MAX,
            // All but the first are what a restore in place meets, not a watcher.
            Error::WrongNode { .. }
            | Error::InUse { .. }
            | Error::Leftover { .. }
            | Error::Refused { .. }
            | Error::HalfReplaced { .. } => Duration::ZERO,
        }
    }

    fn side(&self) -> Side {
        match self {
            Error::Archive(e) => e.side(),
            _ => Side::Source,
        }
    }
}
