//! Reading sealed frames through the real reader, against nothing but AES-256-GCM over the same
//! bytes.
//!
//! The file is in memory storage, so that this measures our code and not a disk: what is left
//! between the two is a copy of the ciphertext (the reader's `read_at`), headers, and chaining.
//! Ratios first, then criterion's own figures.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise"
)]

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rewound::bench_support::SealedFrames;
use rewound::crypto::Backend;

use common::{gbps, quick, ratio, record, side_by_side, with_criterion};

const FRAMES: [(usize, &str); 4] =
    [(512, "512 B"), (4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")];

/// Messages under one key and their tags, opened by the library that the backend is made of.
struct Raw {
    key: RawKey,
    frame: usize,
    ciphertext: Vec<u8>,
    tags: Vec<[u8; 16]>,
}

enum RawKey {
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    Portable(Box<aes_gcm::Aes256Gcm>),
}

fn nonce(i: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(i as u64).to_le_bytes());
    nonce
}

impl Raw {
    fn new(backend: Backend, frame: usize, total: usize) -> Raw {
        use aes_gcm::KeyInit;
        let key = match backend {
            #[cfg(feature = "aws-lc")]
            Backend::AwsLc => {
                use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
                RawKey::AwsLc(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap()))
            }
            _ => RawKey::Portable(Box::new(aes_gcm::Aes256Gcm::new(&[7; 32].into()))),
        };
        let count = total / frame;
        let mut raw = Raw { key, frame, ciphertext: vec![3; count * frame], tags: Vec::new() };
        for (i, text) in raw.ciphertext.chunks_exact_mut(frame).enumerate() {
            raw.tags.push(match &raw.key {
                #[cfg(feature = "aws-lc")]
                RawKey::AwsLc(key) => {
                    use aws_lc_rs::aead::{Aad, Nonce};
                    let tag = key.seal_in_place_separate_tag(
                        Nonce::from(&nonce(i)),
                        Aad::from([0; 60]),
                        text,
                    );
                    tag.unwrap().as_ref().try_into().unwrap()
                }
                RawKey::Portable(key) => {
                    use aes_gcm::aead::{AeadInOut, inout::InOutBuf};
                    key.encrypt_inout_detached(&nonce(i).into(), &[0; 60], InOutBuf::from(text))
                        .unwrap()
                        .into()
                }
            });
        }
        raw
    }

    /// Opens all of it into a buffer of one frame.
    fn open(&self) -> u64 {
        let mut out = vec![0; self.frame];
        for (i, (text, tag)) in self.ciphertext.chunks_exact(self.frame).zip(&self.tags).enumerate()
        {
            match &self.key {
                #[cfg(feature = "aws-lc")]
                RawKey::AwsLc(key) => {
                    use aws_lc_rs::aead::{Aad, Nonce};
                    key.open_separate_gather(
                        Nonce::from(&nonce(i)),
                        Aad::from([0; 60]),
                        text,
                        tag,
                        &mut out,
                    )
                    .unwrap();
                }
                RawKey::Portable(key) => {
                    use aes_gcm::aead::{AeadInOut, inout::InOutBuf};
                    let inout = InOutBuf::new(text, &mut out[..]).unwrap();
                    key.decrypt_inout_detached(&nonce(i).into(), &[0; 60], inout, &(*tag).into())
                        .unwrap();
                }
            }
            black_box(&mut out);
        }
        self.ciphertext.len() as u64
    }
}

/// Runs one here and one on another thread.
fn both(f: impl Fn() -> u64 + Send, g: impl Fn() -> u64) {
    std::thread::scope(|scope| {
        let other = scope.spawn(f);
        black_box(g());
        black_box(other.join().unwrap());
    });
}

fn scan(c: &mut Criterion) {
    let total: usize = if quick() { 8 << 20 } else { 64 << 20 };
    let rounds = if quick() { 5 } else { 21 };
    println!(
        "backend   frame    raw GB/s  ours GB/s  of raw              two threads: raw  ours (times one)"
    );
    let mut figures = Vec::new();
    for &backend in Backend::available() {
        for (frame, name) in FRAMES {
            let raw = Raw::new(backend, frame, total);
            let ours = SealedFrames::in_memory(backend, frame, total).unwrap();
            // A second file for the second thread: memory storage lends its bytes to one reader at
            // a time.
            let other = SealedFrames::in_memory(backend, frame, total).unwrap();
            let bytes = raw.open();
            assert_eq!(ours.scan().unwrap(), bytes);
            let [r, o, r2, o2] = side_by_side(
                rounds,
                [
                    &mut || assert_eq!(black_box(raw.open()), bytes),
                    &mut || assert_eq!(black_box(ours.scan().unwrap()), bytes),
                    &mut || both(|| raw.open(), || raw.open()),
                    &mut || both(|| other.scan().unwrap(), || ours.scan().unwrap()),
                ],
            );
            figures.push((
                backend.to_string(),
                vec![
                    frame as f64,
                    gbps(bytes, r.median),
                    gbps(bytes, o.median),
                    ratio(r.median, o.median),
                    2.0 * ratio(r.median, r2.median),
                    2.0 * ratio(o.median, o2.median),
                ],
            ));
            println!(
                "{:<9} {name:<8} {:8.2}  {:9.2}  {:<17}  {:16.2}  {:4.2}",
                backend.to_string(),
                gbps(bytes, r.best),
                gbps(bytes, o.best),
                r.over(o),
                2.0 * ratio(r.best, r2.best),
                2.0 * ratio(o.best, o2.best),
            );
        }
    }

    let columns = [
        "backend",
        "frame bytes",
        "raw GB/s",
        "ours GB/s",
        "ours over raw",
        "raw, two threads",
        "ours, two threads",
    ];
    record("scan", &columns, &figures);
    if !with_criterion() {
        return;
    }
    let mut group = c.benchmark_group("scan");
    group.sample_size(20);
    let total = 16 << 20;
    group.throughput(Throughput::Bytes(total as u64));
    for &backend in Backend::available() {
        for (frame, name) in FRAMES {
            let raw = Raw::new(backend, frame, total);
            let ours = SealedFrames::in_memory(backend, frame, total).unwrap();
            group.bench_function(format!("{backend} {name} raw"), |b| b.iter(|| raw.open()));
            group.bench_function(format!("{backend} {name}"), |b| b.iter(|| ours.scan().unwrap()));
        }
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
