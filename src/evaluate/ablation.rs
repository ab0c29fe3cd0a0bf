//! The ablation: the same recommenders with other content features, and what tells them apart.
//!
//! Knows splits, vectors of items and histories, recommenders and statistics; knows nothing of tables, texts or of how a
//! vector was made. An arm differs from another in its vectors alone: the same weights in number and first values, the same
//! batches, the same epochs at most, the same search. Where an arm has no vector, the adaptor adds exactly zero.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::evaluate::agreement::Agreement;
use crate::evaluate::arms::{Arm, Data, content};
use crate::evaluate::baseline::{ItemNeighbours, Popularity};
use crate::evaluate::results::{Contrasted, Measurement, TEXT};
use crate::llm::device::ComputeDevice;
use crate::recommend::din::{self, Din, Labels};
use crate::recommend::fit::{Model, Plan, Trained, fit_by, mean_ndcg, sequences};
use crate::recommend::metrics::{
    Means, Options, Ranked, Scorer, Tier, Tiers, coverage, gini, log_loss, popularity_lift, rank_cases,
};
use crate::recommend::sasrec::{self, SasRec};
use crate::recommend::split::{Case, Part, Split, Target};
use crate::statistics::{Contrast, auc, holm, over_seeds, paired_bootstrap, paired_bootstrap_auc};

/// Lists of recommended items have so many.
const TOP: u32 = 10;
/// Neighbours of the item-kNN baseline.
const NEIGHBOURS: usize = 100;
/// A recommender's sizes and the budget that every arm has: a section of an evaluation's file.
#[derive(Debug, Clone, Deserialize)]
pub struct Training<C> {
    /// Sizes.
    #[serde(flatten)]
    pub config: C,
    /// All are tried; validation chooses.
    pub learning_rates: Vec<f64>,
    /// Epochs, patience and the like. Its rate and its checkpoint are not looked at.
    #[serde(flatten)]
    pub plan: Plan,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// In this order.
    pub arms: Vec<Arm>,
    /// Trainings of every arm: seeds 0, 1, 2 and so on.
    pub seeds: u64,
    /// Which held-out events are ranked.
    pub targets: Vec<Target>,
    /// How often users are drawn anew.
    pub resamples: usize,
    /// Of intervals, between 0 and 1.
    pub confidence: f64,
    /// SASRec, where it is asked for.
    pub sasrec: Option<Training<sasrec::Config>>,
    /// DIN, where it is asked for.
    pub din: Option<Training<din::Config>>,
    /// A folder for checkpoints: an evaluation that was killed goes on where it was.
    pub checkpoints: Option<PathBuf>,
    /// Where to train.
    pub device: ComputeDevice,
}

/// What was found on one data set.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Metrics by arm.
    pub measurements: Vec<Measurement>,
    /// Differences between arms.
    pub contrasts: Vec<Contrasted>,
}

/// The name of a target in tables.
pub fn target_name(target: Target) -> &'static str {
    match target {
        Target::Last => "last",
        Target::First => "first",
        Target::Successive => "successive",
    }
}

/// What goes on around an evaluation.
pub struct Around<'a> {
    /// Is told of each training's end.
    pub say: &'a mut dyn FnMut(String),
    /// Asked before every epoch and after every training; what it refuses with ends the evaluation.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

/// Trains and measures everything that `evaluation` asks for on one data set.
///
/// # Errors
/// `Kind::Input` where a part has no cases or DIN no ratings of both kinds; what training says.
pub fn evaluate(data: &Data<'_>, evaluation: &Evaluation, around: &mut Around<'_>) -> Result<Found> {
    let mut found = baselines(data, evaluation)?;
    if let Some(training) = &evaluation.sasrec {
        let one = Ranking::new(data, evaluation)?.run(training, around)?;
        found.measurements.extend(one.measurements);
        found.contrasts.extend(one.contrasts);
    }
    if let Some(training) = &evaluation.din {
        let one = judging(data, evaluation, training, around)?;
        found.measurements.extend(one.measurements);
        found.contrasts.extend(one.contrasts);
    }
    Ok(found)
}

