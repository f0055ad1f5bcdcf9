//! Reading a segment: what is in it, where it ends, and whether its end is a torn tail or damage.

use std::collections::VecDeque;

use super::SegmentRef;
use super::active::link;
use crate::delta::Decoder;
use crate::error::{DamageKind, Error, Result};
use crate::format::codec::Reader;
use crate::format::frame::{FrameHeader, FrameKind, HEADER_LEN, MARKER, TAG_LEN};
use crate::format::header::FileKind;
use crate::format::record::{Blob, Commits, Op};
use crate::format::segment::{PreviousSegment, SegmentPreface, SegmentSeal};
use crate::format::state::{Effect, NodeState};
use crate::lineage::Line;
use crate::sealed::{ArchiveKeys, FrameStream, SealedFile, Step, decode_cbor};
use crate::storage::{ReadFile, ReadStore, read_range};
use crate::types::{Lsn, Position, Timestamp, as_index};

/// Bytes looked at in one go for frames beyond a tail that cannot be read.
const SEARCH_STEP: usize = 1 << 20;
/// Bytes read in one go where only headers are looked at.
const HEADERS_STEP: usize = 64 << 10;
/// Zeros up to so many are looked through, however they came about: more than a writer reserves, or
/// a power failure leaves of a segment of the usual length.
const ZEROS_LOOKED_THROUGH: u64 = 256 << 20;
/// Of more than that so many at both ends tell of the rest: what a segment holds goes on to its
/// end, but for less than this.
const ZEROS_AT_THE_ENDS: u64 = 8 << 20;
/// No more zeros in a row are searched through. A power failure can leave many where a large commit
/// was, but hardly so many.
const MAX_ZEROS: u64 = 1 << 30;
/// Bytes of what only looks like frames that the search is ready to check.
const CRC_BUDGET: u64 = 1 << 30;

/// A segment, open for reading.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: SealedFile,
    segment: SegmentRef,
    preface: SegmentPreface,
    seal: Option<SegmentSeal>,
    /// The tag of the last frame before the seal, which that was authenticated with.
    last_tag: [u8; TAG_LEN],
    /// Where the frames before the seal end, or the file does.
    end: u64,
}

/// What a scan comes upon.
#[derive(Debug)]
pub(crate) enum Visit<'a> {
    /// Ops of a commit that goes on. They count only if its [`Visit::Commit`] follows.
    Partial { lsn: Lsn, ops: &'a [u8], offset: u64 },
    /// The ops of a commit, or the rest of them.
    Commit { lsn: Lsn, timestamp: Timestamp, ops: &'a [u8], offset: u64 },
    /// No commit happened until this time.
    Tick,
}

/// Where a scan ended: after the last whole commit or tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanEnd {
    /// How many commits lie before.
    pub position: Position,
    /// Time of the last commit.
    pub timestamp: Timestamp,
    /// Until when no further commit happened.
    pub known_until: Timestamp,
    /// What the next segment has to say of this one.
    pub facts: PreviousSegment,
    /// Its link.
    pub link: [u8; 32],
    /// Whether the visitor stopped the scan before the end.
    pub stopped: bool,
}

