//! Verification finds a flipped bit in every kind of file, with the key and without, and nothing
//! where nothing is wrong.

use std::sync::Arc;

use rewound::options::Cancel;
use rewound::storage::{BlobStore, MemStorage};
use rewound::{
    Archive, CompactOptions, DamageKind, Durability, Error, Lsn, Origin, PageId, PageSize, Target,
    VerifyOptions, VerifyReport, verify_checksums,
};

use crate::faulty::{Lie, LyingStorage};
use crate::support::{TestClock, archive_options, key, memory_archive, quiet};

/// Thirty commits in six segments, layers on two levels, snapshots, more than one page of catalog;
/// the last segment not sealed.
fn estate() -> MemStorage {
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = CompactOptions::default();
    (options.layer_log_bytes, options.fan_out) = (1, 3);
    for round in 0..6u64 {
        let writer = node.open_writer_with(quiet()).unwrap();
        for n in 0..5u64 {
            clock.advance(1_000_000);
            let mut batch = writer.batch();
            let main = match writer.space("main") {
                Some(space) => space,
                None => batch.create_space("main", PageSize::MIN).unwrap(),
            };
            let image: Vec<u8> =
                (0..512u64).map(|i| ((i * i + round * 7 + n) % 251) as u8).collect();
            batch.write_page(PageId::new(main, round + n), &image, None).unwrap();
            batch.commit(Durability::Synced).unwrap();
        }
        if round == 5 {
            // As after a power failure: the segment has no seal.
            std::mem::forget(writer);
        } else {
            writer.close().unwrap();
            node.maintain(&options).unwrap();
        }
    }
    storage.fork()
}

/// Files of a kind, in order.
fn paths(storage: &MemStorage, kind: &str) -> Vec<String> {
    storage
        .files()
        .into_keys()
        .filter(|p| p.rsplit_once('.').is_some_and(|(_, k)| k == kind))
        .collect()
}

fn verify(storage: &MemStorage) -> rewound::Result<VerifyReport> {
    let options = archive_options(&TestClock::new(), 9);
    let archive = Archive::open_in(Arc::new(storage.clone()), key(), options)?;
    archive.verify(&VerifyOptions::default(), &mut |_| {})
}

fn checksums(storage: &MemStorage) -> VerifyReport {
    verify_checksums(storage, &Cancel::new(), &mut |_| {}).unwrap()
}

#[test]
fn finds_nothing_where_nothing_is_wrong() {
    let storage = estate();
    let mut last = 0;
    let report = verify_checksums(&storage, &Cancel::new(), &mut |p| {
        assert!(p.bytes_done >= last && p.bytes_done <= p.bytes_total);
        last = p.bytes_done;
    })
    .unwrap();
    assert!(report.is_intact(), "{:?}", report.findings);
    let sealed =
        |ending: &str| storage.files().keys().filter(|p| p.ends_with(ending)).count() as u64;
    assert_eq!(
        report.files,
        sealed(".seg") + sealed(".part") + sealed(".layer") + sealed(".entry")
    );
    assert!(last >= report.bytes);

    let report = verify(&storage).unwrap();
    assert!(report.is_intact(), "{:?}", report.findings);
    assert_eq!((report.commits, report.segments), (30, 6));
    assert_eq!(report.catalog_entries, sealed(".entry"));
    assert!(report.layers > 5 && report.parts > 5 && report.states > 3, "{report:?}");
    assert!(report.pages_proven > 0 && report.layer_pages > 0 && report.torn_tails == 0);
}

