//! Reads that lie: one read of the storage returns a flipped bit, returns too little or fails, at
//! every read there is.
//!
//! What has to hold, whichever read it was:
//! - while the fault is there, every call returns the right result or a typed error, never another
//!   state;
//! - once it is gone, the archive opens, everything acknowledged is there, and it goes on.
//!
//! Where a sample is taken, `REWOUND_TEST_EVERYTHING=1` takes all.

use std::sync::Arc;

use rewound::options::Cancel;
use rewound::storage::{MemStorage, Storage};
use rewound::{
    Actor, Archive, CompactOptions, Durability, Error, Node, Origin, Policy, Result, Scope,
    SweepOptions, Target, VerifyOptions, verify_checksums,
};

use crate::faulty::{Lie, LyingStorage};
use crate::ledger::{Change, Ledger, Run, assert_same, lsn, on_two, restore, single};
use crate::support::{TestClock, archive_options, key, quiet};

use Change::{Create, Page, Point, Record};
use Durability::{Buffered, Synced};

fn open(storage: Arc<dyn Storage>, clock: &TestClock, seed: u64) -> Result<Archive> {
    Archive::open_in(storage, key(), archive_options(clock, seed << 32))
}

fn compact() -> CompactOptions {
    let mut options = CompactOptions::default();
    (options.layer_log_bytes, options.fan_out) = (1_500, 2);
    options.replay = single();
    options
}

/// Some commits, layers, a snapshot; the newest segment not sealed, its last frames proven durable
/// by nothing behind them.
fn estate(clock: &TestClock) -> Run {
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    let archive =
        Archive::create_in(Arc::new(run.storage.clone()), key(), archive_options(clock, 1 << 32))
            .unwrap();
    let day = std::time::Duration::from_secs(86_400);
    archive
        .administrator(Actor::default())
        .set_retention(Scope::Archive, &Policy::continuous(day))
        .unwrap();
    let node = archive.create_node("a", Origin::Empty).unwrap();
    for round in 0..3u64 {
        let writer = node.open_writer_with(quiet()).unwrap();
        for n in 0..3u64 {
            clock.advance(1_000_000_000);
            let mut changes = vec![Page("main", n, round * 10 + n + 1, n > 0), Record(40)];
            if round + n == 0 {
                changes.insert(0, Create("main"));
            }
            run.commit("a", &writer, Synced, &changes).unwrap();
        }
        if round == 2 {
            run.storage = run.storage.fork();
        } else {
            writer.close().unwrap();
            node.maintain(&compact()).unwrap();
        }
    }
    run
}

/// What is not an error that a wrong read may lead to.
fn is_typed(error: &Error) -> bool {
    error.is_damage()
        || matches!(error, Error::Storage { .. } | Error::Poisoned { .. } | Error::WrongKey { .. })
}

/// A call that met the fault, or did not.
fn step<T>(what: &str, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) => {
            assert!(is_typed(&e), "{what}: not an error of a wrong read: {e}");
            None
        }
    }
}

/// Compares a restore of the newest and of an old commit with the ledger.
fn look(run: &Run, node: &Node, what: &str) {
    let told = &run.ledger.nodes["a"];
    for number in [told.durable_at(usize::MAX), 2] {
        if let Some((reached, spaces)) = step(what, restore(node, lsn(number))) {
            assert_eq!(reached, number, "{what}");
            assert_same(&spaces, &told.commits[number as usize - 1].spaces, &what);
        }
    }
    if let Some(window) = step(what, node.window()) {
        let latest = window.latest.lsn.get();
        assert!(latest >= told.durable_at(usize::MAX), "{what}: the log ends at {latest}");
        assert!(window.earliest.lsn.get() <= 1, "{what}: {:?}", window.earliest);
    }
}

/// Everything there is, over a storage whose reads may lie. What is refused is left out.
fn work(run: &mut Run, storage: &LyingStorage, clock: &TestClock, seed: u64, what: &str) {
    let Some(archive) = step(what, open(Arc::new(storage.clone()), clock, seed)) else { return };
    let Some(node) = step(what, archive.node("a")) else { return };
    look(run, &node, what);
    let mut options = quiet();
    // A batch of some kilobytes is kept in a file until it is committed.
    (options.frame_bytes, options.batch_bytes) = (1_024, 3_000);
    if let Some(writer) = step(what, node.open_writer_with(options)) {
        let newest = run.told("a").durable_at(usize::MAX);
        assert!(
            writer.newest().get() >= newest,
            "{what}: the writer begins at {}",
            writer.newest()
        );
        clock.advance(1_000_000_000);
        let point = [Page("main", 1, 500, true), Point("point")];
        let large = [Record(2_500), Page("main", 3, 550, false), Record(2_500), Record(2_500)];
        for changes in
            [&[Page("main", 0, 400, false)][..], &point, &large, &[Page("main", 2, 600, true)]]
        {
            // A batch that failed may be there or not: what comes after it is not asked for.
            if step(what, run.commit("a", &writer, Synced, changes)).is_none() {
                break;
            }
        }
        let durable = writer.durable();
        let closed = step(what, writer.close());
        run.note_durable("a", durable);
        if closed.is_some() {
            step(what, archive.create_node("b", Origin::Empty));
        }
    }
    step(what, node.maintain(&compact()));
    step(what, node.build_snapshot(&Target::Latest, &compact()));
    let mut sweep = SweepOptions::default();
    sweep.compact = compact();
    if let Some(report) = step(what, archive.administrator(Actor::default()).sweep(&sweep)) {
        report.failed.iter().for_each(|(_, e)| assert!(is_typed(e), "{what}: sweep: {e}"));
    }
    look(run, &node, what);
    if let Some(report) = step(what, archive.verify(&VerifyOptions::default(), &mut |_| {})) {
        report.findings.iter().for_each(|e| assert!(is_typed(e), "{what}: verify: {e}"));
    }
    step(what, archive.verify_audit());
}

