//! What a run says while it works: log lines, progress, and the counters of its stages.
//!
//! On a terminal a person sees one line a stage, with its rate and the time left, and log lines above it; otherwise every line is
//! one JSON object. Everything goes to standard error, and no text of others steers the terminal there. Knows nothing of tables or
//! models.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};
use tracing_subscriber::filter::LevelFilter;

use crate::config::has_colours;
use crate::printable::{self, Guard, Shape};

/// How to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Voice {
    /// For a person at a terminal.
    Terminal,
    /// One JSON object a line.
    JsonLines,
    /// Errors only.
    #[default]
    Quiet,
}

impl Voice {
    /// Terminal where standard error is one, JSON lines elsewhere.
    pub fn detect(quiet: bool, json: bool) -> Voice {
        match (quiet, json || !std::io::stderr().is_terminal()) {
            (true, _) => Voice::Quiet,
            (false, true) => Voice::JsonLines,
            (false, false) => Voice::Terminal,
        }
    }
}

/// Starts logging; a second call in one process changes nothing.
pub fn init(voice: Voice, verbose: u8) {
    let level = match (voice, verbose) {
        (Voice::Quiet, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::INFO,
        (_, 1) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let quiet_crates = move |meta: &tracing::Metadata<'_>| {
        meta.target().starts_with("curec") || (verbose > 0 && *meta.level() <= tracing::Level::WARN)
    };
    use tracing_subscriber::field::MakeExt;
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = tracing_subscriber::filter::filter_fn(quiet_crates);
    let registry = tracing_subscriber::registry();
    // A standard error that is closed or full is no reason to end.
    let fmt = tracing_subscriber::fmt::layer().log_internal_errors(false);
    let result = match voice {
        Voice::Terminal => {
            let fields = tracing_subscriber::fmt::format::debug_fn(|to, field, value| {
                let text = format!("{value:?}");
                match field.name() {
                    "message" => write!(to, "{}", printable::line(&text)),
                    name => write!(to, "{name}={}", printable::line(&text)),
                }
            });
            let layer = fmt.with_writer(|| BesideBar).fmt_fields(fields.delimited(" "));
            let has_colours = has_colours(std::io::stderr().is_terminal());
            let layer = layer.without_time().with_target(false).with_ansi(has_colours);
            registry.with(layer.with_filter(filter).with_filter(level)).try_init()
        }
        _ => {
            let layer = fmt.with_writer(|| Guard::new(std::io::stderr(), Shape::Json)).json().flatten_event(true);
            registry.with(layer.with_filter(filter).with_filter(level)).try_init()
        }
    };
    if result.is_err() {
        tracing::debug!("logging was already set up");
    }
}

/// The line of the stage that is under way on a terminal.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

fn put_bar(bar: Option<WeakProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Writes to the terminal: the line of a stage makes way, and stands below afterwards.
pub fn beside_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakProgressBar::upgrade);
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Standard error for log lines.
struct BesideBar;

impl Write for BesideBar {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        beside_bar(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A number as people read it: `1,204`.
pub fn counted(n: u64) -> String {
    HumanCount(n).to_string()
}

/// Seconds as people read them: `45 s`, `1 min 30 s`, `2 h 5 min`.
pub fn lasting(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A stage on a terminal; `left` are seconds.
fn line_of(stage: (&str, &str), (done, total): (u64, u64), seconds: f64, left: Option<f64>) -> String {
    let (name, rows) = stage;
    let mut line = format!("{name}  {} of {} {rows}", counted(done), counted(total));
    if done > 0 {
        let rate = done as f64 / seconds.max(1e-3);
        let told = if rate >= 10.0 {
            format!("  {}/s", counted(rate.round() as u64))
        } else if rate >= 0.1 {
            format!("  {rate:.1}/s")
        } else {
            format!("  {:.1}/min", rate * 60.0)
        };
        line.push_str(&told);
    }
    left.into_iter().for_each(|left| line.push_str(&format!("  {} left", lasting(left))));
    line
}

/// Progress of one stage. Cheap to clone; every clone speaks of the same stage.
#[derive(Clone)]
pub struct Progress(Arc<Stage>);

struct Stage {
    name: &'static str,
    rows: &'static str,
    unit: &'static str,
    total: u64,
    done: AtomicU64,
    work: AtomicU64,
    started: Instant,
    last_line: AtomicU64,
    voice: Voice,
    bar: ProgressBar,
}

impl Progress {
    /// Begins a stage of `total` rows, which people call `rows`, such as `prompts`; `unit` names what [`Progress::advance`]
    /// counts as work besides them, such as `tokens`.
    pub fn begin(voice: Voice, name: &'static str, total: u64, rows: &'static str, unit: &'static str) -> Progress {
        let is_shown = voice == Voice::Terminal;
        let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(line_of((name, rows), (0, total), 0.0, None));
        if is_shown {
            put_bar(Some(bar.downgrade()));
        }
        Progress(Arc::new(Stage {
            name,
            rows,
            unit,
            total,
            done: AtomicU64::new(0),
            work: AtomicU64::new(0),
            started: Instant::now(),
            last_line: AtomicU64::new(0),
            voice,
            bar,
        }))
    }

    /// Counts finished rows and the work they took.
    pub fn advance(&self, rows: u64, work: u64) {
        let stage = &*self.0;
        let done = stage.done.fetch_add(rows, Ordering::Relaxed) + rows;
        let work = stage.work.fetch_add(work, Ordering::Relaxed) + work;
        let seconds = stage.started.elapsed().as_secs_f64().max(1e-3);
        let rate = work as f64 / seconds;
        // The first rows tell of the prompts' prefill more than of what is left.
        let is_known = done >= 32 || done * 10 >= stage.total;
        let left = (stage.total.saturating_sub(done)) as f64 * seconds / (done.max(1)) as f64;
        let left = is_known.then_some(left.round());
        if stage.voice == Voice::Terminal {
            stage.bar.set_message(line_of((stage.name, stage.rows), (done, stage.total), seconds, left));
        }
        let tick = (seconds / 5.0) as u64;
        if stage.voice == Voice::JsonLines && stage.last_line.swap(tick, Ordering::Relaxed) < tick {
            tracing::info!(
                stage = stage.name,
                done,
                total = stage.total,
                unit = stage.unit,
                per_second = (rate * 10.0).round() / 10.0,
                seconds_left = left,
                "progress"
            );
        }
    }

    /// Ends the stage and returns how long it took.
    pub fn finish(&self) -> Duration {
        let stage = &*self.0;
        if stage.voice == Voice::Terminal {
            put_bar(None);
        }
        stage.bar.finish_and_clear();
        let took = stage.started.elapsed();
        tracing::info!(
            stage = stage.name,
            rows = stage.done.load(Ordering::Relaxed),
            work = stage.work.load(Ordering::Relaxed),
            unit = stage.unit,
            seconds = (took.as_secs_f64() * 100.0).round() / 100.0,
            "done"
        );
        took
    }
}

/// Largest resident set of this process so far, in bytes; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Keeps the allocator from setting up arenas for eight times as many threads as there are processors: what a query has
/// given back would stay in them, beyond every memory limit. To be called before there are threads.
pub fn bound_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(processors.max(2)).unwrap_or(libc::c_int::MAX);
        // SAFETY: sets a number of the allocator's, whatever its value; nothing else runs yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn progress_counts_rows_and_work() {
        let p = Progress::begin(Voice::Quiet, "generate", 3, "prompts", "tokens");
        p.advance(1, 10);
        p.clone().advance(2, 5);
        assert_eq!(p.0.done.load(Ordering::Relaxed), 3);
        assert_eq!(p.0.work.load(Ordering::Relaxed), 15);
        assert!(p.finish().as_nanos() > 0);
    }

    #[test]
    fn a_stage_is_one_line_for_people() {
        let of = |done, seconds, left| line_of(("generate", "prompts"), (done, 5000), seconds, left);
        assert_eq!(of(0, 0.0, None), "generate  0 of 5,000 prompts");
        assert_eq!(of(1204, 28.6, Some(90.0)), "generate  1,204 of 5,000 prompts  42/s  1 min 30 s left");
        assert_eq!(of(3, 10.0, None), "generate  3 of 5,000 prompts  0.3/s");
        assert_eq!(of(3, 60.0, Some(7500.4)), "generate  3 of 5,000 prompts  3.0/min  2 h 5 min left");
        assert_eq!((lasting(45.4), lasting(59.6), lasting(-1.0)), ("45 s".into(), "1 min 0 s".into(), "0 s".into()));
    }

    #[test]
    fn what_is_written_beside_a_stage_is_written_once() {
        let bar = ProgressBar::hidden();
        put_bar(Some(bar.downgrade()));
        assert_eq!(beside_bar(|| 7), 7);
        drop(bar);
        assert_eq!(beside_bar(|| 8), 8);
    }

    #[test]
    fn peak_memory_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(peak_memory().unwrap() > 1 << 20);
        }
    }
}
