//! Traefik, serving the Gateway API, and the MetricTemplates that ask for what it counts.

use std::path::Path;

use anyhow::Result;
use ground::{ControlPlane, Launch, Server};
use serde_json::{Value, json};

use crate::parts::TRAEFIK;
use crate::prometheus;

/// The namespace of the Gateway and of the MetricTemplates.
pub const NAMESPACE: &str = "gateway-system";
/// The name of the Gateway.
pub const NAME: &str = "gateway";
/// Where the gateway listens.
pub const ADDRESS: &str = "10.244.0.3:8081";
/// Where Traefik shows its configuration and counters.
pub const ADMIN: &str = "10.244.0.3:8082";

const CONFIG: &str = include_str!("../config/traefik.yaml");

/// Starts Traefik and makes its Gateway.
pub(crate) async fn start(cp: &ControlPlane, dir: &Path, logs: &Path) -> Result<Vec<Server>> {
    cp.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } })).await?;
    cp.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": { "name": "traefik" },
        "spec": { "controllerName": "traefik.io/gateway-controller" },
    }))
    .await?;
    cp.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": NAME, "namespace": NAMESPACE },
        "spec": {
            "gatewayClassName": "traefik",
            "listeners": [{ "name": "web", "port": 8081, "protocol": "HTTP", "allowedRoutes": { "namespaces": { "from": "All" } } }],
        },
    }))
    .await?;
    std::fs::write(dir.join("traefik.yaml"), CONFIG)?;
    let server = Server::start(&Launch {
        name: "traefik".to_owned(),
        program: TRAEFIK.path()?,
        args: vec!["--configfile=traefik.yaml".to_owned()],
        env: Some(vec![("KUBECONFIG".to_owned(), cp.kubeconfig("traefik").display().to_string())]),
        dir: dir.to_owned(),
        log: logs.join("traefik.log"),
    })?;
    Ok(vec![server])
}

/// Returns MetricTemplates `success-rate` (percent) and `duration` (99th percentile, milliseconds) of a canary behind Traefik.
#[must_use]
pub fn metric_templates() -> Vec<Value> {
    let service =
        r#"service=~"httproute-{{ namespace }}-{{ target }}-.*-{{ namespace }}-{{ target }}-canary-.*""#;
    let rate = |metric: &str, more: &str| format!("rate({metric}{{{service}{more}}}[{{{{ interval }}}}])");
    let requests = "traefik_service_requests_total";
    let good = rate(requests, r#", code!~"5..""#);
    let all = rate(requests, "");
    let buckets = rate("traefik_service_request_duration_seconds_bucket", "");
    let template = |name: &str, query: String| {
        json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "provider": { "type": "prometheus", "address": prometheus::url() }, "query": query },
        })
    };
    vec![
        template("success-rate", format!("100 * sum({good}) / sum({all})")),
        template("duration", format!("1000 * histogram_quantile(0.99, sum by (le) ({buckets}))")),
    ]
}
