//! Full ranking of the test parts: the baselines, and models of the next item with each arm's vectors.
//!
//! Knows cases, tiers and lists of items; knows nothing of ratings or of which arms are compared. The cases of all origins stand one
//! after the other, so that intervals are over users across origins.

use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::contrast::{Place, bootstrap};
use crate::evaluate::ablation::neighbours::{ByUsers, EASE, EASE_ITEMS, NEIGHBOURS};
use crate::evaluate::ablation::training::{Around, Evaluation, Found, target_name};
use crate::evaluate::ablation::trials::{Cases, Family, Form, TOP, Trial, ranked_cases, trials};
use crate::evaluate::agreement::Agreement;
use crate::evaluate::arms::{Data, Origin};
use crate::evaluate::baseline::{ItemNeighbours, Popularity};
use crate::evaluate::ease::Ease;
use crate::evaluate::results::{Contrasted, Measurement, TEXT};
use crate::recommend::fit::Model;
use crate::recommend::log_linear::{self, LogLinear};
use crate::recommend::metrics::{Means, Ranked, Scorer, Tier, coverage, gini, popularity_lift};
use crate::recommend::sasrec::{self, SasRec};
use crate::recommend::split::{Case, Part, Target};

/// Full ranking of the test parts.
pub(super) struct Ranking<'a> {
    data: &'a Data<'a>,
    evaluation: &'a Evaluation,
    /// By origin.
    cases: Vec<Cases<'a>>,
}

/// The cases of every origin.
///
/// # Errors
/// `Kind::Input` where a test part has none.
pub(super) fn cases<'a>(data: &'a Data<'a>, targets: &[Target]) -> Result<Vec<Cases<'a>>> {
    let of = |origin: &'a Origin<'a>| -> Result<Cases<'a>> {
        let of_target = |target: &Target| (*target, origin.split.cases(Part::Test, *target));
        let cases: Cases<'a> = targets.iter().map(of_target).collect();
        match cases.iter().any(|(_, cases)| cases.is_empty()) {
            false => Ok(cases),
            true => Err(Error::new(Kind::Input, "no user of the test part has a history")
                .with("data", data.name)
                .with("origin", &origin.label)
                .hint("a longer log, or smaller quantiles of the split")),
        }
    };
    data.origins.iter().map(of).collect()
}

