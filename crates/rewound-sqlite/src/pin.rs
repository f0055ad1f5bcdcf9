//! Keeps SQLite from discarding what is not archived yet: read transactions on two connections that
//! take turns.
//!
//! # What a read transaction holds
//!
//! SQLite's readers lock one of five slots, and which one decides what is held. A reader that began
//! while the log was copied back completely takes slot 0: as long as it lives no checkpoint can
//! copy anything into the database file. The log may start over once (all of it is in the file),
//! but what is written then cannot be copied back, so it cannot start over again with anything in
//! it. Any other reader takes a slot of 1 to 4 with a mark: no checkpoint copies frames beyond the
//! mark, and the log cannot start over at all. Either way two things hold from the beginning of a
//! read transaction on, for as long as it lives:
//!
//! 1. every frame after its beginning stays in the log;
//! 2. the database file holds nothing from after its beginning.
//!
//! # What it keeps others from
//!
//! A checkpoint of the application's that waits for readers waits for the pin where that holds what
//! is to be copied back, or the log where it could start over. It holds the write lock meanwhile,
//! so nothing is committed that would wake anybody. The pin has to be moved then, and where to
//! depends on its slot, which SQLite does not tell. So the slot is proven, from what the index says
//! before and after the beginning ([`Hold`]); a pin whose slot is not proven is moved again until
//! it is.
//!
//! A checkpoint waits for a slot, and not for a mark: one that finds a slot in use while the pin's
//! mark is just being set, or that waits for a reader after which the pin gets the slot, waits for
//! the pin however far that reaches, and another pin would share the slot. [`Pins::is_waited_for`]
//! finds that, and [`Pins::step_aside`] ends the pin before the next one begins. What happens in
//! between is proven by the index, which counts transactions.
//!
//! # Invariants
//!
//! - A pin ends only when another one has begun and everything up to *its* beginning is archived,
//!   durably; or to let a checkpoint pass, when everything is archived, and what came since has to
//!   be found in the log.
//! - [`Pins::allow`] says whether the log may have started over under the pin. A log that has and
//!   may not have means that the pin was lost (another part of the process closed a descriptor of
//!   the index, say), and is never taken for continuous. Under slot 0 the log may start over, but
//!   nothing may be copied back: there a database file that was written to since the pin began
//!   betrays a second time.
//! - The write lock is held only for a step that was prepared so that it is short, and nothing is
//!   written to the database's content, ever.
//!
//! A crash leaves nothing: the kernel frees the locks.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::checkpointer::Checkpointer;
use super::error::{Error, Result};
use super::files::{DatabaseFile, IndexFile, IndexLock, Paths, Stamp};
use super::format::IndexHeader;
use super::log::Place;
use super::options::WatchOptions;

/// How often a pin is begun again at once where its slot was not proven.
const PROOFS: u32 = 5;
/// How long the index may be in the midst of a change before a connection is asked to repair it.
const REPAIR_AFTER: Duration = Duration::from_millis(20);

/// What a read transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Slot 0: the database file as it is.
    File,
    /// One of the other slots: all frames up to those that there were when it began.
    Frames,
    /// One of the two, or fewer frames, as other readers had all the slots.
    Unproven,
}

/// One read transaction that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    /// What the log's index said just after it had begun.
    pub at: IndexHeader,
    pub hold: Hold,
    /// The database file after that.
    pub file: Stamp,
}

impl Pin {
    /// Whether, under this pin, the log may start over, once, at a place that was reached in it.
    fn allows(&self, place: Place) -> bool {
        if place.salts == self.at.salts {
            // The generation that it began in: only if it was copied back completely, and nothing
            // came after that.
            self.at.is_copied_back() && place.frame == self.at.frames
        } else {
            // A later one: only if nothing was written to it.
            place.frame == 0
        }
    }
}

/// The connections to one database.
#[derive(Debug)]
pub(super) struct Pins {
    path: std::path::PathBuf,
    /// The connection without the pin. Dropped first: its checkpoint goes by the pin.
    free: Checkpointer,
    /// Whose transaction is the pin that counts.
    pinned: Connection,
    pin: Pin,
    /// Holds the write lock for a moment, now and then.
    keeper: Connection,
    index: IndexFile,
    file: DatabaseFile,
}

fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|e| failed("open", path, &e))?;
    let prepare = || {
        connection.busy_timeout(busy_timeout)?;
        // The last connection to close would copy the log back and delete it, and with it the place
        // where the archive continues.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA mmap_size = 0; PRAGMA cache_size = -64;")
    };
    prepare().map_err(|e| failed("prepare", path, &e))?;
    // SQLite opens what it may not write for reading, without a word.
    if connection.is_readonly(MAIN_DB).is_ok_and(|read_only| read_only) {
        return Err(Error::Io {
            operation: "write to",
            path: path.to_owned(),
            source: std::sync::Arc::new(std::io::ErrorKind::PermissionDenied.into()),
        });
    }
    Ok(connection)
}

