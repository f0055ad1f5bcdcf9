//! Carries a program out, against an archive and against the model.

use std::collections::VecDeque;
use std::sync::Arc;

use rewound::env::Clock;
use rewound::storage::{CrashPlan, MemStorage};
use rewound::{
    Archive, BaseSpace, CompactOptions, Consistency, Durability, Lsn, MaintainReport, Node, Origin,
    PageSize, PageSource, Position, SpaceId, Target, TimelineId, Timestamp, Writer, bench_support,
};

use super::draft::{Desk, Draft, commit, noise};
use super::history::{Effect, Model, State};
use super::oracle::{Oracle, Share};
use super::program::{Between, Change, How, Loss, Program, Step, Tuning};
use crate::support::{TestClock, archive_options, key};

/// The pages of an engine that commits while they are read.
struct Engine<'a> {
    writer: &'a Writer,
    model: &'a mut Model,
    desk: &'a mut Desk,
    meanwhile: VecDeque<&'a [Change]>,
    exact: bool,
    /// Builds layers after each commit.
    maintain: Option<(Node, CompactOptions)>,
    /// The engine's own snapshot, where it took one.
    frozen: Option<State>,
}

impl Engine<'_> {
    /// A commit is in the log before its pages can be read.
    fn go_on(&mut self) {
        if let Some(changes) = self.meanwhile.pop_front() {
            let how =
                if self.meanwhile.len().is_multiple_of(2) { How::Synced } else { How::Buffered };
            commit(self.writer, self.model, self.desk, changes, how);
            if let Some((node, options)) = &self.maintain {
                node.maintain(options).unwrap();
            }
        }
    }

    fn read(&self, space: SpaceId, start: usize, buf: &mut [u8]) {
        let state = self.frozen.as_ref().unwrap_or(self.model.state());
        // A space that was dropped meanwhile has nothing to read.
        if let Some(bytes) = state.spaces.get(&space).and_then(|s| s.bytes.get(start..)) {
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
        }
    }
}

impl PageSource for Engine<'_> {
    fn begin(&mut self, position: Position) -> rewound::Result<Consistency> {
        assert_eq!(position.get(), self.model.len() as u64);
        self.frozen = self.exact.then(|| self.model.state().clone());
        self.go_on();
        Ok(if self.exact { Consistency::Frozen } else { Consistency::Fuzzy })
    }

    fn read_pages(
        &mut self,
        space: BaseSpace<'_>,
        first: u64,
        buf: &mut [u8],
    ) -> rewound::Result<()> {
        let start = usize::try_from(first).unwrap() * space.page_size.bytes();
        // Even a single page may be caught half before a commit and half after it.
        let torn = buf.len() * 5 / 11;
        let (before, after) = buf.split_at_mut(torn);
        self.go_on();
        self.read(space.id, start, before);
        self.go_on();
        self.read(space.id, start + torn, after);
        Ok(())
    }

    fn end(&mut self) -> rewound::Result<()> {
        self.go_on();
        Ok(())
    }
}

/// A timeline that was left, as it was then. The numbers of timelines are dense, from 1.
#[derive(Debug)]
pub struct Left {
    /// It was written after this time.
    pub begun: Timestamp,
    pub model: Model,
}

/// A node with its model.
pub struct Estate {
    pub node: Node,
    /// Of the timeline that is written.
    pub model: Model,
    /// That is written since this time.
    pub begun: Timestamp,
    pub older: Vec<Left>,
    /// The commit of another estate's node that it was branched from.
    branched: Option<(usize, TimelineId, usize)>,
    writer: Option<Writer>,
}

impl Estate {
    fn open(node: Node, tuning: &Tuning, model: Model) -> Estate {
        let writer = Some(node.open_writer_with(tuning.writer()).unwrap());
        Estate { node, model, begun: Timestamp::ZERO, older: Vec::new(), branched: None, writer }
    }

    fn timeline(&self) -> TimelineId {
        TimelineId::new(u32::try_from(self.older.len() + 1).unwrap())
    }

    /// A writer opened on a timeline that nothing was written to: its times come after all that are
    /// known of the node.
    fn begin(&mut self, desk: &Desk) {
        let known = self
            .older
            .iter()
            .map(|left| left.model.known_until)
            .chain([self.model.known_until])
            .max()
            .unwrap();
        let until = desk.clock.now().max(known);
        let (writer, model) = self.parts();
        assert_eq!(writer.tick().unwrap(), until);
        model.known_until = until;
        model.promise(desk.storage.operation_count());
        if !self.older.is_empty() {
            self.begun = until;
        }
    }

    fn parts(&mut self) -> (&Writer, &mut Model) {
        (self.writer.as_ref().unwrap(), &mut self.model)
    }

