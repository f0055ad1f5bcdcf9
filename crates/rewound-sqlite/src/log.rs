//! Reads the write-ahead log of a database, `<name>-wal`: frames that were verified, transaction by
//! transaction.
//!
//! Never decides where the log ends: the log's index says that, and frames beyond it mean nothing.
//! Never writes.
//!
//! Invariant: a page image leaves here only after its salts, page number and place in the chain of
//! checksums were verified on the very bytes that are given, also when a frame is read for the
//! second time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::error::{Error, Result};
use super::format::{
    Checksum, FRAME_HEADER, FrameHeader, IndexHeader, Salts, WAL_HEADER, WalHeader,
};

/// Frames are read in stretches of about so many bytes.
const WINDOW: usize = 4 << 20;

/// A place between two transactions in a log: after so many frames of the generation with these
/// salts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub salts: Salts,
    pub frame: u32,
    /// Of that frame; means nothing where `frame` is zero.
    pub checksum: Checksum,
}

/// One transaction of the log.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The pages that it wrote, from 1, with the frame that holds the last version of each.
    pub pages: BTreeMap<u32, u32>,
    /// Length of the database after it, in pages.
    pub length: u32,
    /// Where it ends.
    pub end: Place,
}

/// The log of one database.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    page_size: usize,
    /// Of the generation that is being read.
    header: WalHeader,
    window: Window,
    /// A frame that is no longer in the window.
    single: Vec<u8>,
}

/// Frames that were read in one go. Those below `verified` have been verified.
#[derive(Debug, Default)]
struct Window {
    first: u32,
    verified: u32,
    bytes: Vec<u8>,
}

/// The log does not hold what its index says: another generation has begun, or somebody has written
/// to it who should not.
fn broken(path: &std::path::Path, what: &str, frame: u32) -> Error {
    Error::Inconsistent { reason: format!("{}: {what} at frame {frame}", path.display()) }
}

impl Log {
    /// Opens the log. Its generation is chosen with [`begin`](Self::begin).
    pub fn open(path: PathBuf, page_size: u32) -> Result<Log> {
        let file = rewound_dir::open_path(&path).map_err(|e| Error::io("open", &path, e))?;
        let header = WalHeader {
            page_size,
            salts: Salts::default(),
            big_endian: false,
            checksum: Checksum::default(),
        };
        let page_size = page_size as usize;
        Ok(Log { path, file, page_size, header, window: Window::default(), single: Vec::new() })
    }

    /// The file, for comparing it with what stands under its name.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that so many frames take.
    pub fn bytes(&self, frames: u32) -> u64 {
        match frames {
            0 => 0,
            n => WAL_HEADER as u64 + u64::from(n) * self.frame_len() as u64,
        }
    }

