//! What else can happen to a database and its watcher.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rewound::storage::MemStorage;
use rewound::{Archive, ArchiveOptions, Origin};
use rewound_sqlite::{Error, Event, State, WatchOptions, Watcher, backup};
use rusqlite::Connection;

use super::oracle;
use super::process::Process;
use super::support::{Place, Random, connect, key, seed, watch};
use super::workload::{Shape, counter, prepare, transaction};

const SURE: Shape = Shape { blob: 300, changes: 4, rollback: 0, checkpoint: 0, cache: -2000 };

fn fill(db: &Connection, random: &mut Random, transactions: usize) {
    for _ in 0..transactions {
        transaction(db, 1, random, &SURE).unwrap();
    }
}

fn newest_matches(node: &rewound::Node, db: &Connection) {
    let seen = oracle::check(node);
    assert_eq!(seen.last().unwrap().counter, counter(db));
}

#[test]
fn what_cannot_be_watched_is_refused_with_a_reason() {
    let place = Place::new();
    let node = place.node();
    let open = |name: &str, options: WatchOptions| {
        Watcher::open(&node, place.path(name), options).map(drop)
    };
    assert!(matches!(open("missing.db", WatchOptions::default()), Err(Error::NoDatabase { .. })));
    std::fs::write(place.path("empty.db"), b"").unwrap();
    assert!(matches!(open("empty.db", WatchOptions::default()), Err(Error::NotADatabase { .. })));
    std::fs::write(place.path("text.db"), vec![b'x'; 8192]).unwrap();
    assert!(matches!(open("text.db", WatchOptions::default()), Err(Error::NotADatabase { .. })));
    let db = Connection::open(place.db()).unwrap();
    db.execute_batch("CREATE TABLE t(a)").unwrap();
    let refused = open("app.db", WatchOptions::default()).unwrap_err();
    assert!(
        matches!(refused, Error::NotWal { .. }) && refused.to_string().contains("journal_mode=WAL"),
        "{refused}"
    );
    drop(db);
    let mut options = WatchOptions::default();
    options.enable_wal = true;
    open("app.db", options).unwrap();
    let db = connect(&place.db());
    db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t VALUES (1)").unwrap();
    let mut options = WatchOptions::default();
    options.busy_timeout = Duration::from_millis(50);
    // That may end: it is waited for, and said.
    let mut watcher = Watcher::open(&node, place.db(), options).unwrap();
    let status = watcher.handle().status();
    assert!(
        status.state == State::Retrying
            && status.failure.unwrap().contains("locking_mode=EXCLUSIVE")
    );
    assert!(matches!(watcher.poll_once(), Err(Error::Locked { .. })));
    drop(db);
    watcher.poll_once().unwrap();
    assert_eq!(watcher.handle().status().state, State::Following);
}

