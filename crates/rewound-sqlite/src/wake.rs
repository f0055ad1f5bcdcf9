//! What an idle watcher waits for: the kernel's word that a file was written, another thread's, or
//! the time.
//!
//! Misses of the kernel's notifications cost time, never a transaction: every wait ends by itself.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rewound_follow::Bell;
use rustix::fs::inotify;

use super::files::Paths;
use super::link::SETTLED;
use super::options::WatchOptions;

/// After a notification without a transaction, which may be about to be committed, the log is
/// looked at again after so long, then after twice as long, ...
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// ... up to this, ...
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(5);
/// ... until nothing was written for so long.
const ALERT: Duration = Duration::from_secs(1);

/// The kernel's notifications for the files of one database.
#[derive(Debug)]
struct Notifier {
    inotify: OwnedFd,
}

impl Notifier {
    /// `None` where the kernel has none to give, as on some network file systems.
    fn new(paths: &Paths) -> Option<Notifier> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = || {
            let inotify = inotify::init(flags)?;
            // The log for commits, the database for checkpoints, which wait for the pin to move.
            inotify::add_watch(&inotify, &paths.wal, inotify::WatchFlags::MODIFY)?;
            inotify::add_watch(&inotify, &paths.database, inotify::WatchFlags::MODIFY)?;
            rustix::io::Result::Ok(Notifier { inotify })
        };
        watch()
            .map_err(|e| tracing::warn!(error = %e, "no file notifications: polling instead"))
            .ok()
    }

    /// Takes what has come in; tells whether anything has.
    fn drain(&self) -> bool {
        let mut any = false;
        let mut buf = [MaybeUninit::uninit(); 4096];
        while matches!(rustix::io::read(&self.inotify, &mut buf), Ok((read, _)) if !read.is_empty())
        {
            any = true;
        }
        any
    }
}

/// How a watcher waits that has nothing to do.
#[derive(Debug)]
pub(super) struct Rest {
    notifier: Option<Notifier>,
    /// Until when a transaction may be about to be committed.
    alert_until: Option<Instant>,
    look_again: Duration,
}

impl Rest {
    pub fn new(paths: &Paths, options: &WatchOptions) -> Rest {
        let notifier = options.notify.then(|| Notifier::new(paths)).flatten();
        Rest { notifier, alert_until: None, look_again: LOOK_AGAIN }
    }

    /// There was something to do: there may be more.
    pub fn worked(&mut self) {
        (self.alert_until, self.look_again) = (Some(Instant::now() + ALERT), LOOK_AGAIN);
    }

    /// Waits for something to do. `at_rest`: nothing is left to be done that only needs time.
    pub fn wait(&mut self, at_rest: bool, bell: &Bell, options: &WatchOptions) {
        let now = Instant::now();
        if self.notifier.as_ref().is_some_and(Notifier::drain) {
            self.alert_until = Some(now + ALERT);
        }
        let written = self.notifier.as_ref().map(|notifier| notifier.inotify.as_fd());
        if self.alert_until.is_some_and(|until| until > now) {
            // Something was written and is not committed yet, as far as one can see: a notification
            // comes before the commit. To wait for the next one would be too late, and to wake at
            // each too much.
            bell.listen(None, self.look_again);
            self.look_again = (self.look_again * 2).min(LOOK_AGAIN_MAX);
        } else if !at_rest {
            bell.listen(written, SETTLED);
        } else if written.is_some() {
            self.look_again = LOOK_AGAIN;
            bell.listen(written, options.poll_interval);
        } else {
            bell.listen(None, options.round_interval);
        }
    }
}
