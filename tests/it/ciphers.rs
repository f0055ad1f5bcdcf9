//! Every cipher backend reads what every other one wrote, and writes the same bytes.

use std::sync::Arc;

use rewound::crypto::Backend;
use rewound::storage::MemStorage;
use rewound::{Archive, CompactOptions, Durability, Origin, Target};

use crate::ledger::{Change, Ledger, Run, assert_same, lsn, restore, single};
use crate::support::{TestClock, archive_options, key, quiet};

/// Writes an archive of all kinds of files with one backend.
fn write(backend: Backend) -> Run {
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    let clock = TestClock::new();
    let options = archive_options(&clock, 1).backend(backend);
    let archive = Archive::create_in(Arc::new(run.storage.clone()), key(), options).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    go_on(&mut run, &archive);
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 500;
    options.replay = single();
    node.maintain(&options).unwrap();
    run
}

fn go_on(run: &mut Run, archive: &Archive) {
    let writer = archive.node("n").unwrap().open_writer_with(quiet()).unwrap();
    let begun = run.told("n").commits.len() as u64;
    if begun == 0 {
        run.commit("n", &writer, Durability::Synced, &[Change::Create("main")]).unwrap();
    }
    for n in begun..begun + 6 {
        let page = Change::Page("main", n % 4, n, n % 2 == 0);
        run.commit("n", &writer, Durability::Buffered, &[page]).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn each_backend_reads_and_continues_what_the_other_wrote() {
    assert_eq!(Backend::available().len(), 2);
    for (writer, reader) in
        [(Backend::Portable, Backend::AwsLc), (Backend::AwsLc, Backend::Portable)]
    {
        let mut run = write(writer);
        let options = archive_options(&TestClock::new(), 2).backend(reader);
        let archive = Archive::open_in(Arc::new(run.storage.clone()), key(), options).unwrap();
        go_on(&mut run, &archive);
        // What both wrote is read by the first again.
        let options = archive_options(&TestClock::new(), 3).backend(writer);
        let again = Archive::open_in(Arc::new(run.storage.clone()), key(), options).unwrap();
        for archive in [&archive, &again] {
            let node = archive.node("n").unwrap();
            assert!(!node.layers().unwrap().is_empty());
            for (number, asked) in (1..).zip(&run.ledger.nodes["n"].commits) {
                let (_, spaces) = restore(&node, lsn(number)).unwrap();
                assert_same(&spaces, &asked.spaces, &format!("{writer} to {reader}, LSN {number}"));
            }
            assert_eq!(restore(&node, Target::Latest).unwrap().0, 13);
        }
    }
}

#[test]
fn the_same_randomness_gives_the_same_bytes() {
    assert!(write(Backend::Portable).storage.files() == write(Backend::AwsLc).storage.files());
}
