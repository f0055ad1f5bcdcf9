//! The first copy of an engine's pages, taken while commits go on.
//!
//! A fuzzy copy may catch any page in any state since it began. So before it begins no batch may
//! hold a patch against an older version: from its start on the first version of each page is
//! logged as a full image, and replay from the start corrects whatever the copy caught.

use std::sync::Arc;
use std::time::Duration;

use super::commit::{Rules, Shared};
use crate::compact::copy_parts;
use crate::env;
use crate::error::{Error, Result};
use crate::format::event::Event;
use crate::layer::LayerWriter;
use crate::options::CompactOptions;
use crate::sync::{self, Instant};
use crate::types::{PageSize, Position, SpaceId};

/// How long open batches may keep a base copy from beginning.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether pages change while a base copy reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// They are exactly what they were at the position given to [`PageSource::begin`]: the source
    /// reads from a snapshot of its own.
    Frozen,
    /// They may change meanwhile.
    Fuzzy,
}

/// Where a base copy reads an engine's pages.
///
/// A copy that is taken while commits go on is corrected by replaying the log from where it began,
/// which needs two promises of the engine: what was committed up to the beginning can be read, and
/// what could be read is committed by the end.
pub trait PageSource {
    /// Called once before the first read. When it returns [`Consistency::Fuzzy`], every commit up
    /// to `position` must be visible to `read_pages`: an engine that applies changes to its pages
    /// after `commit` returns waits here until it has done so.
    ///
    /// It may return [`Consistency::Frozen`] only if it reads from a snapshot that holds exactly
    /// the commits up to `position`: take the engine's own write lock, compare the last commit's
    /// LSN with `position`, take the snapshot, release the lock.
    fn begin(&mut self, position: Position) -> Result<Consistency>;

    /// Reads whole pages of a space, from page `first` on, into `buf`. What lies beyond the end of
    /// the engine's file stays as it is (zero).
    fn read_pages(&mut self, space: BaseSpace<'_>, first: u64, buf: &mut [u8]) -> Result<()>;

    /// Called once after the last read. When it returns, everything that `read_pages` may have
    /// shown has to be committed: an engine that changes its pages before it commits waits here for
    /// the commits that are under way. One that logs first has nothing to do.
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A space to copy.
#[derive(Clone, Copy, Debug)]
pub struct BaseSpace<'a> {
    /// Its number.
    pub id: SpaceId,
    /// Its name.
    pub name: &'a str,
    /// The size of its pages.
    pub page_size: PageSize,
}

/// Allows patches again when the copy ends, however it ends.
struct Restore<'a>(&'a Shared);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        drop(self.0.change_rules(true));
    }
}

/// Copies all pages; gives the position from which on the archive can be restored.
pub(super) fn copy(
    shared: &Arc<Shared>,
    source: &mut dyn PageSource,
    options: &CompactOptions,
) -> Result<Position> {
    shared.place.check_process()?;
    let _one = shared.base_copy.try_lock().ok_or_else(|| Error::SnapshotBlocked {
        reason: "another one of this node is under way: wait for its end",
    })?;
    // The log from here on, and the parts until the catalog names them, stay while the copy goes
    // on.
    shared.tenure.check()?;
    let _lease = shared.tenure.lease()?;
    // Batches that begin now log full images only; the older ones, which may hold patches, are
    // waited for.
    let guard = Restore(shared);
    wait_for(&shared.change_rules(false))?;
    // From this position on no version from before it is patched.
    let state = shared.with_state(|state| {
        shared.known.table.clear();
        drop(guard);
        state.clone()
    });
    shared.flush()?;
    let consistency = source.begin(state.position)?;
    let layer = LayerWriter {
        storage: shared.place.storage.as_ref(),
        keys: &shared.place.keys,
        scope: shared.place.scope,
        node: shared.tenure.node,
        timeline: shared.tenure.timeline,
        from: None,
        to: state.position,
        created: env::now(shared.clock.as_ref())?,
    };
    let mut parts = Vec::new();
    for (id, space) in &state.spaces {
        let base = BaseSpace { id: *id, name: &space.name, page_size: space.page_size };
        let mut read = |first, buf: &mut [u8]| {
            options.replay.cancel.check()?;
            source.read_pages(base, first, buf)
        };
        parts.extend(copy_parts(&layer, *id, space, options, &mut read)?);
    }
    source.end()?;
    let consistent_from = match consistency {
        Consistency::Frozen => state.position,
        Consistency::Fuzzy => shared.flush()?,
    };
    let record =
        layer.finish(state, consistent_from, 0, std::collections::BTreeMap::new(), parts)?;
    crate::compact::read_back(layer.storage, layer.keys, &record)?;
    shared.tenure.append(|state| {
        // Only where the copy took longer than the whole window.
        if !state
            .node(shared.tenure.node)?
            .retention
            .keeps_log_from(shared.tenure.timeline, record.to)
        {
            let reason = "the log that it needs has expired meanwhile: take another one";
            return Err(Error::SnapshotBlocked { reason });
        }
        Ok(Event::LayerPublished(record.clone()))
    })?;
    Ok(consistent_from)
}

/// Waits until no batch works under these rules any more.
fn wait_for(rules: &Arc<Rules>) -> Result<()> {
    let begun = Instant::now();
    while Arc::strong_count(rules) > 1 {
        if begun.elapsed() > PATIENCE {
            let reason = "a batch that was begun before it has been open for 30 seconds: commit or drop it first";
            return Err(Error::SnapshotBlocked { reason });
        }
        sync::sleep(Duration::from_millis(1));
    }
    Ok(())
}
