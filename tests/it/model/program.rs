//! What a program is made of, and how one is drawn.

use proptest::collection::vec;
use proptest::prelude::*;
use rewound::{CompactOptions, WriterOptions};

use crate::support::quiet;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Program {
    pub tuning: Tuning,
    /// Whether the first node has content from before its first commit.
    pub existing: bool,
    /// Decides what is checked in more ways than one.
    pub salt: u64,
    pub steps: Vec<Step>,
}

/// Options, mostly far smaller than anybody would choose, so that every bound is met.
#[derive(Clone, Debug)]
pub struct Tuning {
    pub segment_bytes: u64,
    pub frame_bytes: usize,
    pub pending_bytes: usize,
    pub batch_bytes: usize,
    pub page_table: usize,
    pub image_cache: usize,
    pub chain_bound: u16,
    pub layer_log_bytes: u64,
    pub fan_out: u32,
    pub snapshot_percent: u64,
    pub part_bytes: u64,
    pub unit_bytes: usize,
    pub log_memory: usize,
    pub threads: usize,
}

impl Tuning {
    pub fn writer(&self) -> WriterOptions {
        let mut options = quiet();
        options.segment_bytes = self.segment_bytes;
        options.frame_bytes = self.frame_bytes;
        options.pending_bytes = self.pending_bytes;
        options.batch_bytes = self.batch_bytes;
        options.page_table = self.page_table;
        options.image_cache = self.image_cache;
        options.chain_bound = self.chain_bound;
        options
    }

    pub fn compact(&self) -> CompactOptions {
        let mut options = CompactOptions::default();
        options.layer_log_bytes = self.layer_log_bytes;
        options.fan_out = self.fan_out;
        options.snapshot_percent = self.snapshot_percent;
        options.part_bytes = self.part_bytes;
        options.replay.unit_bytes = self.unit_bytes;
        options.replay.log_memory = self.log_memory;
        options.replay.threads = self.threads;
        options
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A batch, committed.
    Commit(Vec<Change>, How),
    /// Two batches open at a time, the first committed before the second is done.
    SideBySide {
        first: Vec<Change>,
        second: Vec<Change>,
        late: Vec<Change>,
        between: Between,
        how: How,
    },
    /// A batch that is dropped.
    Abort(Vec<Change>),
    /// A commit with a time given by the host: so much after the newest, or not after it.
    CommitAt {
        changes: Vec<Change>,
        ahead: u16,
        refused: bool,
    },
    Between(Between),
    /// The clock moves.
    Advance(u32),
    Back(u32),
    /// The writer is closed and opened again; the archive too, if so said.
    Reopen {
        archive: bool,
    },
    /// The process or the machine dies, so many operations ago.
    Crash {
        unsynced: Loss,
        back: u8,
        /// The clock is behind when it is back.
        slow: bool,
        /// A reader comes before the writer.
        read: bool,
        /// The power fails as soon as the writers are back.
        again: bool,
    },
    /// A snapshot as of a commit.
    Snapshot(u16),
    /// A copy of the engine's pages, with commits in the midst of it.
    Base {
        exact: bool,
        /// Layers are built meanwhile.
        maintain: bool,
        meanwhile: Vec<Vec<Change>>,
    },
    /// The steps that follow are for the other node.
    Switch,
    /// A new timeline begins with a commit, of this node or of one of its own.
    Fork {
        at: u16,
        own_node: bool,
    },
    /// Some commits are checked, with whatever is open and not flushed.
    Look(u16),
}

/// What may happen at any time.
#[derive(Clone, Copy, Debug)]
pub enum Between {
    Nothing,
    Tick,
    Flush,
    Cut,
    Maintain,
}

#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Kept,
    Lost,
    Seeded(u64),
}

/// Whether a commit is synced.
#[derive(Clone, Copy, Debug)]
pub enum How {
    Synced,
    Buffered,
}

