//! Restores into files: a new directory, new files, or a directory that is brought to the target in place.
//!
//! A directory is opened once and worked in from there on, without following links. New output has no name, or a hidden one, until it is complete and
//! synced; what fails leaves nothing, and what a killed process leaves is removed by the next restore to the same place. Output belongs to whom its directory belongs to, and is for
//! that user alone; a file that is rewritten stays whose it is.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rewound_dir::{Access, Dir, Staged, WrongKind, identity, identity_at, refuse_links_of_others, refuse_others};

use super::sink::PageSink;
use crate::env::Owner;
use crate::error::{Error, Result};
use crate::format::state::SpaceState;
use crate::sync::mpsc::{self, Sender};
use crate::sync::{self, JoinHandle, Mutex};
use crate::types::SpaceId;

/// Says that a delta restore has begun and not ended: the directory is neither what it was nor what it is to be.
pub(crate) const INCOMPLETE: &str = ".rewound-incomplete";

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |e| match WrongKind::of(&e) {
        Some(WrongKind { found, .. }) => Error::UnsafeFile { path, found },
        None => Error::io(operation, path.display().to_string(), e),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn name_of(path: &Path) -> Result<&OsStr> {
    path.file_name().ok_or_else(|| Error::Unsupported(format!("{} names no file", path.display())))
}

/// Whether nobody else can interfere in a directory that output goes to.
fn prove(path: &Path, dir: &Dir) -> io::Result<()> {
    let found = dir.metadata()?;
    refuse_others(&found, &found, path)?;
    refuse_links_of_others(path, dir)
}

/// Removes what killed restores have left of an output.
fn sweep(target: &Path) -> Result<()> {
    let above = parent(target);
    if let Ok(dir) = Dir::open(above)
        && prove(above, &dir).is_ok()
    {
        dir.sweep_staged(name_of(target)?);
    }
    Ok(())
}

/// Opens a directory that output goes to, and creates it and what is missing above it.
fn destination(path: &Path) -> Result<Dir> {
    // Before anything is created, what is there.
    if let Some((above, dir)) = path.ancestors().find_map(|above| Some((above, Dir::open(above).ok()?))) {
        prove(above, &dir).map_err(failed("restore into", above))?;
    }
    let dir = Dir::create_all(path).map_err(failed("open or create directory", path))?;
    prove(path, &dir).map_err(failed("restore into", path))?;
    Ok(dir)
}

/// For whom output in a directory is.
fn access(dir: &Dir, path: &Path) -> Result<Access> {
    Ok(Access::file_in(&dir.metadata().map_err(failed("look at", path))?).private())
}

/// Begins a file of a directory.
fn stage(dir: &Dir, name: &OsStr, id: &str, length: u64, path: &Path) -> Result<Staged> {
    let staged = dir.stage(name, id, access(dir, path)?).map_err(failed("create", path))?;
    staged.file.set_len(length).map_err(|e| {
        staged.discard(dir);
        failed("set the length of", path)(e)
    })?;
    Ok(staged)
}

/// Whether a name in a directory is that of an open file.
fn is_named(dir: &Dir, name: &OsStr, file: &File) -> bool {
    matches!((dir.stat(name), file.metadata()), (Ok(there), Ok(open)) if there.identity == identity(&open))
}

/// Whether what was published is where it was to be: somebody may have moved the directory meanwhile.
fn prove_place(file: &File, path: &Path) -> Result<()> {
    let published = file.metadata().map_err(failed("look at", path))?;
    match identity_at(path) {
        Ok(there) if there == identity(&published) => Ok(()),
        _ => {
            let text = "its directory was moved or removed meanwhile";
            Err(failed("restore to", path)(io::Error::new(io::ErrorKind::NotFound, text)))
        }
    }
}

/// Locks a file that is to be rewritten against every other process, or refuses it where one uses it.
fn lock_alone(file: &File, path: &Path) -> Result<()> {
    match rewound_dir::lock_alone(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::InUse { path: path.to_owned() }),
        Err(e) => Err(failed("lock", path)(e)),
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

type Opened = BTreeMap<SpaceId, (PathBuf, Arc<File>)>;

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

    fn get(&self, space: SpaceId) -> Result<&(PathBuf, Arc<File>)> {
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
            *syncer = sync::spawn("rewound-sync", run).ok().map(|h| (wake, h));
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

fn begun<T>(made: &OnceLock<T>) -> Result<&T> {
    made.get().ok_or_else(|| Error::host("pages before the spaces they belong to"))
}

/// A directory in the making; removed with all that is in it unless it was published.
#[derive(Debug)]
struct StagingDir {
    owner: Owner,
    above: Dir,
    hidden: OsString,
    dir: Dir,
    published: AtomicBool,
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        if self.owner.is_here() && !self.published.load(Ordering::Relaxed) {
            self.above.remove_staged(&self.hidden);
        }
    }
}

/// A directory that is not there yet, or is empty.
#[derive(Debug)]
pub(crate) struct NewDir {
    target: PathBuf,
    id: String,
    made: OnceLock<MadeDir>,
}

#[derive(Debug)]
struct MadeDir {
    files: Files,
    /// Names of the spaces, and their files.
    staged: Vec<(String, Staged)>,
    named: AtomicBool,
    staging: StagingDir,
}

impl NewDir {
    /// Refuses a place that holds anything, and one that cannot be replaced by a finished directory. Removes what a killed restore to it has left.
    pub fn new(target: &Path, id: &str) -> Result<NewDir> {
        name_of(target)?;
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
        sweep(target)?;
        Ok(NewDir { target: target.to_owned(), id: id.to_owned(), made: OnceLock::new() })
    }

    /// Gives the files their names in the hidden directory, for whoever replays records there; returns its path.
    pub fn name_files(&self) -> Result<PathBuf> {
        let made = begun(&self.made)?;
        if !made.named.swap(true, Ordering::Relaxed) {
            for (name, staged) in &made.staged {
                let path = self.target.join(name);
                staged.publish(&made.staging.dir, name.as_ref()).map_err(failed("name", &path))?;
            }
        }
        Ok(self.target.with_file_name(&made.staging.hidden))
    }

    /// Makes the output durable and gives it its name.
    pub fn publish(&self) -> Result<()> {
        let (made, name) = (begun(&self.made)?, name_of(&self.target)?);
        let StagingDir { above, hidden, dir, published, .. } = &made.staging;
        self.name_files()?;
        made.files.sync_all()?;
        dir.sync().map_err(failed("sync directory", &self.target))?;
        above.publish_dir(hidden, name).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                Error::TargetNotEmpty { path: self.target.clone() }
            }
            _ => failed("rename to", &self.target)(e),
        })?;
        published.store(true, Ordering::Relaxed);
        let synced = above.sync().map_err(failed("sync directory", parent(&self.target)));
        // Wherever it is now, it is not what was asked for.
        synced.and_then(|()| prove_place(dir.file(), &self.target)).inspect_err(|_| {
            if is_named(above, name, dir.file()) {
                above.remove_staged(name);
            }
        })
    }
}

