//! The gate: what a candidate is worth beside the version in use, and whether it may take its place.
//!
//! Both answer the same held-out questions. Format, grounding and diversity are counted; the second judge,
//! which rewarded nothing but chose when reinforcement ends, tells what their reasons are worth; and, where an evaluation is named, recommenders tell whether the candidate's
//! reasons serve them as well. Knows adapters by their folders and settings by the weekly file; knows nothing of how a
//! candidate came about, or of registries but the form of their conditions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::evaluate::arm::Arm;
use crate::evaluate::evaluation;
use crate::evaluate::evaluation_file::{self, TextSpec};
use crate::generate::format;
use crate::generate::models::Models;
use crate::llm::device;
use crate::night::tables::open_log;
use crate::recommend::data::{Log, Timelines};
use crate::registry::card::{Check, Sample};
use crate::reward::saved::{Case, PastEvent, SavedJudge};
use crate::statistics::{Interval, RESAMPLES, paired_bootstrap};
use crate::telemetry::Voice;
use crate::weekly::align::{self, Measures};
use crate::weekly::examples;
use crate::weekly::question::{self, Asked, Question};
use crate::weekly::weekly_file::{GateSpec, Spec};

const CONFIDENCE: f64 = 0.95;

/// The two that are compared.
#[derive(Debug, Clone)]
pub struct Rivals {
    /// The candidate's adapter.
    pub candidate: PathBuf,
    /// The adapter in use; none: the model as it comes.
    pub in_use: Option<PathBuf>,
    /// What the latter is called.
    pub in_use_name: String,
}

/// The second judge's word: information gain in nats, means over questions, intervals over users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Questions about a user and an item.
    pub questions: usize,
    /// Of the candidate's reasons; an answer without one gains nothing.
    pub candidate: Interval,
    /// Of those of the version in use.
    pub in_use: Interval,
    /// Candidate less in use.
    pub difference: Interval,
}

/// NDCG@10 of the recommender with the candidate's reasons less that with those in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ndcg {
    /// The data set.
    pub data: String,
    /// Which held-out events were ranked.
    pub target: String,
    /// Bootstrapped over users and trainings.
    pub difference: Interval,
}

/// What was found of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// What the version in use is called.
    pub in_use_name: String,
    /// The candidate's answers.
    pub candidate: Measures,
    /// Those of the version in use.
    pub in_use: Measures,
    /// None where there is no second judge.
    pub judged: Option<Judged>,
    /// None where no evaluation is named.
    pub ndcg: Option<Vec<Ndcg>>,
    /// Some of the questions and what the candidate answers.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// Compares the two; everything that an evaluation keeps goes into `work`. What both learned from was before `until`.
