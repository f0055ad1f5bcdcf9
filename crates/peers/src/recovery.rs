//! Opening a log that was not closed, from the page cache: what stands between a crash and the
//! first new commit.
//!
//! Not all do the same: `rewound` reads, authenticates and decrypts every byte; okaywal reads every
//! byte and compares CRCs (as its log manager here asks it to); raft-engine reads its records'
//! headers and indexes, not the entries themselves, and builds the index in memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::json;

use rewound::{Durability, WriterOptions};

use crate::common::{
    Random, Spread, bytes_below, copy_dir, fresh, link_dir, quick, quiet, table, time,
    write_results,
};
use crate::logs::{OkayWal, Ours, RaftEngine};

/// Calls with each record: so many bytes in all, none like another.
fn records(total: usize, record: usize, mut f: impl FnMut(usize, &[u8])) {
    let mut bytes = vec![0; record];
    let mut random = Random(88_172_645_463_325_252);
    for i in 0..total / record {
        random.fill(&mut bytes);
        f(i, &bytes);
    }
}

/// The same records in each log, below one directory.
fn make(dir: &Path, total: usize, record: usize) {
    let live = dir.join("live");
    std::fs::create_dir_all(&live).unwrap();
    let mut options = WriterOptions::default();
    options.segment_bytes = 2 * total as u64;
    let ours = Ours::create(&live, options);
    records(total, record, |i, bytes| {
        let mut batch = ours.0.batch();
        batch.log_record(bytes).unwrap();
        batch.commit(Durability::Buffered).unwrap();
        // As the writer's thread does ten times a second.
        if i % 256 == 255 {
            ours.0.flush().unwrap();
        }
    });
    ours.0.flush().unwrap();
    // A copy while it is being written has no seal, as after a crash.
    copy_dir(&live, &dir.join("ours"));
    drop(ours);
    std::fs::remove_dir_all(live).unwrap();

    let raft = RaftEngine::open(dir);
    records(total, record, |i, bytes| raft.append(0, bytes, i % 256 == 255));
    drop(raft);

    let wal = OkayWal::open(dir, okaywal_file(total));
    let mut group: Vec<Vec<u8>> = Vec::new();
    records(total, record, |_, bytes| {
        group.push(bytes.to_vec());
        if group.len() == 256 {
            // One chunk an entry would be one sync a record.
            wal.append(&group.iter().map(Vec::as_slice).collect::<Vec<_>>());
            group.clear();
        }
    });
    wal.close();
}

/// One file, so that none is checkpointed, which would empty it.
fn okaywal_file(total: usize) -> u32 {
    u32::try_from(total + total / 8 + (16 << 20)).unwrap()
}

/// Reads every byte below a directory and does nothing with it.
fn read(dir: &Path, buffer: &mut [u8]) {
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            read(&entry.path(), buffer);
        } else {
            let mut file = File::open(entry.path()).unwrap();
            while file.read(buffer).unwrap() > 0 {}
        }
    }
}

pub fn run() {
    let load = quiet();
    let sizes: &[usize] = if quick() { &[16] } else { &[64, 512] };
    let rounds = if quick() { 3 } else { 11 };
    let mut figures = Vec::new();
    for &mib in sizes {
        for record in [4 << 10, 64 << 10] {
            let dir = fresh("recovery");
            make(&dir, mib << 20, record);
            let (ours, copy) = (dir.join("ours"), dir.join("opened"));
            let log = bytes_below(&ours, &|_| true);
            let mut buffer = vec![0; 1 << 20];
            let names = [
                "read(2) of the same bytes",
                "rewound",
                "rewound, scan alone",
                "raft-engine",
                "okaywal",
            ];
            let mut times: [Vec<f64>; 5] = Default::default();
            let count = (mib << 20) / record;
            for round in 0..=rounds {
                let _ = std::fs::remove_dir_all(&copy);
                // Opening begins a tenure and a segment: each round opens what none has opened.
                link_dir(&ours, &copy);
                let node = Ours::node(&copy);
                let took = [
                    time(|| read(&copy, &mut buffer)),
                    time(|| {
                        let writer = Ours::node(&copy).open_writer().unwrap();
                        assert_eq!(writer.newest().get(), count as u64);
                    }),
                    {
                        let _ = std::fs::remove_dir_all(&copy);
                        link_dir(&ours, &copy);
                        time(|| assert_eq!(node.window().unwrap().latest.lsn.get(), count as u64))
                    },
                    time(|| assert_eq!(RaftEngine::open(&dir).last(), Some(count as u64))),
                    time(|| OkayWal::open(&dir, okaywal_file(mib << 20)).close()),
                ];
                // The first round warms up.
                if round > 0 {
                    times.iter_mut().zip(took).for_each(|(all, t)| all.push(t));
                }
            }
            let kib = record >> 10;
            let mut rows = vec![vec![
                format!("{mib} MiB of {kib} KiB"),
                "ms".into(),
                "GB/s".into(),
                "it ÷ rewound (time)".into(),
            ]];
            for (name, own) in names.iter().zip(&times) {
                let ms = Spread::of(own.iter().map(|t| t * 1e3));
                let rate = Spread::of(own.iter().map(|t| log as f64 / t / 1e9));
                let over = Spread::of(own.iter().zip(&times[1]).map(|(t, ours)| t / ours));
                rows.push(vec![
                    (*name).into(),
                    format!("{:.1}", ms.median),
                    rate.to_string(),
                    over.to_string(),
                ]);
                figures.push(json!({
                    "log": name, "MiB": mib, "record KiB": kib, "milliseconds": ms.json(),
                    "GB a second": rate.json(), "time over rewound": over.json(),
                }));
            }
            table(&rows);
            println!();
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
    write_results(
        "recovery",
        load,
        json!({ "rounds": rounds, "from": "page cache" }),
        figures.into(),
    );
}
