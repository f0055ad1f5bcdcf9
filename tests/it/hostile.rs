//! A small archive, altered in every way that somebody or some disk might: each altered copy gives
//! what was archived or an error, never anything else, and never a panic.
//!
//! What is allowed where:
//! - **catalog entries, parts, layers, sealed segments, segments that have a successor**: the right
//!   result (where the altered bytes are not needed, or a CRC-32 that only scrubbers use was hit),
//!   or an error;
//! - **the newest segment**: whether its end was torn by a crash or cut by somebody cannot be told,
//!   as long as nothing else says that more was there. So from the first frame on that nothing
//!   proves durable, it may end early, at a commit that was once its end: then targets beyond are
//!   [`Error::AfterDurableEnd`], and `Latest` is that commit. Proof is: a later frame of the
//!   segment that was written when the frame was durable, or an event in the catalog (a writer that
//!   opened there, a restore point, a layer);
//! - **the newest segment is gone**: the same, down to the segment before;
//! - **the newest catalog entry is gone**: its event has never happened. What it named is not known
//!   (an error); a layer it published is done without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rewound::options::Cancel;
use rewound::storage::{FsStorage, MemStorage};
use rewound::{
    Archive, CompactOptions, DamageKind, Durability, Error, Node, Origin, Result, Target, Timestamp,
};

use crate::ledger::{Asked, Change, Ledger, Run, lsn, on_two, restore, single};
use crate::support::{TestClock, archive_options, key, quiet};

use Change::{Create, Page, Point, Record};
use Durability::{Buffered, Synced};

type Files = BTreeMap<String, Vec<u8>>;

/// The archive as it should be, and what it holds.
struct Estate {
    files: Files,
    commits: Vec<Asked>,
    /// The latest commit that the catalog proves durable.
    proven: u64,
    /// Where its snapshot is.
    snapshot: u64,
}

const LATEST: u64 = 11;

/// Two nodes; of node "a" there are: a sealed segment, one that a crash left, one sealed, the
/// newest one without a seal; a snapshot and layers.
fn estate(seed: u64) -> Estate {
    let clock = TestClock::new();
    let mut run = Run { storage: MemStorage::new(), ledger: Ledger::default() };
    let archive = Archive::create_in(
        Arc::new(run.storage.clone()),
        key(),
        archive_options(&clock, seed << 32),
    )
    .unwrap();
    let a = archive.create_node("a", Origin::Empty).unwrap();
    let writer = a.open_writer_with(quiet()).unwrap();
    let commit = |run: &mut Run, writer: &_, durability, changes: &[Change]| {
        clock.advance(1_000_000);
        run.commit("a", writer, durability, changes).unwrap();
    };
    commit(
        &mut run,
        &writer,
        Synced,
        &[Create("main"), Page("main", 0, 1, false), Page("main", 2, 2, false)],
    );
    commit(&mut run, &writer, Synced, &[Page("main", 0, 3, true)]);
    commit(&mut run, &writer, Synced, &[Page("main", 2, 4, true)]);
    writer.rotate_segment().unwrap();
    commit(&mut run, &writer, Synced, &[Page("main", 1, 5, false), Point("point")]);
    commit(&mut run, &writer, Synced, &[Page("main", 0, 6, true), Record(5)]);
    // A crash; the writer notices that nobody else does.
    run.storage = run.storage.fork();
    drop((writer, a, archive));
    let options = archive_options(&clock, (seed << 32) + 1);
    let archive = Archive::open_in(Arc::new(run.storage.clone()), key(), options).unwrap();
    let a = archive.node("a").unwrap();
    let writer = a.open_writer_with(quiet()).unwrap();
    commit(&mut run, &writer, Synced, &[Page("main", 2, 7, false)]);
    commit(&mut run, &writer, Buffered, &[Page("main", 2, 8, true)]);
    writer.rotate_segment().unwrap();
    let mut compact = CompactOptions::default();
    compact.layer_log_bytes = 3_000;
    compact.replay = single();
    a.maintain(&compact).unwrap();
    let proven = a.layers().unwrap().iter().map(|l| l.to.get()).max().unwrap();
    let snapshot = a.layers().unwrap().iter().find(|l| l.from.is_none()).unwrap().to.get();
    assert!(proven >= 4);
    for n in 9..=LATEST + 1 {
        commit(&mut run, &writer, Synced, &[Page("main", n % 3, n, true)]);
    }
    let commits = run.ledger.nodes.remove("a").unwrap().commits;
    assert_eq!(commits.len() as u64, LATEST);
    // Another node with segments of the same numbers.
    let b = archive.create_node("b", Origin::Empty).unwrap();
    let other = b.open_writer_with(quiet()).unwrap();
    run.commit("b", &other, Synced, &[Create("main"), Page("main", 0, 99, false)]).unwrap();
    other.close().unwrap();
    let mut files = run.storage.fork().files();
    for bytes in files.values_mut() {
        // Zeroed space behind the end is cut short: flipping it says the same everywhere.
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        bytes.truncate(bytes.len().min(end + 40));
    }
    Estate { files, commits, proven, snapshot }
}

