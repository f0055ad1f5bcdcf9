//! The rules one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rewound::{
    Archive, BaseSpace, Blocked, Consistency, Deletion, Durability, Error, HoldTarget, Mode,
    Origin, PageId, PageSink, PageSize, PageSource, Policy, Position, Result, Scope, SpaceId,
    SpaceState, Target,
};

use super::{DAY, Fixture, HOUR, PAGES, actor, at, compact, days, image, options};
use crate::ledger::single;
use crate::support::{archive_options, key};

fn earliest(fixture: &Fixture) -> u64 {
    fixture.node.window().unwrap().earliest.lsn.get()
}

fn before_window(result: Result<(u64, Vec<u8>)>, what: &str) {
    assert!(
        matches!(result, Err(Error::BeforeWindow { .. })),
        "{what}: {:?}",
        result.map(|(lsn, _)| lsn)
    );
}

#[test]
fn without_a_policy_everything_stays() {
    let mut fixture = Fixture::new();
    fixture.live(50, 2);
    assert!(
        matches!(fixture.admin().sweep(&options()), Err(Error::ClockImplausible { .. })),
        "50 days without a word"
    );
    fixture.admin().confirm_clock().unwrap();
    let report = fixture.sweep();
    assert_eq!(report.nodes[0].plan.blocked, Some(Blocked::NoPolicy));
    assert_eq!(earliest(&fixture), 1);
}

/// An engine in the midst of whose copies sweeps run.
struct Swept<'f> {
    fixture: &'f Fixture,
    breaks: bool,
}

impl PageSource for Swept<'_> {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        self.fixture.sweep();
        Ok(Consistency::Fuzzy)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, first: u64, buf: &mut [u8]) -> Result<()> {
        self.fixture.sweep();
        if self.breaks {
            return Err(Error::Cancelled);
        }
        let pages = self.fixture.model(u64::MAX);
        for (to, from) in buf.iter_mut().zip(&pages[first as usize * 512..]) {
            *to = *from;
        }
        Ok(())
    }
}

/// The log of a node that cannot be restored yet is what its first base copy is corrected with,
/// however old it is and whatever becomes of that copy.
#[test]
fn nothing_expires_before_the_first_base_copy() {
    let hour = Duration::from_nanos(HOUR);
    for policy in [Policy::continuous(hour), Policy::periodic(days(1), days(2), 1)] {
        let mut fixture = Fixture::existing();
        fixture.admin().set_retention(Scope::Archive, &policy).unwrap();
        for _ in 0..4 {
            fixture.live(1, 3);
            let done = fixture.sweep();
            assert!(
                done.nodes[0].plan.is_empty() && done.nodes[0].plan.build.is_empty(),
                "{done:?}"
            );
        }
        let writer = fixture.writer();
        let broken =
            writer.base_snapshot(&mut Swept { fixture: &fixture, breaks: true }, &compact());
        assert!(matches!(broken, Err(Error::Cancelled)), "{broken:?}");
        for _ in 0..2 {
            fixture.live(1, 3);
            fixture.sweep();
        }
        let segments = fixture.storage.files().keys().filter(|p| p.ends_with(".seg")).count();
        assert!(segments >= 6, "{segments} segments are left of those of six days");
        let from = fixture
            .writer()
            .base_snapshot(&mut Swept { fixture: &fixture, breaks: false }, &compact())
            .unwrap();
        fixture.clock.advance(HOUR / 4);
        fixture.commit();
        fixture.sweep();
        for lsn in from.get()..=*fixture.commits.last_key_value().unwrap().0 {
            fixture.check(lsn, "after the base copy");
        }
        // From then on the log before it goes.
        for _ in 0..3 {
            fixture.live(1, 3);
            fixture.sweep();
            fixture.check(*fixture.commits.last_key_value().unwrap().0, "later");
        }
        assert!(
            !fixture.storage.files().keys().any(|p| p.contains("/0000000000000001-0")),
            "the log before it"
        );
    }
}

