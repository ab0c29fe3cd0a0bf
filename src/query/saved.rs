//! Saved queries: those inside the binary, `sql/queries/<name>.sql`, and a job's own, which come first.
//!
//! Knows names and texts. A name chooses among files that were found; it never becomes a path. Knows nothing of sessions.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::settings::read_text;
use crate::table::builtin::QUERIES;

/// A query that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedQuery {
    /// What it answers: its first comment line.
    pub about: String,
    /// The SQL.
    pub text: String,
    /// Its file, for messages.
    pub origin: String,
}

impl SavedQuery {
    fn new(text: &str, origin: String) -> SavedQuery {
        let about = text.lines().find_map(|line| line.trim().strip_prefix("--")).unwrap_or_default();
        SavedQuery { about: about.trim().to_owned(), text: text.to_owned(), origin }
    }
}

/// All saved queries by name: those inside the binary, replaced and joined by the files of `<folder>/queries`. `folder` is the
/// job's `[project] sql`.
///
/// # Errors
/// `Kind::Config` where the folder or a file in it cannot be read.
pub fn all(folder: Option<&Path>) -> Result<BTreeMap<String, SavedQuery>> {
    let builtin = QUERIES
        .iter()
        .map(|(name, text)| ((*name).to_owned(), SavedQuery::new(text, format!("sql/queries/{name}.sql (built in)"))));
    let mut queries: BTreeMap<String, SavedQuery> = builtin.collect();
    let Some(folder) = folder.map(|folder| folder.join("queries")) else { return Ok(queries) };
    let failed = || format!("cannot read the folder {}", folder.display());
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(queries),
        entries => entries.context(Kind::Config, failed)?,
    };
    for entry in entries {
        let path = entry.context(Kind::Config, failed)?.path();
        let Some(name) = path.file_stem().map(|name| name.to_string_lossy().into_owned()) else { continue };
        // What editors and file systems leave beside a file is no query.
        if path.extension().is_some_and(|e| e == "sql") && !name.starts_with('.') {
            let text = read_text(&path, "a saved query", "make it readable, or remove it")?;
            queries.insert(name, SavedQuery::new(&text, path.display().to_string()));
        }
    }
    Ok(queries)
}

/// The saved query of a name.
///
/// # Errors
/// `Kind::Usage` for a name that none has, with all names; as [`all`].
pub fn find(name: &str, folder: Option<&Path>) -> Result<SavedQuery> {
    let mut queries = all(folder)?;
    queries.remove(name).ok_or_else(|| {
        Error::new(Kind::Usage, "there is no saved query of this name")
            .with("query", name)
            .hint(format!("choose one of these:\n{}", listed(&queries).trim_end()))
    })
}

/// Names with what each query answers, one a line.
pub fn listed(queries: &BTreeMap<String, SavedQuery>) -> String {
    let width = queries.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    queries.iter().map(|(name, query)| format!("{name:width$}  {}\n", query.about)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::query::statements;

    #[test]
    fn the_queries_that_ship_say_what_they_answer_and_only_read() {
        let queries = all(None).unwrap();
        let names: Vec<&str> = queries.keys().map(String::as_str).collect();
        assert_eq!(names, ["best-and-worst", "changed-since", "cost", "quality-by-category", "refusals"]);
        for (name, query) in &queries {
            assert!(query.about.contains('?'), "{name} does not say which question it answers: {}", query.about);
            assert_eq!(statements::split(&query.text, Some(&query.origin)).unwrap().len(), 1, "{name}");
        }
        assert_eq!(listed(&queries).lines().count(), queries.len());
    }

    #[test]
    fn a_job_s_own_queries_come_first_and_no_name_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("queries");
        assert_eq!(all(Some(folder.path())).unwrap(), all(None).unwrap());
        std::fs::create_dir(&own).unwrap();
        for (file, text) in [
            ("cost.sql", "-- Mine\nselect 1"),
            ("more.sql", "select 2"),
            (".more.sql", "select 3"),
            ("notes.txt", "no query"),
        ] {
            std::fs::write(own.join(file), text).unwrap();
        }
        std::fs::write(folder.path().join("secret.sql"), "select 4").unwrap();
        let queries = all(Some(folder.path())).unwrap();
        assert_eq!((queries["cost"].about.as_str(), queries["cost"].text.as_str()), ("Mine", "-- Mine\nselect 1"));
        assert_eq!((queries["more"].about.as_str(), queries.len()), ("", all(None).unwrap().len() + 1));
        for name in ["../secret", "nothing", ".more", ""] {
            let e = find(name, Some(folder.path())).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.explain().contains("quality-by-category") && e.explain().contains("Mine"), "{}", e.explain());
        }
        assert!(find("cost", None).unwrap().text.contains("completion_tokens"));
    }
}
