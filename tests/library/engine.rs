//! The engine with real (tiny, random) models on the CPU: what comes out is what the model alone says, one row and one
//! token at a time, whatever the slots, the budget and the neighbours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use curec::error::Kind;
use curec::generate::device_thread::EngineOptions;
use curec::generate::engine::Engine;
use curec::generate::fields;
use curec::generate::row::{Completion, Finish, Request, RowError};
use curec::llm::decoder::{CausalLm, Decoder, RowStep, WantLogits};
use curec::llm::device;
use curec::llm::grammar::Grammar;
use curec::llm::sampler::{self, Sampling};
use curec::llm::weights::ModelFiles;

const MODELS: [&str; 4] = ["tiny-llama-f16", "tiny-llama-sharded", "tiny-qwen2", "tiny-qwen3"];
const POSITIONS: usize = 96;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn options(slots: usize, max_step_tokens: usize) -> EngineOptions {
    EngineOptions { slots, max_step_tokens, max_positions: POSITIONS, threads: 2 }
}

/// Prompts with a template in front, as the nightly job makes them.
fn requests(engine: &Engine) -> Vec<Request> {
    let template = "Explain in one sentence why people like this film. Film: ";
    let films = ["Fargo", "Toy Story", "Heat", "Fargo (1996)", "Twelve Monkeys", "Seven", "Babe", "Mr. Holland's Opus"];
    let warm = Sampling { temperature: 0.9, top_p: 0.95, top_k: 50, repetition_penalty: 1.1, max_copied_words: 0 };
    let mut requests = Vec::new();
    for (i, film) in films.iter().enumerate() {
        for sampling in [Sampling::default(), warm] {
            let id = requests.len() as u64;
            let prompt = engine.tokenizer().encode_text(&format!("{template}{film}")).unwrap();
            let seed = [id as u8; 32];
            let (max_new_tokens, stop) = (3 + i, Vec::new());
            requests.push(Request { id, prompt, max_new_tokens, sampling, seed, stop, score: None, guide: None });
        }
    }
    requests
}

fn run(engine: &Engine, requests: Vec<Request>) -> BTreeMap<u64, Result<Completion, RowError>> {
    let count = requests.len();
    let mut answers = engine.submit_blocking(requests).unwrap();
    let mut map = BTreeMap::new();
    while let Some((id, answer)) = answers.blocking_recv() {
        assert!(map.insert(id, answer).is_none(), "{id} was answered twice");
    }
    assert_eq!(map.len(), count);
    map
}

/// One row, every token from the whole sequence anew: no cache, no batch, no chunks.
fn reference(decoder: &mut CausalLm, eos: &[u32], request: &Request) -> (Vec<u32>, f64) {
    let mut ids = request.prompt.clone();
    let mut sum = 0.0;
    for position in 0..request.max_new_tokens {
        let step = RowStep { slot: 0, start: 0, tokens: &ids, want_logits: WantLogits::Last };
        let logits = decoder.step(&[step]).unwrap();
        let new = &ids[request.prompt.len()..];
        let chosen = sampler::choose(logits.row(0), &request.sampling, new, &request.seed, position as u64).unwrap();
        if eos.contains(&chosen.token) {
            break;
        }
        sum += chosen.logprob;
        ids.push(chosen.token);
    }
    (ids.split_off(request.prompt.len()), sum)
}

#[test]
fn batches_say_what_the_model_alone_says() {
    for name in MODELS {
        let files = ModelFiles::open(&model(name)).unwrap();
        let mut alone = CausalLm::load(&files, None, &device::open("cpu").unwrap(), 1, POSITIONS).unwrap();
        let mut expected = BTreeMap::new();
        for (slots, budget) in [(1, 8), (3, 5), (16, 256)] {
            let engine = Engine::start(&model(name), None, "cpu", options(slots, budget)).unwrap();
            let requests = requests(&engine);
            for (id, answer) in run(&engine, requests.clone()) {
                let request = &requests[id as usize];
                let (tokens, sum) =
                    expected.entry(id).or_insert_with(|| reference(&mut alone, &files.config().eos_ids, request));
                match answer {
                    Ok(answer) => {
                        assert_eq!(&answer.tokens, tokens, "{name}, row {id}, {slots} slots, {budget} tokens");
                        assert_eq!(answer.logprob_sum, *sum, "{name}, row {id}, {slots} slots, {budget} tokens");
                    }
                    // Random models write bytes that are not text now and then.
                    Err(error) => assert_eq!(error, RowError::InvalidUtf8),
                }
            }
            let usage = engine.usage();
            assert_eq!(usage.rows_done + usage.rows_failed, requests.len() as u64);
            assert!(usage.cached_tokens > usage.prompt_tokens / 2, "{usage:?}");
        }
    }
}

