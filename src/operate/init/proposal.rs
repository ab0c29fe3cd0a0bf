//! Which columns of a log carry what, what its numbers and events mean, and what cannot be told.
//!
//! A function of schemas and sampled rows. Knows the contracts of the inputs and names that logs have; reads and writes nothing.
//! Where two columns fit alike neither is taken.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field};
use chrono::NaiveDate;

use crate::error::Result;
use crate::operate::init::events::{self, Events, different, events_of};
use crate::operate::init::moments::{Moments, is_text, last_day, moments_of, texts};
use crate::operate::init::names::{bare, is_looked_for, rank, untyped};
use crate::operate::init::ratings::{Scale, scale_of};
use crate::operate::init::texts::Layout;
use crate::printable::steers;
use crate::table::cast::accepts;
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};
use crate::table::source::way_out;
use crate::undated::is_undated;

/// Columns that are named to people where none fits, at most.
const SHOWN: usize = 20;
/// The longest label of an attribute, in characters.
const MAX_LABEL: usize = 30;
/// What values of a list are separated by in a text, the likelier first: one is enough.
const PARTED: [&str; 2] = ["|", ";"];
/// The same, where many texts have it and none has one of the others.
const SPACED: [&str; 2] = [", ", " > "];
/// One text in so many is many.
const MANY: usize = 5;

/// Some rows of a table as its files hold them.
#[derive(Debug)]
pub(super) struct Seen {
    /// How the files hold them.
    pub(super) layout: Layout,
    /// The rows.
    pub(super) batch: RecordBatch,
    /// Columns that stand in the paths of the files.
    pub(super) in_path: Vec<String>,
    /// The greatest values of columns by the files' statistics, in the files' types.
    pub(super) greatest: Vec<(String, ArrayRef)>,
    /// What is worth knowing of the files, one sentence each.
    pub(super) notes: Vec<String>,
}

impl Seen {
    fn array(&self, name: &str) -> Option<&ArrayRef> {
        self.batch.column_by_name(name)
    }

    fn names(&self) -> Vec<String> {
        self.batch.schema().fields().iter().map(|field| field.name().clone()).collect()
    }
}

/// A column of a contract and the one that carries it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taken {
    /// The contract's column.
    pub(super) column: String,
    /// The column of the files.
    pub(super) carried: String,
    /// What is worth knowing; may be empty.
    pub(super) about: String,
    /// SQL of DuckDB that makes it fit where the files are converted; `None`: it fits as it is.
    pub(super) cast: Option<String>,
    /// What values of a list are separated by in its texts; `None`: it holds no such texts.
    pub(super) between: Option<&'static str>,
}

/// A column of a contract that nobody could be found for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Open {
    /// The contract's column.
    pub(super) column: String,
    /// Why.
    pub(super) why: String,
    /// The columns of the files that were thought of.
    pub(super) found: Vec<String>,
    /// Whether no job runs without it.
    pub(super) is_needed: bool,
    /// Whether the files have a column that would be read all the same, by its name.
    pub(super) is_there: bool,
}

impl Open {
    /// Whether the job has to say that it is not read.
    pub(super) fn is_left_out(&self) -> bool {
        self.is_there && !self.is_needed
    }
}

/// A table's columns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mapping {
    /// The table.
    pub(super) table: &'static str,
    /// What is taken.
    pub(super) taken: Vec<Taken>,
    /// What is to be decided.
    pub(super) open: Vec<Open>,
    /// What is worth knowing beside, one sentence each.
    pub(super) notes: Vec<String>,
}

impl Mapping {
    /// The column of the files that carries a contract's column.
    pub(super) fn carried(&self, column: &str) -> Option<&str> {
        self.taken.iter().find(|taken| taken.column == column).map(|taken| taken.carried.as_str())
    }
}

