//! `curec learn evaluate`: what content features are worth to a recommender, arm by arm, with its intervals.
//!
//! Knows the evaluation's file, jobs and their tables; leaves training and statistics to [`crate::evaluate::ablation`].
//! The vectors come from the nightly pipeline itself, run for the last midnight before an origin and for midnights after it; a case
//! sees the newest of before its moment, so nothing that is asked for later can stand in them; those of histories from nights in training as well, each seen by later
//! events alone. Everything is kept in the evaluation's folder: an evaluation that
//! was killed goes on where it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cancel::CancelToken;
use crate::destination::Destination;
use crate::directory_lock::DirectoryLock;
use crate::error::Result;
use crate::evaluate::ablation;
use crate::evaluate::ablation::training::{Around, Evaluation, Training};
use crate::evaluate::arm::Arm;
use crate::evaluate::arm_data::{Source, ToldThere, make_folder};
use crate::evaluate::arms::Data;
use crate::evaluate::evaluation_file::{Budget, Spec, arms, targets};
use crate::evaluate::page;
use crate::evaluate::results::Results;
use crate::evaluate::window_nights::{Correcting, Tally};
use crate::llm::device;
use crate::night::record::now;
use crate::recommend::din::{self, Labels};
use crate::recommend::fit::Plan;
use crate::recommend::item_table::{How, Reading};
use crate::table::write::write_local;
use crate::telemetry::Voice;

/// An evaluation that ended well.
pub struct Done {
    /// What was found.
    pub results: Results,
    /// The page for people.
    pub page: PathBuf,
    /// The same for a person, some lines.
    pub story: String,
}

/// Runs an evaluation: texts and vectors, trainings, statistics, tables and pages.
///
/// # Errors
/// As [`crate::night::run::run`] for the texts, and [`ablation::run::evaluate`] for what is learned from them;
/// `Kind::Interrupted` after a signal, with everything kept; `Kind::Busy` where another process works in the folder.
pub async fn evaluate(spec: &Spec, voice: Voice, stop: &CancelToken) -> Result<Done> {
    let out = PathBuf::from(&spec.out);
    let work = out.join("work");
    make_folder(&work)?;
    let _hold = DirectoryLock::take(&out)?;
    if !spec.markdown.is_empty() {
        Destination::find(Path::new(&spec.markdown))?;
    }
    let arms = arms(spec)?;
    let evaluation = Evaluation {
        arms: arms.clone(),
        seeds: spec.seeds,
        targets: targets(spec)?,
        resamples: spec.resamples,
        confidence: spec.confidence,
        reading: spec.reading,
        sasrec: spec.sasrec.clone().map(|s| heard(s, voice)),
        log_linear: spec.log_linear.clone().map(|l| heard(l, voice)),
        din: spec.din.clone().map(|s| heard(s, voice)),
        checkpoints: Some(work.clone()),
        device: device::open(&spec.device)?,
    };
    let mut results = Results {
        title: format!("Ablation: {}", spec.name),
        created: now(),
        facts: facts(spec),
        measurements: Vec::new(),
        contrasts: Vec::new(),
        notes: notes(spec),
    };
    // Before hours are spent: the last data set can be asked at its last origin, and what its last arm needs is there.
    let opened = opened(spec, &work).await?;
    for source in opened.iter().flatten() {
        source.check(&arms).await?;
    }
    let mut page = out.join(PAGE);
    let correcting =
        Correcting { spec: &spec.windows, valid_quantile: spec.split.valid_quantile, arms: &arms, voice, stop };
    for (data, sources) in spec.data.iter().zip(opened) {
        stop.check()?;
        let (mut told, mut corrected) = (Vec::with_capacity(sources.len()), Tally::default());
        for source in &sources {
            results.facts.push((source.name.clone(), source.describe()));
            let mut texts = source.vectors(&arms, voice, stop, &mut results).await?;
            corrected += correcting.correct(source, &mut texts, &mut results).await?;
            let histories = match &spec.histories {
                Some(of) => source.histories(of, &arms, voice, stop, &mut results).await?,
                None => BTreeMap::new(),
            };
            let words = source.words(&arms, &mut results).await?;
            told.push(ToldThere { texts, histories, words });
        }
        results.measurements.extend(corrected.measurements(&data.name)?);
        let (mut evaluation, stop) = (evaluation.clone(), stop.clone());
        if let (Some(training), Some(budget)) = (&mut evaluation.sasrec, &data.sasrec) {
            training.config.batch = budget.batch;
            allow(&mut training.plan, budget);
            results.facts.push((format!("{}, SASRec", data.name), budget_told(budget)));
        }
        if let (Some(training), Some(budget)) = (&mut evaluation.log_linear, &data.log_linear) {
            training.config.batch = budget.batch;
            allow(&mut training.plan, budget);
            results.facts.push((format!("{}, log-linear", data.name), budget_told(budget)));
        }
        if let (Some(training), Some(budget)) = (&mut evaluation.din, &data.din) {
            training.config.batch = budget.batch;
            allow(&mut training.plan, budget);
            results.facts.push((format!("{}, DIN", data.name), budget_told(budget)));
        }
        let liked = spec
            .din
            .as_ref()
            .and_then(|din| liked(&din.config))
            .or(sources.first().map(Source::liked))
            .unwrap_or(LIKED);
        let name = data.name.clone();
        let found = device::guarded_blocking("evaluating", move || {
            let origins = sources.iter().zip(told).map(|(source, told)| source.origin(told));
            let data = Data { name: &name, liked, arms: &evaluation.arms, origins: origins.collect() };
            let mut around = Around { say: &mut |line| tracing::info!("{line}"), go_on: &|| stop.check() };
            ablation::run::evaluate(&data, &evaluation, &mut around)
        })
        .await?;
        results.measurements.extend(found.measurements);
        results.contrasts.extend(found.contrasts);
        page = write(spec, &results, &out)?;
    }
    let story = story(&results, &page);
    Ok(Done { results, page, story })
}

