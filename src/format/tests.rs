//! What holds for every decoder: whatever the bytes, it ends, with a value or an error, and reads
//! nothing beyond them.

use proptest::prelude::*;

use super::event::{Actor, CatalogEntry, Event, LayerRecord, Origin};
use super::frame::{FrameHeader, FrameKind, TRAILER_LEN, Trailer};
use super::header::{FileKind, Header, SealedHeader, Stanza};
use super::state::{Effect, NodeState};
use crate::bench_support::decode_all;
use crate::types::{
    ArchiveId, Epoch, FileId, KeyId, NodeId, PageSize, Position, RecipientId, SpaceId, TimelineId,
    Timestamp,
};

fn header() -> SealedHeader {
    SealedHeader {
        header: Header {
            kind: FileKind::Segment,
            archive: ArchiveId::from_bytes([1; 16]),
            file: FileId::from_bytes([2; 16]),
            salt: [3; 32],
            node: NodeId::new(4),
            timeline: TimelineId::new(5),
            epoch: Epoch::new(6),
            sequence: 7,
            from: 8,
            to: 9,
            created: Timestamp::from_nanos(10),
            link: [11; 32],
            key: KeyId::from_bytes([12; 16]),
        },
        wrapped_key: [13; 48],
        commitment: [14; 32],
        stanzas: vec![
            Stanza { recipient: RecipientId::from_bytes([15; 16]), wrapped: vec![16; 80] },
            Stanza { recipient: RecipientId::from_bytes([17; 16]), wrapped: vec![] },
        ],
    }
}

#[test]
fn headers_round_trip_at_the_offsets_of_the_format_page() {
    let bytes = header().encode();
    assert_eq!(SealedHeader::decode(&bytes).unwrap(), (header(), bytes.len()));
    // docs/format.md §2.
    for (offset, value) in
        [(8, 1), (10, 1), (16, 1), (32, 2), (48, 3), (80, 4), (84, 5), (88, 6), (96, 7)]
    {
        assert_eq!(bytes[offset], value, "offset {offset}");
    }
    for (offset, value) in
        [(104, 8), (112, 9), (120, 10), (128, 11), (160, 12), (192, 13), (240, 14), (272, 2)]
    {
        assert_eq!(bytes[offset], value, "offset {offset}");
    }
    assert_eq!((bytes[280], bytes[296], bytes[298]), (15, 80, 16));
}

#[test]
fn no_altered_header_is_taken_for_another_one_that_is_whole() {
    let bytes = header().encode();
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(SealedHeader::decode(&altered).is_err(), "bit {bit}");
    }
    for cut in 0..bytes.len() {
        assert!(SealedHeader::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn frame_headers_and_trailers_round_trip() {
    let header = FrameHeader {
        len: 4_096,
        index: 7,
        kind: FrameKind::Commits,
        continues: true,
        first: 1,
        last: u64::MAX,
        durable: 6,
        hedge: *b"12345678",
        crc: 9,
    };
    let mut bytes = header.encode_authenticated().to_vec();
    bytes.extend_from_slice(&9u32.to_le_bytes());
    assert_eq!(FrameHeader::decode(&bytes).unwrap(), header);
    let trailer = Trailer { seal_offset: 1 << 40, frames: 3 };
    let bytes = trailer.encode();
    assert_eq!((bytes.len(), Trailer::decode(&bytes)), (TRAILER_LEN, Some(trailer)));
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Trailer::decode(&altered), None);
    }
}

#[test]
fn structures_of_a_later_version_with_more_fields_still_decode() {
    let state = NodeState { position: Position::new(3), next_space: 9, ..NodeState::default() };
    let mut bytes = minicbor::to_vec(&state).unwrap();
    // One element more at the end of the array, as a later version would write.
    assert_eq!(bytes[0] & 0xe0, 0x80, "a short array");
    bytes[0] += 1;
    bytes.push(0x18);
    bytes.push(0x2a);
    assert_eq!(minicbor::decode::<NodeState>(&bytes).unwrap(), state);
}

#[test]
fn events_round_trip() {
    let layer = LayerRecord {
        node: NodeId::new(1),
        timeline: TimelineId::new(1),
        file: FileId::from_bytes([7; 16]),
        from: None,
        to: Position::new(5),
        consistent_from: Position::new(6),
        timestamp: Timestamp::from_nanos(9),
        level: 2,
        bytes: 3,
        length: 4,
        commitment: [1; 32],
        entries: 8,
    };
    for event in [
        Event::ArchiveCreated {
            key: KeyId::from_bytes([3; 16]),
            recipients: vec![RecipientId::from_bytes([4; 16])],
        },
        Event::NodeCreated { node: NodeId::new(1), name: "n".into(), origin: Origin::Existing },
        Event::LayerPublished(layer),
    ] {
        let actor = Actor { name: "a".into(), reason: "r".into() };
        let entry = CatalogEntry { sequence: 1, time: Timestamp::from_nanos(2), actor, event };
        let bytes = minicbor::to_vec(&entry).unwrap();
        assert_eq!(minicbor::decode::<CatalogEntry>(&bytes).unwrap(), entry);
    }
}

#[test]
fn a_space_is_extended_cut_dropped_and_its_name_used_again() {
    let mut state = NodeState::default();
    let (a, b) = (SpaceId::new(0), SpaceId::new(1));
    let create = |id| Effect::Create(id, PageSize::MIN, "main".into());
    state.apply(&create(a)).unwrap();
    assert!(state.apply(&create(b)).is_err(), "the name is taken");
    state.apply(&Effect::Extend(crate::types::PageId::new(a, 3))).unwrap();
    assert_eq!(state.spaces[&a].length, 4 * 512);
    state.apply(&Effect::SetLength(a, 700)).unwrap();
    assert_eq!(state.spaces[&a].pages(), 2);
    state.apply(&Effect::Drop(a)).unwrap();
    assert!(state.apply(&Effect::SetLength(a, 1)).is_err());
    state.apply(&create(b)).unwrap();
    assert_eq!((state.space_named("main"), state.next_space), (Some(b), 2));
    assert!(state.apply(&Effect::Extend(crate::types::PageId::new(b, u64::MAX))).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_end_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        decode_all(&bytes);
    }

    #[test]
    fn altered_bytes_end_every_decoder(
        pick in 0usize..3,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = match pick {
            0 => header().encode(),
            1 => minicbor::to_vec(NodeState::default()).unwrap(),
            _ => (0..14u8).flat_map(|kind| [kind, 1, 2, 3, 4, 5, 6, 7]).collect(),
        };
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        decode_all(&bytes);
    }
}
