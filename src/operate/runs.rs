//! The runs of a warehouse by their manifests: list, show, compare.
//!
//! Reads `_runs/` and changes nothing. A manifest that cannot be read is one line of the list, never its end. Knows
//! nothing of how a run works.

use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::config::Job;
use crate::error::{Context, Error, Kind, Result};
use crate::night::manifest::{Manifest, Usage, UsageAll};
use crate::night::tables::locate;
use crate::printable::{line, terminal};
use crate::table::store::Location;

/// Manifests read at once.
const AT_ONCE: usize = 16;
/// Longest text of a cell, in characters.
const CELL: usize = 80;
/// What tells two runs apart and says nothing about what they did.
const NO_DIFFERENCE: [&str; 5] = ["format", "run_id", "started_at", "finished_at", "pid"];

/// A run as its folder tells it.
#[derive(Debug)]
pub enum Found {
    /// With a manifest.
    Run(Box<Manifest>),
    /// With a manifest that cannot be read.
    Damaged {
        /// The folder's name.
        run_id: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Where the runs of a job's warehouse are.
///
/// # Errors
/// [`Kind::Config`] where the warehouse is no location.
pub fn root(job: &Job) -> Result<Location> {
    Ok(locate(job, &job.spec.warehouse)?.child("_runs"))
}

/// Run ids and their manifests, the newest first: by the time in the id, or of the file where the id has none.
async fn folders(runs: &Location) -> Result<Vec<(String, Location)>> {
    let mut found = Vec::new();
    for entry in runs.list().await? {
        let relative = entry.location.relative_to(runs).unwrap_or_default();
        let Some((id, Manifest::NAME)) = relative.split_once('/') else { continue };
        let written = || entry.last_modified.format("%Y%m%dT%H%M%S%3fZ").to_string();
        found.push((stamp(id).map_or_else(written, str::to_owned), id.to_owned(), entry.location));
    }
    found.sort_by(|a, b| (&b.0, &b.1).cmp(&(&a.0, &a.1)));
    Ok(found.into_iter().map(|(_, id, at)| (id, at)).collect())
}

/// The time in `<job>-<time>-<process>`.
fn stamp(id: &str) -> Option<&str> {
    let stamp = id.rsplit('-').nth(1)?;
    let fits = |(i, b): (usize, u8)| match i {
        8 => b == b'T',
        18 => b == b'Z',
        _ => b.is_ascii_digit(),
    };
    (stamp.len() == 19 && stamp.bytes().enumerate().all(fits)).then_some(stamp)
}

async fn read(id: &str, at: &Location) -> Result<Manifest> {
    let place = |e: Error| e.with("file", at);
    let gone = || place(Error::new(Kind::Input, "the manifest is gone"));
    let manifest = Manifest::parse(&at.get().await?.ok_or_else(gone)?).map_err(place)?;
    match manifest.run_id == id {
        true => Ok(manifest),
        false => Err(place(Error::new(Kind::Input, format!("the manifest is of the run {}", line(&manifest.run_id))))),
    }
}

/// The newest `limit` runs. Damaged manifests are among them; a warning says so.
///
/// # Errors
/// The store's.
pub async fn list(runs: &Location, limit: usize) -> Result<Vec<Found>> {
    let newest = folders(runs).await?.into_iter().take(limit);
    let read = newest.map(|(run_id, at)| async move {
        match read(&run_id, &at).await {
            Ok(manifest) => Ok(Found::Run(Box::new(manifest))),
            Err(e) if e.kind() == Kind::Input => {
                tracing::warn!(run_id, error = %e, "a manifest cannot be read");
                Ok(Found::Damaged { run_id, why: e.message().to_owned() })
            }
            Err(e) => Err(e),
        }
    });
    futures::stream::iter(read).buffered(AT_ONCE).try_collect().await
}

/// The manifest of one run: by its id, by the beginning of it where only one run begins so, or the `latest`.
///
/// # Errors
/// [`Kind::Usage`] where none or several fit, [`Kind::Input`] where the manifest is damaged; the store's.
pub async fn find(runs: &Location, wanted: &str) -> Result<Manifest> {
    let all = folders(runs).await?;
    let exact = match wanted {
        "latest" => all.first(),
        id => all.iter().find(|(found, _)| found == id),
    };
    let fitting: Vec<_> = match exact {
        Some(one) => vec![one],
        None => all.iter().filter(|(id, _)| !wanted.is_empty() && id.starts_with(wanted)).collect(),
    };
    match fitting[..] {
        [(id, at)] => read(id, at).await,
        [] => Err(Error::new(Kind::Usage, format!("no run begins with `{wanted}`"))
            .with("runs", runs)
            .hint("`curec runs list` lists them; `latest` is the newest")),
        _ => {
            let names: Vec<&str> = fitting.iter().take(10).map(|(id, _)| id.as_str()).collect();
            let more = if fitting.len() > names.len() { ", ..." } else { "" };
            Err(Error::new(Kind::Usage, format!("{} runs begin with `{wanted}`", fitting.len()))
                .hint(format!("write more of it: {}{more}", names.join(", "))))
        }
    }
}

fn rows_built(m: &Manifest) -> u64 {
    m.tables.iter().filter(|t| t.action == "built").map(|t| t.rows).sum()
}

fn accepted(m: &Manifest) -> u64 {
    m.reasons.accepted.values().sum()
}

/// The date of a moment, or whatever stands there.
fn day(moment: &str) -> String {
    moment.chars().take(10).collect()
}

/// One line a run, with a header.
pub fn list_text(found: &[Found]) -> String {
    let header = ["run", "interval", "status", "started", "seconds", "rows built", "accepted", "new tokens", "error"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|found| match found {
        Found::Run(m) => vec![
            m.run_id.clone(),
            format!("{}/{}", day(&m.interval_start), day(&m.interval_end)),
            m.status.clone(),
            m.started_at.clone(),
            format!("{:.1}", m.seconds),
            rows_built(m).to_string(),
            accepted(m).to_string(),
            m.usage.completion_tokens.to_string(),
            m.error.as_deref().and_then(|e| e.lines().next()).unwrap_or_default().to_owned(),
        ],
        Found::Damaged { run_id, why } => {
            let mut row = vec![run_id.clone(), String::new(), "damaged".to_owned()];
            row.resize(header.len() - 1, String::new());
            row.push(why.clone());
            row
        }
    }));
    aligned(&rows, &[4, 5, 6, 7])
}

/// One JSON object a line and a run.
pub fn list_json(found: &[Found]) -> String {
    let object = |found: &Found| match found {
        Found::Run(m) => json!({
            "run_id": m.run_id, "job": m.job, "interval_start": m.interval_start, "interval_end": m.interval_end,
            "status": m.status, "started_at": m.started_at, "seconds": m.seconds, "rows_built": rows_built(m),
            "reasons": m.reasons.total(), "accepted": accepted(m), "generated": m.usage.generated,
            "prompt_tokens": m.usage.prompt_tokens, "completion_tokens": m.usage.completion_tokens, "error": m.error,
        }),
        Found::Damaged { run_id, why } => json!({ "run_id": run_id, "status": "damaged", "error": why }),
    };
    found.iter().map(|found| format!("{}\n", object(found))).collect()
}

/// The manifest as it stands.
///
/// # Errors
/// None that is known; [`Kind::Internal`].
pub fn show_json(m: &Manifest) -> Result<String> {
    let text = serde_json::to_string_pretty(m).context(Kind::Internal, || "the manifest is not JSON".into())?;
    Ok(text + "\n")
}

/// A run for a person.
pub fn show_text(m: &Manifest) -> String {
    let counts = |counts: &BTreeMap<String, u64>| match counts.is_empty() {
        true => "none".to_owned(),
        false => counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", "),
    };
    let mut facts = vec![
        ("run", m.run_id.clone()),
        ("job", format!("{} ({}), {}", m.job, m.job_file, m.curec)),
        ("interval", format!("{} to {}", m.interval_start, m.interval_end)),
        ("status", m.status.clone()),
        ("started", format!("{}, {:.1} s on {} of {} (process {})", m.started_at, m.seconds, m.device, m.host, m.pid)),
    ];
    facts.extend(m.peak_memory.map(|bytes| ("memory", format!("{} MiB at most", bytes >> 20))));
    facts.extend(m.error.clone().map(|e| ("error", e)));
    facts.extend(m.models.iter().map(|(role, digest)| (role.as_str(), digest.clone())));
    facts.push(("reasons", format!("{}: {}", m.reasons.total(), counts(&m.reasons.by_kind))));
    facts.push(("accepted", counts(&m.reasons.accepted)));
    facts.push(("refused", counts(&m.reasons.refused)));
    facts.push(("this run", usage_text(&m.usage)));
    facts.extend(m.usage_all.as_ref().map(|all| ("all runs", usage_all_text(all))));
    if let Some(cap) = &m.usage.cap_reached {
        let text = format!("{} prompt(s), as [budget] {cap} was reached; another run of the day pays", m.usage.unpaid);
        facts.push(("not paid", text));
    }
    if m.failed_prompts > 0 {
        facts.push((
            "failed",
            format!("{} prompt(s) have no answer; --retry-failed tries them again", m.failed_prompts),
        ));
    }
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out: String = facts.iter().map(|(name, text)| format!("{name:<width$}  {}\n", terminal(text))).collect();

