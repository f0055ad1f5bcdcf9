//! Other processes: the test binary again, told by its environment what to be. They end when the
//! test does, as their input then ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rewound::storage::MemStorage;
use rewound::{Archive, ArchiveOptions, Origin};
use rewound_sqlite::{WatchOptions, Watcher};

use super::support::{Random, connect, key, open_node};
use super::workload::{Shape, transaction};

/// Another process.
pub struct Process(pub Child);

impl Process {
    /// Writes transactions until it is ended; `pause` microseconds between them.
    pub fn writer(db: &Path, who: u64, seed: u64, shape: &Shape, pause: u64) -> Process {
        let Shape { blob, changes, rollback, checkpoint, cache } = shape;
        start(
            &format!(
                "writer {who} {seed} {pause} {blob} {changes} {rollback} {checkpoint} {cache}"
            ),
            db,
            Path::new(""),
        )
    }

    /// Reads once, and stays connected until it is ended.
    pub fn reader(db: &Path) -> Process {
        let mut reader = start("reader", db, Path::new(""));
        reader.until(&["ready"]);
        reader
    }

    /// With a bound of its own for the database's log.
    pub fn watcher(db: &Path, archive: &Path, wal_bytes_max: u64) -> Process {
        start(&format!("watcher {wal_bytes_max}"), db, archive)
    }

    /// Runs to its end, and gives the last word that it said.
    pub fn run(db: &Path, role: &str) -> String {
        Process::last_word(&mut command(&std::env::current_exe().unwrap(), role, db, Path::new("")))
    }

    /// The same as a user that has no rights of its own. The tests' program is copied beside the
    /// database, as that user may not get at where it is.
    pub fn run_as_nobody(db: &Path, role: &str) -> String {
        let program = db.with_file_name("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = command(&program, role, db, Path::new(""));
        command.current_dir("/");
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.uid(65_534).gid(65_534);
        }
        Process::last_word(&mut command)
    }

    /// The same where the numbers of all other processes are unknown; `None` where that is not to
    /// be had.
    pub fn run_in_a_container(db: &Path, role: &str) -> Option<String> {
        let unshare = |program: &Path| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--map-root-user", "--pid", "--fork"]).arg(program);
            unshare
        };
        unshare(Path::new("true")).status().ok().filter(std::process::ExitStatus::success)?;
        let program = std::env::current_exe().unwrap();
        let mut outer = unshare(&program);
        let inner = command(&program, role, db, Path::new(""));
        outer
            .args(inner.get_args())
            .envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        Some(Process::last_word(&mut outer))
    }

    fn last_word(command: &mut Command) -> String {
        let out = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert!(out.status.success());
        let said = String::from_utf8(out.stdout).unwrap();
        let word = said.lines().rev().find_map(|l| l.strip_prefix("says "));
        word.unwrap_or_default().to_owned()
    }

    /// As a signal handler would: asks it to stop, and waits.
    pub fn stop(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// STOP or CONT.
    pub fn signal(&self, name: &str) {
        let done =
            Command::new("kill").args([format!("-{name}"), self.0.id().to_string()]).status();
        assert!(done.unwrap().success());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits for a line with one of these. From then on nobody reads what it says.
    pub fn until(&mut self, what: &[&str]) {
        let mut lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let found = lines.find(|l| l.as_ref().is_ok_and(|l| what.iter().any(|w| l.contains(w))));
        assert!(found.is_some(), "the process ended without saying {what:?}");
        std::thread::spawn(move || lines.for_each(drop));
    }
}

fn command(program: &Path, role: &str, db: &Path, archive: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "process::other_process", "--nocapture"]);
    command.env("REWOUND_ROLE", role).env("REWOUND_DB", db).env("REWOUND_ARCHIVE", archive);
    command
}

