//! What damage costs: never more than what is damaged, and never silence.

use std::sync::{Arc, Mutex};

use rewound::storage::MemStorage;
use rewound::{
    Archive, CompactOptions, Durability, Error, KeyFile, Keyring, Lsn, Node, Origin, PageId,
    PageSize, SpaceId, Target, Writer,
};

use crate::support::{TestClock, archive_options, key, memory_archive, quiet};

fn image(seed: u8) -> Vec<u8> {
    (0..512u32).map(|i| seed ^ (i / 8) as u8).collect()
}

/// Commits one page; page n of the state is written by commit n + 1.
fn commit(writer: &Writer, clock: &TestClock, n: u8) {
    clock.advance(1_000_000);
    let mut batch = writer.batch();
    let space = match writer.space("main") {
        Some(space) => space,
        None => batch.create_space("main", PageSize::MIN).unwrap(),
    };
    batch.write_page(PageId::new(space, u64::from(n)), &image(n), None).unwrap();
    batch.commit(Durability::Synced).unwrap();
}

fn check(node: &Node, lsn: u64) -> rewound::RestoreReport {
    let (report, spaces) = node.restore(Target::Lsn(Lsn::new(lsn).unwrap())).into_memory().unwrap();
    let expected: Vec<u8> = (0..lsn).flat_map(|n| image(n as u8)).collect();
    assert!(spaces["main"] == expected, "LSN {lsn}");
    report
}

/// Twenty commits, a segment sealed after each five, a layer or snapshot for each.
fn estate() -> (MemStorage, Archive, TestClock) {
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 1;
    options.snapshot_percent = 1_000;
    for round in 0..4 {
        let writer = node.open_writer_with(quiet()).unwrap();
        (0..5).for_each(|n| commit(&writer, &clock, round * 5 + n));
        writer.close().unwrap();
        node.maintain(&options).unwrap();
    }
    (storage, archive, clock)
}

fn flip(storage: &MemStorage, path: &str, from_end: usize) {
    let mut bytes = storage.files()[path].clone();
    let at = bytes.len() - from_end;
    bytes[at] ^= 0x10;
    storage.set_file(path, bytes);
}

fn paths(storage: &MemStorage, ending: &str) -> Vec<String> {
    storage.files().into_keys().filter(|p| p.ends_with(ending)).collect()
}

#[test]
fn a_damaged_layer_is_done_without_and_reported() {
    let (storage, archive, _) = estate();
    let node = archive.node("n").unwrap();
    assert!(node.layers().unwrap().len() >= 4);
    assert!(check(&node, 20).damaged.is_empty());
    let (mut met, mut met_in_place, dir) = (0, 0, tempfile::tempdir().unwrap());
    for path in paths(&storage, ".part").into_iter().chain(paths(&storage, ".layer")) {
        // In the first frame, behind header and stanzas.
        let copy = storage.fork();
        let len = copy.files()[&path].len();
        flip(&copy, &path, len - 420);
        let options = archive_options(&TestClock::new(), 9);
        let archive = Archive::open_in(Arc::new(copy), key(), options).unwrap();
        let node = archive.node("n").unwrap();
        // A larger layer may have taken the place of this one: then nobody meets the damage.
        let reports: Vec<_> = [5, 9, 13, 20].into_iter().map(|lsn| check(&node, lsn)).collect();
        met += usize::from(reports.iter().any(|r| r.damaged.iter().any(|d| d.contains(&path))));
        // What is rewritten in place has been begun by then, and is begun once more.
        for lsn in [20, 5, 13, 9] {
            let report = node
                .restore(Target::Lsn(Lsn::new(lsn).unwrap()))
                .delta_into_dir(dir.path())
                .unwrap();
            let expected: Vec<u8> = (0..lsn).flat_map(|n| image(n as u8)).collect();
            assert!(std::fs::read(dir.path().join("main")).unwrap() == expected, "LSN {lsn}");
            assert!(!dir.path().join(".rewound-incomplete").exists());
            met_in_place += usize::from(!report.damaged.is_empty());
        }
    }
    assert!(met >= 4 && met_in_place >= 4, "{met} {met_in_place}");
}

/// A sink that holds the one space there is.
struct Held<'a>(&'a Mutex<Vec<u8>>);

