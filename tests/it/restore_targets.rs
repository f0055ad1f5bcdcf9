//! Where restores go, what they say, and what they leave behind when they fail; and which commit a
//! time names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rewound::{
    CompactOptions, ConfigScope, Durability, Error, Lsn, Node, Origin, PageId, PageSink, PageSize,
    Progress, Redo, RedoRecord, ReplayOptions, Result, SpaceId, SpaceState, Target, Timestamp,
};

use crate::support::{TestClock, memory_archive, quiet};

const MARKER: &str = ".rewound-incomplete";

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

fn node() -> (TestClock, Node) {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    (clock, archive.create_node("n", Origin::Empty).unwrap())
}

/// Small units and several threads, so that small states take many steps.
fn small_units(threads: usize) -> ReplayOptions {
    let mut options = ReplayOptions::default();
    options.unit_bytes = 4_096;
    options.threads = threads;
    options
}

type Files = BTreeMap<String, Vec<u8>>;

/// A node with three spaces of different page sizes, and their content at LSN 1 and at LSN 2.
/// Lengths end within a page.
fn three_spaces() -> (Node, Files, Files) {
    let (_, node) = node();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let mut first = Files::new();
    for (name, size, pages) in [("small", 512, 300), ("middle", 4_096, 100), ("large", 65_536, 5)] {
        let space = batch.create_space(name, PageSize::new(size).unwrap()).unwrap();
        let mut bytes = Vec::new();
        for page in 0..pages {
            let image = noise(page + u64::from(size), size as usize);
            batch.write_page(PageId::new(space, page), &image, None).unwrap();
            bytes.extend(image);
        }
        bytes.truncate(bytes.len() - 100);
        batch.set_length(space, bytes.len() as u64).unwrap();
        first.insert(name.to_owned(), bytes);
    }
    batch.commit(Durability::Synced).unwrap();
    let mut batch = writer.batch();
    let mut second = first.clone();
    for (name, size, page) in
        [("small", 512, 7), ("middle", 4_096, 50), ("middle", 4_096, 51), ("large", 65_536, 2)]
    {
        let image = noise(page + 1_000, size);
        batch.write_page(PageId::new(writer.space(name).unwrap(), page), &image, None).unwrap();
        let start = page as usize * size;
        second.get_mut(name).unwrap()[start..start + size].copy_from_slice(&image);
    }
    batch.commit(Durability::Synced).unwrap();
    writer.close().unwrap();
    (node, first, second)
}

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(std::result::Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn lsn(number: u64) -> Target {
    Target::Lsn(Lsn::new(number).unwrap())
}

/// A space: its content, and how often each byte of it was given.
type Given = (SpaceState, Vec<u8>, Vec<u8>);

/// A sink that counts, and can fail.
#[derive(Default)]
struct Counting {
    spaces: Mutex<BTreeMap<SpaceId, Given>>,
    begun: AtomicUsize,
    finished: AtomicUsize,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
    writes: AtomicUsize,
    fail_at: Option<usize>,
}

impl Counting {
    fn begin(&self, spaces: &BTreeMap<SpaceId, SpaceState>) -> &Counting {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let fresh =
            |s: &SpaceState| (s.clone(), vec![0xAA; s.length as usize], vec![0; s.length as usize]);
        *self.spaces.lock().unwrap() = spaces.iter().map(|(id, s)| (*id, fresh(s))).collect();
        self
    }

    fn given(&self, space: SpaceId, offset: u64, bytes: &[u8]) {
        let mut spaces = self.spaces.lock().unwrap();
        let (_, content, counts) = spaces.get_mut(&space).unwrap();
        let range = offset as usize..offset as usize + bytes.len();
        content[range.clone()].copy_from_slice(bytes);
        counts[range].iter_mut().for_each(|c| *c += 1);
    }
}

impl PageSink for &Counting {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_inside.fetch_max(inside, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        self.given(space, offset, bytes);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        if self.fail_at == Some(number) { Err(Error::host("the sink is full")) } else { Ok(()) }
    }

    fn zero(&self, space: SpaceId, offset: u64, length: u64) -> Result<()> {
        self.given(space, offset, &vec![0; length as usize]);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Redo for nodes without records, to act between the pages and the publication.
struct Hook<F: FnMut(Option<&Path>) -> Result<()>>(F);

impl<F: FnMut(Option<&Path>) -> Result<()>> Redo for Hook<F> {
    fn begin(&mut self, dir: Option<&Path>) -> Result<()> {
        (self.0)(dir)
    }

    fn apply(&mut self, _: RedoRecord<'_>) -> Result<()> {
        unreachable!("there are no records")
    }
}

#[test]
fn every_time_names_the_commit_before_it() {
    let (clock, node) = node();
    let mut times = Vec::new();
    let size = PageSize::MAX;
    for round in 0..3 {
        let writer = node.open_writer_with(quiet()).unwrap();
        for i in 0..12 {
            clock.advance(1_000);
            let mut batch = writer.batch();
            let space = match writer.space("s") {
                Some(space) => space,
                None => batch.create_space("s", size).unwrap(),
            };
            // A frame of its own or one for several commits, with and without an entry in the
            // segment's index.
            let length = if i % 4 == 3 { size.bytes() } else { 512 };
            let image = [noise(i + round, length), vec![0; size.bytes() - length]].concat();
            batch.write_page(PageId::new(space, i % 5), &image, None).unwrap();
            let durability = if i % 2 == 0 { Durability::Synced } else { Durability::Buffered };
            times.push(batch.commit(durability).unwrap().timestamp);
            if i % 6 == 5 {
                // While the segment is being written: what is durable.
                check_times(&node, times.get(..writer.durable().get() as usize).unwrap());
            }
        }
        writer.close().unwrap();
        check_times(&node, &times);
    }
}

fn check_times(node: &Node, times: &[Timestamp]) {
    let at = |nanos| node.resolve(&Target::Time(Timestamp::from_nanos(nanos)));
    for (i, time) in times.iter().enumerate() {
        let number = i as u64 + 1;
        assert_eq!(at(time.as_nanos()).unwrap().lsn.get(), number, "at its time");
        let before = [at(time.as_nanos() - 1), node.resolve(&Target::BeforeTime(*time))];
        for resolved in before {
            match resolved {
                Ok(resolved) => assert_eq!(resolved.lsn.get(), number - 1, "before LSN {number}"),
                Err(e) => assert!(
                    i == 0 && matches!(e, Error::BeforeWindow { .. }),
                    "before LSN {number}: {e}"
                ),
            }
        }
        if let Some(next) = times.get(i + 1) {
            assert_eq!(at(next.as_nanos() - 1).unwrap().next, Some(*next));
        }
    }
}

#[test]
fn a_new_directory() {
    let (node, first, second) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("not there yet");
    let report = node.restore(lsn(2)).into_dir(&out).unwrap();
    assert!(files(&out) == second);
    assert_eq!(
        (report.pages_proven, report.pages_unproven),
        (402, 3),
        "the last page of each space is cut"
    );

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    node.restore(lsn(1)).into_dir(&empty).unwrap();
    assert!(files(&empty) == first);

    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("precious"), b"x").unwrap();
    assert!(matches!(node.restore(lsn(1)).into_dir(&taken), Err(Error::TargetNotEmpty { .. })));
    assert_eq!(files(&taken).len(), 1);
    let file = dir.path().join("a file");
    fs::write(&file, b"x").unwrap();
    assert!(matches!(node.restore(lsn(1)).into_dir(&file), Err(Error::TargetNotEmpty { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"x");

    let deep = dir.path().join("some/parents/missing");
    node.restore(lsn(1)).into_dir(&deep).unwrap();
    assert!(files(&deep) == first);
    assert_eq!(
        fs::read_dir(dir.path().join("some/parents")).unwrap().count(),
        1,
        "no temporary directory stays"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn new_files() {
    let (node, _, second) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let names = || ["small", "middle", "large"].iter();
    let all = |under: &str| -> BTreeMap<String, PathBuf> {
        names().map(|n| ((*n).to_owned(), dir.path().join(under).join(format!("{n}.db")))).collect()
    };
    node.restore(Target::Latest).into_files(&all("")).unwrap();
    for name in names() {
        assert!(fs::read(dir.path().join(format!("{name}.db"))).unwrap() == second[*name]);
    }
    assert!(matches!(
        node.restore(Target::Latest).into_files(&all("")),
        Err(Error::TargetNotEmpty { .. })
    ));
    assert!(matches!(
        node.restore(Target::Latest).into_file(dir.path().join("one")),
        Err(Error::BadDestination { reason, .. }) if reason.contains("3 spaces")
    ));

    // Missing parents are made, as they are for a directory.
    node.restore(Target::Latest).into_files(&all("new/parents")).unwrap();
    assert_eq!(files(&dir.path().join("new/parents")).len(), 3);

    // A space without a file, and a file without a space.
    let mut some = all("other");
    some.remove("middle");
    assert!(matches!(
        node.restore(Target::Latest).into_files(&some),
        Err(Error::BadDestination { reason, .. }) if reason.contains("middle")
    ));
    some = all("other");
    some.insert("unknown".into(), dir.path().join("other/unknown.db"));
    assert!(matches!(
        node.restore(Target::Latest).into_files(&some),
        Err(Error::NoSuchSpace { .. })
    ));
    assert!(!dir.path().join("other").exists() || files(&dir.path().join("other")).is_empty());
}

#[test]
fn one_new_file() {
    let (_, node) = node();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("only", PageSize::MAX).unwrap();
    let image = noise(1, 65_536);
    batch.write_page(PageId::new(space, 0), &image, None).unwrap();
    batch.commit(Durability::Synced).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("copy.db");
    node.restore(Target::Latest).into_file(&out).unwrap();
    assert!(fs::read(&out).unwrap() == image);
    assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o600, "a database may hold secrets");
    assert!(matches!(
        node.restore(Target::Latest).into_file(&out),
        Err(Error::TargetNotEmpty { .. })
    ));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn files_appear_all_or_none() {
    let (node, _, _) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let targets: BTreeMap<String, PathBuf> = ["small", "middle", "large"]
        .iter()
        .map(|n| ((*n).to_owned(), dir.path().join(n)))
        .collect();
    // Somebody takes one of the names while the restore runs.
    let mut hook = Hook(|_| {
        fs::write(dir.path().join("small"), b"mine").unwrap();
        Ok(())
    });
    let result = node.restore(Target::Latest).redo(&mut hook).into_files(&targets);
    assert!(matches!(result, Err(Error::TargetNotEmpty { .. })), "{result:?}");
    let left = files(dir.path());
    assert!(left == Files::from([("small".to_owned(), b"mine".to_vec())]), "{:?}", left.keys());
}

#[test]
fn a_sink_of_the_hosts_own() {
    let (node, _, second) = three_spaces();
    let sink = Counting::default();
    let report = node
        .restore(Target::Latest)
        .options(small_units(4))
        .into_sink(|spaces| Ok(sink.begin(spaces)))
        .unwrap();
    assert_eq!((sink.begun.into_inner(), sink.finished.into_inner()), (1, 1));
    assert!(sink.most_inside.into_inner() > 1, "calls come from several threads at a time");
    let mut length = 0;
    for (space, content, counts) in sink.spaces.into_inner().unwrap().into_values() {
        assert!(content == second[&space.name]);
        assert!(counts.iter().all(|c| *c == 1), "every byte once, in {}", space.name);
        length += space.length;
    }
    assert_eq!(report.bytes_written, length);
}

#[test]
fn a_failing_sink_ends_the_restore() {
    let (node, ..) = three_spaces();
    for threads in [1, 4] {
        let sink = Counting { fail_at: Some(5), ..Counting::default() };
        let result = node
            .restore(Target::Latest)
            .options(small_units(threads))
            .into_sink(|spaces| Ok(sink.begin(spaces)));
        assert!(
            matches!(result, Err(Error::Host { source, .. }) if source.to_string() == "the sink is full")
        );
        assert_eq!(sink.finished.into_inner(), 0);
        assert!(sink.writes.into_inner() < 6 + threads, "the other threads stop soon");
    }
}

#[test]
fn nothing_is_left_behind_by_a_failure() {
    let (node, ..) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let targets: BTreeMap<String, PathBuf> = ["small", "middle", "large"]
        .iter()
        .map(|n| ((*n).to_owned(), dir.path().join(n)))
        .collect();
    for _ in 0..2 {
        let mut hook = Hook(|dir| {
            if let Some(dir) = dir {
                fs::write(dir.join("index"), b"half").unwrap();
            }
            Err(Error::host("the engine gave up"))
        });
        let result = node.restore(Target::Latest).redo(&mut hook).into_dir(dir.path().join("out"));
        assert!(matches!(result, Err(Error::Host { .. })));
        let result = node.restore(Target::Latest).redo(&mut hook).into_files(&targets);
        assert!(matches!(result, Err(Error::Host { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    // A progress callback that panics is a bug of the host's; it leaves nothing either.
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.restore(Target::Latest)
            .options(small_units(1))
            .progress(|_| panic!("on purpose"))
            .into_dir(dir.path().join("out"))
    }));
    assert!(panics.is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn progress_only_rises_and_reaches_the_total() {
    let (node, _, second) = three_spaces();
    let length: u64 = second.values().map(|f| f.len() as u64).sum();
    for threads in [1, 8] {
        let mut seen: Vec<Progress> = Vec::new();
        let slow = |p: Progress| {
            if seen.len().is_multiple_of(8) {
                // Meanwhile the other threads finish their units and wait.
                std::thread::sleep(Duration::from_millis(2));
            }
            seen.push(p);
        };
        node.restore(Target::Latest)
            .options(small_units(threads))
            .progress(slow)
            .into_memory()
            .unwrap();
        assert!(seen.len() > 100);
        assert!(seen.iter().all(|p| p.bytes_total == length));
        for pair in seen.windows(2) {
            assert!(pair[0].bytes_done < pair[1].bytes_done, "{pair:?} with {threads} threads");
        }
        assert_eq!(seen.last().unwrap().bytes_done, length);
    }
}

#[test]
fn a_delta_restore_rewrites_what_differs() {
    let (node, first, second) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let whole: u64 = first.values().map(|f| f.len() as u64).sum();
    // From nothing: the directory is made.
    let report = node.restore(lsn(1)).delta_into_dir(&out).unwrap();
    assert!(files(&out) == first && report.bytes_written == whole);
    fs::write(out.join("engine.conf"), b"stays").unwrap();
    let with_conf = |mut files: Files| {
        files.insert("engine.conf".into(), b"stays".to_vec());
        files
    };
    // Forwards, backwards, and to where it is.
    let changed = 512 + 2 * 4_096 + 65_536;
    for (target, wanted, written) in [(2, &second, changed), (1, &first, changed), (1, &first, 0)] {
        let report = node.restore(lsn(target)).delta_into_dir(&out).unwrap();
        assert!(files(&out) == with_conf(wanted.clone()));
        assert_eq!(report.bytes_written, written);
    }
    // Files that are longer, shorter, missing.
    fs::OpenOptions::new().append(true).open(out.join("small")).unwrap().set_len(1 << 20).unwrap();
    fs::OpenOptions::new().write(true).open(out.join("middle")).unwrap().set_len(10_000).unwrap();
    fs::remove_file(out.join("large")).unwrap();
    let report = node.restore(lsn(2)).delta_into_dir(&out).unwrap();
    assert!(files(&out) == with_conf(second.clone()));
    let fresh = second["middle"].len() - 2 * 4_096 + second["large"].len() + 512;
    assert_eq!(report.bytes_written, fresh as u64, "two pages of the shorter file were still good");
}

#[test]
fn an_interrupted_delta_restore_says_so_and_can_be_run_again() {
    let (node, first, second) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    node.restore(lsn(1)).delta_into_dir(&out).unwrap();
    let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut calls = 0;
        let stop = |_| {
            calls += 1;
            assert!(calls < 60, "on purpose");
        };
        node.restore(lsn(2)).options(small_units(1)).progress(stop).delta_into_dir(&out)
    }));
    assert!(interrupted.is_err());
    let mut half = files(&out);
    assert!(half.remove(MARKER).is_some_and(|text| text.starts_with(b"A delta restore")));
    assert!(half != first && half != second, "neither the one nor the other");
    // A restore that does not get as far as writing leaves the marker alone, too.
    assert!(matches!(
        node.restore(lsn(3)).delta_into_dir(&out),
        Err(Error::AfterDurableEnd { .. })
    ));
    assert!(out.join(MARKER).exists());
    node.restore(lsn(2)).delta_into_dir(&out).unwrap();
    assert!(files(&out) == second);
}

/// Every entry of a directory, links as links, with inode and content where it is a file.
fn entries(dir: &Path) -> BTreeMap<String, (u64, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(std::result::Result::unwrap);
    let content = |e: &fs::DirEntry| {
        if e.file_type().unwrap().is_file() { fs::read(e.path()).unwrap() } else { vec![] }
    };
    entries
        .map(|e| (e.file_name().into_string().unwrap(), (e.metadata().unwrap().ino(), content(&e))))
        .collect()
}

#[test]
fn a_delta_restore_writes_through_nothing_that_is_no_file_of_its_own() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    type Put<'a> = &'a dyn Fn(&Path);

    let (node, first, second) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    let put: [(&str, Put<'_>); 5] = [
        ("a symbolic link", &|path| std::os::unix::fs::symlink(&victim, path).unwrap()),
        ("a symbolic link", &|path| std::os::unix::fs::symlink("dangling", path).unwrap()),
        ("hard links", &|path| fs::hard_link(&victim, path).unwrap()),
        ("a FIFO", &|path| {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
    ];
    for (at, (what, put)) in put.iter().enumerate() {
        for name in ["small", "large", MARKER] {
            let out = dir.path().join(format!("{at}-{name}"));
            node.restore(lsn(1)).delta_into_dir(&out).unwrap();
            let _ = fs::remove_file(out.join(name));
            put(&out.join(name));
            let before = entries(&out);
            match node.restore(lsn(2)).delta_into_dir(&out) {
                Err(e @ Error::UnsafeFile { .. }) => {
                    assert!(e.to_string().contains(what) && e.to_string().contains(name), "{e}");
                }
                other => panic!("{what} as {name}: {other:?}"),
            }
            assert_eq!(entries(&out), before, "nothing is written: {what} as {name}");
            assert_eq!(fs::read(&victim).unwrap(), b"precious", "{what} as {name}");
            // Moved away, as the message says, it goes on.
            let _ = (fs::remove_file(out.join(name)), fs::remove_dir(out.join(name)));
            node.restore(lsn(2)).delta_into_dir(&out).unwrap();
            assert!(files(&out) == second && first != second);
        }
    }
}

#[test]
fn a_link_in_the_place_of_the_output_is_not_followed() {
    let (node, ..) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("out")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("new"), dir.path().join("dangling")).unwrap();
    for name in ["out", "dangling"] {
        let target = dir.path().join(name);
        let refused = node.restore(lsn(1)).into_dir(&target);
        assert!(matches!(refused, Err(Error::TargetNotEmpty { .. })), "{refused:?}");
        let all =
            BTreeMap::from(["small", "middle", "large"].map(|n| (n.to_owned(), target.clone())));
        let refused = node.restore(lsn(1)).into_files(&all);
        assert!(matches!(refused, Err(Error::TargetNotEmpty { .. })), "{refused:?}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// Restores in each of the three ways, with something done in the midst of it.
fn restore_and_meanwhile(
    node: &Node,
    way: usize,
    out: &Path,
    meanwhile: &mut (dyn FnMut() + Send),
) -> Result<()> {
    let mut calls = 0;
    let restore = node.restore(lsn(2)).options(small_units(1)).progress(|_| {
        calls += 1;
        if calls == 20 {
            meanwhile();
        }
    });
    match way {
        0 => restore.into_dir(out.join("data")),
        1 => {
            let all = ["small", "middle", "large"].map(|n| (n.to_owned(), out.join(n)));
            restore.into_files(&BTreeMap::from(all))
        }
        _ => restore.delta_into_dir(out.join("data")),
    }
    .map(drop)
}

#[test]
fn a_place_that_is_moved_or_removed_meanwhile_is_no_success() {
    let (node, ..) = three_spaces();
    for way in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let (out, away) = (dir.path().join("out"), dir.path().join("away"));
        fs::create_dir(&out).unwrap();
        let moved =
            restore_and_meanwhile(&node, way, &out, &mut || fs::rename(&out, &away).unwrap());
        let Err(e @ Error::Storage { .. }) = moved else { panic!("{way}: {moved:?}") };
        assert!(e.to_string().contains("moved or removed meanwhile"), "{e}");
        assert!(!out.exists());
        if way < 2 {
            assert_eq!(
                fs::read_dir(&away).unwrap().count(),
                0,
                "nothing is left in a place that nobody named"
            );
        }
        fs::create_dir(&out).unwrap();
        let removed =
            restore_and_meanwhile(&node, way, &out, &mut || fs::remove_dir_all(&out).unwrap());
        assert!(matches!(removed, Err(Error::Storage { .. })), "{way}: {removed:?}");
        assert!(!out.exists());
    }
}

#[test]
fn nothing_has_a_name_before_it_is_complete() {
    let (node, ..) = three_spaces();
    for way in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        restore_and_meanwhile(&node, way, dir.path(), &mut || {
            let mut look = vec![dir.path().to_owned()];
            while let Some(at) = look.pop() {
                for entry in fs::read_dir(at).unwrap().map(std::result::Result::unwrap) {
                    if entry.file_type().unwrap().is_dir() {
                        look.push(entry.path());
                    } else {
                        seen.push(entry.path());
                    }
                }
            }
        })
        .unwrap();
        // File systems that cannot do that have hidden names.
        let hidden = |path: &PathBuf| path.to_string_lossy().contains(".rewound-");
        assert!(
            seen.iter().all(hidden) && (seen.is_empty() || cfg!(not(target_os = "linux"))),
            "{way}: {seen:?}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), if way == 0 { 1 } else { 3 });
    }
}

#[test]
fn what_a_killed_restore_left_goes_with_the_next_one_to_the_same_place() {
    let (node, ..) = three_spaces();
    let dir = tempfile::tempdir().unwrap();
    let id = "00112233445566778899aabbccddeeff";
    let leave = |name: &str| {
        let left = dir.path().join(format!(".{name}.rewound-{id}"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("small"), b"plaintext").unwrap();
        left
    };
    let (of_dir, of_file, of_other) =
        (leave("data"), dir.path().join(format!(".small.rewound-{id}")), leave("other"));
    fs::write(&of_file, b"plaintext").unwrap();
    restore_and_meanwhile(&node, 0, dir.path(), &mut || {
        assert!(!of_dir.exists() && of_file.exists());
    })
    .unwrap();
    // Somebody is at work there.
    let held = fs::File::open(&of_file).unwrap();
    held.lock().unwrap();
    restore_and_meanwhile(&node, 1, dir.path(), &mut || assert!(of_file.exists())).unwrap();
    drop(held);
    for name in ["small", "middle", "large"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    restore_and_meanwhile(&node, 1, dir.path(), &mut || assert!(!of_file.exists())).unwrap();
    assert!(of_other.join("small").exists(), "of another place");
}

/// A space of one tebibyte with three pages.
fn sparse() -> (Node, Vec<(u64, Vec<u8>)>) {
    let (_, node) = node();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("huge", PageSize::KIB_4).unwrap();
    batch.set_length(space, 1 << 40).unwrap();
    let pages: Vec<_> =
        [0, 12_345_678, (1 << 28) - 1].iter().map(|p| (*p, noise(*p, 4_096))).collect();
    for (page, image) in &pages {
        batch.write_page(PageId::new(space, *page), image, None).unwrap();
    }
    batch.commit(Durability::Synced).unwrap();
    writer.close().unwrap();
    (node, pages)
}

fn check_sparse(path: &Path, pages: &[(u64, Vec<u8>)]) {
    let file = fs::File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), 1 << 40);
    assert!(metadata.blocks() * 512 <= 16 << 20, "{} bytes on disk", metadata.blocks() * 512);
    let mut buf = vec![0; 4_096];
    for (page, image) in pages {
        file.read_exact_at(&mut buf, page * 4_096).unwrap();
        assert!(buf == *image);
        if *page + 1 < 1 << 28 {
            file.read_exact_at(&mut buf, (page + 1) * 4_096).unwrap();
            assert!(buf.iter().all(|b| *b == 0));
        }
    }
}

#[test]
fn a_large_sparse_space_is_restored_fast_and_sparse() {
    let (node, pages) = sparse();
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let out = dir.path().join("out");
    let report = node.restore(Target::Latest).into_dir(&out).unwrap();
    check_sparse(&out.join("huge"), &pages);
    assert!(report.bytes_written <= 12 << 20);
    // In place as well: over what is there, over nothing, and over what does not belong there.
    let report = node.restore(Target::Latest).delta_into_dir(&out).unwrap();
    assert_eq!(report.bytes_written, 0);
    fs::OpenOptions::new()
        .write(true)
        .open(out.join("huge"))
        .unwrap()
        .write_at(&[1; 5_000], 1 << 38)
        .unwrap();
    let report = node.restore(Target::Latest).delta_into_dir(&out).unwrap();
    assert!((8_192..=1 << 20).contains(&report.bytes_written), "{}", report.bytes_written);
    check_sparse(&out.join("huge"), &pages);
    let other = dir.path().join("other");
    node.restore(Target::Latest).delta_into_dir(&other).unwrap();
    check_sparse(&other.join("huge"), &pages);
    // The same from a snapshot.
    node.build_snapshot(&Target::Latest, &CompactOptions::default()).unwrap();
    let file = dir.path().join("file");
    node.restore(Target::Latest).into_file(&file).unwrap();
    check_sparse(&file, &pages);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn too_little_space_is_said_before_anything_is_written() {
    const GIB: u64 = 1 << 30;
    const UNITS: u64 = 64 << 10;
    let (_, node) = node();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("vast", PageSize::MIN).unwrap();
    for unit in 0..UNITS {
        batch.write_page(PageId::new(space, unit * (GIB / 512)), &[1; 512], None).unwrap();
    }
    batch.commit(Durability::Synced).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // A page in each unit of the largest size: 64 TiB would be written.
    let mut options = ReplayOptions::default();
    options.unit_bytes = GIB as usize;
    for file in [false, true] {
        let restore = node.restore(Target::Latest).options(options.clone());
        let out = dir.path().join("out");
        let result = if file { restore.into_file(&out) } else { restore.into_dir(&out) };
        match result {
            Err(Error::NotEnoughSpace { needed, available, .. }) => {
                assert_eq!(needed, (UNITS - 1) * GIB + 512);
                assert!(available < needed);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn configuration_of_the_environment_is_told_apart() {
    let (_, node) = node();
    let writer = node.open_writer_with(quiet()).unwrap();
    let set = |key: &str, value: &[u8], scope| {
        let mut batch = writer.batch();
        batch.set_config(key, value, scope).unwrap();
        batch.commit(Durability::Synced).unwrap();
    };
    set("collation", b"de_CH", ConfigScope::Data);
    set("listen", b"10.0.0.7:5432", ConfigScope::Environment);
    set("collation", b"fr_CH", ConfigScope::Data);
    let mut batch = writer.batch();
    batch.remove_config("listen").unwrap();
    batch.commit(Durability::Synced).unwrap();
    let pair = |k: &str, v: &[u8]| BTreeMap::from([(k.to_owned(), v.to_vec())]);
    let none = BTreeMap::new();
    for (number, collation, listen) in [
        (1, "de_CH", none.clone()),
        (2, "de_CH", pair("listen", b"10.0.0.7:5432")),
        (4, "fr_CH", none),
    ] {
        let (report, spaces) = node.restore(lsn(number)).into_memory().unwrap();
        assert_eq!(report.config, pair("collation", collation.as_bytes()));
        assert_eq!(report.environment, listen);
        assert!(spaces.is_empty());
    }
}

#[test]
fn maintenance_waits_for_enough_log() {
    let (_, node) = node();
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut space = None;
    let mut commit = |count: u64| {
        for i in 0..count {
            let mut batch = writer.batch();
            let id =
                *space.get_or_insert_with(|| batch.create_space("s", PageSize::KIB_4).unwrap());
            batch.write_page(PageId::new(id, i % 10), &noise(i, 4_096), None).unwrap();
            batch.commit(Durability::Synced).unwrap();
        }
    };
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 100 << 10;
    commit(40);
    assert_eq!(node.maintain(&options).unwrap().layers, 1);
    // What is in a layer already does not count towards the next one.
    for _ in 0..5 {
        commit(2);
        assert_eq!(node.maintain(&options).unwrap().layers, 0);
    }
    commit(40);
    assert_eq!(node.maintain(&options).unwrap().layers, 1);
}

#[test]
fn restores_run_beside_each_other_and_beside_the_writer() {
    let (node, _, second) = three_spaces();
    let writer = node.open_writer_with(quiet()).unwrap();
    let newest = AtomicU64::new(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let before = newest.load(Ordering::SeqCst);
                    let (report, _) = node.restore(Target::Latest).into_memory().unwrap();
                    assert!(report.lsn.get() >= before, "what was acknowledged is there");
                    assert!(node.restore(lsn(2)).into_memory().unwrap().1 == second);
                }
            });
        }
        let space = writer.space("small").unwrap();
        for i in 0..50 {
            let mut batch = writer.batch();
            batch.write_page(PageId::new(space, i), &noise(i, 512), None).unwrap();
            newest.store(batch.commit(Durability::Synced).unwrap().lsn.get(), Ordering::SeqCst);
        }
    });
}
