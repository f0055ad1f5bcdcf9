//! The crash test: a run of everything that writes, cut after every operation, in every way that a
//! medium may fail; then the faults that do not end the process.
//!
//! What has to hold of every cut, checked by [`check`]:
//! - the archive opens; or, where its first entry had not been published, it can be created anew;
//! - every commit that was acknowledged as durable is there, and so are nodes, restore points and
//!   base snapshots;
//! - every commit that is visible is byte for byte the one that was asked for, and none came from
//!   nowhere;
//! - it goes on: a writer opens where the log ended, and everything, old and new, can be restored;
//! - verification finds nothing wrong, neither then nor after it has gone on;
//! - opened for writing and swept, nothing is left of what was interrupted.
//!
//! A kept image (death of the process, not of the machine) is no more durable than its original: so
//! the second crash, during recovery and what follows it, is where recovery proves that it synced
//! what it built upon.
//!
//! Where a sample is taken, `REWOUND_TEST_EVERYTHING=1` takes all.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;

use rewound::options::Cancel;
use rewound::storage::{CrashPlan, MemStorage, Operation, Unsynced};
use rewound::{
    Actor, Archive, BaseSpace, CompactOptions, Durability, Error, Node, Origin, PageSource,
    Position, Result, SweepOptions, Target, VerifyOptions, Writer, WriterOptions, verify_checksums,
};

use crate::ledger::{
    Change, Ledger, Run, assert_poisoned, assert_same, image, lsn, on_two, restore, single,
};
use crate::support::{TestClock, archive_options, key, quiet};

use Change::{Beside, Create, Drop as DropSpace, Length, Page, Point, Range, Record};
use Durability::{Buffered, Synced};

/// So small that most commits end a segment, and that a commit of some kilobytes takes several
/// pieces and spills.
fn options() -> WriterOptions {
    let mut options = quiet();
    options.segment_bytes = 2_500;
    options.frame_bytes = 512;
    options.batch_bytes = 4_000;
    options
}

/// So small that the log of a few commits makes layers.
fn compact() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 4_000;
    options.fan_out = 2;
    options.part_bytes = 2_048;
    options.replay = single();
    options.replay.unit_bytes = 1_024;
    options
}

/// Pages that an engine had before it was archived; commits once while it is copied.
struct Engine<'r> {
    run: &'r mut Run,
    writer: &'r Writer,
    committed: bool,
}

/// Content that node "b" had before its first commit: so many pages.
const BEFORE: u64 = 5;

impl PageSource for Engine<'_> {
    fn begin(&mut self, _: Position) -> Result<rewound::Consistency> {
        Ok(rewound::Consistency::Fuzzy)
    }

    fn read_pages(&mut self, space: BaseSpace<'_>, first: u64, buf: &mut [u8]) -> Result<()> {
        // The copy catches the page as it is before the commit, the log has it as it is after.
        for (page, out) in (first..).zip(buf.chunks_exact_mut(512)) {
            out.copy_from_slice(&image(space.name, 900 + page));
        }
        if !std::mem::replace(&mut self.committed, true) {
            self.run.commit("b", self.writer, Synced, &[Page("main", 2, 77, false)])?;
        }
        Ok(())
    }
}

fn open(storage: &MemStorage, seed: u64) -> Result<Archive> {
    let clock = TestClock::new();
    clock.advance(3_600_000_000_000);
    Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&clock, seed))
}

fn create_node(
    run: &mut Run,
    archive: &Archive,
    name: &'static str,
    origin: Origin,
) -> Result<Node> {
    let node = archive.create_node(name, origin)?;
    let count = run.storage.operation_count();
    let told = run.told(name);
    told.existing = origin == Origin::Existing;
    told.created = Some(count);
    Ok(node)
}

/// Ends a tenure; everything is durable.
fn close(run: &mut Run, name: &'static str, writer: Writer) -> Result<()> {
    let newest = writer.newest();
    writer.close()?;
    run.note_durable(name, newest);
    Ok(())
}

