//! Leader election and self-managed certificates on a real API server, with no more rights than they need.

use anyhow::{Context as _, Result, bail, ensure};
use axum::routing::post;
use axum::{Json, Router};
use ground::{ControlPlane, Options, eventually};
use jiff::SignedDuration;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sidetrack::kubernetes::election::{Claim, Election, ElectionError, Leadership};
use sidetrack::kubernetes::lease::Settings as LeaseSettings;
use sidetrack::kubernetes::serve::{Limits, Shutdown, serve_tls};
use sidetrack::tls::issue::{self, Material};
use sidetrack::tls::keep::{Keeper, Settings};
use sidetrack::tls::plan::Policy;
use sidetrack::tls::resolver::{Resolver, server_config};
use sidetrack::tls::{inject, store};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "sidetrack-webhook-tls";

async fn ground() -> &'static ControlPlane {
    ground::shared(Options { kwok: false, ..Options::default() }).await
}

/// Returns a namespace and the user name of a ServiceAccount in it that has the rights of a Sidetrack.
async fn sandbox(cp: &ControlPlane) -> Result<(String, String)> {
    let namespace = cp.namespace("runtime").await?;
    let subjects = json!([{"kind": "ServiceAccount", "name": "sidetrack", "namespace": namespace}]);
    let role = |kind: &str, rules: Value| {
        let binding = format!("{kind}Binding");
        let scope = if kind == "Role" { json!(namespace) } else { Value::Null };
        [
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "rules": rules,
                   "metadata": {"name": namespace, "namespace": scope}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": binding, "subjects": subjects,
                   "metadata": {"name": namespace, "namespace": scope},
                   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": namespace}}),
        ]
    };
    let own = role(
        "Role",
        json!([
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET],
             "verbs": ["get", "list", "watch", "update"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["sidetrack"],
             "verbs": ["get", "update"]},
            // A name cannot limit a creation.
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        ]),
    );
    let cluster = role(
        "ClusterRole",
        json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
                "resourceNames": [namespace], "verbs": ["get", "list", "watch", "patch"]}]),
    );
    for object in own.into_iter().chain(cluster) {
        cp.apply(object).await?;
    }
    let user = format!("system:serviceaccount:{namespace}:sidetrack");
    Ok((namespace, user))
}

struct Contender {
    leadership: Leadership,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ElectionError>>,
}

fn contend(cp: &ControlPlane, user: &str, namespace: &str, identity: &str) -> Result<Contender> {
    let settings = LeaseSettings {
        lease: Duration::from_secs(4),
        renew_deadline: Duration::from_secs(3),
        retry: Duration::from_millis(500),
        ..LeaseSettings::new(identity)
    };
    let election = Election::new(cp.client_as(user), namespace, "sidetrack", settings)?;
    let (leadership, stop) = (election.leadership(), CancellationToken::new());
    let task = tokio::spawn(election.run(stop.clone()));
    Ok(Contender { leadership, stop, task })
}

async fn holder(api: &Api<Lease>) -> Result<(String, i32)> {
    let spec = api.get("sidetrack").await?.spec.context("no spec")?;
    Ok((spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or(-1)))
}

#[tokio::test]
async fn standby_takes_over_from_a_dead_leader_only_when_that_one_no_longer_may_write() -> Result<()> {
    let cp = ground().await;
    let (namespace, user) = sandbox(cp).await?;
    let leases: Api<Lease> = Api::namespaced(cp.client(), &namespace);
    let mut first = contend(cp, &user, &namespace, "first")?;
    tokio::time::timeout(PATIENCE, first.leadership.turned(false)).await?;
    let mut second = contend(cp, &user, &namespace, "second")?;
    let renewals = first.leadership.claims();
    eventually("the first has renewed twice beside a second one", PATIENCE, async || {
        ensure!(!second.leadership.may_write(), "two leaders");
        Ok((holder(&leases).await? == ("first".to_owned(), 0)
            && second_has_looked(&cp.client(), &namespace).await?)
            .then_some(()))
    })
    .await?;
    first.task.abort();
    let Claim::Held { until } = *renewals.borrow() else { bail!("the first did not lead") };
    tokio::time::timeout(PATIENCE, second.leadership.turned(false)).await?;
    ensure!(Instant::now() >= until, "taken before the first one's deadline");
    ensure!(holder(&leases).await? == ("second".to_owned(), 1));
    Ok(())
}

/// The Lease has been renewed since it was taken.
async fn second_has_looked(client: &kube::Client, namespace: &str) -> Result<bool> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let spec = api.get("sidetrack").await?.spec.context("no spec")?;
    let (taken, renewed) = (spec.acquire_time.context("no time")?.0, spec.renew_time.context("no time")?.0);
    Ok(renewed.duration_since(taken) >= SignedDuration::from_secs(1))
}

