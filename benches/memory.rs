//! Peak memory of restoring a large state with a long log, in a process of its own.
//!
//! `REWOUND_STATE_MIB` and `REWOUND_LOG_MIB` set the sizes (512 and 384; the archive, of pages that do not compress, is made once
//! under `target/` and takes as much). Peaks are what the kernel says (`VmHWM`).

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rewound::{
    Archive, BaseSpace, CompactOptions, Consistency, Durability, KeyFile, Origin, PageId, PageSize, PageSource,
    Position, ReplayOptions, Result, Target,
};

use common::{Random, quick, work_dir};

const PAGE: u64 = 4096;

/// The page as it is after its version `version`: no two alike.
fn image(page: u64, version: u64, out: &mut [u8]) {
    Random((page + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version.wrapping_mul(0xD1B5_4A32_D192_ED03) | 1).fill(out);
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
            let page = random.below(pages);
            image(page, commit + 1, &mut out);
            batch.write_page(PageId::new(space, page), &out, None).unwrap();
        }
        batch.commit(Durability::Buffered).unwrap();
    }
    writer.close().unwrap();
}

/// A line of `/proc/self/status`, in KiB.
fn status(what: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = all.lines().find_map(|l| l.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn restore(path: &Path, log_memory: usize) {
    let node = Archive::open(path, key()).unwrap().node("n").unwrap();
    let mut options = ReplayOptions::default();
    options.log_memory = log_memory;
    options.temporary_dir = work_dir();
    let out = work_dir().join("memory.out");
    let _ = std::fs::remove_file(&out);
    let before = status("VmHWM");
    let begun = Instant::now();
    let report = node.restore(Target::Latest).options(options.clone()).into_file(&out).unwrap();
    println!(
        "{} MiB state, {} commits of log; threads {}, log_memory {} MiB, unit_bytes {} MiB: peak {} MiB ({} MiB before), {:.1} s",
        report.bytes_written >> 20,
        report.commits_replayed,
        options.threads,
        options.log_memory >> 20,
        options.unit_bytes >> 20,
        status("VmHWM") >> 10,
        before >> 10,
        begun.elapsed().as_secs_f64(),
    );
    std::fs::remove_file(out).unwrap();
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some([path, log_memory]) = args.iter().position(|a| a == "--restore").and_then(|i| args.get(i + 1..i + 3)) {
        return restore(&PathBuf::from(path), log_memory.parse().unwrap());
    }
    let mib = |name: &str, default: u64| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let (state, log) = if quick() { (32, 16) } else { (mib("REWOUND_STATE_MIB", 512), mib("REWOUND_LOG_MIB", 384)) };
    let path = work_dir().join(format!("memory-{state}-{log}"));
    let done = path.with_extension("done");
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&path);
        make(&path, state << 20, log << 20);
        std::fs::write(done, "").unwrap();
    }
    for log_memory in [ReplayOptions::default().log_memory, 16 << 20] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--restore".as_ref(), path.as_os_str()])
            .arg(log_memory.to_string())
            .status();
        assert!(child.unwrap().success());
    }
}
