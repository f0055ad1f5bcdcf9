//! Signals, and what is decrypted while they come.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::estate::{Estate, Run, SECOND, Shop, commits};
use crate::live::{database, latest, wait};

/// Runs for ever, and can be interrupted.
const ENDLESS: &str =
    "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
/// Runs for ever within one function, which SQLite does not interrupt.
const STUBBORN: &str = "SELECT instr(zeroblob(8000000), CAST(zeroblob(4000000) || x'01' AS BLOB))";

fn send(child: &Child, signal: i32) {
    let signal = if signal < 32 {
        kill_process(Pid::from_child(child), Signal::from_named_raw(signal).unwrap())
    } else {
        // No name, so not by the library.
        let status =
            Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(status.unwrap().success());
        Ok(())
    };
    signal.unwrap();
}

fn end(mut child: Child) -> Run {
    wait("the command ends", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn listed(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// A place for temporary files of its own, and a bisect that asks a query for ever.
struct Bisecting {
    estate: Estate,
    tmp: PathBuf,
}

impl Bisecting {
    fn new() -> Bisecting {
        let estate = Estate::new();
        Shop::stock(&estate);
        let tmp = estate.path("tmp");
        std::fs::create_dir(&tmp).unwrap();
        Bisecting { estate, tmp }
    }

    /// Begun, and asking.
    fn ask(&self, sql: &str) -> Child {
        let before = listed(&self.tmp);
        let mut command = self.estate.command(&["bisect", "--quiet", "--sql", sql]);
        command.env("TMPDIR", &self.tmp).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let asked = |dir: &PathBuf| {
            dir.join("app.db").exists() && !dir.join(".rewound-incomplete").exists()
        };
        wait("the query begins", || {
            listed(&self.tmp).iter().any(|dir| !before.contains(dir) && asked(dir))
        });
        std::thread::sleep(Duration::from_millis(100));
        child
    }
}

#[test]
fn every_signal_that_ends_a_program_leaves_no_plaintext() {
    let bisecting = Bisecting::new();
    // HUP, INT, QUIT, USR1, USR2, ALRM, TERM, STKFLT, XCPU, VTALRM, PROF, IO, PWR, and real-time
    // ones.
    for signal in [1, 2, 3, 10, 12, 14, 15, 16, 24, 26, 27, 29, 30, 34, 50, 64] {
        let child = bisecting.ask(ENDLESS);
        let dirs = listed(&bisecting.tmp);
        assert_eq!(dirs.len(), 1, "{signal}");
        assert_eq!(mode(&dirs[0]), 0o700, "{signal}");
        send(&child, signal);
        let ended = end(child);
        assert_eq!((ended.code, listed(&bisecting.tmp)), (130, vec![]), "{signal}: {ended:?}");
        assert!(ended.err.contains("interrupted: nothing was left behind"), "{signal}: {ended:?}");
    }
}

#[test]
fn a_second_request_ends_at_once_and_leaves_no_plaintext() {
    let bisecting = Bisecting::new();
    for (first, second) in [(2, 2), (15, 15), (2, 15)] {
        let mut child = bisecting.ask(STUBBORN);
        send(&child, first);
        std::thread::sleep(Duration::from_millis(300));
        // It would be at it for hours; what is no request does not make it more urgent.
        send(&child, 1);
        std::thread::sleep(Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none());
        send(&child, second);
        let ended = end(child);
        assert_eq!((ended.code, listed(&bisecting.tmp)), (130, vec![]), "{ended:?}");
    }
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_start_and_what_is_in_use_stays() {
    let bisecting = Bisecting::new();
    let mut killed = bisecting.ask(ENDLESS);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = listed(&bisecting.tmp);
    assert_eq!(left.len(), 1);
    let alive = bisecting.ask(ENDLESS);
    let in_use = listed(&bisecting.tmp);
    assert!(in_use.len() == 1 && in_use != left, "{left:?} {in_use:?}");
    // What only looks like it: a link to somewhere else, a file.
    let elsewhere = bisecting.estate.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("kept"), b"kept").unwrap();
    std::os::unix::fs::symlink(&elsewhere, bisecting.tmp.join("rewound-plain-link")).unwrap();
    let mut any = bisecting.estate.command(&["info"]);
    any.env("TMPDIR", &bisecting.tmp);
    assert_eq!(Run::of(any).code, 0);
    assert!(in_use[0].join("app.db").exists() && elsewhere.join("kept").exists());
    send(&alive, 15);
    assert_eq!(end(alive).code, 130);
    assert!(!in_use[0].exists());
}

#[test]
fn a_umask_changes_nothing_about_temporary_files() {
    let bisecting = Bisecting::new();
    for umask in ["000", "777"] {
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let bisect = ["bisect", "--sql", "SELECT count(*) > 12 FROM orders"];
        let mut command = bisecting.estate.in_shell(&script, &bisect);
        command.env("TMPDIR", &bisecting.tmp);
        let run = Run::of(command);
        assert!(run.code == 0 && run.out.contains("changed by LSN 14"), "{umask}: {run:?}");
        assert!(listed(&bisecting.tmp).is_empty());
    }
}

#[test]
fn a_hangup_ends_a_watcher_cleanly_unless_it_is_ignored() {
    let estate = Estate::new();
    let connection = database(&estate);
    let mut command = estate.command(&["watch", "live.db"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("the first copy", || latest(&estate) >= 1);
    send(&child, 1);
    let ended = end(child);
    assert!(ended.code == 0 && ended.err.contains("stopped at LSN"), "{ended:?}");

    let mut command = estate.in_shell("trap '' HUP; exec \"$0\" \"$@\"", &["watch", "live.db"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let before = latest(&estate);
    connection.execute("INSERT INTO t VALUES (1)", []).unwrap();
    wait("a transaction", || latest(&estate) > before);
    send(&child, 1);
    let before = latest(&estate);
    connection.execute("INSERT INTO t VALUES (2)", []).unwrap();
    wait("another transaction", || latest(&estate) > before);
    assert!(child.try_wait().unwrap().is_none());
    send(&child, 15);
    let ended = end(child);
    assert!(ended.code == 0 && ended.err.contains("stopped at LSN"), "{ended:?}");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_end() {
    let estate = Estate::new();
    let (_, writer) = estate.writer("app.db");
    commits(&estate, &writer, 200, SECOND, |n, batch| {
        if let Some(space) = writer.space("main") {
            batch.write_page(rewound::PageId::new(space, n * 20), &[7; 512], None).unwrap();
        }
    });
    writer.close().unwrap();
    std::fs::create_dir(estate.path("out")).unwrap();
    let command =
        estate.in_shell("ulimit -f 1000; exec \"$0\" \"$@\"", &["restore", "-o", "out/app.db"]);
    let run = Run::of(command);
    assert!(run.code == 1 && run.err.contains("File too large"), "{run:?}");
    assert_eq!(listed(&estate.path("out")), Vec::<PathBuf>::new());
}
