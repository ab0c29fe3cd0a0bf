//! From the vectors of texts to the space of co-consumption: ridge regression, cross-fitted.
//!
//! Entities are dealt into folds by the digests of their ids, and a map of fold k learns from all folds but k. So the
//! feature of an entity is made by a map that was not fitted to the entity's own row, its text and its target: what the
//! feature tells is what texts like it go with, for an old entity just as for one that came tonight. Without that a
//! wide text vector would carry its own target over, and a ranker would trust what new items cannot have (Chernozhukov
//! et al. 2018, cross-fitting). Targets of other rows are what the caller gives: where they come from one factorisation of
//! a log, the entity's events have had a part in them.
//!
//! Knows vectors, ids and weights; knows nothing of files, of where vectors come from, or of what is done with them.

use std::collections::BTreeSet;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::project::linear::solve;

/// Rows whose products are summed before the next ones are looked at: as many as stay near the processor.
const BLOCK: usize = 512;

/// What one entity teaches.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Its id.
    pub id: &'a str,
    /// The vector of its text.
    pub text: &'a [f32],
    /// Where it stands in the space.
    pub target: &'a [f64],
    /// How much it counts.
    pub weight: f64,
}

/// A linear map with a constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    input: usize,
    output: usize,
    /// `[input + 1, output]`, the constant last.
    values: Vec<f32>,
}

impl Affine {
    /// From `[input + 1, output]` values, row by row, the constant last.
    ///
    /// # Errors
    /// `Kind::Internal` for another number of values, or one that is not finite.
    pub fn new(input: usize, output: usize, values: Vec<f32>) -> Result<Affine> {
        match values.len() == (input + 1) * output && values.iter().all(|v| v.is_finite()) {
            true => Ok(Affine { input, output, values }),
            false => Err(Error::new(Kind::Internal, "a map's values are not what its sizes say, or no numbers")),
        }
    }

    /// The values, `[input + 1, output]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The image of a vector of `input` values; what is missing counts as 0. Summed in double precision, in order.
    pub fn apply(&self, text: &[f32]) -> Vec<f32> {
        let (linear, constant) = self.values.split_at(self.input * self.output);
        let mut sums: Vec<f64> = constant.iter().map(|c| f64::from(*c)).collect();
        for (row, x) in linear.chunks_exact(self.output.max(1)).zip(text) {
            sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*x) * f64::from(*w));
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }
}

/// A map for each fold, and one for entities that none has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossFitted {
    folds: Vec<Affine>,
    whole: Affine,
    /// Digests of the ids that were learned from, ascending; `None`: each id counts as one of them.
    known: Option<Vec<u64>>,
}

