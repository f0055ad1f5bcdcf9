//! Everything else that reads an archive, once parts of its history have expired: right answers or
//! errors that say so, never damage where there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rewound::options::Cancel;
use rewound::storage::MemStorage;
use rewound::{
    ActivityOptions, Archive, Durability, Error, HoldTarget, PageId, PageSize, Policy, Position,
    Redo, RedoRecord, ReplayOptions, Result, Scope, Target, VerifyOptions, verify_checksums,
};

use super::{Fixture, HOUR, PAGES, at, compact, days, image, options};
use crate::ledger::single;
use crate::support::{archive_options, key};

/// The commit with a restore point.
const NAMED: u64 = 24;

/// Twenty days of which the last two are kept, and from before: commits 3 to 8, held, and one that
/// has a name.
fn gappy() -> Fixture {
    let mut fixture = Fixture::new();
    fixture
        .admin()
        .set_retention(Scope::Archive, &Policy::days(2).restore_points_for(days(300)))
        .unwrap();
    fixture.live(2, 6);
    let on = HoldTarget::Commits { node: "n", from: at(3), to: Some(at(8)) };
    fixture.admin().hold("case", &on, None).unwrap();
    for day in 0..18 {
        if day == 1 {
            fixture.live_with(1, 6, "named");
        } else {
            fixture.live(1, 6);
        }
        if day % 4 == 0 {
            fixture.node.maintain(&compact()).unwrap();
        }
        fixture.sweep();
    }
    assert_eq!(fixture.node.restore_points().unwrap()["named"].position.get(), NAMED);
    fixture
}

/// The commits that can be restored.
fn restorable(fixture: &Fixture) -> BTreeSet<u64> {
    fixture.commits.keys().copied().filter(|lsn| fixture.node.resolve(&at(*lsn)).is_ok()).collect()
}

fn verify(archive: &Archive) -> rewound::VerifyReport {
    let mut options = VerifyOptions::default();
    options.replay = single();
    archive.verify(&options, &mut |_| {}).unwrap()
}

#[test]
fn what_expired_is_neither_damage_nor_listed() {
    let fixture = gappy();
    let grace = fixture.admin().sweep(&options()).unwrap().nodes[0].pending_expiries;
    assert!(grace > 0, "some files are in their grace period");
    for round in ["in the grace period", "after it"] {
        let kept = restorable(&fixture);
        assert!(
            (3..=8).all(|l| kept.contains(&l)) && kept.contains(&NAMED) && !kept.contains(&30),
            "{round}: {kept:?}"
        );
        for lsn in &kept {
            fixture.check(*lsn, round);
        }
        let report = verify(&fixture.archive);
        assert!(report.is_intact(), "{round}: {:?}", report.findings);
        assert!(report.states > 1, "{round}: {report}");
        assert!(
            verify_checksums(&fixture.storage, &Cancel::new(), &mut |_| {}).unwrap().is_intact(),
            "{round}"
        );

        // A commit that is kept by a snapshot alone has no log that could tell of it.
        let alone: BTreeSet<u64> = kept
            .iter()
            .copied()
            .filter(|l| !kept.contains(&(l - 1)) && !kept.contains(&(l + 1)))
            .collect();
        let listed: Vec<u64> =
            fixture.node.commits(..).unwrap().map(|c| c.unwrap().lsn.get()).collect();
        let told: BTreeSet<u64> = listed.iter().copied().collect();
        assert!(
            told.is_subset(&kept) && kept.difference(&told).all(|l| alone.contains(l)),
            "{round}: {told:?} of {kept:?}"
        );
        assert!(listed.is_sorted() && listed.len() == told.len());
        let backwards: Vec<u64> =
            fixture.node.commits(..).unwrap().rev().map(|c| c.unwrap().lsn.get()).collect();
        assert!(backwards.iter().rev().eq(&listed), "{round}: {backwards:?}");
        assert_eq!(fixture.node.commits(..).unwrap().remaining(), listed.len() as u64);
        let lsn = |n| rewound::Lsn::new(n).unwrap();
        let some: Vec<u64> =
            fixture.node.commits(lsn(5)..=lsn(40)).unwrap().map(|c| c.unwrap().lsn.get()).collect();
        assert!(
            some.iter().all(|l| (5..=40).contains(l)) && some[..4] == [5, 6, 7, 8],
            "{round}: {some:?}"
        );

        for scan_bytes in [0, 2_000, u64::MAX] {
            let mut options = ActivityOptions::default();
            options.scan_bytes = scan_bytes;
            options.buckets = 40;
            let activity = fixture.node.activity(&options).unwrap();
            assert!(activity.gaps.is_empty(), "{round}: {:?}", activity.gaps);
            let commits: f64 = activity.buckets.iter().map(|b| b.commits).sum();
            // Segments are kept whole.
            assert!(
                commits < f64::from(u32::try_from(listed.len()).unwrap()) + 20.0,
                "{round}: {commits} of {}",
                listed.len()
            );
        }
        fixture.clock.advance(30 * HOUR);
        fixture.sweep();
        fixture.clock.advance(30 * HOUR);
        fixture.sweep();
    }
}

