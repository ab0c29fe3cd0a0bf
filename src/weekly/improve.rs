//! `curec learn weekly`: align, reward, reinforce, evaluate, gate, promote.
//!
//! Knows the order of the stages, what each is made from, and the record of what is done (`weekly.json`): a run with the same
//! file and interval goes on at the stage that is not done, and what changed redoes what depends on it, and only that. What
//! the stages do is in the modules before this one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::destination::Destination;
use crate::error::{Context, Error, Kind, Result};
use crate::evaluate::evaluation;
use crate::fingerprint::Fingerprint;
use crate::generate::answers::Examples;
use crate::generate::models;
use crate::learn::lessons::Method;
use crate::llm::adapter::Adapter;
use crate::llm::device;
use crate::night::prepare::prepare;
use crate::night::record;
use crate::registry::card::{Card, Check, Trained};
use crate::registry::versions::{Parts, Registry};
use crate::reward::saved::{self, SavedJudge};
use crate::telemetry::Voice;
use crate::watch::run::{Steps, told};
use crate::weekly::gate::{self, Compared, Rivals};
use crate::weekly::teacher::Source;
use crate::weekly::weekly_file::{GateSpec, Spec};
use crate::weekly::{align, learning_page, reinforce, reward};

/// The record of a run, in the weekly file's folder.
const RECORD: &str = "weekly.json";
/// What the comparison found.
const COMPARED: &str = "evaluate.json";
/// Where the first stage puts its adapter.
const ALIGNED: &str = "adapter";
/// `[reinforce] method` that goes from the reward model to the comparison at once.
const NONE: &str = "none";

/// What a stage leaves, by the beginnings of names: it is removed before the stage is made anew from something else.
const LEAVES: [(&str, &[&str]); 6] = [
    ("align", &["adapter/", "align.", "alignment_example."]),
    // Its checkpoints and answers know themselves what they belong to; answers are paid for once.
    ("reward", &["reward.json"]),
    // Not what `learn worth` has taught, which is none of this run's business.
    (
        "reinforce",
        &[
            "adapter-best-of-n/",
            "adapter-weighted/",
            "adapter-grpo/",
            "adapter-dpo/",
            "reinforce-",
            "reinforce.",
            "reinforce/",
        ],
    ),
    ("evaluate", &["evaluate.", "evaluation/"]),
    ("gate", &[]),
    ("promote", &[]),
];

/// A stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub stage: String,
    /// Digest of what it is made from.
    pub from: String,
    /// Whether it came to its end, in a refusal too.
    pub finished: bool,
    /// Why the run ends here, where it does.
    pub refused: Option<String>,
    /// What it left, as those after it know it: a digest, or a version.
    pub output: String,
    /// What it found, for people.
    pub result: Value,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took after it was last begun.
    pub seconds: f64,
}

/// What was in use when the comparison began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct InUse {
    /// Digest of all else that the comparison is made from.
    from: String,
    /// None: the model as it comes.
    version: Option<String>,
}

/// `weekly.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    interval: Vec<String>,
    #[serde(default)]
    in_use: InUse,
    steps: Vec<Step>,
}

/// A run that ended well.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// The name in the registry.
    pub model: String,
    /// The version that is in use now.
    pub version: String,
    /// The one that was in use before; none: the model as it comes.
    pub before: Option<String>,
    /// Stages that this run did, the others were done.
    pub did: Vec<String>,
    /// The gate's conditions.
    pub gate: Vec<Check>,
    /// The page for people.
    pub report: PathBuf,
}

