//! The commit at which an answer changes.

use crate::error::{Error, Result};
use crate::types::Lsn;

/// What a bisection found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bisection<T> {
    /// The first commit that gives another answer than the one before it; `None` where both ends
    /// give the same.
    pub changed: Option<Lsn>,
    /// The answer before it: that of the earlier end.
    pub before: T,
    /// The answer at it; where nothing changed, that of the later end.
    pub after: T,
    /// What was asked, in order.
    pub probes: Vec<Probe<T>>,
}

/// One question of a bisection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe<T> {
    /// The commit that was looked at.
    pub lsn: Lsn,
    /// The answer there.
    pub answer: T,
}

/// See [`Node::bisect`](crate::Node::bisect).
pub(crate) fn bisect<T: Clone + PartialEq>(
    from: Lsn,
    to: Lsn,
    ask: &mut dyn FnMut(Lsn) -> Result<T>,
) -> Result<Bisection<T>> {
    if from > to {
        let (newest, given) = (from.to_string(), to.to_string());
        return Err(Error::NotMonotonic { what: "the range of a bisection", newest, given });
    }
    let mut probes = Vec::new();
    let mut probe = |lsn: Lsn| -> Result<T> {
        let answer = ask(lsn)?;
        probes.push(Probe { lsn, answer: answer.clone() });
        Ok(answer)
    };
    let before = probe(from)?;
    let mut after = if from == to { before.clone() } else { probe(to)? };
    let (mut low, mut high) = (from, to);
    // Invariant: `low` gives what `from` gives, `high` does not, and gives `after`.
    let changed = before != after;
    while changed && high.get() - low.get() > 1 {
        let Some(middle) = Lsn::new(u64::midpoint(low.get(), high.get())) else { break };
        let answer = probe(middle)?;
        if answer == before {
            low = middle;
        } else {
            (high, after) = (middle, answer);
        }
    }
    Ok(Bisection { changed: changed.then_some(high), before, after, probes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    #[test]
    fn finds_every_change_there_can_be() {
        for length in 1..40 {
            for change in 2..=length + 1 {
                let found = bisect(lsn(1), lsn(length), &mut |at| Ok(at.get() >= change)).unwrap();
                assert_eq!(found.changed, (change <= length).then(|| lsn(change)));
                assert!(found.probes.len() <= 8);
            }
        }
    }

    #[test]
    fn of_several_changes_it_finds_one() {
        let answer = |n: u64| [10, 20, 30].iter().filter(|c| n >= **c).count() % 2;
        let found = bisect(lsn(1), lsn(40), &mut |at| Ok(answer(at.get()))).unwrap();
        let at = found.changed.unwrap().get();
        assert_ne!(answer(at), answer(at - 1));
        assert!(bisect(lsn(2), lsn(1), &mut |_| Ok(0)).is_err());
    }
}
