//! The watcher: opens, follows, tries again, stops.
//!
//! Puts the two sides together. Each can fail on its own: while the archive's does the database's stays attached, so that its
//! log is kept; when the database's fails both begin again, and the mark in the archive tells whether anything can have been missed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::archivist::Archivist;
use super::compare::{Subject, copy, resync};
use super::error::{Error, Result};
use super::files::{DatabaseFile, Paths};
use super::format::{DatabaseHeader, has_wal_reset_bug};
use super::link::{Caught, Link, SETTLED, check};
use super::options::WatchOptions;
use super::pin::enable_wal;
use super::status::{Event, Handle, State, Status};
use super::wake::{Notifier, wait};
use crate::archive::Node;

/// The first pause after a failure.
const RETRY: Duration = Duration::from_millis(100);
/// How long a backup tries again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a running watcher waits for a database that is not there, or is none, to come back: it may be about to be replaced.
const MISSING: Duration = Duration::from_secs(30);
/// After a notification without a transaction, which may be about to be committed, the log is looked at again after so long, then after twice as long, ...
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// ... up to this, ...
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(5);
/// ... until nothing was written for so long.
const ALERT: Duration = Duration::from_secs(1);

type OnEvent = Box<dyn FnMut(&Event) + Send>;

/// Protects one SQLite database. Runs on one thread of your choice; others reach it through its [`Handle`].
///
/// Dropping it is closing it, but for the error.
pub struct Watcher {
    node: Node,
    space: String,
    paths: Paths,
    options: WatchOptions,
    handle: Handle,
    on_event: Option<OnEvent>,
    status: Status,
    behind_since: Option<Instant>,
    archivist: Option<Archivist>,
    link: Option<Link>,
    notifier: Option<Notifier>,
    /// Why the archive's newest state is not taken for what the mark says, where that is so.
    distrust: Option<String>,
    /// What the database's side last met, to be told as the reason where continuity is not proven.
    suspicion: Option<String>,
    /// Why the database's log cannot be copied back, as it was last told.
    trouble: Option<String>,
    /// The newest request that this round began after.
    asked: u64,
    /// When the names of the database's files were last looked at.
    files_checked: Instant,
    /// Which process has opened it.
    process: u32,
    /// Keeps a second watcher out, and holds what is left for the next one.
    lock: File,
    /// What the last one has left there.
    left: String,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("database", &self.paths.database)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Attaches to a database: checks that it is one, in WAL mode and not watched by another; takes the node's writer; pins the database's log.
    /// Copies and compares nothing yet.
    ///
    /// The node should be made for it, with [`Origin::Existing`](crate::Origin::Existing), and hold nothing else.
    pub fn open(node: &Node, database: impl AsRef<Path>, options: WatchOptions) -> Result<Watcher> {
        let paths = Paths::of(database.as_ref())?;
        let file = DatabaseFile::open(&paths)?;
        match check(&file, &paths) {
            Err(Error::NotWal { .. }) if options.enable_wal => enable_wal(&paths.database, options.busy_timeout)?,
            other => drop(other?),
        }
        let lock = paths.lock()?;
        let space = options.space.clone().unwrap_or_else(|| {
            let name = paths.database.file_name().unwrap_or_default().to_string_lossy();
            name.into_owned()
        });
        let archivist = Archivist::open(node, &space, &options.writer)?;
        let link = Link::open(&paths, &options)?;
        let mut watcher = Watcher {
            node: node.clone(),
            space,
            paths,
            options,
            handle: Handle::new()?,
            on_event: None,
            status: Status::default(),
            behind_since: None,
            archivist: None,
            link: None,
            notifier: None,
            distrust: None,
            suspicion: None,
            trouble: None,
            asked: 0,
            files_checked: Instant::now(),
            process: std::process::id(),
            left: read_left(&lock).unwrap_or_default(),
            lock,
        };
        watcher.note_header(&link.header()?);
        watcher.attached(link);
        watcher.status.archived = archivist.writer.durable();
        watcher.archivist = Some(archivist);
        watcher.publish();
        Ok(watcher)
    }

    /// For other threads: status, stop, wake.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gives events to `callback`, on the watcher's own thread: it must not block.
    pub fn on_event(&mut self, callback: impl FnMut(&Event) + Send + 'static) {
        self.on_event = Some(Box::new(callback));
    }

