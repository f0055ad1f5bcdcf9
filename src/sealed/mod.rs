//! Sealed files: header, keys and frames over storage. What every kind of file has in common.
//!
//! Owns the way from bytes in storage to authenticated plaintext and back. Knows
//! nothing of what the plaintext means. Invariants: every file has a fresh data
//! key and salt; a frame's nonce holds its index, so no pair of key and nonce is
//! used twice; nothing is decrypted before the key commitment was compared; no
//! plaintext leaves before its tag was.

mod body;
mod reader;
mod single;
mod spill;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

pub(crate) use body::{read_body, write_body};
pub(crate) use reader::{SealedFile, decode_cbor, encode_cbor, read_header};
pub(crate) use single::{SingleFrame, read_bytes, read_single};
pub(crate) use spill::{SpillReader, SpillWriter, Spilled, spill};
pub(crate) use stream::{FrameStream, Step};
pub(crate) use writer::{SealedSummary, SealedWriter, remove_leftovers, temporary_name};

use crate::crypto::aead::{FrameCipher, TagMismatch};
use crate::crypto::kdf::{commitment_matches, derive_file_keys, unwrap_data_key, wrap_data_key};
use crate::crypto::{Backend, Keyring, SecretKey};
use crate::env::{Rng, random};
use crate::error::{DamageKind, Error, Result};
use crate::format::frame::{
    AUTHENTICATED_LEN, FrameHeader, FrameKind, HEADER_LEN, MAX_PLAINTEXT, TAG_LEN,
};
use crate::format::header::{FileKind, Header, MAX_STANZAS_LEN, SealedHeader, Stanza};
use crate::types::{ArchiveId, Epoch, FileId, KeyId, NodeId, RecipientId, TimelineId, Timestamp};

/// What a new file is and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileInfo {
    pub kind: FileKind,
    pub node: NodeId,
    pub timeline: TimelineId,
    pub epoch: Epoch,
    pub sequence: u64,
    pub from: u64,
    pub to: u64,
    pub created: Timestamp,
    pub link: [u8; 32],
}

/// The keys of an open archive.
#[derive(Debug)]
pub(crate) struct ArchiveKeys {
    archive: ArchiveId,
    backend: Backend,
    rng: Arc<dyn Rng>,
    /// The generation of the archive key. A file of any other is none of this archive's: whoever
    /// can write to the storage could have made one up for a recipient whose wrapping key is
    /// public.
    current: KeyId,
    key: SecretKey,
    /// The archive key, wrapped for each recipient: goes into every new file.
    stanzas: Vec<Stanza>,
}

/// A file about to be written.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub header: Header,
    pub header_bytes: Vec<u8>,
    pub commitment: [u8; 32],
    pub sealer: FrameSealer,
}

impl ArchiveKeys {
    /// Keys of a new archive, wrapped for every member of the key ring.
    pub fn create(
        archive: ArchiveId,
        keyring: &Keyring,
        backend: Backend,
        rng: Arc<dyn Rng>,
    ) -> Result<ArchiveKeys> {
        let key = SecretKey::random(rng.as_ref())?;
        let current = KeyId::from_bytes(random(rng.as_ref())?);
        let context = context(archive, current);
        keyring.check()?;
        let stanzas: Vec<Stanza> = keyring
            .wrap(&key, &context, rng.as_ref())?
            .into_iter()
            .map(|(recipient, wrapped)| Stanza { recipient, wrapped })
            .collect();
        let bytes: usize = stanzas.iter().map(|s| s.wrapped.len() + 18).sum();
        if bytes > MAX_STANZAS_LEN {
            let (limit, found) = (MAX_STANZAS_LEN as u64, bytes as u64);
            return Err(Error::LimitExceeded { what: "bytes of all wrapped keys", limit, found });
        }
        Ok(ArchiveKeys { archive, backend, rng, current, key, stanzas })
    }

    /// Keys of an existing archive, from the header of one of its files: the newest catalog entry.
    pub fn unlock(
        path: &str,
        file: &SealedHeader,
        keyring: &Keyring,
        backend: Backend,
        rng: Arc<dyn Rng>,
    ) -> Result<ArchiveKeys> {
        let (archive, current) = (file.header.archive, file.header.key);
        let wrapped: Vec<_> =
            file.stanzas.iter().map(|s| (s.recipient, s.wrapped.as_slice())).collect();
        let key = keyring.unwrap(path, &wrapped, &context(archive, current))?;
        Ok(ArchiveKeys { archive, backend, rng, current, key, stanzas: file.stanzas.clone() })
    }

    /// The generation of the archive key.
    pub fn generation(&self) -> KeyId {
        self.current
    }

    /// For whom the archive key is wrapped.
    pub fn recipients(&self) -> Vec<RecipientId> {
        self.stanzas.iter().map(|s| s.recipient).collect()
    }

