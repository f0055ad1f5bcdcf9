//! A SQLite database under a TPC-B load, archived page by page: made once, and kept.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rewound::{
    Archive, BaseSpace, CompactOptions, Consistency, Durability, KeyFile, Node, Origin, PageId,
    PageSize, PageSource, Position, Result, Writer, WriterOptions,
};
use rusqlite::Connection;

use super::branches::{self, ACCOUNTS};
use super::{Random, work_dir};

/// Size of the database's pages.
pub const PAGE: usize = 4096;
/// Transactions between checkpoints of the database, which cut its own WAL.
const CHECKPOINT: u64 = 2_000;

/// A database with its load. What is already on disk for the same one is used again.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Branches, with 100,000 accounts each.
    pub scale: u64,
    /// Transactions, each its own commit.
    pub transactions: u64,
    /// How each of them is committed.
    pub durability: Durability,
    /// Size of the log's segments.
    pub segment_bytes: u64,
}

/// An archive of it.
#[derive(Debug)]
pub struct Archived {
    /// Where the archive is.
    pub archive: PathBuf,
    /// The database as it is in the end.
    pub state: PathBuf,
    /// Bytes of log for the transactions, without the base: the first half of them, in which most
    /// pages are written for the first time since the base, and so in full; and the second half.
    pub log_bytes: [u64; 2],
}

/// The key of every archive here.
pub fn key() -> KeyFile {
    KeyFile::from_bytes([1; 32])
}

impl Archived {
    /// Opens the archive's one node.
    pub fn node(&self) -> Node {
        Archive::open(&self.archive, key()).unwrap().node("sqlite").unwrap()
    }
}

/// The database and its archive, made where they are not there yet.
pub fn archived(spec: &Spec) -> Archived {
    let name = format!(
        "tpcb-{}-{}-{:?}-{}",
        spec.scale, spec.transactions, spec.durability, spec.segment_bytes
    );
    let dir = work_dir().join(name.to_lowercase());
    let (archive, state, marker) =
        (dir.join("archive"), dir.join("final.db"), dir.join("log_bytes"));
    if let Ok(text) = std::fs::read_to_string(&marker) {
        let (first, second) = text.split_once(' ').unwrap();
        return Archived { archive, state, log_bytes: [first, second].map(|n| n.parse().unwrap()) };
    }
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    eprintln!("making {} (once)", dir.display());
    let log_bytes = make(spec, &dir.join("live.db"), &archive, &state);
    std::fs::write(&marker, format!("{} {}", log_bytes[0], log_bytes[1])).unwrap();
    Archived { archive, state, log_bytes }
}

/// Copies a directory.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Bytes of the files below a directory whose names end so.
pub fn bytes_below(dir: &Path, suffix: &str) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .map(|e| e.unwrap())
        .map(|e| match e.file_type().unwrap().is_dir() {
            true => bytes_below(&e.path(), suffix),
            false if e.path().to_string_lossy().ends_with(suffix) => e.metadata().unwrap().len(),
            false => 0,
        })
        .sum()
}

/// The database file itself, at rest while it is copied.
struct Copy<'a>(&'a File);

impl PageSource for Copy<'_> {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        Ok(Consistency::Frozen)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, first: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buf, first * PAGE as u64).unwrap();
        Ok(())
    }
}

/// Makes a database of so many branches.
pub fn load(path: &Path, scale: u64) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -262144;"
    ))
    .unwrap();
    branches::create(&db);
    db.execute_batch(
        "CREATE TABLE history (tid INT, bid INT, aid INT, delta INT, mtime INT, filler TEXT)",
    )
    .unwrap();
    branches::fill(&db, scale);
    db
}

/// Page images of the last commit in a WAL, from `at` on: a frame is a header of 24 bytes and a
/// page, and the header's second word is the length of the database in pages where the frame ends a
/// commit.
fn read_wal(wal: &File, at: &mut u64, frames: &mut Vec<u8>) -> Option<u64> {
    const FRAME: usize = 24 + PAGE;
    frames.clear();
    *at = (*at).max(32);
    let len = wal.metadata().unwrap().len();
    let new = usize::try_from(len.saturating_sub(*at)).unwrap() / FRAME * FRAME;
    frames.resize(new, 0);
    wal.read_exact_at(frames, *at).unwrap();
    *at += new as u64;
    let last = frames.chunks_exact(FRAME).next_back()?;
    Some(u64::from(u32::from_be_bytes(last[4..8].try_into().unwrap())))
}

