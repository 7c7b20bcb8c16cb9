//! The record, in an annotation, of which labels and annotations a generated object has from its owner.

use crate::api::keys;
use serde_json::{Value, json};

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
