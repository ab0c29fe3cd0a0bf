//! A night's run seen from outside: a warehouse on local disk or in a bucket, processes that are killed or stopped, and
//! what then lies there file by file.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::common::{World, expect_code, stdout, summary};
use crate::s3;

/// The tables that a run publishes.
pub const TABLES: [&str; 7] =
    ["user_history", "item_audience", "reason_prompt", "reason", "reason_score", "item_feature", "user_feature"];

/// A world whose warehouse is on local disk or in a bucket. A bucket's objects are files below it too, so both are
/// looked at alike.
pub struct Night {
    pub world: World,
    server: Option<s3::Server>,
}

impl Night {
    pub fn on_disk() -> Night {
        Night { world: World::new(), server: None }
    }

    pub fn in_bucket() -> Night {
        let world = World::new();
        std::fs::create_dir_all(world.path("s3/logs")).unwrap();
        std::fs::create_dir_all(world.path("s3/lake")).unwrap();
        std::fs::rename(world.path("input"), world.path("s3/logs/input")).unwrap();
        let server = s3::Server::new(&world.path("s3"));
        Night { world, server: Some(server) }
    }

    pub fn is_bucket(&self) -> bool {
        self.server.is_some()
    }

    /// The folder whose content is the warehouse.
    pub fn warehouse(&self) -> PathBuf {
        self.world.path(if self.is_bucket() { "s3/lake/curec" } else { "warehouse" })
    }

    /// An input file.
    pub fn input(&self, name: &str) -> PathBuf {
        self.world.path(if self.is_bucket() { "s3/logs/input" } else { "input" }).join(name)
    }

    /// curec with arguments; standard output and error are kept for [`Child::wait_with_output`].
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        if let Some(server) = &self.server {
            s3::on_s3(&mut command, &server.endpoint, "curec");
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `curec run` of a day in January 2026.
    pub fn run_of(&self, day: u32, more: &[&str]) -> Command {
        let (start, end) = (format!("2026-01-{day:02}"), format!("2026-01-{:02}", day + 1));
        let mut command = self.command(&["run", "job.toml", "--interval-start", &start, "--interval-end", &end]);
        command.args(more);
        command
    }

    /// `curec run` of 20 January 2026.
    pub fn run(&self, more: &[&str]) -> Command {
        self.run_of(20, more)
    }

    /// As [`Night::run`], dying, stopping, counting or running full at a fail point.
    pub fn run_failing(&self, point: &str, more: &[&str]) -> Command {
        let mut command = self.run(more);
        command.env("CUREC_FAIL_POINT", point);
        command
    }

    /// Runs undisturbed and lists its changes of the store.
    pub fn count_changes(&self, more: &[&str]) -> (Output, Vec<Change>) {
        let log = self.world.path("changes");
        let _ = std::fs::remove_file(&log);
        let out = self.run_failing(&format!("count:{}", log.display()), more).output().unwrap();
        expect_code(&out, 0);
        let root = self.warehouse();
        let root = format!("/{}/", root.file_name().unwrap().to_str().unwrap());
        let parse = |line: &str| {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let path = format!("/{}", words[2]);
            let below = path.split_once(&root).unwrap_or_else(|| panic!("{path} is not below {root}")).1;
            let parts: Vec<&str> = below.split('/').collect();
            let (role, table) = match parts[..] {
                ["_leases", _] => ("lease", "lease"),
                ["_staging", _, table, ..] => ("staged file", table),
                ["_runs", _, file] | ["_runs", file] => ("run record", file),
                ["response", _] => ("segment", "response"),
                [table, "_delta_log", _] => ("log version", table),
                [table, _, "_commit.json"] => ("commit record", table),
                [table, _, _] => ("data file", table),
                _ => ("other file", parts[0]),
            };
            let kind = format!("{} {role}", words[1]);
            Change { number: words[0].parse().unwrap(), kind, table: table.to_string() }
        };
        let changes = std::fs::read_to_string(&log).unwrap().lines().map(parse).collect();
        (out, changes)
    }

    /// `curec gc`, after which nothing may be left over.
    pub fn collect_garbage(&self) {
        let out = self.command(&["gc", "job.toml"]).output().unwrap();
        expect_code(&out, 0);
        let left = self.leftovers();
        assert!(left.is_empty(), "gc left {left:?}; {}", stdout(&out));
        assert!(self.is_bucket() || !self.warehouse().join("_staging").exists(), "gc left empty folders");
    }

    /// Every table's rows as `curec sql` reads them.
    pub fn rows(&self) -> BTreeMap<String, String> {
        let read = |table: &str| {
            let query = format!("select * from {table} order by 1, 2, 3");
            let out = self.command(&["sql", "--job", "job.toml", "--format", "json", &query]).output().unwrap();
            expect_code(&out, 0);
            (table.to_string(), stdout(&out))
        };
        TABLES.iter().map(|table| read(table)).collect()
    }

    /// All files of the warehouse by their path in it, sorted.
    pub fn files(&self) -> Vec<String> {
        let root = self.warehouse();
        let mut found: Vec<String> =
            walk(&root).iter().map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect();
        found.sort();
        found
    }

    /// Data files and commit records with their bytes' digests.
    pub fn published_bytes(&self) -> BTreeMap<String, String> {
        let mut files = self.files();
        files.retain(|f| !f.starts_with('_') && !f.starts_with("response/"));
        let digest = |f: &String| blake3::hash(&std::fs::read(self.warehouse().join(f)).unwrap()).to_hex().to_string();
        files.iter().map(|f| (f.clone(), digest(f))).collect()
    }

    /// The commit records by partition, without what differs from run to run. Every file that one lists has to be there
    /// with the bytes that it says.
    pub fn records(&self) -> BTreeMap<String, Value> {
        let mut records = BTreeMap::new();
        for path in self.files().iter().filter(|f| f.ends_with("/_commit.json")) {
            let partition = path.trim_end_matches("/_commit.json");
            let mut record: Value =
                serde_json::from_slice(&std::fs::read(self.warehouse().join(path)).unwrap()).unwrap();
            for file in record["files"].as_array().unwrap() {
                let data = self.warehouse().join(partition).join(file["name"].as_str().unwrap());
                let bytes = std::fs::read(&data).unwrap_or_else(|e| panic!("{} is listed: {e}", data.display()));
                assert_eq!(file["blake3"], blake3::hash(&bytes).to_hex().as_str(), "{}", data.display());
                assert_eq!(file["bytes"], bytes.len(), "{}", data.display());
            }
            for changing in ["run_id", "lease_epoch"] {
                record.as_object_mut().unwrap().remove(changing).expect(changing);
            }
            records.insert(partition.to_string(), record);
        }
        records
    }

    /// What nobody needs: staged files, data files that no commit record lists, halves of files.
    pub fn leftovers(&self) -> Vec<String> {
        let records = self.records();
        let is_listed = |file: &String| {
            let (partition, name) = file.rsplit_once('/').unwrap_or(("", file));
            let files = records.get(partition).and_then(|r| r["files"].as_array());
            files.is_some_and(|files| files.iter().any(|f| f["name"] == name))
        };
        let is_data = |file: &String| file.contains("/part-") && !file.starts_with("_quarantine/");
        let mut files = self.files();
        files.retain(|f| f.starts_with("_staging/") || f.contains('#') || (is_data(f) && !is_listed(f)));
        files
    }

    /// The prompt keys of all answers that are committed, one for each row of `response`.
    pub fn answers(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let is_segment = |f: &&String| f.starts_with("response/seg-") && f.ends_with(".parquet");
        for path in self.files().iter().filter(is_segment) {
            let file = std::fs::File::open(self.warehouse().join(path)).unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let (key, error) =
                    (batch.column_by_name("prompt_key").unwrap(), batch.column_by_name("error").unwrap());
                assert_eq!(error.null_count(), batch.num_rows(), "a prompt failed");
                keys.extend(key.as_string::<i32>().iter().map(|k| k.unwrap().to_string()));
            }
        }
        keys.sort();
        keys
    }

