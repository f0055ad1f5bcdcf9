//! `log`.

use std::io::Write;
use std::ops::Bound;

use rewound::{CommitInfo, Lsn, Node, Target};
use serde::Serialize;

use crate::failure::Result;
use crate::moment::Moment;
use crate::output::{BOLD, DIM, NOTE, json_line, stdout};
use crate::session::Session;
use crate::units;

#[derive(Serialize)]
struct Line {
    lsn: u64,
    time: String,
    versions: u64,
    bytes: u64,
    records: u64,
    spaces: Vec<u32>,
    restore_points: Vec<String>,
    mark: Option<String>,
    global_transaction: Option<String>,
    annotations: Vec<Annotation>,
}

#[derive(Serialize)]
struct Annotation {
    key: String,
    text: String,
}

/// Lists commits.
pub fn log(session: &Session, count: u64, reverse: bool, since: Option<&str>, until: Option<&str>) -> Result {
    let node = session.node()?;
    let after = since.map(|text| bound(session, &node, text)).transpose()?.flatten();
    let until = until.map(|text| bound(session, &node, text)).transpose()?;
    // Up to a moment before the first commit there is nothing.
    let Some(until) = until.map_or(Some(Bound::Unbounded), |lsn| lsn.map(Bound::Included)) else { return Ok(()) };
    let commits = node.commits((after.map_or(Bound::Unbounded, Bound::Excluded), until))?;
    let later = names(&node)?;
    let cancel = session.cancel();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = stdout();
    if !session.global.json {
        writeln!(out, "{BOLD}{:>10}  {:<29} {:>7} {:>9}{BOLD:#}", "LSN", "time", "pages", "bytes")?;
    }
    let mut each = |commit: rewound::Result<CommitInfo>| -> Result {
        if cancel.is_cancelled() {
            return Err(rewound::Error::Cancelled.into());
        }
        let mut commit = commit?;
        let named = later.iter().filter(|(lsn, name)| *lsn == commit.lsn && !commit.restore_points.contains(name));
        let named: Vec<String> = named.map(|(_, name)| name.clone()).collect();
        commit.restore_points.extend(named);
        if session.global.json { json_line(&mut out, &line(commit)) } else { print(session, &mut out, &commit) }
    };
    if reverse {
        commits.take(count).try_for_each(&mut each)
    } else {
        commits.rev().take(count).try_for_each(&mut each)
    }
}

/// The commit at a moment; `None` before the first one. A moment that is still to come is as good as the latest.
fn bound(session: &Session, node: &Node, text: &str) -> Result<Option<Lsn>> {
    let target = match Moment::parse(text, &session.zone)? {
        Moment::Lsn(lsn) => return Ok(Some(lsn)),
        other => other.at(),
    };
    match node.resolve(&target) {
        Ok(at) => Ok(Some(at.lsn)),
        Err(rewound::Error::BeforeWindow { .. }) => Ok(None),
        Err(rewound::Error::AfterDurableEnd { .. }) if matches!(target, Target::Time(_)) => {
            Ok(Some(node.resolve(&Target::Latest)?.lsn))
        }
        Err(e) => Err(e.into()),
    }
}

/// Restore points, those that were given after the commit included.
fn names(node: &Node) -> Result<Vec<(Lsn, String)>> {
    let points = node.restore_points()?;
    Ok(points.into_iter().filter_map(|(name, point)| Some((point.position.lsn()?, name))).collect())
}

fn line(commit: CommitInfo) -> Line {
    Line {
        lsn: commit.lsn.get(),
        time: commit.timestamp.to_string(),
        versions: commit.versions,
        bytes: commit.bytes,
        records: commit.records,
        spaces: commit.spaces.iter().map(|s| s.get()).collect(),
        restore_points: commit.restore_points,
        mark: commit.mark.as_deref().map(hex),
        global_transaction: commit.global_transaction.as_deref().map(hex),
        annotations: commit.annotations.into_iter().map(|(key, text)| Annotation { key, text }).collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn print(session: &Session, out: &mut impl Write, commit: &CommitInfo) -> Result {
    let (time, bytes) = (session.zone.show(commit.timestamp), units::bytes(commit.bytes));
    let pages = units::thousands(commit.versions);
    write!(out, "{:>10}  {DIM}{time:<29}{DIM:#} {pages:>7} {bytes:>9}", commit.lsn)?;
    for name in &commit.restore_points {
        write!(out, "  {BOLD}[{name}]{BOLD:#}")?;
    }
    for (key, text) in &commit.annotations {
        write!(out, "  {NOTE}{key}:{NOTE:#} {text}")?;
    }
    writeln!(out)?;
    Ok(())
}
