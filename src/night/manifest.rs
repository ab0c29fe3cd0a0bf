//! What a run did: its manifest, the one place where wall times, hosts and durations stand.
//!
//! Written to `<warehouse>/_runs/<run id>/manifest.json`. Plain data; knows nothing of how a run works.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::table::traffic::Traffic;

/// The format of manifests that this code writes and reads.
pub const FORMAT: u32 = 1;

/// A run's manifest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// `curec` and its version.
    pub curec: String,
    /// The run.
    pub run_id: String,
    /// The job's name.
    pub job: String,
    /// Where the job file was read.
    pub job_file: String,
    /// First moment of the interval, RFC 3339.
    pub interval_start: String,
    /// First moment after it.
    pub interval_end: String,
    /// `running`, `published`, `nothing_to_do`, `forgotten`, or the kind of the error. A run that was killed stays `running`.
    pub status: String,
    /// What went wrong, where something did.
    pub error: Option<String>,
    /// Wall time, RFC 3339.
    pub started_at: String,
    /// Wall time, RFC 3339.
    pub finished_at: String,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Name of the machine.
    pub host: String,
    /// Process number.
    pub pid: u32,
    /// The device as the job names it.
    pub device: String,
    /// Largest resident memory, bytes.
    pub peak_memory: Option<u64>,
    /// The job's settings as they were in force, `section.key` and value.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Models by role (`generator`, `encoder`) with their digests.
    pub models: BTreeMap<String, String>,
    /// Models that have learned from events after the interval, by their places in the job, and until when (RFC 3339): what
    /// they wrote knows what came later. Only where the job allows it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learned_later: BTreeMap<String, String>,
    /// Inputs by table.
    pub inputs: BTreeMap<String, InputRecord>,
    /// Tables in the order in which they were made.
    pub tables: Vec<TableRecord>,
    /// Seconds by stage, in order.
    pub stages: Vec<StageRecord>,
    /// Tokens, rows and seconds of the language model in this run.
    pub usage: Usage,
    /// The same for the interval's prompts, whichever run paid; absent where the run did not come that far.
    #[serde(default)]
    pub usage_all: Option<UsageAll>,
    /// Different prompts of the interval that were asked and have no answer: `--retry-failed` tries them again.
    #[serde(default)]
    pub failed_prompts: u64,
    /// Reasons and what became of them.
    pub reasons: Reasons,
    /// Reasons of earlier runs that were corrected; absent where none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrections: Option<Corrections>,
    /// Audits that failed, warnings included.
    pub audits: Vec<AuditRecord>,
    /// Requests to remote stores and how many of them were made again, up to this manifest.
    #[serde(default)]
    pub store: Traffic,
    /// What `curec forget` did; absent from the manifests of runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<Forgotten>,
}

/// Users who were forgotten, without naming them, and what that took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How the digests below are made: `blake3-keyed`, with the warehouse's own key over the id's blake3. Empty in
    /// manifests of before there were keys: the id's blake3.
    #[serde(default)]
    pub digest: String,
    /// A digest of each user id, 64 hex digits, sorted.
    pub users: Vec<String>,
    /// The same of ids that stood nowhere.
    #[serde(default)]
    pub unmatched: Vec<String>,
    /// Rows that are gone, by table, the response store among them; the partitions stand among the manifest's tables.
    pub rows: BTreeMap<String, u64>,
    /// Files of the quarantine that are gone.
    pub quarantined_files: u64,
    /// Reports and manifests of runs that named a user and do not any more.
    pub run_files: u64,
    /// Report pages that could not be made again without the user and are gone.
    pub pages_removed: u64,
    /// Input tables that still name a user.
    pub inputs: Vec<String>,
}