#[test]
fn states_on_both_sides_of_what_expired_are_compared_exactly() {
    let fixture = gappy();
    let last = *fixture.commits.last_key_value().unwrap().0;
    let options = single();
    let pages = |a: u64, b: u64| -> BTreeSet<u64> {
        let (x, y) = (fixture.model(a), fixture.model(b));
        (0..PAGES)
            .filter(|p| {
                x.get(*p as usize * 512..(*p as usize + 1) * 512)
                    != y.get(*p as usize * 512..(*p as usize + 1) * 512)
            })
            .collect()
    };
    for (a, b) in [(4, last), (last, 4), (NAMED, last), (8, NAMED), (3, 7)] {
        let diff = fixture.node.diff(&at(a), &at(b), &options).unwrap();
        let found: BTreeSet<u64> =
            diff.spaces.values().flat_map(|s| &s.pages).flat_map(|(f, l)| *f..=*l).collect();
        assert_eq!(found, pages(a, b), "{a} and {b}");
    }
    let expired = fixture.node.diff(&at(12), &at(last), &options);
    assert!(matches!(expired, Err(Error::BeforeWindow { .. })), "{expired:?}");
    assert_eq!(fixture.node.spaces(&at(5)).unwrap().len(), 1);
    assert_eq!(fixture.node.spaces(&at(NAMED)).unwrap().len(), 1);
    // Within a stretch it finds the commit; across what has expired it says so.
    let ask = |fixture: &Fixture, lsn: rewound::Lsn| {
        fixture.restore(Target::Lsn(lsn)).map(|(lsn, _)| lsn >= 6)
    };
    let lsn = |n| rewound::Lsn::new(n).unwrap();
    let found = fixture.node.bisect(lsn(3), lsn(8), |l| ask(&fixture, l)).unwrap();
    assert_eq!(found.changed, Some(lsn(6)));
    let across = fixture.node.bisect(lsn(3), lsn(last), |l| ask(&fixture, l));
    assert!(matches!(across, Err(Error::BeforeWindow { .. })), "{across:?}");
}

#[test]
fn delta_restores_and_snapshots_of_what_is_kept() {
    let mut fixture = gappy();
    let dir = tempfile::tempdir().unwrap();
    let into = |fixture: &Fixture, target: Target| {
        fixture
            .node
            .restore(target)
            .options(single())
            .delta_into_dir(dir.path().join("d"))
            .map(|r| r.lsn.get())
    };
    for target in
        [Target::Latest, at(5), Target::RestorePoint("named".into()), at(3), Target::Latest]
    {
        let lsn = into(&fixture, target).unwrap();
        assert!(std::fs::read(dir.path().join("d/s")).unwrap() == fixture.model(lsn), "LSN {lsn}");
    }
    assert!(matches!(into(&fixture, at(12)), Err(Error::BeforeWindow { .. })));
    assert!(
        std::fs::read(dir.path().join("d/s")).unwrap()
            == fixture.model(*fixture.commits.last_key_value().unwrap().0)
    );

    let expired = fixture.node.build_snapshot(&at(12), &compact());
    assert!(matches!(expired, Err(Error::BeforeWindow { .. })), "{expired:?}");
    assert_eq!(fixture.node.build_snapshot(&at(6), &compact()).unwrap().snapshots, 1);
    for _ in 0..4 {
        let kept = restorable(&fixture);
        assert!((3..=8).all(|l| kept.contains(&l)), "{kept:?}");
        for lsn in &kept {
            fixture.check(*lsn, "with a snapshot within a stretch");
        }
        assert!(verify(&fixture.archive).is_intact());
        fixture.live(1, 6);
        fixture.node.maintain(&compact()).unwrap();
        fixture.sweep();
    }
}

