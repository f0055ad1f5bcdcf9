//! Group commit: many threads, one log.
//!
//! A commit gets its LSN and time under the log's lock, in the order in which it joins what is
//! pending. One of the waiting threads then writes and syncs for all (the leader),
//! while the next ones gather. Nothing but the leader touches the segment.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::batch::{Batch, Ops};
use super::pages::PageTable;
use crate::catalog::{Catalog, CatalogState};
use crate::delta::Encoder;
use crate::env::{self, Clock, Owner};
use crate::error::{Error, Result};
use crate::format::event::{Actor, Event};
use crate::format::frame::FrameKind;
use crate::format::record::put_commit;
use crate::format::segment::{PreviousSegment, SegmentPreface};
use crate::format::state::{Effect, NodeState, StateError};
use crate::names::{Scope, writer_lock};
use crate::options::WriterOptions;
use crate::sealed::ArchiveKeys;
use crate::storage::{LockGuard, Storage, check_name, check_place};
use crate::sync::{self, Condvar, Instant, Mutex, MutexGuard, RwLock};
use crate::types::{Commit, Durability, Epoch, NodeId, PageSize, Position, SpaceId, TimelineId, Timestamp};
use crate::wal::{ActiveSegment, SegmentStart};

/// How long a leader waits at most for those to join whom it expects; see [`Shared::gather`].
const GATHER: Duration = Duration::from_micros(200);

/// How often a writer looks at least whether the node is still its own, while it takes commits in that it does not write yet.
const LOOK: Duration = Duration::from_millis(100);

/// Encoders kept for the next batch.
const MAX_ENCODERS: usize = 16;

/// What it is called where it is refused.
pub(super) const WRITER: &str = "the writer";

/// What batches and threads of one writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub owner: Owner,
    pub storage: Arc<dyn Storage>,
    pub keys: Arc<ArchiveKeys>,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<dyn Clock>,
    pub actor: Actor,
    pub node: NodeId,
    pub name: String,
    pub timeline: TimelineId,
    pub epoch: Epoch,
    /// Prefix of its temporary files.
    pub scope: Scope,
    pub options: WriterOptions,
    pub table: PageTable,
    pub spaces: RwLock<HashMap<SpaceId, PageSize>>,
    next_space: AtomicU32,
    /// The newest entry of the catalog by which the node was this writer's.
    entries: AtomicU64,
    tenancy: Mutex<Arc<Tenancy>>,
    encoders: Mutex<Vec<Encoder>>,
    log: Mutex<LogState>,
    wake: Condvar,
    /// Held until the writer is closed.
    pub lock: Mutex<Option<Box<dyn LockGuard>>>,
    /// One base copy at a time.
    pub base_copy: Mutex<()>,
}

/// Under which rules a batch was begun; counted while batches hold it.
#[derive(Debug)]
pub(crate) struct Tenancy {
    /// Whether it may log patches: not while a base snapshot is about to begin.
    pub patches: bool,
}

#[derive(Debug)]
struct LogState {
    /// The state after every commit that has an LSN.
    state: NodeState,
    pending: Pending,
    /// `None` while a leader works with it.
    io: Option<Io>,
    durable: Position,
    failed: Option<Error>,
    closed: bool,
    /// Names given by commits that are pending, so that none is given twice.
    naming: BTreeSet<String>,
    /// When it was last looked whether the node is still this writer's.
    looked: Instant,
    pace: Pace,
}

/// How synced commits come in, so that a group is not begun when most of it is just about to arrive.
#[derive(Debug, Default)]
struct Pace {
    /// Groups written so far.
    groups: u64,
    /// Threads that may be about to commit: those of the last group, and those that came while it was written.
    expected: usize,
    /// How long the last group took.
    took: Duration,
    /// Whether somebody waits for the others to join.
    gathering: bool,
    /// How often in a row that ended without all of them.
    missed: u32,
}

impl Pace {
    /// How long to wait for the others: half of what a group takes where they come, as a rule; an eighth where they do not, but for every eighth time.
    fn patience(&self) -> Duration {
        let hopeful = self.missed < 2 || self.missed.is_multiple_of(8);
        (self.took / if hopeful { 2 } else { 8 }).min(GATHER)
    }
}

