//! Plots and tables of docs/performance.md, from the results of all programs here and of the
//! crate's own benches.
//!
//! A table goes between `<!-- figures: NAME -->` and `<!-- end -->`; one whose results are missing
//! stays as it is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Spread, option, results_dir};
use crate::svg::{Axis, Bar, Line, Whose, bars, lines};

/// A table that a bench of the crate has kept.
struct Table {
    columns: Vec<String>,
    rows: Vec<(String, Vec<f64>)>,
    date: String,
    /// Over the minute before its end; not kept of some.
    load: Option<f64>,
}

impl Table {
    /// Says so where it is missing: whatever is made of it stays as it is.
    fn load(name: &str) -> Option<Table> {
        let all = json(name)?;
        let string = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let rows = all["rows"].as_array()?.iter().map(|row| {
            let cells = row.as_array().map(Vec::as_slice).unwrap_or_default();
            (string(&cells[0]), cells[1..].iter().filter_map(Value::as_f64).collect())
        });
        Some(Table {
            columns: all["columns"].as_array()?.iter().map(string).collect(),
            rows: rows.collect(),
            date: string(&all["date"]),
            load: all["load"].as_f64(),
        })
    }

    fn column(&self, name: &str) -> usize {
        let found = self.columns.iter().position(|c| c == name);
        found.unwrap_or_else(|| panic!("no column {name} among {:?}", self.columns)) - 1
    }

    /// The figure of the first row that begins so.
    fn get(&self, row: &str, column: &str) -> f64 {
        let at = self.column(column);
        self.rows
            .iter()
            .find(|(name, _)| name.starts_with(row))
            .map_or(f64::NAN, |(_, figures)| figures[at])
    }

    fn pairs(&self, x: &str, y: &str) -> Vec<(f64, f64)> {
        let (x, y) = (self.column(x), self.column(y));
        self.rows.iter().map(|(_, figures)| (figures[x], figures[y])).collect()
    }
}

fn json(name: &str) -> Option<Value> {
    let path = results_dir().join(format!("{name}.json"));
    let parsed = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    if parsed.is_none() {
        println!("{}: missing, what is made of it stays", path.display());
    }
    parsed
}

/// About three digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => {
            let digits = format!("{:.0}", (value / 10.0).round() * 10.0);
            let (head, tail) = digits.split_at(digits.len() - 3);
            format!("{head},{tail}")
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn bytes(value: f64) -> String {
    match value {
        v if v >= 1_048_576.0 => format!("{:.0} MiB", v / 1_048_576.0),
        v if v >= 1024.0 => format!("{:.0} KiB", v / 1024.0),
        v => format!("{v:.0} B"),
    }
}

