//! The page over all runs of a warehouse: a line each, with a link to its report.
//!
//! Knows rows as `history` keeps them. Everything from them is escaped: an id is never markup, and a link leads nowhere but
//! into the folder of a run. Equal rows give equal bytes.

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use crate::config::Interval;
use crate::error::{Context, Kind, Result};
use crate::night::drawing::line;
use crate::night::manifest::Manifest;
use crate::night::report::{CSS, add_filters};
use crate::printable;

/// Runs that the page shows.
const SHOWN: usize = 2000;
/// Published runs whose acceptance is drawn.
const DRAWN: usize = 60;

/// A run in a line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// The run.
    pub run_id: String,
    /// The job's name.
    pub job: String,
    /// First moment of the interval, RFC 3339; empty where the run had none.
    pub interval_start: String,
    /// First moment after it.
    pub interval_end: String,
    /// As in the manifest.
    pub status: String,
    /// Wall time, RFC 3339.
    pub started_at: String,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Reasons asked for.
    pub reasons: u64,
    /// Of those, accepted ones.
    pub accepted: u64,
    /// Answers that the run paid for.
    pub generated: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// New tokens.
    pub completion_tokens: u64,
    /// Whether there is a report beside the manifest.
    pub has_report: bool,
}

impl Row {
    /// The line of a manifest.
    pub fn of(m: &Manifest, has_report: bool) -> Row {
        Row {
            run_id: m.run_id.clone(),
            job: m.job.clone(),
            interval_start: m.interval_start.clone(),
            interval_end: m.interval_end.clone(),
            status: m.status.clone(),
            started_at: m.started_at.clone(),
            seconds: m.seconds,
            reasons: m.reasons.total(),
            accepted: m.reasons.accepted.values().sum(),
            generated: m.usage.generated,
            prompt_tokens: m.usage.prompt_tokens,
            completion_tokens: m.usage.completion_tokens,
            has_report,
        }
    }

    /// The interval; none where the run had none or it cannot be read.
    pub fn interval(&self) -> Option<Interval> {
        Interval::parse(&self.interval_start, &self.interval_end).ok()
    }

    fn acceptance(&self) -> Option<f64> {
        (self.reasons > 0).then(|| self.accepted as f64 / self.reasons as f64)
    }

    /// Its days as a person writes them: the first, and where it is longer than a day the one after the last.
    fn days(&self) -> String {
        match self.interval() {
            Some(i) if (i.end - i.start).num_days() == 1 => i.dt(),
            Some(i) => format!("{} to {}", i.dt(), i.end.format("%Y-%m-%d")),
            None => String::new(),
        }
    }

    /// The folder with its report, beside the page; none for an id that is no plain folder name.
    fn report_folder(&self) -> Option<String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_folder = !self.run_id.is_empty() && self.run_id.chars().all(is_plain);
        (self.has_report && is_folder).then(|| self.run_id.clone())
    }
}

/// The page of these rows, the newest first; without any outside resource.
///
/// # Errors
/// [`Kind::Internal`] where the template is broken.
pub fn page(rows: &[Row]) -> Result<String> {
    let mut env = printable::pages();
    add_filters(&mut env);
    env.add_template("index", include_str!("index.html"))
        .context(Kind::Internal, || "the template of the page over all runs is broken".into())?;
    let shown = |row: &Row| {
        context! {
            interval => row.days(), job => &row.job, status => &row.status, reasons => row.reasons,
            acceptance => row.acceptance(), completion_tokens => row.completion_tokens, seconds => row.seconds,
            // To the second, without its fraction.
            started => row.started_at.chars().take(19).collect::<String>().replace('T', " "),
            folder => row.report_folder(), run_id => &row.run_id,
        }
    };
    let published: Vec<&Row> = rows.iter().filter(|row| row.status == "published").collect();
    let mut shares: Vec<f64> = published.iter().filter_map(|row| row.acceptance()).take(DRAWN).collect();
    shares.reverse();
    // The newest run of it: of equals `max_by` takes the last.
    let newest = published.iter().rev().max_by(|a, b| a.interval_start.cmp(&b.interval_start));
    env.get_template("index")
        .and_then(|t| {
            t.render(context! {
                css => Value::from_safe_string(CSS.to_owned()),
                rows => rows.iter().take(SHOWN).map(shown).collect::<Vec<_>>(),
                total => rows.len(), left_out => rows.len().saturating_sub(SHOWN), published => published.len(),
                newest => newest.map(|row| shown(row)),
                line => Value::from_safe_string(line(&shares, None)), n_line => shares.len(),
            })
        })
        .context(Kind::Internal, || "the page over all runs cannot be rendered".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(id: &str, day: u32) -> Row {
        Row {
            run_id: id.into(),
            job: "nightly".into(),
            interval_start: format!("2026-01-{day:02}T00:00:00+00:00"),
            interval_end: format!("2026-01-{:02}T00:00:00+00:00", day + 1),
            status: "published".into(),
            started_at: "2026-01-21T03:15:00.123Z".into(),
            reasons: 4,
            accepted: 3,
            has_report: true,
            ..Row::default()
        }
    }

    #[test]
    fn every_run_has_a_line_and_a_link_where_it_has_a_report() {
        let failed = Row { status: "audit".into(), has_report: false, ..row("n-3", 20) };
        let week = Row { interval_end: "2026-01-25T00:00:00+00:00".into(), ..row("n-1", 18) };
        let rows = [failed, row("n-2", 19), week];
        let page = page(&rows).unwrap();
        assert_eq!(page, super::page(&rows).unwrap());
        assert_eq!(page.matches("<tr>").count(), 4, "{page}");
        assert!(page.contains("href=\"n-2/report.html\"") && !page.contains("n-3/report.html"), "{page}");
        assert!(page.contains("2026-01-18 to 2026-01-25") && page.contains("75.0 %"), "{page}");
        assert!(page.contains(">2026-01-19</b>newest published interval") && page.contains("<polyline"), "{page}");
        assert!(page.contains("2026-01-21 03:15:00<"), "{page}");
        assert!(super::page(&[]).unwrap().contains("none yet"));
    }

    #[test]
    fn data_is_never_markup_and_no_link_leaves_the_folder_of_runs() {
        let evil = "\"><script>alert(1)</script>\u{202e}{{ 7*7 }}";
        for id in [evil, "..", "javascript:alert(1)", "a/../../b", ""] {
            let row = Row { job: evil.into(), status: evil.into(), started_at: evil.into(), ..row(id, 19) };
            let page = page(&[row]).unwrap();
            assert!(!page.contains("<script") && !page.contains('\u{202e}') && page.contains("{{ 7*7 }}"), "{page}");
            assert!(!page.contains("href="), "{page}");
        }
    }

    #[test]
    fn a_page_of_very_many_runs_says_what_it_leaves_out() {
        let rows: Vec<Row> = (0..SHOWN + 3).map(|n| row(&format!("n-{n}"), 19)).collect();
        let page = page(&rows).unwrap();
        assert_eq!(page.matches("<tr>").count(), SHOWN + 1);
        assert!(page.contains("3 older ones") && page.contains("2 003</b>runs"), "no word of what is left out");
    }
}
