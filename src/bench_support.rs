//! What the benchmarks, fuzz targets and tests of forks need of the inside. Not public API:
//! anything here may change or go at any time.

use std::sync::Arc;

use crate::archive::Node;
use crate::crypto::{Backend, KeyFile, Keyring};
use crate::env::SystemRng;
use crate::error::Result;
use crate::format::codec::Reader;
use crate::format::event::CatalogEntry;
use crate::format::frame::{FrameHeader, FrameKind, Trailer};
use crate::format::header::{FileKind, SealedHeader};
use crate::format::part::{Block, LayerBody, PartSeal};
use crate::format::record::{Commits, Op};
use crate::format::segment::{SegmentPreface, SegmentSeal};
use crate::names::{self, Scope};
use crate::sealed::{
    ArchiveKeys, FileInfo, FrameSpec, FrameStream, SealedFile, SealedWriter, Step,
};
use crate::storage::{Calls, MemStorage, Storage};
use crate::types::{ArchiveId, Epoch, NodeId, Target, TimelineId, Timestamp};

/// A complete sealed file of frames of one size, with what opens it.
#[derive(Debug)]
pub struct SealedFrames {
    storage: Arc<dyn Storage>,
    keys: ArchiveKeys,
}

const PATH: &str = "frames";

impl SealedFrames {
    /// Seals `total` bytes in frames of `frame_bytes` of plaintext, in memory.
    pub fn in_memory(backend: Backend, frame_bytes: usize, total: usize) -> Result<SealedFrames> {
        SealedFrames::build(Arc::new(MemStorage::new()), backend, frame_bytes, total)
    }

    /// The same in any storage, which must be empty.
    pub fn build(
        storage: Arc<dyn Storage>,
        backend: Backend,
        frame_bytes: usize,
        total: usize,
    ) -> Result<SealedFrames> {
        let keyring = Keyring::new(KeyFile::from_bytes([1; 32]));
        let keys = ArchiveKeys::create(
            ArchiveId::from_bytes([2; 16]),
            &keyring,
            backend,
            Arc::new(SystemRng),
        )?;
        storage.dir_created("")?;
        storage.dir_created(names::TMP)?;
        let info = FileInfo {
            kind: FileKind::Part,
            node: NodeId::new(1),
            timeline: TimelineId::new(1),
            epoch: Epoch::default(),
            sequence: 0,
            from: 0,
            to: 0,
            created: Timestamp::ZERO,
            link: [0; 32],
        };
        let mut writer =
            SealedWriter::create(storage.as_ref(), &keys, Scope::Builder(info.node), info)?;
        let plaintext: Vec<u8> = (0..=250_u8).cycle().take(frame_bytes).collect();
        for i in 0..(total / frame_bytes) as u64 {
            writer.frame(FrameSpec::plain(FrameKind::Block, i, i), &plaintext)?;
        }
        writer.publish(PATH, &[])?;
        Ok(SealedFrames { storage, keys })
    }

    /// Reads, authenticates and decrypts every frame; gives the bytes of plaintext.
    pub fn scan(&self) -> Result<u64> {
        let file = SealedFile::open(self.storage.as_ref(), &self.keys, PATH, FileKind::Part)?;
        let end = file.trailer()?.map_or(0, |t| t.seal_offset);
        let mut stream = FrameStream::new(&file, end);
        let mut bytes = 0;
        loop {
            match stream.next()? {
                Step::Frame { plaintext, .. } => {
                    bytes += std::hint::black_box(plaintext).len() as u64;
                }
                Step::Stop { error: None, .. } => return Ok(bytes),
                Step::Stop { error: Some(error), .. } => return Err(error),
            }
        }
    }
}

/// Starts a new timeline of a node with the commit that a target names.
pub fn fork(node: &Node, target: &Target) -> Result<TimelineId> {
    node.fork(target)
}

/// Lets the node `into`, to which nothing was written, go on from a commit of another. Known to the
/// open archive alone.
pub fn branch(node: &Node, target: &Target, into: &Node) -> Result<()> {
    node.branch(target, into)
}

/// Gives the bytes to every decoder of the format; each has to end, with a value or an error.
pub fn decode_all(bytes: &[u8]) {
    let _ = SealedHeader::decode(bytes);
    let _ = FrameHeader::decode(bytes);
    let _ = Trailer::decode(bytes);
    let _ = Block::decode(bytes, 0, u64::MAX);
    let _ = Block::decode(bytes, 5, 9);
    let mut r = Reader::new(bytes);
    while !r.is_empty() && Op::read(&mut r).is_ok() {}
    let mut commits = Commits::new(bytes, Timestamp::from_nanos(7));
    while let Ok(Some(_)) = commits.next() {}
    let _ = minicbor::decode::<CatalogEntry>(bytes);
    let _ = minicbor::decode::<SegmentPreface>(bytes);
    let _ = minicbor::decode::<SegmentSeal>(bytes);
    let _ = minicbor::decode::<PartSeal>(bytes);
    let _ = minicbor::decode::<LayerBody>(bytes);
    let _ = std::str::from_utf8(bytes).map(KeyFile::from_text);
}