#[test]
fn finds_a_flipped_bit_in_every_kind_of_file() {
    let storage = estate();
    let files = storage.files();
    let mut missed = Vec::new();
    for ending in [".seg", ".part", ".layer", ".entry"] {
        let paths: Vec<&String> = files.keys().filter(|p| p.ends_with(ending)).collect();
        for path in [paths[0], paths[paths.len() / 2]] {
            let len = files[path].len();
            // Every part of the header and trailer, and steps through the rest.
            for at in (0..len).filter(|at| at % 41 == 0 || *at + 40 > len) {
                let copy = storage.fork();
                let mut bytes = files[path].clone();
                bytes[at] ^= 0x40;
                copy.set_file(path, bytes);
                if checksums(&copy).findings.is_empty() {
                    missed.push(format!("{path} at {at} without key"));
                }
                match verify(&copy) {
                    Ok(report) if report.findings.is_empty() => {
                        missed.push(format!("{path} at {at} with key"));
                    }
                    Err(e) if ending != ".entry" => missed.push(format!("{path} at {at}: {e}")),
                    _ => {}
                }
            }
        }
    }
    assert!(missed.is_empty(), "{} missed: {:#?}", missed.len(), &missed[..missed.len().min(10)]);
}

#[test]
fn goes_on_behind_damage_and_finds_all_of_it() {
    let storage = estate();
    let files = storage.files();
    let mut damaged = 0;
    for ending in [".seg", ".part", ".layer"] {
        let path = files.keys().find(|p| p.ends_with(ending)).unwrap();
        let mut bytes = files[path].clone();
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
        // Of a segment two places, in two frames.
        if ending == ".seg" {
            bytes[700] ^= 1;
            damaged += 1;
        }
        storage.set_file(path, bytes);
        damaged += 1;
    }
    assert_eq!(checksums(&storage).findings.len(), damaged);
    let report = verify(&storage).unwrap();
    assert!(report.findings.len() >= damaged, "{:?}", report.findings);
    assert!(report.findings.iter().all(Error::is_damage));
    assert!(report.commits >= 25, "the other segments were read: {report}");
}

#[test]
fn finds_what_is_missing_and_what_is_in_the_wrong_place() {
    let storage = estate();
    let files = storage.files();
    let segments = paths(&storage, "seg");
    let copy = storage.fork();
    rewound::storage::BlobStore::delete(&copy, &segments[2]).unwrap();
    assert!(checksums(&copy).is_intact(), "a missing file needs the key");
    let report = verify(&copy).unwrap();
    assert!(
        report.findings.iter().any(|e| matches!(e, Error::Gap { .. })),
        "{:?}",
        report.findings
    );

    let copy = storage.fork();
    copy.set_file(&segments[1], files[&segments[3]].clone());
    assert!(!verify(&copy).unwrap().is_intact());

    let copy = storage.fork();
    let part = &paths(&storage, "part")[0];
    rewound::storage::BlobStore::delete(&copy, part).unwrap();
    assert!(!verify(&copy).unwrap().is_intact());
}

/// What an archive says of itself without some of its files.
fn without(storage: &MemStorage, gone: &[String]) -> (MemStorage, VerifyReport, rewound::Node) {
    let copy = storage.fork();
    for path in gone {
        rewound::storage::BlobStore::delete(&copy, path).unwrap();
    }
    let archive =
        Archive::open_in(Arc::new(copy.clone()), key(), archive_options(&TestClock::new(), 9))
            .unwrap();
    let report = archive.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
    (copy, report, archive.node("n").unwrap())
}

