//! Forks, for tests.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether this is the child; the parent gets its number.
#[expect(unsafe_code, reason = "there is no safe way to fork, and it is the fork that is tested")]
pub fn fork() -> Option<i32> {
    // SAFETY: the child allocates and reads and writes files, which glibc and the kernel allow
    // after a fork, and ends with `leave`.
    match unsafe { libc::fork() } {
        -1 => panic!("no fork: {}", std::io::Error::last_os_error()),
        0 => None,
        child => Some(child),
    }
}

/// Ends a child without the parent's handlers.
#[expect(unsafe_code, reason = "what the test harness has set up must not run twice")]
pub fn leave(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Waits for a child to end well.
#[expect(unsafe_code, reason = "the counterpart of the fork")]
pub fn wait(child: i32, said: &Path) {
    let begun = Instant::now();
    let mut status = 0;
    // SAFETY: `child` is a child that nobody else waits for.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the child hangs");
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = std::fs::read_to_string(said).unwrap_or_default();
    assert!(status == 0, "the child ended with {status}: {text}");
}

/// Runs something in a child and waits for its end.
pub fn in_child(dir: &Path, f: impl FnOnce()) {
    let said = dir.join("child");
    match fork() {
        Some(child) => wait(child, &said),
        None => end(&said, catch_unwind(AssertUnwindSafe(f))),
    }
}

pub fn end(said: &Path, done: Result<(), Box<dyn Any + Send>>) -> ! {
    let Err(panic) = done else { leave(0) };
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
    let _ = std::fs::write(said, text);
    leave(1)
}
