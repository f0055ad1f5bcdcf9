//! Databases of every shape: page sizes, vacuum, schema changes, pages that nobody writes.

use std::fmt::Write;

use rewound_sqlite::WatchOptions;
use rusqlite::Connection;
use tempfile::TempDir;

use super::oracle;
use super::support::{Place, Random, seed, watch};
use super::workload::{Shape, counter, prepare, transaction};

#[test]
fn every_page_size() {
    let seed = seed();
    for bits in 9..=16 {
        let (place, mut random) = (Place::new(), Random(seed + bits));
        let db = Connection::open(place.db()).unwrap();
        db.execute_batch(&format!("PRAGMA page_size = {}", 1 << bits)).unwrap();
        drop(db);
        let db = place.connect();
        prepare(&db);
        let node = place.node();
        let watching = watch(&node, &place.db(), WatchOptions::default());
        for _ in 0..25 {
            transaction(
                &db,
                1,
                &mut random,
                &Shape { blob: 2_000, checkpoint: 5, ..Shape::default() },
            )
            .unwrap();
        }
        assert_eq!(watching.stop().resyncs, 0);
        assert_eq!(
            oracle::check(&node).last().unwrap().counter,
            counter(&db),
            "pages of {}",
            1 << bits
        );
    }
}

/// Counters do not tell about these, so each state is compared with what the database said then.
#[test]
fn vacuum_schema_changes_and_free_pages() {
    let seed = seed();
    for auto_vacuum in ["NONE", "FULL", "INCREMENTAL"] {
        let (place, mut random) = (Place::new(), Random(seed));
        let db = Connection::open(place.db()).unwrap();
        db.execute_batch(&format!(
            "PRAGMA auto_vacuum = {auto_vacuum}; CREATE TABLE first(a);
             CREATE TABLE step(n); INSERT INTO step VALUES (NULL)"
        ))
        .unwrap();
        drop(db);
        let db = place.connect();
        let node = place.node();
        let mut options = WatchOptions::default();
        options.wal_bytes = 300_000;
        let watching = watch(&node, &place.db(), options);
        let mut expected = Vec::new();
        for n in 0..100 {
            let table = random.below(6);
            let sql = match random.below(10) {
                0 => "VACUUM".to_owned(),
                1 => format!("DROP TABLE IF EXISTS t{table}"),
                2 => format!("CREATE INDEX IF NOT EXISTS i{n} ON first(a)"),
                3 => "PRAGMA incremental_vacuum".to_owned(),
                4 => format!("CREATE TABLE IF NOT EXISTS t{table}(a, b); DELETE FROM t{table}"),
                // Grows and frees within one transaction: pages at the end that nobody writes.
                5 => "BEGIN; CREATE TABLE x(b); INSERT INTO x VALUES (randomblob(200000)); DROP TABLE x; COMMIT"
                    .to_owned(),
                6 => format!("INSERT INTO first VALUES ({n})"),
                _ => format!(
                    "BEGIN; CREATE TABLE IF NOT EXISTS t{table}(a, b);
                     INSERT INTO t{table} SELECT value, randomblob({}) FROM generate_series_like; COMMIT",
                    random.below(30_000)
                )
                .replace("SELECT value,", "SELECT 1,")
                .replace("FROM generate_series_like", "UNION ALL SELECT 2, randomblob(5000)"),
            };
            db.execute_batch(&sql).unwrap();
            db.execute("UPDATE step SET n = ?1", [n]).unwrap();
            expected.push(content(&db));
            std::thread::sleep(std::time::Duration::from_millis(random.below(8)));
        }
        let status = watching.stop();
        assert_eq!(status.resyncs, 0, "{auto_vacuum}: {:?}", status.last_resync);
        let dir = TempDir::new().unwrap();
        let window = node.window().unwrap();
        let mut reached = None;
        for lsn in window.earliest.lsn.get()..=window.latest.lsn.get() {
            let bytes =
                oracle::restore(&node, rewound::Target::Lsn(rewound::Lsn::new(lsn).unwrap()));
            let db = oracle::open(dir.path(), &bytes);
            let integrity: String =
                db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
            assert_eq!(integrity, "ok", "{auto_vacuum}, LSN {lsn}");
            let step: Option<usize> = db.query_row("SELECT n FROM step", [], |r| r.get(0)).unwrap();
            if step != reached {
                assert_eq!(step, Some(reached.map_or(0, |r| r + 1)), "no step is missing");
                assert_eq!(
                    content(&db),
                    expected[step.unwrap()],
                    "{auto_vacuum}, LSN {lsn}, step {step:?}"
                );
                reached = step;
            }
        }
        assert_eq!(reached, Some(expected.len() - 1));
    }
}

/// Schema and rows, as text.
fn content(db: &Connection) -> String {
    let mut text = String::new();
    let mut statement =
        db.prepare("SELECT name, type, sql FROM sqlite_schema ORDER BY name").unwrap();
    let rows = statement.query_map([], |r| {
        Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, Option<String>>(2)?))
    });
    for (name, kind, sql) in rows.unwrap().map(Result::unwrap) {
        write!(text, "{name} {kind} {sql:?}").unwrap();
        if kind == "table" {
            let hash: (i64, Option<i64>) = db
                .query_row(
                    &format!("SELECT count(*), sum(unicode(hex(quote({name}.rowid)))) FROM {name}"),
                    [],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .unwrap();
            write!(text, " {hash:?}").unwrap();
            let mut rows = db.prepare(&format!("SELECT * FROM {name}")).unwrap();
            let columns = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            let mut sum = 0u32;
            while let Some(row) = rows.next().unwrap() {
                for i in 0..columns {
                    let value: rusqlite::types::Value = row.get(i).unwrap();
                    sum = sum.wrapping_mul(31).wrapping_add(crc(&format!("{value:?}")));
                }
            }
            write!(text, " {sum}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn crc(text: &str) -> u32 {
    text.bytes().fold(0, |a, b| a.wrapping_mul(16_777_619) ^ u32::from(b))
}

/// Beyond 1 GiB there is a page that SQLite never uses, and never writes.
#[test]
#[ignore = "writes 2 GiB"]
fn the_page_at_one_gibibyte() {
    let place = Place::new();
    let db = Connection::open(place.db()).unwrap();
    db.execute_batch("PRAGMA page_size = 65536; CREATE TABLE t(a, b)").unwrap();
    drop(db);
    let db = place.connect();
    db.execute_batch("INSERT INTO t VALUES (1, randomblob(100))").unwrap();
    let node = place.node();
    let watching = watch(&node, &place.db(), WatchOptions::default());
    db.execute_batch("INSERT INTO t VALUES (2, zeroblob(536800000)), (3, zeroblob(536800000))")
        .unwrap();
    db.execute_batch("INSERT INTO t VALUES (4, randomblob(3000000))").unwrap();
    let status = watching.stop();
    assert_eq!(status.resyncs, 0);
    let file = place.path("restored.db");
    node.restore(rewound::Target::Latest).into_file(&file).unwrap();
    let restored = Connection::open(&file).unwrap();
    let sum = |db: &Connection| -> (i64, i64) {
        db.query_row("SELECT count(*), sum(length(b)) FROM t", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .unwrap()
    };
    assert_eq!(sum(&restored), sum(&db));
    let check: String = restored.query_row("PRAGMA quick_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
}
