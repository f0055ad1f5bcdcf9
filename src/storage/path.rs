//! Which paths name a place in the archive. Pure: touches no storage.
//!
//! The grammar is narrow so that one archive can live on any file system and any
//! object store: no case to fold, nothing to escape, no way out of the archive.

use std::io;

/// Accepts the path of a file or of a directory below the archive.
pub(super) fn check(path: &str) -> io::Result<()> {
    if path.split('/').all(is_name) { Ok(()) } else { Err(invalid(path)) }
}

/// Accepts the path of a directory; `""` is the archive itself.
pub(super) fn check_dir(path: &str) -> io::Result<()> {
    if path.is_empty() { Ok(()) } else { check(path) }
}

/// Whether this can be one component of a path.
pub(super) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'.' | b'_' | b'-'))
}

fn invalid(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{path:?} cannot name a place in the archive: \
             its components must be made of [0-9a-z._-] and be neither \".\" nor \"..\""
        ),
    )
}
