//! The facade: archives, nodes, restores. Everything a host calls begins here.

mod administrator;
mod forks;
mod inspect;
mod restore;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use administrator::{Administrator, DELETION_GRACE, HoldTarget, Restorer, Scope};
pub use inspect::{FileCount, NodeFiles, RestorableRange};
pub use restore::Restore;

use crate::audit::{Attestation, Audit};
use crate::catalog::{Catalog, NodeView, RestorePointRecord};
use crate::compact::{Builder, MaintainReport, build_snapshot, maintain};
use crate::crypto::Keyring;
use crate::env::random;
use crate::error::{Error, Result};
use crate::format::event::{Actor, Event, LayerRecord, Origin};
use crate::format::retention::Deletion;
use crate::ingest::{OpenWriter, Writer};
use crate::names;
use crate::options::{ArchiveOptions, CompactOptions, WriterOptions};
use crate::past::NodeContext;
use crate::replay::{Plan, Resolved, Window, log_end, resolve, window};
use crate::retention::{Usage, catalog_bytes, usage};
use crate::sealed::ArchiveKeys;
use crate::storage::{Calls, FsStorage, ReadCalls, Storage, check_place};
use crate::types::{ArchiveId, NodeId, Position, Target, check_name};
use crate::wal::Log;

/// One protected estate: any number of nodes in a directory, or in any other [`Storage`].
///
/// Cheap to clone; all clones are the same archive.
#[derive(Clone, Debug)]
pub struct Archive {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    catalog: Arc<Catalog>,
    options: ArchiveOptions,
}

impl Archive {
    /// Creates an archive in a directory that is empty or not there yet. Every key in `keys` can
    /// open it from now on.
    pub fn create(path: impl AsRef<Path>, keys: impl Into<Keyring>) -> Result<Archive> {
        Archive::create_in(Arc::new(FsStorage::new(path.as_ref())), keys, ArchiveOptions::new())
    }

    /// Opens an archive in a directory. One of `keys` has to be one of its keys; the others are not
    /// added by this.
    pub fn open(path: impl AsRef<Path>, keys: impl Into<Keyring>) -> Result<Archive> {
        Archive::open_in(Arc::new(FsStorage::new(path.as_ref())), keys, ArchiveOptions::new())
    }

    /// [`create`](Self::create) in any storage, with options.
    pub fn create_in(
        storage: Arc<dyn Storage>,
        keys: impl Into<Keyring>,
        options: ArchiveOptions,
    ) -> Result<Archive> {
        check_place(storage.as_ref())?;
        storage.dir_created("")?;
        let there = storage.listed("")?;
        if there.iter().any(|e| e.name == names::CATALOG || e.name == names::NODES) {
            // An interrupted creation leaves directories and no entry: that is no archive yet.
            let whole = storage.listed(&names::entry_group_dir(0))?;
            if !whole.is_empty() {
                return Err(Error::ArchiveExists { path: storage.location().into() });
            }
        } else if there.iter().any(|e| e.name != names::TMP) {
            return Err(Error::TargetNotEmpty { path: storage.location().into() });
        }
        let id = ArchiveId::from_bytes(random(options.rng.as_ref())?);
        let keys =
            ArchiveKeys::create(id, &keys.into(), options.backend, Arc::clone(&options.rng))?;
        let catalog = Catalog::create(
            Arc::clone(&storage),
            keys,
            Arc::clone(&options.clock),
            &options.actor,
        )?;
        Ok(Archive { inner: Arc::new(Inner { storage, catalog: Arc::new(catalog), options }) })
    }

    /// [`open`](Self::open) in any storage, with options.
    pub fn open_in(
        storage: Arc<dyn Storage>,
        keys: impl Into<Keyring>,
        options: ArchiveOptions,
    ) -> Result<Archive> {
        check_place(storage.as_ref())?;
        let catalog = Catalog::open(
            Arc::clone(&storage),
            &keys.into(),
            options.backend,
            Arc::clone(&options.rng),
            Arc::clone(&options.clock),
        )?;
        Ok(Archive { inner: Arc::new(Inner { storage, catalog: Arc::new(catalog), options }) })
    }

