//! Arguments that several commands have, and what runs their work.
//!
//! Knows the runtime and signals; knows nothing of what is run.

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::runtime::Runtime;

use crate::background::spawn;
use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::scratch;
use crate::settings::Problem;

/// A job file, with keys that are different.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job file.
    job: PathBuf,
    /// Override a key of the job file, for example `--set model.device=wgpu`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl JobArgs {
    /// The job, with the overrides on top.
    pub(crate) fn load(&self) -> Result<Job> {
        Job::load(&self.job, &self.overrides)
    }

    /// The job, with `more` on top of the overrides.
    pub(crate) fn load_with(&self, more: &[String]) -> Result<Job> {
        Job::load(&self.job, &[&self.overrides[..], more].concat())
    }

    /// The job with everything that is wrong with it, as [`Job::examine`] gives it.
    pub(crate) fn examine(&self) -> Result<(Job, Vec<Problem>)> {
        Job::examine(&self.job, &self.overrides)
    }
}

/// The interval that a command works on.
#[derive(Debug, Args)]
pub(crate) struct IntervalArgs {
    /// First day or moment of the interval (UTC).
    #[arg(long)]
    interval_start: String,
    /// First day or moment after the interval (UTC).
    #[arg(long)]
    interval_end: String,
}

impl IntervalArgs {
    /// The interval that the two moments name.
    pub(crate) fn parse(&self) -> Result<Interval> {
        Interval::parse(&self.interval_start, &self.interval_end)
    }
}

/// The lines of a UTF-8 list that are not empty. A byte order mark and the line ends of Windows belong to the file, not to
/// its lines; everything else does, blanks too.
///
/// # Errors
/// `Kind::Usage` where the file cannot be read or is in another encoding, which is named.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path)
        .map_err(|e| Error::new(Kind::Usage, "cannot read the list").with("file", path.display()).source(e))?;
    lines_of(&bytes).map_err(|e| e.with("file", path.display()))
}

fn lines_of(bytes: &[u8]) -> Result<Vec<String>> {
    let is_wide = |first: usize| bytes.len() > 1 && bytes.iter().skip(first).step_by(2).all(|b| *b == 0);
    let encoding = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] => Some("UTF-16 (little endian)"),
        [0xfe, 0xff, ..] => Some("UTF-16 (big endian)"),
        // Without a mark: ASCII characters tell, and no list of ids is without a line end.
        _ if is_wide(1) => Some("UTF-16 (little endian)"),
        _ if is_wide(0) => Some("UTF-16 (big endian)"),
        _ => None,
    };
    if let Some(encoding) = encoding {
        return Err(Error::new(Kind::Usage, format!("the list is in {encoding}, not in UTF-8"))
            .hint("save it as UTF-8, for example with: iconv -f UTF-16 -t UTF-8 LIST > LIST.txt"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Error::new(Kind::Usage, "the list is not in UTF-8; perhaps it is in Latin-1 or Windows-1252")
            .with("line", line)
            .source(e)
            .hint("save it as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8 LIST > LIST.txt")
    })?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// A runtime for asynchronous work.
///
/// # Errors
/// `Kind::Internal` where it does not start.
pub(crate) fn new_runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(Kind::Internal, || "the asynchronous runtime does not start".into())
}

/// Runs asynchronous work to its end.
///
/// # Errors
/// The work's.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = new_runtime()?;
    let result = runtime.block_on(work);
    // Work that was given up, such as loading a model, must not keep the process from ending.
    runtime.shutdown_timeout(GIVE_UP_RUNTIME);
    result
}

/// As [`block_on`], for a command that has no way of its own to stop: the first SIGINT or SIGTERM gives its work up, and what
/// it was writing is removed.
///
/// # Errors
/// The work's; `Kind::Interrupted`.
pub(crate) fn block_on_or_stop<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let stop = CancelToken::default();
    watch(stop.clone(), Some(GIVE_UP));
    block_on(async { stop.or(work).await })
}

/// As [`block_on_or_stop`], for work that computes and waits for nobody.
///
/// # Errors
/// As there.
pub(crate) fn compute_or_stop<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    block_on_or_stop(async {
        tokio::task::spawn_blocking(work).await.context(Kind::Internal, || "the work broke off".into())?
    })
}

/// So long does a runtime wait at its end for work that was given up.
pub(crate) const GIVE_UP_RUNTIME: Duration = Duration::from_secs(1);

/// So long may work go on that was given up, such as a step of a query that looks at nothing else.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Asks the run to drain on the first SIGINT or SIGTERM and ends the process on the second.
pub(crate) fn watch_signals(stop: CancelToken) {
    watch(stop, None);
}

