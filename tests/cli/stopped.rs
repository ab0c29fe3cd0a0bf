//! Stopped by a signal or by a full disk: exit code 75 in time, nothing half-published, nothing paid for again.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{expect_code, stderr, summary};
use crate::night;
use crate::night::{Night, generated, signal};

/// Answers are committed at the end of the stage or by a signal, and come slowly enough for it.
const SLOW: [&str; 8] = [
    "--set",
    "response.flush_rows=1000",
    "--set",
    "response.flush_seconds=600",
    "--set",
    "model.slots=1",
    "--set",
    "sampling.max_new_tokens=100",
];

#[test]
fn a_signal_makes_it_commit_what_was_answered() {
    let night = Night::on_disk();
    let out = night.run(&SLOW).output().unwrap();
    expect_code(&out, 0);
    let (records, prompts) = (night.records(), generated(&out));
    let manifest = std::path::Path::new(summary(&out)["report"].as_str().unwrap()).with_file_name("manifest.json");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let stages = manifest["stages"].as_array().unwrap();
    let seconds = stages.iter().find(|s| s["stage"] == "generate").unwrap()["seconds"].as_f64().unwrap();
    let mut caught = 0;
    for share in [0.4, 0.6, 0.8] {
        night.clear();
        let mut child = night.run(&SLOW).arg("--log-json").spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("\"generating\"")), "it never began to generate");
        let rest = std::thread::spawn(move || lines.map(|l| l.unwrap() + "\n").collect::<String>());
        std::thread::sleep(Duration::from_secs_f64(seconds * share));
        signal(&child, "-TERM");
        let started = Instant::now();
        let out = child.wait_with_output().unwrap();
        let said = rest.join().unwrap();
        if out.status.code() == Some(0) {
            // It was quicker than the run before it, and done before the signal came.
            continue;
        }
        assert_eq!(out.status.code(), Some(75), "{said}");
        assert_eq!(summary(&out)["status"], "interrupted", "{said}");
        assert!(started.elapsed() < Duration::from_secs(5), "it took {:?} to drain", started.elapsed());
        assert!(night.records().is_empty());

        let kept = night.answers().len();
        caught += usize::from(kept > 0 && kept < prompts);
        let again = night.run(&SLOW).output().unwrap();
        expect_code(&again, 0);
        assert_eq!((generated(&again), night.answers().len()), (prompts - kept, prompts), "paid twice; {said}");
        assert_eq!(night.records(), records);
    }
    assert!(caught > 0, "no signal came while it was answering");
}

/// A job whose first table takes hours.
fn endless() -> Night {
    let night = Night::on_disk();
    let table = std::fs::read_to_string(common::project().join("sql/user_history.sql")).unwrap();
    let slow = format!(
        "with slow as (select sum(a.rating * x.rating) as s from interaction as a cross join ( \
         select b.rating * y.rating as rating from interaction as b cross join ( \
         select c.rating * z.rating as rating from interaction as c cross join ( \
         select d.rating * e.rating as rating from interaction as d cross join interaction as e) as z) as y) as x)\n\
         select t.* from (\n{table}\n) as t cross join slow where slow.s is not null order by t.user_id, t.as_of"
    );
    std::fs::create_dir(night.world.path("sql")).unwrap();
    std::fs::write(night.world.path("sql/user_history.sql"), slow).unwrap();
    night
}

#[test]
fn a_signal_ends_it_within_the_grace_time_and_a_second_one_at_once() {
    let night = endless();
    let sql = format!("project.sql={}", night.world.path("sql").display());
    for (grace, signals, code) in [("1", 1, 75), ("600", 2, 143)] {
        let grace_seconds = format!("publish.grace_seconds={grace}");
        let mut child = night.run(&["--set", &sql, "--set", &grace_seconds]).arg("--log-json").spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, heard) = std::sync::mpsc::channel();
        let rest = std::thread::spawn(move || {
            let mut said = String::new();
            for line in lines.map_while(Result::ok) {
                if line.contains("a second signal stops at once") {
                    tell.send(()).unwrap();
                }
                said += &(line + "\n");
            }
            said
        });
        let lease = night.warehouse().join("_leases/dt_2026-01-20.json");
        night::wait_for("it works", || lease.exists());
        std::thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        let started = Instant::now();
        signal(&child, "-TERM");
        if signals == 2 {
            // Two signals before the first was seen are one.
            assert!(heard.recv_timeout(Duration::from_secs(5)).is_ok(), "it did not hear the first signal");
            assert!(child.try_wait().unwrap().is_none(), "the grace time is not over");
            signal(&child, "-TERM");
        }
        let out = child.wait_with_output().unwrap();
        let said = rest.join().unwrap();
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(started.elapsed() < Duration::from_secs(6), "it took {:?}; grace {grace}", started.elapsed());
        if code == 75 {
            assert_eq!(summary(&out)["status"], "interrupted");
            assert!(said.contains("grace"), "{said}");
        }
        assert!(night.records().is_empty());
    }
    // Nothing of that keeps the next run from working.
    expect_code(&night.run(&[]).output().unwrap(), 0);
    night.collect_garbage();
}

