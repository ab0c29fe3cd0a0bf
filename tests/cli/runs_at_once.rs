//! Two runs at once: one works and the other names it; who is paused beyond its lease is overtaken and cannot publish any
//! more; different intervals do not disturb each other.
//!
//! Real processes that are stopped (SIGSTOP) where it hurts, on local disk and on S3.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common;
use crate::common::{expect_code, stderr, summary};
use crate::night;
use crate::night::{Change, Night, generated, signal, wait_for, wait_until_stopped};

/// Rows of a segment.
const FLUSH_ROWS: usize = 4;

type Records = BTreeMap<String, serde_json::Value>;

/// A lease that is soon over, commits so small that a run can be stopped between them, and answers so long that a run
/// which goes on without its lease is not done before it notices.
const SHORT: [&str; 8] = [
    "--set",
    "publish.lease_seconds=2",
    "--set",
    "response.flush_rows=4",
    "--set",
    "model.slots=1",
    "--set",
    "sampling.max_new_tokens=60",
];

/// What the run that is overtaken does differently. The rows stay what they are, and with them the prompts and the
/// changes of the store; every file's footer differs.
const OTHERWISE: [&str; 2] = ["--set", "history.like_threshold=3.5"];

/// Where to stop: a kind of change, which one of them, and before or after it.
type Place = (&'static str, &'static str, usize);

const STAGING: Place = ("before", "put staged file", 1);
const GENERATING: Place = ("before", "put segment", 3);
const COPYING: Place = ("before", "copy data file", 0);
const BETWEEN_TABLES: Place = ("after", "copy data file", 2);
const SWITCHING: Place = ("before", "put commit record", 1);
const REMOVING: Place = ("before", "delete data file", 0);

/// The fail point of a place.
fn stop_at((side, kind, nth): Place, changes: &[Change]) -> String {
    let change = changes.iter().filter(|c| c.kind == kind).nth(nth).unwrap();
    format!("stop-{side}:{}", change.number)
}

/// Starts a run that stops at a fail point, and waits until its lease has run out. `reset` makes the warehouse what it
/// was before.
fn overdue(night: &Night, point: &str, reset: impl Fn(&Night)) -> Child {
    for _ in 0..5 {
        let mut first = night.run_failing(point, &SHORT).args(OTHERWISE).spawn().unwrap();
        wait_until_stopped(&first);
        let path = night.warehouse().join("_leases/dt_2026-01-20.json");
        // Its keeper renews the lease meanwhile, and a process that is stopped in there keeps the file to itself:
        // `stopped_while_it_renews_its_lease_a_run_holds_up_its_own_day_only`.
        if File::open(&path).unwrap().try_lock().is_err() {
            first.kill().unwrap();
            first.wait().unwrap();
            reset(night);
            continue;
        }
        wait_for("the lease runs out", || {
            let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            assert_eq!(state["released"], false);
            state["expires"].as_u64().unwrap() < now
        });
        return first;
    }
    panic!("five times in a row it was stopped while it renewed its lease");
}

/// Lets it go on and expects that it gives up.
fn gives_up(first: Child, place: Place) {
    signal(&first, "-CONT");
    let first = first.wait_with_output().unwrap();
    expect_code(&first, 75);
    assert_eq!(summary(&first)["status"], "busy", "{place:?}: {}", stderr(&first));
}

/// Files that commit records list, and the records, by their bytes.
fn published(night: &Night) -> BTreeMap<String, String> {
    let left = night.leftovers();
    night.published_bytes().into_iter().filter(|(file, _)| !left.contains(file)).collect()
}

fn nothing_to_do(night: &Night) {
    let out = night.run(&SHORT).output().unwrap();
    assert_eq!(summary(&out)["status"], "nothing_to_do", "{}", stderr(&out));
}

fn overtaken(night: &Night, place: Place, changes: &[Change], expected: &Records) {
    let first = overdue(night, &stop_at(place, changes), Night::clear);
    let kept = night.answers().len();
    let second = night.run(&SHORT).output().unwrap();
    expect_code(&second, 0);
    assert_eq!(&night.records(), expected, "{place:?}");
    let prompts = night.answers().iter().collect::<BTreeSet<_>>().len();
    assert_eq!(generated(&second), prompts - kept, "{place:?}: the second does not use the first one's answers");
    let before = published(night);
    gives_up(first, place);
    assert_eq!(published(night), before, "{place:?}: the one that was overtaken has published");
    night.collect_garbage();
    assert_eq!(published(night), before, "{place:?}: gc took what belongs");
    // Before it pays for more it looks whether the other one does: the segment that it was about to put is all there is twice.
    let twice = night.answers().len() - prompts;
    assert!(twice <= FLUSH_ROWS, "{place:?}: {twice} answers were paid for twice");
    nothing_to_do(night);
}