/// Trains with every learning rate and keeps what validates best.
fn best<M: Model>(
    evaluation: &Evaluation,
    what: &str,
    rates: &[f64],
    plan: &Plan,
    make: &dyn Fn() -> Result<M>,
    train: &mut dyn FnMut(&mut M, &Plan) -> Result<Trained>,
) -> Result<(M, Trained, f64)> {
    let mut best: Option<(M, Trained, f64)> = None;
    for rate in rates {
        let checkpoint =
            evaluation.checkpoints.as_ref().map(|folder| folder.join(format!("{what}-{rate}.safetensors")));
        let mut model = make()?;
        let trained = train(&mut model, &Plan { learning_rate: *rate, checkpoint, ..plan.clone() })?;
        if best.as_ref().is_none_or(|(_, so_far, _)| trained.best_score > so_far.best_score) {
            best = Some((model, trained, *rate));
        }
    }
    best.ok_or_else(|| Error::new(Kind::Config, "an evaluation wants a learning rate or more"))
}

/// An arm in the names of checkpoints. With vectors of histories it is another training than without.
fn told_name(data: &Data<'_>, arm: Arm) -> String {
    let suffix = if data.histories_of(arm).is_some() { "-histories" } else { "" };
    format!("{}{suffix}", arm.code())
}

fn story(data: &Data<'_>, recommender: &str, arm: Arm, seed: u64, trained: &Trained, rate: f64) -> String {
    format!(
        "{} {recommender} {} seed {seed}: validation {:.4} in epoch {} of {}, rate {rate}, {:.0} s",
        data.name,
        arm.code(),
        trained.best_score,
        trained.best_epoch,
        trained.epochs.len(),
        trained.epochs.iter().map(|e| e.seconds).sum::<f64>(),
    )
}

/// Which arms are compared: each with no text, and those whose difference says something of its own.
fn pairs(arms: &[Arm]) -> Vec<(usize, usize)> {
    let at = |arm: Arm| arms.iter().position(|a| *a == arm);
    let against_nothing = arms.iter().filter(|a| **a != Arm::NoText).map(|a| (*a, Arm::NoText));
    let others = [
        (Arm::Attributes, Arm::Random),
        (Arm::ZeroShot, Arm::Attributes),
        (Arm::Aligned, Arm::Attributes),
        (Arm::Aligned, Arm::ZeroShot),
        (Arm::Templates, Arm::Aligned),
        (Arm::Beside, Arm::Attributes),
        (Arm::Beside, Arm::Aligned),
        (Arm::Sampled, Arm::Aligned),
        (Arm::BestOf, Arm::Aligned),
        (Arm::Weighted, Arm::Aligned),
        (Arm::Reinforced, Arm::Aligned),
        (Arm::Reinforced, Arm::BestOf),
        (Arm::Corrected, Arm::Reinforced),
        (Arm::CorrectedAligned, Arm::Aligned),
        (if arms.contains(&Arm::Corrected) { Arm::Corrected } else { Arm::ZeroShot }, Arm::Shuffled),
        (Arm::ZeroShot, Arm::Anonymous),
    ];
    against_nothing.chain(others).filter_map(|(arm, other)| Some((at(arm)?, at(other)?))).collect()
}

/// Labels of a table's rows.
struct Place<'a> {
    data: &'a str,
    recommender: &'a str,
    target: &'a str,
    metric: String,
    tier: &'a str,
}

