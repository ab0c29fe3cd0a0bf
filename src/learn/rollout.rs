//! Rollouts: several answers of one prompt by the policy of now, through the batched generator.
//!
//! The policy is the frozen base with the adapter of now merged in: the base's tensors stay in host memory (4 bytes a
//! parameter), so that no new policy reads the model's files again. The answers of a prompt go in next to each other: the
//! batcher prefills their prompt once. Knows tokens and texts; knows nothing of rewards.
//!
//! The generator's own log-probabilities are not used to learn from: it computes by its own kernels, in another order and
//! maybe in fewer bits than what is differentiated. The old policy's are recomputed by
//! [`TrainableLm::target_logprobs`](crate::learn::trainable::TrainableLm::target_logprobs) on the sampled tokens, so that the
//! ratio of a step that has not moved yet is exactly one.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::generate::device_thread::{EngineOptions, EngineUsage};
use crate::generate::engine::Engine;
use crate::generate::row::{Completion, Finish, Request, RowError};
use crate::learn::trainable::TrainableLm;
use crate::llm::adapter::{Adapter, AdapterShape};
use crate::llm::decoder::CausalLm;
use crate::llm::decoder_config::DecoderConfig;
use crate::llm::device::ComputeDevice;
use crate::llm::sampler::Sampling;
use crate::llm::tensor_files::HostTensor;
use crate::llm::tokenizer::Tokenizer;
use crate::llm::weights::ModelFiles;

/// A question for the policy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// The caller's number for it.
    pub number: usize,
    /// Its tokens, with what the answer begins with.
    pub tokens: Vec<u32>,
    /// The answer that was taught, with the token that ends it: the anchor. Empty where there is none.
    pub taught: Vec<u32>,
    /// What became of it.
    pub label: bool,
    /// Third of the items by popularity, 0 the least popular.
    pub tercile: usize,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampled {
    /// Its tokens, with the token that ended it where one did; empty where the row failed.
    pub tokens: Vec<u32>,
    /// Its text, cut before a stop text.
    pub text: String,
    /// It came to the most tokens that it may have.
    pub is_cut: bool,
    /// Tokens of its prompt that were not prefilled again.
    pub cached_tokens: u32,
}

/// A frozen model in host memory.
pub struct Base {
    config: DecoderConfig,
    tensors: BTreeMap<String, HostTensor>,
}

impl Base {
    /// Reads a model, and merges the adapter that is to be part of the reference.
    ///
    /// # Errors
    /// `Kind::Model` where a tensor is missing.
    pub fn load(files: &ModelFiles, adapter: Option<&Adapter>) -> Result<Base> {
        let read = |(name, _): (String, Vec<usize>)| {
            let tensor = files.tensor(&name)?;
            let tensor = match adapter {
                Some(adapter) => adapter.merge(&name, tensor),
                None => tensor,
            };
            Ok((name, tensor))
        };
        let tensors: Result<_> = files.config().tensors().into_iter().map(read).collect();
        Ok(Base { config: files.config().clone(), tensors: tensors? })
    }

    /// What the model looks like.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let found = self.tensors.get(name).cloned();
        found.ok_or_else(|| Error::new(Kind::Model, "the model lacks a tensor").with("tensor", name))
    }

    /// The model with a fresh adapter beside it; without that adapter it is the reference.
    ///
    /// # Errors
    /// As [`TrainableLm::from_tensors`].
    pub fn trainable(&self, shape: &AdapterShape, seed: u64, device: &ComputeDevice) -> Result<TrainableLm> {
        TrainableLm::from_tensors(&self.config, |name| self.tensor(name), shape, seed, device)
    }
}

