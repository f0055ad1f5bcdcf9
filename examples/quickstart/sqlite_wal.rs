//! Follows the write-ahead log of a SQLite database: gives every transaction as the pages that it
//! changed.
//!
//! Owns a mirror of the database, made of those pages, so that each comes with the image that it
//! replaces. Reads the `-wal` file only, never the database while SQLite runs. It expects to be
//! polled after every transaction and before every checkpoint; then nothing escapes it, as a log
//! starts over only after a checkpoint.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// A page as a transaction left it.
pub struct ChangedPage {
    /// Its number, from 0; SQLite counts from 1.
    pub number: u64,
    pub image: Vec<u8>,
    /// The image before, where there was one.
    pub previous: Option<Vec<u8>>,
}

/// One committed transaction.
pub struct Transaction {
    pub pages: Vec<ChangedPage>,
    /// Length of the database afterwards, in pages.
    pub length: u64,
    /// Bytes that it took in SQLite's own log.
    pub wal_bytes: u64,
}

/// Follows one database.
pub struct WalFollower {
    path: PathBuf,
    page_size: usize,
    /// Page images as of the last transaction given.
    mirror: Vec<Vec<u8>>,
    /// Where to go on reading; meaningful for the log with this header.
    offset: u64,
    header: [u8; WAL_HEADER],
    checksum: (u32, u32),
}

impl WalFollower {
    /// Begins with a database that nobody writes to now, and whose log is empty: just made, or just
    /// checkpointed.
    pub fn new(database: &Path, page_size: usize) -> io::Result<WalFollower> {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let mirror = fs::read(database)?.chunks_exact(page_size).map(<[u8]>::to_vec).collect();
        Ok(WalFollower {
            path: wal.into(),
            page_size,
            mirror,
            offset: 0,
            header: [0; WAL_HEADER],
            checksum: (0, 0),
        })
    }

    /// The pages as of now.
    pub fn pages(&self) -> &[Vec<u8>] {
        &self.mirror
    }

    /// The transactions committed since the last call.
    pub fn poll(&mut self) -> Result<Vec<Transaction>, Box<dyn Error>> {
        let file = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let length = file.metadata()?.len();
        if length < WAL_HEADER as u64 {
            return Ok(Vec::new()); // Truncated by a checkpoint, and nothing was written since.
        }
        let mut header = [0; WAL_HEADER];
        file.read_exact_at(&mut header, 0)?;
        if header != self.header {
            // The log has started over. Its salts are new, so frames that are left of the log
            // before do not match them.
            if word(&header, 2) as usize != self.page_size {
                return Err("the page size of the database has changed".into());
            }
            self.header = header;
            self.offset = WAL_HEADER as u64;
            self.checksum =
                checksum((0, 0), header.get(..24).unwrap_or_default(), self.big_endian());
        }
        let mut new = vec![0; usize::try_from(length.saturating_sub(self.offset))?];
        file.read_exact_at(&mut new, self.offset)?;

        let mut transactions = Vec::new();
        let mut open: BTreeMap<u64, Vec<u8>> = BTreeMap::new(); // The last frame of a page within a transaction counts.
        let (mut running, mut frames) = (self.checksum, 0);
        for frame in new.chunks_exact(FRAME_HEADER + self.page_size) {
            let (head, image) = frame.split_at(FRAME_HEADER);
            // A frame belongs to this log if it bears its salts, and follows the one before if the
            // checksum says so.
            let salts_match = head.get(8..16) == self.header.get(16..24);
            running = checksum(running, head.get(..8).unwrap_or_default(), self.big_endian());
            running = checksum(running, image, self.big_endian());
            if !salts_match || running != (word(head, 4), word(head, 5)) {
                break;
            }
            frames += 1;
            open.insert(u64::from(word(head, 0)) - 1, image.to_vec());
            let database_pages = word(head, 1);
            if database_pages != 0 {
                // This frame commits.
                let wal_bytes = frames * frame.len() as u64;
                transactions.push(self.commit(
                    std::mem::take(&mut open),
                    database_pages,
                    wal_bytes,
                )?);
                self.offset += wal_bytes;
                self.checksum = running;
                frames = 0;
            }
        }
        Ok(transactions)
    }

    /// Brings the mirror forward over one transaction.
    fn commit(
        &mut self,
        changed: BTreeMap<u64, Vec<u8>>,
        pages: u32,
        wal_bytes: u64,
    ) -> io::Result<Transaction> {
        let length = u64::from(pages);
        self.mirror.truncate(pages as usize);
        let mut given = Vec::with_capacity(changed.len());
        for (number, image) in changed.into_iter().filter(|(number, _)| *number < length) {
            let index = usize::try_from(number).map_err(io::Error::other)?;
            if index >= self.mirror.len() {
                self.mirror.resize(index + 1, Vec::new());
            }
            let previous =
                self.mirror.get_mut(index).map(|slot| std::mem::replace(slot, image.clone()));
            // Empty where the database has only now grown to this page.
            given.push(ChangedPage { number, image, previous: previous.filter(|p| !p.is_empty()) });
        }
        Ok(Transaction { pages: given, length, wal_bytes })
    }

    /// The order of bytes that checksums are made in, from the magic number. Everything else is
    /// big-endian.
    fn big_endian(&self) -> bool {
        word(&self.header, 0) & 1 == 1
    }
}

/// The big-endian word number `index`.
fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks().0.get(index).map_or(0, |w| u32::from_be_bytes(*w))
}

/// SQLite's checksum: two sums, each fed by the other.
fn checksum((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word =
        |w: &[u8; 4]| if big_endian { u32::from_be_bytes(*w) } else { u32::from_le_bytes(*w) };
    for [first, second] in bytes.as_chunks::<4>().0.as_chunks::<2>().0 {
        a = a.wrapping_add(word(first)).wrapping_add(b);
        b = b.wrapping_add(word(second)).wrapping_add(a);
    }
    (a, b)
}
