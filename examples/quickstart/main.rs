//! A SQLite database, archived transaction by transaction, and taken back to several moments of its
//! life.
//!
//! `cargo run --release --example quickstart` works in a temporary directory;
//! `cargo run --release --example quickstart -- some/new/directory` keeps what it made.
//!
//! Each restored database is compared, byte by byte, with a copy taken live at that moment (SQLite
//! emptied its log into the file, the file was copied), and goes through `PRAGMA integrity_check`.
//! Any difference: exit code 1.
//!
//! `shop.rs` is the part to copy from: how the pages of each transaction get into the archive.

mod disk;
mod shop;
mod sqlite_wal;
mod story;
mod table;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use rewound::{Archive, KeyFile, Lsn, Origin, Target};
use rusqlite::{Connection, OpenFlags};

use shop::Shop;
use table::{Style, figure, size};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("quickstart: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Does it all; tells whether every restored database was right.
fn run() -> Result<bool> {
    let style = Style::detect();
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&dir)?;

    // An archive, under a key of its own: whoever has the key file can read the archive, nobody
    // else can.
    let key = KeyFile::generate(dir.join("shop.key"))?;
    let archive = Archive::create(dir.join("shop.archive"), key)?;
    let node = archive.create_node("shop", Origin::Empty)?;

    // A life in short, archived at every commit.
    let began = Instant::now();
    let mut shop = Shop::open(&dir, &node)?;
    let story = story::live(&mut shop, &dir)?;
    let (database, copies) = (shop.path.clone(), std::mem::take(&mut shop.copies));
    let (transactions, wal_bytes) = (shop.transactions, shop.wal_bytes);
    shop.close()?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} SQLite transactions, each archived as a commit of its own: {seconds:.1} s\n",
        figure(transactions)
    );

    // Back to several moments.
    let mut targets = vec![
        ("the first commit".to_owned(), Target::Lsn(Lsn::FIRST)),
        ("restore point \"migrated\"".to_owned(), Target::RestorePoint("migrated".into())),
        ("just before the accident".to_owned(), Target::BeforeTime(story.accident.timestamp)),
        ("just after the accident".to_owned(), Target::Time(story.accident.timestamp)),
        ("the latest commit".to_owned(), Target::Latest),
    ];
    targets.extend(
        story.chosen.iter().map(|lsn| ("a commit picked at random".to_owned(), Target::Lsn(*lsn))),
    );
    let mut rows = Vec::new();
    for (i, (name, target)) in targets.into_iter().enumerate() {
        let out = dir.join(format!("restored-{}", i + 1));
        let report = node.restore(target).into_dir(&out)?;
        let good = verify(&out.join("shop.db"), copies.get(&report.lsn))?;
        let time =
            report.timestamp.to_string().replace('T', " ").get(..23).unwrap_or_default().to_owned();
        let pages = report.spaces.values().map(rewound::SpaceState::pages).sum();
        let ms = format!("{:.1}", report.elapsed.as_secs_f64() * 1e3);
        let cells = [
            name,
            figure(report.lsn.get()),
            time,
            figure(pages),
            size(report.bytes_read),
            ms,
            style.verdict(good),
        ];
        rows.push((report.lsn, good, cells));
    }
    rows.sort_by_key(|(lsn, ..)| *lsn);
    let all_good = rows.iter().all(|(_, good, _)| *good);
    let cells: Vec<_> = rows.into_iter().map(|(.., cells)| cells).collect();
    table::print(
        style,
        ["restored to", "LSN", "time (UTC)", "pages", "bytes read", "ms", "verified"],
        &cells,
    );

    let (segments, log) = disk::segments(&dir)?;
    let whole = disk::bytes_in(&dir.join("shop.archive"))?;
    let layers = node.layers()?;
    let snapshots = layers.iter().filter(|layer| layer.from.is_none()).count();
    println!();
    println!(
        "database          {} now; SQLite's own log took {}",
        size(fs::metadata(database)?.len()),
        size(wal_bytes)
    );
    println!(
        "archive           {} with every one of {} commits",
        size(whole),
        figure(node.window()?.latest.lsn.get())
    );
    println!(
        "  log             {} in {segments} segments, {} a transaction",
        size(log),
        size(log / transactions)
    );
    println!(
        "  of a payment    {} of log; SQLite's own log: {}",
        size(story.payment_log),
        size(story.payment_wal)
    );
    println!("  for fast replay {} layers and {snapshots} snapshots", layers.len() - snapshots);
    if dir != temporary.path() {
        println!("\nall of it is in {}", dir.display());
    }
    Ok(all_good)
}

/// Whether a restored database is the same as the copy taken live, and sound.
fn verify(restored: &Path, copy: Option<&PathBuf>) -> Result<bool> {
    let Some(copy) = copy else { return Ok(false) };
    let same = fs::read(restored)? == fs::read(copy)?;
    // As an immutable file, so that SQLite leaves no files of its own beside it.
    let uri = format!("file:{}?immutable=1", restored.display());
    let db = Connection::open_with_flags(
        uri,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
    )?;
    let verdict: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    Ok(same && verdict == "ok")
}
