//! The tables of TPC-B, but its history. Shared with the package of the peers.

use rusqlite::Connection;

/// Accounts for each branch, and so about 11.7 MB of database, as in pgbench.
pub const ACCOUNTS: u64 = 100_000;

/// Makes the tables.
pub fn create(db: &Connection) {
    db.execute_batch(
        "CREATE TABLE accounts (aid INTEGER PRIMARY KEY, bid INT, abalance INT, filler TEXT);
         CREATE TABLE tellers (tid INTEGER PRIMARY KEY, bid INT, tbalance INT, filler TEXT);
         CREATE TABLE branches (bid INTEGER PRIMARY KEY, bbalance INT, filler TEXT);",
    )
    .unwrap();
}

/// Fills them for so many branches, and copies the log back after each.
pub fn fill(db: &Connection, scale: u64) {
    for branch in 0..scale {
        db.execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n(i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i < {0} + {ACCOUNTS} - 1)
               INSERT INTO accounts SELECT i, {1}, 0, printf('%84s', '') FROM n;
             WITH RECURSIVE n(i) AS (SELECT {1} * 10 - 9 UNION ALL SELECT i + 1 FROM n WHERE i < {1} * 10)
               INSERT INTO tellers SELECT i, {1}, 0, printf('%84s', '') FROM n;
             INSERT INTO branches VALUES ({1}, 0, printf('%88s', ''));
             COMMIT; PRAGMA wal_checkpoint(TRUNCATE);",
            branch * ACCOUNTS + 1,
            branch + 1,
        ))
        .unwrap();
    }
}
