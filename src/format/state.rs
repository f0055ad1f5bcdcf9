//! The state of a node beside its pages, and what an op does to it.
//!
//! [`NodeState`] is a fold: [`NodeState::apply`] is the only place that says
//! what an op means for spaces, lengths, configuration and marks. The writer,
//! recovery, replay and layer builder all use it.

use std::collections::BTreeMap;
use std::ops::Deref;

use minicbor::{Decode, Encode};

use crate::types::{PageId, PageSize, Position, SpaceId, Target, Timestamp};

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

/// The page files of a node by number, and found by name as well. Encoded as a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spaces {
    all: BTreeMap<SpaceId, SpaceState>,
    names: BTreeMap<String, SpaceId>,
}

impl Spaces {
    /// The space of this name.
    pub fn named(&self, name: &str) -> Option<SpaceId> {
        self.names.get(name).copied()
    }

    fn insert(&mut self, id: SpaceId, space: SpaceState) {
        self.names.insert(space.name.clone(), id);
        self.all.insert(id, space);
    }

    fn remove(&mut self, id: SpaceId) -> Option<SpaceState> {
        let space = self.all.remove(&id)?;
        self.names.remove(&space.name);
        Some(space)
    }

    /// Keeps the spaces that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(SpaceId, &SpaceState) -> bool) {
        self.all.retain(|id, space| wanted(*id, space));
        self.names.retain(|_, id| self.all.contains_key(id));
    }

    /// The spaces by number alone.
    pub fn into_map(self) -> BTreeMap<SpaceId, SpaceState> {
        self.all
    }
}

impl From<BTreeMap<SpaceId, SpaceState>> for Spaces {
    fn from(all: BTreeMap<SpaceId, SpaceState>) -> Spaces {
        let names = all.iter().map(|(id, space)| (space.name.clone(), *id)).collect();
        Spaces { all, names }
    }
}

impl Deref for Spaces {
    type Target = BTreeMap<SpaceId, SpaceState>;

