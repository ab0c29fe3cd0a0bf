//! The correct stage: chronological correction of history reasons (step D4 of the method's design).
//!
//! ```text
//! earlier runs' reasons (forecasts) + the interval's outcomes ─ sql ─▶ correction_case
//!    └─ judge, out of fold ─▶ correction_prompt      what does not stand is asked for again, told its mistakes
//!         └─ generate() ─▶ response ─ judge, choose ─▶ reason_correction ─▶ user_feature of the interval's end
//! ```
//!
//! A forecast, its evidence and every rewrite know nothing of the interval; only the choice among them does, and what is
//! chosen counts from the interval's end on. A prompt tells one mistake: what the reason mentions without evidence, then
//! evidence that it leaves out, one after the other. So a user's rewrites are different questions, each answered once, and
//! also differ where sampling is greedy. Knows cases, judge and models; leaves the rule to [`crate::reward::choose`].

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use futures::StreamExt;

use crate::columns::{at, column, floats, integers, text};
use crate::config::{BudgetSpec, CheckSpec, CorrectSpec};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::answers::Examples;
use crate::generate::format;
use crate::generate::models::Models;
use crate::generate::prompt::{Evidence, PromptTemplate};
use crate::llm::device;
use crate::night::prepare::Prepared;
use crate::query::session::BatchStream;
use crate::reward::choose::{Candidate, Choice, Correction, Rule, choose, edit, stands};
use crate::reward::language::{Language, normalise};
use crate::reward::names::Vocabulary;
use crate::reward::saved::{Case, PastEvent, SavedJudge};
use crate::reward::score::{Score, Scored, evidence_of, score};
use crate::table::contract::Contract;

/// Users judged at a time.
const CHUNK: usize = 128;

/// A rewrite that fails is a candidate less, and no reason to end a night.
pub const BUDGET: BudgetSpec = BudgetSpec { max_failed_fraction: 1.0, max_failed_rows: 0 };

/// A reason, what it leaned on, and what became of it.
struct User {
    user_id: String,
    from_as_of: i64,
    corrected_from: String,
    draft: Draft,
    evidence: Evidence,
    /// Item, liked, time; oldest first.
    past: Vec<(String, bool, i64)>,
    outcomes: Vec<Outcome>,
    rewrites: Vec<Draft>,
}

struct Outcome {
    item_id: String,
    is_liked: bool,
    time: i64,
    is_met: bool,
}

/// A text and how it came about.
#[derive(Clone, Default)]
struct Draft {
    reason: String,
    /// Of a rewrite.
    prompt_key: Option<String>,
    finish: Option<String>,
    logprob_sum: Option<f64>,
    completion_tokens: i64,
    is_template: bool,
}

/// A column of lists of structs, row by row.
fn structs(batch: &RecordBatch, name: &str) -> Result<Vec<Option<StructArray>>> {
    let found = batch
        .column_by_name(name)
        .and_then(|c| c.as_list_opt::<i32>())
        .ok_or_else(|| Error::new(Kind::Internal, "a query lacks a column of lists").with("column", name))?;
    (0..found.len())
        .map(|i| match found.is_null(i) {
            true => Ok(None),
            false => match found.value(i).as_struct_opt() {
                Some(rows) => Ok(Some(rows.clone())),
                None => Err(Error::new(Kind::Internal, "a list holds no structs").with("column", name)),
            },
        })
        .collect()
}

fn booleans(batch: &RecordBatch, name: &str) -> Result<BooleanArray> {
    Ok(column(batch, name, &DataType::Boolean)?.as_boolean().clone())
}

fn moments(batch: &RecordBatch, name: &str) -> Result<TimestampMicrosecondArray> {
    let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    Ok(column(batch, name, &utc)?.as_primitive::<TimestampMicrosecondType>().clone())
}

fn number(array: &Float64Array, i: usize) -> Option<f64> {
    array.is_valid(i).then(|| array.value(i))
}

