//! What a person sees at the end of a command, in the place of its line of JSON.
//!
//! Knows manifests, records and cards, and how words and numbers stand in columns. Knows nothing of how they came about.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr;

use crate::night::manifest::{Manifest, TableRecord};
use crate::operate::export::{Exported, Joined, RECORD};
use crate::printable::{self, Tone, Toned};
use crate::registry::card::{Card, Check};
use crate::registry::promotions::{Action, Promotion, Promotions};
use crate::telemetry::{counted, lasting};

/// Values of a list that are shown; a longer list is for its file.
const LONGEST_LIST: usize = 8;

/// A run that ended well: tables, reasons, prompts, tokens, time, and where the report is. `notes` are lines on what asks for
/// attention.
pub(super) fn of_run(manifest: &Manifest, report: Option<&str>, notes: &str) -> Vec<Toned> {
    let mut page = Page::default();
    let (start, end) = (day(&manifest.interval_start), day(&manifest.interval_end));
    page.line(
        Tone::Plain,
        &format!("{} published for {start} to {end} in {}", manifest.job, lasting(manifest.seconds)),
    );
    page.end();
    let row = |of: &TableRecord| vec![of.table.clone(), counted(of.rows), of.action.clone()];
    page.columns(&["table", "rows", ""], &[1], &manifest.tables.iter().map(row).collect::<Vec<_>>());
    let reasons = &manifest.reasons;
    if reasons.total() > 0 {
        page.end();
        let row = |(kind, asked): (&String, &u64)| {
            let accepted = reasons.accepted.get(kind).copied().unwrap_or_default();
            let share = format!("{:.1} %", 100.0 * accepted as f64 / (*asked).max(1) as f64);
            vec![kind.clone(), counted(*asked), counted(accepted), counted(asked.saturating_sub(accepted)), share]
        };
        let rows: Vec<_> = reasons.by_kind.iter().map(row).collect();
        page.columns(&["reasons", "asked", "accepted", "refused", "share"], &[1, 2, 3, 4], &rows);
    }
    page.end();
    page.facts(&facts(manifest, report));
    if !notes.is_empty() {
        page.end();
        notes.lines().for_each(|note| page.line(Tone::Plain, note));
    }
    page.0
}

/// A moment of RFC 3339 in UTC, as its day where it is a midnight.
fn day(moment: &str) -> &str {
    moment.strip_suffix("T00:00:00+00:00").unwrap_or(moment)
}

/// What a run has taken, by name.
fn facts(manifest: &Manifest, report: Option<&str>) -> Vec<(String, String)> {
    let (usage, mut facts) = (&manifest.usage, Vec::new());
    let mut fact = |name: &str, told: String| facts.push((name.to_owned(), told));
    let by = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(name, n)| format!("{name} {}", counted(*n))).collect::<Vec<_>>().join(", ")
    };
    if !manifest.reasons.refused.is_empty() {
        fact("refused", by(&manifest.reasons.refused));
    }
    if let Some(corrections) = manifest.corrections.as_ref().filter(|corrections| !corrections.by_fate.is_empty()) {
        fact("corrected", by(&corrections.by_fate));
    }
    if usage.distinct_prompts > 0 {
        let again = match usage.asked_again {
            0 => String::new(),
            n => format!(" ({} of them refused and asked for again)", counted(n)),
        };
        let (all, before) = (counted(usage.distinct_prompts), counted(usage.answered_before));
        let paid = counted(usage.generated);
        fact("prompts", format!("{all} different: {paid} answers paid{again}, {before} from cache"));
    }
    if usage.generated > 0 {
        let (read, shared) = (counted(usage.prompt_tokens), counted(usage.cached_tokens));
        let rate = usage.completion_tokens as f64 / usage.seconds.max(1e-9);
        let written = counted(usage.completion_tokens);
        fact("tokens", format!("{read} read ({shared} of them shared), {written} written at {rate:.1}/s"));
    }
    for (input, of) in manifest.inputs.iter().filter(|(_, input)| input.left_out > 0) {
        let share = 100.0 * of.bad_fraction();
        fact("left out", format!("{} rows of {input} ({share:.2} %): {}", counted(of.left_out), by(&of.bad_rows)));
    }
    fact("time", lasting(manifest.seconds));
    if let Some(report) = report {
        fact("report", report.to_owned());
    }
    facts
}

