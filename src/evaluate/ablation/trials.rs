//! Trainings of models of the next item, for every arm, origin and seed, and how each ranks the test part.
//!
//! Knows arms, origins, models and checkpoints; knows nothing of what is measured of a ranking. The two controls that read no
//! texts are made of trainings of A0: A1b sums the scores of two, A0c moves those of the items that training never met.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evaluate::ablation::neighbours::{ByUsers, Held, Mix, Near, some_of};
use crate::evaluate::ablation::training::{Around, Evaluation, Training, best, story, told_name};
use crate::evaluate::arm::Arm;
use crate::evaluate::arms::{Data, Moment, Origin, Told, content};
use crate::network::random::Random;
use crate::recommend::adaptor::{Content, Vectors};
use crate::recommend::fit::{Model, Plan, Trained, fit_by, mean_ndcg, sequences};
use crate::recommend::item_table::{How, Reading};
use crate::recommend::metrics::{Catalogue, Options, Ranked, Scorer, rank_cases};
use crate::recommend::split::{Case, Part, Target};

/// A training at one origin.
pub(super) struct Trial {
    /// How it ranks the cases of the origin, by target.
    pub(super) ranked: Vec<Vec<Ranked>>,
    /// Its NDCG@10 on the validation part.
    pub(super) validated: f64,
}

/// A kind of model.
pub(super) struct Family<'a, C, M> {
    /// In tables and in the names of checkpoints.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    pub(super) training: &'a Training<C>,
    pub(super) make: &'a Make<'a, M>,
}

/// Makes a model from a form, what is told of items and users, and a seed.
type Make<'a, M> = dyn Fn(&Form, Arc<Content>, u64) -> Result<M> + 'a;

/// What validation chooses of a model besides its learning rate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Form {
    pub(super) reading: Reading,
    /// Of item vectors and states; the configured one where there is none.
    pub(super) width: Option<usize>,
    /// In the names of checkpoints, and for people.
    name: String,
}

/// What the first training of an arm at an origin has chosen; the others take it as it is.
type Chosen = Option<(Form, f64, Mix)>;

/// Cases of an origin, by target.
pub(super) type Cases<'a> = Vec<(Target, Vec<Case<'a>>)>;

/// A scorer whose texts can be refreshed.
trait Refreshed: Scorer {
    fn refresh(&mut self, told: &Moment) -> Result<()>;
}

/// A1b: two models' scores summed. They are trained alike but for their seed and, where validation chose another, their rate.
struct Summed<M>([M; 2]);

impl<M: Scorer> Scorer for Summed<M> {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        self.0[0].score(cases, scores)?;
        let mut other = vec![0.0; scores.len()];
        self.0[1].score(cases, &mut other)?;
        scores.iter_mut().zip(other).for_each(|(score, other)| *score += other);
        Ok(())
    }
}

impl<M: Refreshed> Refreshed for Summed<M> {
    fn refresh(&mut self, told: &Moment) -> Result<()> {
        self.0.iter_mut().try_for_each(|model| model.refresh(told))
    }
}

impl<M: Model> Refreshed for Near<'_, M> {
    fn refresh(&mut self, told: &Moment) -> Result<()> {
        Near::refresh(self, &told.near);
        Model::refresh(&mut self.model, &told.vectors)
    }
}

/// Where items that training never met stand among the others. A model has learned from no event of theirs how often they are taken,
/// so their scores are too low by about the same for all; validation, in which some of them are asked for, tells by how much.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Move {
    /// A0c: all at one place, so many deviations of the others' scores above their mean. In A0 these items are all alike, and who asks
    /// for one loses every tie; so that the place decides and not the tie, they stand there in an order drawn by lot, a thousandth
    /// of a deviation wide.
    To(f32),
    /// Those with a text up by so much, in nats; among themselves they stay where the text puts them.
    Up(f32),
}

/// A model that moves the scores of items that training never met.
struct Moved<M> {
    model: M,
    /// For an item that training never met its place in an order by lot, from 0 to 1; nothing for one that it met.
    lots: Vec<Option<f32>>,
    /// Which items have a text.
    present: Vec<bool>,
    /// As the model has them where there is none.
    by: Option<Move>,
}

impl<M> Moved<M> {
    fn new(model: M, counts: &[u32], texts: Option<&Vectors>) -> Self {
        let lots = Random::new(0, "offset");
        let lot = |(item, n): (usize, &u32)| (*n == 0).then(|| lots.child(item as u64).uniform() as f32);
        let present = texts.map_or_else(|| vec![false; counts.len()], present);
        Moved { model, lots: counts.iter().enumerate().map(lot).collect(), present, by: None }
    }
}

/// Which vectors are there.
fn present(vectors: &Vectors) -> Vec<bool> {
    (0..vectors.len()).map(|n| vectors.has(n)).collect()
}

