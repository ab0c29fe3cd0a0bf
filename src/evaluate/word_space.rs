//! What words tell of items: which share rare ones, and where each stands among the topics that words make up.
//!
//! Words weigh by how few items have them (ln((1 + n) / (1 + n_w)), Sparck Jones 1972), an item's weights have length 1. Latent semantic
//! analysis (Deerwester et al. 1990) gives an item's place: the leading singular vectors of these rows. What a word weighs and the
//! directions are learned from some of the items, and applied to all; a word that none of those has counts for nothing.
//!
//! Knows lists of words; knows nothing of where they come from or of what looks at the result. The same words give the same bits on
//! any number of threads.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evaluate::baseline::ItemNeighbours;
use crate::project::space::leading;
use crate::recommend::adaptor::Vectors;

/// Directions at most.
pub(super) const TOPICS: usize = 128;
/// Items that an item is near to, at most.
const NEAREST: usize = 200;

/// The words of every item of the catalogue, each once; none where nothing is said.
pub type ItemWords = Vec<Vec<String>>;

/// An item's words by number, ascending, with what each weighs.
type Row = Vec<(usize, f64)>;

/// What words weigh, and the directions that they make up.
pub struct WordSpace {
    /// Number and weight.
    words: HashMap<String, (usize, f64)>,
    /// Of each direction what every word counts, and 1 / the root of the mean square of the places of those that were learned from.
    topics: Vec<(Vec<f64>, f64)>,
}

impl WordSpace {
    /// Learns from the items that `is_fitted` names.
    pub fn fit(words: &ItemWords, is_fitted: &dyn Fn(usize) -> bool) -> Self {
        let fitted: Vec<&Vec<String>> = (0..words.len()).filter(|i| is_fitted(*i)).map(|i| &words[i]).collect();
        let n = fitted.iter().filter(|words| !words.is_empty()).count();
        let mut counts: BTreeMap<&String, u32> = BTreeMap::new();
        fitted.iter().flat_map(|words| words.iter()).for_each(|word| *counts.entry(word).or_default() += 1);
        let weight = |count: u32| ((1.0 + n as f64) / (1.0 + f64::from(count))).ln();
        let telling = counts.into_iter().map(|(word, count)| (word.clone(), weight(count))).filter(|(_, w)| *w > 0.0);
        let words = telling.enumerate().map(|(at, (word, weight))| (word, (at, weight))).collect();
        let mut space = WordSpace { words, topics: Vec::new() };
        let rows: Vec<Row> = fitted.iter().map(|words| space.row(words)).filter(|row| !row.is_empty()).collect();
        let all = space.words.len();
        let spread = |by_row: &[f64]| {
            let mut by_word = vec![0.0; all];
            for (row, by) in rows.iter().zip(by_row) {
                row.iter().for_each(|(word, weight)| by_word[*word] += weight * by);
            }
            by_word
        };
        let of_rows = |by_word: &[f64]| rows.iter().map(|row| placed(row, by_word)).collect::<Vec<f64>>();
        let found = leading(rows.len(), TOPICS, 0, &|column| of_rows(&spread(column)));
        let topic = |(value, direction): (f64, Vec<f64>)| {
            let mut by_word = spread(&direction);
            by_word.iter_mut().for_each(|x| *x /= value.sqrt());
            (by_word, (rows.len() as f64 / value).sqrt())
        };
        let topics = found.into_par_iter().map(topic).collect();
        space.topics = topics;
        space
    }

    fn row(&self, words: &[String]) -> Row {
        let mut row: Row = words.iter().filter_map(|word| self.words.get(word).copied()).collect();
        row.sort_unstable_by_key(|(word, _)| *word);
        row.dedup_by_key(|(word, _)| *word);
        let length = row.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
        row.iter_mut().for_each(|(_, weight)| *weight /= length.max(f64::MIN_POSITIVE));
        row
    }

    /// Each item's place: [`TOPICS`] values, the direction that tells most first; missing where an item has no word that counts.
    ///
    /// # Errors
    /// As [`Vectors::new`].
    pub fn topics(&self, words: &ItemWords) -> Result<Vectors> {
        let place = |words: &Vec<String>| -> (Vec<f32>, bool) {
            let row = self.row(words);
            let mut place: Vec<f32> = self.topics.iter().map(|(topic, _)| placed(&row, topic) as f32).collect();
            place.resize(TOPICS, 0.0);
            (place, !row.is_empty())
        };
        let (places, present): (Vec<Vec<f32>>, Vec<bool>) = words.par_iter().map(place).unzip();
        Vectors::new(TOPICS, places.concat(), present)
    }

