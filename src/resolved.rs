//! Settings that were read: every value with where it came from, and the file that says the same.
//!
//! Knows values, origins and credentials by their names. Knows nothing of how a file is read or of what its keys mean.

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

use crate::secrets::{MASK, is_secret};
use crate::toml_table::{element, flatten, is_sections, joined};

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// In this line of the file, from 1.
    Line(usize),
    /// In a variable of the environment of that name.
    Variable(String),
    /// On the command line.
    Flag,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where it was set.
    pub place: Place,
    /// The variables that its text names as `${NAME}`, each with whether it was set.
    pub variables: Vec<(String, bool)>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Default => f.write_str("default")?,
            Place::Line(line) => write!(f, "line {line}")?,
            Place::Variable(name) => write!(f, "variable {name}")?,
            Place::Flag => f.write_str("--set")?,
        }
        for (name, is_set) in &self.variables {
            match is_set {
                true => write!(f, ", variable {name} by ${{{name}}}")?,
                false => write!(f, ", variable {name} is not set")?,
            }
        }
        Ok(())
    }
}

/// Settings that are whole and right.
#[derive(Clone)]
pub struct Resolved {
    /// The file that was read, as messages name it.
    pub(crate) file: String,
    /// What it says, in messages.
    pub(crate) what: &'static str,
    /// Every key with its default.
    pub(crate) known: Table,
    /// Every key with its value.
    pub(crate) values: Table,
    /// The same, with what came from variables of credentials masked.
    pub(crate) masked: Table,
    /// By key, `data[0].name` in a list of sections. A key that is not here has its default.
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl fmt::Debug for Resolved {
    /// Without the values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Resolved {
    /// Every value by its key, as a text.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        flatten(&self.values, "", &mut texts);
        texts
    }

    /// Where a key's value came from; `data[0].name` in a list of sections.
    pub fn origin(&self, key: &str) -> Origin {
        let default = Origin { place: Place::Default, variables: Vec::new() };
        self.origins.get(key).cloned().unwrap_or(default)
    }

    /// The settings as a file of their kind, with each value's origin in a comment behind it. Values of variables and keys
    /// that are named like credentials are `***`; `redact` masks what is a credential by its form.
    pub fn print(&self, redact: &dyn Fn(&str) -> String) -> String {
        let mut out =
            format!("# {} of {}, resolved. Where each value came from stands behind it.\n", self.what, self.file);
        self.print_section(&mut out, (&self.known, &self.masked), "", "", redact);
        out
    }

    fn print_section(
        &self,
        out: &mut String,
        (known, values): (&Table, &Table),
        path: &str,
        header: &str,
        redact: &dyn Fn(&str) -> String,
    ) {
        // In the order of the defaults; plain values before sections, as TOML wants it.
        let found = || known.iter().filter_map(|(name, known)| Some((name, known, values.get(name)?)));
        // Texts by name stand in a section of their own, unless there is none.
        let is_plain = |known: &Value, value: &Value| match known {
            Value::Table(known) => known.is_empty() && value.as_table().is_some_and(Table::is_empty),
            known => !is_sections(known),
        };
        for (name, _, value) in found().filter(|(_, known, value)| is_plain(known, value)) {
            let (shown, origin) = (shown(name, value, redact), self.origin(&joined(path, name)));
            out.push_str(&format!("{name} = {shown}  # {}\n", printable(&origin.to_string())));
        }
        for (name, known, value) in found() {
            let (path, header) = (joined(path, name), joined(header, name));
            match (known, value) {
                (Value::Table(known), Value::Table(values)) if known.is_empty() => {
                    if !values.is_empty() {
                        out.push_str(&format!("\n[{header}]\n"));
                    }
                    for (key, value) in values {
                        // What is no word stands in quotes.
                        let entry = Table::from_iter([(key.clone(), shown(name, value, redact))]).to_string();
                        let origin = self.origin(&joined(&path, key));
                        out.push_str(&format!("{}  # {}\n", entry.trim_end(), printable(&origin.to_string())));
                    }
                }
                (Value::Table(known), Value::Table(values)) => {
                    out.push_str(&format!("\n[{header}]\n"));
                    self.print_section(out, (known, values), &path, &header, redact);
                }
                (Value::Array(known), Value::Array(list)) => {
                    let Some(known) = element(known) else { continue };
                    for (number, values) in list.iter().enumerate() {
                        let Some(values) = values.as_table() else { continue };
                        out.push_str(&format!("\n[[{header}]]\n"));
                        self.print_section(out, (known, values), &format!("{path}[{number}]"), &header, redact);
                    }
                }
                _ => {}
            }
        }
    }
}

fn shown(name: &str, value: &Value, redact: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(_) if is_secret(name) => Value::String(MASK.to_owned()),
        Value::String(text) => Value::String(redact(text)),
        Value::Array(values) => Value::Array(values.iter().map(|value| shown(name, value, redact)).collect()),
        other => other.clone(),
    }
}

/// The text on one line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