impl Place<'_> {
    fn measurement(&self, arm: &str, cases: usize, by_seed: Vec<f64>, confidence: f64) -> Result<Measurement> {
        let interval = over_seeds(&by_seed, confidence)?;
        Ok(Measurement {
            data: self.data.into(),
            recommender: self.recommender.into(),
            arm: arm.into(),
            target: self.target.into(),
            metric: self.metric.clone(),
            tier: self.tier.into(),
            cases: cases as u64,
            by_seed,
            interval,
        })
    }

    /// A family of contrasts, corrected together.
    fn contrasts(&self, arms: &[Arm], of_pair: &dyn Fn(usize, usize) -> Result<Contrast>) -> Result<Vec<Contrasted>> {
        let pairs = pairs(arms);
        let found: Vec<Contrast> = pairs.iter().map(|(arm, other)| of_pair(*arm, *other)).collect::<Result<_>>()?;
        let corrected = holm(&found.iter().map(|c| c.p).collect::<Vec<f64>>());
        let row = |((pair, contrast), p_holm): ((&(usize, usize), Contrast), f64)| Contrasted {
            data: self.data.into(),
            recommender: self.recommender.into(),
            target: self.target.into(),
            metric: self.metric.clone(),
            tier: self.tier.into(),
            arm: arms[pair.0].code().into(),
            against: arms[pair.1].code().into(),
            users: contrast.users,
            contrast,
            p_holm,
        };
        Ok(pairs.iter().zip(found).zip(corrected).map(row).collect())
    }
}

/// Full ranking of the test part.
struct Ranking<'a> {
    data: &'a Data<'a>,
    evaluation: &'a Evaluation,
    tiers: Tiers,
    cases: Vec<(Target, Vec<Case<'a>>)>,
}

