//! The fold, over arbitrary events: a checkpoint holds what the entries say, and no entry makes the
//! fold panic.

use proptest::prelude::*;

use super::*;
use crate::format::event::Origin;
use crate::format::retention::{Deletion, ExpiredFiles, HoldScope, Policy, Span, TimelineExpiry};
use crate::sealed::encode_cbor;
use crate::types::{FileId, KeyId, Position, Timestamp};

/// Small numbers that coincide, and the ends of the range.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..4u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![number(), (20_000..20_010u64).prop_map(|day| day * 86_400_000_000_000)]
        .prop_map(Timestamp::from_nanos)
}

fn position() -> impl Strategy<Value = Position> {
    number().prop_map(Position::new)
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..3u32).prop_map(NodeId::new)
}

fn timeline() -> impl Strategy<Value = TimelineId> {
    (1..3u32).prop_map(TimelineId::new)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), ".{0,5}"]
}

fn duration() -> impl Strategy<Value = std::time::Duration> {
    number().prop_map(std::time::Duration::from_nanos)
}

fn policy() -> impl Strategy<Value = Policy> {
    let mode = prop_oneof![
        duration().prop_map(Policy::continuous),
        (duration(), duration(), any::<u32>(), duration())
            .prop_map(|(a, b, n, c)| Policy::periodic(a, b, n).log_for(c)),
    ];
    (mode, duration(), duration())
        .prop_map(|(p, points, grace)| p.restore_points_for(points).grace(grace))
}

fn span() -> impl Strategy<Value = Span> {
    let optional = || prop::option::of(position());
    (position(), optional(), position(), optional()).prop_map(|(from, to, base, log)| Span {
        from,
        to,
        base,
        log,
    })
}

fn scope() -> impl Strategy<Value = HoldScope> {
    prop_oneof![
        Just(HoldScope::Archive),
        node().prop_map(|node| HoldScope::Node { node }),
        (node(), timeline(), position(), prop::option::of(position()))
            .prop_map(|(node, timeline, from, to)| HoldScope::Commits { node, timeline, from, to }),
    ]
}

fn expired() -> impl Strategy<Value = Event> {
    let ranges = prop::collection::vec((number(), number()), 0..3);
    let timelines = (timeline(), prop::collection::vec(span(), 0..3), ranges)
        .prop_map(|(timeline, kept, segments)| TimelineExpiry { timeline, kept, segments });
    (node(), time(), prop::collection::vec(timelines, 0..3), number(), prop::bool::weighted(0.1))
        .prop_map(|(node, clock, timelines, grace, last)| {
            let files =
                ExpiredFiles { layers: vec![FileId::from_bytes([1; 16])], parts: Vec::new() };
            Event::FilesExpired { node, clock, timelines, files, grace, last }
        })
}

fn event() -> impl Strategy<Value = Event> {
    let some_node = || prop::option::of(node());
    let deletion =
        prop_oneof![Just(Deletion::Live), time().prop_map(Deletion::Until), Just(Deletion::Final)];
    let first = prop_oneof![
        (node(), name()).prop_map(|(node, name)| Event::NodeCreated {
            node,
            name,
            origin: Origin::Empty
        }),
        (node(), timeline(), position(), number()).prop_map(|(node, timeline, position, n)| {
            Event::WriterOpened { node, timeline, epoch: Epoch::new(n), position }
        }),
        (node(), timeline(), name(), position(), time()).prop_map(
            |(node, timeline, name, position, timestamp)| {
                Event::RestorePoint { node, timeline, name, position, timestamp }
            }
        ),
        (node(), timeline(), timeline(), position()).prop_map(|(node, timeline, parent, fork)| {
            Event::TimelineCreated { node, timeline, parent, fork }
        }),
        (some_node(), policy(), time())
            .prop_map(|(node, policy, covers)| Event::RetentionChanged { node, policy, covers }),
    ];
    let second = prop_oneof![
        (some_node(), name()).prop_map(|(node, name)| Event::LockPlaced { node, name }),
        (some_node(), name()).prop_map(|(node, name)| Event::LockReleased { node, name }),
        (name(), scope(), prop::option::of(time()))
            .prop_map(|(name, scope, until)| Event::HoldPlaced { name, scope, until }),
        name().prop_map(|name| Event::HoldReleased { name }),
        expired(),
        (node(), 0..30u64, number(), number()).prop_map(|(node, entry, files, bytes)| {
            Event::FilesRemoved { node, entry, files, bytes }
        }),
        (some_node(), deletion)
            .prop_map(|(node, deletion)| Event::DeletionChanged { node, deletion }),
        (time(), time(), any::<bool>()).prop_map(|(clock, archived, confirmed)| {
            Event::ClockObserved { clock, archived, confirmed }
        }),
    ];
    prop_oneof![first, second]
}

