//! What every store must do, as a suite that any store can be put through: ours, a host's, a
//! wrapper around another.
//!
//! There is a function for each trait. Each panics, in words, at the first promise that a store
//! does not keep. A [`Storage`] goes through all three, a [`BlobStore`] through the first two.
//!
//! ```
//! use std::sync::Arc;
//! use rewound::storage::{MemStorage, conformance};
//!
//! conformance::storage(&mut || Arc::new(MemStorage::new()));
//! conformance::blob_store(&mut || Arc::new(MemStorage::new()));
//! ```
//!
//! What a crash leaves cannot be asked of a store from within a process: [`MemStorage`] proves that
//! for the library, and how a store of a host's own takes a crash is the host's to prove.
//!
//! [`MemStorage`]: super::MemStorage

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{AppendFile, BlobStore, Entry, ReadFile, ReadStore, Storage, fill_exactly};
use crate::types::as_index;

/// Names that are none: a store refuses each, whatever is asked of it.
const BAD: [&str; 13] =
    ["..", "../a", "a/../b", ".", "a/./b", "/a", "a/", "a//b", "A", "a b", "a\\b", "a\0", "é"];

/// What a store holds that [`read_store`] is given: each file's path and bytes.
pub fn content() -> Vec<(&'static str, Vec<u8>)> {
    let long = (0..=250_u8).cycle().take(3_000_000).collect();
    vec![
        ("top", Vec::new()),
        ("d/a", b"hello world".to_vec()),
        ("d/e/deep", b"1".to_vec()),
        ("d-/other", long),
        ("0-z_..tmp", b"odd, and a name all the same".to_vec()),
    ]
}

/// What is promised of reading, for a store that holds [`content`] and nothing else. Other files
/// and directories of its own may be beside them, in `tmp/`.
///
/// # Panics
///
/// If the store does not keep a promise.
pub fn read_store(store: &dyn ReadStore) {
    for (path, bytes) in content() {
        let file = must(store.open(path), "a file that is there can be opened", path);
        let len = must(file.len(), "the length of a file is known", path);
        assert_eq!(len, bytes.len() as u64, "the length of {path}");
        assert!(read(&*file, path) == bytes, "{path} holds other bytes than were stored");
        if let Some(lent) = file.lend() {
            assert!(lent == bytes, "what is lent of {path} is not what is read of it");
        }
    }
    bytes_are_read_from_any_offset(&*must(store.open("d/a"), "a file can be opened", "d/a"));
    let names = |dir| {
        let mut entries = listed(store, dir);
        entries.retain(|entry| !(dir.is_empty() && entry.0 == "tmp"));
        entries
    };
    let entry = |name: &str, len, is_dir| (name.to_owned(), len, is_dir);
    let top = [
        entry("0-z_..tmp", 28, false),
        entry("d", 0, true),
        entry("d-", 0, true),
        entry("top", 0, false),
    ];
    assert_eq!(names(""), top, "what is in the store itself");
    assert_eq!(names("d"), [entry("a", 11, false), entry("e", 0, true)], "what is in d");
    for missing in ["missing", "missing/deeper", "d/a-"] {
        refused(store.open(missing), io::ErrorKind::NotFound, "opening what is not there", missing);
        assert_eq!(names(missing), [], "there is nothing in a directory that is not there");
    }
    let opened = store.open("d");
    assert!(opened.is_err(), "a directory was opened for reading, as if it were a file");
    for bad in BAD {
        refused(store.open(bad), io::ErrorKind::InvalidInput, "opening", bad);
        refused(store.list(bad), io::ErrorKind::InvalidInput, "listing", bad);
    }
    refused(store.open(""), io::ErrorKind::InvalidInput, "opening", "the store itself");
    must(store.check(), "a store that nobody moved is in its place", &store.location());
}

