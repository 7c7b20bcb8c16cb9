//! One source for several clusters: Flux applies a commit to all of them at once, the wave releases it in one after the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use axum::Router;
use ground::{ControlPlane, Mark, Options, Server, User};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use lab::flux::{self, Repository};
use lab::parts::Part;
use lab::sample::Traffic;
use lab::{Lab, sidetrack};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::stage::{Stage, at, condition, get, suspend, until};

/// The namespace in each cluster, its policy, and the source.
const NAME: &str = "one-source-three-clusters";
const SOAK: SignedDuration = SignedDuration::from_secs(3);

/// v2 is promoted in one cluster after the other; v3 is refused in the second, and the third never starts it.
pub(crate) async fn one_source_three_clusters(lab: Arc<Lab>) -> Result<String> {
    let (one, two) = futures::try_join!(Spoke::start(&lab, "spoke-one"), Spoke::start(&lab, "spoke-two"))?;
    let clusters = [
        Cluster::new(&lab, "hub", &lab.cp),
        Cluster::new(&lab, "spoke-one", &one.cp),
        Cluster::new(&lab, "spoke-two", &two.cp),
    ];
    let happened = rolls(&clusters).await;
    for name in ["spoke-one", "spoke-two"] {
        suspend(&lab, &format!("{NAME}-{name}")).await?;
    }
    happened
}

async fn rolls(clusters: &[Cluster<'_>; 3]) -> Result<String> {
    let [hub, one, two] = clusters;
    let hook = Hook::start().await?;
    hub.policy(None, &json!([])).await?;
    let load_test = json!([{ "name": "load-test", "type": "rollout", "url": hook.url }]);
    one.policy(Some(hub), &load_test).await?;
    two.policy(Some(one), &json!([])).await?;
    hub.stage.repository.create(&hub.stage.client).await?;
    one.kustomization(hub).await?;
    two.kustomization(hub).await?;

    commit(hub, "v1").await?;
    for cluster in clusters {
        cluster.stage.phase("Initialized").await?;
    }

    let since = marks(clusters).await?;
    commit(hub, "v2").await?;
    two.says("Waiting", "Ready", "waits for its wave: cluster spoke-one ").await?;
    for cluster in clusters {
        cluster.stage.phase("Succeeded").await?;
    }
    let (first, second, third) = (hub.promoted().await?, one.promoted().await?, two.promoted().await?);
    for (cluster, mark, before) in [(one, since[1], first), (two, since[2], second)] {
        let pod = cluster.pods_since(mark).await?.into_iter().min().context("no pod was started")?;
        ensure!(pod >= before + SOAK, "{}: a pod at {pod}, promoted before it at {before}", cluster.name);
    }
    one_write_each(clusters, since).await?;

    hook.refuses.store(true, Ordering::Relaxed);
    let since = marks(clusters).await?;
    commit(hub, "v3").await?;
    one.says("Failed", "Stalled", "load-test").await?;
    let why = two.says("Failed", "Stalled", "was rejected (it was rejected in cluster spoke-one)").await?;
    ensure!(hub.promoted().await? > first, "hub did not promote v3");
    ensure!(two.pods_since(since[2]).await?.is_empty(), "v3 had pods in spoke-two");
    until("spoke-one has pods of v2 only", async || Ok((one.images().await? == ["app:v2"; 2]).then_some(())))
        .await?;
    ensure!(two.images().await? == ["app:v2"; 2], "spoke-two runs {:?}", two.images().await?);
    one_write_each(clusters, since).await?;
    Ok(format!(
        "three Kustomizations of one GitRepository, two by `kubeConfig`, one write of each a commit; v2 promoted in hub, {} s later in spoke-one, {} s later in spoke-two, its pods in none before its turn; v3, refused by a hook in spoke-one, never has a pod in spoke-two: \"{why}\"",
        second.duration_since(first).as_secs(),
        third.duration_since(second).as_secs(),
    ))
}

/// A cluster beside the lab's own, with a Sidetrack as a process; everything ends with this value.
struct Spoke {
    // Who writes goes before who stores.
    _sidetrack: Server,
    cp: ControlPlane,
}

impl Spoke {
    async fn start(lab: &Lab, name: &str) -> Result<Self> {
        let mut crds = sidetrack::crds()?;
        crds.extend(Part::Istio.crds()?);
        let cp = ControlPlane::start(Options {
            crds,
            // Flux is let in here as somebody who may do everything.
            users: vec![User::master(flux::USER)],
            log_dir: Some(lab.dir().join("logs").join(name)),
            ..Options::default()
        })
        .await?;
        let program = Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name("sidetrack");
        let sidetrack = sidetrack::beside(&cp, &program).await.with_context(|| name.to_owned())?;
        Ok(Self { _sidetrack: sidetrack, cp })
    }
}

/// A cluster that the source is applied to.
struct Cluster<'a> {
    name: &'static str,
    cp: &'a ControlPlane,
    stage: Stage,
}