proptest! {
    #[test]
    fn a_checkpoint_at_any_entry_says_what_the_entries_before_it_say(
        events in prop::collection::vec((time(), name(), event()), 1..60),
    ) {
        let mut state = CatalogState::default();
        let mut decoded = CatalogState::default();
        let beginnings = [
            Event::ArchiveCreated { key: KeyId::from_bytes([1; 16]), recipients: Vec::new() },
            Event::NodeCreated { node: NodeId::new(1), name: "one".into(), origin: Origin::Empty },
        ];
        let beginnings = beginnings.map(|event| (Timestamp::ZERO, String::new(), event));
        for (time, reason, event) in beginnings.into_iter().chain(events) {
            let actor = Actor { name: "x".into(), reason };
            let entry = CatalogEntry { sequence: state.entries + 1, time, actor, event };
            // What an archive is opened from, and the next entry after that.
            let (mut next, mut other) = (state.clone(), decoded.clone());
            let folded = next.fold(&entry, "entry");
            prop_assert_eq!(folded.is_ok(), other.fold(&entry, "entry").is_ok());
            if folded.is_err() {
                continue;
            }
            prop_assert_eq!(&next, &other);
            let bytes = encode_cbor(&next);
            decoded = minicbor::decode(&bytes).unwrap();
            prop_assert_eq!(&decoded, &next);
            state = next;
            // Queries of the state must accept any numbers.
            for node in [NodeId::new(1), NodeId::new(2)] {
                let _ = (state.check_live(node).is_ok(), state.holds(node, time).count());
                let Some(record) = state.nodes.get(&node) else { continue };
                let view = state.view(node).unwrap();
                for lineage in view.timelines().into_iter().map(|timeline| view.lineage(timeline)) {
                    for at in [Position::ORIGIN, Position::new(2), Position::new(u64::MAX)] {
                        let replay_floor = view.replay_floor(&lineage, at);
                        prop_assert!(replay_floor.is_none_or(|replay_floor| replay_floor <= at));
                    }
                    let _ = (view.layers(&lineage), view.origin(&lineage), view.durable_end(&lineage));
                }
                let starts = [0, 1, 2, 3, u64::MAX].map(Position::new);
                let kept = record.retention.kept(TimelineId::new(1)).unwrap_or_default();
                for range in crate::format::retention::segments_of(kept, &starts, |s| *s) {
                    prop_assert!(range.start < range.end && range.end <= starts.len());
                }
                let _ = crate::retention::promises(&state, node);
            }
        }
    }
}

/// An archive of an earlier version, whose clock once read a time beyond the range that is accepted
/// now.
#[test]
fn a_time_out_of_range_in_an_entry_is_not_carried_on() {
    #[derive(Debug)]
    struct At(u64);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_nanos(self.0)
        }
    }
    let storage: Arc<dyn Storage> = Arc::new(crate::storage::MemStorage::new());
    let keyring = crate::crypto::KeyFile::from_bytes([7; 32]).into();
    let rng: Arc<dyn crate::env::Rng> = Arc::new(crate::env::SystemRng);
    let keys =
        ArchiveKeys::create(ArchiveId::from_bytes([1; 16]), &keyring, Backend::default(), rng)
            .unwrap();
    let actor = Actor { name: "a".into(), reason: "r".into() };
    let catalog = Catalog::create(storage, keys, Arc::new(At(1_000)), &actor).unwrap();
    let locked = |n: u32| Event::LockPlaced { node: None, name: n.to_string() };
    for (last, expected) in
        [(500, 1_000), (2_000, 2_000), (u64::MAX, 1_000), (u64::MAX / 2 + 1, 1_000)]
    {
        catalog.state.lock().time = Timestamp::from_nanos(last);
        catalog.append(&actor, |_| Ok((locked(1), ()))).unwrap();
        assert_eq!(catalog.current().unwrap().time.as_nanos(), expected, "after {last}");
    }
}