#[test]
fn a_window_moves_on_and_its_commits_stay() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(7)).unwrap();
    for day in 0..20 {
        fixture.live(1, 4);
        if day % 3 == 0 {
            fixture.node.maintain(&compact()).unwrap();
        }
        let planned = fixture.admin().plan_expiry(&options()).unwrap();
        let done = fixture.sweep();
        // What was shown is what happens, but for what the snapshots built first let go.
        if planned[0].1.build.is_empty() {
            assert_eq!(planned[0].1.timelines, done.nodes[0].plan.timelines);
        }
        let window = fixture.now().saturating_sub(days(7));
        let first = fixture.at_time(window).unwrap_or(1);
        assert!(earliest(&fixture) <= first, "day {day}");
        for lsn in first..=*fixture.commits.last_key_value().unwrap().0 {
            fixture.check(lsn, &format!("day {day}"));
        }
        // The state at the very beginning of the window, by its time.
        if fixture.at_time(window).is_some() {
            assert_eq!(fixture.restore(Target::Time(window)).unwrap().0, first);
        }
    }
    // Twelve days have expired, and a grace period has gone by for most of them.
    assert!(earliest(&fixture) > 40, "{}", earliest(&fixture));
    before_window(fixture.restore(at(20)), "expired");
    before_window(fixture.restore(Target::Time(fixture.commits[&20].0)), "expired, by time");
    let segments = fixture.storage.files().keys().filter(|p| p.ends_with(".seg")).count();
    assert!(segments < 50, "{segments} segments are left");
}

#[test]
fn readers_see_the_same_before_and_after_the_removal() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(3)).unwrap();
    // Nothing counts as promised for 35 days: before the policy there was nothing.
    for _ in 0..6 {
        fixture.live(1, 5);
        fixture.admin().confirm_clock().unwrap();
    }
    let before = fixture.sweep();
    assert!(!before.nodes[0].plan.is_empty(), "{before:?}");
    let window = fixture.node.window().unwrap();
    let segments = || fixture.storage.files().keys().filter(|p| p.ends_with(".seg")).count();
    let there = segments();
    before_window(fixture.restore(at(1)), "in the grace period");
    // Another process sees the same.
    let options = archive_options(&fixture.clock, 5);
    let other = Archive::open_in(Arc::new(fixture.storage.clone()), key(), options).unwrap();
    assert_eq!(other.node("n").unwrap().window().unwrap(), window);
    fixture.clock.advance(25 * HOUR);
    let after = fixture.sweep();
    assert!(after.nodes[0].removed_files > 0 && segments() < there, "{after:?}");
    assert_eq!(fixture.node.window().unwrap(), window);
    before_window(fixture.restore(at(1)), "after the removal");
    for lsn in window.earliest.lsn.get()..=window.latest.lsn.get() {
        fixture.check(lsn, "after the removal");
    }
}

#[test]
fn longer_counts_at_once_and_shorter_from_now_on() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(20)).unwrap();
    for _ in 0..25 {
        fixture.live(1, 2);
        fixture.sweep();
    }
    let changed = *fixture.commits.last_key_value().unwrap().0;
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.sweep();
    let first = fixture.at_time(fixture.now().saturating_sub(days(20))).unwrap();
    assert!(earliest(&fixture) <= first, "the old promise stands");
    for lsn in first..=changed {
        fixture.check(lsn, "promised for 20 days");
    }
    // Ten days on: what came before the change is kept for its 20 days, what came after for two;
    // between the two there is a gap.
    for _ in 0..10 {
        fixture.live(1, 2);
        fixture.sweep();
    }
    let old = fixture.at_time(fixture.now().saturating_sub(days(20))).unwrap();
    let new = fixture.at_time(fixture.now().saturating_sub(days(2))).unwrap();
    assert!(old < changed && changed + 4 < new);
    for lsn in (old..=changed).chain(new..=*fixture.commits.last_key_value().unwrap().0) {
        fixture.check(lsn, "ten days after the change");
    }
    let gap = changed + 4;
    before_window(fixture.restore(at(gap)), "in the gap");
    before_window(fixture.restore(Target::Time(fixture.commits[&gap].0)), "in the gap, by time");
    // Longer again, at once: nothing of what is there goes for 20 days.
    fixture.admin().set_retention(Scope::Archive, &Policy::days(20)).unwrap();
    for _ in 0..9 {
        fixture.live(1, 2);
        fixture.sweep();
        fixture.check(new, "20 days again");
    }
    for _ in 0..20 {
        fixture.live(1, 2);
        fixture.sweep();
    }
    before_window(fixture.restore(at(new)), "after another 29 days");
}