fn users(batch: &RecordBatch) -> Result<Vec<User>> {
    let [user_id, corrected_from] = [text(batch, "user_id")?, text(batch, "corrected_from")?];
    let [reason, finish] = [text(batch, "reason")?, text(batch, "finish")?];
    let (from_as_of, logprob_sum) = (moments(batch, "from_as_of")?, floats(batch, "logprob_sum")?);
    let tokens = integers(batch, "completion_tokens")?;
    let mut evidence = evidence_of(batch, "history")?;
    let (past, outcomes) = (structs(batch, "past")?, structs(batch, "outcomes")?);
    let rewrites = match batch.column_by_name("rewrites") {
        Some(_) => structs(batch, "rewrites")?,
        None => vec![None; batch.num_rows()],
    };
    let owned = |array: &StringArray, i| at(array, i).unwrap_or_default().to_string();
    (0..batch.num_rows())
        .map(|i| {
            let mut user = User {
                user_id: owned(&user_id, i),
                from_as_of: from_as_of.value(i),
                corrected_from: owned(&corrected_from, i),
                draft: Draft {
                    reason: owned(&reason, i),
                    finish: at(&finish, i).map(str::to_string),
                    logprob_sum: number(&logprob_sum, i),
                    completion_tokens: tokens.value(i),
                    ..Draft::default()
                },
                evidence: std::mem::take(&mut evidence[i]),
                past: Vec::new(),
                outcomes: Vec::new(),
                rewrites: Vec::new(),
            };
            if let Some(rows) = &past[i] {
                let rows = RecordBatch::from(rows);
                let (item, liked) = (text(&rows, "item_id")?, booleans(&rows, "liked")?);
                let time = moments(&rows, "event_timestamp")?;
                user.past = (0..rows.num_rows()).map(|k| (owned(&item, k), liked.value(k), time.value(k))).collect();
            }
            if let Some(rows) = &outcomes[i] {
                let rows = RecordBatch::from(rows);
                let (item, liked) = (text(&rows, "item_id")?, booleans(&rows, "liked")?);
                let (time, met) = (moments(&rows, "event_timestamp")?, booleans(&rows, "is_met")?);
                let outcome = |k| Outcome {
                    item_id: owned(&item, k),
                    is_liked: liked.value(k),
                    time: time.value(k),
                    is_met: met.value(k),
                };
                user.outcomes = (0..rows.num_rows()).map(outcome).collect();
            }
            if let Some(rows) = &rewrites[i] {
                let rows = RecordBatch::from(rows);
                let [key, reason, finish] =
                    [text(&rows, "prompt_key")?, text(&rows, "reason")?, text(&rows, "finish")?];
                let (sum, tokens) = (floats(&rows, "logprob_sum")?, integers(&rows, "completion_tokens")?);
                user.rewrites.extend((0..rows.num_rows()).filter_map(|k| {
                    Some(Draft {
                        // Where the answer format is broken there is none.
                        reason: at(&reason, k)?.to_string(),
                        prompt_key: at(&key, k).map(str::to_string),
                        finish: at(&finish, k).map(str::to_string),
                        logprob_sum: number(&sum, k),
                        completion_tokens: tokens.value(k),
                        is_template: false,
                    })
                }));
            }
            Ok(user)
        })
        .collect()
}

impl User {
    /// What is wrong with the reason, the worst first: what it makes up, then what it could have said.
    fn mistakes(&self, vocabulary: &Vocabulary) -> Vec<(&'static str, String)> {
        let (said, row) = (&self.draft.reason, Scored::from_evidence(&self.evidence));
        if !row.has_evidence() {
            return Vec::new();
        }
        let invented = row.mentions(said, vocabulary).invented;
        let Evidence { verdict, liked, disliked, related, attributes, .. } = &self.evidence;
        let own = if verdict == "dislike" { disliked } else { liked };
        let words = format!(" {} ", normalise(said));
        let is_omitted = |piece: &&String| {
            let bare = piece.rsplit_once(" (").map_or(piece.as_str(), |(title, _)| title);
            !bare.trim().is_empty() && !words.contains(&format!(" {} ", normalise(bare)))
        };
        let omitted = own.iter().chain(attributes).chain(related).filter(is_omitted);
        let invented = invented.into_iter().map(|name| ("invented", name));
        invented.chain(omitted.map(|piece| ("omitted", piece.clone()))).collect()
    }

    fn score(&self, draft: &Draft, check: &CheckSpec, vocabulary: &Vocabulary) -> Score {
        let row = Scored {
            reason: Some(&draft.reason),
            finish: draft.finish.as_deref(),
            // A template's words were not drawn: they are neither likely nor unlikely.
            logprob_sum: if draft.is_template { Some(0.0) } else { draft.logprob_sum },
            completion_tokens: if draft.is_template { i64::MAX } else { draft.completion_tokens },
            ..Scored::from_evidence(&self.evidence)
        };
        let found = score(&row, check, vocabulary);
        Score { score: found.score.filter(|_| !draft.is_template), ..found }
    }

