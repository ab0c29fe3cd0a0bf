//! An evaluation's report for a person: one self-contained HTML page with plots.
//!
//! Knows what was found and the tables that show it. Everything from the data is escaped: a name is never markup. What
//! the deliberate leak does is drawn hollow and cut off at the end of the axis: it is no result, and has no say in the
//! scale.

use minijinja::context;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Context, Error, Kind, Result};
use crate::evaluate::results::{LEAK, Measurement, Results, known};
use crate::evaluate::results_text::{Row, Section, Table, arm_name, interval, metric_name, recommender_name};
use crate::printable;
use crate::statistics::Interval;

const RESULT: RGBColor = RGBColor(60, 110, 160);
const BASELINE: RGBColor = RGBColor(140, 140, 140);
const NO_RESULT: RGBColor = RGBColor(160, 32, 32);
const INK: RGBColor = RGBColor(34, 34, 34);

/// Width of a plot, of its labels, and height of a row, in pixels.
const WIDTH: u32 = 640;
const LABELS: u32 = 230;
const ROW: u32 = 22;

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    label: String,
    interval: Interval,
    color: RGBColor,
    leak: bool,
}

/// The page, without any outside resource.
///
/// # Errors
/// `Kind::Internal` where a plot cannot be drawn or the template is broken.
pub fn page(results: &Results) -> Result<String> {
    let mut env = printable::pages();
    env.add_template("evaluation", include_str!("evaluation.html"))
        .context(Kind::Internal, || "the evaluation's template is broken".into())?;
    let sections = results.sections().iter().map(of_section).collect::<Result<Vec<_>>>()?;
    env.get_template("evaluation")
        .and_then(|t| {
            t.render(context! {
                title => &*results.title, created => &*results.created,
                facts => results.facts.clone(), notes => results.notes.clone(),
                arms => of_table(results.arms()), sections,
            })
        })
        .context(Kind::Internal, || "the evaluation's page cannot be rendered".into())
}

fn of_section(section: &Section<'_>) -> Result<minijinja::Value> {
    let plots = plots(section)?;
    let tables: Vec<_> = section.tables().into_iter().map(of_table).collect();
    Ok(context! { title => section.title(), plots, tables })
}

fn of_table(table: Table) -> minijinja::Value {
    let row = |row: Row| context! { cells => row.cells, leak => row.leak };
    let rows: Vec<_> = table.rows.into_iter().map(row).collect();
    context! { caption => table.caption, header => table.header, rows }
}

/// Bars by arm, bars by tier and arm, differences: each where there is something to show.
fn plots(section: &Section<'_>) -> Result<Vec<minijinja::Value>> {
    let (metric, tiers) = (section.headline(), section.tiers());
    // Half of all pairs are in order by chance: AUC's bars begin there.
    let base = if metric == "auc" { 0.5 } else { 0.0 };
    let name = metric_name(metric);
    let arms: Vec<Mark> = section.of(metric, "all").into_iter().map(|m| mark(m, "")).collect();
    let of_tiers = tiers.iter().flat_map(|tier| section.of(metric, tier).into_iter().map(move |m| mark(m, tier)));
    let differences = section.contrasts.iter().filter(|c| c.metric == metric && c.tier == "all").map(|c| Mark {
        label: format!("{} - {}", short(&c.arm), short(&c.against)),
        interval: c.contrast.interval,
        color: if c.verdict() == "no difference shown" { BASELINE } else { RESULT },
        leak: c.leaks(),
    });
    let drawn = [
        (format!("{name}: mean over seeds and interval, bars from {base}"), arms, Shape::Bars(base)),
        (format!("{name} by how often training met the asked item"), of_tiers.collect(), Shape::Bars(base)),
        (
            format!("Differences in {name} and intervals; grey: no difference shown"),
            differences.collect(),
            Shape::Points,
        ),
    ];
    drawn
        .into_iter()
        .filter(|(_, marks, _)| !marks.is_empty())
        .map(|(caption, marks, shape)| {
            let svg = minijinja::Value::from_safe_string(plot(&marks, shape)?);
            let words: Vec<String> = marks.iter().map(|m| format!("{}: {}", m.label, interval(m.interval))).collect();
            let label = format!("{caption}. {}", words.join("; "));
            Ok(context! { caption, label, svg })
        })
        .collect()
}

