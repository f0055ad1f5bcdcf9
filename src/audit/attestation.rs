//! A value to keep elsewhere, which later exposes an older state of the archive.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::types::{ArchiveId, NodeId, Position, TimelineId};

/// How far an archive had come: its newest catalog entry with its digest, and the newest durable
/// commit of each timeline that is written.
///
/// Its text is one line without secrets. Keep it out of reach of those who can write to the
/// archive: then it shows whether the archive was put back to an older state or rewritten. See
/// [`Archive::verify_since`](crate::Archive::verify_since).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attestation {
    /// The archive.
    pub archive: ArchiveId,
    /// The number of the newest entry.
    pub sequence: u64,
    /// SHA-256 of the newest entry, which covers all entries before it.
    pub digest: [u8; 32],
    /// The newest durable commits.
    pub commits: BTreeMap<(NodeId, TimelineId), Position>,
}

const MAGIC: &str = "rewound-head-1";

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N
        || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for Attestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MAGIC} {} {} {}", self.archive, self.sequence, hex(&self.digest))?;
        self.commits
            .iter()
            .try_for_each(|((node, timeline), at)| write!(f, " {node}.{timeline}={at}"))
    }
}

impl FromStr for Attestation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Attestation> {
        parse(text).ok_or_else(|| Error::Malformed {
            what: "an attestation",
            expected: format!("{MAGIC} and what follows it on one line"),
        })
    }
}

fn parse(text: &str) -> Option<Attestation> {
    let mut words = text.split_ascii_whitespace();
    words.next().filter(|w| *w == MAGIC)?;
    let archive = ArchiveId::from_bytes(unhex(words.next()?)?);
    let sequence = words.next()?.parse().ok()?;
    let digest = unhex(words.next()?)?;
    let mut commits = BTreeMap::new();
    for word in words {
        let (line, at) = word.split_once('=')?;
        let (node, timeline) = line.split_once('.')?;
        let line = (NodeId::new(node.parse().ok()?), TimelineId::new(timeline.parse().ok()?));
        commits.insert(line, Position::new(at.parse().ok()?));
    }
    Some(Attestation { archive, sequence, digest, commits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mut attestation = Attestation {
            archive: ArchiveId::from_bytes([0xab; 16]),
            sequence: 42,
            digest: [7; 32],
            commits: BTreeMap::new(),
        };
        assert_eq!(attestation.to_string().parse::<Attestation>().unwrap(), attestation);
        attestation.commits.insert((NodeId::new(1), TimelineId::new(2)), Position::new(99));
        assert_eq!(attestation.to_string().parse::<Attestation>().unwrap(), attestation);
        for bad in ["", "rewound-head-1", "rewound-head-1 ab 1 cd", "rewound-head-2 x"] {
            assert!(bad.parse::<Attestation>().is_err(), "{bad}");
        }
    }
}
