//! Restores into files: a new directory, new files, or a directory that is brought to the target in
//! place.
//!
//! A directory is opened once and worked in from there on, without following links. New output has
//! no name, or a hidden one, until it is complete and synced; what fails leaves nothing, and what a
//! killed process leaves is removed by the next restore to the same place. Output belongs to whom
//! its directory belongs to, and is for that user alone; a file that is rewritten stays whose it
//! is.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rewound_dir::{
    Access, Dir, Staged, WrongKind, free_space, identity, identity_at, refuse_links_of_others,
    refuse_others,
};

use super::sink::PageSink;
use crate::env::Owner;
use crate::error::{Error, Result};
use crate::format::state::SpaceState;
use crate::sync::mpsc::{self, Sender};
use crate::sync::{self, JoinHandle, Mutex};
use crate::types::{SpaceId, as_index};

/// Says that a delta restore has begun and not ended: the directory is neither what it was nor what
/// it is to be.
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
    let refused = || Error::BadDestination {
        place: path.display().to_string(),
        reason: "it names no file".into(),
    };
    path.file_name().ok_or_else(refused)
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
    if let Some((above, dir)) =
        path.ancestors().find_map(|above| Some((above, Dir::open(above).ok()?)))
    {
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

/// Whether what was published is where it was to be: somebody may have moved the directory
/// meanwhile.
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

/// Locks a file that is to be rewritten against every other process, or refuses it where one uses
/// it.
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

/// Files being written, by any number of threads. Syncing begins while they are written: it takes
/// as long as rebuilding the pages, and the two need different parts of the machine.
#[derive(Debug)]
struct Files {
    owner: Owner,
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
        Files {
            owner: Owner::here(),
            opened: Arc::new(opened),
            written: AtomicU64::new(0),
            syncer: Mutex::default(),
        }
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

    /// Makes everything durable. An error of an early sync is an error here: the system reports it
    /// only once.
    fn sync_all(&self) -> Result<()> {
        if let Some((wake, thread)) = self.syncer.lock().take() {
            drop(wake);
            thread.join().unwrap_or_else(|_| Err(Error::host("a thread that syncs panicked")))?;
        }
        self.opened
            .values()
            .try_for_each(|(path, file)| file.sync_all().map_err(failed("sync", path)))
    }
}

impl Drop for Files {
    /// Waits for the thread that syncs. Left to itself it would close the files at some later time,
    /// and with that take the locks from whoever of this process has begun with them anew.
    fn drop(&mut self) {
        if let Some((wake, thread)) = self.syncer.get_mut().take()
            && self.owner.is_here()
        {
            drop(wake);
            // What made this end is the error to act on.
            let _ = thread.join();
        }
    }
}

/// A directory in the making; removed with all that is in it unless it was published.
#[derive(Debug)]
struct StagingDir {
    owner: Owner,
    above: Dir,
    hidden: OsString,
    dir: Dir,
    published: bool,
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        if self.owner.is_here() && !self.published {
            self.above.remove_staged(&self.hidden);
        }
    }
}

/// A place for a directory: nothing is there yet, or an empty one.
#[derive(Debug)]
pub(crate) struct NewDir {
    target: PathBuf,
    id: String,
}

/// A directory being filled, under a hidden name.
#[derive(Debug)]
pub(crate) struct StagedDir {
    target: PathBuf,
    files: Files,
    /// Names of the spaces, and their files.
    staged: Vec<(String, Staged)>,
    named: bool,
    staging: StagingDir,
}

impl NewDir {
    /// Refuses a place that holds anything, and one that cannot be replaced by a finished
    /// directory. Removes what a killed restore to it has left.
    pub fn at(target: &Path, id: &str) -> Result<NewDir> {
        name_of(target)?;
        match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => {
                if fs::read_dir(target).map_err(failed("list", target))?.next().is_some() {
                    return Err(Error::TargetNotEmpty { path: target.to_owned() });
                }
                let above =
                    fs::metadata(parent(target)).map_err(failed("look at", parent(target)))?;
                if above.dev() != found.dev() {
                    let reason = "it is a mount point, which a finished directory cannot replace: restore into a directory in it";
                    return Err(Error::BadDestination {
                        place: target.display().to_string(),
                        reason: reason.into(),
                    });
                }
            }
            Ok(_) => return Err(Error::TargetNotEmpty { path: target.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("look at", target)(e)),
        }
        sweep(target)?;
        Ok(NewDir { target: target.to_owned(), id: id.to_owned() })
    }

