//! Carries out plans: first an entry, later the files.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{ExpiryInput, ExpiryPlan, SegmentInfo, TimelineLog, plan_expiry};
use super::policy::promises;
use super::retained::{Times, commits_of};
use super::{clock, policy};
use crate::catalog::{CatalogState, NodeView};
use crate::compact::{Builder, MaintainReport, lock_builder, read_back, snapshot};
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{Event, LayerRecord};
use crate::format::retention::{Deletion, ExpiredFiles, Policy, Span, TimelineExpiry, runs_of};
use crate::layer::{LayerReader, list_layers, list_parts};
use crate::lineage::{Fork, Line};
use crate::names::{self, layer_path, part_path};
use crate::options::{Cancel, CompactOptions};
use crate::past::NodeContext;
use crate::replay::{LogEnd, commit_time, log_end, newest_commit, position_by, records_from};
use crate::sealed::read_header;
use crate::storage::{Calls, ReadCalls, ReadFileCalls};
use crate::types::{FileId, NodeId, Position, TimelineId, Timestamp, nanos};
use crate::wal::Log;

/// The most files that one entry names; the others follow in the next sweep.
const MAX_FILES: usize = 24_000;
/// How often a plan is made again because the catalog has moved on.
const TRIES: usize = 16;

/// How a sweep works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct SweepOptions {
    /// A snapshot is built if it frees log of at least this share of the last snapshot's size, in
    /// percent. Default 100: beyond the window, at most about the size of a snapshot is kept, and a
    /// snapshot is built only once its size in log was added.
    pub rebuild_percent: u64,
    /// How such snapshots are built. Its `replay.cancel` ends the sweep with [`Error::Cancelled`],
    /// between two steps or within a snapshot, which then does not exist. The next sweep continues
    /// where this one stopped.
    pub compact: CompactOptions,
}

impl Default for SweepOptions {
    fn default() -> SweepOptions {
        SweepOptions { rebuild_percent: 100, compact: CompactOptions::default() }
    }
}

/// What a sweep did to one node.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NodeSweep {
    /// The node.
    pub node: String,
    /// What expired now, and why the rest stays.
    pub plan: ExpiryPlan,
    /// The snapshots that were built.
    pub built: MaintainReport,
    /// Files that were removed after they had expired before.
    pub removed_files: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Expiries whose files still exist: their grace period has not ended, or a restore may still
    /// read them.
    pub pending_expiries: usize,
}

/// What a sweep did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct SweepReport {
    /// By node.
    pub nodes: Vec<NodeSweep>,
    /// Nodes of which nothing expires because of an error or damage, and the error. They include
    /// nodes that miss files that are needed for what must be kept
    /// ([`Blocked::Incomplete`](crate::Blocked::Incomplete)).
    pub failed: Vec<(String, Error)>,
}

/// The time up to which a node is archived: its newest commit or tick, on any timeline.
pub(crate) fn newest_archived(context: &NodeContext) -> Result<Timestamp> {
    let mut newest = log_end(&context.log, &context.view())?.known_until;
    for timeline in context.record.timelines().into_iter().filter(|t| *t != context.timeline()) {
        newest = newest.max(newest_commit(&context.log_of(timeline), &context.view())?.known_until);
    }
    Ok(newest)
}

/// Refuses a clock that is not plausible, and from time to time records one that is.
pub(crate) fn check_clock(builder: &Builder, now: Timestamp, archived: Timestamp) -> Result<()> {
    let worth = {
        let state = builder.catalog.current()?;
        clock::check(&state, now, archived)?;
        clock::is_worth_noting(&state, now)
    };
    if worth {
        builder.catalog.append(&builder.actor, |state| {
            clock::check(state, now, archived)?;
            Ok((Event::ClockObserved { clock: now, archived, confirmed: false }, ()))
        })?;
    }
    Ok(())
}

