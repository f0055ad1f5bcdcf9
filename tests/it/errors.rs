//! Every error that a host can meet, provoked, and its message: it names what was found and says
//! what to do.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use rewound::storage::MemStorage;
use rewound::{
    Archive, BaseSpace, CompactOptions, DamageKind, Durability, Error, KeyFile, Lsn, Node, Origin,
    PageId, PageSize, PageSource, Position, Result, SpaceId, Target, Timestamp, Writer,
};

use crate::support::{TestClock, archive_options, key, memory_archive, quiet};

const SIZE: usize = 512;

/// The error, and its message, which has to hold all of `parts`.
#[track_caller]
fn fails<T>(result: Result<T>, parts: &[&str]) -> Error {
    let Err(error) = result else { panic!("it did not fail") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    error
}

fn node() -> (TestClock, MemStorage, Archive, Node) {
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("shard-0", Origin::Empty).unwrap();
    (clock, storage, archive, node)
}

fn writer(node: &Node) -> (Writer, SpaceId) {
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("main", PageSize::MIN).unwrap();
    batch.write_page(PageId::new(space, 0), &[1; SIZE], None).unwrap();
    batch.commit(Durability::Synced).unwrap();
    (writer, space)
}

fn write(writer: &Writer, space: SpaceId, byte: u8) -> Result<rewound::Commit> {
    let mut batch = writer.batch();
    batch.write_page(PageId::new(space, 0), &[byte; SIZE], None)?;
    batch.commit(Durability::Synced)
}

fn copy(storage: &MemStorage, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> Archive {
    let mut files = storage.files();
    change(&mut files);
    let copy = MemStorage::new();
    for (path, bytes) in files {
        copy.set_file(&path, bytes);
    }
    Archive::open_in(Arc::new(copy), key(), archive_options(&TestClock::new(), 99)).unwrap()
}

fn segments(storage: &MemStorage) -> Vec<String> {
    storage.files().into_keys().filter(|p| p.contains("/wal/")).collect()
}

#[test]
fn places_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.archive");
    let e =
        fails(Archive::open(&path, key()), &["app.archive", "Archive::create", "check the path"]);
    assert!(matches!(e, Error::NoArchive { .. }));
    let archive = Archive::create(&path, key()).unwrap();
    let e = fails(Archive::create(&path, key()), &["app.archive", "Archive::open", "empty place"]);
    assert!(matches!(e, Error::ArchiveExists { .. }));
    let other = KeyFile::from_bytes([9; 32]);
    let e =
        fails(Archive::open(&path, other), &["wrong key", "catalog/", "sealed for", "at hand is"]);
    assert!(matches!(e, Error::WrongKey { .. }));
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("file"), b"x").unwrap();
    let e = fails(Archive::create(&taken, key()), &["taken", "not empty"]);
    assert!(matches!(e, Error::TargetNotEmpty { .. }));
    let e = fails(archive.node("nobody"), &["nobody"]);
    assert!(matches!(e, Error::NoSuchNode { .. }));
    archive.create_node("n", Origin::Empty).unwrap();
    let e = fails(archive.create_node("n", Origin::Empty), &["\"n\"", "exists already"]);
    assert!(matches!(e, Error::NodeExists { .. }));
    for bad in ["", "a/b", ".n", "a\nb"] {
        let e = fails(archive.create_node(bad, Origin::Empty), &["cannot name a node"]);
        assert!(matches!(e, Error::InvalidName { .. }));
    }
}

/// An engine whose pages are all zero.
struct Empty;