/// The run. Stops at the first error, as a host would.
fn scenario(run: &mut Run, seed: u64) -> Result<()> {
    let clock = TestClock::new();
    let storage = Arc::new(run.storage.clone());
    let archive = Archive::create_in(storage, key(), archive_options(&clock, seed))?;
    run.ledger.created = Some(run.storage.operation_count());
    let a = create_node(run, &archive, "a", Origin::Empty)?;

    let writer = a.open_writer_with(options())?;
    run.commit(
        "a",
        &writer,
        Synced,
        &[Create("main"), Page("main", 0, 1, false), Page("main", 1, 2, false)],
    )?;
    clock.advance(1_000);
    run.commit("a", &writer, Buffered, &[Page("main", 1, 3, true)])?;
    run.commit("a", &writer, Buffered, &[Page("main", 2, 4, false), Beside("mark 1")])?;
    clock.advance(1_000);
    writer.tick().inspect_err(|e| assert_poisoned(&writer, e))?;
    run.note_durable("a", writer.durable());
    run.commit("a", &writer, Synced, &[Page("main", 0, 5, true), Point("first")])?;
    // In three pieces, the first of them in a temporary file before the commit.
    run.commit("a", &writer, Buffered, &[Page("main", 3, 6, false)])?;
    run.commit(
        "a",
        &writer,
        Synced,
        &[Record(8_200), Page("main", 0, 7, true), Record(8_200), Record(9)],
    )?;
    run.commit("a", &writer, Buffered, &[Range("main", 3, 100, b"range"), Length("main", 1_700)])?;
    let durable = writer.flush().inspect_err(|e| assert_poisoned(&writer, e))?;
    run.note_durable("a", durable);
    run.commit("a", &writer, Buffered, &[Page("main", 6, 8, false)])?;
    writer.rotate_segment().inspect_err(|e| assert_poisoned(&writer, e))?;
    run.note_durable("a", writer.durable());
    for n in 0..4 {
        clock.advance(1_000);
        let durability = if n % 2 == 0 { Buffered } else { Synced };
        run.commit(
            "a",
            &writer,
            durability,
            &[Page("main", n, 10 + n, n % 2 == 0), Page("main", 5, 20 + n, true)],
        )?;
    }
    run.commit(
        "a",
        &writer,
        Synced,
        &[Create("wide"), Page("wide", 1, 9, false), Point("second")],
    )?;
    close(run, "a", writer)?;

    a.maintain(&compact())?;

    let writer = a.open_writer_with(options())?;
    for n in 0..6 {
        let durability = if n % 3 == 2 { Synced } else { Buffered };
        run.commit(
            "a",
            &writer,
            durability,
            &[Page("main", n, 30 + n, true), Page("wide", n % 2, 40 + n, false)],
        )?;
    }
    run.commit(
        "a",
        &writer,
        Buffered,
        &[DropSpace("wide"), Create("other"), Page("other", 0, 50, false)],
    )?;

    let b = create_node(run, &archive, "b", Origin::Existing)?;
    let engine = b.open_writer_with(options())?;
    run.commit("b", &engine, Synced, &[Create("main"), Length("main", BEFORE * 512)])?;
    let told = run.told("b").commits.last_mut().unwrap();
    let before: Vec<u8> = (0..BEFORE).flat_map(|page| image("main", 900 + page)).collect();
    told.spaces.insert("main".into(), before);
    let from =
        engine.base_snapshot(&mut Engine { run, writer: &engine, committed: false }, &compact())?;
    let count = run.storage.operation_count();
    run.told("b").base = Some((count, from.get()));
    run.commit("b", &engine, Synced, &[Page("main", 2, 78, true), Point("of b")])?;

    // Two writers at a time, and maintenance while one is open.
    a.maintain(&compact())?;
    run.commit("a", &writer, Synced, &[Page("main", 0, 60, true)])?;
    a.build_snapshot(&Target::Latest, &compact())?;
    run.commit("a", &writer, Buffered, &[Page("main", 1, 61, true)])?;
    writer.tick().inspect_err(|e| assert_poisoned(&writer, e))?;
    run.note_durable("a", writer.durable());
    close(run, "b", engine)?;
    b.maintain(&compact())?;
    run.commit(
        "a",
        &writer,
        Synced,
        &[Page("other", 3, 62, false), Beside("mark 2"), Point("third")],
    )?;
    close(run, "a", writer)
}