/// The record of what was learned: its values by their names, those of sections one level deep, and where its page is. The rest
/// is for the record's file.
pub(super) fn of_record(record: &Value, page: Option<&Path>) -> Vec<Toned> {
    let mut facts = record.as_object().map(values).unwrap_or_default();
    facts.extend(page.map(|page| ("page".to_owned(), page.display().to_string())));
    let mut shown = Page::default();
    shown.facts(&facts);
    shown.0
}

/// The values of a record by their names, those of sections one level deep.
fn values(record: &Map<String, Value>) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    for (name, value) in record {
        let name = name.replace('_', " ");
        if let Value::Object(section) = value {
            let told = section.iter().filter_map(|(key, value)| Some((key.replace('_', " "), plain(value)?)));
            facts.extend(told.map(|(key, told)| (format!("{name}, {key}"), told)));
        } else if let Some(told) = plain(value) {
            facts.push((name, told));
        }
    }
    facts
}

/// An export: what was joined to its events, how much it is, and where its record lies in the folder `out`.
pub(super) fn of_export(done: &Exported, out: &str) -> Vec<Toned> {
    let mut page = Page::default();
    page.line(Tone::Plain, &format!("{} exported to {out}", done.job));
    page.end();
    let row = |(table, joined): (&String, &Joined)| {
        let with = done.rows.saturating_sub(joined.without);
        let share = format!("{:.1} %", 100.0 * with as f64 / done.rows.max(1) as f64);
        vec![table.clone(), counted(joined.partitions.len() as u64), counted(with), counted(joined.without), share]
    };
    let rows: Vec<_> = done.features.iter().map(row).collect();
    page.columns(&["features", "days", "joined", "without", "share"], &[1, 2, 3, 4], &rows);
    page.end();
    let events = match (done.from.as_deref().map(day), done.to.as_deref().map(day)) {
        (None, None) => "all of the log".to_owned(),
        (Some(from), None) => format!("from {from} on"),
        (None, Some(to)) => format!("before {to}"),
        (Some(from), Some(to)) => format!("from {from} to before {to}"),
    };
    let bytes = done.files.iter().map(|file| file.bytes).sum::<u64>() as f64;
    let size = if bytes < 1e6 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) };
    let facts = [
        ("events", events),
        ("rows", format!("{} in {} file(s), {size}", counted(done.rows), counted(done.files.len() as u64))),
        ("record", format!("{}/{RECORD}", out.trim_end_matches('/'))),
    ];
    page.facts(&facts.map(|(name, told)| (name.to_owned(), told)));
    let later = done.features.iter().filter(|(_, joined)| !joined.learned_later.is_empty());
    for (i, (table, joined)) in later.enumerate() {
        if i == 0 {
            page.end();
        }
        let days = counted(joined.learned_later.len() as u64);
        page.line(
            Tone::Plain,
            &format!(
                "{days} day(s) of {table} are of models that learned from later events: measure nothing by this export"
            ),
        );
    }
    page.0
}

