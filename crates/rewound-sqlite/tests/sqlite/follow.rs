//! The watcher on one thread, writers in other processes or beside it: every commit comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rewound::{Lsn, Target};
use rewound_sqlite::{Event, WatchOptions};

use super::oracle;
use super::process::Process;
use super::support::{Place, Random, seed, watch};
use super::workload::{Shape, check, counter, prepare, transaction};

#[test]
fn one_writer_every_commit() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    for n in 0..400 {
        transaction(&db, 1, &mut random, &Shape::default()).unwrap();
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let status = watching.stop();
    assert_eq!(status.resyncs, 0);
    let seen = oracle::check(&node);
    assert_eq!(seen.last().unwrap().counter, counter(&db));
    assert_eq!(seen.iter().filter(|s| s.resync).count(), 1, "only the first copy");
}

/// Several processes, long transactions that spill, checkpoints of every kind.
#[test]
fn several_processes_and_checkpoints() {
    let place = Place::new();
    let seed = seed();
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let spilling = Shape { blob: 9_000, changes: 30, checkpoint: 5, cache: 5, ..Shape::default() };
    let small = Shape { checkpoint: 7, ..Shape::default() };
    let a = Process::writer(&place.db(), 1, seed, &spilling, 2_000);
    let b = Process::writer(&place.db(), 2, seed + 1, &small, 500);
    std::thread::sleep(Duration::from_secs(3));
    a.kill();
    b.stop();
    let expected = counter(&db);
    let status = watching.stop();
    assert_eq!(status.resyncs, 0, "{:?}", status.last_resync);
    let seen = oracle::check(&node);
    assert_eq!(seen.last().unwrap().counter, expected);
    eprintln!("{} commits, {} pages", status.commits, status.pages);
}

/// The log starts over many times under two writers that never pause, and nothing is lost.
#[test]
fn the_log_stays_bounded_without_a_pause() {
    let place = Place::new();
    let seed = seed();
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let mut options = WatchOptions::default();
    options.wal_bytes = 256 << 10;
    options.wal_bytes_max = 1 << 20;
    let watching = watch(&node, &place.db(), options);
    let shape = Shape { blob: 2_000, ..Shape::default() };
    let writers: Vec<Process> =
        (0..2).map(|w| Process::writer(&place.db(), w, seed + w, &shape, 0)).collect();
    let mut longest = 0;
    let begun = Instant::now();
    // On a busy machine everything takes longer.
    while begun.elapsed() < Duration::from_secs(3)
        || begun.elapsed() < Duration::from_secs(15) && watching.handle.status().wal_resets < 5
    {
        std::thread::sleep(Duration::from_millis(5));
        longest = longest.max(std::fs::metadata(place.path("app.db-wal")).unwrap().len());
    }
    writers.into_iter().for_each(Process::kill);
    let expected = counter(&db);
    let status = watching.stop();
    eprintln!(
        "log at most {longest} bytes, {} commits, {} resets",
        status.commits, status.wal_resets
    );
    assert_eq!(status.resyncs, 0, "{:?}", status.last_resync);
    assert!(status.wal_resets >= 2, "{status:?}");
    // How long it becomes depends on how long the writers hold the lock, and on who else uses the
    // machine: it is printed, above.
    let seen = oracle::check_from(&node, 0, (status.commits / 50).max(7));
    assert_eq!(seen.last().unwrap().counter, expected);
}

/// Copies that were taken live, with the writers kept out, equal what is restored, byte by byte.
#[test]
fn live_copies_equal_what_is_restored() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let mut copies = Vec::new();
    for n in 0..60 {
        transaction(&db, 1, &mut random, &Shape { blob: 3_000, ..Shape::default() }).unwrap();
        if n % 10 == 9 {
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
            let to = place.path(&format!("copy-{n}.db"));
            // By another process: closing the file in this one would give up SQLite's locks on it.
            let script = format!(
                "cp '{0}' '{1}' && cp '{0}-wal' '{1}-wal'",
                place.db().display(),
                to.display()
            );
            assert!(
                std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success()
            );
            copies.push((counter(&db), to));
            db.execute_batch("ROLLBACK").unwrap();
        }
    }
    assert_eq!(watching.stop().resyncs, 0);
    let seen = oracle::check(&node);
    for (counter, copy) in copies {
        let at = seen.iter().rfind(|s| s.counter == counter).unwrap();
        let restored = oracle::restore(&node, Target::Lsn(Lsn::new(at.lsn).unwrap()));
        let db = rusqlite::Connection::open(&copy).unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(db);
        assert_eq!(std::fs::read(&copy).unwrap(), restored, "transaction {counter}");
    }
}

