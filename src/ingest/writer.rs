//! A writer's tenure: recovery when it opens, its thread, its end.

use std::sync::Arc;

use super::base::{self, PageSource};
use super::batch::Batch;
use super::commit::{Shared, SharedParts};
use super::place::Place;
use super::tail::Continuation;
use super::tenure::{Claim, Tenure};
use crate::catalog::{Catalog, NodeView};
use crate::delta::Decoder;
use crate::env::{self, Clock, Owner};
use crate::error::{Error, Result};
use crate::format::event::{Actor, LayerRecord};
use crate::format::record::Op;
use crate::format::state::{ConfigValue, NodeState};
use crate::layer::LayerReader;
use crate::lineage::Line;
use crate::names::{self, Scope};
use crate::options::{CompactOptions, WriterOptions};
use crate::replay::newest_commit;
use crate::sealed::remove_leftovers;
use crate::storage::{Calls, Storage, create_dir_durable};
use crate::sync::mpsc::{self, RecvTimeoutError, Sender};
use crate::sync::{self, JoinHandle};
use crate::types::{Epoch, NodeId, PageSize, Position, SpaceId, Timestamp};
use crate::wal::{Log, Visit, fold_ops};

/// The one writer of a node. Shared by any number of threads by reference; closing or dropping it
/// ends the tenure.
///
/// It learns with its next write, and within 100 ms of commits, that the node or archive was
/// deleted ([`Error::Deleted`], [`Error::NoSuchNode`]) or a newer writer has come
/// ([`Error::Fenced`]), and accepts nothing more.
///
/// A process that is forked from the one that opened it opens one of its own, once this one has
/// ended: there every call is refused ([`Error::Forked`]), what is asked without an error is that
/// of an empty node, and dropping it does nothing.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What opening needs to know.
#[derive(Debug)]
pub(crate) struct OpenWriter<'a> {
    pub storage: &'a Arc<dyn Storage>,
    pub catalog: &'a Arc<Catalog>,
    pub clock: &'a Arc<dyn Clock>,
    pub actor: &'a Actor,
    pub node: NodeId,
    pub options: WriterOptions,
}

