//! What a run may spend: a cap that is reached, what is published then, and what a later run still pays for.

use crate::common::{World, expect_code, stderr, stdout, summary};

type Published = Vec<(String, String)>;

/// The flags that set settings.
fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", *setting]).collect()
}

fn tokens(summary: &serde_json::Value) -> u64 {
    ["prompt_tokens", "completion_tokens"].iter().map(|name| summary[*name].as_u64().unwrap()).sum()
}

fn count(summary: &serde_json::Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap()
}

/// What a run without a cap tells and publishes; nothing of it is left.
fn without_cap(world: &World, settings: &[&str]) -> (serde_json::Value, Published) {
    let out = world.run(&set(settings));
    expect_code(&out, 0);
    let told = (summary(&out), world.published());
    assert_eq!(told.0["unpaid"], 0, "{}", told.0);
    std::fs::remove_dir_all(world.path("warehouse")).unwrap();
    told
}

fn plan(world: &World, more: &[&str]) -> String {
    let interval = ["--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
    let out = world.curec(&[&["plan", "job.toml"][..], &interval, more].concat());
    expect_code(&out, 0);
    stdout(&out)
}

#[test]
fn what_is_paid_is_published_and_the_next_run_pays_for_the_rest() {
    let world = World::new();
    let (whole, published) = without_cap(&world, &[]);
    let most = tokens(&whole) / 3;
    let cap = format!("budget.max_tokens={most}");
    let out = world.run(&set(&[&cap, "model.slots=1"]));
    expect_code(&out, 0);
    let first = summary(&out);
    let (paid, unpaid) = (count(&first, "generated"), count(&first, "unpaid"));
    assert!(paid > 0 && unpaid > 0, "{first}");
    assert_eq!(paid + unpaid, count(&whole, "generated"));
    assert!(tokens(&first) >= most, "stopped too early: {first}");
    // One slot: one prompt at the most was in flight.
    assert!(tokens(&first) < most + 256, "{first}");
    assert_eq!(first["failed_prompts"], 0);
    assert!(stderr(&out).contains(&format!("max_tokens {most}")), "{}", stderr(&out));
    let report = std::fs::read_to_string(first["report"].as_str().unwrap()).unwrap();
    assert!(report.contains("[budget] max_tokens is reached"));

    // Rows that were not paid for say so, and have features of their evidence.
    let flagged = world.sql("select count(*) as n from reason_score where refusal = 'budget' and not accepted");
    let without = world.sql("select count(*) as n from reason where error = 'not_generated'");
    assert!(flagged[0]["n"].as_u64() >= Some(unpaid), "{flagged:?}");
    assert_eq!(flagged, without);
    let sources = world.sql(
        "select distinct f.source from user_feature as f join reason_score as s on s.user_id = f.user_id \
         where s.kind = 'history' and s.refusal = 'budget'",
    );
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert_eq!(sources[0]["source"], "evidence");

    // The same day again without a cap pays for the rest alone, and nothing tells that there was one.
    let planned = plan(&world, &[]);
    assert!(planned.contains(&format!("build: [budget] left {unpaid} prompt(s) unpaid")), "{planned}");
    assert!(planned.contains("reason_prompt   up to date"), "{planned}");
    let out = world.run(&[]);
    expect_code(&out, 0);
    let second = summary(&out);
    assert_eq!((count(&second, "generated"), count(&second, "unpaid")), (unpaid, 0), "{second}");
    assert_eq!(tokens(&first) + tokens(&second), tokens(&whole));
    assert_eq!(world.published(), published);
    assert_eq!(summary(&world.run(&[]))["status"], "nothing_to_do");
    // Nor does a cap that is not reached change anything.
    assert_eq!(summary(&world.run(&set(&["budget.max_tokens=1000000"])))["status"], "nothing_to_do");
}

#[test]
fn items_with_the_most_users_are_paid_for_first() {
    let world = World::new();
    let (whole, _) = without_cap(&world, &[]);
    let cap = format!("budget.max_tokens={}", tokens(&whole) / 10);
    expect_code(&world.run(&set(&[&cap, "model.slots=1"])), 0);
    let kinds = world.sql("select distinct kind from reason where error is null");
    assert!(kinds.len() == 1 && kinds[0]["kind"] == "item", "{kinds:?}");
    let users = |condition: &str| -> Vec<u64> {
        let query = format!(
            "select a.n_users from reason as r join item_audience as a on a.item_id = r.item_id \
             where r.kind = 'item' and r.error {condition} order by 1"
        );
        world.sql(&query).iter().map(|row| row["n_users"].as_u64().unwrap()).collect()
    };
    let (paid, unpaid) = (users("is null"), users("is not null"));
    assert!(paid[0] >= unpaid[unpaid.len() - 1], "{paid:?} {unpaid:?}");
    assert!(paid[paid.len() - 1] > unpaid[0], "all items have as many users: the test says nothing");
}

#[test]
fn a_run_that_is_to_stop_publishes_nothing_and_keeps_its_answers() {
    let world = World::new();
    let (whole, published) = without_cap(&world, &[]);
    let cap = format!("budget.max_tokens={}", tokens(&whole) / 3);
    let out = world.run(&set(&[&cap, "budget.on_reached=stop", "model.slots=1"]));
    expect_code(&out, 1);
    assert_eq!(summary(&out)["status"], "budget");
    let said = stderr(&out);
    for part in ["max_tokens", "prompts are not paid", "answers of this run", "never paid for twice", "on_reached"] {
        assert!(said.contains(part), "the message lacks `{part}`:\n{said}");
    }
    assert!(world.published().is_empty());
    let kept = world.sql("select count(*) as n from response")[0]["n"].as_u64().unwrap();
    let prompts = count(&whole, "generated");
    assert!(kept > 0 && kept < prompts, "{kept} of {prompts}");

    // What is left fits under a cap that is large enough, and what was kept is not paid for again.
    let out = world.run(&set(&["budget.max_tokens=1000000", "budget.on_reached=stop"]));
    expect_code(&out, 0);
    assert_eq!(count(&summary(&out), "generated"), prompts - kept);
    assert_eq!(world.published(), published);
}

#[test]
fn minutes_and_cost_are_caps_too() {
    let world = World::new();
    let (whole, published) = without_cap(&world, &[]);
    // So short that nothing is begun: all features are of the evidence.
    let out = world.run(&set(&["budget.max_minutes=0.0000001"]));
    expect_code(&out, 0);
    let none = summary(&out);
    assert_eq!((count(&none, "generated"), count(&none, "unpaid")), (0, count(&whole, "generated")), "{none}");
    assert_eq!(world.sql("select count(*) as n from item_feature where source = 'evidence'")[0]["n"], 18);

    // One a prompt token; generated tokens are free.
    let most = count(&whole, "prompt_tokens") / 3;
    let cost = format!("budget.max_cost={most}");
    let refused = world.run(&set(&[&cost]));
    expect_code(&refused, 2);
    assert!(stderr(&refused).contains("budget.max_cost: needs a price"), "{}", stderr(&refused));
    let out = world.run(&set(&[&cost, "price.prompt_tokens_million=1000000", "model.slots=1"]));
    expect_code(&out, 0);
    let some = summary(&out);
    assert!(count(&some, "prompt_tokens") >= most && count(&some, "unpaid") > 0, "{some}");
    assert_eq!(count(&some, "generated") + count(&some, "unpaid"), count(&whole, "generated"));
    // Each run has a cap of its own: what was paid before does not count.
    let out = world.run(&set(&["budget.max_cost=1000000", "price.prompt_tokens_million=1000000"]));
    assert_eq!(count(&summary(&out), "generated"), count(&some, "unpaid"));
    assert_eq!(world.published(), published);
}

#[test]
fn refused_answers_are_not_asked_for_again_beyond_a_cap() {
    let world = World::new();
    let refusing = ["sampling.attempts=3", "check.min_words=1000", "check.max_words=2000"];
    let (whole, published) = without_cap(&world, &refusing);
    let cap = format!("budget.max_tokens={}", tokens(&whole) / 3);
    let out = world.run(&set(&[&refusing[..], &[cap.as_str(), "model.slots=1"]].concat()));
    expect_code(&out, 0);
    let first = summary(&out);
    assert!(count(&first, "unpaid") > 0, "{first}");
    let out = world.run(&set(&refusing));
    expect_code(&out, 0);
    assert_eq!(count(&first, "generated") + count(&summary(&out), "generated"), count(&whole, "generated"));
    assert_eq!(world.published(), published);
    assert_eq!(summary(&world.run(&set(&refusing)))["status"], "nothing_to_do");
}

#[test]
fn a_plan_says_how_far_a_cap_reaches() {
    let world = World::new();
    let (whole, _) = without_cap(&world, &[]);
    assert!(!plan(&world, &[]).contains("[budget]"), "{}", plan(&world, &[]));
    let fits = plan(&world, &set(&["budget.max_tokens=1000000", "budget.max_minutes=600"]));
    assert!(fits.contains("[budget] max_tokens 1000000, max_minutes 600: the estimate fits"), "{fits}");

    let (most, prompts) = (tokens(&whole) / 3, count(&whole, "generated"));
    let cap = format!("budget.max_tokens={most}");
    let short = plan(&world, &set(&[&cap]));
    assert!(short.contains(&format!("[budget] max_tokens {most} would be reached: about ")), "{short}");
    assert!(
        short.contains(&format!(" of {prompts} prompts (")) && short.contains("the other rows get features"),
        "{short}"
    );
    let stops = plan(&world, &set(&[&cap, "budget.on_reached=stop"]));
    assert!(stops.contains("then the run stops and publishes nothing"), "{stops}");
    let json = plan(&world, &[&set(&[&cap])[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let share = json["work"]["cap"]["share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{json}");
    assert_eq!(json["work"]["cap"]["reached"], format!("max_tokens {most}"));
}
