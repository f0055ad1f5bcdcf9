//! Golden files: a small archive of format version 1, as it was written once, decoded for ever.
//!
//! `tests/golden/v1/` holds the archive, `tests/golden/v1.sums` what it restores to. A change of
//! the format, or of a choice that the writer makes, has to replace both, in one commit that says
//! so in `docs/format.md` and `CHANGELOG.md`:
//!
//! ```text
//! cargo test --test it golden::write -- --ignored
//! ```
//!
//! Once a version is released its directory stays as it is, and is only read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rewound::storage::MemStorage;
use rewound::{
    Archive, CompactOptions, Durability, Error, HoldTarget, Node, Origin, Policy, Redo, RedoRecord,
    Result, Scope, SweepOptions, Target, WriterOptions,
};
use sha2::{Digest, Sha256};

use crate::ledger::{Change, Ledger, Run, lsn, single};
use crate::retention::{DAY, actor, days};
use crate::support::{TestClock, archive_options, key, quiet};

use Change::{Beside, Create, Drop as DropSpace, Length, Page, Point, Range, Record, RedoPoint};
use Durability::{Buffered, Synced};

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Frames so small that a commit of some kilobytes takes several pieces; no cache, so that byte
/// ranges are logged as such.
fn options() -> WriterOptions {
    let mut options = quiet();
    options.frame_bytes = 256;
    options.image_cache = 0;
    options
}

/// Writes the archive: every kind of file, frame, record and catalog event that this version has.
fn generate() -> MemStorage {
    let clock = TestClock::new();
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    let archive = Archive::create_in(
        Arc::new(run.storage.clone()),
        key(),
        archive_options(&clock, 1).actor("golden", "to be read for ever"),
    )
    .unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();

    let writer = node.open_writer_with(options()).unwrap();
    let commit = |run: &mut Run, writer: &_, durability, changes: &[Change]| {
        clock.advance(1_000_000);
        run.commit("n", writer, durability, changes).unwrap()
    };
    commit(
        &mut run,
        &writer,
        Synced,
        &[Create("main"), Page("main", 0, 1, false), Page("main", 4, 2, false)],
    );
    commit(
        &mut run,
        &writer,
        Buffered,
        &[Page("main", 0, 3, true), Range("main", 2, 30, b"a range of bytes")],
    );
    commit(&mut run, &writer, Buffered, &[Beside("mark 1"), Record(20), Record(0)]);
    clock.advance(5_000_000);
    writer.tick().unwrap();
    commit(&mut run, &writer, Synced, &[Page("main", 4, 4, true), Point("before the large one")]);
    let large = [
        Create("wide"),
        Record(5_000),
        Page("wide", 0, 5, false),
        Page("wide", 2, 6, false),
        RedoPoint(3),
    ];
    commit(&mut run, &writer, Synced, &large);
    commit(&mut run, &writer, Synced, &[Length("main", 1_100), Page("main", 1, 7, false)]);
    writer.close().unwrap();

    let mut compact = CompactOptions::default();
    compact.layer_log_bytes = 1_000;
    compact.replay = single();
    node.maintain(&compact).unwrap();

    // A segment that a crash left, with zeroed space behind its end, and one that continues it.
    let writer = node.open_writer_with(options()).unwrap();
    commit(&mut run, &writer, Synced, &[Page("main", 0, 8, true), Page("wide", 2, 9, true)]);
    commit(&mut run, &writer, Synced, &[Page("wide", 2, 10, true)]);
    run.storage = run.storage.fork();
    drop((writer, node, archive));
    let archive =
        Archive::open_in(Arc::new(run.storage.clone()), key(), archive_options(&clock, 2)).unwrap();
    let node = archive.node("n").unwrap();
    let writer = node.open_writer_with(options()).unwrap();
    commit(
        &mut run,
        &writer,
        Synced,
        &[Page("main", 1, 11, true), Page("wide", 0, 12, true), Point("after the crash")],
    );
    commit(
        &mut run,
        &writer,
        Buffered,
        &[DropSpace("main"), Create("other"), Page("other", 0, 13, false)],
    );
    writer.rotate_segment().unwrap();
    // A layer of patches against the first layers.
    compact.snapshot_percent = 1_000_000;
    node.maintain(&compact).unwrap();
    assert!(node.layers().unwrap().iter().any(|l| l.from.is_none()), "a snapshot");
    assert!(node.layers().unwrap().iter().filter(|l| l.from.is_some()).count() > 1, "layers");

    commit(
        &mut run,
        &writer,
        Synced,
        &[Page("other", 0, 14, true), Beside("mark 2"), RedoPoint(9)],
    );
    commit(&mut run, &writer, Synced, &[Page("other", 1, 15, false)]);
    clock.advance(7_000_000);
    writer.tick().unwrap();
    // The newest segment is still being written.
    run.storage.fork()
}

