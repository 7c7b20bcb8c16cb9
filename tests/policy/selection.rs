//! What policies select: refused when it makes no sense, audited, limited, and one of two that counts.

use crate::people::person;
use anyhow::{Result, ensure};
use harness::stage::{
    TEAM, enforced, enrolled, in_configuration, named, namespace, phase, policy, runs, said,
};
use harness::{World, at, deployment, service_of, shared};
use serde_json::json;
use sidetrack::api::keys;

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_makes_no_sense_is_refused_with_field_and_reason() -> Result<()> {
    let (world, _) = shared().await;
    for (change, said) in [
        (
            json!({"freeze": [{"schedule": "at noon", "duration": "1h", "reason": "lunch"}]}),
            "spec.freeze[0].schedule: \"at noon\" is no schedule",
        ),
        (
            json!({"freeze": [{"schedule": "0 12 * * *", "timeZone": "Berlin", "duration": "1h", "reason": "lunch"}]}),
            "spec.freeze[0].timeZone: \"Berlin\" is no time zone",
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}}),
            "spec.selector.matchExpressions[0].operator: \"Like\"",
        ),
        (json!({"canary": {"provider": "appmesh"}}), "spec.canary.provider"),
        (json!({"canary": {"analysis": {"mirror": true}}}), "spec.canary.analysis.mirror is true"),
        (json!({"wave": {"after": ["a"], "soak": "long"}}), "spec.wave.soak: \"long\" is no duration"),
        (json!({"mode": "dry"}), "spec.mode"),
    ] {
        let refused = world.cp.apply(policy("senseless", &change)).await;
        let text = format!("{:#}", refused.err().unwrap_or_else(|| anyhow::anyhow!("it was taken")));
        ensure!(text.contains(said), "{change}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_holds_nothing_and_says_what_it_would() -> Result<()> {
    let (world, _) = shared().await;
    world.cp.apply(policy("audit", &json!({"mode": "audit"}))).await?;
    said(world, "audit", "Audit").await?;
    in_configuration(world, "audit", true).await?;
    let ns = namespace(world, "audit").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    runs(world, &ns, "app", "v1").await?;
    let told = world.kubectl_says(&["-n", &ns, "set", "image", "deployment/app", "app=app:v2"]).await?;
    ensure!(told.contains("policy audit would hold revision") && told.contains("it only audits"), "{told}");
    let live = runs(world, &ns, "app", "v2").await?;
    ensure!(!enrolled(&live), "{live:#}");
    ensure!(world.get(&ns, "canary", "app").await?.is_null());
    let told = world.until("", "policy", "audit", "one", |p| at(p, "/status/selected") == 1).await?;
    ensure!(
        at(&told, "/status/conditions/0/message")
            == "It selects 1 Deployment in 1 namespace and holds nothing.",
        "{told:#}"
    );
    // Beforehand, what adopting would do: to it, and to one that something is in the way of.
    for name in ["shop", "shop-canary"] {
        world.flux(service_of(&ns, name)).await?;
        world.flux(named(&ns, name, "v1", 1)).await?;
    }
    world.until("", "policy", "audit", "three", |p| at(p, "/status/selected") == 3).await?;
    let of_policy = world.plugin(&ns, &["status", "--policy", "audit"]).await?;
    ensure!(of_policy.code == 0, "{of_policy:?}");
    for told in [
        "CanaryPolicy audit, mode audit: It selects 3 Deployments in 1 namespace and holds nothing."
            .to_owned(),
        format!("{ns}/app: Deployment app, layout in-place would be adopted:"),
        "  VirtualService app is made".to_owned(),
        format!("{ns}/shop: Deployment shop, layout in-place would be left alone, nothing is touched:"),
        "  Deployment shop-canary exists and was not made for Canary shop".to_owned(),
    ] {
        ensure!(of_policy.out.lines().any(|line| line.starts_with(&told)), "{told}");
    }
    ensure!(
        world.get(&ns, "canary", "shop").await?.is_null() && world.get(&ns, "vs", "app").await?.is_null()
    );
    let unknown = world.plugin(&ns, &["status", "--policy", "adit"]).await?;
    ensure!(
        unknown.code == 1 && unknown.err.contains("there is no CanaryPolicy \"adit\"; there are"),
        "{unknown:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_selects_too_many_says_how_many_and_does_nothing() -> Result<()> {
    let (world, _) = shared().await;
    let ns = namespace(world, "too-many").await?;
    for name in ["a", "b", "c"] {
        world.flux(service_of(&ns, name)).await?;
        world.flux(named(&ns, name, "v1", 1)).await?;
    }
    world.cp.apply(policy("too-many", &json!({"maxTargets": 2}))).await?;
    let told = said(world, "too-many", "TooMany").await?;
    let text = at(&told, "/status/conditions/0/message").as_str().unwrap_or_default();
    ensure!(
        text.starts_with("It would select 3 Deployments in 1 namespace, more than the 2 of spec.maxTargets"),
        "{text}"
    );
    ensure!(at(&told, "/status/enrolled") == 0);
    ensure!(world.list(&ns, "canary", "").await?.is_empty());
    in_configuration(world, "too-many", false).await?;
    world.cp.apply(policy("too-many", &json!({"maxTargets": 3}))).await?;
    for name in ["a", "b", "c"] {
        phase(world, &ns, name, "Initialized").await?;
    }

    // Whoever makes more Deployments than that ends no guard.
    for name in ["d", "e"] {
        world.flux(service_of(&ns, name)).await?;
        world.flux(named(&ns, name, "v1", 1)).await?;
    }
    let told = world
        .until("", "policy", "too-many", "all are enrolled", |p| {
            at(p, "/status/enrolled") == 5 && at(p, "/status/conditions/0/reason") == "Enforced"
        })
        .await?;
    let text = at(&told, "/status/conditions/0/message").as_str().unwrap_or_default();
    ensure!(text.contains("more than the 3 of spec.maxTargets"), "{text}");
    in_configuration(world, "too-many", true).await?;
    world.flux(named(&ns, "a", "v2", 1)).await?;
    world.until(&ns, "canary", "a", "analysed", |c| at(c, "/status/phase") == "Succeeded").await?;
    let dev = person(world, &ns, "dev", &["edit"]).await?;
    let live = world.get(&ns, "deploy", "b").await?;
    let mut glass = named(&ns, "b", "v2", 1);
    let text = format!("{} mine", at(&live, "/metadata/generation"));
    json_patch::merge(&mut glass, &json!({"metadata": {"annotations": {keys::BREAK_GLASS: text}}}));
    let said =
        world.cp.apply_as(&dev, "kubectl", glass).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(said.contains("a break-glass takes the verb break-glass"), "{said}");
    Ok(())
}

async fn maker(world: &World, ns: &str, policy: &str) -> Result<()> {
    world.until(ns, "canary", "app", policy, |c| at(c, "/metadata/ownerReferences/0/name") == policy).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_policies_the_higher_priority_counts_and_then_the_name() -> Result<()> {
    let (world, _) = shared().await;
    let ns = namespace(world, "two-of-them").await?;
    let of_team = json!({"namespaceSelector": {"matchLabels": {TEAM: "two-of-them"}}});
    enforced(world, "two-b", &of_team).await?;
    enforced(world, "two-a", &of_team).await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    maker(world, &ns, "two-a").await?;
    let told = world.until("", "policy", "two-b", "said", |p| !at(p, "/status/others/0").is_null()).await?;
    ensure!(at(&told, "/status/others/0/reason") == "policy two-a comes first", "{told:#}");
    let mut first = of_team.clone();
    json_patch::merge(&mut first, &json!({"priority": 5}));
    world.cp.apply(policy("two-b", &first)).await?;
    maker(world, &ns, "two-b").await?;
    phase(world, &ns, "app", "Initialized").await?;
    // The one that goes leaves the other its place.
    world.delete("", "policy", "two-b").await?;
    world.gone("", "policy", "two-b").await?;
    maker(world, &ns, "two-a").await?;
    phase(world, &ns, "app", "Initialized").await?;
    world.flux(deployment(&ns, "v2", 1)).await?;
    phase(world, &ns, "app", "Succeeded").await?;
    Ok(())
}

/// A policy for everything does not touch what keeps the cluster and Sidetrack alive.
#[tokio::test(flavor = "multi_thread")]
async fn the_namespaces_of_kubernetes_and_of_sidetrack_are_never_selected() -> Result<()> {
    let (world, _) = shared().await;
    let everything = json!({"namespaceSelector": null, "selector": {"matchLabels": {"everything": "yes"}}});
    enforced(world, "everything", &everything).await?;
    let ns = world.cp.namespace("anywhere").await?;
    for namespace in ["kube-system", "sidetrack-system", &ns] {
        let mut app = named(namespace, "everything", "v1", 1);
        json_patch::merge(&mut app, &json!({"metadata": {"labels": {"everything": "yes"}}}));
        world.flux(service_of(namespace, "everything")).await?;
        world.flux(app).await?;
    }
    phase(world, &ns, "everything", "Initialized").await?;
    for namespace in ["kube-system", "sidetrack-system"] {
        ensure!(!enrolled(&world.get(namespace, "deploy", "everything").await?), "{namespace}");
        ensure!(world.get(namespace, "canary", "everything").await?.is_null(), "{namespace}");
    }
    Ok(())
}
