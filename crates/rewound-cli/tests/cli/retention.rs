//! How long history is kept, by whom, and what is left of it as a trail.

use rewound::{Actor, Policy, Scope, SweepOptions};
use serde_json::Value;

use crate::estate::{Estate, Run, SECOND, Shop, commits};
use crate::live;

const DAY: u64 = 86_400 * SECOND;

fn days(n: u64) -> std::time::Duration {
    std::time::Duration::from_nanos(n * DAY)
}

/// Forty days up to now: a restore point on the tenth day, swept every day.
fn forty_days(policy: Option<&Policy>) -> Estate {
    let estate = Estate::days_ago(40);
    let admin = estate.archive.administrator(Actor { name: "ops".into(), reason: "policy".into() });
    if let Some(policy) = policy {
        admin.set_retention(Scope::Archive, policy).unwrap();
    }
    let (_, writer) = estate.writer("app.db");
    for day in 0..40 {
        commits(&estate, &writer, 6, DAY / 6, |n, batch| {
            if (day, n) == (9, 2) {
                batch.restore_point("release").unwrap();
            }
            if (day, n) == (9, 4) {
                batch.restore_point("held").unwrap();
            }
        });
        writer.rotate_segment().unwrap();
        writer.tick().unwrap();
        let mut options = SweepOptions::default();
        options.rebuild_percent = 1;
        assert!(admin.sweep(&options).unwrap().failed.is_empty());
    }
    writer.close().unwrap();
    estate
}