///
/// # Errors
/// What models, judge and evaluation say; `Kind::Interrupted` after a signal.
pub async fn compare(
    spec: &Spec,
    gate: &GateSpec,
    rivals: &Rivals,
    until: DateTime<Utc>,
    work: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Compared> {
    let out = spec.folder()?;
    let rows = examples::read(&out.join("alignment_example.parquet"))?;
    let job = with_adapter(spec, None)?;
    let titles = align::titles(&job).await?;
    let vocabulary = align::vocabulary(&rows, &job.spec.check.language)?.with_titles(titles.iter().map(String::as_str));
    let questions = question::questions(&rows)?;
    let asked = align::measured(&questions, gate.questions);
    if asked.is_empty() {
        return Err(Error::new(Kind::Input, "no question is held out: there is nothing to compare by")
            .hint("a longer interval, or more users: a tenth of them is held out"));
    }
    let mut said = Vec::new();
    for adapter in [Some(&rivals.candidate), rivals.in_use.as_ref()] {
        stop.check()?;
        let models = Models::new(&with_adapter(spec, adapter)?)?;
        models.fetch().await?;
        said.push(stop.or(align::answers(&models, &asked)).await?);
        models.stop_engine();
    }
    let [candidate, in_use] = align::side_by_side(&asked, [&said[0], &said[1]], &vocabulary);
    let second = out.join("reward/second");
    let judged = match second.exists() {
        true => Some(judge(spec, &second, &asked, [&said[0], &said[1]]).await?),
        false => None,
    };
    stop.check()?;
    let ndcg = match gate.evaluation.as_str() {
        "" => None,
        file => Some(downstream(&evaluation(Path::new(file))?, gate, rivals, until, work, voice, stop).await?),
    };
    let samples = align::samples(&asked, &said[0]);
    Ok(Compared { in_use_name: rivals.in_use_name.clone(), candidate, in_use, judged, ndcg, samples })
}

/// The weekly file's job with an adapter, or with the model as it comes.
pub(crate) fn with_adapter(spec: &Spec, adapter: Option<&PathBuf>) -> Result<Job> {
    let mut overrides = spec.overrides();
    overrides.push(adapter_key(adapter));
    Job::load(&spec.job, &overrides)
}

fn adapter_key(adapter: Option<&PathBuf>) -> String {
    format!("model.adapter={}", adapter.map_or_else(String::new, |path| path.display().to_string()))
}

/// What a judge says of both's reasons.
async fn judge(spec: &Spec, judge: &Path, questions: &[&Question], said: [&Vec<String>; 2]) -> Result<Judged> {
    let job = with_adapter(spec, None)?;
    let pairs: Vec<(usize, Asked)> =
        questions.iter().enumerate().filter_map(|(i, q)| Some((i, q.asked.clone()?))).collect();
    if pairs.is_empty() {
        return Err(Error::new(Kind::Input, "no held-out question asks about a user and an item: a judge has no say")
            .hint("raise [gate] questions or [examples] max, or take a longer interval"));
    }
    // By question, then the candidate's and that in use; an answer that is none has no reason.
    let reason = |(i, _): &(usize, Asked), said: &Vec<String>| {
        let answer = format!("{}{}", questions[*i].stem, said[*i]);
        format::parse(&answer).ok().map(|parts| parts.reason.to_owned())
    };
    let reasons: Vec<[Option<String>; 2]> = pairs.iter().map(|pair| said.map(|said| reason(pair, said))).collect();
    let log = Log::of(&[open_log(&job).await?]).await?;
    let liked = job.spec.history.liked();
    let (device, folder) = (device::open(&spec.device)?, judge.to_path_buf());
    let models = Models::new(&job)?;
    models.fetch().await?;
    device::guarded_blocking("judging", move || {
        let judge = SavedJudge::read(&folder, &device)?;
        if judge.encoder() != models.encoder_files()?.digest() {
            return Err(Error::new(Kind::Config, "the judge reads vectors of another encoder than the job's")
                .with("judge", folder.display())
                .with("its encoder", judge.encoder())
                .hint("train the reward model again, or name its encoder in [model] encoder"));
        }
        gains(&judge, &models, &log, liked, &pairs, &reasons)
    })
    .await
}

fn gains(
    judge: &SavedJudge,
    models: &Arc<Models>,
    log: &Log,
    liked: f32,
    pairs: &[(usize, Asked)],
    reasons: &[[Option<String>; 2]],
) -> Result<Judged> {
    let texts: Vec<&str> = reasons.iter().flatten().flatten().map(String::as_str).collect();
    let vectors = if texts.is_empty() { Vec::new() } else { models.embed(&texts)? };
    let mut next = vectors.iter().map(Vec::as_slice);
    let lines = Timelines::new(log);
    let users: HashMap<&str, u32> = log.users().iter().map(String::as_str).zip(0..).collect();
    let histories: Vec<Vec<PastEvent<'_>>> = pairs
        .iter()
        .map(|(_, asked)| {
            let line = users.get(asked.user.as_str()).map(|user| lines.before(*user, asked.time));
            let event = |i: usize, line: &crate::recommend::data::Timeline<'_>| PastEvent {
                item_id: log.items().get(line.items[i] as usize).map_or("", String::as_str),
                liked: line.ratings[i].is_none_or(|rating| rating >= liked),
                time: line.timestamps[i],
            };
            line.map(|line| (0..line.len()).map(|i| event(i, &line)).collect()).unwrap_or_default()
        })
        .collect();
    let mut cases = Vec::with_capacity(pairs.len());
    for (((_, asked), history), reasons) in pairs.iter().zip(&histories).zip(reasons) {
        cases.push(Case {
            user_id: &asked.user,
            item_id: &asked.item,
            history,
            label: asked.label,
            time: asked.time,
            texts: reasons.iter().flatten().filter_map(|_| next.next()).collect(),
        });
    }
    let found = judge.gains(&cases)?;
    let (mut of_candidate, mut of_in_use) = (Vec::new(), Vec::new());
    for (gains, reasons) in found.iter().zip(reasons) {
        let mut gains = gains.iter().copied();
        let mut gain = |reason: &Option<String>| reason.as_ref().and_then(|_| gains.next()).unwrap_or(0.0);
        of_candidate.push(gain(&reasons[0]));
        of_in_use.push(gain(&reasons[1]));
    }
    let difference: Vec<f64> = of_candidate.iter().zip(&of_in_use).map(|(a, b)| a - b).collect();
    let by_user: Vec<u32> =
        pairs.iter().map(|(_, asked)| users.get(asked.user.as_str()).copied().unwrap_or(u32::MAX)).collect();
    let estimate = |values: &[f64]| Ok(paired_bootstrap(&[values], &by_user, RESAMPLES, CONFIDENCE, 0)?.interval);
    Ok(Judged {
        questions: pairs.len(),
        candidate: estimate(&of_candidate)?,
        in_use: estimate(&of_in_use)?,
        difference: estimate(&difference)?,
    })
}

