//! The arms of the ablation: what a recommender is told about items and users in each.
//!
//! Knows splits, vectors by item and vectors of histories; knows nothing of recommenders, or of how a vector was made. Arms
//! differ in their vectors alone, but for those that say how else the vectors of A2r are read ([`Arm::reading`]), and the
//! two controls that read none (A0c, A1b).
//!
//! **Refreshed.** Vectors are made as of an origin, and again at moments after it, as nights do; a case sees the newest of
//! before its own moment. All are whitened by what was known at the origin.
//!
//! Histories have a whitening of their own: they speak of users in other words than items are spoken of, and where items
//! hardly differ a shared one would make much of that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evaluate::arm::Arm;
use crate::evaluate::baseline::ItemNeighbours;
use crate::evaluate::collaborative::{Collaborative, ItemVectors};
use crate::evaluate::history_blocks::HistoryVectors;
use crate::evaluate::scalars::standardised;
use crate::evaluate::whitening::Whitening;
use crate::evaluate::word_space::{ItemWords, WordSpace};
use crate::network::random::Random;
use crate::recommend::adaptor::{Content, Histories, Vectors};
use crate::recommend::split::{Case, Split};

/// A leaked label among values of variance one.
const LABEL: f32 = 3.0;
/// Width of a vector on its way into the adaptor.
const WIDTH: usize = 64;

/// What is known of items as of an origin, and as it was remade after it.
#[derive(Debug, Clone, Default)]
pub struct Remade<T> {
    /// As of the origin: what is learned from.
    pub first: T,
    /// From which moment on which (microseconds since 1970), ascending.
    pub later: Vec<(i64, T)>,
}

impl<T> Remade<T> {
    /// All of it, by time.
    fn moments(&self) -> impl Iterator<Item = &T> {
        [&self.first].into_iter().chain(self.later.iter().map(|(_, told)| told))
    }

    /// Whether it was remade at the same moments.
    fn fits<U>(&self, other: &Remade<U>) -> bool {
        self.later.iter().map(|(from, _)| from).eq(other.later.iter().map(|(from, _)| from))
    }
}

/// The vectors of items.
pub type Texts = Remade<ItemVectors>;

/// One origin of a data set.
pub struct Origin<'a> {
    /// Tells it from the others.
    pub label: String,
    /// The log, cut in three.
    pub split: &'a Split,
    /// Id texts of the items: position = dense id.
    pub items: &'a [String],
    /// Of the texts of every arm that has texts of its own ([`Arm::texts_of`]).
    pub texts: BTreeMap<Arm, Texts>,
    /// Of what those arms say of histories, where they are asked to.
    pub histories: BTreeMap<Arm, HistoryVectors>,
    /// The words of items, where an arm reads them.
    pub words: Option<Remade<ItemWords>>,
    /// How the texts are whitened, as far as somebody has asked: several arms read the same texts, which no longer change then.
    whitenings: Mutex<BTreeMap<Arm, Option<Arc<Whitening>>>>,
}

impl<'a> Origin<'a> {
    /// An origin with what was said there.
    pub fn new(
        label: String,
        split: &'a Split,
        items: &'a [String],
        texts: BTreeMap<Arm, Texts>,
        histories: BTreeMap<Arm, HistoryVectors>,
    ) -> Self {
        Origin { label, split, items, texts, histories, words: None, whitenings: Mutex::default() }
    }

    /// It with the words of items, where somebody has read them.
    pub fn with_words(self, words: Option<Remade<ItemWords>>) -> Self {
        Origin { words, ..self }
    }

    /// How the texts of `of` are whitened, as learned from those of items that training met.
    fn whitening(&self, of: Arm) -> Result<Option<Arc<Whitening>>> {
        let mut known = self.whitenings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fitted) = known.get(&of) {
            return Ok(fitted.clone());
        }
        let Some(texts) = self.texts.get(&of) else { return Ok(None) };
        let fitted = fit_trained(&texts.first, self.split)?;
        known.insert(of, fitted.clone());
        Ok(fitted)
    }

    /// The scalar columns at each moment of `texts`, standardised by what items of training had at the origin.
    fn scalars(&self, texts: &Texts) -> Result<Vec<Vectors>> {
        let counts = self.split.train_counts();
        let missing = || Error::new(Kind::Input, "an arm wants scalar columns that were not read");
        let told = self.texts.get(&Arm::Scalars).ok_or_else(missing)?;
        let moments: Vec<&ItemVectors> = told.moments().collect();
        if !told.fits(texts) || moments.iter().any(|rows| rows.len() != counts.len()) {
            return Err(missing());
        }
        standardised(&moments, &|item| counts[item] > 0)
    }

    /// What the words of items tell at each moment of `texts`, as learned from those of items that training met: vectors of `WIDTH`
    /// values, and what they are near to.
    fn words(&self, texts: &Texts) -> Result<Vec<(Vectors, WordNearness)>> {
        let counts = self.split.train_counts();
        let missing = || Error::new(Kind::Input, "an arm wants words of items that were not read");
        let told = self.words.as_ref().filter(|told| told.fits(texts)).ok_or_else(missing)?;
        if told.moments().any(|words| words.len() != counts.len()) {
            return Err(missing());
        }
        let space = WordSpace::fit(&told.first, &|item| counts[item] > 0);
        let moment = |words: &ItemWords| {
            let topics = space.topics(words)?;
            Ok((space.scaled(&topics, WIDTH)?, WordNearness { topics, shared: space.nearest(words) }))
        };
        told.moments().map(moment).collect()
    }
}

