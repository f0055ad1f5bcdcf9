//! Looks after the pin, and the length of the log.
//!
//! Invariants: what the pin gives up is archived, durably, before; the log is copied back no
//! further than what is archived. Where that cannot be done now it is tried again later, and
//! nothing waits for it but the log, which grows.

use std::time::{Duration, Instant};

use super::{Caught, Link, SETTLED};
use crate::archivist::Archivist;
use crate::error::{Error, Result};
use crate::options::WatchOptions;
use crate::pin::{Hold, Pin};

/// After so long it is looked whether somebody waits for the pin all the same.
const QUIET: Duration = Duration::from_millis(20);
/// How long the pin is given up then: SQLite's `busy_timeout` looks every 100 ms at least.
const ASIDE: Duration = Duration::from_millis(120);
/// After so long the log is copied back, however short it is, and its file emptied: longer than an
/// application pauses that is at work, whose next transaction would have to make the file longer
/// again; and shorter than it takes to stop it and to copy or replace the file.
const IDLE: Duration = Duration::from_secs(3);
/// How often the log is tried to be copied back where that did not get it to start over.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// The same with the write lock.
const LOCK_AGAIN: Duration = Duration::from_secs(1);
/// So much of the log more or less makes no difference to how long transactions wait: that is the
/// disk's syncs. An eighth of the bound where that is less.
const SMALL_REMAINDER: u64 = 4 << 20;
/// Passes of copying back before the write lock is taken, however much each left.
const PASSES: u32 = 8;
/// What came since a pass tells how fast the log grows if that ended so short a time ago.
const PASS_FRESHNESS: Duration = Duration::from_millis(100);
/// How long it is tried to get the write lock, for each time that the log has reached its bound,
/// ...
const LOCK_TIMEOUT: Duration = Duration::from_millis(20);
/// ... for so many times at most.
const MAX_LOCK_TIMEOUTS: u64 = 10;

/// A pass of copying back, while others may follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    number: u32,
    /// Bytes of the log that it began with.
    left: u64,
    ended: Instant,
}

impl Link {
    /// Looks after the pin and the length of the log. Everything that was seen has to be archived.
    pub fn tend(&mut self, archivist: &mut Archivist, options: &WatchOptions) -> Result<Caught> {
        let mut caught = Caught::default();
        if let Some(done) = self.pins.copy().ended() {
            caught.add(&self.copied(archivist, done)?);
        }
        // To archive what was seen may have taken longer than that.
        let settled = self.changed.elapsed() >= SETTLED && !self.is_behind()?;
        if self.wal_bytes() >= options.wal_bytes_max / 4 {
            self.syncer.tend(&self.log, self.seen);
        }
        if self.pins.is_copying() {
            return Ok(caught);
        }
        if self.pin_is_in_the_way(settled) {
            caught.add(&self.repin(archivist)?);
        } else if self.may_be_waited_for() && settled && self.changed.elapsed() >= QUIET {
            self.pin_is_clear = !self.pins.is_waited_for()?;
            if !self.pin_is_clear {
                caught.add(&self.step_aside(archivist)?);
            }
        }
        let now = Instant::now();
        if self.trouble.is_some() && now < self.checkpoint_after {
            return Ok(caught);
        }
        let bytes = self.wal_bytes();
        let idle = settled && self.changed.elapsed() >= IDLE;
        if self.is_copied_back() {
            (self.pass, self.trouble) = (None, None);
            if idle && now >= self.empty_after {
                self.empty_after = now + LOCK_AGAIN;
                caught.add(&self.empty(archivist)?);
            }
        } else if bytes >= options.wal_bytes_max
            && (self.locked != self.seen.salts || now >= self.lock_after)
        {
            caught.add(&self.force_wal_reset(archivist, options.wal_bytes_max.max(1))?);
        } else if settled && (bytes >= options.wal_bytes || idle) && now >= self.checkpoint_after {
            self.checkpoint_after = now + if idle { LOCK_AGAIN } else { TRY_AGAIN };
            self.check_files()?;
            caught.add(&self.copy_back(archivist, Duration::ZERO)?);
        }
        Ok(caught)
    }