/// A version of a registry: where it comes from, its gate, and what was done with its name.
pub(super) fn of_version(card: &Card, promotions: &Promotions) -> Vec<Toned> {
    let (trained, mut facts) = (&card.trained, Vec::new());
    let mut fact = |name: &str, told: String| facts.push((name.to_owned(), told));
    fact("version", format!("{} {}", card.name, card.version));
    fact(
        "in use",
        match promotions.current() {
            None => "no".to_owned(),
            Some(version) if version == card.version => "yes".to_owned(),
            Some(version) => format!("no, {version} is"),
        },
    );
    fact("added", minute(&card.created));
    let digests = [
        ("base model", Some(&card.base_model)),
        ("adapter", Some(&card.adapter)),
        ("projection", card.projection.as_ref()),
        ("encoder", card.encoder.as_ref()),
    ];
    for (name, digest) in digests {
        if let Some(digest) = digest.filter(|digest| !digest.is_empty()) {
            fact(name, digest.clone());
        }
    }
    if let Some([start, end]) = &trained.interval {
        fact("data", format!("from {start} to before {end}"));
    }
    if !trained.seeds.is_empty() {
        fact("seeds", trained.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    }
    if trained.gate.is_empty() {
        fact("gate", "not asked".to_owned());
    }
    facts.extend(values(&trained.metrics));
    let mut page = Page::default();
    page.facts(&facts);
    if !trained.gate.is_empty() {
        page.end();
        let row = |check: &Check| vec![check.told(), if check.holds { "holds" } else { "does not hold" }.to_owned()];
        page.columns(&["gate", ""], &[], &trained.gate.iter().map(row).collect::<Vec<_>>());
    }
    if !promotions.history.is_empty() {
        page.end();
        let row = |of: &Promotion| {
            let done = match (of.action, of.forced) {
                (Action::Promote, false) => "promoted",
                (Action::Promote, true) => "promoted whatever the gate says",
                (Action::Rollback, _) => "promoted again",
            };
            vec![minute(&of.at), of.version.clone(), done.to_owned(), of.why.clone()]
        };
        page.columns(&["history", "", "", ""], &[], &promotions.history.iter().map(row).collect::<Vec<_>>());
    }
    page.0
}

/// A moment to the minute.
fn minute(moment: &DateTime<Utc>) -> String {
    moment.format("%Y-%m-%dT%H:%MZ").to_string()
}

/// A value in one line; `None` for one that takes more, and for none at all.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::Bool(is_so) => Some(if *is_so { "yes" } else { "no" }.to_owned()),
        Value::Number(n) => Some(match (n.as_u64(), n.as_f64()) {
            (Some(whole), _) => counted(whole),
            (None, Some(part)) if n.is_f64() => format!("{part:.4}"),
            _ => n.to_string(),
        }),
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Array(list) if list.is_empty() || list.len() > LONGEST_LIST => None,
        Value::Array(list) => list.iter().map(plain).collect::<Option<Vec<_>>>().map(|list| list.join(", ")),
    }
}

/// Lines for a screen.
#[derive(Default)]
struct Page(Vec<Toned>);

impl Page {
    fn piece(&mut self, tone: Tone, text: impl Into<String>) {
        self.0.push(Toned { tone, text: text.into() });
    }

    fn end(&mut self) {
        self.piece(Tone::Plain, "\n");
    }

    /// One line, whatever the text holds.
    fn line(&mut self, tone: Tone, text: &str) {
        self.piece(tone, printable::line(text));
        self.end();
    }

