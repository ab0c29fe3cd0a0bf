//! Names of columns that crawls of shops and catalogues leave undated: what was counted up to a moment that nobody wrote
//! down.
//!
//! Knows names only. What is done about them is decided where they are asked for.

/// A name that is one of these is undated.
const NAMES: [&str; 32] = [
    "similar",
    "similaritems",
    "similarproducts",
    "similarmovies",
    "related",
    "relateditems",
    "relatedproducts",
    "recommendations",
    "rank",
    "bestseller",
    "bestsellers",
    "rating",
    "ratings",
    "stars",
    "score",
    "voteaverage",
    "votecount",
    "votes",
    "numvotes",
    "likes",
    "dislikes",
    "views",
    "viewcount",
    "downloads",
    "plays",
    "playcount",
    "listeners",
    "followers",
    "metascore",
    "tomatometer",
    "boxoffice",
    "revenue",
];

/// A name that holds one of these is undated.
const PARTS: [&str; 26] = [
    "alsobought",
    "alsobuy",
    "alsoview",
    "boughttogether",
    "buyaftervie",
    "boughtafter",
    "viewedafter",
    "salesrank",
    "salerank",
    "sellersrank",
    "sellerrank",
    "averagerating",
    "avgrating",
    "meanrating",
    "ratingavg",
    "ratingaverage",
    "ratingmean",
    "ratingcount",
    "ratingscount",
    "ratingnumber",
    "numberofrating",
    "numrating",
    "reviewcount",
    "reviewscount",
    "numreview",
    "popularity",
];

/// Whether a column is named like what a crawl counted, whatever its case and separators: `also_bought`, `salesRank`.
pub fn is_undated(name: &str) -> bool {
    let bare: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let is_of_imdb = |rest: &str| matches!(rest, "rating" | "ratings" | "votes" | "score" | "rank");
    NAMES.contains(&bare.as_str())
        || matches!(bare.as_str(), "nreviews" | "nratings" | "numberofreviews" | "ratecount")
        || bare.strip_prefix("imdb").is_some_and(is_of_imdb)
        || PARTS.iter().any(|part| bare.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_separators() {
        for name in [
            "also_bought",
            "alsoViewed",
            "Bought Together",
            "buy_after_viewing",
            "also_buy",
            "also_view",
            "similar",
            "related",
            "salesRank",
            "sales_rank",
            "rank",
            "sale-rank",
            "Best Sellers Rank",
            "average_rating",
            "avg_rating",
            "mean_rating",
            "rating_count",
            "ratings_count",
            "num_ratings",
            "num_reviews",
            "n_reviews",
            "review_count",
            "rating_number",
            "popularity",
            "imdb_rating",
            "IMDb votes",
            "votes",
            "likes",
            "views",
            "vote_average",
        ] {
            assert!(is_undated(name), "{name}");
        }
        for name in ["directors", "certificate", "brand", "release_date", "price", "frank", "viewpoint", "imdb_url", ""]
        {
            assert!(!is_undated(name), "{name}");
        }
    }
}
