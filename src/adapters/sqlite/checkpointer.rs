//! Copies SQLite's log back into the database file, and syncs it, on threads of their own: transactions are followed meanwhile.
//!
//! Invariants: only PASSIVE checkpoints, for which nobody waits and which copy no further than the pin allows; one at a time; none outlives its
//! `Checkpointer`. One that is interrupted or killed leaves nothing to mend: the next one copies the same frames again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle};

use super::error::{Error, Result};
use super::format::{IndexHeader, Salts};
use super::log::Log;
use super::pin::{connect, end, failed};

/// How long a checkpoint's thread is waited for to begin, ...
const BEGIN: Duration = Duration::from_millis(1);
/// ... and after that for SQLite to have taken its lock.
const BEGINS: Duration = Duration::from_micros(20);

/// How a checkpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It copied as far as the pins allow, the application's and ours.
    Done,
    /// Somebody else is at it.
    Busy,
}

/// Looks after the connection that does not hold the pin: idle, or busy with a checkpoint.
pub(super) struct Checkpointer {
    path: PathBuf,
    idle: Option<Connection>,
    running: Option<Running>,
}

struct Running {
    thread: JoinHandle<(Connection, Result<Copied>)>,
    interrupt: InterruptHandle,
    /// Whether it asks SQLite for the checkpoint by now.
    begun: Arc<AtomicBool>,
}

impl std::fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpointer").field("running", &self.is_running()).finish_non_exhaustive()
    }
}

impl Checkpointer {
    pub fn new(path: &Path) -> Checkpointer {
        Checkpointer { path: path.to_owned(), idle: None, running: None }
    }

    /// The connection, once no checkpoint uses it.
    pub fn idle(&mut self, busy_timeout: Duration) -> Result<&mut Connection> {
        // Nobody asks for it while there is a checkpoint; and a result that nobody looked at tells nothing that matters.
        let _ = self.wait();
        let connection = match self.idle.take() {
            Some(connection) => connection,
            None => connect(&self.path, busy_timeout)?,
        };
        Ok(self.idle.insert(connection))
    }

    /// Ends the transaction that the connection is in, and begins a checkpoint at once: an application that commits all the time would step in else, and copy
    /// everything back itself. `patience` is for somebody who is at it already.
    pub fn start(&mut self, patience: Duration) -> Result<()> {
        let Some(connection) = self.idle.take() else { return Ok(()) };
        let interrupt = connection.get_interrupt_handle();
        let (path, begun) = (self.path.clone(), Arc::new(AtomicBool::new(false)));
        let begins = Arc::clone(&begun);
        let run = move || {
            let done = checkpoint(&connection, &path, patience, &begins);
            (connection, done)
        };
        let thread = std::thread::Builder::new().name("rewound-checkpoint".into()).spawn(run);
        let thread = thread.map_err(|e| Error::Io {
            operation: "start a thread that copies back the log of",
            path: self.path.clone(),
            source: Arc::new(e),
        })?;
        self.running = Some(Running { thread, interrupt, begun });
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Waits until the checkpoint has surely begun, or nearly so, but not for long.
    pub fn wait_for_begin(&self) {
        let until = Instant::now() + BEGIN;
        let begun = || self.running.as_ref().is_none_or(|r| r.begun.load(Ordering::Acquire));
        while !begun() && Instant::now() < until {
            std::thread::yield_now();
        }
        std::thread::sleep(BEGINS);
    }

    /// How the checkpoint ended that was under way when this was asked last, if it has.
    pub fn ended(&mut self) -> Option<Result<Copied>> {
        let ended = self.running.as_ref().is_some_and(|r| r.thread.is_finished());
        if ended { self.wait() } else { None }
    }

    /// Waits for the one that is under way, if there is one.
    pub fn wait(&mut self) -> Option<Result<Copied>> {
        Some(match self.running.take()?.thread.join() {
            Ok((connection, done)) => {
                self.idle = Some(connection);
                done
            }
            Err(_) => Err(Error::Sqlite {
                operation: "checkpoint",
                path: self.path.clone(),
                message: "the thread panicked".into(),
            }),
        })
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.interrupt.interrupt();
        }
        let _ = self.wait();
    }
}

fn checkpoint(connection: &Connection, path: &Path, patience: Duration, begun: &AtomicBool) -> Result<Copied> {
    let since = Instant::now();
    let failed = |e| failed("checkpoint", path, &e);
    let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)").map_err(failed)?;
    end(connection, path)?;
    begun.store(true, Ordering::Release);
    loop {
        let busy = statement.query_row([], |row| row.get::<_, i64>(0)).map_err(failed)?;
        if busy == 0 {
            return Ok(Copied::Done);
        } else if since.elapsed() >= patience {
            return Ok(Copied::Busy);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Frames between two syncs of a log: 4 MiB of pages of 4 KiB.
const SYNC_FRAMES: u32 = 1024;

/// Syncs a log while it grows. A checkpoint begins with that, and takes so much longer where nobody has: the application leaves it to its
/// checkpoints, too, with `synchronous = NORMAL`.
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
        if at.frames < self.frames.saturating_add(SYNC_FRAMES) || self.thread.as_ref().is_some_and(|t| !t.is_finished())
        {
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
