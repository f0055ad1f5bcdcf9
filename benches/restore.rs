//! Restoring a SQLite database of 100 MB and 40,000 transactions of log, against copying the result
//! with `std::fs::copy` and `fsync`.
//!
//! The archive is made once, under `target/`.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rewound::storage::FsStorage;
use rewound::{Archive, ArchiveOptions, CompactOptions, Durability, Node, Target};

use common::tpcb::{Archived, Spec, archived, bytes_below, copy_dir, key};
use common::{copy_and_sync, ms, quick, ratio, record, side_by_side, us, with_criterion, work_dir};

fn spec() -> Spec {
    let (scale, transactions) = if quick() { (1, 2_000) } else { (8, 40_000) };
    Spec { scale, transactions, durability: Durability::Buffered, segment_bytes: 2 << 20 }
}

/// The same archive, with layers over all of its log.
fn with_layers(plain: &Archived) -> Node {
    let path = plain.archive.with_file_name("layers");
    let done = plain.archive.with_file_name("layers.done");
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&path);
        copy_dir(&plain.archive, &path);
        let mut options = CompactOptions::default();
        options.layer_log_bytes = 2 << 20;
        let node = Archive::open(&path, key()).unwrap().node("sqlite").unwrap();
        println!("{:?}", node.maintain(&options).unwrap());
        std::fs::write(done, "").unwrap();
    }
    Archive::open(&path, key()).unwrap().node("sqlite").unwrap()
}

fn restore(node: &Node, to: &Path) {
    let _ = std::fs::remove_file(to);
    node.restore(Target::Latest).into_file(to).unwrap();
}

fn restores(c: &mut Criterion) {
    let plain = archived(&spec());
    let node = plain.node();
    let layered = with_layers(&plain);
    let out = work_dir().join("restored.db");
    let expected = std::fs::read(&plain.state).unwrap();
    let mapped = |archive: &Path| {
        let storage = Arc::new(FsStorage::new(archive).mapped());
        Archive::open_in(storage, key(), ArchiveOptions::new()).unwrap().node("sqlite").unwrap()
    };
    let (mapped_log, mapped_layers) =
        (mapped(&plain.archive), mapped(&plain.archive.with_file_name("layers")));
    for node in [&node, &layered, &mapped_log, &mapped_layers] {
        let _ = std::fs::remove_file(&out);
        println!("{}", node.restore(Target::Latest).into_file(&out).unwrap());
        assert!(std::fs::read(&out).unwrap() == expected, "the restore differs");
    }
    let rounds = if quick() { 3 } else { 15 };
    let [cp, log, layers, log_mapped, layers_mapped] = side_by_side(
        rounds,
        [
            &mut || copy_and_sync(&plain.state, &out),
            &mut || restore(&node, &out),
            &mut || restore(&layered, &out),
            &mut || restore(&mapped_log, &out),
            &mut || restore(&mapped_layers, &out),
        ],
    );
    let log_bytes = plain.log_bytes.iter().sum::<u64>();
    let mb = |bytes: u64| bytes >> 20;
    println!(
        "{} MiB of state, {} MiB of log ({} B a transaction), {} MiB of parts; copy + fsync {:.1} ms",
        mb(expected.len() as u64),
        mb(log_bytes),
        log_bytes / spec().transactions,
        mb(bytes_below(&plain.archive, ".part")),
        cp.median.as_secs_f64() * 1e3,
    );
    let all = [
        ("log", log),
        ("layers", layers),
        ("log, mapped", log_mapped),
        ("layers, mapped", layers_mapped),
    ];
    for (name, times) in all {
        println!(
            "snapshot and {name:<14} {:7.1} ms, {} × (copy + fsync)",
            times.median.as_secs_f64() * 1e3,
            times.over(cp)
        );
    }

    let versions = f64::from(4 * u32::try_from(spec().transactions).unwrap());
    let row = |name: &str, t: common::Times| {
        (name.to_owned(), vec![ms(t.median), ratio(t.median, cp.median)])
    };
    if let Some(replay) = log.median.checked_sub(layers.median).filter(|t| !t.is_zero()) {
        println!(
            "the log alone: {:.1} ms, {:.2} million page versions a second",
            ms(replay),
            versions / us(replay)
        );
    }
    let rows = [
        row("copy + fsync", cp),
        row("snapshot and log", log),
        row("snapshot and layers", layers),
        row("snapshot and log, mapped", log_mapped),
        row("snapshot and layers, mapped", layers_mapped),
    ];
    record("restore", &["what", "ms", "over copy"], &rows);
    if !with_criterion() {
        return;
    }
    let mut group = c.benchmark_group("restore");
    group.sample_size(10);
    group.bench_function("copy + fsync", |b| b.iter(|| copy_and_sync(&plain.state, &out)));
    group.bench_function("snapshot and log", |b| b.iter(|| restore(&node, &out)));
    group.bench_function("snapshot and layers", |b| b.iter(|| restore(&layered, &out)));
    group.finish();
    let _ = std::fs::remove_file(out);
}

criterion_group!(benches, restores);
criterion_main!(benches);