fn all_are_overtaken(make: fn() -> Night, places: &[Place]) {
    let undisturbed = make();
    let (_, changes) = undisturbed.count_changes(&SHORT);
    let expected = undisturbed.records();
    // Most of the time goes by waiting for leases to end.
    std::thread::scope(|scope| {
        for place in places {
            let (expected, changes) = (&expected, &changes);
            scope.spawn(move || overtaken(&make(), *place, changes, expected));
        }
    });
}

#[test]
fn a_run_that_was_paused_beyond_its_lease_cannot_publish_on_disk() {
    all_are_overtaken(Night::on_disk, &[STAGING, GENERATING, COPYING, BETWEEN_TABLES]);
}

#[test]
fn a_run_that_was_paused_beyond_its_lease_cannot_publish_on_s3() {
    all_are_overtaken(Night::in_bucket, &[GENERATING, COPYING, BETWEEN_TABLES, SWITCHING]);
}

/// A warehouse with a published day, and the changes that replacing it makes.
fn replaced(night: &Night) -> Vec<Change> {
    expect_code(&night.run(&SHORT).output().unwrap(), 0);
    night.save("old");
    let both: Vec<&str> = SHORT.into_iter().chain(OTHERWISE).collect();
    let (_, changes) = night.count_changes(&both);
    night.restore("old");
    changes
}

#[test]
fn on_disk_nobody_overtakes_inside_the_switch() {
    // Between its last look and the switch or the removals, a process holds the table's lock: the other one says so.
    let inside = |place: Place, night: &Night, changes: &[Change], expected: &Records, reset: fn(&Night)| {
        let first = overdue(night, &stop_at(place, changes), reset);
        let second = night.run(&SHORT).output().unwrap();
        expect_code(&second, 75);
        assert!(stderr(&second).contains("does not go on"), "{place:?}: {}", stderr(&second));
        night.records();
        gives_up(first, place);
        night.records();
        expect_code(&night.run(&SHORT).output().unwrap(), 0);
        assert_eq!(&night.records(), expected, "{place:?}");
        night.collect_garbage();
        assert_eq!(&night.records(), expected, "{place:?}");
        nothing_to_do(night);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let night = Night::on_disk();
            let (_, changes) = night.count_changes(&SHORT);
            let expected = night.records();
            night.clear();
            inside(SWITCHING, &night, &changes, &expected, Night::clear);
        });
        scope.spawn(|| {
            // The second one has the settings of before, so that the files about to be removed are wanted again.
            let night = Night::on_disk();
            let changes = replaced(&night);
            let expected = night.records();
            inside(REMOVING, &night, &changes, &expected, |night| night.restore("old"));
        });
    });
}

#[test]
fn stopped_while_it_renews_its_lease_a_run_holds_up_its_own_day_only() {
    let night = Night::on_disk();
    let (_, changes) = night.count_changes(&SHORT);
    let expected = night.records();
    night.clear();
    let first = overdue(&night, &stop_at(COPYING, &changes), Night::clear);
    // Where a renewal stands when its process is stopped: it has the lease's file to itself.
    let file = File::open(night.warehouse().join("_leases/dt_2026-01-20.json")).unwrap();
    file.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let second = night.run(&SHORT).output().unwrap();
            expect_code(&second, 75);
            assert_eq!(summary(&second)["status"], "busy");
            let said = stderr(&second);
            assert!(said.contains("does not go on") && said.contains("dt_2026-01-20.json"), "{said}");
        });
        expect_code(&night.run_of(19, &SHORT).output().unwrap(), 0);
    });
    drop(file);
    expect_code(&night.run(&SHORT).output().unwrap(), 0);
    gives_up(first, COPYING);
    let mut records = night.records();
    records.retain(|partition, _| partition.ends_with("dt=2026-01-20"));
    assert_eq!(records, expected);
}