#[test]
fn damage_and_loss_below_what_expired_are_told_as_what_they_are() {
    let fixture = gappy();
    let kept = restorable(&fixture);
    let first = *kept.iter().find(|l| **l > NAMED).unwrap();
    let window = fixture.node.window().unwrap().earliest.lsn.get();
    assert!(first <= window);
    // The snapshot that the window stands on: without it there is no way, and certainly none over
    // what has expired.
    let layers = fixture.node.layers().unwrap();
    let base = layers
        .iter()
        .filter(|l| l.from.is_none() && l.to.get() <= first)
        .max_by_key(|l| l.to)
        .unwrap();
    let path =
        fixture.storage.files().into_keys().find(|p| p.contains(&base.file.to_string())).unwrap();
    let good = fixture.storage.files()[&path].clone();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fixture.storage.set_file(&path, bad);
    match fixture.restore(at(first)) {
        Err(Error::Damaged(damage)) => assert_eq!(damage.path, path),
        other => panic!("{:?}", other.map(|(lsn, _)| lsn)),
    }
    let report = verify(&fixture.archive);
    assert!(
        report.findings.iter().all(|f| matches!(f, Error::Damaged(d) if d.path == path)),
        "{:?}",
        report.findings
    );
    assert!(!report.is_intact());
    fixture.check(5, "stands on something else");
    fixture.storage.set_file(&path, good);
    assert!(verify(&fixture.archive).is_intact());

    // A segment of the held stretch is gone: that is a loss.
    let segments: Vec<String> =
        fixture.storage.files().into_keys().filter(|p| p.ends_with(".seg")).collect();
    for gone in &segments[..2] {
        let image = fixture.storage.fork();
        rewound::storage::BlobStore::delete(&image, gone).unwrap();
        let options = crate::support::archive_options(&fixture.clock, 31);
        let archive =
            Archive::open_in(std::sync::Arc::new(image), crate::support::key(), options).unwrap();
        let report = verify(&archive);
        assert!(!report.is_intact(), "{gone} is missed");
        assert!(
            archive.node("n").unwrap().commits(..).unwrap().any(|c| c.is_err()),
            "{gone} is missed in the listing"
        );
    }
}

/// The numbers in the records that a restore replays.
#[derive(Default)]
struct Records(Vec<u64>);

impl Redo for Records {
    fn apply(&mut self, record: RedoRecord<'_>) -> Result<()> {
        assert_eq!(record.bytes, record.lsn.get().to_le_bytes());
        self.0.push(record.lsn.get());
        Ok(())
    }
}

/// A commit with a page and a record; now and then the engine says that the records up to an
/// earlier one are in its pages.
fn commit_with_record(fixture: &mut Fixture, redo: &mut Vec<u64>, point: Option<&str>) {
    let lsn = fixture.commits.last_key_value().map_or(0, |(lsn, _)| *lsn) + 1;
    let writer = fixture.writer();
    let mut batch = writer.batch();
    let space =
        writer.space("s").map_or_else(|| batch.create_space("s", PageSize::MIN), Ok).unwrap();
    batch.write_page(PageId::new(space, lsn % PAGES), &image(lsn), None).unwrap();
    batch.log_record(&lsn.to_le_bytes()).unwrap();
    let before = redo.last().copied().unwrap_or(0);
    if lsn % 10 == 9 {
        batch.redo_point(Position::new(lsn - 6)).unwrap();
        redo.push(lsn - 6);
    } else {
        redo.push(before);
    }
    if let Some(name) = point {
        batch.restore_point(name).unwrap();
    }
    let commit = batch.commit(Durability::Synced).unwrap();
    fixture.commits.insert(lsn, (commit.timestamp, lsn));
}

