//! Memory maps: what is read through one is what is read without, and damage is found and told alike.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rewound::crypto::Backend;
use rewound::storage::{FsStorage, MemStorage, ReadStore, Storage};
use rewound::{
    Archive, CompactOptions, Durability, Lsn, Node, Origin, PageId, PageSize, Target, VerifyOptions, Writer,
};

use crate::faulty::MappedStorage;
use crate::support::{TestClock, archive_options, key, quiet};

const LATEST: u64 = 12;

fn commit(writer: &Writer, clock: &TestClock, n: u8, record: &[u8]) {
    clock.advance(1_000_000);
    let mut batch = writer.batch();
    let space = match writer.space("main") {
        Some(space) => space,
        None => batch.create_space("main", PageSize::MIN).unwrap(),
    };
    let image: Vec<u8> = (0..512_u32).map(|i| n ^ (i / 8) as u8).collect();
    batch.write_page(PageId::new(space, u64::from(n)), &image, None).unwrap();
    if !record.is_empty() {
        batch.log_record(record).unwrap();
    }
    batch.commit(Durability::Synced).unwrap();
}

/// Three sealed segments, with a layer or snapshot for each.
fn fill(storage: Arc<dyn Storage>, record: &[u8]) -> TestClock {
    let clock = TestClock::new();
    let archive = Archive::create_in(storage, key(), archive_options(&clock, 1)).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 1;
    options.snapshot_percent = 1_000;
    for round in 0..3 {
        let writer = node.open_writer_with(quiet()).unwrap();
        (0..4).for_each(|n| commit(&writer, &clock, round * 4 + n, record));
        writer.close().unwrap();
        node.maintain(&options).unwrap();
    }
    clock
}

/// Everything that there is to be seen of an archive.
fn seen(storage: Arc<dyn Storage>, clock: &TestClock, backend: Backend) -> Vec<String> {
    let options = archive_options(clock, 9).backend(backend);
    let archive = match Archive::open_in(storage, key(), options) {
        Ok(archive) => archive,
        Err(e) => return vec![e.to_string()],
    };
    let node = match archive.node("n") {
        Ok(node) => node,
        Err(e) => return vec![e.to_string()],
    };
    let restored = |node: &Node, lsn| match node.restore(Target::Lsn(Lsn::new(lsn).unwrap())).unaudited().into_memory()
    {
        Ok((report, spaces)) => format!("{lsn}: {:?} {:?}", report.damaged, spaces.get("main")),
        Err(e) => format!("{lsn}: {e}"),
    };
    let mut all: Vec<String> = (1..=LATEST).map(|lsn| restored(&node, lsn)).collect();
    match archive.verify(&VerifyOptions::default(), &mut |_| {}) {
        Ok(report) => all.extend(report.findings.iter().map(ToString::to_string)),
        Err(e) => all.push(e.to_string()),
    }
    all
}

#[test]
fn damage_is_told_alike_with_and_without_maps() {
    let storage = MemStorage::without_recording();
    let clock = fill(Arc::new(storage.clone()), &[]);
    let mut differences = 0;
    for (path, bytes) in storage.files() {
        let ending = path.rsplit('.').next().unwrap();
        if !["seg", "part", "layer"].contains(&ending) {
            continue;
        }
        let flips = (0..bytes.len()).step_by(bytes.len() / 9 + 1).map(|at| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            (format!("{path}: bit flipped at {at}"), bytes)
        });
        let cuts = [1, 40, bytes.len() / 2, bytes.len() - 10].into_iter();
        let cuts = cuts.map(|less| (format!("{path}: {less} bytes cut off"), bytes[..bytes.len() - less].to_vec()));
        for (what, damaged) in flips.chain(cuts) {
            let copy = storage.fork();
            copy.set_file(&path, damaged);
            for backend in Backend::available() {
                let plain = seen(Arc::new(copy.fork()), &clock, *backend);
                let mapped = seen(Arc::new(MappedStorage(copy.fork())), &clock, *backend);
                assert_eq!(plain, mapped, "{what}, {backend}");
                differences += usize::from(plain != seen(Arc::new(storage.fork()), &clock, *backend));
            }
        }
    }
    assert!(differences > 20, "hardly any damage was met: {differences}");
}

/// Overwrites a byte of a finished file, as rot would.
fn rot(path: &Path, at: u64) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_of_a_directory_are_read_through_maps() {
    let dir = tempfile::tempdir().unwrap();
    let record: Vec<u8> = (0..60_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mapped = || Arc::new(FsStorage::new(dir.path()).mapped());
    let clock = fill(mapped(), &record);
    let log = "nodes/00000001/wal/00000001/00000000";
    let mut segments: Vec<String> =
        mapped().list(log).unwrap().into_iter().map(|e| format!("{log}/{}", e.name)).collect();
    segments.sort_unstable();
    assert_eq!(segments.len(), 3);
    for path in &segments {
        assert!(mapped().open(path).unwrap().map().is_some(), "{path} is sealed, and not mapped");
        assert!(FsStorage::new(dir.path()).open(path).unwrap().map().is_none());
    }
    for backend in Backend::available() {
        let whole = seen(Arc::new(FsStorage::new(dir.path())), &clock, *backend);
        assert_eq!(whole.len() as u64, LATEST, "nothing is damaged: {whole:?}");
        assert_eq!(seen(mapped(), &clock, *backend), whole);
    }
    // What is written goes through neither: a writer goes on where the log ends.
    let archive = Archive::open_in(mapped(), key(), archive_options(&clock, 3)).unwrap();
    let writer = archive.node("n").unwrap().open_writer_with(quiet()).unwrap();
    assert_eq!(writer.newest().get(), LATEST);
    commit(&writer, &clock, 99, &record);
    let newest = mapped().list(log).unwrap().into_iter().map(|e| format!("{log}/{}", e.name)).max().unwrap();
    assert!(mapped().open(&newest).unwrap().map().is_none(), "a segment that still grows was mapped");
    writer.close().unwrap();

    rot(&dir.path().join(&segments[1]), 200_000);
    for backend in Backend::available() {
        let damaged = seen(Arc::new(FsStorage::new(dir.path())), &clock, *backend);
        assert_eq!(seen(mapped(), &clock, *backend), damaged);
        assert!(damaged.len() as u64 > LATEST, "the damage was not found: {damaged:?}");
    }
}
