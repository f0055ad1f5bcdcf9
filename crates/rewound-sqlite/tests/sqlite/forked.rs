//! A process with a watcher forks: SQLite's locks are not inherited, and what the child does with
//! its copy must not matter.

use rewound::Target;
use rewound_sqlite::{Error, WatchOptions, Watcher};
use rusqlite::Connection;

use crate::forking::in_child;
use crate::support::Place;

#[test]
fn a_child_that_inherited_a_watcher_does_nothing_to_it() {
    let place = Place::new();
    let db = place.connect();
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (n INTEGER)").unwrap();
    let node = place.node();
    let mut watcher = Some(Watcher::open(&node, place.db(), WatchOptions::default()).unwrap());
    watcher.as_mut().unwrap().poll_once().unwrap();
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let wal = place.path("app.db-wal");
    let before = std::fs::read(&wal).unwrap();
    assert!(!before.is_empty());

    let refused =
        |e: Error| assert!(matches!(e, Error::Archive(rewound::Error::Forked { .. })), "{e}");
    in_child(&place.path(""), || {
        refused(watcher.as_mut().unwrap().poll_once().unwrap_err());
        refused(watcher.as_mut().unwrap().run().unwrap_err());
        drop(watcher.take());
    });
    in_child(&place.path(""), || refused(watcher.take().unwrap().close().unwrap_err()));
    assert!(std::fs::read(&wal).unwrap() == before);

    db.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    drop(db);
    let held = watcher.as_mut().unwrap();
    assert_eq!(held.poll_once().unwrap(), 2);
    watcher.take().unwrap().close().unwrap();
    let out = place.path("out.db");
    node.restore(Target::Latest).into_file(&out).unwrap();
    let sum: i64 = Connection::open(&out)
        .unwrap()
        .query_row("SELECT sum(n) FROM t", [], |r| r.get(0))
        .unwrap();
    assert_eq!(sum, 3);
}
