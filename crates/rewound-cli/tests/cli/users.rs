//! Places of other users, and names that lead elsewhere. As root only: what needs another user is
//! left out otherwise.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::estate::{Estate, Run, Shop, orders};
use crate::live::{database, insert};

/// Somebody who is not root.
const USER: u32 = 12_345;
const GROUP: u32 = 23_456;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("left out: it takes root to act as another user");
    }
    root
}

fn give(path: &Path) {
    chown(path, Some(USER), Some(GROUP)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Owner, group and permissions.
fn of(path: &Path) -> (u32, u32, u32) {
    let found = path.symlink_metadata().unwrap();
    (found.uid(), found.gid(), found.permissions().mode() & 0o7777)
}

fn as_user(estate: &Estate, args: &[&str]) -> Run {
    let mut command = estate.command(args);
    command.uid(USER).gid(GROUP);
    Run::of(command)
}

/// An estate that belongs to another user, with an archived database, and a directory of that
/// user's.
fn theirs() -> (Estate, PathBuf) {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    let place = estate.path("place");
    std::fs::create_dir(&place).unwrap();
    give(estate.dir.path());
    (estate, place)
}

#[test]
fn what_root_creates_belongs_to_whom_its_place_belongs_to() {
    if !is_root() {
        return;
    }
    let (estate, place) = theirs();
    let private = (USER, GROUP, 0o600);
    estate.ok(&["restore", "-o", "place/app.db"]);
    assert_eq!(of(&place.join("app.db")), private);
    estate.ok(&["restore", "-o", "place/new/dirs/app.db"]);
    assert_eq!(of(&place.join("new")), (USER, GROUP, 0o700));
    assert_eq!(of(&place.join("new/dirs/app.db")), private);
    std::fs::create_dir(place.join("empty")).unwrap();
    give(&place);
    estate.ok(&["restore", "-o", "place/empty"]);
    assert_eq!(
        (of(&place.join("empty")), of(&place.join("empty/app.db"))),
        ((USER, GROUP, 0o700), private)
    );
    // What is rewritten stays whose it is; what is missing is made like anything new.
    std::fs::set_permissions(place.join("app.db"), PermissionsExt::from_mode(0o640)).unwrap();
    estate.ok(&["restore", "-o", "place/app.db", "--delta", "--lsn", "20"]);
    assert_eq!(of(&place.join("app.db")), (USER, GROUP, 0o640));
    std::fs::remove_file(place.join("app.db")).unwrap();
    estate.ok(&["restore", "-o", "place", "--delta"]);
    assert_eq!(of(&place.join("app.db")), private);
    // A key, a picture, manual pages.
    estate.ok(&["key", "generate", "place/new.key"]);
    assert_eq!(of(&place.join("new.key")), private);
    estate.ok(&["info", "--svg", "place/picture.svg"]);
    estate.ok(&["man", "--dir", "place"]);
    for name in ["picture.svg", "rewound.1", "rewound-key-generate.1"] {
        assert_eq!((of(&place.join(name)).0, of(&place.join(name)).1), (USER, GROUP), "{name}");
    }
    std::fs::set_permissions(place.join("picture.svg"), PermissionsExt::from_mode(0o604)).unwrap();
    chown(place.join("picture.svg"), Some(777), Some(777)).unwrap();
    estate.ok(&["info", "--svg", "place/picture.svg"]);
    assert_eq!(of(&place.join("picture.svg")), (777, 777, 0o604));
    // Where that user can go on with it.
    let run = as_user(&estate, &["restore", "-o", "place/app.db", "--delta", "--lsn", "10"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(as_user(&estate, &["info", "--key-file", "place/new.key"]).code, 5);
}

#[test]
fn a_database_that_root_has_watched_once_is_its_owners_still() {
    if !is_root() {
        return;
    }
    for mode in [0o600, 0o660, 0o644] {
        let estate = Estate::days_ago(0);
        let connection = database(&estate);
        insert(&connection, 1);
        drop(connection);
        std::fs::set_permissions(estate.path("live.db"), PermissionsExt::from_mode(mode)).unwrap();
        give(estate.dir.path());
        estate.ok(&["backup", "live.db"]);
        assert_eq!(
            of(&estate.path("live.db-rewound")),
            (USER, GROUP, if mode == 0o660 { 0o660 } else { 0o600 }),
            "{mode:o}"
        );
        for name in ["live.db", "live.db-wal", "live.db-shm"] {
            let path = estate.path(name);
            assert!(!path.exists() || of(&path) == (USER, GROUP, mode), "{name}: {:?}", of(&path));
        }
        let run = as_user(&estate, &["backup", "live.db"]);
        assert_eq!(run.code, 0, "{run:?}");
    }
}

#[test]
fn a_user_turns_nothing_that_root_writes_to_another_place() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    database(&estate);
    let place = estate.path("place");
    std::fs::create_dir(&place).unwrap();
    let victim = estate.path("victim");
    std::fs::write(&victim, b"precious").unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("place/app.db", &["restore", "-o", "place", "--delta"]),
        ("place/.rewound-incomplete", &["restore", "-o", "place", "--delta"]),
        ("place/app.db", &["restore", "-o", "place/app.db"]),
        ("place/app.db", &["restore", "-o", "place/app.db", "--delta"]),
        ("place/picture.svg", &["info", "--node", "app.db", "--svg", "place/picture.svg"]),
        ("place/rewound.1", &["man", "--dir", "place"]),
        ("place/new.key", &["key", "generate", "place/new.key"]),
        ("live.db-rewound", &["backup", "live.db", "--node", "live"]),
    ];
    for (link, args) in cases {
        for to in [victim.as_path(), Path::new("nothing")] {
            symlink(to, estate.path(link)).unwrap();
            let mut all = args.to_vec();
            if args[0] == "restore" {
                all.extend(["--node", "app.db"]);
            }
            let begun = Instant::now();
            let run = estate.run(&all);
            assert!(run.code == 1 || run.code == 5, "{args:?}: {run:?}");
            assert!(run.err.contains(link.rsplit('/').next().unwrap()), "{args:?}: {run:?}");
            assert!(begun.elapsed() < Duration::from_secs(20));
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{args:?}");
            assert!(
                !estate.path("nothing").exists() && !place.join("nothing").exists(),
                "{args:?}"
            );
            std::fs::remove_file(estate.path(link)).unwrap();
        }
        // A FIFO is not waited for.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            estate.path(link),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let mut all = args.to_vec();
        if args[0] == "restore" {
            all.extend(["--node", "app.db"]);
        }
        let run = estate.run(&all);
        assert!(run.code == 1 || run.code == 5, "{args:?}: {run:?}");
        std::fs::remove_file(estate.path(link)).unwrap();
    }
    let mut fifo = estate.command(&["info", "--key-file", "fifo"]);
    assert!(
        Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(estate.path("fifo"))
            .status()
            .unwrap()
            .success()
    );
    let run = Run::of({
        fifo.stdin(Stdio::null());
        fifo
    });
    assert!(run.code == 5 && run.err.contains("a FIFO, not a regular file"), "{run:?}");
}

#[test]
fn root_does_not_restore_for_a_user_where_others_could_interfere() {
    if !is_root() {
        return;
    }
    let (estate, place) = theirs();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
    for args in [&["restore", "-o", "place/app.db"][..], &["restore", "-o", "place", "--delta"]] {
        let run = estate.run(args);
        assert!(run.code == 1 && run.err.contains("others could interfere"), "{args:?}: {run:?}");
    }
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    // With the sticky bit they could not; and root's own is root's own.
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o1777)).unwrap();
    estate.ok(&["restore", "-o", "place/app.db"]);
    assert_eq!(of(&place.join("app.db")), (USER, GROUP, 0o600));
    // What somebody else has laid there gets no plaintext.
    std::fs::set_permissions(estate.path("place/app.db"), PermissionsExt::from_mode(0o666))
        .unwrap();
    std::os::unix::fs::chown(place.join("app.db"), Some(1), Some(1)).unwrap();
    let before = std::fs::read(place.join("app.db")).unwrap();
    let run = estate.run(&["restore", "--lsn", "1", "-o", "place", "--delta"]);
    assert!(run.code == 1 && run.err.contains("another user's file"), "{run:?}");
    assert!(std::fs::read(place.join("app.db")).unwrap() == before);
}

