//! Keys, ciphers and key derivation. Takes bytes and gives bytes.
//!
//! Owns the constructions of `docs/format.md` §3 and the primitives under §4:
//! AES-256-GCM in two interchangeable implementations ([`Backend`]), HKDF-SHA-256,
//! and the holders of customer keys ([`KeyProvider`], [`KeyFile`], [`Keyring`]).
//!
//! Never sees a file of an archive or its layout: what is authenticated arrives
//! as opaque bytes, and nonces are chosen by the caller. The only file touched
//! here is a [`KeyFile`]'s own.
//!
//! Invariants: a key is never copied implicitly, never printed, compared in
//! constant time, and wiped when dropped; every backend gives the same bytes;
//! a buffer whose tag does not match is zero when the caller gets it back.
//!
//! A crash leaves nothing behind, but for [`KeyFile::generate`], which says so.
//!
//! Limits of wiping: what the compiler spills to the stack and registers while a
//! key is in use, the pseudorandom key inside HKDF's extract step, swap, and core
//! dumps are beyond this module's reach. See each type for what it does wipe.

pub(crate) mod aead;
pub(crate) mod kdf;
mod key_file;
#[cfg(feature = "passphrase")]
mod passphrase;
mod provider;
mod secret;

#[cfg(test)]
pub(crate) mod testing;

pub use aead::Backend;
pub use key_file::KeyFile;
#[cfg(feature = "passphrase")]
pub use passphrase::{MIN_PASSPHRASE, Passphrase};
pub use provider::{KeyProvider, Keyring, MAX_RECIPIENTS, MAX_WRAPPED};
pub use secret::SecretKey;
