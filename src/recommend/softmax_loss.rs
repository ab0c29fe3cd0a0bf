//! The loss of a next-item model over the whole catalogue, with its gradient, without ever holding all logits.
//!
//! Knows matrices only. The gradient with respect to the hidden states and to the item table is worked out here, chunk by
//! chunk, and handed back as constants; [`inject`] makes a scalar whose derivative they are, so that the rest of a model
//! is differentiated as usual. The reason is memory and time: through automatic differentiation the logits of 2,048
//! targets over 100,000 items would be held five times over.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::kernels::isa::Isa;
use crate::kernels::softmax::cross_entropy;
use crate::llm::device::ComputeDevice;
use crate::llm::ops::{from_vec, into_vec};
use crate::network::random::Random;

/// What a model of the next item is trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    #[default]
    /// −log softmax of the target over the whole catalogue.
    CrossEntropy,
    /// Generalised binary cross-entropy over the target and `negatives` drawn uniformly from the other items (gSASRec,
    /// arXiv 2308.07192): the target's probability is raised to β = α · (t · (1 − 1/α) + 1/α), where α is the share of
    /// the catalogue that is drawn, and t = `calibration` in [0, 1] says how well the scores shall be calibrated.
    Gbce {
        /// Negatives a target.
        negatives: usize,
        /// t.
        calibration: f64,
    },
}

/// A loss and its derivatives.
pub struct Judged {
    /// Mean over the targets.
    pub value: f64,
    /// With respect to the hidden states, `[n, width]`.
    pub hidden: Tensor<2>,
    /// With respect to the item table, `[items, width]`.
    pub table: Tensor<2>,
}

/// Logits held at a time.
const CHUNK: usize = 1 << 20;

impl Loss {
    /// Judges `hidden` `[n, width]` by `hidden · tableᵀ`, where row `i` should find item `targets[i]`.
    ///
    /// # Errors
    /// `Kind::Internal` where a target lies outside the table or a count is wrong; `Kind::Temporary` where the device
    /// fails.
    pub fn judge(
        self,
        hidden: Tensor<2>,
        table: Tensor<2>,
        targets: &[u32],
        stream: &Random,
        device: &ComputeDevice,
    ) -> Result<Judged> {
        let ([n, width], [items, _]) = (hidden.dims(), table.dims());
        if n == 0 || n != targets.len() || targets.iter().any(|t| *t as usize >= items) {
            return Err(Error::new(Kind::Internal, "the targets do not fit the hidden states or the catalogue"));
        }
        let rows = (CHUNK / items.max(1)).clamp(16, 2048);
        let scale = 1.0 / n as f32;
        let (mut value, mut on_hidden, mut on_table) = (0.0, Vec::new(), Tensor::zeros([items, width], &device.burn));
        for (i, targets) in targets.chunks(rows).enumerate() {
            let from = i * rows;
            let hidden = hidden.clone().slice([from..from + targets.len(), 0..width]);
            let logits = hidden.clone().matmul(table.clone().transpose());
            let (part, on_logits) = if device.is_host {
                self.host_chunk(logits, targets, scale, &stream.child(i as u64), device)?
            } else {
                self.device_chunk(logits, targets, scale, &stream.child(i as u64), device)?
            };
            value += part;
            on_hidden.push(on_logits.clone().matmul(table.clone()));
            on_table = on_table + on_logits.transpose().matmul(hidden);
        }
        Ok(Judged { value: value / n as f64, hidden: Tensor::cat(on_hidden, 0), table: on_table })
    }

    /// Sum of the losses, and `scale` times the derivative by the logits.
    fn host_chunk(
        self,
        logits: Tensor<2>,
        targets: &[u32],
        scale: f32,
        stream: &Random,
        device: &ComputeDevice,
    ) -> Result<(f64, Tensor<2>)> {
        let [n, items] = logits.dims();
        let (isa, mut logits) = (Isa::detect(), into_vec(logits)?);
        let rows = logits.par_chunks_exact_mut(items).zip(targets).enumerate();
        let losses: Vec<f64> = rows
            .map(|(row, (logits, target))| match self {
                Loss::CrossEntropy => cross_entropy(isa, logits, *target as usize, scale),
                Loss::Gbce { negatives, calibration } => {
                    let drawn = draw(items, *target, negatives, &mut stream.child(row as u64));
                    let beta = beta(items, negatives, calibration);
                    binary_cross_entropy(logits, *target as usize, &drawn, beta, scale)
                }
            })
            .collect();
        Ok((losses.iter().sum(), from_vec(logits, [n, items], device)))
    }