/// Every event of retention, and what it leaves: a window of two days of ten, a held stretch, a
/// commit with a name, a node that is gone.
fn generate_retention() -> MemStorage {
    let clock = TestClock::new();
    let mut run = Run { storage: MemStorage::without_recording(), ledger: Ledger::default() };
    let archive =
        Archive::create_in(Arc::new(run.storage.clone()), key(), archive_options(&clock, 4))
            .unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    archive.create_node("gone", Origin::Empty).unwrap();
    let admin = archive.administrator(actor());
    admin
        .set_retention(Scope::Node("gone"), &Policy::periodic(days(1), days(3), 2).log_for(days(1)))
        .unwrap();
    admin.set_retention(Scope::Archive, &Policy::days(2).restore_points_for(days(30))).unwrap();
    for (scope, name) in [(Scope::Archive, "archive"), (Scope::Node("n"), "node")] {
        admin.lock(scope, name).unwrap();
    }
    admin.release_lock(Scope::Archive, "archive").unwrap();
    admin.delete(Scope::Node("gone"), days(1)).unwrap();
    admin.undelete(Scope::Node("gone")).unwrap();
    admin.delete(Scope::Node("gone"), days(1)).unwrap();
    let writer = node.open_writer_with(options()).unwrap();
    let mut sweep = SweepOptions::default();
    sweep.rebuild_percent = 0;
    sweep.compact.replay = single();
    for day in 0..10 {
        for n in 0..2 {
            clock.advance(DAY / 2 + 1);
            let page = Page("main", n, 1 + 2 * day + n, true);
            let changes = match (day, n) {
                (0, 0) => vec![Create("main"), Page("main", 0, 1, false), Record(20)],
                (3, 1) => vec![page, Point("named"), Record(5)],
                (_, 1) => vec![page, Record(5), RedoPoint(2 * day)],
                _ => vec![page],
            };
            run.commit("n", &writer, Synced, &changes).unwrap();
        }
        writer.rotate_segment().unwrap();
        writer.tick().unwrap();
        if day == 1 {
            let on = HoldTarget::Commits { node: "n", from: lsn(2), to: Some(lsn(3)) };
            admin.hold("commits", &on, None).unwrap();
            admin.hold("all", &HoldTarget::Archive, None).unwrap();
            admin.release_hold("all").unwrap();
            admin.hold("node", &HoldTarget::Node("n"), Some(clock_now(&clock))).unwrap();
            admin.confirm_clock().unwrap();
        }
        let report = admin.sweep(&sweep).unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
    }
    node.restore(Target::Latest).options(single()).skip_redo().into_memory().unwrap();
    let kinds: BTreeSet<&str> = archive.audit().unwrap().map(|e| e.unwrap().kind()).collect();
    for kind in [
        "files-expired",
        "files-removed",
        "clock-observed",
        "clock-confirmed",
        "hold-released",
        "undeleted",
    ] {
        assert!(kinds.contains(kind), "{kind} of {kinds:?}");
    }
    assert_eq!(archive.nodes().unwrap(), ["n"], "the other one is gone");
    run.storage.fork()
}

fn clock_now(clock: &TestClock) -> rewound::Timestamp {
    rewound::env::Clock::now(clock)
}

/// What can be restored, what has expired, and the trail.
fn retention_sums(files: &BTreeMap<String, Vec<u8>>) -> String {
    let archive = open_archive(files);
    let mut out = String::new();
    for entry in archive.audit().unwrap() {
        let _ = writeln!(out, "{}", entry.unwrap());
    }
    for (name, hold) in archive.administrator(actor()).holds().unwrap() {
        let _ = writeln!(out, "hold {name} {hold:?}");
    }
    out + &sums(&archive.node("n").unwrap())
}

#[test]
fn retention_of_version_1_is_read_and_written_the_same() {
    let golden = golden("v1-retention");
    assert_eq!(retention_sums(&golden), fs::read_to_string(place("v1-retention.sums")).unwrap());
    assert!(generate_retention().files() == golden);
}

/// A checkpoint of the catalog and the entry that it stands for, which is all that opening reads.
fn generate_checkpoint() -> BTreeMap<String, Vec<u8>> {
    let storage = MemStorage::without_recording();
    let clock = TestClock::new();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), archive_options(&clock, 3)).unwrap();
    let node = archive.create_node("n", Origin::Existing).unwrap();
    let writer = node.open_writer_with(options()).unwrap();
    let mut ledger = Run { storage: storage.clone(), ledger: Ledger::default() };
    let changes = [Create("main"), Page("main", 0, 1, false), Point("named")];
    ledger.commit("n", &writer, Synced, &changes).unwrap();
    writer.close().unwrap();
    for other in 0..252 {
        clock.advance(1);
        archive.create_node(&format!("{other}"), Origin::Empty).unwrap();
    }
    assert_eq!(node.restore_points().unwrap().len(), 1);
    let mut files = storage.files();
    files.retain(|path, _| {
        path.ends_with("0000000000000100.entry") || path.ends_with(".checkpoint")
    });
    assert_eq!(files.len(), 2, "{:?}", files.keys());
    files
}

