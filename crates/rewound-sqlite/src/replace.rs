//! Replaces a live database's content by a restored one, in place: the same file, with its owner,
//! mode and attributes.
//!
//! To rename a restored file over the database would leave the old log beside it, and whoever has
//! the old file open could write another one under its name. Here the file stays, and SQLite's own
//! mechanism makes the change atomic: before the first page is written, all that the file holds is
//! in a rollback journal in [SQLite's
//! format](https://www.sqlite.org/fileformat2.html#the_rollback_journal) beside it. As long as that
//! lies there, whoever opens the database next, SQLite of any version, brings back what it was. Its
//! removal is the commit.
//!
//! Invariants:
//!
//! - The locks of [`Alone`] are held from before the journal is begun until it is removed, and no
//!   descriptor of the file is closed meanwhile.
//! - The file is written to only when the journal is complete and durable; the journal is removed
//!   only when the file is.
//! - The old log is brought into the old database before that, by SQLite, so there is none that
//!   could be played into the new one.
//!
//! A crash leaves the old database with a journal that SQLite plays back, or the new one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rewound::{Error as ArchiveError, PageSink, Restore, RestoreReport, SpaceId, SpaceState};
use rewound_dir::{Dir, Walk, free_space, walk};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::alone::{Alone, Others, leftover, refused};
use super::error::{Error, Result};
use super::files::{Paths, beside};
use super::format::{DATABASE_HEADER, DatabaseHeader, first_of};
use super::identity::{KEY, Record};
use super::pin::failed;

/// How long a connection that is just ending is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes that a journal's header takes: it claims sectors of that size, the least there are.
const SECTOR: u32 = 512;
/// What a journal begins with.
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The page with this byte is never used, and never in a journal.
const LOCK_BYTE: u64 = 1 << 30;
/// Bytes that are read and compared at once.
const STEP: usize = 1 << 20;

/// Restores into a database that is there, in place and all or nothing: also after a crash it is
/// what it was or the target, exactly. It keeps its owner, mode and attributes. A link is followed;
/// a database that is missing is made anew.
///
/// Nobody may have the database open, this process neither: it is locked to the end against all
/// others. What was committed to its log is kept up to the end, and is gone with the rest then.
///
/// # Errors
///
/// [`Error::InUse`] and [`Error::AlreadyWatched`] before anything is written. After any other error
/// the database is what it was; where that takes SQLite's next opening, it is
/// [`Error::HalfReplaced`].
pub fn replace(restore: Restore<'_>, database: impl AsRef<Path>) -> Result<RestoreReport> {
    let given = database.as_ref();
    if given.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        let alone = Alone::hold(given)?;
        let report = restore.into_file(given)?;
        drop(alone);
        return Ok(report);
    }
    let path = Paths::of(given)?.database;
    let there = path.metadata().map_err(|e| Error::io("look at", &path, e))?;
    if !there.is_file() {
        return Err(refused(&path, "it is no regular file"));
    }
    trust_links(given, there.uid())?;
    let others = Others::hold(&path)?;
    settle(&path)?;
    let alone = others.and_file(&path).map_err(|e| match e {
        // Settled a moment ago: somebody has come since.
        Error::Leftover { .. } => Error::InUse { path: path.clone() },
        e => e,
    })?;
    let Some(file) = alone.file() else { return Err(Error::InUse { path }) };
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if opened.map_err(|e| Error::io("look at", &path, e))? != path {
        return Err(refused(&path, "a directory that it is in was just replaced by a link"));
    }
    // Nobody is connected, and there is nothing in them.
    for name in ["-wal", "-shm", "-journal"] {
        remove(&beside(&path, name))?;
    }
    let place = Place::new(&path, file);
    match restore.destination(path.display().to_string()).into_sink(|spaces| place.begin(spaces)) {
        Ok(mut report) => {
            report.bytes_written = place.written.into_inner();
            Ok(report)
        }
        Err(e) => {
            let undo = place.is_under_way();
            drop(alone);
            if undo { undone(&path, e.into()) } else { Err(e.into()) }
        }
    }
}

/// Where the database is that a restored node belongs to, as its watcher has put it on record;
/// `None` where none has.
pub fn database_restored(report: &RestoreReport) -> Option<PathBuf> {
    Some(Record::decode(report.environment.get(KEY)?)?.path().to_owned())
}

/// Refuses a path with a link in it that somebody has laid who owns neither the file nor this
/// process: he would choose what is written over.
fn trust_links(given: &Path, owner: u32) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    match walk(given, &[0, own, owner]).map_err(|e| Error::io("resolve", given, e))? {
        Walk::Reached(_) => Ok(()),
        Walk::Foreign { link, .. } => {
            let reason =
                format!("{} is a link of another user's: name the file itself", link.display());
            Err(refused(given, &reason))
        }
    }
}