impl PageSource for Empty {
    fn begin(&mut self, _: Position) -> Result<rewound::Consistency> {
        Ok(rewound::Consistency::Frozen)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn targets_outside_the_window() {
    let (clock, _, archive, node) = node();
    let e = fails(node.window().map(drop), &["the log is empty"]);
    assert!(matches!(e, Error::AfterDurableEnd { .. }));
    let (writer, space) = writer(&node);
    let before = Timestamp::from_nanos(1_000);
    let e = fails(
        node.resolve(&Target::Time(before)),
        &["1970-01-01T00:00:00", "begins at LSN 1 (2026-"],
    );
    assert!(matches!(e, Error::BeforeWindow { .. }));
    let e = fails(
        node.resolve(&Target::Lsn(Lsn::new(2).unwrap())),
        &["LSN 2", "durable end", "LSN 1 (2026-"],
    );
    assert!(matches!(e, Error::AfterDurableEnd { .. }));
    clock.advance(1_000_000_000);
    let later = rewound::env::Clock::now(&clock);
    let e = fails(node.resolve(&Target::Time(later)), &["durable end"]);
    assert!(matches!(e, Error::AfterDurableEnd { .. }));
    writer.tick().unwrap();
    assert_eq!(node.resolve(&Target::Time(later)).unwrap().lsn, Lsn::FIRST);
    let e = fails(
        node.resolve(&Target::RestorePoint("nowhere".into())),
        &["nowhere", "not known", "shard-0"],
    );
    assert!(matches!(e, Error::TargetNotFound { .. }));
    let e = fails(node.resolve(&Target::Mark(vec![0xab])), &["host mark ab", "not known"]);
    assert!(matches!(e, Error::TargetNotFound { .. }));
    write(&writer, space, 2).unwrap();

    // A node with content from before its first commit.
    let existing = archive.create_node("existing", Origin::Existing).unwrap();
    let tenure = existing.open_writer_with(quiet()).unwrap();
    let mut batch = tenure.batch();
    batch.create_space("main", PageSize::MIN).unwrap();
    batch.commit(Durability::Synced).unwrap();
    let e = fails(existing.resolve(&Target::Latest), &["base snapshot"]);
    assert!(matches!(e, Error::BeforeWindow { .. }));

    tenure.batch().commit(Durability::Synced).unwrap();
    tenure.base_snapshot(&mut Empty, &CompactOptions::default()).unwrap();
    let e = fails(existing.resolve(&Target::Lsn(Lsn::FIRST)), &["LSN 1", "begins at LSN 2"]);
    assert!(matches!(e, Error::BeforeWindow { .. }));
}

#[test]
fn a_gap_and_damage() {
    let (_, storage, _, node) = node();
    let (writer, space) = writer(&node);
    for byte in 2..6 {
        writer.rotate_segment().unwrap();
        write(&writer, space, byte).unwrap();
    }
    let segments = segments(&storage);
    assert_eq!(segments.len(), 5);
    let target = || Target::Lsn(Lsn::new(4).unwrap());

    let gap = copy(&storage, |files| drop(files.remove(&segments[2])));
    let gap = gap.node("shard-0").unwrap();
    let e = fails(gap.restore(target()).into_memory(), &["gap in the log", "next one found is"]);
    assert!(matches!(e, Error::Gap { .. }) && e.is_damage());

    let flipped = copy(&storage, |files| {
        let bytes = files.get_mut(&segments[1]).unwrap();
        let middle = bytes.len() - 200;
        bytes[middle] ^= 1;
    });
    let e = fails(
        flipped.node("shard-0").unwrap().restore(target()).into_memory(),
        &["damage", &segments[1], "at offset", "expected", "found"],
    );
    let Error::Damaged(damage) = e else { panic!("{e}") };
    assert_eq!((damage.kind, damage.path.as_str()), (DamageKind::Checksum, segments[1].as_str()));

    // Bytes altered together with their CRC-32 are tampering, not rot: the header of frame 0 is at
    // 280 + 98.
    let tampered = copy(&storage, |files| {
        let bytes = files.get_mut(&segments[1]).unwrap();
        let at = 280 + usize::from(u16::from_le_bytes([bytes[274], bytes[275]]));
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        bytes[at + 48] ^= 1;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[at..at + 44]);
        crc.update(&bytes[at + 48..at + 48 + length]);
        let crc = crc.finalize().to_le_bytes();
        bytes[at + 44..at + 48].copy_from_slice(&crc);
    });
    let e = fails(
        tampered.node("shard-0").unwrap().restore(target()).into_memory(),
        &["authentication failed"],
    );
    assert!(matches!(e, Error::Damaged(d) if d.kind == DamageKind::Authentication));

    // A torn tail of the newest segment is none of these: it is cut.
    let newest = segments.last().unwrap();
    let torn = copy(&storage, |files| {
        let bytes = files.get_mut(newest).unwrap();
        let end = bytes.iter().rposition(|b| *b != 0).unwrap();
        bytes.truncate(end - 3);
    });
    assert_eq!(torn.node("shard-0").unwrap().window().unwrap().latest.lsn.get(), 4);

    // Damage before frames that were written when it was durable is not.
    write(&writer, space, 9).unwrap();
    let damaged = copy(&storage, |files| {
        let bytes = files.get_mut(newest).unwrap();
        let markers: Vec<_> =
            bytes.windows(4).enumerate().filter(|(_, w)| w == b"RWF1").map(|(i, _)| i).collect();
        assert_eq!(markers.len(), 3, "preface and two commits");
        bytes[markers[1] + 60] ^= 1;
    });
    let e = fails(
        damaged.node("shard-0").unwrap().window(),
        &[newest, "checksum mismatch", "frame 1 intact"],
    );
    assert!(matches!(e, Error::Damaged(d) if d.kind == DamageKind::Checksum));
    let e = fails(damaged.node("shard-0").unwrap().open_writer().map(drop), &[newest]);
    assert!(e.is_damage());
}

#[test]
fn a_newer_format() {
    let (_, storage, _, node) = node();
    writer(&node).0.close().unwrap();
    let segment = segments(&storage).remove(0);
    let newer = copy(&storage, |files| {
        let bytes = files.get_mut(&segment).unwrap();
        bytes[8] = 2;
        let stanzas = usize::from(u16::from_le_bytes([bytes[274], bytes[275]]));
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..276]);
        crc.update(&bytes[280..280 + stanzas]);
        let crc = crc.finalize().to_le_bytes();
        bytes[276..280].copy_from_slice(&crc);
    });
    let e = fails(
        newer.node("shard-0").unwrap().window(),
        &[&segment, "format version 2", "up to 1", "update rewound"],
    );
    assert!(matches!(e, Error::FormatTooNew { found: 2, supported: 1, .. }));
}