/// Nothing has expired, so the log begins with the first commit. Where it does not, that is a loss:
/// in `verify`, and to whoever asks for what is lost.
#[test]
fn a_lost_beginning_is_no_window_that_begins_later() {
    let lost = |result: rewound::Result<()>, what: &str| match result {
        Err(Error::Gap { expected, .. }) => assert_eq!(expected.get(), 1, "{what}"),
        other => panic!("{what}: {other:?}"),
    };
    let first = Target::Lsn(Lsn::FIRST);
    // Without layers nothing is left to begin with.
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    for _ in 0..4 {
        let writer = node.open_writer_with(quiet()).unwrap();
        clock.advance(1_000_000);
        let mut batch = writer.batch();
        batch.mark(&clock_mark(&clock)).unwrap();
        batch.commit(Durability::Synced).unwrap();
        writer.close().unwrap();
    }
    let segments = paths(&storage, "seg");
    let time = node.window().unwrap().earliest.timestamp;
    for gone in [&segments[..1], &segments[..3]] {
        let (_, report, node) = without(&storage, gone);
        assert!(
            report.findings.iter().any(|e| matches!(e, Error::Gap { .. })),
            "{:?}",
            report.findings
        );
        lost(node.window().map(drop), "window");
        for target in [Target::Latest, first.clone(), Target::Time(time)] {
            lost(node.resolve(&target).map(drop), "resolve");
            lost(node.restore(target.clone()).into_memory().map(drop), "restore");
        }
        lost(node.commits(..).unwrap().find_map(Result::err).map_or(Ok(()), Err), "commits");
        let gaps = node.activity(&rewound::ActivityOptions::default()).unwrap().gaps;
        assert_eq!(
            gaps.first().map(|g| (g.after.get(), g.until.get())),
            Some((0, gone.len() as u64))
        );
        lost(
            node.build_snapshot(&Target::Latest, &CompactOptions::default()).map(drop),
            "build a snapshot",
        );
        lost(node.maintain(&CompactOptions::default()).map(drop), "maintain");
    }
    // All of it gone, or the directory too: the catalog knows how far it went.
    let (_, report, node) = without(&storage, &segments);
    assert!(report.findings.iter().any(Error::is_damage), "{:?}", report.findings);
    assert!(
        node.window().is_err_and(|e| e.is_damage())
            && node.restore(Target::Latest).into_memory().is_err()
    );

    // With layers everything after the first snapshot is left, and what came before is lost.
    let storage = estate();
    let segments = paths(&storage, "seg");
    for gone in [&segments[..1], &segments[..2]] {
        let (_, report, node) = without(&storage, gone);
        assert!(
            report.findings.iter().any(|e| matches!(e, Error::Gap { .. })),
            "{:?}",
            report.findings
        );
        // As far back as that is known.
        match node.window() {
            Ok(window) => assert_eq!((window.earliest.lsn.get(), window.latest.lsn.get()), (5, 30)),
            Err(e) => assert!(gone.len() == 2 && matches!(e, Error::Gap { .. }), "{e}"),
        }
        node.restore(Target::Latest).into_memory().unwrap();
        lost(node.resolve(&first).map(drop), "resolve");
        lost(node.resolve(&Target::Time(time)).map(drop), "by time");
        lost(node.resolve(&Target::Mark(vec![1])).map(drop), "by mark");
        lost(node.add_restore_point("p", &first).map(drop), "add a restore point");
    }
    let (_, report, node) = without(&storage, &segments);
    assert!(report.findings.iter().any(Error::is_damage), "{:?}", report.findings);
    assert!(node.window().is_err_and(|e| e.is_damage()));
}

fn clock_mark(clock: &TestClock) -> Vec<u8> {
    rewound::env::Clock::now(clock).as_nanos().to_be_bytes().to_vec()
}

/// Reads nothing: all pages are zero.
struct Blank;

impl rewound::PageSource for Blank {
    fn begin(&mut self, _: rewound::Position) -> rewound::Result<rewound::Consistency> {
        Ok(rewound::Consistency::Frozen)
    }

    fn read_pages(
        &mut self,
        _: rewound::BaseSpace<'_>,
        _: u64,
        _: &mut [u8],
    ) -> rewound::Result<()> {
        Ok(())
    }
}

