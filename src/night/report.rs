//! The run's report for a person: one self-contained HTML page, and the same as JSON.
//!
//! Knows the manifest, sample rows, numbers of the runs before. Everything from the data is escaped: a title is never markup.
//! Equal input gives equal bytes.

use std::collections::BTreeMap;

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Kind, Result};
use crate::marks::{Marks, Piece};
use crate::night::drawing::{histogram, line};
use crate::night::funnel::{self, Step};
use crate::night::manifest::Manifest;
use crate::night::measures::{Drift, Measures, Unit, drifts};
use crate::printable;

/// The look of this page and of the one over all runs.
pub(super) const CSS: &str = include_str!("page.css");

/// Refusals that the page shows.
const REFUSALS: usize = 8;

/// What stands between the texts of a field.
pub(super) const BETWEEN: &str = "\n";

/// A reason shown with what it leans on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// `item`, `history` or `pair`.
    pub kind: String,
    /// User or item; of a pair the user.
    pub entity: String,
    /// Of a pair the item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// What the model was given: a line for each field, `<field>: <text>; <text>`.
    pub evidence: Vec<String>,
    /// What it wrote.
    pub reason: String,
    /// Score, where there is one.
    pub score: Option<f64>,
    /// Why it was refused.
    pub refusal: Option<String>,
    /// What it mentions and the evidence does not hold.
    pub invented: Vec<String>,
}

/// A reason that the version before had in other words.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Changed {
    /// Tonight's.
    #[serde(flatten)]
    pub now: Sample,
    /// What stood there before.
    pub before: String,
}

/// Tonight's reasons beside those of the version before.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    /// The partition of the version before.
    pub against: String,
    /// Reasons that both versions have.
    pub common: u64,
    /// Of those, reasons that are the same to the letter.
    pub same: u64,
    /// Some that are not.
    pub changed: Vec<Changed>,
}

/// What the page shows besides the manifest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Accepted reasons.
    pub accepted: Vec<Sample>,
    /// Refused reasons.
    pub refused: Vec<Sample>,
    /// Scores of all scored reasons.
    pub scores: Vec<f64>,
    /// Words of all reasons.
    pub lengths: Vec<f64>,
    /// Price of a million prompt tokens and of a million generated tokens.
    pub price: (f64, f64),
    /// A refused reason for each refusal.
    pub refusals: Vec<Sample>,
    /// The run in numbers.
    pub measures: Measures,
    /// The last runs in numbers, oldest first.
    pub before: Vec<Measures>,
    /// The reasons of the version before; none where there is no such version.
    pub versions: Option<Versions>,
    /// Why something before cannot be shown.
    pub note: Option<String>,
}

/// The report as JSON.
pub fn json(manifest: &Manifest, details: &Details) -> Result<String> {
    serde_json::to_string_pretty(&serde_json::json!({ "manifest": manifest, "details": details }))
        .context(Kind::Internal, || "the report is not JSON".into())
}

/// The filters of this page and of the one over all runs.
pub(super) fn add_filters(env: &mut minijinja::Environment<'_>) {
    env.add_filter("thousands", |n: i64| thousands(n));
    env.add_filter("fixed", |x: f64, digits: usize| format!("{x:.digits$}"));
    env.add_filter("percent", percent);
    env.add_filter("day", |moment: String| moment.replace("T00:00:00+00:00", ""));
}

