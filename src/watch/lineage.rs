//! OpenLineage: what a run reads and makes, as run events (<https://openlineage.io>).
//!
//! Knows the form of the events, of version 2-0-2, and the facets that stand in them. Knows nothing of nights or of where the
//! events go.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

/// Who writes the events, and in which version.
const PRODUCER: &str = concat!("urn:curec:", env!("CARGO_PKG_VERSION"));
/// Form of an event.
const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// One run of a job.
#[derive(Debug, Clone)]
pub struct Run {
    /// A UUID: the same in all events of the run.
    pub id: String,
    /// Namespace of the job.
    pub namespace: String,
    /// The job.
    pub job: String,
    /// First moment of the interval and first after it, RFC 3339.
    pub interval: (String, String),
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has begun.
    Start,
    /// It knows what it reads and makes.
    Running,
    /// It has done it.
    Complete,
    /// It could not, and why.
    Fail(String),
    /// It was stopped, and by what.
    Abort(String),
}

/// A table, as it is read or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Where its store is: `file`, `s3://bucket`.
    pub namespace: String,
    /// Its path there.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// How much was read or written, where that is known.
    pub amount: Option<Amount>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// What it means; may be empty.
    pub description: String,
}

/// How much was read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// The UUID (version 7: the time and some bits of a digest) of a run that has a name of its own.
pub fn uuid(run: &str, began: DateTime<Utc>) -> String {
    let digest = blake3::hash(run.as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    let millis = u64::try_from(began.timestamp_millis()).unwrap_or_default().to_be_bytes();
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// An event, as its receivers want it.
pub fn event(run: &Run, state: &State, at: DateTime<Utc>, inputs: &[Dataset], outputs: &[Dataset]) -> Value {
    let (name, error) = match state {
        State::Start => ("START", None),
        State::Running => ("RUNNING", None),
        State::Complete => ("COMPLETE", None),
        State::Fail(why) => ("FAIL", Some(why)),
        State::Abort(why) => ("ABORT", Some(why)),
    };
    let (start, end) = &run.interval;
    let mut of_run = Map::new();
    let nominal = json!({"nominalStartTime": start, "nominalEndTime": end});
    of_run.insert("nominalTime".into(), facet("1-0-1", "NominalTimeRunFacet", nominal));
    let engine = json!({"name": "curec", "version": env!("CARGO_PKG_VERSION")});
    of_run.insert("processing_engine".into(), facet("1-1-1", "ProcessingEngineRunFacet", engine));
    if let Some(message) = error {
        let told = json!({"message": message, "programmingLanguage": "RUST"});
        of_run.insert("errorMessage".into(), facet("1-0-1", "ErrorMessageRunFacet", told));
    }
    let kind = json!({"processingType": "BATCH", "integration": "CUREC", "jobType": "JOB"});
    let read = |table: &Dataset| {
        let amount = |amount| facet("1-0-0", "InputStatisticsInputDatasetFacet", amount);
        dataset(table, "inputFacets", "inputStatistics", amount)
    };
    let made = |table: &Dataset| {
        let amount = |amount| facet("1-0-2", "OutputStatisticsOutputDatasetFacet", amount);
        dataset(table, "outputFacets", "outputStatistics", amount)
    };
    json!({
        "eventType": name,
        "eventTime": at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "producer": PRODUCER,
        "schemaURL": EVENT,
        "run": {"runId": run.id, "facets": of_run},
        "job": {
            "namespace": run.namespace,
            "name": run.job,
            "facets": {"jobType": facet("2-0-4", "JobTypeJobFacet", kind)},
        },
        "inputs": inputs.iter().map(read).collect::<Vec<_>>(),
        "outputs": outputs.iter().map(made).collect::<Vec<_>>(),
    })
}

/// A table in an event, with how much of it in the facets that are for its side.
fn dataset(table: &Dataset, side: &str, name: &str, facet_of: impl Fn(Value) -> Value) -> Value {
    let mut facets = Map::new();
    if !table.columns.is_empty() {
        let fields: Vec<Value> = table.columns.iter().map(field).collect();
        facets.insert("schema".into(), facet("1-2-0", "SchemaDatasetFacet", json!({"fields": fields})));
    }
    let mut of_side = Map::new();
    if let Some(Amount { rows, bytes, files }) = table.amount {
        of_side.insert(name.into(), facet_of(json!({"rowCount": rows, "size": bytes, "fileCount": files})));
    }
    let mut out = json!({"namespace": table.namespace, "name": table.name, "facets": facets});
    out[side] = Value::Object(of_side);
    out
}

fn field(column: &Column) -> Value {
    let mut out = json!({"name": column.name, "type": column.kind});
    if !column.description.is_empty() {
        out["description"] = column.description.as_str().into();
    }
    out
}

/// What is told, with who tells it and in which form.
fn facet(version: &str, form: &str, told: Value) -> Value {
    let form = format!("https://openlineage.io/spec/facets/{version}/{form}.json#/$defs/{form}");
    let mut out = json!({"_producer": PRODUCER, "_schemaURL": form});
    if let (Some(out), Value::Object(told)) = (out.as_object_mut(), told) {
        out.extend(told);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn moment(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn a_run_has_one_uuid_and_another_run_another() {
        let began = moment("2026-01-20T03:00:00.250Z");
        let id = uuid("night-1", began);
        assert_eq!(id, uuid("night-1", began));
        assert_ne!(id, uuid("night-2", began));
        let parts: Vec<&str> = id.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
        assert!(parts[2].starts_with('7') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
        let millis = i64::from_str_radix(&format!("{}{}", parts[0], parts[1]), 16).unwrap();
        assert_eq!(millis, began.timestamp_millis());
    }

    #[test]
    fn an_event_tells_what_is_known_and_nothing_else() {
        let at = moment("2026-01-20T03:00:00Z");
        let interval = ("2026-01-19T00:00:00+00:00".to_owned(), "2026-01-20T00:00:00+00:00".to_owned());
        let run = Run { id: uuid("r", at), namespace: "ns".into(), job: "night".into(), interval };
        let column =
            |description: &str| Column { name: "a".into(), kind: "utf8".into(), description: description.into() };
        let amount = Some(Amount { rows: 3, bytes: 4, files: 1 });
        let table = Dataset {
            namespace: "s3://lake".into(),
            name: "t".into(),
            columns: vec![column("It."), column("")],
            amount,
        };
        let bare = Dataset { columns: Vec::new(), amount: None, ..table.clone() };
        let told = event(&run, &State::Complete, at, &[table.clone(), bare], &[table]);
        assert_eq!((&told["eventType"], &told["eventTime"]), (&json!("COMPLETE"), &json!("2026-01-20T03:00:00.000Z")));
        let read = &told["inputs"][0];
        assert_eq!(read["inputFacets"]["inputStatistics"]["rowCount"], 3);
        assert!(read.get("outputFacets").is_none());
        assert_eq!(
            read["facets"]["schema"]["fields"],
            json!([
                {"name": "a", "type": "utf8", "description": "It."}, {"name": "a", "type": "utf8"},
            ])
        );
        assert_eq!((&told["inputs"][1]["facets"], &told["inputs"][1]["inputFacets"]), (&json!({}), &json!({})));
        assert_eq!(told["outputs"][0]["outputFacets"]["outputStatistics"]["size"], 4);
        assert!(told["run"]["facets"].get("errorMessage").is_none());
        for (state, name) in [(State::Fail("no".into()), "FAIL"), (State::Abort("no".into()), "ABORT")] {
            let told = event(&run, &state, at, &[], &[]);
            assert_eq!(
                (&told["eventType"], &told["run"]["facets"]["errorMessage"]["message"]),
                (&json!(name), &json!("no"))
            );
            assert_eq!((&told["inputs"], &told["run"]["runId"]), (&json!([]), &json!(run.id)));
        }
    }
}
