//! A run against an archive, and the ledger of what the archive was told and what it acknowledged.
//!
//! Every change goes to the archive and to a plain model at once, so that whatever
//! is left of the archive later can be compared with what was there at each commit.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rewound::storage::MemStorage;
use rewound::{
    Batch, ConfigScope, Durability, Error, Lsn, Node, PageId, PageSize, Position, ReplayOptions,
    Result, SpaceId, Target, Timestamp, Writer,
};

/// The bytes of every space by name.
pub type Spaces = BTreeMap<String, Vec<u8>>;

/// One change of a batch.
#[derive(Clone, Debug)]
pub enum Change {
    /// Creates a space; see [`page_size`].
    Create(&'static str),
    /// Writes a page with an image made from a seed, with the previous image or without.
    Page(&'static str, u64, u64, bool),
    /// Writes some bytes of a page.
    Range(&'static str, u64, usize, &'static [u8]),
    /// Sets the length of a space.
    Length(&'static str, u64),
    /// Drops a space.
    Drop(&'static str),
    /// A logical record of so many bytes that do not compress.
    Record(usize),
    /// Says up to which commit records are contained in the pages.
    RedoPoint(u64),
    /// A restore point.
    Point(&'static str),
    /// Configuration, a mark, a transaction id and an annotation.
    Beside(&'static str),
}

/// Pages of the space "wide" are larger than all others.
pub fn page_size(space: &str) -> PageSize {
    PageSize::new(if space == "wide" { 2_048 } else { 512 }).unwrap()
}

/// A page image: mostly the same for all seeds.
pub fn image(space: &str, seed: u64) -> Vec<u8> {
    let size = page_size(space).bytes();
    let mut image: Vec<u8> = (0..size).map(|i| (i / 5) as u8).collect();
    image[8..16].copy_from_slice(&seed.to_le_bytes());
    image[size - 9..size - 1].copy_from_slice(&(seed * 31).to_le_bytes());
    image
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

impl Change {
    /// What it does to the model.
    pub fn apply(&self, spaces: &mut Spaces) {
        match self {
            Change::Create(name) => {
                spaces.insert((*name).to_owned(), Vec::new());
            }
            Change::Page(name, page, seed, _) => {
                let (bytes, at) = grown(spaces, name, *page);
                let image = image(name, *seed);
                bytes[at..at + image.len()].copy_from_slice(&image);
            }
            Change::Range(name, page, offset, range) => {
                let (bytes, at) = grown(spaces, name, *page);
                bytes[at + offset..at + offset + range.len()].copy_from_slice(range);
            }
            Change::Length(name, length) => {
                spaces.get_mut(*name).unwrap().resize(*length as usize, 0);
            }
            Change::Drop(name) => {
                spaces.remove(*name);
            }
            Change::Record(_) | Change::RedoPoint(_) | Change::Point(_) | Change::Beside(_) => {}
        }
    }

    fn put(
        &self,
        batch: &mut Batch,
        ids: &mut BTreeMap<String, SpaceId>,
        spaces: &Spaces,
    ) -> Result<()> {
        match self {
            Change::Create(name) => {
                ids.insert((*name).to_owned(), batch.create_space(name, page_size(name))?);
                Ok(())
            }
            Change::Page(name, page, seed, with_previous) => {
                let size = page_size(name).bytes();
                let start = *page as usize * size;
                let previous = spaces[*name].get(start..start + size).filter(|_| *with_previous);
                batch.write_page(PageId::new(ids[*name], *page), &image(name, *seed), previous)
            }
            Change::Range(name, page, offset, range) => {
                batch.write_range(PageId::new(ids[*name], *page), *offset, range)
            }
            Change::Length(name, length) => batch.set_length(ids[*name], *length),
            Change::Drop(name) => batch.drop_space(ids[*name]),
            Change::Record(len) => batch.log_record(&noise(*len)),
            Change::RedoPoint(at) => batch.redo_point(Position::new(*at)),
            Change::Point(name) => batch.restore_point(name),
            Change::Beside(text) => {
                batch.set_config("engine", text.as_bytes(), ConfigScope::Data)?;
                batch.set_config("address", b"localhost", ConfigScope::Environment)?;
                batch.remove_config("gone")?;
                batch.mark(text.as_bytes())?;
                batch.global_transaction(b"g-1")?;
                batch.annotate("note", text)
            }
        }
    }
}

fn grown<'s>(spaces: &'s mut Spaces, name: &str, page: u64) -> (&'s mut Vec<u8>, usize) {
    let size = page_size(name).bytes();
    let bytes = spaces.get_mut(name).unwrap();
    let start = page as usize * size;
    bytes.resize(bytes.len().max(start + size), 0);
    (bytes, start)
}

/// One commit that was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Operations of the storage before it was asked for.
    pub begun: usize,
    /// The state that it makes.
    pub spaces: Spaces,
    /// Its time, once it was told.
    pub timestamp: Option<Timestamp>,
    /// The restore point that it carries.
    pub point: Option<&'static str>,
}

/// What is known of one node.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Operations after which its creation was acknowledged.
    pub created: Option<usize>,
    /// Whether it had content before its first commit.
    pub existing: bool,
    /// Its commits, from LSN 1.
    pub commits: Vec<Asked>,
    /// Operations after which a position was acknowledged as durable.
    pub durable: Vec<(usize, u64)>,
    /// Operations after which a restore point was acknowledged, and its commit.
    pub points: Vec<(usize, &'static str, u64)>,
    /// Operations after which a base snapshot was acknowledged, and from where on it serves.
    pub base: Option<(usize, u64)>,
}

impl Told {
    /// The newest state.
    pub fn newest(&self) -> Spaces {
        self.commits.last().map(|c| c.spaces.clone()).unwrap_or_default()
    }

    /// The newest position that was acknowledged as durable within the first `at` operations.
    pub fn durable_at(&self, at: usize) -> u64 {
        self.durable.iter().filter(|(count, _)| *count <= at).map(|(_, p)| *p).max().unwrap_or(0)
    }

    /// How many commits were asked for within the first `at` operations, or at that moment.
    pub fn asked_at(&self, at: usize) -> u64 {
        self.commits.iter().filter(|c| c.begun <= at).count() as u64
    }

    /// From which position on the node has to be restorable after `at` operations, if at all.
    pub fn serves_at(&self, at: usize) -> Option<u64> {
        if self.existing {
            self.base.filter(|(count, _)| *count <= at).map(|(_, from)| from)
        } else {
            Some(1)
        }
    }

    /// Takes what was acknowledged so far for a thing of the past, so that operations can be
    /// counted anew, and forgets every commit that a crash took.
    pub fn survive(&mut self, latest: u64, at: usize) {
        self.commits.truncate(latest as usize);
        for commit in &mut self.commits {
            commit.begun = 0;
        }
        self.durable = vec![(0, latest)];
        self.points.retain(|(count, _, lsn)| *count <= at && *lsn <= latest);
        for point in &mut self.points {
            point.0 = 0;
        }
        self.created = self.created.filter(|count| *count <= at).map(|_| 0);
        self.base = self.base.filter(|(count, _)| *count <= at).map(|(_, from)| (0, from));
    }
}

/// Everything that an archive was told.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Operations after which the creation of the archive was acknowledged.
    pub created: Option<usize>,
    /// By name of the node.
    pub nodes: BTreeMap<&'static str, Told>,
}

/// A storage and its ledger.
#[derive(Debug)]
pub struct Run {
    pub storage: MemStorage,
    pub ledger: Ledger,
}

impl Run {
    pub fn told(&mut self, node: &'static str) -> &mut Told {
        self.ledger.nodes.entry(node).or_default()
    }

    /// Notes what a writer says is durable now.
    pub fn note_durable(&mut self, node: &'static str, position: Position) {
        let count = self.storage.operation_count();
        self.told(node).durable.push((count, position.get()));
    }

    /// Commits changes to a node and to its model.
    pub fn commit(
        &mut self,
        node: &'static str,
        writer: &Writer,
        durability: Durability,
        changes: &[Change],
    ) -> Result<Lsn> {
        let begun = self.storage.operation_count();
        let mut spaces = self.told(node).newest();
        let mut ids = BTreeMap::new();
        for name in spaces.keys() {
            ids.insert(name.clone(), writer.space(name).unwrap());
        }
        let mut batch = writer.batch();
        let mut point = None;
        for change in changes {
            change.put(&mut batch, &mut ids, &spaces)?;
            change.apply(&mut spaces);
            if let Change::Point(name) = change {
                point = Some(*name);
            }
        }
        self.told(node).commits.push(Asked { begun, spaces, timestamp: None, point });
        let commit = batch.commit(durability).inspect_err(|e| assert_poisoned(writer, e))?;
        let count = self.storage.operation_count();
        let told = self.told(node);
        assert_eq!(commit.lsn.get(), told.commits.len() as u64);
        told.commits.last_mut().unwrap().timestamp = Some(commit.timestamp);
        if durability == Durability::Synced {
            assert!(
                writer.durable() >= commit.lsn.into(),
                "acknowledged as synced and not durable"
            );
        }
        if let Some(name) = point {
            told.points.push((count, name, commit.lsn.get()));
        }
        self.note_durable(node, writer.durable());
        Ok(commit.lsn)
    }
}

/// Options of a restore without threads.
pub fn single() -> ReplayOptions {
    let mut options = ReplayOptions::default();
    options.threads = 1;
    options
}

/// Restores into memory, pages only.
pub fn restore(node: &Node, target: Target) -> Result<(u64, Spaces)> {
    let (report, spaces) =
        node.restore(target).options(single()).unaudited().skip_redo().into_memory()?;
    Ok((report.lsn.get(), spaces))
}

/// The target of an LSN.
pub fn lsn(number: u64) -> Target {
    Target::Lsn(Lsn::new(number).unwrap())
}

/// Says where two states differ, briefly.
pub fn assert_same(found: &Spaces, expected: &Spaces, what: &dyn std::fmt::Display) {
    if found == expected {
        return;
    }
    let names = |s: &Spaces| {
        s.iter().map(|(k, v)| format!("{k}: {} bytes", v.len())).collect::<Vec<_>>().join(", ")
    };
    for (name, bytes) in expected {
        if let Some(other) = found.get(name) {
            let at = bytes.iter().zip(other).position(|(a, b)| a != b);
            assert!(at.is_none(), "{what}: space {name} differs from byte {at:?} on");
        }
    }
    panic!("{what}: found [{}], expected [{}]", names(found), names(expected));
}

/// After a failed write or sync a writer accepts nothing more.
pub fn assert_poisoned(writer: &Writer, error: &Error) {
    if !matches!(error, Error::Storage { .. } | Error::DiskFull { .. }) {
        return;
    }
    let refused = |e: Option<Error>| {
        assert!(matches!(e, Some(Error::Poisoned { .. })), "{error}, then {e:?}");
    };
    refused(writer.batch().commit(Durability::Synced).err());
    refused(writer.batch().commit(Durability::Buffered).err());
    refused(writer.flush().err());
    refused(writer.tick().err());
    refused(writer.rotate_segment().err());
}

/// Runs `work` over items, on two threads.
pub fn on_two<T: Send>(items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let items = Mutex::new(items);
    std::thread::scope(|scope| {
        let run = || {
            loop {
                let next = items.lock().next();
                let Some(item) = next else { break };
                work(item);
            }
        };
        let other = scope.spawn(run);
        run();
        if let Err(panic) = other.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