/// An error of SQLite's, with locks told apart.
pub(super) fn failed(operation: &'static str, path: &Path, e: &rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked {
            path: path.to_owned(),
            reason: format!(
                "{e}; a connection with PRAGMA locking_mode=EXCLUSIVE, or one that is changing the journal mode, keeps everybody else out: end it"
            ),
        },
        Some(ErrorCode::NotADatabase) => {
            Error::NotADatabase { path: path.to_owned(), reason: e.to_string() }
        }
        _ => Error::Sqlite { operation, path: path.to_owned(), message: e.to_string() },
    }
}

/// Switches a database to WAL mode, which it remembers.
pub(super) fn enable_wal(path: &Path, busy_timeout: Duration) -> Result<()> {
    let connection = connect(path, busy_timeout)?;
    let mode = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
    match mode.map_err(|e| failed("switch to WAL mode", path, &e))?.as_str() {
        "wal" => Ok(()),
        _ => Err(Error::NotWal { path: path.to_owned() }),
    }
}

impl Pins {
    /// Connects, and begins the first pin.
    pub fn open(paths: &Paths, file: DatabaseFile, options: &WatchOptions) -> Result<Pins> {
        let (path, busy_timeout) = (&paths.database, options.busy_timeout);
        let (pinned, free) = (connect(path, busy_timeout)?, connect(path, busy_timeout)?);
        let free = Checkpointer::new(path, file.clone(), free);
        // It knocks by itself.
        let keeper = connect(path, Duration::ZERO)?;
        begin(&pinned, path)?;
        let index = IndexFile::open(paths, options.index_delay)?;
        let pin = begin_pin(&pinned, &file, &index, &keeper, path)?;
        Ok(Pins { path: path.clone(), free, pinned, pin, keeper, index, file })
    }