#[test]
fn scoring_an_answer_gives_the_probability_it_was_written_with() {
    let engine = Engine::start(&model("tiny-qwen3"), None, "cpu", options(4, 32)).unwrap();
    let requests = requests(&engine);
    let written = run(&engine, requests.clone());
    let to_score = requests.into_iter().filter_map(|request| {
        let answer = written[&request.id].as_ref().ok()?;
        (answer.finish == Finish::Length).then(|| Request { score: Some(answer.tokens.clone()), ..request })
    });
    let scored = run(&engine, to_score.collect());
    assert!(!scored.is_empty());
    for (id, answer) in scored {
        let (answer, written) = (answer.unwrap(), written[&id].as_ref().unwrap());
        assert_eq!(answer.logprob_sum, written.logprob_sum);
        assert_eq!(answer.tokens, written.tokens);
    }
}

#[test]
fn answers_held_to_a_form_are_whole_whatever_the_batches() {
    let schema = serde_json::json!({
        "type": "object",
        "properties": {"reason": {"type": "string", "maxLength": 8}, "what": {"type": "string", "maxLength": 4}},
        "required": ["reason", "what"],
        "additionalProperties": false,
        "x-guidance": {"whitespace_flexible": false, "json_allowed_escapes": "\"\\"},
    });
    for name in ["tiny-qwen2", "tiny-qwen3"] {
        let eos = ModelFiles::open(&model(name)).unwrap().config().eos_ids.clone();
        let mut first: Option<BTreeMap<u64, (Vec<u32>, f64)>> = None;
        for (slots, budget) in [(1, 8), (3, 5), (16, 256)] {
            let options = EngineOptions { max_positions: 192, ..options(slots, budget) };
            let engine = Engine::start(&model(name), None, "cpu", options).unwrap();
            let grammar = Grammar::new(engine.tokenizer(), &eos, schema.clone(), fields::OPEN).unwrap();
            // Half of the rows are held to nothing.
            let held = |request: Request| match request.id % 4 < 2 {
                true => Request { max_new_tokens: 80, guide: Some(grammar.guide()), ..request },
                false => request,
            };
            let answers = run(&engine, requests(&engine).into_iter().map(held).collect());
            for answer in answers.iter().filter(|(id, _)| **id % 4 < 2).map(|(_, answer)| answer.as_ref().unwrap()) {
                assert_eq!(answer.finish, Finish::Stop);
                let filled: serde_json::Value =
                    serde_json::from_str(&format!("{}{}", fields::OPEN, answer.text)).unwrap();
                assert!(filled["what"].as_str().unwrap().chars().count() <= 4, "{filled}");
                assert!(answer.logprob_sum.is_finite() && answer.logprob_sum <= 1e-6);
            }
            let said: BTreeMap<u64, (Vec<u32>, f64)> = answers
                .into_iter()
                .filter_map(|(id, answer)| answer.ok().map(|answer| (id, (answer.tokens, answer.logprob_sum))))
                .collect();
            assert_eq!(first.get_or_insert_with(|| said.clone()), &said, "{name}, {slots} slots, {budget} tokens");
        }
    }
}

#[test]
fn the_model_is_read_when_it_is_needed() {
    let engine = Engine::start(&model("tiny-qwen3"), None, "cpu", options(2, 16)).unwrap();
    assert_eq!(engine.usage().busy_seconds, 0.0);
    assert_eq!(engine.digest().unwrap().len(), 32);
    assert!(engine.chat_template().is_ok());
    engine.load_blocking().unwrap();
    assert!(engine.usage().busy_seconds > 0.0);
}

#[test]
fn what_cannot_be_loaded_is_an_error_before_any_row() {
    let error = Engine::start(&model("no-such-model"), None, "cpu", options(2, 16)).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    let engine = Engine::start(&model("tiny-qwen3"), None, "abacus", options(2, 16)).unwrap();
    let error = engine.load_blocking().unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(engine.submit_blocking(Vec::new()).is_err());
}