fn storage(files: &Files) -> MemStorage {
    let storage = MemStorage::without_recording();
    for (path, bytes) in files {
        storage.set_file(path, bytes.as_slice());
    }
    storage
}

fn open(storage: &MemStorage) -> Result<Archive> {
    Archive::open_in(Arc::new(storage.clone()), key(), archive_options(&TestClock::new(), 77 << 32))
}

/// What may come out, beside errors.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    /// The window may begin here at the latest.
    begin: u64,
    /// The log may end here at the earliest.
    end: u64,
}

const EXACT: Allowed = Allowed { begin: 1, end: LATEST };

impl Estate {
    fn paths(&self, part: &str) -> Vec<String> {
        self.files.keys().filter(|p| p.contains(part)).cloned().collect()
    }

    fn segments(&self) -> Vec<String> {
        self.paths("nodes/00000001/wal/")
    }

    /// Asks for one target and checks the answer; `expected` is the commit that it names in the
    /// whole archive.
    fn ask(&self, node: &Node, target: Target, expected: u64, allowed: Allowed, what: &str) {
        let what = format!("{what}: {target}");
        let open_ended = target == Target::Latest;
        match restore(node, target) {
            Ok((reached, spaces)) => {
                assert!(
                    reached == expected
                        || (open_ended && (allowed.end..=LATEST).contains(&reached)),
                    "{what}: gave LSN {reached}, not {expected} ({allowed:?})"
                );
                assert!(
                    spaces == self.commits[reached as usize - 1].spaces,
                    "{what}: LSN {reached} differs"
                );
            }
            Err(e) => Self::judge(&e, expected, allowed, &what),
        }
    }

    /// An error has to be one of damage, with a path; or say that the log ends before the target
    /// where it may.
    fn judge(error: &Error, expected: u64, allowed: Allowed, what: &str) {
        match error {
            Error::Damaged(damage) => assert!(!damage.path.is_empty(), "{what}: {error}"),
            // At the very end a time may lie a moment beyond.
            Error::AfterDurableEnd { .. } => assert!(expected >= allowed.end, "{what}: {error}"),
            Error::BeforeWindow { .. } => assert!(expected < allowed.begin, "{what}: {error}"),
            Error::Gap { .. }
            | Error::FormatTooNew { .. }
            | Error::WrongKey { .. }
            | Error::KeyProvider { .. }
            | Error::NoArchive { .. }
            | Error::NoSuchNode { .. }
            | Error::TargetNotFound { .. } => {}
            _ => panic!("{what}: not an error of damage: {error}"),
        }
    }

    /// Asks for several targets and the window, and with `write` for a writer.
    fn probe(
        &self,
        storage: &MemStorage,
        node: Option<&Node>,
        write: bool,
        allowed: Allowed,
        what: &str,
    ) {
        self.probe_for(storage, node, write, &[3, 5, 7, 8, LATEST], allowed, what);
    }

