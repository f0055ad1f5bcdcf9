//! Where keys come from: a file, the environment, or somebody who types. Never from an argument.

use std::io::IsTerminal;

use rewound::crypto::Passphrase;
use rewound::{KeyFile, Keyring};

use crate::args::Global;
use crate::failure::{Failure, Result};
use crate::signals;

/// The key text itself, in the environment.
const KEY: &str = "REWOUND_KEY";

/// The key of an existing archive.
pub fn existing(global: &Global) -> Result<Keyring> {
    match given(global)? {
        Some(keys) => Ok(keys),
        None => Ok(Passphrase::new(ask("passphrase of the archive: ")?).into()),
    }
}

/// The key of a new archive: a passphrase is typed twice.
pub fn new(global: &Global) -> Result<Keyring> {
    if let Some(keys) = given(global)? {
        return Ok(keys);
    }
    let first =
        ask("new passphrase (12 characters or more; without it nothing can be restored): ")?;
    if first != ask("once more: ")? {
        return Err(Failure::NoKey("the two passphrases differ: nothing was created".into()));
    }
    Ok(Passphrase::new(first).into())
}

/// What was given beforehand.
fn given(global: &Global) -> Result<Option<Keyring>> {
    if global.passphrase {
        return Ok(None);
    }
    if let Some(path) = &global.key_file {
        return Ok(Some(KeyFile::open(path)?.into()));
    }
    match std::env::var(KEY) {
        Ok(text) => Ok(Some(KeyFile::from_text(&text)?.into())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::NoKey(format!("{KEY} is not text"))),
    }
}

fn ask(prompt: &str) -> Result<String> {
    // Without a terminal the prompt would wait for ever, or take a line that was meant for
    // something else.
    if !std::io::stderr().is_terminal() && !std::io::stdin().is_terminal() {
        return Err(Failure::NoKey(format!(
            "no key: give --key-file FILE, set REWOUND_KEY_FILE or {KEY}, or run in a terminal to type a passphrase"
        )));
    }
    signals::at_prompt(|| rpassword::prompt_password(prompt)).map_err(|e| match e.kind() {
        // The read may notice the signal before whoever handles it does.
        std::io::ErrorKind::Interrupted => {
            Failure::Interrupted("interrupted: nothing was done".into())
        }
        _ => Failure::NoKey(format!("reading the passphrase: {e}")),
    })
}
