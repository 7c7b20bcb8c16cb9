//! What tests rely on: pods that become ready as their label says, users, and an audit log that counts.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use ground::{ControlPlane, Options, RouterCrds, SIDETRACK, User, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

async fn ground() -> &'static ControlPlane {
    let options = Options {
        router_crds: RouterCrds::ALL.to_vec(),
        users: vec![User::plain("nobody")],
        ..Options::default()
    };
    ground::shared(options).await
}

fn deployment(namespace: &str, name: &str, replicas: u32, labels: Value) -> Value {
    let mut labels = labels;
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("app".to_owned(), json!(name));
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "app", "image": "app:v1" }] },
            },
        },
    })
}

async fn pods(client: &Client, namespace: &str, app: &str) -> Result<Vec<Pod>> {
    let params = ListParams::default().labels(&format!("app={app}"));
    Ok(Api::<Pod>::namespaced(client.clone(), namespace).list(&params).await?.items)
}

/// Returns the time and the value of the condition Ready of a running pod.
fn ready(pod: &Pod) -> Option<(jiff::Timestamp, bool)> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running"))?;
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    Some((condition.last_transition_time.as_ref()?.0, condition.status == "True"))
}

async fn until_ready(client: &Client, namespace: &str, app: &str) -> Result<Vec<Pod>> {
    eventually(&format!("pods of {app} are ready"), PATIENCE, async || {
        let pods = pods(client, namespace, app).await?;
        let all = !pods.is_empty() && pods.iter().all(|pod| ready(pod).is_some_and(|(_, ready)| ready));
        Ok(all.then_some(pods))
    })
    .await
}

async fn until_available(
    deployments: &Api<Deployment>,
    name: &str,
    image: &str,
    replicas: i32,
) -> Result<()> {
    eventually(&format!("{name} has {replicas} pods of {image}"), PATIENCE, async || {
        let found = deployments.get(name).await?;
        let status = found.status.unwrap_or_default();
        let current = status.observed_generation == found.metadata.generation
            && status.updated_replicas.unwrap_or(0) == replicas
            && status.replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas;
        Ok(current.then_some(()))
    })
    .await
}

#[tokio::test]
async fn deployment_rolls_out_updates_and_scales_to_zero() -> Result<()> {
    let cp = ground().await;
    let namespace = cp.namespace("rolls").await?;
    let client = cp.client();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    cp.apply(deployment(&namespace, "app", 3, json!({}))).await?;
    until_available(&deployments, "app", "app:v1", 3).await?;

    let image = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "app", "image": "app:v2" }] } } } });
    deployments.patch("app", &PatchParams::default(), &Patch::Strategic(image)).await?;
    until_available(&deployments, "app", "app:v2", 3).await?;
    let running = until_ready(&client, &namespace, "app").await?;
    assert!(
        running.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("app:v2"))
    );
    let addresses: BTreeSet<_> =
        running.iter().map(|pod| pod.status.as_ref().unwrap().pod_ip.clone()).collect();
    assert_eq!(addresses.len(), 3, "each pod has an address of its own: {addresses:?}");

    let scale = json!({ "spec": { "replicas": 0 } });
    deployments.patch("app", &PatchParams::default(), &Patch::Merge(scale)).await?;
    eventually("no pod is left", PATIENCE, async || {
        Ok(pods(&client, &namespace, "app").await?.is_empty().then_some(()))
    })
    .await
}

