//! `curec learn`: what improves the model, and what measures it.
//!
//! Knows flags and the line that each command prints; the work is in [`crate::weekly`] and [`crate::evaluate`].

use std::path::PathBuf;

use clap::Subcommand;

use crate::cancel::CancelToken;
use crate::cli::arguments::{IntervalArgs, JobArgs, block_on, block_on_or_stop, watch_signals};
use crate::cli::output::{print, say, tell};
use crate::destination::Destination;
use crate::error::{Context, Kind, Result};
use crate::evaluate::{evaluation, evaluation_file};
use crate::learn::lessons::Method;
use crate::table::redact::redact;
use crate::telemetry::Voice;
use crate::weekly::watched::{Learning, Watched};
use crate::weekly::{align, examples, improve, learning_page, project, reinforce, reward, weekly_file, worth};

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum LearnCommand {
    /// Teach the language model to answer out of its evidence: a LoRA adapter for the nightly job.
    #[command(
        before_help = "Example:\n  curec learn align jobs/weekly.toml --interval-start 1997-12-01 --interval-end 1998-03-05",
        after_help = "Prints one JSON line. Examples, adapter, curve and record go to the folder `out` of the file. Killed, run it \
again: it goes on from its checkpoint to the same adapter."
    )]
    Align {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Train the judges that say what a reason is worth, and measure whether they may.
    #[command(
        before_help = "Example:\n  curec learn reward jobs/weekly.toml --interval-start 1997-12-01 --interval-end 1998-03-05",
        after_help = "Prints one JSON line. Judges, examples, answers and the record reward.json go to the folder `out` of the file. \
Where a gate fails, all is written and the exit code is 1. Killed, run it again: it goes on to the same bytes."
    )]
    Reward {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// The whole weekly run: align, reward, reinforce, evaluate, gate, promote.
    #[command(
        before_help = "Example:\n  curec learn weekly jobs/weekly.toml --interval-start 1997-12-01 --interval-end 1998-03-05",
        after_help = "Prints one JSON line. Everything goes to the folder `out` of the file: weekly.json is the record of the \
stages, report.html the page. Killed, run it again: stages that are done are not done again, and the one that was under way \
goes on. Another interval or changed keys redo what depends on them.\n\n\
Exit codes: 0 the new version is in use; 1 the reward model or the gate refuses, nothing is promoted (the version is in the \
registry where it came to that: `curec models show`); 75 interrupted, or another process works in the folder."
    )]
    Weekly {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Learn from what the language model's own answers are worth to the judges of `learn reward`.
    #[command(
        before_help = "Example:\n  curec learn reinforce jobs/weekly.toml --method best-of-n --interval-start 1997-12-01 \
--interval-end 1998-03-05",
        after_help = "Prints one JSON line. Adapter, curve and record go to the folder `out` of the file. Killed, run it \
again: it goes on after the last finished round to the same adapter."
    )]
    Reinforce {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        /// What is learned: best-of-n, weighted, grpo or dpo.
        #[arg(long, default_value_t = Method::BestOfN)]
        method: Method,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Measure what reasons of items are worth to a recommender and, where that may be a reward, teach the best of several.
    #[command(
        before_help = "Example:\n  curec learn worth jobs/weekly.toml --interval-start 1998-03-05 --interval-end 1998-04-20",
        after_help = "Prints one JSON line. A recommender learns from the log before the interval, without texts; events of the \
interval say what the model's reasons are worth in the place of their item. The record worth.json, all answers with their worths \
(item_worth.parquet) and, where the gates hold, the folder adapter-worth and item_choice.parquet (what is to stand in the place of \
items' reasons, for [correct] item_choices of a nightly job) go to `out` of the file. Nothing is published. Killed, \
run it again: no answer is asked for twice. Run again with nothing changed, it makes the evidence anew to see that, asks and \
measures nothing, and says the same. The interval begins where the adapter that answers has ended learning, or later.\n\n\
Exit codes: 0 the gates hold, the best answers are taught and the choices are written; 1 a gate does not hold or a choice is not \
confirmed, which the record tells, or there is nothing to measure by."
    )]
    Worth {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Map the vectors of texts to where the log has what texts like them go with: the column `collaborative` of the nightly job.
    #[command(
        before_help = "Example:\n  curec learn project jobs/weekly.toml --interval-start 1998-03-05 --interval-end 1998-03-12",
        after_help = "Prints one JSON line. Learns from the log and from the vectors that nights have published, all of before the \
interval, and is judged by what users met first in it. The projection and its record project.json go to the folder projection/ of \
`out`, or to projection-refused/ where the gate does not hold; where [projection] name is set, into the registry too, and into use \
if the gate holds. No language model is run.\n\n\
Exit codes: 0 the gate holds; 1 it does not, or there is nothing to learn from; nothing is promoted then."
    )]
    Project {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Train recommenders with and without content features and tell what the features are worth.
    #[command(
        before_help = "Example:\n  curec learn evaluate jobs/ablation.toml",
        after_help = "Prints one JSON line. Tables, ABLATION.md and a page go to the folder `out` of the file, after each data \
set. Killed, run it again: finished trainings and texts are kept."
    )]
    Evaluate {
        /// The evaluation's file, such as jobs/ablation.toml.
        file: PathBuf,
        /// Only this data set of the file; may be given several times. Its results take the place of those in `out`.
        #[arg(long, value_name = "NAME")]
        data: Vec<String>,
    },
    /// Write the questions and answers that a language model is aligned with.
    #[command(
        before_help = "Example:\n  curec learn examples jobs/nightly.toml --interval-start 2026-11-01 \\\n    \
        --interval-end 2026-11-22 --out examples.parquet",
        after_help = "Evidence is from before the interval, labels are from the interval. Publishes nothing."
    )]
    Examples {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        interval: IntervalArgs,
        /// The Parquet file to write.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// Examples in all, at most.
        #[arg(long, default_value_t = examples::Size::default().max_examples)]
        max_examples: u64,
    },
}