    /// Asks for the window, and for some commits: by LSN, by time, by name or as the latest.
    fn probe_for(
        &self,
        storage: &MemStorage,
        node: Option<&Node>,
        write: bool,
        asked: &[u64],
        allowed: Allowed,
        what: &str,
    ) {
        let begun = Instant::now();
        let opened = match node {
            Some(node) => node.clone(),
            None => match open(storage).and_then(|archive| archive.node("a")) {
                Ok(node) => node,
                Err(e) => return Self::judge(&e, 0, allowed, what),
            },
        };
        match opened.window() {
            Ok(window) => {
                let (earliest, latest) = (window.earliest.lsn.get(), window.latest.lsn.get());
                assert!(earliest <= allowed.begin, "{what}: the window begins at {earliest}");
                assert!(
                    (allowed.end..=LATEST).contains(&latest),
                    "{what}: the window ends at {latest}"
                );
                assert_eq!(
                    Some(window.latest.timestamp),
                    self.commits[latest as usize - 1].timestamp,
                    "{what}"
                );
                for &number in asked {
                    let time = self.commits[number as usize - 1].timestamp.unwrap().as_nanos();
                    let target = match number {
                        LATEST => Target::Latest,
                        5 | 7 => Target::Time(Timestamp::from_nanos(time + 5)),
                        4 => Target::RestorePoint("point".into()),
                        _ => lsn(number),
                    };
                    self.ask(&opened, target, number, allowed, what);
                }
            }
            Err(e) => Self::judge(&e, LATEST, allowed, what),
        }
        if write {
            match opened.open_writer_with(quiet()) {
                Ok(writer) => {
                    let latest = writer.newest().get();
                    assert!(
                        (allowed.end..=LATEST).contains(&latest),
                        "{what}: the writer begins at {latest}"
                    );
                }
                Err(e) => Self::judge(&e, LATEST, allowed, what),
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: took {:?}", begun.elapsed());
    }

    /// The commits whose restore reads a file.
    fn readers_of(&self, path: &str) -> &'static [u64] {
        match self.segments().iter().position(|s| s == path) {
            Some(0) => &[3],
            Some(1) => &[4, 5],
            Some(2) => &[5, 7, LATEST],
            Some(_) => &[8, LATEST],
            None if path.contains("/00000002/") => &[LATEST],
            None => &[7, LATEST],
        }
    }

    /// From which byte on nothing in the newest segment proves its bytes durable, and the commits
    /// before.
    fn unproven(&self) -> (usize, Vec<(usize, u64)>) {
        let newest = self.segments().pop().unwrap();
        let bytes = &self.files[&newest];
        let mut at = 280 + usize::from(u16::from_le_bytes([bytes[274], bytes[275]]));
        let mut frames = Vec::new();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        while bytes[at..].starts_with(b"RWF1") {
            let last = u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap());
            let end = at + 48 + number(at + 4) as usize;
            frames.push((at, end, last, number(at + 32)));
            at = end;
        }
        let durable = frames.iter().map(|f| f.3).max().unwrap() as usize;
        assert!(durable > 2 && durable < frames.len());
        (frames[durable].0, frames.iter().map(|f| (f.1, f.2)).collect())
    }

    /// What is allowed when the newest segment is damaged at `offset`, or ends there.
    fn newest_damaged(&self, offset: usize, cut: bool) -> Allowed {
        let (unproven, frames) = self.unproven();
        if !cut && offset < unproven {
            return EXACT;
        }
        let whole = frames
            .iter()
            .take_while(|(end, _)| *end <= offset)
            .map(|(_, last)| *last)
            .max()
            .unwrap_or(LATEST);
        Allowed { begin: 1, end: whole.max(self.proven) }
    }
}

#[test]
fn unaltered_it_holds_what_was_archived() {
    let estate = estate(1);
    let storage = storage(&estate.files);
    let node = open(&storage).unwrap().node("a").unwrap();
    for number in 1..=LATEST {
        let (reached, spaces) = restore(&node, lsn(number)).unwrap();
        assert!(reached == number && spaces == estate.commits[number as usize - 1].spaces);
    }
    assert_eq!(node.window().unwrap().latest.lsn.get(), LATEST);
    estate.probe(&storage, None, true, EXACT, "unaltered");
    assert_eq!(estate.segments().len(), 4);
    let total: usize = estate.files.values().map(Vec::len).sum();
    assert!(total < 40_000, "{total} bytes");
}

#[test]
fn every_byte_is_flipped() {
    let estate = estate(1);
    let newest = estate.segments().pop().unwrap();
    let items: Vec<(&String, usize)> = estate
        .files
        .iter()
        .flat_map(|(path, bytes)| (0..bytes.len()).map(move |at| (path, at)))
        .collect();
    on_two(items.chunks(64), |chunk| {
        // Reading a file again reads it again, the catalog excepted: that is folded once, by a new
        // archive.
        let storage = storage(&estate.files);
        let node = open(&storage).unwrap().node("a").unwrap();
        for (path, at) in chunk {
            let bit = 1 << ((at * 7 + path.len()) % 8);
            for mask in [bit, 0xff] {
                let mut bytes = estate.files[*path].clone();
                bytes[*at] ^= mask;
                storage.set_file(path, bytes);
                let what = format!("{path}: byte {at} ^ {mask:#04x}");
                if path.starts_with("catalog/") {
                    estate.probe(&storage, None, false, EXACT, &what);
                    continue;
                }
                let asked = estate.readers_of(path);
                let newest = **path == newest;
                let allowed = if newest { estate.newest_damaged(*at, false) } else { EXACT };
                estate.probe_for(&storage, Some(&node), false, asked, allowed, &what);
                if newest && mask == bit {
                    estate.probe_for(&storage.fork(), None, true, &[], allowed, &what);
                }
            }
            storage.set_file(path, estate.files[*path].as_slice());
        }
    });
}