impl PageSink for NewDir {
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<()> {
        let above = destination(parent(&self.target))?;
        let found = above.metadata().map_err(failed("look at", parent(&self.target)))?;
        let made = above.stage_dir(name_of(&self.target)?, &self.id, Access::dir_in(&found).private());
        let (hidden, dir) = made.map_err(failed("create directory", &self.target))?;
        let staging = StagingDir { owner: Owner::here(), above, hidden, dir, published: AtomicBool::new(false) };
        let (mut opened, mut all) = (Opened::new(), Vec::new());
        for (id, space) in spaces {
            let path = self.target.join(&space.name);
            let staged = stage(&staging.dir, space.name.as_ref(), &self.id, space.length, &path)?;
            opened.insert(*id, (path, Arc::clone(&staged.file)));
            all.push((space.name.clone(), staged));
        }
        let made = MadeDir { files: Files::new(opened), staged: all, named: AtomicBool::new(false), staging };
        let _ = self.made.set(made);
        Ok(())
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        begun(&self.made)?.files.write(space, offset, bytes)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// One new file for each space, wherever the caller wants it.
#[derive(Debug)]
pub(crate) struct NewFiles {
    /// By name of the space.
    targets: BTreeMap<String, PathBuf>,
    id: String,
    made: OnceLock<MadeFiles>,
}

#[derive(Debug)]
struct MadeFiles {
    files: Files,
    each: Vec<MadeFile>,
}

#[derive(Debug)]
struct MadeFile {
    target: PathBuf,
    name: OsString,
    dir: Dir,
    staged: Staged,
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        // Nothing of it is left where it was published.
        self.staged.discard(&self.dir);
    }
}

impl MadeFile {
    fn begin(target: &Path, id: &str, length: u64) -> Result<MadeFile> {
        let (dir, name) = (destination(parent(target))?, name_of(target)?);
        let staged = stage(&dir, name, id, length, target)?;
        Ok(MadeFile { target: target.to_owned(), name: name.to_owned(), dir, staged })
    }

