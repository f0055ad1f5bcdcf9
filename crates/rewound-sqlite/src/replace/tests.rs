use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use rewound::PageSize;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

/// A database as a file's bytes, complete and without a log.
fn database(page_size: u32, wal: bool, rows: u32, auto_vacuum: bool) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("made.db");
    let db = Connection::open(&path).unwrap();
    let vacuum = if auto_vacuum { "FULL" } else { "NONE" };
    let mode = if wal { "WAL" } else { "DELETE" };
    db.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; PRAGMA journal_mode = {mode}"
    ))
    .unwrap();
    db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, v BLOB)").unwrap();
    for n in 0..rows {
        db.execute("INSERT INTO t VALUES (?1, randomblob(700))", [n]).unwrap();
    }
    db.close().unwrap();
    fs::read(path).unwrap()
}

fn space(bytes: &[u8], page_size: u32) -> BTreeMap<SpaceId, SpaceState> {
    let page_size = PageSize::new(page_size).unwrap();
    let state = SpaceState { name: "app.db".into(), page_size, length: bytes.len() as u64 };
    BTreeMap::from([(SpaceId::new(1), state)])
}

/// What a crash leaves, and what SQLite makes of it.
fn reopened(path: &Path) -> (Vec<u8>, Option<String>) {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("app.db");
    fs::copy(path, &copy).unwrap();
    let journal = beside(path, "-journal");
    if journal.exists() {
        fs::copy(&journal, beside(&copy, "-journal")).unwrap();
    }
    let db = Connection::open(&copy).unwrap();
    let whole = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).ok();
    drop(db);
    assert_eq!(leftover(&copy), None);
    (fs::read(&copy).unwrap(), whole)
}

/// Replaces `old` by `new` and looks at what a crash after each step would leave.
fn step_by_step(old: &[u8], new: &[u8], page_size: u32) {
    let dir = TempDir::new().unwrap();
    let path: PathBuf = dir.path().join("app.db");
    fs::write(&path, old).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let sound = DatabaseHeader::decode(old).is_some().then(|| "ok".to_owned());
    let before = |what: &str| {
        let (bytes, whole) = reopened(&path);
        assert!(bytes == old, "{what}: {} bytes, were {}", bytes.len(), old.len());
        assert_eq!(whole.filter(|_| !old.is_empty()), sound, "{what}");
    };
    let place = Place::new(&path, &file);
    let spaces = space(new, page_size);

    // The journal is incomplete for a while.
    place.save(old.len() as u64).unwrap();
    let journal = fs::read(beside(&path, "-journal")).unwrap();
    let mut begun = journal.clone();
    begun[8..12].fill(0);
    for cut in [512, 513, journal.len() / 2, journal.len()] {
        fs::write(beside(&path, "-journal"), &begun[..cut.min(begun.len())]).unwrap();
        before("the journal is being written");
    }
    fs::remove_file(beside(&path, "-journal")).unwrap();

    place.begin(&spaces).unwrap();
    before("begun");
    let step = new.len().div_ceil(6).next_multiple_of(page_size as usize);
    // Begins once more, as where a layer is damaged.
    for round in 0..2 {
        let sink = place.begin(&spaces).unwrap();
        for (number, bytes) in
            new.chunks(step).enumerate().take(if round == 0 { 3 } else { usize::MAX })
        {
            sink.write(SpaceId::new(1), (number * step) as u64, bytes).unwrap();
            before("written in part");
        }
        assert!(place.is_under_way());
        if round == 1 {
            sink.finish().unwrap();
        }
    }
    assert!(!place.is_under_way());
    let (bytes, whole) = reopened(&path);
    assert!(bytes == new);
    assert_eq!(whole.as_deref(), Some("ok"));
    assert!(fs::read(&path).unwrap() == new);
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_one() {
    let new = database(4096, true, 600, false);
    step_by_step(&database(4096, true, 400, false), &new, 4096);
    step_by_step(&database(4096, true, 900, true), &new, 4096);
    step_by_step(&database(1024, true, 500, false), &new, 4096);
    step_by_step(&database(65_536, false, 700, false), &new, 4096);
    step_by_step(&new, &database(512, true, 300, true), 512);
}

#[test]
fn what_is_no_database_is_replaced_as_well() {
    let new = database(4096, true, 200, false);
    step_by_step(b"", &new, 4096);
    step_by_step(&vec![b'x'; 512 * 400], &new, 4096);
    let mut damaged = database(4096, true, 300, false);
    damaged[..40].fill(0);
    step_by_step(&damaged, &new, 4096);
}

#[test]
fn stretches_of_zeros_are_written_over() {
    let (old, dir) = (database(4096, true, 3000, false), TempDir::new().unwrap());
    let path = dir.path().join("app.db");
    fs::write(&path, &old).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut new = database(4096, true, 10, false);
    let used = new.len();
    new.resize(old.len() - 8192, 0);
    let place = Place::new(&path, &file);
    let sink = place.begin(&space(&new, 4096)).unwrap();
    sink.write(SpaceId::new(1), 0, &new[..used]).unwrap();
    sink.zero(SpaceId::new(1), used as u64, (new.len() - used) as u64).unwrap();
    sink.finish().unwrap();
    assert!(fs::read(&path).unwrap() == new);
}

#[test]
fn nothing_is_replaced_by_an_empty_file() {
    let (old, dir) = (database(4096, true, 30, false), TempDir::new().unwrap());
    let path = dir.path().join("app.db");
    fs::write(&path, &old).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let place = Place::new(&path, &file);
    assert!(matches!(place.begin(&space(b"", 4096)), Err(ArchiveError::BadDestination { .. })));
    assert!(!place.is_under_way() && fs::read(&path).unwrap() == old);
}