impl LearnCommand {
    /// Does it; returns the exit code.
    ///
    /// # Errors
    /// The command's.
    pub(crate) fn execute(self, voice: Voice) -> Result<u8> {
        match self {
            LearnCommand::Align { file, interval } => block_on(learn_align(file, interval, voice)),
            LearnCommand::Weekly { file, interval } => block_on(learn_weekly(file, interval, voice)),
            LearnCommand::Reward { file, interval } => block_on(learn_reward(file, interval, voice)),
            LearnCommand::Reinforce { file, method, interval } => {
                block_on(learn_reinforce(file, method, interval, voice))
            }
            LearnCommand::Worth { file, interval } => block_on(learn_worth(file, interval, voice)),
            LearnCommand::Project { file, interval } => block_on(learn_project(file, interval)),
            LearnCommand::Evaluate { file, data } => block_on(learn_evaluate(file, data, voice)),
            LearnCommand::Examples { job, interval, out, max_examples } => {
                let size = examples::Size { max_examples, ..examples::Size::default() };
                Destination::find(&out)?;
                let rows = block_on_or_stop(examples::examples(&job.load()?, interval.parse()?, size, Some(&out)))?;
                let n: usize = rows.iter().map(|batch| batch.num_rows()).sum();
                print(&format!("{n} examples in {}\n", out.display())).map(|()| 0)
            }
        }
    }
}

