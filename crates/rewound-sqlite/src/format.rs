//! The parts of SQLite's file formats that the adapter reads: the database header, the write-ahead
//! log and its index.
//!
//! Bytes to values and nothing else: no files, no clock. Written from the public documents
//! [fileformat2](https://www.sqlite.org/fileformat2.html) and
//! [walformat](https://www.sqlite.org/walformat.html).
//!
//! Nothing here may panic on any bytes. What does not decode is `None`.

/// Bytes of a log's header.
pub(super) const WAL_HEADER: usize = 32;
/// Bytes of a frame's header, before the page.
pub(super) const FRAME_HEADER: usize = 24;
/// Bytes of the log's index that are read: two copies of the header, how far the log was copied
/// back and that was tried, and the readers' marks.
pub(super) const INDEX_HEADER: usize = 132;
/// Bytes of a database's header.
pub(super) const DATABASE_HEADER: usize = 100;

/// What tells one generation of a log from the next: it changes when the log starts over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salts(pub [u8; 8]);

/// SQLite's running checksum over a log, from its header to the end of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksum(pub u32, pub u32);

impl Checksum {
    /// Goes on over more bytes, a multiple of eight: two sums, each fed by the other.
    #[must_use]
    pub fn over(self, bytes: &[u8], big_endian: bool) -> Checksum {
        let Checksum(mut a, mut b) = self;
        let pairs = bytes.as_chunks::<8>().0;
        // Two loops, so that the choice is not made for each word.
        if big_endian {
            for [a0, a1, a2, a3, b0, b1, b2, b3] in pairs {
                a = a.wrapping_add(u32::from_be_bytes([*a0, *a1, *a2, *a3])).wrapping_add(b);
                b = b.wrapping_add(u32::from_be_bytes([*b0, *b1, *b2, *b3])).wrapping_add(a);
            }
        } else {
            for [a0, a1, a2, a3, b0, b1, b2, b3] in pairs {
                a = a.wrapping_add(u32::from_le_bytes([*a0, *a1, *a2, *a3])).wrapping_add(b);
                b = b.wrapping_add(u32::from_le_bytes([*b0, *b1, *b2, *b3])).wrapping_add(a);
            }
        }
        Checksum(a, b)
    }

    /// As it stands in a mark.
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.0) << 32 | u64::from(self.1)).to_be_bytes()
    }
}

/// The header of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WalHeader {
    pub page_size: u32,
    pub salts: Salts,
    /// The order of bytes in which checksums are made. Everything else is big-endian.
    pub big_endian: bool,
    /// Over the header: what the first frame's goes on from.
    pub checksum: Checksum,
}

impl WalHeader {
    pub fn decode(bytes: &[u8; WAL_HEADER]) -> Option<WalHeader> {
        let magic = be32(bytes, 0)?;
        let big_endian = magic & 1 == 1;
        let checksum = Checksum::default().over(bytes.get(..24)?, big_endian);
        let stated = Checksum(be32(bytes, 24)?, be32(bytes, 28)?);
        let known = magic & !1 == 0x377F_0682 && be32(bytes, 4)? == 3_007_000;
        let page_size = be32(bytes, 8)?;
        (known && checksum == stated).then_some(WalHeader {
            page_size,
            salts: salts(bytes, 16)?,
            big_endian,
            checksum,
        })
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The page, from 1.
    pub page: u32,
    /// In the last frame of a transaction, the length of the database in pages; else zero.
    pub commit: u32,
    pub salts: Salts,
    /// Over the log up to the end of this frame.
    pub checksum: Checksum,
}

impl FrameHeader {
    pub fn decode(bytes: &[u8]) -> Option<FrameHeader> {
        Some(FrameHeader {
            page: be32(bytes, 0)?,
            commit: be32(bytes, 4)?,
            salts: salts(bytes, 8)?,
            checksum: Checksum(be32(bytes, 16)?, be32(bytes, 20)?),
        })
    }
}

/// What the log's index says: where the log ends. Frames beyond it may be there and valid, and
/// count for nothing: their transaction is not committed, or was rolled back, or its process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexHeader {
    /// Counts transactions, also when the log starts over.
    pub changes: u32,
    /// Frames in the log; the last one ends a transaction.
    pub frames: u32,
    /// Length of the database in pages; zero where only the file tells.
    pub pages: u32,
    pub page_size: u32,
    /// Of the last frame.
    pub checksum: Checksum,
    pub salts: Salts,
    /// Frames, from the first, that were copied back to the database file.
    pub backfilled: u32,
    /// How many frames the readers in slots 1 to 4 use, each; means nothing where there are none.
    pub marks: [u32; 4],
    /// How many of them a checkpoint has begun to copy, which may have ended before it was done.
    /// Versions before 3.8.11 leave it as it is.
    pub attempted: u32,
}

