//! What an evaluation found, as data: metrics by arm, differences between arms, and what may be said of them.
//!
//! Knows numbers, names and the two contracts that they are written under; knows nothing of trainings, files or pages.
//! [`crate::evaluate::results_text`] puts the same into words.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Float64Builder, Int64Array, ListBuilder, RecordBatch, StringArray};

use crate::error::{Context, Kind, Result};
use crate::statistics::{Contrast, Interval};
use crate::table::contract::Contract;

/// Below this corrected p-value a difference is spoken of.
pub const ALPHA: f64 = 0.05;

/// The arm that is given the answer with the question.
pub const LEAK: &str = "A9";

/// Recommender and target of measures of the texts themselves.
pub const TEXT: &str = "text";

/// All that an evaluation found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// Its name.
    pub title: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What was run: data sets, cuts, seeds, epochs, search, machine.
    pub facts: Vec<(String, String)>,
    /// Metrics by arm.
    pub measurements: Vec<Measurement>,
    /// Differences between arms.
    pub contrasts: Vec<Contrasted>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// One metric of one arm, over all seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Data set.
    pub data: String,
    /// `sasrec`, `log_linear`, `better` (of both, by validation), `din`, `popularity`, `item_knn` or `ease`; [`TEXT`] for the texts
    /// themselves.
    pub recommender: String,
    /// `A0`, `A1` and so on; empty for baselines.
    pub arm: String,
    /// `last`, `first` or `successive`; [`TEXT`] for the texts themselves.
    pub target: String,
    /// Such as `ndcg@10`, `auc`, `coverage@10` or `rouge_l`.
    pub metric: String,
    /// `all`, or how often training met the asked item: `0`, `1-4`, `5-19`, `20-99` or `100+`.
    pub tier: String,
    /// Cases that were asked.
    pub cases: u64,
    /// The metric of every training; not a number where a training gave none.
    pub by_seed: Vec<f64>,
    /// Mean and interval over seeds; not a number where there is none.
    pub interval: Interval,
}

/// The paired difference of two arms.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrasted {
    /// Data set.
    pub data: String,
    /// `sasrec`, `log_linear`, `better` or `din`.
    pub recommender: String,
    /// `last`, `first` or `successive`.
    pub target: String,
    /// Such as `ndcg@10` or `auc`.
    pub metric: String,
    /// `all`, or how often training met the asked item: `0`, `1-4`, `5-19`, `20-99` or `100+`.
    pub tier: String,
    /// The arm.
    pub arm: String,
    /// What it is compared with.
    pub against: String,
    /// Arm minus the other.
    pub contrast: Contrast,
    /// The contrast's p-value after Holm's correction.
    pub p_holm: f64,
    /// Users, the units that were drawn.
    pub users: usize,
}

impl Contrasted {
    /// What may be said: `higher` or `lower` where the corrected p-value is below [`ALPHA`] and the interval excludes 0,
    /// else `no difference shown`. Says nothing of better: a lower log loss is.
    pub fn verdict(&self) -> &'static str {
        let Interval { low, high, .. } = self.contrast.interval;
        match self.p_holm < ALPHA {
            true if low > 0.0 && high > 0.0 => "higher",
            true if low < 0.0 && high < 0.0 => "lower",
            _ => "no difference shown",
        }
    }

    /// Whether one of the two arms is the deliberate leak.
    pub fn leaks(&self) -> bool {
        [&self.arm, &self.against].iter().any(|arm| *arm == LEAK)
    }
}

/// Whether less of a metric is better.
pub fn lower_is_better(metric: &str) -> bool {
    metric == "log_loss"
}