#[test]
fn every_file_is_cut_everywhere() {
    let estate = estate(1);
    let newest = estate.segments().pop().unwrap();
    on_two(estate.files.iter(), |(path, bytes)| {
        let storage = storage(&estate.files);
        let node = open(&storage).unwrap().node("a").unwrap();
        for len in 0..bytes.len() {
            storage.set_file(path, &bytes[..len]);
            let what = format!("{path} cut at {len}");
            if path.starts_with("catalog/") {
                estate.probe(&storage, None, false, EXACT, &what);
            } else if *path == newest {
                let allowed = estate.newest_damaged(len, true);
                estate.probe_for(
                    &storage.fork(),
                    None,
                    true,
                    estate.readers_of(path),
                    allowed,
                    &what,
                );
            } else {
                estate.probe_for(
                    &storage,
                    Some(&node),
                    false,
                    estate.readers_of(path),
                    EXACT,
                    &what,
                );
            }
        }
    });
}

#[test]
fn files_go_missing() {
    let estate = estate(1);
    let newest = estate.segments().pop().unwrap();
    let newest_entry = estate.paths("catalog/").pop().unwrap();
    for path in estate.files.keys() {
        let mut files = estate.files.clone();
        files.remove(path);
        let allowed = match path {
            _ if *path == newest => Allowed { begin: 1, end: estate.proven.max(7) },
            // As when retention takes it: what there is begins with the snapshot.
            _ if *path == estate.segments()[0] => Allowed { begin: estate.snapshot, end: LATEST },
            _ => EXACT,
        };
        let storage = storage(&files);
        let what = format!("{path} missing");
        // Of a missing part or layer, or an entry in the middle, the error says which.
        if path.contains("/parts/") || path.contains("/layers/") {
            let node = open(&storage).unwrap().node("a").unwrap();
            for error in [5, 7, LATEST].into_iter().filter_map(|n| restore(&node, lsn(n)).err()) {
                let Error::Damaged(damage) = error else { panic!("{what}: {error:?}") };
                assert_eq!((damage.kind, &damage.path), (DamageKind::Missing, path), "{what}");
            }
        }
        if path.starts_with("catalog/") && *path != newest_entry {
            let error = open(&storage).map(drop).unwrap_err();
            assert!(
                error.is_damage() && error.to_string().contains(path.as_str()),
                "{what}: {error}"
            );
        }
        estate.probe(&storage, None, true, allowed, &what);
    }
    // All segments, the whole log, the whole catalog.
    for part in ["/wal/", "/parts/", "/layers/", "nodes/"] {
        let mut files = estate.files.clone();
        files.retain(|path, _| !path.contains(part));
        estate.probe(
            &storage(&files),
            None,
            true,
            Allowed { end: estate.proven, ..EXACT },
            &format!("no {part}"),
        );
    }
    let mut files = estate.files.clone();
    files.retain(|path, _| !path.starts_with("catalog/"));
    assert!(matches!(open(&storage(&files)), Err(Error::NoArchive { .. })));
}

#[test]
fn files_are_swapped_and_copied_in() {
    let (estate, foreign) = (estate(1), estate(2));
    let paths: Vec<&String> =
        estate.files.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(path, _)| path).collect();
    let kind = |path: &str| path.rsplit_once('.').map(|(_, kind)| kind.to_owned());
    let newest = estate.segments().pop().unwrap();
    let mut copies: Vec<(String, String, Vec<u8>)> = Vec::new();
    for to in &paths {
        for from in &paths {
            if to != from && kind(to) == kind(from) {
                copies.push(((*to).clone(), format!("from {from}"), estate.files[*from].clone()));
            }
        }
        // The file of the same number of another archive with the same key, and any of its kind.
        for (from, bytes) in foreign.files.iter().filter(|(from, _)| kind(from) == kind(to)) {
            copies.push(((*to).clone(), format!("from another archive, {from}"), bytes.clone()));
        }
    }
    on_two(copies.into_iter(), |(to, what, bytes)| {
        let mut files = estate.files.clone();
        files.insert(to.clone(), bytes);
        estate.probe(&storage(&files), None, to == newest, EXACT, &format!("{to}: {what}"));
    });
    // Two files change places.
    for (i, one) in paths.iter().enumerate() {
        for two in paths.iter().skip(i + 1).filter(|two| kind(one) == kind(two)) {
            let mut files = estate.files.clone();
            files.insert((*one).clone(), estate.files[*two].clone());
            files.insert((*two).clone(), estate.files[*one].clone());
            estate.probe(&storage(&files), None, false, EXACT, &format!("{one} and {two} swapped"));
        }
    }
}

