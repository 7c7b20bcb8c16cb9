//! What runs: the namespace, the Deployment and what belongs to it.

use super::{SERVICE_ACCOUNT, labels};
use crate::api::keys;
use serde_json::{Value, json};

/// Name of the Deployment, its Service and its PodDisruptionBudget.
pub const NAME: &str = "sidetrack";
/// Port of the webhook in the pod.
pub const WEBHOOK_PORT: u16 = 9443;
/// Port of metrics and health in the pod.
pub const HTTP_PORT: u16 = 8080;

/// Priority of the pods: that of what a cluster does not work without.
const PRIORITY: &str = "system-cluster-critical";

/// Builds the namespace. Its pods must meet the strictest pod security standard, as ours do.
#[must_use]
pub fn namespace() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": keys::NAMESPACE, "labels": {
            "app.kubernetes.io/name": NAME,
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/audit": "restricted",
            "pod-security.kubernetes.io/warn": "restricted",
        }},
    })
}

/// Builds Service, PodDisruptionBudget, ResourceQuota, NetworkPolicy and Deployment.
#[must_use]
pub fn objects(image: &str) -> Vec<Value> {
    vec![service(), disruption_budget(), quota(), network_policy(), deployment(image)]
}

fn metadata(labels: &Value) -> Value {
    json!({"name": NAME, "namespace": keys::NAMESPACE, "labels": labels})
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(&labels()),
        "spec": {
            "selector": labels(),
            "ports": [
                {"name": "webhook", "port": 443, "targetPort": "webhook", "protocol": "TCP"},
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
            ],
        },
    })
}

fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(&labels()),
        "spec": {"minAvailable": 1, "selector": {"matchLabels": labels()}},
    })
}

/// Clusters that limit the priorities of Kubernetes' own pods (GKE does) take them in a namespace only where a quota says so.
fn quota() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata(&labels()),
        "spec": {
            "hard": {"pods": "20"},
            "scopeSelector": {"matchExpressions": [
                {"operator": "In", "scopeName": "PriorityClass", "values": [PRIORITY]},
            ]},
        },
    })
}

/// Two ports and no other. Where the API server calls from depends on the cluster, so its port is open to all that reach it: the
/// webhook bounds what a stranger takes up.
fn network_policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(&labels()),
        "spec": {
            "podSelector": {"matchLabels": labels()},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [
                {"port": "webhook", "protocol": "TCP"}, {"port": "http", "protocol": "TCP"},
            ]}],
        },
    })
}

fn deployment(image: &str) -> Value {
    let labelled = json!({
        "app.kubernetes.io/name": NAME, "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(&labelled),
        "spec": {
            // Every replica answers the webhook; one of them writes.
            "replicas": 2,
            "selector": {"matchLabels": labels()},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": labelled,
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": HTTP_PORT.to_string(),
                        "prometheus.io/path": "/metrics",
                    },
                },
                "spec": pod(image),
            },
        },
    })
}

fn pod(image: &str) -> Value {
    // Never all on one node, where there is another one; a node that takes no pod is no other one.
    let spread =
        [("kubernetes.io/hostname", "DoNotSchedule"), ("topology.kubernetes.io/zone", "ScheduleAnyway")];
    let spread = spread.map(|(topology, otherwise)| {
        json!({
            "topologyKey": topology, "maxSkew": 1, "whenUnsatisfiable": otherwise, "nodeTaintsPolicy": "Honor",
            "labelSelector": {"matchLabels": labels()},
        })
    });
    json!({
        "serviceAccountName": SERVICE_ACCOUNT,
        // Writes wait for it: it is the last to be evicted or preempted, not the first.
        "priorityClassName": PRIORITY,
        "enableServiceLinks": false,
        "topologySpreadConstraints": spread,
        // Readiness has to travel to the API server before the last connection may close.
        "terminationGracePeriodSeconds": 40,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": NAME,
            "image": image,
            "args": ["run"],
            "env": [own("POD_NAME", "metadata.name")],
            "ports": [
                {"name": "webhook", "containerPort": WEBHOOK_PORT, "protocol": "TCP"},
                {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            ],
            "livenessProbe": probe("/healthz", 10),
            "readinessProbe": probe("/readyz", 2),
            "resources": {
                // What it uses: a pod above its request is the first that a node short of memory evicts.
                "requests": {"cpu": "50m", "memory": "128Mi"},
                "limits": {"memory": "512Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
        }],
    })
}

/// An environment variable with a field of the pod. Its `apiVersion` is spelled out: the field is one whole, and without
/// it a server-side apply would conflict with the client-side one before.
fn own(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn probe(path: &str, period: u32) -> Value {
    json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "timeoutSeconds": 2})
}