/// The report as one HTML page without any outside resource.
pub fn html(manifest: &Manifest, details: &Details) -> Result<String> {
    let mut env = printable::pages();
    add_filters(&mut env);
    env.add_template("report", include_str!("report.html"))
        .context(Kind::Internal, || "the report's template is broken".into())?;
    let usage = &manifest.usage;
    let cost =
        |prompt: u64, completion: u64| (prompt as f64 * details.price.0 + completion as f64 * details.price.1) / 1e6;
    let all = manifest.usage_all.clone().unwrap_or_default();
    let charts = [
        ("Score of the reasons", histogram(&details.scores, 0.0, 1.0, 20)),
        ("Length of the reasons, words", histogram(&details.lengths, 0.0, 80.0, 20)),
    ]
    .map(|(title, svg)| context! { title, svg => Value::from_safe_string(svg) });
    let stage_total: f64 = manifest.stages.iter().map(|s| s.seconds).sum();
    let versions = details.versions.clone().unwrap_or_default();
    // A run that failed before it had counted has nothing to hold against others.
    let has_counted = !details.measures.run_id.is_empty();
    let compared = if has_counted { drifts(&details.measures, &details.before) } else { Vec::new() };
    env.get_template("report")
        .and_then(|t| {
            t.render(context! {
                m => Value::from(minijinja::value::Serde(manifest)),
                css => Value::from_safe_string(CSS.to_owned()),
                funnel => funnel::steps(manifest).into_iter().map(step).collect::<Vec<_>>(),
                drifts => compared.iter().map(drift).collect::<Vec<_>>(),
                days => details.before.iter().map(|run| run.dt.clone()).collect::<Vec<_>>(),
                moved => details.measures.moved.as_ref().map(|moved| Value::from(minijinja::value::Serde(moved))),
                note => details.note.as_deref(),
                refusals => refusals(manifest, &details.refusals),
                changed => versions.changed.iter().map(changed).collect::<Vec<_>>(),
                changed_against => versions.against, common => versions.common, same => versions.same,
                accepted_samples => details.accepted.iter().map(sample).collect::<Vec<_>>(),
                refused_samples => details.refused.iter().map(sample).collect::<Vec<_>>(),
                charts, stage_total,
                is_priced => details.price.0 > 0.0 || details.price.1 > 0.0,
                cost => cost(usage.prompt_tokens, usage.completion_tokens),
                new_per_second => usage.completion_tokens as f64 / usage.seconds.max(1e-9),
                all_cost => cost(all.prompt_tokens, all.completion_tokens),
                all_tokens => all.prompt_tokens + all.completion_tokens,
                all_new_per_second => all.completion_tokens as f64 / all.seconds.max(1e-9),
                acceptance => manifest.reasons.acceptance(), total => manifest.reasons.total(),
                accepted => manifest.reasons.accepted.values().sum::<u64>(),
            })
        })
        .context(Kind::Internal, || "the report cannot be rendered".into())
}

fn step(step: Step) -> Value {
    let (share, of) = step.share.unzip();
    context! { name => step.name, n => step.n, share, of, note => step.note }
}

fn drift(drift: &Drift) -> Value {
    let written = |value: Option<f64>| value.map(|v| number(v, drift.unit)).unwrap_or_default();
    let range = drift.range().map(|(low, high)| match (number(low, drift.unit), number(high, drift.unit)) {
        (low, high) if low == high => low,
        (low, high) => format!("{low} to {high}"),
    });
    context! {
        name => &drift.name, tonight => written(drift.tonight), mean => written(drift.mean()),
        range => range.unwrap_or_default(), is_outside => drift.is_outside(),
        line => Value::from_safe_string(line(&drift.before, drift.tonight)),
    }
}

/// A number as a person reads it.
fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Share => percent(value),
        Unit::Count => thousands(value.round() as i64),
        Unit::Tenths => format!("{value:.1}"),
        Unit::Number => format!("{value:.3}"),
        Unit::Distance => format!("{value:.5}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The most frequent refusals, each with its example where there is one.
fn refusals(manifest: &Manifest, examples: &[Sample]) -> Vec<Value> {
    let total = manifest.reasons.total().max(1) as f64;
    let examples: BTreeMap<&str, &Sample> = examples.iter().filter_map(|s| Some((s.refusal.as_deref()?, s))).collect();
    let mut codes: Vec<(&String, u64)> = manifest.reasons.refused.iter().map(|(code, n)| (code, *n)).collect();
    codes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let shown = codes.into_iter().take(REFUSALS).map(|(code, n)| {
        let example = examples.get(code.as_str()).map(|s| sample(s));
        context! { code, n, share => n as f64 / total, words => explained(code), example }
    });
    shown.collect()
}

/// What a refusal means; empty for one that is not curec's.
fn explained(refusal: &str) -> &'static str {
    match refusal {
        "no_evidence" => "there is nothing to lean on",
        "error" => "the model gave no answer",
        "bad_format" => "the answer breaks its format",
        "empty" => "the answer says nothing",
        "unfinished" => "the answer was cut off",
        "too_short" => "fewer words than [check] allows",
        "too_long" => "more words than [check] allows",
        "language" => "written in another language",
        "repetition" => "it repeats itself",
        "polarity" => "it turns a dislike into a like, or the other way round",
        "ungrounded" => "it names what the evidence does not hold",
        "copied" => "it copies its evidence",
        "general" => "it would fit anything",
        "unlikely" => "the model itself finds it unlikely",
        "budget" => "[budget] was spent before the prompt was asked",
        _ => "",
    }
}

