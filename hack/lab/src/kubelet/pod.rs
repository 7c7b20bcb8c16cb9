//! One pod, from its binding to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::{Either, select};
use ground::{Launch, Server};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::container::{HttpProbe, entry, name_and_tag};
use super::status::{Ended, State, Status};
use super::{NODE, RETRY, Shared};
use crate::clock::now;

/// How often a process is looked at, and a container that is not ready is probed.
const LOOK: Duration = Duration::from_millis(100);
/// Longest pause between two starts of a container that ends again and again.
const BACKOFF: Duration = Duration::from_secs(10);

type Seen = watch::Receiver<Option<Arc<Pod>>>;

/// Runs the pod until it is gone.
pub(super) async fn run(context: &Shared, mut seen: Seen) -> Result<()> {
    let Some(pod) = bound(context, &mut seen).await? else { return Ok(()) };
    let spec = pod.spec.as_ref().context("a pod without spec")?;
    let container = spec.containers.first().context("a pod without container")?.clone();
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
    let at = now();
    let mut this = Life {
        api: Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default()),
        context,
        pod: pod.clone(),
        container,
        status: Status {
            address: address.unwrap_or_else(|| context.next_address()),
            state: State::Waiting("ContainerCreating"),
            ready: false,
            ready_since: at,
            restarts: 0,
            last: None,
            started: at,
        },
    };
    let mut server = None;
    {
        let deleted = std::pin::pin!(deleted(seen.clone()));
        let life = std::pin::pin!(this.live(&mut server));
        match select(life, deleted).await {
            Either::Left((result, _)) => return result,
            Either::Right(((), _)) => {}
        }
    }
    if seen.borrow().is_some() {
        this.end(server, &seen).await?;
    }
    Ok(())
}

/// Waits until the pod has a node, ours, which it is given here; none when it ended before.
async fn bound(context: &Shared, seen: &mut Seen) -> Result<Option<Arc<Pod>>> {
    let mut asked = false;
    loop {
        let Some(pod) = seen.borrow_and_update().clone() else { return Ok(None) };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node.is_some() {
            return Ok((node == Some(NODE)).then_some(pod));
        }
        if !asked {
            asked = bind(context, &pod).await;
            if !asked {
                sleep(RETRY).await;
                continue;
            }
        }
        if seen.changed().await.is_err() {
            return Ok(None);
        }
    }
}

/// Binds the pod; returns whether there is no need to try again.
async fn bind(context: &Shared, pod: &Pod) -> bool {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name, "uid": pod.uid() },
        "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
    });
    let answer: kube::Result<Value> =
        api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
    match answer {
        Ok(_) => true,
        // Bound already, or gone.
        Err(kube::Error::Api(status)) => matches!(status.code, 404 | 409),
        Err(_) => false,
    }
}

/// Ends when the pod is to end, or is gone.
async fn deleted(mut seen: Seen) {
    // An error means that the pod is gone as well.
    let _ =
        seen.wait_for(|pod| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())).await;
}

struct Life<'a> {
    api: Api<Pod>,
    context: &'a Shared,
    pod: Arc<Pod>,
    container: Container,
    status: Status,
}