    fn publish(&self) -> Result<()> {
        self.staged.publish(&self.dir, &self.name).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::TargetNotEmpty { path: self.target.clone() },
            _ => failed("name", &self.target)(e),
        })
    }

    /// Removes what was published; the error that led to it is the one to act on.
    fn take_back(&self) {
        if is_named(&self.dir, &self.name, &self.staged.file) {
            let _ = self.dir.remove(&self.name);
        }
    }

    /// Makes its name durable, and proves that it leads there.
    fn settle(&self) -> Result<()> {
        self.dir.sync().map_err(failed("sync directory", parent(&self.target)))?;
        prove_place(&self.staged.file, &self.target)
    }
}

impl NewFiles {
    /// Refuses a place that exists. Removes what a killed restore to it has left.
    pub fn new(targets: &BTreeMap<String, PathBuf>, id: &str) -> Result<NewFiles> {
        for target in targets.values() {
            name_of(target)?;
            if target.symlink_metadata().is_ok() {
                return Err(Error::TargetNotEmpty { path: target.clone() });
            }
        }
        targets.values().try_for_each(|target| sweep(target))?;
        Ok(NewFiles { targets: targets.clone(), id: id.to_owned(), made: OnceLock::new() })
    }

    /// Makes all files durable and gives them their names, one after the other; takes them all back where one name was taken meanwhile.
    pub fn publish(&self) -> Result<()> {
        let made = begun(&self.made)?;
        made.files.sync_all()?;
        for (count, file) in made.each.iter().enumerate() {
            if let Err(e) = file.publish() {
                made.each.iter().take(count).for_each(MadeFile::take_back);
                return Err(e);
            }
        }
        let settled = made.each.iter().try_for_each(MadeFile::settle);
        settled.inspect_err(|_| made.each.iter().for_each(MadeFile::take_back))
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
        let (mut opened, mut each) = (Opened::new(), Vec::new());
        for (id, space) in spaces {
            let Some(target) = self.targets.get(&space.name) else { continue };
            let file = MadeFile::begin(target, &self.id, space.length)?;
            opened.insert(*id, (target.clone(), Arc::clone(&file.staged.file)));
            each.push(file);
        }
        let _ = self.made.set(MadeFiles { files: Files::new(opened), each });
        Ok(())
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        begun(&self.made)?.files.write(space, offset, bytes)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// A directory that is brought to the target by rewriting what differs. While that goes on, a marker file says so, and every file that is
/// rewritten is locked. Where the restore begins once more, without a damaged layer, it is the same `DeltaDir`: the locks are never let go of.
#[derive(Debug)]
pub(crate) struct DeltaDir {
    path: PathBuf,
    dir: Dir,
    made: OnceLock<(Files, BTreeMap<SpaceId, usize>)>,
    pub written: AtomicU64,
}

impl DeltaDir {
    /// The directory is created where it is not there.
    pub fn new(path: &Path) -> Result<DeltaDir> {
        let dir = destination(path)?;
        Ok(DeltaDir { path: path.to_owned(), dir, made: OnceLock::new(), written: AtomicU64::new(0) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything durable and takes the marker away.
    pub fn publish(&self) -> Result<()> {
        begun(&self.made)?.0.sync_all()?;
        let synced = || self.dir.sync().map_err(failed("sync directory", &self.path));
        synced()?;
        self.dir.remove(INCOMPLETE).map_err(failed("remove", &self.path.join(INCOMPLETE)))?;
        synced()?;
        prove_place(self.dir.file(), &self.path)
    }

    /// Opens a file to write over it, `None` if it is not there. What is anything else than this file alone is refused.
    fn open(&self, name: &str) -> Result<Option<File>> {
        let path = self.path.join(name);
        let file = match self.dir.open_file_to_write(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed("open", &path))?,
        };
        let found = file.metadata().map_err(failed("look at", &path))?;
        if found.nlink() != 1 {
            return Err(Error::UnsafeFile { path, found: "a file with other names as well (hard links)" });
        }
        // Anybody could have laid it there, to read what is written.
        let dir = self.dir.metadata().map_err(failed("look at", &self.path))?;
        let trusted = [0, dir.uid(), rustix::process::geteuid().as_raw()];
        if dir.mode() & 0o002 != 0 && !trusted.contains(&found.uid()) {
            return Err(Error::UnsafeFile { path, found: "another user's file in a directory that all can write to" });
        }
        Ok(Some(file))
    }

    /// The file, created where it is not there.
    fn ensure(&self, name: &str, there: Option<File>) -> Result<File> {
        let path = self.path.join(name);
        match there {
            Some(file) => Ok(file),
            None => self.dir.create(name, access(&self.dir, &path)?).map_err(failed("create", &path)),
        }
    }

    /// Writes the pages that differ; `old` is a buffer.
    fn write_differing(&self, space: SpaceId, offset: u64, bytes: &[u8], old: &mut [u8]) -> Result<()> {
        let (files, page_sizes) = begun(&self.made)?;
        let (path, file) = files.get(space)?;
        let page = page_sizes.get(&space).copied().unwrap_or(4096);
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
        if self.made.get().is_some() {
            return Ok(());
        }
        // All that can be refused is refused before anything is written.
        let marker = self.open(INCOMPLETE)?;
        let there = spaces.values().map(|space| self.open(&space.name)).collect::<Result<Vec<_>>>()?;
        for (space, file) in spaces.values().zip(&there) {
            file.as_ref().map_or(Ok(()), |file| lock_alone(file, &self.path.join(&space.name)))?;
        }
        let mut marker = self.ensure(INCOMPLETE, marker)?;
        marker
            .set_len(0)
            .and_then(|()| {
                marker.write_all(
                    b"A delta restore into this directory has not ended. Run it again, or restore into another directory.\n",
                )
            })
            .and_then(|()| marker.sync_all())
            .map_err(failed("write", &self.path.join(INCOMPLETE)))?;
        self.dir.sync().map_err(failed("sync directory", &self.path))?;
        let (mut opened, mut sizes) = (Opened::new(), BTreeMap::new());
        for ((id, space), there) in spaces.iter().zip(there) {
            self.dir.sweep_staged(space.name.as_ref());
            let path = self.path.join(&space.name);
            let is_new = there.is_none();
            let file = self.ensure(&space.name, there)?;
            if is_new {
                lock_alone(&file, &path)?;
            }
            file.set_len(space.length).map_err(failed("set the length of", &path))?;
            opened.insert(*id, (path, Arc::new(file)));
            sizes.insert(*id, space.page_size.bytes());
        }
        let _ = self.made.set((Files::new(opened), sizes));
        Ok(())
    }

    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_differing(space, offset, bytes, &mut vec![0; bytes.len()])
    }

    fn zero(&self, space: SpaceId, offset: u64, length: u64) -> Result<()> {
        const STEP: usize = 1 << 20;
        let (path, file) = begun(&self.made)?.0.get(space)?;
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