/// One transaction.
pub fn transaction(db: &mut Connection, random: &mut Random, scale: u64, t: u64) {
    let signed = |n: u64| i64::try_from(n).unwrap();
    let aid = signed(random.below(scale * ACCOUNTS) + 1);
    let tid = signed(random.below(scale * 10) + 1);
    let bid = (tid + 9) / 10;
    let delta = signed(random.below(10_000)) - 5_000;
    let tx = db.transaction().unwrap();
    for (sql, id) in [
        ("UPDATE accounts SET abalance = abalance + ?1 WHERE aid = ?2", aid),
        ("UPDATE tellers SET tbalance = tbalance + ?1 WHERE tid = ?2", tid),
        ("UPDATE branches SET bbalance = bbalance + ?1 WHERE bid = ?2", bid),
    ] {
        tx.prepare_cached(sql).unwrap().execute((delta, id)).unwrap();
    }
    tx.prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, printf('%22s', ''))")
        .unwrap()
        .execute((tid, bid, aid, delta, 1_700_000_000_000 + signed(t) * 7))
        .unwrap();
    tx.commit().unwrap();
}

fn make(spec: &Spec, live: &Path, archive: &Path, state: &Path) -> [u64; 2] {
    let mut db = load(live, spec.scale);
    let mut pages = std::fs::read(live).unwrap();
    let mut options = WriterOptions::default();
    options.segment_bytes = spec.segment_bytes;
    let node =
        Archive::create(archive, key()).unwrap().create_node("sqlite", Origin::Existing).unwrap();
    let writer = node.open_writer_with(options).unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("app.db", PageSize::KIB_4).unwrap();
    batch.set_length(space, pages.len() as u64).unwrap();
    batch.commit(Durability::Synced).unwrap();
    writer
        .base_snapshot(&mut Copy(&File::open(live).unwrap()), &CompactOptions::default())
        .unwrap();
    // A segment that is being written has zeros reserved at its end, which must not be counted.
    writer.rotate_segment().unwrap();
    let before = bytes_below(archive, ".seg");

    let wal = File::open(live.with_extension("db-wal")).unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut at, mut frames, mut half) = (0, Vec::new(), before);
    for t in 0..spec.transactions {
        transaction(&mut db, &mut random, spec.scale, t);
        let length = read_wal(&wal, &mut at, &mut frames).unwrap() * PAGE as u64;
        archive_commit(&writer, space, &mut pages, &frames, length, spec.durability);
        if t + 1 == spec.transactions / 2 {
            writer.rotate_segment().unwrap();
            half = bytes_below(archive, ".seg");
        }
        if (t + 1) % CHECKPOINT == 0 {
            db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            at = 0;
        }
    }
    writer.close().unwrap();
    let after = bytes_below(archive, ".seg");
    std::fs::write(state, &pages).unwrap();
    drop(db);
    std::fs::remove_file(live).unwrap();
    [half - before, after - half]
}

/// Archives the pages that a transaction wrote.
fn archive_commit(
    writer: &Writer,
    space: rewound::SpaceId,
    pages: &mut Vec<u8>,
    frames: &[u8],
    length: u64,
    durability: Durability,
) {
    let mut batch = writer.batch();
    let known = pages.len();
    pages.resize(usize::try_from(length).unwrap(), 0);
    for frame in frames.chunks_exact(24 + PAGE) {
        let number = u64::from(u32::from_be_bytes(frame[..4].try_into().unwrap())) - 1;
        let start = usize::try_from(number).unwrap() * PAGE;
        let old = &mut pages[start..start + PAGE];
        // What grew has no image before; what was never written here is not known to the log, and
        // goes in full.
        let previous = (start < known).then_some(&*old);
        batch.write_page(PageId::new(space, number), &frame[24..], previous).unwrap();
        old.copy_from_slice(&frame[24..]);
    }
    batch.commit(durability).unwrap();
}