    /// Leaves the database complete, where nobody is at it: its log is copied back and emptied.
    pub fn part(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        self.check_files()?;
        let mut caught = self.wait_for_copy(archivist)?;
        caught.add(&self.catch_up(archivist)?);
        if !self.is_copied_back() {
            caught.add(&self.copy_back(archivist, Duration::ZERO)?);
            caught.add(&self.wait_for_copy(archivist)?);
        } else if self.pin_is_in_the_way(true) {
            caught.add(&self.repin(archivist)?);
        }
        if self.is_copied_back() {
            caught.add(&self.empty(archivist)?);
        }
        Ok(caught)
    }

    /// Empties the file of a log that was copied back. As long as it is there, a copy of the
    /// database alone lacks what is in it, and SQLite plays it into whatever takes the database's
    /// place. The pin keeps everything that is not archived, as from any checkpoint.
    fn empty(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        let there =
            self.log.file().metadata().map_err(|e| Error::io("look at", &self.paths.wal, e))?;
        // Where another database has taken this one's name it may have taken its log as well.
        self.check_files()?;
        // Who has read in a transaction could not write in it any more (SQLITE_BUSY_SNAPSHOT), also
        // where that needs nothing of the log.
        if there.len() == 0
            || self.pins.index_file().is_read_elsewhere()?
            || !self.pins.empty_log()?
        {
            return Ok(Caught::default());
        }
        self.emptied = true;
        // It has started over.
        self.catch_up(archivist)
    }

    /// Whether the log was emptied since this was asked last.
    pub fn was_emptied(&mut self) -> bool {
        std::mem::take(&mut self.emptied)
    }

    /// One step towards a log that starts over without the application's help. Most of it is copied
    /// back first, while transactions go on; then what came meanwhile, as long as that becomes
    /// clearly less; transactions wait for the rest.
    fn force_wal_reset(&mut self, archivist: &mut Archivist, bound: u64) -> Result<Caught> {
        let left =
            self.log.bytes(self.seen.frames).saturating_sub(self.log.bytes(self.seen.backfilled));
        let again = self.pass.is_none_or(|pass| {
            pass.number < PASSES
                && (left <= pass.left / 4 * 3 || pass.ended.elapsed() > PASS_FRESHNESS)
        });
        if left > SMALL_REMAINDER.min(bound / 8) && again {
            let number = self.pass.map_or(1, |pass| pass.number + 1);
            self.pass = Some(Pass { number, left, ended: Instant::now() });
            return self.checkpoint_most(archivist);
        }
        self.pass = None;
        // Where the application's readers keep the log from starting over all the same, once in a
        // while is enough.
        self.locked = self.seen.salts;
        let mut caught = Caught::default();
        // The longer the log has become the longer it may take to get in between transactions,
        // which are not followed meanwhile.
        let times = (self.wal_bytes() / bound).min(MAX_LOCK_TIMEOUTS);
        if self.pins.lock(LOCK_TIMEOUT * u32::try_from(times).expect("a bounded number"))? {
            let done = self.copy_the_rest(archivist);
            self.pins.unlock()?;
            caught.add(&done?);
            self.lock_after = Instant::now() + LOCK_AGAIN;
        } else {
            self.lock_after = Instant::now() + TRY_AGAIN;
        }
        Ok(caught)
    }

    /// Begins to copy back while the application goes on, but for the moment in which that begins:
    /// it checkpoints after each of its transactions as long as there is anything to copy, and
    /// would nearly always be first, and copy everything itself.
    fn checkpoint_most(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        self.check_files()?;
        let (next, caught) = self.next_pin(archivist)?;
        let locked = self.pins.lock(LOCK_TIMEOUT)?;
        self.pin_is_clear = false;
        self.pins.hand_over_and_copy(next, TRY_AGAIN)?;
        if locked {
            self.pins.copy().wait_for_begin();
            self.pins.unlock()?;
        }
        Ok(caught)
    }

    /// Under the write lock.
    fn copy_the_rest(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        // The last writer may just be at its own checkpoint, which it does after its transaction.
        let mut caught = self.copy_back(archivist, TRY_AGAIN)?;
        caught.add(&self.wait_for_copy(archivist)?);
        Ok(caught)
    }

