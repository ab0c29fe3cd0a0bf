//! How far texts and a recommender without texts say the same of who wants what: the stated proxy of human agreement.
//!
//! Knows splits, vectors of texts and a scorer. **It is a proxy**: nobody was asked, and a recommender that is wrong is
//! agreed with as well.
//!
//! For the last held-out event of a test user, the items that have a text, that training met and that the user has not
//! are ordered twice: by the cosine between their text's vector and the mean vector of the user's liked items, and by the
//! scores of the recommender that knows ids alone (A0). The agreement is the mean of Spearman's correlation of both over
//! users; 0 is chance, and texts that are dealt out at random give it. Vectors are centred over the items first: sentence
//! vectors have a direction in common that says nothing.

use rayon::prelude::*;

use crate::error::Result;
use crate::evaluate::arms::Origin;
use crate::evaluate::collaborative::ItemVectors;
use crate::recommend::metrics::Scorer;
use crate::recommend::split::{Case, Part, Target};
use crate::statistics::spearman;

/// Most users that are asked, evenly over all.
const MOST: usize = 500;
/// Fewer items in order say nothing.
const FEWEST: usize = 5;
/// Cases scored at a time.
const BATCH: usize = 256;

/// What the texts say of every case; made once, compared with every training.
pub struct Agreement<'a> {
    cases: Vec<Case<'a>>,
    catalogue: usize,
    /// By arm with texts, then case: items and their cosines.
    said: Vec<Vec<Vec<(u32, f64)>>>,
}

impl<'a> Agreement<'a> {
    /// What the texts of all arms at an origin, in the order of `origin.texts`, say; a rating of at least `least` is a like.
    pub fn new(origin: &Origin<'a>, least: f32) -> Self {
        let split = origin.split;
        let all = split.cases(Part::Test, Target::Last);
        let step = all.len().div_ceil(MOST).max(1);
        let cases: Vec<Case<'a>> = all.into_iter().step_by(step).collect();
        let liked = |case: &Case<'_>| -> Vec<u32> {
            let line = split.timelines().of(case.user);
            let events = case.history.iter().zip(line.ratings);
            events.filter(|(_, rating)| rating.is_none_or(|r| r >= least)).map(|(item, _)| *item).collect()
        };
        let counts = split.train_counts();
        let said = origin.texts.iter().filter(|(arm, _)| arm.is_text()).map(|(_, texts)| {
            let vectors = centred(&texts.first);
            cases.par_iter().map(|case| cosines(&vectors, &liked(case), case.history, counts)).collect()
        });
        Agreement { said: said.collect(), catalogue: counts.len(), cases }
    }

    /// By arm with texts: the mean correlation with what `scorer` says, and over how many users.
    ///
    /// # Errors
    /// What the scorer says.
    pub fn with(&self, scorer: &mut dyn Scorer) -> Result<Vec<(f64, usize)>> {
        let mut found = vec![(0.0, 0); self.said.len()];
        let mut scores = vec![0.0; BATCH.min(self.cases.len()) * self.catalogue];
        for (begin, chunk) in self.cases.chunks(BATCH).enumerate().map(|(i, chunk)| (i * BATCH, chunk)) {
            let scores = &mut scores[..chunk.len() * self.catalogue];
            scorer.score(chunk, scores)?;
            for (said, (sum, n)) in self.said.iter().zip(&mut found) {
                for (said, scores) in said[begin..].iter().zip(scores.chunks(self.catalogue)) {
                    let of_text: Vec<f64> = said.iter().map(|(_, cosine)| *cosine).collect();
                    let of_scorer: Vec<f64> = said.iter().map(|(item, _)| f64::from(scores[*item as usize])).collect();
                    if said.len() >= FEWEST
                        && let Some(correlation) = spearman(&of_text, &of_scorer)
                    {
                        *sum += correlation;
                        *n += 1;
                    }
                }
            }
        }
        Ok(found.into_iter().map(|(sum, n)| (sum / n as f64, n)).collect())
    }
}

