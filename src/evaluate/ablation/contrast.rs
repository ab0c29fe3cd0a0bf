//! What tells arms apart: which are compared, and the rows of what was measured, with intervals and corrected p-values.
//!
//! Knows arms and statistics; knows nothing of recommenders.

use crate::error::Result;
use crate::evaluate::arm::Arm;
use crate::evaluate::results::{Contrasted, Measurement};
use crate::statistics::{Contrast, holm, over_seeds, paired_bootstrap};

/// Which arms are compared: each with no text, and those whose difference says something of its own.
fn pairs(arms: &[Arm]) -> Vec<(usize, usize)> {
    let at = |arm: Arm| arms.iter().position(|a| *a == arm);
    let against_nothing = arms.iter().filter(|a| **a != Arm::NoText).map(|a| (*a, Arm::NoText));
    let others = [
        (Arm::Attributes, Arm::Random),
        (Arm::Evidence, Arm::Random),
        (Arm::Evidence, Arm::Offset),
        (Arm::Evidence, Arm::Ensemble),
        (Arm::Evidence, Arm::Attributes),
        (Arm::Projected, Arm::Evidence),
        (Arm::Projected, Arm::ProjectedAlone),
        (Arm::Words, Arm::Evidence),
        (Arm::Words, Arm::WordsAlone),
        (Arm::Words, Arm::Ensemble),
        (Arm::AlignedWords, Arm::Words),
        (Arm::AlignedWords, Arm::Evidence),
        (Arm::AlignedWords, Arm::Attributes),
        (Arm::AlignedWords, Arm::Ensemble),
        (Arm::AlignedBoth, Arm::Evidence),
        (Arm::AlignedBoth, Arm::Aligned),
        (Arm::AlignedBoth, Arm::Ensemble),
        (Arm::AlignedBothWords, Arm::Words),
        (Arm::AlignedBothWords, Arm::AlignedWords),
        (Arm::AlignedBothWords, Arm::Evidence),
        (Arm::AlignedBothWords, Arm::Ensemble),
        (Arm::Evidence, Arm::Scalars),
        (Arm::ScalarsBeside, Arm::Evidence),
        (Arm::Evidence, Arm::ReadBeside),
        (Arm::Evidence, Arm::ReadKept),
        (Arm::Evidence, Arm::ReadFree),
        (Arm::Evidence, Arm::ReadEqual),
        (Arm::Evidence, Arm::ReadAll),
        (Arm::Evidence, Arm::ReadUnraised),
        (Arm::Evidence, Arm::ReadFar),
        (Arm::ZeroShot, Arm::Attributes),
        (Arm::ZeroShot, Arm::Evidence),
        (Arm::Aligned, Arm::Evidence),
        (Arm::Reinforced, Arm::Evidence),
        (Arm::Corrected, Arm::Evidence),
        (Arm::Corrected, Arm::Attributes),
        (Arm::Aligned, Arm::Attributes),
        (Arm::Aligned, Arm::ZeroShot),
        (Arm::Templates, Arm::Aligned),
        (Arm::Beside, Arm::Attributes),
        (Arm::Beside, Arm::Aligned),
        (Arm::Sampled, Arm::Aligned),
        (Arm::BestOf, Arm::Aligned),
        (Arm::Weighted, Arm::Aligned),
        (Arm::Reinforced, Arm::Aligned),
        (Arm::Reinforced, Arm::BestOf),
        (Arm::Corrected, Arm::Reinforced),
        (Arm::CorrectedAligned, Arm::Aligned),
        (Arm::ItemsCorrected, Arm::Aligned),
        (Arm::ItemsCorrected, Arm::Evidence),
        (Arm::ItemsCorrected, Arm::Attributes),
        (Arm::ItemsCorrectedWords, Arm::AlignedWords),
        (Arm::ItemsCorrectedWords, Arm::Words),
        (Arm::ItemsCorrectedWords, Arm::Evidence),
        (Arm::ItemsCorrectedWords, Arm::Attributes),
        (Arm::ItemsCorrectedWords, Arm::Ensemble),
        (if arms.contains(&Arm::Corrected) { Arm::Corrected } else { Arm::ZeroShot }, Arm::Shuffled),
        (Arm::ZeroShot, Arm::Anonymous),
    ];
    against_nothing.chain(others).filter_map(|(arm, other)| Some((at(arm)?, at(other)?))).collect()
}

