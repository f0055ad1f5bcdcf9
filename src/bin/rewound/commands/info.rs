//! `info`: what can be restored, what everything takes, and a chart of it.

use std::io::Write;
use std::path::Path;

use rewound::{Activity, ActivityOptions, Archive, Commit, FileCount, LayerRecord, Node, NodeFiles, Window};
use serde::Serialize;

use crate::chart;
use crate::failure::{Failure, Result};
use crate::moment::ago;
use crate::output::{BAD, BOLD, DIM, NOTE, json, stdout, width};
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
    /// The window, or why nothing can be restored.
    pub window: std::result::Result<Window, rewound::Error>,
    pub activity: Activity,
    pub layers: Vec<LayerRecord>,
    /// Restore points, oldest first.
    pub points: Vec<(String, Commit)>,
    pub files: NodeFiles,
}

impl Facts {
    fn of(session: &Session, node: &Node, buckets: usize) -> Result<Facts> {
        let mut options = ActivityOptions::default();
        (options.buckets, options.cancel) = (buckets, session.cancel());
        let points = node.restore_points()?.into_iter();
        let mut points: Vec<(String, Commit)> = points
            .filter_map(|(name, p)| Some((name, Commit { lsn: p.position.lsn()?, timestamp: p.timestamp })))
            .collect();
        points.sort_by_key(|(_, commit)| commit.lsn);
        Ok(Facts {
            name: node.name().to_owned(),
            window: node.window(),
            activity: node.activity(&options)?,
            layers: node.layers()?,
            points,
            files: node.files()?,
        })
    }

    /// Commits that an adapter could not prove to follow on the one before.
    pub fn resyncs(&self) -> impl Iterator<Item = &rewound::Remark> {
        self.activity.remarks.iter().filter(|r| r.key == "resync")
    }
}

/// Shows a node, or every node.
pub fn info(session: &Session, picture: Option<&Path>) -> Result {
    let archive = session.archive()?;
    let nodes = match &session.global.node {
        Some(name) => vec![archive.node(name)?],
        None => archive.nodes()?.iter().map(|name| archive.node(name)).collect::<rewound::Result<_>>()?,
    };
    let buckets = if session.global.json || picture.is_some() { BUCKETS } else { width().saturating_sub(2) };
    let facts = nodes.iter().map(|node| Facts::of(session, node, buckets)).collect::<Result<Vec<_>>>()?;
    if let Some(path) = picture {
        let [one] = facts.as_slice() else {
            return Err(Failure::Usage("a picture shows one node: name it with --node".into()));
        };
        std::fs::write(path, svg::draw(one, &session.zone))
            .map_err(|e| Failure::Other(format!("writing {}: {e}", path.display())))?;
    }
    if session.global.json {
        return as_json(&archive, &facts);
    }
    let mut out = stdout();
    let catalog = archive.catalog_files()?;
    writeln!(out, "{BOLD}archive{BOLD:#} {} at {}", archive.id(), session.path()?.display())?;
    writeln!(out, "  catalog        {}", file_count(&catalog))?;
    for one in &facts {
        writeln!(out)?;
        print(session, &mut out, one)?;
    }
    Ok(())
}

fn file_count(count: &FileCount) -> String {
    format!("{:>9} in {}", units::bytes(count.bytes), units::plural(count.files, "file"))
}

