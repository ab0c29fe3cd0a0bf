//! The job file of a proposal, with comments.
//!
//! Names and values of the data get into it as quoted texts of TOML in which whatever steers is escaped, and into comments written
//! out. Knows what a job file says; writes nothing.

use crate::config::Meaning;
use crate::operate::init::conversion::{Input, Inputs};
use crate::operate::init::proposal::{Mapping, Proposal};
use crate::printable::{self, steers};

/// The mark of what a person has to decide.
pub(super) const UNDECIDED: &str = "UNDECIDED";
/// The longest line of a comment, in characters.
const WIDTH: usize = 118;

/// What a job file says besides the inputs.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// The job's name.
    pub(super) name: &'a str,
    /// The folder of the job, absolute.
    pub(super) folder: &'a str,
    /// The language model.
    pub(super) generator: &'a str,
    /// The sentence encoder.
    pub(super) encoder: &'a str,
    /// Whether the job has copies of the definitions and contracts.
    pub(super) has_sql: bool,
    /// What was looked at, one sentence a table.
    pub(super) looked_at: &'a [String],
}

/// The text of a job file.
pub(super) fn job_file(proposal: &Proposal, inputs: &Inputs, frame: &Frame<'_>) -> String {
    let mut file = Lines::default();
    file.comment(&format!(
        "Proposed by `curec init` from a sample of your files: read it, decide what is {UNDECIDED}, then `curec check`, \
         `curec plan` and `curec run`. \
         Every other key has its default; `curec config` prints all of them with their meaning."
    ));
    file.entry("name", frame.name);
    file.entry("warehouse", format!("{}/warehouse", frame.folder));
    file.section("input");
    for sentence in frame.looked_at {
        file.comment(sentence);
    }
    if !inputs.commands.is_empty() {
        file.comment("A job reads Parquet. What is not yet there is written by:");
        inputs.commands.iter().for_each(|command| file.literal(command));
    }
    file.entry("interaction", inputs.interaction.path.as_str());
    if proposal.item.is_none() {
        file.comment("No items were named: this file holds none, so nothing is told of them. Put your catalogue here.");
    }
    file.entry("item", inputs.item.path.as_str());
    if let Some(review) = &inputs.review {
        file.entry("review", review.path.as_str());
    }
    if !inputs.interaction.is_ours && !proposal.unit().is_empty() {
        file.comment("By the size of the numbers.");
        file.entry("timestamp_unit", proposal.unit());
    }
    columns(&mut file, &proposal.interaction, &inputs.interaction);
    if let Some(item) = &proposal.item {
        columns(&mut file, item, &inputs.item);
    }
    if let (Some(review), Some(input)) = (&proposal.review, &inputs.review) {
        columns(&mut file, review, input);
    }
    events(&mut file, proposal);
    ratings(&mut file, proposal);
    file.section("model");
    file.entry("generator", frame.generator);
    file.entry("encoder", frame.encoder);
    file.section("prompt");
    file.comment("Built in. To change the words, name the copies:");
    file.entry("item", "item");
    file.idea("item", format!("{}/prompts/item.j2", frame.folder));
    file.entry("history", "history");
    file.idea("history", format!("{}/prompts/history.j2", frame.folder));
    if !proposal.attributes.is_empty() && !inputs.item.is_ours {
        file.blank();
        file.comment("Further columns of the items that can be told, each with its label:");
        file.literal("[evidence.attributes]");
        for (column, label) in &proposal.attributes {
            file.idea(column, label.as_str());
        }
    }
    if frame.has_sql {
        file.section("project");
        file.comment(
            "Copies of the built-in definitions and contracts; one that you remove is the built-in one again.",
        );
        file.entry("sql", format!("{}/sql", frame.folder));
        file.entry("schemas", format!("{}/schemas", frame.folder));
    }
    file.text
}

/// `[input.columns]` of a table.
fn columns(file: &mut Lines, mapping: &Mapping, input: &Input) {
    let table = mapping.table;
    if input.is_ours {
        file.blank();
        let read = mapping.taken.iter().map(|taken| format!("{} from {}", taken.column, taken.carried));
        file.comment(&format!("`curec import` gives {table} our names: {}.", read.collect::<Vec<_>>().join(", ")));
    } else {
        file.section(&format!("input.columns.{table}"));
        for taken in &mapping.taken {
            if !taken.about.is_empty() {
                file.comment(&format!("{}.", taken.about));
            }
            file.entry(&taken.column, taken.carried.as_str());
        }
    }
    for open in &mapping.open {
        let need = if open.is_needed { " No job runs without it." } else { "" };
        file.comment(&format!("{UNDECIDED}: {}: {}.{need}", open.column, open.why));
        // The reader of a job file would put a variable in its place.
        for name in open.found.iter().filter(|name| !input.is_ours && !name.contains("${")) {
            file.idea(&open.column, name.as_str());
        }
        if open.is_left_out() && !input.is_ours {
            file.comment(
                "Empty: not read, whatever the files have under this name. Without this line the job would stop at it.",
            );
            file.entry(&open.column, "");
        }
    }
    for note in &mapping.notes {
        file.comment(&format!("{note}."));
    }
}