impl Life<'_> {
    /// Runs the container, again and again.
    async fn live(&mut self, server: &mut Option<Server>) -> Result<()> {
        let reference = self.container.image.clone().unwrap_or_default();
        let (name, _) = name_and_tag(&reference);
        let Some(image) = self.context.images.iter().find(|image| image.name == name) else {
            self.status.state = State::Waiting("ErrImagePull");
            self.tell().await?;
            return std::future::pending().await;
        };
        let address = self.status.address;
        let readiness = HttpProbe::of(self.container.readiness_probe.as_ref(), &self.container, address)?;
        let liveness = HttpProbe::of(self.container.liveness_probe.as_ref(), &self.container, address)?;
        self.tell().await?;
        let kubeconfig = if image.api { Some(self.kubeconfig().await?) } else { None };
        let entry = entry(&self.pod, &self.container, image, address, kubeconfig)?;
        let launch = Launch {
            name: self.pod.name_any(),
            program: entry.program,
            args: entry.args,
            env: Some(entry.env),
            dir: self.context.dir.clone(),
            log: self.context.dir.join(format!("{}.log", self.pod.name_any())),
        };
        let mut pause = Duration::from_secs(1);
        loop {
            let begun = now();
            let server = server.insert(Server::start(&launch)?);
            self.status.state = State::Running(begun);
            let code = self.watch(server, readiness.as_ref(), liveness.as_ref()).await?;
            self.status.last = Some(Ended { code, started: begun, finished: now() });
            self.status.restarts += 1;
            self.status.state = State::Waiting("CrashLoopBackOff");
            self.ready(false).await?;
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF);
        }
    }

    /// Probes a running process until it ends, and returns its exit code.
    async fn watch(
        &mut self,
        server: &mut Server,
        readiness: Option<&HttpProbe>,
        liveness: Option<&HttpProbe>,
    ) -> Result<i32> {
        self.ready(readiness.is_none()).await?;
        let mut asked = None::<Instant>;
        let mut failures = 0;
        let mut alive = (Instant::now(), 0);
        loop {
            if let Some(status) = server.ended() {
                return Ok(status.code().unwrap_or(137));
            }
            if let Some(probe) = readiness {
                let period = if self.status.ready { probe.period.min(Duration::from_secs(1)) } else { LOOK };
                if asked.is_none_or(|at| at.elapsed() >= period) {
                    asked = Some(Instant::now());
                    failures = if probe.ask().await { 0 } else { failures + 1 };
                    if failures == 0 && !self.status.ready {
                        self.ready(true).await?;
                    } else if failures >= probe.failures && self.status.ready {
                        self.ready(false).await?;
                    }
                }
            }
            if let Some(probe) = liveness
                && alive.0.elapsed() >= probe.period
            {
                alive = (Instant::now(), if probe.ask().await { 0 } else { alive.1 + 1 });
                if alive.1 >= probe.failures {
                    server.terminate();
                    alive.1 = 0;
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Ends the pod as it asks to be ended: `preStop.sleep`, SIGTERM, the grace period, SIGKILL.
    async fn end(&mut self, mut server: Option<Server>, seen: &Seen) -> Result<()> {
        let deleted = seen.borrow().clone();
        let grace = deleted.and_then(|pod| pod.metadata.deletion_grace_period_seconds).unwrap_or(30);
        let until = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        if let Some(server) = &mut server {
            let stop = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            let drain = stop.and_then(|stop| stop.sleep.as_ref()).and_then(|s| u64::try_from(s.seconds).ok());
            let drained = Instant::now() + Duration::from_secs(drain.unwrap_or(0));
            while server.ended().is_none() && Instant::now() < drained.min(until) {
                sleep(LOOK / 2).await;
            }
            if server.ended().is_none() {
                server.terminate();
            }
            while server.ended().is_none() && Instant::now() < until {
                sleep(LOOK / 2).await;
            }
        }
        drop(server);
        let uid = self.pod.uid();
        let params = DeleteParams::default().grace_period(0);
        let params = params.preconditions(Preconditions { uid, resource_version: None });
        loop {
            match self.api.delete(&self.pod.name_any(), &params).await {
                Ok(_) => return Ok(()),
                // Gone already, or its successor has the name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    async fn ready(&mut self, ready: bool) -> Result<()> {
        if self.status.ready != ready {
            self.status.ready = ready;
            self.status.ready_since = now();
        }
        self.tell().await
    }

    /// Writes the status, until the API server takes it.
    async fn tell(&self) -> Result<()> {
        let patch = Patch::Strategic(self.status.patch(&self.pod, &self.container));
        loop {
            match self.api.patch_status(&self.pod.name_any(), &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                // Gone, or its successor has the name: the watch will tell.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 422 => {
                    return Err(kube::Error::Api(status)).context("the API server does not take its status");
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Writes a kubeconfig with a fresh token of the pod's ServiceAccount.
    async fn kubeconfig(&self) -> Result<PathBuf> {
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let token = loop {
            match token(&self.context.client, &self.pod, account).await {
                Ok(token) => break token,
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Err(kube::Error::Api(status)).context("asking for its ServiceAccount's token");
                }
                // The account may follow.
                Err(_) => sleep(RETRY).await,
            }
        };
        let mut config = self.context.kubeconfig.clone();
        if let Some(fields) = config.as_object_mut() {
            fields.insert("users".to_owned(), json!([{ "name": "pod", "user": { "token": token } }]));
        }
        let path = self.context.dir.join(format!("{}.kubeconfig", self.pod.name_any()));
        std::fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

async fn token(client: &Client, pod: &Pod, account: &str) -> kube::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let day = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: day, ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default())
}