#[test]
fn logical_records_from_before_a_snapshot_stay_as_long_as_it_needs_them() {
    for policy in [Policy::days(3), Policy::periodic(days(1), days(3), 1)] {
        let mut fixture = Fixture::new();
        let policy = policy.restore_points_for(days(12));
        fixture.admin().set_retention(Scope::Archive, &policy).unwrap();
        let mut redo = vec![0];
        let mut largest = 0;
        for day in 0..24 {
            for n in 0..4 {
                fixture.clock.advance(6 * HOUR);
                let name = (day == 4 && n == 1).then_some("named");
                commit_with_record(&mut fixture, &mut redo, name);
            }
            fixture.writer().rotate_segment().unwrap();
            fixture.writer().tick().unwrap();
            if day % 3 == 0 {
                fixture.node.maintain(&compact()).unwrap();
            }
            if day == 6 {
                fixture
                    .node
                    .build_snapshot(&Target::RestorePoint("named".into()), &compact())
                    .unwrap();
            }
            let report = fixture.sweep();
            assert!(report.nodes[0].built.snapshots <= 3, "{report:?}");
            let kept = restorable(&fixture);
            assert!(kept.contains(fixture.commits.last_key_value().unwrap().0));
            assert!(!(5..16).contains(&day) || kept.contains(&18), "day {day}: {kept:?}");
            for lsn in kept {
                let mut records = Records::default();
                let restore =
                    fixture.node.restore(at(lsn)).options(single()).unaudited().redo(&mut records);
                let (_, spaces) =
                    restore.into_memory().unwrap_or_else(|e| panic!("day {day}: LSN {lsn}: {e}"));
                assert!(spaces["s"] == fixture.model(lsn));
                let expected: Vec<u64> = (redo[lsn as usize] + 1..=lsn).collect();
                assert_eq!(records.0, expected, "day {day}: LSN {lsn}");
            }
            assert!(verify(&fixture.archive).is_intact());
            let segments = fixture.storage.files().keys().filter(|p| p.ends_with(".seg")).count();
            largest = largest.max(segments);
        }
        assert!(largest < 30, "{largest} segments");
        assert!(matches!(fixture.restore(at(2)), Err(Error::BeforeWindow { .. })));
    }
}

