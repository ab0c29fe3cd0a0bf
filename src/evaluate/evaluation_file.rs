//! The file of an evaluation: its keys, what they may hold, and what every arm of it needs.
//!
//! Knows keys alone; what is done with them is in [`crate::evaluate::evaluation`]. Every key stands in
//! `src/config/evaluation.toml` with its default and its meaning, and is read straight into the type that uses it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::training::{Training, target_name};
use crate::evaluate::arm::Arm;
use crate::evaluate::history_nights::HistoriesSpec;
use crate::evaluate::item_windows::WindowsSpec;
use crate::recommend::item_table::{How, Reading};
use crate::recommend::split::Target;
use crate::recommend::{din, log_linear, sasrec};
use crate::resolved::Resolved;
use crate::settings::{self, Form, Layers};
use crate::worth::events::Settings;

/// The defaults with their documentation, as an evaluation's file.
pub const DEFAULTS: &str = include_str!("../config/evaluation.toml");

const FORM: Form = Form {
    what: "the evaluation",
    file: "the evaluation's file",
    defaults: DEFAULTS,
    optional: &["histories", "sasrec", "log_linear", "din", "data.sasrec", "data.log_linear", "data.din"],
    hint: "`curec config --evaluation` prints every key with its default and meaning",
};

/// An evaluation's file.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)] // every key is documented once, in config/evaluation.toml
pub struct Spec {
    pub name: String,
    pub out: String,
    pub markdown: String,
    pub arms: Vec<String>,
    pub seeds: u64,
    pub targets: Vec<String>,
    pub resamples: usize,
    pub confidence: f64,
    pub device: String,
    pub split: SplitSpec,
    pub windows: WindowsSpec,
    pub histories: Option<HistoriesSpec>,
    pub reading: Reading,
    pub sasrec: Option<Training<sasrec::Config>>,
    pub log_linear: Option<Training<log_linear::Config>>,
    pub din: Option<Training<din::Config>>,
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
#[allow(missing_docs)]
pub struct SplitSpec {
    pub origins: Vec<f64>,
    pub valid_quantile: f64,
    pub refreshes: usize,
}

/// `[[data]]`
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct DataSpec {
    pub name: String,
    pub job: PathBuf,
    pub set: Vec<String>,
    pub sasrec: Option<Budget>,
    pub log_linear: Option<Budget>,
    pub din: Option<Budget>,
    pub aligned: Vec<String>,
    pub text: Vec<TextSpec>,
}

/// `sasrec`, `log_linear` and `din` of `[[data]]`
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct Budget {
    pub batch: usize,
    pub epochs: usize,
    pub patience: usize,
}

/// `[[data.text]]`
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)]
pub struct TextSpec {
    pub arm: String,
    pub set: Vec<String>,
    pub samples: u64,
}

impl TextSpec {
    /// The keys of an arm that is asked once.
    pub fn of(arm: Arm, set: Vec<String>) -> TextSpec {
        TextSpec { arm: arm.code().into(), set, samples: 1 }
    }
}

impl Spec {
    /// Leaves out all data sets but those that are named; all stay where none is.
    ///
    /// # Errors
    /// `Kind::Config` for a name that no data set has.
    pub fn only(&mut self, names: &[String]) -> Result<()> {
        let has = |name: &&String| self.data.iter().any(|data| data.name == **name);
        if let Some(unknown) = names.iter().find(|name| !has(name)) {
            let all: Vec<&str> = self.data.iter().map(|data| data.name.as_str()).collect();
            return Err(Error::new(
                Kind::Config,
                format!("there is no data set `{unknown}`; they are {}", all.join(", ")),
            ));
        }
        self.data.retain(|data| names.is_empty() || names.contains(&data.name));
        Ok(())
    }
}

/// Reads an evaluation's file.
///
/// # Errors
/// `Kind::Config` with everything that is wrong, each with its line.
pub fn load(path: &Path) -> Result<Spec> {
    Ok(resolve(path)?.0)
}

