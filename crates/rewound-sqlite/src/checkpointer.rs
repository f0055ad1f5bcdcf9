//! Copies SQLite's log back into the database file, and syncs both, on threads of their own:
//! transactions are followed meanwhile.
//!
//! Invariants: only PASSIVE checkpoints, for which nobody waits and which copy no further than the
//! pin allows; one at a time; none outlives its `Checkpointer`. One that is interrupted or killed
//! leaves nothing to mend: the next one copies the same frames again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, InterruptHandle};

use super::error::{Error, Result};
use super::files::DatabaseFile;
use super::format::{IndexHeader, Salts};
use super::log::Log;
use super::pin::{end, failed};

/// How long a checkpoint's thread is waited for to begin, ...
const BEGIN: Duration = Duration::from_millis(1);
/// ... and after that for SQLite to have taken its lock.
const BEGINS: Duration = Duration::from_micros(20);

/// Looks after the connection that does not hold the pin: idle, or busy with a checkpoint.
#[derive(Debug)]
pub(super) struct Checkpointer {
    path: PathBuf,
    file: DatabaseFile,
    idle: Option<Connection>,
    running: Option<Running>,
}

struct Running {
    /// `None` where there was no thread to be had, and it is over.
    thread: Option<JoinHandle<()>>,
    interrupt: InterruptHandle,
    shared: Arc<Shared>,
}

/// What a checkpoint's thread and its owner share.
struct Shared {
    /// Whether it asks SQLite for the checkpoint by now.
    begun: AtomicBool,
    /// Whether it is to end as soon as it can.
    stop: AtomicBool,
    /// Lent to the thread, and given back with the result; `None` where it panicked.
    work: Mutex<(Option<Connection>, Option<Result<()>>)>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Checkpointer {
    /// `connection` is to the database that `file` is.
    pub fn new(path: &Path, file: DatabaseFile, connection: Connection) -> Checkpointer {
        Checkpointer { path: path.to_owned(), file, idle: Some(connection), running: None }
    }

    /// The connection, once no checkpoint uses it.
    pub fn idle(&mut self) -> Result<&mut Connection> {
        // Nobody asks for it while there is a checkpoint; and a result that nobody looked at tells
        // nothing that matters.
        let _ = self.wait();
        // To connect by name again could give another database.
        self.idle.as_mut().ok_or_else(|| panicked(&self.path))
    }

    /// Ends the transaction that the connection is in, and begins a checkpoint at once: an
    /// application that commits all the time would step in else, and copy everything back itself.
    /// `patience` is for somebody who is at it already. Where there is no thread to be had it is
    /// complete when this returns.
    pub fn start(&mut self, patience: Duration) -> Result<()> {
        let connection = self.idle.take().ok_or_else(|| panicked(&self.path))?;
        let interrupt = connection.get_interrupt_handle();
        let work = Mutex::new((Some(connection), None));
        let shared =
            Arc::new(Shared { begun: AtomicBool::new(false), stop: AtomicBool::new(false), work });
        let (path, file, with) = (self.path.clone(), self.file.clone(), Arc::clone(&shared));
        let run = move || with.checkpoint(&path, &file, patience);
        let thread = std::thread::Builder::new().name("rewound-checkpoint".into()).spawn(run).ok();
        if thread.is_none() {
            shared.checkpoint(&self.path, &self.file, patience);
        }
        self.running = Some(Running { thread, interrupt, shared });
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Waits until the checkpoint has surely begun, or nearly so, but not for long.
    pub fn wait_for_begin(&self) {
        let until = Instant::now() + BEGIN;
        let begun = || self.running.as_ref().is_none_or(|r| r.shared.begun.load(Ordering::Acquire));
        while !begun() && Instant::now() < until {
            std::thread::yield_now();
        }
        std::thread::sleep(BEGINS);
    }

    /// How the checkpoint ended that was under way when this was asked last, if it has. One of
    /// somebody else's that was in its way is as good.
    pub fn ended(&mut self) -> Option<Result<()>> {
        let ended = |r: &Running| r.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if self.running.as_ref().is_some_and(ended) { self.wait() } else { None }
    }

    /// Waits for the one that is under way, if there is one.
    pub fn wait(&mut self) -> Option<Result<()>> {
        let Running { thread, shared, .. } = self.running.take()?;
        let sound = thread.is_none_or(|thread| thread.join().is_ok());
        let (connection, done) = std::mem::take(&mut *shared.work.lock());
        self.idle = connection;
        Some(done.filter(|_| sound).unwrap_or_else(|| Err(panicked(&self.path))))
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.shared.stop.store(true, Ordering::Release);
            // Again and again: SQLite forgets an interruption that comes just before a statement
            // begins.
            while running.thread.as_ref().is_some_and(|t| !t.is_finished()) {
                running.interrupt.interrupt();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = self.wait();
    }
}

impl Shared {
    fn checkpoint(&self, path: &Path, file: &DatabaseFile, patience: Duration) {
        let connection =
            self.work.lock().0.take().expect("a connection is lent for one checkpoint");
        let done = self.run(&connection, path, patience);
        if matches!(done, Ok(true)) && !self.stop.load(Ordering::Acquire) {
            // SQLite syncs the file only where nothing came meanwhile, and leaves it to the last
            // checkpoint else, for whose end transactions wait. Nothing relies on this one.
            let _ = file.file().sync_data();
        }
        *self.work.lock() = (Some(connection), Some(done.map(drop)));
    }

    /// Whether it copied as far as the pins allow, the application's and ours: `false` where
    /// somebody else is at it all the time.
    fn run(&self, connection: &Connection, path: &Path, patience: Duration) -> Result<bool> {
        let since = Instant::now();
        let failed = |e| failed("checkpoint", path, &e);
        let mut statement =
            connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)").map_err(failed)?;
        end(connection, path)?;
        self.begun.store(true, Ordering::Release);
        loop {
            if self.stop.load(Ordering::Acquire) {
                return Ok(false);
            }
            let busy = statement.query_row([], |row| row.get::<_, i64>(0)).map_err(failed)?;
            if busy == 0 {
                return Ok(true);
            } else if since.elapsed() >= patience {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn panicked(path: &Path) -> Error {
    let message = "the thread panicked".into();
    Error::Sqlite { operation: "checkpoint", path: path.to_owned(), message }
}

/// Bytes between two syncs of a log.
const SYNC_BYTES: u64 = 4 << 20;

/// Syncs a log while it grows. A checkpoint begins with that, and takes so much longer where nobody
/// has: the application leaves it to its checkpoints, too, with `synchronous = NORMAL`.
#[derive(Debug, Default)]
pub(super) struct Syncer {
    thread: Option<JoinHandle<()>>,
    salts: Salts,
    /// Frames of that generation that the last sync began with.
    frames: u32,
}

impl Syncer {
    /// Begins another sync where it is time for one.
    pub fn tend(&mut self, log: &Log, at: IndexHeader) {
        if self.salts != at.salts {
            (self.salts, self.frames) = (at.salts, 0);
        }
        let grown = log.bytes(at.frames).saturating_sub(log.bytes(self.frames));
        if grown < SYNC_BYTES || self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        self.frames = at.frames;
        // Nothing relies on it, and SQLite meets what fails here itself.
        self.thread = log.file().try_clone().ok().and_then(|file| {
            let sync = move || drop(file.sync_data());
            std::thread::Builder::new().name("rewound-sync".into()).spawn(sync).ok()
        });
    }
}