fn start(role: &str, db: &Path, archive: &Path) -> Process {
    let program = std::env::current_exe().unwrap();
    Process(
        command(&program, role, db, archive)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

/// Not a test: what another process runs.
#[test]
fn other_process() {
    let Ok(role) = std::env::var("REWOUND_ROLE") else { return };
    let db = std::env::var_os("REWOUND_DB").unwrap();
    let words: Vec<&str> = role.split(' ').collect();
    match words[0] {
        "writer" => {
            let number =
                |w: &&str| w.parse::<u64>().map_or_else(|_| w.parse().unwrap(), u64::cast_signed);
            writer(Path::new(&db), &words[1..].iter().map(number).collect::<Vec<i64>>());
        }
        "lock" => lock(Path::new(&db)),
        "attach" => attach(Path::new(&db)),
        "reader" => reader(Path::new(&db)),
        "steps" => steps(Path::new(&db), words[1].parse().unwrap(), &words[2..]),
        "watcher" => watcher(Path::new(&db), words[1].parse().unwrap()),
        other => panic!("{other}"),
    }
}

fn writer(path: &Path, numbers: &[i64]) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let [who, seed, pause, blob, changes, rollback, checkpoint, cache] = numbers else {
        panic!("{numbers:?}")
    };
    let shape = Shape {
        blob: blob.cast_unsigned(),
        changes: changes.cast_unsigned(),
        rollback: rollback.cast_unsigned(),
        checkpoint: checkpoint.cast_unsigned(),
        cache: *cache,
    };
    let mut random = Random(seed.cast_unsigned());
    let db = connect(path);
    println!("\nready");
    loop {
        if let Err(e) = transaction(&db, who.cast_unsigned(), &mut random, &shape) {
            eprintln!("writer {who}: {e}");
        }
        if *pause > 0 {
            std::thread::sleep(Duration::from_micros(random.below(2 * pause.cast_unsigned())));
        }
    }
}

/// Whether the write lock is to be had.
fn lock(path: &Path) {
    let db = connect(path);
    db.busy_timeout(Duration::from_millis(100)).unwrap();
    println!(
        "\nsays {}",
        if db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() { "free" } else { "busy" }
    );
}

/// Has the database open, and is idle.
fn reader(path: &Path) {
    let db = rusqlite::Connection::open(path).unwrap();
    db.query_row("PRAGMA user_version", [], |_| Ok(())).unwrap();
    println!("\nready");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Whether a watcher may attach.
fn attach(path: &Path) {
    let archive =
        Archive::create_in(Arc::new(MemStorage::without_recording()), key(), ArchiveOptions::new())
            .unwrap();
    let node = archive.create_node("app", Origin::Existing).unwrap();
    match Watcher::open(&node, path, WatchOptions::default()) {
        Ok(watcher) => {
            let failure = watcher.handle().status().failure;
            println!("\nsays {}", failure.as_deref().unwrap_or("attached"));
        }
        Err(e) => println!("\nsays {e}"),
    }
}

/// Transactions and checkpoints, each on a connection that stays open to the end.
fn steps(path: &Path, seed: u64, steps: &[&str]) {
    let (db, mut random) = (connect(path), Random(seed));
    for step in steps {
        match *step {
            "tx" => {
                _ = transaction(&db, 9, &mut random, &Shape { rollback: 0, ..Shape::default() })
                    .unwrap();
            }
            "a" | "b" => _ = db.execute(&format!("UPDATE {step} SET n = n + 1"), []).unwrap(),
            "checkpoint" => db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap(),
            other => panic!("{other}"),
        }
    }
    // Not closed: the last connection to close would copy the log back and delete it.
    std::process::exit(0);
}

fn watcher(db: &Path, wal_bytes_max: u64) {
    let archive = std::env::var_os("REWOUND_ARCHIVE").unwrap();
    let mut options = WatchOptions::default();
    options.wal_bytes_max = wal_bytes_max;
    let mut watcher = Watcher::open(&open_node(Path::new(&archive)), db, options).unwrap();
    let handle = watcher.handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        handle.stop();
    });
    watcher.on_event(|e| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "\n{e:?}");
    });
    watcher.run().unwrap();
}
