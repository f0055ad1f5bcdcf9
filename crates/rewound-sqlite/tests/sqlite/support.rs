//! What several tests need.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rewound::{Archive, KeyFile, Node, Origin};
use rewound_sqlite::{Error, Event, Handle, Status, WatchOptions, Watcher};
use rusqlite::Connection;
use tempfile::TempDir;

/// splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// The seed of a test: from the environment, or the clock.
pub fn seed() -> u64 {
    let given = std::env::var("REWOUND_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    eprintln!("REWOUND_SEED={seed}");
    seed
}

/// A directory with a database and an archive.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn db(&self) -> PathBuf {
        self.path("app.db")
    }

    pub fn connect(&self) -> Connection {
        connect(&self.db())
    }

    /// Creates the archive and its node.
    pub fn node(&self) -> Node {
        let archive = Archive::create(self.path("archive"), key()).unwrap();
        archive.create_node("app", Origin::Existing).unwrap()
    }

    /// Opens it again.
    pub fn reopened(&self) -> Node {
        open_node(&self.path("archive"))
    }
}

pub fn open_node(archive: &Path) -> Node {
    Archive::open(archive, key()).unwrap().node("app").unwrap()
}

pub fn key() -> KeyFile {
    KeyFile::from_bytes([7; 32])
}

/// A connection in WAL mode.
pub fn connect(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    let _: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0)).unwrap();
    db.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
    db
}

/// A watcher on a thread of its own.
pub struct Watching {
    pub handle: Handle,
    pub events: Arc<Mutex<Vec<Event>>>,
    thread: JoinHandle<Result<Status, Error>>,
}

pub fn watch(node: &Node, db: &Path, options: WatchOptions) -> Watching {
    let mut watcher = Watcher::open(node, db, options).unwrap();
    let handle = watcher.handle();
    let events = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&events);
    watcher.on_event(move |e| to.lock().push(e.clone()));
    let thread = std::thread::spawn(move || watcher.run());
    let watching = Watching { handle, events, thread };
    watching.until("following", |s| s.state == rewound_sqlite::State::Following);
    watching
}

impl Watching {
    pub fn until(&self, what: &str, done: impl Fn(&Status) -> bool) {
        let begun = Instant::now();
        while !done(&self.handle.status()) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "waited for {what}: {:?}",
                self.handle.status()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for it to end by itself.
    pub fn failed(self) -> Error {
        self.thread.join().unwrap().unwrap_err()
    }

    /// Stops it in the midst of a failure, and gives that.
    pub fn stop_in_vain(self) -> Error {
        self.handle.stop();
        self.thread.join().unwrap().unwrap_err()
    }

    pub fn stop(self) -> Status {
        self.handle.stop();
        self.thread.join().unwrap().unwrap()
    }
}
