//! The weekly run's report for a person: one self-contained HTML page of what lies in its folder.
//!
//! Knows the names of the records and curves that the stages leave, and shows those that are there: after an alignment
//! alone as well as after a whole run. Curves are lines of numbers, drawn as SVG in the page's own colours, so that they are
//! readable by day and by night. Everything from the data is escaped: a name is never markup.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use minijinja::context;
use serde_json::{Map, Value};

use crate::destination::Destination;
use crate::error::{Context, Kind, Result};
use crate::printable;
use crate::worth::whose::Whose;

/// A drawing's width and height, and the room around it: left, right, top, bottom; in pixels.
const SIZE: (f64, f64) = (460.0, 210.0);
const ROOM: (f64, f64, f64, f64) = (58.0, 12.0, 12.0, 26.0);

/// What is no measure of a step, but counts or dates it.
const NO_CURVE: [&str; 11] = [
    "step",
    "steps",
    "epoch",
    "round",
    "tokens",
    "prompt_tokens",
    "cached_tokens",
    "targets",
    "tokens_per_second",
    "seconds",
    "learning_rate",
];
/// The reward and what watches it: where they part, the reward is being played.
const WATCHED: [&str; 2] = ["gain", "second"];

/// Writes `report.html` into a weekly run's folder, whole or not at all.
///
/// # Errors
/// As [`Destination::find`] and [`Destination::write`]; `Kind::Internal` where the template is broken.
pub fn write(out: &Path) -> Result<PathBuf> {
    let path = out.join("report.html");
    Destination::find(&path)?.write(page(out)?.as_bytes())?;
    Ok(path)
}

/// The page, without any outside resource.
fn page(out: &Path) -> Result<String> {
    let mut env = printable::pages();
    env.add_template("learning", include_str!("learning.html"))
        .context(Kind::Internal, || "the page's template is broken".into())?;
    let weekly = json(&out.join("weekly.json"));
    let steps = list(&weekly["steps"]);
    let rows = steps.iter().map(|step| {
        let state = match (step["finished"].as_bool(), step["refused"].as_str()) {
            (_, Some(why)) => format!("refused: {why}"),
            (Some(true), None) => "done".to_owned(),
            _ => "not done".to_owned(),
        };
        vec![words(&step["stage"]), state, words(&step["seconds"]), words(&step["started"])]
    });
    let mut tables = Vec::new();
    tables.push(table("Stages", &["stage", "state", "seconds", "begun"], rows.collect()));
    let gate = steps.iter().find(|step| step["stage"] == "gate").map_or(Value::Null, |step| step["result"].clone());
    tables.push(conditions("Gate", list(&gate["checks"]).iter()));
    let (align, evaluated) = (json(&out.join("align.json")), json(&out.join("evaluate.json")));
    tables.push(measures(&align, &evaluated));
    tables.push(differences(&evaluated));
    tables.push(judges(&json(&out.join("reward.json"))));
    for whose in Whose::ALL {
        let worth = json(&out.join(whose.record()));
        let (gates, chosen) = (list(&worth["gates"]["gate"]).iter(), worth["chosen"].get("gate"));
        let all = gates.chain(chosen).chain(list(&worth["correction"]["gate"]));
        tables.push(conditions(&format!("What reasons of {whose} are worth"), all));
    }

    let mut figures = Vec::new();
    let aligned = lines(&out.join("align.jsonl"));
    figures.push(figure(
        "Alignment: loss (−log p of a token)",
        &[("training", "loss"), ("held out", "validation_loss")],
        &aligned,
    ));
    figures.push(figure("Alignment: norm of the gradient", &[("norm", "gradient_norm")], &aligned));
    let reward = json(&out.join("reward.json"));
    for (judge, name) in [("judge", "Reward model"), ("second", "Second judge")] {
        let (rows, folds) = by_epoch(&reward[judge]);
        let series: Vec<(&str, &str)> = folds.iter().map(|fold| (fold.as_str(), fold.as_str())).collect();
        figures.push(figure(
            &format!("{name}: loss on held-out users, a line for each fold, by epoch"),
            &series,
            &rows,
        ));
    }
    for (method, path) in reinforced(out) {
        let all = lines(&path);
        for (kind, of) in [("round", "answers that were learned from"), ("check", "held-out questions")] {
            let rows: Vec<Value> =
                all.iter().filter(|row| row["kind"].as_str().unwrap_or("round") == kind).cloned().collect();
            let title = |what: &str| format!("Reinforcement ({method}), {of}: {what}");
            let watched = [("judge", WATCHED[0]), ("second judge", WATCHED[1])];
            figures.push(figure(&title("gain, nats"), &watched, &rows));
            for key in curves(&rows).into_iter().filter(|key| !WATCHED.contains(&key.as_str())) {
                figures.push(figure(&title(&key.replace('_', " ")), &[(key.as_str(), key.as_str())], &rows));
            }
        }
    }
    let (tables, figures): (Vec<_>, Vec<_>) =
        (tables.into_iter().flatten().collect(), figures.into_iter().flatten().collect());
    let name = weekly["name"].as_str().unwrap_or("alignment");
    let interval = list(&weekly["interval"]).iter().map(words).collect::<Vec<_>>().join(" to before ");
    env.get_template("learning")
        .and_then(|t| {
            t.render(context! { name, interval, in_use => words(&weekly["in_use"]["version"]), tables, figures })
        })
        .context(Kind::Internal, || "the page cannot be rendered".into())
}

