//! The model: the whole state after each commit, in plain memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use rewound::{PageId, PageSize, SpaceId, Timestamp};

/// What an op that was accepted into a batch does.
#[derive(Clone, Debug)]
pub enum Effect {
    Create(SpaceId, PageSize, String),
    Page(PageId, Arc<[u8]>),
    Range(PageId, usize, Vec<u8>),
    Length(SpaceId, u64),
    Drop(SpaceId),
    Record(Vec<u8>),
    Redo(u64),
    Config(String, Vec<u8>, bool),
    Unconfig(String),
    Point(String),
    Mark(Vec<u8>),
}

/// A space, with its bytes.
#[derive(Clone, Debug)]
pub struct Space {
    pub name: String,
    pub page_size: PageSize,
    pub bytes: Arc<Vec<u8>>,
}

impl Space {
    /// A page, with zeros beyond the end of the space.
    pub fn page(&self, page: u64) -> Vec<u8> {
        let start = usize::try_from(page).unwrap() * self.page_size.bytes();
        let end = self.bytes.len().min(start + self.page_size.bytes());
        let mut image = self.bytes.get(start..end).unwrap_or_default().to_vec();
        image.resize(self.page_size.bytes(), 0);
        image
    }

    fn put(&mut self, page: u64, offset: usize, bytes: &[u8]) {
        let start = usize::try_from(page).unwrap() * self.page_size.bytes();
        let all = Arc::make_mut(&mut self.bytes);
        let len = all.len().max(start + self.page_size.bytes());
        all.resize(len, 0);
        all[start + offset..start + offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// Everything about a node as of a commit.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub spaces: BTreeMap<SpaceId, Space>,
    /// Values, and whether they are bound to the environment.
    pub config: BTreeMap<String, (Vec<u8>, bool)>,
    pub mark: Option<Vec<u8>>,
    pub redo: u64,
}

impl State {
    /// What the effect makes of it; `Err` where an archive has to refuse it.
    pub fn apply(&mut self, effect: &Effect) -> Result<(), &'static str> {
        match effect {
            Effect::Create(id, page_size, name) => {
                if self.spaces.values().any(|s| s.name == *name) {
                    return Err("the name of a space is taken");
                }
                let space =
                    Space { name: name.clone(), page_size: *page_size, bytes: Arc::default() };
                self.spaces.insert(*id, space);
            }
            Effect::Page(page, image) => self.space(page.space)?.put(page.page, 0, image),
            Effect::Range(page, offset, bytes) => {
                self.space(page.space)?.put(page.page, *offset, bytes);
            }
            Effect::Length(id, length) => {
                Arc::make_mut(&mut self.space(*id)?.bytes)
                    .resize(usize::try_from(*length).unwrap(), 0);
            }
            Effect::Drop(id) => {
                self.spaces.remove(id).ok_or("no such space")?;
            }
            Effect::Record(_) | Effect::Point(_) => {}
            Effect::Redo(position) => {
                if *position < self.redo {
                    return Err("the redo point goes back");
                }
                self.redo = *position;
            }
            Effect::Config(key, value, environment) => {
                self.config.insert(key.clone(), (value.clone(), *environment));
            }
            Effect::Unconfig(key) => {
                self.config.remove(key);
            }
            Effect::Mark(mark) => {
                if self.mark.as_ref().is_some_and(|newest| newest > mark) {
                    return Err("the mark goes back");
                }
                self.mark = Some(mark.clone());
            }
        }
        Ok(())
    }

    fn space(&mut self, id: SpaceId) -> Result<&mut Space, &'static str> {
        self.spaces.get_mut(&id).ok_or("no such space")
    }

    /// The configuration that is restored, or the one that is only reported.
    pub fn config(&self, environment: bool) -> BTreeMap<String, Vec<u8>> {
        let wanted = self.config.iter().filter(|(_, (_, bound))| *bound == environment);
        wanted.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }
}

/// One commit, and the state after it.
#[derive(Clone, Debug)]
pub struct Moment {
    pub timestamp: Timestamp,
    pub effects: Vec<Effect>,
    pub state: State,
}

