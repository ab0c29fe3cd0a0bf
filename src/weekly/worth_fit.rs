//! Worths measured: texts become vectors, the log a recommender of ids alone, both together gates, a choice and a correction.
//!
//! Blocks for as long as it takes: not for a tokio worker. Knows encoder, recommender and what stands in memory; knows nothing
//! of jobs, files or what is learned from the choice.

use std::collections::{BTreeMap, BTreeSet};

use crate::cancel::CancelToken;
use crate::error::{Error, Kind, Result};
use crate::generate::models::Models;
use crate::llm::device::ComputeDevice;
use crate::recommend::log_linear::LogLinear;
use crate::recommend::split::Case;
use crate::telemetry::Voice;
use crate::weekly::weekly_file::WorthSpec;
use crate::weekly::worth_answers::{Answer, Answers};
use crate::weekly::worth_data::{Data, Item};
use crate::worth::choice::{Chosen, best_of_each};
use crate::worth::correction::{Candidates, Choice, Correction, ItemChoice, correction};
use crate::worth::events::Settings;
use crate::worth::gates::{Gates, Judged, Yardstick, gates};
use crate::worth::history::{Everybody, Items, Taken};
use crate::worth::item::Block;
use crate::worth::recommender::{Learning, Recommender, recommender};
use crate::worth::text::{Known, Worth};
use crate::worth::whose::Whose;

/// Texts that are encoded between two looks at whether to stop.
const TEXTS: usize = 512;

/// What was measured.
pub(super) struct Measured {
    pub(super) recommender: Recommender,
    pub(super) gates: Gates,
    pub(super) chosen: Chosen,
    /// Places of the chosen answers among all, by item.
    pub(super) places: Vec<usize>,
    /// What is known of each answer.
    pub(super) judged: Vec<Option<Judged>>,
    /// Of items alone: reasons of histories have a judge of their own at night.
    pub(super) correction: Option<Correction>,
    /// What is to stand in the place of the reasons of items that were judged, by item.
    pub(super) choices: Vec<ChosenText>,
}

/// Whether worths may be a reward, what is known of each reason, and what is to stand in the place of items' reasons.
type Told = (Gates, Vec<Option<Judged>>, Option<(Correction, Vec<ChosenText>)>);

/// What is to stand in the place of an item's reason.
pub(super) struct ChosenText {
    /// The place of the item among those that were asked about.
    pub(super) item: usize,
    /// Of another reason, the place of its answer among all.
    pub(super) rewrite: Option<usize>,
    pub(super) of: ItemChoice,
}

/// An accepted reason: the place of its answer, the place of its item or user ([`Data::place`]), and its vector.
type Reason = (usize, u32, Vec<f32>);

/// Vectors of what is said, all of length 1 or zeros.
struct Texts {
    /// Of the evidence, `[places, width]`.
    evidence: Vec<f32>,
    reasons: Vec<Reason>,
    /// Of what nights publish, by item; none where that is the evidence.
    nights: Vec<Option<Vec<f32>>>,
}

impl Texts {
    /// Vectors of reasons with the places of what they are about.
    fn with_places(&self) -> Vec<(u32, &[f32])> {
        self.reasons.iter().map(|(_, place, text)| (*place, text.as_slice())).collect()
    }
}

/// What is measured with.
pub(super) struct Work<'a> {
    pub(super) models: &'a Models,
    pub(super) data: &'a Data,
    /// Items, or users, that were asked about.
    pub(super) items: &'a [Item],
    pub(super) answers: &'a Answers,
    pub(super) of: &'a WorthSpec,
    pub(super) device: &'a ComputeDevice,
}

