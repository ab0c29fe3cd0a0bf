//! The recommender that says what texts of items are worth: a log-linear model of ids alone, by the learning rate that validates
//! best.
//!
//! Blocks for as long as it takes: not for a tokio worker. Knows a log's cut; knows nothing of texts, or of what is done with it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::error::{Error, Kind, Result};
use crate::llm::device::ComputeDevice;
use crate::recommend::adaptor::{AdaptorConfig, Content};
use crate::recommend::fit::{Plan, Trained, fit_by, mean_ndcg, sequences};
use crate::recommend::item_table::Reading;
use crate::recommend::log_linear::{Config, LogLinear};
use crate::recommend::metrics::Catalogue;
use crate::recommend::split::{Part, Split, Target};
use crate::telemetry::Voice;

/// Items that its softmax has besides the targets of a batch: see [`Config`].
pub const DRAWN: usize = 2000;

/// Its sizes and budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Learning {
    /// Width of item vectors and states.
    pub hidden: usize,
    /// Most items of a history that are looked at.
    pub length: usize,
    /// Dropout of the summed vectors.
    pub dropout: f64,
    /// Targets of a batch.
    pub batch: usize,
    /// Most epochs.
    pub epochs: usize,
    /// Validations without a new best after which training stops.
    pub patience: usize,
    /// All are tried; validation chooses.
    pub learning_rates: Vec<f64>,
    /// Decides first weights and batches.
    pub seed: u64,
}

/// What was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommender {
    /// Events that it was trained on.
    pub events: usize,
    /// Items that these met.
    pub items: usize,
    /// The rate that validation chose.
    pub learning_rate: f64,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// Its NDCG@10 over the last events before what it is to judge, by full ranking.
    pub ndcg: f64,
}

/// Trains it on the training part of a cut; the validation part tells when to stop.
///
/// # Errors
/// `Kind::Input` where there is too little to learn from; `Kind::Config` without a learning rate; `Kind::Interrupted` after a
/// signal; what the device says.
pub fn recommender(
    split: &Split,
    of: &Learning,
    device: &ComputeDevice,
    voice: Voice,
    stop: &CancelToken,
) -> Result<(LogLinear, Recommender)> {
    let counts = split.train_counts();
    let (learned, valid) = (sequences(split), split.cases(Part::Valid, Target::Successive));
    let content = Arc::new(Content { seen: Some(counts.to_vec()), ..Content::default() });
    // As the arm without texts in an evaluation: what training never met is no wrong answer.
    let reading = Reading { seen_only: true, ..Reading::default() };
    let config = Config {
        hidden: of.hidden,
        length: of.length,
        dropout: of.dropout,
        batch: of.batch,
        negatives: DRAWN,
        adaptor: AdaptorConfig::published(),
        reading,
    };
    let train = |rate: f64| -> Result<(LogLinear, Trained)> {
        let plan = Plan { voice, ..Plan::new(of.epochs, of.patience, rate) };
        let mut model = LogLinear::new(counts.len(), config.clone(), Some(content.clone()), of.seed, device)?;
        let since = Catalogue::since(split.first_seen());
        let mut rank = |model: &mut LogLinear| mean_ndcg(model, &valid, since, plan.ranking);
        let trained = fit_by(&mut model, &learned, &valid, &plan, &|| stop.check(), &mut rank)?;
        Ok((model, trained))
    };
    let Some((first, others)) = of.learning_rates.split_first() else {
        return Err(Error::new(Kind::Config, "a recommender wants a learning rate"));
    };
    let (mut model, mut trained) = train(*first)?;
    let mut learning_rate = *first;
    for rate in others {
        let (other, found) = train(*rate)?;
        if found.best_score > trained.best_score {
            (model, trained, learning_rate) = (other, found, *rate);
        }
    }
    let recommender = Recommender {
        events: split.train().len(),
        items: counts.iter().filter(|n| **n > 0).count(),
        learning_rate,
        best_epoch: trained.best_epoch,
        ndcg: trained.best_score,
    };
    tracing::info!(learning_rate, ndcg = trained.best_score, "the recommender is trained");
    Ok((model, recommender))
}
