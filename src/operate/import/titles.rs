//! Titles, categories and prices as data sets write them.
//!
//! Knows MovieLens' ways of writing titles. Knows nothing of files.

/// A film's title as people say it, and its year: `("Matrix, The", "1999")` gives `The Matrix (1999)`. A year at the
/// end of the title is used where the year column has none; a title that says it is unknown, without a year, is no
/// title.
pub(super) fn movie_title(title: Option<&str>, year: Option<&str>) -> (Option<String>, Option<i32>) {
    let plausible = |y: &i32| (1870..=2100).contains(y);
    let mut year = year.and_then(|y| y.trim().parse::<i32>().ok()).filter(plausible);
    let Some(mut name) = title.map(str::trim).filter(|t| !t.is_empty()) else { return (None, year) };
    let inside = name.strip_suffix(')').and_then(|t| t.rsplit_once('('));
    if let Some((before, digits)) = inside
        && digits.len() == 4
        && let Some(found) = digits.parse::<i32>().ok().filter(plausible)
    {
        name = before.trim_end();
        year = year.or(Some(found));
    }
    // Item 267 of MovieLens-100k: `unknown`, misspelled `unkonwn` in RecBole's file.
    if year.is_none() && ["unknown", "unkonwn"].contains(&name.to_lowercase().as_str()) {
        return (None, None);
    }
    let mut turned = String::with_capacity(name.len());
    for (i, part) in name.split('(').enumerate() {
        if i > 0 {
            turned.push('(');
        }
        let (part, rest) = match part.find(')') {
            Some(end) if i > 0 => part.split_at(end),
            _ => (part, ""),
        };
        let trimmed = part.trim_end();
        turned.push_str(&turn_article(trimmed));
        turned.push_str(&part[trimmed.len()..]);
        turned.push_str(rest);
    }
    match year {
        Some(year) => (Some(format!("{turned} ({year})")), Some(year)),
        None => (Some(turned), None),
    }
}

/// Turns `Matrix, The` into `The Matrix`; other titles stay as they are.
fn turn_article(title: &str) -> String {
    const ARTICLES: [&str; 19] = [
        "The", "A", "An", "La", "Le", "Les", "L'", "Il", "Lo", "I", "El", "Los", "Las", "Der", "Die", "Das", "Det",
        "Den", "O",
    ];
    match title.rsplit_once(", ") {
        Some((name, article)) if ARTICLES.contains(&article) => {
            let space = if article.ends_with('\'') { "" } else { " " };
            format!("{article}{space}{name}")
        }
        _ => title.to_owned(),
    }
}

/// The categories of one field, without placeholders for none.
pub(super) fn split_categories(text: Option<&str>, separator: char) -> Option<Vec<String>> {
    let parts = text?.split(separator).map(str::trim);
    let known = parts.filter(|c| !c.is_empty() && *c != "unknown" && *c != "(no genres listed)");
    Some(known.map(str::to_owned).collect())
}

/// A price as shops write it: `12.99`, `$1,299.00`. `None` for anything else, such as a range.
pub(super) fn price(text: &str) -> Option<f32> {
    let number = text.trim().trim_start_matches(['$', '£', '€']).trim_start().replace(',', "");
    let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    number.parse().ok().filter(|price: &f32| is_number && price.is_finite())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn title(title: &str, year: &str) -> String {
        movie_title(Some(title), Some(year)).0.unwrap_or_else(|| "-".into())
    }

    #[test]
    fn prices_are_numbers() {
        assert_eq!(["12.99", " $1,299.00", "€ 5", "0"].map(price), [Some(12.99), Some(1299.0), Some(5.0), Some(0.0)]);
        assert_eq!(["$1 - $2", "free", "", "$", "-1", "inf", "1e99"].map(price), [None; 7]);
    }

    #[test]
    fn titles_become_what_people_say() {
        assert_eq!(title("Toy Story", "1995"), "Toy Story (1995)");
        assert_eq!(title("Matrix, The", "1999"), "The Matrix (1999)");
        assert_eq!(title("Postino, Il", "1994"), "Il Postino (1994)");
        assert_eq!(title("Good, The Bad and The Ugly, The", "1966"), "The Good, The Bad and The Ugly (1966)");
        assert_eq!(
            title("Horseman on the Roof, The (Hussard sur le toit, Le)", "1995"),
            "The Horseman on the Roof (Le Hussard sur le toit) (1995)"
        );
        assert_eq!(
            title("Star Maker, The (Uomo delle stelle, L')", "1995"),
            "The Star Maker (L'Uomo delle stelle) (1995)"
        );
        assert_eq!(title("Maybe, Maybe Not (Bewegte Mann, Der)", "1994"), "Maybe, Maybe Not (Der Bewegte Mann) (1994)");
        assert_eq!(title("To Wong Foo, Thanks for Everything", "1995"), "To Wong Foo, Thanks for Everything (1995)");
        assert_eq!(title("Land Before Time III: The Time of the Great Giving (1995)", "V"), {
            "Land Before Time III: The Time of the Great Giving (1995)"
        });
        assert_eq!(title("unkonwn", "unkonwn"), "-");
        assert_eq!(title("No Year", ""), "No Year");
        assert_eq!(title("\"Quoted\" (odd", "2000"), "\"Quoted\" (odd (2000)");
        assert_eq!(movie_title(None, Some("1999")), (None, Some(1999)));
        assert_eq!(movie_title(Some("Heat (1995)"), None), (Some("Heat (1995)".into()), Some(1995)));
    }
}
