//! What the catalog says of retention: policies, locks, holds, what expired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::format::retention::{Deletion, HoldScope, Policy, Span};
use crate::types::{Position, TimelineId, Timestamp};

/// A policy, and since when it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PolicyChange {
    /// The entry that set it.
    #[n(0)]
    pub entry: u64,
    /// What was archived up to this time keeps its earlier promise.
    #[n(1)]
    pub covers: Timestamp,
    /// The policy.
    #[n(2)]
    pub policy: Policy,
}

/// A legal hold.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub struct Hold {
    /// What it keeps.
    #[n(0)]
    pub scope: HoldScope,
    /// When it ends by itself.
    #[n(1)]
    pub until: Option<Timestamp>,
    /// Why, in the words of whoever placed it.
    #[n(2)]
    pub reason: String,
}

impl Hold {
    /// Whether it has not ended.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// How far a clock may step, and how far a log may be ahead of it, before it is no longer believed.
/// Three days: sweeps are run daily, and a machine may be off over a weekend. A clock that is wrong
/// by less costs at most that much of the window.
pub(crate) const CLOCK_BOUND: Duration = Duration::from_secs(3 * 86_400);

/// A time that moves only in small steps, unless an operator confirms a large one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ClockMark {
    /// The newest time that is believed.
    #[n(0)]
    pub clock: Timestamp,
    /// The newest time in any log that an operator has confirmed.
    #[n(1)]
    pub archived: Timestamp,
}

impl ClockMark {
    /// Whether a time is near enough to be believed.
    pub(crate) fn is_near(self, time: Timestamp) -> bool {
        time <= self.clock.saturating_add(CLOCK_BOUND)
            && time >= self.clock.saturating_sub(CLOCK_BOUND)
    }
}

/// Files that are given up and still exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Expiring {
    /// The time from which they can be removed.
    #[n(0)]
    pub due: Timestamp,
}

/// What the catalog says of retention, except for single nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ArchiveRetention {
    /// Policies, oldest first.
    #[n(0)]
    pub policies: Vec<PolicyChange>,
    /// Management locks.
    #[n(1)]
    pub locks: BTreeSet<String>,
    /// Legal holds by name, whatever they cover.
    #[n(2)]
    pub holds: BTreeMap<String, Hold>,
    /// The clock.
    #[n(3)]
    pub clock: ClockMark,
    /// Whether it is deleted.
    #[n(4)]
    pub deletion: Deletion,
}

/// What the catalog says of the retention of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NodeRetention {
    /// Policies of its own, oldest first.
    #[n(0)]
    pub policies: Vec<PolicyChange>,
    /// Management locks.
    #[n(1)]
    pub locks: BTreeSet<String>,
    /// What is left of each timeline of which something has expired.
    #[n(2)]
    pub kept: BTreeMap<TimelineId, Vec<Span>>,
    /// Expiries whose files still exist, by entry.
    #[n(3)]
    pub expiring: BTreeMap<u64, Expiring>,
    /// Whether it is deleted.
    #[n(4)]
    pub deletion: Deletion,
}

impl NodeRetention {
    /// What can be restored of a timeline; `None` if nothing of it has expired.
    pub fn kept(&self, timeline: TimelineId) -> Option<&[Span]> {
        self.kept.get(&timeline).map(Vec::as_slice)
    }

    /// Whether nothing of the log from a position on has expired.
    pub fn keeps_log_from(&self, timeline: TimelineId, position: Position) -> bool {
        self.kept(timeline)
            .is_none_or(|spans| spans.iter().any(|s| s.to.is_none() && s.base <= position))
    }
}
