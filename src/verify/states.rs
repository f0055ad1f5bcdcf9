//! States: rebuilds the latest one, compares each snapshot with what is rebuilt without it, and
//! reads the logical records that lead up to them.

use std::collections::BTreeMap;

use super::{Meter, VerifyOptions, VerifyProgress, VerifyReport};
use crate::crypto::kdf::sha256;
use crate::error::{DamageKind, Error, Result};
use crate::format::state::SpaceState;
use crate::names::layer_path;
use crate::past::{NodeContext, PastState, RunStats};
use crate::replay::{PageSink, Progress, replay_records, resolve};
use crate::sync::Mutex;
use crate::types::{Position, SpaceId, Target};

/// Rebuilds the latest state, the state at the end of each range, and the state at each snapshot
/// twice: from the snapshot, and from what comes before it.
pub(super) fn verify_states(
    context: &NodeContext,
    options: &VerifyOptions,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let (view, lineage) = (context.view(), &context.log.lineage);
    let snapshots = || {
        context
            .record
            .layers
            .iter()
            .filter(|l| l.timeline == context.timeline() && l.from.is_none())
    };
    for snapshot in snapshots() {
        let to = snapshot.consistent_from;
        // It is about to expire.
        if view.replay_floor(lineage, to).is_none() {
            continue;
        }
        let with = rebuild(context.clone(), to, options, report, meter)?;
        let mut without = context.clone();
        without.record.layers.retain(|l| l.file != snapshot.file);
        // A snapshot that is the base of a range has nothing before it.
        if without.plan(to).is_err() {
            continue;
        }
        let without = rebuild(without, to, options, report, meter)?;
        if let (Some(with), Some(without)) = (with, without)
            && with != without
        {
            let path = layer_path(context.node, snapshot.file);
            let expected = format_args!("the state at LSN {to} as the log before it gives it");
            report.note(Error::damage(
                DamageKind::PageImage,
                path,
                0,
                "snapshot",
                expected,
                "another state",
            ));
        }
    }
    // The ends of ranges beside the window: a state that has no snapshot of its own is checked
    // nowhere else.
    let spans = view.kept_of(lineage.tip()).unwrap_or_default();
    let is_snapshot = |at: Position| snapshots().any(|l| l.consistent_from == at);
    for to in spans.iter().filter_map(|s| s.to).filter(|to| !is_snapshot(*to)) {
        rebuild(context.clone(), to, options, report, meter)?;
    }
    match resolve(&context.log, &view, &Target::Latest) {
        Ok(latest) => rebuild(context.clone(), latest.lsn.into(), options, report, meter).map(drop),
        // Nothing can be restored yet, which is not damage.
        Err(Error::BeforeWindow { .. } | Error::AfterDurableEnd { .. }) => Ok(()),
        Err(e) => report.found(Err(e)),
    }
}

/// Rebuilds a state without storing it; returns its digest, or `None` if damage prevents that.
fn rebuild(
    context: NodeContext,
    to: Position,
    options: &VerifyOptions,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<Option<u128>> {
    let mut past = match PastState::open(context, to, None, &options.replay) {
        Ok(past) => past,
        Err(e) => return report.found(Err(e)).map(|()| None),
    };
    let done = run(&mut past, meter);
    past.damaged().iter().for_each(|d| report.note(Error::Damaged(Box::new(d.clone()))));
    match done {
        Ok((stats, sum)) => {
            report.states += 1;
            report.pages_proven += stats.pages_proven;
            report.pages_unproven += stats.pages_unproven;
            Ok(Some(sum))
        }
        Err(e) => report.found(Err(e)).map(|()| None),
    }
}

fn run(past: &mut PastState, meter: &mut Meter<'_>) -> Result<(RunStats, u128)> {
    loop {
        let (stage, begun, before) = (meter.stage, meter.done, meter.total);
        let mut seen = (0, 0);
        let report = &mut meter.report;
        let mut progress = |p: Progress| {
            seen = (p.bytes_done, p.bytes_total);
            let (bytes_done, bytes_total) =
                (begun + p.bytes_done, before.max(begun + p.bytes_total));
            report(VerifyProgress { stage, bytes_done, bytes_total });
        };
        let digest = Digest::new(&past.state().spaces);
        let done =
            past.layout().and_then(|layout| past.fill(&layout, &digest, Some(&mut progress)));
        meter.done += seen.0;
        meter.total = meter.total.max(meter.done);
        match done {
            Err(Error::Damaged(damage)) => past.without(*damage)?,
            done => {
                let stats = done?;
                // An engine that logs records of its own needs those, too.
                replay_records(past.log(), past.state(), &mut |_| past.options().cancel.check())?;
                return Ok((stats, digest.sum.into_inner()));
            }
        }
    }
}

/// A sink that keeps only a sum over all pages: it is the same for the same state, in whatever
/// order and pieces the pages come.
#[derive(Debug)]
struct Digest {
    sum: Mutex<u128>,
    sizes: BTreeMap<SpaceId, usize>,
}

impl Digest {
    fn new(spaces: &BTreeMap<SpaceId, SpaceState>) -> Digest {
        let sizes = spaces.iter().map(|(id, space)| (*id, space.page_size.bytes())).collect();
        let digest = Digest { sum: Mutex::default(), sizes };
        for (id, space) in spaces {
            digest.add(&[
                b"space",
                &id.get().to_le_bytes(),
                &space.length.to_le_bytes(),
                space.name.as_bytes(),
            ]);
        }
        digest
    }

    fn add(&self, what: &[&[u8]]) {
        let digest = sha256(what);
        let half = digest.first_chunk::<16>().copied().expect("a SHA-256 has 32 bytes");
        let mut sum = self.sum.lock();
        *sum = sum.wrapping_add(u128::from_le_bytes(half));
    }
}

impl PageSink for Digest {
    fn write(&self, space: SpaceId, offset: u64, bytes: &[u8]) -> Result<()> {
        let size = self
            .sizes
            .get(&space)
            .copied()
            .ok_or_else(|| Error::host("a space that was not announced"))?;
        for (page, at) in bytes.chunks(size).zip((offset..).step_by(size)) {
            // A zero page may also come as a range that nothing was ever written to.
            if page.iter().any(|b| *b != 0) {
                self.add(&[b"page", &space.get().to_le_bytes(), &at.to_le_bytes(), page]);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}
