//! The archive's side of a watcher: one writer, one space, transactions in, commits out.
//!
//! Reads pages from the log and the database file as it is told to; knows nothing of pins. A
//! failure leaves the writer unusable by design: it is dropped and opened again, which recovers
//! what is durable.

use std::collections::HashMap;

use rewound::{Batch, Commit, Durability, Node, PageId, PageSize, SpaceId, Writer};

use super::error::{Error, Result};
use super::files::DatabaseFile;
use super::format::{DatabaseHeader, Salts};
use super::identity::{Identity, Kin, Record, name_of};
use super::log::{Log, Place, Transaction};
use super::mark::mark;
use super::options::WatchOptions;
use super::parting::{End, Since};

/// The archive, open for one database.
#[derive(Debug)]
pub(super) struct Archivist {
    pub writer: Writer,
    /// Name of the space.
    pub name: String,
    /// `None` before the first commit.
    pub space: Option<SpaceId>,
    /// What the database is to the node, ...
    pub kin: Kin,
    /// ... by what the node has on record, ...
    pub record: Option<Record>,
    /// ... and what the next commit is to put there.
    pub news: Option<Record>,
    /// Scratch: the image that a page had before.
    previous: Vec<u8>,
}

/// The database as the archive's newest commit has it, and where images from before are to be
/// found. All pages that were archived since the writer was opened and are not in the database file
/// yet have their frame here.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Where the newest commit ends in the log.
    pub place: Place,
    /// Length of the database in pages.
    pub length: u32,
    /// Which frame of the log's generation holds each page, from 1.
    pub frames: HashMap<u32, u32>,
    /// Whether the database file may hold pages from after `place`.
    pub file_is_newer: bool,
}

/// What was learned from a transaction beside its pages.
#[derive(Debug)]
pub(super) struct Archived {
    pub commit: Commit,
    pub pages: u64,
    /// The database's header, where the transaction wrote it.
    pub header: Option<DatabaseHeader>,
}

impl Archivist {
    /// Opens the node's writer for a database and finds its space. A node of another database is
    /// refused, unless it is to be adopted. An archive that had gone away, and is back, is gone on
    /// with.
    pub fn open(node: &Node, database: &Identity, options: &WatchOptions) -> Result<Archivist> {
        node.reopen()?;
        // First of all, as the node's own watcher may be at work.
        Record::admit(Record::of_node(node).as_ref(), node.name(), database, options.adopt)?;
        let writer = node.open_writer_with(options.writer.clone())?;
        let record = Record::of(&writer);
        let kin = Record::admit(record.as_ref(), node.name(), database, options.adopt)?;
        let named = options.space.clone().or_else(|| Some(record.as_ref()?.space.clone()));
        let name = named.unwrap_or_else(|| name_of(database.path()));
        let space = writer.space(&name);
        if space.is_none() && writer.newest().get() > 0 {
            return Err(Error::WrongNode {
                node: node.name().to_owned(),
                reason: format!(
                    "it holds commits, and none of {name:?}: make a node for this database, or name the space that it had (WatchOptions::space)"
                ),
                database: record.map(|r| r.path().to_owned()),
            });
        }
        Ok(Archivist { writer, name, space, kin, record, news: None, previous: Vec::new() })
    }

    /// Why a log that goes on where the archive ends would prove nothing of this database; `None`
    /// where it would. `held`: whether this file was held open since the archive ended there.
    pub fn doubt(
        &self,
        database: &Identity,
        held: bool,
        log: Salts,
        since: Since,
    ) -> Option<String> {
        doubt(self.kin, self.record.as_ref(), database, held, log, since)
    }

    /// Where the node ends, if any commit of it has a mark.
    pub fn end(&self, node: &Node) -> Option<End> {
        let mark = self.writer.host_mark()?;
        Some(End {
            archive: node.archive_id(),
            node: node.id(),
            mark,
            time: self.writer.newest_timestamp(),
        })
    }

    /// Adds the mark of the commit that is about to be made. There is no other writer, so its
    /// number is known.
    pub fn mark(&self, batch: &mut Batch, place: Place) -> Result<[u8; 20]> {
        let bytes = mark(self.writer.newest().next_lsn(), place);
        batch.mark(&bytes)?;
        Ok(bytes)
    }

