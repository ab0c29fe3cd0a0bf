//! Scores of reasons without a learned reward: likelihood, grounding, repetition, length, language, concreteness and copying, held
//! against thresholds, and one figure of four of them.
//!
//! Turns rows of `reason` joined with their evidence into rows of `reason_score`. A learned reward comes later and
//! stands beside these columns. Knows record batches and checks; knows nothing of where they come from.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;

use crate::columns::{at, column, floats, integers, text, text_lists};
use crate::config::CheckSpec;
use crate::error::{Context, Kind, Result};
use crate::generate::prompt::Evidence;
use crate::reward::checks;
use crate::reward::language::word_count;
use crate::reward::names::{Mentions, Vocabulary, labelled, mentions_beside, without_names};

/// Why a reason is refused: the values of `refusal` in the contract of reason_score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The prompt holds no evidence.
    NoEvidence,
    /// Generation failed.
    Error,
    /// The answer breaks its format.
    BadFormat,
    /// There is no text.
    Empty,
    /// It does not end with the end of a sentence.
    Unfinished,
    /// It has too few words.
    TooShort,
    /// It has too many words.
    TooLong,
    /// It is in another language.
    Language,
    /// It repeats itself.
    Repetition,
    /// It argues for the opposite of its verdict.
    Polarity,
    /// It mentions what the evidence does not hold.
    Ungrounded,
    /// It copies a sentence of the evidence.
    Copied,
    /// It fits anything: it shares no telling word with the sentences and keywords of the evidence.
    General,
    /// The language model itself finds it unlikely.
    Unlikely,
    /// Nobody has asked yet: what the job allows to spend was spent before.
    Budget,
}

impl Refusal {
    /// All of them, in the order in which they are checked; the last one is checked with `Error`.
    pub const ALL: [Refusal; 15] = [
        Refusal::NoEvidence,
        Refusal::Error,
        Refusal::BadFormat,
        Refusal::Empty,
        Refusal::Unfinished,
        Refusal::TooShort,
        Refusal::TooLong,
        Refusal::Language,
        Refusal::Repetition,
        Refusal::Polarity,
        Refusal::Ungrounded,
        Refusal::Copied,
        Refusal::General,
        Refusal::Unlikely,
        Refusal::Budget,
    ];

    /// The value of the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::NoEvidence => "no_evidence",
            Refusal::Error => "error",
            Refusal::BadFormat => "bad_format",
            Refusal::Empty => "empty",
            Refusal::Unfinished => "unfinished",
            Refusal::TooShort => "too_short",
            Refusal::TooLong => "too_long",
            Refusal::Language => "language",
            Refusal::Repetition => "repetition",
            Refusal::Polarity => "polarity",
            Refusal::Ungrounded => "ungrounded",
            Refusal::Copied => "copied",
            Refusal::General => "general",
            Refusal::Unlikely => "unlikely",
            Refusal::Budget => "budget",
        }
    }
}

/// A reason's score, and why it is refused where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Mean natural-log likelihood of the generated tokens; none where an endpoint does not tell it.
    pub mean_logprob: Option<f64>,
    /// Share of mentions that the evidence holds, 0 to 1.
    pub grounding: Option<f64>,
    /// Share of repeated three-word sequences, 0 to 1.
    pub repetition: Option<f64>,
    /// Words; two characters of a script without spaces count as one.
    pub n_words: i64,
    /// How much of its own words, quoted names left out, is of the expected language (see [`Language::share`](crate::reward::language::Language::share)); 0 to 1.
    pub language: Option<f64>,
    /// How many concrete words it has, of six, and whether other words join them, 0 to 1; see [`checks::concreteness`].
    pub concreteness: Option<f64>,
    /// One figure of likelihood, grounding, repetition and concreteness, 0 to 1; see [`figure`].
    pub score: Option<f64>,
    /// The first check that failed.
    pub refusal: Option<Refusal>,
}

/// One reason with its evidence.
#[derive(Debug, Clone, Default)]
pub struct Scored<'a> {
    /// The reason, stem included; `None` where generation failed.
    pub reason: Option<&'a str>,
    /// Why there is no reason.
    pub error: Option<&'a str>,
    /// How generation ended.
    pub finish: Option<&'a str>,
    /// Sum of log-likelihoods of the generated tokens; none where it is not known: then nothing is held against it.
    pub logprob_sum: Option<f64>,
    /// Generated tokens.
    pub completion_tokens: i64,
    /// `like`, `dislike` or `mixed`.
    pub verdict: &'a str,
    /// Names that the reason may mention: titles and attributes.
    pub evidence: Vec<&'a str>,
    /// Sentences of the evidence: what they name may be mentioned, and they may not be copied.
    pub sentences: Vec<&'a str>,
    /// Words that say most.
    pub keywords: Vec<&'a str>,
    /// Titles of the evidence that may be quoted.
    pub titles: Vec<&'a str>,
    /// Titles that must not be praised.
    pub disliked: Vec<&'a str>,
    /// Those of the sentences that find fault, and those that do not.
    pub faults: Vec<&'a str>,
    /// See `faults`.
    pub praised: Vec<&'a str>,
}

