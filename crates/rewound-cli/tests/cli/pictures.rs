//! The timeline picture, from one commit to five weeks of them.

use rewound::CompactOptions;

use crate::estate::{Estate, SECOND, commits};

/// Draws a node; keeps the picture where `REWOUND_PICTURES` says, for somebody to look at.
fn draw(estate: &Estate, name: &str) -> String {
    let file = format!("{name}.svg");
    estate.ok(&["info", "--svg", &file]);
    let svg = std::fs::read_to_string(estate.path(&file)).unwrap();
    if let Some(dir) = std::env::var_os("REWOUND_PICTURES") {
        std::fs::write(std::path::Path::new(&dir).join(&file), &svg).unwrap();
    }
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    svg
}

fn small() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.layer_log_bytes = 1;
    options.fan_out = 4;
    options
}

#[test]
fn of_one_commit() {
    let estate = Estate::new();
    let (_, writer) = estate.writer("app.db");
    commits(&estate, &writer, 1, SECOND, |_, _| {});
    writer.close().unwrap();
    let svg = draw(&estate, "one");
    assert!(svg.contains("restorable") && svg.contains("1 commit"));
}

#[test]
fn of_five_weeks_with_points_resyncs_layers_and_a_gap() {
    let estate = Estate::new();
    let hour = 3_600 * SECOND;
    for day in 0..35 {
        let (node, writer) = estate.writer("app.db");
        commits(&estate, &writer, 24 * (1 + day % 7), hour / (1 + day % 7), |n, batch| {
            if n == 3 && day % 3 == 0 {
                batch.restore_point(&format!("release 1.{day} <\"&\">")).unwrap();
            }
            if n == 5 && day % 11 == 0 {
                batch.annotate("resync", "the log was reset unseen").unwrap();
            }
        });
        writer.close().unwrap();
        node.maintain(&small()).unwrap();
    }
    let group = estate.path("archive/nodes/00000001/wal/00000001/00000000");
    let mut segments: Vec<_> =
        std::fs::read_dir(group).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    std::fs::remove_file(&segments[12]).unwrap();
    std::fs::remove_file(&segments[13]).unwrap();
    let svg = draw(&estate, "weeks");
    assert!(
        svg.contains("segments are missing after LSN") && svg.contains("class=\"resync\" points")
    );
    assert!(svg.contains("release 1.0 &lt;&quot;&amp;&quot;&gt;"));
}

#[test]
fn of_many_restore_points() {
    let estate = Estate::new();
    let (_, writer) = estate.writer("app.db");
    commits(&estate, &writer, 300, SECOND, |n, batch| {
        if n % 2 == 0 {
            batch.restore_point(&format!("point number {n} of a great many")).unwrap();
        }
    });
    writer.close().unwrap();
    let svg = draw(&estate, "points");
    assert!(svg.contains("not named"));
}

#[test]
fn of_nothing_yet() {
    let estate = Estate::new();
    let none = estate.run(&["info", "--svg", "none.svg"]);
    assert!(none.code == 1 && none.err.contains("nothing yet"), "{none:?}");
    estate.writer("app.db").1.close().unwrap();
    let svg = draw(&estate, "empty");
    assert!(svg.contains("nothing can be restored yet") && !svg.contains("1970"), "{svg}");
}

#[test]
fn of_a_great_many_commits_with_idle_times() {
    let estate = Estate::new();
    let (node, writer) = estate.writer("app.db");
    for hour in 0..24 {
        commits(&estate, &writer, if hour % 5 == 2 { 12_000 } else { 7 }, SECOND / 10, |_, _| {});
        estate.clock.advance(3_600 * SECOND);
        writer.tick().unwrap();
    }
    writer.close().unwrap();
    node.maintain(&small()).unwrap();
    let svg = draw(&estate, "many");
    assert!(svg.len() < 100_000, "{}", svg.len());
}
