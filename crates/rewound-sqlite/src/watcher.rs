//! The watcher: opens, follows, tries again, stops.
//!
//! Puts the two sides together. Each can fail on its own: while the archive's does the database's stays attached, so that its
//! log is kept; when the database's fails both begin again, and the mark in the archive tells whether anything can have been missed.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rewound::Node;
use rewound::env::Owner;
use rewound::types::check_name;

use super::archivist::Archivist;
use super::compare::{Subject, copy, resync};
use super::error::{Error, Result, Stage};
use super::files::{DatabaseFile, Paths, is_same};
use super::format::{DatabaseHeader, has_wal_reset_bug};
use super::identity::{Kin, Record};
use super::link::{Caught, Former, Link, SETTLED, check, not_to_be_used};
use super::options::WatchOptions;
use super::parting::{End, Parting, Since};
use super::pin::enable_wal;
use super::status::{Event, Handle, State, Status};
use super::wake::{Notifier, wait};

/// The first pause after a failure.
const RETRY: Duration = Duration::from_millis(100);
/// How long a backup tries again.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a notification without a transaction, which may be about to be committed, the log is looked at again after so long, then after twice as long, ...
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// ... up to this, ...
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(5);
/// ... until nothing was written for so long.
const ALERT: Duration = Duration::from_secs(1);

type OnEvent = Box<dyn FnMut(&Event) + Send>;

/// A database that is attached to and belongs to no node yet: it is one, in WAL mode, may be written to, is watched by nobody else, and its log is pinned.
///
/// For programs that make a node only for what can be watched; [`Watcher::open`] does both steps at once.
#[derive(Debug)]
pub struct Attached {
    paths: Paths,
    options: WatchOptions,
    link: Link,
    lock: Option<File>,
}

impl Attached {
    /// Attaches to a database. Copies and compares nothing. For a watcher that is just ending it waits a second.
    pub fn open(database: impl AsRef<Path>, options: WatchOptions) -> Result<Attached> {
        if let Some(space) = &options.space {
            check_name("space", space).map_err(rewound::Error::from)?;
        }
        let paths = Paths::of(database.as_ref())?;
        let (begun, mut lock) = (Instant::now(), None);
        loop {
            match connect(&paths, &options, &mut lock) {
                Err(e @ Error::AlreadyWatched { .. }) if begun.elapsed() < e.patience(Stage::Starting) => {
                    std::thread::sleep(RETRY);
                }
                link => return Ok(Attached { link: link?, paths, options, lock }),
            }
        }
    }

    /// Takes the node's writer, as [`Watcher::open`] does. A node that belongs to another database is refused, unless [`WatchOptions::adopt`] says otherwise.
    pub fn watch(self, node: &Node) -> Result<Watcher> {
        let Attached { paths, options, link, lock } = self;
        let mut watcher = Watcher::new(node, paths, options)?;
        watcher.lock = lock;
        watcher.attached(link)?;
        watcher.start()
    }
}

/// Connects to a database and pins its log, with the watcher's lock taken first where it is not held.
fn connect(paths: &Paths, options: &WatchOptions, lock: &mut Option<File>) -> Result<Link> {
    // What is no database gets no lock beside it.
    let file = DatabaseFile::open(paths)?;
    let wal = match check(&file, paths) {
        Err(Error::NotWal { .. }) if options.enable_wal => false,
        other => other?.wal,
    };
    hold(paths, lock)?;
    if wal {
        // A connection of this process would make another index, and take it for the one that everybody uses.
        not_to_be_used(file.connected_without_index(paths)?, paths)?;
    } else {
        enable_wal(&paths.database, options.busy_timeout)?;
    }
    Link::open(paths, options)
}

/// Takes the watcher's lock, unless it is held and still has its name.
fn hold(paths: &Paths, lock: &mut Option<File>) -> Result<()> {
    if !lock.as_ref().is_some_and(|lock| is_same(lock, &paths.lock)) {
        *lock = Some(paths.lock()?);
    }
    Ok(())
}