/// One op of a batch.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        name: u8,
        size: u8,
    },
    Page {
        space: u8,
        page: u8,
        fill: Fill,
        previous: Previous,
    },
    Range {
        space: u8,
        page: u8,
        offset: u16,
        len: u16,
        seed: u64,
    },
    Length {
        space: u8,
        length: Length,
    },
    Drop {
        space: u8,
    },
    /// Many pages of noise: more than a piece of a batch.
    Bulk {
        space: u8,
        kib: u16,
        seed: u64,
    },
    Record {
        len: u32,
        noise: bool,
        seed: u64,
    },
    /// The redo point: so far before the commit, or ahead of it.
    Redo {
        back: i8,
    },
    Config {
        key: u8,
        len: u8,
        environment: bool,
        seed: u64,
    },
    Unconfig {
        key: u8,
    },
    Point {
        taken: bool,
    },
    Mark {
        ahead: u8,
    },
    Global {
        id: u8,
    },
    Note,
}

/// What a page is filled with.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    Zero,
    Same,
    Noise(u64),
    Text(u64),
    /// What is there, moved by some bytes: a patch of it does no good to any other version.
    Shift(u8),
    Edit {
        offset: u16,
        len: u8,
        seed: u64,
    },
}

/// What is given as the image that a page replaces.
#[derive(Clone, Copy, Debug)]
pub enum Previous {
    None,
    Given,
    Wrong,
}

/// What a space's length becomes.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    Zero,
    /// So many 256ths of what it is.
    Share(u8),
    /// The same, cut where a page ends.
    Pages(u8),
    Grow(u16),
}

fn tuning() -> impl Strategy<Value = Tuning> {
    let writer = (
        prop_oneof![Just(4 << 10), Just(20_000), Just(200_000), Just(4 << 20)],
        prop_oneof![Just(512), Just(4_096), Just(64 << 10)],
        prop_oneof![Just(64 << 10), Just(8 << 20)],
        prop_oneof![Just(0), Just(1 << 20), Just(16 << 20)],
        prop_oneof![1 => Just(0), 2 => Just(64), 2 => Just(512), 5 => Just(1 << 20)],
        prop_oneof![1 => Just(0), 1 => Just(64 << 10), 3 => Just(32 << 20)],
        prop_oneof![1 => Just(0), 1 => Just(1), 2 => Just(3), 5 => Just(256)],
    );
    let compact = (
        prop_oneof![Just(1), Just(3_000), Just(20_000), Just(200_000)],
        2..=3u32,
        prop_oneof![Just(0), Just(100), Just(1_000)],
        prop_oneof![Just(512), Just(3_000), Just(64 << 10), Just(1 << 20)],
        prop_oneof![Just(512), Just(3_000), Just(20_000), Just(4 << 20)],
        prop_oneof![Just(0), Just(2 << 20), Just(96 << 20)],
        1..=2usize,
    );
    (writer, compact).prop_map(|(w, c)| Tuning {
        segment_bytes: w.0,
        frame_bytes: w.1,
        pending_bytes: w.2,
        batch_bytes: w.3,
        page_table: w.4,
        image_cache: w.5,
        chain_bound: w.6,
        layer_log_bytes: c.0,
        fan_out: c.1,
        snapshot_percent: c.2,
        part_bytes: c.3,
        unit_bytes: c.4,
        log_memory: c.5,
        threads: c.6,
    })
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        1 => Just(Fill::Zero),
        1 => Just(Fill::Same),
        2 => any::<u64>().prop_map(Fill::Noise),
        2 => any::<u64>().prop_map(Fill::Text),
        3 => any::<u8>().prop_map(Fill::Shift),
        5 => (any::<u16>(), any::<u8>(), any::<u64>()).prop_map(|(offset, len, seed)| Fill::Edit { offset, len, seed }),
    ]
}

/// A few pages that are written again and again, and others.
fn page() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), 0..4u8, any::<u8>(), any::<u8>()]
}