fn plain(value: f64) -> String {
    if value == value.round() { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    [row(&head), rule, rows.iter().map(|r| row(r)).collect()].concat()
}

/// What the tables and plots are written to.
struct Out {
    docs: PathBuf,
    page: String,
}

impl Out {
    fn plot(&self, name: &str, svg: &str) {
        let dir = self.docs.join("plots");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{name}.svg")), svg).unwrap();
    }

    fn section(&mut self, name: &str, text: &str) {
        let begin = format!("<!-- figures: {name} -->\n");
        let Some(start) = self.page.find(&begin).map(|at| at + begin.len()) else {
            println!("performance.md: no section {name}");
            return;
        };
        let end = start + self.page[start..].find("<!-- end -->").expect("a section has an end");
        self.page.replace_range(start..end, text);
    }
}

pub fn run() {
    let docs = option("--docs")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"), PathBuf::from);
    let page = fs::read_to_string(docs.join("performance.md")).unwrap();
    let mut out = Out { docs, page };
    limits(&mut out);
    scan(&mut out);
    sizing(&mut out);
    logs(&mut out);
    recovery(&mut out);
    litestream(&mut out);
    watcher(&mut out);
    growth(&mut out);
    memory(&mut out);
    fs::write(out.docs.join("performance.md"), &out.page).unwrap();
    println!("written: {}", out.docs.display());
}

/// One line of the table of limits.
struct Limit {
    what: String,
    limit: String,
    ours: String,
    /// Ours ÷ limit, as it is told.
    ratio: f64,
    /// As speed: more is better.
    speed: f64,
    target: Option<f64>,
    told_target: &'static str,
    repeat: &'static str,
}

fn gather() -> Vec<Limit> {
    let mut all = Vec::new();
    if let Some(t) = Table::load("scan") {
        let (frame, raw, ours) =
            (t.column("frame bytes"), t.column("raw GB/s"), t.column("ours GB/s"));
        for (backend, row) in &t.rows {
            let target = match row[frame] {
                f if f >= 65_536.0 => Some(0.9),
                f if f >= 4096.0 => Some(0.5),
                _ => None,
            };
            let ratio = row[ours] / row[raw];
            all.push(Limit {
                what: format!("scan, {backend}, frames of {}", bytes(row[frame])),
                limit: format!("AES-256-GCM alone, {} GB/s", short(row[raw])),
                ours: format!("{} GB/s", short(row[ours])),
                ratio,
                speed: ratio,
                target,
                told_target: match target {
                    Some(t) if t > 0.6 => "≥ 0.90",
                    Some(_) => "≥ 0.50",
                    None => "-",
                },
                repeat: "scan",
            });
        }
        let gain = t.column("ours, two threads");
        if let Some((_, row)) = t.rows.iter().find(|(b, r)| b == "aws-lc" && r[frame] == 65_536.0) {
            all.push(Limit {
                what: "scan, aws-lc, 64 KiB, two threads".into(),
                limit: format!(
                    "AES-256-GCM alone: × {} of one",
                    short(row[t.column("raw, two threads")])
                ),
                ours: format!("× {} of one", short(row[gain])),
                ratio: row[gain] / 2.0,
                speed: row[gain] / 2.0,
                target: Some(0.95),
                told_target: "≥ 0.95 (× 1.9)",
                repeat: "scan",
            });
        }
    }
    if let Some(t) = Table::load("commits") {
        for (name, row) in &t.rows {
            let speed = row[2];
            let one = name.contains("one thread");
            all.push(Limit {
                what: format!("commit, {name}"),
                limit: format!("overwrite + fdatasync, {}/s", short(row[0])),
                ours: format!("{}/s", short(row[1])),
                ratio: speed,
                speed,
                target: one.then_some(1.0 / 1.1),
                told_target: if one { "≥ 0.91 (1.10 × its time)" } else { "-" },
                repeat: "commit",
            });
        }
    }
    if let Some(t) = Table::load("restore") {
        for name in ["snapshot and log", "snapshot and layers"] {
            let ratio = t.get(name, "over copy");
            all.push(Limit {
                what: format!("restore, {name}"),
                limit: format!("copy + fsync, {} ms", short(t.get("copy", "ms"))),
                ours: format!("{} ms", short(t.get(name, "ms"))),
                ratio: 1.0 / ratio,
                speed: 1.0 / ratio,
                target: Some(1.0 / 1.5),
                told_target: "≥ 0.67 (1.5 × its time)",
                repeat: "restore",
            });
        }
    }
    if let Some(t) = Table::load("snapshot") {
        for (name, row) in &t.rows {
            all.push(Limit {
                what: format!("snapshot build, {name}"),
                limit: format!("zstd-1 alone, {} GB/s", short(row[0])),
                ours: format!("{} GB/s", short(row[1])),
                ratio: row[2],
                speed: row[2],
                target: Some(0.9),
                told_target: "≥ 0.90",
                repeat: "snapshot",
            });
            all.push(Limit {
                what: format!("... {name}, with decompression"),
                limit: format!("zstd-1, and twice back, {} GB/s", short(row[3])),
                ours: format!("{} GB/s", short(row[1])),
                ratio: row[4],
                speed: row[4],
                target: None,
                told_target: "-",
                repeat: "snapshot",
            });
        }
    }
    all
}

fn limits(out: &mut Out) {
    let all = gather();
    if all.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|l| {
            let met = l.target.is_none_or(|t| l.speed >= t * 0.995);
            let ratio =
                if met { short(l.ratio) } else { format!("**{}: missed**", short(l.ratio)) };
            let repeat = format!("`cargo bench --bench {}`", l.repeat);
            vec![
                l.what.clone(),
                l.limit.clone(),
                l.ours.clone(),
                l.told_target.into(),
                ratio,
                repeat,
            ]
        })
        .collect();
    out.section(
        "limits",
        &table(
            &["what", "limit, same run", "ours", "target", "ours ÷ limit, as speed", "repeat with"],
            &rows,
        ),
    );
    let bar = |l: &Limit| Bar {
        name: l.what.clone(),
        whose: Whose::Ours,
        value: l.speed,
        spread: None,
        text: match l.limit.rsplit_once(", ").or_else(|| l.limit.rsplit_once(": ")) {
            Some((_, figure)) => format!("{} (limit: {})", short(l.speed), figure.trim()),
            None => short(l.speed),
        },
        target: l.target,
    };
    let mut list = vec![Bar {
        name: "the limit".into(),
        whose: Whose::Limit,
        value: 1.0,
        spread: None,
        text: "1".into(),
        target: None,
    }];
    // What gathers many commits in one sync goes far beyond what one by one do: it would press the
    // rest together.
    list.extend(all.iter().filter(|l| l.speed <= 3.0).map(bar));
    let note = "Share of the speed of the limit (dashed line), measured in turns with it. Red mark: the target.";
    out.plot(
        "limits",
        &bars("rewound and what the machine allows", note, &[(String::new(), list)]),
    );
}