/// Reads an evaluation's file, and where each of its values came from.
///
/// # Errors
/// As [`load`].
pub fn resolve(path: &Path) -> Result<(Spec, Resolved)> {
    let text = settings::read_text(path, "the evaluation's file", "jobs/ablation.toml is one")?;
    parse(&text, &path.display().to_string(), &config::environment())
}

/// The same for text; `env` stands for the environment.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &str, env: &BTreeMap<String, String>) -> Result<(Spec, Resolved)> {
    let mut layers = Layers::read(&FORM, text, file)?;
    layers.expand(env);
    let mut spec: Option<Spec> = layers.build();
    if let Some(spec) = &mut spec {
        validate(spec, &mut layers);
        let arms = arms(spec).map_err(|e| layers.problem("arms", told(&e))).unwrap_or_default();
        if let Err(e) = targets(spec) {
            layers.problem("targets", told(&e));
        }
        for (number, data) in spec.data.iter_mut().enumerate() {
            gather_texts(data, &spec.text);
            validate_data(data, &format!("data[{number}]"), &arms, &mut layers);
        }
        let is_reading = |arm: &&Arm| arm.is_reading();
        if let Some(arm) = arms.iter().find(is_reading).filter(|_| !arms.contains(&Arm::Evidence)) {
            layers.problem("arms", format!("{} is compared with A2r, which must be among them", arm.code()));
        }
        let of_base = [Arm::ReadKept, Arm::ReadFree, Arm::ReadEqual];
        let is_same = |arm: &&Arm| {
            let is_unread = spec.reading.how == How::Experts && of_base.contains(arm);
            let (own, of_others) = (arm.reading(spec.reading), Reading { or_free: false, ..spec.reading });
            arm.is_reading() && (is_unread || Reading { or_free: false, ..own } == of_others)
        };
        if let Some(arm) = arms.iter().find(is_same) {
            layers.problem("arms", format!("{} reads vectors as [reading] says, which is A2r", arm.code()));
        }
        let leaning = [
            (Arm::Beside, vec![Arm::Attributes, Arm::Aligned]),
            (Arm::Sampled, vec![Arm::Aligned]),
            // The words are read from nights of the evidence.
            (Arm::AlignedWords, vec![Arm::Words, Arm::Aligned]),
            // Reasons of A4 and the evidence of A2r are what is chosen from.
            (Arm::ItemsCorrected, vec![Arm::Evidence, Arm::Aligned]),
            (Arm::ItemsCorrectedWords, vec![Arm::Evidence, Arm::Words, Arm::Aligned]),
            // Its nights have the keys and the answers of A4.
            (Arm::AlignedBoth, vec![Arm::Aligned]),
            (Arm::AlignedBothWords, vec![Arm::Words, Arm::AlignedBoth]),
        ];
        for (arm, others) in leaning {
            if let Some(missing) = others.iter().find(|other| arms.contains(&arm) && !arms.contains(other)) {
                let (arm, missing) = (arm.code(), missing.code());
                layers.problem("arms", format!("{arm} leans on {missing}, which must be among them"));
            }
        }
    }
    let resolved = layers.finish()?;
    let spec = spec.ok_or_else(|| Error::new(Kind::Internal, "the evaluation has no settings"))?;
    Ok((spec, resolved))
}

