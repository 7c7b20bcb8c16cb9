//! Replays recorded runs: every query of Flagger's is one of ours, and every failed check has our words.

use super::judge::{MetricSpec, Source, Subject, Verdict, checks};
use super::observer::{metrics_provider, observer};
use super::prometheus::{ONLINE_QUERY, Prometheus, sample};
use super::render::Model;
use crate::outbound::{Exchange, HttpResponse};
use recordings::Run;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn metrics(trace: &Run) -> Vec<MetricSpec> {
    let canary = trace.canary().unwrap();
    serde_json::from_value(canary["spec"]["analysis"]["metrics"].clone()).unwrap_or_default()
}

fn provider(trace: &Run) -> String {
    let spec = &trace.canary().unwrap()["spec"];
    metrics_provider(
        trace.mesh_provider(),
        spec["provider"].as_str(),
        spec["targetRef"]["kind"] == "Service" && spec["targetRef"]["apiVersion"] == "v1",
    )
}

/// Knative's route is the revision that the cluster made last, which only the recording knows.
fn model(trace: &Run) -> Model {
    let canary = trace.canary().unwrap();
    let text = |pointer: &str| canary.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let target = text("/spec/targetRef/name").unwrap();
    Model {
        name: text("/metadata/name").unwrap(),
        namespace: trace.name().to_owned(),
        service: text("/spec/service/name").unwrap_or_else(|| target.clone()),
        ingress: text("/spec/ingressRef/name").unwrap_or_else(|| target.clone()),
        route: if trace.name() == "knative-weighted" {
            "podinfo-00004".to_owned()
        } else {
            text("/spec/routeRef/name").unwrap_or_else(|| target.clone())
        },
        target,
        ..Model::default()
    }
}

fn template(trace: &Run) -> Option<&Value> {
    trace.applied("MetricTemplate").into_iter().next()
}

fn server() -> Prometheus {
    Prometheus::new("http://prometheus:9090", &BTreeMap::new(), None, false).unwrap()
}

/// Returns the query as it arrives at the server.
fn arrives(query: &str) -> String {
    let request = server().request(query);
    let url = url::Url::parse(&request.url).unwrap();
    url.query_pairs().find(|(key, _)| key == "query").unwrap().1.into_owned()
}

/// Returns the query of each check, by check.
fn queries(trace: &Run) -> Vec<(Source, String)> {
    let text = template(trace).map(|t| t["spec"]["query"].as_str().unwrap());
    let observer = observer(&provider(trace));
    checks(&metrics(trace))
        .iter()
        .filter_map(|c| Some((c.source, arrives(&c.query(&observer, &model(trace), text).unwrap()?))))
        .collect()
}

fn with_one_canary() -> impl Iterator<Item = &'static Run> {
    recordings::all().iter().filter(|t| t.canary().is_some())
}

#[test]
fn every_query_is_reproduced() {
    let (mut compared, mut distinct) = (0, BTreeSet::new());
    for trace in with_one_canary() {
        let mut ours: BTreeSet<String> = queries(trace).into_iter().map(|(_, q)| q).collect();
        ours.insert(ONLINE_QUERY.to_owned());
        for query in trace.list("metric_queries") {
            let theirs = query["query"].as_str().unwrap();
            assert!(ours.contains(theirs), "{}\ntheirs: {theirs}\nours: {ours:#?}", trace.name());
            compared += 1;
            distinct.insert(theirs.replace(trace.name(), "NS"));
        }
    }
    assert!(compared > 1500 && distinct.len() >= 25, "{compared} queries, {} kinds", distinct.len());
}

#[test]
fn queries_are_asked_in_flaggers_order() {
    // Its interval is changed while a step is taken: two steps of Flagger's overlap.
    for trace in with_one_canary().filter(|t| t.name() != "istio-canary-spec-change-midrun") {
        let ours: Vec<String> = queries(trace).into_iter().map(|(_, q)| q).collect();
        let mut at = 0;
        for query in trace.list("metric_queries") {
            let theirs = query["query"].as_str().unwrap();
            if theirs == ONLINE_QUERY {
                continue;
            }
            // A round begins anew after a failed check.
            if at >= ours.len() || ours[at] != theirs {
                at = 0;
            }
            assert_eq!(ours[at], theirs, "{}", trace.name());
            at += 1;
        }
    }
}