#[test]
fn periodic_protection_keeps_snapshots_and_becomes_continuous_without_a_gap() {
    let mut fixture = Fixture::new();
    let policy = Policy::periodic(Duration::from_secs(86_400), days(5), 3);
    fixture.admin().set_retention(Scope::Archive, &policy).unwrap();
    for _ in 0..12 {
        fixture.live(1, 4);
        fixture.sweep();
    }
    let snapshots: Vec<u64> = fixture
        .node
        .layers()
        .unwrap()
        .iter()
        .filter(|l| l.from.is_none())
        .map(|l| l.to.get())
        .collect();
    assert!((5..=7).contains(&snapshots.len()), "{snapshots:?}");
    for lsn in &snapshots {
        fixture.check(*lsn, "a snapshot");
    }
    before_window(fixture.restore(at(snapshots[1] + 1)), "between snapshots");
    before_window(
        fixture.restore(Target::Time(fixture.commits[&(snapshots[1] + 1)].0)),
        "between snapshots, by time",
    );
    // By count, however old they are.
    let last = *fixture.commits.last_key_value().unwrap().0;
    let newest = *snapshots.last().unwrap();

    fixture.admin().set_retention(Scope::Archive, &Policy::days(7)).unwrap();
    for _ in 0..6 {
        fixture.live(1, 4);
        fixture.sweep();
        for lsn in newest..=*fixture.commits.last_key_value().unwrap().0 {
            fixture.check(lsn, "since it is continuous");
        }
    }
    assert!(last >= newest);
    let refused = fixture.admin().set_retention(Scope::Archive, &policy);
    assert!(matches!(refused, Err(Error::PolicyRefused { .. })), "{refused:?}");
    assert!(matches!(
        fixture.admin().policy(Scope::Node("n")).unwrap().unwrap().mode,
        Mode::Continuous { .. }
    ));
}

#[test]
fn an_idle_node_does_not_grow_old() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(7)).unwrap();
    fixture.live(2, 2);
    fixture.sweep();
    fixture.live(2, 2);
    fixture.close();
    for _ in 0..100 {
        fixture.clock.advance(DAY);
        fixture.sweep();
    }
    for lsn in 1..=8 {
        fixture.check(lsn, "nobody wrote for 100 days");
    }
}

#[test]
fn holds_keep_what_they_are_on() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(2, 6);
    let until = fixture.now().saturating_add(days(20));
    let on = HoldTarget::Commits { node: "n", from: at(3), to: Some(at(8)) };
    fixture.admin().hold("case 17", &on, None).unwrap();
    fixture
        .admin()
        .hold(
            "case 18",
            &HoldTarget::Commits { node: "n", from: at(10), to: Some(at(10)) },
            Some(until),
        )
        .unwrap();
    let again = fixture.admin().hold("case 17", &on, None);
    assert!(matches!(again, Err(Error::HoldExists { .. })), "{again:?}");
    for _ in 0..10 {
        fixture.live(1, 6);
        fixture.sweep();
        for lsn in [3, 4, 5, 6, 7, 8, 10] {
            fixture.check(lsn, "held");
        }
    }
    before_window(fixture.restore(at(2)), "not held");
    before_window(fixture.restore(at(9)), "not held");
    let between = fixture.commits[&3].0.saturating_add(Duration::from_secs(60));
    assert_eq!(fixture.restore(Target::Time(between)).unwrap().0, 3, "a time within what is held");
    let late = fixture.admin().hold(
        "case 19",
        &HoldTarget::Commits { node: "n", from: at(2), to: None },
        None,
    );
    assert!(matches!(late, Err(Error::BeforeWindow { .. })), "{late:?}");
    fixture.admin().release_hold("case 17").unwrap();
    for _ in 0..12 {
        fixture.live(1, 6);
        fixture.sweep();
    }
    before_window(fixture.restore(at(3)), "released");
    before_window(fixture.restore(at(10)), "run out");
    // On everything.
    fixture.admin().hold("all", &HoldTarget::Archive, None).unwrap();
    let first = earliest(&fixture);
    for _ in 0..5 {
        fixture.live(1, 6);
        let report = fixture.sweep();
        assert_eq!(report.nodes[0].plan.blocked, Some(Blocked::Held("all".into())));
    }
    assert_eq!(earliest(&fixture), first);
}

