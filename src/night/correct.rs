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

use arrow::array::RecordBatch;
use futures::StreamExt;

use crate::config::{BudgetSpec, CheckSpec, CorrectSpec};
use crate::error::{Error, Kind, Result};
use crate::generate::answers::Examples;
use crate::generate::models::{Models, template_of};
use crate::generate::prompt::{Evidence, PromptTemplate};
use crate::llm::device;
use crate::night::correction_case::{Draft, User, users};
use crate::night::correction_rows::{Asked, Corrected, correction_rows, prompt_rows};
use crate::night::prepare::Prepared;
use crate::query::session::BatchStream;
use crate::reward::choose::{Candidate, Choice, Correction, Rule, choose, edit, stands};
use crate::reward::names::Vocabulary;
use crate::reward::saved::{Case, PastEvent, SavedJudge};
use crate::table::contract::Contract;

/// Users judged at a time.
const CHUNK: usize = 128;

/// A rewrite that fails is a candidate less, and no reason to end a night.
pub static BUDGET: BudgetSpec = BudgetSpec {
    max_failed_fraction: 1.0,
    max_failed_rows: 0,
    max_tokens: 0,
    max_minutes: 0.0,
    max_cost: 0.0,
    on_reached: String::new(),
};

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
            template: template_of(&prepared.job, &spec.template)?,
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
                    let key = self.models.prompt_key(&prompt, &stem)?;
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
        prompt_rows(&rows, self.as_of, contract)
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
        correction_rows(&rows, self.as_of, &self.digest, contract)
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
