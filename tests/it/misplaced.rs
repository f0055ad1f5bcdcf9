//! What is no file in place of every kind of file, and a link in place of every directory: told by
//! name, never waited for, never followed.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rewound::options::Cancel;
use rewound::storage::FsStorage;
use rewound::{
    Actor, Archive, CompactOptions, Durability, Error, Node, Origin, PageId, PageSize, Result,
    SweepOptions, Target, VerifyOptions, VerifyReport, verify_checksums,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{key, quiet};

/// Longer than anything here takes, if it does not wait for a FIFO's other end.
const PATIENCE: Duration = Duration::from_secs(60);

fn within<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(run()));
    receive.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{what}: {e}"))
}

fn commit(node: &Node, value: u8) -> Result<()> {
    let writer = node.open_writer_with(quiet())?;
    let mut batch = writer.batch();
    let space = match writer.space("main") {
        Some(space) => space,
        None => batch.create_space("main", PageSize::MIN)?,
    };
    batch.write_page(PageId::new(space, u64::from(value)), &[value; 512], None)?;
    batch.commit(Durability::Synced)?;
    writer.close()
}

/// An archive with files of every kind, its last segment not sealed.
fn estate(root: &Path) {
    let archive = Archive::create(root, key()).unwrap();
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let mut options = CompactOptions::default();
    (options.layer_log_bytes, options.fan_out) = (1, 2);
    for value in 0..6 {
        commit(&node, value).unwrap();
        node.maintain(&options).unwrap();
    }
    // A checkpoint of the catalog comes with its 256th entry.
    for i in archive.verify_audit().unwrap()..256 {
        node.add_restore_point(&format!("p{i}"), &Target::Latest).unwrap();
    }
}

