//! What several test programs share: folders, the binary, small inputs, and where data and models may be.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;

/// The project's folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of the development data, or `None` with a reason printed.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CUREC_SHARED").map_or_else(|| project().join("../shared"), PathBuf::from);
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {relative} of the development data is not here (CUREC_SHARED)");
    None
}

/// A file or folder below `$CUREC_HOME` (models, data), or `None` with a reason printed.
pub fn home(relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CUREC_HOME").map_or_else(|| project().join(".curec"), PathBuf::from);
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {relative} is not below CUREC_HOME (ci/fetch.sh gets it)");
    None
}

/// A tiny model of `tests/fixtures/models`.
pub fn fixture(name: &str) -> PathBuf {
    project().join("tests/fixtures/models").join(name)
}

/// Some Python, that of `CUREC_PYTHON` or `python3`; `None` with a reason printed where neither runs.
pub fn any_python() -> Option<OsString> {
    let python = std::env::var_os("CUREC_PYTHON").unwrap_or_else(|| "python3".into());
    if Command::new(&python).arg("--version").output().is_ok_and(|out| out.status.success()) {
        return Some(python);
    }
    println!("skipped: no Python (CUREC_PYTHON)");
    None
}

/// The Python that ci/test.sh has made; `None`, with the packages that are missed printed, where there is none.
pub fn python_with(packages: &str) -> Option<OsString> {
    let python = std::env::var_os("CUREC_PYTHON");
    if python.is_none() {
        println!("skipped: no Python with {packages} (CUREC_PYTHON; ci/test.sh makes one)");
    }
    python
}