/// An engine whose records are few: none at first, or none for long after a redo point. What lies
/// between that point and the next record has expired by then.
#[test]
fn records_that_come_late_need_no_log_from_before_them() {
    // Which commits hold a record, and which say that all before them are in the pages. Four
    // commits a day.
    let late: (&[u64], &[u64]) = (&[41, 42, 60, 61], &[]);
    let after_redo: (&[u64], &[u64]) = (&[2, 3, 45, 46, 70], &[5]);
    let with_redo: (&[u64], &[u64]) = (&[2, 40, 41, 66], &[6, 50, 51]);
    for (round, (records, redo_at)) in [late, after_redo, with_redo].into_iter().enumerate() {
        let mut fixture = Fixture::seeded(300 + round as u64);
        let policy = Policy::days(3).restore_points_for(days(9));
        fixture.admin().set_retention(Scope::Archive, &policy).unwrap();
        let (mut redo, mut earliest) = (BTreeMap::from([(0, 0)]), 1);
        for day in 0..24 {
            for n in 0..4 {
                fixture.clock.advance(6 * HOUR);
                let lsn = fixture.commits.last_key_value().map_or(0, |(lsn, _)| *lsn) + 1;
                let writer = fixture.writer();
                let mut batch = writer.batch();
                let space = writer
                    .space("s")
                    .map_or_else(|| batch.create_space("s", PageSize::MIN), Ok)
                    .unwrap();
                batch.write_page(PageId::new(space, lsn % PAGES), &image(lsn), None).unwrap();
                if records.contains(&lsn) {
                    batch.log_record(&lsn.to_le_bytes()).unwrap();
                }
                if redo_at.contains(&lsn) {
                    batch.redo_point(Position::new(lsn - 1)).unwrap();
                    redo.insert(lsn, lsn - 1);
                }
                // A single commit with records that lead up to it, and one that has none.
                if [42, 62].contains(&lsn) {
                    batch.restore_point(&format!("p{lsn}")).unwrap();
                }
                let commit = batch.commit(Durability::Synced).unwrap();
                fixture.commits.insert(lsn, (commit.timestamp, lsn));
                if n % 2 == 1 {
                    fixture.writer().rotate_segment().unwrap();
                }
            }
            fixture.writer().tick().unwrap();
            if day % 3 == 0 {
                fixture.node.maintain(&compact()).unwrap();
            }
            if day % 5 == 4 {
                fixture.node.build_snapshot(&Target::Latest, &compact()).unwrap();
            }
            let report = fixture.sweep();
            assert!(report.nodes[0].plan.blocked.is_none(), "{report:?}");
            let what = format!("round {round}, day {day}");
            let begins = fixture.node.window().unwrap().earliest.lsn.get();
            // It goes on to expire, up to the first record that is not in the pages where the
            // window begins.
            let newest = *fixture.commits.last_key_value().unwrap().0;
            let covered = *redo.range(..=newest.saturating_sub(12)).next_back().unwrap().1;
            let bound =
                records.iter().copied().find(|r| *r > covered && *r <= newest).unwrap_or(newest);
            assert!(
                day < 8 || begins + 20 > bound,
                "{what}: the window begins at {begins}, not near {bound}"
            );
            earliest = begins.max(earliest);
            for lsn in restorable(&fixture) {
                let from = *redo.range(..=lsn).next_back().unwrap().1;
                let expected: Vec<u64> =
                    records.iter().copied().filter(|r| (from + 1..=lsn).contains(r)).collect();
                let dir = tempfile::tempdir().unwrap();
                let mut replayed = Records::default();
                let restore =
                    fixture.node.restore(at(lsn)).options(single()).unaudited().redo(&mut replayed);
                let into = restore
                    .into_dir(dir.path().join("r"))
                    .unwrap_or_else(|e| panic!("{what}: LSN {lsn}: {e}"));
                assert_eq!(
                    (replayed.0, into.records_replayed),
                    (expected.clone(), expected.len() as u64),
                    "{what}: LSN {lsn}"
                );
                assert!(
                    std::fs::read(dir.path().join("r/s")).unwrap() == fixture.model(lsn),
                    "{what}: LSN {lsn}"
                );
                let plain = fixture.node.restore(at(lsn)).options(single()).unaudited();
                match plain.into_memory() {
                    Ok(_) => assert!(expected.is_empty(), "{what}: LSN {lsn}"),
                    Err(Error::RedoRequired { count, .. }) => {
                        assert_eq!(count, expected.len() as u64, "{what}: LSN {lsn}");
                    }
                    Err(e) => panic!("{what}: LSN {lsn}: {e}"),
                }
                let pages = fixture.node.restore(at(lsn)).options(single()).unaudited().skip_redo();
                assert!(
                    pages.into_memory().unwrap().1["s"] == fixture.model(lsn),
                    "{what}: LSN {lsn}"
                );
            }
            let report = verify(&fixture.archive);
            assert!(report.is_intact(), "{what}: {:?}", report.findings);
        }
        assert!(earliest > 40, "round {round}: {earliest}");
    }
}

/// A segment is gone that a stretch needs: the sweep fails for that node, and says so to whoever
/// reads no plans.
#[test]
fn a_node_of_which_nothing_expires_for_a_loss_is_told() {
    let fixture = gappy();
    let window = fixture.node.window().unwrap().earliest.lsn.get();
    let newest =
        fixture.storage.files().into_keys().filter(|p| p.ends_with(".seg")).nth_back(1).unwrap();
    rewound::storage::BlobStore::delete(&fixture.storage, &newest).unwrap();
    let report = fixture.admin().sweep(&options()).unwrap();
    assert!(report.failed.iter().any(|(node, e)| node == "n" && e.is_damage()), "{report:?}");
    assert_eq!(
        fixture.node.window().map_or(window, |w| w.earliest.lsn.get()),
        window,
        "nothing has expired"
    );
}

