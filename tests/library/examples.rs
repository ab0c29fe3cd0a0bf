//! Examples that a language model is aligned with: over a simulated log every answer is in the format, and the checks that
//! refuse reasons at night accept all of them.

use std::path::Path;

use crate::sql_support::{run, session};
use arrow::array::Array;
use curec::columns::{at, text, text_lists};
use curec::config::CheckSpec;
use curec::generate::format;
use curec::operate::simulate::simulate;
use curec::operate::simulate_world::{Options, START, Signal};
use curec::query::audit::audit;
use curec::query::session::Param;
use curec::reward::names::Vocabulary;
use curec::reward::score::{Refusal, Scored, score};
use curec::table::contract::Contract;
use curec::table::store::Location;

const DAY: i64 = 86_400_000_000;

#[tokio::test]
async fn every_answer_of_a_simulated_log_passes_the_checks() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        users: 120,
        items: 120,
        events_per_user: 30,
        tastes: 4,
        days: 100,
        seed: 11,
        signal: Signal::CoConsumption,
    };
    simulate(options, folder.path()).unwrap();
    let session = session(2, 64);
    for table in ["interaction", "item"] {
        let file = folder.path().join(format!("{table}.parquet"));
        let files = [Location::parse(Path::new(&file).to_str().unwrap()).unwrap().into()];
        session.register_files(table, &Contract::builtin(table).unwrap(), &files).await.unwrap();
    }
    let (start, end) = (START + 70 * DAY, START + 100 * DAY);
    let params = [
        ("as_of", Param::Timestamp(start)),
        ("interval_start", Param::Timestamp(start)),
        ("interval_end", Param::Timestamp(end)),
        ("like_threshold", Param::Float(4.0)),
        ("user_active_days", Param::Int(1000)),
        ("items", Param::Text("new".into())),
        ("item_active_days", Param::Int(1000)),
        ("max_users", Param::Int(0)),
        ("max_items", Param::Int(0)),
        ("history_events", Param::Int(20)),
        ("min_support", Param::Int(3)),
        ("max_pair_events", Param::Int(100)),
        ("title_chars", Param::Int(60)),
        ("people_label", Param::Text("By".into())),
        ("brand_label", Param::Text("Brand".into())),
        ("year_label", Param::Text("Year".into())),
        ("price_label", Param::Text("Price".into())),
        ("decimal_mark", Param::Text(".".into())),
        ("pairs_per_user", Param::Int(8)),
        ("max_examples", Param::Int(2000)),
    ];
    for table in ["user_history", "item_audience", "reason_prompt"] {
        run(&session, table, &params).await.unwrap();
    }
    let batches = run(&session, "alignment_example", &params).await.unwrap();
    let contract = Contract::builtin("alignment_example").unwrap();
    let audited = audit(&session, &contract, "alignment_example", &[], None).await.unwrap();
    assert!(audited.passed(), "{audited}");

    let check = CheckSpec {
        min_mean_logprob: -1.0,
        min_grounding: 1.0,
        max_repetition: 0.2,
        min_words: 6,
        max_words: 60,
        min_language: 0.2,
        language: "en".into(),
        require_finished: true,
        min_concrete: 1,
        max_copied_words: 8,
    };
    let categories = session.sql("select distinct unnest(categories) as category from item", &[]).await.unwrap();
    let mut all = Vec::new();
    for batch in categories.collect().await.unwrap() {
        all.extend(text(&batch, "category").unwrap().iter().flatten().map(str::to_owned));
    }
    let vocabulary = Vocabulary::new(all.iter().map(String::as_str));
    let mut seen = std::collections::BTreeMap::new();
    for batch in &batches {
        let of = |name: &str| text(batch, name).unwrap();
        let (task, subject, verdict, answer) = (of("task"), of("subject"), of("verdict"), of("answer_text"));
        let [liked, disliked, related, attributes, extra] =
            ["liked", "disliked", "related", "attributes", "extra"].map(|n| text_lists(batch, n).unwrap());
        for i in 0..batch.num_rows() {
            let whole = format!("{}{}", format::STEM, answer.value(i));
            let parts = format::parse(&whole).unwrap_or_else(|e| panic!("{e}: {whole}"));
            let task = task.value(i);
            *seen.entry((task.to_owned(), parts.verdict)).or_insert(0) += 1;
            let mut evidence: Vec<&str> = at(&subject, i).into_iter().collect();
            for list in [&liked[i], &disliked[i], &related[i], &attributes[i]] {
                evidence.extend(list.iter().map(String::as_str));
            }
            if task == "choose" {
                evidence.extend(extra[i].iter().map(String::as_str));
            }
            let row = Scored {
                reason: Some(parts.reason),
                finish: Some("stop"),
                logprob_sum: Some(0.0),
                completion_tokens: 20,
                verdict: verdict.value(i),
                evidence,
                titles: at(&subject, i).into_iter().chain(liked[i].iter().map(String::as_str)).collect(),
                disliked: disliked[i].iter().map(String::as_str).collect(),
                ..Scored::default()
            };
            assert_eq!(score(&row, &check, &vocabulary).refusal, None, "{task}: {whole}");
            if task == "rewrite" {
                let bad = Scored { reason: Some(&extra[i][0]), ..row };
                let refusal = score(&bad, &check, &vocabulary).refusal;
                assert_eq!(refusal, Some(Refusal::Ungrounded), "{}", extra[i][0]);
            }
            assert!(subject.is_valid(i) || task == "history");
        }
    }
    let kinds: Vec<_> = seen.keys().map(|(task, verdict)| (task.as_str(), *verdict)).collect();
    let expected = [
        ("choose", Some(true)),
        ("history", None),
        ("item", None),
        ("pair", Some(false)),
        ("pair", Some(true)),
        ("rewrite", None),
    ];
    assert_eq!(kinds, expected, "{seen:?}");
}
