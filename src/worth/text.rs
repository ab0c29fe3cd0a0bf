//! What a text is worth: how far it helps a recommender that knows what it describes by this text alone.
//!
//! R(z) = mean over held-out events of log p(what was taken; v = W g(z)), less the same with the vector of the evidence, in nats.
//! As in DPO4Rec (arXiv 2410.05939) the recommender is the reward; here it is cold by construction. This is what R of items
//! ([`crate::worth::item`]) and of users' histories ([`crate::worth::history`]) have in common; which events they are
//! of, and what scores they are made of, is said there.
//!
//! * W is ridge regression from vectors of evidence to where the recommender has them, one weighted n / (n + prior) after n events. It
//!   is cross-fitted ([`CrossFitted`]): each is mapped by a map that has not learned from its row, so that its own events cannot
//!   place it.
//! * p is the softmax over what was taken and some negatives: items that training met about as often, on a logarithmic scale, and
//!   that the user had not met. So popularity is no help in telling it from them.
//! * The kind of a text tells nothing of what it describes. Reasons are shorter than evidence and of another style, and so lie
//!   elsewhere. Each kind is centred apart, at its mean over those that have both, each of which counts once: W learns from
//!   g(e) - E and is given g(z) - Z. Since W has a free constant, that is the map of evidence as it stands, given g(z) + E - Z.
//!
//! R is 0 for the evidence itself. A vector that lies further from the mean of its kind can be worth more than one that points the
//! same way. Whether R may reward anything is for [`crate::worth::gates`] to say.
//!
//! Knows vectors, events and numbers; knows nothing of texts, encoders, models or where a log comes from.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;
use crate::project::map::{CrossFitted, Row};
use crate::worth::events::{Events, Settings, mean, row};
use crate::worth::whose::Whose;

/// What is known of the items, or users, that texts describe: by a recommender that knows ids alone, and by their evidence.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Which of both they are.
    pub whose: Whose,
    /// Values of a state and of an item's vector.
    pub width: usize,
    /// Where they stand to the recommender, `[described, width]`: items' vectors, or users' states. The product of a state
    /// with a vector is the item's score.
    pub vectors: &'a [f32],
    /// Events of each that the recommender knew.
    pub counts: &'a [u32],
    /// Id texts, ascending; position = dense id. They decide the folds.
    pub ids: &'a [String],
    /// Vectors of their evidence, `[described, text]`; zeros where there is none.
    pub evidence: &'a [f32],
}

impl<'a> Known<'a> {
    /// Values of a text's vector.
    fn text(&self) -> usize {
        self.evidence.len() / self.ids.len().max(1)
    }

    /// The vector of one that is there.
    pub(super) fn vector_of(&self, place: usize) -> &'a [f32] {
        row(self.vectors, place, self.width)
    }

    /// The vector of the evidence of one that is there.
    pub(super) fn evidence_of(&self, place: usize) -> &'a [f32] {
        row(self.evidence, place, self.text())
    }

    pub(super) fn check(&self) -> Result<()> {
        let described = self.ids.len();
        let fits = described > 0
            && self.width > 0
            && self.text() > 0
            && self.vectors.len() == described * self.width
            && self.evidence.len() == described * self.text()
            && self.counts.len() == described;
        if fits && self.vectors.iter().chain(self.evidence).all(|x| x.is_finite()) {
            return Ok(());
        }
        let what =
            format!("what is known of {} does not fit together, or holds what is no number", self.whose.described());
        Err(Error::new(Kind::Internal, what)
            .with(self.whose.described(), described)
            .with("width", self.width)
            .with("vectors", self.vectors.len())
            .with("evidence", self.evidence.len())
            .with("counts", self.counts.len()))
    }
}

/// Whether a vector is that of a text: zeros stand for no text.
fn is_text(vector: &[f32]) -> bool {
    vector.iter().any(|x| *x != 0.0)
}

/// Where each kind of text lies: mean vectors over those that have both kinds, zeros where none has.
#[derive(Debug, Clone)]
struct Centres {
    evidence: Vec<f64>,
    reasons: Vec<f64>,
}

impl Centres {
    /// Each item, or user, counts once, however many reasons it has.
    fn of(known: &Known<'_>, reasons: &[(u32, &[f32])]) -> Result<Centres> {
        let (described, width) = (known.ids.len(), known.text());
        let is_sound = |(place, text): &(u32, &[f32])| {
            (*place as usize) < described && text.len() == width && text.iter().all(|x| x.is_finite())
        };
        if !reasons.iter().all(is_sound) {
            let whose = known.whose.described();
            let what =
                format!("reasons do not fit the {whose} or the width of their evidence, or hold what is no number");
            return Err(Error::new(Kind::Internal, what).with(whose, described).with("width", width));
        }
        let mut by_place: BTreeMap<u32, Vec<&[f32]>> = BTreeMap::new();
        for (place, text) in reasons {
            if is_text(text) && is_text(known.evidence_of(*place as usize)) {
                by_place.entry(*place).or_default().push(text);
            }
        }
        let mut centres = Centres { evidence: vec![0.0; width], reasons: vec![0.0; width] };
        let add = |sums: &mut [f64], text: &[f32], share: f64| {
            sums.iter_mut().zip(text).for_each(|(sum, x)| *sum += share * f64::from(*x));
        };
        for (place, texts) in &by_place {
            let share = 1.0 / by_place.len() as f64;
            add(&mut centres.evidence, known.evidence_of(*place as usize), share);
            texts.iter().for_each(|text| add(&mut centres.reasons, text, share / texts.len() as f64));
        }
        Ok(centres)
    }

