//! What a reason of an item is worth: how far it helps a recommender that knows the item by this text alone.
//!
//! R(z) = mean over held-out events of item i of log p(i | h; v_i = W g(z)), less the same with the vector of i's
//! evidence, in nats. As in DPO4Rec (arXiv 2410.05939) the recommender is the reward; here it is cold by construction:
//!
//! * h is the state s of a recommender of ids alone before an event that it was not trained on; the vectors of all
//!   other items are that recommender's.
//! * W is ridge regression from vectors of evidence to the recommender's item vectors, an item weighted n / (n + prior)
//!   after n training events. It is cross-fitted ([`CrossFitted`]): i is mapped by a map that has not learned from i's
//!   row, so that its own events cannot place it.
//! * p is the softmax over i and some negatives: items that training met about as often as i, on a logarithmic scale,
//!   and that the user had not met. So popularity is no help in telling i from them.
//!
//! Two things are taken out of R that tell nothing of an item. Neither looks at what anybody took.
//!
//! * Everybody's taste. With m the mean state before the events of a block, a vector v scores s v = m v + (s - m) v.
//!   The first part is the same for everybody: a text that leads along m lifts its item in every event, as a number of
//!   popularity does, and halves of the users, blocks of time and folds all agree on it. So all scores, of i as of its
//!   negatives, are (s - m) v. What is left to a text along m is how far users differ there. The number of its own that
//!   the recommender adds to an item's scores is no part of any of them, as negatives are about as popular.
//! * The kind of a text. Reasons are shorter than evidence and of another style, and so lie elsewhere. Each kind is
//!   centred apart, at its mean over the items that have both, each of which counts once: W learns from g(e) - E and is
//!   given g(z) - Z. Since W has a free constant, that is the map of evidence as it stands, given g(z) + E - Z.
//!
//! R is 0 for the evidence itself. A vector that lies further from the mean of its kind can be worth more than one that
//! points the same way. Whether R may reward anything is for the gates beside this file to say.
//!
//! Knows vectors, states and numbers of items; knows nothing of texts, encoders, models or where a log comes from.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;
use crate::project::map::{CrossFitted, Row};
use crate::recommend::split::Case;

/// How worths are measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Most events of an item that count: the first ones in an order that the seed decides.
    pub most_events: usize,
    /// Negatives of an event, at most.
    pub negatives: usize,
    /// From so many items, those nearest in popularity, an event's negatives are drawn.
    pub nearest: usize,
    /// Folds of the map, two or more.
    pub folds: usize,
    /// Price of a squared weight of the map, as a share of the mean variance of the texts' values.
    pub ridge: f64,
    /// In events: an item with so many of them in training counts half in the map.
    pub prior: f64,
    /// Decides events, negatives, halves of the users and shuffles.
    pub seed: u64,
    /// Decides the folds.
    pub fold_seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            most_events: 50,
            negatives: 200,
            nearest: 400,
            folds: 5,
            ridge: 0.3,
            prior: 5.0,
            seed: 0,
            fold_seed: 0,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        let Settings { most_events, negatives, nearest, folds, ridge, prior, .. } = *self;
        let is_counted = most_events > 0 && negatives > 0 && nearest >= negatives && folds >= 2;
        if is_counted && ridge > 0.0 && ridge.is_finite() && prior >= 0.0 && prior.is_finite() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            "worths want one event or more, one negative or more from at least as many items, two folds or more, a \
             ridge above 0 and a prior from 0",
        )
        .with("most_events", most_events)
        .with("negatives", negatives)
        .with("nearest", nearest)
        .with("folds", folds)
        .with("ridge", ridge)
        .with("prior", prior))
    }
}

