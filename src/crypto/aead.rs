//! AES-256-GCM (NIST SP 800-38D; 96-bit nonces, 128-bit tags), keyed once and used
//! for many frames.
//!
//! Owns the choice between implementations and the wiping of buffers. Never chooses
//! a nonce: that no (key, nonce) pair seals two messages is the caller's duty, and
//! the security of everything sealed under a key hangs on it.
//!
//! Invariants: all [`Backend`]s give the same bytes, so a file sealed by one is opened
//! by any other; a buffer handed to a call that fails is all zero afterwards.

use std::fmt;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
#[cfg(feature = "aws-lc")]
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::crypto::SecretKey;
use crate::error::{Error, Result};

#[cfg(test)]
mod tests;

/// Bytes in a nonce. Other lengths are hashed first (SP 800-38D §7.1) and not used here.
pub const NONCE_LEN: usize = 12;
/// Bytes in an authentication tag.
pub const TAG_LEN: usize = 16;
/// Most bytes under one nonce: 2^39 − 256 bits (SP 800-38D §5.2.1.1).
const MAX_PLAINTEXT: u64 = (1 << 36) - 32;

/// An implementation of AES-256-GCM. All give the same bytes; they differ in speed and in what
/// they need to be built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// AWS-LC, in C and assembly: the faster one, and the default where the feature `aws-lc` is on.
    #[cfg(feature = "aws-lc")]
    #[default]
    AwsLc,
    /// Pure Rust. Finds AES and carry-less multiplication instructions at run time on x86 and
    /// 64-bit ARM; elsewhere a constant-time software implementation takes over.
    #[cfg_attr(not(feature = "aws-lc"), default)]
    Portable,
}

impl Backend {
    /// All implementations in this build, the default first.
    pub const fn available() -> &'static [Backend] {
        &[
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc,
            Backend::Portable,
        ]
    }

    const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => "aws-lc",
            Backend::Portable => "portable",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The tag does not match: wrong key, nonce, additional data, or altered ciphertext. GCM cannot
/// tell which, and nothing more may be concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication tag mismatch")]
pub struct TagMismatch;

/// AES-256-GCM under one key. Shared freely between threads.
///
/// Both backends wipe the expanded key when dropped: `aes-gcm` through its `zeroize` feature,
/// AWS-LC because its deallocator clears what it frees. It sits on the heap in both, so
/// moving a cipher leaves no key behind.
pub struct FrameCipher(Keyed);

enum Keyed {
    #[cfg(feature = "aws-lc")]
    AwsLc(LessSafeKey),
    Portable(Box<Aes256Gcm>),
}

impl FrameCipher {
    /// Expands a key.
    ///
    /// AWS-LC refuses a key of the right length only when it gets no memory; then the portable
    /// cipher, which gives the same bytes, takes its place ([`backend`](Self::backend) tells).
    pub fn new(backend: Backend, key: &SecretKey) -> FrameCipher {
        match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => match UnboundKey::new(&AES_256_GCM, key.expose()) {
                Ok(unbound) => FrameCipher(Keyed::AwsLc(LessSafeKey::new(unbound))),
                Err(_) => FrameCipher::portable(key),
            },
            Backend::Portable => FrameCipher::portable(key),
        }
    }

    fn portable(key: &SecretKey) -> FrameCipher {
        FrameCipher(Keyed::Portable(Box::new(Aes256Gcm::new(key.expose().into()))))
    }

    /// The implementation at work.
    pub fn backend(&self) -> Backend {
        match self.0 {
            #[cfg(feature = "aws-lc")]
            Keyed::AwsLc(_) => Backend::AwsLc,
            Keyed::Portable(_) => Backend::Portable,
        }
    }

    /// Encrypts `buf` in place and returns the tag over it and `aad`.
    ///
    /// `nonce` must never be used for a second message under the same key, not even for one that
    /// was not written in the end.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] beyond 2^36 − 32 bytes, [`Error::Encryption`] where the backend
    /// refuses. `buf` is zero then, so that no plaintext is mistaken for ciphertext.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buf: &mut [u8],
    ) -> Result<[u8; TAG_LEN]> {
        let len = buf.len() as u64;
        if len > MAX_PLAINTEXT {
            buf.zeroize();
            return Err(Error::LimitExceeded {
                what: "bytes under one nonce",
                limit: MAX_PLAINTEXT,
                found: len,
            });
        }
        let tag: Option<[u8; TAG_LEN]> = match &self.0 {
            #[cfg(feature = "aws-lc")]
            Keyed::AwsLc(key) => key
                .seal_in_place_separate_tag(Nonce::from(nonce), Aad::from(aad), buf)
                .ok()
                .and_then(|tag| tag.as_ref().try_into().ok()),
            Keyed::Portable(key) => key
                .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(&mut *buf))
                .ok()
                .map(Into::into),
        };
        tag.ok_or_else(|| {
            buf.zeroize();
            Error::Encryption { backend: self.backend().name() }
        })
    }

    /// Checks the tag and decrypts `buf` in place.
    ///
    /// # Errors
    ///
    /// [`TagMismatch`]; `buf` is zero then.
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buf: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), TagMismatch> {
        let opened = match &self.0 {
            #[cfg(feature = "aws-lc")]
            Keyed::AwsLc(key) => {
                key.open_in_place_separate_tag(Nonce::from(nonce), Aad::from(aad), tag, buf).is_ok()
            }
            Keyed::Portable(key) => key
                .decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(&mut *buf), tag.into())
                .is_ok(),
        };
        cleared_unless(opened, buf)
    }

    /// Checks the tag and decrypts `ciphertext` into `out`, which has to be as long: no copy is
    /// made on the way. Nobody may write to the ciphertext meanwhile: either cipher reads some or
    /// all of it twice, to check and to decrypt, and what comes out would not be what was checked.
    ///
    /// # Errors
    ///
    /// [`TagMismatch`], also where the lengths differ; `out` is zero then.
    pub fn open_into(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), TagMismatch> {
        let opened = match &self.0 {
            #[cfg(feature = "aws-lc")]
            Keyed::AwsLc(key) => key
                .open_separate_gather(Nonce::from(nonce), Aad::from(aad), ciphertext, tag, out)
                .is_ok(),
            Keyed::Portable(key) => InOutBuf::new(ciphertext, &mut *out).is_ok_and(|inout| {
                key.decrypt_inout_detached(nonce.into(), aad, inout, tag.into()).is_ok()
            }),
        };
        cleared_unless(opened, out)
    }
}

/// The backends clear, leave alone, or half fill a buffer that fails, each as it likes: this makes
/// it one behaviour, at a cost that only a failure pays.
fn cleared_unless(opened: bool, buf: &mut [u8]) -> Result<(), TagMismatch> {
    if opened {
        Ok(())
    } else {
        buf.zeroize();
        Err(TagMismatch)
    }
}

impl fmt::Debug for FrameCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameCipher({}, [redacted])", self.backend())
    }
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    const fn wiped_on_drop<T: zeroize::ZeroizeOnDrop>() {}
    shared_between_threads::<FrameCipher>();
    wiped_on_drop::<Aes256Gcm>();
};
