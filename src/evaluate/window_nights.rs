//! Reasons of items corrected window by window at an origin: which nights said what is judged, who judges it, and what came of it.
//!
//! At a refresh what the nights of A4, A2r and, where it is run, A4s had published as of the window's start is judged by the window's
//! events. At the origin itself the judges are the last training events before its night, and what they judge is written by one more
//! night of each job, as of before them, in a warehouse of its own.
//!
//! Knows a data set at an origin, its nights and what they publish; leaves to [`crate::evaluate::item_windows`] what follows from a
//! judgement.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use chrono::{DateTime, Utc};

use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::error::{Error, Kind, Result};
use crate::evaluate::arm::Arm;
use crate::evaluate::arm_data::{Keys, Source, users_of};
use crate::evaluate::arms::Texts;
use crate::evaluate::item_windows::{Reach, Recommended, Round, Said, Windows, WindowsSpec};
use crate::evaluate::origin_nights::judged;
use crate::evaluate::published;
use crate::evaluate::results::{Measurement, Results, TEXT};
use crate::llm::device::{self, ComputeDevice};
use crate::night::warehouse;
use crate::recommend::split::{Case, Part, Split};
use crate::statistics::over_seeds;
use crate::telemetry::Voice;
use crate::worth::recommender::recommender;

/// What is corrected, and by whom.
pub(crate) struct Correcting<'a> {
    pub(crate) spec: &'a WindowsSpec,
    /// This share of what lies before a window trains who judges it.
    pub(crate) valid_quantile: f64,
    pub(crate) arms: &'a [Arm],
    pub(crate) voice: Voice,
    pub(crate) stop: &'a CancelToken,
}

/// The jobs whose nights say what there is to choose from.
struct Jobs {
    reasons: Job,
    evidence: Job,
    samples: Vec<Job>,
}

impl Jobs {
    /// What they have said as of a moment.
    async fn said(&self, moment: DateTime<Utc>, items: &[String]) -> Result<Said> {
        let session = warehouse::session_of(&self.reasons).await?;
        let published = published::vectors(&session, moment, items).await?;
        let is_reason = published::are_reasons(&session, moment, items).await?;
        let session = warehouse::session_of(&self.evidence).await?;
        let evidence = published::vectors(&session, moment, items).await?;
        let mut others: Vec<Vec<Vec<f32>>> = vec![Vec::new(); items.len()];
        for job in &self.samples {
            let session = warehouse::session_of(job).await?;
            let vectors = published::vectors(&session, moment, items).await?;
            let are_reasons = published::are_reasons(&session, moment, items).await?;
            for ((of_item, vector), is_reason) in others.iter_mut().zip(vectors).zip(are_reasons) {
                of_item.extend(vector.filter(|_| is_reason));
            }
        }
        Ok(Said { published, is_reason, evidence, others })
    }
}

