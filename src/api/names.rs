//! Which object plays which role: the one place that turns a Canary into object names.

use crate::api::keys;
use crate::api::revision::Revision;
use sha2::{Digest, Sha256};

/// Which side of the traffic the Deployment that users apply is (interlock §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// It is the canary, and `<name>-primary` is generated: Flagger's layout.
    #[default]
    PrimaryCopy,
    /// It is the primary, and `<name>-canary` is generated for the time of a release.
    InPlace,
}

impl Layout {
    /// Returns the value of the label and of the annotation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrimaryCopy => keys::LAYOUT_PRIMARY_COPY,
            Self::InPlace => keys::LAYOUT_IN_PLACE,
        }
    }

    /// Reads the value of the label or of the annotation.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::PrimaryCopy, Self::InPlace].into_iter().find(|layout| layout.as_str() == text)
    }

    /// Returns what the generated Deployment's name, and its pods' label, end in.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::PrimaryCopy => "-primary",
            Self::InPlace => "-canary",
        }
    }
}

/// The names of everything that belongs to one Canary
/// (Flagger's names: docs.flagger.app, "How it works").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Namespace of all of them.
    pub namespace: String,
    /// The Canary.
    pub canary: String,
    /// Which Deployment plays which role.
    pub layout: Layout,
    /// The Deployment that users apply.
    pub target: String,
    /// The Deployment of the primary's pods.
    pub primary: String,
    /// The Deployment of the canary's pods.
    pub canary_deployment: String,
    /// The Service that clients use, and the routing object.
    pub apex: String,
    /// The Service of the primary pods, `<apex>-primary`.
    pub apex_primary: String,
    /// The Service of the canary pods, `<apex>-canary`.
    pub apex_canary: String,
}

impl Names {
    /// Derives all names, in the layout `primary-copy`. `apex` is `spec.service.name`, which defaults to the target's
    /// name.
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
            layout: Layout::PrimaryCopy,
            primary: format!("{target}{}", Layout::PrimaryCopy.suffix()),
            canary_deployment: target.clone(),
            apex_primary: format!("{apex}-primary"),
            apex_canary: format!("{apex}-canary"),
            apex,
            target,
        }
    }

    /// Returns the names in another layout.
    #[must_use]
    pub fn in_layout(mut self, layout: Layout) -> Self {
        let generated = format!("{}{}", self.target, layout.suffix());
        self.layout = layout;
        (self.primary, self.canary_deployment) = match layout {
            Layout::PrimaryCopy => (generated, self.target.clone()),
            Layout::InPlace => (self.target.clone(), generated),
        };
        self
    }

    /// Returns whether the applied Deployment is the primary.
    #[must_use]
    pub fn in_place(&self) -> bool {
        self.layout == Layout::InPlace
    }

    /// Returns the name of the Deployment that is generated.
    #[must_use]
    pub fn generated(&self) -> &str {
        match self.layout {
            Layout::PrimaryCopy => &self.primary,
            Layout::InPlace => &self.canary_deployment,
        }
    }

    /// Returns whether a host is the apex Service, by its short name or a longer one.
    #[must_use]
    pub fn is_apex(&self, host: &str) -> bool {
        let Some(rest) = host.strip_prefix(self.apex.as_str()) else { return false };
        let Some(rest) = rest.strip_prefix('.') else { return rest.is_empty() };
        let Some(rest) = rest.strip_prefix(self.namespace.as_str()) else { return false };
        rest.is_empty() || rest == ".svc" || rest.starts_with(".svc.")
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
    fn in_place_the_applied_deployment_is_the_primary() {
        let names = Names::new("test", "app", "app", None).in_layout(Layout::InPlace);
        assert_eq!(
            (names.primary.as_str(), names.canary_deployment.as_str(), names.generated()),
            ("app", "app-canary", "app-canary")
        );
    }

    #[test]
    fn long_names_become_valid_label_values() {
        let long = "a".repeat(200);
        assert_eq!(label_value(&long).len(), 63);
        assert_ne!(label_value(&long), label_value(&format!("{long}b")));
        assert_eq!(label_value("short"), "short");
    }
}
