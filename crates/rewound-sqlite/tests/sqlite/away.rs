//! The archive goes away under a running watcher: told soon, tried again, mended once it is back,
//! and no success where it is not.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rewound::{Archive, Node, VerifyOptions};
use rewound_sqlite::{Error, Event, State, Status, WatchOptions, Watcher};
use rusqlite::Connection;

use super::oracle;
use super::support::{Place, Random, Watching, key, seed, watch};
use super::workload::{Shape, counter, prepare, transaction};

const SURE: Shape = Shape { blob: 300, changes: 4, rollback: 0, checkpoint: 0, cache: -2000 };

/// Soon enough: some of `options().poll_interval`.
const SOON: Duration = Duration::from_secs(2);

fn options() -> WatchOptions {
    let mut options = WatchOptions::default();
    options.poll_interval = Duration::from_millis(100);
    options.retry_max = Duration::from_millis(200);
    options
}

/// A database, its archive in a directory, and a watcher between them.
struct Scene {
    place: Place,
    db: Connection,
    random: Random,
    node: Node,
    watching: Watching,
}

impl Scene {
    fn new() -> Scene {
        let (place, random) = (Place::new(), Random(seed()));
        let db = place.connect();
        prepare(&db);
        db.busy_timeout(Duration::from_millis(50)).unwrap();
        let node = place.node();
        let watching = watch(&node, &place.db(), options());
        let mut scene = Scene { place, db, random, node, watching };
        scene.fill(10);
        scene.watching.handle.catch_up(Duration::from_secs(30)).unwrap();
        scene
    }

    fn fill(&mut self, transactions: usize) {
        for _ in 0..transactions {
            transaction(&self.db, 1, &mut self.random, &SURE).unwrap();
        }
    }

    fn move_away(&self) {
        std::fs::rename(self.place.path("archive"), self.place.path("away")).unwrap();
    }

    fn move_back(&self) {
        std::fs::rename(self.place.path("away"), self.place.path("archive")).unwrap();
    }

    /// Waits until it is told that the archive is not what it was.
    fn told(&self) -> Status {
        let begun = Instant::now();
        self.watching.until("a failure", |s| s.state == State::Retrying && s.failure.is_some());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        self.watching.handle.status()
    }

    /// 39 transactions that the archive does not get, and that the application's own checkpoint
    /// must not throw away.
    fn work_on(&mut self) {
        self.fill(20);
        let _ = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.fill(19);
        assert_eq!(self.watching.handle.catch_up(Duration::from_millis(300)), None);
        let status = self.watching.handle.status();
        assert!(status.pending_bytes > 0 && status.lag > Duration::ZERO, "{status:?}");
    }

    /// It works again, and nothing was missed.
    fn recovers(self) {
        self.watching.handle.catch_up(Duration::from_secs(30)).expect("it is back");
        self.watching.until("it follows", |s| s.state == State::Following && s.failure.is_none());
        assert!(self.watching.events.lock().iter().any(|e| matches!(e, Event::Recovered)));
        let status = self.watching.stop();
        assert_eq!(status.resyncs, 0, "{:?}", status.last_resync);
        let node = self.place.reopened();
        assert_eq!(oracle::check_from(&node, 0, 5).last().unwrap().counter, counter(&self.db));
        drop(self.node);
        assert!(
            Archive::open(self.place.path("archive"), key())
                .unwrap()
                .verify(&VerifyOptions::default(), &mut |_| {})
                .unwrap()
                .is_intact()
        );
    }

    /// Stopped as it is: a failure.
    fn stops_in_vain(self) -> Error {
        self.watching.stop_in_vain()
    }
}

#[test]
fn an_archive_that_is_moved_away_and_back() {
    let mut scene = Scene::new();
    scene.move_away();
    let status = scene.told();
    assert!(status.failure.unwrap().contains("archive"), "which one");
    scene.work_on();
    assert!(!scene.place.path("archive").exists(), "it is not made again");
    scene.move_back();
    scene.recovers();
}

/// Whatever is committed after it, and also where nothing is.
#[test]
fn an_archive_that_is_deleted() {
    for busy in [true, false] {
        let mut scene = Scene::new();
        let archived = scene.watching.handle.status().commits;
        std::fs::remove_dir_all(scene.place.path("archive")).unwrap();
        if busy {
            scene.fill(39);
        }
        scene.told();
        assert_eq!(scene.watching.handle.status().commits, archived, "archived into nowhere");
        assert!(!scene.place.path("archive").exists(), "it is not made again");
        let failed = scene.stops_in_vain();
        assert!(matches!(failed, Error::Archive(_)), "{failed}");
    }
}

/// Deleted just before the watcher stops: its last look is not one of every `poll_interval`.
#[test]
fn an_archive_that_is_deleted_at_the_last_moment() {
    let scene = Scene::new();
    std::fs::remove_dir_all(scene.place.path("archive")).unwrap();
    scene.stops_in_vain();
}

