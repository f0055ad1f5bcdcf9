//! As many spaces as a node may have: what is done to one costs no more for the others.

use std::time::{Duration, Instant};

use rewound::{ConfigScope, Durability, Error, Origin, PageId, PageSize, SpaceId, Target};

use crate::ledger::single;
use crate::support::{TestClock, memory_archive, quiet};

/// The limit.
const MOST: u32 = 65_536;
/// Far more than any of this takes, and far less than it takes where each step looks at all spaces.
const BOUND: Duration = Duration::from_secs(60);

#[test]
fn as_many_spaces_as_there_can_be() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = quiet();
    options.segment_bytes = 1 << 30;
    let writer = node.open_writer_with(options.clone()).unwrap();
    let begun = Instant::now();
    let within = |what: &str| assert!(begun.elapsed() < BOUND, "{what}: {:?}", begun.elapsed());

    // One by one, each its own commit, ...
    let half = MOST / 2;
    for n in 0..half {
        let mut batch = writer.batch();
        batch.create_space(&format!("space {n}"), PageSize::MIN).unwrap();
        batch.commit(Durability::Buffered).unwrap();
        if n % 1_000 == 0 {
            within("created one by one");
        }
    }
    within("created one by one");
    // ... and all the others at once.
    let mut batch = writer.batch();
    for n in half..MOST {
        let space = batch.create_space(&format!("space {n}"), PageSize::MIN).unwrap();
        assert_eq!(space, SpaceId::new(n));
    }
    assert!(matches!(
        batch.create_space("one more", PageSize::MIN),
        Err(Error::LimitExceeded { .. })
    ));
    batch.commit(Durability::Synced).unwrap();
    within("created at once");
    assert!(matches!(
        writer.batch().create_space("one more", PageSize::MIN),
        Err(Error::LimitExceeded { .. })
    ));

    // What every commit of some engine does, with all of them there.
    for n in 0..20_000u32 {
        let mut batch = writer.batch();
        let gone = SpaceId::new(n);
        batch.drop_space(gone).unwrap();
        let new = batch.create_space(&format!("again {n}"), PageSize::MIN).unwrap();
        batch.write_page(PageId::new(new, 0), &[7; 512], None).unwrap();
        batch.mark(&n.to_be_bytes()).unwrap();
        batch
            .set_config(&format!("key {}", n % 9_000), &n.to_be_bytes(), ConfigScope::Data)
            .unwrap();
        batch.commit(Durability::Buffered).unwrap();
        assert_eq!(writer.space(&format!("again {n}")), Some(new));
        if n % 1_000 == 0 {
            within("changed one by one");
        }
    }
    writer.flush().unwrap();
    within("changed one by one");
    drop(writer);
    let writer = node.open_writer_with(options.clone()).unwrap();
    within("recovered");
    let newest = writer.newest();
    let (report, spaces) = node.restore(Target::Latest).options(single()).into_memory().unwrap();
    within("restored");
    assert_eq!((Some(report.lsn), spaces.len()), (newest.lsn(), MOST as usize));
    assert!((0..20_000).all(|n| spaces[&format!("again {n}")] == [7; 512]));
    assert!((20_000..MOST).all(|n| spaces[&format!("space {n}")].is_empty()));

    // A batch that holds pages of many spaces, cuts and drops them all.
    let mut batch = writer.batch();
    let all: Vec<SpaceId> = (0..MOST).filter_map(|n| writer.space(&format!("space {n}"))).collect();
    for space in &all {
        batch.write_page(PageId::new(*space, 0), &[1; 512], None).unwrap();
    }
    for space in &all {
        batch.set_length(*space, 0).unwrap();
        batch.drop_space(*space).unwrap();
    }
    batch.commit(Durability::Synced).unwrap();
    within("dropped at once");
    let (_, spaces) = node.restore(Target::Latest).options(single()).into_memory().unwrap();
    assert_eq!(spaces.len(), 20_000);
    within("restored again");
}

/// Many small configuration values, up to their limit.
#[test]
fn as_many_configuration_values_as_there_can_be() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    let begun = Instant::now();
    let mut batch = writer.batch();
    // 8 bytes a key.
    for n in 0..131_072u32 {
        batch.set_config(&format!("k{n:07x}"), b"", ConfigScope::Data).unwrap();
    }
    assert!(matches!(
        batch.set_config("more", b"", ConfigScope::Data),
        Err(Error::LimitExceeded { .. })
    ));
    batch.commit(Durability::Synced).unwrap();
    assert!(matches!(
        writer.batch().set_config("more", b"", ConfigScope::Data),
        Err(Error::LimitExceeded { .. })
    ));
    for n in 0..20_000u32 {
        let mut batch = writer.batch();
        batch.remove_config(&format!("k{n:07x}")).unwrap();
        batch.set_config(&format!("l{n:07x}"), b"", ConfigScope::Data).unwrap();
        batch.commit(Durability::Buffered).unwrap();
    }
    writer.flush().unwrap();
    let (report, _) = node.restore(Target::Latest).options(single()).into_memory().unwrap();
    assert_eq!(report.config.len(), 131_072);
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
}
