//! Labels and annotations that a generated object has from its owner, and the record of which they are.

use crate::api::keys;
use crate::rollout::objects::{Label, text_map};
use serde_json::{Map, Value, json};

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
        record(self.labels.keys(), self.annotations.keys())
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

/// Writes the value of [`keys::CARRIED`]: what an object has from its owner, so that what its owner takes out can be taken out.
pub(crate) fn record<'a>(
    labels: impl Iterator<Item = &'a String>,
    annotations: impl Iterator<Item = &'a String>,
) -> String {
    json!({"labels": labels.collect::<Vec<_>>(), "annotations": annotations.collect::<Vec<_>>()}).to_string()
}

/// Reads from it which keys of `labels` or `annotations` an object had.
pub(crate) fn before(object: &Value, field: &str) -> Vec<String> {
    let text = object.pointer("/metadata/annotations").and_then(|a| a.get(keys::CARRIED)?.as_str());
    let record: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    record.and_then(|record| serde_json::from_value(record.get(field)?.clone()).ok()).unwrap_or_default()
}