impl SegmentReader {
    pub(super) fn open(
        storage: &dyn ReadStore,
        keys: &ArchiveKeys,
        segment: &SegmentRef,
    ) -> Result<SegmentReader> {
        let path = &segment.path;
        let file = SealedFile::open(storage, keys, path, FileKind::Segment)?;
        let (h, Line { node, timeline }) = (file.header(), segment.line);
        let claimed = (node, timeline, segment.sequence, segment.from.get());
        let found = (h.node, h.timeline, h.sequence, h.from);
        if claimed != found {
            return Err(Error::damage(
                DamageKind::Chain,
                path,
                80,
                "node, timeline, sequence number and first position",
                format_args!("{claimed:?}, as its name says"),
                format_args!("{found:?}"),
            ));
        }
        let mut buffer = Vec::new();
        let (header, plaintext) = file.frame(file.header_len(), None, &mut buffer)?;
        if header.kind != FrameKind::Preface || header.index != 0 {
            let found = format_args!("{:?}", header.kind);
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                file.header_len(),
                "frame 0",
                "a preface",
                found,
            ));
        }
        let preface: SegmentPreface = decode_cbor(path, file.header_len(), "preface", plaintext)?;
        if preface.state.position != segment.from {
            let found = preface.state.position;
            return Err(Error::damage(
                DamageKind::Structure,
                path,
                file.header_len(),
                "position",
                segment.from,
                found,
            ));
        }
        let mut last_tag = [0; TAG_LEN];
        let (seal, end) = match file.trailer()? {
            Some(trailer) => match file.seal(&trailer) {
                Ok(seal) => {
                    last_tag = seal.chain;
                    (Some(decode_cbor(path, seal.offset, "seal", &seal.plaintext)?), seal.offset)
                }
                // A crash while sealing can leave the trailer and not the seal. No commit is in it;
                // whether the frames before it are all there, the scan and the next segment tell.
                Err(e) if e.is_damage() => (None, file.len()?),
                Err(e) => return Err(e),
            },
            None => (None, file.len()?),
        };
        Ok(SegmentReader { file, segment: segment.clone(), preface, seal, last_tag, end })
    }

    pub fn preface(&self) -> &SegmentPreface {
        &self.preface
    }

    /// The end of a complete segment.
    pub fn seal(&self) -> Option<&SegmentSeal> {
        self.seal.as_ref()
    }

    pub fn path(&self) -> &str {
        &self.segment.path
    }

    /// What the next segment says of this one.
    fn facts(&self, frames: u32, length: u64, tag: [u8; TAG_LEN]) -> PreviousSegment {
        let SegmentRef { line, sequence, .. } = self.segment;
        PreviousSegment { timeline: line.timeline, sequence, frames, length, tag }
    }

    pub(super) fn segment(&self) -> &SegmentRef {
        &self.segment
    }

    /// When it was begun.
    pub fn created(&self) -> Timestamp {
        self.file.header().created
    }

    /// The link in its header, to the segment before it.
    pub fn link_to_previous(&self) -> [u8; 32] {
        self.file.header().link
    }

    /// Where a complete segment ends: the state it leaves, what the next one has to say of it, and
    /// its link.
    pub fn sealed_end(&self) -> Option<(NodeState, PreviousSegment, [u8; 32])> {
        let seal = self.seal.as_ref()?;
        let facts = self.facts(seal.frames, self.end, self.last_tag);
        let link =
            link(&self.file.header().encode(), self.file.commitment(), &facts, seal.state.position);
        Some((seal.state.clone(), facts, link))
    }

    /// A position in the segment up to which every commit has a time at or before this one: where
    /// to begin looking for the last one that has. The segment itself has to begin at or before
    /// that time.
    pub fn position_by(&self, time: Timestamp) -> Position {
        let index = self.seal.as_ref().map_or(&[][..], |seal| &seal.index);
        index.iter().rev().find(|e| e.timestamp <= time).map_or(self.segment.from, |e| e.before)
    }

    /// Visits everything after position `from`, which must not lie before the segment. The visitor
    /// returns whether to go on. `successor` is what the next segment says of this one, where there
    /// is one.
    pub fn scan(
        &self,
        from: Position,
        successor: Option<&PreviousSegment>,
        visit: &mut dyn FnMut(Visit<'_>) -> Result<bool>,
    ) -> Result<ScanEnd> {
        let mut end = self.end.min(successor.map_or(u64::MAX, |s| s.length));
        let skip = self.seal.as_ref().and_then(|seal| {
            seal.index.iter().rev().find(|e| e.before <= from && e.offset > self.file.header_len())
        });
        let begin = self.preface.state.timestamp;
        let (mut stream, position, timestamp) = match skip {
            Some(e) => {
                (FrameStream::resume(&self.file, end, e.offset, e.frame)?, e.before, e.timestamp)
            }
            None => (FrameStream::new(&self.file, end), self.segment.from, begin),
        };
        let known_until = self.preface.state.known_until.max(timestamp);
        let mut walk =
            Walk { reader: self, from, position, timestamp, known_until, partial: false };
        // The end of the last whole commit or tick.
        let mut whole = (stream.index(), self.file.header_len(), stream.chain());
        let mut looked = None;
        let (stopped, stop_offset, stop_error) = loop {
            let (header, offset, plaintext) = match stream.next()? {
                Step::Frame { header, offset, plaintext } => (header, offset, plaintext),
                Step::Stop { offset, error: Some(error) }
                    if self.seal.is_none() && successor.is_none() =>
                {
                    let index = stream.index();
                    if !self.appended_concurrently(offset, index, &mut looked, error)? {
                        break (false, offset, None);
                    }
                    end = end.max(self.file.len()?);
                    stream = FrameStream::resume(&self.file, end, offset, index)?;
                    continue;
                }
                Step::Stop { offset, error } => break (false, offset, error),
            };
            match walk.frame(&header, offset, plaintext, visit)? {
                Then::Whole => {
                    let end = offset + header.frame_len() as u64;
                    whole = (stream.index(), end, stream.chain());
                }
                Then::Partial => {}
                Then::Stop => break (true, offset, None),
                Then::End => break (false, offset, None),
            }
        };
        let Walk { position, timestamp, known_until, .. } = walk;
        let (frames, length, tag) = whole;
        let facts = self.facts(frames, length, tag);
        if !stopped {
            self.check_end(&facts, position, successor, stop_offset, stop_error)?;
        }
        let link = link(&self.file.header().encode(), self.file.commitment(), &facts, position);
        Ok(ScanEnd { position, timestamp, known_until, facts, link, stopped })
    }

    /// Where the frames begin of which no later one says that they were durable. Looks at headers
    /// alone, and trusts them for no more than which bytes are worth reading from the medium again.
    pub fn unproven_from(&self) -> Result<u64> {
        let (file, path) = (self.file.file().as_ref(), self.file.path());
        let mut frames: VecDeque<(u32, u64)> = VecDeque::new();
        let mut at = self.file.header_len();
        let (mut window, mut start, mut ahead) = (Vec::new(), 0, HEADER_LEN);
        while at + (HEADER_LEN as u64) <= self.end {
            let within = as_index(at - start);
            if window.get(within..within.saturating_add(HEADER_LEN)).is_none() {
                (window, start) = (read_range(file, path, at, ahead)?, at);
            }
            let within = as_index(at - start);
            let rest = window
                .get(within..)
                .expect("the window begins at this frame, or before its header");
            let Ok(header) = FrameHeader::decode(rest) else { break };
            frames.push_back((header.index, at));
            while frames.front().is_some_and(|(index, _)| *index < header.durable) {
                frames.pop_front();
            }
            at += header.frame_len() as u64;
            // Many small frames at a time, but of large ones only the header.
            ahead = if header.frame_len() < HEADERS_STEP / 4 { HEADERS_STEP } else { HEADER_LEN };
        }
        Ok(frames.front().map_or(at, |(_, offset)| *offset))
    }

    /// What a frame means that cannot be read, in a segment that nothing says the end of: `false`,
    /// it is the torn tail; `true`, it can be read after all: a writer is at work and it came after
    /// it was looked for, or it was read wrongly; an error, it is damaged. `looked`: where this was
    /// asked last.
    fn appended_concurrently(
        &self,
        offset: u64,
        index: u32,
        looked: &mut Option<u64>,
        error: Error,
    ) -> Result<bool> {
        let again = looked.replace(offset) == Some(offset);
        // In this order: what lies behind it was written after it, so a frame that a writer has
        // just added is there by the time that it is read again.
        let proven = durable_frame_beyond(
            self.file.file().as_ref(),
            self.file.path(),
            self.end,
            offset,
            index,
        )?;
        // One wrong read must not cut commits off: nothing behind them may say that they were
        // there.
        let readable = self
            .file
            .frame(offset, None, &mut Vec::new())
            .is_ok_and(|(frame, _)| frame.index == index);
        match (readable, again) {
            (true, false) => Ok(true),
            (false, _) if !proven => Ok(false),
            _ => Err(error),
        }
    }

    /// Decides whether the end that a scan found is the end of the segment.
    fn check_end(
        &self,
        facts: &PreviousSegment,
        position: Position,
        successor: Option<&PreviousSegment>,
        offset: u64,
        error: Option<Error>,
    ) -> Result<()> {
        let path = &self.segment.path;
        if let Some(seal) = &self.seal {
            if let Some(error) = error {
                return Err(error);
            }
            if seal.frames != facts.frames || seal.state.position != position {
                let expected =
                    format_args!("{} frames up to LSN {}", seal.frames, seal.state.position);
                let found = format_args!("{} frames up to LSN {position}", facts.frames);
                return Err(Error::damage(
                    DamageKind::Chain,
                    path,
                    offset,
                    "seal",
                    expected,
                    found,
                ));
            }
        }
        if let Some(successor) = successor {
            if let Some(error) = error {
                return Err(error);
            }
            if successor != facts {
                let expected = format_args!(
                    "{} frames in {} bytes, as the next segment says",
                    successor.frames, successor.length
                );
                let found = format_args!("{} frames in {} bytes", facts.frames, facts.length);
                return Err(Error::damage(
                    DamageKind::Chain,
                    path,
                    offset,
                    "end of the segment",
                    expected,
                    found,
                ));
            }
        }
        Ok(())
    }
}