fn print(session: &Session, out: &mut impl Write, facts: &Facts) -> Result {
    let zone = &session.zone;
    writeln!(out, "{BOLD}node {}{BOLD:#}", facts.name)?;
    match &facts.window {
        Ok(w) => {
            let commits = units::plural(w.latest.lsn.get() - w.earliest.lsn.get() + 1, "commit");
            writeln!(out, "  earliest       {}  LSN {}", zone.show(w.earliest.timestamp), w.earliest.lsn)?;
            writeln!(out, "  newest commit  {}  LSN {}  ({commits})", zone.show(w.latest.timestamp), w.latest.lsn)?;
            let lag = units::duration(ago(w.known_until).unsigned_abs());
            writeln!(out, "  known until    {}  ({lag} ago)", zone.show(w.known_until))?;
        }
        Err(e) => writeln!(out, "  {NOTE}nothing can be restored:{NOTE:#} {e}")?,
    }
    let snapshots = facts.layers.iter().filter(|l| l.from.is_none()).count() as u64;
    let layers = facts.layers.len() as u64 - snapshots;
    writeln!(out, "  log            {}", file_count(&facts.files.segments))?;
    let parts = FileCount::sum(&[facts.files.layers, facts.files.parts]);
    let (snapshots, layers) = (units::plural(snapshots, "snapshot"), units::plural(layers, "layer"));
    writeln!(out, "  layers         {}  ({snapshots}, {layers})", file_count(&parts))?;
    for gap in &facts.activity.gaps {
        writeln!(
            out,
            "  {BAD}gap{BAD:#}            segments are missing somewhere after LSN {} up to LSN {}",
            gap.after, gap.until
        )?;
    }
    let resyncs: Vec<_> = facts.resyncs().collect();
    if facts.activity.exact_from.get() > 0 && facts.activity.segments > 0 {
        let from = facts.activity.exact_from;
        writeln!(out, "  {DIM}resyncs were looked for after LSN {from}; `rewound log --all` shows all{DIM:#}")?;
    }
    for r in resyncs.iter().rev().take(SHOWN) {
        let at = zone.show(r.commit.timestamp);
        writeln!(out, "  {NOTE}resync{NOTE:#}         {at}  LSN {}  {}", r.commit.lsn, r.text)?;
    }
    more(out, resyncs.len())?;
    for (name, commit) in facts.points.iter().rev().take(SHOWN) {
        writeln!(out, "  point          {}  LSN {}  {BOLD}{name}{BOLD:#}", zone.show(commit.timestamp), commit.lsn)?;
    }
    more(out, facts.points.len())?;
    chart::draw(out, &facts.activity, zone)
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
    window: Option<WindowInfo>,
    nothing_restorable: Option<String>,
    lag_seconds: Option<f64>,
    log: Count,
    layers: Count,
    snapshots: Vec<LayerInfo>,
    deltas: Vec<LayerInfo>,
    restore_points: Vec<PointInfo>,
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
struct At {
    lsn: u64,
    time: String,
}

#[derive(Serialize)]
struct LayerInfo {
    from: Option<u64>,
    to: u64,
    time: String,
    level: u32,
    pages: u64,
    bytes: u64,
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

fn as_json(archive: &Archive, facts: &[Facts]) -> Result {
    let catalog = archive.catalog_files()?;
    let nodes = facts.iter().map(node_json).collect();
    json(&Info { archive: archive.id().to_string(), catalog: count(catalog), nodes })
}

fn count(c: FileCount) -> Count {
    Count { files: c.files, bytes: c.bytes }
}

fn at(c: Commit) -> At {
    At { lsn: c.lsn.get(), time: c.timestamp.to_string() }
}

fn layer(l: &LayerRecord) -> LayerInfo {
    LayerInfo {
        from: l.from.map(rewound::Position::get),
        to: l.to.get(),
        time: l.timestamp.to_string(),
        level: l.level,
        pages: l.entries,
        bytes: l.bytes,
    }
}

fn node_json(f: &Facts) -> NodeInfo {
    let window = f.window.as_ref().ok();
    let (snapshots, deltas): (Vec<_>, Vec<_>) = f.layers.iter().partition(|l| l.from.is_none());
    let point = |(name, c): &(String, Commit)| PointInfo {
        name: name.clone(),
        lsn: c.lsn.get(),
        time: c.timestamp.to_string(),
    };
    let remark = |r: &rewound::Remark| RemarkInfo {
        lsn: r.commit.lsn.get(),
        time: r.commit.timestamp.to_string(),
        text: r.text.clone(),
    };
    NodeInfo {
        name: f.name.clone(),
        window: window.map(|w| WindowInfo {
            earliest: at(w.earliest),
            latest: at(w.latest),
            known_until: w.known_until.to_string(),
        }),
        nothing_restorable: f.window.as_ref().err().map(ToString::to_string),
        lag_seconds: window.map(|w| ago(w.known_until).as_secs_f64()),
        log: count(f.files.segments),
        layers: count(FileCount::sum(&[f.files.layers, f.files.parts])),
        snapshots: snapshots.into_iter().map(layer).collect(),
        deltas: deltas.into_iter().map(layer).collect(),
        restore_points: f.points.iter().map(point).collect(),
        resyncs: f.resyncs().map(remark).collect(),
        remarks_seen_after: f.activity.exact_from.get(),
        gaps: f.activity.gaps.iter().map(|g| GapInfo { after: g.after.get(), until: g.until.get() }).collect(),
        activity: ActivityInfo {
            from: f.activity.from.to_string(),
            to: f.activity.to.to_string(),
            commits: f.activity.buckets.iter().map(|b| b.commits).collect(),
            bytes: f.activity.buckets.iter().map(|b| b.bytes).collect(),
        },
    }
}
