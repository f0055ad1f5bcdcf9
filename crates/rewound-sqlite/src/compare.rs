//! The first copy of a database, and the comparison with its archive where continuity is not
//! proven.
//!
//! Both read the live database as of one moment, under the pin, while the application goes on. A
//! crash leaves either nothing or a whole commit; a first copy whose commit is there and whose base
//! is not is made again.

use parking_lot::Mutex;
use rewound::{
    Batch, Commit, CompactOptions, Durability, Lsn, Node, PageId, PageSink, PageSize,
    ReplayOptions, SpaceId, Target,
};

use super::archivist::{Archivist, Progress};
use super::error::{Error, Result};
use super::format::first_of;
use super::identity::{Identity, Record};
use super::link::Link;
use super::live::{Live, Source};

/// Pages are compared in stretches of about so many bytes where the archive has none.
const STRETCH: usize = 1 << 20;

/// The database as it goes into the archive.
pub(super) struct Subject<'a> {
    pub node: &'a Node,
    pub database: &'a Identity,
    /// What the commit is to put on record of which database it is.
    pub record: Option<Record>,
    /// How pages are read and rebuilt.
    pub replay: &'a ReplayOptions,
}

/// Copies the database for the first time; gives the commit from which on it can be restored.
pub(super) fn copy(
    link: &mut Link,
    archivist: &mut Archivist,
    subject: &Subject<'_>,
    options: &CompactOptions,
) -> Result<Lsn> {
    let page_size = link.page_size;
    let mut live = link.live()?;
    let mut batch = archivist.writer.batch();
    // A first copy that was cut short has left a space, perhaps with other pages.
    if let Some(old) = archivist.space {
        batch.drop_space(old)?;
    }
    let space = batch.create_space(&archivist.name, page_size)?;
    batch.set_length(space, live.len())?;
    batch.annotate("sqlite", &format!("first copy of {}", subject.database.path().display()))?;
    if let Some(record) = &subject.record {
        record.note(&mut batch)?;
    }
    let mark = archivist.mark(&mut batch, live.end)?;
    let commit = batch.commit(Durability::Synced)?;
    archivist.space = Some(space);
    let mut source = Source { live: &mut live, space: &archivist.name, failure: None };
    if let Err(e) = archivist.writer.base_snapshot(&mut source, options) {
        return Err(source.failure.unwrap_or(Error::Archive(e)));
    }
    let progress = progress(live)?;
    link.begin(mark, progress);
    Ok(commit.lsn)
}

/// Compares the database with the archive's newest state and logs all differences as one commit;
/// gives it and how many pages differed.
pub(super) fn resync(
    link: &mut Link,
    archivist: &mut Archivist,
    subject: &Subject<'_>,
    reason: &str,
) -> Result<(Commit, u64)> {
    let page_size = link.page_size;
    let live = link.live()?;
    let writer = &archivist.writer;
    let begin = || -> Result<Batch> {
        let mut batch = writer.batch();
        batch.annotate("resync", reason)?;
        if let Some(record) = &subject.record {
            record.note(&mut batch)?;
        }
        Ok(batch)
    };
    let (end, length) = (live.end, live.len());
    let mut compare = Compare {
        live,
        batch: begin()?,
        space: SpaceId::default(),
        archived: 0,
        differing: 0,
        failure: None,
    };
    match archivist.space {
        Some(space) if writer.page_size(space) == Some(page_size) => {
            compare.space = space;
            compare.archived =
                writer.space_length(space).expect("a space with pages of a size has a length");
            let sink = Mutex::new(compare);
            // Where a layer is damaged all of it is compared once more, with what the archive has
            // beside that layer: into a batch of its own, as pages have their differences already.
            let open = || -> Result<()> {
                let mut compare = sink.lock();
                (compare.batch, compare.differing) = (begin()?, 0);
                if compare.archived != length {
                    compare.batch.set_length(space, length)?;
                }
                Ok(())
            };
            // Compared with what the live database says itself: nobody reads the past here.
            let restored =
                subject.node.restore(Target::Latest).unaudited().options(subject.replay.clone());
            let restored = restored.into_sink(|_| {
                open().map_err(|e| sink.lock().failed(e))?;
                Ok(Sink { compare: &sink, page_size })
            });
            compare = sink.into_inner();
            if let Err(e) = restored {
                return Err(compare.failure.unwrap_or(Error::Archive(e)));
            }
        }
        old => {
            // Pages of another size: nothing can be compared.
            if let Some(old) = old {
                compare.batch.drop_space(old)?;
            }
            compare.space = compare.batch.create_space(&archivist.name, page_size)?;
            compare.batch.set_length(compare.space, length)?;
        }
    }
    // What the database has beyond what the archive has.
    compare.zeros(page_size, compare.archived, length)?;
    let Compare { live, mut batch, space, differing, .. } = compare;
    let mark = archivist.mark(&mut batch, end)?;
    let commit = batch.commit(Durability::Synced)?;
    archivist.space = Some(space);
    let progress = progress(live)?;
    link.begin(mark, progress);
    Ok((commit, differing))
}

