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

/// Something in the archive is not what belongs there: a link, a FIFO, a directory in place of a
/// file.
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

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// It may pass by itself: call again.
    Retry,
    /// The key provider failed: call again when it answers.
    KeyProvider,
    /// Somebody else is at work on the same thing: wait until they are done, then call again.
    Busy,
    /// The disk is full: free some space, then call again.
    StorageFull,
    /// The writer is of no more use: open another one.
    Reopen,
    /// The batch does not fit what is archived: read the pages anew and build another batch.
    Stale,
    /// A newer writer has taken over: stop.
    Superseded,
    /// The system refuses what it would refuse again: correct the path, the user or the
    /// permissions.
    Access,
    /// What was named does not exist: name something else, or create it.
    NotFound,
    /// What was to be created exists: open it, or choose another name.
    AlreadyExists,
    /// Nothing can be restored to this target: choose another one.
    Target,
    /// The restore cannot go to this place: choose another one.
    Destination,
    /// The key does not fit: give another one.
    Key,
    /// The archive is damaged: repair it from a copy, or choose a target that is whole.
    Damage,
    /// A lock, a hold or a deletion is in the way: only an administrator can lift it.
    Protected,
    /// The clock is not believed: set it right, or confirm it.
    Clock,
    /// A newer release wrote this: update `rewound`.
    Version,
    /// What was given, often by a person, is not usable: correct it.
    Input,
    /// The caller broke a rule of the interface: this is a bug of the calling program.
    Misuse,
    /// The host's own code failed: see the source.
    Host,
    /// The caller cancelled the operation.
    Cancelled,
    /// A dependency or the system failed in a way that nothing can be done about.
    Internal,
}