/// What a scan has reached.
struct Walk<'r> {
    reader: &'r SegmentReader,
    /// Nothing up to here is visited.
    from: Position,
    position: Position,
    timestamp: Timestamp,
    known_until: Timestamp,
    /// Whether the frames before belong to a commit that has not ended.
    partial: bool,
}

/// What comes after a frame.
enum Then {
    /// The next one, and a segment may end here.
    Whole,
    /// The next one, and no segment may end here.
    Partial,
    /// Nothing: the visitor has seen enough.
    Stop,
    /// Nothing: the segment ends before this frame.
    End,
}

impl Walk<'_> {
    /// Checks that a frame continues those before it, and visits what is in it.
    fn frame(
        &mut self,
        header: &FrameHeader,
        offset: u64,
        plaintext: &[u8],
        visit: &mut dyn FnMut(Visit<'_>) -> Result<bool>,
    ) -> Result<Then> {
        let path = &self.reader.segment.path;
        let bad = |what, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Error::damage(DamageKind::Structure, path, offset, what, expected, found)
        };
        let next = self.position.next_lsn();
        let sealed = self.reader.seal.is_some();
        match header.kind {
            FrameKind::Preface if header.index == 0 => Ok(Then::Whole),
            FrameKind::Partial => {
                let lsns = (header.first, header.last);
                if lsns != (next.get(), next.get()) || header.continues != self.partial {
                    return Err(bad("LSN of a partial commit", &next, &header.first));
                }
                self.partial = true;
                let partial = Visit::Partial { lsn: next, ops: plaintext, offset };
                let goes_on = next.get() <= self.from.get() || visit(partial)?;
                Ok(if goes_on { Then::Partial } else { Then::Stop })
            }
            FrameKind::Commits => {
                if header.first != next.get() || header.continues != self.partial {
                    return Err(bad("first LSN of a frame", &next, &header.first));
                }
                self.partial = false;
                let mut commits = Commits::new(plaintext, self.timestamp);
                while let Some(commit) =
                    commits.next().map_err(|e| bad(e.what, &e.expected, &e.found))?
                {
                    let lsn = self.position.next_lsn();
                    (self.position, self.timestamp) = (lsn.into(), commit.timestamp);
                    let (timestamp, ops) = (commit.timestamp, commit.ops);
                    if lsn.get() > self.from.get()
                        && !visit(Visit::Commit { lsn, timestamp, ops, offset })?
                    {
                        return Ok(Then::Stop);
                    }
                }
                if self.position.get() != header.last {
                    return Err(bad("last LSN of a frame", &header.last, &self.position));
                }
                self.known_until = self.known_until.max(self.timestamp);
                Ok(Then::Whole)
            }
            FrameKind::Tick => {
                let until = Reader::new(plaintext).u64("tick");
                let until = until.map_err(|e| bad(e.what, &e.expected, &e.found))?;
                let until = Timestamp::from_nanos(until);
                let fits = header.first == self.position.get() && !self.partial;
                if until < self.known_until || !fits {
                    return Err(bad("tick", &self.known_until, &until));
                }
                self.known_until = until;
                let goes_on = self.position < self.from || visit(Visit::Tick)?;
                Ok(if goes_on { Then::Whole } else { Then::Stop })
            }
            // A crash came between the seal and the trailer, or took the latter: nothing follows.
            FrameKind::Seal if !sealed && !self.partial && header.first == self.position.get() => {
                Ok(Then::End)
            }
            other => {
                let expected = "preface, commits, partial or tick";
                Err(bad("frame kind", &expected, &format_args!("{other:?}")))
            }
        }
    }
}