/// The evaluation that the gate names.
///
/// # Errors
/// `Kind::Config` for a file that is wrong, or has no SASRec, whose ranking is what is asked.
pub(crate) fn evaluation(file: &Path) -> Result<evaluation_file::Spec> {
    let spec = evaluation_file::load(file)?;
    match spec.sasrec {
        Some(_) => Ok(spec),
        None => Err(Error::new(Kind::Config, "[gate] evaluation: the file has no [sasrec], whose NDCG the gate asks")
            .with("file", file.display())),
    }
}

/// The evaluation with the version in use as arm A3 and the candidate as arm A4.
fn rivalry(
    of: &evaluation_file::Spec,
    gate: &GateSpec,
    rivals: &Rivals,
    until: DateTime<Utc>,
    work: &Path,
) -> evaluation_file::Spec {
    let with = |adapter: &PathBuf| gate.adapted.iter().cloned().chain([adapter_key(Some(adapter))]);
    let mut spec = of.clone();
    spec.out = work.display().to_string();
    spec.markdown = String::new();
    spec.learned_until = Some(until.timestamp_micros());
    spec.din = None;
    spec.arms = [Arm::NoText, Arm::ZeroShot, Arm::Aligned].map(|arm| arm.code().to_owned()).into();
    spec.facts = vec![("A3 and A4 here".into(), format!("A3 is {}, in use; A4 is the candidate", rivals.in_use_name))];
    for data in &mut spec.data {
        match &rivals.in_use {
            Some(adapter) => data.set.extend(with(adapter)),
            None => data.set.push(adapter_key(None)),
        }
        // Whatever the file's own arms are: these are the rivals'.
        data.text = vec![TextSpec::of(Arm::Aligned, with(&rivals.candidate).collect())];
    }
    spec
}

/// What recommenders tell of both.
async fn downstream(
    of: &evaluation_file::Spec,
    gate: &GateSpec,
    rivals: &Rivals,
    until: DateTime<Utc>,
    work: &Path,
    voice: Voice,
    stop: &CancelToken,
) -> Result<Vec<Ndcg>> {
    let spec = rivalry(of, gate, rivals, until, work);
    let found = evaluation::evaluate(&spec, voice, stop).await?.results.contrasts;
    // Where there are several recommenders, what the better of them tells.
    let recommender =
        ["better", "sasrec", "log_linear"].into_iter().find(|name| found.iter().any(|c| c.recommender == *name));
    let asked = |c: &&crate::evaluate::results::Contrasted| {
        let arms = (c.arm.as_str(), c.against.as_str());
        let is_asked = arms == (Arm::Aligned.code(), Arm::ZeroShot.code()) && c.metric == "ndcg@10" && c.tier == "all";
        is_asked && recommender == Some(c.recommender.as_str())
    };
    let ndcg = |c: &crate::evaluate::results::Contrasted| Ndcg {
        data: c.data.clone(),
        target: c.target.clone(),
        difference: c.contrast.interval,
    };
    Ok(found.iter().filter(asked).map(ndcg).collect())
}

