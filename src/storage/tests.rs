//! What every storage must do, run against each of them.

use super::*;

/// One test per storage for each function of the suite.
macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod in_directory {
            $(#[test] fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(&super::FsStorage::new(dir.path()));
            })*
        }
        mod in_memory {
            $(#[test] fn $name() { super::$name(&super::MemStorage::new()); })*
        }
    };
}

conformance!(
    what_is_appended_is_read,
    a_growing_file_is_read,
    creation_never_replaces,
    publishing_moves_and_never_replaces,
    publishing_keeps_open_files,
    directories_are_listed,
    missing_things_are_told_apart,
    removed_files_are_gone_and_stay_readable,
    locks_exclude_each_other,
    bad_paths_are_refused,
    zeroed_space_is_seen_by_readers_only,
    earlier_files_can_be_synced,
    durable_helpers_work,
);

fn put(storage: &dyn Storage, path: &str, bytes: &[u8]) {
    let mut file = storage.create(path).unwrap();
    file.append(bytes).unwrap();
    file.finish().unwrap();
}

fn get(storage: &dyn Storage, path: &str) -> Vec<u8> {
    let file = storage.open(path).unwrap();
    let len = usize::try_from(file.len().unwrap()).unwrap();
    read_range(&*file, path, 0, len + 1).unwrap()
}

fn kind<T: Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

fn what_is_appended_is_read(storage: &dyn Storage) {
    let mut file = storage.create("a").unwrap();
    assert!(file.is_empty());
    file.append(b"hello ").unwrap();
    file.append(b"").unwrap();
    file.append(b"world").unwrap();
    assert_eq!(file.len(), 11);
    file.sync().unwrap();
    file.finish().unwrap();

    let file = storage.open("a").unwrap();
    assert_eq!(file.len().unwrap(), 11);
    let mut buf = [b'.'; 8];
    assert_eq!(file.read_at(6, &mut buf).unwrap(), 5);
    assert_eq!(&buf, b"world...");
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 8);
    assert_eq!(&buf, b"hello wo");
    assert_eq!(file.read_at(11, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(1 << 40, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(0, &mut []).unwrap(), 0);
}

fn a_growing_file_is_read(storage: &dyn Storage) {
    let mut writer = storage.create("a").unwrap();
    let reader = storage.open("a").unwrap();
    assert_eq!(reader.len().unwrap(), 0);
    for i in 0..100_u8 {
        writer.append(&[i; 100]).unwrap();
        assert_eq!(reader.len().unwrap(), (u64::from(i) + 1) * 100);
        let mut buf = [255; 200];
        assert_eq!(reader.read_at(u64::from(i) * 100, &mut buf).unwrap(), 100);
        assert_eq!(buf[..100], [i; 100]);
    }
}

fn creation_never_replaces(storage: &dyn Storage) {
    put(storage, "a", b"first");
    storage.create_dir("d").unwrap();
    assert_eq!(kind(storage.create("a")), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.create("d")), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.create_dir("a")), io::ErrorKind::AlreadyExists);
    assert_eq!(get(storage, "a"), b"first");
}

fn publishing_moves_and_never_replaces(storage: &dyn Storage) {
    storage.create_dir("d").unwrap();
    put(storage, "tmp", b"new");
    put(storage, "d/taken", b"old");
    assert_eq!(kind(storage.publish("tmp", "d/taken")), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.publish("tmp", "tmp")), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.publish("tmp", "d")), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(storage.publish("tmp", "missing/x")), io::ErrorKind::NotFound);
    assert_eq!(kind(storage.publish("missing", "d/x")), io::ErrorKind::NotFound);
    assert_eq!(kind(storage.publish("missing", "d/taken")), io::ErrorKind::NotFound);
    assert_eq!((get(storage, "tmp"), get(storage, "d/taken")), (b"new".to_vec(), b"old".to_vec()));

    storage.publish("tmp", "d/final").unwrap();
    assert_eq!(get(storage, "d/final"), b"new");
    assert_eq!(kind(storage.open("tmp")), io::ErrorKind::NotFound);
    put(storage, "tmp", b"the name is free again");
}

fn publishing_keeps_open_files(storage: &dyn Storage) {
    let mut writer = storage.create("tmp").unwrap();
    writer.append(b"before").unwrap();
    let reader = storage.open("tmp").unwrap();
    storage.publish("tmp", "final").unwrap();
    writer.append(b" after").unwrap();
    writer.finish().unwrap();
    assert_eq!(reader.len().unwrap(), 12);
    assert_eq!(get(storage, "final"), b"before after");
}

fn directories_are_listed(storage: &dyn Storage) {
    storage.create_dir("").unwrap();
    for dir in ["d", "d/e", "d-"] {
        storage.create_dir(dir).unwrap();
        storage.create_dir(dir).unwrap();
    }
    put(storage, "d/a", b"12345");
    put(storage, "d/e/deep", b"1");
    put(storage, "d-/other", b"1");
    put(storage, "top", b"");
    let list = |dir| {
        let mut entries = storage.list(dir).unwrap();
        entries.sort();
        entries.into_iter().map(|e| (e.name, e.len, e.is_dir)).collect::<Vec<_>>()
    };
    let entry = |name: &str, len, is_dir| (name.to_owned(), len, is_dir);
    assert_eq!(list(""), [entry("d", 0, true), entry("d-", 0, true), entry("top", 0, false)]);
    assert_eq!(list("d"), [entry("a", 5, false), entry("e", 0, true)]);
    assert_eq!(list("missing"), []);
    assert_eq!(list("missing/deeper"), []);
    assert_eq!(kind(storage.list("top")), io::ErrorKind::NotADirectory);
}