    /// Removes the warehouse.
    pub fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.warehouse());
        self.forget_objects();
    }

    /// Copies the warehouse to a folder of the world.
    pub fn save(&self, name: &str) {
        copy_folder(&self.warehouse(), &self.world.path(name));
    }

    /// Makes the warehouse what [`Night::save`] found.
    pub fn restore(&self, name: &str) {
        self.clear();
        copy_folder(&self.world.path(name), &self.warehouse());
    }

    /// Removes what the S3 server remembers of objects (their tags) after their files were changed.
    fn forget_objects(&self) {
        if !self.is_bucket() {
            return;
        }
        for entry in std::fs::read_dir(self.world.path("s3")).unwrap().map(|e| e.unwrap()) {
            if entry.file_name().to_string_lossy().starts_with(".bucket-") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn copy_folder(from: &Path, to: &Path) {
    for path in walk(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
}

/// A change of the store as a run makes it.
#[derive(Debug)]
pub struct Change {
    /// Its number among all changes of the run, from 1.
    pub number: u64,
    /// What is done to what, such as `copy data file`.
    pub kind: String,
    /// The table, or what else it belongs to.
    pub table: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.kind, self.table)
    }
}

/// Sends a signal such as `-TERM`.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "kill {name}");
}

/// Waits until something holds, for at most a minute.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process has been stopped by a signal, with all its threads: one that waits for the disk stops last.
pub fn wait_until_stopped(child: &Child) {
    let state = |stat: PathBuf| {
        let text = std::fs::read_to_string(stat).unwrap_or_default();
        text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    wait_for("the process stops", || {
        let leader = state(process.join("stat"));
        assert!(!matches!(leader, None | Some('Z' | 'X')), "the process ended and was to be stopped");
        let mut threads = std::fs::read_dir(process.join("task")).unwrap();
        leader == Some('T') && threads.all(|thread| state(thread.unwrap().path().join("stat")) == Some('T'))
    });
}

/// Whether a process was ended by `kill -9`.
pub fn was_killed(out: &Output) -> bool {
    out.status.signal() == Some(9)
}

/// The generated prompts that a run's summary tells of.
pub fn generated(out: &Output) -> usize {
    summary(out)["generated"].as_u64().unwrap_or(0) as usize
}