/// What is known of the items: by a recommender that knows ids alone, and by their evidence.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Values of a state and of an item's vector.
    pub width: usize,
    /// The recommender's vectors, `[items, width]`: a state's product with one is the item's score.
    pub vectors: &'a [f32],
    /// Events of every item that the recommender was trained on.
    pub counts: &'a [u32],
    /// Id texts of the items, ascending; position = dense id. They decide the folds.
    pub ids: &'a [String],
    /// Vectors of the items' evidence, `[items, text]`; zeros where an item has none.
    pub evidence: &'a [f32],
}

impl<'a> Known<'a> {
    /// Values of a text's vector.
    fn text(&self) -> usize {
        self.evidence.len() / self.ids.len().max(1)
    }

    fn vector_of(&self, item: usize) -> &'a [f32] {
        &self.vectors[item * self.width..(item + 1) * self.width]
    }

    /// The vector of the evidence of an item that is there.
    pub(super) fn evidence_of(&self, item: usize) -> &'a [f32] {
        &self.evidence[item * self.text()..(item + 1) * self.text()]
    }

    fn check(&self) -> Result<()> {
        let items = self.ids.len();
        let fits = items > 0
            && self.width > 0
            && self.text() > 0
            && self.vectors.len() == items * self.width
            && self.evidence.len() == items * self.text()
            && self.counts.len() == items;
        if fits && self.vectors.iter().chain(self.evidence).all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(Error::new(Kind::Internal, "what is known of items does not fit together, or holds what is no number")
            .with("items", items)
            .with("width", self.width)
            .with("vectors", self.vectors.len())
            .with("evidence", self.evidence.len())
            .with("counts", self.counts.len()))
    }
}

/// An event that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Dense id of the user.
    pub user: u32,
    /// Dense id of the item that came.
    pub item: u32,
    /// Which of the block's states stands before it.
    pub case: usize,
}

impl Asked {
    /// Random numbers of this event.
    fn stream(&self, seed: u64, name: &str) -> Random {
        Random::new(seed, name).child(u64::from(self.user)).child(u64::from(self.item)).child(self.case as u64)
    }
}

/// Events of a block of time that the recommender was not trained on.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    /// The recommender's states, `[cases, width]`.
    pub states: &'a [f32],
    /// What the user of each case had met before it, dense ids in any order.
    pub met: Vec<&'a [u32]>,
    /// The events.
    pub asked: Vec<Asked>,
}

impl<'a> Block<'a> {
    /// Every case is an event; `states` are those before them, `[cases, width]`.
    pub fn of(cases: &[Case<'a>], states: &'a [f32]) -> Self {
        let asked = cases
            .iter()
            .enumerate()
            .map(|(case, asked)| Asked { user: asked.user, item: asked.target, case })
            .collect();
        Block { states, met: cases.iter().map(|case| case.history).collect(), asked }
    }

    /// The same events with their items dealt anew among them: how often each item comes stays, and what users are after no longer
    /// tells what they take. The control of whoever chooses by a block.
    #[must_use]
    pub fn dealt(&self, seed: u64) -> Block<'a> {
        let mut items: Vec<u32> = self.asked.iter().map(|one| one.item).collect();
        Random::new(seed, "dealt labels").shuffle(&mut items);
        let asked = self.asked.iter().zip(items).map(|(one, item)| Asked { item, ..*one }).collect();
        Block { states: self.states, met: self.met.clone(), asked }
    }

    fn state_of(&self, case: usize, width: usize) -> &'a [f32] {
        &self.states[case * width..(case + 1) * width]
    }

    fn check(&self, known: &Known<'_>) -> Result<()> {
        let (cases, items) = (self.met.len(), known.ids.len());
        let is_there = |one: &Asked| one.case < cases && (one.item as usize) < items;
        let fits = self.states.len() == cases * known.width && self.asked.iter().all(is_there);
        if fits && self.states.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Internal,
            "a block's events do not fit its states or the items, or it holds what is no number",
        )
        .with("cases", cases)
        .with("states", self.states.len())
        .with("events", self.asked.len()))
    }

    /// What sets the user of a case apart: the state, less `everyone`, which is the mean state.
    fn own_state_of(&self, case: usize, everyone: &[f32]) -> Vec<f32> {
        self.state_of(case, everyone.len()).iter().zip(everyone).map(|(x, mean)| x - mean).collect()
    }

    /// The mean state before the events, `width` values.
    pub(super) fn mean_state(&self, width: usize) -> Vec<f32> {
        let mut sums = vec![0.0; width];
        for one in &self.asked {
            sums.iter_mut().zip(self.state_of(one.case, width)).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let n = self.asked.len().max(1) as f64;
        sums.into_iter().map(|sum| (sum / n) as f32).collect()
    }
}