#[tokio::test]
async fn readiness_follows_the_label() -> Result<()> {
    let cp = ground().await;
    let namespace = cp.namespace("ready").await?;
    let client = cp.client();
    for (name, labels) in [
        ("never", json!({ "ready": "never" })),
        ("crash", json!({ "ready": "crashloop" })),
        ("web-primary", json!({ "ready": "canaryonly" })),
        ("web", json!({ "ready": "canaryonly" })),
        ("flap", json!({ "ready": "flapping" })),
        ("slow", json!({ "ready": "slow", "ready-after": "4" })),
    ] {
        cp.apply(deployment(&namespace, name, 1, labels)).await?;
    }
    until_ready(&client, &namespace, "web").await?;
    let slow = until_ready(&client, &namespace, "slow").await?;
    let (at, _) = ready(&slow[0]).unwrap();
    let started = slow[0].status.as_ref().unwrap().start_time.as_ref().unwrap().0;
    assert!(at.as_second() - started.as_second() >= 4, "ready at {at}, started at {started}");

    // Created before the slow one, and unready still.
    for app in ["never", "crash", "web-primary"] {
        let pods = pods(&client, &namespace, app).await?;
        assert_eq!(
            pods.iter().map(|pod| ready(pod).map(|(_, ready)| ready)).collect::<Vec<_>>(),
            [Some(false)],
            "{app}"
        );
    }
    let flaps = async |wanted: bool| {
        eventually(&format!("the flapping pod's Ready is {wanted}"), PATIENCE, async || {
            let pods = pods(&client, &namespace, "flap").await?;
            Ok(pods.first().and_then(ready).filter(|(_, ready)| *ready == wanted))
        })
        .await
    };
    flaps(true).await?;
    flaps(false).await?;
    flaps(true).await?;
    eventually("the crashing pod is started again", PATIENCE, async || {
        let pods = pods(&client, &namespace, "crash").await?;
        let container =
            pods[0].status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first().cloned());
        let waits = |state: &k8s_openapi::api::core::v1::ContainerStatus| {
            state.state.as_ref()?.waiting.as_ref()?.reason.clone()
        };
        Ok(container.filter(|c| c.restart_count >= 2 && waits(c).as_deref() == Some("CrashLoopBackOff")))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn audit_counts_each_request_of_one_user() -> Result<()> {
    let cp = ground().await;
    let namespace = cp.namespace("audit").await?;
    let mine: Api<ConfigMap> = Api::namespaced(cp.client_as("counted"), &namespace);
    let others: Api<ConfigMap> = Api::namespaced(cp.client_as("other"), &namespace);
    let map = |name: &str| -> ConfigMap {
        serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
    };

    mine.create(&PostParams::default(), &map("before")).await?;
    let audit = cp.audit();
    let mark = audit.mark().await?;
    for number in 0..50 {
        mine.create(&PostParams::default(), &map(&format!("m{number}"))).await?;
        others.get_opt("m0").await?;
    }
    assert!(mine.get_opt("absent").await?.is_none());
    mine.list(&ListParams::default()).await?;
    let requests = audit.requests_since(mark, "counted").await?;
    let verbs = |verb| requests.iter().filter(|request| request.verb == verb).count();
    assert_eq!((requests.len(), verbs("create"), verbs("get"), verbs("list")), (52, 50, 1, 1));
    assert!(
        requests
            .iter()
            .all(|r| r.namespace == namespace && r.resource == "configmaps" && r.user_agent == "ground")
    );
    let absent = requests.iter().find(|request| request.verb == "get").unwrap();
    assert_eq!((absent.name.as_str(), absent.code, absent.is_write()), ("absent", 404, false));
    assert_eq!(requests.iter().filter(|request| request.is_write()).count(), 50);

    let mark = audit.mark().await?;
    assert_eq!(audit.requests_since(mark, "counted").await?, []);
    mine.get_opt("m1").await?;
    assert_eq!(audit.requests_since(mark, "counted").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn rights_are_those_of_the_user() -> Result<()> {
    let cp = ground().await;
    let namespace = cp.namespace("rights").await?;
    for user in ["nobody", SIDETRACK, "system:serviceaccount:other:account"] {
        let error = Api::<Pod>::namespaced(cp.client_as(user), &namespace)
            .list(&ListParams::default())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&format!("User \"{user}\" cannot list")), "{error}");
    }
    cp.apply(format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: reader, namespace: {namespace}}}
rules: [{{apiGroups: [''], resources: [pods], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: reader, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
subjects:
  - {{kind: ServiceAccount, name: sidetrack, namespace: sidetrack-system}}
"
    ))
    .await?;
    eventually("the binding is in force", PATIENCE, async || {
        Ok(Api::<Pod>::namespaced(cp.client_as(SIDETRACK), &namespace)
            .list(&ListParams::default())
            .await
            .ok())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn token_request_gives_a_token_that_authenticates() -> Result<()> {
    let cp = ground().await;
    let namespace = cp.namespace("token").await?;
    let client = cp.client();
    cp.apply(json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot", "namespace": namespace },
    }))
    .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
    let request: TokenRequest = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
    let answer = accounts.create_token_request("robot", &PostParams::default(), &request).await?;
    let token = answer.status.unwrap().token;
    let review: TokenReview = serde_json::from_value(json!({ "spec": { "token": token } }))?;
    let review = Api::<TokenReview>::all(client).create(&PostParams::default(), &review).await?;
    let user = review.status.unwrap().user.unwrap();
    assert_eq!(user.username, Some(format!("system:serviceaccount:{namespace}:robot")));
    Ok(())
}

#[tokio::test]
async fn router_kinds_are_served_in_every_version() -> Result<()> {
    let cp = ground().await;
    let namespace = cp.namespace("routers").await?;
    for (version, weight) in [("v1alpha1", json!("500m")), ("v1alpha2", json!(50)), ("v1alpha3", json!(50))] {
        cp.apply(json!({
            "apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit",
            "metadata": { "name": version, "namespace": namespace },
            "spec": { "service": "app", "backends": [{ "service": "app-canary", "weight": weight }] },
        }))
        .await?;
    }
    let applied: Vec<DynamicObject> = cp
        .apply(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": { "name": "app", "namespace": namespace },
            "spec": { "hosts": ["app"], "http": [{ "route": [{ "destination": { "host": "app-primary" }, "weight": 100 }] }] },
        }))
        .await?;
    assert_eq!(applied[0].name_any(), "app");
    let applied = cp
        .apply(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "app", "namespace": namespace },
            "spec": { "rules": [{ "backendRefs": [{ "name": "app-primary", "port": 80 }] }] },
        }))
        .await?;
    assert_eq!(applied[0].data["spec"]["rules"][0]["backendRefs"][0]["weight"], 1, "the schema's default");
    Ok(())
}

#[tokio::test]
async fn kubectl_is_the_admin() -> Result<()> {
    let output =
        ground().await.run_kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "admin");
    Ok(())
}
