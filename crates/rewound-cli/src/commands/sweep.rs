//! `sweep`: what expires, and why the rest stays.

use std::io::Write;

use rewound::{Archive, ExpiryPlan, KeptSpan, Lsn, NodeSweep, Position, SweepOptions, Target};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::output::{BAD, BOLD, DIM, NOTE, json, stdout, words};
use crate::session::Session;
use crate::units;

#[derive(Serialize)]
struct Swept {
    dry_run: bool,
    nodes: Vec<NodeSwept>,
    failed: Vec<FailedNode>,
}

#[derive(Serialize)]
struct NodeSwept {
    node: String,
    nothing_expires: Option<String>,
    kept: Vec<Kept>,
    build: Vec<Build>,
    snapshots_built: u64,
    segments: u64,
    log_bytes: u64,
    layers: u64,
    removed_files: u64,
    removed_bytes: u64,
    pending_expiries: u64,
}

#[derive(Serialize)]
struct Kept {
    from: u64,
    to: Option<u64>,
    from_time: Option<String>,
    reasons: Vec<String>,
    snapshot: Option<String>,
    segments: Option<(u64, u64)>,
}

#[derive(Serialize)]
struct Build {
    lsn: u64,
    frees: Option<u64>,
}

#[derive(Serialize)]
struct FailedNode {
    node: String,
    error: String,
}

/// Options of a sweep that an interruption ends.
pub fn options(session: &Session) -> SweepOptions {
    let mut options = SweepOptions::default();
    options.compact.replay = session.replay_options();
    options
}

/// Sweeps, or shows what a sweep would do.
pub fn sweep(session: &Session, dry_run: bool, confirm_clock: bool) -> Result {
    if session.global.node.is_some() {
        return Err(Failure::Usage("a sweep is of all nodes: leave --node out".into()));
    }
    let archive = session.archive()?;
    let admin = archive.administrator(session.actor.clone());
    if confirm_clock {
        admin.confirm_clock()?;
    }
    let options = options(session);
    let (nodes, failed) = if dry_run {
        let planned = |(node, plan)| {
            let mut sweep = NodeSweep::default();
            (sweep.node, sweep.plan) = (node, plan);
            sweep
        };
        (admin.plan_expiry(&options)?.into_iter().map(planned).collect(), Vec::new())
    } else {
        let done = admin.sweep(&options)?;
        (done.nodes, done.failed)
    };
    if session.global.json {
        let failed = failed
            .iter()
            .map(|(node, e)| FailedNode { node: node.clone(), error: e.to_string() })
            .collect();
        json(&Swept { dry_run, nodes: nodes.iter().map(|n| info(&archive, n)).collect(), failed })?;
    } else {
        let mut out = if dry_run { stdout() } else { words() };
        nodes.iter().try_for_each(|node| print(session, &archive, &mut out, node, dry_run))?;
        for (node, e) in &failed {
            writeln!(out, "{BOLD}node {node}{BOLD:#}\n  {BAD}left alone{BAD:#}  {e}")?;
        }
    }
    match failed.into_iter().next() {
        None => Ok(()),
        // The code tells what was wrong with it.
        Some((_, e)) => Err(e.into()),
    }
}

fn segments(plan: &ExpiryPlan) -> u64 {
    plan.timelines.iter().flat_map(|t| &t.segments).map(|(first, last)| last - first + 1).sum()
}

/// The time of a commit that is kept; of one that has only just expired there is none.
fn time(archive: &Archive, node: &str, at: Position) -> Option<rewound::Timestamp> {
    let lsn: Lsn = at.lsn()?;
    archive.node(node).ok()?.resolve(&Target::Lsn(lsn)).ok().map(|at| at.timestamp)
}

fn info(archive: &Archive, sweep: &NodeSweep) -> NodeSwept {
    let plan = &sweep.plan;
    let kept = |k: &KeptSpan| Kept {
        from: k.span.from.get(),
        to: k.span.to.map(Position::get),
        from_time: time(archive, &sweep.node, k.span.from).map(|t| t.to_string()),
        reasons: k.reasons.iter().map(ToString::to_string).collect(),
        snapshot: k.snapshot.map(|s| s.to_string()),
        segments: k.segments,
    };
    NodeSwept {
        node: sweep.node.clone(),
        nothing_expires: plan.blocked.as_ref().map(ToString::to_string),
        kept: plan.kept.iter().map(kept).collect(),
        build: plan.build.iter().map(|b| Build { lsn: b.position.get(), frees: b.frees }).collect(),
        snapshots_built: sweep.built.snapshots as u64,
        segments: segments(plan),
        log_bytes: plan.log_bytes,
        layers: plan.layers.len() as u64,
        removed_files: sweep.removed_files,
        removed_bytes: sweep.removed_bytes,
        pending_expiries: sweep.pending_expiries as u64,
    }
}

fn print(
    session: &Session,
    archive: &Archive,
    out: &mut impl Write,
    sweep: &NodeSweep,
    dry_run: bool,
) -> Result {
    let plan = &sweep.plan;
    writeln!(out, "{BOLD}node {}{BOLD:#}", sweep.node)?;
    if let Some(blocked) = &plan.blocked {
        writeln!(out, "  {NOTE}nothing expires:{NOTE:#} {blocked}")?;
    }
    for kept in &plan.kept {
        let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
        let from = kept.span.from.get().max(1);
        let range = match kept.span.to {
            Some(to) if to.get() == from => format!("LSN {from}"),
            Some(to) => format!("LSN {from} to {to}"),
            None => format!("LSN {from} and later"),
        };
        let since = time(archive, &sweep.node, kept.span.from.max(Position::new(1)));
        let since =
            since.map(|t| format!("  {DIM}{}{DIM:#}", session.zone.show(t))).unwrap_or_default();
        writeln!(out, "  stays     {range:<22}{since}  {}", reasons.join(", "))?;
        if let Some(log) = kept.span.log {
            let (log, base) = (log.next_lsn(), kept.span.base);
            writeln!(
                out,
                "            {DIM}with the log from LSN {log} on: logical records that are not in the pages at LSN {base}{DIM:#}"
            )?;
        }
    }
    for build in &plan.build {
        let why = build.frees.map_or("as it is due".to_owned(), |bytes| {
            format!("so that {} can go", units::bytes(bytes))
        });
        writeln!(out, "  builds    a snapshot of LSN {} first, {why}", build.position)?;
    }
    if sweep.built.snapshots > 0 {
        let built = units::plural(sweep.built.snapshots as u64, "snapshot");
        writeln!(out, "  built     {built}, {}", units::bytes(sweep.built.bytes_written))?;
    }
    let verb = if dry_run { "goes   " } else { "expired" };
    if plan.last {
        writeln!(out, "  {verb}   the whole node, which was deleted")?;
    } else if plan.is_empty() && plan.blocked.is_none() {
        writeln!(out, "  {verb}   nothing")?;
    } else if !plan.is_empty() {
        let (log, layers) = (
            units::plural(segments(plan), "segment"),
            units::plural(plan.layers.len() as u64, "layer"),
        );
        writeln!(out, "  {verb}   {log} of log ({}), {layers}", units::bytes(plan.log_bytes))?;
    }
    if sweep.removed_files > 0 {
        let files = units::plural(sweep.removed_files, "file");
        writeln!(
            out,
            "  removed   {files} that had expired before, {}",
            units::bytes(sweep.removed_bytes)
        )?;
    }
    if sweep.pending_expiries > 0 {
        writeln!(
            out,
            "  {DIM}what has expired is removed by a sweep after its grace period{DIM:#}"
        )?;
    }
    Ok(())
}
