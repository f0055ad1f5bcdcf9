//! Two kinds of plot, as SVG text: horizontal bars and lines. What is ours, a peer's or a limit
//! shows by pattern, dash and marker, not by colour alone.

use std::fmt::Write as _;

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// Ours, in another way.
    OursToo,
    Limit,
    /// Another limit.
    LimitToo,
    Peer,
    PeerToo,
}

impl Whose {
    fn colour(self) -> &'static str {
        match self {
            Whose::Ours => "#1a56b0",
            Whose::OursToo => "#5b93dd",
            Whose::Limit => "#444444",
            Whose::LimitToo => "#8a8a8a",
            Whose::Peer => "#b35900",
            Whose::PeerToo => "#2d7d46",
        }
    }

    fn fill(self) -> String {
        match self {
            Whose::Ours => self.colour().into(),
            _ => format!("url(#{self:?})"),
        }
    }

    fn dash(self) -> &'static str {
        match self {
            Whose::Ours | Whose::Peer => "none",
            Whose::OursToo | Whose::PeerToo => "7 3",
            Whose::Limit => "2 3",
            Whose::LimitToo => "8 3 2 3",
        }
    }

    fn marker(self, x: f64, y: f64) -> String {
        let colour = self.colour();
        match self {
            Whose::Ours => format!("<circle cx='{x:.1}' cy='{y:.1}' r='4' fill='{colour}'/>"),
            Whose::OursToo => {
                format!(
                    "<circle cx='{x:.1}' cy='{y:.1}' r='4' fill='#fff' stroke='{colour}' stroke-width='1.5'/>"
                )
            }
            Whose::Limit => {
                format!(
                    "<path d='M{:.1} {:.1}l8 8m0 -8l-8 8' stroke='{colour}' stroke-width='1.8'/>",
                    x - 4.0,
                    y - 4.0
                )
            }
            Whose::LimitToo => {
                format!(
                    "<path d='M{x:.1} {:.1}v10m-5 -5h10' stroke='{colour}' stroke-width='1.8'/>",
                    y - 5.0
                )
            }
            Whose::Peer => {
                format!(
                    "<rect x='{:.1}' y='{:.1}' width='8' height='8' fill='{colour}'/>",
                    x - 4.0,
                    y - 4.0
                )
            }
            Whose::PeerToo => {
                format!("<path d='M{x:.1} {:.1}l5 9h-10z' fill='{colour}'/>", y - 5.0)
            }
        }
    }
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    pub whose: Whose,
    pub value: f64,
    /// Quartiles, where they are known.
    pub spread: Option<(f64, f64)>,
    /// What stands behind the bar.
    pub text: String,
    /// Where a mark is set: a target.
    pub target: Option<f64>,
}

const WIDTH: f64 = 760.0;
/// White around letters, where a line passes below them.
const HALO: &str = "stroke='#fff' stroke-width='4' stroke-linejoin='round'";
const FONT: &str = "font-family='Helvetica, Arial, sans-serif' font-size='12'";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(x: f64, y: f64, anchor: &str, more: &str, what: &str) -> String {
    format!("<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}' {more}>{}</text>\n", escape(what))
}

fn document(height: f64, title: &str, body: &str) -> String {
    let mut patterns = String::new();
    for (whose, path, wide) in [
        (Whose::OursToo, "M0 3h6", 3.0),
        (Whose::Limit, "M-1 1l2 -2M0 6l6 -6M5 7l2 -2", 1.2),
        (Whose::LimitToo, "M3 0v6M0 3h6", 0.8),
        (Whose::Peer, "M3 0v6", 2.4),
        (Whose::PeerToo, "M-1 5l2 2M0 0l6 6M5 -1l2 2", 1.2),
    ] {
        let colour = whose.colour();
        write!(
            patterns,
            "<pattern id='{whose:?}' width='6' height='6' patternUnits='userSpaceOnUse'><rect width='6' height='6' fill='#fff'/><path d='{path}' stroke='{colour}' stroke-width='{wide}'/></pattern>"
        )
        .unwrap();
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' width='{WIDTH}' height='{height:.0}' {FONT}>\n<title>{}</title>\n<defs>{patterns}</defs>\n<rect width='{WIDTH}' height='{height:.0}' fill='#fff'/>\n{}{body}</svg>\n",
        escape(title),
        text(16.0, 24.0, "start", "font-size='15' font-weight='bold'", title)
    )
}