/// What is promised of storing and deleting whole files, and of reading them again. `new` makes an
/// empty store, each time another.
///
/// # Panics
///
/// If a store does not keep a promise.
pub fn blob_store(new: &mut dyn FnMut() -> Arc<dyn BlobStore>) {
    let store = new();
    for (path, bytes) in content() {
        must(store.put(path, &Bytes::from(bytes)), "a new file can be stored", path);
    }
    read_store(store.as_ref());

    // The name is taken, by whatever content.
    for again in ["hello world", "another"] {
        let put = store.put("d/a", &Bytes::from(again));
        refused(put, io::ErrorKind::AlreadyExists, "storing under a name that is taken", "d/a");
    }
    assert_eq!(
        get(store.as_ref(), "d/a"),
        b"hello world",
        "a put that was refused changed the file"
    );

    // A source that fails leaves nothing under the name, and can be tried again.
    let put = store.put("late", &Failing { len: 2_000_000, until: 1_500_000 });
    assert!(put.is_err(), "a put succeeded though its source could not be read to its end");
    refused(
        store.open("late"),
        io::ErrorKind::NotFound,
        "opening what failed to be stored",
        "late",
    );
    must(store.put("late", &Bytes::from_static(b"x")), "what failed can be stored again", "late");
    assert_eq!(get(store.as_ref(), "late"), b"x");
    let short = store.put("short", &Failing { len: 10, until: 4 });
    assert!(short.is_err(), "a put succeeded though its source ended before its length");

    must(store.delete("late"), "a file can be deleted", "late");
    refused(store.open("late"), io::ErrorKind::NotFound, "opening what was deleted", "late");
    refused(store.delete("late"), io::ErrorKind::NotFound, "deleting what is not there", "late");
    must(store.put("late", &Bytes::from_static(b"y")), "a name that was deleted is free", "late");
    for bad in BAD {
        let put = store.put(bad, &Bytes::new());
        refused(put, io::ErrorKind::InvalidInput, "storing under", bad);
        refused(store.delete(bad), io::ErrorKind::InvalidInput, "deleting", bad);
    }
    let tmp = store.list("tmp");
    assert!(tmp.is_ok_and(|left| left.is_empty()), "temporary files stay after all calls are done");
    of_many_at_once_one_wins(new().as_ref());
}

/// What is promised of files that grow, of directories, publishing and locks. `new` makes an empty
/// store, each time another.
///
/// # Panics
///
/// If a store does not keep a promise.
pub fn storage(new: &mut dyn FnMut() -> Arc<dyn Storage>) {
    let cases = [
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
        directories_are_made_durable,
    ];
    for case in cases {
        let store = new();
        must(store.create_dir(""), "the store itself can be created", &store.location());
        case(store.as_ref());
    }
    blob_store(&mut || new());
}

fn must<T>(result: io::Result<T>, promise: &str, path: &str) -> T {
    result.unwrap_or_else(|e| panic!("{promise}, but {path:?} failed: {e} ({:?})", e.kind()))
}

fn refused<T>(result: io::Result<T>, expected: io::ErrorKind, what: &str, path: &str) {
    match result {
        Ok(_) => panic!("{what} {path:?} must fail with {expected:?}, and succeeded"),
        Err(e) => assert_eq!(e.kind(), expected, "{what} {path:?} failed with another error: {e}"),
    }
}

fn read(file: &dyn ReadFile, path: &str) -> Vec<u8> {
    let len = must(file.len(), "the length of a file is known", path);
    let mut bytes = vec![0; as_index(len)];
    must(fill_exactly(file, 0, &mut bytes), "a file is read up to its length", path);
    let beyond = must(file.read_at(len, &mut [0; 9]), "the end of a file can be read", path);
    assert_eq!(beyond, 0, "something was read beyond the length of {path}");
    bytes
}

fn get(store: &dyn ReadStore, path: &str) -> Vec<u8> {
    read(&*must(store.open(path), "a file that is there can be opened", path), path)
}

fn listed(store: &dyn ReadStore, dir: &str) -> Vec<(String, u64, bool)> {
    let mut entries = must(store.list(dir), "a directory can be listed", dir);
    entries.sort();
    entries.into_iter().map(|e| (e.name, e.len, e.is_dir)).collect()
}

fn bytes_are_read_from_any_offset(hello_world: &dyn ReadFile) {
    let mut buf = [b'.'; 8];
    must(fill_exactly(hello_world, 3, &mut buf), "the middle of a file can be read", "d/a");
    assert_eq!(&buf, b"lo world");
    let got = must(hello_world.read_at(6, &mut buf), "the rest of a file can be read", "d/a");
    let world = b"world".get(..got);
    assert!(
        world.is_some_and(|world| buf.starts_with(world)),
        "bytes were read that are not there"
    );
    for offset in [11, 12, 1 << 40] {
        let got =
            must(hello_world.read_at(offset, &mut buf), "reading at or beyond the end", "d/a");
        assert_eq!(got, 0, "something was read at {offset}, beyond the end");
    }
    let got = must(hello_world.read_at(0, &mut []), "reading nothing", "d/a");
    assert_eq!(got, 0, "something was read into no bytes");
}

