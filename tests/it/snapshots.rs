//! Snapshots built on snapshots: what is taken over from the last one and what is made anew,
//! compared page by page.

use rewound::{
    CompactOptions, Durability, Node, Origin, PageId, PageSize, SpaceId, Target, Writer,
};

use crate::ledger::single;
use crate::support::{TestClock, TestRng, memory_archive, quiet};
use rewound::env::Rng;

const PAGE: usize = 512;

struct Dice(TestRng);

impl Dice {
    fn below(&self, n: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % n
    }
}

struct Engine {
    writer: Writer,
    space: SpaceId,
    state: Vec<u8>,
}

impl Engine {
    /// Writes a page of its own content.
    fn write(&mut self, page: u64, version: u64) {
        let at = usize::try_from(page).unwrap() * PAGE;
        if self.state.len() < at + PAGE {
            self.state.resize(at + PAGE, 0);
        }
        let image: Vec<u8> =
            (0..PAGE as u64).map(|i| (page * 7 + version * 13 + i / 9) as u8).collect();
        self.state[at..at + PAGE].copy_from_slice(&image);
        let mut batch = self.writer.batch();
        batch.write_page(PageId::new(self.space, page), &image, None).unwrap();
        batch.commit(Durability::Buffered).unwrap();
    }

    fn cut(&mut self, length: usize) {
        self.state.resize(length, 0);
        let mut batch = self.writer.batch();
        batch.set_length(self.space, length as u64).unwrap();
        batch.commit(Durability::Buffered).unwrap();
    }

    fn compare(&self, node: &Node, what: &str) {
        self.writer.flush().unwrap();
        let (report, mut spaces) =
            node.restore(Target::Latest).options(single()).into_memory().unwrap();
        let found = spaces.remove("main").unwrap();
        let differs = found.iter().zip(&self.state).position(|(a, b)| a != b);
        assert!(
            found == self.state,
            "{what}: byte {differs:?} of {} and {}",
            found.len(),
            self.state.len()
        );
        assert!(report.damaged.is_empty(), "{what}");
    }
}

#[test]
fn snapshots_on_snapshots_hold_every_page() {
    for seed in 0..24 {
        let dice = Dice(TestRng::new(seed));
        let (_, archive) = memory_archive(&TestClock::new());
        let node = archive.create_node("n", Origin::Empty).unwrap();
        let writer = node.open_writer_with(quiet()).unwrap();
        let mut batch = writer.batch();
        let space = batch.create_space("main", PageSize::MIN).unwrap();
        batch.commit(Durability::Synced).unwrap();
        let mut engine = Engine { writer, space, state: Vec::new() };
        let mut options = CompactOptions::default();
        options.replay = single();
        options.replay.unit_bytes = 1 << (13 + dice.below(8));
        // Parts of some blocks, or one for all.
        options.part_bytes = if seed % 3 == 0 { 300 << 10 } else { 64 << 20 };
        options.layer_log_bytes = 8 << 10;
        options.snapshot_percent = 1_000_000;

        // Two thousand pages, with holes: about ten blocks.
        (0..2_400).filter(|p| p % 6 != 5 || p / 300 == 2).for_each(|page| engine.write(page, 0));
        engine.writer.flush().unwrap();
        node.build_snapshot(&Target::Latest, &options).unwrap();
        engine.compare(&node, "the first snapshot");
        for round in 1..=6 {
            let what = format!("seed {seed}, round {round}");
            // Close together, far apart, at the edges.
            let base = dice.below(2_400);
            for _ in 0..dice.below(12) {
                let page =
                    if dice.below(2) == 0 { base + dice.below(20) } else { dice.below(2_600) };
                engine.write(page, round);
            }
            if dice.below(4) == 0 {
                let length = engine.state.len() - usize::try_from(dice.below(200_000)).unwrap();
                engine.cut(length);
                if dice.below(2) == 0 {
                    engine.write(2_300 + dice.below(200), round);
                }
            }
            engine.writer.flush().unwrap();
            if dice.below(2) == 0 {
                node.maintain(&options).unwrap();
            }
            node.build_snapshot(&Target::Latest, &options).unwrap();
            engine.compare(&node, &what);
        }
    }
}
