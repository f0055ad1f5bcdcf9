//! What the programs share: payloads, medians, tables, results.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use crate::random::Random;

/// Whether the run is to be short, and to leave the committed results alone.
pub fn quick() -> bool {
    std::env::args().any(|a| a == "--quick")
}

/// The value after an option.
pub fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

/// Where the programs work: below `target`, which is on a real disk.
pub fn work_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/work");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// An empty directory in there.
pub fn fresh(name: &str) -> PathBuf {
    let dir = work_dir().join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Where results are kept: what `REWOUND_RESULTS` names, or `results`.
pub fn results_dir() -> PathBuf {
    std::env::var_os("REWOUND_RESULTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("results"), PathBuf::from)
}

/// How long one call takes, in seconds.
pub fn time(f: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    f();
    begun.elapsed().as_secs_f64()
}

/// Median and quartiles of several runs: half of them lie between the latter.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut all: Vec<f64> = values.into_iter().collect();
        all.sort_unstable_by(f64::total_cmp);
        let at = |quarter: usize| all[(all.len() - 1) * quarter / 4];
        Spread { low: at(1), median: at(2), high: at(3) }
    }

    pub fn json(self) -> Value {
        json!({ "median": rounded(self.median), "low": rounded(self.low), "high": rounded(self.high) })
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}

/// Four digits: what is measured has no more.
fn rounded(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    let rounded = (value * scale).round() / scale;
    // What the division leaves behind the last digit would be printed.
    format!("{rounded:.6}").parse().unwrap_or(rounded)
}

/// Prints a table; the first row is its head.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (i, row) in rows.iter().enumerate() {
        for (c, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match c {
                0 => print!("{cell:<width$}"),
                _ => print!("  {cell:>width$}"),
            }
        }
        println!();
        if i == 0 {
            println!(
                "{}",
                "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1))
            );
        }
    }
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&out).trim().to_owned()
}

/// Load average over the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(0.0)
}

/// Where and when this is measured.
fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|l| l.trim_start_matches([' ', '\t', ':']));
    let work = work_dir();
    json!({
        "processor": model.unwrap_or("unknown"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": output("uname", &["-sr"]),
        "file system": output("stat", &["-f", "-c", "%T", &work.to_string_lossy()]),
        "rustc": output("rustc", &["--version"]),
        "date": output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
    })
}

/// Writes the figures of one program; of a short run only where `REWOUND_RESULTS` says to what
/// place.
pub fn write_results(name: &str, load_before: f64, settings: Value, figures: Value) {
    if quick() && std::env::var_os("REWOUND_RESULTS").is_none() {
        println!("(a short run: results/{name}.json is left as it is)");
        return;
    }
    let all = json!({
        "program": name,
        "short": quick(),
        "machine": machine(),
        "load": { "before": load_before, "after": load() },
        "settings": settings,
        "figures": figures,
    });
    fs::create_dir_all(results_dir()).unwrap();
    let path = results_dir().join(format!("{name}.json"));
    fs::write(&path, format!("{all:#}\n")).unwrap();
    println!("written: {}", path.display());
}

/// A payload that does not compress: no one gains from a codec here.
pub fn payload(bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    Random(88_172_645_463_325_252).fill(&mut payload);
    payload
}

/// Copies a directory.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The same files under other names, which costs no copy. For archives: no file of one ever
/// changes.
pub fn link_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => link_dir(&entry.path(), &to),
            false => fs::hard_link(entry.path(), to).unwrap(),
        }
    }
}

/// Bytes of the files below a directory that are asked for.
pub fn bytes_below(dir: &Path, which: &dyn Fn(&fs::DirEntry) -> bool) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |e: fs::DirEntry| match e.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&e.path(), which),
        // A file that has gone meanwhile takes nothing.
        _ if which(&e) => e.metadata().map_or(0, |m| m.len()),
        _ => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

/// Waits, at most 20 seconds, until little else runs on the machine; says so where something does.
pub fn quiet() -> f64 {
    let begun = Instant::now();
    while !quick() && load() > 1.0 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_secs(2));
    }
    let load = load();
    if load > 1.0 {
        println!("load average {load}: absolute figures will be low");
    }
    load
}