    /// Its identity.
    pub fn id(&self) -> ArchiveId {
        self.inner.catalog.archive()
    }

    /// Names of its nodes, in order of creation.
    pub fn nodes(&self) -> Result<Vec<String>> {
        Ok(self
            .inner
            .catalog
            .current()?
            .nodes
            .values()
            .filter(|n| n.retention.deletion != Deletion::Final)
            .map(|n| n.name.clone())
            .collect())
    }

    /// Adds a node: one engine instance. Names follow the rules for file names, as spaces' do.
    ///
    /// `origin` says whether the engine is empty now ([`Origin::Empty`]), so that the log tells
    /// everything, or has content already ([`Origin::Existing`]): then the node can be restored
    /// from its first [base snapshot](Writer::base_snapshot) on.
    pub fn create_node(&self, name: &str, origin: Origin) -> Result<Node> {
        check_name("node", name)?;
        let node = self.inner.catalog.append(&self.inner.options.actor, |state| {
            if let Deletion::Until(until) = state.retention.deletion {
                return Err(Error::Deleted { what: "the archive".into(), until });
            }
            if state.node_named(name).is_ok() {
                return Err(Error::NodeExists { node: name.to_owned() });
            }
            let newest = state.nodes.last_key_value().map_or(0, |(id, _)| id.get());
            let node = NodeId::new(newest + 1);
            Ok((Event::NodeCreated { node, name: name.to_owned(), origin }, node))
        })?;
        Ok(Node { archive: self.clone(), id: node, name: name.to_owned() })
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<Node> {
        let id = self.inner.catalog.current()?.node_named(name)?.0;
        Ok(Node { archive: self.clone(), id, name: name.to_owned() })
    }

    /// The audit trail: every entry of the catalog, in order, each proven to follow on the one
    /// before.
    pub fn audit(&self) -> Result<Audit> {
        Audit::new(&self.inner.catalog, 1)
    }

    /// The audit trail from an entry on.
    pub fn audit_from(&self, sequence: u64) -> Result<Audit> {
        Audit::new(&self.inner.catalog, sequence)
    }

    /// Reads every entry there ever was and proves the chain from the first to the newest, without
    /// relying on checkpoints. Gives how many there are.
    pub fn verify_audit(&self) -> Result<u64> {
        Ok(crate::audit::verify(&self.inner.catalog, 1)?.0)
    }

    /// How far the archive is now: to be kept elsewhere, and compared later with
    /// [`verify_since`](Self::verify_since).
    pub fn attestation(&self) -> Result<Attestation> {
        // The commits first: what the catalog says is then no older than they are.
        let mut commits = BTreeMap::new();
        let nodes: Vec<NodeId> = self.inner.catalog.current()?.nodes.keys().copied().collect();
        for node in nodes {
            let context = self.context(node)?;
            if context.record.retention.deletion != Deletion::Final {
                commits.insert(
                    (node, context.timeline()),
                    log_end(&context.log, &context.view())?.position,
                );
            }
        }
        let (sequence, digest) = self.inner.catalog.head()?;
        Ok(Attestation { archive: self.id(), sequence, digest, commits })
    }

    /// Proves that this archive continues what was attested: the same archive, the entry that was
    /// the newest still there and unchanged, every entry since chained to it, and each log at least
    /// as long. [`Error::AttestationMismatch`] where it was put back to an older state or
    /// rewritten.
    pub fn verify_since(&self, attested: &Attestation) -> Result<()> {
        let differs = |reason, expected: String, found: String| {
            Err(Error::AttestationMismatch { reason, expected, found })
        };
        if attested.archive != self.id() {
            return differs("another archive", attested.archive.to_string(), self.id().to_string());
        }
        let (head, _) = self.inner.catalog.head()?;
        if head < attested.sequence {
            let (expected, found) =
                (format!("entry {}", attested.sequence), format!("entry {head} as the newest"));
            return differs("the catalog was put back", expected, found);
        }
        for (i, entry) in Audit::new(&self.inner.catalog, attested.sequence)?.enumerate() {
            let found = entry?.digest;
            if i == 0 && found != attested.digest {
                let text = |digest| {
                    Attestation { digest, commits: BTreeMap::new(), ..attested.clone() }.to_string()
                };
                return differs("the catalog was rewritten", text(attested.digest), text(found));
            }
        }
        for ((node, timeline), position) in &attested.commits {
            let context = self.context(*node)?;
            if context.record.retention.deletion == Deletion::Final
                || *timeline != context.timeline()
            {
                continue;
            }
            let end = log_end(&context.log, &context.view())?.position;
            if end < *position {
                let name = &context.record.name;
                let (expected, found) = (format!("LSN {position} of {name}"), format!("LSN {end}"));
                return differs("a log was put back", expected, found);
            }
        }
        Ok(())
    }

    /// What the archive takes, by node and kind, and how fast it grows.
    pub fn usage(&self) -> Result<Usage> {
        let mut all =
            Usage { catalog: catalog_bytes(self.inner.storage.as_ref())?, ..Usage::default() };
        let nodes: Vec<NodeId> = self.inner.catalog.current()?.nodes.keys().copied().collect();
        for node in nodes {
            let context = self.context(node)?;
            if context.record.retention.deletion == Deletion::Final {
                continue;
            }
            all.nodes.insert(context.record.name.clone(), usage(&context)?);
        }
        Ok(all)
    }

    pub(crate) fn context(&self, node: NodeId) -> Result<NodeContext> {
        let inner = &self.inner;
        let (record, ancestors) = {
            let state = inner.catalog.current()?;
            (state.node(node)?.clone(), state.ancestors(node))
        };
        let lineage =
            NodeView { id: node, record: &record, ancestors: &ancestors }.lineage(record.timeline);
        let keys = Arc::clone(inner.catalog.keys());
        let storage = Arc::clone(&inner.storage);
        let medium = Some(Arc::clone(&storage));
        let log = Log { storage: storage.clone(), medium, keys: Arc::clone(&keys), lineage };
        Ok(NodeContext { storage, keys, node, record, ancestors, log })
    }

    /// What builds for a node in somebody's name.
    pub(crate) fn builder(&self, context: NodeContext, actor: Actor) -> Builder {
        let (catalog, clock) =
            (Arc::clone(&self.inner.catalog), Arc::clone(&self.inner.options.clock));
        Builder { context, catalog, clock, actor }
    }
}

/// One engine instance in an archive.
#[derive(Clone, Debug)]
pub struct Node {
    archive: Archive,
    id: NodeId,
    name: String,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the archive.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Opens its one writer, with default options. Recovers whatever a crash left: what was
    /// acknowledged is there.
    pub fn open_writer(&self) -> Result<Writer> {
        self.open_writer_with(WriterOptions::default())
    }

