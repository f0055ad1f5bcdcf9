//! Opens a sealed file and reads frames of it by place.

use std::sync::Arc;

use super::{ArchiveKeys, FrameOpener, frame_error};
use crate::error::{DamageKind, Error, Result};
use crate::format::frame::{FrameHeader, FrameKind, HEADER_LEN, TAG_LEN, TRAILER_LEN, Trailer};
use crate::format::header::{FileKind, Header, MAGIC, MAX_LEN, SealedHeader};
use crate::storage::{
    ReadCalls, ReadFile, ReadFileCalls, ReadStore, check_place, read_full, read_range,
};

/// A sealed file, open for reading.
#[derive(Debug)]
pub(crate) struct SealedFile {
    file: Arc<dyn ReadFile>,
    path: String,
    header: Header,
    commitment: [u8; 32],
    header_len: u64,
    opener: FrameOpener,
}

impl SealedFile {
    /// Opens a file that has to be there and has to be of this kind.
    pub fn open(
        storage: &dyn ReadStore,
        keys: &ArchiveKeys,
        path: &str,
        kind: FileKind,
    ) -> Result<SealedFile> {
        SealedFile::of(open_file(storage, path)?, keys, path, kind)
    }

    /// The sealed file that these bytes are.
    pub fn of(
        file: Arc<dyn ReadFile>,
        keys: &ArchiveKeys,
        path: &str,
        kind: FileKind,
    ) -> Result<SealedFile> {
        let (sealed, header_len) = read_header(file.as_ref(), path)?;
        if sealed.header.kind != kind {
            let (expected, found) =
                (format_args!("{kind:?}"), format_args!("{:?}", sealed.header.kind));
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                10,
                "file kind",
                expected,
                found,
            ));
        }
        let opener = keys.opener(path, &sealed)?;
        Ok(SealedFile {
            file,
            path: path.to_owned(),
            header: sealed.header,
            commitment: sealed.commitment,
            header_len,
            opener,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    pub fn header_len(&self) -> u64 {
        self.header_len
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn file(&self) -> &Arc<dyn ReadFile> {
        &self.file
    }

    pub fn opener(&self) -> &FrameOpener {
        &self.opener
    }

    pub fn len(&self) -> Result<u64> {
        self.file.length(&self.path)
    }

    /// Reads the frame at `offset` into `buffer`; gives its header and plaintext. `len` is its
    /// length where that is known.
    pub fn frame<'b>(
        &self,
        offset: u64,
        len: Option<usize>,
        buffer: &'b mut Vec<u8>,
    ) -> Result<(FrameHeader, &'b [u8])> {
        let (header, plaintext, _) = self.chained_frame(offset, len, buffer)?;
        Ok((header, plaintext))
    }

    /// The same, with the chain value that it was authenticated with: the tag of the frame before
    /// it.
    fn chained_frame<'b>(
        &self,
        offset: u64,
        len: Option<usize>,
        buffer: &'b mut Vec<u8>,
    ) -> Result<(FrameHeader, &'b [u8], [u8; TAG_LEN])> {
        let lead = TAG_LEN as u64;
        let start = offset.saturating_sub(lead);
        let mut want = TAG_LEN + len.unwrap_or(64 << 10).max(HEADER_LEN);
        let header = loop {
            self.fill(start, want, buffer)?;
            // A file that ends before has no header here: decoding says how much is missing.
            let head = buffer.get(TAG_LEN..).unwrap_or_default();
            let header = FrameHeader::decode(head).map_err(|e| e.at(&self.path, offset))?;
            let need = TAG_LEN + header.frame_len();
            if buffer.len() >= need {
                break header;
            }
            if want >= need {
                let (expected, found) = (header.frame_len(), buffer.len() - TAG_LEN);
                let (expected, found) =
                    (format_args!("{expected} bytes"), format_args!("{found} bytes"));
                return Err(Error::damage(
                    DamageKind::Truncated,
                    &self.path,
                    offset,
                    "frame",
                    expected,
                    found,
                ));
            }
            want = need;
        };
        let (before, rest) = buffer.split_at_mut(TAG_LEN);
        let mut chain = [0; TAG_LEN];
        chain.copy_from_slice(before);
        if offset == self.header_len {
            chain = self.opener.first_chain();
        }
        let frame =
            rest.get_mut(..header.frame_len()).expect("the loop ended with the whole frame");
        // The CRC is over the ciphertext, which decryption replaces.
        match self.opener.open_in_place(&header, &chain, frame) {
            Ok((plaintext, _)) => Ok((header, plaintext, chain)),
            Err(_) => Err(self.explain(offset, &header)),
        }
    }

    fn fill(&self, start: u64, want: usize, buffer: &mut Vec<u8>) -> Result<()> {
        if buffer.capacity() < want {
            // Comes zeroed from the system, mostly, where growing would clear every byte.
            *buffer = vec![0; want];
        }
        buffer.resize(want, 0);
        let got = read_full(self.file.as_ref(), &self.path, start, buffer)?;
        buffer.truncate(got);
        Ok(())
    }

    /// Tells rot from tampering for a frame that did not open.
    pub fn explain(&self, offset: u64, header: &FrameHeader) -> Error {
        frame_error(&self.path, offset, header, self.check_crc(offset, header).is_ok())
    }

    /// Compares the CRC-32 of a frame, which no tag covers.
    pub fn check_crc(&self, offset: u64, header: &FrameHeader) -> Result<()> {
        let start = offset.saturating_add(HEADER_LEN as u64);
        let body = read_range(self.file.as_ref(), &self.path, start, header.len as usize)?;
        header.check_crc(&body).map_err(|e| e.at(&self.path, offset))
    }

    /// The trailer of a complete file; `None` where the file does not end in one.
    pub fn trailer(&self) -> Result<Option<Trailer>> {
        let Some(at) = self.len()?.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
        let bytes = read_range(self.file.as_ref(), &self.path, at, TRAILER_LEN)?;
        Ok(Trailer::decode(&bytes)
            .filter(|t| t.seal_offset >= self.header_len && t.seal_offset < at))
    }

    /// The seal frame, which the trailer points to.
    pub fn seal(&self, trailer: &Trailer) -> Result<Seal> {
        let mut buffer = Vec::new();
        let (header, plaintext, chain) =
            self.chained_frame(trailer.seal_offset, None, &mut buffer)?;
        let frames = trailer.frames;
        let end = trailer.seal_offset + header.frame_len() as u64 + TRAILER_LEN as u64;
        if header.kind != FrameKind::Seal
            || header.index.checked_add(1) != Some(frames)
            || end != self.len()?
        {
            return Err(Error::damage(
                DamageKind::Structure,
                &self.path,
                trailer.seal_offset,
                "seal",
                format_args!(
                    "a seal as frame {} and the trailer after it",
                    frames.saturating_sub(1)
                ),
                format_args!("{:?} as frame {}", header.kind, header.index),
            ));
        }
        Ok(Seal { header, offset: trailer.seal_offset, chain, plaintext: plaintext.to_vec() })
    }

    /// The seal of a file that has to be complete.
    pub fn complete(&self) -> Result<Seal> {
        let Some(trailer) = self.trailer()? else {
            let len = self.len()?;
            return Err(Error::damage(
                DamageKind::Truncated,
                &self.path,
                len,
                "trailer",
                "the end of a complete file",
                "none",
            ));
        };
        self.seal(&trailer)
    }
}

