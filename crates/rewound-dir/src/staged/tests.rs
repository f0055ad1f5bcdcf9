use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const ID: &str = "00112233445566778899aabbccddeeff";

fn dir() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    (temp, dir)
}

fn private(dir: &Dir) -> Access {
    Access::file_in(&dir.metadata().unwrap()).private()
}

/// Both ways to make a file: without a name, and under a hidden one.
fn both(dir: &Dir, name: &OsStr) -> [Staged; 2] {
    [dir.stage(name, ID, private(dir)).unwrap(), dir.stage_hidden(name, ID, private(dir)).unwrap()]
}

#[test]
fn a_file_has_its_name_when_it_is_complete() {
    for way in 0..2 {
        let (temp, dir) = dir();
        let [unnamed, named] = both(&dir, "out".as_ref());
        let (staged, other) = if way == 0 { (unnamed, named) } else { (named, unnamed) };
        other.discard(&dir);
        (&*staged.file).write_all(b"complete").unwrap();
        assert!(dir.stat("out").is_err());
        staged.publish(&dir, "out".as_ref()).unwrap();
        let path = temp.path().join("out");
        assert_eq!(std::fs::read(&path).unwrap(), b"complete");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(dir.names().unwrap(), ["out"], "way {way}");
        for taken in both(&dir, "out".as_ref()) {
            assert_eq!(
                taken.publish(&dir, "out".as_ref()).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            taken.discard(&dir);
        }
        assert_eq!(
            (std::fs::read(&path).unwrap(), dir.names().unwrap().len()),
            (b"complete".to_vec(), 1)
        );
    }
}

#[test]
fn what_was_left_behind_is_swept_and_what_is_in_use_is_not() {
    let (temp, dir) = dir();
    let name = OsStr::new("out");
    let other = ID.replace('0', "f");
    let alive = dir.stage_hidden(name, ID, private(&dir)).unwrap();
    drop(dir.stage_hidden(name, &other, private(&dir)).unwrap());
    let at = Access::dir_in(&dir.metadata().unwrap()).private();
    let (living, _locked) = dir.stage_dir("dir".as_ref(), ID, at).unwrap();
    let (left, inner) = dir.stage_dir("dir".as_ref(), &other, at).unwrap();
    inner.create("plain", private(&inner)).unwrap();
    std::fs::create_dir(temp.path().join(&left).join("below")).unwrap();
    std::fs::write(temp.path().join("kept"), b"kept").unwrap();
    symlink(temp.path().join("kept"), temp.path().join(&left).join("link")).unwrap();
    drop(inner);
    // What only looks like it.
    for name in
        [".out.rewound-1", ".out.rewound-", ".other.rewound-00112233445566778899aabbccddeeff"]
    {
        std::fs::write(temp.path().join(name), b"kept").unwrap();
    }
    symlink(
        temp.path().join("kept"),
        temp.path().join(format!(".out.rewound-{}", ID.replace('1', "a"))),
    )
    .unwrap();
    let before = dir.names().unwrap().len();
    dir.sweep_staged(name);
    dir.sweep_staged("dir".as_ref());
    assert_eq!(dir.names().unwrap().len(), before - 2);
    assert!(dir.stat(&left).is_err() && dir.stat(hidden(name, &other)).is_err());
    assert!(dir.stat(living).is_ok() && dir.stat(hidden(name, ID)).is_ok());
    assert_eq!(std::fs::read(temp.path().join("kept")).unwrap(), b"kept");
    alive.discard(&dir);
    assert!(dir.stat(hidden(name, ID)).is_err());
}

#[test]
fn a_file_is_written_whole_in_place_of_a_file_alone() {
    let (temp, dir) = dir();
    let path = temp.path().join("picture");
    write_file(&path, b"first").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
    std::fs::hard_link(&path, temp.path().join("other name")).unwrap();
    write_file(&path, b"second").unwrap();
    let read = |name: &str| {
        let mut text = String::new();
        dir.open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!((read("picture"), read("other name")), ("second".into(), "first".into()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o604);
    let link = temp.path().join("link");
    symlink(&path, &link).unwrap();
    let refused = write_file(&link, b"through").unwrap_err();
    assert_eq!(WrongKind::of(&refused).unwrap().found, "a symbolic link");
    assert_eq!((read("picture"), dir.names().unwrap().len()), ("second".into(), 3));
}
