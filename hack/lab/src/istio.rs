//! istiod, and upstream Envoy as its ingress gateway.

use std::path::Path;

use anyhow::Result;
use ground::{ControlPlane, Launch, Server};
use serde_json::json;

use crate::parts::{ENVOY, pilot_discovery};

/// The gateway, as a Canary's `service.gateways` names it.
pub const GATEWAY: &str = "istio-system/gateway";
/// Where the gateway listens.
pub const ADDRESS: &str = "10.244.0.2:8080";
/// Where Envoy shows its configuration and counters.
pub const ADMIN: &str = "10.244.0.2:15000";

const MESH: &str = include_str!("../config/mesh.yaml");
const BOOTSTRAP: &str = include_str!("../config/envoy.yaml");

/// Starts both. `dir` gets their configuration, `logs` their output.
pub(crate) async fn start(cp: &ControlPlane, dir: &Path, logs: &Path) -> Result<Vec<Server>> {
    cp.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "istio-system" } }))
        .await?;
    let (name, namespace) = ("gateway", "istio-system");
    cp.apply(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "selector": { "istio": "ingressgateway" },
            "servers": [{
                // Pods listen on the same port of their own addresses.
                "bind": "10.244.0.2",
                "port": { "number": 8080, "name": "http", "protocol": "HTTP" }, "hosts": ["*"],
            }],
        },
    }))
    .await?;
    std::fs::write(dir.join("mesh.yaml"), MESH)?;
    std::fs::write(dir.join("envoy.yaml"), BOOTSTRAP)?;
    let kubeconfig = cp.kubeconfig("istiod").display().to_string();
    let args = [
        "discovery",
        "--kubeconfig",
        &kubeconfig,
        "--meshConfig=mesh.yaml",
        "--networksConfig=/dev/null",
        "--httpAddr=127.0.0.1:18080",
        "--httpsAddr=",
        "--grpcAddr=127.0.0.1:15010",
        "--secureGRPCAddr=",
        "--monitoringAddr=127.0.0.1:15014",
        "--ctrlz_address=127.0.0.1",
        "--ctrlz_port=0",
    ];
    // Upstream's Envoy knows neither Istio's ALPN filter nor its metadata exchange.
    let env = [
        ("POD_NAME", "istiod"),
        ("POD_NAMESPACE", "istio-system"),
        ("SERVICE_ACCOUNT", "istiod"),
        ("REVISION", "default"),
        ("CLUSTER_ID", "Kubernetes"),
        ("PILOT_CERT_PROVIDER", "istiod"),
        ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
        ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
        ("PILOT_ENABLE_ANALYSIS", "false"),
        ("PILOT_ENABLE_GATEWAY_API", "false"),
        ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
        ("PILOT_ENABLE_ALPN_FILTER", "false"),
        ("HOME", "/"),
    ];
    let istiod = Server::start(&Launch {
        name: "istiod".to_owned(),
        program: pilot_discovery().path()?,
        args: args.map(str::to_owned).to_vec(),
        env: Some(env.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()),
        dir: dir.to_owned(),
        log: logs.join("istiod.log"),
    })?;
    let args = [
        "--config-path",
        "envoy.yaml",
        "--disable-hot-restart",
        "--concurrency",
        "2",
        "--log-level",
        "warning",
    ];
    let envoy = Server::start(&Launch {
        name: "envoy".to_owned(),
        program: ENVOY.path()?,
        args: args.map(str::to_owned).to_vec(),
        env: Some(Vec::new()),
        dir: dir.to_owned(),
        log: logs.join("envoy.log"),
    })?;
    Ok(vec![envoy, istiod])
}
