//! Checkpoints of the catalog: opening reads what came since, whatever lies before, and does
//! without those that are damaged.

use std::collections::BTreeSet;
use std::sync::Arc;

use rewound::storage::{CrashPlan, MemStorage, Operation, Unsynced};
use rewound::{
    Actor, Archive, BaseSpace, CompactOptions, Consistency, Damage, DamageKind, Durability, Error,
    Origin, PageId, PageSize, PageSource, Position, Result, Scope, SweepOptions, Target,
};

use crate::faulty::LyingStorage;
use crate::support::{TestClock, archive_options, key, quiet};

const ENTRIES: u64 = 600;

fn entry(sequence: u64) -> String {
    format!("catalog/{:08x}/{sequence:016x}.entry", sequence / 1_024)
}

fn checkpoint(sequence: u64) -> String {
    format!("catalog/checkpoints/{sequence:016x}.checkpoint")
}

fn names() -> Vec<String> {
    (2..=ENTRIES).map(|i| format!("node {i}")).collect()
}

/// An archive with 600 entries: its creation and that of 599 nodes.
fn archive() -> MemStorage {
    let storage = MemStorage::without_recording();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 1))
            .unwrap();
    for name in names() {
        archive.create_node(&name, Origin::Empty).unwrap();
    }
    storage
}

/// The same files without those named, and with those given.
fn image(of: &MemStorage, without: &dyn Fn(&str) -> bool, with: &[(&str, Vec<u8>)]) -> MemStorage {
    let image = MemStorage::without_recording();
    for (path, bytes) in of.files() {
        if !without(&path) && with.iter().all(|(p, _)| *p != path) {
            image.set_file(&path, bytes);
        }
    }
    for (path, bytes) in with {
        image.set_file(path, bytes.clone());
    }
    image
}

fn open(storage: &MemStorage) -> Result<Archive> {
    Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 2))
}

fn damage(storage: &MemStorage) -> Damage {
    match open(storage).map(|_| ()) {
        Err(Error::Damaged(damage)) => *damage,
        other => panic!("{other:?}"),
    }
}

fn flipped(storage: &MemStorage, path: &str, at: usize) -> Vec<u8> {
    let mut bytes = storage.files()[path].clone();
    bytes[at] ^= 1;
    bytes
}

fn holds_all(archive: &Archive) {
    assert_eq!(archive.nodes().unwrap(), names());
}

#[test]
fn an_archive_opens_from_its_newest_checkpoint() {
    let storage = archive();
    let all: Vec<String> =
        storage.files().into_keys().filter(|p| p.ends_with(".checkpoint")).collect();
    assert_eq!(all, [checkpoint(256), checkpoint(512)]);
    holds_all(&open(&storage).unwrap());
    // What it stands for is not read: it may even be gone.
    let early = |path: &str| (1..512).any(|n| path == entry(n));
    let bare = image(&storage, &early, &[]);
    holds_all(&open(&bare).unwrap());
    // And the archive goes on as if nothing was.
    let reopened = open(&bare).unwrap();
    reopened.create_node("one more", Origin::Existing).unwrap();
    assert!(open(&bare).unwrap().nodes().unwrap().contains(&"one more".to_owned()));
}

#[test]
fn older_checkpoints_go_and_one_stays_in_reserve() {
    let storage = archive();
    let archive = open(&storage).unwrap();
    for i in 0..512 {
        archive.create_node(&format!("later {i}"), Origin::Empty).unwrap();
    }
    let left: Vec<String> =
        storage.files().into_keys().filter(|p| p.ends_with(".checkpoint")).collect();
    assert_eq!(left, [checkpoint(768), checkpoint(1_024)]);
    assert_eq!(open(&storage).unwrap().nodes().unwrap(), archive.nodes().unwrap());
}

#[test]
fn a_damaged_checkpoint_is_done_without() {
    let storage = archive();
    let len = storage.files()[&checkpoint(512)].len();
    for at in (0..len).step_by(997).chain([0, 8, 11, 100, 150, 200, 250, len - 1]) {
        let bytes = flipped(&storage, &checkpoint(512), at);
        // The older one serves.
        let one = image(&storage, &|p| p == entry(1), &[(&checkpoint(512), bytes.clone())]);
        holds_all(&open(&one).unwrap());
        // Or all the entries do.
        let older = flipped(&storage, &checkpoint(256), at % 7_000);
        let none =
            image(&storage, &|_| false, &[(&checkpoint(512), bytes), (&checkpoint(256), older)]);
        holds_all(&open(&none).unwrap());
    }
    for len in [0, 1, 191, 280, 1_000, len - 1] {
        let cut = storage.files()[&checkpoint(512)][..len].to_vec();
        holds_all(&open(&image(&storage, &|_| false, &[(&checkpoint(512), cut)])).unwrap());
    }
    // Another file under its name.
    let wrong = storage.files()[&checkpoint(256)].clone();
    holds_all(&open(&image(&storage, &|_| false, &[(&checkpoint(512), wrong)])).unwrap());
}

