//! Files for people that name a user: the quarantine, reports and manifests of runs.
//!
//! A sample is found by its ids; one about an item or a pair also where it shows sentences that a user wrote. Texts, such as an error
//! that shows the rows that failed, are searched for the id as a word, so that too much goes rather than too little where
//! ids are short numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use futures::TryStreamExt;
use serde_json::Value;

use crate::error::{Context, Kind, Result};
use crate::night::manifest::{Forgotten, Manifest};
use crate::night::report;
use crate::operate::tellers::{TELLING, Told};
use crate::printable;
use crate::table::filter::{count_each, count_matching, read_texts};
use crate::table::store::{Entry, Location};

/// Where rows that failed an audit are kept.
pub const QUARANTINES: [&str; 2] = ["_quarantine", "quarantine"];

/// Members of reports and manifests that hold text for people, in which failing rows may be shown.
const FOR_PEOPLE: [&str; 4] = ["error", "error_detail", "detail", "message"];

/// What stands in place of a text that named a user.
const REMOVED: &str = "(removed by curec forget: it named a user)";

/// Removes users from the files of one warehouse.
pub struct Scrub<'a> {
    root: &'a Location,
    users: &'a BTreeSet<String>,
    told: &'a Told,
    is_dry: bool,
    found: Mutex<BTreeSet<String>>,
}

impl<'a> Scrub<'a> {
    /// For the users of a warehouse and the items of which they told; a dry one only counts.
    pub fn new(root: &'a Location, users: &'a BTreeSet<String>, told: &'a Told, is_dry: bool) -> Self {
        Scrub { root, users, told, is_dry, found: Mutex::default() }
    }

    /// The ids that something named.
    pub fn into_found(self) -> BTreeSet<String> {
        self.found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a text is a user's id; then it is found.
    fn is_user(&self, text: &str) -> bool {
        let is_user = self.users.contains(text);
        if is_user {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned());
        }
        is_user
    }

