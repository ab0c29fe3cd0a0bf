//! What an evaluation found, in words: tables of text by data set, recommender and target, and all of it as markdown.
//!
//! Knows [`Results`]; knows nothing of plots or pages, which show the same tables. Numbers are rounded to four decimals,
//! smaller ones to two digits, so that only 0 prints as 0; what is unknown prints as a dash. Text from data is data:
//! it can neither break a table nor become markup.

use crate::evaluate::results::{
    Contrasted, LEAK, Measurement, Results, TEXT, arm_order, arm_text, known, lower_is_better,
};
use crate::printable::steers;
use crate::statistics::Interval;

/// How well the held-out events were foreseen; other metrics than these and [`OF_LISTS`] stand behind them.
const OF_CASES: [&str; 6] = ["ndcg@10", "recall@10", "mrr", "auc", "gauc", "log_loss"];
/// What the lists look like.
const OF_LISTS: [&str; 3] = ["coverage@10", "gini@10", "popularity_lift@10"];
/// What the texts are like: see `evaluate::text_quality`, `evaluate::agreement` and, of what correction reached,
/// `evaluate::window_nights`.
const OF_TEXTS: [&str; 16] = [
    "agreement",
    "texts",
    "format",
    "grounding",
    "distinct_2",
    "unique",
    "bleu_1",
    "bleu_4",
    "bleu_4_shuffled",
    "rouge_l",
    "rouge_l_shuffled",
    "references",
    "could_change",
    "changed",
    "confirmed",
    "confirmed_by_chance",
];
const TIERS: [&str; 6] = ["all", "0", "1-4", "5-19", "20-99", "100+"];
/// Recommenders that learn no vectors and stand beside all that rank.
const BASELINES: [&str; 3] = ["popularity", "item_knn", "ease"];

/// A table of plain text; nothing in it is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Names of its columns.
    pub header: Vec<String>,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A row of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// One for every column.
    pub cells: Vec<String>,
    /// Whether it tells of the deliberate leak, which is no result.
    pub leak: bool,
}

/// What was found on one data set, for one question and one target.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    /// Data set.
    pub data: &'a str,
    /// Who foresees: a recommender, beside which the baselines stand where it ranks the catalogue.
    pub recommender: &'a str,
    /// `last`, `first` or `successive`.
    pub target: &'a str,
    /// Metrics, by recommender and arm.
    pub measurements: Vec<&'a Measurement>,
    /// Differences, as they were found.
    pub contrasts: Vec<&'a Contrasted>,
}

/// A number of a table; a dash where there is none.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match known(value) {
        None => "–".into(),
        Some(_) if size == 0.0 => "0.0000".into(),
        Some(v) if size < 1e-6 => format!("{v:.1e}"),
        Some(v) if size < 1e-3 => format!("{v:.*}", (1.0 - size.log10().floor()) as usize),
        Some(v) => format!("{v:.4}"),
    }
}

/// An estimate with its interval, where it has one.
pub fn interval(i: Interval) -> String {
    match (known(i.low), known(i.high)) {
        (Some(low), Some(high)) => format!("{} [{}, {}]", number(i.mean), number(low), number(high)),
        _ => number(i.mean),
    }
}

/// A recommender's name for people.
pub fn recommender_name(recommender: &str) -> &str {
    match recommender {
        "sasrec" => "SASRec",
        "din" => "DIN",
        "popularity" => "popularity",
        "item_knn" => "item-kNN",
        "ease" => "EASE",
        "log_linear" => "log-linear",
        "better" => "the better of both",
        TEXT => "–",
        other => other,
    }
}

/// An arm's name for people, which says what is no result.
pub fn arm_name(arm: &str) -> String {
    match arm {
        "" => "–".into(),
        LEAK => format!("{LEAK} (leak, no result)"),
        other => other.into(),
    }
}

