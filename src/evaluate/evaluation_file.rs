//! The file of an evaluation: its keys, what they may hold, and what every arm of it needs.
//!
//! Knows keys alone; what is done with them is in [`crate::evaluate::evaluation`].

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::target_name;
use crate::evaluate::arms::Arm;
use crate::evaluate::history_nights::HistoriesSpec;
use crate::recommend::split::Target;

/// An evaluation's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // every key is documented in jobs/ablation.toml
pub struct Spec {
    pub name: String,
    pub out: String,
    #[serde(default)]
    pub markdown: String,
    pub arms: Vec<String>,
    pub seeds: u64,
    pub targets: Vec<String>,
    pub resamples: usize,
    pub confidence: f64,
    pub device: String,
    pub split: SplitSpec,
    pub histories: Option<HistoriesSpec>,
    pub sasrec: Option<SasRecSpec>,
    pub din: Option<DinSpec>,
    #[serde(default)]
    pub text: Vec<TextSpec>,
    pub data: Vec<DataSpec>,
    /// What was learned by whoever runs it came from before this moment (microseconds since 1970): no data set may hold out
    /// earlier events.
    #[serde(skip)]
    pub learned_until: Option<i64>,
    /// What its page says besides, from whoever runs it.
    #[serde(skip)]
    pub facts: Vec<(String, String)>,
}

/// `[split]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SplitSpec {
    pub train_quantile: f64,
    pub valid_quantile: f64,
}

/// `[sasrec]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SasRecSpec {
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub length: usize,
    pub dropout: f64,
    pub batch: usize,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rates: Vec<f64>,
}

/// `[din]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DinSpec {
    pub hidden: usize,
    pub length: usize,
    pub dropout: f64,
    pub batch: usize,
    pub like_threshold: f32,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rates: Vec<f64>,
}

/// `[[data]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DataSpec {
    pub name: String,
    pub job: PathBuf,
    #[serde(default)]
    pub set: Vec<String>,
    pub sasrec: Option<Budget>,
    pub din: Option<Budget>,
    #[serde(default)]
    pub aligned: Vec<String>,
    #[serde(default)]
    pub text: Vec<TextSpec>,
}

/// `sasrec` and `din` of `[[data]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Budget {
    pub batch: usize,
    pub epochs: usize,
    pub patience: usize,
}

/// `[[data.text]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TextSpec {
    pub arm: String,
    pub set: Vec<String>,
    #[serde(default = "once")]
    pub samples: u64,
}

fn once() -> u64 {
    1
}

impl TextSpec {
    /// The keys of an arm that is asked once.
    pub fn of(arm: Arm, set: Vec<String>) -> TextSpec {
        TextSpec { arm: arm.code().into(), set, samples: once() }
    }
}

