//! `verify`.

use std::io::Write;

use rewound::storage::FsStorage;
use rewound::{Error, VerifyOptions, VerifyProgress, VerifyReport, VerifyStage, verify_checksums};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::output::{BAD, GOOD, json, stdout};
use crate::progress;
use crate::session::Session;
use crate::units;

#[derive(Serialize)]
struct Verified {
    intact: bool,
    with_key: bool,
    files: u64,
    bytes: u64,
    catalog_entries: u64,
    segments: u64,
    commits: u64,
    layers: u64,
    parts: u64,
    layer_pages: u64,
    states: u64,
    pages_proven: u64,
    pages_unproven: u64,
    torn_tails: u64,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    kind: String,
    path: Option<String>,
    offset: Option<u64>,
    message: String,
}

/// Proves the archive, or one node of it.
pub fn verify(session: &Session, without_key: bool, no_rebuild: bool) -> Result {
    let bar = progress::bar("files", session.global.quiet);
    let mut shown = VerifyStage::Files;
    let mut show = |p: VerifyProgress| {
        if p.stage != shown {
            shown = p.stage;
            bar.set_message(if shown == VerifyStage::States { "states" } else { "files" });
        }
        bar.set_length(p.bytes_total);
        bar.set_position(p.bytes_done);
    };
    let report = if without_key {
        verify_checksums(&FsStorage::new(session.path()?), &session.cancel(), &mut show)
    } else {
        let archive = session.archive()?;
        let mut options = VerifyOptions::default();
        options.rebuild = !no_rebuild;
        options.replay = session.replay_options();
        match &session.global.node {
            None => archive.verify(&options, &mut show),
            Some(name) => archive.verify_catalog(&options, &mut show).and_then(|mut report| {
                report.merge(archive.node(name)?.verify(&options, &mut show)?);
                Ok(report)
            }),
        }
    };
    bar.finish_and_clear();
    let report = report?;
    let told = tell(session, &report, !without_key);
    // Whoever has read enough of the list is told by the exit code all the same.
    if report.is_intact() { told } else { Err(Failure::Damage(report.findings.len())) }
}

fn finding(e: &Error) -> Finding {
    let (kind, path, offset) = match e {
        Error::Damaged(d) => (d.kind.to_string(), Some(d.path.clone()), Some(d.offset)),
        Error::Gap { .. } => ("gap".to_owned(), None, None),
        Error::Storage { path, .. } => ("unreadable".to_owned(), Some(path.clone()), None),
        Error::FormatTooNew { path, .. } => ("too new".to_owned(), Some(path.clone()), None),
        _ => ("other".to_owned(), None, None),
    };
    Finding { kind, path, offset, message: e.to_string() }
}

fn tell(session: &Session, r: &VerifyReport, with_key: bool) -> Result {
    if session.global.json {
        return json(&Verified {
            intact: r.is_intact(),
            with_key,
            files: r.files,
            bytes: r.bytes,
            catalog_entries: r.catalog_entries,
            segments: r.segments,
            commits: r.commits,
            layers: r.layers,
            parts: r.parts,
            layer_pages: r.layer_pages,
            states: r.states,
            pages_proven: r.pages_proven,
            pages_unproven: r.pages_unproven,
            torn_tails: r.torn_tails,
            findings: r.findings.iter().map(finding).collect(),
        });
    }
    let mut out = stdout();
    for e in &r.findings {
        writeln!(out, "{BAD}damage{BAD:#} {e}")?;
    }
    let n = units::thousands;
    writeln!(out, "files     {} read, {}", n(r.files), units::bytes(r.bytes))?;
    writeln!(
        out,
        "catalog   {}",
        units::plural(r.catalog_entries, "entry").replace("entrys", "entries")
    )?;
    if with_key {
        let (segments, commits) =
            (units::plural(r.segments, "segment"), units::plural(r.commits, "commit"));
        writeln!(out, "log       {segments}, {commits}, each linked to the one before")?;
        let (layers, parts) = (units::plural(r.layers, "layer"), units::plural(r.parts, "part"));
        writeln!(
            out,
            "layers    {layers} in {parts}, {} compared with their CRC-32",
            units::plural(r.layer_pages, "page")
        )?;
        if r.states > 0 {
            let proven = units::plural(r.pages_proven, "page");
            writeln!(
                out,
                "states    {} rebuilt, {proven} proven to be what was archived",
                n(r.states)
            )?;
        }
    } else {
        let (layers, parts) = (units::plural(r.layers, "layer"), units::plural(r.parts, "part"));
        writeln!(out, "log       {}", units::plural(r.segments, "segment"))?;
        writeln!(out, "layers    {layers}, {parts}")?;
        writeln!(out, "Checksums only: missing files and tampering show with the key.")?;
    }
    if r.is_intact() {
        writeln!(out, "{GOOD}intact{GOOD:#}")?;
    }
    Ok(())
}