    /// The engine's content from before the archive: the log knows its lengths and nothing of its
    /// bytes.
    fn adopt(&mut self, salt: u64) {
        let (writer, model) = self.parts();
        let mut batch = writer.batch();
        let mut effects = Vec::new();
        for (n, length) in [(0, 5_000), (1, 70_000u32)] {
            let (name, page_size) = (format!("s{n}"), PageSize::new(512 << (salt % 4)).unwrap());
            let id = batch.create_space(&name, page_size).unwrap();
            batch.set_length(id, length.into()).unwrap();
            effects
                .extend([Effect::Create(id, page_size, name), Effect::Length(id, length.into())]);
        }
        let commit = batch.commit(Durability::Synced).unwrap();
        let mut state = model.with(&effects).unwrap();
        for (seed, space) in (salt..).zip(state.spaces.values_mut()) {
            space.bytes = Arc::new(noise(seed, space.bytes.len()));
        }
        model.push(commit.timestamp, effects, state);
    }

    /// What the writer says of the newest state.
    fn check_writer(&mut self) {
        let (writer, model) = self.parts();
        let state = model.state();
        assert_eq!(writer.newest().get(), model.len() as u64);
        assert_eq!(writer.host_mark(), state.mark);
        for name in ["s0", "s1", "s2", "s3"] {
            let found = state.spaces.iter().find(|(_, s)| s.name == name);
            assert_eq!(writer.space(name), found.map(|(id, _)| *id));
            if let Some((id, space)) = found {
                assert_eq!(writer.space_length(*id), Some(space.bytes.len() as u64));
            }
        }
        for key in ["k0", "k1", "k2", "k3", "k4"] {
            let found = writer.config(key).map(|v| (v.value, v.environment_bound));
            assert_eq!(found, state.config.get(key).cloned());
        }
    }
}

/// An archive with two nodes, those that were branched from them, and their models.
pub struct World {
    desk: Desk,
    archive: Archive,
    estates: Vec<Estate>,
    current: usize,
    tuning: Tuning,
    salt: u64,
    /// Archives opened so far: each has randomness of its own.
    opened: u64,
    /// No crash happens before so many operations.
    crashable: usize,
    dirs: tempfile::TempDir,
}

impl World {
    pub fn new(program: &Program) -> World {
        let (storage, clock) = (MemStorage::new(), TestClock::new());
        let options = archive_options(&clock, 0);
        let archive = Archive::create_in(Arc::new(storage.clone()), key(), options).unwrap();
        let origin = if program.existing { Origin::Existing } else { Origin::Empty };
        let estates = [("a", origin), ("b", Origin::Empty)].map(|(name, origin)| {
            let node = archive.create_node(name, origin).unwrap();
            Estate::open(node, &program.tuning, Model::new(origin == Origin::Empty))
        });
        let estates = estates.into();
        let mut world = World {
            desk: Desk { storage, clock, named: 0 },
            archive,
            estates,
            current: 0,
            tuning: program.tuning.clone(),
            salt: program.salt,
            opened: 0,
            crashable: 0,
            dirs: tempfile::tempdir().unwrap(),
        };
        if program.existing {
            world.estates[0].adopt(program.salt);
        }
        world.crashable = world.desk.storage.operation_count();
        for estate in &mut world.estates {
            estate.model.promise(world.crashable);
        }
        world
    }

    pub fn step(&mut self, step: &Step) {
        let estate = &mut self.estates[self.current];
        let desk = &mut self.desk;
        match step {
            Step::Commit(changes, how) => {
                let (writer, model) = estate.parts();
                commit(writer, model, desk, changes, *how);
            }
            Step::SideBySide { first, second, late, between, how } => {
                let (writer, model) = estate.parts();
                let mut a = Draft::new(writer, model);
                let mut b = Draft::new(writer, model);
                a.changes(first, model, desk);
                b.changes(second, model, desk);
                a.commit(model, desk, None, *how);
                self.between(*between);
                let model = &mut self.estates[self.current].model;
                b.changes(late, model, &mut self.desk);
                b.commit(model, &self.desk, None, *how);
            }
            Step::Abort(changes) => {
                let (writer, model) = estate.parts();
                Draft::new(writer, model).changes(changes, model, desk);
            }
            Step::CommitAt { changes, ahead, refused } => {
                let (writer, model) = estate.parts();
                let mut draft = Draft::new(writer, model);
                draft.changes(changes, model, desk);
                let newest = model.newest().as_nanos();
                let time = if *refused { newest } else { newest + 1 + u64::from(*ahead) };
                draft.commit(model, desk, Some(Timestamp::from_nanos(time)), How::Synced);
            }
            Step::Between(between) => self.between(*between),
            Step::Advance(nanos) => desk.clock.advance((*nanos).into()),
            Step::Back(nanos) => desk.clock.set(desk.clock.now().as_nanos() - u64::from(*nanos)),
            Step::Reopen { archive } => self.reopen(*archive),
            Step::Crash { unsynced, back, slow, read, again } => {
                if *slow {
                    desk.clock.set(desk.clock.now().as_nanos() - 5_000_000_000);
                }
                self.crash(*unsynced, (*back).into(), *read);
                if *again {
                    self.crash(Loss::Lost, 0, !read);
                }
            }
            Step::Snapshot(n) => {
                if let Ok(window) = estate.node.window() {
                    let (first, last) = (window.earliest.lsn.get(), window.latest.lsn.get());
                    let lsn = Lsn::new(first + u64::from(*n) % (last - first + 1)).unwrap();
                    estate.node.build_snapshot(&Target::Lsn(lsn), &self.tuning.compact()).unwrap();
                }
            }
            Step::Base { exact, maintain, meanwhile } => self.base(*exact, *maintain, meanwhile),
            Step::Switch => self.current = (self.current + 1) % self.estates.len(),
            Step::Fork { at, own_node } => self.fork((*at).into(), *own_node),
            Step::Look(n) => self.look(Share::Some(self.salt ^ u64::from(*n))),
        }
        self.estates[self.current].check_writer();
    }

