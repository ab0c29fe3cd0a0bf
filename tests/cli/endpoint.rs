//! Nights whose reasons an OpenAI-compatible endpoint writes: nothing is paid twice, whatever the server or the run does.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chat_server::{ChatServer, Said};
use crate::common::{World, expect_code, stderr, stdout, summary};
use crate::night::{signal, wait_for};

const KEY: &str = "sk-very-secret";
/// A prompt about one item; what the template asks for of a history has two pieces in its first line.
const ONE_ITEM: &str = "Film Number 3 (1973)\n";

/// Settings of a job that asks this server, as flags.
fn flags(server: &ChatServer, more: &[&str]) -> Vec<String> {
    let generator = format!("model.generator={}", server.address);
    let own = [generator.as_str(), "model.endpoint_model=m", "model.endpoint_retry_seconds=0.3"];
    own.iter().chain(more).flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]).collect()
}

fn command(world: &World, server: &ChatServer, what: &str, more: &[&str], set: &[&str]) -> std::process::Command {
    let set = flags(server, set);
    let mut args = vec![what, "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    args.extend(more);
    args.extend(set.iter().map(String::as_str));
    let mut command = world.command(&args);
    command.env("OPENAI_API_KEY", KEY);
    command
}

fn run(world: &World, server: &ChatServer, set: &[&str]) -> std::process::Output {
    command(world, server, "run", &[], set).output().unwrap()
}

fn count(summary: &Value, name: &str) -> usize {
    summary[name].as_u64().unwrap() as usize
}

fn kept(world: &World) -> usize {
    world.sql("select count(*) as n from response where error is null")[0]["n"].as_u64().unwrap() as usize
}

/// What a run without disturbance publishes, and how many prompts it asks; nothing of it is left.
fn undisturbed(world: &World) -> (Vec<(String, String)>, usize) {
    let server = ChatServer::new(0);
    let out = run(world, &server, &[]);
    expect_code(&out, 0);
    let published = world.published();
    assert!(!published.is_empty());
    std::fs::remove_dir_all(world.path("warehouse")).unwrap();
    (published, server.seen().len())
}

#[test]
fn a_night_is_written_by_an_endpoint_and_asks_nothing_twice() {
    let world = World::new();
    let server = ChatServer::new(20);
    let out = run(&world, &server, &["model.endpoint_at_once=3"]);
    expect_code(&out, 0);
    let (first, seen) = (summary(&out), server.seen());
    assert_eq!(count(&first, "generated"), seen.len(), "{first}");
    assert_eq!(seen.iter().map(|(_, body)| body.to_string()).collect::<BTreeSet<_>>().len(), seen.len());
    assert!((2..=3).contains(&server.most_in_flight()), "{}", server.most_in_flight());
    assert_eq!(server.looks(), 0, "its model is named");
    for (head, body) in &seen {
        assert!(head.to_lowercase().contains(&format!("authorization: bearer {KEY}")), "{head}");
        assert_eq!((&body["model"], &body["max_tokens"], &body["temperature"]), (&json!("m"), &json!(6), &json!(0.0)));
    }
    // The stem of the template is asked for in words, and the answer counts as it is.
    let reasons = world.sql("select kind, reason from reason where error is null");
    assert!(reasons.iter().all(|row| row["reason"].as_str().unwrap().starts_with("People like it")), "{reasons:?}");
    let is_history = |body: &Value| {
        body["messages"][0]["content"].as_str().unwrap().ends_with("Begin the sentence with these words: The user")
    };
    assert!(seen.iter().any(|(_, body)| is_history(body)));
    let told = world.sql(
        "select model_digest, sum(prompt_tokens) as p, sum(completion_tokens) as c, min(logprob_sum) as l from response group by 1",
    );
    assert_eq!((told.len(), &told[0]["model_digest"]), (1, &"endpoint:m".into()));
    assert_eq!(told[0]["p"], first["prompt_tokens"]);
    assert_eq!(told[0]["c"], first["completion_tokens"]);
    assert_eq!(told[0]["l"], -0.5 * 6.0);
    assert!(!stderr(&out).contains(KEY));
    let manifest = std::path::Path::new(first["report"].as_str().unwrap()).with_file_name("manifest.json");
    assert!(!std::fs::read_to_string(manifest).unwrap().contains(KEY));

    // Another address, as after the server has moved, and everything built again: nothing is paid.
    let moved = ChatServer::new(0);
    assert_eq!(summary(&run(&world, &moved, &[]))["status"], "nothing_to_do");
    let again = command(&world, &moved, "run", &["--full"], &[]).output().unwrap();
    expect_code(&again, 0);
    assert_eq!((count(&summary(&again), "generated"), moved.seen().len(), moved.looks()), (0, 0, 0));
    // Another model is another answer; what it is called may be asked.
    let other = ChatServer::with(0, true, vec!["n"], Box::new(|_, _| Said::Answer));
    let out = run(&world, &other, &["model.endpoint_model="]);
    expect_code(&out, 0);
    assert_eq!(other.answered().len(), seen.len());
    assert_eq!(world.sql("select distinct model_digest from response").len(), 2);
    // In ad-hoc SQL it is asked, too.
    let set = flags(&other, &[]);
    let mut args = vec!["sql", "--job", "job.toml", "--format", "json", "select generate('Why?') as said"];
    args.extend(set.iter().map(String::as_str));
    let out = world.curec(&args);
    expect_code(&out, 0);
    assert!(stdout(&out).contains("People like it because of"), "{}", stdout(&out));
}

#[test]
fn a_server_that_goes_down_ends_the_run_and_the_next_one_pays_for_the_rest() {
    let world = World::new();
    let (published, prompts) = undisturbed(&world);
    let server = ChatServer::saying(|n, _| if n < 5 { Said::Answer } else { Said::Nothing });
    let out = run(&world, &server, &["model.endpoint_at_once=1"]);
    expect_code(&out, 75);
    let said = stderr(&out);
    assert!(said.contains("the endpoint does not answer") && said.contains("run the same command again"), "{said}");
    assert!(said.contains(&server.address) && !said.contains(KEY), "{said}");
    assert_eq!((kept(&world), world.published().len()), (5, 0));
    let up = ChatServer::new(0);
    let out = run(&world, &up, &[]);
    expect_code(&out, 0);
    assert_eq!((count(&summary(&out), "generated"), up.seen().len()), (prompts - 5, prompts - 5));
    let paid: BTreeSet<String> = server.answered().into_iter().chain(up.answered()).collect();
    assert_eq!(paid.len(), prompts, "one was paid twice");
    assert_eq!(world.published(), published);

    // One that is not there at all.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let generator = format!("model.generator=http://{gone}/v1");
    let out = run(&world, &up, &[&generator, "model.endpoint_model=other"]);
    expect_code(&out, 75);
    assert!(stderr(&out).contains("the endpoint does not answer"), "{}", stderr(&out));
}

#[test]
fn a_killed_run_pays_only_for_what_it_had_not_kept() {
    let world = World::new();
    let (published, prompts) = undisturbed(&world);
    let server = ChatServer::new(30);
    let set = ["model.endpoint_at_once=2", "response.flush_rows=1"];
    let mut child =
        command(&world, &server, "run", &[], &set).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("some answers", || server.answered().len() >= 6);
    child.kill().unwrap();
    child.wait().unwrap();
    let lost = server.answered().len() - kept(&world);
    assert!(server.answered().len() < prompts, "it was killed too late to prove anything");
    // In flight, or just come and not committed.
    assert!(lost <= 4, "{lost}");
    let out = run(&world, &server, &[]);
    expect_code(&out, 0);
    let answered = server.answered();
    assert_eq!(answered.iter().collect::<BTreeSet<_>>().len(), prompts);
    assert!(answered.len() <= prompts + 4, "{} answers to {prompts} prompts", answered.len());
    assert_eq!(world.published(), published);
}

#[test]
fn a_signal_waits_for_what_is_in_flight() {
    let world = World::new();
    let (published, prompts) = undisturbed(&world);
    let server = ChatServer::new(300);
    let set = ["model.endpoint_at_once=4", "response.flush_rows=1000", "response.flush_seconds=600"];
    let child =
        command(&world, &server, "run", &[], &set).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a second round of requests", || server.seen().len() > 4);
    signal(&child, "-TERM");
    let begun = Instant::now();
    let out = child.wait_with_output().unwrap();
    expect_code(&out, 75);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let sent = server.seen().len();
    assert!(sent < prompts, "it was stopped too late to prove anything");
    // Whatever was sent was paid, and is kept.
    assert_eq!((server.answered().len(), kept(&world)), (sent, sent));
    expect_code(&run(&world, &server, &["model.endpoint_at_once=32"]), 0);
    assert_eq!(server.seen().len(), prompts);
    assert_eq!(world.published(), published);
}

#[test]
fn a_server_that_asks_to_wait_is_waited_for() {
    let world = World::new();
    let (published, prompts) = undisturbed(&world);
    let slow = || Said::Status(429, "slow down".into(), Some(1));
    let server = ChatServer::saying(move |n, _| if n < 2 { slow() } else { Said::Answer });
    let begun = Instant::now();
    let out = run(&world, &server, &["model.endpoint_retry_seconds=30", "model.endpoint_at_once=2"]);
    expect_code(&out, 0);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let told = summary(&out);
    assert_eq!((count(&told, "generated"), count(&told, "failed_prompts")), (prompts, 0));
    assert_eq!(server.seen().len(), prompts + 2);
    assert_eq!(world.published(), published);

    // One that asks for longer than the job has patience for ends the run at once.
    std::fs::remove_dir_all(world.path("warehouse")).unwrap();
    let server = ChatServer::saying(|_, _| Said::Status(429, "enough for today".into(), Some(3600)));
    let begun = Instant::now();
    let out = run(&world, &server, &["model.endpoint_retry_seconds=30"]);
    expect_code(&out, 75);
    assert!(stderr(&out).contains("wait 3600 s") && begun.elapsed() < Duration::from_secs(20), "{}", stderr(&out));
}

#[test]
fn what_a_server_refuses_of_one_prompt_is_that_rows_error() {
    for (status, code) in [(400, "server_refused"), (500, "server_error")] {
        let world = World::new();
        let server = ChatServer::saying(move |_, prompt| match prompt.starts_with(ONE_ITEM) {
            true => Said::Status(status, format!("{{\"error\": \"not this one, {KEY}\"}}"), None),
            false => Said::Answer,
        });
        let out = run(&world, &server, &["model.endpoint_at_once=2"]);
        expect_code(&out, 0);
        assert_eq!(count(&summary(&out), "failed_prompts"), 1, "{}", summary(&out));
        let rows = world.sql("select item_id from reason where error is not null and kind = 'item'");
        assert_eq!((rows.len(), &rows[0]["item_id"]), (1, &"i03".into()), "{rows:?}");
        let rows = world.sql("select error, error_detail, prompt_tokens from response where error is not null");
        assert_eq!((rows.len(), &rows[0]["error"]), (1, &code.into()), "{rows:?}");
        let detail = rows[0]["error_detail"].as_str().unwrap();
        assert!(detail.contains("not this one") && !detail.contains(KEY), "{detail}");
        assert!(rows[0]["prompt_tokens"].as_u64().unwrap() > 0);
        // It is asked again where it is asked for, and nothing else is.
        let well = ChatServer::new(0);
        assert_eq!(summary(&run(&world, &well, &[]))["status"], "nothing_to_do");
        expect_code(&command(&world, &well, "run", &["--retry-failed"], &[]).output().unwrap(), 0);
        assert_eq!(well.answered().len(), 1);
        assert!(world.sql("select 1 from reason where error = 'server_refused' or error = 'server_error'").is_empty());
    }
    // Where it refuses every prompt, the failure budget ends the run.
    let world = World::new();
    let server = ChatServer::saying(|_, _| Said::Status(400, "unknown field".into(), None));
    let out = run(&world, &server, &[]);
    expect_code(&out, 1);
    assert!(stderr(&out).contains("server_refused"), "{}", stderr(&out));
}

#[test]
fn an_endpoint_that_takes_no_prompts_is_an_error_of_the_run_and_keeps_what_is_paid() {
    for (status, says) in [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "endpoint_model"), (402, "account")]
    {
        let world = World::new();
        let server = ChatServer::saying(move |n, _| match n < 4 {
            true => Said::Answer,
            false => Said::Status(status, format!("no, {KEY}"), None),
        });
        let out = run(&world, &server, &["model.endpoint_at_once=1"]);
        expect_code(&out, 2);
        let said = stderr(&out);
        assert!(said.contains("takes no prompts") && said.contains(says) && !said.contains(KEY), "{said}");
        assert_eq!((kept(&world), server.seen().len(), world.published().len()), (4, 5, 0));
    }
}

