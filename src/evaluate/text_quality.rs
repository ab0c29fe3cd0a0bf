//! What an arm's texts are worth as texts: format, grounding, diversity, and how near they come to what people wrote.
//!
//! Knows a job's published tables and the measures of `reward::checks` and `reward::text_metrics`; trains nothing.
//!
//! * `texts`: texts that the arm encodes. All measures but `format` and `grounding` are over these.
//! * `format`: share of the answers in the format of an aligned model, where one is asked for.
//! * `grounding`: mean share of the mentions of an answer that its evidence holds, over all answers in the format, the
//!   refused ones too. Texts that are the evidence itself (A2, A4b) have all of it, but for what the check misreads.
//! * `distinct_2`: different word pairs over all of them. `unique`: share of the texts that are distinct (PETER's USR).
//! * `bleu_1`, `bleu_4`, `rouge_l`: of every text with references. **References** are the sentences of 3 to 60 words of the
//!   item's own reviews that were written in the held-out period, the first 256 by time. BLEU is corpus BLEU of many
//!   references (Papineni 2002), lower case, words alone; ROUGE-L is the mean of each text's best F1. Papers that follow
//!   PETER have exactly one reference a text, so their numbers are lower and not comparable with these. What makes numbers
//!   comparable between arms is the control beside them, `*_shuffled`: the same texts, each held against the references of
//!   another item. What is above it is about the item, what is not is English.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;

use crate::columns::{self, at};
use crate::config::Interval;
use crate::error::Result;
use crate::evaluate::arm::Arm;
use crate::evaluate::results::{Measurement, TEXT};
use crate::generate::format::STEM;
use crate::network::random::Random;
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::reward::checks;
use crate::reward::language;
use crate::reward::names::Vocabulary;
use crate::reward::text_metrics::{bleu_of_many, distinct, rouge_l, sentences, unique_sentences};
use crate::statistics;

/// Most sentences that a text is held against.
const MOST: usize = 256;

/// Sentences of held-out reviews by item.
pub type References = HashMap<String, Vec<String>>;

/// What an item was asked about, and what came of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The item.
    pub item: String,
    /// Everything that a text may name.
    pub evidence: Vec<String>,
    /// Whether the answer is to be in the format of an aligned model.
    pub wants_format: bool,
    /// The reason, where there was an answer in the format.
    pub reason: Option<String>,
    /// Whether there was an answer, in whatever format.
    pub is_answered: bool,
}

/// What a job asked about items in an interval.
///
/// # Errors
/// What the query says.
pub async fn asked(session: &Session, interval: Interval) -> Result<Vec<Asked>> {
    let dt = [("dt", Param::Text(interval.dt()))];
    let mut rows = session.sql(texts::ASKED_ITEMS, &dt).await?.stream().await?;
    let mut found = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        let [item, subject, stem, reason, error] =
            ["item_id", "subject", "answer_stem", "reason", "error"].map(|name| columns::text(&batch, name));
        let (item, subject, stem, reason, error) = (item?, subject?, stem?, reason?, error?);
        let lists: Vec<Vec<Vec<String>>> = ["attributes", "liked", "related", "disliked"]
            .into_iter()
            .map(|name| columns::text_lists(&batch, name))
            .collect::<Result<_>>()?;
        found.extend((0..batch.num_rows()).map(|row| {
            Asked {
                item: item.value(row).to_owned(),
                evidence: lists
                    .iter()
                    .flat_map(|list| list[row].iter().cloned())
                    .chain(at(&subject, row).map(str::to_owned))
                    .collect(),
                wants_format: at(&stem, row).is_some_and(|stem| stem.trim_start().starts_with(STEM)),
                reason: at(&reason, row).map(str::to_owned),
                is_answered: at(&reason, row).is_some() || at(&error, row) == Some("bad_format"),
            }
        }));
    }
    Ok(found)
}

/// Sentences of reviews written at `from` (microseconds since 1970) or later.
///
/// # Errors
/// What the query says.
pub async fn references(session: &Session, from: i64) -> Result<References> {
    let mut rows = session.sql(texts::REVIEW_TEXTS, &[("from", Param::Timestamp(from))]).await?.stream().await?;
    let mut found = References::new();
    while let Some(batch) = rows.try_next().await? {
        let (items, texts) = (columns::text(&batch, "item_id")?, columns::text(&batch, "text")?);
        for row in 0..batch.num_rows() {
            let of_item = found.entry(items.value(row).to_owned()).or_default();
            let text = unescaped(texts.value(row));
            let whole = |sentence: &&str| (3..=60).contains(&language::words(sentence).len());
            let room = MOST.saturating_sub(of_item.len());
            of_item.extend(sentences(&text).into_iter().filter(whole).take(room).map(str::to_owned));
        }
    }
    found.retain(|_, sentences| !sentences.is_empty());
    Ok(found)
}

