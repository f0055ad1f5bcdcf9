use super::*;

fn storage() -> (tempfile::TempDir, FsStorage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = FsStorage::new(dir.path());
    (dir, storage)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn read_all(storage: &FsStorage, path: &str) -> Vec<u8> {
    let file = storage.open(path).unwrap();
    let mut buf = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), buf.len());
    buf
}

#[test]
fn only_the_owner_has_access_and_finished_files_are_read_only() {
    let (dir, storage) = storage();
    storage.create_dir("node").unwrap();
    let mut file = storage.create("node/a").unwrap();
    file.append(b"abc").unwrap();
    assert_eq!(mode(&dir.path().join("node")), 0o700);
    assert_eq!(mode(&dir.path().join("node/a")), 0o600);
    file.finish().unwrap();
    assert_eq!(mode(&dir.path().join("node/a")), 0o400);
    assert_eq!(read_all(&storage, "node/a"), b"abc");
}

#[test]
fn space_is_zeroed_ahead_in_steps_and_cut_by_finish() {
    let (dir, storage) = storage();
    let len = || std::fs::metadata(dir.path().join("a")).unwrap().len();
    let mut file = storage.create("a").unwrap();
    file.append(b"head").unwrap();
    file.expect_small_appends();
    assert_eq!(len(), 4, "the hint alone reserves nothing");

    file.append(b"0123456789").unwrap();
    assert_eq!((len(), file.len()), (ZERO_STEP, 14));
    file.sync().unwrap();
    let seen = read_all(&storage, "a");
    assert_eq!(&seen[..14], b"head0123456789");
    assert!(seen[14..].iter().all(|&b| b == 0));

    // Fills the first step to the byte, which calls for the next one.
    file.append(&[7; 32 - 14]).unwrap();
    for _ in 0..(ZERO_STEP - 32) / 32 {
        if file.len().is_multiple_of(64 << 10) {
            file.sync().unwrap();
        }
        file.append(&[7; 32]).unwrap();
    }
    assert_eq!((len(), file.len()), (2 * ZERO_STEP, ZERO_STEP));
    // Much at once, over a whole step: nothing is reserved, until small appends come again.
    file.append(&vec![8; usize::try_from(ZERO_STEP).unwrap() + 1]).unwrap();
    assert_eq!((len(), file.len()), (2 * ZERO_STEP + 1, 2 * ZERO_STEP + 1));
    file.append(&[8]).unwrap();
    assert_eq!(len(), file.len());
    file.sync().unwrap();
    file.append(&[8]).unwrap();
    assert_eq!((len(), file.len()), (3 * ZERO_STEP, 2 * ZERO_STEP + 3));
    let expected = file.len();
    file.finish().unwrap();
    assert_eq!(len(), expected);
    assert_eq!(read_all(&storage, "a").last(), Some(&8));
}

#[test]
fn the_root_is_created_with_its_parents() {
    let (dir, _) = storage();
    let storage = FsStorage::new(dir.path().join("x/y/z"));
    assert!(storage.list("").unwrap().is_empty());
    storage.create_dir("").unwrap();
    storage.create_dir("").unwrap();
    storage.sync_dir("").unwrap();
    assert_eq!(mode(storage.root()), 0o700);
}

#[test]
fn foreign_names_are_not_listed() {
    let (dir, storage) = storage();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::write(dir.path().join("README"), b"").unwrap();
    storage.create("a").unwrap();
    let names: Vec<_> = storage.list("").unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn a_failed_write_is_for_good() {
    let (dir, storage) = storage();
    storage.create("a").unwrap();
    // A descriptor that cannot be written to stands for a failing disk.
    let file = File::open(dir.path().join("a")).unwrap();
    let mut file = Box::new(FsAppendFile {
        file,
        len: 0,
        zeroed_to: 0,
        unsynced: 0,
        zero_ahead: false,
        reserve_failed: false,
        failed: false,
        owner: crate::env::Owner::here(),
        names: 1,
    });
    assert!(file.append(b"x").is_err());
    assert_eq!(file.len(), 0);
    // The sync alone would succeed.
    assert!(file.sync().is_err());
    assert!(file.finish().is_err());
}

#[test]
fn free_space_is_known() {
    let (_dir, storage) = storage();
    assert!(storage.free_space().unwrap().unwrap() > 0);
}

#[test]
fn a_directory_that_was_removed_is_created_again() {
    let (_dir, storage) = storage();
    for _ in 0..2 {
        storage.create_dir_durable("a").unwrap();
        storage.create_dir_durable("a/b").unwrap();
        assert!(storage.root().join("a/b").is_dir());
        std::fs::remove_dir(storage.root().join("a/b")).unwrap();
    }
    storage.create_dir_durable("a/b").unwrap();
    assert!(storage.root().join("a/b").is_dir());
    assert!(storage.create_dir_durable("no/b").is_err());
}

#[test]
fn immutable_files_are_so_until_they_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = match FsStorage::new(dir.path()).immutable() {
        Ok(storage) => storage,
        // Not root, or no such flag here: that is what it has to say.
        Err(crate::Error::ImmutableUnavailable { path, .. }) => {
            assert_eq!(path, dir.path());
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let mut file = storage.create("a").unwrap();
    file.append(b"bytes").unwrap();
    file.finish().unwrap();
    storage.publish("a", "b").unwrap();
    storage.protect("b").unwrap();
    assert!(std::fs::remove_file(dir.path().join("b")).is_err());
    assert!(std::fs::rename(dir.path().join("b"), dir.path().join("c")).is_err());
    assert!(std::fs::write(dir.path().join("b"), b"other").is_err());
    storage.delete("b").unwrap();
    assert!(!dir.path().join("b").exists());
}
