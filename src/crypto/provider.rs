//! Who may open an archive: the trait that wraps archive keys under a customer's key, and the
//! set of its implementations that an archive is opened with.
//!
//! Owns the order in which providers are asked and the check that what was wrapped can be
//! unwrapped again. Never sees pages, files or the layout of what it wraps for.
//!
//! Invariant: whatever [`Keyring::wrap`] returns opens with the first provider of the keyring.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use crate::crypto::SecretKey;
use crate::env::Rng;
use crate::error::{Error, Result};
use crate::types::RecipientId;

#[cfg(test)]
mod tests;

/// Most providers in a [`Keyring`], and so most recipients of a file.
pub const MAX_RECIPIENTS: usize = 16;
/// Most bytes that [`KeyProvider::wrap`] may return.
pub const MAX_WRAPPED: usize = 4_096;

/// Wraps and unwraps archive keys under a key that the customer holds: in a file
/// ([`KeyFile`](crate::crypto::KeyFile)), a hardware module, a key management service.
///
/// An archive has few keys (one per generation), so calls are rare and may be slow. The wrapping
/// has to be authenticated encryption that covers `context`, must not be deterministic in a way
/// that repeats a nonce, and has to stay readable for as long as the archive is kept.
pub trait KeyProvider: Debug + Send + Sync {
    /// Stable identity of the wrapping key. Stands in every file in the clear, so it must tell
    /// nothing about the key; the same key gives the same identity for ever.
    fn recipient(&self) -> RecipientId;

    /// Human-readable, for messages; no secret.
    fn describe(&self) -> String;

    /// Wraps an archive key. `context` (archive id and key id) is authenticated, not encrypted:
    /// what is wrapped in one context must not open in another. Returns at most [`MAX_WRAPPED`]
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`Error::KeyProvider`] that says what to do, where the key cannot be used.
    fn wrap(&self, key: &SecretKey, context: &[u8], rng: &dyn Rng) -> Result<Vec<u8>>;

    /// Unwraps what [`wrap`](Self::wrap) returned for the same context.
    ///
    /// `wrapped` comes from disk and may be anything: bound every length, never panic.
    ///
    /// # Errors
    ///
    /// [`Error::KeyProvider`] where it was altered, belongs to another key or context, or the key
    /// cannot be used; also, always, from a provider of which only the public half is at hand.
    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<SecretKey>;
}

impl<P: KeyProvider + ?Sized> KeyProvider for Arc<P> {
    fn recipient(&self) -> RecipientId {
        (**self).recipient()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn wrap(&self, key: &SecretKey, context: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
        (**self).wrap(key, context, rng)
    }

    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<SecretKey> {
        (**self).unwrap(wrapped, context)
    }
}

/// The providers an archive is opened with, in order of preference, 1 to [`MAX_RECIPIENTS`].
///
/// New files are sealed for all of them; any one of them opens an archive. The first, the primary,
/// has to be able to unwrap; a recovery recipient may be one that can only wrap, with the other
/// half of its key offline.
///
/// A single provider is a keyring too: wherever `impl Into<Keyring>` is asked for, a
/// [`KeyFile`](crate::crypto::KeyFile) will do.
///
/// ```
/// use rewound::crypto::{KeyFile, Keyring};
///
/// let directory = tempfile::tempdir()?;
/// let primary = KeyFile::generate(directory.path().join("app.key"))?;
/// let recovery = KeyFile::generate(directory.path().join("recovery.key"))?;
/// let keys = Keyring::new(primary).with(recovery);
/// assert_eq!(keys.recipients().count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Keyring {
    /// Never empty. That they are not too many and all different is checked on use, so that
    /// building a keyring needs no error handling.
    providers: Vec<Arc<dyn KeyProvider>>,
}

impl Keyring {
    /// A keyring of one.
    pub fn new(primary: impl KeyProvider + 'static) -> Keyring {
        Keyring { providers: vec![Arc::new(primary)] }
    }

