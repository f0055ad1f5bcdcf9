//! In a terminal: progress bars, colours, a passphrase at the prompt. The terminal is `script`'s,
//! of util-linux.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::estate::{Estate, SECOND, Shop, commits};

/// Runs a command line in a pseudo-terminal; gives all that the terminal showed, and the exit code.
fn in_terminal(
    estate: &Estate,
    environment: &[(&str, &str)],
    line: &str,
    typed: &[&str],
) -> (String, i32) {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--log-out", "/dev/null", "--command"]);
    command.arg(format!("stty cols 100; {} {line}", env!("CARGO_BIN_EXE_rewound")));
    command.current_dir(estate.dir.path()).env("TERM", "xterm-256color").env("TZ", "UTC");
    command.env("REWOUND_ARCHIVE", "archive").env_remove("NO_COLOR").env_remove("REWOUND_KEY_FILE");
    command.envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("`script` of util-linux is needed for this test");
    let mut input = child.stdin.take().unwrap();
    for text in typed {
        // Somebody who types comes after the prompt, which throws away what came before.
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        input.write_all(format!("{text}\n").as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    drop(input);
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

#[test]
fn a_signal_ends_a_prompt_and_gives_the_terminal_back() {
    let estate = Estate::new();
    let (shown, code) =
        in_terminal(&estate, &[], "init new; code=$?; stty -a; exit $code", &["\x03"]);
    assert!(code == 130 && shown.contains(" echo ") && !shown.contains("-echo "), "{code} {shown}");
    assert!(!estate.path("new").exists());
}

const KEY: (&str, &str) = ("REWOUND_KEY_FILE", "app.key");

#[test]
fn long_work_shows_how_far_it_is_and_a_pipe_sees_nothing_of_it() {
    let estate = Estate::new();
    let (_, writer) = estate.writer("app.db");
    commits(&estate, &writer, 2_000, SECOND, |n, batch| {
        let space = writer.space("main");
        for page in 0..20 {
            if let Some(space) = space {
                batch
                    .write_page(
                        rewound::PageId::new(space, n * 20 + page),
                        &[n.to_le_bytes()[0]; 512],
                        None,
                    )
                    .unwrap();
            }
        }
    });
    writer.close().unwrap();
    let (shown, code) = in_terminal(&estate, &[KEY], "restore -o out.db", &[]);
    assert!(
        code == 0
            && shown.contains("restoring")
            && shown.contains("20.48 MB")
            && shown.contains("restored"),
        "{shown}"
    );
    let (shown, _) = in_terminal(&estate, &[KEY], "verify", &[]);
    assert!(shown.contains("files ") && shown.contains("intact"), "{shown}");
    let (shown, _) = in_terminal(&estate, &[KEY], "--quiet restore -o quiet.db", &[]);
    assert!(!shown.contains("restoring"), "{shown}");
    let piped = estate.run(&["restore", "-o", "piped.db"]);
    assert!(piped.err.is_empty(), "{piped:?}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let estate = Estate::new();
    Shop::stock(&estate);
    let (shown, _) = in_terminal(&estate, &[KEY], "info", &[]);
    assert!(shown.contains("\x1b[1m"), "{shown}");
    let (shown, _) = in_terminal(&estate, &[KEY, ("NO_COLOR", "1")], "info", &[]);
    assert!(!shown.contains('\x1b'), "{shown}");
    let (shown, code) = in_terminal(&estate, &[KEY], "restore --lsn 99 -o x", &[]);
    assert!(code == 3 && shown.contains("\x1b[1m\x1b[31merror:"), "{code} {shown}");
}

#[test]
fn a_passphrase_is_asked_for_and_never_shown() {
    let estate = Estate::new();
    let words = "correct horse battery";
    let (shown, code) = in_terminal(&estate, &[], "init new", &[words, words]);
    assert!(code == 0 && shown.contains("created") && !shown.contains("horse"), "{shown}");
    let (shown, code) = in_terminal(&estate, &[], "-a new info", &[words]);
    assert!(
        code == 0 && shown.contains("passphrase of the archive") && !shown.contains("horse"),
        "{shown}"
    );
    let (shown, code) = in_terminal(&estate, &[], "-a new info", &["wrong horse battery"]);
    assert!(code == 5 && shown.contains("type it again"), "{shown}");
    let (shown, code) = in_terminal(&estate, &[], "init other", &[words, "something else"]);
    assert!(code == 5 && shown.contains("differ"), "{shown}");
    let (shown, code) = in_terminal(&estate, &[], "init short", &["short", "short"]);
    assert!(code == 5 && shown.contains("fewer than 12"), "{shown}");
}
