//! Leases: the right to publish one partition, held by one run at a time, on any store with conditional puts.
//!
//! Knows locations, clocks and processes of this host. Knows nothing of tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::background::spawn;
use crate::error::{Context, Error, Kind, Result};
use crate::table::store::{Location, Version};

/// The format of commit records and leases that this code writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Leases asked for at once, so that hundreds of them take seconds where one request takes a tenth of one.
pub(crate) const AT_ONCE: usize = 16;

/// Refuses what a newer curec wrote before its fields are looked at.
pub(crate) fn check_format(bytes: &[u8], at: &Location) -> Result<()> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Kind::Input, format!("the commit record or lease is damaged: {e}"))
            .with("file", at)
            .hint("remove it and run the interval again")
    })?;
    if head.format == FORMAT {
        return Ok(());
    }
    Err(Error::new(Kind::Config, format!("format {} is unknown to this curec, which knows {FORMAT}", head.format))
        .with("file", at)
        .hint("use the curec that wrote it, or a newer one"))
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// The run.
    pub run_id: String,
    /// What tells this very process from every other of the same kernel: boot, process namespace, start time. Empty
    /// where the system does not say.
    #[serde(default)]
    pub process: String,
}

impl Holder {
    /// This process.
    pub fn here(run_id: impl Into<String>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let pid = std::process::id();
        let started = start_time(pid).unwrap_or_default();
        let process = kernel().map(|kernel| format!("{kernel}/{started}")).unwrap_or_default();
        Holder { host: read("/proc/sys/kernel/hostname"), pid, run_id: run_id.into(), process }
    }

    /// Whether the holder is certainly gone: it ran under this very kernel and process namespace, and its process is no more.
    fn is_dead(&self) -> bool {
        let Some((place, started)) = self.process.rsplit_once('/') else { return false };
        kernel().is_some_and(|here| here == place) && start_time(self.pid).is_none_or(|now| now != started)
    }
}

/// Boot id and process namespace.
fn kernel() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
}

/// When a process of this host started, in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and parentheses: count from the last one.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeaseState {
    format: u32,
    pub(crate) holder: Holder,
    epoch: u64,
    /// Milliseconds since 1970 by the holder's clock.
    expires: u64,
    released: bool,
}

/// A lease as its holder tells it to processes that work for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    file: String,
    holder: Holder,
    epoch: u64,
}

/// The right to publish one job's interval, held by one run at a time.
///
/// Clocks of hosts that share a warehouse may differ by less than the time to live. A holder that was paused beyond it can be
/// overtaken; it then fails every [`Lease::check`], and the compare-and-swap of the commit record stops it even between check and commit.
#[derive(Debug)]
pub struct Lease {
    at: Location,
    holder: Holder,
    /// Grows with every new holder; what fences an old one.
    pub epoch: u64,
    ttl: Duration,
    version: tokio::sync::Mutex<Version>,
}

impl Lease {
    /// Takes the lease `<root>/_leases/<name>.json`, where `name` is `<job>.<start>.<end>`. A lease that has been released, has
    /// expired, or whose process is certainly dead is taken over.
    ///
    /// # Errors
    /// `Kind::Busy` naming the holder; the store's.
    pub async fn acquire(root: &Location, name: &str, holder: Holder, ttl: Duration) -> Result<Lease> {
        let safe: String =
            name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        let at = root.child("_leases").child(&format!("{safe}.json"));
        let seen = at.get_versioned().await?;
        let before = match &seen {
            Some((bytes, _)) => Some(read_lease(bytes, &at)?),
            None => None,
        };
        if let Some(state) = &before
            && is_live(state)
        {
            return Err(busy(&state.holder, state.expires, &at));
        }
        // From the clock, so that it grows even where someone removed the lease's file.
        let last = before.map_or(Some(0), |s| s.epoch.checked_add(1));
        let epoch = last.map(|epoch| epoch.max(now_ms())).ok_or_else(|| {
            Error::new(Kind::Input, "the lease is damaged: its epoch cannot grow").with("lease", &at).hint("remove it")
        })?;
        let state = LeaseState { format: FORMAT, holder, epoch, expires: now_ms() + millis(ttl), released: false };
        // What stands there decides, not the answer: a put that was sent again because its answer got lost is refused.
        at.put_if(seen.as_ref().map(|(_, v)| v), lease_bytes(&state)?).await?;
        let (bytes, version) = at.get_versioned().await?.ok_or_else(|| lost(&at))?;
        let now = read_lease(&bytes, &at)?;
        if now.epoch != epoch || now.holder != state.holder {
            return Err(busy(&now.holder, now.expires, &at));
        }
        Ok(Lease { at, holder: state.holder, epoch, ttl, version: tokio::sync::Mutex::new(version) })
    }

