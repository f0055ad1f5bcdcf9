//! What somebody does who has got in and wants the history gone. Each step is blocked or detected,
//! as `docs/retention.md` says; the numbers are those of its table.

use std::sync::Arc;
use std::time::Duration;

use rewound::storage::{MemStorage, Storage};
use rewound::{Archive, Attestation, Error, HoldTarget, Policy, Result, Scope, Target};

use super::{DAY, Fixture, HOUR, at, days, options};
use crate::support::{TestClock, archive_options, key};

const YEARS: u64 = 3_650 * DAY;

/// Thirty days under a policy of 35, and what was attested at the end.
fn protected() -> (Fixture, Attestation) {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(35)).unwrap();
    for _ in 0..10 {
        fixture.live(3, 2);
        fixture.sweep();
    }
    let attested = fixture.archive.attestation().unwrap();
    (fixture, attested)
}

fn all_there(fixture: &Fixture, what: &str) {
    for lsn in [1, 2, 7, 30, 59, 60] {
        fixture.check(lsn, what);
    }
}

fn reopen(storage: &MemStorage, clock: &TestClock) -> Result<Archive> {
    Archive::open_in(Arc::new(storage.clone()), key(), archive_options(clock, 77))
}

#[test]
fn shortened_retention_takes_nothing_that_was_promised() {
    let (fixture, _) = protected();
    let mut policy = Policy::continuous(Duration::from_secs(1)).grace(Duration::from_secs(60));
    fixture.admin().set_retention(Scope::Archive, &policy).unwrap();
    for _ in 0..4 {
        fixture.sweep();
        fixture.clock.advance(HOUR);
    }
    all_there(&fixture, "shortened to a second");
    policy = policy.grace(Duration::ZERO);
    assert!(matches!(
        fixture.admin().set_retention(Scope::Archive, &policy),
        Err(Error::PolicyRefused { .. })
    ));
    let periodic = Policy::periodic(days(1), days(1), 1);
    assert!(matches!(
        fixture.admin().set_retention(Scope::Node("n"), &periodic),
        Err(Error::PolicyRefused { .. })
    ));
    // A first policy on an archive that never had one is no way around that.
    let mut fixture = Fixture::new();
    fixture.live(2, 30);
    fixture
        .admin()
        .set_retention(Scope::Archive, &Policy::continuous(Duration::from_secs(1)))
        .unwrap();
    fixture.live(3, 1);
    fixture.sweep();
    all_there(&fixture, "a first policy");
}

#[test]
fn clocks_that_lie_let_nothing_expire() {
    for years in [YEARS.cast_signed(), -YEARS.cast_signed()] {
        let (mut fixture, _) = protected();
        let now = fixture.now().as_nanos();
        fixture.clock.set(now.wrapping_add_signed(years));
        let refused = fixture.admin().sweep(&options());
        assert!(matches!(refused, Err(Error::ClockImplausible { .. })), "{refused:?}");
        // The engine goes on under that clock, and so do policies.
        fixture.commit();
        fixture.writer().tick().unwrap();
        fixture.admin().set_retention(Scope::Archive, &Policy::days(1)).unwrap();
        let refused = fixture.admin().sweep(&options());
        assert!(matches!(refused, Err(Error::ClockImplausible { .. })), "{refused:?}");
        all_there(&fixture, "under a clock that lies");
        // Ten sweeps under it change nothing, and when it is right again nothing has gone.
        fixture.clock.set(now + HOUR);
        if years > 0 {
            let refused = fixture.admin().sweep(&options());
            let Err(Error::ClockImplausible { what: "the newest commit", .. }) = refused else {
                panic!("{refused:?}")
            };
            fixture.admin().confirm_clock().unwrap();
        }
        for _ in 0..3 {
            fixture.clock.advance(DAY);
            fixture.sweep();
        }
        all_there(&fixture, "after a clock that lied");
    }
}

#[test]
fn deletion_is_slow_and_locks_make_it_slower() {
    let (mut fixture, attested) = protected();
    fixture.close();
    let admin = fixture.admin();
    admin.lock(Scope::Archive, "keep").unwrap();
    for scope in [Scope::Archive, Scope::Node("n")] {
        assert!(matches!(admin.delete(scope, Duration::ZERO), Err(Error::Locked { .. })));
    }
    assert!(matches!(
        admin.set_retention(Scope::Archive, &Policy::days(1)),
        Err(Error::Locked { .. })
    ));
    // Whoever is an administrator can release it: that is on record, and then there is a week.
    admin.release_lock(Scope::Archive, "keep").unwrap();
    admin.delete(Scope::Archive, Duration::ZERO).unwrap();
    for _ in 0..6 {
        fixture.clock.advance(DAY);
        fixture.sweep();
    }
    all_there(&fixture, "deleted");
    fixture.archive.verify_since(&attested).unwrap();
    let since: Vec<_> = fixture
        .archive
        .audit_from(attested.sequence + 1)
        .unwrap()
        .map(|e| e.unwrap().kind())
        .collect();
    assert!(since.contains(&"lock-released") && since.contains(&"deleted"), "{since:?}");
    admin.undelete(Scope::Archive).unwrap();
    for _ in 0..5 {
        fixture.clock.advance(DAY);
        fixture.sweep();
    }
    all_there(&fixture, "undeleted");
}

