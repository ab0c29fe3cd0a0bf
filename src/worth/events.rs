//! Events that say what a text is worth: which of them count, what each item is told from, and how likely a vector makes it.
//!
//! Negatives are items that training met about as often as the item that was taken, on a logarithmic scale, and that the user had
//! not met. Knows numbers of events, vectors and scores; knows nothing of maps, or of whose texts the vectors are.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::network::random::Random;

/// How worths are measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Most events of an item or user that count: the first ones in an order that the seed decides.
    pub most_events: usize,
    /// Negatives of an event, at most.
    pub negatives: usize,
    /// From so many items, those nearest in popularity, an event's negatives are drawn.
    pub nearest: usize,
    /// Folds of the map, two or more.
    pub folds: usize,
    /// Price of a squared weight of the map, as a share of the mean variance of the texts' values.
    pub ridge: f64,
    /// In events: who has so many of them counts half in the map.
    pub prior: f64,
    /// Decides events, negatives, halves and shuffles.
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
    pub(super) fn check(&self) -> Result<()> {
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

/// An event that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Dense id of the user; where histories are measured, the place among the users who are described.
    pub user: u32,
    /// Dense id of the item that came.
    pub item: u32,
    /// Which of the block's cases it is: what stands before it.
    pub case: usize,
}

impl Asked {
    /// Random numbers of this event.
    fn stream(&self, seed: u64, name: &str) -> Random {
        Random::new(seed, name).child(u64::from(self.user)).child(u64::from(self.item)).child(self.case as u64)
    }
}

/// Those of the events that count.
pub(super) fn counted(asked: &[Asked], settings: &Settings) -> Vec<Asked> {
    let mut asked = asked.to_vec();
    asked.sort_by_cached_key(|one| (one.stream(settings.seed, "events").bits(), one.user, one.case));
    asked.truncate(settings.most_events);
    asked
}

/// Items that training met, by how often.
pub(super) struct Popularity {
    /// Ascending by number of events; equally frequent ones stand in an order that the seed decides.
    pub(super) items: Vec<u32>,
    /// Logarithms of their numbers of events.
    logs: Vec<f64>,
}

impl Popularity {
    pub(super) fn new(counts: &[u32], seed: u64) -> Popularity {
        let ties = Random::new(seed, "ties");
        let count = |item: u32| counts[item as usize];
        let mut items: Vec<u32> = (0..counts.len() as u32).filter(|item| count(*item) > 0).collect();
        items.sort_by_cached_key(|item| (count(*item), ties.child(u64::from(*item)).bits()));
        let logs = items.iter().map(|item| f64::from(count(*item)).ln()).collect();
        Popularity { items, logs }
    }

    /// The negatives of an event whose item has `count` events, of a user who had met `met`: drawn from the nearest.
    pub(super) fn negatives(&self, asked: &Asked, count: u32, met: &[u32], settings: &Settings) -> Vec<u32> {
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
pub(super) fn log_sum(values: &[f64]) -> Option<f64> {
    let highest = values.iter().copied().reduce(f64::max)?;
    Some(highest + values.iter().map(|x| (x - highest).exp()).sum::<f64>().ln())
}

/// −log p of a score in a softmax with others, of whose exponentials `others` is the logarithm of the sum.
pub(super) fn loss(score: f64, others: f64) -> f64 {
    let over = others - score;
    over.max(0.0) + (-over.abs()).exp().ln_1p()
}

/// The mean; `None` for no values.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A row of a table that is there.
pub(super) fn row(table: &[f32], place: usize, width: usize) -> &[f32] {
    &table[place * width..(place + 1) * width]
}

/// What an event's item is told from.
#[derive(Debug, Clone)]
pub(super) enum Others {
    /// The logarithm of the sum of their scores' exponentials, which no text changes.
    Summed(f64),
    /// Items whose vectors stand in the table: where the text leads makes their scores, too.
    Scored(Vec<u32>),
}

/// An event, and what of it no text changes.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// The one who is dealt into a half: of an item's event its user, of a user's its item.
    pub(super) by: u32,
    others: Others,
    /// −log p by the evidence.
    pub(super) loss: f64,
}

/// The events of one item or user that count.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    events: Vec<Event>,
    /// `[events, width]`: the product of a row with where a text leads is the score of what was taken.
    rows: Vec<f32>,
}

impl Events {
    /// Adds an event. `evidence` is where the evidence leads, `table` holds the items' vectors, `[items, width]`.
    pub(super) fn push(&mut self, by: u32, row: &[f32], others: Others, evidence: &[f32], table: &[f32]) {
        let loss = loss_by(row, &others, evidence, table);
        self.events.push(Event { by, others, loss });
        self.rows.extend_from_slice(row);
    }

    /// Each event, with −log p where a text leads to `vector`. `table` is that of [`Events::push`].
    pub(super) fn losses(&self, vector: &[f32], table: &[f32]) -> impl Iterator<Item = (&Event, f64)> {
        let rows = self.rows.chunks_exact(vector.len().max(1));
        self.events.iter().zip(rows).map(move |(event, row)| (event, loss_by(row, &event.others, vector, table)))
    }
}

/// −log p of what was taken at an event where a text leads to `vector`.
fn loss_by(taken: &[f32], others: &Others, vector: &[f32], table: &[f32]) -> f64 {
    let others = match others {
        Others::Summed(sum) => *sum,
        Others::Scored(items) => {
            let score = |item: &u32| dot(row(table, *item as usize, vector.len()), vector);
            // Where there is nobody else an item is certain.
            log_sum(&items.iter().map(score).collect::<Vec<f64>>()).unwrap_or(f64::NEG_INFINITY)
        }
    };
    loss(dot(taken, vector), others)
}