    /// The evidence in the words of a template, which are English.
    fn template(&self, examples: &Examples, language: Language) -> Result<Option<Draft>> {
        let Evidence { subject, liked, disliked, related, attributes, .. } = &self.evidence;
        let has_names = subject.is_some() || [liked, disliked, related, attributes].iter().any(|l| !l.is_empty());
        if !has_names || !language.is_english() {
            return Ok(None);
        }
        let key = format!("{} {}", self.user_id, self.from_as_of);
        let answer = format!("{}{}", format::STEM, examples.answer(&self.evidence, &key)?);
        let draft = |reason: &str| Draft { reason: reason.to_string(), is_template: true, ..Draft::default() };
        Ok(format::parse(&answer).ok().map(|answer| draft(answer.reason)))
    }
}

/// What both passes over the cases need.
pub struct Corrector {
    spec: CorrectSpec,
    check: CheckSpec,
    vocabulary: Vocabulary,
    template: PromptTemplate,
    judge: SavedJudge,
    digest: String,
    examples: Examples,
    models: Arc<Models>,
    as_of: i64,
}

impl Corrector {
    /// Reads the judge. Blocks: not for a tokio worker.
    ///
    /// # Errors
    /// `Kind::Model` for a judge that cannot be read; `Kind::Config` for one of another encoder than the job's.
    pub fn open(prepared: &Prepared, vocabulary: Vocabulary) -> Result<Corrector> {
        let spec = prepared.job.spec.correct.clone();
        let judge = SavedJudge::read(spec.judge.as_ref(), &device::open(&prepared.job.spec.model.device)?)?;
        judge.check().map_err(|e| e.with("correct.judge", &spec.judge))?;
        let encoder = prepared.models.encoder_files()?.digest();
        if judge.encoder() != encoder {
            return Err(Error::new(Kind::Config, "the judge reads vectors of another sentence encoder than the job's")
                .with("correct.judge", &spec.judge)
                .with("its encoder", judge.encoder())
                .with("model.encoder", encoder)
                .hint("train a judge with this encoder: `curec learn reward`"));
        }
        Ok(Corrector {
            digest: crate::reward::saved::digest(spec.judge.as_ref())?,
            template: PromptTemplate::load(&spec.template)?,
            check: prepared.job.spec.check.clone(),
            examples: Examples::new()?,
            models: prepared.models.clone(),
            as_of: prepared.interval.end.timestamp_micros(),
            vocabulary,
            judge,
            spec,
        })
    }

    fn rule(&self) -> Rule {
        let CorrectSpec { keep_gain, min_improvement, edit_weight, .. } = self.spec;
        Rule { keep_gain, min_improvement, edit_weight }
    }

    /// Mean gain over the user's outcomes, for each text of each user.
    fn gains(&self, users: &[&User], texts: &[Vec<&str>]) -> Result<Vec<Vec<f64>>> {
        let all: Vec<&str> = texts.iter().flatten().copied().collect();
        let vectors = if all.is_empty() { Vec::new() } else { self.models.embed(&all)? };
        let past: Vec<Vec<PastEvent<'_>>> = users
            .iter()
            .map(|u| u.past.iter().map(|(item_id, liked, time)| PastEvent { item_id, liked: *liked, time: *time }))
            .map(Iterator::collect)
            .collect();
        let (mut cases, mut first) = (Vec::new(), 0);
        for ((user, past), texts) in users.iter().zip(&past).zip(texts) {
            let vectors: Vec<&[f32]> = vectors[first..first + texts.len()].iter().map(Vec::as_slice).collect();
            first += texts.len();
            cases.extend(user.outcomes.iter().map(|outcome| Case {
                user_id: &user.user_id,
                item_id: &outcome.item_id,
                history: &past[..past.partition_point(|event| event.time < outcome.time)],
                label: outcome.is_liked,
                time: outcome.time,
                texts: vectors.clone(),
            }));
        }
        let mut judged = self.judge.gains(&cases)?.into_iter();
        let mean = |(user, texts): (&&User, &Vec<&str>)| {
            let mut sums = vec![0.0; texts.len()];
            for gains in judged.by_ref().take(user.outcomes.len()) {
                sums.iter_mut().zip(gains).for_each(|(sum, gain)| *sum += gain);
            }
            sums.iter().map(|sum| sum / user.outcomes.len().max(1) as f64).collect()
        };
        Ok(users.iter().zip(texts).map(mean).collect())
    }