impl<M: Scorer> Scorer for Moved<M> {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        self.model.score(cases, scores)?;
        let Some(by) = self.by else { return Ok(()) };
        scores.par_chunks_exact_mut(self.lots.len().max(1)).for_each(|scores| match by {
            Move::To(by) => {
                let known = || scores.iter().zip(&self.lots).filter(|(_, l)| l.is_none()).map(|(s, _)| f64::from(*s));
                let n = known().count().max(1) as f64;
                let mean = known().sum::<f64>() / n;
                let deviation = (known().map(|score| (score - mean).powi(2)).sum::<f64>() / n).sqrt();
                for (score, lot) in scores.iter_mut().zip(&self.lots) {
                    if let Some(lot) = lot {
                        *score = (mean + f64::from(by + lot * LOTS) * deviation) as f32;
                    }
                }
            }
            Move::Up(by) => {
                for ((score, lot), present) in scores.iter_mut().zip(&self.lots).zip(&self.present) {
                    if lot.is_some() && *present {
                        *score += by;
                    }
                }
            }
        });
        Ok(())
    }
}

impl<M: Refreshed> Refreshed for Moved<M> {
    fn refresh(&mut self, told: &Moment) -> Result<()> {
        self.present = present(&told.vectors);
        self.model.refresh(told)
    }
}

/// How wide the order by lot is, in deviations.
const LOTS: f32 = 1e-3;
/// Where A0c may put items that training never met, in deviations above the mean of the others.
const OFFSETS: [f32; 9] = [0.0, 1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0];
/// Share of the steps from which a free own vector is left out, so that W learns to place items too.
const FREE_DROPOUT: f64 = 0.2;
/// By how much arms with texts may raise them, in nats.
const RAISES: [f32; 14] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 32.0, 64.0];

