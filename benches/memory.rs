//! Peak memory of what touches a large state with a long log, each in a process of its own.
//!
//! `REWOUND_STATE_MIB` and `REWOUND_LOG_MIB` set the sizes (512 and 384; the archive is made once
//! under `target/`: a sixteenth of the state, whose pages compress so, and all of the log, whose
//! pages do not and are of an eighth of the state). Peaks are what the kernel says (`VmHWM`). With
//! the sizes of 10,240 each it takes 23 GiB of disk at its fullest, and leaves nothing: what is
//! larger than 4 GiB is deleted at the end.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise"
)]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rewound::{
    Archive, BaseSpace, CompactOptions, Consistency, Durability, KeyFile, Node, Origin, PageId,
    PageSink, PageSize, PageSource, Position, ReplayOptions, Result, SpaceId, Target,
    WriterOptions,
};

use common::{Random, link_dir, quick, record, work_dir};

const PAGE: u64 = 4096;

/// The page as it is after its version `version`: no two alike. The first versions compress, to
/// keep the archive small; the log's do not.
fn image(page: u64, version: u64, out: &mut [u8]) {
    let filled = if version == 0 { out.len() / 16 } else { out.len() };
    let (random, zeros) = out.split_at_mut(filled);
    let seed = (page + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ version.wrapping_mul(0xD1B5_4A32_D192_ED03);
    Random(seed | 1).fill(random);
    zeros.fill(0);
}

struct Synthetic;

impl PageSource for Synthetic {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        Ok(Consistency::Frozen)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, first: u64, buf: &mut [u8]) -> Result<()> {
        for (page, out) in (first..).zip(buf.chunks_exact_mut(4096)) {
            image(page, 0, out);
        }
        Ok(())
    }
}

fn key() -> KeyFile {
    KeyFile::from_bytes([1; 32])
}

fn node(path: &Path) -> Node {
    Archive::open(path, key()).unwrap().node("n").unwrap()
}

/// A state, and after it a log of full images of random pages.
fn make(path: &Path, state: u64, log: u64) {
    let node = Archive::create(path, key()).unwrap().create_node("n", Origin::Existing).unwrap();
    let writer = node.open_writer().unwrap();
    let pages = state / PAGE;
    let mut batch = writer.batch();
    let space = batch.create_space("data", PageSize::KIB_4).unwrap();
    batch.set_length(space, state).unwrap();
    batch.commit(Durability::Synced).unwrap();
    writer.base_snapshot(&mut Synthetic, &CompactOptions::default()).unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut out = vec![0; 4096];
    for commit in 0..log / PAGE / 8 {
        let mut batch = writer.batch();
        for _ in 0..8 {
            let page = random.below(pages / 8) * 8;
            image(page, commit + 1, &mut out);
            batch.write_page(PageId::new(space, page), &out, None).unwrap();
        }
        batch.commit(Durability::Buffered).unwrap();
    }
    writer.close().unwrap();
}

/// A log in one segment that was never sealed, as a process that dies leaves it.
fn make_unsealed(path: &Path, log: u64) {
    let node = Archive::create(path, key()).unwrap().create_node("n", Origin::Empty).unwrap();
    let mut options = WriterOptions::default();
    options.segment_bytes = 2 * log;
    let writer = node.open_writer_with(options).unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut record = vec![0; 32 << 10];
    for _ in 0..log / record.len() as u64 {
        random.fill(&mut record);
        let mut batch = writer.batch();
        batch.log_record(&record).unwrap();
        batch.commit(Durability::Buffered).unwrap();
    }
    writer.flush().unwrap();
    std::mem::forget(writer);
}

