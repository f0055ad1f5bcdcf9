//! Our stores keep what the traits promise, and what the library builds on them works.

use super::*;

/// Every new store in a directory of its own.
fn directories(
    dir: &tempfile::TempDir,
    kind: impl Fn(FsStorage) -> FsStorage,
) -> impl FnMut() -> Arc<FsStorage> {
    let mut count = 0;
    let root = dir.path().to_owned();
    move || {
        count += 1;
        Arc::new(kind(FsStorage::new(root.join(count.to_string()))))
    }
}

#[test]
fn a_directory_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    let mut new = directories(&dir, |storage| storage);
    conformance::storage(&mut || new());
}

#[test]
fn a_mapped_directory_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    let mut new = directories(&dir, FsStorage::mapped);
    conformance::storage(&mut || new());
    let store = new();
    store.put("long", &Bytes::from(vec![7; 100_000])).unwrap();
    store.put("short", &Bytes::from(vec![7; 1_000])).unwrap();
    let (long, short) = (store.open("long").unwrap(), store.open("short").unwrap());
    assert!(is_mapped(&store.root().join("long")));
    assert!(!is_mapped(&store.root().join("short")));
    assert_eq!(read_range(&*long, "long", 0, 200_000).unwrap(), vec![7; 100_000]);
    assert_eq!(read_range(&*short, "short", 0, 200_000).unwrap(), vec![7; 1_000]);
    // Who is lent a file need not copy it: what may change is not lent.
    assert!(long.lend().is_none());
    drop(long);
    assert!(!is_mapped(&store.root().join("long")));
    let mut writer = store.create("growing").unwrap();
    writer.append(&vec![7; 100_000]).unwrap();
    let growing = store.open("growing").unwrap();
    assert!(!is_mapped(&store.root().join("growing")), "a file that still grows is mapped");
    writer.append(&[8; 10]).unwrap();
    assert_eq!(read_range(&*growing, "growing", 100_000, 100).unwrap(), [8; 10]);
}

#[test]
fn memory_keeps_the_promises() {
    conformance::storage(&mut || Arc::new(MemStorage::new()));
    conformance::storage(&mut || Arc::new(MemStorage::without_recording()));
}

#[test]
fn ours_reserve_zeroed_space() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Storage>; 2] =
        [Arc::new(MemStorage::new()), Arc::new(FsStorage::new(dir.path()))];
    for storage in stores {
        let mut writer = storage.create("a").unwrap();
        writer.expect_small_appends();
        for i in 1..=100_u8 {
            writer.append(&[i; 97]).unwrap();
            writer.sync().unwrap();
            assert!(storage.open("a").unwrap().len().unwrap() > writer.len());
        }
        writer.finish().unwrap();
        assert_eq!(storage.open("a").unwrap().len().unwrap(), 9_700);
    }
}

#[test]
fn full_reads_are_full_where_the_store_can() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Storage>; 2] =
        [Arc::new(MemStorage::new()), Arc::new(FsStorage::new(dir.path()))];
    for storage in stores {
        storage.put("a", &Bytes::from_static(b"hello world")).unwrap();
        let file = storage.open("a").unwrap();
        let mut buf = [b'.'; 8];
        assert_eq!(file.read_at(6, &mut buf).unwrap(), 5);
        assert_eq!(&buf, b"world...");
        assert_eq!(file.read_at(0, &mut buf).unwrap(), 8);
        assert_eq!(&buf, b"hello wo");
    }
}

#[test]
fn durable_helpers_work() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Storage>; 2] =
        [Arc::new(MemStorage::new()), Arc::new(FsStorage::new(dir.path()))];
    for storage in stores {
        let storage = storage.as_ref();
        create_dir_durable(storage, "nodes/0/wal").unwrap();
        create_dir_durable(storage, "nodes/0/wal").unwrap();
        for (bytes, wins) in [(b"1", true), (b"2", false)] {
            let mut file = storage.create("nodes/0/tmp").or_else(|_| {
                storage.delete("nodes/0/tmp")?;
                storage.create("nodes/0/tmp")
            });
            file.as_mut().unwrap().append(bytes).unwrap();
            file.unwrap().finish().unwrap();
            let won = publish_durable(storage, "nodes/0/tmp", "nodes/0/wal/1").unwrap();
            assert_eq!(won, wins);
            let file = storage.open("nodes/0/wal/1").unwrap();
            assert_eq!(read_range(&*file, "1", 0, 99).unwrap(), b"1");
        }
    }
}

/// A put that is killed leaves a file that nobody has locked; one that goes on is left alone.
#[test]
fn a_sweep_takes_what_a_killed_put_left() {
    use crate::names::Scope;
    use crate::types::FileId;
    let storage = Arc::new(MemStorage::new());
    let key = crate::KeyFile::from_bytes([1; 32]);
    let options = crate::ArchiveOptions::new();
    let archive = crate::Archive::create_in(storage.clone(), key, options).unwrap();
    let (dead, live) = (
        Scope::Put.path(FileId::from_bytes([1; 16])),
        Scope::Put.path(FileId::from_bytes([2; 16])),
    );
    for path in [&dead, &live] {
        storage.create(path).unwrap().append(b"half").unwrap();
    }
    let lock = storage.try_lock(&live).unwrap().unwrap();
    archive.administrator(crate::Actor::default()).sweep(&crate::SweepOptions::default()).unwrap();
    assert_eq!(storage.open(&dead).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(storage.open(&live).is_ok());
    drop(lock);
}

/// A storage in which a sweeper takes each file that is not locked yet, so many times.
#[derive(Debug)]
struct Swept(MemStorage, crate::sync::Mutex<u32>);

impl ReadStore for Swept {
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

impl BlobStore for Swept {
    fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()> {
        put_by_publishing(self, path, source)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        self.0.delete(path)
    }
}

impl Storage for Swept {
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>> {
        self.0.create(path)
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.publish(from, to)
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        self.0.sync_file(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut left = self.1.lock();
        if *left > 0 {
            *left -= 1;
            self.0.delete(path)?;
        }
        self.0.try_lock(path)
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        self.0.free_space()
    }
}

#[test]
fn a_put_that_a_sweeper_comes_upon_stores_what_it_was_given() {
    for times in 0..3 {
        let store = Swept(MemStorage::new(), crate::sync::Mutex::new(times));
        store.put("d/a", &Bytes::from_static(b"hello world")).unwrap();
        assert_eq!(
            read_range(&*store.open("d/a").unwrap(), "d/a", 0, 99).unwrap(),
            b"hello world",
            "{times}"
        );
        assert!(store.list("tmp").unwrap().is_empty(), "something is left after {times}");
    }
    let store = Swept(MemStorage::new(), crate::sync::Mutex::new(9));
    assert_eq!(
        store.put("d/a", &Bytes::from_static(b"x")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert!(store.open("d/a").is_err());
}
