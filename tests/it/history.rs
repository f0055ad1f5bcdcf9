//! Listing, activity, restore points afterwards, differences, bisection: what is told is what was
//! committed.

use std::collections::BTreeMap;

use rewound::options::Cancel;
use rewound::{
    ActivityOptions, CompactOptions, Durability, Error, Lsn, Node, Origin, PageId, PageSize,
    ReplayOptions, SpaceId, Target, Writer,
};

use crate::support::{TestClock, memory_archive, quiet};

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn space(writer: &Writer, batch: &mut rewound::Batch, name: &str) -> SpaceId {
    writer.space(name).unwrap_or_else(|| batch.create_space(name, PageSize::MIN).unwrap())
}

/// So many commits; number n writes n % 7 pages from page n on.
fn history(
    node: &Node,
    clock: &TestClock,
    count: u64,
    synced: impl Fn(u64) -> bool,
) -> Vec<(u64, u64)> {
    let before = node.commits(..).unwrap().remaining();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut made = Vec::new();
    for n in 1..=count {
        clock.advance(1_000_000_000);
        let mut batch = writer.batch();
        let main = space(&writer, &mut batch, "main");
        for page in 0..n % 7 {
            batch
                .write_page(
                    PageId::new(main, n % 40 + page),
                    &[n.to_le_bytes()[0].wrapping_add(1); 512],
                    None,
                )
                .unwrap();
        }
        if n % 50 == 0 {
            batch.restore_point(&format!("p{}", before + n)).unwrap();
            batch.annotate("resync", "a test").unwrap();
            batch.mark(&(before + n).to_be_bytes()).unwrap();
        }
        let durability = if synced(n) { Durability::Synced } else { Durability::Buffered };
        made.push((batch.commit(durability).unwrap().timestamp.as_nanos(), n % 7));
    }
    writer.close().unwrap();
    made
}

#[test]
fn the_listing_is_what_was_committed_from_either_end() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    assert_eq!(node.commits(..).unwrap().count(), 0);
    let mut made = history(&node, &clock, 400, |n| n % 3 == 0);
    made.extend(history(&node, &clock, 45, |_| true));
    let listed: Vec<_> = node.commits(..).unwrap().map(Result::unwrap).collect();
    let told: Vec<_> = listed.iter().map(|c| (c.timestamp.as_nanos(), c.versions)).collect();
    assert_eq!(told, made);
    assert!(
        listed.iter().zip(1..).all(|(c, n)| c.lsn == lsn(n) && (c.bytes > 0 || c.versions == 0))
    );
    assert_eq!(listed[49].restore_points, ["p50"]);
    assert_eq!(listed[49].annotations, [("resync".to_owned(), "a test".to_owned())]);
    assert_eq!(listed[49].mark.as_deref(), Some(&50u64.to_be_bytes()[..]));
    assert_eq!(listed[1].spaces.len(), 1);

    let mut backwards: Vec<_> = node.commits(..).unwrap().rev().map(Result::unwrap).collect();
    backwards.reverse();
    assert_eq!(backwards, listed);
    let numbers = |range: rewound::Result<rewound::Commits>| -> Vec<u64> {
        range.unwrap().map(|c| c.unwrap().lsn.get()).collect()
    };
    assert_eq!(numbers(node.commits(lsn(10)..lsn(13))), [10, 11, 12]);
    assert_eq!(numbers(node.commits(lsn(443)..)), [443, 444, 445]);
    assert_eq!(numbers(node.commits(lsn(444)..=lsn(9_999))), [444, 445]);
    assert_eq!(numbers(node.commits(lsn(500)..)), [] as [u64; 0]);
    // From both ends at once: every commit comes once.
    let mut both = node.commits(..).unwrap();
    assert_eq!(both.remaining(), 445);
    let mut seen = 0;
    while both.next().is_some() {
        seen += 1 + u64::from(both.next_back().is_some());
    }
    assert_eq!(seen, 445);
}

