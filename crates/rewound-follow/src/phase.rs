//! The phases of a follower, and how it gets from one to the next.
//!
//! A transition consumes a phase and returns the next one, or the failure with the phase that it
//! leaves.
//!
//! Invariants: what is held on each side is in exactly one place, the phase. The archive is given
//! up before the database is let go, which keeps what the archive does not have.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Side};
use crate::report::{Report, State};
use crate::source::Source;

/// Where a follower stands, with all that it holds there.
pub(crate) enum Phase<S: Source> {
    /// Nothing is held: before the first attempt, while the database is waited for, and after the
    /// end, as the follower may be used again.
    Away(S::Away),
    /// The database is attached to; the archive is not open.
    Attached(S::Link),
    /// Both are held. Whether the one goes on where the other ends is not known yet.
    Joined(S::Link, S::Archive),
    /// The archive has everything up to the last round.
    Following {
        link: S::Link,
        archive: S::Archive,
        /// When it was last looked whether files still are what they were; `None` before the first
        /// time.
        checked: Option<Instant>,
    },
}

/// A failure, and the phase that it leaves.
pub(crate) struct Failed<S: Source> {
    pub phase: Phase<S>,
    pub error: S::Error,
}

type Step<S, T = Phase<S>> = Result<T, Failed<S>>;

/// What transitions work with.
pub(crate) struct Desk<'a, S: Source> {
    pub source: &'a mut S,
    pub report: &'a mut Report<S::Details>,
}

impl<S: Source> Phase<S> {
    /// Takes what is not held: the database, and then, as that keeps its log, the archive.
    pub fn join(self, desk: &mut Desk<'_, S>) -> Step<S> {
        match self {
            Phase::Away(away) => match desk.source.attach(away, desk.report) {
                Ok(link) => {
                    desk.report.status.state = State::Starting;
                    Phase::Attached(link).join(desk)
                }
                Err((away, error)) => Err(Failed { phase: Phase::Away(away), error }),
            },
            Phase::Attached(mut link) => match desk.source.open(&mut link, desk.report) {
                Ok(archive) => {
                    desk.report.status.state = State::Starting;
                    Ok(Phase::Joined(link, archive))
                }
                Err(error) => Err(desk.fall(link, error)),
            },
            both @ (Phase::Joined(..) | Phase::Following { .. }) => Ok(both),
        }
    }

    /// One round: gets to where it follows, if it does not, and archives what there is. `interval`:
    /// how often files are looked at.
    pub fn round(
        self,
        desk: &mut Desk<'_, S>,
        now: Instant,
        interval: Duration,
    ) -> Step<S, (Phase<S>, u64)> {
        let (mut link, mut archive, checked) = match self {
            Phase::Following { link, archive, checked } => (link, archive, checked),
            Phase::Joined(mut link, mut archive) => {
                if let Err(error) = desk.source.begin(&mut link, &mut archive, desk.report) {
                    drop(archive);
                    return Err(desk.fall(link, error));
                }
                desk.report.status.state = State::Following;
                (link, archive, None)
            }
            less @ (Phase::Away(_) | Phase::Attached(_)) => {
                return less.join(desk)?.round(desk, now, interval);
            }
        };
        let thorough = checked.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        match desk.source.round(&mut link, &mut archive, thorough, desk.report) {
            Ok(commits) => {
                let checked = if thorough { Some(now) } else { checked };
                Ok((Phase::Following { link, archive, checked }, commits))
            }
            Err(error) => {
                drop(archive);
                Err(desk.fall(link, error))
            }
        }
    }

    /// Has the next round look at files, whenever that was done last.
    pub fn look_next(&mut self) {
        if let Phase::Following { checked, .. } = self {
            *checked = None;
        }
    }

    /// Ends, and leaves nothing held. Returns what stays known.
    pub fn end(self, desk: &mut Desk<'_, S>) -> (S::Away, Result<(), S::Error>) {
        match self {
            Phase::Away(away) => (S::end(away), Ok(())),
            Phase::Attached(link) => (S::end(desk.source.let_go(link)), Ok(())),
            Phase::Joined(link, archive) => {
                // The archive first: the database keeps what it does not have.
                let closed = desk.source.close(archive);
                (S::end(desk.source.let_go(link)), closed)
            }
            Phase::Following { link, archive, .. } => {
                (S::Away::default(), desk.source.part(link, archive, desk.report))
            }
        }
    }

    /// Gives up everything in a forked child. The archive's writer knows by itself where it is.
    pub fn forget(self) {
        match self {
            Phase::Attached(link) | Phase::Joined(link, _) | Phase::Following { link, .. } => {
                S::forget(link);
            }
            Phase::Away(_) => {}
        }
    }

    pub fn link_mut(&mut self) -> Option<&mut S::Link> {
        match self {
            Phase::Attached(link) | Phase::Joined(link, _) | Phase::Following { link, .. } => {
                Some(link)
            }
            Phase::Away(_) => None,
        }
    }
}

impl<S: Source> Desk<'_, S> {
    /// Where a failure leads to, the archive being given up already.
    fn fall(&mut self, link: S::Link, error: S::Error) -> Failed<S> {
        let phase = match error.side() {
            Side::Archive => Phase::Attached(link),
            Side::Source => Phase::Away(self.source.let_go(link)),
        };
        Failed { phase, error }
    }
}
