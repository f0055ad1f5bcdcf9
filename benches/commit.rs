//! Durable commits, against overwriting as many bytes of a file that is there already and
//! `fdatasync`: the least that a disk allows.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewound::{Archive, Durability, KeyFile, Origin, Writer};

use common::{Random, median, quick, ratio, record, side_by_side, with_criterion, work_dir};

const COMMIT: usize = 1 << 10;
const FILE: u64 = 16 << 20;

/// A file whose blocks are written, so that overwriting changes no metadata but times.
struct Raw {
    file: File,
    at: AtomicU64,
    bytes: Vec<u8>,
}

impl Raw {
    fn new() -> Raw {
        let path = work_dir().join("raw");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        for at in (0..FILE).step_by(1 << 20) {
            file.write_all_at(&vec![1; 1 << 20], at).unwrap();
        }
        file.sync_all().unwrap();
        Raw { file, at: AtomicU64::new(0), bytes: payload() }
    }

    fn commit(&self) {
        let at = self.at.fetch_add(COMMIT as u64, Ordering::Relaxed) % FILE;
        self.file.write_all_at(&self.bytes, at).unwrap();
        self.file.sync_data().unwrap();
    }
}

fn payload() -> Vec<u8> {
    let mut bytes = vec![0; COMMIT];
    Random(88_172_645_463_325_252).fill(&mut bytes);
    bytes
}

fn writer() -> Writer {
    let path = work_dir().join("commits");
    let _ = std::fs::remove_dir_all(&path);
    let archive = Archive::create(&path, KeyFile::from_bytes([1; 32])).unwrap();
    archive.create_node("n", Origin::Empty).unwrap().open_writer().unwrap()
}

fn commit(writer: &Writer, bytes: &[u8], durability: Durability) {
    let mut batch = writer.batch();
    batch.log_record(bytes).unwrap();
    batch.commit(durability).unwrap();
}

/// Every call's time, from so many threads that make `each` calls; and how long all took.
fn run(threads: usize, each: usize, f: &(impl Fn() + Sync)) -> (Vec<Duration>, Duration) {
    let begun = Instant::now();
    let one = || {
        let call = |_| {
            let begun = Instant::now();
            f();
            begun.elapsed()
        };
        (0..each).map(call).collect::<Vec<_>>()
    };
    let all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let mut all = one();
        all.extend(others.into_iter().flat_map(|t| t.join().unwrap()));
        all
    });
    (all, begun.elapsed())
}

fn commits(c: &mut Criterion) {
    let (raw, writer, bytes) = (Raw::new(), writer(), payload());
    let synced = || commit(&writer, &bytes, Durability::Synced);
    let raw_one = || raw.commit();
    // Alternating in short stretches: a disk's mood changes from second to second.
    let (rounds, each) = if quick() { (2, 50) } else { (20, 200) };
    let (mut r, mut o) = (Vec::new(), Vec::new());
    let (mut all_r, mut all_o) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..rounds {
        let (times, took) = run(1, each, &raw_one);
        r.extend(times);
        all_r += took;
        let (times, took) = run(1, each, &synced);
        o.extend(times);
        all_o += took;
    }
    let (mr, mo) = (median(&mut r), median(&mut o));
    println!(
        "one thread, 1 KiB: raw {mr:.1?}, ours {mo:.1?}: {:.3} × at the median, {:.3} × in the mean",
        ratio(mo, mr),
        ratio(all_o, all_r)
    );
    let (mut r8, mut o8) = (Vec::new(), Vec::new());
    for _ in 0..rounds.min(10) {
        r8.push(run(8, each, &raw_one).1);
        o8.push(run(8, each, &synced).1);
    }
    let (r8, o8) = (median(&mut r8), median(&mut o8));
    let rate = |t: Duration| f64::from(u32::try_from(8 * each).unwrap()) / t.as_secs_f64();
    let single = 1.0 / mr.as_secs_f64();
    println!(
        "eight threads, 1 KiB: raw {:.0}/s, ours {:.0}/s: {:.2} × raw, {:.2} × the syncs that one thread gets done",
        rate(r8),
        rate(o8),
        rate(o8) / rate(r8),
        rate(o8) / single
    );

    let mut rows = vec![
        ("synced, one thread".to_owned(), vec![single, 1.0 / mo.as_secs_f64(), ratio(mr, mo)]),
        ("synced, eight threads".to_owned(), vec![rate(r8), rate(o8), rate(o8) / rate(r8)]),
    ];
    let big = bytes.repeat(64);
    for (name, bytes, count) in [("buffered, 1 KiB", &bytes, 8192), ("buffered, 64 KiB", &big, 256)]
    {
        let count = if quick() { count / 16 } else { count };
        let [r, o] = side_by_side(
            if quick() { 3 } else { 21 },
            [
                &mut || {
                    (0..count).for_each(|i| {
                        raw.file.write_all_at(bytes, i * bytes.len() as u64).unwrap();
                    });
                    raw.file.sync_data().unwrap();
                },
                &mut || {
                    (0..count).for_each(|_| commit(&writer, bytes, Durability::Buffered));
                    writer.flush().unwrap();
                },
            ],
        );
        let rate = |t: Duration| f64::from(u32::try_from(count).unwrap()) / t.as_secs_f64();
        println!(
            "{name}: raw {:.0}/s, ours {:.0}/s, × {}",
            rate(r.median),
            rate(o.median),
            r.over(o)
        );
        rows.push((
            name.to_owned(),
            vec![rate(r.median), rate(o.median), ratio(r.median, o.median)],
        ));
    }
    record("commits", &["commits", "raw a second", "ours a second", "ours over raw"], &rows);
    if !with_criterion() {
        return;
    }

    let mut group = c.benchmark_group("commit");
    group.throughput(Throughput::Bytes(COMMIT as u64));
    group.bench_function("raw overwrite + fdatasync, 1 KiB", |b| b.iter(raw_one));
    group.bench_function("synced, 1 KiB", |b| b.iter(synced));
    group.bench_function("buffered, 1 KiB", |b| {
        b.iter(|| commit(&writer, &bytes, Durability::Buffered));
    });
    group.throughput(Throughput::Bytes(big.len() as u64));
    group.bench_function("buffered, 64 KiB", |b| {
        b.iter(|| commit(&writer, &big, Durability::Buffered));
    });
    group.finish();
    drop(writer);
    let _ = std::fs::remove_dir_all(work_dir().join("commits"));
}

criterion_group!(benches, commits);
criterion_main!(benches);