impl Results {
    /// The parts of a report, in the order in which they were found.
    pub fn sections(&self) -> Vec<Section<'_>> {
        let mut sections: Vec<Section<'_>> = Vec::new();
        let (baselines, others): (Vec<&Measurement>, Vec<&Measurement>) =
            self.measurements.iter().partition(|m| BASELINES.contains(&m.recommender.as_str()));
        for m in others {
            section(&mut sections, &m.data, &m.recommender, &m.target).measurements.push(m);
        }
        for c in &self.contrasts {
            section(&mut sections, &c.data, &c.recommender, &c.target).contrasts.push(c);
        }
        for m in baselines {
            let beside = |s: &Section<'_>| s.ranks() && (s.data, s.target) == (m.data.as_str(), m.target.as_str());
            if !sections.iter().any(beside) {
                section(&mut sections, &m.data, &m.recommender, &m.target);
            }
            sections.iter_mut().filter(|s| beside(s)).for_each(|s| s.measurements.push(m));
        }
        for s in &mut sections {
            s.measurements.sort_by_key(|m| place(m));
        }
        sections
    }

    /// The arms that occur, in words.
    pub fn arms(&self) -> Table {
        let of_contrasts = self.contrasts.iter().flat_map(|c| [&c.arm, &c.against]);
        let mut arms: Vec<&str> =
            self.measurements.iter().map(|m| &m.arm).chain(of_contrasts).map(|a| a.as_str()).collect();
        arms.sort_by_key(|arm| arm_order(arm));
        arms.dedup();
        let row = |arm: &&str| Row { cells: vec![arm_name(arm), arm_text(arm).into()], leak: *arm == LEAK };
        Table {
            caption: "What the recommenders are told of items".into(),
            header: vec!["arm".into(), "items come with".into()],
            rows: arms.iter().filter(|arm| !arm.is_empty()).map(row).collect(),
        }
    }

    /// All of it as markdown.
    pub fn markdown(&self) -> String {
        let mut out =
            format!("# {}\n\nMade {} by `curec learn evaluate`.\n", escaped(&self.title), escaped(&self.created));
        if !self.facts.is_empty() {
            out += "\n## What was run\n\n";
        }
        for (what, fact) in &self.facts {
            out += &format!("- **{}**: {}\n", escaped(what), escaped(fact));
        }
        let arms = self.arms();
        if !arms.rows.is_empty() {
            out += &format!("\n## Arms\n\n{}", markdown_table(&arms));
        }
        for section in self.sections() {
            out += &format!("\n## {}\n", escaped(&section.title()));
            for table in section.tables() {
                out += &format!("\n**{}**\n\n{}", escaped(&table.caption), markdown_table(&table));
            }
        }
        if !self.notes.is_empty() {
            out += "\n## Notes\n\n";
        }
        for note in &self.notes {
            out += &format!("- {}\n", escaped(note));
        }
        out
    }
}

/// Baselines first, then recommenders by name, their arms by number.
fn place(m: &Measurement) -> (bool, usize, &str, (u64, &str)) {
    let baseline = BASELINES.iter().position(|r| *r == m.recommender);
    (!m.arm.is_empty(), baseline.unwrap_or(BASELINES.len()), &m.recommender, arm_order(&m.arm))
}

fn section<'a, 'b>(
    sections: &'b mut Vec<Section<'a>>,
    data: &'a str,
    recommender: &'a str,
    target: &'a str,
) -> &'b mut Section<'a> {
    let is_it = |s: &Section<'_>| (s.data, s.recommender, s.target) == (data, recommender, target);
    let at = sections.iter().position(is_it).unwrap_or_else(|| {
        sections.push(Section { data, recommender, target, measurements: Vec::new(), contrasts: Vec::new() });
        sections.len() - 1
    });
    &mut sections[at]
}

impl<'a> Section<'a> {
    /// Whether the catalogue was ranked; else likes were foreseen, or nobody was asked.
    fn ranks(&self) -> bool {
        self.target != TEXT && self.recommender != "din"
    }

    /// Its heading.
    pub fn title(&self) -> String {
        if self.target == TEXT {
            return format!("{}: the texts themselves", self.data);
        }
        let question = if self.ranks() { "full ranking" } else { "likes and dislikes" };
        format!("{}: {}, {question}, target {}", self.data, recommender_name(self.recommender), self.target)
    }