impl Work<'_> {
    /// Trains the recommender and measures the accepted answers by it.
    ///
    /// # Errors
    /// `Kind::Input` where there is too little to learn from; `Kind::Interrupted` after a signal; what encoder and device say.
    pub(super) fn measure(&self, voice: Voice, stop: &CancelToken) -> Result<Measured> {
        let (data, of) = (self.data, self.of);
        let said = self.texts(stop)?;
        let texts = &said.reasons;
        let (model, recommender) = recommender(&data.split, &learning(of), self.device, voice, stop)?;
        let (gates, found, corrected) = match data.whose {
            Whose::Items => self.of_items(&said, &model, stop)?,
            Whose::Histories => self.of_histories(&said, &model, stop)?,
        };
        let (chosen_texts, chosen) = best_of_each(data.whose, &of_finished(self.answers, texts, &found), of.seed)?;
        let places = chosen_texts.into_iter().filter_map(|text| texts.get(text).map(|(place, ..)| *place)).collect();
        let mut judged = vec![None; self.answers.all.len()];
        for ((place, ..), one) in texts.iter().zip(found) {
            if let Some(slot) = judged.get_mut(*place) {
                *slot = one;
            }
        }
        let (correction, choices) = corrected.unzip();
        let choices = choices.unwrap_or_default();
        Ok(Measured { recommender, gates, chosen, places, judged, correction, choices })
    }

    /// What reasons of items are worth, and what is to stand in their place.
    fn of_items(&self, said: &Texts, model: &LogLinear, stop: &CancelToken) -> Result<Told> {
        let (data, of, settings) = (self.data, self.of, settings(self.of));
        let cases = data.blocks();
        let states = [model.states_before(&cases[0])?, model.states_before(&cases[1])?];
        let vectors = model.vectors()?;
        stop.check()?;
        let known = Known {
            whose: data.whose,
            width: of.hidden,
            vectors: &vectors,
            counts: data.split.train_counts(),
            ids: data.log.items(),
            evidence: &said.evidence,
        };
        let [now, next] = [0, 1].map(|block: usize| Block::of(&cases[block], &states[block]));
        let reasons = said.with_places();
        let worth = Worth::of_items(&known, &now, &reasons, &settings)?;
        let everyone = now.mean_state(known.width);
        let yardstick = Yardstick {
            known: &known,
            everyone: &everyone,
            now: &|settings| Worth::of_items(&known, &now, &reasons, settings),
            next: &|settings| Worth::of_items(&known, &next, &reasons, settings),
        };
        let (gates, found) = gates(&worth, &yardstick, &reasons, &settings, stop)?;
        let (candidates, whose) = self.candidates(said);
        stop.check()?;
        let (correction, chosen_of) = correction(&worth, &known, &candidates, &settings, of.least_events)?;
        let of_item = |((item, rewrites), of): ((usize, Vec<usize>), Option<ItemChoice>)| {
            let of = of?;
            let rewrite = match of.choice {
                Choice::Rewrite(n) => rewrites.get(n).copied(),
                Choice::Current | Choice::Evidence => None,
            };
            Some(ChosenText { item, rewrite, of })
        };
        let choices = whose.into_iter().zip(chosen_of).filter_map(of_item).collect();
        Ok((gates, found, Some((correction, choices))))
    }

    /// What reasons about users' histories are worth.
    fn of_histories(&self, said: &Texts, model: &LogLinear, stop: &CancelToken) -> Result<Told> {
        let (data, of, settings) = (self.data, self.of, settings(self.of));
        let before: Option<Vec<Case<'_>>> = data.items.iter().map(|item| data.history(&item.id)).collect();
        let missing = || Error::new(Kind::Internal, "a user who is described is not in the log");
        let before = before.ok_or_else(missing)?;
        let states = model.states_before(&before)?;
        let vectors = model.vectors()?;
        stop.check()?;
        let counts: Vec<u32> =
            before.iter().map(|case| u32::try_from(case.history.len()).unwrap_or(u32::MAX)).collect();
        let ids: Vec<String> = data.items.iter().map(|item| item.id.clone()).collect();
        let users: Vec<u32> = before.iter().map(|case| case.user).collect();
        let known = Known {
            whose: data.whose,
            width: of.hidden,
            vectors: &states,
            counts: &counts,
            ids: &ids,
            evidence: &said.evidence,
        };
        let items = Items { vectors: &vectors, counts: data.split.train_counts() };
        let [now, next] = data.blocks().map(|cases| Taken::of(&cases, &users));
        let reasons = said.with_places();
        let worth = Worth::of_histories(&known, &items, &now, &reasons, &settings)?;
        let everybody = Everybody::of(&known, &items);
        let yardstick = Yardstick {
            known: &known,
            everyone: everybody.share(),
            now: &|settings| Worth::of_histories(&known, &items, &now, &reasons, settings),
            next: &|settings| Worth::of_histories(&known, &items, &next, &reasons, settings),
        };
        let (gates, found) = gates(&worth, &yardstick, &reasons, &settings, stop)?;
        Ok((gates, found, None))
    }

    /// What the texts of the items may be; beside them, of each, the place of the item and those of the answers that are the
    /// rewrites: accepted ones in other words than what nights publish, each text once.
    fn candidates<'t>(&self, said: &'t Texts) -> (Vec<Candidates<'t>>, Vec<(usize, Vec<usize>)>) {
        let Work { data, items, answers, .. } = self;
        let mut by_item: Vec<Vec<(usize, &'t [f32])>> = vec![Vec::new(); items.len()];
        for (place, _, vector) in &said.reasons {
            let item = answers.all.get(*place).and_then(|answer| by_item.get_mut(answer.item));
            if let Some(of_item) = item {
                of_item.push((*place, vector.as_slice()));
            }
        }
        let (mut candidates, mut whose) = (Vec::new(), Vec::new());
        for (at, (item, reasons)) in items.iter().zip(by_item).enumerate() {
            let Some(dense) = data.place(&item.id) else { continue };
            let published = answers.nights.get(at).and_then(Option::as_ref).and_then(Answer::accepted);
            let mut texts: BTreeSet<&str> = published.into_iter().collect();
            let is_new = |(place, _): &(usize, &[f32])| {
                answers.all.get(*place).and_then(Answer::accepted).is_some_and(|text| texts.insert(text))
            };
            let (places, rewrites) = reasons.into_iter().filter(is_new).unzip();
            let current = said.nights.get(at).and_then(Option::as_deref);
            candidates.push(Candidates { item: dense, current, rewrites });
            whose.push((at, places));
        }
        (candidates, whose)
    }

    fn texts(&self, stop: &CancelToken) -> Result<Texts> {
        let Work { models, data, items, answers, .. } = self;
        let said = data.items.iter().map(|item| item.said.as_str());
        let answered = answers.all.iter().chain(answers.nights.iter().flatten()).filter_map(Answer::accepted);
        let all: BTreeSet<&str> = said.chain(answered).collect();
        let vectors = encoded(models, &all, stop)?;
        let width = models.encoder_files()?.dimension();
        let mut evidence = vec![0.0; data.places() * width];
        for item in &data.items {
            if let Some((place, vector)) = data.place(&item.id).zip(vectors.get(item.said.as_str())) {
                let start = place as usize * width;
                evidence[start..start + width].copy_from_slice(vector);
            }
        }
        let reason = |(place, answer): (usize, &Answer)| {
            let vector = vectors.get(answer.accepted()?)?;
            Some((place, data.place(&items.get(answer.item)?.id)?, vector.clone()))
        };
        let reasons = answers.all.iter().enumerate().filter_map(reason).collect();
        let published = |answer: &Option<Answer>| vectors.get(answer.as_ref()?.accepted()?).cloned();
        Ok(Texts { evidence, reasons, nights: answers.nights.iter().map(published).collect() })
    }
}

