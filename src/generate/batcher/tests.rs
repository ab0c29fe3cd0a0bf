//! The batcher over a decoder without weights, against rows that run alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::generate::mock_decoder::*;
use crate::generate::row::Completion;
use crate::llm::sampler::Sampling;

fn batcher(decoder: &MockDecoder, max_step_tokens: usize) -> Batcher {
    Batcher::new(decoder, BatcherOptions { max_step_tokens, eos_ids: vec![EOS] })
}

fn run(batcher: &mut Batcher, decoder: &mut MockDecoder) -> Vec<Answer> {
    let mut answers = Vec::new();
    for _ in 0..100_000 {
        if batcher.is_idle() {
            answers.extend(batcher.drain());
            return answers;
        }
        batcher.step(decoder, &MockText).unwrap();
        answers.extend(batcher.drain());
    }
    panic!("the batcher does not come to an end");
}

/// The answers by id, without the fields that depend on scheduling. Panics where an id is answered twice.
fn by_id(answers: Vec<Answer>) -> BTreeMap<u64, String> {
    let mut map = BTreeMap::new();
    for (id, answer) in answers {
        let answer = answer.map(|completion| Completion { cached_tokens: 0, ..completion });
        assert!(map.insert(id, format!("{answer:?}")).is_none(), "{id} was answered twice");
    }
    map
}

fn expected(requests: &[Request], positions: usize) -> BTreeMap<u64, String> {
    by_id(requests.iter().map(|request| (request.id, reference(request, positions))).collect())
}

fn template(n: usize) -> Vec<u32> {
    (0..n).map(|i| 1 + (i * 7 % 40) as u32).collect()
}

fn with_template(n: usize, tail: &[u32]) -> Vec<u32> {
    [template(n), tail.to_vec()].concat()
}

#[test]
fn a_shared_prefix_is_prefilled_once() {
    let requests: Vec<Request> = (0..20).map(|i| request(i, &with_template(60, &[i as u32 + 1, 3, 5]), 6)).collect();
    let mut decoder = MockDecoder::new(8, 128);
    let mut batcher = batcher(&decoder, 64);
    batcher.push(requests.clone());
    let answers = run(&mut batcher, &mut decoder);
    let mut cached = answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.cached_tokens));
    assert!(cached.clone().filter(|&tokens| tokens == 0).count() <= 1 && cached.all(|tokens| tokens % 60 == 0));
    assert_eq!(batcher.usage().cached_tokens, 19 * 60);
    assert_eq!(batcher.usage().prompt_tokens, 20 * 63);
    assert!(decoder.steps.iter().sum::<usize>() as u64 <= 60 + 20 * 3 + batcher.usage().completion_tokens);
    assert_eq!(by_id(answers), expected(&requests, 128));
}

#[test]
fn the_same_prompt_again_costs_one_token_of_prefill() {
    let mut decoder = MockDecoder::new(2, 64);
    let mut batcher = batcher(&decoder, 64);
    batcher.push(vec![request(0, &template(40), 1)]);
    run(&mut batcher, &mut decoder);
    batcher.push(vec![request(1, &template(40), 1)]);
    let answers = run(&mut batcher, &mut decoder);
    assert_eq!(answers[0].1.as_ref().unwrap().cached_tokens, 39);
    assert_eq!(decoder.steps, [40, 1]);
    assert_eq!(decoder.copied, 0, "it was continued in place");
}

#[test]
fn nested_prefixes_are_shared_level_by_level() {
    let mut requests = Vec::new();
    for group in 0..4u32 {
        for row in 0..4u32 {
            let middle: Vec<u32> = (0..20).map(|i| 1 + (group * 11 + i * 3) % 40).collect();
            let tail = [&middle[..], &[row + 1, row + 2]].concat();
            requests.push(request(u64::from(group * 4 + row), &with_template(30, &tail), 2));
        }
    }
    requests.reverse();
    let mut decoder = MockDecoder::new(6, 64);
    let mut batcher = batcher(&decoder, 40);
    batcher.push(requests.clone());
    let answers = run(&mut batcher, &mut decoder);
    assert_eq!(by_id(answers), expected(&requests, 64));
    assert_eq!(batcher.usage().prompt_tokens - batcher.usage().cached_tokens, 30 + 4 * 20 + 16 * 2);
}

