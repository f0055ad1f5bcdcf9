//! A restore, step by step: resolve, plan, check, run, publish.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Node;
use crate::env::random;
use crate::error::{Error, Result};
use crate::format::event::{Actor, Event};
use crate::format::state::SpaceState;
use crate::options::ReplayOptions;
use crate::past::{Layout, PastState};
use crate::replay::{
    DeltaDir, Memory, NewDir, NewFiles, PageSink, Progress, Redo, Resolved, RestoreReport,
    check_space, replay_records,
};
use crate::sync::Instant;
use crate::types::{FileId, PageSize, SpaceId, Target};

/// A restore that was not started yet. Made by [`Node::restore`].
#[must_use = "a restore does nothing until it is told where to go"]
pub struct Restore<'a> {
    node: Node,
    target: Target,
    /// Who is named in the audit trail; `None`: nobody, as nothing is recorded.
    actor: Option<Actor>,
    expected: BTreeMap<String, PageSize>,
    options: ReplayOptions,
    progress: Option<Box<dyn FnMut(Progress) + Send + 'a>>,
    redo: Option<&'a mut dyn Redo>,
    skip_records: bool,
    /// The place that the audit trail names for a sink of the host's.
    destination: Option<String>,
}

impl std::fmt::Debug for Restore<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore")
            .field("node", &self.node.name)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// What a restore works with once it has begun.
struct Begun {
    past: PastState,
    /// The commit that it is the state of.
    resolved: Resolved,
    /// What the audit trail calls it.
    id: FileId,
    started: Instant,
}

