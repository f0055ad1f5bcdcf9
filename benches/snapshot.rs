//! Building a snapshot from the archive, against zstd level 1 over the same pages in blocks of 64
//! KiB on as many threads, which writes nothing anywhere.
//!
//! The build rebuilds every page (base and log), proves it by its CRC-32, compresses, encrypts,
//! writes, syncs, reads everything back and publishes.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewound::{Archive, CompactOptions, Durability, Origin, PageId, PageSize, Target};

use common::states::{Rows, rows};
use common::tpcb::{PAGE, Spec, archived, copy_dir, key};
use common::{Times, gbps, quick, ratio, record, time, wanted, with_criterion, work_dir};

/// Compresses the pages, and where asked to, does what else nobody can do without who proves what
/// he wrote: decompresses them twice, as what they were made of and to look at what came out.
fn compress(pages: &[u8], threads: usize, decompress: bool) {
    let next = AtomicUsize::new(0);
    let blocks: Vec<&[u8]> = pages.chunks(64 << 10).collect();
    let work = || {
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
        let mut out = Vec::with_capacity(128 << 10);
        let mut back = Vec::with_capacity(64 << 10);
        while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            out.clear();
            compressor.compress_to_buffer(block, &mut out).unwrap();
            if decompress {
                decompressor.decompress_to_buffer(black_box(&out), &mut back).unwrap();
                decompressor.decompress_to_buffer(black_box(&out), &mut back).unwrap();
            }
            black_box((&out, &back));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// A state of pages of rows, of which one in a hundred was written since the last snapshot. Gives
/// the state.
fn make_rows(path: &Path, bytes: usize) -> Vec<u8> {
    let mut pages = vec![0; bytes];
    (0..).zip(pages.chunks_exact_mut(PAGE)).for_each(|(page, out)| rows(page, 0, out));
    let _ = std::fs::remove_dir_all(path);
    let node =
        Archive::create(path, key()).unwrap().create_node("sqlite", Origin::Existing).unwrap();
    let writer = node.open_writer().unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("data", PageSize::KIB_4).unwrap();
    batch.set_length(space, bytes as u64).unwrap();
    batch.commit(Durability::Synced).unwrap();
    writer.base_snapshot(&mut Rows(PAGE), &CompactOptions::default()).unwrap();
    for (page, out) in (0..).zip(pages.chunks_exact_mut(PAGE)).step_by(100) {
        rows(page, 1, out);
        let mut batch = writer.batch();
        batch.write_page(PageId::new(space, page), out, None).unwrap();
        batch.commit(Durability::Buffered).unwrap();
    }
    writer.close().unwrap();
    pages
}

fn snapshots(c: &mut Criterion) {
    let (scale, transactions) = if quick() { (1, 2_000) } else { (8, 40_000) };
    let spec =
        Spec { scale, transactions, durability: Durability::Buffered, segment_bytes: 2 << 20 };
    let tpcb = archived(&spec);
    let rows = work_dir().join("rows");
    let row_pages = make_rows(&rows, if quick() { 16 << 20 } else { 128 << 20 });
    let cases = [
        ("TPC-B", std::fs::read(&tpcb.state).unwrap(), tpcb.archive),
        ("rows", row_pages, rows.clone()),
    ];
    let options = CompactOptions::default();
    let threads = options.replay.threads;
    let fresh = work_dir().join("snapshot");
    let mut group = c.benchmark_group("snapshot");
    let mut figures = Vec::new();
    // `cargo bench --bench snapshot -- rows` builds that alone.
    for (name, pages, archive) in cases.iter().filter(|(name, ..)| wanted(name)) {
        let bytes = pages.len() as u64;
        let build = || {
            let _ = std::fs::remove_dir_all(&fresh);
            copy_dir(archive, &fresh);
            let node = Archive::open(&fresh, key()).unwrap().node("sqlite").unwrap();
            time(|| {
                assert_eq!(node.build_snapshot(&Target::Latest, &options).unwrap().snapshots, 1);
            })
        };
        let rounds = if quick() { 2 } else { 9 };
        let (mut raws, mut proofs, mut builds) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            raws.push(time(|| compress(pages, threads, false)));
            proofs.push(time(|| compress(pages, threads, true)));
            builds.push(build());
        }
        let (raw, proven, ours) = (Times::of(raws), Times::of(proofs), Times::of(builds));
        println!(
            "{name}: {} MiB, {threads} threads: zstd-1 {:.2} GB/s, snapshot {:.2} GB/s: {} of it; compressed and decompressed twice {:.2} GB/s: {} of that",
            bytes >> 20,
            gbps(bytes, raw.median),
            gbps(bytes, ours.median),
            raw.over(ours),
            gbps(bytes, proven.median),
            proven.over(ours)
        );
        figures.push((
            (*name).to_owned(),
            vec![
                gbps(bytes, raw.median),
                gbps(bytes, ours.median),
                ratio(raw.median, ours.median),
                gbps(bytes, proven.median),
                ratio(proven.median, ours.median),
            ],
        ));
        if !with_criterion() {
            continue;
        }
        group.sample_size(10).throughput(Throughput::Bytes(bytes));
        group.bench_function(format!("{name}: zstd-1 alone"), |b| {
            b.iter(|| compress(pages, threads, false));
        });
        group.bench_function(format!("{name}: build"), |b| {
            b.iter_custom(|n| (0..n).map(|_| build()).sum());
        });
    }
    group.finish();
    let columns = [
        "pages",
        "zstd-1 GB/s",
        "snapshot GB/s",
        "over zstd-1",
        "zstd-1 and twice back GB/s",
        "over that",
    ];
    record("snapshot", &columns, &figures);
    for dir in [fresh, rows] {
        let _ = std::fs::remove_dir_all(dir);
    }
}

criterion_group!(benches, snapshots);
criterion_main!(benches);
