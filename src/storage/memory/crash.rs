//! What a crash leaves of a state. Pure: a plan and a state give one image, always the same.

use std::sync::Arc;

use super::state::{File, Node, State, is_dir};
use crate::names::parent;
use crate::types::as_index;

/// The unit that a medium writes whole: 512 bytes, the smallest sector of disks in use.
const SECTOR: usize = 512;

/// A crash to be simulated: when, and what happens to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    /// How many operations were carried out before it, from 0 to
    /// [`operation_count`](super::MemStorage::operation_count).
    pub at: usize,
    /// What becomes of what was not synced.
    pub unsynced: Unsynced,
}

impl CrashPlan {
    /// A power cut after `at` operations that takes everything that was not synced.
    pub fn lost(at: usize) -> CrashPlan {
        CrashPlan { at, unsynced: Unsynced::LostAll }
    }

    /// A death of the process after `at` operations, while the system lives on.
    pub fn kept(at: usize) -> CrashPlan {
        CrashPlan { at, unsynced: Unsynced::KeptAll }
    }

    /// A power cut after `at` operations, where `seed` decides what is left.
    pub fn seeded(at: usize, seed: u64) -> CrashPlan {
        CrashPlan { at, unsynced: Unsynced::Seeded(seed) }
    }
}

/// What becomes of bytes, names and renames that were not synced at a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A power cut; nothing of it had reached the medium. Of each file remains what was
    /// synced, under the name that its directory had when it was synced.
    LostAll,
    /// The process died (`kill -9`), the system lives on: everything is still seen. It
    /// is **no more durable than before**: in the image, what recovery does not sync
    /// is lost by the next power cut.
    KeptAll,
    /// A power cut; each thing is decided from the seed:
    ///
    /// - each new name, rename and removal happened, or did not. A file that was
    ///   renamed is under one of the two names: never under both, and under neither
    ///   only if its first name was not durable. The bytes of a file are decided
    ///   apart from its name;
    /// - of each file's unsynced bytes, all are there; or they end anywhere; or any
    ///   of their 512-byte sectors hold zeros; or they turn into garbage anywhere,
    ///   up to the full length. Synced bytes are always intact;
    /// - zeroed space behind the end is there as it was synced, or as it was last seen.
    ///
    /// The odds that a change of a name survives are themselves drawn (from none to all),
    /// so that among some dozens of seeds there are the extremes too.
    Seeded(u64),
}

impl State {
    /// What is found after a crash. But for [`Unsynced::KeptAll`], all of it is durable.
    pub(super) fn after_crash(mut self, unsynced: Unsynced) -> State {
        let mut draw = match unsynced {
            Unsynced::LostAll => None,
            Unsynced::KeptAll => {
                self.close_all();
                return self;
            }
            Unsynced::Seeded(seed) => Some(SplitMix64(seed)),
        };
        let pending = std::mem::take(&mut self.pending);
        if let Some(draw) = &mut draw {
            let odds = draw.below(5);
            for change in &pending {
                if draw.below(4) < odds {
                    self.make_durable(change);
                }
            }
        }
        self.restart(draw)
    }

    fn close_all(&mut self) {
        let ids: Vec<_> = self.files.keys().copied().collect();
        for id in ids {
            if let Some(file) = self.files.get_mut(&id) {
                file.open = 0;
            }
            self.collect(id);
        }
    }

    /// The state of a medium that holds what is durable here, and `draw`'s share of the rest.
    fn restart(mut self, mut draw: Option<SplitMix64>) -> State {
        let mut image = State::default();
        let mut cut_off = Vec::new();
        // A directory sorts before everything in it.
        for (path, node) in &self.durable {
            match node {
                _ if !is_dir(&image.durable, parent(path)) => cut_off.push(*node),
                Node::Dir => {
                    image.durable.insert(path.clone(), Node::Dir);
                }
                Node::File(id) => {
                    if let Some(file) = self.files.remove(id) {
                        image.add(path.clone(), settle(&file, draw.as_mut()));
                    }
                }
            }
        }
        // A rename into a directory that was lost did not happen.
        for node in cut_off {
            let Node::File(id) = node else { continue };
            let Some(file) = self.files.remove(&id) else {
                continue;
            };
            let Some(name) = file.fallback.clone() else {
                continue;
            };
            if is_dir(&image.durable, parent(&name)) && !image.durable.contains_key(&name) {
                image.add(name, settle(&file, draw.as_mut()));
            }
        }
        image.names.clone_from(&image.durable);
        image
    }

    /// Adds a durable file; its visible name is the caller's business.
    fn add(&mut self, path: Arc<str>, data: Arc<Vec<u8>>) {
        let id = self.next_file();
        let mut file = File::named(path.clone());
        file.set_durable(data);
        file.durable_name = Some(path.clone());
        self.files.insert(id, file);
        self.durable.insert(path, Node::File(id));
    }
}

/// What is found in a file after a power cut: everything synced, and the rest as drawn.
fn settle(file: &File, draw: Option<&mut SplitMix64>) -> Arc<Vec<u8>> {
    let len = file.data.len();
    if file.durable == len && file.durable_end == len && file.end == len {
        return file.data.clone();
    }
    let mut data = file.data.to_vec();
    let mut end = file.durable_end;
    match draw {
        None => data.truncate(file.durable),
        Some(draw) => {
            if file.end > len && draw.below(2) == 0 {
                end = end.max(file.end);
            }
            let unsynced = len - file.durable;
            match draw.below(4) {
                0 => {}
                1 => data.truncate(file.durable + draw.below(unsynced + 1)),
                2 => zero_sectors(&mut data, file.durable, draw),
                _ => {
                    let garbage = file.durable + draw.below(unsynced + 1);
                    data.iter_mut().skip(garbage).for_each(|byte| *byte = draw.byte());
                }
            }
        }
    }
    if data.len() < end {
        data.resize(end, 0);
    }
    Arc::new(data)
}

/// Zeroes any of the sectors from `start` on; of the first one, only what lies behind `start`.
fn zero_sectors(data: &mut [u8], start: usize, draw: &mut SplitMix64) {
    let mut at = start;
    while at < data.len() {
        let next = ((at / SECTOR + 1) * SECTOR).min(data.len());
        if draw.below(2) == 0
            && let Some(sector) = data.get_mut(at..next)
        {
            sector.fill(0);
        }
        at = next;
    }
}

/// The generator of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators", OOPSLA 2014: small, and good from any seed.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0. Its bias is of no matter here.
    fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "there is no number below 0");
        as_index(self.next() % bound as u64)
    }

    fn byte(&mut self) -> u8 {
        let [byte, ..] = self.next().to_le_bytes();
        byte
    }
}
