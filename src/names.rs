//! Every name and path of an archive: how it is made, and what it says when it is read.
//!
//! Owns which directory a file goes to and the form of its name; nothing else in the library makes
//! a path or takes one apart. Never touches a storage. A name is a hint that the header of the file
//! confirms. Invariants: a number or id that is read from a name makes that part of the name again;
//! names of one kind in one directory sort by number, up to 2^42 files.
//!
//! `docs/format.md` lists the paths. Numbers are in hexadecimal: 16 digits for 64 bits, 8 for
//! nodes, timelines and groups.

use std::fmt;

use crate::types::{FileId, NodeId, Position, TimelineId};

/// Where temporary files are.
pub(crate) const TMP: &str = "tmp";
/// Where the catalog is.
pub(crate) const CATALOG: &str = "catalog";
/// Where the catalog's checkpoints are.
pub(crate) const CHECKPOINTS: &str = "catalog/checkpoints";
/// Where leases are.
pub(crate) const LEASES: &str = "leases";
/// Where the nodes are.
pub(crate) const NODES: &str = "nodes";

/// Numbered files in a directory.
const GROUP: u64 = 1_024;

/// The group, and so the directory, of an entry or a segment.
pub(crate) fn group_of(number: u64) -> u64 {
    number / GROUP
}

/// The path of a name in a directory.
pub(crate) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// The directory that holds this path.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// The last component of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// A path and each directory on the way to it, from the top; nothing of `""`, the archive itself.
pub(crate) fn way_to(path: &str) -> impl Iterator<Item = &str> {
    let ends =
        path.match_indices('/').map(|(end, _)| end).chain((!path.is_empty()).then_some(path.len()));
    ends.map(|end| path.get(..end).expect("a path is cut where a slash is, or at its end"))
}

/// The number in a text of exactly the form that we give it: all else is none of our names.
fn number(text: &str, digits: usize) -> Option<u64> {
    // Not by making the name again to compare: a group has a thousand, and is listed again and
    // again on the way to a target.
    let in_form = text.len() == digits || text.len() > digits && !text.starts_with('0');
    let plain = in_form && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn number_of_32_bits(text: &str) -> Option<u32> {
    number(text, 8).and_then(|n| u32::try_from(n).ok())
}

/// The number of a group, from the name of its directory.
pub(crate) fn group(name: &str) -> Option<u64> {
    number(name, 8)
}

/// What a file is, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Segment,
    Layer,
    Part,
    Entry,
    Checkpoint,
}

/// What the file of this path is; `None` for locks and whatever later releases put there.
pub(crate) fn kind(path: &str) -> Option<Kind> {
    match file_name(path).rsplit_once('.')?.1 {
        "seg" => Some(Kind::Segment),
        "layer" => Some(Kind::Layer),
        "part" => Some(Kind::Part),
        "entry" => Some(Kind::Entry),
        "checkpoint" => Some(Kind::Checkpoint),
        _ => None,
    }
}

/// Whether a name has an ending, which no directory of ours has.
pub(crate) fn has_ending(name: &str) -> bool {
    name.contains('.')
}

/// Whether a path leads into the catalog.
pub(crate) fn is_of_catalog(path: &str) -> bool {
    path.strip_prefix(CATALOG).is_some_and(|rest| rest.starts_with('/'))
}

/// The directory of a group of entries of the catalog.
pub(crate) fn entry_group_dir(group: u64) -> String {
    format!("{CATALOG}/{group:08x}")
}

/// The directory of an entry of the catalog.
pub(crate) fn entry_dir(sequence: u64) -> String {
    entry_group_dir(group_of(sequence))
}

/// The path of an entry of the catalog.
pub(crate) fn entry_path(sequence: u64) -> String {
    format!("{}/{sequence:016x}.entry", entry_dir(sequence))
}

/// The number of an entry, from the name of its file.
pub(crate) fn entry(name: &str) -> Option<u64> {
    number(name.strip_suffix(".entry")?, 16)
}