#[test]
fn an_output_that_ends_in_a_slash_is_a_directory() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    estate.ok(&["restore", "-o", "above/new/"]);
    assert_eq!(orders(&estate.path("above/new/app.db")), 30);
}

#[test]
fn a_umask_opens_and_closes_nothing() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    for umask in ["000", "777"] {
        for (args, path) in [
            (vec!["restore", "-o", "one/app.db"], "one/app.db"),
            (vec!["restore", "-o", "one", "--delta"], "one/app.db"),
            (vec!["key", "generate", "one/new.key"], "one/new.key"),
        ] {
            let script = format!("umask {umask}; exec \"$0\" \"$@\"");
            let command = estate.in_shell(&script, &args);
            let run = Run::of(command);
            assert_eq!(run.code, 0, "{umask} {args:?}: {run:?}");
            assert_eq!(
                (of(&estate.path(path)).2, of(&estate.path("one")).2),
                (0o600, 0o700),
                "{umask} {args:?}"
            );
        }
        std::fs::remove_dir_all(estate.path("one")).unwrap();
    }
}

#[test]
fn a_place_that_cannot_be_written_to_is_said() {
    if !is_root() {
        return;
    }
    let (estate, place) = theirs();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o555)).unwrap();
    for args in [
        &["restore", "-o", "place/app.db"][..],
        &["restore", "-o", "place/new/app.db"],
        &["restore", "-o", "place", "--delta"],
        &["key", "generate", "place/new.key"],
        &["info", "--svg", "place/picture.svg"],
    ] {
        let run = as_user(&estate, args);
        assert!(
            run.code == 1 && run.err.to_lowercase().contains("permission denied"),
            "{args:?}: {run:?}"
        );
    }
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_after_the_next_one() {
    let estate = Estate::days_ago(0);
    let connection = Connection::open(estate.path("app.db")).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, b BLOB)").unwrap();
    for _ in 0..24 {
        connection.execute("INSERT INTO orders (b) VALUES (randomblob(1000000))", []).unwrap();
    }
    estate.ok(&["backup", "app.db"]);
    let place = estate.path("place");
    std::fs::create_dir(&place).unwrap();
    for args in [&["restore", "-o", "place/app.db"][..], &["restore", "-o", "place/dir"]] {
        if args[2] == "place/dir" {
            std::fs::create_dir(place.join("dir")).unwrap();
        }
        let begun = Instant::now();
        estate.ok(args);
        let whole = begun.elapsed();
        for step in 1..12 {
            let _ = (
                std::fs::remove_file(place.join("app.db")),
                std::fs::remove_file(place.join("dir/app.db")),
            );
            let mut child =
                estate.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole * step / 10);
            child.kill().unwrap();
            child.wait().unwrap();
            // One name, whole, or none; and on the way to it at most a hidden one.
            for entry in std::fs::read_dir(&place).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                match name.as_str() {
                    "app.db" => assert_eq!(orders(&path), 24),
                    "dir" => {}
                    hidden => assert!(hidden.starts_with(".dir.rewound-"), "{hidden}"),
                }
            }
        }
        let _ = (
            std::fs::remove_file(place.join("app.db")),
            std::fs::remove_file(place.join("dir/app.db")),
        );
        if args[2] == "place/dir" {
            let _ = std::fs::create_dir(place.join("dir"));
        }
        estate.ok(args);
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1, "{args:?}");
        let _ = std::fs::remove_file(place.join("app.db"));
    }
    assert_eq!(orders(&place.join("dir/app.db")), 24);
}