fn record() -> Run {
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    if let Err(e) = scenario(&mut run, 1) {
        panic!("without a fault: {e}");
    }
    run
}

/// What a check found of each node: its latest LSN.
type Found = Vec<(&'static str, u64)>;

/// Checks what readers see of an image after `at` operations of a ledger; gives the latest commit
/// of every node.
fn check_readers(
    archive: &Archive,
    ledger: &Ledger,
    at: usize,
    thorough: bool,
    what: &str,
) -> Found {
    let names = archive.nodes().unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut found = Found::new();
    for (name, told) in &ledger.nodes {
        if !names.contains(&(*name).to_owned()) {
            assert!(told.created.is_none_or(|count| count > at), "{what}: node {name} is gone");
            continue;
        }
        let node = archive.node(name).unwrap();
        let durable = told.durable_at(at);
        let window = match node.window() {
            Ok(window) => window,
            Err(Error::AfterDurableEnd { .. }) if durable == 0 => {
                found.push((*name, 0));
                continue;
            }
            // A node with content that has no base yet. Where its log ends, its writer says.
            Err(Error::BeforeWindow { .. }) if told.serves_at(at).is_none() => continue,
            Err(e) => panic!("{what}: window of {name}: {e}"),
        };
        let latest = window.latest.lsn.get();
        assert!(latest >= durable, "{what}: {name} ends at {latest}, {durable} was acknowledged");
        assert!(
            latest <= told.asked_at(at),
            "{what}: {name} ends at {latest}, which nobody asked for"
        );
        let earliest = window.earliest.lsn.get();
        if let Some(serves) = told.serves_at(at) {
            assert!(earliest <= serves, "{what}: {name} begins at {earliest} and not at {serves}");
        }
        found.push((*name, latest));
        let check = |number: u64| {
            let asked = &told.commits[number as usize - 1];
            let what = format!("{what}: {name} at LSN {number}");
            match restore(&node, lsn(number)) {
                Ok((reached, spaces)) => {
                    assert_eq!(reached, number, "{what}");
                    assert_same(&spaces, &asked.spaces, &what);
                }
                Err(e) => panic!("{what}: {e}"),
            }
            if let Some(timestamp) = asked.timestamp {
                let resolved = node
                    .resolve(&Target::Time(timestamp))
                    .unwrap_or_else(|e| panic!("{what}: by time: {e}"));
                assert_eq!(resolved.lsn.get(), number, "{what}: by time");
            }
        };
        if thorough {
            (earliest..=latest).for_each(check);
        } else {
            check(latest);
        }
        let points = node.restore_points().unwrap();
        for (_, point, number) in told.points.iter().filter(|(count, ..)| *count <= at) {
            let record = points
                .get(*point)
                .unwrap_or_else(|| panic!("{what}: restore point {point} is gone"));
            assert_eq!(record.position.get(), *number, "{what}: restore point {point}");
        }
        for (point, record) in points {
            let number = record.position.get();
            assert!(
                number <= latest,
                "{what}: restore point {point} is at {number}, the log ends at {latest}"
            );
            assert_eq!(
                told.commits[number as usize - 1].point,
                Some(point.as_str()),
                "{what}: restore point {point}"
            );
            if number >= earliest {
                let resolved = node.resolve(&Target::RestorePoint(point.clone()));
                let resolved =
                    resolved.unwrap_or_else(|e| panic!("{what}: restore point {point}: {e}"));
                assert_eq!(resolved.lsn.get(), number, "{what}: restore point {point}");
            }
        }
    }
    found
}

/// Opens a writer of every node where the log ended, commits more, maintains. Notes it in the
/// ledger of `run`, whose operations are counted from the image on.
fn go_on(run: &mut Run, archive: &Archive, at: usize, found: &Found, what: &str) -> Result<()> {
    let names: Vec<&'static str> = run.ledger.nodes.keys().copied().collect();
    for name in names {
        let Ok(node) = archive.node(name) else {
            let told = run.told(name);
            *told = crate::ledger::Told::default();
            continue;
        };
        let writer = node.open_writer_with(options())?;
        let latest = writer.newest().get();
        let told = run.told(name);
        if let Some((_, seen)) = found.iter().find(|(n, _)| *n == name) {
            assert_eq!(latest, *seen, "{what}: the writer of {name} sees another end than readers");
        }
        assert!(latest >= told.durable_at(at), "{what}: the writer of {name} begins at {latest}");
        told.survive(latest, at);
        told.created = Some(0);
        let mut changes =
            vec![Page("main", 1, 1_000 + latest, latest % 2 == 0), Page("main", 4, 2_000, false)];
        if !told.newest().contains_key("main") {
            changes.insert(0, Create("main"));
        }
        run.commit(name, &writer, Buffered, &changes)?;
        run.commit(name, &writer, Synced, &[Page("main", 1, 3_000 + latest, true)])?;
        node.maintain(&compact())?;
        run.commit(name, &writer, Synced, &[Page("main", 0, 4_000, false)])?;
        close(run, name, writer)?;
    }
    Ok(())
}

fn is_temporary(path: &str) -> bool {
    path.starts_with("tmp/") || path.starts_with("leases/")
}

/// Nothing is damaged, by the checksums and by the keys.
fn assert_intact(storage: &MemStorage, archive: &Archive, rebuild: bool, what: &str) {
    let by_checksums = verify_checksums(storage, &Cancel::new(), &mut |_| {}).unwrap();
    assert!(by_checksums.is_intact(), "{what}: by checksums: {:?}", by_checksums.findings);
    let mut options = VerifyOptions::default();
    options.rebuild = rebuild;
    options.replay = single();
    let by_key =
        archive.verify(&options, &mut |_| {}).unwrap_or_else(|e| panic!("{what}: verify: {e}"));
    assert!(by_key.is_intact(), "{what}: {:?}", by_key.findings);
}

/// Everything that has to hold of an image after `at` operations of a ledger. Gives the run that
/// went on from there.
fn check(image: MemStorage, ledger: &Ledger, at: usize, what: &str) -> Run {
    let mut run = Run { storage: image, ledger: ledger.clone() };
    // Randomness of its own, so that names do not come twice; the same when the test is run again.
    let seed = u64::from(crc32fast::hash(what.as_bytes())) << 20;
    let archive = match open(&run.storage, seed) {
        Ok(archive) => archive,
        Err(Error::NoArchive { .. }) if ledger.created.is_none_or(|count| count > at) => {
            run.ledger = Ledger::default();
            scenario(&mut run, seed).unwrap_or_else(|e| panic!("{what}: creating it anew: {e}"));
            return run;
        }
        Err(e) => panic!("{what}: {e}"),
    };
    let found = check_readers(&archive, ledger, at, false, what);
    assert_intact(&run.storage, &archive, false, what);
    run.ledger.created = Some(0);
    go_on(&mut run, &archive, at, &found, what).unwrap_or_else(|e| panic!("{what}: going on: {e}"));
    let end = run.storage.operation_count();
    check_readers(&archive, &run.ledger, end, true, what);
    if archive.nodes().is_ok_and(|nodes| nodes.is_empty()) {
        // No node, no writer; the number of the entry that the crash interrupted has to be taken
        // all the same.
        archive
            .create_node("late", Origin::Empty)
            .unwrap_or_else(|e| panic!("{what}: a node: {e}"));
    }
    // Swept once, nothing is left of what the crash interrupted.
    let swept = archive.administrator(Actor::default()).sweep(&SweepOptions::default());
    let swept = swept.unwrap_or_else(|e| panic!("{what}: sweeping: {e}"));
    assert!(swept.failed.is_empty(), "{what}: {:?}", swept.failed);
    let left: Vec<String> = run.storage.files().into_keys().filter(|p| is_temporary(p)).collect();
    assert!(left.is_empty(), "{what}: left behind: {left:?}");
    assert_intact(&run.storage, &archive, true, &format!("{what}; going on"));
    drop(archive);
    let archive =
        open(&run.storage, seed + 1).unwrap_or_else(|e| panic!("{what}: opening it again: {e}"));
    check_readers(&archive, &run.ledger, end, false, what);
    run
}

/// A hash of what an image holds and of what it has to hold: images that agree in both need one
/// check.
fn fingerprint(image: &MemStorage, ledger: &Ledger, at: usize) -> Vec<u64> {
    let mut hash = crc32fast::Hasher::new();
    for (path, bytes) in image.files() {
        hash.update(path.as_bytes());
        hash.update(&bytes);
    }
    let mut all = vec![u64::from(hash.finalize())];
    all.push(u64::from(ledger.created.is_some_and(|c| c <= at)));
    for told in ledger.nodes.values() {
        all.push(u64::from(told.created.is_some_and(|c| c <= at)));
        all.push(told.durable_at(at));
        all.push(told.serves_at(at).unwrap_or(0));
        all.push(told.points.iter().filter(|(c, ..)| *c <= at).count() as u64);
    }
    all
}

/// Crash images of a run after every operation, those that are alike only once.
fn images<'r>(
    run: &'r Run,
    plans: &'r [Unsynced],
) -> impl Iterator<Item = (CrashPlan, MemStorage)> + Send + 'r {
    let mut seen = HashSet::new();
    (0..=run.storage.operation_count())
        .flat_map(move |at| plans.iter().map(move |&unsynced| CrashPlan { at, unsynced }))
        .filter_map(move |plan| {
            let image = run.storage.crash_image(plan);
            // What a kept image holds is not all durable: it is like no other.
            let kept = plan.unsynced == Unsynced::KeptAll;
            (seen.insert((kept, fingerprint(&image, &run.ledger, plan.at))))
                .then_some((plan, image))
        })
}

