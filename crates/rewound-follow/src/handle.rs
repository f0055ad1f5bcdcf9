//! How other threads reach a follower: to stop it, to wake it, to wait for it, to see its status.
//!
//! Invariant: a request is answered only by a round that began after it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rewound::Position;

use crate::bell::Bell;
use crate::clock::Clock;
use crate::report::Status;

/// Reaches a follower from other threads, signal handlers' threads included. Cheap to clone.
pub struct Handle<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    stop: AtomicBool,
    bell: Bell,
    clock: Arc<dyn Clock>,
    status: Mutex<(Status<D>, Option<Instant>)>,
    requests: Mutex<Requests>,
    answered: Condvar,
}

/// Who waits for the archive to have everything.
#[derive(Debug, Default)]
struct Requests {
    asked: u64,
    /// The newest one that a round began after, ...
    answered: u64,
    /// ... and what the archive had after it.
    archived: Position,
    closed: bool,
}

impl<D> Clone for Handle<D> {
    fn clone(&self) -> Handle<D> {
        Handle { shared: Arc::clone(&self.shared) }
    }
}

impl<D> std::fmt::Debug for Handle<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stopping = self.shared.stop.load(Ordering::SeqCst);
        f.debug_struct("Handle").field("stopping", &stopping).finish_non_exhaustive()
    }
}

impl<D: Clone> Handle<D> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> io::Result<Handle<D>>
    where
        D: Default,
    {
        let shared = Shared {
            stop: AtomicBool::new(false),
            bell: Bell::new()?,
            clock,
            status: Mutex::default(),
            requests: Mutex::default(),
            answered: Condvar::new(),
        };
        Ok(Handle { shared: Arc::new(shared) })
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.shared.bell
    }

    /// `behind_since`: from when on the archive has been behind the database.
    pub(crate) fn publish(&self, status: &Status<D>, behind_since: Option<Instant>) {
        *self.shared.status.lock() = (status.clone(), behind_since);
    }

    /// The newest request of [`catch_up`](Handle::catch_up): whoever asks from now on is answered
    /// by the next round.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.requests.lock().asked
    }

    /// A round that began after `asked` is complete.
    pub(crate) fn answer(&self, asked: u64, archived: Position) {
        let mut requests = self.shared.requests.lock();
        (requests.answered, requests.archived) = (asked, archived);
        drop(requests);
        self.shared.answered.notify_all();
    }

    pub(crate) fn closed(&self) {
        self.shared.requests.lock().closed = true;
        self.shared.answered.notify_all();
    }

    /// Waits until every transaction that was committed before this call is in the archive,
    /// durably, and returns the archive's newest commit then. `None` where that takes longer than
    /// `timeout`, as while the archive's disk is full, or where the follower has been closed.
    ///
    /// Needs the follower to be running on another thread.
    pub fn catch_up(&self, timeout: Duration) -> Option<Position> {
        let until = Instant::now().checked_add(timeout);
        let mut requests = self.shared.requests.lock();
        requests.asked += 1;
        let mine = requests.asked;
        self.shared.bell.force();
        while requests.answered < mine {
            let late = match until {
                _ if requests.closed => return None,
                Some(until) => self.shared.answered.wait_until(&mut requests, until).timed_out(),
                // No clock gets there.
                None => {
                    self.shared.answered.wait(&mut requests);
                    false
                }
            };
            if late {
                return None;
            }
        }
        Some(requests.archived)
    }

    /// Asks the follower to archive what there is and return.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.bell.force();
    }

    /// Whether it was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Makes the follower look at once, without waiting for the database to tell. Costs next to
    /// nothing while it is at work anyway.
    pub fn wake(&self) {
        self.shared.bell.ring();
    }

    /// What the follower knows about itself.
    pub fn status(&self) -> Status<D> {
        let (mut status, behind_since) = self.shared.status.lock().clone();
        let now = self.shared.clock.now();
        status.lag =
            behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        status
    }
}