#[test]
fn deletion_is_soft_and_can_be_undone() {
    let mut fixture = Fixture::new();
    fixture.live(2, 3);
    fixture.close();
    let admin = fixture.admin();
    admin.lock(Scope::Node("n"), "production").unwrap();
    for scope in [Scope::Node("n"), Scope::Archive] {
        let refused = admin.delete(scope, days(1));
        assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    }
    let shorter = admin.set_retention(Scope::Node("n"), &Policy::days(1));
    assert!(matches!(shorter, Err(Error::Locked { .. })), "{shorter:?}");
    admin.set_retention(Scope::Node("n"), &Policy::days(35)).unwrap();
    admin.release_lock(Scope::Node("n"), "production").unwrap();
    admin.hold("case", &HoldTarget::Node("n"), None).unwrap();
    assert!(matches!(admin.delete(Scope::Node("n"), days(1)), Err(Error::Held { .. })));
    admin.release_hold("case").unwrap();

    let until = admin.delete(Scope::Node("n"), days(1)).unwrap();
    assert_eq!(
        until,
        fixture.now().saturating_add(rewound::DELETION_GRACE),
        "no shorter than a week"
    );
    assert!(matches!(fixture.node.open_writer(), Err(Error::Deleted { .. })));
    fixture.check(4, "deleted, and still there");
    for _ in 0..6 {
        fixture.clock.advance(DAY);
        fixture.sweep();
    }
    fixture.check(1, "deleted, and still there");
    admin.undelete(Scope::Node("n")).unwrap();
    fixture.open();
    fixture.commit();
    fixture.close();

    admin.delete(Scope::Node("n"), days(1)).unwrap();
    for _ in 0..10 {
        fixture.clock.advance(DAY);
        fixture.sweep();
    }
    assert!(matches!(fixture.archive.node("n"), Err(Error::NoSuchNode { .. })));
    assert!(matches!(
        fixture.node.restore(Target::Latest).into_memory(),
        Err(Error::NoSuchNode { .. })
    ));
    assert!(matches!(admin.undelete(Scope::Node("n")), Err(Error::NoSuchNode { .. })));
    let left: Vec<String> = fixture
        .storage
        .files()
        .into_keys()
        .filter(|p| p.starts_with("nodes/00000001") && !p.ends_with(".lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // Its name is free, its number is not.
    let node = fixture.archive.create_node("n", Origin::Empty).unwrap();
    assert_ne!(node.id(), fixture.node.id());
    assert_eq!(fixture.archive.nodes().unwrap(), ["n"]);
}

#[test]
fn a_deleted_archive_goes_node_by_node_and_keeps_its_trail() {
    let mut fixture = Fixture::new();
    fixture.live(1, 3);
    fixture.close();
    fixture.admin().delete(Scope::Archive, Duration::ZERO).unwrap();
    assert!(matches!(fixture.archive.create_node("m", Origin::Empty), Err(Error::Deleted { .. })));
    assert!(matches!(fixture.node.open_writer(), Err(Error::Deleted { .. })));
    for _ in 0..10 {
        fixture.clock.advance(DAY);
        fixture.sweep();
    }
    assert!(fixture.storage.files().keys().all(|p| !p.ends_with(".seg")));
    let trail: Vec<_> = fixture.archive.audit().unwrap().map(|e| e.unwrap().kind()).collect();
    assert!(trail.contains(&"deleted") && trail.contains(&"files-removed"), "{trail:?}");
}

/// Does something once, in the midst of a restore.
struct Meanwhile<'a> {
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
    bytes: Mutex<Vec<u8>>,
}

impl Meanwhile<'_> {
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> &Self {
        let length = spaces.values().map(|s| s.length).sum::<u64>();
        self.bytes.lock().resize(length as usize, 0);
        if let Some(act) = self.act.lock().take() {
            act();
        }
        self
    }
}

