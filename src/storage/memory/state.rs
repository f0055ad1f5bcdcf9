//! What the simulated medium holds: what a reader sees now, and how much of it is durable.
//! Pure: the same steps give the same state, which is what replaying a recording rests on.
//!
//! Model:
//! - files only grow, so what is durable of a file is a prefix of it;
//! - names live in two maps, as seen and as durable. What was done to names and is
//!   not durable yet is `pending`, in order; syncing a directory makes durable what
//!   is pending there;
//! - a rename is one change, never a removal and an addition: a file has at most
//!   one durable name at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Operation;
use crate::names::parent;

/// Identifies a file whatever its name is.
pub(super) type FileId = u64;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(FileId),
}

/// The names below the archive, by path. The archive itself is always there.
pub(super) type Names = BTreeMap<Arc<str>, Node>;

/// One file.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// What was appended. Shared with the images taken of this state.
    pub(super) data: Arc<Vec<u8>>,
    /// Where the file ends for a reader: behind `data` come zeros.
    pub(super) end: usize,
    /// How much of `data` is durable.
    pub(super) durable: usize,
    /// Where the file ends durably.
    pub(super) durable_end: usize,
    /// A sync failed: the kernel dropped what was dirty, and later syncs change nothing.
    pub(super) sync_failed: bool,
    /// Its name, or the last one it had.
    pub(super) name: Arc<str>,
    /// Whether it has a name now.
    pub(super) linked: bool,
    /// Its name in the durable map.
    pub(super) durable_name: Option<Arc<str>>,
    /// The durable name it had before it moved into a directory that is not durable itself.
    pub(super) fallback: Option<Arc<str>>,
    /// Handles open on it.
    pub(super) open: usize,
}

impl File {
    /// An empty file of this name, which is not durable.
    pub(super) fn named(name: Arc<str>) -> File {
        File {
            data: Arc::default(),
            end: 0,
            durable: 0,
            durable_end: 0,
            sync_failed: false,
            name,
            linked: true,
            durable_name: None,
            fallback: None,
            open: 0,
        }
    }

    /// Replaces the content by one that is durable.
    pub(super) fn set_durable(&mut self, data: Arc<Vec<u8>>) {
        self.end = data.len();
        self.data = data;
        self.sync_failed = false;
        self.sync();
    }

    /// Makes everything durable that can still be made so.
    fn sync(&mut self) {
        if !self.sync_failed {
            self.durable = self.data.len();
            self.durable_end = self.end;
        }
    }

    /// What a reader sees.
    pub(super) fn visible(&self) -> Vec<u8> {
        let mut bytes = self.data.to_vec();
        bytes.resize(self.end, 0);
        bytes
    }
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add { path: Arc<str>, node: Node },
    Rename { file: FileId, to: Arc<str> },
    Remove { file: FileId, path: Arc<str> },
}

impl Change {
    /// The directory whose sync makes it durable.
    fn dir(&self) -> &str {
        match self {
            Change::Add { path, .. } | Change::Remove { path, .. } => parent(path),
            Change::Rename { to, .. } => parent(to),
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Change::Add { node: Node::Dir, .. } => None,
            Change::Add { node: Node::File(file), .. }
            | Change::Rename { file, .. }
            | Change::Remove { file, .. } => Some(*file),
        }
    }
}

/// One operation, with what is needed to do it again.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) operation: Operation,
    /// The file it works on; any number for an operation on a directory.
    pub(super) file: FileId,
    /// What is appended or set.
    pub(super) bytes: Arc<[u8]>,
    /// Where the file ends for readers once this is appended.
    pub(super) end: usize,
}

/// What the medium holds.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<FileId, File>,
    pub(super) names: Names,
    pub(super) durable: Names,
    pub(super) pending: Vec<Change>,
    next_file: FileId,
}

impl State {
    /// A number for a file to be created.
    pub(super) fn next_file(&mut self) -> FileId {
        self.next_file += 1;
        self.next_file
    }