#[test]
fn a_checkpoint_tells_that_the_newest_entries_are_gone() {
    let storage = archive();
    let cut = image(&storage, &|p| (500..=ENTRIES).any(|n| p == entry(n)), &[]);
    let damage = damage(&cut);
    assert_eq!(
        (damage.kind, damage.path.as_str()),
        (DamageKind::Missing, checkpoint(512).as_str())
    );
}

#[test]
fn a_checkpoint_and_its_entry_have_to_agree() {
    let storage = archive();
    let entry = entry(512);
    for at in [0, 100, 200, 300] {
        let image = image(&storage, &|_| false, &[(&entry, flipped(&storage, &entry, at))]);
        let damage = damage(&image);
        assert_eq!((damage.kind, damage.path.as_str()), (DamageKind::Chain, entry.as_str()));
    }
}

#[test]
fn an_entry_counts_also_where_its_checkpoint_cannot_be_written() {
    let mut counted_without = 0;
    let storage = MemStorage::new();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 1))
            .unwrap();
    for i in 2..256 {
        archive.create_node(&format!("node {i}"), Origin::Empty).unwrap();
    }
    for n in 0..40 {
        let image = storage.fork();
        let archive = open(&image).unwrap();
        let path = checkpoint(256);
        let begin = image.operation_count();
        image.fail_operation(begin + n, std::io::ErrorKind::StorageFull);
        let created = archive.create_node("the 256th", Origin::Empty);
        // Failed or not: what is acknowledged is there, and the archive opens.
        let reopened = open(&image.fork()).unwrap();
        let there = reopened.nodes().unwrap().contains(&"the 256th".to_owned());
        assert!(there || created.is_err(), "operation {n}: {created:?}");
        counted_without += usize::from(created.is_ok() && !image.files().contains_key(&path));
        reopened.create_node("the next", Origin::Empty).unwrap();
    }
    assert!(counted_without > 3, "some of the failures met the checkpoint: {counted_without}");
}

/// A process dies between giving an entry its name and making the name durable. Whoever goes on
/// from that entry has to do it, or a power failure could leave the next entry without it.
#[test]
fn an_entry_of_another_is_made_durable_before_the_next() {
    let storage = MemStorage::new();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 1))
            .unwrap();
    archive.create_node("one", Origin::Empty).unwrap();
    drop(archive);
    let named = |operation: &Operation| matches!(operation, Operation::Publish { to, .. } if *to == entry(2));
    let at = storage.operations().iter().position(named).unwrap() + 1;
    let killed = storage.crash_image(CrashPlan { at, unsynced: Unsynced::KeptAll });
    let archive =
        Archive::open_in(Arc::new(killed.clone()), key(), archive_options(&TestClock::new(), 2))
            .unwrap();
    archive.create_node("two", Origin::Empty).unwrap();
    drop(archive);
    for at in 0..=killed.operation_count() {
        for unsynced in (0..20).map(Unsynced::Seeded).chain([Unsynced::LostAll]) {
            let image = killed.crash_image(CrashPlan { at, unsynced });
            let nodes = open(&image)
                .unwrap_or_else(|e| panic!("cut after {at}, {unsynced:?}: {e}"))
                .nodes()
                .unwrap();
            assert!(nodes.is_empty() || nodes == ["one"] || nodes == ["one", "two"], "{nodes:?}");
            assert!(at < killed.operation_count() || nodes.len() == 2);
        }
    }
}

fn temporary(storage: &MemStorage) -> Vec<String> {
    storage
        .files()
        .into_keys()
        .filter(|p| p.starts_with("tmp/") || p.starts_with("leases/"))
        .collect()
}

