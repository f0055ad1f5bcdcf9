//! Odd company: sweepers that no lock keeps apart, holders of leases that have died, values at the
//! ends of their range.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rewound::storage::{
    AppendFile, BlobStore, Entry, LockGuard, MemStorage, ReadFile, ReadStore, Storage,
    put_by_publishing,
};
use rewound::{Actor, Archive, Error, HoldTarget, Policy, Scope, Target};

use super::{DAY, Fixture, at, days, options};
use crate::support::{archive_options, key};

/// Storage on which nobody is kept out of a node's maintenance, as on a network file system without
/// locks.
#[derive(Debug)]
struct NoLocks(MemStorage);

#[derive(Debug)]
struct Granted;

impl LockGuard for Granted {}

impl ReadStore for NoLocks {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        self.0.open(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.0.list(dir)
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

impl BlobStore for NoLocks {
    fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()> {
        put_by_publishing(self, path, source)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        self.0.delete(path)
    }
}

impl Storage for NoLocks {
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>> {
        self.0.create(path)
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.publish(from, to)
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        self.0.sync_file(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>> {
        if path.ends_with("maintain.lock") {
            Ok(Some(Box::new(Granted)))
        } else {
            self.0.try_lock(path)
        }
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        self.0.free_space()
    }
}

#[test]
fn two_sweepers_at_once_with_and_without_locks() {
    for locks in [true, false] {
        let mut fixture = Fixture::new();
        fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
        fixture.live(2, 6);
        let on = HoldTarget::Commits { node: "n", from: at(3), to: Some(at(8)) };
        fixture.admin().hold("h", &on, None).unwrap();
        let stop = AtomicBool::new(false);
        let sweeps = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|scope| {
            for (seed, sweeps) in [70, 71].into_iter().zip(&sweeps) {
                let storage: Arc<dyn Storage> = if locks {
                    Arc::new(fixture.storage.clone())
                } else {
                    Arc::new(NoLocks(fixture.storage.clone()))
                };
                let archive =
                    Archive::open_in(storage, key(), archive_options(&fixture.clock, seed))
                        .unwrap();
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let report =
                            archive.administrator(super::actor()).sweep(&options()).unwrap();
                        for (_, error) in report.failed {
                            // Without locks one takes the other's temporary files away: an error,
                            // and no harm.
                            assert!(
                                !locks || matches!(error, Error::MaintenanceActive { .. }),
                                "{error}"
                            );
                            assert!(!matches!(error, Error::Cancelled), "nobody cancelled");
                        }
                        sweeps.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut swept_before = [0, 0];
            for n in 0..60 {
                if n % 6 == 0 {
                    super::wait_for_sweeps(&sweeps.each_ref(), &mut swept_before);
                }
                fixture.clock.advance(DAY / 6);
                fixture.commit();
                fixture.writer().rotate_segment().unwrap();
                for lsn in [3, 8, *fixture.commits.last_key_value().unwrap().0] {
                    fixture.check(lsn, "beside two sweepers");
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let last = *fixture.commits.last_key_value().unwrap().0;
        for lsn in (3..=8).chain(last - 11..=last) {
            fixture.check(lsn, "after two sweepers");
        }
        for _ in 0..3 {
            fixture.live(1, 6);
            fixture.sweep();
        }
        assert!(matches!(fixture.restore(at(20)), Err(Error::BeforeWindow { .. })));
        fixture.archive.verify_audit().unwrap();
    }
}

#[test]
fn a_lease_lasts_as_long_as_its_holder_and_no_longer() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(2, 6);
    // As a restore in another process holds it; its number and name say nothing of a process.
    let path = "leases/00000001-0000000000000002-000102030405060708090a0b0c0d0e0f.lock";
    fixture.storage.create_dir("leases").unwrap();
    let holder = fixture.storage.try_lock(path).unwrap().unwrap();
    for _ in 0..6 {
        fixture.live(1, 6);
        let report = fixture.sweep();
        assert_eq!(report.nodes[0].removed_files, 0);
    }
    assert!(fixture.sweep().nodes[0].pending_expiries > 0);
    // It dies: the file stays, the lock does not.
    drop(holder);
    assert!(fixture.storage.files().contains_key(path));
    let report = fixture.sweep();
    assert!(report.nodes[0].removed_files > 0, "{report:?}");
    assert!(!fixture.storage.files().contains_key(path));
    // Names that are none of ours keep nothing and are left alone.
    for odd in [
        "leases/00000001-.lock",
        "leases/00000001-zz.lock",
        "leases/x",
        "leases/00000001-0000000000000002",
    ] {
        fixture.storage.set_file(odd, Vec::new());
    }
    fixture.live(3, 6);
    assert!(fixture.sweep().failed.is_empty());
}

#[test]
fn policies_at_the_ends_of_their_range() {
    let ever = Duration::MAX;
    let all = [
        (Policy::continuous(ever).restore_points_for(ever).grace(ever), true),
        (Policy::days(u32::MAX), true),
        (Policy::periodic(Duration::from_secs(60), ever, u32::MAX).log_for(ever), true),
        (Policy::periodic(ever, ever, 1), false),
        (Policy::periodic(Duration::from_secs(60), Duration::ZERO, 1), false),
        (Policy::continuous(Duration::ZERO), false),
    ];
    for (policy, everything) in all {
        let mut fixture = Fixture::new();
        fixture.admin().set_retention(Scope::Archive, &policy).unwrap();
        for _ in 0..6 {
            fixture.live(1, 4);
            fixture.sweep();
        }
        let last = *fixture.commits.last_key_value().unwrap().0;
        let first = if everything { 1 } else { last };
        for lsn in first..=last {
            fixture.check(lsn, &format!("{policy:?}"));
        }
        assert_eq!(fixture.restore(Target::Latest).unwrap().0, last);
        // It comes back as it was set, as far as 64 bits of nanoseconds go.
        let again = fixture.admin().policy(Scope::Archive).unwrap().unwrap();
        assert_eq!(again.grace, policy.grace.min(Duration::from_nanos(u64::MAX)));
        fixture.admin().delete(Scope::Archive, ever).unwrap();
        fixture.clock.advance(DAY);
        fixture.sweep();
        fixture.check(last, "deleted, with a grace period without end");
    }
    for policy in [
        Policy::periodic(Duration::ZERO, days(1), 1),
        Policy::periodic(days(1), days(1), 0),
        Policy::days(1).grace(Duration::ZERO),
    ] {
        let refused = Fixture::new().admin().set_retention(Scope::Archive, &policy);
        assert!(matches!(refused, Err(Error::PolicyRefused { .. })), "{refused:?}");
    }
}

#[test]
fn odd_names_and_ranges_are_refused_or_told_faithfully() {
    let mut fixture = Fixture::new();
    fixture.live(2, 4);
    let admin = fixture.admin();
    for bad in ["", "..", "a/b", "a\nb", &"x".repeat(201)] {
        assert!(
            matches!(admin.lock(Scope::Archive, bad), Err(Error::InvalidName { .. })),
            "{bad:?}"
        );
        assert!(
            matches!(admin.hold(bad, &HoldTarget::Archive, None), Err(Error::InvalidName { .. })),
            "{bad:?}"
        );
    }
    let backwards =
        admin.hold("h", &HoldTarget::Commits { node: "n", from: at(6), to: Some(at(3)) }, None);
    assert!(
        matches!(backwards, Err(Error::NotMonotonic { .. })),
        "it would hold nothing: {backwards:?}"
    );
    assert!(matches!(admin.hold("h", &HoldTarget::Node("m"), None), Err(Error::NoSuchNode { .. })));
    assert!(matches!(admin.release_lock(Scope::Archive, "none"), Err(Error::NoSuchLock { .. })));
    assert!(matches!(admin.release_hold("none"), Err(Error::NoSuchHold { .. })));
    assert!(admin.holds().unwrap().is_empty());

    let actor = Actor { name: "a \"b\"\n\u{1}\\ä".into(), reason: "\u{2028}\t{}".into() };
    fixture.archive.administrator(actor).lock(Scope::Node("n"), "naïve \"lock\"").unwrap();
    let mut lines = Vec::new();
    let count = fixture.archive.audit().unwrap().write_json(&mut lines).unwrap();
    let text = String::from_utf8(lines).unwrap();
    assert_eq!(text.lines().count() as u64, count);
    assert_eq!(count, fixture.archive.verify_audit().unwrap());
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("\"actor\":\"a \\\"b\\\"\\u000a\\u0001\\\\ä\"")
            && last.contains("naïve \\\"lock\\\""),
        "{last}"
    );
}
