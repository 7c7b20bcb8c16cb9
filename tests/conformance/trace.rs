//! Recorded runs. They lie in `$SIDETRACK_FIXTURES`, else in `../shared/fixtures` beside the checkout; without either
//! there is nothing to drive, and the test says so and passes.

use serde_json::Value;
use std::path::PathBuf;

pub(super) struct Trace(Value);

pub(super) fn all() -> Vec<Trace> {
    let given = std::env::var_os("SIDETRACK_FIXTURES").map(PathBuf::from);
    let demanded = given.is_some();
    let root = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"));
    let Ok(entries) = std::fs::read_dir(root.join("flagger-traces")) else {
        assert!(!demanded, "no traces in {}", root.display());
        eprintln!("skipped: no traces in {}", root.display());
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("trace-")));
    files.sort();
    files.iter().map(|f| Trace(serde_json::from_slice(&std::fs::read(f).unwrap()).unwrap())).collect()
}

impl Trace {
    pub(super) fn name(&self) -> &str {
        self.0["trace"].as_str().unwrap()
    }

    pub(super) fn namespace(&self) -> &str {
        self.0["input"]["namespace"].as_str().unwrap()
    }

    pub(super) fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().unwrap()
    }

    pub(super) fn input(&self, key: &str) -> &Value {
        &self.0["input"][key]
    }

    pub(super) fn actions(&self) -> &[Value] {
        self.input("actions").as_array().unwrap()
    }

    pub(super) fn flag(&self, name: &str) -> Option<&str> {
        let flags = self.input("flags").as_array().unwrap();
        let at = flags.iter().position(|f| f == name)?;
        flags.get(at + 1)?.as_str()
    }

    /// The Canaries as they were applied.
    pub(super) fn canaries(&self) -> Vec<&Value> {
        self.actions().iter().filter(|a| a["do"] == "apply" && a["kind"] == "Canary").map(|a| &a["object"]).collect()
    }

    /// Entries of the timeline of one type.
    pub(super) fn timeline(&self, type_: &'static str) -> impl Iterator<Item = &Value> {
        self.list("timeline").iter().filter(move |e| e["type"] == type_)
    }

    /// Distinct (time, phase, weight, failed checks) of the Canary.
    pub(super) fn statuses(&self) -> Vec<(f64, String)> {
        let mut all: Vec<(f64, String)> = Vec::new();
        for entry in self.timeline("status") {
            let status = &entry["status"];
            let phase = status["phase"].as_str().unwrap_or_default();
            let text = format!("{phase} weight {} failed {}", status["canaryWeight"], status["failedChecks"]);
            if all.last().is_none_or(|(_, last)| *last != text) {
                all.push((entry["t"].as_f64().unwrap(), text));
            }
        }
        all
    }

    pub(super) fn end(&self) -> f64 {
        let times = self.list("timeline").iter().chain(self.list("log")).filter_map(|e| e["t"].as_f64());
        times.fold(0.0, f64::max)
    }
}
