//! How cost grows: with the size of the state, with the length of the window, with the size of
//! pages, with threads.
//!
//! Each table is measured in turns with the limit beside it (a copy of the result, synced; zstd
//! over the same bytes). Frame sizes are in `scan.rs`. With `REWOUND_RESULTS=crates/peers/results`
//! the figures are kept for the plots.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise"
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rewound::env::Clock;
use rewound::{
    Archive, ArchiveOptions, CompactOptions, Node, ReplayOptions, Target, Timestamp, WriterOptions,
};

use common::states::Engine;
use common::tpcb::{bytes_below, key};
use common::{Times, copy_and_sync, gbps, link_dir, quick, ratio, record, time, wanted, work_dir};

fn node(path: &Path) -> Node {
    Archive::open(path, key()).unwrap().node("sqlite").unwrap()
}

fn restore(node: &Node, target: Target, threads: usize, out: &Path) {
    let _ = std::fs::remove_file(out);
    let mut options = ReplayOptions::default();
    options.threads = threads;
    node.restore(target).options(options).into_file(out).unwrap();
}

/// Runs all in turn and gives what each took; beginning with another one each round.
fn in_turns(rounds: usize, runs: &mut [Box<dyn FnMut() -> Duration + '_>]) -> Vec<Times> {
    let mut times = vec![Vec::new(); runs.len()];
    for round in 0..=rounds {
        for i in 0..times.len() {
            let i = (i + round) % times.len();
            let took = runs[i]();
            // The first round warms up.
            if round > 0 {
                times[i].push(took);
            }
        }
    }
    times.into_iter().map(Times::of).collect()
}

fn ms(times: Times) -> f64 {
    times.median.as_secs_f64() * 1e3
}

fn all_threads() -> usize {
    ReplayOptions::default().threads
}

/// A state with a log of a hundredth of its pages, each changed once or so.
fn state(path: &Path, bytes: usize, page: usize) -> PathBuf {
    let mut engine =
        Engine::create(path, bytes, page, ArchiveOptions::new(), WriterOptions::default());
    for _ in 0..bytes / page / 100 / 4 {
        engine.commit(4);
    }
    let plain = path.with_extension("db");
    std::fs::write(&plain, &engine.pages).unwrap();
    engine.writer.close().unwrap();
    plain
}

/// Builds a snapshot of the latest state in a copy of an archive.
fn snapshot(path: &Path, threads: usize) -> Duration {
    let copy = path.with_extension("linked");
    let _ = std::fs::remove_dir_all(&copy);
    link_dir(path, &copy);
    let mut options = CompactOptions::default();
    options.replay.threads = threads;
    let node = node(&copy);
    let took =
        time(|| assert_eq!(node.build_snapshot(&Target::Latest, &options).unwrap().snapshots, 1));
    std::fs::remove_dir_all(copy).unwrap();
    took
}

fn sizes() {
    let sizes: &[usize] = if quick() { &[4, 8] } else { &[16, 64, 256, 768] };
    println!(
        "\nsize of the state: restore of the latest state, and a snapshot of it, with a hundredth of the pages in the log"
    );
    println!("   MiB  copy+fsync ms  restore ms  × copy              snapshot ms    GB/s");
    let mut figures = Vec::new();
    for &mib in sizes {
        let path = work_dir().join("scaling-size");
        let plain = state(&path, mib << 20, 4096);
        let (out, copied) = (path.with_extension("out"), path.with_extension("copy"));
        let node = node(&path);
        restore(&node, Target::Latest, all_threads(), &out);
        assert!(
            std::fs::read(&out).unwrap() == std::fs::read(&plain).unwrap(),
            "the restore differs"
        );
        // The larger, the fewer: a disk's mood evens out over the seconds that one takes.
        let rounds = if quick() { 2 } else { (1024 / mib).clamp(5, 15) };
        let times = in_turns(
            rounds,
            &mut [
                Box::new(|| time(|| copy_and_sync(&plain, &copied))),
                Box::new(|| time(|| restore(&node, Target::Latest, all_threads(), &out))),
                Box::new(|| snapshot(&path, all_threads())),
            ],
        );
        let [copy, restored, built] = [times[0], times[1], times[2]];
        let rate = gbps((mib as u64) << 20, built.median);
        println!(
            "{mib:>6}  {:>13.1}  {:>10.1}  {:<18}  {:>11.1}  {rate:>6.2}",
            ms(copy),
            ms(restored),
            restored.over(copy),
            ms(built)
        );
        figures.push((
            format!("{mib} MiB"),
            vec![
                mib as f64,
                ms(copy),
                ms(restored),
                ratio(restored.median, copy.median),
                ms(built),
                rate,
            ],
        ));
        std::fs::remove_dir_all(path).unwrap();
        for file in [plain, out, copied] {
            std::fs::remove_file(file).unwrap();
        }
    }
    let columns = [
        "state",
        "MiB",
        "copy ms",
        "restore ms",
        "restore over copy",
        "snapshot ms",
        "snapshot GB/s",
    ];
    record("scaling-size", &columns, &figures);
}

/// A clock that stands where it is put.
#[derive(Clone, Debug, Default)]
struct Simulated(Arc<AtomicU64>);

impl Clock for Simulated {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

const DAY: u64 = 86_400 * 1_000_000_000;

/// A state of a fixed size and days of commits, with and without maintenance every day. After some
/// of the days, a copy of each archive.
///
/// Everything is a sixteenth of a database of 1 GiB with 64,000 commits a day and layers of the
/// default size.
#[expect(clippy::too_many_lines, reason = "one table, row by row")]
fn window() {
    let (state_mib, commits) = if quick() { (4, 200) } else { (64, 4_000) };
    let days: &[u64] = if quick() { &[1, 3] } else { &[1, 2, 4, 7, 14, 21, 28, 35] };
    let clock = Simulated::default();
    clock.0.store(20_000 * DAY, Ordering::Relaxed);
    let begin = clock.now();
    let mut writer = WriterOptions::default();
    writer.segment_bytes = 512 << 10;
    writer.flush_interval = None;
    let mut compact = CompactOptions::default();
    compact.layer_log_bytes = 2 << 20;
    let paths = ["window-maintained", "window-log"].map(|name| work_dir().join(name));
    let mut engines = paths.clone().map(|path| {
        Engine::create(
            &path,
            state_mib << 20,
            4096,
            ArchiveOptions::new().clock(clock.clone()),
            writer.clone(),
        )
    });
    let at = |path: &Path, day: u64| path.with_extension(format!("day-{day}"));
    let last = *days.last().unwrap();
    // Log without maintenance, and everything with it, in MiB.
    let mut stored = Vec::new();
    for day in 1..=last {
        for _ in 0..commits {
            clock.0.fetch_add(DAY / commits, Ordering::Relaxed);
            for engine in &mut engines {
                engine.commit(4);
            }
        }
        for engine in &mut engines {
            engine.writer.rotate_segment().unwrap();
        }
        engines[0].node.maintain(&compact).unwrap();
        if days.contains(&day) {
            for path in &paths {
                let _ = std::fs::remove_dir_all(at(path, day));
                link_dir(path, &at(path, day));
            }
            let mib = |path: &Path, kind: &str| bytes_below(path, kind) as f64 / f64::from(1 << 20);
            stored.push([mib(&paths[1], ".seg"), mib(&paths[0], "")]);
        }
    }
    let plain = work_dir().join("window.db");
    std::fs::write(&plain, &engines[0].pages).unwrap();
    drop(engines);
    let (out, copied) = (work_dir().join("window.out"), work_dir().join("window.copy"));
    restore(&node(&at(&paths[0], last)), Target::Latest, all_threads(), &out);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&plain).unwrap(), "the restore differs");

    let mut runs: Vec<Box<dyn FnMut() -> Duration>> =
        vec![Box::new(|| time(|| copy_and_sync(&plain, &copied)))];
    for &day in days {
        let middle = Target::Time(begin.saturating_add(Duration::from_nanos(day * DAY / 2)));
        for (path, target) in
            [(&paths[0], Target::Latest), (&paths[0], middle), (&paths[1], Target::Latest)]
        {
            let (node, out) = (node(&at(path, day)), &out);
            runs.push(Box::new(move || {
                time(|| restore(&node, target.clone(), all_threads(), out))
            }));
        }
    }
    let times = in_turns(if quick() { 2 } else { 9 }, &mut runs);
    drop(runs);
    let copy = times[0];
    println!(
        "\nlength of the window: {state_mib} MiB of state, {commits} commits of four pages a day; copy + fsync {:.1} ms",
        ms(copy)
    );
    println!(
        "  days  log MiB  archive MiB  maintained ms  × day 1             its middle ms  × day 1             log alone ms"
    );
    let mut figures = Vec::new();
    for (i, &day) in days.iter().enumerate() {
        let [log, archive] = stored[i];
        let [latest, middle, alone] = [times[1 + 3 * i], times[2 + 3 * i], times[3 + 3 * i]];
        println!(
            "{day:>6}  {:>7.1}  {:>11.1}  {:>13.1}  {:<18}  {:>13.1}  {:<18}  {:>12.1}",
            log,
            archive,
            ms(latest),
            latest.over(times[1]),
            ms(middle),
            middle.over(times[2]),
            ms(alone)
        );
        let row = vec![day as f64, log, archive, ms(copy), ms(latest), ms(middle), ms(alone)];
        figures.push((format!("{day} days"), row));
        for path in &paths {
            std::fs::remove_dir_all(at(path, day)).unwrap();
        }
    }
    let columns = [
        "window",
        "days",
        "log MiB",
        "archive MiB",
        "copy ms",
        "maintained ms",
        "maintained, middle ms",
        "log alone ms",
    ];
    record("scaling-window", &columns, &figures);
    for path in &paths {
        std::fs::remove_dir_all(path).unwrap();
    }
    for file in [plain, out, copied] {
        std::fs::remove_file(file).unwrap();
    }
}

