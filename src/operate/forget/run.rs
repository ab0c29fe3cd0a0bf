//! Forgetting users (privacy requests): their rows vanish from every table, from the answers that only they caused,
//! from what dead runs left, from the quarantine and from the reports.
//!
//! Before anything goes, everything is tried: every file is read, and all days that hold rows of the users are staged
//! without them, under their leases. What cannot be done is refused then, with the warehouse as it was. Nothing of it
//! runs a contract's audits or its rules for values: what stays are rows that passed them when they were published, and
//! an audit may read inputs that are gone. The rows are counted instead.
//!
//! Then the answers go, because the tables tell whose they are; then each day is published, its tables in the opposite
//! order of that in which they are made, so that each one's record can name what the tables before it will hold. Dying
//! anywhere and running again completes it: a table that is published already fits the ones before it once these are
//! rewritten, since the same rows give the same bytes. Fingerprints stay, so the next plan has nothing to do.
//!
//! Rows about items and pairs that hold sentences of the users' reviews go as well ([`crate::operate::tellers`]). Prompts
//! alone tell which these are, and of these tables they are published last; files for people are seen to before.
//!
//! User ids are data, compared byte for byte; they never become part of SQL, and manifests hold only keyed digests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::config::Job;
use crate::error::{Error, Kind, Result};
use crate::night::graph::{Graph, RESPONSE};
use crate::night::manifest::Manifest;
use crate::night::record::now;
use crate::night::tables::locate;
use crate::operate::compact;
use crate::operate::forget::find::{Counts, Standing, Work, trimmed};
use crate::operate::forget::record::{self, Before, Done, Options, forgotten_before, renew_digests, rewritten_record};
use crate::operate::pseudonym::Pseudonyms;
use crate::operate::scrub::Scrub;
use crate::operate::tellers::Told;
use crate::table::delta_write;
use crate::table::lease::{Held, Holder};
use crate::table::partition::{self, Publisher, live_runs};
use crate::table::segment;
use crate::table::traffic::traffic;

/// Forgets users.
///
/// # Errors
/// [`Kind::Busy`] naming the run while any run is live; [`Kind::Usage`] without a user; [`Kind::Input`] for damaged files
/// and for partitions that their contract does not fit any more; [`Kind::Config`] where a projection's column stands in
/// days with the users and the job names none; the store's. Nothing was changed by any of them but the
/// store's and those of [`partition::gc`], which come after everything else; running it again completes it.
pub async fn forget(job: &Job, options: &Options) -> Result<Done> {
    if options.users.is_empty() || options.users.contains("") {
        return Err(Error::new(Kind::Usage, "a user id is missing or empty").hint("name it with --user-id"));
    }
    let (started, traffic_before) = ((Instant::now(), now()), traffic());
    let root = locate(job, &job.spec.warehouse)?;
    let graph = Graph::of(job)?;
    let run_id = format!("forget-{}-{}", Utc::now().format("%Y%m%dT%H%M%S%3fZ"), std::process::id());
    let trimmed = options.users.iter().map(|user| trimmed(user).to_owned()).filter(|user| !user.is_empty());
    let looked_for = options.users.iter().cloned().chain(trimmed).collect();
    let work = Work { job, options, root, graph, run_id, looked_for };
    refuse_live(live_runs(&work.root).await?)?;
    work.refuse_unknown_tables().await?;
    let standing = work.standing().await?;
    let mut found = BTreeSet::new();
    let told = work.told(&standing, &mut found).await?;
    let mut days = work.days(&standing, &mut found).await?;
    work.count_told(&standing, &told, &mut days).await?;
    work.refuse_without_projection(&standing, &days)?;
    let going = Going { days, told };
    let mut done = Done { dry_run: options.dry_run, users: options.users.len(), ..Done::default() };
    for (table, rows) in going.days.values().flatten() {
        let sum = done.rows.entry(table.clone()).or_default();
        *sum = (sum.0 + rows, sum.1 + 1);
    }
    done.warnings.extend(work.tables_without_user_id());
    done.warnings.extend(work.tables_of_sentences(&going.told));
    done.warnings.extend(going.told.warning());
    done.forgotten.inputs = work.inputs(&mut found, &mut done.warnings).await;
    let keys = work.prompt_keys(&standing, &going.told, &mut found).await?;
    // Also where it is done: what cannot be read is found out now.
    work.look(&keys, &going.told, &mut found, &mut done).await?;
    let rewritten: BTreeSet<&String> =
        going.days.keys().filter_map(|dt| standing.get(dt)).flat_map(|records| records.keys()).collect();
    for table in rewritten {
        delta_write::demand_followable(&work.root, table).await?;
    }
    let before = forgotten_before(&work.root).await?;
    let pseudonyms = Pseudonyms::find(&work.root).await?;
    done.unmatched = work.unmatched(&found, &before, pseudonyms.as_ref(), &mut done.warnings);
    if options.dry_run {
        return Ok(done);
    }
    // First the one that every other `forget` wants too.
    let leases = [compact::LEASE.to_string()].into_iter().chain(going.days.keys().map(|dt| format!("dt={dt}")));
    let ttl = Duration::from_secs_f64(job.spec.publish.lease_seconds);
    let held = Held::acquire(&work.root, leases, &Holder::here(&work.run_id), ttl).await?;
    let mut manifest = record::manifest(job, &work.run_id, started.1);
    let outcome = work.under_lease(&held, &standing, &going, &before, &mut manifest, &mut done).await;
    held.release().await;
    if outcome.is_err() {
        // What was staged names nobody who is to be forgotten; a failure to remove it must not hide the cause.
        if let Err(e) = Publisher::new(work.root.clone(), &work.run_id).abort().await {
            tracing::warn!(error = %e, "staged files stay until `curec gc`");
        }
    }
    outcome?;
    let garbage = partition::gc(&work.root).await;
    manifest.status = "forgotten".into();
    manifest.finished_at = now();
    manifest.seconds = started.0.elapsed().as_secs_f64();
    manifest.store = traffic().since(traffic_before);
    manifest.forgotten = Some(done.forgotten.clone());
    done.manifest = Some(record::write(&work.root, &work.run_id, &manifest).await?);
    // After the record of what was done: only files of dead runs may still be there.
    let garbage = garbage?;
    done.garbage = garbage.staged_files + garbage.orphans;
    if !garbage.live_runs.is_empty() {
        let runs = garbage.live_runs.join(", ");
        done.warnings
            .push(format!("{runs} began meanwhile: run `curec gc` when it has ended, files of dead runs stay"));
    }
    Ok(done)
}

