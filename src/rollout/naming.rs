//! Which object plays which role: the one place that turns a Canary into object names.

use crate::rollout::revision::Revision;
use sha2::{Digest, Sha256};

/// The names of everything that belongs to one Canary in the `primary-copy` layout
/// (Flagger's names: docs.flagger.app, "How it works").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Namespace of all of them.
    pub namespace: String,
    /// The Canary.
    pub canary: String,
    /// The Deployment that users apply; runs the canary pods.
    pub target: String,
    /// The generated Deployment, `<target>-primary`.
    pub primary: String,
    /// The Service that clients use, and the routing object.
    pub apex: String,
    /// The Service of the primary pods, `<apex>-primary`.
    pub apex_primary: String,
    /// The Service of the canary pods, `<apex>-canary`.
    pub apex_canary: String,
}

impl Names {
    /// Derives all names. `apex` is `spec.service.name`, which defaults to the target's name.
    pub fn new(
        namespace: impl Into<String>,
        canary: impl Into<String>,
        target: impl Into<String>,
        apex: Option<&str>,
    ) -> Self {
        let target = target.into();
        let apex = apex.filter(|a| !a.is_empty()).unwrap_or(&target).to_owned();
        Self {
            namespace: namespace.into(),
            canary: canary.into(),
            primary: format!("{target}-primary"),
            apex_primary: format!("{apex}-primary"),
            apex_canary: format!("{apex}-canary"),
            apex,
            target,
        }
    }

    /// Returns the name of the ControllerRevision that stores a revision of the target.
    #[must_use]
    pub fn snapshot(&self, revision: &Revision) -> String {
        format!("{}-{}", self.target, revision.short())
    }
}

/// Returns a Canary's name as a label value: itself up to 63 characters, else its first 52 and a hash.
#[must_use]
pub fn label_value(canary: &str) -> String {
    if canary.len() <= 63 {
        return canary.to_owned();
    }
    let digest = Sha256::digest(canary.as_bytes());
    let hash: String = digest.iter().take(5).map(|b| format!("{b:02x}")).collect();
    // Names are ASCII (RFC 1123), so a byte position is a character position.
    format!("{}-{hash}", canary.get(..52).unwrap_or(canary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_flagger() {
        let names = Names::new("test", "podinfo", "podinfo", None);
        assert_eq!(names.primary, "podinfo-primary");
        assert_eq!(names.apex_canary, "podinfo-canary");
        let named = Names::new("test", "podinfo", "podinfo", Some("web"));
        assert_eq!((named.primary.as_str(), named.apex_primary.as_str()), ("podinfo-primary", "web-primary"));
    }

    #[test]
    fn long_names_become_valid_label_values() {
        let long = "a".repeat(200);
        assert_eq!(label_value(&long).len(), 63);
        assert_ne!(label_value(&long), label_value(&format!("{long}b")));
        assert_eq!(label_value("short"), "short");
    }
}
