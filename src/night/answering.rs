//! An executor's part of a run: files of prompts, answered by this process's own model.
//!
//! Knows what the run's client has sent: the job, its lease, the catalogue's words. Answers are committed under the client's
//! lease as in a run of one process, with a receipt for each segment. What another process has answered of a file is not
//! asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use chrono::DateTime;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::background::spawn;
use crate::cancel::CancelToken;
use crate::columns::{at, integers, text};
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::carried::JobCarrier;
use crate::generate::models::Models;
use crate::generate::sent::{Sent, on_a_thread_that_may_block};
use crate::generate::turn::Turn;
use crate::night::correct::BUDGET;
use crate::night::generation::{Checks, Sink, generate};
use crate::night::graph::RESPONSE;
use crate::night::manifest::Usage;
use crate::night::receipts::{Paid, Receipts};
use crate::night::tables::contract_of;
use crate::query::cluster::apart::Work;
use crate::query::cluster::carried::{Carrier, ScalarFunction};
use crate::reward::names::Vocabulary;
use crate::table::lease::{Lease, Told};
use crate::table::store::{Location, StoreOptions};
use crate::telemetry::{Progress, Voice};

/// The object of a wave by which its client says that nothing more is to be asked.
pub(super) const STOP: &str = "stop";

/// So often is looked for it.
const LOOK: Duration = Duration::from_secs(2);

/// A location as another process opens it. An URL's characters are unescaped there, and those of a path are not.
pub(super) fn address_of(at: &Location) -> String {
    at.local_path().map_or_else(|| at.url().replace('%', "%25"), |path| path.display().to_string())
}

/// What a client tells all executors of a stage.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sheet {
    /// The job, as [`Sent`] has it.
    pub(super) job: String,
    /// The warehouse.
    pub(super) root: String,
    pub(super) lease: Told,
    pub(super) run_id: String,
    /// The interval, microseconds since 1970.
    pub(super) interval: [i64; 2],
    /// The catalogue's attributes, where answers are checked.
    pub(super) vocabulary: Option<Vec<String>>,
    /// How often a prompt is asked at most.
    pub(super) attempts: u32,
}

impl Sheet {
    pub(super) async fn write(&self, at: &Location) -> Result<()> {
        at.put(serde_json::to_vec(self).context(Kind::Internal, || "a stage cannot be described".into())?.into()).await
    }

    async fn read(at: &Location) -> Result<Sheet> {
        let gone = || Error::new(Kind::Busy, "the run that has sent these prompts is no more").with("file", at);
        let bytes = at.get().await?.ok_or_else(gone)?;
        serde_json::from_slice(&bytes).context(Kind::Input, || format!("what a run has told its executors: {at}"))
    }
}

/// What a client tells the executor that takes a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Form {
    /// Where the [`Sheet`] is.
    pub(super) sheet: String,
    /// The folder of the file's wave.
    pub(super) wave: String,
}

/// An executor.
#[derive(Debug, Clone)]
pub struct Place {
    /// How people find it.
    pub name: String,
    /// With what stores are opened there.
    pub stores: StoreOptions,
    /// Where its models are; `None`: on the device that the job names.
    pub device: Option<String>,
}

/// Carries what a night sends to a cluster: the functions of prompts, and prompts to be answered.
#[derive(Debug, Default)]
pub struct NightCarrier {
    functions: JobCarrier,
    /// `None` in a process that answers none.
    place: Option<Arc<Place>>,
}

impl NightCarrier {
    /// For the client of a job; `place` where it is an executor as well.
    ///
    /// # Errors
    /// As [`JobCarrier::of`].
    pub fn of(job: &Job, models: &Models, place: Option<Place>) -> Result<NightCarrier> {
        Ok(NightCarrier { functions: JobCarrier::of(job, models)?, place: place.map(Arc::new) })
    }

    /// For an executor.
    pub fn on(place: Place) -> NightCarrier {
        NightCarrier { functions: JobCarrier::on(place.device.clone()), place: Some(Arc::new(place)) }
    }
}

impl Carrier for NightCarrier {
    fn known(&self) -> Vec<ScalarFunction> {
        self.functions.known()
    }

    fn pack(&self, function: &ScalarFunction) -> Result<Option<Vec<u8>>> {
        self.functions.pack(function)
    }

    fn unpack(&self, name: &str, packed: &[u8]) -> Result<Option<ScalarFunction>> {
        self.functions.unpack(name, packed)
    }

