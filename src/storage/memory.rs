//! Storage in memory, and the crash simulator. Owns what a medium would hold, a
//! recording of how it came about, and the faults that a test asks for.
//!
//! Invariants:
//! - durability is what the documentation of [`Storage`] promises and no more, so
//!   code that relies on something that merely happens to be true of one file system
//!   fails here;
//! - everything is deterministic: the same calls and the same plan give the same
//!   bytes. There is no clock, no thread and no randomness but the seed of a plan;
//! - an operation is numbered when it is carried out. One that was refused (a name
//!   taken, say) has no number and leaves no trace.
//!
//! A crash leaves nothing of a value of this type. What a simulated one leaves is
//! described at [`Unsynced`].

mod crash;
mod medium;
mod operation;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

pub use crash::{CrashPlan, Unsynced};
pub use operation::Operation;

use self::medium::Medium;
use self::state::{File, FileId, Node, State, Step, is_dir};
use super::path::{check, check_dir};
use super::{AppendFile, BlobStore, Entry, LockGuard, ReadFile, ReadStore, Storage};
use crate::sync::Mutex;
use crate::types::as_index;

#[cfg(test)]
mod tests;

/// Storage in memory that can be crashed: for tests of `rewound`, and of engines built on it.
///
/// Clones share one storage; [`fork`](MemStorage::fork) makes an independent one.
///
/// Every operation that changes something is recorded and numbered. A test runs its
/// work once, and then asks for the image that a crash would have left after each
/// operation, any number of times and ways, and checks that recovery finds in it
/// everything that had been acknowledged:
///
/// ```
/// use rewound::storage::{CrashPlan, MemStorage, Storage};
///
/// # fn main() -> std::io::Result<()> {
/// let storage = MemStorage::new();
/// let mut acknowledged = Vec::new();
/// let mut file = storage.create("log")?;
/// storage.sync_dir("")?;
/// for byte in 0..10 {
///     file.append(&[byte])?;
///     file.sync()?;
///     acknowledged.push((storage.operation_count(), byte));
/// }
///
/// for at in 0..=storage.operation_count() {
///     let plans = (0..20).map(|seed| CrashPlan::seeded(at, seed));
///     for plan in plans.chain([CrashPlan::lost(at), CrashPlan::kept(at)]) {
///         let image = storage.crash_image(plan);
///         for (_, byte) in acknowledged.iter().filter(|(count, _)| *count <= at) {
///             assert_eq!(image.files()["log"][usize::from(*byte)], *byte, "{plan:?}");
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// Images are cheap in ascending order of `at`, since each replays only what the last one
/// did not. An image is a storage like any other, with a recording of its own: crash
/// recovery itself by taking an image of the image.
///
/// Faults can be injected while the work runs: see
/// [`fail_operation`](MemStorage::fail_operation),
/// [`crash_after`](MemStorage::crash_after) and
/// [`set_capacity`](MemStorage::set_capacity).
///
/// What is stored, and the recording (which holds every byte appended), stay in memory until
/// the last clone is dropped. [`without_recording`](MemStorage::without_recording) does
/// without the latter.
#[derive(Clone, Debug, Default)]
pub struct MemStorage {
    shared: Arc<Mutex<Medium>>,
}

impl MemStorage {
    /// An empty storage that records what is done to it.
    pub fn new() -> MemStorage {
        MemStorage::default()
    }

    /// An empty storage that keeps no recording, for work too large to hold twice. It
    /// can be crashed at the present only: combine with
    /// [`crash_after`](MemStorage::crash_after).
    pub fn without_recording() -> MemStorage {
        MemStorage::starting_from(State::default(), false)
    }

    fn starting_from(state: State, recording: bool) -> MemStorage {
        MemStorage { shared: Arc::new(Mutex::new(Medium::starting_from(state, recording))) }
    }

    /// What was done so far, in order; nothing where there is no recording.
    pub fn operations(&self) -> Vec<Operation> {
        let medium = self.shared.lock();
        medium.recording.iter().flatten().map(|step| step.operation.clone()).collect()
    }

    /// How many operations were carried out so far.
    pub fn operation_count(&self) -> usize {
        self.shared.lock().count
    }

    /// Makes one operation fail with an error of this kind: the next one for 0, the
    /// one after for 1. Calls that only read do not count, and neither do those that
    /// are refused anyway. Can be called for several operations at once.
    ///
    /// An append that fails leaves the first half of its bytes; a sync or finish that
    /// fails leaves what was not durable forever so (see [`Operation::FailedSync`]); any
    /// other operation that fails leaves everything as it was.
    pub fn fail_operation(&self, n: usize, kind: io::ErrorKind) {
        let mut medium = self.shared.lock();
        let at = medium.tried.saturating_add(n);
        medium.failures.insert(at, kind);
    }

