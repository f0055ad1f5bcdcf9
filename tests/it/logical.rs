//! Engines that log records of their own: alone, and beside pages.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rewound::{
    CompactOptions, Durability, Error, Lsn, Node, Origin, PageId, PageSize, Position, Redo,
    RedoRecord, Result, SpaceId, Target, Writer,
};

use crate::support::{TestClock, TestRng, memory_archive, quiet};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const PAGE: usize = 512;

/// `put` or `delete` as a record: kind, length of the key, key, value.
fn record(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let kind = u8::from(value.is_some());
    [&[kind, u8::try_from(key.len()).unwrap()], key, value.unwrap_or_default()].concat()
}

fn apply(model: &mut Model, record: &[u8]) -> Result<()> {
    let ([kind, length], rest) =
        record.split_first_chunk().ok_or_else(|| Error::host("a record without a head"))?;
    let (key, value) = rest
        .split_at_checked(usize::from(*length))
        .ok_or_else(|| Error::host("a record without its key"))?;
    match kind {
        0 => drop(model.remove(key)),
        _ => drop(model.insert(key.to_vec(), value.to_vec())),
    }
    Ok(())
}

/// A checkpoint of a map: length, then records that make it.
fn encode(model: &Model) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for (key, value) in model {
        let record = record(key, Some(value));
        bytes.extend(u16::try_from(record.len()).unwrap().to_le_bytes());
        bytes.extend(record);
    }
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Model> {
    let mut model = Model::new();
    let Some((length, _)) = bytes.split_first_chunk() else { return Ok(model) };
    let mut rest = bytes.get(4..u32::from_le_bytes(*length) as usize).unwrap_or_default();
    while let Some((length, tail)) = rest.split_first_chunk() {
        let (record, tail) = tail.split_at(usize::from(u16::from_le_bytes(*length)));
        apply(&mut model, record)?;
        rest = tail;
    }
    Ok(model)
}

/// What the engine does to replay records: begins with the checkpoint that was restored, where it
/// was restored into files, and writes what comes of it beside them.
#[derive(Default)]
struct Replay {
    model: Model,
    dir: Option<PathBuf>,
    lsns: Vec<Lsn>,
    fail_at: Option<Lsn>,
    finished: bool,
}

impl Redo for Replay {
    fn begin(&mut self, dir: Option<&Path>) -> Result<()> {
        if let Some(dir) = dir {
            let checkpoint = fs::read(dir.join("checkpoint")).map_err(Error::host)?;
            self.model = decode(&checkpoint)?;
            self.dir = Some(dir.to_owned());
        }
        Ok(())
    }

    fn apply(&mut self, record: RedoRecord<'_>) -> Result<()> {
        if let Some(dir) = &self.dir {
            fs::write(dir.join("begun"), b"").map_err(Error::host)?;
        }
        if self.fail_at == Some(record.lsn) {
            return Err(Error::host("a record that this engine does not know"));
        }
        assert!(
            self.lsns.last().is_none_or(|last| *last <= record.lsn),
            "records come in their order"
        );
        self.lsns.push(record.lsn);
        apply(&mut self.model, record.bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        let Some(dir) = &self.dir else { return Ok(()) };
        let path = dir.join("index");
        fs::write(&path, encode(&self.model)).map_err(Error::host)?;
        fs::File::open(&path).and_then(|f| f.sync_all()).map_err(Error::host)
    }
}

/// A number below `bound`.
fn below(rng: &TestRng, bound: u64) -> u64 {
    use rewound::env::Rng;
    let mut bytes = [0; 8];
    rng.fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % bound
}

fn compact() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 3_000;
    options.fan_out = 2;
    options.replay.unit_bytes = 2 * PAGE;
    options
}

/// An engine that keeps a map in memory and logs what happens to it. From time to time it writes
/// the map to pages.
struct MapEngine {
    writer: Writer,
    space: Option<SpaceId>,
    model: Model,
    /// Pages of the last checkpoint.
    checkpoint: Vec<u8>,
}

impl MapEngine {
    /// Opens at the state given.
    fn open(node: &Node, model: Model) -> MapEngine {
        let writer = node.open_writer_with(quiet()).unwrap();
        let space = writer.space("checkpoint");
        MapEngine { writer, space, model, checkpoint: Vec::new() }
    }

