//! What the webhook costs: its handler by itself, and what it adds to an update through the API server.

use crate::api::{Api, deployment, new_template};
use crate::report::{Report, quantile};
use anyhow::{Context as _, Result, ensure};
use axum::body::{Body, to_bytes};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ground::SIDETRACK;
use harness::{World, at, eventually};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use sidetrack::admission::configuration::{Endpoint, NAME, PATH, webhook_configuration};
use sidetrack::admission::decide::Settings;
use sidetrack::admission::metrics::Metrics;
use sidetrack::admission::server::{AdmissionState, DEFAULT_LIMIT, router};
use sidetrack::api::keys;
use sidetrack::clock;
use sidetrack::kubernetes::serve::{Limits, Shutdown, serve_tls};
use sidetrack::tls::plan::{Policy, Step};
use sidetrack::tls::{issue, resolver};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Size of the review that the handler is given.
const REVIEW: usize = 16 << 10;
/// Label of a namespace: which webhook sees its writes.
const LABEL: &str = "figures/webhook";

/// Times the handler, from the bytes of a review to those of its answer.
pub(crate) async fn handler(report: &mut Report) -> Result<()> {
    if !report.wants("webhook") {
        return Ok(());
    }
    // The handler logs what it holds: that is part of its time.
    tracing_subscriber::fmt().json().with_writer(std::io::sink).init();
    let metrics = Metrics::register(&mut Registry::default());
    let app = router(AdmissionState::new(Settings::default(), metrics, DEFAULT_LIMIT));
    let review = review();
    let mut samples = Vec::new();
    for round in 0..report.either(5000, 500) {
        let request = http::Request::post(PATH).header("content-type", "application/json");
        let request = request.body(Body::from(review.clone()))?;
        let started = Instant::now();
        let response = app.clone().oneshot(request).await?;
        let bytes = to_bytes(response.into_body(), usize::MAX).await?;
        let taken = started.elapsed();
        if round == 0 {
            let answer: Value = serde_json::from_slice(&bytes)?;
            ensure!(at(&answer, "/response/auditAnnotations/decision") == "hold", "{answer}");
        }
        if round >= 100 {
            samples.push(taken.as_secs_f64() * 1e3);
        }
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let value = quantile(&mut samples, share);
        report.figure(&format!("webhook handler, 16 KiB review, {name}"), value, "ms", "goal 1");
    }
    Ok(())
}

/// An update of an enrolled Deployment's template, padded to [`REVIEW`] bytes.
fn review() -> Vec<u8> {
    let object = |image: &str, padding: usize| {
        let mut object = harness::deployment("test", image, 2);
        let env: Vec<Value> = (0..20)
            .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(padding / 20)}))
            .collect();
        json_patch::merge(
            &mut object,
            &json!({"metadata": {
                "uid": "u", "generation": 7, "labels": labels(),
                "managedFields": [{"manager": "flux", "operation": "Apply", "apiVersion": "apps/v1",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {}}}}],
            }}),
        );
        if let Some(container) = object.pointer_mut("/spec/template/spec/containers/0") {
            json_patch::merge(container, &json!({"env": env}));
        }
        object
    };
    let whole = |padding: usize| {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u-1", "operation": "UPDATE", "dryRun": false, "namespace": "test", "name": "app",
            "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "userInfo": {"username": "flux", "groups": ["system:masters"]},
            "options": {"kind": "PatchOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "flux"},
            "object": object("v2", padding), "oldObject": object("v1", padding),
        }})
        .to_string()
        .into_bytes()
    };
    let bare = whole(0).len();
    whole(REVIEW.saturating_sub(bare) / 2)
}

pub(crate) fn labels() -> Value {
    json!({keys::CANARY: "app", keys::LAYOUT: keys::LAYOUT_PRIMARY_COPY, keys::ROLE: keys::ROLE_TARGET})
}