    pub fn archive(&self) -> ArchiveId {
        self.archive
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    pub fn rng(&self) -> &Arc<dyn Rng> {
        &self.rng
    }

    /// Keys and header of a new file.
    pub fn new_file(&self, info: FileInfo) -> Result<NewFile> {
        let header = Header {
            kind: info.kind,
            archive: self.archive,
            file: FileId::from_bytes(random(self.rng.as_ref())?),
            salt: random(self.rng.as_ref())?,
            node: info.node,
            timeline: info.timeline,
            epoch: info.epoch,
            sequence: info.sequence,
            from: info.from,
            to: info.to,
            created: info.created,
            link: info.link,
            key: self.current,
        };
        let immutable = header.encode();
        let data_key = SecretKey::random(self.rng.as_ref())?;
        let wrapped_key =
            wrap_data_key(self.backend, &self.key, &header.salt, &immutable, &data_key)?;
        let file_keys = derive_file_keys(&data_key, &header.salt, &immutable);
        let sealed = SealedHeader {
            header,
            wrapped_key,
            commitment: file_keys.commitment,
            stanzas: self.stanzas.clone(),
        };
        Ok(NewFile {
            header_bytes: sealed.encode(),
            sealer: FrameSealer::new(
                FrameCipher::new(self.backend, &file_keys.frame_key),
                first_chain(&file_keys.commitment),
                Arc::clone(&self.rng),
            ),
            commitment: file_keys.commitment,
            header: sealed.header,
        })
    }

    /// The opener of a file's frames. Checks that the file belongs to this archive and that the key
    /// is the right one.
    pub fn opener(&self, path: &str, file: &SealedHeader) -> Result<FrameOpener> {
        if file.header.archive != self.archive {
            return Err(Error::damage(
                DamageKind::Authentication,
                path,
                16,
                "archive id",
                self.archive,
                file.header.archive,
            ));
        }
        if file.header.key != self.current {
            let found = file.header.key;
            return Err(Error::damage(
                DamageKind::Authentication,
                path,
                160,
                "key id",
                self.current,
                found,
            ));
        }
        let immutable = file.header.encode();
        let data_key = unwrap_data_key(
            self.backend,
            &self.key,
            &file.header.salt,
            &immutable,
            &file.wrapped_key,
        )
        .map_err(|TagMismatch| header_mismatch(path, 192, "wrapped data key"))?;
        let file_keys = derive_file_keys(&data_key, &file.header.salt, &immutable);
        if !commitment_matches(&file_keys.commitment, &file.commitment) {
            return Err(header_mismatch(path, 240, "key commitment"));
        }
        Ok(FrameOpener {
            cipher: FrameCipher::new(self.backend, &file_keys.frame_key),
            first_chain: first_chain(&file_keys.commitment),
        })
    }
}

fn header_mismatch(path: &str, offset: u64, what: &'static str) -> Error {
    Error::damage(
        DamageKind::Authentication,
        path,
        offset,
        what,
        "the header as its writer made it",
        "another one",
    )
}

fn context(archive: ArchiveId, key: KeyId) -> [u8; 32] {
    let mut context = [0; 32];
    for (to, from) in context.iter_mut().zip(archive.as_bytes().iter().chain(key.as_bytes())) {
        *to = *from;
    }
    context
}

fn first_chain(commitment: &[u8; 32]) -> [u8; TAG_LEN] {
    let mut chain = [0; TAG_LEN];
    for (to, from) in chain.iter_mut().zip(commitment) {
        *to = *from;
    }
    chain
}

/// What a frame says in the clear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameSpec {
    pub kind: FrameKind,
    pub continues: bool,
    pub first: u64,
    pub last: u64,
    pub durable: u32,
}

impl FrameSpec {
    /// A frame outside the log.
    pub fn plain(kind: FrameKind, first: u64, last: u64) -> FrameSpec {
        FrameSpec { kind, continues: false, first, last, durable: 0 }
    }
}

/// Seals the frames of one file, in order.
#[derive(Debug)]
pub(crate) struct FrameSealer {
    cipher: FrameCipher,
    chain: [u8; TAG_LEN],
    next: u32,
    rng: Arc<dyn Rng>,
}

impl FrameSealer {
    pub fn new(cipher: FrameCipher, chain: [u8; TAG_LEN], rng: Arc<dyn Rng>) -> FrameSealer {
        FrameSealer { cipher, chain, next: 0, rng }
    }

    /// Frames sealed so far.
    pub fn count(&self) -> u32 {
        self.next
    }

    /// Tag of the last frame.
    pub fn chain(&self) -> [u8; TAG_LEN] {
        self.chain
    }

