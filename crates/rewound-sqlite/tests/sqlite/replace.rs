//! Restores into a database that is there.

use std::fs;

use rewound::{Lsn, Target};
use rewound_sqlite::{Alone, Error, WatchOptions, Watcher, backup, replace};
use rusqlite::Connection;

use super::oracle;
use super::process::Process;
use super::support::{Place, Random, connect, seed, watch};
use super::workload::{Shape, counter, prepare, transaction};

const SURE: Shape = Shape { blob: 300, changes: 4, rollback: 0, checkpoint: 0, cache: -2000 };

fn fill(db: &Connection, random: &mut Random, transactions: usize) {
    for _ in 0..transactions {
        transaction(db, 1, random, &SURE).unwrap();
    }
}

fn first() -> Target {
    Target::Lsn(Lsn::new(1).unwrap())
}

/// Whoever has it open, nothing is written; the library says so as the command line does.
#[test]
fn a_database_in_use_is_not_restored_into() {
    let (place, mut random) = (Place::new(), Random(seed()));
    prepare(&place.connect());
    let node = place.node();
    backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    fill(&place.connect(), &mut random, 5);
    backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    let whole = fs::read(place.db()).unwrap();
    let dir = place.db().parent().unwrap().to_owned();
    let unchanged = || {
        let out = std::process::Command::new("cat").arg(place.db()).output().unwrap();
        assert!(out.stdout == whole);
        assert!(
            !dir.join(".rewound-incomplete").exists() && !place.path("app.db-journal").exists()
        );
    };

    let reader = Process::reader(&place.db());
    assert!(matches!(Alone::hold(place.db()), Err(Error::InUse { .. })));
    unchanged();
    assert!(matches!(replace(node.restore(first()), place.db()), Err(Error::InUse { .. })));
    unchanged();
    let delta = node.restore(first()).delta_into_dir(&dir);
    assert!(matches!(delta, Err(rewound::Error::InUse { .. })), "{delta:?}");
    unchanged();
    reader.stop();

    // In this process, by the same SQLite.
    let db = place.connect();
    counter(&db);
    assert!(matches!(replace(node.restore(first()), place.db()), Err(Error::InUse { .. })));
    unchanged();
    drop(db);
    let watching = watch(&node, &place.db(), WatchOptions::default());
    assert!(matches!(
        replace(node.restore(first()), place.db()),
        Err(Error::AlreadyWatched { .. })
    ));
    watching.stop();
    unchanged();

    let failed = replace(
        node.restore(first()).expect_page_size("app.db", rewound::PageSize::new(512).unwrap()),
        place.db(),
    );
    assert!(
        matches!(failed, Err(Error::Archive(rewound::Error::TargetMismatch { .. }))),
        "{failed:?}"
    );
    unchanged();
    let interrupted = rewound::ReplayOptions::default();
    interrupted.cancel.cancel();
    let cancelled = replace(node.restore(first()).options(interrupted), place.db());
    assert!(matches!(cancelled, Err(Error::Archive(rewound::Error::Cancelled))), "{cancelled:?}");
    unchanged();
    replace(node.restore(first()), place.db()).unwrap();
    assert!(fs::read(place.db()).unwrap() != whole);
}

/// There and back again, with transactions in between: the archive has all of it, and every state
/// of it is right.
#[test]
fn a_replacement_is_a_commit_like_any_other() {
    let (place, mut random) = (Place::new(), Random(seed()));
    prepare(&place.connect());
    let node = place.node();
    let mut resyncs = 0;
    for round in 0..4 {
        if round == 2 {
            // Pages of another size.
            let db = Connection::open(place.db()).unwrap();
            db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM")
                .unwrap();
        }
        let db = connect(&place.db());
        let watching = watch(&node, &place.db(), WatchOptions::default());
        fill(&db, &mut random, 6);
        if round > 0 {
            // Of another length.
            transaction(&db, 1, &mut random, &Shape { blob: 200_000, ..SURE }).unwrap();
        }
        drop(db);
        resyncs += watching.stop().resyncs;
        let report =
            replace(node.restore(Target::Lsn(Lsn::new(3 + round).unwrap())), place.db()).unwrap();
        let (_, spaces) = node.restore(Target::Lsn(report.lsn)).into_memory().unwrap();
        assert!(fs::read(place.db()).unwrap() == spaces["app.db"]);
    }
    // The first watcher had nothing to compare.
    assert_eq!(resyncs, 3);
    Watcher::open(&node, place.db(), WatchOptions::default()).unwrap().poll_once().unwrap();
    let seen = oracle::check(&node);
    assert_eq!(seen.last().unwrap().counter, counter(&place.connect()));
}
