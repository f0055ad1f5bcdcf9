//! `restore`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rewound::{Error, Node, RestoreReport, Target};
use rewound_sqlite::{self as sqlite, Alone, WatchOptions};
use serde::Serialize;

use crate::args::TargetArgs;
use crate::failure::{Failure, Result};
use crate::output::{GOOD, NOTE, json, message, words};
use crate::progress;
use crate::session::Session;
use crate::signals;
use crate::units;

/// Where a state goes.
#[derive(Debug)]
pub enum Place {
    /// A new file or directory.
    New(PathBuf),
    /// What is there, where only what differs is rewritten.
    Delta(PathBuf),
    /// A database, all or nothing.
    Replace(PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::New(path) | Place::Delta(path) | Place::Replace(path) => path,
        }
    }
}

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
    /// How to put the file in the place of the database, in a shell.
    put_in_place: Vec<String>,
    seconds: f64,
}

#[derive(Serialize)]
struct Space {
    name: String,
    bytes: u64,
    page_size: u32,
}

/// Restores.
pub fn restore(session: &Session, target: &TargetArgs, place: &Place, unaudited: bool) -> Result {
    let node = session.node()?;
    let target = session.target(target, &node)?;
    let spaces = space_names(&node, &target)?;
    let target = match place {
        Place::Replace(database) => {
            // What it names now, before more is archived.
            let at = Target::Lsn(node.resolve(&target)?.lsn);
            archive_first(session, &node, database)?;
            at
        }
        _ => target,
    };
    signals::restoring();
    let bar = progress::bar("restoring", session.global.quiet);
    let mut restore = node.restore(target).options(session.replay_options()).progress(|p| {
        bar.set_length(p.bytes_total);
        bar.set_position(p.bytes_done);
    });
    if unaudited {
        restore = restore.unaudited();
    }
    let report = match (place, spaces.as_slice()) {
        (Place::New(output), [only])
            if !output.is_dir() && !output.as_os_str().as_bytes().ends_with(b"/") =>
        {
            // What is there already is refused below.
            let _alone =
                output.symlink_metadata().is_err().then(|| Alone::hold(output)).transpose()?;
            restore
                .into_files(&BTreeMap::from([(only.clone(), output.clone())]))
                .map_err(Failure::from)
        }
        (Place::New(output), _) => restore.into_dir(output).map_err(Failure::from),
        (Place::Delta(output), _) => {
            let dir = delta_dir(&spaces, output)?;
            // To the end: the locks are the process's.
            let _alone = spaces
                .iter()
                .map(|name| Alone::hold(dir.join(name)))
                .collect::<sqlite::Result<Vec<_>>>()?;
            restore.delta_into_dir(dir).map_err(|e| match e {
                Error::Cancelled => Failure::Interrupted(
                    "interrupted: what was being rewritten is neither what it was nor the target; run the same restore again, which mends it".into(),
                ),
                e => e.into(),
            })
        }
        (Place::Replace(database), _) => sqlite::replace(restore, database).map_err(|e| match e {
            sqlite::Error::Archive(e) => e.into(),
            e => Failure::from(e),
        }),
    };
    bar.finish_and_clear();
    tell(session, &report?, place)
}

/// Archives what a database holds that is about to be replaced, where it is the node's own: nothing
/// else would bring that back.
fn archive_first(session: &Session, node: &Node, database: &Path) -> Result {
    let own = sqlite::database_of(node)
        .filter(|own| database.canonicalize().is_ok_and(|path| path == *own));
    let Some(own) = own else { return Ok(()) };
    match Alone::hold(&own) {
        Err(e @ (sqlite::Error::InUse { .. } | sqlite::Error::AlreadyWatched { .. })) => {
            return Err(e.into());
        }
        // A log beside it is what this is for; whatever else is wrong with it, is why it is
        // replaced.
        alone => drop(alone),
    }
    let mut options = WatchOptions::default();
    options.base.replay.cancel = session.cancel();
    match sqlite::backup(node, &own, options, |_| {}) {
        Ok(status) if !session.global.quiet => {
            message!("{GOOD}archived{GOOD:#} what it held up to LSN {}", status.archived);
        }
        Ok(_) => {}
        Err(sqlite::Error::Archive(Error::Cancelled)) => return Err(Error::Cancelled.into()),
        Err(e) => {
            message!(
                "{NOTE}not archived:{NOTE:#} what was committed since the last watcher or backup ended ({e})"
            );
        }
    }
    Ok(())
}

/// The directory that a delta restore rewrites: the one that is named, or the one that holds the
/// file that is.
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

fn tell(session: &Session, report: &RestoreReport, place: &Place) -> Result {
    let output = place.path();
    if session.global.json {
        let space = |s: &rewound::SpaceState| Space {
            name: s.name.clone(),
            bytes: s.length,
            page_size: s.page_size.get(),
        };
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
            put_in_place: put_in_place(report, place),
            seconds: report.elapsed.as_secs_f64(),
        });
    }
    let mut out = words();
    let at = session.zone.show(report.timestamp);
    writeln!(
        out,
        "{GOOD}restored{GOOD:#} {} as of LSN {} of {at} to {}",
        report.node,
        report.lsn,
        output.display()
    )?;
    let (written, proven) =
        (units::bytes(report.bytes_written), units::plural(report.pages_proven, "page"));
    writeln!(
        out,
        "{written} written, {proven} proven by CRC-32, in {}",
        units::duration(report.elapsed)
    )?;
    if let Some(next) = report.next {
        writeln!(
            out,
            "the next commit, which is not contained, is of {}",
            session.zone.show(next)
        )?;
    }
    for damage in &report.damaged {
        writeln!(
            out,
            "{NOTE}done without:{NOTE:#} {damage}; the state is exact all the same, but run `rewound verify`"
        )?;
    }
    let commands = put_in_place(report, place);
    if !commands.is_empty() {
        writeln!(
            out,
            "to put it in the place of the database, end the application and the watcher, run this, and start them again"
        )?;
        writeln!(
            out,
            "(`rewound restore --replace DB` does all of it, and refuses while anybody has the database open):"
        )?;
        commands.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    Ok(())
}

/// Lines for a shell that put a restored SQLite database in the place of the one that it is a state
/// of. SQLite would play the old one's log into it, so that goes first.
fn put_in_place(report: &RestoreReport, place: &Place) -> Vec<String> {
    let Place::New(output) = place else { return Vec::new() };
    let is_database = std::fs::File::open(output).is_ok_and(|file| {
        let mut first = [0; 16];
        (&file).read_exact(&mut first).is_ok() && &first == b"SQLite format 3\0"
    });
    let (true, Ok(file)) = (is_database, std::path::absolute(output)) else { return Vec::new() };
    let file = units::quoted(&file);
    // Named in a line of its own where nobody has put it on record.
    let (mut lines, database) = match sqlite::database_restored(report) {
        Some(path) => (Vec::new(), units::quoted(&path)),
        None => (vec!["DB=/path/to/app.db".to_owned()], "\"$DB\"".to_owned()),
    };
    // One chain: typed once more, when the restored file is the database already, it removes
    // nothing.
    lines.push(format!(
        "chown --reference={database} {file} && chmod --reference={database} {file} && rm -f {database}-wal {database}-shm {database}-journal && mv -f {file} {database}"
    ));
    lines
}

/// Names of the spaces that a state has, in order of their numbers.
pub fn space_names(node: &Node, target: &Target) -> rewound::Result<Vec<String>> {
    Ok(node.spaces(target)?.into_values().map(|s| s.name).collect())
}
