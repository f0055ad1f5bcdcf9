//! An application: a TPC-B-like load on a SQLite database, as fast as it goes, in a process of its
//! own.

use std::path::Path;
use std::time::{Instant, SystemTime};

use rusqlite::Connection;
use serde_json::json;

use crate::branches::{self, ACCOUNTS};
use crate::common::Random;

fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    // What an application would set that expects to be backed up: WAL, the usual level of
    // durability, patience with others.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000",
    )
    .unwrap();
    db
}

/// Makes the database.
pub fn make(path: &Path, scale: i64) {
    let db = open(path);
    branches::create(&db);
    db.execute_batch(
        "CREATE TABLE history (t INTEGER PRIMARY KEY, tid INT, bid INT, aid INT, delta INT, mtime INT, filler TEXT)",
    )
    .unwrap();
    branches::fill(&db, scale.unsigned_abs());
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()
}

/// Runs so many transactions and prints how long they took, and at which time half of them were
/// committed.
pub fn run(path: &Path, scale: i64, transactions: i64) {
    let mut db = open(path);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut below = |n: i64| i64::try_from(random.below(n as u64)).unwrap();
    let mut middle = 0;
    let begun = Instant::now();
    for t in 1..=transactions {
        let (aid, tid, delta) = (
            below(scale * ACCOUNTS.cast_signed()) + 1,
            below(scale * 10) + 1,
            below(10_000) - 5_000,
        );
        let bid = (tid + 9) / 10;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        for (sql, id) in [
            ("UPDATE accounts SET abalance = abalance + ?1 WHERE aid = ?2", aid),
            ("UPDATE tellers SET tbalance = tbalance + ?1 WHERE tid = ?2", tid),
            ("UPDATE branches SET bbalance = bbalance + ?1 WHERE bid = ?2", bid),
        ] {
            tx.prepare_cached(sql).unwrap().execute((delta, id)).unwrap();
        }
        tx.prepare_cached(
            "INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, printf('%22s', ''))",
        )
        .unwrap()
        .execute((t, tid, bid, aid, delta, 1_700_000_000_000 + t * 7))
        .unwrap();
        tx.commit().unwrap();
        if t == transactions / 2 {
            middle = now();
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", json!({ "seconds": seconds, "middle": middle.to_string() }));
    // Left open until it is killed: the last connection to close would checkpoint and delete the
    // WAL.
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

/// Proves that a restored database is the state after some transaction; gives its number.
pub fn check(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    let ok: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(ok, "ok", "{}: damaged", path.display());
    let one = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    let count = one("SELECT count(*) FROM history");
    assert_eq!(count, one("SELECT coalesce(max(t), 0) FROM history"), "a transaction is missing");
    let sum = one("SELECT coalesce(sum(delta), 0) FROM history");
    for (column, table) in
        [("abalance", "accounts"), ("tbalance", "tellers"), ("bbalance", "branches")]
    {
        assert_eq!(
            sum,
            one(&format!("SELECT sum({column}) FROM {table}")),
            "{table}: parts of a transaction"
        );
    }
    count
}