#[tokio::test]
async fn lease_given_back_is_taken_at_once_and_one_taken_away_ends_the_holder() -> Result<()> {
    let cp = ground().await;
    let (namespace, user) = sandbox(cp).await?;
    let leases: Api<Lease> = Api::namespaced(cp.client(), &namespace);
    let mut first = contend(cp, &user, &namespace, "first")?;
    tokio::time::timeout(PATIENCE, first.leadership.turned(false)).await?;
    first.stop.cancel();
    first.task.await??;
    ensure!(!first.leadership.may_write());
    ensure!(holder(&leases).await?.0.is_empty());
    let mut second = contend(cp, &user, &namespace, "second")?;
    tokio::time::timeout(PATIENCE, second.leadership.turned(false)).await?;
    ensure!(holder(&leases).await? == ("second".to_owned(), 1));
    let thief = json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 60}});
    leases.patch("sidetrack", &PatchParams::default(), &Patch::Merge(thief)).await?;
    let ended = tokio::time::timeout(PATIENCE, second.task).await??;
    ensure!(matches!(&ended, Err(ElectionError::Lost { holder, .. }) if holder == "thief"), "{ended:?}");
    ensure!(!second.leadership.may_write());
    Ok(())
}

/// A replica: a webhook server that admits everything, and the keeper of its certificates.
struct Replica {
    url: String,
    resolver: Arc<Resolver>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Replica {
    async fn start(cp: &ControlPlane, user: &str, namespace: &str, policy: Policy) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://127.0.0.1:{}/mutate", listener.local_addr()?.port());
        let (resolver, stop) = (Arc::new(Resolver::default()), CancellationToken::new());
        let app = Router::new().route("/mutate", post(admit));
        let shutdown = Shutdown { drain: stop.clone(), stop: stop.clone(), deadline: Duration::from_secs(5) };
        let tls = Arc::new(server_config(resolver.clone())?);
        let settings = Settings {
            namespace: namespace.to_owned(),
            secret: SECRET.to_owned(),
            configuration: namespace.to_owned(),
            names: issue::names("sidetrack", namespace, &["127.0.0.1".to_owned()]),
            policy,
        };
        let client = cp.client_as(user);
        let keeper = Keeper::new(client, settings, resolver.clone(), Leadership::unchallenged(), |_| {});
        let kept = stop.clone();
        let tasks = vec![
            tokio::spawn(async move {
                serve_tls(listener, tls, app, Limits::default(), shutdown).await;
                Ok(())
            }),
            tokio::spawn(async move { Ok(keeper.run(kept).await?) }),
        ];
        Ok(Self { url, resolver, stop, tasks })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn admit(Json(review): Json<Value>) -> Json<Value> {
    let response = json!({"uid": review.pointer("/request/uid"), "allowed": true});
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

/// A configuration with one entry a URL, for ConfigMaps of one namespace.
fn configuration(namespace: &str, urls: &[&str]) -> Value {
    let entry = |(index, url): (usize, &&str)| {
        json!({
            "name": format!("w{index}.sidetrack.dev"),
            "clientConfig": {"url": url},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                       "resources": ["configmaps"], "scope": "Namespaced"}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 5,
            "admissionReviewVersions": ["v1"],
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": urls.iter().enumerate().map(entry).collect::<Vec<_>>(),
    })
}

/// Creates a ConfigMap, which needs an answer from every entry of the configuration.
async fn knock(cp: &ControlPlane, namespace: &str) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(cp.client(), namespace);
    let mut object = ConfigMap::default();
    object.metadata.generate_name = Some("knock-".to_owned());
    api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.map(|_| ())
}

async fn held(cp: &ControlPlane, namespace: &str) -> Result<Option<Material>> {
    let api: Api<Secret> = Api::namespaced(cp.client(), namespace);
    Ok(api.get_opt(SECRET).await?.as_ref().and_then(store::material))
}

/// Waits until the API server trusts what the Secret holds, and returns that.
async fn settled(cp: &ControlPlane, namespace: &str) -> Result<Material> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cp.client());
    eventually("the configuration carries the Secret's bundle", PATIENCE, async || {
        let (configuration, material) = (api.get(namespace).await?, held(cp, namespace).await?);
        Ok(material.filter(|m| inject::carries(&configuration, &m.bundle)))
    })
    .await
}