/// The path of the checkpoint of an entry.
pub(crate) fn checkpoint_path(sequence: u64) -> String {
    format!("{CHECKPOINTS}/{sequence:016x}.checkpoint")
}

/// The number of the entry that a checkpoint is of, from the name of its file.
pub(crate) fn checkpoint(name: &str) -> Option<u64> {
    number(name.strip_suffix(".checkpoint")?, 16)
}

/// The path of a lease: on what the catalog says of a node as of an entry.
pub(crate) fn lease_path(node: NodeId, sequence: u64, id: FileId) -> String {
    format!("{LEASES}/{:08x}-{sequence:016x}-{id}.lock", node.get())
}

/// Node and entry of a lease, from the name of its file. What follows them tells leases apart.
pub(crate) fn lease(name: &str) -> Option<(NodeId, u64)> {
    let (node, rest) = name.split_once('-')?;
    Some((NodeId::new(number_of_32_bits(node)?), number(rest.get(..16)?, 16)?))
}

/// The directory of a node.
pub(crate) fn node_dir(node: NodeId) -> String {
    format!("{NODES}/{:08x}", node.get())
}

/// The file whose lock keeps a second writer out.
pub(crate) fn writer_lock(node: NodeId) -> String {
    format!("{}/writer.lock", node_dir(node))
}

/// The file whose lock keeps a second builder or sweeper out.
pub(crate) fn builder_lock(node: NodeId) -> String {
    format!("{}/maintain.lock", node_dir(node))
}

/// The directory of a node's log.
pub(crate) fn log_dir(node: NodeId) -> String {
    format!("{}/wal", node_dir(node))
}

/// The directory of a timeline's segments.
pub(crate) fn timeline_dir(node: NodeId, timeline: TimelineId) -> String {
    format!("{}/{:08x}", log_dir(node), timeline.get())
}

/// The directory of a group of segments.
pub(crate) fn segment_group_dir(node: NodeId, timeline: TimelineId, group: u64) -> String {
    format!("{}/{group:08x}", timeline_dir(node, timeline))
}

/// The directory of a segment.
pub(crate) fn segment_dir(node: NodeId, timeline: TimelineId, sequence: u64) -> String {
    segment_group_dir(node, timeline, group_of(sequence))
}

/// The path of a segment.
pub(crate) fn segment_path(
    node: NodeId,
    timeline: TimelineId,
    sequence: u64,
    from: Position,
) -> String {
    format!("{}/{sequence:016x}-{:016x}.seg", segment_dir(node, timeline, sequence), from.get())
}

/// Number and first position of a segment, from the name of its file.
pub(crate) fn segment(name: &str) -> Option<(u64, Position)> {
    let (sequence, from) = name.strip_suffix(".seg")?.split_once('-')?;
    Some((number(sequence, 16)?, Position::new(number(from, 16)?)))
}

/// The directory of a node's layers.
pub(crate) fn layers_dir(node: NodeId) -> String {
    format!("{}/layers", node_dir(node))
}

/// The path of a layer.
pub(crate) fn layer_path(node: NodeId, file: FileId) -> String {
    format!("{}/{file}.layer", layers_dir(node))
}

/// The id of a layer, from the name of its file.
pub(crate) fn layer(name: &str) -> Option<FileId> {
    file_id(name.strip_suffix(".layer")?)
}

/// The directory of all parts of a node.
pub(crate) fn parts_dir(node: NodeId) -> String {
    format!("{}/parts", node_dir(node))
}

/// The directory of a part.
pub(crate) fn part_dir(node: NodeId, file: FileId) -> String {
    let [group, ..] = file.as_bytes();
    format!("{}/{group:02x}", parts_dir(node))
}

/// The path of a part.
pub(crate) fn part_path(node: NodeId, file: FileId) -> String {
    format!("{}/{file}.part", part_dir(node, file))
}

/// The id of a part, from the name of its file.
pub(crate) fn part(name: &str) -> Option<FileId> {
    file_id(name.strip_suffix(".part")?)
}

