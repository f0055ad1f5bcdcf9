//! Holds, locks, and deletion that can be undone.

use std::io::Write;

use rewound::{HoldTarget, Scope, Timestamp};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::moment::length;
use crate::output::{GOOD, NOTE, json, words};
use crate::session::Session;

#[derive(Serialize)]
struct Outcome {
    action: &'static str,
    name: Option<String>,
    node: Option<String>,
    until: Option<String>,
}

/// Says what was done.
fn tell(
    session: &Session,
    action: &'static str,
    name: Option<&str>,
    node: Option<&str>,
    until: Option<Timestamp>,
) -> Result {
    if session.global.json {
        let (name, node) = (name.map(str::to_owned), node.map(str::to_owned));
        return json(&Outcome { action, name, node, until: until.map(|t| t.to_string()) });
    }
    let mut out = words();
    write!(out, "{GOOD}{action}{GOOD:#}")?;
    if let Some(name) = name {
        write!(out, " {name}")?;
    }
    match node {
        Some(node) => writeln!(out, " on node {node}")?,
        None => writeln!(out, " on the archive")?,
    }
    Ok(())
}

/// Places a legal hold.
pub fn hold(
    session: &Session,
    name: &str,
    from: Option<&str>,
    to: Option<&str>,
    until: Option<&str>,
) -> Result {
    if session.global.reason.is_none() {
        return Err(Failure::Usage(
            "a hold is for a reason: give it with --reason, such as \"case 17/2026\"".into(),
        ));
    }
    let until = until.map(|text| session.zone.to_come(text)).transpose()?;
    let from = from.map(|text| session.moment(text)).transpose()?;
    let to = to.map(|text| session.moment(text)).transpose()?;
    let archive = session.archive()?;
    let admin = archive.administrator(session.actor.clone());
    let node = match (&from, session.scope()) {
        (Some(_), _) => Some(session.node_of(&archive)?.name().to_owned()),
        (None, Scope::Node(node)) => Some(node.to_owned()),
        (None, _) => None,
    };
    let on = match (node.as_deref(), from) {
        (Some(node), Some(from)) => HoldTarget::Commits { node, from, to },
        (Some(node), None) => HoldTarget::Node(node),
        (None, _) => HoldTarget::Archive,
    };
    admin.hold(name, &on, until)?;
    tell(session, "held", Some(name), node.as_deref(), until)
}

/// Releases one.
pub fn release(session: &Session, name: &str) -> Result {
    session.administrator()?.release_hold(name)?;
    if session.global.json {
        return tell(session, "released", Some(name), None, None);
    }
    writeln!(
        words(),
        "{GOOD}released{GOOD:#} {name}: what it alone kept expires with the next sweep"
    )?;
    Ok(())
}

/// Places a management lock.
pub fn lock(session: &Session, name: &str) -> Result {
    session.administrator()?.lock(session.scope(), name)?;
    tell(session, "locked", Some(name), session.global.node.as_deref(), None)
}

/// Releases one.
pub fn unlock(session: &Session, name: &str) -> Result {
    session.administrator()?.release_lock(session.scope(), name)?;
    tell(session, "unlocked", Some(name), session.global.node.as_deref(), None)
}

/// Deletes a node or the archive, softly.
pub fn delete(session: &Session, node: Option<&str>, grace: &str) -> Result {
    let grace = length(grace)?;
    let until = session.administrator()?.delete(scope(node), grace)?;
    if session.global.json {
        return tell(session, "deleted", None, node, Some(until));
    }
    let what = node.map_or("the archive".to_owned(), |name| format!("node {name}"));
    let undo = node.map_or(String::new(), |name| format!(" {name}"));
    let at = session.zone.show(until);
    let mut out = words();
    writeln!(
        out,
        "{NOTE}deleted{NOTE:#} {what}: nothing is archived any more, restores go on, and after {at} a sweep gives it up"
    )?;
    writeln!(out, "until then `rewound undelete{undo}` takes it back")?;
    Ok(())
}

/// Undoes a deletion.
pub fn undelete(session: &Session, node: Option<&str>) -> Result {
    session.administrator()?.undelete(scope(node))?;
    if session.global.json {
        return tell(session, "undeleted", None, node, None);
    }
    let what = node.map_or("the archive".to_owned(), |name| format!("node {name}"));
    writeln!(words(), "{GOOD}undeleted{GOOD:#} {what}: start its watcher again")?;
    Ok(())
}

fn scope(node: Option<&str>) -> Scope<'_> {
    node.map_or(Scope::Archive, Scope::Node)
}
