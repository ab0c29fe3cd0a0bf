//! What a reason about a user's history is worth: how far it helps a recommender that knows the user by this text alone.
//!
//! R(z) = mean over the next events of user u of log p(i | s_u = W g(z)), less the same with the vector of u's evidence, in nats:
//! see [`crate::worth::text`] for W, p and the kinds of texts.
//!
//! * W leads to users' states as a recommender of ids alone has them at the interval's beginning; it was trained on earlier events. A
//!   user is mapped by a map that has not learned from the user's row. The items' vectors are that recommender's.
//! * An event counts whose item training has met, since its vector says nothing else, and which the user had not met before:
//!   negatives are items that the user had not met, and one that was met would be told from them by that alone.
//! * Everybody's taste tells nothing of a user. With m the mean state of the users, m v is what the vector v scores for everybody. A
//!   text that leads along m lifts for its user what everybody takes, and items, blocks of time and folds all agree on that. So of
//!   all scores that a text makes the part is taken out that m v explains by least squares, over the items by how often training has
//!   met them: v counts as v - q (m v), with C the items' covariance and q = C m / (m C m). What leads along m is worth nothing then,
//!   and to the first order nor is what all users' texts are moved by, wherever to. Neither m nor C looks at what anybody took next.
//!
//! Knows vectors, states, numbers of items and places of users; knows nothing of texts, encoders, models or where a log comes from.

use crate::error::{Error, Kind, Result};
use crate::recommend::split::Case;
use crate::worth::events::{Asked, Events, Others, Popularity, Settings, counted, row};
use crate::worth::text::{Known, Worth};

/// The recommender's items.
#[derive(Debug, Clone, Copy)]
pub struct Items<'a> {
    /// Their vectors, `[items, width]`: a state's product with one is the item's score.
    pub vectors: &'a [f32],
    /// Events of each that the recommender was trained on.
    pub counts: &'a [u32],
}

/// Events of a block of time that the recommender was not trained on.
#[derive(Debug, Clone)]
pub struct Taken<'a> {
    /// What the user of each case had met before it, dense ids in any order.
    pub met: Vec<&'a [u32]>,
    /// The events; of users the places among those who are described.
    pub asked: Vec<Asked>,
}

impl<'a> Taken<'a> {
    /// The cases of these users, whose dense ids ascend: the place of one is that among them.
    pub fn of(cases: &[Case<'a>], users: &[u32]) -> Self {
        let place = |user: u32| users.binary_search(&user).ok().and_then(|place| u32::try_from(place).ok());
        let (mut met, mut asked) = (Vec::new(), Vec::new());
        for case in cases {
            let Some(user) = place(case.user) else { continue };
            asked.push(Asked { user, item: case.target, case: met.len() });
            met.push(case.history);
        }
        Taken { met, asked }
    }

    fn check(&self, known: &Known<'_>, items: &Items<'_>) -> Result<()> {
        let (cases, users, all) = (self.met.len(), known.ids.len(), items.counts.len());
        let is_there = |one: &Asked| one.case < cases && (one.user as usize) < users && (one.item as usize) < all;
        let fits = items.vectors.len() == all * known.width && self.asked.iter().all(is_there);
        if fits && items.vectors.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Internal,
            "a block's events do not fit the users or the items, or these hold what is no number",
        )
        .with("cases", cases)
        .with("users", users)
        .with("items", all)
        .with("events", self.asked.len()))
    }
}

/// Whether an event says something of its user: see the module. `counts` are events that training had of each item.
pub fn is_told_by(item: u32, met: &[u32], counts: &[u32]) -> bool {
    counts.get(item as usize).is_some_and(|n| *n > 0) && !met.contains(&item)
}

/// Everybody's taste, and what of a state it is: see the module. All zeros where items score alike for everybody.
#[derive(Debug, Clone)]
pub struct Everybody {
    /// The mean vector of the items, by how often training has met them.
    centre: Vec<f64>,
    /// m: the mean state of the users whom the recommender knew events of, each counting once.
    taste: Vec<f64>,
    /// q: its product with a state is the share of m in the state's scores, 1 for m itself.
    share: Vec<f32>,
}

