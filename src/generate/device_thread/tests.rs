//! The thread over a decoder without weights that fails, panics or runs out of memory when told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::generate::mock_decoder::{EOS, MockDecoder, MockText, reference, request};

const POSITIONS: usize = 64;

fn worker(decoder: MockDecoder) -> Worker {
    let mut decoder = Some(decoder);
    spawn(
        Box::new(move |_| Ok(Box::new(decoder.take().unwrap()))),
        EngineOptions { max_step_tokens: 16, ..EngineOptions::default() },
    )
}

fn spawn(load: Load, options: EngineOptions) -> Worker {
    Worker::spawn(load, Arc::new(MockText), vec![EOS], &options).unwrap()
}

fn rows(ids: std::ops::Range<u64>) -> Vec<Request> {
    ids.map(|id| request(id, &[id as u32 % 40 + 1, 2, 3], 6)).collect()
}

async fn all(mut answers: Answers) -> BTreeMap<u64, String> {
    let mut map = BTreeMap::new();
    let wait = async {
        while let Some((id, answer)) = answers.recv().await {
            assert!(map.insert(id, format!("{answer:?}")).is_none(), "{id} was answered twice");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the engine hangs");
    map
}

fn expected(requests: &[Request]) -> BTreeMap<u64, String> {
    requests.iter().map(|request| (request.id, format!("{:?}", reference(request, POSITIONS)))).collect()
}

#[tokio::test]
async fn submissions_with_the_same_ids_get_their_own_answers() {
    let worker = worker(MockDecoder::new(4, POSITIONS));
    let (mut first, mut second) = (rows(0..10), rows(0..10));
    first.iter_mut().for_each(|request| request.prompt.push(7));
    second.iter_mut().for_each(|request| request.prompt.push(9));
    let a = worker.submit(first.clone()).await.unwrap();
    let b = worker.submit(second.clone()).await.unwrap();
    let c = worker.submit(Vec::new()).await.unwrap();
    assert_eq!(all(a).await, expected(&first));
    assert_eq!(all(b).await, expected(&second));
    assert!(all(c).await.is_empty());
    let usage = worker.shared.usage();
    assert_eq!(usage.rows_done + usage.rows_failed, 20);
    assert_eq!(usage.prompt_tokens, 80);
    assert!(usage.steps > 0 && usage.busy_seconds > 0.0);
}

#[tokio::test]
async fn threads_of_its_own_change_nothing() {
    let options = EngineOptions { threads: 2, max_step_tokens: 8, ..EngineOptions::default() };
    let worker = spawn(Box::new(|_| Ok(Box::new(MockDecoder::new(4, POSITIONS)))), options);
    let answers = worker.submit(rows(0..20)).await.unwrap();
    assert_eq!(all(answers).await, expected(&rows(0..20)));
}

#[tokio::test]
async fn the_model_is_loaded_once_and_only_when_needed() {
    let loads = Arc::new(AtomicU64::new(0));
    let counted = loads.clone();
    let load: Load = Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(MockDecoder::new(4, POSITIONS)))
    });
    let worker = spawn(load, EngineOptions::default());
    assert_eq!(loads.load(Ordering::Relaxed), 0);
    let worker = Arc::new(worker);
    for _ in 0..2 {
        let worker = worker.clone();
        tokio::task::spawn_blocking(move || worker.load_blocking()).await.unwrap().unwrap();
    }
    all(worker.submit(rows(0..3)).await.unwrap()).await;
    assert_eq!(loads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_model_that_does_not_load_fails_its_rows_and_later_submissions() {
    let load: Load = Box::new(|_| Err(Error::new(Kind::Model, "the file is truncated").with("file", "m.gguf")));
    let worker = spawn(load, EngineOptions::default());
    let answers = all(worker.submit(rows(0..3)).await.unwrap()).await;
    assert_eq!(answers.len(), 3);
    assert!(answers.values().all(|answer| answer.contains("Device(") && answer.contains("m.gguf")));
    let error = worker.submit(rows(0..1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    assert!(error.to_string().contains("the file is truncated"));
    let error = tokio::task::spawn_blocking(move || worker.load_blocking()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
}

#[tokio::test]
async fn a_panic_fails_what_is_in_flight_and_what_comes_later() {
    let mut decoder = MockDecoder::new(4, POSITIONS);
    decoder.before = Box::new(|step, _| if step == 3 { panic!("a shader did not compile") } else { Ok(()) });
    let worker = worker(decoder);
    let answers = all(worker.submit(rows(0..30)).await.unwrap()).await;
    assert_eq!(answers.len(), 30);
    let hit = answers.values().filter(|answer| answer.contains("a shader did not compile")).count();
    assert!(hit >= 20, "{hit}");
    let error = worker.submit(rows(0..1)).await.unwrap_err();
    assert!(error.to_string().contains("a shader did not compile"), "{error}");
    assert_eq!(error.kind(), Kind::Internal);
    drop(worker);
}

#[tokio::test]
async fn a_device_that_is_lost_is_nothing_that_a_rerun_must_meet() {
    for panics in [false, true] {
        let mut decoder = MockDecoder::new(4, POSITIONS);
        decoder.before = Box::new(move |step, _| match step {
            3 if panics => panic!("wgpu error: Parent device is lost"),
            3 => Err(Error::new(Kind::Internal, "the logits cannot be read").source("DeviceLost")),
            _ => Ok(()),
        });
        let worker = worker(decoder);
        let answers = all(worker.submit(rows(0..30)).await.unwrap()).await;
        assert_eq!(answers.len(), 30);
        assert_eq!(worker.submit(rows(0..1)).await.unwrap_err().kind(), Kind::Temporary);
    }
    let worker = spawn(Box::new(|_| panic!("CUDA_ERROR_DEVICE_UNAVAILABLE")), EngineOptions::default());
    let error = tokio::task::spawn_blocking(move || worker.load_blocking()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Temporary, "{error}");
}

#[test]
fn a_model_that_does_not_fit_is_loaded_with_fewer_slots() {
    for panics in [false, true] {
        let load: Load = Box::new(move |slots| match slots {
            0..=4 => Ok(Box::new(MockDecoder::new(slots, POSITIONS))),
            _ if panics => panic!("out of memory"),
            _ => Err(Error::new(Kind::Temporary, "the cache does not fit").source("out of memory")),
        });
        let worker = spawn(load, EngineOptions { slots: 16, ..EngineOptions::default() });
        worker.load_blocking().unwrap();
    }
    let load: Load = Box::new(|_| Err(Error::new(Kind::Temporary, "out of memory")));
    assert!(spawn(load, EngineOptions::default()).load_blocking().is_err());
}

#[test]
fn a_panic_while_loading_is_an_error() {
    let worker = spawn(Box::new(|_| panic!("no adapter")), EngineOptions::default());
    let error = worker.load_blocking().unwrap_err();
    assert!(error.to_string().contains("no adapter"));
    assert!(worker.submit_blocking(rows(0..1)).is_err());
}

#[tokio::test]
async fn a_device_out_of_memory_goes_on_with_half_the_slots() {
    for panics in [false, true] {
        let mut decoder = MockDecoder::new(8, POSITIONS);
        decoder.before = Box::new(move |_, rows| match rows {
            0..=2 => Ok(()),
            _ if panics => panic!("wgpu: Out of Memory"),
            _ => Err(Error::new(Kind::Temporary, "the step failed").source("CUDA_ERROR_OUT_OF_MEMORY")),
        });
        let worker = worker(decoder);
        let answers = all(worker.submit(rows(0..20)).await.unwrap()).await;
        assert_eq!(answers, expected(&rows(0..20)));
    }
}

#[tokio::test]
async fn memory_that_never_suffices_fails_the_rows() {
    let mut decoder = MockDecoder::new(4, POSITIONS);
    decoder.before = Box::new(|_, _| Err(Error::new(Kind::Temporary, "out of memory")));
    let worker = worker(decoder);
    let answers = all(worker.submit(rows(0..5)).await.unwrap()).await;
    assert_eq!(answers.len(), 5);
    assert!(answers.values().all(|answer| answer.contains("out of memory")));
}

#[tokio::test]
async fn a_step_that_fails_is_not_the_end() {
    let mut decoder = MockDecoder::new(4, POSITIONS);
    decoder.before = Box::new(|step, _| match step {
        2 => Err(Error::new(Kind::Temporary, "a queue was lost")),
        _ => Ok(()),
    });
    let worker = worker(decoder);
    let answers = all(worker.submit(rows(0..12)).await.unwrap()).await;
    assert_eq!(answers.len(), 12);
    let failed = answers.values().filter(|answer| answer.contains("a queue was lost")).count();
    assert!((1..=4).contains(&failed), "{failed}");
    assert_eq!(all(worker.submit(rows(0..4)).await.unwrap()).await, expected(&rows(0..4)));
}

#[tokio::test]
async fn dropping_the_receiver_cancels_its_rows() {
    let mut decoder = MockDecoder::new(2, 100_000);
    decoder.before = Box::new(|_, _| {
        #[expect(clippy::disallowed_methods, reason = "the decoder's thread, in a test")]
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let worker = worker(decoder);
    // Rows that score many tokens would take minutes.
    let endless = |id| Request { score: Some(vec![1; 90_000]), ..request(id, &[1, 2], 0) };
    let abandoned = worker.submit((0..8).map(endless).collect()).await.unwrap();
    drop(abandoned);
    assert_eq!(all(worker.submit(rows(0..4)).await.unwrap()).await, expected(&rows(0..4)));
    assert_eq!(worker.shared.usage().rows_failed, 8);
}

#[tokio::test]
async fn dropping_the_engine_cancels_what_is_left_and_joins() {
    let worker = worker(MockDecoder::new(2, 100_000));
    let endless = |id| Request { score: Some(vec![1; 90_000]), ..request(id, &[1, 2], 0) };
    let answers = worker.submit((0..8).map(endless).collect()).await.unwrap();
    tokio::task::spawn_blocking(move || drop(worker)).await.unwrap();
    let answers = all(answers).await;
    assert_eq!(answers.len(), 8);
    assert!(answers.values().all(|answer| answer.contains("Cancelled")));
}

#[tokio::test]
async fn many_submissions_wait_their_turn() {
    let worker = Arc::new(worker(MockDecoder::new(4, POSITIONS)));
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let worker = worker.clone();
            tokio::spawn(async move { all(worker.submit(rows(0..50)).await.unwrap()).await })
        })
        .collect();
    let expected = expected(&rows(0..50));
    for task in tasks {
        assert_eq!(task.await.unwrap(), expected);
    }
}

#[test]
fn rows_may_come_from_outside_of_tokio() {
    let worker = worker(MockDecoder::new(4, POSITIONS));
    let mut answers = worker.submit_blocking(rows(0..4)).unwrap();
    let mut got = 0;
    while answers.blocking_recv().is_some() {
        got += 1;
    }
    assert_eq!(got, 4);
}