/// What a recommender is told of items in an arm.
pub fn arm_text(arm: &str) -> &'static str {
    match arm {
        "A0" => "no text: item ids alone",
        "A0c" => {
            "as A0, items that training never met moved by one number: how much of a gain on them is a mere offset"
        }
        "A1" => "a random vector for every item: what more inputs alone do",
        "A1b" => "the scores of two trainings of A0 summed: what any second model brings",
        "A2" => "attributes and co-consumption as text, no language model",
        "A2r" => {
            "the evidence as nights publish it where no reason stands (descriptions, praise and fault, attributes), no language model"
        }
        "A2c" => "A2r, and beside it where the text leads in the space of co-consumption: the column collaborative",
        "A2cc" => "the column collaborative alone",
        "A2w" => "the evidence, and the items' words beside it",
        "A2ww" => "the items' words alone",
        "A2x" => "the scalar columns of the features of A2r alone (counts, scores, flags, sources), no text",
        "A2rx" => "A2r, and beside it the scalar columns",
        "A2re" => "A2r read beside the id, through KAR's experts",
        "A2rd" => "A2r, items' own vectors in every training step",
        "A2rb" => "A2r, items' own vectors without a bound",
        "A2rw" => "A2r, items' own vectors in full from the first event on",
        "A2rs" => "A2r, items that training never met as wrong answers in training",
        "A2ru" => "A2r, items that training never met ranked where the model puts them",
        "A2rn" => "A2r, nothing added for texts that are near",
        "A3" => "reasons of the language model as it comes (zero-shot)",
        "A4" => "reasons of the aligned model",
        "A4b" => "the templates' own reasons, which the aligned model is taught",
        "A4e" => "the text of A2 and the reason of A4, one after the other: what the reason adds to its evidence",
        "A4r" => {
            "as A4, items' vectors the mean of the reason's and the evidence's: what a reason adds that does not take its place; \
             histories as in A4"
        }
        "A4w" => "reasons of the aligned model, and the items' words beside them",
        "A4rw" => "A4r, and the items' words beside it",
        "A4s" => "several sampled reasons an item of the aligned model, their vectors pooled; histories as in A4",
        "A5a" => "reasons of a model aligned with the best of several answers",
        "A5b" => "reasons of a model that learned from several answers, weighted by what they are worth",
        "A5" => "reasons of the reinforced model",
        "A6" => {
            "what nights publish after correction: reasons of A5, those of histories beside the corrected ones of before"
        }
        "A6n" => "as A6, but of the aligned model: correction without reinforcement",
        "A6i" => {
            "as A4, reasons of items corrected window by window: what half of the users choose and the other half confirm stands from the \
             next window on"
        }
        "A6w" => "as A6i, and the items' words beside the vectors: the whole pipeline",
        "A7" => {
            "the reasons of A6, where it is not run of A3, shuffled among the items, and among the users of a moment"
        }
        LEAK => "deliberate leak: the answer with the question; never a result, the proof that leaks are seen",
        "A10" => "reasons written without the items' titles (anonymised)",
        "" => "a baseline without content",
        _ => "an arm without a description",
    }
}

