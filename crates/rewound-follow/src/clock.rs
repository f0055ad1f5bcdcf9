//! The clock that a follower goes by, and how it waits: injected, so that tests need not wait.

use std::time::{Duration, Instant};

use crate::bell::Bell;

/// A clock that does not jump.
pub trait Clock: Send + Sync {
    /// What it is now.
    fn now(&self) -> Instant;

    /// Waits until the bell rings, or for so long at most. May end early: who waits looks again.
    fn wait(&self, bell: &Bell, timeout: Duration);
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, bell: &Bell, timeout: Duration) {
        bell.wait(timeout);
    }
}
