//! `[watch]`: where a run tells others how it went, and what these places may be.
//!
//! Knows the section's keys. Opens nothing and sends nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

/// `[watch]`
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // every key is documented once, in config/job.toml
pub struct WatchSpec {
    pub prometheus_file: String,
    pub pushgateway: String,
    pub openlineage: String,
    pub openlineage_namespace: String,
    pub otlp: String,
}

impl fmt::Debug for WatchSpec {
    /// Without the values: an address may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchSpec")
            .field("prometheus_file", &!self.prometheus_file.is_empty())
            .field("pushgateway", &!self.pushgateway.is_empty())
            .field("openlineage", &!self.openlineage.is_empty())
            .field("otlp", &!self.otlp.is_empty())
            .finish_non_exhaustive()
    }
}

impl WatchSpec {
    /// The same places for a part of a job that is a job of its own to who watches it: its file of metrics is one of its own,
    /// `weekly.align.prom` for the part `align` of a job with `weekly.prom`.
    pub fn of_part(&self, part: &str) -> WatchSpec {
        let of_part = |file: &str| format!("{file}.{part}.prom");
        let file = self.prometheus_file.strip_suffix(".prom").map(of_part).unwrap_or_default();
        WatchSpec { prometheus_file: file, ..self.clone() }
    }

    /// What is wrong with the values, by key. Values are not quoted, since an address may hold a password.
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        let file = &self.prometheus_file;
        if !file.is_empty() && (file.contains("://") || !file.ends_with(".prom")) {
            let why = "must be a path on this machine that ends in .prom: node_exporter reads no other files";
            found.push(("watch.prometheus_file", why));
        }
        for (key, address) in [("watch.pushgateway", &self.pushgateway), ("watch.otlp", &self.otlp)] {
            if !address.is_empty()
                && let Some(why) = wrong_address(address)
            {
                found.push((key, why));
            }
        }
        if self.openlineage.contains("://")
            && let Some(why) = wrong_address(&self.openlineage)
        {
            found.push(("watch.openlineage", why));
        }
        let namespace = &self.openlineage_namespace;
        if namespace.trim().is_empty() || namespace.chars().any(char::is_control) {
            found.push(("watch.openlineage_namespace", "must be a name of one line"));
        }
        found
    }
}

/// Why nothing can be sent to an address.
fn wrong_address(text: &str) -> Option<&'static str> {
    match Url::parse(text) {
        Err(_) => Some("must be a URL such as http://host:9091"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => Some("must begin with http:// or https://"),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            Some("must have neither `?` nor `#`; credentials stand before the host, as http://user:password@host")
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(spec: &WatchSpec) -> Vec<&'static str> {
        spec.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_part_of_a_job_has_a_file_of_its_own() {
        let part = |file: &str| WatchSpec { prometheus_file: file.into(), ..WatchSpec::default() }.of_part("align");
        assert_eq!(part("/m/weekly.prom").prometheus_file, "/m/weekly.align.prom");
        assert_eq!(part("").prometheus_file, "");
    }

    #[test]
    fn places_that_cannot_work_are_named_and_not_quoted() {
        let good = WatchSpec { openlineage_namespace: "curec".into(), ..WatchSpec::default() };
        assert!(keys(&good).is_empty());
        let all = WatchSpec {
            prometheus_file: "metrics/nightly.prom".into(),
            pushgateway: "http://user:hunter2@host:9091/prefix".into(),
            openlineage: "events.jsonl".into(),
            otlp: "http://collector:4318".into(),
            ..good.clone()
        };
        assert!(keys(&all).is_empty());
        for file in ["metrics/nightly.txt", "s3://bucket/nightly.prom"] {
            assert_eq!(keys(&WatchSpec { prometheus_file: file.into(), ..good.clone() }), ["watch.prometheus_file"]);
        }
        for address in ["host:9091", "http://", "ftp://host", "http://host?key=hunter2", "http://host#x"] {
            let pushgateway = WatchSpec { pushgateway: address.into(), ..good.clone() };
            assert_eq!(keys(&pushgateway), ["watch.pushgateway"], "{address}");
            assert!(!format!("{:?}{pushgateway:?}", pushgateway.problems()).contains("hunter2"));
            assert_eq!(keys(&WatchSpec { otlp: address.into(), ..good.clone() }), ["watch.otlp"], "{address}");
        }
        for address in ["file:///events.jsonl", "kafka://host/topic"] {
            assert_eq!(keys(&WatchSpec { openlineage: address.into(), ..good.clone() }), ["watch.openlineage"]);
        }
        for namespace in ["", " ", "a\nb"] {
            let wrong = WatchSpec { openlineage_namespace: namespace.into(), ..good.clone() };
            assert_eq!(keys(&wrong), ["watch.openlineage_namespace"]);
        }
    }
}