fn describe(run: &Run, plan: CrashPlan) -> String {
    let last = plan.at.checked_sub(1).and_then(|i| run.storage.operations().get(i).cloned());
    format!("{plan:?}, after {last:?}")
}

/// Every so many of a sample; all of them where the environment asks for it.
fn sample(every: usize) -> usize {
    if std::env::var_os("REWOUND_TEST_EVERYTHING").is_some() { 1 } else { every }
}

#[test]
fn every_cut_leaves_what_was_acknowledged() {
    let run = record();
    let plans = [
        Unsynced::LostAll,
        Unsynced::KeptAll,
        Unsynced::Seeded(1),
        Unsynced::Seeded(2),
        Unsynced::Seeded(3),
    ];
    let count = std::sync::atomic::AtomicUsize::new(0);
    on_two(images(&run, &plans), |(plan, image)| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        check(image, &run.ledger, plan.at, &describe(&run, plan));
    });
    println!("{} operations, {count:?} images", run.storage.operation_count());
}

/// The ledger of a run that went on from an image, for crashes of that run: what was acknowledged
/// within the first `at` operations of the run before is so before every operation after it, and
/// what the image held beyond that is not.
fn since(ledger: &Ledger, before: &Ledger, at: usize) -> Ledger {
    let mut ledger = ledger.clone();
    if before.created.is_none_or(|count| count > at) {
        ledger.created = ledger.created.filter(|count| *count > 0);
        return ledger;
    }
    for (name, told) in &mut ledger.nodes {
        let before = &before.nodes[name];
        told.durable.retain(|(count, _)| *count > 0);
        told.durable.push((0, before.durable_at(at)));
        told.created = told.created.filter(|_| before.created.is_some_and(|count| count <= at));
    }
    ledger
}

