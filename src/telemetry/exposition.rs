//! Prometheus's text format 0.0.4, made from OpenMetrics.
//!
//! Flagger answers a scrape in the older format, and the two differ in what a reader sees: bucket bounds (`le="1"`,
//! not `le="1.0"`) and the names in HELP and TYPE of counters. Dashboards select by the former.

/// The `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites what the OpenMetrics encoder wrote. Families without series and units are left out; exemplars we make none.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let (mut help, mut head) = (String::new(), String::new());
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.to_owned();
            head.clear();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let said = help.split_once(' ').map_or("", |(_, said)| said);
            head = format!("# HELP {name} {said}\n# TYPE {name} {kind}\n");
        } else if !line.starts_with('#') && !line.is_empty() {
            text.push_str(&head);
            head.clear();
            text.push_str(&sample(line));
            text.push('\n');
        }
    }
    text
}

/// Whole numbers are written without a fraction, and a bucket's bound as the last label, as Go's client does.
fn sample(line: &str) -> String {
    let line = line.strip_suffix(".0").unwrap_or(line);
    let Some((name, rest)) = line.split_once("_bucket{le=\"") else { return line.to_owned() };
    let Some((bound, rest)) = rest.split_once('"') else { return line.to_owned() };
    let bound = bound.strip_suffix(".0").unwrap_or(bound);
    // The value follows the last brace; a label value may hold others.
    let Some((labels, value)) = rest.rsplit_once('}') else { return line.to_owned() };
    match labels.strip_prefix(',') {
        Some(labels) => format!("{name}_bucket{{{labels},le=\"{bound}\"}}{value}"),
        None => format!("{name}_bucket{{le=\"{bound}\"}}{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_is_named_with_its_suffix_everywhere() {
        let open = "# HELP a Text.\n# TYPE a counter\na_total{x=\"1.0\"} 3\n# EOF\n";
        assert_eq!(classic(open), "# HELP a_total Text.\n# TYPE a_total counter\na_total{x=\"1.0\"} 3\n");
    }

    #[test]
    fn bounds_and_values_lose_an_empty_fraction_and_labels_do_not() {
        for (open, expected) in [
            ("a_bucket{le=\"1.0\",x=\"1.0\",y=\"}\"} 2", "a_bucket{x=\"1.0\",y=\"}\",le=\"1\"} 2"),
            ("a_bucket{le=\"10.0\"} 2", "a_bucket{le=\"10\"} 2"),
            ("a_bucket{le=\"0.05\"} 2", "a_bucket{le=\"0.05\"} 2"),
            ("a_bucket{le=\"+Inf\"} 2", "a_bucket{le=\"+Inf\"} 2"),
            ("a{version=\"1.0\"} 100.0", "a{version=\"1.0\"} 100"),
            ("a 0.05", "a 0.05"),
            ("a{metric=\"errors # per second\"} 1.0", "a{metric=\"errors # per second\"} 1"),
        ] {
            assert_eq!(sample(open), expected);
        }
    }

    proptest::proptest! {
        /// Names of metrics are text of users: none of them breaks the scrape.
        #[test]
        fn a_label_value_of_any_text_is_kept(text in "[ -~\u{e9}\\n]{0,20}", bucket in proptest::bool::ANY) {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if bucket { format!("a_bucket{{le=\"1.0\",m=\"{escaped}\"}} 2") } else { format!("a{{m=\"{escaped}\"}} 2.0") };
            let expected = if bucket { format!("a_bucket{{m=\"{escaped}\",le=\"1\"}} 2") } else { format!("a{{m=\"{escaped}\"}} 2") };
            proptest::prop_assert_eq!(sample(&open), expected);
        }
    }

    #[test]
    fn family_without_series_is_left_out() {
        let open = "# HELP a A.\n# TYPE a gauge\n# HELP b B.\n# TYPE b gauge\nb 1\n# EOF\n";
        assert_eq!(classic(open), "# HELP b B.\n# TYPE b gauge\nb 1\n");
    }
}
