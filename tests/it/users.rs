//! One archive under several users: whoever works in it, everybody who could use it before can use
//! it afterwards.
//!
//! Needs root, to become others; a test says so and ends where it is not. A user is played by this
//! test binary, run again as that user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rewound::options::Cancel;
use rewound::storage::FsStorage;
use rewound::{
    Actor, Archive, CompactOptions, Durability, Error, Origin, PageId, PageSize, Result,
    SweepOptions, Target, VerifyOptions, verify_checksums,
};

use crate::support::{key, quiet};

const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;
const TEAM: u32 = 54_400;

const ACT: &str = "REWOUND_TEST_ACT";

/// A place where users other than root can run this binary.
struct Stage {
    temp: tempfile::TempDir,
}

impl Stage {
    fn new() -> Option<Stage> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        set(temp.path(), 0, 0, 0o755);
        // On Linux the very file that runs, though another build may have taken its name.
        let running = PathBuf::from("/proc/self/exe");
        let binary = if running.exists() { running } else { std::env::current_exe().unwrap() };
        fs::copy(binary, temp.path().join("it")).unwrap();
        set(&temp.path().join("it"), 0, 0, 0o755);
        Some(Stage { temp })
    }

    /// A directory of a user, with an archive to be in it.
    fn home(&self, uid: u32) -> PathBuf {
        let home = self.temp.path().join("home");
        fs::create_dir(&home).unwrap();
        set(&home, uid, uid, 0o755);
        home.join("archive")
    }

    /// Does something as a user; gives what went wrong.
    fn run(
        &self,
        (uid, gid): (u32, u32),
        umask: &str,
        act: &str,
        archive: &Path,
    ) -> std::result::Result<(), String> {
        let binary = self.temp.path().join("it");
        let script =
            format!("umask {umask}; exec {} --exact users::an_act --nocapture", binary.display());
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .env(ACT, act)
            .env("REWOUND_TEST_ARCHIVE", archive)
            .env("RUST_BACKTRACE", "0")
            .current_dir("/")
            .uid(uid)
            .gid(gid)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().find_map(|line| line.split_once("RESULT ")) {
            Some((_, "ok")) => Ok(()),
            Some((_, error)) => Err(error.to_owned()),
            None => panic!("{act} as {uid}: {text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

fn set(path: &Path, uid: u32, gid: u32, mode: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What another user is to do, where this binary was started as them.
#[test]
fn an_act() {
    let Ok(what) = std::env::var(ACT) else { return };
    let archive = PathBuf::from(std::env::var("REWOUND_TEST_ARCHIVE").unwrap());
    match act(&what, &archive) {
        Ok(()) => println!("RESULT ok"),
        Err(e) => println!("RESULT {e}"),
    }
}

fn act(what: &str, path: &Path) -> Result<()> {
    if what == "init" {
        let archive = Archive::create(path, key())?;
        archive.create_node("n", Origin::Empty)?;
        return act("commit", path);
    }
    let archive = Archive::open(path, key())?;
    let node = archive.node("n")?;
    match what {
        "commit" => {
            let writer = node.open_writer_with(quiet())?;
            for _ in 0..3 {
                let mut batch = writer.batch();
                let space = match writer.space("main") {
                    Some(space) => space,
                    None => batch.create_space("main", PageSize::MIN)?,
                };
                batch.write_page(PageId::new(space, 0), &[1; 512], None)?;
                batch.commit(Durability::Synced)?;
                writer.rotate_segment()?;
            }
            writer.close()
        }
        "look" => {
            let report = archive.verify(&VerifyOptions::default(), &mut |_| {})?;
            assert!(report.is_intact(), "{:?}", report.findings);
            let report = verify_checksums(&FsStorage::new(path), &Cancel::new(), &mut |_| {})?;
            assert!(report.is_intact(), "{:?}", report.findings);
            node.window().map(drop)
        }
        // All that takes locks and leases, and makes files of every kind.
        "all" => {
            act("commit", path)?;
            node.restore(Target::Latest).into_memory()?;
            let mut options = CompactOptions::default();
            (options.layer_log_bytes, options.fan_out) = (1, 2);
            node.maintain(&options)?;
            node.build_snapshot(&Target::Latest, &options)?;
            let name = format!("p{}", archive.verify_audit()?);
            node.add_restore_point(&name, &Target::Latest)?;
            let admin = archive.administrator(Actor { name: "a".into(), reason: String::new() });
            admin.sweep(&SweepOptions::default())?;
            act("look", path)
        }
        other => panic!("{other}"),
    }
}

/// Owner, group and mode of everything, by path.
fn owners(root: &Path) -> Vec<(PathBuf, u32, u32, u32)> {
    let metadata = fs::symlink_metadata(root).unwrap();
    let mut all = vec![(root.to_owned(), metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)];
    if metadata.is_dir() {
        for entry in fs::read_dir(root).unwrap() {
            all.extend(owners(&entry.unwrap().path()));
        }
    }
    all
}

fn all_are(root: &Path, uid: u32, gid: u32, (dirs, files, sealed): (u32, u32, u32)) {
    let all = owners(root);
    assert!(all.len() > 10);
    for (path, owner, group, mode) in all {
        let expected = match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => dirs,
            Some("lock") => files,
            _ => sealed,
        };
        let found = (owner, group, format!("{mode:o}"));
        assert_eq!(found, (uid, gid, format!("{expected:o}")), "{}", path.display());
    }
}

#[test]
fn what_root_does_leaves_the_archive_to_its_owner() {
    let Some(stage) = Stage::new() else { return };
    let archive = stage.home(ALICE);
    let alice = (ALICE, ALICE);
    stage.run(alice, "022", "init", &archive).unwrap();
    for _ in 0..2 {
        act("all", &archive).unwrap();
        all_are(&archive, ALICE, ALICE, (0o700, 0o600, 0o400));
        stage.run(alice, "022", "all", &archive).unwrap();
        all_are(&archive, ALICE, ALICE, (0o700, 0o600, 0o400));
    }
    assert!(stage.run((BOB, BOB), "022", "look", &archive).is_err());
}

#[test]
fn what_root_creates_belongs_to_whom_the_place_belongs() {
    let Some(stage) = Stage::new() else { return };
    let archive = stage.home(ALICE).join("deep/archive");
    act("init", &archive).unwrap();
    all_are(archive.parent().unwrap(), ALICE, ALICE, (0o700, 0o600, 0o400));
    stage.run((ALICE, ALICE), "022", "all", &archive).unwrap();
}

#[test]
fn a_group_shares_an_archive_whose_directory_is_the_groups() {
    let Some(stage) = Stage::new() else { return };
    let archive = stage.home(ALICE);
    fs::create_dir(&archive).unwrap();
    set(&archive, ALICE, TEAM, 0o2770);
    stage.run((ALICE, TEAM), "077", "init", &archive).unwrap();
    all_are(&archive, ALICE, TEAM, (0o2770, 0o660, 0o440));
    for user in [(BOB, TEAM), (0, 0), (ALICE, TEAM), (BOB, TEAM)] {
        stage.run(user, "077", "all", &archive).unwrap();
    }
    for (path, _, group, mode) in owners(&archive) {
        assert_eq!((group, mode & 0o007), (TEAM, 0), "{}", path.display());
    }
    assert!(stage.run((BOB, BOB), "022", "look", &archive).is_err());
}

#[test]
fn a_group_that_may_read_the_directory_may_read_the_archive() {
    let Some(stage) = Stage::new() else { return };
    let archive = stage.home(ALICE);
    fs::create_dir(&archive).unwrap();
    set(&archive, ALICE, TEAM, 0o750);
    stage.run((ALICE, TEAM), "022", "init", &archive).unwrap();
    act("all", &archive).unwrap();
    all_are(&archive, ALICE, TEAM, (0o750, 0o640, 0o440));
    stage.run((BOB, TEAM), "022", "look", &archive).unwrap();
    let refused = stage.run((BOB, TEAM), "022", "commit", &archive).unwrap_err();
    assert!(refused.contains(&format!("this process runs as user {BOB}")), "{refused}");
    assert!(refused.contains(&format!("belongs to user {ALICE}")), "{refused}");
}

#[test]
fn the_umask_decides_nothing() {
    let Some(stage) = Stage::new() else { return };
    for umask in ["0", "077", "777"] {
        let archive = stage.temp.path().join(umask);
        fs::create_dir(&archive).unwrap();
        set(&archive, ALICE, ALICE, 0o700);
        let archive = archive.join("archive");
        for user in [(ALICE, ALICE), (0, 0)] {
            let act = if user.0 == 0 { "all" } else { "init" };
            stage.run(user, umask, act, &archive).unwrap();
            all_are(&archive, ALICE, ALICE, (0o700, 0o600, 0o400));
        }
    }
}

#[test]
fn root_works_in_nobodys_trap() {
    let Some(stage) = Stage::new() else { return };
    let archive = stage.home(ALICE);
    stage.run((ALICE, ALICE), "022", "init", &archive).unwrap();
    let refused = |what: &str| match act(what, &archive) {
        Err(Error::Storage { source, .. }) => {
            let text = source.to_string();
            assert!(
                text.contains("others could interfere") && text.contains("Run this as user"),
                "{text}"
            );
        }
        other => panic!("{what}: {other:?}"),
    };
    set(&archive, ALICE, ALICE, 0o777);
    refused("commit");
    // Looking creates nothing.
    act("look", &archive).unwrap();
    set(&archive, ALICE, ALICE, 0o700);
    set(&archive.join("tmp"), BOB, BOB, 0o700);
    refused("commit");
    set(&archive.join("tmp"), ALICE, ALICE, 0o700);
    act("all", &archive).unwrap();
    all_are(&archive, ALICE, ALICE, (0o700, 0o600, 0o400));
}

#[test]
fn whose_a_file_is_is_said_where_it_cannot_be_read() {
    let Some(stage) = Stage::new() else { return };
    let archive = stage.home(ALICE);
    stage.run((ALICE, ALICE), "022", "init", &archive).unwrap();
    // As releases before this one left it behind when root had run a command.
    let entry = archive.join("catalog/00000000/0000000000000002.entry");
    chown(&entry, Some(0), Some(0)).unwrap();
    let refused = stage.run((ALICE, ALICE), "022", "look", &archive).unwrap_err();
    assert!(refused.contains("belongs to user 0 with mode 0400"), "{refused}");
}
