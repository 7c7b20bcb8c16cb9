//! A revision: the hash of a pod template.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;

/// Annotation that `kubectl rollout restart` writes into a template; not part of a revision.
pub const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Identifies a pod template: SHA-256 over its canonical JSON (sorted keys, no spaces) without
/// [`RESTARTED_AT`], as 64 hex digits. Shown as the first ten; compared in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(String);

impl Revision {
    /// Hashes a defaulted `spec.template`.
    #[must_use]
    pub fn of(template: &Value) -> Self {
        let canonical =
            if template.pointer("/metadata/annotations").and_then(|a| a.get(RESTARTED_AT)).is_some() {
                let mut copy = template.clone();
                if let Some(annotations) =
                    copy.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
                {
                    annotations.remove(RESTARTED_AT);
                }
                if copy
                    .pointer("/metadata/annotations")
                    .is_some_and(|a| a.as_object().is_some_and(serde_json::Map::is_empty))
                    && let Some(metadata) = copy.pointer_mut("/metadata").and_then(Value::as_object_mut)
                {
                    metadata.remove("annotations");
                }
                copy.to_string()
            } else {
                template.to_string()
            };
        let digest = Sha256::digest(canonical.as_bytes());
        let mut hex = String::with_capacity(64);
        for byte in digest {
            use fmt::Write as _;
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }

    /// Takes a hash as it stands in an annotation or in status. Nothing is checked: a forged one
    /// simply equals no real revision.
    pub fn from_key(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the whole hash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first ten digits, for people and object names.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..10).unwrap_or(&self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_order_does_not_matter() {
        let a: Value = serde_json::from_str(r#"{"spec":{"a":1,"b":2},"metadata":{}}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"metadata":{},"spec":{"b":2,"a":1}}"#).unwrap();
        assert_eq!(Revision::of(&a), Revision::of(&b));
    }

    #[test]
    fn restart_is_no_new_revision() {
        let plain = json!({"metadata": {"labels": {"app": "a"}}, "spec": {}});
        let restarted =
            json!({"metadata": {"labels": {"app": "a"}, "annotations": {RESTARTED_AT: "now"}}, "spec": {}});
        assert_eq!(Revision::of(&plain), Revision::of(&restarted));
        let other = json!({"metadata": {"labels": {"app": "a"}, "annotations": {RESTARTED_AT: "now", "x": "y"}}, "spec": {}});
        assert_ne!(Revision::of(&plain), Revision::of(&other));
    }

    #[test]
    fn short_form_is_ten_digits() {
        let revision = Revision::of(&json!({}));
        assert_eq!(revision.to_string().len(), 10);
        assert_eq!(revision.as_str().len(), 64);
    }
}
