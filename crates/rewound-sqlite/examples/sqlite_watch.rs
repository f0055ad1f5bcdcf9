//! An application protects its own SQLite database: every transaction is archived from a thread of
//! its own, and the one before an accident comes back.
//!
//! ```sh
//! cargo run --release --example sqlite_watch
//! ```
//!
//! The application's code that writes does not change. A database that other processes write is
//! protected in the same way, without the hook; `rewound watch` is that as a program.

use std::path::Path;
use std::time::{Duration, Instant};

use rewound::{Archive, KeyFile, Lsn, Origin, Target};
use rewound_sqlite::{Event, WatchOptions, Watcher};
use rusqlite::Connection;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("shop.db");
    let mut db = Connection::open(&path)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT NOT NULL, price INTEGER NOT NULL)",
    )?;

    // In earnest the key lies where the archive does not, and `Archive::open` follows at the next
    // start.
    let key = KeyFile::generate(dir.path().join("shop.key"))?;
    let archive = Archive::create(dir.path().join("shop.archive"), key)?;
    let node = archive.create_node("shop", Origin::Existing)?;

    let mut watcher = Watcher::open(&node, &path, WatchOptions::default())?;
    watcher.on_event(|event| match event {
        Event::Archived { .. } => {}
        Event::ResyncFinished { lsn, pages, .. } => {
            println!("watcher: {pages} pages compared into LSN {lsn}");
        }
        other => println!("watcher: {other:?}"),
    });
    let handle = watcher.handle();
    let protection = std::thread::spawn(move || watcher.run());
    // Wakes the watcher at each commit of this connection: nothing waits for the kernel's
    // notification.
    handle.hook(&mut db)?;

    let begun = Instant::now();
    for n in 0..2_000 {
        db.execute(
            "INSERT INTO orders(item, price) VALUES (?1, ?2)",
            (format!("article {n}"), n * 7 % 900),
        )?;
    }
    println!("2,000 transactions in {:.0?}", begun.elapsed());
    let before = sum(&db)?;
    // What is committed is archived within milliseconds; who wants to be sure waits.
    let archived = handle.catch_up(Duration::from_secs(60)).ok_or("the watcher is behind")?;
    let known_good = archived.lsn().ok_or("nothing archived")?;

    let deleted = db.execute("DELETE FROM orders", [])?; // The WHERE clause was forgotten.
    println!("accident: {deleted} orders deleted");
    for n in 0..500 {
        db.execute(
            "INSERT INTO orders(item, price) VALUES (?1, 1)",
            [format!("later article {n}")],
        )?;
    }
    handle.stop(); // Archives what there is and leaves.
    let status = protection.join().map_err(|_| "the watcher panicked")??;
    println!("archived {} transactions, {} comparisons", status.commits, status.resyncs);

    // When did the first order go? Asks about log2 of the commits; each probe rewrites only the
    // pages that differ from the last one.
    let probe = dir.path().join("probe");
    let newest = node.window()?.latest.lsn;
    let found = node.bisect(known_good, newest, |lsn| {
        node.restore(Target::Lsn(lsn)).delta_into_dir(&probe)?;
        Ok(item_of_first_order(&probe.join("shop.db")))
    })?;
    let accident = found.changed.ok_or("the orders are all there")?;
    println!("LSN {accident} did it, found in {} probes", found.probes.len());

    let restored = dir.path().join("restored.db");
    let report = node
        .restore(Target::Lsn(Lsn::new(accident.get() - 1).unwrap_or(Lsn::FIRST)))
        .into_file(&restored)?;
    let copy = Connection::open(&restored)?;
    let after = sum(&copy)?;
    let sound: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    println!(
        "LSN {} is back: prices add up to {after}, before the accident {before}; {sound}",
        report.lsn
    );
    if (after, sound.as_str()) != (before, "ok") {
        return Err("the restored database is not the one from before the accident".into());
    }
    Ok(())
}

fn sum(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT sum(price) FROM orders", [], |row| row.get(0))
}

fn item_of_first_order(path: &Path) -> Option<String> {
    let db = Connection::open(path).ok()?;
    db.query_row("SELECT item FROM orders WHERE id = 1", [], |row| row.get(0)).ok()
}
