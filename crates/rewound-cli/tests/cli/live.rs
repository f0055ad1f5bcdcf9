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

pub fn insert(connection: &Connection, n: i64) {
    connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
}

pub fn watch(estate: &Estate, args: &[&str]) -> Child {
    let mut command = estate.command(&[&["watch", "live.db"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn rows(estate: &Estate, args: &[&str], file: &str) -> i64 {
    estate.ok(&[&["restore", "-o", file], args].concat());
    let connection = Connection::open(estate.path(file)).unwrap();
    let whole: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
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
    Run {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
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
    assert!(
        stopped.err.contains("watching") && stopped.err.contains("stopped at LSN"),
        "{stopped:?}"
    );
    assert_eq!(rows(&estate, &[], "all.db"), 60);
    assert_eq!(rows(&estate, &["--point", "fifty"], "fifty.db"), 50);
    assert!(estate.ok(&["verify"]).ends_with("intact\n"));
}

/// The archive is moved away under a watcher, and back; then it is deleted: told, tried again, and
/// no success.
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
    for word in
        ["tries again", "works again", "not archived", "no longer what was opened", "put it back"]
    {
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
        wait("the copy begins", || {
            std::fs::read_dir(estate.path("archive/tmp")).is_ok_and(|dir| dir.count() > 0)
        });
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

/// What cannot be watched leaves no node behind, and what holds nothing, or is deleted, does not
/// make a question of which node is meant.
#[test]
fn a_refused_database_leaves_no_node() {
    let estate = Estate::new();
    let connection = database(&estate);
    insert(&connection, 1);
    estate.ok(&["backup", "live.db"]);
    std::fs::write(estate.path("text.db"), "not a database".repeat(100)).unwrap();
    std::fs::write(estate.path("empty.db"), "").unwrap();
    std::fs::create_dir(estate.path("directory.db")).unwrap();
    let plain = Connection::open(estate.path("plain.db")).unwrap();
    plain.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
    for name in ["exclusive.db", ".hidden.db", "watched.db"] {
        let connection = Connection::open(estate.path(name)).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
    }
    let exclusive = Connection::open(estate.path("exclusive.db")).unwrap();
    exclusive.execute_batch("PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t VALUES (1)").unwrap();
    let elsewhere = Estate::new();
    let archive = elsewhere.path("archive");
    let mut command =
        estate.command(&["watch", "watched.db", "--archive", archive.to_str().unwrap()]);
    command.env("REWOUND_KEY_FILE", elsewhere.path("app.key"));
    let watched = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("the other watcher", || latest(&elsewhere) >= 1);
    for (database, code, words) in [
        (&["text.db"][..], 1, "is not a SQLite database"),
        (&["empty.db"], 1, "is empty"),
        (&["directory.db"], 1, "no database at"),
        (&["missing.db"], 1, "no database at"),
        (&["plain.db"], 1, "--enable-wal"),
        (&["exclusive.db"], 1, "is locked"),
        (&["watched.db"], 6, "watched already"),
        (&[".hidden.db"], 2, "--node \"hidden.db\""),
        (&["live.db", "--node", "a/b"], 2, "cannot name a node"),
    ] {
        // A lock may be given up in the end: a watcher may wait for that.
        let commands = if words == "is locked" { &["backup"][..] } else { &["watch", "backup"] };
        for command in commands {
            let refused = estate.run(&[&[*command], database].concat());
            assert!(
                refused.code == code && refused.err.contains(words),
                "{command} {database:?}: {refused:?}"
            );
        }
    }
    assert_eq!(interrupt(watched).code, 0);
    let nodes = || {
        let info = estate.json(&["info"]);
        info["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(nodes(), ["live.db"]);
    // Given a name it is protected; and deleted again.
    estate.ok(&["backup", ".hidden.db", "--node", "hidden"]);
    let asked = estate.run(&["log"]);
    assert!(asked.code == 2 && asked.err.contains("live.db, hidden"), "{asked:?}");
    estate.ok(&["delete-node", "hidden"]);
    estate.archive.create_node("nothing", rewound::Origin::Existing).unwrap();
    assert_eq!(nodes().len(), 3);
    for command in [
        &["log"][..],
        &["plan"],
        &["point", "here"],
        &["diff", "latest"],
        &["restore", "-o", "back.db"],
    ] {
        estate.ok(command);
    }
    assert_eq!(rows(&estate, &[], "again.db"), 1);
    // Where nothing else is left, what is deleted is meant, and says so.
    estate.ok(&["delete-node", "live.db"]);
    estate.ok(&["delete-node", "nothing"]);
    let asked = estate.run(&["log"]);
    assert_eq!(asked.code, 2, "{asked:?}");
}

/// Two databases of one file name, one archive.
#[test]
fn two_databases_of_one_name_do_not_share_a_node() {
    let estate = Estate::new();
    let [a, b] = ["a", "b"].map(|tenant| {
        std::fs::create_dir_all(estate.path(&format!("tenants/{tenant}"))).unwrap();
        let connection =
            Connection::open(estate.path(&format!("tenants/{tenant}/app.db"))).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
        connection
    });
    insert(&a, 1);
    (0..5).for_each(|n| insert(&b, n));
    estate.ok(&["backup", "tenants/a/app.db"]);
    for command in ["backup", "watch"] {
        let refused = estate.run(&[command, "tenants/b/app.db"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        for words in ["tenants/a/app.db", "\"b-app.db\"", "hint: --node NAME", "--adopt"] {
            assert!(refused.err.contains(words), "{words}: {refused:?}");
        }
    }
    let info = estate.json(&["info"]);
    assert!(
        info["nodes"][0]["database"].as_str().unwrap().ends_with("/tenants/a/app.db"),
        "{info}"
    );
    assert_eq!(info["nodes"].as_array().unwrap().len(), 1);
    estate.ok(&["backup", "tenants/b/app.db", "--node", "b-app.db"]);
    assert_eq!(rows(&estate, &["--node", "app.db"], "a.db"), 1);
    assert_eq!(rows(&estate, &["--node", "b-app.db"], "b.db"), 5);
    let adopted = estate.json(&["backup", "tenants/b/app.db", "--node", "app.db", "--adopt"]);
    assert_eq!(adopted["resyncs"], 1);
    // A file that takes the place of another, with all that belongs to it, is compared, and why is
    // said.
    drop((a, b));
    std::fs::rename(estate.path("tenants/a/app.db"), estate.path("tenants/b/app.db")).unwrap();
    let compared = estate.run(&["backup", "tenants/b/app.db", "--node", "b-app.db"]);
    assert!(
        compared.code == 0 && compared.err.contains("was replaced by another file"),
        "{compared:?}"
    );
    assert_eq!(rows(&estate, &["--node", "b-app.db"], "replaced.db"), 1);
    assert_eq!(rows(&estate, &["--node", "app.db"], "adopted.db"), 5);
}
