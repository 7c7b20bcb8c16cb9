//! What else there is in a namespace, as it is listed before a Deployment is adopted: whom its adoption could hurt.

use serde_json::{Map, Value};

/// A kind that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its API group; empty for the core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Its name in URLs.
    pub plural: &'static str,
    /// Of these the metadata says enough.
    pub metadata: bool,
}

const fn listed(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Listed {
    Listed { group, version, kind, plural, metadata: false }
}

/// Every kind that is listed; one that the cluster does not serve has no objects.
pub const LISTED: [Listed; 14] = [
    listed("apps", "v1", "Deployment", "deployments"),
    listed("apps", "v1", "StatefulSet", "statefulsets"),
    listed("apps", "v1", "DaemonSet", "daemonsets"),
    Listed { metadata: true, ..listed("", "v1", "Pod", "pods") },
    listed("", "v1", "Service", "services"),
    listed("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    listed("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
    listed("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    listed("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    listed("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    listed("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    listed("networking.istio.io", "v1beta1", "VirtualService", "virtualservices"),
    listed("networking.istio.io", "v1beta1", "DestinationRule", "destinationrules"),
    listed("flagger.app", "v1beta1", "Canary", "canaries"),
];

/// The objects of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbours {
    objects: Vec<(&'static str, Value)>,
    hidden: Vec<String>,
}

/// Pods of somebody.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::rollout) struct Pods<'a> {
    /// Kind and name of whose they are.
    pub(in crate::rollout) of: String,
    pub(in crate::rollout) labels: &'a Value,
    /// They end by themselves.
    pub(in crate::rollout) passing: bool,
}

impl Neighbours {
    /// Takes in the objects of a kind.
    pub fn add(&mut self, kind: Listed, objects: impl IntoIterator<Item = Value>) {
        self.objects.extend(objects.into_iter().map(|object| (kind.kind, object)));
    }

    /// Notes that a kind could not be listed, and why.
    pub fn hide(&mut self, kind: Listed, why: &str) {
        self.hidden.push(format!("{}: {why}", kind.plural));
    }

    /// What could not be listed.
    pub(in crate::rollout) fn hidden(&self) -> &[String] {
        &self.hidden
    }

    /// The objects of a kind with their names.
    pub(in crate::rollout) fn of(&self, kind: &'static str) -> impl Iterator<Item = (&str, &Value)> {
        self.objects
            .iter()
            .filter(move |(of, _)| *of == kind)
            .filter_map(move |(_, object)| Some((object.pointer("/metadata/name")?.as_str()?, object)))
    }

    /// Whose pods there are or may be, with their labels: workloads by their templates, and pods of anybody else.
    pub(in crate::rollout) fn pods(&self) -> Vec<Pods<'_>> {
        let mut all = Vec::new();
        let workloads = ["Deployment", "StatefulSet", "DaemonSet"];
        for kind in workloads {
            for (name, object) in self.of(kind) {
                if let Some(labels) = object.pointer("/spec/template/metadata/labels") {
                    all.push(Pods { of: format!("{kind} {name}"), labels, passing: false });
                }
            }
        }
        for (name, pod) in self.of("Pod") {
            let Some(labels) = pod.pointer("/metadata/labels") else { continue };
            let (kind, owner) = controller(pod).unwrap_or(("Pod", name));
            let hash = labels.get("pod-template-hash").and_then(Value::as_str).unwrap_or_default();
            let deployment = owner.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-'));
            let of = match (kind, deployment) {
                ("ReplicaSet", Some(deployment)) => format!("Deployment {deployment}"),
                _ => format!("{kind} {owner}"),
            };
            if !all.iter().any(|pods| pods.of == of) {
                all.push(Pods { of, labels, passing: kind == "Job" });
            }
        }
        all
    }
}

/// Kind and name of the owner that controls an object.
pub(in crate::rollout) fn controller(object: &Value) -> Option<(&str, &str)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner.get("controller").is_some_and(|is| *is == true))?;
    Some((owner.get("kind")?.as_str()?, owner.get("name")?.as_str()?))
}

/// Whether a Service with this selector selects pods with these labels.
pub(in crate::rollout) fn selects(selector: &Map<String, Value>, labels: &Value) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a label selector, such as that of a PodDisruptionBudget, selects pods with these labels. An empty one selects all,
/// a missing one none.
pub(in crate::rollout) fn matches(selector: Option<&Value>, labels: &Value) -> bool {
    let Some(selector) = selector.filter(|selector| selector.is_object()) else { return false };
    let exact = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|exact| exact.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    exact
        && expressions.into_iter().flatten().all(|expression| {
            let value = expression.get("key").and_then(Value::as_str).and_then(|key| labels.get(key));
            let values = expression.get("values").and_then(Value::as_array);
            let listed = || value.is_some_and(|v| values.is_some_and(|values| values.contains(v)));
            match expression.get("operator").and_then(Value::as_str) {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

/// A Service's selector as people write it.
pub(in crate::rollout) fn shown(selector: &Map<String, Value>) -> String {
    let pairs = selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(name: &str) -> Listed {
        LISTED.into_iter().find(|listed| listed.kind == name).unwrap()
    }

    #[test]
    fn pods_are_named_after_who_makes_them() {
        let mut around = Neighbours::default();
        let template = |name: &str| json!({"metadata": {"name": name}, "spec": {"template": {"metadata": {"labels": {"app": name}}}}});
        around.add(kind("Deployment"), [template("web")]);
        let pod = |name: &str, owner: Value| json!({"metadata": {"name": name, "labels": {"app": name, "pod-template-hash": "5f8d"}, "ownerReferences": owner}});
        let by = |kind: &str, name: &str| json!([{"kind": kind, "name": name, "controller": true}]);
        around.add(
            kind("Pod"),
            [
                pod("web-5f8d-1", by("ReplicaSet", "web-5f8d")),
                pod("old-5f8d-1", by("ReplicaSet", "old-5f8d")),
                pod("batch-1", by("Job", "batch")),
                pod("bare", json!([])),
            ],
        );
        let names: Vec<(String, bool)> = around.pods().into_iter().map(|p| (p.of, p.passing)).collect();
        let expected =
            [("Deployment web", false), ("Deployment old", false), ("Job batch", true), ("Pod bare", false)];
        assert_eq!(names, expected.map(|(of, passing)| (of.to_owned(), passing)));
    }

    #[test]
    fn selectors_are_read_as_kubernetes_reads_them() {
        let labels = json!({"app": "a", "tier": "web"});
        for (selector, is) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "a"}}), true),
            (json!({"matchLabels": {"app": "b"}}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "x"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]}), false),
        ] {
            assert_eq!(matches(Some(&selector), &labels), is, "{selector}");
        }
        assert!(!matches(None, &labels), "no selector selects nothing");
        assert!(!selects(&Map::new(), &labels), "nor does a Service without one");
    }
}