#[test]
fn root_follows_a_link_of_whose_place_it_leads_to_and_of_nobody_else() {
    if !is_root() {
        return;
    }
    let (estate, place) = theirs();
    let foreign = estate.path("foreign");
    std::fs::create_dir(&foreign).unwrap();
    estate.ok(&["restore", "-o", "foreign/app.db"]);
    let before = std::fs::read(foreign.join("app.db")).unwrap();
    symlink(&foreign, place.join("data")).unwrap();
    std::os::unix::fs::lchown(place.join("data"), Some(USER), Some(GROUP)).unwrap();
    for args in [
        &["restore", "--lsn", "3", "-o", "place/data", "--delta"][..],
        &["restore", "--lsn", "3", "-o", "place/data/app.db", "--delta"],
        &["restore", "--lsn", "3", "-o", "place/data/new.db"],
        &["restore", "--lsn", "3", "-o", "place/data/new/dir/new.db"],
        &["key", "generate", "place/data/new.key"],
        &["info", "--svg", "place/data/new.svg"],
        &["man", "--dir", "place/data"],
    ] {
        let run = estate.run(args);
        assert!(
            run.code == 1 && run.err.contains("is a symbolic link of user 12345"),
            "{args:?}: {run:?}"
        );
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1, "{args:?}");
    }
    assert_eq!(std::fs::read(foreign.join("app.db")).unwrap(), before);
    // To a place of that user's own, and one of root's.
    let own = place.join("own");
    std::fs::create_dir(&own).unwrap();
    give(&own);
    symlink("own", place.join("current")).unwrap();
    std::os::unix::fs::lchown(place.join("current"), Some(USER), Some(GROUP)).unwrap();
    estate.ok(&["restore", "-o", "place/current/app.db"]);
    assert_eq!(of(&own.join("app.db")), (USER, GROUP, 0o600));
    symlink(&foreign, estate.path("roots")).unwrap();
    estate.ok(&["restore", "-o", "roots/../foreign/other.db"]);
}