fn mark(m: &Measurement, tier: &str) -> Mark {
    let baseline = m.arm.is_empty();
    let name = if baseline { recommender_name(&m.recommender).to_owned() } else { short(&m.arm) };
    Mark {
        label: if tier.is_empty() { name } else { format!("{tier}: {name}") },
        interval: m.interval,
        color: if baseline { BASELINE } else { RESULT },
        leak: m.arm == LEAK,
    }
}

/// An arm's name where there is little room.
fn short(arm: &str) -> String {
    if arm == LEAK { arm_name(arm) } else { arm.into() }
}

/// What stands for an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// A bar from this value.
    Bars(f64),
    /// A point, beside a line at 0.
    Points,
}

/// Horizontal marks with whiskers, one a row from the top, as an SVG element.
fn plot(marks: &[Mark], shape: Shape) -> Result<String> {
    let base = match shape {
        Shape::Bars(base) => base,
        Shape::Points => 0.0,
    };
    let (left, right) = range(marks, base);
    let rows = marks.len() as f64;
    let mut svg = String::new();
    {
        let height = ROW * u32::try_from(marks.len()).unwrap_or(u32::MAX / ROW / 2) + 42;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let draw = || -> std::result::Result<(), Box<dyn std::error::Error>> {
            let mut chart = ChartBuilder::on(&area)
                .margin(6)
                .margin_right(20)
                .x_label_area_size(24)
                .y_label_area_size(LABELS)
                .build_cartesian_2d(left..right, 0.0..rows)?;
            chart.configure_mesh().disable_y_mesh().light_line_style(TRANSPARENT).x_labels(6).y_labels(0).draw()?;
            let line = |from: (f64, f64), to: (f64, f64), color: &RGBColor| {
                PathElement::new(vec![from, to], color.stroke_width(1))
            };
            chart.draw_series([line((base, 0.0), (base, rows), &INK)])?;
            let at = |x: f64| x.clamp(left, right);
            let text = TextStyle::from(("sans-serif", 14).into_font()).pos(Pos::new(HPos::Right, VPos::Center));
            for (i, mark) in marks.iter().enumerate() {
                let y = rows - i as f64 - 0.5;
                let color = if mark.leak { NO_RESULT } else { mark.color };
                let Interval { mean, low, high } = mark.interval;
                let label = match known(mean) {
                    None => format!("{} –", mark.label),
                    Some(v) if at(v) != v => format!("{} (beyond the axis)", mark.label),
                    Some(_) => mark.label.clone(),
                };
                let (x_label, y_label) = (LABELS as i32, chart.backend_coord(&(left, y)).1);
                area.draw(&Text::new(printable::line(&label).into_owned(), (x_label, y_label), text.clone()))?;
                let Some(mean) = known(mean) else { continue };
                match shape {
                    Shape::Bars(_) => {
                        let style = if mark.leak { color.stroke_width(1) } else { color.filled() };
                        chart.draw_series([Rectangle::new([(base, y - 0.32), (at(mean), y + 0.32)], style)])?;
                    }
                    Shape::Points => {
                        let style = if mark.leak { color.stroke_width(1) } else { color.filled() };
                        chart.draw_series([Circle::new((at(mean), y), 4, style)])?;
                    }
                }
                if let (Some(low), Some(high)) = (known(low), known(high)) {
                    let (low, high) = (at(low), at(high));
                    let color = if shape == Shape::Points { color } else { INK };
                    let cap = |x: f64| line((x, y - 0.18), (x, y + 0.18), &color);
                    chart.draw_series([line((low, y), (high, y), &color), cap(low), cap(high)])?;
                }
            }
            area.present()?;
            Ok(())
        };
        draw().map_err(|e| Error::new(Kind::Internal, format!("a plot cannot be drawn: {e}")))?;
    }
    Ok(svg)
}

