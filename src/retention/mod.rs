//! Retention: which history an archive keeps, and the only code that removes any of it.
//!
//! [`plan`] says what expires and why all else stays. It is a pure function of the catalog, the
//! log's names and a time. [`sweep`] carries a plan out in two steps: an entry of the catalog names
//! the files and makes them invisible. Later they are removed, and another entry records that:
//! after a grace period, and once no restore from before the first entry is running. [`clock`]
//! decides whether the time can be believed.
//!
//! Invariants: every commit that a policy, hold, restore point or branch keeps can be restored at
//! every moment, also while a sweep runs or after it died anywhere. A file that the catalog did not
//! give up is never removed. A snapshot that becomes the base of history was read back before. A
//! crash leaves files that are invisible and removed by a later sweep, or nothing.

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