/// Whether some frame beyond `offset` was written when frame `index`, which cannot be read, was
/// already durable: then its loss is damage; else it is a torn tail. `end`: where the frames of the
/// file end at the latest.
pub(crate) fn durable_frame_beyond(
    file: &dyn ReadFile,
    path: &str,
    end: u64,
    offset: u64,
    index: u32,
) -> Result<bool> {
    let mut budget = CRC_BUDGET;
    let found = find_frame(file, path, offset.saturating_add(1), end, &mut |start, header| {
        if header.durable <= index || header.index <= index {
            return Ok(None);
        }
        let body = read_range(file, path, start + HEADER_LEN as u64, header.len as usize)?;
        if body.len() == header.len as usize && header.check_crc(&body).is_ok() {
            return Ok(Some(()));
        }
        budget = budget.saturating_sub(u64::from(header.len));
        Ok((budget == 0).then_some(()))
    })?;
    // No torn tail is made of that much that looks like frames, or of that many zeros with
    // something behind them: whatever it is, it is no end to cut silently.
    Ok(!matches!(found, Search::Nothing))
}

/// What a search for a frame came to.
#[derive(Debug)]
pub(crate) enum Search<T> {
    Found(T),
    /// There is none.
    Nothing,
    /// There are more zeros than any writer leaves, and something behind them: it was not searched.
    Endless,
}