#[test]
fn a_second_crash_during_recovery() {
    let run = record();
    let plans = [Unsynced::LostAll, Unsynced::KeptAll, Unsynced::Seeded(7)];
    // A sample of first cuts: every so many images, and every way.
    let chosen = images(&run, &plans)
        .enumerate()
        .filter(|(i, _)| i % sample(97) == 5 % sample(97))
        .map(|(_, image)| image);
    on_two(chosen, |(plan, image)| {
        let first = describe(&run, plan);
        let second = check(image, &run.ledger, plan.at, &first);
        let ledger = since(&second.ledger, &run.ledger, plan.at);
        let second = Run { storage: second.storage, ledger };
        for (again, image) in images(&second, &[Unsynced::LostAll, Unsynced::Seeded(7)]) {
            let what = format!("{first}; then {}", describe(&second, again));
            check(image, &second.ledger, again.at, &what);
        }
    });
}

/// With the bounds that hosts use: more than 1 MiB of ops.
#[test]
fn a_large_commit_is_there_or_not() {
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    let clock = TestClock::new();
    let archive =
        Archive::create_in(Arc::new(run.storage.clone()), key(), archive_options(&clock, 1))
            .unwrap();
    run.ledger.created = Some(run.storage.operation_count());
    let node = create_node(&mut run, &archive, "a", Origin::Empty).unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    run.commit("a", &writer, Synced, &[Create("main"), Page("main", 0, 1, false)]).unwrap();
    let begun = run.storage.operation_count();
    run.commit(
        "a",
        &writer,
        Synced,
        &[Page("main", 1, 2, false), Record(1_100_000), Page("main", 0, 3, true)],
    )
    .unwrap();
    let done = run.storage.operation_count();
    for at in begun..=done {
        for plan in [
            CrashPlan::lost(at),
            CrashPlan::kept(at),
            CrashPlan::seeded(at, 1),
            CrashPlan::seeded(at, 2),
        ] {
            check(run.storage.crash_image(plan), &run.ledger, at, &describe(&run, plan));
        }
    }
}