/// A metric of one case.
type OfCase = (&'static str, fn(&Ranked) -> f64);

const OF_CASES: [OfCase; 3] =
    [("ndcg@10", |r| r.ndcg(TOP)), ("recall@10", |r| r.recall(TOP)), ("mrr", Ranked::reciprocal_rank)];

const TIERS: [(Tier, &str); 3] = [(Tier::Cold, "cold"), (Tier::Tail, "tail"), (Tier::Head, "head")];

impl<'a> Ranking<'a> {
    fn new(data: &'a Data<'a>, evaluation: &'a Evaluation) -> Result<Self> {
        let tiers = Tiers::new(data.split.train_counts(), Tiers::HEAD);
        let cases: Vec<_> =
            evaluation.targets.iter().map(|target| (*target, data.split.cases(Part::Test, *target))).collect();
        if cases.iter().any(|(_, cases)| cases.is_empty()) {
            return Err(Error::new(Kind::Input, "no user of the test part has a history")
                .with("data", data.name)
                .hint("a longer log, or a smaller train_quantile"));
        }
        Ok(Ranking { data, evaluation, tiers, cases })
    }

    fn catalogue(&self) -> usize {
        self.data.split.train_counts().len()
    }

    /// By target.
    fn rank(&self, model: &mut dyn Scorer) -> Result<Vec<Vec<Ranked>>> {
        let options = Options { top: TOP as usize, ..Options::default() };
        self.cases.iter().map(|(_, cases)| rank_cases(model, cases, self.catalogue(), options)).collect()
    }

    /// `ranked` by seed, then target.
    fn measure(
        &self,
        recommender: &str,
        arm: &str,
        ranked: &[Vec<Vec<Ranked>>],
        into: &mut Vec<Measurement>,
    ) -> Result<()> {
        let confidence = self.evaluation.confidence;
        for (t, (target, cases)) in self.cases.iter().enumerate() {
            let place = |metric: &str, tier| Place {
                data: self.data.name,
                recommender,
                target: target_name(*target),
                metric: metric.into(),
                tier,
            };
            let mut means = |tier: &'static str, by_seed: Vec<Means>| -> Result<()> {
                let cases = by_seed.first().map_or(0, |m| m.cases);
                let by = |of: fn(&Means) -> f64| by_seed.iter().map(of).collect::<Vec<f64>>();
                let named =
                    [("ndcg@10", by(|m| m.ndcg[0].1)), ("recall@10", by(|m| m.recall[0].1)), ("mrr", by(|m| m.mrr))];
                for (metric, by_seed) in named.into_iter().filter(|_| cases > 0) {
                    into.push(place(metric, tier).measurement(arm, cases, by_seed, confidence)?);
                }
                Ok(())
            };
            means("all", ranked.iter().map(|s| Means::of(&s[t], &[TOP])).collect())?;
            for (tier, name) in TIERS {
                means(name, ranked.iter().map(|s| Means::of_tier(&s[t], &self.tiers, tier, &[TOP])).collect())?;
            }
            let counts = self.data.split.train_counts();
            let of_lists = |of: &dyn Fn(&[&[u32]]) -> f64| -> Vec<f64> {
                ranked.iter().map(|s| of(&s[t].iter().map(|r| r.top.as_slice()).collect::<Vec<_>>())).collect()
            };
            let named = [
                ("coverage@10", of_lists(&|l| coverage(l.iter().copied(), self.catalogue()))),
                ("gini@10", of_lists(&|l| gini(l.iter().copied(), self.catalogue()))),
                ("popularity_lift@10", ranked.iter().map(|s| popularity_lift(&s[t], cases, counts)).collect()),
            ];
            for (metric, by_seed) in named.into_iter().filter(|(_, values)| values.iter().all(|v| v.is_finite())) {
                into.push(place(metric, "all").measurement(arm, cases.len(), by_seed, confidence)?);
            }
        }
        Ok(())
    }

    fn run(&self, training: &Training<sasrec::Config>, around: &mut Around<'_>) -> Result<Found> {
        let (data, evaluation) = (self.data, self.evaluation);
        let learned = sequences(data.split);
        let valid = data.split.cases(Part::Valid, Target::Successive);
        let mut found = Found::default();
        let mut by_arm = Vec::new();
        let agreement = Agreement::new(data);
        // By seed, then by arm with texts.
        let mut agreed = Vec::new();
        for arm in &evaluation.arms {
            let mut ranked = Vec::new();
            for seed in 0..evaluation.seeds {
                let content = Arc::new(content(*arm, data, seed)?);
                let make = || {
                    let content = Some(content.clone());
                    SasRec::new(self.catalogue(), training.config.clone(), content, seed, &evaluation.device)
                };
                let mut train = |model: &mut SasRec, plan: &Plan| {
                    let mut rank = |model: &mut SasRec| mean_ndcg(model, &valid, self.catalogue(), plan.ranking);
                    fit_by(model, &learned, &valid, plan, around.go_on, &mut rank)
                };
                let what = format!("{}-sasrec-{}-{seed}", data.name, told_name(data, *arm));
                let (mut model, trained, rate) =
                    best(evaluation, &what, &training.learning_rates, &training.plan, &make, &mut train)?;
                (around.say)(story(data, "SASRec", *arm, seed, &trained, rate));
                (around.go_on)()?;
                ranked.push(self.rank(&mut model)?);
                if *arm == Arm::NoText {
                    agreed.push(agreement.with(&mut model)?);
                }
            }
            self.measure("sasrec", arm.code(), &ranked, &mut found.measurements)?;
            by_arm.push(ranked);
        }
        for (at, arm) in data.texts.keys().enumerate() {
            let by_seed: Vec<(f64, usize)> = agreed.iter().map(|by_arm| by_arm[at]).collect();
            let place =
                Place { data: data.name, recommender: TEXT, target: TEXT, metric: "agreement".into(), tier: "all" };
            if let Some((_, cases)) = by_seed.first().filter(|(_, cases)| *cases > 0) {
                let means = by_seed.iter().map(|(mean, _)| *mean).collect();
                found.measurements.push(place.measurement(arm.code(), *cases, means, evaluation.confidence)?);
            }
        }
        found.contrasts = self.contrasts(&by_arm)?;
        Ok(found)
    }

    /// `ranked` by arm, seed and target.
    fn contrasts(&self, ranked: &[Vec<Vec<Vec<Ranked>>>]) -> Result<Vec<Contrasted>> {
        let mut all = Vec::new();
        for (t, (target, cases)) in self.cases.iter().enumerate() {
            for (metric, of) in OF_CASES {
                let tiers = [(None, "all")].into_iter().chain(TIERS.map(|(tier, name)| (Some(tier), name)));
                for (tier, name) in tiers {
                    let kept: Vec<usize> = (0..cases.len())
                        .filter(|c| tier.is_none_or(|tier| self.tiers.of(cases[*c].target) == tier))
                        .collect();
                    if kept.is_empty() {
                        continue;
                    }
                    let users: Vec<u32> = kept.iter().map(|c| cases[*c].user).collect();
                    let place = Place {
                        data: self.data.name,
                        recommender: "sasrec",
                        target: target_name(*target),
                        metric: metric.into(),
                        tier: name,
                    };
                    let (resamples, confidence) = (self.evaluation.resamples, self.evaluation.confidence);
                    all.extend(place.contrasts(&self.evaluation.arms, &|arm, other| {
                        let of_seed = |(arm, other): (&Vec<Vec<Ranked>>, &Vec<Vec<Ranked>>)| {
                            kept.iter().map(|c| of(&arm[t][*c]) - of(&other[t][*c])).collect::<Vec<f64>>()
                        };
                        bootstrap(ranked[arm].iter().zip(&ranked[other]).map(of_seed), &users, resamples, confidence)
                    })?);
                }
            }
        }
        Ok(all)
    }
}

