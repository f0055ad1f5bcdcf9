//! What a watcher waits for: the kernel's word that a file was written, another thread's, or the time.
//!
//! Misses of the kernel's notifications cost time, never a transaction: every wait ends by itself.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;

use super::error::{Error, Result};
use super::files::Paths;

/// Ends a wait from another thread.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    inner: Arc<BellInner>,
}

#[derive(Debug)]
struct BellInner {
    fd: OwnedFd,
    /// Whether somebody waits: else ringing costs no system call.
    listening: AtomicBool,
}

impl Bell {
    pub fn new() -> Result<Bell> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::io("make", "an event descriptor", e))?;
        Ok(Bell { inner: Arc::new(BellInner { fd, listening: AtomicBool::new(false) }) })
    }

    /// Ends the wait that is under way, if it listens.
    pub fn ring(&self) {
        if self.inner.listening.load(Ordering::SeqCst) {
            self.force();
        }
    }

    /// Ends the wait that is under way, or else the next one.
    pub fn force(&self) {
        // It fails only where it was rung 2^64 times.
        let _ = rustix::io::write(&self.inner.fd, &1u64.to_ne_bytes());
    }
}

/// The kernel's notifications for the files of one database.
#[derive(Debug)]
pub(super) struct Notifier {
    inotify: OwnedFd,
}

impl Notifier {
    /// `None` where the kernel has none to give, as on some network file systems.
    pub fn new(paths: &Paths) -> Option<Notifier> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = || {
            let inotify = inotify::init(flags)?;
            // The log for commits, the database for checkpoints, which wait for the pin to move.
            inotify::add_watch(&inotify, &paths.wal, inotify::WatchFlags::MODIFY)?;
            inotify::add_watch(&inotify, &paths.database, inotify::WatchFlags::MODIFY)?;
            rustix::io::Result::Ok(Notifier { inotify })
        };
        watch().map_err(|e| tracing::warn!(error = %e, "no file notifications: polling instead")).ok()
    }

    /// Takes what has come in; tells whether anything has.
    pub fn drain(&self) -> bool {
        let mut any = false;
        let mut buf = [MaybeUninit::uninit(); 4096];
        while matches!(rustix::io::read(&self.inotify, &mut buf), Ok((read, _)) if !read.is_empty()) {
            any = true;
        }
        any
    }
}

/// Waits, at most for so long. Without a notifier only the bell and the time end it; `listen`: rings that are not forced count too.
pub(super) fn wait(bell: &Bell, notifier: Option<&Notifier>, listen: bool, timeout: Duration) {
    let Ok(timeout) = Timespec::try_from(timeout) else { return };
    bell.inner.listening.store(listen, Ordering::SeqCst);
    let mut fds = Vec::with_capacity(2);
    fds.push(PollFd::from_borrowed_fd(bell.inner.fd.as_fd(), PollFlags::IN));
    fds.extend(notifier.map(|n| PollFd::from_borrowed_fd(n.inotify.as_fd(), PollFlags::IN)));
    // Interrupted by a signal or not: who waits looks again anyway.
    let _ = poll(&mut fds, Some(&timeout));
    bell.inner.listening.store(false, Ordering::SeqCst);
    let mut count = [0; 8];
    let _ = rustix::io::read(&bell.inner.fd, &mut count);
}