#[test]
fn a_sweep_that_is_cancelled_leaves_everything_as_it_was() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(5, 6);
    fixture.admin().confirm_clock().unwrap();
    let before = fixture.archive.audit().unwrap().count();
    let mut options = options();
    options.rebuild_percent = 0;
    assert!(!fixture.admin().plan_expiry(&options).unwrap()[0].1.build.is_empty());
    let cancel = Cancel::new();
    options.compact.replay.cancel = cancel.clone();
    cancel.cancel();
    let swept = fixture.admin().sweep(&options);
    assert!(matches!(swept, Err(Error::Cancelled)), "{swept:?}");
    assert_eq!(fixture.archive.audit().unwrap().count(), before);
    options.compact.replay.cancel = Cancel::new();
    let report = fixture.admin().sweep(&options).unwrap();
    assert!(report.failed.is_empty() && report.nodes[0].built.snapshots > 0, "{report:?}");
    for lsn in restorable(&fixture) {
        fixture.check(lsn, "afterwards");
    }
}

#[test]
fn growth_is_told_of_the_window_and_not_thinned_by_what_is_older() {
    let fixture = gappy();
    let usage = fixture.archive.usage().unwrap();
    let node = usage.nodes["n"];
    // A segment a day.
    let day =
        node.log / fixture.storage.files().keys().filter(|p| p.ends_with(".seg")).count() as u64;
    assert!(
        (day * 8 / 10..=day * 20 / 10).contains(&node.log_bytes_per_day),
        "{} of {day}",
        node.log_bytes_per_day
    );
}

#[test]
fn looking_is_no_restore_and_restoring_is() {
    let fixture = gappy();
    let before = fixture.archive.audit().unwrap().count();
    verify(&fixture.archive);
    fixture.node.diff(&at(4), &Target::Latest, &ReplayOptions::default()).unwrap();
    fixture.node.commits(..).unwrap().for_each(drop);
    fixture.node.spaces(&Target::Latest).unwrap();
    fixture.node.activity(&ActivityOptions::default()).unwrap();
    fixture.node.restore(at(5)).unaudited().into_memory().unwrap();
    assert_eq!(fixture.archive.audit().unwrap().count(), before);
    assert!(fixture.storage.files().keys().all(|p| !p.starts_with("leases/")), "no lease is left");
    fixture.node.restore(at(5)).into_memory().unwrap();
    assert_eq!(fixture.archive.audit().unwrap().count(), before + 2);
}

/// Of two stretches apart the later one has lost the segment that it begins in: what leads up to
/// the earlier one does not stand for it.
#[test]
fn a_lost_beginning_of_a_later_stretch_is_found() {
    let fixture = gappy();
    let earliest = fixture.node.window().unwrap().earliest.lsn.get();
    assert!(earliest > NAMED, "the window lies apart from what is held");
    let segment = |path: &str| path.rsplit_once('/').unwrap().1.to_owned();
    let segments: Vec<String> = fixture
        .storage
        .files()
        .into_keys()
        .filter(|p| p.starts_with("nodes/00000001/wal/") && p.ends_with(".seg"))
        .collect();
    let mut found = 0;
    for path in &segments {
        let image = MemStorage::without_recording();
        for (name, bytes) in fixture.storage.files().into_iter().filter(|(name, _)| name != path) {
            image.set_file(&name, bytes);
        }
        let archive =
            Archive::open_in(Arc::new(image), key(), archive_options(&fixture.clock, 90)).unwrap();
        let node = archive.node("n").unwrap();
        let gone = fixture.commits.keys().any(|lsn| {
            *lsn >= earliest
                && node.restore(at(*lsn)).options(single()).unaudited().into_memory().is_err()
        });
        let report = verify(&archive);
        assert!(!gone || !report.is_intact(), "{}: commits are lost, and not found", segment(path));
        found += u64::from(gone);
    }
    assert!(found > 1, "{found} of {}", segments.len());
}