#[test]
fn what_a_run_may_spend_holds_for_an_endpoint_too() {
    let world = World::new();
    let (published, prompts) = undisturbed(&world);
    let server = ChatServer::new(0);
    let out = run(&world, &server, &["budget.max_tokens=200", "model.endpoint_at_once=2"]);
    expect_code(&out, 0);
    let first = summary(&out);
    let (paid, unpaid) = (count(&first, "generated"), count(&first, "unpaid"));
    assert!(paid > 0 && unpaid > 0 && paid + unpaid == prompts, "{first}");
    let tokens = count(&first, "prompt_tokens") + count(&first, "completion_tokens");
    assert!((200..300).contains(&tokens), "{first}");
    assert_eq!(server.seen().len(), paid);
    let out = run(&world, &server, &[]);
    expect_code(&out, 0);
    assert_eq!((count(&summary(&out), "generated"), server.seen().len()), (unpaid, prompts));
    assert_eq!(world.published(), published);
}

#[test]
fn refused_answers_are_asked_for_again_with_some_chance() {
    let world = World::new();
    let server = ChatServer::new(0);
    let refusing = ["sampling.attempts=2", "check.min_words=1000", "check.max_words=2000"];
    expect_code(&run(&world, &server, &refusing), 0);
    let (again, first): (Vec<_>, Vec<_>) =
        server.seen().into_iter().map(|(_, body)| body).partition(|body| body.get("seed").is_some());
    assert_eq!(first.len(), again.len());
    assert!(again.iter().all(|body| body["temperature"] == 0.7 && body["top_p"] == 0.9), "{again:?}");
    expect_code(&run(&world, &server, &refusing), 0);
    assert_eq!(server.seen().len(), 2 * first.len());
}

