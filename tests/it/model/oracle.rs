//! Compares what an archive gives with what the model holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rewound::options::ReplayOptions;
use rewound::{
    Error, Lsn, Node, Redo, RedoRecord, Resolved, Restore, RestoreReport, Result, Target,
    TimelineId, Timestamp,
};

use super::draft::noise;
use super::engine::Left;
use super::history::Model;

/// How much is checked.
#[derive(Clone, Copy, Debug)]
pub enum Share {
    /// Every commit, and every time around each.
    All,
    /// About one commit in five, drawn from a seed.
    Some(u64),
}

impl Share {
    fn takes(self, n: usize) -> bool {
        match self {
            Share::All => true,
            Share::Some(seed) => draw(seed, n).is_multiple_of(5),
        }
    }
}

fn draw(seed: u64, n: usize) -> u8 {
    noise(seed ^ n as u64, 1)[0]
}

/// Keeps the records that it is given.
#[derive(Debug, Default)]
struct Recorder {
    records: Vec<(u64, Vec<u8>)>,
    finished: bool,
}

impl Redo for Recorder {
    fn apply(&mut self, record: RedoRecord<'_>) -> Result<()> {
        self.records.push((record.lsn.get(), record.bytes.to_vec()));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        Ok(())
    }
}

/// What a target has to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Commit(usize),
    BeforeWindow,
    AfterEnd,
    Unknown,
}

/// One node under the eyes of its model.
#[derive(Clone, Debug)]
pub struct Oracle<'a> {
    pub node: &'a Node,
    pub model: &'a Model,
    /// The timeline that the model is of, where targets have to name it.
    pub named: Option<TimelineId>,
    /// The timeline is written since this time,
    pub begun: Timestamp,
    /// and before it these were.
    pub older: &'a [Left],
    pub replay: ReplayOptions,
    /// Where directories can be restored to.
    pub dirs: &'a Path,
    pub salt: u64,
}

fn lsn(n: usize) -> Lsn {
    Lsn::new(n as u64).unwrap()
}

