//! `plan`.

use std::io::Write;

use rewound::LayerRecord;
use serde::Serialize;

use super::shapes::Layer;
use crate::args::TargetArgs;
use crate::failure::Result;
use crate::output::{BOLD, json, stdout};
use crate::session::Session;
use crate::units;

#[derive(Serialize)]
struct Planned {
    lsn: u64,
    time: String,
    base: Option<LayerFile>,
    layers: Vec<LayerFile>,
    log_after: u64,
    log_commits: u64,
}

/// A layer with the name of its file.
#[derive(Serialize)]
struct LayerFile {
    file: String,
    #[serde(flatten)]
    layer: Layer,
}

fn layer(l: &LayerRecord) -> LayerFile {
    LayerFile { file: l.file.to_string(), layer: Layer::of(l) }
}

/// Shows what a restore would read.
pub fn plan(session: &Session, target: &TargetArgs) -> Result {
    let node = session.node()?;
    let target = session.target(target, &node)?;
    let at = node.resolve(&target)?;
    let plan = node.plan(&target)?;
    let commits = plan.target.get() - plan.log_from.get();
    if session.global.json {
        return json(&Planned {
            lsn: at.lsn.get(),
            time: at.timestamp.to_string(),
            base: plan.base.as_ref().map(layer),
            layers: plan.deltas.iter().map(layer).collect(),
            log_after: plan.log_from.get(),
            log_commits: commits,
        });
    }
    let mut out = stdout();
    writeln!(out, "{BOLD}{}{BOLD:#}", session.describe(&at))?;
    match &plan.base {
        None => writeln!(out, "  begins with   the empty state before the first commit")?,
        Some(base) => {
            let (pages, bytes) = (units::plural(base.entries, "page"), units::bytes(base.bytes));
            writeln!(out, "  begins with   snapshot of LSN {} ({pages}, {bytes})", base.to)?;
        }
    }
    for l in &plan.deltas {
        let (pages, bytes) = (units::plural(l.entries, "page"), units::bytes(l.bytes));
        let from = l.from.expect("what is laid over a snapshot begins somewhere");
        writeln!(
            out,
            "  then layer    LSN {from} to {}, level {} ({pages}, {bytes})",
            l.to, l.level
        )?;
    }
    let log = units::plural(commits, "commit");
    match commits {
        0 => writeln!(out, "  then log      nothing")?,
        _ => writeln!(out, "  then log      {log} after LSN {}", plan.log_from)?,
    }
    Ok(())
}
