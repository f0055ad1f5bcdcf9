//! `diff`.

use std::io::Write;

use rewound::Diff;
use serde::Serialize;

use super::shapes::At;
use crate::failure::Result;
use crate::output::{BOLD, json, stdout};
use crate::session::Session;
use crate::units;

/// Ranges shown to people; JSON has them all.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct Differences {
    from: At,
    to: At,
    spaces: Vec<Space>,
}

#[derive(Serialize)]
struct Space {
    name: String,
    page_size: u32,
    length_from: Option<u64>,
    length_to: Option<u64>,
    pages_differing: u64,
    ranges: Vec<(u64, u64)>,
}

/// Shows which pages differ.
pub fn diff(session: &Session, from: &str, to: &str) -> Result {
    let (from, to) = (session.moment(from)?, session.moment(to)?);
    let node = session.node()?;
    let found = node.diff(&from, &to, &session.replay_options())?;
    if session.global.json {
        let at = |r: &rewound::Resolved| At::new(r.lsn, r.timestamp);
        let spaces = found.spaces.values().map(|s| Space {
            name: s.name.clone(),
            page_size: s.page_size.get(),
            length_from: s.length_from,
            length_to: s.length_to,
            pages_differing: s.count(),
            ranges: s.pages.clone(),
        });
        return json(&Differences {
            from: at(&found.from),
            to: at(&found.to),
            spaces: spaces.collect(),
        });
    }
    print(session, &found)
}

fn print(session: &Session, found: &Diff) -> Result {
    let mut out = stdout();
    writeln!(out, "from {}", session.describe(&found.from))?;
    writeln!(out, "to   {}", session.describe(&found.to))?;
    if found.spaces.is_empty() {
        writeln!(out, "no difference")?;
    }
    for space in found.spaces.values() {
        let length = match (space.length_from, space.length_to) {
            (Some(a), Some(b)) if a == b => units::bytes(a),
            (Some(a), Some(b)) => format!("{} before, {} after", units::bytes(a), units::bytes(b)),
            (None, Some(b)) => format!("created, {}", units::bytes(b)),
            (Some(a), None) => format!("dropped, {}", units::bytes(a)),
            (None, None) => String::new(),
        };
        let pages = units::plural(space.count(), "page");
        let verb = if space.count() == 1 { "differs" } else { "differ" };
        writeln!(
            out,
            "{BOLD}{}{BOLD:#} ({length}): {pages} of {} {verb}",
            space.name, space.page_size
        )?;
        for (first, last) in space.pages.iter().take(SHOWN) {
            if first == last {
                writeln!(out, "  page  {first}")?;
            } else {
                writeln!(out, "  pages {first} to {last}")?;
            }
        }
        if space.pages.len() > SHOWN {
            writeln!(out, "  and {} more ranges; --json lists all", space.pages.len() - SHOWN)?;
        }
    }
    Ok(())
}