/// A metric of one case.
type OfCase = (&'static str, fn(&Ranked) -> f64);

const OF_CASES: [OfCase; 3] =
    [("ndcg@10", |r| r.ndcg(TOP)), ("recall@10", |r| r.recall(TOP)), ("mrr", Ranked::reciprocal_rank)];

/// Rankings by target, of all origins; they stay with the trials that they are of.
type ByTarget<'r> = Vec<Vec<&'r Ranked>>;

impl<'a> Ranking<'a> {
    pub(super) fn new(data: &'a Data<'a>, evaluation: &'a Evaluation) -> Result<Self> {
        Ok(Ranking { data, evaluation, cases: cases(data, &evaluation.targets)? })
    }

    fn catalogue(&self) -> usize {
        self.data.origins.first().map_or(0, |origin| origin.split.train_counts().len())
    }

    /// Cases of a target at every origin.
    fn by_origin(&self, target: usize) -> impl Iterator<Item = (usize, &[Case<'a>])> {
        self.cases.iter().enumerate().map(move |(at, cases)| (at, cases[target].1.as_slice()))
    }

    /// How often training met what each case of a target asks for.
    fn tiers(&self, target: usize) -> Vec<Tier> {
        let of_origin = |(at, cases): (usize, &[Case<'a>])| {
            let counts = self.data.origins[at].split.train_counts();
            cases.iter().map(|case| Tier::of(counts[case.target as usize])).collect::<Vec<Tier>>()
        };
        self.by_origin(target).flat_map(of_origin).collect()
    }

    /// A baseline, made from the training events of each origin: its rankings by target, of all origins.
    fn baseline<S: Scorer>(&self, make: impl Fn(usize) -> Result<S>) -> Result<Vec<Vec<Ranked>>> {
        let mut by_target: Vec<Vec<Ranked>> = self.evaluation.targets.iter().map(|_| Vec::new()).collect();
        for (at, cases) in self.cases.iter().enumerate() {
            let mut model = make(at)?;
            let since = self.data.origins[at].split.first_seen();
            for ((_, cases), all) in cases.iter().zip(&mut by_target) {
                all.extend(ranked_cases(&mut model, cases, since)?);
            }
        }
        Ok(by_target)
    }

    /// `ranked` by seed.
    fn measure(
        &self,
        recommender: &str,
        arm: &str,
        ranked: &[ByTarget<'_>],
        into: &mut Vec<Measurement>,
    ) -> Result<()> {
        let confidence = self.evaluation.confidence;
        for (t, target) in self.evaluation.targets.iter().enumerate() {
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
            means("all", ranked.iter().map(|s| Means::of(s[t].iter().copied(), &[TOP])).collect())?;
            let tiers = self.tiers(t);
            for tier in Tier::ALL {
                let of_tier = |s: &ByTarget<'_>| {
                    let own = s[t].iter().zip(&tiers).filter(|(_, own)| **own == tier).map(|(ranked, _)| *ranked);
                    Means::of(own, &[TOP])
                };
                means(tier.name(), ranked.iter().map(of_tier).collect())?;
            }
            let of_lists = |of: &dyn Fn(&[&[u32]]) -> f64| -> Vec<f64> {
                ranked.iter().map(|s| of(&s[t].iter().map(|r| r.top.as_slice()).collect::<Vec<_>>())).collect()
            };
            let n = tiers.len();
            let named = [
                ("coverage@10", of_lists(&|l| coverage(l.iter().copied(), self.catalogue()))),
                ("gini@10", of_lists(&|l| gini(l.iter().copied(), self.catalogue()))),
                ("popularity_lift@10", ranked.iter().map(|s| self.popularity_lift(t, &s[t])).collect()),
            ];
            for (metric, by_seed) in named.into_iter().filter(|(_, values)| values.iter().all(|v| v.is_finite())) {
                into.push(place(metric, "all").measurement(arm, n, by_seed, confidence)?);
            }
        }
        Ok(())
    }

    /// The mean over cases of each origin's lift, which is by what training knew there.
    fn popularity_lift(&self, target: usize, ranked: &[&Ranked]) -> f64 {
        let (mut sum, mut n, mut from) = (0.0, 0, 0);
        for (at, cases) in self.by_origin(target) {
            let own = ranked[from..from + cases.len()].iter().map(|ranked| ranked.top.as_slice());
            from += cases.len();
            let lift = popularity_lift(own, cases, self.data.origins[at].split.train_counts());
            // Where no history holds an item of training there is none.
            if lift.is_finite() {
                sum += lift * cases.len() as f64;
                n += cases.len();
            }
        }
        if n == 0 { f64::NAN } else { sum / n as f64 }
    }

    /// What one family of models finds, and its trials by arm and seed, of all origins; `users` as for [`trials`].
    fn family<C, M: Model>(
        &self,
        family: &Family<'_, C, M>,
        users: &[ByUsers],
        around: &mut Around<'_>,
        found: &mut Found,
    ) -> Result<Tried> {
        let (data, evaluation) = (self.data, self.evaluation);
        let agreement = data.origins.last().map(|origin| Agreement::new(origin, data.liked));
        // By seed, then by arm with texts.
        let mut agreed = Vec::new();
        let mut agree = |model: &mut M| -> Result<()> {
            if let Some(agreement) = &agreement {
                agreed.push(agreement.with(model)?);
            }
            Ok(())
        };
        let tried = trials(data, evaluation, family, (&self.cases, users), around, &mut agree)?;
        let is_told = found.measurements.iter().any(|m| m.recommender == TEXT);
        let texts = data.origins.last().filter(|_| !is_told).map(|origin| &origin.texts);
        let texts = texts.into_iter().flat_map(|texts| texts.keys()).filter(|arm| arm.is_text());
        for (at, arm) in texts.enumerate() {
            let by_seed: Vec<(f64, usize)> = agreed.iter().map(|by_arm: &Vec<(f64, usize)>| by_arm[at]).collect();
            let place =
                Place { data: data.name, recommender: TEXT, target: TEXT, metric: "agreement".into(), tier: "all" };
            if let Some((_, cases)) = by_seed.first().filter(|(_, cases)| *cases > 0) {
                let means = by_seed.iter().map(|(mean, _)| *mean).collect();
                found.measurements.push(place.measurement(arm.code(), *cases, means, evaluation.confidence)?);
            }
        }
        self.tell(family.name, &tried, found)?;
        Ok(tried)
    }

    /// Measurements and contrasts of a recommender's trials.
    fn tell(&self, recommender: &str, tried: &Tried, found: &mut Found) -> Result<()> {
        let joined: Vec<Vec<ByTarget<'_>>> =
            tried.iter().map(|by_seed| by_seed.iter().map(|trials| self.joined(trials)).collect()).collect();
        for (arm, ranked) in self.evaluation.arms.iter().zip(&joined) {
            self.measure(recommender, arm.code(), ranked, &mut found.measurements)?;
        }
        found.contrasts.extend(self.contrasts(recommender, &joined)?);
        Ok(())
    }

    /// The rankings of all origins, one after the other.
    fn joined<'r>(&self, trials: &'r [Trial]) -> ByTarget<'r> {
        let of = |t: usize| trials.iter().flat_map(move |trial| trial.ranked[t].iter()).collect();
        (0..self.evaluation.targets.len()).map(of).collect()
    }

    /// All families that are asked for and, where there are two, the better of both by validation.
    pub(super) fn run(&self, around: &mut Around<'_>) -> Result<Found> {
        let (evaluation, catalogue) = (self.evaluation, self.catalogue());
        let (mut found, mut all, mut users) = (Found::default(), Vec::new(), Vec::new());
        let is_ranked = evaluation.sasrec.is_some() || evaluation.log_linear.is_some();
        if evaluation.reading.near_ids && is_ranked {
            for origin in &self.data.origins {
                (around.go_on)()?;
                users.push(ByUsers::new(origin.split)?);
            }
        }
        if let Some(training) = &evaluation.sasrec {
            let make = |form: &Form, content, seed| {
                let hidden = form.width.unwrap_or(training.config.hidden);
                let config = sasrec::Config { reading: form.reading, hidden, ..training.config.clone() };
                SasRec::new(catalogue, config, Some(content), seed, &evaluation.device)
            };
            let family = Family { name: "sasrec", title: "SASRec", training, make: &make };
            all.push(self.family(&family, &users, around, &mut found)?);
        }
        if let Some(training) = &evaluation.log_linear {
            let make = |form: &Form, content, seed| {
                let hidden = form.width.unwrap_or(training.config.hidden);
                let config = log_linear::Config { reading: form.reading, hidden, ..training.config.clone() };
                LogLinear::new(catalogue, config, Some(content), seed, &evaluation.device)
            };
            let family = Family { name: "log_linear", title: "log-linear", training, make: &make };
            all.push(self.family(&family, &users, around, &mut found)?);
        }
        if let (Some(second), Some(first)) = (all.pop(), all.pop()) {
            self.tell("better", &better(first, second), &mut found)?;
        }
        Ok(found)
    }

    /// `ranked` by arm, then seed.
    fn contrasts(&self, recommender: &str, ranked: &[Vec<ByTarget<'_>>]) -> Result<Vec<Contrasted>> {
        let mut all = Vec::new();
        for (t, target) in self.evaluation.targets.iter().enumerate() {
            let of_tiers = self.tiers(t);
            let users_of_cases: Vec<u32> =
                self.by_origin(t).flat_map(|(_, cases)| cases.iter().map(|case| case.user)).collect();
            for (metric, of) in OF_CASES {
                let tiers = [(None, "all")].into_iter().chain(Tier::ALL.map(|tier| (Some(tier), tier.name())));
                for (tier, name) in tiers {
                    let kept: Vec<usize> =
                        (0..of_tiers.len()).filter(|c| tier.is_none_or(|tier| of_tiers[*c] == tier)).collect();
                    if kept.is_empty() {
                        continue;
                    }
                    let users: Vec<u32> = kept.iter().map(|c| users_of_cases[*c]).collect();
                    let place = Place {
                        data: self.data.name,
                        recommender,
                        target: target_name(*target),
                        metric: metric.into(),
                        tier: name,
                    };
                    let (resamples, confidence) = (self.evaluation.resamples, self.evaluation.confidence);
                    all.extend(place.contrasts(&self.evaluation.arms, &|arm, other| {
                        let of_seed = |(arm, other): (&ByTarget<'_>, &ByTarget<'_>)| {
                            kept.iter().map(|c| of(arm[t][*c]) - of(other[t][*c])).collect::<Vec<f64>>()
                        };
                        bootstrap(ranked[arm].iter().zip(&ranked[other]).map(of_seed), &users, resamples, confidence)
                    })?);
                }
            }
        }
        Ok(all)
    }
}

/// Trials by arm, seed and origin.
type Tried = Vec<Vec<Vec<Trial>>>;

/// Of two families, for every arm, seed and origin the one that validated better; the first where they are alike.
fn better(first: Tried, second: Tried) -> Tried {
    let of_trials = |(one, other): (Trial, Trial)| if other.validated > one.validated { other } else { one };
    let of_seeds = |(one, other): (Vec<Trial>, Vec<Trial>)| one.into_iter().zip(other).map(of_trials).collect();
    let of_arms = |(one, other): (Vec<Vec<Trial>>, Vec<Vec<Trial>>)| one.into_iter().zip(other).map(of_seeds).collect();
    first.into_iter().zip(second).map(of_arms).collect()
}

/// Rankings by target, as they are measured.
fn borrowed(ranked: &[Vec<Ranked>]) -> ByTarget<'_> {
    ranked.iter().map(|ranked| ranked.iter().collect()).collect()
}

/// Popularity, item-kNN and EASE, which have no seed.
pub(super) fn baselines(data: &Data<'_>, evaluation: &Evaluation) -> Result<Found> {
    let mut found = Found::default();
    if evaluation.sasrec.is_none() && evaluation.log_linear.is_none() {
        return Ok(found);
    }
    let ranking = Ranking::new(data, evaluation)?;
    let catalogue = ranking.catalogue();
    let train = |at: usize| data.origins[at].split.train();
    let ranked = ranking.baseline(|at| Ok(Popularity::new(train(at), catalogue)))?;
    ranking.measure("popularity", "", &[borrowed(&ranked)], &mut found.measurements)?;
    let ranked = ranking.baseline(|at| Ok(ItemNeighbours::new(train(at), catalogue, NEIGHBOURS)))?;
    ranking.measure("item_knn", "", &[borrowed(&ranked)], &mut found.measurements)?;
    // Validation would choose among them, and the best on the test part is taken: what must be beaten is not made worse than it is.
    let mut best: Option<(f64, Vec<Vec<Ranked>>)> = None;
    for regularisation in EASE {
        let ranked = ranking.baseline(|at| Ease::new(train(at), catalogue, regularisation, EASE_ITEMS))?;
        let score: f64 = ranked.iter().flatten().map(|ranked| ranked.ndcg(TOP)).sum();
        if best.as_ref().is_none_or(|(so_far, _)| score > *so_far) {
            best = Some((score, ranked));
        }
    }
    if let Some((_, ranked)) = best {
        ranking.measure("ease", "", &[borrowed(&ranked)], &mut found.measurements)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_by_validation_is_taken_for_every_arm_seed_and_origin() {
        let trial = |validated: f64| Trial { ranked: Vec::new(), validated };
        let tried = |scores: [f64; 4]| -> Tried {
            vec![vec![vec![trial(scores[0]), trial(scores[1])], vec![trial(scores[2]), trial(scores[3])]]]
        };
        let found = better(tried([0.1, 0.5, 0.2, f64::NAN]), tried([0.2, 0.4, 0.2, 0.3]));
        let scores: Vec<f64> = found[0].iter().flatten().map(|trial| trial.validated).collect();
        assert_eq!(scores[..3], [0.2, 0.5, 0.2]);
    }
}
