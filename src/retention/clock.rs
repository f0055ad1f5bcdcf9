//! Which time to believe. Nothing expires by a clock that jumps.
//!
//! The catalog carries a time that moves only in small steps: each entry and each sweep moves it to
//! the clock's time unless that is more than three days away. A clock farther away is refused until
//! an operator confirms it; so are logs that run ahead of the clock. A node ages only as far as it
//! is archived: commits and ticks are its time, and the time of a node that nobody writes to stands
//! still.

use std::time::Duration;

use crate::catalog::{CLOCK_BOUND, CatalogState};
use crate::error::{Error, Result};
use crate::types::Timestamp;

/// The clock is recorded again after this time.
const NOTE_AFTER: Duration = Duration::from_secs(86_400);

/// Refuses a clock that is not plausible. `archived` is the newest time in any log.
pub(crate) fn check(state: &CatalogState, clock: Timestamp, archived: Timestamp) -> Result<()> {
    let seen = state.retention.clock;
    if !seen.is_near(clock) {
        return Err(Error::ClockImplausible {
            clock,
            what: "the newest entry of the catalog to be believed",
            expected: seen.clock,
        });
    }
    let ahead = |of: Timestamp| archived > of.saturating_add(CLOCK_BOUND);
    if ahead(clock) && ahead(seen.archived) {
        return Err(Error::ClockImplausible {
            clock,
            what: "the newest commit",
            expected: archived,
        });
    }
    Ok(())
}

/// Whether the catalog should record the clock.
pub(crate) fn is_worth_noting(state: &CatalogState, clock: Timestamp) -> bool {
    let seen = state.retention.clock.clock;
    clock > seen.saturating_add(NOTE_AFTER) || seen > clock.saturating_add(NOTE_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::ClockMark;

    const DAY: u64 = 86_400 * 1_000_000_000;

    fn at(days: u64) -> Timestamp {
        Timestamp::from_nanos(days * DAY)
    }

    #[test]
    fn steps_of_more_than_three_days_are_refused() {
        let mut state = CatalogState::default();
        state.retention.clock = ClockMark { clock: at(20_010), archived: Timestamp::ZERO };
        for (clock, archived, fine) in [
            (20_011, 20_011, true),
            (20_013, 20_013, true),
            (20_014, 20_011, false),
            (20_007, 20_007, true),
            (20_006, 20_010, false),
            (16_360, 20_010, false),
            (23_660, 23_660, false),
            (20_011, 20_014, true),
            (20_011, 20_015, false),
        ] {
            assert_eq!(check(&state, at(clock), at(archived)).is_ok(), fine, "{clock} {archived}");
        }
        state.retention.clock.archived = at(23_660);
        assert!(check(&state, at(20_011), at(23_661)).is_ok(), "vouched for");
    }
}