/// Commits that have an LSN and are not written.
#[derive(Debug, Default)]
struct Pending {
    frames: Vec<PendingFrame>,
    bytes: usize,
    /// Commits among them whose threads wait for the sync.
    waiting: usize,
    restore_points: Vec<NamedCommit>,
}

#[derive(Debug)]
struct PendingFrame {
    kind: FrameKind,
    first: Position,
    last: Position,
    before: Timestamp,
    text: Vec<u8>,
}

#[derive(Debug)]
struct NamedCommit {
    name: String,
    position: Position,
    timestamp: Timestamp,
}

/// What a leader does beside writing what is pending.
#[derive(Debug)]
struct Lead<'a> {
    /// Whether it syncs.
    sync: bool,
    /// Whether it ends the segment.
    seal: bool,
    /// A commit of several pieces, after what is pending.
    large: Option<LargeCommit<'a>>,
}

#[derive(Debug)]
struct LargeCommit<'a> {
    ops: &'a mut Ops,
    position: Position,
    before: Timestamp,
    timestamp: Timestamp,
}

/// What only the leader touches.
#[derive(Debug)]
struct Io {
    segment: Option<ActiveSegment>,
    /// The state that the next segment continues from; current where there is no segment.
    base: NodeState,
    next_sequence: u64,
    /// The segment before the next one, and its link.
    previous: Option<(PreviousSegment, [u8; 32])>,
    /// The newest commit that was handed to storage.
    written: Position,
    /// Whether the current segment holds a commit.
    used: bool,
}

/// Where a writer takes up the log.
#[derive(Debug)]
pub(crate) struct Continuation {
    pub state: NodeState,
    pub next_sequence: u64,
    pub previous: Option<(PreviousSegment, [u8; 32])>,
}

/// A batch ready to commit, beside its ops.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub timestamp: Option<Timestamp>,
    pub durability: Durability,
    pub effects: Vec<Effect>,
    pub restore_points: BTreeSet<String>,
}

/// What a writer is made of.
#[derive(Debug)]
pub(crate) struct SharedParts {
    pub storage: Arc<dyn Storage>,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<dyn Clock>,
    pub actor: Actor,
    pub node: NodeId,
    pub name: String,
    pub timeline: TimelineId,
    pub epoch: Epoch,
    pub options: WriterOptions,
    pub lock: Box<dyn LockGuard>,
}

impl Shared {
    pub fn new(parts: SharedParts, scope: Scope, at: Continuation) -> Shared {
        let options = parts.options;
        let spaces = at.state.spaces.iter().map(|(id, s)| (*id, s.page_size)).collect();
        Shared {
            owner: Owner::here(),
            entries: AtomicU64::new(0),
            keys: Arc::clone(parts.catalog.keys()),
            storage: parts.storage,
            catalog: parts.catalog,
            clock: parts.clock,
            actor: parts.actor,
            node: parts.node,
            name: parts.name,
            timeline: parts.timeline,
            epoch: parts.epoch,
            scope,
            table: PageTable::new(options.page_table, options.image_cache),
            options,
            spaces: RwLock::new(spaces),
            next_space: AtomicU32::new(at.state.next_space),
            tenancy: Mutex::new(Arc::new(Tenancy { patches: true })),
            encoders: Mutex::default(),
            log: Mutex::new(LogState {
                durable: at.state.position,
                io: Some(Io {
                    segment: None,
                    base: at.state.clone(),
                    next_sequence: at.next_sequence,
                    previous: at.previous,
                    written: at.state.position,
                    used: false,
                }),
                state: at.state,
                pending: Pending::default(),
                failed: None,
                closed: false,
                naming: BTreeSet::new(),
                looked: Instant::now(),
                pace: Pace::default(),
            }),
            wake: Condvar::new(),
            lock: Mutex::new(Some(parts.lock)),
            base_copy: Mutex::default(),
        }
    }

    pub fn reserve_space(&self) -> Result<SpaceId> {
        let id = self.next_space.fetch_add(1, Ordering::Relaxed);
        if id == u32::MAX {
            let limit = u64::from(u32::MAX) - 1;
            return Err(Error::LimitExceeded { what: "spaces ever created", limit, found: u64::from(id) });
        }
        Ok(SpaceId::new(id))
    }

