//! A borrowed look at a raw object: the few fields that the rules read, without a copy.

use crate::api::keys;
use serde_json::{Map, Value};

/// An object under review.
#[derive(Clone, Copy)]
pub(super) struct View<'a>(&'a Value);

impl<'a> View<'a> {
    /// Looks at an object; `None` where there is none.
    pub(super) fn of(object: &'a Value) -> Option<Self> {
        object.is_object().then_some(Self(object))
    }

    /// The whole object.
    pub(super) const fn whole(self) -> &'a Value {
        self.0
    }

    fn metadata(self, field: &str) -> Option<&'a Value> {
        self.0.get("metadata")?.get(field)
    }

    /// Returns a field of `spec`.
    pub(super) fn spec(self, field: &str) -> Option<&'a Value> {
        self.0.get("spec")?.get(field)
    }

    /// Returns a field of `status`.
    pub(super) fn status(self, field: &str) -> Option<&'a Value> {
        self.0.get("status")?.get(field)
    }

    pub(super) fn label(self, key: &str) -> Option<&'a str> {
        self.metadata("labels")?.get(key)?.as_str()
    }

    pub(super) fn annotation(self, key: &str) -> Option<&'a str> {
        self.metadata("annotations")?.get(key)?.as_str()
    }

    pub(super) fn annotations(self) -> Option<&'a Map<String, Value>> {
        self.metadata("annotations")?.as_object()
    }

    /// Returns how many bytes the annotations have, counted as the API server does for its limit.
    pub(super) fn annotation_bytes(self) -> usize {
        self.annotations().map_or(0, |annotations| {
            annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
        })
    }

    pub(super) fn generation(self) -> i64 {
        self.metadata("generation").and_then(Value::as_i64).unwrap_or(0)
    }

    pub(super) fn finalizers(self) -> &'a [Value] {
        self.metadata("finalizers").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Returns where our finalizer stands.
    pub(super) fn traffic_finalizer(self) -> Option<usize> {
        self.finalizers().iter().position(|finalizer| finalizer == keys::TRAFFIC_FINALIZER)
    }

    pub(super) fn paused(self) -> bool {
        self.spec("paused").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Returns the list at `spec.ports`.
    pub(super) fn ports(self) -> &'a [Value] {
        self.spec("ports").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a field manager other than ours owns a field of `spec`, named `f:<field>`: only
    /// then did somebody ask for its value. A default that came back is owned by nobody.
    pub(super) fn foreign_owner(self, field: &str) -> bool {
        self.owners(field).any(|manager| manager != Some(keys::FIELD_MANAGER))
    }

    /// Returns whether this manager, not being ours, owns a field of `spec`, named `f:<field>`.
    pub(super) fn is_owner(self, field: &str, manager: &str) -> bool {
        manager != keys::FIELD_MANAGER && self.owners(field).any(|owner| owner == Some(manager))
    }

    fn owners(self, field: &str) -> impl Iterator<Item = Option<&'a str>> {
        let entries = self.metadata("managedFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        entries.iter().filter_map(move |entry| {
            entry.get("fieldsV1")?.get("f:spec")?.get(field)?;
            Some(entry.get("manager").and_then(Value::as_str))
        })
    }

    /// Returns the whole name of the Canary, or nothing where the object is not enrolled.
    pub(super) fn canary(self) -> Option<&'a str> {
        let label = self.label(keys::CANARY)?;
        Some(self.annotation(keys::CANARY_NAME).unwrap_or(label))
    }
}
