//! The database's side of a watcher: attached, pinned, followed.
//!
//! Owns the pins and what is known of the log. Never writes to the database; checkpoints it.
//!
//! Invariants: what the active pin does not hold any more is archived, durably; the log is taken to have started over only where
//! [`Pins::allow`] it. A crash leaves nothing here: the mark in the archive tells where to go on.

use std::time::{Duration, Instant, SystemTime};

use rewound::{Commit, PageSize};

use super::archivist::{Archivist, Progress};
use super::checkpointer::Syncer;
use super::error::{Error, Result};
use super::files::{DatabaseFile, Holder, IndexFile, Paths, Stamp, is_same};
use super::format::{DatabaseHeader, IndexHeader, Salts};
use super::identity::Identity;
use super::live::Live;
use super::log::{Log, Place};
use super::mark::find;
use super::options::WatchOptions;
use super::parting::{End, Parting, Since, settle, tells};
use super::pin::{Hold, Pin, Pins};

/// After so long without a transaction the pin is moved to where it is in nobody's way.
pub(super) const SETTLED: Duration = Duration::from_millis(3);
/// After so long it is looked whether somebody waits for the pin all the same.
const QUIET: Duration = Duration::from_millis(20);
/// How long the pin is given up then: SQLite's `busy_timeout` looks every 100 ms at least.
const ASIDE: Duration = Duration::from_millis(120);
/// After so long the log is copied back, however short it is, and its file emptied: longer than an application pauses that is at work, whose next
/// transaction would have to make the file longer again; and shorter than it takes to stop it and to copy or replace the file.
const IDLE: Duration = Duration::from_secs(3);
/// How often the log is tried to be copied back where that did not get it to start over.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// The same with the write lock.
const LOCK_AGAIN: Duration = Duration::from_secs(1);
/// So much of the log more or less makes no difference to how long transactions wait: that is the disk's syncs. An eighth of the bound where that is less.
const FEW: u64 = 4 << 20;
/// Passes of copying back before the write lock is taken, however much each left.
const PASSES: u32 = 8;
/// What came since a pass tells how fast the log grows if that ended so short a time ago.
const JUST_NOW: Duration = Duration::from_millis(100);
/// How long it is tried to get the write lock, for each time that the log has reached its bound, ...
const KNOCK: Duration = Duration::from_millis(20);
/// ... at most.
const KNOCK_MAX: Duration = Duration::from_millis(200);

/// What is told of a file that was copied over.
const FOREIGN: &str = "written to by something else than SQLite";

/// A database that is attached to.
#[derive(Debug)]
pub(super) struct Link {
    paths: Paths,
    file: DatabaseFile,
    log: Log,
    pins: Pins,
    pub page_size: PageSize,
    pub progress: Progress,
    /// The newest durable commit: its mark, and where it ends.
    durable: Option<([u8; 20], Place)>,
    /// The log's index when it was last looked at.
    seen: IndexHeader,
    /// When it last changed.
    changed: Instant,
    /// Whether it was found that nobody waits for the pin.
    pin_is_clear: bool,
    checkpoint_after: Instant,
    empty_after: Instant,
    /// Whether the log was emptied since that was asked last.
    emptied: bool,
    /// The last pass of copying back since the write lock was taken or the log started over.
    pass: Option<Pass>,
    syncer: Syncer,
    /// The generation of the log for which the write lock was taken last, and when it may be for the same one again.
    locked: Salts,
    lock_after: Instant,
    /// Why the log was not copied back when that was tried last.
    pub trouble: Option<String>,
    /// The file as it was when it was last looked at while no checkpoint was under way.
    quiet: Option<Quiet>,
}

/// A database file with so much of the log in it, and no checkpoint under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quiet {
    salts: Salts,
    backfilled: u32,
    file: Stamp,
}

impl Quiet {
    /// Whether the file was written to since, and by no checkpoint as far as one can see: the log is the same, and no more of it is in the file.
    fn is_betrayed(&self, at: IndexHeader, file: Stamp) -> bool {
        self.salts == at.salts && at.backfilled <= self.backfilled && self.file != file
    }
}

