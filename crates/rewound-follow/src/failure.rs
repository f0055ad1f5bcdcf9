//! What a follower needs to know of a failure: which side it is of, and for how long waiting may
//! help.
//!
//! The rules for the archive's side are here, as they are the same for every database.

use std::time::Duration;

use rewound::ErrorKind;

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

/// For how long a failure of the archive is waited out: waiting may help, or what worked before may
/// work again.
#[must_use]
pub fn patience(kind: ErrorKind, stage: Stage) -> Duration {
    match kind {
        ErrorKind::Retry
        | ErrorKind::KeyProvider
        | ErrorKind::StorageFull
        | ErrorKind::Reopen
        | ErrorKind::Stale
        | ErrorKind::Clock => Duration::MAX,
        ErrorKind::Access => stage.worked_before(Duration::MAX),
        ErrorKind::Busy => HANDING_OVER,
        _ => Duration::ZERO,
    }
}

impl Failure for rewound::Error {
    fn patience(&self, stage: Stage) -> Duration {
        patience(self.kind(), stage)
    }

    fn side(&self) -> Side {
        match self.kind() {
            // The database is not what the archive was told that it is.
            ErrorKind::Stale => Side::Source,
            _ => Side::Archive,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn storage(kind: io::ErrorKind) -> rewound::Error {
        rewound::Error::io("open", "x", kind.into())
    }

    #[test]
    fn waiting_is_for_what_it_may_mend() {
        let (never, ever) = (Duration::ZERO, Duration::MAX);
        for (kind, starting, running) in [
            (storage(io::ErrorKind::StorageFull).kind(), ever, ever),
            (storage(io::ErrorKind::TimedOut).kind(), ever, ever),
            (storage(io::ErrorKind::PermissionDenied).kind(), never, ever),
            (storage(io::ErrorKind::NotFound).kind(), never, ever),
            (ErrorKind::Reopen, ever, ever),
            (ErrorKind::Stale, ever, ever),
            (ErrorKind::Clock, ever, ever),
            (ErrorKind::Busy, HANDING_OVER, HANDING_OVER),
            (ErrorKind::Superseded, never, never),
            (ErrorKind::Damage, never, never),
            (ErrorKind::Misuse, never, never),
            (rewound::Error::Cancelled.kind(), never, never),
        ] {
            assert_eq!(patience(kind, Stage::Starting), starting, "{kind:?}");
            assert_eq!(patience(kind, Stage::Running), running, "{kind:?}");
        }
    }

    #[test]
    fn what_is_stale_is_taken_from_the_database_again() {
        assert_eq!(rewound::Error::BatchBroken.side(), Side::Source);
        assert_eq!(storage(io::ErrorKind::TimedOut).side(), Side::Archive);
    }
}