/// Runs what is not done of the stages and brings what they make into use, if the gate holds. `steps` is told of each stage
/// that was done.
///
/// # Errors
/// `Kind::Audit` where the reward model or the gate refuses, with nothing promoted; `Kind::Busy` where another process works
/// in the folder; `Kind::Interrupted` after a signal, with everything kept; what the stages say.
pub async fn improve(spec: &Spec, interval: Interval, voice: Voice, steps: Steps, stop: &CancelToken) -> Result<Done> {
    let (gate, registry) = spec.gate()?;
    let _hold = spec.hold()?;
    let out = spec.folder()?;
    // Before hours are spent, not after.
    if spec.reinforce.method != NONE {
        let begin = reinforce::begin(spec, method_of(&spec.reinforce.method)?)?;
        if spec.reinforce.from != ALIGNED {
            Adapter::digest(&begin).map_err(|e| e.with("key", "reinforce.from"))?;
        }
    }
    let job = gate::with_adapter(spec, None)?;
    let opened = Registry::of(&job)?;
    // A name that cannot be one is told of now.
    opened.check_kind(&registry.name, false).await.map_err(|e| e.with("key", "registry.name"))?;
    let in_use = opened.promotions(&registry.name).await?.current().map(str::to_owned);
    if !gate.evaluation.is_empty() {
        let card = match &in_use {
            Some(version) => Some(opened.find(&registry.name, version).await?),
            None => None,
        };
        let until = learned_until(interval, card.as_ref()).timestamp_micros();
        evaluation::check(&gate::evaluation(Path::new(&gate.evaluation))?, Some(until)).await?;
    }
    let mut run = Run {
        spec: spec.clone(),
        record: read(&out)?,
        out: out.clone(),
        interval,
        registry: opened,
        name: registry.name.clone(),
        voice,
        stop: stop.clone(),
        steps,
        did: Vec::new(),
    };
    let outcome = run.all(&job, gate).await;
    // Its page is no reason to forget what the run says.
    let page = learning_page::write(&out);
    let mut done = outcome?;
    done.report = page?;
    Ok(done)
}

/// Until when the candidate and the version in use have learned.
fn learned_until(interval: Interval, in_use: Option<&Card>) -> DateTime<Utc> {
    in_use.and_then(|card| card.trained.learned_until()).map_or(interval.end, |end| end.max(interval.end))
}

fn method_of(name: &str) -> Result<Method> {
    name.parse().map_err(|why| Error::new(Kind::Config, format!("[reinforce] method: {why}, or {NONE}")))
}

/// How a stage ended.
struct Ended {
    output: String,
    result: Value,
    refused: Option<String>,
}

struct Run {
    spec: Spec,
    record: Record,
    out: PathBuf,
    interval: Interval,
    registry: Registry,
    /// In the registry.
    name: String,
    voice: Voice,
    stop: CancelToken,
    steps: Steps,
    did: Vec<String>,
}