impl rewound::PageSink for Held<'_> {
    fn write(&self, _: SpaceId, offset: u64, bytes: &[u8]) -> rewound::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(self) -> rewound::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_of_the_hosts_own_begins_once_more_without_a_damaged_layer() {
    let (storage, archive, _) = estate();
    drop(archive);
    let mut again = 0;
    for path in paths(&storage, ".part") {
        let copy = storage.fork();
        let len = copy.files()[&path].len();
        flip(&copy, &path, len - 420);
        let archive =
            Archive::open_in(Arc::new(copy), key(), archive_options(&TestClock::new(), 9)).unwrap();
        let node = archive.node("n").unwrap();
        let (held, mut opened) = (Mutex::default(), 0);
        let report = node.restore(Target::Latest).into_sink(|spaces| {
            opened += 1;
            *held.lock().unwrap() = vec![0xAA; spaces.values().map(|s| s.length as usize).sum()];
            Ok(Held(&held))
        });
        assert_eq!(report.unwrap().damaged.is_empty(), opened == 1, "{path}");
        assert!(*held.lock().unwrap() == (0..20).flat_map(image).collect::<Vec<_>>(), "{path}");
        // A host that cannot begin again is told why it would have to.
        let (mut once, mut refused) = (Some(Held(&held)), false);
        let result = node.restore(Target::Latest).into_sink(|_| {
            once.take().ok_or_else(|| {
                refused = true;
                Error::host("no second time")
            })
        });
        let told = matches!(&result, Err(Error::Damaged(damage)) if damage.path == path);
        assert_eq!((told, refused), (opened > 1, opened > 1), "{path}: {result:?}");
        again += usize::from(opened > 1);
    }
    assert!(again > 0);
}

#[test]
fn damage_at_the_end_of_the_log_does_not_keep_from_what_lies_before() {
    let (storage, archive, _) = estate();
    let newest = paths(&storage, ".seg").pop().unwrap();
    let len = storage.files()[&newest].len();
    // A commit of the newest segment, sealed: plain damage.
    flip(&storage, &newest, len / 3);
    let node = archive.node("n").unwrap();
    for target in [Target::Latest, Target::Lsn(Lsn::new(20).unwrap())] {
        // The newest snapshot or layer may serve a commit although its log is damaged; nothing may
        // give another state.
        match node.restore(target).into_memory() {
            Ok((report, _)) => assert_eq!(report.lsn.get(), 20),
            Err(e) => assert!(e.is_damage(), "{e}"),
        }
    }
    for lsn in 1..=15 {
        check(&node, lsn);
    }
}

/// A writer that logs nothing but that time passes leaves a segment that begins where the next one
/// does.
#[test]
fn a_damaged_newest_segment_does_not_keep_from_what_lies_before_one_that_holds_no_commit() {
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    for commits in [0..3, 3..3, 3..4] {
        let writer = node.open_writer_with(quiet()).unwrap();
        commits.for_each(|n| commit(&writer, &clock, n));
        clock.advance(1_000_000);
        writer.tick().unwrap();
        writer.close().unwrap();
    }
    let segments = paths(&storage, ".seg");
    assert_eq!(segments.len(), 3);
    let mut bytes = storage.files()[&segments[2]].clone();
    // In its header: it does not open.
    bytes[20] ^= 0x10;
    storage.set_file(&segments[2], bytes);
    (1..=3).for_each(|lsn| drop(check(&node, lsn)));
    let error = node.resolve(&Target::Lsn(Lsn::new(4).unwrap())).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn a_recipient_cannot_be_taken_away_or_added_unseen() {
    let clock = TestClock::new();
    let storage = MemStorage::new();
    let keys = Keyring::new(key()).with(KeyFile::from_bytes([8; 32]));
    Archive::create_in(Arc::new(storage.clone()), keys, archive_options(&clock, 1)).unwrap();
    let path = paths(&storage, ".entry").pop().unwrap();
    let mut bytes = storage.files()[&path].clone();
    // Header: two recipients of 18 + 80 bytes each at 280. Take the second away and mend the
    // CRC-32.
    assert_eq!((bytes[272], bytes[274]), (2, 196));
    bytes.drain(280 + 98..280 + 196);
    (bytes[272], bytes[274]) = (1, 98);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..276]);
    crc.update(&bytes[280..378]);
    bytes[276..280].copy_from_slice(&crc.finalize().to_le_bytes());
    storage.set_file(&path, bytes);
    let opened = Archive::open_in(Arc::new(storage), key(), archive_options(&clock, 2));
    assert!(matches!(opened, Err(Error::Damaged(_))), "{opened:?}");
}

#[test]
fn a_large_batch_leaves_no_temporary_file() {
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = quiet();
    options.batch_bytes = 1;
    let writer = node.open_writer_with(options).unwrap();
    let record: Vec<u8> =
        (0..1_100_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    for keep in [true, false] {
        let mut batch = writer.batch();
        batch.log_record(&record).unwrap();
        batch.log_record(&record).unwrap();
        assert!(storage.files().keys().any(|p| p.starts_with("tmp/")), "the batch went to disk");
        if keep {
            batch.commit(Durability::Synced).unwrap();
        } else {
            drop(batch);
        }
        let left: Vec<_> = storage.files().into_keys().filter(|p| p.starts_with("tmp/")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
