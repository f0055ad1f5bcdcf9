//! `bisect`: the commit at which the answer of a query changes.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rewound::options::Cancel;
use rewound::{Error, Lsn, Node, Target};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::restore::space_names;
use super::shapes::At;
use crate::failure::{Failure, Result};
use crate::output::{BOLD, DIM, json, stdout};
use crate::scratch::Scratch;
use crate::session::Session;
use crate::units;

/// How soon an interruption is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Longest answer that is kept, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// Longest answer that is shown, in characters.
const SHOWN: usize = 200;

/// What a query gives: rows as text, or why it cannot be answered (a table that is not there yet is
/// an answer too).
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Rows(String),
    Error(String),
}

impl Answer {
    fn shown(&self) -> String {
        match self {
            Answer::Rows(rows) if rows.is_empty() => "no rows".to_owned(),
            Answer::Rows(rows) => {
                let line = units::printable(&rows.replace('\n', " ⏎ "));
                if line.chars().count() > SHOWN {
                    line.chars().take(SHOWN).chain(['…']).collect()
                } else {
                    line
                }
            }
            Answer::Error(e) => format!("({e})"),
        }
    }
}

#[derive(Serialize)]
struct Bisected {
    changed: Option<At>,
    before: String,
    after: String,
    probes: Vec<ProbeLine>,
}

#[derive(Serialize)]
struct ProbeLine {
    lsn: u64,
    answer: String,
}

/// Bisects.
pub fn bisect(
    session: &Session,
    sql: &str,
    from: Option<&str>,
    to: &str,
    unaudited: bool,
) -> Result {
    let from = from.map(|text| session.moment(text)).transpose()?;
    let to = session.moment(to)?;
    let node = session.node()?;
    let from = match from {
        Some(target) => node.resolve(&target)?.lsn,
        None => node.window()?.earliest.lsn,
    };
    let to = node.resolve(&to)?.lsn;
    let together = node.restorable_ranges()?.iter().any(|s| s.from.lsn <= from && to <= s.to.lsn);
    if from <= to && !together {
        return Err(Failure::Usage(format!(
            "commits between LSN {from} and LSN {to} have expired: `rewound info` shows the stretches that are kept"
        )));
    }
    if from > to {
        return Err(Failure::Usage(format!(
            "--from is LSN {from}, which comes after --to, LSN {to}"
        )));
    }
    let dir = Scratch::new()?;
    let bar =
        indicatif::ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::stderr());
    // One look at the past, one word in the audit trail.
    let mut audited = unaudited;
    let found = node.bisect(from, to, |lsn| {
        if !session.global.quiet {
            bar.set_message(format!("LSN {lsn}"));
            bar.tick();
        }
        ask(session, &node, lsn, dir.path(), sql, std::mem::replace(&mut audited, true))
    });
    bar.finish_and_clear();
    let found = found?;
    if let (Answer::Error(e), None) = (&found.before, found.changed) {
        return Err(Failure::Usage(format!("the query cannot be answered at either end: {e}")));
    }
    let at = found.changed.map(|lsn| node.resolve(&Target::Lsn(lsn))).transpose()?;
    if session.global.json {
        return json(&Bisected {
            changed: at.map(|at| At::new(at.lsn, at.timestamp)),
            before: found.before.shown(),
            after: found.after.shown(),
            probes: found
                .probes
                .iter()
                .map(|p| ProbeLine { lsn: p.lsn.get(), answer: p.answer.shown() })
                .collect(),
        });
    }
    let mut out = stdout();
    for probe in &found.probes {
        writeln!(out, "{DIM}{:>10}{DIM:#}  {}", probe.lsn, probe.answer.shown())?;
    }
    let probes = units::plural(found.probes.len() as u64, "state");
    match at {
        None => writeln!(out, "the same at LSN {from} and LSN {to}: {}", found.before.shown())?,
        Some(at) => {
            writeln!(
                out,
                "{BOLD}changed by {}{BOLD:#}, found among {} commits in {probes}",
                session.describe(&at),
                to.get() - from.get() + 1
            )?;
            writeln!(out, "  before  {}", found.before.shown())?;
            writeln!(out, "  after   {}", found.after.shown())?;
            writeln!(
                out,
                "to go back to before it: rewound restore --lsn {} --output FILE",
                at.lsn.get() - 1
            )?;
        }
    }
    Ok(())
}

/// Brings the temporary directory to a commit, by what differs from the last one, and asks the
/// query there.
fn ask(
    session: &Session,
    node: &Node,
    lsn: Lsn,
    dir: &Path,
    sql: &str,
    unaudited: bool,
) -> rewound::Result<Answer> {
    let target = Target::Lsn(lsn);
    let spaces = space_names(node, &target)?;
    let [database] = spaces.as_slice() else {
        return Err(Error::host(format!(
            "node {:?} is not one SQLite database: a query cannot be asked",
            node.name()
        )));
    };
    let restore = node.restore(target).options(session.replay_options());
    if unaudited { restore.unaudited() } else { restore }.delta_into_dir(dir)?;
    let cancel = session.cancel();
    let answer = open(&dir.join(database))
        .and_then(|connection| until(&cancel, &connection, || answer(&connection, sql)));
    // An answer that was cut short is none.
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    Ok(answer.unwrap_or_else(|e| Answer::Error(e.to_string())))
}

fn open(database: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The temporary copy has to stay what it is, as the next one is made from it.
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Runs a query, and ends it early when the switch is thrown.
fn until<T>(cancel: &Cancel, connection: &Connection, query: impl FnOnce() -> T) -> T {
    let interrupt = connection.get_interrupt_handle();
    let (done, running) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while running.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                // Again and again: an interruption counts for the statement that runs at that
                // moment.
                if cancel.is_cancelled() {
                    interrupt.interrupt();
                }
            }
        });
        let answer = query();
        drop(done);
        answer
    })
}

fn answer(connection: &Connection, sql: &str) -> rusqlite::Result<Answer> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut text = String::new();
    while let Some(row) = rows.next()? {
        if !text.is_empty() {
            text.push('\n');
        }
        for column in 0..columns {
            if column > 0 {
                text.push('|');
            }
            match row.get_ref(column)? {
                ValueRef::Null => text.push_str("NULL"),
                ValueRef::Integer(i) => text.push_str(&i.to_string()),
                ValueRef::Real(r) => text.push_str(&r.to_string()),
                ValueRef::Text(t) => text.push_str(&String::from_utf8_lossy(t)),
                ValueRef::Blob(b) => text.push_str(&units::hex(b)),
            }
        }
        if text.len() > MAX_ANSWER {
            return Ok(Answer::Error(
                "the answer is longer than 1 MiB: ask for less, such as a count or a sum".into(),
            ));
        }
    }
    Ok(Answer::Rows(text))
}
