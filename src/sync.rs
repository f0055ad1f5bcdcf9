//! Locks, threads, waiting and clocks: the one place that the library takes them from.
//!
//! Owns nothing but names. Nothing outside of it names `parking_lot`, `std::thread`, channels,
//! `Instant` or `SystemTime`, so that a model checker or a simulation can put its own in their
//! place by changing this file alone. A unit test below holds the library to that.
//!
//! Nothing here is on disk, so a crash leaves nothing.

use std::io;
use std::num::NonZeroUsize;

// No poisoning: a panic is reported where it happened, and what a lock guards says by itself
// whether it may be used on.
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
pub(crate) use std::sync::mpsc;
pub(crate) use std::thread::{JoinHandle, scope, sleep, yield_now};
pub(crate) use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Starts a thread with a name that the system's tools show.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// How many threads can run at a time; one if the system does not tell.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// What only this module may name. In two pieces, so that the list does not find itself.
    const BANNED: [(&str, &str); 7] = [
        ("parking", "_lot"),
        ("std::", "thread"),
        ("time::", "Instant"),
        ("time::", "SystemTime"),
        ("sync::", "mpsc"),
        ("sync::", "Condvar"),
        ("sync::", "Mutex"),
    ];

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    /// Braces of `use` are opened far enough for the paths above: `std::{thread, io}` and
    /// `std::time::{Duration, Instant}` are found as well as the plain form.
    fn is_named(code: &str, (module, item): (&str, &str)) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let ends = |rest: &str| !rest.starts_with(is_word);
        let ours = |at: usize| code.get(..at).is_some_and(|before| before.ends_with("crate::"));
        let plain = format!("{module}{item}");
        let found = code.match_indices(&plain);
        let mut found = found.filter(|(at, name)| ends(&code[at + name.len()..]) && !ours(*at));
        let braced = code.match_indices(&format!("{module}{{")).any(|(at, open)| {
            let list = code[at + open.len()..].split(';').next().unwrap_or_default();
            !ours(at) && list.split(|c: char| !is_word(c)).any(|word| word == item)
        });
        found.next().is_some() || braced
    }

    #[test]
    fn locks_threads_and_clocks_are_named_nowhere_else() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&src, &mut files);
        assert!(files.len() > 50, "the sources are not where this test looks for them");
        let mut offences = Vec::new();
        for path in files {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
            if name == "sync.rs" || name.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let library = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let code = library.lines().filter(|l| !l.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n");
            for banned in BANNED {
                if is_named(&code, banned) {
                    offences.push(format!("{name}: {}{}", banned.0, banned.1));
                }
            }
        }
        assert!(offences.is_empty(), "take these from crate::sync: {offences:#?}");
    }

    #[test]
    fn banned_names_are_found_in_every_form() {
        for code in ["use std::time::Instant;", "use std::time::{Duration, Instant};"] {
            assert!(is_named(code, ("time::", "Instant")), "{code}");
        }
        assert!(is_named("use std::{io, thread};", ("std::", "thread")));
        assert!(is_named("std::thread::sleep(d)", ("std::", "thread")));
        assert!(!is_named("use crate::sync::{Mutex, mpsc};", ("sync::", "Mutex")));
        assert!(!is_named("crate::sync::Mutex::new(())", ("sync::", "Mutex")));
        assert!(!is_named("use std::time::InstantLike;", ("time::", "Instant")));
    }
}
