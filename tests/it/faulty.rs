//! A storage whose reads lie, fall short or fail, and to which others do something at the worst
//! moment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rewound::storage::{
    AppendFile, BlobStore, Entry, LockGuard, MemStorage, ReadFile, ReadStore, Storage,
    put_by_publishing,
};

/// What a read does instead of what it should.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// One bit is flipped; the number decides which.
    Flip(usize),
    /// So many bytes less than there are, or none at all.
    Short(usize),
    /// An error.
    Fail,
}

/// A storage whose reads lie: the one of a number, or all of them.
#[derive(Clone, Debug)]
pub struct LyingStorage {
    truth: MemStorage,
    reads: Arc<Reads>,
    /// What happens once, right before a file of this name is published.
    meanwhile: Meanwhile,
}

/// The name, and what happens.
type Act = (String, Box<dyn FnOnce() + Send>);

#[derive(Clone, Default)]
struct Meanwhile(Arc<Mutex<Option<Act>>>);

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

#[derive(Debug)]
struct Reads {
    count: AtomicUsize,
    /// Which read lies, and how; `usize::MAX`: every one.
    lie: Option<(usize, Lie)>,
}

impl LyingStorage {
    pub fn new(truth: MemStorage, lie: Option<(usize, Lie)>) -> LyingStorage {
        let reads = Arc::new(Reads { count: AtomicUsize::new(0), lie });
        LyingStorage { truth, reads, meanwhile: Meanwhile::default() }
    }

    /// Something that another process does right before a file is published.
    pub fn before_publishing(&self, path: &str, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.0.lock() = Some((path.to_owned(), Box::new(act)));
    }

    /// How many reads there were.
    pub fn count(&self) -> usize {
        self.reads.count.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct LyingFile {
    truth: Arc<dyn ReadFile>,
    reads: Arc<Reads>,
}

impl ReadFile for LyingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reads.count.fetch_add(1, Ordering::SeqCst);
        let lie =
            self.reads.lie.filter(|(at, _)| *at == n || *at == usize::MAX).map(|(_, lie)| lie);
        match lie {
            None => self.truth.read_at(offset, buf),
            Some(Lie::Fail) => Err(io::Error::other("injected fault of a read")),
            Some(Lie::Short(less)) => {
                // Where all reads fall short they have to get on somehow.
                let least = usize::from(self.reads.lie.is_some_and(|(at, _)| at == usize::MAX))
                    .min(buf.len());
                let len = buf.len().saturating_sub(less).max(least);
                self.truth.read_at(offset, &mut buf[..len])
            }
            Some(Lie::Flip(which)) => {
                let got = self.truth.read_at(offset, buf)?;
                if got > 0 {
                    buf[which % got] ^= 1 << (which % 8);
                }
                Ok(got)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.truth.len()
    }
}

impl ReadStore for LyingStorage {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(LyingFile { truth: self.truth.open(path)?, reads: Arc::clone(&self.reads) }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        self.truth.list(dir)
    }

    fn location(&self) -> String {
        self.truth.location()
    }
}

impl BlobStore for LyingStorage {
    fn put(&self, path: &str, source: &dyn ReadFile) -> io::Result<()> {
        put_by_publishing(self, path, source)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        self.truth.delete(path)
    }
}

impl Storage for LyingStorage {
    fn create(&self, path: &str) -> io::Result<Box<dyn AppendFile>> {
        self.truth.create(path)
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let due = self.meanwhile.0.lock().take_if(|(path, _)| path == to);
        if let Some((_, act)) = due {
            act();
        }
        self.truth.publish(from, to)
    }

    fn sync_file(&self, path: &str) -> io::Result<()> {
        self.truth.sync_file(path)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.truth.create_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.truth.sync_dir(path)
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.truth.try_lock(path)
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        self.truth.free_space()
    }
}
