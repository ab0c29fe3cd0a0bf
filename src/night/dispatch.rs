//! A run's prompts, answered by the executors of its cluster: in waves of files, each file the task of one executor.
//!
//! Knows what is asked and what receipts say. Executors commit the answers themselves; their receipts tell how far they are, what
//! it has cost and what has failed, while they work. So the client holds a wave to the budget and to the caps of the job, and
//! ends it by an object that executors look for. Knows nothing of how answers are made.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Context, Error, Kind, Result};
use crate::generate::sent::Sent;
use crate::generate::turn;
use crate::night::answering::{Form, STOP, Sheet, address_of};
use crate::night::asking::Asking;
use crate::night::generation::{stopped, within_budget};
use crate::night::manifest::Usage;
use crate::night::receipts::{Paid, Receipts};
use crate::night::spending::{Limit, Unpaid};
use crate::query::session::BatchStream;
use crate::table::store::Location;
use crate::telemetry::Progress;

/// Prompts of a file: more at least than an engine has room for, and so few that what one executor does last is little.
const ROWS: [usize; 2] = [256, 1024];

/// As often as an engine has room for them: so many prompts a file has at least, where engines are small.
const ROOMS: usize = 8;

/// Into so many files prompts are cut, as far as [`ROWS`] allows.
const PARTS: u64 = 64;

/// Files of a wave: many more than a cluster has executors, and few enough for one query.
const FILES: usize = 256;

/// Between two looks at the receipts.
const LOOK: Duration = Duration::from_secs(2);

/// So long is waited for executors to commit what they have when a wave is to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stages of this process that have asked a cluster.
static STAGES: AtomicU64 = AtomicU64::new(0);

/// Has executors answer prompts. What they share lies in `folder`, which whoever named it removes.
///
/// # Errors
/// As [`crate::night::generation::generate`]; those of a cluster's queries.
pub(super) async fn answers(
    asking: &Asking<'_>,
    folder: &Location,
    pending: BatchStream,
    usage: &mut Usage,
) -> Result<Option<Unpaid>> {
    let started = Instant::now();
    let folder = folder.child(&format!("prompts-{}", STAGES.fetch_add(1, Ordering::Relaxed)));
    let sheet = folder.child("sheet.json");
    sheet_of(asking)?.write(&sheet).await?;
    let (attempts, waiting) = (asking.checks.map_or(1, |checks| checks.attempts), asking.sink.waiting);
    let mut waves = Waves {
        asking,
        folder,
        sheet,
        rows: rows_of_file(waiting, asking.models.at_once()),
        tally: Tally::new(attempts),
        before: Spent::of(usage),
        limit: None,
    };
    let outcome = waves.all(pending, usage).await;
    usage.seconds += started.elapsed().as_secs_f64();
    // An executor of this process has done its work; the encoder comes next.
    if let Err(e) = tokio::task::spawn_blocking(turn::rest).await {
        tracing::debug!(error = %e, "the engine did not stop");
    }
    outcome?;
    if usage.paid_twice > 0 {
        tracing::warn!(
            answers = usage.paid_twice,
            "answers were paid for twice: an executor was lost, or taken for lost"
        );
    }
    let prompts = waiting.saturating_sub(waves.tally.settled);
    Ok(waves.limit.filter(|_| prompts > 0).map(|limit| Unpaid { limit, prompts }))
}

/// What all executors are told.
fn sheet_of(asking: &Asking<'_>) -> Result<Sheet> {
    let sink = asking.sink;
    Ok(Sheet {
        job: Sent::of(asking.job, asking.models)?.text().to_owned(),
        root: address_of(sink.root),
        lease: sink.lease.told(),
        run_id: sink.run_id.to_owned(),
        interval: [sink.interval.start, sink.interval.end].map(|moment| moment.timestamp_micros()),
        vocabulary: asking.checks.map(|checks| checks.vocabulary.compared()),
        attempts: asking.checks.map_or(1, |checks| checks.attempts),
    })
}

