//! `log`.

use std::io::Write;
use std::ops::{Bound, RangeBounds};

use rewound::{Commit, CommitInfo, Lsn, Node, Target};
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
    versions: Option<u64>,
    bytes: Option<u64>,
    records: Option<u64>,
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
pub fn log(
    session: &Session,
    count: u64,
    reverse: bool,
    since: Option<&str>,
    until: Option<&str>,
) -> Result {
    let node = session.node()?;
    let after = since.map(|text| bound(session, &node, text)).transpose()?.flatten();
    let until = until.map(|text| bound(session, &node, text)).transpose()?;
    // Up to a moment before the first commit there is nothing.
    let Some(until) = until.map_or(Some(Bound::Unbounded), |lsn| lsn.map(Bound::Included)) else {
        return Ok(());
    };
    let range = (after.map_or(Bound::Unbounded, Bound::Excluded), until);
    let commits = node.commits(range)?;
    let snapshots = snapshots(&node, range);
    let later = names(&node)?;
    let cancel = session.cancel();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = stdout();
    if !session.global.json {
        writeln!(out, "{BOLD}{:>10}  {:<29} {:>7} {:>9}{BOLD:#}", "LSN", "time", "pages", "bytes")?;
    }
    let mut each = |entry: rewound::Result<Entry>| -> Result {
        if cancel.is_cancelled() {
            return Err(rewound::Error::Cancelled.into());
        }
        let named = |at: Lsn| later.iter().filter(move |(lsn, _)| *lsn == at).map(|(_, name)| name);
        match entry? {
            Entry::Logged(mut commit) => {
                let new: Vec<String> = named(commit.lsn)
                    .filter(|n| !commit.restore_points.contains(n))
                    .cloned()
                    .collect();
                commit.restore_points.extend(new);
                if session.global.json {
                    json_line(&mut out, &line(*commit))
                } else {
                    print(session, &mut out, &commit)
                }
            }
            Entry::Snapshot(commit) => {
                let names: Vec<String> = named(commit.lsn).cloned().collect();
                if session.global.json {
                    json_line(&mut out, &snapshot_line(commit, names))
                } else {
                    print_snapshot(session, &mut out, commit, &names)
                }
            }
        }
    };
    if reverse {
        merge(commits, snapshots.into_iter(), false).take(count).try_for_each(&mut each)
    } else {
        merge(commits.rev(), snapshots.into_iter().rev(), true).take(count).try_for_each(&mut each)
    }
}

/// A commit of the log; or one that has expired from it and is kept as a snapshot.
enum Entry {
    Logged(Box<CommitInfo>),
    Snapshot(Commit),
}

/// Single commits that are kept, oldest first.
fn snapshots(node: &Node, range: (Bound<Lsn>, Bound<Lsn>)) -> Vec<Commit> {
    // Where damage keeps from knowing, the listing comes to it.
    let stretches = node.restorable_ranges().unwrap_or_default();
    let window = stretches.len().saturating_sub(1);
    let single =
        stretches.into_iter().take(window).filter(|s| s.from.lsn == s.to.lsn).map(|s| s.from);
    single.filter(|c| range.contains(&c.lsn)).collect()
}

/// Both in one order.
fn merge(
    commits: impl Iterator<Item = rewound::Result<CommitInfo>>,
    snapshots: impl Iterator<Item = Commit>,
    newest_first: bool,
) -> impl Iterator<Item = rewound::Result<Entry>> {
    let (mut commits, mut snapshots) = (commits.peekable(), snapshots.peekable());
    std::iter::from_fn(move || {
        let logged = match commits.peek() {
            Some(Err(_)) => None,
            Some(Ok(commit)) => Some(commit.lsn),
            None => return snapshots.next().map(|s| Ok(Entry::Snapshot(s))),
        };
        match (snapshots.peek().map(|s| s.lsn), logged) {
            (Some(kept), Some(lsn)) if kept == lsn => drop(snapshots.next()),
            (Some(kept), Some(lsn)) if (kept > lsn) == newest_first => {
                return snapshots.next().map(|s| Ok(Entry::Snapshot(s)));
            }
            _ => {}
        }
        commits.next().map(|commit| Ok(Entry::Logged(Box::new(commit?))))
    })
}

/// The commit at a moment; `None` before the first one. A moment that is still to come is as good
/// as the latest.
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
        versions: Some(commit.versions),
        bytes: Some(commit.bytes),
        records: Some(commit.records),
        spaces: commit.spaces.iter().map(|s| s.get()).collect(),
        restore_points: commit.restore_points,
        mark: commit.mark.as_deref().map(units::hex),
        global_transaction: commit.global_transaction.as_deref().map(units::hex),
        annotations: commit
            .annotations
            .into_iter()
            .map(|(key, text)| Annotation { key, text })
            .collect(),
    }
}

fn snapshot_line(commit: Commit, restore_points: Vec<String>) -> Line {
    Line {
        lsn: commit.lsn.get(),
        time: commit.timestamp.to_string(),
        versions: None,
        bytes: None,
        records: None,
        spaces: Vec::new(),
        restore_points,
        mark: None,
        global_transaction: None,
        annotations: Vec::new(),
    }
}

fn print_snapshot(
    session: &Session,
    out: &mut impl Write,
    commit: Commit,
    names: &[String],
) -> Result {
    let time = session.zone.show(commit.timestamp);
    write!(out, "{:>10}  {DIM}{time:<29} {:>7} {:>9}{DIM:#}", commit.lsn, "-", "-")?;
    for name in names {
        write!(out, "  {BOLD}[{name}]{BOLD:#}")?;
    }
    writeln!(out, "  {DIM}kept as a snapshot{DIM:#}")?;
    Ok(())
}

fn print(session: &Session, out: &mut impl Write, commit: &CommitInfo) -> Result {
    let (time, bytes) = (session.zone.show(commit.timestamp), units::bytes(commit.bytes));
    let pages = units::thousands(commit.versions);
    write!(out, "{:>10}  {DIM}{time:<29}{DIM:#} {pages:>7} {bytes:>9}", commit.lsn)?;
    for name in &commit.restore_points {
        write!(out, "  {BOLD}[{name}]{BOLD:#}")?;
    }
    for (key, text) in &commit.annotations {
        write!(out, "  {NOTE}{}:{NOTE:#} {}", units::printable(key), units::printable(text))?;
    }
    writeln!(out)?;
    Ok(())
}
