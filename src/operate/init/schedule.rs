//! Samples of schedules for a job: those of `jobs/`, with its folder and name.
//!
//! Knows their lines. Knows nothing of what a job does.

const CRON: &str = include_str!("../../../jobs/nightly.cron");
const DAG: &str = include_str!("../../../jobs/nightly_dag.py");

/// What names the sample's own job, and what stands there instead.
fn renamed(line: &str, name: &str) -> String {
    line.replace("jobs/nightly.cron", "nightly.cron")
        .replace("jobs/nightly.toml", "job.toml")
        .replace("curec-nightly", &format!("curec-{name}"))
        .replace("curec_nightly", &format!("curec_{name}"))
        .replace("curec/nightly.done", &format!("curec/{name}.done"))
}

/// A crontab for a job of that name in a folder.
pub(super) fn cron(folder: &str, name: &str) -> String {
    let is_of_sample = |line: &&str| line.starts_with("CUREC_WAREHOUSE_URL=") || line.starts_with("CUREC_INPUT=");
    let lines = CRON.lines().filter(|line| !is_of_sample(line)).map(|line| match line.starts_with("NIGHTLY_DIR=") {
        true => format!("NIGHTLY_DIR={folder}\n"),
        false => format!("{}\n", renamed(line, name)),
    });
    lines.collect()
}

/// A DAG of Airflow for the same.
pub(super) fn dag(folder: &str, name: &str) -> String {
    let lines = DAG.lines().map(|line| match line.starts_with("CUREC_DIR = ") {
        // A text of JSON is one of Python.
        true => format!("CUREC_DIR = {}\n", serde_json::Value::from(folder)),
        false => format!("{}\n", renamed(line, name)),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_become_the_jobs_own() {
        let (cron, dag) = (cron("/srv/my job", "mine"), dag("/srv/\"q\"", "mine"));
        for text in [&cron, &dag] {
            assert!(!text.contains("jobs/") && text.contains("curec run job.toml"), "{text}");
        }
        assert!(cron.contains("\nNIGHTLY_DIR=/srv/my job\n") && cron.contains("curec-mine.log"), "{cron}");
        assert!(!cron.contains("CUREC_INPUT"), "{cron}");
        assert!(dag.contains("\nCUREC_DIR = \"/srv/\\\"q\\\"\"\n") && dag.contains("dag_id=\"curec_mine\""), "{dag}");
    }
}
