//! The segment being written.

use crate::crypto::kdf::sha256;
use crate::error::{Error, Result};
use crate::format::frame::{FrameKind, TAG_LEN, Trailer};
use crate::format::header::{FileKind, IMMUTABLE_LEN};
use crate::format::segment::{IndexEntry, PreviousSegment, SegmentPreface, SegmentSeal};
use crate::format::state::NodeState;
use crate::names::{Scope, segment_dir, segment_path};
use crate::sealed::{ArchiveKeys, FileInfo, FrameSealer, FrameSpec, encode_cbor, temporary_name};
use crate::storage::{
    AppendFile, AppendFileCalls, Calls, Storage, check_name, create_dir_durable, displaced,
    protect, publish_durable,
};
use crate::types::{Epoch, NodeId, Position, TimelineId, Timestamp};

/// One index entry for so many bytes.
const INDEX_STEP: u64 = 64 << 10;

/// Where and after what a segment begins.
#[derive(Debug)]
pub(crate) struct SegmentStart {
    pub node: NodeId,
    pub timeline: TimelineId,
    pub epoch: Epoch,
    pub sequence: u64,
    pub created: Timestamp,
    pub link: [u8; 32],
    pub preface: SegmentPreface,
}

/// A segment that its creator appends to.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    file: Box<dyn AppendFile>,
    path: String,
    immutable: [u8; IMMUTABLE_LEN],
    commitment: [u8; 32],
    sealer: FrameSealer,
    timeline: TimelineId,
    sequence: u64,
    created: Timestamp,
    /// Frames known to be durable.
    durable: u32,
    index: Vec<IndexEntry>,
    buffer: Vec<u8>,
}

impl ActiveSegment {
    /// Creates a segment: durable and visible with its preface. [`Error::Fenced`] where its number
    /// is taken.
    pub fn create(
        storage: &dyn Storage,
        keys: &ArchiveKeys,
        scope: Scope,
        start: &SegmentStart,
    ) -> Result<ActiveSegment> {
        let position = start.preface.state.position;
        let new = keys.new_file(FileInfo {
            kind: FileKind::Segment,
            node: start.node,
            timeline: start.timeline,
            epoch: start.epoch,
            sequence: start.sequence,
            from: position.get(),
            to: 0,
            created: start.created,
            link: start.link,
        })?;
        let mut sealer = new.sealer;
        let mut buffer = new.header_bytes;
        let spec = FrameSpec::plain(FrameKind::Preface, position.get(), position.get());
        sealer.seal(spec, &[&encode_cbor(&start.preface)], &mut buffer)?;

        create_dir_durable(storage, &segment_dir(start.node, start.timeline, start.sequence))?;
        let temporary = temporary_name(keys, scope)?;
        let path = segment_path(start.node, start.timeline, start.sequence, position);
        let mut file = storage.created(&temporary)?;
        let written = file.appended(&temporary, &buffer);
        let synced = written.and_then(|()| file.synced(&temporary));
        let published = synced.and_then(|()| publish_durable(storage, &temporary, &path));
        if !matches!(published, Ok(true)) {
            // Best effort: the next writer removes what stays.
            let _ = storage.delete(&temporary);
        }
        if !published? {
            return Err(Error::Fenced { node: start.node.to_string() });
        }
        buffer.clear();
        Ok(ActiveSegment {
            file,
            path,
            immutable: new.header.encode(),
            commitment: new.commitment,
            durable: sealer.count(),
            sealer,
            timeline: start.timeline,
            sequence: start.sequence,
            created: start.created,
            index: Vec::new(),
            buffer,
        })
    }

    /// Bytes handed to storage so far.
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// Adds a frame to what the next [`write`](Self::write) hands to storage.
    pub fn push(
        &mut self,
        kind: FrameKind,
        continues: bool,
        first: Position,
        last: Position,
        before: Timestamp,
        plaintext: &[&[u8]],
    ) -> Result<()> {
        let offset = self.file.len() + self.buffer.len() as u64;
        let far = self.index.last().is_none_or(|e| offset - e.offset >= INDEX_STEP);
        if kind == FrameKind::Commits && !continues && far {
            let commits = first.get().checked_sub(1);
            let position =
                Position::new(commits.expect("a commit has an LSN, and those begin at 1"));
            self.index.push(IndexEntry {
                frame: self.sealer.count(),
                offset,
                before: position,
                timestamp: before,
            });
        }
        let (first, last, durable) = (first.get(), last.get(), self.durable);
        self.sealer.seal(
            FrameSpec { kind, continues, first, last, durable },
            plaintext,
            &mut self.buffer,
        )
    }

    /// Hands what waits to storage. After an error the segment must not be used again.
    pub fn write(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.file.appended(&self.path, &self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Makes what was written durable. After an error the segment must not be used again.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(|e| displaced("sync", &self.path, e))?;
        self.durable = self.sealer.count();
        Ok(())
    }

    /// Proves that what is written is still under its name.
    pub fn check(&self, storage: &dyn Storage) -> Result<()> {
        check_name(storage, &self.path, self.file.identity())
    }

    /// See [`AppendFile::expect_small_appends`].
    pub fn expect_small_appends(&mut self) {
        self.file.expect_small_appends();
    }

    /// What the next segment says of this one, and its link.
    pub fn facts(&self, last: Position) -> (PreviousSegment, [u8; 32]) {
        let facts = PreviousSegment {
            timeline: self.timeline,
            sequence: self.sequence,
            frames: self.sealer.count(),
            length: self.file.len() + self.buffer.len() as u64,
            tag: self.sealer.chain(),
        };
        let link = link(&self.immutable, &self.commitment, &facts, last);
        (facts, link)
    }

    /// Writes the seal and makes everything durable.
    pub fn seal(mut self, storage: &dyn Storage, state: NodeState) -> Result<()> {
        // A seal that is there says that every frame is: so they have to be durable before it is
        // written.
        self.write()?;
        if self.durable < self.sealer.count() {
            self.sync()?;
        }
        let frames = self.sealer.count();
        let seal_offset = self.file.len() + self.buffer.len() as u64;
        let position = state.position.get();
        let seal =
            encode_cbor(&SegmentSeal { state, frames, index: std::mem::take(&mut self.index) });
        let spec = FrameSpec {
            durable: self.durable,
            ..FrameSpec::plain(FrameKind::Seal, position, position)
        };
        self.sealer.seal(spec, &[&seal], &mut self.buffer)?;
        let trailer = Trailer { seal_offset, frames: self.sealer.count() };
        self.buffer.extend_from_slice(&trailer.encode());
        self.write()?;
        self.file.finish().map_err(|e| displaced("sync", &self.path, e))?;
        protect(storage, &self.path);
        Ok(())
    }
}

/// The value that ties the next segment to this one (`docs/format.md` §5).
pub(crate) fn link(
    immutable: &[u8; IMMUTABLE_LEN],
    commitment: &[u8; 32],
    facts: &PreviousSegment,
    last: Position,
) -> [u8; 32] {
    const { assert!(TAG_LEN == 16) };
    sha256(&[
        b"rewound link v1",
        immutable,
        commitment,
        &facts.tag,
        &facts.frames.to_le_bytes(),
        &facts.length.to_le_bytes(),
        &last.get().to_le_bytes(),
    ])
}