    /// Appends the next frame.
    pub fn seal(&mut self, spec: FrameSpec, plaintext: &[&[u8]], out: &mut Vec<u8>) -> Result<()> {
        let len: usize = plaintext.iter().map(|p| p.len()).sum();
        if len > MAX_PLAINTEXT {
            return Err(Error::LimitExceeded {
                what: "frame",
                limit: MAX_PLAINTEXT as u64,
                found: len as u64,
            });
        }
        let mut header = FrameHeader {
            len: u32::try_from(len + TAG_LEN).expect("the longest plaintext and its tag fit"),
            index: self.next,
            kind: spec.kind,
            continues: spec.continues,
            first: spec.first,
            last: spec.last,
            durable: spec.durable,
            hedge: random(self.rng.as_ref())?,
            crc: 0,
        };
        self.next = self.next.checked_add(1).ok_or(Error::LimitExceeded {
            what: "frames in a file",
            limit: u64::from(u32::MAX),
            found: 1 << 32,
        })?;
        let start = out.len();
        out.extend_from_slice(&header.encode_authenticated());
        out.extend_from_slice(&[0; HEADER_LEN - AUTHENTICATED_LEN]);
        for piece in plaintext {
            out.extend_from_slice(piece);
        }
        let (head, body) = out.split_at_mut(start).1.split_at_mut(HEADER_LEN);
        let aad = aad(head, &self.chain);
        self.chain = self.cipher.seal_in_place(&header.nonce(), &aad, body)?;
        out.extend_from_slice(&self.chain);
        let (head, body) = out.split_at_mut(start).1.split_at_mut(HEADER_LEN);
        header.crc = header.compute_crc(body);
        head.split_at_mut(AUTHENTICATED_LEN).1.copy_from_slice(&header.crc.to_le_bytes());
        Ok(())
    }
}

/// What is authenticated beside a frame's text; `head` is the whole header.
fn aad(head: &[u8], chain: &[u8; TAG_LEN]) -> [u8; AUTHENTICATED_LEN + TAG_LEN] {
    let mut aad = [0; AUTHENTICATED_LEN + TAG_LEN];
    let (to_head, to_chain) = aad.split_at_mut(AUTHENTICATED_LEN);
    to_head.copy_from_slice(head.split_at(AUTHENTICATED_LEN).0);
    to_chain.copy_from_slice(chain);
    aad
}

/// Opens the frames of one file, in any order.
#[derive(Debug)]
pub(crate) struct FrameOpener {
    cipher: FrameCipher,
    first_chain: [u8; TAG_LEN],
}

impl FrameOpener {
    pub fn new(cipher: FrameCipher, first_chain: [u8; TAG_LEN]) -> FrameOpener {
        FrameOpener { cipher, first_chain }
    }

    /// The chain value of frame 0.
    pub fn first_chain(&self) -> [u8; TAG_LEN] {
        self.first_chain
    }

    /// Decrypts a frame in place; `frame` is the whole frame, header first. Gives its plaintext and
    /// its tag.
    pub fn open_in_place<'b>(
        &self,
        header: &FrameHeader,
        chain: &[u8; TAG_LEN],
        frame: &'b mut [u8],
    ) -> std::result::Result<(&'b [u8], [u8; TAG_LEN]), TagMismatch> {
        let (head, body) = frame.split_at_mut_checked(HEADER_LEN).ok_or(TagMismatch)?;
        let (text, tag) = body.split_last_chunk_mut::<TAG_LEN>().ok_or(TagMismatch)?;
        self.cipher.open_in_place(&header.nonce(), &aad(head, chain), text, tag)?;
        Ok((text, *tag))
    }

    /// Decrypts a frame into `out`, which has to be as long as its plaintext; gives its tag.
    /// `frame` is the whole frame, header first, and must not change meanwhile: no cipher can be
    /// relied on to read each byte of ciphertext once.
    pub fn open_into(
        &self,
        header: &FrameHeader,
        chain: &[u8; TAG_LEN],
        frame: &[u8],
        out: &mut [u8],
    ) -> std::result::Result<[u8; TAG_LEN], TagMismatch> {
        let (head, body) = frame.split_at_checked(HEADER_LEN).ok_or(TagMismatch)?;
        let (text, tag) = body.split_last_chunk::<TAG_LEN>().ok_or(TagMismatch)?;
        self.cipher.open_into(&header.nonce(), &aad(head, chain), text, tag, out)?;
        Ok(*tag)
    }
}

/// The error for a frame that does not open: rot where the CRC is off too, tampering or a broken
/// chain where it is not.
pub(crate) fn frame_error(
    path: &str,
    offset: u64,
    header: &FrameHeader,
    crc_matches: bool,
) -> Error {
    if crc_matches {
        let expected = format_args!(
            "frame {} as its writer sealed it, after the frame before it",
            header.index
        );
        Error::damage(
            DamageKind::Authentication,
            path,
            offset,
            "frame",
            expected,
            "other bytes, or another order",
        )
    } else {
        let expected = format_args!("frame {} intact", header.index);
        Error::damage(DamageKind::Checksum, path, offset, "frame", expected, "altered bytes")
    }
}