/// Whatever a killed process was writing, and whatever it held: once an archive was opened for
/// writing and swept, nothing of it is left.
#[test]
fn what_killed_processes_leave_is_removed() {
    let storage = MemStorage::new();
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 1))
            .unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let main = batch.create_space("main", PageSize::MIN).unwrap();
    batch.write_page(PageId::new(main, 0), &[1; 512], None).unwrap();
    batch.commit(Durability::Synced).unwrap();
    writer.base_snapshot(&mut Pages, &CompactOptions::default()).unwrap();
    writer.batch().commit(Durability::Synced).unwrap();
    node.build_snapshot(&Target::Latest, &CompactOptions::default()).unwrap();
    node.restore(Target::Latest).into_memory().unwrap();
    // A checkpoint falls into this.
    for n in 0..256 {
        archive.create_node(&format!("node {n}"), Origin::Empty).unwrap();
    }
    writer.close().unwrap();
    let (mut scopes, mut leases) = (BTreeSet::new(), 0);
    let operations = storage.operations();
    // Of the many entries in a row a few are enough.
    let interesting = |at: &usize| match &operations[at - 1] {
        Operation::Create { path }
        | Operation::Append { path, .. }
        | Operation::Finish { path } => {
            let temporary = path.starts_with("tmp/") || path.starts_with("leases/");
            temporary && (*at < 250 || at.is_multiple_of(37) || path.contains("checkpoint"))
        }
        _ => false,
    };
    for at in (1..=storage.operation_count()).filter(interesting) {
        let image = storage.crash_image(CrashPlan::kept(at));
        for path in temporary(&image) {
            leases += usize::from(path.starts_with("leases/"));
            scopes
                .extend(path.strip_prefix("tmp/").map(|name| {
                    name.chars().take_while(|c| c.is_alphabetic()).collect::<String>()
                }));
        }
        let Ok(archive) = open(&image) else { continue };
        let Ok(node) = archive.node("n") else { continue };
        node.open_writer_with(quiet()).unwrap().close().unwrap();
        archive.administrator(Actor::default()).sweep(&SweepOptions::default()).unwrap();
        assert!(
            temporary(&image).is_empty(),
            "after {at}: {:?}: {:?}",
            operations[at - 1],
            temporary(&image)
        );
    }
    let expected: BTreeSet<String> = ["c", "catalog", "checkpoint", "w"].map(str::to_owned).into();
    assert!(scopes == expected && leases > 0, "{scopes:?}, {leases} leases");
}

/// Pages that are all the same.
struct Pages;

impl PageSource for Pages {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        Ok(Consistency::Fuzzy)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, _: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(1);
        Ok(())
    }
}

/// Of a node that was deleted nobody opens a writer any more.
#[test]
fn what_a_killed_writer_of_a_deleted_node_leaves_is_removed_by_a_sweep() {
    let storage = archive();
    let archive = open(&storage).unwrap();
    let admin = archive.administrator(Actor::default());
    admin.delete(Scope::Node("node 2"), std::time::Duration::from_secs(86_400)).unwrap();
    let live = archive.node("node 3").unwrap().open_writer_with(quiet()).unwrap();
    // The first node is the one called 2.
    let left = ["tmp/w00000001-0", "tmp/c00000001-0", "tmp/w00000002-0"];
    for path in left {
        storage.set_file(path, b"left".as_slice());
    }
    admin.sweep(&SweepOptions::default()).unwrap();
    assert_eq!(
        temporary(&storage),
        ["tmp/w00000002-0"],
        "that of a live node is its next writer's"
    );
    live.close().unwrap();
    archive.node("node 3").unwrap().open_writer_with(quiet()).unwrap().close().unwrap();
    assert!(temporary(&storage).is_empty(), "{:?}", temporary(&storage));
}

/// A process is about to publish an entry. Another one takes the number and tidies up: the first
/// takes the next number.
#[test]
fn a_temporary_file_of_a_live_process_is_not_missed() {
    let storage = archive();
    let slow = LyingStorage::new(storage.clone(), None);
    let archive =
        Archive::open_in(Arc::new(slow.clone()), key(), archive_options(&TestClock::new(), 3))
            .unwrap();
    let other = open(&storage).unwrap();
    let there = storage.clone();
    slow.before_publishing(&entry(ENTRIES + 1), move || {
        assert_eq!(temporary(&there).len(), 1);
        // Nobody has the number yet: the file may be somebody's.
        other.administrator(Actor::default()).sweep(&SweepOptions::default()).unwrap();
        assert_eq!(temporary(&there).len(), 1);
        other.create_node("faster", Origin::Empty).unwrap();
        other.node("node 2").unwrap().open_writer_with(quiet()).unwrap().close().unwrap();
        assert!(
            temporary(&there).is_empty(),
            "its number is taken, so it is nobody's: {:?}",
            temporary(&there)
        );
    });
    archive.create_node("slower", Origin::Empty).unwrap();
    let nodes = open(&storage).unwrap().nodes().unwrap();
    assert_eq!(nodes[nodes.len() - 2..], ["faster", "slower"]);
}

/// Something that is no entry lies where the next one would be: it is named, and what to do is
/// said.
#[test]
fn junk_in_place_of_an_entry_is_named() {
    let storage = archive();
    let live = open(&storage).unwrap();
    for junk in [Vec::new(), vec![0; 700], b"notes of an operator".to_vec()] {
        let image = image(&storage, &|_| false, &[(&entry(ENTRIES + 1), junk.clone())]);
        let text = open(&image).map(drop).unwrap_err().to_string();
        assert!(
            text.contains(&entry(ENTRIES + 1)) && text.contains("move it to another place"),
            "{text}"
        );
        // The same for a process that has the archive open.
        storage.set_file(&entry(ENTRIES + 1), junk);
        let text = live.nodes().unwrap_err().to_string();
        assert!(
            text.contains(&entry(ENTRIES + 1)) && text.contains("move it to another place"),
            "{text}"
        );
        rewound::storage::BlobStore::delete(&storage, &entry(ENTRIES + 1)).unwrap();
        holds_all(&open(&storage).unwrap());
        holds_all(&live);
    }
}