    /// Some puts and deletes as one commit.
    fn commit(&mut self, rng: &TestRng) {
        let mut batch = self.writer.batch();
        if self.space.is_none() {
            self.space = Some(batch.create_space("checkpoint", PageSize::MIN).unwrap());
        }
        for _ in 0..below(rng, 4) {
            let key = format!("key {}", below(rng, 40)).into_bytes();
            // Some of them long enough to be worth compressing.
            let value = format!("value {} ", below(rng, 1_000))
                .repeat(1 + below(rng, 30) as usize)
                .into_bytes();
            let value = (below(rng, 4) > 0).then_some(value);
            let record = record(&key, value.as_deref());
            apply(&mut self.model, &record).unwrap();
            batch.log_record(&record).unwrap();
        }
        batch
            .commit(if below(rng, 2) == 0 { Durability::Synced } else { Durability::Buffered })
            .unwrap();
    }

    /// Writes the map to pages. Replay begins after it from now on.
    fn checkpoint(&mut self) {
        let space = self.space.unwrap();
        let new = encode(&self.model);
        let mut batch = self.writer.batch();
        batch.set_length(space, new.len() as u64).unwrap();
        for (number, image) in new.chunks_exact(PAGE).enumerate() {
            let old = self.checkpoint.get(number * PAGE..(number + 1) * PAGE);
            batch.write_page(PageId::new(space, number as u64), image, old).unwrap();
        }
        batch.redo_point(self.writer.newest()).unwrap();
        batch.commit(Durability::Synced).unwrap();
        self.checkpoint = new;
    }
}

/// Restores every LSN in files and compares the map with the model's.
fn check_maps(node: &Node, history: &[Model], checkpoints: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    for (i, model) in history.iter().enumerate() {
        let lsn = Lsn::new(i as u64 + 1).unwrap();
        let mut replay = Replay::default();
        let out = dir.path().join(lsn.to_string());
        let report = node.restore(Target::Lsn(lsn)).redo(&mut replay).into_dir(&out).unwrap();
        assert!(replay.finished);
        assert!(replay.model == *model, "LSN {lsn}");
        assert_eq!(report.records_replayed, replay.lsns.len() as u64);
        // Replay begins after the checkpoint before.
        let checkpoint = checkpoints.iter().rev().find(|c| **c <= i).map_or(0, |c| *c as u64);
        assert!(
            replay.lsns.iter().all(|l| l.get() > checkpoint && *l <= lsn),
            "LSN {lsn}: {:?}",
            replay.lsns
        );
        // What the engine made of the records was published with the pages.
        assert!(decode(&fs::read(out.join("index")).unwrap()).unwrap() == *model);
    }
}

#[test]
fn an_engine_of_records_alone() {
    let rng = TestRng::new(11);
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("map", Origin::Empty).unwrap();
    let (mut history, mut checkpoints) = (Vec::new(), Vec::new());
    for round in 0..4 {
        // A new tenure replays like a restore does.
        let mut engine = MapEngine::open(&node, history.last().cloned().unwrap_or_default());
        for i in 0..30 {
            clock.advance(1_000);
            if i % 13 == 12 && round > 0 {
                engine.checkpoint();
                checkpoints.push(history.len());
            } else {
                engine.commit(&rng);
            }
            history.push(engine.model.clone());
        }
        engine.writer.close().unwrap();
        check_maps(&node, &history, &checkpoints);
        if round % 2 == 1 {
            assert!(node.maintain(&compact()).unwrap().layers > 0);
            check_maps(&node, &history, &checkpoints);
        }
    }
    assert!(
        node.layers().unwrap().iter().any(|l| l.from.is_none()),
        "snapshots hold redo points too"
    );
}

/// A table of counters in pages, and an index of them in memory, by value, whose changes are
/// records.
struct Mixed {
    writer: Writer,
    table: SpaceId,
    checkpoint: SpaceId,
    pages: Vec<Vec<u8>>,
    index: Model,
    index_pages: usize,
}

impl Mixed {
    fn create(node: &Node) -> Mixed {
        let writer = node.open_writer_with(quiet()).unwrap();
        let mut batch = writer.batch();
        let table = batch.create_space("table", PageSize::MIN).unwrap();
        let checkpoint = batch.create_space("checkpoint", PageSize::MIN).unwrap();
        batch.commit(Durability::Synced).unwrap();
        Mixed { writer, table, checkpoint, pages: Vec::new(), index: Model::new(), index_pages: 0 }
    }

