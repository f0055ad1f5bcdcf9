//! What can go wrong, told apart as far as it can be told apart.
//!
//! Every message says what was found and, where there is something to do, what
//! to do next. Damage carries path, offset, what was expected and what was found.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rewound_dir::WrongKind;

use crate::types::{InvalidName, Lsn, PageId, Position, Target, Timestamp};

/// Something in the archive is not what belongs there: a link, a FIFO, a directory in place of a file.
#[derive(Debug)]
pub(crate) struct Misplaced {
    pub path: String,
    pub wrong: WrongKind,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.wrong)
    }
}

impl std::error::Error for Misplaced {}

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a damaged place was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// A field holds a value that no writer produces, or a length runs out of its bounds.
    Structure,
    /// A CRC-32 does not match: rot, or a careless edit.
    Checksum,
    /// An authentication tag or key commitment does not match: tampering, or rot.
    Authentication,
    /// A page was rebuilt and is not the page that the engine handed in.
    PageImage,
    /// A file that is referred to is not there.
    Missing,
    /// A file ends before it should.
    Truncated,
    /// Files contradict each other: the chain from one to the next is broken.
    Chain,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DamageKind::Structure => "malformed",
            DamageKind::Checksum => "checksum mismatch",
            DamageKind::Authentication => "authentication failed",
            DamageKind::PageImage => "rebuilt page differs from the one archived",
            DamageKind::Missing => "file missing",
            DamageKind::Truncated => "file cut short",
            DamageKind::Chain => "chain broken",
        })
    }
}

/// A damaged place in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// How it was recognised.
    pub kind: DamageKind,
    /// The file, relative to the archive.
    pub path: String,
    /// Where in the file, in bytes from its start.
    pub offset: u64,
    /// What was being read.
    pub what: &'static str,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at offset {}: {} ({}): expected {}, found {}",
            self.path, self.offset, self.kind, self.what, self.expected, self.found
        )
    }
}

/// What is wrong with a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyFileProblem {
    /// There is no such file.
    NotFound,
    /// The file was to be made and is there already.
    Exists,
    /// It is no regular file, but this.
    NotAFile(&'static str),
    /// Group or others may read, write or execute it.
    Permissions {
        /// Its permission bits.
        mode: u32,
    },
    /// It is not the text of a key.
    Malformed(&'static str),
    /// The key line was altered: its CRC-32 does not match.
    Checksum,
}

impl fmt::Display for KeyFileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileProblem::NotFound => {
                f.write_str("not found: check the path, or make a key with KeyFile::generate")
            }
            KeyFileProblem::Exists => f.write_str(
                "exists already and is not overwritten, as all that was encrypted under it would be lost: choose another path",
            ),
            KeyFileProblem::NotAFile(found) => {
                write!(f, "{found}, not a regular file: give the path of the key file itself, or its text")
            }
            KeyFileProblem::Permissions { mode } => write!(
                f,
                "open to group or others (mode {mode:04o}): run chmod 600 on it, and consider who may have read the key"
            ),
            KeyFileProblem::Malformed(reason) => {
                write!(f, "malformed: {reason}; compare it with a copy of the key")
            }
            KeyFileProblem::Checksum => f.write_str(
                "checksum mismatch: the key line was altered or mistyped; compare it with a copy of the key",
            ),
        }
    }
}

