//! How a job's own files carry an input: columns under other names, whole numbers for moments, what events mean.
//!
//! Knows contracts and what a job says of its files. Opens no file.

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};

use crate::columns::at;
use crate::config::{JobSpec, Meaning};
use crate::epoch::EpochUnit;
use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::table::column_type::ColumnType;
use crate::table::contract::{Contract, Role};

/// The column that tells what has happened.
pub(crate) const EVENT: &str = "event";

/// The table whose events have meanings.
const INTERACTION: &str = "interaction";

/// A contract as the job's files carry its table. Its digest tells what the job says of them, and is as before where that is
/// nothing. Tables that are no inputs come back as they are.
///
/// # Errors
/// `Kind::Config` for a column that the contract does not have, and for one that is not to be read but may not be missing.
pub fn as_carried(mut contract: Contract, spec: &JobSpec) -> Result<Contract> {
    if contract.role != Role::Input {
        return Ok(contract);
    }
    let mut made = Fingerprint::new("contract as carried", 1);
    let nothing = made.pairs().len();
    // A name that is the contract's own says what holds anyway.
    for (name, carried) in spec.input.columns.of(&contract.name).iter().filter(|(name, carried)| name != carried) {
        let Some(place) = contract.columns.iter().position(|column| column.name == *name) else {
            let known: Vec<&str> = contract.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(Error::new(Kind::Config, format!("the contract of {} has no column {name}", contract.name))
                .with("key", format!("input.columns.{}.{name}", contract.name))
                .hint(format!("write column = \"name in your files\"; it has {}", known.join(", "))));
        };
        if carried.is_empty() && !contract.columns[place].nullable {
            return Err(Error::new(
                Kind::Config,
                format!("the contract of {} requires the column {name}", contract.name),
            )
            .with("key", format!("input.columns.{}.{name}", contract.name))
            .hint("name the column of the files that carries it: an empty name leaves a column unread"));
        }
        contract.columns[place].carried = Some(carried.clone());
        made.add(format!("column {name}"), carried);
    }
    if let (Some(unit), INTERACTION | "review") = (unit_of(&spec.input.timestamp_unit), contract.name.as_str()) {
        for column in contract.columns.iter_mut().filter(|column| column.column_type == ColumnType::TimestampUs) {
            column.epoch = Some(unit);
            made.add(format!("unit {}", column.name), &spec.input.timestamp_unit);
        }
    }
    let meanings = spec.events.meanings();
    if contract.name == INTERACTION && !meanings.is_default() {
        for (event, meaning) in meanings.named() {
            made.add(format!("event {event}"), meaning.name());
        }
        made.add("other events", meanings.other().name());
        contract.events = meanings;
    }
    if made.pairs().len() == nothing {
        return Ok(contract);
    }
    made.add("contract", contract.digest());
    Ok(contract.told_apart(made.digest()))
}

/// Another contract of the same table, for the files that `own` is carried by.
pub(crate) fn carried_as(mut contract: Contract, own: &Contract) -> Contract {
    for column in &mut contract.columns {
        if let Some(other) = own.column(&column.name) {
            (column.carried, column.epoch) = (other.carried.clone(), other.epoch);
        }
    }
    contract.events = own.events.clone();
    contract
}

fn unit_of(name: &str) -> Option<TimeUnit> {
    Some(match EpochUnit::parse(name)? {
        EpochUnit::Seconds => TimeUnit::Second,
        EpochUnit::Millis => TimeUnit::Millisecond,
        EpochUnit::Micros => TimeUnit::Microsecond,
        EpochUnit::Nanos => TimeUnit::Nanosecond,
    })
}