/// Sorts arms by number, A2 before A10; baselines first, names of no known form last.
pub(crate) fn arm_order(arm: &str) -> (u64, &str) {
    let Some(rest) = arm.strip_prefix('A') else { return (if arm.is_empty() { 0 } else { u64::MAX }, arm) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (rest[..end].parse::<u64>().map_or(u64::MAX, |n| n.saturating_add(1)), &rest[end..])
}

impl Results {
    /// The tables `measurement` and `contrast`, as their contracts `ablation_measurement` and `ablation_contrast` say,
    /// in the order in which they were found. What is not a number is null.
    ///
    /// # Errors
    /// `Kind::Internal` where the columns are not the contracts'.
    pub fn tables(&self) -> Result<[(&'static str, RecordBatch); 2]> {
        Ok([
            ("measurement", batch("ablation_measurement", self.measurement_columns())?),
            ("contrast", batch("ablation_contrast", self.contrast_columns())?),
        ])
    }

    fn measurement_columns(&self) -> Vec<ArrayRef> {
        let rows = &self.measurements;
        let mut by_seed = ListBuilder::new(Float64Builder::new());
        for m in rows {
            by_seed.append_value(m.by_seed.iter().map(|v| known(*v)));
        }
        let seeds = |m: &Measurement| m.by_seed.iter().filter(|v| v.is_finite()).count();
        vec![
            texts(rows, |m| &m.data),
            texts(rows, |m| &m.recommender),
            Arc::new(rows.iter().map(|m| Some(m.arm.as_str()).filter(|a| !a.is_empty())).collect::<StringArray>()),
            texts(rows, |m| &m.target),
            texts(rows, |m| &m.metric),
            texts(rows, |m| &m.tier),
            counts(rows, |m| m.cases),
            counts(rows, |m| seeds(m) as u64),
            Arc::new(by_seed.finish()),
            numbers(rows, |m| m.interval.mean),
            numbers(rows, |m| m.interval.low),
            numbers(rows, |m| m.interval.high),
        ]
    }

    fn contrast_columns(&self) -> Vec<ArrayRef> {
        let rows = &self.contrasts;
        vec![
            texts(rows, |c| &c.data),
            texts(rows, |c| &c.recommender),
            texts(rows, |c| &c.target),
            texts(rows, |c| &c.metric),
            texts(rows, |c| &c.tier),
            texts(rows, |c| &c.arm),
            texts(rows, |c| &c.against),
            numbers(rows, |c| c.contrast.interval.mean),
            numbers(rows, |c| c.contrast.interval.low),
            numbers(rows, |c| c.contrast.interval.high),
            numbers(rows, |c| c.contrast.p),
            numbers(rows, |c| c.p_holm),
            counts(rows, |c| c.users as u64),
            texts(rows, |c| c.verdict()),
        ]
    }
}

fn batch(contract: &str, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(Contract::builtin(contract)?.arrow_schema(None), columns)
        .context(Kind::Internal, || format!("the table {contract} is not what its contract says"))
}

/// A number, or nothing.
pub(crate) fn known(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn texts<T>(rows: &[T], of: impl Fn(&T) -> &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
}

fn numbers<T>(rows: &[T], of: impl Fn(&T) -> f64) -> ArrayRef {
    Arc::new(rows.iter().map(|row| known(of(row))).collect::<Float64Array>())
}

fn counts<T>(rows: &[T], of: impl Fn(&T) -> u64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX))))
}