    let mut block = |header: &[&str], right: &[usize], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            let mut all = vec![header.iter().map(|h| (*h).to_owned()).collect()];
            all.extend(rows);
            out.push('\n');
            out.push_str(&aligned(&all, right));
        }
    };
    let inputs = m.inputs.iter().map(|(name, i)| {
        let numbers = [i.files as u64, i.rows, i.bytes].map(|n| n.to_string());
        [vec![name.clone()], numbers.to_vec(), vec![i.digest.clone(), i.notes.join("; ")]].concat()
    });
    block(&["input", "files", "rows", "bytes", "digest", "notes"], &[1, 2, 3], inputs.collect());
    let tables = m.tables.iter().map(|t| {
        let numbers = [t.rows, t.bytes].map(|n| n.to_string());
        [vec![t.table.clone()], numbers.to_vec(), vec![t.action.clone(), t.why.join(", ")]].concat()
    });
    block(&["table", "rows", "bytes", "", "why"], &[1, 2], tables.collect());
    let stages = m.stages.iter().map(|s| vec![s.stage.clone(), format!("{:.2}", s.seconds), s.rows.to_string()]);
    block(&["stage", "seconds", "rows"], &[1, 2], stages.collect());
    let audits =
        m.audits.iter().map(|a| vec![a.table.clone(), a.audit.clone(), a.severity.clone(), a.rows.to_string()]);
    block(&["failed audit of", "audit", "severity", "rows"], &[3], audits.collect());
    out
}

