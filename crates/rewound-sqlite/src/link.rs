//! The database's side of a watcher: attached, pinned, followed.
//!
//! Owns the pins and what is known of the log. Never writes to the database; checkpoints it, which
//! is in [`tend`].
//!
//! Invariants: what the active pin does not hold any more is archived, durably; the log is taken to
//! have started over only where [`Pins::allow`] it. A crash leaves nothing here: the mark in the
//! archive tells where to go on.

mod former;
mod tend;

use std::time::{Duration, Instant, SystemTime};

use former::{FOREIGN, Quiet};
pub(super) use former::{Former, not_to_be_used};
use rewound::{Commit, PageSize};
use tend::Pass;

use super::archivist::{Archivist, Progress};
use super::checkpointer::Syncer;
use super::error::{Error, Result};
use super::files::{DatabaseFile, Paths, is_same};
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
    /// The generation of the log for which the write lock was taken last, and when it may be for
    /// the same one again.
    locked: Salts,
    lock_after: Instant,
    /// Why the log was not copied back when that was tried last.
    pub trouble: Option<String>,
    /// The file as it was when it was last looked at while no checkpoint was under way.
    quiet: Option<Quiet>,
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
        let not_same = || Error::Inconsistent {
            reason: format!("{} was just replaced", paths.database.display()),
        };
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
            // Nothing was copied back since: who has written to the file has overwritten it, and
            // the next watcher is to see that.
            Pin { hold: Hold::File, file, .. } => file,
            _ => self.file.stamp().ok()?,
        };
        let at = self.pins.index().ok().filter(|_| tells(stamp, SystemTime::now()))?;
        self.durable.filter(|(mark, _)| before == at && end.mark == mark)?;
        Parting::new(end, self.progress.place, &self.file, stamp, at)
    }

    /// Takes up where the archive ends, if that can be proven: by the pin that was held since, or a
    /// place that is known to be the same, or the log itself. `false` where not.
    pub fn resume(&mut self, mark: &[u8], known: Option<Place>, length: u64) -> Result<bool> {
        let place = match (self.durable, known) {
            (Some((durable, place)), _) if durable == mark => Some(place),
            (_, Some(known)) => Some(known),
            _ => find(mark, &mut self.log, self.pins.index()?)?,
        };
        // What is no mark of ours, and a length that no database has, are another adapter's.
        let length = u32::try_from(length / u64::from(self.page_size.get()));
        let (Some(place), Ok(length), Ok(mark)) = (place, length, mark.try_into()) else {
            return Ok(false);
        };
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
            let done = archivist.archive(
                &mut self.log,
                &self.file,
                &mut self.progress,
                transaction,
                self.page_size,
            )?;
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

    /// The log has started over, and everything before is archived.
    fn start_over(&mut self, salts: Salts) {
        self.progress.place = Place { salts, ..Place::default() };
        if let Some((_, place)) = &mut self.durable {
            *place = self.progress.place;
        }
        self.progress.frames.clear();
        self.pass = None;
    }

    /// Whether the names still stand for the files that are attached to.
    pub fn check_files(&self) -> Result<()> {
        let same = is_same(self.file.file(), &self.paths.database)
            && is_same(self.log.file(), &self.paths.wal)
            && is_same(self.pins.index_file().file(), &self.paths.index);
        if same {
            Ok(())
        } else {
            Err(self.inconsistent("the database was replaced by another file"))
        }
    }

    /// An error where the file was written to since this was asked last, and by no checkpoint: a
    /// checkpoint says in the index that it begins before it writes, and how far it came after
    /// that. Nothing is said where checkpoints leave room for doubt.
    pub fn check_content(&mut self) -> Result<()> {
        let before = self.pins.index()?;
        let file = self.file.stamp()?;
        let at = self.pins.index()?;
        let done = (at.salts, at.backfilled, at.backfilled);
        if (before.salts, before.backfilled, before.attempted) != done
            || at.attempted != at.backfilled
        {
            return Ok(());
        }
        let now = Quiet { salts: at.salts, backfilled: at.backfilled, file };
        let last = self.quiet.replace(now).unwrap_or(now);
        let foreign =
            (last.salts, last.backfilled) == (now.salts, now.backfilled) && last.file != now.file;
        if foreign { Err(self.inconsistent(FOREIGN)) } else { Ok(()) }
    }

    /// The files that others may go on using once they have lost their names, and what was known of
    /// them.
    pub fn former(&self) -> Former {
        Former { file: self.file.clone(), index: self.pins.index_file().clone(), quiet: self.quiet }
    }

    /// Whether there is something in the log that is not archived yet; looks only.
    pub fn is_behind(&self) -> Result<bool> {
        let at = self.pins.index()?;
        Ok(at.frames > 0
            && (at.salts != self.progress.place.salts || at.frames > self.progress.place.frame))
    }

    /// Bytes of the log in use.
    pub fn wal_bytes(&self) -> u64 {
        self.log.bytes(self.seen.frames)
    }

    /// Bytes of it that are not archived.
    pub fn pending_bytes(&self) -> u64 {
        let archived = if self.progress.place.salts == self.seen.salts {
            self.progress.place.frame
        } else {
            0
        };
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
