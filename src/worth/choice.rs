//! The best of the reasons of an item, or a user, by one half of those who judge, and what the other half says of it.
//!
//! The best of several by a noisy measure is always better by that measure. So the half that chose tells what the choice
//! promises, and the other half, which had no say in it, what is kept of that.
//!
//! Knows worths; knows nothing of texts, or of what is taught.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::registry::card::Check;
use crate::statistics::Interval;
use crate::worth::events::mean;
use crate::worth::gates::{Judged, LEAST_ITEMS, over_items};
use crate::worth::whose::{Count, Whose};

/// What the choice of the best reason of each item, or user, is worth: its worth less the mean of their reasons, in nats an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Items, or users, with several reasons of which both halves tell the worth.
    #[serde(flatten)]
    pub of: Count,
    /// By the half that chose, mean over these with its 95 % interval.
    pub promised: Option<Interval>,
    /// By the other half.
    pub kept: Option<Interval>,
    /// Whether the low end of what is kept is above 0, and these are enough to be a sample.
    pub gate: Check,
}

/// The places of the chosen reasons in `judged`, by item or user, and what the choice is worth. Of equals the first is chosen; an item
/// with fewer than two reasons that both halves know has none.
///
/// # Errors
/// `Kind::Internal` for worths that are no numbers.
pub fn best_of_each(whose: Whose, judged: &[Option<Judged>], seed: u64) -> Result<(Vec<usize>, Chosen)> {
    let mut by_item: BTreeMap<u32, Vec<(usize, [f64; 2])>> = BTreeMap::new();
    for (place, one) in judged.iter().enumerate() {
        if let Some(Judged { item, halves: [Some(choosing), Some(other)], .. }) = one {
            by_item.entry(*item).or_default().push((place, [*choosing, *other]));
        }
    }
    let (mut places, mut gains) = (Vec::new(), Vec::new());
    for (item, reasons) in by_item.into_iter().filter(|(_, reasons)| reasons.len() > 1) {
        let better = |best: (usize, [f64; 2]), next: (usize, [f64; 2])| if next.1[0] > best.1[0] { next } else { best };
        let Some((place, worths)) = reasons.iter().copied().reduce(better) else { continue };
        let less_mean = |half: usize| {
            let all: Vec<f64> = reasons.iter().map(|(_, worths)| worths[half]).collect();
            mean(&all).map_or(0.0, |mean| worths[half] - mean)
        };
        places.push(place);
        gains.push((item, [less_mean(0), less_mean(1)]));
    }
    let of_half = |half: usize| over_items(gains.iter().map(|(item, gains)| (*item, gains[half])), seed);
    let (promised, kept) = (of_half(0)?, of_half(1)?);
    let (described, judges) = (whose.described(), whose.judges());
    let which = if whose == Whose::Items { "who" } else { "that" };
    let gate = Check {
        what: format!(
            "worth of the chosen reasons less the mean of their {described}', by the {judges} {which} did not choose, low end of its \
             interval > 0 over {LEAST_ITEMS} {described} or more, here {}",
            gains.len()
        ),
        value: kept.map_or(0.0, |kept| kept.low),
        holds: kept.is_some_and(|kept| kept.low > 0.0) && gains.len() >= LEAST_ITEMS,
    };
    Ok((places, Chosen { of: whose.count(gains.len()), promised, kept, gate }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::network::random::Random;

    fn judged(item: u32, halves: [Option<f64>; 2]) -> Option<Judged> {
        Some(Judged::by_halves(item, halves))
    }

    #[test]
    fn one_half_chooses_and_the_other_tells() {
        let both = |a: f64, b: f64| [Some(a), Some(b)];
        let all = [
            judged(7, both(0.1, 0.4)),
            judged(7, both(0.5, 0.2)),
            None,
            judged(7, both(0.5, 0.9)),
            // Of one reason, or where a half knows nothing, there is nothing to choose.
            judged(3, both(0.3, 0.3)),
            judged(4, both(0.3, 0.3)),
            judged(4, [Some(0.9), None]),
            judged(5, both(-0.2, -0.1)),
            judged(5, both(-0.4, -0.3)),
        ];
        let (places, chosen) = best_of_each(Whose::Items, &all, 1).unwrap();
        assert_eq!((places, chosen.of), (vec![7, 1], Count::Items(2)), "items in order, of equals the first");
        let (promised, kept) = (chosen.promised.unwrap().mean, chosen.kept.unwrap().mean);
        assert!((promised - (0.1 + 0.5 - 1.1 / 3.0) / 2.0).abs() < 1e-12, "{promised}");
        assert!((kept - (0.1 + 0.2 - 0.5) / 2.0).abs() < 1e-12, "{kept}");
        let (places, chosen) = best_of_each(Whose::Items, &all[4..5], 1).unwrap();
        assert!(places.is_empty() && chosen.kept.is_none() && !chosen.gate.holds, "{chosen:?}");
    }

    #[test]
    fn few_items_are_no_sample() {
        let of = |items: u32| {
            let of_item = |item| [judged(item, [Some(0.5); 2]), judged(item, [Some(0.1); 2])];
            let all: Vec<Option<Judged>> = (0..items).flat_map(of_item).collect();
            best_of_each(Whose::Items, &all, 1).unwrap().1
        };
        let one = of(1);
        assert!(one.kept.unwrap().low > 0.1 && !one.gate.holds, "{one:?}");
        assert!(one.gate.what.ends_with("over 30 items or more, here 1"), "{one:?}");
        assert_eq!([29, 30].map(|items| of(items).gate.holds), [false, true]);
        let users = best_of_each(Whose::Histories, &[judged(0, [Some(0.5); 2])], 1).unwrap().1;
        assert_eq!(users.of, Count::Users(0));
        let what = users.gate.what;
        assert!(
            what.contains("by the items that did not choose") && what.ends_with("over 30 users or more, here 0"),
            "{what}"
        );
    }

    /// Where worths are chance, the half that chose promises much and the other one keeps nothing.
    #[test]
    fn chance_is_promised_and_not_kept() {
        let mut random = Random::new(3, "chance");
        let mut of = |signal: f64| {
            let mut all = Vec::new();
            for reason in 0..60 * 8 {
                let worth = signal * random.normal();
                all.push(judged(reason / 8, [Some(worth + random.normal()), Some(worth + random.normal())]));
            }
            best_of_each(Whose::Items, &all, 1).unwrap().1
        };
        let chance = of(0.0);
        assert!(chance.promised.unwrap().low > 0.5 && !chance.gate.holds, "{chance:?}");
        let told = of(1.0);
        assert!(told.gate.holds && told.kept.unwrap().mean < told.promised.unwrap().mean, "{told:?}");
        assert_eq!((chance.of, told.of), (Count::Items(60), Count::Items(60)));
    }
}