impl Run {
    async fn all(&mut self, job: &Job, gate: &GateSpec) -> Result<Done> {
        let days = [self.interval.start, self.interval.end].map(|moment| moment.format("%Y-%m-%d").to_string());
        (self.record.name, self.record.interval) = (self.spec.name.clone(), days.to_vec());
        let data = data(job, self.interval).await?;
        let (spec, interval, voice, stop, out) =
            (self.spec.clone(), self.interval, self.voice, self.stop.clone(), self.out.clone());
        let of_teacher = |e: Error| e.with("key", "align.teacher");
        let teacher = match spec.align.teacher.as_str() {
            "" => String::new(),
            named => match Source::of(named)? {
                // What an endpoint says is kept beside the adapter; its address and model are among the settings.
                Source::Endpoint(_) => String::new(),
                Source::File(path) => file_digest(path).map_err(of_teacher)?,
                Source::Model(_) => {
                    let of_job = align::teachers_job(&spec)?;
                    let files = models::base(&of_job).await.map_err(of_teacher)?;
                    files.digest().map_err(of_teacher)?
                }
            },
        };
        let mut made = Fingerprint::new("align", 1);
        let of_written = |file: &PathBuf| file_digest(file).map_err(|e| e.with("key", "align.written"));
        let written = spec.align.written.iter().map(of_written).collect::<Result<Vec<_>>>()?;
        made.add("data", &data).add("teacher", &teacher).add("device", &spec.device).add("written", written.join(" "));
        let from = made.add_settings("examples", &spec.examples)?.add_settings("align", &spec.align)?.digest();
        let adapter = out.join(ALIGNED);
        let work = async {
            let done = align::align(&spec, interval, voice, &stop).await?;
            Ok(Ended { output: done.digest, result: json!({"record": "align.json"}), refused: None })
        };
        let aligned = self.stage("align", from, work).await?.output;

        let mut made = Fingerprint::new("reward", 1);
        let from = made.add("data", &data).add("aligned", &aligned).add_settings("reward", &spec.reward)?.digest();
        let work = async {
            reward::reward(&spec, interval, voice, &stop).await?;
            Ok(Ended { output: judges(&out)?, result: json!({"record": "reward.json"}), refused: None })
        };
        let judged = self.stage("reward", from, work).await?.output;

        let method = spec.reinforce.method.clone();
        let candidate = if method == NONE { adapter } else { out.join(format!("adapter-{method}")) };
        let begin = match spec.reinforce.from.as_str() {
            _ if method == NONE => String::new(),
            // Made by the first stage.
            ALIGNED => aligned.clone(),
            other => Adapter::digest(&out.join(other)).map_err(|e| e.with("key", "reinforce.from"))?,
        };
        let mut made = Fingerprint::new("reinforce", 1);
        made.add("data", &data).add("aligned", &aligned).add("judged", &judged).add("begin", &begin);
        let from = made.add_settings("reinforce", &spec.reinforce)?.digest();
        let work = async {
            let result = match method.as_str() {
                NONE => json!({"method": NONE}),
                method => {
                    reinforce::reinforce(&spec, interval, method_of(method)?, voice, &stop).await?;
                    json!({"record": format!("reinforce-{method}.json")})
                }
            };
            Ok(Ended { output: Adapter::digest(&candidate)?, result, refused: None })
        };
        let reinforced = self.stage("reinforce", from, work).await?.output;

        let evaluation = match gate.evaluation.as_str() {
            "" => String::new(),
            file => std::fs::read_to_string(file).context(Kind::Config, || format!("cannot read `{file}`"))?,
        };
        // Another registry has another version in use, and knows nothing of what this one has.
        let kept = job.spec.project.registry.clone();
        let mut made = Fingerprint::new("evaluate", 1);
        made.add("data", &data).add("evaluation", &evaluation).add("reinforced", &reinforced);
        made.add("judged", &judged).add("registry", &kept).add("questions", gate.questions);
        let from = made.add_settings("adapted", &gate.adapted)?.digest();
        let before = self.in_use(&from, &reinforced).await?;
        let mut made = Fingerprint::new("compare", 1);
        let from = made.add("asked", &from).add("before", before.as_deref().unwrap_or_default()).digest();
        let (rivals, until) = self.rivals(job, &candidate, before.as_deref()).await?;
        let work = async {
            let found = gate::compare(&spec, gate, &rivals, until, &out.join("evaluation"), voice, &stop).await?;
            put(&out.join(COMPARED), &found)?;
            Ok(Ended { output: file_digest(&out.join(COMPARED))?, result: Value::Null, refused: None })
        };
        let evaluated = self.stage("evaluate", from, work).await?.output;

        // Read back, so that a run that was killed here tells the registry the same as one that was not, to the bit.
        let compared: Compared = get(&out.join(COMPARED))?;
        let checks = gate::checks(gate, &compared);
        let mut made = Fingerprint::new("gate", 1);
        made.add("name", &self.name).add("evaluated", &evaluated).add("reinforced", &reinforced);
        let from = made.add("judged", &judged).add("registry", &kept).add_settings("gate", gate)?.digest();
        let (registry, name) = (self.registry.clone(), self.name.clone());
        let work = async {
            let models = models::base(job).await?;
            let trained = Trained {
                interval: Some(days.clone()),
                metrics: metrics(&out, &method, &compared, before.as_deref())?,
                seeds: seeds(&spec),
                gate: checks.clone(),
                samples: compared.samples.clone(),
            };
            let reward = out.join("reward/judge");
            let encoder = SavedJudge::read(&reward, &device::open(&spec.device)?)?.encoder().to_owned();
            let parts = Parts { adapter: &candidate, reward: Some(&reward), encoder: Some(&encoder) };
            let card = registry.add_parts(&name, parts, &models, trained, Utc::now()).await?;
            let refused = (!card.gate_holds()).then(|| refusal(&name, &card.version, &checks));
            Ok(Ended { output: card.version, result: json!({"checks": checks}), refused })
        };
        let version = self.stage("gate", from, work).await?.output;

        let from = Fingerprint::new("promote", 1).add("version", &version).add("registry", &kept).digest();
        let work = async {
            let why = format!("weekly run over {} to before {}", days[0], days[1]);
            let card = registry.promote(&name, &version, &why, false, Utc::now()).await?;
            Ok(Ended { output: card.version, result: Value::Null, refused: None })
        };
        self.stage("promote", from, work).await?;
        let current = self.registry.promotions(&self.name).await?.current().map(str::to_owned);
        if current.as_deref() != Some(version.as_str()) {
            return Err(Error::new(
                Kind::Audit,
                format!("{} {version} was promoted, and is not in use any more", self.name),
            )
            .with("in use", current.unwrap_or_else(|| "none".to_owned()))
            .hint("somebody rolled it back or promoted another; `curec models promote` brings it back"));
        }
        let (did, report) = (std::mem::take(&mut self.did), PathBuf::new());
        Ok(Done { model: self.name.clone(), version, before, did, gate: checks, report })
    }