#[test]
fn another_archive_in_its_place_gets_nothing() {
    let mut scene = Scene::new();
    scene.move_away();
    let other = Archive::create(scene.place.path("archive"), key()).unwrap();
    other.create_node("app", rewound::Origin::Existing).unwrap();
    let before = files(&scene.place.path("archive"));
    scene.told();
    scene.work_on();
    assert_eq!(files(&scene.place.path("archive")), before);
    std::fs::remove_dir_all(scene.place.path("archive")).unwrap();
    scene.move_back();
    scene.recovers();
}

/// A copy of it, as from a backup of the archive: the same archive, another directory.
#[test]
fn a_copy_of_it_in_its_place_is_gone_on_with() {
    let mut scene = Scene::new();
    scene.move_away();
    scene.told();
    scene.work_on();
    let copied = Command::new("cp")
        .arg("-a")
        .args([scene.place.path("away"), scene.place.path("archive")])
        .status();
    assert!(copied.unwrap().success());
    scene.recovers();
}

/// A part of it is moved away, and back.
#[test]
fn a_part_that_is_moved_away_and_back() {
    for part in ["nodes", "nodes/00000001", "catalog"] {
        let mut scene = Scene::new();
        let (from, to) = (scene.place.path("archive").join(part), scene.place.path("part"));
        std::fs::rename(&from, &to).unwrap();
        scene.told();
        scene.work_on();
        assert!(!from.exists(), "{part} is not made again");
        std::fs::rename(&to, &from).unwrap();
        scene.recovers();
    }
}

/// The lock's file loses its name, and so its meaning.
#[test]
fn a_lock_that_is_deleted() {
    let mut scene = Scene::new();
    std::fs::remove_file(scene.place.path("archive/nodes/00000001/writer.lock")).unwrap();
    scene.watching.until("the lock", |s| s.failures > 0);
    scene.fill(39);
    // The database's own lock keeps a second one out meanwhile.
    let other = Watcher::open(&scene.place.reopened(), scene.place.db(), options()).map(drop);
    assert!(matches!(other, Err(Error::AlreadyWatched { .. })), "{other:?}");
    scene.recovers();
}

/// The segment that is written loses its name, and the archive what it had acknowledged: that is no
/// end in silence.
#[test]
fn a_segment_in_use_that_is_deleted() {
    let mut scene = Scene::new();
    let log = files(&scene.place.path("archive/nodes/00000001"));
    let segment = log.iter().map(|(name, _)| name).rfind(|name| name.contains("/wal/")).unwrap();
    std::fs::remove_file(segment).unwrap();
    scene.fill(39);
    scene.watching.until("the segment", |s| s.failures > 0);
    let failed = scene.stops_in_vain();
    assert!(matches!(failed, Error::Archive(_)), "{failed}");
}

/// Its file system is taken from under it, and mounted again.
#[test]
fn an_archive_that_is_unmounted() {
    let done = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "away::on_a_disk_of_its_own", "--nocapture"])
        .output();
    match done {
        Ok(done) if done.status.success() => {
            assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
        }
        Ok(done) if done.status.code() == Some(101) => {
            panic!("{}", String::from_utf8_lossy(&done.stderr))
        }
        refused => eprintln!("left out: nothing can be mounted here: {refused:?}"),
    }
}

#[test]
#[ignore = "needs the right to mount: run by the test above"]
fn on_a_disk_of_its_own() {
    let mut scene = Scene::new();
    scene.move_away();
    std::fs::create_dir(scene.place.path("archive")).unwrap();
    let places = [scene.place.path("away"), scene.place.path("archive")];
    let mount = |args: &[&str]| {
        let places = places.iter().filter(|p| args[0] == "mount" || p.ends_with("archive"));
        assert!(Command::new(args[0]).args(&args[1..]).args(places).status().unwrap().success());
    };
    mount(&["mount", "--bind"]);
    scene.watching.handle.catch_up(Duration::from_secs(30)).expect("mounted");
    mount(&["umount", "--lazy"]);
    scene.told();
    scene.fill(39);
    assert_eq!(
        std::fs::read_dir(scene.place.path("archive")).unwrap().count(),
        0,
        "nothing is written under it"
    );
    mount(&["mount", "--bind"]);
    scene.watching.handle.catch_up(Duration::from_secs(30)).expect("mounted again");
    mount(&["umount", "--lazy"]);
    std::fs::remove_dir(scene.place.path("archive")).unwrap();
    scene.move_back();
    scene.recovers();
}

/// All files below a directory, with their lengths, in order.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found
                .push((entry.path().to_str().unwrap().to_owned(), entry.metadata().unwrap().len()));
        }
    }
    found.sort();
    found
}
