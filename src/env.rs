//! Clock and randomness, injected so that any run can be replayed from a seed; and the process that
//! something belongs to.

use std::fmt::Debug;
use std::io;

use crate::error::{Error, Result};
use crate::sync::SystemTime;
use crate::types::Timestamp;

/// Where the time comes from.
pub trait Clock: Debug + Send + Sync {
    /// The time now. May step back; the log never does.
    fn now(&self) -> Timestamp;
}

/// The time by a clock. Refuses one that reads beyond [`Timestamp::LATEST`]: what was once written
/// with such a time could not be followed by anything.
pub(crate) fn now(clock: &dyn Clock) -> Result<Timestamp> {
    let now = clock.now();
    if now > Timestamp::LATEST {
        let what = "the latest time that can be archived";
        return Err(Error::ClockImplausible { clock: now, what, expected: Timestamp::LATEST });
    }
    Ok(now)
}

/// The system's real-time clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// Where keys, salts, identities and nonce hedges come from. Anything but the
/// system's generator is for tests: predictable bytes here mean no secrecy.
pub trait Rng: Debug + Send + Sync {
    /// Fills the buffer with unpredictable bytes.
    fn fill(&self, buf: &mut [u8]) -> Result<()>;
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, buf: &mut [u8]) -> Result<()> {
        getrandom::fill(buf).map_err(|e| Error::KeyProvider {
            message: format!("the operating system gave no random bytes: {e}"),
        })
    }
}

/// An array of random bytes.
pub(crate) fn random<const N: usize>(rng: &dyn Rng) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rng.fill(&mut bytes)?;
    Ok(bytes)
}

/// The process that opened something. A fork copies what is in memory, and shares what is open in
/// the kernel: what a child did with its copy of a writer, a lock or a file would be done to the
/// parent's. So what was opened here acts here only. Adapters and storages keep one beside what
/// they open, and ask it before they act and before they drop.
///
/// Ask it before any lock is taken: the threads that may have held one do not exist in the child. A
/// child is told by its number, which it shares with its parent only if both are the first of a PID
/// namespace.
///
/// ```
/// use rewound::env::Owner;
///
/// let owner = Owner::here();
/// assert!(owner.is_here());
/// owner.check("the index")?;
/// # Ok::<(), rewound::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    /// This process.
    pub fn here() -> Owner {
        Owner(std::process::id())
    }

    /// Whether this is still the process.
    pub fn is_here(self) -> bool {
        self == Owner::here()
    }

    /// Refuses every other process than the one that opened `what`.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`] in a process that was forked from it.
    pub fn check(self, what: &'static str) -> Result<()> {
        let here = std::process::id();
        if self.0 == here { Ok(()) } else { Err(Error::Forked { what, opened_by: self.0, here }) }
    }

    /// [`check`](Self::check) for a [`Storage`](crate::storage::Storage), whose errors are the
    /// system's: the [`Error::Forked`] is inside, and comes out of it again in the calls of an
    /// archive.
    ///
    /// # Errors
    ///
    /// As for `check`.
    pub fn check_io(self, what: &'static str) -> io::Result<()> {
        self.check(what).map_err(io::Error::other)
    }
}
