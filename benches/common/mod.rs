//! What the benchmarks share: ratios measured side by side, a directory for what is made once, a
//! small generator.

#![allow(dead_code, reason = "each benchmark uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "stops at a surprise"
)]

mod branches;
mod random;
pub mod states;
pub mod tpcb;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use random::Random;

/// Whether the run is to be short: `-- --test` or `-- --quick`.
pub fn quick() -> bool {
    std::env::args().any(|a| a == "--test" || a == "--quick")
}

/// Where benchmarks work: a real disk, as the temporary directory often is none.
pub fn work_dir() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// How long one call takes.
pub fn time(f: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    f();
    begun.elapsed()
}

/// The median.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What several runs of the same took.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The median.
    pub median: Duration,
    /// The shortest: what is left where other work on the machine disturbs the rest.
    pub best: Duration,
}

impl Times {
    /// Of all runs.
    pub fn of(mut all: Vec<Duration>) -> Times {
        let median = median(&mut all);
        Times { median, best: all[0] }
    }

    /// This ÷ the other: medians, and the shortest.
    pub fn over(self, other: Times) -> String {
        format!(
            "{:.2} (best {:.2})",
            ratio(self.median, other.median),
            ratio(self.best, other.best)
        )
    }
}

/// Runs all in turn, `rounds` times, so that a disturbance meets all of them.
pub fn side_by_side<const N: usize>(rounds: usize, mut runs: [&mut dyn FnMut(); N]) -> [Times; N] {
    let mut times = vec![Vec::new(); N];
    for round in 0..=rounds {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let took = time(run);
            // The first round warms up.
            if round > 0 || rounds == 0 {
                times.push(took);
            }
        }
    }
    std::array::from_fn(|i| Times::of(std::mem::take(&mut times[i])))
}

/// The same files under other names: a copy of an archive that costs nothing. No file of an archive
/// ever changes.
pub fn link_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            link_dir(&entry.path(), &to);
        } else {
            std::fs::hard_link(entry.path(), to).unwrap();
        }
    }
}

/// Copies a file and has it on the disk: what a restore is compared with.
pub fn copy_and_sync(from: &Path, to: &Path) {
    let _ = std::fs::remove_file(to);
    std::fs::copy(from, to).unwrap();
    std::fs::File::open(to).unwrap().sync_all().unwrap();
    std::fs::File::open(to.parent().unwrap()).unwrap().sync_all().unwrap();
}

/// Keeps a table of figures for plots and documents, in the directory that `REWOUND_RESULTS` names;
/// each row begins with what it is of.
pub fn record(name: &str, columns: &[&str], rows: &[(String, Vec<f64>)]) {
    let Some(dir) = std::env::var_os("REWOUND_RESULTS") else { return };
    let output = |program: &str, args: &[&str]| {
        let out = std::process::Command::new(program)
            .args(args)
            .output()
            .map(|o| o.stdout)
            .unwrap_or_default();
        String::from_utf8_lossy(&out).trim().to_owned()
    };
    let date = output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("0");
    let mut text = format!(
        "{{\n  \"program\": {name:?},\n  \"date\": {date:?},\n  \"load\": {load},\n  \"short\": {},\n  \"columns\": {columns:?},\n  \"rows\": [",
        quick()
    );
    for (i, (what, row)) in rows.iter().enumerate() {
        write!(text, "{}\n    [{what:?}", if i == 0 { "" } else { "," }).unwrap();
        for v in row {
            write!(text, ", {v:.4}").unwrap();
        }
        text.push(']');
    }
    text.push_str("\n  ]\n}\n");
    // Criterion's programs are started in the crate's directory, and so are we.
    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{name}.json")), text).unwrap();
}

/// Names given on the command line: nothing else is measured where there are any.
pub fn wanted(name: &str) -> bool {
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    asked.is_empty() || asked.iter().any(|a| name.contains(a.as_str()))
}

/// Whether criterion is to measure too, after the ratios: with `REWOUND_RESULTS`, only those are
/// asked for.
pub fn with_criterion() -> bool {
    std::env::var_os("REWOUND_RESULTS").is_none()
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Microseconds.
pub fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Gigabytes (10^9 bytes) a second.
pub fn gbps(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e9
}

/// a ÷ b.
pub fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
