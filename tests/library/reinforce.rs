//! Reinforcement of a tiny random model: a synthetic reward rises by every method, a gamed one stops it, an interrupted one
//! goes on to the same bits, and the answers of a prompt share its prefill.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use curec::error::{Kind, Result};
use curec::generate::device_thread::EngineOptions;
use curec::generate::engine::Engine;
use curec::learn::curve::Line;
use curec::learn::lessons::{Config, Method};
use curec::learn::loss::Grpo;
use curec::learn::rollout::{Base, Prompt, Sampled, Sampler};
use curec::learn::rounds::{Ended, reinforce};
use curec::learn::supervised::Surroundings;
use curec::learn::trainable::TrainableLm;
use curec::learn::worth::Worth;
use curec::llm::adapter::{AdapterShape, TARGETS};
use curec::llm::device::ComputeDevice;
use curec::llm::sampler::Sampling;
use curec::llm::weights::ModelFiles;
use curec::telemetry::Voice;
use safetensors::SafeTensors;

use crate::common;

/// Held-out prompts have numbers from here.
const HELD_OUT: usize = 1000;

fn shape() -> AdapterShape {
    AdapterShape { rank: 4, alpha: 8.0, dropout: 0.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

/// A model that writes ASCII, and ends an answer with its first letter: what it can choose is one token.
fn sampler(folder: &Path) -> Sampler {
    common::ascii_model(folder);
    let files = ModelFiles::open(folder).unwrap();
    Sampler {
        base: Base::load(&files, None).unwrap(),
        tokenizer: files.tokenizer().unwrap(),
        device: ComputeDevice::cpu(),
        options: EngineOptions { slots: 8, max_step_tokens: 64, max_positions: 64, threads: 2 },
        max_new_tokens: 6,
        stop: (' '..='~').map(String::from).collect(),
    }
}

fn prompts(sampler: &Sampler) -> (Vec<Prompt>, Vec<Prompt>) {
    let texts = ["The user likes", "People like Fargo", "Why does", "a film and", "Toy Story", "the end of it"];
    let prompt = |number: usize, text: &str| Prompt {
        number,
        tokens: sampler.tokenizer.encode_text(text).unwrap(),
        taught: Vec::new(),
        label: number.is_multiple_of(2),
        tercile: number % 3,
    };
    let train = texts.iter().enumerate().map(|(i, text)| prompt(i, text)).collect();
    let held_out = (0..36).map(|i| prompt(HELD_OUT + i, texts[i % texts.len()])).collect();
    (train, held_out)
}

/// From 0 to 1 by the answer's first token: about a half of it by chance.
fn worth_of(answer: &Sampled) -> Worth {
    let Some(token) = answer.tokens.first() else { return Worth::default() };
    let reward = f64::from(token % 7) / 6.0;
    Worth { reward, gain: reward, second: reward, passed: true, grounded: true, is_right: true, ..Worth::default() }
}

fn worths(answers: &[(&Prompt, &Sampled)]) -> Result<Vec<Worth>> {
    Ok(answers.iter().map(|(_, answer)| worth_of(answer)).collect())
}

fn config(method: Method) -> Config {
    // Of twelve tokens, so that the rest, which may be no text, is hardly ever chosen.
    let sampling = Sampling { temperature: 1.0, top_k: 12, ..Sampling::default() };
    Config {
        method,
        rounds: 16,
        prompts: 6,
        answers: 8,
        sampling,
        step_prompts: 6,
        learning_rate: 2e-2,
        check_every: 4,
        patience: 0,
        check_sampling: sampling,
        seed: 4,
        epochs: 1,
        warmup: 0.05,
        clip: 1.0,
        micro_batch_tokens: 512,
        min_gain: 0.0,
        min_deviation: 0.02,
        lambda: 0.4,
        most_weight: 5.0,
        grpo: Grpo { ratio_clip: 0.2, kl: 0.04 },
        dpo_beta: 0.1,
        anchor: 0.0,
    }
}

fn around<'a>(checkpoint: Option<&Path>, stop: &'a dyn Fn() -> bool) -> Surroundings<'a> {
    let curve = checkpoint.map(|path| path.with_extension("jsonl"));
    Surroundings { checkpoint: checkpoint.map(Path::to_owned), curve, model: "tiny", voice: Voice::Quiet, stop }
}

fn begin(sampler: &Sampler) -> TrainableLm {
    sampler.base.trainable(&shape(), 11, &ComputeDevice::cpu()).unwrap()
}

fn weights(lm: &TrainableLm) -> Vec<Vec<u32>> {
    let read = |name: &str| lm.parameters().read(lm.parameters().slot(name).unwrap()).unwrap();
    lm.parameters().names().map(|n| read(n).into_iter().map(f32::to_bits).collect()).collect()
}