#[test]
fn a_second_writer() {
    let (_, _, _, node) = node();
    let first = node.open_writer_with(quiet()).unwrap();
    let e = fails(
        node.open_writer_with(quiet()).map(drop),
        &["shard-0", "has a writer already", "close it first"],
    );
    assert!(matches!(e, Error::WriterActive { .. }));
    first.close().unwrap();
    node.open_writer_with(quiet()).unwrap().close().unwrap();
}

const CHILD: &str = "REWOUND_TEST_ARCHIVE";

/// Not a test of its own: what another process does in [`a_second_writer_in_another_process`].
#[test]
fn child_opens_a_writer() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let node = Archive::open(path, key()).unwrap().node("n").unwrap();
    let e = fails(node.open_writer_with(quiet()).map(drop), &["has a writer already"]);
    assert!(matches!(e, Error::WriterActive { .. }));
}

#[test]
fn a_second_writer_in_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    let archive = Archive::create(&path, key()).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let (writer, _) = writer(&node);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "errors::child_opens_a_writer"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "the child has not run");
    writer.close().unwrap();
}

#[test]
fn what_a_batch_refuses() {
    let (_, _, _, node) = node();
    let (writer, space) = writer(&node);
    let page = PageId::new(space, 0);

    let e = fails(
        writer.batch().write_page(page, &[0; 100], None),
        &["page 0 of space 0", "512 bytes", "100 bytes"],
    );
    assert!(matches!(e, Error::PageSizeMismatch { .. }));
    let e = fails(writer.batch().write_page(page, &[0; SIZE], Some(&[0; 9])), &["512", "9 bytes"]);
    assert!(matches!(e, Error::PageSizeMismatch { .. }));
    let e = fails(writer.batch().write_range(page, 510, &[0; 3]), &["512", "513 bytes"]);
    assert!(matches!(e, Error::PageSizeMismatch { .. }));

    let e = fails(
        writer.batch().write_page(page, &[2; SIZE], Some(&[7; SIZE])),
        &["page 0 of space 0", "previous image", "CRC-32", "expected", "given"],
    );
    assert!(matches!(e, Error::PreviousImageMismatch { .. }));

    let nowhere = PageId::new(SpaceId::new(77), 0);
    let e =
        fails(writer.batch().write_page(nowhere, &[0; SIZE], None), &["no space 77", "shard-0"]);
    assert!(matches!(e, Error::NoSuchSpace { .. }));
    let e = fails(writer.batch().drop_space(nowhere.space), &["no space 77"]);
    assert!(matches!(e, Error::NoSuchSpace { .. }));

    for bad in ["", "../x", "a\\b", ".hidden", &"x".repeat(201)] {
        let e = fails(writer.batch().create_space(bad, PageSize::MIN), &["cannot name a space"]);
        assert!(matches!(e, Error::InvalidName { .. }));
        let e = fails(writer.batch().restore_point(bad), &["cannot name a restore point"]);
        assert!(matches!(e, Error::InvalidName { .. }));
    }
    let e = fails(writer.batch().create_space("main", PageSize::MIN), &["\"main\" exists already"]);
    assert!(matches!(e, Error::SpaceExists { .. }));

    // Two batches change one page, each on the version before.
    let mut first = writer.batch();
    first.write_page(page, &[3; SIZE], Some(&[1; SIZE])).unwrap();
    let mut second = writer.batch();
    second.write_page(page, &[4; SIZE], Some(&[1; SIZE])).unwrap();
    first.commit(Durability::Buffered).unwrap();
    let e = fails(
        second.commit(Durability::Synced),
        &["page 0 of space 0", "another commit", "build the batch again"],
    );
    assert!(matches!(e, Error::Conflict { .. }));

    // Nothing of all that stops the writer.
    let mut batch = writer.batch();
    batch.restore_point("before").unwrap();
    batch.commit(Durability::Synced).unwrap();
    let e =
        fails(writer.batch().restore_point("before"), &["\"before\" exists already", "for good"]);
    assert!(matches!(e, Error::RestorePointExists { .. }));

    let newest = writer.newest_timestamp();
    let e = fails(
        writer.batch().commit_at(newest, Durability::Synced),
        &["timestamp", "must not go back", "2026-"],
    );
    assert!(matches!(e, Error::NotMonotonic { .. }));
    let mut batch = writer.batch();
    batch.mark(b"b").unwrap();
    batch.commit(Durability::Synced).unwrap();
    let e = fails(
        writer.batch().mark(b"a"),
        &["host mark", "must not go back", "mark 62", "mark 61 was given"],
    );
    assert!(matches!(e, Error::NotMonotonic { .. }));
    let e = fails(writer.batch().mark(&[0; 65]), &["host mark", "65", "limit of 64"]);
    assert!(matches!(e, Error::LimitExceeded { .. }));

    // The latest state is as if none of that had been tried.
    let (report, spaces) = node.restore(Target::Latest).into_memory().unwrap();
    assert_eq!(report.lsn.get(), 4);
    assert_eq!(spaces["main"], [3; SIZE]);
}

