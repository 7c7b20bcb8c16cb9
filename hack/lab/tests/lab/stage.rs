//! What a scenario plays on: one application, its repository, the load on it, and what is to be seen of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ground::{AuditRequest, Mark};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use lab::Lab;
use lab::flux::{self, Repository};
use lab::load::{Load, Plan};
use lab::sample::{Sample, Traffic};
use lab::weights::Weights;
use serde_json::Value;

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// One application in a namespace of its own, in a repository of its own.
pub(crate) struct Stage {
    pub(crate) lab: Arc<Lab>,
    pub(crate) sample: Sample,
    pub(crate) repository: Repository,
    pub(crate) client: Client,
    /// More files of the repository.
    pub(crate) files: BTreeMap<String, String>,
}

impl Stage {
    /// Makes the stage; the application is not there yet.
    pub(crate) fn new(lab: Arc<Lab>, name: &str, traffic: Traffic) -> Self {
        let client = lab.cp.client_as("person");
        let sample = Sample::new(name, traffic);
        Self { lab, sample, repository: Repository::new(name), client, files: BTreeMap::new() }
    }

    /// Makes it one whose releases pass without load.
    pub(crate) fn unjudged(mut self) -> Self {
        self.sample.judged = false;
        self
    }

    /// Lets Flux make everything from nothing, and waits until the Canary is initialised.
    pub(crate) async fn initialised(self) -> Result<Self> {
        self.repository.create(&self.client).await?;
        self.commit("v1").await?;
        self.phase("Initialized").await?;
        Ok(self)
    }

    /// Commits Namespace, Deployment and Canary, and what is in `files`.
    pub(crate) async fn commit(&self, version: &str) -> Result<String> {
        self.commit_sample(&self.sample, version).await
    }

    /// Commits another form of the application.
    pub(crate) async fn commit_sample(&self, sample: &Sample, version: &str) -> Result<String> {
        let mut tree = self.files.clone();
        for object in sample.objects(version) {
            let kind = at(&object, "/kind").as_str().unwrap_or_default();
            tree.insert(format!("{kind}.yaml"), object.to_string());
        }
        self.commit_files(&tree).await
    }

    /// Commits files.
    pub(crate) async fn commit_files(&self, tree: &BTreeMap<String, String>) -> Result<String> {
        self.repository.commit(&self.client, self.lab.dir(), tree).await
    }

    /// Reads an object at a path below the namespace's, of the API given; `Null` when there is none.
    pub(crate) async fn get(&self, api: &str, path: &str) -> Result<Value> {
        get(&self.client, &format!("{api}/namespaces/{}/{path}", self.sample.namespace)).await
    }

    /// Reads the Canary.
    pub(crate) async fn canary(&self) -> Result<Value> {
        self.get("/apis/flagger.app/v1beta1", "canaries/app").await
    }

    /// Reads a Deployment.
    pub(crate) async fn deployment(&self, name: &str) -> Result<Value> {
        self.get("/apis/apps/v1", &format!("deployments/{name}")).await
    }

    /// Reads the Kustomization.
    pub(crate) async fn kustomization(&self) -> Result<Value> {
        let path = format!("kustomizations/{}", self.repository.name);
        get(
            &self.client,
            &format!("/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/{}/{path}", flux::NAMESPACE),
        )
        .await
    }