    /// The metric that plots show.
    pub fn headline(&self) -> &'a str {
        let metrics = self.metrics();
        let main = ["ndcg@10", "auc"].iter().find_map(|main| metrics.iter().find(|m| *m == main));
        main.or(metrics.first()).copied().unwrap_or_default()
    }

    /// Metrics of whatever tier, in the order of the tables.
    fn metrics(&self) -> Vec<&'a str> {
        let of = self.measurements.iter().map(|m| m.metric.as_str());
        let mut metrics: Vec<&str> = of.chain(self.contrasts.iter().map(|c| c.metric.as_str())).collect();
        let order =
            |m: &str| OF_CASES.iter().chain(&OF_LISTS).chain(&OF_TEXTS).position(|k| *k == m).unwrap_or(usize::MAX);
        metrics.sort_by_key(|m| (order(m), *m));
        metrics.dedup();
        metrics
    }

    /// The tiers with measurements of the headline metric, without `all`.
    pub fn tiers(&self) -> Vec<&'a str> {
        let of = self.measurements.iter().filter(|m| m.metric == self.headline());
        let mut tiers: Vec<&str> = of.map(|m| m.tier.as_str()).filter(|t| *t != "all").collect();
        tiers.sort_by_key(|t| (TIERS.iter().position(|k| k == t).unwrap_or(usize::MAX), *t));
        tiers.dedup();
        tiers
    }

    /// A metric in a tier, by recommender and arm.
    pub fn of(&self, metric: &str, tier: &str) -> Vec<&'a Measurement> {
        self.measurements.iter().filter(|m| m.metric == metric && m.tier == tier).copied().collect()
    }

    /// Its tables: metrics by arm, what the lists look like, tiers, differences. Empty ones are left out.
    pub fn tables(&self) -> Vec<Table> {
        let (of_lists, of_cases): (Vec<&str>, Vec<&str>) =
            self.metrics().into_iter().partition(|m| OF_LISTS.contains(m));
        let of_cases_caption = match self.target {
            TEXT => "What the texts are like, whoever ranks with them",
            _ => "How well held-out events are foreseen: mean over seeds [interval]",
        };
        let tables = [
            self.arms(of_cases_caption, &of_cases),
            self.arms("What the lists of ten look like: mean over seeds [interval]", &of_lists),
            self.by_tier(),
            self.differences(),
        ];
        tables.into_iter().filter(|t| !t.rows.is_empty()).collect()
    }

    /// Recommenders and arms that were measured, each once.
    fn measured(&self) -> Vec<(&'a str, &'a str)> {
        let mut rows: Vec<(&str, &str)> =
            self.measurements.iter().map(|m| (m.recommender.as_str(), m.arm.as_str())).collect();
        rows.dedup();
        rows
    }

    /// One row for every recommender and arm, one column for every (metric, tier).
    fn grid(&self, caption: &str, columns: &[(&str, &str, String)]) -> Table {
        let mut header = vec!["recommender".to_owned(), "arm".into()];
        header.extend(columns.iter().map(|(_, _, name)| name.clone()));
        header.extend(["seeds".into(), "cases".into()]);
        let row = |(recommender, arm): (&str, &str)| {
            let find = |metric: &str, tier: &str| {
                let mut of = self.measurements.iter();
                of.find(|m| m.recommender == recommender && m.arm == arm && m.metric == metric && m.tier == tier)
            };
            let found: Vec<_> = columns.iter().map(|(metric, tier, _)| find(metric, tier)).collect();
            let mut cells = vec![recommender_name(recommender).to_owned(), arm_name(arm)];
            cells.extend(found.iter().map(|m| m.map_or_else(|| "–".into(), |m| interval(m.interval))));
            cells.push(distinct(
                found.iter().flatten().map(|m| m.by_seed.iter().filter(|v| v.is_finite()).count() as u64),
            ));
            cells.push(distinct(found.iter().flatten().map(|m| m.cases)));
            (found.iter().any(Option::is_some)).then(|| Row { cells, leak: arm == LEAK })
        };
        Table { caption: caption.into(), header, rows: self.measured().into_iter().filter_map(row).collect() }
    }

    fn arms(&self, caption: &str, metrics: &[&str]) -> Table {
        let columns: Vec<(&str, &str, String)> = metrics.iter().map(|m| (*m, "all", metric_name(m))).collect();
        self.grid(caption, &columns)
    }

    fn by_tier(&self) -> Table {
        let headline = self.headline();
        let cases = |tier: &str| distinct(self.of(headline, tier).iter().map(|m| m.cases));
        let columns: Vec<(&str, &str, String)> =
            self.tiers().into_iter().map(|tier| (headline, tier, format!("{tier} ({} cases)", cases(tier)))).collect();
        let caption = format!("{} by how often training met the asked item", metric_name(headline));
        let mut table = self.grid(&caption, &columns);
        // A number of cases for all tiers would say nothing of any.
        table.header.pop();
        table.rows.iter_mut().for_each(|row| _ = row.cells.pop());
        table
    }

    /// The differences that the report shows: all metrics over all items, the headline metric by tier as well.
    pub fn shown(&self) -> Vec<&'a Contrasted> {
        let headline = self.headline();
        let metrics = self.metrics();
        let mut shown: Vec<&Contrasted> =
            self.contrasts.iter().filter(|c| c.tier == "all" || c.metric == headline).copied().collect();
        let order = |all: &[&str], one: &str| all.iter().position(|k| *k == one).unwrap_or(usize::MAX);
        shown.sort_by_key(|c| (order(&metrics, &c.metric), order(&TIERS, &c.tier)));
        shown
    }

    /// A difference in hundredths of what the other arm reaches; a dash where it reaches nothing.
    fn relative(&self, c: &Contrasted) -> String {
        let is_other = |m: &&&Measurement| {
            (&m.recommender, &m.arm, &m.metric, &m.tier) == (&c.recommender, &c.against, &c.metric, &c.tier)
        };
        let other = self.measurements.iter().find(is_other).map_or(f64::NAN, |m| m.interval.mean);
        let of = |value: f64| known(100.0 * value / other).map(|v| format!("{v:+.1}"));
        let Interval { mean, low, high } = c.contrast.interval;
        match (of(mean), of(low), of(high)) {
            (Some(mean), Some(low), Some(high)) => format!("{mean} % [{low}, {high}]"),
            _ => "–".into(),
        }
    }

    fn differences(&self) -> Table {
        let header = [
            "metric",
            "tier",
            "arm",
            "against",
            "difference [interval]",
            "relative [interval]",
            "p",
            "p (Holm)",
            "users",
            "verdict",
        ];
        let row = |c: &Contrasted| Row {
            cells: vec![
                metric_name(&c.metric),
                c.tier.clone(),
                arm_name(&c.arm),
                arm_name(&c.against),
                interval(c.contrast.interval),
                self.relative(c),
                number(c.contrast.p),
                number(c.p_holm),
                c.users.to_string(),
                verdict(c),
            ],
            leak: c.leaks(),
        };
        let (shown, all) = (self.shown(), self.contrasts.len());
        let rest = match all - shown.len() {
            0 => String::new(),
            n => format!("; {n} more, of other metrics by tier, in the table contrast"),
        };
        Table {
            caption: format!("Differences between arms, paired by user{rest}"),
            header: header.map(str::to_owned).into(),
            rows: shown.into_iter().map(row).collect(),
        }
    }
}