    /// As [`Loss::host_chunk`], by generic operations.
    fn device_chunk(
        self,
        logits: Tensor<2>,
        targets: &[u32],
        scale: f32,
        stream: &Random,
        device: &ComputeDevice,
    ) -> Result<(f64, Tensor<2>)> {
        let [n, items] = logits.dims();
        let targets_of_rows: Vec<i32> = targets.iter().map(|t| *t as i32).collect();
        let at: Tensor<2, Int> = Tensor::from_data(TensorData::new(targets_of_rows, [n, 1]), &device.burn);
        let aimed = logits.clone().gather(1, at.clone());
        let on_target = |value: Tensor<2>, all: Tensor<2>| all.scatter(1, at, value, IndexingUpdateOp::Add);
        let (losses, on_logits) = match self {
            Loss::CrossEntropy => {
                let most = logits.clone().max_dim(1);
                let exponentials = (logits - most.clone()).exp();
                let sum = exponentials.clone().sum_dim(1);
                let losses = sum.clone().log() + most - aimed;
                let minus_one = Tensor::full([n, 1], -1.0, &device.burn);
                (losses, on_target(minus_one, exponentials / sum))
            }
            Loss::Gbce { negatives, calibration } => {
                let mut drawn = vec![0.0; n * items];
                for (row, target) in targets.iter().enumerate() {
                    for item in draw(items, *target, negatives, &mut stream.child(row as u64)) {
                        drawn[row * items + item as usize] += 1.0;
                    }
                }
                let drawn = from_vec(drawn, [n, items], device);
                let share = 1.0 / (negatives + 1) as f32;
                let beta = beta(items, negatives, calibration);
                let softplus = |x: Tensor<2>| x.clone().clamp_min(0.0) + (-x.abs()).exp().log1p();
                let losses = (softplus(logits.clone()) * drawn.clone()).sum_dim(1) + softplus(-aimed.clone()) * beta;
                let away = burn::tensor::activation::sigmoid(logits) * drawn;
                let towards = burn::tensor::activation::sigmoid(-aimed) * -beta;
                (losses * share, on_target(towards, away) * share)
            }
        };
        let losses = into_vec(losses)?;
        Ok((losses.into_iter().map(f64::from).sum(), on_logits * scale))
    }
}

/// Items other than the target, drawn uniformly, each draw by itself.
fn draw(items: usize, target: u32, negatives: usize, random: &mut Random) -> Vec<u32> {
    let others = items.saturating_sub(1);
    let past = |i: usize| if i < target as usize { i } else { i + 1 };
    (0..if others == 0 { 0 } else { negatives }).map(|_| past(random.below(others)) as u32).collect()
}

/// Generalised binary cross-entropy of the target and the drawn items; the logits become `scale` times its derivative.
fn binary_cross_entropy(logits: &mut [f32], target: usize, drawn: &[u32], beta: f32, scale: f32) -> f64 {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let share = 1.0 / (drawn.len() + 1) as f64;
    let (aimed, beta) = (f64::from(logits[target]), f64::from(beta));
    let away: Vec<f64> = drawn.iter().map(|i| f64::from(logits[*i as usize])).collect();
    logits.fill(0.0);
    let scale = f64::from(scale) * share;
    for (item, logit) in drawn.iter().zip(&away) {
        logits[*item as usize] += (scale * sigmoid(*logit)) as f32;
    }
    logits[target] -= (scale * beta * sigmoid(-aimed)) as f32;
    share * (beta * softplus(-aimed) + away.iter().map(|x| softplus(*x)).sum::<f64>())
}

/// β of [`Loss::Gbce`].
fn beta(items: usize, negatives: usize, calibration: f64) -> f32 {
    let share = (negatives as f64 / items.saturating_sub(1).max(1) as f64).clamp(f64::MIN_POSITIVE, 1.0);
    (share * (calibration * (1.0 - 1.0 / share) + 1.0 / share)) as f32
}