/// Each call that asks for what cannot be committed.
#[test]
fn what_cannot_be_committed_is_refused_when_it_is_asked_for_and_the_batch_goes_on() {
    let (_, _, _, node) = node();
    let (writer, space) = writer(&node);
    let mut batch = writer.batch();
    batch.mark(b"m").unwrap();
    batch.redo_point(Position::new(1)).unwrap();
    batch.restore_point("taken").unwrap();
    batch.set_config("large", &vec![1; 1 << 19], rewound::ConfigScope::Data).unwrap();
    batch.commit(Durability::Buffered).unwrap();

    let mut batch = writer.batch();
    assert!(matches!(batch.create_space("main", PageSize::MIN), Err(Error::SpaceExists { .. })));
    let own = batch.create_space("own", PageSize::MIN).unwrap();
    assert!(matches!(batch.create_space("own", PageSize::MIN), Err(Error::SpaceExists { .. })));
    batch.drop_space(own).unwrap();
    let own = batch.create_space("own", PageSize::MIN).unwrap();
    batch.drop_space(space).unwrap();
    let main = batch.create_space("main", PageSize::MIN).unwrap();
    assert!(matches!(batch.create_space("main", PageSize::MIN), Err(Error::SpaceExists { .. })));
    for gone in [SpaceId::new(99), space] {
        assert!(matches!(batch.set_length(gone, 1), Err(Error::NoSuchSpace { .. })));
        assert!(matches!(batch.drop_space(gone), Err(Error::NoSuchSpace { .. })));
    }
    fails(batch.mark(b"l"), &["host mark", "must not go back", "6d", "6c"]);
    batch.mark(b"n").unwrap();
    fails(batch.mark(b"m"), &["host mark", "must not go back", "6e", "6d"]);
    fails(
        batch.redo_point(Position::ORIGIN),
        &["redo point", "must not go back", "LSN 1", "LSN 0"],
    );
    fails(batch.redo_point(Position::new(4)), &["redo point", "4 is beyond the limit of 3"]);
    batch.redo_point(Position::new(3)).unwrap();
    fails(
        batch.redo_point(Position::new(2)),
        &["redo point", "must not go back", "LSN 3", "LSN 2"],
    );
    assert!(matches!(batch.restore_point("taken"), Err(Error::RestorePointExists { .. })));
    batch.restore_point("new").unwrap();
    assert!(matches!(batch.restore_point("new"), Err(Error::RestorePointExists { .. })));
    let scope = rewound::ConfigScope::Data;
    fails(
        batch.set_config("second", &vec![1; 1 << 19], scope),
        &["bytes of configuration", "limit of 1048576"],
    );
    batch.remove_config("large").unwrap();
    batch.set_config("second", &vec![1; 1 << 19], scope).unwrap();
    fails(
        batch.set_config("second", &vec![1; (1 << 19) + 1], scope),
        &["configuration values in a batch"],
    );
    batch.write_page(PageId::new(main, 0), &[7; SIZE], None).unwrap();
    assert_eq!(batch.commit(Durability::Synced).unwrap().lsn.get(), 3);
    assert_eq!((writer.space("own"), writer.space("main")), (Some(own), Some(main)));
    assert_eq!((writer.host_mark(), writer.config("large")), (Some(b"n".to_vec()), None));
    assert!(node.restore_points().unwrap().contains_key("new"));
}

