//! The ablation: the same recommenders with other content features, and what tells them apart.
//!
//! Knows splits, vectors of items and histories, recommenders and statistics; knows nothing of tables, texts or of how a
//! vector was made. An arm differs from another in its vectors alone, or in how they are read: the same batches, the same
//! epochs at most, the same search. Where an arm has no vector, the adaptor adds exactly zero.

use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::judging::{self, judging};
use crate::evaluate::ablation::ranking::{self, Ranking, baselines};
use crate::evaluate::ablation::training::{Around, Evaluation, Found, Training};
use crate::evaluate::arms::Data;
use crate::recommend::din;
use crate::recommend::fit::sequences;
use crate::recommend::split::Target;

/// Whether a data set can be asked at every origin: `targets` of models of the next item, none where these are not run, and
/// `din` where it is. Looks at the log alone, so that it can be asked before there is any vector.
///
/// # Errors
/// `Kind::Input` where nobody has two training events, a test part has no case, or DIN lacks likes or dislikes;
/// `Kind::Config` where DIN's labels are not ratings.
pub fn check(data: &Data<'_>, targets: &[Target], din: Option<&Training<din::Config>>) -> Result<()> {
    let learns_nothing = data.origins.iter().find(|at| sequences(at.split).iter().all(|line| line.items.len() < 2));
    if let Some(origin) = learns_nothing {
        return Err(Error::new(Kind::Input, "there is nothing to learn from: no user has two training events")
            .with("data", data.name)
            .with("origin", &origin.label)
            .hint("a longer log, or larger quantiles of the split"));
    }
    if !targets.is_empty() {
        ranking::cases(data, targets)?;
    }
    din.map_or(Ok(()), |training| judging::check(data, training))
}