/// Everything that can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no archive at this place.
    #[error("no archive at {path}: create one with Archive::create, or check the path")]
    NoArchive {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is something at this place already.
    #[error("{path} holds an archive already: open it with Archive::open, or choose an empty place")]
    ArchiveExists {
        /// Where it was to be created.
        path: PathBuf,
    },
    /// An operation on a file failed.
    #[error("{operation} {path}: {source}")]
    Storage {
        /// What was tried.
        operation: &'static str,
        /// The file, relative to the archive where it is in one.
        path: String,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk is full, or a quota is used up.
    #[error(
        "disk full at {operation} {path}: free some space and open the writer again; what was acknowledged is safe"
    )]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: String,
    },
    /// No key at hand opens the file.
    #[error("wrong key for {path}: it is sealed for {recipients}, the key at hand is {offered}")]
    WrongKey {
        /// The file.
        path: String,
        /// For whom it is sealed.
        recipients: String,
        /// What was at hand.
        offered: String,
    },
    /// A key provider failed.
    #[error("key provider: {message}")]
    KeyProvider {
        /// What it said.
        message: String,
    },
    /// A key file cannot be used or made.
    #[error("key file {path}: {problem}")]
    KeyFile {
        /// The file, or what stands for it where the text came from elsewhere.
        path: String,
        /// What is wrong with it.
        problem: KeyFileProblem,
    },
    /// The cipher refused to encrypt. Nothing was encrypted, nothing may be written.
    #[error("encryption with the {backend} cipher failed: treat the operation as not done")]
    Encryption {
        /// The implementation that refused.
        backend: &'static str,
    },
    /// The file was written by a newer release, or names an algorithm that this build lacks.
    #[error("{path}: {what} {found} is newer than this build knows (it knows up to {supported}): update rewound")]
    FormatTooNew {
        /// The file.
        path: String,
        /// Which part of it.
        what: &'static str,
        /// The version or algorithm found.
        found: u64,
        /// The newest one known.
        supported: u64,
    },
    /// Something in the archive is damaged.
    #[error("damage: {0}")]
    Damaged(Box<Damage>),
    /// Commits are missing between two files of the log.
    #[error("gap in the log of node {node}: commit {expected} is not there, the next one found is {found}")]
    Gap {
        /// The node.
        node: String,
        /// The first commit that is missing.
        expected: Lsn,
        /// What comes instead.
        found: Position,
    },
    /// The target lies before what can be restored.
    #[error("{target} lies before the restorable window, which begins at {earliest}")]
    BeforeWindow {
        /// What was asked for.
        target: Target,
        /// The earliest state there is.
        earliest: String,
    },
    /// The target lies after what is known to be durable.
    #[error("{target} lies after the durable end of the log, which is {latest}")]
    AfterDurableEnd {
        /// What was asked for.
        target: Target,
        /// The latest state there is.
        latest: String,
    },
    /// Nothing of this name or mark is known.
    #[error("{target} is not known to node {node}")]
    TargetNotFound {
        /// What was asked for.
        target: Target,
        /// The node.
        node: String,
    },
    /// Another writer holds the node.
    #[error("node {node} has a writer already: close it first (only one writer per node at a time)")]
    WriterActive {
        /// The node.
        node: String,
    },
    /// Another thread or process builds layers of the node.
    #[error("layers of node {node} are being built already: wait for that to end")]
    MaintenanceActive {
        /// The node.
        node: String,
    },
    /// A newer writer has taken over.
    #[error("this writer of node {node} was fenced off by a newer one: stop using it")]
    Fenced {
        /// The node.
        node: String,
    },
    /// An earlier write or sync failed, so nothing more is accepted.
    #[error(
        "the writer stopped after a failure and accepts nothing more ({cause}): open it again, which recovers what is durable"
    )]
    Poisoned {
        /// The first failure.
        cause: Box<Error>,
    },
    /// It was opened in the process that this one was forked from. Nothing was done.
    #[error("{what} was opened by process {opened_by}, this is process {here}: open it again in this process")]
    Forked {
        /// What was opened.
        what: &'static str,
        /// The process that opened it.
        opened_by: u32,
        /// This process.
        here: u32,
    },
    /// What is open of the archive is no longer where it was opened: deleted, moved away, or replaced.
    #[error(
        "{path} is no longer what was opened there ({found}), and what was written to it since may be lost: put it back, then open the archive again"
    )]
    Displaced {
        /// The archive, or the file in it.
        path: String,
        /// What is there now.
        found: String,
    },
    /// No node of this name.
    #[error("no node {node:?} in this archive")]
    NoSuchNode {
        /// The name asked for.
        node: String,
    },
    /// A node of this name exists.
    #[error("node {node:?} exists already")]
    NodeExists {
        /// The name.
        node: String,
    },
    /// No such space.
    #[error("no space {space} in node {node}")]
    NoSuchSpace {
        /// The name or number asked for.
        space: String,
        /// The node.
        node: String,
    },
    /// A space of this name exists.
    #[error("space {space:?} exists already")]
    SpaceExists {
        /// The name.
        space: String,
    },
    /// A restore point of this name exists.
    #[error("restore point {name:?} exists already: a name marks one commit for good")]
    RestorePointExists {
        /// The name.
        name: String,
    },
    /// A page of the wrong size was handed in.
    #[error("{page} has pages of {expected} bytes, but {found} bytes were handed in")]
    PageSizeMismatch {
        /// The page.
        page: PageId,
        /// The size of its space's pages.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The previous image handed in is not the page's current version.
    #[error(
        "the previous image given for {page} is not its current version (CRC-32 {expected:08x} expected, {found:08x} given)"
    )]
    PreviousImageMismatch {
        /// The page.
        page: PageId,
        /// CRC-32 of its current version.
        expected: u32,
        /// CRC-32 of the image handed in.
        found: u32,
    },
    /// Another commit changed the page after this batch had read it.
    #[error(
        "{page} was changed by another commit since this batch wrote it: serialise writers of one page, and build the batch again"
    )]
    Conflict {
        /// The page.
        page: PageId,
    },
    /// A timestamp or mark given by the host does not move forward.
    #[error("{what} must not go back: the newest is {newest}, {given} was given")]
    NotMonotonic {
        /// What went back.
        what: &'static str,
        /// The newest so far.
        newest: String,
        /// What came.
        given: String,
    },
    /// A bound was crossed.
    #[error("{what}: {found} is beyond the limit of {limit}")]
    LimitExceeded {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// What came.
        found: u64,
    },
    /// A name that cannot be used.
    #[error("{name:?} cannot name a {what}: {reason}")]
    InvalidName {
        /// What it was to name.
        what: &'static str,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The place to restore to is not empty.
    #[error("{path} is not empty: choose another place, or ask for a delta restore, which rewrites what differs")]
    TargetNotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// What is there cannot be written to without harm to something else.
    #[error("{path} is {found}, which is not followed or written to: move it away, or choose another place")]
    UnsafeFile {
        /// The place.
        path: PathBuf,
        /// What it is: a symbolic link, a FIFO, a device, a file that has other names as well.
        found: &'static str,
    },
    /// What is to be rewritten in place is in use.
    #[error("{path} is in use by another process: end whatever has it open, then restore again (nothing was written)")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A restore needs more space than there is.
    #[error("restore to {path} needs {needed} bytes, {available} are free")]
    NotEnoughSpace {
        /// The place.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// The target needs logical records replayed, and no `Redo` was given.
    #[error("{count} logical records lead up to the target: give the restore a Redo that replays them")]
    RedoRequired {
        /// How many.
        count: u64,
    },
    /// The node or archive is deleted, which can still be undone.
    #[error("{what} is deleted and goes for good at {until}: an administrator can undo that until then")]
    Deleted {
        /// What is deleted.
        what: String,
        /// Until when it can be undone.
        until: Timestamp,
    },
    /// A management lock is in the way.
    #[error(
        "{operation} is refused: lock {lock:?} is on it; an administrator has to release that first, which is recorded"
    )]
    Locked {
        /// What was tried.
        operation: &'static str,
        /// The lock.
        lock: String,
    },
    /// A legal hold is in the way.
    #[error("{operation} is refused: hold {hold:?} is on it")]
    Held {
        /// What was tried.
        operation: &'static str,
        /// The hold.
        hold: String,
    },
    /// No lock or hold of this name, or one too many.
    #[error("{what} {name:?} {problem}")]
    Guard {
        /// A lock, a hold.
        what: &'static str,
        /// Its name.
        name: String,
        /// Whether it is missing or there already.
        problem: &'static str,
    },
    /// A policy that cannot be used.
    #[error("this retention policy is refused: {reason}")]
    PolicyRefused {
        /// Why.
        reason: &'static str,
    },
    /// The clock is not believed: nothing expires until an operator says that it is right, and nothing is written by one that is out of range.
    #[error(
        "the clock says {clock}, {what} says {expected}: too far apart to let anything expire. Set the clock right, or confirm it (Administrator::confirm_clock)"
    )]
    ClockImplausible {
        /// What the clock says.
        clock: Timestamp,
        /// What speaks against it.
        what: &'static str,
        /// What that says.
        expected: Timestamp,
    },
    /// The archive is not the one that an attestation speaks of, or an older state of it.
    #[error("the archive does not continue what was attested: {reason}; expected {expected}, found {found}")]
    NotAsAttested {
        /// What differs.
        reason: &'static str,
        /// What the attestation says.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What a restore is to go to does not fit what is restored. Nothing was written.
    #[error("the restore does not fit its place: {what}: expected {expected}, found {found}")]
    TargetMismatch {
        /// What does not fit.
        what: String,
        /// What the host said.
        expected: String,
        /// What is archived.
        found: String,
    },
    /// The platform does not let this process make files immutable.
    #[error(
        "{path} cannot be made immutable ({source}): this needs root (CAP_LINUX_IMMUTABLE) and a file system with such a flag"
    )]
    ImmutableUnavailable {
        /// Where it was tried.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Compression failed.
    #[error("compression: {0}")]
    Compression(#[from] crate::delta::DeltaError),
    /// The host's own code failed: a page source, a sink, a redo.
    #[error("host: {message}")]
    Host {
        /// What it said.
        message: String,
    },
    /// The call cannot be served in this state.
    #[error("{0}")]
    Unsupported(String),
    /// The operation was ended early through its [`Cancel`](crate::options::Cancel).
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// A failure of the system at a file, for sinks, page sources and adapters as well as here. A full
    /// disk becomes [`Error::DiskFull`]. What the storage said in an error of the system's comes out
    /// again: [`Error::Forked`], and damage where something else lies in the place of an archive's file.
    ///
    /// `operation` is a verb, such as "write"; `path` is the file, relative to the archive if it is in one.
    pub fn io(operation: &'static str, path: impl Into<String>, source: io::Error) -> Error {
        let path = path.into();
        if let Some(own @ Error::Forked { .. }) = source.get_ref().and_then(|e| e.downcast_ref()) {
            return own.clone();
        }
        if let Some(Misplaced { path, wrong }) = source.get_ref().and_then(|e| e.downcast_ref()) {
            let found = format_args!("{}, which does not belong to the archive: move it away", wrong.found);
            return Error::damage(DamageKind::Structure, path, 0, "kind of file", wrong.expected, found);
        }
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { operation, path },
            _ => Error::Storage { operation, path, source: Arc::new(source) },
        }
    }

    /// Damage at a place.
    pub(crate) fn damage(
        kind: DamageKind,
        path: impl Into<String>,
        offset: u64,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Error {
        Error::Damaged(Box::new(Damage {
            kind,
            path: path.into(),
            offset,
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }))
    }

    /// A failure of the host's own code.
    pub fn host(message: impl fmt::Display) -> Error {
        Error::Host { message: message.to_string() }
    }

    /// Whether this is damage in the archive, as opposed to a failed call.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damaged(_) | Error::Gap { .. })
    }
}

impl From<InvalidName> for Error {
    fn from(refused: InvalidName) -> Error {
        let InvalidName { what, name, reason } = refused;
        Error::InvalidName { what, name, reason }
    }
}

/// Describes a position with its time, for messages.
pub(crate) fn describe(position: Position, timestamp: Timestamp) -> String {
    format!("LSN {position} ({timestamp})")
}
