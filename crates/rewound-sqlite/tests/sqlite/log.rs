//! What SQLite, its applications and others do to the log itself. The watcher's rounds are made one
//! by one, so that each meets exactly what it is to meet.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rewound::Node;
use rewound_sqlite::{Error, Event, WatchOptions, Watcher};
use rusqlite::Connection;

use super::oracle;
use super::process::Process;
use super::support::{Place, Random, seed};
use super::workload::{Shape, counter, prepare, transaction};

const SURE: Shape = Shape { blob: 300, changes: 4, rollback: 0, checkpoint: 0, cache: -2000 };

fn start(place: &Place) -> (Connection, Node, Watcher) {
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let mut watcher = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
    watcher.poll_once().unwrap();
    (db, node, watcher)
}

fn newest_matches(node: &Node, db: &Connection) {
    assert_eq!(oracle::check(node).last().unwrap().counter, counter(db));
}

fn ledger(db: &Connection) {
    db.execute_batch(
        "INSERT INTO ledger SELECT coalesce((SELECT max(n) FROM ledger), 0) + 1, 1, count(*), coalesce(sum(length(v)), 0) FROM items",
    )
    .unwrap();
}

/// A transaction larger than its cache writes frames long before it commits; they are rewritten in
/// place, or given up and overwritten.
#[test]
fn frames_that_were_spilled_count_only_once_committed() {
    let place = Place::new();
    let (db, node, mut watcher) = start(&place);
    db.execute_batch("PRAGMA cache_size = 5").unwrap();
    let wal = || std::fs::metadata(place.path("app.db-wal")).unwrap().len();
    let spill = |blob: u32| {
        let before = wal();
        db.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
               INSERT OR REPLACE INTO items SELECT i, randomblob({blob}) FROM n"
        ))
        .unwrap();
        before
    };
    for round in 0..6 {
        // The first pages of a transaction are on disk, valid, and not committed.
        db.execute_batch("BEGIN").unwrap();
        let before = spill(3_000);
        assert!(round > 0 || wal() > before, "nothing was spilled");
        assert_eq!(watcher.poll_once().unwrap(), 0);
        if round % 2 == 0 {
            db.execute_batch("ROLLBACK").unwrap();
            assert_eq!(watcher.poll_once().unwrap(), 0);
        } else {
            // The same frames change their content, and all checksums after them.
            db.execute_batch("SAVEPOINT s").unwrap();
            spill(2_000);
            assert_eq!(watcher.poll_once().unwrap(), 0);
            db.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
            spill(2_500);
            ledger(&db);
            assert_eq!(watcher.poll_once().unwrap(), 0);
            db.execute_batch("COMMIT").unwrap();
            assert_eq!(watcher.poll_once().unwrap(), 1);
        }
        // What comes next takes the place of what was given up.
        db.execute_batch("BEGIN").unwrap();
        ledger(&db);
        db.execute_batch("COMMIT").unwrap();
        assert_eq!(watcher.poll_once().unwrap(), 1);
    }
    assert_eq!(watcher.close().unwrap().resyncs, 0);
    newest_matches(&node, &db);
}

/// One wrong bit in a committed frame: nothing of it is archived, and once it is right again
/// nothing is missing.
#[test]
fn a_damaged_frame_is_never_archived() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let (db, node, mut watcher) = start(&place);
    transaction(&db, 1, &mut random, &SURE).unwrap();
    watcher.poll_once().unwrap();
    let wal = File::options().read(true).write(true).open(place.path("app.db-wal")).unwrap();
    for _ in 0..20 {
        let from = wal.metadata().unwrap().len();
        transaction(&db, 1, &mut random, &SURE).unwrap();
        let at = from + random.below(wal.metadata().unwrap().len() - from);
        let (mut right, newest) = ([0], node.window().unwrap().latest.lsn);
        wal.read_exact_at(&mut right, at).unwrap();
        wal.write_all_at(&[right[0] ^ 1 << random.below(8)], at).unwrap();
        let refused = watcher.poll_once().unwrap_err();
        assert!(matches!(refused, Error::Inconsistent { .. }), "{refused}");
        assert_eq!(place.reopened().window().unwrap().latest.lsn, newest);
        wal.write_all_at(&right, at).unwrap();
        watcher.poll_once().unwrap();
    }
    assert_eq!(watcher.close().unwrap().resyncs, 0);
    newest_matches(&node, &db);
}

