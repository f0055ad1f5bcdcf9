//! `retention`: how long history is kept, and what is kept beyond that.

use std::io::Write;

use rewound::{Administrator, Archive, Hold, HoldScope, Policy, Position, Scope};
use serde::Serialize;

use crate::args::PolicyArgs;
use crate::failure::Result;
use crate::moment::length;
use crate::output::{BOLD, GOOD, json, stdout, words};
use crate::policy::{self, PolicyInfo};
use crate::session::Session;
use crate::units;

/// Policies, locks and holds.
pub struct Rules {
    pub policy: Option<Policy>,
    pub locks: Vec<String>,
    /// By node: the policy in force, and the locks, those of the archive included.
    pub nodes: Vec<(String, Option<Policy>, Vec<String>)>,
    pub holds: Vec<(String, Hold)>,
    /// The numbers that holds call nodes by.
    numbers: Vec<(u32, String)>,
}

impl Rules {
    pub fn of(archive: &Archive, admin: &Administrator) -> Result<Rules> {
        let names = archive.nodes()?;
        let mut nodes = Vec::new();
        let mut numbers = Vec::new();
        for name in names {
            let scope = Scope::Node(&name);
            let (policy, locks) = (admin.policy(scope)?, admin.locks(scope)?);
            numbers.push((archive.node(&name)?.id().get(), name.clone()));
            nodes.push((name, policy, locks));
        }
        let (policy, locks) = (admin.policy(Scope::Archive)?, admin.locks(Scope::Archive)?);
        Ok(Rules { policy, locks, nodes, holds: admin.holds()?, numbers })
    }

    fn name(&self, number: u32) -> String {
        let found = self.numbers.iter().find(|(n, _)| *n == number);
        found.map_or_else(|| format!("number {number}"), |(_, name)| name.clone())
    }

    /// What a hold is on.
    pub fn held(&self, hold: &Hold) -> String {
        match &hold.scope {
            HoldScope::Archive => "the archive".to_owned(),
            HoldScope::Node { node } => format!("node {}", self.name(node.get())),
            HoldScope::Commits { node, from, to, .. } => match to {
                Some(to) => format!("LSN {from} to {to} of node {}", self.name(node.get())),
                None => format!("LSN {from} and later of node {}", self.name(node.get())),
            },
            _ => "what a newer release knows".to_owned(),
        }
    }

    pub fn hold_lines(&self, session: &Session) -> Vec<String> {
        let line = |(name, hold): &(String, Hold)| {
            let until =
                hold.until.map(|t| format!(", until {}", session.zone.show(t))).unwrap_or_default();
            format!(
                "{BOLD}{name}{BOLD:#} on {}{until}: {}",
                self.held(hold),
                units::printable(&hold.reason)
            )
        };
        self.holds.iter().map(line).collect()
    }
}

/// Shows them.
pub fn show(session: &Session) -> Result {
    let archive = session.archive()?;
    let rules = Rules::of(&archive, &archive.administrator(session.actor.clone()))?;
    if session.global.json {
        return json(&RulesInfo::of(&rules));
    }
    let mut out = stdout();
    let said = |policy: &Option<Policy>| {
        policy.as_ref().map_or_else(|| policy::EVERYTHING.to_owned(), policy::words)
    };
    writeln!(out, "{BOLD}archive{BOLD:#}  keeps {}", said(&rules.policy))?;
    for (name, policy, locks) in &rules.nodes {
        writeln!(out, "{BOLD}node {name}{BOLD:#}  keeps {}", said(policy))?;
        for lock in locks.iter().filter(|lock| !rules.locks.contains(lock)) {
            writeln!(out, "  lock {BOLD}{lock}{BOLD:#}")?;
        }
    }
    for lock in &rules.locks {
        writeln!(out, "lock {BOLD}{lock}{BOLD:#} on the archive")?;
    }
    for hold in rules.hold_lines(session) {
        writeln!(out, "hold {hold}")?;
    }
    Ok(())
}

/// Sets how long history is kept.
pub fn set(session: &Session, args: &PolicyArgs) -> Result {
    let keep = length(&args.keep)?;
    let mut policy = match &args.every {
        None => Policy::continuous(keep),
        Some(every) => Policy::periodic(length(every)?, keep, args.count),
    };
    if let Some(time) = &args.log_for {
        policy = policy.log_for(length(time)?);
    }
    if let Some(time) = &args.points_for {
        policy = policy.restore_points_for(length(time)?);
    }
    policy = policy.grace(length(&args.grace)?);
    session.administrator()?.set_retention(session.scope(), &policy)?;
    if session.global.json {
        return json(&PolicyInfo::of(&policy));
    }
    let of = session
        .global
        .node
        .as_ref()
        .map_or("the archive".to_owned(), |name| format!("node {name}"));
    let mut out = words();
    writeln!(out, "{GOOD}set:{GOOD:#} {of} keeps {}", policy::words(&policy))?;
    writeln!(
        out,
        "What was promised before keeps its date. `rewound sweep`, or a watcher once a day, lets expire what is due; files are removed {} later.",
        units::span(policy.grace)
    )?;
    Ok(())
}

#[derive(Serialize)]
pub struct RulesInfo {
    policy: Option<PolicyInfo>,
    locks: Vec<String>,
    nodes: Vec<NodeRules>,
    holds: Vec<HoldInfo>,
}

#[derive(Serialize)]
struct NodeRules {
    name: String,
    policy: Option<PolicyInfo>,
    locks: Vec<String>,
}

#[derive(Serialize)]
pub struct HoldInfo {
    name: String,
    on: &'static str,
    node: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    until: Option<String>,
    reason: String,
}

impl HoldInfo {
    pub fn of(rules: &Rules, (name, hold): &(String, Hold)) -> HoldInfo {
        let (on, node, from, to) = match &hold.scope {
            HoldScope::Archive => ("archive", None, None, None),
            HoldScope::Node { node } => ("node", Some(node), None, None),
            HoldScope::Commits { node, from, to, .. } => {
                ("commits", Some(node), Some(from.get()), to.map(Position::get))
            }
            _ => ("unknown", None, None, None),
        };
        HoldInfo {
            name: name.clone(),
            on,
            node: node.map(|n| rules.name(n.get())),
            from,
            to,
            until: hold.until.map(|t| t.to_string()),
            reason: hold.reason.clone(),
        }
    }
}

impl RulesInfo {
    fn of(rules: &Rules) -> RulesInfo {
        let info = |policy: &Option<Policy>| policy.as_ref().map(PolicyInfo::of);
        let node = |(name, policy, locks): &(String, Option<Policy>, Vec<String>)| NodeRules {
            name: name.clone(),
            policy: info(policy),
            locks: locks.clone(),
        };
        RulesInfo {
            policy: info(&rules.policy),
            locks: rules.locks.clone(),
            nodes: rules.nodes.iter().map(node).collect(),
            holds: rules.holds.iter().map(|hold| HoldInfo::of(rules, hold)).collect(),
        }
    }
}