impl<'a> Cluster<'a> {
    fn new(lab: &Arc<Lab>, name: &'static str, cp: &'a ControlPlane) -> Self {
        let mut stage = Stage::new(lab.clone(), NAME, Traffic::Istio);
        stage.client = cp.client_as("person");
        Self { name, cp, stage }
    }

    /// Makes the policy, and what its wave takes; returns when it acts.
    async fn policy(&self, after: Option<&Self>, webhooks: &Value) -> Result<()> {
        if let Some(before) = after {
            self.cp.apply(include_str!("../../../../manifests/peers-role.yaml")).await?;
            self.cp.apply(before.peer_secret().await?).await?;
        }
        let analysis = json!({ "interval": "2s", "threshold": 1, "stepWeight": 25, "maxWeight": 50, "webhooks": webhooks });
        let mut policy = json!({
            "apiVersion": "sidetrack.dev/v1alpha1", "kind": "CanaryPolicy", "metadata": { "name": NAME },
            "spec": {
                "namespaceSelector": { "matchLabels": { "team": NAME } }, "canary": { "analysis": analysis },
            },
        });
        if let (Some(before), Some(Value::Object(spec))) = (after, policy.get_mut("spec")) {
            let wave = json!({ "after": [before.name], "soak": format!("{}s", SOAK.as_secs()) });
            spec.insert("wave".to_owned(), wave);
        }
        self.cp.apply(policy).await?;
        until(&format!("the policy acts in {}", self.name), async || {
            let policy = self.get(&format!("/apis/sidetrack.dev/v1alpha1/canarypolicies/{NAME}")).await?;
            let webhooks =
                "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/sidetrack-policies";
            let asked = self.get(webhooks).await?.to_string().contains(NAME);
            let ready = condition(&policy, "Ready");
            let followed = !at(ready, "/message").as_str().unwrap_or_default().contains("Wave:");
            Ok((asked && followed && at(ready, "/reason") == "Enforced").then_some(()))
        })
        .await
    }

