//! Follows a live database into an archive of [`rewound`]: the state machine that adapters share.
//!
//! An adapter implements [`Source`]; a [`Follower`] runs it, on one thread of the host's choice.
//! Other threads reach the follower through its [`Handle`].
//!
//! ```text
//!            attach             open             begin
//!    Away ──────────► Attached ──────► Joined ──────────► Following ⟲ round
//!     ▲                   ▲               │                   │
//!     │                   └── archive ────┼───────────────────┤
//!     └────────── database ───────────────┴───────────────────┘  fails
//! ```
//!
//! While only the archive fails, the database stays attached, so that it keeps what is not archived
//! yet. While the database fails, neither is held. From every phase a stop leads to the end, where
//! nothing is held either: to `Away`, as the follower may be used again.
//!
//! The crate uses the public API of [`rewound`] alone. It writes nothing: a crash leaves what the
//! adapter's transitions leave.

mod backoff;
mod bell;
mod clock;
mod failure;
mod follower;
mod handle;
mod phase;
mod report;
mod source;
#[cfg(test)]
mod tests;

pub use bell::Bell;
pub use clock::{Clock, SystemClock};
pub use failure::{Failure, HANDING_OVER, Side, Stage};
pub use follower::{FollowOptions, Follower};
pub use handle::Handle;
pub use report::{Event, Report, State, Status};
pub use source::Source;
