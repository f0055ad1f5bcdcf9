//! Looking at an archive, resolving and planning need a store that is only read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::resolve::locate;
use super::{PlanInput, plan, resolve};
use crate::catalog::Entries;
use crate::crypto::{Backend, Keyring};
use crate::env::SystemRng;
use crate::storage::{Entry, MemStorage, ReadFile, ReadStore};
use crate::types::{Durability, Lsn, Position, Target};
use crate::wal::Log;
use crate::{Archive, ArchiveOptions, KeyFile, Origin};

/// A store that nothing can be written to, by its type; counts how often a directory is listed.
#[derive(Debug)]
struct ReadOnly(MemStorage, Arc<AtomicUsize>);

impl ReadStore for ReadOnly {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        self.0.open(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.list(dir)
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

#[test]
fn a_target_is_resolved_and_planned_where_nothing_can_be_written() {
    let (storage, key) = (MemStorage::new(), || KeyFile::from_bytes([1; 32]));
    let archive =
        Archive::create_in(Arc::new(storage.clone()), key(), ArchiveOptions::new()).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut writer = node.open_writer().unwrap();
    for n in 1..=3 {
        writer.batch().commit(Durability::Synced).unwrap();
        if n == 2 {
            writer.close().unwrap();
            writer = node.open_writer().unwrap();
        }
    }
    let done = storage.operation_count();

    let lists = Arc::new(AtomicUsize::new(0));
    let store: Arc<dyn ReadStore> = Arc::new(ReadOnly(storage.clone(), Arc::clone(&lists)));
    let keyring = Keyring::new(key());
    let opened =
        Entries::open(Arc::clone(&store), &keyring, Backend::default(), Arc::new(SystemRng));
    let (entries, state) = opened.unwrap();
    let view = state.view(*state.nodes.keys().next().unwrap()).unwrap();
    let (keys, lineage) = (Arc::clone(entries.keys()), view.lineage(view.record.timeline));
    let log = Log { storage: store, medium: None, keys, lineage: lineage.clone() };
    // The newest segment is being written, and has no seal.
    let resolved = resolve(&log, &view, &Target::Latest).unwrap();
    assert_eq!(resolved.lsn, Lsn::new(3).unwrap());
    // To find the segment takes three listings, to see what comes after it one more.
    let before = lists.load(Ordering::Relaxed);
    let (first, next) = locate(&log, Lsn::FIRST).unwrap();
    assert!(next > Some(first));
    assert_eq!(lists.load(Ordering::Relaxed) - before, 4);
    let layers = view.layers(&lineage);
    let input = PlanInput {
        lineage: &lineage,
        empty_origin: true,
        replay_floor: Position::ORIGIN,
        layers: &layers,
    };
    assert_eq!(plan(&input, resolved.lsn.into()).unwrap().target, Position::from(resolved.lsn));
    assert_eq!(storage.operation_count(), done, "something was changed or synced");
    writer.close().unwrap();
}