/// A node with content from before its first commit: its first base snapshot is yet to come, or was
/// there and is lost.
#[test]
fn a_lost_base_snapshot_is_told_from_one_that_is_yet_to_come() {
    let (storage, archive) = memory_archive(&TestClock::new());
    let node = archive.create_node("n", Origin::Existing).unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    batch.create_space("main", PageSize::MIN).unwrap();
    batch.commit(Durability::Synced).unwrap();
    writer.rotate_segment().unwrap();
    writer.batch().commit(Durability::Synced).unwrap();
    let (_, report, node) = without(&storage, &[]);
    assert!(report.is_intact(), "{:?}", report.findings);
    let window = node.window();
    assert!(
        matches!(&window, Err(Error::BeforeWindow { earliest, .. }) if earliest.contains("base snapshot")),
        "{window:?}"
    );
    // Its log is missed even so.
    let (_, report, _) = without(&storage, &paths(&storage, "seg")[..1]);
    assert!(
        report.findings.iter().any(|e| matches!(e, Error::Gap { .. })),
        "{:?}",
        report.findings
    );

    writer.base_snapshot(&mut Blank, &CompactOptions::default()).unwrap();
    let (_, report, node) = without(&storage, &[]);
    assert!(
        report.is_intact() && node.restore(Target::Latest).into_memory().is_ok(),
        "{:?}",
        report.findings
    );
    let (_, report, node) = without(&storage, &paths(&storage, "layer"));
    assert!(report.findings.iter().any(Error::is_damage), "{:?}", report.findings);
    let restored = node.restore(Target::Latest).into_memory().map(drop);
    assert!(restored.as_ref().is_err_and(Error::is_damage), "{restored:?}");
}

#[test]
fn a_torn_tail_is_no_damage() {
    let storage = estate();
    let newest = paths(&storage, "seg").pop().unwrap();
    let mut bytes = storage.files()[&newest].clone();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes.truncate(bytes.len() - 30);
    storage.set_file(&newest, bytes);
    let report = checksums(&storage);
    assert!(report.is_intact() && report.torn_tails == 1, "{report:?}");
    let report = verify(&storage).unwrap();
    assert!(report.is_intact() && report.commits == 29, "{report:?}");
}

/// A frame that reads as damage once, with later ones behind it, is what a look finds of one that a
/// writer is adding. Where a segment has an end, it is rot of the medium.
#[test]
fn a_frame_that_can_be_read_the_second_time_is_no_damage() {
    let storage = estate();
    let newest = paths(&storage, "seg").pop().unwrap();
    let bytes = &storage.files()[&newest];
    let first = bytes.windows(4).position(|w| w == b"RWF1").unwrap() as u64;
    let count = {
        let lying = LyingStorage::new(storage.clone(), None);
        assert!(verify_checksums(&lying, &Cancel::new(), &mut |_| {}).unwrap().is_intact());
        lying.count()
    };
    let (mut found, mut spared) = (0, 0);
    for n in 0..count {
        let lying = LyingStorage::new(storage.fork(), Some((n, Lie::Flip(0))));
        let report = verify_checksums(&lying, &Cancel::new(), &mut |_| {}).unwrap();
        spared += usize::from(report.is_intact());
        found += report.findings.len();
        for finding in &report.findings {
            let in_frames =
                matches!(finding, Error::Damaged(d) if d.path == newest && d.offset >= first);
            assert!(!in_frames, "read {n}: {finding}");
        }
    }
    assert!(found > 50 && spared > 5, "{found} lies were told of, {spared} were not");
}

#[test]
fn can_be_cancelled() {
    let storage = estate();
    let archive =
        Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 9))
            .unwrap();
    let options = VerifyOptions::default();
    let cancel = options.replay.cancel.clone();
    let verified = archive.verify(&options, &mut |_| cancel.cancel());
    assert!(matches!(verified, Err(Error::Cancelled)), "{verified:?}");
    let nothing = verify_checksums(&MemStorage::new(), &Cancel::new(), &mut |_| {});
    assert!(matches!(nothing, Err(Error::NoArchive { .. })), "{nothing:?}");
}

/// The newest segment of a node, and its copy under the same number with another first position.
fn double(storage: &MemStorage) -> String {
    let segments = paths(storage, "seg");
    let name = segments[1].replace("-0000000000000005.seg", "-0000000000000003.seg");
    assert_ne!(name, segments[1]);
    storage.set_file(&name, storage.files()[&segments[4]].clone());
    name
}