/// What was attached to before.
#[derive(Debug)]
pub(super) struct Former {
    file: DatabaseFile,
    index: IndexFile,
    quiet: Option<Quiet>,
}

impl Former {
    /// Whether the same file is attached to again.
    pub fn is_of(&self, link: &Link) -> bool {
        self.file.is(&link.file)
    }

    /// An error where that file was written to since, and not by SQLite.
    pub fn check_content(&self, link: &Link) -> Result<()> {
        let Pin { at, file, .. } = link.pins.pin();
        let betrayed = self.is_of(link) && self.quiet.is_some_and(|quiet| quiet.is_betrayed(at, file));
        if betrayed { Err(link.inconsistent(FOREIGN)) } else { Ok(()) }
    }

    /// An error where another process still uses an index that is not that of the database any more: what it commits would not be seen.
    pub fn check(&self, paths: &Paths) -> Result<()> {
        not_to_be_used(self.index.left_behind(), paths)
    }

    /// What to tell where another process still has the file open that was there before.
    pub fn warning(&self, paths: &Paths) -> Option<String> {
        let process = self.file.left_behind()?;
        Some(format!(
            "{process} still has the file open that {} was before, and shares the log of the one that is there now: restart it, then check the database (PRAGMA integrity_check)",
            paths.database.display()
        ))
    }
}

/// An error where somebody uses an index that is not that of the database any more.
pub(super) fn not_to_be_used(by: Option<Holder>, paths: &Paths) -> Result<()> {
    let Some(process) = by else { return Ok(()) };
    Err(Error::Inconsistent {
        reason: format!(
            "{} was removed or replaced while {process} uses it: end that process, as nobody sees what it commits",
            paths.index.display()
        ),
    })
}

/// A pass of copying back, while others may follow.
#[derive(Clone, Copy, Debug)]
struct Pass {
    number: u32,
    /// Bytes of the log that it began with.
    left: u64,
    ended: Instant,
}

/// What a look at the log gave.
#[derive(Debug, Default)]
pub(super) struct Caught {
    pub commits: u64,
    pub pages: u64,
    pub newest: Option<Commit>,
    pub header: Option<DatabaseHeader>,
    /// How often the log has started over.
    pub resets: u64,
}

impl Caught {
    pub fn add(&mut self, other: &Caught) {
        self.commits += other.commits;
        self.pages += other.pages;
        self.newest = other.newest.or(self.newest);
        self.header = other.header.or(self.header);
        self.resets += other.resets;
    }
}

/// Checks that the file is a database in WAL mode.
pub(super) fn check(file: &DatabaseFile, paths: &Paths) -> Result<DatabaseHeader> {
    let header = file.header()?;
    if !header.wal {
        return Err(Error::NotWal { path: paths.database.clone() });
    }
    Ok(header)
}

impl Link {
    /// Connects and pins.
    pub fn open(paths: &Paths, options: &WatchOptions) -> Result<Link> {
        let file = DatabaseFile::open(paths)?;
        check(&file, paths)?;
        let pins = Pins::open(paths, file.clone(), options)?;
        // Nothing that is to hold for the whole attachment is looked at before the pin.
        let header = check(&file, paths)?;
        let not_same = || Error::Inconsistent { reason: format!("{} was just replaced", paths.database.display()) };
        if !is_same(file.file(), &paths.database) {
            return Err(not_same());
        }
        let page_size = PageSize::new(header.page_size).ok_or_else(not_same)?;
        let log = Log::open(paths.wal.clone(), header.page_size)?;
        let now = Instant::now();
        let seen = pins.pin().at;
        let mut link = Link {
            paths: paths.clone(),
            file,
            log,
            pins,
            page_size,
            progress: Progress::default(),
            durable: None,
            seen,
            changed: now,
            pin_is_clear: false,
            checkpoint_after: now,
            empty_after: now,
            emptied: false,
            pass: None,
            syncer: Syncer::default(),
            locked: Salts::default(),
            lock_after: now,
            trouble: None,
            quiet: None,
        };
        // Before anything of the file is read that is to hold.
        link.check_content()?;
        Ok(link)
    }

    /// Which database it is.
    pub fn identity(&self) -> Result<Identity> {
        Identity::of(self.file.file(), &self.paths.database)
    }

