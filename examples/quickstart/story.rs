//! A life in short: growth, a migration, everyday work, a VACUUM, and an accident.

use std::path::Path;

use rewound::{Commit, Lsn};

use crate::Result;
use crate::disk;
use crate::shop::Shop;
use crate::workload::{self, Numbers};

/// What to remember of the work.
pub struct Story {
    /// The commit that deleted all accounts.
    pub accident: Commit,
    pub chosen: Vec<Lsn>,
    /// Bytes of log for an ordinary payment: the archive's, and SQLite's.
    pub payment_log: u64,
    pub payment_wal: u64,
}

/// Lives it.
pub fn live(shop: &mut Shop, dir: &Path) -> Result<Story> {
    const PAYMENTS: u64 = 1_000;
    let mut numbers = Numbers(20_261_121);
    for step in 0..4 {
        shop.run(|db| workload::setup(db, &mut numbers, step))?;
    }

    let before = measure(shop, dir)?;
    for _ in 0..PAYMENTS {
        shop.run(|db| workload::payment(db, &mut numbers))?;
    }
    let after = measure(shop, dir)?;

    shop.run(|db| {
        db.execute_batch("ALTER TABLE account ADD COLUMN country TEXT NOT NULL DEFAULT 'CH'")
    })?;
    shop.run(|db| db.execute_batch("CREATE INDEX entry_by_account ON entry (account)"))?;
    shop.restore_point("migrated")?;
    shop.copy()?;

    let mut chosen = Vec::new();
    let picks: Vec<u64> = (0..4).map(|quarter| quarter * 300 + numbers.below(300)).collect();
    for i in 0..1_200 {
        shop.ordinary(&mut numbers)?;
        if picks.contains(&i) {
            shop.copy()?;
            chosen.push(shop.newest.lsn);
        }
        if i == 800 {
            shop.run(|db| db.execute_batch("VACUUM"))?;
        }
    }

    shop.copy()?;
    shop.run(|db| db.execute_batch("DELETE FROM account -- WHERE id = 17"))?;
    let accident = shop.newest;
    shop.copy()?;
    for _ in 0..200 {
        shop.ordinary(&mut numbers)?;
    }
    shop.copy()?;
    let (payment_log, payment_wal) =
        ((after.0 - before.0) / PAYMENTS, (after.1 - before.1) / PAYMENTS);
    Ok(Story { accident, chosen, payment_log, payment_wal })
}

/// Bytes of log so far: the archive's, and SQLite's.
fn measure(shop: &Shop, dir: &Path) -> Result<(u64, u64)> {
    // A sealed segment is exactly as long as what is in it; the one being written has room reserved
    // at its end.
    shop.writer.rotate_segment()?;
    Ok((disk::segments(dir)?.1, shop.wal_bytes))
}
