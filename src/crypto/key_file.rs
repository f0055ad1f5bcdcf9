//! A customer's key in a text file: the provider that needs nothing else.
//!
//! Owns the text form, the permissions it insists on, and its way of wrapping. Never overwrites
//! or removes a key that was handed out.
//!
//! The text form and the wrapped form are in `docs/format.md` §9.
//!
//! Invariant: a wrapping key seals one message, as its salt is fresh.
//!
//! A crash during [`KeyFile::generate`] may leave an empty or partial file. No caller has seen
//! that key, so nothing is encrypted under it, and the file may be deleted.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rewound_dir::{Access, Dir, WrongKind};
use zeroize::Zeroizing;

use crate::crypto::aead::Backend;
use crate::crypto::{KeyProvider, SecretKey, kdf};
use crate::env::{self, Rng, SystemRng};
use crate::error::{Error, KeyFileProblem, Result};
use crate::types::RecipientId;

#[cfg(test)]
mod tests;

const WRAP_LABEL: &[u8] = b"rewound key file wrap v1";
const PUBLIC_LABEL: &[u8] = b"rewound key file label v1";
const RECIPIENT_LABEL: &[u8] = b"rewound recipient v1";

const SALT_LEN: usize = 32;
const WRAPPED_LEN: usize = SALT_LEN + kdf::WRAPPED_LEN;

/// Begins a key line of any version.
const FAMILY: &str = "REWOUND-KEY-";
/// Begins a key line of this version.
const PREFIX: &str = "REWOUND-KEY-1-";
/// Longest text looked at, in bytes: comments have to end somewhere.
const MAX_TEXT: usize = 4_096;

/// A [`KeyProvider`] whose key comes from a text file, or from wherever else its text is kept.
///
/// Whoever has the file can read every archive made with it, and without it nobody can: keep a copy
/// in another place, and consider a second key as recovery recipient
/// ([`Keyring::with`](crate::crypto::Keyring::with)).
///
/// The key is wiped when dropped and not shown by `Debug`.
pub struct KeyFile {
    key: SecretKey,
    recipient: RecipientId,
    /// Where it came from, for messages.
    path: Option<PathBuf>,
}

impl KeyFile {
    /// Makes a new key and writes it to a file that is not there yet, readable by its owner only.
    /// Made by root, it belongs to the owner of its directory. Durable, with its directory entry,
    /// on return.
    ///
    /// # Errors
    ///
    /// [`Error::KeyFile`] with [`KeyFileProblem::Exists`] where the name is taken: a key is never
    /// overwritten. [`Error::Storage`] or [`Error::DiskFull`] where writing or syncing fails; what
    /// was written is removed then.
    pub fn generate(path: impl AsRef<Path>) -> Result<KeyFile> {
        KeyFile::generate_with(path.as_ref(), &SystemRng)
    }