/// Everything that can go wrong.
///
/// The variants tell what happened; [`kind`](Error::kind) tells what a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no archive at this place.
    #[error("no archive at {path}: create one with Archive::create, or check the path")]
    #[non_exhaustive]
    NoArchive {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is something at this place already.
    #[error(
        "{path} holds an archive already: open it with Archive::open, or choose an empty place"
    )]
    #[non_exhaustive]
    ArchiveExists {
        /// Where it was to be created.
        path: PathBuf,
    },
    /// An operation on a file failed.
    #[error("{operation} {path}: {source}")]
    #[non_exhaustive]
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
    #[non_exhaustive]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: String,
    },
    /// No key at hand opens the file.
    #[error("wrong key for {path}: it is sealed for {recipients}, the key at hand is {offered}")]
    #[non_exhaustive]
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
    #[non_exhaustive]
    KeyProvider {
        /// What it said.
        message: String,
    },
    /// A key file cannot be used or made.
    #[error("key file {path}: {problem}")]
    #[non_exhaustive]
    KeyFile {
        /// The file, or what stands for it where the text came from elsewhere.
        path: String,
        /// What is wrong with it.
        problem: KeyFileProblem,
    },
    /// The cipher refused to encrypt. Nothing was encrypted, nothing may be written.
    #[error("encryption with the {backend} cipher failed: treat the operation as not done")]
    #[non_exhaustive]
    Encryption {
        /// The implementation that refused.
        backend: &'static str,
    },
    /// The file was written by a newer release, or names an algorithm that this build lacks.
    #[error(
        "{path}: {what} {found} is newer than this build knows (it knows up to {supported}): update rewound"
    )]
    #[non_exhaustive]
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
    #[error(
        "gap in the log of node {node}: commit {expected} is not there, the next one found is {found}"
    )]
    #[non_exhaustive]
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
    #[non_exhaustive]
    BeforeWindow {
        /// What was asked for.
        target: Target,
        /// The earliest state there is.
        earliest: String,
    },
    /// The target lies after what is known to be durable.
    #[error("{target} lies after the durable end of the log, which is {latest}")]
    #[non_exhaustive]
    AfterDurableEnd {
        /// What was asked for.
        target: Target,
        /// The latest state there is.
        latest: String,
    },
    /// Nothing of this name or mark is known.
    #[error("{target} is not known to node {node}")]
    #[non_exhaustive]
    TargetNotFound {
        /// What was asked for.
        target: Target,
        /// The node.
        node: String,
    },
    /// Another writer holds the node.
    #[error(
        "node {node} has a writer already: close it first (only one writer per node at a time)"
    )]
    #[non_exhaustive]
    WriterActive {
        /// The node.
        node: String,
    },
    /// Another thread or process builds layers of the node.
    #[error("layers of node {node} are being built already: wait for that to end")]
    #[non_exhaustive]
    MaintenanceActive {
        /// The node.
        node: String,
    },
    /// A newer writer has taken over.
    #[error("this writer of node {node} was fenced off by a newer one: stop using it")]
    #[non_exhaustive]
    Fenced {
        /// The node.
        node: String,
    },
    /// An earlier write or sync failed, so nothing more is accepted.
    #[error(
        "the writer stopped after a failure and accepts nothing more ({cause}): open it again, which recovers what is durable"
    )]
    #[non_exhaustive]
    Poisoned {
        /// The first failure.
        cause: Box<Error>,
    },
    /// It was opened in the process that this one was forked from. Nothing was done.
    #[error(
        "{what} was opened by process {opened_by}, this is process {here}: open it again in this process"
    )]
    #[non_exhaustive]
    Forked {
        /// What was opened.
        what: &'static str,
        /// The process that opened it.
        opened_by: u32,
        /// This process.
        here: u32,
    },
    /// What is open of the archive is no longer where it was opened: deleted, moved away, or
    /// replaced.
    #[error(
        "{path} is no longer what was opened there ({found}), and what was written to it since may be lost: put it back, then open the archive again"
    )]
    #[non_exhaustive]
    Displaced {
        /// The archive, or the file in it.
        path: String,
        /// What is there now.
        found: String,
    },
    /// No node of this name.
    #[error("no node {node:?} in this archive")]
    #[non_exhaustive]
    NoSuchNode {
        /// The name asked for.
        node: String,
    },
    /// A node of this name exists.
    #[error("node {node:?} exists already")]
    #[non_exhaustive]
    NodeExists {
        /// The name.
        node: String,
    },
    /// No such space.
    #[error("no space {space} in node {node}")]
    #[non_exhaustive]
    NoSuchSpace {
        /// The name or number asked for.
        space: String,
        /// The node.
        node: String,
    },
    /// A space of this name exists.
    #[error("space {space:?} exists already")]
    #[non_exhaustive]
    SpaceExists {
        /// The name.
        space: String,
    },
    /// A restore point of this name exists.
    #[error("restore point {name:?} exists already: a name marks one commit for good")]
    #[non_exhaustive]
    RestorePointExists {
        /// The name.
        name: String,
    },
    /// A page of the wrong size was handed in.
    #[error("{page} has pages of {expected} bytes, but {found} bytes were handed in")]
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[non_exhaustive]
    Conflict {
        /// The page.
        page: PageId,
    },
    /// A timestamp or mark given by the host does not move forward.
    #[error("{what} must not go back: the newest is {newest}, {given} was given")]
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[non_exhaustive]
    InvalidName {
        /// What it was to name.
        what: &'static str,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The place to restore to is not empty.
    #[error(
        "{path} is not empty: choose another place, or ask for a delta restore, which rewrites what differs"
    )]
    #[non_exhaustive]
    TargetNotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// What is there cannot be written to without harm to something else.
    #[error(
        "{path} is {found}, which is not followed or written to: move it away, or choose another place"
    )]
    #[non_exhaustive]
    UnsafeFile {
        /// The place.
        path: PathBuf,
        /// What it is: a symbolic link, a FIFO, a device, a file that has other names as well.
        found: &'static str,
    },
    /// What is to be rewritten in place is in use.
    #[error(
        "{path} is in use by another process: end whatever has it open, then restore again (nothing was written)"
    )]
    #[non_exhaustive]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A restore needs more space than there is.
    #[error("restore to {path} needs {needed} bytes, {available} are free")]
    #[non_exhaustive]
    NotEnoughSpace {
        /// The place.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// The target needs logical records replayed, and no `Redo` was given.
    #[error(
        "{count} logical records lead up to the target: give the restore a Redo that replays them"
    )]
    #[non_exhaustive]
    RedoRequired {
        /// How many.
        count: u64,
    },
    /// The node or archive is deleted, which can still be undone.
    #[error(
        "{what} is deleted and goes for good at {until}: an administrator can undo that until then"
    )]
    #[non_exhaustive]
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
    #[non_exhaustive]
    Locked {
        /// What was tried.
        operation: &'static str,
        /// The lock.
        lock: String,
    },
    /// A legal hold is in the way.
    #[error("{operation} is refused: hold {hold:?} is on it")]
    #[non_exhaustive]
    Held {
        /// What was tried.
        operation: &'static str,
        /// The hold.
        hold: String,
    },
    /// No lock of this name is on the node or archive.
    #[error("lock {name:?} is not there")]
    #[non_exhaustive]
    NoSuchLock {
        /// The name.
        name: String,
    },
    /// A lock of this name is on the node or archive already.
    #[error("lock {name:?} is there already")]
    #[non_exhaustive]
    LockExists {
        /// The name.
        name: String,
    },
    /// No hold has this name.
    #[error("hold {name:?} is not there")]
    #[non_exhaustive]
    NoSuchHold {
        /// The name.
        name: String,
    },
    /// A hold has this name already.
    #[error("hold {name:?} is there already")]
    #[non_exhaustive]
    HoldExists {
        /// The name.
        name: String,
    },
    /// A deletion was to be undone that never was, or that is final.
    #[error("it is {found}: there is no deletion to undo")]
    #[non_exhaustive]
    NotDeleted {
        /// What it is instead.
        found: &'static str,
    },
    /// A policy that cannot be used.
    #[error("this retention policy is refused: {reason}")]
    #[non_exhaustive]
    PolicyRefused {
        /// Why.
        reason: &'static str,
    },
    /// The clock is not believed: nothing expires until an operator says that it is right, and
    /// nothing is written by one that is out of range.
    #[error(
        "the clock says {clock}, {what} says {expected}: too far apart to let anything expire. Set the clock right, or confirm it (Administrator::confirm_clock)"
    )]
    #[non_exhaustive]
    ClockImplausible {
        /// What the clock says.
        clock: Timestamp,
        /// What speaks against it.
        what: &'static str,
        /// What that says.
        expected: Timestamp,
    },
    /// The archive is not the one that an attestation speaks of, or an older state of it.
    #[error(
        "the archive does not continue what was attested: {reason}; expected {expected}, found {found}"
    )]
    #[non_exhaustive]
    AttestationMismatch {
        /// What differs.
        reason: &'static str,
        /// What the attestation says.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What a restore is to go to does not fit what is restored. Nothing was written.
    #[error("the restore does not fit its place: {what}: expected {expected}, found {found}")]
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[error("host: {source}")]
    #[non_exhaustive]
    Host {
        /// What failed.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier change to the batch failed, so it is not what the host asked for.
    #[error("an earlier change to this batch failed: drop it and build it again")]
    BatchBroken,
    /// The writer was closed.
    #[error("the writer is closed: open it again")]
    Closed,
    /// A base snapshot waits for another one, or for batches that were begun before it.
    #[error("the base snapshot cannot go on: {reason}")]
    #[non_exhaustive]
    SnapshotBlocked {
        /// What it waits for, and what to do.
        reason: &'static str,
    },
    /// The history that a replay to this position has to begin from is gone.
    #[error("no history is left to begin a replay to LSN {position} from")]
    #[non_exhaustive]
    NoBase {
        /// Where the replay was to lead.
        position: Position,
    },
    /// A restore cannot be recorded in the audit trail, and so is refused.
    #[error("the restore cannot be recorded in the archive: {source}")]
    #[non_exhaustive]
    Unrecorded {
        /// Why not.
        source: Box<Error>,
    },
    /// A restore cannot go to this place.
    #[error("{place}: {reason}")]
    #[non_exhaustive]
    BadDestination {
        /// The place.
        place: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A text or value cannot be used.
    #[error("this is not {what}: {expected} was expected")]
    #[non_exhaustive]
    Malformed {
        /// What it was to be.
        what: &'static str,
        /// What was expected.
        expected: String,
    },
    /// The two ends of a range are on timelines of which neither leads to the other.
    #[error("the two ends of the {what} are on timelines of which neither leads to the other")]
    #[non_exhaustive]
    UnrelatedEnds {
        /// What has two ends.
        what: &'static str,
    },
    /// The random generator returned an id that is taken: it repeats itself.
    #[error("{path} exists already: the random generator repeats itself")]
    #[non_exhaustive]
    IdTaken {
        /// The file of that id.
        path: String,
    },
    /// The operation was ended early through its [`Cancel`](crate::options::Cancel).
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// A failure of the system at a file, for sinks, page sources and adapters as well as here. A
    /// full disk becomes [`Error::DiskFull`]. What the storage said in an error of the system's
    /// comes out again: [`Error::Forked`], and damage where something else lies in the place of an
    /// archive's file.
    ///
    /// `operation` is a verb, such as "write"; `path` is the file, relative to the archive if it is
    /// in one.
    pub fn io(operation: &'static str, path: impl Into<String>, source: io::Error) -> Error {
        let path = path.into();
        if let Some(own @ Error::Forked { .. }) = source.get_ref().and_then(|e| e.downcast_ref()) {
            return own.clone();
        }
        if let Some(Misplaced { path, wrong }) = source.get_ref().and_then(|e| e.downcast_ref()) {
            let found =
                format_args!("{}, which does not belong to the archive: move it away", wrong.found);
            return Error::damage(
                DamageKind::Structure,
                path,
                0,
                "kind of file",
                wrong.expected,
                found,
            );
        }
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { operation, path }
            }
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

    /// A failure of the host's own code: of a page source, a sink or a redo.
    pub fn host(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Host { source: source.into().into() }
    }

    /// What a sink returns that cannot take the restore. `reason` says why not, and what to do.
    pub fn bad_destination(place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::BadDestination { place: place.into(), reason: reason.into() }
    }

    /// What a sink returns that has too little space, in bytes.
    pub fn not_enough_space(path: impl Into<PathBuf>, needed: u64, available: u64) -> Error {
        Error::NotEnoughSpace { path: path.into(), needed, available }
    }

    /// What a host's own code returns that is given more than it can take.
    pub fn limit_exceeded(what: &'static str, limit: u64, found: u64) -> Error {
        Error::LimitExceeded { what, limit, found }
    }

    /// What a program returns that looked for an archive itself and found none.
    pub fn no_archive(path: impl Into<PathBuf>) -> Error {
        Error::NoArchive { path: path.into() }
    }

    /// A failure of a key provider.
    pub fn key_provider(message: impl Into<String>) -> Error {
        Error::KeyProvider { message: message.into() }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Storage { source, .. } if would_be_refused_again(source.kind()) => {
                ErrorKind::Access
            }
            Error::Storage { .. } => ErrorKind::Retry,
            Error::KeyProvider { .. } => ErrorKind::KeyProvider,
            Error::WriterActive { .. }
            | Error::MaintenanceActive { .. }
            | Error::InUse { .. }
            | Error::SnapshotBlocked { .. } => ErrorKind::Busy,
            Error::DiskFull { .. } | Error::NotEnoughSpace { .. } => ErrorKind::StorageFull,
            Error::Poisoned { .. } | Error::Closed => ErrorKind::Reopen,
            Error::Conflict { .. } | Error::PreviousImageMismatch { .. } | Error::BatchBroken => {
                ErrorKind::Stale
            }
            Error::Fenced { .. } => ErrorKind::Superseded,
            Error::Displaced { .. } | Error::ImmutableUnavailable { .. } => ErrorKind::Access,
            Error::NoArchive { .. }
            | Error::NoSuchNode { .. }
            | Error::NoSuchSpace { .. }
            | Error::NoSuchLock { .. }
            | Error::NoSuchHold { .. }
            | Error::NotDeleted { .. } => ErrorKind::NotFound,
            Error::ArchiveExists { .. }
            | Error::NodeExists { .. }
            | Error::SpaceExists { .. }
            | Error::RestorePointExists { .. }
            | Error::LockExists { .. }
            | Error::HoldExists { .. } => ErrorKind::AlreadyExists,
            Error::BeforeWindow { .. }
            | Error::AfterDurableEnd { .. }
            | Error::TargetNotFound { .. } => ErrorKind::Target,
            Error::TargetNotEmpty { .. }
            | Error::UnsafeFile { .. }
            | Error::TargetMismatch { .. }
            | Error::BadDestination { .. } => ErrorKind::Destination,
            Error::WrongKey { .. } | Error::KeyFile { .. } => ErrorKind::Key,
            Error::Damaged(_)
            | Error::Gap { .. }
            | Error::AttestationMismatch { .. }
            | Error::NoBase { .. } => ErrorKind::Damage,
            Error::Locked { .. } | Error::Held { .. } | Error::Deleted { .. } => {
                ErrorKind::Protected
            }
            Error::ClockImplausible { .. } => ErrorKind::Clock,
            Error::FormatTooNew { .. } => ErrorKind::Version,
            Error::InvalidName { .. }
            | Error::PolicyRefused { .. }
            | Error::Malformed { .. }
            | Error::UnrelatedEnds { .. } => ErrorKind::Input,
            Error::PageSizeMismatch { .. }
            | Error::NotMonotonic { .. }
            | Error::LimitExceeded { .. }
            | Error::RedoRequired { .. }
            | Error::Forked { .. } => ErrorKind::Misuse,
            Error::Host { .. } => ErrorKind::Host,
            Error::Unrecorded { source } => source.kind(),
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Encryption { .. } | Error::Compression(_) | Error::IdTaken { .. } => {
                ErrorKind::Internal
            }
        }
    }

    /// Whether the same call can succeed later although the caller changes nothing about it.
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::{Busy, KeyProvider, Retry, StorageFull};
        matches!(self.kind(), Retry | KeyProvider | Busy | StorageFull)
    }

    /// Whether this is damage in the archive, as opposed to a failed call.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damaged(_) | Error::Gap { .. })
    }
}