/// What a batch asks for, and what the error has to be where the batch that commits first has made
/// it impossible.
struct Race {
    ask: fn(&mut rewound::Batch, SpaceId) -> Result<()>,
    before: fn(&mut rewound::Batch, SpaceId) -> Result<()>,
    told: fn(&Error) -> bool,
}

#[test]
fn what_another_commit_makes_impossible_is_told_by_the_commit() {
    fn set(batch: &mut rewound::Batch, key: &str, kib: usize) -> Result<()> {
        batch.set_config(key, &vec![2; kib << 10], rewound::ConfigScope::Data)
    }
    let races = [
        Race {
            ask: |b, _| b.create_space("raced", PageSize::MIN).map(drop),
            before: |b, _| b.create_space("raced", PageSize::MIN).map(drop),
            told: |e| matches!(e, Error::SpaceExists { .. }),
        },
        Race {
            ask: |b, _| b.restore_point("raced"),
            before: |b, _| b.restore_point("raced"),
            told: |e| matches!(e, Error::RestorePointExists { .. }),
        },
        Race {
            ask: |b, space| b.write_page(PageId::new(space, 9), &[1; SIZE], None),
            before: |b, space| b.drop_space(space),
            told: |e| matches!(e, Error::NoSuchSpace { .. }),
        },
        Race {
            ask: |b, _| b.mark(b"y"),
            before: |b, _| b.mark(b"z"),
            told: |e| matches!(e, Error::NotMonotonic { .. }),
        },
        Race {
            ask: |b, _| b.redo_point(Position::new(1)),
            before: |b, _| b.redo_point(Position::new(2)),
            told: |e| matches!(e, Error::NotMonotonic { .. }),
        },
        Race {
            ask: |b, _| set(b, "a", 600),
            before: |b, _| set(b, "b", 600),
            told: |e| matches!(e, Error::LimitExceeded { .. }),
        },
    ];
    for (n, race) in races.into_iter().enumerate() {
        let (_, _, _, node) = node();
        let (writer, space) = writer(&node);
        let (mut first, mut second) = (writer.batch(), writer.batch());
        (race.ask)(&mut second, space).unwrap();
        (race.before)(&mut first, space).unwrap();
        first.commit(Durability::Buffered).unwrap();
        let e = second.commit(Durability::Synced).unwrap_err();
        assert!((race.told)(&e), "{n}: {e}");
        assert_eq!(
            writer.batch().commit(Durability::Synced).unwrap().lsn.get(),
            3,
            "nothing was committed"
        );
    }
}