fn says_full(said: &str) {
    assert!(said.contains("full") && said.contains("make room") && said.contains("run"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Bytes of all files of a warehouse.
fn size_of(night: &Night) -> u64 {
    let size = |f: &String| std::fs::metadata(night.warehouse().join(f)).unwrap().len();
    night.files().iter().map(size).sum()
}

fn full(night: &Night) {
    let often = ["--set", "response.flush_rows=4"];
    expect_code(&night.run(&often).output().unwrap(), 0);
    let (old, bytes) = (night.records(), size_of(night));
    night.save("old");
    // Everything is built anew, and the file of every table differs.
    let changed = [&often[..], &["--set", "history.like_threshold=3.5", "--set", "sampling.max_new_tokens=7"]].concat();
    expect_code(&night.run(&changed).output().unwrap(), 0);
    let (new, answers) = (night.records(), night.answers());

    let (mut untouched, mut partly) = (0, 0);
    for step in 0..10 {
        night.restore("old");
        let point = format!("full:{}", bytes * step / 9);
        let out = night.run_failing(&point, &changed).output().unwrap();
        let now = night.records();
        match out.status.code() {
            Some(75) => {
                says_full(&stderr(&out));
                assert_eq!(summary(&out)["status"], "temporary", "{point}");
                for (partition, record) in &now {
                    assert!(*record == old[partition] || *record == new[partition], "{partition}; {point}");
                }
                untouched += usize::from(now == old);
                partly += usize::from(now != old);
            }
            code => assert_eq!((code, &now), (Some(0), &new), "{point}: {}", stderr(&out)),
        }
        expect_code(&night.run(&changed).output().unwrap(), 0);
        assert_eq!((night.records(), night.answers()), (new.clone(), answers.clone()), "{point}");
        night.collect_garbage();
        assert_eq!(night.records(), new, "{point}");
    }
    println!(
        "full at 10 sizes up to {bytes} bytes: {untouched} left everything as it was, {partly} came while it published"
    );
    assert!(untouched >= 4, "the sizes are not spread over a run");
}

#[test]
fn a_full_disk_leaves_what_was_published_and_the_next_run_goes_on() {
    full(&Night::on_disk());
}

#[test]
fn a_full_quota_in_a_bucket_leaves_what_was_published_and_the_next_run_goes_on() {
    full(&Night::in_bucket());
}

#[test]
fn a_file_system_that_is_really_full_is_survived() {
    let night = Night::on_disk();
    let often = ["--set", "response.flush_rows=4"];
    expect_code(&night.run(&often).output().unwrap(), 0);
    let expected = night.records();
    let pages = size_of(&night).div_ceil(4096) + night.files().len() as u64;
    night.clear();
    // Its own mount namespace, so that nothing has to be cleaned up; what lies in it is copied out at its end.
    let script = "set -e; mkdir -p warehouse; mount -t tmpfs -o size=$1k tmpfs warehouse || exit 200; shift; \
                  code=0; \"$@\" 2> full.err > full.out || code=$?; find warehouse -name _commit.json > full.records; \
                  mount -o remount,size=100m warehouse; \"$@\" 2> room.err > room.out; \
                  rm -rf out; mkdir out; cp -a warehouse/. out/; exit $code";
    let (mut tried, mut was_full) = (0, 0);
    for eighth in 1..=6 {
        let size = (pages * 4 * eighth / 8).to_string();
        let run = night.run(&often);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", &size]);
        command.arg(run.get_program()).args(run.get_args()).current_dir(night.world.path(""));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("CUREC_")) {
            command.env_remove(name);
        }
        let read = |name: &str| std::fs::read_to_string(night.world.path(name)).unwrap_or_default();
        let code = match command.output() {
            Ok(out) if !stderr(&out).contains("unshare") && out.status.code() != Some(200) => out.status.code(),
            Ok(out) => {
                println!("skipped: no mount of our own here: {}", stderr(&out).trim());
                return;
            }
            Err(e) => {
                println!("skipped: no `unshare`: {e}");
                return;
            }
        };
        tried += 1;
        match code {
            Some(75) => {
                says_full(&read("full.err"));
                was_full += 1;
            }
            Some(0) => {}
            code => panic!("{size} KiB: exit code {code:?}: {}{}", read("full.err"), read("room.err")),
        }
        std::fs::rename(night.world.path("out"), night.warehouse()).unwrap();
        assert_eq!(night.records(), expected, "{size} KiB; {}", read("room.err"));
        night.collect_garbage();
        night.clear();
    }
    println!("{tried} sizes up to {} KiB, {was_full} of them too small", pages * 3);
    assert!(was_full >= 3, "the sizes are not spread over a run");
}

/// Files below a folder that hold something of a user's.
fn spilled(place: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (mut folders, mut found) = (vec![place.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            match std::fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(meta) if meta.len() > 0 && path.file_name().unwrap() != ".owner" => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn is_empty(place: &std::path::Path) -> bool {
    std::fs::read_dir(place).map_or(true, |mut entries| entries.next().is_none())
}

/// What a query spilled goes with it, also where it is killed: then the next command removes it, and no other's.
#[test]
fn nothing_that_was_spilled_stays() {
    use std::os::unix::fs::PermissionsExt as _;
    let night = Night::on_disk();
    let sort =
        "select value, sha256(cast(value as varchar)) as digest from generate_series(1, 400000000) order by digest";
    for named in [false, true] {
        let place = night.world.path(if named { "spill" } else { "tmp" });
        std::fs::create_dir_all(&place).unwrap();
        let set = format!("resources.spill_dir={}", place.display());
        let command = |args: &[&str]| {
            let mut command = night.command(args);
            if named {
                command.args(["--set", &set]);
            } else {
                command.env("TMPDIR", &place);
            }
            command
        };
        let sql =
            |query: &str| command(&["sql", "--job", "job.toml", "--set", "resources.memory_limit=256 MiB", query]);
        let spilling = || {
            let child = sql(sort).spawn().unwrap();
            night::wait_for("it spills", || !spilled(&place).is_empty());
            child
        };

        for name in ["-TERM", "-INT"] {
            let child = spilling();
            let folder = std::fs::read_dir(&place).unwrap().next().unwrap().unwrap();
            assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
            let started = Instant::now();
            signal(&child, name);
            let out = child.wait_with_output().unwrap();
            expect_code(&out, 75);
            assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
            assert!(is_empty(&place), "{name} left {:?}", spilled(&place));
        }

        for by_gc in [false, true] {
            let mut dead = spilling();
            dead.kill().unwrap();
            dead.wait().unwrap();
            assert!(!spilled(&place).is_empty());
            let out = if by_gc { command(&["gc", "job.toml"]) } else { sql("select 1 as one") }.output().unwrap();
            expect_code(&out, 0);
            assert!(is_empty(&place), "a dead process's {:?} stayed", spilled(&place));
        }

        // Who lives keeps what he has, whatever the others do.
        let mut living = spilling();
        expect_code(&sql("select 1 as one").output().unwrap(), 0);
        expect_code(&command(&["gc", "job.toml"]).output().unwrap(), 0);
        assert!(!spilled(&place).is_empty(), "a living process's files were removed");
        assert!(living.try_wait().unwrap().is_none(), "it ended");
        signal(&living, "-TERM");
        expect_code(&living.wait_with_output().unwrap(), 75);
        assert!(is_empty(&place));
    }
}

/// Commands that write files beside their final names hear signals too.
#[test]
fn a_signal_during_an_import_leaves_no_half() {
    let night = Night::on_disk();
    let mut command = night.command(&["simulate", "--out", "made", "--users", "4000000", "--items", "1000"]);
    let child = command.spawn().unwrap();
    let made = night.world.path("made");
    night::wait_for("it writes", || !is_empty(&made));
    signal(&child, "-TERM");
    expect_code(&child.wait_with_output().unwrap(), 75);
    assert!(is_empty(&made), "it left a half");
}