    /// Every user's reason as it was, judged.
    fn forecasts(&self, users: &[User]) -> Result<Vec<Candidate>> {
        let texts: Vec<Vec<&str>> = users.iter().map(|u| vec![u.draft.reason.as_str()]).collect();
        let gains = self.gains(&users.iter().collect::<Vec<_>>(), &texts)?;
        let of = |(user, gain): (&User, Vec<f64>)| Candidate {
            gain: gain.first().copied().unwrap_or(f64::NAN),
            edit: 0.0,
            is_clean: user.score(&user.draft, &self.check, &self.vocabulary).refusal.is_none(),
        };
        Ok(users.iter().zip(gains).map(of).collect())
    }

    fn prompts(&self, batch: &RecordBatch, contract: &Contract) -> Result<RecordBatch> {
        let generator = self.models.generator()?;
        let mut rows = Vec::new();
        for users in users(batch)?.chunks(CHUNK) {
            for (user, forecast) in users.iter().zip(self.forecasts(users)?) {
                if stands(&forecast, &self.rule()) {
                    continue;
                }
                let mistakes = user.mistakes(&self.vocabulary).into_iter().take(self.spec.rewrites);
                for (place, (mistake, what)) in mistakes.enumerate() {
                    let mut extra = vec![user.draft.reason.clone()];
                    extra.extend((mistake == "omitted").then(|| mistake.to_string()));
                    extra.push(what.clone());
                    let evidence = Evidence { kind: "rewrite".into(), extra, ..user.evidence.clone() };
                    let (prompt, stem) = self.template.render(&evidence)?;
                    let key = generator.fingerprint.prompt_key(&generator.tokenize(&prompt, &stem)?);
                    rows.push(Asked {
                        user_id: user.user_id.clone(),
                        place: place as i64 + 1,
                        from_as_of: user.from_as_of,
                        corrected_from: user.corrected_from.clone(),
                        mistake,
                        what,
                        prompt,
                        stem,
                        key,
                    });
                }
            }
        }
        let texts =
            |pick: fn(&Asked) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(pick))) };
        batch_of(contract, |name| {
            Some(match name {
                "user_id" => texts(|r| &r.user_id),
                "as_of" => utc(rows.iter().map(|_| self.as_of)),
                "place" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.place))),
                "from_as_of" => utc(rows.iter().map(|r| r.from_as_of)),
                "corrected_from" => texts(|r| &r.corrected_from),
                "mistake" => texts(|r| r.mistake),
                "mistake_text" => texts(|r| &r.what),
                "prompt_text" => texts(|r| &r.prompt),
                "answer_stem" => texts(|r| &r.stem),
                "prompt_key" => texts(|r| &r.key),
                _ => return None,
            })
        })
    }

    fn correct(&self, batch: &RecordBatch, contract: &Contract) -> Result<RecordBatch> {
        let mut rows = Vec::new();
        for users in users(batch)?.chunks(CHUNK) {
            let forecasts = self.forecasts(users)?;
            let mut drafts: Vec<Vec<Draft>> = Vec::with_capacity(users.len());
            for (user, forecast) in users.iter().zip(&forecasts) {
                let mut of_user: Vec<Draft> = Vec::new();
                if !stands(forecast, &self.rule()) {
                    // The same words twice are one candidate, and the reason itself is none.
                    for draft in
                        user.rewrites.iter().cloned().chain(user.template(&self.examples, self.vocabulary.language())?)
                    {
                        let is_new = |d: &Draft| d.reason != draft.reason;
                        if is_new(&user.draft) && of_user.iter().all(is_new) {
                            of_user.push(draft);
                        }
                    }
                }
                drafts.push(of_user);
            }
            let asked: Vec<usize> = (0..users.len()).filter(|i| !drafts[*i].is_empty()).collect();
            let texts: Vec<Vec<&str>> =
                asked.iter().map(|i| drafts[*i].iter().map(|d| d.reason.as_str()).collect()).collect();
            let of_asked: Vec<&User> = asked.iter().map(|i| &users[*i]).collect();
            let mut gains: Vec<Vec<f64>> = vec![Vec::new(); users.len()];
            asked.iter().zip(self.gains(&of_asked, &texts)?).for_each(|(i, of_user)| gains[*i] = of_user);
            for (((user, forecast), drafts), gains) in users.iter().zip(&forecasts).zip(&drafts).zip(&gains) {
                rows.push(self.decide(user, forecast, drafts, gains));
            }
        }
        let texts = |pick: fn(&Corrected) -> Option<&str>| -> ArrayRef {
            Arc::new(rows.iter().map(pick).collect::<StringArray>())
        };
        let values = |pick: fn(&Corrected) -> Option<f64>| -> ArrayRef {
            Arc::new(rows.iter().map(pick).collect::<Float64Array>())
        };
        let counts = |pick: fn(&Corrected) -> usize| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| pick(r) as i64)))
        };
        batch_of(contract, |name| {
            Some(match name {
                "user_id" => texts(|r| Some(&r.user_id)),
                "as_of" => utc(rows.iter().map(|_| self.as_of)),
                "from_as_of" => utc(rows.iter().map(|r| r.from_as_of)),
                "corrected_from" => texts(|r| Some(&r.corrected_from)),
                "correction" => texts(|r| Some(r.correction.as_str())),
                "reason" => texts(|r| r.chosen.as_ref().map(|c| c.reason.as_str())),
                "prompt_key" => texts(|r| r.chosen.as_ref()?.prompt_key.as_deref()),
                "gain_before" => values(|r| Some(r.gain_before)),
                "gain_after" => values(|r| r.gain_after),
                "n_outcomes" => counts(|r| r.n_outcomes),
                "n_met" => counts(|r| r.n_met),
                "n_candidates" => counts(|r| r.n_candidates),
                "edit" => values(|r| r.edit),
                "score" => values(|r| r.score),
                "judge" => Arc::new(StringArray::from_iter_values(rows.iter().map(|_| &self.digest))),
                _ => return None,
            })
        })
    }

    fn decide(&self, user: &User, forecast: &Candidate, drafts: &[Draft], gains: &[f64]) -> Corrected {
        let candidates: Vec<Candidate> = drafts
            .iter()
            .zip(gains)
            .map(|(draft, gain)| Candidate {
                gain: *gain,
                edit: edit(&user.draft.reason, &draft.reason),
                is_clean: user.score(draft, &self.check, &self.vocabulary).refusal.is_none(),
            })
            .collect();
        let (correction, chosen) = match choose(forecast, &candidates, &self.rule()) {
            Choice::Kept => (Correction::Kept, Some((user.draft.clone(), *forecast))),
            Choice::Replaced(place) if drafts[place].is_template => {
                (Correction::Template, Some((drafts[place].clone(), candidates[place])))
            }
            Choice::Replaced(place) => (Correction::Rewritten, Some((drafts[place].clone(), candidates[place]))),
            Choice::Dropped => (Correction::Dropped, None),
        };
        let score = chosen.as_ref().and_then(|(d, _)| user.score(d, &self.check, &self.vocabulary).score);
        Corrected {
            user_id: user.user_id.clone(),
            from_as_of: user.from_as_of,
            corrected_from: user.corrected_from.clone(),
            correction,
            gain_before: forecast.gain,
            gain_after: chosen.as_ref().map(|(_, c)| c.gain),
            n_outcomes: user.outcomes.len(),
            n_met: user.outcomes.iter().filter(|o| o.is_met).count(),
            n_candidates: 1 + drafts.len(),
            edit: chosen.as_ref().map(|(_, c)| c.edit),
            score,
            chosen: chosen.map(|(draft, _)| draft),
        }
    }
}

