//! Bytes ↔ structs of everything on disk. Pure: no I/O, clock, keys or randomness.
//!
//! `docs/format.md` holds the byte tables; the names here follow it. Nothing in
//! here trusts what it reads: every length is compared with its bound and with
//! the bytes at hand before anything is allocated or skipped, and every failure
//! is a [`FormatError`] that says where, what was expected and what was found.

pub mod codec;
pub mod event;
pub mod frame;
pub mod header;
pub mod part;
pub mod record;
pub mod retention;
pub mod segment;
pub mod state;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::error::{DamageKind, Error};

/// Newest format version, and the only one so far.
pub const VERSION: u16 = 1;

/// A place in some bytes that is not as the format says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// How it was recognised.
    pub kind: FormatErrorKind,
    /// Where, in bytes from the start of what was given to the decoder.
    pub offset: usize,
    /// What was being read.
    pub what: &'static str,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub found: String,
}

/// How a [`FormatError`] was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatErrorKind {
    /// A value that no writer produces.
    Structure,
    /// A CRC-32 that does not match.
    Checksum,
    /// The bytes end too early.
    Truncated,
    /// A version or algorithm newer than this build knows.
    TooNew {
        /// What was found.
        found: u64,
        /// The newest one known.
        supported: u64,
    },
}

impl FormatError {
    pub(crate) fn new(
        kind: FormatErrorKind,
        offset: usize,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> FormatError {
        FormatError { kind, offset, what, expected: expected.to_string(), found: found.to_string() }
    }

    pub(crate) fn structure(
        offset: usize,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> FormatError {
        FormatError::new(FormatErrorKind::Structure, offset, what, expected, found)
    }

    pub(crate) fn truncated(
        offset: usize,
        what: &'static str,
        need: usize,
        have: usize,
    ) -> FormatError {
        FormatError::new(
            FormatErrorKind::Truncated,
            offset,
            what,
            format_args!("{need} bytes"),
            format_args!("{have} bytes"),
        )
    }

    /// Names the file and shifts the offset to where the bytes stand in it.
    pub(crate) fn at(self, path: &str, base: u64) -> Error {
        let kind = match self.kind {
            FormatErrorKind::Structure => DamageKind::Structure,
            FormatErrorKind::Checksum => DamageKind::Checksum,
            FormatErrorKind::Truncated => DamageKind::Truncated,
            FormatErrorKind::TooNew { found, supported } => {
                return Error::FormatTooNew {
                    path: path.to_owned(),
                    what: self.what,
                    found,
                    supported,
                };
            }
        };
        Error::damage(kind, path, base + self.offset as u64, self.what, self.expected, self.found)
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at offset {}: expected {}, found {}",
            self.what, self.offset, self.expected, self.found
        )
    }
}
