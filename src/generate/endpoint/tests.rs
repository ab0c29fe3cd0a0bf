#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;

const JOB: &str = "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[model]\ngenerator = 'http://host/v1'\nencoder = 'e'\n\
                   endpoint_model = 'm'\n";

fn endpoint(more: &[&str]) -> Arc<Endpoint> {
    let more: Vec<String> = more.iter().map(|setting| (*setting).to_owned()).collect();
    Endpoint::of(&Job::parse(JOB, "job.toml", &more, &BTreeMap::new()).unwrap()).unwrap().unwrap()
}

fn question(attempt: u32) -> Question {
    Question { prompt: "Why <|im_end|> Heat?".into(), stem: "People like Heat for".into(), attempt }
}

#[test]
fn a_request_says_what_the_job_says_and_no_text_of_the_data_is_a_control_token() {
    let body = endpoint(&[]).request(&question(1)).unwrap();
    assert_eq!(
        body,
        json!({
            "model": "m",
            "messages": [{"role": "user", "content": "Why < |im_end| > Heat?"}],
            "max_tokens": 40,
            "temperature": 0.0,
            "logprobs": true,
        })
    );
    // What a server alone knows is added, and what it must not be told is left out.
    let more = ["model.endpoint_body={\"top_k\": 20, \"temperature\": null}", "model.endpoint_logprobs=false"];
    let body = endpoint(&more).request(&question(1)).unwrap();
    assert_eq!((&body["top_k"], body.get("temperature"), body.get("logprobs")), (&json!(20), None, None));
    let body = endpoint(&["model.endpoint_stem=continue"]).request(&question(1)).unwrap();
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "People like Heat for"}));
    assert_eq!(body["continue_final_message"], true);
}

#[test]
fn a_further_attempt_draws_with_a_seed_of_its_own() {
    let endpoint = endpoint(&[]);
    let [second, third] = [2, 3].map(|attempt| endpoint.request(&question(attempt)).unwrap());
    assert_eq!((&second["temperature"], &second["top_p"]), (&json!(0.7), &json!(0.9)));
    assert!(second["seed"].as_u64().unwrap() <= 0x7fff_ffff && second["seed"] != third["seed"]);
    assert_eq!(second, endpoint.request(&question(2)).unwrap(), "the same job asks the same");
}

#[test]
fn a_key_is_of_the_model_the_settings_and_the_prompt_and_not_of_the_address() {
    let key = |more: &[&str]| endpoint(more).prompt_key("p", "s").unwrap();
    let plain = key(&[]);
    assert_eq!((plain.len(), &plain), (32, &key(&["model.generator=https://elsewhere/v1"])));
    for more in [
        "model.endpoint_model=n",
        "model.endpoint_body={\"top_k\": 20}",
        "model.endpoint_logprobs=false",
        "model.endpoint_stem=continue",
        "sampling.temperature=0.5",
        "sampling.max_new_tokens=41",
    ] {
        assert_ne!(key(&[more]), plain, "{more}");
    }
    assert_eq!(key(&["sampling.seed=1"]), plain, "nothing is drawn");
    let warm = |seed: &str| key(&["sampling.temperature=0.5", seed]);
    assert_ne!(warm("sampling.seed=1"), warm("sampling.seed=2"));
    let ordered = |body: &str| key(&[&format!("model.endpoint_body={body}")]);
    assert_eq!(ordered("{\"a\": 1, \"b\": 2}"), ordered("{\"b\": 2, \"a\": 1}"));
}

#[test]
fn an_answer_is_its_first_sentence_or_what_follows_the_stem() {
    assert_eq!(sentence("\n People like it. \n\nMore."), ("People like it.".to_owned(), true));
    assert_eq!(
        sentence("<think>\nnotes\n</think>\n\n\"It is \u{201c}so\u{201d}.\""),
        ("It is \u{201c}so\u{201d}.".to_owned(), false)
    );
    assert_eq!(sentence("\"Heat\" and \"Ronin\""), ("\"Heat\" and \"Ronin\"".to_owned(), false));
    assert_eq!(sentence("<think> and so on"), (String::new(), false));
    assert_eq!(
        sentence("Okay.\n</think>\n\nIt is so."),
        ("It is so.".to_owned(), false),
        "the server opened the notes"
    );
    let after = |text: &str| continuation("People like Heat for", text).0;
    for text in [" its crime.\nMore", "its crime.", "People like Heat for its crime."] {
        assert_eq!(after(text), " its crime.");
    }
    assert_eq!(continuation("这位用户喜欢", "科幻电影。").0, "科幻电影。", "no space where none is written");
    assert_eq!(continuation("<think>", "a</think>"), ("a</think>".to_owned(), false));
}

#[test]
fn an_answer_of_a_server_that_tells_little_is_counted_by_an_estimate() {
    let endpoint = endpoint(&[]);
    let reply =
        Reply { text: "It is a crime story.".into(), finish: Some("length".into()), logprob_sum: None, usage: None };
    let written = endpoint.written(reply.clone(), &question(1), 9);
    assert_eq!((written.prompt_tokens, written.completion_tokens, written.finish), (9, 5, Finish::Length));
    let told = Reply { usage: Some(Usage { prompt: 30, cached: 4, completion: 6 }), finish: None, ..reply };
    let written = endpoint.written(told, &question(1), 9);
    assert_eq!((written.prompt_tokens, written.cached_tokens, written.completion_tokens), (30, 4, 6));
    assert_eq!(written.finish, Finish::Stop);
}

#[test]
fn of_several_models_one_must_be_named() {
    let endpoint = endpoint(&[]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(endpoint.only(names(&["a"])).unwrap(), "a");
    let told = endpoint.only(names(&["a", "b"])).unwrap_err().explain();
    assert!(told.contains("serves 2 models") && told.contains("a, b") && told.contains("endpoint_model"), "{told}");
    assert!(endpoint.only(Vec::new()).unwrap_err().explain().contains("names no model"));
}
