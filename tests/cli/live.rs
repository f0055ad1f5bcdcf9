//! `watch` and `backup` on a live database.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::estate::{Estate, Run};

pub fn database(estate: &Estate) -> Connection {
    let connection = Connection::open(estate.path("live.db")).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
    connection
}

fn insert(connection: &Connection, n: i64) {
    connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
}

pub fn watch(estate: &Estate, args: &[&str]) -> Child {
    let mut command = estate.command(&[&["watch", "live.db"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn rows(estate: &Estate, args: &[&str], file: &str) -> i64 {
    estate.ok(&[&["restore", "-o", file], args].concat());
    let connection = Connection::open(estate.path(file)).unwrap();
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

pub fn latest(estate: &Estate) -> u64 {
    let info = Run::of(estate.command(&["info", "--json"]));
    let info: serde_json::Value = serde_json::from_str(&info.out).unwrap_or_default();
    info["nodes"][0]["window"]["latest"]["lsn"].as_u64().unwrap_or(0)
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn interrupt(mut child: Child) -> Run {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    wait("the watcher stops", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn every_transaction_of_a_watched_database_comes_back() {
    let estate = Estate::new();
    let connection = database(&estate);
    let child = watch(&estate, &["--maintain", "1"]);
    wait("the first copy", || latest(&estate) >= 1);
    let before = latest(&estate);
    (0..50).for_each(|n| insert(&connection, n));
    wait("fifty transactions", || latest(&estate) >= before + 50);
    estate.ok(&["point", "fifty"]);

    // A second one is refused, and a restore point, a restore and a listing are not.
    let second = estate.run(&["watch", "live.db"]);
    assert_eq!(second.code, 6, "{second:?}");
    assert_eq!(rows(&estate, &["--lsn", &(before + 7).to_string()], "seven.db"), 7);

    (50..60).for_each(|n| insert(&connection, n));
    let stopped = interrupt(child);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(stopped.err.contains("watching") && stopped.err.contains("stopped at LSN"), "{stopped:?}");
    assert_eq!(rows(&estate, &[], "all.db"), 60);
    assert_eq!(rows(&estate, &["--point", "fifty"], "fifty.db"), 50);
    assert!(estate.ok(&["verify"]).ends_with("intact\n"));
}

/// The archive is moved away under a watcher, and back; then it is deleted: told, tried again, and no success.
#[test]
fn a_watcher_whose_archive_goes_away_fails() {
    let estate = Estate::new();
    let connection = database(&estate);
    let child = watch(&estate, &[]);
    wait("the first copy", || latest(&estate) >= 1);
    std::fs::rename(estate.path("archive"), estate.path("away")).unwrap();
    (0..39).for_each(|n| insert(&connection, n));
    std::thread::sleep(Duration::from_secs(1));
    std::fs::rename(estate.path("away"), estate.path("archive")).unwrap();
    wait("it goes on", || latest(&estate) >= 40);
    assert_eq!(rows(&estate, &[], "whole.db"), 39);
    std::fs::remove_dir_all(estate.path("archive")).unwrap();
    (39..78).for_each(|n| insert(&connection, n));
    std::thread::sleep(Duration::from_secs(1));
    let stopped = interrupt(child);
    assert_eq!(stopped.code, 1, "{stopped:?}");
    for word in ["tries again", "works again", "not archived", "no longer what was opened", "put it back"] {
        assert!(stopped.err.contains(word), "{word}: {stopped:?}");
    }
    assert!(!estate.path("archive").exists());
}

#[test]
fn a_backup_is_a_watch_of_one_moment() {
    let estate = Estate::new();
    let connection = database(&estate);
    insert(&connection, 1);
    let first = estate.json(&["backup", "live.db"]);
    assert_eq!(first["node"], "live.db");
    insert(&connection, 2);
    insert(&connection, 3);
    let second = estate.json(&["backup", "live.db"]);
    assert!(second["lsn"].as_u64() > first["lsn"].as_u64(), "{first} {second}");
    assert_eq!(rows(&estate, &[], "now.db"), 3);
    assert_eq!(rows(&estate, &["--lsn", &first["lsn"].to_string()], "then.db"), 1);
    let plain = Connection::open(estate.path("plain.db")).unwrap();
    plain.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
    let refused = estate.run(&["backup", "plain.db"]);
    assert!(refused.code == 1 && refused.err.contains("--enable-wal"), "{refused:?}");
    drop(plain);
    assert_eq!(estate.run(&["backup", "plain.db", "--enable-wal"]).code, 0);
}

#[test]
fn an_interruption_ends_a_first_copy_and_the_next_one_begins_again() {
    let estate = Estate::new();
    let connection = database(&estate);
    connection.execute_batch("CREATE TABLE large (b BLOB)").unwrap();
    for _ in 0..48 {
        connection.execute("INSERT INTO large VALUES (randomblob(1000000))", []).unwrap();
    }
    let run = |args: &[&str]| {
        let mut command = estate.command(args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Its first file is there, the last one is not yet.
        wait("the copy begins", || std::fs::read_dir(estate.path("archive/tmp")).is_ok_and(|dir| dir.count() > 0));
        interrupt(child)
    };
    for args in [&["backup", "live.db"][..], &["watch", "live.db"]] {
        let stopped = run(args);
        if stopped.code == 0 {
            // It was quicker than the interruption.
            return;
        }
        assert!(stopped.code == 130 && stopped.err.contains("interrupted before"), "{stopped:?}");
        assert!(estate.ok(&["info"]).contains("nothing can be restored"));
    }
    estate.ok(&["backup", "live.db"]);
    assert!(estate.ok(&["verify"]).ends_with("intact\n"));
}
