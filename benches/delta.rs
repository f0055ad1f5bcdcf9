//! Patches and compression of pages, on the page writes of a TPC-B run on SQLite.
//!
//! Times are per page; the sizes are printed first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise"
)]

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewound::delta::{Decoder, Encoder};
use rusqlite::Connection;

use common::{quick, record, side_by_side, us, with_criterion};

/// A page before and after a commit.
type Pair = (Vec<u8>, Vec<u8>);

const PAGE: usize = 4096;
const ACCOUNTS: i64 = 100_000;
const TRANSACTIONS: i64 = 1_000;

/// What a TPC-B run writes, and the database it leaves.
fn tpc_b() -> (Vec<Pair>, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tpcb.db");
    let mut db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
         PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE accounts (aid INTEGER PRIMARY KEY, bid INT, abalance INT, filler TEXT);
         CREATE TABLE tellers (tid INTEGER PRIMARY KEY, bid INT, tbalance INT, filler TEXT);
         CREATE TABLE branches (bid INTEGER PRIMARY KEY, bbalance INT, filler TEXT);
         CREATE TABLE history (tid INT, bid INT, aid INT, delta INT, mtime INT, filler TEXT);
         BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
           INSERT INTO accounts SELECT i, 1, 0, printf('%84s', '') FROM n;
         INSERT INTO tellers SELECT aid, 1, 0, filler FROM accounts WHERE aid <= 10;
         INSERT INTO branches SELECT 1, 0, filler FROM accounts WHERE aid = 1;
         COMMIT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    ))
    .unwrap();
    let file = std::fs::read(&path).unwrap();
    let mut pages: BTreeMap<u32, Vec<u8>> =
        (1..).zip(file.chunks(PAGE).map(<[u8]>::to_vec)).collect();

    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: i64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        i64::try_from(state >> 16).unwrap() % below
    };
    for t in 0..TRANSACTIONS {
        let (aid, tid, delta) = (random(ACCOUNTS) + 1, random(10) + 1, random(10_000) - 5_000);
        let tx = db.transaction().unwrap();
        for (sql, id) in [
            ("UPDATE accounts SET abalance = abalance + ?1 WHERE aid = ?2", aid),
            ("UPDATE tellers SET tbalance = tbalance + ?1 WHERE tid = ?2", tid),
            ("UPDATE branches SET bbalance = bbalance + ?1 WHERE bid = ?2", 1),
        ] {
            tx.prepare_cached(sql).unwrap().execute((delta, id)).unwrap();
        }
        tx.prepare_cached("INSERT INTO history VALUES (?1, 1, ?2, ?3, ?4, printf('%22s', ''))")
            .unwrap()
            .execute((tid, aid, delta, 1_700_000_000_000 + t * 7))
            .unwrap();
        tx.commit().unwrap();
    }

    // A WAL is a header of 32 bytes, then frames of a header of 24 and a page.
    let wal = std::fs::read(path.with_extension("db-wal")).unwrap();
    let mut pairs = Vec::new();
    for frame in wal[32..].chunks_exact(24 + PAGE) {
        let number = u32::from_be_bytes(frame[..4].try_into().unwrap());
        let new = frame[24..].to_vec();
        if let Some(old) = pages.insert(number, new.clone()) {
            pairs.push((old, new));
        }
    }
    (pairs, pages.into_values().collect())
}

/// What each step takes, all in turns; the copy of a page is the least that any can.
fn steps(
    pairs: &[Pair],
    patches: &[(&Vec<u8>, Vec<u8>)],
    pages: &[Vec<u8>],
    images: &[Vec<u8>],
    blocks: &[Vec<u8>],
    packed: &[Vec<u8>],
) {
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let (mut out, mut page, mut block) = (Vec::new(), vec![0; PAGE], vec![0; 64 << 10]);
    let names = [
        "copy a page",
        "make a patch",
        "apply a patch",
        "compress a page",
        "decompress a page",
        "compress 64 KiB",
        "decompress 64 KiB",
    ];
    let counts = [
        pairs.len(),
        pairs.len(),
        patches.len(),
        pages.len(),
        images.len(),
        blocks.len(),
        packed.len(),
    ];
    let mut other = Encoder::new().unwrap();
    let (mut third, mut fourth) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let mut blocks_out = Vec::new();
    let mut fifth = Decoder::new().unwrap();
    let mut copied = vec![0; PAGE];
    let mut patch = Vec::new();
    let mut image = vec![0; PAGE];
    let times = side_by_side(
        if quick() { 1 } else { 15 },
        [
            &mut || {
                for (old, _) in pairs {
                    black_box(&mut copied).copy_from_slice(black_box(old));
                }
            },
            &mut || {
                for (old, new) in pairs {
                    patch.clear();
                    encoder.patch(black_box(new), old, &mut patch).unwrap();
                }
            },
            &mut || {
                for (old, patch) in patches {
                    decoder.apply(black_box(patch), old, &mut page).unwrap();
                }
            },
            &mut || {
                for page in pages {
                    out.clear();
                    other.compress(black_box(page), &mut out).unwrap();
                }
            },
            &mut || {
                for packed in images {
                    fourth.decompress(black_box(packed), &mut image).unwrap();
                }
            },
            &mut || {
                for block in blocks {
                    blocks_out.clear();
                    third.compress(black_box(block), &mut blocks_out).unwrap();
                }
            },
            &mut || {
                for packed in packed {
                    fifth.decompress(black_box(packed), &mut block).unwrap();
                }
            },
        ],
    );
    let each = |i: usize| us(times[i].median) / counts[i] as f64;
    let rows: Vec<(String, Vec<f64>)> =
        (0..7).map(|i| (names[i].to_owned(), vec![each(i)])).collect();
    for (name, us) in &rows {
        println!("{name:<18} {:6.2} µs", us[0]);
    }
    record("delta", &["step", "us"], &rows);
}

