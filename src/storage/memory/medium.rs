//! The simulated medium behind all handles: its state, the recording of how that came
//! about, and the faults to come. Checks what is asked for, lets a due fault strike,
//! and only then changes and records; so a refused operation leaves no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::Operation;
use super::state::{FileId, Node, State, Step, is_dir};
use crate::names::parent;
use crate::storage::path::{check, check_dir};

/// Granularity of the zeroed space behind the end of a file with small appends.
const ZERO_STEP: usize = 4096;

#[derive(Debug)]
pub(super) struct Medium {
    pub(super) state: State,
    /// What the recording starts from.
    base: State,
    pub(super) recording: Option<Vec<Step>>,
    /// Operations carried out.
    pub(super) count: usize,
    /// Operations tried, those that a fault stopped included.
    pub(super) tried: usize,
    /// Which of them fail, by number, and how.
    pub(super) failures: BTreeMap<usize, io::ErrorKind>,
    /// How many of them there are before the power cut.
    pub(super) crash_at: Option<usize>,
    pub(super) capacity: Option<u64>,
    pub(super) locks: BTreeSet<String>,
    /// The last state that was replayed, and how many operations lead to it.
    replayed: Option<(usize, State)>,
}

impl Default for Medium {
    fn default() -> Medium {
        Medium::starting_from(State::default(), true)
    }
}

impl Medium {
    pub(super) fn starting_from(state: State, recording: bool) -> Medium {
        Medium {
            base: if recording { state.clone() } else { State::default() },
            state,
            recording: recording.then(Vec::new),
            count: 0,
            tried: 0,
            failures: BTreeMap::new(),
            crash_at: None,
            capacity: None,
            locks: BTreeSet::new(),
            replayed: None,
        }
    }

    /// Fails once the power is cut.
    pub(super) fn alive(&self) -> io::Result<()> {
        if self.crash_at.is_some_and(|at| self.tried >= at) {
            return Err(io::Error::other("simulated power cut"));
        }
        Ok(())
    }

    /// Lets an operation through that is known to be possible, unless a fault is due.
    pub(super) fn admit(&mut self) -> io::Result<()> {
        self.alive()?;
        let fault = self.failures.remove(&self.tried);
        self.tried += 1;
        fault.map_or(Ok(()), |kind| Err(io::Error::new(kind, "injected fault")))
    }

    pub(super) fn perform(&mut self, step: Step) {
        self.state.apply(&step);
        self.count += 1;
        if let Some(recording) = &mut self.recording {
            recording.push(step);
        }
    }

    /// An operation that can fail without a trace.
    pub(super) fn try_perform(&mut self, operation: Operation, file: FileId) -> io::Result<()> {
        self.admit()?;
        self.perform(Step { operation, file, bytes: Arc::default(), end: 0 });
        Ok(())
    }

    /// A sync or finish of a file.
    pub(super) fn try_sync(&mut self, operation: Operation, file: FileId) -> io::Result<()> {
        self.alive()?;
        let Err(e) = self.try_perform(operation, file) else {
            return Ok(());
        };
        let operation = Operation::FailedSync { path: self.name_of(file) };
        self.perform(Step { operation, file, bytes: Arc::default(), end: 0 });
        Err(e)
    }

    pub(super) fn state_at(&mut self, at: usize) -> State {
        if at == self.count {
            return self.state.clone();
        }
        assert!(at < self.count, "only {} operations were carried out, not {at}", self.count);
        assert!(self.recording.is_some(), "the past ({at}) was not recorded");
        let (done, mut state) = match self.replayed.take() {
            Some((done, state)) if done <= at => (done, state),
            _ => (0, self.base.clone()),
        };
        for step in self.recording.iter().flatten().take(at).skip(done) {
            state.apply(step);
        }
        self.replayed = Some((at, state.clone()));
        state
    }

    /// The file at a path.
    pub(super) fn lookup(&self, path: &str) -> io::Result<FileId> {
        check(path)?;
        match self.state.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => {
                self.lookup_dir(parent(path))?;
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }

    /// Fails where there is no such directory.
    pub(super) fn lookup_dir(&self, path: &str) -> io::Result<()> {
        check_dir(path)?;
        if is_dir(&self.state.names, path) {
            return Ok(());
        }
        if matches!(self.state.names.get(path), Some(Node::File(_))) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // Says NotADirectory if that is true further up.
        self.lookup_dir(parent(path))?;
        Err(io::ErrorKind::NotFound.into())
    }

    /// Fails where a name cannot be given to something new.
    pub(super) fn check_free(&self, path: &str) -> io::Result<()> {
        check(path)?;
        self.lookup_dir(parent(path))?;
        if self.state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    pub(super) fn create(&mut self, path: &str) -> io::Result<FileId> {
        self.check_free(path)?;
        self.admit()?;
        let file = self.state.next_file();
        let operation = Operation::Create { path: path.to_owned() };
        self.perform(Step { operation, file, bytes: Arc::default(), end: 0 });
        Ok(file)
    }

    /// Appends what fits.
    pub(super) fn append(&mut self, id: FileId, bytes: &[u8], zero_ahead: bool) -> io::Result<()> {
        self.alive()?;
        let Some(file) = self.state.files.get(&id) else {
            return Ok(());
        };
        let (offset, visible) = (file.data.len(), file.end);
        let free = self.free();
        // Zeroed space is used up first, and was paid for when it was zeroed.
        let room = (visible - offset).saturating_add(free);
        let fault = self.admit().err();
        let (taken, failure) = match fault {
            Some(e) => ((bytes.len() / 2).min(room), Some(e)),
            None if bytes.len() > room => (room, Some(io::ErrorKind::StorageFull.into())),
            None => (bytes.len(), None),
        };
        let bytes = bytes.get(..taken).unwrap_or(bytes);
        let end = offset + bytes.len();
        let zeroed = (end / ZERO_STEP + 1) * ZERO_STEP;
        let reserve = zero_ahead && failure.is_none() && zeroed - visible.min(zeroed) <= free;
        let end = visible.max(if reserve { zeroed } else { end });
        if taken > 0 {
            let path = self.name_of(id);
            let operation = Operation::Append { path, offset: offset as u64, len: taken };
            self.perform(Step { operation, file: id, bytes: bytes.into(), end });
        }
        failure.map_or(Ok(()), Err)
    }

    pub(super) fn free(&self) -> usize {
        let free = self.capacity.map(|capacity| capacity.saturating_sub(self.state.used()));
        free.and_then(|free| usize::try_from(free).ok()).unwrap_or(usize::MAX)
    }

    pub(super) fn name_of(&self, id: FileId) -> String {
        self.state.files.get(&id).map_or_else(String::new, |file| file.name.to_string())
    }
}
