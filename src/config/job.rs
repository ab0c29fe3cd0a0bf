//! The job: what a person wrote ([`JobSpec`]) and what it means ([`Job`]).
//!
//! Layers `job.toml` < job file < `CUREC_*` variables < `--set` flags. Opens no file but the job file; reading is left to
//! [`crate::settings`], the variables to `environment.rs`, what values may be to `rules.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::environment::{cache_dir, environment, of_stores, temporary_folder};
use crate::config::rules::validate;
use crate::config::spec::JobSpec;
use crate::error::{Error, Kind, Result};
use crate::resolved::{Place, Resolved};
use crate::settings::{Form, Layers, Problem, read_text};

/// The defaults with their documentation, as a job file.
pub const DEFAULTS: &str = include_str!("job.toml");

/// The job file.
const FORM: Form = Form {
    what: "the job",
    file: "the job file",
    defaults: DEFAULTS,
    optional: &[],
    hint: "`curec config` prints every key with its default and meaning",
};

/// A job, validated and resolved for nothing in particular: no file was opened for it yet.
#[derive(Clone)]
pub struct Job {
    /// The layered settings.
    pub spec: JobSpec,
    /// Where the job file was read.
    pub origin: String,
    /// `resources.memory_limit` in bytes.
    pub memory_limit: usize,
    /// The same settings as `section.key` and value, for the manifest.
    pub settings: BTreeMap<String, String>,
    /// The same settings with where each came from.
    pub resolved: Resolved,
    /// The variables that stores are opened with: the standard AWS ones, and `CUREC_FAIL_POINT` for drills.
    pub aws: BTreeMap<String, String>,
    /// Where models from stores are kept on this machine.
    pub cache_dir: PathBuf,
}

impl std::fmt::Debug for Job {
    /// Of the variables only the names: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("spec", &self.spec)
            .field("origin", &self.origin)
            .field("memory_limit", &self.memory_limit)
            .field("aws", &self.aws.keys().collect::<Vec<_>>())
            .field("cache_dir", &self.cache_dir)
            .finish()
    }
}

impl Job {
    /// Reads and validates a job file, with the environment and `overrides` (`key=value`) on top.
    ///
    /// # Errors
    /// [`Kind::Config`] with every problem of the file, each with its line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Job> {
        let text = read_text(path, "the job file", "pass the path of a job file, for example jobs/nightly.toml")?;
        Job::parse(&text, &path.display().to_string(), overrides, &environment())
    }

    /// The same for text; `env` stands for the environment.
    pub fn parse(text: &str, origin: &str, overrides: &[String], env: &BTreeMap<String, String>) -> Result<Job> {
        let mut layers = layered(text, origin, overrides, env)?;
        let spec: Option<JobSpec> = layers.build();
        let memory_limit = spec.as_ref().map_or(0, |s| validate(s, &mut layers));
        Job::of(layers, spec, memory_limit, origin, env)
    }

    /// As [`Job::load`], for whoever tells everything that is wrong with a job: keys with problems have their defaults in it,
    /// and may be empty where there is none.
    ///
    /// # Errors
    /// [`Kind::Config`] for a file that cannot be read or is not TOML.
    pub fn examine(path: &Path, overrides: &[String]) -> Result<(Job, Vec<Problem>)> {
        let text = read_text(path, "the job file", "pass the path of a job file, for example jobs/nightly.toml")?;
        Job::examine_text(&text, &path.display().to_string(), overrides, &environment())
    }

    /// The same for text; `env` stands for the environment.
    fn examine_text(
        text: &str,
        origin: &str,
        overrides: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<(Job, Vec<Problem>)> {
        let mut layers = layered(text, origin, overrides, env)?;
        if let Some(spec) = layers.build::<JobSpec>() {
            validate(&spec, &mut layers);
        }
        let problems = layers.forgive();
        let spec: Option<JobSpec> = layers.build();
        let memory_limit = spec.as_ref().map_or(0, |s| validate(s, &mut layers));
        // What has no default is told already.
        layers.forgive();
        Ok((Job::of(layers, spec, memory_limit, origin, env)?, problems))
    }

    /// A job of settings that were read and checked.
    fn of(
        layers: Layers<'_>,
        spec: Option<JobSpec>,
        memory_limit: usize,
        origin: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<Job> {
        let resolved = layers.finish()?;
        let spec = spec.ok_or_else(|| Error::new(Kind::Internal, "the job has no settings"))?;
        let aws = of_stores(env);
        let cache_dir = cache_dir(&spec.model.cache_dir, env);
        let settings = resolved.texts();
        Ok(Job { spec, origin: origin.to_string(), memory_limit, settings, resolved, aws, cache_dir })
    }
}

/// The layers of a job's settings, one over the other.
fn layered<'a>(
    text: &'a str,
    origin: &'a str,
    overrides: &[String],
    env: &BTreeMap<String, String>,
) -> Result<Layers<'a>> {
    let mut layers = Layers::read(&FORM, text, origin)?;
    for (name, value) in env {
        let key = match name.strip_prefix("CUREC_") {
            Some("WAREHOUSE") => "warehouse".to_string(),
            Some(rest) if rest.contains("__") => rest.to_lowercase().replace("__", "."),
            _ => continue,
        };
        layers.set(&key, value, name, Place::Variable(name.clone()));
    }
    for pair in overrides {
        match pair.split_once('=') {
            Some((key, value)) => layers.set(key.trim(), value.trim(), "--set", Place::Flag),
            None => layers.problem_of_flag(format!("--set {pair}: write it as key=value")),
        }
    }
    layers.expand(env);
    Ok(layers)
}