/// What waiting can mend ends no watcher, whether it comes when it starts or later: the archive is
/// full from the beginning, and the log is pinned all the same, so that nothing is lost.
#[test]
fn a_watcher_that_starts_while_the_archive_is_full_waits_for_room() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let storage = MemStorage::without_recording();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), ArchiveOptions::new()).unwrap();
    let node = archive.create_node("app", Origin::Existing).unwrap();
    let full = || {
        storage.set_capacity(Some(storage.files().values().map(|f| f.len() as u64).sum::<u64>()));
    };
    let mut options = WatchOptions::default();
    options.retry_max = Duration::from_millis(200);
    for round in 0..2 {
        full();
        let mut watcher = Watcher::open(&node, place.db(), options.clone()).unwrap();
        let (handle, events) = (watcher.handle(), Arc::new(Mutex::new(Vec::new())));
        assert_eq!(handle.status().state, State::Retrying);
        let to = Arc::clone(&events);
        watcher.on_event(move |e| to.lock().push(e.clone()));
        let thread = std::thread::spawn(move || watcher.run());
        fill(&db, &mut random, 20);
        // Nobody has archived it: the application's own checkpoint leaves it in the log.
        db.busy_timeout(Duration::from_millis(50)).unwrap();
        let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        fill(&db, &mut random, 20);
        std::thread::sleep(Duration::from_millis(500));
        // It says how far it is behind, and that this becomes more.
        let status = handle.status();
        assert!(status.lag > Duration::ZERO && status.pending_bytes > 0, "{status:?}");
        fill(&db, &mut random, 20);
        std::thread::sleep(Duration::from_millis(500));
        assert!(handle.status().pending_bytes > status.pending_bytes, "{:?}", handle.status());
        storage.set_capacity(None);
        handle.catch_up(Duration::from_secs(30)).expect("more room");
        assert!(
            events
                .lock()
                .iter()
                .any(|e| matches!(e, Event::Retrying { failure, .. } if failure.contains("full")))
        );
        assert!(events.lock().iter().any(|e| matches!(e, Event::Recovered)));
        handle.stop();
        let status = thread.join().unwrap().unwrap();
        assert_eq!(
            (status.resyncs, status.failure),
            (0, None),
            "round {round}: {:?}",
            status.last_resync
        );
    }
    newest_matches(&node, &db);
    // Stopped before there is room: that is no success.
    full();
    let mut watcher = Watcher::open(&node, place.db(), options).unwrap();
    let handle = watcher.handle();
    let thread = std::thread::spawn(move || watcher.run());
    fill(&db, &mut random, 1);
    handle.stop();
    let failed = thread.join().unwrap().unwrap_err();
    assert!(matches!(failed, Error::Archive(rewound::Error::DiskFull { .. })), "{failed}");
}

/// One that is just ending is waited for, a moment.
#[test]
fn a_watcher_takes_over_from_one_that_ends() {
    let place = Place::new();
    prepare(&place.connect());
    let node = place.node();
    let first = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        first.close().unwrap();
    });
    Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
    ending.join().unwrap();
}

