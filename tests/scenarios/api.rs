//! What the API server makes of our kinds, and what a Canary says of itself.

use anyhow::{Context as _, Result, bail, ensure};
use harness::{at, canary, deployment, image, initialized, shared};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::pinned_kind;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// An object, and what becomes of it.
#[derive(Deserialize)]
struct Variant {
    name: String,
    expect: String,
    names: Option<String>,
    object: Value,
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_accepted_and_refused_as_flaggers() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("variants").await?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/canary-variants.yaml");
    let variants: Vec<Variant> = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    ensure!(variants.len() > 50, "the table is there");
    let client = world.cp.client();
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    for Variant { name, expect, names, object } in variants {
        let types: TypeMeta = serde_json::from_value(object.clone())?;
        let kind = GroupVersionKind::try_from(&types)?;
        let (resource, _) = pinned_kind(&client, &kind).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &ns, &resource);
        // As raw JSON: what the variant leaves out or has of another type must reach the API server so.
        let request =
            kube::core::Request::new(api.resource_url()).create(&trial, object.to_string().into_bytes())?;
        match (client.request::<Value>(request).await, expect.as_str()) {
            (Ok(_), "accepted") => {}
            (Err(kube::Error::Api(status)), "refused") => {
                let named = names.with_context(|| format!("{name}: names nothing"))?;
                ensure!(status.message.contains(&named), "{name}: {}", status.message);
            }
            (outcome, _) => bail!("{name}: {expect} was expected, not {outcome:?}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_tells_of_its_release() -> Result<()> {
    let (world, _) = shared().await;
    let ns = initialized("tells", &json!({})).await?;
    let condition = |canary: &Value, kind: &str| -> Option<String> {
        let all = at(canary, "/status/conditions").as_array()?;
        let found = all.iter().find(|c| at(c, "/type") == kind)?;
        at(found, "/status").as_str().map(str::to_owned)
    };
    let says = |canary: &Value, ready: &str, reconciling: Option<&str>| {
        condition(canary, "Ready").as_deref() == Some(ready)
            && condition(canary, "Reconciling").as_deref() == reconciling
            && condition(canary, "Stalled").is_none()
            && at(canary, "/status/observedGeneration") == at(canary, "/metadata/generation")
    };
    let table = world.kubectl(&["-n", &ns, "get", "canary"]).await?;
    let columns = |table: &str| -> Vec<String> {
        table.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    ensure!(
        columns(&table) == ["NAME", "STATUS", "WEIGHT", "LASTTRANSITIONTIME", "READY", "MESSAGE"],
        "{table}"
    );
    ensure!(table.contains("Initialized"), "{table}");
    let wide = world.kubectl(&["-n", &ns, "get", "canary", "-o", "wide"]).await?;
    let expected = [
        "NAME",
        "STATUS",
        "WEIGHT",
        "SUSPENDED",
        "FAILEDCHECKS",
        "INTERVAL",
        "MIRROR",
        "STEPWEIGHT",
        "STEPWEIGHTS",
        "MAXWEIGHT",
        "LASTTRANSITIONTIME",
        "READY",
        "MESSAGE",
    ];
    ensure!(columns(&wide) == expected, "{wide}");
    world.until(&ns, "canary", "app", "Ready", |c| says(c, "True", None)).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let running =
        world.until(&ns, "canary", "app", "Reconciling", |c| says(c, "Unknown", Some("True"))).await?;
    ensure!(condition(&running, "Promoted").as_deref() == Some("Unknown"), "{running:#}");
    let done = world.phase(&ns, "Succeeded").await?;
    ensure!(condition(&done, "Promoted").as_deref() == Some("True"), "{done:#}");
    world.until(&ns, "canary", "app", "Ready again", |c| says(c, "True", None)).await?;
    world.kubectl(&["-n", &ns, "wait", "canary/app", "--for=condition=promoted", "--timeout=10s"]).await?;
    ensure!(image(&world.get(&ns, "deploy", "app-primary").await?) == "app:v2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_refused_by_name_and_nothing_is_touched() -> Result<()> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace("refused").await?;
    world.flux(deployment(&ns, "v1", 1)).await?;
    let ready = |d: &Value| at(d, "/status/readyReplicas") == 1 && at(d, "/status/observedGeneration") == 1;
    world.until(&ns, "deploy", "app", "v1 runs", ready).await?;
    let header = json!({"headers": {"x-canary": {"exact": "yes"}}});
    let increase = json!({"name": "more", "type": "confirm-traffic-increase", "url": "http://127.0.0.1:1/"});
    let cases = [
        (
            "match",
            "spec.analysis.match",
            json!({"analysis": {"match": [header], "iterations": 3, "stepWeight": null, "maxWeight": null}}),
        ),
        (
            "iterations",
            "spec.analysis.iterations",
            json!({"analysis": {"iterations": 3, "stepWeight": null, "maxWeight": null}}),
        ),
        ("mirror", "spec.analysis.mirror", json!({"analysis": {"mirror": true}})),
        (
            "affinity",
            "spec.analysis.sessionAffinity",
            json!({"analysis": {"sessionAffinity": {"cookieName": "c"}}}),
        ),
        ("daemon", "spec.targetRef.kind", json!({"targetRef": {"kind": "DaemonSet"}})),
        ("provider", "spec.provider", json!({"provider": "appmesh"})),
        ("gate", "spec.analysis.webhooks[0].type", json!({"analysis": {"webhooks": [increase]}})),
    ];
    for (name, _, spec) in &cases {
        let mut object = canary(&ns, spec);
        json_patch::merge(&mut object, &json!({"metadata": {"name": name}}));
        world.cp.apply(object).await?;
    }
    for (name, field, _) in &cases {
        let refused = world
            .until(&ns, "canary", name, "it is refused", |c| {
                at(c, "/status/conditions").to_string().contains("Stalled")
            })
            .await?;
        let conditions = at(&refused, "/status/conditions").as_array().cloned().unwrap_or_default();
        for (kind, status) in [("Stalled", "True"), ("Ready", "False")] {
            let said = conditions.iter().find(|c| at(c, "/type") == kind && at(c, "/status") == status);
            let message = said.map(|c| at(c, "/message").to_string()).unwrap_or_default();
            ensure!(message.contains(field), "{name}: {kind} says {message:?}");
        }
    }
    let target = world.get(&ns, "deploy", "app").await?;
    ensure!(
        at(&target, "/metadata/generation") == 1 && !target.to_string().contains("sidetrack.dev/"),
        "{target:#}"
    );
    for kind in ["deploy", "svc", "vs"] {
        let all = world.kubectl(&["-n", &ns, "get", kind, "-o", "name"]).await?;
        ensure!(!all.contains("-primary") && !all.contains("-canary"), "{all}");
    }
    Ok(())
}