    /// Does a stage, unless it is done: made from the same, and what it left is still there.
    async fn stage(
        &mut self,
        name: &'static str,
        from: String,
        work: impl Future<Output = Result<Ended>>,
    ) -> Result<Step> {
        let known = self.record.steps.iter().find(|step| step.stage == name).cloned();
        let is_same = known.as_ref().filter(|step| step.from == from);
        let is_left = match is_same.filter(|step| step.finished) {
            Some(step) if name == "gate" && step.refused.is_none() => {
                self.is_left(step) && self.registry.find(&self.name, &step.output).await.is_ok()
            }
            Some(step) => self.is_left(step),
            None => false,
        };
        if let Some(step) = is_same.filter(|_| is_left) {
            tracing::info!(stage = name, "done before");
            return self.verdict(step.clone());
        }
        self.stop.check()?;
        if is_same.is_none_or(|step| step.finished) {
            // What an earlier version of it kept would belong to another training. A stage that nobody has begun here goes on
            // with what a command of its own has left, if it is of this training.
            if known.is_some() {
                self.clean(name)?;
            }
            // What it is made for is not decided any more, either.
            let later = if name == "promote" { [""; 2] } else { ["gate", "promote"] };
            self.record.steps.retain(|step| step.stage != name && !later.contains(&step.stage.as_str()));
        } else {
            self.record.steps.retain(|step| step.stage != name);
        }
        let mut step = Step {
            stage: name.to_owned(),
            from,
            finished: false,
            refused: None,
            output: String::new(),
            result: Value::Null,
            started: record::now(),
            seconds: 0.0,
        };
        self.keep(&step)?;
        tracing::info!(stage = name, "begun");
        let began = Instant::now();
        let worked = work.await;
        let refused = worked.as_ref().ok().and_then(|ended| ended.refused.clone());
        self.steps.add(name, began.elapsed(), worked.as_ref().err().map(told).or(refused));
        let ended = match worked {
            Err(e) if e.kind() == Kind::Audit => {
                Ended { output: String::new(), result: Value::Null, refused: Some(e.explain()) }
            }
            ended => ended?,
        };
        (step.output, step.result, step.refused) = (ended.output, ended.result, ended.refused);
        (step.finished, step.seconds) = (true, began.elapsed().as_secs_f64());
        self.keep(&step)?;
        self.did.push(name.to_owned());
        self.verdict(step)
    }

    fn verdict(&self, step: Step) -> Result<Step> {
        match &step.refused {
            None => Ok(step),
            Some(why) => Err(Error::new(
                Kind::Audit,
                format!("the stage {} refuses, nothing is promoted: {why}", step.stage),
            )
            .with("report", self.out.join("report.html").display())
            .hint(format!(
                "look at the report, and at `curec models show {} latest` where there is a new version; change what it \
                     says and run again, or promote with `curec models promote --force`",
                self.name
            ))),
        }
    }