/// All that is proposed.
#[derive(Debug)]
pub(super) struct Proposal {
    /// The log.
    pub(super) interaction: Mapping,
    /// The items, where a file of them is named.
    pub(super) item: Option<Mapping>,
    /// The reviews, where a file of them is named.
    pub(super) review: Option<Mapping>,
    /// How the log says when.
    pub(super) moments: Option<Moments>,
    /// The latest day of the sample, or of the files' statistics, that is not after today.
    pub(super) last_day: Option<NaiveDate>,
    /// The scale of the ratings; `None`: the log has none.
    pub(super) scale: Option<Scale>,
    /// The kinds of events; `None`: the log does not tell any.
    pub(super) events: Option<Events>,
    /// Further columns of the items that can be told, each with a label.
    pub(super) attributes: Vec<(String, String)>,
}

impl Proposal {
    /// The unit of whole numbers in `event_timestamp`; empty where there are none.
    pub(super) fn unit(&self) -> &'static str {
        match self.moments {
            Some(Moments::Counted(unit)) => unit,
            _ => "",
        }
    }

    /// The tables in order.
    pub(super) fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        std::iter::once(&self.interaction).chain(&self.item).chain(&self.review)
    }
}

/// Proposes what a job says of its inputs, on the day `today`, UTC.
///
/// # Errors
/// Those of the built-in contracts, which is a defect.
pub(super) fn propose(log: &Seen, items: Option<&Seen>, reviews: Option<&Seen>, today: NaiveDate) -> Result<Proposal> {
    let item_ids = items.map(Seen::names).unwrap_or_default();
    let mut interaction = map("interaction", log, &item_ids)?;
    let known: Vec<String> = interaction.taken.iter().map(|taken| taken.carried.clone()).collect();
    let item = items.map(|items| map("item", items, &known)).transpose()?;
    let mut review = reviews.map(|reviews| map("review", reviews, &known)).transpose()?;
    let told = |column: &str| log.array(interaction.carried(column)?);
    let moments = told("event_timestamp").map(moments_of);
    let last_until = |until: NaiveDate| {
        let moments = moments.as_ref()?;
        let name = interaction.carried("event_timestamp")?;
        let stored = log.greatest.iter().filter(|(column, _)| column == name).map(|(_, values)| values);
        let days = stored.chain(log.array(name)).filter_map(|values| last_day(values, moments, until));
        days.max()
    };
    let (last_day, latest) = (last_until(today), last_until(NaiveDate::MAX));
    let scale = told("rating").and_then(scale_of);
    let events = told("event").map(|event| events_of(event, scale.is_some()));
    if let Some(latest) = latest.filter(|latest| *latest > today) {
        interaction.notes.push(format!(
            "it has moments after today, up to {latest}, which do not count for the day of the proposed commands"
        ));
    }
    let unit_of = |moments: Option<&Moments>| match moments {
        Some(Moments::Counted(unit)) => Some(*unit),
        _ => None,
    };
    if let (Some(review), Some(seen)) = (&mut review, reviews) {
        let own = review.carried("event_timestamp").and_then(|name| seen.array(name)).map(moments_of);
        if let (Some(unit), Some(other)) = (unit_of(own.as_ref()), unit_of(moments.as_ref()))
            && unit != other
        {
            review.notes.push(format!(
                "its moments count {unit}, those of the log {other}, and a job has one timestamp_unit: store timestamps"
            ));
        }
        if !review.taken.iter().any(|taken| taken.column == "text") {
            review.notes.push("no column is read as text: reviews without text are of no use".to_owned());
        }
        let is_new = unit_of(own.as_ref()).is_some() && unit_of(moments.as_ref()).is_none();
        if is_new && interaction.carried("event_timestamp").is_some() {
            review.notes.push("its moments are whole numbers: set [input] timestamp_unit for them".to_owned());
        }
    }
    if reviews.is_none() {
        let texts = log.names().into_iter().filter(|name| is_of_reviews(name)).collect::<Vec<_>>();
        if !texts.is_empty() {
            let note = format!(
                "the log has texts of reviews ({}): --reviews with the same path reads them too",
                texts.join(", ")
            );
            interaction.notes.push(note);
        }
    }
    let attributes = match (items, &item) {
        (Some(seen), Some(mapping)) => attributes_of(seen, mapping),
        _ => Vec::new(),
    };
    Ok(Proposal { interaction, item, review, moments, last_day, scale, events, attributes })
}