/// Opening a FIFO waits for somebody to write to it.
#[test]
fn what_is_no_file_is_not_waited_for() {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let place = Place::new();
        let node = place.node();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let make = |path: &std::path::Path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        };
        make(&place.path("fifo.db"));
        let fifo = Watcher::open(&node, place.path("fifo.db"), WatchOptions::default()).map(drop);
        let _socket = std::os::unix::net::UnixListener::bind(place.path("socket.db")).unwrap();
        let socket =
            Watcher::open(&node, place.path("socket.db"), WatchOptions::default()).map(drop);
        let device = Watcher::open(&node, "/dev/zero", WatchOptions::default()).map(drop);
        let db = connect(&place.db());
        db.execute_batch("CREATE TABLE t(a)").unwrap();
        drop(db);
        make(&place.path("app.db-wal"));
        let log = Watcher::open(&node, place.db(), WatchOptions::default()).map(drop);
        send.send((fifo, socket, device, log)).unwrap();
    });
    let (fifo, socket, device, log) = receive.recv_timeout(Duration::from_secs(60)).unwrap();
    for (result, what) in [(fifo, "a FIFO"), (socket, "a socket"), (device, "a character device")] {
        match result {
            Err(Error::NotADatabase { reason, .. }) => assert!(reason.contains(what), "{reason}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(log.is_err());
}

/// A user who may read the database only cannot pin its log, and is told so.
#[test]
fn a_database_that_may_only_be_read_is_refused() {
    let place = Place::new();
    let allow = |name: &str, mode| {
        std::fs::set_permissions(place.path(name), Permissions::from_mode(mode)).unwrap();
    };
    let db = place.connect();
    prepare(&db);
    allow("", 0o755);
    // What the watcher itself makes there is no hindrance.
    std::fs::write(place.path("app.db-rewound"), b"").unwrap();
    allow("app.db-rewound", 0o666);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        allow(name, 0o666);
    }
    assert_eq!(Process::run_as_nobody(&place.db(), "attach"), "attached");
    allow("app.db", 0o444);
    let said = Process::run_as_nobody(&place.db(), "attach");
    assert!(said.starts_with("write to") && said.contains("app.db: permission denied"), "{said}");
}

#[test]
fn the_second_watcher_is_refused() {
    let place = Place::new();
    prepare(&place.connect());
    let node = place.node();
    let first = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
    let second = Watcher::open(&node, place.db(), WatchOptions::default()).unwrap_err();
    assert!(matches!(second, Error::AlreadyWatched { .. }), "{second}");
    // Another database, the same node.
    prepare(&connect(&place.path("other.db")));
    let second = Watcher::open(&node, place.path("other.db"), WatchOptions::default()).unwrap_err();
    assert!(matches!(second, Error::Archive(rewound::Error::WriterActive { .. })), "{second}");
    first.close().unwrap();
    Watcher::open(&node, place.db(), WatchOptions::default()).unwrap();
}

#[test]
fn a_node_of_another_database_is_refused() {
    let place = Place::new();
    prepare(&place.connect());
    let node = place.node();
    backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    prepare(&connect(&place.path("other.db")));
    let refused =
        backup(&node, place.path("other.db"), WatchOptions::default(), |_| {}).unwrap_err();
    assert!(matches!(refused, Error::WrongNode { .. }), "{refused}");
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let storage = MemStorage::without_recording();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), ArchiveOptions::new()).unwrap();
    let node = archive.create_node("app", Origin::Existing).unwrap();
    let mut options = WatchOptions::default();
    options.retry_max = Duration::from_millis(200);
    let watching = watch(&node, &place.db(), options);
    for _ in 0..3 {
        fill(&db, &mut random, 20);
        storage.set_capacity(Some(
            storage.files().values().map(|f| f.len() as u64).sum::<u64>() + 3_000,
        ));
        fill(&db, &mut random, 60);
        watching.until("a full disk", |s| s.state == State::Retrying && s.failure.is_some());
        // The application's own checkpoint must not throw away what is not archived.
        db.busy_timeout(Duration::from_millis(50)).unwrap();
        let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        fill(&db, &mut random, 10);
        assert!(watching.handle.status().lag > Duration::ZERO);
        storage.set_capacity(None);
        watching.until("more room", |s| s.state == State::Following && s.failure.is_none());
    }
    let events = watching.events.lock().clone();
    assert!(events.iter().any(|e| matches!(e, Event::Retrying { .. })));
    assert!(events.iter().any(|e| matches!(e, Event::Recovered)));
    assert_eq!(watching.stop().resyncs, 0);
    newest_matches(&node, &db);
}

/// Database, log and archive share a disk, and it is full: the application's transactions fail, the
/// archive's writes, and checkpoints.
#[test]
fn a_disk_shared_with_the_database_fills_up() {
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=48m tmpfs \"$TMPDIR\" || exit 77; exec \"$@\"";
    let done = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "odd::on_a_small_disk", "--nocapture"])
        .env("TMPDIR", &disk)
        .output();
    match done {
        Ok(done) if done.status.success() => {
            assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
        }
        Ok(done) if done.status.code() == Some(101) => {
            panic!("{}", String::from_utf8_lossy(&done.stderr))
        }
        refused => eprintln!("left out: no disk can be made here: {refused:?}"),
    }
}