/// A line of `/proc/self/status`, in KiB.
fn status(what: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = all.lines().find_map(|l| l.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn replay(log_memory: usize) -> ReplayOptions {
    let mut options = ReplayOptions::default();
    options.log_memory = log_memory;
    options.temporary_dir = work_dir();
    options
}

/// The archive under another name: what is built there is not in it.
fn linked(path: &Path) -> PathBuf {
    let to = path.with_extension("linked");
    let _ = std::fs::remove_dir_all(&to);
    link_dir(path, &to);
    to
}

/// Writes everything, each stretch over the one before, so that the disk need not hold it.
struct Overwritten(File);

impl PageSink for Overwritten {
    fn write(&self, _: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, offset % (256 << 20)).unwrap();
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.0.sync_all().unwrap();
        Ok(())
    }
}

/// Does one thing, and says what it did.
fn run(what: &str, path: &Path, state: u64, log: u64) -> String {
    let mut compact = CompactOptions::default();
    compact.replay = replay(compact.replay.log_memory);
    match what {
        "write" => {
            make(path, state, log);
            "base copy, then the log".to_owned()
        }
        "write-unsealed" => {
            make_unsealed(path, log);
            "a log without pages, in one segment".to_owned()
        }
        "restore" | "restore-16" => {
            let options =
                replay(if what == "restore" { compact.replay.log_memory } else { 16 << 20 });
            let memory = options.log_memory >> 20;
            let open = |_: &_| Ok(Overwritten(tempfile::tempfile_in(work_dir()).unwrap()));
            let report =
                node(path).restore(Target::Latest).options(options).into_sink(open).unwrap();
            format!("log_memory {memory} MiB; {} commits of log", report.commits_replayed)
        }
        "scan" => {
            let window = node(path).window().unwrap();
            format!("the unsealed segment, {} commits", window.latest.lsn)
        }
        "recover" => {
            let writer = node(path).open_writer().unwrap();
            format!("open a writer over it, {} commits", writer.newest())
        }
        "snapshot" => {
            let report = node(path).build_snapshot(&Target::Latest, &compact).unwrap();
            format!("{} MiB written", report.bytes_written >> 20)
        }
        "maintain" => {
            // Few layers and no more than one snapshot, so that it fits on a disk; each layer needs
            // many times `log_memory`.
            compact.layer_log_bytes = (log / 7).max(1 << 20);
            compact.snapshot_percent = 400;
            let report = node(path).maintain(&compact).unwrap();
            let mib = report.bytes_written >> 20;
            format!("{} layers, {} snapshots, {mib} MiB written", report.layers, report.snapshots)
        }
        _ => panic!("{what}: unknown"),
    }
}

fn child(args: &[String]) {
    let [what, path, state, log] = args else { panic!("what, path, state, log") };
    let before = status("VmHWM");
    let begun = Instant::now();
    let said = run(what, Path::new(path), state.parse().unwrap(), log.parse().unwrap());
    let figures = [status("VmHWM") >> 10, before >> 10].map(|n| n.to_string()).join(" ");
    // For the process that started this one.
    eprintln!("{figures} {}", begun.elapsed().as_secs_f64());
    println!(
        "{what:<15} {:>5} MiB at the peak, {:>3} before  {:>8.2} s  {said}",
        status("VmHWM") >> 10,
        before >> 10,
        begun.elapsed().as_secs_f64(),
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(i) = args.iter().position(|a| a == "--child") {
        return child(&args[i + 1..i + 5]);
    }
    let mib =
        |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let (state, log) = if quick() {
        (32, 16)
    } else {
        (mib("REWOUND_STATE_MIB", 512), mib("REWOUND_LOG_MIB", 384))
    };
    let mut rows = Vec::new();
    let mut start = |what: &str, path: &Path, log: u64| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--child", what])
            .arg(path)
            .args([(state << 20).to_string(), (log << 20).to_string()]);
        let out = child.stdout(Stdio::inherit()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{what} failed: {said}");
        let figures: Vec<f64> =
            said.lines().last().unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
        rows.push((what.to_owned(), figures));
    };
    let path = work_dir().join(format!("memory-{state}-{log}"));
    let done = path.with_extension("done");
    println!("{state} MiB of state, {log} MiB of log");
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&path);
        start("write", &path, log);
        std::fs::write(&done, "").unwrap();
    }
    for what in ["restore", "restore-16"] {
        start(what, &path, log);
    }
    for what in ["snapshot", "maintain"] {
        let linked = linked(&path);
        start(what, &linked, log);
        std::fs::remove_dir_all(linked).unwrap();
    }
    let unsealed = work_dir().join("memory-unsealed");
    let _ = std::fs::remove_dir_all(&unsealed);
    let (all, log) = (log, log.min(2048));
    println!("{log} MiB of log in one segment without a seal");
    for what in ["write-unsealed", "scan", "recover"] {
        start(what, &unsealed, log);
    }
    std::fs::remove_dir_all(unsealed).unwrap();
    if state + log > 4096 {
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::remove_file(&done).unwrap();
    }
    record(&format!("memory-{state}-{all}"), &["what", "peak MiB", "before MiB", "s"], &rows);
}