async fn learn_align(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let done = align::align(&spec, interval, voice, &stop).await?;
        learning_page::write(&spec.folder()?)?;
        Ok(done)
    };
    let done = Watched::begin(&spec, Learning::Align, interval).through(work).await?;
    let mut line = serde_json::json!({ "status": "aligned", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of the training".into())?;
    if let (Some(line), serde_json::Value::Object(mut done)) = (line.as_object_mut(), done) {
        // They are for reading, in align.json.
        done.remove("samples");
        line.extend(done);
    }
    tell(&line, None).map(|()| 0)
}

async fn learn_weekly(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let mut name = None;
    let work = async {
        let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
        let stop = CancelToken::default();
        watch_signals(stop.clone());
        name = Some(spec.name.clone());
        let watched = Watched::begin(&spec, Learning::Weekly, interval);
        let work = improve::improve(&spec, interval, voice, watched.steps(), &stop);
        watched.through(work).await
    };
    let outcome = work.await;
    let mut line = match &outcome {
        Ok(done) => serde_json::to_value(done).context(Kind::Internal, || "the run's record".into())?,
        Err(e) => serde_json::json!({ "error": redact(&e.to_string()), "rerun_helps": e.kind().rerun_helps() }),
    };
    line["status"] = outcome.as_ref().map_or_else(|e| e.kind().name(), |_| "promoted").into();
    line["name"] = name.into();
    let told = tell(&line, None);
    outcome?;
    told.map(|()| 0)
}

async fn learn_reward(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let outcome = reward::reward(&spec, interval, voice, &stop).await;
        // A judge that fails its gates has a page too.
        learning_page::write(&spec.folder()?)?;
        outcome
    };
    let done = Watched::begin(&spec, Learning::Reward, interval).through(work).await?;
    let line = serde_json::json!({
        "status": "rewarded",
        "name": spec.name,
        "examples": done.examples,
        "texts": done.texts,
        "gain": done.judge.gates.gain,
        "judge": done.judge.digest,
        "second": done.second.digest,
        "record": PathBuf::from(&spec.out).join("reward.json"),
    });
    tell(&line, None).map(|()| 0)
}

async fn learn_reinforce(file: PathBuf, method: Method, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let done = reinforce::reinforce(&spec, interval, method, voice, &stop).await?;
        learning_page::write(&spec.folder()?)?;
        Ok(done)
    };
    let done = Watched::begin(&spec, Learning::Reinforce(method), interval).through(work).await?;
    let mut line = serde_json::json!({ "status": "reinforced", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of it".into())?;
    if let (Some(line), serde_json::Value::Object(done)) = (line.as_object_mut(), done) {
        line.extend(done);
    }
    tell(&line, None).map(|()| 0)
}

async fn learn_worth(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let outcome = worth::worth(&spec, interval, voice, &stop).await;
        // What a gate refuses has a page too.
        let page = learning_page::write(&spec.folder()?);
        let done = outcome?;
        page?;
        Ok(done)
    };
    let done = Watched::begin(&spec, Learning::Worth, interval).through(work).await?;
    let line = serde_json::json!({
        "status": "taught",
        "name": spec.name,
        "items": done.items,
        "answers": done.answers,
        "accepted": done.accepted,
        "chosen": done.chosen,
        "correction": done.correction,
        "reach": done.reach,
        "choices": PathBuf::from(&spec.out).join(worth::CHOICES),
        "taught": done.taught,
        "record": PathBuf::from(&spec.out).join(worth::RECORD),
    });
    tell(&line, None).map(|()| 0)
}

async fn learn_project(file: PathBuf, interval: IntervalArgs) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        project::project(&spec, interval, &stop).await
    };
    let done = Watched::begin(&spec, Learning::Project, interval).through(work).await?;
    let mut line = serde_json::json!({ "status": "projected", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of a projection".into())?;
    if let (Some(line), serde_json::Value::Object(done)) = (line.as_object_mut(), done) {
        line.extend(done);
    }
    tell(&line, None).map(|()| 0)
}

async fn learn_evaluate(file: PathBuf, data: Vec<String>, voice: Voice) -> Result<u8> {
    let mut spec = evaluation_file::load(&file)?;
    spec.only(&data)?;
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let done = evaluation::evaluate(&spec, voice, &stop).await?;
    let line = serde_json::json!({
        "status": "evaluated",
        "evaluation": spec.name,
        "measurements": done.results.measurements.len(),
        "contrasts": done.results.contrasts.len(),
        "page": done.page,
    });
    tell(&line, None)?;
    if voice == Voice::Terminal {
        say(&done.story);
    }
    Ok(0)
}
