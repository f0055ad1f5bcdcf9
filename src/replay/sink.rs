//! Where restored pages go, and what is said about it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::state::{ConfigValue, EXCLUSION, SpaceState};
use crate::sync::Mutex;
use crate::types::{Lsn, SpaceId, Timestamp, as_index};

/// Takes restored pages: a directory, a running engine, anything. Made by the opener that
/// [`Restore::into_sink`](crate::Restore::into_sink) is given.
///
/// Called from several threads at a time. Every byte of every space is given exactly once, by
/// `write` or by `zero`, in no particular order. A sink that is dropped without `finish` was not
/// given all.
pub trait PageSink: Sync {
    /// Bytes of a space at an offset: whole pages, but for the end of the space.
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()>;

    /// A stretch of a space that is zero. A new file needs nothing done here.
    fn zero(&self, space: SpaceId, offset: u64, length: u64) -> Result<()> {
        let _ = (space, offset, length);
        Ok(())
    }

    /// Called once, after everything was given without an error: the place to sync.
    fn finish(self) -> Result<()>
    where
        Self: Sized;
}

/// How far a restore has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of pages given to the sink.
    pub bytes_done: u64,
    /// Bytes of pages there are; zero stretches that no page was ever written to are not counted.
    pub bytes_total: u64,
}

/// What a restore did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The node.
    pub node: String,
    /// The commit reached: exactly the one that the target names.
    pub lsn: Lsn,
    /// Its time.
    pub timestamp: Timestamp,
    /// Time of the next commit, which is not contained; `None` where there was none.
    pub next: Option<Timestamp>,
    /// The spaces restored.
    pub spaces: BTreeMap<SpaceId, SpaceState>,
    /// Spaces that are excluded from restores
    /// ([`Batch::exclude_space`](crate::Batch::exclude_space)), which were left out.
    pub excluded: Vec<String>,
    /// Configuration restored with the node.
    pub config: BTreeMap<String, Vec<u8>>,
    /// Configuration that belongs to the environment of then, for the operator to look at: not to
    /// be applied as it is.
    pub environment: BTreeMap<String, Vec<u8>>,
    /// The newest host mark at or before the commit.
    pub mark: Option<Vec<u8>>,
    /// Bytes read from the archive.
    pub bytes_read: u64,
    /// Bytes given to the sink; in a delta restore, bytes really written.
    pub bytes_written: u64,
    /// Commits replayed from the log.
    pub commits_replayed: u64,
    /// Layers used, the snapshot included.
    pub layers: usize,
    /// Damage met in layers, which the restore did without: the state is exact all the same, the
    /// archive needs a look.
    pub damaged: Vec<String>,
    /// Pages proven equal, by CRC-32, to what the engine handed in.
    pub pages_proven: u64,
    /// Pages last changed by a byte range or by cutting the space, which have no CRC-32 of their
    /// own; their bytes are authenticated all the same.
    pub pages_unproven: u64,
    /// Logical records given to the `Redo`.
    pub records_replayed: u64,
    /// How long it took, syncing included.
    pub elapsed: Duration,
}

impl RestoreReport {
    pub(crate) fn split_config(
        config: &BTreeMap<String, ConfigValue>,
    ) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) {
        // What is ours is told otherwise.
        let own = config.iter().filter(|(key, _)| !key.starts_with(EXCLUSION));
        let (environment, data): (Vec<_>, Vec<_>) = own
            .map(|(k, v)| (v.environment_bound, (k.clone(), v.value.clone())))
            .partition(|(e, _)| *e);
        let strip =
            |list: Vec<(bool, (String, Vec<u8>))>| list.into_iter().map(|(_, pair)| pair).collect();
        (strip(data), strip(environment))
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} as of LSN {} ({}): {} spaces, {} bytes written, {} read, {} pages proven, in {:.1} ms",
            self.node,
            self.lsn,
            self.timestamp,
            self.spaces.len(),
            self.bytes_written,
            self.bytes_read,
            self.pages_proven,
            self.elapsed.as_secs_f64() * 1e3
        )
    }
}

/// A restored state in memory.
#[derive(Debug)]
pub(crate) struct Memory(BTreeMap<SpaceId, (String, Mutex<Vec<u8>>)>);

impl Memory {
    /// All spaces, zero.
    pub fn new(spaces: &BTreeMap<SpaceId, SpaceState>) -> Result<Memory> {
        let mut all = BTreeMap::new();
        for (id, space) in spaces {
            let too_long = || Error::LimitExceeded {
                what: "length of a space in memory",
                limit: isize::MAX as u64,
                found: space.length,
            };
            let len = usize::try_from(space.length).map_err(|_| too_long())?;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| too_long())?;
            bytes.resize(len, 0);
            all.insert(*id, (space.name.clone(), Mutex::new(bytes)));
        }
        Ok(Memory(all))
    }

    /// The spaces by name, with their bytes.
    pub fn into_spaces(self) -> BTreeMap<String, Vec<u8>> {
        self.0.into_values().map(|(name, bytes)| (name, bytes.into_inner())).collect()
    }
}

impl PageSink for Memory {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        let (_, all) =
            self.0.get(&space).ok_or_else(|| Error::host("a space that was not announced"))?;
        let start = as_index(offset);
        let mut all = all.lock();
        let range = all.get_mut(start..start.saturating_add(bytes.len()));
        range.ok_or_else(|| Error::host("bytes beyond the end of a space"))?.copy_from_slice(bytes);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}
