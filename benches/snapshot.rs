//! Building a snapshot from the archive, against zstd level 1 over the same pages in blocks of 64 KiB on as many threads, which writes nothing anywhere.
//!
//! The build rebuilds every page (base and log), proves it by its CRC-32, compresses, encrypts, writes, syncs, reads everything back and publishes.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewound::{Archive, CompactOptions, Durability, Target};

use common::tpcb::{Spec, archived, copy_dir, key};
use common::{Times, gbps, quick, time, work_dir};

fn compress(pages: &[u8], threads: usize) {
    let next = AtomicUsize::new(0);
    let blocks: Vec<&[u8]> = pages.chunks(64 << 10).collect();
    let work = || {
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        let mut out = Vec::with_capacity(128 << 10);
        while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            out.clear();
            compressor.compress_to_buffer(block, &mut out).unwrap();
            black_box(&out);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

fn snapshots(c: &mut Criterion) {
    let (scale, transactions) = if quick() { (1, 2_000) } else { (8, 40_000) };
    let spec = Spec { scale, transactions, durability: Durability::Buffered, segment_bytes: 2 << 20 };
    let archive = archived(&spec);
    let pages = std::fs::read(&archive.state).unwrap();
    let bytes = pages.len() as u64;
    let options = CompactOptions::default();
    let threads = options.replay.threads;
    let fresh = work_dir().join("snapshot");
    let build = || {
        let _ = std::fs::remove_dir_all(&fresh);
        copy_dir(&archive.archive, &fresh);
        let node = Archive::open(&fresh, key()).unwrap().node("sqlite").unwrap();
        time(|| assert_eq!(node.build_snapshot(&Target::Latest, &options).unwrap().snapshots, 1))
    };
    let rounds = if quick() { 2 } else { 9 };
    let (mut raws, mut builds) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        raws.push(time(|| compress(&pages, threads)));
        builds.push(build());
    }
    let (raw, ours) = (Times::of(raws), Times::of(builds));
    println!(
        "{} MiB, {threads} threads: zstd-1 {:.2} GB/s, snapshot {:.2} GB/s: {} of it",
        bytes >> 20,
        gbps(bytes, raw.median),
        gbps(bytes, ours.median),
        raw.over(ours)
    );
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function("zstd-1 alone", |b| b.iter(|| compress(&pages, threads)));
    group.bench_function("build", |b| b.iter_custom(|n| (0..n).map(|_| build()).sum()));
    group.finish();
    let _ = std::fs::remove_dir_all(fresh);
}

criterion_group!(benches, snapshots);
criterion_main!(benches);
