//! The state of a node beside its pages, and what an op does to it.
//!
//! [`NodeState`] is a fold: [`NodeState::apply`] is the only place that says
//! what an op means for spaces, lengths, configuration and marks. The writer,
//! recovery, replay and layer builder all use it.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::types::{PageId, PageSize, Position, SpaceId, Timestamp};

/// Longest space, in bytes.
pub const MAX_SPACE_LENGTH: u64 = 1 << 62;
/// Most spaces of a node at a time.
pub const MAX_SPACES: usize = 65_536;
/// Most bytes of all configuration keys and values of a node.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Longest host mark and global transaction id.
pub const MAX_MARK: usize = 64;

/// What configuration keys begin with that exclude a space from restores; its number follows.
pub const EXCLUSION: &str = "rewound.exclude/";

/// The configuration key that says that a space is left out of restores.
pub fn exclusion_key(space: SpaceId) -> String {
    format!("{EXCLUSION}{space}")
}

/// One page file, beside its pages.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SpaceState {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// The size of its pages.
    #[n(1)]
    pub page_size: PageSize,
    /// Its exact length in bytes.
    #[n(2)]
    pub length: u64,
}

impl SpaceState {
    /// Pages it has, the last perhaps in part.
    pub fn pages(&self) -> u64 {
        self.page_size.pages_in(self.length)
    }
}

/// One configuration value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfigValue {
    /// The value.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub value: Vec<u8>,
    /// Whether it belongs to the environment (an address, a path): reported by a restore, not applied.
    #[n(1)]
    pub environment_bound: bool,
}

/// The host's own position.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HostMark {
    /// As the host gave it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub mark: Vec<u8>,
    /// The commit that carried it.
    #[n(1)]
    pub position: Position,
}

/// Everything about a node at a position, but its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NodeState {
    /// How many commits lie before.
    #[n(0)]
    pub position: Position,
    /// Time of the last commit; zero at the origin.
    #[n(1)]
    pub timestamp: Timestamp,
    /// Until when it is known that no further commit happened; never before `timestamp`.
    #[n(2)]
    pub known_until: Timestamp,
    /// Its spaces.
    #[n(3)]
    pub spaces: BTreeMap<SpaceId, SpaceState>,
    /// Its configuration.
    #[n(4)]
    pub config: BTreeMap<String, ConfigValue>,
    /// The newest host mark.
    #[n(5)]
    pub mark: Option<HostMark>,
    /// Logical records up to here are contained in the pages.
    #[n(6)]
    pub redo: Position,
    /// The number that the next space gets.
    #[n(7)]
    pub next_space: u32,
    /// The newest commit with a logical record.
    #[n(8)]
    pub last_logical: Position,
}

/// What an op does to a [`NodeState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The space holds this page wholly.
    Extend(PageId),
    /// The space has this length.
    SetLength(SpaceId, u64),
    /// A space comes.
    Create(SpaceId, PageSize, String),
    /// A space goes.
    Drop(SpaceId),
    /// A logical record was logged.
    Logical,
    /// A configuration value is set.
    SetConfig(String, ConfigValue),
    /// A configuration value goes.
    RemoveConfig(String),
    /// The host is at this mark.
    Mark(Vec<u8>),
    /// Logical records up to here are contained in the pages.
    Redo(Position),
}

/// Why an op makes no sense in the state it meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    /// No such space.
    NoSpace(SpaceId),
    /// The number or name is taken.
    SpaceTaken(SpaceId, String),
    /// Beyond a bound.
    Limit(&'static str, u64, u64),
    /// A mark or redo point that goes back.
    Backwards(&'static str),
    /// A name that is none.
    Name(SpaceId),
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StateError::NoSpace(space) => write!(f, "space {space} does not exist"),
            StateError::SpaceTaken(id, name) => write!(f, "space {id} ({name:?}) exists already"),
            StateError::Limit(what, limit, found) => write!(f, "{what}: {found}, the limit is {limit}"),
            StateError::Backwards(what) => write!(f, "{what} goes back"),
            StateError::Name(space) => write!(f, "the name of space {space} cannot be used"),
        }
    }
}

