//! What a promise keeps, it keeps to its date: however little of it is left, and however often is
//! swept until then.

use std::time::Duration;

use rewound::{Error, HoldTarget, Policy, Scope, Target};

use super::{DAY, Fixture, HOUR, at, compact, days, options};

const MINUTE: u64 = HOUR / 60;

/// Sweeps three times within an hour: with each sweep less is left to tell times from.
fn sweep_thrice(fixture: &Fixture) {
    for _ in 0..3 {
        fixture.clock.advance(20 * MINUTE);
        fixture.writer().tick().unwrap();
        fixture.sweep();
    }
}

fn gone(fixture: &Fixture, lsn: u64, what: &str) {
    let result = fixture.restore(at(lsn));
    assert!(
        matches!(result, Err(Error::BeforeWindow { .. })),
        "{what}: {:?}",
        result.map(|(lsn, _)| lsn)
    );
}

/// One commit from before the first policy counts as promised for 35 days. A snapshot is all that
/// is left of it after the first sweep.
#[test]
fn a_promise_of_which_a_snapshot_is_left_keeps_its_date() {
    let mut fixture = Fixture::new();
    fixture.commit();
    fixture.writer().rotate_segment().unwrap();
    fixture.node.build_snapshot(&at(1), &compact()).unwrap();
    fixture.clock.advance(HOUR);
    let set = fixture.now();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(1)).unwrap();
    let mut alone = false;
    while fixture.now() < set.saturating_add(days(35)).saturating_sub(Duration::from_nanos(DAY)) {
        fixture.live(1, 3);
        sweep_thrice(&fixture);
        fixture
            .check(1, &format!("{} of 35 days", (fixture.now().as_nanos() - set.as_nanos()) / DAY));
        alone |= fixture.node.restorable_ranges().unwrap()[0].to.lsn.get() == 1;
    }
    assert!(alone, "it was kept as a single commit");
    fixture.live(2, 3);
    sweep_thrice(&fixture);
    gone(&fixture, 1, "after 35 days");
}

/// A policy is shortened; the last commit under the longer one ends up alone, on a snapshot.
#[test]
fn a_promise_under_a_policy_that_was_shortened_keeps_its_date() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(10)).unwrap();
    for _ in 0..12 {
        fixture.live(1, 2);
        fixture.sweep();
    }
    let last = *fixture.commits.last_key_value().unwrap().0;
    fixture.node.build_snapshot(&at(last), &compact()).unwrap();
    fixture.clock.advance(12 * HOUR);
    let set = fixture.now();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(1)).unwrap();
    // Nothing is committed for a while: what the longer policy promised last is one commit in the
    // end.
    let until = set.saturating_add(days(10)).saturating_sub(Duration::from_nanos(4 * HOUR));
    let mut alone = false;
    while fixture.now() < until {
        fixture.clock.advance(3 * HOUR);
        fixture.commit();
        fixture.writer().rotate_segment().unwrap();
        fixture.writer().tick().unwrap();
        fixture.sweep();
        fixture.clock.advance(20 * MINUTE);
        fixture.writer().tick().unwrap();
        fixture.sweep();
        fixture.check(last, "promised for ten days");
        alone |= fixture.node.restorable_ranges().unwrap()[0].from.lsn.get() == last;
    }
    assert!(alone, "it was kept as a single commit");
    fixture.live(1, 3);
    sweep_thrice(&fixture);
    gone(&fixture, last, "after ten days");
}

/// Single commits that restore points and holds kept, far apart: a longer policy takes all of them
/// under its promise, and so does the one after it.
#[test]
fn single_commits_come_under_every_promise_that_reaches_them() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(1)).unwrap();
    let singles = [4, 9, 14];
    for lsn in singles {
        fixture.live(1, 5);
        fixture.node.build_snapshot(&at(lsn), &compact()).unwrap();
        let on = HoldTarget::Commits { node: "n", from: at(lsn), to: Some(at(lsn)) };
        fixture.admin().hold(&format!("h{lsn}"), &on, None).unwrap();
        fixture.sweep();
    }
    for _ in 0..3 {
        fixture.live(1, 5);
        sweep_thrice(&fixture);
    }
    for lsn in singles {
        let stretches = fixture.node.restorable_ranges().unwrap();
        assert!(
            stretches.iter().any(|s| (s.from.lsn.get(), s.to.lsn.get()) == (lsn, lsn)),
            "{lsn}: {stretches:?}"
        );
        gone(&fixture, lsn + 1, "between them");
    }
    // Long enough for all of them, and then short again: they keep the date that the long one gave
    // them.
    fixture.admin().set_retention(Scope::Archive, &Policy::days(15)).unwrap();
    let set = fixture.now();
    fixture.clock.advance(MINUTE);
    fixture.admin().set_retention(Scope::Archive, &Policy::days(1)).unwrap();
    for lsn in singles {
        fixture.admin().release_hold(&format!("h{lsn}")).unwrap();
    }
    while fixture.now() < set.saturating_add(days(18)) {
        fixture.live(1, 5);
        sweep_thrice(&fixture);
        let begins = fixture.now().saturating_sub(days(15));
        for lsn in singles.into_iter().filter(|lsn| fixture.commits[lsn].0 >= begins) {
            fixture.check(lsn, "promised for fifteen days");
        }
        for lsn in &singles[..2] {
            // The last single one is the state as of the beginning for as long as the promise goes
            // on.
            let next = singles.iter().find(|other| *other > lsn).unwrap();
            if fixture.commits[next].0 < begins {
                gone(&fixture, *lsn, "its time is over");
            }
        }
    }
    for lsn in singles {
        gone(&fixture, lsn, "all of them are over");
    }
}

/// A plan that was carried out has nothing more to let go at the same time, whatever is left to
/// tell times from.
#[test]
fn a_sweep_at_the_same_time_has_nothing_more_to_do() {
    for seed in 0..6 {
        let mut fixture = Fixture::seeded(100 + seed);
        fixture.live(3, 2);
        fixture.node.build_snapshot(&at(1 + seed), &compact()).unwrap();
        fixture.admin().set_retention(Scope::Archive, &Policy::days(4)).unwrap();
        let (mut counted, mut kept) = (0, None);
        for day in 0..45 {
            fixture.live(1, 2);
            if day == 6 {
                fixture.admin().set_retention(Scope::Archive, &Policy::days(1)).unwrap();
            }
            if day % 9 == 4 {
                fixture.node.build_snapshot(&Target::Latest, &compact()).unwrap();
            }
            let first = fixture.sweep();
            for _ in 0..2 {
                let again = fixture.sweep();
                assert!(again.nodes[0].plan.is_empty(), "seed {seed}, day {day}: {again:?}");
                assert_eq!(
                    fixture.admin().plan_expiry(&options()).unwrap()[0].1.kept,
                    again.nodes[0].plan.kept
                );
            }
            counted += usize::from(!first.nodes[0].plan.is_empty());
            kept = Some(fixture.node.restorable_ranges().unwrap());
        }
        assert!(counted > 5 && kept.is_some(), "{counted} sweeps let something go");
    }
}