/// What a plan is made from, besides the catalog.
#[derive(Debug)]
struct Gathered {
    archived: Timestamp,
    logs: BTreeMap<TimelineId, TimelineLog>,
    branches: BTreeMap<NodeId, Timestamp>,
    redo: BTreeMap<FileId, Position>,
    redo_at: BTreeMap<Position, Position>,
}

impl Gathered {
    /// For a node whose log has expired.
    fn nothing() -> Gathered {
        Gathered {
            archived: Timestamp::ZERO,
            logs: BTreeMap::new(),
            branches: BTreeMap::new(),
            redo: BTreeMap::new(),
            redo_at: BTreeMap::new(),
        }
    }
}

/// The log that each snapshot needs from before it. A snapshot that cannot be read is usable only
/// with all of the log.
fn redo_of_snapshots(context: &NodeContext) -> Result<BTreeMap<FileId, Position>> {
    let mut redo = BTreeMap::new();
    for layer in context.record.layers.iter().filter(|l| l.from.is_none()) {
        match LayerReader::open(context.storage.as_ref(), &context.keys, layer) {
            Ok(body) => {
                let log = context.log_of(layer.timeline);
                redo.insert(layer.file, records_from(&log, &body.state)?);
            }
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "history is not to stand on a damaged snapshot");
                redo.insert(layer.file, Position::ORIGIN);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(redo)
}

/// The log that a snapshot at a position would need from before it, at most: redo points only move
/// forward.
fn redo_at(log: &Log, position: Position) -> Result<Position> {
    Ok(match log.last_where(|s| Ok(s.from <= position))? {
        Some(segment) => records_from(log, &log.open(&segment)?.preface().state)?,
        None => Position::ORIGIN,
    })
}

/// The times of a timeline's commits, from its log and snapshots.
struct LogTimes<'a> {
    log: &'a Log,
    view: NodeView<'a>,
    end: LogEnd,
}

impl Times for LogTimes<'_> {
    fn of(&self, commit: Position) -> Result<Timestamp> {
        // The window may begin with a commit that does not exist yet.
        let Some(lsn) = commit.lsn().filter(|_| commit <= self.end.position) else {
            return Ok(Timestamp::from_nanos(u64::MAX));
        };
        commit_time(self.log, &self.view, lsn)
    }

    fn by_log(&self, time: Timestamp) -> Result<Option<Position>> {
        position_by(self.log, time, self.end)
    }

    /// A segment that was begun later holds nothing from before.
    fn archived_by(&self, time: Timestamp) -> Result<Position> {
        let next = match self.log.last_where(|s| Ok(self.log.open(s)?.created() <= time))? {
            Some(segment) => match self.log.after(&segment) {
                // What was between has expired, or its loss is found when the plan is made.
                Err(Error::Gap { found, .. }) => return Ok(found),
                next => next?,
            },
            None => self.log.oldest()?,
        };
        Ok(next.map_or(Position::new(u64::MAX), |s| s.from))
    }
}

fn gather(context: &NodeContext, state: &CatalogState, now: Timestamp) -> Result<Gathered> {
    let archived = newest_archived(context)?.min(now);
    let promised = policy::windows(&promises(state, context.node), archived);
    let mut logs = BTreeMap::new();
    let view = context.view();
    for timeline in context.record.timelines() {
        let (log, whole) = (context.log_of(timeline), context.log.along(view.lineage(timeline)));
        // If nothing was written to a timeline yet, its end is the fork.
        let end = if timeline == context.timeline() {
            log_end(&whole, &view)
        } else {
            newest_commit(&whole, &view)
        }?;
        let segments = log.all()?;
        let segments = segments
            .into_iter()
            .map(|(s, bytes)| SegmentInfo { sequence: s.sequence, from: s.from, bytes })
            .collect();
        let times = LogTimes { log: &log, view, end };
        let windows = commits_of(&promised, context.record.retention.kept(timeline), &times)?;
        logs.insert(timeline, TimelineLog { segments, end: end.position, windows });
    }
    let (branches, redo) = (archived_branches(context, state)?, redo_of_snapshots(context)?);
    Ok(Gathered { archived, logs, branches, redo, redo_at: BTreeMap::new() })
}

