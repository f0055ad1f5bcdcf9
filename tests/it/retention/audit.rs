//! The audit trail and what can be proven by it.

use std::sync::Arc;

use rewound::storage::MemStorage;
use rewound::{Actor, Archive, Attestation, Damage, Error, HoldTarget, Policy, Scope, Target};

use super::{Fixture, actor, at, days};
use crate::ledger::single;
use crate::support::{archive_options, key};

fn kinds(archive: &Archive) -> Vec<&'static str> {
    archive.audit().unwrap().map(|entry| entry.unwrap().kind()).collect()
}

#[test]
fn everything_that_is_done_is_told() {
    let mut fixture = Fixture::new();
    fixture.live(1, 3);
    let admin =
        fixture.archive.administrator(Actor { name: "ada".into(), reason: "ticket \"12\"".into() });
    admin.set_retention(Scope::Archive, &Policy::days(7)).unwrap();
    admin.lock(Scope::Archive, "l").unwrap();
    admin
        .hold("h", &HoldTarget::Commits { node: "n", from: at(1), to: None }, Some(fixture.now()))
        .unwrap();
    admin.release_hold("h").unwrap();
    admin.release_lock(Scope::Archive, "l").unwrap();
    admin.delete(Scope::Node("n"), days(9)).unwrap();
    admin.undelete(Scope::Node("n")).unwrap();
    admin.confirm_clock().unwrap();
    let restorer = fixture.archive.restorer(Actor { name: "bob".into(), reason: "drill".into() });
    let dir = tempfile::tempdir().unwrap();
    restorer
        .restore("n", at(2))
        .unwrap()
        .options(single())
        .into_dir(dir.path().join("out"))
        .unwrap();
    std::fs::create_dir(dir.path().join("file")).unwrap();
    let found = kinds(&fixture.archive);
    let expected = [
        "archive-created",
        "node-created",
        "writer-opened",
        "retention-changed",
        "lock-placed",
        "hold-placed",
        "hold-released",
        "lock-released",
        "deleted",
        "undeleted",
        "clock-confirmed",
        "restore-started",
        "restore-finished",
    ];
    assert_eq!(found, expected);
    let entries: Vec<_> = fixture.archive.audit().unwrap().map(Result::unwrap).collect();
    assert!(entries[3..11].iter().all(|e| e.actor.name == "ada"));
    let json = entries[3].to_json();
    assert!(json.starts_with("{\"sequence\":4,\"time\":\"2026-"), "{json}");
    assert!(
        json.contains(
            "\"actor\":\"ada\",\"reason\":\"ticket \\\"12\\\"\",\"event\":\"retention-changed\""
        ),
        "{json}"
    );
    assert!(json.contains("\"mode\":\"continuous\",\"window_seconds\":604800"), "{json}");
    let started = &entries[11];
    assert_eq!(started.actor.name, "bob");
    let text = started.to_string();
    assert!(text.contains("target=\"LSN 2\"") && text.contains("out\""), "{text}");
    assert!(entries[12].to_json().contains("\"ok\":true"), "{}", entries[12].to_json());
    assert_eq!(fixture.archive.verify_audit().unwrap(), 13);
}

/// A place that takes nothing.
struct Refuses;

impl Refuses {
    fn open() -> rewound::Result<Refuses> {
        Err(Error::host("no room"))
    }
}

impl rewound::PageSink for Refuses {
    fn write(&self, _: rewound::SpaceId, _: u64, _: &[u8]) -> rewound::Result<()> {
        Ok(())
    }
    fn finish(self) -> rewound::Result<()> {
        Ok(())
    }
}

