//! A SQLite database as what a follower follows: what each of its transitions does here.
//!
//! Puts the two sides together, the database's [`link`](super::link) and the archive's
//! [`archivist`](super::archivist). Tries nothing again and waits for nobody, but in `wait`: that
//! is the follower's.

use rewound::{Node, SpaceId};
use rewound_follow::{Bell, Failure, Report, Side, Source};

use super::archivist::Archivist;
use super::compare::{Subject, copy, resync};
use super::error::{Error, Result};
use super::files::Paths;
use super::held::{Away, Held};
use super::identity::{Kin, Record};
use super::link::{Caught, Former};
use super::options::WatchOptions;
use super::parting::Since;
use super::status::Details;

/// Why continuity is not proven where nothing more is known.
const UNPROVEN: &str = "the database's log is not the one that the archive ends in: it started over \
     while nobody watched, or the database was replaced or restored";

/// What a follower of a database tells.
type Telling = Report<Details>;
/// A failure to attach, and what is kept.
type NotAttached = (Box<Away>, Error);

/// A database, and the node that it is archived in.
#[derive(Debug)]
pub(super) struct Database {
    pub node: Node,
    pub paths: Paths,
    pub options: WatchOptions,
    /// Whether the SQLite that writes the database was warned of.
    told_of_bug: bool,
}

impl Database {
    pub fn new(node: Node, paths: Paths, options: WatchOptions) -> Database {
        Database { node, paths, options, told_of_bug: false }
    }

    /// Attaches to what the name that was given stands for now.
    fn connect(&mut self, away: Box<Away>, report: &mut Telling) -> Result<Held, NotAttached> {
        let paths = match self.paths.again() {
            Ok(paths) => paths,
            Err(e) => return Err((away, e)),
        };
        let former = away.before.as_ref().map(|before| &before.former);
        let look = |former: &Former| former.check(&paths).and_then(|()| former.warning(&paths));
        let warning = match former.map(look) {
            Some(Err(e)) => return Err((away, e)),
            Some(Ok(warning)) => warning,
            None => None,
        };
        let held = away.connect(&paths, &self.options)?;
        if let Some(warning) = warning {
            report.warn(warning);
        }
        self.paths = paths;
        Ok(held)
    }

    /// Copies the database for the first time.
    fn copy(&self, held: &mut Held, archivist: &mut Archivist, report: &mut Telling) -> Result<()> {
        let database = held.link.identity()?;
        let bytes = held.link.live()?.len();
        let record = Some(Record::new(&database, &archivist.name, None));
        let base = &self.options.base;
        let replay = &base.replay;
        let subject = Subject { node: &self.node, database: &database, record, replay };
        report.copy(bytes, || copy(&mut held.link, archivist, &subject, base))
    }

    /// Goes on where the archive ends, if that is proven, or compares.
    fn go_on(
        &self,
        held: &mut Held,
        archivist: &mut Archivist,
        end: (&[u8], SpaceId),
        report: &mut Telling,
    ) -> Result<()> {
        let (database, log) = (held.link.identity()?, held.link.generation()?);
        let since = match (&held.parting, archivist.end(&self.node)) {
            (Some(parting), Some(end)) => held.link.since(parting, &end)?,
            _ => Since::Unknown,
        };
        let lost = held.trust.lost().map(str::to_owned);
        let doubt = lost.or_else(|| archivist.doubt(&database, held.unbroken, log, since));
        if doubt.is_none() && resume(held, archivist, end, since)? {
            if archivist.kin == Kin::Moved {
                archivist.news = Some(Record::new(&database, &archivist.name, None));
            }
            report.continued(archivist.writer.newest());
            return Ok(());
        }
        // The log of a file that was there before may have stayed, and knows the mark. One that
        // cannot be read knows nothing.
        let foreign = archivist.record.as_ref().is_some_and(|record| record.disowns(log))
            || archivist.kin == Kin::Replaced
                && resume(held, archivist, end, since).is_ok_and(|known| known);
        let record = Record::new(&database, &archivist.name, foreign.then_some(log));
        let record = (archivist.kin != Kin::Same).then_some(record);
        let replay = &self.options.base.replay;
        let subject = Subject { node: &self.node, database: &database, record, replay };
        let reason = doubt.unwrap_or_else(|| held.trust.reason().unwrap_or(UNPROVEN).to_owned());
        report.resync(reason, |reason| resync(&mut held.link, archivist, &subject, reason))
    }

    /// Tells once of a SQLite that can damage the database: in a round, as nobody can listen
    /// before.
    fn tell_of_bug(&mut self, report: &mut Telling) {
        if !report.details().wal_reset_bug || std::mem::replace(&mut self.told_of_bug, true) {
            return;
        }
        let version = report.details().sqlite_version;
        let (major, minor, patch) = (version / 1_000_000, version / 1_000 % 1_000, version % 1_000);
        report.warn(format!(
            "{} is written by SQLite {major}.{minor}.{patch}, which can damage a database in WAL mode \
             with several connections (its WAL-reset bug, mended in 3.51.3): update the application's \
             SQLite",
            self.paths.database.display()
        ));
    }
}