/// The times up to which the nodes branched from this one are archived.
fn archived_branches(
    context: &NodeContext,
    state: &CatalogState,
) -> Result<BTreeMap<NodeId, Timestamp>> {
    let mut archived = BTreeMap::new();
    for lineage in state.lineages_over(context.node) {
        let node = lineage.tip().node;
        if node != context.node {
            let until = newest_commit(&context.log.along(lineage), &state.view(node)?)?.known_until;
            let newest: &mut Timestamp = archived.entry(node).or_default();
            *newest = until.max(*newest);
        }
    }
    Ok(archived)
}

fn plan_of(
    context: &NodeContext,
    state: &CatalogState,
    gathered: &Gathered,
    now: Timestamp,
    percent: u64,
) -> Result<ExpiryPlan> {
    Ok(plan_expiry(&ExpiryInput {
        state,
        node: context.node,
        record: state
            .nodes
            .get(&context.node)
            .ok_or_else(|| Error::NoSuchNode { node: context.node.to_string() })?,
        now,
        archived: gathered.archived,
        logs: &gathered.logs,
        branches: &gathered.branches,
        redo: &gathered.redo,
        redo_at: &gathered.redo_at,
        rebuild_percent: percent,
    }))
}

/// The plan, which asks for snapshots only if they free log.
fn plan_with_builds(
    context: &NodeContext,
    state: &CatalogState,
    gathered: &mut Gathered,
    now: Timestamp,
    percent: u64,
) -> Result<ExpiryPlan> {
    loop {
        let plan = plan_of(context, state, gathered, now, percent)?;
        let asked = plan.build.iter().filter(|b| b.frees.is_some()).map(|b| b.position);
        let unknown: Vec<Position> =
            asked.filter(|at| !gathered.redo_at.contains_key(at)).collect();
        if unknown.is_empty() {
            return Ok(plan);
        }
        for at in unknown {
            gathered.redo_at.insert(at, redo_at(&context.log, at)?);
        }
    }
}

/// What would expire now.
pub(crate) fn plan_node(
    builder: &Builder,
    now: Timestamp,
    options: &SweepOptions,
) -> Result<ExpiryPlan> {
    let context = &builder.context;
    let state = builder.catalog.current()?.clone();
    let mut gathered = gather(context, &state, now)?;
    plan_with_builds(context, &state, &mut gathered, now, options.rebuild_percent)
}

/// Sweeps one node: removes what has expired before, then lets what is due expire.
pub(crate) fn sweep_node(
    builder: &mut Builder,
    now: Timestamp,
    options: &SweepOptions,
) -> Result<NodeSweep> {
    let mut done = NodeSweep { node: builder.context.record.name.clone(), ..NodeSweep::default() };
    // Builders and sweepers exclude each other: what a builder reads or refers to does not expire
    // meanwhile.
    let _lock = lock_builder(builder)?;
    let cancel = &options.compact.replay.cancel;
    remove_due(builder, now, cancel, &mut done)?;
    for _ in 0..TRIES {
        cancel.check()?;
        let state = builder.catalog.current()?.clone();
        builder.context.refresh(&state)?;
        let mut gathered = if builder.context.record.retention.deletion == Deletion::Final {
            // There is no log any more, but parts may be left.
            Gathered::nothing()
        } else {
            gather(&builder.context, &state, now)?
        };
        let mut plan = plan_with_builds(
            &builder.context,
            &state,
            &mut gathered,
            now,
            options.rebuild_percent,
        )?;
        let builds = std::mem::take(&mut plan.build);
        if !builds.is_empty() {
            for build in &builds {
                let report = snapshot(builder, build.position, &options.compact)?;
                done.built.snapshots += report.snapshots;
                done.built.bytes_written += report.bytes_written;
            }
            if done.built.snapshots > 0 {
                continue;
            }
        }
        if plan.blocked.is_some()
            || expire(builder, &state, &gathered, &plan, now, options.rebuild_percent)?
        {
            done.plan = plan;
            break;
        }
    }
    done.pending_expiries =
        builder.catalog.current()?.node(builder.context.node)?.retention.expiring.len();
    Ok(done)
}

