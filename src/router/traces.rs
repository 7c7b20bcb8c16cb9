//! Recorded runs of Flagger 1.44, for tests that replay them.
//!
//! They lie in `$SIDETRACK_FIXTURES`, else in `../shared/fixtures` beside the checkout. Without either there
//! is nothing
//! to replay, and the tests say so and pass; with the variable set, the traces must be there.

use serde_json::Value;
use std::path::PathBuf;
use std::sync::OnceLock;

fn directory() -> Option<PathBuf> {
    let (root, demanded) = match std::env::var_os("SIDETRACK_FIXTURES") {
        Some(given) => (PathBuf::from(given), true),
        None => (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"), false),
    };
    let directory = root.join("flagger-traces");
    let there = directory.is_dir();
    assert!(there || !demanded, "no traces in {}", directory.display());
    if !there {
        eprintln!("skipped: no traces in {}", directory.display());
    }
    there.then_some(directory)
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
        let Some(directory) = directory() else { return Vec::new() };
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("trace-"))
            .collect();
        names.sort();
        assert!(names.len() > 100, "{} traces only", names.len());
        names.iter().map(|name| Trace(file(name).unwrap())).collect()
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
