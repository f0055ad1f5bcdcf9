//! The header that every sealed file begins with (`docs/format.md` §2).

use super::codec::Reader;
use super::{FormatError, FormatErrorKind, VERSION};
use crate::types::{ArchiveId, Epoch, FileId, KeyId, NodeId, RecipientId, TimelineId, Timestamp};

type Result<T> = std::result::Result<T, FormatError>;

/// First bytes of every file: a high bit, a name and line ends that careless copying breaks.
pub const MAGIC: [u8; 8] = *b"\x89RWND\r\n\x1a";
/// Length of the part that the file key is derived from.
pub const IMMUTABLE_LEN: usize = 192;
/// Length of the header without its recipients.
pub const FIXED_LEN: usize = 280;
/// Most recipients of a file.
pub const MAX_RECIPIENTS: usize = 16;
/// Most bytes of all recipient stanzas.
pub const MAX_STANZAS_LEN: usize = 16_384;
/// Most bytes of one wrapped archive key.
pub const MAX_WRAPPED_LEN: usize = 4_096;
/// No header is longer.
pub const MAX_LEN: usize = FIXED_LEN + MAX_STANZAS_LEN;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A segment of the log.
    Segment,
    /// A part of one or more layers.
    Part,
    /// One entry of the catalog.
    Catalog,
    /// What a layer covers and is made of.
    Layer,
    /// Working data under a key that is never stored.
    Spill,
    /// What the catalog says up to an entry.
    Checkpoint,
}

impl FileKind {
    const fn code(self) -> u8 {
        match self {
            FileKind::Segment => 1,
            FileKind::Part => 2,
            FileKind::Catalog => 3,
            FileKind::Layer => 4,
            FileKind::Spill => 5,
            FileKind::Checkpoint => 6,
        }
    }
}

/// The immutable header: what a file is and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: FileKind,
    /// The archive it belongs to.
    pub archive: ArchiveId,
    /// Its own identity.
    pub file: FileId,
    /// Salt of its keys.
    pub salt: [u8; 32],
    /// The node it belongs to; 0 for the catalog.
    pub node: NodeId,
    /// The timeline it belongs to; 0 for the catalog.
    pub timeline: TimelineId,
    /// Tenure of the writer that made it.
    pub epoch: Epoch,
    /// Its place in a sequence of files.
    pub sequence: u64,
    /// The position it starts from.
    pub from: u64,
    /// The position it ends at.
    pub to: u64,
    /// When it was made, by the clock of its maker.
    pub created: Timestamp,
    /// What ties it to the file before it.
    pub link: [u8; 32],
    /// The generation of the archive key that its data key is wrapped with.
    pub key: KeyId,
}

/// One holder of the archive key, as it stands in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Whose it is.
    pub recipient: RecipientId,
    /// The archive key, wrapped for that recipient.
    pub wrapped: Vec<u8>,
}

/// A whole header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    /// The immutable part.
    pub header: Header,
    /// The data key, wrapped with the archive key.
    pub wrapped_key: [u8; 48],
    /// Commitment to the data key.
    pub commitment: [u8; 32],
    /// The archive key's holders.
    pub stanzas: Vec<Stanza>,
}

impl Header {
    /// The 192 bytes that the file's keys are derived from.
    pub fn encode(&self) -> [u8; IMMUTABLE_LEN] {
        let mut out = Vec::with_capacity(IMMUTABLE_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind.code(), 1, 1, 1, 0, 0]);
        out.extend_from_slice(self.archive.as_bytes());
        out.extend_from_slice(self.file.as_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.node.get().to_le_bytes());
        out.extend_from_slice(&self.timeline.get().to_le_bytes());
        for number in [self.epoch.get(), self.sequence, self.from, self.to, self.created.as_nanos()]
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.link);
        out.extend_from_slice(self.key.as_bytes());
        let mut bytes = [0; IMMUTABLE_LEN];
        for (to, from) in bytes.iter_mut().zip(out) {
            *to = from;
        }
        bytes
    }

    fn decode(r: &mut Reader<'_>) -> Result<Header> {
        let magic = r.array::<8>("magic")?;
        if magic != MAGIC {
            return Err(FormatError::structure(
                0,
                "magic",
                format_args!("{MAGIC:02x?}"),
                format_args!("{magic:02x?}"),
            ));
        }
        let version = r.u16("format version")?;
        supported(8, "format version", u64::from(version), u64::from(VERSION))?;
        let kind = match r.u8("file kind")? {
            1 => FileKind::Segment,
            2 => FileKind::Part,
            3 => FileKind::Catalog,
            4 => FileKind::Layer,
            5 => FileKind::Spill,
            6 => FileKind::Checkpoint,
            0 => return Err(FormatError::structure(10, "file kind", "1 to 5", 0)),
            found => return Err(too_new(10, "file kind", u64::from(found), 5)),
        };
        for (offset, what) in [(11, "cipher"), (12, "key derivation"), (13, "compression")] {
            supported(offset, what, u64::from(r.u8(what)?), 1)?;
        }
        r.zeros("header flags", 2)?;
        let header = Header {
            kind,
            archive: ArchiveId::from_bytes(r.array("archive id")?),
            file: FileId::from_bytes(r.array("file id")?),
            salt: r.array("salt")?,
            node: NodeId::new(r.u32("node")?),
            timeline: TimelineId::new(r.u32("timeline")?),
            epoch: Epoch::new(r.u64("epoch")?),
            sequence: r.u64("sequence number")?,
            from: r.u64("from")?,
            to: r.u64("to")?,
            created: Timestamp::from_nanos(r.u64("created")?),
            link: r.array("link")?,
            key: KeyId::from_bytes(r.array("key id")?),
        };
        r.zeros("reserved header bytes", 16)?;
        Ok(header)
    }
}