fn file_id(text: &str) -> Option<FileId> {
    let id = FileId::from_bytes(u128::from_str_radix(text, 16).ok()?.to_be_bytes());
    (id.to_string() == text).then_some(id)
}

/// Whose a temporary file is: says when its owner is gone for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// An entry of the catalog about to be published.
    Entry(u64),
    /// A checkpoint of the catalog about to be published.
    Checkpoint(u64),
    /// A writer: new segments, large batches, base copies.
    Writer(NodeId),
    /// A builder or sweeper of a node.
    Builder(NodeId),
    /// A file that is stored whole: its owner holds a lock on it.
    Put,
}

impl Scope {
    /// The scope of a temporary file, from its name.
    pub fn of(name: &str) -> Option<Scope> {
        let after = |prefix| Some(name.strip_prefix(prefix)?.split_once('-')?.0);
        if let Some(sequence) = after("catalog-") {
            return number(sequence, 16).map(Scope::Entry);
        }
        if let Some(sequence) = after("checkpoint-") {
            return number(sequence, 16).map(Scope::Checkpoint);
        }
        if name.starts_with("put-") {
            return Some(Scope::Put);
        }
        let writer =
            after("w").and_then(number_of_32_bits).map(|id| Scope::Writer(NodeId::new(id)));
        let builder =
            || after("c").and_then(number_of_32_bits).map(|id| Scope::Builder(NodeId::new(id)));
        writer.or_else(builder)
    }