/// Makes the entries of a file's directory durable.
fn sync_above(path: &Path) -> rewound::Result<()> {
    let dir = path.parent().expect("the path of a file has a directory before its name");
    Dir::open(dir)
        .and_then(|dir| dir.sync())
        .map_err(|e| ArchiveError::io("sync directory", dir.display().to_string(), e))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

/// Has SQLite bring everything that is in the database's logs into the database: a log that nobody
/// has copied back, a journal of a process that died. Refuses where anybody is connected, this
/// process included.
fn settle(path: &Path) -> Result<()> {
    let run = || {
        let connection = connect(path)?;
        // In WAL mode the first read needs the file alone then, before it looks at the log.
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
    };
    match run() {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::InUse { path: path.to_owned() }),
        Err(e)
            if matches!(
                e.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ) =>
        {
            Err(Error::InUse { path: path.to_owned() })
        }
        // Damaged, it may be, which is why it is to be replaced.
        Err(e) => match leftover(path) {
            None => Ok(()),
            Some(log) => Err(refused(
                path,
                &format!(
                    "SQLite cannot bring {} into it ({e}); move both away, and restore again",
                    log.display()
                ),
            )),
        },
    }
}

/// Has SQLite bring back what the database was, as it would with the next opening.
fn undone(path: &Path, failure: Error) -> Result<RestoreReport> {
    let read = connect(path)
        .and_then(|c| c.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)));
    if leftover(path).is_none() {
        return Err(failure);
    }
    if let Err(e) = read {
        tracing::warn!(error = %failed("roll back", path, &e), "sqlite");
    }
    Err(Error::HalfReplaced { path: path.to_owned(), failure: Box::new(failure) })
}

/// A database that is rewritten under its own rollback journal, as often as it takes.
#[derive(Debug)]
struct Place<'a> {
    path: &'a Path,
    journal: PathBuf,
    file: &'a File,
    /// Whether the journal says all that the file was.
    saved: AtomicBool,
    written: AtomicU64,
}

/// Rewrites it.
#[derive(Debug)]
struct InPlace<'p> {
    place: &'p Place<'p>,
    /// The size of a page of the new content.
    page: usize,
}

impl<'a> Place<'a> {
    fn new(path: &'a Path, file: &'a File) -> Place<'a> {
        let journal = beside(path, "-journal");
        Place { path, journal, file, saved: AtomicBool::new(false), written: AtomicU64::new(0) }
    }

    /// Begins to write over it; also once more, if a layer of the archive is damaged: the journal
    /// says what the file was.
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> rewound::Result<InPlace<'_>> {
        let mut spaces = spaces.values();
        let (Some(space), None) = (spaces.next(), spaces.next()) else {
            let reason = "the node is not one SQLite database, which could replace it: restore into a directory";
            return Err(self.refused(reason));
        };
        if space.length == 0 {
            return Err(self.refused(NO_DATABASE));
        }
        if !self.saved.load(Ordering::Relaxed) {
            let length = self.file.metadata().map_err(self.failed("look at"))?.len();
            self.check_space(length, space.length)?;
            self.save(length)?;
            self.saved.store(true, Ordering::Relaxed);
            self.file.set_len(space.length).map_err(self.failed("set the length of"))?;
        }
        Ok(InPlace { place: self, page: space.page_size.bytes() })
    }

    /// Whether there is a journal that says what the file was. Nobody else can have one, as the
    /// file is locked.
    fn is_under_way(&self) -> bool {
        self.journal.exists()
    }

    fn refused(&self, reason: &str) -> ArchiveError {
        ArchiveError::bad_destination(self.path.display().to_string(), reason)
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(std::io::Error) -> ArchiveError {
        let path = self.path.display().to_string();
        move |e| ArchiveError::io(operation, path, e)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> rewound::Result<()> {
        self.file.read_exact_at(buf, offset).map_err(self.failed("read"))
    }

    /// The pages that the journal is made of: those of the database, or sectors where the file is
    /// none, such as a damaged one.
    fn old_page(&self, length: u64) -> rewound::Result<u32> {
        let mut header = [0; DATABASE_HEADER];
        let known = self.file.read_at(&mut header, 0).map_err(self.failed("read"))? as u64;
        let page = DatabaseHeader::decode(first_of(&header, known)).map(|h| h.page_size);
        let fits = |page: &u32| {
            rewound::PageSize::new(*page).is_some() && length.is_multiple_of(u64::from(*page))
        };
        Ok(page.filter(fits).unwrap_or(512))
    }

    /// Everything that the file holds, for SQLite to bring back. Its first header says that it
    /// holds nothing, so it may be cut short at any moment until the second one.
    fn save(&self, length: u64) -> rewound::Result<()> {
        let failed = |e| ArchiveError::io("write", self.journal.display().to_string(), e);
        let page = self.old_page(length)?;
        let (size, bytes) = (page as usize, u64::from(page));
        let pages = u32::try_from(length.div_ceil(bytes)).map_err(|_| {
            let (limit, found) = (u64::from(u32::MAX), length.div_ceil(bytes));
            ArchiveError::limit_exceeded("pages of a database that is replaced", limit, found)
        })?;
        let there = self.file.metadata().map_err(self.failed("look at"))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(there.mode() & 0o777);
        let journal = options.open(&self.journal).map_err(failed)?;
        let made = journal.metadata().map_err(failed)?;
        if (made.uid(), made.gid()) != (there.uid(), there.gid()) {
            // The database's owner has to be able to open it after a crash; where that is not for
            // us to say, the mode is all there is.
            let _ = fchown(&journal, Some(there.uid()), Some(there.gid()));
        }
        journal
            .set_permissions(std::fs::Permissions::from_mode(there.mode() & 0o777))
            .map_err(failed)?;
        // Tells its records from those of another journal that was in the same blocks.
        let nonce = u32::try_from(made.ctime_nsec()).expect("nanoseconds of a second");
        journal.write_all_at(&head(0, nonce, pages, page), 0).map_err(failed)?;
        let mut number = 0;
        let mut image = vec![0; STEP];
        let mut records = Vec::with_capacity(STEP + STEP / size * 8);
        let (mut at, mut end, mut count) = (0, u64::from(SECTOR), 0);
        while at < length {
            let step = first_of(&image, length - at).len();
            let image =
                image.get_mut(..step.next_multiple_of(size)).expect("a step is whole pages");
            image.fill(0);
            self.read(at, image.get_mut(..step).expect("no more than is rounded up"))?;
            records.clear();
            for page in image.chunks_exact(size) {
                number += 1;
                if u64::from(number) != LOCK_BYTE / bytes + 1 {
                    record(&mut records, number, page, nonce);
                    count += 1;
                }
            }
            journal.write_all_at(&records, end).map_err(failed)?;
            (at, end) = (at + step as u64, end + records.len() as u64);
        }
        journal.sync_all().map_err(failed)?;
        journal.write_all_at(&head(count, nonce, pages, page), 0).map_err(failed)?;
        journal.sync_all().map_err(failed)?;
        sync_above(self.path)
    }

    /// What is needed beside what there is: the journal, and what the file grows by.
    fn check_space(&self, old: u64, new: u64) -> rewound::Result<()> {
        let available = free_space(self.path).map_err(self.failed("look at free space of"))?;
        let page = u64::from(self.old_page(old)?);
        let needed = u64::from(SECTOR) + old.div_ceil(page) * (page + 8) + new.saturating_sub(old);
        if needed > available {
            return Err(ArchiveError::not_enough_space(self.path, needed, available));
        }
        Ok(())
    }
}

impl InPlace<'_> {
    fn rewrite(&self, offset: u64, bytes: &[u8], old: &mut [u8]) -> rewound::Result<()> {
        let place = self.place;
        place.read(offset, old)?;
        let mut at = offset;
        for (new, old) in bytes.chunks(self.page).zip(old.chunks(self.page)) {
            if new != old {
                place.file.write_all_at(new, at).map_err(place.failed("write"))?;
                place.written.fetch_add(new.len() as u64, Ordering::Relaxed);
            }
            at += new.len() as u64;
        }
        Ok(())
    }
}