/// Times the same update with our webhook, with one that allows everything, and with none, in turn. The second lock is
/// off meanwhile: it refuses what the other two let in.
pub(crate) async fn added(world: &World, report: &mut Report) -> Result<()> {
    if !report.wants("webhook") {
        return Ok(());
    }
    let stop = CancellationToken::new();
    let (authority, bundle) = allow_everything(&stop).await?;
    world.kubectl(&["delete", "validatingadmissionpolicybindings", "--all"]).await?;
    let mut other = webhook_configuration(SIDETRACK, &Endpoint::Url { authority }, Some(&bundle));
    let selected = json!({"matchLabels": {LABEL: "other"}});
    for webhook in other.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        json_patch::merge(webhook, &json!({"namespaceSelector": selected}));
    }
    json_patch::merge(&mut other, &json!({"metadata": {"name": "other"}}));
    world.cp.apply(other).await?;
    let ours = json!({"matchExpressions": [{"key": LABEL, "operator": "DoesNotExist"}]});
    let patch: Vec<Value> = (0..2)
        .map(|n| json!({"op": "replace", "path": format!("/webhooks/{n}/namespaceSelector"), "value": ours}))
        .collect();
    let patch = Value::from(patch).to_string();
    world.kubectl(&["patch", "mutatingwebhookconfiguration", NAME, "--type=json", "-p", &patch]).await?;

    let mut sides = Vec::new();
    for side in ["ours", "other", "none"] {
        let api = Api::new(world, side).await?;
        if side != "ours" {
            let label = format!("{LABEL}={side}");
            world.kubectl(&["label", "namespace", &api.namespace, &label]).await?;
        }
        let mut target = deployment(&api, "app");
        json_patch::merge(
            &mut target,
            &json!({"metadata": {"labels": labels()}, "spec": {"paused": true, "replicas": 0}}),
        );
        api.by(world.cp.client_as(SIDETRACK)).create("deployments", &target).await?;
        sides.push((api.by(world.cp.client_as("flux")), Vec::new()));
    }
    // What was configured above is in force when only our side's template is held.
    let mut version = 2;
    eventually("the webhooks are in force", async || {
        version += 1;
        let mut holds = Vec::new();
        for (api, _) in &sides {
            match api.merge("deployments", "app", &new_template(version)).await {
                Ok(object) => holds.push(held(&object)),
                Err(_) => return Ok(None),
            }
        }
        Ok((holds == [true, false, false]).then_some(()))
    })
    .await?;
    for round in 0..report.either(400, 40) {
        version += 1;
        for turn in 0..3 {
            let (api, samples) = sides.get_mut((round + turn) % 3).context("no such side")?;
            let started = Instant::now();
            api.merge("deployments", "app", &new_template(version)).await?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    stop.cancel();
    world.kubectl(&["delete", "mutatingwebhookconfiguration", "other"]).await?;
    world.install().await?;
    let [ours, other, none] =
        [0, 1, 2].map(|n| sides.get_mut(n).map_or(f64::NAN, |(_, samples)| quantile(samples, 0.5)));
    report.figure("update with our webhook, median", ours, "ms", "");
    report.figure("update with a webhook that allows all, median", other, "ms", "");
    report.figure("update without a webhook, median", none, "ms", "");
    report.figure("update with our webhook / with one that allows all", ours / other, "", "goal 1.2");
    Ok(())
}

fn held(object: &Value) -> bool {
    object.pointer("/metadata/annotations").is_some_and(|a| a.get(keys::HOLD).is_some())
}

/// Serves a webhook that allows everything, by the same code as ours, and returns its address and whom to trust.
async fn allow_everything(stop: &CancellationToken) -> Result<(String, String)> {
    let names = issue::names("other", "default", &["127.0.0.1".to_owned()]);
    let made = issue::take(Step::Create, None, &names, &Policy::default(), clock::now())?;
    let resolver = Arc::new(resolver::Resolver::default());
    resolver.set(&resolver::Pair::from_pem(&made.leaf, &made.leaf_key)?);
    let tls = Arc::new(resolver::server_config(resolver)?);
    let allow = |Json(review): Json<Value>| async move {
        Json(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": review.pointer("/request/uid"), "allowed": true},
        }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = listener.local_addr()?.to_string();
    let app = Router::new().route(PATH, post(allow));
    let shutdown = Shutdown { drain: stop.clone(), stop: stop.clone(), deadline: Duration::from_secs(1) };
    tokio::spawn(serve_tls(listener, tls, app, Limits::default(), shutdown));
    Ok((authority, BASE64_STANDARD.encode(made.bundle)))
}
