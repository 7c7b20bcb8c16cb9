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

/// Builds Service, PodDisruptionBudget and Deployment.
#[must_use]
pub fn objects(image: &str) -> Vec<Value> {
    vec![service(), disruption_budget(), deployment(image)]
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
    let spread = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|topology| {
        json!({
            "topologyKey": topology, "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels()},
        })
    });
    json!({
        "serviceAccountName": SERVICE_ACCOUNT,
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
                "requests": {"cpu": "10m", "memory": "32Mi"},
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
