//! States of pages as applications have them, and archives of them.

use std::path::Path;
use std::sync::Arc;

use rewound::storage::FsStorage;
use rewound::{
    Archive, ArchiveOptions, BaseSpace, CompactOptions, Consistency, Durability, Node, Origin,
    PageId, PageSize, PageSource, Position, Result, SpaceId, Writer, WriterOptions,
};

use super::Random;
use super::tpcb::key;

const WORDS: [&str; 8] =
    ["pending", "shipped", "Berlin", "Lisbon", "invoice", "return", "express", "standard"];
const ROW: usize = 128;

/// A page of rows: numbers as text, some words, some padding. About 3:1 under zstd-1.
pub fn rows(page: u64, version: u64, out: &mut [u8]) {
    let mut random = Random((page + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version | 1);
    for (i, row) in out.chunks_mut(ROW).enumerate() {
        let word = |r: &mut Random| WORDS[usize::try_from(r.below(8)).unwrap()];
        let (first, second, third) = (word(&mut random), word(&mut random), word(&mut random));
        let (n, m) = (random.below(u64::MAX), random.below(1_000_000));
        let text = format!(
            "{:012}|{first}|{second}|{n:016x}|{third}|{m}.00|customer-{}@example.org|",
            page * 32 + i as u64,
            m * 7
        );
        let text = text.as_bytes();
        let len = text.len().min(row.len());
        row.fill(0);
        row[..len].copy_from_slice(&text[..len]);
    }
}

/// Changes one row of a page, as an update of a column does.
pub fn update_row(page: &mut [u8], random: &mut Random) {
    let rows = (page.len() / ROW) as u64;
    let at = usize::try_from(random.below(rows)).unwrap() * ROW;
    let number = random.below(10_000_000_000_000_000);
    page[at + 36..at + 52].copy_from_slice(format!("{number:016}").as_bytes());
}

/// Such pages, all in their first version.
#[derive(Clone, Copy, Debug)]
pub struct Rows(pub usize);

impl PageSource for Rows {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        Ok(Consistency::Frozen)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, first: u64, buf: &mut [u8]) -> Result<()> {
        (first..).zip(buf.chunks_exact_mut(self.0)).for_each(|(page, out)| rows(page, 0, out));
        Ok(())
    }
}

/// A database engine as far as an archive sees it: its pages in memory, and its writer.
#[derive(Debug)]
pub struct Engine {
    pub pages: Vec<u8>,
    pub node: Node,
    pub writer: Writer,
    space: SpaceId,
    page: usize,
    random: Random,
    new: Vec<u8>,
}

impl Engine {
    /// A state of so many bytes in pages of rows, with its base snapshot, in a new archive.
    pub fn create(
        path: &Path,
        bytes: usize,
        page: usize,
        archive: ArchiveOptions,
        writer: WriterOptions,
    ) -> Engine {
        let _ = std::fs::remove_dir_all(path);
        let mut pages = vec![0; bytes];
        (0..).zip(pages.chunks_exact_mut(page)).for_each(|(number, out)| rows(number, 0, out));
        let archive = Archive::create_in(Arc::new(FsStorage::new(path)), key(), archive).unwrap();
        let node = archive.create_node("sqlite", Origin::Existing).unwrap();
        let writer = node.open_writer_with(writer).unwrap();
        let mut batch = writer.batch();
        let space = batch
            .create_space("data", PageSize::new(u32::try_from(page).unwrap()).unwrap())
            .unwrap();
        batch.set_length(space, bytes as u64).unwrap();
        batch.commit(Durability::Synced).unwrap();
        writer.base_snapshot(&mut Rows(page), &CompactOptions::default()).unwrap();
        let random = Random(0x9E37_79B9_7F4A_7C15);
        Engine { pages, node, writer, space, page, random, new: vec![0; page] }
    }

    /// A buffered commit that changes one row in each of some pages.
    pub fn commit(&mut self, pages: usize) {
        let mut batch = self.writer.batch();
        for _ in 0..pages {
            let number = self.random.below((self.pages.len() / self.page) as u64);
            let start = usize::try_from(number).unwrap() * self.page;
            let old = &mut self.pages[start..start + self.page];
            self.new.copy_from_slice(old);
            update_row(&mut self.new, &mut self.random);
            batch.write_page(PageId::new(self.space, number), &self.new, Some(old)).unwrap();
            old.copy_from_slice(&self.new);
        }
        batch.commit(Durability::Buffered).unwrap();
    }
}