    /// Turns to the generation with these salts, which must be the one in the file.
    pub fn begin(&mut self, salts: Salts) -> Result<()> {
        if self.header.salts == salts && salts != Salts::default() {
            return Ok(());
        }
        self.window = Window::default();
        let mut bytes = [0; WAL_HEADER];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| self.failed(e))?;
        let header =
            WalHeader::decode(&bytes).ok_or_else(|| broken(&self.path, "no valid header", 0))?;
        if header.salts != salts || header.page_size as usize != self.page_size {
            return Err(broken(&self.path, "the header of another generation", 0));
        }
        self.header = header;
        Ok(())
    }

    /// The header of a frame of this generation, from 1. Verifies its salts only.
    pub fn frame_header(&self, frame: u32) -> Result<FrameHeader> {
        let mut bytes = [0; FRAME_HEADER];
        self.file.read_exact_at(&mut bytes, self.offset(frame)).map_err(|e| self.failed(e))?;
        FrameHeader::decode(&bytes)
            .filter(|h| h.salts == self.header.salts)
            .ok_or_else(|| broken(&self.path, "other salts", frame))
    }

    /// Checksum of the log up to the end of a frame; zero stands for the header.
    pub fn checksum_at(&self, frame: u32) -> Result<Checksum> {
        if frame == 0 { Ok(self.header.checksum) } else { Ok(self.frame_header(frame)?.checksum) }
    }

    /// The next transaction after a place, which must be of this generation. `end` is the number of
    /// frames that the log's index vouches for: a transaction must end there or before.
    pub fn transaction(&mut self, from: Place, end: u32) -> Result<Transaction> {
        let mut running = if from.frame == 0 { self.header.checksum } else { from.checksum };
        let mut pages = BTreeMap::new();
        let mut frame = from.frame;
        while frame < end {
            frame += 1;
            let head = self.verify(frame, end, running)?;
            running = head.checksum;
            pages.insert(head.page, frame);
            if head.commit != 0 {
                let end = Place { salts: self.header.salts, frame, checksum: running };
                return Ok(Transaction { pages, length: head.commit, end });
            }
        }
        Err(broken(&self.path, "a transaction without an end", end))
    }

    /// How many transactions there are in the generation that `at` tells of.
    pub fn transactions(&mut self, at: IndexHeader) -> Result<u32> {
        let (mut place, mut found) = (Place { salts: at.salts, ..Place::default() }, 0);
        if at.frames > 0 {
            self.begin(at.salts)?;
        }
        while place.frame < at.frames {
            place = self.transaction(place, at.frames)?.end;
            found += 1;
        }
        Ok(found)
    }

    /// Verifies the next frame of the chain; reads it first where it is not in the window.
    fn verify(&mut self, frame: u32, end: u32, running: Checksum) -> Result<FrameHeader> {
        let len = self.frame_len();
        if self.window.slice(frame, len).is_none() {
            let frames = (WINDOW / len).clamp(1, (end - frame + 1) as usize);
            self.window.bytes.resize(frames * len, 0);
            self.window.first = frame;
            let offset = self.offset(frame);
            let read = self.file.read_exact_at(&mut self.window.bytes, offset);
            if let Err(e) = read {
                self.window = Window::default();
                return Err(self.failed(e));
            }
        }
        let found = self.window.slice(frame, len).and_then(|bytes| self.check(bytes, running));
        let found = found
            .ok_or_else(|| broken(&self.path, "a checksum or salt that does not match", frame));
        if found.is_ok() {
            self.window.verified = frame;
        } else {
            self.window = Window::default();
        }
        found
    }

    /// The header of a frame whose bytes these are, if they are whole and follow what `running` is
    /// the checksum of.
    fn check(&self, bytes: &[u8], running: Checksum) -> Option<FrameHeader> {
        let head = FrameHeader::decode(bytes)?;
        let over = running.over(bytes.get(..8)?, self.header.big_endian);
        let over = over.over(bytes.get(FRAME_HEADER..)?, self.header.big_endian);
        (head.salts == self.header.salts && over == head.checksum && head.page != 0).then_some(head)
    }

    /// The image in a frame that [`transaction`](Self::transaction) has given for `page`. Where it
    /// has to be read again it is verified again.
    pub fn image(&mut self, frame: u32, page: u32) -> Result<&[u8]> {
        let len = self.frame_len();
        let at_hand = frame <= self.window.verified && self.window.slice(frame, len).is_some();
        if !at_hand {
            let running = self.checksum_at(frame - 1)?;
            self.single.resize(len, 0);
            let offset = self.offset(frame);
            let read = self.file.read_exact_at(&mut self.single, offset);
            read.map_err(|e| self.failed(e))?;
            let whole = self.check(&self.single, running).is_some_and(|head| head.page == page);
            if !whole {
                return Err(broken(
                    &self.path,
                    "a frame that has changed since it was read",
                    frame,
                ));
            }
        }
        let bytes =
            if at_hand { self.window.slice(frame, len) } else { Some(self.single.as_slice()) };
        bytes
            .and_then(|b| b.get(FRAME_HEADER..))
            .ok_or_else(|| broken(&self.path, "no such frame", frame))
    }

    /// Reads the image in a frame of this generation as the previous version of a page. Salts and
    /// page number are verified here; the bytes are by whoever compares them with the version that
    /// the archive holds.
    pub fn previous(&self, frame: u32, page: u32, buf: &mut Vec<u8>) -> Result<()> {
        let len = self.frame_len();
        if let Some(bytes) = self.window.slice(frame, len).filter(|_| frame <= self.window.verified)
        {
            buf.clear();
            buf.extend_from_slice(bytes);
        } else {
            buf.resize(len, 0);
            self.file.read_exact_at(buf, self.offset(frame)).map_err(|e| self.failed(e))?;
        }
        match FrameHeader::decode(buf) {
            Some(head) if head.salts == self.header.salts && head.page == page => {
                buf.drain(..FRAME_HEADER);
                Ok(())
            }
            _ => Err(broken(&self.path, "a frame that has changed since it was read", frame)),
        }
    }

    fn frame_len(&self) -> usize {
        FRAME_HEADER + self.page_size
    }

    fn offset(&self, frame: u32) -> u64 {
        WAL_HEADER as u64 + u64::from(frame - 1) * self.frame_len() as u64
    }

    fn failed(&self, e: io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                broken(&self.path, "the file ends before the log does", 0)
            }
            _ => Error::io("read", &self.path, e),
        }
    }
}

impl Window {
    fn slice(&self, frame: u32, len: usize) -> Option<&[u8]> {
        let index = frame.checked_sub(self.first).filter(|_| self.first > 0)? as usize;
        self.bytes.get(index.checked_mul(len)?..)?.get(..len)
    }
}