#[test]
#[ignore = "needs a small disk of its own: run by the test above"]
fn on_a_small_disk() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    // The log's file keeps its length when it starts over: the archive is in need of room before
    // the application is.
    db.execute_batch("INSERT INTO keyed VALUES ('large', randomblob(4000000))").unwrap();
    let node = place.node();
    let mut options = WatchOptions::default();
    options.retry_max = Duration::from_millis(200);
    options.wal_bytes = 300 << 10;
    options.writer.segment_bytes = 200 << 10;
    let watching = watch(&node, &place.db(), options);
    let ballast = place.path("ballast");
    let (mut refused, mut retried) = (0, 0);
    for round in 0..4 {
        fill(&db, &mut random, 30);
        // The log has room in its file, however busy the machine is.
        while watching.handle.status().wal_bytes >= 300 << 10 {
            std::thread::sleep(Duration::from_millis(50));
            fill(&db, &mut random, 1);
        }
        // All of the disk but a little.
        let mut file = std::fs::File::create(&ballast).unwrap();
        let piece = vec![1; 1 << 16];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full - (random.below(12) << 16)).unwrap();
        for _ in 0..400 {
            let large = Shape { blob: 20_000, ..SURE };
            if transaction(&db, 1, &mut random, &large).is_err() {
                refused += 1;
                let _ = db.execute_batch("ROLLBACK");
            }
            retried += u64::from(watching.handle.status().state == State::Retrying);
            if refused > round * 20 + 20 {
                break;
            }
        }
        drop(file);
        std::fs::remove_file(&ballast).unwrap();
        fill(&db, &mut random, 5);
        watching.handle.catch_up(Duration::from_secs(30)).expect("more room");
    }
    assert!(refused > 0 && retried > 0, "{refused} {retried}");
    let events = watching.events.lock().clone();
    let status = watching.stop();
    assert_eq!(status.resyncs, 0, "{:?}", status.last_resync);
    eprintln!(
        "{refused} refused, {retried} while the archive was, {} warnings",
        events.iter().filter(|e| matches!(e, Event::Warning(_))).count()
    );
    assert_eq!(oracle::check_from(&node, 0, 20).last().unwrap().counter, counter(&db));
}

/// The log starts over while nobody watches: transactions are missed, and that is said.
#[test]
fn a_log_that_started_over_unseen_is_a_resync() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    fill(&db, &mut random, 20);
    watching.stop();
    fill(&db, &mut random, 5);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    fill(&db, &mut random, 5);
    let watching = watch(&node, &place.db(), WatchOptions::default());
    fill(&db, &mut random, 5);
    let status = watching.stop();
    assert_eq!(status.resyncs, 1);
    let remarks = oracle::remarked(&node);
    let (lsn, (key, reason)) = remarks.last_key_value().unwrap();
    assert_eq!(key, "resync");
    assert!(reason.contains("started over"), "{reason}");
    let seen = oracle::check(&node);
    let at = seen.iter().position(|s| s.lsn == *lsn).unwrap();
    assert_eq!(seen[at].counter - seen[at - 1].counter, 10);
    assert_eq!(seen.last().unwrap().counter, counter(&db));
}

/// The database is replaced by another file, under the watcher and behind its back.
#[test]
fn a_replaced_database_is_a_resync() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    fill(&db, &mut random, 20);
    let older = place.path("older.db");
    db.execute("VACUUM INTO ?1", [older.to_str().unwrap()]).unwrap();
    fill(&db, &mut random, 20);
    drop(db);
    watching.until("the archive", |s| s.pending_bytes == 0);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    std::fs::rename(&older, place.db()).unwrap();
    // Out of WAL mode, as VACUUM INTO leaves it: the watcher waits for it to come back.
    std::thread::sleep(Duration::from_millis(400));
    let db = place.connect();
    fill(&db, &mut random, 3);
    watching.until("the new file", |s| s.resyncs == 1 && s.state == State::Following);
    fill(&db, &mut random, 3);
    watching.stop();
    newest_matches(&node, &db);
    let reason = oracle::remarked(&node).last_key_value().unwrap().1.1.clone();
    assert!(!reason.is_empty());

    // Again, while nobody watches.
    let older = place.path("older.db");
    db.execute("VACUUM INTO ?1", [older.to_str().unwrap()]).unwrap();
    fill(&db, &mut random, 3);
    drop(db);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(place.path(name));
    }
    std::fs::rename(&older, place.db()).unwrap();
    let db = place.connect();
    fill(&db, &mut random, 3);
    let restores = || {
        let archive = Archive::open(place.path("archive"), key()).unwrap();
        archive.audit().unwrap().filter(|e| e.as_ref().unwrap().kind() == "restore-started").count()
    };
    let before = restores();
    let status = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    assert_eq!(status.resyncs, 1);
    // The comparison reads all of the state, and hands it to nobody: it is no restore.
    assert_eq!(restores(), before);
    newest_matches(&node, &db);
}

