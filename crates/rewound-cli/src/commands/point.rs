//! `point`.

use std::io::Write;

use serde::Serialize;

use crate::args::TargetArgs;
use crate::failure::Result;
use crate::output::{GOOD, json, words};
use crate::session::Session;

#[derive(Serialize)]
struct Point {
    name: String,
    lsn: u64,
    time: String,
}

/// Names a commit.
pub fn point(session: &Session, name: &str, target: &TargetArgs) -> Result {
    let node = session.node()?;
    let target = session.target(target, &node)?;
    let at = node.add_restore_point(name, &target)?;
    if session.global.json {
        return json(&Point {
            name: name.to_owned(),
            lsn: at.lsn.get(),
            time: at.timestamp.to_string(),
        });
    }
    writeln!(words(), "{GOOD}named{GOOD:#} {name}: {}", session.describe(&at))?;
    Ok(())
}