impl<'a> Scored<'a> {
    /// What a reason that leans on this evidence is held against; the reason itself is still to be filled in.
    pub fn from_evidence(evidence: &'a Evidence) -> Scored<'a> {
        fn texts(list: &[String]) -> impl Iterator<Item = &str> {
            list.iter().map(String::as_str)
        }
        let Evidence { subject, liked, disliked, related, attributes, content, praise, fault, .. } = evidence;
        // What a liked item is stands behind its title.
        let titled = texts(content).filter(|_| evidence.kind == "history");
        let of_content: Vec<&str> = titled.filter_map(|piece| Some(piece.rsplit_once(": ")?.0)).collect();
        let names = subject.as_deref().into_iter().chain(texts(liked)).chain(texts(disliked)).chain(texts(related));
        let names = names.chain(texts(attributes)).chain(texts(attributes).filter_map(labelled));
        let titles = subject.as_deref().into_iter().chain(texts(liked));
        Scored {
            verdict: &evidence.verdict,
            evidence: names.chain(of_content.iter().copied()).collect(),
            sentences: texts(content).chain(texts(praise)).chain(texts(fault)).collect(),
            keywords: texts(&evidence.keywords).collect(),
            titles: titles.chain(of_content.iter().copied()).collect(),
            disliked: texts(disliked).collect(),
            faults: texts(fault).collect(),
            praised: texts(content).chain(texts(praise)).collect(),
            ..Scored::default()
        }
    }

    /// Whether there is anything to lean on.
    pub fn has_evidence(&self) -> bool {
        !(self.evidence.is_empty() && self.sentences.is_empty() && self.keywords.is_empty())
    }

    /// Sentences and keywords.
    fn texts(&self) -> Vec<&'a str> {
        self.sentences.iter().chain(&self.keywords).copied().collect()
    }

    /// What a text mentions, held against the evidence.
    pub fn mentions(&self, text: &str, vocabulary: &Vocabulary) -> Mentions {
        mentions_beside(text, &self.evidence, &self.texts(), vocabulary)
    }
}

/// The score of a reason: `exp(mean_logprob)^(1/4) * grounding * (1 - repetition) * (1 + concreteness) / 2`, 0 to 1. The last three are
/// shares, 0 to 1; a likelihood that nobody knows counts as 1.
///
/// A language model finds those words likeliest that fit every item. The fourth root of the likelihood leaves it the smaller say:
/// a reason of full concreteness has a higher score than any of none as long as its mean log-likelihood is above -4 ln 2, about
/// -2.77, and both are grounded and repeat nothing.
pub fn figure(mean_logprob: Option<f64>, grounding: f64, repetition: f64, concreteness: f64) -> f64 {
    let likelihood = mean_logprob.map_or(1.0, |mean| (mean.min(0.0) / 4.0).exp());
    likelihood * grounding * (1.0 - repetition) * (1.0 + concreteness) / 2.0
}

/// Scores one reason, by the rules of the vocabulary's language.
pub fn score(row: &Scored<'_>, check: &CheckSpec, vocabulary: &Vocabulary) -> Score {
    let has_evidence = row.has_evidence();
    // Nothing was asked where there was nothing to lean on.
    let refusal = match row.error {
        _ if !has_evidence => Refusal::NoEvidence,
        Some("bad_format") => Refusal::BadFormat,
        Some("not_generated") => Refusal::Budget,
        _ => Refusal::Error,
    };
    let none = Score {
        mean_logprob: None,
        grounding: None,
        repetition: None,
        n_words: 0,
        language: None,
        concreteness: None,
        score: None,
        refusal: Some(refusal),
    };
    let Some(reason) = row.reason else { return none };
    let n_words = word_count(reason);
    let mean = row.logprob_sum.map(|sum| sum / row.completion_tokens.max(1) as f64);
    let grounding = row.mentions(reason, vocabulary).grounding();
    let repetition = checks::repetition(reason);
    let concreteness = checks::concreteness(reason, &row.texts(), &row.evidence);
    // What it quotes may be of any language.
    let expected = vocabulary.language();
    let language = expected.share(&without_names(reason, &row.evidence));
    // Where no mark tells the end of a sentence, the model's own end does.
    let is_finished = checks::is_finished(reason) || (!expected.marks_ends() && row.finish == Some("stop"));
    let is_copied = || {
        let most = check.max_copied_words;
        most > 0 && checks::copies(reason, &row.sentences, &row.evidence, most)
    };
    let is_general = || {
        let (said, there) = checks::concrete(reason, &row.texts(), &row.evidence);
        said < check.min_concrete.min(there)
    };
    let refusal = if reason.trim().is_empty() || row.completion_tokens <= 1 {
        Some(Refusal::Empty)
    } else if !has_evidence {
        Some(Refusal::NoEvidence)
    } else if check.require_finished && !is_finished {
        Some(Refusal::Unfinished)
    } else if n_words < check.min_words {
        Some(Refusal::TooShort)
    } else if n_words > check.max_words {
        Some(Refusal::TooLong)
    } else if language.is_some_and(|share| share < check.min_language) {
        Some(Refusal::Language)
    } else if repetition > check.max_repetition {
        Some(Refusal::Repetition)
    } else if checks::contradicts(reason, row.verdict, &row.titles, &row.disliked, &row.faults, &row.praised, expected)
    {
        Some(Refusal::Polarity)
    } else if grounding < check.min_grounding {
        Some(Refusal::Ungrounded)
    } else if is_copied() {
        Some(Refusal::Copied)
    } else if is_general() {
        Some(Refusal::General)
    } else if mean.is_some_and(|m| m < check.min_mean_logprob) {
        Some(Refusal::Unlikely)
    } else {
        None
    };
    Score {
        mean_logprob: mean,
        grounding: Some(grounding),
        repetition: Some(repetition),
        n_words: n_words as i64,
        language,
        concreteness: Some(concreteness),
        score: Some(figure(mean, grounding, repetition, concreteness)),
        refusal,
    }
}

