//! Memory maps: what is read through one is what is read without, and damage is found and told
//! alike.

use std::fs::{OpenOptions, Permissions, set_permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rewound::crypto::Backend;
use rewound::env::Rng;
use rewound::storage::{FsStorage, ReadStore, Storage};
use rewound::{
    Archive, CompactOptions, Durability, Lsn, Node, Origin, PageId, PageSize, Target,
    VerifyOptions, Writer,
};
use sha2::{Digest, Sha256};

use crate::support::{TestClock, TestRng, archive_options, key, quiet};

const LATEST: u64 = 12;

/// Whether this process has a map of a file, whoever made it.
fn is_mapped(path: &Path) -> bool {
    let path = path.canonicalize().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|map| map.ends_with(&format!(" {}", path.display())))
}

/// Commits so many pages of noise, and a record if there is one.
fn commit(writer: &Writer, clock: &TestClock, n: u64, pages: u64, record: &[u8]) {
    clock.advance(1_000_000);
    let mut batch = writer.batch();
    let space = match writer.space("main") {
        Some(space) => space,
        None => batch.create_space("main", PageSize::MIN).unwrap(),
    };
    let noise = TestRng::new(n);
    for page in n * pages..(n + 1) * pages {
        let mut image = [0; 512];
        noise.fill(&mut image).unwrap();
        batch.write_page(PageId::new(space, page), &image, None).unwrap();
    }
    if !record.is_empty() {
        batch.log_record(record).unwrap();
    }
    batch.commit(Durability::Synced).unwrap();
}

/// Three sealed segments, with a layer or snapshot for each.
fn fill(storage: Arc<dyn Storage>, pages: u64, record: &[u8]) -> TestClock {
    let clock = TestClock::new();
    let archive = Archive::create_in(storage, key(), archive_options(&clock, 1)).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 1;
    options.snapshot_percent = 1_000;
    for round in 0..3 {
        let writer = node.open_writer_with(quiet()).unwrap();
        (0..4).for_each(|n| commit(&writer, &clock, round * 4 + n, pages, record));
        writer.close().unwrap();
        node.maintain(&options).unwrap();
    }
    clock
}

/// Everything that there is to be seen of an archive. Of the pages, which are many, a digest.
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
    let restored = |node: &Node, lsn| match node
        .restore(Target::Lsn(Lsn::new(lsn).unwrap()))
        .unaudited()
        .into_memory()
    {
        Ok((report, spaces)) => {
            let pages = spaces.get("main").map(|pages| (pages.len(), Sha256::digest(pages)));
            format!("{lsn}: {:?} {pages:?}", report.damaged)
        }
        Err(e) => format!("{lsn}: {e}"),
    };
    let mut all: Vec<String> = (1..=LATEST).map(|lsn| restored(&node, lsn)).collect();
    match archive.verify(&VerifyOptions::default(), &mut |_| {}) {
        Ok(report) => all.extend(report.findings.iter().map(ToString::to_string)),
        Err(e) => all.push(e.to_string()),
    }
    all
}

/// Gives a finished file other content. No map of it may be there, as it may become shorter.
fn replace(path: &Path, bytes: &[u8]) {
    assert!(!is_mapped(path));
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// All files below a directory whose names end like this.
fn files(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, mut found): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    found
        .retain(|path| path.extension().is_some_and(|ending| endings.iter().any(|e| ending == *e)));
    found.extend(dirs.iter().flat_map(|dir| files(dir, endings)));
    found.sort_unstable();
    found
}

#[test]
fn damage_is_told_alike_with_and_without_maps() {
    // Every look syncs something, and there are hundreds: in memory that takes no time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let storage = || FsStorage::new(dir.path());
    // Enough pages that segments and parts are long enough to be mapped.
    let clock = fill(Arc::new(storage()), 80, &[]);
    let plain = |backend| seen(Arc::new(storage()), &clock, backend);
    let mapped = |backend| seen(Arc::new(storage().mapped()), &clock, backend);
    let whole: Vec<_> = Backend::available().iter().map(|backend| plain(*backend)).collect();
    let mut differences = 0;
    for path in files(dir.path(), &["seg", "part", "layer"]) {
        let inside = path.strip_prefix(dir.path()).unwrap().to_str().unwrap();
        let file = storage().mapped().open(inside).unwrap();
        assert!(
            inside.ends_with("layer") || is_mapped(&path),
            "{inside} is too short to be mapped"
        );
        drop(file);
        let bytes = std::fs::read(&path).unwrap();
        let flips = (0..bytes.len()).step_by(bytes.len() / 9 + 1).map(|at| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            (format!("{inside}: bit flipped at {at}"), bytes)
        });
        let cuts = [1, 40, bytes.len() / 2, bytes.len() - 10].into_iter();
        let cuts = cuts.map(|less| {
            (format!("{inside}: {less} bytes cut off"), bytes[..bytes.len() - less].to_vec())
        });
        for (what, damaged) in flips.chain(cuts) {
            replace(&path, &damaged);
            for (backend, whole) in Backend::available().iter().zip(&whole) {
                let (plain, mapped) = std::thread::scope(|scope| {
                    let plain = scope.spawn(|| plain(*backend));
                    let mapped = mapped(*backend);
                    (plain.join().unwrap(), mapped)
                });
                assert_eq!(plain, mapped, "{what}, {backend}");
                differences += usize::from(plain != *whole);
            }
        }
        replace(&path, &bytes);
    }
    assert!(differences > 20, "hardly any damage was met: {differences}");
}

/// Overwrites a byte of a finished file, as rot would.
fn rot(path: &Path, at: u64) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_of_a_directory_are_read_through_maps() {
    let dir = tempfile::tempdir().unwrap();
    let record: Vec<u8> =
        (0..60_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mapped = || Arc::new(FsStorage::new(dir.path()).mapped());
    let clock = fill(mapped(), 1, &record);
    let log = "nodes/00000001/wal/00000001/00000000";
    let mut segments: Vec<String> =
        mapped().list(log).unwrap().into_iter().map(|e| format!("{log}/{}", e.name)).collect();
    segments.sort_unstable();
    assert_eq!(segments.len(), 3);
    for path in &segments {
        let file = mapped().open(path).unwrap();
        assert!(is_mapped(&dir.path().join(path)), "{path} is sealed, and not mapped");
        drop(file);
        let _file = FsStorage::new(dir.path()).open(path).unwrap();
        assert!(!is_mapped(&dir.path().join(path)), "{path} is mapped, and nobody asked for it");
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
    commit(&writer, &clock, 99, 1, &record);
    let newest =
        mapped().list(log).unwrap().into_iter().map(|e| format!("{log}/{}", e.name)).max().unwrap();
    let growing = mapped().open(&newest).unwrap();
    assert!(growing.len().unwrap() > 200_000, "it is long enough to be mapped");
    assert!(!is_mapped(&dir.path().join(&newest)), "a segment that still grows was mapped");
    writer.close().unwrap();

    rot(&dir.path().join(&segments[1]), 200_000);
    for backend in Backend::available() {
        let damaged = seen(Arc::new(FsStorage::new(dir.path())), &clock, *backend);
        assert_eq!(seen(mapped(), &clock, *backend), damaged);
        assert!(damaged.len() as u64 > LATEST, "the damage was not found: {damaged:?}");
    }
}
