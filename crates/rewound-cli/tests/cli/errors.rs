//! What goes wrong says what went wrong, what to do next, and exits with the code that the manual
//! names.

use crate::estate::{Estate, Run, Shop, bare};

#[test]
fn every_failure_has_its_words_and_its_code() {
    let estate = Estate::new();
    Shop::stock(&estate);
    estate.ok(&["restore", "-o", "there.db"]);
    std::fs::write(estate.path("new.db-wal"), b"left behind").unwrap();
    std::fs::write(estate.path("text.txt"), "not a database".repeat(100)).unwrap();
    estate.ok(&["key", "generate", "other.key"]);
    std::fs::write(estate.path("open.key"), "REWOUND-KEY-1-").unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        // Usage.
        (&[], 2, "Usage"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
        (&["restore"], 2, "--output"),
        (&["restore", "-o", "x.db", "--lsn", "0"], 2, "numbers from 1 on"),
        (&["restore", "-o", "x.db", "--lsn", "seven"], 2, "invalid value"),
        (&["restore", "-o", "x.db", "--lsn", "1", "--point", "half"], 2, "cannot be used with"),
        (&["restore", "-o", "x.db", "--at", "soon"], 2, "is no moment"),
        (&["restore", "-o", "x.db", "--at", "10 minutes"], 2, "did you mean \"10 minutes ago\"?"),
        (
            &["restore", "-o", "missing-dir/other.db", "--delta"],
            2,
            "a delta restore rewrites app.db",
        ),
        (&["point", "a/b"], 2, "cannot name a restore point"),
        (
            &["bisect", "--sql", "SELECT 1", "--from", "lsn:9", "--to", "lsn:3"],
            2,
            "comes after --to",
        ),
        (&["completions", "tcsh"], 2, "invalid value"),
        (&["log", "-n", "1", "--all"], 2, "cannot be used with"),
        // Not in the window.
        (
            &["restore", "-o", "x.db", "--lsn", "41"],
            3,
            "hint: `rewound info` shows what can be restored",
        ),
        (&["restore", "-o", "x.db", "--at", "2001-01-01"], 3, "before the restorable window"),
        (&["restore", "-o", "x.db", "--at", "2091-01-01T00:00:00Z"], 3, "after the durable end"),
        (
            &["restore", "-o", "x.db", "--point", "nowhere"],
            3,
            "hint: `rewound info` lists the restore points",
        ),
        (&["plan", "--lsn", "99"], 3, "LSN 99 lies after"),
        (&["diff", "lsn:1", "lsn:99"], 3, "LSN 99 lies after"),
        (&["point", "p", "--lsn", "99"], 3, "LSN 99 lies after"),
        (&["bisect", "--sql", "SELECT 1", "--to", "lsn:99"], 3, "LSN 99 lies after"),
        // Keys.
        (
            &["info", "--key-file", "other.key"],
            5,
            "hint: give the key that the archive was created with",
        ),
        (&["info", "--key-file", "nothing.key"], 5, "not found"),
        (&["info", "--key-file", "open.key"], 5, "chmod 600"),
        (&["info", "--passphrase"], 5, "run in a terminal"),
        (&["key", "generate", "app.key"], 5, "exists already and is not overwritten"),
        // Everything else.
        (&["restore", "-o", "there.db"], 1, "hint: choose another --output"),
        (&["restore", "-o", "."], 1, "is there already"),
        (&["restore", "-o", "new.db"], 1, "new.db-wal lies where SQLite would play it"),
        (&["point", "half"], 1, "exists already"),
        (&["info", "--node", "nobody"], 1, "hint: `rewound info` lists the nodes"),
        (&["info", "--archive", "nowhere"], 1, "hint: create one with `rewound init`"),
        (&["verify", "--archive", "nowhere", "--without-key"], 1, "no archive at"),
        (&["init", "."], 1, "is not empty and no archive"),
        (&["audit", "--since", "rewound-head-1 x"], 2, "not an attestation"),
        (&["init", "archive"], 1, "holds an archive already"),
        (&["info", "--svg", "no/such/dir.svg"], 1, "writing no/such/dir.svg"),
        (&["man", "--dir", "no/such/dir"], 1, "writing manual pages"),
        (&["watch", "nothing.db"], 1, "no database at nothing.db"),
        (&["backup", "nothing.db"], 1, "no database at nothing.db"),
        (&["backup", "text.txt"], 1, "is not a SQLite database"),
    ];
    for (args, code, words) in cases {
        let run = estate.run(args);
        assert_eq!(run.code, *code, "{args:?}: {run:?}");
        assert!(run.err.contains(words), "{args:?}: {words:?} in {}", run.err);
        assert!(!run.err.contains("panicked") && run.out.is_empty(), "{args:?}: {run:?}");
    }
    for left in ["x.db", "new.db"] {
        assert!(!estate.path(left).exists(), "{left}");
    }
    let several = Estate::new();
    several.ok(&["info"]);
    let none = several.run(&["log"]);
    assert!(none.code == 1 && none.err.contains("holds nothing yet"), "{none:?}");
    for name in ["a", "b"] {
        several.writer(name).1.close().unwrap();
    }
    let which = several.run(&["log"]);
    assert!(which.code == 2 && which.err.contains("with one of: a, b"), "{which:?}");
    let empty = several.run(&["restore", "--node", "a", "-o", "x"]);
    assert!(empty.code == 3 && empty.err.contains("the log is empty"), "{empty:?}");
    assert!(several.ok(&["info"]).contains("nothing can be restored"));
    assert_eq!(several.ok(&["log", "--node", "a", "--json"]), "");
}

#[test]
fn without_an_archive_or_a_key() {
    let run = Run::of(bare(&["info"]));
    assert!(run.code == 2 && run.err.contains("REWOUND_ARCHIVE"), "{run:?}");
    let estate = Estate::new();
    let mut command = bare(&["info", "--archive"]);
    command.arg(estate.path("archive"));
    let run = Run::of(command);
    assert!(run.code == 5 && run.err.contains("REWOUND_KEY_FILE"), "{run:?}");
    let mut command = bare(&["info", "--archive"]);
    command.arg(estate.path("archive")).env("REWOUND_KEY", "REWOUND-KEY-1-abc-def");
    let run = Run::of(command);
    assert!(run.code == 5 && !run.err.contains("abc"), "no digit of a key in a message: {run:?}");
    let help = Run::of(bare(&["--help"]));
    assert!(help.code == 0 && !help.out.contains("--key "), "no option takes a key itself");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let estate = Estate::new();
    Shop::stock(&estate);
    let mut command = estate.command(&["log", "--all"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