/// Checks a version or algorithm number: 1 to the newest one known.
fn supported(offset: usize, what: &'static str, found: u64, supported: u64) -> Result<()> {
    if found == 0 {
        return Err(FormatError::structure(offset, what, format_args!("1 to {supported}"), found));
    }
    if found > supported {
        return Err(too_new(offset, what, found, supported));
    }
    Ok(())
}

fn too_new(offset: usize, what: &'static str, found: u64, supported: u64) -> FormatError {
    let kind = FormatErrorKind::TooNew { found, supported };
    FormatError::new(kind, offset, what, format_args!("at most {supported}"), found)
}

impl SealedHeader {
    /// The bytes of the header. At most [`MAX_RECIPIENTS`] stanzas.
    pub fn encode(&self) -> Vec<u8> {
        let mut stanzas = Vec::new();
        for stanza in &self.stanzas {
            stanzas.extend_from_slice(stanza.recipient.as_bytes());
            stanzas.extend_from_slice(&len16(&stanza.wrapped));
            stanzas.extend_from_slice(&stanza.wrapped);
        }
        let mut out = Vec::with_capacity(FIXED_LEN + stanzas.len());
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.wrapped_key);
        out.extend_from_slice(&self.commitment);
        out.extend_from_slice(&len16(&self.stanzas));
        out.extend_from_slice(&len16(&stanzas));
        let crc = crc(&out, &stanzas);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&stanzas);
        out
    }

    /// Reads a header from the start of a file; also returns its length. `bytes`
    /// should hold [`MAX_LEN`] bytes, or the whole file where that is shorter.
    pub fn decode(bytes: &[u8]) -> Result<(SealedHeader, usize)> {
        let mut r = Reader::new(bytes);
        let header = match Header::decode(&mut r) {
            // Rot in a version is rot. Only what its CRC-32 vouches for is of a newer release.
            Err(e) if matches!(e.kind, FormatErrorKind::TooNew { .. }) => {
                check_crc(bytes)?;
                return Err(e);
            }
            header => header?,
        };
        let wrapped_key = r.array("wrapped data key")?;
        let commitment = r.array("key commitment")?;
        let at = r.offset();
        let count = usize::from(r.u16("number of recipients")?);
        if count == 0 || count > MAX_RECIPIENTS {
            return Err(FormatError::structure(at, "number of recipients", "1 to 16", count));
        }
        let len = usize::from(r.u16("length of recipients")?);
        if len > MAX_STANZAS_LEN {
            return Err(FormatError::structure(
                at + 2,
                "length of recipients",
                "at most 16384",
                len,
            ));
        }
        r.u32("header CRC-32")?;
        let body = r.bytes("recipients", len)?;
        check_crc(bytes)?;
        let mut s = Reader::new(body);
        let mut stanzas = Vec::with_capacity(count);
        for _ in 0..count {
            let recipient = RecipientId::from_bytes(s.array("recipient id")?);
            let n = usize::from(s.u16("length of a wrapped key")?);
            if n > MAX_WRAPPED_LEN {
                let at = FIXED_LEN + s.offset() - 2;
                return Err(FormatError::structure(
                    at,
                    "length of a wrapped key",
                    "at most 4096",
                    n,
                ));
            }
            stanzas
                .push(Stanza { recipient, wrapped: s.bytes("wrapped archive key", n)?.to_vec() });
        }
        if !s.is_empty() {
            let at = FIXED_LEN + s.offset();
            return Err(FormatError::structure(
                at,
                "recipients",
                "their end",
                format_args!("{} bytes more", s.remaining()),
            ));
        }
        Ok((SealedHeader { header, wrapped_key, commitment, stanzas }, FIXED_LEN + len))
    }
}

/// A length whose bound was checked when the archive's keys were made; the decoder refuses what
/// does not fit.
fn len16<T>(list: &[T]) -> [u8; 2] {
    u16::try_from(list.len())
        .expect("stanzas are bounded when the archive's keys are made")
        .to_le_bytes()
}

/// Compares the CRC-32 of a header with what it covers. Its place, that of the length of the
/// stanzas and theirs are the same in every version.
fn check_crc(bytes: &[u8]) -> Result<()> {
    let mut r = Reader::new(bytes);
    let covered = r.bytes("header", FIXED_LEN - 4)?;
    let len = u16::from_le_bytes(*covered.last_chunk().expect("the fixed part ends with a length"));
    let found = r.u32("header CRC-32")?;
    let expected = crc(covered, r.bytes("recipients", usize::from(len))?);
    if found == expected {
        return Ok(());
    }
    Err(FormatError::new(
        FormatErrorKind::Checksum,
        FIXED_LEN - 4,
        "header CRC-32",
        format_args!("{expected:08x}"),
        format_args!("{found:08x}"),
    ))
}

fn crc(fixed: &[u8], stanzas: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fixed);
    hasher.update(stanzas);
    hasher.finalize()
}
