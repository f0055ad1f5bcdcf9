//! Prints tables: aligned columns, and colours where a person looks on.

use std::io::IsTerminal;

/// A figure with commas between its thousands.
pub fn figure(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes, in the unit that suits it.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{} B", figure(bytes)),
        10_000..1_000_000 => format!("{}.{} kB", bytes / 1_000, bytes / 100 % 10),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    }
}

/// How to emphasise.
#[derive(Clone, Copy)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// Colours only for a terminal, and only where `NO_COLOR` (<https://no-color.org>) does not
    /// forbid them.
    pub fn detect() -> Style {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Style { colours: std::io::stdout().is_terminal() && !forbidden }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn verdict(self, good: bool) -> String {
        if good { self.paint("32", "✓") } else { self.paint("31;1", "✗ DIFFERS") }
    }
}

/// Prints a header and rows; the first column is text, the others are figures.
pub fn print<const N: usize>(style: Style, header: [&str; N], rows: &[[String; N]]) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let title = header.get(column).map_or(0, |title| title.chars().count());
        cells.chain([title]).max().unwrap_or(0)
    });
    let line = |cells: &[String; N]| {
        let padded =
            cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    println!("{}", style.bold(&line(&header.map(str::to_owned))));
    println!("{}", "─".repeat(widths.iter().sum::<usize>() + 2 * (N - 1)));
    for row in rows {
        println!("{}", line(row));
    }
}