    /// Follows the database until [`Handle::stop`] is called, then archives what there is and closes. Failures of the archive and of the
    /// database are tried again for as long as that can help; an error is what cannot be mended by waiting, such as a database that is gone for
    /// half a minute, or damage in the archive.
    pub fn run(&mut self) -> Result<Status> {
        let mut failing: Option<(Instant, Duration)> = None;
        let mut pause = Pause::default();
        while !self.handle.is_stopping() {
            let begun = Instant::now();
            match self.round() {
                Ok(commits) => {
                    if failing.take().is_some() {
                        self.event(&Event::Recovered);
                    }
                    self.succeeded();
                    self.rest(&mut pause, begun, commits > 0);
                }
                Err(e) => {
                    let (since, delay) = failing.unwrap_or((begun, RETRY));
                    self.failed(&e);
                    if !may_pass(&e, since.elapsed()) {
                        // What this adds to the failure is not worth hiding it.
                        let _ = self.finish();
                        return Err(e);
                    }
                    self.event(&Event::Retrying { failure: e.to_string(), after: delay });
                    self.publish();
                    failing = Some((since, (delay * 2).min(self.options.retry_max)));
                    self.sleep(delay);
                }
            }
        }
        // What is committed by now; where that fails the mark says where to go on.
        if let Err(e) = self.round() {
            self.failed(&e);
            self.finish().and(Err(e))
        } else {
            self.finish()
        }
    }

    /// One round: archives every transaction committed by now, durably; gives their number. The first
    /// round copies the database, or proves continuity, or compares. A failure is returned; the next call tries again.
    pub fn poll_once(&mut self) -> Result<u64> {
        let done = self.round();
        if let Err(e) = &done {
            self.failed(e);
            self.publish();
        } else {
            self.succeeded();
        }
        done
    }