    /// A Secret with a kubeconfig by which another cluster reads this one's Canaries, and nothing else.
    async fn peer_secret(&self) -> Result<Value> {
        self.cp.apply(include_str!("../../../../manifests/peer-reader.yaml")).await?;
        let output =
            self.cp.run_kubectl(&["-n", sidetrack::NAMESPACE, "create", "token", "sidetrack-peer"]).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout)?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": self.name, "namespace": sidetrack::NAMESPACE, "labels": { "sidetrack.dev/peer": "true" },
            },
            "stringData": { "kubeconfig": self.kubeconfig(&json!({ "token": token.trim() })) },
        }))
    }

    /// A kubeconfig that stands for itself.
    fn kubeconfig(&self, user: &Value) -> String {
        let authority = ByteString(self.cp.ca_pem().as_bytes().to_vec());
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": self.name,
            "clusters": [{ "name": self.name, "cluster": {
                "server": self.cp.url(), "certificate-authority-data": authority } }],
            "users": [{ "name": self.name, "user": user }],
            "contexts": [{ "name": self.name, "context": { "cluster": self.name, "user": self.name } }],
        })
        .to_string()
    }

    /// Has the hub's Flux apply the hub's source here too.
    async fn kustomization(&self, hub: &Self) -> Result<()> {
        let name = format!("{NAME}-{}", self.name);
        let file: Value = serde_json::from_slice(&std::fs::read(self.cp.kubeconfig(flux::USER))?)?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": flux::NAMESPACE },
            "stringData": { "value": self.kubeconfig(at(&file, "/users/0/user")) },
        });
        hub.cp.apply(secret).await?;
        let [_, kustomization] = Repository::new(&name)
            .with(json!({
                "sourceRef": { "kind": "GitRepository", "name": NAME },
                "kubeConfig": { "secretRef": { "name": name } },
            }))
            .objects();
        hub.cp.apply(kustomization).await?;
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        get(&self.stage.client, path).await
    }

    /// Waits until the Canary is in a phase, with these words in a condition; returns all of that condition's.
    async fn says(&self, phase: &str, kind: &str, words: &str) -> Result<String> {
        let said = until(&format!("{} is {phase}: {words}", self.name), async || {
            let canary = self.stage.canary().await?;
            let message = at(condition(&canary, kind), "/message").as_str().unwrap_or_default();
            let says = at(&canary, "/status/phase") == phase && message.contains(words);
            Ok(says.then(|| message.to_owned()))
        })
        .await;
        match said {
            Ok(message) => Ok(message),
            Err(error) => Err(error).context(at(&self.stage.canary().await?, "/status").to_string()),
        }
    }

    /// When the last promotion was, by the Canary's status.
    async fn promoted(&self) -> Result<Timestamp> {
        let canary = self.stage.canary().await?;
        let history = at(&canary, "/status/history").as_array();
        let last = history.into_iter().flatten().rfind(|past| at(past, "/outcome") == "Promoted");
        Ok(last.and_then(|past| at(past, "/at").as_str()).context("no promotion")?.parse()?)
    }

    /// When each pod of the application was started since a mark.
    async fn pods_since(&self, mark: Mark) -> Result<Vec<Timestamp>> {
        let all = self.cp.audit().all_since(mark).await?;
        Ok(all.iter().filter(|r| r.namespace == NAME && r.subresource == "binding").map(|r| r.at).collect())
    }

    /// The images of the pods that are not ending.
    async fn images(&self) -> Result<Vec<String>> {
        let pods = self.stage.get("/api/v1", "pods").await?;
        let pods = at(&pods, "/items").as_array().into_iter().flatten();
        let stay = pods.filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null());
        let images = stay.filter_map(|pod| at(pod, "/spec/containers/0/image").as_str());
        Ok(images.map(str::to_owned).collect())
    }
}

async fn commit(hub: &Cluster<'_>, version: &str) -> Result<()> {
    let sample = &hub.stage.sample;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAME, "labels": { "team": NAME } },
    });
    let files = BTreeMap::from([
        ("namespace.yaml".to_owned(), namespace.to_string()),
        ("service.yaml".to_owned(), sample.service().to_string()),
        ("deployment.yaml".to_owned(), sample.deployment(version).to_string()),
    ]);
    hub.stage.commit_files(&files).await.map(drop)
}

async fn marks([hub, one, two]: &[Cluster<'_>; 3]) -> Result<[Mark; 3]> {
    Ok([hub.cp.audit().mark().await?, one.cp.audit().mark().await?, two.cp.audit().mark().await?])
}

/// Flux wrote the Deployment once in each cluster: it finds what it applied, whether that is released or not.
async fn one_write_each(clusters: &[Cluster<'_>; 3], since: [Mark; 3]) -> Result<()> {
    for (cluster, mark) in clusters.iter().zip(since) {
        let requests = cluster.cp.audit().requests_since(mark, flux::USER).await?;
        let of_ours = |r: &&ground::AuditRequest| r.namespace == NAME && r.resource == "deployments";
        let writes = requests
            .iter()
            .filter(of_ours)
            .filter(|r| r.is_write() && r.code < 300 && !r.uri.contains("dryRun"));
        ensure!(writes.clone().count() == 1, "{}: {:#?}", cluster.name, writes.collect::<Vec<_>>());
    }
    Ok(())
}

/// The load test of a cluster's releases; it ends with this value.
struct Hook {
    url: String,
    refuses: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Hook {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let refuses = Arc::new(AtomicBool::new(false));
        let told = refuses.clone();
        let answer = async move || {
            if told.load(Ordering::Relaxed) { StatusCode::FORBIDDEN } else { StatusCode::OK }
        };
        let server = tokio::spawn(async move {
            // Ends with this value only.
            let _ = axum::serve(listener, Router::new().fallback(answer)).await;
        });
        Ok(Self { url, refuses, server })
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}
