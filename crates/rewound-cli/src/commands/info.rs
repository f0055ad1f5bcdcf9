//! `info`: what can be restored, what everything takes, and a chart of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rewound::{
    Activity, ActivityOptions, Archive, Commit, Deletion, FileCount, LayerRecord, Lsn, Node,
    NodeFiles, NodeUsage, Policy, RestorableRange, Usage, Window,
};
use rewound_sqlite::database_of;
use serde::Serialize;

use super::retention::{HoldInfo, Rules};
use super::shapes::{At, Layer};
use crate::chart;
use crate::failure::{Failure, Result};
use crate::moment::Zone;
use crate::moment::ago;
use crate::output::{BAD, BOLD, DIM, NOTE, json, stdout, width};
use crate::policy::{self, PolicyInfo};
use crate::session::Session;
use crate::svg;
use crate::units;

/// Restore points and remarks shown to people; JSON has them all.
const SHOWN: usize = 10;
/// Buckets of JSON and of the picture.
const BUCKETS: usize = 120;

/// All that there is to show of a node.
pub struct Facts {
    pub name: String,
    /// The SQLite database that it belongs to, where it does.
    pub database: Option<PathBuf>,
    /// The window, or why nothing can be restored.
    pub window: std::result::Result<Window, rewound::Error>,
    pub activity: Activity,
    /// Beyond the window: single commits and stretches that something keeps.
    pub beyond: Vec<RestorableRange>,
    pub layers: Vec<LayerRecord>,
    /// Restore points that have not expired, oldest first.
    pub points: Vec<(String, Commit)>,
    /// How many have.
    pub expired_points: u64,
    pub files: NodeFiles,
    pub usage: NodeUsage,
    pub policy: Option<Policy>,
    pub deletion: Deletion,
}

impl Facts {
    fn of(
        session: &Session,
        node: &Node,
        rules: &Rules,
        usage: &Usage,
        buckets: usize,
    ) -> Result<Facts> {
        let mut options = ActivityOptions::default();
        (options.buckets, options.cancel) = (buckets, session.cancel());
        let points = node.restore_points()?.into_iter();
        let mut points: Vec<(String, Commit)> = points
            .filter_map(|(name, p)| {
                Some((name, Commit { lsn: p.position.lsn()?, timestamp: p.timestamp }))
            })
            .collect();
        points.sort_by_key(|(_, commit)| commit.lsn);
        let all = points.len();
        let files = node.files()?;
        // What cannot be read is no reason to show nothing; `verify` says what is wrong with it.
        let mut beyond = node.restorable_ranges().unwrap_or_default();
        if !beyond.is_empty() {
            points.retain(|(_, c)| beyond.iter().any(|s| s.from.lsn <= c.lsn && c.lsn <= s.to.lsn));
        }
        beyond.pop();
        Ok(Facts {
            name: node.name().to_owned(),
            database: database_of(node),
            window: node.window(),
            beyond,
            expired_points: (all - points.len()) as u64,
            usage: usage.nodes.get(node.name()).copied().unwrap_or_else(|| counted(&files)),
            policy: rules
                .nodes
                .iter()
                .find(|(name, ..)| name == node.name())
                .and_then(|(_, policy, _)| policy.clone()),
            deletion: node.deletion()?,
            activity: node.activity(&options)?,
            layers: node.layers()?,
            points,
            files,
        })
    }

    /// How many commits can be restored.
    pub fn restorable(&self) -> u64 {
        let count = |from: Lsn, to: Lsn| to.get() - from.get() + 1;
        let window = self.window.as_ref().map_or(0, |w| count(w.earliest.lsn, w.latest.lsn));
        self.beyond.iter().map(|s| count(s.from.lsn, s.to.lsn)).sum::<u64>() + window
    }

    /// Commits that an adapter could not prove to follow on the one before.
    pub fn resyncs(&self) -> impl Iterator<Item = &rewound::Annotation> {
        self.activity.annotations.iter().filter(|r| r.key == "resync")
    }
}

/// What there is, where damage keeps from telling layers and snapshots apart.
fn counted(files: &NodeFiles) -> NodeUsage {
    let mut usage = NodeUsage::default();
    usage.log = files.segments.bytes;
    usage.snapshots = files.layers.bytes + files.parts.bytes;
    usage
}

