//! Kubernetes objects as data: which ones we know, how one is named, and a write as a value.
//!
//! The pure modules never call the API server. They return [`Write`]s, which
//! [`crate::kubernetes`] executes and the tests' simulated cluster applies to plain JSON.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Objects by name, shared with whoever else looks at them.
pub type Objects = BTreeMap<ObjectRef, Arc<Value>>;

/// A kind of object that Sidetrack reads or writes, with the API version it uses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `flagger.app/v1beta1` Canary.
    Canary,
    /// `flagger.app/v1beta1` MetricTemplate.
    MetricTemplate,
    /// `flagger.app/v1beta1` AlertProvider.
    AlertProvider,
    /// `sidetrack.dev/v1alpha1` CanaryPolicy, which has no namespace.
    CanaryPolicy,
    /// Core `v1` Namespace.
    Namespace,
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` ReplicaSet: the pods of one revision of a Deployment.
    ReplicaSet,
    /// Core `v1` Pod.
    Pod,
    /// `apps/v1` ControllerRevision: the stored snapshot of a pod template.
    ControllerRevision,
    /// Core `v1` Service.
    Service,
    /// Core `v1` Secret.
    Secret,
    /// `autoscaling/v2` HorizontalPodAutoscaler.
    HorizontalPodAutoscaler,
    /// A kind that comes with a traffic router, as [`crate::router`] states it.
    Route(&'static RouteKind),
}

/// How the API server names a kind that comes with a traffic router.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKind {
    /// The API group.
    pub group: &'static str,
    /// The version that is read and written.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The resource, as it stands in a path.
    pub plural: &'static str,
}

impl Kind {
    /// Every kind of Kubernetes and Sidetrack, in declaration order; those of routers are in [`crate::router::kinds`].
    pub const OWN: [Self; 12] = [
        Self::Canary,
        Self::MetricTemplate,
        Self::AlertProvider,
        Self::CanaryPolicy,
        Self::Namespace,
        Self::Deployment,
        Self::ReplicaSet,
        Self::Pod,
        Self::ControllerRevision,
        Self::Service,
        Self::Secret,
        Self::HorizontalPodAutoscaler,
    ];

    /// Returns group, version, kind and plural.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Canary => ("flagger.app", "v1beta1", "Canary", "canaries"),
            Self::MetricTemplate => ("flagger.app", "v1beta1", "MetricTemplate", "metrictemplates"),
            Self::AlertProvider => ("flagger.app", "v1beta1", "AlertProvider", "alertproviders"),
            Self::CanaryPolicy => ("sidetrack.dev", "v1alpha1", "CanaryPolicy", "canarypolicies"),
            Self::Namespace => ("", "v1", "Namespace", "namespaces"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::ReplicaSet => ("apps", "v1", "ReplicaSet", "replicasets"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::ControllerRevision => ("apps", "v1", "ControllerRevision", "controllerrevisions"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::HorizontalPodAutoscaler => {
                ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
            Self::Route(kind) => (kind.group, kind.version, kind.kind, kind.plural),
        }
    }

    /// Returns `group/version`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(self) -> String {
        let (group, version, ..) = self.names();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// Returns the kind as it stands in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.names().2
    }

    /// Returns the kind of Kubernetes or Sidetrack that a manifest's `apiVersion` and `kind` name.
    #[must_use]
    pub fn parse(api_version: &str, kind: &str) -> Option<Self> {
        Self::OWN.into_iter().find(|k| k.is(api_version, kind))
    }

    /// Whether a manifest's `apiVersion` and `kind` name it.
    #[must_use]
    pub fn is(self, api_version: &str, kind: &str) -> bool {
        let (group, version, name, _) = self.names();
        kind == name
            && api_version.strip_suffix(version).is_some_and(|rest| rest.trim_end_matches('/') == group)
    }
}

/// The address of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for a kind that has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Names an object.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Returns the address that a manifest states; `None` for a kind that is not of Kubernetes or Sidetrack, or without a name.
    /// [`crate::router::address`] knows routes too.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        Self::of_kind(Kind::parse(text(object, "/apiVersion"), text(object, "/kind"))?, object)
    }

    /// Returns the address of an object of this kind; `None` without a name.
    #[must_use]
    pub fn of_kind(kind: Kind, object: &Value) -> Option<Self> {
        let (namespace, name) = key(object);
        (!name.is_empty()).then(|| Self::new(kind, namespace, name))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// One mutating request to the API server, as data.
///
/// Every write is conditional: a create fails when the object exists, a patch carries `test`
/// operations, the others name a resourceVersion or a uid. A write that fails its condition is
/// not retried as it is: the state is observed again and the decision taken anew.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// POST of a whole object.
    Create {
        /// What is made.
        target: ObjectRef,
        /// The object, with apiVersion, kind, namespace and name.
        object: Value,
    },
    /// JSON Patch (RFC 6902), guarded by its own `test` operations.
    Patch {
        /// What is patched.
        target: ObjectRef,
        /// The operations.
        patch: json_patch::Patch,
    },
    /// JSON Patch of the status subresource, guarded by its own `test` operations.
    PatchStatus {
        /// What is patched.
        target: ObjectRef,
        /// The operations.
        patch: json_patch::Patch,
    },
    /// PUT of a whole object that carries `metadata.resourceVersion`.
    Replace {
        /// The object.
        object: Value,
    },
    /// PUT of the status subresource; the object carries `metadata.resourceVersion`.
    ReplaceStatus {
        /// The object; only metadata and status matter.
        object: Value,
    },
    /// POST of an eviction: a deletion that disruption budgets may refuse, with the uid as precondition.
    Evict {
        /// The Pod.
        target: ObjectRef,
        /// Its `metadata.uid`.
        uid: String,
    },
    /// DELETE with background propagation and the uid as precondition.
    Delete {
        /// What is deleted.
        target: ObjectRef,
        /// Its `metadata.uid`.
        uid: String,
    },
}

impl Write {
    /// Makes an object, which states its namespace and name.
    #[must_use]
    pub fn create(kind: Kind, object: Value) -> Self {
        let (namespace, name) = key(&object);
        Self::Create { target: ObjectRef::new(kind, namespace, name), object }
    }

    /// Returns what is written to; `None` when a whole object does not say what it is.
    #[must_use]
    pub fn target(&self) -> Option<ObjectRef> {
        match self {
            Self::Replace { object } | Self::ReplaceStatus { object } => ObjectRef::of(object),
            Self::Create { target, .. }
            | Self::Patch { target, .. }
            | Self::PatchStatus { target, .. }
            | Self::Evict { target, .. }
            | Self::Delete { target, .. } => Some(target.clone()),
        }
    }
}

/// Escapes one reference token of a JSON pointer (RFC 6901).
#[must_use]
pub fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// Namespace and name.
pub type Key = (String, String);

/// Returns a text at a JSON pointer; empty when there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns a list at a JSON pointer; empty when there is none.
#[must_use]
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns namespace and name of an object.
#[must_use]
pub fn key(object: &Value) -> Key {
    (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_is_found_by_its_own_names() {
        for kind in Kind::OWN {
            assert_eq!(Kind::parse(&kind.api_version(), kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn address_is_read_from_a_manifest() {
        let object =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "b"}});
        assert_eq!(ObjectRef::of(&object), Some(ObjectRef::new(Kind::Service, "a", "b")));
        assert_eq!(ObjectRef::of(&json!({"apiVersion": "v1", "kind": "Node"})), None);
    }
}
