//! `watch` and `backup`: protecting a SQLite database.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rewound::options::Cancel;
use rewound::{
    Administrator, Archive, CompactOptions, Error, Mode, Node, Origin, Scope, SweepOptions,
};
use rewound_sqlite::{self as sqlite, Attached, Event, Status, WatchOptions, Watcher};
use serde::Serialize;

use crate::args::DatabaseArgs;
use crate::failure::{Failure, Result};
use crate::moment::Zone;
use crate::output::{self, DIM, GOOD, NOTE, message};
use crate::policy;
use crate::session::Session;
use crate::units;

/// How soon an interruption is noticed.
const TICK: Duration = Duration::from_millis(50);
/// When a watcher first lets expire what is due, where layers are not looked after: with the first
/// look after those otherwise.
const FIRST_SWEEP: Duration = Duration::from_secs(60);
/// How often after that, at least.
const SWEEP: Duration = Duration::from_secs(86_400);

/// The pause before something is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a backup tries to begin, as long as it tries everything else.
const PATIENCE: Duration = Duration::from_secs(10);

/// Attaches to a database, then takes its node: made where it is not there yet, but only for what
/// can be watched. What waiting can mend, such as a locked database or a full archive, is tried
/// again for `patience`, as the watcher itself does.
fn attach(
    session: &Session,
    args: &DatabaseArgs,
    patience: Duration,
) -> Result<(Archive, Node, Watcher)> {
    let database = &args.database;
    // Before anybody is asked for a passphrase.
    if !database.is_file() {
        return Err(sqlite::Error::NoDatabase { path: database.clone() }.into());
    }
    let archive = session.archive()?;
    let name = match &session.global.node {
        Some(name) => name.clone(),
        None => own_name(database)?,
    };
    let mut options = WatchOptions::default();
    options.base.replay.cancel = session.cancel();
    options.enable_wal = args.enable_wal;
    options.adopt = args.adopt;
    let attached = try_again(session, patience, || Attached::open(database, options.clone()))?;
    let node = try_again(session, patience, || match archive.node(&name) {
        Err(Error::NoSuchNode { .. }) => Ok(archive.create_node(&name, Origin::Existing)?),
        found => Ok(found?),
    })?;
    let watcher = attached.watch(&node)?;
    Ok((archive, node, watcher))
}

/// Does something that waiting may help with, and tells why it waits. An interruption ends it with
/// the failure.
fn try_again<T>(
    session: &Session,
    patience: Duration,
    mut what: impl FnMut() -> sqlite::Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match what() {
            Err(e)
                if e.may_pass()
                    && begun.elapsed() < patience
                    && !session.cancel().is_cancelled() =>
            {
                let event = Event::Retrying { failure: e.to_string(), after: RETRY };
                tell(&event, &session.zone, session.global.quiet);
                pause(RETRY, &session.cancel());
            }
            done => return Ok(done?),
        }
    }
}

/// Waits; an interruption ends it early.
fn pause(time: Duration, cancel: &Cancel) {
    let begun = Instant::now();
    while begun.elapsed() < time && !cancel.is_cancelled() {
        std::thread::sleep(TICK);
    }
}

/// The name of a database's file, for its node.
fn own_name(database: &Path) -> Result<String> {
    let usable = sqlite::name_of(database);
    if database.file_name().and_then(|n| n.to_str()) == Some(&usable) {
        return Ok(usable);
    }
    Err(Failure::Usage(format!(
        "the name of {} cannot be that of a node: give one with --node, such as --node {usable:?}",
        database.display()
    )))
}