/// Protects one SQLite database. Runs on one thread of your choice; others reach it through its [`Handle`].
///
/// Dropping it is closing it, but for the error.
pub struct Watcher {
    owner: Owner,
    node: Node,
    paths: Paths,
    options: WatchOptions,
    handle: Handle,
    on_event: Option<OnEvent>,
    status: Status,
    behind_since: Option<Instant>,
    archivist: Option<Archivist>,
    link: Option<Link>,
    /// What was last attached to, ...
    former: Option<Former>,
    /// ... and whether the file that is attached to was held open since the archive was last as the database is.
    held: bool,
    notifier: Option<Notifier>,
    /// Why the archive's newest state is not taken for what the mark says, where that is so.
    distrust: Option<String>,
    /// What the database's side last met, to be told as the reason where continuity is not proven.
    suspicion: Option<String>,
    /// Why the database's log cannot be copied back, as it was last told.
    trouble: Option<String>,
    /// Whether the SQLite that writes the database was warned of.
    told_of_bug: bool,
    /// The newest request that this round began after.
    asked: u64,
    /// When the names of the database's and the archive's files were last looked at, and found to stand for them.
    files_checked: Option<Instant>,
    /// Keeps a second watcher out, and holds what the last one left.
    lock: Option<File>,
    parting: Option<Parting>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("database", &self.paths.database)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // In a forked child SQLite's locks are not held and its threads do not run, and it knows of neither: closing would copy the log back, and remove it.
        if !self.owner.is_here() {
            std::mem::forget((self.link.take(), self.notifier.take()));
        } else if self.link.is_some() {
            // Who wants to know closes it.
            let _ = self.finish();
        }
    }
}

impl Watcher {
    /// Attaches to a database: checks that it is one, in WAL mode and not watched by another; pins the database's log; takes the node's writer.
    /// Copies and compares nothing yet.
    ///
    /// What waiting can mend, such as a full archive, is no error here, as it is none of [`run`](Self::run): the status is [`State::Retrying`] then, and the next
    /// round tries again. The log is pinned meanwhile. For a watcher that is just ending it waits a second.
    ///
    /// The node should be made for it, with [`Origin::Existing`](rewound::Origin::Existing), and hold nothing else: which database it belongs to is on
    /// record in it, and another one is refused.
    pub fn open(node: &Node, database: impl AsRef<Path>, options: WatchOptions) -> Result<Watcher> {
        if let Some(space) = &options.space {
            check_name("space", space).map_err(rewound::Error::from)?;
        }
        let paths = Paths::of(database.as_ref())?;
        Watcher::new(node, paths, options)?.start()
    }

    fn new(node: &Node, paths: Paths, options: WatchOptions) -> Result<Watcher> {
        Ok(Watcher {
            owner: Owner::here(),
            node: node.clone(),
            paths,
            options,
            handle: Handle::new()?,
            on_event: None,
            status: Status::default(),
            behind_since: None,
            archivist: None,
            link: None,
            former: None,
            held: false,
            notifier: None,
            distrust: None,
            suspicion: None,
            trouble: None,
            told_of_bug: false,
            asked: 0,
            files_checked: None,
            lock: None,
            parting: None,
        })
    }

    /// Takes what it needs for the first time.
    fn start(mut self) -> Result<Watcher> {
        let begun = Instant::now();
        while let Err(e) = self.attach() {
            let patience = e.patience(Stage::Starting);
            if begun.elapsed() >= patience {
                return Err(e);
            } else if patience == Duration::MAX {
                self.failed(&e);
                break;
            }
            std::thread::sleep(RETRY);
        }
        self.publish();
        Ok(self)
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
                    if since.elapsed() >= e.patience(Stage::Running) {
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
        // What is committed by now, once more to where it is meant to go; where that fails the mark says where to go on.
        self.files_checked = None;
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

    /// Brings the archive up to now and closes: as [`backup`] does.
    pub fn backup(mut self) -> Result<Status> {
        let (begun, mut delay) = (Instant::now(), RETRY);
        while let Err(e) = self.poll_once() {
            // A moment at which the log starts over, say.
            if begun.elapsed() >= e.patience(Stage::Starting).min(PATIENCE) {
                return Err(e);
            }
            self.event(&Event::Retrying { failure: e.to_string(), after: delay });
            std::thread::sleep(delay);
            delay *= 2;
        }
        // An application without checkpoints of its own may have nobody else who does them.
        if let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist) {
            let caught = link.wait_for_copy(archivist)?;
            self.count(&caught);
        }
        self.finish()
    }

    /// Ends: everything archived is durable, the node's writer is free, the database is unpinned.
    pub fn close(mut self) -> Result<Status> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Status> {
        self.check_process()?;
        // Whoever is at it, or what fails, leaves the log as it is: the next watcher finds its place in it.
        if self.status.state == State::Following
            && let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist)
            && let Ok(caught) = link.part(archivist)
        {
            self.count(&caught);
        }
        let end = self.end();
        // The archive first: the pin holds what it does not have.
        let closed = self.archivist.take().map_or(Ok(()), |a| a.writer.close());
        if self.status.state == State::Following && closed.is_ok() {
            self.leave(end);
        }
        self.link = None;
        self.notifier = None;
        self.status.state = State::Stopped;
        self.publish();
        self.handle.closed();
        closed.map(|()| self.status.clone()).map_err(Error::Archive)
    }

