//! A stand-in for scheduler and kubelet: each pod is a real process with an address of its own.
//!
//! What a kubelet does and this does too: bind, run the first container with its environment, probe readiness and liveness, restart
//! with growing delay, `preStop.sleep`, SIGTERM, grace, SIGKILL, and say all of it in the pod's status. What it does not: pull images
//! (a name stands for a program here), volumes, limits, further containers, logs through the API server.

mod container;
mod pod;
mod status;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use ground::say;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The name of the node that every pod is on.
pub const NODE: &str = "lab";

/// The address that the first pod gets; the next pods have those that follow, none is used twice.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 10);

/// What runs in place of an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image's name, without registry and tag.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments before those of the container.
    pub before: Vec<String>,
    /// Its arguments after those of the container; `$(POD_IP)` stands for the pod's address. A container listens on all
    /// addresses of its own network, which is everybody's here.
    pub after: Vec<String>,
    /// Whether it talks to the API server: it then has a kubeconfig with a token of its pod's ServiceAccount.
    pub api: bool,
}

/// What every pod's task needs.
struct Shared {
    client: Client,
    images: Vec<Image>,
    dir: PathBuf,
    /// A kubeconfig in which a user with a token is to be put.
    kubeconfig: serde_json::Value,
    addresses: AtomicU32,
}

impl Shared {
    fn next_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST.to_bits() + self.addresses.fetch_add(1, Ordering::Relaxed))
    }
}

/// A running kubelet; its pods end with this value.
#[derive(Debug)]
pub struct Kubelet {
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Makes the node and starts to run pods. Their output goes to `dir`.
    ///
    /// # Errors
    /// When the API server refuses the node.
    pub async fn start(
        client: Client,
        url: &str,
        ca_pem: &str,
        images: Vec<Image>,
        dir: PathBuf,
    ) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let ca = dir.join("ca.crt");
        std::fs::write(&ca, ca_pem)?;
        make_node(&client).await.context("making the node")?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "pod",
            "clusters": [{ "name": "lab", "cluster": { "server": url, "certificate-authority": ca } }],
            "contexts": [{ "name": "pod", "context": { "cluster": "lab", "user": "pod" } }],
        });
        let context = Shared { client, images, dir, kubeconfig, addresses: AtomicU32::new(0) };
        Ok(Self { task: tokio::spawn(run(Arc::new(context))) })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A pod's task, told of each state that the pod is seen in and, by nothing, of its end.
struct Running {
    seen: watch::Sender<Option<Arc<Pod>>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(context: Arc<Shared>) {
    let mut events = watcher(Api::<Pod>::all(context.client.clone()), watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut pods: HashMap<String, Running> = HashMap::new();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                see(&context, &mut pods, pod);
            }
            Ok(Event::InitDone) => pods.retain(|uid, _| listed.contains(uid)),
            Ok(Event::Apply(pod)) => see(&context, &mut pods, pod),
            Ok(Event::Delete(pod)) => {
                if let Some(uid) = pod.uid() {
                    pods.remove(&uid);
                }
            }
            // The watcher goes on by itself; an API server that is away is an everyday thing here.
            Err(_) => {}
        }
    }
}

fn see(context: &Arc<Shared>, pods: &mut HashMap<String, Running>, pod: Pod) {
    let Some(uid) = pod.uid() else { return };
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let pod = Arc::new(pod);
    match pods.get(&uid) {
        Some(running) => {
            let _ = running.seen.send(Some(pod));
        }
        None => {
            let (seen, receiver) = watch::channel(Some(pod));
            let context = context.clone();
            let task = tokio::spawn(async move {
                if let Err(error) = pod::run(&context, receiver).await {
                    say(&format!("lab: pod {name}: {error:#}"));
                }
            });
            pods.insert(uid, Running { seen, task });
        }
    }
}

async fn make_node(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": NODE, "labels": { "kubernetes.io/hostname": NODE } },
    });
    let params = PatchParams::apply("kubelet").force();
    nodes.patch(NODE, &params, &Patch::Apply(&node)).await?;
    let room = json!({ "cpu": "64", "memory": "64Gi", "pods": "1000" });
    let status = json!({ "status": {
        "capacity": room, "allocatable": room,
        "addresses": [{ "type": "InternalIP", "address": "10.244.0.1" }],
        "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
    } });
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Strategic(&status)).await?;
    Ok(())
}

/// Pause after a request that the API server did not take.
const RETRY: Duration = Duration::from_millis(200);