/// A source that cannot be read from an offset on.
#[derive(Debug)]
struct Failing {
    len: u64,
    until: u64,
}

impl ReadFile for Failing {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.until.checked_sub(offset) {
            // Ends early, without an error, if it is short.
            None | Some(0) if self.len < 100 => Ok(0),
            None | Some(0) => Err(io::Error::other("this source fails here, as it is meant to")),
            Some(left) => Ok(buf.len().min(as_index(left))),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

fn of_many_at_once_one_wins(store: &dyn BlobStore) {
    let put = |n: u8| store.put("d/one", &Bytes::from(vec![n; 100_000]));
    let results = crate::sync::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || (n, put(n)))).collect();
        threads.into_iter().map(|t| t.join().expect("a put panicked")).collect::<Vec<_>>()
    });
    let mut winners = results.iter().filter(|(_, result)| result.is_ok()).map(|(n, _)| *n);
    let (winner, second) = (winners.next(), winners.next());
    assert!(
        winner.is_some() && second.is_none(),
        "of puts at once, exactly one succeeds: {results:?}"
    );
    for (_, result) in results.into_iter().filter(|(_, result)| result.is_err()) {
        refused(result, io::ErrorKind::AlreadyExists, "losing a race for", "d/one");
    }
    assert_eq!(
        get(store, "d/one"),
        vec![winner.unwrap_or_default(); 100_000],
        "the winner's bytes"
    );
}

fn create(storage: &dyn Storage, path: &str) -> Box<dyn AppendFile> {
    must(storage.create(path), "a new file can be created", path)
}

fn put(storage: &dyn Storage, path: &str, bytes: &[u8]) {
    let mut file = create(storage, path);
    must(file.append(bytes), "bytes can be appended", path);
    must(file.finish(), "a file can be finished", path);
}

fn dir(storage: &dyn Storage, path: &str) {
    must(storage.create_dir(path), "a directory can be created, and is there then", path);
}

fn what_is_appended_is_read(storage: &dyn Storage) {
    let mut file = create(storage, "a");
    assert!(file.is_empty(), "a new file has bytes in it");
    for piece in [&b"hello "[..], b"", b"world"] {
        must(file.append(piece), "bytes can be appended", "a");
    }
    assert_eq!(file.len(), 11, "the length of what was appended");
    must(file.sync(), "what was appended can be synced", "a");
    must(file.finish(), "a file can be finished", "a");
    assert_eq!(get(storage, "a"), b"hello world");
    bytes_are_read_from_any_offset(&*must(storage.open("a"), "a file can be opened", "a"));
}

fn a_growing_file_is_read(storage: &dyn Storage) {
    let mut writer = create(storage, "a");
    let reader = must(storage.open("a"), "a growing file can be opened", "a");
    let len = || must(reader.len(), "the length of a growing file is known", "a");
    assert_eq!(len(), 0, "the length of a file that nothing was appended to");
    for i in 0..100_u8 {
        must(writer.append(&[i; 100]), "bytes can be appended", "a");
        assert_eq!(len(), (u64::from(i) + 1) * 100, "the length that a reader sees");
        let mut buf = [255; 100];
        let read = fill_exactly(&*reader, u64::from(i) * 100, &mut buf);
        must(read, "what was appended is seen by who has the file open", "a");
        assert_eq!(buf, [i; 100]);
    }
}

fn creation_never_replaces(storage: &dyn Storage) {
    put(storage, "a", b"first");
    dir(storage, "d");
    for taken in ["a", "d"] {
        let created = storage.create(taken);
        refused(created, io::ErrorKind::AlreadyExists, "creating what is there", taken);
    }
    let created = storage.create_dir("a");
    refused(created, io::ErrorKind::AlreadyExists, "making a directory of a file", "a");
    assert_eq!(get(storage, "a"), b"first");
}

fn publishing_moves_and_never_replaces(storage: &dyn Storage) {
    dir(storage, "d");
    put(storage, "tmp", b"new");
    put(storage, "d/taken", b"old");
    for (from, to, expected) in [
        ("tmp", "d/taken", io::ErrorKind::AlreadyExists),
        ("tmp", "tmp", io::ErrorKind::AlreadyExists),
        ("tmp", "d", io::ErrorKind::AlreadyExists),
        ("tmp", "missing/x", io::ErrorKind::NotFound),
        ("missing", "d/x", io::ErrorKind::NotFound),
        ("missing", "d/taken", io::ErrorKind::NotFound),
    ] {
        refused(storage.publish(from, to), expected, &format!("publishing {from} as"), to);
    }
    assert_eq!(get(storage, "tmp"), b"new", "a publishing that was refused changed the file");
    assert_eq!(get(storage, "d/taken"), b"old", "a publishing that was refused replaced a file");

    must(storage.publish("tmp", "d/final"), "a file can be published", "d/final");
    assert_eq!(get(storage, "d/final"), b"new");
    let opened = storage.open("tmp");
    refused(
        opened,
        io::ErrorKind::NotFound,
        "opening, by its old name, what was published:",
        "tmp",
    );
    put(storage, "tmp", b"the name is free again");
}

