//! Sidetrack, installed from manifests/ as they are but for its flags: two replicas under its own ServiceAccount, reached by the
//! API server through its Service.

use std::time::Duration;

use anyhow::{Context, Result};
use ground::{ControlPlane, eventually, parse_yaml};
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
pub(crate) fn crds() -> Result<Vec<Value>> {
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

/// Waits until both replicas are available and the API server reaches the webhook: a Deployment with our label can be created
/// (dry run).
pub(crate) async fn wait(cp: &ControlPlane) -> Result<()> {
    let within = Duration::from_secs(60);
    let client = cp.client();
    let own: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    eventually("both replicas of Sidetrack are available", within, async || {
        let status = own.get("sidetrack").await?.status.unwrap_or_default();
        Ok((status.available_replicas == Some(2)).then_some(()))
    })
    .await?;
    let mut probe = Sample::new("default", Traffic::Istio).deployment("v1");
    if let Some(Value::Object(metadata)) = probe.get_mut("metadata") {
        metadata.insert("labels".to_owned(), json!({ "sidetrack.dev/canary": "probe" }));
    }
    let probe: Deployment = serde_json::from_value(probe)?;
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the webhook answers", within, async || Ok(deployments.create(&dry_run, &probe).await.ok()))
        .await?;
    Ok(())
}