#[tokio::test]
async fn two_replicas_that_start_at_once_share_one_secret() -> Result<()> {
    let cp = ground().await;
    let (namespace, user) = sandbox(cp).await?;
    let one = Replica::start(cp, &user, &namespace, Policy::default()).await?;
    let other = Replica::start(cp, &user, &namespace, Policy::default()).await?;
    eventually("both serve", PATIENCE, async || {
        Ok((one.resolver.is_set() && other.resolver.is_set()).then_some(()))
    })
    .await?;
    cp.apply(configuration(&namespace, &[&one.url, &other.url])).await?;
    let material = settled(cp, &namespace).await?;
    eventually("the API server reaches both", PATIENCE, async || Ok(knock(cp, &namespace).await.ok()))
        .await?;
    let secret: Secret = Api::namespaced(cp.client(), &namespace).get(SECRET).await?;
    ensure!(secret.type_.as_deref() == Some("kubernetes.io/tls"));
    one.stop().await?;
    other.stop().await?;
    // What was there before is taken up, not made anew. The manifest has an entry less: we own nothing of it.
    let third = Replica::start(cp, &user, &namespace, Policy::default()).await?;
    cp.apply(configuration(&namespace, &[&third.url])).await?;
    eventually("the API server reaches it", PATIENCE, async || Ok(knock(cp, &namespace).await.ok())).await?;
    ensure!(held(cp, &namespace).await?.as_ref() == Some(&material));
    third.stop().await
}

#[tokio::test]
async fn bundle_that_is_wiped_and_secret_that_is_deleted_come_back_as_they_were() -> Result<()> {
    let cp = ground().await;
    let (namespace, user) = sandbox(cp).await?;
    let replica = Replica::start(cp, &user, &namespace, Policy::default()).await?;
    let manifest = configuration(&namespace, &[&replica.url]);
    cp.apply(manifest.clone()).await?;
    let material = settled(cp, &namespace).await?;
    let api: Api<MutatingWebhookConfiguration> = Api::all(cp.client());

    eventually("the fields have no owner", PATIENCE, async || {
        let owners = api.get(&namespace).await?.metadata.managed_fields.unwrap_or_default();
        Ok((!owners.iter().any(|o| o.manager.as_deref() == Some(inject::FIELD_MANAGER))).then_some(()))
    })
    .await?;

    // Somebody applies the manifest again, without a bundle: ours stays.
    let before = api.get(&namespace).await?;
    cp.apply_as("flux", "kustomize-controller", manifest.clone()).await?;
    ensure!(inject::carries(&api.get(&namespace).await?, &material.bundle));
    ensure!(before.webhooks == api.get(&namespace).await?.webhooks);

    // Somebody replaces it: the bundle is wiped, and comes back.
    let version = api.get(&namespace).await?.resource_version();
    let mut replace = cp.kubectl(&["replace", "-f", "-"]);
    let mut child = replace.stdin(std::process::Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(manifest.to_string().as_bytes()).await?;
    ensure!(child.wait().await?.success());
    ensure!(api.get(&namespace).await?.resource_version() != version, "nothing was replaced");
    ensure!(settled(cp, &namespace).await? == material);
    eventually("the API server reaches it", PATIENCE, async || Ok(knock(cp, &namespace).await.ok())).await?;

    // Somebody deletes the Secret, or writes rubbish into it: the same certificates are put back.
    let secrets: Api<Secret> = Api::namespaced(cp.client(), &namespace);
    secrets.delete(SECRET, &DeleteParams::default()).await?;
    let back = async || Ok(held(cp, &namespace).await?.filter(|m| *m == material));
    eventually("the Secret is back", PATIENCE, back).await?;
    let rubbish = json!({"data": {"ca.key": "eA=="}});
    secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(rubbish)).await?;
    eventually("the Secret is mended", PATIENCE, back).await?;
    replica.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_of_the_authority_fails_no_request_of_the_real_api_server() -> Result<()> {
    let cp = ground().await;
    let (namespace, user) = sandbox(cp).await?;
    let policy = Policy {
        authority_life: SignedDuration::from_secs(40),
        leaf_life: SignedDuration::from_secs(20),
        backdate: SignedDuration::from_secs(5),
        settle: SignedDuration::from_secs(2),
        overlap: SignedDuration::from_secs(2),
    };
    let replica = Replica::start(cp, &user, &namespace, policy).await?;
    cp.apply(configuration(&namespace, &[&replica.url])).await?;
    let first = settled(cp, &namespace).await?;
    eventually("the API server reaches it", PATIENCE, async || Ok(knock(cp, &namespace).await.ok())).await?;
    let mut knocks = 0_u32;
    eventually("the first authority has left the bundle", 2 * PATIENCE, async || {
        knock(cp, &namespace).await.context("a request failed during the rotation")?;
        knocks += 1;
        Ok(held(cp, &namespace).await?.filter(|m| !m.bundle.contains(first.bundle.trim())))
    })
    .await?;
    ensure!(knocks > 50, "only {knocks} requests");
    replica.stop().await
}
