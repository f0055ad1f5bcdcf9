//! Writers whose node, archive or clock is taken from under them.

use std::sync::Arc;
use std::time::Duration;

use rewound::storage::MemStorage;
use rewound::{
    Actor, Administrator, Archive, BaseSpace, CompactOptions, Consistency, DELETION_GRACE,
    Durability, Error, HoldTarget, Lsn, Node, Origin, PageId, PageSize, PageSource, Policy,
    Position, Result, Scope, SpaceId, SweepOptions, Target, Timestamp, Writer,
};

use crate::support::{TestClock, archive_options, key, memory_archive, quiet};

const SIZE: usize = 512;
/// Longer than a writer takes commits in without a look at the catalog.
const A_WHILE: Duration = Duration::from_millis(150);

fn node(clock: &TestClock) -> (MemStorage, Archive, Node, Administrator) {
    let (storage, archive) = memory_archive(clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let administrator =
        archive.administrator(Actor { name: "test".into(), reason: "to see".into() });
    (storage, archive, node, administrator)
}

fn first(writer: &Writer) -> SpaceId {
    let mut batch = writer.batch();
    let space = batch.create_space("main", PageSize::MIN).unwrap();
    batch.write_page(PageId::new(space, 0), &[1; SIZE], None).unwrap();
    batch.commit(Durability::Synced).unwrap();
    space
}

fn write(
    writer: &Writer,
    space: SpaceId,
    byte: u8,
    durability: Durability,
) -> Result<rewound::Commit> {
    let mut batch = writer.batch();
    batch.write_page(PageId::new(space, 0), &[byte; SIZE], None)?;
    batch.commit(durability)
}

struct Engine;

impl PageSource for Engine {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        Ok(Consistency::Frozen)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
}

type Call = fn(&Writer, SpaceId) -> Result<()>;

/// What a host may do next with a writer.
const CALLS: [Call; 6] = [
    |writer, space| write(writer, space, 9, Durability::Synced).map(drop),
    |writer, space| {
        std::thread::sleep(A_WHILE);
        write(writer, space, 9, Durability::Buffered).map(drop)
    },
    |writer, _| writer.tick().map(drop),
    |writer, _| writer.rotate_segment(),
    |writer, _| writer.base_snapshot(&mut Engine, &CompactOptions::default()).map(drop),
    |writer, _| {
        let mut batch = writer.batch();
        batch.restore_point("late")?;
        batch.commit(Durability::Buffered).map(drop)
    },
];

#[test]
fn a_writer_whose_node_is_deleted_is_told_at_once() {
    for (n, call) in CALLS.into_iter().enumerate() {
        for scope in [Scope::Node("n"), Scope::Archive] {
            let clock = TestClock::new();
            let (_, _, node, administrator) = node(&clock);
            let writer = node.open_writer_with(quiet()).unwrap();
            let space = first(&writer);
            let mut open = writer.batch();
            open.write_page(PageId::new(space, 0), &[5; SIZE], None).unwrap();
            administrator.delete(scope, DELETION_GRACE).unwrap();
            let e = call(&writer, space).unwrap_err();
            assert!(matches!(e, Error::Deleted { .. }), "{n}, {scope:?}: {e}");
            // From then on, whatever is asked.
            for call in CALLS {
                assert!(
                    matches!(call(&writer, space), Err(Error::Deleted { .. })),
                    "{n}, {scope:?}"
                );
            }
            assert!(matches!(open.commit(Durability::Buffered), Err(Error::Deleted { .. })));
            assert!(matches!(writer.flush(), Err(Error::Deleted { .. })));
            assert!(writer.durable() == Position::new(1), "nothing was acknowledged");

            administrator.undelete(scope).unwrap();
            assert!(
                matches!(write(&writer, space, 3, Durability::Synced), Err(Error::Deleted { .. })),
                "that tenure"
            );
            drop(writer);
            let writer = node.open_writer_with(quiet()).unwrap();
            write(&writer, space, 4, Durability::Synced).unwrap();
            let (report, spaces) = node.restore(Target::Latest).into_memory().unwrap();
            assert_eq!((report.lsn.get(), &spaces["main"]), (2, &vec![4; SIZE]));
        }
    }
}

#[test]
fn a_writer_with_a_thread_is_told_while_it_is_idle() {
    let clock = TestClock::new();
    let (_, _, node, administrator) = node(&clock);
    let mut options = quiet();
    options.flush_interval = Some(Duration::from_millis(5));
    let writer = node.open_writer_with(options).unwrap();
    let space = first(&writer);
    administrator.delete(Scope::Node("n"), DELETION_GRACE).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(write(&writer, space, 2, Durability::Buffered), Err(Error::Deleted { .. })));
    assert!(matches!(writer.close(), Err(Error::Deleted { .. })));
}