fn delta(c: &mut Criterion) {
    let (pairs, pages) = tpc_b();
    let mut encoder = Encoder::new().unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut out = Vec::new();
    let mut page = vec![0; PAGE];

    let mut patches = Vec::new();
    for (old, new) in &pairs {
        let mut patch = Vec::new();
        encoder.patch(new, old, &mut patch).unwrap();
        patches.push((old, patch));
    }
    let mut images = Vec::new();
    for plain in &pages {
        let mut image = Vec::new();
        if encoder.compress(plain, &mut image).unwrap().is_some() {
            images.push(image);
        }
    }
    let blocks: Vec<Vec<u8>> = pages.chunks(16).map(<[Vec<u8>]>::concat).collect();
    let mean =
        |sizes: &mut dyn Iterator<Item = usize>, n: usize| sizes.sum::<usize>() as f64 / n as f64;
    println!(
        "{} pages of {PAGE} B written: {:.1} B a patch; {:.1} B a compressed image",
        pairs.len(),
        mean(&mut patches.iter().map(|(_, patch)| patch.len()), pairs.len()),
        mean(&mut images.iter().map(Vec::len), images.len()),
    );

    let mut packed = Vec::new();
    for block in blocks.iter().filter(|block| block.len() == 64 << 10) {
        let mut image = Vec::new();
        if encoder.compress(block, &mut image).unwrap().is_some() {
            packed.push(image);
        }
    }
    steps(&pairs, &patches, &pages, &images, &blocks, &packed);
    let mut block = vec![0; 64 << 10];
    if !with_criterion() {
        return;
    }

    let mut group = c.benchmark_group("delta");
    group.throughput(Throughput::Bytes(PAGE as u64));
    // Each iteration takes the next page, so that the caches see many.
    let mut cycle = pairs.iter().cycle();
    group.bench_function("patch make", |b| {
        b.iter(|| {
            let (old, new) = cycle.next().unwrap();
            out.clear();
            encoder.patch(black_box(new), old, &mut out).unwrap()
        });
    });
    let mut cycle = patches.iter().cycle();
    group.bench_function("patch apply", |b| {
        b.iter(|| {
            let (old, patch) = cycle.next().unwrap();
            decoder.apply(black_box(patch), old, &mut page).unwrap();
        });
    });
    let mut cycle = pages.iter().cycle();
    group.bench_function("compress", |b| {
        b.iter(|| {
            out.clear();
            encoder.compress(black_box(cycle.next().unwrap()), &mut out).unwrap()
        });
    });
    let mut cycle = images.iter().cycle();
    group.bench_function("decompress", |b| {
        b.iter(|| {
            decoder.decompress(black_box(cycle.next().unwrap()), &mut page).unwrap();
        });
    });
    group.throughput(Throughput::Bytes(64 << 10));
    let mut cycle = blocks.iter().filter(|block| block.len() == 64 << 10).cycle();
    group.bench_function("compress 64 KiB block", |b| {
        b.iter(|| {
            out.clear();
            encoder.compress(black_box(cycle.next().unwrap()), &mut out).unwrap()
        });
    });
    let mut cycle = packed.iter().cycle();
    group.bench_function("decompress 64 KiB block", |b| {
        b.iter(|| {
            decoder.decompress(black_box(cycle.next().unwrap()), &mut block).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, delta);
criterion_main!(benches);
