//! Reads the database as of one moment, while it goes on changing: pages from the log where it has
//! them, from the database file where it has not.
//!
//! Invariant: it is used under a pin that was there before it was made, so that the frames stay
//! where they are and the file holds nothing newer. Pages of frames that were copied back before
//! are read from the file, as the log may start over then.

use std::collections::HashMap;

use rewound::{BaseSpace, Consistency, PageSize, PageSource, Position};

use super::error::{Error, Result};
use super::files::DatabaseFile;
use super::format::{IndexHeader, Salts};
use super::log::{Log, Place};

/// The database as of one moment.
#[derive(Debug)]
pub(super) struct Live<'a> {
    file: &'a DatabaseFile,
    log: &'a mut Log,
    /// Pages, from 1, with the frame that holds them.
    frames: HashMap<u32, u32>,
    page_size: PageSize,
    pages: u64,
    /// Where the log ends at that moment.
    pub end: Place,
}

impl<'a> Live<'a> {
    /// As of `at`, which was read from the log's index after the pin was taken.
    pub fn new(
        file: &'a DatabaseFile,
        log: &'a mut Log,
        at: IndexHeader,
        page_size: PageSize,
    ) -> Result<Live<'a>> {
        let mut frames = HashMap::new();
        if at.backfilled < at.frames {
            log.begin(at.salts)?;
            let checksum = log.checksum_at(at.backfilled)?;
            let mut place = Place { salts: at.salts, frame: at.backfilled, checksum };
            while place.frame < at.frames {
                let transaction = log.transaction(place, at.frames)?;
                frames.extend(transaction.pages);
                place = transaction.end;
            }
            if place.checksum != at.checksum {
                return Err(Error::Inconsistent {
                    reason: "the log does not end as its index says".into(),
                });
            }
        }
        let pages = match at.pages {
            0 => page_size.pages_in(file.len()?),
            n => u64::from(n),
        };
        let end = Place { salts: at.salts, frame: at.frames, checksum: at.checksum };
        Ok(Live { file, log, frames, page_size, pages, end })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.pages * u64::from(self.page_size.get())
    }

    /// Its length in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Which frame holds each page that was not copied back yet.
    pub fn into_frames(self) -> HashMap<u32, u32> {
        self.frames
    }

    /// Reads whole pages from page `first` on, counted from 0. What lies beyond the end is zero.
    pub fn read(&mut self, first: u64, buf: &mut [u8]) -> Result<()> {
        let size = self.page_size.bytes();
        self.file.read(first * size as u64, buf)?;
        for (number, page) in (first..).zip(buf.chunks_exact_mut(size)) {
            if number >= self.pages {
                page.fill(0);
            } else if let Ok(number) = u32::try_from(number + 1)
                && let Some(frame) = self.frames.get(&number)
            {
                // SQLite has no page of a higher number, and the log none either.
                page.copy_from_slice(self.log.image(*frame, number)?);
            }
        }
        Ok(())
    }
}

/// For the first copy. Frozen: the pin holds the moment for as long as the copy takes.
pub(super) struct Source<'l, 'a> {
    pub live: &'l mut Live<'a>,
    /// Name of the one space that it is the content of.
    pub space: &'l str,
    /// What failed, as the archive's error has no room for it.
    pub failure: Option<Error>,
}

impl PageSource for Source<'_, '_> {
    fn begin(&mut self, _: Position) -> rewound::Result<Consistency> {
        // The one commit before this was made from `live` itself, and there is no other writer.
        Ok(Consistency::Frozen)
    }

    fn read_pages(
        &mut self,
        space: BaseSpace<'_>,
        first: u64,
        buf: &mut [u8],
    ) -> rewound::Result<()> {
        if space.name != self.space {
            return Err(rewound::Error::host(format!(
                "the node holds {:?} beside the database",
                space.name
            )));
        }
        self.live.read(first, buf).map_err(|e| {
            let message = rewound::Error::host(e.clone());
            self.failure = Some(e);
            message
        })
    }
}

/// Whether salts tell a generation from others: an index that was just made, with nothing in the
/// log, has none yet.
pub(super) fn telling(salts: Salts) -> bool {
    salts != Salts::default()
}