fn publishing_keeps_open_files(storage: &dyn Storage) {
    let mut writer = create(storage, "tmp");
    must(writer.append(b"before"), "bytes can be appended", "tmp");
    let reader = must(storage.open("tmp"), "a growing file can be opened", "tmp");
    must(storage.publish("tmp", "final"), "a growing file can be published", "final");
    must(writer.append(b" after"), "a published file goes on growing", "final");
    must(writer.finish(), "a published file can be finished", "final");
    assert_eq!(read(&*reader, "final"), b"before after", "who had it open sees it grow");
    assert_eq!(get(storage, "final"), b"before after");
}

fn directories_are_listed(storage: &dyn Storage) {
    must(storage.create_dir(""), "the store itself is there already", "");
    for path in ["d", "d/e", "d-"] {
        dir(storage, path);
        dir(storage, path);
    }
    put(storage, "d/a", b"12345");
    put(storage, "d/e/deep", b"1");
    put(storage, "d-/other", b"1");
    put(storage, "top", b"");
    let entry = |name: &str, len, is_dir| (name.to_owned(), len, is_dir);
    let top = [entry("d", 0, true), entry("d-", 0, true), entry("top", 0, false)];
    assert_eq!(listed(storage, ""), top);
    assert_eq!(listed(storage, "d"), [entry("a", 5, false), entry("e", 0, true)]);
    assert_eq!(listed(storage, "missing"), []);
    assert_eq!(listed(storage, "missing/deeper"), []);
    refused(storage.list("top"), io::ErrorKind::NotADirectory, "listing a file:", "top");
}

fn missing_things_are_told_apart(storage: &dyn Storage) {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    put(storage, "file", b"");
    dir(storage, "d");
    for path in ["missing", "missing/deeper"] {
        refused(storage.open(path), NotFound, "opening", path);
        refused(storage.delete(path), NotFound, "deleting", path);
        refused(storage.sync_file(path), NotFound, "syncing", path);
        refused(storage.sync_dir(path), NotFound, "syncing the directory", path);
    }
    refused(storage.create("missing/a"), NotFound, "creating", "missing/a");
    refused(storage.create_dir("missing/d"), NotFound, "creating the directory", "missing/d");
    refused(storage.try_lock("missing/lock"), NotFound, "locking", "missing/lock");
    refused(storage.create("file/a"), NotADirectory, "creating", "file/a");
    refused(storage.open("file/a"), NotADirectory, "opening", "file/a");
    refused(storage.list("file/a"), NotADirectory, "listing", "file/a");
    refused(storage.open("d"), IsADirectory, "opening a directory:", "d");
    assert!(storage.delete("d").is_err(), "a directory was deleted as if it were a file");
}

fn removed_files_are_gone_and_stay_readable(storage: &dyn Storage) {
    put(storage, "a", b"still here");
    let reader = must(storage.open("a"), "a file can be opened", "a");
    must(storage.delete("a"), "a file that is open can be deleted", "a");
    must(storage.sync_dir(""), "the store itself can be synced", "");
    refused(storage.open("a"), io::ErrorKind::NotFound, "opening what was deleted:", "a");
    assert_eq!(listed(storage, ""), []);
    put(storage, "a", b"another");
    assert_eq!(read(&*reader, "a"), b"still here", "who has it open reads what it was");
    assert_eq!(get(storage, "a"), b"another");
}

fn locks_exclude_each_other(storage: &dyn Storage) {
    let lock = |path| must(storage.try_lock(path), "a lock can be asked for", path);
    let held = lock("lock");
    assert!(held.is_some(), "nobody holds the lock, and it was not given");
    assert!(lock("lock").is_none(), "a lock was given twice");
    let other = lock("other");
    assert!(other.is_some(), "a lock keeps others than its own from being taken");
    drop(held);
    let again = lock("lock");
    assert!(again.is_some(), "a lock that was given back cannot be taken");
    drop((again, other));
    let entry = |name: &str| Entry { name: name.to_owned(), len: 0, is_dir: false };
    let mut entries = must(storage.list(""), "a directory can be listed", "");
    entries.sort();
    assert_eq!(entries, [entry("lock"), entry("other")], "a lock is an empty file that stays");
}