fn page_sizes() {
    let (mib, commits) = if quick() { (4, 200) } else { (64, 20_000) };
    println!(
        "\nsize of pages: {mib} MiB of state, {commits} buffered commits that change one row of 128 bytes"
    );
    println!("   bytes  commit µs  log bytes  restore ms  × copy + fsync");
    let mut figures = Vec::new();
    for shift in 9..=16 {
        let page = 1 << shift;
        let path = work_dir().join("scaling-page");
        let mut engine =
            Engine::create(&path, mib << 20, page, ArchiveOptions::new(), WriterOptions::default());
        // The first version of each page after the base is a full image: those first, so that
        // patches are measured.
        let pages = engine.pages.len() / page;
        for _ in 0..(pages * 3).min(4 * commits) / 4 {
            engine.commit(4);
        }
        engine.writer.rotate_segment().unwrap();
        let before = bytes_below(&path, ".seg");
        let took = time(|| (0..commits).for_each(|_| engine.commit(1)));
        engine.writer.rotate_segment().unwrap();
        let log = (bytes_below(&path, ".seg") - before) as f64 / commits as f64;
        let (plain, out, copied) =
            (path.with_extension("db"), path.with_extension("out"), path.with_extension("copy"));
        std::fs::write(&plain, &engine.pages).unwrap();
        engine.writer.close().unwrap();
        let node = node(&path);
        let times = in_turns(
            if quick() { 2 } else { 9 },
            &mut [
                Box::new(|| time(|| copy_and_sync(&plain, &copied))),
                Box::new(|| time(|| restore(&node, Target::Latest, all_threads(), &out))),
            ],
        );
        assert!(
            std::fs::read(&out).unwrap() == std::fs::read(&plain).unwrap(),
            "the restore differs"
        );
        let micros = took.as_secs_f64() * 1e6 / commits as f64;
        println!(
            "{page:>8}  {micros:>9.2}  {log:>9.1}  {:>10.1}  {}",
            ms(times[1]),
            times[1].over(times[0])
        );
        figures.push((
            format!("{page} B"),
            vec![page as f64, micros, log, ms(times[0]), ms(times[1])],
        ));
        std::fs::remove_dir_all(path).unwrap();
        for file in [plain, out, copied] {
            std::fs::remove_file(file).unwrap();
        }
    }
    record(
        "scaling-page",
        &["page", "page bytes", "commit us", "log bytes a commit", "copy ms", "restore ms"],
        &figures,
    );
}

