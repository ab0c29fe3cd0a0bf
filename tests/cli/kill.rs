//! Kill it anywhere, run it again: the same bytes, nothing lost, nothing twice, nothing left over.
//!
//! Real processes and real `kill -9`, on local disk and on S3: just before and just after changes of the store (fail
//! points), and at any time. `CUREC_KILLS` sets how many points of a first run are tried on each (40); from 200 on they
//! are all changes there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{expect_code, stderr, summary};
use crate::night;
use crate::night::{Change, Night, generated, was_killed};

/// Rows of a segment.
const FLUSH_ROWS: usize = 2;

/// Small commits, so that there is more to be torn; none by the clock, so that every run makes the same changes.
const OFTEN: [&str; 6] =
    ["--set", "response.flush_rows=2", "--set", "response.flush_seconds=600", "--set", "model.slots=2"];

/// Where a run is killed.
enum Point {
    /// Just before or after the change of this number.
    At(&'static str, u64, String),
    /// After this share of an undisturbed run's time.
    After(f64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::At(side, number, what) => write!(f, "{side} change {number} ({what})"),
            Point::After(share) => write!(f, "after {share:.2} of a run"),
        }
    }
}

/// Fail points: every kind of change before and after, each time at another table; the changes of every table before or
/// after; and others, spread evenly, until there are `wanted`.
fn fail_points(changes: &[Change], wanted: usize) -> Vec<Point> {
    let mut kinds: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    let mut places: BTreeMap<(&str, &str), &Change> = BTreeMap::new();
    for change in changes {
        kinds.entry(&change.kind).or_default().push(change);
        places.entry((&change.kind, &change.table)).or_insert(change);
    }
    let mut chosen: Vec<(&Change, &'static str)> = Vec::new();
    fn add<'a>(chosen: &mut Vec<(&'a Change, &'static str)>, change: &'a Change, side: &'static str) {
        if !chosen.iter().any(|(c, s)| c.number == change.number && *s == side) {
            chosen.push((change, side));
        }
    }
    for (turn, of_kind) in kinds.values().enumerate() {
        for (i, side) in ["before", "after"].into_iter().enumerate() {
            add(&mut chosen, of_kind[(turn * 3 + i * 2) % of_kind.len()], side);
        }
    }
    for (turn, change) in places.values().enumerate() {
        let is_new = !chosen.iter().any(|(c, _)| (&c.kind, &c.table) == (&change.kind, &change.table));
        if is_new {
            add(&mut chosen, change, ["before", "after"][turn % 2]);
        }
    }
    let total = changes.len() * 2;
    for step in 0..total * 3 {
        if chosen.len() >= wanted.min(total) {
            break;
        }
        let at = (spread(step) * total as f64) as usize;
        add(&mut chosen, &changes[at / 2], ["before", "after"][at % 2]);
    }
    let point = |(c, side): (&Change, &'static str)| Point::At(side, c.number, c.to_string());
    chosen.into_iter().map(point).collect()
}

/// A low-discrepancy sequence: covers `0..1` evenly without a random number generator.
fn spread(n: usize) -> f64 {
    (n as f64 * 0.618_033_988_75).fract()
}

/// Runs until `point`. Returns whether it was killed there and not at its end already.
fn killed(night: &Night, point: &Point, duration: Duration) -> bool {
    match point {
        Point::At(side, number, _) => {
            let out = night.run_failing(&format!("{side}:{number}"), &OFTEN).output().unwrap();
            assert!(was_killed(&out), "{point}: {:?}, {}", out.status, stderr(&out));
            true
        }
        Point::After(share) => {
            let mut child = night.run(&OFTEN).spawn().unwrap();
            std::thread::sleep(duration.mul_f64(*share));
            child.kill().unwrap();
            let killed = was_killed(&child.wait_with_output().unwrap());
            if night.is_bucket() {
                // What the server has received whole it still carries out.
                std::thread::sleep(Duration::from_millis(30));
            }
            killed
        }
    }
}

fn points_wanted() -> usize {
    std::env::var("CUREC_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// All rows of `response` are answers to different prompts, and there are so many.
fn assert_paid_once(night: &Night, prompts: usize, point: &Point) {
    let answers = night.answers();
    let different: BTreeSet<&String> = answers.iter().collect();
    assert_eq!((answers.len(), different.len()), (prompts, prompts), "paid twice or lost; killed {point}");
}

fn killed_anywhere(night: &Night, points: usize) {
    let began = Instant::now();
    let (out, changes) = night.count_changes(&OFTEN);
    let (records, prompts) = (night.records(), generated(&out));
    assert_eq!((records.len(), night.answers().len()), (night::TABLES.len(), prompts));
    assert_eq!(night.leftovers(), [""; 0], "an undisturbed run leaves something");
    let started = Instant::now();
    night.clear();
    expect_code(&night.run(&OFTEN).output().unwrap(), 0);
    let duration = started.elapsed();
    assert_eq!(night.records(), records, "two undisturbed runs differ");

    let by_time = points / 4;
    let mut all = fail_points(&changes, points - by_time);
    all.extend((0..by_time).map(|n| Point::After(spread(n + 1))));
    let mut kills = 0;
    for point in &all {
        night.clear();
        kills += usize::from(killed(night, point, duration));
        // A reader sees a whole partition or none, and every answer that was flushed is there.
        for (partition, record) in night.records() {
            assert_eq!(records[&partition], record, "{partition} killed {point}");
        }
        let kept = night.answers();
        assert_eq!(kept.iter().collect::<BTreeSet<_>>().len(), kept.len(), "an answer twice; killed {point}");
        if let Point::At(side, number, _) = point {
            let is_done = |c: &&Change| c.number < *number || (c.number == *number && *side == "after");
            let flushed = changes.iter().filter(is_done).filter(|c| c.kind == "put segment").count() * FLUSH_ROWS;
            assert!(kept.len() >= flushed.min(prompts), "{} answers of {flushed} kept; killed {point}", kept.len());
        }

        let out = night.run(&OFTEN).output().unwrap();
        expect_code(&out, 0);
        assert_eq!(night.records(), records, "killed {point}; {}", stderr(&out));
        assert_eq!(generated(&out), prompts - kept.len(), "paid again for what was kept; killed {point}");
        assert_paid_once(night, prompts, point);
        night.collect_garbage();
        assert_eq!(night.records(), records, "gc took what belongs; killed {point}");
    }
    let alive = all.len() - kills;
    println!(
        "{} points ({} of {} changes before or after, {by_time} by time of which {alive} came too late) in {:.0} s",
        all.len(),
        all.len() - by_time,
        changes.len() * 2,
        began.elapsed().as_secs_f64()
    );
    assert!(alive * 2 <= by_time, "only {kills} of {} runs were still running when they were killed", all.len());
}

#[test]
fn killed_anywhere_on_disk_and_run_again_it_gives_the_same_bytes() {
    killed_anywhere(&Night::on_disk(), points_wanted());
}

#[test]
fn killed_anywhere_on_s3_and_run_again_it_gives_the_same_bytes() {
    killed_anywhere(&Night::in_bucket(), points_wanted());
}

/// A run that replaces published partitions: until it is done, readers see the old or the new partition.
fn killed_while_replacing(night: &Night, points: usize) {
    let began = Instant::now();
    expect_code(&night.run(&OFTEN).output().unwrap(), 0);
    let (old, old_rows) = (night.records(), night.rows());
    night.save("old");
    let mut events = common::events();
    for event in events.iter_mut().filter(|e| e.user.as_str() < "u14") {
        event.rating = Some(if event.item.as_str() < "i09" { 5.0 } else { 2.0 });
    }
    common::write_events(&night.input("interaction.parquet"), &events);
    let started = Instant::now();
    let (_, changes) = night.count_changes(&OFTEN);
    let duration = started.elapsed();
    let (new, new_rows) = (night.records(), night.rows());
    let answers = night.answers().len();
    for table in night::TABLES {
        let partition = format!("{table}/dt=2026-01-20");
        assert_ne!(old[&partition], new[&partition], "the change does not reach {table}");
        assert_ne!(old_rows[table], new_rows[table], "the change does not reach the rows of {table}");
    }

    // Where it publishes: from the first copy to the last removal.
    let first = changes.iter().position(|c| c.kind == "copy data file").unwrap();
    let mut all = fail_points(&changes[first..], points - points / 4);
    all.extend((0..points / 4).map(|n| Point::After(spread(n + 1))));
    let mut seen = [0, 0];
    for point in &all {
        night.restore("old");
        killed(night, point, duration);
        let (records, rows) = (night.records(), night.rows());
        for table in night::TABLES {
            let partition = format!("{table}/dt=2026-01-20");
            let is_new = records[&partition] == new[&partition];
            let (record, expected) = match is_new {
                true => (&new[&partition], &new_rows[table]),
                false => (&old[&partition], &old_rows[table]),
            };
            assert_eq!(&records[&partition], record, "{table} is neither old nor new; killed {point}");
            assert_eq!(&rows[table], expected, "readers of {table} see something else; killed {point}");
            seen[usize::from(is_new)] += 1;
        }
        let out = night.run(&OFTEN).output().unwrap();
        expect_code(&out, 0);
        assert_eq!(night.records(), new, "killed {point}; {}", stderr(&out));
        assert_paid_once(night, answers, point);
        night.collect_garbage();
        assert_eq!(night.records(), new, "gc took what belongs; killed {point}");
        assert_eq!(summary(&night.run(&OFTEN).output().unwrap())["status"], "nothing_to_do", "killed {point}");
    }
    println!(
        "{} points; tables seen old {}, new {}; {:.0} s",
        all.len(),
        seen[0],
        seen[1],
        began.elapsed().as_secs_f64()
    );
    assert!(seen[0] > 0 && seen[1] > 0, "no kill came between old and new");
}

#[test]
fn killed_while_it_replaces_partitions_on_disk_readers_see_old_or_new() {
    killed_while_replacing(&Night::on_disk(), points_wanted().div_ceil(5));
}

#[test]
fn killed_while_it_replaces_partitions_on_s3_readers_see_old_or_new() {
    killed_while_replacing(&Night::in_bucket(), points_wanted().div_ceil(8));
}

/// Points spread over a run, the last change among them.
fn spread_points(changes: &[Change], wanted: usize) -> Vec<u64> {
    let last = changes.last().unwrap().number;
    (1..=wanted as u64).map(|n| (last * n / wanted as u64).max(1)).collect()
}

/// The power goes, and the disk loses what it was not made to keep: what is answered for is there, and whole.
#[test]
fn the_power_goes_anywhere_and_run_again_it_gives_the_same_bytes() {
    let night = Night::on_disk();
    let (out, changes) = night.count_changes(&OFTEN);
    let (records, prompts) = (night.records(), generated(&out));
    let points = spread_points(&changes, points_wanted().div_ceil(5));
    for number in &points {
        for what in ["power", "torn"] {
            let point = Point::At(what, *number, changes[*number as usize - 1].to_string());
            night.clear();
            let out = night.run_failing(&format!("{what}:{number}"), &OFTEN).output().unwrap();
            assert!(was_killed(&out), "{point}: {:?}, {}", out.status, stderr(&out));
            // A reader sees a whole partition or none, and nothing that was committed is lost.
            let now = night.records();
            now.iter().for_each(|(partition, record)| assert_eq!(records[partition], *record, "{partition}, {point}"));
            let is_done = |c: &&Change| c.number < *number;
            let committed = changes.iter().filter(is_done).filter(|c| c.kind == "put commit record").count();
            assert!(now.len() >= committed, "{} of {committed} commit records are there, {point}", now.len());
            let kept = night.answers().len();
            let flushed = changes.iter().filter(is_done).filter(|c| c.kind == "put segment").count() * FLUSH_ROWS;
            assert!(kept >= flushed.min(prompts), "{kept} answers of {flushed} kept, {point}");

            let out = night.run(&OFTEN).output().unwrap();
            expect_code(&out, 0);
            assert_eq!(night.records(), records, "{point}; {}", stderr(&out));
            assert_eq!(generated(&out), prompts - kept, "paid again for what was kept; {point}");
            night.collect_garbage();
            assert_eq!(night.records(), records, "gc took what belongs; {point}");
        }
    }
    // The drill finds what it is for: on a disk that syncs nothing the same moment leaves less than was published.
    let last = points.last().unwrap();
    night.clear();
    assert!(was_killed(&night.run_failing(&format!("unsynced:{last}"), &OFTEN).output().unwrap()));
    assert!(!night.warehouse().join("item_feature/dt=2026-01-20/_commit.json").exists(), "nothing was lost");
}

#[test]
fn the_power_goes_while_it_replaces_partitions_and_readers_see_old_or_new() {
    let night = Night::on_disk();
    expect_code(&night.run(&OFTEN).output().unwrap(), 0);
    let old = night.records();
    night.save("old");
    let changed = [&OFTEN[..], &["--set", "history.like_threshold=1.5"]].concat();
    let (_, changes) = night.count_changes(&changed);
    let new = night.records();
    let first = changes.iter().position(|c| c.kind == "copy data file").unwrap();
    for number in spread_points(&changes[first..], 4).iter().map(|n| n.max(&changes[first].number)) {
        for what in ["power", "torn"] {
            night.restore("old");
            assert!(was_killed(&night.run_failing(&format!("{what}:{number}"), &changed).output().unwrap()));
            for (partition, record) in night.records() {
                assert!(record == old[&partition] || record == new[&partition], "{partition}; {what}:{number}");
            }
            expect_code(&night.run(&changed).output().unwrap(), 0);
            assert_eq!(night.records(), new, "{what}:{number}");
            night.collect_garbage();
        }
    }
}
