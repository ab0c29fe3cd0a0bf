//! Nights in other languages: rows of `reason` with their evidence, judged as a run judges them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Float64Type;
use curec::config::CheckSpec;
use curec::reward::names::Vocabulary;
use curec::reward::score::score_batch;
use curec::table::contract::Contract;

/// What a night asked about, and what its catalogue knows.
struct Night {
    language: &'static str,
    subject: &'static str,
    liked: &'static [&'static str],
    disliked: &'static [&'static str],
    attributes: &'static [&'static str],
    catalogue: &'static [&'static str],
}

impl Night {
    /// The refusals of reasons, given with their verdict; `None` of the accepted ones.
    fn refusals(&self, reasons: &[(&str, &str)]) -> Vec<Option<String>> {
        let n = reasons.len();
        let texts = |pick: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
            Arc::new((0..n).map(pick).collect::<StringArray>())
        };
        let lists = |list: &[&str]| -> ArrayRef {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for _ in 0..n {
                list.iter().for_each(|text| lists.values().append_value(text));
                lists.append(true);
            }
            Arc::new(lists.finish())
        };
        let batch = RecordBatch::try_from_iter([
            ("kind", texts(&|_| Some("item".into()))),
            ("user_id", texts(&|_| None)),
            ("item_id", texts(&|i| Some(format!("i{i}")))),
            ("as_of", Arc::new(TimestampMicrosecondArray::from(vec![0; n]).with_timezone("UTC")) as ArrayRef),
            ("prompt_key", texts(&|i| Some(format!("k{i}")))),
            ("reason", texts(&|i| Some(reasons[i].1.into()))),
            ("error", texts(&|_| None)),
            ("finish", texts(&|_| Some("stop".into()))),
            ("logprob_sum", Arc::new(Float64Array::from(vec![-5.0; n])) as ArrayRef),
            ("completion_tokens", Arc::new(Int64Array::from(vec![20; n])) as ArrayRef),
            ("verdict", texts(&|i| Some(reasons[i].0.into()))),
            ("subject", texts(&|_| Some(self.subject.into()))),
            ("liked", lists(self.liked)),
            ("disliked", lists(self.disliked)),
            ("related", lists(&[])),
            ("attributes", lists(self.attributes)),
            ("content", lists(&[])),
            ("praise", lists(&[])),
            ("fault", lists(&[])),
            ("keywords", lists(&[])),
        ])
        .unwrap();
        let check = CheckSpec {
            min_mean_logprob: -2.5,
            min_grounding: 1.0,
            max_repetition: 0.2,
            min_words: 6,
            max_words: 60,
            min_language: 0.2,
            language: self.language.into(),
            require_finished: true,
            min_concrete: 1,
            max_copied_words: 8,
        };
        let vocabulary = Vocabulary::new(self.catalogue.iter().copied()).in_language(self.language);
        let schema = Contract::builtin("reason_score").unwrap().arrow_schema(None);
        let scored = score_batch(&batch, schema, &check, &vocabulary).unwrap();
        let score = scored.column_by_name("score").unwrap().as_primitive::<Float64Type>();
        assert!(score.iter().flatten().all(|s| (0.0..=1.0).contains(&s)));
        let refusal = scored.column_by_name("refusal").unwrap().as_string::<i32>();
        (0..n).map(|i| refusal.is_valid(i).then(|| refusal.value(i).to_string())).collect()
    }

    fn judges(&self, expected: &[(&str, &str, Option<&str>)]) {
        let reasons: Vec<(&str, &str)> = expected.iter().map(|(verdict, reason, _)| (*verdict, *reason)).collect();
        for (found, (_, reason, refusal)) in self.refusals(&reasons).iter().zip(expected) {
            assert_eq!(found.as_deref(), *refusal, "{reason}");
        }
    }
}