impl Writer {
    /// Opens the writer: takes the node's lock, recovers the log's end, begins a new epoch.
    pub(crate) fn open(open: OpenWriter<'_>) -> Result<Writer> {
        let OpenWriter { storage, catalog, clock, actor, node, options } = open;
        let options = options.in_range();
        let name = {
            let state = catalog.current()?;
            state.check_live(node)?;
            state.node(node)?.name.clone()
        };
        // The catalog is not begun anew in the place of one that was there. A log is not either:
        // the catalog says where it ended.
        catalog.check_newest()?;
        create_dir_durable(storage.as_ref(), &names::node_dir(node))?;
        create_dir_durable(storage.as_ref(), names::TMP)?;
        let lock_path = names::writer_lock(node);
        let lock = storage.locked(&lock_path)?;
        let Some(lock) = lock else { return Err(Error::WriterActive { node: name }) };
        let scope = Scope::Writer(node);
        remove_leftovers(storage.as_ref(), scope)?;

        let (record, ancestors) = {
            let state = catalog.current()?;
            (state.node(node)?.clone(), state.ancestors(node))
        };
        let (view, timeline) =
            (NodeView { id: node, record: &record, ancestors: &ancestors }, record.timeline);
        let lineage = view.lineage(timeline);
        let medium = Some(Arc::clone(storage));
        let log =
            Log { storage: storage.clone(), medium, keys: Arc::clone(catalog.keys()), lineage };
        let recovered = match recover(&log, storage.as_ref())? {
            Some(recovered) => recovered,
            None => {
                Recovered { at: begin(&log, &view, clock.as_ref())?, restore_points: Vec::new() }
            }
        };
        let position = recovered.at.state.position;
        // Numbers that were acknowledged must not be given again to other commits.
        log.check_end(position, catalog.current()?.view(node)?.durable_end(&log.lineage))?;
        let tenure = Tenure::begin(Claim { catalog, actor, node, name, timeline, lock }, position)?;
        if let Err(error) = catalog.remove_own_leftovers() {
            // They are in nobody's way.
            tracing::warn!(%error, "temporary files that a crash left could not be removed");
        }
        let interval = options.flush_interval;
        let shared = Arc::new(Shared::new(
            SharedParts {
                place: Place {
                    owner: Owner::here(),
                    storage: Arc::clone(storage),
                    keys: Arc::clone(catalog.keys()),
                    scope,
                },
                clock: Arc::clone(clock),
                tenure,
                options,
            },
            recovered.at,
        ));
        // A crash may have come between a named commit and its entry in the catalog.
        for (name, position, timestamp) in recovered.restore_points {
            match shared.tenure.publish_restore_point(&name, position, timestamp) {
                Ok(()) | Err(Error::RestorePointExists { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let thread = interval.map(|interval| {
            let (stop, stopped) = mpsc::channel();
            let shared = Arc::clone(&shared);
            let run = move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    if let Err(e) = shared.housekeeping() {
                        // What stops the writer was told when it did; anything else, such as a
                        // clock that is not believed, may pass.
                        if !shared.is_accepting() {
                            break;
                        }
                        tracing::warn!(node = %shared.tenure.name, error = %e, "the writer's thread tries again");
                    }
                }
            };
            (stop, sync::spawn("rewound-writer", run))
        });
        let thread = match thread {
            Some((stop, Ok(handle))) => Some((stop, handle)),
            Some((_, Err(e))) => return Err(Error::io("start thread for", "writer", e)),
            None => None,
        };
        Ok(Writer { shared, thread })
    }

    /// Begins a commit.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.shared))
    }

    /// Makes every commit so far durable; gives the newest.
    pub fn flush(&self) -> Result<Position> {
        self.shared.flush()
    }

    /// Proves that the archive, its catalog, this writer's lock and the segment being written are
    /// still where they were opened: a directory can be deleted or moved while files in it are
    /// written, and no write fails. Costs some calls to the system and writes nothing; the writer's
    /// thread asks by itself, and every synced commit asks for the archive's directory and its
    /// segment.
    ///
    /// # Errors
    ///
    /// [`Error::Displaced`], from when on the writer accepts nothing more. What was acknowledged
    /// before may be gone with what was there; opening again tells.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Logs that nothing was committed until now, so that the restorable window moves on. The
    /// writer's thread does this by itself.
    pub fn tick(&self) -> Result<Timestamp> {
        self.shared.tick()
    }

    /// Ends the current segment, so that it is sealed and can leave the machine. The writer does
    /// this by itself by size and age.
    pub fn rotate_segment(&self) -> Result<()> {
        self.shared.rotate_segment()
    }

    /// The newest commit, durable or not.
    pub fn newest(&self) -> Position {
        self.shared.newest()
    }

    /// The newest durable commit.
    pub fn durable(&self) -> Position {
        self.shared.durable()
    }

    /// Time of the newest commit; zero before the first.
    pub fn newest_timestamp(&self) -> Timestamp {
        self.shared.ask(|state| state.timestamp)
    }

    /// This writer's tenure.
    pub fn epoch(&self) -> Epoch {
        self.shared.tenure.epoch
    }

    /// The space of this name, in the newest state.
    pub fn space(&self, name: &str) -> Option<SpaceId> {
        self.shared.ask(|state| state.space_named(name))
    }

    /// Length in bytes of a space, in the newest state.
    pub fn space_length(&self, space: SpaceId) -> Option<u64> {
        self.shared.ask(|state| state.spaces.get(&space).map(|s| s.length))
    }

    /// Size of the pages of a space, in the newest state.
    pub fn page_size(&self, space: SpaceId) -> Option<PageSize> {
        self.shared.ask(|state| state.spaces.get(&space).map(|s| s.page_size))
    }

    /// A configuration value, in the newest state.
    pub fn config(&self, key: &str) -> Option<ConfigValue> {
        self.shared.ask(|state| state.config.get(key).cloned())
    }

    /// The newest host mark: where an adapter takes up its work again.
    pub fn host_mark(&self) -> Option<Vec<u8>> {
        self.shared.ask(|state| state.mark.as_ref().map(|m| m.mark.clone()))
    }

    /// Copies all pages from the engine as the base of the archive, while commits go on. A node
    /// with content from before its first commit ([`Origin::Existing`](crate::Origin::Existing))
    /// can be restored from the position that this returns.
    ///
    /// Waits for batches that are open; call it with none open on the same thread.
    pub fn base_snapshot(
        &self,
        source: &mut dyn PageSource,
        options: &CompactOptions,
    ) -> Result<Position> {
        base::copy(&self.shared, source, options)
    }

    /// Ends the tenure: every commit durable, the segment sealed, the lock free.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if let Err(forked) = self.shared.place.check_process() {
            // The thread is none of this process's, and may have held whatever lock.
            std::mem::forget(self.thread.take());
            self.shared.tenure.release_copy();
            return Err(forked);
        }
        if let Some((stop, handle)) = self.thread.take() {
            drop(stop);
            // A panic of the thread has been reported where it happened.
            let _ = handle.join();
        }
        self.shared.close()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(e) = self.end()
            && !matches!(e, Error::Closed | Error::Forked { .. })
        {
            tracing::error!(error = %e, "closing the writer failed; the log is recovered when it opens again");
        }
    }
}

