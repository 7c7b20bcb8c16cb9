//! Recorded runs of Flagger 1.44.0, for the tests that replay them: `tests/data/flagger-1.44.0.jsonl.gz`, a line each.
//!
//! A run was recorded on a real API server (Kubernetes 1.36.3) with fake pods, one Flagger a run, analysis interval 10 s. It has
//! what the driver did (`input`), what Flagger wrote and how the Canary's status went (`timeline`, seconds since the start), its
//! Events and log, what it sent to hooks and metrics servers and what these answered. A dump, `objects-<provider>-<phase>`, has all
//! objects of a namespace at that phase as they were stored. Names, uids, times and ports that differ between runs are
//! replaced in runs, and left in dumps.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "recordings do not change: what is not as it should be ends the test"
)]

use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::sync::LazyLock;

static RECORDED: &[u8] = include_bytes!("../../data/flagger-1.44.0.jsonl.gz");

static FILES: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let lines = BufReader::new(GzDecoder::new(RECORDED)).lines();
    let read = |line: std::io::Result<String>| {
        let mut entry: Value = serde_json::from_str(&line.expect("the recordings are whole")).unwrap();
        (entry["file"].as_str().unwrap().to_owned(), entry["content"].take())
    };
    lines.map(read).collect()
});

static RUNS: LazyLock<Vec<Run>> = LazyLock::new(|| {
    let runs = FILES.iter().filter(|(name, _)| name.starts_with("trace-"));
    runs.map(|(_, run)| Run(run)).collect()
});

/// Returns every run, by name.
#[must_use]
pub fn all() -> &'static [Run] {
    &RUNS
}

/// Returns the run of a name.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn named(name: &str) -> &'static Run {
    RUNS.iter().find(|run| run.name() == name).unwrap_or_else(|| unreachable!("no run is called {name}"))
}

/// Returns the objects of a dump, such as `istio-Promoting`.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn objects(name: &str) -> &'static [Value] {
    let dump = FILES.get(&format!("objects-{name}")).expect("a dump of this name");
    dump["items"].as_array().unwrap()
}

/// One recorded run.
#[derive(Debug)]
pub struct Run(&'static Value);

impl Run {
    /// Its name, which is that of its namespace too.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0["trace"].as_str().unwrap()
    }

    /// The namespace in its objects.
    #[must_use]
    pub fn namespace(&self) -> &'static str {
        self.input("namespace").as_str().unwrap()
    }

    /// One of its lists: `timeline`, `events`, `log`, `hooks`, `metric_queries`.
    #[must_use]
    pub fn list(&self, key: &str) -> &'static [Value] {
        self.0[key].as_array().unwrap()
    }

    /// Entries of the timeline of one type.
    pub fn timeline(&self, type_: &'static str) -> impl Iterator<Item = &'static Value> {
        self.list("timeline").iter().filter(move |entry| entry["type"] == type_)
    }

    /// What the driver was given: `flags`, `actions`, `metricAnswersAtStart`, `hookAnswersAtStart`.
    #[must_use]
    pub fn input(&self, key: &str) -> &'static Value {
        &self.0["input"][key]
    }

    /// What the driver did, in order.
    #[must_use]
    pub fn actions(&self) -> &'static [Value] {
        self.input("actions").as_array().unwrap()
    }

    /// The value of one of Flagger's flags.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<&'static str> {
        let flags = self.input("flags").as_array().unwrap();
        let at = flags.iter().position(|flag| flag == name)?;
        flags.get(at + 1)?.as_str()
    }

    /// The default provider.
    #[must_use]
    pub fn mesh_provider(&self) -> &'static str {
        self.flag("-mesh-provider").unwrap_or("istio")
    }

    /// The objects of a kind as they were applied.
    #[must_use]
    pub fn applied(&self, kind: &str) -> Vec<&'static Value> {
        let applied = self.actions().iter().filter(|a| a["do"] == "apply" && a["kind"] == kind);
        applied.map(|action| &action["object"]).collect()
    }

    /// The Canary, where there is just one.
    #[must_use]
    pub fn canary(&self) -> Option<&'static Value> {
        match self.applied("Canary").as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The provider in force: the Canary's, else the default.
    #[must_use]
    pub fn provider(&self) -> Option<&'static str> {
        Some(self.canary()?["spec"]["provider"].as_str().unwrap_or(self.mesh_provider()))
    }

    /// When the last thing happened, in seconds since the start.
    #[must_use]
    pub fn end(&self) -> f64 {
        let times =
            self.list("timeline").iter().chain(self.list("log")).filter_map(|entry| entry["t"].as_f64());
        times.fold(0.0, f64::max)
    }

    /// Whether it steps through weights.
    #[must_use]
    pub fn is_weighted(&self) -> bool {
        self.canary().is_some_and(|c| c["spec"]["analysis"]["iterations"].as_i64().unwrap_or(0) == 0)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_run_is_there() {
        assert_eq!(super::all().len(), 202);
        assert!(!super::objects("istio-Promoting").is_empty());
    }
}