    /// The end of a program: everything is checked, as it is, with all layers that can be built,
    /// and when opened anew.
    pub fn finish(mut self) {
        for current in 0..self.estates.len() {
            self.current = current;
            self.between(Between::Flush);
            self.look(Share::All);
            self.between(Between::Maintain);
            let (node, model) = (&self.estates[current].node, &self.estates[current].model);
            if model.earliest().is_some() {
                if self.tuning.layer_log_bytes == 1 {
                    let plan = node.plan(&Target::Latest).unwrap();
                    assert_eq!(plan.log_from, plan.target, "all of the log is in layers");
                }
                assert_eq!(
                    node.maintain(&self.tuning.compact()).unwrap(),
                    MaintainReport::default()
                );
            }
            self.look(Share::Some(self.salt));
        }
        self.reopen(true);
        for current in 0..self.estates.len() {
            self.current = current;
            self.look(Share::Some(!self.salt));
        }
    }

    fn look(&self, share: Share) {
        let Estate { node, model, begun, older, .. } = &self.estates[self.current];
        let (replay, dirs) = (self.tuning.compact().replay, self.dirs.path());
        let named = None;
        Oracle { node, model, named, begun: *begun, older, replay, dirs, salt: self.salt }
            .check(share);
    }

    fn between(&mut self, between: Between) {
        let compact = self.tuning.compact();
        let estate = &mut self.estates[self.current];
        let node = estate.node.clone();
        let (writer, model) = estate.parts();
        match between {
            Between::Nothing => return,
            Between::Maintain => {
                node.maintain(&compact).unwrap();
                return;
            }
            Between::Tick => {
                let until = self.desk.clock.now().max(model.known_until);
                assert_eq!(writer.tick().unwrap(), until);
                model.known_until = until;
            }
            Between::Flush => assert_eq!(writer.flush().unwrap().get(), model.len() as u64),
            Between::Cut => writer.rotate_segment().unwrap(),
        }
        assert_eq!(writer.durable(), writer.newest());
        model.promise(self.desk.storage.operation_count());
    }

    fn base(&mut self, exact: bool, maintain: bool, meanwhile: &[Vec<Change>]) {
        let compact = self.tuning.compact();
        let maintain = maintain.then(|| (self.estates[self.current].node.clone(), compact.clone()));
        let (writer, model) = self.estates[self.current].parts();
        let began = model.len();
        let meanwhile = meanwhile.iter().map(Vec::as_slice).collect();
        let mut engine = Engine {
            writer,
            model,
            desk: &mut self.desk,
            meanwhile,
            exact,
            maintain,
            frozen: None,
        };
        let from = writer.base_snapshot(&mut engine, &compact).unwrap();
        let from = usize::try_from(from.get()).unwrap();
        if exact {
            assert_eq!(from, began);
        } else {
            assert_eq!(from, model.len());
            model.promise(self.desk.storage.operation_count());
        }
        model.bases.push((self.desk.storage.operation_count(), from));
    }

