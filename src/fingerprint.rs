//! Fingerprints: what a thing was made from, as canonical `key=value` pairs, and one digest over them.
//!
//! A fingerprint names the way of building and its version among its pairs, so that what another version has built never
//! passes for what this one builds. Values are texts that a reader can compare: numbers in their shortest form, settings by
//! their serialised names. How a type prints itself for debugging is never among them: that changes with a compiler, a
//! field's name or a derive. Knows nothing of tables, models or files.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Context, Kind, Result};

/// The pair that names the way of building and its version.
pub const METHOD: &str = "method";

/// What a thing was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    pairs: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Of what `way` builds; its version changes whenever code changes what it writes.
    pub fn new(way: &str, version: u32) -> Self {
        Fingerprint { pairs: BTreeMap::from([(METHOD.to_owned(), format!("{way}/{version}"))]) }
    }

    /// Adds a pair, in place of the one with that key.
    pub fn add(&mut self, key: impl Into<String>, value: impl Display) -> &mut Self {
        self.pairs.insert(key.into(), value.to_string());
        self
    }

    /// Adds a pair for each value of some settings: `section.key`, `section.list.0`.
    ///
    /// # Errors
    /// `Kind::Internal` for a type that has no serialised form.
    pub fn add_settings(&mut self, section: &str, settings: &impl Serialize) -> Result<&mut Self> {
        let value =
            serde_json::to_value(settings).context(Kind::Internal, || format!("settings of {section} have no form"))?;
        flatten(section, &value, &mut self.pairs);
        Ok(self)
    }

    /// The pairs by key.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.pairs
    }

    /// The pairs by key.
    pub fn into_pairs(self) -> BTreeMap<String, String> {
        self.pairs
    }

    /// The digest: blake3, 32 hex digits.
    pub fn digest(&self) -> String {
        digest(&self.pairs)
    }
}

/// One digest over pairs: blake3, 32 hex digits. Lengths stand before what they count, so that no two sets of pairs give
/// the same bytes.
pub fn digest(pairs: &BTreeMap<String, String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in pairs {
        hasher.update(format!("{}:{key}={}:{value};", key.len(), value.len()).as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_string()
}

/// The leaves of a value as pairs. Texts stand in quotes, so that none passes for a number; a list tells its length.
fn flatten(key: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, into)),
        Value::Array(values) => {
            into.insert(key.to_owned(), format!("[{}]", values.len()));
            values.iter().enumerate().for_each(|(i, value)| flatten(&format!("{key}.{i}"), value, into));
        }
        leaf => _ = into.insert(key.to_owned(), leaf.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Serialize, Clone)]
    struct Settings {
        rate: f64,
        name: Option<String>,
        parts: Vec<u32>,
    }

    fn of(settings: &Settings) -> Fingerprint {
        let mut made = Fingerprint::new("thing", 1);
        made.add_settings("of", settings).unwrap();
        made
    }

    #[test]
    fn every_pair_counts_and_their_order_does_not() {
        let mut one = Fingerprint::new("thing", 1);
        one.add("a", 1).add("b", "x");
        let mut other = Fingerprint::new("thing", 1);
        other.add("b", "x").add("a", 1);
        assert_eq!(one.digest(), other.digest());
        assert_eq!((one.digest().len(), one.pairs()[METHOD].as_str()), (32, "thing/1"));
        other.add("a", 2);
        assert_ne!(one.digest(), other.digest());
        let mut next = Fingerprint::new("thing", 2);
        next.add("a", 1).add("b", "x");
        assert_ne!(one.digest(), next.digest(), "the version counts");
        // No pair runs into the next one.
        let mut torn = Fingerprint::new("thing", 1);
        torn.add("a", "1;1:b=1:x");
        assert_ne!(one.digest(), torn.digest());
    }

    #[test]
    fn settings_are_their_values_by_name() {
        let settings = Settings { rate: 0.1, name: Some("1".into()), parts: vec![7, 8] };
        let pairs = of(&settings).into_pairs();
        let found: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            found,
            ["method=thing/1", "of.name=\"1\"", "of.parts=[2]", "of.parts.0=7", "of.parts.1=8", "of.rate=0.1"]
        );
        for other in [
            Settings { rate: 0.2, ..settings.clone() },
            Settings { name: None, ..settings.clone() },
            Settings { name: Some("null".into()), ..settings.clone() },
            Settings { parts: vec![8, 7], ..settings.clone() },
            Settings { parts: Vec::new(), ..settings.clone() },
        ] {
            assert_ne!(of(&settings).digest(), of(&other).digest());
        }
    }
}