/// Labels of a table's rows.
pub(super) struct Place<'a> {
    pub(super) data: &'a str,
    pub(super) recommender: &'a str,
    pub(super) target: &'a str,
    pub(super) metric: String,
    pub(super) tier: &'a str,
}

impl Place<'_> {
    pub(super) fn measurement(
        &self,
        arm: &str,
        cases: usize,
        by_seed: Vec<f64>,
        confidence: f64,
    ) -> Result<Measurement> {
        let interval = over_seeds(&by_seed, confidence)?;
        Ok(Measurement {
            data: self.data.into(),
            recommender: self.recommender.into(),
            arm: arm.into(),
            target: self.target.into(),
            metric: self.metric.clone(),
            tier: self.tier.into(),
            cases: cases as u64,
            by_seed,
            interval,
        })
    }

    /// A family of contrasts, corrected together.
    pub(super) fn contrasts(
        &self,
        arms: &[Arm],
        of_pair: &dyn Fn(usize, usize) -> Result<Contrast>,
    ) -> Result<Vec<Contrasted>> {
        let pairs = pairs(arms);
        let found: Vec<Contrast> = pairs.iter().map(|(arm, other)| of_pair(*arm, *other)).collect::<Result<_>>()?;
        let corrected = holm(&found.iter().map(|c| c.p).collect::<Vec<f64>>());
        let row = |((pair, contrast), p_holm): ((&(usize, usize), Contrast), f64)| Contrasted {
            data: self.data.into(),
            recommender: self.recommender.into(),
            target: self.target.into(),
            metric: self.metric.clone(),
            tier: self.tier.into(),
            arm: arms[pair.0].code().into(),
            against: arms[pair.1].code().into(),
            users: contrast.users,
            contrast,
            p_holm,
        };
        Ok(pairs.iter().zip(found).zip(corrected).map(row).collect())
    }
}

/// Differences by training, drawn anew together with users.
pub(super) fn bootstrap(
    differences: impl Iterator<Item = Vec<f64>>,
    users: &[u32],
    resamples: usize,
    confidence: f64,
) -> Result<Contrast> {
    let differences: Vec<Vec<f64>> = differences.collect();
    let slices: Vec<&[f64]> = differences.iter().map(Vec::as_slice).collect();
    paired_bootstrap(&slices, users, resamples, confidence, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_compared_in_their_order() {
        let named = |arms: &[Arm]| -> Vec<String> {
            pairs(arms).iter().map(|(a, b)| format!("{}-{}", arms[*a].code(), arms[*b].code())).collect()
        };
        let all = named(&Arm::ALL);
        for pair in [
            "A2r-A0c", "A2r-A1b", "A2c-A2r", "A2r-A2x", "A2rx-A2r", "A2r-A2rs", "A2r-A2rn", "A4-A2r", "A6-A2r",
            "A6-A2", "A3-A2", "A4-A3", "A4b-A4", "A4e-A2", "A4s-A4", "A4r-A2r", "A4r-A4", "A4rw-A2w", "A4rw-A4w",
            "A5a-A4", "A5b-A4", "A5-A5a", "A6-A5", "A6n-A4", "A6i-A4", "A6i-A2r", "A6w-A4w", "A6w-A2w", "A6w-A2",
            "A6-A7",
        ] {
            assert!(all.contains(&pair.to_owned()), "{pair}: {all:?}");
        }
        assert!(!all.contains(&"A3-A7".to_owned()), "A7 has the texts of A6 here");
        assert_eq!(named(&[Arm::NoText, Arm::ZeroShot, Arm::Shuffled]), ["A3-A0", "A7-A0", "A3-A7"]);
    }
}
