//! Every command on a database of forty transactions.

use std::path::Path;

use rewound::CompactOptions;

use crate::estate::{Estate, Run, Shop, bare, orders};

fn stocked() -> Estate {
    let estate = Estate::new();
    Shop::stock(&estate);
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 1;
    estate.archive.node("app.db").unwrap().maintain(&options).unwrap();
    estate
}

/// 21:33:20 plus so many seconds, as transaction n is of second n.
fn time(n: u64) -> String {
    let s = 20 + n;
    format!("2026-10-16T21:{}:{:02}Z", 33 + s / 60, s % 60)
}

#[test]
fn a_key_an_archive_and_what_they_say_of_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = bare(args);
        command.current_dir(dir.path());
        Run::of(command)
    };
    let made = run(&["key", "generate", "app.key", "--json"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let made: serde_json::Value = serde_json::from_str(&made.out).unwrap();
    assert_eq!(made["key_file"], "app.key");
    run(&["key", "generate", "recovery.key"]);
    let init = run(&[
        "--key-file",
        "app.key",
        "init",
        "here",
        "--recovery-key-file",
        "recovery.key",
        "--json",
    ]);
    let init: serde_json::Value = serde_json::from_str(&init.out).unwrap();
    assert_eq!(init["recipients"].as_array().unwrap().len(), 2);
    assert_eq!(init["recipients"][0], made["recipient"]);
    for key in ["app.key", "recovery.key"] {
        let info = run(&["--archive", "here", "--key-file", key, "info", "--json"]);
        let info: serde_json::Value = serde_json::from_str(&info.out).unwrap();
        assert_eq!(info["archive"], init["archive"]);
        assert_eq!(info["nodes"].as_array().unwrap().len(), 0);
    }
    // The key's own text, from the environment.
    let mut command = bare(&["--archive", "here", "info"]);
    command
        .current_dir(dir.path())
        .env("REWOUND_KEY", std::fs::read_to_string(dir.path().join("app.key")).unwrap());
    assert_eq!(Run::of(command).code, 0);
}

#[test]
fn restores_what_was_asked_for() {
    let estate = stocked();
    for (i, (args, lsn)) in [
        (vec!["--latest"], 40),
        (vec![], 40),
        (vec!["--lsn", "7"], 7),
        (vec!["--point", "half"], 20),
        (vec!["--at", "point:half"], 20),
        (vec!["--before", &time(31)], 30),
        (vec!["--before", "lsn:31"], 30),
        (vec!["--at", &time(31)], 31),
        (vec!["--at", "2026-10-16 21:33:30.5"], 10),
        (vec!["--at", "2026-10-16 21:33:30.5", "--utc"], 10),
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("out{i}.db");
        let report = estate.json(&[&["restore", "--output", &file], args.as_slice()].concat());
        assert_eq!(report["lsn"], lsn, "{args:?}");
        let rows = if lsn < 31 { lsn - 1 } else { lsn - 10 };
        assert_eq!(orders(&estate.path(&file)), rows, "{args:?}");
        assert!(report["pages_proven"].as_u64().unwrap() >= 2);
        assert_eq!(report["spaces"][0]["name"], "app.db");
    }
    let text = estate.ok(&["restore", "--lsn", "5", "-o", "text.db"]);
    assert!(
        text.contains("restored app.db as of LSN 5 of 2026-10-16 21:33:25.000+00:00"),
        "{text}"
    );

    // Into a directory, and back and forth in place.
    std::fs::create_dir(estate.path("dir")).unwrap();
    estate.ok(&["restore", "-o", "dir"]);
    assert_eq!(orders(&estate.path("dir/app.db")), 30);
    for (lsn, place) in [("12", "dir"), ("13", "dir/app.db")] {
        estate.ok(&["restore", "-o", place, "--delta", "--lsn", lsn]);
        assert_eq!(orders(&estate.path("dir/app.db")), lsn.parse::<i64>().unwrap() - 1);
    }
}

#[test]
fn lists_commits() {
    let estate = stocked();
    let text = estate.ok(&["log", "-n", "3"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[1].trim_start().starts_with("40  2026-10-16 21:34:00.000+00:00"), "{text}");
    let list = |args: &[&str]| -> Vec<serde_json::Value> {
        let out = estate.ok(&[&["log", "--json"], args].concat());
        out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let numbers = |args: &[&str]| -> Vec<u64> {
        list(args).iter().map(|c| c["lsn"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&[]), (21..=40).rev().collect::<Vec<_>>());
    assert_eq!(numbers(&["--all", "--reverse"]), (1..=40).collect::<Vec<_>>());
    assert_eq!(numbers(&["--since", "point:half", "--until", &time(23)]), [23, 22, 21]);
    assert_eq!(numbers(&["--since", "lsn:38"]), [40, 39]);
    assert_eq!(numbers(&["--until", "2001-01-01"]), [] as [u64; 0]);
    assert_eq!(numbers(&["--since", "2001-01-01", "--until", "2091-01-01", "-n1"]), [40]);
    estate.ok(&["point", "afterwards", "--lsn", "33"]);
    let all = list(&["--all", "--reverse"]);
    assert_eq!(all[19]["restore_points"][0], "half");
    assert_eq!(all[32]["restore_points"][0], "afterwards");
    assert_eq!(all[4]["time"], "2026-10-16T21:33:25.000000000Z");
    assert!(all[4]["versions"].as_u64().unwrap() >= 1 && all[4]["bytes"].as_u64().unwrap() > 20);
    assert!(estate.ok(&["log", "--all"]).contains("[afterwards]"));
}

#[test]
fn tells_what_there_is() {
    let estate = stocked();
    let text = estate.ok(&["info"]);
    for part in [
        "node app.db",
        "earliest",
        "LSN 1",
        "(40 commits)",
        "half",
        "snapshot",
        "commits over time",
        "█",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "no colours into a pipe");
    let info = estate.json(&["info"]);
    let node = &info["nodes"][0];
    assert_eq!(node["window"]["latest"]["lsn"], 40);
    assert_eq!(node["restore_points"][0]["name"], "half");
    assert_eq!(
        node["snapshots"].as_array().unwrap().len() + node["deltas"].as_array().unwrap().len(),
        2
    );
    let commits: f64 =
        node["activity"]["commits"].as_array().unwrap().iter().map(|c| c.as_f64().unwrap()).sum();
    assert!((commits - 40.0).abs() < 0.01);
    assert!(node["lag_seconds"].as_f64().is_some() && node["log"]["files"] == 1);

    let plan = estate.json(&["plan", "--lsn", "39"]);
    assert_eq!((plan["lsn"].as_u64(), plan["log_commits"].as_u64()), (Some(39), Some(39)));
    let plan = estate.ok(&["plan"]);
    assert!(plan.contains("begins with") && plan.contains("then log"), "{plan}");

    let diff = estate.json(&["diff", "lsn:30", "lsn:31"]);
    assert_eq!(diff["from"]["lsn"], 30);
    assert!(diff["spaces"][0]["pages_differing"].as_u64().unwrap() >= 1);
    assert!(estate.ok(&["diff", "latest"]).contains("no difference"));
    assert!(estate.ok(&["diff", "point:half"]).contains("app.db"));
}

#[test]
fn finds_the_commit_that_changed_an_answer() {
    let estate = stocked();
    let sql = "SELECT count(*) FROM orders WHERE id < 10";
    let found = estate.json(&["bisect", "--sql", sql, "--from", "point:half"]);
    assert_eq!(found["changed"]["lsn"], 31);
    assert_eq!((found["before"].as_str(), found["after"].as_str()), (Some("8"), Some("0")));
    assert!(found["probes"].as_array().unwrap().len() <= 7);
    let text = estate.ok(&["bisect", "--sql", sql, "--from", "lsn:15"]);
    assert!(text.contains("changed by LSN 31") && text.contains("restore --lsn 30"), "{text}");
    // A table that is not there yet is an answer as well, a query that never works is not.
    let same = estate.ok(&["bisect", "--sql", sql, "--to", "lsn:1"]);
    assert!(same.contains("the same"), "{same}");
    let wrong = estate.run(&["bisect", "--sql", "SELECT n FROM nowhere"]);
    assert_eq!(wrong.code, 2, "{}", wrong.err);
    assert!(wrong.err.contains("no such table: nowhere"), "{}", wrong.err);
    let writes = estate.run(&["bisect", "--sql", "DELETE FROM orders"]);
    assert!(writes.code == 2 && writes.err.contains("readonly"), "{}", writes.err);
}

#[test]
fn verifies_and_says_where_the_damage_is() {
    let estate = stocked();
    let report = estate.json(&["verify"]);
    assert_eq!((report["intact"].as_bool(), report["commits"].as_u64()), (Some(true), Some(40)));
    assert!(estate.ok(&["verify", "--node", "app.db", "--no-rebuild"]).ends_with("intact\n"));
    let mut keyless = bare(&["verify", "--without-key", "--archive"]);
    keyless.arg(estate.path("archive"));
    let keyless = Run::of(keyless);
    assert!(keyless.code == 0 && keyless.out.ends_with("intact\n"), "{keyless:?}");

    let segment = files(&estate.path("archive"), "seg").pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[1_500] ^= 1;
    let mut permissions = std::fs::metadata(&segment).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&segment, permissions).unwrap();
    std::fs::write(&segment, bytes).unwrap();
    for args in [&["verify"][..], &["verify", "--without-key"]] {
        let run = estate.run(args);
        assert_eq!(run.code, 4, "{run:?}");
        assert!(run.out.contains("damage") && run.out.contains(".seg at offset"), "{run:?}");
        assert!(run.err.contains("listed above"), "{run:?}");
        let run = estate.run(&[args, &["--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!((run.code, report["intact"].as_bool()), (4, Some(false)));
        assert!(report["findings"][0]["path"].as_str().unwrap().contains("/wal/"));
    }
    let restore = estate.run(&["restore", "--lsn", "39", "-o", "out.db"]);
    assert_eq!(restore.code, 4, "{restore:?}");
    assert!(
        restore.err.contains("hint: `rewound verify`") && !estate.path("out.db").exists(),
        "{restore:?}"
    );
}

fn files(dir: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found
}

#[test]
fn prints_completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = Run::of(bare(&["completions", shell]));
        assert!(run.code == 0 && run.out.contains("bisect"), "{shell}");
    }
    let page = Run::of(bare(&["man"]));
    assert!(page.code == 0 && page.out.contains(".TH rewound 1"), "{}", page.out);
    let dir = tempfile::tempdir().unwrap();
    let mut all = bare(&["man", "--dir"]);
    all.arg(dir.path());
    assert_eq!(Run::of(all).code, 0);
    assert!(dir.path().join("rewound-restore.1").exists());
}

/// The words of a line as a shell splits them, quotes and comments aside.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#' | '&' | '>' | '|') => break,
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

#[test]
fn what_the_documents_tell_people_to_type_is_understood() {
    let documents =
        [include_str!("../../../../README.md"), include_str!("../../../../docs/cli.md")];
    let lines = documents.iter().flat_map(|d| d.lines());
    let typed: Vec<&str> =
        lines.filter_map(|l| l.trim_start_matches("$ ").strip_prefix("rewound ")).collect();
    assert!(typed.len() > 8, "{typed:?}");
    for line in typed {
        let line = words(line);
        let mut args: Vec<&str> = line.iter().map(String::as_str).collect();
        args.push("--help");
        let run = Run::of(bare(&args));
        assert!(run.code == 0 && run.out.contains("Usage: rewound"), "{args:?}: {run:?}");
    }
    // Every command is in the manual's table, and in one about JSON where it has one.
    let manual = documents[1];
    let help = Run::of(bare(&["--help"])).out;
    let commands = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| l.starts_with(' '));
    let commands: Vec<&str> =
        commands.filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.into_iter().filter(|c| !c.is_empty() && *c != "help") {
        assert!(manual.contains(&format!("`{command}")), "{command}");
        let help = Run::of(bare(&[command, "--help"])).out;
        for option in help.split_whitespace().filter(|w| w.starts_with("--") && w.len() > 3) {
            let option = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let known =
                manual.contains(option) || ["--help", "--version", "--latest"].contains(&option);
            assert!(known, "{command} {option}");
        }
    }
}
