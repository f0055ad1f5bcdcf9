//! What the archive takes on disk.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// Number and bytes of the log's segments.
pub fn segments(dir: &Path) -> Result<(usize, u64)> {
    let files = files_in(&dir.join("shop.archive"))?;
    let segments: Vec<_> = files
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    Ok((segments.len(), segments.iter().map(|(_, bytes)| bytes).sum()))
}

/// Bytes of all files of a directory.
pub fn bytes_in(dir: &Path) -> Result<u64> {
    Ok(files_in(dir)?.iter().map(|(_, bytes)| bytes).sum())
}

fn files_in(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files.extend(files_in(&entry.path())?);
        } else {
            files.push((entry.path(), metadata.len()));
        }
    }
    Ok(files)
}