/// Results that tests of all renderings share.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    pub(crate) fn measurement(recommender: &str, arm: &str, metric: &str, tier: &str, mean: f64) -> Measurement {
        Measurement {
            data: "ml".into(),
            recommender: recommender.into(),
            arm: arm.into(),
            target: if recommender == "din" { "successive" } else { "last" }.into(),
            metric: metric.into(),
            tier: tier.into(),
            cases: 80,
            by_seed: vec![mean - 0.01, mean + 0.01],
            interval: Interval { mean, low: mean - 0.02, high: mean + 0.02 },
        }
    }

    pub(crate) fn contrasted(arm: &str, against: &str, (mean, low, high): (f64, f64, f64), p_holm: f64) -> Contrasted {
        Contrasted {
            data: "ml".into(),
            recommender: "sasrec".into(),
            target: "last".into(),
            metric: "ndcg@10".into(),
            tier: "all".into(),
            arm: arm.into(),
            against: against.into(),
            contrast: Contrast { interval: Interval { mean, low, high }, p: p_holm / 2.0, users: 70 },
            p_holm,
            users: 70,
        }
    }

    /// Arms in no order, a baseline, a leak that jumps, a training without a number, DIN, tiers.
    pub(crate) fn results() -> Results {
        let mut measurements: Vec<Measurement> = [("A10", 0.11), ("A9", 0.9), ("A2", 0.12), ("A0", 0.1)]
            .map(|(arm, mean)| measurement("sasrec", arm, "ndcg@10", "all", mean))
            .into();
        measurements.push(measurement("sasrec", "A0", "ndcg@10", "1-4", 0.05));
        measurements.push(measurement("sasrec", "A2", "ndcg@10", "1-4", 0.06));
        let one = Interval { mean: 0.04, low: f64::NAN, high: f64::NAN };
        let popularity = measurement("popularity", "", "ndcg@10", "all", 0.04);
        measurements.push(Measurement { by_seed: vec![0.04], interval: one, ..popularity });
        measurements.push(measurement("din", "A0", "auc", "all", 0.7));
        let none = Interval { mean: f64::NAN, low: f64::NAN, high: f64::NAN };
        let auc = measurement("din", "A1", "auc", "all", 0.7);
        measurements.push(Measurement { by_seed: vec![f64::NAN], interval: none, ..auc });
        Results {
            title: "Ablation: x".into(),
            created: "2026-11-24T00:00:00Z".into(),
            facts: vec![("seeds".into(), "2".into())],
            measurements,
            contrasts: vec![
                contrasted("A2", "A0", (0.02, 0.01, 0.03), 0.001),
                contrasted("A9", "A0", (0.8, 0.7, 0.9), 0.001),
                contrasted("A10", "A2", (-0.01, -0.03, 0.01), 0.4),
            ],
            notes: vec!["A note.".into()],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::samples::{contrasted, results};
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn a_verdict_wants_both_a_small_p_and_an_interval_without_zero() {
        let none = "no difference shown";
        for (low, high, p, expected) in [
            (0.01, 0.03, 0.049, "higher"),
            (-0.03, -0.01, 0.049, "lower"),
            (0.01, 0.03, 0.05, none),
            (0.0, 0.03, 0.001, none),
            (-0.03, 0.0, 0.001, none),
            (-0.01, 0.03, 0.001, none),
            (0.01, 0.03, f64::NAN, none),
            (f64::NAN, 0.03, 0.001, none),
            (0.01, f64::NAN, 0.001, none),
        ] {
            assert_eq!(contrasted("A2", "A0", (0.0, low, high), p).verdict(), expected, "{low} {high} {p}");
        }
    }

    #[test]
    fn arms_stand_in_the_order_of_their_numbers() {
        let mut arms = ["x", "A10", "A4b", "A9", "A4", "", "A0", "A"];
        arms.sort_by_key(|arm| arm_order(arm));
        assert_eq!(arms[..6], ["", "A0", "A4", "A4b", "A9", "A10"]);
        for arm in [
            "A0", "A1", "A2", "A2x", "A2rx", "A3", "A4", "A4b", "A4e", "A4s", "A4r", "A4w", "A4rw", "A5a", "A5b", "A5",
            "A6", "A6n", "A6i", "A6w", "A7", "A9", "A10",
        ] {
            assert_ne!(arm_text(arm), arm_text("?"), "{arm}");
        }
        assert!(arm_text("A9").contains("never a result"));
    }

    #[test]
    fn tables_survive_parquet_and_hold_nulls_for_what_is_unknown() {
        for (name, batch) in results().tables().unwrap() {
            let mut bytes = Vec::new();
            let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let mut back =
                ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap().build().unwrap();
            assert_eq!(back.next().unwrap().unwrap(), batch, "{name}");
        }
        let [(_, measured), (_, contrasts)] = results().tables().unwrap();
        let column = |name: &str| measured.column_by_name(name).unwrap().clone();
        let (arms, means, lows) = (column("arm"), column("mean"), column("low"));
        assert!(arms.is_null(6) && !arms.is_null(0), "a baseline has no arm");
        assert!(lows.is_null(6) && !means.is_null(6), "one seed has no interval");
        assert!(means.is_null(8), "no number is null, not 0");
        let seeds = column("by_seed");
        assert!(seeds.as_list::<i32>().value(8).is_null(0));
        assert_eq!(column("seeds").as_primitive::<arrow::datatypes::Int64Type>().values()[6..], [1, 2, 0]);
        let verdicts = contrasts.column_by_name("verdict").unwrap().as_string::<i32>();
        assert_eq!(verdicts.iter().flatten().collect::<Vec<_>>(), ["higher", "higher", "no difference shown"]);
        let low = contrasts.column_by_name("low").unwrap().as_primitive::<Float64Type>();
        assert_eq!(low.value(2), -0.03);
    }

    #[test]
    fn nothing_found_is_two_empty_tables() {
        assert!(Results::default().tables().unwrap().iter().all(|(_, batch)| batch.num_rows() == 0));
    }
}