/// A data set on its way through the arms.
pub struct Data<'a> {
    /// Its name.
    pub name: &'a str,
    /// A rating of at least this is a like; events without one are likes. For the leak, which tells it.
    pub liked: f32,
    /// The arms that are run: they decide whose texts are shuffled.
    pub arms: &'a [Arm],
    /// Its origins, ascending.
    pub origins: Vec<Origin<'a>>,
}

impl Data<'_> {
    /// What an arm says of histories at an origin, if anything.
    pub fn histories_of(&self, arm: Arm, origin: usize) -> Option<&HistoryVectors> {
        let told = self.origins.get(origin)?.histories.get(&arm.histories_of(self.arms)?);
        told.filter(|told| !told.is_empty())
    }
}

/// Which items are near by their words.
#[derive(Debug, Clone)]
pub struct WordNearness {
    /// Their places in the space of words ([`WordSpace::topics`]).
    pub topics: Vectors,
    /// Which share words.
    pub shared: ItemNeighbours,
}

/// Which items are near each other by what is said of them.
#[derive(Debug, Clone, Default)]
pub struct Nearness {
    /// Vectors of texts, where there are some.
    pub texts: Option<Vectors>,
    /// Words, where the arm reads them.
    pub words: Option<WordNearness>,
}

/// What is told of items from a moment on.
pub struct Moment {
    /// What a model reads.
    pub vectors: Vectors,
    /// What is near by it.
    pub near: Nearness,
}

/// What a recommender is told in an arm.
pub struct Told {
    /// What it learns from.
    pub content: Content,
    /// The same, of items.
    pub first: Moment,
    /// From which moment on (microseconds since 1970) what is told otherwise, ascending.
    pub later: Vec<(i64, Moment)>,
}