/// Horizontal bars in groups, each group with a scale of its own. In each, a dashed line goes on
/// from the end of the limit's bar.
pub fn bars(title: &str, note: &str, groups: &[(String, Vec<Bar>)]) -> String {
    const LEFT: f64 = 230.0;
    const RIGHT: f64 = 190.0;
    let room = WIDTH - LEFT - RIGHT;
    let mut body = text(16.0, 42.0, "start", "fill='#444'", note);
    let mut y = 66.0;
    for (name, bars) in groups {
        body += &text(16.0, y + 4.0, "start", "font-weight='bold'", name);
        y += 16.0;
        let top = y;
        let high = bars
            .iter()
            .flat_map(|b| [b.value, b.spread.map_or(0.0, |s| s.1), b.target.unwrap_or(0.0)]);
        let scale = room / high.fold(f64::MIN_POSITIVE, f64::max);
        if let Some(limit) = bars.iter().find(|b| b.whose == Whose::Limit) {
            let x = LEFT + limit.value * scale;
            let line = format!(
                "<path d='M{x:.1} {top:.1}V{:.1}' stroke='#444' stroke-dasharray='3 3'/>\n",
                y + 21.0 * bars.len() as f64
            );
            body += &line;
        }
        for bar in bars {
            let (width, colour) = ((bar.value * scale).max(0.5), bar.whose.colour());
            body += &text(LEFT - 8.0, y + 13.0, "end", "", &bar.name);
            writeln!(
                body,
                "<rect x='{LEFT}' y='{:.1}' width='{width:.1}' height='14' fill='{}' stroke='{colour}'/>",
                y + 2.0,
                bar.whose.fill()
            )
            .unwrap();
            let mut end = LEFT + width;
            if let Some((low, high)) = bar.spread.filter(|(low, high)| low < high) {
                let (low, high, middle) = (LEFT + low * scale, LEFT + high * scale, y + 9.0);
                writeln!(
                    body,
                    "<path d='M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8' stroke='#fff' stroke-width='3.5'/><path d='M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8' stroke='#000' stroke-width='1.2'/>",
                    middle - 4.0,
                    middle - 4.0,
                    middle - 4.0,
                    middle - 4.0,
                )
                .unwrap();
                end = end.max(high);
            }
            if let Some(target) = bar.target {
                let x = LEFT + target * scale;
                writeln!(body, "<path d='M{x:.1} {y:.1}v18' stroke='#c00000' stroke-width='2.5'/>")
                    .unwrap();
                end = end.max(x);
            }
            body += &text(end + 7.0, y + 13.0, "start", HALO, &bar.text);
            body += &text(end + 7.0, y + 13.0, "start", "", &bar.text);
            y += 21.0;
        }
        y += 18.0;
    }
    document(y, title, &body)
}

/// A line: points in order of x.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub whose: Whose,
    pub points: Vec<(f64, f64)>,
}

/// An axis: from the least power of two (or ten) below all values to the next above, or from zero
/// on.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    pub name: &'a str,
    pub log: Option<f64>,
    pub label: fn(f64) -> String,
}

impl Axis<'_> {
    fn ticks(&self, values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
        let (low, high) =
            values.fold((f64::MAX, f64::MIN_POSITIVE), |(l, h), v| (l.min(v), h.max(v)));
        if let Some(base) = self.log {
            let (first, last) = (low.log(base) + 1e-9, high.log(base) - 1e-9);
            let (first, last) = (first.floor() as i32, last.ceil() as i32);
            return (first..=last.max(first + 1)).map(|i| base.powi(i)).collect();
        }
        let rough = high / 5.0;
        let ten = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * ten)
            .into_iter()
            .find(|s| *s >= rough)
            .unwrap_or(rough);
        (0..=(high / step).ceil() as i32).map(|i| f64::from(i) * step).collect()
    }

    fn place(&self, value: f64, ticks: &[f64]) -> f64 {
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        match self.log {
            Some(_) => (value / low).ln() / (high / low).ln(),
            None => (value - low) / (high - low),
        }
    }
}

/// Lines over one pair of axes, with a legend above them.
pub fn lines(title: &str, note: &str, x: Axis<'_>, y: Axis<'_>, all: &[Line]) -> String {
    const LEFT: f64 = 70.0;
    const HEIGHT: f64 = 280.0;
    let room = WIDTH - LEFT - 40.0;
    let mut body = text(16.0, 42.0, "start", "fill='#444'", note);
    let mut top = 62.0;
    for pair in all.chunks(2) {
        for (line, at) in pair.iter().zip([LEFT, LEFT + room / 2.0]) {
            let (colour, dash) = (line.whose.colour(), line.whose.dash());
            writeln!(
                body,
                "<path d='M{at:.1} {top:.1}h40' stroke='{colour}' stroke-width='2' stroke-dasharray='{dash}'/>"
            )
            .unwrap();
            body += &line.whose.marker(at + 20.0, top);
            body += &text(at + 48.0, top + 4.0, "start", "", &line.name);
        }
        top += 19.0;
    }
    top += 8.0;
    let points = || all.iter().flat_map(|l| l.points.iter().copied());
    let (xs, ys) = (x.ticks(points().map(|p| p.0)), y.ticks(points().map(|p| p.1)));
    let at_x = |v: f64| LEFT + room * x.place(v, &xs);
    let at_y = |v: f64| top + HEIGHT * (1.0 - y.place(v, &ys));
    for &tick in &ys {
        let at = at_y(tick);
        writeln!(body, "<path d='M{LEFT} {at:.1}h{room}' stroke='#ddd'/>").unwrap();
        body += &text(LEFT - 8.0, at + 4.0, "end", "", &(y.label)(tick));
    }
    for &tick in &xs {
        let at = at_x(tick);
        writeln!(body, "<path d='M{at:.1} {top}v{HEIGHT}' stroke='#eee'/>").unwrap();
        body += &text(at, top + HEIGHT + 17.0, "middle", "", &(x.label)(tick));
    }
    writeln!(body, "<path d='M{LEFT} {top}v{HEIGHT}h{room}' stroke='#000' fill='none'/>").unwrap();
    body += &text(LEFT + room / 2.0, top + HEIGHT + 36.0, "middle", "", x.name);
    body += &text(
        0.0,
        0.0,
        "middle",
        &format!("transform='translate(18 {:.1}) rotate(-90)'", top + HEIGHT / 2.0),
        y.name,
    );
    for line in all {
        let (colour, dash) = (line.whose.colour(), line.whose.dash());
        let path: Vec<String> =
            line.points.iter().map(|p| format!("{:.1} {:.1}", at_x(p.0), at_y(p.1))).collect();
        writeln!(
            body,
            "<path d='M{}' fill='none' stroke='{colour}' stroke-width='2' stroke-dasharray='{dash}'/>",
            path.join("L")
        )
        .unwrap();
        line.points.iter().for_each(|p| body += &line.whose.marker(at_x(p.0), at_y(p.1)));
    }
    document(top + HEIGHT + 48.0, title, &body)
}
