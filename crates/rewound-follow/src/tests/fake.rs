//! A database that fails as a test says.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rewound::storage::MemStorage;
use rewound::{
    Archive, ArchiveOptions, Commit, Durability, KeyFile, Lsn, Origin, PageId, PageSize, Position,
    Timestamp,
};

use super::scene::{CHECK, FakeClock};
use crate::bell::Bell;
use crate::clock::Clock;
use crate::failure::{Failure, Side, Stage};
use crate::handle::Handle;
use crate::report::{Report, State};
use crate::source::Source;

pub const MISSING: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Of the archive's side, with the library's own rules.
    #[error("archive: {0}")]
    Archive(#[from] rewound::Error),
    /// Of the database's side: it may come back soon, where it was there before.
    #[error("no database")]
    Missing,
    /// Of the database's side: somebody has it for themselves.
    #[error("locked")]
    Locked,
}

impl Failure for Fault {
    fn patience(&self, stage: Stage) -> Duration {
        match self {
            Fault::Archive(e) => e.patience(stage),
            Fault::Missing => stage.worked_before(MISSING),
            Fault::Locked => Duration::MAX,
        }
    }

    fn side(&self) -> Side {
        match self {
            Fault::Archive(e) => e.side(),
            Fault::Missing | Fault::Locked => Side::Source,
        }
    }
}

pub fn full() -> Fault {
    rewound::Error::io("write", "segment", ErrorKind::StorageFull.into()).into()
}

pub fn gone() -> Fault {
    rewound::Error::io("open", "archive", ErrorKind::NotFound.into()).into()
}

/// What nothing helps against.
pub fn misused() -> Fault {
    rewound::Error::limit_exceeded("pages", 1, 2).into()
}

fn node() -> rewound::Node {
    let (storage, key) = (Arc::new(MemStorage::new()), KeyFile::from_bytes([1; 32]));
    let archive = Archive::create_in(storage, key, ArchiveOptions::new()).unwrap();
    archive.create_node("app", Origin::Empty).unwrap()
}

/// Another writer has the node.
pub fn busy() -> Fault {
    let node = node();
    let _writer = node.open_writer().unwrap();
    node.open_writer().unwrap_err().into()
}

/// The database is not what the archive was told that it is.
pub fn mismatch() -> Fault {
    let (node, size) = (node(), PageSize::KIB_4);
    let writer = node.open_writer().unwrap();
    let mut batch = writer.batch();
    let page = PageId::new(batch.create_space("main", size).unwrap(), 0);
    let image = |byte| vec![byte; size.bytes()];
    batch.write_page(page, &image(1), None).unwrap();
    batch.commit(Durability::Buffered).unwrap();
    writer.batch().write_page(page, &image(3), Some(&image(2))).unwrap_err().into()
}

/// A call, and what it meets.
type Fails = (&'static str, fn() -> Fault);

/// What the database does next, and what was done to it.
#[derive(Default)]
pub struct World {
    calls: Vec<String>,
    /// What each call meets next, by its name; then all is well.
    faults: Vec<(&'static str, VecDeque<Fault>)>,
    /// What each call meets from now on.
    always: Option<Fails>,
    /// Transactions that each round finds next.
    pub commits: VecDeque<u64>,
    /// Whether there is something to compare, and why.
    pub differs: Option<String>,
    /// Whether the database has something that the archive lacks.
    pub behind: bool,
    archived: u64,
    /// The states that others saw at each call.
    pub seen: Vec<(String, State)>,
    pub handle: Option<Handle<u32>>,
}

/// A world that several look at.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn with<T>(&self, what: impl FnOnce(&mut World) -> T) -> T {
        what(&mut self.0.lock())
    }

    /// The next times that `call` is made it meets these.
    pub fn fails(&self, call: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.with(|w| w.faults.push((call, faults.into_iter().collect())));
    }

    /// From now on `call` meets this, or nothing.
    pub fn always(&self, fault: Option<Fails>) {
        self.with(|w| w.always = fault);
    }

    /// What was done since this was asked last.
    pub fn calls(&self) -> Vec<String> {
        self.with(|w| std::mem::take(&mut w.calls))
    }

    fn call(&self, name: &'static str) -> Result<(), Fault> {
        self.with(|w| {
            w.calls.push(name.into());
            let state = w.handle.as_ref().map(|handle| handle.status().state);
            w.seen.extend(state.map(|state| (name.to_owned(), state)));
            let next =
                w.faults.iter_mut().find(|(call, faults)| *call == name && !faults.is_empty());
            let next = next.and_then(|(_, faults)| faults.pop_front());
            let always = w.always.filter(|(call, _)| *call == name).map(|(_, fault)| fault());
            next.or(always).map_or(Ok(()), Err)
        })
    }
}

