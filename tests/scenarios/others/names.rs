//! Names that Sidetrack would use, and that somebody else has.

use super::{bare, canary, service, stalled, workload};
use anyhow::{Context as _, Result, ensure};
use harness::{at, deployment, eventually, shared};
use serde_json::{Value, json};

/// The kind by its short name here, and an object of it that stands where Sidetrack would make its own.
fn in_the_way(ns: &str) -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let database = json!({"app": "postgres", "role": "primary"});
    let rule = |name: &str| {
        json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "DestinationRule",
            "metadata": {"name": name, "namespace": ns},
            "spec": {"host": "db", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}})
    };
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "app-primary", "namespace": ns},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "db"}, "maxReplicas": 3}});
    vec![
        ("primary-copy", "deploy", "app-primary", workload(ns, "app-primary", "postgres:17", &database)),
        (
            "in-place",
            "deploy",
            "app-canary",
            workload(ns, "app-canary", "app:v9", &json!({"app": "by-hand"})),
        ),
        ("primary-copy", "svc", "app-primary", service(ns, "app-primary", &database)),
        ("in-place", "svc", "app-primary", service(ns, "app-primary", &database)),
        ("in-place", "svc", "app-canary", service(ns, "app-canary", &database)),
        ("primary-copy", "dr", "app-primary", rule("app-primary")),
        ("in-place", "dr", "app-canary", rule("app-canary")),
        ("primary-copy", "hpa", "app-primary", scaler),
    ]
}