    /// Cuts the power after `n` more operations: from then on every call fails, reading
    /// included. Take what is left with [`crash_image`](MemStorage::crash_image).
    pub fn crash_after(&self, n: usize) {
        let mut medium = self.shared.lock();
        medium.crash_at = Some(medium.tried.saturating_add(n));
    }

    /// Whether the power was cut.
    pub fn is_crashed(&self) -> bool {
        self.shared.lock().alive().is_err()
    }

    /// Bounds the sum of the lengths of all files, in bytes; `None`, as at the start, for
    /// no bound. An append beyond it leaves the part that fits and fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.lock().capacity = bytes;
    }

    /// What a crash would have left, as a storage of its own: without locks, faults and
    /// capacity, with nothing in its recording. This storage goes on as if nothing had happened.
    ///
    /// # Panics
    ///
    /// If `plan.at` is beyond [`operation_count`](MemStorage::operation_count), or before
    /// it where there is no recording: a mistake in the test, which must not pass for a
    /// crash that was survived.
    #[must_use]
    pub fn crash_image(&self, plan: CrashPlan) -> MemStorage {
        let mut medium = self.shared.lock();
        let state = medium.state_at(plan.at);
        let recording = medium.recording.is_some();
        drop(medium);
        MemStorage::starting_from(state.after_crash(plan.unsynced), recording)
    }

    /// An independent storage with the same content, as durable as here, and the same
    /// capacity. It has no locks and no faults, and its recording starts empty.
    #[must_use]
    pub fn fork(&self) -> MemStorage {
        let medium = self.shared.lock();
        let state = medium.state.clone().after_crash(Unsynced::KeptAll);
        let fork = MemStorage::starting_from(state, medium.recording.is_some());
        fork.set_capacity(medium.capacity);
        fork
    }

    /// The content of every file by its path, as a reader sees it now: with zeroed space.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let State { names, files, .. } = &self.shared.lock().state;
        names
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(id) => Some((path.to_string(), files.get(id)?.visible())),
                Node::Dir => None,
            })
            .collect()
    }

    /// For hostile tests: makes a file hold these bytes, durably, whatever was there, and
    /// creates the directories it needs. Everything else goes through [`Storage`], which is
    /// create-only; this is how a test plays rot, tampering and careless tools. Open readers
    /// see the new bytes. Faults and capacity do not apply.
    ///
    /// # Panics
    ///
    /// If `path` cannot be that of a file: malformed, a directory, or below a file.
    pub fn set_file(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let mut medium = self.shared.lock();
        let below_file = path.match_indices('/').any(|(end, _)| {
            let node = path.get(..end).and_then(|dir| medium.state.names.get(dir));
            matches!(node, Some(Node::File(_)))
        });
        let id = match medium.state.names.get(path) {
            None if check(path).is_ok() && !below_file => Some(medium.state.next_file()),
            Some(Node::File(id)) => Some(*id),
            _ => None,
        };
        let id = id.unwrap_or_else(|| panic!("{path:?} cannot be the path of a file"));
        let bytes = bytes.into().into();
        let operation = Operation::SetFile { path: path.to_owned() };
        medium.perform(Step { operation, file: id, bytes, end: 0 });
    }
}

/// Keeps a file's bytes while something reads or writes it, even if its name is removed.
#[derive(Debug)]
struct Handle {
    shared: Arc<Mutex<Medium>>,
    file: FileId,
}

impl Handle {
    /// The medium is locked by the caller.
    fn open(shared: &Arc<Mutex<Medium>>, medium: &mut Medium, id: FileId) -> Handle {
        if let Some(file) = medium.state.files.get_mut(&id) {
            file.open += 1;
        }
        Handle { shared: shared.clone(), file: id }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let state = &mut self.shared.lock().state;
        if let Some(file) = state.files.get_mut(&self.file) {
            file.open -= 1;
        }
        state.collect(self.file);
    }
}