fn changed(changed: &Changed) -> Value {
    let (now, before) = (sample(&changed.now), changed.before.clone());
    context! { before, ..now }
}

/// A sample as the page shows it: pieces of the reason, and of its evidence by field. What is marked is told here and becomes
/// markup in the template alone, which escapes every piece.
fn sample(sample: &Sample) -> Value {
    let fields: Vec<(&str, Vec<&str>)> = sample
        .evidence
        .iter()
        .map(|line| line.split_once(": ").unwrap_or(("", line)))
        .map(|(name, texts)| (name, texts.split(BETWEEN).collect()))
        .collect();
    let marks = Marks::new(&sample.reason, fields.iter().flat_map(|(_, texts)| texts.iter().copied()));
    let shown = |pieces: Vec<Piece>| -> Vec<Value> {
        pieces.into_iter().map(|Piece { text, is_marked }| context! { text, is_marked }).collect()
    };
    let evidence = fields.iter().map(|(name, texts)| {
        let texts = texts.iter().map(|text| shown(marks.used(text)));
        context! { name => *name, texts => texts.collect::<Vec<_>>() }
    });
    context! {
        kind => &sample.kind, entity => &sample.entity, item => sample.item.as_deref(),
        score => sample.score, refusal => sample.refusal.as_deref(),
        invented => sample.invented.clone(), reason => shown(marks.unsupported()), evidence => evidence.collect::<Vec<_>>(),
    }
}

