//! Verification finds a flipped bit in every kind of file, with the key and without, and nothing where nothing is wrong.

use std::sync::Arc;

use rewound::options::Cancel;
use rewound::storage::MemStorage;
use rewound::{
    Archive, CompactOptions, Durability, Error, Origin, PageId, PageSize, VerifyOptions, VerifyReport, verify_checksums,
};

use crate::support::{TestClock, archive_options, key, memory_archive, quiet};

/// Thirty commits in six segments, layers on two levels, snapshots, more than one page of catalog; the last segment not sealed.
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
            let image: Vec<u8> = (0..512u64).map(|i| ((i * i + round * 7 + n) % 251) as u8).collect();
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
    let sealed = |ending: &str| storage.files().keys().filter(|p| p.ends_with(ending)).count() as u64;
    assert_eq!(report.files, sealed(".seg") + sealed(".part") + sealed(".layer") + sealed(".entry"));
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
                    Ok(report) if report.findings.is_empty() => missed.push(format!("{path} at {at} with key")),
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
    let segments: Vec<&String> = files.keys().filter(|p| p.ends_with(".seg")).collect();
    let copy = storage.fork();
    rewound::storage::Storage::remove(&copy, segments[2]).unwrap();
    assert!(checksums(&copy).is_intact(), "a missing file needs the key");
    let report = verify(&copy).unwrap();
    assert!(report.findings.iter().any(|e| matches!(e, Error::Gap { .. })), "{:?}", report.findings);

    let copy = storage.fork();
    copy.set_file(segments[1], files[segments[3]].clone());
    assert!(!verify(&copy).unwrap().is_intact());

    let copy = storage.fork();
    let part = files.keys().find(|p| p.ends_with(".part")).unwrap();
    rewound::storage::Storage::remove(&copy, part).unwrap();
    assert!(!verify(&copy).unwrap().is_intact());
}

#[test]
fn a_torn_tail_is_no_damage() {
    let storage = estate();
    let newest = storage.files().into_keys().filter(|p| p.ends_with(".seg")).next_back().unwrap();
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

#[test]
fn can_be_cancelled() {
    let storage = estate();
    let archive = Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 9)).unwrap();
    let options = VerifyOptions::default();
    let cancel = options.replay.cancel.clone();
    let verified = archive.verify(&options, &mut |_| cancel.cancel());
    assert!(matches!(verified, Err(Error::Cancelled)), "{verified:?}");
    let nothing = verify_checksums(&MemStorage::new(), &Cancel::new(), &mut |_| {});
    assert!(matches!(nothing, Err(Error::NoArchive { .. })), "{nothing:?}");
}