/// A scalar whose derivative with respect to `x` is `gradient`; its value means nothing.
pub fn inject(x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    (x * gradient).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn matrix(name: &str, rows: usize, columns: usize, scale: f64) -> Vec<f32> {
        let mut random = Random::new(3, name);
        (0..rows * columns).map(|_| (random.normal() * scale) as f32).collect()
    }

    /// The analytic gradient against differences of the loss, on the kernels and on the generic operations.
    #[test]
    fn gradients_are_the_slopes_of_the_loss() {
        let (n, width, items) = (5, 4, 37);
        let (hidden, table) = (matrix("h", n, width, 1.0), matrix("t", items, width, 1.0));
        let targets = [0, 36, 7, 7, 20];
        for loss in [Loss::CrossEntropy, Loss::Gbce { negatives: 9, calibration: 0.75 }] {
            let mut seen: Vec<(f64, Vec<f32>, Vec<f32>)> = Vec::new();
            for device in [ComputeDevice::cpu(), ComputeDevice::cpu_reference()] {
                let judge = |h: &[f32], t: &[f32]| {
                    let (h, t) =
                        (from_vec(h.to_vec(), [n, width], &device), from_vec(t.to_vec(), [items, width], &device));
                    loss.judge(h, t, &targets, &Random::new(1, "judge"), &device).unwrap()
                };
                let judged = judge(&hidden, &table);
                let (on_hidden, on_table) = (into_vec(judged.hidden).unwrap(), into_vec(judged.table).unwrap());
                let step = 1e-2;
                for i in 0..n * width {
                    let at = |by: f32| {
                        let mut hidden = hidden.clone();
                        hidden[i] += by;
                        judge(&hidden, &table).value
                    };
                    let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
                    assert!((slope - f64::from(on_hidden[i])).abs() < 2e-3, "{loss:?} {i}: {slope} {}", on_hidden[i]);
                }
                for i in (0..items * width).step_by(7) {
                    let at = |by: f32| {
                        let mut table = table.clone();
                        table[i] += by;
                        judge(&hidden, &table).value
                    };
                    let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
                    assert!((slope - f64::from(on_table[i])).abs() < 2e-3, "{loss:?} {i}: {slope} {}", on_table[i]);
                }
                seen.push((judged.value, on_hidden, on_table));
            }
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 5e-6);
            assert!((seen[0].0 - seen[1].0).abs() < 1e-5, "{loss:?}: {} {}", seen[0].0, seen[1].0);
            assert!(close(&seen[0].1, &seen[1].1) && close(&seen[0].2, &seen[1].2), "{loss:?}");
        }
    }

    #[test]
    fn cross_entropy_of_equal_scores_is_the_logarithm_of_the_catalogue() {
        let device = ComputeDevice::cpu();
        let (hidden, table) = (Tensor::zeros([3, 4], &device.burn), Tensor::ones([50, 4], &device.burn));
        let judged = Loss::CrossEntropy.judge(hidden, table, &[1, 2, 3], &Random::new(0, ""), &device).unwrap();
        assert!((judged.value - 50f64.ln()).abs() < 1e-6);
        let none = Loss::CrossEntropy.judge(
            Tensor::zeros([1, 4], &device.burn),
            Tensor::ones([5, 4], &device.burn),
            &[5],
            &Random::new(0, ""),
            &device,
        );
        assert!(none.is_err());
    }

    /// t = 1 takes the bias of drawing away in full (β = α), t = 0 not at all (β = 1): plain binary cross-entropy.
    #[test]
    fn calibration_runs_from_one_to_the_share_of_negatives() {
        assert!((beta(101, 25, 0.0) - 1.0).abs() < 1e-6);
        assert!((beta(101, 25, 1.0) - 0.25).abs() < 1e-6);
        let drawn = draw(10, 4, 1000, &mut Random::new(1, "draw"));
        assert!(drawn.iter().all(|i| *i < 10 && *i != 4) && (0..10).all(|i| i == 4 || drawn.contains(&i)));
    }
}
