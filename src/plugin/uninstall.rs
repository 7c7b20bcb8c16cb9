//! Leaving: plain Deployments with their own traffic, then nothing of ours.

use super::connection::Connection;
use super::{DONE, Out, duration, view};
use crate::api::{Canary, keys};
use crate::install::{IMAGE, installation};
use crate::kubernetes::path;
use crate::object::text;
use anyhow::bail;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Where policies are.
const POLICIES: &str = "/apis/sidetrack.dev/v1alpha1/canarypolicies";
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Leaves.
///
/// Every CanaryPolicy and every Canary is deleted first: the controller gives its application the promoted revision, its pods and its traffic back,
/// which takes a while and needs the controller to run. What is installed goes when all of them are gone. The definitions
/// (Canary, MetricTemplate, AlertProvider) stay unless --crds is given, as they take every object of theirs along.
///
/// With --namespace only the applications of that namespace leave: nothing that is installed is touched.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Uninstall {
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// Delete the definitions too, and with them every MetricTemplate and AlertProvider.
    #[arg(long)]
    crds: bool,
    /// How long to wait for the Canaries.
    #[arg(long, default_value = "15m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

/// What is installed, in the order in which to remove it: what asks the webhook goes before what answers, and the
/// namespace last.
fn installed(crds: bool) -> anyhow::Result<Vec<Value>> {
    let order = [
        "webhook.yaml",
        "policies-webhook.yaml",
        "policy.yaml",
        "deployment.yaml",
        "rbac.yaml",
        "crds.yaml",
        "namespace.yaml",
    ];
    let mut parts = installation(IMAGE)?;
    parts.retain(|(file, _)| crds || *file != "crds.yaml");
    parts.sort_by_key(|(file, _)| order.iter().position(|other| other == file));
    Ok(parts.into_iter().flat_map(|(_, objects)| objects).collect())
}

impl Uninstall {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let canaries = self.canaries(at).await?;
        if let Some(namespace) = at.only() {
            leaves_for_good(&canaries, namespace)?;
            if canaries.is_empty() {
                out.line(&format!("no Canary is in namespace {namespace}: there is nothing to leave"))?;
                return Ok(DONE);
            }
            if self.crds {
                bail!("--crds is about the whole cluster: leave out --namespace, or --crds");
            }
        }
        let policies = policies(at).await?;
        let mut there = Vec::new();
        let installed = if at.named { Vec::new() } else { installed(self.crds)? };
        for object in installed {
            if at.read(&path::of_manifest(&object)).await?.is_some() {
                there.push(object);
            }
        }
        if !self.yes {
            for policy in &policies {
                out.line(&format!(
                    "delete policy {policy} and wait until the Canaries that it made are gone"
                ))?;
            }
            for canary in &canaries {
                out.line(&format!(
                    "delete canary {}/{} and wait until deployment {} has its traffic back",
                    view::namespace(canary),
                    view::name(canary),
                    canary.spec.target_ref.name
                ))?;
            }
            for object in &there {
                out.line(&format!("delete {} {}", text(object, "/kind"), text(object, "/metadata/name")))?;
            }
            out.line("Nothing was changed; do it with --yes.")?;
            return Ok(DONE);
        }
        // A policy would make its Canaries anew.
        for policy in &policies {
            at.send(http::Method::DELETE, &format!("{POLICIES}/{policy}"), "application/json", &background())
                .await?;
            out.line(&format!("deleting policy {policy}"))?;
        }
        for canary in &canaries {
            let uri = uri(canary);
            at.send(http::Method::DELETE, &uri, "application/json", &background()).await?;
            out.line(&format!("deleting canary {}/{}", view::namespace(canary), view::name(canary)))?;
        }
        self.wait(at, out, canaries.iter().map(full_name).collect()).await?;
        for object in &there {
            at.send(http::Method::DELETE, &path::of_manifest(object), "application/json", &background())
                .await?;
            out.line(&format!("deleted {} {}", text(object, "/kind"), text(object, "/metadata/name")))?;
        }
        Ok(DONE)
    }

    /// The Canaries that are meant; none where the cluster does not know the kind.
    async fn canaries(&self, at: &Connection) -> anyhow::Result<Vec<Canary>> {
        let within = at.only().map_or_else(String::new, |namespace| format!("namespaces/{namespace}/"));
        let found = at.items(&format!("/apis/flagger.app/v1beta1/{within}canaries")).await?;
        Ok(found.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?)
    }

    async fn wait(&self, at: &Connection, out: &mut Out<'_>, mut before: Vec<String>) -> anyhow::Result<()> {
        let end = Instant::now().checked_add(self.timeout);
        loop {
            let left = self.canaries(at).await?;
            let names: Vec<String> = left.iter().map(full_name).collect();
            for gone in before.iter().filter(|name| !names.contains(name)) {
                out.line(&format!("canary {gone} is gone"))?;
            }
            let policies = policies(at).await?;
            if names.is_empty() && policies.is_empty() {
                return Ok(());
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                let why: Vec<String> = left
                    .iter()
                    .zip(&names)
                    .map(|(c, name)| format!("{name}: {}", view::message(&view::status(c))))
                    .chain(policies.iter().map(|name| format!("policy {name}")))
                    .collect();
                bail!(
                    "still there after {:?}: {}. Does the controller run? kubectl sidetrack check tells; then the same again",
                    self.timeout,
                    why.join("; ")
                );
            }
            before = names;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A policy makes its Canaries anew: a namespace leaves it by its own means.
fn leaves_for_good(canaries: &[Canary], namespace: &str) -> anyhow::Result<()> {
    let policy = |canary: &Canary| canary.metadata.labels.as_ref()?.get(keys::POLICY).cloned();
    match canaries.iter().find_map(|canary| Some((canary, policy(canary)?))) {
        Some((canary, policy)) => bail!(
            "canary {} was made by policy {policy}, which would make it anew: take namespace {namespace} out of the policy's namespaceSelector, and its applications leave",
            full_name(canary)
        ),
        None => Ok(()),
    }
}

/// Names of all policies; none where the cluster does not know the kind, or a namespace is meant.
async fn policies(at: &Connection) -> anyhow::Result<Vec<String>> {
    if at.named {
        return Ok(Vec::new());
    }
    let found = at.items(POLICIES).await?;
    Ok(found.iter().map(|policy| text(policy, "/metadata/name").to_owned()).collect())
}

fn full_name(canary: &Canary) -> String {
    format!("{}/{}", view::namespace(canary), view::name(canary))
}

fn uri(canary: &Canary) -> String {
    format!(
        "/apis/flagger.app/v1beta1/namespaces/{}/canaries/{}",
        view::namespace(canary),
        view::name(canary)
    )
}

fn background() -> Value {
    json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_goes_before_what_answers_and_definitions_only_when_asked_for() {
        let kinds =
            |crds| installed(crds).unwrap().iter().map(|o| text(o, "/kind").to_owned()).collect::<Vec<_>>();
        let all = kinds(true);
        assert_eq!(all.first().map(String::as_str), Some("MutatingWebhookConfiguration"));
        assert_eq!(all.last().map(String::as_str), Some("Namespace"));
        assert!(all.contains(&"CustomResourceDefinition".to_owned()));
        assert!(!kinds(false).contains(&"CustomResourceDefinition".to_owned()));
    }
}
