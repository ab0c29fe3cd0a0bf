//! What keeps a run from publishing: inputs that break their contract, an interval without events, audits that fail;
//! and the quarantine, where the failing rows are shown.
//!
//! Knows what a run has staged and notes in its manifest what it finds; makes nothing.

use crate::columns::{at, integers, text};
use crate::config::{Interval, Job};
use crate::error::{Error, Kind, Result};
use crate::night::manifest::{AuditRecord, Manifest};
use crate::night::prepare::{Prepared, ZERO_EMBEDDING};
use crate::query::audit::{self, Drift};
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::table::finding::{Finding, Findings};
use crate::table::input::check_input;
use crate::table::published::partitions;
use crate::table::quarantine::{self, Origin};
use crate::table::store::Location;

/// Holds every row of the inputs against their contracts; returns how many there are.
pub(super) async fn check_inputs(prepared: &Prepared, manifest: &mut Manifest) -> Result<u64> {
    let mut rows = 0;
    for (name, input) in &prepared.inputs {
        let found = match check_input(prepared.graph.contract(name)?, input).await {
            Ok(found) => found,
            Err(error) => {
                let bad = Findings::of(&error).map(|f| f.found().to_vec()).unwrap_or_default();
                return Err(match note(prepared, name, &bad, manifest).await? {
                    // What to do stands in the error already.
                    Some(at) => error.with("quarantine", at),
                    None => error,
                });
            }
        };
        rows += found.rows;
        note(prepared, name, &found.left_out.found, manifest).await?;
        if let Some(record) = manifest.inputs.get_mut(name) {
            record.rows = found.rows;
            record.notes = found.warnings.clone();
            record.left_out = found.left_out.rows;
            record.bad_rows = found.left_out.found.iter().map(|f| (f.audit.clone(), f.failing)).collect();
            if found.null_titles() > 0 && record.notes.is_empty() {
                record.notes.push(format!("{} rows without a title", found.null_titles()));
            }
        }
        for warning in &found.warnings {
            tracing::warn!(table = name, "{warning}");
        }
    }
    Ok(rows)
}

/// Refuses an interval without any event, unless empty tables are wanted: the log has most likely not arrived yet, and
/// publishing would empty the partition.
pub(super) async fn look_for_events(prepared: &Prepared, session: &Session, allow_empty: bool) -> Result<()> {
    let job = &prepared.job;
    if allow_empty || job.spec.interval.empty == "publish" || has_events(session, prepared.interval).await? {
        return Ok(());
    }
    let hint = "has the log arrived? Run again when it has, or add --allow-empty to publish empty tables";
    Err(without_events(job, prepared.interval, "nothing was published").hint(hint))
}

/// Whether an interval has an event in a session's `interaction`.
pub(super) async fn has_events(session: &Session, interval: Interval) -> Result<bool> {
    let params = [
        ("interval_start", Param::Timestamp(interval.start.timestamp_micros())),
        ("interval_end", Param::Timestamp(interval.end.timestamp_micros())),
    ];
    Ok(session.sql(texts::INTERVAL_EVENT, &params).await?.count().await? > 0)
}

/// The error for an interval without events: it waits for its log, unless the job refuses to.
pub(super) fn without_events(job: &Job, interval: Interval, so: &str) -> Error {
    Error::new(job.spec.interval.late(), format!("the input has no event in the interval; {so}"))
        .with("interval", format!("{} to {}", interval.start.to_rfc3339(), interval.end.to_rfc3339()))
        .with("input", &job.spec.input.interaction)
}

/// The error for an interval that gives nothing to learn from: its log is late, or what it has does not do.
pub(crate) async fn nothing_to_learn(
    job: &Job,
    interval: Interval,
    session: &Session,
    what: &str,
    needs: &'static str,
) -> Result<Error> {
    if !has_events(session, interval).await? {
        let hint = "has the log arrived? Run again when it has";
        return Ok(without_events(job, interval, "there is nothing to learn from").hint(hint));
    }
    Ok(Error::new(Kind::Input, what)
        .with("interval", format!("{}/{}", interval.start.to_rfc3339(), interval.end.to_rfc3339()))
        .hint(needs))
}

/// Counts items that have events and no row in `item`: accepted, but somebody may want to know.
pub(super) async fn count_unknown_items(session: &Session, manifest: &mut Manifest) -> Result<()> {
    for batch in session.sql(texts::UNKNOWN_ITEMS, &[]).await?.collect().await? {
        let (n, example) = (integers(&batch, "n")?, text(&batch, "example")?);
        if let (1.., Some(example)) = (n.value(0), at(&example, 0)) {
            let note = format!("{} items with events are not in `item`, for example {example}", n.value(0));
            tracing::warn!("{note}");
            manifest.inputs.entry("item".into()).or_default().notes.push(note);
        }
    }
    Ok(())
}

/// Audits a staged table that is registered; what is found is noted, errors end the run.
pub(super) async fn audit_table(
    prepared: &Prepared,
    session: &Session,
    table: &str,
    manifest: &mut Manifest,
) -> Result<()> {
    let band = prepared.job.spec.audit.row_count_band;
    // How much is new says nothing of whether the night is sound.
    let drift = match band > 0.0 && !prepared.is_of_news(table) {
        true => rows_before(prepared, table).await?.map(|previous_rows| Drift { previous_rows, band }),
        false => None,
    };
    let contract = prepared.graph.contract(table)?;
    let mut params = prepared.params()?;
    // Only where an audit asks for it: it opens the encoder.
    if contract.audits.iter().any(|audit| audit.sql.contains(ZERO_EMBEDDING)) {
        params.push(prepared.zero_embedding()?);
    }
    let report = audit::audit(session, contract, table, &params, drift).await?;
    let at = note(prepared, table, &report.found, manifest).await?;
    report.into_result().map(drop).map_err(|error| refused(error, at, &prepared.job))
}

/// Notes what audits found in log, manifest and quarantine; returns where it stands in the latter.
pub(super) async fn note(
    prepared: &Prepared,
    table: &str,
    found: &[Finding],
    manifest: &mut Manifest,
) -> Result<Option<Location>> {
    for finding in found {
        let (audit, severity) = (&finding.audit, finding.severity.name());
        tracing::warn!(table, audit, severity, rows = finding.failing, "an audit failed");
        manifest.audits.push(AuditRecord {
            table: table.to_string(),
            audit: audit.clone(),
            severity: severity.to_string(),
            rows: finding.failing,
        });
    }
    if found.is_empty() {
        return Ok(None);
    }
    let of = Origin { run_id: &manifest.run_id, dt: &prepared.interval.dt(), table };
    quarantine::record(&prepared.root, prepared.graph.contract("quarantine")?, of, found).await.map(Some)
}

/// Rows of the table's latest partition before this one.
async fn rows_before(prepared: &Prepared, table: &str) -> Result<Option<u64>> {
    let dt = prepared.interval.dt();
    let records = partitions(&prepared.root, table).await?;
    Ok(records.iter().filter(|r| r.dt < dt).max_by(|a, b| a.dt.cmp(&b.dt)).map(|r| r.rows()))
}

/// Tells where the rows stand that an error is about.
pub(super) fn refused(error: Error, quarantine: Option<Location>, job: &Job) -> Error {
    let Some(at) = quarantine else { return error };
    error.with("quarantine", at).hint(format!(
        "see the rows with: curec sql --job {} \"select * from quarantine order by run_id desc\"; then fix the cause and run again",
        job.origin
    ))
}