/// Refused by name before anything is touched, whatever it is; adopted when it is gone; and a Canary that leaves leaves it.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_under_a_generated_name_is_somebody_elses() -> Result<()> {
    let (world, _) = shared().await;
    let prepared = in_the_way("").len();
    let cases = (0..prepared).map(async |case| -> Result<()> {
        let ns = world.cp.namespace("names").await?;
        let (layout, kind, name, object) = in_the_way(&ns).remove(case);
        let what = format!("{layout} {kind} {name}");
        let selector = json!({"app": "app"});
        world.cp.apply(service(&ns, "app", &selector)).await?;
        world.cp.apply(deployment(&ns, "v1", 2)).await?;
        world.cp.apply(object).await?;
        let mut scaled = json!({});
        if kind == "hpa" {
            scaled = json!({"autoscalerRef": {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app"}});
            world
                .cp
                .apply(json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "app", "namespace": ns},
                "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                    "minReplicas": 2, "maxReplicas": 3}}))
                .await?;
        }
        world.until(&ns, "deploy", "app", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
        let before = bare(&world.get(&ns, kind, name).await?);
        let target = bare(&world.get(&ns, "deploy", "app").await?);
        world.cp.apply(canary(&ns, "app", layout, &scaled)).await?;
        let why = stalled(&ns, "app", "Refused", name).await.with_context(|| what.clone())?;
        ensure!(why.contains("was not made for"), "{what}: {why}");
        let told = world.plugin(&ns, &["status", "app"]).await?;
        let alone = format!("{ns}/app: Deployment app, layout {layout} would be left alone, nothing is touched:");
        ensure!(told.code == 4 && told.out.contains(&alone), "{what}: {told:?}");
        ensure!(bare(&world.get(&ns, kind, name).await?) == before, "{what} was touched");
        ensure!(bare(&world.get(&ns, "deploy", "app").await?) == target, "{what}: the target was touched");
        ensure!(world.get(&ns, "vs", "app").await?.is_null(), "{what}: a route was made");
        if case % 2 == 0 {
            world.delete(&ns, "canary", "app").await?;
            world.gone(&ns, "canary", "app").await?;
            ensure!(bare(&world.get(&ns, kind, name).await?) == before, "{what} was touched by leaving");
        } else {
            world.delete(&ns, kind, name).await?;
            world.phase(&ns, "Initialized").await.with_context(|| what.clone())?;
        }
        Ok(())
    });
    futures::future::try_join_all(cases).await?;
    Ok(())
}

/// In place a canary's name is free between releases: who takes it keeps it, and the release says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_takes_between_releases_holds_the_next_one() -> Result<()> {
    let (world, _) = shared().await;
    let ns = crate::in_place::adopted("taken", &json!({})).await?;
    let mine = workload(&ns, "app-canary", "app:v9", &json!({"app": "by-hand"}));
    world.cp.apply(mine).await?;
    world.until(&ns, "deploy", "app-canary", "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
    let before = bare(&world.get(&ns, "deploy", "app-canary").await?);
    world.flux(deployment(&ns, "v2", 2)).await?;
    stalled(&ns, "app", "Refused", "Deployment app-canary exists").await?;
    ensure!(bare(&world.get(&ns, "deploy", "app-canary").await?) == before);
    ensure!(at(&world.get(&ns, "deploy", "app").await?, "/spec/paused") == true, "v2 is held meanwhile");
    world.delete(&ns, "deploy", "app-canary").await?;
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}

/// The first of two Canaries that meet in one Service has it, the second touches nothing; when the first leaves it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn two_canaries_do_not_meet_in_one_service() -> Result<()> {
    let (world, _) = shared().await;
    for layout in ["primary-copy", "in-place"] {
        let ns = world.cp.namespace("meet").await?;
        let shared_labels = json!({"tier": "web"});
        world.cp.apply(service(&ns, "web", &shared_labels)).await?;
        for name in ["one", "two"] {
            let labels = json!({"app": name, "tier": "web"});
            world.cp.apply(workload(&ns, name, "app:v1", &labels)).await?;
            world.until(&ns, "deploy", name, "it runs", |d| at(d, "/status/readyReplicas") == 2).await?;
        }
        let before = bare(&world.get(&ns, "deploy", "two").await?);
        let of = |name: &str, service: &str| {
            canary(&ns, name, layout, &json!({"service": {"name": service, "port": 80}}))
        };
        // A Service of both is nobody's to route.
        world.cp.apply(of("one", "web")).await?;
        stalled(&ns, "one", "Refused", "Service web selects").await?;
        world.cp.apply(service(&ns, "web", &json!({"app": "one"}))).await?;
        world.until(&ns, "canary", "one", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
        world.cp.apply(of("two", "web")).await?;
        stalled(&ns, "two", "Refused", "web").await?;
        ensure!(
            bare(&world.get(&ns, "deploy", "two").await?) == before,
            "{layout}: the second target was touched"
        );
        world.delete(&ns, "canary", "one").await?;
        world.gone(&ns, "canary", "one").await?;
        world.cp.apply(service(&ns, "web", &json!({"app": "two"}))).await?;
        world.until(&ns, "canary", "two", "adopted", |c| at(c, "/status/phase") == "Initialized").await?;
    }
    Ok(())
}

/// A stored template cannot be told by its name alone either.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_template_of_somebody_else_is_not_taken_for_ours() -> Result<()> {
    let (world, _) = shared().await;
    let ns = harness::initialized("revisions", &json!({})).await?;
    let stored = world.list(&ns, "controllerrevision", "sidetrack.dev/canary=app").await?;
    let name = stored.first().and_then(|s| at(s, "/metadata/name").as_str()).unwrap_or_default().to_owned();
    world.delete(&ns, "canary", "app").await?;
    world.gone(&ns, "canary", "app").await?;
    eventually("the stored template is gone", async || {
        Ok(world.get(&ns, "controllerrevision", &name).await?.is_null().then_some(()))
    })
    .await?;
    world
        .create(
            &ns,
            "controllerrevision",
            json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": name, "namespace": ns}, "revision": 1, "data": {"mine": true}}),
        )
        .await?;
    let mine = bare(&world.get(&ns, "controllerrevision", &name).await?);
    let target = bare(&world.get(&ns, "deploy", "app").await?);
    world.cp.apply(canary(&ns, "app", "primary-copy", &json!({}))).await?;
    stalled(&ns, "app", "WriteRefused", &name).await?;
    ensure!(bare(&world.get(&ns, "controllerrevision", &name).await?) == mine);
    ensure!(bare(&world.get(&ns, "deploy", "app").await?) == target, "the target was touched");
    world.delete(&ns, "controllerrevision", &name).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(())
}