/// How answers are sampled.
pub struct Sampler {
    /// What the policies are made of.
    pub base: Base,
    /// Of the model.
    pub tokenizer: Tokenizer,
    /// Where answers are made.
    pub device: ComputeDevice,
    /// Rows at once, tokens a step, positions, threads.
    pub options: EngineOptions,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

impl Sampler {
    /// The policy of an adapter.
    ///
    /// # Errors
    /// What the device says.
    pub fn policy(&self, adapter: &Adapter) -> Result<Policy<'_>> {
        let config = &self.base.config;
        let (slots, positions) =
            (self.options.slots.clamp(1, self.options.max_step_tokens.max(1)), self.options.max_positions);
        let tensor = |name: &str| Ok(adapter.merge(name, self.base.tensor(name)?));
        let decoder = CausalLm::from_tensors(config, tensor, &self.device, slots, positions)?;
        let eos_ids = config.eos_ids.clone();
        let (tokenizer, options) = (self.tokenizer.clone(), self.options.clone());
        let engine = Engine::from_parts(Box::new(decoder), tokenizer, None, String::new(), eos_ids, options)?;
        Ok(Policy { engine, sampler: self })
    }

    /// Prompt tokens that leave room for an answer.
    pub fn longest_prompt(&self) -> usize {
        self.options.max_positions.min(self.base.config.max_positions).saturating_sub(self.max_new_tokens)
    }
}

/// A policy that answers.
pub struct Policy<'a> {
    engine: Engine,
    sampler: &'a Sampler,
}

impl Policy<'_> {
    /// `n` answers of every prompt. `seed` makes the seed of a row from the prompt's place and the answer's: equal seeds,
    /// equal answers, whatever else is answered at the time.
    ///
    /// # Errors
    /// `Kind::Interrupted` where `stop` says so; `Kind::Temporary` where the device fails.
    pub fn sample(
        &self,
        prompts: &[&Prompt],
        n: usize,
        sampling: Sampling,
        seed: impl Fn(usize, usize) -> [u8; 32],
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<Sampled>>> {
        let request = |(at, prompt): (usize, &&Prompt)| {
            let (at, tokens) = (at, prompt.tokens.clone());
            let seed = &seed;
            (0..n)
                .map(move |i| Request {
                    id: (at * n + i) as u64,
                    prompt: tokens.clone(),
                    max_new_tokens: self.sampler.max_new_tokens,
                    sampling,
                    seed: seed(at, i),
                    stop: self.sampler.stop.clone(),
                    score: None,
                    guide: None,
                })
                .collect::<Vec<_>>()
        };
        let requests = prompts.iter().enumerate().flat_map(request).collect();
        let mut groups = vec![vec![Sampled::default(); n]; prompts.len()];
        let mut answers = self.engine.submit_blocking(requests)?;
        while let Some((id, answer)) = answers.blocking_recv() {
            // Rows that are not answered yet are cancelled with the receiver.
            if stop() {
                return Err(interrupted());
            }
            let id = id as usize;
            if let Some(place) = groups.get_mut(id / n.max(1)).and_then(|group| group.get_mut(id % n.max(1))) {
                *place = self.sampled(answer)?;
            }
        }
        Ok(groups)
    }

    fn sampled(&self, answer: std::result::Result<Completion, RowError>) -> Result<Sampled> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(RowError::Device(why)) => return Err(Error::new(Kind::Temporary, format!("the device failed: {why}"))),
            // Bytes that are no text are a bad answer as any other.
            Err(_) => return Ok(Sampled::default()),
        };
        let mut tokens = answer.tokens;
        let is_ended = answer.finish == Finish::Stop && answer.completion_tokens as usize == tokens.len() + 1;
        tokens.extend(self.sampler.base.config.eos_ids.first().filter(|_| is_ended));
        let (is_cut, cached_tokens) = (answer.finish == Finish::Length, answer.cached_tokens);
        Ok(Sampled { tokens, text: answer.text, is_cut, cached_tokens })
    }

    /// What was generated so far.
    pub fn usage(&self) -> EngineUsage {
        self.engine.usage()
    }
}

pub(crate) fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "reinforcement was stopped by a signal")
        .hint("finished rounds are kept where a checkpoint is named; run the same command again")
}
