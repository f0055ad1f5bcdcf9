//! Restores into files: a new directory, new files, or a directory that is brought to the target in place.
//!
//! New output is made under a temporary name beside its place and gets its own
//! name when it is complete and synced; what fails leaves nothing under that name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::fs::{CWD, FlockOperation, RenameFlags, fcntl_lock, renameat_with};

use super::sink::PageSink;
use crate::error::{Error, Result};
use crate::format::state::SpaceState;
use crate::types::SpaceId;

/// Says that a delta restore has begun and not ended: the directory is neither what it was nor what it is to be.
pub(crate) const INCOMPLETE: &str = ".rewound-incomplete";

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |e| Error::io(operation, path, e)
}

pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let dir = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed("sync directory", dir))
}

/// Creates a directory and what is missing above it, each durable in its parent.
fn create_dirs(dir: &Path) -> Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => {
                return Err(failed("create directory", dir)(e));
            }
            _ => sync_dir(parent(dir))?,
        }
    }
    Ok(())
}

/// Renames without replacing.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let renamed = renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    match renamed {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(Error::TargetNotEmpty { path: to.to_owned() }),
        // A file system without that call: look first. Whoever creates the name in between loses an empty name at most.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => {
            fs::rename(from, to).map_err(failed("rename to", to))
        }
        Err(e) => Err(failed("rename to", to)(e.into())),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// A temporary name beside `path`.
fn beside(path: &Path, id: &str) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::Unsupported(format!("{} names no file", path.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".rewound-{id}"));
    Ok(path.with_file_name(hidden))
}

fn create(path: &Path, length: u64) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(failed("create", path))?;
    file.set_len(length).map_err(failed("set the length of", path))?;
    Ok(file)
}

/// Keeps every other process from using a file by the locks that SQLite and many engines take on it (POSIX, `fcntl`), or refuses where one
/// does. Such locks belong to the process and end as soon as it closes *any* descriptor of the file: open it once, and keep that.
pub(crate) fn lock_alone(file: &File, path: &Path) -> Result<()> {
    use rustix::io::Errno;
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        // A file system without locks has nobody who relies on them.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::InUse { path: path.to_owned() }),
        Err(e) => Err(failed("lock", path)(e.into())),
    }
}

/// Where the next bytes that are no hole begin, at or after `from`; `None` where there are none.
fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    use rustix::io::Errno;
    // Moves the file's cursor, which nothing here relies on.
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that does not tell.
        Err(Errno::INVAL | Errno::NOSYS) => Ok(Some(from)),
        Err(e) => Err(e.into()),
    }
}

/// After so many bytes the disk is set to work, while more is being rebuilt.
const EARLY_SYNC: u64 = 8 << 20;

type Opened = BTreeMap<SpaceId, (PathBuf, File)>;

/// Files being written, by any number of threads. Syncing begins while they are written: it takes as long as rebuilding the pages,
/// and the two need different parts of the machine.
#[derive(Debug)]
struct Files {
    opened: Arc<Opened>,
    /// Bytes written so far.
    written: AtomicU64,
    /// The thread that syncs, and what wakes it; there is none for a small state.
    syncer: Mutex<Option<Syncer>>,
}

/// Wakes the thread that syncs, and the thread; it ends when nobody can wake it any more.
type Syncer = (Sender<()>, JoinHandle<Result<()>>);

impl Files {
    fn new(opened: Opened) -> Files {
        Files { opened: Arc::new(opened), written: AtomicU64::new(0), syncer: Mutex::default() }
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        let (path, file) = self.get(space)?;
        file.write_all_at(bytes, offset).map_err(failed("write", path))?;
        let len = bytes.len() as u64;
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / EARLY_SYNC != (before + len) / EARLY_SYNC {
            self.sync_early();
        }
        Ok(())
    }

    fn get(&self, space: SpaceId) -> Result<&(PathBuf, File)> {
        self.opened.get(&space).ok_or_else(|| Error::host("a space that was not announced"))
    }

    /// Wakes the thread that syncs. Where it cannot be started, the sync at the end does it all.
    fn sync_early(&self) {
        let mut syncer = self.syncer.lock();
        if syncer.is_none() {
            let (wake, woken) = mpsc::channel();
            let opened = Arc::clone(&self.opened);
            let run = move || {
                while woken.recv().is_ok() {
                    while woken.try_recv().is_ok() {}
                    for (path, file) in opened.values() {
                        file.sync_data().map_err(failed("sync", path))?;
                    }
                }
                Ok(())
            };
            *syncer = std::thread::Builder::new().name("rewound-sync".into()).spawn(run).ok().map(|h| (wake, h));
        }
        if let Some((wake, _)) = syncer.as_ref() {
            // It has ended where a sync failed, which is reported in the end.
            let _ = wake.send(());
        }
    }

