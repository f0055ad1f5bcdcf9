//! The timeline of a node as an SVG picture: commits and bytes over time, the restorable window,
//! restore points, resynchronisations, snapshots and layers.
//!
//! Readable in light and dark; whatever is drawn also says what it is when pointed at.

mod axis;
mod labels;

use std::fmt::Write;

use rewound::{LayerRecord, Timestamp};

use crate::commands::Facts;
use crate::moment::Zone;
use crate::units;
use axis::{Axis, ceiling};

const WIDTH: f64 = 1_040.0;
const LEFT: f64 = 130.0;
/// Names of restore points run into the margin on the right.
const RIGHT: f64 = 890.0;
const STYLE: &str = "\
text{font:12px system-ui,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2937}\
.bg{fill:#fff}.title{font-weight:600;font-size:16px}.dim{fill:#6b7280}.end{text-anchor:end}.mid{text-anchor:middle}\
.grid{stroke:#d1d5db;stroke-width:1}.leader{stroke:#9ca3af;stroke-width:1}.lane{fill:#9ca3af;fill-opacity:.16}\
.commits{fill:#3b82f6}.bytes{fill:#14b8a6}.window{fill:#22a35a}.gap{fill:#ef4444}.point{fill:#a855f7}.resync{fill:#f59e0b}\
.snapshot{fill:#ec4899}.layer{fill:#64748b}.other{fill:#94a3b8}\
@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.bg{fill:#111827}.dim{fill:#9ca3af}.grid{stroke:#374151}.leader{stroke:#6b7280}}";

/// A picture that grows downwards.
struct Picture<'a> {
    svg: String,
    y: f64,
    axis: Axis,
    zone: &'a Zone,
    facts: &'a Facts,
}

/// Draws it.
pub fn draw(facts: &Facts, zone: &Zone) -> String {
    let axis = Axis::new(facts, (LEFT, RIGHT));
    let mut p = Picture { svg: String::new(), y: 0.0, axis, zone, facts };
    p.title();
    let buckets = &facts.activity.buckets;
    let commits: Vec<f64> = buckets.iter().map(|b| b.commits).collect();
    let bytes: Vec<f64> = buckets.iter().map(|b| b.bytes).collect();
    p.panel("commits", "commits", &commits, 100.0, &|v| units::thousands(whole(v)));
    p.panel("log", "bytes", &bytes, 70.0, &|v| units::bytes(whole(v)));
    p.window();
    p.points();
    p.resyncs();
    p.snapshots();
    p.layers();
    p.time_axis();
    p.legend();
    let height = p.y + 14.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>Timeline of node {}</title>\n<style>{STYLE}</style>\n<rect class=\"bg\" width=\"{WIDTH}\" height=\"{height:.0}\"/>\n{}</svg>\n",
        escape(&facts.name),
        p.svg
    )
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded for people")]
fn whole(v: f64) -> u64 {
    v.round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "places in a picture")]
pub fn float(n: usize) -> f64 {
    n as f64
}

