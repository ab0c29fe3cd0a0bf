//! DIN with each arm's vectors: how well it tells what users like among what they meet.
//!
//! Knows ratings and probabilities; knows nothing of rankings.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::contrast::{Place, bootstrap};
use crate::evaluate::ablation::training::{Around, Evaluation, Found, Training, best, story, target_name, told_name};
use crate::evaluate::arms::{Data, content};
use crate::recommend::din::{self, Din, Labels};
use crate::recommend::fit::{Plan, fit_by, sequences};
use crate::recommend::metrics::log_loss;
use crate::recommend::split::{Case, Part, Split, Target};
use crate::statistics::{auc, auc_by_user, grouped_auc, paired_bootstrap_auc};

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

/// GAUC by arm and seed, and its contrasts, over the cases of users with both labels; nothing where no user has both. A
/// case counts its user's AUC, so that the mean over cases is GAUC and the mean of differences the difference of means.
/// `by_arm` has a probability for every arm, seed and case.
fn grouped(
    place: &Place<'_>,
    evaluation: &Evaluation,
    by_arm: &[Vec<Vec<f64>>],
    labels: &[bool],
    users: &[u32],
) -> Result<Found> {
    let mut found = Found::default();
    // Whose cases count does not depend on scores.
    let counted = auc_by_user(&vec![0.0; labels.len()], labels, users);
    let kept: Vec<u32> = users.iter().zip(counted).filter_map(|(user, own)| own.map(|_| *user)).collect();
    if kept.is_empty() {
        return Ok(found);
    }
    let confidence = evaluation.confidence;
    for (arm, predicted) in evaluation.arms.iter().zip(by_arm) {
        let by_seed = predicted.iter().map(|p| grouped_auc(p, labels, users).unwrap_or(f64::NAN)).collect();
        found.measurements.push(place.measurement(arm.code(), kept.len(), by_seed, confidence)?);
    }
    let of_cases = |p: &Vec<f64>| -> Vec<f64> { auc_by_user(p, labels, users).into_iter().flatten().collect() };
    let known: Vec<Vec<Vec<f64>>> = by_arm.iter().map(|seeds| seeds.iter().map(of_cases).collect()).collect();
    found.contrasts = place.contrasts(&evaluation.arms, &|arm, other| {
        let of_seed =
            |(arm, other): (&Vec<f64>, &Vec<f64>)| arm.iter().zip(other).map(|(a, b)| a - b).collect::<Vec<f64>>();
        bootstrap(known[arm].iter().zip(&known[other]).map(of_seed), &kept, evaluation.resamples, confidence)
    })?;
    Ok(found)
}

/// DIN, by whether users like what they meet: AUC, GAUC and LogLoss over the test part.
pub(super) fn judging(
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
    let by_user = grouped(&place("gauc"), evaluation, &by_arm, &labels, &users)?;
    found.measurements.extend(by_user.measurements);
    found.contrasts.extend(by_user.contrasts);
    Ok(found)
}