/// Whether models of the next item can be asked on the data sets of an evaluation, and these hold out nothing of before
/// `learned_until` (microseconds since 1970).
///
/// # Errors
/// `Kind::Config` where one does; `Kind::Input` where one cannot be asked; as for the inputs of [`evaluate`].
pub async fn check(spec: &Spec, learned_until: Option<i64>) -> Result<()> {
    let spec = Spec { learned_until, din: None, ..spec.clone() };
    opened(&spec, Path::new(&spec.out)).await.map(|_| ())
}

/// The data sets at their origins, each of which can be asked what the file asks.
async fn opened(spec: &Spec, work: &Path) -> Result<Vec<Vec<Source>>> {
    let is_ranked = spec.sasrec.is_some() || spec.log_linear.is_some();
    let targets = if is_ranked { targets(spec)? } else { Vec::new() };
    let mut found = Vec::with_capacity(spec.data.len());
    for data in &spec.data {
        let sources = Source::open(spec, data, work).await?;
        let origins = sources.iter().map(|source| source.origin(ToldThere::default())).collect();
        ablation::run::check(
            &Data { name: &data.name, liked: LIKED, arms: &[], origins },
            &targets,
            spec.din.as_ref(),
        )?;
        found.push(sources);
    }
    Ok(found)
}

/// A rating of at least this is a like where neither [din] nor a job says otherwise.
const LIKED: f32 = 4.0;

/// All widths that are tried.
fn told_widths(first: usize, further: &[usize]) -> String {
    std::iter::once(&first).chain(further).map(usize::to_string).collect::<Vec<_>>().join(" or ")
}

/// What is said of items and of histories, where these have no vectors.
const ALONE: [&str; 2] = [
    "Every arm has the same recommender, the same batches and the same search; it differs in the vectors of its items alone, \
     and the arms A2re to A2rn in how they read them. A0c and A1b are made of trainings of A0.",
    "Users' histories have no vectors but in A9.",
];

/// The same where histories have vectors.
const WITH_HISTORIES: [&str; 2] = [
    "Every arm has the same recommender, the same batches and the same search; it differs in the vectors of its items and its \
     users' histories alone, and the arms A2re to A2rn in how they read them. A0c and A1b are made of trainings of A0.",
    "Users' histories are described at several midnights of \
     the training period and at the last one before the first held-out event, from events before that midnight, by nights \
     of the arm's own job that are run in the order of time; an event sees its user's newest description as of a moment \
     that is not after it, and a user without one has no vector. The evidence is of before; adapters and judges may have \
     learned from later events of the training part, of none that is held out: what a record beside them tells otherwise of is \
     refused. Their whitening is their own. Histories of A6 \
     and A6n are those of their nights after correction: the vectors of what is said anew and of what the outcomes of a block \
     made of the reason before it, pooled, from the block's end on; so there are two reasons behind a vector where A5 has \
     one, also where nothing was rewritten. Their reasons of items are not corrected, and A6i and A6w correct those alone. A7 gives \
     histories to other users of the same midnight. A9 is given the answer instead.",
];

