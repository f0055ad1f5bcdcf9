//! Options, each with its default and the reason for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::crypto::Backend;
use crate::env::{Clock, Rng, SystemClock, SystemRng};
use crate::error::{Error, Result};
use crate::format::event::Actor;

/// How an archive is opened or created.
#[derive(Clone, Debug)]
#[must_use]
pub struct ArchiveOptions {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) backend: Backend,
    pub(crate) actor: Actor,
}

impl Default for ArchiveOptions {
    fn default() -> ArchiveOptions {
        ArchiveOptions {
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng),
            backend: Backend::default(),
            actor: Actor::default(),
        }
    }
}

impl ArchiveOptions {
    /// The defaults: the system's clock and generator, the fastest cipher backend built in.
    pub fn new() -> ArchiveOptions {
        ArchiveOptions::default()
    }

    /// Another clock. For tests, and for hosts that have a better one.
    pub fn clock(mut self, clock: impl Clock + 'static) -> ArchiveOptions {
        self.clock = Arc::new(clock);
        self
    }

    /// Another source of randomness. For tests only: keys come from it.
    pub fn rng(mut self, rng: impl Rng + 'static) -> ArchiveOptions {
        self.rng = Arc::new(rng);
        self
    }

    /// Another cipher backend. All of them read and write the same bytes.
    pub fn backend(mut self, backend: Backend) -> ArchiveOptions {
        self.backend = backend;
        self
    }

    /// Who acts, and why: recorded in the catalog with whatever this handle does.
    pub fn actor(mut self, name: impl Into<String>, reason: impl Into<String>) -> ArchiveOptions {
        self.actor = Actor { name: name.into(), reason: reason.into() };
        self
    }
}

/// How a writer works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct WriterOptions {
    /// A segment is sealed when it has grown to this many bytes. At least 4 KiB, default 64 MiB:
    /// large enough that sealing (two syncs) does not show, small enough to be shipped and scrubbed
    /// piece by piece.
    pub segment_bytes: u64,
    /// A segment is sealed when it is this old and holds a commit. Default 10 minutes: a sealed
    /// segment can leave the machine.
    pub segment_age: Duration,
    /// Buffered commits and small synced ones gather up to this many bytes in one frame. 512 B to 4
    /// MiB, default 64 KiB: where AES-GCM runs at full speed. A commit of more than sixteen times
    /// as much (1 MiB by default, and at most) is written in several frames.
    pub frame_bytes: usize,
    /// Commits waiting to be written take at most this much memory; a commit beyond it waits. At
    /// least `frame_bytes` and 64 KiB, default 8 MiB.
    pub pending_bytes: usize,
    /// A batch larger than this goes to an encrypted temporary file until it commits. Default 16
    /// MiB.
    pub batch_bytes: usize,
    /// Page versions that the writer can patch against: it keeps 24 bytes for each. Default
    /// 1,048,576 (about 48 MiB when full). A page beyond them is logged as a full image once.
    pub page_table: usize,
    /// Bytes of page images kept so that a page handed in without its previous image can still be
    /// logged as a patch. Default 32 MiB.
    pub image_cache: usize,
    /// Patches in a row before a full image. Default 256: bounds what one damaged record can cost,
    /// at under 2 % of the log.
    pub chain_bound: u16,
    /// A thread of the writer flushes buffered commits this often, seals old segments and logs
    /// ticks; `None`: no thread, and the host calls [`flush`](crate::Writer::flush) and
    /// [`tick`](crate::Writer::tick). Default 100 ms.
    pub flush_interval: Option<Duration>,
    /// An idle node logs a tick this often, so that the restorable window moves on. Default 10 s.
    pub tick_interval: Duration,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(600),
            frame_bytes: 64 << 10,
            pending_bytes: 8 << 20,
            batch_bytes: 16 << 20,
            page_table: 1 << 20,
            image_cache: 32 << 20,
            chain_bound: 256,
            flush_interval: Some(Duration::from_millis(100)),
            tick_interval: Duration::from_secs(10),
        }
    }
}

