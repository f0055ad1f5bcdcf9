//! The database while it is worked on, and its archive: each SQLite transaction becomes one commit
//! there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rewound::{
    Commit, CompactOptions, Durability, Lsn, Node, PageId, PageSize, SpaceId, Writer, WriterOptions,
};
use rusqlite::Connection;

use crate::Result;
use crate::sqlite_wal::{Transaction, WalFollower};
use crate::workload::{self, Numbers};

const PAGE_SIZE: PageSize = PageSize::KIB_4;
/// SQLite's log is emptied into the database after so many transactions.
const CHECKPOINT_EVERY: u64 = 250;
/// Small, so that a short example has several segments and layers. Leave the defaults alone in
/// earnest.
const SEGMENT_BYTES: u64 = 384 << 10;

pub struct Shop {
    pub path: PathBuf,
    /// Copies of the database file taken live, by the commit that they are the state of.
    pub copies: BTreeMap<Lsn, PathBuf>,
    pub transactions: u64,
    /// Bytes that SQLite wrote to its own log.
    pub wal_bytes: u64,
    pub newest: Commit,
    pub writer: Writer,
    db: Connection,
    node: Node,
    space: SpaceId,
    follower: WalFollower,
}

impl Shop {
    /// Makes an empty database and archives it as it is: the first commit.
    pub fn open(dir: &Path, node: &Node) -> Result<Shop> {
        let path = dir.join("shop.db");
        let db = Connection::open(&path)?;
        db.pragma_update(None, "page_size", PAGE_SIZE.get())?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // Only we empty the log, so that no frame is gone before it was read.
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        let follower = WalFollower::new(&path, PAGE_SIZE.bytes())?;

        let mut options = WriterOptions::default();
        options.segment_bytes = SEGMENT_BYTES;
        let writer = node.open_writer_with(options)?;
        let mut batch = writer.batch();
        let space = batch.create_space("shop.db", PAGE_SIZE)?;
        for (image, number) in follower.pages().iter().zip(0..) {
            batch.write_page(PageId::new(space, number), image, None)?;
        }
        let newest = batch.commit(Durability::Synced)?;
        let (copies, node) = (BTreeMap::new(), node.clone());
        let mut shop = Shop {
            path,
            copies,
            transactions: 0,
            wal_bytes: 0,
            newest,
            writer,
            db,
            node,
            space,
            follower,
        };
        shop.copy()?;
        Ok(shop)
    }

    /// Lets SQLite do something, and archives the transactions that came of it.
    pub fn run(
        &mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
    ) -> Result<()> {
        work(&mut self.db)?;
        for transaction in self.follower.poll()? {
            self.archive(&transaction)?;
            self.transactions += 1;
            if self.transactions.is_multiple_of(CHECKPOINT_EVERY) {
                self.checkpoint()?;
                self.maintain()?;
            }
        }
        Ok(())
    }

    /// One transaction of SQLite, one commit of the archive.
    fn archive(&mut self, transaction: &Transaction) -> Result<()> {
        let mut batch = self.writer.batch();
        let length = transaction.length * u64::from(PAGE_SIZE.get());
        if self.writer.space_length(self.space) != Some(length) {
            batch.set_length(self.space, length)?;
        }
        for page in &transaction.pages {
            // With the image before, the log holds what changed and not the page.
            batch.write_page(
                PageId::new(self.space, page.number),
                &page.image,
                page.previous.as_deref(),
            )?;
        }
        // The promise that SQLite gives with synchronous=NORMAL: what a power failure costs is the
        // newest commits at most. Durability::Synced survives one, at the price of a sync for each
        // commit (or for each group of concurrent ones).
        self.newest = batch.commit(Durability::Buffered)?;
        self.wal_bytes += transaction.wal_bytes;
        Ok(())
    }

    /// Gives the state of now a name. An empty commit can carry it.
    pub fn restore_point(&mut self, name: &str) -> Result<()> {
        let mut batch = self.writer.batch();
        batch.restore_point(name)?;
        self.newest = batch.commit(Durability::Synced)?;
        Ok(())
    }

    /// Copies the database as SQLite sees it now. The archive has no part in it, so it can bear
    /// witness.
    pub fn copy(&mut self) -> Result<()> {
        self.checkpoint()?;
        let to = self.path.with_file_name(format!("copy-{}.db", self.newest.lsn));
        fs::copy(&self.path, &to)?;
        self.copies.insert(self.newest.lsn, to);
        Ok(())
    }

    /// Empties SQLite's log into the database. The archive has to be durable first, or a crash
    /// could leave it behind the file.
    fn checkpoint(&self) -> Result<()> {
        self.writer.flush()?;
        let busy: i64 =
            self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 { Ok(()) } else { Err("SQLite could not empty its log".into()) }
    }

    /// Builds the layers and snapshots that are due. A thread or a cron job would do it.
    fn maintain(&self) -> Result<()> {
        let mut options = CompactOptions::default();
        options.layer_log_bytes = SEGMENT_BYTES;
        options.fan_out = 4;
        self.node.maintain(&options)?;
        Ok(())
    }

    /// Ends the work. The database file now holds all of it, as the log was emptied into it.
    pub fn close(self) -> Result<()> {
        self.checkpoint()?;
        self.maintain()?;
        self.writer.close()?;
        self.db.close().map_err(|(_, e)| e)?;
        Ok(())
    }

    /// A payment mostly; now and then a picture, or some tidying up.
    pub fn ordinary(&mut self, numbers: &mut Numbers) -> Result<()> {
        match numbers.below(60) {
            0 => self.run(|db| workload::tidy(db, numbers)),
            1..=4 => self.run(|db| workload::picture(db, numbers)),
            _ => self.run(|db| workload::payment(db, numbers)),
        }
    }
}
