//! What is promised: the policies of a node, past ones included, and which policy may follow which.

use std::time::Duration;

use crate::catalog::{CatalogState, PolicyChange};
use crate::error::{Error, Result};
use crate::format::retention::{Mode, Policy};
use crate::types::{NodeId, Timestamp};

/// Shortest grace period, and shortest interval of periodic snapshots.
const SHORTEST: Duration = Duration::from_secs(60);

/// A policy and the history that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    pub policy: Policy,
    /// It covers what was archived up to this time; `None`: everything that comes, too.
    pub until: Option<Timestamp>,
}

impl Promise {
    /// Whether what was archived at this time was promised for so long, and the promise has not run
    /// out.
    fn keeps(&self, archived: Timestamp, time: Duration, now: Timestamp) -> bool {
        self.until.is_none_or(|until| archived <= until) && archived.saturating_add(time) > now
    }

    /// Whether a restore point of this time is kept for its own sake.
    pub fn keeps_restore_point(&self, archived: Timestamp, now: Timestamp) -> bool {
        self.keeps(archived, self.policy.restore_points_for, now)
    }
}

/// All policies that the node was ever under, oldest first; the last one is in force. Empty if
/// there is none.
///
/// A policy that replaces a longer one does not break its promise: what was archived before keeps
/// its date. What was archived before the first policy is treated as if it had been under a policy
/// of 35 days.
pub(crate) fn promises(state: &CatalogState, node: NodeId) -> Vec<Promise> {
    let own = state.nodes.get(&node).map_or(&[][..], |n| n.retention.policies.as_slice());
    let first_own = own.first().map_or(u64::MAX, |c| c.entry);
    let changes: Vec<&PolicyChange> =
        state.retention.policies.iter().filter(|c| c.entry < first_own).chain(own).collect();
    let Some(first) = changes.first() else { return Vec::new() };
    let unset = Promise { policy: Policy::continuous(Policy::UNSET), until: Some(first.covers) };
    let ends = changes.iter().skip(1).map(|c| Some(c.covers)).chain([None]);
    let set =
        changes.iter().zip(ends).map(|(c, until)| Promise { policy: c.policy.clone(), until });
    std::iter::once(unset).chain(set).collect()
}

/// The times of which every commit is kept: each from the last commit at or before the first time
/// to the last one at or before the second. `now` is the time of the node's own log. The last
/// window is that of the policy in force.
pub(crate) fn windows(promises: &[Promise], now: Timestamp) -> Vec<(Timestamp, Option<Timestamp>)> {
    let start = |p: &Promise| {
        let window = match p.policy.mode {
            Mode::Continuous { window } => window,
            Mode::Periodic { log_for, .. } => log_for,
        };
        let start = now.saturating_sub(window);
        // Otherwise the promise has run out for everything that it covers.
        p.until.is_none_or(|until| start <= until).then_some((start, p.until))
    };
    promises.iter().filter_map(start).collect()
}

/// The policy in force.
pub(crate) fn in_force(promises: &[Promise]) -> Option<&Policy> {
    promises.last().map(|p| &p.policy)
}

/// How far back a policy reaches.
fn reach(policy: &Policy) -> Duration {
    match policy.mode {
        Mode::Continuous { window } => window,
        Mode::Periodic { keep_for, .. } => keep_for,
    }
}

/// Refuses a policy that makes no sense, or that may not follow the one in force. Returns whether
/// it keeps less.
pub(crate) fn check(before: Option<&Policy>, policy: &Policy) -> Result<bool> {
    let refused = |reason| Err(Error::PolicyRefused { reason });
    if policy.grace < SHORTEST {
        return refused("its grace period is shorter than a minute");
    }
    if let Mode::Periodic { every, keep_count, .. } = policy.mode {
        if every < SHORTEST {
            return refused("its interval is shorter than a minute");
        }
        if keep_count == 0 {
            return refused("it keeps no snapshot: keep at least one");
        }
    }
    let Some(before) = before else { return Ok(false) };
    let shorter = match (&before.mode, &policy.mode) {
        (Mode::Continuous { .. }, Mode::Periodic { .. }) => {
            return refused("continuous protection does not go back to a periodic one");
        }
        (
            Mode::Periodic { keep_count: a, log_for: la, every: ea, .. },
            Mode::Periodic { keep_count: b, log_for: lb, every: eb, .. },
        ) => b < a || lb < la || eb > ea || reach(policy) < reach(before),
        _ => reach(policy) < reach(before),
    };
    Ok(shorter
        || policy.restore_points_for < before.restore_points_for
        || policy.grace < before.grace)
}
