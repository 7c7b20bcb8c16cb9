//! Recorded runs of Flagger 1.44, for tests that replay them.

#[path = "../../tests/conformance/recordings.rs"]
mod recordings;

use recordings::directory;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The files of the traces. Empty without recordings.
pub(crate) fn files() -> Vec<PathBuf> {
    let Some(directory) = directory() else { return Vec::new() };
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("trace-")));
    files.sort();
    assert!(files.len() > 100, "{} traces only", files.len());
    files
}

/// Reads one JSON file of the recordings.
pub(crate) fn file(name: &str) -> Option<Value> {
    Some(serde_json::from_slice(&std::fs::read(directory()?.join(name)).unwrap()).unwrap())
}

/// One recorded run.
pub(crate) struct Trace(pub(crate) Value);

/// All traces, by name. Empty without recordings.
pub(crate) fn all() -> &'static [Trace] {
    static ALL: OnceLock<Vec<Trace>> = OnceLock::new();
    ALL.get_or_init(|| {
        let read = |file: &PathBuf| Trace(serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap());
        files().iter().map(read).collect()
    })
}

impl Trace {
    pub(crate) fn name(&self) -> &str {
        self.0["trace"].as_str().unwrap()
    }

    pub(crate) fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().unwrap()
    }

    pub(crate) fn actions(&self) -> &[Value] {
        self.0["input"]["actions"].as_array().unwrap()
    }

    /// Returns the value of a command line flag.
    pub(crate) fn flag(&self, name: &str) -> Option<&str> {
        let flags = self.0["input"]["flags"].as_array().unwrap();
        let at = flags.iter().position(|f| f == name)?;
        flags.get(at + 1)?.as_str()
    }

    pub(crate) fn mesh_provider(&self) -> &str {
        self.flag("-mesh-provider").unwrap_or("istio")
    }

    /// Returns the objects of a kind as they were first applied.
    pub(crate) fn applied(&self, kind: &str) -> Vec<&Value> {
        self.actions()
            .iter()
            .filter(|a| a["do"] == "apply" && a["kind"] == kind)
            .map(|a| &a["object"])
            .collect()
    }

    /// Returns the Canary, when there is just one.
    pub(crate) fn canary(&self) -> Option<&Value> {
        match self.applied("Canary").as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Returns what is in force: the Canary's provider, else the flag's.
    pub(crate) fn provider(&self) -> Option<&str> {
        Some(self.canary()?["spec"]["provider"].as_str().unwrap_or(self.mesh_provider()))
    }

    /// Whether the run steps through weights.
    pub(crate) fn is_weighted(&self) -> bool {
        self.canary().is_some_and(|c| {
            let analysis = &c["spec"]["analysis"];
            analysis["iterations"].as_i64().unwrap_or(0) == 0
        })
    }
}