fn missing_things_are_told_apart(storage: &dyn Storage) {
    put(storage, "file", b"");
    storage.create_dir("d").unwrap();
    for path in ["missing", "missing/deeper"] {
        assert_eq!(kind(storage.open(path)), io::ErrorKind::NotFound);
        assert_eq!(kind(storage.remove(path)), io::ErrorKind::NotFound);
        assert_eq!(kind(storage.sync_file(path)), io::ErrorKind::NotFound);
        assert_eq!(kind(storage.sync_dir(path)), io::ErrorKind::NotFound);
    }
    assert_eq!(kind(storage.create("missing/a")), io::ErrorKind::NotFound);
    assert_eq!(kind(storage.create_dir("missing/d")), io::ErrorKind::NotFound);
    assert_eq!(kind(storage.try_lock("missing/lock")), io::ErrorKind::NotFound);
    assert_eq!(kind(storage.create("file/a")), io::ErrorKind::NotADirectory);
    assert_eq!(kind(storage.open("file/a")), io::ErrorKind::NotADirectory);
    assert_eq!(kind(storage.list("file/a")), io::ErrorKind::NotADirectory);
    assert_eq!(kind(storage.open("d")), io::ErrorKind::IsADirectory);
    storage.remove("d").unwrap_err();
}

fn removed_files_are_gone_and_stay_readable(storage: &dyn Storage) {
    put(storage, "a", b"still here");
    let reader = storage.open("a").unwrap();
    storage.remove("a").unwrap();
    storage.sync_dir("").unwrap();
    assert_eq!(kind(storage.open("a")), io::ErrorKind::NotFound);
    assert_eq!(storage.list("").unwrap(), []);
    put(storage, "a", b"another");
    assert_eq!(read_range(&*reader, "a", 0, 99).unwrap(), b"still here");
    assert_eq!(get(storage, "a"), b"another");
}

fn locks_exclude_each_other(storage: &dyn Storage) {
    let lock = storage.try_lock("lock").unwrap().unwrap();
    assert!(storage.try_lock("lock").unwrap().is_none());
    let other = storage.try_lock("other").unwrap().unwrap();
    drop(lock);
    let lock = storage.try_lock("lock").unwrap().unwrap();
    drop((lock, other));
    let entry = |name: &str| Entry { name: name.to_owned(), len: 0, is_dir: false };
    let mut entries = storage.list("").unwrap();
    entries.sort();
    assert_eq!(entries, [entry("lock"), entry("other")]);
}

fn bad_paths_are_refused(storage: &dyn Storage) {
    put(storage, "ok", b"");
    for bad in ["..", "../a", "a/../b", ".", "a/./b", "/a", "a/", "a//b", "A", "a b", "a\\b", "a\0", "é"] {
        let refused = [
            kind(storage.create(bad)),
            kind(storage.open(bad)),
            kind(storage.publish("ok", bad)),
            kind(storage.publish(bad, "new")),
            kind(storage.sync_file(bad)),
            kind(storage.create_dir(bad)),
            kind(storage.sync_dir(bad)),
            kind(storage.list(bad)),
            kind(storage.remove(bad)),
            kind(storage.try_lock(bad)),
        ];
        assert_eq!(refused, [io::ErrorKind::InvalidInput; 10], "{bad:?}");
    }
    // The archive itself is a directory, and nothing else.
    assert_eq!(kind(storage.create("")), io::ErrorKind::InvalidInput);
    assert_eq!(kind(storage.open("")), io::ErrorKind::InvalidInput);
    assert_eq!(kind(storage.remove("")), io::ErrorKind::InvalidInput);
    put(storage, "0-z_..tmp", b"");
}

fn zeroed_space_is_seen_by_readers_only(storage: &dyn Storage) {
    let mut writer = storage.create("a").unwrap();
    writer.expect_small_appends();
    let reader = storage.open("a").unwrap();
    let mut expected = Vec::new();
    for i in 1..=100_u8 {
        writer.append(&[i; 97]).unwrap();
        expected.extend_from_slice(&[i; 97]);
        writer.sync().unwrap();
        assert_eq!(writer.len(), expected.len() as u64);
        let seen = get(storage, "a");
        assert_eq!(seen.len() as u64, reader.len().unwrap());
        assert!(seen.len() > expected.len());
        assert_eq!(&seen[..expected.len()], expected);
        assert!(seen[expected.len()..].iter().all(|&b| b == 0));
    }
    writer.finish().unwrap();
    assert_eq!(get(storage, "a"), expected);
}

fn earlier_files_can_be_synced(storage: &dyn Storage) {
    put(storage, "finished", b"a");
    storage.create("abandoned").unwrap().append(b"b").unwrap();
    storage.sync_file("finished").unwrap();
    storage.sync_file("abandoned").unwrap();
    assert_eq!(get(storage, "abandoned"), b"b");
}

fn durable_helpers_work(storage: &dyn Storage) {
    create_dir_durable(storage, "nodes/0/wal").unwrap();
    create_dir_durable(storage, "nodes/0/wal").unwrap();
    for (bytes, wins) in [(b"1", true), (b"2", false)] {
        put(storage, "nodes/0/tmp", bytes);
        let won = publish_durable(storage, "nodes/0/tmp", "nodes/0/wal/1").unwrap();
        assert_eq!(won, wins);
        assert_eq!(get(storage, "nodes/0/wal/1"), b"1");
    }
}
