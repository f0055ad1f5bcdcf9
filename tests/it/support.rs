//! What several tests need.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rewound::env::{Clock, Rng};
use rewound::storage::MemStorage;
use rewound::{Archive, ArchiveOptions, KeyFile, Result, Timestamp, WriterOptions};

/// A clock that a test moves.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    /// Starts in 2026.
    pub fn new() -> TestClock {
        TestClock(Arc::new(AtomicU64::new(1_790_000_000_000_000_000)))
    }

    /// A clock of its own that shows what another one does now.
    pub fn at(other: &TestClock) -> TestClock {
        TestClock(Arc::new(AtomicU64::new(other.0.load(Ordering::SeqCst))))
    }

    pub fn advance(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }

    pub fn set(&self, nanos: u64) {
        self.0.store(nanos, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// Randomness from a seed, so that a run can be repeated.
#[derive(Debug)]
pub struct TestRng(AtomicU64);

impl TestRng {
    pub fn new(seed: u64) -> TestRng {
        TestRng(AtomicU64::new(seed))
    }
}

impl Rng for TestRng {
    fn fill(&self, buf: &mut [u8]) -> Result<()> {
        for chunk in buf.chunks_mut(8) {
            let z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

pub fn key() -> KeyFile {
    KeyFile::from_bytes([7; 32])
}

pub fn archive_options(clock: &TestClock, seed: u64) -> ArchiveOptions {
    ArchiveOptions::new().clock(clock.clone()).rng(TestRng::new(seed))
}

/// A writer without a thread, so that runs repeat exactly.
pub fn quiet() -> WriterOptions {
    let mut options = WriterOptions::default();
    options.flush_interval = None;
    options
}

/// A new archive in memory.
pub fn memory_archive(clock: &TestClock) -> (MemStorage, Archive) {
    let storage = MemStorage::new();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), archive_options(clock, 1)).unwrap();
    (storage, archive)
}