    /// The generation of the log that there is.
    pub fn generation(&self) -> Result<Salts> {
        Ok(self.pins.index()?.salts)
    }

    /// The database as of now.
    pub fn live(&mut self) -> Result<Live<'_>> {
        let at = self.pins.index()?;
        Live::new(&self.file, &mut self.log, at, self.page_size)
    }

    /// Begins at a place that is archived: the mark says how the archive names it.
    pub fn begin(&mut self, mark: [u8; 20], progress: Progress) {
        self.durable = Some((mark, progress.place));
        self.progress = progress;
    }

    /// What has happened to the database since a watcher of before ended.
    pub fn since(&self, parting: &Parting, end: &End) -> Result<Since> {
        let Pin { at, file, .. } = self.pins.pin();
        Ok(parting.since(end, &self.identity()?.file, file, at))
    }

    /// What the next watcher may go by, where the archive ends.
    pub fn parting(&self, end: End) -> Option<Parting> {
        settle(self.file.stamp().ok()?);
        let before = self.pins.index().ok()?;
        let stamp = match self.pins.pin() {
            // Nothing was copied back since: who has written to the file has overwritten it, and the next watcher is to see that.
            Pin { hold: Hold::File, file, .. } => file,
            _ => self.file.stamp().ok()?,
        };
        let at = self.pins.index().ok().filter(|_| tells(stamp, SystemTime::now()))?;
        self.durable.filter(|(mark, _)| before == at && end.mark == mark)?;
        Parting::new(end, self.progress.place, &self.file, stamp, at)
    }

    /// Takes up where the archive ends, if that can be proven: by the pin that was held since, or a place that is known to be the same, or the log itself.
    /// `false` where not.
    pub fn resume(&mut self, mark: &[u8], known: Option<Place>, length: u64) -> Result<bool> {
        let place = match (self.durable, known) {
            (Some((durable, place)), _) if durable == mark => Some(place),
            (_, Some(known)) => Some(known),
            _ => find(mark, &mut self.log, self.pins.index()?)?,
        };
        let length = u32::try_from(length / u64::from(self.page_size.get()));
        let (Some(place), Ok(length), Ok(mark)) = (place, length, mark.try_into()) else { return Ok(false) };
        self.begin(mark, Progress { place, length, ..Progress::default() });
        Ok(true)
    }

    /// Looks where the log ends now.
    pub fn look(&mut self) -> Result<()> {
        let at = self.pins.index()?;
        if at.salts != self.seen.salts || at.frames != self.seen.frames {
            self.changed = Instant::now();
        }
        self.seen = at;
        Ok(())
    }

    /// Archives every transaction that is committed now, durably.
    pub fn catch_up(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        self.catch_up_or(archivist, "the log started over without having been archived to its end")
    }

    /// The same; `lost` says what it means if the log has started over and must not have.
    fn catch_up_or(&mut self, archivist: &mut Archivist, lost: &str) -> Result<Caught> {
        let mut caught = Caught::default();
        self.look()?;
        let at = self.seen;
        if at.salts != self.progress.place.salts {
            if !self.pins.allow(self.progress.place)? {
                return Err(self.inconsistent(lost));
            }
            self.start_over(at.salts);
            caught.resets += 1;
        }
        if at.frames > self.progress.place.frame {
            self.log.begin(at.salts)?;
        }
        while at.frames > self.progress.place.frame {
            let transaction = self.log.transaction(self.progress.place, at.frames)?;
            let done = archivist.archive(&mut self.log, &self.file, &mut self.progress, transaction, self.page_size)?;
            caught.add(&Caught {
                commits: 1,
                pages: done.pages,
                newest: Some(done.commit),
                header: done.header,
                resets: 0,
            });
        }
        let place = self.progress.place;
        if at.frames < place.frame || (at.frames > 0 && at.checksum != place.checksum) {
            return Err(self.inconsistent("the log does not end as its index says"));
        }
        if let Some(newest) = caught.newest {
            archivist.writer.flush()?;
            self.durable = Some((super::mark::mark(newest.lsn, place), place));
        }
        Ok(caught)
    }

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
        } else if bytes >= options.wal_bytes_max && (self.locked != self.seen.salts || now >= self.lock_after) {
            caught.add(&self.make_a_pause(archivist, options.wal_bytes_max.max(1))?);
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

    /// Empties the file of a log that was copied back. As long as it is there, a copy of the database alone lacks what is in it, and SQLite plays it into whatever takes
    /// the database's place. The pin keeps everything that is not archived, as from any checkpoint.
    fn empty(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        let there = self.log.file().metadata().map_err(|e| Error::io("look at", &self.paths.wal, e))?;
        // Where another database has taken this one's name it may have taken its log as well.
        self.check_files()?;
        // Who has read in a transaction could not write in it any more (SQLITE_BUSY_SNAPSHOT), also where that needs nothing of the log.
        if there.len() == 0 || self.pins.index_file().is_read_elsewhere()? || !self.pins.empty_log()? {
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

    /// One step towards a log that starts over without the application's help. Most of it is copied back first, while transactions go on; then what came
    /// meanwhile, as long as that becomes clearly less; transactions wait for the rest.
    fn make_a_pause(&mut self, archivist: &mut Archivist, bound: u64) -> Result<Caught> {
        let left = self.log.bytes(self.seen.frames).saturating_sub(self.log.bytes(self.seen.backfilled));
        let again = self
            .pass
            .is_none_or(|pass| pass.number < PASSES && (left <= pass.left / 4 * 3 || pass.ended.elapsed() > JUST_NOW));
        if left > FEW.min(bound / 8) && again {
            let number = self.pass.map_or(1, |pass| pass.number + 1);
            self.pass = Some(Pass { number, left, ended: Instant::now() });
            return self.copy_most(archivist);
        }
        self.pass = None;
        // Where the application's readers keep the log from starting over all the same, once in a while is enough.
        self.locked = self.seen.salts;
        let mut caught = Caught::default();
        // The longer the log has become the longer it may take to get in between transactions, which are not followed meanwhile.
        let times = u32::try_from(self.wal_bytes() / bound).unwrap_or(u32::MAX);
        if self.pins.lock(KNOCK.saturating_mul(times).min(KNOCK_MAX))? {
            let done = self.copy_the_rest(archivist);
            self.pins.unlock()?;
            caught.add(&done?);
            self.lock_after = Instant::now() + LOCK_AGAIN;
        } else {
            self.lock_after = Instant::now() + TRY_AGAIN;
        }
        Ok(caught)
    }

    /// Begins to copy back while the application goes on, but for the moment in which that begins: it checkpoints after each of its transactions as long as there is
    /// anything to copy, and would nearly always be first, and copy everything itself.
    fn copy_most(&mut self, archivist: &mut Archivist) -> Result<Caught> {
        self.check_files()?;
        let (next, caught) = self.next_pin(archivist)?;
        let locked = self.pins.lock(KNOCK)?;
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

    /// Whether the pin keeps a checkpoint or a new beginning of the log from happening that need not wait.
    fn pin_is_in_the_way(&self, settled: bool) -> bool {
        let Pin { at, hold, .. } = self.pins.pin();
        match hold {
            // It lets nothing be copied back, and would make each of the application's attempts cost as much as a success.
            Hold::File => !self.is_copied_back(),
            // While transactions follow each other it stays where it is: else SQLite would copy back after each of them.
            Hold::Frames => {
                settled && (self.seen.salts != at.salts || self.seen.frames > at.frames || self.is_copied_back())
            }
            // It could be in the way of whoever waits already, and nothing would tell.
            Hold::Unproven => true,
        }
    }

    /// Whether it was not looked yet if somebody waits for the pin, as can be.
    fn may_be_waited_for(&self) -> bool {
        !self.pin_is_clear && self.pins.pin().hold == Hold::Frames
    }

    /// Gives up the pin for a moment, so that a checkpoint that waits for it passes. What is committed meanwhile is found in the log, all of it, or else the pin counts as lost.
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

    /// The log has started over, and everything before is archived.
    fn start_over(&mut self, salts: Salts) {
        self.progress.place = Place { salts, ..Place::default() };
        if let Some((_, place)) = &mut self.durable {
            *place = self.progress.place;
        }
        self.progress.frames.clear();
        self.pass = None;
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
        // The log of a file that was replaced serves the new one: copied back into the old one, all of it would be lost.
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
                // The database's disk is full, say. The log keeps what is not copied back, and the pin stays.
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

    /// Whether the names still stand for the files that are attached to.
    pub fn check_files(&self) -> Result<()> {
        let same = is_same(self.file.file(), &self.paths.database)
            && is_same(self.log.file(), &self.paths.wal)
            && is_same(self.pins.index_file().file(), &self.paths.index);
        if same { Ok(()) } else { Err(self.inconsistent("the database was replaced by another file")) }
    }

    /// An error where the file was written to since this was asked last, and by no checkpoint: a checkpoint says in the index that it begins before it writes, and how
    /// far it came after that. Nothing is said where checkpoints leave room for doubt.
    pub fn check_content(&mut self) -> Result<()> {
        let before = self.pins.index()?;
        let file = self.file.stamp()?;
        let at = self.pins.index()?;
        let done = (at.salts, at.backfilled, at.backfilled);
        if (before.salts, before.backfilled, before.attempted) != done || at.attempted != at.backfilled {
            return Ok(());
        }
        let now = Quiet { salts: at.salts, backfilled: at.backfilled, file };
        let last = self.quiet.replace(now).unwrap_or(now);
        let foreign = (last.salts, last.backfilled) == (now.salts, now.backfilled) && last.file != now.file;
        if foreign { Err(self.inconsistent(FOREIGN)) } else { Ok(()) }
    }

    /// The files that others may go on using once they have lost their names, and what was known of them.
    pub fn former(&self) -> Former {
        Former { file: self.file.clone(), index: self.pins.index_file().clone(), quiet: self.quiet }
    }

    /// Whether there is something in the log that is not archived yet; looks only.
    pub fn is_behind(&self) -> Result<bool> {
        let at = self.pins.index()?;
        Ok(at.frames > 0 && (at.salts != self.progress.place.salts || at.frames > self.progress.place.frame))
    }

    /// Bytes of the log in use.
    pub fn wal_bytes(&self) -> u64 {
        self.log.bytes(self.seen.frames)
    }

    /// Bytes of it that are not archived.
    pub fn pending_bytes(&self) -> u64 {
        let archived = if self.progress.place.salts == self.seen.salts { self.progress.place.frame } else { 0 };
        self.log.bytes(self.seen.frames).saturating_sub(self.log.bytes(archived))
    }

    /// The database's header as it is in the file.
    pub fn header(&self) -> Result<DatabaseHeader> {
        self.file.header()
    }

    fn inconsistent(&self, what: &str) -> Error {
        Error::Inconsistent { reason: format!("{}: {what}", self.paths.database.display()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::INDEX_HEADER;

    fn at(salts: u8, backfilled: u32) -> IndexHeader {
        let mut bytes = [0; INDEX_HEADER];
        bytes[12] = 1;
        bytes[32..40].fill(salts);
        let sum = crate::format::Checksum::default().over(&bytes[..40], cfg!(target_endian = "big"));
        bytes[40..44].copy_from_slice(&sum.0.to_ne_bytes());
        bytes[44..48].copy_from_slice(&sum.1.to_ne_bytes());
        bytes.copy_within(..48, 48);
        bytes[96..100].copy_from_slice(&backfilled.to_ne_bytes());
        IndexHeader::decode(&bytes).unwrap()
    }

    #[test]
    fn a_file_that_was_written_to_without_a_checkpoint_is_betrayed() {
        let (before, after) = (Stamp::new(10, 5, 4096), Stamp::new(10, 6, 4096));
        let quiet = Quiet { salts: Salts([1; 8]), backfilled: 7, file: before };
        for (at, file, betrayed) in [
            (at(1, 7), before, false),
            (at(1, 7), after, true),
            // The index was made anew.
            (at(1, 0), after, true),
            (at(1, 0), before, false),
            (at(1, 8), after, false),
            (at(2, 7), after, false),
        ] {
            assert_eq!(quiet.is_betrayed(at, file), betrayed, "{at:?} {file:?}");
        }
    }
}
