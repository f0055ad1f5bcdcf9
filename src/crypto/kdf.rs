//! The key hierarchy of `docs/format.md` §3, to the letter: HKDF-SHA-256 (RFC 5869)
//! and AES-256-GCM key wrapping.
//!
//! Owns the labels and the order of inputs. Never generates a key or salt and never parses
//! what it binds: the immutable header comes as bytes.
//!
//! Invariants: each label serves one purpose and no label is a prefix of another; a wrapping key
//! seals one message only, as it depends on a random salt and on the header with its random
//! file id; a commitment is compared in constant time, before anything is decrypted.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::SecretKey;
use crate::crypto::aead::{Backend, FrameCipher, NONCE_LEN, TAG_LEN, TagMismatch};
use crate::error::Result;

#[cfg(test)]
mod tests;

/// Bytes in a key.
const KEY_LEN: usize = 32;
/// Bytes in a wrapped data key: the key and the tag over it.
pub const WRAPPED_LEN: usize = KEY_LEN + TAG_LEN;
/// Nonce for keys that seal a single message.
pub const SINGLE_USE_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

const FILE_LABEL: &[u8] = b"rewound file v1";
const WRAP_LABEL: &[u8] = b"rewound wrap v1";

/// What a file's data key gives.
#[derive(Debug)]
pub struct FileKeys {
    /// Encrypts the frames.
    pub frame_key: SecretKey,
    /// Commits to the data key, salt and immutable header; public, it stands in the file.
    pub commitment: [u8; 32],
}

/// The frame key and key commitment of a file.
///
/// The commitment closes what GCM leaves open: it is easy to make a ciphertext that opens under
/// two keys (Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key
/// Commitment", USENIX Security 2022). Both are halves of one HKDF output, so the commitment tells
/// nothing about the key.
pub fn derive_file_keys(
    data_key: &SecretKey,
    salt: &[u8; 32],
    immutable_header: &[u8],
) -> FileKeys {
    let mut okm = Zeroizing::new([0; 64]);
    hkdf_sha256(data_key.expose(), salt, &[FILE_LABEL, immutable_header], &mut okm);
    let mut frame_key = Zeroizing::new([0; 32]);
    let mut commitment = [0; 32];
    let halves = frame_key.iter_mut().chain(&mut commitment);
    halves.zip(okm.iter()).for_each(|(to, from)| *to = *from);
    FileKeys { frame_key: SecretKey::from_bytes(*frame_key), commitment }
}

/// Wraps a file's data key under the archive key. Ciphertext, then tag.
///
/// # Errors
///
/// [`Error::Encryption`](crate::Error::Encryption) where the backend refuses.
pub fn wrap_data_key(
    backend: Backend,
    archive_key: &SecretKey,
    salt: &[u8; 32],
    immutable_header: &[u8],
    data_key: &SecretKey,
) -> Result<[u8; WRAPPED_LEN]> {
    let wrapping_key = derive_key(archive_key, salt, &[WRAP_LABEL, immutable_header]);
    wrap_once(backend, &wrapping_key, immutable_header, data_key)
}

/// Recovers a file's data key.
///
/// # Errors
///
/// [`TagMismatch`]: another archive key, or an altered header.
pub fn unwrap_data_key(
    backend: Backend,
    archive_key: &SecretKey,
    salt: &[u8; 32],
    immutable_header: &[u8],
    wrapped: &[u8; WRAPPED_LEN],
) -> Result<SecretKey, TagMismatch> {
    let wrapping_key = derive_key(archive_key, salt, &[WRAP_LABEL, immutable_header]);
    unwrap_once(backend, &wrapping_key, immutable_header, wrapped)
}

/// Whether two key commitments are the same, in constant time.
pub fn commitment_matches(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

/// SHA-256 (FIPS 180-4) over parts as if they were one. The caller sees to it that no two
/// meanings give the same concatenation.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// A 32-byte key by HKDF-SHA-256; `info` is the concatenation of its parts.
pub fn derive_key(ikm: &SecretKey, salt: &[u8], info: &[&[u8]]) -> SecretKey {
    let mut okm = Zeroizing::new([0; KEY_LEN]);
    hkdf_sha256(ikm.expose(), salt, info, &mut okm);
    SecretKey::from_bytes(*okm)
}

/// Seals a key under a wrapping key that seals nothing else, ever: hence the fixed nonce.
pub fn wrap_once(
    backend: Backend,
    wrapping_key: &SecretKey,
    aad: &[u8],
    key: &SecretKey,
) -> Result<[u8; WRAPPED_LEN]> {
    let mut body = Zeroizing::new(*key.expose());
    let cipher = FrameCipher::new(backend, wrapping_key);
    let tag = cipher.seal_in_place(&SINGLE_USE_NONCE, aad, body.as_mut_slice())?;
    let mut wrapped = [0; WRAPPED_LEN];
    wrapped.iter_mut().zip(body.iter().chain(&tag)).for_each(|(to, from)| *to = *from);
    Ok(wrapped)
}

/// Opens what [`wrap_once`] sealed.
pub fn unwrap_once(
    backend: Backend,
    wrapping_key: &SecretKey,
    aad: &[u8],
    wrapped: &[u8; WRAPPED_LEN],
) -> Result<SecretKey, TagMismatch> {
    let (Some(body), Some(tag)) = (wrapped.first_chunk::<KEY_LEN>(), wrapped.last_chunk()) else {
        return Err(TagMismatch);
    };
    let cipher = FrameCipher::new(backend, wrapping_key);
    SecretKey::try_fill(|key| cipher.open_into(&SINGLE_USE_NONCE, aad, body, tag, key))
}

/// HKDF-SHA-256 (RFC 5869): extract, then expand. An empty salt is the RFC's "not provided".
fn hkdf_sha256<const N: usize>(ikm: &[u8], salt: &[u8], info: &[&[u8]], okm: &mut [u8; N]) {
    const { assert!(N <= 255 * 32, "RFC 5869 §2.3: at most 255 blocks") };
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand_multi_info(info, okm)
        .expect("fails only for an output that is too long, which the line above rules out");
}