impl Correcting<'_> {
    /// Adds the texts of A6i to those of the other arms at an origin, where an arm has them; what came of it goes into `results`.
    ///
    /// # Errors
    /// As [`crate::night::run::run`] for the earlier nights, and [`Windows::judge`]; `Kind::Interrupted` after a signal.
    pub(crate) async fn correct(
        &self,
        source: &Source,
        texts: &mut BTreeMap<Arm, Texts>,
        results: &mut Results,
    ) -> Result<Tally> {
        if !self.arms.iter().any(|arm| arm.corrects_items()) {
            return Ok(Tally::default());
        }
        let Some((origin, refreshes)) = source.nights.split_first() else {
            return Err(Error::new(Kind::Internal, "an origin has no night"));
        };
        let mut windows = Windows::new(source.log.clone(), self.spec.judging(self.valid_quantile));
        if let Some(night) = judged(&source.split, origin.end, self.spec.origin_share)? {
            let said = self.earlier(source, night).await?.said(night.end, source.items()).await?;
            windows = self.judge(windows, [night.end, origin.end], said).await?;
        }
        let jobs = self.jobs(source, None).await?;
        let mut said = jobs.said(origin.end, source.items()).await?;
        let first = windows.stand(origin.end.timestamp_micros(), &said);
        let (mut later, mut from) = (Vec::with_capacity(refreshes.len()), origin.end);
        for night in refreshes {
            self.stop.check()?;
            windows = self.judge(windows, [from, night.end], said).await?;
            said = jobs.said(night.end, source.items()).await?;
            let moment = night.end.timestamp_micros();
            later.push((moment, windows.stand(moment, &said)));
            from = night.end;
        }
        let users = users_of(self.arms, Arm::corrects_items);
        let candidates = match jobs.samples.len() {
            0 => "the reason and the evidence".to_owned(),
            n => format!("the reason, {n} samples and the evidence"),
        };
        let rounds: Vec<String> = windows.rounds().iter().map(told).collect();
        results.facts.push((
            format!("{}, reasons of items corrected ({users})", source.name),
            format!("among {candidates}; {}", rounds.join("; ")),
        ));
        let tally = Tally::of(&windows, &source.split, self.spec.permutations);
        results.facts.push((format!("{}, what correction reached ({users})", source.name), tally.told()));
        texts.insert(Arm::ItemsCorrected, Texts { first, later });
        Ok(tally)
    }

    /// The jobs of the arms' own nights; or, where one is named, those of an earlier night.
    async fn jobs(&self, source: &Source, earlier: Option<Interval>) -> Result<Jobs> {
        let one = |jobs: Vec<Job>| {
            let missing = || Error::new(Kind::Internal, "an arm has no night");
            jobs.into_iter().next().ok_or_else(missing)
        };
        let samples = match self.arms.contains(&Arm::Sampled) {
            true => jobs_of(source, Arm::Sampled, earlier).await?,
            false => Vec::new(),
        };
        Ok(Jobs {
            reasons: one(jobs_of(source, Arm::Aligned, earlier).await?)?,
            evidence: one(jobs_of(source, Arm::Evidence, earlier).await?)?,
            samples,
        })
    }

    /// The jobs of a night before the origin's, which is run.
    async fn earlier(&self, source: &Source, night: Interval) -> Result<Jobs> {
        let jobs = self.jobs(source, Some(night)).await?;
        for job in [&jobs.reasons, &jobs.evidence].into_iter().chain(&jobs.samples) {
            self.stop.check()?;
            source.run(job, night, self.voice, self.stop).await?;
        }
        Ok(jobs)
    }

    /// Judges by the events from one moment to before another.
    async fn judge(&self, mut windows: Windows, window: [DateTime<Utc>; 2], said: Said) -> Result<Windows> {
        let (learning, voice, stop) = (self.spec.learning(), self.voice, self.stop.clone());
        device::guarded_blocking("judging reasons of items", move || {
            // It is trained again when an evaluation goes on, and must choose the same texts: checkpoints know them. On a GPU sums
            // are made in no fixed order.
            let on = ComputeDevice::cpu();
            let recommend = |split: &Split, cases: &[Case<'_>]| -> Result<Recommended> {
                let (model, _) = recommender(split, &learning, &on, voice, &stop)?;
                let (vectors, states) = (model.vectors()?, model.states_before(cases)?);
                Ok(Recommended { width: learning.hidden, vectors, states })
            };
            windows.judge(window.map(|moment| moment.timestamp_micros()), &said, &recommend)?;
            Ok(windows)
        })
        .await
    }
}

/// The jobs of an arm's own nights; or, where one is named, those of an earlier night.
async fn jobs_of(source: &Source, arm: Arm, earlier: Option<Interval>) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for Keys { folder, mut overrides } in source.nights_of(arm).await? {
        if let Some(night) = earlier {
            // What it publishes must not be among what is said later.
            let warehouse = folder.join(format!("judged-{}", night.end.format("%Y-%m-%d"))).join("warehouse");
            overrides.push(format!("warehouse={}", warehouse.display()));
            // It describes training events alone, and no model has learned from what is held out; within training one may have
            // learned from events after this night.
            overrides.push("model.allow_later_training=true".into());
        }
        jobs.push(Job::load(&source.file, &overrides)?);
    }
    Ok(jobs)
}

/// A window, for people.
fn told(round: &Round) -> String {
    let day = |micros: i64| {
        DateTime::<Utc>::from_timestamp_micros(micros).map_or_else(String::new, |at| at.format("%Y-%m-%d").to_string())
    };
    let [from, until] = round.window.map(day);
    let Some(found) = &round.found else {
        return format!("by events from {from} to before {until} nothing: {}", round.why);
    };
    let gain = found.confirmed.map_or_else(String::new, |gain| {
        format!(", gain {:.4} [{:.4}, {:.4}] nats by the other half", gain.mean, gain.low, gain.high)
    });
    let fate = if found.holds { "confirmed" } else { "not confirmed, so nothing changed" };
    format!(
        "by events from {from} to before {until} {} judged, {} kept, {} rewritten, {} given the evidence: {fate}{gain}, share of \
         deals {:.3}",
        found.items, found.kept, found.rewritten, found.evidence, found.p
    )
}

