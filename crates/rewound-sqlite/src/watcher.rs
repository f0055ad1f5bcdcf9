//! The watcher: a database that is followed into a node.
//!
//! How it opens, follows, tries again and stops is the [follower's](rewound_follow::Follower); what
//! that means for a SQLite database is in [`source`](super::source).

use std::path::Path;
use std::time::{Duration, Instant};

use rewound::Node;
use rewound::types::check_name;
use rewound_follow::{Event, Failure, FollowOptions, Follower, Stage};

use super::error::{Error, Result};
use super::files::Paths;
use super::format::DatabaseHeader;
use super::held::{Away, Held};
use super::options::WatchOptions;
use super::source::Database;
use super::status::{Handle, Status};

/// How often another watcher is asked for that is just ending.
const RETRY: Duration = Duration::from_millis(100);

/// A database that is attached to and belongs to no node yet: it is one, in WAL mode, may be
/// written to, is watched by nobody else, and its log is pinned.
///
/// For programs that make a node only for what can be watched; [`Watcher::open`] does both steps at
/// once.
#[derive(Debug)]
pub struct Attached {
    paths: Paths,
    options: WatchOptions,
    held: Held,
    header: DatabaseHeader,
}

impl Attached {
    /// Attaches to a database. Copies and compares nothing. For a watcher that is just ending it
    /// waits a second.
    pub fn open(database: impl AsRef<Path>, options: WatchOptions) -> Result<Attached> {
        let paths = paths(database.as_ref(), &options)?;
        let (begun, mut away) = (Instant::now(), Box::<Away>::default());
        loop {
            match away.connect(&paths, &options) {
                Err((left, e @ Error::AlreadyWatched { .. })) => {
                    if begun.elapsed() >= e.patience(Stage::Starting) {
                        return Err(e);
                    }
                    away = left;
                    std::thread::sleep(RETRY);
                }
                Err((_, e)) => return Err(e),
                Ok(held) => {
                    let header = held.link.header()?;
                    return Ok(Attached { paths, options, held, header });
                }
            }
        }
    }

    /// Takes the node's writer, as [`Watcher::open`] does. A node that belongs to another database
    /// is refused, unless [`WatchOptions::adopt`] says otherwise.
    pub fn watch(self, node: &Node) -> Result<Watcher> {
        let Attached { paths, options, held, header } = self;
        let follow = follow(&options);
        let database = Database::new(node.clone(), paths, options);
        let mut follower = Follower::attached(database, held, follow).map_err(no_descriptor)?;
        follower.report().details().note(&header);
        Watcher::start(follower)
    }
}

/// Protects one SQLite database. Runs on one thread of your choice; others reach it through its
/// [`Handle`].
///
/// Dropping it is closing it, but for the error.
pub struct Watcher {
    follower: Follower<Database>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("database", &self.follower.source().paths.database)
            .field("follower", &self.follower)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Attaches to a database: checks that it is one, in WAL mode and not watched by another; pins
    /// the database's log; takes the node's writer. Copies and compares nothing yet.
    ///
    /// What waiting can mend, such as a full archive, is no error here, as it is none of
    /// [`run`](Self::run): the status is [`State::Retrying`](super::State::Retrying) then, and the
    /// next round tries again. The log is pinned meanwhile. For a watcher that is just ending it
    /// waits a second.
    ///
    /// The node should be made for it, with [`Origin::Existing`](rewound::Origin::Existing), and
    /// hold nothing else: which database it belongs to is on record in it, and another one is
    /// refused.
    pub fn open(node: &Node, database: impl AsRef<Path>, options: WatchOptions) -> Result<Watcher> {
        let paths = paths(database.as_ref(), &options)?;
        let follow = follow(&options);
        let database = Database::new(node.clone(), paths, options);
        Watcher::start(Follower::new(database, follow).map_err(no_descriptor)?)
    }

    fn start(mut follower: Follower<Database>) -> Result<Watcher> {
        follower.on_event(trace);
        Ok(Watcher { follower: follower.start()? })
    }

    /// For other threads: status, stop, wake.
    pub fn handle(&self) -> Handle {
        Handle::new(self.follower.handle())
    }

    /// Gives events to `callback`, on the watcher's own thread: it must not block.
    pub fn on_event(&mut self, mut callback: impl FnMut(&Event) + Send + 'static) {
        self.follower.on_event(move |event| {
            trace(event);
            callback(event);
        });
    }

    /// Follows the database until [`Handle::stop`] is called, then archives what there is and
    /// closes. Failures of the archive and of the database are tried again for as long as that can
    /// help; an error is what cannot be mended by waiting, such as a database that is gone for half
    /// a minute, or damage in the archive.
    pub fn run(&mut self) -> Result<Status> {
        self.follower.run().map(Status::from)
    }

    /// One round: archives every transaction committed by now, durably; gives their number. The
    /// first round copies the database, or proves continuity, or compares. A failure is returned;
    /// the next call tries again.
    pub fn poll_once(&mut self) -> Result<u64> {
        self.follower.poll_once()
    }

    /// Brings the archive up to now and closes: as [`backup`] does.
    pub fn backup(self) -> Result<Status> {
        self.follower.backup().map(Status::from)
    }

    /// Ends: everything archived is durable, the node's writer is free, the database is unpinned.
    pub fn close(self) -> Result<Status> {
        self.follower.close().map(Status::from)
    }
}

fn paths(database: &Path, options: &WatchOptions) -> Result<Paths> {
    if let Some(space) = &options.space {
        check_name("space", space).map_err(rewound::Error::from)?;
    }
    Paths::of(database)
}

fn follow(options: &WatchOptions) -> FollowOptions {
    FollowOptions {
        round_interval: options.round_interval,
        check_interval: options.poll_interval,
        retry_max: options.retry_max,
    }
}

fn no_descriptor(e: std::io::Error) -> Error {
    Error::io("make", "an event descriptor", e)
}

fn trace(event: &Event) {
    match event {
        Event::Archived { .. } => tracing::trace!(?event, "sqlite"),
        Event::Warning(_) | Event::ResyncStarted { .. } | Event::Retrying { .. } => {
            tracing::warn!(?event, "sqlite");
        }
        _ => tracing::info!(?event, "sqlite"),
    }
}

/// Brings the archive up to now, once: attaches, copies or continues or compares, archives every
/// transaction committed by now, leaves.
///
/// Between two of these nobody keeps the database's log: where the application's checkpoints have
/// discarded a part of it the next one has to compare, and what was between is one commit marked as
/// a resync.
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