#[test]
fn locks_and_holds_placed_to_fill_the_disk_are_on_record_and_can_be_released() {
    let (mut fixture, _) = protected();
    fixture.admin().hold("for ever", &HoldTarget::Archive, None).unwrap();
    assert!(matches!(
        fixture.admin().hold("for ever", &HoldTarget::Archive, None),
        Err(Error::HoldExists { .. })
    ));
    fixture.live(2, 1);
    assert!(fixture.sweep().nodes[0].plan.is_empty());
    let by = fixture
        .archive
        .audit()
        .unwrap()
        .map(Result::unwrap)
        .find(|e| e.kind() == "hold-placed")
        .unwrap();
    assert_eq!(by.actor.name, "test");
    fixture.admin().release_hold("for ever").unwrap();
}

#[test]
fn overwriting_is_seen_and_has_no_call() {
    let (fixture, _) = protected();
    let files = fixture.storage.files();
    let path = files.keys().filter(|p| p.ends_with(".seg")).nth(3).unwrap();
    assert!(fixture.storage.create(path).is_err());
    fixture.storage.create("tmp/evil").unwrap();
    assert!(fixture.storage.publish("tmp/evil", path).is_err());
    for at_byte in [20, 300, 500] {
        let mut bytes = files[path].clone();
        bytes[at_byte] ^= 4;
        fixture.storage.set_file(path, bytes);
        let found = fixture.restore(at(8));
        assert!(
            matches!(found, Err(ref e) if e.is_damage() || matches!(e, Error::FormatTooNew { .. })),
            "{at_byte}"
        );
    }
    fixture.storage.set_file(path, files[path].clone());
    all_there(&fixture, "put back");
}

#[test]
fn what_is_deleted_behind_its_back_is_missed() {
    let (mut fixture, attested) = protected();
    fixture.close();
    let files = fixture.storage.files();
    let segments: Vec<&String> = files.keys().filter(|p| p.ends_with(".seg")).collect();
    let without = |gone: &dyn Fn(&str) -> bool| {
        let storage = MemStorage::without_recording();
        for (path, bytes) in files.iter().filter(|(p, _)| !gone(p)) {
            storage.set_file(path, bytes.clone());
        }
        storage
    };
    // From the middle: what needs it is an error, and nothing more expires.
    let image = without(&|p| p == segments[4]);
    let archive = reopen(&image, &fixture.clock).unwrap();
    let node = archive.node("n").unwrap();
    assert!(node.restore(Target::Latest).unaudited().into_memory().is_err());
    fixture.clock.advance(2 * DAY);
    let report = archive.administrator(super::actor()).sweep(&options()).unwrap();
    assert!(report.nodes.iter().all(|n| n.plan.is_empty()), "{report:?}");
    // The newest: the attestation misses it.
    // (The very newest holds a tick alone.)
    let image = without(&|p| segments.iter().rev().take(2).any(|s| p == *s));
    let archive = reopen(&image, &fixture.clock);
    let missed = archive.and_then(|a| a.verify_since(&attested));
    assert!(
        matches!(missed, Err(Error::AttestationMismatch { .. } | Error::Damaged(_))),
        "{missed:?}"
    );
    // Entries of the catalog, from the middle and the newest.
    let entries: Vec<&String> = files.keys().filter(|p| p.ends_with(".entry")).collect();
    let image = without(&|p| p == entries[2]);
    assert!(reopen(&image, &fixture.clock).is_err());
    let image = without(&|p| p == *entries.last().unwrap());
    let archive = reopen(&image, &fixture.clock).unwrap();
    assert!(matches!(archive.verify_since(&attested), Err(Error::AttestationMismatch { .. })));
}

#[test]
fn splices_are_seen() {
    let (mut fixture, _) = protected();
    fixture.close();
    let mut other = Fixture::seeded(9);
    other.admin().set_retention(Scope::Archive, &Policy::days(35)).unwrap();
    other.live(30, 2);
    other.close();
    let (files, foreign) = (fixture.storage.files(), other.storage.files());
    let segments: Vec<&String> = files.keys().filter(|p| p.ends_with(".seg")).collect();
    let theirs: Vec<&String> = foreign.keys().filter(|p| p.ends_with(".seg")).collect();
    for bytes in [&files[segments[6]], &foreign[theirs[5]]] {
        let image = fixture.storage.fork();
        image.set_file(segments[5], bytes.clone());
        let found = reopen(&image, &fixture.clock)
            .unwrap()
            .node("n")
            .unwrap()
            .restore(at(60))
            .unaudited()
            .into_memory();
        assert!(found.is_err(), "a segment in the place of another");
    }
    let entries: Vec<&String> = files.keys().filter(|p| p.ends_with(".entry")).collect();
    let theirs: Vec<&String> = foreign.keys().filter(|p| p.ends_with(".entry")).collect();
    for bytes in [&files[entries[4]], &foreign[theirs[3]]] {
        let image = fixture.storage.fork();
        image.set_file(entries[3], bytes.clone());
        assert!(reopen(&image, &fixture.clock).is_err(), "an entry in the place of another");
    }
}

#[test]
fn rolling_back_is_seen_by_whoever_kept_an_attestation() {
    let (mut fixture, _) = protected();
    let old = fixture.storage.fork();
    fixture.live(3, 2);
    fixture.sweep();
    let attested = fixture.archive.attestation().unwrap();
    let back = reopen(&old, &fixture.clock).unwrap();
    // In itself it is sound: that is why the attestation is kept elsewhere.
    back.verify_audit().unwrap();
    assert!(matches!(back.verify_since(&attested), Err(Error::AttestationMismatch { .. })));
}
