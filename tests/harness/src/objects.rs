//! Objects as a person or another controller reads, changes and watches them.

use crate::{PATIENCE, World, at, eventually};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::runtime::utils::{Backoff, StreamBackoff};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use sidetrack::object::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who changes things by hand.
pub const PERSON: &str = "alice";

fn resource(kind: &str) -> Option<ApiResource> {
    let known = match kind {
        "canary" => Kind::Canary,
        "policy" => Kind::CanaryPolicy,
        "namespace" => Kind::Namespace,
        "deploy" => Kind::Deployment,
        "svc" => Kind::Service,
        "secret" => Kind::Secret,
        "hpa" => Kind::HorizontalPodAutoscaler,
        "vs" => sidetrack::router::VIRTUAL_SERVICE,
        "dr" => sidetrack::router::DESTINATION_RULE,
        "controllerrevision" => Kind::ControllerRevision,
        "split:v1alpha1" => sidetrack::router::TRAFFIC_SPLIT_V1ALPHA1,
        "split:v1alpha2" => sidetrack::router::TRAFFIC_SPLIT_V1ALPHA2,
        "split:v1alpha3" => sidetrack::router::TRAFFIC_SPLIT_V1ALPHA3,
        "traefikservice" => sidetrack::router::TRAEFIK_SERVICE,
        "httproute" => sidetrack::router::HTTP_ROUTE,
        "pdb" => return Some(made("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")),
        "pod" => return Some(made("", "v1", "Pod", "pods")),
        "event" => return Some(made("", "v1", "Event", "events")),
        "rs" => return Some(made("apps", "v1", "ReplicaSet", "replicasets")),
        "slice" => return Some(made("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")),
        _ => return None,
    };
    let (group, version, kind, plural) = known.names();
    Some(made(group, version, kind, plural))
}

