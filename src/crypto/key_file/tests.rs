//! The pinned values come from Python, as in `kdf/tests.rs`:
//!
//! ```python
//! key = r(0x40, 32)
//! label = hk(key, None, b"rewound key file label v1", 32)
//! recipient = sha256(b"rewound recipient v1" + label).digest()[:16]
//! wk = hk(key, r(0, 32), b"rewound key file wrap v1", 32)
//! wrapped = r(0, 32) + AESGCM(wk).encrypt(bytes(12), r(0x80, 32), b"context")
//! text = "REWOUND-KEY-1-%s-%08x" % (key.hex(), zlib.crc32(key))
//! ```

use std::fs;

use super::*;
use crate::crypto::testing::{Broken, Counting, hex, run, unhex};

const LINE: &str =
    "REWOUND-KEY-1-404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f-5e268e58";
const RECIPIENT: &str = "d5d36727cc1ae0929f43ba988f8db1c9";
const WRAPPED: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                       97a5c315c3a553690f66f626433f074ff2c1d151bedc948096201b44ed83b4fc\
                       5e1720383e31e19fb2707d2ed412c86e";

fn key_file() -> KeyFile {
    KeyFile::from_bytes(run(0x40))
}

fn archive_key() -> SecretKey {
    SecretKey::from_bytes(run(0x80))
}

fn problem_of(result: Result<KeyFile>) -> KeyFileProblem {
    match result {
        Err(Error::KeyFile { problem, .. }) => problem,
        other => panic!("not a problem with a key file: {other:?}"),
    }
}

#[test]
fn the_constructions_are_pinned() {
    assert_eq!(key_file().recipient().to_string(), RECIPIENT);
    let wrapped = key_file().wrap(&archive_key(), b"context", &Counting::default()).unwrap();
    assert_eq!(hex(&wrapped), WRAPPED);
    assert_eq!(key_file().unwrap(&unhex(WRAPPED), b"context").unwrap(), archive_key());
}

#[test]
fn the_text_form_is_pinned() {
    let text = key_file().to_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("# rewound key, keep it secret"));
    assert!(lines[0].contains(RECIPIENT));
    assert_eq!(lines[1], LINE);
    assert!(text.ends_with('\n'));
    assert_eq!(KeyFile::from_text(&text).unwrap().key, key_file().key);
}

#[test]
fn text_is_read_with_some_tolerance() {
    for text in [
        LINE.to_owned(),
        format!("\n  {LINE} \r\n\r\n# REWOUND-KEY-1-old\n"),
        LINE.replace('a', "A").replace('f', "F"),
    ] {
        assert_eq!(KeyFile::from_text(&text).unwrap().key, key_file().key, "{text:?}");
    }
}

#[test]
fn malformed_text_is_refused_with_a_reason() {
    let long = format!("{LINE}\n#{}", "x".repeat(4_096));
    let two = format!("{LINE}\n{LINE}");
    let newer = LINE.replace("KEY-1", "KEY-2");
    let short = LINE.replace("5f-", "-");
    let extended = LINE.replace("5f-", "5f60-");
    let not_hex = LINE.replace("5f-", "5g-");
    let unicode = LINE.replace("5f-", "é-");
    for (text, reason) in [
        ("", "no line"),
        ("# only a comment\n", "no line"),
        ("hello", "does not start with"),
        (&LINE[1..], "does not start with"),
        (&newer, "update rewound"),
        (&two, "more than one line"),
        (&long, "longer than"),
        (&LINE[..78], "no checksum"),
        (&short, "not 64 hex"),
        (&extended, "not 64 hex"),
        (&not_hex, "not 64 hex"),
        (&unicode, "not 64 hex"),
        (&LINE[..86], "not 8 hex"),
        (&format!("{LINE}0"), "not 8 hex"),
        (&format!("{LINE}-"), "not 8 hex"),
    ] {
        let KeyFileProblem::Malformed(said) = problem_of(KeyFile::from_text(text)) else {
            panic!("{text:?}");
        };
        assert!(said.contains(reason), "{text:?}: {said}");
    }
}

#[test]
fn every_mistyped_digit_is_found() {
    for i in PREFIX.len()..LINE.len() {
        let mut text = LINE.to_owned();
        let other = if &text[i..=i] == "0" { "1" } else { "0" };
        if &text[i..=i] != "-" {
            text.replace_range(i..=i, other);
            assert_eq!(problem_of(KeyFile::from_text(&text)), KeyFileProblem::Checksum, "{text}");
        }
    }
}

#[test]
fn errors_show_nothing_of_the_key() {
    for text in [LINE.replace("5f-", "-"), LINE.replace("40", "41"), LINE[14..].to_owned()] {
        let error = KeyFile::from_text(&text).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("4243") && !shown.contains("5e26"), "{shown}");
        }
    }
}