    /// Sets a few counters, in the table and in the index, as one commit. Sometimes with a
    /// checkpoint of the index in the same commit.
    fn commit(&mut self, rng: &TestRng, checkpoint: bool) {
        let mut batch = self.writer.batch();
        if checkpoint {
            // What the checkpoint holds are the commits so far, not the records that come with this
            // one.
            let bytes = encode(&self.index);
            let pages = bytes.len() / PAGE;
            for (number, image) in bytes.chunks_exact(PAGE).enumerate() {
                batch.write_page(PageId::new(self.checkpoint, number as u64), image, None).unwrap();
            }
            if pages < self.index_pages {
                batch.set_length(self.checkpoint, bytes.len() as u64).unwrap();
            }
            self.index_pages = pages;
            batch.redo_point(self.writer.newest()).unwrap();
        }
        for _ in 0..=below(rng, 2) {
            let row = below(rng, 300);
            let (page, slot) = ((row / 64) as usize, (row % 64) as usize * 8);
            if self.pages.len() <= page {
                self.pages.resize(page + 1, vec![0; PAGE]);
            }
            let old = self.pages[page].clone();
            let value = below(rng, u64::MAX).to_le_bytes();
            self.pages[page][slot..slot + 8].copy_from_slice(&value);
            let id = PageId::new(self.table, page as u64);
            batch
                .write_page(
                    id,
                    &self.pages[page],
                    Some(&old).filter(|_| row.is_multiple_of(2)).map(Vec::as_slice),
                )
                .unwrap_or_else(|e| panic!("{e}"));
            let before = old[slot..slot + 8].to_vec();
            for record in [record(&before, None), record(&value, Some(&row.to_le_bytes()))] {
                apply(&mut self.index, &record).unwrap();
                batch.log_record(&record).unwrap();
            }
        }
        batch.commit(Durability::Buffered).unwrap();
    }
}

#[test]
fn an_engine_of_pages_and_records() {
    let rng = TestRng::new(12);
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("mixed", Origin::Empty).unwrap();
    let mut engine = Mixed::create(&node);
    let mut history = vec![(Vec::new(), Model::new())];
    for i in 0..150 {
        clock.advance(1_000);
        engine.commit(&rng, i % 20 == 19);
        history.push((engine.pages.concat(), engine.index.clone()));
        if i % 50 == 49 {
            engine.writer.rotate_segment().unwrap();
            node.maintain(&compact()).unwrap();
        }
    }
    assert!(node.layers().unwrap().len() > 2);
    let dir = tempfile::tempdir().unwrap();
    for (i, (table, index)) in history.iter().enumerate() {
        let lsn = Lsn::new(i as u64 + 1).unwrap();
        let mut replay = Replay::default();
        let out = dir.path().join(lsn.to_string());
        let report = node.restore(Target::Lsn(lsn)).redo(&mut replay).into_dir(&out).unwrap();
        assert_eq!(report.lsn, lsn);
        assert!(fs::read(out.join("table")).unwrap() == *table, "table at LSN {lsn}");
        assert!(replay.model == *index, "index at LSN {lsn}");
        // Pages alone, on demand.
        let (_, spaces) = node.restore(Target::Lsn(lsn)).skip_redo().into_memory().unwrap();
        assert!(spaces["table"] == *table);
    }
    // In place, the same: back and forth.
    let out = dir.path().join("in place");
    for lsn in [150, 3, 77, 76, 151] {
        let (table, index) = &history[lsn - 1];
        let mut replay = Replay::default();
        let target = Target::Lsn(Lsn::new(lsn as u64).unwrap());
        node.restore(target).redo(&mut replay).delta_into_dir(&out).unwrap();
        assert!(
            fs::read(out.join("table")).unwrap() == *table && replay.model == *index,
            "LSN {lsn}"
        );
        assert!(decode(&fs::read(out.join("index")).unwrap()).unwrap() == *index);
    }
}