#[test]
fn what_has_expired_is_told_apart_from_what_is_kept_and_what_is_missing() {
    let estate = forty_days(Some(&Policy::days(7).restore_points_for(days(365))));
    let info = estate.json(&["info"]);
    let node = &info["nodes"][0];
    let earliest = node["window"]["earliest"]["lsn"].as_u64().unwrap();
    assert!((180..=204).contains(&earliest), "{earliest}");
    let kept: Vec<u64> = node["kept"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["from"]["lsn"].as_u64().unwrap())
        .collect();
    assert_eq!(kept, [57, 59]);
    assert_eq!(
        (node["gaps"].as_array().unwrap().len(), node["restore_points"].as_array().unwrap().len()),
        (0, 2)
    );
    assert_eq!(node["policy"]["window_seconds"], 7 * 86_400);
    assert!(node["usage"]["log_bytes_per_day"].as_u64().unwrap() > 0);
    let text = estate.ok(&["info"]);
    for part in [
        "kept as well",
        "LSN 57",
        "every commit of the last 7 days, restore points for 365 days",
        "a day",
        "for 35 days",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("gap"), "{text}");

    let lines = estate.ok(&["log", "--all", "--json"]);
    let listed: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let numbers: Vec<u64> = listed.iter().map(|c| c["lsn"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = [57, 59].into_iter().chain(earliest..=240).rev().collect();
    assert_eq!(numbers, expected);
    assert_eq!(listed.last().unwrap()["restore_points"][0], "release");
    let text = estate.ok(&["log", "--all", "--reverse"]);
    assert!(text.lines().nth(1).unwrap().contains("[release]  kept as a snapshot"), "{text}");
    assert_eq!(estate.ok(&["log", "--until", "lsn:58", "-n", "1", "--json"]).lines().count(), 1);

    estate.ok(&["restore", "--point", "release", "-o", "release.bin"]);
    estate.ok(&["restore", "--lsn", "57", "-o", "57.bin"]);
    assert_eq!(
        std::fs::read(estate.path("release.bin")).unwrap(),
        std::fs::read(estate.path("57.bin")).unwrap()
    );
    let expired = estate.run(&["restore", "--lsn", "58", "-o", "58.bin"]);
    assert!(
        expired.code == 3 && expired.err.contains("before the restorable window"),
        "{expired:?}"
    );
    assert!(estate.ok(&["verify"]).ends_with("intact\n"));
    estate.ok(&["diff", "point:release", "latest"]);
    let across = estate.run(&["bisect", "--sql", "SELECT 1", "--from", "point:release"]);
    assert!(across.code == 2 && across.err.contains("have expired"), "{across:?}");
    estate.ok(&["info", "--svg", "kept.svg"]);
    let svg = std::fs::read_to_string(estate.path("kept.svg")).unwrap();
    assert!(svg.contains("LSN 57, kept beyond the window") && !svg.contains("class=\"gap\" x"));
    if let Some(dir) = std::env::var_os("REWOUND_PICTURES") {
        std::fs::write(std::path::Path::new(&dir).join("kept.svg"), &svg).unwrap();
    }

    let plan = estate.json(&["sweep", "--dry-run"]);
    let reasons: Vec<&str> = plan["nodes"][0]["kept"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k["reasons"][0].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["restore point \"release\"", "restore point \"held\"", "the window"]);
    let text = estate.ok(&["sweep", "--dry-run"]);
    assert!(
        text.contains("stays     LSN 57") && text.contains("restore point \"release\""),
        "{text}"
    );
    let swept = estate.json(&["sweep"]);
    assert!(swept["failed"].as_array().unwrap().is_empty());
    assert!(estate.ok(&["verify"]).ends_with("intact\n"));
}

#[test]
fn a_watcher_lets_expire_what_is_due() {
    // Without a policy it was promised for 35 days.
    let estate = forty_days(None);
    estate.ok(&["retention", "set", "--keep", "7d"]);
    let _connection = live::database(&estate);
    let events = || estate.ok(&["audit", "--all"]);
    let unswept = live::watch(&estate, &["--maintain", "1", "--no-sweep"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let stopped = live::interrupt(unswept);
    assert!(stopped.code == 0 && !events().contains("files-expired"), "{stopped:?}");
    let child = live::watch(&estate, &["--maintain", "1"]);
    live::wait("the sweep", || events().contains("files-expired"));
    let stopped = live::interrupt(child);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(stopped.err.contains("keeps every commit of the last 7 days"), "{stopped:?}");
    assert!(
        events().lines().any(|l| l.contains("files-expired") && l.contains("rewound watch")),
        "{}",
        events()
    );
    let info = estate.json(&["info", "--node", "app.db"]);
    assert!(info["nodes"][0]["window"]["earliest"]["lsn"].as_u64().unwrap() > 20, "{info}");
}

#[test]
fn policies_locks_holds_and_deletion() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    assert!(estate.ok(&["retention"]).contains("everything, for ever"));
    assert_eq!(
        estate.json(&["sweep"])["nodes"][0]["nothing_expires"],
        "no policy was set: everything is kept"
    );
    let set =
        estate.json(&["retention", "set", "--keep", "30d", "--points-for", "1y", "--grace", "36h"]);
    assert_eq!(
        (set["window_seconds"].as_u64(), set["grace_seconds"].as_u64()),
        (Some(2_592_000), Some(129_600))
    );
    let text = estate.ok(&["retention", "set", "--keep", "35d", "--node", "app.db"]);
    assert!(text.contains("node app.db keeps every commit of the last 35 days"), "{text}");
    let shown = estate.json(&["retention"]);
    assert_eq!(shown["policy"]["restore_points_seconds"], 31_536_000);
    assert_eq!(shown["nodes"][0]["policy"]["window_seconds"], 35 * 86_400);

    estate.ok(&["lock", "prod"]);
    estate.ok(&[
        "hold",
        "case",
        "--from",
        "lsn:3",
        "--to",
        "point:half",
        "--until",
        "90d",
        "--reason",
        "case 17",
    ]);
    estate.ok(&["hold", "all", "--reason", "audit of 2026"]);
    let shown = estate.json(&["retention"]);
    assert_eq!(shown["locks"][0], "prod");
    let case = &shown["holds"][1];
    assert_eq!(
        (case["from"].as_u64(), case["to"].as_u64(), case["node"].as_str()),
        (Some(3), Some(20), Some("app.db"))
    );
    assert_eq!(
        (case["reason"].as_str(), shown["holds"][0]["on"].as_str()),
        (Some("case 17"), Some("archive"))
    );
    let text = estate.ok(&["info"]);
    assert!(
        text.contains("case on LSN 3 to 20 of node app.db, until")
            && text.contains("lock           prod"),
        "{text}"
    );

    let refused: &[(&[&str], i32, &str)] = &[
        (&["retention", "set", "--keep", "7d"], 1, "hint: `rewound retention` shows the locks"),
        (&["retention", "set", "--keep", "soon"], 2, "no length of time"),
        (&["retention", "set", "--keep", "1 month"], 2, "months differ"),
        (&["retention", "set", "--keep", "30d", "--every", "6h"], 2, "does not go back"),
        (&["retention", "set", "--keep", "30d", "--grace", "1s"], 2, "shorter than a minute"),
        (&["retention", "set", "--keep", "30d", "--count", "3"], 2, "--every"),
        (&["retention", "set", "--keep", "30d", "--node", "nobody"], 1, "no node"),
        (&["delete-node", "app.db"], 1, "lock \"prod\" is on it"),
        (&["lock", "prod"], 1, "is there already"),
        (&["unlock", "other"], 1, "is not there"),
        (&["release", "other"], 1, "is not there"),
        (&["hold", "more"], 2, "--reason"),
        (&["hold", "more", "--until", "2001-01-01", "--reason", "x"], 2, "has passed already"),
        (&["hold", "more", "--from", "lsn:99", "--reason", "x"], 3, "LSN 99 lies after"),
        (&["undelete"], 1, "it is not deleted"),
        (&["sweep", "--node", "app.db"], 2, "leave --node out"),
    ];
    for (args, code, words) in refused {
        let run = estate.run(args);
        assert_eq!(run.code, *code, "{args:?}: {run:?}");
        assert!(run.err.contains(words) && run.out.is_empty(), "{args:?}: {run:?}");
    }

    estate.ok(&["unlock", "prod"]);
    let held = estate.run(&["delete-node", "app.db"]);
    assert!(held.code == 1 && held.err.contains("hold \"all\""), "{held:?}");
    estate.ok(&["release", "all"]);
    estate.ok(&["release", "case"]);
    let gone = estate.ok(&["delete-node", "app.db", "--grace", "10d"]);
    assert!(gone.contains("rewound undelete app.db"), "{gone}");
    assert!(estate.ok(&["info"]).contains("goes for good after"));
    assert!(estate.json(&["info"])["nodes"][0]["deleted_until"].is_string());
    estate.ok(&["restore", "-o", "still.db"]);
    let blocked = estate.ok(&["sweep", "--dry-run"]);
    assert!(blocked.contains("nothing expires: it is deleted"), "{blocked}");
    estate.ok(&["undelete", "app.db"]);
    estate.ok(&["delete-archive"]);
    let refused = estate.run(&["retention", "set", "--keep", "40d"]);
    assert!(refused.code == 0 || refused.err.contains("deleted"), "{refused:?}");
    estate.ok(&["undelete"]);
    assert!(estate.json(&["info"])["nodes"][0]["deleted_until"].is_null());
}

#[test]
fn what_reads_the_past_is_on_record_and_what_only_looks_is_not() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    let entries = || -> Vec<Value> {
        estate
            .ok(&["audit", "--all", "--reverse", "--json"])
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let before = entries().len();
    for look in [
        &["log"][..],
        &["info"],
        &["plan"],
        &["diff", "lsn:3"],
        &["verify"],
        &["retention"],
        &["sweep", "--dry-run"],
        &["audit", "--verify"],
        &["audit", "--attest"],
        &["restore", "--unaudited", "-o", "unseen.db"],
        &["bisect", "--unaudited", "--sql", "SELECT count(*) FROM orders"],
    ] {
        estate.ok(look);
        assert_eq!(entries().len(), before, "{look:?}");
    }
    estate.ok(&["restore", "--lsn", "7", "-o", "seven.db", "--reason", "drill 4"]);
    let sql = "SELECT count(*) FROM orders WHERE id < 10";
    let bisect = ["bisect", "--sql", sql, "--from", "lsn:20"];
    estate.ok(&bisect);
    let new = entries().split_off(before);
    let told: Vec<(&str, &str)> =
        new.iter().map(|e| (e["event"].as_str().unwrap(), e["reason"].as_str().unwrap())).collect();
    assert_eq!(
        told,
        [
            ("restore-started", "drill 4"),
            ("restore-finished", "drill 4"),
            ("restore-started", "rewound bisect"),
            ("restore-finished", "rewound bisect"),
        ]
    );
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    assert_eq!(new[0]["actor"].as_str(), Some(String::from_utf8(id.stdout).unwrap().trim()));
    assert!(new[0]["destination"].as_str().unwrap().ends_with("seven.db") && new[0]["lsn"] == 7);
    estate.ok(&["point", "p", "--reason", "\x1b[31mred\nherring"]);
    let text = estate.ok(&["audit", "-n", "1"]);
    assert!(!text.contains('\x1b') && text.lines().count() == 1, "{text}");
    estate.ok(&bisect);
    let text = estate.ok(&["audit", "-n", "2"]);
    assert!(
        text.lines().count() == 2
            && text.contains("node app.db")
            && text.contains(": rewound bisect"),
        "{text}"
    );
}

#[test]
fn an_archive_that_cannot_be_written_to_is_read_all_the_same() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    let (tmp, leases) = (estate.path("archive/tmp"), estate.path("archive/leases"));
    std::fs::remove_dir_all(&tmp).unwrap();
    std::fs::remove_dir_all(&leases).ok();
    std::fs::create_dir(&leases).unwrap();
    let mode = |mode| {
        std::fs::set_permissions(&leases, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
    };
    mode(0o555);
    if std::fs::write(leases.join("probe"), "").is_err() {
        let refused = estate.run(&["restore", "-o", "a.db"]);
        assert!(refused.code == 1 && refused.err.contains("--unaudited"), "{refused:?}");
    }
    estate.ok(&["restore", "-o", "b.db", "--unaudited"]);
    estate.ok(&["bisect", "--sql", "SELECT 1", "--unaudited"]);
    for look in
        [&["info"][..], &["log"], &["verify"], &["diff", "lsn:3"], &["audit"], &["sweep", "-n"]]
    {
        estate.ok(look);
    }
    mode(0o755);
}

#[test]
fn an_attestation_tells_a_rolled_back_archive() {
    let estate = Estate::days_ago(0);
    Shop::stock(&estate);
    let copy = |to: &str| {
        let done = std::process::Command::new("cp")
            .args(["-a", "archive", to])
            .current_dir(estate.dir.path())
            .status();
        assert!(done.unwrap().success());
    };
    copy("older");
    let first = estate.ok(&["audit", "--attest"]);
    estate.ok(&["point", "later"]);
    let second = estate.ok(&["audit", "--attest"]);
    std::fs::write(estate.path("heads"), format!("{first}{second}\n")).unwrap();
    assert!(estate.ok(&["audit", "--since", "heads"]).contains("continued since entry"));
    assert_eq!(estate.json(&["audit", "--since", first.trim()])["newest"].as_u64().unwrap(), 5);
    let back = estate.run(&["audit", "--since", "heads", "--archive", "older"]);
    assert!(back.code == 4 && back.err.contains("was put back"), "{back:?}");
    assert_eq!(estate.run(&["audit", "--since", "app.key"]).code, 2);
    assert_eq!(estate.run(&["audit", "--since", "nothing"]).code, 1);
    assert!(estate.ok(&["audit", "--verify"]).contains("intact 5 entries"));
}

#[test]
fn a_clock_that_jumped_keeps_everything_until_somebody_vouches_for_it() {
    let estate = Estate::days_ago(20);
    Shop::stock(&estate);
    estate.ok(&["retention", "set", "--keep", "7d"]);
    let refused = estate.run(&["sweep"]);
    assert!(refused.code == 1 && refused.err.contains("sweep --confirm-clock"), "{refused:?}");
    assert!(!refused.err.contains("Administrator"), "{refused:?}");
    estate.ok(&["sweep", "--confirm-clock"]);
    assert_eq!(estate.run(&["sweep"]).code, 0);
}

#[test]
fn an_archive_is_created_with_a_policy() {
    let estate = Estate::days_ago(0);
    let run = |args: &[&str]| Run::of(estate.command(args));
    let made = run(&["init", "new", "--keep", "35d"]);
    assert!(
        made.code == 0 && made.out.contains("keeps every commit of the last 35 days"),
        "{made:?}"
    );
    assert!(run(&["init", "other"]).out.contains("rewound retention set"));
    let wrong = run(&["init", "third", "--keep", "-1d"]);
    assert!(wrong.code == 2 && !estate.path("third").exists(), "{wrong:?}");
}