    /// Makes everything durable. An error of an early sync is an error here: the system reports it only once.
    fn sync_all(&self) -> Result<()> {
        if let Some((wake, thread)) = self.syncer.lock().take() {
            drop(wake);
            thread.join().unwrap_or_else(|_| Err(Error::host("a thread that syncs panicked")))?;
        }
        self.opened.values().try_for_each(|(path, file)| file.sync_all().map_err(failed("sync", path)))
    }
}

fn write(files: &OnceLock<Files>, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
    let files = files.get().ok_or_else(|| Error::host("pages before the spaces they belong to"))?;
    files.write(space, offset, bytes)
}

fn sync_all(files: &OnceLock<Files>) -> Result<()> {
    files.get().map_or(Ok(()), Files::sync_all)
}

/// A directory that is not there yet, or is empty.
#[derive(Debug)]
pub(crate) struct NewDir {
    target: PathBuf,
    staging: PathBuf,
    files: OnceLock<Files>,
    done: OnceLock<()>,
}

impl NewDir {
    /// Refuses a place that holds anything, and one that cannot be replaced by a finished directory.
    pub fn new(target: &Path, id: &str) -> Result<NewDir> {
        match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => {
                if fs::read_dir(target).map_err(failed("list", target))?.next().is_some() {
                    return Err(Error::TargetNotEmpty { path: target.to_owned() });
                }
                let above = fs::metadata(parent(target)).map_err(failed("look at", parent(target)))?;
                if above.dev() != found.dev() {
                    return Err(Error::Unsupported(format!(
                        "{} is a mount point, which a finished directory cannot replace: restore into a directory in it",
                        target.display()
                    )));
                }
            }
            Ok(_) => return Err(Error::TargetNotEmpty { path: target.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("look at", target)(e)),
        }
        let staging = beside(target, id)?;
        Ok(NewDir { target: target.to_owned(), staging, files: OnceLock::new(), done: OnceLock::new() })
    }

    /// Where the files are until [`publish`](Self::publish).
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Makes the output durable and gives it its name.
    pub fn publish(&self) -> Result<()> {
        sync_all(&self.files)?;
        sync_dir(&self.staging)?;
        // An empty directory in its place was allowed.
        match fs::remove_dir(&self.target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("replace", &self.target)(e)),
            _ => {}
        }
        rename_new(&self.staging, &self.target)?;
        let _ = self.done.set(());
        sync_dir(parent(&self.target))
    }
}

