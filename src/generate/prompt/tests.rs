//! Templates of every language over evidence, what is wrong with them, and keys.

#![allow(clippy::unwrap_used)]
use super::*;

fn evidence() -> Evidence {
    Evidence {
        kind: "item".into(),
        subject: Some("Heat (1995)".into()),
        verdict: "like".into(),
        liked: vec!["Ronin (1998)".into(), "Se7en (1995)".into()],
        attributes: vec!["Crime".into()],
        ..Evidence::default()
    }
}

#[test]
fn built_in_templates_use_the_evidence() {
    let (user, stem) = PromptTemplate::load("item").unwrap().render(&evidence()).unwrap();
    assert!(user.contains("Heat (1995)") && user.contains("Ronin (1998)") && user.contains("Crime"), "{user}");
    assert!(stem.contains("Heat (1995)"), "{stem}");
    let (user, _) = PromptTemplate::load("history").unwrap().render(&evidence()).unwrap();
    assert!(user.contains("Se7en (1995)"), "{user}");
}

#[test]
fn evidence_without_sentences_is_asked_about_as_ever() {
    // Prompts of jobs without descriptions and reviews, and so the keys of their answers, stay.
    let (user, stem) = PromptTemplate::load("item").unwrap().render(&evidence()).unwrap();
    assert_eq!(
        user,
        "Title: Heat (1995)\nCategories: Crime\nPeople who like it also like: Ronin (1998); Se7en (1995)\n\
         Explain in one sentence why people like this item."
    );
    assert_eq!(stem, "People who like Ronin (1998) and Se7en (1995) enjoy Heat (1995) because");
    let (user, stem) = PromptTemplate::load("history").unwrap().render(&evidence()).unwrap();
    assert_eq!(
        user,
        "A user liked these items: Ronin (1998); Se7en (1995).\nFavourite categories: Crime.\n\
         In one short sentence, say why."
    );
    assert_eq!(stem, "The user likes Ronin (1998) and Se7en (1995) because these items are");
}

#[test]
fn sentences_and_keywords_are_shown() {
    let full = |kind: &str, verdict: &str| Evidence {
        kind: kind.into(),
        verdict: verdict.into(),
        content: vec!["A thief plans a robbery.".into()],
        praise: vec!["Loud gunfights.".into()],
        fault: vec!["It drags.".into()],
        keywords: vec!["heist".into()],
        ..evidence()
    };
    let films = |name: &str| {
        let path = format!("{}/jobs/templates/{name}", env!("CARGO_MANIFEST_DIR"));
        PromptTemplate::parse(&std::fs::read_to_string(path).unwrap(), name).unwrap()
    };
    for (kind, templates) in [
        ("item", [PromptTemplate::load("item").unwrap(), films("film-item.j2")]),
        ("history", [PromptTemplate::load("history").unwrap(), films("film-history.j2")]),
    ] {
        for template in templates {
            for verdict in ["like", "dislike", "mixed"] {
                let (user, stem) = template.render(&full(kind, verdict)).unwrap();
                for shown in ["thief plans", "Loud gunfights", "It drags", "heist", "Crime", "at most 35 words"] {
                    assert!(user.contains(shown), "{kind} {shown}: {user}");
                }
                assert!(!user.contains("\n\n") && !user.ends_with('\n'), "{user}");
                assert!(!stem.contains('\n') && !stem.is_empty(), "{stem}");
                assert_eq!(stem.contains("not like"), verdict == "dislike", "{stem}");
                // One of the new lists alone, and nothing besides.
                let alone = Evidence { verdict: verdict.into(), keywords: vec!["heist".into()], ..Evidence::default() };
                assert!(template.question(&alone).unwrap().starts_with("Key words: heist\n"));
            }
        }
    }
    let (_, stem) = PromptTemplate::load("item").unwrap().render(&full("item", "like")).unwrap();
    assert_eq!(stem, "People pick Heat (1995) for");
}

#[test]
fn a_pair_is_asked_about_with_what_speaks_for_the_item() {
    let template = PromptTemplate::load("pair").unwrap();
    let bare = Evidence { kind: "pair".into(), related: vec!["Ronin (1998)".into()], ..evidence() };
    let (user, stem) = template.render(&bare).unwrap();
    assert_eq!(
        user,
        "Title: Heat (1995)\nPeople who like it also like: Ronin (1998)\nA user liked: Ronin (1998); Se7en (1995)\n\
         Its categories that the user likes: Crime\nIn one sentence of at most 35 words, say why this user may like this \
         item. Name what it shares with what the user likes, and use your own words."
    );
    assert_eq!(stem, "The user may like Heat (1995) because");
    let full = Evidence {
        content: vec!["A thief plans a robbery.".into()],
        praise: vec!["Loud gunfights.".into()],
        fault: vec!["It drags.".into()],
        keywords: vec!["heist".into()],
        disliked: vec!["Cats (2019)".into()],
        ..bare
    };
    let user = template.question(&full).unwrap();
    for shown in ["thief plans", "Loud gunfights", "It drags", "heist", "Cats", "one concrete element"] {
        assert!(user.contains(shown), "{shown}: {user}");
    }
    assert!(!user.contains("\n\n"), "{user}");
    assert_eq!(template.stem(&Evidence::default()).unwrap(), "The user may like it because");
}

