//! Full ranking of the test part: the baselines, and SASRec with each arm's vectors.
//!
//! Knows cases, tiers and lists of items; knows nothing of ratings or of which arms are compared.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::contrast::{Place, bootstrap};
use crate::evaluate::ablation::training::{Around, Evaluation, Found, Training, best, story, target_name, told_name};
use crate::evaluate::agreement::Agreement;
use crate::evaluate::arms::{Arm, Data, content};
use crate::evaluate::baseline::{ItemNeighbours, Popularity};
use crate::evaluate::results::{Contrasted, Measurement, TEXT};
use crate::recommend::fit::{Plan, fit_by, mean_ndcg, sequences};
use crate::recommend::metrics::{
    Means, Options, Ranked, Scorer, Tier, Tiers, coverage, gini, popularity_lift, rank_cases,
};
use crate::recommend::sasrec::{self, SasRec};
use crate::recommend::split::{Case, Part, Target};

/// Lists of recommended items have so many.
const TOP: u32 = 10;
/// Neighbours of the item-kNN baseline.
const NEIGHBOURS: usize = 100;

/// Full ranking of the test part.
pub(super) struct Ranking<'a> {
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
    pub(super) fn new(data: &'a Data<'a>, evaluation: &'a Evaluation) -> Result<Self> {
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

    pub(super) fn run(&self, training: &Training<sasrec::Config>, around: &mut Around<'_>) -> Result<Found> {
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

/// Popularity and item-kNN, which have no seed.
pub(super) fn baselines(data: &Data<'_>, evaluation: &Evaluation) -> Result<Found> {
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