    /// Removes files of the quarantine that name a user, whole: they are kept for people only.
    ///
    /// # Errors
    /// The store's.
    pub async fn quarantine(&self, found: &mut Forgotten) -> Result<()> {
        for folder in QUARANTINES {
            for entry in self.root.child(folder).list().await? {
                let is_naming = match entry.location.name().ends_with(".parquet") {
                    true => self.names_in_parquet(&entry).await?,
                    false => match entry.location.get().await? {
                        Some(bytes) => self.mentions(&String::from_utf8_lossy(&bytes)),
                        None => false,
                    },
                };
                if is_naming {
                    found.quarantined_files += 1;
                    if !self.is_dry {
                        entry.location.delete().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a quarantined Parquet file names a user: in its column `user_id` where it has one, else in rows that
    /// stand in it as JSON. One that cannot be read counts as naming.
    async fn names_in_parquet(&self, entry: &Entry) -> Result<bool> {
        let users = self.users;
        let looked: Result<bool> = async {
            let mut is_naming = false;
            if let Some(mut rows) = read_texts(&entry.location, entry.size, &["failing_row"]).await? {
                while let Some(texts) = rows.try_next().await? {
                    let names = |row: &str| serde_json::from_str(row).map_or(true, |row: Value| self.is_in_row(&row));
                    // All of them, not up to the first: every id that stands there is found.
                    is_naming |= texts.iter().flatten().flatten().filter(|row| names(row)).count() > 0;
                }
            }
            let each = count_each(&entry.location, entry.size, "user_id", users).await?;
            let is_telling = |table: &&str| entry.location.url().contains(&format!("/{table}/dt="));
            if TELLING.iter().any(is_telling) {
                let items = self.told.items();
                is_naming |= count_matching(&entry.location, entry.size, "item_id", items).await? > 0;
            }
            Ok(is_naming | (each.keys().filter(|user| self.is_user(user)).count() > 0))
        }
        .await;
        match looked {
            Err(e) if matches!(e.kind(), Kind::Input | Kind::Internal) => Ok(true),
            found => found,
        }
    }

    /// Whether an item of which a user told stands there.
    fn is_told(&self, item: Option<&Value>) -> bool {
        item.and_then(Value::as_str).is_some_and(|item| self.told.items().contains(item))
    }

    /// Whether a row that failed an audit, as JSON, holds a user's id in any column but the item's, or was made of what a
    /// user told of an item.
    fn is_in_row(&self, row: &Value) -> bool {
        let is_made_of_it = self.is_told(row.get("item_id"))
            && ["prompt_key", "embedding"].iter().any(|column| row.get(column).is_some());
        is_made_of_it | self.holds_user(row)
    }

    fn holds_user(&self, row: &Value) -> bool {
        match row {
            Value::String(text) => self.is_user(text),
            Value::Number(number) => self.is_user(&number.to_string()),
            Value::Array(values) => values.iter().fold(false, |any, value| self.holds_user(value) | any),
            Value::Object(columns) => {
                columns.iter().fold(false, |any, (name, value)| (name != "item_id" && self.holds_user(value)) | any)
            }
            _ => false,
        }
    }

    /// The same for a row that stands in a text.
    fn is_row_text(&self, text: &str) -> bool {
        text.starts_with('{') && serde_json::from_str(text).is_ok_and(|row: Value| self.is_in_row(&row))
    }

    /// Whether a text for people holds a user's id as a word of its own, plain or as JSON, HTML or an error write it.
    fn mentions(&self, text: &str) -> bool {
        let is_alone = |(place, found): (usize, &str)| {
            let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
            edge(text[..place].chars().next_back()) && edge(text[place + found.len()..].chars().next())
        };
        let is_mentioned = |user: &&String| {
            // Errors cut keys at 80 characters.
            let user: String = user.chars().take(80).collect();
            let json = Value::from(user.as_str()).to_string();
            let (html, shown) = (printable::html(&user), printable::line(&user));
            [user.as_str(), &json[1..json.len() - 1], &html, &shown]
                .iter()
                .any(|form| text.match_indices(form).any(is_alone))
        };
        self.users.iter().filter(is_mentioned).filter(|user| self.is_user(user)).count() > 0
    }

    /// Takes samples and errors that name a user out of reports and manifests, and makes their pages again.
    ///
    /// # Errors
    /// The store's.
    pub async fn runs(&self, found: &mut Forgotten) -> Result<()> {
        let entries = self.root.child("_runs").list().await?;
        let is_dry = self.is_dry;
        let mut pages: BTreeMap<String, Location> = BTreeMap::new();
        for entry in entries.iter().filter(|e| e.location.name() == "report.html") {
            pages.insert(entry.location.url().to_string(), entry.location.clone());
        }
        for entry in entries.iter().filter(|e| e.location.name().ends_with(".json")) {
            let Some(bytes) = entry.location.get().await? else { continue };
            let Ok(mut json) = serde_json::from_slice::<Value>(&bytes) else {
                if self.mentions(&String::from_utf8_lossy(&bytes)) {
                    found.run_files += 1;
                    if !is_dry {
                        entry.location.delete().await?;
                    }
                }
                continue;
            };
            let is_report = entry.location.name() == "report.json";
            let page = entry.location.url().strip_suffix("report.json").map(|folder| format!("{folder}report.html"));
            let page = page.filter(|_| is_report).and_then(|page| pages.remove(&page));
            if !self.clean(&mut json) {
                continue;
            }
            found.run_files += 1;
            // The page first: while the report names the user, a page that does is found.
            if let Some(page) = page {
                match rendered(&json) {
                    Some(html) if !is_dry => page.put(html.into()).await?,
                    Some(_) => {}
                    None => {
                        found.pages_removed += 1;
                        if !is_dry {
                            page.delete().await?;
                        }
                    }
                }
            }
            if !is_dry {
                let text =
                    serde_json::to_string_pretty(&json).context(Kind::Internal, || "a report is not JSON".into())?;
                entry.location.put(text.into()).await?;
            }
        }
        // Pages whose report is gone or damaged.
        for page in pages.into_values() {
            let Some(bytes) = page.get().await? else { continue };
            if self.mentions(&String::from_utf8_lossy(&bytes)) {
                found.pages_removed += 1;
                if !is_dry {
                    page.delete().await?;
                }
            }
        }
        Ok(())
    }

    /// Removes what names a user from a report or manifest; whether there was anything.
    fn clean(&self, value: &mut Value) -> bool {
        let is_user = |v: Option<&Value>| v.and_then(Value::as_str).is_some_and(|v| self.is_user(v));
        // A sample's entity is the item where the reason is about an item; of a pair it is the user.
        let is_item = |v: &Value| v.get("kind") == Some(&"item".into());
        let names = |v: &Value| {
            is_user(v.get("user_id"))
                || (is_user(v.get("entity")) && !is_item(v))
                || (is_item(v) && self.is_told(v.get("entity")))
                || (v.get("kind") == Some(&"pair".into()) && self.is_told(v.get("item")))
                || v.as_str().is_some_and(|text| self.is_row_text(text))
        };
        match value {
            Value::Array(values) => {
                let before = values.len();
                values.retain(|v| !names(v));
                let removed = values.len() < before;
                values.iter_mut().fold(removed, |any, v| self.clean(v) || any)
            }
            Value::Object(members) => members.iter_mut().fold(false, |any, (key, v)| match v {
                Value::String(text)
                    if (FOR_PEOPLE.contains(&key.as_str()) && self.mentions(text)) || self.is_row_text(text) =>
                {
                    *text = REMOVED.to_string();
                    true
                }
                v => self.clean(v) || any,
            }),
            _ => false,
        }
    }
}

/// The page of a report; `None` where its JSON is not what this version writes.
fn rendered(json: &Value) -> Option<String> {
    let manifest: Manifest = serde_json::from_value(json.get("manifest")?.clone()).ok()?;
    let details: report::Details = serde_json::from_value(json.get("details")?.clone()).ok()?;
    report::html(&manifest, &details).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn with(ids: &[&str], check: impl Fn(&Scrub<'_>)) {
        let root = Location::parse("memory://scrub/w").unwrap();
        let users = ids.iter().map(ToString::to_string).collect();
        check(&Scrub::new(&root, &users, &Told::default(), true));
    }

    #[test]
    fn an_id_is_found_as_a_word_however_it_is_written() {
        with(&["7", "a\"<b>"], |scrub| {
            for text in
                ["7", "user_id=7, item_id=9", "| 7   |", "x a\"<b> y", "{\"user_id\":\"a\\\"<b>\"}", "a&quot;&lt;b&gt;"]
            {
                assert!(scrub.mentions(text), "{text}");
            }
            for text in ["", "17", "7th", "a<b>", "\u{664}7"] {
                assert!(!scrub.mentions(text), "{text}");
            }
        });
        with(&[&"long ".repeat(40)], |scrub| {
            assert!(scrub.mentions(&format!("key: {}", &"long ".repeat(16))), "errors cut keys at 80 characters");
        });
    }

    #[test]
    fn samples_and_errors_go_and_everything_else_stays() {
        let report = json!({
            "manifest": {"run_id": "test-7", "error": "1 row\n| 7 |", "tables": [{"rows": 7, "why": ["7 things"]}]},
            "details": {
                "accepted": [
                    {"kind": "history", "entity": "7", "reason": "x"},
                    {"kind": "history", "entity": "77", "reason": "7 films"},
                    {"kind": "item", "entity": "7", "reason": "y"},
                    {"kind": "pair", "entity": "77", "item": "7", "reason": "z"},
                    {"kind": "pair", "entity": "7", "item": "8", "reason": "7 films"},
                ],
                "rows": ["{\"user_id\":\"7\"}", "{\"item_id\":\"7\"}"],
            },
        });
        with(&["7"], |scrub| {
            let mut cleaned = report.clone();
            assert!(scrub.clean(&mut cleaned));
            let mut expected = report.clone();
            expected["manifest"]["error"] = REMOVED.into();
            expected["details"]["accepted"].as_array_mut().unwrap().remove(4);
            expected["details"]["accepted"].as_array_mut().unwrap().remove(0);
            expected["details"]["rows"].as_array_mut().unwrap().remove(0);
            assert_eq!(cleaned, expected);
            assert!(!scrub.clean(&mut cleaned), "cleaned once, clean for good");
        });
    }
}