/// A JSON file; null where there is none, or what is there is none.
fn json(path: &Path) -> Value {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The objects of a file with one a line; those that are none are left out, as a last line may be half written.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value as a person reads it; nothing for null.
fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => short(n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}

/// A number with four significant digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if (0.001..100_000.0).contains(&v) => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.2e}"),
    }
}

/// A table, where it has rows.
fn table(caption: &str, header: &[&str], rows: Vec<Vec<String>>) -> Option<minijinja::Value> {
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    (!rows.is_empty()).then(|| context! { caption, header, rows })
}

/// Conditions with what was found, where there are any.
fn conditions<'a>(caption: &str, checks: impl Iterator<Item = &'a Value>) -> Option<minijinja::Value> {
    let row = |check: &Value| {
        let holds = if check["holds"] == true { "holds" } else { "does not hold" };
        vec![words(&check["what"]), words(&check["value"]), holds.to_owned()]
    };
    table(caption, &["condition", "found", ""], checks.map(row).collect())
}

/// What answers to held-out questions are worth, column by column for those that were asked.
fn measures(align: &Value, evaluated: &Value) -> Option<minijinja::Value> {
    let columns: Vec<(&str, &Map<String, Value>)> = [
        ("as it comes", &align["before"]),
        ("aligned", &align["after"]),
        ("in use", &evaluated["in_use"]),
        ("candidate", &evaluated["candidate"]),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.as_object()?)))
    .collect();
    let names = ["questions", "format", "grounded", "verdicts", "right", "bleu4", "distinct2"];
    let row = |name: &str| {
        let cells = columns.iter().map(|(_, of)| of.get(name).map(words).unwrap_or_default());
        [name.to_owned()].into_iter().chain(cells).collect()
    };
    let header: Vec<&str> = ["measure"].into_iter().chain(columns.iter().map(|(name, _)| *name)).collect();
    let rows = if columns.is_empty() { Vec::new() } else { names.iter().map(|name| row(name)).collect() };
    table("Answers to held-out questions", &header, rows)
}

/// A mean with its interval.
fn estimate(of: &Value) -> Option<String> {
    let [mean, low, high] = ["mean", "low", "high"].map(|key| of[key].as_f64());
    Some(format!("{} [{}, {}]", short(mean?), short(low?), short(high?)))
}

/// The candidate beside the version in use.
fn differences(evaluated: &Value) -> Option<minijinja::Value> {
    let judged = &evaluated["judged"];
    let mut rows: Vec<Vec<String>> = [
        ("gain of the candidate's reasons, nats", "candidate"),
        ("gain of the reasons in use, nats", "in_use"),
        ("difference", "difference"),
    ]
    .into_iter()
    .filter_map(|(name, key)| Some(vec![name.to_owned(), estimate(&judged[key])?]))
    .collect();
    for found in list(&evaluated["ndcg"]) {
        let name = format!("NDCG@10 less that in use, {}, {}", words(&found["data"]), words(&found["target"]));
        rows.extend(estimate(&found["difference"]).map(|text| vec![name, text]));
    }
    table("Candidate and version in use", &["", "mean and 95 % interval"], rows)
}

