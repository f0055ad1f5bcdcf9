//! Moments: what people type for a time or a commit, and how times are printed.

use std::time::Duration;

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Zoned};
use rewound::{Lsn, Target, Timestamp};

use crate::failure::{Failure, Result};
use crate::output::message;

/// The zone that times are read and printed in.
#[derive(Clone, Debug)]
pub struct Zone {
    zone: TimeZone,
    utc: bool,
}

/// Something that names a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    Latest,
    Time(Timestamp),
    Lsn(Lsn),
    Point(String),
}

impl Moment {
    /// Understands `latest`, `lsn:NUMBER`, `point:NAME`, and times.
    pub fn parse(text: &str, zone: &Zone) -> Result<Moment> {
        let text = text.trim();
        if text == "latest" {
            return Ok(Moment::Latest);
        }
        if let Some(name) = text.strip_prefix("point:") {
            return Ok(Moment::Point(name.to_owned()));
        }
        if let Some(number) = text.strip_prefix("lsn:") {
            let lsn = number.trim().parse().ok().and_then(Lsn::new);
            let wrong =
                || Failure::Usage(format!("{number:?} is no LSN: they are numbers from 1 on"));
            return lsn.map(Moment::Lsn).ok_or_else(wrong);
        }
        zone.parse(text, &Zoned::now()).map(Moment::Time)
    }

    /// The state at it.
    pub fn at(self) -> Target {
        match self {
            Moment::Latest => Target::Latest,
            Moment::Time(time) => Target::Time(time),
            Moment::Lsn(lsn) => Target::Lsn(lsn),
            Moment::Point(name) => Target::RestorePoint(name),
        }
    }
}

impl Zone {
    pub fn new(utc: bool) -> Zone {
        if utc {
            return Zone { zone: TimeZone::UTC, utc };
        }
        let zone = TimeZone::try_system().unwrap_or_else(|_| {
            let name = std::env::var("TZ").unwrap_or_default();
            message!("warning: the local zone {name:?} is not known here: times are in UTC");
            TimeZone::UTC
        });
        Zone { zone, utc }
    }

    /// A time as people write it.
    fn parse(&self, text: &str, now: &Zoned) -> Result<Timestamp> {
        let now = now.with_time_zone(self.zone.clone());
        if text == "now" {
            return timestamp(now.timestamp());
        }
        // With an offset or Z it is unambiguous, whatever the zone.
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return timestamp(time);
        }
        if let Ok(time) = text.parse::<civil::DateTime>() {
            return self.civil(time, text);
        }
        if let Ok(time) = text.parse::<civil::Time>() {
            return self.civil(now.date().to_datetime(time), text);
        }
        if let Ok(span) = text.parse::<Span>() {
            if span.is_positive() {
                return Err(Failure::Usage(format!(
                    "{text:?} is a length of time: did you mean \"{text} ago\"?"
                )));
            }
            let then =
                now.checked_add(span).map_err(|e| Failure::Usage(format!("{text:?}: {e}")))?;
            return timestamp(then.timestamp());
        }
        Err(Failure::Usage(format!(
            "{text:?} is no moment: give a time such as 2026-11-21T14:00:00Z, \"2026-11-21 14:00\", 14:00 or \"10 minutes ago\", or lsn:NUMBER, point:NAME, latest"
        )))
    }

    /// A time to come: a time, or a length of time from now.
    pub fn to_come(&self, text: &str) -> Result<Timestamp> {
        let now = Timestamp::from(std::time::SystemTime::now());
        let time = match length(text.trim().trim_start_matches("in ")) {
            Ok(length) => now.saturating_add(length),
            Err(_) => self.parse(text.trim(), &Zoned::now())?,
        };
        if time <= now {
            return Err(Failure::Usage(format!(
                "{text:?} has passed already: give a time to come, or a length of time such as 90d"
            )));
        }
        Ok(time)
    }

    /// A time without an offset, in this zone. One that the zone has twice or not at all is
    /// refused, as either guess may be an hour off.
    fn civil(&self, time: civil::DateTime, text: &str) -> Result<Timestamp> {
        let found = self.zone.to_ambiguous_zoned(time).unambiguous().map_err(|_| {
            Failure::Usage(format!(
                "{text:?} exists twice or not at all in the local zone, as its clocks change then: give it with an offset, or in UTC with --utc"
            ))
        })?;
        timestamp(found.timestamp())
    }

    /// The clock's time, as [`show`](Self::show) shows it.
    pub fn now(&self) -> String {
        self.show(std::time::SystemTime::now().into())
    }

    /// A time to the millisecond, with its offset.
    pub fn show(&self, t: Timestamp) -> String {
        self.format(t, if self.utc { "%Y-%m-%d %H:%M:%S%.3fZ" } else { "%Y-%m-%d %H:%M:%S%.3f%:z" })
    }

    /// A time in the form that is asked for.
    pub fn format(&self, t: Timestamp, form: &str) -> String {
        jiff_of(t).to_zoned(self.zone.clone()).strftime(form).to_string()
    }

    /// Nanoseconds that local time is ahead of UTC at a time.
    pub fn ahead(&self, t: Timestamp) -> i64 {
        i64::from(self.zone.to_offset(jiff_of(t)).seconds()) * 1_000_000_000
    }

    /// What the zone is called at a time.
    pub fn name(&self, t: Timestamp) -> String {
        if self.utc { "UTC".to_owned() } else { self.format(t, "UTC%:z") }
    }
}