fn scan(out: &mut Out) {
    let Some(t) = Table::load("scan") else { return };
    let line = |backend: &str, column: &str, whose, name: &str| {
        let (x, y) = (t.column("frame bytes"), t.column(column));
        let points =
            t.rows.iter().filter(|(b, _)| b == backend).map(|(_, r)| (r[x], r[y])).collect();
        Line { name: name.into(), whose, points }
    };
    let all = [
        line("aws-lc", "raw GB/s", Whose::Limit, "limit: aws-lc alone"),
        line("aws-lc", "ours GB/s", Whose::Ours, "rewound with aws-lc"),
        line("portable", "raw GB/s", Whose::LimitToo, "limit: aes-gcm alone"),
        line("portable", "ours GB/s", Whose::OursToo, "rewound with aes-gcm (portable)"),
    ];
    let note = "Read, authenticate and decrypt a sealed file in memory, one thread. Limit: AES-256-GCM over the same bytes.";
    let x = Axis { name: "plaintext of a frame", log: Some(2.0), label: bytes };
    let y = Axis { name: "GB/s", log: None, label: plain };
    let all: Vec<Line> = all.into_iter().filter(|l| !l.points.is_empty()).collect();
    out.plot("scan", &lines("Scan of sealed frames", note, x, y, &all));
}

fn sizing(out: &mut Out) {
    let mut rows = Vec::new();
    if let Some(t) = Table::load("delta") {
        rows.extend(
            t.rows.iter().map(|(name, r)| vec![name.clone(), format!("{} µs", short(r[0]))]),
        );
    }
    if let Some(t) = Table::load("log-size") {
        for (name, r) in &t.rows {
            let text =
                format!("{} B, {} B while pages are first written", short(r[1]), short(r[0]));
            rows.push(vec![format!("log of a TPC-B transaction, {name}"), text]);
        }
    }
    if let Some(t) = Table::load("recovery-scan") {
        rows.push(vec![
            "recovery scan, from the page cache".into(),
            format!("{} GB/s", short(t.get("scan", "GB/s"))),
        ]);
        let none = t.get("open a writer, no log", "ms");
        rows.push(vec!["open a writer over an empty log".into(), format!("{} ms", short(none))]);
    }
    if let Some(t) = Table::load("catalog") {
        for (name, r) in &t.rows {
            rows.push(vec![format!("open an archive: {name}"), format!("{} ms", short(r[0]))]);
        }
    }
    if let Some(t) = Table::load("layers") {
        for (name, r) in &t.rows {
            rows.push(vec![name.replace(", us", ", µs"), short(r[0])]);
        }
    }
    if !rows.is_empty() {
        out.section("sizing", &table(&["step", "figure"], &rows));
    }
}

