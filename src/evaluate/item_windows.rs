//! Reasons of items corrected window by window: what stands in the place of each from a moment on, by what users took before it.
//!
//! At each moment at which nights write anew, what stood in the window before it is judged by the events of that window, as
//! `curec learn worth` judges for nights ([`crate::worth::correction`]): half of the users choose among the text that stands, the
//! reason that nights publish, other reasons and the evidence; the other half confirm. What is confirmed stands from that moment on,
//! until a later window confirms something else; where a window confirms nothing, what stood before it stands on.
//!
//! **Point in time.** Who judges is given the log until its window's end and texts of before the window, and nothing else: no later
//! event can change what stands.
//!
//! **Control.** Each window is judged again with the items of its events dealt anew among them ([`Block::dealt`]): nothing is to
//! be confirmed then beyond chance.
//!
//! Knows a log, vectors and the judge; knows nothing of jobs, texts, or of how a recommender is trained.

use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::evaluate::collaborative::ItemVectors;
use crate::recommend::data::{Event, Log};
use crate::recommend::split::{Case, Part, Split, Target, between};
use crate::worth::correction::{Candidates, Choice, Correction, ItemChoice, correction};
use crate::worth::events::Settings;
use crate::worth::item::Block;
use crate::worth::recommender::Learning;
use crate::worth::text::{Known, Worth};
use crate::worth::whose::Whose;

/// `[windows]` of an evaluation's file.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs)] // every key is documented once, in config/evaluation.toml
pub struct WindowsSpec {
    pub origin_share: f64,
    pub least_events: usize,
    pub permutations: u64,
    pub hidden: usize,
    pub length: usize,
    pub dropout: f64,
    pub batch: usize,
    pub epochs: usize,
    pub patience: usize,
    pub learning_rates: Vec<f64>,
    pub seed: u64,
}

impl WindowsSpec {
    /// How windows are judged; `valid_quantile` of what lies before one trains who judges it.
    pub fn judging(&self, valid_quantile: f64) -> Judging {
        let worth = Settings { seed: self.seed, fold_seed: self.seed, ..Settings::default() };
        Judging { worth, least_events: self.least_events, valid_quantile, permutations: self.permutations }
    }

    /// How the recommender learns that judges.
    pub fn learning(&self) -> Learning {
        Learning {
            hidden: self.hidden,
            length: self.length,
            dropout: self.dropout,
            batch: self.batch,
            epochs: self.epochs,
            patience: self.patience,
            learning_rates: self.learning_rates.clone(),
            seed: self.seed,
        }
    }
}

/// What nights said of items as of a moment, by dense id.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// The vectors that they published: of a reason, or of the evidence.
    pub published: ItemVectors,
    /// Whether that is a reason's.
    pub is_reason: Vec<bool>,
    /// The evidence's.
    pub evidence: ItemVectors,
    /// Those of other accepted reasons; may be empty where nobody wrote any.
    pub others: Vec<Vec<Vec<f32>>>,
}

impl Said {
    /// The reason that was published.
    fn reason(&self, item: usize) -> Option<&[f32]> {
        let is_reason = self.is_reason.get(item).copied().unwrap_or(false);
        self.published.get(item)?.as_deref().filter(|_| is_reason)
    }

    /// The evidence of all items, `[items, width]`, zeros where an item has none.
    fn evidence_of_all(&self, items: usize) -> Result<Vec<f32>> {
        let width = self.evidence.iter().flatten().map(Vec::len).max().unwrap_or(0);
        if width == 0 {
            return Err(nothing("nothing is said of any item"));
        }
        let mut values = vec![0.0; items * width];
        for (place, vector) in values.chunks_exact_mut(width).zip(&self.evidence) {
            if let Some(vector) = vector.as_ref().filter(|vector| vector.len() == width) {
                place.copy_from_slice(vector);
            }
        }
        Ok(values)
    }
}

/// How windows are judged.
#[derive(Debug, Clone)]
pub struct Judging {
    /// How worths are measured.
    pub worth: Settings,
    /// An item with fewer events keeps what it has.
    pub least_events: usize,
    /// This share of the events before a window trains who judges it; the rest tells when to stop.
    pub valid_quantile: f64,
    /// How often each window is judged with dealt labels.
    pub permutations: u64,
}