/// Once a number is taken, others remove the temporary files for it. A late writer must learn that
/// the number is taken, not that something has failed.
#[test]
fn what_was_removed_as_a_leftover_has_lost_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let storage = crate::storage::FsStorage::new(dir.path().join("archive"));
    for dir in ["", "tmp", "catalog"] {
        storage.create_dir(dir).unwrap();
    }
    let keyring = crate::crypto::KeyFile::from_bytes([7; 32]).into();
    let rng: Arc<dyn crate::env::Rng> = Arc::new(crate::env::SystemRng);
    let keys =
        ArchiveKeys::create(ArchiveId::from_bytes([1; 16]), &keyring, Backend::default(), rng)
            .unwrap();
    let begin = || {
        let info = FileInfo {
            kind: FileKind::Catalog,
            node: NodeId::default(),
            timeline: TimelineId::default(),
            epoch: Epoch::default(),
            sequence: 1,
            from: 0,
            to: 0,
            created: Timestamp::ZERO,
            link: [0; 32],
        };
        SealedWriter::create(&storage, &keys, Scope::Entry(1), info).unwrap()
    };
    let lost = begin();
    crate::sealed::remove_leftovers(&storage, Scope::Entry(1)).unwrap();
    let e = lost.publish("catalog/entry", &[]).unwrap_err();
    assert!(matches!(e, Error::Storage { .. }), "nobody else has the name: {e}");
    let (late, first) = (begin(), begin());
    assert!(first.publish("catalog/entry", &[]).unwrap().is_some());
    crate::sealed::remove_leftovers(&storage, Scope::Entry(1)).unwrap();
    assert!(late.publish("catalog/entry", &[]).unwrap().is_none());
}

/// The walk from a timeline to its parent would not end.
#[test]
fn a_checkpoint_with_a_timeline_that_is_its_own_parent_is_done_without() {
    let storage: Arc<dyn Storage> = Arc::new(crate::storage::MemStorage::new());
    let keyring = crate::crypto::KeyFile::from_bytes([7; 32]).into();
    let rng: Arc<dyn crate::env::Rng> = Arc::new(crate::env::SystemRng);
    let clock: Arc<dyn Clock> = Arc::new(crate::env::SystemClock);
    let keys = ArchiveKeys::create(
        ArchiveId::from_bytes([1; 16]),
        &keyring,
        Backend::default(),
        rng.clone(),
    )
    .unwrap();
    let actor = Actor { name: "a".into(), reason: "r".into() };
    let catalog = Catalog::create(storage.clone(), keys, clock.clone(), &actor).unwrap();
    let node = NodeId::new(1);
    let created = Event::NodeCreated { node, name: "n".into(), origin: Origin::Empty };
    catalog.append(&actor, |_| Ok((created.clone(), ()))).unwrap();
    for (timeline, parent) in
        [(2, 2), (2, 3), (1, 1)].map(|(a, b)| (TimelineId::new(a), TimelineId::new(b)))
    {
        let mut state = catalog.current().unwrap().clone();
        state.nodes.get_mut(&node).unwrap().parents.insert(timeline, (parent, Position::ORIGIN));
        // What is written is read back.
        assert!(
            checkpoint::write(storage.as_ref(), catalog.keys(), &state).is_err(),
            "{timeline} of {parent}"
        );
        let opened = Catalog::open(
            storage.clone(),
            &keyring,
            Backend::default(),
            rng.clone(),
            clock.clone(),
        )
        .unwrap();
        assert_eq!(opened.current().unwrap().view(node).unwrap().timelines(), [TimelineId::FIRST]);
        storage.delete(&crate::names::checkpoint_path(state.entries)).unwrap();
    }
}