    /// Whether the pin keeps a checkpoint or a new beginning of the log from happening that need
    /// not wait.
    fn pin_is_in_the_way(&self, settled: bool) -> bool {
        let Pin { at, hold, .. } = self.pins.pin();
        match hold {
            // It lets nothing be copied back, and would make each of the application's attempts
            // cost as much as a success.
            Hold::File => !self.is_copied_back(),
            // While transactions follow each other it stays where it is: else SQLite would copy
            // back after each of them.
            Hold::Frames => {
                settled
                    && (self.seen.salts != at.salts
                        || self.seen.frames > at.frames
                        || self.is_copied_back())
            }
            // It could be in the way of whoever waits already, and nothing would tell.
            Hold::Unproven => true,
        }
    }

    /// Whether it was not looked yet if somebody waits for the pin, as can be.
    fn may_be_waited_for(&self) -> bool {
        !self.pin_is_clear && self.pins.pin().hold == Hold::Frames
    }

    /// Gives up the pin for a moment, so that a checkpoint that waits for it passes. What is
    /// committed meanwhile is found in the log, all of it, or else the pin counts as lost.
    fn step_aside(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        const LOST: &str = "the log started over while the pin was given up for a checkpoint";
        let mut caught = self.catch_up(archivist)?;
        let before = self.seen;
        let at = self.pins.step_aside(before, ASIDE)?.at;
        self.progress.file_is_newer = at.changes != before.changes;
        if at.salts != before.salts {
            if self.log.transactions(at)? != at.changes.wrapping_sub(before.changes) {
                return Err(self.inconsistent(LOST));
            }
            self.start_over(at.salts);
            caught.resets += 1;
        }
        // What was committed before the pin began again, and copied back by then, the pin does not
        // hold: the next transaction may start the log over before any of that is archived.
        caught.add(&self.catch_up_or(archivist, LOST)?);
        self.progress.file_is_newer = false;
        Ok(caught)
    }

    /// Moves the pin to now.
    fn repin(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        let (next, caught) = self.next_pin(archivist)?;
        self.pin_is_clear = false;
        self.pins.hand_over(next)?;
        Ok(caught)
    }

    /// A pin beside the one that counts, with everything archived that came before it.
    fn next_pin(&mut self, archivist: &mut Archivist) -> Result<(Pin, Caught)> {
        let next = self.pins.begin_next()?;
        let caught = self.catch_up(archivist)?;
        let place = self.progress.place;
        if place.salts == next.at.salts && place.frame < next.at.frames {
            return Err(self.inconsistent("the log became shorter"));
        }
        Ok((next, caught))
    }

    /// Moves the pin to now, and begins to copy back the log up to there.
    fn copy_back(&mut self, archivist: &mut Archivist, patience: Duration) -> Result<Caught> {
        // The log of a file that was replaced serves the new one: copied back into the old one, all
        // of it would be lost.
        self.check_files()?;
        let (next, caught) = self.next_pin(archivist)?;
        self.pin_is_clear = false;
        self.pins.hand_over_and_copy(next, patience)?;
        Ok(caught)
    }

    /// Waits for the copying back that is under way, if there is one.
    pub fn wait_for_copy(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        match self.pins.copy().wait() {
            Some(done) => self.copied(archivist, done),
            None => Ok(Caught::default()),
        }
    }

    /// The log is copied back up to the pin: lets it start over where that is all of it.
    fn copied(&mut self, archivist: &mut Archivist, done: Result<()>) -> Result<Caught> {
        match done {
            Ok(()) => {
                self.trouble = None;
                if let Some(pass) = &mut self.pass {
                    pass.ended = Instant::now();
                }
            }
            Err(e) => {
                // The database's disk is full, say. The log keeps what is not copied back, and the
                // pin stays.
                self.checkpoint_after = Instant::now() + LOCK_AGAIN;
                self.trouble = Some(e.to_string());
                self.pass = None;
            }
        }
        self.look()?;
        if self.is_copied_back() { self.repin(archivist) } else { Ok(Caught::default()) }
    }

    fn is_copied_back(&self) -> bool {
        self.seen.is_copied_back()
    }

    /// Whether nothing needs to be done until something happens.
    pub fn is_at_rest(&self) -> bool {
        self.changed.elapsed() >= SETTLED
            && !self.pin_is_in_the_way(true)
            && !self.may_be_waited_for()
            && !self.pins.is_copying()
    }
}
