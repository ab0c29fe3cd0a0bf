//! OpenTelemetry: a run and its steps as spans of one trace, in OTLP's JSON form (<https://opentelemetry.io/docs/specs/otlp>).
//!
//! Knows the form, how ids follow from a run, and the span of others that a run may stand under (W3C Trace Context). Knows
//! nothing of nights or of where the spans go.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// The protocol's number for work inside a process.
const INTERNAL: u8 = 1;
/// The protocol's number for a span that failed.
const ERROR: u8 = 2;
/// The flag of a span that is kept.
const SAMPLED: u8 = 1;

/// The span under which a run stands: that of who started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    trace: String,
    span: String,
}

impl Parent {
    /// Reads a header `traceparent`, which the variable TRACEPARENT holds; `None` where it names no span. Whether its trace is
    /// sampled makes no difference: who sets the address wants spans.
    pub fn parse(text: &str) -> Option<Parent> {
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |part: &str, length: usize| is_hex(part, length) && part.bytes().any(|byte| byte != b'0');
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [version, trace, span, flags, ref rest @ ..] = parts[..] else { return None };
        // Later versions may say more after the flags, this one may not.
        let is_known = is_hex(version, 2) && version != "ff" && (version != "00" || rest.is_empty());
        (is_known && is_hex(flags, 2) && is_id(trace, 32) && is_id(span, 16))
            .then(|| Parent { trace: trace.to_owned(), span: span.to_owned() })
    }
}

/// What is said of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A whole number.
    Count(u64),
}

/// Work that took some time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

/// A run and its steps as a request to `/v1/traces`. The same UUID of a run gives the same ids: its digits are the trace's id,
/// unless the run stands under a span of others, whose trace it then belongs to.
pub fn request(uuid: &str, parent: Option<&Parent>, run: &Span, steps: &[Span]) -> Value {
    let trace = parent.map_or_else(|| uuid.replace('-', ""), |parent| parent.trace.clone());
    let own = span_id(uuid);
    let mut spans = vec![span(run, &trace, &own, parent.map(|parent| parent.span.as_str()))];
    let below = |(n, step): (usize, &Span)| span(step, &trace, &span_id(&format!("{uuid} {n}")), Some(own.as_str()));
    spans.extend(steps.iter().enumerate().map(below));
    let text = |text: &str| Attribute::Text(text.to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let process = attributes(&[("service.name", text("curec")), ("service.version", text(version))]);
    json!({
        "resourceSpans": [{
            "resource": {"attributes": process},
            "scopeSpans": [{"scope": {"name": "curec", "version": version}, "spans": spans}],
        }],
    })
}

fn span_id(of: &str) -> String {
    blake3::hash(of.as_bytes()).to_hex()[..16].to_owned()
}

fn span(of: &Span, trace: &str, id: &str, parent: Option<&str>) -> Value {
    let began = of.began.timestamp_nanos_opt().unwrap_or_default();
    let ended = began.saturating_add((of.seconds * 1e9) as i64);
    let mut out = json!({
        "traceId": trace,
        "spanId": id,
        "flags": SAMPLED,
        "name": of.name,
        "kind": INTERNAL,
        // Numbers of 64 bits are texts in this form.
        "startTimeUnixNano": began.to_string(),
        "endTimeUnixNano": ended.to_string(),
        "attributes": attributes(&of.attributes),
    });
    if let Some(parent) = parent {
        out["parentSpanId"] = parent.into();
    }
    if let Some(why) = &of.error {
        out["status"] = json!({"code": ERROR, "message": why});
    }
    out
}

fn attributes(of: &[(&'static str, Attribute)]) -> Vec<Value> {
    let value = |value: &Attribute| match value {
        Attribute::Text(text) => json!({"stringValue": text}),
        Attribute::Count(n) => json!({"intValue": n.to_string()}),
    };
    of.iter().map(|(key, told)| json!({"key": key, "value": value(told)})).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const UUID: &str = "019bd8f6-7b3a-7d1c-9a2b-0123456789ab";

    fn done(name: &str, millis: i64, seconds: f64) -> Span {
        let began = DateTime::from_timestamp_millis(millis).unwrap();
        Span { name: name.into(), began, seconds, attributes: Vec::new(), error: None }
    }

    #[test]
    fn steps_stand_under_their_run_and_ids_follow_from_it() {
        let attributes =
            vec![("curec.job", Attribute::Text("night".into())), ("curec.exit_code", Attribute::Count(75))];
        let run = Span { attributes, error: Some("late".into()), ..done("curec run", 1_768_971_600_250, 2.5) };
        let steps = [done("generate", 1_768_971_600_500, 1.0), done("generate", 1_768_971_601_500, 0.25)];
        let told = request(UUID, None, &run, &steps);
        assert_eq!(told, request(UUID, None, &run, &steps));
        assert_eq!(told["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "curec");
        let spans = told["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 3);
        assert!(spans.iter().all(|span| span["traceId"] == UUID.replace('-', "")));
        let ids: std::collections::BTreeSet<&str> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
        assert!(ids.len() == 3 && ids.iter().all(|id| id.len() == 16), "{ids:?}");
        assert!(spans[0].get("parentSpanId").is_none());
        assert!(spans[1..].iter().all(|span| span["parentSpanId"] == spans[0]["spanId"]));
        assert_eq!(spans[0]["startTimeUnixNano"], "1768971600250000000");
        assert_eq!(spans[0]["endTimeUnixNano"], "1768971602750000000");
        assert_eq!(spans[0]["status"], json!({"code": 2, "message": "late"}));
        assert!(spans[1].get("status").is_none());
        let said = json!([
            {"key": "curec.job", "value": {"stringValue": "night"}},
            {"key": "curec.exit_code", "value": {"intValue": "75"}},
        ]);
        assert_eq!(spans[0]["attributes"], said);
    }

    #[test]
    fn a_run_stands_under_the_span_that_started_it() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let parent = Parent::parse(header).unwrap();
        let told = request(UUID, Some(&parent), &done("curec run", 0, 1.0), &[done("publish", 0, 1.0)]);
        let spans = told["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert!(spans.iter().all(|span| span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(spans[0]["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!(spans[1]["parentSpanId"], spans[0]["spanId"]);
        assert_eq!(Parent::parse(&format!(" {}-more\n", header.replacen("00", "01", 1))), Some(parent));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-é",
        ] {
            assert_eq!(Parent::parse(wrong), None, "{wrong}");
        }
    }
}
