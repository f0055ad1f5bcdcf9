//! How long history is kept, in words and as JSON.

use std::fmt::Write;

use rewound::{Mode, Policy};
use serde::Serialize;

use crate::units;

/// The policy in force where none was set.
pub const EVERYTHING: &str = "everything, for ever";

/// What a policy keeps.
pub fn words(policy: &Policy) -> String {
    let span = units::span;
    let mut text = match policy.mode {
        Mode::Continuous { window } => format!("every commit of the last {}", span(window)),
        Mode::Periodic { every, keep_for, keep_count, log_for } => {
            let log = if log_for.is_zero() {
                String::new()
            } else {
                format!("every commit of the last {}, ", span(log_for))
            };
            let count = units::plural(u64::from(keep_count), "snapshot");
            format!(
                "{log}a snapshot every {}, each for {} ({count} at least)",
                span(every),
                span(keep_for)
            )
        }
        _ => "what a newer release knows".to_owned(),
    };
    if !policy.restore_points_for.is_zero() {
        let _ = write!(text, ", restore points for {}", span(policy.restore_points_for));
    }
    text
}

/// In the audit trail's names.
#[derive(Serialize)]
pub struct PolicyInfo {
    mode: &'static str,
    window_seconds: Option<u64>,
    every_seconds: Option<u64>,
    keep_seconds: Option<u64>,
    keep_count: Option<u32>,
    log_seconds: Option<u64>,
    restore_points_seconds: u64,
    grace_seconds: u64,
}

impl PolicyInfo {
    pub fn of(policy: &Policy) -> PolicyInfo {
        let mut info = PolicyInfo {
            mode: "unknown",
            window_seconds: None,
            every_seconds: None,
            keep_seconds: None,
            keep_count: None,
            log_seconds: None,
            restore_points_seconds: policy.restore_points_for.as_secs(),
            grace_seconds: policy.grace.as_secs(),
        };
        match policy.mode {
            Mode::Continuous { window } => {
                (info.mode, info.window_seconds) = ("continuous", Some(window.as_secs()));
            }
            Mode::Periodic { every, keep_for, keep_count, log_for } => {
                info.mode = "periodic";
                info.every_seconds = Some(every.as_secs());
                info.keep_seconds = Some(keep_for.as_secs());
                info.keep_count = Some(keep_count);
                info.log_seconds = Some(log_for.as_secs());
            }
            _ => {}
        }
        info
    }
}