impl WriterOptions {
    /// Values outside their range become the nearest one in it.
    pub(crate) fn in_range(mut self) -> WriterOptions {
        self.frame_bytes = self.frame_bytes.clamp(512, 4 << 20);
        self.pending_bytes = self.pending_bytes.max(self.frame_bytes).max(64 << 10);
        self.segment_bytes = self.segment_bytes.max(4 << 10);
        self.chain_bound = self.chain_bound.min(u16::MAX - 1);
        self.flush_interval = self.flush_interval.map(|i| i.max(Duration::from_millis(1)));
        self
    }
}

/// Ends a long operation from outside: from a signal handler, another thread, a progress callback.
/// The operation returns [`Error::Cancelled`] within a stretch of pages or a megabyte of log, and
/// leaves nothing behind but what it says it leaves after any error.
///
/// Clones are the same switch, and there is no way back: an operation that is to be started again
/// gets a new one.
///
/// ```
/// use rewound::options::Cancel;
///
/// let cancel = Cancel::new();
/// let mut options = rewound::ReplayOptions::default();
/// options.cancel = cancel.clone();
/// // node.restore(target).options(options).into_dir(…) in one thread, and in another:
/// cancel.cancel();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Ends the operations that were given this switch or a clone of it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] where it was.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl From<Arc<AtomicBool>> for Cancel {
    /// A flag that is there already, such as one that a signal handler sets.
    fn from(flag: Arc<AtomicBool>) -> Cancel {
        Cancel(flag)
    }
}

impl PartialEq for Cancel {
    /// Whether both are the same switch.
    fn eq(&self, other: &Cancel) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Cancel {}

/// How layers and snapshots are built and states restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct ReplayOptions {
    /// Threads that rebuild pages. 1 to 1,024, default: one per core.
    pub threads: usize,
    /// Memory for the log part of a replay, in bytes. Beyond it, sorted runs go to encrypted
    /// temporary files. In addition, up to `threads` + 4 batches of 256 KiB of log are on their way
    /// between threads. Default 96 MiB.
    pub log_memory: usize,
    /// Bytes of pages that a thread rebuilds at a time. One page to 1 GiB, default 1 MiB: fits a
    /// core's second-level cache, so that pages are still there when they are compared with their
    /// CRC-32 and written.
    pub unit_bytes: usize,
    /// Where temporary files go. Default: the system's directory for them.
    pub temporary_dir: std::path::PathBuf,
    /// Ends the operation early. Default: a switch that nobody else has.
    pub cancel: Cancel,
}

impl ReplayOptions {
    /// Values outside their range become the nearest one in it.
    pub(crate) fn in_range(mut self) -> ReplayOptions {
        self.threads = self.threads.clamp(1, 1_024);
        self.unit_bytes = self.unit_bytes.min(1 << 30);
        self
    }
}

impl Default for ReplayOptions {
    fn default() -> ReplayOptions {
        ReplayOptions {
            threads: crate::sync::parallelism(),
            log_memory: 96 << 20,
            unit_bytes: 1 << 20,
            temporary_dir: std::env::temp_dir(),
            cancel: Cancel::new(),
        }
    }
}

/// When layers and snapshots are built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct CompactOptions {
    /// A layer of the lowest level is built for each so many bytes of log. Default 32 MiB: what a
    /// restore reads of the raw log at most.
    pub layer_log_bytes: u64,
    /// So many layers of a level make one of the next. Default 8.
    pub fan_out: u32,
    /// A snapshot is built when the layers since the last one hold more than this share of its
    /// bytes, in percent. Default 33: however old the last snapshot is, a restore takes at most a
    /// quarter longer than right after it; at 100 it was up to a half (`docs/performance.md`). The
    /// smaller, the more snapshots, each of them about as large as the state, compressed.
    pub snapshot_percent: u64,
    /// A part of a layer holds at most this many bytes of pages. Default 256 MiB.
    pub part_bytes: u64,
    /// How pages are rebuilt.
    pub replay: ReplayOptions,
}

impl Default for CompactOptions {
    fn default() -> CompactOptions {
        CompactOptions {
            layer_log_bytes: 32 << 20,
            fan_out: 8,
            snapshot_percent: 33,
            part_bytes: 256 << 20,
            replay: ReplayOptions::default(),
        }
    }
}