/// An input as it was read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct InputRecord {
    /// Files.
    pub files: usize,
    /// Rows; 0 where they were not counted because nothing was to do.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Digest of all files.
    pub digest: String,
    /// Things worth knowing, such as items without a title.
    pub notes: Vec<String>,
    /// Rows that break the contract and were left out, each once.
    #[serde(default)]
    pub left_out: u64,
    /// What these rows broke, by audit: a row may break several.
    #[serde(default)]
    pub bad_rows: BTreeMap<String, u64>,
}

impl InputRecord {
    /// The share of its rows that was left out.
    pub fn bad_fraction(&self) -> f64 {
        self.left_out as f64 / self.rows.max(1) as f64
    }
}

/// A table's partition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its name.
    pub table: String,
    /// Its partition.
    pub dt: String,
    /// `built`, `kept` or, by `curec forget`, `rewritten`.
    pub action: String,
    /// Why it was built.
    pub why: Vec<String>,
    /// Rows.
    pub rows: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Names of its files.
    pub files: Vec<String>,
    /// What it was made from.
    pub fingerprint: String,
    /// What went into the fingerprint, by name, and what the tables before it held.
    #[serde(default)]
    pub parts: BTreeMap<String, String>,
}

/// How long a stage took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StageRecord {
    /// Its name.
    pub stage: String,
    /// When it began, RFC 3339; empty in manifests of before this was written.
    #[serde(default)]
    pub started_at: String,
    /// Seconds.
    pub seconds: f64,
    /// Rows that came out.
    pub rows: u64,
}

/// What the language model did and was spared.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Rows of `reason_prompt`.
    pub prompts: u64,
    /// Different prompts among them.
    pub distinct_prompts: u64,
    /// Different prompts that need no answer any more, since earlier runs have paid for it.
    pub answered_before: u64,
    /// Answers generated in this run.
    pub generated: u64,
    /// Of those, answers that the checks refused and that were asked for again.
    #[serde(default)]
    pub asked_again: u64,
    /// Answers generated twice, because a process of a cluster was lost, or taken for lost, before it had handed them over; a
    /// reader takes one of them. Absent where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paid_twice: u64,
    /// Prompts that a spend cap has left unpaid, rewrites of corrections among them: never asked, or refused and not asked again.
    #[serde(default)]
    pub unpaid: u64,
    /// The key of that cap in `[budget]`; absent where all was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_reached: Option<String>,
    /// Failures by code.
    pub failed: BTreeMap<String, u64>,
    /// Prompt tokens of the generated rows.
    pub prompt_tokens: u64,
    /// Of those, tokens whose prefill was shared.
    pub cached_tokens: u64,
    /// New tokens.
    pub completion_tokens: u64,
    /// Seconds of the generate stage.
    pub seconds: f64,
}

/// Whether a number need not be told.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What was paid for the prompts of an interval, whichever run paid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageAll {
    /// Different prompts with an answer.
    pub answered: u64,
    /// Different prompts that were asked and have none.
    pub failed: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Prompt tokens of the answers.
    pub prompt_tokens: u64,
    /// Of those, tokens whose prefill was shared.
    pub cached_tokens: u64,
    /// New tokens.
    pub completion_tokens: u64,
    /// Seconds of generate stages up to each committed answer; what a killed run did after its last commit is not known.
    pub seconds: f64,
    /// Runs that paid for at least one attempt.
    pub runs: u64,
}

/// What became of the reasons.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reasons {
    /// Reasons asked for, by kind.
    pub by_kind: BTreeMap<String, u64>,
    /// Accepted, by kind.
    pub accepted: BTreeMap<String, u64>,
    /// Refused, by the reason for refusal.
    pub refused: BTreeMap<String, u64>,
}

impl Reasons {
    /// Reasons asked for.
    pub fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }

    /// Share that was accepted, 0 where there were none.
    pub fn acceptance(&self) -> f64 {
        self.accepted.values().sum::<u64>() as f64 / self.total().max(1) as f64
    }
}