/// The axis: all that is a result and `base`, with some room; the leak alone has a say where there is nothing else.
fn range(marks: &[Mark], base: f64) -> (f64, f64) {
    let ends = |leak: bool| {
        let of = marks.iter().filter(|m| m.leak == leak).map(|m| m.interval);
        of.flat_map(|i| [i.mean, i.low, i.high]).filter_map(known).collect::<Vec<f64>>()
    };
    let results = ends(false);
    let shown = if results.is_empty() { ends(true) } else { results };
    let (low, high) = shown.iter().fold((base, base), |(low, high), v| (low.min(*v), high.max(*v)));
    // Where everything stands at one value there still is an axis.
    let room = if high > low { (high - low) * 0.05 } else { 1.0 };
    (if low < base { low - room } else { low }, high + room)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::evaluate::results::samples::{contrasted, measurement, results};

    fn marks(values: &[(f64, bool)]) -> Vec<Mark> {
        let mark = |(mean, leak): &(f64, bool)| Mark {
            label: "x".into(),
            interval: Interval { mean: *mean, low: mean - 0.01, high: mean + 0.01 },
            color: RESULT,
            leak: *leak,
        };
        values.iter().map(mark).collect()
    }

    #[test]
    fn there_is_a_bar_for_every_arm_that_has_a_number() {
        let bars = |values: &[(f64, bool)]| plot(&marks(values), Shape::Bars(0.0)).unwrap().matches("<rect").count();
        assert_eq!(bars(&[(0.1, false), (0.2, false), (0.9, true)]), 3);
        assert_eq!(bars(&[(0.1, false), (f64::NAN, false)]), 1, "no number is no bar");
        assert_eq!(bars(&[(0.0, false)]), 1);
        let points = plot(&marks(&[(0.1, false), (-0.1, false)]), Shape::Points).unwrap();
        assert_eq!(points.matches("<circle").count(), 2);
    }

    #[test]
    fn the_leak_has_no_say_in_the_scale() {
        let with = marks(&[(0.1, false), (0.2, false), (0.9, true)]);
        assert_eq!(range(&with, 0.0), range(&with[..2], 0.0));
        assert!(range(&with[2..], 0.0).1 > 0.9, "but where it is alone");
        assert!(plot(&with, Shape::Bars(0.0)).unwrap().contains("beyond the axis"));
        for values in [marks(&[]), marks(&[(f64::NAN, false)])] {
            let (low, high) = range(&values, 0.5);
            assert!(low <= 0.5 && high > 0.5, "{low} {high}");
        }
        assert!(range(&marks(&[(-0.1, false)]), 0.0).0 < -0.11, "whiskers are inside");
    }

    #[test]
    fn the_page_is_self_contained_and_the_same_every_time() {
        let page = super::page(&results()).unwrap();
        assert_eq!(page, super::page(&results()).unwrap());
        // By arm, by tier, differences; DIN by arm.
        assert_eq!(page.matches("role=\"img\"").count(), 4);
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(
            page.contains("aria-label=\"ndcg@10: mean over seeds and interval, bars from 0. popularity: 0.0400; A0: ")
        );
        assert!(page.contains("bars from 0.5"), "AUC has its chance level");
        assert!(page.contains("A9 (leak, no result)") && page.contains("class=\"leak\""));
        assert!(page.contains("no result: the leak is seen"));
        let outside = ["<script", "<link", "<img", "src=", "href=", "@import", "url("];
        assert!(outside.iter().all(|o| !page.contains(o)), "the page loads something");
    }

    #[test]
    fn data_is_never_markup() {
        let evil = "<script>alert(1)</script>\"'{{ 7*7 }}\n|\u{202e}\x1b";
        let mut row = measurement(evil, evil, evil, "all", 0.5);
        (row.data, row.target) = (evil.into(), evil.into());
        let mut other = contrasted(evil, evil, (0.1, 0.0, 0.2), 0.5);
        (other.data, other.recommender, other.target) = (evil.into(), evil.into(), evil.into());
        other.metric = evil.into();
        let found = Results {
            title: evil.into(),
            created: evil.into(),
            facts: vec![(evil.into(), evil.into())],
            measurements: vec![row.clone(), Measurement { tier: evil.into(), ..row }],
            contrasts: vec![other],
            notes: vec![evil.into()],
        };
        let page = super::page(&found).unwrap();
        assert!(!page.contains("<script"), "data became markup");
        assert!(page.contains("{{ 7*7 }}"), "data became a template");
        assert!(!page.contains(['\u{202e}', '\x1b']), "data turns the writing around it");
        let (start, label) = page.split_once("aria-label=\"").unwrap();
        assert!(start.contains("&lt;script&gt;"));
        assert!(label.split('"').next().unwrap().contains("&lt;script&gt;"), "a quote ended the label");
        assert_eq!(page.matches("<svg").count(), 3);
    }

    #[test]
    fn nothing_found_is_a_page() {
        let page = super::page(&Results::default()).unwrap();
        assert!(page.contains("</html>") && !page.contains("<svg"));
    }
}
