//! Nights of a German and of a Chinese log, from log to feature: sentences, words, prompts, limits and refusals in the language
//! of the log, and its texts as they were written wherever they are shown.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray,
};
use serde_json::Value;

use crate::common::{Event, World, expect_code, fixture, january, project, stdout, summary, write, write_events};

/// An item of a catalogue, and the reason that the model of the test writes for it.
struct Item {
    title: &'static str,
    category: &'static str,
    description: &'static str,
    reason: &'static str,
    /// Why it is refused.
    refusal: Option<&'static str>,
}

/// A log in one language.
struct Log {
    language: &'static str,
    labels: &'static str,
    /// A person, a brand, the value of a further column and the label of that.
    facts: [&'static str; 4],
    items: &'static [Item],
    /// Item, rating and text of reviews, each by another user.
    reviews: &'static [(usize, f32, &'static str)],
    /// What the model writes of a user.
    of_user: &'static str,
}

/// Copies tiny-qwen3 to `world/writer` as a model that writes full stops and exclamation marks alone, so that a reason is what
/// its template begins with; and one that reads prompts of thousands of tokens.
fn model_of_marks(world: &World) {
    let folder = world.path("writer");
    for name in ["config.json", "tokenizer_config.json"] {
        let text = std::fs::read_to_string(fixture("tiny-qwen3").join(name)).unwrap();
        let longer = text.replace("256,", "8192,");
        assert_ne!(text, longer, "{name}");
        std::fs::write(folder.join(name), longer).unwrap();
    }
    let mut bytes = std::fs::read(fixture("tiny-qwen3").join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let head = &header["lm_head.weight"];
    assert_eq!(head["dtype"], "F32");
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let (rows, start) = (number(&head["shape"][0]), 8 + length + number(&head["data_offsets"][0]));
    let width = (8 + length + number(&head["data_offsets"][1]) - start) / rows;
    let tokenizer = std::fs::read_to_string(fixture("tiny-qwen3").join("tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    let [stop, cry] = [".", "!"].map(|mark| number(&tokenizer["model"]["vocab"][mark]));
    let row = bytes[start + stop * width..start + (stop + 1) * width].to_vec();
    bytes[start..start + rows * width].fill(0);
    bytes[start + stop * width..start + (stop + 1) * width].copy_from_slice(&row);
    // The opposite: where one is less likely than all other tokens, the other is likelier.
    for (at, byte) in row.iter().enumerate() {
        bytes[start + cry * width + at] = if at % 4 == 3 { byte ^ 0x80 } else { *byte };
    }
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

impl Log {
    /// The world with this log: twelve users, of whom each likes half of the items.
    fn world(&self) -> World {
        let world = World::new();
        model_of_marks(&world);
        let n = self.items.len() as i64;
        let mut log = Vec::new();
        for user in 0..12i64 {
            for item in (0..n).filter(|item| (item + user) % 2 == 0) {
                log.push(Event {
                    user: format!("u{user:02}"),
                    item: format!("i{item}"),
                    rating: Some(5.0),
                    at: Some(january(20, user) + item),
                });
            }
        }
        write_events(&world.path("input/interaction.parquet"), &log);
        write(&world.path("input/item.parquet"), &self.catalogue());
        write(&world.path("input/review.parquet"), &self.reviewed());
        for kind in ["item", "history"] {
            std::fs::write(world.path(&format!("{kind}.j2")), self.template(kind)).unwrap();
        }
        self.write_job(&world);
        world
    }

    fn catalogue(&self) -> RecordBatch {
        let n = self.items.len();
        let lists = |text: &dyn Fn(&Item) -> &'static str| -> ArrayRef {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for item in self.items {
                lists.values().append_value(text(item));
                lists.append(true);
            }
            Arc::new(lists.finish())
        };
        let texts = |text: &dyn Fn(&Item) -> &'static str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(self.items.iter().map(text)))
        };
        let [person, brand, binding, _] = self.facts;
        let columns: [(&str, ArrayRef); 9] = [
            ("item_id", Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("i{i}"))))),
            ("title", texts(&|item| item.title)),
            ("categories", lists(&|item| item.category)),
            ("description", texts(&|item| item.description)),
            ("people", lists(&|_| person)),
            ("brand", texts(&|_| brand)),
            ("release_year", Arc::new(Int32Array::from(vec![1998_i32; n]))),
            ("price", Arc::new(Float32Array::from(vec![9.49_f32; n]))),
            ("binding", texts(&|_| binding)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn reviewed(&self) -> RecordBatch {
        let n = self.reviews.len();
        let times: Vec<i64> = (0..n as i64).map(|i| january(19, i)).collect();
        let columns: [(&str, ArrayRef); 5] = [
            ("user_id", Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("u{i:02}"))))),
            ("item_id", Arc::new(StringArray::from_iter_values(self.reviews.iter().map(|(i, ..)| format!("i{i}"))))),
            ("event_timestamp", Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"))),
            ("rating", Arc::new(Float32Array::from_iter_values(self.reviews.iter().map(|(_, rating, _)| *rating)))),
            ("text", Arc::new(StringArray::from_iter_values(self.reviews.iter().map(|(.., text)| *text)))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// The built-in template's question; how the answer begins is the whole reason.
    fn template(&self, kind: &str) -> String {
        let path = project().join(format!("jobs/templates/{}/{kind}.j2", self.language));
        let text = std::fs::read_to_string(path).unwrap();
        let (question, _) = text.split_once("=== assistant\n").unwrap();
        let stem = match kind {
            "item" => {
                let reasons: Vec<String> =
                    self.items.iter().map(|item| format!("\"{}\": \"{}\"", item.title, item.reason)).collect();
                format!("{{{{ {{{}}}[subject] | default(\"?\") }}}}", reasons.join(", "))
            }
            _ => self.of_user.to_owned(),
        };
        format!("{question}=== assistant\n{stem}\n")
    }

    fn write_job(&self, world: &World) {
        let root = world.path("");
        let root = root.display().to_string();
        let root = root.trim_end_matches('/');
        let encoder = fixture("tiny-bert").display().to_string();
        let (language, labels, label) = (self.language, self.labels, self.facts[3]);
        let text = format!(
            "name = \"test\"\nwarehouse = \"{root}/warehouse\"\n\
             [input]\ninteraction = \"{root}/input/interaction.parquet\"\nitem = \"{root}/input/item.parquet\"\n\
             review = \"{root}/input/review.parquet\"\n\
             [history]\nuser_active_days = 0\nitems = \"active\"\nitem_active_days = 0\nmin_support = 2\n\
             max_users = 4\n\
             [model]\ngenerator = \"{root}/writer\"\nencoder = \"{encoder}\"\ndevice = \"cpu\"\nslots = 2\n\
             max_step_tokens = 512\nmax_positions = 6000\n\
             [prompt]\nitem = \"{root}/item.j2\"\nhistory = \"{root}/history.j2\"\n\
             [evidence]\ntokens = 5900\n{labels}attributes = {{ binding = \"{label}\" }}\n\
             [sampling]\nmax_new_tokens = 2\n[feature]\nvector_of = \"reason\"\n\
             [check]\nlanguage = \"{language}\"\nmin_mean_logprob = -1000.0\n"
        );
        std::fs::write(world.path("job.toml"), text).unwrap();
    }

    /// A night, with what holds for every language.
    fn night(&self) -> World {
        let world = self.world();
        let out = world.run(&[]);
        expect_code(&out, 0);
        let rows = world.sql(
            "select r.item_id, r.reason, s.accepted, s.refusal, f.source, f.missing from reason as r \
             join reason_score as s on s.item_id = r.item_id join item_feature as f on f.item_id = r.item_id \
             order by r.item_id",
        );
        assert_eq!(rows.len(), self.items.len());
        for (row, item) in rows.iter().zip(self.items) {
            let reason = row["reason"].as_str().unwrap();
            assert_eq!(reason.trim_end_matches(['.', '!']), item.reason.trim_end_matches(['.', '!']), "{row}");
            assert_eq!(row["refusal"].as_str(), item.refusal, "{row}");
            assert_eq!(row["accepted"], item.refusal.is_none(), "{row}");
            let source = if item.refusal.is_none() { "reason" } else { "evidence" };
            assert_eq!((row["source"].as_str(), &row["missing"]), (Some(source), &Value::Bool(false)), "{row}");
        }
        let users = world.sql("select source, missing from user_feature order by user_id");
        assert!(users.len() == 4 && users.iter().all(|row| row["missing"] == false), "{users:?}");

        // What is shown to people is what was written.
        let first = &self.items[0];
        let out = world.curec(&["explain", "job.toml", "--item-id", "i0"]);
        expect_code(&out, 0);
        let text = stdout(&out);
        assert!(text.contains(first.title), "{text}");
        let told: Value =
            serde_json::from_str(&stdout(&world.curec(&["explain", "job.toml", "--item-id", "i0", "--json"]))).unwrap();
        assert!(told["reason"].as_str().unwrap().starts_with(first.reason), "{told}");
        let run = summary(&world.run(&[]));
        assert_eq!(run["status"], "nothing_to_do", "{run}");
        let page = pages(&world);
        for text in [first.title, first.reason] {
            assert!(page.contains(text), "{text}: {page}");
        }
        world
    }

    /// The evidence of an item.
    fn evidence(&self, world: &World, item: usize) -> Value {
        let query = format!(
            "select content, praise, fault, keywords, attributes, prompt_text from reason_prompt where item_id = 'i{item}'"
        );
        world.sql(&query).remove(0)
    }

    /// Warnings about templates: of the built-in ones, and of those of English.
    fn check_templates(&self, world: &World) {
        for (prefix, is_warned) in [(format!("{}-", self.language), false), (String::new(), true)] {
            let [item, history] = ["item", "history"].map(|kind| format!("prompt.{kind}={prefix}{kind}"));
            let out = world.curec(&["check", "job.toml", "--at", "2026-01-20", "--set", &item, "--set", &history]);
            expect_code(&out, 0);
            assert_eq!(stdout(&out).contains("not of the language"), is_warned, "{}", stdout(&out));
        }
    }
}

/// All report pages of a world, without markup.
fn pages(world: &World) -> String {
    let mut text = String::new();
    for run in std::fs::read_dir(world.path("warehouse/_runs")).unwrap().map(|entry| entry.unwrap().path()) {
        let page = std::fs::read_to_string(run.join("report.html")).unwrap_or_default();
        let mut rest = page.as_str();
        while let Some((before, after)) = rest.split_once('<') {
            text.push_str(before);
            rest = after.split_once('>').map_or("", |(_, after)| after);
        }
        text.push_str(rest);
    }
    text
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Asserts that all of some texts stand in others.
fn all_in(found: &[&str], known: &[&str]) {
    for text in found {
        assert!(known.contains(text), "{text} is none of {known:?}");
    }
}

const GERMAN: Log = Log {
    language: "de",
    labels: "people_label = \"Von\"\nbrand_label = \"Marke\"\nyear_label = \"Jahr\"\nprice_label = \"Preis\"\ndecimal_mark = \",\"\n",
    facts: ["Jörg Weiß", "Küstenverlag", "gebunden", "Einband"],
    items: &[
        Item {
            title: "Der Leuchtturmwärter",
            category: "Romane",
            description: "Ein Witwer trotzt im 19. Jahrhundert den Stürmen der Nordsee. Er schreibt Briefe an seine verschollene \
                          Tochter, z. B. über „die Größe der Wellen“. Der Turm kostete 1.234,5 Taler und hat 120 Stufen.",
            reason: "Viele greifen zu „Der Leuchtturmwärter“, weil ein einsamer Witwer dem Meer trotzt und seiner Tochter Briefe schickt",
            refusal: None,
        },
        Item {
            title: "Größe und Würde",
            category: "Romane",
            description: "Eine Köchin erbt ein Gasthaus über dem Fluß. Ihre Schwester verlangt die Hälfte.",
            reason: "Viele greifen zu „Größe und Würde“, weil die Köchin mit ihrer Schwester so streitet wie in „Metropolis“",
            refusal: Some("ungrounded"),
        },
        Item {
            title: "Schnee im Süden",
            category: "Krimis",
            description: "Eine Kommissarin sucht im Gebirge einen Fälscher. Jede Spur endet an der Grenze.",
            reason: "People pick it because of the detective and the forger in the mountains",
            refusal: Some("language"),
        },
        Item {
            title: "Das Brotbuch",
            category: "Kochbücher",
            description: "Sauerteig gelingt hier ohne Hefe und ohne Waage. Neunzig Rezepte führen vom Anfänger zum Bäckermeister.",
            reason: "Viele greifen zu „Das Brotbuch“, weil Sauerteig hier ohne Hefe gelingt und weil die Rezepte so einfach sind, \
                     dass man sie nach der Arbeit backen kann, ohne dass man dafür etwas wiegen oder kaufen oder lange lesen oder \
                     gar erst noch lernen muss",
            refusal: Some("too_long"),
        },
        Item {
            title: "Überfahrt",
            category: "Krimis",
            description: "Auf einer Fähre nach Föhr verschwindet nachts ein reicher Zuckerhändler aus seiner Kabine. Niemand hat ihn gesehen.",
            reason: "Viele greifen zu „Überfahrt“, weil auf einer Fähre nach Föhr verschwindet nachts ein reicher Zuckerhändler aus seiner Kabine",
            refusal: Some("copied"),
        },
        Item {
            title: "Gärten",
            category: "Ratgeber",
            description: "Kompost macht schlechten Boden gut. Dreißig Zeichnungen zeigen den Schnitt der Obstbäume.",
            reason: "Viele greifen dazu, weil sie das alles immer wieder gern haben wollen",
            refusal: Some("general"),
        },
    ],
    reviews: &[
        (0, 5.0, "Die Briefe haben mich tief berührt. Am 3. Oktober las ich es zum zweiten Mal!"),
        (1, 5.0, "Die Köchin ist großartig."),
        (0, 5.0, "Die Briefe an die Tochter sind voller Wärme."),
        (1, 5.0, "Die Schwester ist herrlich gemein."),
        (0, 2.0, "Die Nordsee wird viel zu lang beschrieben, bzw. viel zu oft."),
        (2, 5.0, "Der Fälscher ist ein Original."),
        (4, 5.0, "Die Kabine war verriegelt!"),
    ],
    of_user: "Diese Person mag Geschichten mit Briefen, mit einer Köchin und mit allem, was am Meer spielt",
};

#[test]
fn a_german_night() {
    let world = GERMAN.night();
    let evidence = GERMAN.evidence(&world, 0);
    assert_eq!(
        texts(&evidence["content"]),
        [
            "Ein Witwer trotzt im 19. Jahrhundert den Stürmen der Nordsee.",
            "Er schreibt Briefe an seine verschollene Tochter, z. B. über „die Größe der Wellen“.",
            "Der Turm kostete 1.234,5 Taler und hat 120 Stufen.",
        ]
    );
    let praise = texts(&evidence["praise"]);
    all_in(
        &praise,
        &[
            "Die Briefe haben mich tief berührt.",
            "Am 3. Oktober las ich es zum zweiten Mal!",
            "Die Briefe an die Tochter sind voller Wärme.",
        ],
    );
    assert_eq!(praise.len(), 2, "{evidence}");
    assert_eq!(texts(&evidence["fault"]), ["Die Nordsee wird viel zu lang beschrieben, bzw. viel zu oft."]);
    let keywords = texts(&evidence["keywords"]);
    // What several people say comes first.
    assert_eq!(keywords[..3], ["briefe", "nordsee", "tochter"], "{evidence}");
    assert!(keywords.contains(&"stürmen"), "{evidence}");
    for empty in ["die", "und", "der", "seine", "über", "ein", "19", "leuchtturmwärter"] {
        assert!(!keywords.contains(&empty), "{empty}: {evidence}");
    }
    assert_eq!(
        texts(&evidence["attributes"]),
        ["Romane", "Einband: gebunden", "Von: Jörg Weiß", "Marke: Küstenverlag", "Jahr: 1998", "Preis: 9,5"]
    );
    let english = [
        "the",
        "and",
        "of",
        "user",
        "title",
        "categories",
        "about",
        "it",
        "key",
        "people",
        "praise",
        "like",
        "by",
        "brand",
        "year",
        "price",
        "sentence",
        "words",
    ];
    for row in world.sql("select prompt_text from reason_prompt") {
        let prompt = row["prompt_text"].as_str().unwrap();
        let said: Vec<String> = prompt.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase).collect();
        assert!(!said.iter().any(|word| english.contains(&word.as_str())), "{prompt}");
        assert!(prompt.contains("Sag in einem Satz von höchstens 35 Wörtern"), "{prompt}");
    }
    GERMAN.check_templates(&world);
}

const CHINESE: Log = Log {
    language: "zh",
    labels: "people_label = \"作者\"\nbrand_label = \"品牌\"\nyear_label = \"年份\"\nprice_label = \"价格\"\n",
    facts: ["林海", "海岸书局", "精装", "装帧"],
    items: &[
        Item {
            title: "海边的灯塔",
            category: "小说",
            description: "孤独的守望者在海边守了三十年的灯，把每一艘经过的船和每一场风暴都写进没有寄出的信里。他只对海鸥说话！那座塔高12.5米，\
                          只有一扇窗……谁会来敲门？",
            reason: "大家喜欢《海边的灯塔》，因为孤独的守望者把写给女儿的信都念给海鸥听",
            refusal: None,
        },
        Item {
            title: "面馆",
            category: "小说",
            description: "厨师的妹妹回到江边小城，继承了祖父的面馆。她的第一碗汤没有盐。",
            reason: "大家喜欢《面馆》，因为妹妹煮汤的样子很像《泰坦尼克号》里的厨师",
            refusal: Some("ungrounded"),
        },
        Item {
            title: "山中疑云",
            category: "悬疑",
            description: "女警官进山寻找造假币的画家。所有脚印都在悬崖边消失。",
            reason: "People pick it because of the detective and the forger in the mountains",
            refusal: Some("language"),
        },
        Item {
            title: "馒头之书",
            category: "烹饪",
            description: "老面发酵不用酵母。九十张图教会新手揉面。",
            reason: "大家喜欢《馒头之书》，因为老面发酵不用酵母，揉面的图又多又清楚，新手下班回家以后也能照着做，不必买秤，不必等整整两天，\
                     更不必先读完厚厚的课本，蒸出来的馒头又白又软，孩子们吃完还想再吃",
            refusal: Some("too_long"),
        },
        Item {
            title: "渡口",
            category: "悬疑",
            description: "开往孤岛的渡轮上一位富有的糖商在半夜从自己的船舱里神秘失踪。没有人见过他。",
            reason: "大家喜欢《渡口》，因为开往孤岛的渡轮上一位富有的糖商在半夜从自己的船舱里神秘失踪",
            refusal: Some("copied"),
        },
        Item {
            title: "花园四季",
            category: "生活",
            description: "堆肥让贫瘠的土壤变得肥沃。三十幅插图讲解果树修剪。",
            reason: "大家都说喜欢它，因为大家觉得它真的非常值得推荐",
            refusal: Some("general"),
        },
    ],
    reviews: &[
        (0, 5.0, "守望者写的信让人落泪。我读了两遍！"),
        (1, 5.0, "妹妹的面馆真温暖。"),
        (0, 5.0, "海鸥和守望者的对话太美了。"),
        (1, 5.0, "祖父的故事很动人。"),
        (0, 2.0, "关于风暴的描写实在太长。"),
        (2, 5.0, "画家的脚印令人害怕。"),
        (4, 5.0, "船舱的门锁得紧紧的！"),
    ],
    of_user: "这位用户喜欢守望者写信的情节，也喜欢妹妹在江边面馆里煮汤的日子",
};

#[test]
fn a_chinese_night() {
    let world = CHINESE.night();
    let evidence = CHINESE.evidence(&world, 0);
    assert_eq!(
        texts(&evidence["content"]),
        [
            "孤独的守望者在海边守了三十年的灯，把每一艘经过的船和每一场风暴都写进没有寄出的信里。",
            "他只对海鸥说话！",
            "那座塔高12.5米，只有一扇窗…谁会来敲门？",
        ]
    );
    let praise = texts(&evidence["praise"]);
    all_in(&praise, &["守望者写的信让人落泪。", "我读了两遍！", "海鸥和守望者的对话太美了。"]);
    assert_eq!(praise.len(), 2, "{evidence}");
    assert_eq!(texts(&evidence["fault"]), ["关于风暴的描写实在太长。"]);
    let keywords = texts(&evidence["keywords"]);
    assert!(keywords.contains(&"守望者") && keywords.contains(&"海鸥"), "{evidence}");
    for word in &keywords {
        assert!(word.chars().count() > 1 && !word.contains(['的', '了', '是', '在', '把']), "{word}: {evidence}");
    }
    assert_eq!(
        texts(&evidence["attributes"]),
        ["小说", "装帧: 精装", "作者: 林海", "品牌: 海岸书局", "年份: 1998", "价格: 9.5"]
    );
    let prompt = evidence["prompt_text"].as_str().unwrap();
    assert!(prompt.contains("标签：小说；装帧：精装；作者：林海；品牌：海岸书局；年份：1998；价格：9.5"), "{prompt}");
    for row in world.sql("select prompt_text from reason_prompt") {
        let prompt = row["prompt_text"].as_str().unwrap();
        assert!(!prompt.contains(|c: char| c.is_ascii_alphabetic()), "{prompt}");
        assert!(prompt.contains("用一句话（不超过六十个字）"), "{prompt}");
    }
    // As long as its limit says: two characters are a word.
    let rows = world.sql("select n_words from reason_score where item_id in ('i0', 'i3') order by item_id");
    assert_eq!(rows[0]["n_words"], 15, "{rows:?}");
    assert!(rows[1]["n_words"].as_i64().unwrap() > 35, "{rows:?}");
    CHINESE.check_templates(&world);
}
