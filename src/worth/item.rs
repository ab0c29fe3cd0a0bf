//! What a reason of an item is worth: how far it helps a recommender that knows the item by this text alone.
//!
//! R(z) = mean over held-out events of item i of log p(i | h; v_i = W g(z)), less the same with the vector of i's evidence, in nats:
//! see [`crate::worth::text`] for W, p and the kinds of texts.
//!
//! * h is the state s of a recommender of ids alone before an event that it was not trained on; the vectors of all other items are
//!   that recommender's. W leads to these vectors, and an item is mapped by a map that has not learned from its row.
//! * Everybody's taste tells nothing of an item. With m the mean state before the events of a block, a vector v scores s v = m v +
//!   (s - m) v. The first part is the same for everybody: a text that leads along m lifts its item in every event, as a number of
//!   popularity does, and halves of the users, blocks of time and folds all agree on it. So all scores, of i as of its negatives,
//!   are (s - m) v. What is left to a text along m is how far users differ there. The number of its own that the recommender adds
//!   to an item's scores is no part of any of them, as negatives are about as popular. m does not look at what anybody took.
//!
//! Knows vectors, states and numbers of items; knows nothing of texts, encoders, models or where a log comes from.

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;
use crate::recommend::split::Case;
use crate::worth::events::{Asked, Events, Others, Popularity, Settings, counted, dot, log_sum, row};
use crate::worth::text::{Known, Worth};

/// Events of a block of time that the recommender was not trained on.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    /// The recommender's states, `[cases, width]`.
    pub states: &'a [f32],
    /// What the user of each case had met before it, dense ids in any order.
    pub met: Vec<&'a [u32]>,
    /// The events.
    pub asked: Vec<Asked>,
}

impl<'a> Block<'a> {
    /// Every case is an event; `states` are those before them, `[cases, width]`.
    pub fn of(cases: &[Case<'a>], states: &'a [f32]) -> Self {
        let asked = cases
            .iter()
            .enumerate()
            .map(|(case, asked)| Asked { user: asked.user, item: asked.target, case })
            .collect();
        Block { states, met: cases.iter().map(|case| case.history).collect(), asked }
    }

    /// The same events with their items dealt anew among them: how often each item comes stays, and what users are after no longer
    /// tells what they take. The control of whoever chooses by a block.
    #[must_use]
    pub fn dealt(&self, seed: u64) -> Block<'a> {
        let mut items: Vec<u32> = self.asked.iter().map(|one| one.item).collect();
        Random::new(seed, "dealt labels").shuffle(&mut items);
        let asked = self.asked.iter().zip(items).map(|(one, item)| Asked { item, ..*one }).collect();
        Block { states: self.states, met: self.met.clone(), asked }
    }

    fn state_of(&self, case: usize, width: usize) -> &'a [f32] {
        row(self.states, case, width)
    }

    fn check(&self, known: &Known<'_>) -> Result<()> {
        let (cases, items) = (self.met.len(), known.ids.len());
        let is_there = |one: &Asked| one.case < cases && (one.item as usize) < items;
        let fits = self.states.len() == cases * known.width && self.asked.iter().all(is_there);
        if fits && self.states.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Internal,
            "a block's events do not fit its states or the items, or it holds what is no number",
        )
        .with("cases", cases)
        .with("states", self.states.len())
        .with("events", self.asked.len()))
    }

    /// What sets the user of a case apart: the state, less `everyone`, which is the mean state.
    fn own_state_of(&self, case: usize, everyone: &[f32]) -> Vec<f32> {
        self.state_of(case, everyone.len()).iter().zip(everyone).map(|(x, mean)| x - mean).collect()
    }

    /// The mean state before the events, `width` values.
    pub fn mean_state(&self, width: usize) -> Vec<f32> {
        let mut sums = vec![0.0; width];
        for one in &self.asked {
            sums.iter_mut().zip(self.state_of(one.case, width)).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let n = self.asked.len().max(1) as f64;
        sums.into_iter().map(|sum| (sum / n) as f32).collect()
    }
}

impl Worth {
    /// What reasons of items are worth, from the events of one block. `reasons` are vectors of reasons with their items, by which it
    /// is known where reasons lie: those that are to be compared. The same inputs give the same bits on any number of threads.
    ///
    /// # Errors
    /// `Kind::Config` for settings that measure nothing; `Kind::Input` where too few items have events and evidence;
    /// `Kind::Internal` where the parts do not fit together or hold what is no number.
    pub fn of_items(
        known: &Known<'_>,
        block: &Block<'_>,
        reasons: &[(u32, &[f32])],
        settings: &Settings,
    ) -> Result<Worth> {
        settings.check()?;
        known.check()?;
        block.check(known)?;
        let popularity = Popularity::new(known.counts, settings.seed);
        let everyone = block.mean_state(known.width);
        let mut asked: Vec<Vec<Asked>> = vec![Vec::new(); known.ids.len()];
        block.asked.iter().for_each(|one| asked[one.item as usize].push(*one));
        let events_of = |item: usize, evidence: &[f32]| -> Events {
            let mut found = Events::default();
            for one in counted(&asked[item], settings) {
                let state = block.own_state_of(one.case, &everyone);
                let negatives = popularity.negatives(&one, known.counts[item], block.met[one.case], settings);
                let scores: Vec<f64> =
                    negatives.into_iter().map(|item| dot(&state, known.vector_of(item as usize))).collect();
                // Where there is nobody else an item is certain, whatever its text.
                let Some(others) = log_sum(&scores) else { continue };
                found.push(one.user, &state, Others::Summed(others), evidence, &[]);
            }
            found
        };
        Worth::made(known, reasons, settings, &[], &events_of)
    }
}

#[cfg(test)]
pub(crate) mod tests;
