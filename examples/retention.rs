//! A window of seven days over a month of history: what expires, what does not, and what is left of
//! it as a trail.
//!
//! ```sh
//! cargo run --example retention
//! ```
//!
//! The clock is one that the example moves, so that the month takes a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rewound::env::Clock;
use rewound::storage::FsStorage;
use rewound::{
    Actor, Archive, ArchiveOptions, Durability, Error, HoldTarget, KeyFile, Lsn, Origin, PageId,
    PageSize, Policy, Scope, SweepOptions, Target, Timestamp, WriterOptions,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A clock for the example.
#[derive(Clone, Debug)]
struct Moved(Arc<AtomicU64>);

impl Moved {
    fn by(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or_default(), Ordering::Relaxed);
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

fn actor(name: &str, reason: &str) -> Actor {
    Actor { name: name.into(), reason: reason.into() }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let clock = Moved(Arc::new(AtomicU64::new(1_790_000_000_000_000_000)));
    let storage = Arc::new(FsStorage::new(dir.path().join("app.archive")));
    let key = KeyFile::generate(dir.path().join("app.key"))?;
    let archive = Archive::create_in(storage, key, ArchiveOptions::new().clock(clock.clone()))?;
    let node = archive.create_node("shard-0", Origin::Empty)?;

    // Seven days for every commit, a year for those with a restore point.
    let admin = archive.administrator(actor("ops", "retention policy of 2026"));
    admin.set_retention(Scope::Archive, &Policy::days(7).restore_points_for(365 * DAY))?;
    admin.lock(Scope::Archive, "production")?;

    // What was archived before the first policy counts as promised for 35 days: here that is
    // nothing.
    clock.by(DAY / 24);
    let mut options = WriterOptions::default();
    options.flush_interval = None;
    let writer = node.open_writer_with(options)?;
    let mut batch = writer.batch();
    let main = batch.create_space("main.db", PageSize::KIB_4)?;
    batch.commit(Durability::Synced)?;

    for day in 1..=30_u8 {
        for hour in 0..24 {
            clock.by(DAY / 24);
            let mut batch = writer.batch();
            batch.write_page(PageId::new(main, hour), &[day; 4096], None)?;
            if (day, hour) == (3, 12) {
                batch.restore_point("release 1.0")?;
            }
            batch.commit(Durability::Synced)?;
        }
        writer.rotate_segment()?;
        writer.tick()?;
        if day == 5 {
            // Commits 50 to 60 matter to a lawsuit.
            let lsn = |n| Lsn::new(n).map(Target::Lsn).ok_or("no LSN");
            let on = HoldTarget::Commits { node: "shard-0", from: lsn(50)?, to: Some(lsn(60)?) };
            archive.administrator(actor("legal", "case 17/2026")).hold("case 17", &on, None)?;
        }
        // Once a day.
        let report = admin.sweep(&SweepOptions::default())?;
        for (node, error) in &report.failed {
            println!("day {day:>2}: {node} was left alone: {error}");
        }
        let removed: u64 = report.nodes.iter().map(|n| n.removed_files).sum();
        let window = node.window()?;
        println!(
            "day {day:>2}: commits {} to {}, {removed} files removed",
            window.earliest.lsn, window.latest.lsn
        );
    }

    println!("\nwhat is kept, and why:");
    for (node, plan) in admin.plan_expiry(&SweepOptions::default())? {
        for kept in plan.kept {
            let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
            let to = kept.span.to.map_or("the end".into(), |to| to.to_string());
            println!("  {node}: commits {} to {to}, for {}", kept.span.from, reasons.join(" and "));
        }
    }

    let restorer = archive.restorer(actor("ada", "drill"));
    for target in [Target::RestorePoint("release 1.0".into()), Target::Latest] {
        let report = restorer
            .restore("shard-0", target.clone())?
            .into_dir(dir.path().join(target.to_string()))?;
        println!("restored {target}: commit {}", report.lsn);
    }
    match node.resolve(&Target::Lsn(Lsn::FIRST)) {
        Err(error @ Error::BeforeWindow { .. }) => println!("not any more: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    if let Err(error) = admin.delete(Scope::Node("shard-0"), 14 * DAY) {
        println!("not while it is locked: {error}");
    }

    println!("\nthe end of the trail:");
    let entries = archive.verify_audit()?;
    for entry in archive.audit_from(entries - 4)? {
        println!("{}", entry?);
    }
    println!("\nto be kept elsewhere: {}", archive.attestation()?);
    let usage = archive.usage()?;
    println!("the archive takes {} bytes, {} of them its catalog", usage.total(), usage.catalog);
    writer.close()?;
    Ok(())
}
