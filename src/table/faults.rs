//! Drills: a store that dies, runs full or keeps count on purpose, so that anyone can see what a crash leaves behind.
//!
//! `CUREC_FAIL_POINT` (read by `config`, handed on among the store's variables) asks for one:
//!
//! ```text
//! before:7         kill -9 of this process just before its 7th change of any store
//! after:copy:2     ... just after its 2nd copy (put, copy, delete; a rename is a copy)
//! stop-before:7    it is stopped there (SIGSTOP) instead, until someone sends SIGCONT; stop-after alike
//! count:FILE       append `N operation path` to FILE before every change
//! full:1000000     the stores hold this many more bytes: then every put and part fails as on a full disk
//! power:7          as before:7, and the local disk loses what was not synced: names, and half of the content
//! torn:7           the same, but all names stay
//! unsynced:7       as power:7, on a disk that syncs nothing: to see that the drill finds what it is for
//! ```
//!
//! A change is a put (conditional ones and the completion of a multipart upload too), a copy or a delete. Changes are
//! numbered from 1 over all stores of the process. Changes that a clock triggers have no number, or the same run would
//! count differently on another machine: a lease counts when it is first written, not when it is renewed. Knows nothing
//! of locations, tables or credentials.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use object_store::{
    CopyOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, UploadPart,
};

use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::table::write_layer::{WriteLayer, Writes};

/// The variable that asks for a drill.
pub const VARIABLE: &str = "CUREC_FAIL_POINT";

/// What goes wrong on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailPoint {
    /// The process kills or stops itself at one change.
    Die {
        /// Just after the change instead of just before.
        after: bool,
        /// The process is only stopped, and can be continued.
        stop: bool,
        /// Counts changes of this kind only.
        operation: Option<Operation>,
        /// Which one, from 1.
        number: u64,
    },
    /// Every change is written to this local file.
    Count(PathBuf),
    /// Puts and parts fail once more than this many bytes were written.
    Full(u64),
    /// The process dies just before one change, and the local disk loses what was not synced.
    Power {
        /// Which change, from 1.
        number: u64,
        /// Names are lost too, not only what the files hold.
        names: bool,
        /// The disk syncs nothing although it says so.
        lies: bool,
    },
}

/// The kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An object was written whole.
    Put,
    /// An object was copied or renamed by the store.
    Copy,
    /// An object was removed.
    Delete,
}

impl Operation {
    const ALL: [(&str, Operation); 3] =
        [("put", Operation::Put), ("copy", Operation::Copy), ("delete", Operation::Delete)];
}

