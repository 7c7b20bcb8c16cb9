//! The two tables: what deviates, and which traces are not driven.

use recordings::Run;
use sidetrack::api::CanarySpec;
use sidetrack::api::names::Layout;
use sidetrack::review::review;
use std::collections::BTreeMap;
use std::time::Duration;

/// Whose a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    Theirs,
    /// On both, elsewhere.
    Moved,
}

struct Row {
    trace: String,
    what: String,
    side: String,
    text: String,
    used: bool,
}

/// `tests/data/deviations.tsv`: trace, what, side, text, reason. `*` stands for any text.
pub(super) struct Deviations(Vec<Row>);

fn lines(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(|l| l.split('\t').collect())
}

/// Whether a pattern with `*` matches a text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Deviations {
    pub(super) fn read() -> Self {
        let rows = lines(include_str!("../data/deviations.tsv")).map(|columns| {
            let [trace, what, side, text, reason] = columns[..] else {
                panic!("not five columns: {columns:?}")
            };
            assert!(reason.len() > 10, "no reason: {columns:?}");
            Row { trace: trace.into(), what: what.into(), side: side.into(), text: text.into(), used: false }
        });
        Self(rows.collect())
    }

    /// Whether a difference is listed.
    pub(super) fn lists(&mut self, trace: &str, what: &str, side: Side, text: &str) -> bool {
        let side = match side {
            Side::Ours => "ours",
            Side::Theirs => "theirs",
            Side::Moved => "moved",
        };
        let row = self
            .0
            .iter_mut()
            .find(|r| r.what == what && r.side == side && matches(&r.trace, trace) && matches(&r.text, text));
        if let Some(row) = row {
            row.used = true;
            return true;
        }
        false
    }

    pub(super) fn unused(&self) -> Vec<String> {
        let rows = self.0.iter().filter(|r| !r.used);
        rows.map(|r| format!("deviation not needed: {} {} {} {}", r.trace, r.what, r.side, r.text)).collect()
    }
}

/// `tests/data/traces-left-out.tsv`: trace, reason. What the review of a Canary refuses needs no row.
pub(super) struct LeftOut {
    rows: Vec<(&'static str, &'static str)>,
    used: Vec<&'static str>,
    reasons: BTreeMap<String, usize>,
}

impl LeftOut {
    pub(super) fn read() -> Self {
        let rows = lines(include_str!("../data/traces-left-out.tsv")).map(|columns| {
            let [trace, reason] = columns[..] else { panic!("not two columns: {columns:?}") };
            assert!(reason.len() > 10, "no reason: {columns:?}");
            (trace, reason)
        });
        Self { rows: rows.collect(), used: Vec::new(), reasons: BTreeMap::new() }
    }

    pub(super) fn names(&mut self, trace: &Run) -> bool {
        let provider = trace.flag("-mesh-provider").unwrap_or("istio");
        let refusal = trace.applied("Canary").iter().find_map(|canary| {
            let spec: CanarySpec = serde_json::from_value(canary["spec"].clone()).unwrap();
            review(&spec, Layout::default(), provider, Duration::from_secs(10)).refusals.into_iter().next()
        });
        let row = || self.rows.iter().find(|(name, _)| *name == trace.name());
        let reason = match (refusal, row()) {
            (Some(refusal), _) => refusal,
            (None, Some((name, reason))) => {
                self.used.push(name);
                (*reason).to_owned()
            }
            (None, None) => return false,
        };
        *self.reasons.entry(reason).or_default() += 1;
        true
    }

    /// How many traces are left out, by reason.
    pub(super) const fn reasons(&self) -> &BTreeMap<String, usize> {
        &self.reasons
    }

    pub(super) fn unused(&self) -> Vec<String> {
        let unused = self.rows.iter().filter(|(name, _)| !self.used.contains(name));
        unused.map(|(name, _)| format!("left out twice: {name}")).collect()
    }
}

#[test]
fn patterns_match_whole_texts() {
    assert!(matches("a*c*", "abcd") && matches("*", "") && matches("a", "a"));
    assert!(!matches("a", "ab") && !matches("*b", "ba") && !matches("a*a", "a"));
}