impl PageSink for &Meanwhile<'_> {
    fn write(&self, _: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.bytes.lock()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_restore_that_runs_keeps_what_it_reads() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(2, 6);
    fixture.node.build_snapshot(&at(2), &compact()).unwrap();
    fixture.live(2, 6);
    // What of it the sweep is to let go, the restore has planned with.
    let sink = Meanwhile { act: Mutex::new(None), bytes: Mutex::default() };
    let act = || {
        for _ in 0..4 {
            fixture.clock.advance(DAY);
            fixture.writer().tick().unwrap();
            fixture.sweep();
        }
        let waiting = fixture.sweep().nodes[0].pending_expiries;
        assert!(waiting > 0, "the files of the restore wait for it");
        before_window(fixture.restore(at(3)), "expired while it is being restored");
    };
    *sink.act.lock() = Some(Box::new(act));
    fixture
        .node
        .restore(at(3))
        .options(single())
        .into_sink(|spaces| Ok(sink.begin(spaces)))
        .unwrap();
    assert!(*sink.bytes.lock() == fixture.model(3));
    let after = fixture.sweep();
    assert!(after.nodes[0].removed_files > 0, "{after:?}");
    assert!(fixture.storage.files().keys().all(|p| !p.starts_with("leases/")), "no lease is left");
}

#[test]
fn nothing_comes_to_stand_on_a_damaged_snapshot() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(3)).unwrap();
    fixture.live(2, 6);
    fixture.node.build_snapshot(&Target::Latest, &compact()).unwrap();
    let part = fixture.storage.files().into_keys().find(|p| p.ends_with(".part")).unwrap();
    let mut bytes = fixture.storage.files()[&part].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fixture.storage.set_file(&part, bytes.clone());
    fixture.live(2, 6);
    fixture.admin().confirm_clock().unwrap();
    fixture.live(2, 6);
    let mut options = options();
    // It is not to build another one by itself.
    options.rebuild_percent = u64::MAX;
    let report = fixture.admin().sweep(&options).unwrap();
    assert!(matches!(report.failed.as_slice(), [(_, Error::Damaged(_))]), "{report:?}");
    for lsn in [1, 5, 12, 13, 30] {
        fixture.check(lsn, "nothing has expired");
    }
    bytes[middle] ^= 1;
    fixture.storage.set_file(&part, bytes);
    let report = fixture.admin().sweep(&options).unwrap();
    assert!(report.failed.is_empty() && !report.nodes[0].plan.is_empty(), "{report:?}");
    fixture.check(18, "after the sweep");
}

#[test]
fn what_crashes_left_goes_after_a_while() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(3)).unwrap();
    fixture.live(1, 6);
    fixture.node.build_snapshot(&Target::Latest, &compact()).unwrap();
    let part = fixture.storage.files().into_keys().find(|p| p.ends_with(".part")).unwrap();
    let stray = format!(
        "{}/{}.part",
        part.rsplit_once('/').unwrap().0,
        &part.rsplit_once('/').unwrap().1[..2]
    )
    .replace(".part", "00000000000000000000000000000f.part");
    fixture.storage.set_file(&stray, fixture.storage.files()[&part].clone());
    fixture.sweep();
    assert!(fixture.storage.files().contains_key(&stray), "it is young");
    for _ in 0..4 {
        fixture.live(1, 2);
        fixture.sweep();
    }
    assert!(!fixture.storage.files().contains_key(&stray), "nothing refers to it");
    assert!(fixture.storage.files().contains_key(&part));
}