/// Whether the system would refuse the same call again, as the path or the user is the wrong one.
fn would_be_refused_again(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
    )
}

impl From<Error> for io::Error {
    /// The error stays reachable as the source, and the kind is the nearest one that there is.
    fn from(e: Error) -> io::Error {
        use io::ErrorKind as Io;
        let kind = match (&e, e.kind()) {
            (Error::Storage { source, .. } | Error::ImmutableUnavailable { source, .. }, _) => {
                source.kind()
            }
            (_, ErrorKind::Busy) => Io::ResourceBusy,
            (_, ErrorKind::StorageFull) => Io::StorageFull,
            (_, ErrorKind::NotFound | ErrorKind::Target) => Io::NotFound,
            (_, ErrorKind::AlreadyExists) => Io::AlreadyExists,
            (_, ErrorKind::Key | ErrorKind::Protected) => Io::PermissionDenied,
            (_, ErrorKind::Damage) => Io::InvalidData,
            (_, ErrorKind::Version) => Io::Unsupported,
            (_, ErrorKind::Input | ErrorKind::Misuse | ErrorKind::Destination) => Io::InvalidInput,
            // Not `Interrupted`, which the standard library answers by calling again.
            _ => Io::Other,
        };
        io::Error::new(kind, e)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_retryable() {
        let storage = |kind: io::ErrorKind| Error::io("open", "x", kind.into());
        let node = || "n".to_owned();
        for retryable in [
            storage(io::ErrorKind::TimedOut),
            storage(io::ErrorKind::StorageFull),
            storage(io::ErrorKind::QuotaExceeded),
            Error::key_provider("out of reach"),
            Error::not_enough_space("x", 2, 1),
            Error::WriterActive { node: node() },
            Error::Unrecorded { source: Box::new(storage(io::ErrorKind::StorageFull)) },
        ] {
            assert!(retryable.is_retryable(), "{retryable}: {:?}", retryable.kind());
        }
        for other in [
            storage(io::ErrorKind::PermissionDenied),
            storage(io::ErrorKind::ReadOnlyFilesystem),
            Error::Fenced { node: node() },
            Error::Poisoned { cause: Box::new(storage(io::ErrorKind::TimedOut)) },
            Error::BatchBroken,
            Error::Gap { node: node(), expected: Lsn::FIRST, found: Position::ORIGIN },
            Error::host("a bug"),
            Error::Cancelled,
        ] {
            assert!(!other.is_retryable(), "{other}: {:?}", other.kind());
        }
    }

    #[test]
    fn an_io_error_keeps_kind_and_source() {
        let found =
            io::Error::from(Error::io("open", "x", io::ErrorKind::ReadOnlyFilesystem.into()));
        assert_eq!(found.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let found = io::Error::from(Error::not_enough_space("x", 2, 1));
        assert_eq!(found.kind(), io::ErrorKind::StorageFull);
        let source = found.get_ref().and_then(|e| e.downcast_ref::<Error>());
        assert!(matches!(source, Some(Error::NotEnoughSpace { needed: 2, .. })), "{found:?}");
        // A host's own source stays what it was.
        let host = Error::host(io::Error::from(io::ErrorKind::BrokenPipe));
        let Error::Host { source } = &host else { panic!("{host}") };
        assert!(
            source
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        );
    }
}
