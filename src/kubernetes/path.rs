//! Where the API server serves an object.

use crate::object::{Kind, ObjectRef, key, text};
use kube::Resource as _;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::Value;

/// Names a kind in the terms of the kube crate.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version, name, plural) = kind.names();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural)
}

/// Returns the path of a kind's objects in a namespace, or in the whole cluster.
#[must_use]
pub fn collection(kind: Kind, namespace: Option<&str>) -> String {
    DynamicObject::url_path(&resource(kind), namespace.filter(|n| !n.is_empty()))
}

/// Returns the path of an object.
#[must_use]
pub fn of(at: &ObjectRef) -> String {
    format!("{}/{}", collection(at.kind, Some(&at.namespace)), at.name)
}

/// Returns the path of the object that a manifest states; its plural is the one that is usual for its kind.
#[must_use]
pub fn of_manifest(object: &Value) -> String {
    let version = text(object, "/apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, text(object, "/kind"));
    let (namespace, name) = key(object);
    let within = Some(namespace.as_str()).filter(|n| !n.is_empty());
    format!("{}/{name}", DynamicObject::url_path(&ApiResource::from_gvk(&kind), within))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_follow_group_and_version() {
        let at = |kind| of(&ObjectRef::new(kind, "a", "b"));
        assert_eq!(at(Kind::Service), "/api/v1/namespaces/a/services/b");
        assert_eq!(at(Kind::Deployment), "/apis/apps/v1/namespaces/a/deployments/b");
        assert_eq!(
            at(crate::router::HTTP_ROUTE),
            "/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes/b"
        );
        assert_eq!(collection(Kind::Canary, None), "/apis/flagger.app/v1beta1/canaries");
    }

    #[test]
    fn a_manifest_says_where_its_object_is() {
        for (version, kind, namespace, path) in [
            ("v1", "ServiceAccount", Some("a"), "/api/v1/namespaces/a/serviceaccounts/b"),
            ("v1", "Namespace", None, "/api/v1/namespaces/b"),
            (
                "admissionregistration.k8s.io/v1",
                "ValidatingAdmissionPolicy",
                None,
                "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/b",
            ),
        ] {
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "b", "namespace": namespace}});
            assert_eq!(of_manifest(&object), path);
        }
    }
}