#[test]
fn fields_are_asked_for_after_the_question_and_no_title_leaves_its_string() {
    let fields = Fields::of(&crate::config::PromptSpec {
        item: String::new(),
        history: String::new(),
        pair: String::new(),
        fields: "what, praised".into(),
    });
    let titled = Evidence { subject: Some("\"},{\\".into()), ..evidence() };
    let plain = PromptTemplate::load("item").unwrap();
    let (question, stem) = plain.render(&titled).unwrap();
    let asking = PromptTemplate::load("item").unwrap().asking(&fields).unwrap();
    let (with_fields, json) = asking.render(&titled).unwrap();
    assert_eq!(with_fields, format!("{question}\n{}", fields.request()));
    assert_ne!(asking.digest(), plain.digest());
    assert_eq!(format::reason_text(&json, r#" x.","what":"","praised":""}"#), Some(format!("{stem} x.")));
    let unchanged = PromptTemplate::load("item").unwrap().asking(&Fields::default()).unwrap();
    assert_eq!((unchanged.digest(), unchanged.question(&titled).unwrap()), (plain.digest(), question));
    let aligned = PromptTemplate::load("aligned-item").unwrap().asking(&fields).unwrap_err();
    assert_eq!(aligned.kind(), Kind::Config);
}

#[test]
fn a_stem_that_cannot_begin_the_answer_is_asked_for() {
    let [plain, asking] = [0, 1].map(|_| PromptTemplate::load("history").unwrap());
    let asking = asking.asking_for_stem().unwrap();
    let (question, stem) = plain.render(&evidence()).unwrap();
    let told = format!("{question}\n{BEGIN_WITH}{stem}");
    assert_eq!(asking.render(&evidence()).unwrap(), (told, String::new()));
    assert_ne!(asking.digest(), plain.digest());
    let aligned = PromptTemplate::load("aligned-item").unwrap().asking_for_stem().unwrap_err().explain();
    assert!(aligned.contains("endpoint_stem"), "{aligned}");
}

#[test]
fn data_is_never_a_template() {
    let mut e = evidence();
    e.subject = Some("{{ 7 * 7 }} {% raw %} <b>".into());
    let (user, _) = PromptTemplate::load("item").unwrap().render(&e).unwrap();
    assert!(user.contains("{{ 7 * 7 }} {% raw %} <b>"), "{user}");
}

#[test]
fn blank_texts_say_nothing() {
    assert!(is_blank("") && is_blank(" \n\t\u{0}\u{7f}\u{200b}\u{202e}\u{feff}"));
    assert!(!is_blank("?") && !is_blank(" \u{202e}a"));
}

#[test]
fn token_ids_wait_for_their_request_while_there_is_room() {
    let mut held = Tokenized::with_room(2 * ENTRY + 5);
    let [a, b, c] = [("a", ""), ("", "a"), ("b", "")].map(|(prompt, stem)| Tokenized::name(prompt, stem));
    assert!(a != b && b != c);
    held.keep(a, &[1, 2, 3]);
    held.keep(a, &[1, 2, 3]);
    held.keep(b, &[4, 5, 6]);
    assert_eq!((held.get(&a), held.get(&b)), (Some([1, 2, 3].as_slice()), None), "there is no room for the second");
    held.keep(c, &[7, 8]);
    assert_eq!((held.take(&a), held.take(&a)), (Some(vec![1, 2, 3]), None));
    held.keep(b, &[4, 5, 6]);
    assert_eq!((held.take(&b), held.take(&c)), (Some(vec![4, 5, 6]), Some(vec![7, 8])));
    assert_eq!(held.room, 2 * ENTRY + 5);
}

#[test]
fn mistakes_name_the_file_and_the_line() {
    let e = PromptTemplate::parse("hello", "x.j2").unwrap_err();
    assert!(e.explain().contains("x.j2") && e.explain().contains("=== user"));
    let e = PromptTemplate::parse("=== user\na\n{% if %}\n=== assistant\nb\n", "x.j2").unwrap_err();
    assert!(e.explain().contains("line: 3"), "{}", e.explain());
    assert!(PromptTemplate::parse("=== user\n{{ nothing }}\n=== assistant\nb\n", "x.j2").is_err());
    // What only some evidence meets.
    let hidden = "=== user\na\n=== assistant\nb\n{% if praise %}\n{{ prais }}\n{% endif %}\n";
    let template = PromptTemplate::parse(hidden, "x.j2").unwrap();
    let e = template.try_out("item").unwrap_err().explain();
    for part in ["file: x.j2, line: 6", "prais", "keywords and extra"] {
        assert!(e.contains(part), "{part}: {e}");
    }
    for name in ["item", "history", "pair", "aligned-item", "aligned-history", "aligned-pair", "aligned-rewrite"] {
        PromptTemplate::load(name).unwrap().try_out(name).unwrap();
        assert_eq!(PromptTemplate::language(name), Some("en"));
    }
    assert_eq!(PromptTemplate::language("de/item.j2"), None);
}

#[test]
fn templates_of_other_languages_say_everything_in_theirs() {
    // No word of the frame is English, whatever the evidence has.
    let is_english = |text: &str| {
        text.split(|c: char| !c.is_ascii_alphabetic()).any(|word| {
            ["the", "and", "user", "title", "like", "likes", "people", "about", "words", "sentence", "yes", "no"]
                .contains(&word.to_lowercase().as_str())
        })
    };
    for (name, values) in [("de-item", "ja; Neu: nein"), ("zh-item", "是；Neu：否")] {
        let bool_values = vec!["Gebunden: yes".to_owned(), "Neu: no".to_owned()];
        let question =
            PromptTemplate::load(name).unwrap().question(&Evidence { attributes: bool_values, ..evidence() });
        assert!(question.unwrap().contains(values), "{name}");
    }
    let name = "灯塔 Größe";
    for language in ["de", "zh"] {
        for kind in ["item", "history", "pair"] {
            let template = PromptTemplate::load(&format!("{language}-{kind}")).unwrap();
            assert_eq!(PromptTemplate::language(&format!("{language}-{kind}")), Some(language));
            template.try_out(kind).unwrap();
            for verdict in ["like", "dislike", "mixed"] {
                let bare = Evidence { kind: kind.into(), verdict: verdict.into(), ..Evidence::default() };
                let titled = Evidence {
                    subject: Some(name.into()),
                    liked: vec!["甲".into(), "乙".into(), "丙".into()],
                    disliked: vec!["丁".into()],
                    attributes: vec!["戊".into()],
                    ..bare.clone()
                };
                let full = Evidence {
                    content: vec!["己".into()],
                    praise: vec!["庚".into()],
                    fault: vec!["辛".into()],
                    keywords: vec!["壬".into()],
                    related: vec!["癸".into()],
                    ..titled.clone()
                };
                for evidence in [&bare, &titled, &full] {
                    let (question, stem) = template.render(evidence).unwrap();
                    assert!(!is_english(&question) && !is_english(&stem), "{question}\n{stem}");
                    assert!(
                        !question.contains("\n\n") && !stem.contains('\n') && !stem.is_empty(),
                        "{question}\n{stem}"
                    );
                }
                let (question, stem) = template.render(&full).unwrap();
                for shown in ["己", "庚", "辛", "壬"] {
                    assert!(question.contains(shown), "{shown}: {question}");
                }
                // A title stands in the marks that the checks know a name by.
                let quoted = if language == "de" { format!("„{name}“") } else { format!("《{name}》") };
                assert_eq!(stem.contains(&quoted), kind != "history", "{stem}");
            }
        }
    }
    let (_, stem) = PromptTemplate::load("de-history").unwrap().render(&evidence()).unwrap();
    assert_eq!(stem, "Diese Person mag „Ronin (1998)“ und „Se7en (1995)“, weil");
    let quoted = Evidence { subject: Some("《灯塔》".into()), ..evidence() };
    let (_, stem) = PromptTemplate::load("zh-item").unwrap().render(&quoted).unwrap();
    assert_eq!(stem, "大家喜欢《灯塔》，因为");
}

#[test]
fn keys_are_stable_and_change_with_the_fingerprint() {
    let f = Fingerprint {
        model: "m".into(),
        adapter: String::new(),
        sampling: Sampling::default(),
        max_new_tokens: 40,
        stop: vec![],
        ends: vec![],
        form: String::new(),
        seed: 1,
    };
    let key = f.prompt_key(&[1, 2, 3]);
    assert_eq!(key, "35fbf2d80530fa1fbfd995bf2485c758", "keys of earlier versions would be lost");
    assert_ne!(key, f.prompt_key(&[1, 2]));
    assert_eq!(key, Fingerprint { seed: 2, ..f.clone() }.prompt_key(&[1, 2, 3]), "greedy text ignores the seed");
    let warm = |seed| Fingerprint { seed, sampling: Sampling { temperature: 0.7, ..Sampling::default() }, ..f.clone() };
    assert_ne!(warm(1).prompt_key(&[1]), warm(2).prompt_key(&[1]));
    for other in [
        Fingerprint { model: "n".into(), ..f.clone() },
        Fingerprint { adapter: "a".into(), ..f.clone() },
        Fingerprint { max_new_tokens: 41, ..f.clone() },
        Fingerprint { stop: vec!["\n".into()], ..f.clone() },
        Fingerprint { ends: vec![2], ..f.clone() },
        Fingerprint { form: "{}".into(), ..f.clone() },
    ] {
        assert_ne!(key, other.prompt_key(&[1, 2, 3]));
    }
}