/// Every place where a job's commands keep temporary files.
pub fn temporary_places(job: &Job) -> Vec<PathBuf> {
    let spill = &job.spec.resources.spill_dir;
    let named = (!spill.is_empty()).then(|| PathBuf::from(spill));
    named.into_iter().chain([temporary_folder(), job.cache_dir.clone()]).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) const GOOD: &str =
        "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = 'g'\nencoder = 'e'\n";

    pub(crate) fn parse(text: &str, overrides: &[&str], env: &[(&str, &str)]) -> Result<Job> {
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        Job::parse(text, "job.toml", &overrides, &env)
    }

    #[test]
    fn layers_stack_in_order() {
        assert_eq!(parse(GOOD, &[], &[]).unwrap().spec.model.slots, 32);
        let file = format!("{GOOD}slots = 8\n");
        assert_eq!(parse(&file, &[], &[]).unwrap().spec.model.slots, 8);
        let env = [("CUREC_MODEL__SLOTS", "4")];
        assert_eq!(parse(&file, &[], &env).unwrap().spec.model.slots, 4);
        let job = parse(&file, &["model.slots=2"], &env).unwrap();
        assert_eq!(job.spec.model.slots, 2);
        assert_eq!((job.settings["model.slots"].as_str(), job.settings["name"].as_str()), ("2", "n"));
    }

    #[test]
    fn all_problems_come_at_once_with_lines() {
        let text = "name = 3\nwarehouse = 'w'\n[model]\ndevise = 'cpu'\nslots = 'many'\n[check]\nmin_grounding = 7\n";
        let e = parse(text, &["nothing.here=1"], &[]).unwrap_err();
        let text = e.explain();
        assert_eq!(e.kind().exit_code(), 2);
        assert!(text.contains("job.toml:1: name: must be a string, got integer"), "{text}");
        assert!(text.contains("job.toml:4: model.devise: unknown key; did you mean `device`?"), "{text}");
        assert!(text.contains("job.toml:5: model.slots: must be a whole number, got string"), "{text}");
        assert!(text.contains("job.toml:7: check.min_grounding: must be between 0 and 1, got 7"), "{text}");
        assert!(text.contains("--set: unknown key `nothing.here`"), "{text}");
        assert!(text.contains("input.interaction: must be set"), "{text}");
        let text =
            parse(&format!("{GOOD}threads = -1\nslots = -2\n"), &["model.device.x=1"], &[]).unwrap_err().explain();
        assert!(text.contains("job.toml:8: model.threads: must not be negative"), "{text}");
        assert!(text.contains("job.toml:9: model.slots") && text.contains("unknown key `model.device.x`"), "{text}");
    }

    #[test]
    fn a_job_with_problems_can_be_looked_at_all_the_same() {
        let text = "name = 'a b'\n[store]\ntimeout_seconds = -1.0\n[events.meaning]\nview = 'nothing'\nbot = 'drop'\n\
                    [model]\ndevise = 'cpu'\nslots = 'many'\nthreads = 2\n[resources]\nmemory_limit = '1'\n";
        let env = BTreeMap::from([("CUREC_MODEL__MAX_POSITIONS".to_owned(), "x".to_owned())]);
        let (job, problems) = Job::examine_text(text, "job.toml", &[], &env).unwrap();
        let line = |key: &str| problems.iter().find(|p| p.key == key).map(|p| p.line);
        assert_eq!(line("name"), Some(Some(1)));
        assert_eq!((line("store.timeout_seconds"), line("events.meaning.view")), (Some(Some(3)), Some(Some(5))));
        assert_eq!((line("model.devise"), line("model.slots")), (Some(Some(8)), Some(Some(9))));
        assert_eq!(
            (line("resources.memory_limit"), line("input.item"), line("")),
            (Some(Some(12)), Some(None), Some(None))
        );
        assert_eq!(problems.len(), 11, "{problems:?}");
        // What is wrong has its default, and the rest is as it was written.
        let spec = &job.spec;
        assert_eq!((spec.store.timeout_seconds, spec.model.slots, spec.model.threads), (30.0, 32, 2));
        assert_eq!((job.memory_limit, spec.events.meaning.0.len(), spec.input.item.as_str()), (1 << 30, 1, ""));
        let (job, problems) = Job::examine_text(GOOD, "job.toml", &[], &BTreeMap::new()).unwrap();
        assert_eq!((job.spec.input.item.as_str(), problems.len()), ("b", 0));
        assert!(Job::examine_text("name = ", "job.toml", &[], &BTreeMap::new()).is_err());
    }

    #[test]
    fn variables_expand() {
        let text = GOOD.replace("'a'", "'${HOME_DIR}/x'").replace("'b'", "'${MISSING:-dflt}/y'");
        let job = parse(&text, &[], &[("HOME_DIR", "/h")]).unwrap();
        assert_eq!(job.spec.input.interaction, "/h/x");
        assert_eq!(job.spec.input.item, "dflt/y");
        assert!(parse(&text, &[], &[]).unwrap_err().explain().contains("HOME_DIR"));
    }

    #[test]
    fn the_cache_is_the_users_own_and_no_secret_is_shown() {
        let dir = |env: &[(&str, &str)]| parse(GOOD, &[], env).unwrap().cache_dir.display().to_string();
        assert_eq!(dir(&[("HOME", "/h")]), "/h/.cache/curec/models");
        assert_eq!(dir(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/curec/models");
        let job = parse(GOOD, &["model.cache_dir=/c"], &[("AWS_SECRET_ACCESS_KEY", "hunter2")]).unwrap();
        assert_eq!(job.cache_dir, PathBuf::from("/c"));
        assert!(job.aws.contains_key("AWS_SECRET_ACCESS_KEY") && !format!("{job:?}").contains("hunter2"));
        // As a mounted file gives it.
        let job = parse(GOOD, &[], &[("AWS_SECRET_ACCESS_KEY", "hunter2\r\n")]).unwrap();
        assert_eq!(job.aws["AWS_SECRET_ACCESS_KEY"], "hunter2");
    }

    #[test]
    fn not_toml_names_the_line() {
        let e = parse("name = 'n'\n[input\n", &[], &[]).unwrap_err().explain();
        assert!(e.contains("line: 2"), "{e}");
    }
}