fn files(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn verify(root: &Path) -> Result<VerifyReport> {
    Archive::open(root, key())?.verify(&VerifyOptions::default(), &mut |_| {})
}

fn checksums(root: &Path) -> Result<VerifyReport> {
    verify_checksums(&FsStorage::new(root), &Cancel::new(), &mut |_| {})
}

/// Whether a result names the place and says what to do.
fn names(result: &Result<VerifyReport>, path: &str, found: &str) -> bool {
    let told = |e: &Error| match e {
        Error::Damaged(damage) => {
            damage.path == path
                && damage.found.starts_with(found)
                && damage.found.contains("move it away")
        }
        _ => false,
    };
    match result {
        Ok(report) => report.findings.iter().any(told),
        Err(e) => told(e),
    }
}

type Put = fn(&Path, &Path);

/// What can have the name of a file without being one. The second path is a good file.
const KINDS: [(&str, Put); 7] = [
    ("a FIFO", |at, _| mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap()),
    ("a socket", |at, _| drop(UnixListener::bind(at).unwrap())),
    ("a symbolic link", |at, good| symlink(good, at).unwrap()),
    ("a symbolic link", |at, _| symlink("/dev/zero", at).unwrap()),
    ("a symbolic link", |at, _| symlink("nowhere", at).unwrap()),
    ("a directory", |at, _| fs::create_dir(at).unwrap()),
    ("a character device", |at, _| {
        let device = rustix::fs::makedev(1, 5);
        mknodat(CWD, at, FileType::CharacterDevice, Mode::from_raw_mode(0o600), device).unwrap();
    }),
];

fn take_away(what: &Path) {
    if fs::symlink_metadata(what).unwrap().is_dir() {
        fs::remove_dir(what).unwrap();
    } else {
        fs::remove_file(what).unwrap();
    }
}

#[test]
fn what_is_no_file_is_damage_of_that_name() {
    let temp = tempfile::tempdir().unwrap();
    let (root, good) = (temp.path().join("a"), temp.path().join("good"));
    estate(&root);
    let all = files(&root);
    let mut sample = Vec::new();
    for ending in ["entry", "checkpoint", "seg", "layer", "part"] {
        let of_kind: Vec<&String> =
            all.iter().filter(|f| f.rsplit('.').next() == Some(ending)).collect();
        sample.extend([of_kind[0], of_kind[of_kind.len() - 1]]);
    }
    sample.dedup();
    assert!(sample.len() >= 8, "{sample:?}");
    for path in sample {
        fs::rename(root.join(path), &good).unwrap();
        for (found, put) in KINDS {
            if found == "a character device" && !rustix::process::geteuid().is_root() {
                continue;
            }
            put(&root.join(path), &good);
            let what = format!("{found} as {path}");
            let (by_key, without) = within(&what, {
                let root = root.clone();
                move || (verify(&root), checksums(&root))
            });
            // An entry that a checkpoint stands for is not read to open the archive, but it is to
            // verify it.
            assert!(names(&by_key, path, found), "{what}: {by_key:?}");
            assert!(names(&without, path, found), "{what}: {without:?}");
            let at = root.join(path);
            take_away(&at);
        }
        fs::rename(&good, root.join(path)).unwrap();
    }
    assert!(verify(&root).unwrap().is_intact());
}

/// Every command that could touch the archive, one after the other.
fn use_it(root: &Path) -> Result<()> {
    let archive = Archive::open(root, key())?;
    let node = archive.node("n")?;
    node.restore(Target::Latest).into_memory()?;
    commit(&node, 7)?;
    node.build_snapshot(&Target::Latest, &CompactOptions::default())?;
    node.add_restore_point("another", &Target::Latest)?;
    archive
        .administrator(Actor { name: "admin".into(), reason: String::new() })
        .sweep(&SweepOptions::default())?;
    archive.verify(&VerifyOptions::default(), &mut |_| {}).map(drop)
}

#[test]
fn no_directory_of_an_archive_is_followed_elsewhere() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("a");
    estate(&root);
    let outside = temp.path().join("outside");
    for dir in [
        "tmp",
        "leases",
        "catalog",
        "catalog/00000000",
        "catalog/checkpoints",
        "nodes",
        "nodes/00000001",
        "nodes/00000001/wal",
        "nodes/00000001/wal/00000001",
        "nodes/00000001/wal/00000001/00000000",
    ] {
        fs::rename(root.join(dir), &outside).unwrap();
        symlink(&outside, root.join(dir)).unwrap();
        let before = files(&outside);
        let result = use_it(&root);
        match &result {
            Err(Error::Damaged(damage)) => {
                assert_eq!((damage.path.as_str(), damage.expected.as_str()), (dir, "a directory"));
                assert!(damage.found.starts_with("a symbolic link"), "{damage}");
            }
            other => panic!("{dir}: {other:?}"),
        }
        assert_eq!(files(&outside), before, "{dir}: nothing is created or removed behind a link");
        if dir != "tmp" && dir != "leases" {
            let (by_key, without) = (verify(&root), checksums(&root));
            assert!(names(&by_key, dir, "a symbolic link"), "{dir}: {by_key:?}");
            assert!(names(&without, dir, "a symbolic link"), "{dir}: {without:?}");
        }
        fs::remove_file(root.join(dir)).unwrap();
        fs::rename(&outside, root.join(dir)).unwrap();
    }
    use_it(&root).unwrap();
}

#[test]
fn no_lock_is_taken_through_a_link() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("a");
    estate(&root);
    let victim = temp.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let before = fs::metadata(&victim).unwrap();
    let locks: Vec<String> = files(&root).into_iter().filter(|f| f.ends_with(".lock")).collect();
    assert!(locks.len() >= 2, "{locks:?}");
    for lock in locks {
        let at = root.join(&lock);
        for (found, put) in KINDS {
            if found == "a character device" && !rustix::process::geteuid().is_root() {
                continue;
            }
            fs::remove_file(&at).unwrap();
            put(&at, &victim);
            let result = within(&lock, {
                let root = root.clone();
                move || use_it(&root)
            });
            match &result {
                Err(Error::Damaged(damage)) => assert_eq!(damage.path, lock),
                other => panic!("{found} as {lock}: {other:?}"),
            }
            take_away(&at);
            fs::write(&at, "").unwrap();
        }
    }
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    let after = fs::metadata(&victim).unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.mtime()),
        (before.mode(), before.uid(), before.mtime())
    );
    let nowhere: PathBuf = root.join("nodes/00000001/nowhere");
    assert!(!nowhere.exists(), "a dangling link is not created through");
    use_it(&root).unwrap();
}