impl ReadStore for MemStorage {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        let id = medium.lookup(path)?;
        Ok(Arc::new(MemReadFile { handle: Handle::open(&self.shared, &mut medium, id) }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let medium = self.shared.lock();
        medium.alive()?;
        match medium.lookup_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        }
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let below = medium
            .state
            .names
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let entries = below
            .map_while(|(path, node)| Some((path.strip_prefix(prefix.as_str())?, node)))
            .filter(|(name, _)| !name.contains('/'))
            .map(|(name, node)| {
                let file = match node {
                    Node::File(id) => medium.state.files.get(id),
                    Node::Dir => None,
                };
                let len = file.map_or(0, |file| file.end as u64);
                Entry { name: name.to_owned(), len, is_dir: *node == Node::Dir }
            });
        Ok(entries.collect())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

impl BlobStore for MemStorage {
    fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()> {
        super::put_by_publishing(self, path, source)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        let id = medium.lookup(path)?;
        medium.try_perform(Operation::Remove { path: path.to_owned() }, id)
    }
}

impl Storage for MemStorage {
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        let id = medium.create(path)?;
        let handle = Handle::open(&self.shared, &mut medium, id);
        Ok(Box::new(MemAppendFile { handle, len: 0, zero_ahead: false, failed: false }))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        check(to)?;
        let id = medium.lookup(from)?;
        medium.check_free(to)?;
        let operation = Operation::Publish { from: from.to_owned(), to: to.to_owned() };
        medium.try_perform(operation, id)
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        let id = medium.lookup(path)?;
        medium.try_sync(Operation::SyncFile { path: path.to_owned() }, id)
    }

    fn evict(&self, path: &str, _: u64) -> io::Result<()> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        let id = medium.lookup(path)?;
        if medium.state.files.get(&id).is_some_and(|file| file.sync_failed) {
            let operation = Operation::Evict { path: path.to_owned() };
            medium.perform(Step { operation, file: id, bytes: Arc::default(), end: 0 });
        }
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        check_dir(path)?;
        if is_dir(&medium.state.names, path) {
            return Ok(());
        }
        medium.check_free(path)?;
        medium.try_perform(Operation::CreateDir { path: path.to_owned() }, 0)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        medium.lookup_dir(path)?;
        medium.try_perform(Operation::SyncDir { path: path.to_owned() }, 0)
    }

    /// Locks are held within this value and its clones. As in a directory, the file at `path`
    /// is created, and is not removed.
    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut medium = self.shared.lock();
        medium.alive()?;
        match medium.lookup(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => medium.create(path)?,
            result => result?,
        };
        if !medium.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemLock { shared: self.shared.clone(), path: path.to_owned() })))
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        let medium = self.shared.lock();
        medium.alive()?;
        Ok(medium.capacity.map(|capacity| capacity.saturating_sub(medium.state.used())))
    }
}

#[derive(Debug)]
struct MemAppendFile {
    handle: Handle,
    len: u64,
    zero_ahead: bool,
    failed: bool,
}

impl MemAppendFile {
    /// Runs one step; a failure, now or earlier, is for good.
    fn step(&mut self, step: impl FnOnce(&mut Medium) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            return Err(super::failed_before());
        }
        let result = step(&mut self.handle.shared.lock());
        self.failed = result.is_err();
        result
    }
}

impl AppendFile for MemAppendFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (id, zero_ahead) = (self.handle.file, self.zero_ahead);
        self.step(|medium| medium.append(id, bytes, zero_ahead))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let id = self.handle.file;
        self.step(|medium| {
            let path = medium.name_of(id);
            medium.try_sync(Operation::SyncFile { path }, id)
        })
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn expect_small_appends(&mut self) {
        self.zero_ahead = true;
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let id = self.handle.file;
        self.step(|medium| {
            let path = medium.name_of(id);
            medium.try_sync(Operation::Finish { path }, id)
        })
    }
}

#[derive(Debug)]
struct MemReadFile {
    handle: Handle,
}

impl MemReadFile {
    fn with<T>(&self, read: impl FnOnce(&File) -> T) -> io::Result<T> {
        let medium = self.handle.shared.lock();
        medium.alive()?;
        let file = medium.state.files.get(&self.handle.file);
        file.map(read).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl ReadFile for MemReadFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|file| {
            let start = as_index(offset).min(file.end);
            let count = buf.len().min(file.end - start);
            let data = file.data.get(start..).unwrap_or_default();
            let data = data.get(..count).unwrap_or(data);
            // Behind the data come zeros.
            let (from_data, zeros) =
                buf.get_mut(..count).unwrap_or_default().split_at_mut(data.len());
            from_data.copy_from_slice(data);
            zeros.fill(0);
            count
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|file| file.end as u64)
    }

    fn lend(&self) -> Option<Bytes> {
        let lent = self.with(|file| (file.end == file.data.len()).then(|| Arc::clone(&file.data)));
        lent.ok().flatten().map(|data| Bytes::from_owner(Lent(data)))
    }
}

/// Keeps what was lent, however the file goes on.
struct Lent(Arc<Vec<u8>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug)]
struct MemLock {
    shared: Arc<Mutex<Medium>>,
    path: String,
}

impl LockGuard for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.shared.lock().locks.remove(&self.path);
    }
}