fn usage_text(u: &Usage) -> String {
    let failed: u64 = u.failed.values().sum();
    format!(
        "{} prompts, {} different, {} answered before, {} generated, {} asked again, {failed} failed; {} prompt tokens \
         ({} shared), {} new tokens, {:.1} s",
        u.prompts,
        u.distinct_prompts,
        u.answered_before,
        u.generated,
        u.asked_again,
        u.prompt_tokens,
        u.cached_tokens,
        u.completion_tokens,
        u.seconds
    )
}

fn usage_all_text(u: &UsageAll) -> String {
    format!(
        "{} prompts answered, {} failed attempts; {} prompt tokens ({} shared), {} new tokens, {:.1} s, paid by {} run(s)",
        u.answered, u.failed_attempts, u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.seconds, u.runs
    )
}

/// In what two runs differ.
#[derive(Debug)]
pub struct Differences {
    a: String,
    b: String,
    /// Path in the manifest, and what stands there in either.
    list: Vec<(String, Option<Value>, Option<Value>)>,
}

/// Compares two manifests by everything that they hold, besides ids and times of day.
///
/// # Errors
/// None that is known; [`Kind::Internal`].
pub fn diff(a: &Manifest, b: &Manifest) -> Result<Differences> {
    let flat = |m: &Manifest| -> Result<BTreeMap<String, Value>> {
        let mut value = serde_json::to_value(m).context(Kind::Internal, || "the manifest is not JSON".into())?;
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, value| !NO_DIFFERENCE.contains(&key.as_str()) && !value.is_null());
        }
        let mut out = BTreeMap::new();
        flatten(value, String::new(), &mut out);
        // Nor are the times of day of its stages.
        out.retain(|key, _| !key.ends_with(".started_at"));
        Ok(out)
    };
    let (mut left, mut right) = (flat(a)?, flat(b)?);
    let mut keys: Vec<String> = left.keys().chain(right.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    let both = keys.into_iter().map(|key| {
        let values = (left.remove(&key), right.remove(&key));
        (key, values.0, values.1)
    });
    Ok(Differences { a: a.run_id.clone(), b: b.run_id.clone(), list: both.filter(|(_, a, b)| a != b).collect() })
}