    fn deref(&self) -> &BTreeMap<SpaceId, SpaceState> {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Spaces {
    type Item = (&'a SpaceId, &'a SpaceState);
    type IntoIter = std::collections::btree_map::Iter<'a, SpaceId, SpaceState>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

impl<C> Encode<C> for Spaces {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.all.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Spaces {
    fn decode(
        d: &mut minicbor::Decoder<'b>,
        ctx: &mut C,
    ) -> Result<Spaces, minicbor::decode::Error> {
        BTreeMap::decode(d, ctx).map(Spaces::from)
    }
}

/// The configuration of a node, with the sum of its bytes. Encoded as a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    all: BTreeMap<String, ConfigValue>,
    bytes: usize,
}

impl Config {
    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of one key with its value; zero where it is not there.
    pub fn bytes_of(&self, key: &str) -> usize {
        self.all.get(key).map_or(0, |value| key.len() + value.value.len())
    }

    fn insert(&mut self, key: String, value: ConfigValue) {
        self.bytes = self.bytes - self.bytes_of(&key) + key.len() + value.value.len();
        self.all.insert(key, value);
    }

    fn remove(&mut self, key: &str) {
        self.bytes -= self.bytes_of(key);
        self.all.remove(key);
    }
}

impl From<BTreeMap<String, ConfigValue>> for Config {
    fn from(all: BTreeMap<String, ConfigValue>) -> Config {
        let bytes = all.iter().map(|(key, value)| key.len() + value.value.len()).sum();
        Config { all, bytes }
    }
}

impl Deref for Config {
    type Target = BTreeMap<String, ConfigValue>;

    fn deref(&self) -> &BTreeMap<String, ConfigValue> {
        &self.all
    }
}

impl<C> Encode<C> for Config {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.all.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Config {
    fn decode(
        d: &mut minicbor::Decoder<'b>,
        ctx: &mut C,
    ) -> Result<Config, minicbor::decode::Error> {
        BTreeMap::decode(d, ctx).map(Config::from)
    }
}

/// One configuration value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfigValue {
    /// The value.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub value: Vec<u8>,
    /// Whether it belongs to the environment (an address, a path): reported by a restore, not
    /// applied.
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
    pub spaces: Spaces,
    /// Its configuration.
    #[n(4)]
    pub config: Config,
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
    /// A mark or redo point that goes back: the newest, and the one that came.
    Backwards(&'static str, String, String),
    /// A name that is none.
    Name(SpaceId),
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StateError::NoSpace(space) => write!(f, "space {space} does not exist"),
            StateError::SpaceTaken(id, name) => write!(f, "space {id} ({name:?}) exists already"),
            StateError::Limit(what, limit, found) => {
                write!(f, "{what}: {found}, the limit is {limit}")
            }
            StateError::Backwards(what, newest, given) => {
                write!(f, "{what} goes back from {newest} to {given}")
            }
            StateError::Name(space) => write!(f, "the name of space {space} cannot be used"),
        }
    }
}

/// What an effect changed, as it was before.
enum Before {
    Length(SpaceId, Option<u64>),
    /// The space is new; the number that it might have got.
    NoSpace(SpaceId, u32),
    Space(SpaceId, Option<SpaceState>),
    Config(String, Option<ConfigValue>),
    Mark(Option<HostMark>),
    Redo(Position),
    Logical(Position),
}

impl NodeState {
    /// Changes the state as all of the ops do, one after the other, or not at all. Takes time for
    /// what they touch, not for what there is.
    pub fn apply_all(&mut self, effects: &[Effect]) -> Result<(), StateError> {
        let mut done = Vec::with_capacity(effects.len());
        for effect in effects {
            let before = self.before(effect);
            if let Err(e) = self.apply(effect) {
                done.into_iter().rev().for_each(|before| self.undo(before));
                return Err(e);
            }
            done.push(before);
        }
        Ok(())
    }

    fn before(&self, effect: &Effect) -> Before {
        let length = |id: SpaceId| Before::Length(id, self.spaces.get(&id).map(|s| s.length));
        match effect {
            Effect::Extend(page) => length(page.space),
            Effect::SetLength(id, _) => length(*id),
            Effect::Create(id, ..) => Before::NoSpace(*id, self.next_space),
            Effect::Drop(id) => Before::Space(*id, self.spaces.get(id).cloned()),
            Effect::SetConfig(key, _) | Effect::RemoveConfig(key) => {
                Before::Config(key.clone(), self.config.get(key).cloned())
            }
            Effect::Mark(_) => Before::Mark(self.mark.clone()),
            Effect::Redo(_) => Before::Redo(self.redo),
            Effect::Logical => Before::Logical(self.last_logical),
        }
    }

    fn undo(&mut self, before: Before) {
        match before {
            Before::Length(id, length) => {
                // The change was made: the space was there, and still is.
                let space = self
                    .spaces
                    .all
                    .get_mut(&id)
                    .expect("a length was changed of a space that is there");
                space.length = length.expect("a space that is there has a length");
            }
            Before::NoSpace(id, next) => {
                self.spaces.remove(id);
                self.next_space = next;
            }
            Before::Space(id, space) => {
                if let Some(space) = space {
                    self.spaces.insert(id, space);
                }
            }
            Before::Config(key, Some(value)) => self.config.insert(key, value),
            Before::Config(key, None) => self.config.remove(&key),
            Before::Mark(mark) => self.mark = mark,
            Before::Redo(position) => self.redo = position,
            Before::Logical(position) => self.last_logical = position,
        }
    }

    /// Changes the state as the op does, or not at all.
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
                // Numbers may be used out of their order, by batches that were begun in another
                // one.
                if self.spaces.contains_key(id) || self.spaces.named(name).is_some() {
                    return Err(StateError::SpaceTaken(*id, name.clone()));
                }
                if self.spaces.len() >= MAX_SPACES {
                    return Err(StateError::Limit(
                        "spaces",
                        MAX_SPACES as u64,
                        MAX_SPACES as u64 + 1,
                    ));
                }
                let next = id.get().checked_add(1).ok_or(StateError::Limit(
                    "space number",
                    u64::from(u32::MAX) - 1,
                    u64::from(id.get()),
                ))?;
                self.next_space = self.next_space.max(next);
                self.spaces.insert(
                    *id,
                    SpaceState { name: name.clone(), page_size: *page_size, length: 0 },
                );
            }
            Effect::Drop(id) => {
                self.spaces.remove(*id).ok_or(StateError::NoSpace(*id))?;
            }
            Effect::Logical => self.last_logical = self.position.next_lsn().into(),
            Effect::SetConfig(key, value) => {
                let bytes =
                    self.config.bytes - self.config.bytes_of(key) + key.len() + value.value.len();
                if bytes > MAX_CONFIG_BYTES {
                    return Err(StateError::Limit(
                        "bytes of configuration",
                        MAX_CONFIG_BYTES as u64,
                        bytes as u64,
                    ));
                }
                self.config.insert(key.clone(), value.clone());
            }
            Effect::RemoveConfig(key) => {
                self.config.remove(key);
            }
            Effect::Mark(mark) => {
                check_mark(self.mark.as_ref().map(|m| m.mark.as_slice()), mark)?;
                self.mark = Some(HostMark {
                    mark: mark.clone(),
                    position: self.position.next_lsn().into(),
                });
            }
            Effect::Redo(position) => {
                check_redo(self.redo, self.position, *position)?;
                self.redo = *position;
            }
        }
        Ok(())
    }

    /// Checks what was read from disk as a whole, where no op was there to check it: names are used
    /// as file names, lengths are reckoned with.
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
        self.spaces.named(name)
    }

    fn space_mut(&mut self, id: SpaceId) -> Result<&mut SpaceState, StateError> {
        self.spaces.all.get_mut(&id).ok_or(StateError::NoSpace(id))
    }
}

/// Where a page ends in its space, in bytes; bounded by [`MAX_SPACE_LENGTH`].
pub fn page_end(page_size: PageSize, page: u64) -> Result<u64, StateError> {
    page.checked_add(1)
        .and_then(|pages| pages.checked_mul(u64::from(page_size.get())))
        .filter(|&end| end <= MAX_SPACE_LENGTH)
        .ok_or(StateError::Limit(
            "page number",
            MAX_SPACE_LENGTH / u64::from(page_size.get()),
            page,
        ))
}

/// Refuses a host mark that goes back.
pub fn check_mark(newest: Option<&[u8]>, given: &[u8]) -> Result<(), StateError> {
    match newest {
        Some(newest) if newest > given => {
            let text = |mark: &[u8]| Target::Mark(mark.to_vec()).to_string();
            Err(StateError::Backwards("the host mark", text(newest), text(given)))
        }
        _ => Ok(()),
    }
}

/// Refuses a redo point that goes back, or lies beyond the commit after `newest`.
pub fn check_redo(redo: Position, newest: Position, given: Position) -> Result<(), StateError> {
    if given < redo {
        return Err(StateError::Backwards(
            "the redo point",
            format!("LSN {redo}"),
            format!("LSN {given}"),
        ));
    }
    let own = Position::from(newest.next_lsn());
    if given > own {
        return Err(StateError::Limit("redo point", own.get(), given.get()));
    }
    Ok(())
}