impl Told {
    /// Cases by what they see: what takes the place of what was learned from, if anything, and the places of the cases.
    pub fn windows(&self, cases: &[Case<'_>]) -> Vec<(Option<&Moment>, Vec<usize>)> {
        let starts =
            [(None, i64::MIN)].into_iter().chain(self.later.iter().map(|(from, moment)| (Some(moment), *from)));
        let mut windows: Vec<_> = starts.map(|(moment, from)| (from, moment, Vec::new())).collect();
        for (place, case) in cases.iter().enumerate() {
            let at = windows.partition_point(|(from, ..)| *from <= case.timestamp);
            windows[at.max(1) - 1].2.push(place);
        }
        windows
            .into_iter()
            .map(|(_, moment, places)| (moment, places))
            .filter(|(_, places)| !places.is_empty())
            .collect()
    }
}

/// What a recommender is told in an arm at an origin.
///
/// # Errors
/// `Kind::Input` where vectors are missing that the arm is made of.
pub fn content(arm: Arm, data: &Data<'_>, origin: usize, seed: u64) -> Result<Told> {
    let at = data.origins.get(origin).ok_or_else(|| Error::new(Kind::Internal, "an origin is missing"))?;
    let (split, items) = (at.split, at.split.train_counts().len());
    let of = arm.texts_of(data.arms);
    let mut raw = match of {
        None => Cow::Owned(Texts { first: vec![None; items], later: Vec::new() }),
        Some(of) => {
            let fits = |texts: &&Texts| {
                texts.first.len() == items && texts.later.iter().all(|(_, vectors)| vectors.len() == items)
            };
            Cow::Borrowed(at.texts.get(&of).filter(fits).ok_or_else(|| {
                Error::new(Kind::Input, "an arm wants texts that were not made")
                    .with("arm", arm.code())
                    .with("texts", of.code())
            })?)
        }
    };
    if arm == Arm::Random {
        let raw = raw.to_mut();
        draw(&mut raw.first, seed, "random vectors");
        raw.later.iter_mut().for_each(|(_, vectors)| draw(vectors, seed, "random vectors"));
    }
    let collaborative = match arm.is_projected() {
        true => Some(Collaborative::learn(split, at.items, &raw.first)?),
        false => None,
    };
    let scalars = if arm.has_scalars() { at.scalars(&raw)? } else { Vec::new() };
    let mut words = if arm.has_words() { at.words(&raw)? } else { Vec::new() }.into_iter();
    let fitted = match of {
        None | Some(Arm::Scalars) => None,
        Some(_) if arm == Arm::Random => fit_trained(&raw.first, split)?,
        Some(of) => at.whitening(of)?,
    };
    let vectors_of = |told: &ItemVectors, scalars: Option<&Vectors>| -> Result<Vectors> {
        let vectors = match scalars {
            Some(scalars) if arm == Arm::Scalars => scalars.clone(),
            Some(scalars) => beside(&whitened(told, fitted.as_deref())?, scalars)?,
            None => whitened(told, fitted.as_deref())?,
        };
        let vectors = match &collaborative {
            None => vectors,
            Some(map) if arm == Arm::ProjectedAlone => map.apply(at.items, told)?,
            Some(map) => beside(&vectors, &map.apply(at.items, told)?)?,
        };
        if arm == Arm::Shuffled { dealt(&vectors, &raw.first, seed) } else { Ok(vectors) }
    };
    // Items and histories have one width.
    let width = if data.histories_of(arm, origin).is_some() { WIDTH } else { 0 };
    let mut moments = Vec::with_capacity(raw.later.len() + 1);
    for (moment, told) in raw.moments().enumerate() {
        let texts = vectors_of(told, scalars.get(moment))?;
        let (vectors, near) = match words.next() {
            None => (texts.clone(), Nearness { texts: Some(texts), words: None }),
            Some((of_words, near)) if arm == Arm::WordsAlone => (of_words, Nearness { texts: None, words: Some(near) }),
            Some((of_words, near)) => (beside(&texts, &of_words)?, Nearness { texts: Some(texts), words: Some(near) }),
        };
        moments.push(Moment { vectors: widened(vectors, width)?, near });
    }
    let mut moments = moments.into_iter();
    let first = moments.next().ok_or_else(|| Error::new(Kind::Internal, "an arm has no moment"))?;
    let later = raw.later.iter().map(|(from, _)| *from).zip(moments).collect();
    let vectors = &first.vectors;
    let lines = split.timelines();
    let histories = match data.histories_of(arm, origin) {
        _ if arm == Arm::Leak => {
            let next = |(item, rating): (&u32, &Option<f32>)| {
                let liked = rating.is_none_or(|r| r >= data.liked);
                Some(item + if liked { items as u32 } else { 0 })
            };
            let latest: Vec<Vec<Option<u32>>> = (0..lines.users())
                .map(|user| lines.of(user))
                .map(|line| line.items.iter().zip(line.ratings).map(next).chain([None]).collect())
                .collect();
            Histories::new(answers(vectors)?, &latest)?
        }
        Some(told) => {
            let of = widened(of_histories(arm, told, split, seed)?, vectors.width())?;
            Histories::new(of, &told.by_known(lines))?
        }
        None => Histories::new(absent(vectors.width(), items)?, &HistoryVectors::default().by_known(lines))?,
    };
    let seen = Some(split.train_counts().to_vec());
    let content = Content { items: Some(vectors.clone()), histories: Some(histories), seen };
    Ok(Told { content, first, later })
}

/// The vectors of histories as an arm has them.
fn of_histories(arm: Arm, told: &HistoryVectors, split: &Split, seed: u64) -> Result<Vectors> {
    let mut raw: Vec<Option<Vec<f32>>> = told.vectors().iter().cloned().map(Some).collect();
    if arm == Arm::Random {
        draw(&mut raw, seed, "random histories");
    }
    let fitted = fit(&raw, &|at| told.keys()[at].1 <= split.valid_from())?;
    let vectors = whitened(&raw, fitted.as_ref())?;
    match arm {
        Arm::Shuffled => dealt_at_once(&vectors, told.keys(), seed),
        _ => Ok(vectors),
    }
}

/// Random vectors in the place of those that are there: each the same whoever else has one.
fn draw(raw: &mut [Option<Vec<f32>>], seed: u64, name: &str) {
    let all = Random::new(seed, name);
    for (item, vector) in raw.iter_mut().enumerate() {
        let mut random = all.child(item as u64);
        vector.iter_mut().flatten().for_each(|value| *value = random.normal() as f32);
    }
}

/// Who gets whose vector, among the items that `has` names: by one permutation of the catalogue, on which others are passed over.
fn givers(items: usize, has: &dyn Fn(usize) -> bool, seed: u64) -> Vec<usize> {
    let mut next: Vec<usize> = (0..items).collect();
    Random::new(seed, "shuffled reasons").shuffle(&mut next);
    let giver = |item: usize| {
        let mut giver = next[item];
        while !has(giver) && giver != item {
            giver = next[giver];
        }
        giver
    };
    (0..items).map(|item| if has(item) { giver(item) } else { item }).collect()
}

/// Vectors dealt out anew among the items that have one. Those that had one at the origin keep whose they were given there; the
/// others are dealt among themselves.
fn dealt(vectors: &Vectors, first: &ItemVectors, seed: u64) -> Result<Vectors> {
    let had = |item: usize| first[item].is_some();
    let old = givers(vectors.len(), &had, seed);
    let new = givers(vectors.len(), &|item| vectors.has(item) && !had(item), seed);
    let from = |item: usize| match had(item) {
        true if vectors.has(old[item]) => old[item],
        true => item,
        false => new[item],
    };
    taken(vectors, &(0..vectors.len()).map(from).collect::<Vec<usize>>())
}

/// Vectors of histories, each given to the next user of a random round over those of the same moment: nobody keeps their own
/// where there is another, and nobody hears of anything that came later.
fn dealt_at_once(vectors: &Vectors, keys: &[(u32, i64)], seed: u64) -> Result<Vectors> {
    let mut rounds: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    keys.iter().enumerate().for_each(|(at, (_, moment))| rounds.entry(*moment).or_default().push(at));
    let mut random = Random::new(seed, "shuffled histories");
    let mut from: Vec<usize> = (0..vectors.len()).collect();
    for mut round in rounds.into_values() {
        random.shuffle(&mut round);
        let next = round.iter().cycle().skip(1);
        round.iter().zip(next).for_each(|(owner, giver)| from[*owner] = *giver);
    }
    taken(vectors, &from)
}

/// Each with the values of the one that `from` names for it.
fn taken(vectors: &Vectors, from: &[usize]) -> Result<Vectors> {
    let values = from.iter().flat_map(|at| vectors.row(*at)).copied().collect();
    Vectors::new(vectors.width(), values, (0..vectors.len()).map(|at| vectors.has(at)).collect())
}

/// Vectors with zeros behind them up to a width.
fn widened(vectors: Vectors, width: usize) -> Result<Vectors> {
    match width.checked_sub(vectors.width()) {
        None | Some(0) => Ok(vectors),
        Some(more) => beside(&vectors, &absent(more, vectors.len())?),
    }
}

/// The vectors of both, one after the other; what has only one of them has zeros for the other.
fn beside(one: &Vectors, other: &Vectors) -> Result<Vectors> {
    let rows = (0..one.len()).flat_map(|item| one.row(item).iter().chain(other.row(item))).copied().collect();
    let present = (0..one.len()).map(|item| one.has(item) || other.has(item)).collect();
    Vectors::new(one.width() + other.width(), rows, present)
}

/// What gives an answer away: the vector of every item, its last value telling a dislike; then the same for a like.
fn answers(vectors: &Vectors) -> Result<Vectors> {
    let rows = [-LABEL, LABEL].into_iter().flat_map(|label| {
        (0..vectors.len()).map(move |item| {
            let mut row = vectors.row(item).to_vec();
            row[vectors.width() - 1] = label;
            row
        })
    });
    Vectors::new(vectors.width(), rows.flatten().collect(), vec![true; 2 * vectors.len()])
}

fn absent(width: usize, items: usize) -> Result<Vectors> {
    Vectors::new(width, vec![0.0; items * width], vec![false; items])
}

/// Principal components, learned from those that `is_fitted` says may be learned from: of training alone. Nothing where these
/// are too few.
fn fit(raw: &[Option<Vec<f32>>], is_fitted: &dyn Fn(usize) -> bool) -> Result<Option<Whitening>> {
    let fitted: Vec<&[f32]> =
        raw.iter().enumerate().filter(|(at, _)| is_fitted(*at)).filter_map(|(_, v)| v.as_deref()).collect();
    (fitted.len() >= 2).then(|| Whitening::fit(&fitted, WIDTH)).transpose()
}

/// As [`fit`], from the vectors of items that training met.
fn fit_trained(raw: &[Option<Vec<f32>>], split: &Split) -> Result<Option<Arc<Whitening>>> {
    Ok(fit(raw, &|item| split.train_counts()[item] > 0)?.map(Arc::new))
}

fn whitened(raw: &[Option<Vec<f32>>], whitening: Option<&Whitening>) -> Result<Vectors> {
    let Some(whitening) = whitening else { return absent(WIDTH, raw.len()) };
    let values: Vec<Vec<f32>> =
        raw.par_iter().map(|v| v.as_ref().map_or_else(|| vec![0.0; WIDTH], |v| whitening.apply(v))).collect();
    Vectors::new(WIDTH, values.concat(), raw.iter().map(Option::is_some).collect())
}

#[cfg(test)]
pub(crate) mod tests;
