//! Clock and randomness, injected so that any run can be replayed from a seed.

use std::fmt::Debug;
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::types::Timestamp;

/// Where the time comes from.
pub trait Clock: Debug + Send + Sync {
    /// The time now. May step back; the log never does.
    fn now(&self) -> Timestamp;
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
        getrandom::fill(buf)
            .map_err(|e| Error::KeyProvider { message: format!("the operating system gave no random bytes: {e}") })
    }
}

/// An array of random bytes.
pub(crate) fn random<const N: usize>(rng: &dyn Rng) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rng.fill(&mut bytes)?;
    Ok(bytes)
}