/// What became of reasons of earlier runs once their outcomes were known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Corrections {
    /// Reasons judged, by what became of them: `kept`, `rewritten`, `template`, `dropped`.
    pub by_fate: BTreeMap<String, u64>,
    /// Mean gain of the reasons as they were, in nats, by what became of them.
    pub gain_before: BTreeMap<String, f64>,
    /// The same of what stands in their place, over the outcomes that chose it: later outcomes tell what it is worth.
    pub gain_after: BTreeMap<String, f64>,
    /// Rewrites that failed, by code; they count against no budget.
    pub failed: BTreeMap<String, u64>,
}

/// A failed audit.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The table.
    pub table: String,
    /// The audit.
    pub audit: String,
    /// `error` or `warn`.
    pub severity: String,
    /// Rows that failed.
    pub rows: u64,
}

impl Manifest {
    /// Its name in `_runs/<run id>/`.
    pub const NAME: &str = "manifest.json";

    /// Reads a manifest; any bytes give one or an error that says why not.
    ///
    /// # Errors
    /// [`Kind::Input`] for bytes that are no manifest and for one of a format that this curec does not know.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let broken = |why: String| Error::new(Kind::Input, format!("the manifest is damaged: {why}"));
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))?;
        match manifest.format {
            FORMAT if !manifest.run_id.is_empty() => Ok(manifest),
            FORMAT => Err(broken("it names no run".into())),
            other => Err(broken(format!("its format is {other}, this curec knows {FORMAT}"))),
        }
    }

    /// The one-line summary that ends standard output, for Airflow's XCom and for scripts.
    pub fn summary(&self, report: Option<&str>) -> serde_json::Value {
        let rows: serde_json::Map<String, serde_json::Value> =
            self.tables.iter().map(|t| (t.table.clone(), t.rows.into())).collect();
        let bad_rows: serde_json::Map<String, serde_json::Value> = self
            .inputs
            .iter()
            .filter(|(_, input)| input.left_out > 0)
            .map(|(name, input)| {
                let (rows, fraction) = (input.left_out, input.bad_fraction());
                (name.clone(), serde_json::json!({"rows": rows, "fraction": fraction, "kinds": input.bad_rows}))
            })
            .collect();
        serde_json::json!({
            "status": self.status,
            "job": self.job,
            "run_id": self.run_id,
            "interval_start": self.interval_start,
            "interval_end": self.interval_end,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "rows": rows,
            "bad_rows": bad_rows,
            "reasons": self.reasons.total(),
            "accepted": self.reasons.accepted.values().sum::<u64>(),
            "generated": self.usage.generated,
            "asked_again": self.usage.asked_again,
            "unpaid": self.usage.unpaid,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "failed": self.usage.failed.values().sum::<u64>(),
            "failed_prompts": self.failed_prompts,
            "usage_all": self.usage_all,
            "learned_later": self.learned_later,
            "error": self.error,
            "report": report,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_summary_is_one_line_and_the_manifest_reads_back() {
        let mut m = Manifest { status: "published".into(), error: Some("a\nb".into()), ..Manifest::default() };
        m.reasons.by_kind.insert("item".into(), 4);
        m.reasons.accepted.insert("item".into(), 1);
        assert!(!m.summary(None).to_string().contains('\n'));
        assert_eq!(m.reasons.acceptance(), 0.25);
        m.run_id = "r".into();
        m.format = FORMAT;
        let mut json = serde_json::to_value(&m).unwrap();
        assert_eq!(Manifest::parse(json.to_string().as_bytes()).unwrap().status, "published");
        // One of before these fields were written.
        for new in ["settings", "usage_all", "failed_prompts", "store"] {
            json.as_object_mut().unwrap().remove(new).unwrap();
        }
        let old = Manifest::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!((old.usage_all, old.store), (None, Traffic::default()));
        json["format"] = 2.into();
        assert!(Manifest::parse(json.to_string().as_bytes()).unwrap_err().message().contains("its format is 2"));
        assert!(Manifest::parse(b"{\"format\": 1}").is_err() && Manifest::parse(b"\xff").is_err());
    }
}
