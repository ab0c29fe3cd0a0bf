//! Files of settings: how the job file, the weekly file and the evaluation file are read.
//!
//! Every key stands once, with its default and its meaning, in a file of defaults; what a person writes is laid over it. Keys
//! that are not there, wrong types and missing variables are all told at once, with file and line. What comes of it is [`Resolved`].
//! Knows nothing of what the keys mean, and reads no environment: the caller passes it in.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::error::{Context, Error, Kind, Result};
use crate::excerpt::{self, Excerpt};
use crate::resolved::{Origin, Place, Resolved};
use crate::secrets::{MASK, harmless, is_secret, may_hold_secret};
use crate::toml_table::{each_text, element, is_sections, joined, plain, put, type_name, value_at};
use crate::variables::{expand_text, variables};

/// A kind of file.
#[derive(Debug)]
pub struct Form {
    /// What the file says, in messages: "the job".
    pub what: &'static str,
    /// The file in messages: "the job file".
    pub file: &'static str,
    /// Every key with its default and its meaning, as such a file. The one element of a list of sections (`[[data]]`) shows
    /// the keys of each; the list itself is empty by default. An empty table (`names = {}`) is one of texts by name: any
    /// name may stand there.
    pub defaults: &'static str,
    /// Sections that are there only where a file names them; `data.din` is one of each `[[data]]`.
    pub optional: &'static [&'static str],
    /// Where the keys are documented.
    pub hint: &'static str,
}

/// A text file that a person wrote, with plain line ends and without a byte order mark, as editors on Windows write them;
/// `what` names it in errors and `hint` says which file is meant.
///
/// # Errors
/// [`Kind::Config`] naming the file where it cannot be read or is not UTF-8.
pub fn read_text(path: &Path, what: &str, hint: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::new(Kind::Config, format!("cannot read {what}")).with("file", path.display()).hint(hint).source(e)
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Error::new(Kind::Config, format!("{what} is not UTF-8"))
            .with("file", path.display())
            .with("line", line)
            .hint("save it as UTF-8; Windows calls another encoding \"Unicode\" or \"UTF-16\"")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n"))
}

/// Something that is wrong with a file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key that it is about; empty where it is about none.
    pub key: String,
    /// Its line in the file, from 1, where it has one.
    pub line: Option<usize>,
    /// What is wrong, key or flag included.
    pub what: String,
    /// Its place in the file, where it has one that may be shown.
    pub excerpt: Option<Excerpt>,
}

impl Problem {
    /// One that is about no line of the file.
    fn of_flag(what: String) -> Problem {
        Problem { key: String::new(), line: None, what, excerpt: None }
    }
}

/// Where a key and its value stand in the text of a file, in bytes; the value of a section is its name.
struct Span {
    key: Range<usize>,
    value: Range<usize>,
}