/// `journal_mode` cannot leave WAL under a watcher; when it did without one, and came back, the
/// archive is right again.
#[test]
fn leaving_wal_mode() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    fill(&db, &mut random, 5);
    db.busy_timeout(Duration::from_millis(20)).unwrap();
    let mode =
        db.pragma_update_and_check(None, "journal_mode", "DELETE", |r| r.get::<_, String>(0));
    assert!(mode.is_err() || mode.unwrap() == "wal");
    fill(&db, &mut random, 5);
    watching.stop();
    let mode: String =
        db.pragma_update_and_check(None, "journal_mode", "DELETE", |r| r.get(0)).unwrap();
    assert_eq!(mode, "delete");
    fill(&db, &mut random, 5);
    let refused = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap_err();
    assert!(matches!(refused, Error::NotWal { .. }));
    // Pages of another size: possible only outside of WAL mode.
    db.execute_batch("PRAGMA page_size = 8192; VACUUM").unwrap();
    let _: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0)).unwrap();
    fill(&db, &mut random, 5);
    let watching = watch(&node, &place.db(), WatchOptions::default());
    fill(&db, &mut random, 5);
    assert_eq!(watching.stop().resyncs, 1);
    newest_matches(&node, &db);
}

/// The application ends, and with it nobody but the watcher keeps the log; it comes back, and the
/// watcher too.
#[test]
fn the_application_and_the_watcher_take_turns() {
    let (place, mut random) = (Place::new(), Random(seed()));
    prepare(&place.connect());
    let node = place.node();
    let mut resyncs = 0;
    for _ in 0..3 {
        let watching = watch(&node, &place.db(), WatchOptions::default());
        for _ in 0..3 {
            let db = place.connect();
            fill(&db, &mut random, 5);
        }
        resyncs += watching.stop().resyncs;
    }
    // The watcher left last each time, and left the log as it was.
    assert_eq!(resyncs, 0);
    newest_matches(&node, &place.connect());
}

/// One transaction far larger than any buffer.
#[test]
fn a_huge_transaction() {
    let place = Place::new();
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    db.execute_batch(
        "PRAGMA cache_size = 50; BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
           INSERT INTO items(v) SELECT randomblob(4000) FROM n;
         UPDATE items SET v = randomblob(100) WHERE id % 3 = 0;
         INSERT INTO ledger SELECT 1, 9, count(*), sum(length(v)) FROM items;
         COMMIT",
    )
    .unwrap();
    let status = watching.stop();
    assert_eq!((status.resyncs, status.commits), (0, 1));
    newest_matches(&node, &db);
}

/// SIGKILL of a writer in the midst of its transactions leaves frames in the log that count for
/// nothing, and are overwritten.
#[test]
fn killed_writers() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let shape = Shape { blob: 20_000, changes: 20, cache: 5, ..Shape::default() };
    for _ in 0..8 {
        let mut writer = Process::writer(&place.db(), 2, random.next(), &shape, 0);
        writer.until(&["ready"]);
        std::thread::sleep(Duration::from_millis(50 + random.below(100)));
        writer.kill();
        fill(&db, &mut random, 2);
    }
    assert_eq!(watching.stop().resyncs, 0);
    newest_matches(&node, &db);
}

/// How many rows a copy of the database file alone has, without its log.
fn rows_of_a_copy(place: &Place) -> i64 {
    let copy = place.path("copy.db");
    // By another process: this one would lose its connections' locks.
    assert!(
        std::process::Command::new("cp").arg(place.db()).arg(&copy).status().unwrap().success()
    );
    let db = Connection::open(copy).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    db.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0)).unwrap()
}

fn log_bytes(place: &Place) -> u64 {
    std::fs::metadata(place.path("app.db-wal")).map_or(0, |log| log.len())
}