impl Source for Database {
    const NAME: &'static str = "the watcher";
    type Error = Error;
    type Details = Details;
    type Away = Box<Away>;
    type Link = Held;
    type Archive = Archivist;

    fn attach(&mut self, away: Box<Away>, report: &mut Telling) -> Result<Held, NotAttached> {
        let held = self.connect(away, report)?;
        match held.link.header() {
            Ok(header) => report.details().note(&header),
            Err(e) => return Err((held.let_go(), e)),
        }
        Ok(held)
    }

    fn open(&mut self, held: &mut Held, report: &mut Telling) -> Result<Archivist> {
        let archivist = Archivist::open(&self.node, &held.link.identity()?, &self.options)?;
        report.opened(archivist.writer.durable());
        Ok(archivist)
    }

    fn begin(
        &mut self,
        held: &mut Held,
        archivist: &mut Archivist,
        report: &mut Telling,
    ) -> Result<()> {
        // A first copy may have been cut short, between its commit and its base.
        match archivist.writer.host_mark().zip(archivist.space) {
            Some((mark, space)) if !self.node.layers()?.is_empty() => {
                self.go_on(held, archivist, (&mark, space), report)?;
            }
            _ => self.copy(held, archivist, report)?,
        }
        held.begun();
        Ok(())
    }

    fn round(
        &mut self,
        held: &mut Held,
        archivist: &mut Archivist,
        thorough: bool,
        report: &mut Telling,
    ) -> Result<u64> {
        if thorough {
            held.check(&self.paths, archivist)?;
        }
        if !report.is_behind() && held.link.is_behind()? {
            report.fall_behind();
            report.publish();
        }
        let mut caught = held.link.catch_up(archivist)?;
        report.caught_up();
        if thorough {
            // What was committed to the database of before is archived by now.
            self.paths.check_name()?;
        }
        caught.add(&held.link.tend(archivist, &self.options)?);
        if held.link.was_emptied() {
            held.leave(archivist.end(&self.node));
        }
        if let Some(trouble) = held.new_trouble() {
            let what = "the database's log cannot be copied back, and grows meanwhile";
            report.warn(format!("{what}: {trouble}"));
        }
        count(&caught, report);
        self.tell_of_bug(report);
        if caught.commits > 0 {
            held.rest.worked();
        }
        Ok(caught.commits)
    }

    fn wait(&mut self, held: &mut Held, bell: &Bell) {
        held.rest.wait(held.link.is_at_rest(), bell, &self.options);
    }

    fn is_behind(&mut self, held: &mut Held) -> bool {
        held.link.look().is_err() || held.link.pending_bytes() > 0
    }

    fn measure(&self, held: &Held, report: &mut Telling) {
        report.details().wal_bytes = held.link.wal_bytes();
        report.pending(held.link.pending_bytes());
    }

    fn let_go(&mut self, held: Held) -> Box<Away> {
        held.let_go()
    }

    fn end(away: Box<Away>) -> Box<Away> {
        away.end()
    }

    fn doubt(&mut self, away: &mut Box<Away>, failure: &Error) {
        debug_assert_eq!(failure.side(), Side::Source, "an archive's failure says nothing of it");
        match failure {
            // The archive has not what the database had.
            Error::Archive(_) => away.trust.lose(failure.to_string()),
            _ => away.trust.shake(failure.to_string()),
        }
    }

    /// An application without checkpoints of its own may have nobody else who does them.
    fn settle(
        &mut self,
        held: &mut Held,
        archivist: &mut Archivist,
        report: &mut Telling,
    ) -> Result<()> {
        count(&held.link.wait_for_copy(archivist)?, report);
        Ok(())
    }

    fn close(&mut self, archivist: Archivist) -> Result<()> {
        Ok(archivist.writer.close()?)
    }

    fn part(
        &mut self,
        mut held: Held,
        mut archivist: Archivist,
        report: &mut Telling,
    ) -> Result<()> {
        // Whoever is at it, or what fails, leaves the log as it is: the next watcher finds its
        // place in it.
        if let Ok(caught) = held.link.part(&mut archivist) {
            count(&caught, report);
        }
        let end = archivist.end(&self.node);
        // The archive first: the pin holds what it does not have.
        archivist.writer.close()?;
        held.leave(end);
        Ok(())
    }

    fn forget(held: Held) {
        held.forget();
    }
}

/// Takes up where the archive ends, if that can be proven; `false` where not.
fn resume(
    held: &mut Held,
    archivist: &Archivist,
    (mark, space): (&[u8], SpaceId),
    since: Since,
) -> Result<bool> {
    if archivist.writer.page_size(space) != Some(held.link.page_size) {
        return Ok(false);
    }
    let length = archivist.writer.space_length(space);
    let length = length.expect("a space with pages of a size has a length");
    let known = if let Since::Untouched(place) = since { place } else { None };
    held.link.resume(mark, known, length)
}

fn count(caught: &Caught, report: &mut Telling) {
    report.details().wal_resets += caught.resets;
    report.archived(caught.commits, caught.pages, caught.newest);
    if let Some(header) = &caught.header {
        report.details().note(header);
    }
}