/// The restored file is a database as it is, for writing too.
#[test]
fn a_restored_file_is_a_database() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    for _ in 0..20 {
        transaction(&db, 1, &mut random, &Shape::default()).unwrap();
    }
    watching.stop();
    let file = place.path("restored.db");
    node.restore(Target::Latest).into_file(&file).unwrap();
    let restored = super::support::connect(&file);
    assert_eq!(check(&restored).unwrap(), counter(&db));
    transaction(&restored, 2, &mut random, &Shape { rollback: 0, ..Shape::default() }).unwrap();
    assert_eq!(check(&restored).unwrap(), counter(&db) + 1);
}

/// What follows a commit is archived within milliseconds, also after a pause; an application's
/// checkpoints are not kept waiting.
#[test]
fn commits_are_archived_soon_and_checkpoints_go_through() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(random.below(30)));
        let before = watching.handle.status().commits;
        transaction(&db, 1, &mut random, &Shape { rollback: 0, ..Shape::default() }).unwrap();
        let begun = Instant::now();
        watching.until("the commit", |s| s.commits > before);
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("slowest: {slowest:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        for _ in 0..5 {
            transaction(&db, 1, &mut random, &Shape { rollback: 0, ..Shape::default() }).unwrap();
            let begun = Instant::now();
            let busy: i64 =
                db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| r.get(0)).unwrap();
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(2), "{mode}: {took:?}");
            assert!(busy == 0, "{mode} was refused");
        }
    }
    assert!(watching.events.lock().iter().any(|e| matches!(e, Event::Archived { .. })));
    assert_eq!(watching.stop().resyncs, 0);
    oracle::check(&node);
}

/// Checkpoints that wait for readers get past the watcher at once, also if nothing is committed
/// after them: whatever was committed or copied back while a pin began, and however late the
/// watcher looks at the log after that.
#[test]
fn a_checkpoint_never_waits_for_a_pin() {
    let mut random = Random(seed());
    for delay in [Duration::ZERO, Duration::from_millis(2)] {
        let place = Place::new();
        let db = place.connect();
        prepare(&db);
        db.busy_timeout(Duration::from_secs(3)).unwrap();
        // A second one commits and checkpoints as well.
        let other = place.connect();
        other.busy_timeout(Duration::from_secs(3)).unwrap();
        let node = place.node();
        let mut options = WatchOptions::default();
        options.index_delay = delay;
        let watching = watch(&node, &place.db(), options);
        let sure = Shape { rollback: 0, ..Shape::default() };
        let (mut longest, mut refused) = (Duration::ZERO, 0);
        for n in 0..checkpoints() {
            for _ in 0..=random.below(3) {
                let by = if random.below(3) == 0 { &other } else { &db };
                transaction(by, 1, &mut random, &sure).unwrap();
                if random.below(4) == 0 {
                    by.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
                }
                std::thread::sleep(Duration::from_micros(random.below(8_000)));
            }
            let mode = ["FULL", "RESTART", "TRUNCATE", "TRUNCATE"][n as usize % 4];
            let begun = Instant::now();
            let busy: i64 =
                db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| r.get(0)).unwrap();
            // Refused at once: somebody was at another checkpoint. Refused late: it waited in vain.
            refused += u32::from(busy != 0 && begun.elapsed() > Duration::from_secs(1));
            longest = longest.max(begun.elapsed());
        }
        let status = watching.stop();
        eprintln!(
            "reads delayed by {delay:?}: longest {longest:?}, {refused} waited in vain, {} comparisons",
            status.resyncs
        );
        assert_eq!(refused, 0, "reads delayed by {delay:?}: longest {longest:?}");
        assert!(
            longest < Duration::from_secs(2),
            "reads delayed by {delay:?}: longest {longest:?}"
        );
        // So slow a watcher can come too late after it has let a checkpoint through, and then says
        // so.
        let excused =
            |reason: String| !delay.is_zero() && reason.contains("given up for a checkpoint");
        assert!(status.last_resync.clone().is_none_or(excused), "{:?}", status.last_resync);
        assert_eq!(oracle::check_from(&node, 0, 20).last().unwrap().counter, counter(&db));
    }
}