impl NodeState {
    /// Changes the state as the op does.
    pub fn apply(&mut self, effect: &Effect) -> Result<(), StateError> {
        match effect {
            Effect::Extend(page) => {
                let space = self.space_mut(page.space)?;
                let end = page_end(space.page_size, page.page)?;
                space.length = space.length.max(end);
            }
            Effect::SetLength(id, length) => {
                if *length > MAX_SPACE_LENGTH {
                    return Err(StateError::Limit("length of a space", MAX_SPACE_LENGTH, *length));
                }
                self.space_mut(*id)?.length = *length;
            }
            Effect::Create(id, page_size, name) => {
                // Numbers may be used out of their order, by batches that were begun in another one.
                let taken = self.spaces.contains_key(id) || self.space_named(name).is_some();
                if taken {
                    return Err(StateError::SpaceTaken(*id, name.clone()));
                }
                if self.spaces.len() >= MAX_SPACES {
                    return Err(StateError::Limit("spaces", MAX_SPACES as u64, MAX_SPACES as u64 + 1));
                }
                let next = id.get().checked_add(1).ok_or(StateError::Limit(
                    "space number",
                    u64::from(u32::MAX) - 1,
                    u64::from(id.get()),
                ))?;
                self.next_space = self.next_space.max(next);
                self.spaces.insert(*id, SpaceState { name: name.clone(), page_size: *page_size, length: 0 });
            }
            Effect::Drop(id) => {
                self.spaces.remove(id).ok_or(StateError::NoSpace(*id))?;
            }
            Effect::Logical => self.last_logical = self.position.next_lsn().into(),
            Effect::SetConfig(key, value) => {
                self.config.insert(key.clone(), value.clone());
                let bytes: usize = self.config.iter().map(|(k, v)| k.len() + v.value.len()).sum();
                if bytes > MAX_CONFIG_BYTES {
                    return Err(StateError::Limit("bytes of configuration", MAX_CONFIG_BYTES as u64, bytes as u64));
                }
            }
            Effect::RemoveConfig(key) => {
                self.config.remove(key);
            }
            Effect::Mark(mark) => {
                if self.mark.as_ref().is_some_and(|newest| newest.mark > *mark) {
                    return Err(StateError::Backwards("the host mark"));
                }
                self.mark = Some(HostMark { mark: mark.clone(), position: self.position.next_lsn().into() });
            }
            Effect::Redo(position) => {
                if *position < self.redo {
                    return Err(StateError::Backwards("the redo point"));
                }
                let own = Position::from(self.position.next_lsn());
                if *position > own {
                    return Err(StateError::Limit("redo point", own.get(), position.get()));
                }
                self.redo = *position;
            }
        }
        Ok(())
    }

    /// Checks what was read from disk as a whole, where no op was there to check it: names are used as file names, lengths are reckoned with.
    pub fn check(&self) -> Result<(), StateError> {
        for (id, space) in &self.spaces {
            if crate::types::check_name("space", &space.name).is_err() {
                return Err(StateError::Name(*id));
            }
            if space.length > MAX_SPACE_LENGTH {
                return Err(StateError::Limit("length of a space", MAX_SPACE_LENGTH, space.length));
            }
        }
        Ok(())
    }

    /// Takes one commit more into account, after its ops were applied.
    pub fn advance(&mut self, timestamp: Timestamp) {
        self.position = self.position.next_lsn().into();
        self.timestamp = timestamp;
        self.known_until = self.known_until.max(timestamp);
    }

    /// The space of this name.
    pub fn space_named(&self, name: &str) -> Option<SpaceId> {
        self.spaces.iter().find(|(_, s)| s.name == name).map(|(id, _)| *id)
    }

    fn space_mut(&mut self, id: SpaceId) -> Result<&mut SpaceState, StateError> {
        self.spaces.get_mut(&id).ok_or(StateError::NoSpace(id))
    }
}

/// Where a page ends in its space, in bytes; bounded by [`MAX_SPACE_LENGTH`].
pub fn page_end(page_size: PageSize, page: u64) -> Result<u64, StateError> {
    page.checked_add(1)
        .and_then(|pages| pages.checked_mul(u64::from(page_size.get())))
        .filter(|&end| end <= MAX_SPACE_LENGTH)
        .ok_or(StateError::Limit("page number", MAX_SPACE_LENGTH / u64::from(page_size.get()), page))
}
