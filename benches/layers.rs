//! Building a layer over a stretch of log, and planning the way to a commit where there are many
//! layers.
//!
//! A layer is built twice over: the state before the stretch and after it, page by page, then the
//! difference of the two. The limit beside it is restoring the state after the stretch to memory,
//! and making a patch of every page that it touched, on one thread.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use rewound::delta::Encoder;
use rewound::{
    Archive, ArchiveOptions, CompactOptions, Durability, Lsn, Node, Target, WriterOptions,
};

use common::states::Engine;
use common::tpcb::{PAGE, Spec, archived, bytes_below, key};
use common::{
    Times, link_dir, ms, quick, ratio, record, side_by_side, time, us, with_criterion, work_dir,
};

fn open(path: &Path) -> Node {
    Archive::open(path, key()).unwrap().node("sqlite").unwrap()
}

/// One layer over all of the log.
fn build(archive: &Path, fresh: &Path) -> std::time::Duration {
    let _ = std::fs::remove_dir_all(fresh);
    link_dir(archive, fresh);
    let mut options = CompactOptions::default();
    options.layer_log_bytes = bytes_below(archive, ".seg") / 2;
    options.snapshot_percent = u64::MAX;
    let node = open(fresh);
    time(|| assert!(node.maintain(&options).unwrap().layers >= 1))
}

fn layers(c: &mut Criterion) {
    let (scale, transactions) = if quick() { (1, 2_000) } else { (8, 40_000) };
    let made = archived(&Spec {
        scale,
        transactions,
        durability: Durability::Buffered,
        segment_bytes: 2 << 20,
    });
    let log = bytes_below(&made.archive, ".seg");
    let fresh = work_dir().join("layers");
    let first = made.node().window().unwrap().earliest.lsn;
    let state = |lsn| {
        made.node().restore(Target::Lsn(lsn)).into_memory().unwrap().1.into_values().next().unwrap()
    };
    let (before, after) = (state(first), state(Lsn::new(first.get() + transactions / 2).unwrap()));
    let mut encoder = Encoder::new().unwrap();
    let mut patch = Vec::new();
    let limit = || {
        let latest = made.node().restore(Target::Latest).into_memory().unwrap();
        for (old, new) in
            before.chunks_exact(PAGE).zip(after.chunks_exact(PAGE)).filter(|(old, new)| old != new)
        {
            patch.clear();
            encoder.patch(new, old, &mut patch).unwrap();
        }
        black_box((&latest, &patch));
    };
    let rounds = if quick() { 2 } else { 9 };
    let (mut limit, mut limits, mut builds) = (limit, Vec::new(), Vec::new());
    for _ in 0..rounds {
        limits.push(time(&mut limit));
        builds.push(build(&made.archive, &fresh));
    }
    let (limits, builds) = (Times::of(limits), Times::of(builds));
    println!(
        "layers over {} MiB of log: {:.1} ms, {} × restoring to memory and making half the patches ({:.1} ms)",
        log >> 20,
        ms(builds.median),
        builds.over(limits),
        ms(limits.median)
    );
    let mut rows = vec![
        ("restore to memory, make patches, ms".to_owned(), vec![ms(limits.median)]),
        ("layers, ms".to_owned(), vec![ms(builds.median)]),
        ("layers over that".to_owned(), vec![ratio(builds.median, limits.median)]),
    ];

    let (path, count) = many_layers();
    let node = open(&path);
    let latest = node.window().unwrap().latest.lsn;
    let middle = Target::Lsn(Lsn::new(latest.get() / 2).unwrap());
    let [plan, resolve, window] = side_by_side(
        if quick() { 5 } else { 51 },
        [
            &mut || drop(black_box(node.plan(&middle).unwrap())),
            &mut || assert!(black_box(node.resolve(&middle)).is_ok()),
            &mut || assert!(black_box(node.window()).is_ok()),
        ],
    );
    println!(
        "{count} layers: plan {:.0} µs, of which naming the commit {:.0} µs; window {:.0} µs",
        us(plan.median),
        us(resolve.median),
        us(window.median)
    );
    rows.push((format!("plan among {count} layers, us"), vec![us(plan.median)]));
    rows.push(("resolve, us".to_owned(), vec![us(resolve.median)]));
    rows.push(("window, us".to_owned(), vec![us(window.median)]));
    record("layers", &["what", "figure"], &rows);
    if with_criterion() {
        let mut group = c.benchmark_group("layers");
        group.sample_size(10);
        group.bench_function("build", |b| {
            b.iter_custom(|n| (0..n).map(|_| build(&made.archive, &fresh)).sum());
        });
        group.bench_function("plan", |b| b.iter(|| node.plan(&middle).unwrap()));
        group.finish();
    }
    for dir in [fresh, path] {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// An archive with a layer for every few commits.
fn many_layers() -> (std::path::PathBuf, usize) {
    let path = work_dir().join("many-layers");
    let mut writer = WriterOptions::default();
    writer.segment_bytes = 4 << 10;
    let mut engine = Engine::create(&path, 1 << 20, PAGE, ArchiveOptions::new(), writer);
    for _ in 0..if quick() { 200 } else { 4_000 } {
        engine.commit(4);
    }
    engine.writer.close().unwrap();
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 4 << 10;
    options.snapshot_percent = u64::MAX;
    let node = open(&path);
    node.maintain(&options).unwrap();
    let count = node.layers().unwrap().len();
    (path, count)
}

criterion_group!(benches, layers);
criterion_main!(benches);
