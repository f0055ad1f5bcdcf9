//! `restore`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rewound::{Error, Node, RestoreReport, Target};
use serde::Serialize;

use crate::args::TargetArgs;
use crate::failure::{Failure, Result};
use crate::output::{GOOD, NOTE, json, words};
use crate::progress;
use crate::session::{Session, sqlite_leftovers};
use crate::units;

#[derive(Serialize)]
struct Restored {
    node: String,
    output: String,
    lsn: u64,
    time: String,
    next_time: Option<String>,
    spaces: Vec<Space>,
    bytes_written: u64,
    bytes_read: u64,
    commits_replayed: u64,
    pages_proven: u64,
    pages_unproven: u64,
    damaged: Vec<String>,
    seconds: f64,
}

#[derive(Serialize)]
struct Space {
    name: String,
    bytes: u64,
    page_size: u32,
}

/// Restores.
pub fn restore(session: &Session, target: &TargetArgs, output: &Path, delta: bool, unaudited: bool) -> Result {
    let node = session.node()?;
    let target = session.target(target, &node)?;
    let spaces = space_names(&node, &target)?;
    let bar = progress::bar("restoring", session.global.quiet);
    let mut restore = node.restore(target).options(session.replay_options()).progress(|p| {
        bar.set_length(p.bytes_total);
        bar.set_position(p.bytes_done);
    });
    if unaudited {
        restore = restore.unaudited();
    }
    let report = match (spaces.as_slice(), delta) {
        ([only], false) if !output.is_dir() => {
            refuse_leftovers(output)?;
            restore.into_files(&BTreeMap::from([(only.clone(), output.to_owned())]))
        }
        (_, false) => restore.into_dir(output),
        (_, true) => {
            let dir = delta_dir(&spaces, output)?;
            spaces.iter().try_for_each(|name| refuse_leftovers(&dir.join(name)))?;
            restore.delta_into_dir(dir)
        }
    };
    bar.finish_and_clear();
    let report = report.map_err(|e| match e {
        Error::Cancelled if delta => Failure::Interrupted(
            "interrupted: what was being rewritten is neither what it was nor the target; run the same restore again, which mends it".into(),
        ),
        e => Failure::of_restore(e),
    })?;
    tell(session, &report, output)
}

/// The directory that a delta restore rewrites: the one that is named, or the one that holds the file that is.
fn delta_dir(spaces: &[String], output: &Path) -> Result<PathBuf> {
    if output.is_dir() {
        return Ok(output.to_owned());
    }
    match (spaces, output.parent()) {
        ([only], Some(parent)) if output.file_name().is_some_and(|name| name == only.as_str()) => {
            Ok(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
        }
        _ => Err(Failure::Usage(format!(
            "a delta restore rewrites {} in a directory that is there: give --output that directory, or a file of that name in it",
            spaces.join(", ")
        ))),
    }
}

/// SQLite would play another database's log into the restored one.
fn refuse_leftovers(database: &Path) -> Result {
    match sqlite_leftovers(database) {
        None => Ok(()),
        Some(log) => Err(Failure::Other(format!(
            "{} lies where SQLite would play it into what is restored: close whatever uses it, move it away, and restore again",
            log.display()
        ))),
    }
}

fn tell(session: &Session, report: &RestoreReport, output: &Path) -> Result {
    if session.global.json {
        let space =
            |s: &rewound::SpaceState| Space { name: s.name.clone(), bytes: s.length, page_size: s.page_size.get() };
        return json(&Restored {
            node: report.node.clone(),
            output: output.display().to_string(),
            lsn: report.lsn.get(),
            time: report.timestamp.to_string(),
            next_time: report.next.map(|t| t.to_string()),
            spaces: report.spaces.values().map(space).collect(),
            bytes_written: report.bytes_written,
            bytes_read: report.bytes_read,
            commits_replayed: report.commits_replayed,
            pages_proven: report.pages_proven,
            pages_unproven: report.pages_unproven,
            damaged: report.damaged.clone(),
            seconds: report.elapsed.as_secs_f64(),
        });
    }
    let mut out = words();
    let at = session.zone.show(report.timestamp);
    writeln!(out, "{GOOD}restored{GOOD:#} {} as of LSN {} of {at} to {}", report.node, report.lsn, output.display())?;
    let (written, proven) = (units::bytes(report.bytes_written), units::plural(report.pages_proven, "page"));
    writeln!(out, "{written} written, {proven} proven by CRC-32, in {}", units::duration(report.elapsed))?;
    if let Some(next) = report.next {
        writeln!(out, "the next commit, which is not contained, is of {}", session.zone.show(next))?;
    }
    for damage in &report.damaged {
        writeln!(
            out,
            "{NOTE}done without:{NOTE:#} {damage}; the state is exact all the same, but run `rewound verify`"
        )?;
    }
    Ok(())
}

/// Names of the spaces that a state has, in order of their numbers.
pub fn space_names(node: &Node, target: &Target) -> rewound::Result<Vec<String>> {
    Ok(node.spaces(target)?.into_values().map(|s| s.name).collect())
}
