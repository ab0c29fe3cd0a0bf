//! Worths measured: texts become vectors, the log a recommender of ids alone, both together gates and a choice.
//!
//! Blocks for as long as it takes: not for a tokio worker. Knows encoder, recommender and what stands in memory; knows nothing
//! of jobs, files or what is learned from the choice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::error::{Context, Error, Kind, Result};
use crate::generate::models::Models;
use crate::llm::device::ComputeDevice;
use crate::recommend::adaptor::{AdaptorConfig, Content};
use crate::recommend::fit::{Plan, Trained, fit_by, mean_ndcg, sequences};
use crate::recommend::item_table::Reading;
use crate::recommend::log_linear::{Config, LogLinear};
use crate::recommend::metrics::Catalogue;
use crate::recommend::split::{Part, Target};
use crate::telemetry::Voice;
use crate::weekly::item_worth::{Block, Known, Settings};
use crate::weekly::weekly_file::WorthSpec;
use crate::weekly::worth_answers::{Answer, Answers};
use crate::weekly::worth_choice::{Chosen, best_of_each};
use crate::weekly::worth_data::{Data, Item};
use crate::weekly::worth_gates::{Gates, Judged, gates};

/// Texts that are encoded between two looks at whether to stop.
const TEXTS: usize = 512;

/// The recommender that says what reasons are worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommender {
    /// Events that it was trained on.
    pub events: usize,
    /// Items that these met.
    pub items: usize,
    /// The rate that validation chose.
    pub learning_rate: f64,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// Its NDCG@10 over the last events before the interval, by full ranking.
    pub ndcg: f64,
}

/// What was measured.
pub(super) struct Measured {
    pub(super) recommender: Recommender,
    pub(super) gates: Gates,
    pub(super) chosen: Chosen,
    /// Places of the chosen answers among all, by item.
    pub(super) places: Vec<usize>,
    /// What is known of each answer.
    pub(super) judged: Vec<Option<Judged>>,
}

/// An accepted reason: the place of its answer, the dense id of its item, and its vector.
type Reason = (usize, u32, Vec<f32>);