/// Reads an evaluation's file, with every problem named.
///
/// # Errors
/// `Kind::Config`.
pub fn load(path: &Path) -> Result<Spec> {
    let text = config::read_text(path, "the evaluation's file", "jobs/ablation.toml is one")?;
    let mut spec: Spec = toml::from_str(&text).map_err(|e| {
        Error::new(Kind::Config, format!("the evaluation's file is wrong: {}", e.to_string().trim_end()))
            .with("file", path.display())
            .hint("jobs/ablation.toml has every key with its meaning")
    })?;
    let bad = |what: String| Err(Error::new(Kind::Config, what).with("file", path.display()));
    let env = config::environment();
    for text in [&mut spec.out, &mut spec.markdown, &mut spec.device] {
        *text = config::expand_text(text, &env)
            .map_err(|name| Error::new(Kind::Config, format!("the variable {name} is not set and has no default")))
            .map_err(|e| e.with("file", path.display()))?;
    }
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if let Some(name) = spec.data.iter().map(|d| &d.name).chain([&spec.name]).find(|name| !is_name(name)) {
        return bad(format!("a name may hold letters, digits, - and _ alone: {name:?}"));
    }
    let mut names: Vec<&String> = spec.data.iter().map(|d| &d.name).collect();
    names.sort();
    if names.is_empty() || names.windows(2).any(|w| w[0] == w[1]) {
        return bad("[[data]]: there must be one data set or more, each with a name of its own".into());
    }
    if spec.seeds == 0 || spec.resamples == 0 || !(spec.confidence > 0.0 && spec.confidence < 1.0) {
        return bad("seeds and resamples must be positive, confidence between 0 and 1".into());
    }
    if spec.sasrec.is_none() && spec.din.is_none() {
        return bad("there must be a [sasrec] or a [din]".into());
    }
    if spec.out.contains("://") {
        return bad(format!("out: checkpoints need a folder of this machine, not {}", spec.out));
    }
    let rates = [spec.sasrec.as_ref().map(|s| &s.learning_rates), spec.din.as_ref().map(|d| &d.learning_rates)];
    if rates.into_iter().flatten().any(|rates| rates.is_empty() || rates.iter().any(|r| r.is_nan() || *r <= 0.0)) {
        return bad("learning_rates: name one or more, each above 0".into());
    }
    if spec.histories.as_ref().is_some_and(|h| h.blocks == 0 || h.blocks > 1000) {
        return bad("[histories] blocks: between 1 and 1000".into());
    }
    let arms = arms(&spec)?;
    targets(&spec)?;
    for data in &mut spec.data {
        if !data.aligned.is_empty() {
            data.text.push(TextSpec::of(Arm::Aligned, std::mem::take(&mut data.aligned)));
        }
        let own: Vec<String> = data.text.iter().map(|text| text.arm.clone()).collect();
        data.text.extend(spec.text.iter().filter(|text| !own.contains(&text.arm)).cloned());
        let named = |arm: &str| data.text.iter().filter(|text| text.arm == arm).count();
        if let Some(arm) = arms.iter().find(|arm| arm.wants_keys() && named(arm.code()) != 1) {
            return bad(format!(
                "[[data]] {0}: arm {1} needs one `[[data.text]]` with arm = \"{1}\" and set = [the keys that name the \
                 adapter and its templates]",
                data.name,
                arm.code()
            ));
        }
        let known = |arm: &str| Arm::ALL.iter().any(|one| one.wants_keys() && one.code() == arm);
        if let Some(text) = data.text.iter().find(|text| !known(&text.arm) || text.set.is_empty()) {
            let all: Vec<&str> = Arm::ALL.iter().filter(|arm| arm.wants_keys()).map(|arm| arm.code()).collect();
            return bad(format!(
                "[[data.text]] of {}: arm {:?} is none of {}, or its `set` is empty",
                data.name,
                text.arm,
                all.join(", ")
            ));
        }
        let is_sampled = |text: &&TextSpec| text.arm == Arm::Sampled.code();
        if let Some(text) =
            data.text.iter().find(|text| if is_sampled(text) { text.samples < 2 } else { text.samples != 1 })
        {
            return bad(format!(
                "[[data.text]] of {}: `samples` is for {} alone, which wants two or more; {} has {}",
                data.name,
                Arm::Sampled.code(),
                text.arm,
                text.samples
            ));
        }
        let budgets = [&data.sasrec, &data.din];
        if budgets.into_iter().flatten().any(|b| [b.batch, b.epochs, b.patience].contains(&0)) {
            return bad(format!("[[data]] {}: batch, epochs and patience must be positive", data.name));
        }
    }
    for (arm, others) in [(Arm::Beside, vec![Arm::Attributes, Arm::Aligned]), (Arm::Sampled, vec![Arm::Aligned])] {
        if let Some(missing) = others.iter().find(|other| arms.contains(&arm) && !arms.contains(other)) {
            return bad(format!("arms: {} leans on {}, which must be among them", arm.code(), missing.code()));
        }
    }
    Ok(spec)
}

/// The arms to run, in order.
///
/// # Errors
/// `Kind::Config` for a name that is none, or without A0.
pub(crate) fn arms(spec: &Spec) -> Result<Vec<Arm>> {
    let known = |name: &String| {
        Arm::ALL.into_iter().find(|arm| arm.code() == name).ok_or_else(|| {
            let all: Vec<&str> = Arm::ALL.iter().map(|arm| arm.code()).collect();
            Error::new(Kind::Config, format!("there is no arm {name:?}")).hint(format!("arms: {}", all.join(", ")))
        })
    };
    let mut found: Vec<Arm> = spec.arms.iter().map(known).collect::<Result<_>>()?;
    found.sort();
    found.dedup();
    match found.first() {
        Some(Arm::NoText) => Ok(found),
        _ => Err(Error::new(Kind::Config, "A0 must be among the arms: the others are compared with it")),
    }
}

