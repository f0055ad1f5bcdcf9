//! The watcher is started, stopped and killed at random moments under two heavy writers, which are
//! killed now and then as well.
//!
//! `REWOUND_STORM` rounds (10), each followed by restoring every `REWOUND_STEP`-th commit (5) and
//! all around comparisons; between them the counters have to agree with the number of commits.
//! Whatever happens, every commit that the archive has is whole, and transactions are missing only
//! where a comparison says so.

use std::time::{Duration, Instant};

use rewound_sqlite::{WatchOptions, backup};

use super::oracle::{self, Seen};
use super::process::Process;
use super::support::{Place, Random, connect, seed};
use super::workload::{Shape, counter, prepare};

/// Rounds on one archive before the next begins with a new one, so that restores stay cheap.
const ROUNDS: u64 = 10;

#[test]
fn start_stop_storm() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |s| s.parse().unwrap());
    let (rounds, step) = (number("REWOUND_STORM", 10), number("REWOUND_STEP", 5));
    let mut random = Random(seed());
    let begun = Instant::now();
    let (mut commits, mut resyncs, mut done) = (0, 0, 0);
    while done < rounds {
        let (c, r) = archive(&mut random, ROUNDS.min(rounds - done), step);
        (commits, resyncs, done) = (commits + c, resyncs + r, done + ROUNDS);
        eprintln!(
            "{done} rounds: {commits} commits checked, {resyncs} comparisons, {:?}",
            begun.elapsed()
        );
    }
}

fn archive(random: &mut Random, rounds: u64, step: u64) -> (u64, u64) {
    let place = Place::new();
    let db = connect(&place.db());
    prepare(&db);
    let node = place.node();
    let writer = |random: &mut Random, who: u64| {
        let shape = Shape {
            blob: if who == 1 { 400 } else { 4_000 },
            changes: if who == 1 { 3 } else { 12 },
            checkpoint: [0, 10, 60][random.below(3) as usize],
            cache: if who == 1 { -2000 } else { 5 },
            ..Shape::default()
        };
        Process::writer(
            &place.db(),
            who,
            random.next(),
            &shape,
            [100, 500, 4_000][random.below(3) as usize],
        )
    };
    let mut writers = [1, 2].map(|who| Some(writer(random, who)));
    let (mut checked, mut resyncs) = (0u64, 0);
    let mut last: Option<Seen> = None;
    for _ in 0..rounds {
        // At 256 KiB the log is nearly always being copied back when the watcher ends.
        let wal_bytes_max =
            if random.below(2) == 0 { 256 << 10 } else { WatchOptions::default().wal_bytes_max };
        let mut watcher = Process::watcher(&place.db(), &place.path("archive"), wal_bytes_max);
        if random.below(2) == 0 {
            // However it begins.
            watcher.until(&["CopyStarted", "Continued", "ResyncStarted"]);
        }
        std::thread::sleep(Duration::from_millis(random.below(500)));
        if random.below(3) == 0 {
            let which = random.below(2) as usize;
            writers[which].take().unwrap().kill();
            writers[which] = Some(writer(random, which as u64 + 1));
            std::thread::sleep(Duration::from_millis(random.below(200)));
        }
        if random.below(2) == 0 {
            watcher.kill();
        } else {
            watcher.stop();
        }
        // Restoring takes a while; the writers are frozen meanwhile, wherever they happen to be.
        writers.iter().flatten().for_each(|w| w.signal("STOP"));
        // Nothing to restore before the first copy is complete.
        if place.reopened().window().is_ok() {
            let seen =
                oracle::check_from(&place.reopened(), last.as_ref().map_or(0, |s| s.lsn), step);
            checked += seen.len() as u64;
            resyncs += seen.iter().skip(1).filter(|s| s.resync).count() as u64;
            let newest = seen.last().unwrap().clone();
            assert!(newest.counter <= counter(&db), "the archive holds what never was");
            if let (Some(before), Some(again)) = (&last, seen.first()) {
                assert_eq!(before.counter, again.counter, "LSN {} has changed", before.lsn);
            }
            last = Some(newest);
        }
        writers.iter().flatten().for_each(|w| w.signal("CONT"));
    }
    writers.into_iter().flatten().for_each(Process::kill);
    // And at last it catches up with everything.
    backup(&node, place.db(), WatchOptions::default(), |_| {}).unwrap();
    let seen = oracle::check_from(&node, last.map_or(0, |s| s.lsn), step);
    assert_eq!(seen.last().unwrap().counter, counter(&db));
    (checked + seen.len() as u64, resyncs)
}
