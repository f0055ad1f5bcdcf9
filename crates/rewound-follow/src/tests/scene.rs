//! A clock that moves only when somebody waits, and all that a test looks at.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fake::{Fake, Fault, Shared};
use crate::bell::Bell;
use crate::clock::Clock;
use crate::follower::{FollowOptions, Follower};
use crate::handle::Handle;
use crate::report::Event;

pub const ROUND: Duration = Duration::from_millis(5);
pub const CHECK: Duration = Duration::from_millis(250);
pub const RETRY_MAX: Duration = Duration::from_secs(5);

type Hook = Box<dyn FnMut(Duration) + Send>;

/// Moves on by as long as somebody waits.
pub struct FakeClock {
    begun: Instant,
    passed: Mutex<Duration>,
    pub waits: Mutex<Vec<Duration>>,
    /// Called after each wait, with what has passed.
    hook: Mutex<Option<Hook>>,
}

impl FakeClock {
    pub fn passed(&self) -> Duration {
        *self.passed.lock()
    }

    pub fn pass(&self, time: Duration) {
        *self.passed.lock() += time;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        self.begun + self.passed()
    }

    fn wait(&self, _: &Bell, timeout: Duration) {
        self.pass(timeout);
        self.waits.lock().push(timeout);
        let passed = self.passed();
        if let Some(hook) = self.hook.lock().as_mut() {
            hook(passed);
        }
    }
}

/// All that a test looks at.
pub struct Scene {
    pub world: Shared,
    pub clock: Arc<FakeClock>,
    pub events: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    pub fn new() -> Scene {
        let clock = Arc::new(FakeClock {
            begun: Instant::now(),
            passed: Mutex::default(),
            waits: Mutex::default(),
            hook: Mutex::default(),
        });
        Scene { world: Shared::default(), clock, events: Arc::default() }
    }

    fn build(&self) -> Follower<Fake> {
        let source = Fake { world: self.world.clone(), clock: Arc::clone(&self.clock) };
        let options =
            FollowOptions { round_interval: ROUND, check_interval: CHECK, retry_max: RETRY_MAX };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let mut follower = Follower::with_clock(source, options, clock).unwrap();
        let events = Arc::clone(&self.events);
        follower.on_event(move |event| events.lock().push(told(event)));
        self.world.with(|w| w.handle = Some(follower.handle()));
        follower
    }

    pub fn start(&self) -> Result<Follower<Fake>, Fault> {
        self.build().start()
    }

    /// Does something once so much time has passed.
    pub fn at(&self, when: Duration, what: impl FnOnce() + Send + 'static) {
        let mut what = Some(what);
        let mut then = self.clock.hook.lock().take();
        *self.clock.hook.lock() = Some(Box::new(move |passed| {
            if let Some(then) = &mut then {
                then(passed);
            }
            if passed >= when
                && let Some(what) = what.take()
            {
                what();
            }
        }));
    }

    /// Stops the follower once so much time has passed.
    pub fn stop_at(&self, when: Duration, handle: &Handle<u32>) {
        let handle = handle.clone();
        self.at(when, move || handle.stop());
    }

    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock())
    }

    pub fn waits(&self) -> Vec<u128> {
        std::mem::take(&mut *self.clock.waits.lock()).iter().map(Duration::as_millis).collect()
    }
}

fn told(event: &Event) -> String {
    match event {
        Event::Continued { position } => format!("continued {position}"),
        Event::ResyncStarted { reason } => format!("compares: {reason}"),
        Event::ResyncFinished { lsn, pages, elapsed } => {
            format!("compared {lsn} {pages} {elapsed:?}")
        }
        Event::Archived { lsn, commits, .. } => format!("archived {commits} to {lsn}"),
        Event::Retrying { failure, after } => format!("again in {after:?}: {failure}"),
        Event::Recovered => "recovered".into(),
        other => format!("{other:?}"),
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The handle is the follower's, and knows of this world.
        self.world.with(|w| w.handle = None);
    }
}