/// Shows a node, or every node.
pub fn info(session: &Session, picture: Option<&Path>) -> Result {
    let archive = session.archive()?;
    let nodes = match &session.global.node {
        Some(name) => vec![archive.node(name)?],
        None => archive
            .nodes()?
            .iter()
            .map(|name| archive.node(name))
            .collect::<rewound::Result<_>>()?,
    };
    let buckets =
        if session.global.json || picture.is_some() { BUCKETS } else { width().saturating_sub(2) };
    let rules = Rules::of(&archive, &archive.administrator(session.actor.clone()))?;
    // A log whose end is gone has no growth to tell of.
    let usage = archive.usage().unwrap_or_default();
    let of = |node| Facts::of(session, node, &rules, &usage, buckets);
    let facts = nodes.iter().map(of).collect::<Result<Vec<_>>>()?;
    if let Some(path) = picture {
        let one = match facts.as_slice() {
            [one] => one,
            [] => {
                return Err(Failure::Other(
                    "the archive holds nothing yet that could be drawn".into(),
                ));
            }
            _ => {
                return Err(Failure::Usage("a picture shows one node: name it with --node".into()));
            }
        };
        rewound_dir::write_file(path, svg::draw(one, &session.zone).as_bytes())
            .map_err(|e| Failure::Other(format!("writing {}: {e}", path.display())))?;
    }
    if session.global.json {
        return as_json(&archive, &facts, &rules);
    }
    let mut out = stdout();
    let catalog = archive.catalog_files()?;
    writeln!(out, "{BOLD}archive{BOLD:#} {} at {}", archive.id(), session.path()?.display())?;
    writeln!(out, "  catalog        {}", file_count(&catalog))?;
    for lock in &rules.locks {
        writeln!(out, "  lock           {BOLD}{lock}{BOLD:#}")?;
    }
    for hold in rules.hold_lines(session) {
        writeln!(out, "  hold           {hold}")?;
    }
    for one in &facts {
        writeln!(out)?;
        print(session, &mut out, one, &rules)?;
    }
    Ok(())
}

fn file_count(count: &FileCount) -> String {
    format!("{:>9} in {}", units::bytes(count.bytes), units::plural(count.files, "file"))
}

fn print(session: &Session, out: &mut impl Write, facts: &Facts, rules: &Rules) -> Result {
    let zone = &session.zone;
    writeln!(out, "{BOLD}node {}{BOLD:#}", facts.name)?;
    if let Some(database) = &facts.database {
        writeln!(out, "  database       {}", database.display())?;
    }
    if let Deletion::Until(until) = facts.deletion {
        writeln!(out, "  {BAD}deleted{BAD:#}        goes for good after {}", zone.show(until))?;
    }
    print_window(out, zone, &facts.window)?;
    for kept in facts.beyond.iter().rev().take(SHOWN) {
        let (from, to) = (kept.from, kept.to);
        let time = zone.show(from.timestamp);
        if from.lsn == to.lsn {
            writeln!(out, "  kept as well   {time}  LSN {}", from.lsn)?;
        } else {
            let commits = units::plural(to.lsn.get() - from.lsn.get() + 1, "commit");
            writeln!(out, "  kept as well   {time}  LSN {} to {}  ({commits})", from.lsn, to.lsn)?;
        }
    }
    more(out, facts.beyond.len())?;
    let keeps = facts.policy.as_ref().map_or_else(|| policy::EVERYTHING.to_owned(), policy::words);
    writeln!(out, "  keeps          {keeps}")?;
    let locks =
        rules.nodes.iter().filter(|(name, ..)| *name == facts.name).flat_map(|(_, _, locks)| locks);
    for lock in locks.filter(|lock| !rules.locks.contains(lock)) {
        writeln!(out, "  lock           {BOLD}{lock}{BOLD:#}")?;
    }
    print_files(out, facts)?;
    for gap in &facts.activity.gaps {
        writeln!(
            out,
            "  {BAD}gap{BAD:#}            segments are missing somewhere after LSN {} up to LSN {}",
            gap.after, gap.until
        )?;
    }
    print_resyncs(out, zone, facts)?;
    for (name, commit) in facts.points.iter().rev().take(SHOWN) {
        writeln!(
            out,
            "  point          {}  LSN {}  {BOLD}{name}{BOLD:#}",
            zone.show(commit.timestamp),
            commit.lsn
        )?;
    }
    more(out, facts.points.len())?;
    if facts.expired_points > 0 {
        writeln!(
            out,
            "  {DIM}{} expired{DIM:#}",
            units::plural(facts.expired_points, "restore point")
        )?;
    }
    chart::draw(out, &facts.activity, zone)
}