    /// Refuses to go on in a process that was forked from the one that opened it.
    fn check_process(&self) -> Result<()> {
        self.owner.check("the watcher").map_err(Error::Archive)
    }

    fn round(&mut self) -> Result<u64> {
        self.check_process()?;
        self.asked = self.handle.asked();
        self.attach()?;
        if self.status.state != State::Following {
            self.begin()?;
        }
        let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist) else { return Ok(0) };
        let look = self.files_checked.is_none_or(|at| at.elapsed() >= self.options.poll_interval);
        if look {
            // First: who overwrites it may remove files as well.
            if let Err(e) = link.check_content() {
                // The log may continue all the same.
                self.distrust = Some(e.to_string());
                return Err(e);
            }
            link.check_files()?;
            hold(&self.paths, &mut self.lock)?;
            archivist.writer.check()?;
        }
        if self.behind_since.is_none() && link.is_behind()? {
            self.behind_since = Some(Instant::now());
            self.handle.publish(&self.status, self.behind_since);
        }
        let mut caught = link.catch_up(archivist)?;
        self.behind_since = None;
        if look {
            // What was committed to the database of before is archived by now.
            self.paths.check_name()?;
            self.files_checked = Some(Instant::now());
        }
        caught.add(&link.tend(archivist, &self.options)?);
        if link.was_emptied() {
            self.leave(self.end());
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
        self.tell_of_bug();
        Ok(commits)
    }

    /// Begins to follow: where the archive ends, or after a copy, or after a comparison.
    fn begin(&mut self) -> Result<()> {
        let Some(archivist) = &self.archivist else { return Ok(()) };
        // A first copy may have been cut short, between its commit and its base.
        match archivist.writer.host_mark().filter(|_| archivist.space.is_some()) {
            Some(mark) if !self.node.layers()?.is_empty() => self.go_on(&mark)?,
            _ => self.copy()?,
        }
        (self.distrust, self.suspicion, self.held) = (None, None, true);
        self.status.state = State::Following;
        Ok(())
    }

