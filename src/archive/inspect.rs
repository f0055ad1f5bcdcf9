//! Looking at nodes: what happened, what there is, whether it is whole, what changed.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use super::{Archive, Node};
use crate::compare::{Bisection, Diff, bisect, diff};
use crate::error::{Error, Result};
use crate::format::event::Event;
use crate::format::retention::Deletion;
use crate::format::state::{ConfigValue, EXCLUSION, NodeState, SpaceState};
use crate::history::{Activity, ActivityOptions, Commits, activity};
use crate::names::{self, Kind};
use crate::options::ReplayOptions;
use crate::past::PastState;
use crate::replay::{Resolved, readable_end, resolve, window};
use crate::storage::{ReadCalls, ReadStore};
use crate::types::{Commit, Lsn, Position, SpaceId, Target, check_name};
use crate::verify::{VerifyOptions, VerifyProgress, VerifyReport, verify_catalog, verify_node};

/// Files of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileCount {
    /// How many there are.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl FileCount {
    /// All of them together.
    pub fn sum(counts: &[FileCount]) -> FileCount {
        let (files, bytes) =
            counts.iter().fold((0, 0), |sum, c| (sum.0 + c.files, sum.1 + c.bytes));
        FileCount { files, bytes }
    }
}

/// The files of a node, by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeFiles {
    /// Segments of the log.
    pub segments: FileCount,
    /// Files of layers and snapshots that say what they are made of.
    pub layers: FileCount,
    /// Parts of layers and snapshots, shared ones once.
    pub parts: FileCount,
}

/// Commits that can be restored, every one from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestorableRange {
    /// The first one.
    pub from: Commit,
    /// The last one; of the window: the newest there is.
    pub to: Commit,
}

impl Archive {
    /// Verifies the catalog and every node: reads and decrypts every file, follows every chain,
    /// rebuilds states. Damage is in the report, and the reading goes on behind it.
    ///
    /// What it cannot find is what the threat model lists: an older copy of everything put back as
    /// a whole.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`], and what keeps from reading at all, such as a full disk for temporary
    /// files.
    pub fn verify(
        &self,
        options: &VerifyOptions,
        progress: &mut (dyn FnMut(VerifyProgress) + Send),
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        report.take(self.verify_catalog(options, progress))?;
        for name in self.nodes()? {
            match self.node(&name).and_then(|node| node.verify(options, progress)) {
                // It was deleted meanwhile.
                Err(Error::NoSuchNode { .. }) => {}
                verified => report.take(verified)?,
            }
        }
        Ok(report)
    }

    /// The catalog's part of [`verify`](Self::verify).
    pub fn verify_catalog(
        &self,
        options: &VerifyOptions,
        progress: &mut (dyn FnMut(VerifyProgress) + Send),
    ) -> Result<VerifyReport> {
        let inner = &self.inner;
        // Before the look at the files, as others may be adding some.
        let known = inner.catalog.current()?.entries;
        verify_catalog(
            inner.storage.as_ref(),
            inner.catalog.keys(),
            known,
            &options.replay.cancel,
            progress,
        )
    }

    /// The files of the catalog.
    pub fn catalog_files(&self) -> Result<FileCount> {
        let mut count = FileCount::default();
        count_files(self.inner.storage.as_ref(), names::CATALOG, None, &mut count)?;
        Ok(count)
    }
}

