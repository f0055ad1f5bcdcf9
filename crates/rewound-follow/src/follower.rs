//! The follower: runs a source, tries again, stops.
//!
//! Each side can fail on its own. While the archive does, the database stays attached, so that it
//! keeps its log; when the database does, both begin again. The rules are in
//! [`phase`](crate::phase).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rewound::env::Owner;

use crate::backoff::{Backoff, FIRST};
use crate::clock::{Clock, SystemClock};
use crate::failure::{Failure, Side, Stage};
use crate::handle::Handle;
use crate::phase::{Desk, Failed, Phase};
use crate::report::{Event, Report, State, Status};
use crate::source::Source;

/// How long a single backup tries again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a follower goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowOptions {
    /// Transactions gather for so long before they are archived together.
    pub round_interval: Duration,
    /// How often it is looked whether the files of both sides still are what they were.
    pub check_interval: Duration,
    /// The longest pause after a failure but for the first, which is 100 ms.
    pub retry_max: Duration,
}

/// Follows a database on one thread of the host's choice; others reach it through its [`Handle`].
///
/// Dropping it is closing it, but for the error.
pub struct Follower<S: Source> {
    owner: Owner,
    source: S,
    options: FollowOptions,
    clock: Arc<dyn Clock>,
    handle: Handle<S::Details>,
    report: Report<S::Details>,
    /// [`Phase::Away`] also while a transition is under way: one that panics leaves nothing held.
    phase: Phase<S>,
}

/// A round that is complete.
struct Round {
    commits: u64,
    /// The newest request that it began after.
    asked: u64,
}

impl<S: Source> std::fmt::Debug for Follower<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = &self.report.status;
        f.debug_struct("Follower")
            .field("state", &status.state)
            .field("archived", &status.archived)
            .finish_non_exhaustive()
    }
}

impl<S: Source> Drop for Follower<S> {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            // A forked child has none of the source's locks and threads, and its parent has.
            self.take().forget();
        } else if self.report.status.state != State::Stopped {
            // Who wants to know closes it.
            let _ = self.finish();
        }
    }
}

impl<S: Source> Follower<S> {
    /// A follower of a database that is not attached to yet. Fails where the system has no
    /// descriptor to give.
    pub fn new(source: S, options: FollowOptions) -> io::Result<Follower<S>> {
        Follower::build(source, Phase::Away(S::Away::default()), options, Arc::new(SystemClock))
    }

    /// A follower of a database that is attached to already.
    pub fn attached(source: S, link: S::Link, options: FollowOptions) -> io::Result<Follower<S>> {
        Follower::build(source, Phase::Attached(link), options, Arc::new(SystemClock))
    }