    /// Begins an output with these spaces.
    pub fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<StagedDir> {
        let above = destination(parent(&self.target))?;
        let found = above.metadata().map_err(failed("look at", parent(&self.target)))?;
        let made =
            above.stage_dir(name_of(&self.target)?, &self.id, Access::dir_in(&found).private());
        let (hidden, dir) = made.map_err(failed("create directory", &self.target))?;
        let staging = StagingDir { owner: Owner::here(), above, hidden, dir, published: false };
        let (mut opened, mut all) = (Opened::new(), Vec::new());
        for (id, space) in spaces {
            let path = self.target.join(&space.name);
            let staged = stage(&staging.dir, space.name.as_ref(), &self.id, space.length, &path)?;
            opened.insert(*id, (path, Arc::clone(&staged.file)));
            all.push((space.name.clone(), staged));
        }
        let (target, files) = (self.target.clone(), Files::new(opened));
        Ok(StagedDir { target, files, staged: all, named: false, staging })
    }
}

impl StagedDir {
    /// Gives the files their names in the hidden directory, for whoever replays records there;
    /// returns its path.
    pub fn name_files(&mut self) -> Result<PathBuf> {
        if !std::mem::replace(&mut self.named, true) {
            for (name, staged) in &self.staged {
                let path = self.target.join(name);
                staged.publish(&self.staging.dir, name.as_ref()).map_err(failed("name", &path))?;
            }
        }
        Ok(self.target.with_file_name(&self.staging.hidden))
    }
}

impl PageSink for StagedDir {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.files.write(space, offset, bytes)
    }

    /// Makes the output durable and gives it its name.
    fn finish(mut self) -> Result<()> {
        self.name_files()?;
        self.files.sync_all()?;
        let (target, name) = (&self.target, name_of(&self.target)?);
        let StagingDir { above, hidden, dir, published, .. } = &mut self.staging;
        dir.sync().map_err(failed("sync directory", target))?;
        above.publish_dir(hidden, name).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::NotADirectory => Error::TargetNotEmpty { path: target.clone() },
            _ => failed("rename to", target)(e),
        })?;
        *published = true;
        let synced = above.sync().map_err(failed("sync directory", parent(target)));
        // Wherever it is now, it is not what was asked for.
        synced.and_then(|()| prove_place(dir.file(), target)).inspect_err(|_| {
            if is_named(above, name, dir.file()) {
                above.remove_staged(name);
            }
        })
    }
}

/// Places for new files, one for each space, wherever the caller wants it.
#[derive(Debug)]
pub(crate) struct NewFiles {
    /// By name of the space.
    targets: BTreeMap<String, PathBuf>,
    id: String,
}

/// New files being filled, without their names.
#[derive(Debug)]
pub(crate) struct StagedFiles {
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
    pub fn at(targets: BTreeMap<String, PathBuf>, id: &str) -> Result<NewFiles> {
        for target in targets.values() {
            name_of(target)?;
            if target.symlink_metadata().is_ok() {
                return Err(Error::TargetNotEmpty { path: target.clone() });
            }
        }
        targets.values().try_for_each(|target| sweep(target))?;
        Ok(NewFiles { targets, id: id.to_owned() })
    }

    /// Where a space goes.
    pub fn target(&self, space: &str) -> Option<&PathBuf> {
        self.targets.get(space)
    }

