//! A small key-value engine, made rewindable by linking `rewound`.
//!
//! `cargo run --release --example embed` writes, kills a process half-way, recovers, and looks
//! back.
//!
//! `engine.rs` is the page to copy from: five numbered steps are all that an engine has to do.
//! `bucket.rs` is the rest of the engine.

mod bucket;
mod engine;

use std::path::Path;
use std::process::Command;

use rewound::{Archive, Error, KeyFile, Origin, PageId, Result, Target};

use bucket::{PAGE, look_up};
use engine::{Engine, read_pages};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if let Some(dir) = arguments.next() {
        return crash(Path::new(&dir));
    }
    let dir = tempfile::tempdir().map_err(Error::host)?;
    let (data, key) = (dir.path().join("data"), KeyFile::generate(dir.path().join("key"))?);
    let archive = Archive::create(dir.path().join("archive"), key)?;
    let node = archive.create_node("engine", Origin::Empty)?;

    println!("writing");
    let mut engine = Engine::open(&node, &data)?;
    engine.put(&[("alice", "100"), ("bob", "50")])?;
    let transfer = engine.put(&[("alice", "70"), ("bob", "80")])?;
    println!(
        "  alice has {}, bob has {}",
        engine.get("alice").unwrap_or_default(),
        engine.get("bob").unwrap_or_default()
    );
    drop(engine);

    println!("another process writes on, and is killed half-way through a transaction");
    let program = std::env::current_exe().map_err(Error::host)?;
    let status = Command::new(program).arg(dir.path()).status().map_err(Error::host)?;
    println!("  it ended with {status}");

    println!("opening again");
    let engine = Engine::open(&node, &data)?;
    println!(
        "  alice has {}, carol has {}",
        engine.get("alice").unwrap_or_default(),
        engine.get("carol").unwrap_or_default()
    );

    println!("looking back, beside the running engine");
    for (name, target) in [
        ("before the transfer", Target::BeforeTime(transfer.timestamp)),
        ("after it", Target::Lsn(transfer.lsn)),
        ("now", Target::Latest),
    ] {
        let out = dir.path().join(name);
        let report = node.restore(target).into_dir(&out)?;
        let pages = read_pages(&out)?;
        println!(
            "  {name} (commit {}): alice had {}",
            report.lsn,
            look_up(&pages, "alice").unwrap_or_default()
        );
    }
    Ok(())
}

/// What the other process does.
fn crash(dir: &Path) -> Result<()> {
    let archive = Archive::open(dir.join("archive"), KeyFile::open(dir.join("key"))?)?;
    let mut engine = Engine::open(&archive.node("engine")?, &dir.join("data"))?;
    engine.put(&[("alice", "0"), ("carol", "70")])?;
    // Half of the next transaction: the batch is never committed.
    let mut batch = engine.writer.batch();
    batch.write_page(PageId::new(engine.space, 0), &[0xFF; PAGE.bytes()], None)?;
    std::process::abort()
}