    pub fn take_encoder(&self) -> Result<Encoder> {
        let kept = self.encoders.lock().pop();
        kept.map_or_else(|| Encoder::new().map_err(Error::from), Ok)
    }

    pub fn return_encoder(&self, encoder: Encoder) {
        let mut kept = self.encoders.lock();
        if kept.len() < MAX_ENCODERS {
            kept.push(encoder);
        }
    }

    /// The rules for a batch that begins now.
    pub fn tenancy(&self) -> Arc<Tenancy> {
        Arc::clone(&self.tenancy.lock())
    }

    /// Changes the rules for batches that begin from now on; gives the old ones.
    pub fn change_tenancy(&self, patches: bool) -> Arc<Tenancy> {
        std::mem::replace(&mut self.tenancy.lock(), Arc::new(Tenancy { patches }))
    }

    /// Something of the state that a host can ask for without an error; in a forked child, whose copy of the lock may be held for ever, nothing is known.
    pub fn known<T: Default>(&self, f: impl FnOnce(&NodeState) -> T) -> T {
        if self.owner.is_here() { self.at_standstill(f) } else { T::default() }
    }

    /// The newest commit that has an LSN.
    pub fn newest(&self) -> Position {
        self.known(|state| state.position)
    }

    /// The newest durable commit.
    pub fn durable(&self) -> Position {
        if self.owner.is_here() { self.log.lock().durable } else { Position::ORIGIN }
    }

    /// Runs with the log standing still at a position. What it does must be short and take no lock of the host's.
    pub fn at_standstill<T>(&self, f: impl FnOnce(&NodeState) -> T) -> T {
        f(&self.log.lock().state)
    }

    /// Commits a batch.
    pub fn commit(&self, ops: &mut Ops, assembled: Assembled, mut batch: Batch) -> Result<Commit> {
        self.owner.check(WRITER)?;
        let mut log = self.log.lock();
        // Room first, so that memory stays bounded whatever the durability; and for a large commit the
        // leader's seat, as it writes its pieces itself.
        let large = ops.single().is_none();
        loop {
            Self::accepting(&log)?;
            if log.pending.bytes >= self.options.pending_bytes {
                self.lead_or_wait(&mut log, false)?;
            } else if large && log.io.is_none() {
                self.wake.wait(&mut log);
            } else {
                break;
            }
        }
        if log.looked.elapsed() >= LOOK {
            self.look(&mut log)?;
        }
        batch.check(log.state.position)?;
        let timestamp = self.timestamp(&log.state, assembled.timestamp)?;
        let before = log.state.timestamp;
        for name in &assembled.restore_points {
            if log.naming.contains(name) || self.is_in_catalog(name)? {
                return Err(Error::RestorePointExists { name: name.clone() });
            }
        }
        let cut = assembled.effects.iter().filter_map(|e| match e {
            Effect::SetLength(space, _) | Effect::Drop(space) => Some(*space),
            _ => None,
        });
        let old_lengths: HashMap<SpaceId, (u64, PageSize)> =
            cut.filter_map(|id| log.state.spaces.get(&id).map(|s| (id, (s.length, s.page_size)))).collect();
        log.state.apply_all(&assembled.effects).map_err(|e| self.refused(&e))?;
        // Everything that can be refused has been: from here on the commit has its place in the log.
        let lsn = log.state.position.next_lsn();
        let position = Position::from(lsn);
        log.state.advance(timestamp);
        batch.publish(position, |space, first| {
            old_lengths.get(&space).is_some_and(|(length, size)| first < size.pages_in(*length))
        });
        let named = assembled.restore_points.into_iter().map(|name| NamedCommit { name, position, timestamp });
        let named: Vec<NamedCommit> = named.collect();
        let durability = if named.is_empty() { assembled.durability } else { Durability::Synced };
        log.naming.extend(named.iter().map(|n| n.name.clone()));
        log.pending.restore_points.extend(named);

        if let Some(bytes) = ops.single() {
            let limit = self.options.frame_bytes;
            let joins = log.pending.frames.last().is_some_and(|f| f.kind == FrameKind::Commits && f.text.len() < limit);
            if !joins {
                let text = Vec::new();
                let kind = FrameKind::Commits;
                log.pending.frames.push(PendingFrame { kind, first: position, last: position, before, text });
            }
            if let Some(frame) = log.pending.frames.last_mut() {
                put_commit(&mut frame.text, before, timestamp, bytes);
                frame.last = position;
            }
            log.pending.bytes += bytes.len() + 16;
            match durability {
                Durability::Synced => {
                    log.pending.waiting += 1;
                    while log.durable < position {
                        self.lead_or_wait(&mut log, true)?;
                    }
                }
                Durability::Buffered => {
                    if log.pending.bytes >= limit && log.io.is_some() {
                        self.lead_or_wait(&mut log, false)?;
                    }
                }
            }
        } else {
            let commit = LargeCommit { ops, position, before, timestamp };
            let sync = durability == Durability::Synced;
            self.lead(&mut log, Lead { sync, seal: false, large: Some(commit) })?;
        }
        Ok(Commit { lsn, timestamp })
    }

