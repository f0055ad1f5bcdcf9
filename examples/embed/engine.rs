//! The engine: how pages get into the archive, and come back after a crash.
//!
//! It keeps its pages in memory and has no log of its own: the archive is its log. A transaction is
//! durable when its batch is. The page file may be as old as it likes, as opening the engine brings
//! it to the newest commit.

use std::path::Path;

use rewound::{Commit, Durability, Error, Node, PageId, Result, SpaceId, Target, Writer};

use crate::bucket::{BUCKETS, PAGE, bucket_of, look_up, with_entry};

/// The engine.
pub struct Engine {
    pub writer: Writer,
    pub space: SpaceId,
    /// All pages as of the newest commit.
    pages: Vec<Vec<u8>>,
}

impl Engine {
    /// Opens the engine, whatever state a crash left it in: nothing but the log decides what is
    /// there.
    pub fn open(node: &Node, dir: &Path) -> Result<Engine> {
        // 1. The writer first. It recovers the end of the log, and keeps others from writing from
        //    here on.
        let writer = node.open_writer()?;
        let Some(space) = writer.space("buckets") else {
            // 2a. Nothing was ever committed: make the page file. The log holds that too.
            let mut batch = writer.batch();
            let space = batch.create_space("buckets", PAGE)?;
            batch.set_length(space, (BUCKETS * PAGE.bytes()) as u64)?;
            batch.commit(Durability::Synced)?;
            return Ok(Engine { writer, space, pages: vec![vec![0; PAGE.bytes()]; BUCKETS] });
        };
        // 2b. Bring our files to the newest commit. In place, it rewrites only the pages that
        // differ.
        let report = node.restore(Target::Latest).delta_into_dir(dir)?;
        println!(
            "  recovered to commit {}: {} bytes rewritten in our file",
            report.lsn, report.bytes_written
        );
        Ok(Engine { writer, space, pages: read_pages(dir)? })
    }

    /// Sets several keys: all of them or, whatever happens, none.
    pub fn put(&mut self, pairs: &[(&str, &str)]) -> Result<Commit> {
        // 3. Change copies of the pages. The images before go into the log as a base to make small
        //    patches against.
        let mut changed: Vec<(usize, Vec<u8>)> = Vec::new();
        for (key, value) in pairs {
            let bucket = bucket_of(key);
            if !changed.iter().any(|(number, _)| *number == bucket) {
                changed.push((bucket, self.pages.get(bucket).cloned().unwrap_or_default()));
            }
            if let Some((_, page)) = changed.iter_mut().find(|(number, _)| *number == bucket) {
                *page = with_entry(page, key, value)?;
            }
        }
        // 4. One batch for a transaction. A batch that is dropped, as by `?` here, has never been.
        let mut batch = self.writer.batch();
        for (number, image) in &changed {
            let previous = self.pages.get(*number).map(Vec::as_slice);
            batch.write_page(PageId::new(self.space, *number as u64), image, previous)?;
        }
        // 5. Synced: it survives a power failure from here on. Only now is it shown to anyone.
        let commit = batch.commit(Durability::Synced)?;
        for (number, image) in changed {
            if let Some(page) = self.pages.get_mut(number) {
                *page = image;
            }
        }
        Ok(commit)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<String> {
        look_up(&self.pages, key)
    }
}

/// The pages of a restored directory.
pub fn read_pages(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(dir.join("buckets")).map_err(Error::host)?;
    Ok(bytes.chunks_exact(PAGE.bytes()).map(<[u8]>::to_vec).collect())
}
