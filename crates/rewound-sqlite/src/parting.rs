//! What a watcher leaves in its lock file when it ends, or has emptied the log: where the archive
//! ended, and what the database's files were like then.
//!
//! As long as the database file stays exactly as it was, nobody has overwritten it, and nothing of
//! the log was copied back. So a log that was copied back completely can have started over once at
//! most, and holds everything from there on; a log that was not is still the same.
//!
//! It holds until the machine starts anew: after a crash a file system may have kept what was
//! written and lost the time of it. It stays until another one is left; what does not fit, as more
//! was archived since, is as good as nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minicbor::{Decode, Decoder, Encode};
use rewound::types::ArchiveId;
use rewound::{NodeId, Timestamp};

use super::files::{DatabaseFile, Stamp};
use super::format::{IndexHeader, first_of};
use super::identity::FileId;
use super::live::telling;
use super::log::Place;

/// Longer than any of these.
const LIMIT: usize = 4096;
/// Two writes within one tick of the kernel's clock leave a file the same time: a stamp counts once
/// it is older than the longest.
const TICK: Duration = Duration::from_millis(20);
/// The same where a file system keeps whole seconds, or every other.
const COARSE: Duration = Duration::from_secs(2);

/// Where an archive ends. The mark alone says that only among the commits of one node: several may
/// follow a database, and each leaves its own word in the place of the last one's.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct End {
    #[n(0)]
    pub archive: ArchiveId,
    #[n(1)]
    pub node: NodeId,
    /// The newest mark, which says where in the log it ends, ...
    #[cbor(n(2), with = "minicbor::bytes")]
    pub mark: Vec<u8>,
    /// ... and the time of the newest commit: an older copy of the archive that was gone on with
    /// has other commits of that number.
    #[n(3)]
    pub time: Timestamp,
}

/// A database and its log when a watcher ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Parting {
    /// Which start of the machine.
    #[n(0)]
    boot: String,
    #[n(1)]
    end: End,
    #[n(2)]
    file: FileId,
    #[n(3)]
    stamp: Stamp,
    #[cbor(n(4), with = "minicbor::bytes")]
    salts: Vec<u8>,
    #[n(5)]
    backfilled: u32,
    /// Whether that was all of the log, and all of it archived.
    #[n(6)]
    complete: bool,
    /// Whether the log held nothing: it was emptied.
    #[n(7)]
    empty: bool,
}

/// What the database is now to what it was at a parting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing is known.
    Unknown,
    /// The file is as it was. The place is the one in the log that the archive's end is the same
    /// as, where that is another.
    Untouched(Option<Place>),
    /// The file was written to, and not by a checkpoint as far as one can see.
    Overwritten,
}

/// Tells one start of the machine from others.
fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

impl Parting {
    /// As of now; `None` where the log has started over meanwhile. `at` was read from the log's
    /// index after `stamp`, and said the same before it.
    pub fn new(
        end: End,
        place: Place,
        file: &DatabaseFile,
        stamp: Stamp,
        at: IndexHeader,
    ) -> Option<Parting> {
        let complete = at.backfilled == at.frames && at.frames == place.frame;
        let salts = at.salts.0.to_vec();
        let file = FileId::of(&file.file().metadata().ok()?);
        (at.salts == place.salts).then_some(Parting {
            boot: boot()?,
            end,
            file,
            stamp,
            salts,
            backfilled: at.backfilled,
            complete,
            empty: complete && at.frames == 0,
        })
    }

    /// Leaves it where nothing is yet: what else a file of that name may hold is not ours. That it
    /// gets there is not vital.
    pub fn leave(&self, lock: &File) {
        let empty = lock.metadata().is_ok_and(|m| m.is_file() && m.len() == 0);
        if let (true, Ok(bytes)) = (empty, minicbor::to_vec(self)) {
            let _ = lock.write_all_at(&bytes, 0);
        }
    }

    /// What was left, if anything was.
    pub fn read(lock: &File) -> Option<Parting> {
        let mut bytes = vec![0; LIMIT];
        let read = lock.read_at(&mut bytes, 0).ok()?;
        minicbor::decode(bytes.get(..read)?).ok()
    }

    /// Removes what was left, also by an earlier version.
    pub fn forget(lock: &File) {
        let mut bytes = [0; 64];
        // What cannot be read is not known to be ours.
        let Ok(read) = lock.read_at(&mut bytes, 0) else { return };
        let mut fields = Decoder::new(first_of(&bytes, read as u64));
        // All begin with a start of a machine, which has 36 characters and an end of line.
        let is_one = matches!(fields.array(), Ok(Some(_)))
            && fields.str().is_ok_and(|boot| boot.trim_end().len() == 36);
        if is_one {
            let _ = lock.set_len(0);
        }
    }

    /// What has happened since, where this is of the archive's end and of that file. `at` and
    /// `stamp` are of one moment in which the log was pinned.
    pub fn since(&self, end: &End, file: &FileId, stamp: Stamp, at: IndexHeader) -> Since {
        if self.end != *end || !self.file.is(file) || Some(&self.boot) != boot().as_ref() {
            return Since::Unknown;
        }
        let same_log = self.salts == at.salts.0 && telling(at.salts);
        if self.stamp == stamp {
            let beginning = Place { salts: at.salts, ..Place::default() };
            // A log that was emptied no longer holds the frame that the mark names.
            return Since::Untouched(
                (self.empty || self.complete && !same_log).then_some(beginning),
            );
        }
        // Where the log is another one nothing goes on anyway.
        if same_log && at.backfilled <= self.backfilled {
            Since::Overwritten
        } else {
            Since::Unknown
        }
    }
}

/// How long ago a file was written to; `None` where that is yet to come.
fn age(stamp: Stamp, now: SystemTime) -> Option<Duration> {
    UNIX_EPOCH.checked_add(stamp.written()).and_then(|written| now.duration_since(written).ok())
}

/// Whether a stamp that was taken before `now` will be another one once the file is written to. One
/// of a whole second may be of a file system that keeps no more.
pub(super) fn tells(stamp: Stamp, now: SystemTime) -> bool {
    stamp.written().subsec_nanos() != 0 || age(stamp, now).is_some_and(|age| age >= COARSE)
}

/// Waits until a stamp that is taken now tells what was written before from what will be.
pub(super) fn settle(stamp: Stamp) {
    let age = age(stamp, SystemTime::now());
    if age.is_none_or(|age| age < TICK) {
        std::thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_whole_seconds_tells_once_it_is_old() {
        let now = UNIX_EPOCH + Duration::from_millis(1_000_500);
        for (seconds, nanos, told) in [
            (1_000, 0, false),
            (999, 0, false),
            (998, 0, true),
            (10, 0, true),
            (1_000, 1, true),
            (999, 999_000_000, true),
            // The clock was set back.
            (1_001, 0, false),
        ] {
            assert_eq!(tells(Stamp::new(seconds, nanos, 4096), now), told, "{seconds} {nanos}");
        }
    }
}