impl IndexHeader {
    /// `None` where a process is just changing it, or has died while it did. Everything is in the
    /// machine's own order of bytes, but for the salts, which are the log's own bytes.
    pub fn decode(bytes: &[u8; INDEX_HEADER]) -> Option<IndexHeader> {
        let (first, rest) = bytes.split_first_chunk::<48>()?;
        let (second, rest) = rest.split_first_chunk::<48>()?;
        let whole = Checksum::default().over(first.get(..40)?, cfg!(target_endian = "big"));
        let stated = Checksum(native32(first, 40)?, native32(first, 44)?);
        let initialised = first.get(12) == Some(&1);
        if first != second || whole != stated || !initialised {
            return None;
        }
        let page_size = u32::from(u16::from_ne_bytes([*first.get(14)?, *first.get(15)?]));
        Some(IndexHeader {
            changes: native32(first, 8)?,
            frames: native32(first, 16)?,
            pages: native32(first, 20)?,
            page_size: if page_size == 1 { 65_536 } else { page_size },
            checksum: Checksum(native32(first, 24)?, native32(first, 28)?),
            salts: salts(first, 32)?,
            backfilled: native32(rest, 0)?,
            marks: [
                native32(rest, 8)?,
                native32(rest, 12)?,
                native32(rest, 16)?,
                native32(rest, 20)?,
            ],
            attempted: native32(rest, 32)?,
        })
    }

    /// Whether every frame was copied back.
    pub fn is_copied_back(&self) -> bool {
        self.backfilled >= self.frames
    }

    /// Whether nothing was committed and nothing copied back between this and `later`.
    pub fn still_is(&self, later: &IndexHeader) -> bool {
        *later == IndexHeader { attempted: later.attempted, marks: later.marks, ..*self }
    }
}

/// What the adapter has to know of a database's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatabaseHeader {
    pub page_size: u32,
    /// Whether it is in WAL mode.
    pub wal: bool,
    /// Version of SQLite that wrote it.
    pub version: u32,
}

impl DatabaseHeader {
    pub fn decode(bytes: &[u8]) -> Option<DatabaseHeader> {
        if bytes.get(..16)? != b"SQLite format 3\0" {
            return None;
        }
        let page_size = match u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]) {
            1 => 65_536,
            n => u32::from(n),
        };
        let wal = bytes.get(18..20)? == [2, 2];
        Some(DatabaseHeader { page_size, wal, version: be32(bytes, 96)? })
    }
}

/// Whether this version of SQLite has the WAL-reset bug: 3.7.0 to 3.51.2, but for the two branches
/// that it was mended in.
pub(super) fn has_wal_reset_bug(version: u32) -> bool {
    let mended =
        (3_044_006..3_045_000).contains(&version) || (3_050_007..3_051_000).contains(&version);
    (3_007_000..3_051_003).contains(&version) && !mended
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn native32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn salts(bytes: &[u8], at: usize) -> Option<Salts> {
    bytes.get(at..)?.first_chunk().map(|b| Salts(*b))
}

/// The first `most` bytes, or all where there are no more.
pub(super) fn first_of(bytes: &[u8], most: u64) -> &[u8] {
    usize::try_from(most).ok().and_then(|most| bytes.get(..most)).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_bug() {
        for (version, bug) in [
            (3_006_023, false),
            (3_007_000, true),
            (3_044_005, true),
            (3_044_006, false),
            (3_045_001, true),
            (3_050_006, true),
            (3_050_007, false),
            (3_051_002, true),
            (3_051_003, false),
            (3_054_001, false),
        ] {
            assert_eq!(has_wal_reset_bug(version), bug, "{version}");
        }
    }

    #[test]
    fn our_own_sqlite_does_not_have_it() {
        let version = u32::try_from(rusqlite::version_number()).unwrap();
        assert!(!has_wal_reset_bug(version), "{version}");
    }

    #[test]
    fn no_bytes_decode_by_chance() {
        assert_eq!(WalHeader::decode(&[0; WAL_HEADER]), None);
        assert_eq!(IndexHeader::decode(&[0; INDEX_HEADER]), None);
        assert_eq!(DatabaseHeader::decode(&[0; DATABASE_HEADER]), None);
        assert_eq!(DatabaseHeader::decode(b"SQLite format 3\0"), None);
        assert_eq!(FrameHeader::decode(&[0; 23]), None);
    }
}