impl Moment {
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.effects.iter().filter_map(|e| match e {
            Effect::Record(bytes) => Some(bytes.as_slice()),
            _ => None,
        })
    }

    pub fn points(&self) -> impl Iterator<Item = &str> {
        self.effects.iter().filter_map(|e| match e {
            Effect::Point(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The mark that it leaves, where it carries one.
    pub fn mark(&self) -> Option<&[u8]> {
        self.effects.iter().rev().find_map(|e| match e {
            Effect::Mark(mark) => Some(mark.as_slice()),
            _ => None,
        })
    }

    /// Whether it wrote or cut a page.
    fn changes(&self, page: PageId) -> bool {
        self.effects.iter().any(|e| match e {
            Effect::Page(p, _) | Effect::Range(p, ..) => *p == page,
            Effect::Length(space, _) | Effect::Drop(space) => *space == page.space,
            _ => false,
        })
    }
}

/// What was promised once so many storage operations were done.
#[derive(Clone, Copy, Debug)]
struct Promise {
    operations: usize,
    position: usize,
    known_until: Timestamp,
}

/// A node's history.
#[derive(Debug)]
pub struct Model {
    /// Commit `n` at index `n - 1`.
    pub moments: Vec<Moment>,
    /// Until when it is known that nothing more was committed.
    pub known_until: Timestamp,
    /// Whether the log tells everything.
    pub complete: bool,
    /// From which positions base copies serve, and when they were promised.
    pub bases: Vec<(usize, usize)>,
    promises: Vec<Promise>,
    origin: State,
}

impl Model {
    pub fn new(complete: bool) -> Model {
        Model {
            moments: Vec::new(),
            known_until: Timestamp::ZERO,
            complete,
            bases: Vec::new(),
            promises: vec![Promise { operations: 0, position: 0, known_until: Timestamp::ZERO }],
            origin: State::default(),
        }
    }

    /// What a timeline begins with that forks off after commit `n`; a node that is branched off
    /// does not know the names of commits.
    pub fn fork(&self, n: usize, own_node: bool) -> Model {
        let mut moments = self.moments[..n].to_vec();
        if own_node {
            for moment in &mut moments {
                moment.effects.retain(|e| !matches!(e, Effect::Point(_)));
            }
        }
        let known_until = moments[n - 1].timestamp;
        Model {
            moments,
            known_until,
            complete: self.complete,
            bases: self
                .bases
                .iter()
                .map(|(_, from)| (0, *from))
                .filter(|(_, from)| *from <= n)
                .collect(),
            promises: vec![Promise { operations: 0, position: n, known_until }],
            origin: State::default(),
        }
    }

    /// How many commits there are.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    pub fn state(&self) -> &State {
        self.moments.last().map_or(&self.origin, |m| &m.state)
    }

    /// The time that a commit has to be after.
    pub fn newest(&self) -> Timestamp {
        self.moments.last().map_or(Timestamp::ZERO, |m| m.timestamp).max(self.known_until)
    }

    /// The state after some more effects.
    pub fn with(&self, effects: &[Effect]) -> Result<State, &'static str> {
        let mut state = self.state().clone();
        effects.iter().try_for_each(|e| state.apply(e))?;
        if state.redo > self.len() as u64 + 1 {
            return Err("the redo point lies ahead");
        }
        let names: Vec<_> = effects.iter().filter(|e| matches!(e, Effect::Point(_))).collect();
        for (i, effect) in names.iter().enumerate() {
            if let Effect::Point(name) = effect
                && (self.point(name).is_some()
                    || names.iter().skip(i + 1).any(|e| matches!(e, Effect::Point(n) if n == name)))
            {
                return Err("the name of a restore point is taken");
            }
        }
        Ok(state)
    }

    /// The commit that carries a restore point.
    pub fn point(&self, name: &str) -> Option<usize> {
        self.moments.iter().position(|m| m.points().any(|p| p == name)).map(|i| i + 1)
    }

    /// Whether a commit after position `began` wrote or cut a page.
    pub fn changed_since(&self, began: usize, page: PageId) -> bool {
        self.moments.iter().skip(began).any(|m| m.changes(page))
    }

    pub fn push(&mut self, timestamp: Timestamp, effects: Vec<Effect>, state: State) {
        assert!(timestamp > self.newest(), "times have to rise");
        self.known_until = timestamp;
        self.moments.push(Moment { timestamp, effects, state });
    }

    /// The earliest commit that can be restored.
    pub fn earliest(&self) -> Option<usize> {
        let earliest = if self.complete {
            Some(1)
        } else {
            self.bases.iter().map(|(_, from)| (*from).max(1)).min()
        };
        earliest.filter(|e| (1..=self.len()).contains(e))
    }

    /// Records that lead from the redo point of commit `n` to it.
    pub fn records(&self, n: usize) -> Vec<(u64, Vec<u8>)> {
        let redo = usize::try_from(self.moments[n - 1].state.redo).unwrap();
        let commits = self.moments.iter().enumerate().take(n).skip(redo);
        commits.flat_map(|(i, m)| m.records().map(move |r| (i as u64 + 1, r.to_vec()))).collect()
    }

    /// Everything so far was said to be durable.
    pub fn promise(&mut self, operations: usize) {
        self.promises.push(Promise {
            operations,
            position: self.len(),
            known_until: self.known_until,
        });
    }

    /// Position and known time that were promised when only so many operations had been done.
    pub fn promised(&self, operations: usize) -> (usize, Timestamp) {
        let kept = self.promises.iter().rev().find(|p| p.operations <= operations).unwrap();
        (kept.position, kept.known_until)
    }

    /// The history begins anew at what a crash left; numbers of operations count from zero again.
    pub fn cut(&mut self, at: usize, position: usize, known_until: Timestamp) {
        let (floor, floor_time) = self.promised(at);
        assert!(
            position >= floor,
            "a crash took promised commits: LSN {floor} was durable, LSN {position} is left"
        );
        assert!(position <= self.len(), "a crash left LSN {position}, which was never committed");
        assert!(known_until >= floor_time, "a crash took a promised tick");
        assert!(known_until <= self.known_until, "a crash left a time that was never logged");
        self.moments.truncate(position);
        self.known_until = known_until;
        self.promises = vec![Promise { operations: 0, position: floor, known_until: floor_time }];
    }
}
