//! What one release costs: requests, writes and time.

use crate::api::{Api, canary, deployment, new_template};
use crate::report::Report;
use anyhow::Result;
use ground::SIDETRACK;
use harness::{PATIENCE, World};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Makes the Canary that is released: five steps at Flagger's usual pace, a ConfigMap and a Secret in its template.
pub(crate) async fn prepare(api: &Api) -> Result<()> {
    for kind in ["configmaps", "secrets"] {
        api.create(kind, &json!({"metadata": {"name": "settings"}})).await?;
    }
    let mut target = deployment(api, "app");
    let env = json!([{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "settings"}}]);
    if let Some(container) = target.pointer_mut("/spec/template/spec/containers/0") {
        json_patch::merge(container, &json!({"envFrom": env}));
    }
    api.create("deployments", &target).await?;
    let analysis = json!({"interval": "10s", "stepWeight": 10, "maxWeight": 50});
    api.create("canaries", &canary(api, "app", &analysis)).await?;
    api.phase("app", &["Initialized"], PATIENCE).await?;
    Ok(())
}

/// Releases, and counts until 2 s after the end.
pub(crate) async fn measure(world: &World, api: &Api, report: &mut Report) -> Result<()> {
    if !report.wants("release") {
        return Ok(());
    }
    let audit = world.cp.audit();
    let mark = audit.mark().await?;
    api.merge("deployments", "app", &new_template(2)).await?;
    let written = Instant::now();
    api.phase("app", &["Progressing"], PATIENCE).await?;
    let done = api.phase("app", &["Succeeded"], 3 * PATIENCE).await?;
    // What follows the last word counts too, as in Flagger's figures.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut seen = audit.requests_since(mark, SIDETRACK).await?;
    seen.retain(|r| r.resource != "leases" && r.verb != "watch");
    let writes = seen.iter().filter(|r| r.is_write()).count();
    let beside = "goal 40; Flagger 194 (30 writes)";
    report.figure("requests of a 5-step release", seen.len() as f64, "", beside);
    report.figure("writes among them, Events included", writes as f64, "", "");
    let seconds = (done - written).as_secs_f64();
    report.figure("duration of a 5-step release", seconds, "s", "goal 60; Flagger 85");
    let mut kinds = BTreeMap::<String, usize>::new();
    for r in &seen {
        let refused = if r.code >= 400 { format!(" ({})", r.code) } else { String::new() };
        let sub = if r.subresource.is_empty() { String::new() } else { format!("/{}", r.subresource) };
        let primary = if r.name.ends_with("-primary") { " of the primary" } else { "" };
        *kinds.entry(format!("{} {}{sub}{primary}{refused}", r.verb, r.resource)).or_default() += 1;
    }
    for (kind, count) in kinds {
        Report::detail(&format!("{count:>3} {kind}"));
    }
    Ok(())
}
