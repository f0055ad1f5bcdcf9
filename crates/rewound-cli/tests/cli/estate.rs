//! Archives to type commands at: a SQLite database archived transaction by transaction, and
//! histories with a clock of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rewound::env::Clock;
use rewound::storage::FsStorage;
use rewound::{
    Archive, ArchiveOptions, Commit, Durability, KeyFile, Node, Origin, PageId, PageSize, SpaceId,
    Timestamp, Writer, WriterOptions,
};
use tempfile::TempDir;

/// 2026-10-16 21:33:20 UTC.
pub const START: u64 = 1_792_186_400_000_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// A clock that a test moves.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub fn starting(nanos: u64) -> TestClock {
        TestClock(Arc::new(AtomicU64::new(nanos)))
    }

    pub fn advance(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// A directory with an archive, its key, and the way to type commands at it.
pub struct Estate {
    pub dir: TempDir,
    pub clock: TestClock,
    pub archive: Archive,
}

impl Estate {
    pub fn new() -> Estate {
        Estate::starting(START)
    }

    /// Whose clock starts so long before now: where the command line goes by the real one.
    pub fn days_ago(days: u64) -> Estate {
        let now = Timestamp::from(std::time::SystemTime::now()).as_nanos();
        Estate::starting(now - days * 86_400 * SECOND)
    }

    fn starting(nanos: u64) -> Estate {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::starting(nanos);
        let key = KeyFile::generate(dir.path().join("app.key")).unwrap();
        let storage = Arc::new(FsStorage::new(dir.path().join("archive")));
        let options = ArchiveOptions::new().clock(clock.clone());
        let archive = Archive::create_in(storage, key, options).unwrap();
        Estate { dir, clock, archive }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command line, with archive and key in its environment, UTC as local zone.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = bare(args);
        command.current_dir(self.dir.path());
        command
            .env("REWOUND_ARCHIVE", self.path("archive"))
            .env("REWOUND_KEY_FILE", self.path("app.key"));
        command
    }

    /// The same, begun by a shell script that ends in `exec "$0" "$@"`.
    pub fn in_shell(&self, script: &str, args: &[&str]) -> Command {
        let program = self.command(args);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(program.get_program()).args(program.get_args());
        command.env_clear().current_dir(self.dir.path()).stdin(Stdio::null());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args))
    }

    /// Standard output of a command that has to succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, 0, "{args:?}: {} {}", run.out, run.err);
        run.out
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    pub fn writer(&self, name: &str) -> (Node, Writer) {
        let node = self
            .archive
            .node(name)
            .or_else(|_| self.archive.create_node(name, Origin::Empty))
            .unwrap();
        let mut options = WriterOptions::default();
        options.flush_interval = None;
        let writer = node.open_writer_with(options).unwrap();
        (node, writer)
    }
}

/// The command line with nothing in its environment.
pub fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewound"));
    command.env_clear().env("TZ", "UTC").env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(args).stdin(Stdio::null());
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(mut command: Command) -> Run {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }
}

/// A SQLite database whose every transaction is archived as a commit, by comparing its pages.
pub struct Shop {
    connection: rusqlite::Connection,
    path: PathBuf,
    writer: Writer,
    pages: Vec<Vec<u8>>,
    space: Option<SpaceId>,
}

impl Shop {
    pub fn open(estate: &Estate, name: &str) -> Shop {
        let path = estate.path(name);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let (_, writer) = estate.writer(name);
        Shop { connection, path, writer, pages: Vec::new(), space: None }
    }

    /// Runs a transaction and archives it.
    pub fn transact(&mut self, sql: &str, point: Option<&str>, clock: &TestClock) -> Commit {
        clock.advance(SECOND);
        self.connection.execute_batch(sql).unwrap();
        let bytes = std::fs::read(&self.path).unwrap();
        let mut batch = self.writer.batch();
        let space = match self.space {
            Some(space) => space,
            None => batch
                .create_space(self.path.file_name().unwrap().to_str().unwrap(), PageSize::KIB_4)
                .unwrap(),
        };
        self.space = Some(space);
        for (i, page) in bytes.chunks(4096).enumerate() {
            if self.pages.get(i).is_none_or(|old| old != page) {
                batch
                    .write_page(
                        PageId::new(space, i as u64),
                        page,
                        self.pages.get(i).map(Vec::as_slice),
                    )
                    .unwrap();
            }
        }
        self.pages = bytes.chunks(4096).map(<[u8]>::to_vec).collect();
        batch.set_length(space, bytes.len() as u64).unwrap();
        if let Some(name) = point {
            batch.restore_point(name).unwrap();
        }
        batch.commit(Durability::Synced).unwrap()
    }

    /// Forty orders, the restore point `half` at the twentieth, and an accident in commit 31.
    pub fn stock(estate: &Estate) -> Vec<Commit> {
        let mut shop = Shop::open(estate, "app.db");
        let mut commits = vec![shop.transact(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, sum INT)",
            None,
            &estate.clock,
        )];
        for n in 2..=40 {
            let sql = match n {
                31 => "DELETE FROM orders WHERE id < 10".to_owned(),
                n => format!("INSERT INTO orders VALUES ({n}, {})", n * 7),
            };
            commits.push(shop.transact(&sql, (n == 20).then_some("half"), &estate.clock));
        }
        shop.writer.close().unwrap();
        commits
    }
}

/// The rows of a restored database.
pub fn orders(path: &Path) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
}

/// A history without meaning: so many commits, so far apart.
pub fn commits(
    estate: &Estate,
    writer: &Writer,
    count: u64,
    apart: u64,
    mut each: impl FnMut(u64, &mut rewound::Batch),
) {
    for n in 0..count {
        estate.clock.advance(apart);
        let mut batch = writer.batch();
        let space = match writer.space("main") {
            Some(space) => space,
            None => batch.create_space("main", PageSize::MIN).unwrap(),
        };
        batch.write_page(PageId::new(space, n % 50), &[n.to_le_bytes()[0]; 512], None).unwrap();
        each(n, &mut batch);
        batch.commit(Durability::Buffered).unwrap();
    }
    writer.flush().unwrap();
}
