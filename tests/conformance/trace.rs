//! Recorded runs, as the driver reads them.

#[path = "recordings.rs"]
mod recordings;

use recordings::directory;
use serde_json::Value;

pub(super) struct Trace(Value);

/// The run of this name; `None` without recordings.
pub(super) fn named(name: &str) -> Option<Trace> {
    let text = std::fs::read(directory()?.join(format!("trace-{name}.json"))).unwrap();
    Some(Trace(serde_json::from_slice(&text).unwrap()))
}

/// All runs; none without recordings.
pub(super) fn all() -> Vec<Trace> {
    let Some(directory) = directory() else { return Vec::new() };
    let files = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        files.filter_map(|f| Some(f.strip_prefix("trace-")?.strip_suffix(".json")?.to_owned())).collect();
    names.sort();
    names.iter().filter_map(|name| named(name)).collect()
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
        self.actions()
            .iter()
            .filter(|a| a["do"] == "apply" && a["kind"] == "Canary")
            .map(|a| &a["object"])
            .collect()
    }

    /// Entries of the timeline of one type.
    pub(super) fn timeline(&self, type_: &'static str) -> impl Iterator<Item = &Value> {
        self.list("timeline").iter().filter(move |e| e["type"] == type_)
    }

    /// Distinct (time, phase, weight, failed checks) of the Canary.
    pub(super) fn statuses(&self) -> Vec<(f64, String)> {
        let mut all: Vec<(f64, String)> = Vec::new();
        for entry in self.timeline("status") {
            let Some(text) = super::view::status(&entry["status"]) else { continue };
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
