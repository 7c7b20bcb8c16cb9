//! What the plugin reads and writes, as the person whose kubeconfig it is.

use super::tree::Tree;
use crate::api::Canary;
use crate::api::names::label_value;
use crate::install::settings;
use crate::install::workload;
use crate::kubernetes::client::{self, Settings};
use crate::kubernetes::election::Leadership;
use crate::kubernetes::path;
use crate::kubernetes::writer::Writer;
use crate::object::{Kind, ObjectRef, Objects};
use crate::rollout::subject::{Config, Snapshot, Subject};
use anyhow::{Context as _, bail};
use futures::future::join_all;
use kube::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Time allowed for one request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Field manager of what the plugin writes. Flux takes over fields of managers whose name begins with `kubectl`.
pub const FIELD_MANAGER: &str = "sidetrack-plugin";

/// A cluster, and the namespace that is meant.
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace, from the command line or the kubeconfig.
    pub namespace: String,
    /// Whether the command line has named it: what is about the whole cluster else is about this namespace then.
    pub named: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects as kubectl would.
    ///
    /// # Errors
    /// When no kubeconfig can be used.
    pub async fn new(settings: &Settings, namespace: Option<String>) -> anyhow::Result<Self> {
        let config = client::config(settings).await?;
        let named = namespace.is_some();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace, named })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As the API server answers, in its words.
    pub async fn send(
        &self,
        method: http::Method,
        uri: &str,
        content: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, content)
            .body(body)?;
        match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                Err(anyhow::Error::msg(status.message.clone()).context(Refused(status.code)))
            }
            Ok(Err(error)) => Err(anyhow::Error::new(error).context("the API server cannot be reached")),
            Err(_) => bail!("the API server did not answer within {} s", TIMEOUT.as_secs()),
        }
    }

    /// Reads an object or a list; `None` when it is not there.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn read(&self, uri: &str) -> anyhow::Result<Option<Value>> {
        match self.send(http::Method::GET, uri, "application/json", &Value::Null).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the items of a list; none where the kind is not served.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn items(&self, uri: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.read(uri).await?.unwrap_or_default();
        Ok(list.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// The namespace that the command line has named.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        self.named.then_some(self.namespace.as_str())
    }

    /// Reads the Canaries of the namespace, or of all, that a label selector selects (all, where it is empty), as they are stored.
    ///
    /// # Errors
    /// As [`Self::send`], and when the cluster has no Canaries at all.
    pub async fn canaries(&self, all: bool, labelled: &str) -> anyhow::Result<Vec<Value>> {
        let namespace = (!all).then_some(self.namespace.as_str());
        let labelled: String = url::form_urlencoded::byte_serialize(labelled.as_bytes()).collect();
        let list = path::collection(Kind::Canary, namespace);
        let list = self.read(&format!("{list}?labelSelector={labelled}")).await?;
        let list = list.context(
            "this cluster has no kind Canary; install Sidetrack first: kubectl apply -k manifests",
        )?;
        let mut items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.insert("apiVersion".into(), Kind::Canary.api_version().into());
            item.insert("kind".into(), Kind::Canary.as_str().into());
        }
        Ok(items)
    }

    /// Returns the address of a Canary.
    #[must_use]
    pub fn uri_of_canary(&self, name: &str) -> String {
        Self::uri_of(&self.namespace, name)
    }

    /// Returns the address of a Canary of any namespace.
    #[must_use]
    pub fn uri_of(namespace: &str, name: &str) -> String {
        path::of(&ObjectRef::new(Kind::Canary, namespace, name))
    }

    /// Reads a Canary as it is stored.
    ///
    /// # Errors
    /// As [`Self::send`], and when it is not there, with those that are.
    pub async fn canary(&self, name: &str) -> anyhow::Result<Value> {
        if let Some(canary) = self.read(&self.uri_of_canary(name)).await? {
            return Ok(canary);
        }
        let others = self.canaries(false, "").await?;
        let others: Vec<&str> = others.iter().filter_map(|c| c.pointer("/metadata/name")?.as_str()).collect();
        let there = if others.is_empty() {
            "it has none; see kubectl sidetrack get -A".to_owned()
        } else {
            format!("it has {}", others.join(", "))
        };
        bail!("there is no Canary {name:?} in namespace {}: {there}", self.namespace)
    }

    /// Reads a Canary.
    ///
    /// # Errors
    /// As [`Self::canary`].
    pub async fn typed(&self, name: &str) -> anyhow::Result<Canary> {
        Ok(serde_json::from_value(self.canary(name).await?)?)
    }

    /// Reads a Deployment of the namespace; `None` when it is not there.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn deployment(&self, name: &str) -> anyhow::Result<Option<Value>> {
        self.read(&path::of(&ObjectRef::new(Kind::Deployment, &self.namespace, name))).await
    }

    /// Reads the stored templates of a Canary.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn snapshots(&self, canary: &str) -> anyhow::Result<Vec<Value>> {
        let list = path::collection(Kind::ControllerRevision, Some(&self.namespace));
        let selector = format!("{}%3D{}", crate::api::keys::CANARY.replace('/', "%2F"), label_value(canary));
        self.items(&format!("{list}?labelSelector={selector}")).await
    }

    /// The settings of the installed controller; defaults where there is none. Who may not read them is told nothing of the shortest
    /// interval, rather than a wrong one.
    pub async fn config(&self) -> Config {
        let at = ObjectRef::new(Kind::Deployment, crate::api::keys::NAMESPACE, workload::NAME);
        match self.read(&path::of(&at)).await {
            Ok(Some(deployment)) => settings::of(&deployment),
            Ok(None) => Config::default(),
            Err(_) => Config { min_interval: Duration::ZERO, ..Config::default() },
        }
    }

    /// Reads all that the tree of a Canary shows.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn tree(&self, name: &str) -> anyhow::Result<Tree> {
        let object = self.canary(name).await?;
        let canary: Canary = serde_json::from_value(object.clone())?;
        let config = self.config().await;
        let writer = Writer::new(self.client.clone(), Leadership::unchallenged());
        let references = Subject::references(&canary, &config);
        let read = join_all(references.iter().map(async |at| (at.clone(), writer.read(at).await))).await;
        let mut objects = Objects::new();
        let mut forbidden = BTreeSet::new();
        for (at, answer) in read {
            match answer {
                Ok(Some(found)) => drop(objects.insert(at, Arc::new(found))),
                Err(error) if error.code() == Some(403) => drop(forbidden.insert(at.kind.as_str())),
                _ => {}
            }
        }
        let of = |kind| path::collection(kind, Some(&self.namespace));
        let (replica_sets, pods) = (of(Kind::ReplicaSet), of(Kind::Pod));
        let (replica_sets, pods) = tokio::join!(self.items(&replica_sets), self.items(&pods));
        let mut shown = |kind: Kind, read: anyhow::Result<Vec<Value>>| match read {
            Err(error) if code(&error) == Some(403) => {
                forbidden.insert(kind.as_str());
                Ok(Vec::new())
            }
            read => read,
        };
        let (replica_sets, pods) = (shown(Kind::ReplicaSet, replica_sets)?, shown(Kind::Pod, pods)?);
        let templates = BTreeMap::new();
        let deployments: Vec<Value> = references
            .iter()
            .filter(|at| at.kind == Kind::Deployment)
            .filter_map(|at| objects.get(at).map(|object| (**object).clone()))
            .collect();
        let subject =
            Subject::new(object, objects, BTreeMap::<String, Snapshot>::new(), &templates, &config)?;
        let observed = subject.observe();
        // The controller knows its settings and all that the Canary depends on; what is seen from here counts only where it has
        // not looked yet.
        let status = canary.status.as_ref().filter(|s| s.observed_generation == canary.metadata.generation);
        let remarks = match status {
            Some(status) => status.warnings.clone(),
            None => observed.refusals.into_iter().chain(observed.warnings).collect(),
        };
        let error = observed.routes.error.filter(|_| forbidden.is_empty());
        let remarks = remarks.into_iter().chain(error).collect();
        let weight = observed.routes.weight.filter(|_| !observed.policy.by_replicas);
        let (steps, interval) = (observed.policy.steps, observed.policy.interval);
        Ok(Tree { canary, weight, steps, interval, forbidden, remarks, deployments, replica_sets, pods })
    }
}

/// The API server refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by the API server ({0})")]
pub struct Refused(pub u16);

/// The HTTP status code of a refusal.
#[must_use]
pub fn code(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refused>().map(|refused| refused.0)
}