    /// Begins the files of these spaces: all that there are places for, and no other.
    pub fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<StagedFiles> {
        for name in self.targets.keys() {
            if !spaces.values().any(|s| s.name == *name) {
                return Err(Error::NoSuchSpace { space: name.clone(), node: "the target".into() });
            }
        }
        let (mut opened, mut each) = (Opened::new(), Vec::new());
        let unnamed = |name: &str| {
            let (place, reason) =
                ("the files named".into(), format!("none is for space {name:?}: name one"));
            Error::BadDestination { place, reason }
        };
        let placed = spaces.iter().map(|(id, space)| {
            let target = self.target(&space.name).ok_or_else(|| unnamed(&space.name))?;
            Ok((id, space, target))
        });
        // Before anything is created.
        for (id, space, target) in placed.collect::<Result<Vec<_>>>()? {
            let file = MadeFile::begin(target, &self.id, space.length)?;
            opened.insert(*id, (target.clone(), Arc::clone(&file.staged.file)));
            each.push(file);
        }
        Ok(StagedFiles { files: Files::new(opened), each })
    }
}

impl PageSink for StagedFiles {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.files.write(space, offset, bytes)
    }

    /// Makes all files durable and gives them their names, one after the other; takes them all back
    /// if one name was taken meanwhile.
    fn finish(self) -> Result<()> {
        self.files.sync_all()?;
        for (count, file) in self.each.iter().enumerate() {
            if let Err(e) = file.publish() {
                self.each.iter().take(count).for_each(MadeFile::take_back);
                return Err(e);
            }
        }
        let settled = self.each.iter().try_for_each(MadeFile::settle);
        settled.inspect_err(|_| self.each.iter().for_each(MadeFile::take_back))
    }
}

/// A directory that is brought to the target by rewriting what differs. While that goes on, a
/// marker file says so, and every file that is rewritten is locked. Where the restore begins once
/// more, without a damaged layer, it is the same `DeltaDir`: the locks are never let go of.
#[derive(Debug)]
pub(crate) struct DeltaDir {
    path: PathBuf,
    dir: Dir,
    files: Files,
    page_sizes: BTreeMap<SpaceId, usize>,
    written: AtomicU64,
}

impl DeltaDir {
    /// The directory is created if it is not there. All that can be refused is refused before
    /// anything is written.
    pub fn begin(path: &Path, spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<DeltaDir> {
        let place = DeltaPlace { path, dir: destination(path)? };
        let (opened, page_sizes) = place.begin(spaces)?;
        let (path, dir) = (path.to_owned(), place.dir);
        Ok(DeltaDir {
            path,
            dir,
            files: Files::new(opened),
            page_sizes,
            written: AtomicU64::new(0),
        })
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the pages that differ; `old` is a buffer.
    fn write_differing(
        &self,
        space: SpaceId,
        offset: u64,
        bytes: &[u8],
        old: &mut [u8],
    ) -> Result<()> {
        let (path, file) = self.files.get(space)?;
        let page = self
            .page_sizes
            .get(&space)
            .copied()
            .ok_or_else(|| Error::host("a space that was not announced"))?;
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
            let run = bytes.get(begin..at.min(bytes.len())).expect("a run begins before it ends");
            if !run.is_empty() {
                self.files.write(space, offset + begin as u64, run)?;
                self.written.fetch_add(run.len() as u64, Ordering::Relaxed);
            }
            at += page;
        }
        Ok(())
    }
}

/// A directory whose files are about to be locked and rewritten.
struct DeltaPlace<'a> {
    path: &'a Path,
    dir: Dir,
}