/// The evidence of each row of a batch with the columns of `reason_prompt` that hold it; `kind` where it has no such column.
///
/// # Errors
/// As [`text_lists`].
pub fn evidence_of(batch: &RecordBatch, kind: &str) -> Result<Vec<Evidence>> {
    let kinds = batch.column_by_name("kind").map(|_| text(batch, "kind")).transpose()?;
    let [subject, verdict] = [text(batch, "subject")?, text(batch, "verdict")?];
    let of = |name: &str| text_lists(batch, name).map(Vec::into_iter);
    let (mut liked, mut disliked, mut related, mut attributes) =
        (of("liked")?, of("disliked")?, of("related")?, of("attributes")?);
    let (mut content, mut praise, mut fault, mut keywords) =
        (of("content")?, of("praise")?, of("fault")?, of("keywords")?);
    let rows = (0..batch.num_rows()).map(|i| Evidence {
        kind: kinds.as_ref().map_or(kind, |kinds| at(kinds, i).unwrap_or_default()).to_owned(),
        subject: at(&subject, i).map(str::to_owned),
        verdict: at(&verdict, i).unwrap_or_default().to_owned(),
        liked: liked.next().unwrap_or_default(),
        disliked: disliked.next().unwrap_or_default(),
        related: related.next().unwrap_or_default(),
        attributes: attributes.next().unwrap_or_default(),
        content: content.next().unwrap_or_default(),
        praise: praise.next().unwrap_or_default(),
        fault: fault.next().unwrap_or_default(),
        keywords: keywords.next().unwrap_or_default(),
        extra: Vec::new(),
    });
    Ok(rows.collect())
}

/// Scores a batch that has the columns of `reason` and the evidence of `reason_prompt`; returns rows of `reason_score` in the
/// same order, with the schema of its contract.
///
/// # Errors
/// As [`evidence_of`]; `Kind::Internal` where the scores do not fit the contract.
pub fn score_batch(
    batch: &RecordBatch,
    schema: SchemaRef,
    check: &CheckSpec,
    vocabulary: &Vocabulary,
) -> Result<RecordBatch> {
    let [reason, finish, error] = ["reason", "finish", "error"].map(|name| text(batch, name));
    let (reason, finish, error) = (reason?, finish?, error?);
    let (logprob_sum, tokens) = (floats(batch, "logprob_sum")?, integers(batch, "completion_tokens")?);
    let evidence = evidence_of(batch, "")?;
    use arrow::array::Array;
    let scores: Vec<Score> = (0..batch.num_rows())
        .map(|i| {
            let row = Scored {
                reason: at(&reason, i),
                error: at(&error, i),
                finish: at(&finish, i),
                logprob_sum: logprob_sum.is_valid(i).then(|| logprob_sum.value(i)),
                completion_tokens: tokens.value(i),
                ..Scored::from_evidence(&evidence[i])
            };
            score(&row, check, vocabulary)
        })
        .collect();
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| {
            let floats = |pick: fn(&Score) -> Option<f64>| -> ArrayRef {
                Arc::new(scores.iter().map(pick).collect::<Float64Array>())
            };
            Ok(match field.name().as_str() {
                "mean_logprob" => floats(|s| s.mean_logprob),
                "grounding" => floats(|s| s.grounding),
                "repetition" => floats(|s| s.repetition),
                "language" => floats(|s| s.language),
                "concreteness" => floats(|s| s.concreteness),
                "score" => floats(|s| s.score),
                "n_words" => Arc::new(scores.iter().map(|s| s.n_words).collect::<Int64Array>()),
                "accepted" => Arc::new(scores.iter().map(|s| Some(s.refusal.is_none())).collect::<BooleanArray>()),
                "refusal" => Arc::new(scores.iter().map(|s| s.refusal.map(Refusal::as_str)).collect::<StringArray>()),
                name => column(batch, name, field.data_type())?,
            })
        })
        .collect();
    RecordBatch::try_new(schema, columns?).context(Kind::Internal, || "scores do not fit reason_score".into())
}

#[cfg(test)]
mod tests;