/// A row of correction_prompt.
struct Asked {
    user_id: String,
    place: i64,
    from_as_of: i64,
    corrected_from: String,
    mistake: &'static str,
    what: String,
    prompt: String,
    stem: String,
    key: String,
}

/// A row of reason_correction.
struct Corrected {
    user_id: String,
    from_as_of: i64,
    corrected_from: String,
    correction: Correction,
    gain_before: f64,
    gain_after: Option<f64>,
    n_outcomes: usize,
    n_met: usize,
    n_candidates: usize,
    edit: Option<f64>,
    score: Option<f64>,
    chosen: Option<Draft>,
}

fn utc(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn batch_of(contract: &Contract, fill: impl Fn(&str) -> Option<ArrayRef>) -> Result<RecordBatch> {
    let schema = contract.arrow_schema(None);
    let filled = schema.fields().iter().map(|field| {
        fill(field.name()).ok_or_else(|| {
            Error::new(Kind::Config, "a contract has a column that curec does not fill")
                .with("table", &contract.name)
                .with("column", field.name())
        })
    });
    let columns: Result<Vec<ArrayRef>> = filled.collect();
    RecordBatch::try_new(schema, columns?).context(Kind::Internal, || format!("rows do not fit {}", contract.name))
}

/// Which of the stage's tables.
#[derive(Clone, Copy)]
pub(super) enum Pass {
    /// Rewrites to ask for.
    Prompts,
    /// Corrections, once the rewrites were answered.
    Corrections,
}

/// Rows of a table of the stage, made from `cases`.
pub(super) fn rows(corrector: Arc<Corrector>, cases: BatchStream, contract: &Contract, pass: Pass) -> BatchStream {
    let contract = Arc::new(contract.clone());
    let made = cases.then(move |batch| {
        let (corrector, contract) = (corrector.clone(), contract.clone());
        async move {
            let batch = batch?;
            device::guarded_blocking("correcting", move || match pass {
                Pass::Prompts => corrector.prompts(&batch, &contract),
                Pass::Corrections => corrector.correct(&batch, &contract),
            })
            .await
        }
    });
    made.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(reason: &str, praise: &[&str]) -> User {
        let list = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        User {
            user_id: "u".into(),
            from_as_of: 0,
            corrected_from: "k".into(),
            draft: draft(reason),
            evidence: Evidence {
                kind: "history".into(),
                verdict: "like".into(),
                liked: list(&["Heat (1995)"]),
                attributes: list(&["Crime"]),
                praise: list(praise),
                ..Evidence::default()
            },
            past: Vec::new(),
            outcomes: Vec::new(),
            rewrites: Vec::new(),
        }
    }

    fn draft(reason: &str) -> Draft {
        Draft {
            reason: reason.into(),
            finish: Some("stop".into()),
            logprob_sum: Some(-1.0),
            completion_tokens: 10,
            ..Draft::default()
        }
    }

    fn check() -> CheckSpec {
        CheckSpec {
            min_mean_logprob: -2.0,
            min_grounding: 1.0,
            max_repetition: 0.2,
            min_words: 4,
            max_words: 35,
            min_language: 0.0,
            language: "en".into(),
            require_finished: true,
            min_concrete: 1,
            max_copied_words: 8,
        }
    }

    const PRAISE: &str = "The gunfights are loud and Al Pacino carries every scene of it to the very end.";
    const NAMED: &str = "The user likes Heat for the gunfights and for Al Pacino.";

    fn refusal(user: &User, draft: &Draft) -> Option<&'static str> {
        user.score(draft, &check(), &Vocabulary::new(["Crime", "Comedy"])).refusal.map(|r| r.as_str())
    }

    #[test]
    fn what_the_user_wrote_is_evidence() {
        let vocabulary = Vocabulary::new(["Crime", "Comedy"]);
        let said = user(NAMED, &[PRAISE]);
        assert_eq!(refusal(&said, &said.draft), None);
        assert_eq!(said.mistakes(&vocabulary), [("omitted", "Crime".to_string())]);
        // Without the sentences, as in days of before, nobody has named him.
        let silent = user(NAMED, &[]);
        assert_eq!(refusal(&silent, &silent.draft), Some("ungrounded"));
        assert_eq!(silent.mistakes(&vocabulary)[0], ("invented", "al pacino".to_string()));
    }

    #[test]
    fn rewrites_and_templates_are_concrete_and_in_their_own_words_where_there_are_sentences() {
        let general = "The user likes Heat because it is a crime movie.";
        let template = Draft { is_template: true, ..draft(general) };
        let copied = draft("The user likes that Al Pacino carries every scene of it to the very end.");
        let (said, silent) = (user(NAMED, &[PRAISE]), user(NAMED, &[]));
        assert_eq!(refusal(&said, &draft(general)), Some("general"));
        assert_eq!(refusal(&said, &template), Some("general"));
        assert_eq!(refusal(&said, &copied), Some("copied"));
        assert_eq!((refusal(&silent, &draft(general)), refusal(&silent, &template)), (None, None));
    }
}