/// Bytes of the digest of an id, from `place` on, as a number.
fn number(id: &str, place: usize) -> u64 {
    blake3::hash(id.as_bytes()).as_bytes().iter().skip(place).take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// The fold of an id.
pub fn fold_of(id: &str, folds: usize) -> usize {
    (number(id, 0) % folds.max(1) as u64) as usize
}

/// Weighted sums over the rows of a fold.
struct Sums {
    weight: f64,
    x: Vec<f64>,
    y: Vec<f64>,
    /// `[input, input]`, the lower half.
    xx: Vec<f64>,
    /// `[input, output]`.
    xy: Vec<f64>,
}

impl Sums {
    fn none(input: usize, output: usize) -> Sums {
        Sums {
            weight: 0.0,
            x: vec![0.0; input],
            y: vec![0.0; output],
            xx: vec![0.0; input * input],
            xy: vec![0.0; input * output],
        }
    }

    /// Each value is summed by one thread, in the order of the rows.
    fn of(rows: &[&Row<'_>], input: usize, output: usize) -> Sums {
        let mut sums = Sums::none(input, output);
        for row in rows {
            sums.weight += row.weight;
            sums.x.iter_mut().zip(row.text).for_each(|(to, x)| *to += row.weight * f64::from(*x));
            sums.y.iter_mut().zip(row.target).for_each(|(to, y)| *to += row.weight * y);
        }
        for block in rows.chunks(BLOCK) {
            let products = sums.xx.par_chunks_exact_mut(input).zip(sums.xy.par_chunks_exact_mut(output));
            products.enumerate().for_each(|(i, (xx, xy))| {
                for row in block {
                    let x = row.weight * f64::from(row.text[i]);
                    xx[..=i].iter_mut().zip(row.text).for_each(|(to, other)| *to += x * f64::from(*other));
                    xy.iter_mut().zip(row.target).for_each(|(to, y)| *to += x * y);
                }
            });
        }
        sums
    }

    fn add(&mut self, other: &Sums) {
        self.weight += other.weight;
        let all =
            [(&mut self.x, &other.x), (&mut self.y, &other.y), (&mut self.xx, &other.xx), (&mut self.xy, &other.xy)];
        for (to, from) in all {
            to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        }
    }

    /// The map with the least weighted squared error, with `ridge` times the mean variance of the inputs as the price
    /// of a squared weight (Hoerl and Kennard 1970). The constant is free.
    fn fitted(&self, ridge: f64) -> Result<Affine> {
        let (input, output) = (self.x.len(), self.y.len());
        if self.weight <= 0.0 {
            return Affine::new(input, output, vec![0.0; (input + 1) * output]);
        }
        let mean = |sum: &f64| sum / self.weight;
        let (x, y): (Vec<f64>, Vec<f64>) = (self.x.iter().map(mean).collect(), self.y.iter().map(mean).collect());
        let mut a = vec![0.0; input * input];
        for i in 0..input {
            for j in 0..=i {
                a[i * input + j] = self.xx[i * input + j] / self.weight - x[i] * x[j];
            }
        }
        let mut b: Vec<f64> =
            (0..input * output).map(|at| self.xy[at] / self.weight - x[at / output] * y[at % output]).collect();
        let variance = (0..input).map(|i| a[i * input + i].max(0.0)).sum::<f64>() / input.max(1) as f64;
        // Of texts that are all alike nothing is learned but the mean.
        match variance > 1e-12 {
            true => {
                (0..input).for_each(|i| a[i * input + i] += ridge * variance);
                solve(a, input, &mut b, output)?;
            }
            false => b.fill(0.0),
        }
        let constant = (0..output).map(|k| y[k] - (0..input).map(|i| x[i] * b[i * output + k]).sum::<f64>());
        let constant: Vec<f64> = constant.collect();
        Affine::new(input, output, b.iter().chain(&constant).map(|v| *v as f32).collect())
    }
}

impl CrossFitted {
    /// Learns from `rows`, which stand in the order of their ids: one map for each of `folds` folds, and one of all of
    /// them. With `is_new_told` entities that are not among the rows get the latter; else each entity gets the map of
    /// its fold, and nothing is kept by which one could tell who was among the rows.
    ///
    /// # Errors
    /// `Kind::Internal` for rows of different widths, fewer than two folds, a ridge that is not above 0, and for
    /// numbers that are none.
    pub fn fit(rows: &[Row<'_>], folds: usize, ridge: f64, is_new_told: bool) -> Result<CrossFitted> {
        let (input, output) = rows.first().map_or((0, 0), |row| (row.text.len(), row.target.len()));
        let is_sound = |row: &Row<'_>| {
            let is_finite = row.text.iter().all(|x| x.is_finite()) && row.target.iter().all(|y| y.is_finite());
            (row.text.len(), row.target.len()) == (input, output)
                && is_finite
                && row.weight >= 0.0
                && row.weight.is_finite()
        };
        if input == 0 || output == 0 || folds < 2 || ridge.is_nan() || ridge <= 0.0 || !rows.iter().all(is_sound) {
            return Err(Error::new(Kind::Internal, "a map cannot be learned of these rows, folds and ridge"));
        }
        let mut dealt: Vec<Vec<&Row<'_>>> = vec![Vec::new(); folds];
        for row in rows {
            dealt[fold_of(row.id, folds)].push(row);
        }
        let sums: Vec<Sums> = dealt.iter().map(|rows| Sums::of(rows, input, output)).collect();
        // Sums of the others, and never all less its own: what was added and taken away again would leave a trace.
        let of_others = |left_out: Option<usize>| {
            let mut all = Sums::none(input, output);
            let others = sums.iter().enumerate().filter(|(fold, _)| Some(*fold) != left_out);
            others.for_each(|(_, sums)| all.add(sums));
            all
        };
        let fitted = (0..folds).into_par_iter().map(|fold| of_others(Some(fold)).fitted(ridge));
        let fitted: Vec<Affine> = fitted.collect::<Result<_>>()?;
        let known = is_new_told.then(|| {
            let numbers: BTreeSet<u64> = rows.iter().map(|row| number(row.id, 8)).collect();
            numbers.into_iter().collect()
        });
        CrossFitted::of(fitted, of_others(None).fitted(ridge)?, known)
    }

    /// From its parts. `known` are digests of ids, ascending.
    ///
    /// # Errors
    /// `Kind::Internal` where the maps have different sizes, or the digests are not in order.
    pub fn of(folds: Vec<Affine>, whole: Affine, known: Option<Vec<u64>>) -> Result<CrossFitted> {
        let is_alike = |map: &Affine| (map.input, map.output) == (whole.input, whole.output);
        let is_ordered = known.as_ref().is_none_or(|known| known.is_sorted_by(|a, b| a < b));
        match !folds.is_empty() && folds.iter().all(is_alike) && is_ordered {
            true => Ok(CrossFitted { folds, whole, known }),
            false => Err(Error::new(Kind::Internal, "the parts of a map do not fit together")),
        }
    }

    /// The maps of the folds.
    pub fn folds(&self) -> &[Affine] {
        &self.folds
    }

    /// The map of all folds.
    pub fn whole(&self) -> &Affine {
        &self.whole
    }

    /// Digests of the ids that were learned from, ascending; `None` where nobody can tell.
    pub fn known(&self) -> Option<&[u64]> {
        self.known.as_deref()
    }

    /// Values of a text's vector.
    pub fn input(&self) -> usize {
        self.whole.input
    }

    /// Values of an image.
    pub fn output(&self) -> usize {
        self.whole.output
    }

    /// Where the text of an entity leads: by a map that has not learned from the entity's row. `None` for a vector of zeros, which is
    /// the vector of no text.
    ///
    /// # Errors
    /// `Kind::Internal` for a vector of another width.
    pub fn apply(&self, id: &str, text: &[f32]) -> Result<Option<Vec<f32>>> {
        if text.len() != self.input() {
            return Err(Error::new(Kind::Internal, "a text's vector is not as wide as those that the map has learned")
                .with("width", text.len())
                .with("learned", self.input()));
        }
        if text.iter().all(|x| *x == 0.0) {
            return Ok(None);
        }
        let is_new = self.known.as_ref().is_some_and(|known| known.binary_search(&number(id, 8)).is_err());
        let map = if is_new { &self.whole } else { &self.folds[fold_of(id, self.folds.len())] };
        Ok(Some(map.apply(text)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::network::random::Random;

    struct World {
        ids: Vec<String>,
        texts: Vec<Vec<f32>>,
        targets: Vec<Vec<f64>>,
    }

    const TURN: [[f64; 2]; 4] = [[1.0, 0.5], [-0.5, 0.25], [0.0, 1.0], [2.0, -1.0]];

    impl World {
        /// Targets are a linear function of the texts, plus 3 and -1, plus noise.
        fn new(entities: usize, noise: f64) -> World {
            let mut random = Random::new(3, "world");
            let (mut texts, mut targets) = (Vec::new(), Vec::new());
            for _ in 0..entities {
                let text: Vec<f32> = (0..4).map(|_| random.normal() as f32).collect();
                let of = |k: usize| text.iter().zip(TURN).map(|(x, row)| f64::from(*x) * row[k]).sum::<f64>();
                targets.push(vec![of(0) + 3.0 + noise * random.normal(), of(1) - 1.0 + noise * random.normal()]);
                texts.push(text);
            }
            World { ids: (0..entities).map(|i| format!("i{i:04}")).collect(), texts, targets }
        }

        fn rows(&self) -> Vec<Row<'_>> {
            let all = self.ids.iter().zip(&self.texts).zip(&self.targets);
            all.map(|((id, text), target)| Row { id, text, target, weight: 1.0 }).collect()
        }
    }

    #[test]
    fn a_planted_linear_relation_is_found() {
        let world = World::new(400, 0.0);
        let map = CrossFitted::fit(&world.rows(), 5, 1e-6, true).unwrap();
        for row in world.rows() {
            let found = map.apply(row.id, row.text).unwrap().unwrap();
            assert!(found.iter().zip(row.target).all(|(f, y)| (f64::from(*f) - y).abs() < 1e-3), "{found:?}");
        }
        // With a high price nothing is left but the mean.
        let still =
            CrossFitted::fit(&world.rows(), 5, 1e9, true).unwrap().apply("i0000", &world.texts[0]).unwrap().unwrap();
        assert!((still[0] - 3.0).abs() < 0.5 && (still[1] + 1.0).abs() < 0.5, "{still:?}");
    }

    #[test]
    fn an_entitys_own_row_changes_no_bit_of_its_feature() {
        let mut world = World::new(60, 0.5);
        let of = |world: &World, i: usize| {
            let map = CrossFitted::fit(&world.rows(), 5, 0.3, true).unwrap();
            map.apply(&world.ids[i], &world.texts[i]).unwrap().unwrap()
        };
        let (own, other) = (of(&world, 7), of(&world, 8));
        world.targets[7] = vec![1e3, -1e3];
        assert_eq!(of(&world, 7), own);
        let is_of_same_fold = fold_of(&world.ids[7], 5) == fold_of(&world.ids[8], 5);
        assert_eq!(of(&world, 8) == other, is_of_same_fold);
    }

    #[test]
    fn who_is_new_gets_the_map_of_all_where_that_can_be_told() {
        let world = World::new(60, 0.5);
        let text = &world.texts[0];
        let told = CrossFitted::fit(&world.rows(), 5, 0.3, true).unwrap();
        assert_eq!(told.apply("new", text).unwrap(), Some(told.whole().apply(text)));
        assert_eq!(told.apply("i0000", text).unwrap(), Some(told.folds()[fold_of("i0000", 5)].apply(text)));
        let untold = CrossFitted::fit(&world.rows(), 5, 0.3, false).unwrap();
        assert!(untold.known().is_none());
        assert_eq!(untold.apply("new", text).unwrap(), Some(untold.folds()[fold_of("new", 5)].apply(text)));
        assert_eq!(told.apply("i0000", &[0.0; 4]).unwrap(), None);
        assert!(told.apply("i0000", &[0.0; 3]).is_err());
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let world = World::new(1200, 0.5);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| CrossFitted::fit(&world.rows(), 5, 0.3, true).unwrap())
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn rows_that_cannot_be_learned_from_are_refused_or_teach_the_mean() {
        let mut world = World::new(30, 0.5);
        assert!(CrossFitted::fit(&[], 5, 0.3, true).is_err());
        assert!(CrossFitted::fit(&world.rows(), 1, 0.3, true).is_err());
        assert!(CrossFitted::fit(&world.rows(), 5, 0.0, true).is_err());
        world.texts = vec![vec![0.5; 4]; 30];
        let map = CrossFitted::fit(&world.rows(), 5, 0.3, true).unwrap();
        assert!(map.apply("i0000", &[0.5; 4]).unwrap().unwrap().iter().all(|x| x.is_finite()));
        world.texts[3] = vec![f32::NAN; 4];
        assert!(CrossFitted::fit(&world.rows(), 5, 0.3, true).is_err());
    }
}