    /// The pin that counts.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    pub fn index_file(&self) -> &IndexFile {
        &self.index
    }

    /// The log's index as it is now. One that stays in the midst of a change, as its process died,
    /// is repaired by SQLite.
    pub fn index(&self) -> Result<IndexHeader> {
        read_index(&self.index, &self.keeper, &self.path)
    }

    /// Whether the log, in which all up to `place` was seen, has started over without anything in
    /// it that was not: the pin that counts is a transaction still (an error inside of SQLite could
    /// have ended it), allows it, and was not lost.
    pub fn allow(&self, place: Place) -> Result<bool> {
        let holds = !self.pinned.is_autocommit();
        Ok(holds && self.pin.allows(place) && self.file.stamp()? == self.pin.file)
    }

    /// Begins a second pin, beside the one that counts, once no checkpoint is under way. Everything
    /// up to the header that it gives has to be archived, durably, before
    /// [`hand_over`](Self::hand_over).
    pub fn begin_next(&mut self) -> Result<Pin> {
        begin_pin(self.free.idle()?, &self.file, &self.index, &self.keeper, &self.path)
    }

    /// Lets the second pin count and ends the first.
    pub fn hand_over(&mut self, next: Pin) -> Result<()> {
        let free = self.free.idle()?;
        std::mem::swap(&mut self.pinned, free);
        self.pin = next;
        end(free, &self.path)
    }

    /// The same, and begins to copy back as much of the log as the new pin allows. `patience` is
    /// for somebody else who is at it already.
    pub fn hand_over_and_copy(&mut self, next: Pin, patience: Duration) -> Result<()> {
        std::mem::swap(&mut self.pinned, self.free.idle()?);
        self.pin = next;
        self.free.start(patience)
    }

    /// Whether a checkpoint waits, and so perhaps for the pin, if it began before that. Those that
    /// begin later do not wait for a pin that reaches the log's end.
    pub fn is_waited_for(&self) -> Result<bool> {
        self.index.is_waiting_checkpoint()
    }

    /// Ends the pin, and begins another once a checkpoint copies back, or something else has
    /// happened since `at`, or nothing for so long. Everything up to `at` has to be archived,
    /// durably. Most of the time nothing can be committed meanwhile, as the checkpoint has the
    /// write lock until it has copied.
    pub fn step_aside(&mut self, at: IndexHeader, patience: Duration) -> Result<Pin> {
        end(&self.pinned, &self.path)?;
        let begun = Instant::now();
        loop {
            let now = self.index()?;
            if !at.still_is(&now) || now.attempted != at.attempted || begun.elapsed() >= patience {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        // At once: to prove its slot can wait.
        begin(&self.pinned, &self.path)?;
        self.pin = Pin { at: self.index()?, hold: Hold::Unproven, file: self.file.stamp()? };
        Ok(self.pin)
    }

    /// The checkpoint that is under way, or has ended.
    pub fn copy(&mut self) -> &mut Checkpointer {
        &mut self.free
    }

    pub fn is_copying(&self) -> bool {
        self.free.is_running()
    }

    /// Takes the database's write lock, so that no transaction can commit until
    /// [`unlock`](Self::unlock); `false` where it is not to be had for so long. Knocks every
    /// hundred microseconds or so, as between two transactions of a busy writer there are only
    /// some. To spin or to yield would come to less where processors are short: who sleeps is let
    /// run when it wakes.
    pub fn lock(&mut self, patience: Duration) -> Result<bool> {
        let begun = Instant::now();
        loop {
            match self.keeper.prepare_cached("BEGIN IMMEDIATE").and_then(|mut s| s.execute([])) {
                Ok(_) => return Ok(true),
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    end(&self.keeper, &self.path)?;
                }
                Err(e) => return Err(failed("lock", &self.path, &e)),
            }
            if begun.elapsed() >= patience {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Has SQLite cut the log's file to nothing where all of it was copied back; `false` where
    /// anybody reads from it or writes, who is not waited for.
    pub fn empty_log(&self) -> Result<bool> {
        let run = || {
            let mut statement = self.keeper.prepare_cached("PRAGMA wal_checkpoint(TRUNCATE)")?;
            statement.query_row([], |row| row.get::<_, i64>(0))
        };
        match run() {
            Ok(busy) => Ok(busy == 0),
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            Err(e) => Err(failed("checkpoint", &self.path, &e)),
        }
    }

    /// Gives the write lock back. Nothing was written under it.
    pub fn unlock(&mut self) -> Result<()> {
        end(&self.keeper, &self.path)
    }
}

/// Begins a read transaction, for real: the first read takes the lock.
fn begin(connection: &Connection, path: &Path) -> Result<()> {
    let run = || {
        connection.prepare_cached("BEGIN")?.execute([])?;
        connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get::<_, i64>(0))
    };
    run().map(drop).map_err(|e| {
        let failure = failed("read", path, &e);
        // Half begun is not begun.
        let _ = end(connection, path);
        failure
    })
}

/// Begins a pin on a connection, in the place of what transaction it has. Where transactions follow
/// each other too closely its slot is not proven.
fn begin_pin(
    connection: &Connection,
    file: &DatabaseFile,
    index: &IndexFile,
    spare: &Connection,
    path: &Path,
) -> Result<Pin> {
    let mut tries = 0;
    loop {
        tries += 1;
        end(connection, path)?;
        let before = read_index(index, spare, path)?;
        // Who has just copied back the last frame may hold slot 0 for a moment more, so that a
        // reader takes another one.
        let is_free = !before.is_copied_back() || !index.is_locked_elsewhere(IndexLock::Slot0)?;
        begin(connection, path)?;
        let at = read_index(index, spare, path)?;
        let hold = match before.still_is(&at) && is_free {
            true if at.is_copied_back() => Hold::File,
            // Where other readers have all the slots it shares one of theirs, whose mark is lower.
            true if at.marks.contains(&at.frames) => Hold::Frames,
            _ => Hold::Unproven,
        };
        if hold != Hold::Unproven || tries >= PROOFS {
            return Ok(Pin { at, hold, file: file.stamp()? });
        }
    }
}

/// Ends whatever transaction there is.
pub(super) fn end(connection: &Connection, path: &Path) -> Result<()> {
    if connection.is_autocommit() {
        return Ok(());
    }
    let done = connection.prepare_cached("ROLLBACK").and_then(|mut s| s.execute([]));
    done.map(drop).map_err(|e| failed("end a transaction on", path, &e))
}

fn read_index(index: &IndexFile, spare: &Connection, path: &Path) -> Result<IndexHeader> {
    let begun = Instant::now();
    let mut repaired = false;
    loop {
        if let Some(header) = index.read()? {
            return Ok(header);
        }
        if !repaired && begun.elapsed() > REPAIR_AFTER && spare.is_autocommit() {
            // Whoever begins to read repairs it first.
            begin(spare, path)?;
            end(spare, path)?;
            repaired = true;
        } else if begun.elapsed() > Duration::from_secs(2) {
            return Err(Error::Inconsistent {
                reason: format!("the index of {}'s log cannot be read", path.display()),
            });
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}