impl FailPoint {
    /// Reads the variable's value.
    ///
    /// # Errors
    /// `Kind::Config` for anything that is none of the forms above.
    pub fn parse(text: &str) -> Result<FailPoint> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0);
        let found =
            match text.split_once(':') {
                Some(("count", file)) if !file.is_empty() => Some(FailPoint::Count(PathBuf::from(file))),
                Some((when @ ("power" | "torn" | "unsynced"), digits)) => number(digits)
                    .map(|number| FailPoint::Power { number, names: when != "torn", lies: when == "unsynced" }),
                Some(("full", bytes)) => bytes.parse().ok().map(FailPoint::Full),
                Some((when @ ("before" | "after" | "stop-before" | "stop-after"), rest)) => {
                    let (operation, digits) = match rest.split_once(':') {
                        Some((name, digits)) => {
                            (Operation::ALL.iter().find(|(n, _)| *n == name).map(|(_, o)| Some(*o)), digits)
                        }
                        None => (Some(None), rest),
                    };
                    operation.zip(number(digits)).map(|(operation, number)| FailPoint::Die {
                        after: when.ends_with("after"),
                        stop: when.starts_with("stop"),
                        operation,
                        number,
                    })
                }
                _ => None,
            };
        found.ok_or_else(|| {
            Error::new(Kind::Config, format!("{VARIABLE} is no fail point: `{text}`"))
                .hint("use before:N, after:N, before:put:N (or copy, delete), stop-before:N, stop-after:N, power:N, torn:N, unsynced:N, count:FILE or full:BYTES, or unset it")
        })
    }

    /// Puts the drill around a store.
    pub fn around(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        if let FailPoint::Power { lies, .. } = self {
            disk::watch(*lies);
        }
        let writes = FaultyWrites { point: Arc::new(self.clone()), inner: Arc::clone(&store) };
        Arc::new(WriteLayer::new(writes, store))
    }

    /// Before a change: its numbers among all and among its kind.
    fn begin(&self, operation: Operation, path: &Path) -> object_store::Result<[u64; 2]> {
        let mut changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        if path.parts().any(|part| part.as_ref() == "_leases")
            && !LEASES.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone())
        {
            return Ok([0; 2]);
        }
        let kind = operation as usize;
        changes[0] += 1;
        changes[kind + 1] += 1;
        let numbers = [changes[0], changes[kind + 1]];
        match self {
            // The lock is held, so that no other thread changes anything before the process dies.
            FailPoint::Die { after: false, stop, .. } if self.is_due(operation, numbers) => strike(*stop),
            FailPoint::Power { number, names, .. } if *number == numbers[0] => {
                disk::lose(*names);
                strike(false);
            }
            FailPoint::Count(file) => {
                let line = format!("{} {} {path}\n", numbers[0], Operation::ALL[kind].0);
                let write =
                    || std::fs::OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes());
                write().map_err(generic)?;
            }
            _ => {}
        }
        Ok(numbers)
    }

    /// After a change.
    fn end(&self, operation: Operation, numbers: [u64; 2]) {
        if let FailPoint::Die { after: true, stop, .. } = self
            && self.is_due(operation, numbers)
        {
            let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
            strike(*stop);
        }
    }

    fn is_due(&self, now: Operation, [of_all, of_kind]: [u64; 2]) -> bool {
        match self {
            FailPoint::Die { operation: None, number, .. } => *number == of_all,
            FailPoint::Die { operation: Some(operation), number, .. } => *operation == now && *number == of_kind,
            _ => false,
        }
    }

    /// Before bytes are written.
    fn spend(&self, bytes: usize) -> object_store::Result<()> {
        let FailPoint::Full(limit) = self else { return Ok(()) };
        let written = WRITTEN.fetch_add(bytes as u64, Ordering::SeqCst) + bytes as u64;
        match written > *limit {
            true => Err(generic(std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left (fail point)"))),
            false => Ok(()),
        }
    }
}

/// Changes of this process so far: all, and by [`Operation`].
static CHANGES: Mutex<[u64; 4]> = Mutex::new([0; 4]);

/// Leases that this process has written.
static LEASES: Mutex<BTreeSet<Path>> = Mutex::new(BTreeSet::new());

/// Bytes that puts and parts of this process have written so far.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

fn generic(error: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "fail point", source: Box::new(error) }
}

/// The end of the process without any chance to clean up, as by `kill -9` or a power cut; or its pause.
#[expect(clippy::disallowed_methods, reason = "a fail point ends the process on purpose")]
fn strike(stop: bool) {
    // The shell's own `kill` is there where the program of that name is not.
    let kill = format!("kill -{} {}", if stop { "STOP" } else { "KILL" }, std::process::id());
    let sent = std::process::Command::new("sh").args(["-c", &kill]).status().is_ok();
    std::thread::sleep(if stop { Duration::from_millis(20) } else { Duration::from_secs(10) });
    if !(sent && stop) {
        std::process::abort();
    }
}

#[derive(Debug)]
struct FaultyWrites {
    point: Arc<FailPoint>,
    inner: Arc<dyn ObjectStore>,
}

impl fmt::Display for FaultyWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?}", self.inner, self.point)
    }
}

#[async_trait::async_trait]
impl Writes for FaultyWrites {
    // One by one, so that each has its number.
    const REMOVED_AT_ONCE: usize = 1;