#[test]
fn the_last_copy_of_a_hot_prefix_survives_other_rows() {
    let mut decoder = MockDecoder::new(4, 64);
    let mut batcher = batcher(&decoder, 64);
    batcher.push((0..3).map(|i| request(i, &with_template(30, &[i as u32 + 1]), 2)).collect());
    run(&mut batcher, &mut decoder);
    for i in 0..12 {
        let other: Vec<u32> = (0..12).map(|j| 1 + (i * 5 + j * j) % 40).collect();
        batcher.push(vec![request(10 + u64::from(i), &other, 2)]);
        run(&mut batcher, &mut decoder);
    }
    batcher.push(vec![request(99, &with_template(30, &[9]), 2)]);
    assert_eq!(run(&mut batcher, &mut decoder)[0].1.as_ref().unwrap().cached_tokens, 30);
}

#[test]
fn long_prompts_are_chunked_and_decoding_goes_on_beside_them() {
    let mut decoder = MockDecoder::new(2, 300);
    let mut batcher = batcher(&decoder, 16);
    let requests = vec![request(0, &[1, 2, 3], 8), request(1, &with_template(200, &[4]), 2)];
    batcher.push(requests.clone());
    let answers = run(&mut batcher, &mut decoder);
    assert!(decoder.steps.iter().all(|&tokens| tokens <= 16));
    assert_eq!(answers[0].0, 0, "the short row does not wait for the long prompt");
    assert_eq!(by_id(answers), expected(&requests, 300));
}

#[test]
fn rows_that_cannot_run_are_answered_before_any_work() {
    let mut decoder = MockDecoder::new(2, 10);
    let mut batcher = batcher(&decoder, 16);
    let scored = Request { score: Some(vec![1; 6]), ..request(3, &[1; 5], 0) };
    let stranger = Request { score: Some(vec![VOCAB as u32]), ..request(4, &[1; 5], 0) };
    batcher.push(vec![
        request(0, &[], 4),
        request(1, &[1; 5], 6),
        request(2, &[1], usize::MAX),
        scored,
        stranger,
        request(5, &[1; 10], 0),
    ]);
    assert!(batcher.is_idle());
    let answers: BTreeMap<u64, _> = batcher.drain().into_iter().collect();
    assert_eq!(*answers[&0].as_ref().unwrap_err(), RowError::Empty);
    assert_eq!(*answers[&1].as_ref().unwrap_err(), RowError::TooLong { tokens: 11, limit: 10 });
    assert_eq!(*answers[&2].as_ref().unwrap_err(), RowError::TooLong { tokens: usize::MAX, limit: 10 });
    assert_eq!(*answers[&3].as_ref().unwrap_err(), RowError::TooLong { tokens: 11, limit: 10 });
    assert!(matches!(answers[&4].as_ref().unwrap_err(), RowError::Device(why) if why.contains("vocabulary")));
    assert!(answers[&5].as_ref().unwrap().tokens.is_empty());
    assert!(run(&mut batcher, &mut decoder).is_empty());
    assert!(decoder.steps.is_empty());
}

#[test]
fn broken_logits_fail_their_row_only_and_leave_no_trace() {
    let mut decoder = MockDecoder::new(3, 64);
    let mut batcher = batcher(&decoder, 64);
    let mut poisoned = template(20);
    poisoned[19] = POISON;
    let requests = vec![
        request(0, &poisoned, 4),
        request(1, &template(20), 4),
        Request { score: Some(vec![3, POISON, 5, 6]), ..request(2, &template(12), 0) },
        request(3, &[5, 6], 4),
    ];
    batcher.push(requests.clone());
    let answers = run(&mut batcher, &mut decoder);
    assert_eq!(by_id(answers), expected(&requests, 64));
    assert_eq!(batcher.usage().rows_failed, 2);
    assert!(batcher.slots.iter().all(|slot| !slot.tokens.contains(&POISON)));
}

#[test]
fn cancelled_rows_are_answered_once_and_their_slots_go_on() {
    let mut decoder = MockDecoder::new(2, 64);
    let mut batcher = batcher(&decoder, 8);
    let requests: Vec<Request> = (0..9).map(|i| request(i, &[i as u32 + 1, 2, 3], 20)).collect();
    batcher.push(requests.clone());
    batcher.step(&mut decoder, &MockText).unwrap();
    batcher.step(&mut decoder, &MockText).unwrap();
    batcher.cancel(|id| id % 2 == 0);
    let answers = run(&mut batcher, &mut decoder);
    let cancelled = answers.iter().filter(|(_, answer)| matches!(answer, Err(RowError::Cancelled))).count();
    assert_eq!(cancelled, 5);
    let (kept, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(id, _)| id % 2 == 1);
    assert_eq!(others.len(), 5);
    let odd: Vec<Request> = requests.into_iter().filter(|request| request.id % 2 == 1).collect();
    assert_eq!(by_id(kept), expected(&odd, 64));
}