fn whose(log: &str) -> Whose {
    match log {
        "rewound" => Whose::Ours,
        "rewound, scan alone" => Whose::OursToo,
        "raft-engine" => Whose::Peer,
        "okaywal" => Whose::PeerToo,
        "Litestream" => Whose::Peer,
        _ => Whose::Limit,
    }
}

fn of(value: &Value, name: &str) -> f64 {
    value[name]["median"].as_f64().unwrap_or(f64::NAN)
}

fn spread(value: &Value, name: &str) -> Option<(f64, f64)> {
    Some((value[name]["low"].as_f64()?, value[name]["high"].as_f64()?))
}

fn told(value: &Value, name: &str) -> String {
    let (low, high) = spread(value, name).unwrap_or((f64::NAN, f64::NAN));
    format!("{} ({} to {})", short(of(value, name)), short(low), short(high))
}

fn measured(all: &Value) -> String {
    format!(
        "{}; load average before {}, after {}\n\n",
        all["machine"]["date"].as_str().unwrap_or("date unknown"),
        all["load"]["before"],
        all["load"]["after"]
    )
}

fn logs(out: &mut Out) {
    let mut groups = Vec::new();
    let mut rows = Vec::new();
    let mut when = String::new();
    for (name, rate) in [("commit", "commits a second"), ("append", "MB a second")] {
        let Some(all) = json(name) else { continue };
        when = measured(&all);
        let figures = all["figures"].as_array().map(Vec::as_slice).unwrap_or_default();
        let threads = |f: &Value| f["threads"].as_u64().unwrap_or(0);
        let mut counts: Vec<u64> = figures.iter().map(threads).collect();
        counts.dedup();
        for count in counts {
            let what = match count {
                0 => "16,384 appends of 1 KiB, then one sync".to_owned(),
                1 => "durable commits of 1 KiB, one thread".to_owned(),
                n => format!("durable commits of 1 KiB, {n} threads"),
            };
            let mut group = Vec::new();
            for figure in figures.iter().filter(|f| threads(f) == count) {
                let log = figure["log"].as_str().unwrap_or_default();
                let over = of(figure, "rate over raw");
                group.push(Bar {
                    name: log.into(),
                    whose: whose(log),
                    value: of(figure, rate),
                    spread: spread(figure, rate),
                    text: format!("{}  ({} × raw)", short(of(figure, rate)), short(over)),
                    target: None,
                });
                let unit = if count == 0 { "MB/s" } else { "a second" };
                rows.push(vec![
                    what.clone(),
                    log.into(),
                    format!("{} {unit}", short(of(figure, rate))),
                    told(figure, "rate over raw"),
                    told(figure, "rate of rewound over it"),
                ]);
            }
            groups.push((format!("{what} ({rate})"), group));
        }
    }
    if groups.is_empty() {
        return;
    }
    let head = ["what", "log", "rate", "× raw", "rewound ÷ it"];
    out.section("logs", &[when, table(&head, &rows)].concat());
    let note = "Median and quartiles, in turns. raw: a file that is there overwritten, and fdatasync. rewound encrypts.";
    out.plot("logs", &bars("Commits and appends", note, &groups));
}

