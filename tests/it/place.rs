//! An archive whose directory is deleted, moved or replaced while it is in use: nothing is
//! acknowledged that is not where it will be looked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rewound::storage::{FsStorage, Storage};
use rewound::{
    Archive, ArchiveOptions, Durability, Error, Node, Origin, PageId, PageSize, Result, Target,
    Writer, WriterOptions,
};

use crate::support::{key, quiet};

struct Estate {
    temp: tempfile::TempDir,
    archive: Archive,
    node: Node,
}

impl Estate {
    fn new() -> Estate {
        let temp = tempfile::tempdir().unwrap();
        let archive = Archive::create(temp.path().join("archive"), key()).unwrap();
        let node = archive.create_node("n", Origin::Empty).unwrap();
        Estate { temp, archive, node }
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("archive")
    }

    fn aside(&self) -> PathBuf {
        self.temp.path().join("aside")
    }

    fn move_away(&self) {
        fs::rename(self.path(), self.aside()).unwrap();
    }

    /// The newest state that the archive at its path restores.
    fn restored(&self) -> Vec<u8> {
        let node = Archive::open(self.path(), key()).unwrap().node("n").unwrap();
        node.restore(Target::Latest).into_memory().unwrap().1["main"].clone()
    }
}

fn commit(writer: &Writer, value: u8, durability: Durability) -> Result<()> {
    let mut batch = writer.batch();
    let space = match writer.space("main") {
        Some(space) => space,
        None => batch.create_space("main", PageSize::MIN)?,
    };
    batch.write_page(PageId::new(space, 0), &[value; 512], None)?;
    batch.commit(durability).map(drop)
}

fn displaced<T: std::fmt::Debug>(result: Result<T>, path: &Path) {
    match result {
        Err(Error::Displaced { path: told, .. }) => {
            assert!(path.ends_with(&told), "{told} for {}", path.display());
        }
        other => panic!("{other:?}"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Everything that a writer does once its archive is gone from its place.
fn nothing_is_acknowledged(estate: &Estate, writer: Writer) {
    match commit(&writer, 9, Durability::Synced) {
        Err(Error::Displaced { .. }) => {}
        other => panic!("{other:?}"),
    }
    for result in [
        commit(&writer, 9, Durability::Synced),
        commit(&writer, 9, Durability::Buffered),
        writer.check(),
        writer.flush().map(drop),
        writer.tick().map(drop),
        writer.rotate_segment(),
    ] {
        assert!(matches!(result, Err(Error::Poisoned { .. })), "{result:?}");
    }
    assert!(estate.node.open_writer_with(quiet()).is_err());
    writer.close().unwrap_err();
}

#[test]
fn a_deleted_archive_takes_no_commits() {
    let estate = Estate::new();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    writer.check().unwrap();
    fs::remove_dir_all(estate.path()).unwrap();
    nothing_is_acknowledged(&estate, writer);
    assert!(matches!(Archive::open(estate.path(), key()), Err(Error::NoArchive { .. })));
    displaced(estate.archive.create_node("other", Origin::Empty).map(drop), &estate.path());
    displaced(estate.node.add_restore_point("name", &Target::Latest).map(drop), &estate.path());
    displaced(estate.node.restore(Target::Latest).into_memory().map(drop), &estate.path());
    displaced(estate.archive.nodes().map(drop), &estate.path());
    assert!(!estate.path().exists(), "nobody makes another");
}

#[test]
fn a_moved_archive_takes_no_commits_and_goes_on_where_it_is_put_back() {
    let estate = Estate::new();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    estate.move_away();
    nothing_is_acknowledged(&estate, writer);
    displaced(estate.archive.create_node("other", Origin::Empty).map(drop), &estate.path());
    assert!(!estate.path().exists());
    fs::rename(estate.aside(), estate.path()).unwrap();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 2, Durability::Synced).unwrap();
    writer.close().unwrap();
    assert_eq!(estate.restored(), [2; 512]);
}

#[test]
fn a_copy_in_the_place_of_an_archive_is_another() {
    let estate = Estate::new();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    estate.move_away();
    copy(&estate.aside(), &estate.path());
    nothing_is_acknowledged(&estate, writer);
    assert_eq!(estate.restored(), [1; 512]);
    // A storage belongs to the directory that it opened.
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new(estate.path()));
    Archive::open_in(Arc::clone(&storage), key(), ArchiveOptions::new()).unwrap();
    fs::rename(estate.path(), estate.temp.path().join("copy")).unwrap();
    let opened = Archive::open_in(Arc::clone(&storage), key(), ArchiveOptions::new());
    displaced(opened.map(drop), &estate.path());
    let created = Archive::create_in(storage, key(), ArchiveOptions::new());
    displaced(created.map(drop), &estate.path());
    assert!(!estate.path().exists());
}

#[test]
fn a_link_to_an_archive_that_is_pointed_elsewhere_is_another_archive() {
    let estate = Estate::new();
    estate.move_away();
    symlink("aside", estate.path()).unwrap();
    let node = Archive::open(estate.path(), key()).unwrap().node("n").unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    copy(&estate.aside(), &estate.temp.path().join("second"));
    fs::remove_file(estate.path()).unwrap();
    symlink("second", estate.path()).unwrap();
    nothing_is_acknowledged(&estate, writer);
}

#[test]
fn a_file_in_the_place_of_a_directory_above_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("above/archive");
    let node = Archive::create(&path, key()).unwrap().create_node("n", Origin::Empty).unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    fs::rename(temp.path().join("above"), temp.path().join("aside")).unwrap();
    fs::write(temp.path().join("above"), b"").unwrap();
    displaced(commit(&writer, 2, Durability::Synced), &path);
}