fn is_of_reviews(name: &str) -> bool {
    matches!(bare(name).as_str(), "reviewtext" | "reviewbody" | "reviewcontent")
}

/// What became of one column of a contract.
enum Choice {
    Taken(Taken),
    Open(Open),
    Absent,
}

/// The columns of a table. Of columns that fit alike the one whose name is among `preferred` is taken.
fn map(table: &'static str, seen: &Seen, preferred: &[String]) -> Result<Mapping> {
    let mut mapping = Mapping { table, taken: Vec::new(), open: Vec::new(), notes: seen.notes.clone() };
    for name in seen.names().iter().filter(|name| is_variable(name)) {
        mapping.notes.push(format!("a job file cannot name the column {name}, whose `${{` begins a variable there"));
    }
    for column in &Contract::builtin(table)?.columns {
        if !is_looked_for(table, &column.name) {
            continue;
        }
        match choose(table, column, seen, preferred, &mut mapping.notes) {
            Choice::Taken(taken) => {
                let nulls = seen.array(&taken.carried).map_or(0, |array| array.logical_null_count());
                if nulls > 0 && !column.nullable {
                    mapping.notes.push(format!(
                        "{} has no value in {nulls} of {} rows: a job stops at them, unless [input] max_bad_fraction allows as \
                         many",
                        taken.carried,
                        seen.batch.num_rows()
                    ));
                }
                mapping.taken.push(taken);
            }
            Choice::Open(open) => mapping.open.push(open),
            Choice::Absent => {}
        }
    }
    Ok(mapping)
}

fn choose(table: &str, column: &Column, seen: &Seen, preferred: &[String], notes: &mut Vec<String>) -> Choice {
    let schema = seen.batch.schema();
    let mut fits: Vec<(u32, &str, Result<Fit, String>)> = Vec::new();
    for (field, array) in schema.fields().iter().zip(seen.batch.columns()) {
        let Some(rank) = rank(table, column, field.name()) else { continue };
        let (precision, told) = match readable(table, column, rank, seen, field, array) {
            Ok(fit) => (1 + fit.precision, Ok(fit)),
            Err(why) => (0, Err(why)),
        };
        fits.push((precision * 10 + rank, field.name(), told));
    }
    let is_there = column.names().any(|name| seen.array(name).is_some());
    let open = |why: String, found: Vec<String>| {
        Choice::Open(Open { column: column.name.clone(), why, found, is_needed: !column.nullable, is_there })
    };
    let Some(best) = fits.iter().map(|(rank, ..)| *rank).max() else {
        if column.nullable {
            return Choice::Absent;
        }
        let names = seen.names();
        let more = if names.len() > SHOWN { ", ..." } else { "" };
        let shown = names[..names.len().min(SHOWN)].join(", ");
        return open(format!("no column has a name like it; the files have {shown}{more}"), Vec::new());
    };
    let mut top: Vec<_> = fits.iter().filter(|(rank, ..)| *rank == best).collect();
    let by_name: Vec<_> = top.iter().filter(|(_, name, _)| preferred.iter().any(|p| p == name)).copied().collect();
    if by_name.len() == 1 {
        top = by_name;
    }
    let others = |taken: &str| -> Vec<String> {
        fits.iter().map(|(_, name, _)| (*name).to_owned()).filter(|name| name != taken).collect()
    };
    match &top[..] {
        [(_, name, Ok(fit))] => {
            let name: &str = name;
            let others = others(name);
            if !others.is_empty() {
                notes.push(format!("{} is read from {name}, not from {}", column.name, others.join(", ")));
            }
            let (about, cast, between) = (fit.about.clone(), fit.cast.clone(), fit.between);
            Choice::Taken(Taken { column: column.name.clone(), carried: name.to_owned(), about, cast, between })
        }
        [(_, name, Err(why))] => open(format!("{name} is named like it, but {why}"), vec![(*name).to_owned()]),
        several => {
            let names: Vec<String> = several.iter().map(|(_, name, _)| (*name).to_owned()).collect();
            open(format!("{} fit alike: choose one", names.join(", ")), names)
        }
    }
}

