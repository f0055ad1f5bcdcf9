//! JSON that more than one command prints.

use rewound::{LayerRecord, Lsn, Position, Timestamp};
use serde::Serialize;

/// A commit and its time.
#[derive(Serialize)]
pub struct At {
    lsn: u64,
    time: String,
}

impl At {
    pub fn new(lsn: Lsn, timestamp: Timestamp) -> At {
        At { lsn: lsn.get(), time: timestamp.to_string() }
    }
}

/// A layer or a snapshot.
#[derive(Serialize)]
pub struct Layer {
    from: Option<u64>,
    to: u64,
    time: String,
    level: u32,
    pages: u64,
    bytes: u64,
}

impl Layer {
    pub fn of(l: &LayerRecord) -> Layer {
        Layer {
            from: l.from.map(Position::get),
            to: l.to.get(),
            time: l.timestamp.to_string(),
            level: l.level,
            pages: l.entries,
            bytes: l.bytes,
        }
    }
}