#[test]
fn debug_and_description_show_nothing_of_the_key() {
    let shown = format!("{:?} {:#?} {}", key_file(), key_file(), key_file().describe());
    assert!(shown.contains("SecretKey([redacted])"), "{shown}");
    assert!(shown.contains(RECIPIENT), "{shown}");
    for leak in ["404142", "64, 65, 66", "5e268e58"] {
        assert!(!shown.contains(leak), "{shown}");
    }
}

#[test]
fn unwrapping_refuses_every_altered_bit_and_length() {
    let wrapped = unhex(WRAPPED);
    for bit in 0..wrapped.len() * 8 {
        let mut altered = wrapped.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let error = key_file().unwrap(&altered, b"context").unwrap_err().to_string();
        assert!(error.contains(RECIPIENT) && error.contains("altered"), "{error}");
    }
    for len in (0..80).chain(81..100) {
        let mut resized = wrapped.clone();
        resized.resize(len, 0);
        let error = key_file().unwrap(&resized, b"context").unwrap_err().to_string();
        assert!(error.contains(&format!("80 bytes expected, {len} found")), "{error}");
    }
    assert!(key_file().unwrap(&wrapped, b"Context").is_err());
    assert!(key_file().unwrap(&wrapped, b"").is_err());
    assert!(KeyFile::from_bytes([0; 32]).unwrap(&wrapped, b"context").is_err());
}

#[test]
fn two_wraps_of_one_key_have_nothing_in_common() {
    let wrap = || key_file().wrap(&archive_key(), b"context", &SystemRng).unwrap();
    let (a, b) = (wrap(), wrap());
    assert!(a.chunks(16).zip(b.chunks(16)).all(|(x, y)| x != y));
    assert!(key_file().wrap(&archive_key(), b"context", &Broken).is_err());
}

#[test]
fn a_generated_key_comes_back_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.key");
    let made = KeyFile::generate(&path).unwrap();
    let read = KeyFile::open(&path).unwrap();
    assert_eq!(made.key, read.key);
    assert_eq!(made.recipient(), read.recipient());
    assert!(read.describe().contains("app.key"), "{}", read.describe());
    let other = KeyFile::generate(directory.path().join("other.key")).unwrap();
    assert_ne!(made.key, other.key);
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.key");
    fs::write(&path, "precious").unwrap();
    assert_eq!(problem_of(KeyFile::generate(&path)), KeyFileProblem::Exists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    #[cfg(unix)]
    {
        // Not through a dangling link either.
        let link = directory.path().join("link.key");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
        assert_eq!(problem_of(KeyFile::generate(&link)), KeyFileProblem::Exists);
        assert!(!directory.path().join("elsewhere").exists());
    }
}

#[test]
fn without_randomness_no_file_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.key");
    assert!(KeyFile::generate_with(&path, &Broken).is_err());
    assert!(!path.exists());
}

#[test]
fn a_missing_file_is_told_from_one_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.key");
    let result = KeyFile::open(&path);
    let message = result.as_ref().unwrap_err().to_string();
    assert!(message.contains("none.key") && message.contains("KeyFile::generate"), "{message}");
    assert_eq!(problem_of(result), KeyFileProblem::NotFound);
    let nowhere = KeyFile::generate(directory.path().join("no/such/app.key")).unwrap_err();
    assert!(matches!(nowhere, Error::Storage { .. }), "{nowhere}");
}

#[cfg(unix)]
#[test]
fn a_key_that_others_may_touch_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.key");
    KeyFile::generate(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o640, 0o604, 0o644, 0o660, 0o610, 0o602] {
        set(mode);
        let result = KeyFile::open(&path);
        let message = result.as_ref().unwrap_err().to_string();
        assert!(message.contains("chmod 600") && message.contains("app.key"), "{message}");
        assert!(message.contains(&format!("{mode:04o}")), "{message}");
        assert_eq!(problem_of(result), KeyFileProblem::Permissions { mode });
    }
    for mode in [0o400, 0o600] {
        set(mode);
        assert!(KeyFile::open(&path).is_ok());
    }
}

#[test]
fn files_that_are_no_key_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes, reason) in [
        ("binary", vec![0xFF; 64], "not text"),
        ("empty", Vec::new(), "no line"),
        ("big", vec![b'#'; 1 << 20], "longer than"),
    ] {
        let path = directory.path().join(name);
        create_private(&path).unwrap().1.write_all(&bytes).unwrap();
        let KeyFileProblem::Malformed(said) = problem_of(KeyFile::open(&path)) else { panic!() };
        assert!(said.contains(reason), "{name}: {said}");
    }
}

#[test]
fn what_is_no_file_is_refused_and_never_waited_for() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (path, found) in [
        (fifo.as_path(), "a FIFO"),
        (directory.path(), "a directory"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        assert_eq!(problem_of(KeyFile::open(path)), KeyFileProblem::NotAFile(found), "{path:?}");
    }
    assert_eq!(problem_of(KeyFile::generate(&fifo)), KeyFileProblem::Exists);
    // As a secret store hands one out.
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    let made = KeyFile::generate(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert_eq!(KeyFile::open(&link).unwrap().recipient(), made.recipient());
}