/// The files of layers, and the parts that they refer to.
struct References {
    layers: BTreeSet<FileId>,
    parts: BTreeSet<FileId>,
}

fn references<'l>(
    context: &NodeContext,
    layers: impl Iterator<Item = &'l LayerRecord>,
) -> Result<References> {
    let mut all = References { layers: BTreeSet::new(), parts: BTreeSet::new() };
    for layer in layers {
        let body = LayerReader::open(context.storage.as_ref(), &context.keys, layer)?;
        all.layers.insert(layer.file);
        all.parts.extend(body.parts.iter().map(|p| p.file));
    }
    Ok(all)
}

/// Writes the entry that gives files up. Returns `false` if the catalog has moved on, so the plan
/// is out of date.
fn expire(
    builder: &Builder,
    state: &CatalogState,
    gathered: &Gathered,
    plan: &ExpiryPlan,
    now: Timestamp,
    percent: u64,
) -> Result<bool> {
    let context = &builder.context;
    let record = state.node(context.node)?;
    let promises = promises(state, context.node);
    let grace = policy::in_force(&promises).map_or(Policy::days(0).grace, |p| p.grace);
    let files = unneeded(builder, record.layers.iter(), plan, now.saturating_sub(grace))?;
    if plan.is_empty() && files.layers.is_empty() && files.parts.is_empty() {
        return Ok(true);
    }
    for kept in &plan.kept {
        let before = record.retention.kept(kept.timeline);
        let stood = before.is_some_and(|spans| spans.iter().any(|s| s.base == kept.span.base));
        let layer = kept.snapshot.and_then(|file| record.layers.iter().find(|l| l.file == file));
        if let Some(layer) = layer.filter(|_| !stood) {
            // This snapshot becomes the only base of that history, so all of it is read back once
            // more.
            read_back(context.storage.as_ref(), &context.keys, layer)?;
        }
    }
    let grace = nanos(grace);
    let appended = builder.catalog.append_if(&builder.actor, |state| {
        let now_planned = plan_of(context, state, gathered, now, percent)?;
        let same = (&now_planned.timelines, &now_planned.layers, now_planned.last)
            == (&plan.timelines, &plan.layers, plan.last)
            && now_planned.blocked.is_none()
            && state.node(context.node)?.layers == record.layers;
        if !same {
            return Ok(None);
        }
        let event = Event::FilesExpired {
            node: context.node,
            clock: now,
            timelines: plan.timelines.clone(),
            files: files.clone(),
            grace,
            last: plan.last,
        };
        Ok(Some(event))
    })?;
    if appended {
        tracing::info!(node = %record.name, layers = files.layers.len(), parts = files.parts.len(), log_bytes = plan.log_bytes, "files expired");
    }
    Ok(appended)
}