/// What is known of the reward models, their gates among it.
fn judges(reward: &Value) -> Option<minijinja::Value> {
    let mut found = Vec::new();
    gather(reward, "", &mut found);
    table("Reward model", &["", "found"], found.into_iter().map(|(name, text)| vec![name, text]).collect())
}

/// The validation losses of a judge's folds: a row for each epoch, and the folds' keys in it.
fn by_epoch(judge: &Value) -> (Vec<Value>, Vec<String>) {
    let folds = list(&judge["folds"]);
    let keys: Vec<String> = (1..=folds.len()).map(|fold| format!("fold {fold}")).collect();
    let epochs = folds.iter().map(|fold| list(&fold["epochs"]).len()).max().unwrap_or(0);
    let row = |epoch: usize| {
        let of = |fold: &Value| list(&fold["epochs"]).get(epoch).map_or(Value::Null, |e| e["validation"].clone());
        let mut row: Map<String, Value> = keys.iter().cloned().zip(folds.iter().map(of)).collect();
        row.insert("step".to_owned(), (epoch + 1).into());
        Value::Object(row)
    };
    ((0..epochs).map(row).collect(), keys)
}

/// Numbers and estimates of a record by their path in it; what counts or dates it is left out.
fn gather(value: &Value, path: &str, into: &mut Vec<(String, String)>) {
    let Some(object) = value.as_object() else { return };
    for (key, inner) in object.iter().filter(|(key, _)| !NO_CURVE.contains(&key.as_str())) {
        let path = if path.is_empty() { key.replace('_', " ") } else { format!("{path}: {}", key.replace('_', " ")) };
        match (estimate(inner), inner) {
            (Some(text), _) => into.push((path, text)),
            (None, Value::Object(_)) => gather(inner, &path, into),
            (None, Value::Number(_) | Value::Bool(_)) => into.push((path, words(inner))),
            _ => {}
        }
    }
}

/// The curves of reinforcement that lie in the folder, by method.
fn reinforced(out: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let method = |path: &PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        name.strip_prefix("reinforce-")?.strip_suffix(".jsonl").map(str::to_owned)
    };
    let mut found: Vec<_> = entries.map(|e| e.path()).filter_map(|path| Some((method(&path)?, path))).collect();
    found.sort();
    found
}

/// The keys of a curve's numbers, in the order in which they come.
fn curves(rows: &[Value]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (key, value) in rows.iter().filter_map(Value::as_object).flatten() {
        if value.is_number() && !NO_CURVE.contains(&key.as_str()) && !found.contains(key) {
            found.push(key.clone());
        }
    }
    found
}

/// A drawing of some of the rows' numbers over their step; none where there is nothing to draw.
fn figure(caption: &str, series: &[(&str, &str)], rows: &[Value]) -> Option<minijinja::Value> {
    let of = |key: &str| -> Vec<(f64, f64)> {
        let step = |row: &Value, i: usize| row["step"].as_f64().or(row["round"].as_f64()).unwrap_or(i as f64);
        let points = rows.iter().enumerate().filter_map(|(i, row)| Some((step(row, i), row[key].as_f64()?)));
        points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let drawn: Vec<(&str, Vec<(f64, f64)>)> =
        series.iter().map(|(name, key)| (*name, of(key))).filter(|(_, points)| !points.is_empty()).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points.iter());
    all().next()?;
    let (x, y) = (Axis::of(all().map(|p| p.0)), Axis::of(all().map(|p| p.1)));
    let (left, right, top, bottom) = ROOM;
    let across = |v: f64| left + x.at(v) * (SIZE.0 - left - right);
    let up = |v: f64| SIZE.1 - bottom - y.at(v) * (SIZE.1 - top - bottom);
    let pixel = |v: f64| format!("{v:.1}");
    let lines: Vec<_> = drawn
        .iter()
        .map(|(name, points)| {
            let mut path = String::new();
            for (x, y) in points {
                // Writing to a String cannot fail.
                let _ = write!(path, "{:.1},{:.1} ", across(*x), up(*y));
            }
            let last = points.last().copied().unwrap_or_default();
            context! { name => *name, points => path.trim_end(), x => pixel(across(last.0)), y => pixel(up(last.1)) }
        })
        .collect();
    let told: Vec<String> = drawn
        .iter()
        .filter_map(|(name, points)| {
            let (first, last) = (points.first()?, points.last()?);
            Some(format!("{name} from {} to {}", short(first.1), short(last.1)))
        })
        .collect();
    let ticks = |axis: &Axis, at: &dyn Fn(f64) -> f64| -> Vec<minijinja::Value> {
        axis.ticks().into_iter().map(|v| context! { at => pixel(at(v)), text => short(v) }).collect()
    };
    let label = format!("{caption}: {}", told.join("; "));
    Some(context! {
        caption, label, lines, width => SIZE.0, height => SIZE.1, left, right => SIZE.0 - right, top, bottom => SIZE.1 - bottom,
        across => ticks(&x, &across), up => ticks(&y, &up),
    })
}