/// Runs a file of tests/python on what `environment` names: all of its tests pass, and none is left out.
pub fn python_tests(python: &OsStr, file: &str, environment: &[(&str, PathBuf)]) {
    let out = Command::new(python)
        .args(["-m", "unittest", "-v", &format!("tests/python/{file}")])
        .current_dir(project())
        .env("CUREC_BIN", env!("CARGO_BIN_EXE_curec"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment.iter().map(|(name, place)| (*name, place)))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
    assert!(!stderr(&out).contains("skipped="), "{}", stderr(&out));
}

/// One event of a test log.
#[derive(Debug, Clone)]
pub struct Event {
    pub user: String,
    pub item: String,
    pub rating: Option<f32>,
    /// Milliseconds since 1970.
    pub at: Option<i64>,
}

/// Milliseconds since 1970 of an hour of a day in January 2026.
pub fn january(day: i64, hour: i64) -> i64 {
    1_767_225_600_000 + ((day - 1) * 24 + hour) * 3_600_000
}

/// A deterministic log: 24 users, 18 items, days 1 to 20 of January 2026.
pub fn events() -> Vec<Event> {
    let mut all = Vec::new();
    for user in 0..24i64 {
        for n in 0..12i64 {
            // Users of one half like even items, the others odd ones; some of each dislike the rest.
            let item = (user * 5 + n * 7) % 18;
            let rating = if (item + user) % 2 == 0 { 5.0 } else { 2.0 };
            let at = january(1 + (n * 19 + user) % 20, (user + n) % 24) + user * 1000 + n;
            all.push(Event {
                user: format!("u{user:02}"),
                item: format!("i{item:02}"),
                rating: Some(rating),
                at: Some(at),
            });
        }
    }
    all.sort_by(|a, b| (a.at, &a.user, &a.item).cmp(&(b.at, &b.user, &b.item)));
    all.dedup_by(|a, b| a.user == b.user && a.item == b.item && a.at == b.at);
    all
}

/// Writes a log as Parquet.
pub fn write_events(path: &Path, events: &[Event]) {
    write(path, &event_batch(events));
}

/// A log's rows: user, item, event, rating, timestamp.
pub fn event_batch(events: &[Event]) -> RecordBatch {
    let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, true),
        Field::new("item_id", DataType::Utf8, true),
        Field::new("event", DataType::Utf8, true),
        Field::new("rating", DataType::Float32, true),
        Field::new("timestamp", utc, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(events.iter().map(|e| &e.user))),
        Arc::new(StringArray::from_iter_values(events.iter().map(|e| &e.item))),
        Arc::new(StringArray::from_iter_values(events.iter().map(|_| "rating"))),
        Arc::new(events.iter().map(|e| e.rating).collect::<Float32Array>()),
        Arc::new(events.iter().map(|e| e.at).collect::<TimestampMillisecondArray>().with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// Writes items (id, title) as Parquet, with categories that alternate.
pub fn write_items(path: &Path, items: &[(String, Option<String>)]) {
    let mut categories = ListBuilder::new(StringBuilder::new());
    for i in 0..items.len() {
        categories.values().append_value(if i % 2 == 0 { "Crime" } else { "Comedy" });
        categories.append(true);
    }
    let categories: ArrayRef = Arc::new(categories.finish());
    let schema = Arc::new(Schema::new(vec![
        Field::new("item_id", DataType::Utf8, false),
        Field::new("title", DataType::Utf8, true),
        Field::new("categories", categories.data_type().clone(), true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(items.iter().map(|(id, _)| id))),
        Arc::new(items.iter().map(|(_, title)| title.clone()).collect::<StringArray>()),
        categories,
    ];
    write(path, &RecordBatch::try_new(schema, columns).unwrap());
}

/// Writes one batch as a Parquet file, with its folder.
pub fn write(path: &Path, batch: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// The column `words` of rows of item_feature.
pub fn words(rows: usize) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for _ in 0..rows {
        lists.values().append_value("word");
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// The 18 items of [`events`].
pub fn items() -> Vec<(String, Option<String>)> {
    (0..18).map(|i| (format!("i{i:02}"), Some(format!("Film Number {i} (19{:02})", 70 + i)))).collect()
}

/// Copies tiny-qwen3 to `folder` as a model that writes ASCII: the output rows of all other tokens are zero, so that a
/// positive one of the rest wins. A random model writes bytes that are no text, which is an error of its own.
pub fn ascii_model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-qwen3")).unwrap().map(|e| e.unwrap().path()) {
        std::fs::copy(&entry, folder.join(entry.file_name().unwrap())).unwrap();
    }
    let tokenizer = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let is_ascii =
        |token: &str| token.chars().all(|c| c.is_ascii_graphic() || c == '\u{120}') && !token.starts_with("<|");
    let kept: std::collections::HashSet<u64> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(token, _)| is_ascii(token))
        .map(|(_, id)| id.as_u64().unwrap())
        .collect();
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let head = &header["lm_head.weight"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
    let (rows, start) = (number(&head["shape"][0]), 8 + length + number(&head["data_offsets"][0]));
    let width = (8 + length + number(&head["data_offsets"][1]) - start) / rows;
    for row in (0..rows).filter(|row| !kept.contains(&(*row as u64))) {
        bytes[start + row * width..start + (row + 1) * width].fill(0);
    }
    std::fs::write(&file, bytes).unwrap();
}

/// A folder with inputs, a job on tiny models, and commands bound to it.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// Inputs from [`events`] and [`items`], and a job that accepts whatever a random model writes.
    pub fn new() -> World {
        let world = World { folder: tempfile::tempdir().unwrap() };
        write_events(&world.path("input/interaction.parquet"), &events());
        write_items(&world.path("input/item.parquet"), &items());
        ascii_model(&world.path("writer"));
        world.write_job("");
        // Short: the tiny model knows nearly one token a letter and has 256 positions.
        let item = "=== user\n{{ subject or attributes | join }}\n=== assistant\n{{ liked[:1] | join }}\n";
        let history = "=== user\n{{ (liked + attributes)[:2] | join(', ') }}\n=== assistant\nThe user\n";
        std::fs::write(world.path("item.j2"), item).unwrap();
        std::fs::write(world.path("history.j2"), history).unwrap();
        world
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Writes the job; `more` is appended, so that it may open new sections or set keys of `[check]`.
    pub fn write_job(&self, more: &str) {
        let root = self.folder.path().display();
        let models = fixture("").display().to_string();
        let text = format!(
            "name = \"test\"\nwarehouse = \"{root}/warehouse\"\n\
             [input]\ninteraction = \"{root}/input/interaction.parquet\"\nitem = \"{root}/input/item.parquet\"\n\
             [history]\nuser_active_days = 0\nitems = \"active\"\nitem_active_days = 0\nmin_support = 2\n\
             [model]\ngenerator = \"{root}/writer\"\nencoder = \"{models}tiny-bert\"\ndevice = \"cpu\"\n\
             slots = 4\nmax_step_tokens = 256\nmax_positions = 256\n\
             [prompt]\nitem = \"{root}/item.j2\"\nhistory = \"{root}/history.j2\"\n\
             [evidence]\ntokens = 240\n[sampling]\nmax_new_tokens = 6\n\
             [feature]\nvector_of = \"reason\"\n\
             [check]\nlanguage = \"none\"\nmin_grounding = 0.0\nmax_repetition = 1.0\nmin_words = 1\n\
             min_mean_logprob = -1000.0\nrequire_finished = false\n{more}"
        );
        std::fs::write(self.path("job.toml"), text).unwrap();
    }

    /// Runs curec with arguments.
    pub fn curec(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_curec"));
        command.args(args).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CUREC_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// `curec run` for the day 20 January 2026, with more flags.
    pub fn run(&self, more: &[&str]) -> Output {
        let mut args = vec!["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
        args.extend(more);
        self.curec(&args)
    }

    /// Rows of a query as JSON objects.
    pub fn sql(&self, query: &str) -> Vec<serde_json::Value> {
        let out = self.curec(&["sql", "--job", "job.toml", "--format", "json", query]);
        assert!(out.status.success(), "{query}\n{}", stderr(&out));
        stdout(&out).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Data files below the warehouse with their bytes' digest, sorted.
    pub fn published(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let root = self.path("warehouse");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.map(|e| e.unwrap().path()) {
                let name = entry.file_name().unwrap().to_string_lossy().to_string();
                if entry.is_dir() && !name.starts_with('_') && name != "response" {
                    folders.push(entry);
                } else if name.starts_with("part-") {
                    let digest = blake3::hash(&std::fs::read(&entry).unwrap()).to_hex().to_string();
                    found.push((entry.strip_prefix(&root).unwrap().display().to_string(), digest));
                }
            }
        }
        found.sort();
        found
    }
}

pub fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).to_string()
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).to_string()
}

/// The JSON summary: the last line of standard output.
pub fn summary(out: &Output) -> serde_json::Value {
    let text = stdout(out);
    let line = text.lines().last().unwrap_or_else(|| panic!("no summary; {}", stderr(out)));
    serde_json::from_str(line).unwrap()
}

/// Asserts the exit code, showing what was said where it differs.
pub fn expect_code(out: &Output, code: i32) {
    assert_eq!(out.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(out), stderr(out));
}