/// Leaves by their paths; elements of lists go by what names them.
fn flatten(value: Value, path: String, out: &mut BTreeMap<String, Value>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(object) => object.into_iter().for_each(|(key, value)| flatten(value, below(&key), out)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (i, value) in list.into_iter().enumerate() {
                let names = ["table", "stage", "audit"].into_iter().filter_map(|key| value.get(key)?.as_str());
                let name = names.collect::<Vec<_>>().join(".");
                let key = if name.is_empty() { i.to_string() } else { name };
                flatten(value, below(&key), out);
            }
        }
        leaf => _ = out.insert(path, leaf),
    }
}

impl Differences {
    /// One JSON object.
    pub fn json(&self) -> String {
        let list: Vec<Value> = self.list.iter().map(|(what, a, b)| json!({ "what": what, "a": a, "b": b })).collect();
        format!("{}\n", json!({ "a": self.a, "b": self.b, "differences": list }))
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |value: &Option<Value>| match value {
            None => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(n)) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or_default()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(", "),
            Some(other) => other.to_string(),
        };
        if self.list.is_empty() {
            return writeln!(f, "{} and {} do not differ", self.a, self.b);
        }
        let mut rows = vec![vec!["differs".to_owned(), self.a.clone(), self.b.clone()]];
        rows.extend(self.list.iter().map(|(what, a, b)| vec![what.clone(), cell(a), cell(b)]));
        f.write_str(&aligned(&rows, &[]))
    }
}

