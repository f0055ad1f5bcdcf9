//! Timelines that were left, and nodes that were branched off: what they stand on stays.

use rewound::{
    Archive, Blocked, Durability, Error, Lsn, Node, Origin, PageId, Policy, Reason, Scope, Target,
    TimelineId, Timestamp, VerifyOptions, bench_support,
};

use super::{Fixture, HOUR, at, compact, days, image, options};
use crate::ledger::single;
use crate::support::quiet;

fn on(timeline: u32, lsn: u64) -> Target {
    Target::OnTimeline(TimelineId::new(timeline), Lsn::new(lsn).unwrap())
}

fn verified(archive: &Archive) {
    let report = archive.verify(&VerifyOptions::default(), &mut |_| {}).unwrap();
    assert!(report.is_intact(), "{:?}", report.findings);
}

#[test]
fn a_fork_fences_the_writer_and_each_time_is_answered_where_it_was_written() {
    let mut fixture = Fixture::new();
    fixture.live(1, 6);
    let left = fixture.now();
    let old = (fixture.commits.clone(), fixture.model(6));
    assert_eq!(bench_support::fork(&fixture.node, &at(4)).unwrap(), TimelineId::new(2));
    let writer = fixture.writer.take().unwrap();
    let mut batch = writer.batch();
    batch.write_page(PageId::new(writer.space("s").unwrap(), 0), &image(9), None).unwrap();
    let fenced = batch.commit(Durability::Synced);
    assert!(matches!(fenced, Err(Error::Fenced { .. })), "{fenced:?}");
    drop(writer);
    // As long as nothing was written to the new timeline, the fork is its newest commit.
    assert_eq!(fixture.node.window().unwrap().latest.lsn.get(), 4);
    assert_eq!(fixture.node.resolve(&Target::Time(old.0[&6].0)).unwrap().lsn.get(), 6);
    verified(&fixture.archive);

    fixture.clock.advance(2 * HOUR);
    drop(fixture.commits.split_off(&5));
    fixture.open();
    fixture.writer().tick().unwrap();
    let begun = fixture.now();
    fixture.clock.advance(HOUR);
    for _ in 0..3 {
        fixture.commit();
        fixture.clock.advance(HOUR);
    }
    let named = |time: Timestamp| {
        fixture.node.resolve(&Target::Time(time)).map(|r| (r.timeline.get(), r.lsn.get()))
    };
    for (lsn, (time, _)) in &old.0 {
        assert_eq!(named(*time).unwrap(), (1, *lsn));
    }
    for (lsn, (time, _)) in fixture.commits.range(5..) {
        assert_eq!(named(*time).unwrap(), (2, *lsn));
    }
    assert_eq!(named(left).unwrap(), (1, 6));
    // Nobody knows of the time in between.
    for unknown in [left.as_nanos() + 1, begun.as_nanos()].map(Timestamp::from_nanos) {
        assert!(
            matches!(named(unknown), Err(Error::AfterDurableEnd { .. })),
            "{:?}",
            named(unknown)
        );
    }
    assert_eq!(named(Timestamp::from_nanos(begun.as_nanos() + 1)).unwrap(), (2, 4));
    assert_eq!(fixture.restore(on(1, 6)).unwrap(), (6, old.1));
    assert_eq!(fixture.restore(on(2, 7)).unwrap(), (7, fixture.model(7)));
    assert_eq!(fixture.restore(at(7)).unwrap(), (7, fixture.model(7)));
    assert!(matches!(fixture.restore(on(1, 7)), Err(Error::AfterDurableEnd { .. })));
    assert!(matches!(fixture.restore(on(3, 1)), Err(Error::TargetNotFound { .. })));
    // Two states of which neither leads to the other are compared whole.
    let diff = fixture.node.diff(&on(1, 6), &at(6), &single()).unwrap();
    assert!(diff.spaces.is_empty(), "each commit writes its number: {diff:?}");
    let diff = fixture.node.diff(&on(1, 6), &at(7), &single()).unwrap();
    let pages: Vec<_> = diff.spaces.values().flat_map(|s| s.pages.clone()).collect();
    assert_eq!(pages, [(7, 7)], "{diff:?}");
    fixture.node.maintain(&compact()).unwrap();
    verified(&fixture.archive);
}

