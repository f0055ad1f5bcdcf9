//! Frames and the trailer (`docs/format.md` §4).

use super::codec::Reader;
use super::{FormatError, FormatErrorKind};

type Result<T> = std::result::Result<T, FormatError>;

/// First bytes of every frame.
pub const MARKER: [u8; 4] = *b"RWF1";
/// Length of a frame header.
pub const HEADER_LEN: usize = 48;
/// Length of the part of a frame header that is authenticated.
pub const AUTHENTICATED_LEN: usize = 44;
/// Length of a tag and of a chain value.
pub const TAG_LEN: usize = 16;
/// Most plaintext in a frame.
pub const MAX_PLAINTEXT: usize = 32 << 20;
/// Length of the trailer of a complete file.
pub const TRAILER_LEN: usize = 32;
/// First bytes of a trailer.
pub const TRAILER_MAGIC: [u8; 8] = *b"RWSEALED";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The state that a segment continues from.
    Preface,
    /// Whole commits.
    Commits,
    /// A part of one commit.
    Partial,
    /// "No commit until this time."
    Tick,
    /// Pages of a part.
    Block,
    /// A piece of a structure.
    Body,
    /// The end of a complete file.
    Seal,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            FrameKind::Preface => 1,
            FrameKind::Commits => 2,
            FrameKind::Partial => 3,
            FrameKind::Tick => 4,
            FrameKind::Block => 5,
            FrameKind::Body => 6,
            FrameKind::Seal => 7,
        }
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of ciphertext and tag that follow.
    pub len: u32,
    /// Its index in the file.
    pub index: u32,
    /// What it holds.
    pub kind: FrameKind,
    /// Whether its first commit continues the partial frames before it.
    pub continues: bool,
    /// First LSN, or page.
    pub first: u64,
    /// Last LSN, or page.
    pub last: u64,
    /// Frames known to be durable when it was written.
    pub durable: u32,
    /// Random half of the nonce.
    pub hedge: [u8; 8],
    /// CRC-32 of the header and what follows.
    pub crc: u32,
}

impl FrameHeader {
    /// The bytes that are authenticated: all but the CRC.
    pub fn encode_authenticated(&self) -> [u8; AUTHENTICATED_LEN] {
        let mut out = [0; AUTHENTICATED_LEN];
        let fields: [&[u8]; 9] = [
            &MARKER,
            &self.len.to_le_bytes(),
            &self.index.to_le_bytes(),
            &[self.kind.code(), u8::from(self.continues), 0, 0],
            &self.first.to_le_bytes(),
            &self.last.to_le_bytes(),
            &self.durable.to_le_bytes(),
            &self.hedge,
            &[],
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// The nonce: index ‖ hedge.
    pub fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        for (to, from) in nonce.iter_mut().zip(self.index.to_le_bytes().iter().chain(&self.hedge)) {
            *to = *from;
        }
        nonce
    }

    /// Length of the whole frame.
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.len as usize
    }

    /// Reads a frame header; checks its bounds, not its CRC.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader> {
        let mut r = Reader::new(bytes);
        let marker = r.array::<4>("frame marker")?;
        if marker != MARKER {
            return Err(FormatError::structure(
                0,
                "frame marker",
                "RWF1",
                format_args!("{marker:02x?}"),
            ));
        }
        let len = r.u32("frame length")?;
        if (len as usize) < TAG_LEN || len as usize > MAX_PLAINTEXT + TAG_LEN {
            return Err(FormatError::structure(4, "frame length", "16 to 33554448", len));
        }
        let index = r.u32("frame index")?;
        let kind = match r.u8("frame kind")? {
            1 => FrameKind::Preface,
            2 => FrameKind::Commits,
            3 => FrameKind::Partial,
            4 => FrameKind::Tick,
            5 => FrameKind::Block,
            6 => FrameKind::Body,
            7 => FrameKind::Seal,
            other => return Err(FormatError::structure(12, "frame kind", "1 to 7", other)),
        };
        let flags = r.u8("frame flags")?;
        if flags > 1 {
            return Err(FormatError::structure(13, "frame flags", "0 or 1", flags));
        }
        r.zeros("reserved frame bytes", 2)?;
        Ok(FrameHeader {
            len,
            index,
            kind,
            continues: flags == 1,
            first: r.u64("first LSN")?,
            last: r.u64("last LSN")?,
            durable: r.u32("durable frames")?,
            hedge: r.array("hedge")?,
            crc: r.u32("frame CRC-32")?,
        })
    }

    /// The CRC-32 that belongs to this header and what follows it.
    pub fn compute_crc(&self, body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.encode_authenticated());
        hasher.update(body);
        hasher.finalize()
    }

    /// Compares the CRC-32 with what follows the header.
    pub fn check_crc(&self, body: &[u8]) -> Result<()> {
        let expected = self.compute_crc(body);
        if self.crc == expected {
            return Ok(());
        }
        Err(FormatError::new(
            FormatErrorKind::Checksum,
            AUTHENTICATED_LEN,
            "frame CRC-32",
            format_args!("{expected:08x}"),
            format_args!("{:08x}", self.crc),
        ))
    }
}

/// The last bytes of a complete file: a hint where its seal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the seal frame begins.
    pub seal_offset: u64,
    /// Frames in the file, the seal included.
    pub frames: u32,
}

impl Trailer {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_LEN);
        out.extend_from_slice(&TRAILER_MAGIC);
        out.extend_from_slice(&self.seal_offset.to_le_bytes());
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the last [`TRAILER_LEN`] bytes of a file; `None` where they are no trailer.
    pub fn decode(bytes: &[u8]) -> Option<Trailer> {
        let covered = bytes.get(..TRAILER_LEN - 4)?;
        let mut r = Reader::new(bytes);
        let magic = r.array::<8>("trailer magic").ok()?;
        let seal_offset = r.u64("seal offset").ok()?;
        let frames = r.u32("number of frames").ok()?;
        r.zeros("reserved trailer bytes", 8).ok()?;
        let crc = r.u32("trailer CRC-32").ok()?;
        let good = magic == TRAILER_MAGIC && crc == crc32fast::hash(covered) && r.is_empty();
        good.then_some(Trailer { seal_offset, frames })
    }
}