/// Prompts of a file, of so many, where an engine works on `at_once` of them.
fn rows_of_file(waiting: u64, at_once: usize) -> usize {
    let [least, most] = ROWS;
    let least = (at_once * ROOMS).clamp(1, least);
    usize::try_from(waiting.div_ceil(PARTS)).unwrap_or(most).clamp(least, most)
}

/// What a run has spent.
#[derive(Clone, Copy)]
struct Spent {
    answers: u64,
    tokens: [u64; 2],
}

impl Spent {
    fn of(usage: &Usage) -> Spent {
        Spent { answers: usage.generated, tokens: [usage.prompt_tokens, usage.completion_tokens] }
    }

    fn since(self, before: Spent) -> Spent {
        let [prompt, completion] = self.tokens;
        Spent {
            answers: self.answers - before.answers,
            tokens: [prompt - before.tokens[0], completion - before.tokens[1]],
        }
    }
}

/// What receipts have told.
struct Tally {
    /// How often a prompt is asked at most.
    attempts: u32,
    /// Prompts of all waves that are not asked again.
    settled: u64,
    /// Receipts of the wave under way.
    known: BTreeSet<String>,
    /// Keys and attempts of its answers.
    answers: HashSet<(String, u32)>,
    /// Keys of its prompts that are not asked again.
    keys: HashSet<String>,
}

impl Tally {
    fn new(attempts: u32) -> Tally {
        let (known, answers, keys) = (BTreeSet::new(), HashSet::new(), HashSet::new());
        Tally { attempts, settled: 0, known, answers, keys }
    }

    /// Forgets the wave before: no prompt is in two of them.
    fn begin(&mut self) {
        *self = Tally { settled: self.settled, ..Tally::new(self.attempts) };
    }

    /// Reads the receipts that have come.
    async fn read(&mut self, receipts: &Receipts, progress: &Progress, usage: &mut Usage) -> Result<()> {
        for (_, rows) in receipts.found(&mut self.known).await? {
            rows.into_iter().for_each(|row| self.count(row, progress, usage));
        }
        Ok(())
    }

    fn count(&mut self, row: Paid, progress: &Progress, usage: &mut Usage) {
        let is_settled = row.settles(self.attempts);
        let is_first = self.answers.insert((row.key.clone(), row.attempt));
        match &row.error {
            None => {
                usage.generated += 1;
                usage.prompt_tokens += row.prompt_tokens;
                usage.cached_tokens += row.cached_tokens;
                usage.completion_tokens += row.completion_tokens;
                usage.paid_twice += u64::from(!is_first);
                usage.asked_again += u64::from(is_first && !is_settled);
            }
            // A further attempt that fails leaves the prompt the answer that it has.
            Some(code) if is_first && row.attempt == 1 => *usage.failed.entry(code.clone()).or_default() += 1,
            Some(_) => {}
        }
        let is_done = is_settled && self.keys.insert(row.key);
        self.settled += u64::from(is_done);
        progress.advance(u64::from(is_done), row.completion_tokens);
    }
}

/// Why a wave ends before its prompts do.
enum Why {
    Failed(Error),
    Spent(Limit),
}

struct Waves<'a> {
    asking: &'a Asking<'a>,
    folder: Location,
    sheet: Location,
    /// Prompts of a file.
    rows: usize,
    tally: Tally,
    before: Spent,
    /// The cap that is reached.
    limit: Option<Limit>,
}