    /// Ends: everything archived is durable, the node's writer is free, the database is unpinned.
    pub fn close(mut self) -> Result<Status> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Status> {
        // A process that was forked off only has copies of all this, and none of the locks.
        // Whoever is at it, or what fails, leaves the log as it is: the next watcher finds its place in it.
        if self.status.state == State::Following
            && self.process == std::process::id()
            && let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist)
            && let Ok(caught) = link.part(archivist)
        {
            self.count(&caught);
            self.leave();
        }
        // The archive first: the pin holds what it does not have.
        let closed = self.archivist.take().map_or(Ok(()), |a| a.writer.close());
        self.link = None;
        self.notifier = None;
        self.status.state = State::Stopped;
        self.publish();
        self.handle.closed();
        closed.map(|()| self.status.clone()).map_err(Error::Archive)
    }

    fn round(&mut self) -> Result<u64> {
        self.asked = self.handle.asked();
        if self.link.is_none() {
            let link = Link::open(&Paths::of(&self.paths.database)?, &self.options)?;
            self.attached(link);
        }
        if self.archivist.is_none() {
            self.archivist = Some(Archivist::open(&self.node, &self.space, &self.options.writer)?);
            self.status.state = State::Starting;
        }
        if self.status.state != State::Following {
            self.begin()?;
        }
        let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist) else { return Ok(0) };
        if self.files_checked.elapsed() >= self.options.poll_interval {
            self.files_checked = Instant::now();
            link.check_files()?;
        }
        if self.behind_since.is_none() && link.is_behind()? {
            self.behind_since = Some(Instant::now());
            self.handle.publish(&self.status, self.behind_since);
        }
        let mut caught = link.catch_up(archivist)?;
        self.behind_since = None;
        caught.add(&link.tend(archivist, &self.options)?);
        if link.was_emptied() {
            self.leave();
        }
        let Some(link) = &self.link else { return Ok(0) };
        let trouble = link.trouble.clone();
        if trouble != self.trouble {
            self.trouble.clone_from(&trouble);
            if let Some(trouble) = trouble {
                self.event(&Event::Warning(format!(
                    "the database's log cannot be copied back, and grows meanwhile: {trouble}"
                )));
            }
        }
        let commits = caught.commits;
        self.count(&caught);
        Ok(commits)
    }

    /// Begins to follow: where the archive ends, or after a copy, or after a comparison.
    fn begin(&mut self) -> Result<()> {
        let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist) else { return Ok(()) };
        let begun = Instant::now();
        let path = self.paths.database.display().to_string();
        let replay = &self.options.base.replay;
        let subject = Subject { node: &self.node, space: &self.space, path: &path, replay };
        // A first copy may have been cut short, between its commit and its base.
        let mark = archivist.writer.host_mark().filter(|_| archivist.space.is_some());
        if mark.is_none() || self.node.layers()?.is_empty() {
            self.status.state = State::Copying;
            let bytes = link.live()?.len();
            emit(&mut self.on_event, &Event::CopyStarted { bytes });
            self.handle.publish(&self.status, None);
            let lsn = copy(link, archivist, &subject, &self.options.base)?;
            self.distrust = None;
            self.status.archived = lsn.into();
            emit(&mut self.on_event, &Event::CopyFinished { lsn, elapsed: begun.elapsed() });
        } else if self.distrust.is_none() && resume(link, archivist, mark.as_deref(), &self.left)? {
            let position = archivist.writer.newest();
            emit(&mut self.on_event, &Event::Continued { position });
        } else {
            let reason =
                self.distrust.clone().or_else(|| self.suspicion.clone()).unwrap_or_else(|| UNPROVEN.to_owned());
            self.status.state = State::Resyncing;
            emit(&mut self.on_event, &Event::ResyncStarted { reason: reason.clone() });
            self.handle.publish(&self.status, None);
            let (commit, pages) = resync(link, archivist, &subject, &reason)?;
            self.distrust = None;
            self.status.resyncs += 1;
            self.status.last_resync = Some(reason);
            self.status.archived = commit.lsn.into();
            self.status.archived_at = Some(commit.timestamp);
            emit(&mut self.on_event, &Event::ResyncFinished { lsn: commit.lsn, pages, elapsed: begun.elapsed() });
        }
        self.suspicion = None;
        self.status.state = State::Following;
        Ok(())
    }

    fn attached(&mut self, link: Link) {
        self.notifier = self.options.notify.then(|| Notifier::new(&self.paths)).flatten();
        self.link = Some(link);
        self.status.state = State::Starting;
    }

    /// Leaves for the next watcher that the database file is complete, where it is. That it gets there is not vital.
    fn leave(&mut self) {
        let there = read_left(&self.lock);
        let Some(complete) = self.link.as_ref().and_then(Link::complete) else { return };
        if there.as_ref().is_some_and(|left| *left != complete) {
            // Cut short it fits nothing.
            let _ = self.lock.set_len(0).and_then(|()| self.lock.write_all_at(complete.as_bytes(), 0));
        }
    }

    /// A round is complete: tells everybody, and then whoever waits for it.
    fn succeeded(&mut self) {
        self.status.failure = None;
        self.publish();
        self.handle.answer(self.asked, self.status.archived);
    }

    /// Lets go of what a failure made unusable.
    fn failed(&mut self, e: &Error) {
        self.status.failures += 1;
        self.status.failure = Some(e.to_string());
        self.status.state = State::Retrying;
        self.behind_since.get_or_insert_with(Instant::now);
        // The writer accepts nothing more after most failures; opening it again recovers what is durable.
        self.archivist = None;
        match e {
            Error::Archive(crate::Error::PreviousImageMismatch { .. }) => {
                self.distrust = Some(e.to_string());
                self.link = None;
            }
            // The pin stays: the log keeps what the archive does not have yet.
            Error::Archive(_) => {}
            _ => {
                self.suspicion = Some(e.to_string());
                self.link = None;
            }
        }
    }

    /// Waits for something to do.
    fn rest(&mut self, pause: &mut Pause, begun: Instant, worked: bool) {
        if worked {
            // Transactions gather; nothing but a stop ends this.
            *pause = Pause { alert_until: Some(Instant::now() + ALERT), look_again: LOOK_AGAIN };
            self.sleep(self.options.round_interval.saturating_sub(begun.elapsed()));
            return;
        }
        let now = Instant::now();
        if self.notifier.as_ref().is_some_and(Notifier::drain) {
            pause.alert_until = Some(now + ALERT);
        }
        let at_rest = self.link.as_ref().is_none_or(Link::is_at_rest);
        if pause.alert_until.is_some_and(|until| until > now) {
            // Something was written and is not committed yet, as far as one can see: a notification comes before the commit. To wait for
            // the next one would be too late, and to wake at each too much.
            wait(self.handle.bell(), None, true, pause.look_again);
            pause.look_again = (pause.look_again * 2).min(LOOK_AGAIN_MAX);
        } else if !at_rest {
            wait(self.handle.bell(), self.notifier.as_ref(), true, SETTLED);
        } else if self.notifier.is_some() {
            pause.look_again = LOOK_AGAIN;
            wait(self.handle.bell(), self.notifier.as_ref(), true, self.options.poll_interval);
        } else {
            wait(self.handle.bell(), None, true, self.options.round_interval);
        }
    }

    /// Sleeps; only [`Handle::stop`] ends it early.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
            if self.handle.is_stopping() {
                break;
            }
            wait(self.handle.bell(), None, false, left);
        }
    }

    fn count(&mut self, caught: &Caught) {
        self.status.commits += caught.commits;
        self.status.pages += caught.pages;
        self.status.wal_resets += caught.resets;
        if let Some(newest) = caught.newest {
            self.status.archived = newest.lsn.into();
            self.status.archived_at = Some(newest.timestamp);
            let (lsn, timestamp, commits) = (newest.lsn, newest.timestamp, caught.commits);
            self.event(&Event::Archived { lsn, timestamp, commits });
        }
        if let Some(header) = &caught.header {
            self.note_header(header);
        }
    }

    /// Looks at who writes the database.
    fn note_header(&mut self, header: &DatabaseHeader) {
        self.status.sqlite_version = header.version;
        let bug = has_wal_reset_bug(header.version);
        if bug && !self.status.wal_reset_bug {
            let (major, minor, patch) =
                (header.version / 1_000_000, header.version / 1_000 % 1_000, header.version % 1_000);
            self.event(&Event::Warning(format!(
                "{} is written by SQLite {major}.{minor}.{patch}, which can damage a database in WAL mode with several connections (its WAL-reset bug, mended in 3.51.3): update the application's SQLite",
                self.paths.database.display()
            )));
        }
        self.status.wal_reset_bug |= bug;
    }

    fn event(&mut self, event: &Event) {
        emit(&mut self.on_event, event);
    }

    fn publish(&mut self) {
        if let Some(link) = &self.link {
            self.status.wal_bytes = link.wal_bytes();
            self.status.pending_bytes = link.pending_bytes();
        }
        self.handle.publish(&self.status, self.behind_since);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.link.is_some() && self.process == std::process::id() {
            // Who wants to know closes it.
            let _ = self.finish();
        }
    }
}