impl Oracle<'_> {
    /// Checks everything that can be seen now. What was not flushed may or may not be seen.
    pub fn check(&self, share: Share) {
        let model = self.model;
        let window = match self.node.window() {
            Ok(window) => window,
            Err(Error::BeforeWindow { .. } | Error::AfterDurableEnd { .. }) => {
                let (promised, _) = model.promised(usize::MAX);
                let visible = model.earliest().is_some_and(|e| e <= promised);
                assert!(!visible, "LSN {:?} of {promised} can be restored", model.earliest());
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let end = usize::try_from(window.latest.lsn.get()).unwrap();
        let (promised, known) = model.promised(usize::MAX);
        assert!(
            (promised..=model.len()).contains(&end),
            "LSN {end} is the end, {promised} was promised"
        );
        assert_eq!(window.latest.timestamp, model.moments[end - 1].timestamp);
        assert_eq!(window.known_until, known.max(window.latest.timestamp));
        let earliest = usize::try_from(window.earliest.lsn.get()).unwrap();
        assert_eq!(Some(earliest), model.earliest());
        assert_eq!(window.earliest.timestamp, model.moments[earliest - 1].timestamp);

        let seen = Seen { oracle: self, earliest, end, known_until: window.known_until };
        seen.names();
        for n in (1..=end).filter(|n| share.takes(*n)) {
            seen.times(n);
            if n >= earliest {
                self.restore(n, end);
            } else {
                seen.expect(&Target::Lsn(lsn(n)), Expected::BeforeWindow);
            }
        }
        for n in (earliest..=end).filter(|n| share.takes(*n) && draw(self.salt, *n) < 20) {
            self.restore_to_disk(n, end);
        }
        for (timeline, Left { model, .. }) in (1..).zip(self.older) {
            let on_it = Oracle {
                model,
                named: Some(TimelineId::new(timeline)),
                dirs: self.dirs,
                ..self.clone()
            };
            let end = model.len();
            for n in (model.earliest().unwrap()..=end).filter(|n| share.takes(*n)) {
                on_it.check_resolved(&self.node.resolve(&on_it.target(n)).unwrap(), n, end);
                on_it.restore(n, end);
                seen.times_at(model.moments[n - 1].timestamp);
            }
            let after = Target::OnTimeline(TimelineId::new(timeline), lsn(end + 1));
            assert!(matches!(self.node.resolve(&after), Err(Error::AfterDurableEnd { .. })));
        }
    }

    fn target(&self, n: usize) -> Target {
        self.named.map_or(Target::Lsn(lsn(n)), |timeline| Target::OnTimeline(timeline, lsn(n)))
    }

    /// The commit `n` as a resolved target.
    fn check_resolved(&self, found: &Resolved, n: usize, end: usize) {
        let next = self.model.moments[..end].get(n).map(|m| m.timestamp);
        let expected = (lsn(n), self.model.moments[n - 1].timestamp, next);
        assert_eq!((found.lsn, found.timestamp, found.next), expected);
    }

    fn begin(&self, n: usize) -> Restore<'_> {
        self.node.restore(self.target(n)).options(self.replay.clone())
    }

    fn restore(&self, n: usize, end: usize) {
        let restored = self.begin(n).skip_redo().into_memory();
        let (report, spaces) = restored.unwrap_or_else(|e| panic!("LSN {n}: {e}"));
        self.check_report(&report, n, end);
        self.check_spaces(n, &spaces);
        let records = self.model.records(n);
        if !records.is_empty() {
            match self.begin(n).into_memory() {
                Err(Error::RedoRequired { count, .. }) => {
                    assert_eq!(count, records.len() as u64, "records up to LSN {n}");
                }
                other => panic!("LSN {n} needs its records, got {other:?}"),
            }
        }
        if draw(self.salt, n).is_multiple_of(4) || records.len() > 20 {
            let mut recorder = Recorder::default();
            let (report, _) = self.begin(n).redo(&mut recorder).into_memory().unwrap();
            assert!(recorder.finished);
            assert_eq!(report.records_replayed, records.len() as u64);
            assert!(recorder.records == records, "records up to LSN {n} differ");
        }
    }

    fn check_report(&self, report: &RestoreReport, n: usize, end: usize) {
        let moment = &self.model.moments[n - 1];
        let next = self.model.moments[..end].get(n).map(|m| m.timestamp);
        assert_eq!((report.lsn, report.timestamp, report.next), (lsn(n), moment.timestamp, next));
        assert_eq!(report.config, moment.state.config(false), "configuration of LSN {n}");
        assert_eq!(report.environment, moment.state.config(true), "environment of LSN {n}");
        assert_eq!(report.mark, moment.state.mark, "mark of LSN {n}");
        let found =
            report.spaces.iter().map(|(id, s)| (*id, (s.name.clone(), s.page_size, s.length)));
        let expected = moment.state.spaces.iter();
        let expected =
            expected.map(|(id, s)| (*id, (s.name.clone(), s.page_size, s.bytes.len() as u64)));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect(), "spaces of LSN {n}");
    }

    fn check_spaces(&self, n: usize, found: &BTreeMap<String, Vec<u8>>) {
        let state = &self.model.moments[n - 1].state;
        assert_eq!(found.len(), state.spaces.len(), "spaces of LSN {n}");
        for space in state.spaces.values() {
            let found = &found[&space.name];
            let same = |(a, b): &(&u8, &u8)| a == b;
            if *found != *space.bytes {
                let at = found.iter().zip(space.bytes.iter()).take_while(same).count();
                let (size, len) = (space.page_size.bytes(), (found.len(), space.bytes.len()));
                panic!(
                    "LSN {n} differs: {:?} at byte {at}, page {}; lengths {len:?}",
                    space.name,
                    at / size
                );
            }
        }
    }

    /// Into a directory, and over one that holds another state.
    fn restore_to_disk(&self, n: usize, end: usize) {
        let read = |dir: &Path| {
            let spaces = self.model.moments[n - 1].state.spaces.values();
            spaces.map(|s| (s.name.clone(), std::fs::read(dir.join(&s.name)).unwrap())).collect()
        };
        let fresh = self.dirs.join("fresh");
        let mut recorder = Recorder::default();
        let report = self.begin(n).redo(&mut recorder).into_dir(&fresh).unwrap();
        self.check_report(&report, n, end);
        self.check_spaces(n, &read(&fresh));
        assert!(recorder.records == self.model.records(n), "records up to LSN {n} differ");
        let files = std::fs::read_dir(&fresh).unwrap().count();
        assert_eq!(files, self.model.moments[n - 1].state.spaces.len());
        std::fs::remove_dir_all(&fresh).unwrap();

        let used = self.dirs.join("used");
        let report = self.begin(n).skip_redo().delta_into_dir(&used).unwrap();
        self.check_report(&report, n, end);
        self.check_spaces(n, &read(&used));
        assert!(!used.join(".rewound-incomplete").exists());
        let again = self.begin(n).skip_redo().delta_into_dir(&used).unwrap();
        assert_eq!(again.bytes_written, 0, "nothing differs any more");
    }
}

/// What can be seen of a node's history.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    oracle: &'a Oracle<'a>,
    earliest: usize,
    end: usize,
    known_until: Timestamp,
}