/// What is left when everybody has ended is the whole database, in one file, whoever ended last;
/// and the next watcher knows it.
#[test]
fn a_database_that_everybody_has_left_is_complete_without_its_log() {
    let (place, mut random) = (Place::new(), Random(seed()));
    prepare(&place.connect());
    let node = place.node();
    let rows = |db: &Connection| {
        db.query_row("SELECT count(*) FROM ledger", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let mut resyncs = 0;
    for round in 0..6 {
        let watching = watch(&node, &place.db(), WatchOptions::default());
        let db = place.connect();
        fill(&db, &mut random, 7);
        let all = rows(&db);
        let status = if round % 3 == 0 {
            drop(db);
            watching.stop()
        } else {
            let status = watching.stop();
            // The log is free for the application; and as it is.
            assert_eq!(log_bytes(&place), 0, "{round}");
            if round % 3 == 1 {
                fill(&db, &mut random, 3);
            }
            drop(db);
            status
        };
        resyncs += status.resyncs;
        assert_eq!(log_bytes(&place), 0, "{round}");
        assert_eq!(rows_of_a_copy(&place), all + if round % 3 == 1 { 3 } else { 0 });
        // A database that is left alone continues; one that was checkpointed since is compared.
        if round % 3 == 1 {
            let status = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
            assert_eq!(status.resyncs, 1);
            assert_eq!(log_bytes(&place), 0);
        }
    }
    assert_eq!(resyncs, 0);
    let db = place.connect();
    fill(&db, &mut random, 4);
    let status = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    // From the beginning of the log that the application has begun.
    assert_eq!((status.resyncs, status.commits), (0, 4), "{:?}", status.last_resync);
    newest_matches(&node, &db);
}

/// What lies under the name of the lock file and is not ours stays as it is.
#[test]
fn a_lock_file_that_holds_something_else_is_not_written_to() {
    let place = Place::new();
    let db = place.connect();
    prepare(&db);
    std::fs::write(place.path("app.db-rewound"), b"somebody's\n").unwrap();
    backup(&place.node(), place.db(), WatchOptions::default(), |_| {}).unwrap();
    assert_eq!(log_bytes(&place), 0);
    assert_eq!(std::fs::read(place.path("app.db-rewound")).unwrap(), b"somebody's\n");
}

/// Where nothing happens for a while the log is emptied under the watcher, and a watcher that is
/// killed then is continued.
#[test]
fn an_idle_database_is_complete_without_its_log() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let empty = || {
        let begun = std::time::Instant::now();
        while log_bytes(&place) > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", log_bytes(&place));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for _ in 0..3 {
        let mut watcher = Process::watcher(&place.db(), &place.path("archive"), 32 << 20);
        watcher.until(&["CopyFinished", "Continued"]);
        fill(&db, &mut random, 5);
        // A reader keeps what it reads.
        db.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
        let other = place.connect();
        fill(&other, &mut random, 2);
        std::thread::sleep(Duration::from_millis(4500));
        assert!(log_bytes(&place) > 0);
        db.execute_batch("COMMIT").unwrap();
        empty();
        assert_eq!(
            rows_of_a_copy(&place),
            other.query_row("SELECT count(*) FROM ledger", [], |r| r.get(0)).unwrap()
        );
        // It leaves word of that just after.
        std::thread::sleep(Duration::from_millis(500));
        watcher.kill();
        fill(&other, &mut random, 3);
    }
    let status = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    assert_eq!((status.resyncs, status.commits), (0, 3), "{:?}", status.last_resync);
    newest_matches(&node, &db);
}

/// A transaction of the application's that has read, and writes later, can do so however long it
/// takes: the log does not start over under it.
#[test]
fn a_log_is_not_emptied_under_a_transaction_that_may_write() {
    let (place, mut random) = (Place::new(), Random(seed()));
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let mut watcher = Process::watcher(&place.db(), &place.path("archive"), 32 << 20);
    watcher.until(&["CopyFinished"]);
    fill(&db, &mut random, 5);
    let begin = || {
        let copied = |r: &rusqlite::Row<'_>| {
            Ok(r.get::<_, i64>(1)? > 0 && r.get::<_, i64>(1)? == r.get::<_, i64>(2)?)
        };
        while !db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], copied).unwrap() {
            std::thread::sleep(Duration::from_millis(5));
        }
        db.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
    };
    let write = "INSERT INTO ledger SELECT (SELECT max(n) FROM ledger) + 1, 1, count(*), coalesce(sum(length(v)), 0)
       FROM items; COMMIT";
    begin();
    std::thread::sleep(Duration::from_millis(4500));
    assert!(log_bytes(&place) > 0);
    db.execute_batch(write).unwrap();
    begin();
    watcher.stop();
    assert!(log_bytes(&place) > 0);
    db.execute_batch(write).unwrap();
    let status = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    assert_eq!((status.resyncs, status.commits), (0, 1), "{:?}", status.last_resync);
    newest_matches(&node, &db);
}