impl PageSink for NewDir {
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<()> {
        create_dirs(parent(&self.staging))?;
        fs::DirBuilder::new().create(&self.staging).map_err(failed("create directory", &self.staging))?;
        let mut files = Opened::new();
        for (id, space) in spaces {
            let path = self.staging.join(&space.name);
            let file = create(&path, space.length)?;
            files.insert(*id, (path, file));
        }
        let _ = self.files.set(Files::new(files));
        Ok(())
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        write(&self.files, space, offset, bytes)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if self.done.get().is_none() && self.staging.exists() {
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

/// One new file for each space, wherever the caller wants it.
#[derive(Debug)]
pub(crate) struct NewFiles {
    /// By name of the space: place and temporary name.
    targets: BTreeMap<String, (PathBuf, PathBuf)>,
    files: OnceLock<Files>,
}

impl NewFiles {
    /// Refuses a place that exists.
    pub fn new(targets: &BTreeMap<String, PathBuf>, id: &str) -> Result<NewFiles> {
        let mut all = BTreeMap::new();
        for (name, target) in targets {
            if target.symlink_metadata().is_ok() {
                return Err(Error::TargetNotEmpty { path: target.clone() });
            }
            all.insert(name.clone(), (target.clone(), beside(target, id)?));
        }
        Ok(NewFiles { targets: all, files: OnceLock::new() })
    }

    /// Makes all files durable and gives them their names, one after the other; takes them all back where one name was taken meanwhile.
    pub fn publish(&self) -> Result<()> {
        sync_all(&self.files)?;
        for (count, (target, staging)) in self.targets.values().enumerate() {
            if let Err(e) = rename_new(staging, target) {
                for (target, _) in self.targets.values().take(count) {
                    // The error that stopped the others is the one to act on.
                    let _ = fs::remove_file(target);
                }
                return Err(e);
            }
        }
        self.targets.values().try_for_each(|(target, _)| sync_dir(parent(target)))
    }
}

impl PageSink for NewFiles {
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<()> {
        for name in self.targets.keys() {
            if !spaces.values().any(|s| s.name == *name) {
                return Err(Error::NoSuchSpace { space: name.clone(), node: "the target".into() });
            }
        }
        if let Some(space) = spaces.values().find(|s| !self.targets.contains_key(&s.name)) {
            return Err(Error::Unsupported(format!("no file was named for space {:?}", space.name)));
        }
        let mut files = Opened::new();
        for (id, space) in spaces {
            let Some((_, staging)) = self.targets.get(&space.name) else { continue };
            create_dirs(parent(staging))?;
            files.insert(*id, (staging.clone(), create(staging, space.length)?));
        }
        let _ = self.files.set(Files::new(files));
        Ok(())
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        write(&self.files, space, offset, bytes)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for (_, staging) in self.targets.values() {
            // Gone where it was renamed.
            let _ = fs::remove_file(staging);
        }
    }
}

/// A directory that is brought to the target by rewriting what differs. While that goes on, a marker file says so, and every file that is
/// rewritten is locked. Where the restore begins once more, without a damaged layer, it is the same `DeltaDir`: the locks are never let go of.
#[derive(Debug)]
pub(crate) struct DeltaDir {
    dir: PathBuf,
    files: OnceLock<Files>,
    page_sizes: OnceLock<BTreeMap<SpaceId, usize>>,
    pub written: AtomicU64,
}

impl DeltaDir {
    /// The directory is created where it is not there.
    pub fn new(dir: &Path) -> Result<DeltaDir> {
        create_dirs(dir)?;
        Ok(DeltaDir {
            dir: dir.to_owned(),
            files: OnceLock::new(),
            page_sizes: OnceLock::new(),
            written: AtomicU64::new(0),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes everything durable and takes the marker away.
    pub fn publish(&self) -> Result<()> {
        sync_all(&self.files)?;
        sync_dir(&self.dir)?;
        let marker = self.dir.join(INCOMPLETE);
        fs::remove_file(&marker).map_err(failed("remove", &marker))?;
        sync_dir(&self.dir)
    }

    /// Writes the pages that differ; `old` is a buffer.
    fn write_differing(&self, space: SpaceId, offset: u64, bytes: &[u8], old: &mut [u8]) -> Result<()> {
        let files = self.files.get().ok_or_else(|| Error::host("pages before the spaces they belong to"))?;
        let (path, file) = files.get(space)?;
        let page = self.page_sizes.get().and_then(|p| p.get(&space)).copied().unwrap_or(4096);
        file.read_exact_at(old, offset).map_err(failed("read", path))?;
        // Neighbouring pages that differ are written in one call.
        let mut at = 0;
        while at < bytes.len() {
            let differs = |i: usize| {
                let end = (i + page).min(bytes.len());
                bytes.get(i..end) != old.get(i..end)
            };
            let begin = at;
            while at < bytes.len() && differs(at) {
                at += page;
            }
            let run = bytes.get(begin..at.min(bytes.len())).unwrap_or_default();
            if !run.is_empty() {
                files.write(space, offset + begin as u64, run)?;
                self.written.fetch_add(run.len() as u64, Ordering::Relaxed);
            }
            at += page;
        }
        Ok(())
    }
}

impl PageSink for DeltaDir {
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<()> {
        if self.files.get().is_some() {
            return Ok(());
        }
        // All of them, before anything is written.
        let mut existing = BTreeMap::new();
        for (id, space) in spaces {
            let path = self.dir.join(&space.name);
            match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => {
                    lock_alone(&file, &path)?;
                    existing.insert(*id, file);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("open", &path)(e)),
            }
        }
        let marker = self.dir.join(INCOMPLETE);
        let mut file = File::create(&marker).map_err(failed("create", &marker))?;
        file.write_all(
            b"A delta restore into this directory has not ended. Run it again, or restore into another directory.\n",
        )
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &marker))?;
        sync_dir(&self.dir)?;
        let mut files = Opened::new();
        let mut sizes = BTreeMap::new();
        for (id, space) in spaces {
            let path = self.dir.join(&space.name);
            let file = if let Some(file) = existing.remove(id) {
                file
            } else {
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
                let file = file.map_err(failed("create", &path))?;
                lock_alone(&file, &path)?;
                file
            };
            file.set_len(space.length).map_err(failed("set the length of", &path))?;
            files.insert(*id, (path, file));
            sizes.insert(*id, space.page_size.bytes());
        }
        let _ = (self.files.set(Files::new(files)), self.page_sizes.set(sizes));
        Ok(())
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_differing(space, offset, bytes, &mut vec![0; bytes.len()])
    }

    fn zero(&self, space: SpaceId, offset: u64, length: u64) -> Result<()> {
        const STEP: usize = 1 << 20;
        let files = self.files.get().ok_or_else(|| Error::host("pages before the spaces they belong to"))?;
        let (path, file) = files.get(space)?;
        let zeros = vec![0; STEP];
        let mut old = vec![0; STEP];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            // Holes are zero already, and a stretch of terabytes may be one.
            let Some(data) = next_data(file, at).map_err(failed("look for data in", path))? else { break };
            // A step is a multiple of every page size: what begins at a step begins at a page.
            at += data.saturating_sub(at) / STEP as u64 * STEP as u64;
            let step = usize::try_from(end.saturating_sub(at)).unwrap_or(STEP).min(STEP);
            let (zeros, old) = (zeros.get(..step).unwrap_or_default(), old.get_mut(..step).unwrap_or_default());
            self.write_differing(space, at, zeros, old)?;
            at += STEP as u64;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