impl Waves<'_> {
    async fn all(&mut self, pending: BatchStream, usage: &mut Usage) -> Result<()> {
        let mut cut = Cut { pending: pending.fuse().boxed(), held: Vec::new() };
        let mut number = 0_u64;
        loop {
            match self.why(usage) {
                Some(Why::Failed(e)) => return Err(e),
                Some(Why::Spent(limit)) => self.limit = self.limit.or(Some(limit)),
                None => {}
            }
            if self.limit.is_some() {
                return Ok(());
            }
            let (files, rows, schema) = self.write(&mut cut, self.room(usage)).await?;
            let Some(schema) = schema else { return Ok(()) };
            self.wave(number, &files, rows, schema, usage).await?;
            number += 1;
        }
    }

    /// Why no more is to be asked.
    fn why(&self, usage: &Usage) -> Option<Why> {
        let sink = self.asking.sink;
        if self.asking.stop.is_requested() {
            return Some(Why::Failed(stopped()));
        }
        if let Err(e) = within_budget(sink.budget, &usage.failed, sink.total) {
            return Some(Why::Failed(e));
        }
        let [prompt, completion] = Spent::of(usage).since(self.before).tokens;
        sink.purse?.reached(prompt, completion).map(Why::Spent)
    }

    /// How many prompts the next wave may ask: with a cap no more than are likely to be paid.
    fn room(&self, usage: &Usage) -> usize {
        let most = FILES * self.rows;
        let Some(purse) = self.asking.sink.purse else { return most };
        let spent = Spent::of(usage).since(self.before);
        match spent.answers {
            // The first answers tell what one costs.
            0 => self.asking.models.at_once().min(most),
            n => usize::try_from(purse.room(spent.tokens, n, 0, most as u64)).unwrap_or(most),
        }
    }

    /// Writes the next prompts, `room` at most, into files. There is no schema where there is no prompt.
    async fn write(&self, cut: &mut Cut, room: usize) -> Result<(Vec<Location>, u64, Option<SchemaRef>)> {
        let (mut files, mut schema, mut left) = (Vec::new(), None, room);
        while left > 0 {
            let Some(rows) = cut.next(self.rows.min(left)).await? else { break };
            left -= rows.num_rows();
            schema = Some(rows.schema());
            files.push(self.asking.session.set_rows_aside("prompts", rows).await?);
        }
        Ok((files, (room - left) as u64, schema))
    }

    /// Has the prompts of some files answered. Whatever ends it, executors find that it has ended, and commit what they have.
    async fn wave(
        &mut self,
        number: u64,
        files: &[Location],
        rows: u64,
        schema: SchemaRef,
        usage: &mut Usage,
    ) -> Result<()> {
        let asking = self.asking;
        let folder = self.folder.child(&format!("wave-{number}"));
        let form = Form { sheet: address_of(&self.sheet), wave: address_of(&folder) };
        let form = serde_json::to_string(&form).context(Kind::Internal, || "a wave cannot be described".into())?;
        tracing::debug!(wave = number, files = files.len(), prompts = rows, "prompts go to the cluster");
        let work = async {
            let mut done = asking.session.work_on_files(form, files, schema).await?;
            while done.try_next().await?.is_some() {}
            Ok::<(), Error>(())
        };
        let mut work = std::pin::pin!(work);
        let stop = folder.child(STOP);
        let receipts = Receipts::at(folder);
        let settled = self.tally.settled;
        self.tally.begin();
        let mut leaving: Option<(Why, Instant)> = None;
        let ended = loop {
            tokio::select! {
                ended = &mut work => break Some(ended),
                () = tokio::time::sleep(LOOK) => {}
                () = asking.stop.requested(), if leaving.is_none() => {}
            }
            if leaving.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
                break None;
            }
            let read = self.tally.read(&receipts, asking.progress, usage).await;
            let why = read.err().map(Why::Failed).or_else(|| self.why(usage));
            if leaving.is_none()
                && let Some(why) = why
            {
                end(&stop).await;
                leaving = Some((why, Instant::now() + PATIENCE));
            }
        };
        // Also for executors that were taken for lost and are not.
        end(&stop).await;
        let read = self.tally.read(&receipts, asking.progress, usage).await;
        match leaving {
            Some((Why::Failed(e), _)) => return Err(e),
            Some((Why::Spent(limit), _)) => self.limit = Some(limit),
            None => {}
        }
        read?;
        ended.unwrap_or(Ok(()))?;
        let left = rows.saturating_sub(self.tally.settled - settled);
        if left > 0 && self.limit.is_none() {
            return Err(Error::new(Kind::Temporary, "executors have come back without answers to all prompts")
                .with("prompts", left)
                .hint("what was answered is kept; run the same command again"));
        }
        Ok(())
    }
}

