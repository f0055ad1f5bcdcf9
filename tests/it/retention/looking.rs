//! Whoever looks at a node of which a part has expired sees what is left of it, and no damage.

use rewound::{ActivityOptions, Deletion, HoldTarget, Lsn, Policy, Scope, VerifyOptions};

use super::{DAY, Fixture, at, compact, days};

/// The LSNs that can be restored, one by one.
fn restorable(fixture: &Fixture) -> Vec<u64> {
    fixture.commits.keys().copied().filter(|lsn| fixture.node.resolve(&at(*lsn)).is_ok()).collect()
}

#[test]
fn lists_draws_and_verifies_what_is_left() {
    let mut fixture = Fixture::new();
    fixture
        .admin()
        .set_retention(Scope::Archive, &Policy::days(3).restore_points_for(days(300)))
        .unwrap();
    let mut seen_expired_files = false;
    for day in 0..16_u64 {
        fixture.live(1, 5);
        if day == 4 {
            fixture.clock.advance(DAY / 10);
            fixture.commit_as(Some("release"));
        }
        if day == 6 {
            let on = HoldTarget::Commits { node: "n", from: at(29), to: Some(at(35)) };
            fixture.admin().hold("case", &on, None).unwrap();
        }
        if day % 3 == 0 {
            fixture.node.maintain(&compact()).unwrap();
        }
        fixture.sweep();
        let restorable = restorable(&fixture);
        let stretches = fixture.node.restorable_ranges().unwrap();
        let told: Vec<u64> =
            stretches.iter().flat_map(|s| s.from.lsn.get()..=s.to.lsn.get()).collect();
        assert_eq!(told, restorable, "day {day}");
        for stretch in &stretches {
            assert_eq!(
                stretch.from.timestamp,
                fixture.commits[&stretch.from.lsn.get()].0,
                "day {day}"
            );
            assert_eq!(stretch.to.timestamp, fixture.commits[&stretch.to.lsn.get()].0, "day {day}");
        }
        // Listed: all of them but those that a snapshot alone is kept of.
        let alone =
            |lsn: u64| stretches.iter().any(|s| s.from.lsn == s.to.lsn && s.from.lsn.get() == lsn);
        let list =
            |commits: rewound::Commits| commits.map(|c| c.unwrap().lsn.get()).collect::<Vec<_>>();
        let listed = list(fixture.node.commits(..).unwrap());
        assert!(
            listed.iter().all(|lsn| restorable.contains(lsn)),
            "day {day}: {listed:?} {restorable:?}"
        );
        assert!(
            restorable.iter().all(|lsn| listed.contains(lsn) || alone(*lsn)),
            "day {day}: {listed:?}"
        );
        let mut back: Vec<u64> =
            fixture.node.commits(..).unwrap().rev().map(|c| c.unwrap().lsn.get()).collect();
        back.reverse();
        assert_eq!(back, listed, "day {day}");
        let (from, to) = (Lsn::new(30).unwrap(), Lsn::new(70).unwrap());
        let part = fixture.node.commits(from..=to).unwrap();
        assert_eq!(
            part.remaining(),
            listed.iter().filter(|l| (30..=70).contains(*l)).count() as u64
        );
        assert_eq!(
            list(part),
            listed.iter().copied().filter(|l| (30..=70).contains(l)).collect::<Vec<_>>()
        );

        for scan_bytes in [64 << 20, 1] {
            let mut options = ActivityOptions::default();
            options.scan_bytes = scan_bytes;
            let activity = fixture.node.activity(&options).unwrap();
            assert!(activity.gaps.is_empty(), "day {day}: {:?}", activity.gaps);
            let commits: f64 = activity.buckets.iter().map(|b| b.commits).sum();
            let count = f64::from(u32::try_from(listed.len()).unwrap());
            if scan_bytes > 1 {
                assert!((commits - count).abs() < 0.01, "day {day}: {commits} {count}");
            }
            // Looked at by segments, what leads up to a stretch counts as well.
            assert!(commits < count + 25.0, "day {day}: {commits} {count}");
        }
        let report = fixture.node.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_intact(), "day {day}: {:?}", report.findings);
        let files = fixture.storage.files().keys().filter(|p| p.ends_with(".seg")).count() as u64;
        seen_expired_files |= report.segments < files;
    }
    assert!(seen_expired_files, "expired files that wait for their removal are not looked at");
    let stretches = fixture.node.restorable_ranges().unwrap();
    assert_eq!(stretches.len(), 3, "{stretches:?}");
    assert_eq!(fixture.node.deletion().unwrap(), Deletion::Live);

    // What is missing of what is kept is still found.
    let wal: Vec<String> =
        fixture.storage.files().into_keys().filter(|p| p.ends_with(".seg")).collect();
    let last_but_one = &wal[wal.len() - 2];
    rewound::storage::BlobStore::delete(&fixture.storage, last_but_one).unwrap();
    let report = fixture.node.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
    assert!(!report.is_intact());
    assert_eq!(fixture.node.activity(&ActivityOptions::default()).unwrap().gaps.len(), 1);
}