impl Node {
    /// The commits of a range, oldest first, or newest first with `rev()`. What lies outside of the
    /// log or has expired is not listed, nor is a commit of which a snapshot is all that is left
    /// ([`Node::layers`]); damage is an error in the listing, at its place.
    ///
    /// ```
    /// # use rewound::{Archive, Durability, KeyFile, Origin};
    /// # let dir = tempfile::tempdir()?;
    /// # let key = KeyFile::generate(dir.path().join("app.key"))?;
    /// # let archive = Archive::create(dir.path().join("app.archive"), key)?;
    /// # let node = archive.create_node("shard-0", Origin::Empty)?;
    /// # let writer = node.open_writer()?;
    /// # for _ in 0..30 { writer.batch().commit(Durability::Synced)?; }
    /// // The newest twenty.
    /// for commit in node.commits(..)?.rev().take(20) {
    ///     let commit = commit?;
    ///     println!("{} {} {} page versions", commit.lsn, commit.timestamp, commit.versions);
    /// }
    /// # assert_eq!(node.commits(..)?.count(), 30);
    /// # writer.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commits(&self, range: impl RangeBounds<Lsn>) -> Result<Commits> {
        self.look(|context| Commits::new(context.log.clone(), &context.view(), &range))
    }

    /// Commits and bytes over time, remarks and gaps: what a picture of the node's history is drawn
    /// from. Damage is left out of it; [`verify`](Self::verify) reports it.
    pub fn activity(&self, options: &ActivityOptions) -> Result<Activity> {
        self.look(|context| {
            let (end, _) = readable_end(&context.log, &context.view())?;
            activity(&context.log, &context.view(), (end.position, end.known_until), options)
        })
    }

    /// The spaces that a state has, without their pages. Reads a segment at most.
    pub fn spaces(&self, target: &Target) -> Result<BTreeMap<SpaceId, SpaceState>> {
        Ok(self.state(target)?.spaces.into_map())
    }

    /// The configuration that a state has, without what only says which spaces are excluded. Reads
    /// a segment at most.
    pub fn config(&self, target: &Target) -> Result<BTreeMap<String, ConfigValue>> {
        let state = self.state(target)?;
        let own = state.config.iter().filter(|(key, _)| !key.starts_with(EXCLUSION));
        Ok(own.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn state(&self, target: &Target) -> Result<NodeState> {
        self.look(|context| {
            let at = context.resolve(target)?;
            match context.log.state_at(at) {
                Ok(Some(state)) => Ok(state),
                Err(e) if !e.is_damage() => Err(e),
                // That part of the log is gone, or damaged: the layers know it too.
                Ok(None) | Err(_) => {
                    let past =
                        PastState::open(context.clone(), at, None, &ReplayOptions::default());
                    Ok(past?.state().clone())
                }
            }
        })
    }

    /// What can be restored, oldest first: single commits and stretches that something keeps beyond
    /// the window, and last the [window](Self::window).
    pub fn restorable_ranges(&self) -> Result<Vec<RestorableRange>> {
        self.look(|context| {
            let window = window(&context.log, &context.view(), &Target::Latest)?;
            let mut ranges = Vec::new();
            for span in context.view().kept(&context.log.lineage).unwrap_or_default().iter() {
                let (Some(from), Some(to)) = (span.from.lsn(), span.to.and_then(Position::lsn))
                else {
                    continue;
                };
                let commit = |lsn| {
                    let found = resolve(&context.log, &context.view(), &Target::Lsn(lsn))?;
                    Ok::<_, Error>(Commit { lsn, timestamp: found.timestamp })
                };
                ranges.push(RestorableRange { from: commit(from)?, to: commit(to)? });
            }
            ranges.push(RestorableRange { from: window.earliest, to: window.latest });
            Ok(ranges)
        })
    }

    /// Whether it is in use, or deleted, be it by itself or with the archive.
    pub fn deletion(&self) -> Result<Deletion> {
        Ok(self.archive.inner.catalog.current()?.deletion(self.id))
    }

    /// The node's files, counted.
    pub fn files(&self) -> Result<NodeFiles> {
        let storage = self.archive.inner.storage.as_ref();
        let mut files = NodeFiles::default();
        count_files(storage, &names::log_dir(self.id), Some(Kind::Segment), &mut files.segments)?;
        count_files(storage, &names::layers_dir(self.id), Some(Kind::Layer), &mut files.layers)?;
        count_files(storage, &names::parts_dir(self.id), Some(Kind::Part), &mut files.parts)?;
        Ok(files)
    }

    /// Verifies this node; see [`Archive::verify`].
    pub fn verify(
        &self,
        options: &VerifyOptions,
        progress: &mut (dyn FnMut(VerifyProgress) + Send),
    ) -> Result<VerifyReport> {
        verify_node(&self.archive.inner.catalog, &self.context()?, options, progress)
    }

    /// Names a commit that is there already. Needs no writer and disturbs none; the name is durable
    /// when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::RestorePointExists`] where the name is taken; those of [`resolve`](Self::resolve).
    pub fn add_restore_point(&self, name: &str, target: &Target) -> Result<Resolved> {
        check_name("restore point", name)?;
        // A writer's named commit stands whatever the clock says; this can be asked for again.
        crate::env::now(self.archive.inner.options.clock.as_ref())?;
        let context = self.context()?;
        let inner = &self.archive.inner;
        inner.catalog.append(&inner.options.actor, |state| {
            let view = state.view(self.id)?;
            if view.record.restore_points.contains_key(name) {
                return Err(Error::RestorePointExists { name: name.to_owned() });
            }
            // By the state that the entry follows on: it may expire at any time. Durable as well:
            // what the log's end is found to be was synced first.
            let at = resolve(&context.log, &view, target)?;
            let (node, timeline, name) = (self.id, at.timeline, name.to_owned());
            let (position, timestamp) = (at.lsn.into(), at.timestamp);
            Ok((Event::RestorePoint { node, timeline, name, position, timestamp }, at))
        })
    }

    /// Which pages differ between two states. Costs as much as restoring the pages that were
    /// touched between them, twice; nothing is written.
    ///
    /// Memory: as a restore takes, and 16 bytes for each range of differing pages.
    pub fn diff(&self, from: &Target, to: &Target, options: &ReplayOptions) -> Result<Diff> {
        // What it reads is not removed meanwhile, where the archive can be written to.
        let lease = self.archive.inner.catalog.lease(self.id).ok();
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        diff(&self.context()?, (from, to), lease, options)
    }

    /// The first commit after `from` at which an answer changes, by bisection up to `to`. `ask`
    /// restores or looks at a commit, however it likes, and answers.
    ///
    /// A restore that `ask` makes is a restore like any other, and recorded like one. Where what
    /// lies between the two ends has expired in part, `ask` meets [`Error::BeforeWindow`], which
    /// ends the bisection: choose both ends within one stretch.
    ///
    /// Where the answer changes once between the two ends, this is that commit. Where it changes
    /// more often, it is a commit whose answer differs from `from`'s while that of the commit
    /// before it does not: one such change, not necessarily the first.
    ///
    /// ```
    /// # use rewound::{Archive, Durability, KeyFile, Origin, PageId, PageSize, Target};
    /// # let dir = tempfile::tempdir()?;
    /// # let key = KeyFile::generate(dir.path().join("app.key"))?;
    /// # let archive = Archive::create(dir.path().join("app.archive"), key)?;
    /// # let node = archive.create_node("shard-0", Origin::Empty)?;
    /// # let writer = node.open_writer()?;
    /// # let mut batch = writer.batch();
    /// # let main = batch.create_space("main.db", PageSize::MIN)?;
    /// # batch.commit(Durability::Synced)?;
    /// # for n in 0..50u8 {
    /// #     let mut batch = writer.batch();
    /// #     batch.write_page(PageId::new(main, 0), &[n; 512], None)?;
    /// #     batch.commit(Durability::Synced)?;
    /// # }
    /// let window = node.window()?;
    /// let found = node.bisect(window.earliest.lsn, window.latest.lsn, |lsn| {
    ///     let (_, spaces) = node.restore(Target::Lsn(lsn)).into_memory()?;
    ///     Ok(spaces["main.db"].first().is_some_and(|byte| *byte >= 30))
    /// })?;
    /// assert_eq!(found.changed.map(|lsn| lsn.get()), Some(32));
    /// # writer.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bisect<T: Clone + PartialEq>(
        &self,
        from: Lsn,
        to: Lsn,
        mut ask: impl FnMut(Lsn) -> Result<T>,
    ) -> Result<Bisection<T>> {
        bisect(from, to, &mut ask)
    }
}

/// Counts the files below a directory, of one kind or all.
fn count_files(
    storage: &dyn ReadStore,
    dir: &str,
    kind: Option<Kind>,
    count: &mut FileCount,
) -> Result<()> {
    for entry in storage.listed(dir)? {
        if entry.is_dir {
            count_files(storage, &names::join(dir, &entry.name), kind, count)?;
        } else if kind.is_none() || names::kind(&entry.name) == kind {
            count.files += 1;
            count.bytes += entry.len;
        }
    }
    Ok(())
}
