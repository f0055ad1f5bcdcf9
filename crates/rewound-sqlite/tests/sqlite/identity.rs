//! Which database it is: replaced, moved, taken for another, behind a link.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rewound::{Archive, Node, Origin, Target};
use rewound_sqlite::{Attached, Error, Event, State, Status, WatchOptions, Watcher, backup};
use rusqlite::Connection;

use super::oracle;
use super::process::Process;
use super::support::{Place, Watching, connect, key, watch};
use super::workload::{Shape, counter, prepare, transaction};

/// A database of a table whose rows say whose it is.
fn make(path: &Path, whose: &str, rows: usize) -> Connection {
    let db = connect(path);
    db.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, whose TEXT)").unwrap();
    add(&db, whose, rows);
    db
}

fn add(db: &Connection, whose: &str, rows: usize) {
    for _ in 0..rows {
        db.execute("INSERT INTO t (whose) VALUES (?1)", [whose]).unwrap();
    }
}

/// How many rows there are of whom.
fn rows(db: &Connection) -> Vec<(String, i64)> {
    let mut counts =
        db.prepare("SELECT whose, count(*) FROM t GROUP BY whose ORDER BY whose").unwrap();
    counts.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// The same of the archive's newest state.
fn archived(node: &Node) -> Vec<(String, i64)> {
    let dir = tempfile::TempDir::new().unwrap();
    let db = oracle::open(dir.path(), &oracle::restore(node, Target::Latest));
    let whole: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(whole, "ok");
    rows(&db)
}

fn count(whose: &str, n: i64) -> (String, i64) {
    (whose.to_owned(), n)
}

fn once(node: &Node, db: &Path) -> Result<Status, Error> {
    backup(node, db, WatchOptions::default(), |_| {})
}

/// Ends the application's side of a database and leaves its log: as SQLite does while a watcher is
/// attached.
fn with_log_left(db: Connection) {
    use rusqlite::config::DbConfig;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(db);
}

/// Keeps the log from being emptied: somebody reads from it.
fn reading(db: &Path) -> Connection {
    let reader = connect(db);
    reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    reader
}

fn files_of(db: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-rewound"]
        .map(|ending| PathBuf::from(format!("{}{ending}", db.display())))
}

fn remarks(node: &Node) -> Vec<String> {
    oracle::remarked(node)
        .into_values()
        .filter(|(key, _)| key == "resync")
        .map(|(_, text)| text)
        .collect()
}

/// Waits for the archive to be as the database is.
fn caught_up(watching: &Watching) {
    watching.until("the archive", |s| s.state == State::Following);
    watching.handle.catch_up(Duration::from_secs(30)).expect("all archived");
}

/// `mv new.db app.db` with the log left in place. The log goes on, and continues nothing.
#[test]
fn a_database_replaced_by_a_rename_is_compared() {
    // The watcher goes on; or it is stopped, and the application is first to see the new file; or
    // the watcher is.
    for (stopped, first) in [(false, false), (true, false), (true, true)] {
        let place = Place::new();
        let db = make(&place.db(), "old", 30);
        let node = place.node();
        let watching = watch(&node, &place.db(), WatchOptions::default());
        // In the log when the file is replaced.
        add(&db, "old", 1);
        caught_up(&watching);
        drop(db);
        drop(make(&place.path("new.db"), "new", 40));
        let mut running = Some(watching);
        if stopped {
            let reader = reading(&place.db());
            running.take().unwrap().stop();
            with_log_left(reader);
        }
        std::fs::rename(place.path("new.db"), place.db()).unwrap();
        if first {
            running = Some(watch(&place.reopened(), &place.db(), WatchOptions::default()));
        }
        let db = place.connect();
        add(&db, "late", 1);
        let watching = running
            .unwrap_or_else(|| watch(&place.reopened(), &place.db(), WatchOptions::default()));
        watching.until("a comparison", |s| s.resyncs == 1 && s.state == State::Following);
        add(&db, "late", 1);
        caught_up(&watching);
        assert_eq!(archived(&node), rows(&db), "{stopped} {first}");
        let reader = reading(&place.db());
        watching.stop();
        let said = remarks(&node);
        assert!(said.len() == 1 && said[0].contains("another file"), "{said:?}");
        // As long as that log lasts it belongs to the file of before: opened anew, SQLite could
        // take more of it than it did.
        assert_eq!(once(&place.reopened(), &place.db()).unwrap().resyncs, 1);
        assert!(remarks(&node)[1].contains("that of another file"));
        drop(reader);
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        // From then on none is needed.
        add(&db, "late", 1);
        let status = once(&place.reopened(), &place.db()).unwrap();
        assert_eq!((status.resyncs, status.commits), (0, 1));
        assert_eq!(archived(&node), rows(&db));
    }
}

/// Moved with its log, under another name: the same file, and nothing to compare.
#[test]
fn a_database_that_was_moved_goes_on() {
    let place = Place::new();
    let db = make(&place.db(), "a", 3);
    let node = place.node();
    once(&node, &place.db()).unwrap();
    with_log_left(db);
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    let moved = place.path("elsewhere/other.db");
    for (from, to) in files_of(&place.db()).iter().zip(files_of(&moved)) {
        std::fs::rename(from, to).unwrap();
    }
    let db = connect(&moved);
    add(&db, "a", 1);
    for moved_on in [true, false] {
        let status = once(&place.reopened(), &moved).unwrap();
        assert_eq!(
            (status.resyncs, status.commits),
            (0, u64::from(moved_on)),
            "{:?}",
            status.last_resync
        );
    }
    assert_eq!(archived(&node), [count("a", 4)]);
    // What takes its old place is another database now.
    drop(make(&place.db(), "b", 1));
    let refused = once(&place.reopened(), &place.db()).unwrap_err();
    assert!(
        matches!(&refused, Error::WrongNode { database: Some(of), .. } if *of == moved),
        "{refused}"
    );
}

/// What was archived before identities were on record is compared once.
#[test]
fn an_archive_without_an_identity_is_compared_once() {
    let place = Place::new();
    let db = make(&place.db(), "a", 3);
    let node = place.node();
    once(&node, &place.db()).unwrap();
    let writer = node.open_writer().unwrap();
    let mut batch = writer.batch();
    batch.remove_config("sqlite.database").unwrap();
    batch.commit(rewound::Durability::Synced).unwrap();
    writer.close().unwrap();
    add(&db, "a", 1);
    for resyncs in [1, 0] {
        assert_eq!(once(&place.reopened(), &place.db()).unwrap().resyncs, resyncs);
        assert_eq!(archived(&node), rows(&db));
    }
    assert!(remarks(&node)[0].contains("earlier version"), "{:?}", remarks(&node));
    let value = &node.config(&Target::Latest).unwrap()["sqlite.database"];
    assert!(value.environment_bound);
}

/// Another database takes the place of the one that the node belongs to, as somebody said so.
#[test]
fn another_database_is_adopted_when_told_so() {
    let place = Place::new();
    let db = make(&place.db(), "old", 3);
    let node = place.node();
    once(&node, &place.db()).unwrap();
    drop(db);
    let other = place.path("other.db");
    let db = make(&other, "new", 5);
    let mut options = WatchOptions::default();
    options.adopt = true;
    assert_eq!(backup(&node, &other, options, |_| {}).unwrap().resyncs, 1);
    assert!(remarks(&node)[0].contains("takes the place of"), "{:?}", remarks(&node));
    add(&db, "new", 1);
    let status = once(&place.reopened(), &other).unwrap();
    assert_eq!((status.resyncs, status.commits), (0, 1));
    assert_eq!(archived(&node), rows(&db));
    assert!(once(&node, &place.db()).is_err());
}

/// A link is re-pointed under the watcher: what it leads to now is another database, and no word of
/// it goes into the node of the first.
#[test]
fn a_link_that_is_pointed_elsewhere_is_noticed() {
    for (adopt, to_file) in [(false, false), (false, true), (true, false), (true, true)] {
        let place = Place::new();
        let [v1, v2] = ["v1", "v2"].map(|v| {
            std::fs::create_dir(place.path(v)).unwrap();
            make(&place.path(&format!("{v}/app.db")), v, 3)
        });
        let name = |v: &str| if to_file { format!("{v}/app.db") } else { v.to_owned() };
        let point = |v: &str| {
            symlink(name(v), place.path("next")).unwrap();
            std::fs::rename(place.path("next"), place.path("current")).unwrap();
        };
        point("v1");
        let node = place.node();
        let mut options = WatchOptions::default();
        options.adopt = adopt;
        let path = place.path(if to_file { "current" } else { "current/app.db" });
        let watching = watch(&node, &path, options);
        add(&v1, "v1", 1);
        point("v2");
        add(&v1, "v1", 1);
        add(&v2, "v2", 1);
        if adopt {
            watching.until("a comparison", |s| s.resyncs == 1 && s.state == State::Following);
            add(&v2, "v2", 1);
            caught_up(&watching);
            assert_eq!(archived(&node), rows(&v2));
            watching.stop();
            assert!(remarks(&node)[0].contains("takes the place of"), "{:?}", remarks(&node));
        } else {
            let failed = watching.failed();
            assert!(matches!(failed, Error::WrongNode { .. }), "{failed}");
            // Everything that was committed before it was noticed.
            assert_eq!(archived(&node), rows(&v1));
            // Back where it was it goes on.
            point("v1");
            add(&v1, "v1", 1);
            assert_eq!(once(&node, &path).unwrap().resyncs, 0);
            assert_eq!(archived(&node), rows(&v1));
        }
    }
}

/// The directory is renamed and another put in its place, with all of a database's files in it.
#[test]
fn a_directory_that_takes_the_place_of_another_is_compared() {
    let place = Place::new();
    let [own, other] = ["data", "other"].map(|dir| {
        std::fs::create_dir(place.path(dir)).unwrap();
        make(&place.path(&format!("{dir}/app.db")), dir, 3)
    });
    let node = place.node();
    let path = place.path("data/app.db");
    let watching = watch(&node, &path, WatchOptions::default());
    add(&own, "data", 1);
    caught_up(&watching);
    std::fs::rename(place.path("data"), place.path("old")).unwrap();
    std::fs::rename(place.path("other"), place.path("data")).unwrap();
    watching.until("a comparison", |s| s.resyncs == 1 && s.state == State::Following);
    add(&other, "other", 1);
    caught_up(&watching);
    assert_eq!(archived(&node), rows(&other));
    // The lock is on the directory that is there now.
    let second = Watcher::open(&node, &path, WatchOptions::default()).unwrap_err();
    assert!(matches!(second, Error::AlreadyWatched { .. }), "{second}");
    let events = watching.events.lock().clone();
    assert!(
        events.iter().any(
            |e| matches!(e, Event::ResyncStarted { reason } if reason.contains("another file"))
        )
    );
    watching.stop();
}

/// The database's number on its device may be given to the file that takes its place: the time of
/// its birth is not.
#[test]
fn a_database_made_anew_is_another_file() {
    let place = Place::new();
    let db = make(&place.db(), "old", 3);
    let node = place.node();
    once(&node, &place.db()).unwrap();
    with_log_left(db);
    let log = std::fs::read(place.path("app.db-wal")).unwrap();
    for file in files_of(&place.db()) {
        std::fs::remove_file(file).unwrap();
    }
    let db = make(&place.db(), "new", 5);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    // The old log, as somebody may have kept it.
    std::fs::write(place.path("app.db-wal"), log).unwrap();
    let status = once(&place.reopened(), &place.db()).unwrap();
    assert_eq!(status.resyncs, 1);
    assert!(remarks(&node)[0].contains("another file"));
    assert_eq!(archived(&node), rows(&place.connect()));
}

/// The same name, another place: another database.
#[test]
fn two_databases_of_one_name_are_told_apart() {
    let place = Place::new();
    let [a, b] = ["a", "b"].map(|tenant| {
        std::fs::create_dir_all(place.path(&format!("tenants/{tenant}"))).unwrap();
        place.path(&format!("tenants/{tenant}/app.db"))
    });
    let (in_a, in_b) = (make(&a, "a", 3), make(&b, "b", 4));
    let node = place.node();
    // The node's own watcher at work is no reason to say something else.
    let mut watching = Some(watch(&node, &a, WatchOptions::default()));
    for _ in 0..2 {
        let refused = once(&place.reopened(), &b).unwrap_err();
        assert!(matches!(refused, Error::WrongNode { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.contains("tenants/a/app.db") && said.contains("\"b-app.db\""), "{said}");
        watching.take().map(Watching::stop);
    }
    assert_eq!(archived(&node), [count("a", 3)]);
    assert!(remarks(&node).is_empty());
    drop((in_a, in_b));
}

/// Overwritten in place, by something that knows nothing of SQLite's locks: the file is the same,
/// and so is the log.
#[test]
fn a_database_that_is_overwritten_in_place_is_compared() {
    let place = Place::new();
    let db = make(&place.db(), "old", 3);
    drop(make(&place.path("older.db"), "older", 2));
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    add(&db, "old", 1);
    caught_up(&watching);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    // It has looked at the file since.
    std::thread::sleep(WatchOptions::default().poll_interval * 2);
    assert_eq!(watching.handle.status().resyncs, 0);
    // By another process: closing the file in this one would give up SQLite's locks on it.
    let copied =
        std::process::Command::new("cp").args([place.path("older.db"), place.db()]).status();
    assert!(copied.unwrap().success());
    watching.until("a comparison", |s| s.resyncs > 0 && s.state == State::Following);
    let db = place.connect();
    add(&db, "late", 1);
    caught_up(&watching);
    assert_eq!(archived(&node), rows(&db));
    assert_eq!(rows(&db), [count("late", 1), count("older", 2)]);
    watching.stop();
    assert!(remarks(&node)[0].contains("something else than SQLite"), "{:?}", remarks(&node));
}

/// The same, with the index removed at once, which is noticed first or at the same time.
#[test]
fn a_database_that_is_overwritten_without_its_index_is_compared() {
    let place = Place::new();
    let db = make(&place.db(), "old", 3);
    drop(make(&place.path("older.db"), "older", 2));
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    add(&db, "old", 1);
    caught_up(&watching);
    with_log_left(db);
    std::thread::sleep(WatchOptions::default().poll_interval * 2);
    let script = "cat older.db > app.db; rm app.db-shm";
    let done = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(place.db().parent().unwrap())
        .status();
    assert!(done.unwrap().success());
    watching.until("the failure", |s| s.failures > 0);
    watching.until("the end of it", |s| s.state == State::Following);
    assert_eq!(watching.stop().resyncs, 1);
    assert!(remarks(&node)[0].contains("something else than SQLite"), "{:?}", remarks(&node));
    assert_eq!(archived(&node), rows(&place.connect()));
}

/// The log's file, or its index, is removed behind the watcher's back once the application has
/// ended.
#[test]
fn a_log_or_an_index_that_is_removed_is_made_anew() {
    for ending in ["-wal", "-shm"] {
        let place = Place::new();
        let db = make(&place.db(), "a", 3);
        let node = place.node();
        let watching = watch(&node, &place.db(), WatchOptions::default());
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        add(&db, "a", 1);
        caught_up(&watching);
        with_log_left(db);
        std::fs::remove_file(place.path(&format!("app.db{ending}"))).unwrap();
        watching.until("the failure", |s| s.failures > 0);
        watching.until("the end of it", |s| s.state == State::Following);
        let db = place.connect();
        add(&db, "late", 1);
        caught_up(&watching);
        assert_eq!(archived(&node), rows(&db), "{ending}");
        watching.stop();
    }
}

/// Without the file of its lock a second watcher would be let in.
#[test]
fn a_lock_that_is_removed_is_taken_again() {
    let place = Place::new();
    let db = make(&place.db(), "a", 1);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let lock = place.path("app.db-rewound");
    std::fs::remove_file(&lock).unwrap();
    watching.until("the lock", |_| {
        // Whoever gets it first before the watcher has noticed lets go of it at once.
        lock.exists()
            && matches!(
                Attached::open(place.db(), WatchOptions::default()),
                Err(Error::AlreadyWatched { .. })
            )
    });
    // What else somebody put there stays.
    add(&db, "a", 1);
    watching.stop();
    std::fs::write(&lock, b"a note").unwrap();
    // Nothing is left to go by then: the log was emptied.
    assert_eq!(once(&place.reopened(), &place.db()).unwrap().resyncs, 1);
    assert_eq!(std::fs::read(&lock).unwrap(), b"a note");
}

/// An index is removed while another process goes on with it: nobody sees what that process
/// commits, and this is said until it ends.
#[test]
fn an_index_removed_under_the_application_is_told() {
    let (place, random) = (Place::new(), super::support::seed());
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let mut writer =
        Process::writer(&place.db(), 1, random, &Shape { rollback: 0, ..Shape::default() }, 2_000);
    writer.until(&["ready"]);
    watching.until("some transactions", |s| s.commits > 20);
    with_log_left(db);
    std::fs::remove_file(place.path("app.db-shm")).unwrap();
    let told = format!("while process {} uses it", writer.0.id());
    watching.until("the failure", |s| s.failure.as_ref().is_some_and(|f| f.contains(&told)));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(watching.handle.status().state, State::Retrying);
    writer.kill();
    watching.until("the end of it", |s| s.state == State::Following);
    let db = place.connect();
    transaction(
        &db,
        2,
        &mut super::support::Random(random),
        &Shape { rollback: 0, ..Shape::default() },
    )
    .unwrap();
    caught_up(&watching);
    watching.stop();
    assert_eq!(oracle::check(&node).last().unwrap().counter, counter(&db));
}

/// The same before the watcher came.
#[test]
fn an_index_removed_before_the_watcher_is_told() {
    let place = Place::new();
    prepare(&place.connect());
    let reader = Process::reader(&place.db());
    assert_eq!(Process::run(&place.db(), "attach"), "attached");
    std::fs::remove_file(place.path("app.db-shm")).unwrap();
    let told = format!("while process {} uses it", reader.0.id());
    let refused = Attached::open(place.db(), WatchOptions::default()).unwrap_err();
    assert!(
        matches!(&refused, Error::Inconsistent { reason } if reason.contains(&told)),
        "{refused}"
    );
    // Somebody has made another one meanwhile.
    counter(&place.connect());
    assert!(place.path("app.db-shm").exists());
    let refused = Attached::open(place.db(), WatchOptions::default()).unwrap_err();
    assert!(
        matches!(&refused, Error::Inconsistent { reason } if reason.contains(&told)),
        "{refused}"
    );
    reader.stop();
    Attached::open(place.db(), WatchOptions::default()).unwrap();
}

/// A process of another container has no number here. It is there all the same.
#[test]
fn a_process_of_another_container_is_told() {
    let place = Place::new();
    let db = place.connect();
    prepare(&db);
    std::fs::remove_file(place.path("app.db-shm")).unwrap();
    match Process::run_in_a_container(&place.db(), "attach") {
        Some(said) => {
            assert!(
                said.contains("while another process (of another container) uses it"),
                "{said}"
            );
        }
        None => eprintln!("left out: no namespace can be made here"),
    }
}

/// Another process still has the file open that was there before: whoever operates it has to know.
#[test]
fn a_file_replaced_under_the_application_is_told() {
    let place = Place::new();
    let db = place.connect();
    prepare(&db);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    let mut writer =
        Process::writer(&place.db(), 1, 1, &Shape { rollback: 0, ..Shape::default() }, 2_000);
    writer.until(&["ready"]);
    watching.until("some transactions", |s| s.commits > 20);
    writer.signal("STOP");
    drop(make(&place.path("new.db"), "new", 2));
    std::fs::rename(place.path("new.db"), place.db()).unwrap();
    watching.until("a comparison", |s| s.resyncs == 1 && s.state == State::Following);
    let told = format!("process {} still has the file open", writer.0.id());
    let events = watching.events.lock().clone();
    assert!(
        events.iter().any(|e| matches!(e, Event::Warning(text) if text.contains(&told))),
        "{events:?}"
    );
    writer.kill();
    watching.stop();
}

/// What is refused is refused before a node is asked for.
#[test]
fn attaching_needs_no_node() {
    let place = Place::new();
    std::fs::write(place.path("text.db"), vec![b'x'; 8192]).unwrap();
    let refused = Attached::open(place.path("text.db"), WatchOptions::default()).unwrap_err();
    assert!(matches!(refused, Error::NotADatabase { .. }), "{refused}");
    // A name that no space can have is made one.
    let odd = place.path(".app\n.db");
    let db = make(&odd, "a", 1);
    let attached = Attached::open(&odd, WatchOptions::default()).unwrap();
    assert!(matches!(
        Attached::open(&odd, WatchOptions::default()),
        Err(Error::AlreadyWatched { .. })
    ));
    let node = place.node();
    attached.watch(&node).unwrap().backup().unwrap();
    assert_eq!(archived(&node), rows(&db));
    assert_eq!(node.spaces(&Target::Latest).unwrap().into_values().next().unwrap().name, "app_.db");
    let mut options = WatchOptions::default();
    options.space = Some(".app".into());
    let refused = Attached::open(&odd, options).unwrap_err();
    assert!(matches!(refused, Error::Archive(rewound::Error::InvalidName { .. })), "{refused}");
}

/// The same while nobody watches, after a watcher that ended by itself.
#[test]
fn a_database_that_was_overwritten_in_place_is_compared() {
    let place = Place::new();
    let db = make(&place.db(), "a", 3);
    drop(make(&place.path("older.db"), "b", 3));
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    add(&db, "a", 1);
    caught_up(&watching);
    // The log is copied back, and stays.
    let reader = reading(&place.db());
    watching.until("a pin that lets it", |_| {
        db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |r| {
            Ok(r.get::<_, i64>(1)? == r.get::<_, i64>(2)?)
        })
        .unwrap()
    });
    watching.stop();
    with_log_left(db);
    assert_eq!(once(&place.reopened(), &place.db()).unwrap().resyncs, 0);
    with_log_left(reader);
    let copied =
        std::process::Command::new("cp").args([place.path("older.db"), place.db()]).status();
    assert!(copied.unwrap().success());
    let status = once(&place.reopened(), &place.db()).unwrap();
    assert_eq!(status.resyncs, 1);
    assert!(
        remarks(&node)[0].contains("something else than SQLite while nobody watched"),
        "{:?}",
        remarks(&node)
    );
    assert_eq!(archived(&node), rows(&place.connect()));
}

/// Nothing has happened, and there is no log that could tell: the file does.
#[test]
fn an_unused_database_is_not_compared() {
    let place = Place::new();
    drop(make(&place.db(), "a", 3));
    let node = place.node();
    for _ in 0..3 {
        assert_eq!(once(&node, &place.db()).unwrap().resyncs, 0);
        // Whoever closes it last removes the log.
        assert_eq!(rows(&place.connect()), [count("a", 3)]);
        assert!(!place.path("app.db-wal").exists());
    }
    let db = place.connect();
    add(&db, "b", 2);
    let status = once(&place.reopened(), &place.db()).unwrap();
    assert_eq!((status.resyncs, status.commits), (0, 2), "{:?}", status.last_resync);
    assert_eq!(archived(&node), rows(&db));
}

/// What is in a log that started over while nobody watched is archived transaction by transaction
/// where nothing of it can be missing: the file is as it was.
#[test]
fn a_log_that_started_over_once_is_continued() {
    let place = Place::new();
    let db = make(&place.db(), "a", 3);
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    add(&db, "a", 1);
    caught_up(&watching);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    watching.stop();
    with_log_left(db);
    let db = place.connect();
    add(&db, "b", 3);
    let status = once(&place.reopened(), &place.db()).unwrap();
    assert_eq!((status.resyncs, status.commits), (0, 3), "{:?}", status.last_resync);
    assert_eq!(archived(&node), rows(&db));
    // Copied back, and over again: something is missing.
    add(&db, "b", 1);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    add(&db, "b", 1);
    assert_eq!(once(&place.reopened(), &place.db()).unwrap().resyncs, 1);
    assert_eq!(archived(&node), rows(&db));
    // What was left before is of no use after a watcher that archived more and was killed.
    let mut watcher = Process::watcher(&place.db(), &place.path("archive"), 1 << 20);
    add(&db, "b", 1);
    watcher.until(&["Archived"]);
    watcher.kill();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    add(&db, "b", 1);
    assert_eq!(once(&place.reopened(), &place.db()).unwrap().resyncs, 1);
    assert_eq!(archived(&node), rows(&db));
}

/// Overwritten in place just before the watcher ends, which does not look any more.
#[test]
fn a_database_that_is_overwritten_as_the_watcher_ends_is_compared() {
    let place = Place::new();
    let db = make(&place.db(), "old", 3);
    drop(make(&place.path("older.db"), "older", 2));
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let node = place.node();
    let mut options = WatchOptions::default();
    options.poll_interval = Duration::from_secs(60);
    let mut watcher = Watcher::open(&node, place.db(), options).unwrap();
    for _ in 0..5 {
        watcher.poll_once().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    let copied =
        std::process::Command::new("cp").args([place.path("older.db"), place.db()]).status();
    assert!(copied.unwrap().success());
    watcher.close().unwrap();
    let status = once(&node, &place.db()).unwrap();
    assert_eq!(status.resyncs, 1);
    assert_eq!(archived(&node), [count("older", 2)]);
    drop(db);
}

/// Several follow one database, each now and then: what one of them left says nothing to the
/// others, also where their marks are the same.
#[test]
fn what_another_node_left_is_not_gone_by() {
    for two_archives in [false, true] {
        let place = Place::new();
        drop(make(&place.db(), "one", 1));
        let x = place.node();
        let other = if two_archives {
            Archive::create(place.path("other"), key()).unwrap()
        } else {
            Archive::open(place.path("archive"), key()).unwrap()
        };
        let y = other.create_node("y", Origin::Existing).unwrap();
        once(&x, &place.db()).unwrap();
        drop(make(&place.db(), "two", 1));
        once(&y, &place.db()).unwrap();
        // Its own is gone, and nothing else proves anything.
        for resyncs in [1, 0] {
            assert_eq!(once(&x, &place.db()).unwrap().resyncs, resyncs, "{two_archives}");
            assert_eq!(archived(&x), [count("one", 1), count("two", 1)]);
        }
    }
}

/// An older copy of the archive that was gone on with has another commit of the same number.
#[test]
fn what_another_copy_of_the_archive_left_is_not_gone_by() {
    let place = Place::new();
    drop(make(&place.db(), "one", 1));
    once(&place.node(), &place.db()).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r".into(), place.path("archive"), place.path("copy")])
        .status();
    assert!(copied.unwrap().success());
    // Two commits, each the second of its archive, each of the first frames of a log that began
    // anew.
    for (archive, whose) in [("archive", "two"), ("copy", "three"), ("archive", "")] {
        let node = super::support::open_node(&place.path(archive));
        if !whose.is_empty() {
            drop(make(&place.db(), whose, 1));
        }
        once(&node, &place.db()).unwrap();
        assert_eq!(archived(&node), rows(&place.connect()), "{archive} {whose}");
    }
}