struct Recovered {
    at: Continuation,
    restore_points: Vec<(String, Position, Timestamp)>,
}

/// Where a timeline begins that nothing was written to yet: with nothing, or with the state that it
/// forks off from.
fn begin(log: &Log, view: &NodeView<'_>, clock: &dyn Clock) -> Result<Continuation> {
    let fork = log.lineage.last().after;
    let mut state = NodeState::default();
    if fork > Position::ORIGIN {
        state = match log.state_at(fork) {
            Ok(Some(state)) => state,
            // A snapshot may be all that is left of the commit.
            Ok(None) | Err(Error::Gap { .. }) => {
                let layers = view.layers(&log.lineage);
                let of_it = |l: &&&LayerRecord| {
                    l.from.is_none() && (l.to, l.consistent_from) == (fork, fork)
                };
                let missing = || Error::Gap {
                    node: view.record.name.clone(),
                    expected: fork.next_lsn(),
                    found: fork,
                };
                let snapshot = layers.iter().find(of_it).ok_or_else(missing)?;
                LayerReader::open(log.storage.as_ref(), &log.keys, snapshot)?.state
            }
            Err(e) => return Err(e),
        };
        // Its times begin after all that are known of the node, so that each time is answered on
        // one timeline. What the parent knew of later times is none of its own.
        state.known_until = env::now(clock).unwrap_or_default().max(state.timestamp);
        for timeline in view.timelines().into_iter().filter(|t| *t != log.timeline()) {
            let other = log.alone(Line::new(view.id, timeline));
            state.known_until = state.known_until.max(newest_commit(&other, view)?.known_until);
        }
    }
    Ok(Continuation { state, next_sequence: 1, previous: None })
}

/// Finds where the log ends; `None` where its own timeline has not begun. Reads the newest segment
/// only: its preface holds the state before it.
fn recover(log: &Log, storage: &dyn Storage) -> Result<Option<Recovered>> {
    let Some(newest) = log.newest()?.filter(|s| s.line == log.lineage.tip()) else {
        return Ok(None);
    };
    // What an earlier process wrote and did not sync is read below and built upon: it has to be
    // durable first, and what is read has to be what is durable.
    let reader = log.open_settled(storage, &newest)?;
    let next_sequence = newest.sequence + 1;
    if let Some((state, facts, link)) = reader.sealed_end() {
        let at = Continuation { state, next_sequence, previous: Some((facts, link)) };
        return Ok(Some(Recovered { at, restore_points: Vec::new() }));
    }
    let mut state = reader.preface().state.clone();
    // The state in the midst of a commit of several frames, which may never have ended.
    let mut unfinished: Option<NodeState> = None;
    let mut decoder = Decoder::new()?;
    let (mut points, mut names) = (Vec::new(), Vec::new());
    let end = reader.scan(newest.from, None, &mut |visit| {
        let (ops, offset) = match &visit {
            Visit::Partial { ops, offset, .. } | Visit::Commit { ops, offset, .. } => {
                (*ops, *offset)
            }
            Visit::Tick => return Ok(true),
        };
        let whole = matches!(visit, Visit::Commit { .. });
        let mut next = match unfinished.take() {
            Some(next) => next,
            None if whole => std::mem::take(&mut state),
            None => state.clone(),
        };
        fold_ops(&mut next, ops, &mut decoder, &newest.path, offset, &mut |op| {
            if let Op::RestorePoint(name) = op {
                names.push((*name).to_owned());
            }
        })?;
        if let Visit::Commit { lsn, timestamp, .. } = visit {
            next.advance(timestamp);
            points.extend(names.drain(..).map(|name| (name, lsn.into(), timestamp)));
            state = next;
        } else {
            unfinished = Some(next);
        }
        Ok(true)
    })?;
    state.known_until = end.known_until;
    tracing::info!(segment = %newest.path, position = %end.position, "recovered the end of the log");
    let at = Continuation { state, next_sequence, previous: Some((end.facts, end.link)) };
    Ok(Some(Recovered { at, restore_points: points }))
}