/// Which rows of a batch are read, where the job leaves out any events; `found` is what the file has for each column of the
/// contract.
pub(crate) fn rows_read(contract: &Contract, found: &[ArrayRef], rows: usize) -> Option<Vec<bool>> {
    let meanings = &contract.events;
    if !meanings.drops() {
        return None;
    }
    let place = contract.columns.iter().position(|column| column.name == EVENT);
    let texts = place.and_then(|place| found.get(place)).and_then(|event| cast(event, &DataType::Utf8).ok());
    let texts = texts.as_ref().and_then(|texts| texts.as_string_opt::<i32>());
    let is_read = |row: usize| meanings.of(texts.and_then(|texts| at(texts, row))) != Meaning::Dropped;
    Some((0..rows).map(is_read).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Array, Int32Array, Int64Array, StringArray, UInt64Array};
    use arrow::datatypes::{Field, Schema, TimestampMicrosecondType};

    use super::*;
    use crate::config::Job;
    use crate::table::cast::{accepts, cast_what_fits};
    use crate::table::source::{Source, find_column};
    use crate::table::store::Location;

    const JOB: &str = "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = 'g'\nencoder = 'e'\n";

    fn carried(table: &str, set: &[&str]) -> Result<Contract> {
        let set: Vec<String> = set.iter().map(|pair| (*pair).to_owned()).collect();
        let job = Job::parse(JOB, "job.toml", &set, &std::collections::BTreeMap::new())?;
        as_carried(Contract::builtin(table)?, &job.spec)
    }

    #[test]
    fn the_digest_tells_what_the_job_says_and_nothing_else() {
        for table in ["interaction", "item", "review", "pair", "opinion", "item_choice"] {
            assert_eq!(carried(table, &[]).unwrap(), Contract::builtin(table).unwrap());
        }
        let own = Contract::builtin("interaction").unwrap();
        let same = ["input.columns.interaction.rating=rating", "events.meaning.click=like"];
        assert_eq!(carried("interaction", &same).unwrap().digest(), own.digest());
        let mut digests = vec![own.digest().to_owned()];
        for set in [
            "input.columns.interaction.rating=stars",
            "input.columns.interaction.event=stars",
            "input.timestamp_unit=s",
            "input.timestamp_unit=ms",
            "events.other=none",
            "events.meaning.click=none",
            "events.meaning.view=none",
        ] {
            digests.push(carried("interaction", &[set]).unwrap().digest().to_owned());
            assert_eq!(carried("item", &[set]).unwrap(), Contract::builtin("item").unwrap(), "{set}");
        }
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 8);
        let error = carried("item", &["input.columns.item.name=title"]).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        for part in ["the contract of item has no column name", "input.columns.item.name", "item_id, title"] {
            assert!(error.explain().contains(part), "{}", error.explain());
        }
    }

    #[test]
    fn a_mapped_column_has_one_name_and_must_be_there() {
        let contract = carried(
            "interaction",
            &["input.columns.interaction.event_timestamp=ts", "input.columns.interaction.rating=stars"],
        )
        .unwrap();
        let file = Location::parse("/logs/a.parquet").unwrap();
        let field = |name: &str| Field::new(name, DataType::Float32, true);
        let schema = Arc::new(Schema::new(vec![field("rating"), field("timestamp")]));
        for (column, carried) in [("event_timestamp", "ts"), ("rating", "stars")] {
            let column = contract.column(column).unwrap();
            assert_eq!(column.names().collect::<Vec<_>>(), [carried]);
            let path = [("dt".to_owned(), None)];
            let told = find_column(&contract, column, &schema, &path, &file).unwrap_err().explain();
            for part in [carried, "a.parquet", "rating, timestamp, dt", "input.columns.interaction."] {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
        let there = Arc::new(Schema::new(vec![field("stars")]));
        let found = find_column(&contract, contract.column("rating").unwrap(), &there, &[], &file).unwrap();
        assert_eq!(found, Some(Source::Field(field("stars"))));
    }

    #[test]
    fn a_column_with_an_empty_name_is_not_read() {
        let contract = carried("item", &["input.columns.item.description="]).unwrap();
        let column = contract.column("description").unwrap();
        assert_eq!(column.names().count(), 0);
        let texts = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let schema = Arc::new(Schema::new(vec![Field::new("description", texts, true)]));
        let file = Location::parse("/items/a.parquet").unwrap();
        assert_eq!(find_column(&contract, column, &schema, &[], &file).unwrap(), None);
        let own = Contract::builtin("item").unwrap();
        assert_ne!(contract.digest(), own.digest());
        let told = find_column(&own, own.column("description").unwrap(), &schema, &[], &file).unwrap_err().explain();
        assert!(told.contains("array_to_string(description, ' ')"), "{told}");
        let refused = carried("item", &["input.columns.item.item_id="]).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config);
        for part in ["requires the column item_id", "input.columns.item.item_id"] {
            assert!(refused.explain().contains(part), "{}", refused.explain());
        }
    }

    #[test]
    fn whole_numbers_are_moments_where_the_job_says_their_unit() {
        let none = carried("interaction", &[]).unwrap();
        assert!(!accepts(none.column("event_timestamp").unwrap(), &DataType::Int64));
        let micros = |unit: &str, numbers: ArrayRef| {
            let contract = carried("interaction", &[&format!("input.timestamp_unit={unit}")]).unwrap();
            let column = contract.column("event_timestamp").unwrap();
            assert!(accepts(column, numbers.data_type()) && !accepts(column, &DataType::Float64));
            let (cast, lost) = cast_what_fits(column, &numbers, 0).unwrap();
            assert_eq!(cast.data_type(), &ColumnType::TimestampUs.arrow(0));
            let cast = cast.as_primitive::<TimestampMicrosecondType>();
            (cast.iter().collect::<Vec<_>>(), lost)
        };
        let long = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
        assert_eq!(
            micros("s", long(vec![Some(1), None, Some(i64::MAX)])),
            (vec![Some(1_000_000), None, None], vec![2])
        );
        assert_eq!(micros("ms", long(vec![Some(-1)])), (vec![Some(-1000)], vec![]));
        assert_eq!(micros("us", long(vec![Some(7)])), (vec![Some(7)], vec![]));
        assert_eq!(micros("ns", long(vec![Some(7001)])), (vec![Some(7)], vec![]));
        assert_eq!(micros("s", Arc::new(Int32Array::from(vec![2]))), (vec![Some(2_000_000)], vec![]));
        assert_eq!(micros("s", Arc::new(UInt64Array::from(vec![u64::MAX, 3]))), (vec![None, Some(3_000_000)], vec![0]));
    }

    #[test]
    fn dropped_events_are_not_read() {
        let rows = |set: &[&str], events: Option<Vec<Option<&str>>>| {
            let contract = carried("interaction", set).unwrap();
            let place = contract.columns.iter().position(|column| column.name == EVENT).unwrap();
            let mut found = vec![Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef; contract.columns.len()];
            found[place] = Arc::new(StringArray::from(events.unwrap_or(vec![None; 3])));
            rows_read(&contract, &found, 3)
        };
        let events = || Some(vec![Some("bot"), None, Some("view")]);
        assert_eq!(rows(&[], events()), None);
        assert_eq!(rows(&["events.meaning.bot=drop"], events()), Some(vec![false, true, true]));
        let others = ["events.other=drop", "events.meaning.view=none"];
        assert_eq!(rows(&others, events()), Some(vec![false, false, true]));
        assert_eq!(rows(&others, None), Some(vec![false; 3]));
    }
}