#[test]
fn a_removal_that_comes_too_late_on_s3_is_made_good_by_the_next_run() {
    // S3 knows no locks: a request that was held up between the last look and the store can remove a file that is wanted
    // again. The next run finds that it is gone.
    let night = Night::in_bucket();
    let changes = replaced(&night);
    let expected = night.records();
    let first = overdue(&night, &stop_at(REMOVING, &changes), |night| night.restore("old"));
    expect_code(&night.run(&SHORT).output().unwrap(), 0);
    assert_eq!(night.records(), expected);
    gives_up(first, REMOVING);
    let plan = ["plan", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let plan = common::stdout(&night.command(&plan).output().unwrap());
    assert!(plan.contains("is gone"), "{plan}");
    expect_code(&night.run(&SHORT).output().unwrap(), 0);
    assert_eq!(night.records(), expected);
    night.collect_garbage();
    nothing_to_do(&night);
}

#[test]
fn of_two_runs_at_once_one_works_and_the_other_names_it() {
    let night = Night::on_disk();
    let (_, changes) = night.count_changes(&["--set", "response.flush_rows=4"]);
    let expected = night.records();
    night.clear();
    // Stopped, so that it surely holds its lease while the second one tries.
    let first = night.run_failing(&stop_at(GENERATING, &changes), &["--set", "response.flush_rows=4"]).spawn().unwrap();
    wait_until_stopped(&first);
    let second = night.run(&[]).output().unwrap();
    expect_code(&second, 75);
    assert_eq!(summary(&second)["status"], "busy");
    assert!(stderr(&second).contains(&format!("process {}", first.id())), "{}", stderr(&second));
    // Whoever cleans up leaves it alone.
    let staged = |night: &Night| night.leftovers().len();
    let before = staged(&night);
    let gc = night.command(&["gc", "job.toml"]).output().unwrap();
    expect_code(&gc, 0);
    assert!(before > 0 && staged(&night) == before, "gc removed what a live run has staged");
    // Another day is nobody's business.
    expect_code(&night.run_of(19, &[]).output().unwrap(), 0);
    signal(&first, "-CONT");
    let first = first.wait_with_output().unwrap();
    expect_code(&first, 0);
    let mut records = night.records();
    records.retain(|partition, _| partition.ends_with("dt=2026-01-20"));
    assert_eq!(records, expected);
}

#[test]
fn a_paused_run_that_nobody_has_overtaken_goes_on() {
    let night = Night::on_disk();
    let (_, changes) = night.count_changes(&SHORT);
    let expected = night.records();
    night.clear();
    let first = night.run_failing(&stop_at(COPYING, &changes), &SHORT).spawn().unwrap();
    wait_until_stopped(&first);
    std::thread::sleep(Duration::from_millis(2500));
    signal(&first, "-CONT");
    let first = first.wait_with_output().unwrap();
    // Its keeper renews the lease before or after the next look at it; both are right, and both are safe.
    assert!(matches!(first.status.code(), Some(0 | 75)), "{}", stderr(&first));
    expect_code(&night.run(&SHORT).output().unwrap(), 0);
    assert_eq!(night.records(), expected);
}

#[test]
fn a_dead_holder_is_overtaken_at_once_even_as_a_zombie() {
    let night = Night::on_disk();
    let (_, changes) = night.count_changes(&[]);
    let expected = night.records();
    night.clear();
    let hour = ["--set", "publish.lease_seconds=3600"];
    let mut first = night.run_failing(&stop_at(COPYING, &changes), &hour).spawn().unwrap();
    wait_until_stopped(&first);
    // Killed, but its parent has not heard of it yet.
    first.kill().unwrap();
    let started = Instant::now();
    let second = night.run(&hour).output().unwrap();
    expect_code(&second, 0);
    assert!(started.elapsed() < Duration::from_secs(30), "waited {:?} for a dead run", started.elapsed());
    assert_eq!((generated(&second), night.records()), (0, expected));
    assert!(!first.wait().unwrap().success());
}

fn days_side_by_side(night: &Night) {
    let days = [17, 18, 19, 20];
    for day in days {
        expect_code(&night.run_of(day, &SHORT).output().unwrap(), 0);
    }
    let serial = night.records();
    assert_eq!(serial.len(), days.len() * night::TABLES.len());
    night.clear();
    let runs: Vec<Child> = days.iter().map(|day| night.run_of(*day, &SHORT).spawn().unwrap()).collect();
    for (day, run) in days.iter().zip(runs) {
        let out = run.wait_with_output().unwrap();
        expect_code(&out, 0);
        assert_eq!(summary(&out)["status"], "published", "day {day}");
    }
    assert_eq!(night.records(), serial);
    night.collect_garbage();
    assert_eq!(night.records(), serial);
}

#[test]
fn different_days_run_side_by_side_on_disk() {
    days_side_by_side(&Night::on_disk());
}

#[test]
fn different_days_run_side_by_side_on_s3() {
    days_side_by_side(&Night::in_bucket());
}
