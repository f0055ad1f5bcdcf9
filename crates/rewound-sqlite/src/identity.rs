//! Which database a node belongs to: on record in the archive, and compared with the file that is
//! there.
//!
//! A file is known by its number and the time of its birth. A file system gives both to no second
//! file, and both stay when the file is renamed or the machine starts anew; numbers of devices do
//! not, so the device counts only where there is no time of birth. The number may be that of a file
//! that is gone there, so that continuity takes more than the log. A log that continues the
//! archive's proves nothing without this: SQLite takes the log beside a file for that file's own.
//!
//! Never decides what a comparison finds, or what is done about another database; says what the
//! file is to the node.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use minicbor::{Decode, Encode};
use rewound::types::{MAX_NAME, check_name};
use rewound::{Batch, ConfigScope, Node, Target, Writer};

use super::error::{Error, Result};
use super::format::Salts;

/// The configuration value of a node that holds its [`Record`], bound to the environment.
pub(super) const KEY: &str = "sqlite.database";

/// A file, told from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct FileId {
    #[n(0)]
    number: u64,
    #[n(1)]
    device: u64,
    /// Nanoseconds since the Unix epoch, where the file system keeps it.
    #[n(2)]
    born: Option<u64>,
}

impl FileId {
    pub fn of(metadata: &Metadata) -> FileId {
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|since| u64::try_from(since.as_nanos()).ok());
        FileId { number: metadata.ino(), device: metadata.dev(), born }
    }

    /// Whether no other file can have this identity, ever: without a time of birth the number is
    /// given again once the file is gone.
    pub fn is_unique(&self) -> bool {
        self.born.is_some()
    }

    /// Whether both are of one file.
    pub fn is(&self, other: &FileId) -> bool {
        let told =
            if self.born.is_some() { self.born == other.born } else { self.device == other.device };
        told && self.number == other.number && self.born.is_some() == other.born.is_some()
    }
}

/// A database as it is attached to: where, and which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// With all links followed.
    path: PathBuf,
    pub file: FileId,
}

