//! Batches in the making: what a change of a program is to the archive and to the model.

use rewound::env::{Clock, Rng};
use rewound::storage::MemStorage;
use rewound::{
    Batch, ConfigScope, Durability, Error, PageId, PageSize, Position, SpaceId, Timestamp, Writer,
};

use super::history::{Effect, Model, Moment, Space, State};
use super::program::{Change, Fill, How, Length, Previous};
use crate::support::{TestClock, TestRng};

/// Spaces grow to about this many bytes, but for noise in bulk.
const SPACE_BYTES: usize = 256 << 10;

/// Bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    TestRng::new(seed).fill(&mut bytes).unwrap();
    bytes
}

/// Bytes that do.
fn text(seed: u64, len: usize) -> Vec<u8> {
    format!("row {} of {seed}; ", seed % 97).bytes().cycle().take(len).collect()
}

/// What the batches of a run have in common.
#[derive(Debug)]
pub struct Desk {
    pub storage: MemStorage,
    pub clock: TestClock,
    /// Restore points named so far.
    pub named: u64,
}

/// A batch in the making, and what it does.
pub struct Draft {
    batch: Batch,
    began: usize,
    effects: Vec<Effect>,
    /// The newest state with the effects, as of so many commits; `None` where it cannot be
    /// committed any more.
    view: Option<State>,
    seen: usize,
}

impl Draft {
    pub fn new(writer: &Writer, model: &Model) -> Draft {
        let (began, view) = (model.len(), Some(model.state().clone()));
        Draft { batch: writer.batch(), began, effects: Vec::new(), view, seen: began }
    }

    pub fn changes(&mut self, changes: &[Change], model: &Model, desk: &mut Desk) {
        for change in changes {
            if self.seen != model.len() {
                self.seen = model.len();
                self.view = model.with(&self.effects).ok();
            }
            let Some(view) = self.view.take() else { return };
            self.view = self.change(change, view, model, desk);
        }
    }

    /// Adds an op that was accepted; gives the view after it.
    fn done(&mut self, mut view: State, effect: Effect) -> Option<State> {
        let possible = view.apply(&effect).is_ok();
        self.effects.push(effect);
        possible.then_some(view)
    }

    fn create(&mut self, view: State, name: u8, size: u8) -> Option<State> {
        let name = format!("s{}", name % 4);
        if view.spaces.values().any(|s| s.name == name) {
            return Some(view);
        }
        let page_size = PageSize::new(512 << (size % 8)).unwrap();
        let id = self.batch.create_space(&name, page_size).unwrap();
        self.done(view, Effect::Create(id, page_size, name))
    }

    fn change(
        &mut self,
        change: &Change,
        view: State,
        model: &Model,
        desk: &mut Desk,
    ) -> Option<State> {
        match *change {
            Change::Create { name, size } => self.create(view, name, size),
            Change::Page { space, .. }
            | Change::Range { space, .. }
            | Change::Length { space, .. }
            | Change::Drop { space }
            | Change::Bulk { space, .. } => {
                let Some((id, found)) =
                    view.spaces.iter().nth(usize::from(space) % view.spaces.len().max(1))
                else {
                    return self.create(view, space, space / 8 % 4);
                };
                let (id, found) = (*id, found.clone());
                self.change_space(change, view, id, &found, model)
            }
            Change::Record { len, noise: noisy, seed } => {
                let len = usize::try_from(len).unwrap();
                let record = if noisy { noise(seed, len) } else { text(seed, len) };
                self.batch.log_record(&record).unwrap();
                self.done(view, Effect::Record(record))
            }
            Change::Redo { back } => {
                let position =
                    (model.len() as u64 + 1).saturating_add_signed(-i64::from(back)).max(view.redo);
                let done = self.batch.redo_point(Position::new(position));
                if position > model.len() as u64 + 1 {
                    assert!(matches!(done, Err(Error::LimitExceeded { .. })), "{done:?}");
                    return Some(view);
                }
                done.unwrap();
                self.done(view, Effect::Redo(position))
            }
            Change::Config { key, len, environment, seed } => {
                let (key, value) = (format!("k{key}"), noise(seed, len.into()));
                let scope = if environment { ConfigScope::Environment } else { ConfigScope::Data };
                self.batch.set_config(&key, &value, scope).unwrap();
                self.done(view, Effect::Config(key, value, environment))
            }
            Change::Unconfig { key } => {
                let key = format!("k{key}");
                self.batch.remove_config(&key).unwrap();
                self.done(view, Effect::Unconfig(key))
            }
            Change::Point { taken } => {
                let old = model.moments.iter().flat_map(Moment::points).next().filter(|_| taken);
                desk.named += 1;
                let old_name = old.is_some();
                let name = old.map_or_else(|| format!("p{}", desk.named), str::to_owned);
                match self.batch.restore_point(&name) {
                    Err(Error::RestorePointExists { .. }) if old_name => return Some(view),
                    done => done.unwrap(),
                }
                self.done(view, Effect::Point(name))
            }
            Change::Mark { ahead } => {
                let newest =
                    view.mark.as_deref().map_or(0, |m| u32::from_be_bytes(m.try_into().unwrap()));
                let mark = (newest + u32::from(ahead)).to_be_bytes();
                self.batch.mark(&mark).unwrap();
                self.done(view, Effect::Mark(mark.to_vec()))
            }
            Change::Global { id } => {
                self.batch.global_transaction(&[id; 16]).unwrap();
                Some(view)
            }
            Change::Note => {
                self.batch.annotate("note", "of no effect").unwrap();
                Some(view)
            }
        }
    }