fn bad_paths_are_refused(storage: &dyn Storage) {
    put(storage, "ok", b"");
    for bad in BAD {
        let invalid = io::ErrorKind::InvalidInput;
        refused(storage.create(bad), invalid, "creating", bad);
        refused(storage.open(bad), invalid, "opening", bad);
        refused(storage.publish("ok", bad), invalid, "publishing as", bad);
        refused(storage.publish(bad, "new"), invalid, "publishing", bad);
        refused(storage.sync_file(bad), invalid, "syncing", bad);
        refused(storage.create_dir(bad), invalid, "creating the directory", bad);
        refused(storage.sync_dir(bad), invalid, "syncing the directory", bad);
        refused(storage.list(bad), invalid, "listing", bad);
        refused(storage.delete(bad), invalid, "deleting", bad);
        refused(storage.try_lock(bad), invalid, "locking", bad);
    }
    // The store itself is a directory, and nothing else.
    refused(storage.create(""), io::ErrorKind::InvalidInput, "creating", "");
    refused(storage.open(""), io::ErrorKind::InvalidInput, "opening", "");
    refused(storage.delete(""), io::ErrorKind::InvalidInput, "deleting", "");
    put(storage, "0-z_..tmp", b"");
}

/// A storage may reserve zeroed space behind the end of a file; it need not.
fn zeroed_space_is_seen_by_readers_only(storage: &dyn Storage) {
    let mut writer = create(storage, "a");
    writer.expect_small_appends();
    let reader = must(storage.open("a"), "a growing file can be opened", "a");
    let mut expected = Vec::new();
    for i in 1..=100_u8 {
        must(writer.append(&[i; 97]), "bytes can be appended", "a");
        expected.extend_from_slice(&[i; 97]);
        must(writer.sync(), "what was appended can be synced", "a");
        assert_eq!(writer.len(), expected.len() as u64, "reserved space is none of the length");
        let seen = get(storage, "a");
        let len = must(reader.len(), "the length of a growing file is known", "a");
        assert_eq!(seen.len() as u64, len, "all who look see the same length");
        let (bytes, reserve) = seen.split_at_checked(expected.len()).unwrap_or((&seen, &[]));
        assert_eq!(bytes, expected, "what was appended");
        assert!(reserve.iter().all(|&b| b == 0), "what is reserved behind the end is not zero");
    }
    must(writer.finish(), "a file can be finished", "a");
    assert_eq!(get(storage, "a"), expected, "a finished file ends where its bytes do");
}

fn earlier_files_can_be_synced(storage: &dyn Storage) {
    put(storage, "finished", b"a");
    must(create(storage, "abandoned").append(b"b"), "bytes can be appended", "abandoned");
    for path in ["finished", "abandoned"] {
        must(storage.sync_file(path), "a file that is no longer written can be synced", path);
    }
    must(storage.evict("abandoned", 0), "what is cached of a file can be forgotten", "abandoned");
    assert_eq!(get(storage, "abandoned"), b"b", "what was synced is read from the medium");
}

fn directories_are_made_durable(storage: &dyn Storage) {
    for path in ["nodes", "nodes/0", "nodes/0", "nodes/0/wal"] {
        must(storage.create_dir_durable(path), "a directory is made durable", path);
    }
    put(storage, "nodes/0/wal/1", b"1");
    assert_eq!(get(storage, "nodes/0/wal/1"), b"1");
}

/// Every promise is broken by some store, and found.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemStorage;

    /// Takes a file's place if it is there already, and lists nothing.
    #[derive(Debug, Default)]
    struct Careless(MemStorage);

    impl ReadStore for Careless {
        fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
            self.0.open(path)
        }
        fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
            self.0.list(dir)
        }
        fn location(&self) -> String {
            self.0.location()
        }
    }

    impl BlobStore for Careless {
        fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()> {
            match self.0.put(path, source) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        }
        fn delete(&self, path: &str) -> io::Result<()> {
            self.0.delete(path)
        }
    }

    #[test]
    #[should_panic(
        expected = "storing under a name that is taken \"d/a\" must fail with AlreadyExists"
    )]
    fn a_store_that_pretends_to_have_stored_is_found() {
        blob_store(&mut || Arc::new(Careless::default()));
    }
}
