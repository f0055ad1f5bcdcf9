//! Bytes of log for a TPC-B transaction on SQLite with pages of 4 KiB. Counts; times nothing.

#![expect(clippy::cast_precision_loss, reason = "printed with one decimal")]

mod common;

use rewound::Durability;

use common::quick;
use common::tpcb::{Spec, archived};

fn main() {
    let (scale, transactions) = if quick() { (1, 500) } else { (8, 5_000) };
    for durability in [Durability::Synced, Durability::Buffered] {
        let made = archived(&Spec { scale, transactions, durability, segment_bytes: 64 << 20 });
        let each = made.log_bytes as f64 / transactions as f64;
        println!("{durability:?} commits, {transactions} transactions: {each:.1} B of log a transaction");
    }
}
