//! Locks, threads, waiting and clocks: the one place that the library takes them from.
//!
//! Owns nothing but names. Nothing outside of it names `parking_lot`, `std::thread`, channels,
//! `Instant` or `SystemTime`, so that a model checker or a simulation can put its own in their
//! place by changing this file alone. `tests/it/architecture.rs` holds the library to that.
//!
//! Nothing here is on disk, so a crash leaves nothing.

use std::io;
use std::num::NonZeroUsize;

// No poisoning: a panic is reported where it happened, and what a lock guards says by itself
// whether it may be used on.
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
pub(crate) use std::sync::mpsc;
pub(crate) use std::thread::{JoinHandle, Scope, ScopedJoinHandle, scope, sleep, yield_now};
pub(crate) use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Starts a thread with a name that the system's tools show.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// How many threads can run at a time; one if the system does not tell.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Runs without the lock that a guard holds, and takes it again, whatever happens meanwhile.
pub(crate) fn unlocked<T, R>(guard: &mut MutexGuard<'_, T>, run: impl FnOnce() -> R) -> R {
    MutexGuard::unlocked(guard, run)
}
