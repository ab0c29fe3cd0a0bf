//! `curec learn project` on a small log, and nights with what it promoted: the column `collaborative` beside
//! `embedding`, for an item that is one night old as well; without the key not a byte differs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::common::{
    self, Event, World, events, expect_code, items, january, stderr, stdout, summary, write_events, write_items,
};

/// Values of a vector that is published.
const WIDTH: usize = 32;

fn set(key: &str, value: &str) -> [String; 2] {
    ["--set".to_owned(), format!("{key}={value}")]
}

/// The keys of a job that uses what the registry has promoted.
fn projecting(world: &World) -> Vec<String> {
    let registry = world.path("registry").display().to_string();
    [set("project.registry", &registry), set("model.projection", "registry:map")].concat()
}

/// Runs the night of a day in January into a warehouse, with every item of the catalogue.
fn night(world: &World, warehouse: &str, day: u32, more: &[String], code: i32) -> std::process::Output {
    let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
    let own = [set("warehouse", &world.path(warehouse).display().to_string()), set("history.items", "all")].concat();
    let args = ["run", "job.toml", "--interval-start", &start, "--interval-end", &end].map(str::to_owned);
    let args: Vec<String> = args.into_iter().chain(own).chain(more.iter().cloned()).collect();
    let out = world.curec(&args.iter().map(String::as_str).collect::<Vec<_>>());
    expect_code(&out, code);
    out
}

/// Data files below a warehouse by their digest, answers aside.
fn files(world: &World, warehouse: &str) -> BTreeMap<String, String> {
    let root = world.path(warehouse);
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().to_string();
            if path.is_dir() {
                folders.extend((!name.starts_with('_') && name != "response").then_some(path));
            } else if name.ends_with(".parquet") {
                let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
                found.insert(path.strip_prefix(&root).unwrap().display().to_string(), digest);
            }
        }
    }
    found
}

