//! Samples of schedules for a job: those of `jobs/`, with its folder and name.
//!
//! Knows their lines. Knows nothing of what a job does.

use serde_json::Value;

/// A sample, and what becomes of it.
struct Sample {
    /// Its place below `jobs/`, and in the job's folder.
    file: &'static str,
    text: &'static str,
    /// The job's name as it may stand in it.
    named: fn(name: &str) -> String,
    /// A line that ends with the sample's folder, with another one.
    placed: fn(line: &str, folder: &str) -> Option<String>,
}

const SAMPLES: [Sample; 7] = [
    Sample {
        file: "nightly.cron",
        text: include_str!("../../../jobs/nightly.cron"),
        named: str::to_owned,
        placed: |line, folder| Some(format!("{}{folder}", line.strip_suffix(FOLDER)?)),
    },
    Sample {
        file: "nightly.logrotate",
        text: include_str!("../../../jobs/nightly.logrotate"),
        named: str::to_owned,
        placed: |_, _| None,
    },
    Sample {
        file: "nightly_dag.py",
        text: include_str!("../../../jobs/nightly_dag.py"),
        named: str::to_owned,
        placed: in_python,
    },
    Sample {
        file: "nightly_pod_dag.py",
        text: include_str!("../../../jobs/nightly_pod_dag.py"),
        named: of_kubernetes,
        placed: in_python,
    },
    Sample {
        file: "systemd/curec-nightly.service",
        text: include_str!("../../../jobs/systemd/curec-nightly.service"),
        named: str::to_owned,
        placed: in_unit,
    },
    Sample {
        file: "systemd/curec-nightly.timer",
        text: include_str!("../../../jobs/systemd/curec-nightly.timer"),
        named: str::to_owned,
        placed: |_, _| None,
    },
    Sample {
        file: "kubernetes/nightly.yaml",
        text: include_str!("../../../jobs/kubernetes/nightly.yaml"),
        named: of_kubernetes,
        // A text of JSON is one of YAML.
        placed: |line, folder| Some(format!("{}{}", line.strip_suffix(FOLDER)?, Value::from(folder))),
    },
];

/// The samples' own folder.
const FOLDER: &str = "/opt/curec";
/// The places of the samples' inputs and warehouse, which a job of `curec init` names itself.
const PLACES: [&str; 2] = ["CUREC_WAREHOUSE_URL", "CUREC_INPUT"];

/// Schedules for a job of that name in a folder: their places there, and their texts.
pub(super) fn schedules(folder: &str, name: &str) -> Vec<(String, String)> {
    SAMPLES.iter().map(|sample| (renamed(sample.file, name), fitted(sample, folder, name))).collect()
}

fn fitted(sample: &Sample, folder: &str, name: &str) -> String {
    let own = (sample.named)(name);
    let lines = sample.text.lines().filter(|line| !sets_place(line)).map(|line| match (sample.placed)(line, folder) {
        Some(placed) => format!("{placed}\n"),
        None => format!("{}\n", renamed(line, &own)),
    });
    lines.collect()
}

/// Whether a line gives one of [`PLACES`] its value: of a crontab, of a pod in YAML or of one in Python.
fn sets_place(line: &str) -> bool {
    let line = line.trim_start();
    let heads = ["", "- {name: ", "{\"name\": \""];
    let is_set = |rest: &str| ["=", ", value: ", "\", \"value\": "].iter().any(|sign| rest.starts_with(sign));
    heads
        .iter()
        .filter_map(|head| line.strip_prefix(head))
        .any(|line| PLACES.iter().filter_map(|place| line.strip_prefix(place)).any(is_set))
}

/// What names the sample's own job, and what stands there instead.
fn renamed(line: &str, name: &str) -> String {
    line.replace("jobs/nightly.toml", "job.toml")
        .replace("jobs/", "")
        .replace("curec-nightly", &format!("curec-{name}"))
        .replace("curec_nightly", &format!("curec_{name}"))
        .replace("curec/nightly.done", &format!("curec/{name}.done"))
}

fn in_python(line: &str, folder: &str) -> Option<String> {
    // A text of JSON is one of Python.
    Some(format!("{}{}", line.strip_suffix("\"/opt/curec\"")?, Value::from(folder)))
}