fn answer(recorded: &Value) -> Exchange {
    let one = |v: &Value| json!({"metric": {}, "value": [1.5, v]});
    let series = match recorded {
        Value::Null => vec![],
        Value::Array(several) => several.iter().map(one).collect(),
        single => vec![one(single)],
    };
    let body = json!({"status": "success", "data": {"resultType": "vector", "result": series}});
    Ok(HttpResponse { status: 200, body: body.to_string().into_bytes() })
}

/// Each answer is judged: where we fail a check, Flagger said the same; and Flagger said nothing else of
/// metrics.
#[test]
fn verdicts_have_flaggers_words() {
    let mut failures = 0;
    for trace in with_one_canary() {
        let metrics = metrics(trace);
        let checks = checks(&metrics);
        let asked = queries(trace);
        let provider = provider(trace);
        let model = model(trace);
        let subject = Subject {
            canary: &model.name,
            namespace: trace.name(),
            target: &model.target,
            provider: &provider,
        };
        let mut ours = Vec::new();
        for query in trace.list("metric_queries") {
            let Some(at) = asked.iter().position(|(_, q)| q == query["query"].as_str().unwrap()) else {
                continue;
            };
            let sample = sample(&answer(&query["answer"]));
            if let Verdict::Failed(failure) = checks[at].verdict(&subject, &observer(&provider), &sample) {
                ours.push((if failure.error { "error" } else { "info" }, failure.message));
            }
        }
        let theirs: Vec<(&str, String)> = trace
            .list("log")
            .iter()
            .map(|l| (l["level"].as_str().unwrap(), l["msg"].as_str().unwrap_or_default().to_owned()))
            .filter(|(_, m)| {
                let metric = |name: &str| m.contains(&format!("advancement {name} ")) && !m.contains("check");
                m.contains("no values found")
                    || m.starts_with("Prometheus query failed")
                    || m.contains("advancement success rate")
                    || m.contains("advancement request duration")
                    || metrics.iter().any(|spec| metric(&spec.name))
            })
            .collect();
        assert_eq!(ours, theirs, "{}", trace.name());
        failures += ours.len();
    }
    assert!(failures > 20, "only {failures} failed checks");
}

#[test]
fn secret_and_headers_of_a_template_are_sent() {
    let mut compared = 0;
    for trace in with_one_canary().filter(|t| t.applied("Secret").len() == 1) {
        let Some(template) = template(trace) else { continue };
        let provider = &template["spec"]["provider"];
        let headers: BTreeMap<String, Vec<String>> =
            serde_json::from_value(provider["headers"].clone()).unwrap_or_default();
        let strings: BTreeMap<String, String> =
            serde_json::from_value(trace.applied("Secret")[0]["stringData"].clone()).unwrap();
        let secret = strings.into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
        let request = Prometheus::new(provider["address"].as_str().unwrap(), &headers, Some(&secret), false)
            .unwrap()
            .request("x");
        let path = url::Url::parse(&request.url).unwrap().path().to_owned();
        let sent: BTreeMap<_, _> =
            request.headers.iter().map(|(k, v)| (k.as_str(), v.split(' ').next().unwrap())).collect();
        for query in trace.list("metric_queries") {
            // At its start Flagger asks its own server.
            if query["headers"].is_null() {
                assert_eq!(query["query"], ONLINE_QUERY);
                continue;
            }
            let theirs: BTreeMap<&str, &str> = query["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str().unwrap().split(' ').next().unwrap()))
                .collect();
            assert_eq!(sent, theirs);
            assert_eq!(path, format!("/{}{}", trace.name(), query["path"].as_str().unwrap()));
            compared += 1;
        }
    }
    assert!(compared >= 8, "only {compared} requests");
}
