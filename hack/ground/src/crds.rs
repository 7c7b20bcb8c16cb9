//! CustomResourceDefinitions: those of the traffic routers, and installing any.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

use crate::FIELD_MANAGER;
use crate::go::{download, lock};
use crate::parts::{GATEWAY_API, ISTIO_API, Module, TRAEFIK, cache_dir, hash};
use crate::wait::eventually;

/// The CustomResourceDefinitions of one kind of traffic router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterCrds {
    /// Istio's VirtualService and DestinationRule, out of the module istio.io/api.
    Istio,
    /// The standard channel of the Gateway API, out of the module sigs.k8s.io/gateway-api.
    GatewayApi,
    /// SMI's TrafficSplit, v1alpha1 to v1alpha3: ours, as the project's own are in a form that API servers since
    /// Kubernetes 1.22 refuse.
    Smi,
    /// Traefik's TraefikService, out of the module github.com/traefik/traefik/v3.
    Traefik,
}

/// The kinds of Istio that its router writes, of the fourteen that the module has.
const ISTIO: [&str; 2] = ["virtualservices.networking.istio.io", "destinationrules.networking.istio.io"];
const SMI: &str = include_str!("../../crds/smi-trafficsplit.yaml");

impl RouterCrds {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Istio, Self::GatewayApi, Self::Smi, Self::Traefik];

    /// Returns the objects; the first call downloads the module, later ones read the cache.
    ///
    /// # Errors
    /// When the module cannot be downloaded or does not have the files it should.
    pub fn load(self) -> Result<Vec<Value>> {
        match self {
            Self::Istio => istio_crds(&ISTIO),
            Self::GatewayApi => module_crds(
                "gateway-api",
                &GATEWAY_API,
                "sigs.k8s.io/gateway-api",
                "config/crd/standard",
                &[],
            ),
            Self::Smi => parse_yaml(SMI),
            Self::Traefik => traefik_crds(&["traefikservices.traefik.io"]),
        }
    }
}

/// Returns CustomResourceDefinitions of Istio by their names, out of the module that [`RouterCrds::Istio`] uses.
///
/// # Errors
/// As [`RouterCrds::load`].
pub fn istio_crds(names: &[&str]) -> Result<Vec<Value>> {
    let file = "kubernetes/customresourcedefinitions.gen.yaml";
    module_crds("istio", &ISTIO_API, "istio.io/api", file, names)
}

/// Returns CustomResourceDefinitions of Traefik by their names, all where none is given: it waits for each of them before it
/// serves any.
///
/// # Errors
/// As [`RouterCrds::load`].
pub fn traefik_crds(names: &[&str]) -> Result<Vec<Value>> {
    let file = "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml";
    module_crds("traefik", &TRAEFIK, "github.com/traefik/traefik/v3", file, names)
}

/// Returns the CustomResourceDefinitions in a file or folder of a Go module, or those of the given names; kept as JSON in
/// the cache, as YAML of this size takes long to parse.
///
/// # Errors
/// When the module cannot be downloaded or does not have the files it should.
pub fn module_crds(
    what: &str,
    module: &Module,
    path: &str,
    place: &str,
    names: &[&str],
) -> Result<Vec<Value>> {
    let folder =
        cache_dir()?.join(format!("crds-{what}-{}", hash(&[module.go_sum, place, &names.join(" ")])));
    let file = folder.join("crds.json");
    if let Ok(text) = fs::read(&file) {
        return Ok(serde_json::from_slice(&text)?);
    }
    let _lock = lock(&folder, what)?;
    let context = || format!("fetching the CustomResourceDefinitions of {what}");
    let place = download(module, path).with_context(context)?.join(place);
    let mut crds = Vec::new();
    if place.is_dir() {
        for entry in fs::read_dir(&place).with_context(context)? {
            crds.extend(read_yaml(&entry?.path())?);
        }
    } else {
        crds = read_yaml(&place)?;
    }
    // Beside those of the Gateway API lies an admission policy that guards upgrades.
    crds.retain(|crd| crd.get("kind").is_some_and(|kind| kind == "CustomResourceDefinition"));
    crds.retain(|crd| names.is_empty() || names.contains(&name(crd)));
    crds.sort_by(|a, b| name(a).cmp(name(b)));
    if crds.is_empty() {
        bail!("the module of {what} has no CustomResourceDefinition in {}", place.display());
    }
    let partial = folder.join("partial");
    fs::write(&partial, serde_json::to_vec(&crds)?)?;
    fs::rename(&partial, &file)?;
    Ok(crds)
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn read_yaml(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    parse_yaml(&text).with_context(|| format!("parsing {}", file.display()))
}

/// Returns the documents of a YAML text, empty ones left out.
///
/// # Errors
/// When the text is not YAML.
pub fn parse_yaml(text: &str) -> Result<Vec<Value>> {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    documents.retain(|document| !document.is_null());
    Ok(documents)
}

/// Creates the CustomResourceDefinitions all at once and waits until each version of each is served.
pub(crate) async fn install(client: &Client, crds: Vec<Value>) -> Result<()> {
    try_join_all(crds.into_iter().map(|crd| install_one(client, crd))).await?;
    Ok(())
}

async fn install_one(client: &Client, crd: Value) -> Result<()> {
    let name = name(&crd).to_owned();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let crd =
        api.patch(&name, &params, &Patch::Apply(crd)).await.with_context(|| format!("installing {name}"))?;
    for version in crd.spec.versions.iter().filter(|version| version.served) {
        let names = &crd.spec.names;
        let kind = GroupVersionKind::gvk(&crd.spec.group, &version.name, &names.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &names.plural);
        let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        // Asking is surer than the condition Established, which is set a moment before requests are served.
        let served = async || Ok(objects.list_metadata(&ListParams::default().limit(1)).await.ok());
        eventually(&format!("{name} {} is served", version.name), Duration::from_secs(60), served).await?;
    }
    Ok(())
}
