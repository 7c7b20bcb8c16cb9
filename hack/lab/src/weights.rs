//! The canary's weights as they are seen in the route, and the requests that were sent while each was set.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::load::Sample as Request;
use crate::sample::{INTERVAL, Sample, Traffic};

/// A gateway takes a moment to hear of a weight.
const MOMENT: Duration = Duration::from_secs(1);

/// A watch of an application's route. It ends with this value.
#[derive(Debug)]
pub struct Weights {
    seen: Arc<Mutex<Vec<(Instant, i64)>>>,
    task: JoinHandle<()>,
}

impl Weights {
    /// Starts to watch.
    #[must_use]
    pub fn watch(client: Client, sample: &Sample) -> Self {
        let traffic = sample.traffic;
        let (group, version, kind, plural) = match traffic {
            Traffic::Istio => ("networking.istio.io", "v1", "VirtualService", "virtualservices"),
            Traffic::Gateway => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Traffic::Traefik => ("traefik.io", "v1alpha1", "TraefikService", "traefikservices"),
        };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let routes: Api<DynamicObject> = Api::namespaced_with(client, &sample.namespace, &resource);
        let seen = Arc::new(Mutex::new(Vec::<(Instant, i64)>::new()));
        let task_seen = seen.clone();
        let task = tokio::spawn(async move {
            let mut events =
                watcher(routes, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(event) = events.next().await {
                let Ok(route) = event else { continue };
                let weight = canary_weight(&route.data, traffic);
                let mut seen = task_seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last().is_none_or(|(_, last)| *last != weight) {
                    seen.push((Instant::now(), weight));
                }
            }
        });
        Self { seen, task }
    }

    /// Returns each weight, and when it was first seen.
    #[must_use]
    pub fn so_far(&self) -> Vec<(Instant, i64)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the requests that were sent while a weight was set, its first second left out, and what came after its step: the
    /// last weight stands on while the primary's pods become the canary's revision.
    #[must_use]
    pub fn windows(&self, requests: &[Request]) -> Vec<(i64, Vec<Request>)> {
        let seen = self.so_far();
        let ends = seen.iter().skip(1).map(|(at, _)| *at).chain([Instant::now()]);
        seen.iter()
            .zip(ends)
            .map(|((from, weight), to)| {
                let (from, to) = (*from + MOMENT, to.min(*from + INTERVAL));
                (*weight, requests.iter().filter(|r| r.at >= from && r.at + r.took < to).cloned().collect())
            })
            .collect()
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn canary_weight(route: &Value, traffic: Traffic) -> i64 {
    let (list, name) = match traffic {
        Traffic::Istio => ("/spec/http/0/route", "/destination/host"),
        Traffic::Gateway => ("/spec/rules/0/backendRefs", "/name"),
        Traffic::Traefik => ("/spec/weighted/services", "/name"),
    };
    let all = route.pointer(list).and_then(Value::as_array).into_iter().flatten();
    let canary =
        all.filter(|to| to.pointer(name).and_then(Value::as_str).is_some_and(|n| n.contains("-canary")));
    canary.filter_map(|to| to.get("weight").and_then(Value::as_i64)).sum()
}
