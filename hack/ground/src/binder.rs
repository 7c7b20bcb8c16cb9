//! A stand-in for the scheduler: binds each pod without a node to the fake one.

use std::thread;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::go::say;

/// The name of the fake node; a pod template that names it needs no binding.
pub const NODE: &str = "fake-node";

/// Binds pods until dropped, on a thread and runtime of its own: the runtime of the test that started a shared control
/// plane ends long before the control plane does.
pub(crate) struct Binder {
    _stop: oneshot::Sender<()>,
}

impl Binder {
    pub(crate) fn start(config: Config) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("binder".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        result = bind_all(config) => {
                            if let Err(error) = result {
                                say(&format!("ground: pods are no longer bound to the node: {error:#}"));
                            }
                        }
                    }
                });
            })
            .context("starting the binder's thread")?;
        Ok(Self { _stop: stop })
    }
}

async fn bind_all(config: Config) -> Result<()> {
    let client = Client::try_from(config)?;
    let unbound = watcher::Config::default().fields("spec.nodeName=");
    let pods = watcher(Api::<Pod>::all(client.clone()), unbound).default_backoff().applied_objects();
    let pods = pods.filter_map(async |pod| pod.ok().filter(waits_for_a_node));
    pods.map(Ok).try_for_each_concurrent(16, |pod| bind(client.clone(), pod)).await
}

/// A pod with a scheduling gate or another scheduler is not ours to bind.
fn waits_for_a_node(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.spec.as_ref().is_some_and(|spec| {
            spec.node_name.is_none()
                && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
                && spec.scheduler_name.as_deref().is_none_or(|name| name == "default-scheduler")
        })
}

async fn bind(client: Client, pod: Pod) -> Result<()> {
    let name = pod.name_any();
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "name": name, "uid": pod.metadata.uid },
        "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
    });
    let answer: kube::Result<Value> =
        pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
    match answer {
        Ok(_) => Ok(()),
        // Bound already, or deleted meanwhile.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => {
            say(&format!("ground: pod {name} was not bound: {error}"));
            Ok(())
        }
    }
}
