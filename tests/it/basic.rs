//! The way through: write, restore, snapshot, layers, reopen.

use rewound::{
    Archive, CompactOptions, Durability, Error, KeyFile, Lsn, Node, Origin, PageId, PageSize,
    Target,
};

use crate::support::{TestClock, memory_archive, quiet};

const SIZE: usize = 512;

fn image(seed: u64) -> Vec<u8> {
    (0..SIZE).map(|i| if i < 16 { (seed >> (i % 8 * 8)) as u8 } else { (i / 7) as u8 }).collect()
}

/// Writes `commits` commits over 20 pages; gives the state after each.
fn fill(node: &Node, commits: u64, clock: &TestClock, history: &mut Vec<Vec<u8>>) {
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut state = history.last().cloned().unwrap_or_default();
    for n in 0..commits {
        clock.advance(1_000_000);
        let seed = history.len() as u64;
        let mut batch = writer.batch();
        let space = match writer.space("main") {
            Some(space) => space,
            None => batch.create_space("main", PageSize::MIN).unwrap(),
        };
        for k in 0..3 {
            let page = (seed * 7 + k * 5) % 20;
            let new = image(seed * 10 + k);
            let start = page as usize * SIZE;
            let old = state.get(start..start + SIZE).map(<[u8]>::to_vec);
            let old = old.filter(|_| n % 2 == 0 && n > 0);
            if let Err(e) = batch.write_page(PageId::new(space, page), &new, old.as_deref()) {
                panic!("{e}");
            }
            if state.len() < start + SIZE {
                state.resize(start + SIZE, 0);
            }
            state[start..start + SIZE].copy_from_slice(&new);
        }
        if seed % 11 == 10 {
            let len = SIZE as u64 * 9 + 100;
            batch.set_length(space, len).unwrap();
            state.resize(len as usize, 0);
        }
        let commit = batch
            .commit(if n % 3 == 0 { Durability::Synced } else { Durability::Buffered })
            .unwrap();
        assert_eq!(commit.lsn.get(), seed + 1);
        history.push(state.clone());
    }
    writer.close().unwrap();
}

fn check(node: &Node, history: &[Vec<u8>]) {
    for (i, state) in history.iter().enumerate() {
        let lsn = Lsn::new(i as u64 + 1).unwrap();
        let (report, spaces) = node.restore(Target::Lsn(lsn)).into_memory().unwrap();
        assert_eq!(report.lsn, lsn);
        assert!(spaces["main"] == *state, "LSN {lsn} differs");
    }
}

#[test]
fn every_commit_comes_back() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut history = Vec::new();
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 2_000;
    options.fan_out = 2;
    options.part_bytes = 4 * SIZE as u64;
    options.replay.unit_bytes = 2 * SIZE;
    options.replay.log_memory = 1;
    for round in 0..6 {
        fill(&node, 15, &clock, &mut history);
        check(&node, &history);
        if round % 2 == 1 {
            let report = node.maintain(&options).unwrap();
            assert!(report.layers > 0, "{report:?}");
            check(&node, &history);
        }
    }
    let layers = node.layers().unwrap();
    assert!(layers.iter().any(|l| l.from.is_none()), "a snapshot");
    assert!(layers.iter().any(|l| l.level > 0), "a larger layer");
}

#[test]
fn a_directory_on_disk_and_a_wrong_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.archive");
    let clock = TestClock::new();
    let archive = Archive::create(&path, KeyFile::from_bytes([1; 32])).unwrap();
    assert!(matches!(
        Archive::create(&path, KeyFile::from_bytes([1; 32])),
        Err(Error::ArchiveExists { .. })
    ));
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut history = Vec::new();
    fill(&node, 30, &clock, &mut history);
    drop((archive, node));
    assert!(matches!(
        Archive::open(&path, KeyFile::from_bytes([2; 32])),
        Err(Error::WrongKey { .. })
    ));
    assert!(matches!(
        Archive::open(dir.path().join("no"), KeyFile::from_bytes([2; 32])),
        Err(Error::NoArchive { .. })
    ));
    let archive = Archive::open(&path, KeyFile::from_bytes([1; 32])).unwrap();
    let node = archive.node("n").unwrap();
    check(&node, &history);
    let out = dir.path().join("out");
    let report = node.restore(Target::Latest).into_dir(&out).unwrap();
    assert_eq!(std::fs::read(out.join("main")).unwrap(), *history.last().unwrap());
    assert_eq!(report.lsn.get(), 30);
    assert!(matches!(
        node.restore(Target::Latest).into_dir(&out),
        Err(Error::TargetNotEmpty { .. })
    ));
    let report = node.restore(Target::Lsn(Lsn::FIRST)).delta_into_dir(&out).unwrap();
    assert!(report.bytes_written > 0);
    assert_eq!(std::fs::read(out.join("main")).unwrap(), history[0]);
}
