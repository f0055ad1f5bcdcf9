//! From times to places, and round numbers along both axes.

use rewound::{Position, Timestamp};

use crate::commands::Facts;
use crate::moment::Zone;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
/// Steps between ticks, in nanoseconds.
const STEPS: [u64; 23] = [
    SECOND / 1_000,
    SECOND / 100,
    SECOND / 20,
    SECOND / 10,
    SECOND / 2,
    SECOND,
    5 * SECOND,
    15 * SECOND,
    30 * SECOND,
    60 * SECOND,
    300 * SECOND,
    900 * SECOND,
    1_800 * SECOND,
    3_600 * SECOND,
    3 * 3_600 * SECOND,
    6 * 3_600 * SECOND,
    12 * 3_600 * SECOND,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    60 * DAY,
    365 * DAY,
];
/// Ticks that fit beside each other.
const TICKS: u64 = 8;

/// The time axis.
pub struct Axis {
    from: Timestamp,
    to: Timestamp,
    left: f64,
    right: f64,
}

/// A mark on it.
pub struct Tick {
    pub x: f64,
    pub label: String,
    pub below: String,
}

impl Axis {
    /// From the oldest thing that there is to draw to the newest.
    pub fn new(facts: &Facts, (left, right): (f64, f64)) -> Axis {
        let window = facts.window.as_ref().ok();
        let layers = facts.layers.iter().map(|l| l.timestamp);
        let points = facts.points.iter().map(|(_, c)| c.timestamp);
        let known = layers.chain(points).filter(|t| *t > Timestamp::ZERO);
        let beyond = facts.beyond.first().map(|s| s.from.timestamp);
        let begins = window
            .map(|w| w.earliest.timestamp)
            .into_iter()
            .chain(beyond)
            .chain([facts.activity.from]);
        let ends = window.map(|w| w.known_until).into_iter().chain([facts.activity.to]);
        let from = known.clone().chain(begins).min().expect("the activity begins some time");
        let to = known.chain(ends).max().expect("the activity ends some time");
        // A single moment stands in the middle of two milliseconds.
        let pad = std::time::Duration::from_millis(1);
        if to > from {
            Axis { from, to, left, right }
        } else {
            Axis { from: from.saturating_sub(pad), to: to.saturating_add(pad), left, right }
        }
    }

    fn span(&self) -> u64 {
        (self.to.as_nanos() - self.from.as_nanos()).max(1)
    }

    /// Where a time is.
    pub fn x(&self, t: Timestamp) -> f64 {
        let since = t.clamp(self.from, self.to).as_nanos() - self.from.as_nanos();
        #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
        let share = since as f64 / self.span() as f64;
        self.left + (self.right - self.left) * share
    }

    /// The time of the commit at a position where a layer begins: another layer ends there, or the
    /// log begins.
    pub fn time_of(&self, facts: &Facts, position: Position) -> Timestamp {
        facts.layers.iter().find(|l| l.to == position).map_or(self.from, |l| l.timestamp)
    }

    /// Round times in the zone.
    pub fn ticks(&self, zone: &Zone) -> Vec<Tick> {
        if self.from == Timestamp::ZERO {
            // Of nothing there is no time either.
            return Vec::new();
        }
        // Of what is too long for the longest there are more ticks.
        let step = STEPS.into_iter().find(|s| self.span() / s <= TICKS).unwrap_or(365 * DAY);
        let (form, below_form) = match step {
            s if s < SECOND => ("%H:%M:%S%.3f", "%Y-%m-%d"),
            s if s < 60 * SECOND => ("%H:%M:%S", "%Y-%m-%d"),
            s if s < DAY => ("%H:%M", "%Y-%m-%d"),
            _ => ("%b %-d", "%Y"),
        };
        let mut ticks: Vec<Tick> = Vec::new();
        let mut last = String::new();
        let local = |t: Timestamp| t.as_nanos().saturating_add_signed(zone.ahead(t));
        let mut at = local(self.from).div_ceil(step) * step;
        while at <= local(self.to) {
            // By the offset of then, which may be another than at the beginning.
            let about = Timestamp::from_nanos(at.saturating_add_signed(-zone.ahead(self.from)));
            let t = Timestamp::from_nanos(at.saturating_add_signed(-zone.ahead(about)));
            let below = zone.format(t, below_form);
            let shown = if below == last { String::new() } else { below.clone() };
            if t >= self.from && t <= self.to {
                ticks.push(Tick { x: self.x(t), label: zone.format(t, form), below: shown });
                last = below;
            }
            at += step;
        }
        ticks
    }
}

/// The round number at or above the highest value.
pub fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let round =
        [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().map(|n| n * power).find(|n| *n >= value);
    // Ten times the power is above it, but for the rounding of either.
    round.unwrap_or(value).max(2.0)
}
