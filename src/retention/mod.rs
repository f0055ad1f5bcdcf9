//! Retention: what of an archive's history is kept, and the only code that removes any of it.
//!
//! [`plan`] says what can go and why all else stays, a pure function of the catalog, the log's names and a time. [`sweep`] carries it out in two
//! steps: an entry of the catalog names the files and makes them invisible; after a grace period, and when no restore from before that entry runs any
//! more, they are removed, and another entry says so. [`clock`] decides whether the time can be believed.
//!
//! Invariants: every commit that a policy, hold, restore point or branch keeps can be restored at every moment, also while a sweep goes
//! on or has died anywhere; a file that the catalog did not give up is never removed; a snapshot on which history comes to stand was read back before.
//! A crash leaves files that are invisible and go in a later sweep, or nothing.

mod clock;
mod plan;
mod policy;
mod retained;
mod sweep;
mod usage;

pub(crate) use policy::{check as check_policy, in_force, promises};
pub(crate) use sweep::{check_clock, newest_archived, plan_node, sweep_node};
pub(crate) use usage::{catalog_bytes, usage};

pub use plan::{Blocked, ExpiryPlan, KeptSpan, RequiredSnapshot};
pub use retained::Reason;
pub use sweep::{NodeSweep, SweepOptions, SweepReport};
pub use usage::{NodeUsage, Usage};
