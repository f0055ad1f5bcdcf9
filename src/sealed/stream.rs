//! Reads the frames of a sealed file one after the other, each authenticated and chained to the one
//! before.

use bytes::Bytes;

use super::SealedFile;
use crate::error::{Error, Result};
use crate::format::FormatError;
use crate::format::frame::{FrameHeader, HEADER_LEN, TAG_LEN};
use crate::storage::read_full;
use crate::types::as_index;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// What the stream came upon.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A frame, authenticated.
    Frame { header: FrameHeader, offset: u64, plaintext: &'a [u8] },
    /// No further frame can be read at this offset. `error` is `None` at the very end.
    Stop { offset: u64, error: Option<Error> },
}

/// Walks over frames.
#[derive(Debug)]
pub(crate) struct FrameStream<'f> {
    file: &'f SealedFile,
    /// The file, where its storage lends it: then `buffer` takes plaintext only.
    lent: Option<Bytes>,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    at: usize,
    /// Where in the file the next frame begins.
    offset: u64,
    /// Where in the file the frames end at the latest.
    end: u64,
    index: u32,
    chain: [u8; TAG_LEN],
}

impl<'f> FrameStream<'f> {
    /// From the first frame on.
    pub fn new(file: &'f SealedFile, end: u64) -> FrameStream<'f> {
        let chain = file.opener().first_chain();
        let lent = file.file().lend();
        FrameStream {
            file,
            lent,
            buffer: Vec::new(),
            at: 0,
            offset: file.header_len(),
            end,
            index: 0,
            chain,
        }
    }

    /// From a frame on that is not the first: the chain value is read from the file.
    pub fn resume(
        file: &'f SealedFile,
        end: u64,
        offset: u64,
        index: u32,
    ) -> Result<FrameStream<'f>> {
        let mut stream = FrameStream { offset, index, ..FrameStream::new(file, end) };
        if index > 0 {
            // Authenticated with the frame that it leads to.
            read_full(
                file.file().as_ref(),
                file.path(),
                offset.saturating_sub(TAG_LEN as u64),
                &mut stream.chain,
            )?;
        }
        Ok(stream)
    }

    /// Index of the next frame.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Tag of the last frame read.
    pub fn chain(&self) -> [u8; TAG_LEN] {
        self.chain
    }

    /// The next frame, or why there is none.
    pub fn next(&mut self) -> Result<Step<'_>> {
        let offset = self.offset;
        let stop = |error| Ok(Step::Stop { offset, error: Some(error) });
        let path = self.file.path();
        let left = self.end.saturating_sub(offset);
        if left == 0 {
            return Ok(Step::Stop { offset, error: None });
        }
        if !self.ensure(HEADER_LEN)? {
            let e = FormatError::truncated(0, "frame header", HEADER_LEN, self.available());
            return stop(e.at(path, offset));
        }
        let header = match FrameHeader::decode(self.ahead()) {
            Ok(header) => header,
            Err(e) => return stop(e.at(path, offset)),
        };
        if header.index != self.index {
            let e = FormatError::structure(8, "frame index", self.index, header.index);
            return stop(e.at(path, offset));
        }
        let len = header.frame_len();
        if len as u64 > left || !self.ensure(len)? {
            let have = self.available().min(as_index(left));
            return stop(FormatError::truncated(0, "frame", len, have).at(path, offset));
        }
        let (opener, chain) = (self.file.opener(), self.chain);
        let opened = if let Some(lent) = &self.lent {
            let start = as_index(offset);
            let frame = lent
                .get(start..start.saturating_add(len))
                .expect("so much was found to be at hand");
            let text = len - HEADER_LEN - TAG_LEN;
            if self.buffer.len() < text {
                self.buffer.resize(text, 0);
            }
            let out = self.buffer.get_mut(..text).expect("the buffer was made as long as the text");
            opener.open_into(&header, &chain, frame, out).map(|tag| (&*out, tag))
        } else {
            let frame = self
                .buffer
                .get_mut(self.at..self.at + len)
                .expect("so much was found to be at hand");
            opener.open_in_place(&header, &chain, frame)
        };
        match opened {
            Ok((plaintext, tag)) => {
                self.chain = tag;
                self.index += 1;
                self.at += len;
                self.offset += len as u64;
                Ok(Step::Frame { header, offset, plaintext })
            }
            Err(_) => stop(self.file.explain(offset, &header)),
        }
    }

    /// What is at hand from the next frame on.
    fn ahead(&self) -> &[u8] {
        let (bytes, at) = match &self.lent {
            Some(lent) => (lent.as_ref(), as_index(self.offset)),
            None => (self.buffer.as_slice(), self.at),
        };
        // Of a file that was cut since, or is resumed beyond its end, nothing is.
        bytes.get(at..).unwrap_or_default()
    }

    fn available(&self) -> usize {
        self.ahead().len()
    }

    /// Makes sure that `need` bytes are in the buffer; `false` where the file ends before.
    fn ensure(&mut self, need: usize) -> Result<bool> {
        if self.available() >= need || self.lent.is_some() {
            return Ok(self.available() >= need);
        }
        let kept = self.available();
        self.buffer.copy_within(self.at.., 0);
        self.at = 0;
        let left = self.end.saturating_sub(self.offset);
        let want = need.max(CHUNK).min(as_index(left)).max(kept);
        self.buffer.resize(want, 0);
        let rest =
            self.buffer.get_mut(kept..).expect("the buffer was made no shorter than what is kept");
        let got = read_full(
            self.file.file().as_ref(),
            self.file.path(),
            self.offset + kept as u64,
            rest,
        )?;
        self.buffer.truncate(kept + got);
        Ok(self.available() >= need)
    }
}