/// A table of 1,000 versions, and more pages than that committed while a batch is open.
#[test]
fn what_was_forgotten_meanwhile_is_no_conflict_and_what_was_changed_is_one() {
    for change in [None, Some(0), Some(1), Some(2)] {
        for range in [false, true] {
            let (_, _, _, node) = node();
            let mut options = quiet();
            options.page_table = 1_000;
            let writer = node.open_writer_with(options).unwrap();
            let mut batch = writer.batch();
            let (space, other) = (
                batch.create_space("a", PageSize::MIN).unwrap(),
                batch.create_space("b", PageSize::MIN).unwrap(),
            );
            let page = PageId::new(space, 7);
            batch.write_page(page, &[1; SIZE], None).unwrap();
            batch.commit(Durability::Buffered).unwrap();

            let mut open = writer.batch();
            let mut new = [1; SIZE];
            new[9] = 2;
            if range {
                open.write_range(page, 9, &[2]).unwrap();
            } else {
                open.write_page(page, &new, Some(&[1; SIZE])).unwrap();
            }
            let mut batch = writer.batch();
            match change {
                Some(0) => batch.write_page(page, &[3; SIZE], None).unwrap(),
                Some(1) => batch.set_length(space, 7 * SIZE as u64).unwrap(),
                Some(_) => batch.drop_space(space).unwrap(),
                None => batch.set_length(space, 8 * SIZE as u64).unwrap(),
            }
            batch.commit(Durability::Buffered).unwrap();
            for n in 0..5_000 {
                let mut batch = writer.batch();
                batch.write_page(PageId::new(other, n), &[4; SIZE], None).unwrap();
                batch.commit(Durability::Buffered).unwrap();
            }
            let done = open.commit(Durability::Synced);
            if change.is_some() {
                let e = done.unwrap_err();
                assert!(
                    matches!(e, Error::Conflict { page: p, .. } if p == page),
                    "{change:?}, {range}: {e}"
                );
                continue;
            }
            done.unwrap();
            let (_, spaces) = node.restore(Target::Latest).into_memory().unwrap();
            assert!(spaces["a"][7 * SIZE..] == new, "{range}");
        }
    }
}

#[test]
fn a_full_disk() {
    let (_, storage, _, node) = node();
    let (writer, space) = writer(&node);
    let used: usize = storage.files().values().map(Vec::len).sum();
    storage.set_capacity(Some(used as u64 + 50));
    let mut byte = 1;
    let full = loop {
        byte += 1;
        if let Err(e) = write(&writer, space, byte) {
            break e;
        }
    };
    let e = fails::<()>(
        Err(full),
        &["disk full", "free some space", "open the writer again", "is safe"],
    );
    assert!(matches!(e, Error::DiskFull { .. }));
    let e =
        fails(write(&writer, space, 99), &["accepts nothing more", "disk full", "open it again"]);
    assert!(matches!(e, Error::Poisoned { .. }));
    assert!(matches!(writer.flush(), Err(Error::Poisoned { .. })));
    assert!(matches!(writer.tick(), Err(Error::Poisoned { .. })));
    drop(writer);
    let acknowledged = u64::from(byte) - 1;
    storage.set_capacity(None);
    let writer = node.open_writer_with(quiet()).unwrap();
    assert!(writer.newest().get() >= acknowledged);
    write(&writer, space, 200).unwrap();
    let (report, spaces) = node.restore(Target::Latest).into_memory().unwrap();
    assert!(report.lsn.get() > acknowledged);
    assert_eq!(spaces["main"], [200; SIZE]);
    let (_, spaces) =
        node.restore(Target::Lsn(Lsn::new(acknowledged).unwrap())).into_memory().unwrap();
    assert_eq!(spaces["main"], vec![byte - 1; SIZE]);
}

#[test]
fn restores_that_cannot_go_there() {
    let (_, _, _, node) = node();
    let (writer, _) = writer(&node);
    let dir = tempfile::tempdir().unwrap();
    let e = fails(
        node.restore(Target::Latest)
            .into_files(&BTreeMap::from([("nope".into(), dir.path().join("x"))])),
        &["no space nope"],
    );
    assert!(matches!(e, Error::NoSuchSpace { .. }));
    std::fs::write(dir.path().join("x"), b"precious").unwrap();
    let e = fails(
        node.restore(Target::Latest).into_dir(dir.path()),
        &["not empty", "another place", "delta restore"],
    );
    assert!(matches!(e, Error::TargetNotEmpty { .. }));
    let e = fails(node.restore(Target::Latest).into_file(dir.path().join("x")), &["not empty"]);
    assert!(matches!(e, Error::TargetNotEmpty { .. }));
    assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"precious");

    let mut batch = writer.batch();
    batch.log_record(b"replay me").unwrap();
    batch.commit(Durability::Synced).unwrap();
    let e = fails(node.restore(Target::Latest).into_memory(), &["1 logical records", "Redo"]);
    assert!(matches!(e, Error::RedoRequired { count: 1, .. }));
}
