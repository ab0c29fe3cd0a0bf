//! Where items' texts lead in the space of co-consumption, as the column `collaborative` has it, learned from an origin's training
//! events.
//!
//! Knows splits and vectors; the space and the map are [`crate::project`]'s. As in `curec learn project`, and with the
//! settings that it has where nobody says otherwise: no item is mapped by a map that has learned from its own row.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::error::Result;
use crate::project::map::{CrossFitted, Row};
use crate::project::space::{Pair, UNIT, WIDTH, item_vectors};
use crate::recommend::adaptor::Vectors;
use crate::recommend::split::Split;

/// The sentence vector of every item of the catalogue, where there is a text.
pub type ItemVectors = Vec<Option<Vec<f32>>>;

/// So many latest items of a user count as consumed together.
const EVENTS: usize = 100;
const FOLDS: usize = 5;
const RIDGE: f64 = 0.3;
const SHRINKAGE: f64 = 0.5;
/// An item that so many users have met counts half.
const PRIOR: f64 = 5.0;

/// A map from texts to the space; none where too few items have both.
pub struct Collaborative {
    map: Option<CrossFitted>,
    /// 1 / the deviation of the mapped values, over items that were learned from: so that they are read like whitened ones.
    scale: f32,
}

impl Collaborative {
    /// Learns from the training events and the vectors of texts, by dense id; `ids` are the items' id texts, which decide
    /// the folds.
    ///
    /// # Errors
    /// As [`item_vectors`] and [`CrossFitted::fit`].
    pub fn learn(split: &Split, ids: &[String], texts: &ItemVectors) -> Result<Self> {
        let (pairs, users) = pairs(split);
        let space = item_vectors(ids.len(), &pairs, SHRINKAGE, 0)?;
        let place = |item: usize| &space[item * WIDTH..(item + 1) * WIDTH];
        let row = |item: usize| {
            let text = texts.get(item)?.as_deref()?;
            let n = f64::from(users[item]);
            let told = Row { id: ids[item].as_str(), text, target: place(item), weight: n / (n + PRIOR) };
            place(item).iter().any(|x| *x != 0.0).then_some(told)
        };
        // Ids ascend, as the map wants its rows.
        let rows: Vec<Row<'_>> = (0..ids.len()).filter_map(row).collect();
        if rows.len() < 2 * FOLDS {
            return Ok(Collaborative { map: None, scale: 1.0 });
        }
        let map = CrossFitted::fit(&rows, FOLDS, RIDGE, true)?;
        let (mut sum, mut n) = (0.0, 0_usize);
        for row in &rows {
            let image = map.apply(row.id, row.text)?.unwrap_or_default();
            sum += image.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
            n += image.len();
        }
        let scale = if sum > 0.0 { (n as f64 / sum).sqrt() as f32 } else { 1.0 };
        Ok(Collaborative { map: Some(map), scale })
    }

    /// The column for vectors of texts, by dense id: [`WIDTH`] values each.
    ///
    /// # Errors
    /// As [`CrossFitted::apply`].
    pub fn apply(&self, ids: &[String], texts: &ItemVectors) -> Result<Vectors> {
        let image = |(id, text): (&String, &Option<Vec<f32>>)| -> Result<Option<Vec<f32>>> {
            match (&self.map, text) {
                (Some(map), Some(text)) => map.apply(id, text),
                _ => Ok(None),
            }
        };
        let images: Vec<Option<Vec<f32>>> = ids.par_iter().zip(texts).map(image).collect::<Result<_>>()?;
        let values = images.iter().flat_map(|image| match image {
            Some(image) => image.iter().map(|x| x * self.scale).collect(),
            None => vec![0.0; WIDTH],
        });
        Vectors::new(WIDTH, values.collect(), images.iter().map(Option::is_some).collect())
    }
}

/// Pairs of items that a user met both of, weighted as [`Pair`] says, ascending; and how many users met each item.
fn pairs(split: &Split) -> (Vec<Pair>, Vec<u32>) {
    let lines = split.timelines();
    let mut users = vec![0; split.train_counts().len()];
    let mut weights: BTreeMap<(u32, u32), i64> = BTreeMap::new();
    for user in 0..lines.users() {
        let mut met = lines.before(user, split.valid_from()).items.to_vec();
        met.reverse();
        let (mut latest, mut once): (Vec<u32>, BTreeSet<u32>) = (Vec::new(), BTreeSet::new());
        for item in met.into_iter().filter(|item| once.insert(*item)) {
            users[item as usize] += 1;
            if latest.len() < EVENTS {
                latest.push(item);
            }
        }
        latest.sort_unstable();
        let weight = UNIT as i64 / latest.len().max(1) as i64;
        for (at, a) in latest.iter().enumerate() {
            latest[at + 1..].iter().for_each(|b| *weights.entry((*a, *b)).or_default() += weight);
        }
    }
    (weights.into_iter().map(|((a, b), weight)| Pair { a, b, weight }).collect(), users)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::network::random::Random;
    use crate::recommend::data::{Event, Log};
    use crate::recommend::split::temporal;

    /// Two groups of items that nobody mixes, whose texts say which is which; the last item of each comes in the test part.
    #[test]
    fn texts_lead_to_where_their_items_are_consumed() {
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        let mut random = Random::new(7, "groups");
        let mut events = Vec::new();
        for user in 0..80_u32 {
            for step in 0..6 {
                let item = user % 2 * 20 + random.below(19) as u32;
                events.push(Event { user, item, rating: None, timestamp: step });
            }
        }
        events.extend([19, 39].map(|item| Event { user: 0, item, rating: None, timestamp: 9 }));
        events.push(Event { user: 1, item: 0, rating: None, timestamp: 7 });
        let log = Log::new(ids(80), ids(40), events).unwrap();
        let split = temporal(&log, 0.998, 0.998).unwrap();
        assert_eq!((split.train_counts()[19], split.train_counts()[39]), (0, 0));
        let mut text = |item: usize| {
            let noise = random.normal() as f32 * 0.1;
            Some(vec![if item < 20 { 1.0 } else { -1.0 } + noise, noise])
        };
        let texts: ItemVectors = (0..40).map(|item| if item == 5 { None } else { text(item) }).collect();
        let map = Collaborative::learn(&split, log.items(), &texts).unwrap();
        let found = map.apply(log.items(), &texts).unwrap();
        assert!(!found.has(5) && (0..40).filter(|item| *item != 5).all(|item| found.has(item)));
        let product = |a: usize, b: usize| found.row(a).iter().zip(found.row(b)).map(|(a, b)| a * b).sum::<f32>();
        // What was never met lies where its text's group is consumed.
        let is_near = |item: usize, own: usize, other: usize| product(item, own) > 3.0 * product(item, other).abs();
        assert!(is_near(19, 3, 24) && is_near(39, 24, 3), "{:?} {:?}", found.row(19), found.row(39));
        let few: ItemVectors = texts.iter().take(4).cloned().chain(vec![None; 36]).collect();
        let none = Collaborative::learn(&split, log.items(), &few).unwrap().apply(log.items(), &few).unwrap();
        assert!((0..40).all(|item| !none.has(item)), "too few to learn from");
    }
}
