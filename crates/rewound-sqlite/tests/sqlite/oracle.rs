//! Restores every commit and compares it with what it has to be.

use std::collections::BTreeMap;
use std::path::Path;

use rewound::{Node, Target};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::workload;

/// What is known of a commit.
#[derive(Clone, Debug)]
pub struct Seen {
    pub lsn: u64,
    pub counter: u64,
    pub resync: bool,
}

/// Bytes of the database as of a commit.
pub fn restore(node: &Node, target: Target) -> Vec<u8> {
    let (_, spaces) = node.restore(target).into_memory().unwrap();
    assert_eq!(spaces.len(), 1, "{:?}", spaces.keys());
    spaces.into_values().next().unwrap()
}

/// A connection to a restored state, which must not be changed.
pub fn open(dir: &Path, bytes: &[u8]) -> Connection {
    let path = dir.join("restored.db");
    std::fs::write(&path, bytes).unwrap();
    let uri = format!("file:{}?immutable=1", path.display());
    Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
        .unwrap()
}

/// Commits that are a first copy or a comparison.
pub fn remarked(node: &Node) -> BTreeMap<u64, (String, String)> {
    let commits = node.commits(..).unwrap().map(Result::unwrap);
    commits.filter_map(|c| Some((c.lsn.get(), c.annotations.first()?.clone()))).collect()
}

/// Restores every commit from `from` on. Each state has to be whole, and has to hold exactly one
/// transaction more than the one before, unless it is remarked as a comparison.
pub fn check_from(node: &Node, from: u64, step: u64) -> Vec<Seen> {
    let dir = TempDir::new().unwrap();
    let remarks = remarked(node);
    let window = node.window().unwrap();
    let first = window.earliest.lsn.get().max(from);
    let last = window.latest.lsn.get();
    let mut seen: Vec<Seen> = Vec::new();
    for lsn in first..=last {
        let resync = remarks.contains_key(&lsn);
        if step > 1
            && lsn % step != 0
            && lsn != first
            && lsn != last
            && !resync
            && !remarks.contains_key(&(lsn + 1))
        {
            continue;
        }
        let bytes = restore(node, Target::Lsn(rewound::Lsn::new(lsn).unwrap()));
        let db = open(dir.path(), &bytes);
        let counter = workload::check(&db).unwrap_or_else(|e| panic!("LSN {lsn}: {e}"));
        if let Some(before) = seen.last()
            && !resync
        {
            assert_eq!(
                counter - before.counter,
                lsn - before.lsn,
                "LSN {lsn} holds {counter} transactions, LSN {} holds {}",
                before.lsn,
                before.counter
            );
        }
        seen.push(Seen { lsn, counter, resync });
    }
    seen
}

/// Restores every commit.
pub fn check(node: &Node) -> Vec<Seen> {
    check_from(node, 0, 1)
}
