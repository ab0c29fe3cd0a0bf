//! Steps of training: gradients of several batches added up, cut to a largest norm, followed by Adam; and the schedule.
//!
//! Knows gradients and numbers; knows nothing of what is learned.

use burn::tensor::Tensor;

use crate::error::{Error, Kind, Result};
use crate::llm::ops::into_vec;
use crate::network::layers::Pass;
use crate::network::parameters::{Accumulated, Parameters};

/// A learning rate that rises linearly and falls along half a cosine to zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest.
    pub learning_rate: f64,
    /// Steps of rising.
    pub warmup: usize,
    /// All steps.
    pub steps: usize,
}

impl Schedule {
    /// The rate of a step, from 0. The first one learns already, and so does the last.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let falling = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / falling).min(1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// A step under way.
#[derive(Default)]
pub struct Accumulation {
    gradients: Accumulated,
    loss: f64,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stepped {
    /// The sum of its batches' losses.
    pub loss: f64,
    /// The gradient's Euclidean norm, before it was cut.
    pub gradient_norm: f64,
}

impl Accumulation {
    /// Differentiates a batch's part of the step's loss and adds it. Batches that divide by the whole step's total give the
    /// gradient of one large batch.
    ///
    /// # Errors
    /// `Kind::Input` where the loss is no number; `Kind::Temporary` where the device fails.
    pub fn add(&mut self, pass: Pass, loss: Tensor<1>) -> Result<()> {
        let value = into_vec(loss.clone().inner())?.first().copied().unwrap_or(f32::NAN);
        if !value.is_finite() {
            return Err(Error::new(Kind::Input, "training diverged: the loss is no number")
                .hint("lower the learning rate, or cut gradients to a smaller norm"));
        }
        self.loss += f64::from(value);
        self.gradients.merge(pass.gradients(loss)?);
        Ok(())
    }

    /// The gradients so far.
    pub fn gradients(&self) -> &Accumulated {
        &self.gradients
    }

    /// Cuts the gradient to the norm `clip`, where that is above zero, and follows it by one step of Adam.
    ///
    /// # Errors
    /// `Kind::Input` where the gradient is no number; `Kind::Temporary` where the device fails.
    pub fn step(mut self, parameters: &mut Parameters, learning_rate: f64, clip: f64) -> Result<Stepped> {
        let gradient_norm = self.gradients.norm()?;
        if !gradient_norm.is_finite() {
            return Err(
                Error::new(Kind::Input, "training diverged: the gradient is no number").hint("lower the learning rate")
            );
        }
        if clip > 0.0 && gradient_norm > clip {
            self.gradients.scale(clip / gradient_norm);
        }
        parameters.step_by(self.gradients, learning_rate);
        Ok(Stepped { loss: self.loss, gradient_norm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { learning_rate: 1.0, warmup: 3, steps: 13 };
        let rates: Vec<f64> = (0..13).map(|step| schedule.at(step)).collect();
        assert_eq!(rates[..4], [0.25, 0.5, 0.75, 1.0]);
        assert!(rates[3..].windows(2).all(|w| w[0] > w[1]), "{rates:?}");
        assert!((rates[8] - 0.5).abs() < 1e-12 && rates[12] > 0.0);
        assert!(schedule.at(13) < 1e-12 && schedule.at(99) < 1e-12);
        assert_eq!(Schedule { learning_rate: 2.0, warmup: 0, steps: 1 }.at(0), 2.0);
    }
}