/// Differences by training, drawn anew together with users.
fn bootstrap(
    differences: impl Iterator<Item = Vec<f64>>,
    users: &[u32],
    resamples: usize,
    confidence: f64,
) -> Result<Contrast> {
    let differences: Vec<Vec<f64>> = differences.collect();
    let slices: Vec<&[f64]> = differences.iter().map(Vec::as_slice).collect();
    paired_bootstrap(&slices, users, resamples, confidence, 0)
}

/// Popularity and item-kNN, which have no seed.
fn baselines(data: &Data<'_>, evaluation: &Evaluation) -> Result<Found> {
    let mut found = Found::default();
    if evaluation.sasrec.is_none() {
        return Ok(found);
    }
    let ranking = Ranking::new(data, evaluation)?;
    let (train, catalogue) = (data.split.train(), ranking.catalogue());
    let ranked = ranking.rank(&mut Popularity::new(train, catalogue))?;
    ranking.measure("popularity", "", &[ranked], &mut found.measurements)?;
    let ranked = ranking.rank(&mut ItemNeighbours::new(train, catalogue, NEIGHBOURS))?;
    ranking.measure("item_knn", "", &[ranked], &mut found.measurements)?;
    Ok(found)
}

/// Cases with a rating, and whether it says yes.
fn rated<'a>(split: &'a Split, part: Part, liked: f32) -> (Vec<Case<'a>>, Vec<bool>) {
    let cases: Vec<Case<'a>> =
        split.cases(part, Target::Successive).into_iter().filter(|c| c.rating.is_some()).collect();
    let labels = cases.iter().map(|c| c.rating.is_some_and(|r| r >= liked)).collect();
    (cases, labels)
}