/// Vectors less their mean, of length 1.
fn centred(vectors: &ItemVectors) -> ItemVectors {
    let n = vectors.iter().flatten().count().max(1) as f32;
    let width = vectors.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let mut mean = vec![0.0; width];
    vectors.iter().flatten().for_each(|v| mean.iter_mut().zip(v).for_each(|(m, v)| *m += v / n));
    let centred = |v: &Vec<f32>| -> Option<Vec<f32>> {
        let v: Vec<f32> = v.iter().zip(&mean).map(|(v, m)| v - m).collect();
        let length = v.iter().map(|v| v * v).sum::<f32>().sqrt();
        // What stands at the mean points nowhere.
        (length > 1e-6).then(|| v.iter().map(|v| v / length).collect())
    };
    vectors.iter().map(|v| v.as_ref().and_then(centred)).collect()
}

/// The candidates' products with the sum of the liked ones, which order them as cosines do; none where no liked item has
/// a vector.
fn cosines(vectors: &ItemVectors, liked: &[u32], seen: &[u32], counts: &[u32]) -> Vec<(u32, f64)> {
    let known: Vec<&Vec<f32>> = liked.iter().filter_map(|i| vectors[*i as usize].as_ref()).collect();
    let Some(first) = known.first() else { return Vec::new() };
    let mut sum = vec![0.0_f32; first.len()];
    known.iter().for_each(|v| sum.iter_mut().zip(*v).for_each(|(s, v)| *s += v));
    let product = |v: &Vec<f32>| f64::from(v.iter().zip(&sum).map(|(a, b)| a * b).sum::<f32>());
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    let candidates =
        vectors.iter().enumerate().filter(|(i, _)| counts[*i] > 0 && seen.binary_search(&(*i as u32)).is_err());
    candidates.filter_map(|(i, v)| v.as_ref().map(|v| (i as u32, product(v)))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::arm::Arm;
    use crate::evaluate::arms::tests::{data, log};
    use crate::recommend::split::temporal;

    /// Scores items by what the texts say, `sign` times.
    struct Echo<'a>(&'a Agreement<'a>, usize, f32);

    impl Scorer for Echo<'_> {
        fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
            for (case, scores) in cases.iter().zip(scores.chunks_mut(self.0.catalogue)) {
                let at = self.0.cases.iter().position(|c| c.user == case.user).unwrap();
                scores.fill(0.0);
                self.0.said[self.1][at].iter().for_each(|(item, said)| scores[*item as usize] = self.2 * *said as f32);
            }
            Ok(())
        }
    }

    #[test]
    fn who_says_the_same_agrees_and_who_says_the_opposite_does_not() {
        let split = temporal(&log(), 0.4, 0.9).unwrap();
        let data = data(&split);
        let agreement = Agreement::new(&data.origins[0], data.liked);
        assert!(agreement.cases.len() > 20 && agreement.said.len() == 3);
        let candidates = agreement.said.iter().flatten().map(Vec::len).max().unwrap();
        assert!(candidates >= FEWEST, "{candidates}");
        for (sign, expected) in [(1.0, 1.0), (-1.0, -1.0)] {
            let found = agreement.with(&mut Echo(&agreement, 1, sign)).unwrap();
            assert!(found[1].1 > 0 && (found[1].0 - expected).abs() < 1e-6, "{found:?}");
            assert!(found[0].0.abs() < 0.5, "other texts say other things: {found:?}");
        }
    }

    #[test]
    fn only_what_may_be_recommended_and_has_a_text_is_asked_about() {
        let split = temporal(&log(), 0.4, 0.9).unwrap();
        let data = data(&split);
        let agreement = Agreement::new(&data.origins[0], data.liked);
        for (case, said) in agreement.cases.iter().zip(&agreement.said[0]) {
            assert!(
                said.iter().all(|(item, _)| !case.history.contains(item) && split.train_counts()[*item as usize] > 0)
            );
            assert!(
                said.iter().all(|(item, _)| data.origins[0].texts[&Arm::Attributes].first[*item as usize].is_some())
            );
        }
    }
}
