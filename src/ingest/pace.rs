//! The pacer of group commit: how long a leader waits for others to join.
//!
//! Owns what is known of the groups before, and nothing else. Takes no lock, reads no clock and
//! never waits. Invariant: its answers change how fast commits are, never what they are. In memory
//! only, so a crash leaves nothing.

use std::time::Duration;

/// How long a leader waits at most for those to join whom it expects.
const LONGEST: Duration = Duration::from_micros(200);

/// How synced commits come in, so that a group is not begun when most of it is just about to
/// arrive.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Groups written so far.
    groups: u64,
    /// Threads that may be about to commit: those of the last group, and those that came while it
    /// was written.
    expected: usize,
    /// How long the last group took.
    took: Duration,
    /// Whether somebody waits for the others to join.
    gathering: bool,
    /// How often in a row that ended without all of them.
    missed: u32,
}

/// How a leader's waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Everyone who was expected joined.
    All,
    /// Some did not join in time.
    NotAll,
    /// Another leader went ahead, or there is nothing to lead any more.
    Overtaken,
}

impl Pace {
    /// Groups written so far: a leader that finds another number than before was overtaken.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// Whether as many threads wait for a sync as are expected.
    pub fn is_complete(&self, waiting: usize) -> bool {
        waiting >= self.expected
    }

    /// Whether somebody waits for the others to join.
    pub fn is_gathering(&self) -> bool {
        self.gathering
    }

    /// Begins the wait for the others; returns how long it lasts at most. That is half of what a
    /// group takes if they come as a rule. It is an eighth if they did not twice in a row, but for
    /// every eighth time.
    pub fn begin_gathering(&mut self) -> Duration {
        self.gathering = true;
        let hopeful = self.missed < 2 || self.missed.is_multiple_of(8);
        (self.took / if hopeful { 2 } else { 8 }).min(LONGEST)
    }

    /// Ends the wait.
    pub fn end_gathering(&mut self, how: Gathered) {
        self.gathering = false;
        match how {
            Gathered::All => self.missed = 0,
            Gathered::NotAll => self.missed = self.missed.saturating_add(1),
            Gathered::Overtaken => {}
        }
    }

    /// Notes a group that was written, and how many threads wait or were just woken.
    pub fn wrote(&mut self, threads: usize, took: Duration) {
        self.groups += 1;
        self.expected = threads;
        self.took = took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(threads: usize, took: u64) -> Pace {
        let mut pace = Pace::default();
        pace.wrote(threads, Duration::from_micros(took));
        pace
    }

    /// How long is waited, in microseconds, when it ends in this way.
    fn gather(pace: &mut Pace, how: Gathered) -> u128 {
        let patience = pace.begin_gathering();
        assert!(pace.is_gathering());
        pace.end_gathering(how);
        assert!(!pace.is_gathering());
        patience.as_micros()
    }

    #[test]
    fn a_single_thread_waits_for_nobody() {
        assert!(Pace::default().is_complete(1));
        assert!(after(1, 100).is_complete(1));
        assert!(!after(2, 100).is_complete(1));
        assert!(after(2, 100).is_complete(2));
    }

    #[test]
    fn a_leader_waits_half_of_what_a_group_takes_and_never_long() {
        assert_eq!(gather(&mut after(2, 100), Gathered::All), 50);
        assert_eq!(gather(&mut after(2, 1_000_000), Gathered::All), 200);
        assert_eq!(gather(&mut Pace::default(), Gathered::All), 0, "nothing is known yet");
    }

    #[test]
    fn who_waits_in_vain_waits_less_but_tries_again() {
        let mut pace = after(2, 80);
        let waits: Vec<_> = (0..18).map(|_| gather(&mut pace, Gathered::NotAll)).collect();
        let short = [10; 6];
        assert_eq!(waits, [&[40, 40][..], &short, &[40, 10], &short[..5], &[10, 40, 10]].concat());
        gather(&mut pace, Gathered::All);
        assert_eq!(gather(&mut pace, Gathered::NotAll), 40, "they come again");
    }

    #[test]
    fn being_overtaken_says_nothing_of_the_others() {
        let mut pace = after(2, 80);
        for _ in 0..3 {
            gather(&mut pace, Gathered::NotAll);
        }
        assert_eq!(gather(&mut pace, Gathered::Overtaken), 10);
        assert_eq!((pace.missed, pace.groups()), (3, 1));
        pace.wrote(4, Duration::from_micros(160));
        assert_eq!((gather(&mut pace, Gathered::All), pace.groups()), (20, 2));
    }
}
