//! A small archive in the hands of somebody without the key: files altered, cut, lengthened,
//! swapped, removed. Every restore is right or an error.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rewound::storage::MemStorage;
use rewound::{
    Archive, ArchiveOptions, CompactOptions, Durability, KeyFile, Lsn, Origin, PageId, PageSize,
    ReplayOptions, Target, WriterOptions,
};

#[derive(Arbitrary, Debug)]
enum Edit {
    Set { file: u8, at: u16, value: u8 },
    Cut { file: u8, len: u16 },
    Append { file: u8, bytes: Vec<u8> },
    Swap { file: u8, with: u8 },
    Remove { file: u8 },
}

/// The files of an archive, and what each of its commits restores to.
struct Original {
    files: BTreeMap<String, Vec<u8>>,
    states: Vec<BTreeMap<String, Vec<u8>>>,
}

fn single() -> ReplayOptions {
    let mut options = ReplayOptions::default();
    options.threads = 1;
    options
}

fn states(archive: &Archive) -> Vec<Option<BTreeMap<String, Vec<u8>>>> {
    let Ok(node) = archive.node("n") else { return Vec::new() };
    (1..=12)
        .map(|n| {
            node.restore(Target::Lsn(Lsn::new(n)?))
                .options(single())
                .into_memory()
                .ok()
                .map(|(_, spaces)| spaces)
        })
        .collect()
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let storage = MemStorage::without_recording();
        let key = KeyFile::from_bytes([7; 32]);
        let archive =
            Archive::create_in(Arc::new(storage.clone()), key, ArchiveOptions::new()).unwrap();
        let node = archive.create_node("n", Origin::Empty).unwrap();
        let mut options = WriterOptions::default();
        options.flush_interval = None;
        for tenure in 0..3_u8 {
            let writer = node.open_writer_with(options.clone()).unwrap();
            for commit in 0..4 {
                let mut batch = writer.batch();
                let main = match writer.space("main") {
                    Some(space) => space,
                    None => batch.create_space("main", PageSize::MIN).unwrap(),
                };
                let page = PageId::new(main, u64::from(commit));
                batch.write_page(page, &[tenure * 4 + commit + 1; 512], None).unwrap();
                batch.commit(Durability::Synced).unwrap();
            }
            writer.close().unwrap();
            let mut compact = CompactOptions::default();
            compact.layer_log_bytes = 1;
            compact.replay = single();
            if tenure < 2 {
                node.maintain(&compact).unwrap();
            }
        }
        let states = states(&archive).into_iter().map(Option::unwrap).collect();
        Original { files: storage.files(), states }
    })
}

fuzz_target!(|edits: Vec<Edit>| {
    let original = original();
    let mut files = original.files.clone();
    let names: Vec<String> = files.keys().cloned().collect();
    let name = |file: u8| &names[usize::from(file) % names.len()];
    for edit in edits.into_iter().take(8) {
        match edit {
            Edit::Set { file, at, value } => {
                if let Some(bytes) = files.get_mut(name(file)).filter(|b| !b.is_empty()) {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = value;
                }
            }
            Edit::Cut { file, len } => {
                if let Some(bytes) = files.get_mut(name(file)) {
                    bytes.truncate(usize::from(len));
                }
            }
            Edit::Append { file, bytes } => {
                files.entry(name(file).clone()).or_default().extend(bytes);
            }
            Edit::Swap { file, with } => {
                let (a, b) = (files.remove(name(file)), files.remove(name(with)));
                files.extend(b.map(|bytes| (name(file).clone(), bytes)));
                files.extend(a.map(|bytes| (name(with).clone(), bytes)));
            }
            Edit::Remove { file } => {
                files.remove(name(file));
            }
        }
    }
    let storage = MemStorage::without_recording();
    for (path, bytes) in files {
        storage.set_file(&path, bytes);
    }
    let key = KeyFile::from_bytes([7; 32]);
    let Ok(archive) = Archive::open_in(Arc::new(storage), key, ArchiveOptions::new()) else {
        return;
    };
    for (found, expected) in states(&archive).into_iter().zip(&original.states) {
        assert!(found.is_none_or(|found| found == *expected), "a wrong state without an error");
    }
});