/// Says when it is dropped.
pub struct Held {
    name: &'static str,
    world: Shared,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.world.with(|w| w.calls.push(format!("({})", self.name)));
    }
}

pub struct Fake {
    pub world: Shared,
    pub clock: Arc<FakeClock>,
}

impl Fake {
    fn held(&self, name: &'static str) -> Held {
        Held { name, world: self.world.clone() }
    }
}

impl Source for Fake {
    const NAME: &'static str = "the fake";
    type Error = Fault;
    type Details = u32;
    type Away = Vec<String>;
    type Link = Held;
    type Archive = Held;

    fn attach(
        &mut self,
        away: Vec<String>,
        _: &mut Report<u32>,
    ) -> Result<Held, (Vec<String>, Fault)> {
        match self.world.call("attach") {
            Ok(()) => Ok(self.held("link")),
            Err(e) => Err((away, e)),
        }
    }

    fn open(&mut self, _: &mut Held, report: &mut Report<u32>) -> Result<Held, Fault> {
        self.world.call("open")?;
        report.opened(Position::new(self.world.with(|w| w.archived)));
        Ok(self.held("archive"))
    }

    fn begin(&mut self, _: &mut Held, _: &mut Held, report: &mut Report<u32>) -> Result<(), Fault> {
        if let Some(reason) = self.world.with(|w| w.differs.take()) {
            return report.resync(reason, |_| {
                self.clock.pass(Duration::from_secs(2));
                self.world.call("compare").map(|()| (self.world.with(World::commit), 7))
            });
        }
        self.world.call("begin")?;
        report.continued(Position::new(self.world.with(|w| w.archived)));
        Ok(())
    }

    fn round(
        &mut self,
        _: &mut Held,
        _: &mut Held,
        thorough: bool,
        report: &mut Report<u32>,
    ) -> Result<u64, Fault> {
        self.world.call(if thorough { "look and round" } else { "round" })?;
        let commits = self.world.with(|w| w.commits.pop_front().unwrap_or(0));
        report.caught_up();
        let mut newest = None;
        for _ in 0..commits {
            newest = Some(self.world.with(World::commit));
        }
        report.archived(commits, 3 * commits, newest);
        Ok(commits)
    }

    fn wait(&mut self, _: &mut Held, bell: &Bell) {
        self.clock.wait(bell, CHECK);
    }

    fn is_behind(&mut self, _: &mut Held) -> bool {
        self.world.with(|w| w.behind)
    }

    fn measure(&self, _: &Held, report: &mut Report<u32>) {
        *report.details() += 1;
        report.pending(if self.world.with(|w| w.behind) { 4096 } else { 0 });
    }

    fn let_go(&mut self, link: Held) -> Vec<String> {
        self.world.with(|w| w.calls.push("let go".into()));
        drop(link);
        Vec::new()
    }

    fn end(away: Vec<String>) -> Vec<String> {
        away
    }

    fn doubt(&mut self, away: &mut Vec<String>, failure: &Fault) {
        away.push(failure.to_string());
        self.world.with(|w| w.calls.push(format!("doubt: {}", away.join(", "))));
    }

    fn settle(&mut self, _: &mut Held, _: &mut Held, _: &mut Report<u32>) -> Result<(), Fault> {
        self.world.call("settle")
    }

    fn close(&mut self, archive: Held) -> Result<(), Fault> {
        drop(archive);
        self.world.call("close")
    }

    fn part(&mut self, link: Held, archive: Held, _: &mut Report<u32>) -> Result<(), Fault> {
        drop(archive);
        drop(link);
        self.world.call("part")
    }
}

impl World {
    fn commit(&mut self) -> Commit {
        self.archived += 1;
        let lsn = Lsn::new(self.archived).unwrap();
        Commit { lsn, timestamp: Timestamp::from_nanos(self.archived) }
    }
}
