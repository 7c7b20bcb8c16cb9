//! What a person applies.

use serde_json::{Value, json};

pub const NAMESPACE: &str = "test";

/// Deployment `app` at an image; `ready` is the label that says how its pods get ready.
pub fn deployment(image: &str, ready: Option<&str>, replicas: Option<i32>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": NAMESPACE, "name": "app"},
        "spec": {
            "progressDeadlineSeconds": 60,
            "selector": {"matchLabels": {"app": "app"}},
            "template": template(image, ready),
        },
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

pub fn template(image: &str, ready: Option<&str>) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "app"}},
        "spec": {"containers": [{"name": "app", "image": format!("app:{image}"), "ports": [{"containerPort": 9898}]}]},
    });
    if let Some(ready) = ready {
        template["metadata"]["labels"]["ready"] = ready.into();
    }
    template
}

/// Canary `app`, ten seconds an interval, three steps to 60 %; `hooks` are (name, type).
pub fn canary(hooks: &[(&str, &str)]) -> Value {
    let hook = |(name, kind): &(&str, &str)| json!({"name": name, "type": kind, "url": format!("http://hooks/{name}")});
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"namespace": NAMESPACE, "name": "app"},
        "spec": {
            "provider": "istio",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "progressDeadlineSeconds": 60,
            "service": {"port": 80, "targetPort": 9898},
            "analysis": {
                "interval": "10s", "threshold": 2, "stepWeight": 20, "maxWeight": 60,
                "metrics": [{"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}}],
                "webhooks": hooks.iter().map(hook).collect::<Vec<_>>(),
            },
        },
    })
}

/// The same Canary in the layout `in-place`.
pub fn in_place(hooks: &[(&str, &str)]) -> Value {
    let mut canary = canary(hooks);
    canary["metadata"]["annotations"] = json!({"sidetrack.dev/layout": "in-place"});
    canary
}

/// The same without a router: the share is the ratio of pods in the owner's Service.
pub fn by_replicas(hooks: &[(&str, &str)]) -> Value {
    let mut canary = in_place(hooks);
    canary["spec"]["provider"] = "kubernetes".into();
    canary
}

/// The owner's Service.
pub fn service(selector: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "app"},
        "spec": {"selector": selector, "ports": [{"port": 80}]}})
}
