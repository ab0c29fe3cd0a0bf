//! Prometheus' text format: families of gauges with their help, their labels and their samples.
//!
//! Knows the format, and reads back a gauge that it wrote. Knows nothing of what is measured or where it goes.

/// The label that names the job in every sample. `job` itself is taken: a scrape and a Pushgateway each set their own.
const JOB: &str = "curec_job";

/// The gauges of one job, a family after the other.
#[derive(Debug, Clone)]
pub struct Exposition {
    job: String,
    families: Vec<Family>,
}

#[derive(Debug, Clone)]
struct Family {
    name: &'static str,
    help: &'static str,
    /// At most one label besides the job's, and the value.
    samples: Vec<(Option<(&'static str, String)>, f64)>,
}

impl Exposition {
    /// None yet.
    pub fn of(job: &str) -> Exposition {
        Exposition { job: job.to_owned(), families: Vec::new() }
    }

    /// Adds a family of one gauge.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.families.push(Family { name, help, samples: vec![(None, value)] });
    }

    /// Adds a family with a gauge for each value of a label. Those of the same value are added up, since a sample may stand
    /// only once; a family without any is left out.
    pub fn gauges<'a>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let mut samples: Vec<(Option<(&'static str, String)>, f64)> = Vec::new();
        for (of, value) in values {
            match samples.iter_mut().find(|(known, _)| known.as_ref().is_some_and(|(_, known)| known == of)) {
                Some((_, sum)) => *sum += value,
                None => samples.push((Some((label, of.to_owned())), value)),
            }
        }
        if !samples.is_empty() {
            self.families.push(Family { name, help, samples });
        }
    }

    /// The page.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for Family { name, help, samples } in &self.families {
            out.push_str(&format!("# HELP {name} {}\n# TYPE {name} gauge\n", escaped(help, false)));
            for (label, value) in samples {
                out.push_str(&self.sample(name, label.as_ref()));
                out.push_str(&format!(" {value}\n"));
            }
        }
        out
    }

    /// The value of a gauge without a label on a page that this job has written; `None` where it does not stand there.
    pub fn read_back(&self, name: &str, page: &str) -> Option<f64> {
        let begin = self.sample(name, None) + " ";
        let value: f64 = page.lines().find_map(|line| line.strip_prefix(&begin))?.trim().parse().ok()?;
        value.is_finite().then_some(value)
    }

    /// What stands before the value.
    fn sample(&self, name: &str, label: Option<&(&'static str, String)>) -> String {
        let more = label.map_or_else(String::new, |(label, value)| format!(",{label}=\"{}\"", escaped(value, true)));
        format!("{name}{{{JOB}=\"{}\"{more}}}", escaped(&self.job, true))
    }
}

/// The format's own escapes; quotation marks have one in the values of labels only.
fn escaped(text: &str, is_label: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together_and_labels_are_escaped() {
        let mut page = Exposition::of("night");
        page.gauge("curec_a", "Of one \\ thing.\nIt is \"so\".", 1.5);
        page.gauges("curec_b", "Of many.", "table", [("x", 1.0), ("a\"\\\nb", 2.0), ("x", 3.0)]);
        page.gauges("curec_c", "Of none.", "table", []);
        let expected = "# HELP curec_a Of one \\\\ thing.\\nIt is \"so\".\n# TYPE curec_a gauge\n\
                        curec_a{curec_job=\"night\"} 1.5\n\
                        # HELP curec_b Of many.\n# TYPE curec_b gauge\n\
                        curec_b{curec_job=\"night\",table=\"x\"} 4\n\
                        curec_b{curec_job=\"night\",table=\"a\\\"\\\\\\nb\"} 2\n";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn a_gauge_is_read_back_from_the_jobs_own_page_only() {
        let mut page = Exposition::of("night");
        page.gauge("curec_a", "It.", 1_767_225_600.125);
        let text = page.text();
        assert_eq!(page.read_back("curec_a", &text), Some(1_767_225_600.125));
        assert_eq!(Exposition::of("other").read_back("curec_a", &text), None);
        assert_eq!(page.read_back("curec", &text), None);
        for damaged in
            ["", "curec_a{curec_job=\"night\"} ", "curec_a{curec_job=\"night\"} x", "curec_a{curec_job=\"night\"} NaN"]
        {
            assert_eq!(page.read_back("curec_a", damaged), None, "{damaged}");
        }
    }
}