fn recovery(out: &mut Out) {
    let Some(all) = json("recovery") else { return };
    let mut groups: Vec<(String, Vec<Bar>)> = Vec::new();
    let mut rows = Vec::new();
    for figure in all["figures"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let log = figure["log"].as_str().unwrap_or_default();
        let what = format!("{} MiB in records of {} KiB", figure["MiB"], figure["record KiB"]);
        if groups.last().is_none_or(|(name, _)| *name != what) {
            groups.push((what.clone(), Vec::new()));
        }
        if let Some((_, group)) = groups.last_mut() {
            group.push(Bar {
                name: log.into(),
                whose: whose(log),
                value: of(figure, "GB a second"),
                spread: spread(figure, "GB a second"),
                text: format!(
                    "{} GB/s, {} ms",
                    short(of(figure, "GB a second")),
                    short(of(figure, "milliseconds"))
                ),
                target: None,
            });
        }
        rows.push(vec![
            what,
            log.into(),
            told(figure, "milliseconds"),
            short(of(figure, "GB a second")),
            told(figure, "time over rewound"),
        ]);
    }
    let head = ["log", "who", "ms", "GB/s", "its time ÷ that of rewound"];
    out.section("recovery", &[measured(&all), table(&head, &rows)].concat());
    let note = "GB/s, from the page cache. rewound decrypts all, okaywal compares CRCs, raft-engine reads headers.";
    out.plot("recovery", &bars("Opening a log that was not closed", note, &groups));
}

fn litestream(out: &mut Out) {
    let Some(all) = json("litestream") else { return };
    let figures = &all["figures"];
    let tools: Vec<&str> =
        ["rewound", "Litestream"].into_iter().filter(|t| figures[t].is_object()).collect();
    let Some(first) = tools.first() else { return };
    let mut names: Vec<&String> = figures[first]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(n, _)| n)
        .filter(|n| *n != "version")
        .collect();
    // What the application feels first, then what is kept, then what a restore takes.
    let order = [
        "workload",
        "stored",
        "seconds until",
        "processor",
        "peak",
        "restorable",
        "restore of the latest state, ms",
    ];
    names.sort_by_key(|n| order.iter().position(|o| n.starts_with(o)).unwrap_or(order.len()));
    let mut groups = Vec::new();
    let mut rows = Vec::new();
    for name in names {
        let mut row = vec![name.clone()];
        let mut group = Vec::new();
        for tool in &tools {
            row.push(told(&figures[tool], name));
            group.push(Bar {
                name: (*tool).into(),
                whose: whose(tool),
                value: of(&figures[tool], name).max(0.0),
                spread: spread(&figures[tool], name),
                text: short(of(&figures[tool], name)),
                target: None,
            });
        }
        if tools.len() == 2 {
            row.push(short(of(&figures[tools[1]], name) / of(&figures[tools[0]], name)));
        }
        rows.push(row);
        groups.push((name.clone(), group));
    }
    let mut head = vec![""];
    let versions: Vec<&str> =
        tools.iter().map(|t| figures[t]["version"].as_str().unwrap_or(t)).collect();
    head.extend(&tools);
    if tools.len() == 2 {
        head.push("Litestream ÷ rewound");
    }
    let settings = &all["settings"];
    let text = format!(
        "{} transactions on a database of {} MB, {} rounds; versions: {}. {}",
        settings["transactions"],
        settings["database bytes"].as_u64().unwrap_or(0) / 1_000_000,
        settings["rounds"],
        versions.join(", "),
        measured(&all)
    );
    out.section("litestream", &[text, table(&head, &rows)].concat());
    let note = "Less is better, but for restorable states; each group has a scale of its own. Both with their defaults; rewound encrypts.";
    out.plot("litestream", &bars("A SQLite workload under protection", note, &groups));
}