const NO_DATABASE: &str = "the target is no SQLite database, which could replace it";

/// The header of a journal with so many records, for a database of so many pages.
fn head(records: u32, nonce: u32, pages: u32, page: u32) -> [u8; SECTOR as usize] {
    let mut header = [0; SECTOR as usize];
    let fields = [records, nonce, pages, SECTOR, page].map(u32::to_be_bytes);
    for (to, from) in header.iter_mut().zip(MAGIC.iter().chain(fields.as_flattened())) {
        *to = *from;
    }
    header
}

/// A page as it was. The sum is over every 200th byte from its end on.
fn record(to: &mut Vec<u8>, number: u32, page: &[u8], nonce: u32) {
    to.extend(number.to_be_bytes());
    to.extend(page);
    let mut sum = nonce;
    let mut at = page.len().saturating_sub(200);
    while at > 0 {
        sum = sum.wrapping_add(page.get(at).copied().map_or(0, u32::from));
        at = at.saturating_sub(200);
    }
    to.extend(sum.to_be_bytes());
}

impl PageSink for InPlace<'_> {
    fn write(&self, _: SpaceId, offset: u64, bytes: &[u8]) -> rewound::Result<()> {
        // A page that is shorter than the header is none of SQLite's.
        if offset == 0 && bytes.get(..DATABASE_HEADER).and_then(DatabaseHeader::decode).is_none() {
            return Err(self.place.refused(NO_DATABASE));
        }
        self.rewrite(offset, bytes, &mut vec![0; bytes.len()])
    }

    fn zero(&self, _: SpaceId, offset: u64, length: u64) -> rewound::Result<()> {
        let (zeros, mut old) = (vec![0; STEP], vec![0; STEP]);
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let zeros = first_of(&zeros, end - at);
            self.rewrite(at, zeros, old.get_mut(..zeros.len()).expect("both are as long"))?;
            at += zeros.len() as u64;
        }
        Ok(())
    }

    fn finish(self) -> rewound::Result<()> {
        let place = self.place;
        place.file.sync_all().map_err(place.failed("sync"))?;
        let failed = |e| ArchiveError::io("remove", place.journal.display().to_string(), e);
        std::fs::remove_file(&place.journal).map_err(failed)?;
        sync_above(place.path)
    }
}

#[cfg(test)]
mod tests;
