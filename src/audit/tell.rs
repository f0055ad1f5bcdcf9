//! Events in words, and as JSON. Pure.

use std::fmt::{self, Write};
use std::time::Duration;

use super::AuditEntry;
use super::attestation::hex;
use crate::format::event::{Event, Origin};
use crate::format::retention::{Deletion, HoldScope, Mode, Policy};
use crate::types::{NodeId, TimelineId};

/// A detail of an event.
pub(super) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Number(n) => n.fmt(f),
            Value::Flag(b) => b.fmt(f),
        }
    }
}

type Details = Vec<(&'static str, Value)>;

fn text(value: impl fmt::Display) -> Value {
    Value::Text(value.to_string())
}

fn node(id: NodeId) -> (&'static str, Value) {
    ("node", Value::Number(u64::from(id.get())))
}

fn timeline(id: TimelineId) -> (&'static str, Value) {
    ("timeline", Value::Number(u64::from(id.get())))
}

/// The node; nothing for the archive.
fn scope(id: Option<NodeId>) -> Details {
    id.map(node).into_iter().collect()
}

fn seconds(time: Duration) -> Value {
    Value::Number(time.as_secs())
}

fn policy(policy: &Policy, details: &mut Details) {
    match policy.mode {
        Mode::Continuous { window } => {
            details.extend([("mode", text("continuous")), ("window_seconds", seconds(window))]);
        }
        Mode::Periodic { every, keep_for, keep_count, log_for } => details.extend([
            ("mode", text("periodic")),
            ("every_seconds", seconds(every)),
            ("keep_seconds", seconds(keep_for)),
            ("keep_count", Value::Number(u64::from(keep_count))),
            ("log_seconds", seconds(log_for)),
        ]),
    }
    details.extend([
        ("restore_points_seconds", seconds(policy.restore_points_for)),
        ("grace_seconds", seconds(policy.grace)),
    ]);
}

/// The name of an event, and its details.
pub(super) fn tell(event: &Event) -> (&'static str, Details) {
    match event {
        Event::ArchiveCreated { key, recipients } => {
            let recipients: Vec<String> = recipients.iter().map(ToString::to_string).collect();
            (
                "archive-created",
                vec![("key", text(key)), ("recipients", text(recipients.join(" ")))],
            )
        }
        Event::NodeCreated { node: id, name, origin } => {
            let origin = if *origin == Origin::Empty { "empty" } else { "existing" };
            ("node-created", vec![node(*id), ("name", text(name)), ("origin", text(origin))])
        }
        Event::WriterOpened { node: id, timeline: t, epoch, position } => (
            "writer-opened",
            vec![
                node(*id),
                timeline(*t),
                ("epoch", Value::Number(epoch.get())),
                ("lsn", Value::Number(position.get())),
            ],
        ),
        Event::LayerPublished(layer) => {
            let mut details =
                vec![node(layer.node), timeline(layer.timeline), ("file", text(layer.file))];
            details.extend(layer.from.map(|from| ("from_lsn", Value::Number(from.get()))));
            details.extend([
                ("lsn", Value::Number(layer.to.get())),
                ("bytes", Value::Number(layer.bytes)),
            ]);
            (if layer.from.is_none() { "snapshot-published" } else { "layer-published" }, details)
        }
        Event::RestorePoint { node: id, timeline: t, name, position, timestamp } => (
            "restore-point",
            vec![
                node(*id),
                timeline(*t),
                ("name", text(name)),
                ("lsn", Value::Number(position.get())),
                ("timestamp", text(timestamp)),
            ],
        ),
        Event::TimelineCreated { node: id, timeline: t, parent, fork } => (
            "timeline-created",
            vec![
                node(*id),
                timeline(*t),
                ("parent", text(parent)),
                ("fork_lsn", Value::Number(fork.get())),
            ],
        ),
        other => tell_retention(other),
    }
}

fn tell_retention(event: &Event) -> (&'static str, Details) {
    match event {
        Event::RetentionChanged { node: id, policy: p, covers } => {
            let mut details = scope(*id);
            policy(p, &mut details);
            details.push(("before_promised_up_to", text(covers)));
            ("retention-changed", details)
        }
        Event::LockPlaced { node: id, name } => ("lock-placed", named(scope(*id), name)),
        Event::LockReleased { node: id, name } => ("lock-released", named(scope(*id), name)),
        Event::HoldPlaced { name, scope: on, until } => {
            let mut details = match on {
                HoldScope::Archive => Vec::new(),
                HoldScope::Node { node: id } => vec![node(*id)],
                HoldScope::Commits { node: id, timeline: t, from, to } => {
                    let mut details =
                        vec![node(*id), timeline(*t), ("from_lsn", Value::Number(from.get()))];
                    details.extend(to.map(|to| ("to_lsn", Value::Number(to.get()))));
                    details
                }
            };
            details.extend(until.map(|until| ("until", text(until))));
            ("hold-placed", named(details, name))
        }
        Event::HoldReleased { name } => ("hold-released", named(Vec::new(), name)),
        Event::FilesExpired { node: id, clock, timelines, files, grace, last } => {
            let segments: u64 =
                timelines.iter().flat_map(|t| &t.segments).fold(0, |sum: u64, (a, b)| {
                    sum.saturating_add(b.saturating_sub(*a).saturating_add(1))
                });
            let earliest =
                timelines.iter().filter_map(|t| t.kept.last()).map(|s| s.from.get()).max();
            let mut details =
                vec![node(*id), ("clock", text(clock)), ("segments", Value::Number(segments))];
            details.extend(earliest.map(|lsn| ("window_from_lsn", Value::Number(lsn))));
            details.extend([
                ("layers", Value::Number(files.layers.len() as u64)),
                ("parts", Value::Number(files.parts.len() as u64)),
                ("grace_seconds", Value::Number(grace / 1_000_000_000)),
                ("last", Value::Flag(*last)),
            ]);
            ("files-expired", details)
        }
        Event::FilesRemoved { node: id, entry, files, bytes } => (
            "files-removed",
            vec![
                node(*id),
                ("entry", Value::Number(*entry)),
                ("files", Value::Number(*files)),
                ("bytes", Value::Number(*bytes)),
            ],
        ),
        Event::DeletionChanged { node: id, deletion } => {
            let mut details = scope(*id);
            match deletion {
                Deletion::Until(until) => {
                    details.push(("can_be_undone_until", text(until)));
                    ("deleted", details)
                }
                _ => ("undeleted", details),
            }
        }
        Event::ClockObserved { clock, archived, confirmed } => (
            if *confirmed { "clock-confirmed" } else { "clock-observed" },
            vec![("clock", text(clock)), ("newest_archived", text(archived))],
        ),
        Event::RestoreStarted { restore, node: id, position, target, destination } => (
            "restore-started",
            vec![
                ("restore", text(restore)),
                node(*id),
                ("lsn", Value::Number(position.get())),
                ("target", text(target)),
                ("destination", text(destination)),
            ],
        ),
        Event::RestoreFinished { restore, bytes, error } => {
            let mut details = vec![("restore", text(restore)), ("bytes", Value::Number(*bytes))];
            details.push(("ok", Value::Flag(error.is_none())));
            details.extend(error.as_ref().map(|e| ("error", text(e))));
            ("restore-finished", details)
        }
        // The caller handles these.
        _ => ("event", Vec::new()),
    }
}

fn named(mut details: Details, name: &str) -> Details {
    details.push(("name", text(name)));
    details
}

/// A line of JSON (RFC 8259).
pub(super) fn json(entry: &AuditEntry, kind: &str, details: &[(&'static str, Value)]) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "{{\"sequence\":{},\"time\":\"{}\",\"digest\":\"{}\"",
        entry.sequence,
        entry.time,
        hex(&entry.digest)
    );
    for (name, value) in [("actor", &entry.actor.name), ("reason", &entry.actor.reason)] {
        let _ = write!(out, ",\"{name}\":");
        string(&mut out, value);
    }
    let _ = write!(out, ",\"event\":\"{kind}\"");
    for (name, value) in details {
        let _ = write!(out, ",\"{name}\":");
        match value {
            Value::Text(text) => string(&mut out, text),
            // Beyond 2^53 many readers lose digits; no number here gets that large.
            other => {
                let _ = write!(out, "{other}");
            }
        }
    }
    out.push('}');
    out
}

/// A JSON string. Quotes, backslashes and control characters are escaped; all else is unchanged.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                // Control characters beyond ASCII, too: some readers take them for line ends.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        string(&mut out, "a\"b\\c\nd\u{7}é\u{2028}😀");
        assert_eq!(out, "\"a\\\"b\\\\c\\u000ad\\u0007é\\u2028😀\"");
    }
}