/// Another node in an archive, with three commits.
fn add_node(storage: &MemStorage) {
    let options = archive_options(&TestClock::new(), 50);
    let archive = Archive::open_in(Arc::new(storage.clone()), key(), options).unwrap();
    let writer =
        archive.create_node("other", Origin::Empty).unwrap().open_writer_with(quiet()).unwrap();
    for _ in 0..3 {
        writer.batch().commit(Durability::Synced).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_second_file_of_one_number_is_a_finding_and_in_nobodys_way() {
    let storage = estate();
    add_node(&storage);
    let name = double(&storage);
    let report = verify(&storage).unwrap();
    let found =
        |e: &Error| matches!(e, Error::Damaged(d) if d.path == name && d.kind == DamageKind::Chain);
    assert!(report.findings.len() == 1 && found(&report.findings[0]), "{:?}", report.findings);
    assert_eq!((report.commits, report.segments), (33, 7));
    let options = archive_options(&TestClock::new(), 9);
    let archive = Archive::open_in(Arc::new(storage), key(), options).unwrap();
    assert_eq!(
        archive.node("n").unwrap().restore(Target::Latest).into_memory().unwrap().0.lsn.get(),
        30
    );
}

#[test]
fn two_segments_of_one_number_are_a_finding_and_the_rest_is_looked_at() {
    let storage = estate();
    add_node(&storage);
    // Two writers went on from one archive, apart: the segments that they begin next have one
    // number.
    let (one, other) = (storage.fork(), storage.fork());
    for (storage, commits) in [(&one, 2), (&other, 1)] {
        let options = archive_options(&TestClock::new(), 60 + commits);
        let archive = Archive::open_in(Arc::new(storage.clone()), key(), options).unwrap();
        let writer = archive.node("n").unwrap().open_writer_with(quiet()).unwrap();
        for _ in 0..commits {
            writer.batch().commit(Durability::Synced).unwrap();
        }
        writer.rotate_segment().unwrap();
        writer.batch().commit(Durability::Synced).unwrap();
        writer.close().unwrap();
    }
    let newest =
        paths(&other, "seg").into_iter().rfind(|p| p.starts_with("nodes/00000001/")).unwrap();
    assert!(!one.files().contains_key(&newest));
    one.set_file(&newest, other.files()[&newest].clone());
    let report = verify(&one).unwrap();
    let doubles = |e: &&Error| matches!(e, Error::Damaged(d) if d.what == "segment name");
    assert!(report.findings.iter().filter(doubles).count() >= 1, "{:?}", report.findings);
    assert!(report.findings.iter().all(Error::is_damage), "{:?}", report.findings);
    assert!(report.commits >= 30 + 3 + 2, "all the rest was read: {report}");
    // No telling which one it is: nothing is guessed.
    let options = archive_options(&TestClock::new(), 9);
    let archive = Archive::open_in(Arc::new(one), key(), options).unwrap();
    assert!(archive.node("n").unwrap().window().is_err_and(|e| e.is_damage()));
}

#[test]
fn no_error_in_one_node_keeps_from_the_others() {
    let storage = estate();
    add_node(&storage);
    // Of the first node nothing can be read at all.
    for path in storage.files().into_keys().filter(|p| p.starts_with("nodes/00000001/")) {
        storage.set_file(&path, Vec::new());
    }
    let report = verify(&storage).unwrap();
    assert!(
        !report.is_intact() && report.findings.iter().all(Error::is_damage),
        "{:?}",
        report.findings
    );
    assert_eq!(report.commits, 3);
}

#[test]
fn a_flipped_version_is_damage_and_not_a_newer_format() {
    let storage = estate();
    let files = storage.files();
    for ending in ["seg", "part", "layer", "entry"] {
        for path in paths(&storage, ending) {
            // Version, kind, cipher, key derivation, compression.
            for at in 8..14 {
                let copy = storage.fork();
                let mut bytes = files[&path].clone();
                bytes[at] ^= 0x40;
                copy.set_file(&path, bytes);
                let what = format!("{path} at {at}");
                let damaged = |e: &Error| assert!(e.is_damage(), "{what}: {e}");
                let findings = checksums(&copy).findings;
                assert!(!findings.is_empty(), "{what}");
                findings.iter().for_each(damaged);
                match verify(&copy) {
                    Ok(report) => {
                        assert!(!report.is_intact(), "{what}");
                        report.findings.iter().for_each(damaged);
                    }
                    Err(e) => damaged(&e),
                }
                if matches!(ending, "part" | "layer") {
                    let options = archive_options(&TestClock::new(), 9);
                    let archive = Archive::open_in(Arc::new(copy), key(), options).unwrap();
                    for lsn in [7, 15, 30] {
                        let target = Target::Lsn(Lsn::new(lsn).unwrap());
                        let (report, _) =
                            archive.node("n").unwrap().restore(target).into_memory().unwrap();
                        assert_eq!(report.lsn.get(), lsn, "{what}: routed around");
                    }
                }
            }
        }
    }
}

/// A process dies between writing the seal and cutting off the zeros reserved behind it.
#[test]
fn zeros_behind_the_end_of_a_sealed_segment_are_no_damage() {
    let storage = estate();
    let sealed = paths(&storage, "seg")[2].clone();
    let whole = storage.files()[&sealed].clone();
    let trailer = whole.len() - 32;
    for kept in [32, 31, 20, 8, 1, 0] {
        for zeros in [0, 1, 40, 5_000] {
            let mut bytes = whole[..trailer + kept].to_vec();
            bytes.resize(bytes.len() + zeros, 0);
            let copy = storage.fork();
            copy.set_file(&sealed, bytes);
            let report = checksums(&copy);
            assert!(
                report.is_intact(),
                "{kept} bytes of the trailer, {zeros} zeros: {:?}",
                report.findings
            );
            let report = verify(&copy).unwrap();
            assert!(
                report.is_intact(),
                "{kept} bytes of the trailer, {zeros} zeros: {:?}",
                report.findings
            );
            assert_eq!(report.commits, 30);
        }
    }
    // Or a power failure made garbage of the trailer.
    for (garbage, zeros) in [(1, 3_000), (2, 0), (17, 0), (32, 0), (32, 700)] {
        let mut bytes = whole.clone();
        bytes.iter_mut().rev().take(garbage).for_each(|b| *b ^= 0x5a);
        bytes.resize(bytes.len() + zeros, 0);
        let copy = storage.fork();
        copy.set_file(&sealed, bytes);
        assert!(
            checksums(&copy).is_intact() && verify(&copy).unwrap().is_intact(),
            "{garbage} bytes, {zeros} zeros"
        );
    }
    // Zeros with something behind them are none, and of other files nothing may follow the trailer.
    let mut bytes = whole.clone();
    bytes.extend([0; 40]);
    bytes.push(1);
    storage.set_file(&sealed, bytes);
    assert_eq!(checksums(&storage).findings.len(), 1);
    storage.set_file(&sealed, whole);
    let part = paths(&storage, "part")[0].clone();
    let mut bytes = storage.files()[&part].clone();
    bytes.push(0);
    storage.set_file(&part, bytes);
    assert_eq!(checksums(&storage).findings.len(), 1);
}

#[test]
fn misses_entries_of_the_catalog_that_an_open_archive_has_read() {
    for gone in [1, 3, usize::MAX] {
        let storage = estate();
        let options = archive_options(&TestClock::new(), 9);
        let archive = Archive::open_in(Arc::new(storage.clone()), key(), options).unwrap();
        let mut entries: Vec<String> =
            storage.files().into_keys().filter(|p| p.ends_with(".entry")).collect();
        entries.sort_unstable();
        for path in entries.iter().rev().take(gone) {
            storage.delete(path).unwrap();
        }
        let report = archive.verify_catalog(&VerifyOptions::default(), &mut |_| {}).unwrap();
        let newest = entries.last().unwrap();
        let missed = |e: &Error| matches!(e, Error::Damaged(d) if d.kind == DamageKind::Missing && d.path == *newest);
        assert!(report.findings.iter().any(missed), "{gone}: {:?}", report.findings);
    }
}
