//! `audit`: the trail, and what proves it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rewound::{Archive, Attestation, AuditEntry};
use serde::Serialize;

use crate::args::AuditArgs;
use crate::failure::{Failure, Result};
use crate::output::{BOLD, DIM, GOOD, json, stdout};
use crate::session::Session;
use crate::signals;
use crate::units;

/// So much of a file of attestations is read: hundreds of thousands of them.
const MAX_LINES: u64 = 64 << 20;

#[derive(Serialize)]
struct Proven {
    entries: u64,
}

#[derive(Serialize)]
struct Attested {
    archive: String,
    sequence: u64,
    attestation: String,
}

#[derive(Serialize)]
struct Continues {
    attested: u64,
    newest: u64,
}

/// Lists or proves the trail.
pub fn audit(session: &Session, args: &AuditArgs) -> Result {
    let archive = session.archive()?;
    if args.verify {
        return verify(session, &archive);
    }
    if args.attest {
        return attest(session, &archive);
    }
    if let Some(text) = &args.since {
        return since(session, &archive, text);
    }
    list(session, &archive, args)
}

fn list(session: &Session, archive: &Archive, args: &AuditArgs) -> Result {
    let newest = archive.audit_from(u64::MAX)?.newest();
    let count = if args.all { u64::MAX } else { args.count };
    let first = newest.saturating_sub(count).saturating_add(1);
    let (from, most) = if args.reverse { (1, count) } else { (first, u64::MAX) };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let entries = archive.audit_from(from)?.take(most);
    let cancel = session.cancel();
    let mut out = stdout();
    let mut names = Vec::new();
    for name in archive.nodes()? {
        names.push((archive.node(&name)?.id().get().to_string(), name));
    }
    let mut each = |entry: &AuditEntry| -> Result {
        if session.global.json {
            return Ok(writeln!(out, "{}", entry.to_json())?);
        }
        print(session, &mut out, entry, &names)
    };
    let checked = |entry: rewound::Result<AuditEntry>| -> Result<AuditEntry> {
        if cancel.is_cancelled() { Err(rewound::Error::Cancelled.into()) } else { Ok(entry?) }
    };
    if args.reverse {
        return entries.map(checked).try_for_each(|entry| each(&entry?));
    }
    // The chain is followed forwards.
    let entries = entries.map(checked).collect::<Result<Vec<_>>>()?;
    entries.iter().rev().try_for_each(each)
}

/// A line for people, with nodes by their names.
fn print(
    session: &Session,
    out: &mut impl Write,
    entry: &AuditEntry,
    names: &[(String, String)],
) -> Result {
    let time = session.zone.show(entry.time);
    write!(out, "{:>6}  {DIM}{time}{DIM:#}  {BOLD}{}{BOLD:#}", entry.sequence, entry.kind())?;
    for (name, value) in entry.details() {
        let known = names.iter().find(|(number, _)| name == "node" && *number == value);
        write!(out, "  {DIM}{name}{DIM:#} {}", known.map_or(&value, |(_, name)| name))?;
    }
    let (name, reason) =
        (units::printable(&entry.actor.name), units::printable(&entry.actor.reason));
    match (name.as_str(), reason.as_str()) {
        ("", "") => writeln!(out)?,
        (name, "") => writeln!(out, "  by {name}")?,
        (name, reason) => writeln!(out, "  by {name}: {reason}")?,
    }
    Ok(())
}

fn verify(session: &Session, archive: &Archive) -> Result {
    let entries = archive.verify_audit()?;
    if session.global.json {
        return json(&Proven { entries });
    }
    let count = if entries == 1 {
        "1 entry".to_owned()
    } else {
        format!("{} entries", units::thousands(entries))
    };
    writeln!(stdout(), "{GOOD}intact{GOOD:#} {count}, each chained to the one before")?;
    Ok(())
}

fn attest(session: &Session, archive: &Archive) -> Result {
    let attestation = archive.attestation()?;
    if session.global.json {
        let (archive, sequence) = (attestation.archive.to_string(), attestation.sequence);
        return json(&Attested { archive, sequence, attestation: attestation.to_string() });
    }
    writeln!(stdout(), "{attestation}")?;
    Ok(())
}

fn since(session: &Session, archive: &Archive, text: &str) -> Result {
    let text = if text.starts_with("rewound-head-") {
        text.to_owned()
    } else {
        // A pipe is waited for as somebody at the terminal is.
        let read = signals::at_prompt(|| {
            let mut read = String::new();
            File::open(Path::new(text))?.take(MAX_LINES).read_to_string(&mut read).map(|_| read)
        });
        // The newest line, where a file gathers one a day.
        let read =
            read.map_err(|e| Failure::Other(format!("reading the attestation from {text}: {e}")))?;
        read.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    };
    let attested: Attestation =
        text.parse().map_err(|e: rewound::Error| Failure::Usage(e.to_string()))?;
    archive.verify_since(&attested)?;
    let newest = archive.audit_from(u64::MAX)?.newest();
    if session.global.json {
        return json(&Continues { attested: attested.sequence, newest });
    }
    let since = newest.saturating_sub(attested.sequence);
    writeln!(
        stdout(),
        "{GOOD}continued{GOOD:#} since entry {}, with {since} more",
        attested.sequence
    )?;
    Ok(())
}