fn progress(live: Live<'_>) -> Result<Progress> {
    let place = live.end;
    let length = u32::try_from(live.pages()).map_err(|_| too_long(live.pages()))?;
    Ok(Progress { place, length, frames: live.into_frames(), file_is_newer: false })
}

fn too_long(pages: u64) -> Error {
    Error::Archive(rewound::Error::limit_exceeded(
        "pages of a database",
        u64::from(u32::MAX),
        pages,
    ))
}

/// A comparison under way.
struct Compare<'a> {
    live: Live<'a>,
    batch: Batch,
    space: SpaceId,
    /// Length of what the archive has, in bytes.
    archived: u64,
    differing: u64,
    failure: Option<Error>,
}

impl Compare<'_> {
    /// Compares a stretch of whole pages with the database.
    fn stretch(&mut self, page_size: PageSize, offset: u64, archived: &[u8]) -> Result<()> {
        let mut now = vec![0; archived.len()];
        let first = offset / u64::from(page_size.get());
        self.live.read(first, &mut now)?;
        let pages =
            now.chunks_exact(page_size.bytes()).zip(archived.chunks_exact(page_size.bytes()));
        for (number, (now, before)) in (first..self.live.pages()).zip(pages) {
            if now != before {
                self.batch.write_page(PageId::new(self.space, number), now, Some(before))?;
                self.differing += 1;
            }
        }
        Ok(())
    }

    /// Keeps a failure, and returns what the archive is told of it.
    fn failed(&mut self, e: Error) -> rewound::Error {
        let message = rewound::Error::host(e.clone());
        self.failure = Some(e);
        message
    }

    /// Compares pages that the archive has as zeros, or does not have, with the database.
    fn zeros(&mut self, page_size: PageSize, mut at: u64, end: u64) -> Result<()> {
        let size = page_size.bytes();
        let zeros = vec![0; size * (STRETCH / size).max(1)];
        while at < end {
            let zero = first_of(&zeros, end - at);
            self.stretch(page_size, at, zero)?;
            at += zero.len() as u64;
        }
        Ok(())
    }
}

/// Takes the archive's newest state, stretch by stretch.
struct Sink<'s, 'a> {
    compare: &'s Mutex<Compare<'a>>,
    page_size: PageSize,
}

impl Sink<'_, '_> {
    /// Compares, if it is the space that is compared.
    fn with(
        &self,
        space: SpaceId,
        what: impl FnOnce(&mut Compare<'_>) -> Result<()>,
    ) -> rewound::Result<()> {
        let mut compare = self.compare.lock();
        if space != compare.space {
            return Ok(());
        }
        what(&mut compare).map_err(|e| compare.failed(e))
    }
}

impl PageSink for Sink<'_, '_> {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> rewound::Result<()> {
        self.with(space, |compare| compare.stretch(self.page_size, offset, bytes))
    }

    fn zero(&self, space: SpaceId, offset: u64, length: u64) -> rewound::Result<()> {
        self.with(space, |compare| compare.zeros(self.page_size, offset, offset + length))
    }

    fn finish(self) -> rewound::Result<()> {
        Ok(())
    }
}