#[test]
fn a_restore_that_fails_is_told_and_one_that_cannot_be_told_is_refused() {
    let mut fixture = Fixture::new();
    fixture.live(1, 3);
    fixture.node.build_snapshot(&Target::Latest, &super::compact()).unwrap();
    assert!(fixture.node.restore(at(1)).into_sink(|_| Refuses::open()).is_err());
    let last = fixture.archive.audit().unwrap().last().unwrap().unwrap();
    assert!(
        last.to_json().contains("\"ok\":false,\"error\":\"host: no room\""),
        "{}",
        last.to_json()
    );
    // The storage takes nothing more: no restore but one that says that it goes unrecorded.
    fixture.storage.set_capacity(Some(0));
    let refused = fixture.node.restore(at(1)).into_memory();
    let Err(Error::Unrecorded { source, .. }) = refused else { panic!("{refused:?}") };
    assert!(matches!(*source, Error::DiskFull { .. }), "{source}");
    fixture.node.restore(at(1)).unaudited().into_memory().unwrap();
}

fn damage(result: rewound::Result<u64>) -> Damage {
    match result {
        Err(Error::Damaged(damage)) => *damage,
        other => panic!("{other:?}"),
    }
}

fn open(storage: &MemStorage, fixture: &Fixture) -> rewound::Result<Archive> {
    Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&fixture.clock, 7))
}

#[test]
fn attestations_show_what_was_taken_back() {
    let mut fixture = Fixture::new();
    fixture.live(1, 3);
    let old = fixture.storage.fork();
    let attested = fixture.archive.attestation().unwrap();
    fixture.archive.verify_since(&attested).unwrap();
    fixture.live(1, 3);
    fixture.admin().set_retention(Scope::Archive, &Policy::days(7)).unwrap();
    fixture.archive.verify_since(&attested).unwrap();
    let text = fixture.archive.attestation().unwrap().to_string();
    let later: Attestation = text.parse().unwrap();
    fixture.archive.verify_since(&later).unwrap();
    assert_eq!(fixture.archive.id(), later.archive);

    // An older copy of everything.
    let restored = open(&old, &fixture).unwrap();
    restored.verify_since(&attested).unwrap();
    let back = restored.verify_since(&later);
    assert!(
        matches!(back, Err(Error::AttestationMismatch { reason: "the catalog was put back", .. })),
        "{back:?}"
    );
    // Which goes on, so that it has as many entries again.
    restored.administrator(actor()).set_retention(Scope::Archive, &Policy::days(35)).unwrap();
    let other = restored.verify_since(&later);
    assert!(
        matches!(
            other,
            Err(Error::AttestationMismatch { reason: "the catalog was rewritten", .. })
        ),
        "{other:?}"
    );
    // The log alone.
    let image = fixture.storage.fork();
    let files = fixture.storage.files();
    let cut = MemStorage::without_recording();
    // The newest one holds a tick alone.
    let newest: Vec<_> = files.keys().filter(|p| p.ends_with(".seg")).rev().take(2).collect();
    for (path, bytes) in image.files().iter().filter(|(p, _)| !newest.contains(p)) {
        cut.set_file(path, bytes.clone());
    }
    let archive = open(&cut, &fixture).unwrap();
    let cut = archive.verify_since(&later);
    assert!(
        matches!(cut, Err(Error::AttestationMismatch { reason: "a log was put back", .. })),
        "{cut:?}"
    );
    // Another archive.
    let other = Fixture::on(MemStorage::without_recording());
    let options = archive_options(&other.clock, 99);
    let third = Archive::create_in(Arc::new(MemStorage::new()), key(), options).unwrap();
    assert!(matches!(
        third.verify_since(&later),
        Err(Error::AttestationMismatch { reason: "another archive", .. })
    ));
}

#[test]
fn the_whole_chain_is_proven_and_not_only_what_a_checkpoint_needs() {
    let mut fixture = Fixture::new();
    fixture.live(1, 1);
    for i in 0..300 {
        fixture.admin().lock(Scope::Archive, &format!("l{i}")).unwrap();
    }
    let path = |n: u64| format!("catalog/00000000/{n:016x}.entry");
    let mut bytes = fixture.storage.files()[&path(20)].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fixture.storage.set_file(&path(20), bytes);
    // Opening reads from the checkpoint on, and does not see it.
    let archive = open(&fixture.storage, &fixture).unwrap();
    assert!(damage(archive.verify_audit()).path.contains("14.entry"));
    // One entry in the place of another.
    fixture.storage.set_file(&path(20), fixture.storage.files()[&path(21)].clone());
    damage(archive.verify_audit());
}
