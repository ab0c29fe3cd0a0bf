//! What a run says while it works: log lines, progress, and the counters of its stages.
//!
//! On a terminal a person sees bars with rates and time left; otherwise every line is one JSON object. Everything goes
//! to standard error, and no text of others steers the terminal there. Knows nothing of tables or models.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::filter::LevelFilter;

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
            let layer = fmt.with_writer(std::io::stderr).fmt_fields(fields.delimited(" "));
            let layer = layer.without_time().with_target(false).with_ansi(std::io::stderr().is_terminal());
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

/// Progress of one stage. Cheap to clone; every clone speaks of the same stage.
#[derive(Clone)]
pub struct Progress(Arc<Stage>);

struct Stage {
    name: &'static str,
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
    /// Begins a stage of `total` rows; `unit` names what [`Progress::advance`] counts as work besides rows, such as
    /// `tokens`.
    pub fn begin(voice: Voice, name: &'static str, total: u64, unit: &'static str) -> Progress {
        let bar = ProgressBar::with_draw_target(
            Some(total),
            if voice == Voice::Terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        let style = "{prefix:>9} {wide_bar} {pos}/{len} rows{msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name);
        Progress(Arc::new(Stage {
            name,
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
        let said = left.map(|left| format!(", {left:.0} s left")).unwrap_or_default();
        stage.bar.set_message(format!(", {rate:.0} {}/s{said}", stage.unit));
        stage.bar.set_position(done);
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
        let p = Progress::begin(Voice::Quiet, "generate", 3, "tokens");
        p.advance(1, 10);
        p.clone().advance(2, 5);
        assert_eq!(p.0.done.load(Ordering::Relaxed), 3);
        assert_eq!(p.0.work.load(Ordering::Relaxed), 15);
        assert!(p.finish().as_nanos() > 0);
    }

    #[test]
    fn peak_memory_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(peak_memory().unwrap() > 1 << 20);
        }
    }
}
