//! Objects for the benchmark, each one request, without discovery.

use anyhow::{Context as _, Result};
use harness::{self, World};
use kube::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Requests by the administrator, in a namespace of their own.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Api {
    /// Makes the namespace.
    pub(crate) async fn new(world: &World, prefix: &str) -> Result<Self> {
        Ok(Self { client: world.cp.client(), namespace: world.cp.namespace(prefix).await? })
    }

    /// The same namespace for another user.
    pub(crate) fn by(&self, client: Client) -> Self {
        Self { client, namespace: self.namespace.clone() }
    }

    fn path(&self, kind: &str) -> String {
        let group = match kind {
            "deployments" => "apis/apps/v1",
            "canaries" => "apis/flagger.app/v1beta1",
            _ => "api/v1",
        };
        format!("/{group}/namespaces/{}/{kind}", self.namespace)
    }

    async fn send(&self, method: &str, path: String, content: &str, body: Vec<u8>) -> Result<Value> {
        let request = http::Request::builder().method(method).uri(path.as_str());
        let request = request.header(http::header::CONTENT_TYPE, content).body(body)?;
        self.client.request(request).await.with_context(|| format!("{method} {path}"))
    }

    /// Creates an object.
    pub(crate) async fn create(&self, kind: &str, object: &Value) -> Result<Value> {
        self.send("POST", self.path(kind), "application/json", serde_json::to_vec(object)?).await
    }

    /// Merges into an object.
    pub(crate) async fn merge(&self, kind: &str, name: &str, patch: &Value) -> Result<Value> {
        let path = format!("{}/{name}", self.path(kind));
        self.send("PATCH", path, "application/merge-patch+json", serde_json::to_vec(patch)?).await
    }

    /// Reads an object.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.send("GET", format!("{}/{name}", self.path(kind)), "application/json", Vec::new()).await
    }

    /// Reads all objects of a kind.
    pub(crate) async fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let path = format!("{}?resourceVersion=0", self.path(kind));
        let mut list = self.send("GET", path, "application/json", Vec::new()).await?;
        let items = list.get_mut("items").map(Value::take);
        Ok(items.and_then(|items| items.as_array().cloned()).unwrap_or_default())
    }

    /// Waits until a Canary has one of the phases, and returns when that was seen.
    pub(crate) async fn phase(&self, name: &str, phases: &[&str], within: Duration) -> Result<Instant> {
        ground::eventually(&format!("{name} is {phases:?}"), within, async || {
            let canary = self.get("canaries", name).await?;
            Ok(phase_is(&canary, phases).then(Instant::now))
        })
        .await
    }
}

/// Whether a Canary has one of these phases.
pub(crate) fn phase_is(canary: &Value, phases: &[&str]) -> bool {
    canary.pointer("/status/phase").and_then(Value::as_str).is_some_and(|phase| phases.contains(&phase))
}

/// A Deployment of one pod.
pub(crate) fn deployment(api: &Api, name: &str) -> Value {
    let mut deployment = harness::deployment(&api.namespace, "v1", 1);
    let labels = json!({"app": name});
    json_patch::merge(
        &mut deployment,
        &json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}},
        }),
    );
    deployment
}

/// Its Canary.
pub(crate) fn canary(api: &Api, name: &str, analysis: &Value) -> Value {
    let spec = json!({"targetRef": {"name": name}, "analysis": analysis});
    let mut canary = harness::canary(&api.namespace, &spec);
    json_patch::merge(&mut canary, &json!({"metadata": {"name": name}}));
    canary
}

/// A change of the template.
pub(crate) fn new_template(version: usize) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"version": version.to_string()}}}}})
}