    /// The vector of a reason as it stands to its kind, where evidence lies.
    fn moved(&self, reason: &[f32]) -> Vec<f32> {
        let places = self.evidence.iter().zip(&self.reasons);
        reason.iter().zip(places).map(|(x, (to, from))| (f64::from(*x) + (to - from)) as f32).collect()
    }
}

/// By what maps know them: another seed deals them into other folds.
fn keys(known: &Known<'_>, settings: &Settings) -> Vec<String> {
    known.ids.iter().map(|id| format!("{} {id}", settings.fold_seed)).collect()
}

/// Least number of items, or users, that have events and evidence to learn from: two of each fold.
pub fn least_learned(folds: usize) -> usize {
    2 * folds
}

/// The map from texts to the recommender's vectors, of those that it knew events of and that have evidence. With `shuffle`
/// they are given each other's vectors and weights: a map that knows texts and vectors, and not which belongs to which.
fn fitted(known: &Known<'_>, keys: &[String], settings: &Settings, shuffle: Option<Random>) -> Result<CrossFitted> {
    let has_text = |place: usize| is_text(known.evidence_of(place));
    let learned: Vec<usize> =
        (0..known.ids.len()).filter(|place| known.counts[*place] > 0 && has_text(*place)).collect();
    let needed = least_learned(settings.folds);
    if learned.len() < needed {
        let whose = known.whose.described();
        return Err(Error::new(
            Kind::Input,
            format!("too few {whose} have events and evidence to learn where texts lead"),
        )
        .with(whose, learned.len())
        .with("needed", needed)
        .hint("learn from a longer log, or with fewer folds"));
    }
    let mut places = learned.clone();
    if let Some(mut random) = shuffle {
        random.shuffle(&mut places);
    }
    let targets: Vec<f64> = known.vectors.iter().map(|x| f64::from(*x)).collect();
    let row = |(own, place): (usize, usize)| {
        let n = f64::from(known.counts[place]);
        Row {
            id: keys[own].as_str(),
            text: known.evidence_of(own),
            target: &targets[place * known.width..(place + 1) * known.width],
            weight: n / (n + settings.prior),
        }
    };
    let rows: Vec<Row<'_>> = learned.into_iter().zip(places).map(row).collect();
    CrossFitted::fit(&rows, settings.folds, settings.ridge, true)
}

/// Tells what reasons are worth: see the module. What of an event does not depend on the reason is computed once.
#[derive(Debug, Clone)]
pub struct Worth {
    map: CrossFitted,
    centres: Centres,
    /// By what the map knows each.
    keys: Vec<String>,
    /// Of each.
    events: Vec<Events>,
    /// `[items, width]`, where scores are made of it.
    table: Vec<f32>,
}

impl Worth {
    /// From what is known, which was checked, and from the events of each: `events_of` its place and where its evidence leads.
    /// `table` has the items' vectors, `[items, width]`, where these events make scores of them. `reasons` are vectors of reasons with
    /// the places of those that they describe, by which it is known where reasons lie. The same inputs give the same bits on any
    /// number of threads.
    ///
    /// # Errors
    /// `Kind::Input` where too few have events and evidence; `Kind::Internal` where reasons do not fit.
    pub(super) fn made(
        known: &Known<'_>,
        reasons: &[(u32, &[f32])],
        settings: &Settings,
        table: &[f32],
        events_of: &(dyn Fn(usize, &[f32]) -> Events + Sync),
    ) -> Result<Worth> {
        let centres = Centres::of(known, reasons)?;
        let keys = keys(known, settings);
        let map = fitted(known, &keys, settings, None)?;
        let of_one = |place: usize| -> Result<Events> {
            let evidence = map.apply(&keys[place], known.evidence_of(place))?;
            Ok(evidence.map_or_else(Events::default, |evidence| events_of(place, &evidence)))
        };
        let events = (0..known.ids.len()).into_par_iter().map(of_one).collect::<Result<Vec<Events>>>()?;
        Ok(Worth { map, centres, keys, events, table: table.to_vec() })
    }