/// Layers and parts that nothing refers to any more: those that the plan lets expire, and those
/// that crashes left before `before`.
fn unneeded<'l>(
    builder: &Builder,
    layers: impl Iterator<Item = &'l LayerRecord>,
    plan: &ExpiryPlan,
    before: Timestamp,
) -> Result<ExpiredFiles> {
    let context = &builder.context;
    let going: BTreeSet<FileId> = plan.layers.iter().copied().collect();
    let (go, stay): (Vec<&LayerRecord>, Vec<&LayerRecord>) =
        layers.partition(|l| going.contains(&l.file));
    // Before the files are listed: a base snapshot that begins later writes files that are younger.
    let leased = builder.catalog.oldest_lease(context.node)?.is_some();
    let stay = references(context, stay.into_iter())?;
    let mut parts = BTreeSet::new();
    for layer in go {
        match references(context, std::iter::once(layer)) {
            Ok(found) => parts.extend(found.parts),
            // Which parts it had is not known: they are removed as parts that nothing refers to.
            Err(e) if e.is_damage() => {}
            Err(e) => return Err(e),
        }
    }
    let pending = pending(builder)?;
    let mut files = ExpiredFiles { layers: plan.layers.clone(), parts: Vec::new() };
    let node = context.node;
    let old = |path: String| -> Result<bool> {
        if leased {
            return Ok(false);
        }
        let Some(file) = context.storage.opened_if_there(&path)? else { return Ok(false) };
        match read_header(file.as_ref(), &path) {
            Ok((header, _)) => Ok(header.header.created < before),
            Err(e) if e.is_damage() => Ok(false),
            Err(e) => Err(e),
        }
    };
    for (file, _) in list_layers(context.storage.as_ref(), node)? {
        let known = stay.layers.contains(&file) || going.contains(&file) || pending.contains(&file);
        if !known && old(layer_path(node, file))? {
            files.layers.push(file);
        }
    }
    for (file, _) in list_parts(context.storage.as_ref(), node)? {
        if files.parts.len() + files.layers.len() >= MAX_FILES {
            break;
        }
        if !stay.parts.contains(&file)
            && !pending.contains(&file)
            && (parts.contains(&file) || old(part_path(node, file))?)
        {
            files.parts.push(file);
        }
    }
    Ok(files)
}

/// Files that were given up before and are not removed yet.
fn pending(builder: &Builder) -> Result<BTreeSet<FileId>> {
    let context = &builder.context;
    let entries: Vec<u64> =
        builder.catalog.current()?.node(context.node)?.retention.expiring.keys().copied().collect();
    let mut files = BTreeSet::new();
    for entry in entries {
        if let Event::FilesExpired { files: expired, .. } = builder.catalog.entry(entry)?.0.event {
            files.extend(expired.layers.into_iter().chain(expired.parts));
        }
    }
    Ok(files)
}

/// Removes the files of expiries whose grace period is over, unless a restore that began before may
/// still read them.
fn remove_due(
    builder: &Builder,
    now: Timestamp,
    cancel: &Cancel,
    done: &mut NodeSweep,
) -> Result<()> {
    let context = &builder.context;
    let record = builder.catalog.settled()?.node(context.node)?.clone();
    let due: Vec<u64> =
        record.retention.expiring.iter().filter(|(_, e)| e.due <= now).map(|(n, _)| *n).collect();
    if due.is_empty() {
        return Ok(());
    }
    let leased = builder.catalog.oldest_lease(context.node)?.unwrap_or(u64::MAX);
    let due: Vec<u64> = due.into_iter().filter(|entry| *entry <= leased).collect();
    if due.is_empty() {
        return Ok(());
    }
    // Nothing referred to them when they were given up, and nothing does since. To check again
    // costs little; a mistake would cost everything.
    let needed = references(context, record.layers.iter())?;
    let stood_on = stood_on(context, &*builder.catalog.current()?)?;
    for entry in due {
        cancel.check()?;
        let event = builder.catalog.entry(entry)?.0.event;
        let Event::FilesExpired { timelines, files, .. } = event else {
            let path = format!("catalog entry {entry}");
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                0,
                "event",
                "an expiry",
                "another one",
            ));
        };
        for (fork, name) in &stood_on {
            let gone = timelines.iter().find(|t| t.timeline == fork.line.timeline);
            if let Some(gone) = gone.filter(|gone| !gone.segments.is_empty()) {
                check_stands(context, *fork, name, gone)?;
            }
        }
        let mut removal = Removal { context, dirs: BTreeSet::new(), files: 0, bytes: 0 };
        for file in &files.layers {
            removal.derived(layer_path(context.node, *file), needed.layers.contains(file))?;
        }
        for file in &files.parts {
            removal.derived(part_path(context.node, *file), needed.parts.contains(file))?;
        }
        for timeline in &timelines {
            let log = context.log_of(timeline.timeline);
            for (first, last) in &timeline.segments {
                // The directories in any case: an interrupted removal may not be durable.
                let (segments, dirs) = log.numbered(*first, *last)?;
                segments.iter().try_for_each(|segment| removal.file(&segment.path))?;
                removal.dirs.extend(dirs);
            }
        }
        let Removal { dirs, files, bytes, .. } = removal;
        for dir in dirs {
            context.storage.dir_synced(&dir)?;
        }
        builder.catalog.append_if(&builder.actor, |state| {
            let there = state.node(context.node)?.retention.expiring.contains_key(&entry);
            // Another sweeper may have been faster, if the lock did not keep it out.
            Ok(there.then_some(Event::FilesRemoved { node: context.node, entry, files, bytes }))
        })?;
        done.removed_files += files;
        done.removed_bytes += bytes;
        tracing::info!(node = %record.name, entry, files, bytes, "expired files removed");
    }
    Ok(())
}

