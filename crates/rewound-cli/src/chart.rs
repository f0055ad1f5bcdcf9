//! The chart of a node's history, in characters.

use std::io::Write;
use std::time::Duration;

use rewound::Activity;

use crate::failure::Result;
use crate::moment::Zone;
use crate::output::DIM;
use crate::units;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One column a bucket: commits, in eighths of the highest one. A bucket with any commit shows.
fn bars(values: impl Iterator<Item = f64> + Clone) -> String {
    let most = values.clone().fold(0.0, f64::max);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
    let bar = |v: f64| {
        if v > 0.0 { BARS.get(((v / most * 8.0).ceil() as usize).clamp(1, 8) - 1) } else { None }
    };
    values.map(|v| bar(v).copied().unwrap_or(' ')).collect()
}

/// Draws it.
pub fn draw(out: &mut impl Write, a: &Activity, zone: &Zone) -> Result {
    // A single moment is no chart.
    if a.segments == 0 || a.bucket_length() < Duration::from_millis(1) {
        return Ok(());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded for people"
    )]
    let whole = |v: f64| v.round() as u64;
    let most = a.buckets.iter().map(|b| b.commits).fold(0.0, f64::max);
    let bytes = a.buckets.iter().map(|b| b.bytes).fold(0.0, f64::max);
    let width = a.buckets.len();
    writeln!(out)?;
    let each = units::about(a.bucket_length());
    writeln!(
        out,
        "  {DIM}commits over time, at most {} and {} of log in {each}{DIM:#}",
        units::thousands(whole(most)),
        units::bytes(whole(bytes))
    )?;
    writeln!(out, "  {}", bars(a.buckets.iter().map(|b| b.commits)))?;
    writeln!(out, "  {DIM}{}{DIM:#}", "─".repeat(width))?;
    let (first, last) =
        (zone.format(a.from, "%Y-%m-%d %H:%M:%S"), zone.format(a.to, "%Y-%m-%d %H:%M:%S"));
    let gap = width.saturating_sub(first.len() + last.len()).max(1);
    writeln!(out, "  {DIM}{first}{}{last}{DIM:#}", " ".repeat(gap))?;
    Ok(())
}
