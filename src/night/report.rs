//! The run's report for a person: one self-contained HTML page, and the same as JSON.
//!
//! Knows the manifest, a few sample rows and histograms. Everything from the data is escaped: a title is never markup.

use minijinja::context;
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::marks::{Marks, Piece};
use crate::night::manifest::Manifest;
use crate::printable;

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
}

/// The report as JSON.
pub fn json(manifest: &Manifest, details: &Details) -> Result<String> {
    serde_json::to_string_pretty(&serde_json::json!({ "manifest": manifest, "details": details }))
        .context(Kind::Internal, || "the report is not JSON".into())
}

/// The report as one HTML page without any outside resource.
pub fn html(manifest: &Manifest, details: &Details) -> Result<String> {
    let mut env = printable::pages();
    env.add_filter("thousands", |n: i64| thousands(n));
    env.add_filter("fixed", |x: f64, digits: usize| format!("{x:.digits$}"));
    env.add_filter("percent", |share: f64| format!("{:.1} %", 100.0 * share));
    env.add_template("report", include_str!("report.html"))
        .context(Kind::Internal, || "the report's template is broken".into())?;
    let usage = &manifest.usage;
    let cost =
        |prompt: u64, completion: u64| (prompt as f64 * details.price.0 + completion as f64 * details.price.1) / 1e6;
    let all = manifest.usage_all.clone().unwrap_or_default();
    let all_cost = cost(all.prompt_tokens, all.completion_tokens);
    let all_new_per_second = all.completion_tokens as f64 / all.seconds.max(1e-9);
    let cost = cost(usage.prompt_tokens, usage.completion_tokens);
    let new_per_second = usage.completion_tokens as f64 / usage.seconds.max(1e-9);
    let charts = [
        ("Score of the reasons", histogram(&details.scores, 0.0, 1.0, 20)?),
        ("Length of the reasons, words", histogram(&details.lengths, 0.0, 80.0, 20)?),
    ]
    .map(|(title, svg)| context! { title, svg => minijinja::Value::from_safe_string(svg) });
    let stage_total: f64 = manifest.stages.iter().map(|s| s.seconds).sum();
    env.get_template("report")
        .and_then(|t| {
            t.render(context! {
                m => minijinja::Value::from(minijinja::value::Serde(manifest)),
                accepted_samples => details.accepted.iter().map(sample).collect::<Vec<_>>(),
                refused_samples => details.refused.iter().map(sample).collect::<Vec<_>>(),
                charts, cost, new_per_second, all_cost, all_new_per_second, stage_total,
                acceptance => manifest.reasons.acceptance(), total => manifest.reasons.total(),
                accepted => manifest.reasons.accepted.values().sum::<u64>(),
            })
        })
        .context(Kind::Internal, || "the report cannot be rendered".into())
}

/// A sample as the page shows it: pieces of the reason, and of its evidence by field. What is marked is told here and becomes
/// markup in the template alone, which escapes every piece.
fn sample(sample: &Sample) -> minijinja::Value {
    let fields: Vec<(&str, Vec<&str>)> = sample
        .evidence
        .iter()
        .map(|line| line.split_once(": ").unwrap_or(("", line)))
        .map(|(name, texts)| (name, texts.split(BETWEEN).collect()))
        .collect();
    let marks = Marks::new(&sample.reason, fields.iter().flat_map(|(_, texts)| texts.iter().copied()));
    let shown = |pieces: Vec<Piece>| -> Vec<minijinja::Value> {
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

/// A histogram of `values` in `bins` equal bins over `[low, high]` as an SVG element; values outside go to the ends.
fn histogram(values: &[f64], low: f64, high: f64, bins: usize) -> Result<String> {
    let mut counts = vec![0u64; bins];
    let width = (high - low) / bins as f64;
    for v in values.iter().filter(|v| v.is_finite()) {
        let bin = ((v - low) / width).floor().clamp(0.0, (bins - 1) as f64) as usize;
        counts[bin] += 1;
    }
    let top = counts.iter().max().copied().unwrap_or(0).max(1);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (460, 180)).into_drawing_area();
        let draw = || -> std::result::Result<(), Box<dyn std::error::Error>> {
            let mut chart = ChartBuilder::on(&area)
                .margin(6)
                .x_label_area_size(22)
                .y_label_area_size(38)
                .build_cartesian_2d(low..high, 0u64..top + top.div_ceil(10))?;
            chart.configure_mesh().disable_x_mesh().light_line_style(TRANSPARENT).x_labels(9).y_labels(5).draw()?;
            chart.draw_series(counts.iter().enumerate().map(|(i, n)| {
                let x = low + i as f64 * width;
                Rectangle::new([(x, 0), (x + width * 0.92, *n)], RGBColor(60, 110, 160).filled())
            }))?;
            area.present()?;
            Ok(())
        };
        draw().map_err(|e| Error::new(Kind::Internal, format!("a chart cannot be drawn: {e}")))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::night::manifest::UsageAll;

    #[test]
    fn the_page_is_self_contained_and_escapes_data() {
        let evil = "<script>alert(1)</script>{{ 7*7 }}\u{202e}\x1b[2J".to_string();
        let sample = Sample { reason: evil.clone(), evidence: vec![evil.clone()], ..Sample::default() };
        let details = Details { accepted: vec![sample], scores: vec![0.5, 2.0, f64::NAN], ..Details::default() };
        let page = html(&Manifest { job: evil, ..Manifest::default() }, &details).unwrap();
        assert!(!page.contains("<script>alert"), "data became markup");
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains(['\u{202e}', '\x1b']), "data turns the writing around it");
        assert!(page.contains("{{ 7*7 }}"), "data became a template");
        assert!(!page.contains("http://") || page.contains("http://www.w3.org"), "the page loads something");
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
    fn thousands_are_grouped() {
        assert_eq!(thousands(1234567), "1 234 567");
        assert_eq!(thousands(-999), "-999");
    }
}
