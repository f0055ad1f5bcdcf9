//! What a follower needs to know of a failure: which side it is of, and for how long waiting may
//! help.
//!
//! The rules for the archive's side are here, as they are the same for every database.

use std::io;
use std::time::Duration;

/// How long another follower, or another writer of the node, is waited for to end.
pub const HANDING_OVER: Duration = Duration::from_secs(1);

/// When a failure came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before a follower has attached: what looks like a mistake in how it was called is one.
    Starting,
    /// It worked before.
    Running,
}

impl Stage {
    /// `for_so_long` where it worked before, else not at all.
    #[must_use]
    pub fn worked_before(self, for_so_long: Duration) -> Duration {
        match self {
            Stage::Starting => Duration::ZERO,
            Stage::Running => for_so_long,
        }
    }
}

/// What failed, and so what has to be taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The archive. The database stays attached, and keeps what the archive does not have.
    Archive,
    /// The database, or what was known of it. Both are taken again.
    Source,
}

/// A failure of a [`Source`](crate::Source).
pub trait Failure: std::error::Error + From<rewound::Error> {
    /// For how long it is tried again after it: not at all ([`Duration::ZERO`]), for a while, or
    /// for ever ([`Duration::MAX`]).
    fn patience(&self, stage: Stage) -> Duration;

    /// What failed.
    fn side(&self) -> Side;
}

impl Failure for rewound::Error {
    fn patience(&self, stage: Stage) -> Duration {
        use rewound::Error;
        match self {
            Error::Storage { source, .. } if is_a_mistake(source.kind()) => {
                stage.worked_before(Duration::MAX)
            }
            Error::Displaced { .. } => stage.worked_before(Duration::MAX),
            Error::Storage { .. }
            | Error::DiskFull { .. }
            | Error::Poisoned { .. }
            | Error::KeyProvider { .. }
            | Error::ClockImplausible { .. }
            | Error::PreviousImageMismatch { .. } => Duration::MAX,
            Error::WriterActive { .. } => HANDING_OVER,
            _ => Duration::ZERO,
        }
    }

    fn side(&self) -> Side {
        match self {
            // The database is not what the archive was told that it is.
            rewound::Error::PreviousImageMismatch { .. } => Side::Source,
            _ => Side::Archive,
        }
    }
}

/// Whether the system refuses what it would refuse again, as the program was started as the wrong
/// user or with the wrong path.
fn is_a_mistake(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn storage(kind: io::ErrorKind) -> rewound::Error {
        rewound::Error::Storage {
            operation: "open",
            path: "x".into(),
            source: Arc::new(kind.into()),
        }
    }

    #[test]
    fn waiting_is_for_what_it_may_mend() {
        let (never, ever) = (Duration::ZERO, Duration::MAX);
        let node = || "app".to_owned();
        for (failure, starting, running) in [
            (rewound::Error::DiskFull { operation: "write", path: "x".into() }, ever, ever),
            (storage(io::ErrorKind::TimedOut), ever, ever),
            (storage(io::ErrorKind::PermissionDenied), never, ever),
            (storage(io::ErrorKind::NotFound), never, ever),
            (rewound::Error::Displaced { path: "x".into(), found: "y".into() }, never, ever),
            (rewound::Error::WriterActive { node: node() }, HANDING_OVER, HANDING_OVER),
            (rewound::Error::Fenced { node: node() }, never, never),
            (rewound::Error::Cancelled, never, never),
        ] {
            assert_eq!(failure.patience(Stage::Starting), starting, "{failure}");
            assert_eq!(failure.patience(Stage::Running), running, "{failure}");
            assert_eq!(failure.side(), Side::Archive, "{failure}");
        }
    }

    #[test]
    fn a_previous_image_that_does_not_match_is_of_the_database() {
        let page = rewound::PageId::new(rewound::SpaceId::default(), 1);
        let failure = rewound::Error::PreviousImageMismatch { page, expected: 1, found: 2 };
        assert_eq!(
            (failure.side(), failure.patience(Stage::Running)),
            (Side::Source, Duration::MAX)
        );
    }
}
