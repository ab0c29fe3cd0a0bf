//! Further columns of the item files as attributes: through the one place where inputs become tables of a session.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Date32Array, DictionaryArray, Float32Array, Float64Array, Int64Array,
    ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type};
use curec::config::Job;
use curec::error::{Error, Kind, Result};
use curec::night::tables::{contract_of, new_session, open_input_of, register_input};

use crate::common::write;

fn job(folder: &Path, more: &str) -> Result<Job> {
    let text = format!(
        "name = 'n'\n[input]\ninteraction = 'none'\nitem = '{}'\n[model]\ngenerator = 'g'\nencoder = 'e'\n{more}",
        folder.display()
    );
    Job::parse(&text, "job.toml", &[], &BTreeMap::new())
}

/// The rows of `item` in the order of their ids: the id, the price, and the attributes, `None` where there are none.
async fn items(job: &Job) -> Result<Vec<(String, Option<f32>, Option<Vec<String>>)>> {
    let contract = contract_of(job, "item")?;
    let input = open_input_of(job, &contract, &job.spec.input.item).await?;
    let session = new_session(job)?;
    register_input(&session, &contract, &input).await?;
    let found = session.sql("select item_id, price, attributes from item order by item_id", &[]).await?;
    let mut rows = Vec::new();
    for batch in found.collect().await? {
        let (ids, prices) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Float32Type>());
        let lists = batch.column(2).as_list::<i32>();
        for row in 0..batch.num_rows() {
            let list = lists.value(row);
            let texts = || list.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
            let price = prices.is_valid(row).then(|| prices.value(row));
            rows.push((ids.value(row).to_owned(), price, lists.is_valid(row).then(texts)));
        }
    }
    Ok(rows)
}

fn lists(values: &[Option<&[&str]>]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for value in values {
        value.iter().copied().flatten().for_each(|text| lists.values().append_value(text));
        lists.append(value.is_some());
    }
    Arc::new(lists.finish())
}

fn file(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    write(path, &RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap());
}

/// Three items with columns of many types in one file, one item with few of them in another, below a Hive partition.
fn catalogue(folder: &Path) {
    let certificates: DictionaryArray<Int32Type> = vec![Some("PG-13"), None, Some("\n")].into_iter().collect();
    file(
        &folder.join("a.parquet"),
        vec![
            ("item_id", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
            ("price", Arc::new(Float64Array::from(vec![Some(12.5), None, Some(f64::NAN)]))),
            ("directors", lists(&[Some(&["A", "B", "C", "D"]), Some(&[]), None])),
            ("certificate", Arc::new(certificates)),
            ("launched", Arc::new(Date32Array::from(vec![Some(9_131), Some(0), None]))),
            ("attributes", lists(&[Some(&["Given: x"]), None, None])),
        ],
    );
    file(
        &folder.join("country=New%20Zealand/b.parquet"),
        vec![
            ("item_id", Arc::new(StringArray::from(vec!["7"]))),
            ("price", Arc::new(Int64Array::from(vec![3]))),
            ("launched", Arc::new(StringArray::from(vec!["in\u{2028}spring"]))),
        ],
    );
}

const LABELS: &str = "[evidence]\nattributes = { launched = 'Launched', directors = 'Director', certificate = 'Rated', \
                      country = 'From', price = 'Price' }\n";

#[tokio::test]
async fn columns_that_the_job_names_become_attributes() {
    let folder = tempfile::tempdir().unwrap();
    catalogue(folder.path());
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let seven = ("7".to_owned(), Some(3.0), texts(&["Launched: in spring", "From: New Zealand", "Price: 3"]));
    let wanted = [
        seven.clone(),
        (
            "a".to_owned(),
            Some(12.5),
            texts(&["Given: x", "Launched: 1995-01-01", "Director: A, B, C", "Rated: PG-13", "Price: 12.5"]),
        ),
        ("b".to_owned(), None, texts(&["Launched: 1970-01-01"])),
    ];
    // The price of c is no number: the row breaks the contract and is left out.
    let mut some = job(folder.path(), LABELS).unwrap();
    some.spec.input.max_bad_fraction = 0.5;
    assert_eq!(items(&some).await.unwrap(), wanted);

    // Without the setting only what the files give is there, and all rows are.
    let none = items(&job(folder.path(), "").unwrap()).await.unwrap();
    assert_eq!(none.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>(), ["7", "a", "b", "c"]);
    assert_eq!((&none[1].2, &none[0].2, &none[2].2), (&texts(&["Given: x"]), &None, &None));
    let all = items(&job(folder.path(), LABELS).unwrap()).await.unwrap();
    assert_eq!((&all[0], &all[3].2), (&seven, &None), "a value that is no number says nothing");
}

async fn refused(folder: &Path, more: &str) -> Error {
    let job = job(folder, more).unwrap();
    let error = items(&job).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{}", error.explain());
    error
}

#[tokio::test]
async fn columns_that_are_not_there_or_cannot_be_said_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    catalogue(folder.path());
    let said = refused(folder.path(), "[evidence]\nattributes = { Directors = 'Director' }\n").await.explain();
    for part in [
        "no file has the column Directors",
        "evidence.attributes.Directors",
        "attributes, certificate, directors",
        "country",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let pair = StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Float32, true)),
        Arc::new(Float32Array::from(vec![1.0])) as ArrayRef,
    )]);
    let one = || Arc::new(StringArray::from(vec!["z"])) as ArrayRef;
    let columns: Vec<(&str, ArrayRef)> =
        vec![("item_id", one()), ("cast", Arc::new(pair)), ("blob", Arc::new(BinaryArray::from(vec![&b"x"[..]])))];
    file(&folder.path().join("z.parquet"), columns);
    for column in ["cast", "blob"] {
        let said = refused(folder.path(), &format!("[evidence]\nattributes = {{ {column} = 'X' }}\n")).await.explain();
        assert!(said.contains(&format!("the column {column} has the type")) && said.contains("leave it out"), "{said}");
    }
    // A contract of the job's own that cannot take them.
    let own = tempfile::tempdir().unwrap();
    let short = "name = 'item'\nversion = '1.0'\nrole = 'input'\ngrain = ['item_id']\n[[column]]\nname = 'item_id'\n\
                 type = 'utf8'\nnullable = false\n";
    std::fs::write(own.path().join("item.toml"), short).unwrap();
    let said =
        refused(folder.path(), &format!("{LABELS}[project]\nschemas = '{}'\n", own.path().display())).await.explain();
    assert!(said.contains("column: attributes"), "{said}");
}

#[tokio::test]
async fn undated_columns_are_warned_of_where_the_job_allows_them() {
    let folder = tempfile::tempdir().unwrap();
    let columns: Vec<(&str, ArrayRef)> =
        vec![("item_id", Arc::new(StringArray::from(vec!["a"]))), ("salesRank", Arc::new(Int64Array::from(vec![17])))];
    file(&folder.path().join("a.parquet"), columns);
    let named = "[evidence]\nattributes = { salesRank = 'Rank' }\n";
    assert_eq!(job(folder.path(), named).unwrap_err().kind(), Kind::Config);
    let job = job(folder.path(), &format!("{named}undated = true\n")).unwrap();
    assert_eq!(items(&job).await.unwrap()[0].2.as_deref(), Some(&["Rank: 17".to_owned()][..]));
    let contract = contract_of(&job, "item").unwrap();
    let input = open_input_of(&job, &contract, &job.spec.input.item).await.unwrap();
    assert!(input.warnings.iter().any(|w| w.contains("undated") && w.contains("salesRank")), "{:?}", input.warnings);
}