#[test]
fn a_writer_of_a_node_that_is_gone_for_good_is_told_so() {
    let clock = TestClock::new();
    let (_, archive, node, administrator) = node(&clock);
    let writer = node.open_writer_with(quiet()).unwrap();
    let space = first(&writer);
    let until = administrator.delete(Scope::Node("n"), DELETION_GRACE).unwrap();
    for _ in 0..4 {
        // In steps that are believed.
        clock.advance(2 * 86_400_000_000_000);
        administrator.sweep(&SweepOptions::default()).unwrap();
    }
    assert!(rewound::env::Clock::now(&clock) > until && archive.nodes().unwrap().is_empty());
    let e = write(&writer, space, 2, Durability::Synced).unwrap_err();
    assert!(matches!(e, Error::NoSuchNode { .. }), "{e}");
    assert!(matches!(writer.close(), Err(Error::NoSuchNode { .. })));
}

/// On a disk, where somebody removed the lock's file.
#[test]
fn a_writer_that_a_newer_one_has_replaced_is_told_in_the_midst_of_a_segment() {
    for call in CALLS {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::create(dir.path().join("archive"), key()).unwrap();
        let node = archive.create_node("n", Origin::Empty).unwrap();
        let old = node.open_writer_with(quiet()).unwrap();
        let space = first(&old);
        std::fs::remove_file(dir.path().join("archive/nodes/00000001/writer.lock")).unwrap();
        let new = node.open_writer_with(quiet()).unwrap();
        let e = call(&old, space).unwrap_err();
        assert!(matches!(e, Error::Fenced { .. }), "{e}");
        assert!(matches!(write(&old, space, 2, Durability::Synced), Err(Error::Fenced { .. })));
        write(&new, space, 3, Durability::Synced).unwrap();
        drop(old);
        let (report, spaces) = node.restore(Target::Latest).into_memory().unwrap();
        assert_eq!((report.lsn.get(), &spaces["main"]), (2, &vec![3; SIZE]));
    }
}

const LATEST: u64 = Timestamp::LATEST.as_nanos();

/// The clock reads beyond its range, once for each call; every call that needs the time is refused,
/// writes nothing and can be made again.
#[test]
fn a_clock_out_of_its_range_is_not_believed_and_ends_nothing() {
    for wild in [u64::MAX, u64::MAX - 1, LATEST + 1] {
        let clock = TestClock::new();
        let (storage, archive, node, administrator) = node(&clock);
        let writer = node.open_writer_with(quiet()).unwrap();
        let space = first(&writer);
        let right = rewound::env::Clock::now(&clock).as_nanos();
        let before = storage.files();
        let refused = |what: &str, done: Result<()>| {
            let e = done.expect_err(what);
            let text = e.to_string();
            assert!(
                matches!(e, Error::ClockImplausible { .. }) && text.contains("2262-04-11"),
                "{what}: {text}"
            );
            assert!(storage.files() == before, "{what} wrote something");
        };
        clock.set(wild);
        refused("commit", write(&writer, space, 2, Durability::Synced).map(drop));
        refused("buffered commit", write(&writer, space, 2, Durability::Buffered).map(drop));
        refused("tick", writer.tick().map(drop));
        refused("node", archive.create_node("other", Origin::Empty).map(drop));
        refused(
            "policy",
            administrator.set_retention(Scope::Archive, &Policy::continuous(DELETION_GRACE * 2)),
        );
        refused("lock", administrator.lock(Scope::Archive, "lock"));
        refused("hold", administrator.hold("hold", &HoldTarget::Node("n"), None));
        refused("deletion", administrator.delete(Scope::Node("n"), DELETION_GRACE).map(drop));
        refused("confirmation", administrator.confirm_clock());
        refused("sweep", administrator.sweep(&SweepOptions::default()).map(drop));
        refused("named commit", node.add_restore_point("name", &Target::Latest).map(drop));
        writer.flush().unwrap();

        for given in [LATEST + 1, u64::MAX] {
            let done = writer.batch().commit_at(Timestamp::from_nanos(given), Durability::Synced);
            assert!(matches!(done, Err(Error::LimitExceeded { .. })), "{done:?}");
        }
        clock.set(right + 1_000);
        let done = write(&writer, space, 3, Durability::Synced).unwrap();
        assert_eq!((done.lsn.get(), done.timestamp.as_nanos()), (2, right + 1_000));
        assert_eq!(writer.tick().unwrap().as_nanos(), right + 1_000);
        archive.create_node("other", Origin::Empty).unwrap();
        let times: Vec<u64> =
            archive.audit().unwrap().map(|e| e.unwrap().time.as_nanos()).collect();
        assert!(times.iter().all(|t| *t <= right + 1_000), "{times:?}");
        let (report, _) = node.restore(Target::Latest).into_memory().unwrap();
        assert_eq!(report.lsn, Lsn::new(2).unwrap());
    }
}

