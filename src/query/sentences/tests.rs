#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use arrow::array::{DictionaryArray, LargeStringArray, NullArray, StringViewArray};
use arrow::datatypes::Int32Type;

use super::*;
use crate::columns::as_text_lists;
use crate::query::session::{Session, SessionOptions};

fn words(value: &ArrayRef) -> ArrayRef {
    for_each_row(value, |_, texts| {
        Some(texts.iter().flat_map(|t| crate::plain_text::words::content_words(t)).collect())
    })
    .unwrap()
}

#[test]
fn every_type_of_text_is_read_and_null_is_null() {
    let rows = [Some("A robot."), None, Some("")];
    let dictionary: DictionaryArray<Int32Type> = rows.into_iter().collect();
    let of_all_types: [ArrayRef; 4] = [
        Arc::new(StringArray::from(rows.to_vec())),
        Arc::new(LargeStringArray::from(rows.to_vec())),
        Arc::new(StringViewArray::from(rows.to_vec())),
        Arc::new(dictionary),
    ];
    for value in of_all_types {
        let found = words(&value);
        assert_eq!(as_text_lists(&found), [vec!["robot".to_owned()], vec![], vec![]], "{:?}", value.data_type());
        assert_eq!([0, 1, 2].map(|row| found.is_null(row)), [false, true, false]);
    }
    let none: ArrayRef = Arc::new(NullArray::new(2));
    assert_eq!(words(&none).null_count(), 2);
}

#[tokio::test]
async fn the_session_knows_all_of_them() {
    let session = Session::new(SessionOptions::default()).unwrap();
    let cases = [
        ("sentences('It is slow.<br>The end &amp; more!', 20)", Some(vec!["It is slow.", "The end & more!"])),
        ("sentences(['One robot. Two.', null, 'One robot.'], 20)", Some(vec!["One robot.", "Two.", "One robot."])),
        ("sentences('One two three four', 2)", Some(vec!["One two…"])),
        ("sentences('One two', -1)", Some(vec![])),
        ("sentences(null, 20)", None),
        ("sentences('One two', null)", None),
        ("content_words('The robots of a robot''s maker')", Some(vec!["robot", "maker"])),
        ("content_words(['Robots', null, 'a robot, rusty'])", Some(vec!["robot", "rusty"])),
        ("content_words(null)", None),
        ("whole_words(['守望', 'robot', '望者'], ['灯塔的守望者'])", Some(vec!["守望者", "robot"])),
        ("whole_words(['守望', '望者'], null)", Some(vec!["守望", "望者"])),
        ("whole_words(null, ['守望者'])", None),
    ];
    for (call, expected) in cases {
        let rows = session.sql(&format!("select {call} as found"), &[]).await.unwrap();
        let rows = rows.collect().await.unwrap();
        let found = rows[0].column(0);
        assert_eq!(found.is_null(0), expected.is_none(), "{call}");
        assert_eq!(as_text_lists(found), [expected.unwrap_or_default()], "{call}");
    }
}
