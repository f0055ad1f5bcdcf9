//! Signals: the first one asks the command to end, and a second request ends the process at once.
//!
//! Every signal whose default is to end a program is one to end cleanly, but for those that the
//! program's own faults raise (`SIGSEGV`, `SIGABRT` and the like) and `SIGKILL`: what they leave,
//! the next start sweeps. What was ignored from the start, as `nohup` does with `SIGHUP`, stays
//! ignored; `SIGINT` and `SIGTERM` are handled even so, as a script that sends them means them.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;

use crate::failure::{Failure, Result};
use crate::scratch;

/// Requests: a second one is impatience. Others may come in pairs, such as `SIGTERM` and `SIGHUP`
/// when a session ends.
const REQUESTS: [i32; 3] = [SIGINT, SIGQUIT, SIGTERM];
const OTHERS: [i32; 8] = [SIGHUP, SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGXCPU, SIGIO];

/// Somebody who is asked for a passphrase, and the terminal with the mode that it was in before.
struct Prompt(Option<(File, Termios)>);

static PROMPT: Mutex<Option<Prompt>> = Mutex::new(None);

/// Whether a restore may be under way: to end at once leaves what it has begun.
static RESTORING: AtomicBool = AtomicBool::new(false);

/// From now on the command writes to the place of a restore.
pub fn restoring() {
    RESTORING.store(true, Ordering::SeqCst);
}

/// Asks somebody for a passphrase: meanwhile the first signal ends the process, with the terminal
/// as it was.
pub fn at_prompt<T>(ask: impl FnOnce() -> T) -> T {
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
    let terminal =
        terminal.and_then(|terminal| tcgetattr(&terminal).ok().map(|mode| (terminal, mode)));
    *PROMPT.lock() = Some(Prompt(terminal));
    let typed = ask();
    *PROMPT.lock() = None;
    typed
}

/// Of Linux: stack fault, power failure, and the real-time signals that the C library leaves free.
#[cfg(target_os = "linux")]
fn of_the_system() -> impl Iterator<Item = i32> {
    [16, 30].into_iter().chain(34..=64)
}

#[cfg(not(target_os = "linux"))]
fn of_the_system() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

/// Sets `interrupted` with the first signal.
pub fn handle(interrupted: Arc<AtomicBool>) -> Result {
    let failed = |e: std::io::Error| Failure::Other(format!("cannot handle signals: {e}"));
    let ignored = ignored();
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    for signal in [SIGQUIT].into_iter().chain(OTHERS).chain(of_the_system()) {
        if ignored & (1 << (signal - 1)) == 0 {
            // Some C libraries keep one of the real-time signals to themselves.
            let _ = signals.add_signal(signal);
        }
    }
    // A limit on the size of files becomes an error of the write that meets it.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(failed)?;
    let run = move || {
        let mut requests = 0;
        for signal in &mut signals {
            interrupted.store(true, Ordering::SeqCst);
            if let Some(Prompt(terminal)) = PROMPT.lock().take() {
                if let Some((terminal, mode)) = terminal {
                    let _ = tcsetattr(terminal, OptionalActions::Flush, &mode);
                }
                signal_hook::low_level::exit(130);
            }
            requests += u32::from(REQUESTS.contains(&signal));
            if requests > 1 {
                scratch::discard();
                if RESTORING.load(Ordering::SeqCst) {
                    tell_at_once();
                }
                signal_hook::low_level::exit(130);
            }
        }
    };
    std::thread::Builder::new().name("rewound-signals".into()).spawn(run).map_err(failed)?;
    Ok(())
}

/// Says what a restore may have left. Whoever holds standard error is not waited for.
fn tell_at_once() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let text = b"error: ended at once: a restore that was under way may have left a hidden .NAME.rewound-ID, or a journal beside the database that SQLite plays back with its next opening; run it again\n";
    let stderr = rustix::stdio::stderr();
    let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0) {
        let _ = rustix::io::write(stderr, text);
    }
}

/// The signals that whoever started us ignores, one bit each; none where the system does not say.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}