    /// Makes every commit so far durable.
    pub fn flush(&self) -> Result<Position> {
        self.owner.check(WRITER)?;
        let mut log = self.log.lock();
        self.flush_locked(&mut log)?;
        Self::accepting(&log)?;
        Ok(log.durable)
    }

    fn flush_locked(&self, log: &mut MutexGuard<'_, LogState>) -> Result<()> {
        let wanted = log.state.position;
        while log.durable < wanted {
            self.lead_or_wait(log, true)?;
        }
        Ok(())
    }

    /// Logs that no commit happened until now; durable when it returns.
    pub fn tick(&self) -> Result<Timestamp> {
        self.owner.check(WRITER)?;
        let mut log = self.log.lock();
        Self::accepting(&log)?;
        let until = env::now(self.clock.as_ref())?.max(log.state.known_until);
        let last = log.state.position;
        let before = log.state.timestamp;
        let text = until.as_nanos().to_le_bytes().to_vec();
        log.pending.frames.push(PendingFrame { kind: FrameKind::Tick, first: last, last, before, text });
        log.pending.bytes += 16;
        log.state.known_until = until;
        self.wait_for_seat(&mut log)?;
        self.lead(&mut log, Lead { sync: true, seal: false, large: None })?;
        Ok(until)
    }

    /// Proves that the archive, its catalog, the lock and the segment being written are still what they were when they were opened. The writer stops if they are not.
    pub fn check(&self) -> Result<()> {
        self.owner.check(WRITER)?;
        let mut log = self.log.lock();
        Self::accepting(&log)?;
        self.wait_for_seat(&mut log)?;
        let storage = self.storage.as_ref();
        let in_place = || {
            check_place(storage)?;
            self.catalog.check_newest()?;
            if let Some(lock) = self.lock.lock().as_ref() {
                check_name(storage, &writer_lock(self.node), lock.identity())?;
            }
            log.io.as_ref().and_then(|io| io.segment.as_ref()).map_or(Ok(()), |segment| segment.check(storage))
        };
        let found = in_place();
        if let Err(e @ Error::Displaced { .. }) = &found {
            tracing::error!(node = %self.name, error = %e, "the writer stops");
            log.failed = Some(e.clone());
            self.wake.notify_all();
        }
        found
    }

    /// What the writer's thread does from time to time.
    pub fn housekeeping(&self) -> Result<()> {
        // What has its time is written by whatever clock.
        self.flush()?;
        let mut log = self.log.lock();
        Self::accepting(&log)?;
        self.look(&mut log)?;
        drop(log);
        self.check()?;
        let now = env::now(self.clock.as_ref())?;
        let (idle, old) = {
            let log = self.log.lock();
            let due = log.state.known_until.saturating_add(self.options.tick_interval);
            let segment = log.io.as_ref().and_then(|io| io.segment.as_ref().filter(|_| io.used));
            let old = segment.is_some_and(|s| now > s.created().saturating_add(self.options.segment_age));
            (now >= due, old)
        };
        if idle {
            self.tick()?;
        }
        if old {
            self.cut_segment()?;
        }
        Ok(())
    }

    /// Seals the current segment, so that it can be shipped; the next commit begins a new one.
    pub fn cut_segment(&self) -> Result<()> {
        self.owner.check(WRITER)?;
        let mut log = self.log.lock();
        Self::accepting(&log)?;
        self.wait_for_seat(&mut log)?;
        self.lead(&mut log, Lead { sync: true, seal: true, large: None })
    }