    /// Archives one transaction, not durably yet, and moves on.
    pub fn archive(
        &mut self,
        log: &mut Log,
        file: &DatabaseFile,
        progress: &mut Progress,
        transaction: Transaction,
        page_size: PageSize,
    ) -> Result<Archived> {
        let space =
            self.space.expect("transactions are archived once a first copy has made the space");
        let mut batch = self.writer.batch();
        // Growth comes with the pages that are written, but for pages at the end that are not:
        // SQLite does not write unused ones.
        let implied = transaction.length > progress.length
            && transaction.pages.contains_key(&transaction.length);
        if transaction.length != progress.length && !implied {
            batch.set_length(space, u64::from(transaction.length) * u64::from(page_size.get()))?;
        }
        let mut pages = 0;
        let mut header = None;
        // Pages beyond the end were written and cut off within the transaction.
        for (&page, &frame) in transaction.pages.range(..=transaction.length) {
            let before = progress.frames.get(&page);
            // What the database file must not be asked for is logged in full.
            let has_previous =
                page <= progress.length && (before.is_some() || !progress.file_is_newer);
            if has_previous {
                if let Some(frame) = before {
                    log.previous(*frame, page, &mut self.previous)?;
                } else {
                    self.previous.resize(page_size.bytes(), 0);
                    file.read(
                        u64::from(page - 1) * u64::from(page_size.get()),
                        &mut self.previous,
                    )?;
                }
            }
            let image = log.image(frame, page)?;
            let previous = has_previous.then_some(self.previous.as_slice());
            batch.write_page(PageId::new(space, u64::from(page - 1)), image, previous)?;
            pages += 1;
            if page == 1 {
                header = DatabaseHeader::decode(image);
            }
        }
        self.mark(&mut batch, transaction.end)?;
        if let Some(news) = &self.news {
            news.note(&mut batch)?;
        }
        let commit = batch.commit(Durability::Buffered)?;
        self.news = None;
        progress.place = transaction.end;
        progress.length = transaction.length;
        progress.frames.extend(transaction.pages);
        Ok(Archived { commit, pages, header })
    }
}

fn doubt(
    kin: Kin,
    record: Option<&Record>,
    database: &Identity,
    held: bool,
    log: Salts,
    since: Since,
) -> Option<String> {
    let path = database.path().display();
    match (kin, record) {
        (Kin::Unknown, _) | (_, None) => Some(format!(
            "the archive, written by an earlier version, does not say whether it is that of {path}"
        )),
        (Kin::Replaced, _) => Some(format!("{path} was replaced by another file")),
        (Kin::Other, Some(record)) => {
            Some(format!("{path} takes the place of {}", record.path().display()))
        }
        (_, Some(record)) if record.disowns(log) => {
            Some(format!("the log of {path} is that of another file, which was there before"))
        }
        _ if since == Since::Overwritten => Some(format!(
            "{path} was written to by something else than SQLite while nobody watched"
        )),
        _ if !held && !database.file.is_unique() && !matches!(since, Since::Untouched(_)) => {
            Some(format!(
                "{path} may be another file of the same number: its file system keeps no time of birth, and it was written to while nobody watched"
            ))
        }
        (Kin::Same | Kin::Moved, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::identity;

    /// Without a time of birth a file's number proves nothing by itself.
    #[test]
    fn a_number_that_may_have_been_given_again_is_doubted() {
        let untouched = Since::Untouched(None);
        for (born, held, since, doubted) in [
            (Some(5), false, Since::Unknown, false),
            (Some(5), false, Since::Overwritten, true),
            (None, false, Since::Unknown, true),
            (None, false, Since::Overwritten, true),
            (None, false, untouched, false),
            (None, true, Since::Unknown, false),
        ] {
            let database = identity("/a/app.db", 7, 1, born);
            let record = Record::new(&database, "app.db", None);
            for kin in [Kin::Same, Kin::Moved] {
                let doubt = doubt(kin, Some(&record), &database, held, Salts([1; 8]), since);
                assert_eq!(doubt.is_some(), doubted, "{born:?} {held} {since:?}: {doubt:?}");
            }
        }
    }
}
