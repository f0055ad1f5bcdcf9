//! A restored state in the place of the database: with `restore --replace`, with `--delta`, and by
//! hand.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::estate::Estate;
use crate::live::{database, interrupt, latest, wait, watch};

/// What the tests restore: rows by LSN. Filled with so many bytes more.
fn history(estate: &Estate, bytes: u64) -> (u64, u64) {
    let connection = database(estate);
    connection.execute_batch("CREATE TABLE large (b BLOB)").unwrap();
    let fill = |count: u64| {
        for _ in 0..count {
            connection.execute("INSERT INTO large VALUES (randomblob(100000))", []).unwrap();
        }
    };
    fill(bytes / 100_000);
    connection.execute_batch("INSERT INTO t VALUES (1), (2), (3)").unwrap();
    let then = estate.json(&["backup", "live.db"])["lsn"].as_u64().unwrap();
    // The accident: everything is different, and there is more of it.
    connection
        .execute_batch(
            "DELETE FROM t; INSERT INTO t VALUES (4); UPDATE large SET b = randomblob(90000)",
        )
        .unwrap();
    fill(bytes / 300_000);
    let now = estate.json(&["backup", "live.db"])["lsn"].as_u64().unwrap();
    connection.close().unwrap();
    (then, now)
}

/// The rows of `t`, of a sound database.
fn rows(path: &Path) -> Vec<i64> {
    let connection = Connection::open(path).unwrap();
    let whole: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let mut statement = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The bytes of a state, restored beside.
fn state(estate: &Estate, lsn: u64) -> Vec<u8> {
    let name = format!("state-{lsn}.db");
    estate.ok(&["restore", "--lsn", &lsn.to_string(), "-o", &name]);
    fs::read(estate.path(&name)).unwrap()
}

fn beside(estate: &Estate) -> Vec<String> {
    let names = fs::read_dir(estate.path(""))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|n| n.starts_with("live.db") || n.starts_with(".live") || n.contains("incomplete"))
        .collect();
    names.sort();
    names
}

/// What a file holds, read by another process: this one would lose its connections' locks by
/// closing it.
fn cat(path: &Path) -> Vec<u8> {
    Command::new("cat").arg(path).output().unwrap().stdout
}

/// Nobody may be connected: `--replace` and `--delta` are refused, and nothing is written.
fn refused(estate: &Estate, what: &str) {
    let (before, names) = (cat(&estate.path("live.db")), beside(estate));
    for args in [
        ["restore", "--lsn", "1", "--replace", "live.db"].as_slice(),
        &["restore", "--lsn", "1", "--delta", "-o", "live.db"],
    ] {
        let run = estate.run(args);
        assert_eq!(run.code, 6, "{what}, {args:?}: {run:?}");
        assert!(
            run.err.contains("live.db is in use") || run.err.contains("live.db is watched already"),
            "{what}: {run:?}"
        );
        assert!(cat(&estate.path("live.db")) == before, "{what}, {args:?}");
        assert_eq!(beside(estate), names, "{what}, {args:?}");
    }
}