/// What windows brought, at one origin or at several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Of test events.
    reach: Reach,
    /// Windows that were judged, and those whose choices were confirmed.
    windows: u64,
    confirmed: u64,
    /// Judgements by dealt labels, and those that were confirmed.
    dealt: u64,
    by_chance: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.reach.events += other.reach.events;
        self.reach.could += other.reach.could;
        self.reach.did += other.reach.did;
        self.windows += other.windows;
        self.confirmed += other.confirmed;
        self.dealt += other.dealt;
        self.by_chance += other.by_chance;
    }
}

impl Tally {
    fn of(windows: &Windows, split: &Split, permutations: u64) -> Tally {
        let mut tally = Tally { reach: windows.reach(split.events(Part::Test)), ..Tally::default() };
        for (round, found) in windows.rounds().iter().filter_map(|round| Some((round, round.found.as_ref()?))) {
            tally.windows += 1;
            tally.confirmed += u64::from(found.holds);
            tally.dealt += permutations;
            tally.by_chance += round.confirmed_by_chance;
        }
        tally
    }

    fn told(&self) -> String {
        let Tally { reach: Reach { events, could, did }, windows, confirmed, dealt, by_chance } = self;
        format!(
            "{could} of {events} test events are of items that could have another text by then, {did} of items that had one; \
             {confirmed} of {windows} windows confirmed, {by_chance} of {dealt} with dealt labels"
        )
    }

    /// The same as shares, for tables: nothing where nothing was judged.
    ///
    /// # Errors
    /// As [`over_seeds`].
    pub(crate) fn measurements(&self, data: &str) -> Result<Vec<Measurement>> {
        let Tally { reach: Reach { events, could, did }, windows, confirmed, dealt, by_chance } = *self;
        let [events, could, did] = [events, could, did].map(|n| n as u64);
        let shares = [
            ("could_change", could, events),
            ("changed", did, events),
            ("confirmed", confirmed, windows),
            ("confirmed_by_chance", by_chance, dealt),
        ];
        let measured = |(metric, of, cases): (&str, u64, u64)| -> Result<Measurement> {
            let share = of as f64 / cases as f64;
            Ok(Measurement {
                data: data.into(),
                recommender: TEXT.into(),
                arm: Arm::ItemsCorrected.code().into(),
                target: TEXT.into(),
                metric: metric.into(),
                tier: "all".into(),
                cases,
                by_seed: vec![share],
                interval: over_seeds(&[share], 0.95)?,
            })
        };
        shares.into_iter().filter(|(_, _, cases)| *cases > 0).map(measured).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shares_are_of_all_origins_and_what_nobody_judged_has_none() {
        assert!(Tally::default().measurements("ml").unwrap().is_empty());
        let mut tally = Tally::default();
        for (could, confirmed) in [(30, 1), (50, 0)] {
            let reach = Reach { events: 100, could, did: 10 };
            tally += Tally { reach, windows: 2, confirmed, dealt: 10, by_chance: 0 };
        }
        let rows = tally.measurements("ml").unwrap();
        let found: Vec<(&str, u64, f64)> =
            rows.iter().map(|row| (row.metric.as_str(), row.cases, row.interval.mean)).collect();
        assert_eq!(
            found,
            [
                ("could_change", 200, 0.4),
                ("changed", 200, 0.1),
                ("confirmed", 4, 0.25),
                ("confirmed_by_chance", 20, 0.0)
            ]
        );
        assert!(rows.iter().all(|row| (row.arm.as_str(), row.recommender.as_str()) == ("A6i", TEXT)));
        let told = tally.told();
        assert!(
            told.starts_with("80 of 200") && told.ends_with("1 of 4 windows confirmed, 0 of 20 with dealt labels"),
            "{told}"
        );
        // Without refreshes and deals there are shares of events alone.
        let alone = Tally { dealt: 0, windows: 0, ..tally };
        assert_eq!(alone.measurements("ml").unwrap().len(), 2);
    }

    #[test]
    fn a_window_is_told_with_why_it_changed_nothing() {
        let day = 86_400_000_000;
        let round = Round { window: [day, 3 * day], found: None, why: "too few".into(), confirmed_by_chance: 0 };
        assert_eq!(told(&round), "by events from 1970-01-02 to before 1970-01-04 nothing: too few");
    }
}