    /// Ends the tenure: nothing more is accepted, everything accepted is durable, the segment is sealed, the lock is free.
    pub fn close(&self) -> Result<()> {
        self.owner.check(WRITER)?;
        let mut log = self.log.lock();
        if std::mem::replace(&mut log.closed, true) {
            return Ok(());
        }
        let done = self
            .wait_for_seat(&mut log)
            .and_then(|()| self.lead(&mut log, Lead { sync: true, seal: true, large: None }));
        drop(log);
        drop(self.lock.lock().take());
        done
    }

    /// Whether the writer has not failed.
    fn alive(log: &LogState) -> Result<()> {
        match &log.failed {
            None => Ok(()),
            Some(cause) if ends_tenure(cause) => Err(cause.clone()),
            Some(cause) => Err(Error::Poisoned { cause: Box::new(cause.clone()) }),
        }
    }

    /// Whether the writer has neither failed nor been closed.
    pub fn is_accepting(&self) -> bool {
        Self::accepting(&self.log.lock()).is_ok()
    }

    /// Whether the writer takes new commits.
    fn accepting(log: &LogState) -> Result<()> {
        Self::alive(log)?;
        if log.closed {
            return Err(Error::Unsupported("the writer is closed: open it again".into()));
        }
        Ok(())
    }

    fn timestamp(&self, state: &NodeState, given: Option<Timestamp>) -> Result<Timestamp> {
        let newest = state.timestamp.max(state.known_until);
        let refused = |given: Timestamp| Error::NotMonotonic {
            what: "a commit's timestamp",
            newest: newest.to_string(),
            given: given.to_string(),
        };
        match given {
            None => {
                let now = env::now(self.clock.as_ref())?;
                let next = newest.as_nanos().checked_add(1).map(Timestamp::from_nanos);
                Ok(now.max(next.ok_or_else(|| refused(now))?))
            }
            Some(given) if given > Timestamp::LATEST => {
                let (limit, found) = (Timestamp::LATEST.as_nanos(), given.as_nanos());
                Err(Error::LimitExceeded { what: "a commit's timestamp, in nanoseconds", limit, found })
            }
            Some(given) if given > newest => Ok(given),
            Some(given) => Err(refused(given)),
        }
    }

    fn wait_for_seat(&self, log: &mut MutexGuard<'_, LogState>) -> Result<()> {
        while log.io.is_none() {
            self.wake.wait(log);
        }
        Self::alive(log)
    }

    /// Writes what is pending, where the leader's seat is free; else waits for the leader to be done.
    fn lead_or_wait(&self, log: &mut MutexGuard<'_, LogState>, sync: bool) -> Result<()> {
        Self::alive(log)?;
        if log.io.is_none() || log.pace.gathering {
            self.wake.wait(log);
            return Ok(());
        }
        if sync && !self.gather(log) {
            return Ok(());
        }
        self.lead(log, Lead { sync, seal: false, large: None })
    }

    /// Gives the threads of the last group a moment to come back. Without it the first one back would sync alone, or two halves would take turns, and
    /// every commit would wait for two syncs. A single thread expects nobody and waits for nobody. `false` where another leader went ahead.
    fn gather(&self, log: &mut MutexGuard<'_, LogState>) -> bool {
        let complete = |log: &LogState| log.pending.waiting >= log.pace.expected;
        if complete(log) {
            return true;
        }
        let group = log.pace.groups;
        let until = Instant::now() + log.pace.patience();
        log.pace.gathering = true;
        let first = loop {
            MutexGuard::unlocked(log, sync::yield_now);
            if log.pace.groups != group || log.io.is_none() || log.failed.is_some() || log.closed {
                break false;
            }
            if complete(log) {
                log.pace.missed = 0;
                break true;
            }
            if Instant::now() >= until {
                log.pace.missed = log.pace.missed.saturating_add(1);
                break true;
            }
        };
        log.pace.gathering = false;
        if !first {
            // Who slept because of the gathering looks again.
            self.wake.notify_all();
        }
        first
    }

