//! What a recording tells. Owns no state: each operation is named, not carried out, here.

/// An operation that changed what is stored, or how durable it is. Paths are
/// those at the time of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A file was created (that of a lock, too).
    Create {
        /// Its path.
        path: String,
    },
    /// Bytes were appended: all that were asked for, or those that a fault let through.
    Append {
        /// The file.
        path: String,
        /// Where they begin.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// The bytes of a file were made durable.
    SyncFile {
        /// The file.
        path: String,
    },
    /// A sync, or a finish, failed. What was not durable then can no longer be made so, even
    /// though later syncs report success: that is how kernels behave.
    FailedSync {
        /// The file.
        path: String,
    },
    /// What a failed sync had lost was forgotten, so that a reader no longer sees it.
    Evict {
        /// The file.
        path: String,
    },
    /// A file was given its final name.
    Publish {
        /// The name it had.
        from: String,
        /// The name it has.
        to: String,
    },
    /// A directory was created.
    CreateDir {
        /// Its path.
        path: String,
    },
    /// The entries of a directory were made durable.
    SyncDir {
        /// The directory; `""` is the archive.
        path: String,
    },
    /// A file was removed.
    Remove {
        /// The path it had.
        path: String,
    },
    /// Zeroed space behind the end was cut, and the file was made durable and read-only.
    Finish {
        /// The file.
        path: String,
    },
    /// A test put a file in place with [`MemStorage::set_file`](super::MemStorage::set_file).
    SetFile {
        /// Its path.
        path: String,
    },
}