/// What protecting a SQLite database costs, from the crate's own bench.
fn watcher(out: &mut Out) {
    let mut rows = Vec::new();
    let mut row = |what: &str, target: &str, figure: String| {
        rows.push(vec![what.to_owned(), target.to_owned(), figure])
    };
    if let Some(t) = Table::load("sqlite-watch") {
        let spread =
            |column: &str| Spread::of(t.rows.iter().map(|(_, figures)| figures[t.column(column)]));
        let median = |column: &str| short(spread(column).median);
        let slow_down = spread("slow-down");
        let figure = format!(
            "{} ({} to {})",
            short(slow_down.median),
            short(slow_down.low),
            short(slow_down.high)
        );
        row("transactions a second, bare ÷ watched, unpaced", "≤ 1.10", figure);
        row("... bare", "", median("tx/s without"));
        for (what, column) in [
            ("the slowest transaction but one in a thousand", "p99.9"),
            ("the slowest transaction", "most"),
        ] {
            let of = |who| median(&format!("{column} ms {who}"));
            row(
                &format!("{what}, ms: bare, watched"),
                "",
                format!("{}, {}", of("without"), of("with")),
            );
        }
        row("log bytes of a transaction", "≤ 320", median("bytes/tx"));
        row("watcher's processor time of a transaction, µs", "", median("cpu us/tx"));
        row("watcher's peak memory, MiB", "", median("peak MiB"));
    }
    if let Some(t) = Table::load("sqlite-watch-latency") {
        for (load, figures) in &t.rows {
            let [p50, p99, most] =
                ["p50 ms", "p99 ms", "most ms"].map(|c| short(figures[t.column(c)]));
            let what = format!("commit to archived at {load}, ms: p50, p99, most");
            row(&what, "p99 ≤ 20", format!("{p50}, {p99}, {most}"));
        }
    }
    if let Some(t) = Table::load("sqlite-watch-idle") {
        row("idle watcher, % of a core", "< 0.5", short(t.get("idle", "% of a core")));
        row("... its growth, MiB", "0", short(t.get("idle", "growth MiB")));
    }
    if let Some(t) = Table::load("sqlite-watch-restore") {
        for (from, figures) in &t.rows {
            let ratio = figures[t.column("restore ms")] / figures[t.column("copy + fsync ms")];
            row(
                &format!("restore of the latest state, {from} ÷ copy + fsync"),
                "≤ 1.5",
                short(ratio),
            );
        }
    }
    if !rows.is_empty() {
        out.section("watcher", &table(&["what", "target", "measured"], &rows));
    }
}

