//! Opening a writer over a segment that was not sealed, as after a crash: all of it is read,
//! authenticated and folded.
//!
//! Opening also takes the lock, brings the catalog up to date and enters the new tenure there,
//! which costs some syncs: the same for a log of one commit, which is timed beside it.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewound::bench_support::SealedFrames;
use rewound::crypto::Backend;
use rewound::storage::FsStorage;
use rewound::{Archive, Durability, KeyFile, Node, Origin, WriterOptions};

use common::tpcb::{bytes_below, copy_dir};
use common::{Random, Times, gbps, ms, quick, record, side_by_side, with_criterion, work_dir};

/// An archive whose newest segment has no seal: a copy of one that is still being written.
fn unsealed(name: &str, bytes: usize) -> (PathBuf, Node) {
    let (live, path) = (work_dir().join("live"), work_dir().join(name));
    for dir in [&live, &path] {
        let _ = std::fs::remove_dir_all(dir);
    }
    let key = || KeyFile::from_bytes([1; 32]);
    let node = Archive::create(&live, key()).unwrap().create_node("n", Origin::Empty).unwrap();
    let mut options = WriterOptions::default();
    options.segment_bytes = 1 << 30;
    let writer = node.open_writer_with(options).unwrap();
    let mut record = vec![0; 4 << 10];
    let mut random = Random(88_172_645_463_325_252);
    for i in 0..bytes.div_ceil(record.len()) {
        random.fill(&mut record);
        let mut batch = writer.batch();
        batch.log_record(&record).unwrap();
        batch.commit(Durability::Buffered).unwrap();
        // As the writer's thread does ten times a second: what no later frame proves durable is
        // read from the medium, not from the cache.
        if i % 256 == 255 {
            writer.flush().unwrap();
        }
    }
    writer.flush().unwrap();
    copy_dir(&live, &path);
    drop(writer);
    std::fs::remove_dir_all(live).unwrap();
    let node = Archive::open(&path, key()).unwrap().node("n").unwrap();
    (path, node)
}

/// An archive whose catalog has many entries, and the same without its checkpoints.
fn old_archive(entries: usize) -> [PathBuf; 2] {
    let paths = ["old", "old-without-checkpoints"].map(|name| work_dir().join(name));
    for path in &paths {
        let _ = std::fs::remove_dir_all(path);
    }
    let archive = Archive::create(&paths[0], KeyFile::from_bytes([1; 32])).unwrap();
    for i in 1..entries {
        archive.create_node(&format!("node {i}"), Origin::Empty).unwrap();
    }
    copy_dir(&paths[0], &paths[1]);
    std::fs::remove_dir_all(paths[1].join("catalog/checkpoints")).unwrap();
    paths
}

fn opening(_: &mut Criterion) {
    let entries = if quick() { 300 } else { 5_000 };
    let paths = old_archive(entries);
    let open = |path: &PathBuf| drop(Archive::open(path, KeyFile::from_bytes([1; 32])).unwrap());
    let [with, without] = side_by_side(11, [&mut || open(&paths[0]), &mut || open(&paths[1])]);
    println!(
        "open an archive of {entries} catalog entries: {:.1?} with its checkpoint, {:.1?} without",
        with.median, without.median
    );
    let rows = [
        (format!("{entries} entries, checkpoint"), vec![ms(with.median)]),
        (format!("{entries} entries, none"), vec![ms(without.median)]),
    ];
    record("catalog", &["catalog", "open ms"], &rows);
}

fn recovery(c: &mut Criterion) {
    let bytes = if quick() { 8 << 20 } else { 64 << 20 };
    let (path, node) = unsealed("unsealed", bytes);
    let (empty_path, empty) = unsealed("unsealed-empty", 1);
    let log = bytes_below(&path, ".seg");
    let rounds = if quick() { 3 } else { 25 };
    let [scan, scan_empty, open, open_empty] = side_by_side(
        rounds,
        [
            &mut || assert!(node.window().is_ok()),
            &mut || assert!(empty.window().is_ok()),
            &mut || drop(node.open_writer().unwrap()),
            &mut || drop(empty.open_writer().unwrap()),
        ],
    );
    let apart = |a: Duration, b| a.checked_sub(b).unwrap_or(a);
    println!(
        "{} MiB unsealed: scan {:.1?}, {:.2} GB/s (best {:.2}); open a writer {:.1?}, of which {:.1?} without any log",
        log >> 20,
        scan.median,
        gbps(log, apart(scan.median, scan_empty.median)),
        gbps(log, apart(scan.best, scan_empty.best)),
        open.median,
        open_empty.median,
    );
    let rate = |a: Duration, b| gbps(log, apart(a, b));
    let rows = [
        ("scan".to_owned(), vec![ms(scan.median), rate(scan.median, scan_empty.median)]),
        ("open a writer".to_owned(), vec![ms(open.median), rate(open.median, open_empty.median)]),
        ("open a writer, no log".to_owned(), vec![ms(open_empty.median), 0.0]),
    ];
    record("recovery-scan", &["what", "ms", "GB/s"], &rows);
    let mut group = c.benchmark_group("recovery");
    group.sample_size(10).throughput(Throughput::Bytes(log));
    if with_criterion() {
        group.bench_function("open a writer over an unsealed segment", |b| {
            b.iter(|| node.open_writer().unwrap());
        });
        group.bench_function("scan an unsealed segment", |b| b.iter(|| node.window().unwrap()));
    }
    group.finish();
    drop((node, empty));
    std::fs::remove_dir_all(path).unwrap();
    std::fs::remove_dir_all(empty_path).unwrap();
}

/// Sealed files in the page cache, read and mapped: what every scan of finished segments comes to.
fn sealed(_: &mut Criterion) {
    let total = if quick() { 8 << 20 } else { 64 << 20 };
    let rounds = if quick() { 3 } else { 25 };
    let mut rows = Vec::new();
    for (frame, name) in [(4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")] {
        let dirs = ["sealed-read", "sealed-mapped"].map(|name| work_dir().join(name));
        for dir in &dirs {
            let _ = std::fs::remove_dir_all(dir);
        }
        let build = |storage| {
            SealedFrames::build(Arc::new(storage), Backend::default(), frame, total).unwrap()
        };
        let read = build(FsStorage::new(&dirs[0]));
        let mapped = build(FsStorage::new(&dirs[1]).mapped());
        let scan = |file: &SealedFrames| assert!(black_box(file.scan().unwrap()) > 0);
        let [r, m] = side_by_side(rounds, [&mut || scan(&read), &mut || scan(&mapped)]);
        let bytes = total as u64;
        println!(
            "sealed, frames of {name}: read {:.2} GB/s, mapped {:.2}; read over mapped {}",
            gbps(bytes, r.median),
            gbps(bytes, m.median),
            r.over(m)
        );
        let rate = |t: Times| vec![ms(t.median), gbps(bytes, t.median)];
        rows.extend([(format!("{name}, read"), rate(r)), (format!("{name}, mapped"), rate(m))]);
        for dir in dirs {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
    record("sealed-scan", &["frames", "ms", "GB/s"], &rows);
}

criterion_group!(benches, opening, sealed, recovery);
criterion_main!(benches);