fn made(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl World {
    /// The objects of a kind by its short name, as [`PERSON`].
    pub fn api(&self, namespace: &str, kind: &str) -> Result<Api<DynamicObject>> {
        let resource = resource(kind).with_context(|| format!("no kind {kind} here"))?;
        let client: Client = self.cp.client_as(PERSON);
        // Kinds that have no namespace are asked for without one.
        if namespace.is_empty() {
            return Ok(Api::all_with(client, &resource));
        }
        Ok(Api::namespaced_with(client, namespace, &resource))
    }

    /// Reads an object; `Null` when it does not exist.
    pub async fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        Ok(self.api(namespace, kind)?.get_opt(name).await?.as_ref().map_or(Value::Null, value))
    }

    /// Reads the objects of a kind with a label selector.
    pub async fn list(&self, namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let all = self.api(namespace, kind)?.list(&ListParams::default().labels(selector)).await?;
        Ok(all.items.iter().map(value).collect())
    }

    /// Waits until an object fulfils a condition, and returns it. Each state that it passes through is seen.
    pub async fn until(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        what: &str,
        fulfils: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher(self.api(namespace, kind)?, config).boxed();
        let mut last = Value::Null;
        let waited = tokio::time::timeout(PATIENCE, async {
            while let Some(event) = events.try_next().await? {
                match event {
                    Event::Init | Event::Delete(_) => last = Value::Null,
                    Event::Apply(object) | Event::InitApply(object) => last = value(&object),
                    Event::InitDone => {}
                }
                if !last.is_null() && fulfils(&last) {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        })
        .await;
        match waited {
            Ok(Ok(())) => Ok(last),
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("{what}: waited in vain; last seen: {last:#}"),
        }
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, namespace: &str, kind: &str, name: &str) -> Result<()> {
        let api = self.api(namespace, kind)?;
        eventually(&format!("{kind} {name} is gone"), async || {
            Ok(api.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Changes an object by a merge patch.
    pub async fn merge(&self, namespace: &str, kind: &str, name: &str, patch: Value) -> Result<Value> {
        let api = self.api(namespace, kind)?;
        let params = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        let changed = api.patch(name, &params, &Patch::Merge(&patch)).await;
        Ok(value(&changed.with_context(|| format!("patching {kind} {name} with {patch}"))?))
    }

    /// Changes an object by a JSON patch.
    pub async fn edit(&self, namespace: &str, kind: &str, name: &str, patch: Value) -> Result<Value> {
        let api = self.api(namespace, kind)?;
        let patch: json_patch::Patch = serde_json::from_value(patch)?;
        let changed = api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
        Ok(value(&changed.with_context(|| format!("editing {kind} {name}"))?))
    }

    /// Creates an object.
    pub async fn create(&self, namespace: &str, kind: &str, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        self.api(namespace, kind)?.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Scales a Deployment through its subresource.
    pub async fn scale(&self, namespace: &str, name: &str, replicas: i32) -> Result<()> {
        let scale = json!({"spec": {"replicas": replicas}});
        let params = PatchParams::default();
        self.api(namespace, "deploy")?.patch_scale(name, &params, &Patch::Merge(&scale)).await?;
        Ok(())
    }

    /// Deletes an object and does not wait.
    pub async fn delete(&self, namespace: &str, kind: &str, name: &str) -> Result<()> {
        self.api(namespace, kind)?.delete(name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// Waits for an Event about Canary `app` with this text in its message; returns the message.
    pub async fn event(&self, namespace: &str, text: &str) -> Result<String> {
        let api = self.api(namespace, "event")?;
        let mut seen = Vec::new();
        let waited = eventually("the Event", async || {
            let all = api.list(&ListParams::default()).await?.items;
            let about = all.iter().map(value).filter(|e| at(e, "/involvedObject/kind") == "Canary");
            seen = about.filter_map(|e| at(&e, "/message").as_str().map(str::to_owned)).collect();
            Ok(seen.iter().find(|m| m.contains(text)).cloned())
        })
        .await;
        waited.with_context(|| format!("{text:?} is not among {seen:#?}"))
    }

    /// Whether there is such an Event now.
    pub async fn has_event(&self, namespace: &str, text: &str) -> Result<bool> {
        let all = self.list(namespace, "event", "").await?;
        Ok(all.iter().any(|e| at(e, "/message").as_str().is_some_and(|m| m.contains(text))))
    }

    /// Begins to record every state of the objects of some kinds.
    pub async fn timeline(&self, namespace: &str, kinds: &[&'static str]) -> Result<Timeline> {
        let timeline =
            Timeline { states: Arc::default(), namespace: namespace.into(), kinds: kinds.to_vec() };
        for kind in kinds {
            // Without a pause a watch on a control plane that has ended would never give way to the runtime's own end; a
            // long one would miss what happens when an API server comes back.
            let events = watcher(self.api(namespace, kind)?, watcher::Config::default());
            let mut events = StreamBackoff::new(events, Soon).boxed();
            let (states, kind) = (timeline.states.clone(), *kind);
            tokio::spawn(async move {
                let (mut there, mut listed) = (BTreeSet::new(), BTreeSet::new());
                while let Some(event) = events.next().await {
                    let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
                    let name = |object: &DynamicObject| object.metadata.name.clone().unwrap_or_default();
                    match event {
                        Ok(Event::Apply(object) | Event::InitApply(object)) => {
                            let (name, object) = (name(&object), value(&object));
                            there.insert(name.clone());
                            listed.insert(name.clone());
                            states.push(State::now(kind, name, version(&object), Some(object)));
                        }
                        Ok(Event::Delete(object)) => {
                            there.remove(&name(&object));
                            states.push(State::now(kind, name(&object), version(&value(&object)), None));
                        }
                        Ok(Event::Init) => listed.clear(),
                        // What was deleted while the API server was away is told by its absence only.
                        Ok(Event::InitDone) => {
                            let now = states.iter().map(|s| s.version).max().unwrap_or(0);
                            let gone: Vec<String> = there.difference(&listed).cloned().collect();
                            there.retain(|name| listed.contains(name));
                            states.extend(gone.into_iter().map(|name| State::now(kind, name, now, None)));
                        }
                        Err(_) => {}
                    }
                }
            });
        }
        timeline.caught_up(self).await?;
        Ok(timeline)
    }
}

/// Pauses of a watch that fails.
struct Soon;

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}

fn version(object: &Value) -> u64 {
    at(object, "/metadata/resourceVersion").as_str().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// One state of one object; resourceVersion orders them all, whatever their kind.
#[derive(Clone, Debug)]
pub struct State {
    /// When, in writes of the store.
    pub version: u64,
    /// Short name of the kind.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// The object; `None` when it was deleted.
    pub object: Option<Value>,
    /// When the watch told of it.
    pub seen: Instant,
}

impl State {
    fn now(kind: &'static str, name: String, version: u64, object: Option<Value>) -> Self {
        Self { version, kind, name, object, seen: Instant::now() }
    }
}

/// All that exists at one moment, by kind and name.
pub type Cluster = BTreeMap<(&'static str, String), Value>;

/// A recording.
pub struct Timeline {
    states: Arc<Mutex<Vec<State>>>,
    namespace: String,
    kinds: Vec<&'static str>,
}

impl Timeline {
    /// The states so far, in the order in which they came to be.
    pub fn states(&self) -> Vec<State> {
        let mut all = self.states.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|s| s.version);
        all.dedup_by(|a, b| {
            let which = |s: &State| (s.version, s.kind, s.name.clone(), s.object.is_some());
            which(a) == which(b)
        });
        all
    }

    /// Waits until everything that there is now has been recorded.
    pub async fn caught_up(&self, world: &World) -> Result<()> {
        for kind in &self.kinds {
            let api = world.api(&self.namespace, kind)?;
            eventually("the recording has caught up", async || {
                let (now, states) = (api.list(&ListParams::default()).await?.items, self.states());
                let recorded = |object: &Value| {
                    let name = at(object, "/metadata/name");
                    states.iter().any(|s| s.kind == *kind && name == &s.name && s.version >= version(object))
                };
                Ok(now.iter().map(value).all(|object| recorded(&object)).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Plays the recording: what existed after each write must obey a law.
    pub async fn obeys(
        &self,
        world: &World,
        mut law: impl FnMut(&Cluster, &State) -> Result<()>,
    ) -> Result<()> {
        self.caught_up(world).await?;
        let mut cluster = Cluster::new();
        for state in self.states() {
            let at = (state.kind, state.name.clone());
            match &state.object {
                Some(object) => drop(cluster.insert(at, object.clone())),
                None => drop(cluster.remove(&at)),
            }
            law(&cluster, &state)
                .with_context(|| format!("after {} {} at {}", state.kind, state.name, state.version))?;
        }
        Ok(())
    }

    /// The distinct values that something about one object took, in order.
    pub async fn values<T: PartialEq>(
        &self,
        world: &World,
        kind: &str,
        name: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.caught_up(world).await?;
        let states = self.states();
        let of = states.iter().filter(|s| s.kind == kind && s.name == name);
        let mut values: Vec<T> = of.filter_map(|s| read(s.object.as_ref()?)).collect();
        values.dedup();
        Ok(values)
    }
}

/// Whether a pod is ready.
pub fn ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|c| at(c, "/type") == "Ready" && at(c, "/status") == "True"))
}

/// The image of a pod.
pub fn pod_image(pod: &Value) -> &str {
    pod.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}

/// The pods of an application (`app` the target, `app-primary` the primary) in a recorded cluster.
pub fn pods_of<'c>(cluster: &'c Cluster, app: &str) -> Vec<&'c Value> {
    cluster
        .iter()
        .filter(|((kind, _), pod)| *kind == "pod" && at(pod, "/metadata/labels/app") == app)
        .map(|(_, pod)| pod)
        .collect()
}

/// The laws that hold at each moment of any release: pods of the target run a revision only when they may, and weight
/// stands on ready pods only.
pub fn lawful(cluster: &Cluster) -> Result<()> {
    let weight = cluster.get(&("vs", "app".to_owned())).and_then(crate::weight).unwrap_or(0);
    if weight > 0 {
        let images: std::collections::BTreeSet<&str> =
            pods_of(cluster, "app").into_iter().map(pod_image).collect();
        ensure!(images.len() <= 1, "weight {weight} while the target has pods of {images:?}");
    }
    Ok(())
}
