//! What cannot be written: a message ends nothing, a result that nobody gets is a failure, and
//! neither is a panic.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::estate::{Estate, Run, Shop, orders};
use crate::live::{database, insert, latest, wait};

/// A command with its descriptors redirected as a shell does it.
fn redirected(estate: &Estate, args: &[&str], to: &str) -> Command {
    estate.in_shell(&format!("exec \"$0\" \"$@\" {to}"), args)
}

/// What every command is about: a result on standard output, or something that is done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Result,
    Deed,
}

/// Every command that ends by itself, in an order in which each succeeds.
const COMMANDS: &[(Is, &[&str])] = &[
    (Is::Result, &["--help"]),
    (Is::Result, &["--version"]),
    (Is::Result, &["restore", "--help"]),
    (Is::Result, &["completions", "bash"]),
    (Is::Result, &["man"]),
    (Is::Deed, &["man", "--dir", "."]),
    (Is::Deed, &["key", "generate", "new.key"]),
    (Is::Deed, &["init", "new"]),
    (Is::Deed, &["backup", "live.db", "--node", "live"]),
    (Is::Deed, &["backup", "live.db", "--node", "live", "--quiet"]),
    (Is::Deed, &["restore", "--node", "app.db", "-o", "out.db"]),
    (Is::Deed, &["restore", "--node", "app.db", "-o", "app.db", "--delta", "--unaudited"]),
    (Is::Result, &["log", "--node", "app.db"]),
    (Is::Result, &["log", "--node", "app.db", "--json"]),
    (Is::Result, &["info"]),
    (Is::Result, &["info", "--json"]),
    (Is::Result, &["info", "--node", "app.db", "--svg", "picture.svg"]),
    (Is::Deed, &["point", "--node", "app.db", "named"]),
    (Is::Result, &["verify"]),
    (Is::Result, &["verify", "--without-key", "--json"]),
    (Is::Result, &["plan", "--node", "app.db"]),
    (Is::Result, &["diff", "--node", "app.db", "lsn:1"]),
    (Is::Result, &["bisect", "--node", "app.db", "--sql", "SELECT count(*) FROM orders"]),
    (Is::Result, &["retention"]),
    (Is::Deed, &["retention", "set", "--keep", "30d"]),
    (Is::Result, &["sweep", "--dry-run"]),
    (Is::Deed, &["sweep"]),
    (Is::Result, &["audit"]),
    (Is::Result, &["audit", "--json"]),
    (Is::Result, &["audit", "--verify"]),
    (Is::Result, &["audit", "--attest"]),
    (Is::Deed, &["hold", "case", "--reason", "a test"]),
    (Is::Deed, &["release", "case"]),
    (Is::Deed, &["lock", "locked"]),
    (Is::Deed, &["unlock", "locked"]),
    (Is::Deed, &["delete-node", "live"]),
    (Is::Deed, &["undelete", "live"]),
];

fn estate() -> Estate {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    drop(database(&estate));
    estate
}

#[test]
fn no_command_ends_for_a_message_that_cannot_be_written() {
    for to in ["2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2</dev/null"] {
        let estate = estate();
        for (_, args) in COMMANDS {
            let run = Run::of(redirected(&estate, args, to));
            assert_eq!(run.code, 0, "{to} {args:?}: {run:?}");
        }
        assert_eq!(orders(&estate.path("out.db")), 30, "{to}");
        // And what fails does so with its own code.
        for (code, args) in [
            (2, &["frobnicate"][..]),
            (1, &["info", "--archive", "nowhere"]),
            (3, &["plan", "--node", "app.db", "--lsn", "99"]),
            (5, &["info", "--key-file", "new.key"]),
        ] {
            assert_eq!(Run::of(redirected(&estate, args, to)).code, code, "{to} {args:?}");
        }
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_and_a_deed_stays_done() {
    let estate = estate();
    for (is, args) in COMMANDS {
        let run = Run::of(redirected(&estate, args, ">/dev/full"));
        let (code, words) = match is {
            Is::Result => (1, "writing to standard output: No space left on device"),
            Is::Deed => (0, ""),
        };
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        assert!(run.err.contains(words) && !run.err.contains("panicked"), "{args:?}: {run:?}");
    }
    assert_eq!(orders(&estate.path("out.db")), 30);
    // A document that was asked for is a result, whatever was done.
    for args in [&["point", "--node", "app.db", "again", "--json"][..], &["sweep", "--json"]] {
        let run = Run::of(redirected(&estate, args, ">/dev/full"));
        assert!(
            run.code == 1 && run.err.contains("writing to standard output"),
            "{args:?}: {run:?}"
        );
    }
}

#[test]
fn damage_is_told_by_the_exit_code_whoever_reads_the_list() {
    let estate = estate();
    let node =
        std::fs::read_dir(estate.path("archive/nodes")).unwrap().next().unwrap().unwrap().path();
    let mut found = Vec::new();
    let mut look = vec![node];
    while let Some(dir) = look.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { look.push(path) } else { found.push(path) }
        }
    }
    let log = found.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(log, mode).unwrap();
    std::fs::write(log, bytes).unwrap();
    assert_eq!(estate.run(&["verify"]).code, 4);
    assert_eq!(Run::of(redirected(&estate, &["verify"], ">/dev/full")).code, 4);
    assert_eq!(Run::of(redirected(&estate, &["verify"], "2>/dev/full")).code, 4);
    let mut command = estate.command(&["verify"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(4));
}

fn terminate(child: &mut Child) -> i32 {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    wait("the watcher stops", || child.try_wait().unwrap().is_some());
    child.wait().unwrap().code().unwrap_or(-1)
}

#[test]
fn a_watcher_goes_on_without_its_messages() {
    for to in ["2>/dev/full", "2>&-", ">&- 2>&-"] {
        let estate = Estate::new();
        let connection = database(&estate);
        let mut child =
            redirected(&estate, &["watch", "live.db", "--maintain", "1"], to).spawn().unwrap();
        wait("the first copy", || latest(&estate) >= 1);
        let before = latest(&estate);
        (0..20).for_each(|n| insert(&connection, n));
        wait("twenty transactions", || latest(&estate) >= before + 20);
        assert_eq!(terminate(&mut child), 0, "{to}");
    }
}

#[test]
fn a_reader_of_messages_that_does_not_read_holds_up_nothing() {
    let estate = Estate::new();
    let connection = database(&estate);
    // A pipe that is full already, and that nobody empties.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let full = vec![b'.'; 4096];
    let mut filled = 0;
    while let Ok(written) = rustix::io::write(&writer, &full) {
        filled += written;
    }
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    let mut command = estate.command(&["watch", "live.db"]);
    let mut child = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    drop(command);
    wait("the first copy", || latest(&estate) >= 1);
    let before = latest(&estate);
    (0..20).for_each(|n| insert(&connection, n));
    wait("twenty transactions", || latest(&estate) >= before + 20);
    let begun = Instant::now();
    assert_eq!(terminate(&mut child), 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), filled);
}
