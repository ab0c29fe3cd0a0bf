#![allow(clippy::unwrap_used)]

use super::*;

fn page(value: f64) -> Exposition {
    let mut page = Exposition::of("night");
    page.gauge("curec_last_run_exit_status", "It.", value);
    page
}

fn spec() -> WatchSpec {
    WatchSpec { openlineage_namespace: "curec".into(), ..WatchSpec::default() }
}

fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

#[tokio::test]
async fn a_failed_run_keeps_the_last_success_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("night.prom");
    let watch = Watch::of(&WatchSpec { prometheus_file: file.display().to_string(), ..spec() });
    assert!(watch.wants_metrics() && !watch.without_metrics().wants_metrics() && watch.lineage_namespace().is_none());
    let read = || std::fs::read_to_string(&file).unwrap();
    // Nobody has ever succeeded: that is not told as a moment.
    watch.tell_metrics("night", page(1.0), false, moment(1_000));
    watch.settle().await;
    assert!(!read().contains(SUCCESS), "{}", read());
    for (at, is_success, last) in
        [(2_000, true, 2_000), (3_000, false, 2_000), (4_000, false, 2_000), (5_000, true, 5_000)]
    {
        watch.tell_metrics("night", page(f64::from(u8::from(!is_success))), is_success, moment(at));
        watch.settle().await;
        let told = read();
        assert!(told.contains(&format!("{SUCCESS}{{curec_job=\"night\"}} {last}\n")), "{told}");
        assert!(told.contains(&format!("exit_status{{curec_job=\"night\"}} {}\n", u8::from(!is_success))), "{told}");
    }
    // One that is part of another tells no metrics.
    watch.without_metrics().tell_metrics("night", page(7.0), true, moment(6_000));
    watch.settle().await;
    assert!(!read().contains("6000"));
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["night.prom"], "something else was left");
    // A failed run does not put its file in the place of what it cannot read.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    watch.tell_metrics("night", page(1.0), false, moment(7_000));
    watch.settle().await;
    assert!(file.is_dir());
}

#[tokio::test]
async fn events_are_appended_and_a_folder_that_is_not_there_fails_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let watch = Watch::of(&WatchSpec { openlineage: file.display().to_string(), ..spec() });
    assert_eq!(watch.lineage_namespace(), Some("curec"));
    assert!(!watch.wants_metrics());
    for n in 0..3 {
        watch.tell_lineage(&serde_json::json!({"n": n, "text": "a\nb"}));
    }
    watch.settle().await;
    let lines: Vec<Value> =
        std::fs::read_to_string(&file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["n"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    let nowhere = folder.path().join("nowhere/events.jsonl");
    let watch = Watch::of(&WatchSpec { openlineage: nowhere.display().to_string(), ..spec() });
    watch.tell_lineage(&serde_json::json!({}));
    watch.settle().await;
    assert!(!nowhere.exists());
}

#[test]
fn addresses_get_the_paths_of_their_receivers() {
    let url = |text: &str| Url::parse(text).unwrap();
    assert_eq!(with_path(url("http://host:5000"), LINEAGE).as_str(), "http://host:5000/api/v1/lineage");
    assert_eq!(with_path(url("http://host:4318/"), TRACES).as_str(), "http://host:4318/v1/traces");
    assert_eq!(with_path(url("https://host/own/path"), TRACES).as_str(), "https://host/own/path");
    let labels = ["job", "night", "outcome", "success"];
    assert_eq!(group(&url("http://host:9091"), &labels).as_str(), "http://host:9091/metrics/job/night/outcome/success");
    assert_eq!(group(&url("http://host/prefix/"), &labels[..2]).as_str(), "http://host/prefix/metrics/job/night");
    let watch = Watch::of(&WatchSpec { pushgateway: "http://u:hunter2@host".into(), ..spec() });
    assert!(watch.wants_metrics() && !format!("{watch:?}").contains("hunter2"));
    assert!(!watch.wants_traces() && watch.lineage_namespace().is_none());
    let watch = Watch::of(&WatchSpec { otlp: "http://host:4318".into(), ..spec() });
    assert!(watch.wants_traces() && !watch.wants_metrics());
    assert!(!Watch::of(&spec()).wants_metrics() && !Watch::of(&spec()).wants_traces());
}
