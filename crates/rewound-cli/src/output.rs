//! What is written: results and reports on standard output, messages on standard error.
//!
//! A result is what a command is run for: if it cannot be written, the command fails. A report and
//! a message only tell of something that was done or goes on: if they cannot be written, nothing
//! fails. Styles go where `NO_COLOR` and pipes do not want them.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Style};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::failure::Result;

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub const BAD: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
pub const NOTE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));

/// How long a message waits for a reader of standard error that does not read, in seconds.
const PATIENCE: i64 = 1;
/// A pipe that takes anything takes so many bytes without blocking.
const PIECE: usize = 4096;

/// What this process has on its standard output is no result: one command runs in it, and gives the
/// one or the other.
static WORDS: AtomicBool = AtomicBool::new(false);

/// Standard output; colours are stripped where they are not wanted.
pub struct Stdout {
    to: anstream::AutoStream<io::StdoutLock<'static>>,
    must: bool,
}

/// Standard output for a result: what cannot be written is a failure.
pub fn stdout() -> Stdout {
    Stdout { to: anstream::stdout().lock(), must: true }
}

/// Standard output for words about what was done: it is done, whether they can be written or not.
pub fn words() -> Stdout {
    WORDS.store(true, Ordering::Relaxed);
    Stdout { must: false, ..stdout() }
}

/// Writes what the buffer of standard output still has.
pub fn finish() -> Result {
    let done = io::stdout().flush();
    if WORDS.load(Ordering::Relaxed) { Ok(()) } else { Ok(done?) }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).or_else(|e| if self.must { Err(e) } else { Ok(bytes.len()) })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush().or_else(|e| if self.must { Err(e) } else { Ok(()) })
    }
}

/// Writes a line on standard error, with the arguments of `format!`. It never fails, and blocks for
/// a second at most.
macro_rules! message {
    ($($arg:tt)*) => { $crate::output::write_message(format_args!($($arg)*)) };
}
pub(crate) use message;

/// See [`message!`].
pub fn write_message(line: fmt::Arguments<'_>) {
    /// Nobody reads: what comes next waits no more.
    static STUCK: AtomicBool = AtomicBool::new(false);
    let mut to = anstream::stderr().lock();
    for piece in format!("{line}\n").as_bytes().chunks(PIECE) {
        let patience = if STUCK.load(Ordering::Relaxed) { 0 } else { PATIENCE };
        let stuck = !accepts(patience);
        STUCK.store(stuck, Ordering::Relaxed);
        // A full device, a closed pipe, a terminal that is gone: what is protected goes on without
        // the message.
        if stuck || to.write_all(piece).is_err() {
            return;
        }
    }
}

/// Whether standard error takes bytes within so many seconds, or fails at once.
fn accepts(seconds: i64) -> bool {
    let stderr = rustix::stdio::stderr();
    let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut asked, Some(&timeout))) != Ok(0)
}

/// One JSON document.
pub fn json(value: &impl Serialize) -> Result {
    let mut out = io::stdout().lock();
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
    let terminal =
        rustix::termios::tcgetwinsize(rustix::stdio::stdout()).map(|w| usize::from(w.ws_col));
    terminal.ok().filter(|w| *w > 0).unwrap_or(80).clamp(40, 120)
}