/// What has to hold once reads tell the truth again.
fn check(run: &mut Run, clock: &TestClock, seed: u64, what: &str) {
    // The process ends; locks end with it.
    run.storage = run.storage.fork();
    let truth: Arc<dyn Storage> = Arc::new(run.storage.clone());
    let archive =
        open(Arc::clone(&truth), clock, seed).unwrap_or_else(|e| panic!("{what}: opening: {e}"));
    archive.verify_audit().unwrap_or_else(|e| panic!("{what}: the audit trail: {e}"));
    let node = archive.node("a").unwrap();
    let durable = run.told("a").durable_at(usize::MAX);
    let writer = node.open_writer_with(quiet()).unwrap_or_else(|e| panic!("{what}: a writer: {e}"));
    let newest = writer.newest().get();
    assert!(newest >= durable, "{what}: the log ends at {newest}, {durable} was acknowledged");
    run.told("a").survive(newest, usize::MAX);
    run.commit("a", &writer, Buffered, &[Page("main", 3, 700, false)]).unwrap();
    writer.close().unwrap_or_else(|e| panic!("{what}: closing: {e}"));
    for number in 1..=newest + 1 {
        let (reached, spaces) =
            restore(&node, lsn(number)).unwrap_or_else(|e| panic!("{what}: LSN {number}: {e}"));
        assert_eq!(reached, number, "{what}");
        assert_same(&spaces, &run.ledger.nodes["a"].commits[number as usize - 1].spaces, &what);
    }
    let report = archive.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
    assert!(report.is_intact(), "{what}: {:?}", report.findings);
    let report = verify_checksums(truth.as_ref(), &Cancel::new(), &mut |_| {}).unwrap();
    assert!(report.is_intact(), "{what}: {:?}", report.findings);
    drop(archive);
    open(truth, clock, seed + 1)
        .unwrap_or_else(|e| panic!("{what}: opening again: {e}"))
        .nodes()
        .unwrap();
}

/// Runs everything with one lie, or none; gives how many reads there were.
fn run_with(before: &Run, clock: &TestClock, lie: Option<(usize, Lie)>) -> usize {
    let what = format!("{lie:?}");
    let mut run = Run { storage: before.storage.fork(), ledger: before.ledger.clone() };
    run.told("a").survive(9, usize::MAX);
    let clock = TestClock::at(clock);
    let lying = LyingStorage::new(run.storage.clone(), lie);
    work(&mut run, &lying, &clock, 2, &what);
    check(&mut run, &clock, 3, &what);
    lying.count()
}

#[test]
fn one_read_lies() {
    let clock = TestClock::new();
    let before = estate(&clock);
    let count = run_with(&before, &clock, None);
    assert!(count > 200, "{count} reads");
    let lies = (0..count).flat_map(|n| {
        // The last bytes of a read, too: of a frame they are its tag, of a whole file the end of
        // its trailer.
        let flips = [n * 7_919, 5, usize::MAX / 16 * 8 - n, 200, 44 + 16].map(Lie::Flip);
        flips
            .into_iter()
            .chain([1, 40, usize::MAX].map(Lie::Short))
            .chain([Lie::Fail])
            .map(move |lie| (n, lie))
    });
    // Of nine lies of a read one, and another one of the next.
    let everything = std::env::var_os("REWOUND_TEST_EVERYTHING").is_some();
    let lies = lies.enumerate().filter(|(i, _)| everything || i % 10 == 0).map(|(_, lie)| lie);
    on_two(lies, |lie| {
        run_with(&before, &clock, Some(lie));
    });
}

#[test]
fn every_read_falls_short() {
    let clock = TestClock::new();
    let before = estate(&clock);
    for less in [1, 7, 1_000] {
        let mut run = Run { storage: before.storage.fork(), ledger: before.ledger.clone() };
        run.told("a").survive(9, usize::MAX);
        let clock = TestClock::at(&clock);
        let short: Arc<dyn Storage> =
            Arc::new(LyingStorage::new(run.storage.clone(), Some((usize::MAX, Lie::Short(less)))));
        let archive = open(Arc::clone(&short), &clock, 2).unwrap();
        let node = archive.node("a").unwrap();
        let writer = node.open_writer_with(quiet()).unwrap();
        assert_eq!(writer.newest().get(), 9);
        run.commit("a", &writer, Synced, &[Page("main", 0, 400, true)]).unwrap();
        writer.close().unwrap();
        node.maintain(&compact()).unwrap();
        for number in 1..=10 {
            let (reached, spaces) = restore(&node, lsn(number)).unwrap();
            assert_eq!(reached, number);
            assert_same(&spaces, &run.ledger.nodes["a"].commits[number as usize - 1].spaces, &less);
        }
        let report = archive.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_intact() && report.torn_tails == 0, "{:?}", report.findings);
        let report = verify_checksums(short.as_ref(), &Cancel::new(), &mut |_| {}).unwrap();
        assert!(report.is_intact() && report.torn_tails == 0, "{:?}", report.findings);
        check(&mut run, &clock, 3, "every read falls short");
    }
}