/// Columns as wide as their widest cell, two spaces apart; those of `right` are flush right. Long cells are cut.
fn aligned(rows: &[Vec<String>], right: &[usize]) -> String {
    let cut = |cell: &String| {
        let cell = cell.replace('\n', " ");
        let cell = line(&cell);
        match cell.char_indices().nth(CELL) {
            Some((end, _)) => format!("{}...", &cell[..end]),
            None => cell.into_owned(),
        }
    };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cut).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(i, cell)| match right.contains(&i) {
            true => format!("{cell:>0$}", widths[i]),
            false => format!("{cell:<0$}", widths[i]),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::night::manifest::{FORMAT, TableRecord};

    fn manifest(id: &str) -> Manifest {
        Manifest { format: FORMAT, run_id: id.into(), status: "published".into(), ..Manifest::default() }
    }

    async fn put(runs: &Location, id: &str, bytes: Vec<u8>) {
        runs.child(id).child(Manifest::NAME).put(bytes.into()).await.unwrap();
    }

    #[tokio::test]
    async fn runs_are_found_newest_first_and_damaged_ones_do_not_end_the_list() {
        let runs = Location::parse("memory://runs-listed/_runs").unwrap();
        assert!(list(&runs, 20).await.unwrap().is_empty());
        let ids = ["a-20260120T000000000Z-9", "b-20260122T000000000Z-1", "a-20260121T000000000Z-1"];
        for id in ids {
            put(&runs, id, serde_json::to_vec(&manifest(id)).unwrap()).await;
        }
        put(&runs, "a-20260119T000000000Z-7", b"{\"format\": 1, \"\x1b[2J".to_vec()).await;
        put(&runs, "a-20260118T000000000Z-7", serde_json::to_vec(&manifest("../x\x1b")).unwrap()).await;
        runs.child("a-20260101T000000000Z-7/report.html").put("no manifest".into()).await.unwrap();
        runs.child("manifest.json").put("{}".into()).await.unwrap();

        let found = list(&runs, 20).await.unwrap();
        let text = list_text(&found);
        let first: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        let expected = ["run", ids[1], ids[2], ids[0], "a-20260119T000000000Z-7", "a-20260118T000000000Z-7"];
        assert_eq!(first, expected, "{text}");
        assert!(text.contains("damaged") && !text.contains('\x1b'), "{text}");
        assert_eq!(list_json(&found).lines().filter(|l| l.contains("\"damaged\"")).count(), 2);
        assert_eq!(list(&runs, 2).await.unwrap().len(), 2);

        assert_eq!(find(&runs, "latest").await.unwrap().run_id, ids[1]);
        assert_eq!(find(&runs, "a-20260121").await.unwrap().run_id, ids[2]);
        assert_eq!(find(&runs, ids[0]).await.unwrap().run_id, ids[0]);
        let e = find(&runs, "a-2026").await.unwrap_err();
        assert_eq!(e.kind(), Kind::Usage);
        assert!(e.explain().contains("4 runs") && e.explain().contains(ids[0]), "{}", e.explain());
        assert_eq!(find(&runs, "c").await.unwrap_err().kind(), Kind::Usage);
        assert_eq!(find(&runs, "").await.unwrap_err().kind(), Kind::Usage);
        assert_eq!(find(&runs, "a-20260119").await.unwrap_err().kind(), Kind::Input);
    }

    #[test]
    fn differences_name_their_place() {
        let mut a = manifest("a");
        a.settings.insert("model.slots".into(), "4".into());
        let part = |value: &str| BTreeMap::from([("sql".to_string(), value.to_string())]);
        a.tables.push(TableRecord { table: "reason".into(), parts: part("x"), ..TableRecord::default() });
        let mut b = a.clone();
        b.run_id = "b".into();
        b.started_at = "later".into();
        assert_eq!(diff(&a, &b).unwrap().to_string(), "a and b do not differ\n");
        b.settings.insert("model.slots".into(), "8".into());
        b.tables[0].parts = part("y");
        b.tables.push(TableRecord { table: "user_feature".into(), rows: 3, ..TableRecord::default() });
        b.usage_all = Some(UsageAll { runs: 2, ..UsageAll::default() });
        let found = diff(&a, &b).unwrap();
        let json: Value = serde_json::from_str(&found.json()).unwrap();
        let at = |what: &str| json["differences"].as_array().unwrap().iter().find(|d| d["what"] == what).cloned();
        assert_eq!(at("settings.model.slots").unwrap(), json!({ "what": "settings.model.slots", "a": "4", "b": "8" }));
        assert_eq!(at("tables.reason.parts.sql").unwrap()["b"], "y");
        assert_eq!(
            at("tables.user_feature.rows").unwrap(),
            json!({ "what": "tables.user_feature.rows", "a": null, "b": 3 })
        );
        assert_eq!(at("usage_all.runs").unwrap()["b"], 2);
        assert!(at("started_at").is_none() && at("tables.reason.rows").is_none());
        assert!(
            found.to_string().lines().any(|l| l.starts_with("settings.model.slots") && l.ends_with('8')),
            "{found}"
        );
    }

    #[test]
    fn a_run_is_shown_with_what_it_did() {
        let mut m = manifest("night-1");
        m.error = Some("two\nlines\x1b[2J".into());
        m.failed_prompts = 3;
        m.tables.push(TableRecord {
            table: "reason".into(),
            rows: 7,
            action: "built".into(),
            ..TableRecord::default()
        });
        let text = show_text(&m);
        assert!(text.contains("night-1") && text.contains("--retry-failed") && !text.contains('\x1b'), "{text}");
        assert!(text.lines().any(|l| l.starts_with("reason ") && l.contains(" 7 ")), "{text}");
        let back: Manifest = serde_json::from_str(&show_json(&m).unwrap()).unwrap();
        assert_eq!(back.failed_prompts, 3);
    }
}