/// Looks for something that `take` accepts among what looks like the header of a frame, from an
/// offset on. A hole, of whatever size, costs little.
pub(crate) fn find_frame<T>(
    file: &dyn ReadFile,
    path: &str,
    from: u64,
    end: u64,
    take: &mut dyn FnMut(u64, FrameHeader) -> Result<Option<T>>,
) -> Result<Search<T>> {
    let (mut at, mut zeros) = (from, 0);
    while at < end {
        let len = as_index(end - at).min(SEARCH_STEP);
        let window = read_range(file, path, at, len)?;
        if window.is_empty() {
            // It was cut since its length was asked for.
            break;
        }
        if window.iter().all(|b| *b == 0) {
            let before = zeros;
            zeros += window.len() as u64;
            let many = zeros >= ZEROS_AT_THE_ENDS
                && before < ZEROS_AT_THE_ENDS
                && end - at > ZEROS_LOOKED_THROUGH;
            if many && is_zero(file, path, at, end)? {
                return Ok(Search::Nothing);
            }
            if zeros >= MAX_ZEROS {
                return Ok(Search::Endless);
            }
        } else {
            zeros = 0;
        }
        for i in markers(&window) {
            let start = at + i as u64;
            let Ok(header) = FrameHeader::decode(&read_range(file, path, start, HEADER_LEN)?)
            else {
                continue;
            };
            if let Some(found) = take(start, header)? {
                return Ok(Search::Found(found));
            }
        }
        // A marker may lie across two windows.
        at += (window.len().saturating_sub(MARKER.len() - 1)).max(1) as u64;
    }
    Ok(Search::Nothing)
}