fn refuse_live(runs: Vec<String>) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Busy, format!("{} is working on this warehouse", runs.join(", ")))
        .hint("nothing was changed; run the same command again when it has ended"))
}

/// What goes.
struct Going {
    days: BTreeMap<String, Counts>,
    told: Told,
}

impl Work<'_> {
    /// Everything that needs the leases. What can fail because of what is there comes before the first change.
    async fn under_lease(
        &self,
        held: &Held,
        standing: &Standing,
        going: &Going,
        before: &[Before],
        manifest: &mut Manifest,
        done: &mut Done,
    ) -> Result<()> {
        refuse_live(live_runs(&self.root).await?.into_iter().filter(|run| *run != self.run_id).collect())?;
        if self.standing().await? != *standing {
            return Err(Error::new(Kind::Busy, "another run has published meanwhile; nothing was changed")
                .hint("run the same command again"));
        }
        // Again: a run that came and went since may have staged or answered something.
        let keys = self.prompt_keys(standing, &going.told, &mut BTreeSet::new()).await?;
        let publisher = Publisher::new(self.root.clone(), &self.run_id);
        let mut staged = Vec::new();
        for (dt, counts) in &going.days {
            let Some(records) = standing.get(dt) else { continue };
            staged.push((dt, self.stage_day(records, counts, &going.told, &publisher).await?));
        }
        held.check().await?;
        // From here on there are changes. The digests first: who runs it again after a crash named no wrong id.
        let pseudonyms = Pseudonyms::find_or_create(&self.root).await?;
        renew_digests(before, &pseudonyms).await?;
        let (unmatched, users): (Vec<&String>, Vec<&String>) =
            self.options.users.iter().partition(|user| done.unmatched.contains(user));
        let digests = |users: Vec<&String>| {
            users.into_iter().map(|user| pseudonyms.of(user)).collect::<BTreeSet<_>>().into_iter().collect()
        };
        done.forgotten.digest = Pseudonyms::METHOD.into();
        (done.forgotten.users, done.forgotten.unmatched) = (digests(users), digests(unmatched));
        manifest.forgotten = Some(done.forgotten.clone());
        record::write(&self.root, &self.run_id, manifest).await?;
        // No reader holds a lease now: what merged segments stand for may go, and must, since it names answers.
        segment::remove_replaced(&self.root, "response", |_| true).await?;
        let contract = self.graph.contract(RESPONSE)?;
        let staging = publisher.staging().child("response");
        let (answers, _) = segment::remove_rows(&self.root, contract, &staging, "prompt_key", &keys).await?;
        done.rows.insert("response".to_string(), (answers, 0));
        // While the prompts still tell which samples about items have to go.
        let scrub = Scrub::new(&self.root, &self.options.users, &going.told, false);
        scrub.quarantine(&mut done.forgotten).await?;
        scrub.runs(&mut done.forgotten).await?;
        for (dt, tables) in staged {
            let lease = held.get(&format!("dt={dt}"))?;
            let mut rewritten = Vec::new();
            for (n, table) in tables.into_iter().rev() {
                let record = publisher.publish(lease, table).await?;
                tracing::info!(table = record.table, dt, rows = n, "forgotten");
                if n > 0 {
                    rewritten.push(rewritten_record(&record));
                }
            }
            manifest.tables.extend(rewritten.into_iter().rev());
        }
        done.forgotten.rows = done.rows.iter().map(|(table, (rows, _))| (table.clone(), *rows)).collect();
        Ok(())
    }
}