    /// Rows under their heads; columns of numbers end at the same place.
    fn columns(&mut self, heads: &[&str], numbers: &[usize], rows: &[Vec<String>]) {
        let fit = |row: &Vec<String>| row.iter().map(|cell| printable::line(cell).into_owned()).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = rows.iter().map(fit).collect();
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        let widest = |i: usize| {
            let cells = rows.iter().chain([&heads]).filter_map(|row| row.get(i));
            cells.map(|cell| cell.width()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..heads.len()).map(widest).collect();
        let padded = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
                let blanks = " ".repeat(width.saturating_sub(cell.width()));
                if numbers.contains(&i) { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(Tone::Heading, &padded(&heads));
        rows.iter().for_each(|row| self.line(Tone::Plain, &padded(row)));
    }

    /// Names with what is told of them.
    fn facts(&mut self, facts: &[(String, String)]) {
        let fit = |text: &String| printable::line(text).into_owned();
        let width = facts.iter().map(|(name, _)| fit(name).width()).max().unwrap_or_default();
        for (name, told) in facts {
            let name = fit(name);
            let blanks = " ".repeat(width - name.width().min(width) + 2);
            self.piece(Tone::Quiet, name + &blanks);
            self.line(Tone::Plain, told);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::night::manifest::InputRecord;
    use crate::registry::card::Trained;
    use crate::table::partition::CommittedFile;

    fn table(name: &str, rows: u64, action: &str) -> TableRecord {
        TableRecord { table: name.into(), rows, action: action.into(), ..TableRecord::default() }
    }

    #[test]
    fn a_run_is_tables_reasons_and_what_it_took() {
        let mut m = Manifest { job: "nightly".into(), seconds: 90.0, ..Manifest::default() };
        (m.interval_start, m.interval_end) = ("2026-01-20T00:00:00+00:00".into(), "2026-01-21T12:00:00+00:00".into());
        m.tables = vec![table("user_history", 1204, "built"), table("千\x1b[2J", 7, "kept")];
        m.reasons.by_kind = BTreeMap::from([("item".into(), 4), ("history".into(), 1000)]);
        m.reasons.accepted = BTreeMap::from([("history".into(), 998)]);
        m.reasons.refused = BTreeMap::from([("bad_format".into(), 5), ("general".into(), 1)]);
        (m.usage.distinct_prompts, m.usage.answered_before, m.usage.generated) = (1003, 3, 1000);
        (m.usage.prompt_tokens, m.usage.cached_tokens, m.usage.completion_tokens) = (5000, 4000, 3000);
        m.usage.seconds = 30.0;
        let input = InputRecord { rows: 1000, left_out: 2, ..InputRecord::default() };
        m.inputs = BTreeMap::from([("item".into(), InputRecord { bad_rows: [("unique".into(), 2)].into(), ..input })]);
        let shown = printable::toned(&of_run(&m, Some("w/report.html"), "2 prompt(s) failed"), false);
        let expected = "nightly published for 2026-01-20 to 2026-01-21T12:00:00+00:00 in 1 min 30 s\n\n\
                        table          rows\n\
                        user_history  1,204  built\n\
                        千\\u{1b}[2J       7  kept\n\n\
                        reasons  asked  accepted  refused   share\n\
                        history  1,000       998        2  99.8 %\n\
                        item         4         0        4   0.0 %\n\n\
                        refused   bad_format 5, general 1\n\
                        prompts   1,003 different: 1,000 answers paid, 3 from cache\n\
                        tokens    5,000 read (4,000 of them shared), 3,000 written at 100.0/s\n\
                        left out  2 rows of item (0.20 %): unique 2\n\
                        time      1 min 30 s\n\
                        report    w/report.html\n\n\
                        2 prompt(s) failed\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_record_is_its_values() {
        let record = json!({
            "status": "aligned", "name": "w", "steps": 1200, "loss_before": null, "samples": [{ "a": 1 }],
            "after": { "loss": 0.25, "passed": true, "by_task": { "a": 1 } }, "judges": ["a", "b\nc"],
        });
        let shown = printable::toned(&of_record(&record, Some(Path::new("out/report.html"))), false);
        let expected = "status         aligned\nname           w\nsteps          1,200\nafter, loss    0.2500\n\
                        after, passed  yes\njudges         a, b\\u{a}c\npage           out/report.html\n";
        assert_eq!(shown, expected);
    }

    fn exported() -> Exported {
        let file = |bytes| CommittedFile { name: "part-0-ab.parquet".into(), rows: 600, bytes, blake3: String::new() };
        let joined = |days: u32, without| Joined {
            partitions: (0..days).map(|day| (format!("2026-01-{:02}", day + 1), String::new())).collect(),
            without,
            learned_later: BTreeMap::new(),
        };
        Exported {
            format: 1,
            curec: "0".into(),
            job: "nightly".into(),
            from: None,
            to: None,
            rows: 1200,
            files: vec![file(1_500_000), file(700_000)],
            interaction: String::new(),
            features: [("item_feature".into(), joined(3, 12)), ("user_feature".into(), joined(11, 1200))].into(),
        }
    }

    #[test]
    fn an_export_is_what_was_joined_and_where_it_is() {
        let shown = printable::toned(&of_export(&exported(), "training/"), false);
        let expected = "nightly exported to training/\n\n\
                        features      days  joined  without   share\n\
                        item_feature     3   1,188       12  99.0 %\n\
                        user_feature    11       0    1,200   0.0 %\n\n\
                        events  all of the log\n\
                        rows    1,200 in 2 file(s), 2.2 MB\n\
                        record  training/_export.json\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_export_tells_its_range_and_what_knows_later_events() {
        let mut done = exported();
        (done.from, done.to) = (Some("2026-01-02T00:00:00+00:00".into()), Some("2026-01-03T12:00:00+00:00".into()));
        (done.rows, done.files) = (0, Vec::new());
        let learned_later = BTreeMap::from([("2026-01-01".to_owned(), "2026-02-01T00:00:00+00:00".to_owned())]);
        let joined = Joined { learned_later, ..Joined::default() };
        done.features = BTreeMap::from([("item_feature".to_owned(), joined)]);
        let shown = printable::toned(&of_export(&done, "s3://lake/t\x1b[2J"), false);
        let expected = "nightly exported to s3://lake/t\\u{1b}[2J\n\n\
                        features      days  joined  without  share\n\
                        item_feature     0       0        0  0.0 %\n\n\
                        events  from 2026-01-02 to before 2026-01-03T12:00:00+00:00\n\
                        rows    0 in 0 file(s), 0.0 kB\n\
                        record  s3://lake/t\\u{1b}[2J/_export.json\n\n\
                        1 day(s) of item_feature are of models that learned from later events: measure nothing by this export\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_version_is_where_it_comes_from_its_gate_and_its_history() {
        let check = |what: &str, value, holds| Check { what: what.into(), value, holds };
        let metrics = json!({ "bleu4": 12.5, "by_task": { "pair": 3 } });
        let trained = Trained {
            interval: Some(["2026-01-01".into(), "2026-01-20".into()]),
            metrics: metrics.as_object().cloned().unwrap_or_default(),
            seeds: vec![7, 8],
            gate: vec![check("format >= 0.98", 0.5, false), check("cases >= 100", 120.0, true)],
            samples: Vec::new(),
        };
        let card = Card {
            name: "writer".into(),
            version: "0002-cd".into(),
            created: DateTime::UNIX_EPOCH,
            base_model: "b".into(),
            adapter: "a".into(),
            encoder: None,
            projection: None,
            trained,
            files: BTreeMap::new(),
        };
        let promotion = |action, version: &str, why: &str, forced| Promotion {
            at: DateTime::UNIX_EPOCH,
            action,
            version: version.into(),
            why: why.into(),
            forced,
        };
        let history = vec![
            promotion(Action::Promote, "0001-ab", "the first", false),
            promotion(Action::Promote, "0002-cd", "\u{1b}[2J", true),
            promotion(Action::Rollback, "0001-ab", "", false),
        ];
        let shown = printable::toned(&of_version(&card, &Promotions { history }), false);
        let expected = "version        writer 0002-cd\n\
                        in use         no, 0001-ab is\n\
                        added          1970-01-01T00:00Z\n\
                        base model     b\n\
                        adapter        a\n\
                        data           from 2026-01-01 to before 2026-01-20\n\
                        seeds          7, 8\n\
                        bleu4          12.5000\n\
                        by task, pair  3\n\n\
                        gate\n\
                        format >= 0.98 (found 0.5000)  does not hold\n\
                        cases >= 100 (found 120)       holds\n\n\
                        history\n\
                        1970-01-01T00:00Z  0001-ab  promoted                         the first\n\
                        1970-01-01T00:00Z  0002-cd  promoted whatever the gate says  \\u{1b}[2J\n\
                        1970-01-01T00:00Z  0001-ab  promoted again\n";
        assert_eq!(shown, expected);
        let unused = Card { trained: Trained::default(), projection: Some("p".into()), adapter: String::new(), ..card };
        let shown = printable::toned(&of_version(&unused, &Promotions::default()), false);
        let expected = "version     writer 0002-cd\nin use      no\nadded       1970-01-01T00:00Z\nbase model  b\n\
                        projection  p\ngate        not asked\n";
        assert_eq!(shown, expected);
    }
}