fn told(e: &Error) -> String {
    e.message().to_owned()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

/// Checks what types cannot say, of everything but the data sets.
fn validate(spec: &Spec, p: &mut Layers<'_>) {
    p.demand(is_name(&spec.name), "name", format!("must be letters, digits, - and _, got `{}`", spec.name));
    p.demand(!spec.out.is_empty(), "out", "must be set");
    if spec.out.contains("://") {
        p.problem("out", format!("checkpoints need a folder of this machine, not {}", spec.out));
    }
    p.demand(spec.seeds > 0, "seeds", "must be positive");
    p.demand(spec.resamples > 0, "resamples", "must be positive");
    p.demand(spec.confidence > 0.0 && spec.confidence < 1.0, "confidence", "must be between 0 and 1");
    if spec.sasrec.is_none() && spec.log_linear.is_none() && spec.din.is_none() {
        p.problem("sasrec", "there must be a [sasrec], a [log_linear] or a [din]");
    }
    let inside = |q: &f64| *q > 0.0 && *q < 1.0;
    let origins = &spec.split.origins;
    p.demand(
        !origins.is_empty() && origins.iter().all(inside) && origins.is_sorted_by(|a, b| a < b),
        "split.origins",
        "name one or more between 0 and 1, ascending",
    );
    p.demand(inside(&spec.split.valid_quantile), "split.valid_quantile", "must be between 0 and 1");
    p.demand(spec.split.refreshes <= 1000, "split.refreshes", "must be at most 1000");
    validate_windows(&spec.windows, p);
    let Reading { delta_dropout, delta_bound, seen_weight, .. } = spec.reading;
    p.demand((0.0..=1.0).contains(&delta_dropout), "reading.delta_dropout", "must be between 0 and 1");
    p.demand(delta_bound >= 0.0, "reading.delta_bound", "must not be below 0");
    p.demand(seen_weight >= 0.0, "reading.seen_weight", "must not be below 0");
    let rates = [
        ("sasrec.learning_rates", spec.sasrec.as_ref().map(|s| &s.learning_rates)),
        ("log_linear.learning_rates", spec.log_linear.as_ref().map(|l| &l.learning_rates)),
        ("din.learning_rates", spec.din.as_ref().map(|d| &d.learning_rates)),
    ];
    let widths = [
        ("sasrec.widths", spec.sasrec.as_ref().map(|s| &s.widths)),
        ("log_linear.widths", spec.log_linear.as_ref().map(|l| &l.widths)),
    ];
    for (key, widths) in widths.into_iter().filter_map(|(key, widths)| Some((key, widths?))) {
        p.demand(widths.iter().all(|width| *width > 0), key, "must be positive");
    }
    for (key, rates) in rates.into_iter().filter_map(|(key, rates)| Some((key, rates?))) {
        let are_rates = !rates.is_empty() && rates.iter().all(|r| *r > 0.0);
        p.demand(are_rates, key, "name one or more, each above 0");
    }
    let every = [
        ("sasrec.validate_every", spec.sasrec.as_ref().map(|s| s.plan.validate_every)),
        ("log_linear.validate_every", spec.log_linear.as_ref().map(|l| l.plan.validate_every)),
        ("din.validate_every", spec.din.as_ref().map(|d| d.plan.validate_every)),
    ];
    every.into_iter().for_each(|(key, every)| p.demand(every != Some(0), key, "must be positive"));
    if spec.histories.as_ref().is_some_and(|h| h.blocks == 0 || h.blocks > 1000) {
        p.problem("histories.blocks", "must be between 1 and 1000");
    }
    let mut names: Vec<&String> = spec.data.iter().map(|d| &d.name).collect();
    names.sort();
    if names.is_empty() || names.windows(2).any(|w| w[0] == w[1]) {
        p.problem("data", "there must be one data set or more, each with a name of its own");
    }
}

/// Checks what types cannot say of `[windows]`.
fn validate_windows(of: &WindowsSpec, p: &mut Layers<'_>) {
    p.demand((0.0..1.0).contains(&of.origin_share), "windows.origin_share", "must be in [0, 1)");
    p.demand(of.permutations <= 1000, "windows.permutations", "must be at most 1000");
    let most = Settings::default().most_events;
    let is_counted = (1..=most).contains(&of.least_events);
    p.demand(is_counted, "windows.least_events", format!("must be between 1 and {most}"));
    p.demand((0.0..1.0).contains(&of.dropout), "windows.dropout", "must be in [0, 1)");
    let rates = &of.learning_rates;
    let are_rates = !rates.is_empty() && rates.iter().all(|rate| *rate > 0.0);
    p.demand(are_rates, "windows.learning_rates", "name one or more, each above 0");
    let sizes = [
        ("windows.hidden", of.hidden),
        ("windows.length", of.length),
        ("windows.batch", of.batch),
        ("windows.epochs", of.epochs),
        ("windows.patience", of.patience),
    ];
    sizes.into_iter().for_each(|(key, size)| p.demand(size > 0, key, "must be positive"));
}

/// All keys of arms in the data set's own list: its own, then those of `[[text]]` for arms that it names no keys of.
fn gather_texts(data: &mut DataSpec, shared: &[TextSpec]) {
    if !data.aligned.is_empty() {
        data.text.push(TextSpec::of(Arm::Aligned, std::mem::take(&mut data.aligned)));
    }
    let own: Vec<String> = data.text.iter().map(|text| text.arm.clone()).collect();
    data.text.extend(shared.iter().filter(|text| !own.contains(&text.arm)).cloned());
}

/// Checks a data set, whose keys begin with `at`.
fn validate_data(data: &DataSpec, at: &str, arms: &[Arm], p: &mut Layers<'_>) {
    let key = |name: &str| format!("{at}.{name}");
    p.demand(is_name(&data.name), &key("name"), format!("must be letters, digits, - and _, got `{}`", data.name));
    p.demand(!data.job.as_os_str().is_empty(), &key("job"), "must be set");
    let named = |arm: &str| data.text.iter().filter(|text| text.arm == arm).count();
    for arm in arms.iter().filter(|arm| arm.wants_keys() && named(arm.code()) != 1) {
        let arm = arm.code();
        p.problem(
            &key("text"),
            format!(
                "{}: arm {arm} needs one `[[data.text]]` with arm = \"{arm}\" and set = [the keys that name the adapter and \
                 its templates]",
                data.name
            ),
        );
    }
    let known = |arm: &str| Arm::ALL.iter().any(|one| one.wants_keys() && one.code() == arm);
    for text in &data.text {
        let arm = &text.arm;
        // What is judged are vectors of reasons.
        let is_corrected = arm == Arm::Aligned.code() && arms.iter().any(|arm| arm.corrects_items());
        if is_corrected && text.set.iter().any(|set| set.starts_with("feature.vector_of=")) {
            p.problem(
                &key("text"),
                "A6i and A6w correct reasons of A4, whose `set` must leave feature.vector_of alone",
            );
        }
        if !known(arm) || text.set.is_empty() {
            let all: Vec<&str> = Arm::ALL.iter().filter(|arm| arm.wants_keys()).map(|arm| arm.code()).collect();
            p.problem(&key("text"), format!("arm `{arm}` is none of {}, or its `set` is empty", all.join(", ")));
        }
        let sampled = Arm::Sampled.code();
        let is_right = if arm == sampled { text.samples >= 2 } else { text.samples == 1 };
        if !is_right {
            let samples = text.samples;
            p.problem(
                &key("text"),
                format!("`samples` is for {sampled} alone, which wants two or more; {arm} has {samples}"),
            );
        }
    }
    for (section, budget) in [("sasrec", &data.sasrec), ("log_linear", &data.log_linear), ("din", &data.din)] {
        if budget.as_ref().is_some_and(|b| [b.batch, b.epochs, b.patience].contains(&0)) {
            p.problem(&key(section), "batch, epochs and patience must be positive");
        }
    }
}

/// The arms to run, in order.
///
/// # Errors
/// `Kind::Config` for a name that is none, or without A0.
pub(crate) fn arms(spec: &Spec) -> Result<Vec<Arm>> {
    let known = |name: &String| {
        Arm::ALL.into_iter().find(|arm| arm.code() == name).ok_or_else(|| {
            let all: Vec<&str> = Arm::ALL.iter().map(|arm| arm.code()).collect();
            Error::new(Kind::Config, format!("there is no arm `{name}`; the arms are {}", all.join(", ")))
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
            Error::new(Kind::Config, format!("there is no target `{name}`; the targets are last, first, successive"))
        })
    };
    match spec.targets.is_empty() {
        true => Err(Error::new(Kind::Config, "name one or more of last, first, successive")),
        false => spec.targets.iter().map(known).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    pub(crate) fn loaded(arms: &str, of_data: &str) -> Result<Spec> {
        let text = format!(
            "name = \"x\"\nout = \"work\"\narms = {arms}\nseeds = 1\ntargets = [\"last\"]\nresamples = 10\n\
             confidence = 0.95\ndevice = \"cpu\"\n[split]\norigins = [0.9]\nvalid_quantile = 0.9\n\
             [din]\nhidden = 8\nlength = 5\ndropout = 0.0\nbatch = 8\nlike_threshold = 4.0\nepochs = 1\npatience = 1\n\
             learning_rates = [0.001]\n[[data]]\nname = \"d\"\njob = \"job.toml\"\n{of_data}\n"
        );
        Ok(parse(&text, "x.toml", &BTreeMap::new())?.0)
    }

    #[test]
    fn data_sets_are_chosen_by_name() {
        let second = "[[data]]\nname = \"e\"\njob = \"job.toml\"";
        let of = |names: &[&str]| {
            let mut spec = loaded("[\"A0\"]", second).unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            spec.only(&names).map(|()| spec.data.iter().map(|data| data.name.clone()).collect::<String>())
        };
        assert_eq!([of(&[]).unwrap(), of(&["e"]).unwrap(), of(&["e", "d"]).unwrap()], ["de", "e", "de"]);
        assert!(of(&["e", "x"]).unwrap_err().to_string().contains("`x`; they are d, e"));
    }

    #[test]
    fn origins_and_readings_that_make_no_sense_are_refused() {
        let refused = |old: &str, new: &str| {
            let text = "name = \"x\"\nout = \"w\"\narms = [\"A0\", \"A2r\", \"A2rd\"]\n[split]\norigins = [0.5, 0.9]\n[reading]\n\
                        delta_dropout = 0.2\n[log_linear]\n[[data]]\nname = \"d\"\njob = \"job.toml\"\n";
            assert!(text.contains(old), "{old}");
            parse(&text.replace(old, new), "x.toml", &BTreeMap::new()).err().map(|e| e.to_string())
        };
        assert_eq!(refused("0.9", "0.8"), None);
        for (old, new, says) in [
            ("[0.5, 0.9]", "[0.9, 0.5]", "split.origins"),
            ("[0.5, 0.9]", "[]", "split.origins"),
            ("[0.5, 0.9]", "[1.0]", "split.origins"),
            ("delta_dropout = 0.2", "delta_dropout = 1.5", "reading.delta_dropout"),
            ("delta_dropout = 0.2", "delta_bound = -1.0", "reading.delta_bound"),
            ("delta_dropout = 0.2", "[windows]\norigin_share = 1.0", "windows.origin_share"),
            ("delta_dropout = 0.2", "[windows]\nleast_events = 51", "windows.least_events"),
            ("delta_dropout = 0.2", "[windows]\nlearning_rates = []", "windows.learning_rates"),
            ("delta_dropout = 0.2", "how = \"bas\"", "how"),
            ("\"A2r\", ", "", "compared with A2r"),
            ("delta_dropout = 0.2", "delta_dropout = 0.0", "which is A2r"),
            ("delta_dropout = 0.2", "how = \"experts\"", "which is A2r"),
        ] {
            let told = refused(old, new).unwrap();
            assert!(told.contains(says), "{says}: {told}");
        }
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
            ("[\"A0\", \"A4\", \"A4w\"]", text("A4"), "A4w leans on A2w"),
            ("[\"A0\", \"A4\", \"A6i\"]", text("A4"), "A6i leans on A2r"),
            ("[\"A0\", \"A2r\", \"A4\", \"A6w\"]", text("A4"), "A6w leans on A2w"),
            ("[\"A0\", \"A4r\"]", String::new(), "A4r leans on A4"),
            (
                "[\"A0\", \"A2r\", \"A4\", \"A6i\"]",
                text("A4").replace("model.adapter=x", "feature.vector_of=both"),
                "must leave feature.vector_of alone",
            ),
            ("[\"A0\", \"A2w\", \"A4\", \"A4rw\"]", text("A4"), "A4rw leans on A4r"),
            ("[\"A0\"]", "din = { batch = 0, epochs = 1, patience = 1 }".into(), "must be positive"),
        ] {
            let told = loaded(arms, &of_data).unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
    }
}
