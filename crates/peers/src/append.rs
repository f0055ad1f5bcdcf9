//! Many appends of 1 KiB, and one sync at the end of them: what a log costs where the disk is not
//! waited for.

use serde_json::json;

use rewound::WriterOptions;

use crate::common::{Spread, fresh, payload, quick, quiet, table, time, write_results};
use crate::logs::{Log, OkayWal, Ours, RaftEngine, Raw};

const RECORD: usize = 1 << 10;

pub fn run() {
    let load = quiet();
    let dir = fresh("append");
    let logs: [Box<dyn Log>; 4] = [
        Box::new(Raw::create(&dir)),
        Box::new(Ours::create(&dir, WriterOptions::default())),
        Box::new(RaftEngine::open(&dir)),
        Box::new(OkayWal::open(&dir, 64 << 20)),
    ];
    let (rounds, count) = if quick() { (3, 1 << 10) } else { (21, 16 << 10) };
    let bytes = payload(count * RECORD);
    let records: Vec<&[u8]> = bytes.chunks_exact(RECORD).collect();
    logs.iter().for_each(|log| log.append_all(&records));
    let mut times = vec![Vec::new(); logs.len()];
    for round in 0..rounds {
        for i in (0..logs.len()).map(|i| (i + round) % logs.len()) {
            times[i].push(time(|| logs[i].append_all(&records)));
        }
    }
    let mut figures = Vec::new();
    let mut rows = vec![vec![
        "log".into(),
        "MB/s".into(),
        "µs a record".into(),
        "× raw".into(),
        "rewound ÷ it".into(),
    ]];
    for (log, own) in logs.iter().zip(&times) {
        let rate = Spread::of(own.iter().map(|t| bytes.len() as f64 / t / 1e6));
        let each = Spread::of(own.iter().map(|t| t / count as f64 * 1e6));
        let over_raw = Spread::of(own.iter().zip(&times[0]).map(|(t, raw)| raw / t));
        let ours_over = Spread::of(own.iter().zip(&times[1]).map(|(t, ours)| t / ours));
        rows.push(vec![
            log.name().into(),
            format!("{:.0}", rate.median),
            format!("{:.2}", each.median),
            over_raw.to_string(),
            ours_over.to_string(),
        ]);
        figures.push(json!({
            "log": log.name(), "MB a second": rate.json(), "microseconds a record": each.json(),
            "rate over raw": over_raw.json(), "rate of rewound over it": ours_over.json(),
        }));
    }
    table(&rows);
    let settings =
        json!({ "record bytes": RECORD, "rounds": rounds, "records a round, then a sync": count });
    write_results("append", load, settings, figures.into());
    drop(logs);
    std::fs::remove_dir_all(dir).unwrap();
}