const NOTES: [&str; 6] = [
    "Vectors: made by nights of the pipeline, as of the last midnight before an origin's validation part and as of midnights in \
     its test part, through the sentence encoder and a whitening to 64 values that is fitted on items with training events. A \
     case sees the newest of before its moment. A2 is made of titles, attributes and co-consumed titles, A2r is the vector that a \
     night publishes of titles, attributes, descriptions, praise and fault where no reason stands; neither has a language model, \
     and of neither is anything shortened, as a prompt would be; A2x and A2rx have the scalar columns of the same nights' \
     item_feature, less their mean and divided by their deviation over items with training events at the origin; A3 and the \
     arms after it are what nights publish: the vector of the accepted reason, of the evidence where there is none. In A6i and A6w \
     half of the users of a window choose among these and other reasons as of its start, by how far each helps a log-linear model \
     that was trained before the window; what the other half confirm stands from its end on. Dealt labels: the same with the items \
     of the window's events dealt anew among them.",
    "Full ranking over the items that are there at a case's moment (their first event is not later), items of the history \
     left out, the target loses ties. Baselines and models know the training part alone; EASE has weights of the 3,000 \
     most frequent items and the best of three regularisations by the test part, which favours it. DIN: whether a user likes what the user met, by rating. AUC is over places within \
     each origin, GAUC is AUC within users, each weighted by its cases, over users with likes and dislikes.",
    "Intervals of arms are Student's t over trainings that differ in their seed; those of differences are percentiles of a \
     paired bootstrap over users and trainings, so that the luck of seeds is in them. Holm corrects within a data set, \
     recommender, target, metric and tier.",
    "A9 is given the answer with the question. It is never a result: where NDCG or AUC over all cases do not jump, the \
     yardstick is broken.",
    "The texts themselves: grounding and format are over all answers, the rest over the texts that an arm encodes. \
     References of BLEU and ROUGE-L are the sentences of the item's own reviews in the held-out period (3 to 60 words, at \
     most 256): corpus BLEU of many references, lower case, words alone; ROUGE-L's best F1. They are higher than those of \
     papers with one reference a text, and not comparable with them; `shuffled` holds the same texts against another \
     item's references.",
    "agreement is a proxy of human agreement, no more: the mean over users of Spearman's correlation between the cosine of \
     an item's text with the texts of the user's likes and the scores of A0, which knows no texts; 0 is chance.",
];

fn notes(spec: &Spec) -> Vec<String> {
    let [first, third] = if spec.histories.is_some() { WITH_HISTORIES } else { ALONE };
    let [second, others @ ..] = NOTES;
    [first, second, third].into_iter().chain(others).map(str::to_owned).collect()
}

/// A training that speaks like this.
fn heard<C>(training: Training<C>, voice: Voice) -> Training<C> {
    Training { plan: Plan { voice, ..training.plan }, ..training }
}

/// The least rating of a like, where DIN is told of ratings.
fn liked(config: &din::Config) -> Option<f32> {
    match config.labels {
        Labels::Rated { liked } => Some(liked),
        Labels::Sampled { .. } => None,
    }
}

