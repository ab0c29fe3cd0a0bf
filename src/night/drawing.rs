//! Small drawings as SVG elements: a histogram, and a line through the numbers of some runs.
//!
//! Knows numbers only: no text from the data comes in, so what comes out is safe in a page. Colours are the page's
//! (`page.css`), so that they are readable by day and by night. Equal numbers give equal bytes.

use std::fmt::Write as _;

/// Width and height of a histogram, and the room around its bars: left, top, bottom.
const SIZE: (f64, f64) = (460.0, 180.0);
const ROOM: (f64, f64, f64) = (44.0, 14.0, 24.0);
/// Ticks below a histogram.
const TICKS: usize = 4;
/// Width and height of a line, and the room around it for its last point.
const LINE: (f64, f64, f64) = (120.0, 28.0, 4.0);

/// Counts of `values` in equal bins over `[low, high]`; values outside go to the ends, what is no number to none.
fn counted(values: &[f64], low: f64, high: f64, bins: usize) -> Vec<u64> {
    let mut counts = vec![0u64; bins.max(1)];
    let last = counts.len() - 1;
    let width = (high - low) / counts.len() as f64;
    for value in values.iter().filter(|v| v.is_finite()) {
        let bin = ((value - low) / width).floor().clamp(0.0, last as f64) as usize;
        counts[bin] += 1;
    }
    counts
}

/// A number with as few decimals as it takes.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A histogram of `values` over `[low, high]`; a bar's title tells its bin and its count.
pub fn histogram(values: &[f64], low: f64, high: f64, bins: usize) -> String {
    let counts = counted(values, low, high, bins);
    let top = counts.iter().max().copied().unwrap_or(0).max(1);
    let (left, above, below) = ROOM;
    let (wide, tall) = (SIZE.0 - left - 8.0, SIZE.1 - above - below);
    let (floor, step) = (SIZE.1 - below, wide / counts.len() as f64);
    let bin = (high - low) / counts.len() as f64;
    let mut svg = format!("<svg aria-hidden=\"true\" viewBox=\"0 0 {} {}\">", SIZE.0, SIZE.1);
    // Writing to a String cannot fail.
    for (count, at) in [(top, above), (0, floor)] {
        let _ = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{count}</text>",
            SIZE.0 - 8.0,
            left - 6.0,
            at + 4.0,
        );
    }
    for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = tall * *count as f64 / top as f64;
        let from = low + i as f64 * bin;
        let _ = write!(
            svg,
            "<rect class=\"fill\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{} to {}: {count}</title></rect>",
            left + i as f64 * step,
            floor - height,
            step * 0.88,
            short(from),
            short(from + bin),
        );
    }
    for tick in 0..=TICKS {
        let share = tick as f64 / TICKS as f64;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left + share * wide,
            SIZE.1 - 6.0,
            short(low + share * (high - low)),
        );
    }
    svg.push_str("</svg>");
    svg
}

/// A line through `before` to `now`, whose point is drawn; empty where there are fewer than two numbers.
pub fn line(before: &[f64], now: Option<f64>) -> String {
    let all: Vec<f64> = before.iter().copied().chain(now).filter(|v| v.is_finite()).collect();
    let (Some(last), true) = (all.last(), all.len() > 1) else { return String::new() };
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (width, height, room) = LINE;
    let x = |i: usize| room + i as f64 / (all.len() - 1) as f64 * (width - 2.0 * room);
    // Where nothing changes the line lies in the middle.
    let y = |v: f64| match high > low {
        true => height - room - (v - low) / (high - low) * (height - 2.0 * room),
        false => height / 2.0,
    };
    let points: Vec<String> = all.iter().enumerate().map(|(i, v)| format!("{:.1},{:.1}", x(i), y(*v))).collect();
    format!(
        "<svg class=\"spark\" aria-hidden=\"true\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\
         <polyline points=\"{}\"/><circle class=\"fill\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/></svg>",
        points.join(" "),
        x(all.len() - 1),
        y(*last),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_a_bin_and_what_is_none_in_no_bin() {
        let values = [-1.0, 0.0, 0.24, 0.25, 0.99, 1.0, 7.0, f64::NAN, f64::INFINITY];
        assert_eq!(counted(&values, 0.0, 1.0, 4), [3, 1, 0, 3]);
        let svg = histogram(&values, 0.0, 1.0, 4);
        assert_eq!(svg.matches("<rect").count(), 3, "empty bins have no bar: {svg}");
        assert!(svg.contains("<title>0.25 to 0.5: 1</title>") && svg.contains("<title>0.75 to 1: 3</title>"), "{svg}");
        assert_eq!(svg, histogram(&values, 0.0, 1.0, 4));
        assert!(!histogram(&[], 0.0, 80.0, 20).contains("<rect"));
    }

    #[test]
    fn a_line_ends_at_now_and_stays_in_its_frame() {
        let svg = line(&[0.0, 10.0], Some(5.0));
        assert!(
            svg.contains("points=\"4.0,24.0 60.0,4.0 116.0,14.0\"") && svg.contains("cx=\"116.0\" cy=\"14.0\""),
            "{svg}"
        );
        assert!(line(&[3.0, 3.0], None).contains("points=\"4.0,14.0 116.0,14.0\""));
        assert!(
            line(&[], Some(1.0)).is_empty() && line(&[], None).is_empty() && line(&[f64::NAN], Some(1.0)).is_empty()
        );
    }
}
