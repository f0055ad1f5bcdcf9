//! A process that forks: what the child does with what it inherited is none of the parent's affair.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rewound::{
    Actor, Archive, BaseSpace, Batch, CompactOptions, Consistency, Durability, Error, KeyFile,
    Node, Origin, PageId, PageSize, PageSource, Position, Redo, RedoRecord, Result, Scope, SpaceId,
    Target, Writer, WriterOptions,
};

use crate::forking::{end, fork, in_child, leave, wait};
use crate::support::quiet;

const SIZE: usize = 512;

fn key() -> KeyFile {
    KeyFile::from_bytes([5; 32])
}

#[track_caller]
fn forked<T: Debug>(done: Result<T>) {
    match done {
        Err(e @ Error::Forked { .. }) => {
            assert!(e.to_string().contains("open it again in this process"), "{e}");
        }
        other => panic!("{other:?} instead of a refusal"),
    }
}

fn node(path: &Path, origin: Origin) -> (Archive, Node) {
    let archive = Archive::create(path, key()).unwrap();
    let node = archive.create_node("n", origin).unwrap();
    (archive, node)
}

fn commit(writer: &Writer, space: SpaceId, byte: u8, durability: Durability) {
    let mut batch = writer.batch();
    batch.write_page(PageId::new(space, 0), &[byte; SIZE], None).unwrap();
    batch.commit(durability).unwrap();
}

fn first(writer: &Writer) -> SpaceId {
    let mut batch = writer.batch();
    let space = batch.create_space("main", PageSize::MIN).unwrap();
    batch.write_page(PageId::new(space, 0), &[1; SIZE], None).unwrap();
    batch.commit(Durability::Synced).unwrap();
    space
}

/// A batch that has gone to its temporary file.
fn spilled(writer: &Writer, space: SpaceId) -> Batch {
    let mut batch = writer.batch();
    for n in 1..200u64 {
        let noise: Vec<u8> =
            (0..SIZE as u64).map(|i| (n.wrapping_mul(i * i + 7) >> 3) as u8).collect();
        batch.write_page(PageId::new(space, n), &noise, None).unwrap();
    }
    batch
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir)
        .map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect());
    let mut names: Vec<String> = entries.unwrap_or_default();
    names.sort();
    names
}

/// With a thread of the writer's and without; the child drops all, closes, or uses what it has.
#[test]
fn a_child_that_inherited_a_writer_does_nothing_to_it() {
    for threaded in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        let (archive, node) = node(&path, Origin::Empty);
        let mut options = if threaded { WriterOptions::default() } else { quiet() };
        options.flush_interval = options.flush_interval.map(|_| Duration::from_millis(1));
        (options.frame_bytes, options.batch_bytes) = (512, 4_096);
        let mut writer = Some(node.open_writer_with(options).unwrap());
        let held = writer.as_ref().unwrap();
        let space = first(held);
        commit(held, space, 2, Durability::Buffered);
        let (mut open, mut large) = (Some(held.batch()), Some(spilled(held, space)));
        open.as_mut().unwrap().write_page(PageId::new(space, 0), &[3; SIZE], None).unwrap();
        let spills = files(&path.join("tmp"));
        assert!(!spills.is_empty(), "a batch in a file");
        let administrator = archive.administrator(Actor::default());

        in_child(dir.path(), || {
            let writer = writer.as_ref().unwrap();
            forked(writer.flush());
            forked(writer.tick());
            forked(writer.rotate_segment());
            forked(writer.base_snapshot(
                &mut Engine { node: &node, dir: dir.path() },
                &CompactOptions::default(),
            ));
            assert_eq!((writer.newest(), writer.space("main")), (Position::ORIGIN, None));
            let mut batch = writer.batch();
            forked(batch.create_space("other", PageSize::MIN));
            forked(batch.log_record(b"record"));
            forked(batch.mark(b"mark"));
            forked(batch.commit(Durability::Synced));
            forked(open.as_mut().unwrap().write_page(PageId::new(space, 0), &[4; SIZE], None));
            forked(archive.nodes());
            forked(archive.create_node("other", Origin::Empty));
            forked(administrator.delete(Scope::Archive, Duration::ZERO));
            forked(node.open_writer());
            forked(node.restore(Target::Latest).into_memory());
            forked(node.maintain(&CompactOptions::default()));
        });
        in_child(dir.path(), || forked(open.take().unwrap().commit(Durability::Synced)));
        in_child(dir.path(), || forked(large.take().unwrap().commit(Durability::Buffered)));
        in_child(dir.path(), || forked(writer.take().unwrap().close()));
        in_child(dir.path(), || {
            drop((open.take(), large.take()));
            drop(writer.take());
            // Opened anew it is another process like any other.
            let archive = Archive::open(&path, key()).unwrap();
            let again = archive.node("n").unwrap().open_writer().map(drop);
            assert!(matches!(again, Err(Error::WriterActive { .. })), "{again:?}");
        });

        assert_eq!(files(&path.join("tmp")), spills);
        let held = writer.as_ref().unwrap();
        assert!(
            matches!(node.open_writer(), Err(Error::WriterActive { .. })),
            "the lock is still held"
        );
        open.take().unwrap().commit(Durability::Buffered).unwrap();
        large.take().unwrap().commit(Durability::Synced).unwrap();
        for byte in 5..8 {
            commit(held, space, byte, Durability::Synced);
        }
        assert_eq!(held.newest(), Position::new(7));
        drop(writer.take());
        let writer = node.open_writer_with(quiet()).unwrap();
        assert_eq!(writer.newest(), Position::new(7), "every acknowledged commit");
        for (lsn, byte) in [(1, 1), (2, 2), (3, 3), (5, 5), (6, 6), (7, 7)] {
            let target = Target::Lsn(rewound::Lsn::new(lsn).unwrap());
            let (_, spaces) = node.restore(target).into_memory().unwrap();
            assert_eq!(spaces["main"][..SIZE], [byte; SIZE], "LSN {lsn}");
        }
    }
}

