//! What a watcher holds of its database, and what it keeps while it holds nothing.
//!
//! Owns the watcher's lock, which keeps a second watcher out and holds what the last one left. A
//! crash frees the lock and the pin; the mark in the archive tells where to go on.

use std::fs::File;

use super::archivist::Archivist;
use super::error::{Error, Result};
use super::files::{DatabaseFile, Paths, is_same};
use super::link::{Former, Link, check, not_to_be_used};
use super::options::WatchOptions;
use super::parting::{End, Parting};
use super::pin::enable_wal;
use super::wake::Rest;

/// What is made of the archive's word of where it ends, which its newest mark gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing speaks against it.
    #[default]
    Whole,
    /// The database's side failed with this. Where continuity is not proven it is told as the
    /// reason.
    Shaken(String),
    /// It is not believed, for this reason: pages are compared.
    Lost(String),
}

impl Trust {
    pub fn shake(&mut self, reason: String) {
        if !matches!(self, Trust::Lost(_)) {
            *self = Trust::Shaken(reason);
        }
    }

    pub fn lose(&mut self, reason: String) {
        *self = Trust::Lost(reason);
    }

    pub fn lost(&self) -> Option<&str> {
        if let Trust::Lost(reason) = self { Some(reason) } else { None }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Trust::Whole => None,
            Trust::Shaken(reason) | Trust::Lost(reason) => Some(reason),
        }
    }
}

/// What is kept while the database is not attached to.
#[derive(Debug, Default)]
pub(super) struct Away {
    lock: Option<File>,
    pub trust: Trust,
    /// `None` where it was never attached to.
    pub before: Option<Before>,
}

/// What was attached to last.
#[derive(Debug)]
pub(super) struct Before {
    pub former: Former,
    parting: Option<Parting>,
    unbroken: bool,
}

/// The database, attached to and pinned.
#[derive(Debug)]
pub(super) struct Held {
    pub link: Link,
    lock: File,
    pub rest: Rest,
    pub trust: Trust,
    /// What the last watcher left.
    pub parting: Option<Parting>,
    /// Whether the file was held open since the archive was last as the database is.
    pub unbroken: bool,
    /// Why the database's log cannot be copied back, as it was last told.
    told: Option<String>,
}

impl Away {
    /// Connects to the database and pins its log, with the watcher's lock taken first where it is
    /// not held.
    pub fn connect(
        mut self: Box<Self>,
        paths: &Paths,
        options: &WatchOptions,
    ) -> Result<Held, (Box<Self>, Error)> {
        let (file, wal) = match database(paths, options) {
            Ok(found) => found,
            Err(e) => return Err((self, e)),
        };
        let lock = match self.lock.take() {
            Some(lock) if is_same(&lock, &paths.lock) => lock,
            other => match paths.lock() {
                Ok(lock) => lock,
                Err(e) => {
                    self.lock = other;
                    return Err((self, e));
                }
            },
        };
        match pin(&file, wal, paths, options) {
            Ok(link) => Ok(self.attached(link, lock, paths, options)),
            Err(e) => {
                self.lock = Some(lock);
                Err((self, e))
            }
        }
    }

    /// Lets go of the watcher's lock. What was attached to says nothing any more, as others may
    /// watch the database from now on; that it is not to be trusted stays true.
    pub fn end(self: Box<Self>) -> Box<Away> {
        Box::new(Away { lock: None, trust: self.trust, before: None })
    }

    fn attached(self, link: Link, lock: File, paths: &Paths, options: &WatchOptions) -> Held {
        let Away { mut trust, before, .. } = self;
        let (parting, unbroken) = match before {
            None => (Parting::read(&lock), false),
            Some(Before { former, parting, unbroken }) => {
                // Nobody has looked in between.
                if let Err(e) = former.check_content(&link) {
                    trust.lose(e.to_string());
                }
                (parting, unbroken && former.is_of(&link))
            }
        };
        let rest = Rest::new(paths, options);
        Held { link, lock, rest, trust, parting, unbroken, told: None }
    }
}

/// The database's file, and whether it is in WAL mode. What is no database gets no lock beside it.
fn database(paths: &Paths, options: &WatchOptions) -> Result<(DatabaseFile, bool)> {
    let file = DatabaseFile::open(paths)?;
    let wal = match check(&file, paths) {
        Err(Error::NotWal { .. }) if options.enable_wal => false,
        other => other?.wal,
    };
    Ok((file, wal))
}

fn pin(file: &DatabaseFile, wal: bool, paths: &Paths, options: &WatchOptions) -> Result<Link> {
    if wal {
        // A connection of this process would make another index, and take it for the one that
        // everybody uses.
        not_to_be_used(file.connected_without_index(paths)?, paths)?;
    } else {
        enable_wal(&paths.database, options.busy_timeout)?;
    }
    Link::open(paths, options)
}

impl Held {
    /// Looks whether files and archive still are what they were.
    pub fn check(&mut self, paths: &Paths, archivist: &Archivist) -> Result<()> {
        // First: who overwrites it may remove files as well.
        if let Err(e) = self.link.check_content() {
            // The log may continue all the same.
            self.trust.lose(e.to_string());
            return Err(e);
        }
        self.link.check_files()?;
        if !is_same(&self.lock, &paths.lock) {
            self.lock = paths.lock()?;
        }
        archivist.writer.check()?;
        Ok(())
    }

    /// The archive is as the database is.
    pub fn begun(&mut self) {
        (self.trust, self.unbroken) = (Trust::Whole, true);
    }

    /// Leaves for the next watcher what the database is like now, where the archive ends. That it
    /// gets there is not vital.
    pub fn leave(&self, end: Option<End>) {
        if let Some(parting) = end.and_then(|end| self.link.parting(end)) {
            Parting::forget(&self.lock);
            parting.leave(&self.lock);
        }
    }

    /// Why the log cannot be copied back, where that is news.
    pub fn new_trouble(&mut self) -> Option<&str> {
        if self.told == self.link.trouble {
            return None;
        }
        self.told.clone_from(&self.link.trouble);
        self.told.as_deref()
    }

    /// Ends the attachment, and keeps what the next one needs to know.
    pub fn let_go(self) -> Box<Away> {
        let Held { link, lock, trust, parting, unbroken, .. } = self;
        let before = Before { former: link.former(), parting, unbroken };
        Box::new(Away { lock: Some(lock), trust, before: Some(before) })
    }

    /// Gives the attachment up in a forked child: closing it would copy the log back, and remove
    /// it. The lock is the parent's for as long as anybody has it open.
    pub fn forget(self) {
        let Held { link, rest, .. } = self;
        std::mem::forget((link, rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_that_is_lost_stays_so_until_the_archive_is_as_the_database_is() {
        let mut trust = Trust::default();
        assert_eq!((trust.lost(), trust.reason()), (None, None));
        trust.shake("locked".into());
        trust.shake("gone".into());
        assert_eq!((trust.lost(), trust.reason()), (None, Some("gone")));
        trust.lose("overwritten".into());
        trust.shake("gone again".into());
        assert_eq!((trust.lost(), trust.reason()), (Some("overwritten"), Some("overwritten")));
        trust.lose("overwritten again".into());
        assert_eq!(trust.lost(), Some("overwritten again"));
    }
}
