//! Durable commits of 1 KiB, from one thread and from eight.

use serde_json::json;

use rewound::WriterOptions;

use crate::common::{Spread, fresh, payload, quick, quiet, table, time, write_results};
use crate::logs::{Log, OkayWal, Ours, RaftEngine, Raw};

const RECORD: usize = 1 << 10;

fn commits(log: &dyn Log, threads: usize, each: usize, record: &[u8]) {
    let one = |thread| (0..each).for_each(|_| log.append_synced(thread, record));
    std::thread::scope(|scope| {
        for thread in 1..threads {
            scope.spawn(move || one(thread));
        }
        one(0);
    });
}

pub fn run() {
    let load = quiet();
    let dir = fresh("commit");
    let logs: [Box<dyn Log>; 4] = [
        Box::new(Raw::create(&dir)),
        Box::new(Ours::create(&dir, WriterOptions::default())),
        Box::new(RaftEngine::open(&dir)),
        Box::new(OkayWal::open(&dir, 64 << 20)),
    ];
    let record = payload(RECORD);
    // Short turns: a disk's mood changes from second to second.
    let (rounds, each) = if quick() { (3, 20) } else { (31, 100) };
    let mut figures = Vec::new();
    for threads in [1, 8] {
        logs.iter().for_each(|log| commits(log.as_ref(), threads, each, &record));
        let mut times = vec![Vec::new(); logs.len()];
        for round in 0..rounds {
            // Each goes first in turn.
            for i in (0..logs.len()).map(|i| (i + round) % logs.len()) {
                times[i].push(time(|| commits(logs[i].as_ref(), threads, each, &record)));
            }
        }
        let count = (threads * each) as f64;
        let mut rows = vec![vec![
            format!("{threads} threads"),
            "commits/s".into(),
            "× raw".into(),
            "rewound ÷ it".into(),
        ]];
        for (log, own) in logs.iter().zip(&times) {
            let rate = Spread::of(own.iter().map(|t| count / t));
            let over_raw = Spread::of(own.iter().zip(&times[0]).map(|(t, raw)| raw / t));
            let ours_over = Spread::of(own.iter().zip(&times[1]).map(|(t, ours)| t / ours));
            rows.push(vec![
                log.name().into(),
                format!("{:.0}", rate.median),
                over_raw.to_string(),
                ours_over.to_string(),
            ]);
            figures.push(json!({
                "log": log.name(), "threads": threads, "commits a second": rate.json(),
                "rate over raw": over_raw.json(), "rate of rewound over it": ours_over.json(),
            }));
        }
        table(&rows);
        println!();
    }
    let settings =
        json!({ "record bytes": RECORD, "rounds": rounds, "commits a round and thread": each });
    write_results("commit", load, settings, figures.into());
    drop(logs);
    std::fs::remove_dir_all(dir).unwrap();
}