fn compress(pages: &[u8], threads: usize) {
    std::thread::scope(|scope| {
        for share in pages.chunks(pages.len().div_ceil(threads)) {
            scope.spawn(|| {
                let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
                let mut out = Vec::with_capacity(128 << 10);
                for block in share.chunks(64 << 10) {
                    out.clear();
                    compressor.compress_to_buffer(block, &mut out).unwrap();
                    std::hint::black_box(&out);
                }
            });
        }
    });
}

fn threads() {
    let mib = if quick() { 4 } else { 256 };
    let path = work_dir().join("scaling-threads");
    let plain = state(&path, mib << 20, 4096);
    let pages = std::fs::read(&plain).unwrap();
    let out = path.with_extension("out");
    let node = node(&path);
    let counts = [1, 2];
    let mut runs: Vec<Box<dyn FnMut() -> Duration + '_>> = Vec::new();
    for threads in counts {
        let (pages, node, out, path) = (&pages, &node, &out, &path);
        runs.push(Box::new(move || time(|| compress(pages, threads))));
        runs.push(Box::new(move || time(|| restore(node, Target::Latest, threads, out))));
        runs.push(Box::new(move || snapshot(path, threads)));
    }
    let times = in_turns(if quick() { 2 } else { 7 }, &mut runs);
    drop(runs);
    println!("\nthreads: {mib} MiB; one and two (what two gain)");
    let mut figures = Vec::new();
    for (i, what) in ["zstd-1 alone, the limit", "restore", "snapshot"].iter().enumerate() {
        let [one, two] = [times[i], times[i + 3]];
        println!("{what:<24} {:>8.1} {:>8.1} ms  × {}", ms(one), ms(two), one.over(two));
        figures.push(((*what).to_owned(), vec![ms(one), ms(two), ratio(one.median, two.median)]));
    }
    record("scaling-threads", &["what", "one thread ms", "two threads ms", "gain"], &figures);
    std::fs::remove_dir_all(path).unwrap();
    for file in [plain, out] {
        std::fs::remove_file(file).unwrap();
    }
}

fn main() {
    // `cargo bench --bench scaling -- window` measures that alone.
    let all: [(&str, fn()); 4] =
        [("size", sizes), ("window", window), ("page", page_sizes), ("threads", threads)];
    all.iter().filter(|(name, _)| wanted(name)).for_each(|(_, f)| f());
}