impl DeltaPlace<'_> {
    /// Opens and locks the files of these spaces, and says by the marker that they are being
    /// rewritten.
    fn begin(
        &self,
        spaces: &BTreeMap<SpaceId, SpaceState>,
    ) -> Result<(Opened, BTreeMap<SpaceId, usize>)> {
        let marker = self.open(INCOMPLETE)?;
        let there =
            spaces.values().map(|space| self.open(&space.name)).collect::<Result<Vec<_>>>()?;
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
        self.dir.sync().map_err(failed("sync directory", self.path))?;
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
        Ok((opened, sizes))
    }

    /// Opens a file to write over it, `None` if it is not there. What is anything else than this
    /// file alone is refused.
    fn open(&self, name: &str) -> Result<Option<File>> {
        let path = self.path.join(name);
        let file = match self.dir.open_file_to_write(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed("open", &path))?,
        };
        let found = file.metadata().map_err(failed("look at", &path))?;
        if found.nlink() != 1 {
            return Err(Error::UnsafeFile {
                path,
                found: "a file with other names as well (hard links)",
            });
        }
        // Anybody could have laid it there, to read what is written.
        let dir = self.dir.metadata().map_err(failed("look at", self.path))?;
        let trusted = [0, dir.uid(), rustix::process::geteuid().as_raw()];
        if dir.mode() & 0o002 != 0 && !trusted.contains(&found.uid()) {
            return Err(Error::UnsafeFile {
                path,
                found: "another user's file in a directory that all can write to",
            });
        }
        Ok(Some(file))
    }

    /// The file, created where it is not there.
    fn ensure(&self, name: &str, there: Option<File>) -> Result<File> {
        let path = self.path.join(name);
        match there {
            Some(file) => Ok(file),
            None => {
                self.dir.create(name, access(&self.dir, &path)?).map_err(failed("create", &path))
            }
        }
    }
}

impl PageSink for DeltaDir {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_differing(space, offset, bytes, &mut vec![0; bytes.len()])
    }

    fn zero(&self, space: SpaceId, offset: u64, length: u64) -> Result<()> {
        const STEP: usize = 1 << 20;
        let (path, file) = self.files.get(space)?;
        let zeros = vec![0; STEP];
        let mut old = vec![0; STEP];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            // Holes are zero already, and a stretch of terabytes may be one.
            let Some(data) = next_data(file, at).map_err(failed("look for data in", path))? else {
                break;
            };
            // A step is a multiple of every page size: what begins at a step begins at a page.
            at += data.saturating_sub(at) / STEP as u64 * STEP as u64;
            let step = as_index(end.saturating_sub(at)).min(STEP);
            let zeros = zeros.get(..step).expect("a step is no longer than the buffers");
            let old = old.get_mut(..step).expect("a step is no longer than the buffers");
            self.write_differing(space, at, zeros, old)?;
            at += STEP as u64;
        }
        Ok(())
    }

    /// Makes everything durable and takes the marker away.
    fn finish(self) -> Result<()> {
        self.files.sync_all()?;
        let synced = || self.dir.sync().map_err(failed("sync directory", &self.path));
        synced()?;
        self.dir.remove(INCOMPLETE).map_err(failed("remove", &self.path.join(INCOMPLETE)))?;
        synced()?;
        prove_place(self.dir.file(), &self.path)
    }
}

/// Refuses to write so many bytes, by space, if a file system that they go to has not enough free
/// space. What a file holds already is written over.
pub(crate) fn check_space<'n>(
    needed: impl Iterator<Item = (&'n str, u64)>,
    place: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<()> {
    let mut on: BTreeMap<u64, u64> = BTreeMap::new();
    for (space, bytes) in needed {
        let Some(path) = place(space) else { continue };
        let there = fs::metadata(&path).map_or(0, |found| found.len());
        let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
        let device =
            fs::metadata(existing).map_err(failed("look at free space of", existing))?.dev();
        let available = free_space(existing).map_err(failed("look at free space of", existing))?;
        let on_device = on.entry(device).or_default();
        *on_device = on_device.saturating_add(bytes.saturating_sub(there));
        if *on_device > available {
            return Err(Error::NotEnoughSpace { path, needed: *on_device, available });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_closed() {
        for _ in 0..20 {
            let (space, file) = (SpaceId::default(), Arc::new(tempfile::tempfile().unwrap()));
            let files =
                Files::new(Opened::from([(space, (PathBuf::from("a"), Arc::clone(&file)))]));
            let bytes = vec![1; as_index(EARLY_SYNC)];
            files.write(space, 0, &bytes).unwrap();
            files.write(space, EARLY_SYNC, &bytes).unwrap();
            drop(files);
            assert_eq!(Arc::strong_count(&file), 1, "a thread still holds the file open");
        }
    }
}