fn probabilities(model: &Din, cases: &[Case<'_>]) -> Result<Vec<f64>> {
    Ok(model.predict(cases)?.into_iter().map(f64::from).collect())
}

/// DIN, by whether users like what they meet: AUC and LogLoss over the test part.
fn judging(
    data: &Data<'_>,
    evaluation: &Evaluation,
    training: &Training<din::Config>,
    around: &mut Around<'_>,
) -> Result<Found> {
    let Labels::Rated { liked } = training.config.labels else {
        return Err(Error::new(Kind::Config, "an evaluation of DIN wants ratings as labels"));
    };
    let split = data.split;
    let ((valid, valid_labels), (test, labels)) = (rated(split, Part::Valid, liked), rated(split, Part::Test, liked));
    if [&valid_labels, &labels].iter().any(|l| !l.contains(&true) || !l.contains(&false)) {
        return Err(Error::new(Kind::Input, "DIN wants likes and dislikes in the validation and in the test part")
            .with("data", data.name)
            .with("like_threshold", liked)
            .hint("leave DIN out, or choose another like_threshold"));
    }
    let learned = sequences(split);
    let (mut found, mut by_arm) = (Found::default(), Vec::new());
    for arm in &evaluation.arms {
        let mut predicted = Vec::new();
        for seed in 0..evaluation.seeds {
            let content = Arc::new(content(*arm, data, seed)?);
            let make = || {
                let catalogue = split.train_counts().len();
                Din::new(catalogue, training.config.clone(), Some(content.clone()), seed, &evaluation.device)
            };
            let mut train = |model: &mut Din, plan: &Plan| {
                let mut judge =
                    |model: &mut Din| Ok(auc(&probabilities(model, &valid)?, &valid_labels).unwrap_or(f64::NAN));
                fit_by(model, &learned, &valid, plan, around.go_on, &mut judge)
            };
            let what = format!("{}-din-{}-{seed}", data.name, told_name(data, *arm));
            let (model, trained, rate) =
                best(evaluation, &what, &training.learning_rates, &training.plan, &make, &mut train)?;
            (around.say)(story(data, "DIN", *arm, seed, &trained, rate));
            (around.go_on)()?;
            predicted.push(probabilities(&model, &test)?);
        }
        by_arm.push(predicted);
    }
    let place = |metric: &str| Place {
        data: data.name,
        recommender: "din",
        target: target_name(Target::Successive),
        metric: metric.into(),
        tier: "all",
    };
    for (arm, predicted) in evaluation.arms.iter().zip(&by_arm) {
        for (metric, of) in [("auc", auc as fn(&[f64], &[bool]) -> Option<f64>), ("log_loss", log_loss)] {
            // Both kinds of labels are there: see above.
            let by_seed = predicted.iter().map(|p| of(p, &labels).unwrap_or(f64::NAN)).collect();
            found.measurements.push(place(metric).measurement(
                arm.code(),
                test.len(),
                by_seed,
                evaluation.confidence,
            )?);
        }
    }
    let users: Vec<u32> = test.iter().map(|c| c.user).collect();
    let (resamples, confidence) = (evaluation.resamples, evaluation.confidence);
    found.contrasts.extend(place("auc").contrasts(&evaluation.arms, &|arm, other| {
        let pairs: Vec<[&[f64]; 2]> =
            by_arm[arm].iter().zip(&by_arm[other]).map(|(a, b)| [a.as_slice(), b.as_slice()]).collect();
        paired_bootstrap_auc(&pairs, &labels, &users, resamples, confidence, 0)
    })?);
    // Of one case.
    let loss = |p: f64, label: bool| log_loss(&[p], &[label]).unwrap_or(0.0);
    found.contrasts.extend(place("log_loss").contrasts(&evaluation.arms, &|arm, other| {
        let of_seed = |(arm, other): (&Vec<f64>, &Vec<f64>)| {
            (0..test.len()).map(|c| loss(arm[c], labels[c]) - loss(other[c], labels[c])).collect::<Vec<f64>>()
        };
        bootstrap(by_arm[arm].iter().zip(&by_arm[other]).map(of_seed), &users, resamples, confidence)
    })?);
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::arms::tests::{data, log};
    use crate::recommend::split::temporal;

    #[test]
    fn stages_are_compared_in_their_order() {
        let named = |arms: &[Arm]| -> Vec<String> {
            pairs(arms).iter().map(|(a, b)| format!("{}-{}", arms[*a].code(), arms[*b].code())).collect()
        };
        let all = named(&Arm::ALL);
        for pair in
            ["A3-A2", "A4-A3", "A4b-A4", "A4e-A2", "A4s-A4", "A5a-A4", "A5b-A4", "A5-A5a", "A6-A5", "A6n-A4", "A6-A7"]
        {
            assert!(all.contains(&pair.to_owned()), "{pair}: {all:?}");
        }
        assert!(!all.contains(&"A3-A7".to_owned()), "A7 has the texts of A6 here");
        assert_eq!(named(&[Arm::NoText, Arm::ZeroShot, Arm::Shuffled]), ["A3-A0", "A7-A0", "A3-A7"]);
    }

    #[test]
    fn the_yardstick_sees_a_leak_and_no_difference_where_there_is_none() {
        let split = temporal(&log(), 0.8, 0.9).unwrap();
        let data = data(&split);
        let plan = Plan::new(6, 6, 1e-3);
        let folder = tempfile::tempdir().unwrap();
        let evaluation = Evaluation {
            arms: vec![Arm::NoText, Arm::Random, Arm::Leak],
            seeds: 2,
            targets: vec![Target::Successive],
            resamples: 300,
            confidence: 0.95,
            sasrec: Some(Training {
                config: sasrec::Config {
                    hidden: 16,
                    inner: 16,
                    layers: 1,
                    length: 8,
                    dropout: 0.0,
                    attention_dropout: Some(0.5),
                    batch: 64,
                    ..sasrec::Config::recbole()
                },
                learning_rates: vec![3e-3],
                plan: Plan { epochs: 12, ..plan.clone() },
            }),
            din: Some(Training {
                config: din::Config {
                    hidden: 8,
                    length: 8,
                    labels: Labels::Rated { liked: 4.0 },
                    ..din::Config::published()
                },
                learning_rates: vec![3e-3],
                plan,
            }),
            checkpoints: Some(folder.path().to_path_buf()),
            device: ComputeDevice::cpu(),
        };
        let mut lines = Vec::new();
        let mut around = Around { say: &mut |line| lines.push(line), go_on: &|| Ok(()) };
        let found = evaluate(&data, &evaluation, &mut around).unwrap();
        assert_eq!(lines.len(), 12, "three arms, two seeds, two recommenders");
        let value = |recommender: &str, arm: &str, metric: &str| {
            let of = |m: &&Measurement| {
                (m.recommender.as_str(), m.arm.as_str(), m.metric.as_str(), m.tier.as_str())
                    == (recommender, arm, metric, "all")
            };
            found.measurements.iter().find(of).unwrap().interval.mean
        };
        assert!(
            value("sasrec", "A9", "ndcg@10") > value("sasrec", "A0", "ndcg@10") + 0.05,
            "{:#?}",
            found.measurements
        );
        assert!(value("sasrec", "A0", "ndcg@10") > value("popularity", "", "ndcg@10"));
        let contrast = |recommender: &str, arm: &str, metric: &str| {
            let of = |c: &&Contrasted| {
                (c.recommender.as_str(), c.arm.as_str(), c.metric.as_str(), c.tier.as_str())
                    == (recommender, arm, metric, "all")
            };
            found.contrasts.iter().find(of).unwrap().contrast.interval
        };
        let leak = contrast("sasrec", "A9", "ndcg@10");
        assert!(leak.low > 0.0 && contrast("din", "A9", "auc").low > 0.0, "{leak:?}");
        let nothing = contrast("sasrec", "A1", "ndcg@10");
        assert!(nothing.low < 0.0 && nothing.high > 0.0, "{nothing:?}");
        // The difference of the means is the mean of the differences.
        let difference = value("sasrec", "A9", "ndcg@10") - value("sasrec", "A0", "ndcg@10");
        assert!((leak.mean - difference).abs() < 1e-12);
        let by_auc = value("din", "A1", "auc") - value("din", "A0", "auc");
        assert!((contrast("din", "A1", "auc").mean - by_auc).abs() < 1e-12);
        assert!(
            (contrast("din", "A1", "log_loss").mean - value("din", "A1", "log_loss") + value("din", "A0", "log_loss"))
                .abs()
                < 1e-9
        );

        let agreed = value(TEXT, "A2", "agreement");
        assert!(agreed.abs() < 0.3, "texts that say nothing agree with nobody: {agreed}");

        // Everything is there already: nothing is trained again, and nothing differs.
        let asked = std::cell::Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        let again = evaluate(&data, &evaluation, &mut Around { say: &mut |_| (), go_on: &go_on }).unwrap();
        assert_eq!(asked.get(), 12, "asked after every training, and before no epoch");
        assert!(format!("{again:?}") == format!("{found:?}"));
    }
}