/// What is known of those reasons whose answers ended by themselves. One that was cut is no example of how to end.
fn of_finished(answers: &Answers, texts: &[Reason], found: &[Option<Judged>]) -> Vec<Option<Judged>> {
    let is_finished = |place: usize| answers.all.get(place).is_some_and(Answer::is_finished);
    texts.iter().zip(found).map(|((place, ..), one)| one.filter(|_| is_finished(*place))).collect()
}

/// How the recommender learns.
fn learning(of: &WorthSpec) -> Learning {
    Learning {
        hidden: of.hidden,
        length: of.length,
        dropout: of.dropout,
        batch: of.batch,
        epochs: of.epochs,
        patience: of.patience,
        learning_rates: of.learning_rates.clone(),
        seed: of.seed,
    }
}

/// How worths are measured.
fn settings(of: &WorthSpec) -> Settings {
    Settings {
        most_events: of.most_events,
        negatives: of.negatives,
        nearest: of.nearest,
        folds: of.folds,
        ridge: of.ridge,
        prior: of.prior,
        seed: of.seed,
        fold_seed: of.seed,
    }
}

/// The job's vectors of texts, scaled to length 1 as those that nights publish.
fn encoded<'t>(models: &Models, texts: &BTreeSet<&'t str>, stop: &CancelToken) -> Result<BTreeMap<&'t str, Vec<f32>>> {
    let texts: Vec<&str> = texts.iter().copied().collect();
    let mut found = BTreeMap::new();
    for texts in texts.chunks(TEXTS) {
        stop.check()?;
        found.extend(texts.iter().copied().zip(models.embed(texts)?.into_iter().map(of_length_one)));
    }
    Ok(found)
}

/// The vector, scaled to length 1; zeros stay zeros.
fn of_length_one(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let scale = if length > 1e-12 { 1.0 / length } else { 0.0 };
    vector.into_iter().map(|x| (f64::from(x) * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_not_chosen() {
        let answer = |sample: usize, finish: &str| Answer {
            item: 0,
            sample,
            text: None,
            reason: None,
            finish: Some(finish.to_owned()),
            refusal: None,
            logprob_sum: None,
            completion_tokens: 0,
        };
        let answers =
            Answers { all: vec![answer(0, "stop"), answer(1, "length"), answer(2, "stop")], ..Answers::default() };
        let one = Some(Judged::by_halves(0, [Some(0.1); 2]));
        let texts: [Reason; 3] = [2, 1, 0].map(|place: usize| (place, 0, vec![1.0]));
        assert_eq!(of_finished(&answers, &texts, &[one, one, None]), [one, None, None]);
    }

    #[test]
    fn vectors_are_of_one_length() {
        let vector = of_length_one(vec![3.0, 0.0, -4.0]);
        assert!(vector.iter().zip([0.6, 0.0, -0.8]).all(|(x, y): (&f32, f32)| (x - y).abs() < 1e-6), "{vector:?}");
        assert_eq!(of_length_one(vec![0.0; 2]), [0.0; 2]);
    }
}
