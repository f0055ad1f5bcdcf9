//! The tests' own stores keep what the traits promise, as far as they are meant to.

use std::sync::Arc;

use rewound::storage::{MemStorage, conformance};

use crate::faulty::{Lie, LyingStorage};

#[test]
fn a_store_that_never_lies_keeps_the_promises() {
    conformance::storage(&mut || Arc::new(LyingStorage::new(MemStorage::new(), None)));
}

#[test]
fn reads_that_fall_short_break_no_promise() {
    for less in [1, 100, 70_000] {
        let lie = Some((usize::MAX, Lie::Short(less)));
        conformance::storage(&mut || Arc::new(LyingStorage::new(MemStorage::new(), lie)));
    }
}

#[test]
#[should_panic(expected = "holds other bytes than were stored")]
fn a_store_whose_reads_lie_is_found() {
    let lie = Some((usize::MAX, Lie::Flip(0)));
    conformance::blob_store(&mut || Arc::new(LyingStorage::new(MemStorage::new(), lie)));
}