/// How a column of the files can be read as a contract's.
struct Fit {
    /// How precisely: the greatest comes first.
    precision: u32,
    /// What is worth knowing; may be empty.
    about: String,
    /// SQL of DuckDB that makes it fit where the files are converted.
    cast: Option<String>,
    /// What values of a list are separated by in its texts.
    between: Option<&'static str>,
}

impl Fit {
    fn new(precision: u32, about: impl Into<String>) -> Self {
        Fit { precision, about: about.into(), cast: None, between: None }
    }
}

/// How a column of the files can be read as a contract's.
///
/// # Errors
/// Why it cannot.
fn readable(
    table: &str,
    column: &Column,
    rank: u32,
    seen: &Seen,
    field: &Field,
    array: &ArrayRef,
) -> Result<Fit, String> {
    let kind = field.data_type();
    if is_variable(field.name()) {
        return Err("a job file takes `${` for the beginning of a variable: give the column another name".to_owned());
    }
    let is_in_path = seen.in_path.contains(field.name());
    if column.name == "event_timestamp" && !is_in_path {
        return moment(column, seen.layout, field, array);
    }
    let cast = match seen.layout {
        Layout::Parquet => None,
        _ if accepts(column, kind) => None,
        _ => cast_of(column, field, array)?,
    };
    if let Some(fit) = cast {
        return Ok(fit);
    }
    let fits = if is_in_path { column.column_type == ColumnType::Utf8 } else { accepts(column, kind) };
    if !fits {
        let held = match kind {
            DataType::Struct(fields) if fields.is_empty() => "nested values".to_owned(),
            kind => kind.to_string(),
        };
        return Err(format!("it holds {held}: {}", way_out(column, field)));
    }
    if column.name == "event" && different(array) > events::MOST {
        return Err(format!("it has more than {} different values, too many for kinds of events", events::MOST));
    }
    // Under another name it can be left alone.
    if (table, column.name.as_str(), rank) == ("interaction", "rating", 1)
        && let Some(Scale { threshold: None, about }) = scale_of(array)
    {
        return Err(format!("it goes from {about}"));
    }
    let about = match (&column.column_type, kind) {
        (ColumnType::Utf8, kind) if kind.is_integer() => "whole numbers, read as their decimal text",
        _ if is_in_path => "from the files' folders",
        _ => "",
    };
    Ok(Fit::new(0, about))
}

/// Whether the reader of a job file would take a name for one with a variable.
fn is_variable(name: &str) -> bool {
    name.contains("${")
}

/// How DuckDB makes a column of the contract's type of one that has another; `None` where it does not.
///
/// # Errors
/// Why texts cannot be split.
fn cast_of(column: &Column, field: &Field, array: &ArrayRef) -> Result<Option<Fit>, String> {
    let Some(name) = identifier(field.name()) else { return Ok(None) };
    let is_lists = |kind: &DataType| matches!(kind, DataType::List(child) if is_text(child.data_type()));
    let fit = match (&column.column_type, field.data_type()) {
        (ColumnType::List(_), kind) if is_text(kind) => {
            let Some(between) = separator_of(&texts(array)) else {
                return Err("its texts begin with `[`: write it as a list of texts when the file is made".to_owned());
            };
            let cast = format!("string_split(CAST({name} AS VARCHAR), '{between}')");
            let about = format!("texts, split into lists at `{between}`");
            Fit { cast: Some(cast), between: Some(between), ..Fit::new(0, about) }
        }
        (ColumnType::List(_), DataType::List(child)) if is_lists(child.data_type()) => {
            Fit { cast: Some(format!("flatten({name})")), ..Fit::new(0, "lists of lists, put together") }
        }
        (ColumnType::Utf8, kind) if is_lists(kind) && column.nullable && column.name != "event" => {
            Fit { cast: Some(format!("array_to_string({name}, ' ')")), ..Fit::new(0, "lists, joined to texts") }
        }
        _ => return Ok(None),
    };
    Ok(Some(fit))
}

