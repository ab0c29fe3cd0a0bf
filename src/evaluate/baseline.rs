//! Recommenders that learn nothing: popularity and item-to-item neighbours. What a model must beat.
//!
//! Knows training events; knows nothing of content.

use rayon::prelude::*;

use crate::error::Result;
use crate::recommend::data::Event;
use crate::recommend::metrics::Scorer;
use crate::recommend::split::Case;

/// Every item's number of training events, the same for every user.
#[derive(Debug, Clone)]
pub struct Popularity(Vec<f32>);

impl Popularity {
    /// From the events that may be trained on.
    pub fn new(train: &[Event], catalogue: usize) -> Self {
        let mut counts = vec![0.0; catalogue];
        train.iter().for_each(|e| counts[e.item as usize] += 1.0);
        Popularity(counts)
    }
}

impl Scorer for Popularity {
    fn score(&mut self, _cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        scores.chunks_exact_mut(self.0.len().max(1)).for_each(|row| row.copy_from_slice(&self.0));
        Ok(())
    }
}

/// The binary matrix of users and items: every user's items and every item's users, ascending, each once.
pub(super) fn who_had_what(train: &[Event], catalogue: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut pairs: Vec<(u32, u32)> = train.iter().map(|e| (e.user, e.item)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let users = pairs.last().map_or(0, |(user, _)| *user as usize + 1);
    let (mut of_user, mut of_item) = (vec![Vec::new(); users], vec![Vec::new(); catalogue]);
    for (user, item) in pairs {
        of_user[user as usize].push(item);
        of_item[item as usize].push(user);
    }
    (of_user, of_item)
}

/// Item k-nearest neighbours (Sarwar et al. 2001): two items are as near as the cosine of the sets of users that had them;
/// an item's score is the sum of its nearness to the items of the history, each counted once.
#[derive(Debug, Clone)]
pub struct ItemNeighbours {
    /// For every item, what it is near to.
    near: Vec<Vec<(u32, f32)>>,
}

impl ItemNeighbours {
    /// From the events that may be trained on; keeps every item's `neighbours` nearest, ties by the smaller id.
    pub fn new(train: &[Event], catalogue: usize, neighbours: usize) -> Self {
        let (of_user, of_item) = who_had_what(train, catalogue);
        let nearest = |item: usize| {
            let mut together = vec![0u32; catalogue];
            for user in &of_item[item] {
                of_user[*user as usize].iter().for_each(|other| together[*other as usize] += 1);
            }
            together[item] = 0;
            let size = |item: usize| of_item[item].len() as f64;
            together
                .iter()
                .enumerate()
                .filter(|(_, n)| **n > 0)
                .map(|(other, n)| (other as u32, (f64::from(*n) / (size(item) * size(other)).sqrt()) as f32))
                .collect()
        };
        ItemNeighbours::of((0..catalogue).into_par_iter().map(nearest), neighbours)
    }

    /// From what every item is near to, and how much; keeps each one's `neighbours` nearest, ties by the smaller id.
    pub fn of(near: impl IndexedParallelIterator<Item = Vec<(u32, f32)>>, neighbours: usize) -> Self {
        let nearest = |mut near: Vec<(u32, f32)>| {
            near.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            near.truncate(neighbours);
            near
        };
        ItemNeighbours { near: near.map(nearest).collect() }
    }

    /// Adds to the scores of all items `by` times what the items of a history say, each times its weight.
    pub(super) fn add(&self, history: &[(u32, f32)], by: f32, scores: &mut [f32]) {
        for (item, weight) in history {
            for (other, nearness) in &self.near[*item as usize] {
                scores[*other as usize] += by * weight * nearness;
            }
        }
    }
}

impl Scorer for ItemNeighbours {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        let rows = scores.par_chunks_exact_mut(self.near.len().max(1));
        rows.zip(cases).for_each(|(scores, case)| {
            scores.fill(0.0);
            self.add(&each_once(case.history), 1.0, scores);
        });
        Ok(())
    }
}

/// The items of a history, ascending, each once with weight 1.
pub(super) fn each_once(history: &[u32]) -> Vec<(u32, f32)> {
    let mut items = history.to_vec();
    items.sort_unstable();
    items.dedup();
    items.into_iter().map(|item| (item, 1.0)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn events(pairs: &[(u32, u32)]) -> Vec<Event> {
        pairs.iter().map(|(user, item)| Event { user: *user, item: *item, rating: None, timestamp: 0 }).collect()
    }

    pub(crate) fn case(history: &[u32]) -> Case<'_> {
        Case { user: 9, history, target: 0, rating: None, timestamp: 1 }
    }

    /// The same scores of all items for every case.
    pub(crate) struct Fixed(pub(crate) Vec<f32>);

    impl Scorer for Fixed {
        fn score(&mut self, _cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
            scores.chunks_exact_mut(self.0.len()).for_each(|row| row.copy_from_slice(&self.0));
            Ok(())
        }
    }

    #[test]
    fn popularity_counts_events() {
        let mut model = Popularity::new(&events(&[(0, 1), (1, 1), (1, 2), (2, 1)]), 4);
        let mut scores = [9.0; 8];
        model.score(&[case(&[1]), case(&[0, 3])], &mut scores).unwrap();
        assert_eq!(scores, [0.0, 3.0, 1.0, 0.0, 0.0, 3.0, 1.0, 0.0]);
    }

    /// Users 0 and 1 had items 0 and 1, user 1 also 2, user 2 only 2. |0| = 2, |1| = 2, |2| = 2.
    #[test]
    fn neighbours_are_cosines_of_audiences() {
        let train = events(&[(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2), (0, 0)]);
        let mut model = ItemNeighbours::new(&train, 4, 10);
        let mut scores = [9.0; 4];
        model.score(&[case(&[0, 0])], &mut scores).unwrap();
        assert_eq!(scores, [0.0, 1.0, 0.5, 0.0], "a repeated item counts once, in training and in the history");
        model.score(&[case(&[0, 2])], &mut scores).unwrap();
        assert_eq!(scores, [0.5, 1.5, 0.5, 0.0]);
        let mut nearest = ItemNeighbours::new(&train, 4, 1);
        nearest.score(&[case(&[2])], &mut scores).unwrap();
        assert_eq!(scores, [0.5, 0.0, 0.0, 0.0], "items 0 and 1 are equally near to 2; the smaller id stays");
    }
}