    async fn put(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        let numbers = self.point.begin(Operation::Put, location)?;
        self.point.spend(payload.content_length())?;
        let done = self.inner.put_opts(location, payload, opts).await;
        self.point.end(Operation::Put, numbers);
        done
    }

    async fn upload(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FaultyUpload { point: Arc::clone(&self.point), path: location.clone(), inner }))
    }

    async fn remove(&self, location: &Path) -> object_store::Result<()> {
        let numbers = self.point.begin(Operation::Delete, location)?;
        let done = self.inner.delete(location).await;
        self.point.end(Operation::Delete, numbers);
        done
    }

    async fn copy(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let numbers = self.point.begin(Operation::Copy, to)?;
        let done = self.inner.copy_opts(from, to, options).await;
        self.point.end(Operation::Copy, numbers);
        done
    }

    async fn rename(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        let numbers = self.point.begin(Operation::Copy, to)?;
        let done = self.inner.rename_opts(from, to, options).await;
        self.point.end(Operation::Copy, numbers);
        done
    }
}

#[derive(Debug)]
struct FaultyUpload {
    point: Arc<FailPoint>,
    path: Path,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.point.spend(data.content_length()) {
            Ok(()) => self.inner.put_part(data),
            Err(e) => Box::pin(std::future::ready(Err(e))),
        }
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let numbers = self.point.begin(Operation::Put, &self.path)?;
        let done = self.inner.complete().await;
        self.point.end(Operation::Put, numbers);
        done
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn fail_points_are_read_or_refused() {
        let die = |after, operation, number| FailPoint::Die { after, stop: false, operation, number };
        let stop = FailPoint::Die { after: false, stop: true, operation: Some(Operation::Put), number: 3 };
        for (text, expected) in [
            ("before:1", die(false, None, 1)),
            ("after:12", die(true, None, 12)),
            ("before:put:3", die(false, Some(Operation::Put), 3)),
            ("after:delete:4", die(true, Some(Operation::Delete), 4)),
            ("stop-before:put:3", stop),
            ("count:/tmp/a:b", FailPoint::Count(PathBuf::from("/tmp/a:b"))),
            ("full:0", FailPoint::Full(0)),
            ("power:4", FailPoint::Power { number: 4, names: true, lies: false }),
            ("torn:5", FailPoint::Power { number: 5, names: false, lies: false }),
            ("unsynced:6", FailPoint::Power { number: 6, names: true, lies: true }),
        ] {
            assert_eq!(FailPoint::parse(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "before",
            "before:",
            "before:0",
            "after:rename:1",
            "after:put:",
            "count:",
            "full:x",
            "power:0",
            "torn:put:1",
            "7",
        ] {
            let e = FailPoint::parse(text).unwrap_err();
            assert_eq!(e.kind(), Kind::Config, "{text}");
        }
    }

    #[tokio::test]
    async fn changes_are_counted_and_a_full_store_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("changes");
        let store = FailPoint::Count(file.clone()).around(Arc::new(object_store::memory::InMemory::new()));
        let (a, b) = (Path::from("x/a"), Path::from("x/b"));
        store.put(&a, "1".into()).await.unwrap();
        store.copy(&a, &b).await.unwrap();
        store.delete(&a).await.unwrap();
        let lines = std::fs::read_to_string(&file).unwrap();
        // Other tests of this process may change stores too: the numbers grow, with gaps.
        let what: Vec<&str> = lines.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(what, ["put x/a", "copy x/b", "delete x/a"]);
        let numbers: Vec<u64> = lines.lines().map(|l| l.split_once(' ').unwrap().0.parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");

        let store = FailPoint::Full(0).around(Arc::new(object_store::memory::InMemory::new()));
        let e = store.put(&a, "1".into()).await.unwrap_err();
        let io = std::error::Error::source(&e).unwrap().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(io.kind(), std::io::ErrorKind::StorageFull);
        assert!(store.head(&a).await.is_err());
    }
}