fn jiff_of(t: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(t.as_nanos()))
        .expect("64 bits end in the year 2554, jiff's in 9999")
}

fn timestamp(time: jiff::Timestamp) -> Result<Timestamp> {
    let early = || Failure::Usage("times before 1970 are not known here".into());
    u64::try_from(time.as_nanosecond()).map(Timestamp::from_nanos).map_err(|_| early())
}

/// A length of time, such as `7d` or `2 weeks`. A day is 24 hours here, and a year 365 days.
pub fn length(text: &str) -> Result<Duration> {
    let wrong = |why: &str| {
        Failure::Usage(format!(
            "{text:?} is no length of time{why}: give one such as 7d, 36h or \"2 weeks\""
        ))
    };
    let span = text.trim().parse::<Span>().map_err(|_| wrong(""))?;
    if span.get_months() != 0 {
        return Err(wrong(", as months differ (min is minutes, d days)"));
    }
    let days = i64::from(span.get_years()) * 365
        + i64::from(span.get_weeks()) * 7
        + i64::from(span.get_days());
    let time = span.years(0).weeks(0).days(0);
    let time = Duration::try_from(time).map_err(|_| wrong(" from now on"))?;
    let days = u64::try_from(days).map_err(|_| wrong(" from now on"))?;
    Ok(Duration::from_secs(days * 86_400).saturating_add(time))
}

/// How long ago something was, by the clock; zero for what is ahead of it.
pub fn ago(t: Timestamp) -> SignedDuration {
    let now = Timestamp::from(std::time::SystemTime::now());
    SignedDuration::from_nanos(
        i64::try_from(now.as_nanos().saturating_sub(t.as_nanos())).unwrap_or(i64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(zone: &str, text: &str) -> std::result::Result<String, String> {
        let zone = Zone { zone: TimeZone::get(zone).unwrap(), utc: false };
        let now: Zoned = "2026-11-21T15:30:00+01:00[Europe/Vienna]".parse().unwrap();
        zone.parse(text, &now).map(|t| t.to_string()[..19].to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn understands_what_people_write() {
        for (text, expected) in [
            ("2026-11-21T14:00:00Z", "2026-11-21T14:00:00"),
            ("2026-11-21T14:00:00+01:00", "2026-11-21T13:00:00"),
            ("2026-11-21 14:00:00", "2026-11-21T13:00:00"),
            ("2026-07-21 14:00", "2026-07-21T12:00:00"),
            ("2026-07-21", "2026-07-20T22:00:00"),
            ("14:00", "2026-11-21T13:00:00"),
            ("10 minutes ago", "2026-11-21T14:20:00"),
            ("1 day 2h ago", "2026-11-20T12:30:00"),
            ("now", "2026-11-21T14:30:00"),
        ] {
            assert_eq!(parse("Europe/Vienna", text), Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn lengths_of_time() {
        let seconds = |text: &str| length(text).map(|d| d.as_secs()).map_err(|e| e.to_string());
        for (text, expected) in [
            ("7d", 604_800),
            ("36h", 129_600),
            ("2 weeks", 1_209_600),
            ("1y", 31_536_000),
            ("15min", 900),
            ("1d 12h", 129_600),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "7", "soon", "1 month", "-7d", "7d ago", "1y -400d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_what_could_mean_two_things() {
        for text in [
            "2026-10-25 02:30",
            "2026-03-29 02:30",
            "10 minutes",
            "soon",
            "",
            "1960-01-01T00:00:00Z",
        ] {
            assert!(parse("Europe/Vienna", text).is_err(), "{text}");
        }
    }
}