    /// The identity of its archive, as [`Archive::id`] returns it.
    pub fn archive_id(&self) -> ArchiveId {
        self.archive.id()
    }

    /// Goes on with the archive that is at its place now, if that is another directory than the one
    /// that was opened: this archive, unmounted and mounted again, or moved away and copied back.
    /// For long-running programs, after [`Error::Displaced`] and before they open a writer anew.
    /// Every handle of the [`Archive`] goes on there, other nodes' too; a writer that was open does
    /// not. Where nothing was displaced it does nothing.
    ///
    /// It proves that what is there opens with the same key, and that its catalog holds the newest
    /// entry known here: it is this archive, as it was last seen or further. What came to the log
    /// since, only the next writer tells, by reading it.
    ///
    /// # Errors
    ///
    /// [`Error::Displaced`] while the archive, or all that it has of this node, is away, and if
    /// what is there is another archive or an older state of this one; the handles then stay as
    /// they were. [`Error::Storage`] if it cannot be read.
    pub fn reopen(&self) -> Result<()> {
        self.archive.inner.catalog.reopen_if_displaced()?;
        let context = self.context()?;
        let path = names::node_dir(self.id);
        let there = context.storage.listed(&path)?;
        if there.is_empty() && context.record.durable.values().any(|at| *at > Position::ORIGIN) {
            return Err(Error::Displaced { path, found: "nothing".into() });
        }
        Ok(())
    }

