//! How a database is watched, each option with its default and the reason for it.

use rewound::{CompactOptions, WriterOptions};
use std::time::Duration;

/// How a database is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct WatchOptions {
    /// Name of the database in the archive, and so of the file that a restore makes. Default: what
    /// it is there already; at first the name of its file, as far as the rules for names allow.
    pub space: Option<String>,
    /// Whether a node goes on with another database than the one that it belongs to, which is
    /// compared with it then. Default: no, as most of the time that is a mistake: two databases of
    /// one file name. Neither a file that was moved is another database, nor one that took its
    /// place under its name.
    pub adopt: bool,
    /// Whether a database that is not in WAL mode is switched to it. Default: no, as that changes
    /// how the application's transactions behave.
    pub enable_wal: bool,
    /// Transactions gather for so long before they are archived with one sync. Default 5 ms: below
    /// what anybody would notice, and a fraction of the disk's syncs under load. A single
    /// transaction after a pause is archived at once.
    pub round_interval: Duration,
    /// How often an idle watcher looks without having been woken. Default 250 ms: the kernel's file
    /// notifications wake it within microseconds; this finds what they do not tell, such as a
    /// replaced database.
    pub poll_interval: Duration,
    /// Whether the kernel's file notifications (inotify) are used. Default: yes. Without them the
    /// watcher polls every `round_interval`.
    pub notify: bool,
    /// When the database's log has grown to so many bytes it is checkpointed at the next pause
    /// between transactions, so that it starts over. Default 3 MiB: just before the application
    /// would do so itself, at 1,000 pages of 4 KiB by SQLite's default.
    pub wal_bytes: u64,
    /// When the log has grown to so many bytes without a pause it is copied back while transactions
    /// go on, and the database's write lock is held for the end of that (some ten milliseconds), so
    /// that the log starts over. It has grown to some times as much by then where an application
    /// writes as fast as the disk can sync. Default 32 MiB: such an application is no slower then
    /// than without a watcher, when it copies everything back itself; the larger, the faster, as
    /// there are fewer such ends. An application that writes without any pause needs a
    /// `busy_timeout`, as with any second connection.
    pub wal_bytes_max: u64,
    /// How long the watcher waits for a lock of the database before it tries again later. Default 1
    /// s.
    pub busy_timeout: Duration,
    /// After a failure of the archive, such as a full disk, the watcher tries again after 100 ms,
    /// then after twice as long, up to this. Default 5 s. The database's log is kept meanwhile, and
    /// nothing is lost.
    pub retry_max: Duration,
    /// How the archive's writer works. Default: its defaults, but no cache of images, as the
    /// watcher knows them, and its own thread flushes every second only, as the watcher flushes
    /// each round.
    pub writer: WriterOptions,
    /// How the first copy of the database is built, and how its pages are compared with the
    /// archive's; its `replay.cancel` ends either early.
    pub base: CompactOptions,
    /// For tests: each look at the log's index takes so much longer, as on a machine that is short
    /// of processors.
    #[doc(hidden)]
    pub index_delay: Duration,
}

impl Default for WatchOptions {
    fn default() -> WatchOptions {
        // No cache: the watcher gives the image that a page had before, or there is none.
        let mut writer = WriterOptions::default();
        writer.flush_interval = Some(Duration::from_secs(1));
        writer.image_cache = 0;
        WatchOptions {
            space: None,
            adopt: false,
            enable_wal: false,
            round_interval: Duration::from_millis(5),
            poll_interval: Duration::from_millis(250),
            notify: true,
            wal_bytes: 3 << 20,
            wal_bytes_max: 32 << 20,
            busy_timeout: Duration::from_secs(1),
            retry_max: Duration::from_secs(5),
            writer,
            base: CompactOptions::default(),
            index_delay: Duration::ZERO,
        }
    }
}