    /// Who holds it: this run.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The lease, for a process that works for this one.
    pub fn told(&self) -> Told {
        Told { file: self.at.name().to_owned(), holder: self.holder.clone(), epoch: self.epoch }
    }

    /// A lease that another process holds, for which this one works. It can be looked at, and neither renewed nor given back:
    /// which version of it stands there is not known here.
    pub fn of_holder(root: &Location, told: Told) -> Lease {
        let at = root.child("_leases").child(&told.file);
        let version = tokio::sync::Mutex::new(Version::default());
        Lease { at, holder: told.holder, epoch: told.epoch, ttl: Duration::ZERO, version }
    }

    /// How long it lasts after every renewal; renew at a third of it.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes it last for another time to live.
    ///
    /// # Errors
    /// `Kind::Busy` when another run has taken it; the store's.
    pub async fn renew(&self) -> Result<()> {
        self.write(false).await
    }

    /// Gives it back; the next run need not wait.
    ///
    /// # Errors
    /// `Kind::Busy` when another run has taken it; the store's.
    pub async fn release(&self) -> Result<()> {
        self.write(true).await
    }

    async fn write(&self, released: bool) -> Result<()> {
        let mut version = self.version.lock().await;
        let state = LeaseState {
            format: FORMAT,
            holder: self.holder.clone(),
            epoch: self.epoch,
            expires: now_ms() + millis(self.ttl),
            released,
        };
        let sent = lease_bytes(&state)?;
        for _ in 0..2 {
            self.at.put_if(Some(&version), sent.clone()).await?;
            let (bytes, now) = self.at.get_versioned().await?.ok_or_else(|| lost(&self.at))?;
            let stands = read_lease(&bytes, &self.at)?;
            if stands.epoch != self.epoch || stands.holder != self.holder {
                // Whose it is now must not be overwritten by the next call either: the version stays what was ours.
                break;
            }
            *version = now;
            if bytes == sent {
                return Ok(());
            }
            // Ours: a renewal before this one was carried out although its answer got lost. Once more, on top of it.
        }
        Err(self.taken().await)
    }

    /// Makes sure that this run still holds it.
    ///
    /// # Errors
    /// `Kind::Busy` when it has expired or another run has taken it; the store's.
    pub async fn check(&self) -> Result<()> {
        if self.state().await?.expires <= now_ms() {
            return Err(Error::new(Kind::Busy, "the lease has expired before this run could publish")
                .with("lease", &self.at)
                .hint("run it again; finished responses are kept"));
        }
        Ok(())
    }

    /// Makes sure that no other run has taken it, expired or not: what is paid for from now on is not paid for twice.
    ///
    /// # Errors
    /// `Kind::Busy` when another run has taken it; the store's.
    pub async fn check_not_taken(&self) -> Result<()> {
        self.state().await.map(|_| ())
    }

    /// What stands there, if it is this run's.
    async fn state(&self) -> Result<LeaseState> {
        let Some(bytes) = self.at.get().await? else { return Err(lost(&self.at)) };
        let state = read_lease(&bytes, &self.at)?;
        if state.epoch == self.epoch && state.holder == self.holder && !state.released {
            return Ok(state);
        }
        Err(self.taken().await)
    }

    async fn taken(&self) -> Error {
        match self.at.get().await {
            Ok(Some(bytes)) => match read_lease(&bytes, &self.at) {
                Ok(state) if state.epoch != self.epoch => busy(&state.holder, state.expires, &self.at),
                _ => lost(&self.at),
            },
            _ => lost(&self.at),
        }
    }
}

