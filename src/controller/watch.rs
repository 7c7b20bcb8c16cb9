//! Watches: one a kind, started when the first Canary needs it, feeding the [`Cache`].

use super::cache::{Cache, CanaryKey};
use crate::api::keys;
use crate::kubernetes::path::resource;
use crate::kubernetes::pauses::Pauses;
use crate::object::{Kind, ObjectRef};
use crate::rollout::subject::Snapshot;
use crate::telemetry::log::chain;
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Objects in a page of a list; small pages keep the peak of memory low (the page buffers are the peak).
pub(super) const PAGE: u32 = 50;

/// What a watch tells the loop.
#[derive(Debug)]
pub enum Change {
    /// These Canaries, if any, are to be looked at, and what policies look at may have changed.
    Dirty(Vec<CanaryKey>),
    /// A kind has been listed completely.
    Synced(Kind),
    /// What is cached of a kind may be out of date, until it is listed again.
    Interrupted(Kind),
    /// A watch ended, which none does by itself.
    Ended(Kind),
}

/// The cache as tasks share it; it is locked for moments only, never across an await.
pub type Shared = Arc<Mutex<Cache>>;

/// Locks the cache; a panic elsewhere does not make it unusable, since every entry is whole.
pub fn lock(cache: &Shared) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the cluster serves a kind.
///
/// # Errors
///
/// When the API server cannot be asked.
pub async fn served(client: &Client, kind: Kind) -> Result<bool, kube::Error> {
    let listed = if kind.names().0.is_empty() {
        client.list_core_api_resources(kind.names().1).await
    } else {
        client.list_api_group_resources(&kind.api_version()).await
    };
    match listed {
        Ok(list) => Ok(list.resources.iter().any(|r| r.name == kind.names().3)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Follows a kind for ever.
pub async fn follow(
    client: Client,
    kind: Kind,
    namespace: Option<String>,
    cache: Shared,
    changes: mpsc::Sender<Change>,
) {
    let resource = resource(kind);
    let api: Api<DynamicObject> = match &namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let config = watcher::Config::default().page_size(PAGE);
    let mut pauses = Pauses::default();
    loop {
        let mut stream = watch(api.clone(), config.clone()).boxed();
        let mut seen = HashSet::new();
        let mut changes_told = 0;
        loop {
            let Some(event) = stream.next().await else {
                let _ = changes.send(Change::Ended(kind)).await;
                return;
            };
            let json = |object: DynamicObject| {
                let mut value = serde_json::to_value(object).unwrap_or_default();
                // A list does not repeat kind and version on its items.
                if let Some(map) = value.as_object_mut() {
                    map.insert("apiVersion".into(), kind.api_version().into());
                    map.insert("kind".into(), kind.as_str().into());
                }
                value
            };
            let change = match event {
                Ok(Event::Init) => continue,
                Ok(Event::InitApply(object)) => {
                    let object = json(object);
                    seen.extend(ObjectRef::of_kind(kind, &object));
                    Change::Dirty(lock(&cache).upsert(kind, object))
                }
                Ok(Event::Apply(object)) => Change::Dirty(lock(&cache).upsert(kind, json(object))),
                Ok(Event::Delete(object)) => Change::Dirty(lock(&cache).remove(kind, &json(object))),
                Ok(Event::InitDone) => {
                    pauses = Pauses::default();
                    let dirty = lock(&cache).synced(kind, &seen);
                    seen.clear();
                    if !dirty.is_empty() && changes.send(Change::Dirty(dirty)).await.is_err() {
                        return;
                    }
                    Change::Synced(kind)
                }
                Err(error) => {
                    interrupted(kind, &error, &changes, &mut pauses).await;
                    if matches!(served(&client, kind).await, Ok(false)) {
                        // Its definition was deleted, and its objects with it: nobody waits for their list.
                        let dirty = lock(&cache).unserved(kind);
                        for change in [Change::Dirty(dirty), Change::Synced(kind)] {
                            if changes.send(change).await.is_err() {
                                return;
                            }
                        }
                    }
                    break;
                }
            };
            // No Canary is to be looked at, but the policies may have to be.
            let of_policies = lock(&cache).roster.changes;
            if matches!(&change, Change::Dirty(keys) if keys.is_empty()) && of_policies == changes_told {
                continue;
            }
            changes_told = of_policies;
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// What an interrupted watch has missed is not known, so that nothing is decided until the kind is listed again.
async fn interrupted(
    kind: Kind,
    error: &watcher::Error,
    changes: &mpsc::Sender<Change>,
    pauses: &mut Pauses,
) {
    tracing::warn!(kind = kind.as_str(), "watch interrupted: {}", chain(error));
    let _ = changes.send(Change::Interrupted(kind)).await;
    tokio::time::sleep(pauses.next().unwrap_or_default()).await;
}

/// Follows the metadata of stored templates; their contents are read when they are needed.
pub async fn follow_snapshots(
    client: Client,
    namespace: Option<String>,
    cache: Shared,
    changes: mpsc::Sender<Change>,
) {
    type Stored = PartialObjectMeta<k8s_openapi::api::apps::v1::ControllerRevision>;
    let api: Api<Stored> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let config = watcher::Config::default().page_size(PAGE).labels(keys::CANARY);
    let mut pauses = Pauses::default();
    loop {
        let mut stream = watch(api.clone(), config.clone()).boxed();
        let mut seen = HashSet::new();
        loop {
            let Some(event) = stream.next().await else {
                let _ = changes.send(Change::Ended(Kind::ControllerRevision)).await;
                return;
            };
            let address = |object: &Stored| {
                let label = object.labels().get(keys::CANARY).cloned().unwrap_or_default();
                (object.namespace().unwrap_or_default(), label, object.name_any())
            };
            if let Ok(Event::InitApply(object)) = &event {
                seen.insert(address(object));
            }
            match event {
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    let (namespace, label, name) = address(&object);
                    let created = object.metadata.creation_timestamp.as_ref().map(|t| t.0.to_string());
                    let snapshot = Snapshot {
                        uid: object.uid().unwrap_or_default(),
                        created: created.unwrap_or_default(),
                    };
                    lock(&cache).snapshot(&namespace, &label, &name, snapshot);
                }
                Ok(Event::Delete(object)) => {
                    let (namespace, label, name) = address(&object);
                    lock(&cache).no_snapshot(&namespace, &label, &name);
                    if changes.send(Change::Dirty(vec![(namespace, label)])).await.is_err() {
                        return;
                    }
                }
                Ok(Event::Init) => {}
                Ok(Event::InitDone) => {
                    pauses = Pauses::default();
                    let dirty = lock(&cache).snapshots_listed(&std::mem::take(&mut seen));
                    if !dirty.is_empty() && changes.send(Change::Dirty(dirty)).await.is_err() {
                        return;
                    }
                    if changes.send(Change::Synced(Kind::ControllerRevision)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    interrupted(Kind::ControllerRevision, &error, &changes, &mut pauses).await;
                    break;
                }
            }
        }
    }
}