/// Whether a vector is that of a text: zeros stand for no text.
fn is_text(vector: &[f32]) -> bool {
    vector.iter().any(|x| *x != 0.0)
}

/// Where each kind of text lies: mean vectors over the items that have both kinds, zeros where none has.
#[derive(Debug, Clone)]
struct Centres {
    evidence: Vec<f64>,
    reasons: Vec<f64>,
}

impl Centres {
    /// Each item counts once, however many reasons it has.
    fn of(known: &Known<'_>, reasons: &[(u32, &[f32])]) -> Result<Centres> {
        let (items, width) = (known.ids.len(), known.text());
        let is_sound = |(item, text): &(u32, &[f32])| {
            (*item as usize) < items && text.len() == width && text.iter().all(|x| x.is_finite())
        };
        if !reasons.iter().all(is_sound) {
            return Err(Error::new(
                Kind::Internal,
                "reasons do not fit the items or the width of their evidence, or hold what is no number",
            )
            .with("items", items)
            .with("width", width));
        }
        let mut by_item: BTreeMap<u32, Vec<&[f32]>> = BTreeMap::new();
        for (item, text) in reasons {
            if is_text(text) && is_text(known.evidence_of(*item as usize)) {
                by_item.entry(*item).or_default().push(text);
            }
        }
        let mut centres = Centres { evidence: vec![0.0; width], reasons: vec![0.0; width] };
        let add = |sums: &mut [f64], text: &[f32], share: f64| {
            sums.iter_mut().zip(text).for_each(|(sum, x)| *sum += share * f64::from(*x));
        };
        for (item, texts) in &by_item {
            let share = 1.0 / by_item.len() as f64;
            add(&mut centres.evidence, known.evidence_of(*item as usize), share);
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

/// By what maps know the items: another seed deals them into other folds.
fn keys(known: &Known<'_>, settings: &Settings) -> Vec<String> {
    known.ids.iter().map(|id| format!("{} {id}", settings.fold_seed)).collect()
}

/// Items that training met and that have evidence, at least: two of each fold.
pub fn least_learned(folds: usize) -> usize {
    2 * folds
}

/// The map from texts to the recommender's vectors, of items that training met and that have evidence. With `shuffle`
/// they are given each other's vectors and weights: a map that knows texts and vectors, and not which belongs to which.
fn fitted(known: &Known<'_>, keys: &[String], settings: &Settings, shuffle: Option<Random>) -> Result<CrossFitted> {
    let has_text = |item: usize| is_text(known.evidence_of(item));
    let learned: Vec<usize> = (0..known.ids.len()).filter(|item| known.counts[*item] > 0 && has_text(*item)).collect();
    let needed = least_learned(settings.folds);
    if learned.len() < needed {
        return Err(Error::new(Kind::Input, "too few items have events and evidence to learn where texts lead")
            .with("items", learned.len())
            .with("needed", needed)
            .hint("learn from a longer log, or with fewer folds"));
    }
    let mut places = learned.clone();
    if let Some(mut random) = shuffle {
        random.shuffle(&mut places);
    }
    let targets: Vec<f64> = known.vectors.iter().map(|x| f64::from(*x)).collect();
    let row = |(item, place): (usize, usize)| {
        let n = f64::from(known.counts[place]);
        Row {
            id: keys[item].as_str(),
            text: known.evidence_of(item),
            target: &targets[place * known.width..(place + 1) * known.width],
            weight: n / (n + settings.prior),
        }
    };
    let rows: Vec<Row<'_>> = learned.into_iter().zip(places).map(row).collect();
    CrossFitted::fit(&rows, settings.folds, settings.ridge, true)
}

/// Items that training met, by how often.
struct Popularity {
    /// Ascending by number of events; equally frequent ones stand in an order that the seed decides.
    items: Vec<u32>,
    /// Logarithms of their numbers of events.
    logs: Vec<f64>,
}

impl Popularity {
    fn new(counts: &[u32], seed: u64) -> Popularity {
        let ties = Random::new(seed, "ties");
        let count = |item: u32| counts[item as usize];
        let mut items: Vec<u32> = (0..counts.len() as u32).filter(|item| count(*item) > 0).collect();
        items.sort_by_cached_key(|item| (count(*item), ties.child(u64::from(*item)).bits()));
        let logs = items.iter().map(|item| f64::from(count(*item)).ln()).collect();
        Popularity { items, logs }
    }

    /// The negatives of an event whose item has `count` events, of a user who had met `met`: drawn from the nearest.
    fn negatives(&self, asked: &Asked, count: u32, met: &[u32], settings: &Settings) -> Vec<u32> {
        let mut met = met.to_vec();
        met.sort_unstable();
        let mut random = asked.stream(settings.seed, "negatives");
        let own = f64::from(count.max(1)).ln();
        let first = self.logs.partition_point(|log| *log < own);
        let end = self.logs.partition_point(|log| *log <= own);
        // Of items that are all as near, each event looks at others.
        let start = first + random.below(end - first + 1);
        let (mut below, mut above) = (start, start);
        let mut pool = Vec::new();
        while pool.len() < settings.nearest {
            let down = below.checked_sub(1).map(|place| own - self.logs[place]);
            let up = self.logs.get(above).map(|log| log - own);
            let is_below = match (down, up) {
                (None, None) => break,
                (Some(down), Some(up)) => down < up || (down == up && start - below < above - start),
                (down, None) => down.is_some(),
                (None, _) => false,
            };
            let place = if is_below { below - 1 } else { above };
            (below, above) = if is_below { (place, above) } else { (below, above + 1) };
            let item = self.items[place];
            if item != asked.item && met.binary_search(&item).is_err() {
                pool.push(item);
            }
        }
        let drawn = settings.negatives.min(pool.len());
        for place in 0..drawn {
            let other = place + random.below(pool.len() - place);
            pool.swap(place, other);
        }
        pool.truncate(drawn);
        pool
    }
}

/// The sum of products, in double precision and in order.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// ln Σ exp; `None` for no values.
fn log_sum(values: &[f64]) -> Option<f64> {
    let highest = values.iter().copied().reduce(f64::max)?;
    Some(highest + values.iter().map(|x| (x - highest).exp()).sum::<f64>().ln())
}

/// −log p of a score in a softmax with others, of whose exponentials `others` is the logarithm of the sum.
fn loss(score: f64, others: f64) -> f64 {
    let over = others - score;
    over.max(0.0) + (-over.abs()).exp().ln_1p()
}

/// The mean; `None` for no values.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// An event, and what of it no text of its item changes.
#[derive(Debug, Clone, Copy)]
struct Event {
    user: u32,
    /// Logarithm of the sum of the negatives' exponentials.
    others: f64,
    /// −log p of the item by its evidence.
    loss: f64,
}

/// The events of an item that count.
#[derive(Debug, Clone, Default)]
struct Events {
    events: Vec<Event>,
    /// `[events, width]`, less the mean state of the block.
    states: Vec<f32>,
}

impl Events {
    /// `evidence` is what the item's evidence is mapped to, `everyone` the mean state of the block.
    fn new(
        mut asked: Vec<Asked>,
        evidence: &[f32],
        everyone: &[f32],
        known: &Known<'_>,
        block: &Block<'_>,
        popularity: &Popularity,
        settings: &Settings,
    ) -> Events {
        asked.sort_by_cached_key(|one| (one.stream(settings.seed, "events").bits(), one.user, one.case));
        asked.truncate(settings.most_events);
        let mut found = Events::default();
        for one in asked {
            let state = block.own_state_of(one.case, everyone);
            let count = known.counts[one.item as usize];
            let negatives = popularity.negatives(&one, count, block.met[one.case], settings);
            let scores: Vec<f64> =
                negatives.into_iter().map(|item| dot(&state, known.vector_of(item as usize))).collect();
            // Where there is nobody else an item is certain, whatever its text.
            let Some(others) = log_sum(&scores) else { continue };
            found.events.push(Event { user: one.user, others, loss: loss(dot(&state, evidence), others) });
            found.states.extend(state);
        }
        found
    }
}

/// Tells what reasons are worth: see the module. What of an event does not depend on the reason is computed once.
#[derive(Debug, Clone)]
pub struct Worth {
    width: usize,
    map: CrossFitted,
    centres: Centres,
    /// By what the map knows each item.
    keys: Vec<String>,
    /// Of each item.
    items: Vec<Events>,
}

impl Worth {
    /// From the events of one block. `reasons` are vectors of reasons with their items, by which it is known where
    /// reasons lie: those that are to be compared. The same inputs give the same bits on any number of threads.
    ///
    /// # Errors
    /// `Kind::Config` for settings that measure nothing; `Kind::Input` where too few items have events and evidence;
    /// `Kind::Internal` where the parts do not fit together or hold what is no number.
    pub fn new(known: &Known<'_>, block: &Block<'_>, reasons: &[(u32, &[f32])], settings: &Settings) -> Result<Worth> {
        settings.check()?;
        known.check()?;
        block.check(known)?;
        let centres = Centres::of(known, reasons)?;
        let keys = keys(known, settings);
        let map = fitted(known, &keys, settings, None)?;
        let popularity = Popularity::new(known.counts, settings.seed);
        let everyone = block.mean_state(known.width);
        let mut asked: Vec<Vec<Asked>> = vec![Vec::new(); known.ids.len()];
        block.asked.iter().for_each(|one| asked[one.item as usize].push(*one));
        let of_item = |(item, asked): (usize, Vec<Asked>)| -> Result<Events> {
            let evidence = map.apply(&keys[item], known.evidence_of(item))?;
            Ok(evidence.map_or_else(Events::default, |evidence| {
                Events::new(asked, &evidence, &everyone, known, block, &popularity, settings)
            }))
        };
        let items = asked.into_par_iter().enumerate().map(of_item).collect::<Result<Vec<Events>>>()?;
        Ok(Worth { width: known.width, map, centres, keys, items })
    }

    /// Where a reason of an item leads, `width` values: by a map that has not learned from the item's row. `None` for a
    /// vector of zeros, which is the vector of no text.
    ///
    /// # Errors
    /// `Kind::Internal` where there is no such item, and for a vector of another width than the evidence's, or one that
    /// holds what is no number.
    pub fn mapped(&self, item: u32, text: &[f32]) -> Result<Option<Vec<f32>>> {
        let key = self.key_of(item)?;
        if text.len() != self.map.input() || !text.iter().all(|x| x.is_finite()) {
            return Err(Error::new(
                Kind::Internal,
                "a text's vector is not as wide as the evidence's, or holds what is no number",
            )
            .with("item", item));
        }
        if !is_text(text) {
            return Ok(None);
        }
        self.map.apply(key, &self.centres.moved(text))
    }

    /// Where the evidence of an item leads, as [`Worth::mapped`]. `known` is that with which this was made.
    ///
    /// # Errors
    /// `Kind::Internal` where there is no such item.
    pub(super) fn mapped_evidence(&self, known: &Known<'_>, item: u32) -> Result<Option<Vec<f32>>> {
        self.map.apply(self.key_of(item)?, known.evidence_of(item as usize))
    }

    /// How far a reason's vector lies from the mean of the reasons.
    pub(super) fn distance(&self, text: &[f32]) -> f64 {
        let squares = text.iter().zip(&self.centres.reasons).map(|(x, mean)| (f64::from(*x) - mean).powi(2));
        squares.sum::<f64>().sqrt()
    }

    fn key_of(&self, item: u32) -> Result<&str> {
        let key = self.keys.get(item as usize).map(String::as_str);
        key.ok_or_else(|| {
            Error::new(Kind::Internal, "a worth was asked of an item that is not there").with("item", item)
        })
    }

    /// What a vector in the place of an item's evidence is worth, for each event.
    fn against(&self, item: u32, vector: &[f32]) -> Vec<(u32, f64)> {
        let Some(of_item) = self.items.get(item as usize) else { return Vec::new() };
        let events = of_item.events.iter().zip(of_item.states.chunks_exact(self.width));
        events.map(|(event, state)| (event.user, event.loss - loss(dot(state, vector), event.others))).collect()
    }

    /// −log p of the item at each of its events that counts with a vector of `width` values in its place, as
    /// [`Worth::mapped`] gives them, in nats; each with its user. Nothing for an item that is not there.
    pub fn losses(&self, item: u32, vector: &[f32]) -> Vec<(u32, f64)> {
        let Some(of_item) = self.items.get(item as usize) else { return Vec::new() };
        let events = of_item.events.iter().zip(of_item.states.chunks_exact(self.width));
        events.map(|(event, state)| (event.user, loss(dot(state, vector), event.others))).collect()
    }

    /// For each event of the item that counts, its user and what a text with this vector is worth there, in nats.
    /// `None` where there is no event, no evidence to compare with, or no text.
    ///
    /// # Errors
    /// As [`Worth::mapped`].
    pub fn by_event(&self, item: u32, text: &[f32]) -> Result<Option<Vec<(u32, f64)>>> {
        let mapped = self.mapped(item, text)?;
        Ok(mapped.map(|vector| self.against(item, &vector)).filter(|told| !told.is_empty()))
    }

    /// R: what a text of an item with this vector is worth, in nats an event; `None` as [`Worth::by_event`].
    ///
    /// # Errors
    /// As [`Worth::mapped`].
    pub fn of(&self, item: u32, text: &[f32]) -> Result<Option<f64>> {
        let told = self.by_event(item, text)?.unwrap_or_default();
        Ok(mean(&told.into_iter().map(|(_, nats)| nats).collect::<Vec<_>>()))
    }

    /// R of many texts, each with its item, in their order and on all threads.
    ///
    /// # Errors
    /// As [`Worth::mapped`].
    pub fn all(&self, texts: &[(u32, &[f32])]) -> Result<Vec<Option<f64>>> {
        texts.par_iter().map(|(item, text)| self.of(*item, text)).collect()
    }

    /// What the map has learned, by item: log p by the item's evidence, less that by a map that learned from shuffled
    /// pairs, in nats, mean over the item's events. Items without events or evidence are left out. `known` and
    /// `settings` are those that this was made with.
    ///
    /// # Errors
    /// As [`Worth::new`].
    pub fn learned(&self, known: &Known<'_>, settings: &Settings) -> Result<Vec<(u32, f64)>> {
        let shuffle = Random::new(settings.seed, "shuffled pairs");
        let control = fitted(known, &self.keys, settings, Some(shuffle))?;
        let mut found = Vec::new();
        for (item, key) in (0_u32..).zip(&self.keys) {
            let Some(vector) = control.apply(key, known.evidence_of(item as usize))? else { continue };
            let told: Vec<f64> = self.against(item, &vector).into_iter().map(|(_, nats)| -nats).collect();
            found.extend(mean(&told).map(|gain| (item, gain)));
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(crate) mod tests;
