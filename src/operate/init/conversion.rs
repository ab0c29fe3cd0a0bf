//! Where a job finds its inputs, and the commands that write those which it cannot read as they are.
//!
//! Knows what jobs read (Parquet: a file or a folder), what `curec import` writes, and how words are quoted for a shell. Runs
//! nothing.

use crate::operate::init::moments::Moments;
use crate::operate::init::proposal::{Mapping, Proposal};
use crate::operate::init::texts::Layout;
use crate::printable::steers;

/// The files of a table, as they were asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// What a job can name; `None`: only a pattern says which files are meant.
    pub(super) place: Option<String>,
    /// The path, URL or pattern.
    pub(super) pattern: String,
    /// How the files hold their rows.
    pub(super) layout: Layout,
}

impl Asked {
    /// The file, where it is one on this machine, as importers want it.
    fn local_file(&self) -> Option<&str> {
        let is_file = self.place.as_deref() == Some(self.pattern.as_str()) && !self.pattern.contains("://");
        is_file.then_some(self.pattern.as_str())
    }
}

/// The tables that were asked for.
#[derive(Debug)]
pub(super) struct AllAsked {
    pub(super) interaction: Asked,
    pub(super) item: Option<Asked>,
    pub(super) review: Option<Asked>,
}

/// Where a job finds a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// What the job file names.
    pub(super) path: String,
    /// Whether the columns have the contract's names and types there, whatever they are called in the files.
    pub(super) is_ours: bool,
}

/// The inputs of a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    pub(super) interaction: Input,
    pub(super) item: Input,
    pub(super) review: Option<Input>,
    /// Commands for a shell that write what is not there yet, in order.
    pub(super) commands: Vec<String>,
}

/// Where a job in `folder` finds its inputs. Without items its file of them is one that holds none.
pub(super) fn inputs_of(proposal: &Proposal, asked: &AllAsked, folder: &str) -> Inputs {
    let written = |name: &str, is_ours: bool| Input { path: format!("{folder}/input/{name}.parquet"), is_ours };
    let mut commands = Vec::new();
    let imported = imported(proposal, asked, folder);
    let (has_items, has_reviews) = imported.as_ref().map_or((false, false), |i| (i.has_items, i.has_reviews));
    let is_imported = imported.is_some();
    commands.extend(imported.map(|imported| imported.command));
    let mut place = |asked: &Asked, mapping: Option<&Mapping>, name: &str| match (&asked.place, asked.layout) {
        (Some(path), Layout::Parquet) => Input { path: path.clone(), is_ours: false },
        _ => {
            let input = written(name, false);
            commands.push(duckdb(asked, mapping, &input.path));
            input
        }
    };
    let interaction = match is_imported {
        true => written("interaction", true),
        false => place(&asked.interaction, Some(&proposal.interaction), "interaction"),
    };
    let item = match &asked.item {
        Some(item) if !has_items => place(item, proposal.item.as_ref(), "item"),
        _ => written("item", true),
    };
    let review = match &asked.review {
        Some(review) if has_reviews && review.pattern != asked.interaction.pattern => {
            Some(place(review, proposal.review.as_ref(), "reviews"))
        }
        Some(review) if !has_reviews => Some(place(review, proposal.review.as_ref(), "review")),
        _ => has_reviews.then(|| written("review", true)),
    };
    Inputs { interaction, item, review, commands }
}

/// A call of `curec import` that writes the log, and what else it writes.
struct Imported {
    command: String,
    has_items: bool,
    has_reviews: bool,
}

fn imported(proposal: &Proposal, asked: &AllAsked, folder: &str) -> Option<Imported> {
    match asked.interaction.layout {
        Layout::Parquet => None,
        Layout::Separated(separator) => import_csv(proposal, asked, separator, folder),
        Layout::JsonLines => import_jsonl(proposal, asked, folder),
    }
}

fn import_csv(proposal: &Proposal, asked: &AllAsked, separator: u8, folder: &str) -> Option<Imported> {
    let file = asked.interaction.local_file()?;
    let unit = match proposal.moments.as_ref()? {
        Moments::Counted(unit) | Moments::Fractions(unit) => *unit,
        Moments::Texts => "text",
        Moments::Stored | Moments::Unknown(_) => return None,
    };
    let log = &proposal.interaction;
    let (_, item_id) = (log.carried("user_id")?, log.carried("item_id")?);
    let mut pairs = pairs_of(log)?;
    let items = asked.item.as_ref().zip(proposal.item.as_ref()).and_then(|(asked, mapping)| {
        let is_like = asked.layout == Layout::Separated(separator) && mapping.carried("item_id") == Some(item_id);
        let mut own: Vec<_> = pairs_of(mapping)?.into_iter().filter(|pair| !pair.starts_with("item_id=")).collect();
        let between = category_separator(mapping)?;
        if between != "|" {
            own.push(format!("category_separator={between}"));
        }
        asked.local_file().filter(|_| is_like).map(|file| (file.to_owned(), own))
    });
    if unit != "s" {
        pairs.push(format!("time_unit={unit}"));
    }
    match separator {
        b',' => {}
        b'\t' => pairs.push("separator=tab".to_owned()),
        other => pairs.push(format!("separator={}", char::from(other))),
    }
    let mut words = vec!["curec".to_owned(), "import".to_owned(), "csv".to_owned(), shell(file)];
    let has_items = items.is_some();
    if let Some((file, own)) = items {
        pairs.extend(own);
        words.extend(["--items".to_owned(), shell(&file)]);
    }
    if !pairs.is_empty() {
        words.extend(["--mapping".to_owned(), shell(&pairs.join(","))]);
    }
    words.extend(["--out".to_owned(), shell(&format!("{folder}/input"))]);
    Some(Imported { command: words.join(" "), has_items, has_reviews: false })
}