#[test]
fn a_row_is_not_starved_by_later_ones() {
    let mut decoder = MockDecoder::new(2, 64);
    let mut batcher = batcher(&decoder, 8);
    batcher.push((0..2).map(|i| request(i, &with_template(30, &[1]), 4)).collect());
    batcher.push(vec![request(7, &with_template(24, &[40, 41]), 3)]);
    for i in 0..200 {
        batcher.push(vec![request(100 + i, &with_template(24, &[40, i as u32 % 40 + 1]), 4)]);
        batcher.step(&mut decoder, &MockText).unwrap();
        if batcher.drain().iter().any(|(id, _)| *id == 7) {
            assert!(i < 40, "{i} steps");
            return;
        }
    }
    panic!("the row was starved");
}

#[test]
fn shrinking_restarts_rows_without_changing_them() {
    let requests: Vec<Request> = (0..12)
        .map(|i| Request {
            score: (i % 3 == 0).then(|| template(100)),
            sampling: Sampling { temperature: 1.0, ..Sampling::default() },
            ..request(i, &with_template(20, &[i as u32 + 1]), 12)
        })
        .collect();
    let mut decoder = MockDecoder::new(8, 128);
    let mut batcher = batcher(&decoder, 32);
    batcher.push(requests.clone());
    let mut answers = Vec::new();
    let mut halvings = 0;
    while !batcher.is_idle() {
        batcher.step(&mut decoder, &MockText).unwrap();
        answers.extend(batcher.drain());
        if decoder.steps.len().is_multiple_of(6) && batcher.shrink() {
            halvings += 1;
        }
    }
    assert_eq!((halvings, batcher.slots_in_use()), (3, 1));
    assert_eq!(by_id(answers), expected(&requests, 128));
}

#[test]
fn a_failed_step_fails_its_rows_and_no_others() {
    let requests: Vec<Request> = (0..6).map(|i| request(i, &[i as u32 + 1, 2], 5)).collect();
    let mut decoder = MockDecoder::new(3, 64);
    decoder.before = Box::new(|step, _| match step {
        2 => Err(Error::new(Kind::Temporary, "the device hiccuped")),
        _ => Ok(()),
    });
    let mut batcher = batcher(&decoder, 16);
    batcher.push(requests.clone());
    batcher.step(&mut decoder, &MockText).unwrap();
    assert!(batcher.step(&mut decoder, &MockText).is_err());
    let failed = batcher.fail_step("the device hiccuped");
    assert!(failed > 0 && failed <= 3);
    let answers = run(&mut batcher, &mut decoder);
    assert_eq!(answers.len(), 6);
    let (bad, good): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_err());
    let (hit, bad): (Vec<_>, Vec<_>) =
        bad.into_iter().partition(|(_, answer)| matches!(answer, Err(RowError::Device(_))));
    assert_eq!(hit.len(), failed);
    let all = expected(&requests, 64);
    assert!(by_id([good, bad].concat()).into_iter().all(|(id, answer)| all[&id] == answer));
}