    fn generate_with(path: &Path, rng: &dyn Rng) -> Result<KeyFile> {
        let key = KeyFile::new(SecretKey::random(rng)?, Some(path.to_owned()));
        let failed =
            |operation: &'static str| move |e| Error::io(operation, path.display().to_string(), e);
        let (dir, mut file) = create_private(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => problem(path.display(), KeyFileProblem::Exists),
            _ => failed("create key file")(e),
        })?;
        let written = file
            .write_all(key.to_text().as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| dir.sync());
        if let Err(e) = written {
            if let Some(name) = path.file_name() {
                // Not a key that anybody has: leaving it would only block the next attempt.
                let _ = dir.remove(name);
            }
            return Err(failed("write key file")(e));
        }
        Ok(key)
    }

    /// Reads a key from a file made by [`generate`](Self::generate).
    ///
    /// # Errors
    ///
    /// [`Error::KeyFile`]: not found, no regular file, open to group or others (`chmod 600` helps),
    /// malformed, or altered. [`Error::Storage`] where it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<KeyFile> {
        let path = path.as_ref();
        let failed =
            |operation: &'static str| move |e| Error::io(operation, path.display().to_string(), e);
        // Links are followed, as secret stores hand out links; nothing is waited for.
        let file = rewound_dir::open_path(path).map_err(|e| match WrongKind::of(&e) {
            Some(wrong) => problem(path.display(), KeyFileProblem::NotAFile(wrong.found)),
            None if e.kind() == io::ErrorKind::NotFound => {
                problem(path.display(), KeyFileProblem::NotFound)
            }
            None => failed("open key file")(e),
        })?;
        // Of the open file, not of the path, which may lead elsewhere a moment later.
        check_private(&file, path)
            .map_err(failed("read permissions of key file"))?
            .map_err(|found| problem(path.display(), found))?;
        // Room for all of it at once: a vector that grows leaves copies of the key behind.
        let mut text = Zeroizing::new(Vec::with_capacity(2 * MAX_TEXT));
        file.take(MAX_TEXT as u64 + 1).read_to_end(&mut text).map_err(failed("read key file"))?;
        let key = std::str::from_utf8(&text)
            .map_err(|_| KeyFileProblem::Malformed("it is not text"))
            .and_then(parse)
            .map_err(|found| problem(path.display(), found))?;
        Ok(KeyFile::new(key, Some(path.to_owned())))
    }

    /// A key from its 32 bytes, which must come from a cryptographic generator: passwords and
    /// the like are not stretched. The caller's own copy is the caller's to wipe.
    pub fn from_bytes(key: [u8; 32]) -> KeyFile {
        KeyFile::new(SecretKey::from_bytes(key), None)
    }

    /// A key from the text of a key file that is kept elsewhere: a secret store, an environment
    /// variable.
    ///
    /// # Errors
    ///
    /// [`Error::KeyFile`]: malformed, or altered.
    pub fn from_text(text: &str) -> Result<KeyFile> {
        let key = parse(text).map_err(|found| problem("(given as text)", found))?;
        Ok(KeyFile::new(key, None))
    }

    fn new(key: SecretKey, path: Option<PathBuf>) -> KeyFile {
        // Two one-way steps from the key: an identity that stands in every file tells nothing about
        // it, and the label itself, being an HKDF output, is independent of all wrapping keys.
        let label = kdf::derive_key(&key, &[], &[PUBLIC_LABEL]);
        let digest = kdf::sha256(&[RECIPIENT_LABEL, label.expose()]);
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        KeyFile { key, recipient: RecipientId::from_bytes(id), path }
    }

    fn to_text(&self) -> Zeroizing<String> {
        use fmt::Write as _;

        let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT));
        let key = self.key.expose();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "# rewound key, keep it secret and keep a copy: it opens every archive sealed for {}, nothing else does",
            self.recipient
        );
        let _ = text.write_str(PREFIX);
        for byte in key {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = writeln!(text, "-{:08x}", crc32fast::hash(key));
        text
    }
}

impl KeyProvider for KeyFile {
    fn recipient(&self) -> RecipientId {
        self.recipient
    }

    fn describe(&self) -> String {
        match &self.path {
            Some(path) => format!("key file {} ({})", path.display(), self.recipient),
            None => format!("key {}", self.recipient),
        }
    }

    fn wrap(&self, key: &SecretKey, context: &[u8], rng: &dyn Rng) -> Result<Vec<u8>> {
        let salt: [u8; SALT_LEN] = env::random(rng)?;
        let wrapping_key = kdf::derive_key(&self.key, &salt, &[WRAP_LABEL]);
        let wrapped = kdf::wrap_once(Backend::default(), &wrapping_key, context, key)?;
        Ok([salt.as_slice(), &wrapped].concat())
    }

    fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<SecretKey> {
        let failed = |what: String| Error::KeyProvider {
            message: format!("{} cannot unwrap the archive key: {what}", self.describe()),
        };
        let parts = wrapped
            .split_first_chunk::<SALT_LEN>()
            .and_then(|(salt, rest)| Some((salt, <&[u8; kdf::WRAPPED_LEN]>::try_from(rest).ok()?)));
        let Some((salt, sealed)) = parts else {
            return Err(failed(format!(
                "{WRAPPED_LEN} bytes expected, {} found; it was not wrapped by a key file, or is damaged",
                wrapped.len()
            )));
        };
        let wrapping_key = kdf::derive_key(&self.key, salt, &[WRAP_LABEL]);
        kdf::unwrap_once(Backend::default(), &wrapping_key, context, sealed).map_err(|mismatch| {
            failed(format!("{mismatch}; it is for another key or archive, or was altered"))
        })
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("key", &self.key)
            .field("recipient", &self.recipient)
            .field("path", &self.path)
            .finish()
    }
}

fn problem(path: impl fmt::Display, problem: KeyFileProblem) -> Error {
    Error::KeyFile { path: path.to_string(), problem }
}

/// Reads the text form. What is wrong is said without a digit of what was found: it may be most of
/// a key.
fn parse(text: &str) -> Result<SecretKey, KeyFileProblem> {
    if text.len() > MAX_TEXT {
        return Err(KeyFileProblem::Malformed("it is longer than 4,096 bytes"));
    }
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let line =
        lines.next().ok_or(KeyFileProblem::Malformed("no line starts with REWOUND-KEY-1-"))?;
    if lines.next().is_some() {
        return Err(KeyFileProblem::Malformed("there is more than one line besides comments"));
    }
    let Some(rest) = line.strip_prefix(PREFIX) else {
        return Err(KeyFileProblem::Malformed(if line.starts_with(FAMILY) {
            "the key is of a kind that this release does not know: update rewound"
        } else {
            "the key line does not start with REWOUND-KEY-1-"
        }));
    };
    let (digits, checksum) = rest
        .split_once('-')
        .ok_or(KeyFileProblem::Malformed("the key line has no checksum at its end"))?;
    let key = SecretKey::try_fill(|key| unhex(digits, key))
        .map_err(|()| KeyFileProblem::Malformed("the key is not 64 hex digits"))?;
    let mut expected = [0; 4];
    unhex(checksum, &mut expected)
        .map_err(|()| KeyFileProblem::Malformed("the checksum is not 8 hex digits"))?;
    if crc32fast::hash(key.expose()) != u32::from_be_bytes(expected) {
        return Err(KeyFileProblem::Checksum);
    }
    Ok(key)
}

/// Fills `out` from exactly twice as many hex digits, in either case.
fn unhex(text: &str, out: &mut [u8]) -> Result<(), ()> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() || pairs.len() != out.len() {
        return Err(());
    }
    for ([high, low], byte) in pairs.iter().zip(out) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Ok(())
}

fn nibble(digit: u8) -> Result<u8, ()> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(()),
    }
}

/// Creates a file that is not there yet, for its owner alone from its first moment; returns its
/// directory as well.
fn create_private(path: &Path) -> io::Result<(Dir, File)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Dir::open(parent)?;
    let found = dir.metadata()?;
    rewound_dir::refuse_others(&found, &found, parent)?;
    rewound_dir::refuse_links_of_others(parent, &dir)?;
    let file = dir.create(name, Access::file_in(&found).private())?;
    Ok((dir, file))
}

/// Whether only the owner has access. What systemd hands to a service (`LoadCredential=`) lies in a
/// directory of that service's own, and shows the mask of its access list in the place of its
/// group's bits.
fn check_private(file: &File, path: &Path) -> io::Result<Result<(), KeyFileProblem>> {
    let mode = file.metadata()?.mode();
    let handed_out =
        std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir));
    let others = if handed_out { 0o037 } else { 0o077 };
    if mode & others != 0 {
        return Ok(Err(KeyFileProblem::Permissions { mode: mode & 0o7777 }));
    }
    Ok(Ok(()))
}