impl<'a> Restore<'a> {
    pub(super) fn new(node: &Node, target: Target) -> Restore<'a> {
        Restore {
            node: node.clone(),
            target,
            actor: Some(node.archive.inner.options.actor.clone()),
            expected: BTreeMap::new(),
            options: ReplayOptions::default(),
            progress: None,
            redo: None,
            skip_records: false,
            destination: None,
        }
    }

    /// Who restores, for the audit trail; without this, the actor that the archive was opened with.
    pub fn actor(mut self, actor: Actor) -> Restore<'a> {
        self.actor = Some(actor);
        self
    }

    /// Restores without a word in the audit trail: for archives that cannot be written to, and for
    /// a program that looks at states and hands them to nobody. Where the archive cannot be written
    /// to, no sweep is kept from what is read: that stays for the policy's grace period after it
    /// has expired, and a restore that takes longer may fail.
    pub fn unaudited(mut self) -> Restore<'a> {
        self.actor = None;
        self
    }

    /// The size that the pages of a space have in the engine that the restore is for: with another
    /// one archived it is refused before anything is written.
    pub fn expect_page_size(mut self, space: &str, size: PageSize) -> Restore<'a> {
        self.expected.insert(space.to_owned(), size);
        self
    }

    /// The place that the audit trail names for a restore [into a sink](Self::into_sink); without
    /// this, `a sink of the host's`.
    pub fn destination(mut self, place: impl Into<String>) -> Restore<'a> {
        self.destination = Some(place.into());
        self
    }

    /// Threads, memory, place for temporary files.
    pub fn options(mut self, options: ReplayOptions) -> Restore<'a> {
        self.options = options.in_range();
        self
    }

    /// Called after each stretch of pages, from the thread that restored it, one call at a time.
    pub fn progress(mut self, progress: impl FnMut(Progress) + Send + 'a) -> Restore<'a> {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Replays the logical records that lead up to the target. A target that has any is refused
    /// without this.
    pub fn redo(mut self, redo: &'a mut dyn Redo) -> Restore<'a> {
        self.redo = Some(redo);
        self
    }

    /// Restores pages alone and leaves logical records out: for looking at pages, not for running
    /// an engine on them.
    pub fn skip_redo(mut self) -> Restore<'a> {
        self.skip_records = true;
        self
    }

    /// Restores into a new directory, one file for each space, named like it. The directory must
    /// not exist or be empty. It appears under its name when it is complete and synced, or not at
    /// all. What a killed restore to it has left is removed.
    ///
    /// Files have mode 0600, directories 0700; made by root, they belong to the owner of the
    /// directory that they are made in, which is so for every way to restore into files.
    pub fn into_dir(mut self, path: impl AsRef<Path>) -> Result<RestoreReport> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|e| Error::io("resolve", path.as_ref().display().to_string(), e))?;
        // Refused before anything is read.
        let place = NewDir::at(&path, &self.temporary_id()?)?;
        self.attempt(&path.display().to_string(), &mut |restore, begun| {
            let layout = begun.past.layout()?;
            check_space(layout.bytes(), &|space| Some(path.join(space)))?;
            let mut sink = place.begin(&begun.past.state().spaces)?;
            let report = restore.fill(begun, &layout, &sink)?;
            let dir = restore.redo.is_some().then(|| sink.name_files()).transpose()?;
            let records = restore.replay(begun, dir.as_deref())?;
            sink.finish()?;
            Ok(done(report, records, begun))
        })
    }

    /// Restores a node with one space into a new file. The file appears under its name when it is
    /// complete and synced.
    pub fn into_file(self, path: impl AsRef<Path>) -> Result<RestoreReport> {
        let path = path.as_ref().to_owned();
        self.into_named(&path.display().to_string(), |begun| {
            let mut spaces = begun.past.state().spaces.values();
            match (spaces.next(), spaces.next()) {
                (Some(only), None) => Ok(BTreeMap::from([(only.name.clone(), path.clone())])),
                _ => Err(Error::BadDestination {
                    place: path.display().to_string(),
                    reason: format!(
                        "the node has {} spaces: restore it into a directory, or name a file for each",
                        begun.past.state().spaces.len()
                    ),
                }),
            }
        })
    }

    /// Restores each space into a new file of its own, named here by space; directories are made as
    /// needed. The files appear under their names when all are complete and synced, or not at all;
    /// only a crash at that very moment can leave some of them named and some not.
    pub fn into_files(self, files: &BTreeMap<String, PathBuf>) -> Result<RestoreReport> {
        let names: Vec<String> = files.values().map(|p| p.display().to_string()).collect();
        self.into_named(&names.join(", "), |_| Ok(files.clone()))
    }

    fn into_named(
        mut self,
        destination: &str,
        files: impl Fn(&Begun) -> Result<BTreeMap<String, PathBuf>>,
    ) -> Result<RestoreReport> {
        let id = self.temporary_id()?;
        let mut place = None;
        self.attempt(destination, &mut |restore, begun| {
            let place = match &mut place {
                Some(place) => &*place,
                none => none.insert(NewFiles::at(absolute(files(begun)?)?, &id)?),
            };
            let layout = begun.past.layout()?;
            check_space(layout.bytes(), &|space| place.target(space).cloned())?;
            let sink = place.begin(&begun.past.state().spaces)?;
            let report = restore.fill(begun, &layout, &sink)?;
            let records = restore.replay(begun, None)?;
            sink.finish()?;
            Ok(done(report, records, begun))
        })
    }

    /// Brings a directory to the target by rewriting only what differs: much faster where most is
    /// the same. Files that are no space of the node stay.
    ///
    /// Nothing may use the directory meanwhile: a file that another process holds a POSIX lock on,
    /// as SQLite does, is refused before anything is written ([`Error::InUse`]), and each is locked
    /// to the end. While it goes on, a file `.rewound-incomplete` in it says so; after a crash or
    /// an error the directory is neither what it was nor the target, the file is still there, and
    /// running the restore again mends it.
    ///
    /// A file that is there keeps its owner and mode. [`Error::UnsafeFile`], before anything is
    /// written, if a space's name or the marker's stands for a symbolic link, anything else than a
    /// regular file, or a file with other names.
    pub fn delta_into_dir(mut self, path: impl AsRef<Path>) -> Result<RestoreReport> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|e| Error::io("resolve", path.as_ref().display().to_string(), e))?;
        // One for all attempts: the locks on its files are never let go of.
        let mut sink = None;
        self.attempt(&path.display().to_string(), &mut |restore, begun| {
            let layout = begun.past.layout()?;
            check_space(layout.bytes(), &|space| Some(path.join(space)))?;
            let delta = match sink.take() {
                Some(delta) => delta,
                None => DeltaDir::begin(&path, &begun.past.state().spaces)?,
            };
            let filled = restore.fill(begun, &layout, &delta);
            let filled =
                filled.and_then(|report| Ok((report, restore.replay(begun, Some(delta.path()))?)));
            let (mut report, records) = match filled {
                Ok(filled) => filled,
                Err(e) => {
                    sink = Some(delta);
                    return Err(e);
                }
            };
            report.bytes_written = delta.written();
            delta.finish()?;
            Ok(done(report, records, begun))
        })
    }

    /// Restores into a sink of the host's own. `open` is called with the spaces of the state, once
    /// everything that can be refused has been, and returns the sink.
    ///
    /// If a layer turns out to be damaged in the midst of it, the restore begins anew without that
    /// layer: the sink is dropped, and `open` is called once more, for a sink that all of the state
    /// is given to. A host that cannot begin again returns an error from that call; the restore
    /// then fails with the damage.
    pub fn into_sink<S: PageSink>(
        mut self,
        mut open: impl FnMut(&BTreeMap<SpaceId, SpaceState>) -> Result<S>,
    ) -> Result<RestoreReport> {
        let destination = self.destination.take().unwrap_or_else(|| "a sink of the host's".into());
        let mut opened = false;
        self.attempt(&destination, &mut |restore, begun| {
            let layout = begun.past.layout()?;
            let again = std::mem::replace(&mut opened, true);
            let sink = open(&begun.past.state().spaces).map_err(|refused| {
                match begun.past.damaged().last().filter(|_| again) {
                    Some(damage) => {
                        tracing::warn!(error = %refused, "the sink of a restore cannot begin again");
                        Error::Damaged(Box::new(damage.clone()))
                    }
                    None => refused,
                }
            })?;
            let report = restore.fill(begun, &layout, &sink)?;
            sink.finish()?;
            let records = restore.replay(begun, None)?;
            Ok(done(report, records, begun))
        })
    }

    /// Restores into memory; gives the spaces by name. For tests and small states.
    pub fn into_memory(mut self) -> Result<(RestoreReport, BTreeMap<String, Vec<u8>>)> {
        let mut spaces = BTreeMap::new();
        let report = self.attempt("memory", &mut |restore, begun| {
            let memory = Memory::new(&begun.past.state().spaces)?;
            let report = restore.fill(begun, &begun.past.layout()?, &memory)?;
            let records = restore.replay(begun, None)?;
            spaces = memory.into_spaces();
            Ok(done(report, records, begun))
        })?;
        Ok((report, spaces))
    }

    fn temporary_id(&self) -> Result<String> {
        let rng = &self.node.archive.inner.options.rng;
        Ok(FileId::from_bytes(random(rng.as_ref())?).to_string())
    }

    /// Everything that can be refused is refused here, before anything is written.
    fn begin(&mut self, destination: &str) -> Result<Begun> {
        let started = Instant::now();
        // Before the look at the catalog: what that names is kept from then on.
        let lease = match self.node.archive.inner.catalog.lease(self.node.id) {
            Err(error) if self.actor.is_none() => {
                tracing::debug!(%error, "what is read is kept by its grace period alone");
                None
            }
            lease => Some(lease.map_err(unrecorded)?),
        };
        let resolved = self.node.resolve(&self.target)?;
        let mut context = self.node.context()?;
        context.follow(resolved.timeline);
        let (to, lease) = (resolved.lsn.into(), lease.map(Arc::new));
        let past = PastState::open(context, to, lease, &self.options)?.without_excluded();
        let state = past.state();
        if state.last_logical > state.redo && self.redo.is_none() && !self.skip_records {
            let mut count = 0;
            replay_records(past.log(), state, &mut |_| {
                count += 1;
                Ok(())
            })?;
            return Err(Error::RedoRequired { count });
        }
        for (space, expected) in &self.expected {
            let found = state.spaces.values().find(|s| s.name == *space).map(|s| s.page_size);
            if found != Some(*expected) {
                let found = found.map_or_else(|| "no such space".into(), |size| size.to_string());
                let what = format!("page size of space {space:?}");
                return Err(Error::TargetMismatch { what, expected: expected.to_string(), found });
            }
        }
        let id = FileId::from_bytes(random(self.node.archive.inner.options.rng.as_ref())?);
        if let Some(actor) = &self.actor {
            self.node
                .archive
                .inner
                .catalog
                .append(actor, |_| {
                    // An entry has to hold it, however many files there are.
                    let (target, destination) =
                        (self.target.to_string(), destination.chars().take(4_000).collect());
                    let (node, position) = (self.node.id, resolved.lsn.into());
                    Ok((
                        Event::RestoreStarted { restore: id, node, position, target, destination },
                        (),
                    ))
                })
                .map_err(unrecorded)?;
        }
        Ok(Begun { past, resolved, id, started })
    }

    /// Records how a restore has ended.
    fn ended(&self, begun: &Begun, result: Result<RestoreReport>) -> Result<RestoreReport> {
        let Some(actor) = &self.actor else { return result };
        let bytes = result.as_ref().map_or(0, |report| report.bytes_written);
        let error = result.as_ref().err().map(|e| e.to_string().chars().take(2_000).collect());
        let event = Event::RestoreFinished { restore: begun.id, bytes, error };
        let recorded = self
            .node
            .archive
            .inner
            .catalog
            .append(actor, |_| Ok((event.clone(), ())))
            .map_err(unrecorded);
        // What went wrong first is what to act on.
        let report = result?;
        recorded?;
        Ok(report)
    }

    /// Restores with `go`; once more without it where a layer turns out to be damaged.
    fn attempt(
        &mut self,
        destination: &str,
        go: &mut dyn FnMut(&mut Self, &Begun) -> Result<RestoreReport>,
    ) -> Result<RestoreReport> {
        let mut begun = self.begin(destination)?;
        let result = self.repeat(&mut begun, go);
        self.ended(&begun, result)
    }

    fn repeat(
        &mut self,
        begun: &mut Begun,
        go: &mut dyn FnMut(&mut Self, &Begun) -> Result<RestoreReport>,
    ) -> Result<RestoreReport> {
        loop {
            match go(self, begun) {
                Err(Error::Damaged(damage)) => begun.past.without(*damage)?,
                done => return done,
            }
        }
    }

    fn fill(
        &mut self,
        begun: &Begun,
        layout: &Layout,
        sink: &dyn PageSink,
    ) -> Result<RestoreReport> {
        let (past, state) = (&begun.past, begun.past.state());
        let progress = self.progress.as_mut().map(|p| p as &mut (dyn FnMut(Progress) + Send));
        let stats = past.fill(layout, sink, progress)?;
        let (config, environment) = RestoreReport::split_config(&state.config);
        Ok(RestoreReport {
            node: self.node.name.clone(),
            lsn: begun.resolved.lsn,
            timestamp: begun.resolved.timestamp,
            next: begun.resolved.next,
            spaces: state.spaces.clone().into_map(),
            config,
            environment,
            excluded: past.excluded().to_vec(),
            mark: state.mark.as_ref().map(|m| m.mark.clone()),
            bytes_read: stats.bytes_read,
            bytes_written: stats.bytes_written,
            commits_replayed: past.sources().tail.commits,
            layers: usize::from(past.plan().base.is_some()) + past.plan().deltas.len(),
            damaged: past.damaged().iter().map(ToString::to_string).collect(),
            pages_proven: stats.pages_proven,
            pages_unproven: stats.pages_unproven,
            records_replayed: 0,
            elapsed: begun.started.elapsed(),
        })
    }

    fn replay(&mut self, begun: &Begun, dir: Option<&Path>) -> Result<u64> {
        let Some(redo) = self.redo.as_mut() else { return Ok(0) };
        redo.begin(dir)?;
        let count =
            replay_records(begun.past.log(), begun.past.state(), &mut |record| redo.apply(record))?;
        redo.finish()?;
        Ok(count)
    }
}

/// Where the archive is full or cannot be written to, a restore may still be wanted without a
/// record of it.
fn unrecorded(e: Error) -> Error {
    let shut = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
    match &e {
        Error::DiskFull { .. } => {}
        Error::Storage { source, .. } if shut.contains(&source.kind()) => {}
        _ => return e,
    }
    Error::Unrecorded { source: Box::new(e) }
}

fn done(mut report: RestoreReport, records: u64, begun: &Begun) -> RestoreReport {
    report.records_replayed = records;
    report.elapsed = begun.started.elapsed();
    tracing::info!(%report, "restored");
    report
}

fn absolute(mut files: BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
    for path in files.values_mut() {
        *path = std::path::absolute(&*path)
            .map_err(|e| Error::io("resolve", path.display().to_string(), e))?;
    }
    Ok(files)
}
