//! The watcher inside of the application's process, and beside other databases.

use std::time::{Duration, Instant};

use rewound::Archive;
use rewound::{Origin, Target};
use rewound_sqlite::{Alone, Error, State, WatchOptions, Watcher, backup, replace};
use rusqlite::Connection;

use super::oracle;
use super::process::Process;
use super::support::{Place, Random, connect, key, seed, watch};
use super::workload::{Shape, counter, prepare, transaction};

const SURE: Shape = Shape { blob: 300, changes: 4, rollback: 0, checkpoint: 0, cache: -2000 };

/// `hook` wakes the watcher at each commit, and leaves checkpoints to it; `catch_up` waits for
/// exactly what was committed before.
#[test]
fn hook_and_catch_up() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let mut db = place.connect();
    prepare(&db);
    let node = place.node();
    let mut options = WatchOptions::default();
    // Nothing but the hook wakes it.
    options.notify = false;
    options.poll_interval = Duration::from_secs(20);
    options.wal_bytes = 100 << 10;
    let watching = watch(&node, &place.db(), options);
    watching.handle.hook(&mut db).unwrap();
    for round in 0..300 {
        if round % 15 == 14 {
            // One that is noticed on a machine that is short of processors, too.
            std::thread::sleep(Duration::from_millis(100));
        }
        for _ in 0..=random.below(3) {
            transaction(&db, 1, &mut random, &SURE).unwrap();
        }
        if random.below(3) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(20)));
        }
        let archived = watching.handle.catch_up(Duration::from_secs(20)).unwrap();
        let commits = watching.handle.status().commits;
        assert_eq!((commits, archived.get()), (counter(&db), counter(&db) + 1));
    }
    // The connection's own checkpoints are replaced: the log starts over all the same.
    let status = watching.handle.status();
    assert!(status.wal_resets > 0, "{status:?}");
    assert!(std::fs::metadata(place.path("app.db-wal")).unwrap().len() < 4 << 20);
    let handle = watching.handle.clone();
    assert_eq!(watching.stop().resyncs, 0);
    let begun = Instant::now();
    assert_eq!(handle.catch_up(Duration::from_secs(20)), None, "closed");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(oracle::check_from(&node, 0, 10).last().unwrap().counter, counter(&db));
}

/// While the archive fails nobody is told that it has everything.
#[test]
fn catch_up_does_not_lie() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let storage = rewound::storage::MemStorage::without_recording();
    let archive = Archive::create_in(
        std::sync::Arc::new(storage.clone()),
        key(),
        rewound::ArchiveOptions::new(),
    )
    .unwrap();
    let node = archive.create_node("app", Origin::Existing).unwrap();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    storage.set_capacity(Some(storage.files().values().map(|f| f.len() as u64).sum::<u64>()));
    for _ in 0..50 {
        transaction(&db, 1, &mut random, &SURE).unwrap();
    }
    watching.until("a full disk", |s| s.state == State::Retrying);
    assert_eq!(watching.handle.catch_up(Duration::from_millis(300)), None);
    storage.set_capacity(None);
    let archived = watching.handle.catch_up(Duration::from_secs(30)).unwrap();
    assert_eq!(archived.get(), counter(&db) + 1);
    // A few at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(watching.handle.catch_up(Duration::from_secs(30)), Some(archived));
            });
        }
    });
    watching.stop();
}

/// POSIX: a process that closes any descriptor of a file gives up all its locks on it. A watcher
/// that comes and goes in the application's process must not cost the application its own.
#[test]
fn the_applications_locks_outlive_the_watcher() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO keyed VALUES ('mine', 1)").unwrap();
    for _ in 0..2 {
        let mut watcher = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
        watcher.poll_once().unwrap();
        assert_eq!(Process::run(&place.db(), "lock"), "busy");
        watcher.close().unwrap();
        assert_eq!(Process::run(&place.db(), "lock"), "busy");
        // Were the lock on the database file lost, whoever closes last beside us would take the log
        // away.
        assert!(place.path("app.db-wal").exists());
    }
    assert!(Watcher::open(&node, place.path("app.db-wal"), WatchOptions::default()).is_err());
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(Process::run(&place.db(), "lock"), "free");
    transaction(&db, 1, &mut random, &SURE).unwrap();
    let mut watcher = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
    assert_eq!(watcher.poll_once().unwrap(), 2);
    assert_eq!(watcher.close().unwrap().resyncs, 0);
}

/// Transactions over several attached databases: each database is followed by a watcher of its own,
/// to a node of its own.
#[test]
fn attached_databases() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let other = connect(&place.path("other.db"));
    other.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, v)").unwrap();
    db.execute("ATTACH ?1 AS other", [place.path("other.db").to_str().unwrap()]).unwrap();
    let node = place.node();
    let second = Archive::open(place.path("archive"), key())
        .unwrap()
        .create_node("other", Origin::Existing)
        .unwrap();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let watching_other = watch(&second, &place.path("other.db"), WatchOptions::default());
    for n in 1..=60i64 {
        match random.below(3) {
            0 => _ = transaction(&db, 1, &mut random, &SURE).unwrap(),
            1 => _ = db.execute("INSERT INTO other.t VALUES (?1, randomblob(500))", [n]).unwrap(),
            _ => {
                db.execute_batch("BEGIN IMMEDIATE").unwrap();
                db.execute("INSERT INTO other.t VALUES (?1, randomblob(9000))", [n]).unwrap();
                db.execute_batch(
                    "INSERT INTO ledger SELECT coalesce((SELECT max(n) FROM ledger), 0) + 1, 1, count(*),
                       coalesce(sum(length(v)), 0) FROM items; COMMIT",
                )
                .unwrap();
            }
        }
    }
    assert_eq!(watching.stop().resyncs, 0);
    assert_eq!(watching_other.stop().resyncs, 0);
    assert_eq!(oracle::check(&node).last().unwrap().counter, counter(&db));
    let file = place.path("restored.db");
    second.restore(Target::Latest).into_file(&file).unwrap();
    let sum = |db: &Connection| -> (i64, i64) {
        db.query_row("SELECT count(*), total(n) FROM t", [], |r| {
            Ok((r.get(0)?, r.get::<_, f64>(1)? as i64))
        })
        .unwrap()
    };
    assert_eq!(sum(&Connection::open(&file).unwrap()), sum(&other));
}

/// A restore in place that is refused, as this process itself uses the database, leaves its locks
/// alone.
#[test]
fn a_refused_replacement_costs_no_locks() {
    let place = Place::new();
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    db.execute_batch("BEGIN IMMEDIATE; INSERT INTO keyed VALUES ('mine', 1)").unwrap();
    let refused = |by_watcher| {
        let kept = |e: &Error| {
            if by_watcher {
                matches!(e, Error::AlreadyWatched { .. })
            } else {
                matches!(e, Error::InUse { .. })
            }
        };
        let held = Alone::hold(place.db()).unwrap_err();
        assert!(kept(&held), "{held}");
        let replaced = replace(node.restore(Target::Latest), place.db()).unwrap_err();
        assert!(kept(&replaced), "{replaced}");
        assert_eq!(Process::run(&place.db(), "lock"), "busy");
        // Were the lock on the database file lost, whoever closes last beside us would take the log
        // away.
        assert!(place.path("app.db-wal").exists());
    };
    refused(false);
    let watcher = Watcher::open(&place.reopened(), place.db(), WatchOptions::default()).unwrap();
    refused(true);
    watcher.close().unwrap();
    refused(false);
    db.execute_batch("COMMIT").unwrap();
    drop(db);
    replace(node.restore(Target::Latest), place.db()).unwrap();
}
