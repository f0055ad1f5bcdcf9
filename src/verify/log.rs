//! The log: every segment decrypted, from its first frame to its end, and linked to the next.

use super::{Meter, VerifyReport};
use crate::error::{DamageKind, Error, Result};
use crate::history::{SegmentRuns, gaps};
use crate::past::NodeContext;
use crate::replay::{log_end, lost_beginning, window};
use crate::types::{Position, Target};
use crate::wal::{SegmentRef, Visit};

/// Verifies the segments of a timeline that have not expired, and that they begin and end where the
/// catalog says.
pub(super) fn verify_log(
    context: &NodeContext,
    runs: &SegmentRuns,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let node = || context.record.name.clone();
    for span in context
        .view()
        .kept_of(context.log.lineage.tip())
        .into_iter()
        .flatten()
        .filter(|s| !s.is_point())
    {
        let start = span.log_from();
        let segments = || runs.iter().flatten().map(|(s, _)| s.from);
        if !segments().any(|from| from <= start) {
            let found = segments().next().unwrap_or(start);
            report.note(Error::Gap { node: node(), expected: start.next_lsn(), found });
        }
    }
    match lost_beginning(&context.log, &context.view()) {
        Ok(Some(lost)) => report.note(lost),
        other => report.found(other.map(drop))?,
    }
    for segments in runs {
        for (before, behind) in gaps(segments) {
            report.note(Error::Gap {
                node: node(),
                expected: before.from.next_lsn(),
                found: behind.from,
            });
        }
        let next = segments.iter().skip(1).map(|(s, _)| Some(s)).chain([None]);
        for ((segment, _), next) in segments.iter().zip(next) {
            report.segments += 1;
            super::checksums_of(context.storage.as_ref(), &segment.path, report, meter)?;
            let checked = verify_segment(context, segment, next, report, meter);
            report.found(checked)?;
        }
    }
    let end = log_end(&context.log, &context.view());
    let begun = end.as_ref().is_ok_and(|end| end.position > Position::ORIGIN);
    report.found(end.map(drop))?;
    if begun {
        match window(&context.log, &context.view(), &Target::Latest) {
            // Nothing could be lost: there is no base snapshot yet.
            Err(Error::BeforeWindow { .. }) => {}
            other => report.found(other.map(drop))?,
        }
    }
    Ok(())
}

fn verify_segment(
    context: &NodeContext,
    segment: &SegmentRef,
    next: Option<&SegmentRef>,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let reader = context.log.open(segment)?;
    // A missing or damaged next segment is a finding of its own.
    let next = next.filter(|n| segment.is_continued_by(n)).and_then(|n| context.log.open(n).ok());
    let successor = next.as_ref().and_then(|n| n.preface().previous.as_ref());
    let end = reader.scan(segment.from, successor, &mut |visit| {
        meter.add(0)?;
        report.commits += u64::from(matches!(visit, Visit::Commit { .. }));
        Ok(true)
    })?;
    match next {
        Some(next)
            if next.link_to_previous() != end.link
                || next.preface().state.position != end.position =>
        {
            let expected = format_args!("that of {} up to LSN {}", segment.path, end.position);
            let what = "link to the segment before";
            Err(Error::damage(DamageKind::Chain, next.path(), 128, what, expected, "another one"))
        }
        _ => Ok(()),
    }
}