fn change() -> impl Strategy<Value = Change> {
    let previous = prop_oneof![4 => Just(Previous::None), 5 => Just(Previous::Given), 1 => Just(Previous::Wrong)];
    let length = prop_oneof![
        1 => Just(Length::Zero),
        3 => any::<u8>().prop_map(Length::Share),
        2 => any::<u8>().prop_map(Length::Pages),
        2 => any::<u16>().prop_map(Length::Grow),
    ];
    // Records: mostly small, some worth compressing, now and then one that is large.
    let record = prop_oneof![6 => 0..100u32, 3 => 128..5_000u32, 1 => 100_000..700_000u32];
    prop_oneof![
        // Small pages far more often than large ones.
        20 => (0..4u8, prop_oneof![6 => 0..3u8, 2 => 3..8u8]).prop_map(|(name, size)| Change::Create { name, size }),
        200 => (any::<u8>(), page(), fill(), previous)
            .prop_map(|(space, page, fill, previous)| Change::Page { space, page, fill, previous }),
        60 => (any::<u8>(), page(), any::<u16>(), any::<u16>(), any::<u64>())
            .prop_map(|(space, page, offset, len, seed)| Change::Range { space, page, offset, len, seed }),
        40 => (any::<u8>(), length).prop_map(|(space, length)| Change::Length { space, length }),
        6 => any::<u8>().prop_map(|space| Change::Drop { space }),
        1 => (any::<u8>(), 900..2_200u16, any::<u64>())
            .prop_map(|(space, kib, seed)| Change::Bulk { space, kib, seed }),
        20 => (record, any::<bool>(), any::<u64>()).prop_map(|(len, noise, seed)| Change::Record { len, noise, seed }),
        8 => (-1..12i8).prop_map(|back| Change::Redo { back }),
        15 => (0..5u8, any::<u8>(), any::<bool>(), any::<u64>())
            .prop_map(|(key, len, environment, seed)| Change::Config { key, len, environment, seed }),
        6 => (0..5u8).prop_map(|key| Change::Unconfig { key }),
        8 => prop::bool::weighted(0.15).prop_map(|taken| Change::Point { taken }),
        15 => (0..3u8).prop_map(|ahead| Change::Mark { ahead }),
        4 => any::<u8>().prop_map(|id| Change::Global { id }),
        3 => Just(Change::Note),
    ]
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop_oneof![6 => vec(change(), 0..6), 1 => vec(change(), 6..25)]
}

fn step() -> impl Strategy<Value = Step> {
    let how = || prop_oneof![Just(How::Synced), Just(How::Buffered)];
    let between = || {
        prop_oneof![
            Just(Between::Nothing),
            Just(Between::Tick),
            Just(Between::Flush),
            Just(Between::Cut),
            Just(Between::Maintain)
        ]
    };
    let loss = prop_oneof![Just(Loss::Kept), Just(Loss::Lost), any::<u64>().prop_map(Loss::Seeded)];
    let back = prop_oneof![2 => Just(0), 2 => 0..12u8, 1 => any::<u8>()];
    prop_oneof![
        60 => (changes(), how()).prop_map(|(changes, how)| Step::Commit(changes, how)),
        15 => (changes(), changes(), changes(), between(), how()).prop_map(|(first, second, late, between, how)| {
            Step::SideBySide { first, second, late, between, how }
        }),
        4 => changes().prop_map(Step::Abort),
        6 => (changes(), any::<u16>(), prop::bool::weighted(0.2))
            .prop_map(|(changes, ahead, refused)| Step::CommitAt { changes, ahead, refused }),
        16 => between().prop_map(Step::Between),
        8 => any::<u32>().prop_map(Step::Advance),
        3 => any::<u32>().prop_map(Step::Back),
        6 => any::<bool>().prop_map(|archive| Step::Reopen { archive }),
        6 => (loss, back, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(unsynced, back, slow, read, again)| Step::Crash { unsynced, back, slow, read, again }),
        4 => any::<u16>().prop_map(Step::Snapshot),
        8 => (prop::bool::weighted(0.25), any::<bool>(), vec(changes(), 0..6))
            .prop_map(|(exact, maintain, meanwhile)| Step::Base { exact, maintain, meanwhile }),
        4 => Just(Step::Switch),
        4 => any::<u16>().prop_map(Step::Look),
    ]
}

/// Programs that fork: now and then, and more often than not from a timeline that was forked
/// itself.
pub fn forking() -> impl Strategy<Value = Program> {
    let fork = (any::<u16>(), prop::bool::weighted(0.3))
        .prop_map(|(at, own_node)| Step::Fork { at, own_node });
    let steps = vec(prop_oneof![12 => step(), 1 => fork], 8..45);
    (tuning(), prop::bool::weighted(0.35), any::<u64>(), steps)
        .prop_map(|(tuning, existing, salt, steps)| Program { tuning, existing, salt, steps })
}

pub fn program() -> impl Strategy<Value = Program> {
    (tuning(), prop::bool::weighted(0.35), any::<u64>(), vec(step(), 1..45))
        .prop_map(|(tuning, existing, salt, steps)| Program { tuning, existing, salt, steps })
}
