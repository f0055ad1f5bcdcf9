//! Ops of a commit, and commits in a frame (`docs/format.md` §5).

use super::FormatError;
use super::codec::{Reader, put_bytes, put_varint};
use super::state::{ConfigValue, Effect, MAX_MARK, MAX_SPACE_LENGTH};
use crate::types::{MAX_NAME, PageId, PageSize, Position, SpaceId, Timestamp, as_index};

type Result<T> = std::result::Result<T, FormatError>;

/// Longest logical record or configuration value, in bytes, before compression.
pub const MAX_RECORD: usize = 16 << 20;
/// Longest annotation text.
pub const MAX_TEXT: usize = 4_096;

/// Bytes that may be stored compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    /// What is stored.
    pub stored: &'a [u8],
    /// Where it is stored compressed: the length it decompresses to. For pages
    /// this is not stored but taken from the space, and is zero here.
    pub plain_len: Option<usize>,
}

impl<'a> Blob<'a> {
    /// Stored as it is.
    pub const fn plain(stored: &'a [u8]) -> Blob<'a> {
        Blob { stored, plain_len: None }
    }

    fn put(&self, out: &mut Vec<u8>, with_plain_len: bool) {
        put_varint(out, (self.stored.len() as u64) << 1 | u64::from(self.plain_len.is_some()));
        if let (true, Some(plain)) = (with_plain_len, self.plain_len) {
            put_varint(out, plain as u64);
        }
        out.extend_from_slice(self.stored);
    }

    fn read(r: &mut Reader<'a>, limit: usize, with_plain_len: bool) -> Result<Blob<'a>> {
        let head = r.varint_up_to("blob length", (limit as u64) << 1 | 1)?;
        let plain_len = match (head & 1 == 1, with_plain_len) {
            (false, _) => None,
            (true, false) => Some(0),
            (true, true) => Some(r.length("plain length", limit)?),
        };
        let stored = r.bytes("blob", as_index(head >> 1))?;
        Ok(Blob { stored, plain_len })
    }
}

/// One change, as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// A page's image.
    PageFull {
        /// The page.
        page: PageId,
        /// CRC-32 of the image.
        crc: u32,
        /// The image; where compressed, its plain length is the page size.
        image: Blob<'a>,
    },
    /// A page's image as a patch against the version before it.
    PagePatch {
        /// The page.
        page: PageId,
        /// CRC-32 of the resulting image.
        crc: u32,
        /// zstd frame with the version before as prefix.
        patch: &'a [u8],
    },
    /// Some bytes of a page.
    Range {
        /// The page.
        page: PageId,
        /// Where in the page.
        offset: u32,
        /// What to put there.
        bytes: Blob<'a>,
    },
    /// The exact length of a space.
    SetLength(SpaceId, u64),
    /// A new space.
    CreateSpace {
        /// Its number.
        space: SpaceId,
        /// The size of its pages.
        page_size: PageSize,
        /// Its name.
        name: &'a str,
    },
    /// The end of a space.
    DropSpace(SpaceId),
    /// A record that the host replays.
    Logical(Blob<'a>),
    /// A configuration value.
    SetConfig {
        /// Its key.
        key: &'a str,
        /// Its value.
        value: Blob<'a>,
        /// Whether it belongs to the environment.
        environment_bound: bool,
    },
    /// The end of a configuration value.
    RemoveConfig(&'a str),
    /// A name for this commit.
    RestorePoint(&'a str),
    /// The host's own position.
    Mark(&'a [u8]),
    /// The id of the global transaction that this commit belongs to.
    GlobalTransaction(&'a [u8]),
    /// Logical records up to here are contained in the pages.
    RedoPoint(Position),
    /// A remark for people and tools.
    Annotation {
        /// What it is about.
        key: &'a str,
        /// What it says.
        text: &'a str,
    },
}

impl<'a> Op<'a> {
    /// Appends the op.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Op::PageFull { page, crc, image } => {
                put_page(out, 1, page);
                out.extend_from_slice(&crc.to_le_bytes());
                image.put(out, false);
            }
            Op::PagePatch { page, crc, patch } => {
                put_page(out, 2, page);
                out.extend_from_slice(&crc.to_le_bytes());
                put_bytes(out, patch);
            }
            Op::Range { page, offset, bytes } => {
                put_page(out, 3, page);
                put_varint(out, u64::from(offset));
                bytes.put(out, true);
            }
            Op::SetLength(space, length) => {
                out.push(4);
                put_varint(out, u64::from(space.get()));
                put_varint(out, length);
            }
            Op::CreateSpace { space, page_size, name } => {
                out.push(5);
                put_varint(out, u64::from(space.get()));
                put_varint(out, u64::from(page_size.get()));
                put_bytes(out, name.as_bytes());
            }
            Op::DropSpace(space) => {
                out.push(6);
                put_varint(out, u64::from(space.get()));
            }
            Op::Logical(record) => {
                out.push(7);
                record.put(out, true);
            }
            Op::SetConfig { key, value, environment_bound } => {
                out.extend_from_slice(&[8, u8::from(environment_bound)]);
                put_bytes(out, key.as_bytes());
                value.put(out, true);
            }
            Op::RemoveConfig(key) => put_named(out, 9, key.as_bytes()),
            Op::RestorePoint(name) => put_named(out, 10, name.as_bytes()),
            Op::Mark(mark) => put_named(out, 11, mark),
            Op::GlobalTransaction(id) => put_named(out, 12, id),
            Op::RedoPoint(position) => {
                out.push(13);
                put_varint(out, position.get());
            }
            Op::Annotation { key, text } => {
                put_named(out, 14, key.as_bytes());
                put_bytes(out, text.as_bytes());
            }
        }
    }

    /// Reads the next op.
    #[inline]
    pub fn read(r: &mut Reader<'a>) -> Result<Op<'a>> {
        let at = r.offset();
        Ok(match r.u8("op kind")? {
            1 => Op::PageFull {
                page: read_page(r)?,
                crc: r.u32("page CRC-32")?,
                image: Blob::read(r, PageSize::MAX.bytes(), false)?,
            },
            2 => Op::PagePatch {
                page: read_page(r)?,
                crc: r.u32("page CRC-32")?,
                patch: {
                    // A patch is never kept where the full image is smaller.
                    let n = r.length("patch length", PageSize::MAX.bytes())?;
                    r.bytes("patch", n)?
                },
            },
            3 => Op::Range {
                page: read_page(r)?,
                offset: read_u32(r, "offset in page")?,
                bytes: Blob::read(r, PageSize::MAX.bytes(), true)?,
            },
            4 => Op::SetLength(
                read_space(r)?,
                r.varint_up_to("length of a space", MAX_SPACE_LENGTH)?,
            ),
            5 => Op::CreateSpace {
                space: read_space(r)?,
                page_size: {
                    let at = r.offset();
                    let bytes = read_u32(r, "page size")?;
                    PageSize::new(bytes).ok_or_else(|| {
                        FormatError::structure(
                            at,
                            "page size",
                            "a power of two from 512 to 65536",
                            bytes,
                        )
                    })?
                },
                name: {
                    let at = r.offset();
                    let name = r.text("name of a space", MAX_NAME)?;
                    // Names become file names: what is on disk is trusted no more than a caller.
                    crate::types::check_name("space", name).map_err(|e| {
                        FormatError::structure(at, "name of a space", "a safe name", e)
                    })?;
                    name
                },
            },
            6 => Op::DropSpace(read_space(r)?),
            7 => Op::Logical(Blob::read(r, MAX_RECORD, true)?),
            8 => {
                let flags = r.u8("configuration flags")?;
                if flags > 1 {
                    return Err(FormatError::structure(
                        at + 1,
                        "configuration flags",
                        "0 or 1",
                        flags,
                    ));
                }
                Op::SetConfig {
                    key: r.text("configuration key", MAX_NAME)?,
                    value: Blob::read(r, MAX_RECORD, true)?,
                    environment_bound: flags == 1,
                }
            }
            9 => Op::RemoveConfig(r.text("configuration key", MAX_NAME)?),
            10 => Op::RestorePoint(r.text("name of a restore point", MAX_NAME)?),
            11 => Op::Mark(read_bytes(r, "host mark", MAX_MARK)?),
            12 => Op::GlobalTransaction(read_bytes(r, "global transaction id", MAX_MARK)?),
            13 => Op::RedoPoint(Position::new(r.varint("redo point")?)),
            14 => Op::Annotation {
                key: r.text("annotation key", MAX_NAME)?,
                text: r.text("annotation", MAX_TEXT)?,
            },
            other => return Err(FormatError::structure(at, "op kind", "1 to 14", other)),
        })
    }

    /// What the op does to the state beside the pages. A configuration value must have been
    /// decompressed into `plain`.
    pub fn effect(&self, plain: Option<&[u8]>) -> Option<Effect> {
        Some(match *self {
            Op::PageFull { page, .. } | Op::PagePatch { page, .. } | Op::Range { page, .. } => {
                Effect::Extend(page)
            }
            Op::SetLength(space, length) => Effect::SetLength(space, length),
            Op::CreateSpace { space, page_size, name } => {
                Effect::Create(space, page_size, name.to_owned())
            }
            Op::DropSpace(space) => Effect::Drop(space),
            Op::Logical(_) => Effect::Logical,
            Op::SetConfig { key, value, environment_bound } => Effect::SetConfig(
                key.to_owned(),
                ConfigValue { value: plain.unwrap_or(value.stored).to_vec(), environment_bound },
            ),
            Op::RemoveConfig(key) => Effect::RemoveConfig(key.to_owned()),
            Op::Mark(mark) => Effect::Mark(mark.to_vec()),
            Op::RedoPoint(position) => Effect::Redo(position),
            Op::RestorePoint(_) | Op::GlobalTransaction(_) | Op::Annotation { .. } => return None,
        })
    }
}

fn put_page(out: &mut Vec<u8>, kind: u8, page: PageId) {
    out.push(kind);
    put_varint(out, u64::from(page.space.get()));
    put_varint(out, page.page);
}

fn put_named(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    out.push(kind);
    put_bytes(out, name);
}

fn read_u32(r: &mut Reader<'_>, what: &'static str) -> Result<u32> {
    let value = r.varint_up_to(what, u64::from(u32::MAX))?;
    Ok(u32::try_from(value).expect("the varint was bounded"))
}

fn read_space(r: &mut Reader<'_>) -> Result<SpaceId> {
    Ok(SpaceId::new(read_u32(r, "space")?))
}

fn read_page(r: &mut Reader<'_>) -> Result<PageId> {
    Ok(PageId::new(read_space(r)?, r.varint_up_to("page number", MAX_SPACE_LENGTH)?))
}

fn read_bytes<'a>(r: &mut Reader<'a>, what: &'static str, limit: usize) -> Result<&'a [u8]> {
    let n = r.length(what, limit)?;
    r.bytes(what, n)
}

/// Appends a commit to the plaintext of a commits frame. `before` is the time of the commit before
/// it, whichever frame that is in.
pub fn put_commit(out: &mut Vec<u8>, before: Timestamp, timestamp: Timestamp, ops: &[u8]) {
    debug_assert!(timestamp > before);
    put_varint(out, timestamp.as_nanos().saturating_sub(before.as_nanos()));
    put_bytes(out, ops);
}

/// One commit of a frame.
#[derive(Clone, Copy, Debug)]
pub struct CommitRecord<'a> {
    /// Its time.
    pub timestamp: Timestamp,
    /// Its ops; where the frame continues partial ones, the rest of them.
    pub ops: &'a [u8],
}

/// Reads the commits of a frame.
#[derive(Debug)]
pub struct Commits<'a> {
    reader: Reader<'a>,
    last: Timestamp,
}

impl<'a> Commits<'a> {
    /// Starts at the plaintext of a commits frame; `before` is the time of the commit before its
    /// first one.
    pub fn new(plaintext: &'a [u8], before: Timestamp) -> Commits<'a> {
        Commits { reader: Reader::new(plaintext), last: before }
    }

    /// The next commit; `None` after the last.
    pub fn next(&mut self) -> Result<Option<CommitRecord<'a>>> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let at = self.reader.offset();
        let step = self.reader.varint("time since the commit before")?;
        let timestamp =
            self.last.as_nanos().checked_add(step).filter(|_| step > 0).ok_or_else(|| {
                FormatError::structure(at, "time since the commit before", "a later time", step)
            })?;
        self.last = Timestamp::from_nanos(timestamp);
        let remaining = self.reader.remaining();
        let len = self.reader.length("length of a commit", remaining)?;
        Ok(Some(CommitRecord { timestamp: self.last, ops: self.reader.bytes("ops", len)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_op() -> Vec<Op<'static>> {
        let page = PageId::new(SpaceId::new(3), 1 << 40);
        vec![
            Op::PageFull { page, crc: 7, image: Blob::plain(b"image") },
            Op::PageFull { page, crc: 7, image: Blob { stored: b"z", plain_len: Some(0) } },
            Op::PagePatch { page, crc: u32::MAX, patch: b"patch" },
            Op::Range { page, offset: 12, bytes: Blob::plain(b"range") },
            Op::SetLength(SpaceId::new(0), 1 << 50),
            Op::CreateSpace { space: SpaceId::new(1), page_size: PageSize::KIB_4, name: "app.db" },
            Op::DropSpace(SpaceId::new(9)),
            Op::Logical(Blob { stored: b"compressed", plain_len: Some(1 << 20) }),
            Op::SetConfig { key: "k", value: Blob::plain(b"v"), environment_bound: true },
            Op::RemoveConfig("k"),
            Op::RestorePoint("before-migration"),
            Op::Mark(&[0, 1, 2]),
            Op::GlobalTransaction(&[9; 16]),
            Op::RedoPoint(Position::new(77)),
            Op::Annotation { key: "resync", text: "the WAL was reset unseen" },
        ]
    }

    #[test]
    fn every_op_round_trips() {
        let mut bytes = Vec::new();
        for op in every_op() {
            op.put(&mut bytes);
        }
        let mut r = Reader::new(&bytes);
        for op in every_op() {
            assert_eq!(Op::read(&mut r).unwrap(), op);
        }
        assert!(r.is_empty());
    }

    #[test]
    fn cut_or_altered_ops_are_errors_or_other_ops_never_a_panic() {
        for op in every_op() {
            let mut bytes = Vec::new();
            op.put(&mut bytes);
            for cut in 0..bytes.len() {
                assert!(Op::read(&mut Reader::new(&bytes[..cut])).is_err(), "{op:?} cut at {cut}");
            }
            for i in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[i / 8] ^= 1 << (i % 8);
                let _ = Op::read(&mut Reader::new(&flipped));
            }
        }
    }

    #[test]
    fn commits_round_trip() {
        let [before, first, second] = [10, 11, 1_000].map(Timestamp::from_nanos);
        let mut text = Vec::new();
        put_commit(&mut text, before, first, b"abc");
        put_commit(&mut text, first, second, &[]);
        let mut commits = Commits::new(&text, before);
        let first = commits.next().unwrap().unwrap();
        assert_eq!((first.timestamp.as_nanos(), first.ops), (11, &b"abc"[..]));
        let second = commits.next().unwrap().unwrap();
        assert_eq!((second.timestamp.as_nanos(), second.ops), (1_000, &b""[..]));
        assert!(commits.next().unwrap().is_none());
    }
}
