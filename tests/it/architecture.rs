//! The code map in `docs/architecture.md` is true: dependencies go downwards only, and locks,
//! threads and clocks come from `sync` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the code map, from the top: the modules that stand in each.
fn layers() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let map = text.split("\n## Code map\n").nth(1).expect("the code map");
    let map = map.split("\n## ").next().unwrap();
    let rows = map.lines().filter(|l| l.starts_with("| `"));
    rows.map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        let names = cell.split('`').skip(1).step_by(2);
        names.map(|n| n.split(['/', ':']).next().unwrap().to_owned()).collect()
    })
    .collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Code without comments, and without what follows `#[cfg(test)]` on a module in the file.
fn code(text: &str) -> String {
    let library = match text.split_once("#[cfg(test)]\nmod tests {") {
        Some((before, _)) => before,
        None => text,
    };
    library.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The names directly behind each `crate::`, those in braces included.
fn used(code: &str) -> BTreeSet<String> {
    let word = |s: &str| {
        let end = s.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(s.len());
        s[..end].to_owned()
    };
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.insert(word(list[start..i].trim()));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

/// Which top-level module uses which, and in which file.
fn uses() -> BTreeMap<(String, String), PathBuf> {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut uses = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let top = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let top = top.trim_end_matches(".rs");
        let is_test = inside.ends_with("tests.rs") || inside.ends_with("testing.rs");
        // The root of the library names everything.
        if top == "lib" || is_test {
            continue;
        }
        for name in used(&code(&fs::read_to_string(&file).unwrap())) {
            if name != top {
                uses.insert((top.to_owned(), name), inside.to_owned());
            }
        }
    }
    uses
}

#[test]
fn dependencies_go_downwards_only() {
    let layers = layers();
    assert!(layers.len() > 15, "the code map is not where this test looks for it");
    let layer = |module: &str| layers.iter().position(|row| row.iter().any(|m| m == module));
    let mut wrong = Vec::new();
    for ((from, to), file) in uses() {
        let place = |module: &str| {
            layer(module)
                .unwrap_or_else(|| panic!("{}: {module} is not in the map", file.display()))
        };
        if place(&from) >= place(&to) {
            wrong.push(format!("{}: {from} uses {to}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "these go up in the code map, or sideways: {wrong:#?}");
}

#[test]
fn every_module_stands_in_the_map_once() {
    let layers = layers();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let rows = layers.iter().flatten().filter(|m| *m == module).count();
        assert_eq!(rows, 1, "{module} stands in the code map of docs/architecture.md once");
    }
}

#[test]
fn uses_are_found_in_every_form() {
    let found = |code: &str| used(code).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::wal::{Log, Visit};"), ["wal"]);
    assert_eq!(found("use crate::{\n    dir::{self, Dir},\n    env,\n};"), ["dir", "env"]);
    assert_eq!(found("let x = crate::sealed::spill(&keys);"), ["sealed"]);
    assert!(
        found(&code("// crate::wal\nfn f() {}\n#[cfg(test)]\nmod tests {\n use crate::a;"))
            .is_empty()
    );
}

/// What `sync` alone may name; the two halves make the path.
const BANNED: [(&str, &str); 7] = [
    ("parking", "_lot"),
    ("std::", "thread"),
    ("time::", "Instant"),
    ("time::", "SystemTime"),
    ("sync::", "mpsc"),
    ("sync::", "Condvar"),
    ("sync::", "Mutex"),
];

/// Braces of `use` are opened far enough for the paths above: `std::{thread, io}` and
/// `std::time::{Duration, Instant}` are found as well as the plain form.
fn is_named(code: &str, (module, item): (&str, &str)) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let ends = |rest: &str| !rest.starts_with(is_word);
    let ours = |at: usize| code.get(..at).is_some_and(|before| before.ends_with("crate::"));
    let plain = format!("{module}{item}");
    let found = code.match_indices(&plain);
    let mut found = found.filter(|(at, name)| ends(&code[at + name.len()..]) && !ours(*at));
    let braced = code.match_indices(&format!("{module}{{")).any(|(at, open)| {
        let list = code[at + open.len()..].split(';').next().unwrap_or_default();
        !ours(at) && list.split(|c: char| !is_word(c)).any(|word| word == item)
    });
    found.next().is_some() || braced
}

#[test]
fn locks_threads_and_clocks_are_named_in_one_place() {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 50, "the sources are not where this test looks for them");
    let mut offences = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        if inside == Path::new("sync.rs") || inside.ends_with("tests.rs") {
            continue;
        }
        let code = code(&fs::read_to_string(&file).unwrap());
        let named = BANNED.iter().filter(|banned| is_named(&code, **banned));
        offences
            .extend(named.map(|(module, item)| format!("{}: {module}{item}", inside.display())));
    }
    assert!(offences.is_empty(), "take these from crate::sync: {offences:#?}");
}

#[test]
fn banned_names_are_found_in_every_form() {
    for code in ["use std::time::Instant;", "use std::time::{Duration, Instant};"] {
        assert!(is_named(code, ("time::", "Instant")), "{code}");
    }
    assert!(is_named("use std::{io, thread};", ("std::", "thread")));
    assert!(is_named("std::thread::sleep(d)", ("std::", "thread")));
    assert!(!is_named("use crate::sync::{Mutex, mpsc};", ("sync::", "Mutex")));
    assert!(!is_named("crate::sync::Mutex::new(())", ("sync::", "Mutex")));
    assert!(!is_named("use std::time::InstantLike;", ("time::", "Instant")));
}
