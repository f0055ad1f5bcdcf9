//! Transactions that carry a counter, so that any state tells exactly which of them it holds.
//!
//! `ledger` has one row for each transaction, numbered without gaps, with the number and the bytes
//! of the items that there were after it. A state is right when the rows are 1 to n, and the items
//! are as row n says.

use rusqlite::{Connection, OptionalExtension};

use super::support::Random;

/// What the transactions are like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Longest item.
    pub blob: u64,
    /// Most changes in a transaction.
    pub changes: u64,
    /// One in so many transactions is rolled back; zero: none.
    pub rollback: u64,
    /// One in so many is followed by a checkpoint of a random kind; zero: none.
    pub checkpoint: u64,
    /// Pages of cache: few make long transactions spill.
    pub cache: i64,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { blob: 300, changes: 4, rollback: 10, checkpoint: 0, cache: -2000 }
    }
}

pub fn prepare(db: &Connection) {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS ledger(n INTEGER PRIMARY KEY, who INTEGER, items INTEGER, bytes INTEGER);
         CREATE TABLE IF NOT EXISTS items(id INTEGER PRIMARY KEY, v BLOB);
         CREATE TABLE IF NOT EXISTS keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID;",
    )
    .unwrap();
}

pub fn counter(db: &Connection) -> u64 {
    db.query_row("SELECT coalesce(max(n), 0) FROM ledger", [], |r| r.get(0)).unwrap()
}

/// One transaction; whether it committed.
pub fn transaction(
    db: &Connection,
    who: u64,
    random: &mut Random,
    shape: &Shape,
) -> rusqlite::Result<bool> {
    db.execute_batch(&format!("PRAGMA cache_size = {}", shape.cache))?;
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = changes(db, who, random, shape);
    let rollback = shape.rollback > 0 && random.below(shape.rollback) == 0;
    if done.is_err() || rollback {
        db.execute_batch("ROLLBACK")?;
    } else {
        db.execute_batch("COMMIT")?;
    }
    done?;
    if shape.checkpoint > 0 && random.below(shape.checkpoint) == 0 {
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][random.below(4) as usize];
        // Others may keep it from succeeding; that is their right.
        let _ = db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
    }
    Ok(!rollback)
}

fn changes(db: &Connection, who: u64, random: &mut Random, shape: &Shape) -> rusqlite::Result<()> {
    for _ in 0..=random.below(shape.changes) {
        if random.below(5) == 0 {
            // Undone within the transaction.
            db.execute_batch("SAVEPOINT s")?;
            change(db, random, shape)?;
            change(db, random, shape)?;
            db.execute_batch("ROLLBACK TO s; RELEASE s")?;
        }
        change(db, random, shape)?;
    }
    db.prepare_cached(
        "INSERT INTO ledger SELECT coalesce((SELECT max(n) FROM ledger), 0) + 1, ?1,
           (SELECT count(*) FROM items), (SELECT coalesce(sum(length(v)), 0) FROM items)",
    )?
    .execute([who])?;
    Ok(())
}

fn change(db: &Connection, random: &mut Random, shape: &Shape) -> rusqlite::Result<()> {
    let len = random.below(shape.blob) as usize;
    // Few, so that the database stays small however long it goes.
    let id = random.below(200);
    let _rows = match random.below(8) {
        0..=5 => db.prepare_cached("INSERT OR REPLACE INTO items VALUES (?1, ?2)")?.execute((id, random.bytes(len)))?,
        6 => db.prepare_cached("INSERT OR REPLACE INTO keyed VALUES (?1, ?2)")?.execute((format!("k{id}"), len))?,
        _ => db
            .prepare_cached("DELETE FROM items WHERE id IN (SELECT id FROM items ORDER BY id LIMIT 3 OFFSET ?1)")?
            .execute([id % 50])?,
    };
    Ok(())
}

/// Checks a state and gives its counter; zero where the tables are not there yet.
pub fn check(db: &Connection) -> Result<u64, String> {
    let text = |e: rusqlite::Error| e.to_string();
    let integrity: String =
        db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).map_err(text)?;
    if integrity != "ok" {
        return Err(format!("integrity_check: {integrity}"));
    }
    let there: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'ledger'", [], |r| r.get(0))
        .map_err(text)?;
    if there == 0 {
        return Ok(0);
    }
    let (count, newest): (u64, u64) = db
        .query_row("SELECT count(*), coalesce(max(n), 0) FROM ledger", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .map_err(text)?;
    if count != newest {
        return Err(format!("{count} transactions, the newest is {newest}"));
    }
    let said: Option<(u64, u64)> = db
        .query_row("SELECT items, bytes FROM ledger WHERE n = ?1", [newest], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .optional()
        .map_err(text)?;
    let found: (u64, u64) = db
        .query_row("SELECT count(*), coalesce(sum(length(v)), 0) FROM items", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .map_err(text)?;
    if said.is_some_and(|said| said != found) {
        return Err(format!(
            "transaction {newest} left {said:?} items and bytes, there are {found:?}"
        ));
    }
    Ok(newest)
}