/// Tells the executors of a wave that nothing more is to be asked.
async fn end(stop: &Location) {
    if let Err(e) = stop.put("stop".into()).await {
        tracing::warn!(error = %e, "executors are not told to stop: they find out when the lease is given back");
    }
}

/// Rows, cut into batches.
struct Cut {
    pending: BatchStream,
    held: Vec<RecordBatch>,
}

impl Cut {
    /// The next rows, so many unless there are fewer; `None` where there are none.
    async fn next(&mut self, rows: usize) -> Result<Option<RecordBatch>> {
        let mut n: usize = self.held.iter().map(RecordBatch::num_rows).sum();
        while n < rows {
            let Some(batch) = self.pending.try_next().await? else { break };
            n += batch.num_rows();
            self.held.push(batch);
        }
        let whole = match self.held.as_slice() {
            [] => return Ok(None),
            [one] => one.clone(),
            all @ [first, ..] => {
                concat_batches(&first.schema(), all).context(Kind::Internal, || "prompts do not fit together".into())?
            }
        };
        let taken = rows.min(n);
        self.held = vec![whole.slice(taken, n - taken)];
        Ok((taken > 0).then(|| whole.slice(0, taken)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::telemetry::Voice;

    #[test]
    fn files_have_rows_for_an_engine_and_for_several_executors() {
        assert_eq!([0, 5_000, 32_000, 1_000_000].map(|n| rows_of_file(n, 32)), [256, 256, 500, 1024]);
        assert_eq!((rows_of_file(30, 1), rows_of_file(30, 0), rows_of_file(100_000, 128)), (8, 1, 1024));
    }

    #[tokio::test]
    async fn rows_are_cut_in_their_order_and_none_is_lost() {
        let batch = |ids: std::ops::Range<i64>| {
            let ids = Arc::new(ids.collect::<Int64Array>()) as ArrayRef;
            Ok(RecordBatch::try_from_iter([("id", ids)]).unwrap())
        };
        let pending = futures::stream::iter([batch(0..3), batch(3..3), batch(3..10), batch(10..11)]).boxed();
        let mut cut = Cut { pending, held: Vec::new() };
        let mut found = Vec::new();
        while let Some(rows) = cut.next(4).await.unwrap() {
            found.push(rows.column(0).as_primitive::<Int64Type>().values().to_vec());
        }
        assert_eq!(found, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9, 10]]);
        let mut none = Cut { pending: futures::stream::empty().boxed(), held: Vec::new() };
        assert!(none.next(4).await.unwrap().is_none());
    }

    #[test]
    fn answers_are_counted_as_they_were_paid_and_prompts_once() {
        let progress = Progress::begin(Voice::Quiet, "generate", 3, "prompts", "new tokens");
        let row = |key: &str, attempt, accepted| Paid {
            key: key.into(),
            attempt,
            accepted: Some(accepted),
            error: None,
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens: 2,
        };
        let failed =
            |key: &str, attempt| Paid { error: Some("too_long".into()), accepted: None, ..row(key, attempt, true) };
        let (mut tally, mut usage) = (Tally::new(2), Usage::default());
        let rows = [
            row("a", 1, true),
            row("b", 2, false),
            row("b", 1, false),
            row("a", 1, true),
            failed("c", 1),
            failed("c", 1),
        ];
        rows.into_iter().for_each(|row| tally.count(row, &progress, &mut usage));
        assert_eq!((usage.generated, usage.asked_again, usage.paid_twice), (4, 1, 1));
        assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (40, 16, 8));
        assert_eq!(usage.failed.into_iter().collect::<Vec<_>>(), [("too_long".to_owned(), 1)]);
        assert_eq!(tally.settled, 3);
        tally.begin();
        assert!(tally.settled == 3 && tally.keys.is_empty() && tally.attempts == 2);
    }
}