/// Why continuity is not proven where nothing more is known.
const UNPROVEN: &str = "the database's log is not the one that the archive ends in: it started over while nobody watched, or the database was replaced or restored";

/// What the last watcher has left in its lock file; `None` where that holds anything else, which is not ours to overwrite.
fn read_left(lock: &File) -> Option<String> {
    let mut bytes = [0; 512];
    let len = lock.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(bytes.get(..len)?).ok()?;
    let is_hex = |mark: &str| mark.len() == 40 && mark.bytes().all(|b| b.is_ascii_hexdigit());
    (text.is_empty() || text.split(' ').next().is_some_and(is_hex)).then(|| text.to_owned())
}

fn resume(link: &mut Link, archivist: &Archivist, mark: Option<&[u8]>, left: &str) -> Result<bool> {
    let (Some(mark), Some(space)) = (mark, archivist.space) else { return Ok(false) };
    let same_pages = archivist.writer.page_size(space) == Some(link.page_size);
    Ok(same_pages && link.resume(mark, archivist.writer.space_length(space).unwrap_or(0), left)?)
}

/// How a running watcher waits.
#[derive(Debug, Default)]
struct Pause {
    alert_until: Option<Instant>,
    look_again: Duration,
}

/// Whether a failure may pass by itself.
fn may_pass(e: &Error, since: Duration) -> bool {
    match e {
        Error::Archive(e) => matches!(
            e,
            crate::Error::Storage { .. }
                | crate::Error::DiskFull { .. }
                | crate::Error::Poisoned { .. }
                | crate::Error::KeyProvider { .. }
                | crate::Error::PreviousImageMismatch { .. }
        ),
        Error::NoDatabase { .. } | Error::NotADatabase { .. } | Error::NotWal { .. } => since < MISSING,
        // From the third on, what a restore in place meets, not a watcher.
        Error::AlreadyWatched { .. }
        | Error::WrongNode { .. }
        | Error::InUse { .. }
        | Error::Leftover { .. }
        | Error::Refused { .. }
        | Error::HalfReplaced { .. } => false,
        Error::Locked { .. } | Error::Inconsistent { .. } | Error::Sqlite { .. } | Error::Io { .. } => true,
    }
}

fn emit(on_event: &mut Option<OnEvent>, event: &Event) {
    match event {
        Event::Archived { .. } => tracing::trace!(?event, "sqlite"),
        Event::Warning(_) | Event::ResyncStarted { .. } | Event::Retrying { .. } => tracing::warn!(?event, "sqlite"),
        _ => tracing::info!(?event, "sqlite"),
    }
    if let Some(callback) = on_event {
        callback(event);
    }
}

/// Brings the archive up to now, once: attaches, copies or continues or compares, archives every transaction committed by now, leaves.
///
/// Between two of these nobody keeps the database's log: where the application's checkpoints have discarded a part of it the next one has to compare, and
/// what was between is one commit marked as a resync.
pub fn backup(
    node: &Node,
    database: impl AsRef<Path>,
    options: WatchOptions,
    callback: impl FnMut(&Event) + Send + 'static,
) -> Result<Status> {
    let mut watcher = Watcher::open(node, database, options)?;
    watcher.on_event(callback);
    let begun = Instant::now();
    loop {
        match watcher.poll_once() {
            // A moment at which the log starts over, say.
            Err(Error::Inconsistent { .. } | Error::Locked { .. }) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(RETRY);
            }
            done => {
                done?;
                break;
            }
        }
    }
    // An application without checkpoints of its own may have nobody else who does them.
    if let (Some(link), Some(archivist)) = (&mut watcher.link, &mut watcher.archivist) {
        let caught = link.wait_for_copy(archivist)?;
        watcher.count(&caught);
    }
    watcher.close()
}
