//! What watching a live SQLite database costs its application, and what it gives: a TPC-B load in a
//! process of its own, the watcher in another.
//!
//! WAL mode, `synchronous = NORMAL`, SQLite's own checkpoints as they are by default; the watcher
//! with its defaults. Each turn begins with a fresh copy of the database, without the watcher and
//! with it alternately. `cargo bench --bench sqlite_watch`; with `-- --test` some seconds.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../../../benches/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rewound::{Archive, CompactOptions, Node, Origin, Target};
use rewound_sqlite::{Event, WatchOptions, Watcher};
use rusqlite::Connection;

use common::tpcb::{bytes_below, key, load, transaction};
use common::{Random, copy_and_sync, quick, record, side_by_side, work_dir};

/// Branches of the database, with 11.7 MB each; transactions of an unpaced run.
fn size() -> (u64, u64) {
    if quick() { (1, 3_000) } else { (8, 40_000) }
}

fn nanos() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// The bench again, in another process.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str, dir: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env("REWOUND_ROLE", role)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, input, output }
    }

    /// The next line of numbers.
    fn line(&mut self) -> Vec<u64> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace().map(|n| n.parse().unwrap()).collect()
    }

    /// Ends its input, and so the process; gives its remaining lines.
    fn end(mut self) -> Vec<Vec<u64>> {
        drop(self.input.take());
        let lines = self.output.lines().map(Result::unwrap);
        let rest =
            lines.map(|l| l.split_whitespace().map(|n| n.parse().unwrap()).collect()).collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }

    fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    /// Time on a processor so far, of all threads.
    fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: PathBuf| -> u64 {
            let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        Duration::from_nanos(tasks.map(|t| of(t.unwrap().path())).sum())
    }

    /// A line of `status` that gives kilobytes, in MiB.
    fn memory(&self, what: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap() / 1024.0
    }
}

fn wait_for_end_of_input() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// The application: so many transactions, `pause` microseconds between them. Says how many
/// nanoseconds they took, the slowest but one in a thousand, and the slowest; and at its end when
/// each was committed.
fn application(scale: u64, transactions: u64, pause: u64) {
    let mut db = Connection::open("app.db").unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000",
    )
    .unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut committed, mut each) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for t in 0..transactions {
        let before = Instant::now();
        transaction(&mut db, &mut random, scale, t);
        each.push(before.elapsed());
        if pause > 0 {
            committed.push(nanos());
            std::thread::sleep(Duration::from_micros(random.below(2 * pause)));
        }
    }
    let took = begun.elapsed();
    each.sort_unstable();
    let (slow, slowest) = (each[(each.len() - 1) * 999 / 1000], each[each.len() - 1]);
    println!("{} {} {}", took.as_nanos(), slow.as_nanos(), slowest.as_nanos());
    // Stays open: the last connection to close would copy the log back and delete it.
    wait_for_end_of_input();
    for at in committed {
        println!("{at}");
    }
}

/// The watcher. Says when it is ready, and at its end what it counted, and when it had archived
/// which commit.
fn watcher() {
    let node = Archive::open("archive", key()).unwrap().node("app").unwrap();
    let mut watcher = Watcher::open(&node, "app.db", WatchOptions::default()).unwrap();
    let handle = watcher.handle();
    let archived = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&archived);
    watcher.on_event(move |event| match event {
        Event::Archived { lsn, .. } => to.lock().unwrap().push((lsn.get(), nanos())),
        Event::CopyFinished { .. } => println!("1"),
        Event::Warning(_) | Event::Retrying { .. } => eprintln!("{event:?}"),
        _ => {}
    });
    std::thread::spawn(move || {
        wait_for_end_of_input();
        handle.stop();
    });
    let status = watcher.run().unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} {} {} {}", status.commits, status.pages, status.resyncs, status.wal_resets)
        .unwrap();
    for (lsn, at) in &*archived.lock().unwrap() {
        writeln!(out, "{lsn} {at}").unwrap();
    }
}

/// A fresh directory with a copy of the database.
fn fresh(name: &str) -> PathBuf {
    let pristine = work_dir().join(format!("sqlite-watch-{}.db", size().0));
    if !pristine.exists() {
        let making = pristine.with_extension("making");
        let _ = std::fs::remove_file(&making);
        drop(load(&making, size().0));
        std::fs::rename(&making, &pristine).unwrap();
    }
    let dir = work_dir().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    copy_and_sync(&pristine, &dir.join("app.db"));
    dir
}