fn any_request() -> impl Strategy<Value = Request> {
    let prompt = (0usize..40, proptest::collection::vec(prop_oneof![40 => 1u32..4, 1 => Just(POISON)], 0..16))
        .prop_map(|(shared, tail)| with_template(shared, &tail));
    let sampling = prop_oneof![
        3 => Just(Sampling::default()),
        2 => (0.3f32..2.0, 0.2f32..1.0, 0usize..10, 1.0f32..1.5, 0usize..3).prop_map(
            |(temperature, top_p, top_k, repetition_penalty, max_copied_words)| {
                Sampling { temperature, top_p, top_k, repetition_penalty, max_copied_words }
            }
        ),
    ];
    let stop = proptest::collection::vec(prop_oneof!["[a-t]{1,2}", Just("é".to_owned()), Just(String::new())], 0..2);
    let score = proptest::option::weighted(0.25, proptest::collection::vec(1u32..47, 0..90));
    (prompt, 0usize..14, sampling, stop, score, any::<[u8; 32]>()).prop_map(
        |(prompt, max_new_tokens, sampling, stop, score, seed)| Request {
            id: 0,
            prompt,
            max_new_tokens,
            sampling,
            seed,
            // An empty stop text would match everywhere in the reference.
            stop: if score.is_some() { Vec::new() } else { stop.into_iter().filter(|s| !s.is_empty()).collect() },
            score,
            guide: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Every request is answered exactly once, and as the naive reference answers it, whatever the order of
    /// arrival, the number of slots and the budget; and no step exceeds either.
    #[test]
    fn scheduling_never_changes_an_answer(
        mut requests in proptest::collection::vec(any_request(), 1..30),
        order in any::<u64>(),
        slots in 1usize..7,
        max_step_tokens in 1usize..48,
        arrivals in proptest::collection::vec((1usize..8, 0usize..6), 0..8),
    ) {
        let positions = 120;
        for (id, request) in requests.iter_mut().enumerate() {
            request.id = id as u64;
        }
        let expected = expected(&requests, positions);
        requests.sort_by_key(|request| blake3::hash(&(request.id ^ order).to_le_bytes()).as_bytes()[..8].to_vec());
        let mut decoder = MockDecoder::new(slots, positions);
        let mut most_rows = 0;
        let mut batcher = batcher(&decoder, max_step_tokens);
        let mut answers = Vec::new();
        for (rows, steps) in arrivals {
            batcher.push(requests.drain(..rows.min(requests.len())).collect());
            for _ in 0..steps {
                batcher.step(&mut decoder, &MockText).unwrap();
                most_rows = most_rows.max(batcher.active.len());
            }
        }
        batcher.push(requests);
        answers.extend(run(&mut batcher, &mut decoder));
        prop_assert!(decoder.steps.iter().all(|&tokens| tokens >= 1 && tokens <= max_step_tokens));
        prop_assert!(most_rows <= slots);
        let usage = batcher.usage();
        prop_assert_eq!(usage.rows_done + usage.rows_failed, expected.len() as u64);
        for (_, answer) in &answers {
            if let Ok(completion) = answer {
                prop_assert!(completion.cached_tokens < completion.prompt_tokens.max(1));
            }
        }
        prop_assert_eq!(by_id(answers), expected);
    }

    /// Whatever the order of arrivals, cancellations, device failures and out-of-memory errors: no step exceeds the
    /// tokens and slots allowed at that moment, and every request is answered exactly once.
    #[test]
    fn no_step_exceeds_its_budget(
        mut requests in proptest::collection::vec(any_request(), 1..40),
        slots in 1usize..9,
        max_step_tokens in 1usize..64,
        events in proptest::collection::vec((0u8..12, 1usize..8), 1..60),
    ) {
        for (id, request) in requests.iter_mut().enumerate() {
            request.id = id as u64;
        }
        let mut waiting: std::collections::VecDeque<Request> = requests.clone().into();
        let mut decoder = MockDecoder::new(slots, 120);
        let fails = Arc::new(AtomicBool::new(false));
        let switch = fails.clone();
        decoder.before = Box::new(move |_, _| match switch.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Temporary, "the device hiccuped")),
            false => Ok(()),
        });
        let mut batcher = batcher(&decoder, max_step_tokens);
        let mut answers = Vec::new();
        for (event, n) in events {
            match event {
                0..3 => batcher.push(waiting.drain(..n.min(waiting.len())).collect()),
                3 => batcher.cancel(|id| id % n as u64 == 0),
                4 if n < 3 => drop(batcher.shrink()),
                _ => {
                    let steps = decoder.steps.len();
                    fails.store(event == 5, Ordering::Relaxed);
                    for _ in 0..n {
                        if batcher.step(&mut decoder, &MockText).is_err() {
                            prop_assert!(event == 5);
                            batcher.fail_step("the device hiccuped");
                        }
                        prop_assert!(batcher.active.len() <= batcher.slots_in_use());
                        let busy = batcher.slots.iter().filter(|slot| slot.busy).count();
                        prop_assert_eq!(busy, batcher.active.len(), "a slot is lost or shared");
                    }
                    fails.store(false, Ordering::Relaxed);
                    let most = decoder.steps[steps..].iter().max().copied().unwrap_or(0);
                    prop_assert!(most <= batcher.max_step_tokens, "{} tokens of {}", most, batcher.max_step_tokens);
                    prop_assert!(batcher.max_step_tokens <= max_step_tokens && batcher.slots_in_use() <= slots);
                }
            }
            answers.extend(batcher.drain());
        }
        batcher.push(waiting.into());
        answers.extend(run(&mut batcher, &mut decoder));
        prop_assert!(decoder.steps.iter().all(|&tokens| tokens <= max_step_tokens));
        prop_assert_eq!(answers.len(), requests.len());
        // Rows that were neither cancelled nor hit by a failure have the same answer as a row that runs alone.
        let all = expected(&requests, 120);
        let is_hit = |answer: &std::result::Result<Completion, RowError>| match answer {
            Err(RowError::Cancelled) => true,
            Err(RowError::Device(why)) => why.contains("hiccuped"),
            _ => false,
        };
        let whole: Vec<Answer> = answers.into_iter().filter(|(_, answer)| !is_hit(answer)).collect();
        prop_assert!(by_id(whole).into_iter().all(|(id, answer)| all[&id] == answer));
    }
}
