//! Labels and annotations that a generated object has from its owner, and the record of which they are.

use crate::api::{carried, keys};
use crate::rollout::objects::{Label, text_map};
use serde_json::{Map, Value};

/// Metadata that the generated Deployment has from the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Labels that begin with one of the prefixes (Flagger's `-include-label-prefix`).
    pub labels: Map<String, Value>,
    /// Annotations but Flux's, kubectl's, the Deployment controller's and ours.
    pub annotations: Map<String, Value>,
}

impl Carried {
    /// Reads it from the target; the prefix `*` stands for every label.
    #[must_use]
    pub fn of(target: &Value, prefixes: &[String], label: &Label) -> Self {
        let mut labels = text_map(target.pointer("/metadata/labels"));
        labels.retain(|key, _| {
            let included = prefixes.iter().any(|p| p == "*" || !p.is_empty() && key.starts_with(p.as_str()));
            included
                && !key.contains("toolkit.fluxcd.io")
                && !keys::LABELS.contains(&key.as_str())
                && *key != label.key
        });
        let mut annotations = text_map(target.pointer("/metadata/annotations"));
        annotations.retain(|key, _| {
            !key.contains("toolkit.fluxcd.io")
                && !keys::ANNOTATIONS.contains(&key.as_str())
                && !key.starts_with("kubectl.kubernetes.io/")
                && !key.starts_with("deployment.kubernetes.io/")
        });
        Self { labels, annotations }
    }

    /// The value of [`keys::CARRIED`]: what was carried over, so that what its owner takes out can be taken out.
    #[must_use]
    pub fn record(&self) -> String {
        carried::record(self.labels.keys(), self.annotations.keys())
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}
