//! How long a failing follower pauses: twice as long each time, up to a bound.
//!
//! Owns no clock: it is told when the failure began.

use std::time::{Duration, Instant};

/// The first pause after a failure.
pub(crate) const FIRST: Duration = Duration::from_millis(100);

/// A failure that lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// When the first attempt began that failed.
    pub since: Instant,
    next: Duration,
}

impl Backoff {
    pub fn new(since: Instant) -> Backoff {
        Backoff { since, next: FIRST }
    }

    /// The pause before the next attempt. `longest` bounds all but the first.
    pub fn pause(&mut self, longest: Duration) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut backoff = Backoff::new(Instant::now());
        let pauses: Vec<_> =
            (0..8).map(|_| backoff.pause(Duration::from_secs(5)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn an_unbounded_pause_does_not_overflow() {
        let mut backoff = Backoff::new(Instant::now());
        let longest = (0..200).map(|_| backoff.pause(Duration::MAX)).max();
        assert_eq!(longest, Some(Duration::MAX));
    }

    #[test]
    fn a_bound_below_the_first_pause_holds_from_the_second_on() {
        let mut backoff = Backoff::new(Instant::now());
        let pauses: Vec<_> =
            (0..3).map(|_| backoff.pause(Duration::from_millis(10)).as_millis()).collect();
        assert_eq!(pauses, [100, 10, 10]);
    }
}
