//! The logs that are compared, each behind the same two calls.
//!
//! | | what a synced append promises | settings other than the defaults |
//! |---|---|---|
//! | raw | the bytes are on the disk; nothing finds them again | overwrites a file whose blocks are allocated and written |
//! | rewound | durable; encrypted and authenticated; in order with all before it; has a time | none |
//! | raft-engine | durable; CRC-32; its entries are indexed in memory | no LZ4, which incompressible payloads would only pay for |
//! | okaywal | durable; CRC-32 | files of 64 MiB, as the others' are large, instead of 1 MiB with a checkpoint each |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use rewound::{Archive, Durability, KeyFile, Node, Origin, Writer, WriterOptions};

/// A log under test.
pub trait Log: Sync {
    fn name(&self) -> &'static str;

    /// Appends a record and returns once it is on the disk. `thread` is the caller's number.
    fn append_synced(&self, thread: usize, record: &[u8]);

    /// Appends all, one record at a time as far as the log can, and returns once all are on the
    /// disk.
    fn append_all(&self, records: &[&[u8]]);
}

/// The least that a disk allows: overwriting as many bytes of a file that is there already.
pub struct Raw {
    file: File,
    at: AtomicU64,
}

impl Raw {
    const FILE: u64 = 64 << 20;

    pub fn create(dir: &Path) -> Raw {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("raw"))
            .unwrap();
        for at in (0..Raw::FILE).step_by(1 << 20) {
            file.write_all_at(&vec![1; 1 << 20], at).unwrap();
        }
        file.sync_all().unwrap();
        Raw { file, at: AtomicU64::new(0) }
    }

    fn write(&self, record: &[u8]) {
        let at = self.at.fetch_add(record.len() as u64, Ordering::Relaxed) % Raw::FILE;
        self.file.write_all_at(record, at).unwrap();
    }
}

impl Log for Raw {
    fn name(&self) -> &'static str {
        "raw write + fdatasync"
    }

    fn append_synced(&self, _: usize, record: &[u8]) {
        self.write(record);
        self.file.sync_data().unwrap();
    }

    fn append_all(&self, records: &[&[u8]]) {
        records.iter().for_each(|r| self.write(r));
        self.file.sync_data().unwrap();
    }
}

pub struct Ours(pub Writer);

pub fn key() -> KeyFile {
    KeyFile::from_bytes([1; 32])
}

impl Ours {
    pub fn create(dir: &Path, options: WriterOptions) -> Ours {
        let archive = Archive::create(dir.join("archive"), key()).unwrap();
        Ours(archive.create_node("n", Origin::Empty).unwrap().open_writer_with(options).unwrap())
    }

    pub fn node(dir: &Path) -> Node {
        Archive::open(dir.join("archive"), key()).unwrap().node("n").unwrap()
    }

    fn append(&self, record: &[u8], durability: Durability) {
        let mut batch = self.0.batch();
        batch.log_record(record).unwrap();
        batch.commit(durability).unwrap();
    }
}

impl Log for Ours {
    fn name(&self) -> &'static str {
        "rewound"
    }

    fn append_synced(&self, _: usize, record: &[u8]) {
        self.append(record, Durability::Synced);
    }

    fn append_all(&self, records: &[&[u8]]) {
        records.iter().for_each(|r| self.append(r, Durability::Buffered));
        self.0.flush().unwrap();
    }
}

pub struct RaftEngine {
    engine: Engine,
    /// The last index of each region; a thread has a region of its own, as a node of a store has
    /// many.
    last: [AtomicU64; 16],
}

/// Tells the engine an entry's index: the payload begins with it.
#[derive(Clone)]
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
    }
}

impl RaftEngine {
    pub fn open(dir: &Path) -> RaftEngine {
        let config = Config {
            dir: dir.join("raft-engine").to_string_lossy().into_owned(),
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        RaftEngine { engine: Engine::open(config).unwrap(), last: Default::default() }
    }

    /// The last index of the first region.
    pub fn last(&self) -> Option<u64> {
        self.engine.last_index(1)
    }

    pub fn append(&self, thread: usize, record: &[u8], sync: bool) {
        let index = self.last[thread].fetch_add(1, Ordering::Relaxed) + 1;
        let mut entry = BytesValue::new();
        entry.value = record.to_vec();
        entry.value[..8].copy_from_slice(&index.to_le_bytes());
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Indexed>(thread as u64 + 1, &[entry]).unwrap();
        self.engine.write(&mut batch, sync).unwrap();
    }
}

impl Log for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn append_synced(&self, thread: usize, record: &[u8]) {
        self.append(thread, record, true);
    }

    fn append_all(&self, records: &[&[u8]]) {
        // A sync of its own, without an entry, does nothing: the last entry asks for it.
        let (last, before) = records.split_last().unwrap();
        before.iter().for_each(|r| self.append(0, r, false));
        self.append(0, last, true);
    }
}

pub struct OkayWal(WriteAheadLog);

/// Reads all that is recovered, and lets its CRC be checked; keeps nothing.
#[derive(Debug, Default)]
pub struct Reader;

impl LogManager for Reader {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        entry.read_all_chunks().map(drop)
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

impl OkayWal {
    /// Opens one whose files grow to `file_bytes` before they are checkpointed and used again.
    pub fn open(dir: &Path, file_bytes: u32) -> OkayWal {
        let config = Configuration::default_for(dir.join("okaywal"))
            .preallocate_bytes(file_bytes)
            .checkpoint_after_bytes(u64::from(file_bytes) - (1 << 20));
        OkayWal(config.open(Reader).unwrap())
    }

    pub fn close(self) {
        self.0.shutdown().unwrap();
    }

    /// One entry of several chunks: nothing is on the disk before the entry is.
    pub fn append(&self, chunks: &[&[u8]]) {
        let mut entry = self.0.begin_entry().unwrap();
        for chunk in chunks {
            entry.write_chunk(chunk).unwrap();
        }
        entry.commit().unwrap();
    }
}

impl Log for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn append_synced(&self, _: usize, record: &[u8]) {
        self.append(&[record]);
    }

    /// As one entry: it has no other way to append without a sync each time.
    fn append_all(&self, records: &[&[u8]]) {
        self.append(records);
    }
}