/// Settings while they are read: the defaults, what was laid over them, and what is wrong.
pub struct Layers<'a> {
    form: &'a Form,
    file: &'a str,
    text: &'a str,
    /// The defaults with every section, also those that are optional.
    known: Table,
    values: Table,
    /// As `values`, but what came from the variables of credentials is masked.
    masked: Option<Table>,
    /// By key, `data[0].name` in a list of sections. A key that is not here has its default.
    origins: BTreeMap<String, Origin>,
    /// By key as well: what stands in the file.
    spans: BTreeMap<String, Span>,
    problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    /// The defaults with a file's text over them; `file` names it in messages.
    ///
    /// # Errors
    /// [`Kind::Config`] for a text that is not TOML. What else is wrong is told by [`Layers::finish`].
    pub fn read(form: &'a Form, text: &'a str, file: &'a str) -> Result<Self> {
        let known: Table = toml::from_str(form.defaults)
            .context(Kind::Internal, || format!("the built-in defaults of {} are not TOML", form.file))?;
        let parsed = DeTable::parse(text).map_err(|e| {
            let error = Error::new(Kind::Config, format!("{} is not TOML: {}", form.file, e.message()));
            let error = error.with("file", file);
            match e.span() {
                Some(span) => error.with("line", line_of(text, span.start)).showing(harmless(text, span)),
                None => error,
            }
        })?;
        let mut values = by_default(form, &known, "");
        let mut layers = Layers {
            form,
            file,
            text,
            known: Table::new(),
            values: Table::new(),
            masked: None,
            origins: BTreeMap::new(),
            spans: BTreeMap::new(),
            problems: Vec::new(),
        };
        layers.lay(&known, &mut values, parsed.get_ref(), "", "");
        (layers.known, layers.values) = (known, values);
        Ok(layers)
    }

    /// Lays a section of the file over its defaults. `path` has the numbers of list elements, `section` has not.
    fn lay(&mut self, known: &Table, into: &mut Table, from: &DeTable<'_>, path: &str, section: &str) {
        for (key, value) in from {
            let name: &str = key.get_ref();
            let (path, section) = (joined(path, name), joined(section, name));
            let line = line_of(self.text, key.span().start);
            self.origins.insert(path.clone(), Origin { place: Place::Line(line), variables: Vec::new() });
            let of_value = if value.get_ref().is_table() { key.span() } else { value.span() };
            self.spans.insert(path.clone(), Span { key: key.span(), value: of_value });
            let Some(default) = known.get(name) else {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let hint = closest(name, &names).map(|k| format!("did you mean `{k}`?")).unwrap_or_default();
                let excerpt = self.key_excerpt(&path).map(|excerpt| excerpt.labelled(hint.as_str()));
                let hint = if hint.is_empty() { hint } else { format!("; {hint}") };
                self.note(&path, format!("unknown key{hint}"), excerpt);
                continue;
            };
            match (default, value.get_ref()) {
                (Value::Table(known), DeValue::Table(from)) if known.is_empty() => {
                    let texts = self.texts_by_name(from, &path);
                    into.insert(name.to_owned(), Value::Table(texts));
                }
                (Value::Table(known), DeValue::Table(from)) => {
                    let mut inner = match into.remove(name) {
                        Some(Value::Table(inner)) => inner,
                        _ => by_default(self.form, known, &section),
                    };
                    self.lay(known, &mut inner, from, &path, &section);
                    into.insert(name.to_owned(), Value::Table(inner));
                }
                (Value::Array(known), DeValue::Array(from)) if element(known).is_some() => {
                    let Some(known) = element(known) else { continue };
                    let mut list = Vec::new();
                    for (number, value) in from.iter().enumerate() {
                        let path = format!("{path}[{number}]");
                        let mut inner = by_default(self.form, known, &section);
                        match value.get_ref() {
                            DeValue::Table(from) => self.lay(known, &mut inner, from, &path, &section),
                            other => self.problem(&path, format!("must be a section, got {}", other.type_str())),
                        }
                        list.push(Value::Table(inner));
                    }
                    into.insert(name.to_owned(), Value::Array(list));
                }
                (default, found) => match (plain(value), default) {
                    (Some(Value::Integer(i)), Value::Float(_)) => {
                        into.insert(name.to_owned(), Value::Float(i as f64));
                    }
                    (Some(Value::Integer(i)), Value::Integer(_)) if i < 0 => {
                        self.problem(&path, format!("must not be negative, got {i}"));
                    }
                    (Some(new), old) if type_name(&new) == type_name(old) && !is_sections(old) => {
                        into.insert(name.to_owned(), new);
                    }
                    (_, old) => {
                        let wanted = if is_sections(old) { "a list of sections" } else { type_name(old) };
                        self.problem(&path, format!("must be {wanted}, got {}", found.type_str()));
                    }
                },
            }
        }
    }

    /// A table of texts by name, in the order of the file.
    fn texts_by_name(&mut self, from: &DeTable<'_>, path: &str) -> Table {
        let mut texts = Table::new();
        for (key, value) in from {
            let path = joined(path, key.get_ref());
            let line = line_of(self.text, key.span().start);
            self.origins.insert(path.clone(), Origin { place: Place::Line(line), variables: Vec::new() });
            self.spans.insert(path.clone(), Span { key: key.span(), value: value.span() });
            match value.get_ref() {
                DeValue::String(text) => _ = texts.insert(key.get_ref().to_string(), Value::String(text.to_string())),
                other => self.problem(&path, format!("must be a string, got {}", other.type_str())),
            }
        }
        texts
    }

    /// The table of texts by name that `section.table.name` is in, however deep, and the name.
    fn slot_by_name<'k>(&mut self, key: &'k str) -> Option<(&mut Table, &'k str)> {
        let (mut known, mut values, mut rest) = (&self.known, &mut self.values, key);
        while let Some((section, name)) = rest.split_once('.') {
            known = known.get(section)?.as_table()?;
            values = values.get_mut(section)?.as_table_mut()?;
            if known.is_empty() {
                return (!name.is_empty()).then_some((values, name));
            }
            rest = name;
        }
        None
    }

    /// Sets a plain value by its key, `name` or `section.name`, or a text of a table of such, `section.table.name`;
    /// `source` names the setting in messages.
    pub fn set(&mut self, key: &str, text: &str, source: &str, place: Place) {
        if let Some((texts, name)) = self.slot_by_name(key) {
            texts.insert(name.to_owned(), Value::String(text.to_owned()));
            self.origins.insert(key.to_owned(), Origin { place, variables: Vec::new() });
            return;
        }
        let slot = match key.split('.').collect::<Vec<_>>()[..] {
            [name] => self.values.get_mut(name),
            [section, name] => {
                self.values.get_mut(section).and_then(Value::as_table_mut).and_then(|table| table.get_mut(name))
            }
            _ => None,
        };
        let Some(slot) = slot.filter(|s| !s.is_table() && !s.is_array()) else {
            self.problems.push(Problem::of_flag(format!("{source}: unknown key `{key}`")));
            return;
        };
        let new = match slot {
            Value::Integer(_) => text.parse().ok().filter(|i| *i >= 0).map(Value::Integer),
            Value::Float(_) => text.parse().ok().map(Value::Float),
            Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
            _ => Some(Value::String(text.to_string())),
        };
        match new {
            Some(new) => {
                *slot = new;
                self.origins.insert(key.to_owned(), Origin { place, variables: Vec::new() });
            }
            None => {
                let what = format!("{source}: {key} must be {}, got `{text}`", type_name(slot));
                self.problems.push(Problem::of_flag(what));
            }
        }
    }

    /// Replaces `${NAME}` and `${NAME:-default}` in every string.
    pub fn expand(&mut self, env: &BTreeMap<String, String>) {
        let hide = |(name, value): (&String, &String)| {
            let shown = if is_secret(name) && !value.is_empty() { MASK.to_owned() } else { value.clone() };
            (name.clone(), shown)
        };
        let mut without_secrets: BTreeMap<String, String> = env.iter().map(hide).collect();
        let mut masked = self.values.clone();
        // A default that stands in the file for a secret that is not set is as secret.
        each_text(&mut masked, "", &mut |_, text| {
            let secrets = variables(text).into_iter().filter(|name| is_secret(name));
            without_secrets.extend(secrets.map(|name| (name.to_string(), MASK.to_owned())));
        });
        each_text(&mut masked, "", &mut |_, text| {
            if let Ok(new) = expand_text(text, &without_secrets) {
                *text = new;
            }
        });
        self.masked = Some(masked);
        let mut values = std::mem::take(&mut self.values);
        each_text(&mut values, "", &mut |path, text| {
            let named = variables(text);
            if named.is_empty() {
                return;
            }
            let origin = Origin { place: Place::Default, variables: Vec::new() };
            let into = &mut self.origins.entry(path.to_owned()).or_insert(origin).variables;
            for name in named {
                let told = (name.to_owned(), env.get(name).is_some_and(|value| !value.is_empty()));
                if !into.contains(&told) {
                    into.push(told);
                }
            }
            match expand_text(text, env) {
                Ok(new) => *text = new,
                Err(name) => self.problem(path, format!("the variable {name} is not set and has no default")),
            }
        });
        self.values = values;
    }

    /// Notes what is wrong with a key's value.
    pub fn problem(&mut self, key: &str, what: impl fmt::Display) {
        let excerpt = self.spans.get(key).and_then(|span| harmless(self.text, span.value.clone()));
        // Where the value cannot be shown, its key can.
        let excerpt = excerpt.or_else(|| self.key_excerpt(key));
        self.note(key, what, excerpt);
    }

    fn note(&mut self, key: &str, what: impl fmt::Display, excerpt: Option<Excerpt>) {
        let line = match self.origins.get(key) {
            Some(Origin { place: Place::Line(line), .. }) => Some(*line),
            _ => None,
        };
        // What a variable or a flag has set does not stand in the file.
        let excerpt = excerpt.filter(|_| line.is_some() && self.problems.len() < excerpt::MOST);
        self.problems.push(Problem { key: key.to_owned(), line, what: format!("{key}: {what}"), excerpt });
    }

    /// A key where it stands in the file, without its value where that may be a credential.
    fn key_excerpt(&self, key: &str) -> Option<Excerpt> {
        let bytes = self.spans.get(key)?.key.clone();
        let excerpt = Excerpt::of_bytes(self.text, bytes.clone());
        if !may_hold_secret(excerpt.text()) {
            return Some(excerpt);
        }
        let before: String = excerpt.text().chars().take(excerpt.column() - 1).collect();
        before.trim().is_empty().then(|| excerpt.without_rest())
    }

    /// Notes a key whose value does not hold.
    pub fn demand(&mut self, holds: bool, key: &str, what: impl fmt::Display) {
        if !holds {
            self.problem(key, what);
        }
    }

    /// Whether nobody has set a key.
    pub fn is_default(&self, key: &str) -> bool {
        self.origins.get(key).is_none_or(|origin| origin.place == Place::Default)
    }

    /// Notes what is wrong with a setting that stands in no file.
    pub fn problem_of_flag(&mut self, what: String) {
        self.problems.push(Problem::of_flag(what));
    }

    /// What is wrong so far. The keys that it is about have their defaults from here on, so that what else the file says can
    /// be looked at.
    pub fn forgive(&mut self) -> Vec<Problem> {
        let problems = std::mem::take(&mut self.problems);
        for Problem { key, .. } in &problems {
            if let Some((texts, name)) = self.slot_by_name(key) {
                texts.remove(name);
                continue;
            }
            // Sections have no problems but those of their keys.
            let default = value_at(&self.known, key).filter(|value| !value.is_table() && !is_sections(value)).cloned();
            if let Some(default) = default {
                put(&mut self.values, key, default);
            }
        }
        problems
    }

    /// The settings as the code has them; none where their types are wrong, which [`Layers::finish`] then tells.
    pub fn build<T: DeserializeOwned>(&mut self) -> Option<T> {
        match Value::Table(self.values.clone()).try_into() {
            Ok(built) => Some(built),
            Err(e) => {
                if self.problems.is_empty() {
                    self.problem_of_flag(e.to_string().trim().to_string());
                }
                None
            }
        }
    }

    /// The settings with their origins.
    ///
    /// # Errors
    /// [`Kind::Config`] with everything that is wrong, each with its line where it has one.
    pub fn finish(self) -> Result<Resolved> {
        let (n, Form { what, hint, .. }) = (self.problems.len(), self.form);
        if n > 0 {
            let place = |line: Option<usize>| line.map_or_else(String::new, |line| format!("{}:{line}: ", self.file));
            let (mut told, mut excerpts) = (format!("{what} has {n} problem(s):"), Vec::new());
            for problem in &self.problems {
                told.push_str(&format!("\n  {}{}", place(problem.line), problem.what));
                let line = told.matches('\n').count();
                excerpts.extend(problem.excerpt.clone().map(|excerpt| (line, excerpt)));
            }
            let error = Error::new(Kind::Config, told).with("file", self.file).hint(*hint);
            return Err(excerpts.into_iter().fold(error, |error, (line, excerpt)| error.showing_after(line, excerpt)));
        }
        let masked = self.masked.unwrap_or_else(|| self.values.clone());
        Ok(Resolved {
            file: self.file.to_owned(),
            what: self.form.what,
            known: self.known,
            values: self.values,
            masked,
            origins: self.origins,
        })
    }
}

/// What a section holds where no file says otherwise.
fn by_default(form: &Form, known: &Table, section: &str) -> Table {
    let mut values = Table::new();
    for (name, value) in known {
        let section = joined(section, name);
        match value {
            Value::Table(_) if form.optional.contains(&section.as_str()) => {}
            Value::Table(inner) => _ = values.insert(name.clone(), Value::Table(by_default(form, inner, &section))),
            Value::Array(list) if element(list).is_some() => {
                values.insert(name.clone(), Value::Array(Vec::new()));
            }
            value => _ = values.insert(name.clone(), value.clone()),
        }
    }
    values
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().map(|k| (distance(name, k), *k)).filter(|(d, _)| *d <= 3).min().map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(ca != *cb)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
