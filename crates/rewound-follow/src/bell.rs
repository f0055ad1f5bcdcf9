//! A bell that ends a wait from another thread, beside what else the waiting thread listens to.
//!
//! A ring that is missed costs time, never a transaction: every wait ends by itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// No single wait is longer: who waits looks again.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Ends a wait from another thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bell {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    /// Whether somebody waits: else ringing costs no system call.
    listening: AtomicBool,
}

impl Bell {
    /// A bell of its own: an event descriptor of the system.
    pub(crate) fn new() -> io::Result<Bell> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { inner: Arc::new(Inner { fd, listening: AtomicBool::new(false) }) })
    }

    /// Ends the wait that is under way, if it [listens](Self::listen).
    pub(crate) fn ring(&self) {
        if self.inner.listening.load(Ordering::SeqCst) {
            self.force();
        }
    }

    /// Ends the wait that is under way, whichever it is, or else the next one.
    pub(crate) fn force(&self) {
        // It fails only where it was rung 2^64 times, and then the wait ends anyway.
        let _ = rustix::io::write(&self.inner.fd, &1u64.to_ne_bytes());
    }

    /// Waits for a ring that is forced, at most for so long.
    pub fn wait(&self, timeout: Duration) {
        self.poll(None, timeout);
    }

    /// Waits for any ring, or until `also` can be read, at most for so long.
    pub fn listen(&self, also: Option<BorrowedFd<'_>>, timeout: Duration) {
        self.inner.listening.store(true, Ordering::SeqCst);
        self.poll(also, timeout);
        self.inner.listening.store(false, Ordering::SeqCst);
    }

    fn poll(&self, also: Option<BorrowedFd<'_>>, timeout: Duration) {
        let timeout =
            Timespec::try_from(timeout.min(LONGEST)).expect("an hour fits into a timespec");
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::from_borrowed_fd(self.inner.fd.as_fd(), PollFlags::IN));
        fds.extend(also.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Interrupted by a signal or not: who waits looks again.
        let _ = poll(&mut fds, Some(&timeout));
        let mut count = [0; 8];
        // Nothing is there to be read where nobody rang.
        let _ = rustix::io::read(&self.inner.fd, &mut count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_forced_ring_ends_the_next_wait_once() {
        let bell = Bell::new().unwrap();
        bell.force();
        let begun = Instant::now();
        bell.wait(LONG);
        assert!(begun.elapsed() < LONG);
        let begun = Instant::now();
        bell.wait(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_ring_that_nobody_listens_to_ends_nothing() {
        let bell = Bell::new().unwrap();
        bell.ring();
        let begun = Instant::now();
        bell.listen(None, Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_ring_ends_a_wait_that_listens() {
        let bell = Bell::new().unwrap();
        let other = bell.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !other.inner.listening.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                other.ring();
            });
            let begun = Instant::now();
            bell.listen(None, LONG);
            assert!(begun.elapsed() < LONG);
        });
    }
}