    /// The same with another clock.
    pub fn with_clock(
        source: S,
        options: FollowOptions,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Follower<S>> {
        Follower::build(source, Phase::Away(S::Away::default()), options, clock)
    }

    fn build(
        source: S,
        phase: Phase<S>,
        options: FollowOptions,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Follower<S>> {
        let handle = Handle::new(Arc::clone(&clock))?;
        let report = Report::new(handle.clone(), Arc::clone(&clock));
        Ok(Follower { owner: Owner::here(), source, options, clock, handle, report, phase })
    }

    /// Takes both sides for the first time. What waiting can mend is no error here, as it is none
    /// of [`run`](Self::run): the status is [`State::Retrying`] then, and the next round tries
    /// again.
    pub fn start(mut self) -> Result<Follower<S>, S::Error> {
        let begun = self.clock.now();
        while let Err(e) = self.join() {
            let patience = e.patience(Stage::Starting);
            if self.elapsed(begun) >= patience {
                return Err(e);
            } else if patience == Duration::MAX {
                self.failed(&e);
                break;
            }
            self.pause(FIRST);
        }
        self.publish();
        Ok(self)
    }

    /// For other threads: status, stop, wake.
    pub fn handle(&self) -> Handle<S::Details> {
        self.handle.clone()
    }

    /// What it follows.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// What it says about itself, for who makes it.
    pub fn report(&mut self) -> &mut Report<S::Details> {
        &mut self.report
    }

    /// Gives events to `callback`, on the follower's own thread: it must not block.
    pub fn on_event(&mut self, callback: impl FnMut(&Event) + Send + 'static) {
        self.report.on_event(Box::new(callback));
    }

    /// Follows the database until [`Handle::stop`] is called, then archives what there is and
    /// closes. Failures are tried again for as long as that can help; an error is what waiting does
    /// not mend.
    pub fn run(&mut self) -> Result<Status<S::Details>, S::Error> {
        let mut failing: Option<Backoff> = None;
        while !self.handle.is_stopping() {
            self.check_process()?;
            let begun = self.clock.now();
            match self.round() {
                Ok(round) => {
                    if failing.take().is_some() {
                        self.report.event(&Event::Recovered);
                    }
                    self.succeeded(&round);
                    self.rest(begun, round.commits > 0);
                }
                Err(e) => {
                    self.failed(&e);
                    let backoff = failing.get_or_insert_with(|| Backoff::new(begun));
                    if self.clock.now().saturating_duration_since(backoff.since)
                        >= e.patience(Stage::Running)
                    {
                        // What this adds to the failure is not worth hiding it.
                        let _ = self.finish();
                        return Err(e);
                    }
                    let after = backoff.pause(self.options.retry_max);
                    self.report.event(&Event::Retrying { failure: e.to_string(), after });
                    self.publish();
                    self.sleep(after);
                }
            }
        }
        self.check_process()?;
        // What is committed by now, once more to where it is meant to go.
        self.phase.look_next();
        if let Err(e) = self.round() {
            self.failed(&e);
            self.finish().and(Err(e))
        } else {
            self.finish()
        }
    }

    /// One round: archives every transaction committed by now, durably, and returns their number. A
    /// failure is returned; the next call tries again.
    pub fn poll_once(&mut self) -> Result<u64, S::Error> {
        self.check_process()?;
        match self.round() {
            Ok(round) => {
                self.succeeded(&round);
                Ok(round.commits)
            }
            Err(e) => {
                self.failed(&e);
                self.publish();
                Err(e)
            }
        }
    }

    /// Brings the archive up to now and closes. What waiting can mend is tried again for 10 s.
    pub fn backup(mut self) -> Result<Status<S::Details>, S::Error> {
        let mut backoff = Backoff::new(self.clock.now());
        while let Err(e) = self.poll_once() {
            if self.elapsed(backoff.since) >= e.patience(Stage::Starting).min(PATIENCE) {
                return Err(e);
            }
            let after = backoff.pause(Duration::MAX);
            self.report.event(&Event::Retrying { failure: e.to_string(), after });
            self.pause(after);
        }
        if let Phase::Following { link, archive, .. } = &mut self.phase {
            self.source.settle(link, archive, &mut self.report)?;
        }
        self.finish()
    }

    /// Ends: everything archived is durable, the node's writer is free, the database is let go.
    pub fn close(mut self) -> Result<Status<S::Details>, S::Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Status<S::Details>, S::Error> {
        self.check_process()?;
        let phase = self.take();
        let mut desk = Desk { source: &mut self.source, report: &mut self.report };
        let (away, ended) = phase.end(&mut desk);
        self.phase = Phase::Away(away);
        self.report.status.state = State::Stopped;
        self.report.publish();
        self.handle.closed();
        ended.map(|()| self.report.status.clone())
    }

    /// Refuses to go on in a process that was forked from the one that opened it.
    fn check_process(&self) -> Result<(), S::Error> {
        Ok(self.owner.check(S::NAME)?)
    }

    fn take(&mut self) -> Phase<S> {
        std::mem::replace(&mut self.phase, Phase::Away(S::Away::default()))
    }

    fn join(&mut self) -> Result<(), S::Error> {
        let phase = self.take();
        let step = phase.join(&mut Desk { source: &mut self.source, report: &mut self.report });
        self.reach(step.map(|phase| (phase, ())))
    }

    fn round(&mut self) -> Result<Round, S::Error> {
        let (asked, now) = (self.handle.asked(), self.clock.now());
        let phase = self.take();
        let mut desk = Desk { source: &mut self.source, report: &mut self.report };
        let step = phase.round(&mut desk, now, self.options.check_interval);
        let commits = self.reach(step)?;
        Ok(Round { commits, asked })
    }

    /// Takes the phase that a transition leads to, whether it succeeded or not.
    fn reach<T>(&mut self, step: Result<(Phase<S>, T), Failed<S>>) -> Result<T, S::Error> {
        let (phase, done) = match step {
            Ok((phase, found)) => (phase, Ok(found)),
            Err(Failed { phase, error }) => (phase, Err(error)),
        };
        self.phase = phase;
        done
    }

    /// A round is complete: tells everybody, and then whoever waits for it.
    fn succeeded(&mut self, round: &Round) {
        self.report.status.failure = None;
        self.publish();
        self.handle.answer(round.asked, self.report.status.archived);
    }

    /// Notes a failure, and how far the archive falls behind meanwhile.
    fn failed(&mut self, e: &S::Error) {
        self.report.failed(e.to_string());
        if let (Side::Source, Phase::Away(away)) = (e.side(), &mut self.phase) {
            self.source.doubt(away, e);
        }
        if self.phase.link_mut().is_none_or(|link| self.source.is_behind(link)) {
            self.report.fall_behind();
        }
    }

    /// Waits for something to do.
    fn rest(&mut self, begun: Instant, worked: bool) {
        if worked {
            // Transactions gather; nothing but a stop ends this.
            self.sleep(self.options.round_interval.saturating_sub(self.elapsed(begun)));
        } else if let Some(link) = self.phase.link_mut() {
            self.source.wait(link, self.handle.bell());
        }
    }

    /// Sleeps; only [`Handle::stop`] ends it early.
    fn sleep(&self, time: Duration) {
        self.wait_out(time, || self.handle.is_stopping());
    }

    /// Sleeps; nothing ends it early.
    fn pause(&self, time: Duration) {
        self.wait_out(time, || false);
    }

    /// Waits until `time` is over, or until `is_enough` says so, which is asked before each wait.
    fn wait_out(&self, time: Duration, is_enough: impl Fn() -> bool) {
        let begun = self.clock.now();
        // A wait may end early, as the bell rings for others too.
        while let Some(left) = time.checked_sub(self.elapsed(begun)).filter(|left| !left.is_zero())
            && !is_enough()
        {
            self.clock.wait(self.handle.bell(), left);
        }
    }

    fn elapsed(&self, begun: Instant) -> Duration {
        self.clock.now().saturating_duration_since(begun)
    }

    fn publish(&mut self) {
        if let Some(link) = self.phase.link_mut() {
            self.source.measure(link, &mut self.report);
        }
        self.report.publish();
    }
}