/// A node whose commits 1 to 10 put a key each; the checkpoint of commit 6 holds 1 to 5.
fn ten() -> Node {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("ten", Origin::Empty).unwrap();
    let mut engine = MapEngine::open(&node, Model::new());
    for i in 1..=10u8 {
        if i == 6 {
            engine.checkpoint();
            continue;
        }
        let mut batch = engine.writer.batch();
        if i == 1 {
            engine.space = Some(batch.create_space("checkpoint", PageSize::MIN).unwrap());
        }
        batch.log_record(&record(&[i], Some(b"x"))).unwrap();
        engine.model.insert(vec![i], b"x".to_vec());
        batch.commit(Durability::Synced).unwrap();
    }
    engine.writer.close().unwrap();
    node
}

#[test]
fn records_without_a_redo_are_refused() {
    let node = ten();
    let dir = tempfile::tempdir().unwrap();
    for (lsn, records) in [(1, 1), (5, 5), (6, 0), (7, 1), (10, 4)] {
        let target = || Target::Lsn(Lsn::new(lsn).unwrap());
        let out = dir.path().join(lsn.to_string());
        let results = [
            node.restore(target()).into_dir(&out).map(drop),
            node.restore(target()).into_memory().map(drop),
            node.restore(target()).delta_into_dir(dir.path().join("delta")).map(drop),
            node.restore(target()).into_file(dir.path().join(format!("{lsn}.file"))).map(drop),
        ];
        for result in results {
            match result {
                Ok(()) => assert_eq!(records, 0, "LSN {lsn}"),
                Err(Error::RedoRequired { count, .. }) => assert_eq!(count, records, "LSN {lsn}"),
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(out.exists(), records == 0, "refused before anything is written");
        assert_eq!(dir.path().join("delta").exists(), lsn >= 6);
        node.restore(target()).skip_redo().into_memory().unwrap();
    }
}

#[test]
fn what_a_redo_writes_appears_with_the_pages_or_not_at_all() {
    let node = ten();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut replay = Replay { fail_at: Lsn::new(9), ..Replay::default() };
    let result = node.restore(Target::Latest).redo(&mut replay).into_dir(&out);
    assert!(
        matches!(result, Err(Error::Host { source, .. }) if source.to_string().contains("does not know"))
    );
    assert!(!replay.finished && replay.lsns.len() == 2, "it had begun");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays");
    // Into files there is no directory to write to; the same failure leaves no file.
    let mut replay = Replay { fail_at: Lsn::new(9), ..Replay::default() };
    assert!(
        node.restore(Target::Latest).redo(&mut replay).into_file(dir.path().join("file")).is_err()
    );
    assert!(replay.dir.is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let mut replay = Replay::default();
    node.restore(Target::Latest).redo(&mut replay).into_dir(&out).unwrap();
    assert!(!replay.dir.unwrap().exists(), "it worked under another name");
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["begun", "checkpoint", "index"]);
}

/// Takes pages and keeps none.
struct Nowhere;

impl rewound::PageSink for Nowhere {
    fn write(&self, _: SpaceId, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_redo_point_covers_only_what_is_logged() {
    let clock = TestClock::new();
    let (_, archive) = memory_archive(&clock);
    let node = archive.create_node("n", Origin::Empty).unwrap();
    let writer = node.open_writer_with(quiet()).unwrap();
    let commit = |redo: Option<u64>, record: &[u8]| {
        let mut batch = writer.batch();
        batch.log_record(record)?;
        redo.map_or(Ok(()), |at| batch.redo_point(Position::new(at)))?;
        batch.commit(Durability::Synced)
    };
    commit(None, &record(b"a", Some(b"1"))).unwrap();
    // Its own record may be in its pages already; a later one cannot be. Believed, this one would
    // silently cost what comes next.
    commit(Some(2), &record(b"b", Some(b"2"))).unwrap();
    assert!(commit(Some(9), &record(b"c", Some(b"3"))).is_err(), "a redo point in the future");
    commit(None, &record(b"d", Some(b"4"))).unwrap();
    assert!(matches!(commit(Some(1), b""), Err(Error::NotMonotonic { .. })));
    let mut replay = Replay::default();
    let report = node.restore(Target::Latest).redo(&mut replay).into_sink(|_| Ok(Nowhere)).unwrap();
    assert_eq!((report.lsn.get(), report.records_replayed), (3, 1));
    assert!(replay.model == Model::from([(b"d".to_vec(), b"4".to_vec())]));
}