    fn work(&self, text: &str) -> Result<Option<Arc<dyn Work>>> {
        let Some(place) = self.place.clone() else { return Ok(None) };
        let form =
            serde_json::from_str(text).context(Kind::Input, || "prompts that were sent cannot be read".into())?;
        Ok(Some(Arc::new(Answering { form, place })))
    }
}

/// Answers the files of a wave.
struct Answering {
    form: Form,
    place: Arc<Place>,
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answering({})", self.form.wave)
    }
}

impl Work for Answering {
    fn on(&self, rows: RecordBatch) -> Result<BooleanArray> {
        let done = on_a_thread_that_may_block(|runtime| {
            let sheet = runtime.block_on(Sheet::read(&self.locate(&self.form.sheet)?))?;
            let sent = Sent::arrived(sheet.job.as_bytes())?.on(self.place.device.clone());
            let models = sent.models()?;
            let _turn = Turn::take(&models);
            runtime.block_on(self.answer(&rows, &sheet, &sent.job()?, &models))
        });
        done.map_err(|e| e.with("executor", &self.place.name))
    }
}

impl Answering {
    fn locate(&self, text: &str) -> Result<Location> {
        Location::parse_with(text, &self.place.stores)
    }

    async fn answer(&self, rows: &RecordBatch, sheet: &Sheet, job: &Job, models: &Arc<Models>) -> Result<BooleanArray> {
        let (root, wave) = (self.locate(&sheet.root)?, self.locate(&self.form.wave)?);
        let contract = contract_of(job, RESPONSE)?;
        let receipts = Receipts::at(wave.child(&name_of(rows)?));
        let mut paid = Vec::new();
        for (segment, rows) in receipts.found(&mut BTreeSet::new()).await? {
            // Without it the answers were lost with their process.
            if root.child(&contract.name).child(&segment).head().await?.is_some() {
                paid.extend(rows);
            }
        }
        let (left, asked) = left(rows, &paid, sheet.attempts)?;
        let stop_at = wave.child(STOP);
        if left.num_rows() == 0 || stop_at.head().await?.is_some() {
            return Ok(asked);
        }
        let lease = Lease::of_holder(&root, sheet.lease.clone());
        lease.check_not_taken().await?;
        let checks = sheet.vocabulary.as_ref().map(|attributes| Checks {
            check: job.spec.check.clone(),
            vocabulary: Vocabulary::of_compared(attributes.iter().cloned()).in_language(&job.spec.check.language),
            attempts: sheet.attempts,
        });
        let waiting = left.num_rows() as u64;
        let sink = Sink {
            root: &root,
            contract: &contract,
            lease: &lease,
            run_id: &sheet.run_id,
            interval: interval_of(sheet.interval)?,
            response: &job.spec.response,
            // What failed the client counts, over all files.
            budget: &BUDGET,
            total: waiting,
            waiting,
            purse: None,
            receipts: Some(&receipts),
        };
        let stop = CancelToken::default();
        let _watch = Watch::begin(stop_at, stop.clone());
        let progress = Progress::begin(Voice::Quiet, "answers", waiting, "prompts", "new tokens");
        let pending = stream::iter([Ok(left)]).boxed();
        match generate(pending, models, checks.as_ref(), &sink, &stop, &progress, &mut Usage::default()).await {
            // The client knows why.
            Err(e) if e.kind() != Kind::Interrupted => Err(e),
            _ => Ok(asked),
        }
    }
}

/// Names a file by its prompts: whoever is given it again finds what was answered of it.
fn name_of(rows: &RecordBatch) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for key in text(rows, "prompt_key")?.iter().flatten() {
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes());
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

fn interval_of([start, end]: [i64; 2]) -> Result<Interval> {
    let moment = |micros| {
        let wrong = || Error::new(Kind::Input, "a run has told its executors no interval");
        DateTime::from_timestamp_micros(micros).ok_or_else(wrong)
    };
    Ok(Interval { start: moment(start)?, end: moment(end)? })
}