/// A file of another content is never taken for the one that was left, whatever it is called.
#[test]
fn a_complete_database_that_was_changed_is_compared() {
    for how in ["mv", "cp", "rewritten", "touch"] {
        let (place, mut random) = (Place::new(), Random(seed()));
        let db = place.connect();
        prepare(&db);
        let node = place.node();
        backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
        fill(&db, &mut random, 5);
        backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
        drop(db);
        let older = place.path("older.db");
        node.restore(rewound::Target::Lsn(rewound::Lsn::new(2).unwrap()))
            .into_file(&older)
            .unwrap();
        match how {
            "mv" => std::fs::rename(&older, place.db()).unwrap(),
            "cp" => _ = std::fs::copy(&older, place.db()).unwrap(),
            "rewritten" => std::fs::write(place.db(), std::fs::read(place.db()).unwrap()).unwrap(),
            _ => std::fs::File::open(place.db())
                .unwrap()
                .set_modified(std::time::SystemTime::now())
                .unwrap(),
        }
        let status = backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
        assert_eq!(status.resyncs, 1, "{how}");
        newest_matches(&node, &place.connect());
    }
}

/// Files below a directory.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The damage is met after pages that differ were found: these are not compared with what they have
/// become.
#[test]
fn a_comparison_does_without_a_damaged_layer() {
    let place = Place::new();
    let db = place.connect();
    db.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
         INSERT INTO t SELECT i, randomblob(3000) FROM n",
    )
    .unwrap();
    let node = place.node();
    let mut options = WatchOptions::default();
    options.base.replay.threads = 1;
    backup(&node, place.db(), options.clone(), |_| {}).unwrap();
    db.execute_batch("UPDATE t SET b = randomblob(3000)").unwrap();
    backup(&node, place.db(), options.clone(), |_| {}).unwrap();
    let parts = || {
        files(&place.path("archive"))
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "part"))
    };
    let before: Vec<_> = parts().collect();
    let mut compact = rewound::CompactOptions::default();
    (compact.layer_log_bytes, compact.snapshot_percent) = (1, 10_000);
    assert!(node.maintain(&compact).unwrap().layers > 0);
    let new: Vec<_> = parts().filter(|part| !before.contains(part)).collect();
    assert!(!new.is_empty());
    for part in new {
        let mut bytes = std::fs::read(&part).unwrap();
        let at = bytes.len() / 4 * 3;
        bytes[at] ^= 1;
        std::fs::set_permissions(&part, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&part, bytes).unwrap();
    }
    // Nobody watches, and the log starts over.
    for _ in 0..2 {
        db.execute_batch("UPDATE t SET b = randomblob(3000) WHERE id IN (1, 2, 3)").unwrap();
        let _: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)).unwrap();
    }
    let status = backup(&node, place.db(), options, |_| {}).unwrap();
    assert_eq!(status.resyncs, 1, "{status:?}");
    let newest = oracle::restore(&node, rewound::Target::Latest);
    assert!(newest == std::fs::read(place.db()).unwrap());
}
