//! A thousand days in the life of an archive: commits, sweeps, holds, policies, crashes, clocks
//! that jump. After each day random commits are restored that have to be there, and what is kept
//! must not grow without bound.
//!
//! `REWOUND_SOAK_DAYS` makes it longer, `REWOUND_SOAK_SEED` another one.

use std::collections::BTreeSet;
use std::sync::Arc;

use rewound::storage::{CrashPlan, MemStorage, Unsynced};
use rewound::{Archive, Error, HoldTarget, Policy, Scope, Target, Timestamp};

use super::{DAY, Fixture, HOUR, at, compact, days, options};
use crate::support::{archive_options, key};

/// `SplitMix64`: every run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

/// What was promised, as the test keeps it.
struct Promises {
    /// Window in days, from when on, and up to which commits the one before counts.
    windows: Vec<(u64, Option<Timestamp>)>,
    points_for: u64,
    points: Vec<(String, u64)>,
    holds: Vec<(String, u64, u64)>,
    /// Nothing is asked of what was wanted at one time and then was not: this is the earliest
    /// commit that has been promised throughout.
    dropped: BTreeSet<u64>,
}

impl Promises {
    /// Whether a commit has to be restorable now.
    fn wants(&self, fixture: &Fixture, lsn: u64, archived: Timestamp) -> bool {
        let (time, _) = fixture.commits[&lsn];
        // The state as of the beginning of the window is that of the last commit before it.
        let lives_until =
            fixture.commits.get(&(lsn + 1)).map_or(Timestamp::from_nanos(u64::MAX), |(t, _)| *t);
        let window = self.windows.iter().any(|(window, until)| {
            let begins = archived.saturating_sub(days(*window));
            // A promise speaks of times up to when the next one took its place, and is over when
            // all of them are.
            until.is_none_or(|until| time <= until && begins <= until) && lives_until > begins
        });
        let point = self.points.iter().any(|(_, p)| *p == lsn)
            && time.saturating_add(days(self.points_for)) > archived;
        window || point || self.holds.iter().any(|(_, from, to)| (*from..=*to).contains(&lsn))
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Replaces the archive by what a crash leaves of it.
fn crash(fixture: &mut Fixture, storage: MemStorage, seed: u64) {
    fixture.writer = None;
    fixture.storage = storage;
    let options = archive_options(&fixture.clock, seed);
    fixture.archive = Archive::open_in(Arc::new(fixture.storage.clone()), key(), options).unwrap();
    fixture.node = fixture.archive.node("n").unwrap();
    fixture.open();
}

#[test]
#[expect(clippy::too_many_lines, reason = "a day from morning to night")]
fn a_thousand_days() {
    let (length, seed) = (number("REWOUND_SOAK_DAYS", 1_000), number("REWOUND_SOAK_SEED", 1));
    let mut dice = Dice(seed);
    let mut fixture = Fixture::new();
    let mut promises = Promises {
        windows: Vec::new(),
        points_for: 30,
        points: Vec::new(),
        holds: Vec::new(),
        dropped: BTreeSet::default(),
    };
    // A few commits from before the first policy, which count as promised for 35 days. In the end a
    // snapshot is all that is left of them.
    for _ in 0..=dice.roll(3) {
        fixture.clock.advance(HOUR);
        fixture.commit();
    }
    let last = *fixture.commits.last_key_value().unwrap().0;
    fixture.node.build_snapshot(&at(last), &compact()).unwrap();
    fixture.clock.advance(HOUR * dice.roll(30));
    fixture
        .admin()
        .set_retention(Scope::Archive, &Policy::days(7).restore_points_for(days(30)))
        .unwrap();
    promises.windows.extend([(35, Some(fixture.now())), (7, None)]);
    let (mut largest, mut held, mut crashes, mut refusals, mut checked, mut confirmed) =
        (0, 0, 0, 0, 0, 0);
    for day in 0..length {
        let what = format!("day {day} of seed {seed}");
        for n in 0..=dice.roll(6) {
            fixture.clock.advance(HOUR * (1 + dice.roll(3)));
            if dice.one_in(25) {
                let name = format!("p-{day}-{n}");
                let lsn = fixture.commit_as(Some(&name));
                promises.points.push((name, lsn));
            } else {
                fixture.commit();
            }
        }
        if dice.one_in(3) {
            fixture.writer().rotate_segment().unwrap();
        }
        let midnight = (fixture.now().as_nanos() / DAY + 1) * DAY;
        fixture.clock.set(midnight);
        fixture.writer().tick().unwrap();
        if dice.one_in(4) {
            fixture.node.maintain(&compact()).unwrap();
        }

        // Policies and holds come and go.
        if dice.one_in(40) {
            let window = [3, 7, 10, 20][dice.roll(4) as usize];
            if dice.one_in(2) {
                // The last commit that the policy until now speaks of will stand alone one day.
                let last = *fixture.commits.last_key_value().unwrap().0;
                fixture.node.build_snapshot(&at(last), &compact()).unwrap();
                fixture.clock.advance(HOUR);
                fixture.writer().tick().unwrap();
            }
            fixture
                .admin()
                .set_retention(
                    Scope::Archive,
                    &Policy::days(window as u32).restore_points_for(days(30)),
                )
                .unwrap();
            let now = fixture.now();
            promises.windows.last_mut().unwrap().1 = Some(now);
            promises.windows.push((window, None));
        }
        if dice.one_in(15) {
            let last = *fixture.commits.last_key_value().unwrap().0;
            let from = last - dice.roll(last.min(20));
            let to = (from + dice.roll(8)).min(last);
            if !promises.dropped.contains(&from) && !promises.dropped.contains(&to) {
                let name = format!("h-{day}");
                let on = HoldTarget::Commits { node: "n", from: at(from), to: Some(at(to)) };
                fixture.admin().hold(&name, &on, None).unwrap_or_else(|e| panic!("{what}: {e}"));
                promises.holds.push((name, from, to));
            }
        }
        if dice.one_in(20) && !promises.holds.is_empty() {
            let which = dice.roll(promises.holds.len() as u64) as usize;
            let (name, ..) = promises.holds.remove(which);
            fixture.admin().release_hold(&name).unwrap();
        }

        // The clock jumps by ten years, ahead or back: a sweep is refused, and nothing goes.
        if dice.one_in(30) {
            let now = fixture.now().as_nanos();
            let years = 3_650 * DAY;
            fixture.clock.set(if dice.one_in(2) { now + years } else { now - years });
            let refused = fixture.admin().sweep(&options());
            assert!(matches!(refused, Err(Error::ClockImplausible { .. })), "{what}: {refused:?}");
            refusals += 1;
            fixture.clock.set(now);
        }

        // The sweep, on most days; sometimes it dies in the middle.
        if !dice.one_in(5) {
            if dice.one_in(3) {
                let plan = match dice.roll(3) {
                    0 => Unsynced::LostAll,
                    1 => Unsynced::KeptAll,
                    _ => Unsynced::Seeded(dice.roll(u64::MAX)),
                };
                fixture.storage.crash_after(dice.roll(60) as usize);
                let report = fixture.admin().sweep(&options());
                let whole = report.is_ok_and(|r| r.failed.is_empty());
                if whole && !fixture.storage.is_crashed() {
                    // It had less to do than it was given time for.
                    fixture.storage.crash_after(0);
                    let _ = fixture.writer().tick();
                }
                let storage = &fixture.storage;
                let image = storage
                    .crash_image(CrashPlan { at: storage.operation_count(), unsynced: plan });
                // What is kept is no more durable than before; here it is to stand for a death of
                // the process alone.
                crash(&mut fixture, image, seed + day);
                crashes += 1;
            } else {
                let admin = fixture.admin();
                // Several sweeps in a row may have died: then the last that is known of the clock
                // is too long ago.
                if matches!(admin.sweep(&options()), Err(Error::ClockImplausible { .. })) {
                    admin.confirm_clock().unwrap();
                    confirmed += 1;
                }
                fixture.sweep();
                // Again and again: each finds less to tell times from.
                for _ in 0..dice.roll(3) {
                    fixture.clock.advance(HOUR / 3);
                    fixture.writer().tick().unwrap();
                    fixture.sweep();
                }
            }
        }

        // What was given up is not asked for again, even where a longer policy would want it.
        let archived = fixture.now();
        for lsn in fixture.commits.keys().copied().collect::<Vec<_>>() {
            if !promises.dropped.contains(&lsn) && !promises.wants(&fixture, lsn, archived) {
                promises.dropped.insert(lsn);
            }
        }
        let wanted: Vec<u64> =
            fixture.commits.keys().copied().filter(|l| !promises.dropped.contains(l)).collect();
        for lsn in wanted.iter().skip(dice.roll(4) as usize).step_by(4) {
            let resolved = fixture.node.resolve(&at(*lsn));
            assert!(resolved.is_ok(), "{what}: LSN {lsn} is wanted: {resolved:?}");
        }
        for _ in 0..2 {
            fixture.check(wanted[dice.roll(wanted.len() as u64) as usize], &what);
            checked += 1;
        }
        fixture.check(wanted[0], &what);
        // A time within the window, at random.
        let time = archived
            .saturating_sub(days(3))
            .saturating_add(std::time::Duration::from_nanos(dice.roll(3 * DAY)));
        if let Some(lsn) = fixture.at_time(time) {
            let (found, bytes) = fixture
                .restore(Target::Time(time))
                .unwrap_or_else(|e| panic!("{what}: {time}: {e}"));
            assert!(found == lsn && bytes == fixture.model(lsn), "{what}: at {time}");
        }
        // Before what is kept there is an error or the exact commit, never another one.
        let old = 1 + dice.roll(*fixture.commits.last_key_value().unwrap().0);
        let time = fixture.commits[&old].0;
        match fixture.restore(Target::Time(time)) {
            Ok((found, bytes)) => {
                assert!(found == old && bytes == fixture.model(old), "{what}: LSN {old} by time");
            }
            Err(Error::BeforeWindow { .. }) => {
                assert!(promises.dropped.contains(&old), "{what}: LSN {old}");
            }
            Err(e) => panic!("{what}: LSN {old} by its time: {e}"),
        }
        let bytes: usize = fixture
            .storage
            .files()
            .iter()
            .filter(|(p, _)| p.starts_with("nodes/"))
            .map(|(_, b)| b.len())
            .sum();
        // Each hold keeps a few segments and a snapshot to stand on, and over the years they become
        // more.
        largest = largest.max(bytes.saturating_sub(promises.holds.len() * 8_000));
        held = held.max(promises.holds.len());
    }
    // Folded from the first entry on it is what a checkpoint and what came since say.
    let image = fixture.storage.fork();
    for path in image.files().into_keys().filter(|p| p.ends_with(".checkpoint")) {
        rewound::storage::BlobStore::delete(&image, &path).unwrap();
    }
    let told = |storage: &MemStorage| {
        let options = archive_options(&fixture.clock, 4_711);
        let archive = Archive::open_in(Arc::new(storage.clone()), key(), options).unwrap();
        let (node, admin) = (archive.node("n").unwrap(), archive.administrator(super::actor()));
        let plan = admin.plan_expiry(&self::options()).unwrap();
        let all = (
            plan,
            admin.holds().unwrap(),
            admin.policy(Scope::Node("n")).unwrap(),
            node.window().unwrap(),
        );
        (all, node.layers().unwrap(), node.restore_points().unwrap())
    };
    assert_eq!(told(&image), told(&fixture.storage.fork()));
    let removals = fixture
        .archive
        .audit()
        .unwrap()
        .filter(|e| e.as_ref().unwrap().kind() == "files-removed")
        .count();
    let commits = fixture.commits.len();
    println!(
        "{commits} commits, {crashes} crashes, {refusals} refusals, {confirmed} confirmed, {checked} checks, {removals} removals; at most {held} holds, and {largest} bytes beside them"
    );
    assert!(removals as u64 > length / 8, "{removals} removals");
    // Twenty days of some four commits of 700 bytes, points, snapshots of 4 KiB, files of 700 bytes
    // at least.
    assert!(largest < 200_000, "{largest} bytes");
    assert!(fixture.archive.verify_audit().unwrap() > length / 2);
}