    /// Adds a provider, such as a recovery key, after those already there.
    ///
    /// More than [`MAX_RECIPIENTS`], or one key twice, is an error when the keyring is used.
    #[must_use]
    pub fn with(mut self, provider: impl KeyProvider + 'static) -> Keyring {
        self.providers.push(Arc::new(provider));
        self
    }

    /// Whom new files are sealed for.
    pub fn recipients(&self) -> impl Iterator<Item = RecipientId> {
        self.providers.iter().map(KeyProvider::recipient)
    }

    /// Checks what [`with`](Self::with) did not.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] for too many providers; [`Error::KeyProvider`] where one key is
    /// there twice, as somebody would believe in a second key that does not exist.
    pub(crate) fn check(&self) -> Result<()> {
        if self.providers.len() > MAX_RECIPIENTS {
            return Err(Error::LimitExceeded {
                what: "providers in a keyring",
                limit: MAX_RECIPIENTS as u64,
                found: self.providers.len() as u64,
            });
        }
        let recipients: Vec<RecipientId> = self.recipients().collect();
        for (i, recipient) in recipients.iter().enumerate() {
            if recipients.iter().take(i).any(|earlier| earlier == recipient) {
                return Err(Error::KeyProvider {
                    message: format!(
                        "recipient {recipient} is in the keyring twice: a recovery key has to be a key of its own"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Wraps an archive key for every provider, in order, and has the primary unwrap it again:
    /// a key that cannot be recovered must not encrypt anything.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check); the first provider's that fails; [`Error::KeyProvider`]
    /// where one returns more than [`MAX_WRAPPED`] bytes or the primary does not give back the key.
    pub(crate) fn wrap(
        &self,
        key: &SecretKey,
        context: &[u8],
        rng: &dyn Rng,
    ) -> Result<Vec<(RecipientId, Vec<u8>)>> {
        self.check()?;
        let mut stanzas = Vec::with_capacity(self.providers.len());
        for (i, provider) in self.providers.iter().enumerate() {
            let wrapped = provider.wrap(key, context, rng)?;
            if wrapped.len() > MAX_WRAPPED {
                return Err(Error::KeyProvider {
                    message: format!(
                        "{} wrapped a key into {} bytes; at most {MAX_WRAPPED} fit",
                        provider.describe(),
                        wrapped.len()
                    ),
                });
            }
            if i == 0 && provider.unwrap(&wrapped, context)? != *key {
                return Err(Error::KeyProvider {
                    message: format!(
                        "{} does not give back the key that it wrapped: do not use it",
                        provider.describe()
                    ),
                });
            }
            stanzas.push((provider.recipient(), wrapped));
        }
        Ok(stanzas)
    }

    /// Recovers an archive key: asks each provider, in order, that one of the stanzas is for.
    /// `path` is for messages only.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKey`] where no stanza is for any of the providers; otherwise, where all that
    /// were asked failed, the first one's error.
    pub(crate) fn unwrap(
        &self,
        path: &str,
        stanzas: &[(RecipientId, &[u8])],
        context: &[u8],
    ) -> Result<SecretKey> {
        let mut first_failure = None;
        for provider in &self.providers {
            let recipient = provider.recipient();
            for (_, wrapped) in stanzas.iter().filter(|(to, _)| *to == recipient) {
                match provider.unwrap(wrapped, context) {
                    Ok(key) => return Ok(key),
                    // One provider out of reach is what the others are there for.
                    Err(failure) => first_failure = first_failure.or(Some(failure)),
                }
            }
        }
        Err(first_failure.unwrap_or_else(|| Error::WrongKey {
            path: path.to_owned(),
            recipients: join(stanzas.iter().map(|(recipient, _)| recipient.to_string())),
            offered: self.describe(),
        }))
    }

    /// All providers, for messages; no secret.
    pub(crate) fn describe(&self) -> String {
        join(self.providers.iter().map(KeyProvider::describe))
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

impl<P: KeyProvider + 'static> From<P> for Keyring {
    fn from(primary: P) -> Keyring {
        Keyring::new(primary)
    }
}

impl Debug for Keyring {
    /// By description: what a provider's own `Debug` shows is not ours to vouch for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({})", self.describe())
    }
}
