//! Sweeps that die at every single operation, and sweeps in the midst of everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rewound::options::Cancel;
use rewound::storage::{CrashPlan, MemStorage};
use rewound::{Archive, Error, HoldTarget, Policy, Scope, VerifyOptions, verify_checksums};

use super::{Fixture, HOUR, at, compact, days, options};
use crate::ledger::{on_two, single};
use crate::support::{archive_options, key, quiet};

#[test]
fn a_sweep_that_dies_at_any_operation_takes_nothing_that_is_kept() {
    let mut fixture = Fixture::on(MemStorage::new());
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(2, 3);
    let on = HoldTarget::Commits { node: "n", from: at(2), to: Some(at(4)) };
    fixture.admin().hold("h", &on, None).unwrap();
    let mut cuts = Vec::new();
    let mut options = options();
    options.rebuild_percent = 0;
    for day in 0..6 {
        fixture.live(1, 3);
        let before = fixture.storage.operation_count();
        let report = fixture.admin().sweep(&options).unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
        if day < 3 {
            continue;
        }
        let first = fixture.at_time(fixture.now().saturating_sub(days(2))).unwrap();
        let last = *fixture.commits.last_key_value().unwrap().0;
        let removed = report.nodes[0].removed_files;
        cuts.extend(
            (before..=fixture.storage.operation_count())
                .map(|at| (at, fixture.now(), first, last, removed)),
        );
    }
    assert!(cuts.iter().any(|c| c.4 > 0), "files are removed");
    let check = |(cut, now, first, last, _): (usize, rewound::Timestamp, u64, u64, u64)| {
        for plan in [CrashPlan::lost(cut), CrashPlan::kept(cut), CrashPlan::seeded(cut, cut as u64)]
        {
            let storage = fixture.storage.crash_image(plan);
            let clock = crate::support::TestClock::new();
            clock.set(now.as_nanos());
            let open = |seed| {
                let options = archive_options(&clock, seed);
                Archive::open_in(Arc::new(storage.clone()), key(), options)
                    .unwrap_or_else(|e| panic!("{plan:?}: {e}"))
            };
            let archive = open(1_000_000 + cut as u64);
            let check = |when: &str| {
                let node = archive.node("n").unwrap();
                for lsn in [2, 3, 4].into_iter().chain(first..=last) {
                    let restore = node.restore(at(lsn)).options(single()).unaudited();
                    let (report, spaces) = restore
                        .into_memory()
                        .unwrap_or_else(|e| panic!("{plan:?}, {when}: LSN {lsn}: {e}"));
                    assert_eq!(report.lsn.get(), lsn);
                    assert!(spaces["s"] == fixture.model(lsn), "{plan:?}, {when}: LSN {lsn}");
                }
            };
            check("after the crash");
            let verify = |when: &str| {
                let report = archive.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
                assert!(report.is_intact(), "{plan:?}, {when}: {:?}", report.findings);
                let report = verify_checksums(&storage, &Cancel::new(), &mut |_| {}).unwrap();
                assert!(report.is_intact(), "{plan:?}, {when}: {:?}", report.findings);
            };
            verify("after the crash");
            let admin = archive.administrator(super::actor());
            for _ in 0..2 {
                let report = admin.sweep(&options).unwrap_or_else(|e| panic!("{plan:?}: {e}"));
                assert!(report.failed.is_empty(), "{plan:?}: {:?}", report.failed);
                check("after another sweep");
                // The node stands still: nothing more of it is due, and what was given up goes.
                clock.advance(25 * HOUR);
            }
            assert_eq!(admin.sweep(&options).unwrap().nodes[0].pending_expiries, 0, "{plan:?}");
            verify("in the end");
            // What a writer leaves the next one removes, and what an entry leaves goes once its
            // number is taken.
            drop(archive.node("n").unwrap().open_writer_with(quiet()).unwrap());
            admin.sweep(&options).unwrap();
            let left: Vec<String> = storage.files().into_keys().collect();
            let left: Vec<&String> =
                left.iter().filter(|p| p.starts_with("tmp/") || p.starts_with("leases/")).collect();
            assert!(left.is_empty(), "{plan:?}: left behind: {left:?}");
        }
    };
    on_two(cuts.into_iter(), check);
}

#[test]
fn commits_restores_maintenance_and_sweeps_at_once() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(2, 6);
    let (storage, clock) = (fixture.storage.clone(), fixture.clock.clone());
    let open = |seed| {
        Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&clock, seed)).unwrap()
    };
    let (stop, restored, swept) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (newest, sweeps) = (AtomicU64::new(12), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let archive = open(50 + reader);
            let (stop, newest, restored) = (&stop, &newest, &restored);
            scope.spawn(move || {
                let node = archive.node("n").unwrap();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    // Each commit holds its own number on its page: the states need no model here.
                    let lsn = newest.load(Ordering::SeqCst).saturating_sub(n % 9);
                    let restore = node.restore(at(lsn)).options(single());
                    let restore = if reader == 0 { restore } else { restore.unaudited() };
                    let (report, spaces) = match restore.into_memory() {
                        Ok(restored) => restored,
                        // On a slow machine it may have left the window of twelve commits by now.
                        Err(Error::BeforeWindow { .. })
                            if lsn + 12 <= newest.load(Ordering::SeqCst) =>
                        {
                            continue;
                        }
                        Err(e) => panic!("LSN {lsn}: {e}"),
                    };
                    let page = (report.lsn.get() % super::PAGES) as usize * 512;
                    assert!(spaces["s"][page..page + 512] == super::image(lsn));
                    restored.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (stop, swept, sweeps) = (&stop, &swept, &sweeps);
        let (sweeper, builder) = (open(60), open(61));
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let report = sweeper.administrator(super::actor()).sweep(&options()).unwrap();
                for (_, error) in &report.failed {
                    assert!(matches!(error, Error::MaintenanceActive { .. }), "{error}");
                }
                swept.fetch_add(
                    report.nodes.iter().map(|n| n.removed_files).sum(),
                    Ordering::Relaxed,
                );
                sweeps.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(move || {
            let node = builder.node("n").unwrap();
            while !stop.load(Ordering::Relaxed) {
                match node.maintain(&compact()) {
                    Ok(_) | Err(Error::MaintenanceActive { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        });
        let mut swept_before = [0];
        for n in 0..600 {
            if n % 6 == 0 {
                super::wait_for_sweeps(&[sweeps], &mut swept_before);
            }
            fixture.clock.advance(4 * HOUR);
            newest.store(fixture.commit(), Ordering::SeqCst);
            if n % 5 == 0 {
                fixture.writer().rotate_segment().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(restored.load(Ordering::Relaxed) > 50, "{restored:?}");
    assert!(swept.load(Ordering::Relaxed) > 20, "{swept:?}");
    let last = newest.load(Ordering::SeqCst);
    for lsn in last - 11..=last {
        fixture.check(lsn, "in the end");
    }
}