/// As [`watch_signals`]; with `patience` the process ends after that time also without a second signal.
fn watch(stop: CancelToken, patience: Option<Duration>) {
    spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        for round in 0.. {
            let over = async {
                match patience.filter(|_| round > 0) {
                    Some(patience) => tokio::time::sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                () = over => Kind::Interrupted.exit_code().into(),
            };
            if round > 0 {
                scratch::clean();
                std::process::exit(code);
            }
            tracing::warn!("stopping: finished rows are kept; a second signal stops at once");
            stop.request();
        }
    });
}

/// What a command that waits for a person between its pieces of work does at the moment, for SIGINT to stop that piece alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foreground(Arc<Mutex<Option<CancelToken>>>);

impl Foreground {
    /// Hears SIGINT and SIGTERM from here on. SIGINT stops the piece of work; a second one, while that has not stopped, ends the
    /// process with 130; without any work it does nothing. SIGTERM ends the process, and leaves the terminal as it is now.
    pub(crate) fn hear() -> Foreground {
        let foreground = Foreground::default();
        let (heard, terminal) = (foreground.clone(), Terminal::of_stdin());
        spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                let code = tokio::select! {
                    _ = interrupt.recv() => if heard.stop() { None } else { Some(130) },
                    _ = terminate.recv() => Some(143),
                };
                if let Some(code) = code {
                    // A prompt reads key by key, without an echo; whoever comes after could not see what they type.
                    terminal.iter().for_each(Terminal::restore);
                    scratch::clean();
                    std::process::exit(code);
                }
            }
        });
        foreground
    }

    /// Asks the work to stop; `false` where it has been asked already.
    fn stop(&self) -> bool {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_first = work.as_ref().is_none_or(|stop| !stop.is_requested());
        if let Some(stop) = work {
            stop.request();
        }
        is_first
    }

    /// Does a piece of work that SIGINT stops.
    ///
    /// # Errors
    /// The work's; `Kind::Interrupted`.
    pub(crate) async fn of<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let stop = CancelToken::default();
        self.put(Some(stop.clone()));
        let done = stop.or(work).await;
        self.put(None);
        done
    }

    fn put(&self, work: Option<CancelToken>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

/// How the terminal that standard input is was set.
struct Terminal(libc::termios);

impl Terminal {
    /// As it is set now; `None` where standard input is no terminal.
    fn of_stdin() -> Option<Terminal> {
        let mut modes = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `modes` has room for what the call writes.
        match unsafe { libc::tcgetattr(libc::STDIN_FILENO, modes.as_mut_ptr()) } {
            // SAFETY: the call has succeeded, so it has written all of it.
            0 => Some(Terminal(unsafe { modes.assume_init() })),
            _ => None,
        }
    }

    /// Sets it so again. A process in the background would be stopped for it and has changed nothing.
    fn restore(&self) {
        // SAFETY: both calls take no memory.
        if unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp() } {
            // SAFETY: the modes live until the call returns. Where it fails there is no terminal any more.
            unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.0) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_interrupt_stops_one_piece_of_work() {
        let foreground = Foreground::default();
        // Nothing is going on.
        assert!(foreground.stop());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let endless = async {
            assert!(foreground.stop() && !foreground.stop());
            std::future::pending::<Result<()>>().await
        };
        assert_eq!(runtime.block_on(foreground.of(endless)).unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(runtime.block_on(foreground.of(async { Ok(7) })).unwrap(), 7);
    }

    #[test]
    fn a_list_is_read_as_editors_save_it_and_other_encodings_are_named() {
        for (bytes, lines) in [
            (&b"a\nb\n"[..], &["a", "b"][..]),
            (b"a\r\n\r\nb", &["a", "b"]),
            (b"\xef\xbb\xbfa\r\nb\r\n", &["a", "b"]),
            (b"a \n\tb\n", &["a ", "\tb"]),
            ("\u{fc}\n".as_bytes(), &["\u{fc}"]),
            (b"", &[]),
            (b"\xef\xbb\xbf", &[]),
        ] {
            assert_eq!(lines_of(bytes).unwrap(), lines, "{bytes:?}");
        }
        for (bytes, encoding) in [
            (&b"\xff\xfeu\0\n\0"[..], "UTF-16 (little"),
            (b"\xfe\xff\0u\0\n", "UTF-16 (big"),
            (b"u\0\n\0", "UTF-16 (little"),
            (b"\0u\0\n", "UTF-16 (big"),
            (b"\xff\xfe\0\0u\0\0\0", "UTF-32"),
            (b"u\nM\xfcller\n", "Latin-1"),
        ] {
            let e = lines_of(bytes).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.message().contains(encoding), "{e}");
        }
        assert!(lines_of(b"u\nM\xfcller\n").unwrap_err().to_string().contains("line: 2"));
    }
}