#[test]
fn a_reward_rises_by_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let sampler = sampler(folder.path());
    let (train, held_out) = prompts(&sampler);
    for method in Method::ALL {
        let mut lm = begin(&sampler);
        let all = (train.as_slice(), held_out.as_slice());
        let done = reinforce(&mut lm, &sampler, all, &worths, &config(method), &around(None, &|| false)).unwrap();
        let rewards: Vec<f64> = done.rounds.iter().map(|r| r.reward).collect();
        let (first, last) = (rewards[0], rewards[12..].iter().sum::<f64>() / 4.0);
        assert!(last > first + 0.08, "{method}: {rewards:?}");
        assert_eq!((done.rounds.len(), done.checks.len(), done.ended), (16, 5, Ended::Finished), "{method}");
        assert!(
            done.best_round > 0 && done.best().unwrap().second > done.checks[0].second,
            "{method}: {:?}",
            done.checks
        );
        // The reference is the beginning: nothing is between the two before a step, and something after.
        assert!(done.checks[0].kl < 1e-9 && done.best().unwrap().kl > 1e-6, "{method}: {:?}", done.checks);
        let round = &done.rounds[0];
        assert!(round.learned > 0 && round.learned + round.skipped == 6, "{round:?}");
        assert!(round.cached_tokens * 3 > round.prompt_tokens, "{round:?}");
    }
}

#[test]
fn rewards_without_difference_teach_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sampler = sampler(folder.path());
    let (train, _) = prompts(&sampler);
    let alike = |answers: &[(&Prompt, &Sampled)]| {
        let worth = Worth { reward: 0.5, passed: true, is_right: true, ..Worth::default() };
        Ok(vec![worth; answers.len()])
    };
    for method in Method::ALL {
        let mut lm = begin(&sampler);
        let before = weights(&lm);
        let config = Config { rounds: 2, ..config(method) };
        // best-of-n wants a gain, and there is none.
        let done = reinforce(&mut lm, &sampler, (&train, &[]), &alike, &config, &around(None, &|| false)).unwrap();
        assert!(done.rounds.iter().all(|r| (r.learned, r.skipped, r.steps) == (0, 6, 0)), "{method}");
        assert!(weights(&lm) == before, "{method}");
    }
}

#[test]
fn it_stops_when_the_judge_falls_while_the_reward_rises_and_keeps_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let sampler = sampler(folder.path());
    let (train, held_out) = prompts(&sampler);
    let checks = Cell::new(0.0);
    let gamed = |answers: &[(&Prompt, &Sampled)]| {
        if answers[0].0.number < HELD_OUT {
            return worths(answers);
        }
        checks.set(checks.get() + 0.2);
        let worth = Worth { reward: checks.get(), second: 1.0 - checks.get(), passed: true, ..Worth::default() };
        Ok(vec![worth; answers.len()])
    };
    let mut lm = begin(&sampler);
    let before = weights(&lm);
    let config = Config { check_every: 1, ..config(Method::Grpo) };
    let at = folder.path().join("gamed.safetensors");
    let all = (train.as_slice(), held_out.as_slice());
    let done = reinforce(&mut lm, &sampler, all, &gamed, &config, &around(Some(&at), &|| false)).unwrap();
    assert_eq!((done.ended, done.rounds.len(), done.best_round), (Ended::Diverged, 3, 0));
    assert!(weights(&lm) == before, "a gamed adapter was kept");
    let lines = std::fs::read_to_string(at.with_extension("jsonl")).unwrap();
    let lines: Vec<Line> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| matches!(line, Line::Check(_))).count(), 4);
    assert_eq!(lines.len(), 7);
    // It stays ended.
    let mut lm = begin(&sampler);
    let again = reinforce(&mut lm, &sampler, all, &gamed, &config, &around(Some(&at), &|| false)).unwrap();
    assert_eq!((again.ended, again.rounds.len()), (Ended::Diverged, 3));
}

/// Everything that a checkpoint holds besides its metadata: last and best weights, and Adam's memory.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec())).collect();
    tensors.sort();
    tensors
}

#[test]
fn a_stopped_reinforcement_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let sampler = sampler(folder.path());
    let (train, held_out) = prompts(&sampler);
    let all = (train.as_slice(), held_out.as_slice());
    let config = Config { rounds: 6, check_every: 2, step_prompts: 3, epochs: 2, ..config(Method::Grpo) };
    let whole_at = folder.path().join("whole.safetensors");
    let mut whole = begin(&sampler);
    let want = reinforce(&mut whole, &sampler, all, &worths, &config, &around(Some(&whole_at), &|| false)).unwrap();
    assert_eq!(want.rounds.len(), 6);

    let at = folder.path().join("stopped.safetensors");
    // Within the first check, the second round and later ones: the wish to stop is asked for with every answer.
    for stops_after in [10usize, 130, 170] {
        let left = Cell::new(stops_after);
        let stop = || {
            let n = left.get();
            left.set(n.saturating_sub(1));
            n == 0
        };
        let mut lm = begin(&sampler);
        let e = reinforce(&mut lm, &sampler, all, &worths, &config, &around(Some(&at), &stop)).unwrap_err();
        assert_eq!(e.kind(), Kind::Interrupted, "{}", e.explain());
    }
    assert!(at.exists() && tensors(&at) != tensors(&whole_at), "it was not stopped in between");
    let mut lm = begin(&sampler);
    let got = reinforce(&mut lm, &sampler, all, &worths, &config, &around(Some(&at), &|| false)).unwrap();
    assert!(weights(&lm) == weights(&whole), "the kept adapters differ");
    assert!(tensors(&at) == tensors(&whole_at), "the states differ");
    assert_eq!((got.best_round, got.ended), (want.best_round, want.ended));
    let exact = |r: &curec::learn::curve::Round| (r.round, r.steps, r.learned, r.tokens);
    assert!(got.rounds.iter().map(exact).eq(want.rounds.iter().map(exact)));

    // The state is nobody else's.
    let other = Config { seed: 5, ..config };
    let e = reinforce(&mut lm, &sampler, all, &worths, &other, &around(Some(&at), &|| false)).unwrap_err();
    assert_eq!(e.kind(), Kind::Config, "{}", e.explain());
}