/// The sum of products.
fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The weighted mean of the rows; zeros where no weight is above 0.
fn mean_row(rows: &[f32], width: usize, weights: impl Iterator<Item = f64>) -> Vec<f64> {
    let (mut sums, mut all) = (vec![0.0; width], 0.0);
    for (row, weight) in rows.chunks_exact(width).zip(weights) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        all += weight;
    }
    sums.iter_mut().for_each(|sum| *sum /= f64::max(all, 1.0));
    sums
}

impl Everybody {
    /// Of users and items that fit together.
    pub fn of(known: &Known<'_>, items: &Items<'_>) -> Everybody {
        let width = known.width;
        let is_known = known.counts.iter().map(|n| f64::from(u8::from(*n > 0)));
        let taste = mean_row(known.vectors, width, is_known);
        let centre = mean_row(items.vectors, width, items.counts.iter().map(|n| f64::from(*n)));
        let (mut sums, mut variance, mut all) = (vec![0.0; width], 0.0, 0.0);
        for (vector, n) in items.vectors.chunks_exact(width).zip(items.counts) {
            let own: Vec<f64> = vector.iter().zip(&centre).map(|(x, mean)| f64::from(*x) - mean).collect();
            let (score, n) = (product(&own, &taste), f64::from(*n));
            sums.iter_mut().zip(&own).for_each(|(sum, x)| *sum += n * score * x);
            variance += n * score * score;
            all += n;
        }
        let is_told = variance > 1e-12 * all;
        let share = sums.into_iter().map(|sum| if is_told { (sum / variance) as f32 } else { 0.0 }).collect();
        Everybody { centre, taste, share }
    }

    /// The product of it with where a text leads says how much of everybody's taste the text holds, 1 for that itself.
    pub fn share(&self) -> &[f32] {
        &self.share
    }

    /// The items' vectors, `[items, width]`, as scores are made with them.
    fn taken_out_of(&self, items: &Items<'_>) -> Vec<f32> {
        let mut table = Vec::with_capacity(items.vectors.len());
        for vector in items.vectors.chunks_exact(self.share.len().max(1)) {
            let own: Vec<f64> = vector.iter().zip(&self.centre).map(|(x, mean)| f64::from(*x) - mean).collect();
            let score = product(&own, &self.taste);
            table.extend(vector.iter().zip(&self.share).map(|(x, q)| (f64::from(*x) - f64::from(*q) * score) as f32));
        }
        table
    }
}

impl Worth {
    /// What reasons about users' histories are worth, from the events of one block. `known` are the users who are described, with their
    /// states; `reasons` vectors of reasons with the places of their users, by which it is known where reasons lie: those that are to be
    /// compared. Halves are dealt by items. The same inputs give the same bits on any number of threads.
    ///
    /// # Errors
    /// `Kind::Config` for settings that measure nothing; `Kind::Input` where too few users have events and evidence;
    /// `Kind::Internal` where the parts do not fit together or hold what is no number.
    pub fn of_histories(
        known: &Known<'_>,
        items: &Items<'_>,
        taken: &Taken<'_>,
        reasons: &[(u32, &[f32])],
        settings: &Settings,
    ) -> Result<Worth> {
        settings.check()?;
        known.check()?;
        taken.check(known, items)?;
        let table = Everybody::of(known, items).taken_out_of(items);
        let popularity = Popularity::new(items.counts, settings.seed);
        let mut asked: Vec<Vec<Asked>> = vec![Vec::new(); known.ids.len()];
        for one in taken.asked.iter().filter(|one| is_told_by(one.item, taken.met[one.case], items.counts)) {
            asked[one.user as usize].push(*one);
        }
        let events_of = |user: usize, evidence: &[f32]| -> Events {
            let mut found = Events::default();
            for one in counted(&asked[user], settings) {
                let count = items.counts[one.item as usize];
                let negatives = popularity.negatives(&one, count, taken.met[one.case], settings);
                // Where there is nobody else an item is certain, whatever the text.
                if !negatives.is_empty() {
                    let vector = row(&table, one.item as usize, known.width);
                    found.push(one.item, vector, Others::Scored(negatives), evidence, &table);
                }
            }
            found
        };
        Worth::made(known, reasons, settings, &table, &events_of)
    }
}

#[cfg(test)]
mod tests;