/// Names come from people.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Picture<'_> {
    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let _ = writeln!(
            self.svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
            escape(text)
        );
    }

    fn rect(&mut self, class: &str, (x, y): (f64, f64), (w, h): (f64, f64), title: &str) {
        let head = format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\""
        );
        let _ = match title {
            "" => writeln!(self.svg, "{head}/>"),
            _ => writeln!(self.svg, "{head}><title>{}</title></rect>", escape(title)),
        };
    }

    fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ =
            writeln!(self.svg, "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>");
    }

    fn shape(&mut self, class: &str, points: &[(f64, f64)], title: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (points, title) = (points.join(" "), escape(title));
        let _ = writeln!(
            self.svg,
            "<polygon class=\"{class}\" points=\"{points}\"><title>{title}</title></polygon>"
        );
    }

    fn title(&mut self) {
        let facts = self.facts;
        self.text("title", 16.0, 30.0, &format!("node {}", facts.name));
        let said = match &facts.window {
            Ok(w) => format!(
                "restorable from {} to {} ({}): {}{}; log {}, layers {}",
                self.zone.format(w.earliest.timestamp, "%Y-%m-%d %H:%M:%S"),
                self.zone.format(w.known_until, "%Y-%m-%d %H:%M:%S"),
                self.zone.name(w.known_until),
                units::plural(facts.restorable(), "commit"),
                match facts.beyond.as_slice() {
                    [] => "",
                    _ => " with those kept beyond it",
                },
                units::bytes(facts.files.segments.bytes),
                units::bytes(facts.files.parts.bytes + facts.files.layers.bytes),
            ),
            Err(_) => "nothing can be restored yet".to_owned(),
        };
        self.text("dim", 16.0, 50.0, &said);
        self.y = 72.0;
    }

    /// Bars over time, with an axis of their own.
    fn panel(
        &mut self,
        name: &str,
        class: &str,
        values: &[f64],
        height: f64,
        show: &dyn Fn(f64) -> String,
    ) {
        let top = ceiling(values.iter().copied().fold(0.0, f64::max));
        let (y, base) = (self.y, self.y + height);
        for (value, at) in [(Some(top), y), (None, y + height / 2.0), (Some(0.0), base)] {
            self.line("grid", (LEFT, at), (RIGHT, at));
            if let Some(value) = value {
                self.text("dim end", LEFT - 8.0, at + 4.0, &show(value));
            }
        }
        self.text("", 16.0, y + height / 2.0 - 2.0, name);
        let each = self.facts.activity.bucket_length();
        if !each.is_zero() {
            self.text("dim", 16.0, y + height / 2.0 + 13.0, &format!("per {}", units::about(each)));
        }
        let a = &self.facts.activity;
        let (from, to) = (self.axis.x(a.from), self.axis.x(a.to));
        let width = (to - from) / float(values.len());
        for (i, value) in values.iter().enumerate().filter(|(_, v)| **v > 0.0) {
            let (x, drawn) = (from + width * float(i), (height * value / top).max(1.0));
            // Of everything at one moment, still a bar.
            let (x, w) = if width < 0.5 { (x - 3.0, 6.0) } else { (x, (width - 0.6).max(0.6)) };
            self.rect(class, (x, base - drawn), (w, drawn), &show(*value));
        }
        self.y = base + 28.0;
    }

    /// The beginning of a lane: its name and its ground.
    fn lane(&mut self, name: &str, note: &str, height: f64) -> f64 {
        let y = self.y;
        self.rect("lane", (LEFT, y), (RIGHT - LEFT, height), "");
        self.text("", 16.0, y + height / 2.0 + 4.0, name);
        if !note.is_empty() {
            // Marks at the very beginning reach into the margin.
            self.text("dim end", LEFT - 12.0, y + height / 2.0 + 4.0, note);
        }
        self.y += height + 10.0;
        y
    }

    fn window(&mut self) {
        let y = self.lane("restorable", "", 18.0);
        let facts = self.facts;
        let Ok(w) = &facts.window else { return };
        let (from, to) = (self.axis.x(w.earliest.timestamp), self.axis.x(w.known_until));
        let said = format!("LSN {} to {}", w.earliest.lsn, w.latest.lsn);
        self.rect("window", (from, y), ((to - from).max(3.0), 18.0), &said);
        for kept in &facts.beyond {
            let (a, b) = (self.axis.x(kept.from.timestamp), self.axis.x(kept.to.timestamp));
            let lsns = if kept.from.lsn == kept.to.lsn {
                String::new()
            } else {
                format!(" to {}", kept.to.lsn)
            };
            let said = format!("LSN {}{lsns}, kept beyond the window", kept.from.lsn);
            self.rect("window", (a, y), ((b - a).max(3.0), 18.0), &said);
        }
        for gap in facts.activity.gaps.iter().filter(|g| g.to > Timestamp::ZERO) {
            let (a, b) = (self.axis.x(gap.from.max(w.earliest.timestamp)), self.axis.x(gap.to));
            let said =
                format!("segments are missing after LSN {} up to LSN {}", gap.after, gap.until);
            self.rect("gap", (a, y), ((b - a).max(3.0), 18.0), &said);
        }
    }

    fn points(&mut self) {
        let facts = self.facts;
        if facts.points.is_empty() {
            return;
        }
        let y = self.lane("points", &units::thousands(facts.points.len() as u64), 14.0);
        let places: Vec<(f64, String)> = facts
            .points
            .iter()
            .map(|(name, commit)| (self.axis.x(commit.timestamp), labels::shorten(name)))
            .collect();
        let rows = labels::rows(&places);
        for (((name, commit), (x, label)), row) in facts.points.iter().zip(&places).zip(&rows) {
            let said =
                format!("{name}: LSN {} of {}", commit.lsn, self.zone.show(commit.timestamp));
            self.shape("point", &[(x - 5.0, y + 2.0), (x + 5.0, y + 2.0), (*x, y + 12.0)], &said);
            if let Some(row) = row {
                let below = y + 14.0 + labels::ROW * (float(*row) + 1.0);
                self.line("leader", (*x, y + 14.0), (*x, below - 4.0));
                self.text("", x + 3.0, below - 2.0, label);
            }
        }
        let used = rows.iter().flatten().max().map_or(0.0, |row| float(*row) + 1.0);
        self.y += used * labels::ROW;
        let hidden = rows.iter().filter(|r| r.is_none()).count();
        if hidden > 0 {
            self.text("dim", 16.0, y + 28.0, &format!("{hidden} not named"));
        }
    }

    fn resyncs(&mut self) {
        let facts = self.facts;
        let count = facts.resyncs().count();
        if count == 0 {
            return;
        }
        let y = self.lane("resyncs", &units::thousands(count as u64), 14.0);
        for r in facts.resyncs() {
            let x = self.axis.x(r.commit.timestamp);
            let said = format!(
                "LSN {} of {}: {}",
                r.commit.lsn,
                self.zone.show(r.commit.timestamp),
                r.text
            );
            self.shape("resync", &[(x - 5.0, y + 12.0), (x + 5.0, y + 12.0), (x, y + 2.0)], &said);
        }
    }

    fn snapshots(&mut self) {
        let facts = self.facts;
        let snapshots: Vec<&LayerRecord> =
            facts.layers.iter().filter(|l| l.from.is_none()).collect();
        let y = self.lane("snapshots", &units::thousands(snapshots.len() as u64), 14.0);
        for s in snapshots {
            let x = self.axis.x(s.timestamp);
            let said = format!(
                "snapshot of LSN {}: {}, {}",
                s.to,
                units::plural(s.entries, "page"),
                units::bytes(s.bytes)
            );
            self.shape(
                "snapshot",
                &[(x, y + 1.0), (x + 6.0, y + 7.0), (x, y + 13.0), (x - 6.0, y + 7.0)],
                &said,
            );
        }
    }

    fn layers(&mut self) {
        let facts = self.facts;
        let deltas = || facts.layers.iter().filter_map(|l| Some((l.from?, l)));
        let Some(highest) = deltas().map(|(_, l)| l.level).max() else { return };
        for level in (0..=highest).rev() {
            let of_level: Vec<_> = deltas().filter(|(_, l)| l.level == level).collect();
            if of_level.is_empty() {
                continue;
            }
            let y = self.lane(&format!("layers, level {level}"), "", 12.0);
            self.y -= 4.0;
            for (i, (from, l)) in of_level.iter().enumerate() {
                let (a, b) =
                    (self.axis.x(self.axis.time_of(facts, *from)), self.axis.x(l.timestamp));
                let class = if i % 2 == 0 { "layer" } else { "other" };
                let said = format!(
                    "LSN {from} to {}: {}, {}",
                    l.to,
                    units::plural(l.entries, "page"),
                    units::bytes(l.bytes)
                );
                self.rect(class, (a, y), ((b - a).max(1.0), 12.0), &said);
            }
        }
        self.y += 4.0;
    }

    fn time_axis(&mut self) {
        let y = self.y;
        self.line("grid", (LEFT, y), (RIGHT, y));
        for tick in self.axis.ticks(self.zone) {
            self.line("leader", (tick.x, y), (tick.x, y + 5.0));
            self.text("mid", tick.x, y + 19.0, &tick.label);
            self.text("dim mid", tick.x, y + 34.0, &tick.below);
        }
        self.text("dim", 16.0, y + 19.0, "time");
        self.y = y + 56.0;
    }

    fn legend(&mut self) {
        let facts = self.facts;
        let layer = |snapshot| facts.layers.iter().any(|l| l.from.is_none() == snapshot);
        let entries = [
            ("commits", "commits", true),
            ("bytes", "bytes of log", true),
            ("window", "restorable", true),
            ("gap", "gap", !facts.activity.gaps.is_empty()),
            ("point", "restore point", !facts.points.is_empty()),
            ("resync", "resync", facts.resyncs().next().is_some()),
            ("snapshot", "snapshot", layer(true)),
            ("layer", "layer", layer(false)),
        ];
        let (mut x, y) = (16.0, self.y);
        for (class, name, _) in entries.into_iter().filter(|(_, _, there)| *there) {
            self.rect(class, (x, y - 9.0), (10.0, 10.0), "");
            self.text("", x + 15.0, y, name);
            x += 15.0 + labels::width(name) + 22.0;
        }
        self.y = y + 6.0;
    }
}
