//! DIN with each arm's vectors: how well it tells what users like among what they meet.
//!
//! Knows ratings and probabilities; knows nothing of rankings.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::contrast::{Place, bootstrap};
use crate::evaluate::ablation::training::{Around, Evaluation, Found, Training, best, story, target_name, told_name};
use crate::evaluate::ablation::trials::at_origin;
use crate::evaluate::arm::Arm;
use crate::evaluate::arms::{Data, content};
use crate::recommend::din::{self, Din, Labels};
use crate::recommend::fit::{Model, Plan, fit_by, sequences};
use crate::recommend::metrics::log_loss;
use crate::recommend::split::{Case, Part, Split, Target};
use crate::statistics::{auc, auc_by_user, grouped_auc, paired_bootstrap_auc};

/// Cases with a rating, and whether it says yes, of the held-out parts of an origin.
struct Rated<'a> {
    split: &'a Split,
    valid: (Vec<Case<'a>>, Vec<bool>),
    test: (Vec<Case<'a>>, Vec<bool>),
}

impl<'a> Rated<'a> {
    fn of(split: &'a Split, liked: f32) -> Self {
        let of = |part| {
            let cases: Vec<Case<'a>> =
                split.cases(part, Target::Successive).into_iter().filter(|c| c.rating.is_some()).collect();
            let labels = cases.iter().map(|c| c.rating.is_some_and(|r| r >= liked)).collect();
            (cases, labels)
        };
        Rated { split, valid: of(Part::Valid), test: of(Part::Test) }
    }
}

fn probabilities(model: &Din, cases: &[Case<'_>]) -> Result<Vec<f64>> {
    Ok(model.predict(cases)?.into_iter().map(f64::from).collect())
}

/// A training of an arm at an origin with a seed, and what it says of the test part; every case sees the texts of its moment.
fn trial(
    data: &Data<'_>,
    evaluation: &Evaluation,
    training: &Training<din::Config>,
    (arm, at, seed): (Arm, usize, u64),
    part: &Rated<'_>,
    around: &mut Around<'_>,
) -> Result<Vec<f64>> {
    let told = content(arm, data, at, seed)?;
    let content = Arc::new(told.content.clone());
    let catalogue = part.split.train_counts().len();
    let make = || Din::new(catalogue, training.config.clone(), Some(content.clone()), seed, &evaluation.device);
    let (learned, (valid, labels)) = (sequences(part.split), &part.valid);
    let mut train = |model: &mut Din, plan: &Plan| {
        let mut judge = |model: &mut Din| Ok(auc(&probabilities(model, valid)?, labels).unwrap_or(f64::NAN));
        fit_by(model, &learned, valid, plan, around.go_on, &mut judge)
    };
    let what = format!("{}-{}-{seed}", at_origin(data, "din", at), told_name(data, arm, at));
    let (mut model, trained, rate) =
        best(evaluation, &what, &training.learning_rates, &training.plan, &make, &mut train)?;
    (around.say)(story(data, "DIN", arm, at, seed, &trained, (rate, "")));
    (around.go_on)()?;
    let mut said = vec![0.0; part.test.0.len()];
    for (later, places) in told.windows(&part.test.0) {
        if let Some(moment) = later {
            model.refresh(&moment.vectors)?;
        }
        let cases: Vec<Case<'_>> = places.iter().map(|place| part.test.0[*place]).collect();
        places.iter().zip(probabilities(&model, &cases)?).for_each(|(place, said_of)| said[*place] = said_of);
    }
    Ok(said)
}

/// GAUC by arm and seed, and its contrasts, over the cases of users with both labels; nothing where no user has both. A
/// case counts its user's AUC, so that the mean over cases is GAUC and the mean of differences the difference of means.
/// `by_arm` has a probability for every arm, seed and case.
fn grouped(
    place: &Place<'_>,
    evaluation: &Evaluation,
    arms: &[Arm],
    by_arm: &[Vec<Vec<f64>>],
    cases: &Grouped<'_>,
) -> Result<Found> {
    let Grouped { labels, groups, users } = *cases;
    let mut found = Found::default();
    // Whose cases count does not depend on scores.
    let counted = auc_by_user(&vec![0.0; labels.len()], labels, groups);
    let kept: Vec<u32> = users.iter().zip(counted).filter_map(|(user, own)| own.map(|_| *user)).collect();
    if kept.is_empty() {
        return Ok(found);
    }
    let confidence = evaluation.confidence;
    for (arm, predicted) in arms.iter().zip(by_arm) {
        let by_seed = predicted.iter().map(|p| grouped_auc(p, labels, groups).unwrap_or(f64::NAN)).collect();
        found.measurements.push(place.measurement(arm.code(), kept.len(), by_seed, confidence)?);
    }
    let of_cases = |p: &Vec<f64>| -> Vec<f64> { auc_by_user(p, labels, groups).into_iter().flatten().collect() };
    let known: Vec<Vec<Vec<f64>>> = by_arm.iter().map(|seeds| seeds.iter().map(of_cases).collect()).collect();
    found.contrasts = place.contrasts(arms, &|arm, other| {
        let of_seed =
            |(arm, other): (&Vec<f64>, &Vec<f64>)| arm.iter().zip(other).map(|(a, b)| a - b).collect::<Vec<f64>>();
        bootstrap(known[arm].iter().zip(&known[other]).map(of_seed), &kept, evaluation.resamples, confidence)
    })?;
    Ok(found)
}

/// Cases that are judged within groups.
#[derive(Clone, Copy)]
struct Grouped<'a> {
    labels: &'a [bool],
    /// Within which a case is compared: a user at an origin.
    groups: &'a [u32],
    /// The units that are drawn.
    users: &'a [u32],
}

/// Whether every origin has likes and dislikes in its held-out parts, without which nothing can be judged: asked before hours are
/// spent.
///
/// # Errors
/// `Kind::Input` where one lacks them; `Kind::Config` for labels that are not ratings.
pub(super) fn check(data: &Data<'_>, training: &Training<din::Config>) -> Result<()> {
    parts(data, training).map(|_| ())
}

/// The rated cases of every origin.
fn parts<'a>(data: &'a Data<'a>, training: &Training<din::Config>) -> Result<Vec<Rated<'a>>> {
    let Labels::Rated { liked } = training.config.labels else {
        return Err(Error::new(Kind::Config, "an evaluation of DIN wants ratings as labels"));
    };
    let parts: Vec<Rated<'_>> = data.origins.iter().map(|origin| Rated::of(origin.split, liked)).collect();
    let both = |labels: &[bool]| labels.contains(&true) && labels.contains(&false);
    let lacking = parts.iter().position(|part| !both(&part.valid.1) || !both(&part.test.1));
    match lacking.and_then(|at| data.origins.get(at)) {
        None => Ok(parts),
        Some(origin) => {
            Err(Error::new(Kind::Input, "DIN wants likes and dislikes in the validation and in the test part")
                .with("data", data.name)
                .with("origin", &origin.label)
                .with("like_threshold", liked)
                .hint("leave DIN out, or choose another like_threshold"))
        }
    }
}

/// Probabilities of one origin as shares of the origin's cases that have a lower one: models of different origins have no scale in
/// common, and within an origin the order, of which alone AUC tells, stays.
fn placed(probabilities: &[f64]) -> Vec<f64> {
    let mut sorted = probabilities.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len().max(1) as f64;
    probabilities.iter().map(|p| sorted.partition_point(|other| other.total_cmp(p).is_lt()) as f64 / n).collect()
}

/// DIN, by whether users like what they meet: AUC, GAUC and LogLoss over the test parts of all origins. The arms that differ in how
/// models of the next item read vectors, or are made of several of these, are none of DIN's.
pub(super) fn judging(
    data: &Data<'_>,
    evaluation: &Evaluation,
    training: &Training<din::Config>,
    around: &mut Around<'_>,
) -> Result<Found> {
    let parts = parts(data, training)?;
    let is_its = |arm: &&Arm| !arm.is_reading() && !matches!(arm, Arm::Offset | Arm::Ensemble);
    let arms: Vec<Arm> = evaluation.arms.iter().filter(is_its).copied().collect();
    let test: Vec<Case<'_>> = parts.iter().flat_map(|part| part.test.0.iter().copied()).collect();
    let labels: Vec<bool> = parts.iter().flat_map(|part| part.test.1.iter().copied()).collect();
    // By arm, seed and case: probabilities, and where they stand within their origin.
    let (mut said, mut ordered) = (Vec::new(), Vec::new());
    for arm in &arms {
        let (mut of_arm, mut order) = (Vec::new(), Vec::new());
        for seed in 0..evaluation.seeds {
            let (mut of_seed, mut order_of_seed) = (Vec::with_capacity(test.len()), Vec::with_capacity(test.len()));
            for (at, part) in parts.iter().enumerate() {
                let found = trial(data, evaluation, training, (*arm, at, seed), part, around)?;
                order_of_seed.extend(placed(&found));
                of_seed.extend(found);
            }
            of_arm.push(of_seed);
            order.push(order_of_seed);
        }
        said.push(of_arm);
        ordered.push(order);
    }
    let place = |metric: &str| Place {
        data: data.name,
        recommender: "din",
        target: target_name(Target::Successive),
        metric: metric.into(),
        tier: "all",
    };
    let mut found = Found::default();
    let confidence = evaluation.confidence;
    let mut measure = |metric: &str, by_arm: &[Vec<Vec<f64>>], of: fn(&[f64], &[bool]) -> Option<f64>| -> Result<()> {
        for (arm, predicted) in arms.iter().zip(by_arm) {
            // Both kinds of labels are there: see above.
            let by_seed = predicted.iter().map(|p| of(p, &labels).unwrap_or(f64::NAN)).collect();
            found.measurements.push(place(metric).measurement(arm.code(), test.len(), by_seed, confidence)?);
        }
        Ok(())
    };
    measure("auc", &ordered, auc)?;
    measure("log_loss", &said, log_loss)?;
    let users: Vec<u32> = test.iter().map(|c| c.user).collect();
    let resamples = evaluation.resamples;
    found.contrasts.extend(place("auc").contrasts(&arms, &|arm, other| {
        let pairs: Vec<[&[f64]; 2]> =
            ordered[arm].iter().zip(&ordered[other]).map(|(a, b)| [a.as_slice(), b.as_slice()]).collect();
        paired_bootstrap_auc(&pairs, &labels, &users, resamples, confidence, 0)
    })?);
    // Of one case.
    let loss = |p: f64, label: bool| log_loss(&[p], &[label]).unwrap_or(0.0);
    found.contrasts.extend(place("log_loss").contrasts(&arms, &|arm, other| {
        let of_seed = |(arm, other): (&Vec<f64>, &Vec<f64>)| {
            (0..test.len()).map(|c| loss(arm[c], labels[c]) - loss(other[c], labels[c])).collect::<Vec<f64>>()
        };
        bootstrap(said[arm].iter().zip(&said[other]).map(of_seed), &users, resamples, confidence)
    })?);
    // A user at one origin: what another origin's model says is on another scale.
    let n_users = users.iter().max().map_or(1, |user| user + 1);
    let at_origin = parts.iter().zip(0..).flat_map(|(part, at): (_, u32)| part.test.0.iter().map(move |_| at));
    let groups: Vec<u32> = users.iter().zip(at_origin).map(|(user, at)| at * n_users + user).collect();
    let by_user = grouped(
        &place("gauc"),
        evaluation,
        &arms,
        &said,
        &Grouped { labels: &labels, groups: &groups, users: &users },
    )?;
    found.measurements.extend(by_user.measurements);
    found.contrasts.extend(by_user.contrasts);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_the_order_and_its_ties() {
        assert_eq!(placed(&[0.9, 0.1, 0.5, 0.5]), [0.75, 0.0, 0.25, 0.25]);
        assert!(placed(&[]).is_empty());
    }
}