fn facts(spec: &Spec) -> Vec<(String, String)> {
    let mut facts = vec![
        ("curec".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("arms".to_owned(), spec.arms.join(", ")),
        ("seeds".to_owned(), spec.seeds.to_string()),
        (
            "split".to_owned(),
            format!(
                "global, test parts from quantiles {:?}, validation from {} of what lies before each; texts remade {} times in each",
                spec.split.origins, spec.split.valid_quantile, spec.split.refreshes
            ),
        ),
        (
            "bootstrap".to_owned(),
            format!("{} resamples of users and trainings, {} intervals", spec.resamples, spec.confidence),
        ),
        ("device".to_owned(), spec.device.clone()),
    ];
    let is_corrected = |arm: &Arm| arm.corrects_items() && spec.arms.iter().any(|name| name == arm.code());
    if Arm::ALL.iter().any(is_corrected) {
        let of = &spec.windows;
        facts.push((
            "windows".into(),
            format!(
                "reasons of items with {} events or more in a window are judged, at an origin by {} of the events before it, {} times with \
                 dealt labels; by a log-linear model of width {}, learning rates {:?}, at most {} epochs, seed {}",
                of.least_events, of.origin_share, of.permutations, of.hidden, of.learning_rates, of.epochs, of.seed
            ),
        ));
    }
    facts.extend(spec.facts.iter().cloned());
    if let Some(Training { config: s, learning_rates, plan, widths }) = &spec.sasrec {
        let budget = budget(learning_rates, plan.epochs, plan.patience);
        facts.push((
            "SASRec".into(),
            format!(
                "width {}, {} layers, {} heads, {} items, dropout {}, full softmax; {budget}",
                told_widths(s.hidden, widths),
                s.layers,
                s.heads,
                s.length,
                s.dropout
            ),
        ));
    }
    if let Some(Training { config: s, learning_rates, plan, widths }) = &spec.log_linear {
        let budget = budget(learning_rates, plan.epochs, plan.patience);
        facts.push((
            "log-linear".into(),
            format!(
                "width {}, {} items, dropout {}, {}; {budget}",
                told_widths(s.hidden, widths),
                s.length,
                s.dropout,
                match s.negatives {
                    0 => "full softmax".to_owned(),
                    n => format!("softmax over the batch's targets and {n} drawn items, or all where these are fewer"),
                }
            ),
        ));
    }
    if spec.sasrec.is_some() || spec.log_linear.is_some() {
        let Reading {
            how,
            delta_dropout,
            delta_bound,
            seen_weight,
            seen_only,
            raise_unseen,
            or_free,
            near_ids,
            near_texts,
        } = spec.reading;
        let how = if how == How::Base { "the base of an item's vector" } else { "added to the id's vector by experts" };
        let softmax = if seen_only { "items that training met" } else { "all items" };
        let raised = if raise_unseen {
            "those with a text that it never met raised as validation likes best"
        } else {
            "none raised"
        };
        let free = if or_free { "; or own vectors that are free, as validation likes best" } else { "" };
        let near = match (near_ids, near_texts) {
            (true, true) => "; item-kNN, EASE and, with texts, their nearness are added as validation likes best",
            (true, false) => "; item-kNN and EASE are added as validation likes best",
            (false, true) => "; the nearness of texts is added as validation likes best",
            (false, false) => "",
        };
        facts.push((
            "reading".into(),
            format!(
                "a text is {how}; own vectors dropped from {delta_dropout} of the steps, bound {delta_bound}, counting n / (n + \
                 {seen_weight}); softmax over {softmax}, {raised}{free}{near}"
            ),
        ));
    }
    if let Some(Training { config: s, learning_rates, plan, .. }) = &spec.din {
        let budget = budget(learning_rates, plan.epochs, plan.patience);
        facts.push((
            "DIN".into(),
            format!(
                "width {}, {} items, dropout {}, likes from {}; {budget}",
                s.hidden,
                s.length,
                s.dropout,
                liked(s).unwrap_or(LIKED)
            ),
        ));
    }
    facts
}

/// A data set's own budget in the place of the evaluation's.
fn allow(plan: &mut Plan, budget: &Budget) {
    (plan.epochs, plan.patience) = (budget.epochs, budget.patience);
}

fn budget_told(budget: &Budget) -> String {
    format!("here batches of {}, at most {} epochs, patience {}", budget.batch, budget.epochs, budget.patience)
}

fn budget(rates: &[f64], epochs: usize, patience: usize) -> String {
    format!("learning rates {rates:?}, at most {epochs} epochs, patience {patience}")
}

/// The page in an evaluation's folder.
const PAGE: &str = "report.html";

/// Tables, markdown and page, each whole or not at all.
fn write(spec: &Spec, results: &Results, out: &Path) -> Result<PathBuf> {
    for (name, batch) in results.tables()? {
        write_local(&out.join(format!("{name}.parquet")), &[batch])?;
    }
    let markdown = results.markdown();
    let mut files = vec![(out.join("ABLATION.md"), markdown.clone())];
    if !spec.markdown.is_empty() {
        files.push((PathBuf::from(&spec.markdown), markdown));
    }
    let page = out.join(PAGE);
    files.push((page.clone(), page::page(results)?));
    for (path, text) in files {
        Destination::find(&path)?.write(text.as_bytes())?;
    }
    Ok(page)
}

/// The contrasts that matter, in lines.
fn story(results: &Results, page: &Path) -> String {
    let main = |metric: &str| matches!(metric, "ndcg@10" | "auc");
    let lines = results.contrasts.iter().filter(|c| c.tier == "all" && main(&c.metric)).map(|c| {
        format!(
            "{:<22} {:<7} {:<11} {:<8} {:>3} - {:<3} {:+.4} [{:+.4}, {:+.4}]  p {:.4}",
            c.data,
            c.recommender,
            c.target,
            c.metric,
            c.arm,
            c.against,
            c.contrast.interval.mean,
            c.contrast.interval.low,
            c.contrast.interval.high,
            c.p_holm
        )
    });
    lines.chain([format!("Page: {}", page.display())]).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::evaluation_file::tests::loaded;

    #[test]
    fn notes_say_of_histories_what_is_true() {
        let section = |keys: &str| loaded("[\"A0\"]", &format!("[histories]\n{keys}"));
        let (without, with) = (loaded("[\"A0\"]", "").unwrap(), section("blocks = 3\nmax_users = 0").unwrap());
        let says = |spec: &Spec| notes(spec).iter().any(|note| note.contains("have no vectors but in A9"));
        assert_eq!((says(&without), says(&with)), (true, false));
        assert_eq!((notes(&without).len(), notes(&with).len()), (8, 8));
        for (keys, says) in [
            ("blocks = 0\nmax_users = 1", "between 1"),
            ("blocks = 3\nmax_user = 1", "did you mean `max_users`"),
            ("blocks = 3\nmax_users = -1", "-1"),
        ] {
            let told = section(keys).unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
        }
    }
}