/// Begins to watch; returns once the first copy is complete.
fn watch(dir: &Path) -> (Node, Process) {
    // The node is made for a database in WAL mode, as the application leaves it.
    let db = Connection::open(dir.join("app.db")).unwrap();
    let node = Archive::create(dir.join("archive"), key())
        .unwrap()
        .create_node("app", Origin::Existing)
        .unwrap();
    let mut process = Process::start("watch", dir);
    assert_eq!(process.line(), [1]);
    drop(db);
    std::thread::sleep(Duration::from_millis(300));
    (node, process)
}

/// How long all of an application's transactions took, the slowest but one in a thousand, and the
/// slowest.
type Times = [Duration; 3];

fn run_application(dir: &Path, transactions: u64, pause: u64) -> (Process, Times) {
    let mut process = Process::start(&format!("load {} {transactions} {pause}", size().0), dir);
    let times = process.line();
    (process, [times[0], times[1], times[2]].map(Duration::from_nanos))
}

/// What an unpaced run under the watcher gives.
struct Watched {
    times: Times,
    bytes: u64,
    cpu: Duration,
    peak: f64,
    resets: u64,
}

fn unpaced(dir: &Path) -> Watched {
    let (node, watcher) = watch(dir);
    let before = watcher.cpu();
    let (application, times) = run_application(dir, size().1, 0);
    while node.window().unwrap().latest.lsn.get() <= size().1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (cpu, peak) = (watcher.cpu().checked_sub(before).unwrap(), watcher.memory("VmHWM:"));
    let said = watcher.end();
    application.end();
    assert_eq!((said[0][0], said[0][2]), (size().1, 0), "transactions and comparisons");
    Watched {
        times,
        bytes: bytes_below(&dir.join("archive"), ".seg"),
        cpu,
        peak,
        resets: said[0][3],
    }
}