/// The range of an axis, between round numbers.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        // Where everything stands at one value there still is an axis.
        let width = if high > low { high - low } else { low.abs().max(1.0) };
        let rough = width / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * unit).find(|step| *step >= rough).unwrap_or(rough);
        let high = if high > low { high } else { low + step };
        Axis { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// From 0 at the lower end to 1 at the upper.
    fn at(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> Vec<f64> {
        let n = ((self.high - self.low) / self.step).round().clamp(1.0, 12.0) as usize;
        // Adding zero makes one zero of two; counting from the end keeps sums of rounding away.
        (0..=n).map(|i| ((self.low / self.step).round() + i as f64) * self.step + 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn put(out: &Path, name: &str, value: &Value) {
        std::fs::write(out.join(name), value.to_string()).unwrap();
    }

    fn aligned(out: &Path) {
        let rows: Vec<String> = (0..4)
            .map(|step| json!({"step": step, "loss": 3.0 - f64::from(step), "learning_rate": 0.1, "gradient_norm": 1.5, "validation_loss": null}))
            .map(|row| row.to_string())
            .collect();
        // A last line that was being written when the process died.
        std::fs::write(out.join("align.jsonl"), rows.join("\n") + "\n{\"step\": 4, \"lo").unwrap();
        let (before, after) = (json!({"format": 0.25, "questions": 4}), json!({"format": 1.0, "questions": 4}));
        put(out, "align.json", &json!({"before": before, "after": after}));
    }

    #[test]
    fn an_alignment_alone_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!page(dir.path()).unwrap().contains("<svg"), "nothing is a page");
        aligned(dir.path());
        let path = write(dir.path()).unwrap();
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(page, super::page(dir.path()).unwrap());
        assert_eq!(page.matches("<svg").count(), 2, "loss and gradient, no curve of what has no number");
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("training from 3 to 0"), "{page}");
        assert!(page.contains("<td>format</td><td>0.25</td><td>1</td>"), "{page}");
        assert!(page.contains("prefers-color-scheme"));
        let outside = ["<script", "<link", "<img", "src=", "href=", "@import", "url("];
        assert!(outside.iter().all(|o| !page.contains(o)), "the page loads something");
    }

    #[test]
    fn a_whole_run_shows_its_stages_its_gate_and_its_curves() {
        let dir = tempfile::tempdir().unwrap();
        aligned(dir.path());
        let checks = json!([{"what": "format >= 0.98", "value": 0.5, "holds": false}]);
        let steps = json!([
            {"stage": "align", "finished": true, "refused": null, "seconds": 1.5, "started": "2026-01-01T00:00:00Z"},
            {"stage": "gate", "finished": true, "refused": "it is worse", "result": {"checks": checks}},
        ]);
        put(dir.path(), "weekly.json", &json!({"name": "w", "interval": ["2026-01-01", "2026-01-08"], "steps": steps}));
        let interval = json!({"mean": 0.02, "low": -0.01, "high": 0.05});
        let ndcg = json!([{"data": "ml", "target": "last", "difference": interval}]);
        let judged = json!({"candidate": interval, "in_use": interval, "difference": interval});
        put(
            dir.path(),
            "evaluate.json",
            &json!({"candidate": {"format": 0.5}, "in_use": {"format": 0.4}, "judged": judged, "ndcg": ndcg}),
        );
        put(dir.path(), "reward.json", &json!({"gates": {"gain": interval, "auc": 0.75}, "seconds": 3}));
        let check = |what: &str| json!({"what": what, "value": 0.25, "holds": true});
        let [gate, chosen, correction] =
            [json!([check("halves")]), check("choice"), json!([check("deals")])].map(|gate| json!({"gate": gate}));
        put(dir.path(), "worth.json", &json!({"gates": gate, "chosen": chosen, "correction": correction}));
        let of_users =
            json!({"gates": {"gate": [check("halves of items")]}, "chosen": {"gate": check("their choice")}});
        put(dir.path(), "history_worth.json", &of_users);
        let rows = [
            json!({"kind": "check", "round": 0, "kl": 0.25}),
            json!({"round": 1, "reward": 0.1, "kl": 0.0, "gain": 0.1}),
            json!({"round": 2, "reward": 0.3, "kl": 0.5, "gain": 0.2, "second": 0.1}),
        ];
        std::fs::write(dir.path().join("reinforce-grpo.jsonl"), rows.map(|r| r.to_string()).join("\n")).unwrap();
        let page = page(dir.path()).unwrap();
        for says in [
            "refused: it is worse",
            "format &gt;= 0.98",
            "does not hold",
            "0.02 [-0.01, 0.05]",
            "NDCG@10 less that in use, ml, last",
            "<td>gates: auc</td><td>0.75</td>",
            "<td>halves</td><td>0.25</td><td>holds</td>",
            "<td>choice</td><td>0.25</td><td>holds</td>",
            "<td>deals</td><td>0.25</td><td>holds</td>",
            "What reasons of items are worth",
            "What reasons of histories are worth",
            "<td>halves of items</td><td>0.25</td><td>holds</td>",
            "<td>their choice</td><td>0.25</td><td>holds</td>",
            "Reinforcement (grpo), answers that were learned from: kl",
            "reward from 0.1 to 0.3",
        ] {
            assert!(page.contains(says), "{says}: {page}");
        }
        assert!(page.contains("judge from 0.1 to 0.2; second judge from 0.1 to 0.1"), "{page}");
        assert_eq!(
            page.matches("<svg").count(),
            6,
            "two of the alignment, the watched pair, reward and kl, held-out kl"
        );
        assert!(!page.contains("seconds</td>"), "what took how long is no gate");
    }

    #[test]
    fn data_is_never_markup() {
        let dir = tempfile::tempdir().unwrap();
        let evil = "<script>alert(1)</script>\"'{{ 7*7 }}";
        let steps = json!([{"stage": evil, "finished": true, "refused": evil}, {"stage": "gate", "result": {"checks": [{"what": evil, "value": evil}]}}]);
        put(dir.path(), "weekly.json", &json!({"name": evil, "interval": [evil, evil], "steps": steps}));
        std::fs::write(dir.path().join("reinforce-x.jsonl"), json!({"step": 1, evil: 0.5}).to_string()).unwrap();
        put(dir.path(), "reward.json", &json!({evil: 1}));
        put(dir.path(), "align.json", &json!({"before": {"format": evil}}));
        let page = page(dir.path()).unwrap();
        assert!(!page.contains("<script"), "data became markup");
        assert!(page.contains("{{ 7*7 }}"), "data became a template");
        let label = page.split_once("aria-label=\"").unwrap().1.split('"').next().unwrap();
        assert!(label.contains("&lt;script&gt;"), "a quote ended the label: {label}");
    }

    #[test]
    fn axes_end_at_round_numbers_around_all_values() {
        for values in [vec![0.1, 0.93], vec![-3.0, 250.0], vec![5.0], vec![0.0], vec![-1e-9, 1e-9], vec![1e12, 1e12]] {
            let axis = Axis::of(values.iter().copied());
            assert!(axis.low < axis.high, "{values:?}");
            assert!(values.iter().all(|v| (-1e-9..=1.0 + 1e-9).contains(&axis.at(*v))), "{values:?}");
            let ticks = axis.ticks();
            assert!(ticks.len() >= 2 && ticks.len() <= 13, "{ticks:?}");
            assert!(ticks.iter().all(|t| (-1e-6..=1.0 + 1e-6).contains(&axis.at(*t))), "{ticks:?}");
        }
        assert_eq!(Axis::of([0.1, 0.93].into_iter()).ticks().len(), 6, "a fifth each, from 0 to 1");
    }
}