    /// A path for a temporary file of this scope.
    pub fn path(self, id: FileId) -> String {
        format!("{TMP}/{self}-{id}")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Entry(sequence) => write!(f, "catalog-{sequence:016x}"),
            Scope::Checkpoint(sequence) => write!(f, "checkpoint-{sequence:016x}"),
            Scope::Writer(node) => write!(f, "w{:08x}", node.get()),
            Scope::Builder(node) => write!(f, "c{:08x}", node.get()),
            Scope::Put => f.write_str("put"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [u64; 8] = [0, 1, 9, 1_023, 1_024, 0xabcd, u64::MAX / 2, u64::MAX];
    const NODES_THERE_ARE: [u32; 4] = [0, 1, 0xab_cdef, u32::MAX];

    fn ids() -> [FileId; 3] {
        [[0; 16], [0xab; 16], [255; 16]].map(FileId::from_bytes)
    }

    #[test]
    fn names_of_every_kind_say_what_they_were_made_of() {
        for n in NUMBERS {
            assert_eq!(entry(file_name(&entry_path(n))), Some(n));
            assert_eq!(kind(&entry_path(n)), Some(Kind::Entry));
            assert!(is_of_catalog(&entry_path(n)));
            assert_eq!(group(file_name(&entry_dir(n))), Some(group_of(n)));
            assert_eq!(checkpoint(file_name(&checkpoint_path(n))), Some(n));
            assert_eq!(kind(&checkpoint_path(n)), Some(Kind::Checkpoint));
            for node in NODES_THERE_ARE.map(NodeId::new) {
                let timeline = TimelineId::new(node.get());
                let path = segment_path(node, timeline, n, Position::new(n / 3));
                assert_eq!(segment(file_name(&path)), Some((n, Position::new(n / 3))));
                assert_eq!(
                    (kind(&path), parent(&path)),
                    (Some(Kind::Segment), &*segment_dir(node, timeline, n))
                );
                for id in ids() {
                    assert_eq!(lease(file_name(&lease_path(node, n, id))), Some((node, n)));
                }
            }
        }
        for (node, id) in
            NODES_THERE_ARE.map(NodeId::new).into_iter().flat_map(|n| ids().map(|id| (n, id)))
        {
            assert_eq!(layer(file_name(&layer_path(node, id))), Some(id));
            assert_eq!(part(file_name(&part_path(node, id))), Some(id));
            assert_eq!(parent(&part_path(node, id)), part_dir(node, id));
            assert_eq!(kind(&layer_path(node, id)), Some(Kind::Layer));
            assert_eq!(kind(&part_path(node, id)), Some(Kind::Part));
            for scope in [Scope::Writer(node), Scope::Builder(node), Scope::Put] {
                assert_eq!(Scope::of(file_name(&scope.path(id))), Some(scope));
            }
        }
        for scope in NUMBERS.into_iter().flat_map(|n| [Scope::Entry(n), Scope::Checkpoint(n)]) {
            assert_eq!(Scope::of(file_name(&scope.path(ids()[1]))), Some(scope));
        }
        for lock in [writer_lock(NodeId::new(7)), builder_lock(NodeId::new(7))] {
            assert_eq!((kind(&lock), parent(&lock)), (None, "nodes/00000007"));
        }
    }

    #[test]
    fn names_sort_as_their_numbers_do() {
        let (node, timeline) = (NodeId::new(1), TimelineId::new(1));
        let segment = |n| file_name(&segment_path(node, timeline, n, Position::new(n))).to_owned();
        for pair in NUMBERS.windows(2) {
            assert!(file_name(&entry_path(pair[0])) < file_name(&entry_path(pair[1])));
            assert!(checkpoint_path(pair[0]) < checkpoint_path(pair[1]));
            assert!(segment(pair[0]) < segment(pair[1]));
        }
        // Directories too, for as many files as there will ever be: 2^42.
        for pair in NUMBERS.map(|n| n % (1 << 42)).windows(2).filter(|pair| pair[0] < pair[1]) {
            assert!(entry_dir(pair[0]) <= entry_dir(pair[1]));
        }
        for pair in ids().windows(2) {
            assert!(part_path(node, pair[0]) < part_path(node, pair[1]));
        }
    }

    #[test]
    fn what_is_not_of_our_form_is_none_of_ours() {
        for name in
            ["1.entry", "000000000000000A.entry", "0000000000000001", "+000000000000001.entry"]
        {
            assert_eq!(entry(name), None, "{name}");
        }
        assert_eq!(segment("0000000000000001.seg"), None);
        assert_eq!(segment("0000000000000001-1.seg"), None);
        assert_eq!(group("100"), None);
        assert_eq!(layer("abc.layer"), None);
        assert_eq!(part(&format!("{}.part", "A".repeat(32))), None);
        assert_eq!(lease("00000001-0000000000000001"), Some((NodeId::new(1), 1)));
        assert_eq!(lease("00000001-1"), None);
        assert_eq!(lease("1-0000000000000001-x.lock"), None);
        for name in ["catalog-1-x", "w00000001", "w1-x", "x00000001-y", "bench-1", "c100000000-x"] {
            assert_eq!(Scope::of(name), None, "{name}");
        }
        assert!(!is_of_catalog("catalogue/x") && !is_of_catalog("nodes/00000001"));
    }

    #[test]
    fn a_number_is_read_from_no_text_but_the_one_that_is_made_of_it() {
        let heads = ["", "+", "-", "0", "00", "1", "a", "A", "g", "\u{e9}", "0x"];
        let tails = [
            "",
            "0",
            "1",
            "f",
            "F",
            " ",
            "0000000",
            "fffffff",
            "00000000",
            "ffffffff",
            "100000000",
        ];
        for text in heads
            .iter()
            .flat_map(|a| tails.iter().flat_map(move |b| tails.map(|c| format!("{a}{b}{c}"))))
        {
            for digits in [8, 16] {
                let parsed = u64::from_str_radix(&text, 16).ok();
                assert_eq!(
                    number(&text, digits),
                    parsed.filter(|n| format!("{n:0digits$x}") == text),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!((parent("a/b/c"), file_name("a/b/c")), ("a/b", "c"));
        assert_eq!((parent("a"), file_name("a"), join("", "a")), ("", "a", "a".to_owned()));
        assert_eq!(way_to("a/b/c").collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(way_to("").count(), 0);
        assert!(has_ending("x.seg") && !has_ending("wal"));
    }
}
