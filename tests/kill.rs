//! Kill it anywhere, run it again: the same bytes, nothing lost, nothing twice. And two runs at once.
//!
//! Real processes, real `kill -9`, on local disk. `CUREC_KILLS` sets how many points are tried (40).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{World, expect_code, stderr, stdout, summary};

const RUN: [&str; 6] = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
/// Small commits, so that there is more to be torn.
const OFTEN: [&str; 4] = ["--set", "response.flush_rows=2", "--set", "model.slots=2"];

/// Files below a folder whose names begin so.
fn count_files(root: &Path, name: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => count_files(&path, name),
        false => usize::from(path.file_name().unwrap().to_string_lossy().starts_with(name)),
    };
    entries.map(|e| count(e.unwrap().path())).sum()
}

#[test]
fn killed_anywhere_and_run_again_it_gives_the_same_bytes() {
    let points: u32 = std::env::var("CUREC_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let undisturbed = World::new();
    let started = Instant::now();
    let out = undisturbed.command(&RUN).args(OFTEN).output().unwrap();
    expect_code(&out, 0);
    let duration = started.elapsed();
    let published = undisturbed.published();
    let prompts = summary(&out)["generated"].as_u64().unwrap();

    let world = World::new();
    // The inputs are in the fingerprint by content only, so another folder gives the same bytes.
    let mut kills = 0;
    for point in 0..points {
        let _ = std::fs::remove_dir_all(world.path("warehouse"));
        let mut child = world.command(&RUN).args(OFTEN).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // A low-discrepancy sequence covers the run evenly without a random number generator.
        let share = (f64::from(point) * 0.618_033_988_75).fract();
        std::thread::sleep(duration.mul_f64(share));
        child.kill().unwrap();
        let was_killed = !child.wait().unwrap().success();
        kills += u32::from(was_killed);
        let answered = count_files(&world.path("warehouse/response"), "seg-");

        let out = world.command(&RUN).args(OFTEN).output().unwrap();
        expect_code(&out, 0);
        assert_eq!(world.published(), published, "killed after {share:.2} of a run; {}", stderr(&out));
        let again = summary(&out)["generated"].as_u64().unwrap_or(0);
        // What was committed before the kill is not paid for again: at least one answer a segment.
        assert!(again + answered as u64 <= prompts, "{again} of {prompts} generated again after {answered} segments");
        let rows = world.sql("select count(*) as n, count(distinct prompt_key) as d from response where error is null");
        assert_eq!((rows[0]["n"].as_u64(), rows[0]["d"].as_u64()), (Some(prompts), Some(prompts)), "paid twice");
        let gc = world.curec(&["gc", "job.toml"]);
        expect_code(&gc, 0);
        assert_eq!(world.published(), published, "gc took what belongs: {}", stdout(&gc));
        assert_eq!(count_files(&world.path("warehouse/_staging"), ""), 0, "gc left staged files");
    }
    assert!(kills * 4 >= points, "only {kills} of {points} runs were still running when they were killed");
}

#[test]
fn of_two_runs_at_once_one_works_and_the_other_names_it() {
    let world = World::new();
    let slow = ["--set", "sampling.max_new_tokens=100", "--set", "model.slots=1", "--set", "response.flush_rows=1"];
    let first = world.command(&RUN).args(slow).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while count_files(&world.path("warehouse/response"), "seg-") == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Paused, so that it surely holds its lease while the second one tries.
    let signal = |name: &str| {
        std::process::Command::new("kill").args([name, &first.id().to_string()]).status().unwrap();
    };
    signal("-STOP");
    let second = world.command(&RUN).args(slow).output().unwrap();
    signal("-CONT");
    let id = first.id();
    let first = first.wait_with_output().unwrap();
    expect_code(&first, 0);
    expect_code(&second, 75);
    assert_eq!(summary(&second)["status"], "busy");
    assert!(stderr(&second).contains(&format!("process {id}")), "{}", stderr(&second));
    // Another day is nobody's business.
    let args = ["run", "job.toml", "--interval-start", "2026-01-19", "--interval-end", "2026-01-20"];
    expect_code(&world.curec(&args), 0);
}
