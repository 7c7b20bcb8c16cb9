//! Metric checks against a server that says what it is told to.

use anyhow::{Result, ensure};
use harness::outside::{Outside, no_sample, sample};
use harness::{at, deployment, initialized, shared, weight};
use serde_json::{Value, json};

fn success_rate(outside: &Outside) -> Value {
    json!({
        "metricsServer": outside.url("/prometheus"),
        "analysis": {"metrics": [
            {"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn low_success_rate_rejects_in_flaggers_words() -> Result<()> {
    let (world, sidetrack) = shared().await;
    let outside = Outside::start().await?;
    outside.says("istio_requests_total", 200, &sample("98.456"));
    let ns = initialized("success", &success_rate(&outside)).await?;
    world.event(&ns, "all the metrics providers are available!").await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let failed = world.phase(&ns, "Failed").await?;
    let said = format!("Halt app.{ns} advancement success rate 98.46% < 99%");
    for text in [&said, &format!("Rolling back app.{ns} failed checks threshold reached 2")] {
        world.event(&ns, text).await?;
        ensure!(sidetrack.logged()?.contains(text));
    }
    ensure!(at(&failed, "/status/canaryWeight") == 0);
    let last = at(&failed, "/status/checks/0");
    ensure!(at(last, "/value") == "98.46%" && at(last, "/passed") == false, "{last:#}");
    let tree = world.plugin(&ns, &["tree", "app"]).await?.out;
    ensure!(tree.contains("request-success-rate  98.46%  at least 99  "), "{tree}");
    let asked = outside.heard("istio_requests_total");
    ensure!(asked.len() == 2 && asked[0].address.starts_with("/prometheus/api/v1/query "), "{asked:?}");
    ensure!(asked[0].address.contains(&format!("destination_workload_namespace=\"{ns}\"")), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metric_without_a_usable_answer_halts_the_analysis() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("istio_requests_total", 200, &no_sample());
    let mut spec = success_rate(&outside);
    spec["analysis"]["threshold"] = json!(100);
    let ns = initialized("nodata", &spec).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    let quiet = format!("probably app.{ns} is not receiving traffic");
    let halted = world.event(&ns, &quiet).await?;
    ensure!(
        halted.starts_with("Halt advancement no values found for istio metric request-success-rate"),
        "{halted}"
    );
    outside.says("istio_requests_total", 500, "no space left");
    world.event(&ns, "Prometheus query failed: running query failed: ").await?;
    outside.says("istio_requests_total", 200, "no JSON");
    let before = world.get(&ns, "canary", "app").await?;
    let failures = at(&before, "/status/failedChecks").as_i64().unwrap_or(0);
    let now = world
        .until(&ns, "canary", "app", "two more failed checks", |c| {
            at(c, "/status/failedChecks").as_i64() >= Some(failures + 2)
        })
        .await?;
    ensure!(at(&now, "/status/phase") == "Progressing" && at(&now, "/status/canaryWeight") == 25);
    outside.is_silent("istio_requests_total");
    world.event(&ns, "context deadline exceeded").await?;
    outside.says("istio_requests_total", 200, &sample("NaN"));
    let asked = outside.heard("istio_requests_total").len();
    harness::eventually("NaN has been asked for", async || {
        Ok((outside.heard("istio_requests_total").len() > asked + 1).then_some(()))
    })
    .await?;
    ensure!(weight(&world.get(&ns, "vs", "app").await?) == Some(25), "NaN is no success rate");
    outside.says("istio_requests_total", 200, &sample("100"));
    let passes = |c: &Value| at(c, "/status/checks/0/value") == "100.00%";
    world.until(&ns, "canary", "app", "the value is in status", passes).await?;
    let tree = world.plugin(&ns, &["tree", "app"]).await?.out;
    ensure!(tree.contains("request-success-rate  100.00%  at least 99  "), "{tree}");
    world.phase(&ns, "Succeeded").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_query_is_rendered_and_judged() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("errors{", 200, &sample("5.5"));
    let ns = initialized(
        "inline",
        &json!({
            "metricsServer": outside.url(""),
            "analysis": {"threshold": 1, "metrics": [{"name": "errors", "interval": "30s",
                "thresholdRange": {"max": 5},
                "query": "errors{namespace=\"{{ namespace }}\",target=\"{{ target }}\"}[{{ interval }}]"}]},
        }),
    )
    .await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Failed").await?;
    world.event(&ns, &format!("Halt app.{ns} advancement errors 5.50 > 5")).await?;
    ensure!(
        outside.heard("errors{")[0]
            .address
            .contains(&format!("errors{{namespace=\"{ns}\",target=\"app\"}}[30s]"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn template_with_a_secret_needs_the_right_to_read_it() -> Result<()> {
    let (world, _) = shared().await;
    let outside = Outside::start().await?;
    outside.says("latency{", 200, &sample("0.2"));
    let ns = initialized(
        "template",
        &json!({"analysis": {"threshold": 100, "metrics": [{"name": "latency", "interval": "1m",
            "thresholdRange": {"max": 0.5}, "templateRef": {"name": "latency"},
            "templateVariables": {"quantile": "0.99"}}]}}),
    )
    .await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.event(&ns, &format!("Metric template latency.{ns} error: ")).await?;
    let metadata = |name: &str| json!({"name": name, "namespace": ns});
    world
        .cp
        .apply(json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": metadata("latency"),
            "spec": {"query": "latency{app=\"{{ target }}\",q=\"{{ variables.quantile }}\"}", "provider": {
                "type": "prometheus", "address": outside.url("/private"), "secretRef": {"name": "token"}}},
        }))
        .await?;
    world
        .cp
        .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("token"),
        "stringData": {"token": "s3cret"}}))
        .await?;
    let refused = world.event(&ns, &format!("Metric template latency.{ns} secret token error: ")).await?;
    ensure!(refused.contains("forbidden"), "{refused}");
    let role = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/secrets-role.yaml");
    world.kubectl(&["-n", &ns, "apply", "-f", role]).await?;
    world.phase(&ns, "Succeeded").await?;
    let asked = outside.heard("latency{");
    ensure!(asked[0].authorization.as_deref() == Some("Bearer s3cret"));
    ensure!(asked[0].address == "/private/api/v1/query query=latency{app=\"app\",q=\"0.99\"}", "{asked:?}");
    Ok(())
}

/// The series of one namespace that begin with `flagger_`, without their values; a histogram by its count.
async fn scrape(port: u16, ns: &str) -> Result<Vec<String>> {
    let text = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await?.text().await?;
    let namespace = format!("namespace=\"{ns}\"");
    let ours =
        |l: &&str| l.starts_with("flagger_") && (l.contains(&namespace) || l.starts_with("flagger_info"));
    Ok(text
        .lines()
        .filter(ours)
        .filter(|l| !l.contains("_bucket{") && !l.contains("_sum{"))
        .map(str::to_owned)
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_process_exports_what_flagger_does() -> Result<()> {
    let (world, sidetrack) = shared().await;
    let outside = Outside::start().await?;
    outside.says("istio_requests_total", 200, &sample("99.5"));
    let ns = initialized("scrape", &success_rate(&outside)).await?;
    world.flux(deployment(&ns, "v2", 2)).await?;
    world.phase(&ns, "Succeeded").await?;
    outside.says("istio_requests_total", 200, &sample("1"));
    world.flux(deployment(&ns, "v3", 2)).await?;
    world.phase(&ns, "Failed").await?;
    let of = format!("name=\"app\",namespace=\"{ns}\"");
    let outcome = format!("analysis_status=\"completed\",deployment_strategy=\"canary\",{of}");
    let expected = [
        // As many as Flagger has of these two releases: a start and a check of each weight; what is rejected at 25 fails twice.
        format!("flagger_canary_duration_seconds_count{{{of}}} 6"),
        format!("flagger_canary_failures_total{{{outcome}}} 1"),
        format!("flagger_canary_metric_analysis{{metric=\"request-success-rate\",{of}}} 1"),
        format!("flagger_canary_status{{{of}}} 2"),
        format!("flagger_canary_successes_total{{{outcome}}} 1"),
        format!("flagger_canary_total{{namespace=\"{ns}\"}} 1"),
        format!("flagger_canary_weight{{namespace=\"{ns}\",workload=\"app\"}} 0"),
        format!("flagger_canary_weight{{namespace=\"{ns}\",workload=\"app-primary\"}} 100"),
        format!("flagger_info{{mesh_provider=\"istio\",version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ];
    // Weight and state are those of the last look.
    let found = harness::eventually("the scrape is complete", async || {
        let mut found = scrape(sidetrack.port, &ns).await?;
        found.sort();
        Ok((found.len() >= expected.len() && found.iter().any(|l| *l == expected[3])).then_some(found))
    })
    .await?;
    ensure!(found == expected, "{found:#?}");
    world.delete(&ns, "canary", "app").await?;
    world.gone(&ns, "canary", "app").await?;
    harness::eventually("no series is left of a Canary that is gone", async || {
        Ok((scrape(sidetrack.port, &ns).await?.len() == 1).then_some(()))
    })
    .await
}
