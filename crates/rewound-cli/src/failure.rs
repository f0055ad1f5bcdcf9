//! What went wrong, as its exit code, and what to do next.

use std::fmt;
use std::io;

use anstyle::{AnsiColor, Style};
use rewound::{Error, ErrorKind};
use rewound_sqlite as sqlite;

use crate::output::message;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The library said so.
    Archive(Error),
    /// The SQLite adapter said so.
    Sqlite(sqlite::Error),
    /// The arguments make no sense.
    Arguments(Box<clap::Error>),
    /// Something typed makes no sense.
    Usage(String),
    /// No key was given.
    NoKey(String),
    /// Damage was found and has been listed.
    Damage(usize),
    /// Anything else.
    Other(String),
    /// Interrupted, and something was left behind.
    Interrupted(String),
    /// Nobody reads our output any more.
    OutputClosed,
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// The exit code, as `docs/cli.md` lists them.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Archive(e) | Failure::Sqlite(sqlite::Error::Archive(e)) => {
                archive_code(e.kind())
            }
            Failure::Sqlite(sqlite::Error::AlreadyWatched { .. } | sqlite::Error::InUse { .. }) => {
                6
            }
            Failure::Sqlite(_) | Failure::Other(_) => 1,
            Failure::Arguments(_) | Failure::Usage(_) => 2,
            Failure::Damage(_) => 4,
            Failure::NoKey(_) => 5,
            Failure::Interrupted(_) => 130,
            Failure::OutputClosed => 0,
        }
    }

    /// What to do next, where the message itself does not say it in the words of the command line.
    fn advice(&self) -> Option<&'static str> {
        let e = match self {
            Failure::Archive(e) | Failure::Sqlite(sqlite::Error::Archive(e)) => e,
            Failure::Sqlite(sqlite::Error::NotWal { .. }) => return Some("or give --enable-wal"),
            Failure::Sqlite(sqlite::Error::WrongNode { database: Some(_), .. }) => {
                return Some(
                    "--node NAME gives it a node of its own; --adopt lets it take the other's place",
                );
            }
            _ => return None,
        };
        Some(match e {
            Error::Unrecorded { .. } => {
                "make room or give write access; or restore with --unaudited, which leaves no word in the audit trail"
            }
            Error::NoArchive { .. } => "create one with `rewound init`, or check --archive",
            Error::BeforeWindow { .. } | Error::AfterDurableEnd { .. } => {
                "`rewound info` shows what can be restored"
            }
            Error::TargetNotFound { .. } => "`rewound info` lists the restore points",
            Error::TargetNotEmpty { .. } => {
                "choose another --output; --replace puts the state in the place of a SQLite database, --delta rewrites what differs in a file of the database's own name, or in a directory"
            }
            Error::WrongKey { .. } => {
                "give the key that the archive was created with, or its recovery key"
            }
            Error::Damaged(_) | Error::Gap { .. } => {
                "`rewound verify` lists all damage; an earlier or later moment may be whole"
            }
            Error::Deleted { .. } => "`rewound undelete` takes it back",
            Error::Locked { .. } => {
                "`rewound retention` shows the locks, `rewound unlock` releases one"
            }
            Error::Held { .. }
            | Error::NoSuchLock { .. }
            | Error::LockExists { .. }
            | Error::NoSuchHold { .. }
            | Error::HoldExists { .. } => {
                "`rewound retention` shows locks and holds, with what they are on"
            }
            Error::ClockImplausible { .. } => {
                "look at the clock; if it is right, `rewound sweep --confirm-clock` says so"
            }
            Error::AttestationMismatch { .. } => {
                "an older copy was put back, or entries were rewritten: do not rely on what it says, and look for who did it"
            }
            Error::WriterActive { .. } => "a watcher is at work on this node: stop it first",
            Error::NoSuchNode { .. } => "`rewound info` lists the nodes",
            Error::RedoRequired { .. } => {
                "only the engine itself can restore this node: use the library's Redo"
            }
            Error::FormatTooNew { .. } => "install a newer release of rewound",
            _ => return None,
        })
    }

    /// Says so on standard error.
    pub fn report(&self) {
        if let Failure::Arguments(e) = self {
            return message!("{}", e.render().ansi().to_string().trim_end());
        }
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        message!("{red}error:{red:#} {self}");
        if let Some(advice) = self.advice() {
            let bold = Style::new().bold();
            message!("{bold}hint:{bold:#} {advice}");
        }
    }
}

fn archive_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Input => 2,
        ErrorKind::Target => 3,
        ErrorKind::Damage => 4,
        ErrorKind::Key | ErrorKind::KeyProvider => 5,
        ErrorKind::Busy | ErrorKind::Superseded => 6,
        ErrorKind::Cancelled => 130,
        _ => 1,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The library's words are for programmers here.
            Failure::Archive(Error::NoArchive { path, .. }) => {
                write!(f, "no archive at {}", path.display())
            }
            Failure::Archive(Error::ArchiveExists { path, .. }) => {
                write!(f, "{} holds an archive already: choose an empty place", path.display())
            }
            Failure::Archive(Error::ClockImplausible { clock, what, expected, .. }) => {
                write!(
                    f,
                    "the clock says {clock}, {what} says {expected}: too far apart to let anything expire"
                )
            }
            Failure::Archive(Error::Cancelled) => {
                f.write_str("interrupted: nothing was left behind")
            }
            Failure::Archive(Error::TargetNotEmpty { path, .. }) => {
                write!(f, "{} is there already", path.display())
            }
            // What failed is ours: a query, a database that is not one.
            Failure::Archive(Error::Host { source, .. }) => source.fmt(f),
            Failure::Archive(e) => e.fmt(f),
            Failure::Arguments(e) => e.fmt(f),
            Failure::Sqlite(e) => e.fmt(f),
            Failure::Damage(1) => f.write_str("damage found in 1 place, listed above"),
            Failure::Damage(n) => write!(f, "damage found in {n} places, listed above"),
            Failure::Usage(text)
            | Failure::NoKey(text)
            | Failure::Interrupted(text)
            | Failure::Other(text) => f.write_str(text),
            Failure::OutputClosed => f.write_str("output closed"),
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Archive(e)
    }
}

impl From<sqlite::Error> for Failure {
    fn from(e: sqlite::Error) -> Failure {
        Failure::Sqlite(e)
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output: everything else says what it was doing.
    fn from(e: io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(format!("writing to standard output: {e}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Failure {
        Failure::from(io::Error::from(e))
    }
}