/// `[events]`, where the log tells kinds of events.
fn events(file: &mut Lines, proposal: &Proposal) {
    let Some(events) = &proposal.events else { return };
    file.section("events");
    file.comment(
        "What events without a rating mean: like, dislike, none (it happened) or drop (it is not read). First all others, also \
         rare ones that the sample does not have.",
    );
    file.entry("other", events.other.name());
    file.section("events.meaning");
    file.comment("With the rows of each value in the sample.");
    for event in &events.values {
        if event.value.contains("${") {
            file.comment(&format!("{}: {}, whose name cannot stand here; as `other`.", event.rows, event.value));
            continue;
        }
        file.comment(&format!("{}:", event.rows));
        match event.meaning {
            Some(meaning) => file.entry(&event.value, meaning.name()),
            None => {
                file.comment(&format!("{UNDECIDED}: {}; as `other` until then.", event.why()));
                file.idea(&event.value, Meaning::Like.name());
            }
        }
    }
}

/// `[history]`: what a rating says.
fn ratings(file: &mut Lines, proposal: &Proposal) {
    file.section("history");
    let Some(scale) = &proposal.scale else {
        file.comment(
            "The log has no ratings (implicit feedback): what is a like is said by [events], not by like_threshold.",
        );
        return;
    };
    file.comment(&format!("Ratings (explicit feedback): {}.", scale.about));
    match scale.threshold {
        Some(threshold) => file.entry("like_threshold", threshold),
        None => {
            file.comment(&format!("{UNDECIDED}: from which rating on it is a like."));
            file.idea("like_threshold", 4.0)
        }
    }
}

/// A file that is put together line by line.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// The head of a section; its name is ours.
    fn section(&mut self, name: &str) {
        self.text.push_str(&format!("\n[{name}]\n"));
    }

    /// A comment, cut into lines at its blanks.
    fn comment(&mut self, text: &str) {
        // Not even here does a variable of the data stand.
        let text = printable::line(text).replace("${", "$ {");
        let mut line = String::from("#");
        for word in text.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                self.text.push_str(&line);
                self.text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// A line that must stay whole, as a comment.
    fn literal(&mut self, text: &str) {
        self.text.push_str(&format!("# {}\n", printable::line(text)));
    }

    fn entry(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.text.push_str(&format!("{}\n", entry(key, value.into())));
    }

    /// An entry that does not count yet.
    fn idea(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.text.push_str(&format!("# {}\n", entry(key, value.into())));
    }
}

/// `key = value`, one line.
fn entry(key: &str, value: toml::Value) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { quoted(key) };
    match value {
        toml::Value::String(text) => format!("{key} = {}", quoted(&text)),
        other => format!("{key} = {other}"),
    }
}

/// By hand: a serialiser may take several lines, and escapes no mark of direction.
/// A text between quotation marks, on one line.
fn quoted(text: &str) -> String {
    let mut told = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => told.extend(['\\', c]),
            c if steers(c) => told.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => told.push(c),
        }
    }
    told.push('"');
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_text_of_the_data_leaves_its_place() {
        for hostile in [
            "a\nb = 1",
            "\"]\n[model]\n",
            "\u{1b}[2J",
            "it's \"so\"",
            "\"\"\"",
            "# no",
            "a.b",
            "",
            "\u{202e}x",
            "\u{7f}\u{85}\t\\u",
        ] {
            let mut file = Lines::default();
            file.comment(hostile);
            file.idea(hostile, hostile);
            file.literal(hostile);
            assert!(toml::from_str::<toml::Table>(&file.text).unwrap().is_empty(), "{}", file.text);
            assert!(!file.text.chars().any(|c| steers(c) && c != '\n'), "{}", file.text);
            // Without its mark an idea is an entry.
            let mut idea = Lines::default();
            idea.idea(hostile, hostile);
            let read: toml::Table = toml::from_str(idea.text.trim_start_matches("# ")).unwrap();
            assert_eq!((read.len(), read[hostile].as_str()), (1, Some(hostile)), "{}", idea.text);
            file.entry(hostile, hostile);
            let read: toml::Table = toml::from_str(&file.text).unwrap();
            assert_eq!((read.len(), read[hostile].as_str()), (1, Some(hostile)), "{}", file.text);
        }
    }

    #[test]
    fn comments_are_cut_at_blanks() {
        let mut file = Lines::default();
        file.comment(&"word ".repeat(60));
        assert!(file.text.lines().count() > 2);
        assert!(file.text.lines().all(|line| line.starts_with('#') && line.chars().count() <= WIDTH));
    }
}
