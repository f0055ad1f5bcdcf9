//! Any set of pages of any state is what the engine handed in.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::PastState;
use crate::options::ReplayOptions;
use crate::replay::{PageSet, Rebuilder};
use crate::storage::MemStorage;
use crate::types::as_index;
use crate::{
    Archive, ArchiveOptions, CompactOptions, Durability, KeyFile, Node, Origin, PageId, PageSize,
    Position, SpaceId,
};

const PAGE: usize = 512;
const PAGES: u64 = 40;

/// What happens in a commit.
#[derive(Clone, Debug)]
enum Act {
    Write(u64, u8),
    Edit(u64, u16, u8),
    Length(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..PAGES, any::<u8>()).prop_map(|(page, with)| Act::Write(page, with)),
        6 => (0..PAGES, 0..512u16, any::<u8>()).prop_map(|(page, at, with)| Act::Edit(page, at, with)),
        1 => (1..=PAGES * PAGE as u64).prop_map(Act::Length),
    ]
}

/// The bytes of the space after each commit.
struct Made {
    node: Node,
    space: SpaceId,
    states: BTreeMap<Position, Vec<u8>>,
}

fn make(history: &[Vec<Act>], built_after: usize) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyFile::generate(dir.path().join("key")).unwrap();
    let archive =
        Archive::create_in(Arc::new(MemStorage::new()), key, ArchiveOptions::new()).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let writer = node.open_writer().unwrap();
    let mut batch = writer.batch();
    let other = batch.create_space("before", PageSize::MIN).unwrap();
    let space = batch.create_space("it", PageSize::MIN).unwrap();
    batch.write_page(PageId::new(other, 3), &[9; PAGE], None).unwrap();
    batch.commit(Durability::Synced).unwrap();
    let (mut states, mut now) = (BTreeMap::new(), Vec::new());
    let compact = CompactOptions { layer_log_bytes: 1, ..CompactOptions::default() };
    for (number, acts) in history.iter().enumerate() {
        let mut batch = writer.batch();
        for act in acts {
            let mut write = |page: u64, whole: bool, change: &dyn Fn(&mut [u8])| {
                let start = as_index(page) * PAGE;
                now.resize(now.len().max(start + PAGE), 0);
                let before = now[start..start + PAGE].to_vec();
                change(&mut now[start..start + PAGE]);
                let image = &now[start..start + PAGE];
                let previous = (!whole).then_some(&before[..]);
                batch.write_page(PageId::new(space, page), image, previous).unwrap();
            };
            match *act {
                // Some of them as a whole: what layers have of those pages is not read.
                Act::Write(page, with) => write(page, with % 2 == 0, &|image| image.fill(with)),
                Act::Edit(page, at, with) => {
                    write(page, false, &|image| image[at as usize] = with);
                }
                Act::Length(length) => {
                    now.resize(as_index(length), 0);
                    batch.set_length(space, length).unwrap();
                    // Whole pages again, so that every page has an image.
                    let whole = length.next_multiple_of(PAGE as u64);
                    now.resize(as_index(whole), 0);
                    batch.set_length(space, whole).unwrap();
                }
            }
        }
        let at = batch.commit(Durability::Synced).unwrap().lsn;
        states.insert(at.into(), now.clone());
        if number == built_after {
            node.maintain(&compact).unwrap();
        }
    }
    writer.close().unwrap();
    Made { node, space, states }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pages_in_any_order(
        history in prop::collection::vec(prop::collection::vec(act(), 1..12), 1..8),
        built_after in 0..8usize,
        asked in prop::collection::vec(any::<Index>(), 0..30),
        spilled in any::<bool>(),
        threads in 1..4usize,
    ) {
        let made = make(&history, built_after);
        let log_memory = if spilled { 0 } else { 1 << 20 };
        let options = ReplayOptions { threads, log_memory, ..ReplayOptions::default() };
        let mut rebuilder = Rebuilder::new().unwrap();
        for (at, bytes) in &made.states {
            let past = PastState::open(made.node.context().unwrap(), *at, None, &options).unwrap();
            let count = bytes.len() / PAGE;
            let asked = asked.iter().filter(|_| count > 0).map(|index| index.index(count) as u64);
            let set = PageSet::new(made.space, PageSize::MIN, asked.clone());
            let mut wanted: Vec<u64> = asked.collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(set.numbers().collect::<Vec<_>>(), wanted.clone());
            prop_assert_eq!(set.len(), wanted.len());
            let rebuilt = past.rebuild(&mut rebuilder, &set).unwrap();
            let images: Vec<&[u8]> = rebuilt.images.chunks(PAGE).collect();
            let expected: Vec<&[u8]> = wanted.iter().map(|page| &bytes[as_index(*page) * PAGE..][..PAGE]).collect();
            prop_assert!(images == expected, "pages {:?} at {}", wanted, at);
        }
    }
}
