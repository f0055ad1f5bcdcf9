//! Standard output: text with styles that NO_COLOR and pipes take away, or JSON.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::Result;

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub const BAD: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
pub const NOTE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));

/// Standard output; colours are stripped where they are not wanted.
pub fn stdout() -> anstream::AutoStream<std::io::StdoutLock<'static>> {
    anstream::stdout().lock()
}

/// One JSON document.
pub fn json(value: &impl Serialize) -> Result {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// One JSON document on a line of its own.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> Result {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// How many columns there are to draw in.
pub fn width() -> usize {
    let terminal = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).map(|w| usize::from(w.ws_col));
    terminal.ok().filter(|w| *w > 0).unwrap_or(80).clamp(40, 120)
}