#[test]
fn files_are_added() {
    let estate = estate(1);
    let segments = estate.segments();
    let dir = segments[0].rsplit_once('/').unwrap().0.to_owned();
    let mut added: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, source) in [
        // One that would be the newest, one of a number that is taken, one of no number, one in the
        // next group.
        (format!("{dir}/0000000000000005-000000000000000b.seg"), &segments[3]),
        (format!("{dir}/0000000000000003-0000000000000001.seg"), &segments[2]),
        (format!("{dir}/junk.seg"), &segments[2]),
        (
            dir.replace("/00000000", "/00000001") + "/0000000000000400-000000000000000b.seg",
            &segments[3],
        ),
        ("catalog/00000000/junk.entry".into(), &segments[0]),
        ("catalog/00000000/dead.entry".into(), &segments[0]),
        ("catalog/00000001/0000000000000400.entry".into(), &segments[0]),
        ("catalog/junk".into(), &segments[0]),
        ("tmp/w00000001-junk".into(), &segments[0]),
    ] {
        added.push((name, estate.files[source].clone()));
    }
    let next = format!("catalog/00000000/{:016x}.entry", estate.paths("catalog/").len() + 1);
    added.push((next.clone(), Vec::new()));
    added.push((next, estate.files[&estate.paths("catalog/")[2]].clone()));
    for (path, bytes) in added {
        let mut files = estate.files.clone();
        files.insert(path.clone(), bytes);
        estate.probe(&storage(&files), None, true, EXACT, &format!("{path} added"));
    }
}

#[test]
fn garbage_is_appended() {
    let estate = estate(1);
    for (path, bytes) in &estate.files {
        for tail in [
            vec![0; 1],
            vec![0; 4_096],
            b"RWF1".repeat(64),
            crate::ledger::noise(700),
            bytes.clone(),
        ] {
            let mut files = estate.files.clone();
            files.get_mut(path).unwrap().extend_from_slice(&tail);
            let what = format!("{path} with {} bytes more", tail.len());
            estate.probe(&storage(&files), None, true, EXACT, &what);
        }
    }
}

/// Files made 20 GB long by a hole: every length is bounded, and nothing takes long.
#[test]
fn files_are_made_huge_by_a_hole() {
    let estate = estate(1);
    let newest = estate.segments().pop().unwrap();
    for path in estate.files.keys().filter(|p| !p.ends_with(".lock")) {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in &estate.files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join(path))
            .unwrap()
            .set_len(20 << 30)
            .unwrap();
        let begun = Instant::now();
        let storage = FsStorage::new(dir.path());
        let report = rewound::verify_checksums(&storage, &Cancel::new(), &mut |_| {}).unwrap();
        assert_eq!(report.is_intact(), path.ends_with(".seg"), "{path}: {:?}", report.findings);
        let options = archive_options(&TestClock::new(), 77 << 32);
        let opened = Archive::open_in(Arc::new(storage), key(), options);
        let archive = match opened {
            Ok(archive) => archive,
            Err(e) => {
                assert!(path.starts_with("catalog/") && e.is_damage(), "{path}: {e}");
                continue;
            }
        };
        let node = archive.node("a").unwrap();
        for number in 1..=LATEST {
            let (reached, spaces) =
                restore(&node, lsn(number)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(
                reached == number && spaces == estate.commits[number as usize - 1].spaces,
                "{path}"
            );
        }
        let report = archive.verify(&rewound::VerifyOptions::default(), &mut |_| {}).unwrap();
        assert_eq!(report.is_intact(), path.ends_with(".seg"), "{path}: {:?}", report.findings);
        if *path == newest {
            let writer = node.open_writer_with(quiet()).unwrap();
            assert_eq!(writer.newest().get(), LATEST);
            writer.close().unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{path}: took {:?}", begun.elapsed());
    }
}