/// All arms of one family: trials by arm, seed and origin. `cases` are those of each origin, and so is what common `users` tell, where
/// it is added to scores; `seen` is given every model of A0 at the last origin.
pub(super) fn trials<C, M: Model>(
    data: &Data<'_>,
    evaluation: &Evaluation,
    family: &Family<'_, C, M>,
    (cases, users): (&[Cases<'_>], &[ByUsers]),
    around: &mut Around<'_>,
    seen: &mut dyn FnMut(&mut M) -> Result<()>,
) -> Result<Vec<Vec<Vec<Trial>>>> {
    let mut all = Vec::new();
    for arm in &evaluation.arms {
        let mut by_seed: Vec<Vec<Trial>> = (0..evaluation.seeds).map(|_| Vec::new()).collect();
        for (at, cases) in cases.iter().enumerate() {
            let is_seeded = matches!(arm, Arm::Random | Arm::Shuffled);
            let (mut told, mut chosen): (Option<(Arc<Content>, Told)>, Chosen) = (None, None);
            for (seed, trials) in (0..).zip(&mut by_seed) {
                let (content, told) = match &mut told {
                    Some(told) if !is_seeded => told,
                    told => {
                        let made = content(*arm, data, at, seed)?;
                        told.insert((Arc::new(made.content.clone()), made))
                    }
                };
                let work = Work { data, evaluation, family, at, told, content, users: users.get(at) };
                let (mut model, validated) = work.train(*arm, seed, &mut chosen, around)?;
                let trial = match arm {
                    Arm::Ensemble => {
                        let (other, _) = work.train(*arm, seed + evaluation.seeds, &mut chosen, around)?;
                        let mut both = Summed([model, other]);
                        let validated = work.validate(&mut both)?;
                        Trial { ranked: work.rank(&mut both, cases)?, validated }
                    }
                    Arm::Offset => {
                        let (mut moved, validated) = work.moved(model, validated, &OFFSETS.map(Move::To))?;
                        Trial { ranked: work.rank(&mut moved, cases)?, validated }
                    }
                    arm if work.texts().is_some() && arm.reading(evaluation.reading).raise_unseen => {
                        let (mut moved, validated) = work.moved(model, validated, &RAISES.map(Move::Up))?;
                        Trial { ranked: work.rank(&mut moved, cases)?, validated }
                    }
                    arm => {
                        if *arm == Arm::NoText && at + 1 == data.origins.len() {
                            seen(&mut model.model)?;
                        }
                        Trial { ranked: work.rank(&mut model, cases)?, validated }
                    }
                };
                trials.push(trial);
            }
        }
        all.push(by_seed);
    }
    Ok(all)
}

/// The trainings of an arm at an origin.
struct Work<'a, C, M> {
    data: &'a Data<'a>,
    evaluation: &'a Evaluation,
    family: &'a Family<'a, C, M>,
    at: usize,
    told: &'a Told,
    content: &'a Arc<Content>,
    /// What common users tell of items, where it is added to scores.
    users: Option<&'a ByUsers>,
}

impl<'a, C, M: Model> Work<'a, C, M> {
    fn origin(&self) -> Result<&Origin<'_>> {
        self.data.origins.get(self.at).ok_or_else(|| Error::new(Kind::Internal, "an origin is missing"))
    }

    /// The vectors of items, where any item has one.
    fn texts(&self) -> Option<&Vectors> {
        self.content.items.as_ref().filter(|texts| (0..texts.len()).any(|item| texts.has(item)))
    }

    /// What an arm may be: how own vectors are read, and the widths.
    fn forms(&self, arm: Arm) -> Vec<Form> {
        let said = arm.reading(self.evaluation.reading);
        let mut readings = vec![("", said)];
        if said.or_free && said.how == How::Base && self.texts().is_some() {
            readings.extend([("-free", said.free(FREE_DROPOUT)), ("-kept", said.free(0.0))]);
        }
        let mut forms = Vec::new();
        for (name, reading) in readings {
            forms.push(Form { reading, width: None, name: name.to_owned() });
            let wider = self.family.training.widths.iter();
            forms.extend(wider.map(|width| Form { reading, width: Some(*width), name: format!("{name}-{width}") }));
        }
        forms
    }

    /// The best of the family's trainings by validation, with what neighbours add to it, and its score there.
    fn train(&self, arm: Arm, seed: u64, chosen: &mut Chosen, around: &mut Around<'_>) -> Result<(Near<'a, M>, f64)> {
        let Work { data, evaluation, family, at, content, .. } = self;
        let split = self.origin()?.split;
        let (learned, valid) = (sequences(split), split.cases(Part::Valid, Target::Successive));
        let mut train = |model: &mut M, plan: &Plan| {
            let mut rank = |model: &mut M| mean_ndcg(model, &valid, Catalogue::since(split.first_seen()), plan.ranking);
            fit_by(model, &learned, &valid, plan, around.go_on, &mut rank)
        };
        // What differs after training alone is no other training.
        let name = match arm {
            Arm::Ensemble | Arm::Offset => Arm::NoText,
            Arm::ReadUnraised | Arm::ReadFar => Arm::Evidence,
            arm => arm,
        };
        let what = format!("{}-{}-{seed}", at_origin(data, family.name, *at), told_name(data, name, *at));
        let training = family.training;
        let (forms, rates) = match chosen {
            Some((form, rate, _)) => (vec![form.clone()], vec![*rate]),
            None => (self.forms(arm), training.learning_rates.clone()),
        };
        let mut found: Option<(M, Trained, f64, Form)> = None;
        for form in forms {
            let make = || (family.make)(&form, (*content).clone(), seed);
            let what = format!("{what}{}", form.name);
            let (model, trained, rate) = best(evaluation, &what, &rates, &training.plan, &make, &mut train)?;
            if found.as_ref().is_none_or(|(_, so_far, ..)| trained.best_score > so_far.best_score) {
                found = Some((model, trained, rate, form));
            }
        }
        let (model, trained, rate, form) =
            found.ok_or_else(|| Error::new(Kind::Internal, "an arm has no form to train"))?;
        let is_near = self.texts().is_some() && arm.reading(evaluation.reading).near_texts;
        let said = is_near.then_some(&self.told.first.near);
        let mut near = Near::new(model, self.users, said, &evaluation.device);
        let mut validated = trained.best_score;
        let mut mix = match chosen {
            Some((.., mix)) => *mix,
            None => near.choose(split)?,
        };
        near = near.mixed(mix);
        if mix != Mix::default() {
            let with = self.validate(&mut near)?;
            // It was chosen by some of the cases.
            if chosen.is_none() && with < validated {
                mix = Mix::default();
                near = near.mixed(mix);
            } else {
                validated = with;
            }
        }
        let told = (rate, form.name.trim_start_matches('-'));
        let line = story(data, family.title, arm, *at, seed, &trained, told);
        (around.say)(if mix == Mix::default() { line } else { format!("{line}; with {mix} {validated:.4}") });
        *chosen = Some((form, rate, mix));
        (around.go_on)()?;
        Ok((near, validated))
    }

    /// The model, with items that training never met moved as validation likes best, and its score there.
    fn moved<S: Scorer>(&self, model: S, validated: f64, moves: &[Move]) -> Result<(Moved<S>, f64)> {
        let split = self.origin()?.split;
        let (counts, valid) = (split.train_counts(), split.cases(Part::Valid, Target::Successive));
        let (some, since) = (some_of(&valid, counts.len()), Catalogue::since(split.first_seen()));
        let mut moved = Moved::new(model, counts, self.texts());
        let mut held = vec![vec![0.0; some.len() * counts.len()]];
        moved.score(&some, &mut held[0])?;
        let reached = |by: Option<Move>| {
            let model = Held::new(&held, Mix::default());
            let mut tried = Moved { by, ..Moved::new(model, counts, self.texts()) };
            mean_ndcg(&mut tried, &some, since, Options::default())
        };
        let mut best = (None, reached(None)?);
        for by in moves {
            let score = reached(Some(*by))?;
            if score > best.1 {
                best = (Some(*by), score);
            }
        }
        moved.by = best.0;
        let with = if moved.by.is_some() { self.validate(&mut moved)? } else { validated };
        if with < validated {
            moved.by = None;
        }
        Ok((moved, with.max(validated)))
    }

    /// NDCG@10 on the validation part.
    fn validate(&self, model: &mut dyn Scorer) -> Result<f64> {
        let split = self.origin()?.split;
        let valid = split.cases(Part::Valid, Target::Successive);
        mean_ndcg(model, &valid, Catalogue::since(split.first_seen()), Options::default())
    }

    /// How a model ranks the test part, by target; every case sees the texts of its moment.
    fn rank(&self, model: &mut dyn Refreshed, cases: &Cases<'_>) -> Result<Vec<Vec<Ranked>>> {
        let (told, since) = (self.told, self.origin()?.split.first_seen());
        let mut by_target = Vec::new();
        for (_, cases) in cases {
            let mut ranked: Vec<(usize, Ranked)> = Vec::with_capacity(cases.len());
            for (later, places) in told.windows(cases) {
                if !told.later.is_empty() {
                    model.refresh(later.unwrap_or(&told.first))?;
                }
                let of_window: Vec<Case<'_>> = places.iter().map(|place| cases[*place]).collect();
                let found = ranked_cases(model, &of_window, since)?;
                ranked.extend(places.into_iter().zip(found));
            }
            ranked.sort_unstable_by_key(|(place, _)| *place);
            by_target.push(ranked.into_iter().map(|(_, ranked)| ranked).collect());
        }
        Ok(by_target)
    }
}