#[test]
fn the_answers_of_a_prompt_share_its_prefill_and_differ() {
    let folder = tempfile::tempdir().unwrap();
    let sampler = sampler(folder.path());
    let policy = sampler.policy(&begin(&sampler).adapter().unwrap()).unwrap();
    let tokens = sampler.tokenizer.encode_text("People who like Fargo also like films about crime").unwrap();
    let length = tokens.len() as u64;
    let prompt = Prompt { tokens, ..Prompt::default() };
    let sampling = Sampling { temperature: 1.0, top_k: 12, ..Sampling::default() };
    let seed = |_, answer| [answer as u8; 32];
    let groups = policy.sample(&[&prompt], 6, sampling, seed, &|| false).unwrap();
    let usage = policy.usage();
    assert_eq!(usage.prompt_tokens, 6 * length);
    // All but one row copy the prompt; its last token is computed by each, since its logits are needed.
    assert!(usage.cached_tokens >= 5 * (length - 1), "{usage:?}");
    let cached: u64 = groups[0].iter().map(|a| u64::from(a.cached_tokens)).sum();
    assert!(cached <= usage.cached_tokens && cached > 0);
    let again = policy.sample(&[&prompt], 6, sampling, seed, &|| false).unwrap();
    let said = |groups: &[Vec<Sampled>]| groups[0].iter().map(|a| a.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(said(&groups), said(&again));
    assert!(said(&groups).windows(2).any(|two| two[0] != two[1]), "{:?}", said(&groups));
    let e = policy.sample(&[&prompt], 6, sampling, seed, &|| true).unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
}

/// Tokens of answers in a second: sampling in the loop, the making of its policy included, beside the plain generator on the
/// same prompts and seeds. `cargo test --profile ci --test library -- --ignored rollouts --nocapture`.
#[test]
#[ignore = "a minute of SmolLM2-135M"]
fn rollouts_are_nearly_as_fast_as_the_plain_generator() {
    let Some(model) = common::home("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let model: PathBuf = model;
    let files = ModelFiles::open(&model).unwrap();
    let options = EngineOptions { slots: 32, max_step_tokens: 512, max_positions: 256, threads: 2 };
    let sampler = Sampler {
        base: Base::load(&files, None).unwrap(),
        tokenizer: files.tokenizer().unwrap(),
        device: ComputeDevice::cpu(),
        options: options.clone(),
        max_new_tokens: 48,
        stop: Vec::new(),
    };
    let prompts: Vec<Prompt> = (0..32u32)
        .map(|r| Prompt {
            tokens: (0..96).map(|i| 20 + (r * 7919 + i * 104_729) % 40_000).collect(),
            ..Prompt::default()
        })
        .collect();
    let prompts: Vec<&Prompt> = prompts.iter().collect();
    let sampling = Sampling { temperature: 1.0, top_p: 0.95, ..Sampling::default() };
    let seed = |prompt, answer| [(prompt * 4 + answer) as u8; 32];

    let plain = Engine::start(&model, None, "cpu", options).unwrap();
    plain.load_blocking().unwrap();
    let requests = (0..128usize)
        .map(|id| curec::generate::row::Request {
            id: id as u64,
            prompt: prompts[id / 4].tokens.clone(),
            max_new_tokens: 48,
            sampling,
            seed: seed(id / 4, id % 4),
            stop: Vec::new(),
            score: None,
            guide: None,
        })
        .collect();
    let begun = Instant::now();
    let mut answers = plain.submit_blocking(requests).unwrap();
    while answers.blocking_recv().is_some() {}
    let of_plain = plain.usage().completion_tokens as f64 / begun.elapsed().as_secs_f64();
    drop(plain);

    let adapter = sampler.base.trainable(&shape(), 1, &ComputeDevice::cpu()).unwrap().adapter().unwrap();
    let begun = Instant::now();
    let policy = sampler.policy(&adapter).unwrap();
    let made = begun.elapsed().as_secs_f64();
    policy.sample(&prompts, 4, sampling, seed, &|| false).unwrap();
    let in_loop = policy.usage().completion_tokens as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{{\"plain_tokens_per_s\":{of_plain:.1},\"rollout_tokens_per_s\":{in_loop:.1},\"ratio\":{:.3},\"policy_s\":{made:.2}}}",
        in_loop / of_plain
    );
    assert!(in_loop >= 0.8 * of_plain, "{in_loop} of {of_plain}");
}