    /// The first `width` values of [`WordSpace::topics`], each divided by the root of its mean square over what was learned from.
    ///
    /// # Errors
    /// As [`Vectors::new`]; `Kind::Internal` for topics of another space.
    pub fn scaled(&self, topics: &Vectors, width: usize) -> Result<Vectors> {
        if width > topics.width() {
            return Err(Error::new(Kind::Internal, "there are fewer topics than are read"));
        }
        let mut scales: Vec<f32> = self.topics.iter().take(width).map(|(_, scale)| *scale as f32).collect();
        scales.resize(width, 0.0);
        let scales = &scales;
        let values = (0..topics.len()).flat_map(|item| topics.row(item).iter().zip(scales).map(|(x, scale)| x * scale));
        Vectors::new(width, values.collect(), (0..topics.len()).map(|item| topics.has(item)).collect())
    }

    /// For every item those that share words with it: the cosine of their weights.
    pub fn nearest(&self, words: &ItemWords) -> ItemNeighbours {
        let rows: Vec<Row> = words.par_iter().map(|words| self.row(words)).collect();
        let mut holders: Vec<Vec<(u32, f64)>> = vec![Vec::new(); self.words.len()];
        for (item, row) in (0..).zip(&rows) {
            row.iter().for_each(|(word, weight)| holders[*word].push((item, *weight)));
        }
        let near = |item: usize| {
            let mut shared = vec![0.0; rows.len()];
            for (word, weight) in &rows[item] {
                holders[*word].iter().for_each(|(other, of_other)| shared[*other as usize] += weight * of_other);
            }
            shared[item] = 0.0;
            let near = (0..).zip(shared).filter(|(_, near)| *near > 0.0).map(|(other, near)| (other, near as f32));
            near.collect()
        };
        ItemNeighbours::of((0..rows.len()).into_par_iter().map(near), NEAREST)
    }
}

fn placed(row: &Row, by_word: &[f64]) -> f64 {
    row.iter().map(|(word, weight)| weight * by_word[*word]).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::evaluate::baseline::tests::case;
    use crate::recommend::metrics::Scorer;

    fn words(items: &[&str]) -> ItemWords {
        items.iter().map(|item| item.split_whitespace().map(str::to_owned).collect()).collect()
    }

    fn cosine(vectors: &Vectors, a: usize, b: usize) -> f32 {
        let dot = |a: usize, b: usize| vectors.row(a).iter().zip(vectors.row(b)).map(|(x, y)| x * y).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-12)
    }

    #[test]
    fn rare_words_join_items_and_common_ones_do_not() {
        let items = words(&["guitar string pack", "guitar string gauge", "guitar pick", "", "guitar drum"]);
        let space = WordSpace::fit(&items, &|_| true);
        let mut near = space.nearest(&items);
        let mut scores = [0.0; 5];
        near.score(&[case(&[0])], &mut scores).unwrap();
        assert!(scores[1] > 0.1, "{scores:?}");
        assert_eq!([scores[0], scores[2], scores[3], scores[4]], [0.0; 4], "everybody has a guitar: {scores:?}");
        // What nothing was learned from is read all the same, as far as its words are known.
        let later = words(&["string quartet", "quartet"]);
        let topics = space.topics(&later).unwrap();
        assert!(topics.has(0) && !topics.has(1));
        let space = WordSpace::fit(&items, &|_| false);
        assert!((0..5).all(|item| !space.topics(&items).unwrap().has(item)), "nothing was learned");
    }

    #[test]
    fn topics_bring_together_what_shares_no_word() {
        // Words of a topic stand together in other items.
        let mut items = Vec::new();
        for i in 0..30 {
            let of = |words: [&str; 4]| format!("{} {} {}", words[i % 4], words[(i + 1) % 4], words[(i / 4) % 4]);
            items.push(of(["piano", "sonata", "violin", "opera"]));
            items.push(of(["riff", "drum", "amp", "solo"]));
        }
        items.extend(["piano", "opera", "riff"].map(str::to_owned));
        let items: ItemWords = words(&items.iter().map(String::as_str).collect::<Vec<_>>());
        let items: ItemWords = items
            .into_iter()
            .map(|mut words| {
                words.sort();
                words.dedup();
                words
            })
            .collect();
        let space = WordSpace::fit(&items, &|_| true);
        let topics = space.scaled(&space.topics(&items).unwrap(), 2).unwrap();
        assert!(cosine(&topics, 60, 61) > cosine(&topics, 60, 62) + 0.5, "{:?}", [60, 61, 62].map(|i| topics.row(i)));
        let square = |at: usize| (0..items.len()).map(|i| topics.row(i)[at].powi(2)).sum::<f32>() / items.len() as f32;
        assert!((square(0) - 1.0).abs() < 1e-3 && (square(1) - 1.0).abs() < 1e-3, "{} {}", square(0), square(1));
        assert!(space.scaled(&topics, 3).is_err());
        // Places are the rows along orthogonal directions.
        let all = space.topics(&items).unwrap();
        let length = |i: usize| all.row(i).iter().map(|x| x * x).sum::<f32>();
        assert!((0..items.len()).all(|i| (length(i) - 1.0).abs() < 1e-3), "all directions together lose nothing");
    }
}