    /// Takes the leader's seat, which must be free, and writes what is pending, without the lock.
    fn lead(&self, log: &mut MutexGuard<'_, LogState>, mut lead: Lead<'_>) -> Result<()> {
        Self::alive(log)?;
        let Some(mut io) = log.io.take() else { return Ok(()) };
        let pending = std::mem::take(&mut log.pending);
        let position = log.state.position;
        lead.sync |= !pending.restore_points.is_empty();
        // The state is needed only where a segment ends here.
        let size = io.segment.as_ref().map_or(0, ActiveSegment::len) + pending.bytes as u64;
        let ends = lead.seal || size >= self.options.segment_bytes;
        let after = ends.then(|| log.state.clone());
        let begun = Instant::now();
        // A panic of the host's storage, clock or generator must not leave the seat empty and the others waiting.
        let done = MutexGuard::unlocked(log, || {
            catch_unwind(AssertUnwindSafe(|| self.write_group(&mut io, &pending, position, lead, after)))
        });
        let names = &pending.restore_points;
        for named in names {
            log.naming.remove(&named.name);
        }
        log.io = Some(io);
        let failed = match &done {
            Ok(Ok(_)) => None,
            Ok(Err(e)) => Some(e.clone()),
            Err(_) => Some(Error::host("a panic while writing")),
        };
        if let Some(e) = failed {
            tracing::error!(node = %self.name, error = %e, "the writer stops");
            log.failed = Some(e);
        }
        if matches!(done, Ok(Ok(true))) {
            log.durable = log.durable.max(position);
        }
        log.pace.groups += 1;
        log.pace.expected = pending.waiting + log.pending.waiting;
        log.pace.took = begun.elapsed();
        self.wake.notify_all();
        match done {
            Ok(result) => result.map(drop),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Writes a group; tells whether everything up to `position` is durable.
    fn write_group(
        &self,
        io: &mut Io,
        pending: &Pending,
        position: Position,
        lead: Lead<'_>,
        after: Option<NodeState>,
    ) -> Result<bool> {
        // Before anything is written, so that no commit that begins after the node was deleted, or taken over, is acknowledged.
        // Whatever else keeps the catalog from being read is told when the next commit is taken in.
        if let Err(e) = self.check_tenure()
            && ends_tenure(&e)
        {
            return Err(e);
        }
        if !pending.frames.is_empty() {
            let segment = self.segment(io)?;
            if lead.sync && pending.bytes < 64 << 10 {
                segment.expect_small_appends();
            }
            for frame in &pending.frames {
                segment.push(frame.kind, false, frame.first, frame.last, frame.before, &[&frame.text])?;
            }
            segment.write()?;
            io.used |= pending.frames.iter().any(|f| f.kind == FrameKind::Commits);
        }
        if let Some(large) = lead.large {
            self.write_large(io, large)?;
        }
        io.written = position;
        let durable = lead.sync || after.is_some();
        if durable {
            if let Some(segment) = &mut io.segment {
                segment.sync()?;
            }
            // The segment of an archive that was moved away can be written and synced, but is not where it will be looked for. Where that cannot be told for
            // now, nothing is acknowledged either; and as the commits have their place in the log, they can only be found again by another writer, not refused.
            check_place(self.storage.as_ref())?;
        }
        // Before the seal: recovery looks for names without an entry in unsealed segments only.
        for named in &pending.restore_points {
            self.publish_restore_point(&named.name, named.position, named.timestamp)?;
        }
        if let Some(state) = after
            && let Some(segment) = io.segment.take()
        {
            io.previous = Some(segment.facts(state.position));
            io.base = state.clone();
            segment.seal(self.storage.as_ref(), state)?;
        }
        Ok(durable)
    }

    /// Makes a named commit known to the catalog. The commit is durable already.
    pub fn publish_restore_point(&self, name: &str, position: Position, timestamp: Timestamp) -> Result<()> {
        self.catalog.append(&self.actor, |state| {
            self.check_tenure_in(state)?;
            if state.node(self.node)?.restore_points.contains_key(name) {
                return Err(Error::RestorePointExists { name: name.to_owned() });
            }
            let (node, timeline, name) = (self.node, self.timeline, name.to_owned());
            Ok((Event::RestorePoint { node, timeline, name, position, timestamp }, ()))
        })
    }

    /// Refuses to go on with a node that was deleted or has a newer writer: where the lock did not keep that one out, the catalog tells who came last. As
    /// long as the catalog has not grown this costs an attempt to open the entry that would come next.
    pub fn check_tenure(&self) -> Result<()> {
        let known = self.entries.load(Ordering::Relaxed);
        if known > 0 && !self.catalog.has_entry(known + 1)? {
            return Ok(());
        }
        let state = self.catalog.current()?;
        self.check_tenure_in(&state)?;
        self.entries.store(state.entries, Ordering::Relaxed);
        Ok(())
    }

    pub fn check_tenure_in(&self, state: &CatalogState) -> Result<()> {
        if state.node(self.node)?.epoch != self.epoch {
            return Err(Error::Fenced { node: self.name.clone() });
        }
        state.check_live(self.node)
    }

    /// [`check_tenure`](Self::check_tenure) for what is not written at once. A node that is lost stops the writer; other failures refuse this call only.
    fn look(&self, log: &mut LogState) -> Result<()> {
        let looked = self.check_tenure();
        match &looked {
            Ok(()) => log.looked = Instant::now(),
            Err(e) if ends_tenure(e) => {
                log.failed = Some(e.clone());
                self.wake.notify_all();
            }
            Err(_) => {}
        }
        looked
    }

    /// Whether a restore point has this name, or gets it from a commit that is pending.
    pub fn is_named(&self, name: &str) -> Result<bool> {
        // In this order: what is pending is in the catalog before it is none any more.
        Ok(self.log.lock().naming.contains(name) || self.is_in_catalog(name)?)
    }

    fn is_in_catalog(&self, name: &str) -> Result<bool> {
        Ok(self.catalog.current()?.node(self.node)?.restore_points.contains_key(name))
    }

    /// Why a batch cannot be committed.
    pub fn refused(&self, e: &StateError) -> Error {
        match e {
            StateError::Limit(what, limit, found) => Error::LimitExceeded { what, limit: *limit, found: *found },
            StateError::SpaceTaken(_, name) => Error::SpaceExists { space: name.clone() },
            StateError::NoSpace(space) => Error::NoSuchSpace { space: space.to_string(), node: self.name.clone() },
            StateError::Name(space) => Error::Unsupported(format!("the name of space {space} cannot be used")),
            StateError::Backwards(what, newest, given) => {
                Error::NotMonotonic { what, newest: newest.clone(), given: given.clone() }
            }
        }
    }

    /// The segment to write to; begins one where there is none.
    fn segment<'i>(&self, io: &'i mut Io) -> Result<&'i mut ActiveSegment> {
        if let Some(segment) = io.segment.take() {
            return Ok(io.segment.insert(segment));
        }
        let (previous, link) = io.previous.take().map_or((None, [0; 32]), |(p, link)| (Some(p), link));
        let start = SegmentStart {
            node: self.node,
            timeline: self.timeline,
            epoch: self.epoch,
            sequence: io.next_sequence,
            // The commits in it have their times: a clock that is not believed at this moment is no reason to stop.
            created: env::now(self.clock.as_ref()).unwrap_or(io.base.known_until),
            link,
            preface: SegmentPreface { state: io.base.clone(), previous },
        };
        let created = ActiveSegment::create(self.storage.as_ref(), &self.keys, self.scope, &start);
        let segment = created.map_err(|e| match e {
            Error::Fenced { .. } => Error::Fenced { node: self.name.clone() },
            other => other,
        })?;
        io.next_sequence += 1;
        io.used = false;
        Ok(io.segment.insert(segment))
    }

    /// Writes a commit of several pieces: partial frames, then the frame that ends it.
    fn write_large(&self, io: &mut Io, commit: LargeCommit<'_>) -> Result<()> {
        let LargeCommit { ops, position, before, timestamp } = commit;
        let segment = self.segment(io)?;
        let mut first = true;
        ops.each(self, &mut |piece, last| {
            if last {
                let mut text = Vec::with_capacity(piece.len() + 20);
                put_commit(&mut text, before, timestamp, piece);
                segment.push(FrameKind::Commits, !first, position, position, before, &[&text])?;
            } else {
                segment.push(FrameKind::Partial, !first, position, position, before, &[piece])?;
            }
            first = false;
            segment.write()
        })?;
        io.used = true;
        Ok(())
    }
}

/// Whether the node is no longer this writer's.
fn ends_tenure(e: &Error) -> bool {
    matches!(e, Error::Fenced { .. } | Error::Deleted { .. } | Error::NoSuchNode { .. })
}