/// A contrast's verdict; of the leak it says whether the yardstick saw it. What must see it are the two measures of order
/// over all cases: cold items have no vectors to leak through, and who is told the answers in training becomes too sure
/// of itself, which costs log-loss.
fn verdict(c: &Contrasted) -> String {
    let must_see = c.tier == "all" && (c.metric == "auc" || c.metric.starts_with("ndcg"));
    let better = if lower_is_better(&c.metric) { "lower" } else { "higher" };
    match (c.arm == LEAK, c.verdict()) {
        (false, said) => said.into(),
        (true, said) if said == better => format!("{said} (no result: the leak is seen)"),
        (true, said) if must_see => format!("{said} (no result: THE LEAK IS NOT SEEN)"),
        (true, said) => format!("{said} (no result)"),
    }
}

/// A metric's name for people.
pub fn metric_name(metric: &str) -> String {
    if lower_is_better(metric) { format!("{metric} (less is better)") } else { metric.into() }
}

/// Different counts, ascending; a dash for none.
fn distinct(counts: impl Iterator<Item = u64>) -> String {
    let mut counts: Vec<u64> = counts.collect();
    counts.sort_unstable();
    counts.dedup();
    match counts.is_empty() {
        true => "–".into(),
        false => counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" / "),
    }
}

