//! Retention, end to end: what is promised stays, what is not goes, and nobody does away with
//! either unseen.

mod attacks;
mod audit;
mod cuts;
mod forks;
mod looking;
mod promises;
mod ransomware;
mod rules;
mod seams;
mod soak;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rewound::storage::MemStorage;
use rewound::{
    Actor, Administrator, Archive, CompactOptions, Durability, Lsn, Node, Origin, PageId, PageSize,
    Result, SweepOptions, SweepReport, Target, Timestamp, Writer,
};

use crate::ledger::single;
use crate::support::{TestClock, archive_options, key, quiet};

pub const HOUR: u64 = 3_600_000_000_000;
pub const DAY: u64 = 24 * HOUR;

pub fn days(days: u64) -> Duration {
    Duration::from_nanos(days * DAY)
}

/// Who does what a test does.
pub fn actor() -> Actor {
    Actor { name: "test".into(), reason: "to see".into() }
}

pub fn compact() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 4_000;
    options.fan_out = 3;
    options.replay = single();
    options
}

pub fn options() -> SweepOptions {
    let mut options = SweepOptions::default();
    options.compact = compact();
    options
}

/// A node with one space of eight pages, and what each of its commits made of it.
pub struct Fixture {
    pub storage: MemStorage,
    pub clock: TestClock,
    pub archive: Archive,
    pub node: Node,
    pub writer: Option<Writer>,
    /// By LSN: time and number that is on page `LSN mod 8`.
    pub commits: BTreeMap<u64, (Timestamp, u64)>,
}

pub const PAGES: u64 = 8;

pub fn image(number: u64) -> Vec<u8> {
    let mut image = vec![7; 512];
    image[..8].copy_from_slice(&number.to_le_bytes());
    image
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::on(MemStorage::without_recording())
    }

    pub fn on(storage: MemStorage) -> Fixture {
        Fixture::with(storage, 1, Origin::Empty)
    }

    /// With randomness of its own, and so with other identities and keys.
    pub fn seeded(seed: u64) -> Fixture {
        Fixture::with(MemStorage::without_recording(), seed, Origin::Empty)
    }

    /// Of an engine that had data before: nothing can be restored before its first base copy.
    pub fn existing() -> Fixture {
        Fixture::with(MemStorage::without_recording(), 1, Origin::Existing)
    }

    fn with(storage: MemStorage, seed: u64, origin: Origin) -> Fixture {
        let clock = TestClock::new();
        let archive =
            Archive::create_in(Arc::new(storage.clone()), key(), archive_options(&clock, seed))
                .unwrap();
        let node = archive.create_node("n", origin).unwrap();
        let mut fixture =
            Fixture { storage, clock, archive, node, writer: None, commits: BTreeMap::new() };
        fixture.open();
        fixture
    }

    pub fn open(&mut self) {
        let mut options = quiet();
        options.segment_bytes = 4_096;
        self.writer = Some(self.node.open_writer_with(options).unwrap());
    }

    pub fn close(&mut self) {
        self.writer.take().unwrap().close().unwrap();
    }

    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().unwrap()
    }

    pub fn admin(&self) -> Administrator {
        self.archive.administrator(actor())
    }

    /// A commit that writes its own number on a page.
    pub fn commit(&mut self) -> u64 {
        self.commit_as(None)
    }

    pub fn commit_as(&mut self, point: Option<&str>) -> u64 {
        let writer = self.writer.as_ref().unwrap();
        let number = self.commits.last_key_value().map_or(0, |(lsn, _)| *lsn) + 1;
        let mut batch = writer.batch();
        let space = match writer.space("s") {
            Some(space) => space,
            None => batch.create_space("s", PageSize::MIN).unwrap(),
        };
        batch.write_page(PageId::new(space, number % PAGES), &image(number), None).unwrap();
        if let Some(point) = point {
            batch.restore_point(point).unwrap();
        }
        let commit = batch.commit(Durability::Synced).unwrap();
        assert_eq!(commit.lsn.get(), number);
        self.commits.insert(number, (commit.timestamp, number));
        number
    }

    /// Commits so many times a day, sealing the segment of each day.
    pub fn live(&mut self, days: u64, a_day: u64) {
        for _ in 0..days {
            for _ in 0..a_day {
                self.clock.advance(DAY / a_day);
                self.commit();
            }
            self.writer().rotate_segment().unwrap();
            self.writer().tick().unwrap();
        }
    }

    /// The same for as many days, the last commit with a restore point.
    pub fn live_with(&mut self, days: u64, a_day: u64, point: &str) {
        for n in 1..=days * a_day {
            self.clock.advance(DAY / a_day);
            self.commit_as((n == days * a_day).then_some(point));
        }
        self.writer().rotate_segment().unwrap();
        self.writer().tick().unwrap();
    }

    pub fn sweep(&self) -> SweepReport {
        let report = self.admin().sweep(&options()).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        report
    }

    /// What the space was after a commit.
    pub fn model(&self, lsn: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, _) in self.commits.range(..=lsn) {
            let at = (number % PAGES) as usize * 512;
            bytes.resize(bytes.len().max(at + 512), 0);
            bytes[at..at + 512].copy_from_slice(&image(*number));
        }
        bytes
    }

    /// What a restore gives.
    pub fn restore(&self, target: Target) -> Result<(u64, Vec<u8>)> {
        let restore = self.node.restore(target).options(single()).unaudited();
        let (report, mut spaces) = restore.into_memory()?;
        Ok((report.lsn.get(), spaces.remove("s").unwrap()))
    }

    /// A commit has to be restorable, by number and by time.
    pub fn check(&self, lsn: u64, what: &str) {
        let (found, bytes) =
            self.restore(at(lsn)).unwrap_or_else(|e| panic!("{what}: LSN {lsn}: {e}"));
        assert_eq!(found, lsn, "{what}");
        assert!(bytes == self.model(lsn), "{what}: LSN {lsn} differs");
        let time = self.commits[&lsn].0;
        let resolved = self
            .node
            .resolve(&Target::Time(time))
            .unwrap_or_else(|e| panic!("{what}: {lsn} by time: {e}"));
        assert_eq!(resolved.lsn.get(), lsn, "{what}: by time");
    }

    pub fn now(&self) -> Timestamp {
        rewound::env::Clock::now(&self.clock)
    }

    /// The last commit at or before a time.
    pub fn at_time(&self, time: Timestamp) -> Option<u64> {
        self.commits.iter().rev().find(|(_, (t, _))| *t <= time).map(|(lsn, _)| *lsn)
    }
}

pub fn at(lsn: u64) -> Target {
    Target::Lsn(Lsn::new(lsn).unwrap())
}

/// Waits until each sweeper has ended another sweep since the last call: where the clock goes on
/// for a day between two calls, no sweep sees it go on for three, however slow the machine is.
fn wait_for_sweeps(sweeps: &[&AtomicU64], before: &mut [u64]) {
    let patience = Instant::now() + Duration::from_secs(120);
    for (sweeps, before) in sweeps.iter().zip(before) {
        while sweeps.load(Ordering::SeqCst) <= *before {
            assert!(Instant::now() < patience, "a sweeper has stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        *before = sweeps.load(Ordering::SeqCst);
    }
}