/// Follows a database until it is interrupted.
pub fn watch(session: &Session, args: &DatabaseArgs, maintain: u64, sweep: bool) -> Result {
    let (archive, node, mut watcher) = attach(session, args, Duration::MAX)?;
    let admin = archive.administrator(session.actor.clone());
    let handle = watcher.handle();
    let (zone, quiet) = (session.zone.clone(), session.global.quiet);
    watcher.on_event(move |event| tell(event, &zone, quiet));
    if !quiet {
        let kept = admin.policy(Scope::Node(node.name()))?;
        let kept = kept.as_ref().map_or_else(
            || format!("{}: `rewound retention set` changes that", policy::EVERYTHING),
            policy::words,
        );
        message!("{GOOD}watching{GOOD:#} {} as node {:?}", args.database.display(), node.name());
        message!("keeps {kept}");
    }
    let told = handle.clone();
    let (cancel, maintained) =
        (session.cancel(), (maintain > 0).then(|| Duration::from_secs(maintain)));
    let (stop, stopped) = mpsc::channel::<()>();
    let done = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut last = Instant::now();
            let mut next_sweep = sweep.then(|| Instant::now() + maintained.unwrap_or(FIRST_SWEEP));
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() {
                    handle.stop();
                    return;
                }
                if maintained.is_some_and(|every| last.elapsed() >= every) {
                    look_after(&node, &cancel, quiet);
                    last = Instant::now();
                }
                if next_sweep.is_some_and(|due| Instant::now() >= due) {
                    let_expire(&admin, &cancel);
                    next_sweep = Some(Instant::now() + between_sweeps(&admin, node.name()));
                }
            }
        });
        let done = watcher.run();
        drop(stop);
        done
    });
    let status = done.inspect_err(|_| tell_of_the_rest(&told.status())).map_err(interrupted)?;
    if !quiet {
        let commits = units::plural(status.commits, "transaction");
        message!("{GOOD}stopped{GOOD:#} at LSN {}: {commits} archived", status.archived);
    }
    Ok(())
}

/// Where a watcher ends in a failure: what is not in the archive.
fn tell_of_the_rest(status: &Status) {
    let rest = match status.pending_bytes {
        0 => "what was committed".to_owned(),
        n => format!("{} of the database's log, committed", units::bytes(n)),
    };
    message!(
        "{NOTE}not archived:{NOTE:#} {rest} after LSN {}; mend what is below and start it again soon: it goes on there, unless the log was checkpointed by then",
        status.archived
    );
}

/// In the midst of a first copy or a comparison; anything else ends where it is.
fn interrupted(e: sqlite::Error) -> Failure {
    match e {
        sqlite::Error::Archive(Error::Cancelled) => Failure::Interrupted(
            "interrupted before the archive had caught up: it does so with the next start".into(),
        ),
        e => e.into(),
    }
}

/// Builds the layers and snapshots that are due, with one thread, so that the application keeps the
/// machine.
fn look_after(node: &Node, cancel: &Cancel, quiet: bool) {
    let mut options = CompactOptions::default();
    options.replay.threads = 1;
    options.replay.cancel = cancel.clone();
    match node.maintain(&options) {
        Ok(_) | Err(Error::Cancelled | Error::MaintenanceActive { .. }) => {}
        // Restores become slower, not wrong.
        Err(e) if !quiet => message!("{NOTE}layers are not up to date:{NOTE:#} {e}"),
        Err(_) => {}
    }
}

/// How long until the next sweep: a day, or where snapshots are taken more often than that, as
/// often as they are due.
fn between_sweeps(admin: &Administrator, node: &str) -> Duration {
    // What keeps a policy from being read keeps the sweep from its work, and that tells it.
    match admin.policy(Scope::Node(node)).ok().flatten().map(|policy| policy.mode) {
        Some(Mode::Periodic { every, .. }) => every.min(SWEEP),
        _ => SWEEP,
    }
}