    /// Whether what a finished stage left is there, as it was.
    fn is_left(&self, step: &Step) -> bool {
        let is = |now: Result<String>| now.is_ok_and(|now| now == step.output);
        let method = &self.spec.reinforce.method;
        match step.stage.as_str() {
            _ if step.refused.is_some() => true,
            // The record goes before the examples are made anew: where it is, they are its own.
            "align" => {
                let is_there = |name: &str| self.out.join(name).exists();
                is(Adapter::digest(&self.out.join(ALIGNED)))
                    && is_there("align.json")
                    && is_there("alignment_example.parquet")
            }
            "reward" => is(judges(&self.out)) && self.out.join("reward.json").exists(),
            "reinforce" if method != NONE => is(Adapter::digest(&self.out.join(format!("adapter-{method}")))),
            "evaluate" => is(file_digest(&self.out.join(COMPARED))),
            _ => true,
        }
    }

    /// Removes what a stage left.
    fn clean(&self, stage: &str) -> Result<()> {
        let failed = || format!("cannot remove what the stage {stage} left in `{}`", self.out.display());
        let Some((_, leaves)) = LEAVES.iter().find(|(name, _)| *name == stage) else { return Ok(()) };
        for entry in std::fs::read_dir(&self.out).context(Kind::Temporary, failed)? {
            let path = entry.context(Kind::Temporary, failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = if path.is_dir() { name + "/" } else { name };
            // What a reinforcement begins with is somebody's work, whatever made it.
            let is_begin = name.trim_end_matches('/') == self.spec.reinforce.from && stage == "reinforce";
            if !is_begin && leaves.iter().any(|leaf| name.starts_with(leaf)) {
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.context(Kind::Temporary, failed)?;
            }
        }
        Ok(())
    }

    /// Puts a step into the record, in the order of the stages.
    fn keep(&mut self, step: &Step) -> Result<()> {
        let place = |name: &str| LEAVES.iter().position(|(stage, _)| *stage == name);
        self.record.steps.retain(|other| other.stage != step.stage);
        self.record.steps.push(step.clone());
        self.record.steps.sort_by_key(|step| place(&step.stage));
        put(&self.out.join(RECORD), &self.record)
    }

    /// The version to compare with: the one in use. Once this candidate has been judged it stays the one of then: promoted, the
    /// candidate, an adapter of this digest, is not compared with itself.
    async fn in_use(&mut self, from: &str, candidate: &str) -> Result<Option<String>> {
        let now = self.registry.promotions(&self.name).await?.current().map(str::to_owned);
        let step = |name: &str| self.record.steps.iter().find(|step| step.stage == name && step.finished);
        let is_judged = step("promote").is_some()
            || step("gate").is_some_and(|gate| gate.refused.is_some() || Some(&gate.output) == now.as_ref());
        // Or a stage before was made again to the same, and took what was decided out of the record.
        let is_itself = match &now {
            Some(version) => self.registry.find(&self.name, version).await.is_ok_and(|card| card.adapter == candidate),
            None => false,
        };
        let before = &self.record.in_use;
        if !(before.from == from && (is_judged || is_itself)) {
            self.record.in_use = InUse { from: from.to_owned(), version: now };
        }
        Ok(self.record.in_use.version.clone())
    }

    /// The candidate and the version in use, and until when they have learned.
    async fn rivals(&self, job: &Job, candidate: &Path, in_use: Option<&str>) -> Result<(Rivals, DateTime<Utc>)> {
        let candidate = candidate.to_path_buf();
        let Some(version) = in_use else {
            let in_use_name = "the model as it comes".to_owned();
            return Ok((Rivals { candidate, in_use: None, in_use_name }, learned_until(self.interval, None)));
        };
        let card = self.registry.find(&self.name, version).await?;
        let in_use = Some(self.registry.fetch_adapter(&card, &job.cache_dir).await?);
        let in_use_name = format!("{} {version}", self.name);
        Ok((Rivals { candidate, in_use, in_use_name }, learned_until(self.interval, Some(&card))))
    }
}

/// Sections of a job that have no say in what is learned, or only by what is digested itself.
const NO_SAY: [&str; 14] = [
    "name",
    "warehouse",
    "input.",
    "interval.",
    "events.",
    "model.",
    "budget.",
    "response.",
    "audit.",
    "resources.",
    "publish.",
    "store.",
    "price.",
    "watch.",
];

/// Digest of everything that all stages are made from: curec, inputs, models, table definitions, settings, interval.
async fn data(job: &Job, interval: Interval) -> Result<String> {
    let prepared = prepare(job, interval).await?;
    let mut made = Fingerprint::new(concat!("curec ", env!("CARGO_PKG_VERSION"), " learning data"), 1);
    made.add("interval", format!("{}/{}", interval.start.to_rfc3339(), interval.end.to_rfc3339()));
    for (name, input) in &prepared.inputs {
        made.add(format!("input {name}"), input.digest());
    }
    for (name, contract) in prepared.graph.contracts() {
        made.add(format!("contract {name}"), contract.digest());
    }
    for (name, definition) in prepared.graph.definitions() {
        made.add(format!("sql {name}"), definition.digest());
    }
    let has_say = |key: &str| !NO_SAY.iter().any(|no| key.starts_with(no)) && key != "project.registry";
    for (key, value) in job.settings.iter().filter(|(key, _)| has_say(key)) {
        made.add(format!("settings {key}"), value);
    }
    let models = &prepared.models;
    made.add("generator", &models.generator()?.fingerprint.model).add("encoder", models.encoder_files()?.digest());
    for (kind, digest) in models.template_digests() {
        made.add(format!("template {kind}"), digest);
    }
    made.add("templates of answers", Examples::new()?.digest());
    Ok(made.digest())
}

/// Digest of both judges.
fn judges(out: &Path) -> Result<String> {
    let of = |name: &str| saved::digest(&out.join("reward").join(name));
    Ok(Fingerprint::new("judges", 1).add("judge", of("judge")?).add("second", of("second")?).digest())
}

/// What the card tells: nothing that depends on the clock, or the same run would be another version.
fn metrics(out: &Path, method: &str, found: &Compared, in_use: Option<&str>) -> Result<serde_json::Map<String, Value>> {
    let align: Value = get(&out.join("align.json"))?;
    let of_align = ["examples", "tokens", "steps", "best_step", "loss_before", "loss_after"];
    let align: serde_json::Map<String, Value> =
        of_align.iter().map(|key| ((*key).to_owned(), align[*key].clone())).collect();
    let reward: Value = get(&out.join("reward.json"))?;
    let not_asked = |why: &str| Value::from(format!("not asked: {why}"));
    let told = json!({
        "method": method,
        "align": align,
        "reward": { "judge": reward["judge"]["gates"], "second": reward["second"]["gates"] },
        "candidate": found.candidate,
        "in_use": { "version": in_use, "measures": found.in_use },
        "judge": match &found.judged { Some(judged) => value(judged)?, None => not_asked("there is no second judge") },
        "ndcg": match &found.ndcg { Some(ndcg) => value(ndcg)?, None => not_asked("[gate] evaluation is empty") },
    });
    match told {
        Value::Object(told) => Ok(told),
        _ => Err(Error::new(Kind::Internal, "measures are no object")),
    }
}

fn seeds(spec: &Spec) -> Vec<u64> {
    vec![spec.align.learning.seed, spec.reward.seed, spec.reward.second_seed, spec.reinforce.learning.seed]
}

fn refusal(name: &str, version: &str, checks: &[Check]) -> String {
    let failed: Vec<String> =
        checks.iter().filter(|c| !c.holds).map(|c| format!("{} (found {:.4})", c.what, c.value)).collect();
    format!("{name} {version} is not promoted, its gate does not hold: {}", failed.join("; "))
}

fn file_digest(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).context(Kind::Temporary, || format!("cannot read `{}`", path.display()))?;
    Ok(blake3::hash(&bytes).to_hex()[..32].to_owned())
}

fn value(of: &impl Serialize) -> Result<Value> {
    serde_json::to_value(of).context(Kind::Internal, || "a stage's record".into())
}

/// Writes a file whole or not at all.
fn put(path: &Path, what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(what).context(Kind::Internal, || "a stage's record".into())?;
    Destination::find(path)?.write((text + "\n").as_bytes())
}

fn get<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let failed = || format!("cannot read `{}`", path.display());
    let bytes = std::fs::read(path).context(Kind::Temporary, failed)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(Kind::Config, failed()).hint("remove the file: its stage is then done again").source(e))
}

/// The record of the runs before; empty where there is none.
fn read(out: &Path) -> Result<Record> {
    let path = out.join(RECORD);
    if path.exists() { get(&path) } else { Ok(Record::default()) }
}