/// One reading at the very end of what is taken, or a hundred years ahead: time goes on from there,
/// in the smallest steps.
#[test]
fn after_one_reading_of_the_far_future_commits_go_on() {
    for wild in [LATEST, 1_790_000_000_000_000_000 + 100 * 31_557_600_000_000_000] {
        let clock = TestClock::new();
        let (storage, _, node, _) = node(&clock);
        let writer = node.open_writer_with(quiet()).unwrap();
        let space = first(&writer);
        let right = rewound::env::Clock::now(&clock).as_nanos();
        clock.set(wild);
        write(&writer, space, 2, Durability::Synced).unwrap();
        writer.tick().unwrap();
        clock.set(right);
        for n in 0..50 {
            let done = write(&writer, space, n, Durability::Synced).unwrap();
            assert_eq!(done.timestamp.as_nanos(), wild + 1 + u64::from(n));
        }
        writer.tick().unwrap();
        writer.close().unwrap();
        let archive =
            Archive::open_in(Arc::new(storage), key(), archive_options(&clock, 3)).unwrap();
        let node = archive.node("n").unwrap();
        let writer = node.open_writer_with(quiet()).unwrap();
        write(&writer, space, 99, Durability::Synced).unwrap();
        let (report, spaces) = node.restore(Target::Latest).into_memory().unwrap();
        assert_eq!((report.lsn.get(), &spaces["main"]), (53, &vec![99; SIZE]));
    }
}

/// Commits that have their time are written while the clock is wild; its thread goes on when the
/// clock is right again.
#[test]
fn what_has_its_time_is_written_by_whatever_clock() {
    let clock = TestClock::new();
    let (_, _, node, _) = node(&clock);
    let mut options = quiet();
    options.flush_interval = Some(Duration::from_millis(50));
    let writer = node.open_writer_with(options).unwrap();
    let durable = |lsn: u64| {
        let begun = std::time::Instant::now();
        while writer.durable() < Position::new(lsn) {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody flushes");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let space = first(&writer);
    let right = rewound::env::Clock::now(&clock).as_nanos();
    for round in 0..3 {
        write(&writer, space, 2, Durability::Buffered).unwrap();
        // The next segment begins by that clock.
        clock.set(u64::MAX);
        writer.rotate_segment().unwrap();
        std::thread::sleep(Duration::from_millis(120));
        assert!(write(&writer, space, 3, Durability::Synced).is_err());
        clock.set(right + 1_000 * (round + 1));
        write(&writer, space, 4, Durability::Buffered).unwrap();
        clock.set(u64::MAX);
        durable(3 + 2 * round);
        clock.set(right + 1_000 * (round + 1));
    }
    write(&writer, space, 5, Durability::Buffered).unwrap();
    durable(8);
    let (_, spaces) = node.restore(Target::Latest).into_memory().unwrap();
    assert_eq!(spaces["main"], [5; SIZE]);
}

/// A commit with a time of its own needs no clock, and its name no more than it does: it is in the
/// catalog, and the writer goes on.
#[test]
fn a_named_commit_is_made_known_by_whatever_clock() {
    let clock = TestClock::new();
    let (_, archive, node, _) = node(&clock);
    let writer = node.open_writer_with(quiet()).unwrap();
    let space = first(&writer);
    let right = rewound::env::Clock::now(&clock).as_nanos();
    clock.set(u64::MAX);
    let mut batch = writer.batch();
    batch.write_page(PageId::new(space, 0), &[2; SIZE], None).unwrap();
    batch.restore_point("named").unwrap();
    let commit = batch.commit_at(Timestamp::from_nanos(right + 5_000), Durability::Synced).unwrap();
    assert_eq!(node.restore_points().unwrap()["named"].position, Position::from(commit.lsn));
    clock.set(right + 10_000);
    write(&writer, space, 3, Durability::Synced).unwrap();
    writer.close().unwrap();
    let (report, spaces) =
        node.restore(Target::RestorePoint("named".into())).into_memory().unwrap();
    assert_eq!((report.lsn, &spaces["main"]), (commit.lsn, &vec![2; SIZE]));
    archive.verify_audit().unwrap();
}
