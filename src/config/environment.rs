//! The process's environment: its variables, and the places on this machine that follow from them.
//!
//! The only file that reads environment variables. Knows nothing of jobs.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The process's environment.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// The key of an endpoint, a teacher's or the generator's, under the name that such endpoints' clients use.
pub fn endpoint_key() -> Option<String> {
    environment().remove("OPENAI_API_KEY").map(|key| without_line_end(&key)).filter(|key| !key.is_empty())
}

/// The key of a receiver of lineage, under the name that OpenLineage's own clients use.
pub fn lineage_key() -> Option<String> {
    environment().remove("OPENLINEAGE_API_KEY").map(|key| without_line_end(&key)).filter(|key| !key.is_empty())
}

/// The headers that a collector of traces is sent, under the name that OpenTelemetry's own clients use.
pub fn trace_headers() -> Vec<(String, String)> {
    environment().remove("OTEL_EXPORTER_OTLP_HEADERS").map(|text| headers_of(&text)).unwrap_or_default()
}

/// `name=value,name=value`, where `%2C` stands for a comma in a value. What is no such pair is left out.
fn headers_of(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (without_line_end(name), without_line_end(value));
        // A query of one parameter has the same escapes, but for `+`.
        let query = format!("v={}", value.replace('+', "%2B").replace('&', "%26"));
        let (_, value) = url::form_urlencoded::parse(query.as_bytes()).next()?;
        (!name.is_empty()).then(|| (name, value.into_owned()))
    };
    text.split(',').filter_map(pair).collect()
}

/// The span under which this process was started, as W3C's Trace Context writes it; Airflow and others set it.
pub fn trace_parent() -> Option<String> {
    environment().remove("TRACEPARENT")
}

/// The variables of the process's environment that stores are opened with.
pub fn store_variables() -> BTreeMap<String, String> {
    of_stores(&environment())
}

/// The same of variables that stand for the environment.
pub(super) fn of_stores(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let belongs = |name: &str| name.starts_with("AWS_") || name == "CUREC_FAIL_POINT";
    env.iter().filter(|(name, _)| belongs(name)).map(|(k, v)| (k.clone(), without_line_end(v))).collect()
}

/// A variable that was read from a mounted file often ends as the file does, with the end of a line.
fn without_line_end(value: &str) -> String {
    value.trim_matches(|c: char| c.is_ascii_whitespace()).to_owned()
}

/// Whether there are to be colours, as most tools decide it: none with `NO_COLOR`, always with `CLICOLOR_FORCE`, else on a
/// terminal that knows some, unless `CLICOLOR` is 0.
pub fn has_colours(is_terminal: bool) -> bool {
    colours_of(&environment(), is_terminal)
}

fn colours_of(env: &BTreeMap<String, String>, is_terminal: bool) -> bool {
    let is_set = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    let is_zero = |name: &str| env.get(name).is_some_and(|value| value == "0");
    let is_forced = is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE");
    let knows_some = !is_zero("CLICOLOR") && env.get("TERM").is_none_or(|term| term != "dumb");
    !is_set("NO_COLOR") && (is_forced || is_terminal && knows_some)
}

/// Where temporary files go unless the job says so.
pub fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

/// Where a person's state lies, such as what was typed before: `$XDG_STATE_HOME`, or `~/.local/state`; `None` where the environment
/// names neither.
pub fn state_folder() -> Option<PathBuf> {
    state_of(&environment())
}

fn state_of(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    // A relative path means nothing there, as the specification says.
    let named = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))
}

/// `[model] cache_dir`, or the user's own cache.
pub(super) fn cache_dir(given: &str, env: &BTreeMap<String, String>) -> PathBuf {
    let named = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match given {
        "" => named("XDG_CACHE_HOME")
            .or_else(|| Some(named("HOME")?.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("curec/models"),
        given => PathBuf::from(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_collector_are_read() {
        let of = |text: &str| -> Vec<String> {
            headers_of(text).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
        };
        assert_eq!(of("api-key=a=b+c, x = y%20z%2C\n"), ["api-key: a=b+c", "x: y z,"]);
        assert!(of("").is_empty() && of("nothing").is_empty() && of("=x").is_empty());
    }

    #[test]
    fn the_environment_decides_on_colours() {
        for (vars, on_terminal, elsewhere) in [
            (&[][..], true, false),
            (&[("NO_COLOR", "")], true, false),
            (&[("NO_COLOR", "1")], false, false),
            (&[("TERM", "dumb")], false, false),
            (&[("CLICOLOR", "0")], false, false),
            (&[("CLICOLOR_FORCE", "0")], true, false),
            (&[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], true, true),
            (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
        ] {
            let env = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!((colours_of(&env, true), colours_of(&env, false)), (on_terminal, elsewhere), "{vars:?}");
        }
    }

    #[test]
    fn state_lies_where_the_environment_says() {
        let state = |vars: &[(&str, &str)]| {
            state_of(&vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(state(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")]), Some(PathBuf::from("/x")));
        assert_eq!(state(&[("HOME", "/h"), ("XDG_STATE_HOME", "x")]), Some(PathBuf::from("/h/.local/state")));
        assert_eq!(state(&[("XDG_STATE_HOME", "")]), None);
    }
}