    /// Carries out a step that was checked, or recorded, before.
    pub(super) fn apply(&mut self, step: &Step) {
        match &step.operation {
            Operation::Create { path } => {
                let path: Arc<str> = path.as_str().into();
                self.next_file = self.next_file.max(step.file);
                self.files.insert(step.file, File::named(path.clone()));
                self.names.insert(path.clone(), Node::File(step.file));
                self.pending.push(Change::Add { path, node: Node::File(step.file) });
            }
            Operation::Append { .. } => self.with(step.file, |file| {
                Arc::make_mut(&mut file.data).extend_from_slice(&step.bytes);
                file.end = step.end;
            }),
            Operation::SyncFile { .. } => self.with(step.file, File::sync),
            Operation::FailedSync { .. } => self.with(step.file, |file| file.sync_failed = true),
            Operation::Evict { .. } => self.with(step.file, |file| {
                Arc::make_mut(&mut file.data).truncate(file.durable);
                file.end = file.durable_end;
                file.sync_failed = false;
            }),
            Operation::Finish { .. } => self.with(step.file, |file| {
                file.end = file.data.len();
                file.sync();
            }),
            Operation::Publish { from, to } => {
                let to: Arc<str> = to.as_str().into();
                self.names.remove(from.as_str());
                self.names.insert(to.clone(), Node::File(step.file));
                self.with(step.file, |file| file.name = to.clone());
                self.pending.push(Change::Rename { file: step.file, to });
            }
            Operation::CreateDir { path } => {
                let path: Arc<str> = path.as_str().into();
                self.names.insert(path.clone(), Node::Dir);
                self.pending.push(Change::Add { path, node: Node::Dir });
            }
            Operation::SyncDir { path } => self.sync_dir(path),
            Operation::Remove { path } => {
                self.names.remove(path.as_str());
                self.with(step.file, |file| file.linked = false);
                let path = path.as_str().into();
                self.pending.push(Change::Remove { file: step.file, path });
            }
            Operation::SetFile { path } => self.set_file(path, step),
        }
    }

    /// Changes a file, unless it is gone for good already.
    fn with(&mut self, file: FileId, change: impl FnOnce(&mut File)) {
        if let Some(file) = self.files.get_mut(&file) {
            change(file);
        }
    }

    fn set_file(&mut self, path: &str, step: &Step) {
        for (end, _) in path.match_indices('/') {
            let dir: Arc<str> = path.get(..end).unwrap_or(path).into();
            self.names.insert(dir.clone(), Node::Dir);
            self.durable.insert(dir, Node::Dir);
        }
        let path: Arc<str> = path.into();
        self.next_file = self.next_file.max(step.file);
        let file = self.files.entry(step.file).or_insert_with(|| File::named(path.clone()));
        file.set_durable(Arc::new(step.bytes.to_vec()));
        self.names.insert(path.clone(), Node::File(step.file));
        self.pending.retain(|change| change.file() != Some(step.file));
        self.make_durable(&Change::Rename { file: step.file, to: path });
    }

    fn sync_dir(&mut self, dir: &str) {
        let pending = std::mem::take(&mut self.pending);
        // An earlier change of the same file in another directory is overtaken: it must not
        // come back and undo the later one.
        let mut overtaken = BTreeMap::new();
        for (at, change) in pending.iter().enumerate() {
            if change.dir() == dir {
                self.make_durable(change);
                if let Some(file) = change.file() {
                    overtaken.insert(file, at);
                }
            }
        }
        for (at, change) in pending.into_iter().enumerate() {
            let last = change.file().and_then(|file| overtaken.get(&file));
            if change.dir() != dir && last.is_none_or(|&last| at > last) {
                self.pending.push(change);
            }
        }
        for file in overtaken.into_keys() {
            self.collect(file);
        }
    }

    /// Carries out a change in the durable map.
    pub(super) fn make_durable(&mut self, change: &Change) {
        match change {
            Change::Add { path, node: Node::Dir } => {
                self.durable.insert(path.clone(), Node::Dir);
            }
            Change::Add { path, node: Node::File(file) } | Change::Rename { file, to: path } => {
                self.move_durable(*file, Some(path));
            }
            Change::Remove { file, .. } => self.move_durable(*file, None),
        }
    }

    /// Takes a file's durable name away and gives it another, as one change.
    fn move_durable(&mut self, id: FileId, to: Option<&Arc<str>>) {
        let reachable = to.is_some_and(|to| is_dir(&self.durable, parent(to)));
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        let old = std::mem::replace(&mut file.durable_name, to.cloned());
        if to.is_none() || reachable {
            file.fallback = None;
        } else if file.fallback.is_none() {
            file.fallback.clone_from(&old);
        }
        if let Some(old) = old {
            self.durable.remove(&old);
        }
        let Some(to) = to else { return };
        if let Some(Node::File(replaced)) = self.durable.insert(to.clone(), Node::File(id)) {
            self.with(replaced, |file| file.durable_name = None);
            self.collect(replaced);
        }
    }

    /// Forgets a file that nothing leads to any more.
    pub(super) fn collect(&mut self, id: FileId) {
        let gone = self
            .files
            .get(&id)
            .is_some_and(|f| !f.linked && f.durable_name.is_none() && f.open == 0);
        if gone && !self.pending.iter().any(|change| change.file() == Some(id)) {
            self.files.remove(&id);
        }
    }

    /// Bytes that the files take up, with zeroed space.
    pub(super) fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|node| match node {
                Node::File(file) => self.files.get(file),
                Node::Dir => None,
            })
            .map(|file| file.end as u64)
            .sum()
    }
}

/// Whether the path is a directory all the way down from the archive.
pub(super) fn is_dir(names: &Names, path: &str) -> bool {
    path.is_empty() || (names.get(path) == Some(&Node::Dir) && is_dir(names, parent(path)))
}
