//! Key material: 32 bytes that do not leak by accident. Owns their memory and
//! nothing else; never derives, encrypts or stores.
//!
//! Invariant: no `Copy`, no `Clone`, no way to print; equality is constant-time.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::env::Rng;
use crate::error::Result;

/// A 256-bit secret key.
///
/// Wiped when dropped, and printed as `SecretKey([redacted])`. The bytes stay at one
/// place on the heap, so that moving the key leaves no copies behind on the stack.
/// There is no `Clone`: share a key by reference or in an `Arc`.
///
/// ```
/// use rewound::crypto::SecretKey;
/// use rewound::env::SystemRng;
///
/// let key = SecretKey::random(&SystemRng)?;
/// assert_eq!(format!("{key:?}"), "SecretKey([redacted])");
/// # Ok::<(), rewound::Error>(())
/// ```
pub struct SecretKey(Box<[u8; 32]>);

impl SecretKey {
    /// A fresh key.
    ///
    /// # Errors
    ///
    /// What the generator says, where it has no randomness to give.
    pub fn random(rng: &dyn Rng) -> Result<SecretKey> {
        SecretKey::try_fill(|bytes| rng.fill(bytes))
    }

    /// A key from its bytes. The caller's own copy, if there is one, is the caller's to wipe.
    pub fn from_bytes(mut bytes: [u8; 32]) -> SecretKey {
        let mut key = SecretKey(Box::new([0; 32]));
        key.0.copy_from_slice(&bytes);
        bytes.zeroize();
        key
    }

    /// The bytes, for handing to a cipher or a key derivation. Copies made of them are not wiped.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key written in place, so that no copy of it exists elsewhere; wiped where `fill` fails.
    pub(crate) fn try_fill<E>(
        fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>,
    ) -> Result<SecretKey, E> {
        let mut key = SecretKey(Box::new([0; 32]));
        fill(&mut key.0)?;
        Ok(key)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretKey {}

impl PartialEq for SecretKey {
    /// In constant time.
    fn eq(&self, other: &SecretKey) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::{Broken, Counting, run};

    #[test]
    fn debug_shows_nothing() {
        let key = SecretKey::from_bytes([0xAB; 32]);
        assert_eq!(format!("{key:?}"), "SecretKey([redacted])");
        assert_eq!(format!("{key:#?}"), "SecretKey([redacted])");
    }

    #[test]
    fn keys_are_equal_only_in_every_bit() {
        let key = SecretKey::from_bytes(run(0));
        assert_eq!(key, SecretKey::from_bytes(run(0)));
        for bit in 0..256 {
            let mut bytes: [u8; 32] = run(0);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(key, SecretKey::from_bytes(bytes));
        }
    }

    #[test]
    fn a_random_key_is_what_the_generator_gave() {
        assert_eq!(SecretKey::random(&Counting::from(7)).unwrap().expose(), &run(7));
        assert!(SecretKey::random(&Broken).is_err());
    }
}
