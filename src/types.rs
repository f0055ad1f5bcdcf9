//! The vocabulary: newtypes that every layer shares. Owns no I/O and no policy.
//!
//! Invariants: an [`Lsn`] is never zero (the state before the first commit is
//! [`Position::ORIGIN`]); a [`PageSize`] is a power of two from 512 B to 64 KiB;
//! names are short, printable and safe as file names.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::sync::{SystemTime, UNIX_EPOCH};

/// Number of a commit on a timeline: dense, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Lsn(#[n(0)] NonZeroU64);

const _: () = assert!(size_of::<Option<Lsn>>() == 8);

impl Lsn {
    /// The first commit of a node.
    pub const FIRST: Lsn = Lsn(NonZeroU64::MIN);

    /// An LSN from its number; `None` for zero, which is no commit.
    pub const fn new(number: u64) -> Option<Lsn> {
        match NonZeroU64::new(number) {
            Some(n) => Some(Lsn(n)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point between commits: the state after `n` commits. `Position(0)` is the
/// state before the first commit; `Position(n)` is the state as of [`Lsn`] `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Position(#[n(0)] u64);

impl Position {
    /// Before the first commit.
    pub const ORIGIN: Position = Position(0);

    /// The state after `commits` commits.
    pub const fn new(commits: u64) -> Position {
        Position(commits)
    }

    /// How many commits lie before this point.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The commit that ends here; `None` at the origin.
    pub const fn lsn(self) -> Option<Lsn> {
        Lsn::new(self.0)
    }

    /// The commit that comes next. Saturates at `u64::MAX`, which no log reaches.
    #[must_use]
    pub const fn next_lsn(self) -> Lsn {
        Lsn(NonZeroU64::MIN.saturating_add(self.0))
    }
}

impl From<Lsn> for Position {
    fn from(lsn: Lsn) -> Position {
        Position(lsn.get())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Nanoseconds since the Unix epoch, UTC. Covers the years 1970 to 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] u64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Timestamp = Timestamp(0);

    /// The latest time that is taken from a clock or a host: in the year 2262, half of the range.
    /// Times are given in rising order, so that one at the end of the range would be the last.
    pub const LATEST: Timestamp = Timestamp(u64::MAX / 2);

    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This moment plus a duration, saturating at the end of the range.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(nanos(by)))
    }

    /// This moment less a duration, saturating at the epoch.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(nanos(by)))
    }
}

/// A duration in nanoseconds; one of more than 584 years becomes the longest there is.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// An offset or a length as an index. One beyond the address space becomes the last index, which
/// lies in no slice: whoever looks there finds nothing.
pub(crate) fn as_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become the epoch, times after 2554 the end of the range.
    fn from(time: SystemTime) -> Timestamp {
        Timestamp(nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(t.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, with nanoseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000_000_000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level
        // Date Algorithms"; the shift makes 0000-03-01 day zero.
        let z = days + 719_468;
        let (era, doe) = (z / 146_097, z % 146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            self.0 % 1_000_000_000
        )
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] u32);

        impl $name {
            /// From its number.
            pub const fn new(number: u32) -> $name {
                $name(number)
            }

            /// The number itself.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One engine instance inside an archive, numbered in order of creation.
    NodeId
}
number! {
    /// One page file of a node. A number is never used for a second space.
    SpaceId
}
number! {
    /// One line of history of a node. The first is 1; a fork starts a new one.
    TimelineId
}

impl TimelineId {
    /// The one that a node begins with.
    pub(crate) const FIRST: TimelineId = TimelineId(1);
}

/// One writer's tenure on a timeline. Rises with every writer that opens; a
/// higher epoch fences off every lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Epoch(#[n(0)] u64);

impl Epoch {
    /// From its number.
    pub const fn new(number: u64) -> Epoch {
        Epoch(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

        impl $name {
            /// From its 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(bytes)
            }

            /// Its 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

random_id! {
    /// Random identity of an archive, bound into every file of it.
    ArchiveId
}
random_id! {
    /// Random identity of one sealed file.
    FileId
}
random_id! {
    /// Identity of one generation of an archive's key.
    KeyId
}
random_id! {
    /// Identity of one holder of an archive's key: whoever can unwrap it.
    RecipientId
}

/// Size of a page: a power of two from 512 B to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// 512 bytes.
    pub const MIN: PageSize = PageSize(512);
    /// 64 KiB.
    pub const MAX: PageSize = PageSize(65_536);
    /// 4 KiB, the size most engines use.
    pub const KIB_4: PageSize = PageSize(4_096);

    /// Checks the range and that it is a power of two.
    pub const fn new(bytes: u32) -> Option<PageSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65_536 {
            Some(PageSize(bytes))
        } else {
            None
        }
    }

    /// Bytes in a page.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Bytes in a page.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// How many pages hold `bytes` bytes, the last perhaps in part.
    pub const fn pages_in(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.0 as u64)
    }
}

impl<C> Encode<C> for PageSize {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u32(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PageSize {
    fn decode(
        d: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<PageSize, minicbor::decode::Error> {
        let at = d.position();
        PageSize::new(d.u32()?)
            .ok_or_else(|| minicbor::decode::Error::message("not a page size").at(at))
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

/// One page of one space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId {
    /// The space it belongs to.
    pub space: SpaceId,
    /// Its number there, from 0.
    pub page: u64,
}

impl PageId {
    /// The page `page` of `space`.
    pub const fn new(space: SpaceId, page: u64) -> PageId {
        PageId { space, page }
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of space {}", self.page, self.space)
    }
}

/// What a commit was given: its number and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit {
    /// Its number on the timeline.
    pub lsn: Lsn,
    /// Its time; strictly later than every commit before it.
    pub timestamp: Timestamp,
}

/// How far a commit has to be on its way before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// In the memory of the writer. Written and made durable with the next
    /// synced commit, by [`flush`](crate::Writer::flush), when enough has gathered, after
    /// the flush interval, or when the writer is closed. A crash may lose the
    /// newest of these commits, never one out of their middle.
    Buffered,
    /// On stable storage: survives a power failure.
    #[default]
    Synced,
}

/// The state that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// The newest durable commit.
    Latest,
    /// Every commit with a timestamp at or before this one, on the timeline that was written then.
    Time(Timestamp),
    /// Every commit with a timestamp before this one, on the timeline that was written then.
    BeforeTime(Timestamp),
    /// Exactly this commit and all before it, on the way to the newest commit.
    Lsn(Lsn),
    /// Exactly this commit of a timeline and all before it.
    OnTimeline(TimelineId, Lsn),
    /// The commit that carries the restore point of this name.
    RestorePoint(String),
    /// The newest commit that carries exactly this host mark.
    Mark(Vec<u8>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Latest => f.write_str("the latest commit"),
            Target::Time(t) => write!(f, "the time {t}"),
            Target::BeforeTime(t) => write!(f, "just before the time {t}"),
            Target::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Target::OnTimeline(timeline, lsn) => write!(f, "LSN {lsn} of timeline {timeline}"),
            Target::RestorePoint(name) => write!(f, "the restore point {name:?}"),
            Target::Mark(mark) => {
                f.write_str("the host mark ")?;
                mark.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    }
}

/// Longest name of a node, space, restore point or configuration key, in bytes.
pub const MAX_NAME: usize = 200;

/// A name that cannot be used: [`Error::InvalidName`](crate::Error::InvalidName) where it is
/// returned by a call of the library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot name a {what}: {reason}")]
#[non_exhaustive]
pub struct InvalidName {
    /// What it was to name.
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// Why not.
    pub reason: &'static str,
}

/// Checks a name of a node, space or restore point: 1 to [`MAX_NAME`] bytes, no
/// control characters, no `/` or `\`, not starting with `.`, so that it is safe as a file name.
pub fn check_name(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 200 bytes"
    } else if name.starts_with('.') {
        "it starts with a dot"
    } else if name.chars().any(|c| c.is_control() || c == '/' || c == '\\') {
        "it holds a control character or a slash"
    } else {
        return Ok(());
    };
    Err(InvalidName { what, name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_as_rfc_3339() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_827_696_000_000_001, "2000-02-29T12:34:56.000000001Z"),
            (1_795_253_850_123_456_789, "2026-11-21T09:37:30.123456789Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(Timestamp::from_nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn page_sizes_are_powers_of_two_in_range() {
        let good: Vec<u32> = (0..200_000).filter(|&n| PageSize::new(n).is_some()).collect();
        assert_eq!(good, [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]);
    }

    #[test]
    fn names_that_would_escape_a_directory_are_refused() {
        for bad in ["", "..", ".hidden", "a/b", "a\\b", "a\nb", &"x".repeat(201)] {
            assert!(check_name("space", bad).is_err(), "{bad:?}");
        }
        for good in ["app.db", "shard-0", "naïve name", &"x".repeat(200)] {
            assert!(check_name("space", good).is_ok(), "{good:?}");
        }
    }
}