    /// Reads the messages of the Canary's Events.
    pub(crate) async fn events(&self) -> Result<Vec<String>> {
        let events = self.get("/api/v1", "events?fieldSelector=involvedObject.kind%3DCanary").await?;
        let messages =
            at(&events, "/items").as_array().into_iter().flatten().map(|event| at(event, "/message"));
        Ok(messages.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Waits for a phase of the Canary.
    pub(crate) async fn phase(&self, phase: &str) -> Result<Value> {
        let what = format!("Canary {}/app is {phase}", self.sample.namespace);
        let result = until(&what, async || {
            let canary = self.canary().await?;
            Ok((at(&canary, "/status/phase") == phase).then_some(canary))
        })
        .await;
        match result {
            Ok(canary) => Ok(canary),
            Err(error) => bail!("{error:#}; it is {}", at(&self.canary().await?, "/status")),
        }
    }

    /// Waits until the canary has a weight, or more.
    pub(crate) async fn weight(&self, least: i64) -> Result<()> {
        let what = format!("Canary {}/app has weight {least}", self.sample.namespace);
        until(&what, async || {
            let weight = at(&self.canary().await?, "/status/canaryWeight").as_i64();
            Ok((weight >= Some(least)).then_some(()))
        })
        .await
    }

    /// Waits until Flux has applied a revision, or failed to: its Ready condition then is of that revision.
    pub(crate) async fn flux_says(&self, revision: &str, status: &str) -> Result<Value> {
        let what = format!("Kustomization {} is Ready={status} at {revision}", self.repository.name);
        let result = until(&what, async || {
            let kustomization = self.kustomization().await?;
            let ready = condition(&kustomization, "Ready");
            let attempted = at(&kustomization, "/status/lastAttemptedRevision") == revision;
            Ok((attempted && at(ready, "/status") == status).then(|| ready.clone()))
        })
        .await;
        match result {
            Ok(ready) => Ok(ready),
            Err(error) => bail!("{error:#}; it is {}", at(&self.kustomization().await?, "/status")),
        }
    }

    /// Starts load, and returns when the first answers have come.
    pub(crate) async fn load(&self, rate: u32) -> Result<Load> {
        let plan = Plan {
            to: self.sample.traffic.address().parse()?,
            host: self.sample.host(),
            rate,
            count: 100_000,
            time: Duration::from_secs(230),
        };
        // The gateway learns the route a moment after it is written.
        let mut one = plan.clone();
        one.count = 1;
        until("the gateway answers", async || {
            let load = Load::start(one.clone())?;
            Ok(load.stop().await.iter().any(|sample| sample.status == Some(200)).then_some(()))
        })
        .await?;
        Load::start(plan)
    }

    /// Starts to watch the canary's weight in the route.
    pub(crate) fn weights(&self) -> Weights {
        Weights::watch(self.client.clone(), &self.sample)
    }

    /// Returns who wrote what in our namespace since a mark, dry runs left out.
    pub(crate) async fn writes_since(&self, mark: Mark) -> Result<Vec<AuditRequest>> {
        let mut all = self.lab.cp.audit().all_since(mark).await?;
        all.retain(|r| r.namespace == self.sample.namespace && r.is_write() && !r.uri.contains("dryRun"));
        Ok(all)
    }

    /// Waits until nobody has written anything for two seconds.
    pub(crate) async fn settled(&self) -> Result<()> {
        let mut mark = self.lab.cp.audit().mark().await?;
        let mut since = Instant::now();
        until("nobody writes any more", async || {
            if !self.writes_since(mark).await?.is_empty() {
                mark = self.lab.cp.audit().mark().await?;
                since = Instant::now();
            }
            Ok((since.elapsed() > Duration::from_secs(2)).then_some(()))
        })
        .await
    }

    /// Returns how often Flux looked at the Deployment since a mark.
    pub(crate) async fn looks_since(&self, mark: Mark) -> Result<usize> {
        let all = self.lab.cp.audit().requests_since(mark, flux::USER).await?;
        let looks = all.iter().filter(|r| {
            r.namespace == self.sample.namespace && r.resource == "deployments" && r.uri.contains("dryRun")
        });
        Ok(looks.count())
    }
}

/// A value in an object; `Null` when it is not there.
pub(crate) fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// A condition in an object's status; `Null` when it is not there.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = at(object, "/status/conditions").as_array().into_iter().flatten();
    all.into_iter().find(|condition| at(condition, "/type") == kind).unwrap_or(&Value::Null)
}

/// The image of a Deployment's container.
pub(crate) fn image(deployment: &Value) -> &str {
    at(deployment, "/spec/template/spec/containers/0/image").as_str().unwrap_or_default()
}

/// Waits for a condition.
pub(crate) async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    ground::eventually(what, PATIENCE, probe).await
}

/// Reads an object; `Null` when there is none.
pub(crate) async fn get(client: &Client, path: &str) -> Result<Value> {
    let request = http::Request::get(path).body(Vec::new())?;
    match client.request(request).await {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

/// Lets Flux rest: its looks at one scenario's objects take time from those that follow.
pub(crate) async fn suspend(lab: &Lab, name: &str) -> Result<()> {
    let kind = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
    let resource = ApiResource::from_gvk_with_plural(&kind, "kustomizations");
    let api: Api<DynamicObject> = Api::namespaced_with(lab.cp.client(), flux::NAMESPACE, &resource);
    let patch = Patch::Merge(serde_json::json!({ "spec": { "suspend": true } }));
    match api.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// Resident memory of everything, by the process.
pub(crate) fn memory(lab: &Lab) -> Result<String> {
    let mut total = 0;
    let mut parts = Vec::new();
    for (name, pid) in lab.processes() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 =
            line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
        total += kib / 1024;
        parts.push(format!("{name} {}", kib / 1024));
    }
    Ok(format!("{total} MiB in all ({})", parts.join(", ")))
}