impl Identity {
    /// Of an open file, under the name that it was opened by.
    pub fn of(file: &File, path: &Path) -> Result<Identity> {
        let metadata = file.metadata().map_err(|e| Error::io("look at", path, e))?;
        Ok(Identity { path: path.to_owned(), file: FileId::of(&metadata) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a node has on record of its database. Fields may be added; an earlier version passes over
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Record {
    #[cbor(n(0), with = "minicbor::bytes")]
    path: Vec<u8>,
    #[n(1)]
    file: FileId,
    /// Name of its space.
    #[n(2)]
    pub space: String,
    /// Salts of a log that was there before the file came, and belongs to another one: it proves
    /// nothing of this file.
    #[cbor(n(3), with = "minicbor::bytes")]
    foreign_log: Option<Vec<u8>>,
}

/// What a database is to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kin {
    /// The node belongs to no database yet, or to one that is not on record.
    Unknown,
    /// The file that it belongs to, where it was.
    Same,
    /// That file under another name.
    Moved,
    /// Another file under that name.
    Replaced,
    /// Another file under another name.
    Other,
}

impl Record {
    pub fn decode(value: &[u8]) -> Option<Record> {
        minicbor::decode(value).ok()
    }

    /// What the node of a writer has on record. What does not decode was written by somebody else,
    /// and is none.
    pub fn of(writer: &Writer) -> Option<Record> {
        Record::decode(&writer.config(KEY)?.value)
    }

    /// The same of a node that may have a writer already, as far as it can be read.
    pub fn of_node(node: &Node) -> Option<Record> {
        Record::decode(&node.config(&Target::Latest).ok()?.get(KEY)?.value)
    }

    /// What a database is to a node. Another one is refused, unless the node is to go on with it.
    pub fn admit(
        record: Option<&Record>,
        node: &str,
        database: &Identity,
        adopt: bool,
    ) -> Result<Kin> {
        let Some(record) = record else { return Ok(Kin::Unknown) };
        match record.kin(database) {
            Kin::Other if !adopt => Err(record.refusal(node, database)),
            kin => Ok(kin),
        }
    }

    /// For a database that the node belongs to from now on. `foreign_log`: salts of a log that is
    /// not its own.
    pub fn new(database: &Identity, space: &str, foreign_log: Option<Salts>) -> Record {
        Record {
            path: database.path.as_os_str().as_bytes().to_vec(),
            file: database.file,
            space: space.to_owned(),
            foreign_log: foreign_log.map(|salts| salts.0.to_vec()),
        }
    }

    /// Puts it on record with a commit.
    pub fn note(&self, batch: &mut Batch) -> Result<()> {
        let value = minicbor::to_vec(self)
            .expect("no encoder here refuses a value, and a vector takes all bytes");
        Ok(batch.set_config(KEY, &value, ConfigScope::Environment)?)
    }

    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// Whether a log is on record as that of another file.
    pub fn disowns(&self, log: Salts) -> bool {
        self.foreign_log.as_deref() == Some(&log.0)
    }

    fn kin(&self, database: &Identity) -> Kin {
        match (self.file.is(&database.file), self.path() == database.path) {
            (true, true) => Kin::Same,
            (false, true) => Kin::Replaced,
            (false, false) => Kin::Other,
            (true, false) => {
                // A snapshot or clone of a whole file system gives its files away twice: then the
                // one that is where it was is the node's own.
                let there = self.path().metadata().ok().map(|there| FileId::of(&there));
                let twins =
                    there.is_some_and(|f| f.is(&self.file) && f.device != database.file.device);
                if twins { Kin::Other } else { Kin::Moved }
            }
        }
    }

    fn refusal(&self, node: &str, database: &Identity) -> Error {
        Error::WrongNode {
            node: node.to_owned(),
            reason: format!(
                "it belongs to {}, and {} is another file: give that a node of its own, such as {:?}, or let it take the other's place (WatchOptions::adopt)",
                self.path().display(),
                database.path.display(),
                name_beside(&database.path, self.path()),
            ),
            database: Some(self.path().to_owned()),
        }
    }
}

/// The path of the database that a node belongs to, where that is on record.
pub fn database_of(node: &Node) -> Option<PathBuf> {
    Some(Record::of_node(node)?.path().to_owned())
}

/// A name for the node or the space of a database: that of its file, as far as the rules for names
/// allow.
pub fn name_of(database: &Path) -> String {
    // A path without one, such as `..`, gets the name that is made of nothing.
    usable(&database.file_name().unwrap_or_default().to_string_lossy())
}

/// A name that tells a database from another, that of the last directory in which they differ put
/// in front where their own is the same.
fn name_beside(database: &Path, other: &Path) -> String {
    let name = name_of(database);
    if database.file_name() != other.file_name() {
        return name;
    }
    let directories = |path: &Path| -> Vec<String> {
        let parts = path.parent().into_iter().flat_map(Path::components).rev();
        parts
            .filter(|c| matches!(c, Component::Normal(_)))
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .collect()
    };
    let others = directories(other).into_iter().map(Some).chain(std::iter::repeat(None));
    let apart = directories(database)
        .into_iter()
        .zip(others)
        .find(|(own, other)| Some(own) != other.as_ref());
    apart.map_or_else(|| format!("{name}-2"), |(own, _)| usable(&format!("{own}-{name}")))
}

/// The nearest to a text that may be a name.
fn usable(text: &str) -> String {
    let plain = text.trim_start_matches('.').chars();
    let mut name: String =
        plain.map(|c| if c.is_control() || c == '/' || c == '\\' { '_' } else { c }).collect();
    while name.len() > MAX_NAME {
        name.pop();
    }
    if check_name("node", &name).is_ok() { name } else { "database".to_owned() }
}

#[cfg(test)]
pub(super) fn identity(path: &str, number: u64, device: u64, born: Option<u64>) -> Identity {
    Identity { path: path.into(), file: FileId { number, device, born } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_number_and_birth() {
        let record = Record::new(&identity("/a/app.db", 7, 1, Some(50)), "app.db", None);
        for (path, number, device, born, kin) in [
            ("/a/app.db", 7, 1, Some(50), Kin::Same),
            // The machine has started anew.
            ("/a/app.db", 7, 2, Some(50), Kin::Same),
            // The number was given again.
            ("/a/app.db", 7, 1, Some(51), Kin::Replaced),
            ("/a/app.db", 8, 1, Some(50), Kin::Replaced),
            ("/a/app.db", 7, 1, None, Kin::Replaced),
            ("/b/app.db", 7, 1, Some(50), Kin::Moved),
            ("/b/app.db", 8, 1, Some(50), Kin::Other),
        ] {
            assert_eq!(
                record.kin(&identity(path, number, device, born)),
                kin,
                "{path} {number} {device} {born:?}"
            );
        }
        let record = Record::new(&identity("/a/app.db", 7, 1, None), "app.db", None);
        assert_eq!(record.kin(&identity("/a/app.db", 7, 1, None)), Kin::Same);
        assert_eq!(record.kin(&identity("/a/app.db", 7, 2, None)), Kin::Replaced);
    }

    #[test]
    fn a_record_outlives_new_fields() {
        let record = Record::new(
            &identity("/a/app.db", 7, 1, Some(50)),
            "app.db",
            Some(Salts([1, 2, 3, 4, 5, 6, 7, 8])),
        );
        let mut bytes = minicbor::to_vec(&record).unwrap();
        assert_eq!(minicbor::decode::<Record>(&bytes).unwrap(), record);
        assert_eq!(bytes[0], 0x84, "an array of four");
        bytes[0] += 1;
        bytes.extend(minicbor::to_vec("more").unwrap());
        assert_eq!(minicbor::decode::<Record>(&bytes).unwrap(), record);
    }

    #[test]
    fn names_that_tell_apart() {
        for (database, other, name) in [
            ("/t/b/app.db", "/t/a/app.db", "b-app.db"),
            ("/t/b/data/app.db", "/t/a/data/app.db", "b-app.db"),
            ("/app.db", "/a/app.db", "app.db-2"),
            ("/t/a/app.db", "/app.db", "a-app.db"),
            ("/t/a/other.db", "/t/a/app.db", "other.db"),
            ("/t/.b/.app.db", "/t/a/.app.db", "b-app.db"),
        ] {
            assert_eq!(name_beside(Path::new(database), Path::new(other)), name);
        }
        assert_eq!(name_of(Path::new("/a/...")), "database");
        assert_eq!(name_of(Path::new("/a/x\ny\\z")), "x_y_z");
        assert_eq!(name_of(Path::new(&format!("/a/{}", "ä".repeat(150)))).len(), 200);
    }
}