/// What values of lists are separated by in texts; `None` where many texts are lists of some language, as `['a', 'b']` is.
fn separator_of(found: &[String]) -> Option<&'static str> {
    let is_many = |n: usize| n > 0 && n * MANY >= found.len();
    let having = |part: &str| found.iter().filter(|text| text.contains(part)).count();
    if is_many(found.iter().filter(|text| text.trim_start().starts_with('[')).count()) {
        return None;
    }
    let certain = PARTED.into_iter().find(|part| having(part) > 0);
    certain.or_else(|| SPACED.into_iter().find(|part| is_many(having(part)))).or(Some(PARTED[0]))
}

/// A name as SQL has it; `None` where it would steer what shows the SQL.
fn identifier(name: &str) -> Option<String> {
    (!name.chars().any(steers)).then(|| format!("\"{}\"", name.replace('"', "\"\"")))
}

/// The same for moments: stored or counted ones come before texts.
fn moment(column: &Column, layout: Layout, field: &Field, array: &ArrayRef) -> Result<Fit, String> {
    match (moments_of(array), layout) {
        (Moments::Stored, _) if accepts(column, field.data_type()) => Ok(Fit::new(2, "")),
        (Moments::Counted(unit), _) => Ok(Fit::new(2, format!("whole numbers, {unit} since 1970 by their size"))),
        (Moments::Fractions(unit @ ("s" | "ms")), Layout::Separated(_)) => {
            Ok(Fit::new(1, format!("numbers with fractions, {unit} since 1970 by their size")))
        }
        (Moments::Texts, Layout::Separated(_) | Layout::JsonLines) => {
            // DuckDB makes dates of days.
            let is_day = texts(array).iter().all(|text| !text.contains(':'));
            let name = identifier(field.name()).filter(|_| is_day);
            let cast = name.map(|name| format!("CAST({name} AS TIMESTAMP)"));
            Ok(Fit { cast, ..Fit::new(1, "texts; without a zone they are UTC") })
        }
        (Moments::Fractions(unit), _) => Err(format!(
            "it holds {} ({unit} since 1970 by their size): write whole numbers or timestamps",
            field.data_type()
        )),
        (Moments::Unknown(_), _) if matches!(field.data_type(), DataType::Date32 | DataType::Date64) => {
            Err(format!("it holds {}: {}", field.data_type(), way_out(column, field)))
        }
        (Moments::Unknown(why), _) => Err(why),
        (Moments::Stored | Moments::Texts, _) => {
            Err(format!("it holds {}: {}", field.data_type(), way_out(column, field)))
        }
    }
}

/// Columns of the items that no column of the contract is read from, and that can be told.
fn attributes_of(seen: &Seen, mapping: &Mapping) -> Vec<(String, String)> {
    let is_plain =
        |kind: &DataType| kind.is_numeric() || is_text(kind) || matches!(kind, DataType::Boolean | DataType::Date32);
    let can_be_told = |kind: &DataType| match kind {
        DataType::List(child) | DataType::LargeList(child) => is_plain(child.data_type()),
        kind => is_plain(kind),
    };
    let is_taken = |name: &str| mapping.taken.iter().any(|taken| taken.carried == name);
    let is_of_contract = |name: &str| name == "attributes" || mapping.open.iter().any(|open| open.column == name);
    let schema = seen.batch.schema();
    let fields = schema.fields().iter().filter(|field| {
        let name = field.name();
        let is_line = !name.trim().is_empty() && !name.chars().any(steers) && name.chars().count() <= MAX_LABEL;
        is_line
            && can_be_told(field.data_type())
            && !is_taken(name)
            && !is_of_contract(name)
            && !is_undated(name)
            && !is_variable(name)
    });
    fields.map(|field| (field.name().clone(), label(field.name()))).collect()
}

/// A label for people: `release_country` becomes `Release country`.
fn label(name: &str) -> String {
    let spaced = untyped(name).replace(['_', '-'], " ");
    let mut letters = spaced.trim().chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