/// The rows that are still to be asked after what was paid, with how often each was answered; and which of all they are.
fn left(rows: &RecordBatch, paid: &[Paid], attempts: u32) -> Result<(RecordBatch, BooleanArray)> {
    let mut before: BTreeMap<&str, (bool, u32)> = BTreeMap::new();
    for row in paid {
        let (is_settled, attempt) = before.entry(row.key.as_str()).or_default();
        *is_settled |= row.settles(attempts);
        *attempt = row.attempt.max(*attempt);
    }
    let keys = text(rows, "prompt_key")?;
    let before = |row| at(&keys, row).and_then(|key| before.get(key)).copied().unwrap_or_default();
    let asked: BooleanArray = (0..rows.num_rows()).map(|row| Some(!before(row).0)).collect();
    let mut columns = rows.columns().to_vec();
    if let Some((place, _)) = rows.schema().column_with_name("attempts") {
        let told = integers(rows, "attempts")?;
        let counted = (0..rows.num_rows()).map(|row| Some(told.value(row).max(i64::from(before(row).1))));
        columns[place] = Arc::new(counted.collect::<Int64Array>()) as ArrayRef;
    }
    let failed = || "prompts that were sent do not fit".to_owned();
    let counted = RecordBatch::try_new(rows.schema(), columns).context(Kind::Internal, failed)?;
    Ok((filter_record_batch(&counted, &asked).context(Kind::Internal, failed)?, asked))
}

/// Looks for the object that ends a wave, until it is dropped.
struct Watch(JoinHandle<()>);

impl Watch {
    fn begin(at: Location, stop: CancelToken) -> Watch {
        Watch(spawn(async move {
            loop {
                match at.head().await {
                    Ok(None) => {}
                    Ok(Some(_)) => return stop.request(),
                    Err(e) => tracing::debug!(error = %e, "nobody knows whether a run goes on"),
                }
                tokio::time::sleep(LOOK).await;
            }
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn rows(keys: &[&str], attempts: &[i64]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(keys.iter().map(|key| Some(*key)).collect::<StringArray>());
        let attempts: ArrayRef = Arc::new(Int64Array::from(attempts.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("prompt_key", keys, true), ("attempts", attempts, true)]).unwrap()
    }

    fn paid(key: &str, attempt: u32, accepted: bool) -> Paid {
        Paid {
            key: key.into(),
            attempt,
            accepted: Some(accepted),
            error: None,
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: 1,
        }
    }

    #[test]
    fn only_what_nobody_has_answered_is_asked_and_refused_answers_count() {
        let rows = rows(&["a", "b", "c", "d"], &[0, 1, 0, 0]);
        let failed = Paid { error: Some("too_long".into()), accepted: None, ..paid("d", 1, true) };
        let before = [paid("a", 1, true), paid("b", 2, false), failed];
        let (left, asked) = left(&rows, &before, 3).unwrap();
        assert_eq!(asked, BooleanArray::from(vec![false, true, true, false]));
        assert_eq!(text(&left, "prompt_key").unwrap(), StringArray::from(vec!["b", "c"]));
        assert_eq!(left.column(1).as_primitive::<Int64Type>().values(), &[2, 0]);
        let (left, _) = super::left(&rows, &before, 2).unwrap();
        assert_eq!(text(&left, "prompt_key").unwrap(), StringArray::from(vec!["c"]), "asked as often as it may be");
    }

    #[test]
    fn a_location_is_the_same_for_another_process() {
        for text in ["memory://answering/a b/c%d", "/tmp/a b/c%20d"] {
            let at = Location::parse(text).unwrap().child("ä=1").child("x.json");
            assert_eq!(Location::parse(&address_of(&at)).unwrap(), at, "{text}");
        }
    }

    #[test]
    fn a_file_is_named_by_its_prompts_in_their_order() {
        let name = |keys: &[&str]| name_of(&rows(keys, &vec![0; keys.len()])).unwrap();
        assert_eq!(name(&["a", "b"]), name(&["a", "b"]));
        assert_ne!(name(&["a", "b"]), name(&["b", "a"]));
        assert_ne!(name(&["ab"]), name(&["a", "b"]));
    }

    #[tokio::test]
    async fn a_wave_that_is_over_is_noticed() {
        let at = Location::parse("memory://answering/wave/stop").unwrap();
        let stop = CancelToken::default();
        at.put("stop".into()).await.unwrap();
        let _watch = Watch::begin(at, stop.clone());
        stop.requested().await;
    }

    #[test]
    fn who_is_no_executor_only_hands_prompts_on() {
        let form = serde_json::to_string(&Form { sheet: "s".into(), wave: "w".into() }).unwrap();
        assert!(NightCarrier::default().work(&form).unwrap().is_none());
        let place = Place { name: "here".into(), stores: StoreOptions::default(), device: None };
        let carrier = NightCarrier { functions: JobCarrier::default(), place: Some(Arc::new(place)) };
        assert_eq!(format!("{:?}", carrier.work(&form).unwrap().unwrap()), "Answering(w)");
        assert!(carrier.work("{}").is_err());
    }
}