/// Whether a file is zero from an offset on: space reserved for what was never written, or a hole.
/// Of more than [`ZEROS_LOOKED_THROUGH`] only both ends are looked at.
pub(crate) fn is_zero(file: &dyn ReadFile, path: &str, from: u64, end: u64) -> Result<bool> {
    let mut at = from;
    while at < end {
        if end - from > ZEROS_LOOKED_THROUGH && at - from >= ZEROS_AT_THE_ENDS {
            at = at.max(end - ZEROS_AT_THE_ENDS);
        }
        let len = as_index(end - at).min(SEARCH_STEP);
        let bytes = read_range(file, path, at, len)?;
        if bytes.is_empty() {
            break;
        }
        if bytes.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}

/// Where in some bytes frames may begin.
fn markers(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(MARKER.len()).enumerate().filter(|(_, w)| *w == MARKER.as_slice()).map(|(i, _)| i)
}

/// Applies the ops of a commit to the state beside the pages; does not advance it.
/// Also calls `each` with every op.
pub(crate) fn fold_ops<'a>(
    state: &mut NodeState,
    ops: &'a [u8],
    decoder: &mut Decoder,
    path: &str,
    offset: u64,
    each: &mut dyn FnMut(&Op<'a>),
) -> Result<()> {
    let mut r = Reader::new(ops);
    while !r.is_empty() {
        let op = Op::read(&mut r).map_err(|e| e.at(path, offset))?;
        fold_op(state, &op, decoder, path, offset)?;
        each(&op);
    }
    Ok(())
}

/// Applies one op to the state beside the pages.
pub(crate) fn fold_op(
    state: &mut NodeState,
    op: &Op<'_>,
    decoder: &mut Decoder,
    path: &str,
    offset: u64,
) -> Result<()> {
    let plain = match op {
        Op::SetConfig { value, .. } => Some(plain(value, decoder, path, offset)?),
        _ => None,
    };
    match op.effect(plain.as_deref()) {
        Some(effect) => apply_effect(state, &effect, path, offset),
        None => Ok(()),
    }
}

pub(crate) fn apply_effect(
    state: &mut NodeState,
    effect: &Effect,
    path: &str,
    offset: u64,
) -> Result<()> {
    state.apply(effect).map_err(|e| {
        Error::damage(
            DamageKind::Structure,
            path,
            offset,
            "op",
            "one that the state before it allows",
            e,
        )
    })
}

/// The bytes of a blob that is not a page.
pub(crate) fn plain(
    blob: &Blob<'_>,
    decoder: &mut Decoder,
    path: &str,
    offset: u64,
) -> Result<Vec<u8>> {
    match blob.plain_len {
        None => Ok(blob.stored.to_vec()),
        Some(len) => {
            let mut out = vec![0; len];
            decoder.decompress(blob.stored, &mut out).map_err(|e| {
                Error::damage(
                    DamageKind::Structure,
                    path,
                    offset,
                    "compressed bytes",
                    format_args!("{len} bytes"),
                    e,
                )
            })?;
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemStorage, ReadStore};

    /// A writer cuts off what it had reserved: a search that goes by the length from before ends
    /// with the file.
    #[test]
    fn a_search_ends_where_the_file_was_cut() {
        let storage = MemStorage::new();
        storage.set_file("f", vec![7; 100]);
        let file = storage.open("f").unwrap();
        let found = find_frame(file.as_ref(), "f", 0, 1 << 50, &mut |_, _| Ok(Some(())));
        assert!(matches!(found, Ok(Search::Nothing)), "{found:?}");
    }
}