impl Seen<'_> {
    fn expect(&self, target: &Target, expected: Expected) {
        let oracle = self.oracle;
        let expected = match expected {
            Expected::Commit(n) if n < self.earliest => Expected::BeforeWindow,
            other => other,
        };
        match (oracle.node.resolve(target), expected) {
            (Ok(found), Expected::Commit(n)) => oracle.check_resolved(&found, n, self.end),
            (Err(Error::BeforeWindow { target: t, .. }), Expected::BeforeWindow)
            | (Err(Error::AfterDurableEnd { target: t, .. }), Expected::AfterEnd)
            | (Err(Error::TargetNotFound { target: t, .. }), Expected::Unknown) => {
                assert_eq!(t, *target);
            }
            (found, expected) => panic!("{target:?} is {expected:?}, found {found:?}"),
        }
    }

    /// A timeline that was left, as it is seen.
    fn left<'s>(oracle: &'s Oracle<'s>) -> Seen<'s> {
        let model = oracle.model;
        let (earliest, end) = (model.earliest().unwrap(), model.len());
        Seen { oracle, earliest, end, known_until: model.known_until }
    }

    /// The commit that holds everything up to a time, on the timeline that was written then.
    fn expect_at(&self, target: &Target, time: Timestamp) {
        let oracle = self.oracle;
        let older = oracle
            .older
            .iter()
            .rev()
            .find(|left| time > left.begun || left.begun == Timestamp::ZERO);
        if let Some(Left { model, .. }) = older.filter(|_| time <= oracle.begun) {
            let left = Oracle { model, older: &[], begun: Timestamp::ZERO, ..oracle.clone() };
            return Seen::left(&left).expect_at(target, time);
        }
        let expected = if time > self.known_until {
            Expected::AfterEnd
        } else {
            match oracle.model.moments[..self.end].partition_point(|m| m.timestamp <= time) {
                0 => Expected::BeforeWindow,
                n => Expected::Commit(n),
            }
        };
        self.expect(target, expected);
    }

    /// The times at a commit and on either side of it.
    fn times(&self, n: usize) {
        self.times_at(self.oracle.model.moments[n - 1].timestamp);
    }

    fn times_at(&self, at: Timestamp) {
        let at = at.as_nanos();
        for time in [at - 1, at, at + 1] {
            self.expect_at(&Target::Time(Timestamp::from_nanos(time)), Timestamp::from_nanos(time));
            if time + 1 > at {
                self.expect_at(
                    &Target::BeforeTime(Timestamp::from_nanos(time + 1)),
                    Timestamp::from_nanos(time),
                );
            }
        }
    }

    /// Restore points, but for those that an older timeline has: they are found there.
    fn points(&self, names: &mut BTreeSet<String>) {
        for (n, moment) in (1..).zip(&self.oracle.model.moments[..self.end]) {
            for name in moment.points() {
                if names.insert(name.to_owned()) {
                    self.expect(&Target::RestorePoint(name.to_owned()), Expected::Commit(n));
                }
            }
        }
    }

    /// Restore points, marks, and the ends of the window.
    fn names(&self) {
        let Oracle { node, model, .. } = self.oracle;
        let moments = || (1..).zip(&model.moments[..self.end]);
        self.expect(&Target::Latest, Expected::Commit(self.end));
        self.expect(&Target::Lsn(lsn(self.end + 1)), Expected::AfterEnd);
        self.expect_at(&Target::Time(self.known_until), self.known_until);
        let after = Timestamp::from_nanos(self.known_until.as_nanos() + 1);
        self.expect(&Target::Time(after), Expected::AfterEnd);
        self.expect_at(&Target::BeforeTime(after), self.known_until);
        if self.known_until > self.oracle.begun || self.oracle.older.is_empty() {
            self.expect(&Target::Time(self.known_until), Expected::Commit(self.end));
            self.expect(&Target::BeforeTime(after), Expected::Commit(self.end));
        }
        self.expect(&Target::Time(Timestamp::ZERO), Expected::BeforeWindow);
        self.expect(&Target::BeforeTime(Timestamp::ZERO), Expected::BeforeWindow);

        let mut names = BTreeSet::new();
        for Left { model, .. } in self.oracle.older {
            let left = Oracle { model, older: &[], ..self.oracle.clone() };
            Seen::left(&left).points(&mut names);
        }
        self.points(&mut names);
        self.expect(&Target::RestorePoint("never named".into()), Expected::Unknown);
        let known: BTreeSet<String> = node.restore_points().unwrap().into_keys().collect();
        assert_eq!(known, names);

        let marks: BTreeMap<&[u8], usize> =
            moments().filter_map(|(n, m)| Some((m.mark()?, n))).collect();
        for (mark, n) in &marks {
            self.expect(&Target::Mark(mark.to_vec()), Expected::Commit(*n));
            let between = [*mark, &[0]].concat();
            self.expect(&Target::Mark(between), Expected::Unknown);
        }
        self.expect(&Target::Mark(Vec::new()), Expected::Unknown);
    }
}