/// The conditions, each with what was found.
pub fn checks(gate: &GateSpec, found: &Compared) -> Vec<Check> {
    let (c, u, name) = (&found.candidate, &found.in_use, &found.in_use_name);
    let least = |what: String, value: f64, least: f64| Check { what, value, holds: value >= least };
    let floor = u.distinct2 * (1.0 - gate.distinct2_margin);
    let mut checks = vec![
        least(format!("format >= {}", gate.format), c.format, gate.format),
        least(format!("grounded >= {}", gate.grounded), c.grounded, gate.grounded),
        least(format!("distinct2 >= {floor:.4}, by {name}"), c.distinct2, floor),
    ];
    if let Some(judged) = &found.judged {
        let what = format!("judge's gain less that of {name}, low end of its interval >= -{}", gate.gain_margin);
        checks.push(least(what, judged.difference.low, -gate.gain_margin));
    }
    for ndcg in found.ndcg.iter().flatten() {
        let what = format!(
            "NDCG@10 on {} ({}) less that of {name}, low end of its interval > -{}",
            ndcg.data, ndcg.target, gate.ndcg_margin
        );
        let value = ndcg.difference.low;
        checks.push(Check { what, value, holds: value > -gate.ndcg_margin });
    }
    checks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn gate() -> GateSpec {
        GateSpec {
            questions: 8,
            format: 0.98,
            grounded: 0.95,
            distinct2_margin: 0.1,
            gain_margin: 0.0,
            evaluation: String::new(),
            adapted: Vec::new(),
            ndcg_margin: 0.01,
        }
    }

    fn interval(low: f64) -> Interval {
        Interval { mean: low + 0.01, low, high: low + 0.02 }
    }

    fn compared(gain: f64, ndcg: f64) -> Compared {
        let measures =
            |format, distinct2| Measures { questions: 8, format, grounded: 0.95, distinct2, ..Measures::default() };
        Compared {
            in_use_name: "0001-ab".into(),
            candidate: measures(0.98, 0.45),
            in_use: measures(0.5, 0.5),
            judged: Some(Judged {
                questions: 4,
                candidate: interval(gain),
                in_use: interval(0.0),
                difference: interval(gain),
            }),
            ndcg: Some(vec![Ndcg { data: "ml".into(), target: "last".into(), difference: interval(ndcg) }]),
            samples: Vec::new(),
        }
    }

    #[test]
    fn every_condition_can_fail_alone_and_its_limit_holds() {
        let holds = |found: &Compared| checks(&gate(), found).iter().map(|c| c.holds).collect::<Vec<_>>();
        assert_eq!(holds(&compared(0.0, -0.0099)), [true; 5], "each stands at its limit");
        let changed = |change: fn(&mut Compared)| {
            let mut found = compared(0.0, 0.0);
            change(&mut found);
            let holds = holds(&found);
            assert_eq!(holds.iter().filter(|h| !**h).count(), 1, "{holds:?}");
            holds.iter().position(|h| !*h).unwrap()
        };
        assert_eq!(changed(|f| f.candidate.format = 0.979), 0);
        assert_eq!(changed(|f| f.candidate.grounded = 0.949), 1);
        assert_eq!(changed(|f| f.candidate.distinct2 = 0.449), 2);
        assert_eq!(changed(|f| *f = compared(-0.001, 0.0)), 3);
        assert_eq!(changed(|f| *f = compared(0.0, -0.01)), 4);
        let told = checks(&gate(), &compared(0.0, 0.0));
        assert!(told.iter().skip(2).all(|c| c.what.contains("0001-ab")), "{told:?}");
    }

    #[test]
    fn what_was_not_asked_is_no_condition() {
        let found = Compared { judged: None, ndcg: None, ..compared(0.0, 0.0) };
        assert_eq!(checks(&gate(), &found).len(), 3);
        let text = serde_json::to_string(&found).unwrap();
        let back = serde_json::from_str::<Compared>(&text).unwrap();
        assert!(back.judged.is_none() && back.ndcg.is_none() && back.in_use_name == found.in_use_name);
    }

    #[test]
    fn the_rivals_take_the_place_of_the_files_own_arms() {
        let own = "aligned = [\"model.adapter=other\"]\n[[data.text]]\narm = \"A5\"\nset = [\"model.adapter=third\"]";
        let of = evaluation_file::tests::loaded("[\"A0\", \"A4\", \"A5\"]", own).unwrap();
        let mut rivals = Rivals { candidate: "candidate".into(), in_use: None, in_use_name: "none".into() };
        let until = DateTime::from_timestamp(86_400, 0).unwrap();
        let spec = rivalry(&of, &gate(), &rivals, until, Path::new("work"));
        assert_eq!(spec.learned_until, Some(86_400_000_000));
        let named = |spec: &evaluation_file::Spec| {
            let data = &spec.data[0];
            let texts: Vec<_> = data.text.iter().map(|t| (t.arm.clone(), t.set.join(" "))).collect();
            (data.set.join(" "), texts)
        };
        assert_eq!(spec.arms, ["A0", "A3", "A4"]);
        assert_eq!(named(&spec), ("model.adapter=".into(), vec![("A4".into(), "model.adapter=candidate".into())]));
        rivals.in_use = Some("before".into());
        assert_eq!(named(&rivalry(&of, &gate(), &rivals, until, Path::new("work"))).0, "model.adapter=before");
    }
}