/// What a recommender of ids alone knows of a window.
#[derive(Debug, Clone)]
pub struct Recommended {
    /// Values of a state and of an item's vector.
    pub width: usize,
    /// Vectors of all items, `[items, width]`.
    pub vectors: Vec<f32>,
    /// States before the cases, `[cases, width]`.
    pub states: Vec<f32>,
}

/// Trains a recommender on the training part of a cut whose test part is the window, and asks it about the window's cases.
pub type Recommend<'a> = dyn Fn(&Split, &[Case<'_>]) -> Result<Recommended> + 'a;

/// What stands of an item.
#[derive(Debug, Clone, PartialEq)]
enum Standing {
    /// What nights publish, as it is from night to night.
    Own,
    /// The evidence, as it is from night to night.
    Evidence,
    /// Another reason, in its words.
    Other(Vec<f32>),
}

/// A window that was judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// Its first moment, and the first one after it: microseconds since 1970, UTC.
    pub window: [i64; 2],
    /// What was found; none where there was too little to judge by.
    pub found: Option<Correction>,
    /// Why nothing was; empty where something was.
    pub why: String,
    /// Of the judgements with dealt labels, those that were confirmed.
    pub confirmed_by_chance: u64,
}

/// What stands from a moment on.
#[derive(Debug, Clone)]
struct Step {
    from: i64,
    /// Items that were judged at this moment or before, with enough others for choices to be confirmed.
    judged: Vec<bool>,
    /// Items whose vector is another one than nights publish.
    changed: Vec<bool>,
}

/// Counts of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// All of them.
    pub events: usize,
    /// Of items that had been judged in a window of enough items, so that they could have another text.
    pub could: usize,
    /// Of items that had another text.
    pub did: usize,
}

/// What windows have brought until now.
#[derive(Debug, Clone)]
pub struct Windows {
    log: Arc<Log>,
    judging: Judging,
    standing: Vec<Standing>,
    judged: Vec<bool>,
    rounds: Vec<Round>,
    steps: Vec<Step>,
}

/// A judgement, before anything follows from it.
struct Judged {
    correction: Correction,
    /// The items that were judged, and what was chosen for each that is to have something else.
    chosen: Vec<(usize, Option<Standing>)>,
    confirmed_by_chance: u64,
}

fn nothing(why: &str) -> Error {
    Error::new(Kind::Input, why)
}