/// Items in a list of recommendations.
pub(super) const TOP: u32 = 10;

/// Ranks cases among the items that are there at each one's moment.
pub(super) fn ranked_cases<S: Scorer + ?Sized>(
    model: &mut S,
    cases: &[Case<'_>],
    since: &[i64],
) -> Result<Vec<Ranked>> {
    let options = Options { top: TOP as usize, ..Options::default() };
    rank_cases(&mut Scored(model), cases, Catalogue::since(since), options)
}

/// A scorer of whatever kind.
struct Scored<'a, S: ?Sized>(&'a mut S);

impl<S: Scorer + ?Sized> Scorer for Scored<'_, S> {
    fn score(&mut self, cases: &[Case<'_>], scores: &mut [f32]) -> Result<()> {
        self.0.score(cases, scores)
    }
}

/// A data set and a family in the names of checkpoints, with the origin where there are several.
pub(super) fn at_origin(data: &Data<'_>, family: &str, origin: usize) -> String {
    match data.origins.len() {
        0 | 1 => format!("{}-{family}", data.name),
        _ => {
            let label = data.origins.get(origin).map_or("", |origin| origin.label.as_str());
            format!("{}-{label}-{family}", data.name)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::evaluate::baseline::tests::Fixed;

    #[test]
    fn controls_move_and_sum_scores() {
        let case = Case { user: 0, history: &[0], target: 0, rating: None, timestamp: 0 };
        let mut scores = [0.0; 4];
        let mut both = Summed([Fixed(vec![1.0, 2.0, 3.0, 4.0]), Fixed(vec![0.5; 4])]);
        both.score(&[case], &mut scores).unwrap();
        assert_eq!(scores, [1.5, 2.5, 3.5, 4.5]);
        // Met items have 1 and 3: mean 2, deviation 1.
        let texts = Vectors::new(1, vec![1.0; 4], vec![true, true, true, false]).unwrap();
        let of = |by| Moved { by, ..Moved::new(Fixed(vec![1.0, -12.0, 3.0, -12.0]), &[1, 0, 1, 0], Some(&texts)) };
        of(Some(Move::To(2.0))).score(&[case], &mut scores).unwrap();
        assert!(scores[0] == 1.0 && scores[2] == 3.0 && scores[1] != scores[3], "{scores:?}");
        assert!([1, 3].iter().all(|item| (scores[*item] - 4.0).abs() < 2e-3), "{scores:?}");
        of(None).score(&[case], &mut scores).unwrap();
        assert_eq!(scores, [1.0, -12.0, 3.0, -12.0]);
        // What was met, and what has no text, stays.
        of(Some(Move::Up(3.0))).score(&[case], &mut scores).unwrap();
        assert_eq!(scores, [1.0, -9.0, 3.0, -12.0]);
    }
}