#[test]
fn what_was_not_synced_is_not_acknowledged_later() {
    let estate = Estate::new();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    commit(&writer, 2, Durability::Buffered).unwrap();
    estate.move_away();
    displaced(writer.flush(), &estate.path());
    drop(writer);

    fs::rename(estate.aside(), estate.path()).unwrap();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 3, Durability::Buffered).unwrap();
    estate.move_away();
    displaced(writer.close(), &estate.path());
}

/// A part of the archive at a time, by what asks: a commit sees its own segment, and `check` all of
/// it.
#[test]
fn a_part_that_is_gone_is_noticed() {
    type Harm = fn(&Path);
    let segment = |root: &Path| {
        let dir = root.join("nodes/00000001/wal/00000001/00000000");
        fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    };
    let harms: [(Harm, bool); 10] = [
        (
            |root| {
                fs::rename(root.join("nodes"), root.join("elsewhere")).unwrap();
                fs::write(root.join("nodes"), b"").unwrap();
            },
            false,
        ),
        (
            |root| {
                fs::rename(root.join("nodes"), root.join("elsewhere")).unwrap();
                symlink("elsewhere", root.join("nodes")).unwrap();
            },
            false,
        ),
        (|root| fs::remove_dir_all(root.join("catalog")).unwrap(), false),
        (|root| fs::rename(root.join("catalog"), root.join("elsewhere")).unwrap(), false),
        (|root| fs::rename(root.join("nodes"), root.join("elsewhere")).unwrap(), false),
        (|root| fs::remove_dir_all(root.join("nodes")).unwrap(), true),
        (|root| fs::remove_file(root.join("nodes/00000001/writer.lock")).unwrap(), false),
        (
            |root| {
                fs::remove_file(root.join("nodes/00000001/writer.lock")).unwrap();
                fs::write(root.join("nodes/00000001/writer.lock"), b"").unwrap();
            },
            false,
        ),
        (
            |root| {
                fs::rename(root.join("nodes/00000001/wal"), root.join("nodes/00000001/old"))
                    .unwrap();
            },
            false,
        ),
        (|root| fs::remove_dir_all(root.join("nodes/00000001/wal")).unwrap(), true),
    ];
    for (i, (harm, by_commit)) in harms.into_iter().enumerate() {
        for by_check in [true, false] {
            let estate = Estate::new();
            let writer = estate.node.open_writer_with(quiet()).unwrap();
            commit(&writer, 1, Durability::Synced).unwrap();
            segment(&estate.path());
            writer.check().unwrap();
            harm(&estate.path());
            let result =
                if by_check { writer.check() } else { commit(&writer, 2, Durability::Synced) };
            if by_check || by_commit {
                assert!(matches!(result, Err(Error::Displaced { .. })), "{i}: {result:?}");
                let after = commit(&writer, 3, Durability::Synced);
                assert!(matches!(after, Err(Error::Poisoned { .. })), "{i}: {after:?}");
            }
        }
    }
}

#[test]
fn a_segment_that_was_replaced_is_noticed() {
    let estate = Estate::new();
    let writer = estate.node.open_writer_with(quiet()).unwrap();
    commit(&writer, 1, Durability::Synced).unwrap();
    let dir = estate.path().join("nodes/00000001/wal/00000001/00000000");
    let segment = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    fs::rename(&segment, estate.aside()).unwrap();
    fs::copy(estate.aside(), &segment).unwrap();
    displaced(writer.check(), &segment);
}

#[test]
fn an_idle_writer_notices_by_itself() {
    let estate = Estate::new();
    let mut options = WriterOptions::default();
    options.flush_interval = Some(Duration::from_millis(5));
    let writer = estate.node.open_writer_with(options).unwrap();
    estate.move_away();
    let begun = Instant::now();
    // A buffered commit asks for nothing.
    while commit(&writer, 1, Durability::Buffered).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(writer.check(), Err(Error::Poisoned { .. })));
}