#[test]
fn damage_shows_at_its_place_in_the_listing() {
    let clock = TestClock::new();
    let (storage, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    (0..3).for_each(|_| drop(history(&node, &clock, 20, |_| true)));
    let path = storage.files().into_keys().filter(|p| p.contains("/wal/")).nth(1).unwrap();
    let mut bytes = storage.files()[&path].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    storage.set_file(&path, bytes);
    let listed: Vec<_> = node.commits(..).unwrap().collect();
    let good = listed.iter().take_while(|c| c.is_ok()).count();
    assert!((21..40).contains(&good), "{good}");
    assert!(listed[good].as_ref().unwrap_err().is_damage());
    assert_eq!(listed.len(), good + 1);
    // The newest are reached from the other end.
    let newest: Vec<_> =
        node.commits(lsn(41)..).unwrap().rev().map(|c| c.unwrap().lsn.get()).collect();
    assert_eq!(newest, (41..=60).rev().collect::<Vec<_>>());
}

#[test]
fn activity_counts_every_commit_once_however_closely_it_looks() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    (0..6).for_each(|_| drop(history(&node, &clock, 60, |_| true)));
    for (scan_bytes, samples) in [(u64::MAX, 1_024), (20_000, 1_024), (1, 2)] {
        let mut options = ActivityOptions::default();
        (options.buckets, options.scan_bytes, options.samples) = (24, scan_bytes, samples);
        let a = node.activity(&options).unwrap();
        let commits: f64 = a.buckets.iter().map(|b| b.commits).sum();
        assert!((commits - 360.0).abs() < 0.01, "{commits} with {scan_bytes}");
        let bytes: f64 = a.buckets.iter().map(|b| b.bytes).sum();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let all = a.bytes as f64;
        // What is no frame of a commit, such as seals, may be left out.
        assert!(bytes > all * 0.5 && bytes <= all * 1.01, "{bytes} of {all}");
        assert!(a.buckets.iter().all(|b| b.commits > 5.0), "spread evenly");
        assert_eq!((a.segments, a.gaps.len()), (6, 0));
        let remarks = a.annotations.iter().filter(|r| r.key == "resync").count();
        assert_eq!(remarks, if scan_bytes == u64::MAX { 6 } else { remarks });
        assert!(remarks >= 1 && a.exact_from.get() <= 300);
    }
}

#[test]
fn a_commit_can_be_named_afterwards() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    history(&node, &clock, 10, |_| true);
    // Also while a writer is at work.
    let writer = node.open_writer_with(quiet()).unwrap();
    assert_eq!(node.add_restore_point("seven", &Target::Lsn(lsn(7))).unwrap().lsn, lsn(7));
    assert_eq!(node.add_restore_point("now", &Target::Latest).unwrap().lsn, lsn(10));
    writer.close().unwrap();
    assert_eq!(
        node.restore(Target::RestorePoint("seven".into())).into_memory().unwrap().0.lsn,
        lsn(7)
    );
    let taken = node.add_restore_point("seven", &Target::Latest);
    assert!(matches!(taken, Err(Error::RestorePointExists { .. })), "{taken:?}");
    let later = node.add_restore_point("later", &Target::Lsn(lsn(11)));
    assert!(matches!(later, Err(Error::AfterDurableEnd { .. })), "{later:?}");
    assert!(matches!(
        node.add_restore_point("a/b", &Target::Latest),
        Err(Error::InvalidName { .. })
    ));
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let refused =
        batch.restore_point("seven").and_then(|()| batch.commit(Durability::Synced).map(drop));
    assert!(matches!(refused, Err(Error::RestorePointExists { .. })), "{refused:?}");
}

type Spaces = BTreeMap<String, Vec<u8>>;