fn growth(out: &mut Out) {
    let ms = Axis { name: "ms", log: Some(10.0), label: plain };
    let cells = |t: &Table, columns: &[&str]| -> Vec<Vec<String>> {
        let value = |row: &[f64], c: &str| short(row[t.column(c)]);
        let line = |(name, row): &(String, Vec<f64>)| {
            let mut cells = vec![name.clone()];
            cells.extend(columns.iter().map(|c| value(row, c)));
            cells
        };
        t.rows.iter().map(line).collect()
    };
    if let Some(t) = Table::load("scaling-size") {
        let line = |name: &str, whose, column| Line {
            name: name.into(),
            whose,
            points: t.pairs("MiB", column),
        };
        let all = [
            line("limit: copy + fsync", Whose::Limit, "copy ms"),
            line("restore of the latest state", Whose::Ours, "restore ms"),
            line("build of a snapshot", Whose::OursToo, "snapshot ms"),
        ];
        let x = Axis { name: "state, MiB", log: Some(4.0), label: plain };
        let note = "One page in a hundred was written since the last snapshot. Two threads.";
        out.plot("size", &lines("Cost by size of the state", note, x, ms, &all));
        let columns =
            ["copy ms", "restore ms", "restore over copy", "snapshot ms", "snapshot GB/s"];
        let head = [
            "state",
            "copy + fsync, ms",
            "restore, ms",
            "restore ÷ copy",
            "snapshot, ms",
            "snapshot, GB/s",
        ];
        out.section("size", &table(&head, &cells(&t, &columns)));
    }
    if let Some(t) = Table::load("scaling-window") {
        let line = |name: &str, whose, column| Line {
            name: name.into(),
            whose,
            points: t.pairs("days", column),
        };
        let all = [
            line("limit: copy + fsync", Whose::Limit, "copy ms"),
            line("latest, with maintenance", Whose::Ours, "maintained ms"),
            line("middle of the window, with maintenance", Whose::OursToo, "maintained, middle ms"),
            line("latest, from the log alone", Whose::PeerToo, "log alone ms"),
        ];
        let x = Axis {
            name: "days of log (4,000 commits of four pages a day)",
            log: None,
            label: plain,
        };
        let y = Axis { name: "ms", log: None, label: plain };
        let note = "Restore of 64 MiB; layers and snapshots built every day, or not at all.";
        out.plot("window", &lines("Restore by length of the window", note, x, y, &all));
        let columns = [
            "log MiB",
            "archive MiB",
            "copy ms",
            "maintained ms",
            "maintained, middle ms",
            "log alone ms",
        ];
        let head = [
            "window",
            "log, MiB",
            "archive, MiB",
            "copy + fsync, ms",
            "latest, ms",
            "its middle, ms",
            "latest, log alone, ms",
        ];
        let first = t.get("1 days", "maintained ms");
        let longest = t.rows.iter().map(|(_, r)| r[t.column("maintained ms")]).fold(0.0, f64::max);
        let text = format!(
            "\nThe slowest of all ÷ one day, latest state: {} (target ≤ 1.25).\n",
            short(longest / first)
        );
        out.section("window", &[table(&head, &cells(&t, &columns)), text].concat());
    }
    if let Some(t) = Table::load("scaling-page") {
        let line = |name: &str, whose, column| Line {
            name: name.into(),
            whose,
            points: t.pairs("page bytes", column),
        };
        let x = Axis { name: "page", log: Some(2.0), label: bytes };
        let all = [
            line("limit: copy + fsync, ms", Whose::Limit, "copy ms"),
            line("restore, ms", Whose::Ours, "restore ms"),
            line("buffered commit, µs", Whose::OursToo, "commit us"),
            line("log of a commit, B", Whose::PeerToo, "log bytes a commit"),
        ];
        let y = Axis { name: "ms, µs, B", log: Some(10.0), label: plain };
        let note = "64 MiB of state; each commit changes one row of 128 bytes.";
        out.plot("page", &lines("Cost by size of the pages", note, x, y, &all));
        let columns = ["commit us", "log bytes a commit", "copy ms", "restore ms"];
        let head = [
            "page",
            "buffered commit, µs",
            "log of a commit, B",
            "copy + fsync, ms",
            "restore, ms",
        ];
        out.section("page", &table(&head, &cells(&t, &columns)));
    }
    if let Some(t) = Table::load("scaling-threads") {
        let bar = |(name, r): &(String, Vec<f64>)| Bar {
            name: name.clone(),
            whose: if name.contains("limit") { Whose::Limit } else { Whose::Ours },
            value: r[2],
            spread: None,
            text: format!("× {}: {} to {} ms", short(r[2]), short(r[0]), short(r[1])),
            target: None,
        };
        let group =
            (String::from("256 MiB: gain of the second thread"), t.rows.iter().map(bar).collect());
        out.plot(
            "threads",
            &bars("Two threads for one", "Two cores. Restores also wait for the disk.", &[group]),
        );
        let columns = ["one thread ms", "two threads ms", "gain"];
        out.section(
            "threads",
            &table(&["what", "one thread, ms", "two, ms", "gain, ×"], &cells(&t, &columns)),
        );
    }
}

fn memory(out: &mut Out) {
    let mut rows = Vec::new();
    let mut sizes: Vec<(u64, u64, String)> = Vec::new();
    for entry in fs::read_dir(results_dir()).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts = name
            .strip_prefix("memory-")
            .and_then(|n| n.strip_suffix(".json"))
            .and_then(|n| n.split_once('-'));
        if let Some((Ok(state), Ok(log))) = parts.map(|(s, l)| (s.parse(), l.parse())) {
            sizes.push((state, log, name.trim_end_matches(".json").to_owned()));
        }
    }
    sizes.sort_unstable();
    for (state, log, name) in sizes {
        let Some(t) = Table::load(&name) else { continue };
        for (what, r) in &t.rows {
            rows.push(vec![
                format!("{state} + {log} MiB"),
                what.clone(),
                format!("{:.0} MiB", r[0]),
                format!("{} s", short(r[2])),
                format!(
                    "{}{}",
                    t.date,
                    t.load.map_or(String::new(), |load| format!(", load {load}"))
                ),
            ]);
        }
    }
    if !rows.is_empty() {
        out.section("memory", &table(&["state + log", "what", "peak", "took", "measured"], &rows));
    }
}
