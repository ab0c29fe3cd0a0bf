//! Reasons with fields: the sentence is the reason as ever, the fields are a table, and an answer that is cut off is refused.

use crate::common::{World, expect_code, stderr, summary};

/// A world whose model has room for an answer with fields: it knows nearly one token a letter.
fn world() -> World {
    let world = World::new();
    let file = world.path("writer/config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let wider = text.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 1024");
    assert_ne!(wider, text);
    std::fs::write(file, wider).unwrap();
    world
}

/// A run of the day whose answers have a field and at most so many tokens.
fn run(world: &World, tokens: usize, more: &[&str]) -> serde_json::Value {
    let tokens = format!("sampling.max_new_tokens={tokens}");
    let mut settings: Vec<&str> = Vec::new();
    for setting in ["prompt.fields=what", "model.max_positions=1024", "evidence.tokens=400", "model.slots=16", &tokens]
    {
        settings.extend(["--set", setting]);
    }
    settings.extend(more);
    let out = world.run(&settings);
    expect_code(&out, 0);
    summary(&out)
}

fn number(world: &World, query: &str) -> i64 {
    world.sql(query)[0]["n"].as_i64().unwrap()
}

#[test]
fn fields_are_a_table_beside_the_reasons() {
    let world = world();
    let plain = world.run(&[]);
    expect_code(&plain, 0);
    assert!(world.published().iter().all(|(path, _)| !path.contains("reason_field")), "nobody has asked for fields");

    let told = run(&world, 600, &[]);
    assert_eq!((&told["reasons"], &told["rows"]["reason_field"]), (&42.into(), &42.into()), "{told}");
    let rows = world.sql(
        "select r.reason, r.error, r.finish, p.prompt_text, p.answer_stem, s.text, f.what, f.praised \
         from reason as r join response as s on s.prompt_key = r.prompt_key \
         join reason_prompt as p on p.prompt_key = r.prompt_key join reason_field as f on f.prompt_key = r.prompt_key",
    );
    let mut whole = 0;
    for row in &rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        assert!(text("prompt_text").contains("JSON") && row["praised"].is_null(), "{row}");
        if text("finish") != "stop" {
            assert_eq!((text("error"), &row["what"]), ("bad_format", &serde_json::Value::Null), "{row}");
            continue;
        }
        whole += 1;
        let answer: serde_json::Value =
            serde_json::from_str(&format!("{}{}", text("answer_stem"), text("text"))).unwrap();
        assert_eq!(answer["reason"].as_str().map(str::trim), row["reason"].as_str(), "{row}");
        assert_eq!(answer["what"].as_str().unwrap().trim(), text("what"), "{row}");
    }
    assert!(whole > 0, "no answer is whole: {rows:?}");

    // Whatever the batches, the same bytes; and nothing is paid twice where the table alone is made again.
    let published = world.published();
    std::fs::remove_dir_all(world.path("warehouse/reason_field")).unwrap();
    assert_eq!(run(&world, 600, &[])["generated"], 0);
    assert_eq!(world.published(), published);
    std::fs::remove_dir_all(world.path("warehouse")).unwrap();
    run(&world, 600, &["--set", "model.slots=3"]);
    assert_eq!(world.published(), published, "order or batches changed the bytes");
}

#[test]
fn what_is_cut_off_is_refused_and_fails_no_run() {
    let world = world();
    let told = run(&world, 64, &[]);
    assert_eq!(told["status"], "published", "{told}");
    let cut = number(&world, "select count(*) as n from reason where finish = 'length'");
    assert!(cut > 0);
    assert_eq!(
        number(&world, "select count(*) as n from reason where finish = 'length' and error = 'bad_format'"),
        cut
    );
    assert_eq!(number(&world, "select count(*) as n from reason_field"), 42);
}

#[test]
fn settings_that_cannot_go_well_are_refused_at_once() {
    let world = world();
    for (settings, told) in [
        (vec!["prompt.fields=mood", "sampling.max_new_tokens=200"], "what, praised, faulted, for_whom; got `mood`"),
        (vec!["prompt.fields=what,what", "sampling.max_new_tokens=200"], "names what twice"),
        (vec!["prompt.fields=what,praised", "sampling.max_new_tokens=95"], "must be at least 96"),
        (
            vec!["prompt.fields=what", "sampling.max_new_tokens=64", "prompt.item=aligned-item"],
            "leave [prompt] fields empty",
        ),
    ] {
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
        let out = world.run(&arguments);
        expect_code(&out, 2);
        assert!(stderr(&out).contains(told), "{}", stderr(&out));
    }
}