fn state_of(node: &Node) -> (u64, Vec<u8>) {
    let (report, mut spaces) =
        node.restore(Target::Latest).options(single()).into_memory().unwrap();
    (report.lsn.get(), spaces.remove("s").unwrap())
}

#[test]
fn what_a_branch_stands_on_stays_in_the_node_that_it_came_from() {
    let mut fixture = Fixture::new();
    fixture.admin().set_retention(Scope::Archive, &Policy::days(2)).unwrap();
    fixture.live(3, 4);
    let branch = fixture.archive.create_node("b", Origin::Existing).unwrap();
    bench_support::branch(&fixture.node, &at(9), &branch).unwrap();
    let expected = (9, fixture.model(9));
    // Read by name, a branch is an archive of its own; whoever reads it holds what is its parent's
    // too.
    let mut leased = 0;
    let restore = branch.restore(Target::Latest).options(single()).progress(|_| {
        let of = |node: &str| {
            fixture.storage.files().keys().any(|p| p.starts_with(&format!("leases/{node}-")))
        };
        leased += usize::from(of("00000001") && of("00000002"));
    });
    let (report, _) = restore.into_memory().unwrap();
    assert_eq!((report.lsn.get(), leased > 0), (9, true));
    for _ in 0..6 {
        fixture.live(2, 4);
        fixture.node.maintain(&compact()).unwrap();
        fixture.sweep();
        assert_eq!(state_of(&branch), expected);
    }
    assert!(matches!(fixture.restore(at(8)), Err(Error::BeforeWindow { .. })));
    let plans = fixture.admin().plan_expiry(&options()).unwrap();
    let kept = plans.iter().flat_map(|(_, plan)| &plan.kept).flat_map(|k| &k.reasons);
    assert!(
        kept.clone().any(|r| *r == Reason::BranchedNode("b".into())),
        "{:?}",
        kept.collect::<Vec<_>>()
    );
    verified(&fixture.archive);

    // It is deleted and does not go.
    fixture.admin().delete(Scope::Node("n"), days(7)).unwrap();
    for _ in 0..4 {
        fixture.clock.advance(2 * 24 * HOUR);
        let report = fixture.admin().sweep(&options()).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(state_of(&branch), expected);
        let blocked = report.nodes.iter().find(|n| n.node == "n").unwrap().plan.blocked.clone();
        assert!(matches!(blocked, Some(Blocked::Deleted(_) | Blocked::Branched(_))), "{blocked:?}");
    }

    // Once the branch stands on a snapshot of its own, nothing is left to wait for.
    let writer = branch.open_writer_with(quiet()).unwrap();
    let space = writer.space("s").unwrap();
    for n in 0..8 {
        fixture.clock.advance(24 * HOUR);
        let mut batch = writer.batch();
        batch.write_page(PageId::new(space, 0), &image(100 + n), None).unwrap();
        batch.commit(Durability::Synced).unwrap();
        writer.rotate_segment().unwrap();
        if n == 2 {
            branch.build_snapshot(&Target::Latest, &compact()).unwrap();
        }
        fixture.sweep();
    }
    assert!(fixture.archive.node("n").is_err(), "nothing stands on it any more");
    let mut last = expected.1;
    last[..512].copy_from_slice(&image(107));
    assert_eq!(state_of(&branch), (17, last));
    for _ in 0..2 {
        fixture.clock.advance(2 * 24 * HOUR);
        fixture.sweep();
    }
    assert!(
        !fixture.storage.files().keys().any(|p| p.starts_with("nodes/00000001/wal/")),
        "its log is gone"
    );
    assert_eq!(state_of(&branch).0, 17);
}