/// What of a node can be restored.
fn print_window(out: &mut impl Write, zone: &Zone, window: &rewound::Result<Window>) -> Result {
    match window {
        Ok(w) => {
            let commits = units::plural(w.latest.lsn.get() - w.earliest.lsn.get() + 1, "commit");
            writeln!(
                out,
                "  earliest       {}  LSN {}",
                zone.show(w.earliest.timestamp),
                w.earliest.lsn
            )?;
            writeln!(
                out,
                "  newest commit  {}  LSN {}  ({commits})",
                zone.show(w.latest.timestamp),
                w.latest.lsn
            )?;
            let lag = units::duration(ago(w.known_until).unsigned_abs());
            writeln!(out, "  known until    {}  ({lag} ago)", zone.show(w.known_until))?;
        }
        Err(rewound::Error::BeforeWindow { .. }) => {
            writeln!(
                out,
                "  {NOTE}nothing can be restored:{NOTE:#} the first copy is not complete yet"
            )?;
        }
        Err(e) => writeln!(out, "  {NOTE}nothing can be restored:{NOTE:#} {e}")?,
    }
    Ok(())
}

/// What a node's files take, and how fast they grow.
fn print_files(out: &mut impl Write, facts: &Facts) -> Result {
    let snapshots = facts.layers.iter().filter(|l| l.from.is_none()).count() as u64;
    let layers = facts.layers.len() as u64 - snapshots;
    writeln!(out, "  log            {}", file_count(&facts.files.segments))?;
    let bytes = |n| format!("{:>9}", units::bytes(n));
    let (snapshots, layers) =
        (units::plural(snapshots, "snapshot"), units::plural(layers, "layer"));
    writeln!(out, "  snapshots      {} in {snapshots}", bytes(facts.usage.snapshots))?;
    writeln!(out, "  layers         {} in {layers}", bytes(facts.usage.layers))?;
    let u = &facts.usage;
    if u.log_bytes_per_day > 0 {
        let (log, layers) = (units::bytes(u.log_bytes_per_day), units::bytes(u.layers_a_day));
        writeln!(
            out,
            "  growth         {} a day ({log} of log, {layers} of layers)",
            bytes(u.log_bytes_per_day + u.layers_a_day)
        )?;
        let windows =
            [7, 30, 35].map(|days| (days, u.estimate(Duration::from_secs(days * 86_400))));
        let windows = windows.map(|(days, n)| format!("{} for {days} days", units::bytes(n)));
        writeln!(out, "  would take     {}", windows.join(", "))?;
    }
    Ok(())
}

/// When the log was interrupted and the database compared.
fn print_resyncs(out: &mut impl Write, zone: &Zone, facts: &Facts) -> Result {
    let resyncs: Vec<_> = facts.resyncs().collect();
    if facts.activity.exact_from.get() > 0 && facts.activity.segments > 0 {
        let from = facts.activity.exact_from;
        writeln!(
            out,
            "  {DIM}resyncs were looked for after LSN {from}; `rewound log --all` shows all{DIM:#}"
        )?;
    }
    for r in resyncs.iter().rev().take(SHOWN) {
        let at = zone.show(r.commit.timestamp);
        writeln!(
            out,
            "  {NOTE}resync{NOTE:#}         {at}  LSN {}  {}",
            r.commit.lsn,
            units::printable(&r.text)
        )?;
    }
    more(out, resyncs.len())?;
    Ok(())
}