#[test]
fn a_checkpoint_of_version_1_is_read_and_written_the_same() {
    let golden = golden("v1-checkpoint");
    assert!(generate_checkpoint() == golden);
    let node = open(&golden);
    let points = node.restore_points().unwrap();
    assert_eq!(points["named"].position.get(), 1);
}

fn open(files: &BTreeMap<String, Vec<u8>>) -> Node {
    open_archive(files).node("n").unwrap()
}

fn open_archive(files: &BTreeMap<String, Vec<u8>>) -> Archive {
    let storage = MemStorage::new();
    for (path, bytes) in files {
        storage.set_file(path, bytes.as_slice());
    }
    Archive::open_in(Arc::new(storage), key(), archive_options(&TestClock::new(), 9)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Digests what is replayed.
#[derive(Default)]
struct Records(Vec<u8>, u64);

impl Redo for Records {
    fn apply(&mut self, record: RedoRecord<'_>) -> Result<()> {
        self.0.extend_from_slice(&record.lsn.get().to_le_bytes());
        self.0.extend_from_slice(record.bytes);
        self.1 += 1;
        Ok(())
    }
}

/// Everything that can be asked of the archive, in lines.
fn sums(node: &Node) -> String {
    let mut out = String::new();
    let window = node.window().unwrap();
    let _ = writeln!(
        out,
        "window {} {} {}",
        window.earliest.lsn, window.latest.lsn, window.known_until
    );
    for (name, point) in node.restore_points().unwrap() {
        let _ = writeln!(out, "restore point {name:?} {} {}", point.position, point.timestamp);
    }
    for layer in node.layers().unwrap() {
        let from = layer.from.map_or("nothing".to_owned(), |p| p.to_string());
        let _ = writeln!(
            out,
            "layer {from} to {} level {} entries {}",
            layer.to, layer.level, layer.entries
        );
    }
    for number in 1..=window.latest.lsn.get() {
        let mut records = Records::default();
        let restore = node.restore(lsn(number)).options(single()).redo(&mut records);
        let (report, spaces) = match restore.into_memory() {
            Err(Error::BeforeWindow { .. }) => {
                let _ = writeln!(out, "LSN {number} expired");
                continue;
            }
            restored => restored.unwrap(),
        };
        let _ = writeln!(
            out,
            "LSN {} at {} config {:?} environment {:?} mark {:?} records {} {}",
            report.lsn,
            report.timestamp,
            report.config,
            report.environment,
            report.mark.map(|m| String::from_utf8(m).unwrap()),
            records.1,
            hex(&records.0)
        );
        for (name, bytes) in spaces {
            let _ = writeln!(out, "LSN {number} {name} {} {}", bytes.len(), hex(&bytes));
        }
    }
    out
}

fn read_dir(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_dir(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
}

fn golden(name: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    read_dir(&place(name), "", &mut files);
    files
}

#[test]
fn version_1_is_read() {
    let node = open(&golden("v1"));
    let expected = fs::read_to_string(place("v1.sums")).unwrap();
    let found = sums(&node);
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
    let latest = node.resolve(&Target::Mark(b"mark 1".to_vec())).unwrap();
    assert_eq!(latest.lsn.get(), 3);
}

/// The same seeds give the same bytes. Fails after a change of the format, and after one of zstd's:
/// see the top of this file.
#[test]
fn version_1_is_written_the_same() {
    let (written, golden) = (generate().files(), golden("v1"));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written), names(&golden));
    for (path, bytes) in written {
        let differs = golden[&path].iter().zip(&bytes).position(|(a, b)| a != b);
        assert!(golden[&path] == bytes, "{path} differs, from byte {differs:?} on");
    }
}

#[test]
#[ignore = "replaces the golden files"]
fn write() {
    let files = generate().files();
    replace("v1", &files);
    replace("v1-checkpoint", &generate_checkpoint());
    fs::write(place("v1.sums"), sums(&open(&files))).unwrap();
    let retention = generate_retention().files();
    replace("v1-retention", &retention);
    fs::write(place("v1-retention.sums"), retention_sums(&retention)).unwrap();
    let total: usize = files.values().map(Vec::len).sum();
    assert!(total < 300_000, "{total} bytes are too many to keep");
}

fn replace(name: &str, files: &BTreeMap<String, Vec<u8>>) {
    let dir = place(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
