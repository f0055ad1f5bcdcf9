//! What an adapter says of its database.

use crate::bell::Bell;
use crate::failure::Failure;
use crate::report::Report;

/// A database that is followed into an archive.
///
/// A follower holds what these calls return, in one [phase](crate) at a time, and gives it back
/// with the next call. What has to outlast a failure goes from [`Link`](Self::Link) into
/// [`Away`](Self::Away) and back.
pub trait Source {
    /// What it is called in messages, such as `"the watcher"`.
    const NAME: &'static str;

    /// What can go wrong, on either side.
    type Error: Failure;
    /// What the status says beside what every follower's says.
    type Details: Clone + Default;
    /// What is kept while the database is not attached to. The default is what a first attempt has.
    type Away: Default;
    /// The database, attached to: it keeps what is not archived.
    type Link;
    /// The archive, open for this database.
    type Archive;

    /// Attaches to the database.
    fn attach(
        &mut self,
        away: Self::Away,
        report: &mut Report<Self::Details>,
    ) -> Result<Self::Link, (Self::Away, Self::Error)>;

    /// Opens the archive, and [says](Report::opened) where it ends.
    fn open(
        &mut self,
        link: &mut Self::Link,
        report: &mut Report<Self::Details>,
    ) -> Result<Self::Archive, Self::Error>;

    /// Makes the archive continuous with the database: [goes on](Report::continued) where it ends,
    /// [copies](Report::copy), or [compares](Report::resync).
    fn begin(
        &mut self,
        link: &mut Self::Link,
        archive: &mut Self::Archive,
        report: &mut Report<Self::Details>,
    ) -> Result<(), Self::Error>;

    /// Archives every transaction that is committed by now, durably, and returns their number.
    /// `thorough`: after looking whether the files of both sides still are what they were.
    fn round(
        &mut self,
        link: &mut Self::Link,
        archive: &mut Self::Archive,
        thorough: bool,
        report: &mut Report<Self::Details>,
    ) -> Result<u64, Self::Error>;

    /// Waits for something to do, after a round that found nothing. The bell has to end it, and
    /// time.
    fn wait(&mut self, link: &mut Self::Link, bell: &Bell);

    /// Whether the database has something that the archive lacks, as far as a look can tell. Asked
    /// after a failure.
    fn is_behind(&mut self, link: &mut Self::Link) -> bool;

    /// Puts what the database's log is like now into the report, before that is published.
    fn measure(&self, link: &Self::Link, report: &mut Report<Self::Details>);

    /// Ends an attachment, and keeps what the next one needs to know of it.
    fn let_go(&mut self, link: Self::Link) -> Self::Away;

    /// What stays known of the database once the follower has ended. Nothing may be held any more:
    /// others may follow the database before this one does again.
    fn end(away: Self::Away) -> Self::Away;

    /// Notes a failure of the database's side: the next [`begin`](Self::begin) may need its reason.
    fn doubt(&mut self, away: &mut Self::Away, failure: &Self::Error);

    /// Waits for what goes on in the background, before a single backup ends.
    fn settle(
        &mut self,
        link: &mut Self::Link,
        archive: &mut Self::Archive,
        report: &mut Report<Self::Details>,
    ) -> Result<(), Self::Error> {
        let _ = (link, archive, report);
        Ok(())
    }

    /// Closes the archive, where nothing was followed yet.
    fn close(&mut self, archive: Self::Archive) -> Result<(), Self::Error>;

    /// Ends for good what follows: leaves the database as the next follower wants to find it, then
    /// closes the archive, then ends the attachment. What fails on the database's side does not
    /// matter any more.
    fn part(
        &mut self,
        link: Self::Link,
        archive: Self::Archive,
        report: &mut Report<Self::Details>,
    ) -> Result<(), Self::Error>;

    /// Gives up an attachment in a process that was forked from the one that made it. Nothing that
    /// the parent uses may be touched.
    fn forget(link: Self::Link) {
        std::mem::forget(link);
    }
}
