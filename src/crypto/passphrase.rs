//! A passphrase: the provider for people who would rather remember a key than keep a file.
//!
//! Owns how a passphrase becomes a wrapping key: Argon2id (RFC 9106). The salt and the cost stand
//! in each stanza, so that the cost can be raised later without locking anybody out. The wrapped
//! form is in `docs/format.md` §9. Touches no file.
//!
//! Invariants: a wrapping key seals one message, as its salt is fresh; what a stanza asks for is
//! bounded before any of it is spent.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::crypto::aead::Backend;
use crate::crypto::{KeyProvider, SecretKey, kdf};
use crate::env::{self, Rng};
use crate::error::{Error, Result};
use crate::types::RecipientId;

const RECIPIENT_LABEL: &[u8] = b"rewound passphrase recipient v1";
const SALT_LEN: usize = 32;
const COST_LEN: usize = 12;

/// Shortest passphrase that is accepted for a new archive, in characters.
pub const MIN_PASSPHRASE: usize = 12;
/// RFC 9106, second recommended option: 64 MiB, three passes, four lanes. About a fifth of a
/// second.
const COST: Cost = Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
/// Most that a stanza may ask for: it comes from disk and may be anything.
const MOST: Cost = Cost { memory_kib: 1 << 20, passes: 64, lanes: 16 };

/// What guessing a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    fn encode(self) -> [u8; COST_LEN] {
        let mut out = [0; COST_LEN];
        let bytes =
            [self.memory_kib, self.passes, self.lanes].into_iter().flat_map(u32::to_le_bytes);
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        out
    }

    fn decode(bytes: &[u8; COST_LEN]) -> Option<Cost> {
        let ([memory, passes, lanes], []) = bytes.as_chunks::<4>() else { return None };
        let cost = Cost {
            memory_kib: u32::from_le_bytes(*memory),
            passes: u32::from_le_bytes(*passes),
            lanes: u32::from_le_bytes(*lanes),
        };
        let bounded = cost.memory_kib <= MOST.memory_kib
            && cost.passes <= MOST.passes
            && cost.lanes <= MOST.lanes;
        bounded.then_some(cost)
    }
}

/// A [`KeyProvider`] whose key is derived from a passphrase with Argon2id.
///
/// An archive is only as safe as the passphrase is hard to guess: whoever has a copy of one file of
/// the archive can try passphrases on it, at about a fifth of a second and 64 MiB of memory each. A
/// [`KeyFile`](crate::KeyFile) cannot be guessed at all.
///
/// All passphrases have the same recipient id, as an id derived from one would help to guess it; so
/// a [`Keyring`](crate::Keyring) holds at most one.
///
/// ```
/// use rewound::crypto::{KeyProvider, Passphrase};
///
/// let key = Passphrase::new("correct horse battery staple");
/// assert_eq!(key.describe(), "passphrase");
/// ```
pub struct Passphrase {
    text: Zeroizing<String>,
    cost: Cost,
}

impl Passphrase {
    /// A passphrase. The caller's own copy is the caller's to wipe.
    pub fn new(text: impl Into<String>) -> Passphrase {
        Passphrase { text: Zeroizing::new(text.into()), cost: COST }
    }

    fn wrapping_key(&self, salt: &[u8], cost: Cost) -> Result<SecretKey> {
        let failed = |e: argon2::Error| Error::KeyProvider { message: format!("Argon2id: {e}") };
        let params =
            Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon2
            .hash_password_into(self.text.as_bytes(), salt, key.as_mut_slice())
            .map_err(failed)?;
        Ok(SecretKey::from_bytes(*key))
    }
}

impl KeyProvider for Passphrase {
    fn recipient(&self) -> RecipientId {
        let digest = kdf::sha256(&[RECIPIENT_LABEL]);
        RecipientId::from_bytes(*digest.first_chunk().expect("a SHA-256 is longer than a number"))
    }

    fn describe(&self) -> String {
        "passphrase".to_owned()
    }

    /// Refuses a passphrase of fewer than [`MIN_PASSPHRASE`] characters.
    fn wrap(&self, key: &SecretKey, context: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
        if self.text.chars().count() < MIN_PASSPHRASE {
            let message = format!(
                "the passphrase has fewer than {MIN_PASSPHRASE} characters and could be guessed: take a longer one, such as five random words"
            );
            return Err(Error::KeyProvider { message });
        }
        let salt: [u8; SALT_LEN] = env::random(rng)?;
        let wrapping_key = self.wrapping_key(&salt, self.cost)?;
        let wrapped = kdf::wrap_once(Backend::default(), &wrapping_key, context, key)?;
        Ok([salt.as_slice(), &self.cost.encode(), &wrapped].concat())
    }

    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<SecretKey> {
        let parts = wrapped.split_first_chunk::<SALT_LEN>().and_then(|(salt, rest)| {
            let (cost, rest) = rest.split_first_chunk::<COST_LEN>()?;
            Some((salt, Cost::decode(cost)?, <&[u8; kdf::WRAPPED_LEN]>::try_from(rest).ok()?))
        });
        let Some((salt, cost, sealed)) = parts else {
            let message =
                "the archive key's wrapping is not one that a passphrase made, or is damaged"
                    .to_owned();
            return Err(Error::KeyProvider { message });
        };
        let wrapping_key = self.wrapping_key(salt, cost)?;
        kdf::unwrap_once(Backend::default(), &wrapping_key, context, sealed).map_err(|_| {
            Error::KeyProvider {
                message:
                    "the passphrase is not the archive's, or the archive was altered: type it again"
                        .to_owned(),
            }
        })
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRng;

    fn cheap(text: &str) -> Passphrase {
        Passphrase { cost: Cost { memory_kib: 64, passes: 1, lanes: 4 }, ..Passphrase::new(text) }
    }

    #[test]
    fn opens_with_the_same_words_in_the_same_context_only() {
        let key = SecretKey::random(&SystemRng).unwrap();
        let wrapped = cheap("correct horse battery").wrap(&key, b"context", &SystemRng).unwrap();
        assert_eq!(wrapped.len(), 92);
        // The cost of the stanza counts, not that of whoever opens it.
        assert_eq!(
            Passphrase::new("correct horse battery").unwrap(&wrapped, b"context").unwrap(),
            key
        );
        assert!(cheap("correct horse batterx").unwrap(&wrapped, b"context").is_err());
        assert!(cheap("correct horse battery").unwrap(&wrapped, b"other").is_err());
        for i in 0..wrapped.len() {
            let mut altered = wrapped.clone();
            altered[i] ^= 1;
            assert!(
                cheap("correct horse battery").unwrap(&altered, b"context").is_err(),
                "byte {i}"
            );
        }
    }

    #[test]
    fn refuses_short_ones_and_costs_without_bound() {
        let key = SecretKey::random(&SystemRng).unwrap();
        assert!(cheap("short").wrap(&key, b"", &SystemRng).is_err());
        let mut wrapped = cheap("correct horse battery").wrap(&key, b"", &SystemRng).unwrap();
        wrapped[SALT_LEN..SALT_LEN + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(cheap("correct horse battery").unwrap(&wrapped, b"").is_err());
        assert!(cheap("correct horse battery").unwrap(&wrapped[..91], b"").is_err());
    }
}