/// Which held-out events are ranked.
///
/// # Errors
/// `Kind::Config` for a name that is none, or without any.
pub(crate) fn targets(spec: &Spec) -> Result<Vec<Target>> {
    let all = [Target::Last, Target::First, Target::Successive];
    let known = |name: &String| {
        all.into_iter().find(|target| target_name(*target) == name).ok_or_else(|| {
            Error::new(Kind::Config, format!("there is no target {name:?}")).hint("targets: last, first, successive")
        })
    };
    match spec.targets.is_empty() {
        true => Err(Error::new(Kind::Config, "targets: name one or more of last, first, successive")),
        false => spec.targets.iter().map(known).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    pub(crate) fn loaded(arms: &str, of_data: &str) -> Result<Spec> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        let text = format!(
            "name = \"x\"\nout = \"work\"\narms = {arms}\nseeds = 1\ntargets = [\"last\"]\nresamples = 10\n\
             confidence = 0.95\ndevice = \"cpu\"\n[split]\ntrain_quantile = 0.9\nvalid_quantile = 0.9\n\
             [din]\nhidden = 8\nlength = 5\ndropout = 0.0\nbatch = 8\nlike_threshold = 4.0\nepochs = 1\npatience = 1\n\
             learning_rates = [0.001]\n[[data]]\nname = \"d\"\njob = \"job.toml\"\n{of_data}\n"
        );
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn arms_of_other_models_say_which() {
        let text = |arm: &str| format!("[[data.text]]\narm = \"{arm}\"\nset = [\"model.adapter=x\"]");
        let arms = "[\"A0\", \"A4\", \"A4b\", \"A5\"]";
        let spec = loaded(arms, &format!("aligned = [\"model.adapter=y\"]\n{}", text("A5"))).unwrap();
        let named: Vec<(&str, &str)> = spec.data[0].text.iter().map(|t| (t.arm.as_str(), t.set[0].as_str())).collect();
        assert_eq!(named, [("A5", "model.adapter=x"), ("A4", "model.adapter=y")]);
        for (of_data, says) in [
            (text("A5"), "arm A4 needs"),
            (format!("aligned = [\"a=b\"]\n{0}\n{0}", text("A5")), "arm A5 needs"),
            (format!("aligned = [\"a=b\"]\n{}\n{}", text("A5"), text("A3")), "A3"),
            (format!("{}\n{}\n[[data.text]]\narm = \"A6\"\nset = []", text("A4"), text("A5")), "A6"),
        ] {
            let told = loaded(arms, &of_data).unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
        assert!(loaded("[\"A0\", \"A3\"]", "").is_ok());

        // Keys of all data sets, a data set's own first.
        let shared = format!(
            "aligned = [\"model.adapter=y\"]\n[[text]]\narm = \"A4\"\nset = [\"a=b\"]\n{}",
            text("A5").replace("data.", "")
        );
        let spec = loaded(arms, &shared).unwrap();
        let named: Vec<(&str, &str)> = spec.data[0].text.iter().map(|t| (t.arm.as_str(), t.set[0].as_str())).collect();
        assert_eq!(named, [("A4", "model.adapter=y"), ("A5", "model.adapter=x")]);
        // What is sampled is sampled twice or more, and nothing else is.
        for (arms, of_data, says) in [
            ("[\"A0\", \"A4\", \"A4s\"]", format!("{}\n{}", text("A4"), text("A4s")), "samples"),
            ("[\"A0\", \"A4\"]", format!("{}\nsamples = 3", text("A4")), "samples"),
            ("[\"A0\", \"A4s\"]", format!("{}\nsamples = 3", text("A4s")), "A4s leans on A4"),
            ("[\"A0\", \"A4\", \"A4e\"]", text("A4"), "A4e leans on A2"),
            ("[\"A0\"]", "din = { batch = 0, epochs = 1, patience = 1 }".into(), "must be positive"),
        ] {
            let told = loaded(arms, &of_data).unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
    }
}