/// Trains and measures everything that `evaluation` asks for on one data set.
///
/// # Errors
/// As [`check`]; what training says.
pub fn evaluate(data: &Data<'_>, evaluation: &Evaluation, around: &mut Around<'_>) -> Result<Found> {
    let is_ranked = evaluation.sasrec.is_some() || evaluation.log_linear.is_some();
    check(data, if is_ranked { evaluation.targets.as_slice() } else { &[] }, evaluation.din.as_ref())?;
    let mut found = baselines(data, evaluation)?;
    if is_ranked {
        let one = Ranking::new(data, evaluation)?.run(around)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::ablation::training::Training;
    use crate::evaluate::arm::Arm;
    use crate::evaluate::arms::tests::{data, log};
    use crate::evaluate::results::{Contrasted, Measurement, TEXT};
    use crate::llm::device::ComputeDevice;
    use crate::recommend::adaptor::AdaptorConfig;
    use crate::recommend::din::{self, Labels};
    use crate::recommend::fit::Plan;
    use crate::recommend::item_table::{How, Reading};
    use crate::recommend::log_linear;
    use crate::recommend::sasrec;
    use crate::recommend::split::{Target, rolling, temporal};

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
                widths: Vec::new(),
                plan: Plan { epochs: 12, ..plan.clone() },
            }),
            reading: Reading::default(),
            log_linear: None,
            din: Some(Training {
                config: din::Config {
                    hidden: 8,
                    length: 8,
                    labels: Labels::Rated { liked: 4.0 },
                    ..din::Config::published()
                },
                learning_rates: vec![3e-3],
                widths: Vec::new(),
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
        for metric in ["auc", "gauc"] {
            let difference = value("din", "A1", metric) - value("din", "A0", metric);
            assert!((contrast("din", "A1", metric).mean - difference).abs() < 1e-12, "{metric}");
        }
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

    #[test]
    fn what_cannot_be_asked_is_refused_whatever_the_vectors() {
        use crate::recommend::data::{Event, Log};
        let cut = |users: &[u32]| {
            let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
            let event = |(timestamp, user): (i64, &u32)| Event { user: *user, item: 0, rating: Some(5.0), timestamp };
            let log = Log::new(ids(30), ids(24), (0..).zip(users).map(event).collect()).unwrap();
            temporal(&log, 0.9, 0.9).unwrap()
        };
        let din = Training {
            config: din::Config { labels: Labels::Rated { liked: 4.0 }, ..din::Config::published() },
            learning_rates: vec![1e-3],
            widths: Vec::new(),
            plan: Plan::new(1, 1, 1e-3),
        };
        let said = |users: &[u32], din| match check(&data(&cut(users)), &[Target::Successive], din) {
            Ok(()) => String::new(),
            Err(e) => e.message().to_owned(),
        };
        let (once, twice): (Vec<u32>, Vec<u32>) = ((0..20).collect(), (0..20).map(|i| i / 2).collect());
        let mut strangers = twice.clone();
        strangers[18..].copy_from_slice(&[20, 21]);
        assert!(said(&once, None).contains("nothing to learn from"));
        assert!(said(&strangers, None).contains("has a history"));
        assert_eq!(said(&twice, None), "");
        assert!(said(&twice, Some(&din)).contains("likes and dislikes"), "nobody dislikes anything");
    }

    /// Two tastes; items of both keep coming, so that many are asked for that training never met, and their texts tell the taste.
    fn tastes() -> crate::recommend::data::Log {
        use crate::network::random::Random;
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        let mut random = Random::new(5, "tastes");
        let mut events = Vec::new();
        for step in 0..40_u32 {
            for user in 0..30_u32 {
                // Forty items are there at once, and a new one of each taste comes with every step.
                let item = (step + random.below(20) as u32) * 2 + user % 2;
                events.push(crate::recommend::data::Event { user, item, rating: None, timestamp: i64::from(step) });
            }
        }
        crate::recommend::data::Log::new(ids(30), ids(120), events).unwrap()
    }

    #[test]
    fn texts_as_the_base_find_what_training_never_met_at_every_origin() {
        use crate::evaluate::arms::{Data, Origin, Texts};
        let log = tastes();
        let splits = rolling(&log, &[0.6, 0.8], 0.9).unwrap();
        let first: Vec<Option<Vec<f32>>> = (0..120_u16)
            .map(|item| Some(vec![f32::from(item % 2), f32::from(item) / 60.0 - 1.0, f32::from(item % 7)]))
            .collect();
        let origins = splits.iter().map(|split| {
            let texts = [(Arm::Evidence, Texts { first: first.clone(), later: Vec::new() })].into();
            Origin::new(split.test_from().to_string(), split, log.items(), texts, Default::default())
        });
        let arms = [Arm::NoText, Arm::Offset, Arm::Ensemble, Arm::Evidence, Arm::ReadAll, Arm::ReadUnraised];
        let data = Data { name: "tastes", liked: 4.0, arms: &arms, origins: origins.collect() };
        let evaluation = Evaluation {
            arms: arms.to_vec(),
            seeds: 2,
            targets: vec![Target::Successive],
            resamples: 300,
            confidence: 0.95,
            reading: Reading {
                how: How::Base,
                delta_dropout: 0.3,
                seen_only: true,
                raise_unseen: true,
                near_ids: true,
                near_texts: true,
                ..Reading::default()
            },
            sasrec: None,
            log_linear: Some(Training {
                config: log_linear::Config {
                    hidden: 8,
                    length: 5,
                    dropout: 0.0,
                    batch: 64,
                    negatives: 0,
                    adaptor: AdaptorConfig::published(),
                    reading: Reading::default(),
                },
                learning_rates: vec![0.01],
                widths: Vec::new(),
                plan: Plan::new(15, 5, 0.0),
            }),
            din: None,
            checkpoints: None,
            device: ComputeDevice::cpu(),
        };
        let mut lines = Vec::new();
        let mut around = Around { say: &mut |line| lines.push(line), go_on: &|| Ok(()) };
        let found = evaluate(&data, &evaluation, &mut around).unwrap();
        // Six arms, two origins, two seeds, and a second training for each of A1b.
        assert_eq!(lines.len(), 28, "{lines:#?}");
        let value = |arm: &str, tier: &str| {
            let of = |m: &&Measurement| {
                (m.recommender.as_str(), m.arm.as_str(), m.metric.as_str(), m.tier.as_str())
                    == ("log_linear", arm, "ndcg@10", tier)
            };
            found.measurements.iter().find(of).unwrap()
        };
        let asked: usize =
            splits.iter().map(|s| s.cases(crate::recommend::split::Part::Test, Target::Successive).len()).sum();
        assert_eq!(value("A0", "all").cases, asked as u64, "all origins together");
        assert!(value("A0", "0").cases > 100);
        let unseen = |arm: &str| value(arm, "0").interval.mean;
        assert!(unseen("A2r") > unseen("A0") + 0.05 && unseen("A2r") > unseen("A0c"), "{:#?}", found.measurements);
        assert!(unseen("A2r") > unseen("A2rs"), "wrong answers in training are not found: {:#?}", found.measurements);
        assert!(unseen("A2r") > unseen("A2ru"), "no event says how often they are taken: {:#?}", found.measurements);
        let better = found.contrasts.iter().find(|c| {
            (c.arm.as_str(), c.against.as_str(), c.metric.as_str(), c.tier.as_str()) == ("A2r", "A0", "ndcg@10", "0")
        });
        assert!(better.unwrap().contrast.interval.low > 0.0);
        assert!(found.measurements.iter().any(|m| m.recommender == "ease"));
    }
}
