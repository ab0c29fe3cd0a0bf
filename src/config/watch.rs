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
}

impl fmt::Debug for WatchSpec {
    /// Without the values: an address may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchSpec")
            .field("prometheus_file", &!self.prometheus_file.is_empty())
            .field("pushgateway", &!self.pushgateway.is_empty())
            .field("openlineage", &!self.openlineage.is_empty())
            .finish_non_exhaustive()
    }
}

impl WatchSpec {
    /// What is wrong with the values, by key. Values are not quoted, since an address may hold a password.
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        let file = &self.prometheus_file;
        if !file.is_empty() && (file.contains("://") || !file.ends_with(".prom")) {
            let why = "must be a path on this machine that ends in .prom: node_exporter reads no other files";
            found.push(("watch.prometheus_file", why));
        }
        if !self.pushgateway.is_empty()
            && let Some(why) = wrong_address(&self.pushgateway)
        {
            found.push(("watch.pushgateway", why));
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
    fn places_that_cannot_work_are_named_and_not_quoted() {
        let good = WatchSpec { openlineage_namespace: "curec".into(), ..WatchSpec::default() };
        assert!(keys(&good).is_empty());
        let all = WatchSpec {
            prometheus_file: "metrics/nightly.prom".into(),
            pushgateway: "http://user:hunter2@host:9091/prefix".into(),
            openlineage: "events.jsonl".into(),
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