#[test]
fn a_server_that_tells_little_is_enough() {
    let world = World::new();
    let server = ChatServer::with(0, false, vec!["m"], Box::new(|_, _| Said::Answer));
    let out = run(&world, &server, &["model.endpoint_logprobs=false", "check.min_mean_logprob=-0.1"]);
    expect_code(&out, 0);
    assert!(stderr(&out).contains("does not tell `usage`"), "{}", stderr(&out));
    assert!(count(&summary(&out), "completion_tokens") > 0);
    assert!(server.seen().iter().all(|(_, body)| body.get("logprobs").is_none()));
    let rows =
        world.sql("select mean_logprob, score, refusal from reason_score where refusal is distinct from 'no_evidence'");
    assert!(!rows.is_empty());
    assert!(rows.iter().all(|row| row["mean_logprob"].is_null() && row["score"].as_f64().is_some()), "{rows:?}");
    assert!(rows.iter().all(|row| row["refusal"] != "unlikely"), "{rows:?}");
}

#[test]
fn a_plan_counts_and_a_check_looks_whether_the_model_is_served() {
    let world = World::new();
    let server = ChatServer::new(0);
    let planned = command(&world, &server, "plan", &[], &[]).output().unwrap();
    expect_code(&planned, 0);
    let text = stdout(&planned);
    assert!(text.contains("prompt tokens (estimated from characters)"), "{text}");
    assert_eq!((server.seen().len(), server.looks()), (0, 0), "a plan pays nothing");
    let folder = crate::common::fixture("tiny-qwen3").display().to_string();
    let tokenizer = format!("model.tokenizer={folder}");
    let exact = command(&world, &server, "plan", &["--json"], &[&tokenizer]).output().unwrap();
    let exact: Value = serde_json::from_str(&stdout(&exact)).unwrap();
    assert_eq!(exact["work"]["is_estimate"], false, "{exact}");
    assert!(exact["work"]["prompt_tokens"].as_u64().unwrap() > 0);

    let check = |set: &[&str], code: i32| {
        let set = flags(&server, set);
        let mut args = vec!["check", "job.toml", "--at", "2026-01-20"];
        args.extend(set.iter().map(String::as_str));
        let out = world.curec(&args);
        expect_code(&out, code);
        stdout(&out)
    };
    assert_eq!(check(&[], 0), "0 problems, 0 warnings\n");
    assert_eq!(check(&["model.endpoint_model="], 0), "0 problems, 0 warnings\n");
    let other = check(&["model.endpoint_model=other"], 2);
    assert!(other.contains("does not serve the model") && other.contains("it serves: m"), "{other}");
    let adapter = check(&["model.adapter=somewhere"], 2);
    assert!(adapter.contains("cannot load an adapter into a server"), "{adapter}");
    let aligned = check(&["prompt.item=aligned-item"], 2);
    assert!(aligned.contains("endpoint_stem"), "{aligned}");
    server.set_down(true);
    let down = check(&[], 2);
    assert!(down.contains("the endpoint does not answer"), "{down}");
    assert!(server.seen().is_empty());
}

#[test]
fn what_needs_a_model_of_this_machine_says_so() {
    let world = World::new();
    let server = ChatServer::new(0);
    let set = flags(&server, &[]);
    let mut args = vec!["sql", "--job", "job.toml", "select mean_logprob('a', 'b')"];
    args.extend(set.iter().map(String::as_str));
    let out = world.curec(&args);
    assert!(!out.status.success());
    assert!(stderr(&out).contains("the generator is an endpoint"), "{}", stderr(&out));
}