/// The seal of a complete file.
#[derive(Debug)]
pub(crate) struct Seal {
    pub header: FrameHeader,
    pub offset: u64,
    /// The tag of the frame before it, which it was authenticated with.
    pub chain: [u8; TAG_LEN],
    pub plaintext: Vec<u8>,
}

/// Opens a file that has to be there.
pub(crate) fn open_file(storage: &dyn ReadStore, path: &str) -> Result<Arc<dyn ReadFile>> {
    if let Some(file) = storage.opened_if_there(path)? {
        return Ok(file);
    }
    // Where the whole archive is gone, a file of it is not what is missing.
    check_place(storage)?;
    Err(Error::damage(DamageKind::Missing, path, 0, "file", "to be there", "no such file"))
}

/// Reads the header of a file.
pub(crate) fn read_header(file: &dyn ReadFile, path: &str) -> Result<(SealedHeader, u64)> {
    let bytes = read_range(file, path, 0, MAX_LEN)?;
    let (sealed, len) = SealedHeader::decode(&bytes).map_err(|mut e| {
        if !bytes.starts_with(&MAGIC) {
            (e.what, e.expected) = ("header", "a file that rewound wrote".to_owned());
            let found = if bytes.is_empty() { "an empty one" } else { "another one" };
            e.found = format!("{found}: if it is none of the archive's, move it to another place, and keep it there");
        }
        e.at(path, 0)
    })?;
    Ok((sealed, len as u64))
}

/// Decodes a CBOR structure that came out of an authenticated frame.
pub(crate) fn decode_cbor<'b, T: minicbor::Decode<'b, ()>>(
    path: &str,
    offset: u64,
    what: &'static str,
    bytes: &'b [u8],
) -> Result<T> {
    minicbor::decode(bytes).map_err(|e| {
        // An error that has no position is told of the beginning.
        let at = offset + e.position().unwrap_or(0) as u64;
        Error::damage(DamageKind::Structure, path, at, what, "well-formed CBOR of its shape", e)
    })
}

/// Encodes a CBOR structure.
pub(crate) fn encode_cbor<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value)
        .expect("no encoder of the format refuses a value, and a vector takes all bytes")
}
