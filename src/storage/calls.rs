//! The calls of a store for the library's own use: the same, with errors that say what was done, to
//! which file. The one place where the system's errors get that context.
//!
//! Owns the words; decides nothing. What is gone where that is no failure is a value here.

use std::io;
use std::io::ErrorKind::NotFound;
use std::sync::Arc;

use super::{AppendFile, Entry, LockGuard, ReadFile, ReadStore, Storage};
use crate::error::{Error, Result};

/// Reading.
pub(crate) trait ReadCalls: ReadStore {
    /// Names and lengths in a directory.
    fn listed(&self, dir: &str) -> Result<Vec<Entry>> {
        self.list(dir).map_err(|e| Error::io("list", self.place(dir), e))
    }

    /// A file, open for reading.
    fn opened(&self, path: &str) -> Result<Arc<dyn ReadFile>> {
        self.open(path).map_err(|e| Error::io("open", path, e))
    }

    /// A file, open for reading; `None` if it is not there.
    fn opened_if_there(&self, path: &str) -> Result<Option<Arc<dyn ReadFile>>> {
        if_there("open", path, self.open(path))
    }

    /// A path for messages: the store itself has none.
    fn place(&self, path: &str) -> String {
        if path.is_empty() { self.location() } else { path.to_owned() }
    }
}

impl<S: ReadStore + ?Sized> ReadCalls for S {}

/// Writing.
pub(crate) trait Calls: Storage {
    /// A new file, for appending.
    fn created(&self, path: &str) -> Result<Box<dyn AppendFile>> {
        self.create(path).map_err(|e| Error::io("create", path, e))
    }

    /// A lock; `None` where somebody else holds it.
    fn locked(&self, path: &str) -> Result<Option<Box<dyn LockGuard>>> {
        self.try_lock(path).map_err(|e| Error::io("lock", path, e))
    }

    /// Makes a directory.
    fn dir_created(&self, path: &str) -> Result<()> {
        self.create_dir(path).map_err(|e| Error::io("create directory", self.place(path), e))
    }

    /// Makes the entries of a directory durable.
    fn dir_synced(&self, dir: &str) -> Result<()> {
        self.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))
    }

    /// Makes durable what an earlier process wrote to a file.
    fn file_synced(&self, path: &str) -> Result<()> {
        self.sync_file(path).map_err(|e| Error::io("sync", path, e))
    }

    /// Forgets what is cached of a file.
    fn evicted(&self, path: &str, from: u64) -> Result<()> {
        self.evict(path, from).map_err(|e| Error::io("evict", path, e))
    }

    /// Removes a file; tells whether it was there.
    fn deleted_if_there(&self, path: &str) -> Result<bool> {
        Ok(if_there("remove", path, self.delete(path))?.is_some())
    }
}

impl<S: Storage + ?Sized> Calls for S {}

/// A file being read, by its path.
pub(crate) trait ReadFileCalls: ReadFile {
    /// Its length now.
    fn length(&self, path: &str) -> Result<u64> {
        self.len().map_err(|e| Error::io("stat", path, e))
    }
}

impl<F: ReadFile + ?Sized> ReadFileCalls for F {}

/// A file being written, by its path.
pub(crate) trait AppendFileCalls: AppendFile {
    /// Adds bytes at the end.
    fn appended(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.append(bytes).map_err(|e| Error::io("write", path, e))
    }

    /// Makes everything appended durable.
    fn synced(&mut self, path: &str) -> Result<()> {
        self.sync().map_err(|e| Error::io("sync", path, e))
    }
}

impl<F: AppendFile + ?Sized> AppendFileCalls for F {}

fn if_there<T>(verb: &'static str, path: &str, result: io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == NotFound => Ok(None),
        Err(e) => Err(Error::io(verb, path, e)),
    }
}