/// The archive ends where a log begins: before its first frame.
#[test]
fn exactly_at_the_header() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let node = place.node();
    for round in 0..3 {
        let mut watcher = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
        let continued = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = continued.clone();
        watcher.on_event(move |e| {
            let is = matches!(e, Event::Continued { .. });
            flag.fetch_or(is, std::sync::atomic::Ordering::SeqCst);
        });
        watcher.poll_once().unwrap();
        assert_eq!(continued.load(std::sync::atomic::Ordering::SeqCst), round > 0, "round {round}");
        assert_eq!(watcher.close().unwrap().resyncs, 0);
        // Unseen from the first frame on.
        if round == 1 {
            transaction(&db, 1, &mut random, &SURE).unwrap();
            transaction(&db, 1, &mut random, &SURE).unwrap();
        }
    }
    let seen = oracle::check(&node);
    assert_eq!((seen.len(), seen.last().unwrap().counter), (3, 2));
}

/// The log starts over several times between two looks, with and without frames: by turns, all of
/// it seen.
#[test]
fn checkpoints_of_every_kind_between_two_rounds() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let (db, node, mut watcher) = start(&place);
    let other = place.connect();
    for _ in 0..150 {
        for _ in 0..random.below(3) {
            match random.below(4) {
                0 => _ = transaction(&other, 2, &mut random, &SURE).unwrap(),
                1 => {
                    let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][random.below(4) as usize];
                    let by = if random.below(2) == 0 { &db } else { &other };
                    by.busy_timeout(std::time::Duration::ZERO).unwrap();
                    by.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
                        .unwrap();
                }
                _ => _ = transaction(&db, 1, &mut random, &SURE).unwrap(),
            }
        }
        if random.below(3) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(4));
        }
        watcher.poll_once().unwrap();
    }
    let status = watcher.close().unwrap();
    assert_eq!(status.resyncs, 0, "{:?}", status.last_resync);
    assert!(status.wal_resets > 0);
    newest_matches(&node, &db);
}

/// Another part of the process closes a descriptor of the log's index, and with it POSIX takes all
/// our locks: the log can then be copied back and start over with transactions that nobody saw.
/// Whenever that happens it is noticed.
#[test]
fn a_lost_pin_is_a_resync_and_never_silence() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    db.execute_batch(
        "CREATE TABLE a(n); INSERT INTO a VALUES (0); CREATE TABLE b(n); INSERT INTO b VALUES (0)",
    )
    .unwrap();
    drop(db);
    let node = place.node();
    // What is lost is on a page of its own, which no later transaction writes: the images do not
    // tell.
    for lost in [
        "a checkpoint b",
        "tx tx checkpoint tx",
        "a checkpoint b checkpoint",
        "a a a checkpoint b checkpoint b",
    ] {
        let mut watcher = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
        watcher.poll_once().unwrap();
        let before = watcher.handle().status().resyncs;
        // The pin is where it is in nobody's way: the log is copied back completely, and may start
        // over.
        for steps in ["tx tx", "checkpoint"] {
            Process::run(&place.db(), &format!("steps {} {steps}", random.next()));
            watcher.poll_once().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
            watcher.poll_once().unwrap();
        }
        assert_eq!(watcher.handle().status().resyncs, before, "{lost}");
        drop(File::open(place.path("app.db-shm")).unwrap());
        Process::run(&place.db(), &format!("steps {} {lost}", random.next()));
        // The first round meets it, the next compares.
        let _ = watcher.poll_once();
        watcher.poll_once().unwrap();
        let status = watcher.close().unwrap();
        assert_eq!(
            status.resyncs,
            before + 1,
            "{lost}: transactions were lost, and nothing is said"
        );
        eprintln!("{lost}: {:?}", status.last_resync);
    }
    let db = place.connect();
    let sum = |db: &Connection| {
        db.query_row("SELECT a.n * 1000 + b.n FROM a, b", [], |r| r.get::<_, i64>(0)).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let restored = oracle::open(dir.path(), &oracle::restore(&node, rewound::Target::Latest));
    assert_eq!((sum(&restored), counter(&restored)), (sum(&db), counter(&db)));
}