fn more(out: &mut impl Write, count: usize) -> Result {
    if count > SHOWN {
        writeln!(out, "                 and {} older ones", count - SHOWN)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Info {
    archive: String,
    catalog: Count,
    locks: Vec<String>,
    holds: Vec<HoldInfo>,
    nodes: Vec<NodeInfo>,
}

#[derive(Serialize)]
struct Count {
    files: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct NodeInfo {
    name: String,
    database: Option<String>,
    window: Option<WindowInfo>,
    nothing_restorable: Option<String>,
    kept: Vec<StretchInfo>,
    policy: Option<PolicyInfo>,
    locks: Vec<String>,
    deleted_until: Option<String>,
    usage: UsageInfo,
    lag_seconds: Option<f64>,
    log: Count,
    layers: Count,
    snapshots: Vec<Layer>,
    deltas: Vec<Layer>,
    restore_points: Vec<PointInfo>,
    expired_points: u64,
    resyncs: Vec<RemarkInfo>,
    remarks_seen_after: u64,
    gaps: Vec<GapInfo>,
    activity: ActivityInfo,
}

#[derive(Serialize)]
struct WindowInfo {
    earliest: At,
    latest: At,
    known_until: String,
}

#[derive(Serialize)]
struct StretchInfo {
    from: At,
    to: At,
}

#[derive(Serialize)]
struct UsageInfo {
    log: u64,
    snapshots: u64,
    layers: u64,
    log_bytes_per_day: u64,
    layers_a_day: u64,
}

#[derive(Serialize)]
struct PointInfo {
    name: String,
    lsn: u64,
    time: String,
}

#[derive(Serialize)]
struct RemarkInfo {
    lsn: u64,
    time: String,
    text: String,
}

#[derive(Serialize)]
struct GapInfo {
    after: u64,
    until: u64,
}

#[derive(Serialize)]
struct ActivityInfo {
    from: String,
    to: String,
    commits: Vec<f64>,
    bytes: Vec<f64>,
}

fn as_json(archive: &Archive, facts: &[Facts], rules: &Rules) -> Result {
    let catalog = archive.catalog_files()?;
    let nodes = facts.iter().map(|f| node_json(f, rules)).collect();
    let holds = rules.holds.iter().map(|hold| HoldInfo::of(rules, hold)).collect();
    let (archive, catalog) = (archive.id().to_string(), count(catalog));
    json(&Info { archive, catalog, locks: rules.locks.clone(), holds, nodes })
}

fn count(c: FileCount) -> Count {
    Count { files: c.files, bytes: c.bytes }
}

fn at(c: Commit) -> At {
    At::new(c.lsn, c.timestamp)
}

fn node_json(f: &Facts, rules: &Rules) -> NodeInfo {
    let locks = rules
        .nodes
        .iter()
        .filter(|(name, ..)| *name == f.name)
        .flat_map(|(_, _, locks)| locks.clone());
    let window = f.window.as_ref().ok();
    let (snapshots, deltas): (Vec<_>, Vec<_>) = f.layers.iter().partition(|l| l.from.is_none());
    let point = |(name, c): &(String, Commit)| PointInfo {
        name: name.clone(),
        lsn: c.lsn.get(),
        time: c.timestamp.to_string(),
    };
    let remark = |r: &rewound::Annotation| RemarkInfo {
        lsn: r.commit.lsn.get(),
        time: r.commit.timestamp.to_string(),
        text: r.text.clone(),
    };
    NodeInfo {
        name: f.name.clone(),
        database: f.database.as_ref().map(|path| path.display().to_string()),
        window: window.map(|w| WindowInfo {
            earliest: at(w.earliest),
            latest: at(w.latest),
            known_until: w.known_until.to_string(),
        }),
        nothing_restorable: f.window.as_ref().err().map(ToString::to_string),
        kept: f.beyond.iter().map(|s| StretchInfo { from: at(s.from), to: at(s.to) }).collect(),
        policy: f.policy.as_ref().map(PolicyInfo::of),
        locks: locks.collect(),
        deleted_until: match f.deletion {
            Deletion::Until(until) => Some(until.to_string()),
            _ => None,
        },
        usage: UsageInfo {
            log: f.usage.log,
            snapshots: f.usage.snapshots,
            layers: f.usage.layers,
            log_bytes_per_day: f.usage.log_bytes_per_day,
            layers_a_day: f.usage.layers_a_day,
        },
        expired_points: f.expired_points,
        lag_seconds: window.map(|w| ago(w.known_until).as_secs_f64()),
        log: count(f.files.segments),
        layers: count(FileCount::sum(&[f.files.layers, f.files.parts])),
        snapshots: snapshots.into_iter().map(Layer::of).collect(),
        deltas: deltas.into_iter().map(Layer::of).collect(),
        restore_points: f.points.iter().map(point).collect(),
        resyncs: f.resyncs().map(remark).collect(),
        remarks_seen_after: f.activity.exact_from.get(),
        gaps: f
            .activity
            .gaps
            .iter()
            .map(|g| GapInfo { after: g.after.get(), until: g.until.get() })
            .collect(),
        activity: ActivityInfo {
            from: f.activity.from.to_string(),
            to: f.activity.to.to_string(),
            commits: f.activity.buckets.iter().map(|b| b.commits).collect(),
            bytes: f.activity.buckets.iter().map(|b| b.bytes).collect(),
        },
    }
}