#[test]
fn a_database_in_use_is_left_alone() {
    let estate = Estate::new();
    history(&estate, 0);
    let open = || {
        let connection = Connection::open(estate.path("live.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    };
    let count =
        |c: &Connection| c.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    let idle = open();
    idle.execute_batch("INSERT INTO t VALUES (50)").unwrap();
    refused(&estate, "a log with something in it");
    let _: i64 = idle.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(fs::metadata(estate.path("live.db-wal")).unwrap().len(), 0);
    refused(&estate, "an idle connection, and an empty log");
    idle.execute_batch("INSERT INTO t VALUES (51)").unwrap();
    // Its file has lost its name, but not its log.
    fs::rename(estate.path("live.db"), estate.path("aside.db")).unwrap();
    fs::write(estate.path("live.db"), cat(&estate.path("aside.db"))).unwrap();
    let names = beside(&estate);
    for args in
        [["restore", "--replace", "live.db"].as_slice(), &["restore", "--delta", "-o", "live.db"]]
    {
        let run = estate.run(args);
        assert!(run.code == 6 || run.err.contains("live.db-wal lies where"), "{run:?}");
        assert_eq!(beside(&estate), names);
    }
    fs::remove_file(estate.path("live.db")).unwrap();
    let run = estate.run(&["restore", "-o", "live.db"]);
    assert_eq!(run.code, 6, "a new file beside a log in use: {run:?}");
    fs::rename(estate.path("aside.db"), estate.path("live.db")).unwrap();
    drop(idle);

    let reader =
        Connection::open_with_flags(estate.path("live.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
    count(&reader).unwrap();
    refused(&estate, "a connection that only reads");
    drop(reader);
    let selfish = open();
    selfish.execute_batch("PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t VALUES (52)").unwrap();
    refused(&estate, "locking_mode = EXCLUSIVE");
    drop(selfish);
    let child = watch(&estate, &[]);
    wait("the watcher", || estate.path("live.db-shm").exists() && latest(&estate) >= 3);
    refused(&estate, "a watcher");
    symlink(estate.path("live.db"), estate.path("link.db")).unwrap();
    assert_eq!(estate.run(&["restore", "--replace", "link.db"]).code, 6);
    interrupt(child);
    let lock = fs::File::open(estate.path("live.db-rewound")).unwrap();
    lock.lock().unwrap();
    refused(&estate, "a watcher that waits for its database");
    drop(lock);
    let old = open();
    let _: String = old.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).unwrap();
    old.execute_batch("BEGIN").unwrap();
    count(&old).unwrap();
    refused(&estate, "a reader in rollback mode");
    old.execute_batch("COMMIT; BEGIN; INSERT INTO t VALUES (53)").unwrap();
    refused(&estate, "a writer in rollback mode");
    drop(old);
    estate.ok(&["restore", "--lsn", "1", "--replace", "live.db"]);
    estate.ok(&["restore", "--delta", "-o", "live.db"]);
}

#[test]
fn a_replaced_database_is_the_target_and_stays_so() {
    let estate = Estate::new();
    let (then, now) = history(&estate, 1_000_000);
    let path = estate.path("live.db");
    let (old, new) = (state(&estate, now), state(&estate, then));
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let number = fs::metadata(&path).unwrap().ino();
    let replace =
        |lsn: u64, to: &str| estate.json(&["restore", "--lsn", &lsn.to_string(), "--replace", to]);
    let done = replace(then, "live.db");
    assert_eq!((done["lsn"].as_u64(), done["output"].as_str()), (Some(then), Some("live.db")));
    assert!(fs::read(&path).unwrap() == new);
    let is = fs::metadata(&path).unwrap();
    assert_eq!((is.ino(), is.mode() & 0o777), (number, 0o640));
    assert_eq!(rows(&path), [1, 2, 3]);
    assert_eq!(beside(&estate), ["live.db", "live.db-rewound"]);
    let audit = estate.ok(&["audit", "--json"]);
    assert!(
        audit.lines().any(|l| l.contains("restore-started") && l.contains("/live.db\"")),
        "{audit}"
    );

    // The log that a crash has left is of the old database, and goes with it.
    let crash = |estate: &Estate| {
        let app = Connection::open(&path).unwrap();
        app.execute_batch("INSERT INTO t VALUES (70)").unwrap();
        for name in ["live.db", "live.db-wal", "live.db-shm"] {
            fs::copy(estate.path(name), estate.path(&format!("crashed-{name}"))).unwrap();
        }
        drop(app);
        for name in ["live.db", "live.db-wal", "live.db-shm"] {
            fs::rename(estate.path(&format!("crashed-{name}")), estate.path(name)).unwrap();
        }
    };
    crash(&estate);
    assert!(fs::metadata(estate.path("live.db-wal")).unwrap().len() > 0);
    symlink("live.db", estate.path("link.db")).unwrap();
    replace(now, "link.db");
    assert!(fs::read(&path).unwrap() == old);
    assert!(estate.path("link.db").is_symlink());
    assert_eq!(rows(&path), [4]);
    crash(&estate);
    replace(then, "live.db");
    assert_eq!(rows(&path), [1, 2, 3]);

    // The archive takes it up as one commit, which another restore undoes.
    let taken_up = estate.json(&["backup", "live.db"]);
    assert_eq!(
        (taken_up["commits"].as_u64(), taken_up["resyncs"].as_u64()),
        (Some(0), Some(1)),
        "{taken_up}"
    );
    assert!(state(&estate, taken_up["lsn"].as_u64().unwrap()) == new);
    replace(now, "live.db");
    assert_eq!(rows(&path), [4]);
    let app = Connection::open(&path).unwrap();
    app.execute_batch("INSERT INTO t VALUES (71)").unwrap();
    drop(app);
    let again = estate.json(&["backup", "live.db"]);
    estate.ok(&["restore", "--lsn", &again["lsn"].to_string(), "-o", "again.db"]);
    assert_eq!(rows(&estate.path("again.db")), [4, 71]);
    assert!(estate.ok(&["verify"]).ends_with("intact\n"));

    // One that is not there, or is damaged.
    fs::remove_file(&path).unwrap();
    replace(then, "live.db");
    assert!(fs::read(&path).unwrap() == new);
    for damage in [0, 4096] {
        let mut bytes = old.clone();
        bytes[damage..damage + 100].fill(0xff);
        fs::write(&path, bytes).unwrap();
        replace(then, "live.db");
        assert!(fs::read(&path).unwrap() == new);
    }
}

#[test]
fn what_cannot_be_replaced_is_told_and_stays() {
    let estate = Estate::new();
    let (then, _) = history(&estate, 0);
    let path = estate.path("live.db");
    let before = fs::read(&path).unwrap();
    let run =
        |args: &[&str]| estate.run(&[&["restore", "--lsn", &then.to_string()], args].concat());
    for args in
        [["--replace", "live.db", "-o", "x.db"], ["--replace", "live.db", "--delta", "--utc"]]
    {
        assert_eq!(run(&args).code, 2, "{args:?}");
    }
    assert_eq!(estate.run(&["restore", "--lsn", "99", "--replace", "live.db"]).code, 3);
    fs::create_dir(estate.path("dir")).unwrap();
    assert!(run(&["--replace", "dir"]).err.contains("no regular file"));
    fs::hard_link(&path, estate.path("second.db")).unwrap();
    for args in [["--replace", "live.db"].as_slice(), &["--delta", "-o", "live.db"]] {
        assert!(run(args).err.contains("second name"));
    }
    fs::remove_file(estate.path("second.db")).unwrap();
    fs::write(estate.path("gone.db-wal"), b"left behind").unwrap();
    assert!(run(&["--replace", "gone.db"]).err.contains("gone.db-wal lies where"));
    symlink("live.db", estate.path("link.db")).unwrap();
    assert!(run(&["--delta", "-o", "link.db"]).code != 0);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Somebody else's link, wherever in the path, says nothing about a file of ours.
        std::os::unix::fs::lchown(estate.path("link.db"), Some(65_534), None).unwrap();
        symlink(estate.path(""), estate.path("dir/up")).unwrap();
        std::os::unix::fs::lchown(estate.path("dir/up"), Some(65_534), None).unwrap();
        for link in ["link.db", "dir/up/live.db"] {
            let refused = run(&["--replace", link]);
            assert!(
                refused.code == 1 && refused.err.contains("a link of another user's"),
                "{link}: {refused:?}"
            );
        }
    }
    let (_, writer) = estate.writer("other");
    let mut batch = writer.batch();
    let space = batch.create_space("other", rewound::PageSize::new(512).unwrap()).unwrap();
    batch.write_page(rewound::PageId::new(space, 0), &[7; 512], None).unwrap();
    batch.commit(rewound::Durability::Synced).unwrap();
    writer.flush().unwrap();
    let other = estate.run(&["restore", "--node", "other", "--replace", "live.db"]);
    assert!(other.code == 1 && other.err.contains("no SQLite database"), "{other:?}");
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(beside(&estate), ["live.db", "live.db-rewound"]);
}

/// What a crash in rollback mode has left is rolled back before the database is replaced, and
/// refused by what rewrites it.
#[test]
fn a_journal_that_a_crash_has_left() {
    let estate = Estate::new();
    let (then, _) = history(&estate, 500_000);
    let new = state(&estate, then);
    let app = Connection::open(estate.path("live.db")).unwrap();
    let mode: String = app.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    app.execute_batch("PRAGMA cache_size = 1; BEGIN; UPDATE large SET b = randomblob(80000)")
        .unwrap();
    let crashed = [("live.db", "crashed"), ("live.db-journal", "crashed-journal")];
    for (from, to) in crashed {
        fs::write(estate.path(to), cat(&estate.path(from))).unwrap();
    }
    drop(app);
    for (to, from) in crashed {
        fs::rename(estate.path(from), estate.path(to)).unwrap();
    }
    let (before, journal) = (
        fs::read(estate.path("live.db")).unwrap(),
        fs::read(estate.path("live.db-journal")).unwrap(),
    );
    assert!(journal.len() > 4096 && journal[0] == 0xd9);
    let delta = estate.run(&["restore", "--lsn", &then.to_string(), "--delta", "-o", "live.db"]);
    assert!(delta.code == 1 && delta.err.contains("live.db-journal lies where"), "{delta:?}");
    assert!(fs::read(estate.path("live.db")).unwrap() == before);
    estate.ok(&["restore", "--lsn", &then.to_string(), "--replace", "live.db"]);
    assert!(fs::read(estate.path("live.db")).unwrap() == new);
    assert_eq!(beside(&estate), ["live.db", "live.db-rewound"]);
    assert_eq!(rows(&estate.path("live.db")), [1, 2, 3]);
}

/// SIGKILL at any moment leaves the old database or the new one, and the next restore works.
#[test]
fn a_killed_replacement_is_the_old_or_the_new_one() {
    let estate = Estate::new();
    let (then, now) = history(&estate, 12_000_000);
    let path = estate.path("live.db");
    let states = [state(&estate, then), state(&estate, now)];
    let spawn = |lsn: u64| {
        let mut command =
            estate.command(&["restore", "-q", "--lsn", &lsn.to_string(), "--replace", "live.db"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let begun = Instant::now();
    assert!(spawn(then).wait().unwrap().success());
    let whole = begun.elapsed();
    let (mut killed, mut hot, mut replaced) = (0, 0, 0);
    for round in 0..40_u32 {
        let mut child = spawn(if round % 2 == 0 { now } else { then });
        if round % 4 < 2 {
            // Later and later.
            std::thread::sleep(whole * (round + 4) / 44);
        } else {
            // In the midst of it, as far as one can tell from outside.
            while !estate.path("live.db-journal").exists() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            std::thread::sleep(whole * round / 400);
        }
        let _ = child.kill();
        killed += u32::from(!child.wait().unwrap().success());
        hot += u32::from(estate.path("live.db-journal").exists());
        let seen = rows(&path);
        assert_eq!(beside(&estate), ["live.db", "live.db-rewound"], "{round}");
        let is = fs::read(&path).unwrap();
        assert!(states.contains(&is), "round {round}: {} bytes", is.len());
        assert_eq!(seen, if is == states[0] { vec![1, 2, 3] } else { vec![4] });
        replaced += u32::from(is == states[(1 - round % 2) as usize]);
    }
    eprintln!("{killed} of 40 killed in {whole:?}, {hot} with a journal, {replaced} replaced");
    assert!(killed >= 20 && hot >= 1, "{killed} killed, {hot} in the midst of it");
}

/// Whoever opens the database in the midst of it waits, and sees the old or the new one.
#[test]
fn a_database_cannot_be_opened_in_the_midst_of_it() {
    let estate = Estate::new();
    let (then, now) = history(&estate, 6_000_000);
    let path = estate.path("live.db");
    let (over, path) = (AtomicBool::new(false), path.as_path());
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut busy, mut seen) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let connection = Connection::open(path).unwrap();
                connection.busy_timeout(Duration::ZERO).unwrap();
                let look = || -> rusqlite::Result<(i64, String)> {
                    let sum = connection.query_row("SELECT sum(n) FROM t", [], |row| row.get(0))?;
                    Ok((sum, connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?))
                };
                match look() {
                    Ok((sum, whole)) => {
                        assert!([4, 6].contains(&sum) && whole == "ok", "{sum} {whole}");
                        seen += 1;
                    }
                    Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => busy += 1,
                    Err(e) => panic!("{e}"),
                }
                drop(connection);
                std::thread::sleep(Duration::from_millis(20));
            }
            (busy, seen)
        });
        for round in 0..12 {
            let lsn = if round % 2 == 0 { then } else { now }.to_string();
            let args = if round < 8 {
                ["--replace", "live.db", "-q"]
            } else {
                ["--delta", "-o", "live.db"]
            };
            // In use, as it may be at the moment.
            wait("a restore", || {
                match estate.run(&[&["restore", "--lsn", &lsn], args.as_slice()].concat()).code {
                    6 => false,
                    code => {
                        assert_eq!(code, 0);
                        true
                    }
                }
            });
        }
        over.store(true, Ordering::SeqCst);
        let (busy, seen) = looking.join().unwrap();
        eprintln!("{busy} times busy, {seen} times seen");
        assert!(busy > 0);
    });
    assert_eq!(rows(path), [4]);
}

