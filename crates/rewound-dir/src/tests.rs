use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

fn dir() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    (temp, dir)
}

fn access(dir: &Dir) -> Access {
    Access::file_in(&dir.metadata().unwrap())
}

fn put(dir: &Dir, name: &str, bytes: &[u8]) {
    use std::io::Write;
    dir.create(name, access(dir)).unwrap().write_all(bytes).unwrap();
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
}

#[test]
fn only_one_component_is_a_name() {
    let (_temp, dir) = dir();
    for bad in ["", ".", "..", "a/b", "/", "../a"] {
        assert_eq!(dir.create(bad, access(&dir)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(dir.open_file(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(dir.subdir(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(dir.remove(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(dir.stat(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn what_is_no_file_is_told_and_never_waited_for() {
    let (temp, dir) = dir();
    put(&dir, "target", b"");
    symlink("target", temp.path().join("link")).unwrap();
    symlink("missing", temp.path().join("dangling")).unwrap();
    fifo(&temp.path().join("fifo"));
    let _socket = UnixListener::bind(temp.path().join("socket")).unwrap();
    std::fs::create_dir(temp.path().join("dir")).unwrap();
    for (name, found) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("dir", "a directory"),
    ] {
        for result in [dir.open_file(name), dir.open_file_to_write(name)] {
            let wrong = WrongKind::of(&result.unwrap_err());
            assert_eq!(wrong, Some(WrongKind { expected: "a regular file", found }), "{name}");
        }
        assert_eq!(
            dir.create(name, access(&dir)).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        if name != "dir" {
            let wrong = Some(WrongKind { expected: "a directory", found });
            assert_eq!(WrongKind::of(&dir.subdir(name).unwrap_err()), wrong);
            let taken = dir.make_dir(name, access(&dir)).unwrap_err();
            assert_eq!(
                (taken.kind(), WrongKind::of(&taken)),
                (io::ErrorKind::AlreadyExists, wrong)
            );
        }
    }
    assert!(!temp.path().join("missing").exists());
    // The names themselves can be moved and removed.
    dir.rename_new("link", &dir, "moved").unwrap();
    dir.remove("moved").unwrap();
    assert!(temp.path().join("target").exists());
}

#[test]
fn renaming_by_link_keeps_the_contract() {
    let (temp, dir) = dir();
    let read = |name: &str| std::fs::read(temp.path().join(name)).unwrap();
    let by_link = |from: &str, to: &str| dir.rename_by_link(from.as_ref(), &dir, to.as_ref());
    put(&dir, "a", b"a");
    put(&dir, "b", b"b");
    assert_eq!(by_link("a", "b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!((read("a"), read("b")), (b"a".to_vec(), b"b".to_vec()));
    assert_eq!(by_link("x", "y").unwrap_err().kind(), io::ErrorKind::NotFound);
    by_link("a", "c").unwrap();
    assert_eq!(read("c"), b"a");
    assert_eq!(dir.open_file("a").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_directory_stays_what_was_opened() {
    let (temp, dir) = dir();
    dir.make_dir("sub", Access::dir_in(&dir.metadata().unwrap())).unwrap();
    let sub = dir.subdir("sub").unwrap();
    std::fs::rename(temp.path().join("sub"), temp.path().join("moved")).unwrap();
    symlink("/", temp.path().join("sub")).unwrap();
    put(&sub, "file", b"");
    assert!(temp.path().join("moved/file").exists());
    assert_eq!(sub.names().unwrap(), ["file"]);
}

#[test]
fn what_is_created_follows_its_directory() {
    let (temp, dir) = dir();
    let set = |mode| std::fs::set_permissions(temp.path(), Permissions::from_mode(mode)).unwrap();
    for (i, (of_dir, file, sub)) in [
        (0o700, 0o600, 0o700),
        (0o750, 0o640, 0o750),
        (0o770, 0o660, 0o770),
        (0o755, 0o600, 0o700),
        (0o777, 0o600, 0o700),
        (0o2770, 0o660, 0o2770),
        (0o1700, 0o600, 0o700),
    ]
    .into_iter()
    .enumerate()
    {
        set(of_dir);
        let metadata = dir.metadata().unwrap();
        let (name, sub_name) = (format!("f{i}"), format!("d{i}"));
        let made = dir.create(&name, Access::file_in(&metadata)).unwrap();
        assert_eq!(made.metadata().unwrap().mode() & 0o7777, file, "{of_dir:o}");
        assert!(dir.make_dir(&sub_name, Access::dir_in(&metadata)).unwrap());
        assert!(!dir.make_dir(&sub_name, Access::dir_in(&metadata)).unwrap());
        assert_eq!(dir.stat(&sub_name).unwrap().mode & 0o7777, sub, "{of_dir:o}");
    }
}

#[test]
fn root_gives_what_it_creates() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let (temp, dir) = dir();
    std::os::unix::fs::chown(temp.path(), Some(12_345), Some(23_456)).unwrap();
    std::fs::set_permissions(temp.path(), Permissions::from_mode(0o750)).unwrap();
    let base = dir.metadata().unwrap();
    let file = dir.create("file", Access::file_in(&base)).unwrap();
    let expected = Access { uid: 12_345, gid: 23_456, mode: 0o640 };
    assert_eq!(Access::of(&file.metadata().unwrap()), expected);
    assert!(dir.make_dir("sub", Access::dir_in(&base)).unwrap());
    let sub = dir.subdir("sub").unwrap();
    assert_eq!(Access::of(&sub.metadata().unwrap()), Access { mode: 0o750, ..expected });
    // A whole path belongs to the owner of what was there, and is for nobody else.
    let deep = Dir::create_all(&temp.path().join("x/y")).unwrap();
    assert_eq!(Access::of(&deep.metadata().unwrap()), Access { mode: 0o700, ..expected });
    // Nothing that was there is given away.
    std::fs::write(temp.path().join("mine"), b"").unwrap();
    dir.open_file_to_write("mine").unwrap();
    assert!(dir.create("mine", Access::file_in(&base)).is_err());
    assert_eq!(dir.stat("mine").unwrap().uid, 0);
}

#[test]
fn root_works_for_a_user_only_where_nobody_else_can_interfere() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let (temp, dir) = dir();
    let sub = temp.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    let set = |path: &Path, (uid, gid, mode)| {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let looked = |base, of_sub| {
        set(temp.path(), base);
        set(&sub, of_sub);
        let metadata = dir.metadata().unwrap();
        refuse_others(&metadata, &metadata, temp.path())?;
        refuse_others(&dir.subdir("sub").unwrap().metadata().unwrap(), &metadata, &sub)
    };
    // Owner and root; the group, if the whole archive is the group's.
    looked((1_000, 1_000, 0o700), (1_000, 1_000, 0o700)).unwrap();
    looked((1_000, 1_000, 0o755), (0, 0, 0o755)).unwrap();
    looked((1_000, 50, 0o2770), (1_001, 50, 0o2770)).unwrap();
    looked((1_000, 50, 0o1777), (1_000, 50, 0o700)).unwrap();
    looked((0, 0, 0o777), (1_001, 1_001, 0o777)).unwrap();
    for (base, of_sub) in [
        ((1_000, 1_000, 0o777), (1_000, 1_000, 0o700)),
        ((1_000, 1_000, 0o700), (1_001, 1_001, 0o700)),
        ((1_000, 1_000, 0o700), (1_000, 50, 0o770)),
        ((1_000, 50, 0o2770), (1_001, 1_001, 0o700)),
        ((1_000, 50, 0o1777), (1_001, 1_001, 0o700)),
        ((1_000, 1_000, 0o700), (1_000, 1_000, 0o702)),
    ] {
        let e = looked(base, of_sub).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied, "{base:?} {of_sub:?}");
        assert!(e.to_string().contains("Run this as user 1000"), "{e}");
    }
}
