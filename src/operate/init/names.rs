//! Names that logs have for the columns of the contracts.
//!
//! Knows names only; what stands in a column is for others to judge.

use crate::table::contract::Column;

const USER: &[&str] = &[
    "userid",
    "uid",
    "userpseudoid",
    "user",
    "usr",
    "customerid",
    "customer",
    "custid",
    "visitorid",
    "visitor",
    "reviewerid",
    "memberid",
    "member",
    "accountid",
    "clientid",
    "buyerid",
    "profileid",
    "subscriberid",
    "viewerid",
    "listenerid",
    "readerid",
    "playerid",
    "shopperid",
    "consumerid",
    "personid",
    "username",
];
const ITEM: &[&str] = &[
    "itemid",
    "item",
    "iid",
    "sku",
    "asin",
    "parentasin",
    "productid",
    "product",
    "prodid",
    "movieid",
    "filmid",
    "articleid",
    "article",
    "songid",
    "trackid",
    "bookid",
    "isbn",
    "gameid",
    "appid",
    "videoid",
    "contentid",
    "newsid",
    "businessid",
    "restaurantid",
    "placeid",
    "venueid",
    "courseid",
    "listingid",
    "offerid",
    "goodsid",
    "showid",
    "recipeid",
    "mediaid",
];
/// Of the items' own file, besides.
const OWN_ITEM: &str = "id";
const TIME: &[&str] = &[
    "eventtimestamp",
    "timestamp",
    "ts",
    "time",
    "eventtime",
    "datetime",
    "createdat",
    "created",
    "createtime",
    "unixreviewtime",
    "reviewtime",
    "reviewdate",
    "eventdate",
    "date",
    "datum",
    "occurredat",
    "happenedat",
    "unixtime",
    "unixtimestamp",
    "epoch",
    "epochms",
    "timestampms",
    "timems",
    "tsms",
    "servertime",
    "actiontime",
    "clicktime",
    "orderdate",
    "ordertime",
    "purchasedat",
    "purchasedate",
    "ratedat",
    "ratingtime",
    "playedat",
    "watchedat",
    "visitedat",
    "loggedat",
    "logtime",
];
const RATING: &[&str] = &[
    "rating",
    "ratings",
    "stars",
    "star",
    "starrating",
    "score",
    "overall",
    "overallrating",
    "grade",
    "ratingvalue",
    "userrating",
    "reviewrating",
    "reviewscore",
    "ratingscore",
    "bewertung",
];
const EVENT: &[&str] = &[
    "event",
    "eventtype",
    "eventname",
    "eventkind",
    "action",
    "actiontype",
    "behavior",
    "behaviour",
    "behaviortype",
    "behaviourtype",
    "interaction",
    "interactiontype",
    "activity",
    "activitytype",
    "feedbacktype",
    "verb",
    "type",
    "what",
];
const TITLE: &[&str] =
    &["title", "name", "itemname", "itemtitle", "productname", "producttitle", "movietitle", "filmtitle", "booktitle"];
const CATEGORIES: &[&str] =
    &["categories", "category", "genres", "genre", "tags", "department", "departments", "maincategory"];
const DESCRIPTION: &[&str] =
    &["description", "plot", "synopsis", "overview", "productdescription", "longdescription", "abstract", "about"];
const BRAND: &[&str] = &["brand", "maker", "manufacturer", "publisher", "studio", "label", "store"];
const YEAR: &[&str] = &["releaseyear", "year", "releasedyear", "publicationyear", "yearofpublication"];
const PEOPLE: &[&str] =
    &["people", "directors", "director", "actors", "cast", "authors", "author", "artists", "artist"];
const PRICE: &[&str] = &["price", "listprice", "unitprice", "cost"];
const SUMMARY: &[&str] = &["summary", "title", "headline", "reviewtitle", "reviewsummary", "reviewheadline", "subject"];
const TEXT: &[&str] =
    &["text", "reviewtext", "reviewbody", "body", "reviewcontent", "content", "review", "comment", "reviewcomment"];

/// The names for a contract's column, as [`bare`] has them; none for one that is not looked for.
fn aliases(table: &str, column: &str) -> &'static [&'static str] {
    match (table, column) {
        (_, "user_id") => USER,
        (_, "item_id") => ITEM,
        (_, "event_timestamp") => TIME,
        (_, "rating") => RATING,
        ("interaction", "event") => EVENT,
        ("item", "title") => TITLE,
        ("item", "categories") => CATEGORIES,
        ("item", "description") => DESCRIPTION,
        ("item", "brand") => BRAND,
        ("item", "release_year") => YEAR,
        ("item", "people") => PEOPLE,
        ("item", "price") => PRICE,
        ("review", "summary") => SUMMARY,
        ("review", "text") => TEXT,
        _ => &[],
    }
}

/// Whether a contract's column is looked for at all.
pub(super) fn is_looked_for(table: &str, column: &str) -> bool {
    !aliases(table, column).is_empty()
}

/// How well a name fits a contract's column: 3 for its own name, 2 for another name in the contract, 1 for one that logs have;
/// `None`: not at all.
pub(super) fn rank(table: &str, column: &Column, name: &str) -> Option<u32> {
    let bare = bare(name);
    let is_own = table == "item" && column.name == "item_id" && bare == OWN_ITEM;
    match name {
        name if name == column.name => Some(3),
        name if column.aliases.iter().any(|alias| alias == name) => Some(2),
        _ if is_own || aliases(table, &column.name).contains(&bare.as_str()) => Some(1),
        _ => None,
    }
}

/// A name without the type that RecBole's files put behind it (`user_id:token`).
pub(super) fn untyped(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((name, "token" | "token_seq" | "float" | "float_seq")) => name,
        _ => name,
    }
}

/// An untyped name without case and separators.
pub(super) fn bare(name: &str) -> String {
    untyped(name).chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table::contract::Contract;

    #[test]
    fn a_name_stands_for_one_column_of_a_table() {
        for table in ["interaction", "item", "review"] {
            let contract = Contract::builtin(table).unwrap();
            let looked_for = contract.columns.iter().filter(|c| is_looked_for(table, &c.name));
            let mut all: Vec<&str> = looked_for.flat_map(|c| aliases(table, &c.name)).copied().collect();
            assert!(all.iter().all(|name| bare(name) == *name), "{table}");
            let n = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), n, "{table}");
        }
    }

    #[test]
    fn names_are_compared_without_case_separators_and_types() {
        let contract = Contract::builtin("interaction").unwrap();
        let rank = |column: &str, name: &str| rank("interaction", contract.column(column).unwrap(), name);
        assert_eq!((rank("user_id", "user_id"), rank("event_timestamp", "timestamp")), (Some(3), Some(2)));
        for (column, name) in [
            ("user_id", "userId"),
            ("user_id", "Customer-ID"),
            ("user_id", "user_id:token"),
            ("item_id", "parent_asin"),
            ("event_timestamp", "unixReviewTime"),
            ("event", "Behavior Type"),
            ("user_id", "user_pseudo_id"),
            ("item_id", "Article"),
            ("event_timestamp", "Datum"),
            ("rating", "Bewertung"),
        ] {
            assert_eq!(rank(column, name), Some(1), "{name}");
        }
        assert_eq!((rank("item_id", "id"), rank("user_id", "user_agent")), (None, None));
    }
}