/// Old logs hold HTML's names of these.
fn unescaped(text: &str) -> String {
    [("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (name, c)| text.replace(name, c))
}

/// An arm's measures: of `texts`, by item, and, where the language model wrote them (`is_generated`), of all answers, the
/// refused ones too. `asked` tells the evidence.
pub fn measure(
    data: &str,
    arm: Arm,
    texts: &[(String, String)],
    asked: &[Asked],
    is_generated: bool,
    references: Option<&References>,
) -> Vec<Measurement> {
    let vocabulary = Vocabulary::new(asked.iter().flat_map(|a| a.evidence.iter()).map(String::as_str));
    let evidence: HashMap<&str, Vec<&str>> =
        asked.iter().map(|a| (a.item.as_str(), a.evidence.iter().map(String::as_str).collect())).collect();
    let grounding = |(item, text): (&str, &str)| Some(checks::grounding(text, evidence.get(item)?, &vocabulary));
    let said: Vec<f64> = match is_generated {
        true => {
            asked.iter().filter_map(|a| Some((a.item.as_str(), a.reason.as_deref()?))).filter_map(grounding).collect()
        }
        false => texts.iter().map(|(item, text)| (item.as_str(), text.as_str())).filter_map(grounding).collect(),
    };
    let mut found: Vec<(&str, usize, f64)> = vec![("texts", texts.len(), texts.len() as f64)];
    let formatted: Vec<&Asked> = asked.iter().filter(|a| is_generated && a.wants_format && a.is_answered).collect();
    if !formatted.is_empty() {
        let n = formatted.iter().filter(|a| a.reason.is_some()).count();
        found.push(("format", formatted.len(), n as f64 / formatted.len() as f64));
    }
    if !said.is_empty() {
        found.push(("grounding", said.len(), said.iter().sum::<f64>() / said.len() as f64));
    }
    let words: Vec<Vec<String>> = texts.iter().map(|(_, text)| language::words(text)).collect();
    if !texts.is_empty() {
        found.push(("distinct_2", texts.len(), distinct(&words, 2)));
        found.push(("unique", texts.len(), unique_sentences(&words)));
    }
    if let Some(references) = references {
        found.extend(beside(texts, references));
    }
    let row = |(metric, cases, value): (&str, usize, f64)| Measurement {
        data: data.into(),
        recommender: TEXT.into(),
        arm: arm.code().into(),
        target: TEXT.into(),
        metric: metric.into(),
        tier: "all".into(),
        cases: cases as u64,
        by_seed: vec![value],
        interval: statistics::Interval { mean: value, low: f64::NAN, high: f64::NAN },
    };
    found.into_iter().map(row).collect()
}

/// Texts beside what people wrote about the same items, and about others; the last one of an item that has several.
fn beside(texts: &[(String, String)], references: &References) -> Vec<(&'static str, usize, f64)> {
    let held: BTreeMap<&str, &str> = texts
        .iter()
        .filter(|(item, _)| references.contains_key(item))
        .map(|(item, text)| (item.as_str(), text.as_str()))
        .collect();
    let n = held.len();
    // Without another item there is nothing to shuffle.
    if n < 2 {
        return Vec::new();
    }
    let of_items: Vec<&Vec<String>> = held.keys().filter_map(|item| references.get(*item)).collect();
    let sentences = of_items.iter().map(|s| s.len()).sum::<usize>();
    // Everyone gets the next one's in a random round, so nobody keeps what is their own.
    let mut round: Vec<usize> = (0..n).collect();
    Random::new(0, "shuffled references").shuffle(&mut round);
    let mut dealt = of_items.clone();
    (0..n).for_each(|i| dealt[round[i]] = of_items[round[(i + 1) % n]]);
    let cut = |references: &[&Vec<String>]| -> Vec<(Vec<String>, Vec<Vec<String>>)> {
        let words = |sentences: &Vec<String>| sentences.iter().map(|s| language::words(s)).collect();
        held.values().zip(references).map(|(text, references)| (language::words(text), words(references))).collect()
    };
    let best = |references: &[&Vec<String>]| {
        let of = |(text, references): (&&str, &&Vec<String>)| {
            references.iter().map(|r| rouge_l(text, r)).fold(0.0, f64::max)
        };
        held.values().zip(references).map(of).sum::<f64>() / n as f64
    };
    let (own, other) = (cut(&of_items), cut(&dealt));
    vec![
        ("bleu_1", n, bleu_of_many(&own, 1)),
        ("bleu_4", n, bleu_of_many(&own, 4)),
        ("bleu_4_shuffled", n, bleu_of_many(&other, 4)),
        ("rouge_l", n, best(&of_items)),
        ("rouge_l_shuffled", n, best(&dealt)),
        ("references", n, sentences as f64),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn asked(item: &str, evidence: &[&str], reason: Option<&str>) -> Asked {
        Asked {
            item: item.into(),
            evidence: evidence.iter().map(|e| (*e).to_owned()).collect(),
            wants_format: true,
            reason: reason.map(str::to_owned),
            is_answered: true,
        }
    }

    fn pairs(texts: &[(&str, &str)]) -> Vec<(String, String)> {
        texts.iter().map(|(item, text)| ((*item).to_owned(), (*text).to_owned())).collect()
    }

    fn value(rows: &[Measurement], metric: &str) -> Option<(f64, u64)> {
        rows.iter().find(|m| m.metric == metric).map(|m| (m.interval.mean, m.cases))
    }

    #[test]
    fn refused_answers_count_where_they_must() {
        let all = [
            asked("a", &["Alpha", "Drama"], Some("Who likes Alpha likes drama.")),
            asked("b", &["Beta", "Comedy"], Some("Who likes Beta likes drama.")),
            asked("c", &["Gamma"], None),
            Asked { is_answered: false, ..asked("d", &["Delta"], None) },
        ];
        let texts = pairs(&[("a", "Who likes Alpha likes drama.")]);
        let rows = measure("x", Arm::Aligned, &texts, &all, true, None);
        assert!(rows.iter().all(|m| (m.arm.as_str(), m.recommender.as_str(), m.target.as_str()) == ("A4", TEXT, TEXT)));
        assert_eq!(value(&rows, "texts"), Some((1.0, 1)));
        assert_eq!(value(&rows, "format"), Some((2.0 / 3.0, 3)), "who did not answer broke no format");
        let (grounding, n) = value(&rows, "grounding").unwrap();
        assert!(n == 2 && grounding < 1.0 && grounding > 0.5, "{grounding}");
        assert_eq!(value(&rows, "unique"), Some((1.0, 1)));
        assert_eq!(value(&rows, "bleu_4"), None, "nobody wrote reviews");

        // The evidence written down: held against itself, and nobody answered.
        let texts = pairs(&[("a", "Alpha. Drama."), ("b", "Alpha. Drama.")]);
        let rows = measure("x", Arm::Attributes, &texts, &all, false, None);
        assert_eq!(value(&rows, "format"), None);
        assert!(value(&rows, "grounding").unwrap().0 < 1.0, "the second names what is not its own");
        assert_eq!(value(&rows, "unique"), Some((0.5, 2)));
        assert_eq!(value(&measure("x", Arm::Aligned, &[], &[], true, None), "grounding"), None);
    }

    #[test]
    fn what_is_about_the_item_is_above_the_control() {
        let references: References = [
            ("a", "a slow and tender record of piano songs"),
            ("b", "loud guitars from the very first second"),
            ("c", "the rapper is at his best on every track"),
        ]
        .map(|(item, text)| (item.to_owned(), vec!["Not my taste at all".to_owned(), text.to_owned()]))
        .into();
        let texts = pairs(&[
            ("a", "People like a slow and tender record."),
            ("b", "They like loud guitars from the very first second."),
            ("c", "The rapper is at his best."),
            ("z", "Nobody wrote about this one."),
        ]);
        let rows = measure("x", Arm::ZeroShot, &texts, &[], true, Some(&references));
        let of = |metric: &str| value(&rows, metric).unwrap();
        assert_eq!(of("references"), (6.0, 3));
        assert!(of("bleu_4").0 > 30.0 && of("bleu_4_shuffled").0 == 0.0, "{rows:?}");
        assert!(of("rouge_l").0 > 0.5 && of("rouge_l_shuffled").0 < 0.3, "{rows:?}");
        assert!(of("bleu_1").0 > of("bleu_4").0);
        let again = measure("x", Arm::ZeroShot, &texts, &[], true, Some(&references));
        assert_eq!(format!("{rows:?}"), format!("{again:?}"));
        assert!(beside(&texts[..1], &references).is_empty(), "one item has no other");
        assert_eq!(unescaped("&quot;it&#39;s&quot; &amp;lt;"), "\"it's\" &lt;");
    }
}
