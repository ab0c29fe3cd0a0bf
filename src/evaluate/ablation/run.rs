//! The ablation: the same recommenders with other content features, and what tells them apart.
//!
//! Knows splits, vectors of items and histories, recommenders and statistics; knows nothing of tables, texts or of how a
//! vector was made. An arm differs from another in its vectors alone: the same weights in number and first values, the same
//! batches, the same epochs at most, the same search. Where an arm has no vector, the adaptor adds exactly zero.

use crate::error::Result;
use crate::evaluate::ablation::judging::judging;
use crate::evaluate::ablation::ranking::{Ranking, baselines};
use crate::evaluate::ablation::training::{Around, Evaluation, Found};
use crate::evaluate::arms::Data;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::ablation::training::Training;
    use crate::evaluate::arms::Arm;
    use crate::evaluate::arms::tests::{data, log};
    use crate::evaluate::results::{Contrasted, Measurement, TEXT};
    use crate::llm::device::ComputeDevice;
    use crate::recommend::din::{self, Labels};
    use crate::recommend::fit::Plan;
    use crate::recommend::sasrec;
    use crate::recommend::split::{Target, temporal};

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
}
