//! Writes a whole sealed file: under a temporary name first, then published.
//! A crash leaves the temporary file or the complete one.

use std::io::ErrorKind;

use super::{ArchiveKeys, FileInfo, FrameSealer, FrameSpec};
use crate::env::{Owner, random};
use crate::error::{Error, Result};
use crate::format::frame::{FrameKind, Trailer};
use crate::names::{Scope, TMP, join};
use crate::storage::{
    AppendFile, AppendFileCalls, Calls, ReadCalls, Storage, protect, publish_durable,
};
use crate::types::FileId;

/// Bytes gathered before they are handed to storage.
const BUFFER: usize = 1 << 20;

/// A file being written.
#[derive(Debug)]
pub(crate) struct SealedWriter<'a> {
    owner: Owner,
    storage: &'a dyn Storage,
    file: Option<Box<dyn AppendFile>>,
    temporary: String,
    buffer: Vec<u8>,
    written: u64,
    sealer: FrameSealer,
    id: FileId,
    commitment: [u8; 32],
}

/// What a finished file is referred to by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SealedSummary {
    pub id: FileId,
    pub length: u64,
    pub commitment: [u8; 32],
}

impl<'a> SealedWriter<'a> {
    pub fn create(
        storage: &'a dyn Storage,
        keys: &ArchiveKeys,
        scope: Scope,
        info: FileInfo,
    ) -> Result<SealedWriter<'a>> {
        let new = keys.new_file(info)?;
        let temporary = temporary_name(keys, scope)?;
        let file = storage.created(&temporary)?;
        Ok(SealedWriter {
            owner: Owner::here(),
            storage,
            file: Some(file),
            temporary,
            buffer: new.header_bytes,
            written: 0,
            sealer: new.sealer,
            id: new.header.file,
            commitment: new.commitment,
        })
    }

    pub fn id(&self) -> FileId {
        self.id
    }

    /// Adds a frame; gives its offset and length.
    pub fn frame(&mut self, spec: FrameSpec, plaintext: &[u8]) -> Result<(u64, u32)> {
        let offset = self.offset();
        self.sealer.seal(spec, &[plaintext], &mut self.buffer)?;
        let length = self.offset() - offset;
        if self.buffer.len() >= BUFFER {
            self.drain()?;
        }
        Ok((offset, u32::try_from(length).expect("a frame is bounded well below 4 GiB")))
    }

    /// Bytes so far.
    pub fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Seals the file and gives it its name; `None` where that name is taken.
    pub fn publish(mut self, name: &str, seal: &[u8]) -> Result<Option<SealedSummary>> {
        let seal_offset = self.offset();
        self.sealer.seal(FrameSpec::plain(FrameKind::Seal, 0, 0), &[seal], &mut self.buffer)?;
        let trailer = Trailer { seal_offset, frames: self.sealer.count() };
        self.buffer.extend_from_slice(&trailer.encode());
        self.drain()?;
        let file = self.file.take().expect("the file is open until it is published");
        if let Err(e) = file.finish() {
            // Once the name is taken this is a leftover, and others may remove it.
            let lost = e.kind() == ErrorKind::NotFound && self.storage.open(name).is_ok();
            return if lost { Ok(None) } else { Err(Error::io("sync", &self.temporary, e)) };
        }
        let summary =
            SealedSummary { id: self.id, length: self.written, commitment: self.commitment };
        let published = publish_durable(self.storage, &self.temporary, name)?;
        if published {
            protect(self.storage, name);
            self.temporary.clear();
        }
        Ok(published.then_some(summary))
    }

    fn drain(&mut self) -> Result<()> {
        let file = self.file.as_mut().expect("the file is open until it is published");
        file.appended(&self.temporary, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for SealedWriter<'_> {
    fn drop(&mut self) {
        if !self.temporary.is_empty() && self.owner.is_here() {
            // Best effort: what stays under tmp/ is removed by the next owner of the scope.
            let _ = self.storage.delete(&self.temporary);
        }
    }
}

/// Removes temporary files of an earlier owner of the scope.
pub(crate) fn remove_leftovers(storage: &dyn Storage, scope: Scope) -> Result<()> {
    for entry in storage.listed(TMP)? {
        if Scope::of(&entry.name) == Some(scope) {
            // A sweep looks for leftovers too.
            storage.deleted_if_there(&join(TMP, &entry.name))?;
        }
    }
    Ok(())
}

/// A name under `tmp/` that nobody else uses. Its scope says who removes what a crash left of it
/// (`catalog::leftovers`).
pub(crate) fn temporary_name(keys: &ArchiveKeys, scope: Scope) -> Result<String> {
    let id = FileId::from_bytes(random(keys.rng().as_ref())?);
    Ok(scope.path(id))
}
