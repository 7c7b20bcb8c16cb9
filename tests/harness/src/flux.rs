//! Flux's kustomize-controller, by its requests.

use crate::{World, at};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::Value;

/// One reconciliation of a Deployment: it reads, applies by a forced dry run, compares labels, annotations and all but
/// metadata and status, and applies for real only if something differs. Returns whether it did.
pub async fn reconcile(world: &World, object: &Value) -> Result<bool> {
    let client = world.cp.client_as("flux");
    let namespace = at(object, "/metadata/namespace").as_str().context("no namespace")?;
    let name = at(object, "/metadata/name").as_str().context("no name")?;
    let api: Api<DynamicObject> =
        Api::namespaced_with(client, namespace, &ApiResource::erase::<Deployment>(&()));
    let params = PatchParams::apply("kustomize-controller").force();
    let live = api.get_opt(name).await?;
    let dry =
        api.patch(name, &PatchParams { dry_run: true, ..params.clone() }, &Patch::Apply(object)).await?;
    let compared = |o: &DynamicObject| {
        (o.metadata.labels.clone(), o.metadata.annotations.clone(), o.data.get("spec").cloned())
    };
    if live.is_some_and(|live| compared(&live) == compared(&dry)) {
        return Ok(false);
    }
    let stored = api.patch(name, &params, &Patch::Apply(object)).await?;
    ensure!(compared(&stored) == compared(&dry), "the dry run promised {dry:#?}, stored was {stored:#?}");
    Ok(true)
}