fn markdown_table(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| escaped(c)).collect::<Vec<_>>().join(" | "));
    let mut out = line(&table.header) + &format!("|{}\n", "---|".repeat(table.header.len()));
    table.rows.iter().for_each(|row| out += &line(&row.cells));
    out
}

/// Text that stands in one line of markdown as it is: no cell ends, no markup, no HTML, no link.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for c in text.chars() {
        match c {
            c if steers(c) => out.push(' '),
            '<' => out += "&lt;",
            '&' => out += "&amp;",
            '\\' | '|' | '`' | '*' | '~' | '#' => out.extend(['\\', c]),
            '(' | '[' | ':' if before == ']' => out.extend(['\\', c]),
            '_' if !before.is_alphanumeric() => out.extend(['\\', c]),
            c => out.push(c),
        }
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::results::samples::{contrasted, measurement, results};

    fn lines(markdown: &str, with: &str) -> Vec<String> {
        markdown.lines().filter(|l| l.contains(with)).map(str::to_owned).collect()
    }

    #[test]
    fn numbers_are_neither_lost_nor_made_up() {
        for (value, text) in [
            (0.12346, "0.1235"),
            (-0.12346, "-0.1235"),
            (0.0, "0.0000"),
            (-0.0, "0.0000"),
            (0.001, "0.0010"),
            (0.000_43, "0.00043"),
            (-0.000_043, "-0.000043"),
            (3e-9, "3.0e-9"),
            (12.0, "12.0000"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(interval(Interval { mean: 0.5, low: f64::NAN, high: f64::NAN }), "0.5000");
        assert_eq!(interval(Interval { mean: 0.5, low: 0.25, high: 0.75 }), "0.5000 [0.2500, 0.7500]");
    }

    #[test]
    fn the_markdown_is_what_a_reader_expects() {
        let text = results().markdown();
        let expected = "\
## ml: SASRec, full ranking, target last

**How well held-out events are foreseen: mean over seeds [interval]**

| recommender | arm | ndcg@10 | seeds | cases |
|---|---|---|---|---|
| popularity | – | 0.0400 | 1 | 80 |
| SASRec | A0 | 0.1000 [0.0800, 0.1200] | 2 | 80 |
| SASRec | A2 | 0.1200 [0.1000, 0.1400] | 2 | 80 |
| SASRec | A9 (leak, no result) | 0.9000 [0.8800, 0.9200] | 2 | 80 |
| SASRec | A10 | 0.1100 [0.0900, 0.1300] | 2 | 80 |

**ndcg@10 by how often training met the asked item**

| recommender | arm | 1-4 (80 cases) | seeds |
|---|---|---|---|
| SASRec | A0 | 0.0500 [0.0300, 0.0700] | 2 |
| SASRec | A2 | 0.0600 [0.0400, 0.0800] | 2 |

**Differences between arms, paired by user**

| metric | tier | arm | against | difference [interval] | relative [interval] | p | p (Holm) | users | verdict |
|---|---|---|---|---|---|---|---|---|---|
| ndcg@10 | all | A2 | A0 | 0.0200 [0.0100, 0.0300] | +20.0 % [+10.0, +30.0] | 0.00050 | 0.0010 | 70 | higher |
| ndcg@10 | all | A9 (leak, no result) | A0 | 0.8000 [0.7000, 0.9000] | +800.0 % [+700.0, +900.0] | 0.00050 | 0.0010 | 70 | higher (no result: the leak is seen) |
| ndcg@10 | all | A10 | A2 | -0.0100 [-0.0300, 0.0100] | -8.3 % [-25.0, +8.3] | 0.2000 | 0.4000 | 70 | no difference shown |

## ml: DIN, likes and dislikes, target successive
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("| DIN | A1 | – | 0 | 80 |\n"), "no number is a dash: {text}");
        assert_eq!(lines(&text, "deliberate leak").len(), 1);
        assert!(text.ends_with("\n## Notes\n\n- A note.\n"));
        assert_eq!(text, results().markdown());
    }

    #[test]
    fn a_leak_that_is_not_seen_is_shouted() {
        let mut found =
            Results { contrasts: vec![contrasted("A9", "A0", (0.0, -0.1, 0.1), 0.9)], ..Results::default() };
        assert!(found.markdown().contains("THE LEAK IS NOT SEEN"));
        found.contrasts = vec![contrasted("A9", "A0", (0.1, 0.05, 0.2), 0.001)];
        assert!(!found.markdown().contains("NOT SEEN"));
        found.contrasts = vec![contrasted("A9", "A0", (0.0, -0.1, 0.1), 0.9)];
        found.contrasts[0].tier = "0".into();
        assert!(!found.markdown().contains("NOT SEEN"), "nothing leaks through items without vectors");
        found.contrasts[0].metric = "log_loss".into();
        found.contrasts[0].tier = "all".into();
        assert!(!found.markdown().contains("NOT SEEN"), "who knows the answers is too sure of itself");
    }

    #[test]
    fn names_break_no_table_and_are_no_markup() {
        let evil = "a|b\r\n# c\n| d | <script>x</script> [l](http://e) `f` *g* \\| ]: &lt;";
        let mut found = results();
        let mut row = measurement(evil, evil, evil, "all", 0.5);
        row.data = evil.into();
        found.measurements = vec![row];
        found.contrasts.clear();
        found.title = evil.into();
        found.facts = vec![(evil.into(), evil.into())];
        found.notes = vec![evil.into()];
        let text = found.markdown();
        assert!(!text.contains("<script") && !text.contains('\r') && !text.contains("](http"), "{text}");
        assert_eq!(lines(&text, "|---|").iter().map(String::len).collect::<Vec<_>>(), [9, 21], "two tables: {text}");
        let cells = |line: &str| {
            let bare = line.replace("\\\\", "").replace("\\|", "");
            bare.matches('|').count() - 1
        };
        let rows: Vec<String> = text.lines().filter(|l| l.starts_with('|')).map(str::to_owned).collect();
        assert_eq!(rows.iter().map(|r| cells(r)).collect::<Vec<_>>(), [2, 2, 2, 5, 5, 5], "{text}");
        assert_eq!(text.lines().filter(|l| l.starts_with('#')).count(), 5, "{text}");
        assert_eq!(escaped("item_knn _x_"), "item_knn \\_x_");
        assert!(text.contains("&amp;lt;"));
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut found = results();
        let of = |metric: &str, tier: &str| Contrasted {
            metric: metric.into(),
            tier: tier.into(),
            ..contrasted("A2", "A0", (0.0, -0.1, 0.1), 1.0)
        };
        found.contrasts = vec![of("mrr", "1-4"), of("mrr", "all"), of("ndcg@10", "1-4"), of("ndcg@10", "all")];
        let sections = found.sections();
        let shown: Vec<_> = sections[0].shown().iter().map(|c| (c.metric.clone(), c.tier.clone())).collect();
        assert_eq!(shown, [("ndcg@10", "all"), ("ndcg@10", "1-4"), ("mrr", "all")].map(|(m, t)| (m.into(), t.into())));
        assert!(found.markdown().contains("1 more, of other metrics by tier"));
        assert_eq!(Results::default().markdown().lines().count(), 3, "nothing found is a title");
    }
}