    /// Opens its one writer.
    pub fn open_writer_with(&self, options: WriterOptions) -> Result<Writer> {
        let inner = &self.archive.inner;
        Writer::open(OpenWriter {
            storage: &inner.storage,
            catalog: &inner.catalog,
            clock: &inner.options.clock,
            actor: &inner.options.actor,
            node: self.id,
            options,
        })
    }

    /// The earliest and latest state that can be restored now.
    pub fn window(&self) -> Result<Window> {
        self.look(|context| window(&context.log, &context.view(), &Target::Latest))
    }

    /// The commit that a target names.
    pub fn resolve(&self, target: &Target) -> Result<Resolved> {
        self.look(|context| resolve(&context.log, &context.view(), target))
    }

    /// The files that a restore of a target would read.
    pub fn plan(&self, target: &Target) -> Result<Plan> {
        self.look(|context| {
            let at = context.resolve(target)?;
            context.plan(at)
        })
    }

    /// Begins a restore.
    pub fn restore(&self, target: Target) -> Restore<'_> {
        Restore::new(self, target)
    }

    /// Builds a snapshot as of a target from what is archived; the engine is not involved.
    pub fn build_snapshot(
        &self,
        target: &Target,
        options: &CompactOptions,
    ) -> Result<MaintainReport> {
        let to = self.resolve(target)?;
        let mut builder = self.builder()?;
        builder.context.follow(to.timeline);
        build_snapshot(&mut builder, to.lsn.into(), options)
    }

    /// Builds the layers and snapshots that are due, so that restores stay fast. Call it from time
    /// to time, in any process; it needs no writer and disturbs none.
    pub fn maintain(&self, options: &CompactOptions) -> Result<MaintainReport> {
        maintain(&mut self.builder()?, options)
    }

    /// Layers and snapshots there are, in order of publication.
    pub fn layers(&self) -> Result<Vec<LayerRecord>> {
        Ok(self.context()?.record.layers)
    }

    /// Restore points by name.
    pub fn restore_points(&self) -> Result<BTreeMap<String, RestorePointRecord>> {
        Ok(self.context()?.record.restore_points)
    }

    /// Looks at the node by what the catalog says now. A sweep may remove what is listed here, or
    /// was gone by, and is no longer needed; its entry comes after that. So what looks like damage
    /// is damage if it is found again by the same state.
    pub(crate) fn look<T>(&self, mut look: impl FnMut(&mut NodeContext) -> Result<T>) -> Result<T> {
        /// Each time something else is found, or the state is another: a storage that lies would go
        /// on for ever.
        const LOOKS: usize = 16;
        let mut before = None;
        for _ in 1..LOOKS {
            let mut context = self.context()?;
            let retention = context.record.retention.clone();
            let error = match look(&mut context) {
                Err(e) if e.is_damage() => e,
                done => return done,
            };
            let found = Some((retention, error.to_string()));
            if found == before {
                return Err(error);
            }
            before = found;
        }
        look(&mut self.context()?)
    }

    pub(crate) fn context(&self) -> Result<NodeContext> {
        let context = self.archive.context(self.id)?;
        if context.record.retention.deletion == Deletion::Final {
            return Err(Error::NoSuchNode { node: self.name.clone() });
        }
        Ok(context)
    }

    fn builder(&self) -> Result<Builder> {
        Ok(self.archive.builder(self.context()?, self.archive.inner.options.actor.clone()))
    }
}