fn thousands(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(d);
    }
    if n < 0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::night::manifest::{InputRecord, TableRecord, UsageAll};

    #[test]
    fn the_page_is_self_contained_and_escapes_data() {
        let evil = "<script>alert(1)</script>{{ 7*7 }}\u{202e}\x1b[2J".to_string();
        let sample = Sample {
            kind: evil.clone(),
            entity: evil.clone(),
            item: Some(evil.clone()),
            reason: evil.clone(),
            evidence: vec![format!("{evil}: {evil}")],
            refusal: Some(evil.clone()),
            invented: vec![evil.clone()],
            score: None,
        };
        let changed = Changed { now: sample.clone(), before: evil.clone() };
        let versions = Versions { against: evil.clone(), common: 2, same: 1, changed: vec![changed] };
        let refused = BTreeMap::from([(evil.clone(), 1)]);
        let measures = Measures { run_id: evil.clone(), refused, reasons: 1, ..Measures::default() };
        let details = Details {
            accepted: vec![sample.clone()],
            refused: vec![sample.clone()],
            refusals: vec![sample],
            scores: vec![0.5, 2.0, f64::NAN],
            before: vec![Measures { dt: evil.clone(), ..measures.clone() }],
            measures,
            versions: Some(versions),
            note: Some(evil.clone()),
            ..Details::default()
        };
        let mut manifest = Manifest { job: evil.clone(), error: Some(evil.clone()), ..Manifest::default() };
        manifest.reasons.refused.insert(evil.clone(), 1);
        manifest.reasons.by_kind.insert(evil.clone(), 1);
        manifest.inputs.insert(evil.clone(), InputRecord { notes: vec![evil.clone()], ..InputRecord::default() });
        manifest.tables.push(TableRecord { table: evil.clone(), why: vec![evil], ..TableRecord::default() });
        let page = html(&manifest, &details).unwrap();
        assert_eq!(page, html(&manifest, &details).unwrap(), "equal input gives equal bytes");
        assert!(!page.contains("<script>alert"), "data became markup");
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains(['\u{202e}', '\x1b']), "data turns the writing around it");
        assert!(page.contains("{{ 7*7 }}"), "data became a template");
        let outside = ["http:", "https:", "<script", "<link", "<img", "src=", "@import", "url("];
        assert!(outside.iter().all(|o| !page.contains(o)), "the page loads something");
        assert_eq!(page.matches("href=").count(), 1, "the index alone");
        for needed in ["<html lang=", "name=\"viewport\"", "prefers-color-scheme", "<main>"] {
            assert!(page.contains(needed), "{needed}");
        }
        assert_eq!(page.matches("<th").count() - page.matches("<thead").count(), page.matches("scope=").count());
        assert!(page.contains("<svg"));
    }

    #[test]
    fn what_a_reason_uses_is_marked_in_its_evidence_and_what_comes_from_nowhere_in_the_reason() {
        let sample = Sample {
            reason: "Fans of <b>Heat</b> want bleak heists and robots.".into(),
            evidence: vec!["liked: Heat (1995)\nCasino; or not (1995)".into(), "content: A <i>bleak</i> plan".into()],
            ..Sample::default()
        };
        let details = Details { refused: vec![sample], ..Details::default() };
        let page = html(&Manifest::default(), &details).unwrap();
        assert!(page.contains("<b>liked</b> <mark>Heat (1995)</mark>; Casino; or not (1995)</li>"), "{page}");
        assert!(page.contains("A &lt;i&gt;<mark>bleak</mark>&lt;"), "{page}");
        assert!(page.contains("<span class=\"nowhere\">robots</span>."), "{page}");
        assert!(!page.contains("<i>"), "data became markup");
    }

    #[test]
    fn usage_of_all_runs_stands_beside_this_run_s() {
        let all = UsageAll { answered: 4321, runs: 2, ..UsageAll::default() };
        let manifest = Manifest { usage_all: Some(all), failed_prompts: 5, ..Manifest::default() };
        let page = html(&manifest, &Details::default()).unwrap();
        assert!(page.contains("4 321") && page.contains("(2 run(s))"), "{page}");
        assert!(page.contains("5 prompt(s) failed") && page.contains("--retry-failed"), "{page}");
        let page = html(&Manifest::default(), &Details::default()).unwrap();
        assert!(!page.contains("whichever run paid") && !page.contains("--retry-failed"), "{page}");
    }

    #[test]
    fn refusals_stand_by_their_number_with_an_example_each() {
        let mut manifest = Manifest::default();
        manifest.reasons.by_kind.insert("item".into(), 10);
        manifest.reasons.refused = BTreeMap::from([("copied".into(), 1), ("ungrounded".into(), 4), ("own".into(), 2)]);
        let of = |refusal: &str, reason: &str| Sample {
            refusal: Some(refusal.into()),
            reason: reason.into(),
            ..Sample::default()
        };
        let refusals = vec![of("copied", "zebras"), of("ungrounded", "robots")];
        let page = html(&manifest, &Details { refusals, ..Details::default() }).unwrap();
        let places = ["<b>ungrounded</b>: it names", "robots", "<b>own</b></span>", "<b>copied</b>: it", "zebras"];
        let places: Vec<usize> = places.iter().map(|text| page.find(text).unwrap()).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(page.contains("4, 40.0 % of all") && page.contains("width:40.0%"), "{page}");
    }

    #[test]
    fn what_changed_stands_beside_what_was_and_money_only_where_it_has_a_price() {
        let now = Sample { reason: "Now.".into(), entity: "i1".into(), score: Some(0.5), ..Sample::default() };
        let changed = vec![Changed { now, before: "Then.".into() }];
        let versions = Versions { against: "2026-01-19".into(), common: 8, same: 6, changed };
        let mut details = Details { versions: Some(versions), price: (2.0, 8.0), ..Details::default() };
        let json = serde_json::to_value(&details).unwrap();
        assert_eq!(json["versions"]["changed"][0]["entity"], "i1", "forgetting finds it as it finds samples");
        let mut manifest = Manifest::default();
        manifest.usage.prompt_tokens = 1_000_000;
        let page = html(&manifest, &details).unwrap();
        assert!(page.contains("<dd>Then.</dd>") && page.contains("<dt>now</dt>") && page.contains("75.0 %"), "{page}");
        assert!(page.contains("data-label=\"money\">2.0000"), "{page}");
        details.price = (0.0, 0.0);
        assert!(!html(&manifest, &details).unwrap().contains("money\""));
        let back: Details = serde_json::from_value(json).unwrap();
        assert_eq!(back.versions.unwrap().changed[0].now.score, Some(0.5));
    }

    #[test]
    fn numbers_outside_the_last_runs_are_marked() {
        let run = |accepted| Measures { run_id: "r".into(), reasons: 100, accepted, ..Measures::default() };
        let before = [80, 82, 84].map(run).to_vec();
        let details = Details { measures: run(40), before, ..Details::default() };
        let page = html(&Manifest::default(), &details).unwrap();
        let failed = html(&Manifest::default(), &Details::default()).unwrap();
        assert!(failed.contains("Nothing to compare") && !failed.contains("<polyline"));
        assert_eq!(page.matches(">outside<").count(), 1, "{page}");
        assert!(page.contains("80.0 % to 84.0 %") && page.contains("<polyline"), "{page}");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(thousands(1234567), "1 234 567");
        assert_eq!(thousands(-999), "-999");
    }
}