    /// Copies the database for the first time.
    fn copy(&mut self) -> Result<()> {
        let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist) else { return Ok(()) };
        let (begun, database) = (Instant::now(), link.identity()?);
        self.status.state = State::Copying;
        let bytes = link.live()?.len();
        emit(&mut self.on_event, &Event::CopyStarted { bytes });
        self.handle.publish(&self.status, None);
        let record = Some(Record::new(&database, &archivist.name, None));
        let subject = Subject { node: &self.node, database: &database, record, replay: &self.options.base.replay };
        let lsn = copy(link, archivist, &subject, &self.options.base)?;
        self.status.archived = lsn.into();
        emit(&mut self.on_event, &Event::CopyFinished { lsn, elapsed: begun.elapsed() });
        Ok(())
    }

    /// Goes on where the archive ends, if that is proven, or compares.
    fn go_on(&mut self, mark: &[u8]) -> Result<()> {
        let (Some(link), Some(archivist)) = (&mut self.link, &mut self.archivist) else { return Ok(()) };
        let (begun, database, log) = (Instant::now(), link.identity()?, link.generation()?);
        let since = match (&self.parting, archivist.end(&self.node)) {
            (Some(parting), Some(end)) => link.since(parting, &end)?,
            _ => Since::Unknown,
        };
        let doubt = self.distrust.clone().or_else(|| archivist.doubt(&database, self.held, log, since));
        if doubt.is_none() && resume(link, archivist, mark, since)? {
            if archivist.kin == Kin::Moved {
                archivist.news = Some(Record::new(&database, &archivist.name, None));
            }
            let position = archivist.writer.newest();
            emit(&mut self.on_event, &Event::Continued { position });
            return Ok(());
        }
        // The log of a file that was there before may have stayed, and knows the mark.
        let foreign = archivist.record.as_ref().is_some_and(|record| record.disowns(log))
            || archivist.kin == Kin::Replaced && resume(link, archivist, mark, since).unwrap_or(false);
        let record = Record::new(&database, &archivist.name, foreign.then_some(log));
        let record = (archivist.kin != Kin::Same).then_some(record);
        let subject = Subject { node: &self.node, database: &database, record, replay: &self.options.base.replay };
        let reason = doubt.or_else(|| self.suspicion.clone()).unwrap_or_else(|| UNPROVEN.to_owned());
        self.status.state = State::Resyncing;
        emit(&mut self.on_event, &Event::ResyncStarted { reason: reason.clone() });
        self.handle.publish(&self.status, None);
        let (commit, pages) = resync(link, archivist, &subject, &reason)?;
        self.status.resyncs += 1;
        self.status.last_resync = Some(reason);
        self.status.archived = commit.lsn.into();
        self.status.archived_at = Some(commit.timestamp);
        emit(&mut self.on_event, &Event::ResyncFinished { lsn: commit.lsn, pages, elapsed: begun.elapsed() });
        Ok(())
    }

    /// Takes what is not held: the database, by what the name that was given stands for now, and then, its log pinned, the archive.
    fn attach(&mut self) -> Result<()> {
        if self.link.is_none() {
            let paths = self.paths.again()?;
            if let Some(former) = &self.former {
                former.check(&paths)?;
            }
            let link = connect(&paths, &self.options, &mut self.lock)?;
            if let Some(warning) = self.former.as_ref().and_then(|former| former.warning(&paths)) {
                self.event(&Event::Warning(warning));
            }
            self.paths = paths;
            self.attached(link)?;
        }
        if let (None, Some(link)) = (&self.archivist, &self.link) {
            let archivist = Archivist::open(&self.node, &link.identity()?, &self.options)?;
            self.status.archived = archivist.writer.durable();
            self.archivist = Some(archivist);
            self.status.state = State::Starting;
        }
        Ok(())
    }

    fn attached(&mut self, link: Link) -> Result<()> {
        self.note_header(&link.header()?);
        self.notifier = self.options.notify.then(|| Notifier::new(&self.paths)).flatten();
        match &self.former {
            None => self.parting = self.lock.as_ref().and_then(Parting::read),
            Some(former) => {
                self.held &= former.is_of(&link);
                // Nobody has looked in between.
                if let Err(e) = former.check_content(&link) {
                    self.distrust = Some(e.to_string());
                }
            }
        }
        self.link = Some(link);
        self.status.state = State::Starting;
        Ok(())
    }

    /// Where the archive ends.
    fn end(&self) -> Option<End> {
        self.archivist.as_ref()?.end(&self.node)
    }

    /// Leaves for the next watcher what the database is like now. That it gets there is not vital.
    fn leave(&self, end: Option<End>) {
        let parting = self.link.as_ref().zip(end).and_then(|(link, end)| link.parting(end));
        if let (Some(parting), Some(lock)) = (parting, &self.lock) {
            Parting::forget(lock);
            parting.leave(lock);
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
        // The writer accepts nothing more after most failures; opening it again recovers what is durable.
        self.archivist = None;
        match e {
            Error::Archive(rewound::Error::PreviousImageMismatch { .. }) => {
                self.distrust = Some(e.to_string());
                self.let_go();
            }
            // The pin stays: the log keeps what the archive does not have yet.
            Error::Archive(_) => {}
            _ => {
                self.suspicion = Some(e.to_string());
                self.let_go();
            }
        }
        // How far it falls behind is told meanwhile.
        if self.link.as_mut().is_none_or(|link| link.look().is_err() || link.pending_bytes() > 0) {
            self.behind_since.get_or_insert_with(Instant::now);
        }
    }

    /// Ends the attachment, and keeps what the next one has to know of it.
    fn let_go(&mut self) {
        if let Some(link) = self.link.take() {
            self.former = Some(link.former());
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
        self.status.wal_reset_bug |= has_wal_reset_bug(header.version);
    }

    /// Tells once of a SQLite that can damage the database: in a round, as nobody can listen before.
    fn tell_of_bug(&mut self) {
        if !self.status.wal_reset_bug || std::mem::replace(&mut self.told_of_bug, true) {
            return;
        }
        let version = self.status.sqlite_version;
        let (major, minor, patch) = (version / 1_000_000, version / 1_000 % 1_000, version % 1_000);
        self.event(&Event::Warning(format!(
            "{} is written by SQLite {major}.{minor}.{patch}, which can damage a database in WAL mode with several connections (its WAL-reset bug, mended in 3.51.3): update the application's SQLite",
            self.paths.database.display()
        )));
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

/// Why continuity is not proven where nothing more is known.
const UNPROVEN: &str = "the database's log is not the one that the archive ends in: it started over while nobody watched, or the database was replaced or restored";

fn resume(link: &mut Link, archivist: &Archivist, mark: &[u8], since: Since) -> Result<bool> {
    let Some(space) = archivist.space else { return Ok(false) };
    let same_pages = archivist.writer.page_size(space) == Some(link.page_size);
    let known = if let Since::Untouched(place) = since { place } else { None };
    Ok(same_pages && link.resume(mark, known, archivist.writer.space_length(space).unwrap_or(0))?)
}

/// How a running watcher waits.
#[derive(Debug, Default)]
struct Pause {
    alert_until: Option<Instant>,
    look_again: Duration,
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
    watcher.backup()
}