/// Lets expire what is due. Without a policy that is nothing, but the catalog learns that the clock
/// has moved on.
fn let_expire(admin: &Administrator, cancel: &Cancel) {
    let mut options = SweepOptions::default();
    options.compact.replay.threads = 1;
    options.compact.replay.cancel = cancel.clone();
    let failed = match admin.sweep(&options) {
        Ok(done) => {
            done.failed.into_iter().map(|(node, e)| (format!("of node {node} "), e)).collect()
        }
        Err(e) => vec![(String::new(), e)],
    };
    for (node, e) in failed {
        match e {
            // Somebody else sees to it.
            Error::Cancelled | Error::MaintenanceActive { .. } => {}
            Error::ClockImplausible { .. } => message!(
                "{NOTE}nothing expires:{NOTE:#} {}; `rewound sweep --confirm-clock`, once the clock was looked at",
                Failure::from(e)
            ),
            // The archive grows, and is no worse for it.
            e => message!("{NOTE}nothing {node}expires:{NOTE:#} {}", Failure::from(e)),
        }
    }
}

#[derive(Serialize)]
struct BackedUp {
    node: String,
    lsn: u64,
    commits: u64,
    pages: u64,
    resyncs: u64,
}

/// Brings the archive up to now, once.
pub fn backup(session: &Session, args: &DatabaseArgs) -> Result {
    let (_, node, mut watcher) = attach(session, args, PATIENCE)?;
    let (zone, quiet) = (session.zone.clone(), session.global.quiet || session.global.json);
    watcher.on_event(move |event| tell_backup(event, &zone, quiet));
    let status = watcher.backup().map_err(interrupted)?;
    let done = BackedUp {
        node: node.name().to_owned(),
        lsn: status.archived.get(),
        commits: status.commits,
        pages: status.pages,
        resyncs: status.resyncs,
    };
    if session.global.json {
        return output::json(&done);
    }
    if !quiet {
        let commits = units::plural(done.commits, "commit");
        message!(
            "{GOOD}archived{GOOD:#} {} up to LSN {}: {commits}",
            args.database.display(),
            done.lsn
        );
    }
    Ok(())
}

/// The same of a single backup, which has to compare where the database's log has started over
/// since the last one: that is its way, and no warning.
fn tell_backup(event: &Event, zone: &Zone, quiet: bool) {
    if let Event::ResyncStarted { reason } = event {
        if !quiet {
            message!("{DIM}{}{DIM:#} compares all pages: {reason}", zone.now());
        }
    } else {
        tell(event, zone, quiet);
    }
}

/// A line on standard error for what the operator may want to know.
fn tell(event: &Event, zone: &Zone, quiet: bool) {
    let warning = matches!(
        event,
        Event::ResyncStarted { .. }
            | Event::ResyncFinished { .. }
            | Event::Retrying { .. }
            | Event::Warning(_)
    );
    if quiet && !warning {
        return;
    }
    let now = zone.now();
    let text = match event {
        Event::CopyStarted { bytes } => format!("first copy: {}", units::bytes(*bytes)),
        Event::CopyFinished { lsn, elapsed } => {
            format!(
                "first copy complete: LSN {lsn} and all that follow can be restored ({})",
                units::duration(*elapsed)
            )
        }
        Event::Continued { position } => format!("continues after LSN {position}"),
        Event::ResyncStarted { reason } => {
            format!(
                "{NOTE}resynchronises:{NOTE:#} {reason}; single transactions from before this moment may be missing"
            )
        }
        Event::ResyncFinished { lsn, pages, elapsed } => {
            let pages = units::plural(*pages, "page");
            format!(
                "{NOTE}resynchronised{NOTE:#} in LSN {lsn}: {pages} differed ({})",
                units::duration(*elapsed)
            )
        }
        Event::Retrying { failure, after } => {
            format!("{NOTE}tries again{NOTE:#} in {}: {failure}", units::duration(*after))
        }
        Event::Recovered => "works again".to_owned(),
        Event::Warning(text) => format!("{NOTE}warning:{NOTE:#} {text}"),
        // One line a commit is what `log` is for.
        _ => return,
    };
    message!("{DIM}{now}{DIM:#} {text}");
}