/// Leases that renew themselves until they are given back or dropped.
#[derive(Debug)]
pub struct Held {
    leases: Arc<BTreeMap<String, Lease>>,
    finished: tokio::sync::oneshot::Sender<()>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Held {
    /// Takes all of these leases or none, as [`Lease::acquire`]: the first one alone, so that of two who want it one
    /// surely gets all, the others many at a time.
    ///
    /// # Errors
    /// `Kind::Busy` naming the holder of one; the store's.
    pub async fn acquire(
        root: &Location,
        names: impl IntoIterator<Item = String>,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Held> {
        let mut names = names.into_iter();
        let mut leases = BTreeMap::new();
        let take = |name: String| async move {
            let lease = Lease::acquire(root, &name, holder.clone(), ttl).await?;
            Ok::<_, Error>((name, lease))
        };
        if let Some(first) = names.next() {
            let (name, lease) = take(first).await?;
            leases.insert(name, lease);
        }
        // All are waited for: one that is let go of half way may have been taken all the same.
        let taken: Vec<Result<(String, Lease)>> = stream::iter(names).map(take).buffered(AT_ONCE).collect().await;
        let mut refused = None;
        for lease in taken {
            match lease {
                Ok((name, lease)) => _ = leases.insert(name, lease),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if let Some(error) = refused {
            give_back(&leases).await;
            return Err(error);
        }
        let leases = Arc::new(leases);
        let (finished, mut is_finished) = tokio::sync::oneshot::channel();
        let kept = Arc::clone(&leases);
        let keeper = spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(ttl / 3) => {}
                    _ = &mut is_finished => return,
                }
                // Many at a time: one after the other, hundreds would take longer than the first one lasts.
                let renewals: Vec<_> = kept.values().map(|lease| lease.renew()).collect();
                warn_of_failures(stream::iter(renewals).buffer_unordered(AT_ONCE).collect().await, "not renewed");
            }
        });
        Ok(Held { leases, finished, keeper })
    }

    /// One of them, by its name.
    ///
    /// # Errors
    /// `Kind::Internal` where it is none of them.
    pub fn get(&self, name: &str) -> Result<&Lease> {
        self.leases.get(name).ok_or_else(|| Error::new(Kind::Internal, "a lease is not held").with("lease", name))
    }

    /// Makes sure that all are still held.
    ///
    /// # Errors
    /// As [`Lease::check`].
    pub async fn check(&self) -> Result<()> {
        let checks: Vec<_> = self.leases.values().map(|lease| lease.check()).collect();
        stream::iter(checks).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Gives all of them back. One that cannot be given back runs out by itself.
    pub async fn release(self) {
        drop(self.finished);
        // Waited for, not aborted: half a renewal would be in the way.
        let _ = self.keeper.await;
        give_back(&self.leases).await;
    }
}

/// Says once what failed for how many leases.
fn warn_of_failures(outcomes: Vec<Result<()>>, what: &str) {
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    if let Some(error) = outcomes.into_iter().find_map(Result::err) {
        tracing::warn!(error = %error, leases = failed, "a lease was {what}");
    }
}

async fn give_back(leases: &BTreeMap<String, Lease>) {
    let releases: Vec<_> = leases.values().map(|lease| lease.release()).collect();
    warn_of_failures(stream::iter(releases).buffer_unordered(AT_ONCE).collect().await, "not given back");
}

pub(crate) fn is_live(state: &LeaseState) -> bool {
    !state.released && state.expires > now_ms() && !state.holder.is_dead()
}

pub(crate) fn read_lease(bytes: &[u8], at: &Location) -> Result<LeaseState> {
    check_format(bytes, at)?;
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Kind::Input, format!("the lease is damaged: {e}")).with("file", at).hint("remove it and run again")
    })
}

fn lease_bytes(state: &LeaseState) -> Result<Bytes> {
    let mut json = serde_json::to_vec_pretty(state).context(Kind::Internal, || "lease".into())?;
    json.push(b'\n');
    Ok(Bytes::from(json))
}

fn busy(holder: &Holder, expires: u64, at: &Location) -> Error {
    let seconds = expires.saturating_sub(now_ms()).div_ceil(1000);
    let who = format!("run {} (process {} on {})", holder.run_id, holder.pid, holder.host);
    Error::new(Kind::Busy, format!("{who} is working on this interval"))
        .with("lease", at)
        .hint(format!("wait for it, or if it died run again when its lease has expired, in {seconds} s"))
}

fn lost(at: &Location) -> Error {
    Error::new(Kind::Busy, "this run has lost its lease").with("lease", at).hint("run it again")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