#[test]
fn a_german_night() {
    let night = Night {
        language: "de",
        subject: "Der Pate (1972)",
        liked: &["Das Boot (1981)", "M – Eine Stadt sucht einen Mörder"],
        disliked: &["Cats (2019)"],
        attributes: &["Krimi"],
        catalogue: &["Krimi", "Komödie"],
    };
    night.judges(&[
        ("like", "Wer „Das Boot“ mag, schätzt auch hier die Spannung und die Enge der Räume.", None),
        ("like", "Der Pate (1972) ist ein Krimi mit Atmosphäre, Würde und großen Gefühlen.", None),
        ("like", "Die Zuschauer sagen dazu: „Der Pate ist ein Krimi für die Ewigkeit.“", None),
        ("dislike", "Freunde von Das Boot (1981) finden die Handlung zu langsam und zu lang.", None),
        ("like", "Wer „Metropolis“ mag, schätzt auch hier die Spannung und die Bilder.", Some("ungrounded")),
        ("like", "Das ist eine Komödie, die man mit der ganzen Familie sehen kann.", Some("ungrounded")),
        ("like", "Wer Cats (2019) mag, schätzt auch hier die Musik und die Tänze.", Some("polarity")),
        ("like", "Wer „Das Boot“ mag, schätzt auch hier die Spannung und die", Some("unfinished")),
        ("like", "So ist das.", Some("too_short")),
        ("like", "Es ist gut so, es ist gut so, es ist gut so, es ist gut so.", Some("repetition")),
    ]);
}

#[test]
fn a_chinese_night() {
    let night = Night {
        language: "zh-Hans",
        subject: "黑客帝国 (1999)",
        liked: &["银翼杀手", "英雄"],
        disliked: &["小时代", "猫"],
        attributes: &["科幻"],
        catalogue: &["科幻", "喜剧", "爱"],
    };
    night.judges(&[
        ("like", "喜欢《银翼杀手》的观众也会爱上这部节奏紧凑的科幻片。", None),
        ("like", "黑客帝国讲的是真实与虚幻，这正是他们想看的！", None),
        ("like", "他们说：“这部影片里的猫真好看。”", Some("ungrounded")),
        ("dislike", "银翼杀手的观众觉得这部影片太吵、太长。", None),
        ("like", "喜欢《泰坦尼克号》的观众也会爱上这部影片。", Some("ungrounded")),
        ("like", "喜欢银翼杀手的观众会把它当作喜剧来看。", Some("ungrounded")),
        ("like", "喜欢《小时代》的观众也会爱上这部影片。", Some("polarity")),
        ("like", "喜欢《银翼杀手》的观众也会爱上这部", Some("unfinished")),
        ("like", "很好看。", Some("too_short")),
        ("like", "很好看很好看很好看很好看很好看很好看。", Some("repetition")),
        ("like", "People who like it will like this one because of the story.", Some("language")),
    ]);
}

#[test]
fn an_arabic_night() {
    let night = Night {
        language: "ar",
        subject: "الرسالة (1976)",
        liked: &["عمر المختار"],
        disliked: &["تيتانيك"],
        attributes: &["دراما"],
        catalogue: &["دراما", "كوميديا"],
    };
    night.judges(&[
        ("like", "يحب المشاهدون فيلم «عمر المختار» ولذلك يقدرون هذه القصة المؤثرة.", None),
        ("like", "أليست الرسالة دراما تاريخية تجمع بين الإيمان والشجاعة؟", None),
        ("dislike", "من شاهد عمر المختار يجد أن أحداث هذا الفيلم بطيئة جدا.\u{200f}", None),
        ("like", "يحب المشاهدون فيلم «لورنس العرب» ولذلك يقدرون هذه القصة.", Some("ungrounded")),
        ("like", "هذه كوميديا خفيفة تناسب كل أفراد العائلة في المساء.", Some("ungrounded")),
        ("like", "يحب المشاهدون فيلم تيتانيك ولذلك يقدرون هذه القصة المؤثرة.", Some("polarity")),
        ("like", "يحب المشاهدون فيلم «عمر المختار» ولذلك يقدرون هذه", Some("unfinished")),
        ("like", "هذا جيد جدا.", Some("too_short")),
        ("like", "They like it because of the story and the music in it.", Some("language")),
    ]);
}
