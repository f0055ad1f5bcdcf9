//! The host mark: where in the database's log the archive ends.
//!
//! 20 bytes with every commit: the commit's own number, so that marks rise; the number of the last
//! frame; and SQLite's checksum of the log up to it, which depends on the log's salts and on every
//! byte before. A log that has the same checksum at the same frame is the same log up to there. At
//! the very beginning of a generation, where there is no frame, its salts take the place of the
//! checksum.

use rewound::Lsn;

use super::error::Result;
use super::format::IndexHeader;
use super::live::telling;
use super::log::{Log, Place};

const LEN: usize = 20;

/// The mark of a commit that ends at a place.
pub(super) fn mark(lsn: Lsn, place: Place) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let proof = if place.frame == 0 { place.salts.0 } else { place.checksum.to_bytes() };
    let parts = [&lsn.get().to_be_bytes()[..], &place.frame.to_be_bytes(), &proof];
    for (to, from) in bytes.iter_mut().zip(parts.concat()) {
        *to = from;
    }
    bytes
}

/// The place in the log that a mark names, if the log has it. `at` is what the log's index says.
pub(super) fn find(mark: &[u8], log: &mut Log, at: IndexHeader) -> Result<Option<Place>> {
    // What else a host has marked its commits with names no place here.
    let Some((frame, proof)) = parse(mark) else { return Ok(None) };
    if frame > at.frames {
        return Ok(None);
    }
    if frame == 0 {
        let same = proof == at.salts.0 && telling(at.salts);
        return Ok(same.then_some(Place { salts: at.salts, ..Place::default() }));
    }
    log.begin(at.salts)?;
    let head = log.frame_header(frame)?;
    let same = head.commit != 0 && head.checksum.to_bytes() == proof;
    Ok(same.then_some(Place { salts: at.salts, frame, checksum: head.checksum }))
}

fn parse(mark: &[u8]) -> Option<(u32, [u8; 8])> {
    let (_, rest) = mark.split_first_chunk::<8>()?;
    let (frame, rest) = rest.split_first_chunk::<4>()?;
    let (proof, rest) = rest.split_first_chunk::<8>()?;
    rest.is_empty().then_some((u32::from_be_bytes(*frame), *proof))
}