/// The application's readers have all of SQLite's slots when the pin moves, so that it shares one
/// of theirs and holds less than it could. Once they have ended it is in nobody's way.
#[test]
fn a_pin_that_shares_a_readers_slot_is_moved_once_it_can_be() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    db.busy_timeout(Duration::from_secs(3)).unwrap();
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let sure = Shape { rollback: 0, ..Shape::default() };
    let mut commit = |pause| {
        transaction(&db, 1, &mut random, &sure).unwrap();
        std::thread::sleep(Duration::from_millis(pause));
    };
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                commit(0);
                let reader = place.connect();
                reader.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
                reader
            })
            .collect();
        // The pin takes the fourth slot, and cannot leave it for a better one.
        commit(30);
        commit(30);
        drop(readers);
        let begun = Instant::now();
        let busy: i64 =
            db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| r.get(0)).unwrap();
        assert!(
            busy == 0 && begun.elapsed() < Duration::from_secs(1),
            "{mode}: {busy}, {:?}",
            begun.elapsed()
        );
    }
    assert_eq!(watching.stop().resyncs, 0);
    assert_eq!(oracle::check(&node).last().unwrap().counter, counter(&db));
}

/// A checkpoint waits for a reader's slot. The reader ends, and before the checkpoint looks again
/// the pin has moved there: SQLite would wait for the pin then, though that reaches the end of the
/// log.
#[test]
fn a_checkpoint_does_not_wait_for_a_slot_that_the_pin_took_over() {
    static WAITS: AtomicBool = AtomicBool::new(false);
    fn patient(tries: i32) -> bool {
        WAITS.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(60));
        tries < 50
    }
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let sure = Shape { rollback: 0, ..Shape::default() };
    let settle = || std::thread::sleep(Duration::from_millis(60));
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        WAITS.store(false, Ordering::SeqCst);
        // The reader shares the pin's slot, and then has it for itself.
        transaction(&db, 1, &mut random, &sure).unwrap();
        settle();
        let reader = place.connect();
        reader.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
        transaction(&db, 1, &mut random, &sure).unwrap();
        settle();
        let (took, busy) = std::thread::scope(|scope| {
            let checkpoint = scope.spawn(|| {
                let mut app = place.connect();
                app.busy_handler(Some(patient)).unwrap();
                transaction(&app, 1, &mut Random(1), &sure).unwrap();
                let begun = Instant::now();
                let busy: i64 = app
                    .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| r.get(0))
                    .unwrap();
                (begun.elapsed(), busy)
            });
            while !WAITS.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            reader.execute_batch("COMMIT").unwrap();
            checkpoint.join().unwrap()
        });
        assert!(busy == 0 && took < Duration::from_secs(1), "{mode}: {busy}, {took:?}");
    }
    let status = watching.stop();
    assert_eq!(status.resyncs, 0, "{:?}", status.last_resync);
    assert_eq!(oracle::check(&node).last().unwrap().counter, counter(&db));
}

/// `REWOUND_CHECKPOINTS`, or so many that what goes wrong one time in ten does.
fn checkpoints() -> u64 {
    std::env::var("REWOUND_CHECKPOINTS").map_or(60, |n| n.parse().unwrap())
}

/// A watcher that comes back to the same log goes on where the archive ends, to the frame.
#[test]
fn a_restart_continues_exactly() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    db.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    let node = place.node();
    let shape = Shape { rollback: 0, ..Shape::default() };
    for round in 0..5 {
        let watching = watch(&node, &place.db(), WatchOptions::default());
        for _ in 0..10 {
            transaction(&db, 1, &mut random, &shape).unwrap();
        }
        let status = watching.stop();
        assert_eq!(status.resyncs, 0, "round {round}: {:?}", status.last_resync);
        // A transaction that nobody sees, but in the log.
        transaction(&db, 2, &mut random, &shape).unwrap();
    }
    let watching = watch(&node, &place.db(), WatchOptions::default());
    assert!(watching.events.lock().iter().any(|e| matches!(e, Event::Continued { .. })));
    watching.stop();
    assert_eq!(oracle::check(&node).last().unwrap().counter, 55);
}