impl Windows {
    /// Nothing is judged yet: all items have what nights publish.
    pub fn new(log: Arc<Log>, judging: Judging) -> Self {
        let items = log.items().len();
        Windows {
            log,
            judging,
            standing: vec![Standing::Own; items],
            judged: vec![false; items],
            rounds: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Judges by the events of a window (microseconds since 1970, the end excluded) what stood in it; `said` is what nights said as of
    /// its start or before. What is confirmed stands from now on.
    ///
    /// # Errors
    /// As [`Worth::of_items`] and what `recommend` says; too little to judge by is no error, but told of in the round.
    pub fn judge(&mut self, window: [i64; 2], said: &Said, recommend: &Recommend<'_>) -> Result<()> {
        let mut round = Round { window, found: None, why: String::new(), confirmed_by_chance: 0 };
        match self.look(window, said, recommend) {
            Ok(Judged { correction, chosen, confirmed_by_chance }) => {
                for (item, standing) in chosen {
                    self.judged[item] |= correction.is_sample();
                    if let Some(standing) = standing.filter(|_| correction.holds) {
                        self.standing[item] = standing;
                    }
                }
                round.confirmed_by_chance = confirmed_by_chance;
                round.found = Some(correction);
            }
            Err(e) if e.kind() == Kind::Input => round.why = e.message().to_owned(),
            Err(e) => return Err(e),
        }
        self.rounds.push(round);
        Ok(())
    }

    fn look(&self, window: [i64; 2], said: &Said, recommend: &Recommend<'_>) -> Result<Judged> {
        let (items, events) = (self.log.items(), self.log.events());
        // What comes after the window is not even there.
        let before = events.partition_point(|event| event.timestamp < window[1]);
        let log = Log::new(self.log.users().to_vec(), items.to_vec(), events[..before].to_vec())?;
        let split = between(&log, window, self.judging.valid_quantile)?;
        let cases = split.cases(Part::Test, Target::Successive);
        if cases.is_empty() {
            return Err(nothing("no event in the window is of a user who was there before"));
        }
        let evidence = said.evidence_of_all(items.len())?;
        let (candidates, meant) = self.candidates(said);
        let mut reasons: Vec<(u32, &[f32])> = Vec::new();
        for of in &candidates {
            reasons.extend(of.current.iter().chain(&of.rewrites).map(|text| (of.item, *text)));
        }
        if reasons.is_empty() {
            return Err(nothing("no item has a reason"));
        }
        let Recommended { width, vectors, states } = recommend(&split, &cases)?;
        let known = Known {
            whose: Whose::Items,
            width,
            vectors: &vectors,
            counts: split.train_counts(),
            ids: log.items(),
            evidence: &evidence,
        };
        let Judging { worth: settings, least_events, permutations, .. } = &self.judging;
        let by = |block: &Block<'_>| -> Result<(Correction, Vec<Option<ItemChoice>>)> {
            let worth = Worth::of_items(&known, block, &reasons, settings)?;
            correction(&worth, &known, &candidates, settings, *least_events)
        };
        let block = Block::of(&cases, &states);
        let (found, choices) = by(&block)?;
        let mut confirmed_by_chance = 0;
        for deal in 0..*permutations {
            confirmed_by_chance += u64::from(by(&block.dealt(deal))?.0.holds);
        }
        let chosen = candidates.iter().zip(meant).zip(choices).filter_map(|((of, meant), choice)| {
            let standing = match choice?.choice {
                Choice::Current => None,
                Choice::Evidence => Some(Standing::Evidence),
                Choice::Rewrite(n) => meant.get(n).cloned(),
            };
            Some((of.item as usize, standing))
        });
        Ok(Judged { correction: found, chosen: chosen.collect(), confirmed_by_chance })
    }

    /// What there is to choose from, of items with evidence; beside each, what its rewrites are.
    fn candidates<'s>(&'s self, said: &'s Said) -> (Vec<Candidates<'s>>, Vec<Vec<Standing>>) {
        let of_item = |(item, standing): (u32, &'s Standing)| {
            let place = item as usize;
            said.evidence.get(place)?.as_ref()?;
            let own = said.reason(place);
            let current = match standing {
                Standing::Own => own,
                Standing::Evidence => None,
                Standing::Other(text) => Some(text.as_slice()),
            };
            let others = said.others.get(place).into_iter().flatten().map(Vec::as_slice);
            let others = others.map(|text| (Standing::Other(text.to_vec()), text));
            let all = own.map(|text| (Standing::Own, text)).into_iter().chain(others);
            let (meant, rewrites): (Vec<Standing>, Vec<&'s [f32]>) =
                all.filter(|(_, text)| Some(*text) != current).unzip();
            Some((Candidates { item, current, rewrites }, meant))
        };
        (0_u32..).zip(&self.standing).filter_map(of_item).unzip()
    }

    /// The vectors of what stands from a moment on (microseconds since 1970), as of which nights said `said`. Where the evidence stands and
    /// there is none, it is what nights publish.
    pub fn stand(&mut self, from: i64, said: &Said) -> ItemVectors {
        let published = |item: usize| said.published.get(item).cloned().flatten();
        let vector = |(item, standing): (usize, &Standing)| match standing {
            Standing::Own => published(item),
            Standing::Evidence => said.evidence.get(item).cloned().flatten().or_else(|| published(item)),
            Standing::Other(text) => Some(text.clone()),
        };
        let vectors: ItemVectors = self.standing.iter().enumerate().map(vector).collect();
        let changed = vectors.iter().enumerate().map(|(item, vector)| *vector != published(item)).collect();
        self.steps.push(Step { from, judged: self.judged.clone(), changed });
        vectors
    }

    /// The windows that were judged, in the order of time.
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// How many of these events are of items that could have, and that had, another text at their moment.
    pub fn reach(&self, events: &[Event]) -> Reach {
        let mut reach = Reach { events: events.len(), ..Reach::default() };
        for event in events {
            let at = self.steps.partition_point(|step| step.from <= event.timestamp);
            let Some(step) = at.checked_sub(1).and_then(|at| self.steps.get(at)) else { continue };
            let is = |flags: &[bool]| flags.get(event.item as usize).copied().unwrap_or(false);
            reach.could += usize::from(is(&step.judged));
            reach.did += usize::from(is(&step.changed));
        }
        reach
    }
}

#[cfg(test)]
mod tests;
