//! Bytes of log for a TPC-B transaction on SQLite with pages of 4 KiB. Counts; times nothing.

#![expect(clippy::cast_precision_loss, reason = "printed with one decimal")]

mod common;

use rewound::Durability;

use common::tpcb::{Spec, archived};
use common::{quick, record};

fn main() {
    let (scale, transactions) = if quick() { (1, 500) } else { (2, 20_000) };
    let mut rows = Vec::new();
    for durability in [Durability::Synced, Durability::Buffered] {
        let made = archived(&Spec { scale, transactions, durability, segment_bytes: 64 << 20 });
        let half = transactions as f64 / 2.0;
        let [first, second] = made.log_bytes.map(|bytes| bytes as f64 / half);
        rows.push((format!("{durability:?}").to_lowercase(), vec![first, second]));
        println!(
            "{durability:?} commits: {first:.1} B of log a transaction in the first {half:.0} after the base, {second:.1} B in the next"
        );
    }
    record(
        "log-size",
        &["commits", "B a transaction, first half", "B a transaction, second half"],
        &rows,
    );
}