    /// Goes on from a commit of the current node, be it on a timeline of its own or as another
    /// node.
    fn fork(&mut self, at: usize, own_node: bool) {
        self.between(Between::Flush);
        let number = self.estates.len();
        let estate = &mut self.estates[self.current];
        let Some(earliest) = estate.model.earliest() else { return };
        let n = earliest + at % (estate.model.len() - earliest + 1);
        let target = Target::Lsn(Lsn::new(n as u64).unwrap());
        let mut model = estate.model.fork(n, own_node);
        if own_node {
            if number == 4 {
                return;
            }
            let (parent, timeline) = (estate.node.clone(), estate.timeline());
            let node = self.archive.create_node(&format!("c{number}"), Origin::Existing).unwrap();
            bench_support::branch(&parent, &target, &node).unwrap();
            let mut branch = Estate::open(node, &self.tuning, model);
            branch.branched = Some((self.current, timeline, n));
            branch.begin(&self.desk);
            self.estates.push(branch);
        } else {
            estate.writer.take().unwrap().close().unwrap();
            let timeline = bench_support::fork(&estate.node, &target).unwrap();
            std::mem::swap(&mut estate.model, &mut model);
            estate.older.push(Left { begun: estate.begun, model });
            assert_eq!(timeline, estate.timeline());
            estate.writer = Some(estate.node.open_writer_with(self.tuning.writer()).unwrap());
            estate.begin(&self.desk);
        }
        // What was left is there for good.
        self.crashable = self.desk.storage.operation_count();
    }

    /// The node of an estate in the archive as it is opened now, which has not heard of branches.
    fn find(&self, i: usize) -> Node {
        let estate = &self.estates[i];
        let node = self.archive.node(estate.node.name()).unwrap();
        if let Some((parent, timeline, n)) = estate.branched {
            let target = Target::OnTimeline(timeline, Lsn::new(n as u64).unwrap());
            bench_support::branch(&self.find(parent), &target, &node).unwrap();
        }
        node
    }

    /// Opens the archive in some storage.
    fn open_archive(&mut self, storage: &MemStorage) {
        self.opened += 1;
        let options = archive_options(&self.desk.clock, self.opened);
        self.archive = Archive::open_in(Arc::new(storage.clone()), key(), options).unwrap();
    }

    fn reopen(&mut self, archive: bool) {
        for estate in &mut self.estates {
            estate.writer.take().unwrap().close().unwrap();
            estate.model.promise(self.desk.storage.operation_count());
        }
        if archive {
            self.open_archive(&self.desk.storage.clone());
        }
        for i in 0..self.estates.len() {
            let node = self.find(i);
            let estate = &mut self.estates[i];
            estate.node = node;
            estate.writer = Some(estate.node.open_writer_with(self.tuning.writer()).unwrap());
        }
    }

    /// A crash after all but the last `back` operations; everything begins anew with what it left.
    fn crash(&mut self, unsynced: Loss, back: usize, read: bool) {
        let at = self.desk.storage.operation_count().saturating_sub(back).max(self.crashable);
        let image = self.desk.storage.crash_image(match unsynced {
            Loss::Kept => CrashPlan::kept(at),
            Loss::Lost => CrashPlan::lost(at),
            Loss::Seeded(seed) => CrashPlan::seeded(at, seed),
        });
        self.open_archive(&image);
        self.desk.storage = image;
        self.crashable = 0;
        for i in 0..self.estates.len() {
            let node = self.find(i);
            let estate = &mut self.estates[i];
            let model = &mut estate.model;
            let seen = read.then(|| node.window());
            let writer = node.open_writer_with(self.tuning.writer()).unwrap();
            let position = usize::try_from(writer.newest().get()).unwrap();
            if let Some(Ok(window)) = seen {
                assert_eq!(
                    window.latest.lsn.get(),
                    writer.newest().get(),
                    "readers and the writer find the same end"
                );
                model.cut(at, position, window.known_until);
            } else {
                let known =
                    model.moments[..position].last().map_or(Timestamp::ZERO, |m| m.timestamp);
                model.cut(at, position, known.max(model.promised(at).1));
                let until = writer.tick().unwrap();
                assert!(until >= model.known_until, "a crash took a promised tick");
                model.known_until = until;
            }
            let operations = self.desk.storage.operation_count();
            model.promise(operations);
            let layers = node.layers().unwrap();
            let left: Vec<usize> = layers
                .iter()
                .filter(|l| l.from.is_none())
                .map(|l| usize::try_from(l.consistent_from.get()).unwrap())
                .collect();
            let promised: Vec<usize> =
                model.bases.iter().filter(|(o, _)| *o <= at).map(|(_, from)| *from).collect();
            // Those of before it was branched off are another node's.
            let before = estate.branched.map_or(0, |(_, _, n)| n);
            let own = |from: &&usize| **from > before;
            assert!(
                promised.iter().filter(own).all(|from| left.contains(from)),
                "a crash took a base copy"
            );
            let since = |from: &usize| if promised.contains(from) { 0 } else { operations };
            let mut bases: Vec<_> = left.iter().map(|from| (since(from), *from)).collect();
            bases.extend(promised.iter().filter(|from| !own(from)).map(|from| (0, *from)));
            model.bases = bases;
            estate.node = node;
            // The writer of before is dropped with the storage of before.
            estate.writer = Some(writer);
        }
    }
}
