//! `init` and `key generate`.

use std::io::Write;
use std::path::Path;

use rewound::{Error, KeyFile, KeyProvider, Policy, Scope};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::keys;
use crate::moment::length;
use crate::output::{GOOD, json, words};
use crate::policy;
use crate::session::Session;

#[derive(Serialize)]
struct Created {
    archive: String,
    path: String,
    recipients: Vec<String>,
}

/// Creates an archive.
pub fn init(session: &Session, path: &Path, recovery: Option<&Path>, keep: Option<&str>) -> Result {
    let policy = keep.map(length).transpose()?.map(Policy::continuous);
    let recovery = recovery.map(KeyFile::open).transpose()?;
    let mut keys = keys::new(&session.global)?;
    if let Some(recovery) = recovery {
        keys = keys.with(recovery);
    }
    let recipients: Vec<String> = keys.recipients().map(|r| r.to_string()).collect();
    let archive = session.create(path, keys).map_err(|e| match e {
        Failure::Archive(Error::TargetNotEmpty { path, .. }) => Failure::Other(format!(
            "{} is not empty and no archive: choose an empty directory, or one that is not there yet",
            path.display()
        )),
        e => e,
    })?;
    if let Some(policy) = &policy {
        archive.administrator(session.actor.clone()).set_retention(Scope::Archive, policy)?;
    }
    if session.global.json {
        let (archive, path) = (archive.id().to_string(), path.display().to_string());
        return json(&Created { archive, path, recipients });
    }
    let mut out = words();
    writeln!(out, "{GOOD}created{GOOD:#} archive {} at {}", archive.id(), path.display())?;
    match &policy {
        Some(policy) => writeln!(out, "keeps {}", policy::words(policy))?,
        None => writeln!(
            out,
            "It keeps everything, for ever: `rewound retention set --keep 30d` changes that."
        )?,
    }
    writeln!(out, "next: rewound --archive {} watch DATABASE", path.display())?;
    if recipients.len() == 1 {
        writeln!(
            out,
            "Without its key nothing can be restored: keep a copy of it in another place."
        )?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Generated {
    key_file: String,
    recipient: String,
}

/// Makes a key.
pub fn generate(session: &Session, path: &Path) -> Result {
    let key = KeyFile::generate(path)?;
    let (key_file, recipient) = (path.display().to_string(), key.recipient().to_string());
    if session.global.json {
        return json(&Generated { key_file, recipient });
    }
    let mut out = words();
    writeln!(out, "{GOOD}wrote{GOOD:#} key {recipient} to {key_file}")?;
    writeln!(
        out,
        "Keep it secret, and keep a copy in another place: archives made with it open with nothing else."
    )?;
    Ok(())
}