/// What is measured with.
pub(super) struct Work<'a> {
    pub(super) models: &'a Models,
    pub(super) data: &'a Data,
    /// Items that were asked about.
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
        let Work { data, of, .. } = self;
        let (evidence, texts) = self.texts(stop)?;
        let (model, recommender) = self.recommender(voice, stop)?;
        let cases = data.blocks();
        let states = [model.states_before(&cases[0])?, model.states_before(&cases[1])?];
        let vectors = model.vectors()?;
        stop.check()?;
        let known = Known {
            width: of.hidden,
            vectors: &vectors,
            counts: data.split.train_counts(),
            ids: data.log.items(),
            evidence: &evidence,
        };
        let [now, next] = [0, 1].map(|block: usize| Block::of(&cases[block], &states[block]));
        let reasons: Vec<(u32, &[f32])> = texts.iter().map(|(_, item, text)| (*item, text.as_slice())).collect();
        let (gates, found) = gates(&known, &now, &next, &reasons, &settings(of))?;
        let (chosen_texts, chosen) = best_of_each(&found, of.seed)?;
        let places = chosen_texts.into_iter().filter_map(|text| texts.get(text).map(|(place, ..)| *place)).collect();
        let mut judged = vec![None; self.answers.all.len()];
        for ((place, ..), one) in texts.iter().zip(found) {
            if let Some(slot) = judged.get_mut(*place) {
                *slot = one;
            }
        }
        Ok(Measured { recommender, gates, chosen, places, judged })
    }

    /// Vectors of the items' evidence, `[items of the log, width]`, and accepted reasons; all of length 1 or zeros.
    fn texts(&self, stop: &CancelToken) -> Result<(Vec<f32>, Vec<Reason>)> {
        let Work { models, data, items, answers, .. } = self;
        let said = data.items.iter().map(|item| item.said.as_str());
        let all: BTreeSet<&str> = said.chain(answers.all.iter().filter_map(Answer::accepted)).collect();
        let vectors = encoded(models, &all, stop)?;
        let width = models.encoder_files()?.dimension();
        let mut evidence = vec![0.0; data.log.items().len() * width];
        for item in &data.items {
            if let Some((dense, vector)) = data.dense(&item.id).zip(vectors.get(item.said.as_str())) {
                let start = dense as usize * width;
                evidence[start..start + width].copy_from_slice(vector);
            }
        }
        let reason = |(place, answer): (usize, &Answer)| {
            let vector = vectors.get(answer.accepted()?)?;
            Some((place, data.dense(&items.get(answer.item)?.id)?, vector.clone()))
        };
        Ok((evidence, answers.all.iter().enumerate().filter_map(reason).collect()))
    }

    /// A log-linear model of ids alone, by the learning rate that validates best.
    fn recommender(&self, voice: Voice, stop: &CancelToken) -> Result<(LogLinear, Recommender)> {
        let Work { data, of, device, .. } = self;
        let split = &data.split;
        let counts = split.train_counts();
        let (learned, valid) = (sequences(split), split.cases(Part::Valid, Target::Successive));
        let content = Arc::new(Content { seen: Some(counts.to_vec()), ..Content::default() });
        // As the arm without texts in an evaluation: what training never met is no wrong answer.
        let reading = Reading { seen_only: true, ..Reading::default() };
        let config = Config {
            hidden: of.hidden,
            length: of.length,
            dropout: of.dropout,
            batch: of.batch,
            adaptor: AdaptorConfig::published(),
            reading,
        };
        let train = |rate: f64| -> Result<(LogLinear, Trained)> {
            let plan = Plan { voice, ..Plan::new(of.epochs, of.patience, rate) };
            let mut model = LogLinear::new(counts.len(), config.clone(), Some(content.clone()), of.seed, device)?;
            let since = Catalogue::since(split.first_seen());
            let mut rank = |model: &mut LogLinear| mean_ndcg(model, &valid, since, plan.ranking);
            let trained = fit_by(&mut model, &learned, &valid, &plan, &|| stop.check(), &mut rank)?;
            Ok((model, trained))
        };
        let Some((first, others)) = of.learning_rates.split_first() else {
            return Err(
                Error::new(Kind::Config, "a recommender wants a learning rate").with("key", "worth.learning_rates")
            );
        };
        let (mut model, mut trained) = train(*first)?;
        let mut learning_rate = *first;
        for rate in others {
            let (other, found) = train(*rate)?;
            if found.best_score > trained.best_score {
                (model, trained, learning_rate) = (other, found, *rate);
            }
        }
        let recommender = Recommender {
            events: split.train().len(),
            items: counts.iter().filter(|n| **n > 0).count(),
            learning_rate,
            best_epoch: trained.best_epoch,
            ndcg: trained.best_score,
        };
        tracing::info!(learning_rate, ndcg = trained.best_score, "the recommender is trained");
        Ok((model, recommender))
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

/// Every answer with its worths, for people: columns item_id, sample, reason, accepted, refusal, is_chosen, and in nats worth,
/// worth_of_choosing_half, worth_of_other_half, worth_of_next_block.
///
/// # Errors
/// `Kind::Internal` where the parts do not fit together.
pub(super) fn table(items: &[Item], answers: &Answers, measured: &Measured) -> Result<RecordBatch> {
    let chosen: BTreeSet<usize> = measured.places.iter().copied().collect();
    let all = || answers.all.iter();
    let nats = |of: &dyn Fn(&Judged) -> Option<f64>| -> ArrayRef {
        Arc::new(measured.judged.iter().map(|one| one.as_ref().and_then(of)).collect::<Float64Array>())
    };
    let ids = all().map(|answer| items.get(answer.item).map(|item| item.id.as_str()));
    let columns: [(&str, ArrayRef); 10] = [
        ("item_id", Arc::new(ids.collect::<StringArray>())),
        ("sample", Arc::new(all().map(|answer| Some(answer.sample as i64)).collect::<Int64Array>())),
        ("reason", Arc::new(all().map(|answer| answer.reason.as_deref()).collect::<StringArray>())),
        ("accepted", Arc::new(all().map(|answer| Some(answer.accepted().is_some())).collect::<BooleanArray>())),
        ("refusal", Arc::new(all().map(|answer| answer.refusal.map(|why| why.as_str())).collect::<StringArray>())),
        (
            "is_chosen",
            Arc::new((0..answers.all.len()).map(|place| Some(chosen.contains(&place))).collect::<BooleanArray>()),
        ),
        ("worth", nats(&|one| Some(one.worth))),
        ("worth_of_choosing_half", nats(&|one| one.halves[0])),
        ("worth_of_other_half", nats(&|one| one.halves[1])),
        ("worth_of_next_block", nats(&|one| one.later)),
    ];
    let columns = columns.map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).context(Kind::Internal, || "a table of worths".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_of_one_length() {
        let vector = of_length_one(vec![3.0, 0.0, -4.0]);
        assert!(vector.iter().zip([0.6, 0.0, -0.8]).all(|(x, y): (&f32, f32)| (x - y).abs() < 1e-6), "{vector:?}");
        assert_eq!(of_length_one(vec![0.0; 2]), [0.0; 2]);
    }
}
