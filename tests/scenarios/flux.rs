//! Writers that write again and again what they want: Flux with its very requests, server-side apply without force, and
//! those who say how many pods there shall be. What is as they want it must not move.

use anyhow::{Result, ensure};
use harness::flux::reconcile;
use harness::{World, at, canary, deployment, image, initialized, shared, weight};
use serde_json::{Value, json};

const CLOSED: &str = "http://127.0.0.1:1/";

pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    at(object, &format!("/metadata/annotations/sidetrack.dev~1{key}")).as_str()
}

/// Flux reconciles what is already there: nothing is written, not even the same thing again.
pub(crate) async fn unchanged(world: &World, ns: &str, wanted: &Value, when: &str) -> Result<()> {
    let mark = world.cp.audit().mark().await?;
    for _ in 0..2 {
        ensure!(!reconcile(world, wanted).await?, "Flux would write {when}");
    }
    let requests = world.cp.audit().requests_since(mark, "flux").await?;
    let written =
        requests.iter().find(|r| r.namespace == ns && r.is_write() && !r.uri.contains("dryRun=All"));
    ensure!(written.is_none(), "Flux wrote {when}: {written:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_finds_nothing_to_do_at_each_stage_of_a_release() -> Result<()> {
    let (world, _) = shared().await;
    let hooks = json!([{"name": "gate", "type": "confirm-rollout", "url": CLOSED}]);
    let ns = initialized("flux", &json!({"analysis": {"webhooks": hooks}})).await?;
    let version = |v: &str| deployment(&ns, v, 2);
    unchanged(world, &ns, &version("v1"), "at rest").await?;

    ensure!(reconcile(world, &version("v2")).await?, "a new revision is configured");
    world.phase(&ns, "Waiting").await?;
    unchanged(world, &ns, &version("v2"), "while v2 is held").await?;
    ensure!(reconcile(world, &version("v3")).await?, "v3 supersedes it");
    let held = world.get(&ns, "deploy", "app").await?;
    ensure!(at(&held, "/spec/paused") == true && image(&held) == "app:v3");
    ensure!(annotation(&held, "applied-by") == Some("kustomize-controller flux"));
    unchanged(world, &ns, &version("v3"), "while v3 is held").await?;
    ensure!(reconcile(world, &version("v1")).await?, "a revert while held is configured");
    let free = |d: &Value| annotation(d, "hold").is_none() && at(d, "/spec/paused").as_bool() != Some(true);
    world.until(&ns, "deploy", "app", "the revert is accepted", free).await?;
    world.until(&ns, "canary", "app", "the run is over", |c| at(c, "/status/run").is_null()).await?;
    unchanged(world, &ns, &version("v1"), "after the revert").await?;

    let open = canary(&ns, &json!({"analysis": {"webhooks": [], "stepWeight": 5, "maxWeight": 25}}));
    world.cp.apply(open).await?;
    ensure!(reconcile(world, &version("v2")).await?, "v2 again");
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    unchanged(world, &ns, &version("v2"), "during the analysis").await?;
    let released = world.get(&ns, "deploy", "app").await?;
    ensure!(free(&released) && at(&released, "/spec/replicas") != 0, "released, and left so");
    world.phase(&ns, "Succeeded").await?;
    unchanged(world, &ns, &version("v2"), "after the promotion").await?;

    world.cp.apply(canary(&ns, &json!({"progressDeadlineSeconds": 3, "analysis": {"webhooks": []}}))).await?;
    let mut bad = version("v4");
    let never =
        json!({"progressDeadlineSeconds": 2, "template": {"metadata": {"labels": {"ready": "never"}}}});
    json_patch::merge(&mut bad, &json!({"spec": never}));
    ensure!(reconcile(world, &bad).await?, "v4");
    world.phase(&ns, "Failed").await?;
    world.until(&ns, "canary", "app", "the run is over", |c| at(c, "/status/run").is_null()).await?;
    unchanged(world, &ns, &bad, "after a rollback").await?;
    let failed = world.get(&ns, "deploy", "app").await?;
    ensure!(
        annotation(&failed, "failed").is_some()
            && annotation(&failed, "failed") == annotation(&failed, "hold")
    );
    ensure!(
        at(&world.get(&ns, "canary", "app").await?, "/status/phase") == "Failed",
        "nothing started again"
    );
    Ok(())
}

/// Whether the controller owns no field of the spec that an applier may want.
fn disowned(deployment: &Value) -> bool {
    let entries = at(deployment, "/metadata/managedFields").as_array();
    let ours = entries.into_iter().flatten().filter(|e| at(e, "/manager") == "sidetrack");
    ours.into_iter().all(|e| at(e, "/fieldsV1/f:spec").is_null())
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_without_force_meets_no_conflict() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("unforced").await?;
    let apply = async |manager: &str, version: &str| {
        let path = world.cp.logs().join(format!("{ns}-{version}.json"));
        std::fs::write(&path, deployment(&ns, version, 2).to_string())?;
        let path = path.display().to_string();
        let manager = format!("--field-manager={manager}");
        world.kubectl(&["-n", &ns, "apply", "--server-side", &manager, "-f", &path]).await
    };
    apply("helm", "v1").await?;
    world.cp.apply(canary(&ns, &json!({"analysis": {"stepWeight": 5, "maxWeight": 25}}))).await?;
    world.phase(&ns, "Initialized").await?;
    world.until(&ns, "deploy", "app", "the controller's ownership is given up at rest", disowned).await?;
    apply("helm", "v1").await?;
    apply("helm", "v2").await?;
    world.until(&ns, "vs", "app", "weight on the canary", |vs| weight(vs) > Some(0)).await?;
    let running = world
        .until(&ns, "deploy", "app", "the controller's ownership is given up during a run", disowned)
        .await?;
    ensure!(image(&running) == "app:v2");
    apply("helm", "v2").await?;
    apply("other", "v2").await?;
    apply("helm", "v2").await?;
    let after = world.get(&ns, "deploy", "app").await?;
    ensure!(annotation(&after, "hold").is_none(), "the same again is no new revision");
    world.phase(&ns, "Succeeded").await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    world.until(&ns, "deploy", "app", "the controller's ownership is given up afterwards", disowned).await?;
    apply("other", "v2").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_pods_gets_them_on_the_primary() -> Result<()> {
    let (world, _) = shared().await;
    let hooks = json!([{"name": "gate", "type": "confirm-rollout", "url": CLOSED}]);
    let ns = initialized("replicas", &json!({"analysis": {"webhooks": hooks}})).await?;
    let given = async |what: &str, replicas: i32| {
        world
            .until(&ns, "deploy", "app-primary", &format!("{replicas} pods after {what}"), |d| {
                at(d, "/spec/replicas") == replicas
            })
            .await?;
        let text = replicas.to_string();
        world
            .until(&ns, "deploy", "app", &format!("the target has none after {what}"), |d| {
                at(d, "/spec/replicas") == 0 && annotation(d, "requested-replicas") == Some(text.as_str())
            })
            .await
    };
    given("initialisation", 2).await?;
    world.kubectl(&["-n", &ns, "scale", "deploy/app", "--replicas=3"]).await?;
    given("kubectl scale", 3).await?;
    ensure!(reconcile(world, &deployment(&ns, "v1", 4)).await?, "a number of its own in Git is configured");
    given("replicas in Git", 4).await?;
    unchanged(world, &ns, &deployment(&ns, "v1", 4), "with its replicas recorded").await?;
    let mut silent = deployment(&ns, "v1", 4);
    json_patch::merge(&mut silent, &json!({"spec": {"replicas": null}}));
    unchanged(world, &ns, &silent, "when Git drops replicas").await?;
    world.flux(silent).await?;
    given("a pruned default", 4).await?;
    let said =
        world.kubectl_says(&["-n", &ns, "patch", "deploy/app", "-p", r#"{"spec":{"replicas":5}}"#]).await?;
    ensure!(said.contains("replicas: 5 was recorded for the primary; Canary app sizes app"), "{said}");
    given("a patch", 5).await?;
    let one = "sidetrack.dev/requested-replicas=1";
    world.kubectl(&["-n", &ns, "annotate", "deploy/app", one, "--overwrite"]).await?;
    given("the annotation", 1).await?;
    // The same while a revision is held: its pods are not started by it.
    world.kubectl(&["-n", &ns, "set", "image", "deploy/app", "app=app:v2"]).await?;
    world.phase(&ns, "Waiting").await?;
    world.kubectl(&["-n", &ns, "patch", "deploy/app", "-p", r#"{"spec":{"replicas":2}}"#]).await?;
    let held = world.get(&ns, "deploy", "app").await?;
    ensure!(annotation(&held, "requested-replicas") == Some("2") && at(&held, "/spec/replicas") == 0);
    ensure!(at(&held, "/spec/paused") == true);
    Ok(())
}