/// A setting of a unit. There `%` begins a specifier; between quotation marks a backslash guards what follows.
fn in_unit(line: &str, folder: &str) -> Option<String> {
    let folder = folder.replace('%', "%%");
    if let Some(head) = line.strip_suffix("\"/opt/curec\"") {
        return Some(format!("{head}\"{}\"", folder.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    let head = line.strip_suffix(FOLDER)?;
    // A backslash at the end would join the next line, and white space there does not count.
    let end = if folder.ends_with(|c: char| c == '\\' || c.is_whitespace()) { "/." } else { "" };
    Some(format!("{head}{folder}{end}"))
}

/// A name as Kubernetes allows it: small letters, digits and hyphens, short enough for a CronJob with `curec-` before it.
fn of_kubernetes(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let short: String = name.chars().take(46).collect();
    let short = short.trim_matches('-');
    if short.is_empty() { "job".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample<'a>(all: &'a [(String, String)], file: &str) -> &'a str {
        all.iter().find(|(name, _)| name == file).map(|(_, text)| text.as_str()).unwrap()
    }

    #[test]
    fn the_samples_become_the_jobs_own() {
        let all = schedules("/srv/my \"job\"", "My_shop");
        assert_eq!(all.len(), SAMPLES.len());
        for (file, text) in &all {
            for rest in ["jobs/", "/opt/curec", "curec-nightly", "curec_nightly", "your-bucket"] {
                assert!(!text.contains(rest), "{file} still has {rest:?}: {text}");
            }
            assert!(file.ends_with(".logrotate") || file.ends_with(".timer") || text.contains("job.toml"), "{text}");
        }
        let has = |file: &str, part: &str| assert!(sample(&all, file).contains(part), "{}", sample(&all, file));
        has("nightly.cron", "\nNIGHTLY_DIR=/srv/my \"job\"\n");
        has("nightly.cron", "/var/log/curec-My_shop.log\n");
        has("nightly.logrotate", "\n/var/log/curec-My_shop.log {\n");
        has("nightly_dag.py", "\nCUREC_DIR = \"/srv/my \\\"job\\\"\"\n");
        has("nightly_dag.py", "dag_id=\"curec_My_shop\"");
        has("nightly_pod_dag.py", "\nCUREC_DIR = \"/srv/my \\\"job\\\"\"\n");
        has("nightly_pod_dag.py", "\"claimName\": \"curec-my-shop\"");
        has("systemd/curec-My_shop.service", "\nWorkingDirectory=/srv/my \"job\"\n");
        has("systemd/curec-My_shop.service", "\nReadWritePaths=\"/srv/my \\\"job\\\"\"\n");
        has("systemd/curec-My_shop.service", "\nEnvironmentFile=-/etc/curec/curec-My_shop.env\n");
        has("systemd/curec-My_shop.timer", "\nOnCalendar=");
        has("kubernetes/nightly.yaml", "\n  name: curec-my-shop\n");
        has("kubernetes/nightly.yaml", " mountPath: \"/srv/my \\\"job\\\"\"\n");
        has("kubernetes/nightly.yaml", " workingDir: \"/srv/my \\\"job\\\"\"\n");
        has("kubernetes/nightly.yaml", "{name: JOB_NAME, ");
    }

    #[test]
    fn the_samples_are_those_of_the_repository() {
        for sample in &SAMPLES {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs").join(sample.file);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), sample.text, "{}", path.display());
        }
    }

    #[test]
    fn a_folder_stays_one_in_a_unit() {
        let all = schedules("/srv/100%\\", "mine");
        let unit = sample(&all, "systemd/curec-mine.service");
        assert!(unit.contains("\nWorkingDirectory=/srv/100%%\\/.\n"), "{unit}");
        assert!(unit.contains("\nReadWritePaths=\"/srv/100%%\\\\\"\n"), "{unit}");
    }

    #[test]
    fn names_are_those_that_kubernetes_allows() {
        let long = "x".repeat(60);
        for (name, allowed) in [("My_shop", "my-shop"), ("a-", "a"), ("__", "job"), (long.as_str(), &long[..46])] {
            assert_eq!(of_kubernetes(name), allowed, "{name}");
        }
    }
}
