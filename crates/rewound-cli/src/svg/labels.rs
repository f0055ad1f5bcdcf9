//! Names below their marks, without two of them, or a name and another one's leader, lying over
//! each other.

use super::float;

/// Height of a row of names.
pub const ROW: f64 = 15.0;
/// Most rows.
const ROWS: usize = 8;
/// Longest name that is written out, in characters.
const LONGEST: usize = 22;

/// About how wide a text is, in 12 px.
pub fn width(text: &str) -> f64 {
    float(text.chars().count()) * 6.9
}

/// A name as it is written.
pub fn shorten(name: &str) -> String {
    if name.chars().count() <= LONGEST {
        name.to_owned()
    } else {
        name.chars().take(LONGEST - 1).chain(['…']).collect()
    }
}

/// The row of each name, given where its mark is, in order; `None` where there is no room.
///
/// A name runs to the right of its leader. Going from the right, a name has to lie deeper than all
/// whose leaders come down within its length: these end above it, and nothing to the left of it is
/// in the way of its own leader.
pub fn rows(places: &[(f64, String)]) -> Vec<Option<usize>> {
    let mut rows: Vec<Option<usize>> = vec![None; places.len()];
    let mut placed: Vec<(f64, usize)> = Vec::new();
    for (i, (x, label)) in places.iter().enumerate().rev() {
        let end = x + 3.0 + width(label) + 6.0;
        let row = placed
            .iter()
            .filter(|(other, _)| *other < end)
            .map(|(_, row)| row + 1)
            .max()
            .unwrap_or(0);
        if row < ROWS {
            if let Some(slot) = rows.get_mut(i) {
                *slot = Some(row);
            }
            placed.push((*x, row));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_over_anything() {
        let places: Vec<(f64, String)> = (0..60u16)
            .map(|i| (f64::from(i * i % 97) * 7.0, shorten(&"n".repeat(3 + usize::from(i % 30)))))
            .collect();
        let mut places = places;
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rows = rows(&places);
        assert!(rows.iter().flatten().count() > 10);
        for (i, ((x, label), row)) in places.iter().zip(&rows).enumerate() {
            let Some(row) = row else { continue };
            for (j, ((other, _), deeper)) in places.iter().zip(&rows).enumerate() {
                let Some(deeper) = deeper else { continue };
                let within = *other > *x && *other <= x + 3.0 + width(label);
                assert!(i == j || !within || deeper < row, "{i} {j}");
            }
        }
    }
}