/// What a comparison of the two states' bytes gives.
fn expected(a: &Spaces, b: &Spaces) -> BTreeMap<String, Vec<u64>> {
    let mut all = BTreeMap::new();
    for name in a.keys().chain(b.keys()) {
        let empty = Vec::new();
        let (x, y) = (a.get(name).unwrap_or(&empty), b.get(name).unwrap_or(&empty));
        let page = |s: &'_ [u8], n: usize| {
            s.get(n * 512..).map(|s| s[..s.len().min(512)].to_vec()).filter(|p| !p.is_empty())
        };
        let pages = x.len().max(y.len()).div_ceil(512);
        let mut found: Vec<u64> =
            (0..pages).filter(|n| page(x, *n) != page(y, *n)).map(|n| n as u64).collect();
        found.sort_unstable();
        if !found.is_empty() || a.contains_key(name) != b.contains_key(name) {
            all.insert(name.clone(), found);
        }
    }
    all
}

#[test]
fn differences_are_those_of_the_bytes() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    for round in 0..3u8 {
        let writer = node.open_writer_with(quiet()).unwrap();
        for n in 0..12u8 {
            clock.advance(1_000_000_000);
            let mut batch = writer.batch();
            let main = space(&writer, &mut batch, "main");
            batch
                .write_page(PageId::new(main, u64::from(n * 3)), &[round * 16 + n; 512], None)
                .unwrap();
            match n {
                3 => batch.set_length(main, 512 * u64::from(round + 4)).unwrap(),
                5 => {
                    let other = space(&writer, &mut batch, &format!("other{round}"));
                    batch.write_page(PageId::new(other, 2), &[9; 512], None).unwrap();
                }
                9 if round == 1 => batch.drop_space(writer.space("other0").unwrap()).unwrap(),
                _ => {}
            }
            batch.commit(Durability::Synced).unwrap();
        }
        writer.close().unwrap();
        let mut options = CompactOptions::default();
        options.layer_log_bytes = 1;
        node.maintain(&options).unwrap();
    }
    let states: Vec<Spaces> =
        (1..=36).map(|n| node.restore(Target::Lsn(lsn(n))).into_memory().unwrap().1).collect();
    for unit_bytes in [1 << 20, 1_024] {
        let mut options = ReplayOptions::default();
        options.unit_bytes = unit_bytes;
        for a in (1..=36).step_by(5) {
            for b in 1..=36 {
                let diff = node.diff(&Target::Lsn(lsn(a)), &Target::Lsn(lsn(b)), &options).unwrap();
                let found: BTreeMap<String, Vec<u64>> = diff
                    .spaces
                    .values()
                    .map(|s| (s.name.clone(), s.pages.iter().flat_map(|(f, l)| *f..=*l).collect()))
                    .collect();
                let (x, y) = (&states[a as usize - 1], &states[b as usize - 1]);
                assert_eq!(found, expected(x, y), "{a} to {b}");
                assert!(diff.spaces.values().all(|s| s.count() == found[&s.name].len() as u64));
            }
        }
    }
    let spaces = node.spaces(&Target::Lsn(lsn(20))).unwrap();
    let names: Vec<_> = spaces.values().map(|s| (s.name.as_str(), s.length)).collect();
    let restored: Vec<_> =
        states[19].iter().map(|(name, bytes)| (name.as_str(), bytes.len() as u64)).collect();
    assert_eq!(names, restored);
}

#[test]
fn a_cancelled_restore_leaves_nothing_behind() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    history(&node, &clock, 200, |_| true);
    let dir = tempfile::tempdir().unwrap();
    let mut options = ReplayOptions::default();
    (options.threads, options.unit_bytes) = (1, 1_024);
    let begun = options.clone();
    let restore = node.restore(Target::Latest).options(options).progress(|_| begun.cancel.cancel());
    assert!(matches!(restore.into_dir(dir.path().join("out")), Err(Error::Cancelled)));
    let mut options = ReplayOptions::default();
    options.cancel = Cancel::new();
    options.cancel.cancel();
    let restore = node.restore(Target::Latest).options(options.clone());
    assert!(matches!(restore.into_file(dir.path().join("file")), Err(Error::Cancelled)));
    assert!(matches!(
        node.diff(&Target::Lsn(lsn(1)), &Target::Latest, &options),
        Err(Error::Cancelled)
    ));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
