//! `rewound` beside its peers.
//!
//! ```text
//! cargo run --release -- commit        durable commits of 1 KiB, one thread and eight
//! cargo run --release -- append        appends of 1 KiB that are synced once, at the end
//! cargo run --release -- recovery      opening a log that was not closed
//! cargo run --release -- litestream    a SQLite workload, protected by each
//! cargo run --release -- plots         docs/plots from results/
//! ```
//!
//! Each prints a table and writes `results/<name>.json`. `--quick` is short and writes nothing.
//! Contenders take turns in one process (or, in `litestream`, in the same minutes), so that what
//! disturbs one disturbs all; what counts is the ratio.

#[path = "../../../benches/common/branches.rs"]
mod branches;
mod common;
mod logs;
mod plots;
#[path = "../../../benches/common/random.rs"]
mod random;
mod svg;

mod append;
mod commit;
mod litestream;
mod recovery;
mod workload;

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    match what.as_str() {
        "commit" => commit::run(),
        "append" => append::run(),
        "recovery" => recovery::run(),
        "litestream" => litestream::run(),
        // The application of `litestream`, started by it.
        "workload" => {
            let arg = |i| std::env::args().nth(i).unwrap();
            workload::run(arg(2).as_ref(), arg(3).parse().unwrap(), arg(4).parse().unwrap());
        }
        "plots" => plots::run(),
        _ => {
            eprintln!(
                "one of: commit, append, recovery, litestream, plots; and --quick for a short run"
            );
            std::process::exit(2);
        }
    }
}