/// One operation fails. What the run says, what a power cut leaves then, and how it goes on without
/// one.
fn fault(n: usize, kind: ErrorKind, thorough: bool, after_failed_syncs: bool) {
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    run.storage.fail_operation(n, kind);
    let failed = run.storage.clone();
    let Err(error) = scenario(&mut run, 1) else {
        // What is done for tidiness alone may fail unseen.
        return;
    };
    let what = format!("operation {n} fails with {kind}: {error}");
    match kind {
        ErrorKind::StorageFull => assert!(matches!(error, Error::DiskFull { .. }), "{what}"),
        _ => assert!(matches!(error, Error::Storage { .. }), "{what}"),
    }
    if !thorough {
        return;
    }
    let at = failed.operation_count();
    check(failed.crash_image(CrashPlan::lost(at)), &run.ledger, at, &format!("{what}; power cut"));
    let kept = check(
        failed.crash_image(CrashPlan::kept(at)),
        &run.ledger,
        at,
        &format!("{what}; going on"),
    );
    let lies = failed.operations().iter().any(|o| matches!(o, Operation::FailedSync { .. }));
    if lies != after_failed_syncs {
        return;
    }
    let ledger = since(&kept.ledger, &run.ledger, at);
    let end = kept.storage.operation_count();
    let image = kept.storage.crash_image(CrashPlan::lost(end));
    check(image, &ledger, end, &format!("{what}; going on, then power cut"));
}

#[test]
fn every_operation_fails_once() {
    let operations = record().storage.operations();
    on_two(operations.iter().enumerate(), |(n, operation)| {
        // What follows each fault is looked at for all writes and syncs of segments, and for a
        // sample of the rest.
        let thorough = matches!(operation, Operation::Append { path, .. } | Operation::SyncFile { path } | Operation::Finish { path } if path.contains("/wal/"));
        fault(n, ErrorKind::Other, thorough || n % sample(7) == 0, false);
        fault(n, ErrorKind::StorageFull, false, false);
    });
}

/// Kernels forget a failed sync: later ones succeed, and what was to be synced is seen until the
/// power is cut. So recovery must not build upon what only a later sync of the same file vouches
/// for.
#[test]
fn recovery_does_not_trust_a_file_whose_sync_failed() {
    let count = record().storage.operation_count();
    on_two(0..count, |n| fault(n, ErrorKind::Other, true, true));
}