/// What separates the categories and the people for `curec import csv`, which has one character for both; `None`: it cannot read
/// them as they are meant.
fn category_separator(items: &Mapping) -> Option<&'static str> {
    // By its own name the importer would read even a list that nobody could tell.
    let is_list = |column: &str| matches!(column, "categories" | "people");
    let is_read_anyway = items.open.iter().any(|open| open.is_left_out() && is_list(&open.column));
    let mut all = items.taken.iter().filter_map(|taken| taken.between);
    let first = all.next().unwrap_or("|");
    // A comma cannot stand in `--mapping`.
    let is_fit = !first.contains(',') && all.all(|other| other == first);
    (is_fit && !is_read_anyway).then(|| first.trim())
}

/// The pairs of `--mapping` for a table; `None` where a name cannot stand there.
fn pairs_of(mapping: &Mapping) -> Option<Vec<String>> {
    let can_stand = |name: &str| name.trim() == name && !name.chars().any(|c| steers(c) || matches!(c, ',' | '='));
    if !mapping.taken.iter().all(|taken| can_stand(&taken.carried)) {
        return None;
    }
    let others = mapping.taken.iter().filter(|taken| taken.column != taken.carried);
    Some(others.map(|taken| format!("{}={}", taken.column, taken.carried)).collect())
}

/// Amazon's files of reviews, which have an importer of their own.
fn import_jsonl(proposal: &Proposal, asked: &AllAsked, folder: &str) -> Option<Imported> {
    let file = asked.interaction.local_file()?;
    let log = &proposal.interaction;
    let carried = ["user_id", "item_id", "event_timestamp"].map(|column| log.carried(column));
    let is_amazon = carried == [Some("reviewerID"), Some("asin"), Some("unixReviewTime")] && proposal.unit() == "s";
    let items = asked.item.as_ref().zip(proposal.item.as_ref()).and_then(|(asked, mapping)| {
        let is_like = asked.layout == Layout::JsonLines && mapping.carried("item_id") == Some("asin");
        asked.local_file().filter(|_| is_like)
    });
    let mut words = vec!["curec".to_owned(), "import".to_owned(), "jsonl".to_owned(), shell(file)];
    words.extend(items.into_iter().flat_map(|file| ["--metadata".to_owned(), shell(file)]));
    words.extend(["--out".to_owned(), shell(&format!("{folder}/input"))]);
    is_amazon.then(|| Imported { command: words.join(" "), has_items: items.is_some(), has_reviews: true })
}

/// A call of DuckDB that writes files as Parquet, with their own columns, of which some are made to fit.
fn duckdb(asked: &Asked, mapping: Option<&Mapping>, out: &str) -> String {
    let reader = match asked.layout {
        Layout::Parquet => "read_parquet",
        Layout::Separated(_) => "read_csv",
        Layout::JsonLines => "read_json",
    };
    let text = |path: &str| format!("'{}'", path.replace('\'', "''"));
    let taken = mapping.map(|mapping| mapping.taken.as_slice()).unwrap_or_default();
    let mut casts: Vec<(&str, String)> = Vec::new();
    for taken in taken {
        let known = casts.iter().any(|(carried, _)| *carried == taken.carried);
        if let Some(cast) = taken.cast.as_ref().filter(|_| !known) {
            casts.push((taken.carried.as_str(), format!("{cast} AS \"{}\"", taken.carried.replace('"', "\"\""))));
        }
    }
    let replaced: Vec<&str> = casts.iter().map(|(_, cast)| cast.as_str()).collect();
    let select = match replaced.is_empty() {
        true => String::new(),
        false => format!("SELECT * REPLACE ({}) ", replaced.join(", ")),
    };
    let copy = format!("COPY ({select}FROM {reader}({})) TO {} (FORMAT parquet)", text(&asked.pattern), text(out));
    format!("duckdb -c {}", shell(&copy))
}

/// A word of a shell's command line, quoted where it has to be.
pub(super) fn shell(word: &str) -> String {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '=' | ',' | ':' | '@' | '+');
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    match word.contains(['"', '$', '`', '\\', '!']) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => format!("\"{word}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, quoted) in [
            ("/a/b-1.csv", "/a/b-1.csv"),
            ("a b", "\"a b\""),
            ("it's", "\"it's\""),
            ("$HOME's", "'$HOME'\\''s'"),
            ("`id`", "'`id`'"),
            ("", "\"\""),
        ] {
            assert_eq!(shell(word), quoted);
        }
    }

    #[test]
    fn texts_of_sql_are_quoted() {
        let asked = Asked { place: None, pattern: "/it's/*.csv".to_owned(), layout: Layout::Separated(b',') };
        let wanted = "duckdb -c \"COPY (FROM read_csv('/it''s/*.csv')) TO '/o.parquet' (FORMAT parquet)\"";
        assert_eq!(duckdb(&asked, None, "/o.parquet"), wanted);
    }
}