/// The parent dies and leaves a child that has dropped its copy: that child does not keep the node.
#[test]
fn the_lock_ends_with_the_process_that_took_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    drop(node(&path, Origin::Empty));
    let (said, ready, done) =
        (dir.path().join("child"), dir.path().join("ready"), dir.path().join("done"));
    match fork() {
        Some(parent) => wait(parent, &said),
        None => end(
            &said,
            catch_unwind(|| {
                let archive = Archive::open(&path, key()).unwrap();
                let writer = archive.node("n").unwrap().open_writer().unwrap();
                first(&writer);
                if fork().is_some() {
                    let begun = Instant::now();
                    while !ready.exists() && begun.elapsed() < Duration::from_secs(30) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    // Killed, as it were.
                    leave(0);
                }
                drop(writer);
                std::fs::write(&ready, b"").unwrap();
                let begun = Instant::now();
                while !done.exists() && begun.elapsed() < Duration::from_secs(30) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                leave(0);
            }),
        ),
    }
    let archive = Archive::open(&path, key()).unwrap();
    let opened = archive.node("n").unwrap().open_writer().map(|writer| writer.newest());
    std::fs::write(&done, b"").unwrap();
    assert_eq!(opened.unwrap(), Position::new(1));
}

/// Forks wherever the host's own code is called in the midst of something; the child unwinds out of
/// it.
fn fork_and_unwind(dir: &Path) {
    if let Some(child) = fork() {
        wait(child, &dir.join("child"));
    } else {
        CHILD.store(true, Ordering::SeqCst);
        resume_unwind(Box::new(()));
    }
}

/// Set in a child alone.
static CHILD: AtomicBool = AtomicBool::new(false);

/// Runs something during which a child is forked and unwinds.
fn with_forks<T>(f: impl FnOnce() -> T) -> T {
    let done = catch_unwind(AssertUnwindSafe(f));
    if CHILD.load(Ordering::SeqCst) {
        leave(0);
    }
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

struct Engine<'a> {
    node: &'a Node,
    dir: &'a Path,
}

impl PageSource for Engine<'_> {
    fn begin(&mut self, _: Position) -> Result<Consistency> {
        fork_and_unwind(self.dir);
        assert_eq!(
            files(&self.dir.join("archive/leases")).len(),
            1,
            "the lease of {}",
            self.node.name()
        );
        Ok(Consistency::Fuzzy)
    }

    fn read_pages(&mut self, _: BaseSpace<'_>, _: u64, buf: &mut [u8]) -> Result<()> {
        fork_and_unwind(self.dir);
        buf.fill(7);
        Ok(())
    }
}

#[test]
fn a_child_forked_in_the_midst_of_a_base_copy_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_, node) = node(&dir.path().join("archive"), Origin::Existing);
    let writer = node.open_writer_with(quiet()).unwrap();
    let mut batch = writer.batch();
    let space = batch.create_space("main", PageSize::MAX).unwrap();
    batch.set_length(space, 60 * 65_536).unwrap();
    batch.commit(Durability::Synced).unwrap();
    let mut engine = Engine { node: &node, dir: dir.path() };
    with_forks(|| writer.base_snapshot(&mut engine, &CompactOptions::default())).unwrap();
    let (_, spaces) = node.restore(Target::Latest).into_memory().unwrap();
    assert!(spaces["main"] == vec![7; 60 * 65_536]);
}

struct Replay<'a>(&'a Path);

impl Redo for Replay<'_> {
    fn begin(&mut self, staged: Option<&Path>) -> Result<()> {
        fork_and_unwind(self.0);
        assert!(staged.is_none_or(Path::exists));
        Ok(())
    }

    fn apply(&mut self, _: RedoRecord<'_>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_child_forked_in_the_midst_of_a_restore_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_, node) = node(&dir.path().join("archive"), Origin::Empty);
    let writer = node.open_writer_with(quiet()).unwrap();
    first(&writer);
    let mut batch = writer.batch();
    batch.log_record(b"record").unwrap();
    batch.commit(Durability::Synced).unwrap();
    let out = dir.path().join("out");
    let mut replay = Replay(dir.path());
    with_forks(|| node.restore(Target::Latest).redo(&mut replay).into_dir(&out)).unwrap();
    assert_eq!(std::fs::read(out.join("main")).unwrap(), [1; SIZE]);
    let mut replay = Replay(dir.path());
    let one = dir.path().join("one");
    with_forks(|| node.restore(Target::Latest).redo(&mut replay).into_file(&one)).unwrap();
    assert_eq!(std::fs::read(one).unwrap(), [1; SIZE]);
}
