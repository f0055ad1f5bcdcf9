//! Numbers for people: thousands, bytes, lengths of time. Paths for shells.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// A number with its thousands apart.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Text of others, without what a terminal would take for a command.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `1 page`, `2 pages`.
pub fn plural(n: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// Bytes in decimal units.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1_000 {
        return format!("{n} B");
    }
    let mut value = n;
    let mut unit = 0;
    while value >= 1_000_000 && unit + 1 < UNITS.len() {
        value /= 1_000;
        unit += 1;
    }
    format!(
        "{}.{} {}",
        value / 1_000,
        value % 1_000 / 100,
        UNITS.get(unit).expect("the loop ends with the last unit")
    )
}

/// A length of time, by its two largest units.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 if d < Duration::from_millis(1) => format!("{} µs", d.as_micros()),
        0 => format!("{} ms", d.as_millis()),
        1..60 => format!("{}.{} s", s, d.subsec_millis() / 100),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// A length of time as people give it: `7 days`, `36 hours`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (size, name) =
        units.into_iter().find(|(size, _)| s.is_multiple_of(*size)).expect("all are whole seconds");
    plural(s / size, name)
}

/// A length of time in its largest unit alone, for axes.
pub fn about(d: Duration) -> String {
    let ms = d.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let Some((size, name)) = units.into_iter().find(|(size, _)| ms * 10 >= size * 15 || *size == 1)
    else {
        return duration(d);
    };
    let tenths = (ms * 10 + size / 2) / size;
    if tenths >= 100 || tenths.is_multiple_of(10) {
        format!("{} {name}", (tenths + 5) / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// A path as a word of a shell.
pub fn quoted(path: &Path) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        // As bytes: bash, ksh and zsh read these.
        _ => {
            let escaped = |byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", path.as_os_str().as_bytes().iter().map(escaped).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_path_as_it_is() {
        use std::ffi::OsStr;
        use std::process::Command;
        for path in [
            "/srv/app.db",
            "/a b/it's.db",
            "/$HOME/`x`\"\\.db",
            "/new\nline\u{e9}.db",
            "/*?[a]~;&|<>.db",
            "-n",
        ] {
            let run = Command::new("bash")
                .args(["-c", &format!("printf %s {}", quoted(Path::new(path)))])
                .output()
                .unwrap();
            assert_eq!(run.stdout, path.as_bytes(), "{path}");
        }
        let odd = Path::new(OsStr::from_bytes(b"/\xff'\\ .db"));
        let run = Command::new("bash")
            .args(["-c", &format!("printf %s {}", quoted(odd))])
            .output()
            .unwrap();
        assert_eq!(run.stdout, odd.as_os_str().as_bytes());
    }

    #[test]
    fn reads_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_999), "999.9 kB");
        assert_eq!(bytes(1_000_000), "1.0 MB");
        assert_eq!(bytes(12_345_678), "12.3 MB");
        assert_eq!(duration(Duration::from_millis(61_500)), "1 min 1 s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
        assert_eq!(span(Duration::from_secs(86_400)), "1 day");
        assert_eq!(span(Duration::from_secs(129_600)), "36 hours");
        assert_eq!(about(Duration::from_secs(25_199)), "7 h");
        assert_eq!(about(Duration::from_millis(2_440)), "2.4 s");
        assert_eq!(about(Duration::from_secs(75)), "75 s");
    }
}
