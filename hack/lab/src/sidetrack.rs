//! Sidetrack, installed from manifests/ as they are but for its flags: two replicas under its own ServiceAccount, reached by the
//! API server through its Service.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ground::{ControlPlane, Launch, SIDETRACK, Server, eventually, parse_yaml};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::prometheus;
use crate::sample::{Sample, Traffic};

/// Its namespace.
pub const NAMESPACE: &str = "sidetrack-system";

/// The Secret with the webhook's certificate.
const SECRET: &str = "sidetrack-webhook-tls";

/// manifests/ in the order of its kustomization.yaml, without the definitions, which the control plane starts with.
const MANIFESTS: [&str; 6] = [
    include_str!("../../../manifests/namespace.yaml"),
    include_str!("../../../manifests/rbac.yaml"),
    include_str!("../../../manifests/policy.yaml"),
    include_str!("../../../manifests/deployment.yaml"),
    include_str!("../../../manifests/webhook.yaml"),
    include_str!("../../../manifests/policies-webhook.yaml"),
];

/// Returns the definitions in manifests/.
///
/// # Errors
/// Never for the file as it is generated.
pub fn crds() -> Result<Vec<Value>> {
    parse_yaml(include_str!("../../../manifests/crds.yaml"))
}

/// Flags for a world in which things are quick. Only the drain delay is for gateways, too: it must not be shorter than they
/// take to hear of a weight.
fn flags(drain: Duration) -> Vec<String> {
    vec![
        format!("--metrics-server={}", prometheus::url()),
        "--min-interval=1s".to_owned(),
        format!("--drain-delay={}s", drain.as_secs()),
        "--log-format=text".to_owned(),
    ]
}

/// Installs it.
pub(crate) async fn install(cp: &ControlPlane, drain: Duration) -> Result<()> {
    for text in MANIFESTS {
        for mut object in parse_yaml(text)? {
            if let Some(Value::Array(args)) = object.pointer_mut("/spec/template/spec/containers/0/args") {
                args.extend(flags(drain).into_iter().map(Value::from));
            }
            cp.apply(object).await.context("installing manifests/")?;
        }
    }
    Ok(())
}

/// Installs it in a control plane beside the lab's own, whose pods are no processes: there `program` is one on loopback, and
/// the API server reaches its webhook by URL. Returns it when the webhook answers.
///
/// # Errors
/// When the API server refuses a manifest, or the webhook does not answer in time.
pub async fn beside(cp: &ControlPlane, program: &Path) -> Result<Server> {
    let webhook = format!("127.0.0.1:{}", free_port()?);
    for text in MANIFESTS {
        for mut object in parse_yaml(text)? {
            for entry in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(client) = entry.get_mut("clientConfig") {
                    *client = json!({ "url": format!("https://{webhook}/mutate") });
                }
            }
            if object.get("kind").is_none_or(|kind| kind != "Deployment") {
                cp.apply(object).await.context("installing manifests/")?;
            }
        }
    }
    let mut args = vec![
        "run".to_owned(),
        format!("--kubeconfig={}", cp.kubeconfig(SIDETRACK).display()),
        format!("--webhook-bind={webhook}"),
        "--webhook-name=127.0.0.1".to_owned(),
        "--address=127.0.0.1".to_owned(),
        "--allow-network=127.0.0.0/8".to_owned(),
        format!("--port={}", free_port()?),
    ];
    args.extend(flags(Duration::from_secs(1)));
    let server = Server::start(&Launch {
        name: "sidetrack".to_owned(),
        program: program.to_owned(),
        args,
        env: None,
        dir: cp.logs().to_owned(),
        log: cp.logs().join("sidetrack.log"),
    })?;
    answers(cp).await.with_context(|| server.last_words())?;
    Ok(server)
}

/// A free port of loopback.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Has the webhook's certificate replaced, by breaking the one that is stored; returns when another is.
///
/// # Errors
/// When there is no Secret, or it is not written in time.
pub async fn rotate(cp: &ControlPlane) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(cp.client(), NAMESPACE);
    let certificate = |secret: &Secret| secret.data.as_ref()?.get("tls.crt").map(|bytes| bytes.0.clone());
    let before = secrets.get(SECRET).await.map(|secret| certificate(&secret))?;
    let broken = Patch::Merge(json!({ "stringData": { "tls.crt": "broken" } }));
    secrets.patch(SECRET, &PatchParams::default(), &broken).await?;
    eventually("there is another certificate", Duration::from_secs(60), async || {
        let now = certificate(&secrets.get(SECRET).await?);
        Ok((now != before && now.is_some_and(|now| now != b"broken")).then_some(()))
    })
    .await
}

/// Waits until both replicas are available and the webhook answers.
pub(crate) async fn wait(cp: &ControlPlane) -> Result<()> {
    let within = Duration::from_secs(60);
    let own: Api<Deployment> = Api::namespaced(cp.client(), NAMESPACE);
    eventually("both replicas of Sidetrack are available", within, async || {
        let status = own.get("sidetrack").await?.status.unwrap_or_default();
        Ok((status.available_replicas == Some(2)).then_some(()))
    })
    .await?;
    answers(cp).await
}

/// Waits until the API server reaches the webhook: a Deployment with our label can be created (dry run).
async fn answers(cp: &ControlPlane) -> Result<()> {
    let mut probe = Sample::new("default", Traffic::Istio).deployment("v1");
    if let Some(Value::Object(metadata)) = probe.get_mut("metadata") {
        metadata.insert("labels".to_owned(), json!({ "sidetrack.dev/canary": "probe" }));
    }
    let probe: Deployment = serde_json::from_value(probe)?;
    let deployments: Api<Deployment> = Api::namespaced(cp.client(), "default");
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the webhook answers", Duration::from_secs(60), async || {
        Ok(deployments.create(&dry_run, &probe).await.ok())
    })
    .await?;
    Ok(())
}