#[test]
fn the_lines_that_are_printed_put_a_file_in_place() {
    let estate = Estate::new();
    let (then, _) = history(&estate, 0);
    let path = estate.path("live.db");
    // An application that ends without a checkpoint.
    let app = Connection::open(&path).unwrap();
    app.execute_batch("INSERT INTO t VALUES (80)").unwrap();
    fs::copy(estate.path("live.db-wal"), estate.path("left-wal")).unwrap();
    drop(app);
    fs::rename(estate.path("left-wal"), estate.path("live.db-wal")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let restore = |name: &str| estate.json(&["restore", "--lsn", &then.to_string(), "-o", name]);
    let told = restore("it's restored.db");
    let lines = |told: &serde_json::Value| -> Vec<String> {
        told["put_in_place"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_str().unwrap().to_owned())
            .collect()
    };
    // Where no watcher has put the database on record it is named in a line of its own.
    let script = lines(&told).join("\n").replace("/path/to/app.db", path.to_str().unwrap());
    assert!(Command::new("bash").args(["-e", "-c", &script]).status().unwrap().success());
    assert_eq!(rows(&path), [1, 2, 3]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    // Typed once more, with what was committed since in the log, it does nothing.
    fs::write(estate.path("live.db-wal"), b"a log").unwrap();
    assert!(
        !Command::new("bash")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(fs::read(estate.path("live.db-wal")).unwrap(), b"a log");
    fs::remove_file(estate.path("live.db-wal")).unwrap();
    let text = estate.ok(&["restore", "--lsn", &then.to_string(), "-o", "plain.db"]);
    let mv = format!("mv -f {} ", estate.path("plain.db").display());
    assert!(
        text.contains("-wal ") && text.contains(&mv) && text.contains("--replace DB"),
        "{text}"
    );
    for there in ["dir", "plain.db"] {
        fs::create_dir_all(estate.path("dir")).unwrap();
        let args = ["restore", "--lsn", &then.to_string(), "--replace", "plain.db"];
        let told = if there == "dir" {
            estate.json(&["restore", "-o", "dir"])
        } else {
            estate.json(&args)
        };
        assert!(lines(&told).is_empty(), "{told}");
    }

    // On record.
    let (_, writer) = estate.writer("live.db");
    let mut record = vec![0x84, 0x50];
    record.extend(b"/srv/a b/it's.db");
    record.extend([0x83, 0x01, 0x02, 0xf6, 0x61, b'x', 0xf6]);
    let mut batch = writer.batch();
    batch.set_config("sqlite.database", &record, rewound::ConfigScope::Environment).unwrap();
    batch.commit(rewound::Durability::Synced).unwrap();
    drop(writer);
    let lines = lines(&estate.json(&["restore", "-o", "known.db"]));
    // One chain: what fails keeps the rest from being done.
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with(r"known.db '/srv/a b/it'\''s.db'"), "{lines:?}");
    assert!(lines[0].contains(r" && rm -f '/srv/a b/it'\''s.db'-wal "), "{lines:?}");
}

/// What the journal needs is looked at before anything is written.
#[test]
fn a_replacement_that_does_not_fit_is_refused() {
    let estate = Estate::new();
    history(&estate, 1_200_000);
    fs::create_dir(estate.path("disk")).unwrap();
    let bytes = fs::metadata(estate.path("live.db")).unwrap().len();
    let run = |size: u64| {
        let script = format!(
            "mount -t tmpfs -o size={size} tmpfs disk || exit 77; cp live.db disk/ || exit 78
             '{}' restore --lsn 1 --replace disk/live.db; code=$?
             [ $code = 0 ] || cmp live.db disk/live.db || exit 90
             [ \"$(ls -A disk)\" = live.db ] || exit 91; exit $code",
            env!("CARGO_BIN_EXE_rewound")
        );
        let mut command = Command::new("unshare");
        command
            .args(["-rm", "sh", "-c", &script])
            .current_dir(estate.path(""))
            .stdin(Stdio::null());
        command
            .env("REWOUND_ARCHIVE", estate.path("archive"))
            .env("REWOUND_KEY_FILE", estate.path("app.key"));
        crate::estate::Run::of(command)
    };
    let small = run(bytes + bytes / 2);
    if small.code == 77 {
        eprintln!("no file system of its own to be had: {small:?}");
        return;
    }
    assert!(
        small.code == 1 && small.err.contains("bytes, ") && small.err.contains("are free"),
        "{small:?}"
    );
    assert_eq!(run(2 * bytes + (256 << 10)).code, 0);
}