#[test]
fn restores_are_refused_where_they_do_not_fit_and_leave_out_what_is_excluded() {
    let mut fixture = Fixture::new();
    fixture.commit();
    let writer = fixture.writer.take().unwrap();
    let mut batch = writer.batch();
    let temporary = batch.create_space("temporary", PageSize::KIB_4).unwrap();
    batch.write_page(PageId::new(temporary, 0), &[1; 4096], None).unwrap();
    batch.exclude_space(temporary, true).unwrap();
    batch.commit(Durability::Synced).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let restorer = fixture.archive.restorer(actor());
    let wrong = |space, size| {
        let restore = restorer.restore("n", Target::Latest).unwrap().expect_page_size(space, size);
        match restore.into_dir(dir.path().join("r")) {
            Err(Error::TargetMismatch { .. }) => assert!(!dir.path().join("r").exists()),
            other => panic!("{other:?}"),
        }
    };
    wrong("s", PageSize::KIB_4);
    wrong("none", PageSize::KIB_4);
    assert!(matches!(restorer.expect_nodes(2), Err(Error::TargetMismatch { .. })));
    restorer.expect_nodes(1).unwrap();
    let restore =
        restorer.restore("n", Target::Latest).unwrap().expect_page_size("s", PageSize::MIN);
    let report = restore.into_dir(dir.path().join("r")).unwrap();
    assert_eq!(report.excluded, ["temporary"]);
    assert!(report.config.is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("r")).unwrap().count(), 1);
    // From snapshots as from the log, and in again.
    fixture.node.build_snapshot(&Target::Latest, &compact()).unwrap();
    let (report, spaces) = restorer.restore("n", Target::Latest).unwrap().into_memory().unwrap();
    assert_eq!((report.excluded.len(), spaces.len()), (1, 1));
    let mut batch = writer.batch();
    batch.exclude_space(temporary, false).unwrap();
    batch.commit(Durability::Synced).unwrap();
    let (report, spaces) = restorer.restore("n", Target::Latest).unwrap().into_memory().unwrap();
    assert_eq!((report.excluded.len(), spaces.len()), (0, 2));
}

#[test]
fn what_it_takes_is_told() {
    let mut fixture = Fixture::new();
    fixture.live(10, 6);
    fixture.node.maintain(&compact()).unwrap();
    let usage = fixture.archive.usage().unwrap();
    let node = usage.nodes["n"];
    let files = fixture.storage.files();
    let log: usize = files.iter().filter(|(p, _)| p.ends_with(".seg")).map(|(_, b)| b.len()).sum();
    let derived: usize = files
        .iter()
        .filter(|(p, _)| p.ends_with(".part") || p.ends_with(".layer"))
        .map(|(_, b)| b.len())
        .sum();
    let catalog: usize =
        files.iter().filter(|(p, _)| p.starts_with("catalog/")).map(|(_, b)| b.len()).sum();
    assert_eq!(node.log as usize, log);
    assert_eq!((node.snapshots + node.layers) as usize, derived);
    assert_eq!(usage.catalog as usize, catalog);
    let day = log as u64 / 10;
    assert!(
        (day * 9 / 10..=day * 11 / 10).contains(&node.log_bytes_per_day),
        "{} of {day}",
        node.log_bytes_per_day
    );
    assert!(node.estimate(days(30)) > node.estimate(days(7)) + 20 * node.log_bytes_per_day);
    assert_eq!(fixture.admin().policy(Scope::Node("n")).unwrap(), None);
    assert_eq!(Deletion::default(), Deletion::Live);
    assert_eq!(image(1).len() as u64 * PAGES, 4096);
}

#[test]
fn times_in_the_past_that_a_host_gives_let_nothing_expire() {
    let fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(7)).unwrap();
    for day in 1..=5 {
        fixture.clock.advance(DAY);
        let writer = fixture.writer();
        let mut batch = writer.batch();
        let space =
            writer.space("s").map_or_else(|| batch.create_space("s", PageSize::MIN), Ok).unwrap();
        batch.write_page(PageId::new(space, 0), &image(day), None).unwrap();
        batch
            .commit_at(rewound::Timestamp::from_nanos(1_000_000 + day), Durability::Synced)
            .unwrap();
        writer.rotate_segment().unwrap();
        fixture.sweep();
    }
    // From here on the log says what time it really is.
    for day in 0..3 {
        fixture.writer().tick().unwrap();
        let report = fixture.sweep();
        assert!(day == 2 || report.nodes[0].plan.is_empty(), "{report:?}");
        fixture.clock.advance(DAY);
    }
    assert!(earliest(&fixture) <= 2, "{}", earliest(&fixture));
}
