#![allow(clippy::unwrap_used)]

use super::*;
use crate::night::manifest::{AuditRecord, InputRecord};

/// A strict reader of the text format: every family has its help and type once, before its samples, and no sample twice.
fn parsed(page: &str) -> BTreeMap<String, f64> {
    let mut samples: BTreeMap<String, f64> = BTreeMap::new();
    let (mut families, mut current) = (Vec::<String>::new(), String::new());
    let mut lines = page.lines().peekable();
    assert!(page.ends_with('\n'));
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && !families.contains(&name.to_owned()), "{name} stands twice");
            assert_eq!(lines.next(), Some(format!("# TYPE {name} gauge").as_str()));
            assert!(lines.peek().is_some_and(|next| next.starts_with(&format!("{name}{{"))), "{name} has no sample");
            families.push(name.to_owned());
            current = name.to_owned();
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(sample.starts_with(&format!("{current}{{curec_job=\"night\"")) && sample.ends_with('}'), "{line}");
        assert!(samples.insert(sample.replace("curec_job=\"night\",", ""), value.parse().unwrap()).is_none(), "{line}");
    }
    samples
}

fn manifest() -> Manifest {
    let mut m = Manifest { job: "night".into(), status: "published".into(), seconds: 12.5, ..Manifest::default() };
    m.interval_end = "2026-01-21T00:00:00+00:00".into();
    let started_at = "2026-01-21T03:00:00.250Z".to_owned();
    let stage =
        |stage: &str, seconds| StageRecord { stage: stage.into(), started_at: started_at.clone(), seconds, rows: 1 };
    m.stages = vec![stage("generate", 3.0), stage("publish", 1.0), stage("generate", 2.0)];
    let table = |table: &str, action: &str, rows| TableRecord {
        table: table.into(),
        action: action.into(),
        rows,
        ..TableRecord::default()
    };
    m.tables = vec![table("reason", "built", 7), table("item_feature", "kept", 9)];
    m.inputs.insert("interaction".into(), InputRecord { rows: 100, left_out: 4, ..InputRecord::default() });
    m.usage.prompts = 10;
    m.usage.answered_before = 6;
    m.usage.generated = 4;
    m.usage.cap_reached = Some("max_tokens".into());
    m.reasons.by_kind.insert("item".into(), 7);
    m.reasons.refused.insert("too \"long\"".into(), 2);
    m.audits = vec![AuditRecord { severity: "warn".into(), ..AuditRecord::default() }; 2];
    m
}

fn gauges(of: &Manifest) -> BTreeMap<String, f64> {
    let mut page = Exposition::of("night");
    measured(of, &mut page);
    parsed(&page.text())
}

#[test]
fn a_manifest_becomes_gauges() {
    let told = gauges(&manifest());
    for (sample, value) in [
        ("curec_last_run_prompts{curec_job=\"night\"}", 10.0),
        ("curec_last_run_prompts_from_cache{curec_job=\"night\"}", 6.0),
        ("curec_last_run_answers{curec_job=\"night\"}", 4.0),
        ("curec_last_run_budget_reached{curec_job=\"night\"}", 1.0),
        ("curec_last_run_reasons{kind=\"item\"}", 7.0),
        ("curec_last_run_reasons_refused{refusal=\"too \\\"long\\\"\"}", 2.0),
        ("curec_last_run_rows_quarantined{input=\"interaction\"}", 4.0),
        ("curec_last_run_audits_failed{severity=\"warn\"}", 2.0),
        ("curec_last_run_rows_published{table=\"reason\"}", 7.0),
        ("curec_last_run_rows_published{table=\"item_feature\"}", 9.0),
    ] {
        assert_eq!(told.get(sample), Some(&value), "{sample}: {told:?}");
    }
}

#[test]
fn a_failed_run_tells_of_no_published_rows() {
    let failed = Manifest { status: "audit".into(), ..manifest() };
    let told = gauges(&failed);
    assert!(!told.keys().any(|sample| sample.contains("rows_published")), "{told:?}");
    assert_eq!(told["curec_last_run_answers{curec_job=\"night\"}"], 4.0);
}

#[test]
fn stages_become_steps_and_tokens_are_told() {
    let night = manifest();
    let steps: Vec<Step> = night.stages.iter().filter_map(step).collect();
    let told: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.began.timestamp_millis(), s.seconds, s.rows)).collect();
    let at = 1_768_964_400_250;
    assert_eq!(told, [("generate", at, 3.0, Some(1)), ("publish", at, 1.0, Some(1)), ("generate", at, 2.0, Some(1))]);
    assert_eq!(tokens(&night)[0], ("gen_ai.usage.input_tokens", Attribute::Count(0)));
    assert!(tokens(&Manifest::default()).is_empty());
}
