//! Who else lives on the pods of the target.

use super::{bare, behind, canary, condition, service, stalled, workload};
use anyhow::{Result, ensure};
use harness::{at, shared};
use serde_json::{Value, json};

fn labels() -> Value {
    json!({"app": "shop", "tier": "web"})
}

async fn prepared(prefix: &str, others: impl Fn(&str) -> Vec<Value>) -> Result<String> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace(prefix).await?;
    world.cp.apply(service(&ns, "shop", &json!({"app": "shop"}))).await?;
    world.cp.apply(workload(&ns, "shop", "app:v1", &labels())).await?;
    for other in others(&ns) {
        world.cp.apply(other).await?;
    }
    world.until(&ns, "deploy", "shop", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    Ok(ns)
}

fn policy(ns: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": ns}, "spec": spec})
}

/// A Service of another name would lead to nobody once the target is scaled down: it is named, and goes on leading to pods.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_calls_the_target_by_another_service_is_cut_off() -> Result<()> {
    let (world, _) = shared().await;
    let ns = prepared("cutoff", |ns| vec![service(ns, "shop-metrics", &json!({"app": "shop"}))]).await?;
    world.cp.apply(canary(&ns, "shop", "primary-copy", &json!({}))).await?;
    let why = stalled(&ns, "shop", "Refused", "Service shop-metrics").await?;
    ensure!(why.contains("who calls shop-metrics would reach nobody"), "{why}");
    ensure!(behind(world, &ns, "shop-metrics").await?.contains_key("shop"));
    ensure!(world.get(&ns, "deploy", "shop-primary").await?.is_null());
    // Selecting by what both kinds of pods have, it follows; and what that means is said.
    world.cp.apply(service(&ns, "shop-metrics", &json!({"tier": "web"}))).await?;
    let canary =
        world.until(&ns, "canary", "shop", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
    let said = at(&canary, "/status/dependants").to_string();
    ensure!(said.contains("Service shop-metrics selects the canary's pods as well"), "{said}");
    ensure!(behind(world, &ns, "shop-metrics").await?.contains_key("shop-primary"));
    Ok(())
}

/// Who may talk to whom is said by labels as well.
#[tokio::test(flavor = "multi_thread")]
async fn network_policies_that_do_not_follow_are_named() -> Result<()> {
    let (world, _) = shared().await;
    let of_shop = json!({"matchLabels": {"app": "shop"}});
    let cases = [
        ("allow-shop", json!({"podSelector": of_shop, "ingress": [{}]})),
        (
            "db",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": of_shop}]}]}),
        ),
    ];
    for (name, spec) in cases {
        for layout in ["primary-copy", "in-place"] {
            let ns = prepared("netpol", |ns| vec![policy(ns, name, &spec)]).await?;
            world.cp.apply(canary(&ns, "shop", layout, &json!({}))).await?;
            if layout == "in-place" {
                let adopted = world
                    .until(&ns, "canary", "shop", "adopted", |c| at(c, "/status/phase") == "Initialized")
                    .await?;
                ensure!(at(&adopted, "/status/dependants").to_string().contains(name), "{adopted:#}");
            } else {
                stalled(&ns, "shop", "Refused", &format!("NetworkPolicy {name}")).await?;
                let both = json!({"matchLabels": {"tier": "web"}});
                let mut follows = policy(&ns, name, &spec);
                for pointer in ["/spec/podSelector", "/spec/ingress/0/from/0/podSelector"] {
                    if let Some(found) = follows.pointer_mut(pointer).filter(|found| **found == of_shop) {
                        *found = both.clone();
                    }
                }
                world.cp.apply(follows).await?;
                world
                    .until(&ns, "canary", "shop", "adopted", |c| at(c, "/status/phase") == "Initialized")
                    .await?;
            }
        }
    }
    Ok(())
}

/// Budgets and autoscalers that do not follow are said, and hold up nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_follow_by_itself_is_said() -> Result<()> {
    let (world, _) = shared().await;
    let ns = prepared("follow", |ns| {
        vec![
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "shop", "namespace": ns},
                "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "shop"}}}}),
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "shop", "namespace": ns},
                "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}, "minReplicas": 2, "maxReplicas": 4}}),
        ]
    })
    .await?;
    let budget = bare(&world.get(&ns, "pdb", "shop").await?);
    world.cp.apply(canary(&ns, "shop", "primary-copy", &json!({}))).await?;
    let adopted =
        world.until(&ns, "canary", "shop", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
    let said = at(&adopted, "/status/dependants").to_string();
    for part in [
        "PodDisruptionBudget shop protects the pods of shop and none of shop-primary",
        "HorizontalPodAutoscaler shop",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    ensure!(bare(&world.get(&ns, "pdb", "shop").await?) == budget);
    // It stays there to be read when the next release is over.
    world.flux(workload(&ns, "shop", "app:v2", &labels())).await?;
    let done =
        world.until(&ns, "canary", "shop", "released", |c| at(c, "/status/phase") == "Succeeded").await?;
    ensure!(at(&done, "/status/dependants") == at(&adopted, "/status/dependants"), "{done:#}");
    Ok(())
}

/// In place nobody makes the application's Service: without it an analysis would judge a revision that met no request.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_for_a_host_that_no_service_has_is_refused() -> Result<()> {
    let (world, _) = shared().await;
    let ns = prepared("nohost", |_| vec![]).await?;
    world.delete(&ns, "svc", "shop").await?;
    world.gone(&ns, "svc", "shop").await?;
    world.cp.apply(service(&ns, "front", &json!({"app": "shop"}))).await?;
    world.cp.apply(canary(&ns, "shop", "in-place", &json!({}))).await?;
    stalled(&ns, "shop", "Refused", "Service shop does not exist").await?;
    ensure!(world.get(&ns, "vs", "shop").await?.is_null());
    world.cp.apply(canary(&ns, "shop", "in-place", &json!({"service": {"name": "front"}}))).await?;
    let adopted =
        world.until(&ns, "canary", "shop", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
    ensure!(condition(&adopted, "Stalled", "Refused").is_none(), "{adopted:#}");
    Ok(())
}

/// Istio does not say which of two VirtualServices for one host counts; and a DestinationRule for the application's host says
/// nothing of the hosts that requests are routed to.
#[tokio::test(flavor = "multi_thread")]
async fn istios_objects_of_other_names_for_the_same_host_are_named() -> Result<()> {
    let (world, _) = shared().await;
    let istio = |ns: &str, kind: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1beta1", "kind": kind, "metadata": {"name": "front", "namespace": ns}, "spec": spec});
    let ns = prepared("samehost", |ns| {
        vec![
            istio(ns, "VirtualService", json!({"hosts": [format!("shop.{ns}.svc.cluster.local")], "http": [{"route": [{"destination": {"host": "shop"}}]}]})),
            istio(ns, "DestinationRule", json!({"host": "shop", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}})),
        ]
    })
    .await?;
    world.cp.apply(canary(&ns, "shop", "in-place", &json!({}))).await?;
    stalled(&ns, "shop", "Refused", "VirtualService front is for host shop already").await?;
    world.delete(&ns, "vs", "front").await?;
    let adopted =
        world.until(&ns, "canary", "shop", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
    ensure!(at(&adopted, "/status/dependants").to_string().contains("DestinationRule front"), "{adopted:#}");
    Ok(())
}