    /// Where a reason leads, `width` values: by a map that has not learned from the row of what it describes. `None` for a
    /// vector of zeros, which is the vector of no text.
    ///
    /// # Errors
    /// `Kind::Internal` where what it describes is not there, and for a vector of another width than the evidence's, or one that
    /// holds what is no number.
    pub fn mapped(&self, place: u32, text: &[f32]) -> Result<Option<Vec<f32>>> {
        let key = self.key_of(place)?;
        if text.len() != self.map.input() || !text.iter().all(|x| x.is_finite()) {
            return Err(Error::new(
                Kind::Internal,
                "a text's vector is not as wide as the evidence's, or holds what is no number",
            )
            .with("of", place));
        }
        if !is_text(text) {
            return Ok(None);
        }
        self.map.apply(key, &self.centres.moved(text))
    }

    /// Where evidence leads, as [`Worth::mapped`]. `known` is that with which this was made.
    ///
    /// # Errors
    /// `Kind::Internal` where what it describes is not there.
    pub(super) fn mapped_evidence(&self, known: &Known<'_>, place: u32) -> Result<Option<Vec<f32>>> {
        self.map.apply(self.key_of(place)?, known.evidence_of(place as usize))
    }

    /// How far a reason's vector lies from the mean of the reasons.
    pub(super) fn distance(&self, text: &[f32]) -> f64 {
        let squares = text.iter().zip(&self.centres.reasons).map(|(x, mean)| (f64::from(*x) - mean).powi(2));
        squares.sum::<f64>().sqrt()
    }

    fn key_of(&self, place: u32) -> Result<&str> {
        let key = self.keys.get(place as usize).map(String::as_str);
        key.ok_or_else(|| Error::new(Kind::Internal, "a worth was asked of what is not there").with("of", place))
    }

    /// What a vector in the place of the evidence's is worth, for each event.
    pub(super) fn against(&self, place: u32, vector: &[f32]) -> Vec<(u32, f64)> {
        let Some(of_one) = self.events.get(place as usize) else { return Vec::new() };
        of_one.losses(vector, &self.table).map(|(event, loss)| (event.by, event.loss - loss)).collect()
    }

    /// −log p at each event that counts with a vector of `width` values in the place of the evidence's, as [`Worth::mapped`] gives
    /// them, in nats; each with the one by whom it is dealt into a half. Nothing for what is not there.
    pub fn losses(&self, place: u32, vector: &[f32]) -> Vec<(u32, f64)> {
        let Some(of_one) = self.events.get(place as usize) else { return Vec::new() };
        of_one.losses(vector, &self.table).map(|(event, loss)| (event.by, loss)).collect()
    }

    /// For each event that counts, by whom it is dealt into a half (of an item's event the user, of a user's the item), and what a
    /// text with this vector is worth there, in nats. `None` where there is no event, no evidence to compare with, or no text.
    ///
    /// # Errors
    /// As [`Worth::mapped`].
    pub fn by_event(&self, place: u32, text: &[f32]) -> Result<Option<Vec<(u32, f64)>>> {
        let mapped = self.mapped(place, text)?;
        Ok(mapped.map(|vector| self.against(place, &vector)).filter(|told| !told.is_empty()))
    }

    /// R: what a text with this vector is worth, in nats an event; `None` as [`Worth::by_event`].
    ///
    /// # Errors
    /// As [`Worth::mapped`].
    pub fn of(&self, place: u32, text: &[f32]) -> Result<Option<f64>> {
        let told = self.by_event(place, text)?.unwrap_or_default();
        Ok(mean(&told.into_iter().map(|(_, nats)| nats).collect::<Vec<_>>()))
    }

    /// R of many texts, each with the place of what it describes, in their order and on all threads.
    ///
    /// # Errors
    /// As [`Worth::mapped`].
    pub fn all(&self, texts: &[(u32, &[f32])]) -> Result<Vec<Option<f64>>> {
        texts.par_iter().map(|(place, text)| self.of(*place, text)).collect()
    }

    /// What the map has learned, by place: log p by the evidence, less that by a map that learned from shuffled pairs, in nats, mean
    /// over the events. Those without events or evidence are left out. `known` and `settings` are those that this was made with.
    ///
    /// # Errors
    /// As [`Worth::mapped`]; `Kind::Input` where too few have events and evidence.
    pub fn learned(&self, known: &Known<'_>, settings: &Settings) -> Result<Vec<(u32, f64)>> {
        let shuffle = Random::new(settings.seed, "shuffled pairs");
        let control = fitted(known, &self.keys, settings, Some(shuffle))?;
        let mut found = Vec::new();
        for (place, key) in (0_u32..).zip(&self.keys) {
            let Some(vector) = control.apply(key, known.evidence_of(place as usize))? else { continue };
            let told: Vec<f64> = self.against(place, &vector).into_iter().map(|(_, nats)| -nats).collect();
            found.extend(mean(&told).map(|gain| (place, gain)));
        }
        Ok(found)
    }
}