fn rows(world: &World, warehouse: &str, table: &str, day: u32, more: &[String]) -> Vec<Value> {
    let query = format!("select * from {table} where dt = '2026-01-{day:02}' order by 1");
    let warehouse = set("warehouse", &world.path(warehouse).display().to_string());
    let args = ["sql", "--job", "job.toml", "--format", "json"].map(str::to_owned);
    let args: Vec<String> =
        args.into_iter().chain(warehouse).chain(more.iter().cloned()).chain([query.clone()]).collect();
    let out = world.curec(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(out.status.success(), "{query}\n{}", stderr(&out));
    stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A weekly file with its work in `out`. The tiny encoder's vectors say nothing of items, so that the gate lets
/// everything pass but where a test changes it.
fn weekly(world: &World, out: &str, projection: &str) -> String {
    let keys = [
        format!("warehouse={}", world.path("on").display()),
        format!("project.registry={}", world.path("registry").display()),
    ];
    let text = format!(
        "name = \"weekly\"\njob = \"job.toml\"\nset = {keys:?}\nout = \"{out}\"\n\
         [projection]\nname = \"map\"\nfolds = 2\nresamples = 50\n{projection}"
    );
    let file = format!("{out}.toml");
    std::fs::write(world.path(&file), text).unwrap();
    file
}

const OPEN: &str = "least_gain = -1.0\nmargin = 100.0\nleast_judged = 1\nleast_learned = 1\n";

fn arguments(file: &str) -> [&str; 7] {
    ["learn", "project", file, "--interval-start", "2026-01-13", "--interval-end", "2026-01-20"]
}

/// The bytes of the projection in a folder.
fn projection(world: &World, folder: &str) -> Vec<Vec<u8>> {
    let of = |name| std::fs::read(world.path(folder).join(name)).unwrap();
    ["projection.json", "maps.safetensors", "project.json"].map(of).into()
}

#[test]
fn a_night_with_a_projection_has_a_column_more_and_nothing_else_differs() {
    let world = World::new();
    for warehouse in ["on", "off"] {
        night(&world, warehouse, 12, &[], 0);
    }
    assert_eq!(files(&world, "on"), files(&world, "off"));

    // Nothing is promoted yet.
    let out = night(&world, "on", 20, &projecting(&world), 2);
    assert!(stderr(&out).contains("no version of `map` is promoted"), "{}", stderr(&out));

    let file = weekly(&world, "first", OPEN);
    let out = world.curec(&arguments(&file));
    expect_code(&out, 0);
    let done = summary(&out);
    assert_eq!((&done["status"], &done["passed"]), (&json!("projected"), &json!(true)), "{done:#}");
    assert_eq!((&done["items"], &done["learned"]), (&json!(18), &json!(18)), "{done:#}");
    assert!(done["next"].as_u64().unwrap() > 5 && done["of_users"]["learned"].as_u64().unwrap() > 5, "{done:#}");
    assert!(done["of_users"]["is_kept"] == true && done["turned_towards"].is_null(), "{done:#}");

    // Learned again, with another number of threads, it is the same version.
    let again = weekly(&world, "second", OPEN);
    let out = world.command(&arguments(&again)).env("RAYON_NUM_THREADS", "1").output().unwrap();
    expect_code(&out, 0);
    assert_eq!(summary(&out)["version"], done["version"]);
    assert_eq!(projection(&world, "first/projection"), projection(&world, "second/projection"));

    // An item comes that nobody has met.
    let with_new: Vec<_> =
        items().into_iter().chain([("i99".to_owned(), Some("A New Film (2026)".to_owned()))]).collect();
    write_items(&world.path("input/item.parquet"), &with_new);
    night(&world, "off", 20, &[], 0);
    night(&world, "on", 20, &projecting(&world), 0);
    let (on, off) = (files(&world, "on"), files(&world, "off"));
    let others = |files: &BTreeMap<String, String>| {
        let is_other = |name: &str| {
            !name.starts_with("item_feature/dt=2026-01-20") && !name.starts_with("user_feature/dt=2026-01-20")
        };
        files.iter().filter(|(name, _)| is_other(name)).map(|(a, b)| (a.clone(), b.clone())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(others(&on), others(&off));
    for (table, key) in [("item_feature", "item_id"), ("user_feature", "user_id")] {
        let plain = rows(&world, "off", table, 20, &[]);
        let mut mapped = rows(&world, "on", table, 20, &projecting(&world));
        for row in &mapped {
            let is_told = row["missing"] == false;
            let column = row["collaborative"].as_array();
            assert_eq!(column.map(Vec::len), is_told.then_some(WIDTH), "{row}");
            assert!(column.is_none_or(|values| values.iter().any(|x| x.as_f64() != Some(0.0))), "{row}");
        }
        assert!(mapped.iter().any(|row| row["missing"] == false));
        if key == "item_id" {
            let new = mapped.iter().find(|row| row["item_id"] == "i99").unwrap();
            assert!(new["collaborative"].is_array() && new["source"] != "none", "{new}");
        }
        mapped.iter_mut().for_each(|row| _ = row.as_object_mut().unwrap().remove("collaborative"));
        assert_eq!(mapped, plain, "{table}");
        // Days of before the projection have nulls, and a job without the key sees no such column.
        let before = rows(&world, "on", table, 12, &projecting(&world));
        assert!(!before.is_empty() && before.iter().all(|row| row["collaborative"].is_null()));
        assert!(rows(&world, "on", table, 20, &[]).iter().all(|row| row.get("collaborative").is_none()));
    }
    let done = summary(&night(&world, "on", 20, &projecting(&world), 0));
    assert_eq!(done["status"], "nothing_to_do", "{done:#}");

    // The map knows events up to the 20th: no earlier day is built with it.
    let out = night(&world, "on", 15, &projecting(&world), 2);
    assert!(stderr(&out).contains("model.projection has learned from events after this interval"), "{}", stderr(&out));

    // Without the key the day is as it was.
    night(&world, "on", 20, &[], 0);
    assert_eq!(files(&world, "on"), off);
}

#[test]
fn a_gate_that_does_not_hold_promotes_nothing() {
    let world = World::new();
    night(&world, "on", 12, &[], 0);
    let file = weekly(&world, "out", "least_gain = 1.0\n");
    let out = world.curec(&arguments(&file));
    expect_code(&out, 1);
    assert!(stderr(&out).contains("the projection's gate does not hold"), "{}", stderr(&out));
    assert!(stderr(&out).contains("users who were asked about >= 100 (found "), "{}", stderr(&out));
    let record: Value = serde_json::from_slice(&projection(&world, "out/projection-refused")[2]).unwrap();
    assert_eq!((&record["passed"], &record["of_users"]), (&json!(false), &json!(null)));
    assert!(!world.path("out/projection").exists());
    let registry = world.path("registry").display().to_string();
    let out = world.curec(&["models", "list", "--json", "--registry", &registry]);
    expect_code(&out, 0);
    let listed = summary(&out);
    assert_eq!((&listed["name"], &listed["promoted"]), (&json!("map"), &json!(false)), "{listed:#}");
    assert!(listed["projection"].is_string() && listed["adapter"] == "", "{listed:#}");
    let out = world.curec(&["models", "promote", "map", "latest", "--registry", &registry]);
    expect_code(&out, 1);

    // What a job names stays what passed.
    expect_code(&world.curec(&arguments(&weekly(&world, "out", OPEN))), 0);
    let passed = projection(&world, "out/projection");
    let file = weekly(&world, "out", "least_gain = 1.0\nleast_judged = 1\nleast_learned = 1\n");
    expect_code(&world.curec(&arguments(&file)), 1);
    assert_eq!(projection(&world, "out/projection"), passed);
    let record: Value = serde_json::from_slice(&projection(&world, "out/projection-refused")[2]).unwrap();
    assert_eq!(record["of_users"]["is_kept"], json!(false), "{record:#}");
    let named = |folder: &str| set("model.projection", &world.path(folder).display().to_string());
    let out = night(&world, "on", 20, &named("out/projection-refused"), 2);
    assert!(stderr(&out).contains("the projection's gate does not hold"), "{}", stderr(&out));
    assert!(stderr(&out).contains("models promote --force"), "{}", stderr(&out));
    night(&world, "on", 20, &named("out/projection"), 0);
}

/// A user's rows of a table on the 20th, and the others'.
fn of_user(world: &World, user: &str) -> (Vec<Value>, Vec<Value>) {
    rows(world, "on", "user_feature", 20, &projecting(world)).into_iter().partition(|row| row["user_id"] == user)
}

#[test]
fn a_day_with_the_column_is_forgotten_with_it_and_exported_with_its_nulls() {
    let world = World::new();
    night(&world, "on", 12, &[], 0);
    expect_code(&world.curec(&arguments(&weekly(&world, "out", OPEN))), 0);
    night(&world, "on", 20, &projecting(&world), 0);

    let (theirs, others) = of_user(&world, "u03");
    assert!(theirs.len() == 1 && others.iter().any(|row| row["collaborative"].is_array()), "{others:?}");
    let before = files(&world, "on");
    let forget = |more: &[String]| {
        let warehouse = set("warehouse", &world.path("on").display().to_string());
        let args = ["forget", "job.toml", "--user-id", "u03"].map(str::to_owned);
        let args: Vec<String> = args.into_iter().chain(warehouse).chain(more.iter().cloned()).collect();
        world.curec(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for more in [vec![], vec!["--dry-run".to_owned()]] {
        let out = forget(&more);
        expect_code(&out, 2);
        assert!(stderr(&out).contains("user_feature/dt=2026-01-20"), "{}", stderr(&out));
        assert!(stderr(&out).contains("model.projection=registry:NAME"), "{}", stderr(&out));
    }
    assert_eq!(files(&world, "on"), before);
    let out = forget(&projecting(&world));
    assert!(out.status.success() || out.status.code() == Some(3), "{}", stderr(&out));
    assert_eq!(of_user(&world, "u03"), (Vec::new(), others));

    // Somebody meets something after the night with the column.
    let items = rows(&world, "on", "item_feature", 20, &projecting(&world));
    let [user, item] = [(of_user(&world, "u03").1, "user_id"), (items, "item_id")].map(|(rows, key)| {
        let mapped = rows.iter().find(|row| row["collaborative"].is_array()).unwrap();
        mapped[key].as_str().unwrap().to_owned()
    });
    let late = Event { user, item, rating: Some(5.0), at: Some(january(22, 0)) };
    let all: Vec<Event> = events().into_iter().chain([late]).collect();
    write_events(&world.path("input/interaction.parquet"), &all);
    let warehouse = set("warehouse", &world.path("on").display().to_string());
    let args = ["export", "job.toml", "--out", "training"].map(str::to_owned);
    let args: Vec<String> = args.into_iter().chain(warehouse).chain(projecting(&world)).collect();
    expect_code(&world.curec(&args.iter().map(String::as_str).collect::<Vec<_>>()), 0);
    let exported = exported(&world.path("training"));
    let (last, earlier) = exported.split_last().unwrap();
    for name in ["item_collaborative", "user_collaborative"] {
        assert_eq!(last[name].as_array().map(Vec::len), Some(WIDTH), "{name} of {last}");
        assert!(!earlier.is_empty() && earlier.iter().all(|row| row[name].is_null()), "{name}");
    }

    // The Python loader has zeros and a flag for these nulls.
    match std::env::var_os("CUREC_PYTHON") {
        None => println!("skipped: no Python with pyarrow (CUREC_PYTHON; ci/test.sh makes one)"),
        Some(python) => {
            let out = Command::new(python)
                .args(["-m", "unittest", "-v", "tests/python/test_ranker_loader.py"])
                .current_dir(common::project())
                .env("CUREC_EXPORT", world.path("training"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .unwrap();
            assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
            assert!(!stderr(&out).contains("pyarrow is not installed"), "{}", stderr(&out));
        }
    }
}

/// Rows of an export as JSON objects, in its own order.
fn exported(folder: &Path) -> Vec<Value> {
    let record: Value = serde_json::from_slice(&std::fs::read(folder.join("_export.json")).unwrap()).unwrap();
    let mut json = Vec::new();
    for listed in record["files"].as_array().unwrap() {
        let file = std::fs::File::open(folder.join(listed["name"].as_str().unwrap())).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let mut writer = arrow::json::LineDelimitedWriter::new(&mut json);
            writer.write(&batch.unwrap()).unwrap();
            writer.finish().unwrap();
        }
    }
    String::from_utf8(json).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn without_nights_before_the_interval_there_is_nothing_to_learn_from() {
    let world = World::new();
    night(&world, "on", 14, &[], 0);
    let file = weekly(&world, "out", OPEN);
    let out = world.curec(&arguments(&file));
    expect_code(&out, 1);
    assert!(stderr(&out).contains("nothing to learn a projection from: 0 item(s) with a vector"), "{}", stderr(&out));
    assert!(!world.path("out/projection").exists());
}