fn slow_down() {
    let transactions = size().1 as f64;
    let mut all: Vec<Vec<f64>> = Vec::new();
    for turn in 0..if quick() { 1 } else { 9 } {
        // Whoever comes first in one turn comes second in the next.
        let mut bare = Times::default();
        let mut alone = || {
            let (application, times) = run_application(&fresh("sqlite-bare"), size().1, 0);
            application.end();
            bare = times;
        };
        if turn % 2 == 0 {
            alone();
        }
        let run = unpaced(&fresh("sqlite-watched"));
        if turn % 2 == 1 {
            alone();
        }
        let [without, with] = [bare, run.times].map(|times| transactions / times[0].as_secs_f64());
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        all.push(vec![
            without,
            with,
            without / with,
            run.bytes as f64 / transactions,
            run.cpu.as_secs_f64() * 1e6 / transactions,
            run.peak,
            run.resets as f64,
            ms(bare[1]),
            ms(bare[2]),
            ms(run.times[1]),
            ms(run.times[2]),
        ]);
        println!(
            "turn {}: {without:.0} transactions/s without, {with:.0} with: × {:.3}",
            turn + 1,
            without / with
        );
    }
    let column = |i: usize| {
        let mut values: Vec<f64> = all.iter().map(|r| r[i]).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("transactions/s without the watcher   {:>9.0}", column(0));
    println!("transactions/s with it               {:>9.0}", column(1));
    println!("slow-down, median of the turns       {:>9.3} ×", column(2));
    println!("log bytes a transaction              {:>9.0}", column(3));
    println!("watcher's processor time, µs each    {:>9.1}", column(4));
    println!("watcher's peak memory                {:>9.1} MiB", column(5));
    println!("times the database's log started over{:>9.0}", column(6));
    for (who, at) in [("without the watcher", 7), ("with it", 9)] {
        println!(
            "the slowest transaction but one in a thousand, the slowest, {who}: {:.2} ms, {:.1} ms",
            column(at),
            column(at + 1)
        );
    }
    record(
        "sqlite-watch",
        &[
            "turn",
            "tx/s without",
            "tx/s with",
            "slow-down",
            "bytes/tx",
            "cpu us/tx",
            "peak MiB",
            "resets",
            "p99.9 ms without",
            "most ms without",
            "p99.9 ms with",
            "most ms with",
        ],
        &all.into_iter()
            .enumerate()
            .map(|(turn, row)| (format!("turn {}", turn + 1), row))
            .collect::<Vec<_>>(),
    );
}

/// From a commit until it is archived, durably; then the watcher's cost while nothing happens.
fn latency_and_idle() {
    let dir = fresh("sqlite-paced");
    let (_, watcher) = watch(&dir);
    let mut rows = Vec::new();
    let mut runs = Vec::new();
    for (rate, seconds) in
        if quick() { vec![(500, 1)] } else { vec![(10, 30), (200, 15), (2_000, 10)] }
    {
        let (application, _) = run_application(&dir, rate * seconds, 1_000_000 / rate);
        std::thread::sleep(Duration::from_millis(500));
        runs.push((rate, application.end()));
    }
    let (idle, rss, seconds) =
        (watcher.cpu(), watcher.memory("VmRSS:"), if quick() { 1 } else { 20 });
    std::thread::sleep(Duration::from_secs(seconds));
    let idle = (watcher.cpu().checked_sub(idle).unwrap()).as_secs_f64() / seconds as f64 * 100.0;
    let growth = watcher.memory("VmRSS:") - rss;
    let archived = watcher.end().split_off(1);
    let mut lsn = 1;
    for (rate, committed) in runs {
        let mut latencies: Vec<f64> = committed
            .iter()
            .map(|at| {
                lsn += 1;
                let event = archived[archived.partition_point(|event| event[0] < lsn)][1];
                event.saturating_sub(at[0]) as f64 / 1e6
            })
            .collect();
        latencies.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
        println!(
            "commit to archived at ~{rate}/s: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
            at(50),
            at(99),
            at(100)
        );
        rows.push((format!("{rate} transactions/s"), vec![at(50), at(99), at(100)]));
    }
    println!("idle watcher: {idle:.3} % of a core, {growth:+.2} MiB in {seconds} s ({rss:.1} MiB)");
    record("sqlite-watch-latency", &["load", "p50 ms", "p99 ms", "most ms"], &rows);
    record(
        "sqlite-watch-idle",
        &["state", "% of a core", "growth MiB", "RSS MiB"],
        &[("idle".into(), vec![idle, growth, rss])],
    );
}

/// Restores of what the watcher left: from the log alone, and after `Node::maintain` has built
/// layers.
fn restores() {
    let dir = fresh("sqlite-restore");
    unpaced(&dir);
    let node = Archive::open(dir.join("archive"), key()).unwrap().node("app").unwrap();
    let (out, copy) = (dir.join("restored.db"), dir.join("copy.db"));
    let restore = || {
        let _ = std::fs::remove_file(&out);
        node.restore(Target::Latest).into_file(&out).unwrap();
    };
    let mut rows = Vec::new();
    for layers in [false, true] {
        if layers {
            // The default, 32 MiB, is more than so few transactions take.
            let mut options = CompactOptions::default();
            options.layer_log_bytes = if quick() { 256 << 10 } else { 2 << 20 };
            println!("{:?}", node.maintain(&options).unwrap());
        }
        restore();
        let db = Connection::open(&out).unwrap();
        let count: u64 = db.query_row("SELECT count(*) FROM history", [], |r| r.get(0)).unwrap();
        assert_eq!(count, size().1);
        drop(db);
        restore();
        std::fs::copy(&out, &copy).unwrap();
        let mut again = || copy_and_sync(&copy, &out);
        let [cp, restored] =
            side_by_side(if quick() { 1 } else { 15 }, [&mut again, &mut || restore()]);
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        let what = if layers { "with layers" } else { "from the log alone" };
        println!(
            "restore of {} MB and {count} transactions, {what}: {:.1} ms; copy + fsync {:.1} ms: × {}",
            std::fs::metadata(&copy).unwrap().len() / 1_000_000,
            ms(restored.median),
            ms(cp.median),
            restored.over(cp)
        );
        rows.push((what.to_owned(), vec![ms(restored.median), ms(cp.median)]));
    }
    record("sqlite-watch-restore", &["from", "restore ms", "copy + fsync ms"], &rows);
}

fn main() {
    if let Ok(role) = std::env::var("REWOUND_ROLE") {
        let words: Vec<&str> = role.split(' ').collect();
        match words[..] {
            ["load", scale, transactions, pause] => {
                application(
                    scale.parse().unwrap(),
                    transactions.parse().unwrap(),
                    pause.parse().unwrap(),
                );
            }
            _ => watcher(),
        }
        return;
    }
    // `cargo bench --bench sqlite_watch -- latency` measures that alone.
    let all: [(&str, fn()); 3] =
        [("slow-down", slow_down), ("latency", latency_and_idle), ("restore", restores)];
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, f) in all {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            f();
        }
    }
}