    /// Whether a range written here may have been laid over a version that another batch has
    /// replaced since: a conflict to come.
    fn overtaken(&self, page: PageId, model: &Model) -> bool {
        let laid = self.effects.iter().any(|e| matches!(e, Effect::Range(p, ..) if *p == page));
        laid && model.changed_since(self.began, page)
    }

    fn change_space(
        &mut self,
        change: &Change,
        view: State,
        id: SpaceId,
        space: &Space,
        model: &Model,
    ) -> Option<State> {
        let size = space.page_size.bytes();
        let number = |page: u8| match page {
            250.. if size <= 4_096 => u64::from(page) - 190,
            _ => u64::from(page) % (SPACE_BYTES / size).clamp(2, 24) as u64,
        };
        match *change {
            Change::Page { page, fill, previous, .. } => {
                let page = PageId::new(id, number(page));
                let old = space.page(page.page);
                let new = match fill {
                    Fill::Zero => vec![0; size],
                    Fill::Same => old.clone(),
                    Fill::Noise(seed) => noise(seed, size),
                    Fill::Text(seed) => text(seed, size),
                    Fill::Shift(by) => {
                        [&old[usize::from(by) + 1..], &old[..=usize::from(by)]].concat()
                    }
                    Fill::Edit { offset, len, seed } => {
                        let mut new = old.clone();
                        let start = usize::from(offset) % size;
                        let end = size.min(start + usize::from(len));
                        new[start..end].copy_from_slice(&noise(seed, end - start));
                        new
                    }
                };
                let given = match previous {
                    Previous::None => None,
                    Previous::Given => Some(old),
                    Previous::Wrong => Some(old.iter().map(|b| !b).collect()),
                };
                match self.batch.write_page(page, &new, given.as_deref()) {
                    Ok(()) => self.done(view, Effect::Page(page, new.into())),
                    Err(Error::PreviousImageMismatch { .. })
                        if matches!(previous, Previous::Wrong) || self.overtaken(page, model) =>
                    {
                        Some(view)
                    }
                    Err(e) => panic!("{change:?}: {e}"),
                }
            }
            Change::Range { page, offset, len, seed, .. } => {
                let page = PageId::new(id, number(page));
                let offset = usize::from(offset) % size;
                let most = if len % 4 == 0 { size } else { 64 };
                let bytes = noise(seed, (usize::from(len) % most).min(size - offset));
                self.batch.write_range(page, offset, &bytes).unwrap();
                self.done(view, Effect::Range(page, offset, bytes))
            }
            Change::Length { length, .. } => {
                let now = space.bytes.len();
                let length = match length {
                    Length::Zero => 0,
                    Length::Share(share) => now * usize::from(share) / 256,
                    Length::Pages(share) => now / size * usize::from(share) / 256 * size,
                    Length::Grow(by) => now + usize::from(by),
                };
                self.batch.set_length(id, length as u64).unwrap();
                self.done(view, Effect::Length(id, length as u64))
            }
            Change::Drop { .. } => {
                self.batch.drop_space(id).unwrap();
                self.done(view, Effect::Drop(id))
            }
            Change::Bulk { kib, seed, .. } => {
                let all = noise(seed, usize::from(kib) << 10);
                let mut view = Some(view);
                for (page, image) in (0..).zip(all.chunks_exact(size)) {
                    let page = PageId::new(id, page);
                    self.batch.write_page(page, image, None).unwrap();
                    view = self.done(view?, Effect::Page(page, image.into()));
                }
                view
            }
            _ => unreachable!("{change:?} is of no space"),
        }
    }

    /// Commits; the archive and the model have to agree on whether that is possible.
    pub fn commit(self, model: &mut Model, desk: &Desk, at: Option<Timestamp>, how: How) {
        let newest = model.newest();
        let next = Timestamp::from_nanos(newest.as_nanos() + 1);
        let time = at.unwrap_or(desk.clock.now().max(next));
        let after = model.with(&self.effects).and_then(|state| {
            let rises = time > newest;
            rises.then_some(state).ok_or("its time is not after the newest")
        });
        let durability = match how {
            How::Synced => Durability::Synced,
            How::Buffered => Durability::Buffered,
        };
        let done = match at {
            Some(time) => self.batch.commit_at(time, durability),
            None => self.batch.commit(durability),
        };
        match (done, after) {
            (Ok(commit), Ok(state)) => {
                assert_eq!((commit.lsn.get(), commit.timestamp), (model.len() as u64 + 1, time));
                let named = self.effects.iter().any(|e| matches!(e, Effect::Point(_)));
                model.push(time, self.effects, state);
                if durability == Durability::Synced || named {
                    model.promise(desk.storage.operation_count());
                }
            }
            (Ok(commit), Err(reason)) => panic!("LSN {} had to be refused: {reason}", commit.lsn),
            (Err(Error::Conflict { page, .. }), _) => {
                assert!(model.changed_since(self.began, page), "nobody changed {page} since");
            }
            (
                Err(
                    Error::NotMonotonic { .. }
                    | Error::SpaceExists { .. }
                    | Error::RestorePointExists { .. }
                    | Error::LimitExceeded { .. }
                    | Error::NoSuchSpace { .. },
                ),
                Err(_),
            ) => {}
            (Err(e), after) => panic!("refused with {e}, {:?} expected", after.err()),
        }
    }
}

/// A batch, from its beginning to its end.
pub fn commit(writer: &Writer, model: &mut Model, desk: &mut Desk, changes: &[Change], how: How) {
    let mut draft = Draft::new(writer, model);
    draft.changes(changes, model, desk);
    draft.commit(model, desk, None, how);
}