/// The commits of this node that timelines depend on, of the node itself or of nodes that were
/// branched from it, each with the name of that timeline.
fn stood_on(context: &NodeContext, state: &CatalogState) -> Result<Vec<(Fork, String)>> {
    let mut forks = Vec::new();
    for lineage in state.lineages_over(context.node) {
        let Line { node, timeline } = lineage.tip();
        let view = state.view(node)?;
        if let Some(fork) = lineage.root().filter(|fork| fork.line.node == context.node)
            && view.stands_on_fork(&lineage)
        {
            forks.push((fork, format!("timeline {timeline} of node {}", view.record.name)));
        }
    }
    Ok(forks)
}

/// Refuses to remove segments that are needed to reach a fork. The plan has ensured that already; a
/// mistake would cost another history everything.
fn check_stands(
    context: &NodeContext,
    fork: Fork,
    name: &str,
    gone: &TimelineExpiry,
) -> Result<()> {
    let Some(kept) = context.view().kept_of(fork.line) else { return Ok(()) };
    let leads: Vec<Span> = kept.iter().filter(|s| s.contains(fork.at)).copied().collect();
    let path = names::timeline_dir(fork.line.node, fork.line.timeline);
    let refused = |found: &str| {
        let expected = format_args!("what LSN {} stands on, as {name} forks off there", fork.at);
        Error::damage(DamageKind::Chain, path.clone(), 0, "expired log", expected, found)
    };
    if leads.is_empty() {
        return Err(refused("that commit given up"));
    }
    let all = context.log_of(fork.line.timeline).all()?;
    let mut needed = runs_of(&leads, &all, |(s, _)| s.from).flatten();
    let removed = |sequence: &u64| {
        gone.segments.iter().any(|(first, last)| (first..=last).contains(&sequence))
    };
    match needed.find(|(s, _)| removed(&s.sequence)) {
        Some((segment, _)) => Err(refused(&format!("its segment {} given up", segment.sequence))),
        None => Ok(()),
    }
}

struct Removal<'a> {
    context: &'a NodeContext,
    dirs: BTreeSet<String>,
    files: u64,
    bytes: u64,
}

impl Removal<'_> {
    fn derived(&mut self, path: String, needed: bool) -> Result<()> {
        if needed {
            let (expected, found) = ("a file that nothing refers to", "one that a layer refers to");
            return Err(Error::damage(DamageKind::Chain, path, 0, "expired file", expected, found));
        }
        self.file(&path)
    }

    /// Removes a file. If it is gone, a sweep that was interrupted has removed it.
    fn file(&mut self, path: &str) -> Result<()> {
        let storage = self.context.storage.as_ref();
        let file = storage.opened_if_there(path)?;
        let bytes = file.map_or(Ok(0), |file| file.length(path))?;
        // If it is gone already, that may not be durable.
        self.dirs.insert(names::parent(path).to_owned());
        if storage.deleted_if_there(path)? {
            self.files += 1;
            self.bytes += bytes;
        }
        Ok(())
    }
}
